//! The way to the other members: [`PeerNetwork`] over the connections between brokers, and
//! [`NoPeers`] for who is alone, where every message says so.

use std::{future::Future, io};

use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    alias::{SnapshotOf, VoteOf},
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use strandline_client::connection::Connection;
use strandline_protocol::{
    BrokerId,
    messages::{Ballot, Purpose},
};
use strandline_storage::directory::RaftId;

use super::{
    super::peers::Peers,
    snapshot::{SnapshotFile, send_snapshot},
    types::Types,
    wire::{append_request, append_response_of, transfer_request, vote_request, vote_response_of},
};

/// Makes the ways to the other members, over the connections of a broker to its peers.
pub(in crate::metadata) struct PeerNetwork {
    pub(in crate::metadata) peers: Peers,
}

/// The way to one member.
pub(in crate::metadata) struct PeerClient {
    peers: Peers,
    target: RaftId,
    broker: BrokerId,
}

impl PeerClient {
    async fn connection(&self) -> Result<Connection, RPCError<Types>> {
        self.peers
            .connection(self.broker, Some(self.target.0), Purpose::Quorum)
            .await
            .map_err(unreachable)
    }

    async fn ask_for_vote(
        &self,
        ballot: Ballot,
        request: &VoteRequest<Types>,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let message = vote_request(self.target, ballot, request);
        let answer = self.connection().await?.request(&message, Vec::new()).await;
        let (response, _) = answer.map_err(unreachable)?;
        Ok(vote_response_of(&response))
    }
}

fn unreachable(error: impl std::fmt::Display) -> RPCError<Types> {
    Unreachable::from_string(error).into()
}

impl RaftNetworkFactory<Types> for PeerNetwork {
    type Network = PeerClient;

    async fn new_client(&mut self, target: RaftId, node: &BrokerId) -> PeerClient {
        PeerClient {
            peers: self.peers.clone(),
            target,
            broker: *node,
        }
    }
}

impl RaftNetworkV2<Types> for PeerClient {
    type SnapshotData = SnapshotFile;

    /// Not bound by the time to live that openraft suggests, which is shorter than what a busy disk
    /// takes: what was cancelled would be sent again and again.
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let connection = self.connection().await?;
        let cluster = self.peers.me().cluster;
        let (message, payload) =
            append_request(cluster, self.target, request).map_err(unreachable)?;
        let answer = connection.request(&message, payload).await;
        let (response, _) = answer.map_err(unreachable)?;
        Ok(append_response_of(response))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(Ballot::Binding, &request).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(Ballot::Trial, &request).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let this = &*self;
        send_snapshot(
            this.target,
            vote,
            snapshot,
            cancel,
            |message, part| async move {
                let to = Some(this.target.0);
                // A connection of its own: heartbeats never queue behind it.
                let connection = this.peers.connection(this.broker, to, Purpose::Snapshot);
                let connection = connection.await.map_err(unreachable)?;
                let answer = connection.request(&message, vec![part]).await;
                let (response, _) = answer.map_err(unreachable)?;
                Ok(response)
            },
        )
        .await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let message = transfer_request(self.target, &request);
        let answer = self.connection().await?.request(&message, Vec::new()).await;
        let (response, _) = answer.map_err(unreachable)?;
        Ok(if response.accepted {
            Ok(())
        } else {
            Err(TransferLeaderError::LogNotFlushed {
                expected: request.last_log_id().copied(),
                actual: None,
            })
        })
    }
}

/// Nobody can be reached.
pub(in crate::metadata) struct NoPeers;

/// One peer that cannot be reached.
pub(in crate::metadata) struct NoPeer {
    raft_id: RaftId,
    broker: BrokerId,
}

impl NoPeer {
    fn unreachable(&self) -> Unreachable<Types> {
        Unreachable::new(&io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "broker {} (Raft id {}) cannot be reached: this broker runs alone",
                self.broker, self.raft_id
            ),
        ))
    }
}

impl RaftNetworkFactory<Types> for NoPeers {
    type Network = NoPeer;

    async fn new_client(&mut self, target: RaftId, node: &BrokerId) -> NoPeer {
        NoPeer {
            raft_id: target,
            broker: *node,
        }
    }
}

impl RaftNetworkV2<Types> for NoPeer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Err(self.unreachable().into())
    }

    async fn pre_vote(
        &mut self,
        _request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<Types>,
        _snapshot: SnapshotOf<Types, SnapshotFile>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(self.unreachable().into())
    }
}
