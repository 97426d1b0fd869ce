//! Every check can fail: each is shown what it must notice, and what is right beside it.

use strandline_core::metadata::{Entry, Membership, Voter};
use strandline_protocol::ClusterId;
use strandline_storage::directory::RaftId;

use super::*;

const ONE: Whose<'static> = Whose {
    host: "one",
    incarnation: 1,
};
const TWO: Whose<'static> = Whose {
    host: "two",
    incarnation: 1,
};

/// What a log of blank entries in these terms makes, after the membership of three voters.
fn image(terms: &[i32]) -> Arc<Image> {
    let voter = |raft_id| Voter {
        raft_id,
        broker: BrokerId(raft_id as i32),
    };
    let membership = Membership::of(ClusterId([1; 16]), vec![voter(1), voter(2), voter(3)]);
    let mut image = Image::default();
    image.apply(Offset(0), LeaderEpoch(1), &Entry::Membership(membership));
    for (offset, term) in (1..).zip(terms) {
        image.apply(Offset(offset), LeaderEpoch(*term), &Entry::Blank);
    }
    Arc::new(image)
}

fn member(raft_id: u64, term: i32, image: &Arc<Image>) -> Observed {
    Observed {
        raft_id,
        vote: QuorumVote {
            term: LeaderEpoch(term),
            candidate: RaftId(1),
            election: Election::Won,
        },
        leads: None,
        image: Arc::clone(image),
        log: Some((Offset(0), image.version().plus(1))),
    }
}

/// The violations of what is looked at, one after the other.
fn violations(looks: &[(Whose<'static>, Observed)]) -> Vec<String> {
    let checks = Checks::new(Trace::default());
    for (whose, now) in looks {
        let image = Arc::clone(&now.image);
        checks.check(whose, now, |offset| {
            (offset <= image.version()).then(|| image.term())
        });
    }
    let violations = checks.take_violations();
    let name = |it: &String| it.split(':').next().unwrap_or_default().to_owned();
    violations.iter().map(name).collect()
}

#[test]
fn nothing_is_wrong_with_a_quorum_that_works() {
    let (short, long) = (image(&[2]), image(&[2, 2]));
    let leader = Observed {
        leads: Some(LeaderEpoch(2)),
        ..member(1, 2, &long)
    };
    assert_eq!(
        violations(&[
            (TWO, member(2, 2, &short)),
            (ONE, leader),
            (TWO, member(2, 2, &long))
        ]),
        [""; 0]
    );
}

#[test]
fn a_leader_without_what_is_committed_is_noticed() {
    let leader = Observed {
        leads: Some(LeaderEpoch(3)),
        ..member(1, 3, &image(&[2]))
    };
    assert_eq!(
        violations(&[(TWO, member(2, 3, &image(&[2, 2]))), (ONE, leader)]),
        ["S3"]
    );
}

#[test]
fn two_leaders_of_one_term_are_noticed() {
    let leads = |raft_id| Observed {
        leads: Some(LeaderEpoch(2)),
        ..member(raft_id, 2, &image(&[2]))
    };
    assert_eq!(violations(&[(ONE, leads(1)), (TWO, leads(2))]), ["S5"]);
}

#[test]
fn a_second_vote_and_an_older_one_are_noticed() {
    let image = image(&[2]);
    let before = member(2, 3, &image);
    let older = member(2, 2, &image);
    let mut second = member(2, 3, &image);
    second.vote.candidate = RaftId(3);
    for after in [older, second] {
        assert_eq!(violations(&[(TWO, before.clone()), (TWO, after)]), ["S6"]);
    }
    // Another disk owes nothing.
    assert_eq!(
        violations(&[(TWO, before), (TWO, member(9, 1, &image))]),
        [""; 0]
    );
}

#[test]
fn what_is_applied_goes_back_in_another_start_only() {
    let (long, short) = (member(2, 2, &image(&[2, 2])), member(2, 2, &image(&[2])));
    assert_eq!(
        violations(&[(TWO, long.clone()), (TWO, short.clone())]),
        ["S7"]
    );
    let again = Whose {
        incarnation: 2,
        ..TWO
    };
    assert_eq!(violations(&[(TWO, long), (again, short)]), [""; 0]);
}

#[test]
fn different_images_of_one_version_are_noticed() {
    let (one, two) = (member(1, 3, &image(&[2, 2])), member(2, 3, &image(&[2, 3])));
    assert_eq!(violations(&[(ONE, one), (TWO, two)]), ["S8"]);
}

#[test]
fn a_commit_of_an_older_term_behind_a_newer_one_is_noticed() {
    let (new, old) = (member(1, 3, &image(&[3])), member(2, 3, &image(&[2, 2])));
    assert_eq!(violations(&[(ONE, new), (TWO, old)]), ["S9"]);
}

#[test]
fn what_a_minority_holds_is_not_committed() {
    let checks = Checks::new(Trace::default());
    checks.check(&ONE, &member(1, 2, &image(&[2])), |_| None);
    let held = |by: [Option<i32>; 3]| {
        checks.check_held(|_| (1..).zip(by.map(|term| term.map(LeaderEpoch))).collect());
        checks.take_violations().len()
    };
    assert_eq!(held([Some(2), None, Some(2)]), 0);
    assert_eq!(held([Some(2), None, None]), 1);
    assert_eq!(held([Some(2), Some(1), None]), 1);
}
