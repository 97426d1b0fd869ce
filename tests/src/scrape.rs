//! Traffic of a known size, and what a scrape of the broker says about it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use strandline_client::{
    Client, ClientOptions, ConsumerOptions, NewRecord, ProducerOptions, StartAt,
    protocol::{PartitionId, messages::NewTopic},
};

use crate::http_get;

/// One scrape, taken apart.
#[derive(Clone, Debug, Default)]
pub struct Scraped {
    /// The text as it was served.
    pub text: String,
    /// The value of each series, by its name and labels as they are written.
    samples: BTreeMap<String, f64>,
}

impl Scraped {
    /// Scrapes the broker whose HTTP listener is at `address`.
    ///
    /// # Panics
    /// If it does not answer, or with something else than samples.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        let (status, text) = http_get(address.port(), "/metrics").expect("the page is served");
        assert_eq!(status, 200, "{text}");
        let samples = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').expect("a series and its value");
                (series.to_owned(), value.parse().expect("a number"))
            })
            .collect();
        Self { text, samples }
    }

    /// The text without the buckets of histograms, for the message of a failed test.
    #[must_use]
    pub fn without_buckets(&self) -> String {
        let lines = self.text.lines().filter(|line| !line.contains("_bucket{"));
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// The value of one series, written as `name{label="value"}`; none if it does not exist.
    #[must_use]
    pub fn value(&self, series: &str) -> Option<f64> {
        self.samples.get(series).copied()
    }

    /// The sum over all series of a name whose labels contain `label`, as `topic="tides"`.
    #[must_use]
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let start = format!("{name}{{");
        self.samples
            .iter()
            .filter(|(series, _)| series.starts_with(&start) && series.contains(label))
            .map(|(_, value)| value)
            .sum()
    }

    /// Name and kind of every metric that has a series.
    #[must_use]
    pub fn kinds(&self) -> BTreeSet<(&str, &str)> {
        self.text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .collect()
    }
}

/// What was sent and received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Records sent, all acknowledged.
    pub sent: u32,
    /// Records received.
    pub received: u32,
}

/// Creates `topic` with two partitions, sends `records` to it and reads them all, and has one
/// request refused (a topic that does not exist cannot be deleted).
///
/// # Errors
/// If anything else fails.
pub async fn make_traffic(broker: &str, topic: &str, records: u32) -> anyhow::Result<Traffic> {
    let client = Client::connect(&[broker], ClientOptions::default()).await?;
    let new = NewTopic {
        name: topic.to_owned(),
        partitions: Some(2),
        replication_factor: None,
        configs: BTreeMap::new(),
    };
    client.admin().create_topics(&[new]).await?;
    let refused = client.admin().delete_topics(&["no-such-topic"]).await;
    anyhow::ensure!(refused.is_err(), "a topic that does not exist was deleted");

    let producer = client.producer(ProducerOptions::default())?;
    for number in 0..records {
        let value = format!("record {number}");
        let partition = PartitionId(i32::from(number % 2 == 1));
        let record = NewRecord::to(topic)
            .partition(partition)
            .value(value.as_bytes());
        let _decided_at_flush = producer.send(record).await?;
    }
    producer.close().await?;

    let mut consumer = client.consumer(ConsumerOptions::default())?;
    consumer.assign_topic(topic, StartAt::Beginning).await?;
    let mut received = 0;
    while let Some(records) = consumer.poll_to_end().await? {
        for record in records.iter() {
            record?;
            received += 1;
        }
    }
    Ok(Traffic {
        sent: records,
        received,
    })
}

/// Deletes the topic of [`make_traffic`].
///
/// # Errors
/// If the broker refuses.
pub async fn delete_topic(broker: &str, topic: &str) -> anyhow::Result<()> {
    let client = Client::connect(&[broker], ClientOptions::default()).await?;
    Ok(client.admin().delete_topics(&[topic]).await?)
}
