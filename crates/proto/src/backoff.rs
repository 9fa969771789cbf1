//! How long to wait before a reconnect.

use std::time::Duration;

use rand::Rng;

use crate::Time;

/// Shapes of randomness (AWS Architecture Blog, "Exponential Backoff And Jitter").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Jitter {
    /// U(floor, window).
    #[default]
    Full,
    /// Half the window, and U(0, half the window).
    Equal,
    /// U(base, 3 × the previous delay), at most `max`; needs no `factor`.
    Decorrelated,
    /// The window itself.
    None,
}

/// The options `reconnect.*` that shape delays.
#[derive(Clone, Debug, PartialEq)]
pub struct BackoffConfig {
    pub base: Duration,
    /// Cap of the window, applied before jitter.
    pub max: Duration,
    pub factor: f64,
    /// Shortest delay, except of the first retry.
    pub floor: Duration,
    pub jitter: Jitter,
    /// Width of the first window; `None`: the advertised spread, else 0.1 s.
    pub first: Option<Duration>,
    /// Retries; `None`: for ever.
    pub max_attempts: Option<u32>,
    /// A connection that lived so long makes the next loss a first one again.
    pub stable_after: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            max: Duration::from_secs(30),
            factor: 2.0,
            floor: Duration::from_millis(50),
            jitter: Jitter::Full,
            first: None,
            max_attempts: None,
            stable_after: Duration::from_secs(5),
        }
    }
}

/// Counts attempts and draws delays. The window of retry n ≥ 2 is
/// min(`max`, `base` × `factor`^(n−2)); the first retry is drawn from U(0, `first`).
#[derive(Debug)]
pub struct Backoff {
    config: BackoffConfig,
    attempts: u32,
    /// The last delay drawn from a window, for [`Jitter::Decorrelated`].
    previous: Duration,
    connected: Option<Time>,
}

impl Backoff {
    #[must_use]
    pub fn new(config: BackoffConfig) -> Self {
        let previous = config.base;
        Self { config, attempts: 0, previous, connected: None }
    }

    /// Attempts since the last stable connection.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The delay before the next retry; `None`: attempts exhausted. `spread` is what the server
    /// advertised; `at_least` (Retry-After) raises the result, with jitter on top: up to the first
    /// window or a tenth of `at_least`, whichever is wider.
    pub fn next_delay<R: Rng>(
        &mut self,
        rng: &mut R,
        spread: Option<Duration>,
        at_least: Option<Duration>,
    ) -> Option<Duration> {
        if self.config.max_attempts.is_some_and(|most| self.attempts >= most) {
            return None;
        }
        self.attempts = self.attempts.saturating_add(1);
        let first = self.config.first.or(spread).unwrap_or(FIRST_WINDOW);
        let delay = if self.attempts == 1 { uniform(rng, Duration::ZERO, first) } else { self.draw(rng) };
        Some(at_least.map_or(delay, |at_least| {
            delay.max(at_least.saturating_add(uniform(rng, Duration::ZERO, first.max(at_least / 10))))
        }))
    }

    /// A connection was established.
    pub fn handle_connected(&mut self, now: Time) {
        self.connected = Some(now);
    }

    /// It was lost; the count starts anew if it had lived for `stable_after`. Returns whether it had.
    pub fn handle_lost(&mut self, now: Time) -> bool {
        let stable = self.connected.take().is_some_and(|since| now - since >= self.config.stable_after);
        if stable {
            self.reset();
        }
        stable
    }

    /// The next retry is a first one.
    pub fn reset(&mut self) {
        self.attempts = 0;
        self.previous = self.config.base;
    }

    /// The delay of retry n ≥ 2.
    fn draw<R: Rng>(&mut self, rng: &mut R) -> Duration {
        let BackoffConfig { base, max, factor, floor, jitter, .. } = self.config;
        let exponent = i32::try_from(self.attempts - 2).unwrap_or(i32::MAX);
        let window = Duration::try_from_secs_f64(base.as_secs_f64() * factor.powi(exponent))
            .map_or(max, |window| window.min(max));
        let delay = match jitter {
            Jitter::Full => uniform(rng, floor.min(window), window),
            Jitter::Equal => window / 2 + uniform(rng, Duration::ZERO, window / 2),
            Jitter::Decorrelated => uniform(rng, base, self.previous.saturating_mul(3).max(base)).min(max),
            Jitter::None => window,
        };
        self.previous = delay.max(floor);
        self.previous
    }
}

/// How wide a window a server that holds `connections` advertises for their return: a thousand a
/// second, within 0.1 to 60 s.
#[must_use]
pub fn spread(connections: usize) -> Duration {
    Duration::from_millis(connections as u64).clamp(Duration::from_millis(100), Duration::from_secs(60))
}

fn uniform<R: Rng>(rng: &mut R, low: Duration, high: Duration) -> Duration {
    if low >= high { low } else { rng.random_range(low..=high) }
}

/// Width of the first window when nobody said otherwise.
const FIRST_WINDOW: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn rng(seed: u64) -> SmallRng {
        SmallRng::seed_from_u64(seed)
    }

    /// Delays in seconds of retry `n`, drawn by fresh clients.
    fn sample(config: &BackoffConfig, n: usize, count: u64) -> Vec<f64> {
        (0..count)
            .map(|seed| {
                let (mut backoff, mut rng) = (Backoff::new(config.clone()), rng(seed));
                let delays: Vec<_> = (0..n).map(|_| backoff.next_delay(&mut rng, None, None)).collect();
                delays[n - 1].unwrap().as_secs_f64()
            })
            .collect()
    }

    /// Whether the values fill [low, high] evenly: each tenth has a tenth of them, give or take.
    fn assert_uniform(values: &[f64], low: f64, high: f64) {
        let mut bins = [0usize; 10];
        for value in values {
            assert!((low..=high).contains(value), "{value} not in {low}..={high}");
            bins[(((value - low) / (high - low) * 10.0) as usize).min(9)] += 1;
        }
        let expected = values.len() / 10;
        for bin in bins {
            assert!(bin.abs_diff(expected) < expected / 4, "{bins:?}");
        }
    }

    #[test]
    fn the_windows_of_full_jitter() {
        let config = BackoffConfig::default();
        assert_uniform(&sample(&config, 1, 4000), 0.0, 0.1);
        for (n, window) in [(2, 0.5), (3, 1.0), (4, 2.0), (7, 16.0), (8, 30.0), (9, 30.0), (40, 30.0)] {
            assert_uniform(&sample(&config, n, 4000), 0.05, window);
        }
    }

    #[test]
    fn the_other_shapes() {
        let shaped = |jitter| BackoffConfig { jitter, ..BackoffConfig::default() };
        assert_uniform(&sample(&shaped(Jitter::Equal), 4, 4000), 1.0, 2.0);
        assert_uniform(&sample(&shaped(Jitter::Equal), 10, 4000), 15.0, 30.0);
        assert!(sample(&shaped(Jitter::None), 4, 10).iter().all(|delay| (delay - 2.0).abs() < 1e-9));
        assert!(sample(&shaped(Jitter::None), 5000, 10).iter().all(|delay| (delay - 30.0).abs() < 1e-9));
        assert_uniform(&sample(&shaped(Jitter::Decorrelated), 2, 4000), 0.5, 1.5);
        let later = sample(&shaped(Jitter::Decorrelated), 12, 4000);
        assert!(later.iter().all(|delay| (0.5..=30.0).contains(delay)));
        assert!(later.iter().any(|delay| *delay > 20.0) && later.iter().any(|delay| *delay < 3.0));
    }

    #[test]
    fn a_crowd_is_spread() {
        let first = |configured: Option<u64>, advertised: Option<u64>| -> Vec<f64> {
            let config = BackoffConfig { first: configured.map(Duration::from_secs), ..BackoffConfig::default() };
            (0..2000)
                .map(|seed| {
                    Backoff::new(config.clone())
                        .next_delay(&mut rng(seed), advertised.map(Duration::from_secs), None)
                        .unwrap()
                        .as_secs_f64()
                })
                .collect()
        };
        let mut delays = first(None, Some(2));
        assert_uniform(&delays, 0.0, 2.0);
        delays.sort_by(f64::total_cmp);
        for (i, start) in delays.iter().enumerate() {
            let within = delays[i..].iter().take_while(|delay| **delay < start + 0.1).count();
            assert!(within <= 200, "{within} from {start}");
        }
        assert_uniform(&first(Some(7), Some(2)), 0.0, 7.0);
        assert_eq!(
            [0, 50, 100, 101, 2000, 59_999, 60_001, usize::MAX].map(|n| spread(n).as_millis()),
            [100, 100, 100, 101, 2000, 59_999, 60_000, 60_000]
        );
    }

    #[test]
    fn retry_after_is_a_floor_with_jitter() {
        let delays: Vec<f64> = (0..4000)
            .map(|seed| {
                let mut backoff = Backoff::new(BackoffConfig::default());
                backoff.next_delay(&mut rng(seed), None, Some(Duration::from_secs(20))).unwrap().as_secs_f64()
            })
            .collect();
        assert_uniform(&delays, 20.0, 22.0);
        let mut backoff = Backoff::new(BackoffConfig::default());
        for _ in 0..20 {
            let delay = backoff.next_delay(&mut rng(1), None, Some(Duration::from_millis(1500))).unwrap();
            assert!(delay >= Duration::from_millis(1500) && delay <= Duration::from_secs(30));
        }
        assert!(backoff.next_delay(&mut rng(1), None, Some(Duration::MAX)).is_some());
    }

    #[test]
    fn attempts_run_out() {
        let mut backoff = Backoff::new(BackoffConfig { max_attempts: Some(2), ..BackoffConfig::default() });
        let mut rng = rng(3);
        assert!(backoff.next_delay(&mut rng, None, None).is_some());
        assert!(backoff.next_delay(&mut rng, None, None).is_some());
        assert_eq!(backoff.next_delay(&mut rng, None, None), None);
        assert_eq!(backoff.attempts(), 2);
        let mut never = Backoff::new(BackoffConfig { max_attempts: Some(0), ..BackoffConfig::default() });
        assert_eq!(never.next_delay(&mut rng, None, None), None);
    }

    #[test]
    fn only_a_stable_connection_resets() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        let mut rng = rng(3);
        let second = Time::ZERO + Duration::from_secs(1);
        backoff.next_delay(&mut rng, None, None);
        backoff.next_delay(&mut rng, None, None);
        backoff.handle_connected(second);
        backoff.handle_lost(second + Duration::from_micros(4_999_999));
        assert_eq!(backoff.attempts(), 2);
        // Time without a connection does not count.
        backoff.handle_lost(second + Duration::from_secs(100));
        assert_eq!(backoff.attempts(), 2);
        backoff.handle_connected(second);
        backoff.handle_lost(second + Duration::from_secs(5));
        assert_eq!(backoff.attempts(), 0);
    }

    proptest! {
        #[test]
        fn bounds_hold_for_any_configuration(
            (base, max, floor) in (0u64..100_000, 0u64..1_000_000, 0u64..10_000),
            factor in 0.0f64..100.0,
            jitter in prop::sample::select(vec![Jitter::Full, Jitter::Equal, Jitter::Decorrelated, Jitter::None]),
            seed in any::<u64>(),
        ) {
            let [base, max, floor] = [base, max, floor].map(Duration::from_millis);
            let config = BackoffConfig { base, max, factor, floor, jitter, ..BackoffConfig::default() };
            let (mut backoff, mut rng) = (Backoff::new(config), rng(seed));
            prop_assert!(backoff.next_delay(&mut rng, None, None).unwrap() <= FIRST_WINDOW);
            for _ in 0..100 {
                let delay = backoff.next_delay(&mut rng, None, None).unwrap();
                prop_assert!(delay >= floor && delay <= max.max(floor));
            }
        }
    }
}
