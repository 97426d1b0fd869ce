//! `ChangeVoters` (22), versions 0 to 0: who votes in the metadata quorum. Answered once they do.

use std::{sync::Arc, time::Duration};

use strandline_core::metadata::{Command, Image, Reply};
use strandline_protocol::{
    BrokerId, ErrorCode,
    messages::{ChangeVotersRequest, ChangeVotersResponse, Failure},
};
use tokio::time::timeout;

use super::{Handled, Request, task};
use crate::{metadata::version_payload, server::connection};

/// How long a change is waited for. What is wanted stays wanted after that.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let change: ChangeVotersRequest = request.decode()?;
    let broker = Arc::clone(request.broker);
    let passed_on = request.peer.is_some();
    Ok(task(async move {
        let command = Command::ChangeVoters(change);
        let metadata = &broker.metadata;
        let outcome = if passed_on {
            metadata.propose_here(command).await
        } else {
            metadata.propose(command).await
        };
        let voters = match outcome {
            Ok(Reply::VotersWanted(voters)) => voters,
            Ok(_) => {
                return connection::Reply::failure(
                    ErrorCode::UNKNOWN_SERVER_ERROR,
                    "the controller answered something else than it was asked",
                );
            }
            Err(failure) => return failure.into(),
        };
        let response = ChangeVotersResponse { voters };
        if passed_on {
            let version = metadata.image().version();
            return connection::Reply::with_payload(&response, vec![version_payload(version)]);
        }
        let mut images = metadata.watch();
        let changed = images.wait_for(|image| vote(image, &response.voters));
        match timeout(PATIENCE, changed).await {
            Ok(_) => connection::Reply::of(&response),
            Err(_) => connection::Reply::failure(
                ErrorCode::REQUEST_TIMED_OUT,
                format!(
                    "the change to the voters {} goes on: not all of them are alive and have \
                     caught up",
                    list(&response.voters)
                ),
            ),
        }
    }))
}

/// Whether exactly these vote.
fn vote(image: &Image, wanted: &[BrokerId]) -> bool {
    image.membership().is_some_and(|known| {
        known.voters_before.is_empty()
            && known.voters.len() == wanted.len()
            && known
                .voters
                .iter()
                .all(|voter| wanted.contains(&voter.broker))
    })
}

fn list(brokers: &[BrokerId]) -> String {
    let names: Vec<String> = brokers.iter().map(ToString::to_string).collect();
    names.join(", ")
}
