//! Replicated topics: what clients do with them while things go wrong, and what must hold of every
//! copy.
//!
//! `topics` is what there is and what is promised of it; `producers`, `consumers` and `mover` are
//! clients; `ledger` is what they know, `replicas` what lies in logs, `placement` what metadata
//! tells; `ending` is what is asked for once nothing goes wrong any more.

mod batches;
mod consumers;
mod ending;
mod ledger;
mod mover;
mod placement;
mod producers;
mod replicas;
mod rot;
mod topics;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    rc::Rc,
    time::Duration,
};

use strandline_client::{
    Client, ConsumerOptions, OutOfRange,
    protocol::{BrokerId, PartitionId, TopicPartition, messages::Acks},
};
use tokio::time::sleep;

use self::{
    ledger::{Ledger, Place},
    mover::Moves,
    placement::Placement,
    replicas::Replicas,
    topics::TopicPlan,
};
use super::{
    ClusterPlan, Trace, address_of,
    checks::Checks,
    machines::{Machines, rack_of},
    options,
};
use crate::{history::Mark, random::Random};

pub(super) use consumers::After;
pub(super) use producers::PRODUCERS;

/// How many consumers follow.
pub(super) const CONSUMERS: u32 = 3;

/// See the module.
pub(super) struct Replication {
    plan: ClusterPlan,
    trace: Trace,
    checks: Rc<Checks>,
    topics: Vec<TopicPlan>,
    are_there: Cell<bool>,
    ledger: RefCell<Ledger>,
    replicas: Replicas,
    placement: Placement,
    /// How often the power of each machine has gone, as far as was looked.
    power_losses: Vec<Cell<u32>>,
    /// Who is to lose its leaderships at once, behind its back.
    unseat: Cell<Option<BrokerId>>,
    /// Brokers that may be drained.
    drained: RefCell<BTreeSet<BrokerId>>,
    moves: Cell<Moves>,
    writers_left: Cell<u32>,
    /// How often somebody was told where partitions end.
    ends_asked: Cell<u64>,
    /// How many records were there when everything was read.
    found: Cell<u64>,
    /// Tells clients to come to an end.
    pub(super) stop: Cell<bool>,
}

impl Replication {
    pub(super) fn new(plan: &ClusterPlan, checks: &Rc<Checks>, trace: &Trace) -> Self {
        let topics = TopicPlan::all(plan);
        trace.note("plan", format_args!("{topics:?}"));
        let (checks, trace) = (Rc::clone(checks), trace.clone());
        Self {
            plan: *plan,
            are_there: Cell::new(false),
            ledger: RefCell::default(),
            replicas: Replicas::new(trace.clone(), Rc::clone(&checks)),
            placement: Placement::new(trace.clone(), Rc::clone(&checks), topics.clone()),
            power_losses: vec![Cell::new(0); plan.machines],
            unseat: Cell::new(None),
            drained: RefCell::default(),
            moves: Cell::default(),
            writers_left: Cell::new(PRODUCERS),
            ends_asked: Cell::new(0),
            found: Cell::new(0),
            stop: Cell::new(false),
            topics,
            trace,
            checks,
        }
    }

    fn violation(&self, what: String) {
        self.checks.violation(what);
    }

    /// The time since the simulation began, for clients and checks alike.
    fn now(&self) -> Duration {
        self.trace.now()
    }

    /// Looks at all metadata and all replicas, after a step.
    pub(super) fn look(&self, machines: &Machines) {
        if let Some(image) = self.checks.newest_image() {
            self.placement.follow(&image);
        }
        for (machine, known) in machines.all().iter().zip(&self.power_losses) {
            let losses = machine.power_losses.get();
            if known.replace(losses) < losses {
                self.placement.lost_power(machine.broker);
            }
            if let Some((epoch, _)) = machine.observer().and_then(|member| member.lease()) {
                self.placement.has_registered(machine.broker, epoch);
            }
        }
        self.replicas.set_lossy(self.placement.lossy());
        let is_ours = |topic: &str| self.topics.iter().any(|it| it.name == topic);
        for machine in machines.all() {
            if let Some(partitions) = machine.partitions() {
                self.replicas.look(machine, &partitions, is_ours);
            }
        }
        self.replicas.follow_placement(&self.placement.partitions());
    }

    /// Creates the topics.
    pub(super) async fn create(self: Rc<Self>) -> turmoil::Result {
        let name = "founder";
        let mut random = Random::new(self.plan.seed, 805);
        let admin = self.client(name, &mut random).await.admin();
        for topic in &self.topics {
            let request = topic.request();
            while let Err(error) = admin.create_topics(std::slice::from_ref(&request)).await {
                self.trace
                    .note(name, format_args!("{}: {error}", topic.name));
                if admin.describe_topics(&[topic.name]).await.is_ok() {
                    break;
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        self.are_there.set(true);
        Ok(())
    }

    async fn topics_are_there(&self) {
        while !self.are_there.get() {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// A client of any broker; asks until one answers.
    async fn client(&self, name: &str, random: &mut Random) -> Client {
        loop {
            let mut brokers: Vec<_> = (0..self.plan.machines).map(address_of).collect();
            brokers.rotate_left(random.index(self.plan.machines));
            match Client::connect(&brokers, options(name)).await {
                Ok(client) => return client,
                Err(error) => self.trace.detail(name, format_args!("connect: {error}")),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn place(&self, topic: &str, partition: PartitionId) -> Option<Place> {
        let index = self.topics.iter().position(|it| it.name == topic)?;
        Some((index, partition.0))
    }

    /// Whether its leader was elected although it need not have everything.
    fn is_lossy(&self, (topic, partition): Place) -> bool {
        let id = self.placement.id(topic, partition);
        id.is_some_and(|id| self.is_lossy_id(id))
    }

    fn is_lossy_id(&self, id: TopicPartition) -> bool {
        self.placement.lossy().contains_key(&id)
    }

    /// With `acks=1` a write is lost with its leader, but not once consumers could read it.
    fn may_be_lost(&self, place: Place, mark: Mark, offset: i64) -> bool {
        let id = self.placement.id(place.0, place.1);
        self.topics[place.0].acks == Acks::Leader
            && !id.is_some_and(|id| self.replicas.is_committed(id, offset, mark))
    }
}

/// How the consumer of that number reads: the second one from the replica near it.
fn near(number: u32, plan: &ClusterPlan) -> ConsumerOptions {
    let machine = Random::new(plan.seed, 806).index(plan.machines);
    ConsumerOptions {
        rack: (number == 1).then(|| rack_of(machine)),
        out_of_range: OutOfRange::Beginning,
        ..ConsumerOptions::default()
    }
}
