//! The client's driver: carries out what [`ClientMachine`] decides.
//!
//! Each client has a task on one shard that dials and sleeps; its connection is a task of the same
//! shard. What the application sends goes into the outbox, and from there into the connection's queue
//! in portions, so that the outbox's limits mean something. All inputs meet under one short lock,
//! whoever brings them, and what follows from them is told to the application before it is released.

mod documents;
pub(crate) mod durable;
mod outbox;
pub(crate) mod saved;
mod session;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use lifeline_proto::Time;
use lifeline_proto::client::{ClientMachine, DialFailure, Output, ReconnectPolicy, State};
use lifeline_proto::frame::Role;
use lifeline_proto::outbox::Item as Kept;
use lifeline_proto::outbox::OutboxConfig;
use lifeline_proto::v1::Secret;
use lifeline_proto::v1::client::Delivered;
use lifeline_proto::v1::wire::PROTOCOL;
use lifeline_store::StoreError;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::bridge::{
    CommandError, EndpointId, Event, Failure, FailureKind, LogLevel, OpenInfo, OverflowReason, Reply, Sent, Stat,
    Stats, Ticket, Transition,
};
use crate::clock;
use crate::config::{ClientConfig, ClientUrl, ListenAddress, SendConfig, SlowConsumer, Storage};
use crate::connection::Connection;
use crate::context::{Context, End, Owner, Upshot};
use crate::core::{Core, Endpoint};
use crate::deflate;
use crate::dial::{ClientTlsConfig, DialError, DialRequest, Dialed, ProxyRules, check_headers, dial};
use crate::outlet::{Ending, Item, Outlet};
use crate::shard::Shard;

use self::documents::Documents;
use self::durable::{Durable, Found, Work};
use self::outbox::{Outbox, Refusal};
use self::session::Session;
use crate::keeper::Tend;

/// Bytes of the outbox that are in the connection's queue at a time.
const WINDOW: usize = 256 * 1024;
/// Messages given up that may wait to be reported, and their bytes (or `outbox.bytes`, if that is more):
/// who sends in a loop and never takes events must not fill memory with what was dropped.
const UNREPORTED: usize = 4096;
const UNREPORTED_BYTES: usize = 1024 * 1024;
/// How long the application may take to supply headers or a token.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a new client waits for an outbox that this process has.
const LAST_ACTS: Duration = Duration::from_millis(500);
/// How long the previous socket may still wait for its peer's end before it is dropped for the next.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A client.
#[derive(Debug)]
pub struct Client {
    id: EndpointId,
    config: ClientConfig,
    tls: Option<ClientTlsConfig>,
    proxy: ProxyRules,
    context: Arc<Context>,
    core: Weak<Core>,
    shard: Arc<Shard>,
    inner: Mutex<Inner>,
    /// Tells the task that there is something new for it.
    news: Notify,
    counters: Counters,
    /// `Event::Overflow`s that the application has not taken, and the bytes of their messages.
    unreported: AtomicUsize,
    unreported_bytes: AtomicUsize,
    created: Time,
    /// The keeper was asked to come.
    tending: AtomicBool,
    /// The disk's failure was told.
    disk_failed: AtomicBool,
    myself: Weak<Self>,
}

/// Sums over all connections that have ended.
#[derive(Debug, Default)]
struct Counters {
    attempts: AtomicU64,
    failed_attempts: AtomicU64,
    connections: AtomicU64,
    messages_in: AtomicU64,
    messages_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    beats: AtomicU64,
    overflows: AtomicU64,
    deflate: deflate::Counters,
}

#[derive(Debug)]
struct Inner {
    machine: ClientMachine,
    outbox: Box<dyn Outbox>,
    session: Session,
    documents: Documents,
    /// Of the outbox, against `limits.memory`.
    charged: usize,
    /// The open connection.
    outlet: Option<Arc<Outlet>>,
    /// The latest connection's task, which may outlive its link by a moment.
    task: Option<JoinHandle<()>>,
    /// The dial that is to be under way.
    dial: Option<DialOrder>,
    /// The latest order's number.
    orders: u64,
    question: Option<(Ticket, oneshot::Sender<Result<Answer, String>>)>,
    /// What the task sleeps towards; zero while it is awake.
    planned: Time,
    /// Somebody waits for [`Event::Flushed`].
    flushing: bool,
    /// Somebody waits for room for so many bytes.
    wanting: Option<usize>,
    /// The outbox was more than half full: tell when it has drained.
    congested: bool,
    /// The server that was dialed last, as people name it.
    place: String,
    /// It has ended a connection, and none was dialed since.
    lost: bool,
    /// Cut without a word instead of closing.
    discarded: bool,
    ended: bool,
}

type Headers = Vec<(String, String)>;

/// The application's, to an attempt.
#[derive(Debug)]
enum Answer {
    Headers(Headers),
    Token(Secret),
}

#[derive(Debug, Clone, Copy)]
struct DialOrder {
    number: u64,
    attempt: u32,
    url: usize,
    fresh_credentials: bool,
}

type Dialing = Pin<Box<dyn Future<Output = Result<Dialed, DialError>> + Send>>;

impl Client {
    /// Makes a client and its task.
    ///
    /// # Errors
    /// Names the header, file or option that cannot be used.
    pub fn create(core: &Arc<Core>, config: ClientConfig) -> Result<EndpointId, CommandError> {
        if config.urls.is_empty() {
            return Err(CommandError::Invalid("a client needs at least one URL".to_owned()));
        }
        check_headers(&config.headers).map_err(CommandError::Invalid)?;
        let secure = |url: &ClientUrl| matches!(url.target, ListenAddress::Tcp { tls: true, .. });
        let tls = if config.urls.iter().any(secure) {
            Some(ClientTlsConfig::new(&config.tls).map_err(|error| CommandError::Start(error.to_string()))?)
        } else {
            None
        };
        let (outbox, found): (Box<dyn Outbox>, Found) = match &config.storage {
            None => (Box::new(outbox::Memory::new(config.outbox.clone())), Found::default()),
            Some(storage) => {
                let (outbox, found) = open_outbox(&config.outbox, storage)
                    .map_err(|error| CommandError::Storage(format!("outbox.path: {error}")))?;
                (Box::new(outbox), found)
            }
        };
        let id = core.next_endpoint_id();
        let context = Arc::new(Context {
            endpoint: id,
            role: Role::Client,
            rules: Arc::new(config.heartbeat.rules),
            beats: config.heartbeat.clone(),
            limits: config.limits.clone(),
            server_limits: None,
            idle_timeout: None,
            // The outbox is the limit.
            send: SendConfig { limit: usize::MAX, policy: SlowConsumer::Close },
            compression: config.compression,
            log_level: config.log_level,
            events: core.events.clone(),
            memory: core.memory.clone(),
            sessions: None,
        });
        let policy = ReconnectPolicy {
            backoff: config.reconnect.backoff.clone(),
            lazy: config.reconnect.lazy,
            terminal_codes: config.reconnect.terminal_codes.clone(),
            terminal_statuses: config.reconnect.terminal_statuses.clone(),
            urls: config.urls.len(),
        };
        let client = Arc::new_cyclic(|myself: &Weak<Self>| Self {
            id,
            tls,
            proxy: ProxyRules::new(&config.proxy),
            context,
            core: Arc::downgrade(core),
            shard: core.pick_shard(),
            inner: Mutex::new(Inner {
                machine: ClientMachine::new(policy, rand::random()),
                outbox,
                documents: Documents::default(),
                session: Session::new(&config, saved::decode(&found.session)),
                charged: 0,
                outlet: None,
                task: None,
                dial: None,
                orders: 0,
                question: None,
                planned: Time::ZERO,
                flushing: false,
                wanting: None,
                congested: false,
                discarded: false,
                place: String::new(),
                lost: false,
                ended: false,
            }),
            news: Notify::new(),
            counters: Counters::default(),
            unreported: AtomicUsize::new(0),
            unreported_bytes: AtomicUsize::new(0),
            created: clock::now(),
            tending: AtomicBool::new(false),
            disk_failed: AtomicBool::new(false),
            myself: myself.clone(),
            config,
        });
        core.add_endpoint(id, Endpoint::Client(client.clone()));
        for damage in found.damages {
            client.fail_storage(damage);
        }
        for (level, messages) in [(LogLevel::Warning, found.remarks), (LogLevel::Notice, found.notices)] {
            for message in messages {
                client.context.log(level, message, Vec::new());
            }
        }
        if client.config.storage.is_some() {
            core.keeper.register(client.myself.clone());
        }
        client.shard.handle.spawn(client.clone().run());
        Ok(id)
    }

    pub fn connect(&self) {
        self.with(|inner, now| {
            inner.machine.handle_connect(now);
            // Left by an earlier process.
            if inner.outbox.len() > 0 {
                inner.machine.handle_pending(now);
            }
        });
    }

    pub fn wake(&self) {
        self.with(|inner, now| inner.machine.handle_wake(now));
    }

    /// Into the outbox, and on to the connection as far as its queue has room.
    ///
    /// # Errors
    /// The outbox is full and its policy is `error`, or the client has closed.
    pub fn send(&self, data: Bytes, binary: bool, ttl: Option<Duration>) -> Result<Reply, CommandError> {
        let now = clock::now();
        let length = data.len();
        let mut inner = self.inner.lock();
        if inner.machine.state() == State::Closed {
            return Err(CommandError::Gone("the client".into()));
        }
        if self.has_too_much_to_report() {
            return Ok(Reply::DispatchFirst);
        }
        // Before the push, so that what has expired does not stand in the way.
        let expired = inner.expired(now);
        self.report(&mut inner, OverflowReason::Expired, expired);
        let outcome = match inner.outbox.push(now, data, binary, ttl) {
            Ok(outcome) => outcome,
            Err(Refusal::Wait) => {
                inner.wanting = Some(length);
                return Ok(Reply::WouldBlock);
            }
            Err(Refusal::Error(error)) => return Err(error),
        };
        self.report(&mut inner, OverflowReason::Limit, outcome.evicted);
        self.accept(inner, now, length)?;
        Ok(Reply::Sequence(outcome.sequence))
    }

    /// As [`Client::send`], for all or none; for as many as fit where the policy is to wait for room.
    ///
    /// # Errors
    /// See [`Client::send`].
    pub fn send_many(&self, messages: Vec<Bytes>, binary: bool) -> Result<Reply, CommandError> {
        let now = clock::now();
        let mut inner = self.inner.lock();
        if inner.machine.state() == State::Closed {
            return Err(CommandError::Gone("the client".into()));
        }
        let expired = inner.expired(now);
        self.report(&mut inner, OverflowReason::Expired, expired);
        let first = inner.outbox.last_sequence() + 1;
        let (mut taken, mut bytes, mut wait) = (0, 0, None);
        for data in messages {
            if self.has_too_much_to_report() {
                wait = Some(Reply::DispatchFirst);
                break;
            }
            let length = data.len();
            match inner.outbox.push(now, data, binary, None) {
                Ok(outcome) => {
                    taken += 1;
                    bytes += length;
                    self.report(&mut inner, OverflowReason::Limit, outcome.evicted);
                }
                Err(Refusal::Wait) => {
                    inner.wanting = Some(length);
                    wait = Some(Reply::WouldBlock);
                    break;
                }
                Err(Refusal::Error(error)) => {
                    inner.outbox.withdraw(first);
                    return Err(error);
                }
            }
        }
        if let (0, Some(wait)) = (taken, wait) {
            return Ok(wait);
        }
        let sequence = inner.outbox.last_sequence();
        self.accept(inner, now, bytes)?;
        Ok(Reply::Taken { count: taken, sequence })
    }

    /// Has what was pushed stored, and sends it.
    fn accept(&self, mut inner: MutexGuard<'_, Inner>, mut now: Time, length: usize) -> Result<(), CommandError> {
        if let Some(work) = inner.outbox.commit(now) {
            let result = MutexGuard::unlocked(&mut inner, || work.carry_out());
            now = clock::now();
            if let Err(error) = inner.outbox.handle_done(&work, &result) {
                self.settle(&mut inner, now);
                return Err(error);
            }
        }
        if inner.outlet.is_none() {
            inner.machine.handle_pending(now);
        }
        let fed = inner.feed(now, WINDOW);
        if inner.outlet.as_ref().is_some_and(|outlet| !outlet.is_lifeline()) {
            // On an open plain connection nothing else can have come of it.
            self.account(&mut inner);
        } else {
            self.settle(&mut inner, now);
        }
        let outlet = inner.outlet.clone().filter(|_| fed);
        drop(inner);
        if let (Some(outlet), Some(core)) = (outlet, self.core.upgrade()) {
            core.mark(&outlet);
            core.count_queued(length);
        }
        Ok(())
    }

    fn has_too_much_to_report(&self) -> bool {
        self.unreported.load(Ordering::Relaxed) >= UNREPORTED
            || self.unreported_bytes.load(Ordering::Relaxed) >= self.config.outbox.bytes.max(UNREPORTED_BYTES)
    }

    /// The application has taken an `Event::Overflow` with `bytes` of data.
    pub fn handle_reported(&self, bytes: usize) {
        self.unreported.fetch_sub(1, Ordering::Relaxed);
        self.unreported_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Messages not yet written to the socket. Who asks and is told of some is told when there are none.
    pub fn unacknowledged(&self) -> usize {
        let mut inner = self.inner.lock();
        let count = inner.outbox.len();
        inner.flushing |= count > 0;
        count
    }

    pub fn state(&self) -> State {
        self.inner.lock().machine.state()
    }

    pub fn has_ticket(&self, ticket: Ticket) -> bool {
        let inner = self.inner.lock();
        inner.session.refresh == Some(ticket) || inner.question.as_ref().is_some_and(|(asked, _)| *asked == ticket)
    }

    pub fn answer_headers(&self, ticket: Ticket, headers: Headers) {
        self.answer(ticket, Ok(Answer::Headers(headers)));
    }

    pub fn answer_token(&self, ticket: Ticket, token: Secret) {
        self.answer(ticket, Ok(Answer::Token(token)));
    }

    pub fn fail_attempt(&self, ticket: Ticket, reason: String) {
        self.answer(ticket, Err(reason));
    }

    fn answer(&self, ticket: Ticket, answer: Result<Answer, String>) {
        let mut inner = self.inner.lock();
        let token = if let Ok(Answer::Token(token)) = &answer { Some(token.clone()) } else { None };
        if self.refreshed(&mut inner, ticket, token) {
            return;
        }
        if let Some((_, waiting)) = inner.question.take_if(|(asked, _)| *asked == ticket) {
            // The attempt may have been cancelled meanwhile.
            let _ = waiting.send(answer);
        }
    }

    pub fn close(&self, code: u16, reason: String) {
        self.with(|inner, now| inner.machine.handle_close(now, code, reason));
    }

    /// Its `limits.memory`.
    pub fn memory_limit(&self) -> usize {
        self.context.limits.memory
    }

    pub fn discard(&self) {
        self.with(|inner, now| {
            inner.discarded = true;
            if let Some(outlet) = inner.outlet.as_ref().or(inner.session.greeting()) {
                // Also one that is already closing.
                let reason = "discarded".to_owned();
                outlet.end(Ending::Abort { code: lifeline_proto::close::ABNORMAL, reason });
                Core::wake(outlet);
            }
            inner.machine.handle_close(now, lifeline_proto::close::ABNORMAL, "discarded".to_owned());
        });
    }

    /// The time to wait was reckoned for a machine that was awake. (The open socket is probed by its
    /// connection.)
    pub fn handle_clock_jump(&self) {
        self.with(|inner, now| {
            if inner.machine.poll_timeout().is_some() {
                inner.machine.handle_wake(now);
            }
        });
    }

    fn with(&self, input: impl FnOnce(&mut Inner, Time)) {
        let mut inner = self.inner.lock();
        let now = clock::now();
        input(&mut inner, now);
        self.settle(&mut inner, now);
    }

    /// High mark at a half of the outbox's limits, low mark at a quarter.
    fn watch_congestion(&self, inner: &mut Inner) {
        let limits = &self.config.outbox;
        let (messages, bytes) = (inner.outbox.len(), inner.outbox.bytes());
        if messages > limits.limit / 2 || bytes > limits.bytes / 2 {
            inner.congested = true;
        } else if inner.congested
            && messages <= limits.limit / 4
            && bytes <= limits.bytes / 4
            && let Some(outlet) = &inner.outlet
        {
            self.emit(Event::Drain { endpoint: self.id, conn: outlet.id });
            inner.congested = false;
        }
    }

    /// Carries out what follows from the inputs so far.
    fn settle(&self, inner: &mut Inner, now: Time) {
        let expired = inner.expired(now);
        self.report(inner, OverflowReason::Expired, expired);
        self.reject_too_long(inner);
        while let Some(output) = inner.machine.poll_output() {
            self.carry_out(inner, now, output);
        }
        inner.watch_farewell();
        Self::greet_again(inner);
        if inner.flushing && inner.outbox.len() == 0 && !inner.ended {
            inner.flushing = false;
            self.emit(Event::Flushed { client: self.id });
        }
        if inner.wanting.is_some_and(|length| inner.outbox.has_room(length)) && !inner.ended {
            inner.wanting = None;
            self.emit(Event::Room { client: self.id });
        }
        self.account(inner);
    }

    /// What the outbox holds has changed.
    fn account(&self, inner: &mut Inner) {
        self.watch_congestion(inner);
        let held = inner.outbox.held();
        if held > inner.charged {
            self.context.memory.charge(held - inner.charged);
        } else {
            self.context.memory.release(inner.charged - held);
        }
        inner.charged = held;
        self.wake_for_deadline(inner);
        if inner.outbox.needs_upkeep() {
            self.ask_keeper();
        }
    }

    /// Something is to be written soon.
    fn ask_keeper(&self) {
        if !self.tending.swap(true, Ordering::Relaxed)
            && let Some(core) = self.core.upgrade()
        {
            core.keeper.tend(self.myself.clone());
        }
    }

    fn wake_for_deadline(&self, inner: &mut Inner) {
        if inner.deadline().is_some_and(|deadline| deadline < inner.planned) {
            self.news.notify_one();
        }
    }

    fn carry_out(&self, inner: &mut Inner, now: Time, output: Output) {
        match output {
            Output::CancelDial => {
                inner.dial = None;
                inner.question = None;
                if let Some(outlet) = inner.session.greeting() {
                    let reason = "the attempt was cancelled".to_owned();
                    outlet.end(Ending::Abort { code: lifeline_proto::close::ABNORMAL, reason });
                    Core::wake(outlet);
                }
                self.news.notify_one();
            }
            Output::Close { code, reason } => {
                if inner.begin_farewell(now, code, &reason) {
                    return;
                }
                inner.feed(now, usize::MAX);
                if let Some(outlet) = &inner.outlet {
                    // Without effect on one that was cut already.
                    outlet.set_closing();
                    outlet.end(Ending::Close { code, wire: code, reason });
                    Core::wake(outlet);
                }
            }
            Output::Dial { attempt, url, fresh_credentials } => {
                inner.orders += 1;
                inner.dial = Some(DialOrder { number: inner.orders, attempt, url, fresh_credentials });
                self.news.notify_one();
            }
            Output::Ended => {
                inner.ended = true;
                let unsent = inner.outbox.close();
                if !inner.discarded {
                    self.report(inner, OverflowReason::Closed, unsent);
                }
                inner.keep_session();
                match (inner.outbox.farewell(now), self.myself.upgrade(), self.core.upgrade()) {
                    // The directory is free when the application is told.
                    (Some(work), Some(client), Some(core)) => core.keeper.run(move || {
                        client.finish(&work);
                        client.emit(Event::Stopped { endpoint: client.id });
                    }),
                    _ => self.emit(Event::Stopped { endpoint: self.id }),
                }
                self.news.notify_one();
            }
            Output::GaveUp { code, reason } => {
                // A dial that failed has named the server itself.
                let message = match (inner.lost, reason.is_empty()) {
                    (false, _) => reason,
                    (true, true) => format!("{} closed the connection with {code}", inner.place),
                    (true, false) => format!("{} closed the connection with {code}: {reason}", inner.place),
                };
                let failure = Failure { kind: FailureKind::Connect, message, code };
                self.emit(Event::GaveUp { client: self.id, failure: Box::new(failure) });
            }
            Output::Probe => {
                if let Some(outlet) = &inner.outlet {
                    outlet.wake_probe();
                }
            }
            Output::Transition { from, to, code, reason, attempt, delay } => {
                let transition = Transition { from, to, code, reason, attempt, delay };
                self.log(&transition);
                self.emit(Event::Transition { client: self.id, transition: Box::new(transition) });
            }
        }
    }

    /// Stores what is to be stored and gives the directory back, if that has not happened: the process ends.
    pub fn seal(&self) {
        let work = {
            let mut inner = self.inner.lock();
            inner.keep_session();
            inner.outbox.farewell(clock::now())
        };
        if let Some(work) = work {
            self.finish(&work);
        }
    }

    fn finish(&self, work: &Work) {
        let result = work.carry_out();
        let done = self.inner.lock().outbox.handle_done(work, &result);
        if let Err(CommandError::Storage(message)) = done {
            self.fail_storage(message);
        }
    }

    fn fail_storage(&self, message: String) {
        // For those without onError.
        self.context.log(LogLevel::Error, message.clone(), Vec::new());
        let failure = Failure { kind: FailureKind::Storage, message, code: 0 };
        self.emit(Event::Failure { endpoint: self.id, conn: None, failure: Box::new(failure) });
    }

    fn report(&self, inner: &mut Inner, why: OverflowReason, items: Vec<Kept>) {
        if items.is_empty() {
            return;
        }
        let items = inner.sort_out_edits(why, items);
        self.tend_documents(inner);
        self.counters.overflows.fetch_add(items.len() as u64, Ordering::Relaxed);
        for Kept { sequence, data, .. } in items {
            self.unreported.fetch_add(1, Ordering::Relaxed);
            self.unreported_bytes.fetch_add(data.len(), Ordering::Relaxed);
            self.emit(Event::Overflow { client: self.id, sequence, data, why });
        }
    }

    fn emit(&self, event: Event) {
        self.context.events.push(event);
    }

    fn log(&self, transition: &Transition) {
        let Transition { from, to, code, reason, attempt, delay } = transition;
        let mut context = vec![("attempt", attempt.to_string())];
        if *code != 0 {
            context.push(("code", code.to_string()));
        }
        if !reason.is_empty() {
            context.push(("reason", reason.clone()));
        }
        if let Some(delay) = delay {
            context.push(("delay", format!("{:.3}", delay.as_secs_f64())));
        }
        self.context.log(LogLevel::Info, format!("client: {from:?} -> {to:?}"), context);
    }

    async fn run(self: Arc<Self>) {
        let mut dialing: Option<(u64, Dialing)> = None;
        loop {
            let deadline = {
                let mut inner = self.inner.lock();
                let now = clock::now();
                inner.planned = Time::ZERO;
                inner.machine.handle_timeout(now);
                self.tick(&mut inner, now);
                self.settle(&mut inner, now);
                if inner.ended {
                    return;
                }
                let order = inner.dial;
                if dialing.as_ref().map(|(number, _)| *number) != order.map(|order| order.number) {
                    dialing = order.map(|order| {
                        let attempt: Dialing = Box::pin(self.clone().attempt(order));
                        (order.number, attempt)
                    });
                }
                let deadline = inner.deadline();
                inner.planned = deadline.unwrap_or(END_OF_TIME);
                deadline.map(|deadline| Instant::now() + (deadline - clock::now()))
            };
            tokio::select! {
                (number, outcome) = async {
                    match &mut dialing {
                        Some((number, attempt)) => (*number, attempt.await),
                        None => std::future::pending().await,
                    }
                } => {
                    dialing = None;
                    self.handle_outcome(number, outcome);
                }
                () = self.news.notified() => {}
                () = async {
                    match deadline {
                        Some(deadline) => sleep_until(deadline).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    async fn attempt(self: Arc<Self>, order: DialOrder) -> Result<Dialed, DialError> {
        self.counters.attempts.fetch_add(1, Ordering::Relaxed);
        let previous = self.inner.lock().task.take();
        if let Some(mut previous) = previous
            && timeout(LAST_WORDS, &mut previous).await.is_err()
        {
            previous.abort();
            let _ = previous.await;
        }
        let (protocols, detour, needs_token) = {
            let mut inner = self.inner.lock();
            if order.fresh_credentials {
                inner.session.token = None;
            }
            let url = &self.config.urls[order.url.min(self.config.urls.len() - 1)];
            inner.place = inner.session.detour.as_ref().unwrap_or(url).place();
            inner.lost = false;
            let needs_token = self.config.ask_token && inner.session.token.is_none() && self.offers_session(&inner);
            (self.offer(&inner), inner.session.detour.clone(), needs_token)
        };
        let mut attempt_headers = Headers::new();
        if self.config.ask_headers {
            let asking = |ticket| Event::HeadersWanted { client: self.id, ticket, attempt: order.attempt };
            if let Some(Answer::Headers(headers)) = self.ask(asking, "headers").await? {
                attempt_headers = headers;
            }
        }
        if needs_token {
            let asking = |ticket| Event::TokenWanted { client: self.id, ticket };
            if let Some(Answer::Token(token)) = self.ask(asking, "token").await? {
                self.inner.lock().session.token = Some(token);
            }
        }
        dial(&DialRequest {
            url: detour.as_ref().unwrap_or(&self.config.urls[order.url.min(self.config.urls.len() - 1)]),
            protocols: &protocols,
            headers: &self.config.headers,
            attempt_headers: &attempt_headers,
            tls: self.tls.as_ref(),
            proxy: &self.proxy,
            compression: self.config.compression.as_ref(),
            timeout: self.config.connect_timeout,
            max_header_bytes: self.config.limits.max_header_bytes,
        })
        .await
    }

    async fn ask(&self, asking: impl FnOnce(Ticket) -> Event + Send, what: &str) -> Result<Option<Answer>, DialError> {
        let Some(core) = self.core.upgrade() else { return Ok(None) };
        let ticket = core.next_ticket();
        drop(core);
        let (sender, receiver) = oneshot::channel();
        self.inner.lock().question = Some((ticket, sender));
        self.emit(asking(ticket));
        match timeout(PATIENCE, receiver).await {
            Ok(Ok(Ok(answer))) => Ok(Some(answer)),
            Ok(Ok(Err(reason))) => Err(DialError::new(FailureKind::Application, reason)),
            Ok(Err(_)) => Err(DialError::new(FailureKind::Application, "the attempt was given up".to_owned())),
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                let message = format!("the application supplied no {what} for {seconds} s");
                Err(DialError::new(FailureKind::Timeout, message))
            }
        }
    }

    fn handle_outcome(self: &Arc<Self>, number: u64, outcome: Result<Dialed, DialError>) {
        let mut inner = self.inner.lock();
        if inner.dial.is_none_or(|order| order.number != number) {
            return;
        }
        inner.dial = None;
        inner.question = None;
        let now = clock::now();
        match outcome {
            Ok(dialed) if dialed.protocol == PROTOCOL => {
                let until = now + self.config.connect_timeout;
                self.greet(&mut inner, now, dialed, until);
            }
            Ok(dialed) => {
                if inner.machine.handle_dialed(now, dialed.spread) {
                    // The change of state comes before the opening.
                    self.settle(&mut inner, now);
                    self.open(&mut inner, now, dialed);
                    self.tell_unheard(&inner);
                }
            }
            Err(error) => {
                self.counters.failed_attempts.fetch_add(1, Ordering::Relaxed);
                inner.session.detour = None;
                let DialError { failure, status, retry_after, spread, terminal } = error;
                let failure = DialFailure { status, retry_after, terminal, spread, reason: failure.message };
                inner.machine.handle_dial_failed(now, failure);
            }
        }
        self.settle(&mut inner, now);
    }

    fn open(self: &Arc<Self>, inner: &mut Inner, now: Time, dialed: Dialed) {
        let Some(core) = self.core.upgrade() else { return };
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        self.shard.population.fetch_add(1, Ordering::Relaxed);
        let outlet = Outlet::new(core.next_connection_id(), self.shard.clone(), self.context.clone(), 0);
        let outlet = Arc::new(outlet.with_compression(dialed.compression));
        core.add_connection(&outlet);
        let info = OpenInfo {
            remote: dialed.remote.clone(),
            protocol: Arc::from(dialed.protocol.as_str()),
            request: None,
            session: None,
            resumed: false,
            user: None,
        };
        inner.task = Some(self.spawn(dialed, outlet.clone(), Some(info)));
        inner.outlet = Some(outlet);
        inner.feed(now, WINDOW);
    }

    /// The connection's task. It waits for the lock that the caller holds.
    fn spawn(self: &Arc<Self>, dialed: Dialed, outlet: Arc<Outlet>, info: Option<OpenInfo>) -> JoinHandle<()> {
        let owner: Arc<dyn Owner> = self.clone();
        tokio::spawn(Connection::open(dialed.stream, dialed.leftover, outlet, owner, info))
    }

    fn compression_stats(&self, outlet: Option<&Outlet>) -> Stats {
        let sum = deflate::Counters::default();
        sum.absorb(&self.counters.deflate);
        let open = outlet.and_then(Outlet::compression);
        if let Some(open) = open {
            sum.absorb(&open.counters);
        }
        let agreed = open.map_or(Stat::None, |open| Stat::Text(open.agreement().response()));
        sum.stats(vec![("agreed".into(), agreed)])
    }

    pub fn stats(&self) -> Stats {
        let counters = &self.counters;
        let int = |value: usize| Stat::Int(i64::try_from(value).unwrap_or(i64::MAX));
        let count = |value: u64| Stat::Int(i64::try_from(value).unwrap_or(i64::MAX));
        let load = |counter: &AtomicU64| count(counter.load(Ordering::Relaxed));
        let inner = self.inner.lock();
        let rules = &inner.session.rules;
        let store = inner.outbox.store_stats();
        let outlet = inner.outlet.as_deref();
        let both = |sum: &AtomicU64, of: &dyn Fn(&crate::outlet::Counters) -> &AtomicU64| {
            let open = outlet.map_or(0, |outlet| of(&outlet.counters).load(Ordering::Relaxed));
            count(sum.load(Ordering::Relaxed) + open)
        };
        let seconds = |time: Duration| Stat::Float(time.as_secs_f64());
        Stats(vec![
            ("state".into(), Stat::Text(format!("{:?}", inner.machine.state()))),
            ("uptime".into(), seconds(clock::now() - self.created)),
            ("connectedFor".into(), outlet.map_or(Stat::None, |outlet| seconds(clock::now() - outlet.opened))),
            ("rtt".into(), outlet.and_then(Outlet::round_trip).map_or(Stat::None, seconds)),
            (
                "connections".into(),
                Stat::Tree(Stats(vec![
                    ("opened".into(), load(&counters.connections)),
                    ("attempts".into(), load(&counters.attempts)),
                    ("failedAttempts".into(), load(&counters.failed_attempts)),
                    ("attempt".into(), Stat::Int(i64::from(inner.machine.attempt()))),
                ])),
            ),
            (
                "messages".into(),
                Stat::Tree(Stats(vec![
                    ("in".into(), both(&counters.messages_in, &|it| &it.messages_in)),
                    ("out".into(), both(&counters.messages_out, &|it| &it.messages_out)),
                ])),
            ),
            (
                "bytes".into(),
                Stat::Tree(Stats(vec![
                    ("in".into(), both(&counters.bytes_in, &|it| &it.bytes_in)),
                    ("out".into(), both(&counters.bytes_out, &|it| &it.bytes_out)),
                    ("inboundWaiting".into(), int(outlet.map_or(0, |outlet| outlet.inbound.load(Ordering::Relaxed)))),
                ])),
            ),
            ("compression".into(), Stat::Tree(self.compression_stats(outlet))),
            (
                "outbox".into(),
                Stat::Tree(Stats(vec![
                    ("messages".into(), int(inner.outbox.len())),
                    ("bytes".into(), int(inner.outbox.bytes())),
                    ("lastSequence".into(), count(inner.outbox.last_sequence())),
                    ("overflows".into(), load(&counters.overflows)),
                    ("fsyncs".into(), store.map_or(Stat::None, |store| count(store.fsyncs))),
                    ("bytesOnDisk".into(), store.map_or(Stat::None, |store| count(store.bytes_on_disk))),
                ])),
            ),
            (
                "session".into(),
                Stat::Tree(Stats(vec![
                    ("id".into(), rules.session().map_or(Stat::None, |id| Stat::Text(id.as_str().to_owned()))),
                    ("resumed".into(), count(rules.counters().resumed)),
                    ("replayed".into(), count(inner.session.replayed)),
                    ("duplicates".into(), count(rules.counters().duplicates)),
                    ("gaps".into(), count(rules.counters().gaps)),
                    ("rejected".into(), count(rules.counters().rejected)),
                    ("unacknowledged".into(), int(inner.outbox.len())),
                ])),
            ),
            ("heartbeats".into(), Stat::Tree(Stats(vec![("sent".into(), both(&counters.beats, &|it| &it.beats))]))),
            (
                "memory".into(),
                Stat::Tree(Stats(vec![
                    ("used".into(), int(self.context.memory.used())),
                    ("limit".into(), int(self.context.memory.limit())),
                ])),
            ),
        ])
    }
}

impl Tend for Client {
    fn tend(&self, tick: bool) {
        self.tending.store(false, Ordering::Relaxed);
        let mut inner = self.inner.lock();
        let writes = inner.session.keeping.as_ref().is_some_and(|keeping| keeping.needs_writing(tick));
        let handled = if writes { inner.keep_session() } else { None };
        let Some(work) = inner.outbox.upkeep(clock::now(), tick) else { return };
        let result = MutexGuard::unlocked(&mut inner, || work.carry_out());
        let done = inner.outbox.handle_done(&work, &result);
        if writes {
            if let Some(keeping) = inner.session.keeping.as_mut().filter(|_| done.is_err()) {
                keeping.handle_failed();
            }
            self.handle_kept(&mut inner, handled);
        }
        drop(inner);
        match done {
            Ok(()) => self.disk_failed.store(false, Ordering::Relaxed),
            // Once, not twice a second.
            Err(error) if !self.disk_failed.swap(true, Ordering::Relaxed) => self.fail_storage(error.to_string()),
            Err(_) => {}
        }
    }
}

impl Owner for Client {
    fn handle_written(&self, sequence: u64) {
        let mut inner = self.inner.lock();
        let now = clock::now();
        if !inner.outlet.as_ref().is_some_and(|outlet| outlet.is_lifeline()) {
            inner.outbox.handle_acknowledged(sequence);
        }
        // Refilled when half empty: one wake for many messages.
        let half_empty = |outlet: &Arc<Outlet>| outlet.buffered.load(Ordering::Relaxed) <= WINDOW / 2;
        if inner.outlet.as_ref().is_some_and(half_empty)
            && inner.feed(now, WINDOW)
            && let Some(outlet) = &inner.outlet
        {
            Core::wake(outlet);
        }
        self.settle(&mut inner, now);
    }

    fn handle_message(&self, outlet: &Arc<Outlet>, now: Time, data: Bytes, binary: bool) -> Upshot {
        self.handle_frame(outlet, now, &data, binary)
    }

    // A server may talk on while nothing that we send arrives.
    fn awaits_confirmation(&self) -> bool {
        self.inner.lock().session.rules.in_flight() > 0
    }

    fn handle_leaving(&self, outlet: &Arc<Outlet>, _end: &End) {
        let mut inner = self.inner.lock();
        inner.outlet = None;
        let of = &outlet.counters;
        for (sum, part) in [
            (&self.counters.messages_in, &of.messages_in),
            (&self.counters.messages_out, &of.messages_out),
            (&self.counters.bytes_in, &of.bytes_in),
            (&self.counters.bytes_out, &of.bytes_out),
            (&self.counters.beats, &of.beats),
        ] {
            sum.fetch_add(part.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        if let Some(compression) = outlet.compression() {
            self.counters.deflate.absorb(&compression.counters);
        }
    }

    fn handle_closed(&self, outlet: &Arc<Outlet>, end: &End) {
        let mut inner = self.inner.lock();
        let now = clock::now();
        if outlet.is_lifeline() {
            self.handle_ended(&mut inner, now, outlet, end);
        } else {
            inner.outbox.handle_lost();
            inner.lost = true;
            inner.machine.handle_lost(now, end.code, end.reason.clone());
        }
        if inner.outbox.len() > 0 {
            inner.machine.handle_pending(now);
        }
        self.settle(&mut inner, now);
    }
}

impl Inner {
    /// Moves messages into the connection's queue until it holds `window` bytes; true when it got some.
    fn feed(&mut self, now: Time, window: usize) -> bool {
        let Some(outlet) = &self.outlet else { return false };
        if outlet.is_lifeline() {
            let outlet = outlet.clone();
            return self.feed_session(now, window, &outlet);
        }
        let mut fed = false;
        while outlet.is_open() && outlet.buffered.load(Ordering::Relaxed) < window {
            let Some(Kept { sequence, data, binary, .. }) = self.outbox.next_to_send(now) else { break };
            if let Some(payload) = documents::payload(&data, binary) {
                let reason = "the server does not speak lifeline.v1";
                self.outbox.handle_rejected(sequence, 0, reason);
                self.documents.handle_dropped(&payload, 0, reason);
                continue;
            }
            // What a closing connection does not take comes back with its end.
            if outlet.push(Item::Message { data, binary, sequence }) != Sent::Queued {
                break;
            }
            fed = true;
        }
        fed
    }

    /// Gives the outbox what is to be written of the session; returns what may be acknowledged then.
    fn keep_session(&mut self) -> Option<Delivered> {
        let (session, handled) = self.session.keeping.as_mut()?.take(&self.session.rules)?;
        self.outbox.keep_session(session);
        handled
    }

    fn expired(&mut self, now: Time) -> Vec<Kept> {
        if self.outbox.poll_expiry().is_some_and(|at| at <= now) { self.outbox.expire(now) } else { Vec::new() }
    }

    /// When the task has to look again.
    fn deadline(&self) -> Option<Time> {
        let deadlines = [self.machine.poll_timeout(), self.outbox.poll_expiry(), self.session.poll_timeout()];
        deadlines.into_iter().flatten().min()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.context.memory.release(self.inner.get_mut().charged);
    }
}

/// A client that was just dropped may still have the directory for a moment.
fn open_outbox(config: &OutboxConfig, storage: &Storage) -> Result<(Durable, Found), StoreError> {
    let until = Instant::now() + LAST_ACTS;
    loop {
        match Durable::open(config, storage, clock::now()) {
            Err(error) if error.is_own() && Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            opened => return opened,
        }
    }
}

/// Later than any deadline.
const END_OF_TIME: Time = Time::from_micros(u64::MAX);

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::*;
    use crate::events::EventQueue;

    async fn reach(core: &Core, state: State) -> Transition {
        timeout(Duration::from_secs(30), async {
            loop {
                let mut events = Vec::new();
                core.events.receive(&mut events, 1, usize::MAX);
                match events.pop() {
                    Some(Event::Transition { transition, .. }) if transition.to == state => return *transition,
                    Some(_) => {}
                    None => tokio::task::yield_now().await,
                }
            }
        })
        .await
        .expect("the change of state must come")
    }

    /// One shard on the test's own runtime, without its pump.
    fn core() -> Arc<Core> {
        let shard = Arc::new(Shard::new(0, Handle::current(), None));
        Arc::new(Core::new(vec![shard], Arc::new(EventQueue::new().unwrap())))
    }

    fn closed_port() -> ClientUrl {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        ClientUrl {
            target: ListenAddress::Tcp { host: "127.0.0.1".into(), port, tls: false },
            resource: "/".into(),
            credentials: None,
        }
    }

    #[tokio::test]
    async fn a_clock_jump_ends_the_wait() {
        let core = core();
        let mut config = ClientConfig { urls: vec![closed_port()], ..ClientConfig::default() };
        config.proxy = crate::config::Proxy::Direct;
        config.reconnect.backoff.first = Some(Duration::from_secs(3600));
        config.reconnect.backoff.floor = Duration::from_secs(3600);
        let id = Client::create(&core, config).unwrap();
        let Some(Endpoint::Client(client)) = core.endpoint(id) else { panic!() };
        client.connect();
        reach(&core, State::Connecting).await;
        assert!(reach(&core, State::Reconnecting).await.delay.is_some());
        core.handle_clock_jump(&core.shards[0]);
        reach(&core, State::Connecting).await;
        client.discard();
        reach(&core, State::Closed).await;
    }

    #[tokio::test]
    async fn the_outbox_counts_against_the_memory_of_the_process() {
        let core = core();
        let config = ClientConfig { urls: vec![closed_port()], ..ClientConfig::default() };
        let id = Client::create(&core, config).unwrap();
        let Some(Endpoint::Client(client)) = core.endpoint(id) else { panic!() };
        client.send(Bytes::from(vec![0; 1000]), true, None).unwrap();
        client.send(Bytes::from(vec![0; 1000]), true, None).unwrap();
        assert_eq!(core.memory.used(), 2 * (1000 + outbox::KEPT));
        client.close(1000, String::new());
        assert_eq!(core.memory.used(), 0);
    }
}
