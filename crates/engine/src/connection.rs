//! One open connection: a task that owns its socket and asks the rules what to do.
//!
//! Reads come first in each turn, so that evidence of life is seen before a deadline is judged; reading
//! goes on while writing is blocked.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lifeline_proto::Time;
use lifeline_proto::close;
use lifeline_proto::frame::{Decoder, FrameLimits, Item as Received, Opcode, Role, Violation};
use lifeline_proto::heartbeat::{Action, Heartbeat, HeartbeatConfig, Link, Mode};
use lifeline_proto::rate::TokenBucket;
use lifeline_proto::v1::wire::{ClientFrame, longest_message};
use tokio::io::ReadBuf;

use crate::bridge::{Event, Failure, FailureKind, MESSAGE_COST, OpenInfo};
use crate::clock;
use crate::config::RateAction;
use crate::context::{End, Owner, Upshot};
use crate::outlet::{Ending, Outlet};
use crate::stream::{self, Stream};
use crate::writer::close_payload;

/// What one read may bring.
const READ: usize = 64 * 1024;
/// Payloads with so much still to come are read straight into their message.
const DIRECT: usize = 32 * 1024;
/// What is read first where a long message is expected: its header, and little that has to be copied.
const HEAD: usize = 2048;
/// Reads in one turn before others get theirs.
const TURNS: usize = 8;
/// How often a connection that is paused for want of process memory looks again.
const MEMORY_RECHECK: Duration = Duration::from_millis(100);
/// How long the peer may take to close its side after our last word.
const LINGER: Duration = Duration::from_secs(1);
/// How long a probe after a clock jump may take to be answered.
const PROBE: Duration = Duration::from_secs(5);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
    /// Room for the messages of one read. Empty between reads.
    static MESSAGES: Cell<Vec<(Bytes, bool)>> = const { Cell::new(Vec::new()) };
    /// A decoder for the next connection that has something to decode.
    static SPARE: Cell<Option<Box<Decoder>>> = const { Cell::new(None) };
}

#[derive(Debug)]
enum Phase {
    Open,
    /// The peer broke the protocol; the messages before that may still be answered, until then.
    Failing {
        until: Time,
        violation: Box<Violation>,
    },
    /// A close frame of ours is queued or sent; the peer's is awaited until then.
    Closing {
        until: Time,
        end: Box<End>,
    },
    /// Reported as ended. What is queued goes out, then the socket is shut down and drained until then.
    Lingering {
        until: Time,
        shut: bool,
        /// The peer's close frame was the last that came: nothing is there to be drained.
        quiet: bool,
        /// The peer has ended its side: it only waits for what is queued.
        ended: bool,
    },
    Done,
}

/// Why reads rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    No,
    /// `limits.inbound`: until the application has consumed.
    Inbound,
    /// `limits.messageRate` or `byteRate`: until then.
    Rate(Time),
    /// `limits.memory`: looked at again then; so many milliseconds by then.
    Memory(Time, u32),
}

#[derive(Debug)]
struct Rates {
    messages: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
}

/// A connection's task. Its size is part of what an idle connection costs; a test pins it.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    outlet: Arc<Outlet>,
    owner: Arc<dyn Owner>,
    /// None between messages.
    decoder: Option<Box<Decoder>>,
    heartbeat: Heartbeat,
    phase: Phase,
    rest: Rest,
    last_received: Time,
    /// Since when bytes have waited for the socket without progress; zero: none wait. (Options of times
    /// would be twice the size.)
    stalled_since: Time,
    beat_number: u32,
    /// The last message was long, so the next may be.
    long: bool,
    /// Bytes of an unfinished message that are charged to the process.
    partial: usize,
    rates: Option<Box<Rates>>,
    /// Bytes that came behind the handshake.
    early: Option<Box<BytesMut>>,
}

impl Connection {
    /// Announces the connection to the application (`info` none: its owner will) and makes its task.
    /// `early` are bytes that came behind the handshake.
    pub fn open(
        stream: Stream,
        early: BytesMut,
        outlet: Arc<Outlet>,
        owner: Arc<dyn Owner>,
        info: Option<OpenInfo>,
    ) -> Self {
        let context = &outlet.context;
        let now = clock::now();
        let rates = context.server_limits.as_ref().and_then(|limits| {
            (limits.message_rate.is_some() || limits.byte_rate.is_some()).then(|| {
                Box::new(Rates {
                    messages: limits.message_rate.map(|rate| TokenBucket::new(rate, now)),
                    bytes: limits.byte_rate.map(|rate| TokenBucket::new(rate, now)),
                })
            })
        });
        outlet.shard.enter(&outlet);
        let (stream, direct) = stream.share();
        outlet.writer.lock().direct = direct;
        // Nothing is said between HELLO and WELCOME.
        let rules = if outlet.is_lifeline() {
            Arc::new(HeartbeatConfig { mode: Mode::Off, ..*context.rules })
        } else {
            context.rules.clone()
        };
        if let Some(info) = info {
            outlet.announce(info);
        }
        Self {
            decoder: None,
            heartbeat: Heartbeat::new(rules, now, rand::random::<f64>()),
            stream,
            owner,
            phase: Phase::Open,
            rest: Rest::No,
            last_received: now,
            stalled_since: Time::ZERO,
            beat_number: 0,
            long: false,
            partial: 0,
            rates,
            early: (!early.is_empty()).then(|| Box::new(early)),
            outlet,
        }
    }

    fn turn(&mut self, task: &mut TaskContext<'_>) -> Poll<()> {
        self.outlet.register(task.waker());
        let now = clock::now();
        let mut again = false;

        if !matches!(self.phase, Phase::Done) {
            again |= self.read(now, task);
        }
        self.put_decoder_away();
        if self.outlet.is_lifeline()
            && self.outlet.take_announcement()
            && let Some(sessions) = &self.outlet.context.sessions
        {
            self.heartbeat = Heartbeat::new(sessions.heartbeat(), now, rand::random::<f64>());
        }
        if self.outlet.take_ending_news() {
            self.begin_ending(now);
        }
        if self.outlet.take_probe() && matches!(self.phase, Phase::Open) {
            self.heartbeat
                .probe(now, PROBE.min(self.outlet.context.beats.rules.timeout.max(Duration::from_millis(100))));
            self.beat_if_due(now);
        }
        if self.outlet.take_timer() {
            self.handle_deadlines(now);
        }
        if matches!(self.phase, Phase::Failing { .. }) {
            self.fail_when_answered(now, task);
        }
        // A turn that leaves something to read has not seen the last that came.
        let last = !again && matches!(self.phase, Phase::Lingering { quiet: true, .. }) && self.may_leave();
        if !matches!(self.phase, Phase::Done) {
            self.write(now, last, task);
        }
        if let Phase::Lingering { until, .. } = self.phase {
            self.linger(now, until, last, task);
        }
        if matches!(self.phase, Phase::Done) {
            return Poll::Ready(());
        }
        self.arm(now);
        if again {
            task.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Reads what the socket has, within a turn's budget; true when there may be more.
    fn read(&mut self, now: Time, task: &mut TaskContext<'_>) -> bool {
        for _ in 0..TURNS {
            if !self.may_read(now) {
                return false;
            }
            if let Some(mut early) = self.early.take() {
                self.last_received = now;
                self.take_input(now, &mut early);
                self.charge_partial();
                if matches!(self.phase, Phase::Done) {
                    return false;
                }
                continue;
            }
            let room = if matches!(self.phase, Phase::Lingering { .. }) {
                None
            } else {
                self.decoder.as_mut().and_then(|decoder| decoder.payload_room(DIRECT))
            };
            let count = if let Some(room) = room {
                let mut buffer = ReadBuf::new(room);
                match self.stream.poll_read(task, &mut buffer) {
                    Poll::Pending => return false,
                    Poll::Ready(Err(error)) => {
                        self.lost(now, &error.to_string());
                        return false;
                    }
                    Poll::Ready(Ok(())) => {
                        let count = buffer.filled().len();
                        if count > 0 {
                            match self.decoder().filled(count) {
                                Ok(Some(item)) => self.receive(now, item),
                                Ok(None) => {}
                                Err(violation) => self.fail(now, &violation),
                            }
                        }
                        count
                    }
                }
            } else {
                let most = if self.long { HEAD } else { READ };
                let outcome = SCRATCH.with_borrow_mut(|scratch| {
                    let scratch = &mut scratch[..most];
                    let mut buffer = ReadBuf::new(scratch);
                    match self.stream.poll_read(task, &mut buffer) {
                        Poll::Pending => None,
                        Poll::Ready(Err(error)) => Some(Err(error)),
                        Poll::Ready(Ok(())) => {
                            let count = buffer.filled().len();
                            self.take_input(now, &mut scratch[..count]);
                            Some(Ok(count))
                        }
                    }
                });
                match outcome {
                    None => return false,
                    Some(Err(error)) => {
                        self.lost(now, &error.to_string());
                        return false;
                    }
                    Some(Ok(count)) => count,
                }
            };
            if count == 0 {
                self.handle_eof(now);
                return false;
            }
            self.last_received = now;
            self.outlet.counters.bytes_in.fetch_add(count as u64, Ordering::Relaxed);
            self.charge_partial();
            if matches!(self.phase, Phase::Done) {
                return false;
            }
        }
        true
    }

    fn may_read(&mut self, now: Time) -> bool {
        if !matches!(self.phase, Phase::Open | Phase::Closing { .. }) {
            return matches!(self.phase, Phase::Lingering { ended: false, .. });
        }
        let context = &self.outlet.context;
        match self.rest {
            Rest::Inbound if !self.has_room() => return false,
            Rest::Rate(until) if now < until => return false,
            Rest::Memory(until, _) if now < until => return false,
            Rest::No | Rest::Inbound | Rest::Rate(_) | Rest::Memory(..) => {}
        }
        if context.memory.is_over() && self.held() > context.memory.share() {
            let waited = if let Rest::Memory(until, waited) = self.rest {
                Duration::from_millis(waited.into()) + (now - until)
            } else {
                Duration::ZERO
            };
            let then = u32::try_from((waited + MEMORY_RECHECK).as_millis()).unwrap_or(u32::MAX);
            self.rest = Rest::Memory(now + MEMORY_RECHECK, then);
            if waited > context.limits.handshake_timeout {
                self.end_open(now, close::TRY_AGAIN_LATER, "out of memory: limits.memory");
            }
            return false;
        }
        // A rest for another reason has ended; this one may have come about meanwhile.
        if matches!(self.rest, Rest::Rate(_) | Rest::Memory(..))
            && self.outlet.inbound.load(Ordering::SeqCst) >= context.limits.inbound
        {
            self.rest = Rest::Inbound;
            self.outlet.paused.store(true, Ordering::SeqCst);
            if !self.has_room() {
                return false;
            }
        }
        if std::mem::replace(&mut self.rest, Rest::No) != Rest::No {
            self.heartbeat.handle_reads_resumed(now);
        }
        true
    }

    /// Paused at `limits.inbound`: whether the application has consumed enough to read on.
    fn has_room(&self) -> bool {
        // With `Outlet::consumed`: either we see its bytes gone or it sees us paused.
        if self.outlet.inbound.load(Ordering::SeqCst) > self.outlet.context.limits.inbound / 2 {
            return false;
        }
        self.outlet.paused.store(false, Ordering::SeqCst);
        true
    }

    /// Bytes that this connection's peer made us hold.
    fn held(&self) -> usize {
        self.outlet.inbound.load(Ordering::Relaxed) + self.partial
    }

    fn charge_partial(&mut self) {
        let unread = self.early.as_ref().map_or(0, |early| early.len());
        let partial = unread + self.decoder.as_ref().map_or(0, |decoder| decoder.buffered());
        let memory = &self.outlet.context.memory;
        if partial > self.partial {
            memory.charge(partial - self.partial);
        } else {
            memory.release(self.partial - partial);
        }
        self.partial = partial;
    }

    fn decoder(&mut self) -> &mut Decoder {
        self.decoder.get_or_insert_with(|| {
            let context = &self.outlet.context;
            // The option counts the payload, which lies in a frame of the subprotocol.
            let bound = |bytes| if self.outlet.is_lifeline() { longest_message(bytes) } else { bytes };
            let limits = FrameLimits {
                max_message: bound(context.limits.max_message),
                max_frame: bound(context.limits.max_frame),
                max_fragments: context.limits.max_fragments,
            };
            let mut decoder = Decoder::new(context.role, limits);
            if let Some(compression) = self.outlet.compression() {
                decoder = decoder.with_inflation(compression.inflates_with_context());
            }
            match SPARE.take() {
                Some(mut spare) => {
                    *spare = decoder;
                    spare
                }
                None => Box::new(decoder),
            }
        })
    }

    /// Between messages a decoder knows nothing, unless the peer refers to what it has sent: the next connection
    /// may have its room.
    fn put_decoder_away(&mut self) {
        let is_free =
            |decoder: &mut Box<Decoder>| decoder.is_idle() && decoder.buffered() == 0 && !decoder.keeps_context();
        if let Some(decoder) = self.decoder.take_if(is_free) {
            SPARE.set(Some(decoder));
        }
    }

    fn take_input(&mut self, now: Time, mut input: &mut [u8]) {
        // Messages that nothing counts one by one, and nothing rests for, are understood all at once.
        let gathers = self.outlet.is_lifeline()
            && self.outlet.context.role == Role::Server
            && self.rates.is_none()
            && self.outlet.compression().is_none();
        let mut messages = if gathers { MESSAGES.take() } else { Vec::new() };
        let mut broken = None;
        while !input.is_empty() && matches!(self.phase, Phase::Open | Phase::Closing { .. }) {
            match self.decoder().decode(input) {
                Ok((count, item)) => {
                    input = &mut input[count..];
                    match item {
                        Some(Received::Message { data, binary }) if gathers => messages.push((data, binary)),
                        Some(item) => {
                            self.receive_frames(now, &mut messages);
                            self.receive(now, item);
                            if self.outlet.compression().is_some() && self.rests_inflated(now, input) {
                                return;
                            }
                        }
                        None => {}
                    }
                }
                Err(violation) => {
                    broken = Some(violation);
                    break;
                }
            }
        }
        self.receive_frames(now, &mut messages);
        if gathers {
            messages.shrink_to(READ / 64);
            MESSAGES.set(messages);
        }
        if let Some(violation) = broken {
            return self.fail(now, &violation);
        }
        if let Phase::Lingering { quiet, .. } = &mut self.phase
            && !input.is_empty()
        {
            *quiet = false;
        }
    }

    /// A little that was read may become a lot: what is left of it waits where reads have to rest.
    fn rests_inflated(&mut self, now: Time, input: &[u8]) -> bool {
        let inflated = self.decoder().take_inflated();
        if let Some(compression) = self.outlet.compression() {
            compression.count_in(inflated);
        }
        let rests =
            !input.is_empty() && matches!(self.phase, Phase::Open | Phase::Closing { .. }) && !self.may_read(now);
        if rests {
            self.early = Some(Box::new(input.into()));
        }
        rests
    }

    fn receive(&mut self, now: Time, item: Received) {
        match item {
            Received::Message { data, binary } => self.receive_message(now, data, binary),
            Received::Ping(payload) => {
                self.outlet.trace(|| format!("received ping of {} bytes", payload.len()));
                if matches!(self.phase, Phase::Open) {
                    self.outlet.writer.lock().add_pong(payload);
                }
            }
            Received::Pong(payload) => {
                self.outlet.trace(|| format!("received pong of {} bytes", payload.len()));
                if payload[..] == self.beat_number.to_be_bytes() {
                    self.handle_answer(now);
                }
            }
            Received::Close(close) => self.receive_close(now, close),
        }
    }

    fn receive_message(&mut self, now: Time, data: Bytes, binary: bool) {
        if self.outlet.is_lifeline() {
            return self.receive_frame(now, data, binary);
        }
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        #[cfg(test)]
        assert!(data != "panic", "as the test asked");
        if !binary && self.is_beat(now, &data) {
            return;
        }
        let outlet = &self.outlet;
        outlet.counters.messages_in.fetch_add(1, Ordering::Relaxed);
        outlet.count_message(now);
        self.heartbeat.handle_traffic();
        outlet.trace(|| format!("received {} of {} bytes", if binary { "binary" } else { "text" }, data.len()));
        let size = data.len();
        // What is inflated is not read straight into its message.
        self.long = size >= DIRECT + HEAD && self.outlet.compression().is_none();
        let waiting = outlet.add_inbound(size + MESSAGE_COST);
        emit(outlet, Event::Message { endpoint: outlet.endpoint(), conn: outlet.id, data, binary, info: None });
        self.rest_when_full(waiting);
        self.count_rates(now, size);
    }

    fn rest_when_full(&mut self, waiting: usize) {
        if waiting >= self.outlet.context.limits.inbound && self.rest == Rest::No {
            self.outlet.paused.store(true, Ordering::SeqCst);
            self.rest = Rest::Inbound;
        }
    }

    /// A message of the subprotocol is its owner's to understand. What comes while we close may still
    /// acknowledge something.
    fn receive_frame(&mut self, now: Time, data: Bytes, binary: bool) {
        if !matches!(self.phase, Phase::Open | Phase::Closing { .. }) {
            return;
        }
        let size = self.look_at_frame(&data, binary);
        let upshot = self.owner.handle_message(&self.outlet, now, data, binary);
        self.follow(now, upshot);
        // A server's peers are held back by their window.
        if self.outlet.context.role == Role::Client {
            self.rest_when_full(self.outlet.inbound.load(Ordering::SeqCst));
        }
        self.count_rates(now, size);
    }

    /// As [`Connection::receive_frame`], of a server's connection: takes all that there are.
    fn receive_frames(&mut self, now: Time, messages: &mut Vec<(Bytes, bool)>) {
        if messages.is_empty() {
            return;
        }
        for (data, binary) in &*messages {
            self.look_at_frame(data, *binary);
        }
        let upshot = self.owner.handle_messages(&self.outlet, now, messages);
        self.follow(now, upshot);
    }

    /// Returns its size.
    fn look_at_frame(&mut self, data: &Bytes, binary: bool) -> usize {
        let size = data.len();
        // What is inflated is not read straight into its message.
        self.long = size >= DIRECT + HEAD && self.outlet.compression().is_none();
        self.outlet.trace(|| format!("received {} of {size} bytes", if binary { "binary" } else { "text" }));
        size
    }

    fn follow(&mut self, now: Time, upshot: Upshot) {
        match upshot {
            Upshot::Nothing => {}
            Upshot::Answered(n) => {
                if n == u64::from(self.beat_number) {
                    self.handle_answer(now);
                }
            }
            Upshot::Beats(rules) => {
                // A client's first beat must not come before the server's.
                let jitter = if self.outlet.context.role == Role::Client { 1.0 } else { rand::random::<f64>() };
                self.heartbeat = Heartbeat::new(rules, now, jitter);
            }
        }
    }

    /// Application-level beats: answers to ours are swallowed, the peer's own are answered.
    fn is_beat(&mut self, now: Time, data: &Bytes) -> bool {
        let context = self.outlet.context.clone();
        let beats = &context.beats;
        if beats.reply.as_deref().is_some_and(|reply| reply.as_bytes() == data) {
            self.handle_answer(now);
            return true;
        }
        for (question, answer) in &beats.accept {
            if question.as_bytes() == data {
                self.outlet.writer.lock().reply(&self.outlet, answer);
                return true;
            }
        }
        false
    }

    fn count_rates(&mut self, now: Time, size: usize) {
        let Some(rates) = &mut self.rates else { return };
        let mut wait = Duration::ZERO;
        if let Some(bucket) = &mut rates.messages {
            wait = wait.max(bucket.spend(now, 1.0));
        }
        if let Some(bucket) = &mut rates.bytes {
            wait = wait.max(bucket.spend(now, size as f64));
        }
        if wait.is_zero() {
            return;
        }
        let action = self.outlet.context.server_limits.as_ref().map(|limits| limits.rate_action);
        if action == Some(RateAction::Close) {
            self.end_open(now, close::RATE_LIMITED, "rate limit: limits.messageRate or limits.byteRate");
        } else {
            self.rest = Rest::Rate(now + wait);
        }
    }

    fn handle_answer(&mut self, now: Time) {
        if self.heartbeat.handle_answer(now).is_some()
            && let Some(rtt) = self.heartbeat.rtt()
        {
            self.outlet.rtt.store(u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1), Ordering::Relaxed);
        }
    }

    fn receive_close(&mut self, now: Time, received: Option<(u16, String)>) {
        self.outlet.trace(|| match &received {
            Some((code, reason)) => format!("received close {code} {reason:?}"),
            None => "received close without a status".to_owned(),
        });
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Open => {
                // RFC 6455 section 5.5.1: answer with the status received.
                self.outlet
                    .writer
                    .lock()
                    .set_close(received.as_ref().map_or_else(Bytes::new, |(code, _)| close_payload(*code, "")));
                let (code, reason) = received.unwrap_or((close::NO_STATUS, String::new()));
                self.finish(now, &End { code, reason, clean: true });
            }
            Phase::Closing { end, .. } => self.finish(now, &End { clean: true, ..*end }),
            other => self.phase = other,
        }
        if let Phase::Lingering { quiet, .. } = &mut self.phase {
            *quiet = true;
        }
    }

    /// RFC 6455 section 7.1.1: the server closes first. Behind a peer's close frame nothing may come, so a
    /// plain socket need not be drained; TLS still says goodbye, and so does who has forked.
    fn may_leave(&self) -> bool {
        self.outlet.context.role == Role::Server && matches!(self.stream, Stream::Plain(_)) && !stream::is_inherited()
    }

    /// The peer broke the protocol or a limit: tell it why and end (RFC 6455 section 7.1.7), but first
    /// let the application answer what came before.
    fn fail(&mut self, now: Time, violation: &Violation) {
        if matches!(self.phase, Phase::Open) {
            // With `Outlet::consumed`: either we see nothing waiting or it sees us paused.
            self.outlet.paused.store(true, Ordering::SeqCst);
            self.phase = Phase::Failing { until: now + LINGER, violation: Box::new(violation.clone()) };
        } else {
            self.fail_now(now, violation);
        }
    }

    /// Ends a failing connection once the application has nothing of it left and its answers are sent.
    fn fail_when_answered(&mut self, now: Time, task: &mut TaskContext<'_>) {
        if self.outlet.inbound.load(Ordering::SeqCst) > 0 {
            return;
        }
        self.write(now, false, task);
        if let Phase::Failing { violation, .. } = &self.phase
            && !self.outlet.writer.lock().is_blocked()
        {
            let violation = violation.clone();
            self.fail_now(now, &violation);
        }
    }

    fn fail_now(&mut self, now: Time, violation: &Violation) {
        if !matches!(self.phase, Phase::Open | Phase::Failing { .. } | Phase::Closing { .. }) {
            return;
        }
        let kind = if matches!(violation.code, 1008 | 1009) { FailureKind::Limit } else { FailureKind::Protocol };
        if matches!(self.phase, Phase::Open | Phase::Failing { .. }) {
            let failure = Failure { kind, message: violation.reason.to_owned(), code: violation.code };
            emit(
                &self.outlet,
                Event::Failure {
                    endpoint: self.outlet.endpoint(),
                    conn: Some(self.outlet.id),
                    failure: Box::new(failure),
                },
            );
        }
        self.outlet.writer.lock().set_close(close_payload(violation.code, violation.reason));
        self.finish(now, &End { code: violation.code, reason: violation.reason.to_owned(), clean: false });
    }

    /// End of stream or error without a close frame.
    fn lost(&mut self, now: Time, reason: &str) {
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Open => self.finish(now, &End { code: close::ABNORMAL, reason: reason.to_owned(), clean: false }),
            Phase::Failing { violation, .. } => {
                self.phase = Phase::Failing { until: now, violation: violation.clone() };
                self.fail_now(now, &violation);
            }
            Phase::Closing { end, .. } => self.finish(now, &End { clean: false, ..*end }),
            Phase::Lingering { .. } | Phase::Done => {}
        }
        self.phase = Phase::Done;
    }

    fn handle_eof(&mut self, now: Time) {
        if let Phase::Lingering { ended, .. } = &mut self.phase {
            *ended = true;
            return;
        }
        self.lost(now, "the peer ended the stream without a close frame");
    }

    /// The application or a rule has asked for the end.
    fn begin_ending(&mut self, now: Time) {
        let ending = self.outlet.queue.lock().ending.clone();
        match ending.map(|ending| *ending) {
            Some(Ending::Abort { code, reason }) => {
                if matches!(self.phase, Phase::Open | Phase::Failing { .. } | Phase::Closing { .. }) {
                    self.cut(now, &End { code, reason, clean: false });
                } else {
                    self.phase = Phase::Done;
                }
            }
            Some(Ending::Close { code, reason, .. }) => self.close_phase(now, code, reason),
            None => {}
        }
    }

    /// A rule of ours ends an open connection with a close frame.
    fn end_open(&mut self, now: Time, code: u16, reason: &str) {
        self.outlet.end(Ending::of_ours(&self.outlet, code, reason));
        self.outlet.take_ending_news();
        self.close_phase(now, code, reason.to_owned());
    }

    fn close_phase(&mut self, now: Time, code: u16, reason: String) {
        if matches!(self.phase, Phase::Open) {
            self.outlet.set_closing();
            let timeout = self.outlet.context.limits.handshake_timeout;
            // Who has said nothing within this time is not given it once more.
            let silent = code == close::BAD_PROTOCOL && self.outlet.is_lifeline() && !self.outlet.is_announced();
            let until = now + if silent { LINGER.min(timeout / 4) } else { timeout };
            self.phase = Phase::Closing { until, end: Box::new(End { code, reason, clean: false }) };
        }
    }

    /// Ends without a word: the link is dead or the application wants it gone.
    fn cut(&mut self, now: Time, end: &End) {
        self.stream.abort();
        self.finish(now, end);
        self.phase = Phase::Done;
    }

    fn handle_deadlines(&mut self, now: Time) {
        match &self.phase {
            Phase::Open => {}
            Phase::Failing { until, violation } => {
                if now >= *until {
                    let violation = violation.clone();
                    self.fail_now(now, &violation);
                }
                return;
            }
            Phase::Closing { until, end } => {
                if now >= *until {
                    let end = end.clone();
                    if self.outlet.writer.lock().is_blocked() {
                        return self.cut(now, &end);
                    }
                    // It has our close frame and does not answer: a reset could still take that away.
                    self.finish(now, &end);
                    self.phase = Phase::Done;
                    return;
                }
            }
            Phase::Lingering { .. } | Phase::Done => return,
        }
        self.beat_if_due(now);
        if let (Phase::Open, Some(timeout)) = (&self.phase, self.outlet.context.idle_timeout) {
            let last = Time::from_micros(self.outlet.last_message.load(Ordering::Relaxed));
            if now - last >= timeout {
                self.end_open(now, close::IDLE, "idle: no message for idle.timeout");
            }
        }
    }

    fn beat_if_due(&mut self, now: Time) {
        let link = Link {
            last_received: self.last_received,
            write_stalled_since: Some(self.stalled_since).filter(|since| *since > Time::ZERO),
            reads_paused: self.rest != Rest::No,
            unconfirmed: self.outlet.is_lifeline() && self.owner.awaits_confirmation(),
        };
        while let Some(action) = self.heartbeat.handle_timeout(now, &link) {
            match action {
                Action::Beat => {
                    // Idle for an interval: what the last messages needed is not needed now.
                    {
                        let mut queue = self.outlet.queue.lock();
                        if queue.items.is_empty() {
                            queue.items = std::collections::VecDeque::new();
                        }
                    }
                    self.beat_number = self.beat_number.wrapping_add(1).max(1);
                    self.outlet.counters.beats.fetch_add(1, Ordering::Relaxed);
                    match &self.outlet.context.beats.message {
                        _ if self.outlet.is_lifeline() => {
                            let beat = ClientFrame::Beat(u64::from(self.beat_number)).encode();
                            self.outlet.writer.lock().set_beat(Opcode::Text, beat.data);
                        }
                        None => {
                            self.outlet
                                .writer
                                .lock()
                                .set_beat(Opcode::Ping, Bytes::copy_from_slice(&self.beat_number.to_be_bytes()));
                        }
                        Some(text) => {
                            self.outlet.writer.lock().set_beat(Opcode::Text, Bytes::copy_from_slice(text.as_bytes()));
                        }
                    }
                }
                Action::Dead => {
                    let end = match std::mem::replace(&mut self.phase, Phase::Done) {
                        Phase::Closing { end, .. } => *end,
                        _ => End { code: close::NO_PONG, reason: "no answer to heartbeats".to_owned(), clean: false },
                    };
                    self.cut(now, &end);
                    return;
                }
            }
        }
    }

    /// `last`: the socket is closed as soon as all is written.
    fn write(&mut self, now: Time, last: bool, task: &mut TaskContext<'_>) {
        let role = self.outlet.context.role;
        // The lock ends with the statement: what follows may want it.
        let written = self.outlet.writer.lock().poll(&mut self.stream, &self.outlet, role, last, task);
        self.outlet.counters.bytes_out.fetch_add(written.bytes, Ordering::Relaxed);
        let stalled = self.stalled_since > Time::ZERO;
        if written.blocked != stalled {
            self.outlet.blocked.store(written.blocked, Ordering::Relaxed);
        }
        if !written.blocked {
            self.stalled_since = Time::ZERO;
        } else if written.progress || !stalled {
            self.stalled_since = now;
        }
        if written.beat {
            self.heartbeat.handle_beat_written(clock::now());
        }
        // Also before a failure: what has left must not be sent again.
        if written.sequence > 0 {
            self.owner.handle_written(written.sequence);
        }
        if let Some(error) = written.failed {
            return self.lost(now, &error.to_string());
        }
        // Without progress too: what was refused while the last bytes left would wait for ever.
        if (written.progress || !written.blocked) && self.outlet.congested.load(Ordering::Relaxed) {
            self.report_drain();
        }
    }

    fn report_drain(&self) {
        let outlet = &self.outlet;
        if outlet.waiting_bytes() <= outlet.context.send.limit / 4
            && outlet.congested.swap(false, Ordering::Relaxed)
            && matches!(self.phase, Phase::Open)
        {
            emit(outlet, Event::Drain { endpoint: outlet.endpoint(), conn: outlet.id });
        }
    }

    /// Sends the rest, shuts our side down, and waits for the peer's end of stream, so that a reset does
    /// not destroy our close frame on its way; at once where `last` says that nothing is on its way to us.
    fn linger(&mut self, now: Time, until: Time, last: bool, task: &mut TaskContext<'_>) {
        if now >= until {
            self.phase = Phase::Done;
            return;
        }
        if self.outlet.writer.lock().is_blocked() {
            return;
        }
        if last {
            self.phase = Phase::Done;
            return;
        }
        if let Phase::Lingering { shut: shut @ false, ended, .. } = &mut self.phase {
            match self.stream.poll_shutdown(task) {
                Poll::Ready(Ok(())) if !*ended => *shut = true,
                Poll::Ready(_) => self.phase = Phase::Done,
                Poll::Pending => {}
            }
        } else if matches!(self.phase, Phase::Lingering { ended: true, .. }) {
            self.phase = Phase::Done;
        }
    }

    /// Reports the end, once. Afterwards the task only lingers.
    fn finish(&mut self, now: Time, end: &End) {
        if self.outlet.is_closed() {
            return;
        }
        self.outlet.set_closed();
        self.outlet.trace(|| format!("ended: {} {:?}, clean: {}", end.code, end.reason, end.clean));
        {
            let mut queue = self.outlet.queue.lock();
            for item in std::mem::take(&mut queue.items) {
                self.outlet.release(&item);
            }
            // A close frame of the queue's own would come too late.
            queue.ending.get_or_insert_with(|| Box::new(Ending::Abort { code: end.code, reason: String::new() }));
        }
        self.owner.handle_leaving(&self.outlet, end);
        if self.outlet.is_announced() {
            let (endpoint, conn) = (self.outlet.endpoint(), self.outlet.id);
            let reason = end.reason.as_str().into();
            emit(&self.outlet, Event::Close { endpoint, conn, code: end.code, reason, clean: end.clean });
        }
        self.owner.handle_closed(&self.outlet, end);
        self.phase = Phase::Lingering { until: now + LINGER, shut: false, quiet: false, ended: false };
    }

    fn arm(&mut self, now: Time) {
        let mut next = match &self.phase {
            Phase::Open => self.heartbeat.poll_timeout(),
            Phase::Closing { until, .. } => Some(self.heartbeat.poll_timeout().map_or(*until, |at| at.min(*until))),
            Phase::Failing { until, .. } | Phase::Lingering { until, .. } => Some(*until),
            Phase::Done => None,
        };
        let mut consider = |at: Time| next = Some(next.map_or(at, |next| next.min(at)));
        if let (Phase::Open, Some(timeout)) = (&self.phase, self.outlet.context.idle_timeout) {
            consider(Time::from_micros(self.outlet.last_message.load(Ordering::Relaxed)) + timeout);
        }
        if let Rest::Rate(until) | Rest::Memory(until, _) = self.rest {
            consider(until);
        }
        self.outlet.shard.arm(&self.outlet, next, now);
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        let done = self.turn(task);
        self.outlet.context.events.end_turn();
        done
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Dropped with its runtime or by a panic: still say that it ended.
        if !self.outlet.is_closed() {
            let panicked = std::thread::panicking();
            let reason =
                if panicked { "internal error: the connection's task panicked" } else { "the runtime stopped" };
            let end = End { code: close::ABNORMAL, reason: reason.to_owned(), clean: false };
            self.finish(clock::now(), &end);
        }
        self.outlet.writer.lock().clear(&self.outlet);
        self.outlet.unregister();
        self.outlet.context.memory.release(self.partial);
        self.outlet.shard.leave(&self.outlet);
    }
}

fn emit(outlet: &Outlet, event: Event) {
    outlet.context.events.push(event);
}
