//! The partitions of a broker follow the metadata.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;
use strandline_core::metadata::Image;
use strandline_storage::directory::Found;
use tokio_util::sync::CancellationToken;

use super::{
    broker::Broker,
    spawn::{Threads, blocking, spawn},
};
use crate::partition::{Directory, Reconciler};

/// Sets aside what nobody knows, and lines up every partition to be opened.
pub(super) async fn first_follow(
    broker: &Arc<Broker>,
    mut reconciler: Reconciler,
    found: Vec<(Arc<Directory>, Found)>,
) -> anyhow::Result<Reconciler> {
    let image = broker.metadata.image();
    let version = image.version();
    let work = move || {
        let mut retired = Vec::new();
        for (directory, found) in found {
            reconciler.set_strays_aside(&image, &directory, &found.partitions);
            let doomed = found.doomed.into_iter();
            retired.extend(doomed.map(|path| (Arc::clone(&directory), path)));
        }
        let mut followed = reconciler.follow(&image);
        reconciler.opener.apply(followed.changes);
        reconciler.opener.enqueue(followed.wanted);
        retired.append(&mut followed.retired);
        (reconciler, retired)
    };
    let (reconciler, retired) = blocking(broker.threads, work)
        .await
        .context("the runtime stops")?;
    purge(broker.threads, retired);
    broker.followed.send_replace(version);
    Ok(reconciler)
}

/// Keeps the partitions in step with the metadata until the broker halts.
pub(super) async fn follow(
    broker: Arc<Broker>,
    mut reconciler: Reconciler,
    halt: CancellationToken,
) {
    let mut images = broker.metadata.watch();
    images.mark_changed();
    loop {
        let image: Arc<Image> = tokio::select! {
            biased;
            () = halt.cancelled() => return,
            changed = images.changed() => match changed {
                Ok(()) => Arc::clone(&images.borrow_and_update()),
                Err(_) => return,
            },
        };
        let version = image.version();
        let work = move || {
            let followed = reconciler.follow(&image);
            reconciler.opener.apply(followed.changes);
            reconciler.opener.create(followed.wanted);
            (reconciler, followed.retired)
        };
        let Some((back, retired)) = blocking(broker.threads, work).await else {
            return;
        };
        reconciler = back;
        purge(broker.threads, retired);
        broker.followed.send_replace(version);
        broker.watchers.notify();
    }
}

/// Removes the files of deleted partitions in the background.
fn purge(threads: Threads, retired: Vec<(Arc<Directory>, PathBuf)>) {
    if retired.is_empty() {
        return;
    }
    spawn(async move {
        let work = move || {
            for (directory, path) in retired {
                if let Err(error) = directory.data().purge(&path) {
                    let path = path.display();
                    tracing::warn!(%path, "cannot remove a deleted partition: {error}");
                }
            }
        };
        blocking(threads, work).await;
    });
}
