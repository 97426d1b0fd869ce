//! `ReplicaProgress` (25), versions 0 to 0: a follower has flushed. Nobody waits for an answer.
//!
//! *Pattern: high-water mark.*

use strandline_core::replica::FollowerFlush;
use strandline_protocol::{
    TopicPartition,
    messages::{Failure, ReplicaProgressRequest, ReplicaProgressResponse},
};

use super::{Handled, Request, check_entries, peer::check_sender};
use crate::server::connection::Reply;

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let progress: ReplicaProgressRequest = request.decode()?;
    check_entries(progress.partitions.len())?;
    check_sender(request, progress.broker_id, progress.broker_epoch)?;
    for each in &progress.partitions {
        let id = TopicPartition {
            topic: each.topic_id,
            partition: each.partition,
        };
        // What is not here any more has a leader elsewhere, which is told by a fetch.
        if let Ok(partition) = request.broker.partitions.get(id) {
            partition.follower_flushed(&FollowerFlush {
                broker: progress.broker_id,
                broker_epoch: progress.broker_epoch,
                leader_epoch: each.leader_epoch,
                durable_offset: each.durable_offset,
            });
        }
    }
    Ok(Reply::of(&ReplicaProgressResponse {}).into())
}
