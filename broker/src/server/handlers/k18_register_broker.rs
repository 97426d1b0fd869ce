//! `RegisterBroker` (18), versions 0 to 0: a broker has started.
//!
//! Whoever registers itself may ask any member, which passes it on to the controller. What was
//! passed on comes from somebody else than whom it is about, and is not passed on again.

use std::sync::Arc;

use strandline_protocol::{
    ErrorCode,
    messages::{Failure, RegisterBrokerRequest},
};

use super::{Handled, Request, task};
use crate::metadata::PassOn;

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let peer = request.sender()?;
    let register: RegisterBrokerRequest = request.decode()?;
    let broker = Arc::clone(request.broker);
    let cluster = broker.identity.cluster;
    if register.cluster_id.is_some_and(|named| named != cluster) {
        return Err(Failure::new(
            ErrorCode::INCONSISTENT_CLUSTER_ID,
            format!("this broker belongs to cluster {cluster}"),
        ));
    }
    let pass_on = if peer.broker_id == register.broker_id {
        PassOn::Allowed
    } else {
        PassOn::Forbidden
    };
    Ok(task(async move {
        let registered = broker.metadata.register_for(&register, pass_on).await;
        registered.into()
    }))
}
