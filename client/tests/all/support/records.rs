//! Numbered records, sent in batches so small that many are under way.

use strandline_client::{Delivery, NewRecord, Producer, ProducerOptions, protocol::PartitionId};

/// Batches of a few records.
pub fn small_batches() -> ProducerOptions {
    ProducerOptions {
        batch_bytes: 120,
        ..ProducerOptions::default()
    }
}

/// The values of records of these numbers.
pub fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("{number:04}")).collect()
}

/// Sends numbered records to partition 0 of `t`.
pub async fn send(producer: &Producer, range: std::ops::Range<usize>) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for value in numbers(range) {
        let record = NewRecord::to("t")
            .partition(PartitionId(0))
            .value(value.as_bytes());
        deliveries.push(producer.send(record).await.unwrap());
    }
    deliveries
}
