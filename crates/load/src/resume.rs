//! A session that is resumed over and over: how soon its client has again what it missed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::crew::histogram;
use crate::lifeline::{Heard, Speaker, hear, item_header};
use crate::pool::{Handler, Link, Plan, Pool};
use crate::process::{Tree, machine};
use crate::run::quantiles;
use crate::train::parse;
use crate::ws::opcode;

/// What `resume` does.
#[derive(Debug)]
pub struct Resume {
    /// How to connect.
    pub plan: Plan,
    /// How often.
    pub resumes: u64,
    /// Messages that are missed each time.
    pub messages: u64,
    /// Payload of each, in bytes.
    pub size: usize,
    /// For one resume.
    pub timeout: Duration,
    /// The server's process.
    pub server: Option<Tree>,
}

/// The one connection that there is.
struct Visit {
    hello: Vec<u8>,
    /// An item that makes the server send.
    order: Option<String>,
    welcome: Option<Vec<u8>>,
    received: u64,
    size: usize,
    /// R has come.
    replayed: bool,
    begun: Instant,
    error: Option<anyhow::Error>,
}

impl Handler for Visit {
    fn opened(&mut self, link: &mut Link) -> Result<()> {
        link.put(opcode::TEXT, &self.hello)
    }

    fn received(&mut self, link: &mut Link, bytes: &[u8]) -> Result<usize> {
        let mut at = 0;
        while let Some(frame) = parse(&bytes[at..])? {
            at += frame.length;
            ensure!(frame.opcode < opcode::CLOSE, "opcode {}: {:?}", frame.opcode, frame.payload);
            match hear(frame.payload)? {
                Heard::Message { sequence, payload, .. } => {
                    ensure!(sequence == self.received + 1, "M {sequence} came behind M {}", self.received);
                    ensure!(payload.len() == self.size, "M {sequence}: {} bytes", payload.len());
                    self.received = sequence;
                }
                Heard::Welcome(welcome) => {
                    self.welcome = Some(welcome.to_vec());
                    if let Some(order) = self.order.take() {
                        let mut item = Vec::new();
                        item_header(&mut item, 1, None);
                        item.extend_from_slice(order.as_bytes());
                        link.put(opcode::TEXT, &item)?;
                    }
                }
                Heard::ReplayDone(_) => self.replayed = true,
                Heard::Beat(number) => link.put(opcode::TEXT, &[b"O ", number].concat())?,
                Heard::Acknowledged(_) | Heard::Channel(_) | Heard::Nothing => {}
            }
        }
        Ok(at)
    }

    fn lost(&mut self, _: &Link, why: Option<anyhow::Error>) {
        self.error = why;
    }
}

impl Resume {
    /// Makes the session, resumes it, counts.
    ///
    /// # Errors
    /// A replay that was not whole, not in order or not in time.
    pub fn run(self) -> Result<Value> {
        let mut pool = Pool::new(self.plan.clone())?;
        let outbox = format!("load-{}-{}", std::process::id(), std::time::UNIX_EPOCH.elapsed()?.as_nanos());
        let order = format!("!fill {} {}", self.messages, self.size);
        let mut welcome = self.visit(&mut pool, Speaker::hello(Some(&outbox)), Some(order))?.0;
        let cpu = || self.server.map_or(0.0, Tree::cpu);
        let own = Tree::of(std::process::id());
        let (before, own_before) = (cpu(), own.cpu());
        let begun = Instant::now();
        let mut delays: Histogram<u64> = histogram();
        for _ in 0..self.resumes {
            let (next, delay) = self.visit(&mut pool, Speaker::resume(&welcome)?, None)?;
            welcome = next;
            delays.saturating_record(delay.as_nanos() as u64);
        }
        let (server, seconds) = (cpu() - before, begun.elapsed().as_secs_f64());
        Ok(json!({
            "resumes": self.resumes,
            "messages_each": self.messages,
            "size": self.size,
            "seconds": seconds,
            "failed": 0,
            "delay_ms": quantiles(&delays),
            "generator_cpu_ms": (own.cpu() - own_before) * 1e3 / self.resumes as f64,
            "server": { "cpu_seconds": server, "cpu_ms": server * 1e3 / self.resumes as f64 },
            "machine": machine(),
        }))
    }

    /// One connection until R and the last message; returns W and how long it took.
    fn visit(&self, pool: &mut Pool, hello: Vec<u8>, order: Option<String>) -> Result<(Vec<u8>, Duration)> {
        let mut visit = Visit {
            hello,
            order,
            welcome: None,
            received: 0,
            size: self.size,
            replayed: false,
            begun: Instant::now(),
            error: None,
        };
        let id = pool.connect(0, None)?;
        while !visit.replayed || visit.received < self.messages {
            let left = self.timeout.saturating_sub(visit.begun.elapsed());
            ensure!(!left.is_zero(), "{} of {} messages came in time", visit.received, self.messages);
            pool.turn(left, &mut visit)?;
            if let Some(error) = visit.error {
                return Err(error);
            }
        }
        let delay = visit.begun.elapsed();
        pool.drop_link(id);
        Ok((visit.welcome.unwrap_or_default(), delay))
    }
}
