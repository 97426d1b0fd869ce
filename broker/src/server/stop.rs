//! Stopping in order, and what tells a broker to stop.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use strandline_client::net::Clock;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use super::{Server, spawn::blocking};
use crate::{partition::Partition, settings::Settings};

/// How many threads the broker may use for work that waits for a disk.
const BLOCKING_THREADS_MAX: usize = 64;

/// How long another voter may take to become the controller.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);

/// How long the controller may take to let this broker go.
const LEAVE_PATIENCE: Duration = Duration::from_millis(1_500);

/// How long writes may still wait for other replicas: what comes later is known to whoever leads
/// next.
const REPLICAS_PATIENCE: Duration = Duration::from_secs(2);

/// See [`super::run`].
pub(super) fn run(settings: Settings) -> anyhow::Result<()> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .enable_all()
        .thread_name("strandline")
        .max_blocking_threads(BLOCKING_THREADS_MAX);
    if let Some(threads) = settings.worker_threads {
        builder.worker_threads(threads);
    }
    let runtime = builder
        .build()
        .context("cannot start the runtime's threads")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        let server = tokio::select! {
            started = Server::start(settings) => started?,
            // Nothing was served yet, and what is on disk is as after a kill.
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: shutting down"),
            _ = interrupt.recv() => tracing::info!("SIGINT: shutting down"),
        }
        tokio::select! {
            stopped = server.shutdown() => stopped,
            _ = terminate.recv() => Err(anyhow::anyhow!("stopped at once by a second signal")),
            _ = interrupt.recv() => Err(anyhow::anyhow!("stopped at once by a second signal")),
        }
    })
}

/// See [`Server::shutdown`].
pub(super) async fn stop(server: Server) -> anyhow::Result<()> {
    let broker = Arc::clone(&server.broker);
    server.readiness.not_ready("the broker is shutting down");
    // While clients are still served: others lead, in the quorum and of the partitions.
    broker.metadata.hand_over(HAND_OVER_PATIENCE).await;
    broker.metadata.leave(LEAVE_PATIENCE).await;
    broker.stopping.cancel();
    // Flushers still run, so that acknowledgements that are due are given.
    let ended = server.native.ended();
    tokio::pin!(ended);
    if timeout(REPLICAS_PATIENCE, &mut ended).await.is_err() {
        for partition in broker.partitions.all() {
            partition.await_replicas_no_more();
        }
        ended.await;
    }
    server.halt.cancel();
    server.opener.end();
    server.background.ended().await;
    server.flushers.stop().await;
    close_partitions(&broker).await;
    let first = broker.directories.first().cloned();
    let metadata = broker.metadata.close().await;
    let mut failed = None;
    match (metadata, first) {
        (Ok(recovery_point), Some(first)) => first.remember_metadata(recovery_point),
        (Err(error), _) => failed = Some(error),
        (Ok(_), None) => {}
    }
    for directory in &broker.directories {
        let (closing, epoch) = (Arc::clone(directory), server.epoch);
        // The metadata log lies in the first one: no mark if that was not closed.
        let is_first = broker.directories.first().map(|first| first.id()) == Some(directory.id());
        if is_first && failed.is_some() {
            continue;
        }
        let closed = blocking(broker.threads, move || closing.close_clean(epoch)).await;
        if let Some(Err(error)) = closed {
            failed = Some(error);
        }
    }
    if let Some(http) = server.http {
        http.stop().await;
    }
    match failed {
        None => {
            tracing::info!("stopped: everything is on disk");
            Ok(())
        }
        Some(error) => Err(anyhow::Error::new(error).context(
            "a data directory was not closed cleanly; the next start recovers what was \
             acknowledged",
        )),
    }
}

/// Flushes and closes every log, several at once.
async fn close_partitions(broker: &Arc<super::Broker>) {
    const AT_ONCE: usize = 4;
    let partitions = broker.partitions.all();
    let share = partitions.len().div_ceil(AT_ONCE).max(1);
    let mut closing = Vec::new();
    for part in partitions.chunks(share) {
        let part: Vec<Arc<Partition>> = part.to_vec();
        let work = move || {
            for partition in part {
                partition.close(Clock.now());
            }
        };
        let threads = broker.threads;
        closing.push(super::spawn::spawn(async move {
            blocking(threads, work).await;
        }));
    }
    for each in closing {
        let _ = each.await;
    }
}
