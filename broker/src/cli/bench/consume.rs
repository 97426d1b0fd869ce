//! `strandline bench consume`: reads a topic from its beginning, as fast as it comes.
//!
//! Every record is walked. The latency is what an application sees: how long one `poll` takes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use strandline_client::{Client, ClientError, Consumer, ConsumerOptions, StartAt};
use strandline_protocol::{PartitionId, messages::OffsetQuery};
use tokio::task::JoinSet;

use super::{
    LoadArguments,
    load::{Latencies, ensure_topic, warm_up_records},
    produce::{RECORDS_DEFAULT, fill},
    report::{Counted, Report, server_cpu},
};
use crate::cli::{connection::ConnectionArguments, error::CommandError, quantity};

/// Runs the benchmark.
///
/// # Errors
/// If the broker cannot be used or the topic holds less than it should.
pub async fn run(
    connection: &ConnectionArguments,
    load: &LoadArguments,
) -> Result<Report, CommandError> {
    let client = connection.connect().await?;
    let partitions = ensure_topic(&client, load).await?;
    check_consumers(load, partitions)?;
    let wanted = load.records.unwrap_or(RECORDS_DEFAULT);
    let there = records_in(&client, &load.topic).await?;
    if there < wanted {
        let missing = wanted - there;
        eprintln!(
            "filling the topic with {} records",
            quantity::thousands(missing)
        );
        fill(&client, load, partitions, missing).await?;
    }
    eprintln!("warming up");
    let warm_up = warm_up_records(wanted, load.record_size);
    let consumers = consumers(connection, load, partitions).await?;
    read_all(consumers, warm_up, &Latencies::new()?).await?;
    eprintln!("reading {}", quantity::counted(wanted, "record"));
    let consumers = self::consumers(connection, load, partitions).await?;
    let latencies = Latencies::new()?;
    let cpu_before = server_cpu(&client).await?;
    let started = Instant::now();
    let read = read_all(consumers, wanted, &latencies).await?;
    let elapsed = started.elapsed();
    let server_cpu = server_cpu(&client).await?.saturating_sub(cpu_before);
    let records = read.records.load(Ordering::Relaxed);
    if records < wanted {
        return Err(CommandError::failure(format!(
            "topic `{}` held {records} records where {wanted} were expected",
            load.topic
        ))
        .hint("its retention may have removed some; use another topic"));
    }
    Ok(Report::new(&Counted {
        records,
        bytes: read.bytes.load(Ordering::Relaxed),
        elapsed,
        server_cpu,
        latency: latencies.known(),
    }))
}

async fn records_in(client: &Client, topic: &str) -> Result<u64, CommandError> {
    let admin = client.admin();
    let starts = admin.list_offsets(topic, OffsetQuery::Earliest).await?;
    let ends = admin.list_offsets(topic, OffsetQuery::Latest).await?;
    let sum = |listed: &[strandline_client::ListedPartition]| -> i64 {
        listed
            .iter()
            .filter_map(|it| it.offset)
            .map(|offset| offset.0)
            .sum()
    };
    Ok(u64::try_from(sum(&ends).saturating_sub(sum(&starts))).unwrap_or(0))
}

/// Consumers that share the partitions, each at the beginning of its own.
async fn consumers(
    connection: &ConnectionArguments,
    load: &LoadArguments,
    partitions: usize,
) -> Result<Vec<Consumer>, CommandError> {
    assigned(connection, load, partitions, StartAt::Beginning).await
}

/// Every consumer needs a partition of its own.
fn check_consumers(load: &LoadArguments, partitions: usize) -> Result<(), CommandError> {
    let partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
    if load.consumers > partitions {
        let (topic, consumers) = (&load.topic, load.consumers);
        return Err(CommandError::failure(format!(
            "topic `{topic}` has {partitions} partitions, too few for {consumers} consumers"
        ))
        .hint(format!(
            "strandline topic alter {topic} --partitions {consumers}"
        )));
    }
    Ok(())
}

/// Consumers that share the partitions, each at the same place of its own.
///
/// # Errors
/// If there are more consumers than partitions.
pub async fn assigned(
    connection: &ConnectionArguments,
    load: &LoadArguments,
    partitions: usize,
    start: StartAt,
) -> Result<Vec<Consumer>, CommandError> {
    check_consumers(load, partitions)?;
    let partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
    let mut all = Vec::new();
    for number in 0..load.consumers {
        let client = connection.connect().await?;
        let mut consumer = client.consumer(ConsumerOptions::default())?;
        let mine: Vec<(&str, PartitionId, StartAt)> = (0..partitions)
            .filter(|partition| partition % load.consumers == number)
            .filter_map(|partition| i32::try_from(partition).ok())
            .map(|partition| (load.topic.as_str(), PartitionId(partition), start))
            .collect();
        consumer.assign(&mine).await?;
        all.push(consumer);
    }
    Ok(all)
}

#[derive(Default)]
struct Read {
    records: AtomicU64,
    bytes: AtomicU64,
}

/// Reads until so many records have come over all consumers, or until the end.
async fn read_all(
    consumers: Vec<Consumer>,
    wanted: u64,
    latencies: &Latencies,
) -> Result<Arc<Read>, CommandError> {
    let read = Arc::new(Read::default());
    let mut tasks = JoinSet::new();
    for consumer in consumers {
        tasks.spawn(read_one(
            consumer,
            wanted,
            Arc::clone(&read),
            latencies.clone(),
        ));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| CommandError::failure(format!("a consumer ended: {error}")))??;
    }
    Ok(read)
}

async fn read_one(
    mut consumer: Consumer,
    wanted: u64,
    read: Arc<Read>,
    latencies: Latencies,
) -> Result<(), ClientError> {
    while read.records.load(Ordering::Relaxed) < wanted {
        let begun = Instant::now();
        let Some(records) = consumer.poll_to_end().await? else {
            return Ok(());
        };
        latencies.record(begun.elapsed().max(Duration::from_nanos(1)));
        let (mut count, mut bytes) = (0, 0);
        for record in records.iter() {
            count += 1;
            bytes += quantity::length(record?.value.map_or(0, <[u8]>::len));
        }
        read.records.fetch_add(count, Ordering::Relaxed);
        read.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    Ok(())
}
