//! What `benches/scale` has to do as a client and the command line does not: many topics at once,
//! one record in each of many partitions, many connections that do nothing.
//!
//! ```text
//! strandline-scale fill ADDRESS TOPICS PARTITIONS   prints seconds: to create, to write
//! strandline-scale hold ADDRESS CONNECTIONS         prints "held"; ends with its standard input
//! ```

use std::{
    io::{Read as _, Write as _},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, bail};
use strandline_client::{
    Client, ClientOptions, NewRecord, ProducerOptions,
    protocol::{PartitionId, messages::NewTopic},
};

/// How many topics one request creates.
const TOPICS_PER_REQUEST: usize = 100;

/// How many connections are opened at the same time.
const OPENING_AT_ONCE: usize = 64;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().context("no runtime");
    match runtime.and_then(|runtime| runtime.block_on(run())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["fill", address, topics, partitions] => {
            fill(address, topics.parse()?, partitions.parse()?).await
        }
        ["hold", address, connections] => hold(address, connections.parse()?).await,
        _ => bail!("usage: strandline-scale fill ADDRESS TOPICS PARTITIONS | hold ADDRESS COUNT"),
    }
}

/// Creates topics, writes one record to each of their partitions, and waits until all are flushed.
async fn fill(address: &str, topics: usize, partitions: i32) -> anyhow::Result<()> {
    let client = Client::connect(&[address], ClientOptions::default()).await?;
    let topic = |number: usize| NewTopic {
        name: format!("idle-{number}"),
        partitions: Some(partitions),
        replication_factor: None,
        configs: [("flush".to_owned(), "ack".to_owned())].into(),
    };
    let all: Vec<NewTopic> = (0..topics).map(topic).collect();
    let begun = Instant::now();
    for some in all.chunks(TOPICS_PER_REQUEST) {
        client.admin().create_topics(some).await?;
    }
    let created = begun.elapsed();
    let producer = client.producer(ProducerOptions::default())?;
    let mut deliveries = Vec::new();
    for topic in &all {
        for partition in 0..partitions {
            let record = NewRecord::to(&topic.name).partition(PartitionId(partition));
            deliveries.push(producer.send(record.value(b"one record")).await?);
        }
    }
    for delivery in deliveries {
        delivery.await?;
    }
    println!(
        "{:.3} {:.3}",
        created.as_secs_f64(),
        begun.elapsed().saturating_sub(created).as_secs_f64()
    );
    Ok(())
}

/// Keeps connections open that have said hello and nothing else.
async fn hold(address: &str, connections: usize) -> anyhow::Result<()> {
    let mut held = Vec::new();
    while held.len() < connections {
        let more = OPENING_AT_ONCE.min(connections - held.len());
        let opening: Vec<_> = (0..more)
            .map(|_| {
                let address = [address.to_owned()];
                tokio::spawn(
                    async move { Client::connect(&address, ClientOptions::default()).await },
                )
            })
            .collect();
        for client in opening {
            held.push(client.await??);
        }
    }
    println!("held");
    std::io::stdout().flush()?;
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    ended.await??;
    drop(held);
    Ok(())
}
