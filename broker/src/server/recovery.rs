//! Recovers the partitions of a broker that serves already.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio_util::sync::CancellationToken;

use super::{
    broker::Broker,
    spawn::{Threads, blocking, spawn},
};
use crate::{http::Readiness, partition::Opener};

/// The recovery after a start. Dropped, it begins no opening any more.
#[derive(Debug)]
pub(super) struct Recovery {
    broker: Arc<Broker>,
    opener: Arc<Opener>,
    progress: Progress,
    recovered: CancellationToken,
}

/// How far it has come.
#[derive(Clone, Debug)]
struct Progress {
    readiness: Readiness,
    done: Arc<AtomicUsize>,
    of: usize,
}

impl Progress {
    /// So many more partitions are open, or could not be opened.
    fn add(&self, partitions: usize) {
        let before = self.done.fetch_add(partitions, Ordering::Relaxed);
        self.readiness.recovering(before + partitions, self.of);
    }
}

impl Recovery {
    /// Of what lies in the queue of `opener`.
    pub(super) fn new(broker: Arc<Broker>, opener: Arc<Opener>, readiness: Readiness) -> Self {
        let of = opener.waiting();
        let recovery = Self {
            broker,
            opener,
            progress: Progress {
                readiness,
                done: Arc::default(),
                of,
            },
            recovered: CancellationToken::new(),
        };
        if of == 0 {
            recovery.opened();
        } else {
            recovery.progress.add(0);
        }
        recovery
    }

    /// Cancelled once every partition is open, or has failed to be.
    pub(super) fn recovered(&self) -> CancellationToken {
        self.recovered.clone()
    }

    /// Opens every partition in the queue, several at once where there are threads.
    pub(super) async fn run(self) {
        if !self.recovered.is_cancelled() {
            self.open().await;
        }
        if self.recovered.is_cancelled() {
            self.begin().await;
        }
    }

    async fn open(&self) {
        match self.broker.threads {
            Threads::None => {
                while self.opener.open_one() {
                    self.progress.add(1);
                    tokio::task::yield_now().await;
                }
            }
            Threads::Allowed => {
                let threads = self.opener.threads_for(self.progress.of);
                let mut working = Vec::new();
                for _ in 0..threads {
                    let (opener, progress) = (Arc::clone(&self.opener), self.progress.clone());
                    let work = move || {
                        while opener.open_one() {
                            progress.add(1);
                        }
                    };
                    working.push(spawn(async move {
                        blocking(Threads::Allowed, work).await;
                    }));
                }
                for each in working {
                    let _ = each.await;
                }
            }
        }
        if !self.broker.stopping.is_cancelled() {
            self.opened();
        }
    }

    /// Every log is open: the controller may let this broker in.
    fn opened(&self) {
        self.broker.metadata.recovered();
        self.recovered.cancel();
    }

    /// Waits until it has done so.
    async fn begin(&self) {
        let (broker, readiness) = (self.broker.identity.broker, &self.progress.readiness);
        self.broker.metadata.taking_part(broker, readiness).await;
        readiness.ready();
        let counts = self.broker.partitions.counts();
        tracing::info!(
            partitions = counts.open,
            offline = counts.offline,
            ready_ms = u64::try_from(self.broker.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "ready"
        );
    }
}

impl Drop for Recovery {
    fn drop(&mut self) {
        if !self.recovered.is_cancelled() {
            self.opener.end();
        }
    }
}
