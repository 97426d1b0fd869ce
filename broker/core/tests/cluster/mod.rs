//! A controller, its log in memory, and the image that the log makes.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::collections::BTreeSet;

use strandline_core::metadata::{
    BrokerState, Command, Controller, Defaults, Entry, Image, Membership, Reply, Voter,
};
use strandline_protocol::{BrokerId, ClusterId, LeaderEpoch, Offset, messages::Failure};

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
                "= broker {} epoch {} at {}:{}{}\n",
                registration.broker,
                broker.epoch,
                registration.host,
                registration.port,
                match broker.state {
                    BrokerState::Active => "",
                    BrokerState::Fenced => " fenced",
                    BrokerState::Stopping => " stopping",
                }
            );
        }
        for topic in self.image.topics() {
            text += &format!("= topic {} {:?}\n", topic.name, topic.configs);
            for (id, partition) in topic.partitions() {
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
