//! Batches as they lie in a log, told apart by what never changes of them.

use std::rc::Rc;

use bytes::Bytes;
use strandline_client::protocol::{
    LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence,
    batch::{BatchView, Records},
};

use crate::history::Mark;

/// One batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) base: Offset,
    /// The offset behind its last record.
    pub(super) end: Offset,
    /// The leader that wrote it.
    pub(super) epoch: LeaderEpoch,
    pub(super) producer: ProducerId,
    pub(super) producer_epoch: ProducerEpoch,
    pub(super) sequence: Sequence,
    pub(super) crc: u32,
    pub(super) marks: Rc<[Option<Mark>]>,
}

impl Batch {
    /// How many records it has.
    pub(super) fn records(&self) -> i32 {
        i32::try_from(self.marks.len()).unwrap_or(i32::MAX)
    }
}

/// Whether what is read is held against its CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crc {
    Checked,
    Believed,
}

/// The batches of what was read of a log.
///
/// # Errors
/// The batches before the first that is no batch, and what is wrong with that.
pub(super) fn parse(chunks: &[Bytes], crc: Crc) -> (Vec<Batch>, Result<(), String>) {
    let mut batches = Vec::new();
    for chunk in chunks {
        let mut rest = chunk.as_ref();
        while !rest.is_empty() {
            match one(rest, crc) {
                Ok((batch, bytes)) => {
                    batches.push(batch);
                    rest = rest.get(bytes..).unwrap_or_default();
                }
                Err(error) => return (batches, Err(error)),
            }
        }
    }
    (batches, Ok(()))
}

fn one(bytes: &[u8], crc: Crc) -> Result<(Batch, usize), String> {
    let view = BatchView::first(bytes).map_err(|error| error.to_string())?;
    if crc == Crc::Checked {
        view.check_crc().map_err(|error| error.to_string())?;
    }
    let header = view.header();
    let records = Records::new(header, view.stored_records());
    let marks = records.map(|record| record.ok().and_then(|it| it.value.and_then(Mark::of)));
    let batch = Batch {
        base: header.base_offset(),
        end: header.end_offset(),
        epoch: header.leader_epoch(),
        producer: header.producer_id(),
        producer_epoch: header.producer_epoch(),
        sequence: header.base_sequence(),
        crc: header.crc(),
        marks: marks.collect(),
    };
    Ok((batch, view.bytes().len()))
}
