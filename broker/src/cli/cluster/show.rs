//! `strandline cluster describe`.

use serde::Serialize;
use strandline_protocol::{
    BrokerId, Offset,
    messages::{
        BrokerDescription, BrokerState, DescribeClusterResponse, Duty, MemberDescription,
        MemberRole,
    },
};

use crate::cli::{
    error::CommandError,
    output::{OutputFormat, Rows, print_json, print_text},
    quantity::{bytes, seconds},
};

/// The cluster as JSON has it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    cluster: String,
    answered_by: BrokerId,
    controller: Option<BrokerId>,
    controller_epoch: i32,
    metadata_version: u16,
    log_end: i64,
    voters_changing: bool,
    members: Vec<ShownMember>,
    brokers: Vec<ShownBroker<'a>>,
    topics: u32,
    partitions: u32,
    partitions_without_leader: u32,
    partitions_under_replicated: u32,
    partitions_under_min_isr: u32,
    throttle_bytes_per_second: Option<u64>,
}

#[derive(Debug, Serialize)]
struct ShownMember {
    broker: BrokerId,
    raft_id: String,
    role: MemberRole,
    log_end: Option<i64>,
    lag: Option<i64>,
    heard_ms_ago: Option<u64>,
}

#[derive(Debug, Serialize)]
struct ShownBroker<'a> {
    broker: BrokerId,
    rack: Option<&'a str>,
    address: String,
    epoch: i64,
    state: BrokerState,
    duty: Duty,
    lease_ms: Option<u64>,
    applied: Option<i64>,
    lag: Option<i64>,
    software: &'a str,
    leads: u32,
    keeps: u32,
}

/// Prints the cluster.
///
/// # Errors
/// If standard output cannot be written to.
pub(super) fn print(
    cluster: &DescribeClusterResponse,
    format: OutputFormat,
) -> Result<(), CommandError> {
    match format {
        OutputFormat::Json => print_json(&shown(cluster)),
        OutputFormat::Table => print_text(&text(cluster)),
    }
}

/// The end of the metadata log, as far as anybody has told.
pub(super) fn log_end(cluster: &DescribeClusterResponse) -> Offset {
    let told = cluster.members.iter().filter_map(|member| member.log_end);
    told.fold(cluster.version.plus(1), Offset::max)
}

/// How many entries `end` is behind the log.
pub(super) fn lag(cluster: &DescribeClusterResponse, end: Option<Offset>) -> Option<i64> {
    Some(log_end(cluster).since(end?).max(0))
}

/// How many entries a broker is behind the log.
pub(super) fn broker_lag(
    cluster: &DescribeClusterResponse,
    broker: &BrokerDescription,
) -> Option<i64> {
    lag(cluster, broker.applied.map(|applied| applied.plus(1)))
}

fn shown(cluster: &DescribeClusterResponse) -> Shown<'_> {
    let member = |member: &MemberDescription| ShownMember {
        broker: member.broker_id,
        // JSON's numbers do not hold 64 bits everywhere.
        raft_id: format!("{:016x}", member.raft_id),
        role: member.role,
        log_end: member.log_end.map(|end| end.0),
        lag: lag(cluster, member.log_end),
        heard_ms_ago: member.heard_ms_ago,
    };
    Shown {
        cluster: cluster.cluster_id.to_string(),
        answered_by: cluster.answered_by,
        controller: cluster.controller,
        controller_epoch: cluster.controller_epoch.0,
        metadata_version: cluster.metadata_version,
        log_end: log_end(cluster).0,
        voters_changing: cluster.voters_changing,
        members: cluster.members.iter().map(member).collect(),
        brokers: cluster
            .brokers
            .iter()
            .map(|broker| shown_broker(cluster, broker))
            .collect(),
        topics: cluster.topics,
        partitions: cluster.partitions,
        partitions_without_leader: cluster.partitions_without_leader,
        partitions_under_replicated: cluster.partitions_under_replicated,
        partitions_under_min_isr: cluster.partitions_under_min_isr,
        throttle_bytes_per_second: cluster.throttle_bytes_per_second,
    }
}

fn shown_broker<'a>(
    cluster: &DescribeClusterResponse,
    broker: &'a BrokerDescription,
) -> ShownBroker<'a> {
    ShownBroker {
        broker: broker.id,
        rack: broker.rack.as_deref(),
        address: address(broker),
        epoch: broker.epoch.0,
        state: broker.state,
        duty: broker.duty,
        lease_ms: broker.lease_ms,
        applied: broker.applied.map(|applied| applied.0),
        lag: broker_lag(cluster, broker),
        software: &broker.software,
        leads: broker.leads,
        keeps: broker.keeps,
    }
}

/// The tables for people.
pub(super) fn text(cluster: &DescribeClusterResponse) -> String {
    let mut text = headline(cluster) + "\n\n";
    let mut rows = Rows::new(&["MEMBER#", "ROLE", "LOG END#", "LAG#", "HEARD#"]);
    for member in &cluster.members {
        rows.push([
            member.broker_id.to_string(),
            role(member.role).to_owned(),
            optional(member.log_end),
            optional(lag(cluster, member.log_end)),
            heard(cluster, member),
        ]);
    }
    text.push_str(&rows.text());
    if cluster.voters_changing {
        text.push_str("\nA change of the voters is under way.\n");
    }
    text.push('\n');
    let mut rows = Rows::new(&[
        "BROKER#", "RACK", "ADDRESS", "EPOCH#", "STATE", "LEASE#", "LAG#", "VERSION", "LEADS#",
        "KEEPS#",
    ]);
    for broker in &cluster.brokers {
        rows.push([
            broker.id.to_string(),
            optional(broker.rack.as_ref()),
            address(broker),
            broker.epoch.to_string(),
            state(broker),
            broker.lease_ms.map_or_else(|| "-".to_owned(), seconds),
            optional(broker_lag(cluster, broker)),
            version(broker),
            broker.leads.to_string(),
            broker.keeps.to_string(),
        ]);
    }
    text.push_str(&rows.text());
    let (topics, partitions) = (cluster.topics, cluster.partitions);
    text.push_str(&format!("\n{topics} topics, {partitions} partitions"));
    for (count, what) in [
        (cluster.partitions_without_leader, "without a leader"),
        (cluster.partitions_under_replicated, "under-replicated"),
        (cluster.partitions_under_min_isr, "under min ISR"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text.push('\n');
    if let Some(limit) = cluster.throttle_bytes_per_second {
        let limit = bytes(limit);
        text.push_str(&format!(
            "each broker fetches at most {limit}/s for replicas that are being added (--throttle)\n"
        ));
    }
    text
}

fn headline(cluster: &DescribeClusterResponse) -> String {
    let controller = match cluster.controller {
        Some(broker) => format!("controller broker {broker}"),
        None => "no controller".to_owned(),
    };
    let line = format!(
        "cluster {}: {controller}, epoch {}, metadata version {}",
        cluster.cluster_id, cluster.controller_epoch, cluster.metadata_version
    );
    if cluster.controller == Some(cluster.answered_by) {
        return line;
    }
    format!("{line} (as broker {} knows it)", cluster.answered_by)
}

fn heard(cluster: &DescribeClusterResponse, member: &MemberDescription) -> String {
    if member.broker_id == cluster.answered_by {
        return "now".to_owned();
    }
    member.heard_ms_ago.map_or_else(|| "-".to_owned(), seconds)
}

const fn role(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
        MemberRole::LeavingVoter => "voter, leaving",
    }
}

fn state(broker: &BrokerDescription) -> String {
    let state = match broker.state {
        BrokerState::Active => "active",
        BrokerState::Fenced => "fenced",
        BrokerState::Stopping => "stopping",
    };
    match broker.duty {
        Duty::Full => state.to_owned(),
        Duty::Drained => format!("{state}, drained"),
    }
}

fn address(broker: &BrokerDescription) -> String {
    let (host, port) = (&broker.host, broker.port);
    if host.contains(':') {
        return format!("[{host}]:{port}");
    }
    format!("{host}:{port}")
}

/// The version alone where the software is ours.
fn version(broker: &BrokerDescription) -> String {
    let software = broker.software.as_str();
    match software.strip_prefix("strandline/").unwrap_or(software) {
        "" => "-".to_owned(),
        version => version.to_owned(),
    }
}

fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
