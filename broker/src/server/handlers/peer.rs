//! Who may ask for what is between brokers.

use strandline_protocol::{BrokerEpoch, BrokerId, ErrorCode, messages::Failure};

use super::Request;

/// Refuses what a broker does not send in its own name, or in the name of an earlier incarnation
/// of itself than this one knows (KIP-903).
///
/// # Errors
/// `INVALID_REQUEST`, `STALE_BROKER_EPOCH`.
pub(super) fn check_sender(
    request: &Request<'_>,
    broker: BrokerId,
    epoch: BrokerEpoch,
) -> Result<(), Failure> {
    let sender = request.sender()?.broker_id;
    if sender != broker {
        return Err(Failure::new(
            ErrorCode::INVALID_REQUEST,
            format!("broker {sender} speaks in the name of broker {broker}"),
        ));
    }
    let image = request.broker.metadata.image();
    match image.broker(broker) {
        Some(known) if known.epoch > epoch => Err(Failure::new(
            ErrorCode::STALE_BROKER_EPOCH,
            format!(
                "broker {broker} has registered again with epoch {}, this comes from epoch {epoch}",
                known.epoch
            ),
        )),
        _ => Ok(()),
    }
}
