//! What the broker tells about itself: figures for a scrape, and the line of a start.

use std::{net::SocketAddr, sync::Arc};

use strandline_core::{
    FlushMode,
    budget::Pool,
    metadata::{BrokerState, Voter},
    replica::Role,
};

use super::broker::Broker;
use crate::{
    http::HttpServer,
    metrics::{
        ClusterFigures, DirectoryFigures, PartitionFigures, QuorumRole, ReplicaFigures,
        ReplicaRole, Scrape,
    },
    partition::Led,
    settings::Settings,
};

/// Has `/metrics` tell what is read from live state.
pub(super) fn collect_figures(broker: &Arc<Broker>, memory_bytes: u64) {
    let shared = Arc::downgrade(broker);
    broker.metrics.collect_with(move |scrape: &mut Scrape| {
        let Some(broker) = shared.upgrade() else {
            return;
        };
        let counts = broker.partitions.counts();
        scrape.partitions("open", counts.open);
        scrape.partitions("recovering", counts.recovering);
        scrape.partitions("offline", counts.offline);
        let mut roles = Roles::default();
        for partition in broker.partitions.all() {
            let Some(figures) = partition.figures() else {
                continue;
            };
            let shown = PartitionFigures {
                log_start: figures.marks.log_start,
                log_end: figures.marks.log_end,
                high_watermark: figures.marks.high_watermark,
                bytes: figures.bytes,
                segments: figures.segments,
            };
            scrape.partition(partition.topic(), partition.id().partition, shown);
            roles.count(partition.role());
            if let Ok(led) = partition.describe() {
                let followers = followers(&led);
                scrape.followers(partition.topic(), partition.id().partition, &followers);
            }
        }
        scrape.replicas(ReplicaRole::Leader, roles.leader);
        scrape.replicas(ReplicaRole::Follower, roles.follower);
        scrape.replicas(ReplicaRole::Idle, roles.idle);
        for directory in &broker.directories {
            let figures = DirectoryFigures {
                online: directory.data().is_online(),
                free_bytes: directory.data().space().ok().map(|space| space.available),
            };
            scrape.directory(&directory.path().display().to_string(), figures);
        }
        scrape.cluster(cluster_figures(&broker));
        scrape.memory(broker.memory.used(Pool::Client), memory_bytes);
    });
}

/// How many replicas have each role.
#[derive(Debug, Default)]
struct Roles {
    leader: usize,
    follower: usize,
    idle: usize,
}

impl Roles {
    const fn count(&mut self, role: Role) {
        match role {
            Role::Leader => self.leader += 1,
            Role::Follower { .. } => self.follower += 1,
            Role::Idle => self.idle += 1,
        }
    }
}

/// How far the followers of a partition are that this broker leads.
fn followers(led: &Led) -> Vec<ReplicaFigures> {
    let followers = led.followers.iter().map(|follower| ReplicaFigures {
        follower: follower.broker,
        lag_records: {
            let has = follower.log_end.unwrap_or(led.marks.log_start);
            let lag = led.marks.log_end.since(has).max(0);
            u64::try_from(lag).unwrap_or_default()
        },
        behind: follower.behind,
    });
    followers.collect()
}

fn cluster_figures(broker: &Broker) -> ClusterFigures {
    let image = broker.metadata.image();
    let log = broker.metadata.own_log();
    let membership = image.membership();
    let is_me = |member: &Voter| member.raft_id == broker.identity.raft_id;
    let me = broker.identity.broker;
    // Who has not heard of a majority for so long decides nothing.
    let role = if broker.metadata.controller_as(me) == Some(me) {
        QuorumRole::Leader
    } else if membership.is_some_and(|it| it.voters.iter().any(is_me)) {
        QuorumRole::Voter
    } else if membership.is_some_and(|it| it.learners.iter().any(is_me)) {
        QuorumRole::Learner
    } else {
        QuorumRole::None
    };
    let in_state = |state| {
        let brokers = image.brokers();
        brokers.filter(|broker| broker.state == state).count()
    };
    let followed = broker.followed.borrow().plus(1);
    let lack = image.lack_of_replicas();
    ClusterFigures {
        role,
        controller_epoch: image.term(),
        voters: membership.map_or(0, |it| it.voters.len()),
        log_end: log.end,
        committed: log.committed,
        lag: log.committed.since(followed).max(0),
        brokers: [
            in_state(BrokerState::Active),
            in_state(BrokerState::Fenced),
            in_state(BrokerState::Stopping),
        ],
        leaderless: image.leaderless_count(),
        under_replicated: lack.under_replicated,
        under_min_isr: lack.under_min_isr,
        lease: broker.metadata.lease_figures(),
    }
}

/// The line of a start: where clients connect, where the data is, what an acknowledgement means.
pub(super) fn say_serving(
    broker: &Broker,
    settings: &Settings,
    address: SocketAddr,
    http: Option<&HttpServer>,
) {
    let data: Vec<String> = settings
        .data
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let flush = match settings.flush {
        FlushMode::Ack => "ack (acknowledged once it is fsynced)",
        FlushMode::Async => "async (acknowledged from the page cache)",
    };
    let http = http.map_or_else(|| "off".to_owned(), |http| http.address().to_string());
    tracing::info!(
        listen = %address,
        http,
        data = data.join(","),
        flush,
        cluster = %broker.identity.cluster,
        broker = %broker.identity.broker,
        topics = broker.metadata.image().topic_count(),
        "serving"
    );
}
