//! What each API does: one file each, numbered by its key.
//!
//! A handler runs in the poll of its connection that read the frame, and must not wait for
//! anything. What has to wait is parked, or handed to a task or to the blocking pool.

pub(super) mod cold;
pub mod k00_hello;
pub mod k01_metadata;
pub mod k02_watch_metadata;
pub mod k03_topics;
pub mod k06_configs;
pub mod k08_init_producer_id;
pub mod k09_produce;
pub mod k10_fetch;
pub mod k11_list_offsets;
pub mod k12_delete_records;
pub mod k13_describe_broker;
pub mod k14_quorum_vote;
pub mod k15_quorum_append;
pub mod k16_quorum_snapshot;
mod k17_quorum_transfer;
pub mod k18_register_broker;
pub mod k19_broker_heartbeat;
pub mod k20_reserve_producer_ids;
pub mod k21_describe_cluster;
pub mod k22_change_voters;
pub mod k23_unregister_broker;
pub mod k24_replica_fetch;
mod k25_replica_progress;
pub mod k26_alter_partitions;
pub mod k27_elect_leaders;
pub mod k28_reassign_partitions;
mod k29_describe_replicas;
pub mod k30_drain_broker;
mod peer;

use std::{future::Future, pin::Pin, sync::Arc};

use strandline_protocol::{
    ApiKey, CorrelationId, ErrorCode,
    messages::{self, Failure, Peer},
};
use tokio::time::Instant;

use super::{
    broker::Broker,
    connection::{Events, Reply, Slot},
    fetch_session::FetchSessions,
};

/// One request, as its handler sees it.
#[derive(Debug)]
pub struct Request<'a> {
    /// The broker.
    pub broker: &'a Arc<Broker>,
    /// The message.
    pub message: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
    /// Where it is parked, if it is.
    pub slot: Slot,
    /// The way back to its connection.
    pub events: &'a Events,
    /// When it began.
    pub now: Instant,
    /// The version of its API.
    pub version: u16,
    /// What its connection answers it under.
    pub correlation: CorrelationId,
    /// The broker that asks; none if it is a client.
    pub peer: Option<&'a Peer>,
    /// The session in which it fetches over this connection.
    pub sessions: &'a Arc<FetchSessions>,
}

/// What a handler has to say.
pub enum Handled {
    /// An answer.
    Reply(Reply),
    /// No answer is due, ever.
    Nothing,
    /// An answer is due when batches are acknowledged.
    Produce(k09_produce::ParkedProduce),
    /// An answer is due when there is more to read.
    Fetch(k10_fetch::ParkedFetch),
    /// An answer is due when there is news for a follower.
    ReplicaFetch(k24_replica_fetch::ParkedReplicaFetch),
    /// An answer is due when this is done; it runs as a task of its own.
    Task(Pin<Box<dyn Future<Output = Reply> + Send>>),
    /// The connection is open now, in the name of that client, which may be a broker.
    Opened(Reply, String, Option<Peer>),
    /// The connection watches these topics from now on, and this is the answer.
    Watching(Reply, k02_watch_metadata::Watch),
}

impl From<Reply> for Handled {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

impl Request<'_> {
    /// Reads the message.
    ///
    /// # Errors
    /// `INVALID_REQUEST`; the connection goes on.
    pub fn decode<R: messages::Request>(&self) -> Result<R, Failure> {
        messages::decode(R::API, self.message)
            .map_err(|error| Failure::new(ErrorCode::INVALID_REQUEST, error.to_string()))
    }
}

impl<'a> Request<'a> {
    /// The broker that asks.
    ///
    /// # Errors
    /// `INVALID_REQUEST` if a client asks for what is between brokers.
    pub fn sender(&self) -> Result<&'a Peer, Failure> {
        self.peer.ok_or_else(|| {
            Failure::new(
                ErrorCode::INVALID_REQUEST,
                "only brokers of the cluster may ask for this: name yourself as a peer in Hello",
            )
        })
    }
}

/// Runs `work` as a task and answers with what it returns.
pub fn task<F>(work: F) -> Handled
where
    F: Future<Output = Reply> + Send + 'static,
{
    Handled::Task(Box::pin(work))
}

/// Hands a request to the handler of its API.
#[must_use]
pub fn handle(api: ApiKey, request: &Request<'_>) -> Handled {
    if let Err(refused) = request.broker.serves(api) {
        return Handled::Reply(refused.into());
    }
    let handled = match api {
        ApiKey::Hello => k00_hello::handle(request),
        ApiKey::Metadata => k01_metadata::handle(request),
        ApiKey::WatchMetadata => k02_watch_metadata::handle(request),
        ApiKey::CreateTopics => k03_topics::create(request),
        ApiKey::DeleteTopics => k03_topics::delete(request),
        ApiKey::CreatePartitions => k03_topics::add_partitions(request),
        ApiKey::DescribeConfigs => k06_configs::describe(request),
        ApiKey::AlterConfigs => k06_configs::alter(request),
        ApiKey::InitProducerId => k08_init_producer_id::handle(request),
        ApiKey::Produce => k09_produce::handle(request),
        ApiKey::Fetch => k10_fetch::handle(request),
        ApiKey::ListOffsets => k11_list_offsets::handle(request),
        ApiKey::DeleteRecords => k12_delete_records::handle(request),
        ApiKey::DescribeBroker => k13_describe_broker::handle(request),
        ApiKey::QuorumVote => k14_quorum_vote::handle(request),
        ApiKey::QuorumAppend => k15_quorum_append::handle(request),
        ApiKey::QuorumSnapshot => k16_quorum_snapshot::handle(request),
        ApiKey::QuorumTransfer => k17_quorum_transfer::handle(request),
        ApiKey::RegisterBroker => k18_register_broker::handle(request),
        ApiKey::ReserveProducerIds => k20_reserve_producer_ids::handle(request),
        ApiKey::BrokerHeartbeat => k19_broker_heartbeat::handle(request),
        ApiKey::DescribeCluster => k21_describe_cluster::handle(request),
        ApiKey::ChangeVoters => k22_change_voters::handle(request),
        ApiKey::UnregisterBroker => k23_unregister_broker::handle(request),
        ApiKey::ReplicaFetch => k24_replica_fetch::handle(request),
        ApiKey::ReplicaProgress => k25_replica_progress::handle(request),
        ApiKey::AlterPartitions => k26_alter_partitions::handle(request),
        ApiKey::ElectLeaders => k27_elect_leaders::handle(request),
        ApiKey::ReassignPartitions => k28_reassign_partitions::handle(request),
        ApiKey::DescribeReplicas => k29_describe_replicas::handle(request),
        ApiKey::DrainBroker => k30_drain_broker::handle(request),
    };
    handled.unwrap_or_else(|failure| Handled::Reply(failure.into()))
}

/// Refuses a request that lists more than any may.
///
/// # Errors
/// `INVALID_REQUEST` names the limit.
pub fn check_entries(count: usize) -> Result<(), Failure> {
    use strandline_protocol::limits::ENTRIES_PER_REQUEST_MAX;
    if count <= ENTRIES_PER_REQUEST_MAX {
        return Ok(());
    }
    Err(Failure::new(
        ErrorCode::INVALID_REQUEST,
        format!("a request lists {count} entries, {ENTRIES_PER_REQUEST_MAX} are allowed: split it"),
    ))
}
