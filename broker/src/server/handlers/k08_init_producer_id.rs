//! `InitProducerId` (8), versions 0 to 0: the identity of an idempotent producer.
//!
//! *Pattern: idempotent receiver.*

use std::sync::Arc;

use strandline_protocol::messages::{Failure, InitProducerIdRequest};

use super::{Handled, Request, task};

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let init: InitProducerIdRequest = request.decode()?;
    let broker = Arc::clone(request.broker);
    Ok(task(async move {
        let id = broker.identity.broker;
        broker.metadata.init_producer_id(id, &init).await.into()
    }))
}
