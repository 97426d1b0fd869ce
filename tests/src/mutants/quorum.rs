//! Brokers on machines that lose power, disks and leaderships: what they acknowledge stays, what
//! they show stays, who comes late gets all of it, and who waits is answered.
//!
//! The brokers are whole ones, in this process, each on a thread with a runtime and a simulated
//! disk of its own; they and the client meet on the loopback interface. So times are real ones, and
//! a seed says who is hit, not when everything happens.

mod leader_change;
mod machine;
mod unknown_partition;
mod writes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, thread,
    time::{Duration, Instant},
};

use machine::Machine;
use strandline_broker::settings::Settings;
use strandline_client::{Client, ClientError, ClientOptions};
use strandline_protocol::{ErrorClass, ErrorCode, Offset, messages::NewTopic};
use strandline_storage::fs::simulated::SimulatedDisk;
use tokio::runtime::Runtime;

use crate::{broker::kept_port, random::Random};

/// How long anything may take that must come about.
const PATIENCE: Duration = Duration::from_secs(25);

/// How long brokers that must not get on are given.
const IDLE: Duration = Duration::from_secs(4);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Brokers of a cluster.
const BROKERS: usize = 3;

/// So many changes that a log with few entries between snapshots is trimmed.
const TOPICS: usize = 90;

/// What happens to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// A voter's disk is wiped while the only other copy of a change is away.
    WipedDisk,
    /// The controller loses the others while it makes changes, and then its power.
    LostMajority,
    /// Brokers join a cluster whose log was trimmed.
    LateJoiner,
    /// A leader hands its partition over while a write waits.
    LeaderChange,
    /// A start finds a partition that nobody has created.
    UnknownPartition,
}

impl Scenario {
    /// Every one.
    pub const ALL: [Self; 5] = [
        Self::WipedDisk,
        Self::LostMajority,
        Self::LateJoiner,
        Self::LeaderChange,
        Self::UnknownPartition,
    ];
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WipedDisk => "wiped-disk",
            Self::LostMajority => "lost-majority",
            Self::LateJoiner => "late-joiner",
            Self::LeaderChange => "leader-change",
            Self::UnknownPartition => "unknown-partition",
        })
    }
}

/// Runs it; tells what was done.
///
/// # Errors
/// What must not be.
pub fn run(scenario: Scenario, seed: u64) -> Result<String, String> {
    let mut random = Random::new(seed, 603);
    let mut cluster = Cluster::new(seed)?;
    match scenario {
        Scenario::WipedDisk => wiped_disk(&mut cluster, &mut random),
        Scenario::LostMajority => lost_majority(&mut cluster, &mut random),
        Scenario::LateJoiner => late_joiner(&mut cluster),
        Scenario::LeaderChange => leader_change::run(&mut cluster, &mut random),
        Scenario::UnknownPartition => unknown_partition::run(&mut cluster, &mut random),
    }
}

/// A change is on two of three disks. One of them is wiped, the other is away: whoever is left must
/// not decide anything until that one is back.
fn wiped_disk(cluster: &mut Cluster, random: &mut Random) -> Result<String, String> {
    cluster.form()?;
    let controller = cluster.controller()?;
    let mut others = others(controller);
    if random.one_in(2) {
        others.reverse();
    }
    let [away, wiped] = others;
    cluster.power_off(away, random);
    cluster.create("kept")?;
    cluster.power_off(wiped, random);
    cluster.power_off(controller, random);
    cluster.machines[wiped].wipe(random.draw());
    cluster.start(away);
    cluster.start(wiped);
    let since = Instant::now();
    while since.elapsed() < IDLE {
        for broker in [away, wiped] {
            let image = cluster.machines[broker].image()?;
            if image.is_some_and(|image| image.topic("kept").is_none()) {
                return Err(format!(
                    "broker {} serves without a topic that was acknowledged: its fellow voter \
                     forgot it with its disk, and votes all the same",
                    broker + 1
                ));
            }
        }
        thread::sleep(POLL);
    }
    cluster.start(controller);
    cluster.agree()?;
    cluster.create("after")?;
    cluster.agree()?;
    cluster.check_shown()?;
    Ok("a voter was wiped, and the cluster waited for what it had acknowledged".into())
}

/// What a controller that is alone appends may be lost, so nobody may see it.
fn lost_majority(cluster: &mut Cluster, random: &mut Random) -> Result<String, String> {
    cluster.form()?;
    cluster.create("before")?;
    let controller = cluster.controller()?;
    let others = others(controller);
    let client = cluster.connect(controller)?;
    for broker in others {
        cluster.power_off(broker, random);
    }
    let (mut acknowledged, mut refused, mut unknown) = (0, 0, 0);
    for number in 0..random.within(1..4) {
        let created = cluster.runtime.block_on(async {
            let topic = topic(&format!("alone-{number}"));
            client.admin().create_topics(&[topic]).await
        });
        match created {
            Ok(_) => acknowledged += 1,
            Err(ClientError::Refused { code, .. })
                if code.class() != ErrorClass::OutcomeUnknown =>
            {
                refused += 1;
            }
            Err(_) => unknown += 1,
        }
    }
    // Whoever looks on sees what it shows.
    thread::sleep(10 * POLL);
    cluster.power_off(controller, random);
    for broker in others {
        cluster.start(broker);
    }
    cluster.serving(&others)?;
    cluster.create("after")?;
    cluster.start(controller);
    cluster.agree()?;
    cluster.check_shown()?;
    if acknowledged > 0 {
        return Err("a controller has acknowledged a change that it made alone".into());
    }
    Ok(format!(
        "a controller that was alone showed none of its changes: {unknown} of unknown outcome, \
         {refused} refused"
    ))
}

/// The log begins behind what a newcomer lacks, so it needs a snapshot.
fn late_joiner(cluster: &mut Cluster) -> Result<String, String> {
    cluster.start(0);
    cluster.serving(&[0])?;
    for number in 0..TOPICS {
        cluster.create(&format!("early-{number}"))?;
    }
    for broker in 1..BROKERS {
        cluster.start(broker);
    }
    cluster.agree()?;
    cluster.create("late")?;
    cluster.agree()?;
    cluster.check_shown()?;
    Ok(format!(
        "{} brokers joined {TOPICS} changes later",
        BROKERS - 1
    ))
}

/// The two brokers beside one.
fn others(broker: usize) -> [usize; 2] {
    [(broker + 1) % BROKERS, (broker + 2) % BROKERS]
}

fn topic(name: &str) -> NewTopic {
    NewTopic {
        name: name.to_owned(),
        partitions: Some(1),
        replication_factor: None,
        configs: BTreeMap::new(),
    }
}

/// All machines, and who asks them for changes.
struct Cluster {
    machines: Vec<Machine>,
    ports: [u16; BROKERS],
    /// Where the client runs.
    runtime: Runtime,
    /// Topics that some broker has shown, and is off now.
    shown: BTreeSet<String>,
}

impl Cluster {
    fn new(seed: u64) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(told)?;
        let disk = |index: usize| SimulatedDisk::new(seed ^ ((index as u64 + 1) << 32));
        Ok(Self {
            machines: (0..BROKERS)
                .map(|index| Machine::new(disk(index)))
                .collect(),
            ports: [(); BROKERS].map(|()| kept_port()),
            runtime,
            shown: BTreeSet::new(),
        })
    }

    fn address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.ports[index])
    }

    /// The first one founds the cluster, all come to vote.
    fn form(&mut self) -> Result<(), String> {
        self.start(0);
        self.serving(&[0])?;
        for broker in 1..BROKERS {
            self.start(broker);
        }
        self.agree()
    }

    fn start(&mut self, index: usize) {
        let address = self.address(index);
        let node = (index + 1).to_string();
        let settings = [
            ("data", "/data"),
            ("listen", address.as_str()),
            ("node_id", node.as_str()),
            ("http", "off"),
        ];
        let mut settings = Settings::with(&settings).expect("valid settings");
        if index > 0 || self.machines[index].is_wiped {
            let others = others(index).map(|other| self.address(other));
            let parsed = others.iter().map(|it| it.parse().expect("an address"));
            settings.join = parsed.collect();
        }
        self.machines[index].start(settings);
    }

    fn power_off(&mut self, index: usize, random: &mut Random) {
        let shown = self.machines[index].power_off(random.draw());
        self.shown.extend(shown);
    }

    /// Waits until these serve.
    fn serving(&self, brokers: &[usize]) -> Result<(), String> {
        until(|| {
            for broker in brokers {
                if self.machines[*broker].image()?.is_none() {
                    return Ok(Some(format!("broker {} does not serve", broker + 1)));
                }
            }
            Ok(None)
        })
    }

    /// Waits until all serve, know the same, and vote.
    fn agree(&self) -> Result<(), String> {
        until(|| {
            let mut images = Vec::new();
            for (index, machine) in self.machines.iter().enumerate() {
                match machine.image()? {
                    Some(image) => images.push(image),
                    None => return Ok(Some(format!("broker {} does not serve", index + 1))),
                }
            }
            if images.windows(2).any(|pair| pair[0] != pair[1]) {
                return Ok(Some("the brokers do not agree".to_owned()));
            }
            let membership = images.first().and_then(|image| image.membership());
            let are_voters = membership
                .is_some_and(|it| it.voters.len() == BROKERS && it.voters_before.is_empty());
            Ok((!are_voters).then(|| format!("{BROKERS} brokers shall vote: {membership:?}")))
        })
    }

    /// The broker that is the controller.
    fn controller(&self) -> Result<usize, String> {
        let mut found = None;
        until(|| {
            found = self.machines.iter().position(Machine::is_controller);
            Ok(found.is_none().then(|| "nobody is the controller".into()))
        })?;
        Ok(found.unwrap_or_default())
    }

    fn connect(&self, broker: usize) -> Result<Client, String> {
        let options = ClientOptions {
            client_id: "rig".to_owned(),
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(2),
            ..ClientOptions::default()
        };
        let bootstrap = [self.address(broker)];
        let connected = Client::connect(&bootstrap, options);
        let connected = self.runtime.block_on(connected);
        connected.map_err(told)
    }

    /// Creates a topic, at any broker that runs, until it is acknowledged.
    fn create(&self, name: &str) -> Result<(), String> {
        self.create_as(&topic(name))
    }

    fn create_as(&self, topic: &NewTopic) -> Result<(), String> {
        until(|| {
            let Some(broker) = self.machines.iter().position(Machine::serves) else {
                return Ok(Some("no broker serves".into()));
            };
            let client = match self.connect(broker) {
                Ok(client) => client,
                Err(error) => return Ok(Some(error)),
            };
            let (admin, name) = (client.admin(), &topic.name);
            let create = admin.create_topics(std::slice::from_ref(topic));
            match self.runtime.block_on(create) {
                Ok(_) => Ok(None),
                Err(error) if is_there(&error) => Ok(None),
                Err(error) => Ok(Some(format!("{name} cannot be created: {error}"))),
            }
        })
    }

    /// Nothing that was shown is gone, as nobody has deleted anything.
    fn check_shown(&self) -> Result<(), String> {
        let running = self.machines.iter().flat_map(Machine::shown);
        let shown: BTreeSet<String> = running.chain(self.shown.iter().cloned()).collect();
        let mut newest = Offset(-1);
        for machine in &self.machines {
            newest = machine
                .image()?
                .map_or(newest, |it| it.version().max(newest));
        }
        // What a machine shows is looked at now and then: the first may be behind the others.
        let mut image = None;
        until(|| {
            image = self.machines[0].image()?;
            let version = image.as_ref().map(|image| image.version());
            Ok((version < Some(newest)).then(|| format!("broker 1 shows {version:?}")))
        })?;
        let image = image.ok_or("broker 1 does not serve")?;
        match shown.iter().find(|name| image.topic(name).is_none()) {
            Some(name) => Err(format!("topic {name} was shown by a broker and is gone")),
            None => Ok(()),
        }
    }
}

/// Waits until nothing is missing any more.
fn until(mut missing: impl FnMut() -> Result<Option<String>, String>) -> Result<(), String> {
    let since = Instant::now();
    while let Some(what) = missing()? {
        if since.elapsed() > PATIENCE {
            return Err(format!("not within {PATIENCE:?}: {what}"));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn told(error: impl fmt::Display) -> String {
    error.to_string()
}

/// Whether a topic was created by an attempt whose answer was lost.
fn is_there(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { code, .. } if *code == ErrorCode::TOPIC_ALREADY_EXISTS)
}
