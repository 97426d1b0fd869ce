//! `CreateTopics` (3), `DeleteTopics` (4), `CreatePartitions` (5), versions 0 to 0.
//!
//! Decided by the controller, and answered once the decision is durable and this broker's
//! partitions follow it, so that whoever creates a topic can write to it at once.

use std::sync::Arc;

use strandline_core::metadata::{self, Command};
use strandline_protocol::{
    ApiKey, ErrorCode,
    messages::{
        CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, Failure,
        UnregisterBrokerResponse,
    },
};

use super::{Handled, Request, task};
use crate::{metadata::version_payload, metrics::Metrics, server::connection::Reply};

pub(super) fn create(request: &Request<'_>) -> Result<Handled, Failure> {
    let create: CreateTopicsRequest = request.decode()?;
    Ok(propose(request, Command::CreateTopics(create)))
}

pub(super) fn delete(request: &Request<'_>) -> Result<Handled, Failure> {
    let delete: DeleteTopicsRequest = request.decode()?;
    Ok(propose(request, Command::DeleteTopics(delete)))
}

pub(super) fn add_partitions(request: &Request<'_>) -> Result<Handled, Failure> {
    let add: CreatePartitionsRequest = request.decode()?;
    Ok(propose(request, Command::CreatePartitions(add)))
}

/// Proposes a command to the controller, and answers once this broker follows it.
pub(super) fn propose(request: &Request<'_>, command: Command) -> Handled {
    let broker = Arc::clone(request.broker);
    let passed_on = request.peer.is_some();
    task(async move {
        let outcome = if passed_on {
            broker.metadata.propose_here(command).await
        } else {
            broker.metadata.propose(command).await
        };
        let reply = match outcome {
            Ok(reply) => reply,
            Err(failure) => return failure.into(),
        };
        let version = broker.metadata.image().version();
        broker.follow(version).await;
        count_failures(&broker.metrics, &reply);
        let mut reply = match reply {
            metadata::Reply::CreateTopics(response) => Reply::of(&response),
            metadata::Reply::DeleteTopics(response) => Reply::of(&response),
            metadata::Reply::CreatePartitions(response) => Reply::of(&response),
            metadata::Reply::AlterConfigs(response) => Reply::of(&response),
            metadata::Reply::Elected(response) => Reply::of(&response),
            metadata::Reply::Reassigned(response) => Reply::of(&response),
            metadata::Reply::Drained(response) => Reply::of(&response),
            metadata::Reply::Done => Reply::of(&UnregisterBrokerResponse::default()),
            _ => Reply::failure(
                ErrorCode::UNKNOWN_SERVER_ERROR,
                "the controller answered something else than it was asked",
            ),
        };
        if passed_on {
            reply.payload.push(version_payload(version));
        }
        reply
    })
}

/// Counts what was refused inside of an answer; whole requests are counted by their connection.
fn count_failures(metrics: &Metrics, reply: &metadata::Reply) {
    let (api, topics) = match reply {
        metadata::Reply::CreateTopics(response) => (ApiKey::CreateTopics, &response.topics),
        metadata::Reply::DeleteTopics(response) => (ApiKey::DeleteTopics, &response.topics),
        metadata::Reply::CreatePartitions(response) => (ApiKey::CreatePartitions, &response.topics),
        metadata::Reply::AlterConfigs(response) => {
            return count(metrics, ApiKey::AlterConfigs, &response.failure);
        }
        _ => return,
    };
    for topic in topics {
        count(metrics, api, &topic.failure);
    }
}

fn count(metrics: &Metrics, api: ApiKey, failure: &Failure) {
    if !failure.error.is_none() {
        metrics.error(api, failure.error);
    }
}
