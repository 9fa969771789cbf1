//! Token bucket.

use std::time::Duration;

use crate::Time;

/// Allows `rate` units a second, and a burst of one second's worth.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    /// Units a second.
    rate: f64,
    burst: f64,
    /// Below zero: debt of one unit bigger than the burst.
    tokens: f64,
    filled: Time,
}

impl TokenBucket {
    /// A full bucket. `rate` in units a second, above 0; the burst is one second's worth, at least one
    /// unit.
    #[must_use]
    pub fn new(rate: f64, now: Time) -> Self {
        let rate = if rate.is_finite() { rate.max(LOWEST_RATE) } else { f64::MAX };
        let burst = rate.max(1.0);
        Self { rate, burst, tokens: burst, filled: now }
    }

    /// Takes `n` units. More than the burst is allowed when the bucket is full, and leaves a debt that
    /// later calls wait for: the rate holds, and no single message is too big to ever pass.
    ///
    /// # Errors
    /// How long to wait until the same call succeeds; nothing was taken.
    pub fn take(&mut self, now: Time, n: f64) -> Result<(), Duration> {
        self.tokens = (self.tokens + (now - self.filled).as_secs_f64() * self.rate).min(self.burst);
        self.filled = self.filled.max(now);
        let missing = n.min(self.burst) - self.tokens;
        // Within the error of summing fractions.
        if missing <= self.burst * 1e-9 {
            self.tokens -= n;
            return Ok(());
        }
        Err(self.time_for(missing))
    }

    /// Takes `n` units that have come already, whatever is left: the debt is to be waited for. Returns
    /// how long; zero when there was enough.
    pub fn spend(&mut self, now: Time, n: f64) -> Duration {
        if self.take(now, n).is_ok() {
            return Duration::ZERO;
        }
        self.tokens -= n;
        self.time_for(-self.tokens)
    }

    /// How long `missing` units take to come.
    fn time_for(&self, missing: f64) -> Duration {
        let wait = Duration::try_from_secs_f64(missing.max(0.0) / self.rate).unwrap_or(Duration::MAX);
        // Up to the next microsecond, the clock's grain: waiting must suffice.
        wait.saturating_add(Duration::from_micros(1))
    }
}

/// A unit in 30 years; keeps a rate of 0 from dividing.
const LOWEST_RATE: f64 = 1e-9;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_came_at_once_is_waited_for_afterwards() {
        let mut bucket = TokenBucket::new(100.0, Time::ZERO);
        for _ in 0..100 {
            assert_eq!(bucket.spend(Time::ZERO, 1.0), Duration::ZERO);
        }
        let waits: Vec<_> = (0..50).map(|_| bucket.spend(Time::ZERO, 1.0)).collect();
        assert!(waits.windows(2).all(|pair| pair[0] < pair[1]));
        let last = waits[49];
        assert!((last.as_secs_f64() - 0.5).abs() < 1e-3, "{last:?}");
        assert_eq!(bucket.spend(Time::ZERO + last + Duration::from_millis(10), 1.0), Duration::ZERO);
    }

    #[test]
    fn a_burst_of_one_second_then_the_rate() {
        let mut bucket = TokenBucket::new(10.0, Time::ZERO);
        for _ in 0..10 {
            assert_eq!(bucket.take(Time::ZERO, 1.0), Ok(()));
        }
        assert_eq!(bucket.take(Time::ZERO, 1.0), Err(Duration::from_micros(100_001)));
        assert_eq!(bucket.take(Time::from_micros(100_001), 1.0), Ok(()));
        assert!(bucket.take(Time::from_micros(100_001), 1.0).is_err());
        // Rest fills it to the burst, not beyond.
        let later = Time::from_micros(60_000_000);
        assert_eq!(bucket.take(later, 10.0), Ok(()));
        assert!(bucket.take(later, 1.0).is_err());
    }

    #[test]
    fn an_oversized_message_passes_and_is_paid_for() {
        let mut bucket = TokenBucket::new(100.0, Time::ZERO);
        assert_eq!(bucket.take(Time::ZERO, 1000.0), Ok(()));
        let wait = bucket.take(Time::ZERO, 1.0).unwrap_err();
        assert_eq!(wait.as_millis(), 9010);
        assert!(bucket.take(Time::from_micros(9_009_000), 1.0).is_err());
        assert_eq!(bucket.take(Time::ZERO + wait, 1.0), Ok(()));
    }

    #[test]
    fn less_than_one_a_second() {
        let mut bucket = TokenBucket::new(0.5, Time::ZERO);
        assert_eq!(bucket.take(Time::ZERO, 1.0), Ok(()));
        let wait = bucket.take(Time::ZERO, 1.0).unwrap_err();
        assert_eq!(wait.as_millis(), 2000);
        assert_eq!(bucket.take(Time::ZERO + wait, 1.0), Ok(()));
        assert!(TokenBucket::new(0.0, Time::ZERO).take(Time::ZERO, 5.0).is_ok());
    }

    proptest! {
        #[test]
        fn the_rate_holds_and_waiting_suffices(
            rate in 0.1f64..100_000.0,
            calls in prop::collection::vec((0u64..500_000, 0.0f64..2.0), 1..100),
        ) {
            let mut bucket = TokenBucket::new(rate, Time::ZERO);
            let burst = rate.max(1.0);
            let (mut now, mut taken, mut biggest) = (Time::ZERO, 0.0, 0.0f64);
            for (pause, share) in calls {
                now = now + Duration::from_micros(pause);
                let n = share * burst;
                if let Err(wait) = bucket.take(now, n) {
                    now = now + wait;
                    prop_assert_eq!(bucket.take(now, n), Ok(()));
                }
                taken += n;
                biggest = biggest.max(n);
                let allowed = burst + biggest + rate * (now - Time::ZERO).as_secs_f64();
                prop_assert!(taken <= allowed * (1.0 + 1e-6), "{} of {}", taken, allowed);
            }
        }
    }
}
