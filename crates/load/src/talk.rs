//! Peers that send messages and check the echoes, answer pings and know how late those were.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::crew::{Phase, Sample};
use crate::lifeline::{Heard, Speaker, hear, item_header};
use crate::pool::{Deflate, Handler, Link, Pool};
use crate::train::{Codec, Train, inflate, parse, parse_compressed};
use crate::ws::opcode;

/// Messages under way on one connection with a fixed rate, at most: a server that is too slow must
/// not take the memory of the generator.
const UNDER_WAY: usize = 100_000;
/// How long ended connections may take.
const CLOSING: Duration = Duration::from_secs(2);

/// What each connection does.
#[derive(Clone, Debug)]
pub struct Script {
    /// Messages.
    pub train: Arc<Train>,
    /// Under way on one connection; 0: silence. Without meaning at a fixed rate.
    pub window: usize,
    /// The server's `heartbeat.interval`, to know how late its pings are.
    pub beat: Option<Duration>,
    /// Speak `lifeline.v1`.
    pub lifeline: bool,
    /// Text message that one connection sends first; its answer is not checked.
    pub order: Option<String>,
}

impl Script {
    /// The outbox of a link that sends items: a name that no other has, in this run or another.
    fn outbox(&self, link: &Link) -> Option<String> {
        (self.window > 0).then(|| {
            let since = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos());
            format!("load-{}-{}-{since}", std::process::id(), link.id)
        })
    }
}

#[derive(Debug, Default)]
struct Talker {
    sent: u64,
    received: u64,
    /// When each message under way was sent, or should have been, in nanoseconds.
    stamps: VecDeque<u64>,
    /// A fragmented message so far.
    fragments: Option<Vec<u8>>,
    /// When the next ping is due, in nanoseconds.
    beat: Option<u64>,
    closing: bool,
    ordered: bool,
    speaker: Speaker,
    /// With context takeover.
    codec: Option<Box<Codec>>,
}

/// The connections of one thread.
#[derive(Debug)]
pub struct Talk {
    script: Script,
    /// Handed over now and then.
    pub counted: Sample,
    talkers: Vec<Talker>,
    phase: Phase,
    start: Instant,
    /// When the next message is due at a fixed rate.
    due: u64,
    turn: usize,
    rate: f64,
    orders: bool,
    /// Frames on their way out, and a header.
    scratch: (Vec<u8>, Vec<u8>),
    /// Frames that were inflated and found right, by message: those that come again need not be.
    proven: Vec<Vec<u8>>,
}

impl Talk {
    /// Without connections yet; `orders`: this one sends the script's order.
    pub fn new(script: Script, orders: bool) -> Self {
        let proven = vec![Vec::new(); script.train.variants()];
        Self {
            script,
            counted: Sample::default(),
            talkers: Vec::new(),
            phase: Phase::Opening,
            start: Instant::now(),
            due: 0,
            turn: 0,
            rate: 0.0,
            orders,
            scratch: Default::default(),
            proven,
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Keeps the text of an error, if it is among the first.
    pub fn note(&mut self, error: &str) {
        if self.counted.errors.len() < 5 {
            self.counted.errors.push(error.to_owned());
        }
    }

    /// Starts the talk when the phase becomes [`Phase::Warm`].
    pub fn enter(&mut self, phase: Phase, pool: &mut Pool) {
        let before = std::mem::replace(&mut self.phase, phase);
        if before != Phase::Opening || phase == Phase::Opening {
            return;
        }
        for id in 0..pool.places() {
            let Some(link) = pool.link(id).filter(|link| link.is_open()) else { continue };
            if self.script.lifeline && !self.talkers[id].speaker.welcomed {
                continue;
            }
            if let Err(error) = self.begin(link) {
                self.note(&format!("{error:#}"));
            }
        }
    }

    fn begin(&mut self, link: &mut Link) -> Result<()> {
        if self.orders
            && let Some(order) = self.script.order.take()
        {
            self.talkers[link.id].ordered = true;
            // To the server this is a sign of life: the next beat is not due when it was.
            self.talkers[link.id].beat = None;
            return link.put(opcode::TEXT, order.as_bytes());
        }
        if self.rate == 0.0 { self.send(link, self.script.window, None) } else { Ok(()) }
    }

    /// Sends `count` messages, stamped with now or when they were due.
    fn send(&mut self, link: &mut Link, mut count: usize, due: Option<u64>) -> Result<()> {
        let stamp = due.unwrap_or_else(|| self.now());
        if self.script.lifeline {
            return self.send_items(link, count, stamp);
        }
        let talker = &mut self.talkers[link.id];
        if let Some(codec) = &mut talker.codec {
            let out = &mut self.scratch.0;
            out.clear();
            for _ in 0..count {
                codec.put(out, &self.script.train, talker.sent);
                talker.sent += 1;
                talker.stamps.push_back(stamp);
            }
            if self.phase == Phase::Measure {
                self.counted.bytes += out.len() as u64;
            }
            return link.write(out);
        }
        while count > 0 {
            let (frames, sent) = self.script.train.run(talker.sent, count);
            talker.sent += sent as u64;
            talker.stamps.extend(std::iter::repeat_n(stamp, sent));
            count -= sent;
            if self.phase == Phase::Measure {
                self.counted.bytes += frames.len() as u64;
            }
            link.write(frames)?;
        }
        Ok(())
    }

    /// Items; the first takes the acknowledgement along.
    fn send_items(&mut self, link: &mut Link, count: usize, stamp: u64) -> Result<()> {
        let talker = &mut self.talkers[link.id];
        let (out, header) = &mut self.scratch;
        out.clear();
        for _ in 0..count {
            header.clear();
            item_header(header, talker.sent + 1, talker.speaker.take());
            self.script.train.put_behind(out, header, talker.sent);
            talker.sent += 1;
            talker.stamps.push_back(stamp);
        }
        if self.phase == Phase::Measure {
            self.counted.bytes += out.len() as u64;
        }
        link.write(out)
    }

    /// Messages of the server in `lifeline.v1`; returns the bytes done with and the messages that came back.
    fn receive_items(&mut self, link: &mut Link, bytes: &[u8], now: u64) -> Result<(usize, usize)> {
        let (mut at, mut done) = (0, 0);
        while let Some(frame) = parse(&bytes[at..])? {
            at += frame.length;
            if frame.opcode >= opcode::CLOSE {
                self.other(link, frame.fin, frame.opcode, frame.payload, now)?;
                continue;
            }
            ensure!(frame.fin, "a fragment");
            let talker = &mut self.talkers[link.id];
            match hear(frame.payload)? {
                Heard::Message { sequence, acknowledged, payload } => {
                    talker.speaker.count(sequence, payload.len(), now)?;
                    if let Some(mark) = acknowledged {
                        talker.speaker.settle(mark, talker.sent)?;
                    }
                    ensure!(frame.opcode == self.script.train.kind(), "unexpected opcode {}", frame.opcode);
                    let expected = self.script.train.payload(talker.received);
                    ensure!(payload == expected, "message {} came back changed", talker.received);
                    self.came_back(link, now)?;
                    done += 1;
                }
                Heard::Acknowledged(mark) => talker.speaker.settle(mark, talker.sent)?,
                Heard::Welcome(_) => {
                    ensure!(!talker.speaker.welcomed, "W came again");
                    talker.speaker.welcomed = true;
                    self.counted.open += 1;
                    if self.phase >= Phase::Warm {
                        self.begin(link)?;
                    }
                }
                Heard::Beat(number) => {
                    self.counted.beats += 1;
                    link.put(opcode::TEXT, &[b"O ", number].concat())?;
                }
                Heard::Channel(_) | Heard::Nothing | Heard::ReplayDone(_) => {}
            }
        }
        Ok((at, done))
    }

    /// The acknowledgement that nothing took along, if it is due.
    fn acknowledge(&mut self, link: &mut Link, now: u64) -> Result<()> {
        let Some(mark) = self.talkers[link.id].speaker.due(now) else { return Ok(()) };
        let frame = format!("A {mark}");
        if self.phase == Phase::Measure {
            self.counted.bytes += frame.len() as u64 + 6;
        }
        link.put(opcode::TEXT, frame.as_bytes())
    }

    /// At a fixed rate: sends what is due; returns how long nothing more is.
    pub fn pace(&mut self, rate: f64, pool: &mut Pool) -> Duration {
        const FOREVER: Duration = Duration::from_secs(1);
        let now = self.now();
        if rate.to_bits() != self.rate.to_bits() {
            self.rate = rate;
            self.due = now;
        }
        if rate <= 0.0 || self.phase < Phase::Warm || pool.len() == pool.opening() {
            self.due = now;
            return FOREVER;
        }
        let interval = 1e9 / rate;
        let mut step = 0.0;
        while self.due as f64 + step <= now as f64 {
            let due = self.due + step as u64;
            step += interval;
            // The next open connection in turn; there is one.
            for _ in 0..pool.places() {
                self.turn = (self.turn + 1) % pool.places();
                let Some(link) = pool.link(self.turn).filter(|link| link.is_open()) else { continue };
                let talker = &self.talkers[self.turn];
                if talker.closing || self.script.lifeline && !talker.speaker.welcomed {
                    continue;
                }
                if self.talkers[self.turn].stamps.len() < UNDER_WAY
                    && let Err(error) = self.send(link, 1, Some(due))
                {
                    self.note(&format!("{error:#}"));
                }
                break;
            }
        }
        self.due += step as u64;
        Duration::from_nanos(self.due.saturating_sub(self.now()))
    }

    /// Closes `count` connections.
    pub fn retire(&mut self, count: usize, pool: &mut Pool) {
        let mut closing = self.talkers.iter().filter(|talker| talker.closing).count();
        for id in (0..pool.places()).rev() {
            if closing >= count {
                return;
            }
            let Some(link) = pool.link(id).filter(|link| link.is_open()) else { continue };
            if !self.talkers[id].closing {
                closing += 1;
                self.close(link);
            }
        }
    }

    fn close(&mut self, link: &mut Link) {
        self.talkers[link.id].closing = true;
        if let Err(error) = link.put(opcode::CLOSE, &1000_u16.to_be_bytes()) {
            self.note(&format!("{error:#}"));
        }
    }

    /// Closes all connections and waits for the answers, but not long.
    ///
    /// # Errors
    /// epoll's own.
    pub fn close_all(&mut self, pool: &mut Pool) -> Result<()> {
        self.retire(pool.len(), pool);
        let until = Instant::now() + CLOSING;
        while !pool.is_empty() && Instant::now() < until {
            pool.turn(Duration::from_millis(20), self)?;
        }
        pool.reset_all();
        Ok(())
    }

    fn came_back(&mut self, link: &Link, now: u64) -> Result<()> {
        let talker = &mut self.talkers[link.id];
        talker.received += 1;
        let stamp = talker.stamps.pop_front().context("more came back than was sent")?;
        if self.phase == Phase::Measure {
            self.counted.messages += 1;
            self.counted.delays.saturating_record(now.saturating_sub(stamp));
        }
        Ok(())
    }

    /// A message that came compressed.
    fn inflated(&mut self, link: &Link, frame: &[u8], payload: &[u8], now: u64) -> Result<()> {
        let talker = &mut self.talkers[link.id];
        let number = talker.received;
        let expected = self.script.train.payload(number);
        if let Some(codec) = &mut talker.codec {
            ensure!(codec.inflate(payload, expected.len())? == expected, "message {number} came back changed");
            return self.came_back(link, now);
        }
        // What stands alone comes to the same each time.
        let proven = &mut self.proven[number as usize % self.script.train.variants()];
        if proven != frame {
            ensure!(inflate(payload, expected.len())? == expected, "message {number} came back changed");
            frame.clone_into(proven);
        }
        self.came_back(link, now)
    }

    /// A frame that is not just the expected echo; true when it completed a message.
    fn other(&mut self, link: &mut Link, fin: bool, kind: u8, payload: &[u8], now: u64) -> Result<bool> {
        match kind {
            opcode::PING => {
                link.put(opcode::PONG, payload)?;
                let talker = &mut self.talkers[link.id];
                self.counted.beats += 1;
                if let Some(interval) = self.script.beat {
                    if let Some(due) = talker.beat {
                        self.counted.lateness.saturating_record(now.saturating_sub(due));
                    }
                    talker.beat = Some(self.start.elapsed().as_nanos() as u64 + interval.as_nanos() as u64);
                }
                Ok(false)
            }
            opcode::PONG => Ok(false),
            opcode::CLOSE => {
                let talker = &mut self.talkers[link.id];
                if !talker.closing {
                    bail!("closed with {:?}", payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code)));
                }
                link.finish();
                Ok(false)
            }
            _ => {
                let talker = &mut self.talkers[link.id];
                let train = &self.script.train;
                ensure!(
                    kind == if talker.fragments.is_some() { opcode::CONTINUATION } else { train.kind() },
                    "unexpected opcode {kind}"
                );
                let message = talker.fragments.get_or_insert_default();
                message.extend_from_slice(payload);
                if !fin {
                    return Ok(false);
                }
                ensure!(message == train.payload(talker.received), "message {} came back changed", talker.received);
                talker.fragments = None;
                self.came_back(link, now)?;
                Ok(true)
            }
        }
    }
}

impl Handler for Talk {
    fn opened(&mut self, link: &mut Link) -> Result<()> {
        if self.talkers.len() <= link.id {
            self.talkers.resize_with(link.id + 1, Talker::default);
        }
        let codec = (link.deflate() == Deflate::Kept && self.script.window > 0).then(Box::default);
        self.talkers[link.id] = Talker { codec, ..Talker::default() };
        if self.script.lifeline {
            let outbox = self.script.outbox(link);
            return link.put(opcode::TEXT, &Speaker::hello(outbox.as_deref()));
        }
        self.counted.open += 1;
        if self.phase >= Phase::Warm { self.begin(link) } else { Ok(()) }
    }

    fn received(&mut self, link: &mut Link, bytes: &[u8]) -> Result<usize> {
        let now = self.now();
        let (mut at, mut done) = (0, 0);
        if self.script.lifeline {
            (at, done) = self.receive_items(link, bytes, now)?;
        }
        while at < bytes.len() && !self.script.lifeline {
            let rest = &bytes[at..];
            let talker = &self.talkers[link.id];
            if talker.ordered && rest[0] & 0x0F < opcode::CLOSE {
                let Some(frame) = parse(rest)? else { break };
                at += frame.length;
                continue;
            }
            let expected = self.script.train.reply(talker.received);
            if talker.fragments.is_none() && rest.starts_with(expected) {
                at += expected.len();
                self.came_back(link, now)?;
                done += 1;
                continue;
            }
            if self.script.train.is_compressed() {
                let Some(frame) = parse_compressed(rest)? else { break };
                if frame.compressed {
                    ensure!(frame.fin && frame.opcode == self.script.train.kind(), "unexpected {:#04x}", rest[0]);
                    at += frame.length;
                    self.inflated(link, &rest[..frame.length], frame.payload, now)?;
                    done += 1;
                    continue;
                }
            }
            let Some(frame) = parse(rest)? else { break };
            at += frame.length;
            done += usize::from(self.other(link, frame.fin, frame.opcode, frame.payload, now)?);
        }
        let running = matches!(self.phase, Phase::Warm | Phase::Measure) && !self.talkers[link.id].closing;
        if done > 0 && running && self.rate == 0.0 {
            self.send(link, done, None)?;
        }
        if self.script.lifeline {
            self.acknowledge(link, now)?;
        }
        if self.phase == Phase::Measure {
            self.counted.bytes += at as u64;
        }
        Ok(at)
    }

    fn lost(&mut self, link: &Link, why: Option<anyhow::Error>) {
        let counted = !self.script.lifeline || self.talkers.get(link.id).is_some_and(|talker| talker.speaker.welcomed);
        if link.is_open() && counted {
            self.counted.open -= 1;
        }
        let closing = self.talkers.get(link.id).is_some_and(|talker| talker.closing) && link.is_open();
        if let Some(talker) = self.talkers.get_mut(link.id) {
            *talker = Talker::default();
        }
        if let Some(why) = why.filter(|_| !closing) {
            self.counted.failed += 1;
            self.note(&format!("{why:#}"));
        }
    }
}
