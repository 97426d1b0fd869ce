//! The machines that brokers run on: their disks, their clocks, and how they go down and come back.

use std::{
    cell::{Cell, RefCell},
    future::pending,
    rc::Rc,
    time::Duration,
};

use strandline_broker::{
    metadata::{Observer, members_started},
    partition::{PartitionsObserver, partitions_started},
    server::Server,
    settings::Settings,
};
use strandline_client::net::skew_clock;
use strandline_core::metadata::{BrokerState, Image};
use strandline_protocol::{BrokerEpoch, BrokerId};
use strandline_storage::fs::simulated::SimulatedDisk;
use tokio::sync::Notify;

use super::{ClusterPlan, Disks, Trace, address_of, checks::Checks, host_of};
use crate::simulation::PORT;

/// How much the clocks of hosts may seem to differ, as everything is looked at between steps only.
const CLOCKS_DIFFER: Duration = Duration::from_millis(2);

/// One machine.
pub(super) struct Machine {
    /// Its place among the others.
    pub(super) index: usize,
    /// The name of its host.
    pub(super) host: String,
    /// The number of its broker.
    pub(super) broker: BrokerId,
    others: Vec<String>,
    disk: RefCell<SimulatedDisk>,
    disks: Disks,
    /// What its second start has found.
    backup: RefCell<Option<SimulatedDisk>>,
    /// Asks the broker that runs to stop in order.
    stop: RefCell<Rc<Notify>>,
    /// Whether its disk was told to fail, so that a broker may refuse to stop or to start.
    pub(super) fails: Cell<bool>,
    /// How often a broker began to serve.
    pub(super) starts: Cell<u32>,
    /// Whether a broker serves now.
    serves: Cell<bool>,
    /// How often its disk was wiped.
    pub(super) wiped: Cell<u32>,
    /// It is off and stays so.
    pub(super) is_gone: Cell<bool>,
    /// How wrong its clock is, in milliseconds.
    pub(super) skew_ms: Rc<Cell<i64>>,
    /// The member that runs on it, from its start on.
    member: RefCell<Option<Observer>>,
    /// The partitions of the broker that runs on it.
    partitions: RefCell<Option<PartitionsObserver>>,
    /// How often its power went while a broker ran, or before one had stopped in order.
    pub(super) power_losses: Cell<u32>,
    /// How many members have run on it.
    incarnation: Cell<u32>,
    /// When the last one of them opened its log.
    opened: Cell<Duration>,
    trace: Trace,
}

impl Machine {
    fn new(plan: &ClusterPlan, index: usize, trace: Trace) -> Self {
        let others = (0..plan.machines).filter(|other| *other != index);
        Self {
            index,
            host: host_of(index),
            broker: BrokerId(index as i32 + 1),
            others: others.map(address_of).collect(),
            disk: RefCell::new(SimulatedDisk::new(plan.seed ^ ((index as u64 + 1) << 32))),
            disks: plan.disks,
            backup: RefCell::default(),
            stop: RefCell::default(),
            fails: Cell::new(false),
            starts: Cell::new(0),
            serves: Cell::new(false),
            wiped: Cell::new(0),
            is_gone: Cell::new(false),
            skew_ms: Rc::default(),
            member: RefCell::default(),
            partitions: RefCell::default(),
            power_losses: Cell::new(0),
            incarnation: Cell::new(0),
            opened: Cell::default(),
            trace,
        }
    }

    pub(super) fn disk(&self) -> SimulatedDisk {
        self.disk.borrow().clone()
    }

    /// Puts the disk there that a power cut or a kill has left, or another one.
    pub(super) fn restart(&self, left: impl FnOnce(&SimulatedDisk) -> SimulatedDisk) {
        let mut disk = left(&self.disk.borrow());
        if self.disks == Disks::Restored {
            // A copy of it is what a kill leaves.
            disk = self.backup.borrow_mut().get_or_insert(disk).kill();
        }
        self.disk.replace(disk);
        self.stop.take();
        self.fails.set(false);
        self.serves.set(false);
        self.member.take();
        self.partitions.take();
    }

    pub(super) fn ask_to_stop(&self) {
        self.stop.borrow().notify_one();
    }

    /// The member that runs on it, if one does.
    pub(super) fn observer(&self) -> Option<Observer> {
        self.member.borrow().clone()
    }

    /// The partitions of the broker that runs on it, if one does.
    pub(super) fn partitions(&self) -> Option<PartitionsObserver> {
        self.partitions.borrow().clone()
    }

    /// Whether its broker, registered under `epoch`, takes its lease to hold.
    pub(super) fn holds_lease(&self, epoch: BrokerEpoch, now: Duration) -> bool {
        let lease = self.observer().and_then(|member| member.lease());
        let Some((registered, until)) = lease else {
            return false;
        };
        registered == epoch && self.opened.get() + until > now + CLOCKS_DIFFER
    }

    /// How many members have run on it, with the one that runs.
    pub(super) fn incarnation(&self) -> u32 {
        self.incarnation.get()
    }

    /// The Raft id of the member that runs on it.
    pub(super) fn raft_id(&self) -> Option<u64> {
        self.observer().map(|member| member.observe().raft_id)
    }

    /// The broker, from its start to its end.
    pub(super) async fn serve(self: Rc<Self>) -> turmoil::Result {
        skew_clock(Rc::clone(&self.skew_ms));
        let stop = Rc::clone(&self.stop.borrow());
        let disk = self.disk();
        let started = tokio::select! {
            biased;
            started = Server::start_on(self.settings(), disk.file_system()) => started,
            () = stop.notified() => {
                self.trace.note(&self.host, "is stopped while it starts");
                return Ok(());
            }
        };
        let server = match started {
            Ok(server) => server,
            Err(error) if disk.is_off() || self.fails.get() => {
                self.trace
                    .note(&self.host, format_args!("start: {error:#}"));
                return pending().await;
            }
            Err(error) => {
                let host = &self.host;
                return Err(format!("{host} does not start: {error:#}").into());
            }
        };
        self.starts.set(self.starts.get() + 1);
        self.serves.set(true);
        self.trace.note(&self.host, "serves");
        stop.notified().await;
        let stopped = server.shutdown().await;
        self.trace.note(&self.host, format_args!("{stopped:?}"));
        match stopped {
            Err(error) if !disk.is_off() && !self.fails.get() => {
                Err(format!("{} does not stop: {error:#}", self.host).into())
            }
            _ => Ok(()),
        }
    }

    fn settings(&self) -> Settings {
        let node = self.broker.to_string();
        let advertise = format!("{}:{PORT}", self.host);
        let rack = rack_of(self.index);
        let settings = [
            ("data", "/data"),
            ("listen", "0.0.0.0:9290"),
            ("advertise", advertise.as_str()),
            ("node_id", node.as_str()),
            ("rack", rack.as_str()),
            ("http", "off"),
            ("shutdown_timeout", "2s"),
            ("limits.idle_timeout", "20s"),
            ("limits.write_timeout", "5s"),
            ("storage.checkpoint_interval", "300ms"),
            ("storage.retention_interval", "500ms"),
            ("replication.lag_max", "2s"),
        ];
        let mut settings = Settings::with(&settings).expect("valid settings");
        // The first one founds the cluster; with another disk, it joins as everybody else.
        if self.index > 0 || self.wiped.get() > 0 {
            let others = self.others.iter();
            settings.join = others.map(|it| it.parse().expect("an address")).collect();
        }
        settings
    }
}

/// In which rack a machine stands: each has its own.
pub(super) fn rack_of(machine: usize) -> String {
    format!("rack-{}", machine + 1)
}

/// All machines.
pub(super) struct Machines {
    all: Vec<Rc<Machine>>,
}

impl Machines {
    pub(super) fn new(plan: &ClusterPlan, trace: &Trace) -> Self {
        let machines = 0..plan.machines;
        let all = machines.map(|index| Rc::new(Machine::new(plan, index, trace.clone())));
        Self { all: all.collect() }
    }

    pub(super) fn all(&self) -> &[Rc<Machine>] {
        &self.all
    }

    /// Those that are not off for ever.
    pub(super) fn left(&self) -> impl Iterator<Item = &Rc<Machine>> {
        self.all.iter().filter(|machine| !machine.is_gone.get())
    }

    /// Notes which members have started on which machine.
    pub(super) fn meet_members(&self, now: Duration) {
        for member in members_started() {
            let machine = self.all.iter().find(|it| it.broker == member.broker());
            if let Some(machine) = machine {
                machine.member.replace(Some(member));
                machine.incarnation.set(machine.incarnation.get() + 1);
                machine.opened.set(now);
            }
        }
        for partitions in partitions_started() {
            let machine = self.all.iter().find(|it| it.broker == partitions.broker());
            if let Some(machine) = machine {
                machine.partitions.replace(Some(partitions));
            }
        }
    }

    /// Writes down how every member is.
    pub(super) fn tell(&self) {
        for machine in self.left() {
            let Some(member) = machine.observer() else {
                machine.trace.note(&machine.host, "nothing runs on it");
                continue;
            };
            let now = member.observe();
            let (version, term) = (now.image.version(), now.image.term());
            machine.trace.note(
                &machine.host,
                format_args!(
                    "Raft id {}, serves {}, vote {:?}, leads {:?}, version {version} of term \
                     {term}, log {:?}",
                    now.raft_id,
                    machine.serves.get(),
                    now.vote,
                    now.leads,
                    now.log
                ),
            );
        }
    }

    /// How many voters there are to be.
    fn voters(&self) -> usize {
        3.min(self.all.len())
    }

    /// What is missing until the cluster is whole: everybody who is left serves, takes part and
    /// knows the same, one of them leads, and as many vote as should.
    pub(super) fn missing(&self, checks: &Checks) -> Option<String> {
        for machine in self.left() {
            if !machine.serves.get() {
                return Some(format!("{} does not serve", machine.host));
            }
        }
        let members: Vec<_> = self
            .left()
            .filter_map(|machine| machine.observer())
            .collect();
        let members: Vec<_> = members.iter().map(Observer::observe).collect();
        let leaders = members.iter().filter(|member| member.leads.is_some());
        if leaders.count() != 1 {
            return Some("there is not one leader".to_owned());
        }
        let newest = checks.newest_version();
        for (machine, member) in self.left().zip(&members) {
            if member.image.version() < newest {
                return Some(format!(
                    "{} is at {} and not at {newest}",
                    machine.host,
                    member.image.version()
                ));
            }
        }
        members
            .first()
            .and_then(|member| self.missing_in(&member.image))
    }

    fn missing_in(&self, image: &Image) -> Option<String> {
        for machine in self.left() {
            let host = &machine.host;
            match image.broker(machine.broker) {
                None => return Some(format!("{host} is not registered")),
                Some(broker) if broker.state != BrokerState::Active => {
                    return Some(format!("{host} is {:?}", broker.state));
                }
                Some(_) => {}
            }
        }
        let membership = image.membership()?;
        if !membership.voters_before.is_empty() {
            return Some("the voters change".to_owned());
        }
        if membership.voters.len() < self.voters() {
            return Some(format!("only {:?} vote", membership.voters));
        }
        let left: Vec<_> = self
            .left()
            .filter_map(|machine| machine.raft_id())
            .collect();
        let is_lost = |voter: u64| {
            let is_here = left.contains(&voter);
            !is_here && self.all.iter().all(|machine| !machine.is_gone.get())
        };
        membership
            .voters
            .iter()
            .find(|voter| is_lost(voter.raft_id))
            .map(|voter| format!("{voter:?} votes, and its disk is gone"))
    }
}
