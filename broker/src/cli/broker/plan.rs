//! Where the replicas of a broker go that retires: pure.

use std::collections::{BTreeMap, BTreeSet};

use strandline_client::TopicDescription;
use strandline_protocol::{
    BrokerId, PartitionId,
    messages::{BrokerDescription, BrokerState, DescribeClusterResponse, Duty, PartitionMetadata},
};

/// A replica that has to move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub topic: String,
    pub partition: PartitionId,
    pub from: Vec<BrokerId>,
    pub to: Vec<BrokerId>,
}

/// What has to happen before a broker keeps nothing.
#[derive(Debug, Default)]
pub struct Plan {
    /// What is to be moved.
    pub moves: Vec<Move>,
    /// What moves away already.
    pub under_way: Vec<(String, PartitionId)>,
}

/// A partition that cannot be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    pub topic: String,
    pub partition: PartitionId,
    pub why: Why,
}

/// Why it cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No other broker can be found for so many replicas, with so many that can take one.
    NoPlace { replicas: usize, brokers: usize },
    /// Nobody leads it, so that nothing can be copied.
    NoLeader,
}

/// Plans it: into racks that the other replicas are not in, then to whom keeps least, then by
/// number. The new replica takes the place of the old one in the order of preference, so that
/// leaderships stay spread as they are.
///
/// # Errors
/// The first partition that cannot be moved.
pub fn plan(
    cluster: &DescribeClusterResponse,
    topics: &[TopicDescription],
    leaving: BrokerId,
) -> Result<Plan, Stuck> {
    let mut places = Places::new(cluster, topics, leaving);
    let mut plan = Plan::default();
    for topic in topics {
        for partition in &topic.partitions {
            if !partition.replicas.contains(&leaving) {
                continue;
            }
            let stuck = |why| Stuck {
                topic: topic.name.clone(),
                partition: partition.id,
                why,
            };
            if partition.leader.is_none() {
                return Err(stuck(Why::NoLeader));
            }
            if partition.removing.contains(&leaving) {
                plan.under_way.push((topic.name.clone(), partition.id));
                continue;
            }
            let from = target(partition);
            let others: Vec<_> = from.iter().copied().filter(|id| *id != leaving).collect();
            let Some(chosen) = places.choose(&others) else {
                return Err(stuck(Why::NoPlace {
                    replicas: from.len(),
                    brokers: places.candidates.len(),
                }));
            };
            let to = from
                .iter()
                .map(|&id| if id == leaving { chosen } else { id });
            plan.moves.push(Move {
                topic: topic.name.clone(),
                partition: partition.id,
                to: to.collect(),
                from,
            });
        }
    }
    Ok(plan)
}

/// Where a partition is to lie once what is under way is done.
fn target(partition: &PartitionMetadata) -> Vec<BrokerId> {
    let stays = |id: &&BrokerId| !partition.removing.contains(id);
    partition.replicas.iter().filter(stays).copied().collect()
}

/// Who can take a replica, and how much each keeps.
struct Places<'a> {
    candidates: Vec<&'a BrokerDescription>,
    racks: BTreeMap<BrokerId, Option<&'a str>>,
    keeps: BTreeMap<BrokerId, usize>,
}

impl<'a> Places<'a> {
    fn new(
        cluster: &'a DescribeClusterResponse,
        topics: &[TopicDescription],
        leaving: BrokerId,
    ) -> Self {
        let mut keeps = BTreeMap::new();
        let partitions = topics.iter().flat_map(|topic| &topic.partitions);
        for id in partitions.flat_map(target) {
            *keeps.entry(id).or_default() += 1;
        }
        let may_take = |it: &&BrokerDescription| {
            it.id != leaving && it.state == BrokerState::Active && it.duty == Duty::Full
        };
        let brokers = cluster.brokers.iter();
        Self {
            candidates: brokers.clone().filter(may_take).collect(),
            racks: brokers.map(|it| (it.id, it.rack.as_deref())).collect(),
            keeps,
        }
    }

    fn choose(&mut self, others: &[BrokerId]) -> Option<BrokerId> {
        let racks: BTreeSet<_> = others
            .iter()
            .filter_map(|id| self.racks.get(id).copied().flatten())
            .collect();
        let free = self.candidates.iter().filter(|it| !others.contains(&it.id));
        let chosen = free.min_by_key(|it| {
            let is_doubled = it.rack.as_deref().is_some_and(|rack| racks.contains(rack));
            let keeps = self.keeps.get(&it.id).copied().unwrap_or_default();
            (is_doubled, keeps, it.id)
        })?;
        let chosen = chosen.id;
        *self.keeps.entry(chosen).or_default() += 1;
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use strandline_protocol::{
        BrokerEpoch, ClusterId, LeaderEpoch, Offset, PartitionEpoch, TopicId,
    };

    use super::*;

    fn cluster(brokers: &[(i32, &str)]) -> DescribeClusterResponse {
        let brokers = brokers.iter().map(|&(id, rack)| BrokerDescription {
            id: BrokerId(id),
            epoch: BrokerEpoch(1),
            host: "a".to_owned(),
            port: 1,
            rack: (!rack.is_empty()).then(|| rack.to_owned()),
            software: String::new(),
            state: BrokerState::Active,
            lease_ms: None,
            applied: None,
            duty: Duty::Full,
            leads: 0,
            keeps: 0,
            full_directories: 0,
        });
        DescribeClusterResponse {
            cluster_id: ClusterId([1; 16]),
            answered_by: BrokerId(1),
            controller: Some(BrokerId(1)),
            controller_epoch: LeaderEpoch(1),
            metadata_version: 3,
            version: Offset(1),
            members: Vec::new(),
            voters_changing: false,
            brokers: brokers.collect(),
            topics: 1,
            partitions: 1,
            partitions_without_leader: 0,
            partitions_under_replicated: 0,
            partitions_under_min_isr: 0,
            throttle_bytes_per_second: None,
        }
    }

    fn topic(replicas: &[&[i32]]) -> TopicDescription {
        let partitions = (0..).zip(replicas).map(|(id, replicas)| PartitionMetadata {
            id: PartitionId(id),
            leader: Some(BrokerId(1)),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            replicas: replicas.iter().map(|&id| BrokerId(id)).collect(),
            isr: Vec::new(),
            eligible: Vec::new(),
            adding: Vec::new(),
            removing: Vec::new(),
        });
        TopicDescription {
            name: "t".to_owned(),
            id: TopicId([1; 16]),
            compression: "producer".to_owned(),
            batch_bytes_max: 0,
            partitions: partitions.collect(),
        }
    }

    fn moves(plan: &Plan) -> Vec<Vec<i32>> {
        let to = plan
            .moves
            .iter()
            .map(|it| it.to.iter().map(|id| id.0).collect());
        to.collect()
    }

    #[test]
    fn replicas_go_to_other_racks_and_then_to_whom_keeps_least() {
        let racks = [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "c"), (6, "c")];
        let cluster = cluster(&racks);
        // Broker 4 would be in the rack of broker 1; 5 keeps less than 6.
        let topics = [topic(&[&[3, 1, 2], &[1, 6], &[1, 2], &[2, 3], &[3, 1]])];
        let plan = plan(&cluster, &topics, BrokerId(3)).unwrap();
        assert_eq!(moves(&plan), [vec![5, 1, 2], vec![2, 4], vec![5, 1]]);
        assert!(plan.under_way.is_empty());
    }

    #[test]
    fn racks_are_doubled_rather_than_copies_lost() {
        let cluster = cluster(&[(1, "a"), (2, "b"), (3, "b"), (4, "a")]);
        let topics = [topic(&[&[1, 2]])];
        let plan = plan(&cluster, &topics, BrokerId(2)).unwrap();
        assert_eq!(moves(&plan), [vec![1, 3]]);
    }

    #[test]
    fn whoever_is_not_there_takes_nothing_and_too_few_are_told() {
        let mut cluster = cluster(&[(1, ""), (2, ""), (3, ""), (4, ""), (5, "")]);
        cluster.brokers[3].state = BrokerState::Fenced;
        cluster.brokers[4].duty = Duty::Drained;
        let topics = [topic(&[&[1, 2, 3]])];
        let refused = plan(&cluster, &topics, BrokerId(3)).unwrap_err();
        assert_eq!(
            refused.why,
            Why::NoPlace {
                replicas: 3,
                brokers: 2
            }
        );
    }

    #[test]
    fn what_nobody_leads_cannot_be_moved() {
        let cluster = cluster(&[(1, ""), (2, ""), (3, "")]);
        let mut topics = [topic(&[&[2], &[3]])];
        topics[0].partitions[1].leader = None;
        // Only what the leaving broker keeps is in the way.
        assert!(plan(&cluster, &topics, BrokerId(2)).is_ok());
        let refused = plan(&cluster, &topics, BrokerId(3)).unwrap_err();
        assert_eq!(
            (refused.partition, refused.why),
            (PartitionId(1), Why::NoLeader)
        );
    }

    #[test]
    fn what_moves_already_is_waited_for_and_what_it_becomes_counts() {
        let cluster = cluster(&[(1, ""), (2, ""), (3, ""), (4, "")]);
        let mut topics = [topic(&[&[2, 1, 3], &[1, 3, 2]])];
        // The first moves away from broker 3 already; the second away from broker 1.
        topics[0].partitions[0].removing = vec![BrokerId(3)];
        topics[0].partitions[1].removing = vec![BrokerId(1)];
        let plan = plan(&cluster, &topics, BrokerId(3)).unwrap();
        assert_eq!(plan.under_way, [("t".to_owned(), PartitionId(0))]);
        assert_eq!(moves(&plan), [vec![4, 2]]);
    }
}
