//! Where a partition stands on this broker, and what waits for that.

use strandline_protocol::Offset;

use crate::FlushMode;

/// What a write of one batch has to wait for before it may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckWait {
    /// There is no answer.
    Unanswered,
    /// Nothing: it may be answered at once.
    Nothing,
    /// The leader's durable end reaches this offset.
    Durable(Offset),
    /// The high watermark reaches this offset.
    HighWatermark(Offset),
}

/// Whether the driver has to start a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "who is told to flush and does not leaves writers waiting"]
pub enum Flush {
    /// Nobody waits for one.
    NotNeeded,
    /// Everything up to the log end of now should become durable soon.
    Wanted,
}

/// Where a partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// The first offset that is kept.
    pub log_start: Offset,
    /// The end of what consumers may read.
    pub high_watermark: Offset,
    /// The end of what survives a power cut of this broker.
    pub durable_end: Offset,
    /// The end of what is appended.
    pub log_end: Offset,
}

impl Marks {
    /// How far this replica counts under `flush`.
    pub(super) const fn counted(&self, flush: FlushMode) -> Offset {
        match flush {
            FlushMode::Ack => self.durable_end,
            FlushMode::Async => self.log_end,
        }
    }
}

/// What opening the log has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The first offset that is kept.
    pub log_start: Offset,
    /// The end of the log.
    pub log_end: Offset,
    /// The end of what survives a power cut.
    pub durable_end: Offset,
    /// The high watermark that was written down last; zero if none was.
    pub high_watermark: Offset,
}
