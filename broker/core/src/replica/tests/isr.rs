//! Who is in sync.

use strandline_protocol::{BrokerEpoch, ErrorCode, LeaderEpoch, PartitionEpoch};

use super::*;
use crate::replica::{PROPOSAL_RETRY, ProposalOutcome};

const LATE: Duration = Duration::from_millis(10_001);

/// Two keeps up, three does not.
fn with_a_laggard() -> Replica {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO, THREE]);
    fetched(&mut replica, TWO, 10, ms(0));
    replica
}

/// Three is out, and fetches at 10.
fn with_a_joiner() -> Replica {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    fetched(&mut replica, TWO, 10, ms(0));
    fetched(&mut replica, THREE, 10, ms(0));
    replica
}

/// Rules 6 and 10.
#[test]
fn one_proposal_is_under_way_at_a_time() {
    let mut replica = with_a_laggard();
    let proposal = replica.propose(LATE).unwrap();
    assert_eq!(proposal.leader_epoch, EPOCH);
    assert_eq!(proposal.partition_epoch, PartitionEpoch(20));
    assert_eq!(proposal.isr[1].broker_epoch, BrokerEpoch(200));
    assert_eq!(replica.propose(LATE + LAG_MAX), None);
}

/// Rule 7.
#[test]
fn while_a_shrink_is_pending_the_high_watermark_waits_for_the_old_ones() {
    let mut replica = with_a_laggard();
    appended(&mut replica, 15);
    fetched(&mut replica, TWO, 15, ms(1));
    let proposal = replica.propose(LATE).unwrap();
    fetched(&mut replica, TWO, 15, LATE);
    assert_eq!(high_watermark(&replica), 5);
    replica.proposal_answered(
        &proposal,
        ProposalOutcome::Accepted(PartitionEpoch(21)),
        LATE,
    );
    assert_eq!(high_watermark(&replica), 5);
    let _ = replica.learn(ONE, &changed(&[ONE, TWO]), LATE);
    assert_eq!(high_watermark(&replica), 15);
}

/// Rule 8.
#[test]
fn who_has_all_that_is_committed_joins() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    fetched(&mut replica, TWO, 10, ms(0));
    fetched(&mut replica, THREE, 9, ms(0));
    assert_eq!(replica.propose(ms(1)), None);
    fetched(&mut replica, THREE, 10, ms(2));
    assert_eq!(proposed(replica.propose(ms(2))), Some(vec![1, 2, 3]));
}

/// Rules 5 and 8: whoever is cut off from its leader stays where it is, which may be all that is
/// committed. Otherwise two that are cut off would take turns.
#[test]
fn who_would_have_to_leave_at_once_does_not_join() {
    let mut replica = with_a_joiner();
    appended(&mut replica, 15);
    let _ = replica.learn(ONE, &facts(&[ONE, TWO]), ms(1));
    assert_eq!(high_watermark(&replica), 10);
    let late = LATE + ms(1);
    assert_eq!(proposed(replica.propose(late)), Some(vec![1]));
    fetched(&mut replica, THREE, 10, late);
    let _ = replica.learn(ONE, &changed(&[ONE]), late);
    assert_eq!(replica.propose(late), None);
    // It has what the leader had when it fetched before: it keeps pace.
    appended(&mut replica, 20);
    fetched(&mut replica, THREE, 15, late + ms(1));
    assert_eq!(proposed(replica.propose(late + ms(1))), Some(vec![1, 3]));
}

/// Rule 8: what is below the epoch's start may be committed although the leader does not know yet.
#[test]
fn who_lacks_a_part_of_earlier_epochs_does_not_join() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    fetched(&mut replica, THREE, 9, ms(0));
    assert_eq!(high_watermark(&replica), 5);
    assert_eq!(replica.propose(ms(1)), None);
}

/// Rule 8.
#[test]
fn who_is_fenced_or_comes_as_another_incarnation_does_not_join() {
    let mut replica = with_a_joiner();
    let mut facts = changed(&[ONE, TWO]);
    facts.replicas[2].standing = Standing::Ineligible;
    let _ = replica.learn(ONE, &facts, ms(1));
    assert_eq!(replica.propose(ms(1)), None);
    // The leader's metadata is behind: it does not know this incarnation yet.
    facts.replicas[2].standing = Standing::Eligible;
    facts.partition_epoch = PartitionEpoch(22);
    let _ = replica.learn(ONE, &facts, ms(2));
    let newer = FollowerFetch {
        broker_epoch: BrokerEpoch(350),
        ..fetch_of(THREE, 10, 10)
    };
    judge(&mut replica, &newer, ms(2)).unwrap();
    assert_eq!(replica.propose(ms(2)), None);
    facts.replicas[2].epoch = BrokerEpoch(350);
    let _ = replica.learn(ONE, &facts, ms(3));
    let proposal = replica.propose(ms(3)).unwrap();
    assert_eq!(proposal.isr[2].broker_epoch, BrokerEpoch(350));
}

/// Rule 9.
#[test]
fn while_an_expansion_is_pending_the_joiner_is_waited_for() {
    let mut replica = with_a_joiner();
    let proposal = replica.propose(ms(1)).unwrap();
    appended(&mut replica, 15);
    fetched(&mut replica, TWO, 15, ms(2));
    // It stands still for so long that it does not count as caught up either.
    fetched(&mut replica, TWO, 15, LATE + ms(2));
    assert_eq!(high_watermark(&replica), 10);
    replica.proposal_answered(&proposal, ProposalOutcome::Refused, LATE + ms(2));
    assert_eq!(high_watermark(&replica), 15);
}

/// Rule 11, as the leader takes the answers.
#[test]
fn the_answers_of_the_controller_have_three_meanings() {
    let epoch = PartitionEpoch(21);
    for (error, outcome) in [
        (ErrorCode::NONE, ProposalOutcome::Accepted(epoch)),
        (
            ErrorCode::NEW_LEADER_ELECTED,
            ProposalOutcome::Accepted(epoch),
        ),
        (ErrorCode::INELIGIBLE_REPLICA, ProposalOutcome::Refused),
        (ErrorCode::STALE_BROKER_EPOCH, ProposalOutcome::Unknown),
        (ErrorCode::NOT_CONTROLLER, ProposalOutcome::Unknown),
        (ErrorCode::FENCED_LEADER_EPOCH, ProposalOutcome::Unknown),
        (ErrorCode::INVALID_UPDATE_VERSION, ProposalOutcome::Unknown),
        (ErrorCode::INVALID_REQUEST, ProposalOutcome::Unknown),
        (ErrorCode::UNKNOWN_SERVER_ERROR, ProposalOutcome::Unknown),
    ] {
        assert_eq!(ProposalOutcome::of(error, epoch), outcome, "{error:?}");
    }
}

/// Rule 12: accepted.
#[test]
fn what_is_accepted_holds_once_metadata_tells() {
    let mut replica = with_a_joiner();
    let proposal = replica.propose(ms(1)).unwrap();
    replica.proposal_answered(
        &proposal,
        ProposalOutcome::Accepted(PartitionEpoch(21)),
        ms(2),
    );
    assert_eq!(replica.isr(), [ONE, TWO]);
    assert_eq!(replica.propose(LATE), None);
    let _ = replica.learn(ONE, &changed(&[ONE, TWO, THREE]), ms(3));
    assert_eq!(replica.isr(), [ONE, TWO, THREE]);
    assert_eq!(replica.partition_epoch(), Some(PartitionEpoch(21)));
    assert_eq!(replica.propose(ms(4)), None);
}

/// Rule 12: refused.
#[test]
fn what_is_refused_is_taken_back_and_tried_again_later() {
    let mut replica = with_a_joiner();
    let proposal = replica.propose(ms(1)).unwrap();
    replica.proposal_answered(&proposal, ProposalOutcome::Refused, ms(2));
    assert_eq!(replica.propose(ms(3)), None);
    let again = replica.propose(ms(2) + PROPOSAL_RETRY);
    assert_eq!(again, Some(proposal));
}

/// Rule 12: lost.
#[test]
fn a_joiner_whose_proposal_was_lost_is_waited_for_until_the_partition_has_changed() {
    let mut replica = with_a_joiner();
    let lost = replica.propose(ms(1)).unwrap();
    replica.proposal_answered(&lost, ProposalOutcome::Unknown, ms(2));
    // It is fenced, so that it is not proposed again.
    let mut fenced = facts(&[ONE, TWO]);
    fenced.replicas[2].standing = Standing::Ineligible;
    let _ = replica.learn(ONE, &fenced, ms(3));
    appended(&mut replica, 15);
    fetched(&mut replica, TWO, 15, LATE + ms(3));
    assert_eq!(high_watermark(&replica), 10);
    // The same set again ends what is still on its way.
    let same = replica.propose(LATE + ms(3)).unwrap();
    assert_eq!(proposed(Some(same.clone())), Some(vec![1, 2]));
    // Even if this one is refused, the lost one may arrive behind it.
    replica.proposal_answered(&same, ProposalOutcome::Refused, LATE + ms(4));
    assert_eq!(high_watermark(&replica), 10);
    fenced.partition_epoch = PartitionEpoch(21);
    let _ = replica.learn(ONE, &fenced, LATE + ms(5));
    assert_eq!(high_watermark(&replica), 15);
    assert_eq!(replica.propose(LATE + LAG_MAX), None);
}

/// Rule 12: late answers.
#[test]
fn an_answer_from_before_the_last_change_changes_nothing() {
    let mut replica = with_a_joiner();
    let first = replica.propose(ms(1)).unwrap();
    let _ = replica.learn(ONE, &changed(&[ONE, TWO]), ms(2));
    let second = replica.propose(ms(3)).unwrap();
    replica.proposal_answered(&first, ProposalOutcome::Refused, ms(4));
    assert_eq!(replica.propose(LATE), None, "the second is under way");
    let other = IsrProposal {
        leader_epoch: LeaderEpoch(4),
        ..second
    };
    replica.proposal_answered(&other, ProposalOutcome::Refused, ms(5));
    assert_eq!(replica.propose(LATE), None, "the second is under way");
}

/// Rule 13.
#[test]
fn an_older_partition_epoch_changes_nothing() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO]);
    let mut old = facts(&[ONE, TWO, THREE]);
    old.partition_epoch = PartitionEpoch(19);
    assert_eq!(replica.learn(ONE, &old, ms(1)), RoleChange::Unchanged);
    assert_eq!(replica.isr(), [ONE, TWO]);
    let _ = replica.learn(ONE, &facts(&[ONE]), ms(1));
    assert_eq!(replica.isr(), [ONE, TWO], "one epoch has one state");
}

/// Rule 13: a shrink does not make the leader another one.
#[test]
fn a_change_of_those_in_sync_leaves_the_role_as_it_is() {
    let mut replica = leader(FlushMode::Ack, &[ONE, TWO, THREE]);
    fetched(&mut replica, TWO, 10, ms(1));
    let change = replica.learn(ONE, &changed(&[ONE, TWO]), ms(2));
    assert_eq!(change, RoleChange::Unchanged);
    assert_eq!(high_watermark(&replica), 10, "what is known stays known");
}
