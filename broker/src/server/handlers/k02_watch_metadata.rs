//! `WatchMetadata` (2), versions 0 to 0: changes of topics are pushed to whoever asks.
//!
//! *Pattern: state watch.*

use std::{collections::BTreeSet, sync::Arc};

use strandline_core::metadata::{Image, changes};
use strandline_protocol::{
    CorrelationId,
    messages::{self, Failure, WatchMetadataRequest, WatchMetadataResponse},
};

use super::{Handled, Request, check_entries};
use crate::server::{broker::Broker, connection::Reply};

/// What one connection watches, and what it was told last.
#[derive(Debug)]
pub struct Watch {
    topics: BTreeSet<String>,
    told: Arc<Image>,
    /// What its pushes are sent under.
    pub correlation: CorrelationId,
    /// The version of the API that was asked in.
    pub version: u16,
}

impl Watch {
    /// The messages that tell what has changed since the last call; none if nothing has.
    pub fn changes(&mut self, broker: &Broker) -> Vec<Vec<u8>> {
        let image = broker.metadata.image();
        let pushes = changes(&self.told, &image, &broker.topic_defaults, &self.topics);
        self.told = image;
        pushes.iter().map(messages::encode).collect()
    }
}

pub(super) fn handle(request: &Request<'_>) -> Result<Handled, Failure> {
    let watch: WatchMetadataRequest = request.decode()?;
    check_entries(watch.topics.len())?;
    let image = request.broker.metadata.image();
    let response = WatchMetadataResponse {
        version: image.version(),
    };
    let watch = Watch {
        topics: watch.topics.into_iter().collect(),
        told: image,
        correlation: request.correlation,
        version: request.version,
    };
    Ok(Handled::Watching(Reply::of(&response), watch))
}
