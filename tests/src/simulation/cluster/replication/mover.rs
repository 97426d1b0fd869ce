//! Moves leaders and replicas and deletes records while things go wrong, as somebody would who
//! maintains the cluster.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use strandline_client::{
    Client, ClientError,
    connection::Connection,
    protocol::{
        BrokerId, Offset, PartitionId, TopicPartition,
        messages::{
            DrainBrokerRequest, Duty, ElectLeadersRequest, Election, PartitionName,
            ReassignPartitionsRequest, Reassignment,
        },
    },
};
use tokio::time::{sleep, timeout};

use super::{
    super::{address_of, options},
    Replication,
    placement::Placed,
    topics::{PARTITIONS, Trimmed},
};
use crate::random::Random;

const NAME: &str = "mover";

/// How often it did what.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moves {
    pub(super) elections: u64,
    pub(super) drains: u64,
    pub(super) reassignments: u64,
    pub(super) deletions: u64,
    pub(super) refused: u64,
}

impl Replication {
    /// Runs for as long as things go wrong; then nobody is drained any more.
    pub(in crate::simulation::cluster) async fn mend_and_move(self: Rc<Self>) -> turmoil::Result {
        let mut random = Random::new(self.plan.seed, 860);
        let until = self.now() + self.plan.faults_for;
        self.topics_are_there().await;
        let client = self.client(NAME, &mut random).await;
        while self.now() < until {
            sleep(random.ms(100..1500)).await;
            match random.within(0..10) {
                0..=3 => self.elect(&mut random).await,
                4 | 5 => self.drain(&mut random).await,
                6 | 7 => self.reassign(&mut random).await,
                _ => self.delete(&client, &mut random).await,
            }
        }
        self.undrain_all().await;
        Ok(())
    }

    /// Takes the leaderships from whoever cannot hear of it, as soon as that is wished.
    pub(in crate::simulation::cluster) async fn unseat(self: Rc<Self>) -> turmoil::Result {
        let mut random = Random::new(self.plan.seed, 862);
        // Topics are not placed on who is drained.
        self.topics_are_there().await;
        self.unseat.take();
        while !self.stop.get() {
            sleep(Duration::from_millis(10)).await;
            if let Some(broker) = self.unseat.take() {
                for _ in 0..4 {
                    self.set_duty(broker, Duty::Drained, &mut random).await;
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
        Ok(())
    }

    /// Wishes for that.
    pub(in crate::simulation::cluster) fn is_to_be_unseated(&self, broker: BrokerId) {
        self.unseat.set(Some(broker));
    }

    fn moved(&self, what: &str, outcome: Result<String, ClientError>) {
        let is_refused = outcome.is_err();
        self.trace.note(NAME, format_args!("{what}: {outcome:?}"));
        let mut moves = self.moves.get();
        moves.refused += u64::from(is_refused);
        self.moves.set(moves);
    }

    /// Any broker; it passes on what only the controller can do.
    async fn connect(&self, random: &mut Random) -> Result<Connection, ClientError> {
        let machine = random.index(self.plan.machines);
        Connection::open(&address_of(machine), &options(NAME)).await
    }

    fn any(&self, random: &mut Random) -> Option<(TopicPartition, Placed)> {
        let all = self.placement.partitions();
        if all.is_empty() {
            return None;
        }
        let (_, id, placed) = all[random.index(all.len())].clone();
        Some((id, placed))
    }

    async fn elect(&self, random: &mut Random) {
        let Some((id, _)) = self.any(random) else {
            return;
        };
        self.elect_one(id, Election::Preferred, random).await;
    }

    pub(super) async fn elect_one(
        &self,
        id: TopicPartition,
        election: Election,
        random: &mut Random,
    ) {
        let request = ElectLeadersRequest {
            election,
            partitions: vec![PartitionName {
                topic_id: id.topic,
                partition: id.partition,
            }],
        };
        let mut moves = self.moves.get();
        moves.elections += 1;
        self.moves.set(moves);
        let outcome = async {
            let connection = self.connect(random).await?;
            let (told, _) = connection.request(&request, Vec::new()).await?;
            Ok(format!("{:?}", told.partitions))
        };
        self.moved(&format!("elects in {id}, {election:?}"), outcome.await);
    }

    /// Takes the leaderships from a broker, or gives one that was drained its duty back.
    async fn drain(&self, random: &mut Random) {
        let drained = self.drained.borrow().iter().next().copied();
        let (broker, duty) = match drained {
            Some(broker) => (broker, Duty::Full),
            None => {
                let machine = random.index(self.plan.machines);
                (BrokerId(machine as i32 + 1), Duty::Drained)
            }
        };
        self.set_duty(broker, duty, random).await;
    }

    async fn set_duty(&self, broker: BrokerId, duty: Duty, random: &mut Random) {
        // It holds from when it may have been heard.
        self.drained.borrow_mut().insert(broker);
        let request = DrainBrokerRequest {
            broker_id: broker,
            duty,
        };
        let mut moves = self.moves.get();
        moves.drains += 1;
        self.moves.set(moves);
        let outcome = async {
            let connection = self.connect(random).await?;
            let (told, _) = connection.request(&request, Vec::new()).await?;
            Ok(format!("{told:?}"))
        };
        let outcome = outcome.await;
        if outcome.is_ok() && duty == Duty::Full {
            self.drained.borrow_mut().remove(&broker);
        }
        self.moved(&format!("broker {broker} is {duty:?}"), outcome);
    }

    async fn undrain_all(&self) {
        let mut random = Random::new(self.plan.seed, 861);
        for _ in 0..200 {
            let Some(broker) = self.drained.borrow().iter().next().copied() else {
                return;
            };
            self.set_duty(broker, Duty::Full, &mut random).await;
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Other replicas, or the same in another order; or takes back what is under way.
    async fn reassign(&self, random: &mut Random) {
        let Some((id, placed)) = self.any(random) else {
            return;
        };
        let replicas = if placed.is_moving() && random.one_in(3) {
            None
        } else {
            let mut all: Vec<_> = (1..=self.plan.machines as i32).map(BrokerId).collect();
            for place in (1..all.len()).rev() {
                all.swap(place, random.index(place + 1));
            }
            let factor = placed.replicas.len() - placed.adding.len();
            all.truncate(factor.max(2));
            Some(all)
        };
        let what = format!("moves {id} to {replicas:?}");
        let request = ReassignPartitionsRequest {
            partitions: vec![Reassignment {
                topic_id: id.topic,
                partition: id.partition,
                replicas,
            }],
            throttle_bytes_per_second: None,
        };
        let mut moves = self.moves.get();
        moves.reassignments += 1;
        self.moves.set(moves);
        let outcome = async {
            let connection = self.connect(random).await?;
            let (told, _) = connection.request(&request, Vec::new()).await?;
            Ok(format!("{:?}", told.partitions))
        };
        self.moved(&what, outcome.await);
    }

    /// Deletes the older half of what was acknowledged in a partition.
    async fn delete(&self, client: &Client, random: &mut Random) {
        let trimmed: Vec<_> = (0..self.topics.len())
            .filter(|topic| self.topics[*topic].trimmed == Trimmed::Sometimes)
            .collect();
        if trimmed.is_empty() {
            return;
        }
        let topic = trimmed[random.index(trimmed.len())];
        let partition = random.index(PARTITIONS.unsigned_abs() as usize) as i32;
        let end = self
            .ledger
            .borrow()
            .acknowledged_end((topic, partition), self.now());
        let before = BTreeMap::from([(PartitionId(partition), Some(Offset(end / 2)))]);
        let admin = client.admin();
        let deleted = admin.delete_records(self.topics[topic].name, &before);
        let Ok(deleted) = timeout(Duration::from_secs(3), deleted).await else {
            return;
        };
        let mut moves = self.moves.get();
        moves.deletions += u64::from(deleted.is_ok());
        self.moves.set(moves);
        let what = format!("deletes from {topic}-{partition} below {}", end / 2);
        self.moved(&what, deleted.map(|it| format!("{it:?}")));
    }
}
