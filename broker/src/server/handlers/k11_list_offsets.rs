//! `ListOffsets` (11), versions 0 to 0: where a partition begins, ends, or was at a time.

use std::sync::Arc;

use strandline_protocol::{
    ApiKey, ErrorCode, LeaderEpoch, TopicPartition,
    messages::{
        Failure, ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListedOffset,
        OffsetQuery,
    },
};

use super::{Handled, Request, check_entries, task};
use crate::server::{broker::Broker, connection::Reply, spawn};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let list: ListOffsetsRequest = request.decode()?;
    check_entries(list.partitions.len())?;
    let by_time = |wanted: &ListOffsetsPartition| matches!(wanted.query, OffsetQuery::At(_));
    if !list.partitions.iter().any(by_time) {
        return Ok(Reply::of(&look_up(request.broker, &list)).into());
    }
    // A look-up by time reads indexes and batches, and may wait for the disk.
    let broker = Arc::clone(request.broker);
    Ok(task(async move {
        let threads = broker.threads;
        spawn::blocking(threads, move || Reply::of(&look_up(&broker, &list)))
            .await
            .unwrap_or_else(|| Reply::failure(ErrorCode::SHUTTING_DOWN, "the broker stops"))
    }))
}

fn look_up(broker: &Broker, list: &ListOffsetsRequest) -> ListOffsetsResponse {
    let partitions = list
        .partitions
        .iter()
        .map(|wanted| {
            let id = TopicPartition {
                topic: wanted.topic_id,
                partition: wanted.partition,
            };
            let found = broker
                .partitions
                .get(id)
                .and_then(|partition| partition.find(wanted.query));
            let (failure, (offset, timestamp, leader_epoch)) = match found {
                Ok(found) => (Failure::none(), found),
                Err(failure) => {
                    broker.metrics.error(ApiKey::ListOffsets, failure.error);
                    (failure, (None, None, LeaderEpoch::NONE))
                }
            };
            ListedOffset {
                topic_id: wanted.topic_id,
                partition: wanted.partition,
                failure,
                offset,
                timestamp,
                leader_epoch,
            }
        })
        .collect();
    ListOffsetsResponse { partitions }
}
