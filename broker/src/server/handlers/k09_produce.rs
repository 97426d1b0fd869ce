//! `Produce` (9), versions 0 to 0: appends record batches.
//!
//! *Patterns: request batch, write-ahead log.*

use std::{collections::BTreeSet, time::Duration};

use strandline_protocol::{
    ErrorCode, Offset, TopicPartition,
    messages::{
        Acks, Failure, ProducePartition, ProduceRequest, ProduceResponse, ProducedPartition,
    },
};
use tokio::time::Instant;

use super::{Handled, Request, check_entries};
use crate::{
    partition::{AckToken, Acknowledged},
    server::connection::Reply,
};

/// A `Produce` that waits for acknowledgements.
#[derive(Debug)]
pub struct ParkedProduce {
    response: ProduceResponse,
    /// Which batches are not acknowledged yet.
    missing: BTreeSet<usize>,
    /// When the client stops waiting.
    pub deadline: Instant,
}

impl ParkedProduce {
    /// One batch is acknowledged, or will not be. Returns whether that was the last one.
    pub fn acknowledged(&mut self, index: usize, failure: Option<Failure>) -> bool {
        if self.missing.remove(&index)
            && let Some(failure) = failure
            && let Some(partition) = self.response.partitions.get_mut(index)
        {
            partition.failure = failure;
        }
        self.missing.is_empty()
    }

    /// The answer as of now: what is not acknowledged has an unknown outcome, for `reason`.
    #[must_use]
    pub fn answer(mut self, reason: &str) -> (ErrorCode, Reply) {
        for index in &self.missing {
            if let Some(partition) = self.response.partitions.get_mut(*index) {
                partition.failure = Failure::new(
                    ErrorCode::REQUEST_TIMED_OUT,
                    format!("the batch was appended, but not acknowledged {reason}"),
                );
            }
        }
        (first_error(&self.response), Reply::of(&self.response))
    }
}

/// The first error in a response, for metrics.
fn first_error(response: &ProduceResponse) -> ErrorCode {
    response
        .partitions
        .iter()
        .map(|partition| partition.failure.error)
        .find(|error| !error.is_none())
        .unwrap_or(ErrorCode::NONE)
}

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let produce: ProduceRequest = request.decode()?;
    check(&produce, request.payload)?;
    let now = request.broker.clock.now();
    let mut missing = BTreeSet::new();
    let mut partitions = Vec::with_capacity(produce.partitions.len());
    let mut rest = request.payload;
    for (index, entry) in produce.partitions.iter().enumerate() {
        let bytes = usize::try_from(entry.bytes).unwrap_or(usize::MAX);
        let (batch, behind) = rest.split_at_checked(bytes).unwrap_or_default();
        rest = behind;
        let token = || AckToken {
            events: request.events.clone(),
            slot: request.slot,
            index,
        };
        let id = TopicPartition {
            topic: entry.topic_id,
            partition: entry.partition,
        };
        request.broker.metrics.produce_batch.record(size(bytes));
        let appended = request
            .broker
            .partitions
            .get(id)
            .and_then(|partition| partition.append(batch, produce.acks, now, token));
        let mut produced = answer_to(entry);
        match appended {
            Ok(appended) => {
                produced.base_offset = appended.base_offset;
                produced.log_append_time = appended.log_append_time;
                produced.log_start_offset = appended.log_start_offset;
                if appended.acknowledged == Acknowledged::Later {
                    missing.insert(index);
                }
            }
            Err(failure) => {
                request
                    .broker
                    .metrics
                    .error(strandline_protocol::ApiKey::Produce, failure.error);
                produced.failure = failure;
            }
        }
        partitions.push(produced);
    }
    let response = ProduceResponse { partitions };
    if produce.acks == Acks::None {
        return Ok(Handled::Nothing);
    }
    if missing.is_empty() {
        return Ok(Reply::of(&response).into());
    }
    let timeout = Duration::from_millis(u64::from(produce.timeout_ms));
    Ok(Handled::Produce(ParkedProduce {
        response,
        missing,
        deadline: request.now + timeout,
    }))
}

fn answer_to(entry: &ProducePartition) -> ProducedPartition {
    ProducedPartition {
        topic_id: entry.topic_id,
        partition: entry.partition,
        failure: Failure::none(),
        base_offset: Offset(-1),
        log_append_time: None,
        log_start_offset: Offset(-1),
    }
}

/// Holds the list of batches against the payload before anything is appended.
fn check(produce: &ProduceRequest, payload: &[u8]) -> Result<(), Failure> {
    check_entries(produce.partitions.len())?;
    let refuse = |reason: String| Err(Failure::new(ErrorCode::INVALID_REQUEST, reason));
    let total = produce.partitions.iter().try_fold(0_usize, |sum, entry| {
        sum.checked_add(usize::try_from(entry.bytes).ok()?)
    });
    if total != Some(payload.len()) {
        return refuse(format!(
            "the batches that a Produce lists do not make up its payload of {} bytes",
            payload.len()
        ));
    }
    let distinct: BTreeSet<_> = produce
        .partitions
        .iter()
        .map(|entry| (entry.topic_id, entry.partition))
        .collect();
    if distinct.len() != produce.partitions.len() {
        return refuse("a Produce lists a partition twice: send one batch each".to_owned());
    }
    Ok(())
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a histogram takes floating point; sizes are far below 2^52"
)]
fn size(bytes: usize) -> f64 {
    bytes as f64
}
