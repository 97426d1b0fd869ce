//! The cluster as people see it.

use std::time::Duration;

use openraft::{Instant as _, async_runtime::watch::WatchReceiver as _};
use strandline_core::metadata::{Broker, BrokerState, Image, Voter};
use strandline_protocol::{
    BrokerId, Offset,
    messages::{
        BrokerDescription, BrokerState as TheirState, DescribeClusterResponse, MemberDescription,
        MemberRole,
    },
};
use strandline_storage::directory::RaftId;

use super::{MetadataLog, member::ControllerAt, quorum::offset_of};

/// How long a majority may be silent before its controller counts as none. Heartbeats of the quorum
/// go several times a second.
const MAJORITY_SILENT_MAX: Duration = Duration::from_secs(2);

impl MetadataLog {
    /// The state of the cluster as this broker, `me`, sees it: the controller sees more.
    #[must_use]
    pub fn describe(&self, me: BrokerId) -> DescribeClusterResponse {
        let image = self.image();
        let partitions = count(image.partition_count());
        let lack = image.lack_of_replicas();
        DescribeClusterResponse {
            cluster_id: image.cluster(),
            answered_by: me,
            controller: self.controller_as(me),
            controller_epoch: image.term(),
            metadata_version: image.metadata_version(),
            version: image.version(),
            members: self.members(&image),
            voters_changing: image
                .membership()
                .is_some_and(|known| !known.voters_before.is_empty()),
            brokers: image
                .brokers()
                .map(|broker| self.broker(&image, broker, me))
                .collect(),
            topics: count(image.topic_count()),
            partitions,
            partitions_without_leader: count(image.leaderless_count()),
            partitions_under_replicated: count(lack.under_replicated),
            partitions_under_min_isr: count(lack.under_min_isr),
            throttle_bytes_per_second: image.replication_throttle(),
        }
    }

    /// Who is the controller, as far as this broker, `me`, knows.
    #[must_use]
    pub fn controller_as(&self, me: BrokerId) -> Option<BrokerId> {
        match self.controller() {
            ControllerAt::Here if self.is_cut_off() => None,
            ControllerAt::Here => Some(me),
            ControllerAt::Broker { broker, .. } => Some(broker),
            ControllerAt::Unknown => None,
        }
    }

    /// Whether this controller has not heard of a majority of the voters for so long that it can
    /// change nothing.
    fn is_cut_off(&self) -> bool {
        let Some(raft) = self.member.get() else {
            return false;
        };
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let acked = metrics.last_quorum_acked.as_ref();
        acked.is_some_and(|acked| acked.elapsed() > MAJORITY_SILENT_MAX)
    }

    fn members(&self, image: &Image) -> Vec<MemberDescription> {
        let Some(membership) = image.membership() else {
            return Vec::new();
        };
        let voters = membership
            .voters
            .iter()
            .map(|voter| (voter, MemberRole::Voter));
        let is_leaving = |voter: &&Voter| !membership.voters.contains(voter);
        let leaving = membership.voters_before.iter().filter(is_leaving);
        let learners = membership.learners.iter();
        let learners = learners.filter(|voter| !membership.voters_before.contains(voter));
        voters
            .chain(leaving.map(|voter| (voter, MemberRole::LeavingVoter)))
            .chain(learners.map(|voter| (voter, MemberRole::Learner)))
            .map(|(member, role)| self.member_description(member, role))
            .collect()
    }

    fn member_description(&self, member: &Voter, role: MemberRole) -> MemberDescription {
        let id = RaftId(member.raft_id);
        let (mut log_end, mut heard_ms_ago) = (None, None);
        if let Some(raft) = self.member.get() {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            if id == metrics.id {
                let last = metrics
                    .last_log_index
                    .and_then(|last| i64::try_from(last).ok());
                log_end = last.map(|last| Offset(last).plus(1));
            } else {
                let matched = metrics.replication.as_ref().and_then(|all| all.get(&id));
                let matched = matched.and_then(Option::as_ref);
                log_end = matched.map(|matched| offset_of(matched).plus(1));
                let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(&id));
                heard_ms_ago = heard
                    .and_then(Option::as_ref)
                    .and_then(|heard| u64::try_from(heard.elapsed().as_millis()).ok());
            }
        }
        MemberDescription {
            broker_id: member.broker,
            raft_id: member.raft_id,
            role,
            log_end,
            heard_ms_ago,
        }
    }

    fn broker(&self, image: &Image, broker: &Broker, me: BrokerId) -> BrokerDescription {
        let registration = &broker.registration;
        let id = registration.broker;
        let lease = self.lessor.of(id);
        BrokerDescription {
            id,
            epoch: broker.epoch,
            host: registration.host.clone(),
            port: registration.port,
            rack: registration.rack.clone(),
            software: registration.software.clone(),
            state: match broker.state {
                BrokerState::Active => TheirState::Active,
                BrokerState::Fenced => TheirState::Fenced,
                BrokerState::Stopping => TheirState::Stopping,
            },
            lease_ms: lease.and_then(|(left, _)| u64::try_from(left.as_millis()).ok()),
            applied: lease.and_then(|(_, applied)| applied),
            duty: broker.duty,
            leads: count(image.led_count(id)),
            keeps: count(image.kept_count(id)),
            full_directories: if id == me {
                count(self.own.full().len())
            } else {
                count(self.lessor.full(id))
            },
        }
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
