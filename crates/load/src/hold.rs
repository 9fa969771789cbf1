//! Peers that stay: some ping, some only answer, some keep silent, some never stop sending. Shows
//! who is still connected after a while and how steady the server's beats were.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::ws::{Connect, Frame, Peer, Url, opcode};

/// How a peer behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Answers pings, nothing else.
    Answer,
    /// Never reads after the handshake.
    Deaf,
    /// Answers pings and sends messages without end, at [`Hold::rate`].
    Flood,
    /// Sends the first fragment of a message and never the last; answers pings.
    Half,
    /// Pings each [`Hold::every`] and answers pings.
    Ping,
    /// Reads and answers nothing.
    Silent,
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        Ok(match word {
            "answer" => Self::Answer,
            "deaf" => Self::Deaf,
            "flood" => Self::Flood,
            "half" => Self::Half,
            "ping" => Self::Ping,
            "silent" => Self::Silent,
            _ => bail!("unknown kind '{word}'; known are answer, deaf, flood, half, ping, silent"),
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answer => "answer",
            Self::Deaf => "deaf",
            Self::Flood => "flood",
            Self::Half => "half",
            Self::Ping => "ping",
            Self::Silent => "silent",
        })
    }
}

/// How many of which kind: `ping=300,answer=300`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowd(pub Vec<(Kind, usize)>);

impl FromStr for Crowd {
    type Err = BadCrowd;

    fn from_str(text: &str) -> Result<Self, BadCrowd> {
        let one = |part: &str| -> Result<(Kind, usize)> {
            let (kind, count) = part.split_once('=').context("expected KIND=N")?;
            Ok((kind.parse()?, count.parse()?))
        };
        let parts: Result<Vec<_>> = text.split(',').map(one).collect();
        Ok(Self(parts.map_err(|error| BadCrowd(format!("{error:#}")))?))
    }
}

/// What is not a [`Crowd`].
#[derive(Debug)]
pub struct BadCrowd(String);

impl fmt::Display for BadCrowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadCrowd {}

/// What `hold` does.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Where to.
    pub url: Url,
    /// How many of which kind.
    pub crowd: Crowd,
    /// How long to stay once all are open.
    pub stay: Duration,
    /// Period of [`Kind::Ping`].
    pub every: Duration,
    /// Payload of each message of [`Kind::Flood`] and of the fragment of [`Kind::Half`], in bytes.
    pub size: usize,
    /// What one [`Kind::Flood`] sends, in bytes a second.
    pub rate: u64,
    /// How many messages a [`Kind::Answer`] is to get: those that lack some stay up to 60 s longer.
    pub messages: u64,
    /// Own addresses, 127.0.0.2 and on; 0: the kernel chooses.
    pub sources: u8,
}

impl Hold {
    /// Opens all peers, calls `ready`, stays, and reports by kind. `ended` may end it early.
    ///
    /// # Errors
    /// A peer could not be opened, or the server broke RFC 6455.
    pub async fn run(self, ready: impl FnOnce(), ended: impl Future<Output = ()>) -> Result<Value> {
        /// Handshakes under way at a time.
        const OPENING: usize = 64;

        let (phase, phases) = watch::channel(Phase::Opening);
        let mut opening = JoinSet::new();
        let mut staying = JoinSet::new();
        let crowd = self.crowd.0.iter().flat_map(|&(kind, count)| std::iter::repeat_n(kind, count));
        for (number, kind) in crowd.enumerate() {
            if opening.len() >= OPENING {
                self.stay(&mut staying, opening.join_next().await, &phases)?;
            }
            let mut connect = Connect::new(self.url.clone());
            connect.timeout = Duration::from_secs(60);
            connect.source = source(self.sources, number);
            if kind == Kind::Deaf {
                // The smallest that the kernel gives: full as early as can be.
                connect.receive_buffer = Some(2048);
            }
            opening.spawn(async move { (kind, connect.open().await) });
        }
        while !opening.is_empty() {
            self.stay(&mut staying, opening.join_next().await, &phases)?;
        }
        let start = Instant::now();
        phase.send_replace(Phase::Staying);
        ready();
        tokio::select! {
            () = sleep_until(start + self.stay) => {}
            () = ended => {}
        }
        phase.send_replace(Phase::Over);

        let mut kinds: BTreeMap<Kind, Summary> = BTreeMap::new();
        while let Some(report) = staying.join_next().await {
            let (kind, report) = report?;
            kinds.entry(kind).or_default().add(report, start)?;
        }
        let kinds: serde_json::Map<_, _> =
            kinds.into_iter().map(|(kind, summary)| (kind.to_string(), summary.to_json())).collect();
        Ok(json!({ "seconds": start.elapsed().as_secs_f64(), "kinds": kinds }))
    }

    fn stay(
        &self,
        staying: &mut JoinSet<(Kind, Result<Report>)>,
        opened: Option<Result<(Kind, Result<Peer>), tokio::task::JoinError>>,
        phases: &watch::Receiver<Phase>,
    ) -> Result<()> {
        let Some(opened) = opened else { return Ok(()) };
        let (kind, peer) = opened?;
        let peer = peer.with_context(|| format!("{kind} peer {}", staying.len() + 1))?;
        let messages = if kind == Kind::Answer { self.messages } else { 0 };
        let (every, size, rate) = (self.every, self.size, self.rate);
        let member = Member { kind, peer, every, size, rate, messages, report: Report::default() };
        let phases = phases.clone();
        staying.spawn(async move { (kind, member.live(phases).await) });
        Ok(())
    }
}

/// Own address of peer `number`, spread over `sources` loopback addresses.
pub(crate) fn source(sources: u8, number: usize) -> Option<std::net::Ipv4Addr> {
    (sources > 0).then(|| std::net::Ipv4Addr::new(127, 0, 0, 2 + (number % usize::from(sources)) as u8))
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Opening,
    Staying,
    Over,
}

#[derive(Debug, Default)]
struct Report {
    closed: Option<(Instant, u16, String)>,
    beats: u64,
    worst_gap: Duration,
    pongs: u64,
    worst_pong: Duration,
    messages: u64,
    received: u64,
    sent: u64,
}

struct Member {
    kind: Kind,
    peer: Peer,
    every: Duration,
    size: usize,
    rate: u64,
    messages: u64,
    report: Report,
}

impl Member {
    async fn live(mut self, mut phases: watch::Receiver<Phase>) -> Result<Report> {
        /// A flood is made in portions of so long; a half looks as often whether all are open.
        const PORTION: Duration = Duration::from_millis(50);
        /// What is under way comes within this time.
        const LATE: Duration = Duration::from_secs(60);

        let phase = phases.clone();
        let (ping, deaf) = (self.kind == Kind::Ping, self.kind == Kind::Deaf);
        let mut clock = interval(if ping { self.every } else { PORTION });
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = matches!(self.kind, Kind::Flood | Kind::Half | Kind::Ping);
        let message = vec![b'f'; self.size];
        let mut credit = 0.0;
        // When the ping that waits for its pong was queued, and its number.
        let mut waiting: Option<(Instant, u64)> = None;
        let mut pings = 0_u64;
        let mut last_beat = Instant::now();
        let mut over = None;

        loop {
            // What came along with the handshake's answer waits in the decoder, also for the deaf.
            while !deaf && let Some(frame) = self.peer.frame()? {
                let now = Instant::now();
                match frame.opcode {
                    opcode::PING => {
                        self.report.beats += 1;
                        self.report.worst_gap = self.report.worst_gap.max(now - last_beat);
                        last_beat = now;
                        if self.kind != Kind::Silent {
                            self.peer.put(true, opcode::PONG, &frame.payload);
                        }
                    }
                    opcode::PONG => {
                        if let Some((sent, number)) = waiting
                            && frame.payload == number.to_be_bytes()
                        {
                            self.report.pongs += 1;
                            self.report.worst_pong = self.report.worst_pong.max(now - sent);
                            waiting = None;
                        }
                    }
                    opcode::CLOSE => return Ok(self.closed(&frame)),
                    _ => {
                        self.report.messages += u64::from(frame.fin);
                        self.report.received += frame.payload.len() as u64;
                    }
                }
            }
            if over.is_some_and(|until| self.report.messages >= self.messages || Instant::now() >= until) {
                break;
            }
            let queued = self.peer.queued() > 0;
            tokio::select! {
                biased;
                changed = phases.wait_for(|phase| matches!(phase, Phase::Over)), if over.is_none() => {
                    drop(changed);
                    over = Some(Instant::now() + LATE);
                }
                () = sleep_until(over.unwrap_or(last_beat)), if over.is_some() => {}
                _ = clock.tick(), if ticks => {
                    let staying = matches!(*phase.borrow(), Phase::Staying);
                    match self.kind {
                        Kind::Ping if waiting.is_none() => {
                            pings += 1;
                            waiting = Some((Instant::now(), pings));
                            self.peer.put(true, opcode::PING, &pings.to_be_bytes());
                        }
                        Kind::Flood if staying => {
                            // What a stuck link did not take is not made up for.
                            credit = (credit + self.rate as f64 * PORTION.as_secs_f64()).min(self.rate as f64);
                            while credit >= self.size as f64 && self.peer.queued() <= self.size {
                                self.peer.put(true, opcode::BINARY, &message);
                                credit -= self.size as f64;
                            }
                        }
                        Kind::Half if staying => {
                            self.peer.put(false, opcode::BINARY, &message);
                            ticks = false;
                        }
                        _ => {}
                    }
                }
                ready = self.peer.stream.readable(), if !deaf => {
                    ready?;
                    let mut chunk = [0; 4096];
                    match self.peer.receive(&mut chunk) {
                        Ok(Some(0)) => return Ok(self.lost("end of stream")),
                        Ok(_) => {}
                        Err(error) => return Ok(self.lost(&error.to_string())),
                    }
                }
                ready = self.peer.stream.writable(), if queued => {
                    ready?;
                    match self.peer.flush() {
                        Ok(length) => self.report.sent += length as u64,
                        Err(error) => return Ok(self.lost(&error.to_string())),
                    }
                }
            }
        }
        // Silence up to now counts as well.
        let now = Instant::now();
        self.report.worst_gap = self.report.worst_gap.max(now - last_beat);
        if let Some((sent, _)) = waiting {
            self.report.worst_pong = self.report.worst_pong.max(now - sent);
        }
        if self.kind == Kind::Deaf {
            return Ok(self.listen_at_last());
        }
        Ok(self.report)
    }

    /// What a deaf peer would have heard: did the server end the connection?
    fn listen_at_last(mut self) -> Report {
        let mut chunk = [0; 4096];
        loop {
            match self.peer.receive(&mut chunk) {
                Ok(Some(0)) => return self.lost("end of stream"),
                Ok(Some(_)) => {}
                Ok(None) => return self.report,
                Err(error) => return self.lost(&error.to_string()),
            }
        }
    }

    fn closed(mut self, frame: &Frame) -> Report {
        let (code, reason) = frame.close();
        self.report.closed = Some((Instant::now(), code, reason));
        if self.kind != Kind::Silent {
            self.peer.put(true, opcode::CLOSE, &frame.payload[..frame.payload.len().min(2)]);
            // Best effort: the server ends the connection in any case.
            let _ = self.peer.flush();
        }
        self.report
    }

    fn lost(mut self, how: &str) -> Report {
        self.report.closed = Some((Instant::now(), 1006, how.to_owned()));
        self.report
    }
}

#[derive(Debug, Default)]
struct Summary {
    conns: u64,
    alive: u64,
    closed: BTreeMap<(u16, String), (u64, f64, f64)>,
    total: Report,
    fewest_messages: Option<u64>,
}

impl Summary {
    fn add(&mut self, report: Result<Report>, start: Instant) -> Result<()> {
        let report = report.map_err(|error| anyhow!("{error:#}"))?;
        self.conns += 1;
        match report.closed {
            None => self.alive += 1,
            Some((when, code, reason)) => {
                // Before all were open: negative.
                let when = match when.checked_duration_since(start) {
                    Some(after) => after.as_secs_f64(),
                    None => -(start - when).as_secs_f64(),
                };
                let entry = self.closed.entry((code, reason)).or_insert((0, when, when));
                *entry = (entry.0 + 1, entry.1.min(when), entry.2.max(when));
            }
        }
        let total = &mut self.total;
        total.beats += report.beats;
        total.worst_gap = total.worst_gap.max(report.worst_gap);
        total.pongs += report.pongs;
        total.worst_pong = total.worst_pong.max(report.worst_pong);
        total.messages += report.messages;
        total.received += report.received;
        total.sent += report.sent;
        self.fewest_messages = Some(self.fewest_messages.unwrap_or(u64::MAX).min(report.messages));
        Ok(())
    }

    fn to_json(&self) -> Value {
        let closed: Vec<Value> = self
            .closed
            .iter()
            .map(|((code, reason), (count, first, last))| {
                json!({ "code": code, "reason": reason, "count": count, "first": first, "last": last })
            })
            .collect();
        json!({
            "conns": self.conns,
            "alive": self.alive,
            "closed": closed,
            "beats": { "count": self.total.beats, "worst_gap": self.total.worst_gap.as_secs_f64() },
            "pongs": { "count": self.total.pongs, "worst_delay": self.total.worst_pong.as_secs_f64() },
            "messages": self.total.messages,
            "fewest_messages": self.fewest_messages.unwrap_or(0),
            "bytes_received": self.total.received,
            "bytes_sent": self.total.sent,
        })
    }
}
