//! Commands that show topics.

use std::collections::BTreeMap;

use serde::Serialize;
use strandline_client::{Admin, Client, ListedPartition, TopicDescription};
use strandline_protocol::{
    BrokerId, Offset,
    messages::{ConfigEntry, ConfigSource, DescribedReplicas, OffsetQuery, PartitionMetadata},
};

use crate::cli::{
    connection,
    error::CommandError,
    output::{OutputFormat, Rows, print_json, print_text},
    quantity::seconds,
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
    eligible: Vec<BrokerId>,
    adding: Vec<BrokerId>,
    removing: Vec<BrokerId>,
    start: Option<i64>,
    end: Option<i64>,
    log_end: Option<i64>,
    copies: Vec<ShownReplica>,
}

/// One replica, as the leader of its partition knows it.
#[derive(Debug, Serialize)]
struct ShownReplica {
    broker: BrokerId,
    state: &'static str,
    log_end: Option<i64>,
    durable: Option<i64>,
    lag: Option<i64>,
    behind_ms: Option<u64>,
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
    // A leader that cannot tell now leaves gaps, no error.
    let described = admin.describe_replicas(name).await?;
    let described: BTreeMap<i32, DescribedReplicas> = described
        .into_iter()
        .filter_map(|(partition, told)| Some((partition.0, told.ok()?)))
        .collect();
    let topic = shown(topic, configs, &starts, &ends, &described);
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
    described: &BTreeMap<i32, DescribedReplicas>,
) -> ShownTopic {
    let partitions = topic.partitions.into_iter().map(|partition| {
        let id = partition.id.0;
        let told = described.get(&id);
        ShownPartition {
            partition: id,
            leader: partition.leader.map(|leader| leader.0),
            leader_epoch: partition.leader_epoch.0,
            start: starts.get(&id).copied(),
            end: ends.get(&id).copied(),
            log_end: told.map(|told| told.log_end_offset.0),
            copies: copies(&partition, told),
            replicas: partition.replicas,
            isr: partition.isr,
            eligible: partition.eligible,
            adding: partition.adding,
            removing: partition.removing,
        }
    });
    ShownTopic {
        name: topic.name,
        id: topic.id.to_string(),
        partitions: partitions.collect(),
        configs,
    }
}

fn copies(partition: &PartitionMetadata, told: Option<&DescribedReplicas>) -> Vec<ShownReplica> {
    let replicas = partition.replicas.iter();
    let copies = replicas.map(|&broker| {
        let known = told.and_then(|told| told.replicas.iter().find(|it| it.broker_id == broker));
        let log_end = known.and_then(|known| known.log_end_offset);
        let lag = |end: Offset| told.map(|told| told.log_end_offset.since(end).max(0));
        ShownReplica {
            broker,
            state: state(partition, broker),
            log_end: log_end.map(|end| end.0),
            durable: known
                .and_then(|known| known.durable_offset)
                .map(|end| end.0),
            lag: log_end.and_then(lag),
            behind_ms: known.and_then(|known| known.behind_ms),
        }
    });
    copies.collect()
}

/// What a replica is for its partition; the first that holds.
fn state(partition: &PartitionMetadata, broker: BrokerId) -> &'static str {
    if partition.leader == Some(broker) {
        "leader"
    } else if partition.removing.contains(&broker) {
        "removing"
    } else if partition.isr.contains(&broker) {
        "in sync"
    } else if partition.eligible.contains(&broker) {
        "eligible"
    } else if partition.adding.contains(&broker) {
        "adding"
    } else {
        "behind"
    }
}

fn print_tables(topic: &ShownTopic) -> Result<(), CommandError> {
    print_text(&format!("topic {} (id {})\n\n", topic.name, topic.id))?;
    partition_rows(topic).print()?;
    if topic.partitions.iter().any(|it| it.copies.len() > 1) {
        print_text("\n")?;
        replica_rows(topic).print()?;
    }
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

/// Columns that would be empty in every row are left out.
fn partition_rows(topic: &ShownTopic) -> Rows {
    let partitions = &topic.partitions;
    let any_eligible = partitions.iter().any(|it| !it.eligible.is_empty());
    let any_moving = partitions
        .iter()
        .any(|it| !it.adding.is_empty() || !it.removing.is_empty());
    let mut columns = vec!["PARTITION#", "LEADER#", "EPOCH#", "REPLICAS", "IN SYNC"];
    columns.extend(any_eligible.then_some("ELIGIBLE"));
    columns.extend(
        any_moving
            .then_some(["ADDING", "REMOVING"])
            .into_iter()
            .flatten(),
    );
    columns.extend(["START#", "END#"]);
    let mut rows = Rows::new(&columns);
    for it in partitions {
        let mut cells = vec![
            it.partition.to_string(),
            optional(it.leader),
            it.leader_epoch.to_string(),
            brokers(&it.replicas),
            brokers(&it.isr),
        ];
        cells.extend(any_eligible.then(|| brokers(&it.eligible)));
        let moving = any_moving.then(|| [brokers(&it.adding), brokers(&it.removing)]);
        cells.extend(moving.into_iter().flatten());
        cells.extend([optional(it.start), optional(it.end)]);
        rows.push(cells);
    }
    rows
}

fn replica_rows(topic: &ShownTopic) -> Rows {
    let mut rows = Rows::new(&[
        "PARTITION#",
        "REPLICA#",
        "STATE",
        "LOG END#",
        "DURABLE#",
        "LAG#",
        "BEHIND#",
    ]);
    for partition in &topic.partitions {
        for copy in &partition.copies {
            rows.push([
                partition.partition.to_string(),
                copy.broker.to_string(),
                copy.state.to_owned(),
                optional(copy.log_end),
                optional(copy.durable),
                optional(copy.lag),
                copy.behind_ms.map_or_else(|| "-".to_owned(), seconds),
            ]);
        }
    }
    rows
}

fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn brokers(ids: &[BrokerId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(",")
}
