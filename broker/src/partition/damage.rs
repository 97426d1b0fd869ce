//! Which damages the log of this process has told of lately: a consumer that asks again and again
//! is no news.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use strandline_protocol::Offset;
use tokio::time::Instant;

/// How long one damage is told once.
const SILENCE: Duration = Duration::from_secs(60);

/// How many damages are told in that time: a log with more of them is known to be bad by then.
const DAMAGES_MAX: usize = 64;

/// The damages of one partition that were told, by the next good offset, and when.
#[derive(Debug, Default)]
pub(super) struct DamageTold {
    told: Mutex<BTreeMap<Offset, Instant>>,
}

impl DamageTold {
    /// Whether the damage in front of `next_good` is to be told now. Who asks is taken to tell it.
    pub(super) fn is_due(&self, next_good: Offset, now: Instant) -> bool {
        let mut told = self.told.lock();
        told.retain(|_, at| now.saturating_duration_since(*at) < SILENCE);
        if told.contains_key(&next_good) || told.len() >= DAMAGES_MAX {
            return false;
        }
        told.insert(next_good, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_damage_is_told_once_a_minute() {
        let (told, now) = (DamageTold::default(), Instant::now());
        assert!(told.is_due(Offset(7), now));
        assert!(!told.is_due(Offset(7), now + SILENCE / 2));
        assert!(told.is_due(Offset(9), now + SILENCE / 2));
        assert!(told.is_due(Offset(7), now + SILENCE));
    }

    #[test]
    fn a_log_full_of_damage_does_not_fill_the_memory() {
        let (told, now) = (DamageTold::default(), Instant::now());
        let count = (0..1_000).filter(|next| told.is_due(Offset(*next), now));
        assert_eq!(count.count(), DAMAGES_MAX);
    }
}
