//! A client's life: which state it is in, when it dials, when it gives up.

use std::collections::VecDeque;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::Time;
use crate::backoff::{Backoff, BackoffConfig};
use crate::close;

/// The table of states is in `docs/guide.md`; PHP sees it as `WsState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Disconnected,
    Connecting,
    Connected,
    Reconnecting,
    Closed,
}

/// The options `reconnect.*`, and over how many URLs to fail over.
#[derive(Clone, Debug, PartialEq)]
pub struct ReconnectPolicy {
    pub backoff: BackoffConfig,
    /// After a loss wait until there is something to send, or for a wake.
    pub lazy: bool,
    /// Close codes after which the client does not come back.
    pub terminal_codes: Vec<u16>,
    /// HTTP statuses of a refusal after which the client does not come back.
    pub terminal_statuses: Vec<u16>,
    /// At least 1.
    pub urls: usize,
}

impl Default for ReconnectPolicy {
    fn default() -> Self {
        Self {
            backoff: BackoffConfig::default(),
            lazy: false,
            terminal_codes: vec![
                close::PROTOCOL_ERROR,
                close::UNSUPPORTED_DATA,
                close::INVALID_PAYLOAD,
                close::MESSAGE_TOO_BIG,
                close::MANDATORY_EXTENSION,
            ],
            terminal_statuses: vec![400, 403, 404, 410, 426],
            urls: 1,
        }
    }
}

/// Why a dial failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DialFailure {
    /// HTTP status of a refused handshake, or the close code of a connection that ended before its
    /// session was there.
    pub status: Option<u16>,
    /// How long the server asks to be left alone; honoured with 429 and 503.
    pub retry_after: Option<Duration>,
    /// Trying again cannot help, e.g. an invalid header.
    pub terminal: bool,
    /// The window that the server advertised for the return of its clients.
    pub spread: Option<Duration>,
    /// For people.
    pub reason: String,
}

/// How to come back from the end of a connection, where its close code is not all there is to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Comeback {
    /// As the policy says.
    #[default]
    Usual,
    /// The server asked us to leave: without a delay, after a connection that was stable.
    AtOnce,
    /// Not before somebody wants the connection, as in lazy mode.
    WhenWanted,
    /// Not at all.
    Never,
}

/// What the driver must do, or tell the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Drop the dial under way.
    CancelDial,
    /// Send what is queued and a close frame on the open socket; call [`ClientMachine::handle_closed`]
    /// when the socket has ended.
    Close { code: u16, reason: String },
    /// Dial; ends in [`ClientMachine::handle_dialed`] or [`ClientMachine::handle_dial_failed`].
    Dial {
        /// Counts dials from 1 since the start or the last stable connection.
        attempt: u32,
        /// Index into the list of URLs.
        url: usize,
        /// The last attempt was refused with 401: take no cached token.
        fresh_credentials: bool,
    },
    /// Nothing more will come.
    Ended,
    /// The client is closed because coming back is pointless or not allowed.
    GaveUp { code: u16, reason: String },
    /// Doubt about the open socket: beat at once, with a short deadline.
    Probe,
    /// The state changed.
    Transition {
        from: State,
        to: State,
        /// Close code or HTTP status that caused it, else 0.
        code: u16,
        /// For people; empty when there is nothing to say.
        reason: String,
        /// Counted as in [`Output::Dial`]: the dial that starts, succeeded or, on the way to
        /// `Reconnecting`, comes next; on the way to `Closed` the last one.
        attempt: u32,
        /// To `Reconnecting`: until the next attempt; `None`: until there is something to send.
        delay: Option<Duration>,
    },
}

/// One client. Inputs are `handle_*`; after each of them take all of [`ClientMachine::poll_output`],
/// then [`ClientMachine::poll_timeout`].
///
/// There is one dial, one socket or one timer at a time. Several URLs form a round: it starts with the
/// first, a failed dial moves on to the next at once, and the backoff's delay follows the last. A
/// connection that was lost before it was stable moves on, too, after the delay. `max_attempts` counts
/// delays. A terminal refusal by one URL ends the client; so does a second 401 in a row.
#[derive(Debug)]
pub struct ClientMachine {
    policy: ReconnectPolicy,
    backoff: Backoff,
    rng: SmallRng,
    phase: Phase,
    outputs: VecDeque<Output>,
    /// Dials since the start or the last stable connection.
    dials: u32,
    /// The URL of the dial or socket, or of the next dial.
    url: usize,
    /// URLs of this round whose dial has failed.
    failed_in_round: usize,
    /// The longest Retry-After of this round.
    retry_after: Option<Duration>,
    spread: Option<Duration>,
    /// A 401 has been answered with fresh credentials, in vain so far.
    refreshed: bool,
    /// Lazy mode: somebody wants the connection.
    wanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before `connect()`.
    New,
    Dialing,
    Open,
    /// Backoff.
    Waiting {
        until: Time,
    },
    /// Lazy: nobody wants the connection; a wish is granted not before the backoff's delay is over.
    Dormant {
        not_before: Time,
    },
    /// The socket says goodbye.
    Closing,
    Ended,
}

impl ClientMachine {
    /// `seed` fixes the schedule of delays.
    #[must_use]
    pub fn new(policy: ReconnectPolicy, seed: u64) -> Self {
        Self {
            backoff: Backoff::new(policy.backoff.clone()),
            policy: ReconnectPolicy { urls: policy.urls.max(1), ..policy },
            rng: SmallRng::seed_from_u64(seed),
            phase: Phase::New,
            outputs: VecDeque::new(),
            dials: 0,
            url: 0,
            failed_in_round: 0,
            retry_after: None,
            spread: None,
            refreshed: false,
            wanted: false,
        }
    }

    /// The application connects. A second call does nothing.
    pub fn handle_connect(&mut self, _now: Time) {
        if self.phase == Phase::New {
            self.dial(false);
        }
    }

    /// The application wants the connection now, or doubts it.
    pub fn handle_wake(&mut self, _now: Time) {
        match self.phase {
            Phase::Waiting { .. } | Phase::Dormant { .. } => self.dial(false),
            Phase::Open => self.outputs.push_back(Output::Probe),
            Phase::New | Phase::Dialing | Phase::Closing | Phase::Ended => {}
        }
    }

    /// There is something to send. Also due after [`ClientMachine::handle_lost`] when something is left.
    pub fn handle_pending(&mut self, now: Time) {
        if let Phase::Dormant { not_before } = self.phase {
            self.wanted = true;
            if now >= not_before {
                self.dial(false);
            } else {
                self.phase = Phase::Waiting { until: not_before };
            }
        }
    }

    /// The handshake is done; `spread` is the window that the server advertised. False: the dial had
    /// been cancelled, drop the socket.
    #[must_use]
    pub fn handle_dialed(&mut self, now: Time, spread: Option<Duration>) -> bool {
        if self.phase != Phase::Dialing {
            return false;
        }
        self.backoff.handle_connected(now);
        self.spread = spread.map(|spread| spread.min(LONGEST_SPREAD));
        self.failed_in_round = 0;
        self.retry_after = None;
        self.refreshed = false;
        self.wanted = false;
        self.enter(Phase::Open, 0, String::new(), None);
        true
    }

    /// The dial failed.
    pub fn handle_dial_failed(&mut self, now: Time, failure: DialFailure) {
        if self.phase != Phase::Dialing {
            return;
        }
        let DialFailure { status, retry_after, terminal, spread, reason } = failure;
        let code = status.unwrap_or(0);
        if terminal || self.policy.terminal_statuses.contains(&code) || (code == 401 && self.refreshed) {
            self.give_up(code, reason);
            return;
        }
        if let Some(spread) = spread {
            self.spread = Some(spread.min(LONGEST_SPREAD));
        }
        if code == 401 {
            self.refreshed = true;
            self.redial(true, code, reason);
            return;
        }
        if matches!(code, 429 | 503) {
            self.retry_after = self.retry_after.max(retry_after);
        }
        self.failed_in_round += 1;
        self.url = (self.url + 1) % self.policy.urls;
        if self.failed_in_round < self.policy.urls {
            self.redial(false, code, reason);
            return;
        }
        // Whoever wanted this dial still does, so lazy mode goes on trying.
        self.wanted = true;
        self.url = 0;
        self.wait(now, code, reason, self.policy.lazy);
    }

    /// The open socket has ended without our doing; `code` is the peer's, or 1006, 4001 and the like.
    /// After our close this is [`ClientMachine::handle_closed`].
    pub fn handle_lost(&mut self, now: Time, code: u16, reason: String) {
        self.handle_ended(now, code, reason, Comeback::Usual);
    }

    /// [`ClientMachine::handle_lost`], with a word on how to come back.
    pub fn handle_ended(&mut self, now: Time, code: u16, reason: String, comeback: Comeback) {
        match self.phase {
            Phase::Open => {}
            Phase::Closing => return self.handle_closed(now),
            _ => return,
        }
        let stable = self.backoff.handle_lost(now);
        if comeback == Comeback::Never || self.policy.terminal_codes.contains(&code) {
            self.give_up(code, reason);
            return;
        }
        if stable {
            self.dials = 0;
            self.url = 0;
        } else {
            self.url = (self.url + 1) % self.policy.urls;
        }
        match comeback {
            Comeback::AtOnce if stable => self.redial(false, code, reason),
            Comeback::WhenWanted => self.wait(now, code, reason, true),
            _ => self.wait(now, code, reason, self.policy.lazy),
        }
    }

    /// The application closes, for good.
    pub fn handle_close(&mut self, _now: Time, code: u16, reason: String) {
        match self.phase {
            Phase::Closing | Phase::Ended => return,
            Phase::Open => {
                self.outputs.push_back(Output::Close { code, reason: reason.clone() });
                self.enter(Phase::Closing, code, reason, None);
                return;
            }
            Phase::Dialing => self.outputs.push_back(Output::CancelDial),
            Phase::New | Phase::Waiting { .. } | Phase::Dormant { .. } => {}
        }
        self.enter(Phase::Ended, code, reason, None);
        self.outputs.push_back(Output::Ended);
    }

    /// The socket that we closed has ended.
    pub fn handle_closed(&mut self, now: Time) {
        match self.phase {
            Phase::Closing => {
                self.phase = Phase::Ended;
                self.outputs.push_back(Output::Ended);
            }
            Phase::Open => self.handle_lost(now, close::ABNORMAL, String::new()),
            _ => {}
        }
    }

    /// The deadline may have passed.
    pub fn handle_timeout(&mut self, now: Time) {
        if let Phase::Waiting { until } = self.phase
            && now >= until
        {
            self.dial(false);
        }
    }

    /// What to do next, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`ClientMachine::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        match self.phase {
            Phase::Waiting { until } => Some(until),
            _ => None,
        }
    }

    #[must_use]
    pub fn state(&self) -> State {
        self.phase.state()
    }

    /// Dials since the start or the last stable connection.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.dials
    }

    fn dial(&mut self, fresh_credentials: bool) {
        debug_assert!(!matches!(self.phase, Phase::Dialing | Phase::Open | Phase::Closing | Phase::Ended));
        if self.failed_in_round >= self.policy.urls {
            self.failed_in_round = 0;
            self.retry_after = None;
        }
        self.dials = self.dials.saturating_add(1);
        self.enter(Phase::Dialing, 0, String::new(), None);
        self.outputs.push_back(Output::Dial { attempt: self.dials, url: self.url, fresh_credentials });
    }

    /// Dials again at once after a failure.
    fn redial(&mut self, fresh_credentials: bool, code: u16, reason: String) {
        // Never observed by the driver: left before this call returns.
        self.enter(Phase::Waiting { until: Time::ZERO }, code, reason, Some(Duration::ZERO));
        self.dial(fresh_credentials);
    }

    /// Plans the next dial, or gives up when attempts are exhausted. `lazy`: not before it is wanted.
    fn wait(&mut self, now: Time, code: u16, reason: String, lazy: bool) {
        let Some(delay) = self.backoff.next_delay(&mut self.rng, self.spread, self.retry_after) else {
            self.give_up(
                code,
                format!("{reason}{}reconnect attempts exhausted", if reason.is_empty() { "" } else { "; " }),
            );
            return;
        };
        let until = now + delay;
        if lazy && !self.wanted {
            self.enter(Phase::Dormant { not_before: until }, code, reason, None);
        } else {
            self.enter(Phase::Waiting { until }, code, reason, Some(delay));
        }
    }

    fn give_up(&mut self, code: u16, reason: String) {
        self.enter(Phase::Ended, code, reason.clone(), None);
        self.outputs.push_back(Output::GaveUp { code, reason });
        self.outputs.push_back(Output::Ended);
    }

    fn enter(&mut self, phase: Phase, code: u16, reason: String, delay: Option<Duration>) {
        let (from, to) = (self.phase.state(), phase.state());
        self.phase = phase;
        let attempt = if to == State::Reconnecting { self.dials.saturating_add(1) } else { self.dials };
        self.outputs.push_back(Output::Transition { from, to, code, reason, attempt, delay });
    }
}

impl Phase {
    fn state(self) -> State {
        match self {
            Self::New => State::Disconnected,
            Self::Dialing => State::Connecting,
            Self::Open => State::Connected,
            Self::Waiting { .. } | Self::Dormant { .. } => State::Reconnecting,
            Self::Closing | Self::Ended => State::Closed,
        }
    }
}

/// What a server may ask for at most; an advertisement out of bounds must not keep clients away.
const LONGEST_SPREAD: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
