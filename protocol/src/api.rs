//! The table of all APIs: one row each, and nowhere else.

use std::ops::RangeInclusive;

/// The key of an API, as it stands in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum ApiKey {
    /// Opens a connection.
    Hello = 0,
    /// Tells brokers, topics and partitions.
    Metadata = 1,
    /// Subscribes to changes of them.
    WatchMetadata = 2,
    /// Creates topics.
    CreateTopics = 3,
    /// Deletes topics.
    DeleteTopics = 4,
    /// Adds partitions to topics.
    CreatePartitions = 5,
    /// Tells the configuration of topics.
    DescribeConfigs = 6,
    /// Changes it.
    AlterConfigs = 7,
    /// Hands out a producer id, or raises its epoch.
    InitProducerId = 8,
    /// Appends record batches.
    Produce = 9,
    /// Reads record batches.
    Fetch = 10,
    /// Looks up offsets: first, last, by time.
    ListOffsets = 11,
    /// Moves the start of partitions forward.
    DeleteRecords = 12,
    /// Tells about the broker's process: version, durability, CPU time, memory.
    DescribeBroker = 13,
    /// Asks a member of the metadata quorum for its vote.
    QuorumVote = 14,
    /// Sends it entries of the metadata log.
    QuorumAppend = 15,
    /// Sends it a snapshot of the metadata.
    QuorumSnapshot = 16,
    /// Asks it to lead.
    QuorumTransfer = 17,
    /// Makes a broker known that has started.
    RegisterBroker = 18,
    /// Renews its lease.
    BrokerHeartbeat = 19,
    /// Reserves producer ids for it.
    ReserveProducerIds = 20,
    /// Tells the state of the cluster: controller, quorum, brokers.
    DescribeCluster = 21,
    /// Changes who votes in the metadata quorum.
    ChangeVoters = 22,
    /// Forgets a broker.
    UnregisterBroker = 23,
    /// Fetches what a follower does not have from its leader.
    ReplicaFetch = 24,
    /// Tells a leader what a follower has made durable.
    ReplicaProgress = 25,
    /// Changes which replicas are in sync.
    AlterPartitions = 26,
    /// Elects leaders.
    ElectLeaders = 27,
    /// Moves replicas to other brokers.
    ReassignPartitions = 28,
    /// Tells how far replicas are.
    DescribeReplicas = 29,
    /// Takes a broker's leaderships away before maintenance, or gives it back its duty.
    DrainBroker = 30,
}

/// Whether a request may be sent again when its outcome is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// A second time changes nothing more.
    Idempotent,
    /// Only batches of an idempotent producer are.
    ByProducer,
    /// A second time can be refused because the first one worked; the refusal is harmless.
    AtMostOnce,
}

/// What a client needs to be allowed to do; everything is allowed until authorisation exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Nothing: part of opening a connection.
    None,
    /// Know of a topic.
    DescribeTopic,
    /// Write to a topic.
    WriteTopic,
    /// Read from a topic.
    ReadTopic,
    /// Change topics.
    AlterTopic,
    /// Look at the cluster.
    DescribeCluster,
    /// Change the cluster.
    AlterCluster,
    /// Be a broker of the cluster.
    ClusterAction,
}

/// What a request costs the broker, for limits and for queueing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Memory only.
    Low,
    /// A metadata change: one entry of the metadata log.
    MetadataWrite,
    /// In proportion to the payload.
    Payload,
    /// May wait for as long as the request says.
    Waits,
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Api {
    /// The key.
    pub key: ApiKey,
    /// Its name, in documents and in the `api` label of metrics.
    pub name: &'static str,
    /// The versions that this build speaks.
    pub versions: RangeInclusive<u16>,
    /// Whether it may be sent again.
    pub retry: Retry,
    /// What it needs.
    pub permission: Permission,
    /// What it costs.
    pub cost: Cost,
}

const fn row(
    key: ApiKey,
    name: &'static str,
    retry: Retry,
    permission: Permission,
    cost: Cost,
) -> Api {
    Api {
        key,
        name,
        versions: 0..=0,
        retry,
        permission,
        cost,
    }
}

/// Every API, by key.
pub const APIS: &[Api] = &[
    row(
        ApiKey::Hello,
        "Hello",
        Retry::Idempotent,
        Permission::None,
        Cost::Low,
    ),
    row(
        ApiKey::Metadata,
        "Metadata",
        Retry::Idempotent,
        Permission::DescribeTopic,
        Cost::Low,
    ),
    row(
        ApiKey::WatchMetadata,
        "WatchMetadata",
        Retry::Idempotent,
        Permission::DescribeTopic,
        Cost::Low,
    ),
    row(
        ApiKey::CreateTopics,
        "CreateTopics",
        Retry::AtMostOnce,
        Permission::AlterTopic,
        Cost::MetadataWrite,
    ),
    row(
        ApiKey::DeleteTopics,
        "DeleteTopics",
        Retry::AtMostOnce,
        Permission::AlterTopic,
        Cost::MetadataWrite,
    ),
    row(
        ApiKey::CreatePartitions,
        "CreatePartitions",
        Retry::AtMostOnce,
        Permission::AlterTopic,
        Cost::MetadataWrite,
    ),
    row(
        ApiKey::DescribeConfigs,
        "DescribeConfigs",
        Retry::Idempotent,
        Permission::DescribeTopic,
        Cost::Low,
    ),
    row(
        ApiKey::AlterConfigs,
        "AlterConfigs",
        Retry::Idempotent,
        Permission::AlterTopic,
        Cost::MetadataWrite,
    ),
    row(
        ApiKey::InitProducerId,
        "InitProducerId",
        Retry::Idempotent,
        Permission::WriteTopic,
        Cost::MetadataWrite,
    ),
    row(
        ApiKey::Produce,
        "Produce",
        Retry::ByProducer,
        Permission::WriteTopic,
        Cost::Payload,
    ),
    row(
        ApiKey::Fetch,
        "Fetch",
        Retry::Idempotent,
        Permission::ReadTopic,
        Cost::Waits,
    ),
    row(
        ApiKey::ListOffsets,
        "ListOffsets",
        Retry::Idempotent,
        Permission::ReadTopic,
        Cost::Low,
    ),
    row(
        ApiKey::DeleteRecords,
        "DeleteRecords",
        Retry::Idempotent,
        Permission::AlterTopic,
        Cost::Low,
    ),
    row(
        ApiKey::DescribeBroker,
        "DescribeBroker",
        Retry::Idempotent,
        Permission::DescribeCluster,
        Cost::Low,
    ),
    row(
        ApiKey::QuorumVote,
        "QuorumVote",
        Retry::Idempotent,
        Permission::ClusterAction,
        Cost::Low,
    ),
    row(
        ApiKey::QuorumAppend,
        "QuorumAppend",
        Retry::Idempotent,
        Permission::ClusterAction,
        Cost::Payload,
    ),
    row(
        ApiKey::QuorumSnapshot,
        "QuorumSnapshot",
        Retry::Idempotent,
        Permission::ClusterAction,
        Cost::Payload,
    ),
    row(
        ApiKey::QuorumTransfer,
        "QuorumTransfer",
        Retry::Idempotent,
        Permission::ClusterAction,
        Cost::Low,
    ),
    row(
        ApiKey::RegisterBroker,
        "RegisterBroker",
        Retry::Idempotent,
        Permission::ClusterAction,
        Cost::MetadataWrite,
    ),
    row(
        ApiKey::BrokerHeartbeat,
        "BrokerHeartbeat",
        Retry::Idempotent,
        Permission::ClusterAction,
        Cost::Low,
    ),
    row(
        ApiKey::ReserveProducerIds,
        "ReserveProducerIds",
        Retry::Idempotent,
        Permission::ClusterAction,
        Cost::MetadataWrite,
    ),
    row(
        ApiKey::DescribeCluster,
        "DescribeCluster",
        Retry::Idempotent,
        Permission::DescribeCluster,
        Cost::Low,
    ),
    row(
        ApiKey::ChangeVoters,
        "ChangeVoters",
        Retry::AtMostOnce,
        Permission::AlterCluster,
        Cost::Waits,
    ),
    row(
        ApiKey::UnregisterBroker,
        "UnregisterBroker",
        Retry::AtMostOnce,
        Permission::AlterCluster,
        Cost::MetadataWrite,
    ),
    row(
        ApiKey::ReplicaFetch,
        "ReplicaFetch",
        Retry::Idempotent,
        Permission::ClusterAction,
        Cost::Waits,
    ),
    row(
        ApiKey::ReplicaProgress,
        "ReplicaProgress",
        Retry::Idempotent,
        Permission::ClusterAction,
        Cost::Low,
    ),
    row(
        ApiKey::AlterPartitions,
        "AlterPartitions",
        Retry::Idempotent,
        Permission::ClusterAction,
        Cost::MetadataWrite,
    ),
    row(
        ApiKey::ElectLeaders,
        "ElectLeaders",
        Retry::Idempotent,
        Permission::AlterCluster,
        Cost::MetadataWrite,
    ),
    row(
        ApiKey::ReassignPartitions,
        "ReassignPartitions",
        Retry::Idempotent,
        Permission::AlterCluster,
        Cost::MetadataWrite,
    ),
    row(
        ApiKey::DescribeReplicas,
        "DescribeReplicas",
        Retry::Idempotent,
        Permission::DescribeTopic,
        Cost::Low,
    ),
    row(
        ApiKey::DrainBroker,
        "DrainBroker",
        Retry::Idempotent,
        Permission::AlterCluster,
        Cost::MetadataWrite,
    ),
];

const FIRST: &Api = match APIS.first() {
    Some(api) => api,
    None => panic!("the table is empty"),
};

impl ApiKey {
    /// The key as it stands in the frame.
    #[must_use]
    #[expect(
        clippy::as_conversions,
        reason = "the only way to read a discriminant; it is a u16"
    )]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The row of the API that a frame names; none if this build does not know it.
    #[must_use]
    pub fn row(code: u16) -> Option<&'static Api> {
        APIS.get(usize::from(code))
    }

    /// The row of this API.
    #[must_use]
    pub fn api(self) -> &'static Api {
        // The test below holds the table in the order of the keys, so that this always finds.
        Self::row(self.code()).unwrap_or(FIRST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_keys() {
        for (index, api) in APIS.iter().enumerate() {
            assert_eq!(usize::from(api.key.code()), index, "{}", api.name);
            assert_eq!(format!("{:?}", api.key), api.name);
            assert_eq!(api.key.api().name, api.name);
        }
    }
}
