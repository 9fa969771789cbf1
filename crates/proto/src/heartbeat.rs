//! When to beat, and when a silent peer is dead.

use std::time::Duration;

use crate::Time;

/// See the option `heartbeat.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A beat after `interval` of silence from the peer.
    #[default]
    Auto,
    /// A beat each `interval`, also under traffic.
    Fixed,
    /// Beats like `Auto` but never declares death.
    Keepalive,
    /// Never beats; dead after `interval × missed_limit` of silence.
    Passive,
    Off,
}

/// Option `heartbeat.adaptive`: how the interval grows on a quiet link that answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adaptive {
    pub min: Duration,
    pub max: Duration,
    pub step: Duration,
}

/// The rules of one link's heartbeat.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeartbeatConfig {
    pub interval: Duration,
    pub timeout: Duration,
    /// At least 1.
    pub missed_limit: u32,
    pub mode: Mode,
    pub adaptive: Option<Adaptive>,
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(25),
            timeout: Duration::from_secs(10),
            missed_limit: 1,
            mode: Mode::Auto,
            adaptive: None,
        }
    }
}

/// What the driver knows of the link when a deadline is reached.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// When the last byte arrived from the peer.
    pub last_received: Time,
    /// Since when bytes have waited to be written without any progress; `None`: nothing waits.
    pub write_stalled_since: Option<Time>,
    /// We are not reading (backpressure): silence is not evidence.
    pub reads_paused: bool,
}

/// What the driver must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Queue a beat now; call [`Heartbeat::handle_beat_written`] when its last byte has left.
    Beat,
    /// The link is dead: abort the socket.
    Dead,
}

/// One link's heartbeat. Traffic costs it nothing: the driver stores the time of the last byte and
/// shows it at the deadline.
#[derive(Debug)]
pub struct Heartbeat {
    _config: HeartbeatConfig,
}

impl Heartbeat {
    /// `jitter` in 0..1 places the first beat within the first interval, so that a crowd that came
    /// together does not beat together.
    #[must_use]
    pub fn new(config: HeartbeatConfig, now: Time, jitter: f64) -> Self {
        let _ = (now, jitter);
        Self { _config: config }
    }

    /// When [`Heartbeat::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        todo!()
    }

    /// A deadline may have passed. Harmless when called early; call until it returns `None`.
    pub fn handle_timeout(&mut self, now: Time, link: &Link) -> Option<Action> {
        let _ = (now, link);
        todo!()
    }

    /// The beat has left our buffer: its answer is due `timeout` from now.
    pub fn handle_beat_written(&mut self, now: Time) {
        let _ = now;
        todo!()
    }

    /// The answer to a beat of ours arrived; returns this round trip's time.
    pub fn handle_answer(&mut self, now: Time) -> Option<Duration> {
        let _ = now;
        todo!()
    }

    /// A doubt (clock jump, wake): beat at once and give the answer only `deadline`.
    pub fn probe(&mut self, now: Time, deadline: Duration) {
        let _ = (now, deadline);
        todo!()
    }

    /// Application traffic was sent or received (adaptive mode returns to its minimum).
    pub fn handle_traffic(&mut self) {}

    /// Smoothed round-trip time (RFC 6298 section 2, alpha 1/8).
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        todo!()
    }

    /// Consecutive unanswered beats.
    #[must_use]
    pub fn missed(&self) -> u32 {
        todo!()
    }
}
