//! `Hello` (0), versions 0 to 0: who connects to whom.

use strandline_protocol::{
    ClusterId, ErrorCode,
    api::APIS,
    limits::CLIENT_ID_BYTES_MAX,
    messages::{ApiVersions, Failure, HELLO_MAGIC, HelloRequest, HelloResponse, Peer},
};

use super::{Handled, Request};
use crate::{
    metadata::{Peers, SOFTWARE},
    server::connection::Reply,
};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let hello: HelloRequest = request.decode()?;
    let identity = &request.broker.identity;
    if hello.magic != HELLO_MAGIC {
        return Err(Failure::new(
            ErrorCode::INVALID_REQUEST,
            format!("a Hello begins with the magic \"{HELLO_MAGIC}\""),
        ));
    }
    if hello.client_id.len() > CLIENT_ID_BYTES_MAX {
        return Err(Failure::new(
            ErrorCode::INVALID_REQUEST,
            format!("a client id has at most {CLIENT_ID_BYTES_MAX} bytes"),
        ));
    }
    if let Some(expected) = hello.cluster_id
        && expected != identity.cluster
    {
        if let Some(peer) = &hello.peer {
            tell_stranger(request, expected, peer);
        }
        return Err(Failure::new(
            ErrorCode::INCONSISTENT_CLUSTER_ID,
            format!(
                "this broker belongs to cluster {}, not {expected}: {}",
                identity.cluster,
                match hello.peer {
                    // A wiped disk that was started without it has founded a cluster of its own.
                    Some(_) => {
                        "to become part of it, start with an empty data directory and --join"
                    }
                    None => "check the address, or connect anew",
                }
            ),
        ));
    }
    if let Some(peer) = &hello.peer {
        admit(request, &hello, peer)?;
    }
    if let Some(expected) = hello.directory_id
        && expected != identity.directory
    {
        return Err(Failure::new(
            ErrorCode::INCONSISTENT_DIRECTORY_ID,
            format!(
                "this broker's first directory is {}, not {expected}: its disk was replaced",
                identity.directory
            ),
        ));
    }
    if let Some(mechanism) = hello.authentication {
        return Err(Failure::new(
            ErrorCode::INVALID_REQUEST,
            format!("authentication by \"{mechanism:.32}\" is not supported: leave it out"),
        ));
    }
    let response = HelloResponse {
        cluster_id: identity.cluster,
        broker_id: identity.broker,
        directory_id: identity.directory,
        raft_id: Some(identity.raft_id),
        software: SOFTWARE.to_owned(),
        apis: APIS
            .iter()
            .map(|api| ApiVersions {
                key: api.key.code(),
                min: *api.versions.start(),
                max: *api.versions.end(),
            })
            .collect(),
        frame_bytes_max: u32::try_from(request.broker.limits.frame_bytes_max).unwrap_or(u32::MAX),
    };
    Ok(Handled::Opened(
        Reply::of(&response),
        hello.client_id,
        hello.peer,
    ))
}

/// Tells once that another cluster takes this broker for one of its own: a disk that was wiped and
/// started without `--join`, most likely.
fn tell_stranger(request: &Request<'_>, cluster: ClusterId, peer: &Peer) {
    let is_new = |peers: &Peers| peers.is_new_stranger(cluster);
    if request.broker.metadata.peers().is_some_and(is_new) {
        let own = request.broker.identity.cluster;
        tracing::warn!(
            "broker {} at {}:{} takes this broker for one of cluster {cluster}, but it belongs to \
             cluster {own}: if it is to be part of the other one, start it with an empty data \
             directory and --join",
            peer.broker_id,
            peer.host,
            peer.port
        );
    }
}

/// Whether a broker may speak to this one as its peer.
fn admit(request: &Request<'_>, hello: &HelloRequest, peer: &Peer) -> Result<(), Failure> {
    let identity = &request.broker.identity;
    if hello.cluster_id.is_none() {
        return Err(Failure::new(
            ErrorCode::INCONSISTENT_CLUSTER_ID,
            format!(
                "broker {} names no cluster, this one belongs to {}: start it with --join",
                peer.broker_id, identity.cluster
            ),
        ));
    }
    if peer.broker_id == identity.broker && peer.raft_id != identity.raft_id {
        return Err(Failure::new(
            ErrorCode::DUPLICATE_BROKER_REGISTRATION,
            format!(
                "this is broker {} of the cluster itself: give the other one a number of its own \
                 with --node-id",
                identity.broker
            ),
        ));
    }
    if let Some(peers) = request.broker.metadata.peers() {
        peers.heard_of(peer);
    }
    Ok(())
}
