//! What reaches a connection's task from elsewhere: acknowledgements, news of data, finished work.

use strandline_protocol::messages::Failure;
use tokio::sync::mpsc::UnboundedSender;

use super::{parked::Slot, reply::Reply};

/// The way to a connection. Bounded by what its requests in flight can cause.
pub type Events = UnboundedSender<Event>;

/// News for a connection.
#[derive(Debug)]
pub enum Event {
    /// A batch of a parked `Produce` is acknowledged, or will not be.
    Acknowledged {
        /// Which request.
        slot: Slot,
        /// Which of its batches.
        index: usize,
        /// Why not.
        failure: Option<Failure>,
    },
    /// A parked `Fetch` may find more than before.
    Ready {
        /// Which request.
        slot: Slot,
    },
    /// Work that ran elsewhere has an answer.
    Answer {
        /// Which request.
        slot: Slot,
        /// The answer.
        reply: Reply,
    },
    /// The metadata image has changed: look whether a watched topic did.
    MetadataChanged,
}
