//! Histories written by hand: a good one, and one for each way to be bad.

use super::{Check, Checker, Verdict};

fn check(history: &str) -> Verdict {
    let mut checker = Checker::default();
    for line in history.lines().map(str::trim) {
        if !line.is_empty() && !line.starts_with('#') {
            checker.take(line.parse().unwrap());
        }
    }
    checker.finish()
}

/// Two producers, two readers, three disks: everything as it should be.
const GOOD: &str = "
    s 10 0 1 0
    s 11 0 2 0
    a 20 0 1 0 0
    p 21 0 7 0
    p 21 0 8 0
    a 22 0 2 0 1
    c 23 0 7 0 1 0
    s 30 0 1 1
    u 40 0 1 1
    s 41 0 1 2
    f 42 0 1 2
    s 50 0 2 1
    a 60 0 2 1 3
    c 61 0 7 1 2 0
    c 62 0 7 2 1 1
    c 63 0 8 0 1 0
    # Back to where it began.
    p 64 0 8 0
    h 70 1000
    c 71 0 7 3 2 1
    c 72 0 8 0 1 0
    c 73 0 8 1 2 0
    c 74 0 8 2 1 1
    c 75 0 8 3 2 1
    d 80 0 1 0 1 0
    d 80 0 1 1 2 0
    d 80 0 1 2 1 1
    d 80 0 1 3 2 1
    e 81 0 1 0
    d 82 0 2 1 2 0
    d 82 0 2 2 1 1
    d 82 0 2 3 2 1
    e 83 0 2 1
";

/// `GOOD` with `line` replaced by `by`, and which checks it breaks.
fn broken(line: &str, by: &str) -> Vec<Check> {
    assert!(GOOD.contains(line), "{line} is not in the history");
    let verdict = check(&GOOD.replacen(line, by, 1));
    verdict.broken.keys().copied().collect()
}

#[test]
fn a_good_history_breaks_nothing() {
    let verdict = check(GOOD);
    assert_eq!(verdict.violations(), 0, "{:?}", verdict.broken);
    let counts = verdict.counts;
    assert_eq!((counts.sent, counts.acknowledged), (5, 3));
    assert_eq!((counts.refused, counts.unknown), (1, 1));
    assert_eq!((counts.read, counts.kept, counts.copies), (9, 7, 2));
}

#[test]
fn an_unknown_record_may_be_missing() {
    let history = "
        s 1 0 1 0
        u 2 0 1 0
        s 3 0 1 1
        a 4 0 1 1 0
        d 5 0 1 0 1 1
        e 6 0 1 0
    ";
    assert_eq!(check(history).violations(), 0);
}

#[test]
fn h1_an_acknowledged_record_is_missing_at_the_end_of_a_copy() {
    let found = broken("d 82 0 2 3 2 1", "");
    assert_eq!(found, [Check::Lost, Check::Divergence]);
}

#[test]
fn h1_an_acknowledged_record_is_missing_on_every_copy() {
    let history = "
        s 1 0 1 0
        a 2 0 1 0 0
        e 3 0 1 0
        e 3 0 2 0
    ";
    assert_eq!(check(history).count(Check::Lost), 2);
}

#[test]
fn h1_h3_another_record_is_where_one_was_acknowledged() {
    let history = "
        s 1 0 1 0
        a 2 0 1 0 0
        s 1 0 2 0
        u 2 0 2 0
        d 3 0 1 0 2 0
        e 4 0 1 0
    ";
    let found: Vec<Check> = check(history).broken.into_keys().collect();
    assert_eq!(found, [Check::Lost, Check::InconsistentOffset]);
}

#[test]
fn h1_h5_a_copy_has_a_hole() {
    let found = broken("d 80 0 1 1 2 0", "");
    assert_eq!(found, [Check::Lost, Check::Skip]);
}

#[test]
fn h3_a_reader_sees_what_is_not_there_later() {
    let history = "
        s 1 0 1 0
        u 9 0 1 0
        s 1 0 2 0
        a 9 0 2 0 0
        c 3 0 7 0 1 0
        d 10 0 1 0 2 0
        e 11 0 1 0
    ";
    let verdict = check(history);
    assert_eq!(verdict.count(Check::InconsistentOffset), 1);
}

#[test]
fn h4_a_record_is_there_twice() {
    let history = "
        s 1 0 1 0
        a 2 0 1 0 0
        d 3 0 1 0 1 0
        d 3 0 1 1 1 0
        e 4 0 1 0
    ";
    let found: Vec<Check> = check(history).broken.into_keys().collect();
    assert_eq!(found, [Check::Duplicate]);
}

#[test]
fn h4_a_record_is_not_where_it_was_acknowledged() {
    let history = "
        s 1 0 1 0
        u 2 0 1 0
        s 1 0 2 0
        a 2 0 2 0 0
        d 3 0 1 0 1 0
        d 3 0 1 1 2 0
        e 4 0 1 0
    ";
    let verdict = check(history);
    assert!(verdict.count(Check::Duplicate) > 0 && verdict.count(Check::Lost) > 0);
}

#[test]
fn h5_a_reader_skips() {
    assert_eq!(broken("c 73 0 8 1 2 0", ""), [Check::Skip]);
    assert_eq!(
        broken("p 64 0 8 0", "p 64 0 8 2"),
        [Check::Skip, Check::Nonmonotone]
    );
}

#[test]
fn h6_a_reader_goes_back_by_itself() {
    assert_eq!(broken("p 64 0 8 0", ""), [Check::Nonmonotone]);
}

#[test]
fn h6_a_producer_overtakes_itself() {
    let history = "
        s 1 0 1 0
        s 1 0 1 1
        a 3 0 1 0 1
        a 3 0 1 1 0
        d 4 0 1 0 1 1
        d 4 0 1 1 1 0
        e 5 0 1 0
    ";
    let found: Vec<Check> = check(history).broken.into_keys().collect();
    assert_eq!(found, [Check::Nonmonotone]);
}

#[test]
fn h9_a_reader_never_sees_the_end() {
    assert_eq!(broken("c 71 0 7 3 2 1", ""), [Check::Unseen]);
}

#[test]
fn h9_a_reader_sees_it_too_late() {
    assert_eq!(broken("c 75 0 8 3 2 1", "c 1071 0 8 3 2 1"), []);
    assert_eq!(
        broken("c 75 0 8 3 2 1", "c 1000071 0 8 3 2 1"),
        [Check::Unseen]
    );
}

#[test]
fn h13_a_refused_record_is_there() {
    assert_eq!(broken("u 40 0 1 1", "f 40 0 1 1"), [Check::Unexpected]);
}

#[test]
fn h13_a_record_that_nobody_sent_here_is_there() {
    let history = "
        s 1 1 1 0
        a 2 1 1 0 0
        c 3 0 7 0 1 0
    ";
    assert_eq!(check(history).count(Check::Unexpected), 1);
}

#[test]
fn h13_a_damaged_record_is_served() {
    let verdict = check(&GOOD.replacen("c 73 0 8 1 2 0", "c 73 0 8 1 -", 1));
    assert_eq!(verdict.count(Check::Unexpected), 1);
}

#[test]
fn h13_h1_a_damaged_record_is_on_a_disk() {
    let found = broken("d 82 0 2 1 2 0", "d 82 0 2 1 -");
    let expected = [Check::Lost, Check::InconsistentOffset, Check::Unexpected];
    assert_eq!(found, expected);
}

#[test]
fn h14_copies_end_at_different_offsets() {
    let history = "
        s 1 0 1 0
        u 2 0 1 0
        d 3 0 1 0 1 0
        e 4 0 1 0
        e 4 0 2 0
    ";
    let found: Vec<Check> = check(history).broken.into_keys().collect();
    assert_eq!(found, [Check::Divergence]);
}

#[test]
fn h15_what_came_later_lies_before() {
    let history = "
        s 1 0 1 0
        a 2 0 1 0 1
        s 3 0 2 0
        a 4 0 2 0 0
    ";
    let found: Vec<Check> = check(history).broken.into_keys().collect();
    assert_eq!(found, [Check::RealTime]);
    // Both were on their way at the same time.
    assert_eq!(
        check(&history.replace("s 3 0 2 0", "s 2 0 2 0")).violations(),
        0
    );
}

#[test]
fn l2_a_record_is_never_decided() {
    assert_eq!(broken("u 40 0 1 1", ""), [Check::Unanswered]);
}
