//! `Metadata` (1), versions 0 to 0: brokers, topics and partitions, page by page.

use strandline_core::metadata::metadata_page;
use strandline_protocol::messages::{Failure, MetadataRequest};

use super::{Handled, Request};
use crate::server::connection::Reply;

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let metadata: MetadataRequest = request.decode()?;
    let broker = request.broker;
    let mut page = metadata_page(&broker.metadata.image(), &broker.topic_defaults, &metadata)?;
    page.controller = broker.metadata.controller_as(broker.identity.broker);
    Ok(Reply::of(&page).into())
}
