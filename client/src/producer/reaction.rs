//! What an answer to a batch means for it: one table, held by a test for every error code.
//!
//! *Pattern: idempotent receiver.* The broker recognises a batch that it has, so that whatever is
//! not known to have been refused may be sent again.

use strandline_protocol::{ErrorClass, ErrorCode};

/// Whether other batches of the partition that were sent before this one are undecided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the first that is undecided.
    First,
    /// One before it is undecided.
    Behind,
}

/// What is known of the attempts before the one that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Earlier {
    /// Each was refused, or never left.
    Refused,
    /// One had no answer: the batch may have been written by it.
    Lost,
}

/// What to do about a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// It is written.
    Written,
    /// It was not written; send it again.
    SendAgain,
    /// It was not written there; find the leader, send it again.
    FindLeader,
    /// It may have been written; send it again, which a broker that has it recognises.
    SendAgainLost,
    /// It may have been written by a broker that leads no more, or that has lost its followers;
    /// find the leader and send it again with the same sequence, which tells.
    FindLeaderLost,
    /// It was not written, because the broker does not know what came before; send it again under
    /// the next epoch.
    Renew,
    /// It was not written and never will be.
    Fail,
    /// It may have been written, and sending it again cannot tell.
    Unknown,
    /// Another producer has taken over; this one must stop.
    Fence,
}

/// The reaction to `code` for a batch.
pub(super) const fn reaction(code: ErrorCode, place: Place, earlier: Earlier) -> Reaction {
    match (code, place, earlier) {
        // The ones before it were not written either, and are sent again with it.
        (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, Place::Behind, _) => Reaction::SendAgain,
        (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, Place::First, Earlier::Refused) => {
            Reaction::Renew
        }
        (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, Place::First, Earlier::Lost) => Reaction::Unknown,
        _ => match (code.class(), earlier) {
            (ErrorClass::None, _) => Reaction::Written,
            (ErrorClass::Retry, _) => Reaction::SendAgain,
            (ErrorClass::RefreshMetadata, _) => Reaction::FindLeader,
            (ErrorClass::OutcomeUnknown, _) => match code {
                ErrorCode::LEADERSHIP_LOST | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND => {
                    Reaction::FindLeaderLost
                }
                _ => Reaction::SendAgainLost,
            },
            (ErrorClass::Fenced, _) => Reaction::Fence,
            (ErrorClass::Fatal, Earlier::Refused) => Reaction::Fail,
            (ErrorClass::Fatal, Earlier::Lost) => Reaction::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: &str = "\
NONE: Written
UNKNOWN_SERVER_ERROR: SendAgainLost
OFFSET_OUT_OF_RANGE: Fail, lost Unknown
CORRUPT_MESSAGE: Fail, lost Unknown
UNKNOWN_TOPIC_OR_PARTITION: FindLeader
LEADER_NOT_AVAILABLE: FindLeader
NOT_LEADER_OR_FOLLOWER: FindLeader
REQUEST_TIMED_OUT: SendAgainLost
MESSAGE_TOO_LARGE: Fail, lost Unknown
INVALID_TOPIC: Fail, lost Unknown
NOT_ENOUGH_REPLICAS: SendAgain
NOT_ENOUGH_REPLICAS_AFTER_APPEND: FindLeaderLost
INVALID_REQUIRED_ACKS: Fail, lost Unknown
INVALID_TIMESTAMP: Fail, lost Unknown
UNSUPPORTED_VERSION: Fail, lost Unknown
TOPIC_ALREADY_EXISTS: Fail, lost Unknown
INVALID_PARTITIONS: Fail, lost Unknown
INVALID_REPLICATION_FACTOR: Fail, lost Unknown
INVALID_CONFIG: Fail, lost Unknown
NOT_CONTROLLER: FindLeader
INVALID_REQUEST: Fail, lost Unknown
OUT_OF_ORDER_SEQUENCE_NUMBER: Renew, lost Unknown, behind SendAgain
INVALID_PRODUCER_EPOCH: Fence
STORAGE_ERROR: FindLeader
FENCED_LEADER_EPOCH: FindLeader
UNKNOWN_LEADER_EPOCH: SendAgain
UNSUPPORTED_COMPRESSION_TYPE: Fail, lost Unknown
STALE_BROKER_EPOCH: Fence
OFFSET_NOT_AVAILABLE: SendAgain
INVALID_RECORD: Fail, lost Unknown
UNKNOWN_TOPIC_ID: FindLeader
INCONSISTENT_CLUSTER_ID: Fail, lost Unknown
CORRUPT: Fail, lost Unknown
DISK_FULL: SendAgain
OVERLOADED: SendAgain
SHUTTING_DOWN: FindLeader
HELLO_EXPECTED: Fail, lost Unknown
INCONSISTENT_DIRECTORY_ID: Fail, lost Unknown
UNKNOWN_API: Fail, lost Unknown
INVALID_CURSOR: Fail, lost Unknown
DUPLICATE_BROKER_REGISTRATION: Fail, lost Unknown
BROKER_ID_NOT_REGISTERED: Fail, lost Unknown
DUPLICATE_VOTER: Fail, lost Unknown
VOTER_NOT_FOUND: Fail, lost Unknown
VOTERS_CHANGING: SendAgain
NOT_REMOVABLE: Fail, lost Unknown
NOT_READY: FindLeader
INVALID_REPLICA_ASSIGNMENT: Fail, lost Unknown
FETCH_SESSION_ID_NOT_FOUND: SendAgain
INVALID_FETCH_SESSION_EPOCH: SendAgain
PREFERRED_LEADER_NOT_AVAILABLE: SendAgain
ELIGIBLE_LEADERS_NOT_AVAILABLE: SendAgain
ELECTION_NOT_NEEDED: Fail, lost Unknown
NO_REASSIGNMENT_IN_PROGRESS: Fail, lost Unknown
INVALID_UPDATE_VERSION: FindLeader
INELIGIBLE_REPLICA: SendAgain
NEW_LEADER_ELECTED: FindLeader
LEADERSHIP_LOST: FindLeaderLost
";

    /// The reaction to a batch that is first and was never lost; then what differs.
    fn row(code: ErrorCode) -> String {
        let usual = reaction(code, Place::First, Earlier::Refused);
        let lost = reaction(code, Place::First, Earlier::Lost);
        let behind = reaction(code, Place::Behind, Earlier::Refused);
        let mut row = format!("{code}: {usual:?}");
        if lost != usual {
            row += &format!(", lost {lost:?}");
        }
        if behind != usual {
            row += &format!(", behind {behind:?}");
        }
        row + "\n"
    }

    #[test]
    fn every_code_has_its_reaction() {
        let table: String = ErrorCode::ALL.iter().map(|&code| row(code)).collect();
        let mut found: Vec<_> = table.lines().collect();
        let mut expected: Vec<_> = CODES.lines().collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_batch_that_may_be_written_never_fails_for_sure() {
        for &code in ErrorCode::ALL {
            for place in [Place::First, Place::Behind] {
                let reaction = reaction(code, place, Earlier::Lost);
                assert_ne!(reaction, Reaction::Fail, "{code}");
                assert_ne!(reaction, Reaction::Renew, "{code}");
            }
        }
    }
}
