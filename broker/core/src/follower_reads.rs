//! From whom a consumer reads that says where it is.
//!
//! *Pattern: follower reads* (KIP-392). What is committed is the same everywhere, so a replica that
//! is near serves as well as the leader, and costs less.

use strandline_protocol::BrokerId;

use crate::metadata::{BrokerState, Image, Partition};

/// The replica that a consumer in `rack` had better read from: the first one, in order of
/// preference, that is in sync, takes part and stands in that rack. None if the leader stands there
/// itself, or nobody does.
#[must_use]
pub fn nearest_replica(image: &Image, partition: &Partition, rack: &str) -> Option<BrokerId> {
    let leader = partition.leader?;
    let stands_there = |broker: BrokerId| {
        image.broker(broker).is_some_and(|known| {
            known.state == BrokerState::Active && known.registration.rack.as_deref() == Some(rack)
        })
    };
    if stands_there(leader) {
        return None;
    }
    let in_order = partition.replicas.iter().map(|replica| replica.broker);
    in_order
        .filter(|broker| partition.isr.contains(broker))
        .find(|broker| stands_there(*broker))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use strandline_protocol::{
        BrokerEpoch, DirectoryId, LeaderEpoch, Offset, PartitionId, TopicId,
    };

    use super::*;
    use crate::metadata::{Entry, METADATA_VERSION, Record, Registration, Replica};

    fn directory(id: i32) -> DirectoryId {
        DirectoryId([u8::try_from(id).expect("it is small"); 16])
    }

    fn registration(id: i32, rack: &str) -> Registration {
        Registration {
            broker: BrokerId(id),
            incarnation: [0; 16],
            host: "host".to_owned(),
            port: 1,
            rack: Some(rack.to_owned()),
            lossy: Vec::new(),
            directories: vec![directory(id)],
            raft_id: Some(1),
            software: String::new(),
            metadata_version_max: METADATA_VERSION,
        }
    }

    #[test]
    fn who_is_near_takes_part_and_is_in_sync() {
        let replica = |id| Replica {
            broker: BrokerId(id),
            directory: directory(id),
        };
        let unfenced = |id: i32| Record::BrokerUnfenced {
            broker: BrokerId(id),
            epoch: BrokerEpoch(i64::from(id)),
        };
        let mut records = vec![vec![Record::MetadataVersionSet {
            version: METADATA_VERSION,
        }]];
        for (id, rack) in [(1, "east"), (2, "west"), (3, "west"), (4, "north")] {
            records.push(vec![Record::BrokerJoined(registration(id, rack))]);
        }
        records.push(vec![
            unfenced(1),
            unfenced(2),
            unfenced(3),
            Record::TopicCreated {
                name: "read".to_owned(),
                id: TopicId([7; 16]),
                configs: BTreeMap::new(),
                partitions: vec![[1, 3, 2, 4].map(replica).to_vec()],
            },
        ]);
        let mut image = Image::default();
        for (offset, records) in (0..).zip(records) {
            image.apply(Offset(offset), LeaderEpoch(1), &Entry::Command(records));
        }
        let topic = image.topic("read").expect("it was created");
        let partition = topic.partition(PartitionId(0)).expect("it has one");
        let nearest = |partition: &Partition, rack| nearest_replica(&image, partition, rack);
        assert_eq!(nearest(partition, "west"), Some(BrokerId(3)));
        // The leader, nobody, and one that is fenced.
        for rack in ["east", "south", "north"] {
            assert_eq!(nearest(partition, rack), None, "{rack}");
        }
        let mut shrunk = partition.as_ref().clone();
        shrunk.isr.retain(|broker| *broker != BrokerId(3));
        assert_eq!(nearest(&shrunk, "west"), Some(BrokerId(2)));
    }
}
