//! Commands that show topics.

use std::collections::BTreeMap;

use serde::Serialize;
use strandline_client::{Admin, Client, ListedPartition, TopicDescription};
use strandline_protocol::{
    BrokerId,
    messages::{ConfigEntry, ConfigSource, OffsetQuery},
};

use crate::cli::{
    connection,
    error::CommandError,
    output::{OutputFormat, Rows, print_json, print_text},
};

#[derive(Debug, Serialize)]
struct ListedTopic {
    name: String,
    partitions: usize,
    id: String,
}

#[derive(Debug, Serialize)]
struct ShownTopic {
    name: String,
    id: String,
    partitions: Vec<ShownPartition>,
    configs: Vec<ConfigEntry>,
}

#[derive(Debug, Serialize)]
struct ShownPartition {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: i32,
    replicas: Vec<BrokerId>,
    isr: Vec<BrokerId>,
    start: Option<i64>,
    end: Option<i64>,
}

/// Prints every topic.
pub async fn list(admin: &Admin, format: OutputFormat) -> Result<(), CommandError> {
    let topics: Vec<ListedTopic> = admin
        .list_topics()
        .await?
        .into_iter()
        .map(|topic| ListedTopic {
            name: topic.name,
            partitions: topic.partitions.len(),
            id: topic.id.to_string(),
        })
        .collect();
    match format {
        OutputFormat::Json => print_json(&topics),
        OutputFormat::Table => {
            let mut rows = Rows::new(&["NAME", "PARTITIONS#", "ID"]);
            for topic in topics {
                rows.push([topic.name, topic.partitions.to_string(), topic.id]);
            }
            rows.print()
        }
    }
}

/// Prints one topic.
pub async fn describe(
    client: &Client,
    name: &str,
    format: OutputFormat,
) -> Result<(), CommandError> {
    let admin = client.admin();
    let topic = connection::describe(client, name).await?;
    let configs = admin.describe_configs(name).await?;
    // What nobody leads is shown, too, without its offsets.
    let starts = admin.list_offsets_of_led(name, OffsetQuery::Earliest);
    let starts = by_partition(starts.await?);
    let ends = admin.list_offsets_of_led(name, OffsetQuery::Latest);
    let ends = by_partition(ends.await?);
    let topic = shown(topic, configs, &starts, &ends);
    match format {
        OutputFormat::Json => print_json(&topic),
        OutputFormat::Table => print_tables(&topic),
    }
}

fn by_partition(listed: Vec<ListedPartition>) -> BTreeMap<i32, i64> {
    let known = listed
        .into_iter()
        .filter_map(|it| Some((it.partition.0, it.offset?.0)));
    known.collect()
}

fn shown(
    topic: TopicDescription,
    configs: Vec<ConfigEntry>,
    starts: &BTreeMap<i32, i64>,
    ends: &BTreeMap<i32, i64>,
) -> ShownTopic {
    let partitions = topic
        .partitions
        .into_iter()
        .map(|partition| ShownPartition {
            partition: partition.id.0,
            leader: partition.leader.map(|leader| leader.0),
            leader_epoch: partition.leader_epoch.0,
            replicas: partition.replicas,
            isr: partition.isr,
            start: starts.get(&partition.id.0).copied(),
            end: ends.get(&partition.id.0).copied(),
        });
    ShownTopic {
        name: topic.name,
        id: topic.id.to_string(),
        partitions: partitions.collect(),
        configs,
    }
}

fn print_tables(topic: &ShownTopic) -> Result<(), CommandError> {
    print_text(&format!("topic {} (id {})\n\n", topic.name, topic.id))?;
    let mut rows = Rows::new(&[
        "PARTITION#",
        "LEADER#",
        "EPOCH#",
        "REPLICAS",
        "IN SYNC",
        "START#",
        "END#",
    ]);
    for partition in &topic.partitions {
        rows.push([
            partition.partition.to_string(),
            optional(partition.leader),
            partition.leader_epoch.to_string(),
            brokers(&partition.replicas),
            brokers(&partition.isr),
            optional(partition.start),
            optional(partition.end),
        ]);
    }
    rows.print()?;
    print_text("\n")?;
    let mut rows = Rows::new(&["SETTING", "VALUE", "SET BY"]);
    for entry in &topic.configs {
        let source = match entry.source {
            ConfigSource::Topic => "topic",
            ConfigSource::Broker => "broker",
            ConfigSource::Default => "default",
        };
        rows.push([entry.key.clone(), entry.value.clone(), source.to_owned()]);
    }
    rows.print()
}

fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn brokers(ids: &[BrokerId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(",")
}
