//! The part of a connection that the application's thread and other connections may touch: its
//! queue of what is to be sent, and what can be known about it from outside its task.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use lifeline_handoff::Mark;
use lifeline_proto::deflate::Agreement;
use lifeline_proto::{Time, close};
use parking_lot::Mutex;

use crate::alarm::Alarm;
use crate::bridge::{ConnId, EndpointId, Event, LogLevel, LogRecord, OpenInfo, Sent};
use crate::clock;
use crate::config::SlowConsumer;
use crate::context::Context;
use crate::deflate::Compression;
use crate::http::RequestHead;
use crate::memory::SharedFrame;
use crate::shard::Shard;
use crate::writer::Writer;

/// What a queued item costs beside its payload, in bytes.
const ITEM: usize = 64;

/// One thing to send.
#[derive(Debug)]
pub enum Item {
    /// A message of this connection alone. `sequence` is the client's outbox number, 0 on a server.
    Message {
        data: Bytes,
        binary: bool,
        sequence: u64,
    },
    /// A message of a session's stream; its header is made when it is written. Servers only. `acknowledged` is 0
    /// where there is nothing to acknowledge.
    Stream {
        sequence: u64,
        acknowledged: u64,
        data: Bytes,
        binary: bool,
    },
    /// A message that many connections send, encoded (servers only: clients mask).
    Shared(Arc<SharedFrame>),
    Ping(Bytes),
}

/// About what a stream's message has before its payload, in bytes.
const MESSAGE_HEADER: usize = 16;

impl Item {
    /// Bytes that count against `send.limit`.
    pub fn size(&self) -> usize {
        match self {
            Self::Message { data, .. } => data.len(),
            // Empty ones count, too.
            Self::Stream { data, .. } => data.len() + MESSAGE_HEADER,
            Self::Shared(frame) => frame.wire.len(),
            Self::Ping(payload) => payload.len(),
        }
    }

    /// Bytes that count against `limits.memory` for this connection.
    pub fn charge(&self) -> usize {
        match self {
            Self::Message { data, .. } | Self::Stream { data, .. } => data.len() + ITEM,
            Self::Shared(_) | Self::Ping(_) => ITEM,
        }
    }
}

/// How a connection is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Send what is queued, then a close frame with status `wire`; report `code`.
    Close { code: u16, wire: u16, reason: String },
    /// Drop the socket and report `code`; nothing on the wire.
    Abort { code: u16, reason: String },
}

impl Ending {
    /// A close for a reason of ours: reported as lifeline's code, told a plain peer as a standard one.
    pub fn of_ours(outlet: &Outlet, code: u16, reason: impl Into<String>) -> Self {
        let wire = if outlet.is_lifeline() { code } else { close::to_plain(code) };
        Self::Close { code, wire, reason: reason.into() }
    }
}

/// What is shared under the lock.
#[derive(Debug, Default)]
pub struct Queue {
    pub items: VecDeque<Item>,
    pub ending: Option<Box<Ending>>,
}

/// Which channels a connection is in and whose it is; none for most.
#[derive(Debug, Default)]
pub struct Membership {
    pub channels: Vec<Arc<str>>,
    pub user: Option<Arc<str>>,
}

/// How far a burst may pass `send.limit` while the socket has not refused anything yet: what a callback
/// sends in one go is not a slow peer's fault.
const BURST: usize = 8;

/// What a connection costs beside its messages and its request's head, in bytes: an estimate.
const BASE: usize = 1024;

const OPEN: u8 = 0;
const CLOSING: u8 = 1;
const CLOSED: u8 = 2;

/// Counters of one connection, since it opened.
#[derive(Debug, Default)]
pub struct Counters {
    pub messages_in: AtomicU64,
    pub messages_out: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub beats: AtomicU64,
    pub dropped: AtomicU64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Outlet {
    pub id: ConnId,
    pub shard: Arc<Shard>,
    pub context: Arc<Context>,
    pub queue: Mutex<Queue>,
    /// What is being written. Locked before the queue.
    pub writer: Mutex<Writer>,
    pub membership: Mutex<Option<Box<Membership>>>,
    /// Bytes queued and not yet given to the kernel.
    pub buffered: AtomicUsize,
    /// What of them counts against `limits.memory`: less, where many share them.
    charged: AtomicUsize,
    /// Bytes of messages that the application has not finished with.
    pub inbound: AtomicUsize,
    pub counters: Counters,
    /// When the last application message came or went, in microseconds.
    pub last_message: AtomicU64,
    pub opened: Time,
    /// Smoothed round-trip time in microseconds; 0: not measured.
    pub rtt: AtomicU32,
    /// Where its task is among those of its shard.
    pub place: AtomicU32,
    pub tracing: AtomicBool,
    state: AtomicU8,
    waker: AtomicWaker,
    /// Already in the list of the next flush.
    posted: Mark,
    task_wanted: AtomicBool,
    pub alarm: Alarm,
    timer: AtomicBool,
    probe: AtomicBool,
    /// Reads stopped at `limits.inbound`.
    pub paused: AtomicBool,
    /// The socket took less than it was given.
    pub blocked: AtomicBool,
    /// The high mark was passed, or something was dropped: tell when it has drained.
    pub congested: AtomicBool,
    /// `Queue::ending` was set and the task has not seen it.
    ending_news: AtomicBool,
    /// Charged against `limits.memory` for the connection itself.
    base_charge: u32,
    /// What it was opened with; a client's has none.
    request: Option<Arc<RequestHead>>,
    /// permessage-deflate, where it was agreed on.
    compression: Option<Box<Compression>>,
    /// Speaks `lifeline.v1`.
    lifeline: bool,
    /// The application knows of it.
    announced: AtomicBool,
    /// It was announced, and the task has not seen it.
    announcement: AtomicBool,
}

impl Outlet {
    /// `head` is the size of the request that is kept for the application.
    pub fn new(id: ConnId, shard: Arc<Shard>, context: Arc<Context>, head: usize) -> Self {
        let now = clock::now();
        let base_charge = u32::try_from(BASE + head).unwrap_or(u32::MAX);
        context.memory.charge(base_charge as usize);
        context.memory.add_holder();
        Self {
            id,
            shard,
            context,
            queue: Mutex::default(),
            writer: Mutex::default(),
            membership: Mutex::default(),
            buffered: AtomicUsize::new(0),
            charged: AtomicUsize::new(0),
            inbound: AtomicUsize::new(0),
            counters: Counters::default(),
            last_message: AtomicU64::new(now.as_micros()),
            opened: now,
            rtt: AtomicU32::new(0),
            place: AtomicU32::new(0),
            tracing: AtomicBool::new(false),
            state: AtomicU8::new(OPEN),
            waker: AtomicWaker::new(),
            posted: Mark::default(),
            task_wanted: AtomicBool::new(false),
            alarm: Alarm::default(),
            timer: AtomicBool::new(false),
            probe: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            congested: AtomicBool::new(false),
            ending_news: AtomicBool::new(false),
            base_charge,
            request: None,
            compression: None,
            lifeline: false,
            announced: AtomicBool::new(false),
            announcement: AtomicBool::new(false),
        }
    }

    /// Of a connection that speaks `lifeline.v1`: its owner gets the messages, and announces it when its
    /// session is there.
    pub fn with_lifeline(mut self) -> Self {
        self.lifeline = true;
        self
    }

    /// Of a server's connection.
    pub fn with_request(mut self, request: Arc<RequestHead>) -> Self {
        self.request = Some(request);
        self
    }

    pub fn request(&self) -> Option<&Arc<RequestHead>> {
        self.request.as_ref()
    }

    /// What it costs in `limits.memory` by itself, and by what it alone has to send.
    pub fn charges(&self) -> (usize, usize) {
        (self.base_charge as usize, self.charged.load(Ordering::Relaxed))
    }

    /// permessage-deflate was agreed on. What it keeps from message to message is charged at once.
    pub fn with_compression(mut self, agreement: Option<Agreement>) -> Self {
        if let (Some(agreement), Some(config)) = (agreement, self.context.compression) {
            let kept = Compression::kept_size(agreement, self.context.role);
            self.context.memory.charge(kept);
            self.base_charge += u32::try_from(kept).unwrap_or(u32::MAX);
            self.compression = Some(Box::new(Compression::new(agreement, self.context.role, config)));
        }
        self
    }

    pub fn compression(&self) -> Option<&Compression> {
        self.compression.as_deref()
    }

    pub fn is_lifeline(&self) -> bool {
        self.lifeline
    }

    pub fn endpoint(&self) -> EndpointId {
        self.context.endpoint
    }

    /// Tells the application that the connection is open; its end will be told, too.
    pub fn announce(&self, info: OpenInfo) {
        self.announced.store(true, Ordering::Release);
        self.announcement.store(true, Ordering::Release);
        let event = Event::Open { endpoint: self.endpoint(), conn: self.id, info: Box::new(info) };
        self.context.events.push(event);
    }

    pub fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Acquire)
    }

    /// Its end is told by the caller; true when it was announced and its end was not told.
    pub fn retract(&self) -> bool {
        self.announced.swap(false, Ordering::AcqRel)
    }

    /// True once after it was announced.
    pub fn take_announcement(&self) -> bool {
        self.announcement.load(Ordering::Relaxed) && self.announcement.swap(false, Ordering::AcqRel)
    }

    /// Takes what the session wants to be sent next, see [`crate::sessions::Sessions::refill`]; false when there is
    /// more than there was room for.
    pub fn refill(&self, write: impl FnMut(u64, u64, &Bytes, bool) -> bool) -> bool {
        match &self.context.sessions {
            Some(sessions) if self.lifeline => !sessions.refill(self, write),
            _ => true,
        }
    }

    /// `count` messages of a stream are being written that were never queued, with payloads of `bytes`; returns what
    /// to release later.
    pub fn add_streamed(&self, count: usize, bytes: usize) -> (usize, usize) {
        let (size, charge) = (bytes + count * MESSAGE_HEADER, bytes + count * ITEM);
        self.context.memory.charge(charge);
        self.charged.fetch_add(charge, Ordering::Relaxed);
        self.buffered.fetch_add(size, Ordering::Relaxed);
        (size, charge)
    }

    /// Queues what was measured out by who calls: no limit holds for it.
    pub fn put(&self, item: Item) {
        let (size, charge) = (item.size(), item.charge());
        let mut queue = self.queue.lock();
        self.context.memory.charge(charge);
        self.charged.fetch_add(charge, Ordering::Relaxed);
        self.buffered.fetch_add(size, Ordering::Relaxed);
        queue.items.push_back(item);
    }

    /// Bytes that wait, also those that are still with the session.
    pub fn waiting_bytes(&self) -> usize {
        let unsent = match &self.context.sessions {
            Some(sessions) if self.lifeline => sessions.unsent_bytes(self),
            _ => 0,
        };
        self.buffered.load(Ordering::Relaxed) + unsent
    }

    /// Takes a message under the slow-consumer policy. The caller posts the outlet to its shard when
    /// this returns [`Sent::Queued`] or has closed it.
    pub fn push(&self, item: Item) -> Sent {
        if !self.is_open() {
            return Sent::Closed;
        }
        let size = item.size();
        let send = &self.context.send;
        let mut queue = self.queue.lock();
        if queue.ending.is_some() {
            return Sent::Closed;
        }
        let charge = item.charge();
        if let Some(limit) = self.broken_limit(&queue, size, charge) {
            self.congested.store(true, Ordering::Relaxed);
            match send.policy {
                SlowConsumer::DropNewest => {
                    self.counters.dropped.fetch_add(1, Ordering::Relaxed);
                    return Sent::Dropped;
                }
                SlowConsumer::DropOldest => {
                    while self.broken_limit(&queue, size, charge).is_some() {
                        let Some(oldest) = queue.items.pop_front() else { break };
                        self.release(&oldest);
                        self.counters.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    if self.broken_limit(&queue, size, charge).is_some() {
                        // What is left is already being written.
                        self.counters.dropped.fetch_add(1, Ordering::Relaxed);
                        return Sent::Dropped;
                    }
                }
                SlowConsumer::Close => {
                    for item in std::mem::take(&mut queue.items) {
                        self.release(&item);
                    }
                    let reason = format!("slow consumer: more than {limit} bytes waiting");
                    queue.ending = Some(Box::new(Ending::of_ours(self, close::SLOW_CONSUMER, reason)));
                    self.ending_news.store(true, Ordering::Release);
                    self.counters.dropped.fetch_add(1, Ordering::Relaxed);
                    return Sent::Dropped;
                }
            }
        }
        self.context.memory.charge(charge);
        self.charged.fetch_add(charge, Ordering::Relaxed);
        let buffered = self.buffered.fetch_add(size, Ordering::Relaxed) + size;
        if buffered > send.limit / 2 {
            self.congested.store(true, Ordering::Relaxed);
        }
        if !matches!(item, Item::Ping(_)) {
            self.counters.messages_out.fetch_add(1, Ordering::Relaxed);
        }
        queue.items.push_back(item);
        Sent::Queued
    }

    /// An application message comes or goes: the connection is not idle.
    pub fn count_message(&self, now: Time) {
        self.last_message.store(now.as_micros(), Ordering::Relaxed);
    }

    /// Begins the end; the first call wins, except that an abort overrides a close.
    pub fn end(&self, ending: Ending) {
        let mut queue = self.queue.lock();
        let aborts = matches!(ending, Ending::Abort { .. });
        if queue.ending.is_none() || aborts {
            queue.ending = Some(Box::new(ending));
        }
        if aborts {
            for item in std::mem::take(&mut queue.items) {
                self.release(&item);
            }
        }
        self.ending_news.store(true, Ordering::Release);
    }

    /// True once after the ending was set or changed.
    pub fn take_ending_news(&self) -> bool {
        self.ending_news.load(Ordering::Relaxed) && self.ending_news.swap(false, Ordering::AcqRel)
    }

    /// The item has left the queue for good: dropped, or the connection ended.
    pub fn release(&self, item: &Item) {
        self.release_sizes(item.size(), item.charge());
    }

    /// As [`Outlet::release`], for an item that was written.
    pub fn release_sizes(&self, size: usize, charge: usize) {
        self.buffered.fetch_sub(size, Ordering::Relaxed);
        self.charged.fetch_sub(charge, Ordering::Relaxed);
        self.context.memory.release(charge);
    }

    /// A message of `charge` bytes waits for the application now.
    pub fn add_inbound(&self, charge: usize) -> usize {
        self.context.memory.charge(charge);
        self.inbound.fetch_add(charge, Ordering::AcqRel) + charge
    }

    /// The application is through with `bytes` of messages; true when the task must be woken to read on.
    pub fn consumed(&self, bytes: usize) -> bool {
        self.context.memory.release(bytes);
        let before = self.inbound.fetch_sub(bytes, Ordering::SeqCst);
        let left = before.saturating_sub(bytes);
        left <= self.context.limits.inbound / 2 && self.paused.load(Ordering::SeqCst)
    }

    /// The limit that one more item would break. One item larger than the limit still passes when
    /// nothing waits before it.
    fn broken_limit(&self, queue: &Queue, size: usize, charge: usize) -> Option<usize> {
        let buffered = self.buffered.load(Ordering::Relaxed);
        let limit = self.context.send.limit;
        // A client's: its outbox is the limit.
        if buffered == 0 || limit == usize::MAX {
            return None;
        }
        let limit = if self.blocked.load(Ordering::Relaxed) { limit } else { limit.saturating_mul(BURST) };
        if buffered + size > limit {
            return Some(limit);
        }
        let memory = &self.context.memory;
        (memory.is_over() && self.cost(queue) + charge > memory.share()).then(|| memory.share())
    }

    /// What waits here costs the process. News for all must not cost those their place who read them a
    /// little later: shared frames count only where they are what fills the memory, and each in equal
    /// parts for all that still hold it.
    fn cost(&self, queue: &Queue) -> usize {
        /// Of a long queue only so many are looked at.
        const SAMPLES: usize = 32;
        let own = self.charged.load(Ordering::Relaxed);
        if !self.context.memory.is_over_shared() {
            return own;
        }
        let step = queue.items.len() / SAMPLES + 1;
        let part = |item: &Item| match item {
            Item::Shared(frame) => frame.wire.len() / Arc::strong_count(frame),
            Item::Message { .. } | Item::Stream { .. } | Item::Ping(_) => 0,
        };
        own + step * queue.items.iter().step_by(step).map(part).sum::<usize>()
    }

    pub fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) == OPEN
    }

    pub fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    pub fn set_closing(&self) {
        let _ = self.state.compare_exchange(OPEN, CLOSING, Ordering::AcqRel, Ordering::Relaxed);
    }

    pub fn set_closed(&self) {
        self.state.store(CLOSED, Ordering::Release);
    }

    pub fn round_trip(&self) -> Option<Duration> {
        match self.rtt.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros.into())),
        }
    }

    /// Tells the application's logger, at level debug and whatever `logLevel` is, when tracing is on.
    pub fn trace(&self, message: impl FnOnce() -> String) {
        if self.tracing.load(Ordering::Relaxed) {
            let context = vec![("connection", self.id.0.to_string())];
            let context = context.into_iter().map(|(name, value)| (name.into(), value)).collect();
            let record = LogRecord { level: LogLevel::Debug, message: message(), context };
            self.context.events.push(Event::Log { endpoint: Some(self.endpoint()), record: Box::new(record) });
        }
    }

    /// Marks it for the next flush; true when it was not marked yet.
    pub fn mark(&self) -> bool {
        self.posted.set()
    }

    /// The task has more to do than to write.
    pub fn want_task(&self) {
        self.task_wanted.store(true, Ordering::Release);
    }

    /// Writes what is queued from the calling thread, if that takes no waiting and nothing else is to be
    /// done; false: wake the task.
    pub fn write_now(&self) -> bool {
        if self.task_wanted.load(Ordering::Acquire) {
            return false;
        }
        // Busy with the task's own writing: it takes our items along, or finds them when woken.
        let Some(mut writer) = self.writer.try_lock() else { return false };
        // From here on a new mark posts it again.
        self.posted.clear();
        let done = writer.write_now(self);
        drop(writer);
        done || {
            self.posted.keep();
            false
        }
    }

    /// Writes a message from the calling thread. None: it has to be queued. `Some(false)`: the task is to
    /// be woken, for what the socket did not take.
    pub fn send_now(&self, data: &[u8], binary: bool) -> Option<bool> {
        if !self.is_open() || self.task_wanted.load(Ordering::Acquire) || self.congested.load(Ordering::Relaxed) {
            return None;
        }
        let mut writer = self.writer.try_lock()?;
        if !writer.send_now(self, data, binary) {
            return None;
        }
        self.counters.messages_out.fetch_add(1, Ordering::Relaxed);
        Some(!writer.is_blocked())
    }

    /// A message of `size` bytes is being written that was never queued; returns what to release later.
    pub fn add_written(&self, size: usize) -> (usize, usize) {
        let charge = size + ITEM;
        self.context.memory.charge(charge);
        self.charged.fetch_add(charge, Ordering::Relaxed);
        if self.buffered.fetch_add(size, Ordering::Relaxed) + size > self.context.send.limit / 2 {
            self.congested.store(true, Ordering::Relaxed);
        }
        (size, charge)
    }

    /// Called by the pump: there is mail.
    pub fn wake_mail(&self) {
        // Acquires: the task that is woken sees why it was wanted.
        self.task_wanted.swap(false, Ordering::AcqRel);
        self.posted.take();
        self.waker.wake();
    }

    /// Called by the pump: a deadline has come.
    pub fn wake_timer(&self) {
        self.timer.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// The clock jumped, or somebody asked whether the link lives: probe it.
    pub fn wake_probe(&self) {
        self.probe.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub fn take_timer(&self) -> bool {
        self.timer.load(Ordering::Relaxed) && self.timer.swap(false, Ordering::AcqRel)
    }

    pub fn take_probe(&self) -> bool {
        self.probe.load(Ordering::Relaxed) && self.probe.swap(false, Ordering::AcqRel)
    }

    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// The task has ended: nobody keeps what would wake it.
    pub fn unregister(&self) {
        drop(self.waker.take());
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        // What never left the queue no longer counts, nor do messages that nobody took.
        let queue = std::mem::take(self.queue.get_mut());
        for item in &queue.items {
            self.context.memory.release(item.charge());
        }
        self.context.memory.release(*self.inbound.get_mut() + self.base_charge as usize);
        self.context.memory.remove_holder();
    }
}
