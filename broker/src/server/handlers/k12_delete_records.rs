//! `DeleteRecords` (12), versions 0 to 0: moves the start of partitions forward.
//!
//! *Pattern: low-water mark.*

use std::sync::Arc;

use strandline_protocol::{
    ApiKey, ErrorCode, Offset, TopicPartition,
    messages::{DeleteRecordsRequest, DeleteRecordsResponse, DeletedRecords, Failure},
};

use super::{Handled, Request, check_entries, task};
use crate::server::{broker::Broker, connection::Reply, spawn};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let delete: DeleteRecordsRequest = request.decode()?;
    check_entries(delete.partitions.len())?;
    let broker = Arc::clone(request.broker);
    Ok(task(async move {
        let threads = broker.threads;
        spawn::blocking(threads, move || Reply::of(&delete_all(&broker, &delete)))
            .await
            .unwrap_or_else(|| Reply::failure(ErrorCode::SHUTTING_DOWN, "the broker stops"))
    }))
}

fn delete_all(broker: &Broker, delete: &DeleteRecordsRequest) -> DeleteRecordsResponse {
    let partitions = delete
        .partitions
        .iter()
        .map(|wanted| {
            let id = TopicPartition {
                topic: wanted.topic_id,
                partition: wanted.partition,
            };
            let deleted = broker
                .partitions
                .get(id)
                .and_then(|partition| partition.delete_before(wanted.before, broker.clock.now()));
            let (failure, log_start_offset) = match deleted {
                Ok(start) => (Failure::none(), start),
                Err(failure) => {
                    broker.metrics.error(ApiKey::DeleteRecords, failure.error);
                    (failure, Offset(-1))
                }
            };
            DeletedRecords {
                topic_id: wanted.topic_id,
                partition: wanted.partition,
                failure,
                log_start_offset,
            }
        })
        .collect();
    DeleteRecordsResponse { partitions }
}
