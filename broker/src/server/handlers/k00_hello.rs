//! `Hello` (0), versions 0 to 0: who connects to whom.

use strandline_protocol::{
    ErrorCode,
    api::APIS,
    limits::CLIENT_ID_BYTES_MAX,
    messages::{ApiVersions, Failure, HELLO_MAGIC, HelloRequest, HelloResponse},
};

use super::{Handled, Request};
use crate::server::connection::Reply;

/// The software of this broker, as peers are told.
pub const SOFTWARE: &str = concat!("strandline/", env!("CARGO_PKG_VERSION"));

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
        return Err(Failure::new(
            ErrorCode::INCONSISTENT_CLUSTER_ID,
            format!(
                "this broker belongs to cluster {}, not {expected}: check the address, or connect \
                 anew",
                identity.cluster
            ),
        ));
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
    Ok(Handled::Opened(Reply::of(&response), hello.client_id))
}
