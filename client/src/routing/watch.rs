//! Keeps the image fresh: a task that holds a watch on the topics that are in use.
//!
//! *Pattern: state watch.* After the watch is set, metadata is asked for once, so that nothing that
//! changed in between is missed; from then on changes are pushed.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use strandline_protocol::messages::{MetadataPush, WatchMetadataRequest};
use tokio::sync::Notify;

use super::{Cluster, backoff::Backoff, silent};
use crate::{ClientError, connection::Pushes};

/// How long a broker may take to begin a watch and to tell what holds: many pages of metadata if
/// need be, but not for ever.
const SUBSCRIBING_MAX: Duration = Duration::from_secs(3);

/// Runs until the cluster is dropped.
pub(super) async fn run(cluster: Weak<Cluster>, watch_anew: Arc<Notify>) {
    let Some(mut backoff) = cluster.upgrade().map(|it| Backoff::new(&it.options)) else {
        return;
    };
    loop {
        // The cluster must not be kept alive by this task while it waits.
        let Some(started) = start(&cluster).await else {
            return;
        };
        match started {
            Ok(pushes) => {
                backoff.reset();
                follow(&cluster, pushes, &watch_anew).await;
            }
            Err(error) => {
                tracing::debug!(%error, "cannot watch metadata");
                tokio::time::sleep(backoff.next_pause()).await;
            }
        }
    }
}

async fn start(cluster: &Weak<Cluster>) -> Option<Result<Pushes, ClientError>> {
    let cluster = cluster.upgrade()?;
    Some(subscribe(&cluster).await)
}

async fn subscribe(cluster: &Cluster) -> Result<Pushes, ClientError> {
    let topics: Vec<String> = cluster.watched();
    let connection = cluster.control().await?;
    let request = WatchMetadataRequest {
        topics: topics.clone(),
    };
    let subscribed = async {
        let (_, pushes) = connection.subscribe(&request).await?;
        // The same broker is asked: another one may be behind it, and what lies between the two
        // would be told by neither.
        cluster.refresh_from(&connection, &topics).await?;
        Ok(pushes)
    };
    match tokio::time::timeout(SUBSCRIBING_MAX, subscribed).await {
        Ok(subscribed) => subscribed,
        Err(_) => {
            cluster.look_elsewhere();
            Err(silent::<WatchMetadataRequest>(connection.address()))
        }
    }
}

/// Applies pushes until the connection ends, other topics are to be watched, or a broker was found
/// not to answer.
async fn follow(cluster: &Weak<Cluster>, mut pushes: Pushes, watch_anew: &Notify) {
    loop {
        tokio::select! {
            biased;
            push = pushes.next::<MetadataPush>() => {
                let (Some(Ok(push)), Some(cluster)) = (push, cluster.upgrade()) else {
                    return;
                };
                cluster.apply(push.version, &push.brokers, &push.topics);
            }
            () = watch_anew.notified() => return,
        }
    }
}
