//! How long to wait before a reconnect.

use std::time::Duration;

use rand::Rng;

use crate::Time;

/// Shapes of randomness (AWS Architecture Blog, "Exponential Backoff And Jitter").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Jitter {
    #[default]
    Full,
    Equal,
    Decorrelated,
    None,
}

/// The options `reconnect.*` that shape delays.
#[derive(Clone, Debug, PartialEq)]
pub struct BackoffConfig {
    pub base: Duration,
    pub max: Duration,
    pub factor: f64,
    pub floor: Duration,
    pub jitter: Jitter,
    /// Width of the first window; `None`: the advertised spread, else 0.1 s.
    pub first: Option<Duration>,
    pub max_attempts: Option<u32>,
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

/// Counts attempts and draws delays.
#[derive(Debug)]
pub struct Backoff {
    _config: BackoffConfig,
}

impl Backoff {
    #[must_use]
    pub fn new(config: BackoffConfig) -> Self {
        Self { _config: config }
    }

    /// Attempts since the last stable connection.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        todo!()
    }

    /// The delay before the next retry; `None`: attempts exhausted. `spread` is what the server
    /// advertised; `at_least` (Retry-After) raises the result, with jitter on top.
    pub fn next_delay<R: Rng>(
        &mut self,
        rng: &mut R,
        spread: Option<Duration>,
        at_least: Option<Duration>,
    ) -> Option<Duration> {
        let _ = (rng, spread, at_least);
        todo!()
    }

    /// A connection was established.
    pub fn handle_connected(&mut self, now: Time) {
        let _ = now;
        todo!()
    }

    /// It was lost; the count starts anew if it had lived for `stable_after`.
    pub fn handle_lost(&mut self, now: Time) {
        let _ = now;
        todo!()
    }
}
