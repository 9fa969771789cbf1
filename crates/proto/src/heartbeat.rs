//! When to beat, and when a silent peer is dead.

use std::sync::Arc;
use std::time::Duration;

use crate::{Time, wheel};

/// See the option `heartbeat.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A beat after `interval` of silence from the peer (a little less, see [`Heartbeat`]).
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

/// Option `heartbeat.adaptive`: how the interval grows on a quiet link that answers. Takes the place
/// of `interval`.
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
    /// Something that was sent is not confirmed, and what else comes from the peer does not show that it
    /// arrived: only an answer to a beat, which leaves behind it, is a sign of life.
    pub unconfirmed: bool,
}

/// What the driver must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Queue a beat now; call [`Heartbeat::handle_beat_written`] when its last byte has left. Where the
    /// last beat has not left yet, that one may stand for this.
    Beat,
    /// The link is dead: abort the socket.
    Dead,
}

/// One link's heartbeat. Traffic costs it nothing: the driver stores the time of the last byte and
/// shows it at the deadline.
///
/// A link that died is found within `interval + missed_limit × timeout` of its last sign of life: a
/// byte received, or a byte written while others waited (`passive`: `interval × missed_limit`).
///
/// Beats are due up to a fiftieth of their interval, 0.5 s at most, early: many links' then leave together.
#[derive(Debug)]
pub struct Heartbeat {
    /// Shared by all links of a server or client.
    config: Arc<HeartbeatConfig>,
    /// Adaptive mode.
    search: Option<Box<Search>>,
    /// What the first wait is of the interval, shortened by jitter, until a beat was sent.
    first_wait: Option<f32>,
    /// The present wait counts from here at the earliest.
    since: Time,
    phase: Phase,
    /// When a write stall, seen at the last timeout, is death.
    stall_deadline: Option<Time>,
    /// Reads were paused at the last timeout.
    paused: bool,
    missed: u32,
    round_trip: RoundTrip,
    /// In microseconds, 0: not measured.
    rtt: u32,
}

/// Adaptive mode: which interval the link bears.
#[derive(Clone, Debug)]
struct Search {
    /// The present interval.
    interval: Duration,
    /// The longest that may be tried.
    ceiling: Duration,
    /// The longest that was answered.
    last_good: Duration,
    /// No application traffic since the last beat was queued.
    quiet: bool,
}

/// Boxed but for the phase that lasts: it is part of each idle connection.
#[derive(Clone, Debug)]
enum Phase {
    Waiting,
    Probing(Box<Probe>),
    Beaten(Box<Beat>),
    Dead,
}

/// A probe was asked for.
#[derive(Clone, Debug)]
struct Probe {
    at: Time,
    deadline: Duration,
}

/// A beat is out.
#[derive(Clone, Debug)]
struct Beat {
    queued: Time,
    /// Whether it has left our buffer.
    written: bool,
    deadline: Time,
    /// What the answer is given once the beat has left.
    timeout: Duration,
    /// Of a probe: its loss alone is death.
    fatal: bool,
    /// When we last looked: a byte that came since may demand a beat an interval later.
    looked: Time,
}

/// The round trip being measured. None after a repeated beat, whose answer would be ambiguous (Karn's
/// algorithm).
#[derive(Clone, Copy, Debug)]
enum RoundTrip {
    None,
    Queued,
    Since(Time),
}

impl Heartbeat {
    /// `jitter` in 0..1 places the first beat within the second half of the first interval, so that a
    /// crowd that came together does not beat together.
    #[must_use]
    pub fn new(config: impl Into<Arc<HeartbeatConfig>>, now: Time, jitter: f64) -> Self {
        let config = config.into();
        let search = config.adaptive.map(|adaptive| {
            let interval = adaptive.min.max(SHORTEST);
            Box::new(Search { interval, ceiling: adaptive.max.max(interval), last_good: interval, quiet: true })
        });
        Self {
            search,
            first_wait: Some((0.5 + 0.5 * jitter.clamp(0.0, 1.0)) as f32),
            since: now,
            phase: Phase::Waiting,
            stall_deadline: None,
            paused: false,
            missed: 0,
            round_trip: RoundTrip::None,
            rtt: 0,
            config,
        }
    }

    fn timeout(&self) -> Duration {
        self.config.timeout.max(SHORTEST)
    }

    /// A deadline may have passed. Harmless when called early; call until it returns `None`.
    pub fn handle_timeout(&mut self, now: Time, link: &Link) -> Option<Action> {
        if self.config.mode == Mode::Off || matches!(self.phase, Phase::Dead) {
            return None;
        }
        if link.reads_paused {
            self.paused = true;
        } else if self.paused {
            self.handle_reads_resumed(now);
        }
        self.stall_deadline = match self.config.mode {
            Mode::Keepalive => None,
            _ => link.write_stalled_since.map(|since| since + self.patience()),
        };
        if self.stall_deadline.is_some_and(|deadline| now >= deadline) {
            return Some(self.die());
        }
        loop {
            match &mut self.phase {
                Phase::Dead => return None,
                Phase::Probing(probe) => {
                    let deadline = probe.deadline;
                    return Some(self.beat(now, deadline, true));
                }
                Phase::Waiting => {
                    if self.config.mode == Mode::Passive && self.paused {
                        self.since = now;
                    } else if self.config.mode != Mode::Fixed && !link.unconfirmed {
                        self.since = self.since.max(link.last_received);
                    }
                    return if now < self.due() {
                        None
                    } else if self.config.mode == Mode::Passive {
                        Some(self.die())
                    } else {
                        Some(self.beat(now, self.timeout(), false))
                    };
                }
                Phase::Beaten(beat) if link.last_received >= beat.queued && !link.unconfirmed => {
                    let queued = beat.queued;
                    self.handle_life(link.last_received, queued);
                }
                Phase::Beaten(beat) => {
                    // While bytes before it leave, a beat in our buffer proves nothing.
                    if let Some(since) = link.write_stalled_since.filter(|since| !beat.written && *since > beat.queued)
                    {
                        beat.deadline = beat.deadline.max(since + beat.timeout);
                    }
                    if now < beat.deadline {
                        beat.looked = now;
                        return None;
                    }
                    let (queued, fatal) = (beat.queued, beat.fatal);
                    if self.paused {
                        self.wait_from(queued);
                        continue;
                    }
                    self.missed = self.missed.saturating_add(1);
                    if let Some(search) = &mut self.search {
                        search.interval = search.last_good;
                        search.ceiling = search.last_good;
                    }
                    if self.config.mode == Mode::Keepalive {
                        self.wait_from(queued);
                    } else if fatal || self.missed >= self.config.missed_limit {
                        return Some(self.die());
                    } else {
                        return Some(self.beat(now, self.timeout(), false));
                    }
                }
            }
        }
    }

    /// The beat has left our buffer: its answer is due `timeout` from now.
    pub fn handle_beat_written(&mut self, now: Time) {
        if let Phase::Beaten(beat) = &mut self.phase
            && !beat.written
        {
            beat.written = true;
            beat.deadline = now + beat.timeout;
        }
        if let RoundTrip::Queued = self.round_trip {
            self.round_trip = RoundTrip::Since(now);
        }
    }

    /// The answer to a beat of ours arrived; returns this round trip's time, unless the beat was one
    /// of several.
    pub fn handle_answer(&mut self, now: Time) -> Option<Duration> {
        if let Phase::Beaten(beat) = &self.phase {
            let queued = beat.queued;
            self.handle_life(now, queued);
        }
        let RoundTrip::Since(written) = std::mem::replace(&mut self.round_trip, RoundTrip::None) else {
            return None;
        };
        let sample = now - written;
        let smoothed = self.rtt().map_or(sample, |rtt| (rtt * 7 + sample) / 8);
        self.rtt = u32::try_from(smoothed.as_micros()).unwrap_or(u32::MAX).max(1);
        Some(sample)
    }

    /// Reads go on after a pause: silence until now proves nothing. Without this call a pause is
    /// noticed only when it falls on a timeout.
    pub fn handle_reads_resumed(&mut self, now: Time) {
        self.paused = false;
        self.missed = 0;
        match &mut self.phase {
            Phase::Waiting if self.config.mode != Mode::Fixed => self.since = self.since.max(now),
            Phase::Beaten(beat) => beat.deadline = beat.deadline.max(now + beat.timeout),
            _ => {}
        }
    }

    /// Application traffic was sent or received (adaptive mode returns to its minimum, which may move
    /// [`Heartbeat::poll_timeout`] forward).
    pub fn handle_traffic(&mut self) {
        if let (Some(search), Some(adaptive)) = (&mut self.search, self.config.adaptive) {
            search.interval = adaptive.min.max(SHORTEST);
            search.last_good = search.interval;
            search.quiet = false;
        }
    }

    /// A doubt (clock jump, wake): beat at once and give the answer only `deadline`. Without effect in
    /// the modes `off` and `passive`, which never beat.
    pub fn probe(&mut self, now: Time, deadline: Duration) {
        if !matches!(self.config.mode, Mode::Off | Mode::Passive) && !matches!(self.phase, Phase::Dead) {
            self.phase = Phase::Probing(Box::new(Probe { at: now, deadline: deadline.max(SHORTEST) }));
        }
    }

    /// When [`Heartbeat::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.config.mode == Mode::Off {
            return None;
        }
        let next = match &self.phase {
            Phase::Waiting => self.due(),
            Phase::Probing(probe) => probe.at,
            Phase::Beaten(beat) => beat.deadline.min(beat.looked + self.interval()),
            Phase::Dead => return None,
        };
        Some(self.stall_deadline.map_or(next, |deadline| deadline.min(next)))
    }

    /// Smoothed round-trip time (RFC 6298 section 2, alpha 1/8).
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        (self.rtt > 0).then(|| Duration::from_micros(u64::from(self.rtt)))
    }

    /// Consecutive unanswered beats.
    #[must_use]
    pub fn missed(&self) -> u32 {
        self.missed
    }

    /// The present interval; only adaptive mode changes it.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.search.as_ref().map_or(self.config.interval.max(SHORTEST), |search| search.interval)
    }

    fn beat(&mut self, now: Time, timeout: Duration, fatal: bool) -> Action {
        self.round_trip = match (&self.phase, self.round_trip) {
            (Phase::Beaten(_), _) | (_, RoundTrip::Queued | RoundTrip::Since(_)) => RoundTrip::None,
            _ => RoundTrip::Queued,
        };
        let beat = Beat { queued: now, written: false, deadline: now + timeout, timeout, fatal, looked: now };
        self.phase = Phase::Beaten(Box::new(beat));
        self.first_wait = None;
        if let Some(search) = &mut self.search {
            search.quiet = true;
        }
        Action::Beat
    }

    /// A byte arrived at `at`, after the beat of `queued`.
    fn handle_life(&mut self, at: Time, queued: Time) {
        self.missed = 0;
        // A probe follows no silence of an interval, so its answer says nothing about the interval.
        let probed = matches!(&self.phase, Phase::Beaten(beat) if beat.fatal);
        if let (Some(search), Some(adaptive)) = (&mut self.search, self.config.adaptive)
            && search.quiet
            && !probed
        {
            search.last_good = search.interval;
            search.interval = (search.interval + adaptive.step).min(search.ceiling);
        }
        self.wait_from(if self.config.mode == Mode::Fixed { queued } else { at });
    }

    fn wait_from(&mut self, since: Time) {
        self.phase = Phase::Waiting;
        self.since = since;
    }

    fn die(&mut self) -> Action {
        self.phase = Phase::Dead;
        Action::Dead
    }

    /// When the present wait ends. A beat is due a little early, at a multiple of [`grain`], so that those
    /// of many links leave together: to wake for each costs more than the beat.
    fn due(&self) -> Time {
        let due = self.since + self.wait();
        let grain = match self.config.mode {
            Mode::Passive => 0,
            _ => grain(self.interval()),
        };
        Time::from_micros(due.as_micros() - due.as_micros().checked_rem(grain).unwrap_or(0))
    }

    /// From the last sign of life to the next beat, in passive mode to death.
    fn wait(&self) -> Duration {
        match self.config.mode {
            Mode::Passive => self.patience(),
            _ => self.first_wait.map_or(self.interval(), |part| self.interval().mul_f32(part)),
        }
    }

    /// From the last sign of life to death.
    fn patience(&self) -> Duration {
        let limit = self.config.missed_limit.max(1);
        match self.config.mode {
            Mode::Passive => self.interval().saturating_mul(limit),
            _ => self.interval().saturating_add(self.timeout().saturating_mul(limit)),
        }
    }
}

/// By how many microseconds at most a beat is early: a fiftieth of its interval, up to 0.5 s, in whole
/// ticks of the wheel; 0: not at all.
fn grain(interval: Duration) -> u64 {
    let tick = wheel::TICK.as_micros() as u64;
    let most = (interval / 50).min(COARSEST).as_micros() as u64;
    most - most % tick
}

const COARSEST: Duration = Duration::from_millis(500);

/// Shorter intervals and timeouts than this would only spin.
const SHORTEST: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests;
