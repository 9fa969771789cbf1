//! One publisher and many subscribers on one thread: how soon and at what cost everybody has a message.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::crew::histogram;
use crate::lifeline::{Heard, PROTOCOL, Speaker, hear};
use crate::pool::{Deflate, Handler, Link, Plan, Pool};
use crate::process::{Tree, machine, machine_cpu};
use crate::run::quantiles;
use crate::train::{inflate, parse_compressed};
use crate::ws::opcode;

const PUBLISHER: u64 = u64::MAX;
/// Bytes of the number at the start of each message.
const NUMBER: usize = 8;

/// What `broadcast` does.
#[derive(Debug)]
pub struct Broadcast {
    /// How to connect.
    pub plan: Plan,
    /// Subscribers.
    pub conns: usize,
    /// Payload of a message, in bytes; at least 8.
    pub size: usize,
    /// Messages that not everybody has yet.
    pub window: usize,
    /// Resource of the subscribers.
    pub subscribe: String,
    /// Resource of the publisher.
    pub publish: String,
    /// Time that is not counted.
    pub warm: Duration,
    /// Time that is.
    pub length: Duration,
    /// The server's process.
    pub server: Option<Tree>,
    /// Subscribers speak `lifeline.v1`.
    pub lifeline: bool,
    /// Subscribers have permessage-deflate, without context takeover.
    pub compress: bool,
}

struct Room {
    lifeline: bool,
    /// The last compressed message, as it came and what it came to: it comes to all alike.
    inflated: (Vec<u8>, Vec<u8>),
    bytes: u64,
    size: usize,
    start: Instant,
    /// The next message of each subscriber, by place; 0: the first that comes.
    next: Vec<u64>,
    /// Messages that not everybody has: when they were sent, who has them.
    under_way: VecDeque<(u64, usize)>,
    first: u64,
    subscribers: usize,
    measured: bool,
    open: usize,
    deliveries: u64,
    delays: Histogram<u64>,
    whole: Histogram<u64>,
    failed: u64,
    errors: Vec<String>,
}

impl Room {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn delivered(&mut self, id: usize, payload: &[u8], now: u64) -> Result<()> {
        ensure!(payload.len() == self.size, "{} bytes in place of {}", payload.len(), self.size);
        let number = payload.first_chunk::<NUMBER>().context("too short")?;
        let number = u64::from_be_bytes(*number);
        ensure!(payload[NUMBER..].iter().all(|byte| *byte == b'x'), "message {number} came changed");
        let wanted = &mut self.next[id];
        ensure!(number == *wanted, "message {number} came in place of {wanted}");
        *wanted += 1;
        let at = number.checked_sub(self.first).context("message came again")? as usize;
        let (sent, count) = self.under_way.get_mut(at).context("a message that was not sent")?;
        *count += 1;
        let delay = now.saturating_sub(*sent);
        let complete = *count == self.subscribers;
        if self.measured {
            self.deliveries += 1;
            self.delays.saturating_record(delay);
            if complete {
                self.whole.saturating_record(delay);
            }
        }
        while self.under_way.front().is_some_and(|(_, count)| *count >= self.subscribers) {
            self.under_way.pop_front();
            self.first += 1;
        }
        Ok(())
    }
}

impl Room {
    fn inflate(&mut self, wire: &[u8]) -> Result<Vec<u8>> {
        if self.inflated.0 == wire {
            return Ok(std::mem::take(&mut self.inflated.1));
        }
        self.inflated.0 = wire.to_vec();
        inflate(wire, self.size)
    }

    /// The payload of a channel's message in `lifeline.v1`.
    fn channel<'a>(&mut self, link: &mut Link, frame: &'a [u8]) -> Result<Option<&'a [u8]>> {
        match hear(frame)? {
            Heard::Channel(payload) => return Ok(Some(payload)),
            Heard::Welcome(_) => self.open += 1,
            Heard::Beat(number) => link.put(opcode::TEXT, &[b"O ", number].concat())?,
            Heard::Nothing | Heard::ReplayDone(_) => {}
            other => bail!("{other:?}"),
        }
        Ok(None)
    }
}

impl Handler for Room {
    fn opened(&mut self, link: &mut Link) -> Result<()> {
        if self.next.len() <= link.id {
            self.next.resize(link.id + 1, 0);
        }
        if self.lifeline && link.tag != PUBLISHER {
            return link.put(opcode::TEXT, &Speaker::hello(None));
        }
        self.open += 1;
        Ok(())
    }

    fn received(&mut self, link: &mut Link, bytes: &[u8]) -> Result<usize> {
        let now = self.now();
        let mut at = 0;
        while let Some(frame) = parse_compressed(&bytes[at..])? {
            match frame.opcode {
                _ if frame.compressed => {
                    let payload = self.inflate(frame.payload)?;
                    let outcome = self.delivered(link.id, &payload, now);
                    self.inflated.1 = payload;
                    outcome?;
                    self.bytes += if self.measured { frame.length as u64 } else { 0 };
                }
                opcode::PING => link.put(opcode::PONG, frame.payload)?,
                opcode::PONG => {}
                opcode::CLOSE => bail!("closed with {:?}", frame.payload),
                // The publisher may hear itself or an answer.
                _ if link.tag == PUBLISHER => {}
                _ if self.lifeline => {
                    if let Some(payload) = self.channel(link, frame.payload)? {
                        self.delivered(link.id, payload, now)?;
                        self.bytes += if self.measured { frame.length as u64 } else { 0 };
                    }
                }
                _ => {
                    self.delivered(link.id, frame.payload, now)?;
                    self.bytes += if self.measured { frame.length as u64 } else { 0 };
                }
            }
            at += frame.length;
        }
        Ok(at)
    }

    fn lost(&mut self, _: &Link, why: Option<anyhow::Error>) {
        self.failed += 1;
        if let Some(why) = why.filter(|_| self.errors.len() < 5) {
            self.errors.push(format!("{why:#}"));
        }
    }
}

impl Broadcast {
    /// Opens all, publishes, counts.
    ///
    /// # Errors
    /// A message that came changed, twice, out of order or to not everybody.
    pub fn run(self) -> Result<Value> {
        ensure!(self.size >= NUMBER, "--size {}: at least {NUMBER}", self.size);
        let mut pool = Pool::new(self.plan.clone())?;
        let mut room = Room {
            lifeline: self.lifeline,
            inflated: Default::default(),
            bytes: 0,
            size: self.size,
            start: Instant::now(),
            next: Vec::new(),
            under_way: VecDeque::new(),
            first: 0,
            subscribers: self.conns,
            measured: false,
            open: 0,
            deliveries: 0,
            delays: histogram(),
            whole: histogram(),
            failed: 0,
            errors: Vec::new(),
        };
        let publisher = pool.connect(PUBLISHER, Some(&self.publish))?;
        pool.speak(self.lifeline.then_some(PROTOCOL));
        pool.compress(if self.compress { Deflate::Alone } else { Deflate::Off });
        while room.open <= self.conns {
            while pool.len() <= self.conns && pool.opening() < 64 {
                pool.connect(0, Some(&self.subscribe))?;
            }
            pool.turn(Duration::from_millis(20), &mut room)?;
            ensure!(room.failed == 0, "{} connections failed: {:?}", room.failed, room.errors);
        }
        self.settle(&mut pool, &mut room, publisher)?;

        let (mut server, mut own, mut everybody) = (0.0, 0.0, 0.0);
        let tree = |tree: Option<Tree>| tree.map_or(0.0, Tree::cpu);
        let this = Tree::of(std::process::id());
        let begin = Instant::now();
        let mut since = begin;
        let mut last = begin;
        loop {
            let now = Instant::now();
            if !room.measured && now - begin >= self.warm {
                room.measured = true;
                (server, own, everybody) = (tree(self.server), this.cpu(), machine_cpu());
                since = Instant::now();
            }
            if room.measured && since.elapsed() >= self.length {
                break;
            }
            let before = room.first;
            while room.under_way.len() < self.window {
                self.publish(&mut pool, &mut room, publisher)?;
            }
            pool.turn(Duration::from_millis(20), &mut room)?;
            ensure!(room.failed == 0, "{} connections ended: {:?}", room.failed, room.errors);
            if room.first > before {
                last = Instant::now();
            }
            ensure!(last.elapsed() < Duration::from_secs(20), "a message did not reach everybody in 20 s");
        }
        let seconds = since.elapsed().as_secs_f64();
        server = tree(self.server) - server;
        own = this.cpu() - own;
        let others = machine_cpu() - everybody - own - server;
        pool.reset_all();
        Ok(json!({
            "conns": self.conns,
            "messages": room.deliveries,
            "bytes_per_message": room.bytes as f64 / room.deliveries.max(1) as f64,
            "messages_per_second": room.deliveries as f64 / seconds,
            "seconds": seconds,
            "failed": room.failed,
            "delay_ms": quantiles(&room.delays),
            "everybody_ms": quantiles(&room.whole),
            "generator_cores": own / seconds,
            "generator_threads": 1,
            "generator_limited": own / seconds > 0.9,
            "other_cores": (others / seconds).max(0.0),
            "server": {
                "cpu_seconds": server,
                "cores": server / seconds,
                "cpu_seconds_per_million": if room.deliveries == 0 { 0.0 } else { server * 1e6 / room.deliveries as f64 },
            },
            "machine": machine(),
        }))
    }

    /// A subscription may take effect a moment after the upgrade: the first message is sent again
    /// under its number until everybody has it.
    fn settle(&self, pool: &mut Pool, room: &mut Room, publisher: usize) -> Result<()> {
        struct Early<'a> {
            room: &'a mut Room,
            have: Vec<bool>,
        }
        impl Handler for Early<'_> {
            fn opened(&mut self, _: &mut Link) -> Result<()> {
                Ok(())
            }
            fn received(&mut self, link: &mut Link, bytes: &[u8]) -> Result<usize> {
                let mut at = 0;
                while let Some(frame) = parse_compressed(&bytes[at..])? {
                    match frame.opcode {
                        opcode::PING => link.put(opcode::PONG, frame.payload)?,
                        opcode::CLOSE => bail!("closed with {:?}", frame.payload),
                        _ if link.tag != PUBLISHER && frame.opcode < opcode::CLOSE => {
                            self.have[link.id] |=
                                !self.room.lifeline || self.room.channel(link, frame.payload)?.is_some();
                        }
                        _ => {}
                    }
                    at += frame.length;
                }
                Ok(at)
            }
            fn lost(&mut self, link: &Link, why: Option<anyhow::Error>) {
                self.room.lost(link, why);
            }
        }
        let until = Instant::now() + Duration::from_secs(20);
        let mut early = Early { have: vec![false; pool.places()], room };
        loop {
            self.publish(pool, early.room, publisher)?;
            early.room.under_way.clear();
            let wave = Instant::now() + Duration::from_millis(300);
            let mut quiet = false;
            while Instant::now() < wave {
                pool.turn(Duration::from_millis(20), &mut early)?;
                quiet = early.have.iter().filter(|have| **have).count() == self.conns;
            }
            ensure!(early.room.failed == 0, "connections ended: {:?}", early.room.errors);
            if quiet {
                break;
            }
            let count = early.have.iter().filter(|have| **have).count();
            ensure!(Instant::now() < until, "the first message reached {count} of {}", self.conns);
        }
        Ok(())
    }

    fn publish(&self, pool: &mut Pool, room: &mut Room, publisher: usize) -> Result<()> {
        let number = room.first + room.under_way.len() as u64;
        let mut payload = vec![b'x'; self.size];
        payload[..NUMBER].copy_from_slice(&number.to_be_bytes());
        room.under_way.push_back((room.now(), 0));
        pool.link(publisher).context("the publisher is gone")?.put(opcode::BINARY, &payload)
    }
}
