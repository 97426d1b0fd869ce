//! The waiting list against a naive twin that asks every condition again at every step.

use std::collections::BTreeMap;

use strandline_core::waiting::{Condition, Parked, WaitingList};

struct Waiter {
    token: u64,
    deadline: u64,
    condition: Condition<u8>,
}

/// The dumbest thing that could be right.
#[derive(Default)]
struct Twin {
    positions: BTreeMap<u8, i64>,
    waiters: Vec<Waiter>,
}

impl Twin {
    fn holds(&self, condition: &Condition<u8>) -> bool {
        let reached = |key: &u8, least: i64| self.positions.get(key).map_or(least, |at| *at);
        match condition {
            Condition::All(keys) => keys.iter().all(|(key, at)| {
                self.positions
                    .get(key)
                    .is_some_and(|position| position >= at)
            }),
            Condition::Sum { from, growth } => {
                let grown: i64 = from
                    .iter()
                    .map(|(key, from)| (reached(key, *from) - from).max(0))
                    .sum();
                grown >= *growth
            }
        }
    }

    /// What one key has reached stays reached, even if the key is removed before the others follow.
    fn settle(&mut self) {
        for waiter in &mut self.waiters {
            if let Condition::All(keys) = &mut waiter.condition {
                keys.retain(|(key, at)| self.positions.get(key).is_none_or(|is| is < at));
            }
        }
    }

    fn take(&mut self, wanted: impl Fn(&Self, &Waiter) -> bool) -> Vec<u64> {
        let waiters = std::mem::take(&mut self.waiters);
        let (taken, left) = waiters.into_iter().partition(|waiter| wanted(self, waiter));
        self.waiters = left;
        taken
            .into_iter()
            .map(|waiter: Waiter| waiter.token)
            .collect()
    }
}

fn names(condition: &Condition<u8>, key: u8) -> bool {
    let (Condition::All(keys) | Condition::Sum { from: keys, .. }) = condition;
    keys.iter().any(|(named, _)| *named == key)
}

/// One to three keys where they are now.
fn near(twin: &Twin, random: &mut impl FnMut(u64) -> u64) -> BTreeMap<u8, i64> {
    (0..=random(3))
        .map(|_| {
            let key = random(6) as u8;
            (key, twin.positions.get(&key).copied().unwrap_or(0))
        })
        .collect()
}

#[test]
fn list_and_twin_agree() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(0x5eed_u64);
    println!("SEED={seed}");
    let mut state = seed;
    let random = &mut move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut list, mut twin) = (WaitingList::new(), Twin::default());
    let (mut tickets, mut woken) = (BTreeMap::new(), 0);
    for now in 0..40_000_u64 {
        let key = random(6) as u8;
        let at = twin.positions.get(&key).copied().unwrap_or(0);
        match random(10) {
            0..=2 => {
                let keys = near(&twin, random);
                let condition = if random(2) == 0 {
                    let ahead = |(key, at)| (key, at + random(20) as i64);
                    Condition::All(keys.into_iter().map(ahead).collect())
                } else {
                    Condition::Sum {
                        from: keys.into_iter().collect(),
                        growth: random(40) as i64,
                    }
                };
                let deadline = now + random(60);
                // A key that nobody has heard of has no position: it is at 0 for the twin too.
                let holds = twin.holds(&condition);
                match list.park(now, deadline, condition.clone()) {
                    Parked::Ready(token) => assert!(holds && token == now, "at {now}"),
                    Parked::Waiting(ticket) => {
                        assert!(!holds, "at {now}: {condition:?}");
                        tickets.insert(now, ticket);
                        twin.waiters.push(Waiter {
                            token: now,
                            deadline,
                            condition,
                        });
                        twin.settle();
                    }
                }
            }
            3..=7 => {
                // Sometimes behind: that changes nothing.
                let position = at + random(12) as i64 - 2;
                let entry = twin.positions.entry(key).or_insert(position);
                *entry = position.max(*entry);
                let expected = twin.take(|twin, waiter| twin.holds(&waiter.condition));
                woken += expected.len();
                twin.settle();
                assert_eq!(list.advance(&key, position), expected, "at {now}");
            }
            8 => {
                if let Some((&token, &ticket)) = tickets.iter().next_back() {
                    let expected = twin.take(|_, waiter| waiter.token == token);
                    assert_eq!(
                        list.cancel(ticket).into_iter().collect::<Vec<_>>(),
                        expected
                    );
                    tickets.remove(&token);
                }
            }
            _ if random(20) == 0 => {
                twin.positions.remove(&key);
                // A token that no longer lacks this key is not waiting for it.
                let mut expected: Vec<u64> = list.remove_key(&key);
                let taken = twin.take(|_, waiter| expected.contains(&waiter.token));
                expected.sort_unstable();
                assert_eq!(expected, taken, "at {now}");
                let left = twin.waiters.iter();
                let sums = left.filter(|waiter| matches!(waiter.condition, Condition::Sum { .. }));
                assert!(
                    sums.into_iter()
                        .all(|waiter| !names(&waiter.condition, key))
                );
            }
            _ => {}
        }
        let mut expected = twin.take(|_, waiter| waiter.deadline <= now);
        let mut expired = list.expire(now);
        expected.sort_unstable();
        expired.sort_unstable();
        assert_eq!(expired, expected, "at {now}");
        assert_eq!(list.len(), twin.waiters.len(), "at {now}");
        let next = twin.waiters.iter().map(|waiter| waiter.deadline).min();
        assert_eq!(list.next_deadline(), next, "at {now}");
    }
    assert!(woken > 1_000, "only {woken} were woken");
}
