//! `DescribeCluster` (21), versions 0 to 0: the cluster as the controller sees it.
//!
//! A broker that is not the controller passes the question on; it answers from its own view if that
//! leads nowhere.

use std::{sync::Arc, time::Duration};

use strandline_protocol::messages::{DescribeClusterRequest, Failure, Purpose};
use tokio::time::timeout;

use super::{Handled, Request, task};
use crate::{metadata::ControllerAt, server::connection::Reply};

/// How long the controller may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let describe: DescribeClusterRequest = request.decode()?;
    let broker = Arc::clone(request.broker);
    let metadata = &broker.metadata;
    let (
        ControllerAt::Broker {
            broker: at,
            raft_id,
        },
        Some(peers),
        None,
    ) = (
        metadata.controller(),
        metadata.peers().cloned(),
        request.peer,
    )
    else {
        return Ok(Reply::of(&metadata.describe(broker.identity.broker)).into());
    };
    Ok(task(async move {
        let passed_on = timeout(PATIENCE, async {
            let way = peers.connection(at, Some(raft_id), Purpose::Control);
            let connection = way.await.ok()?;
            connection.request(&describe, Vec::new()).await.ok()
        });
        match passed_on.await {
            Ok(Some((response, _))) => Reply::of(&response),
            _ => Reply::of(&broker.metadata.describe(broker.identity.broker)),
        }
    }))
}
