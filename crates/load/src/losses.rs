//! What happens to connections when the server goes away, and when its application is blocked.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::crew::histogram;
use crate::pool::{Handler, Link, Plan, Pool};
use crate::run::quantiles;
use crate::train::parse;
use crate::ws::opcode;

/// Connections that come back when they are lost.
#[derive(Debug)]
pub struct Reconnect {
    /// How to connect.
    pub plan: Plan,
    /// Connections.
    pub conns: usize,
    /// Pause after a failed try.
    pub retry: Duration,
    /// Tries at a time.
    pub concurrency: usize,
    /// For all to be back.
    pub timeout: Duration,
}

struct Crowd {
    start: Instant,
    open: usize,
    lost: u64,
    again: usize,
    refused: u64,
    back: Vec<Duration>,
    since: Option<Instant>,
}

impl Handler for Crowd {
    fn opened(&mut self, _: &mut Link) -> Result<()> {
        self.open += 1;
        if let Some(since) = self.since {
            self.back.push(since.elapsed());
        }
        Ok(())
    }

    fn received(&mut self, link: &mut Link, bytes: &[u8]) -> Result<usize> {
        let mut at = 0;
        while let Some(frame) = parse(&bytes[at..])? {
            match frame.opcode {
                opcode::PING => link.put(opcode::PONG, frame.payload)?,
                opcode::CLOSE => link.finish(),
                _ => {}
            }
            at += frame.length;
        }
        Ok(at)
    }

    fn lost(&mut self, link: &Link, _: Option<anyhow::Error>) {
        if link.is_open() {
            self.open -= 1;
            self.lost += 1;
        } else {
            self.refused += 1;
        }
        self.again += 1;
    }
}

impl Reconnect {
    /// Opens all and calls `ready`; when `restarted` is true for the first time the clock starts.
    ///
    /// # Errors
    /// Not all opened, or came back, in time.
    pub fn run(self, ready: impl FnOnce(), mut restarted: impl FnMut() -> bool) -> Result<Value> {
        let mut pool = Pool::new(self.plan.clone())?;
        let mut crowd =
            Crowd { start: Instant::now(), open: 0, lost: 0, again: 0, refused: 0, back: Vec::new(), since: None };
        while crowd.open < self.conns {
            while pool.len() < self.conns && pool.opening() < 64 {
                pool.connect(0, None)?;
            }
            pool.turn(Duration::from_millis(20), &mut crowd)?;
            ensure!(crowd.start.elapsed() < self.timeout, "{} of {} opened", crowd.open, self.conns);
        }
        ready();
        crowd.again = 0;
        let mut tried = Instant::now();
        let since = loop {
            if let Some(since) = crowd.since {
                if crowd.lost as usize >= self.conns && crowd.open == self.conns {
                    break since;
                }
                ensure!(
                    since.elapsed() < self.timeout,
                    "{} of {} were lost and {} are open after {:?}",
                    crowd.lost,
                    self.conns,
                    crowd.open,
                    self.timeout
                );
            } else if restarted() {
                crowd.since = Some(Instant::now());
            }
            if crowd.again == 0 || tried.elapsed() >= self.retry {
                tried = Instant::now();
                crowd.again = 0;
                while pool.len() < self.conns && pool.opening() < self.concurrency {
                    // Refused at once or without a port: the next round tries again.
                    if pool.connect(0, None).is_err() {
                        crowd.refused += 1;
                        break;
                    }
                }
            }
            pool.turn(Duration::from_millis(5), &mut crowd)?;
        };
        let all = since.elapsed();
        crowd.back.sort_unstable();
        let at = |share: f64| {
            let index = (crowd.back.len().saturating_sub(1) as f64 * share) as usize;
            crowd.back.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        let report = json!({
            "conns": self.conns, "lost": crowd.lost, "refused": crowd.refused,
            "first_ms": at(0.0), "p50_ms": at(0.5), "p99_ms": at(0.99), "all_ms": all.as_secs_f64() * 1e3,
        });
        pool.reset_all();
        Ok(report)
    }
}

/// Connections beside one that makes the application block.
#[derive(Debug)]
pub struct Blocked {
    /// How to connect.
    pub plan: Plan,
    /// Connections.
    pub conns: usize,
    /// The peer's own pings; zero: it only answers.
    pub every: Duration,
    /// Connections that answer nothing.
    pub silent: usize,
    /// When the order goes out.
    pub at: Duration,
    /// Text message that blocks the application.
    pub order: String,
    /// All of it.
    pub length: Duration,
}

#[derive(Clone, Debug, Default)]
struct Peer {
    pinged: Option<Instant>,
    next_ping: Option<Instant>,
    beat: Option<Instant>,
    gone: Option<f64>,
}

struct Watch {
    start: Instant,
    silent: usize,
    open: usize,
    peers: Vec<Peer>,
    pongs: hdrhistogram::Histogram<u64>,
    gap: Duration,
    beats: u64,
    errors: Vec<String>,
}

impl Handler for Watch {
    fn opened(&mut self, _: &mut Link) -> Result<()> {
        self.open += 1;
        Ok(())
    }

    fn received(&mut self, link: &mut Link, bytes: &[u8]) -> Result<usize> {
        let mut at = 0;
        let number = link.tag as usize;
        while let Some(frame) = parse(&bytes[at..])? {
            match frame.opcode {
                opcode::PING => {
                    let now = Instant::now();
                    if let Some(last) = self.peers[number].beat.replace(now) {
                        self.gap = self.gap.max(now - last);
                    }
                    self.beats += 1;
                    if number >= self.silent {
                        link.put(opcode::PONG, frame.payload)?;
                    }
                }
                opcode::PONG => {
                    if let Some(pinged) = self.peers[number].pinged.take() {
                        self.pongs.saturating_record(pinged.elapsed().as_nanos() as u64);
                    }
                }
                opcode::CLOSE => link.finish(),
                _ => {}
            }
            at += frame.length;
        }
        Ok(at)
    }

    fn lost(&mut self, link: &Link, why: Option<anyhow::Error>) {
        self.peers[link.tag as usize].gone = Some(self.start.elapsed().as_secs_f64());
        if let Some(why) = why.filter(|_| self.errors.len() < 5) {
            self.errors.push(format!("{why:#}"));
        }
    }
}

impl Blocked {
    /// Opens all, blocks the application, watches.
    ///
    /// # Errors
    /// Not all opened.
    pub fn run(self) -> Result<Value> {
        let mut pool = Pool::new(self.plan.clone())?;
        let mut watch = Watch {
            start: Instant::now(),
            silent: self.silent,
            open: 0,
            peers: vec![Peer::default(); self.conns],
            pongs: histogram(),
            gap: Duration::ZERO,
            beats: 0,
            errors: Vec::new(),
        };
        let mut ids = Vec::new();
        while watch.open < self.conns {
            while ids.len() < self.conns && pool.opening() < 64 {
                ids.push(pool.connect(ids.len() as u64, None)?);
            }
            pool.turn(Duration::from_millis(20), &mut watch)?;
            ensure!(watch.errors.is_empty(), "{:?}", watch.errors);
        }
        watch.start = Instant::now();
        let mut ordered = false;
        while watch.start.elapsed() < self.length {
            if !ordered && watch.start.elapsed() >= self.at {
                ordered = true;
                if let Some(link) = ids.last().and_then(|id| pool.link(*id)) {
                    link.put(opcode::TEXT, self.order.as_bytes())?;
                }
            }
            if !self.every.is_zero() {
                self.ping(&ids, &mut pool, &mut watch);
            }
            pool.turn(Duration::from_millis(10), &mut watch)?;
        }
        let gone = |range: std::ops::Range<usize>| watch.peers[range].iter().filter(|peer| peer.gone.is_some()).count();
        // A ping without an answer is as late as it is old.
        for peer in &watch.peers[self.silent..] {
            if let Some(pinged) = peer.pinged.filter(|_| peer.gone.is_none()) {
                watch.pongs.saturating_record(pinged.elapsed().as_nanos() as u64);
            }
        }
        let report = json!({
            "conns": self.conns,
            "dropped": gone(self.silent..self.conns),
            "silent": self.silent,
            "silent_dropped": gone(0..self.silent),
            "beats": watch.beats,
            "worst_beat_gap_ms": watch.gap.as_secs_f64() * 1e3,
            "pong_ms": quantiles(&watch.pongs),
            "errors": watch.errors,
        });
        pool.reset_all();
        Ok(report)
    }

    fn ping(&self, ids: &[usize], pool: &mut Pool, watch: &mut Watch) {
        let now = Instant::now();
        for (number, id) in ids.iter().enumerate().skip(self.silent) {
            let peer = &mut watch.peers[number];
            let spread = self.every.mul_f64(number as f64 / ids.len() as f64);
            let due = *peer.next_ping.get_or_insert(watch.start + spread);
            if now < due || peer.gone.is_some() {
                continue;
            }
            peer.next_ping = Some(due + self.every);
            if let Some(link) = pool.link(*id).filter(|_| peer.pinged.is_none()) {
                peer.pinged = Some(now);
                // The error comes again when the link is read.
                let _ = link.put(opcode::PING, b"alive");
            }
        }
    }
}
