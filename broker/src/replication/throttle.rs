//! How much may be fetched for replicas that are being added: bytes a second, for this broker.
//!
//! *Pattern: token bucket.* What is in sync is never held back by it: only who asks it is.

use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub struct Throttle {
    /// None is without a limit.
    bytes_per_second: Option<u64>,
    /// What may be fetched at once; below zero is what was fetched ahead.
    balance: i64,
    at: Instant,
}

impl Throttle {
    /// Without a limit.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            bytes_per_second: None,
            balance: 0,
            at: now,
        }
    }

    /// Puts another limit in force; none, or 0, is without one.
    pub fn set(&mut self, bytes_per_second: Option<u64>, now: Instant) {
        let bytes_per_second = bytes_per_second.filter(|rate| *rate > 0);
        if self.bytes_per_second == bytes_per_second {
            return;
        }
        self.refill(now);
        self.bytes_per_second = bytes_per_second;
        // A tenth of a second to begin with; a debt from another rate is forgiven.
        self.balance = to_i64(bytes_per_second.unwrap_or(0) / 10);
    }

    /// So many bytes were fetched.
    pub fn take(&mut self, bytes: u64, now: Instant) {
        self.refill(now);
        if self.bytes_per_second.is_some() {
            self.balance = self.balance.saturating_sub(to_i64(bytes));
        }
    }

    /// When more may be fetched, if that is not now.
    pub fn ready_at(&mut self, now: Instant) -> Option<Instant> {
        self.refill(now);
        let rate = self.bytes_per_second?;
        let debt = u64::try_from(self.balance.saturating_neg().saturating_add(1)).unwrap_or(0);
        if debt == 0 {
            return None;
        }
        let millis = u128::from(debt) * 1_000 / u128::from(rate);
        let millis = u64::try_from(millis).unwrap_or(u64::MAX).saturating_add(1);
        Some(now + Duration::from_millis(millis))
    }

    /// How many bytes may be asked for at once, at most `most`.
    #[must_use]
    pub fn bytes_max(&self, most: u32) -> u32 {
        match self.bytes_per_second {
            None => most,
            Some(_) => u32::try_from(self.balance.max(1)).unwrap_or(most).min(most),
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = now;
        let Some(rate) = self.bytes_per_second else {
            return;
        };
        let earned = u128::from(rate).saturating_mul(passed.as_micros()) / 1_000_000;
        let earned = i64::try_from(earned).unwrap_or(i64::MAX);
        if earned == 0 {
            // Nothing of a short time may be lost.
            self.at = now.checked_sub(passed).unwrap_or(now);
            return;
        }
        self.balance = self.balance.saturating_add(earned).min(to_i64(rate));
    }
}

fn to_i64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fetches pieces of `bytes` whenever that is allowed; returns how many bytes in a minute.
    fn in_a_minute(rate: u64, bytes: u64) -> u64 {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        throttle.set(Some(rate), start);
        let (mut now, mut sum) = (start, 0);
        while now < start + Duration::from_secs(60) {
            match throttle.ready_at(now) {
                Some(at) => {
                    assert!(at > now);
                    now = at;
                }
                None => {
                    throttle.take(bytes, now);
                    sum += bytes;
                }
            }
        }
        sum
    }

    #[test]
    fn the_rate_is_kept_whatever_the_size_of_the_pieces() {
        for (rate, bytes) in [(1 << 20, 1_000), (1 << 20, 1 << 20), (10_000, 1 << 20)] {
            let most = 61 * rate + bytes;
            let fetched = in_a_minute(rate, bytes);
            assert!(fetched <= most, "{fetched} of {most}");
            assert!(fetched * 10 >= 59 * rate * 9, "{fetched} at {rate}");
        }
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        throttle.take(u64::MAX, start);
        assert_eq!(throttle.ready_at(start), None);
        assert_eq!(throttle.bytes_max(77), 77);
        throttle.set(Some(10), start);
        throttle.take(1_000, start);
        assert!(throttle.ready_at(start).is_some());
        throttle.set(Some(0), start);
        assert_eq!(throttle.ready_at(start), None);
    }

    #[test]
    fn a_quiet_hour_does_not_buy_more_than_a_second() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        throttle.set(Some(1_000), start);
        let later = start + Duration::from_secs(3_600);
        assert_eq!(throttle.ready_at(later), None);
        assert_eq!(throttle.bytes_max(1 << 20), 1_000);
    }
}
