//! Which identities producers get (KIP-98, KIP-360).
//!
//! *Pattern: idempotent receiver.* A broker reserves a block of ids by an entry of the metadata log
//! and hands them out from memory; what is left of a block is lost at a restart, never used twice.

use strandline_protocol::{
    ProducerEpoch, ProducerId,
    messages::{InitProducerIdRequest, InitProducerIdResponse},
};

/// Ids that one broker may hand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdBlock {
    /// The first one.
    pub first: ProducerId,
    /// How many.
    pub count: u32,
}

/// The block that a broker hands out from.
#[derive(Clone, Debug, Default)]
pub struct ProducerIds {
    next: i64,
    end: i64,
}

impl ProducerIds {
    /// Nothing to hand out yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: 0, end: 0 }
    }

    /// Hands out from `block` from now on.
    pub fn refill(&mut self, block: ProducerIdBlock) {
        self.next = block.first.0;
        self.end = block.first.0.saturating_add(i64::from(block.count));
    }

    /// Answers a producer. None means that a new id is due and the block is used up: reserve
    /// another one, [`ProducerIds::refill`], and ask again.
    ///
    /// A producer that names its identity gets the next epoch of it, as long as there is one and
    /// the id was ever reserved (`reserved_before`, exclusive). Everybody else gets a new id at
    /// epoch 0: so does one whose epochs are used up, and one that comes from a cluster that was
    /// wiped.
    pub fn answer(
        &mut self,
        request: &InitProducerIdRequest,
        reserved_before: ProducerId,
    ) -> Option<InitProducerIdResponse> {
        if let Some(epoch) = next_epoch(request, reserved_before) {
            return Some(InitProducerIdResponse {
                producer_id: request.producer_id,
                producer_epoch: epoch,
            });
        }
        if self.next >= self.end {
            return None;
        }
        let producer_id = ProducerId(self.next);
        self.next += 1;
        Some(InitProducerIdResponse {
            producer_id,
            producer_epoch: ProducerEpoch(0),
        })
    }
}

/// The next epoch of the identity in `request`, if it has one.
fn next_epoch(
    request: &InitProducerIdRequest,
    reserved_before: ProducerId,
) -> Option<ProducerEpoch> {
    /// Kafka keeps the last epoch for fencing and hands it to nobody.
    const EPOCH_MAX: i16 = i16::MAX - 1;
    let known = (ProducerId(0)..reserved_before).contains(&request.producer_id);
    let counted = (0..EPOCH_MAX).contains(&request.producer_epoch.0);
    (known && counted).then(|| ProducerEpoch(request.producer_epoch.0 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(ids: &mut ProducerIds, id: i64, epoch: i16) -> Option<(i64, i16)> {
        let request = InitProducerIdRequest {
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(epoch),
        };
        ids.answer(&request, ProducerId(1002))
            .map(|answer| (answer.producer_id.0, answer.producer_epoch.0))
    }

    #[test]
    fn ids_are_handed_out_once_and_epochs_go_up() {
        let mut ids = ProducerIds::new();
        assert_eq!(ask(&mut ids, -1, -1), None);
        ids.refill(ProducerIdBlock {
            first: ProducerId(1000),
            count: 2,
        });
        assert_eq!(ask(&mut ids, -1, -1), Some((1000, 0)));
        assert_eq!(ask(&mut ids, 1000, 0), Some((1000, 1)));
        assert_eq!(
            ask(&mut ids, 1000, i16::MAX - 2),
            Some((1000, i16::MAX - 1))
        );
        // Used up: a new id.
        assert_eq!(ask(&mut ids, 1000, i16::MAX - 1), Some((1001, 0)));
        assert_eq!(ask(&mut ids, 1000, i16::MAX), None);
        assert_eq!(ask(&mut ids, 1000, 5), Some((1000, 6)));
        // Never reserved here.
        assert_eq!(ask(&mut ids, 5000, 5), None);
        assert_eq!(ask(&mut ids, i64::MIN, 5), None);
        assert_eq!(ask(&mut ids, 3, -7), None);
    }
}
