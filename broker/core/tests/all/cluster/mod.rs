//! A controller, its log in memory, and the image that the log makes.

use std::collections::BTreeSet;

use strandline_core::metadata::{
    BrokerState, Command, Controller, Defaults, Entry, Image, Membership, Partition, Reply, Voter,
};
use strandline_protocol::{
    BrokerId, ClusterId, LeaderEpoch, Offset,
    messages::{Duty, Failure},
};

pub struct Cluster {
    pub controller: Controller,
    pub image: Image,
    pub log: Vec<(LeaderEpoch, Vec<u8>)>,
    pub leased: BTreeSet<BrokerId>,
    drawn: u128,
}

impl Cluster {
    pub fn founded() -> Self {
        let mut cluster = Self {
            controller: Controller::new(Defaults::default()),
            image: Image::default(),
            log: Vec::new(),
            leased: BTreeSet::new(),
            drawn: 0,
        };
        cluster.append(&Entry::Membership(Membership::of(
            ClusterId([7; 16]),
            vec![Voter {
                raft_id: 42,
                broker: BrokerId(1),
            }],
        )));
        cluster
    }

    pub fn append(&mut self, entry: &Entry) {
        let (offset, term) = (Offset(self.log.len().try_into().unwrap()), LeaderEpoch(1));
        self.log.push((term, entry.encode()));
        self.image.apply(offset, term, entry);
    }

    pub fn propose(&mut self, command: &Command) -> Result<Reply, Failure> {
        let drawn = &mut self.drawn;
        let mut random = || {
            *drawn += 1;
            drawn.to_be_bytes()
        };
        let decision = self
            .controller
            .decide(&self.image, command, &self.leased, &mut random)?;
        if let Command::RegisterBroker(registration) = command {
            self.controller.broker_started(registration);
        }
        for entry in Entry::pack(decision.records) {
            self.append(&entry);
        }
        Ok(decision.reply)
    }

    /// What a restart makes of the log.
    pub fn replayed(&self) -> Image {
        let mut image = Image::default();
        for (offset, (term, bytes)) in (0..).zip(&self.log) {
            let entry = Entry::decode(bytes).expect("what was written reads");
            image.apply(Offset(offset), *term, &entry);
        }
        image
    }

    /// The image as text.
    pub fn tell(&self) -> String {
        let mut text = format!("= version {}\n", self.image.version());
        for broker in self.image.brokers() {
            let registration = &broker.registration;
            text += &format!(
                "= broker {} epoch {} at {}:{}{}{}\n",
                registration.broker,
                broker.epoch,
                registration.host,
                registration.port,
                match broker.state {
                    BrokerState::Active => "",
                    BrokerState::Fenced => " fenced",
                    BrokerState::Stopping => " stopping",
                },
                match broker.duty {
                    Duty::Full => "",
                    Duty::Drained => " drained",
                }
            );
        }
        for topic in self.image.topics() {
            text += &format!("= topic {} {:?}\n", topic.name, topic.configs);
            for (id, partition) in topic.partitions() {
                if partition.replicas.len() > 1 {
                    text += &format!("=   {id}: {}\n", tell_replicas(partition));
                    continue;
                }
                let replica = partition.replicas[0];
                text += &format!(
                    "=   {id}: broker {} directory {} leader epoch {} partition epoch {}{}\n",
                    replica.broker,
                    char::from(replica.directory.0[0]),
                    partition.leader_epoch,
                    partition.partition_epoch,
                    if partition.leader.is_some() {
                        ""
                    } else {
                        " without leader"
                    }
                );
            }
        }
        text
    }
}

/// A partition of several replicas as text, each with its directory: `led by 1, epochs 0/0, on 1a
/// 2b, in sync 1 2`.
fn tell_replicas(partition: &Partition) -> String {
    let list = |title: &str, brokers: &[BrokerId]| match brokers {
        [] => String::new(),
        brokers => {
            let names: Vec<String> = brokers.iter().map(ToString::to_string).collect();
            format!(", {title} {}", names.join(" "))
        }
    };
    let replicas: Vec<String> = partition
        .replicas
        .iter()
        .map(|one| format!("{}{}", one.broker, char::from(one.directory.0[0])))
        .collect();
    let leader = partition.leader;
    format!(
        "led by {}, epochs {}/{}, on {}{}{}{}{}{}",
        leader.map_or_else(|| "nobody".to_owned(), |leader| leader.to_string()),
        partition.leader_epoch,
        partition.partition_epoch,
        replicas.join(" "),
        list("in sync", &partition.isr),
        list("eligible", &partition.elr),
        list("adding", &partition.adding),
        list("removing", &partition.removing),
        if partition.recovering {
            ", recovering"
        } else {
            ""
        }
    )
}
