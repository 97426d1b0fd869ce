//! How long to pause before the next attempt.

use std::time::Duration;

use crate::{ClientOptions, net};

/// Pauses that double from attempt to attempt, drawn so that many clients do not come back at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(options: &ClientOptions) -> Self {
        Self {
            min: options.backoff_min,
            max: options.backoff_max,
            failures: 0,
        }
    }

    /// As [`Backoff::new`], with pauses of at most `max`.
    pub(crate) fn up_to(max: Duration, options: &ClientOptions) -> Self {
        Self {
            max: options.backoff_max.min(max),
            ..Self::new(options)
        }
    }

    /// The next attempt has succeeded: pauses begin small again.
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure: between a half and the whole of its length.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let doublings = self.failures.min(20);
        self.failures = self.failures.saturating_add(1);
        let whole = self.min.saturating_mul(1 << doublings).min(self.max);
        jittered(whole, net::random())
    }
}

/// `whole` less up to its half, by the number that was drawn.
fn jittered(whole: Duration, drawn: u64) -> Duration {
    let half_us = u64::try_from(whole.as_micros() / 2).unwrap_or(u64::MAX - 1);
    whole.saturating_sub(Duration::from_micros(drawn % (half_us + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_maximum_and_stay_above_the_half() {
        let mut backoff = Backoff::new(&ClientOptions::default());
        for whole in [20, 40, 80, 160, 320, 640, 1_000, 1_000, 1_000] {
            let pause = backoff.next_pause();
            let whole = Duration::from_millis(whole);
            assert!(
                pause <= whole && pause >= whole / 2,
                "{pause:?} of {whole:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next_pause() <= Duration::from_millis(20));
    }

    #[test]
    fn what_is_drawn_decides() {
        let whole = Duration::from_millis(100);
        assert_eq!(jittered(whole, 0), whole);
        assert_eq!(jittered(whole, 50_000), whole / 2);
    }
}
