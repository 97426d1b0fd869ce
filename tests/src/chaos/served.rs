//! Reads a partition from one certain broker, as a consumer in its rack does, and writes down what
//! it serves.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use strandline_client::{
    ClientOptions,
    connection::Connection,
    protocol::{
        Offset, PartitionId, TopicId,
        batch::split_batches,
        messages::{FetchPartition, FetchRequest},
    },
};

use super::{event::What, recorder::Recorder};
use crate::history::Mark;

/// How much one request brings at most, in bytes.
const FETCH_BYTES: u32 = 4 << 20;

/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(20);

/// From whom what is read.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Where the broker listens.
    pub address: &'a str,
    /// Its rack.
    pub rack: &'a str,
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: i32,
}

/// Reads from the start to what the broker says is the end, as reader `reader` of the history; a
/// refusal is tried again until `patience` is over. Returns the end.
///
/// # Errors
/// The last refusal.
pub async fn read(
    source: Source<'_>,
    reader: u32,
    recorder: &Recorder,
    patience: Duration,
) -> anyhow::Result<i64> {
    let partition = source.partition;
    recorder.note(partition, What::Placed { reader, offset: 0 });
    let (mut next, deadline) = (0, Instant::now() + patience);
    loop {
        match fetch(source, next).await {
            Ok((records, end)) if records.is_empty() && next >= end => return Ok(next),
            Ok((records, _)) if !records.is_empty() => {
                for (offset, mark) in records {
                    let what = What::Read {
                        reader,
                        offset,
                        mark,
                    };
                    recorder.note(partition, what);
                    anyhow::ensure!(mark.is_some(), "something damaged is served at {offset}");
                    next = offset + 1;
                }
            }
            Ok((_, end)) => {
                anyhow::ensure!(
                    Instant::now() < deadline,
                    "nothing is served at {next}, though the end is {end}"
                );
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("nothing is served at {next}")));
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

type Fetched = (Vec<(i64, Option<Mark>)>, i64);

/// One fetch: what it brings from `next` on, and the end of what may be read.
async fn fetch(source: Source<'_>, next: i64) -> anyhow::Result<Fetched> {
    let connection = Connection::open(source.address, &ClientOptions::default()).await?;
    let request = FetchRequest {
        wait_ms_max: 0,
        bytes_min: 0,
        bytes_max: FETCH_BYTES,
        rack: Some(source.rack.to_owned()),
        partitions: vec![FetchPartition {
            topic_id: source.topic,
            partition: PartitionId(source.partition),
            fetch_offset: Offset(next),
            bytes_max: FETCH_BYTES,
            current_leader_epoch: None,
        }],
    };
    let (answer, payload) = connection.request(&request, Vec::new()).await?;
    let told = answer.partitions.into_iter().next();
    let told = told.context("the broker says nothing of the partition")?;
    let failure = told.failure;
    anyhow::ensure!(
        failure.error.is_none(),
        "{}: {}",
        failure.error,
        failure.message
    );
    let mut records = Vec::new();
    let mut due = next;
    for batch in split_batches(&payload) {
        let mut scratch = Vec::new();
        let whole = batch.ok().filter(|batch| batch.check_crc().is_ok());
        let Some(batch) = whole else {
            records.push((due, None));
            break;
        };
        for record in batch.records(&mut scratch)? {
            let record = record.ok();
            let offset = record.as_ref().map_or(due, |record| record.offset.0);
            due = due.max(offset + 1);
            if offset >= next {
                records.push((offset, record.and_then(|it| it.value).and_then(Mark::of)));
            }
        }
    }
    Ok((records, told.high_watermark.0))
}
