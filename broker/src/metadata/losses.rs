//! What brokers have told of their copies: directories that have failed, and partitions that are
//! damaged.
//!
//! Told with every heartbeat, and proposed once; what comes back is proposed again.

use std::collections::{BTreeMap, BTreeSet};

use strandline_core::metadata::Image;
use strandline_protocol::{
    BrokerEpoch, BrokerId, DirectoryId, TopicPartition, messages::BrokerHeartbeatRequest,
};

/// What the brokers of one term have told.
#[derive(Debug, Default)]
pub(super) struct Losses(BTreeMap<BrokerId, Loss>);

/// What one broker has told.
#[derive(Debug)]
struct Loss {
    epoch: BrokerEpoch,
    directories: BTreeSet<DirectoryId>,
    partitions: BTreeSet<TopicPartition>,
    /// The directories that were proposed last.
    asked: BTreeSet<DirectoryId>,
    /// The directories whose copies are taken out.
    done: BTreeSet<DirectoryId>,
}

/// Whether something is to be proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Due,
    None,
}

impl Losses {
    /// A heartbeat of a broker in its present epoch. Costs what it tells.
    pub(super) fn reported(&mut self, image: &Image, heartbeat: &BrokerHeartbeatRequest) -> News {
        let (broker, epoch) = (heartbeat.broker_id, heartbeat.broker_epoch);
        if heartbeat.offline.is_empty() && heartbeat.damaged.is_empty() {
            self.0.remove(&broker);
            return News::None;
        }
        let names = heartbeat.damaged.iter().map(|name| TopicPartition {
            topic: name.topic_id,
            partition: name.partition,
        });
        let before = self.0.remove(&broker);
        let before = before.filter(|before| before.epoch == epoch);
        let (asked, done) = before.map_or_else(Default::default, |it| (it.asked, it.done));
        let loss = Loss {
            epoch,
            directories: heartbeat.offline.iter().copied().collect(),
            partitions: names.collect(),
            asked,
            done,
        };
        let counts = |of: &TopicPartition| {
            image.partition(*of).is_some_and(|partition| {
                let mut claims = partition.isr.iter().chain(&partition.elr);
                claims.clone().any(|one| *one == broker) && claims.any(|one| *one != broker)
            })
        };
        let is_due = !loss.directories.is_subset(&loss.done) || loss.partitions.iter().any(counts);
        self.0.insert(broker, loss);
        if is_due { News::Due } else { News::None }
    }

    /// What a broker has told last, to be proposed.
    pub(super) fn ask(
        &mut self,
        broker: BrokerId,
    ) -> Option<(BTreeSet<DirectoryId>, BTreeSet<TopicPartition>)> {
        let loss = self.0.get_mut(&broker)?;
        loss.asked.clone_from(&loss.directories);
        Some((loss.directories.clone(), loss.partitions.clone()))
    }

    /// It is committed that what was proposed last is taken out.
    pub(super) fn taken_out(&mut self, broker: BrokerId, epoch: BrokerEpoch) {
        let loss = self.0.get_mut(&broker);
        if let Some(loss) = loss.filter(|loss| loss.epoch == epoch) {
            loss.done.clone_from(&loss.asked);
        }
    }
}

#[cfg(test)]
mod tests {
    use strandline_core::metadata::{Entry, Record, Registration, Replica};
    use strandline_protocol::{LeaderEpoch, Offset, PartitionId, TopicId, messages::PartitionName};

    use super::*;

    const TOPIC: TopicId = TopicId([9; 16]);

    fn replica(broker: i32) -> Replica {
        Replica {
            broker: BrokerId(broker),
            directory: DirectoryId([broker.to_be_bytes()[3]; 16]),
        }
    }

    /// Broker 1 leads, broker 2 follows, and a second partition has one copy.
    fn image() -> Image {
        let start = Registration {
            broker: BrokerId(1),
            incarnation: [0; 16],
            host: "localhost".into(),
            port: 9290,
            rack: None,
            directories: vec![replica(1).directory],
            raft_id: Some(1),
            software: String::new(),
            metadata_version_max: 3,
            lossy: Vec::new(),
        };
        let mut image = Image::default();
        let records = vec![
            Record::MetadataVersionSet { version: 3 },
            Record::BrokerRegistered(start),
            Record::TopicCreated {
                name: "t".into(),
                id: TOPIC,
                configs: BTreeMap::new(),
                partitions: vec![vec![replica(1), replica(2)], vec![replica(1)]],
            },
        ];
        image.apply(Offset(0), LeaderEpoch(1), &Entry::Command(records));
        image
    }

    fn heartbeat(offline: &[DirectoryId], damaged: &[i32]) -> BrokerHeartbeatRequest {
        let damaged = damaged.iter().map(|number| PartitionName {
            topic_id: TOPIC,
            partition: PartitionId(*number),
        });
        BrokerHeartbeatRequest {
            broker_id: BrokerId(1),
            broker_epoch: BrokerEpoch(0),
            applied: Offset(0),
            stopping: false,
            offline: offline.to_vec(),
            recovering: false,
            full: Vec::new(),
            damaged: damaged.collect(),
        }
    }

    #[test]
    fn what_is_told_again_and_again_is_proposed_once() {
        let (image, mut losses) = (image(), Losses::default());
        let directory = replica(1).directory;
        let broker = BrokerId(1);
        assert_eq!(losses.reported(&image, &heartbeat(&[], &[])), News::None);
        let failed = heartbeat(&[directory], &[]);
        assert_eq!(losses.reported(&image, &failed), News::Due);
        assert_eq!(losses.reported(&image, &failed), News::Due, "not done yet");
        let asked = losses.ask(broker).unwrap();
        // Another one fails while the first is proposed.
        let more = heartbeat(&[directory, DirectoryId([8; 16])], &[]);
        assert_eq!(losses.reported(&image, &more), News::Due);
        losses.taken_out(broker, BrokerEpoch(0));
        assert_eq!(asked.0, BTreeSet::from([directory]));
        assert_eq!(losses.reported(&image, &failed), News::None);
        assert_eq!(losses.reported(&image, &more), News::Due);
    }

    #[test]
    fn a_damaged_copy_is_due_as_long_as_it_counts_beside_another_one() {
        let (image, mut losses) = (image(), Losses::default());
        let due = heartbeat(&[], &[0]);
        assert_eq!(losses.reported(&image, &due), News::Due);
        assert_eq!(losses.reported(&image, &due), News::Due);
        // The only copy that there is, and a partition that is gone.
        assert_eq!(losses.reported(&image, &heartbeat(&[], &[1])), News::None);
        assert_eq!(losses.reported(&image, &heartbeat(&[], &[7])), News::None);
    }
}
