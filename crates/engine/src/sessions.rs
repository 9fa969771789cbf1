//! The sessions of a server's connections that speak `lifeline.v1`: one machine of rules for all of them.
//!
//! A connection's task hands the messages of each read to it ([`Sessions::handle_messages`]); what is to be sent lies in the
//! machine's rings and logs until the connection's writer has room ([`Sessions::refill`]). The application's thread
//! gives it commands. Whoever makes the machine do something carries out what follows, under the same lock, so that
//! events come in the machine's order.
//!
//! Lock order: a writer, the machine, then the directory, an outlet's queue and what wakes tasks. Nothing is awaited
//! and no code of the application runs under the machine's lock, nor is a disk waited for: what a store must have is
//! taken under it, and appended under the scribe's lock, which comes first and which no I/O task takes.

pub(crate) mod book;
mod documents;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use lifeline_proto::heartbeat::{HeartbeatConfig, Mode};
use lifeline_proto::v1::inbox::Start;
use lifeline_proto::v1::ring::Retention;
use lifeline_proto::v1::server::{LinkId, Output, Server as Machine, ServerConfig as Rules, Stored};
use lifeline_proto::v1::session::{Outgoing, Session};
use lifeline_proto::v1::wire::{Encoded, Heartbeat, ServerFrame};
use lifeline_proto::v1::{ChannelName, Key, Position, Secret, ShortId};
use lifeline_proto::{Time, close};
use lifeline_store::StoreError;
use parking_lot::{Mutex, MutexGuard};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::Notify;

use self::book::{Book, Restored, Whole, is_bloated};
use self::documents::Watches;
use crate::bridge::{
    Authentication, Change, CommandError, ConnId, Credentials, Delivery, DeliveryId, EndpointId, Event, Failure,
    FailureKind, LogLevel, LogRecord, MESSAGE_COST, OpenInfo, OutboxItem, Sent, SessionData, SessionInfo, Stat, Stats,
    Ticket, Verdict,
};
use crate::channels::Directory;
use crate::clock;
use crate::config::ServerConfig;
use crate::context::{End, Upshot};
use crate::core::{Core, IdMap};
use crate::events::EventQueue;
use crate::http::RequestHead;
use crate::keeper::Tend;
use crate::memory::Memory;
use crate::outlet::{Ending, Item, Outlet};
use crate::workers::Questions;

/// Questions that may wait for the application at a time.
const QUESTIONS: usize = 4096;
/// Questions about channels that one client may always have waiting.
const QUESTIONS_OF_ONE: usize = 64;
/// Bytes that a connection's queue takes from its session at a time.
const ROOM: usize = 64 * 1024;
/// Bytes for the store after which they are appended before the end of the application's batch, and how much is
/// written anew at a time.
const STAGED: usize = 256 * 1024;
/// How often the memory that sessions hold is counted at most; it takes at most a hundredth of the time.
const COUNT: Duration = Duration::from_secs(1);

/// See the module's documentation.
#[derive(Debug)]
pub struct Sessions {
    id: EndpointId,
    core: Weak<Core>,
    events: Arc<EventQueue>,
    memory: Arc<Memory>,
    pub directory: Arc<Directory>,
    /// What the application wants to be asked.
    pub questions: Asks,
    config: ServerConfig,
    /// When connections with a session beat.
    beats: Arc<HeartbeatConfig>,
    inner: Mutex<Inner>,
    /// A connection has spoken `lifeline.v1`: until then the machine need not be asked.
    used: AtomicBool,
    /// Items were settled since the last end of a batch.
    settled: AtomicBool,
    over: AtomicBool,
    alarm: Notify,
    /// What the timekeeper sleeps towards, in microseconds.
    sleeping_until: AtomicU64,
    myself: OnceLock<Weak<Self>>,
    /// Who appends to the store.
    scribe: Mutex<Scribe>,
    /// There may be something to append.
    unwritten: AtomicBool,
    /// The keeper was asked to write.
    writing: AtomicBool,
    /// A failure of the disk was told.
    disk_failed: AtomicBool,
}

#[derive(Debug, Default)]
struct Scribe {
    /// Bytes of the log when it was written anew.
    compact: u64,
    /// It is to be written anew, because something could not be appended.
    torn: bool,
}

#[derive(Debug)]
struct Inner {
    machine: Machine<StdRng>,
    /// What goes to disk, where there is a store.
    book: Option<Book>,
    links: IdMap<ConnId, Link>,
    /// Of sessions of which there is something to know.
    profiles: HashMap<Key, Profile>,
    users: HashMap<Arc<str>, BTreeSet<Key>>,
    questions: HashMap<Ticket, Question>,
    /// Clients that wait for the application to let them in.
    waiting: VecDeque<(Time, ConnId)>,
    /// Positions in channels that the state is awaited for.
    snapshots: HashMap<(ChannelName, ShortId, u64), Ticket>,
    /// Connections that the machine has ended, and whose end has not been told.
    parting: IdMap<ConnId, Parting>,
    /// The last one of each session.
    parting_of: HashMap<Key, ConnId>,
    /// What sessions hold, as it was charged to the process.
    charged: usize,
    watches: Watches,
    counted: Time,
    count_again: Time,
    /// When something last came or went: near enough to now where only a second counts.
    latest: Time,
}

/// Its size is part of what an idle session costs; a test pins it.
#[derive(Debug)]
struct Link {
    outlet: Arc<Outlet>,
    /// Once it is open.
    session: Option<Key>,
    /// What is there until it is open, and where the application is asked about its client.
    asking: Option<Box<Asking>>,
}

#[derive(Debug, Default)]
struct Asking {
    /// Where the application looks at credentials, for as long as the connection is there.
    request: Option<Arc<RequestHead>>,
    /// Until it is open.
    info: Option<Box<OpenInfo>>,
    /// What the application has said of the client, until its session has it.
    claims: Bytes,
    user: Option<Arc<str>>,
    /// The application looks at the client's credentials ...
    asked: bool,
    /// ... and is to look at these next.
    fresh: Option<(Option<Secret>, Option<Key>)>,
    /// Questions about channels that the application has not answered.
    channels_asked: usize,
}

impl Link {
    /// What has nothing to say takes no memory.
    fn forget_asking(&mut self) {
        self.asking.take_if(|asking| {
            let Asking { request, info, claims, user, asked, fresh, channels_asked } = &**asking;
            let told = request.is_none() && info.is_none() && claims.is_empty() && user.is_none();
            told && !asked && fresh.is_none() && *channels_asked == 0
        });
    }
}

/// A connection that has lost its session and not ended.
#[derive(Debug)]
struct Parting {
    session: Key,
    outlet: Arc<Outlet>,
    code: u16,
    reason: Box<str>,
}

/// What the application wants to be asked and told now; where it runs in workers, new code may want something else.
#[derive(Debug, Default)]
pub struct Asks {
    pub ask_handshake: AtomicBool,
    pub authenticate: AtomicBool,
    pub announce_members: AtomicBool,
}

impl Asks {
    fn set(&self, questions: Questions) {
        self.ask_handshake.store(questions.ask_handshake, Ordering::Relaxed);
        self.authenticate.store(questions.authenticate, Ordering::Relaxed);
        self.announce_members.store(questions.announce_members, Ordering::Relaxed);
    }
}

/// What the application knows of a session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Profile {
    user: Option<Arc<str>>,
    claims: Bytes,
    data: SessionData,
}

/// What the application was asked.
#[derive(Debug)]
enum Question {
    Authentication {
        conn: ConnId,
        known: bool,
        /// What the credentials were charged to the process.
        charge: usize,
    },
    Snapshot {
        channel: ChannelName,
        position: Position,
        conns: Vec<ConnId>,
    },
}

/// Whose thread it is, so who wakes whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The application's, which flushes soon.
    Application,
    /// The task of this connection, which writes at the end of its turn.
    Task(ConnId),
    Timekeeper,
}

impl Sessions {
    /// With what the store has.
    ///
    /// # Errors
    /// The store cannot be opened.
    pub fn create(id: EndpointId, core: &Arc<Core>, config: &ServerConfig) -> Result<Arc<Self>, CommandError> {
        let (book, restored) = match &config.sessions.store {
            Some(directory) => {
                let (book, restored) = Book::open(directory, config.sessions.resume_ttl)
                    .map_err(|error| CommandError::Storage(format!("store: {error}")))?;
                (Some(book), restored)
            }
            None => (None, Restored::default()),
        };
        let Restored { stored, profiles, damages, remarks } = restored;
        let sessions = Arc::new(Self::new(id, core, config, book, stored, profiles));
        sessions.questions.set(Questions {
            ask_handshake: config.ask_handshake,
            authenticate: config.authenticate,
            authorise: config.authorise,
            snapshots: config.snapshots,
            announce_members: config.announce_members,
        });
        let _ = sessions.myself.set(Arc::downgrade(&sessions));
        for damage in damages {
            sessions.fail_storage(damage);
        }
        for remark in remarks {
            sessions.log(LogLevel::Warning, remark);
        }
        if config.sessions.store.is_some() {
            let weak: Weak<Self> = Arc::downgrade(&sessions);
            core.keeper.register(weak);
        }
        Ok(sessions)
    }

    /// The server is among those whose limit of memory counts: time may pass for what its store had.
    pub fn begin_restored(self: &Arc<Self>) {
        if self.inner.lock().machine.session_count() > 0 {
            self.begin_time();
        }
    }

    fn new(
        id: EndpointId,
        core: &Arc<Core>,
        config: &ServerConfig,
        book: Option<Book>,
        stored: Stored,
        profiles: HashMap<Key, Profile>,
    ) -> Self {
        let rules = config.heartbeat.rules;
        let mut beats = rules;
        // A client counts what it hears from us, so a beat is due also while it is the one that talks.
        if rules.mode == Mode::Auto {
            beats.mode = Mode::Fixed;
        }
        let interval = rules.adaptive.map_or(rules.interval, |adaptive| adaptive.max);
        let heartbeat = Heartbeat { interval, timeout: rules.timeout };
        let sessions = &config.sessions;
        let rules = Rules {
            retention: Retention {
                count: sessions.resume_count,
                bytes: sessions.resume_bytes,
                age: sessions.resume_ttl.max(Duration::from_secs(1)),
            },
            resume_ttl: sessions.resume_ttl,
            dedupe_ttl: sessions.dedupe_ttl,
            redelivery_limit: sessions.redelivery_limit,
            max_message: config.limits.max_message,
            window: config.limits.inbound as u64,
            send_limit: config.send.limit,
            heartbeat: (!matches!(rules.mode, Mode::Off | Mode::Passive)).then_some(heartbeat),
            handshake_timeout: config.limits.handshake_timeout,
            max_sessions: sessions.max_sessions,
            max_subscriptions: config.server_limits.max_subscriptions,
            max_channels: config.server_limits.max_channels,
            authenticate: config.authenticate,
            authorise: config.authorise,
            snapshots: config.snapshots,
            store: book.is_some(),
            ..Rules::default()
        };
        let mut users: HashMap<Arc<str>, BTreeSet<Key>> = HashMap::new();
        for (key, profile) in &profiles {
            if let Some(user) = &profile.user {
                users.entry(user.clone()).or_default().insert(key.clone());
            }
        }
        let mut machine = Machine::restore(clock::now(), rules, StdRng::from_os_rng(), stored);
        for key in profiles.keys() {
            machine.treasure(key);
        }
        let compact = book.as_ref().map_or(0, |book| book.log.bytes());
        let inner = Inner {
            machine,
            book,
            links: IdMap::default(),
            profiles,
            users,
            questions: HashMap::new(),
            waiting: VecDeque::new(),
            snapshots: HashMap::new(),
            parting: IdMap::default(),
            parting_of: HashMap::new(),
            charged: 0,
            watches: Watches::default(),
            counted: Time::ZERO,
            count_again: Time::ZERO,
            latest: clock::now(),
        };
        Self {
            id,
            core: Arc::downgrade(core),
            events: core.events.clone(),
            memory: core.memory.clone(),
            directory: Arc::default(),
            questions: Asks::default(),
            config: config.clone(),
            beats: Arc::new(beats),
            inner: Mutex::new(inner),
            used: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            over: AtomicBool::new(false),
            alarm: Notify::new(),
            sleeping_until: AtomicU64::new(u64::MAX),
            myself: OnceLock::new(),
            scribe: Mutex::new(Scribe { compact, torn: false }),
            unwritten: AtomicBool::new(false),
            writing: AtomicBool::new(false),
            disk_failed: AtomicBool::new(false),
        }
    }

    /// When a connection beats that has its session.
    pub fn heartbeat(&self) -> Arc<HeartbeatConfig> {
        self.beats.clone()
    }

    /// Whether any connection has spoken the subprotocol.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// A connection with the subprotocol is open; it is announced when its session is there. `spread` is
    /// what it is told.
    pub fn connect(self: &Arc<Self>, outlet: &Arc<Outlet>, info: OpenInfo, spread: Duration) {
        let now = clock::now();
        let mut inner = self.inner.lock();
        inner.machine.set_spread(spread);
        self.begin_time();
        let request = info.request.clone().filter(|_| self.questions.authenticate.load(Ordering::Relaxed));
        let asking = Asking { request, info: Some(Box::new(info)), ..Asking::default() };
        let link = Link { outlet: outlet.clone(), session: None, asking: Some(Box::new(asking)) };
        inner.links.insert(outlet.id, link);
        inner.machine.handle_connected(now, LinkId(outlet.id.0));
        self.carry_out(inner, now, By::Task(outlet.id));
    }

    /// What the application wants to be asked from now on.
    pub fn set_questions(&self, questions: Questions) {
        self.questions.set(questions);
        let Questions { authenticate, authorise, snapshots, .. } = questions;
        self.inner.lock().machine.set_questions(authenticate, authorise, snapshots);
    }

    /// From now on there may be sessions.
    fn begin_time(self: &Arc<Self>) {
        if !self.used.swap(true, Ordering::AcqRel)
            && let Some(core) = self.core.upgrade()
        {
            core.shards[0].handle.spawn(self.clone().keep_time());
        }
    }

    /// Messages came, on the connection's own thread.
    pub fn handle_messages(&self, outlet: &Outlet, now: Time, messages: &mut Vec<(Bytes, bool)>) -> Upshot {
        let link = LinkId(outlet.id.0);
        let mut upshot = Upshot::Nothing;
        let mut messages = messages.drain(..);
        loop {
            let mut inner = self.inner.lock();
            inner.latest = now;
            // Most messages are items for the application and nothing else.
            let mut items = VecDeque::new();
            let mut outbox = None;
            let mut output = None;
            let mut is_over = true;
            // Closed by the application: what comes until the peer's answer comes again to the next connection.
            while outlet.is_open()
                && let Some((data, binary)) = messages.next()
            {
                if let Some(item) = inner.machine.pass_message(now, link, data, binary) {
                    if items.is_empty() {
                        outbox = inner.machine.outbox_of(link).cloned();
                        items.reserve_exact(messages.len() + 1);
                    }
                    items.push_back(item);
                    continue;
                }
                output = inner.machine.poll_output();
                if output.is_some() {
                    is_over = false;
                    break;
                }
            }
            if let Some(outbox) = outbox {
                self.deliver(outlet, now, outbox, items);
            }
            if is_over {
                output = inner.machine.poll_output();
            }
            if (output.is_some() || inner.book.is_some())
                && let Upshot::Answered(n) = self.carry_out_from(output, inner, now, By::Task(outlet.id))
            {
                upshot = Upshot::Answered(n);
            }
            if is_over {
                return upshot;
            }
        }
    }

    /// The connection is about to report its end.
    pub fn lost(&self, outlet: &Outlet, end: &End) {
        let now = clock::now();
        let mut inner = self.inner.lock();
        if let Some(parting) = inner.take_parting(outlet.id)
            && parting.outlet.retract()
        {
            // Under the lock: it must come before its session opens elsewhere.
            let reason = end.reason.as_str().into();
            self.tell_close(outlet.id, end.code, reason, end.clean);
        }
        inner.machine.handle_lost(now, LinkId(outlet.id.0));
        inner.links.remove(&outlet.id);
        self.carry_out(inner, now, By::Task(outlet.id));
    }

    /// Gives what the connection sends next to `write`, messages of the stream that nothing waits before, with their
    /// numbers and what they acknowledge (0: nothing), while that returns true; then the rest to its queue, as far as
    /// there is room and the store has it. True: there may be more.
    pub fn refill(&self, outlet: &Outlet, mut write: impl FnMut(u64, u64, &Bytes, bool) -> bool) -> bool {
        let now = clock::now();
        let mut inner = self.inner.lock();
        inner.latest = now;
        let mut more = true;
        let mut full = false;
        if outlet.queue.lock().items.is_empty() {
            inner.machine.write_stream(LinkId(outlet.id.0), |sequence, acknowledged, message| {
                full = !write(sequence, acknowledged.unwrap_or(0), &message.data, message.binary);
                !full
            });
        }
        while !full && outlet.buffered.load(Ordering::Relaxed) < ROOM {
            let Some(outgoing) = inner.machine.poll_transmit(now, LinkId(outlet.id.0)) else {
                more = false;
                break;
            };
            outlet.put(match outgoing {
                Outgoing::Frame(ServerFrame::Message { sequence, acknowledged, data, binary }) => {
                    Item::Stream { sequence, acknowledged: acknowledged.unwrap_or(0), data, binary }
                }
                other => {
                    let Encoded { data, binary } = other.encode();
                    Item::Message { data, binary, sequence: 0 }
                }
            });
        }
        let held = inner.machine.is_held(LinkId(outlet.id.0));
        self.carry_out(inner, now, By::Task(outlet.id));
        if held {
            // The application would see to it at the end of its batch, which may be far.
            self.ask_to_write();
        }
        more || held
    }

    /// Bytes of the connection's stream that it has not taken.
    pub fn unsent_bytes(&self, outlet: &Outlet) -> usize {
        let inner = self.inner.lock();
        let session = inner.machine.session_of(LinkId(outlet.id.0)).and_then(|key| inner.machine.session(key));
        session.map_or(0, Session::unsent_bytes)
    }

    /// A batch of the application's work has ended.
    pub fn end_batch(&self) {
        if self.settled.load(Ordering::Relaxed) && self.settled.swap(false, Ordering::AcqRel) {
            let mut inner = self.inner.lock();
            inner.machine.handle_batch_end();
            self.carry_out(inner, clock::now(), By::Application);
        }
    }

    /// See [`crate::bridge::Bridge::step`].
    pub fn step(&self, done: Option<DeliveryId>, begin: Option<DeliveryId>) -> bool {
        let mut inner = self.inner.lock();
        let now = inner.latest;
        let start = inner.machine.handle_step(now, done, begin);
        if done.is_some() {
            self.expect_batch_end();
            self.carry_out_if_any(inner, now, By::Application);
        }
        matches!(start, Start::Attempt(_))
    }

    pub fn settle(&self, delivery: &Delivery, verdict: Verdict) {
        let Delivery::Item { outbox, id } = delivery else { return };
        let now = clock::now();
        let mut inner = self.inner.lock();
        let machine = &mut inner.machine;
        match verdict {
            Verdict::Done => machine.handle_done(now, outbox, *id),
            Verdict::Failed => machine.handle_failed(now, outbox, *id),
            Verdict::Rejected { code, reason, permanent } => {
                machine.handle_rejected(now, outbox, *id, code, reason, permanent);
            }
        }
        self.expect_batch_end();
        self.carry_out(inner, now, By::Application);
    }

    fn expect_batch_end(&self) {
        if !self.settled.load(Ordering::Relaxed)
            && !self.settled.swap(true, Ordering::AcqRel)
            && let Some(core) = self.core.upgrade()
        {
            core.expect_batch_end();
        }
    }

    /// To the connection's session.
    pub fn send(&self, outlet: &Outlet, data: Bytes, binary: bool) -> Sent {
        if !outlet.is_open() {
            return Sent::Closed;
        }
        let now = clock::now();
        let mut inner = self.inner.lock();
        inner.latest = now;
        let Some(sent) = inner.machine.send_on(now, LinkId(outlet.id.0), data, binary) else { return Sent::Closed };
        let Inner { machine, book, .. } = &mut *inner;
        if let Some(book) = book
            && let Some(key) = machine.session_of(LinkId(outlet.id.0))
            && let Some(message) = machine.session(key).and_then(|session| session.ring().message(sent.sequence))
        {
            book.add_message(key, sent.sequence, message);
        }
        self.count_sent(outlet, now, sent.unsent);
        self.carry_out_and_append(inner, now);
        Sent::Queued
    }

    /// To a session, connected or not; 0: it has ended.
    pub fn send_to_session(&self, session: &str, data: Bytes, binary: bool) -> u64 {
        let Ok(key) = Key::new(session) else { return 0 };
        let now = clock::now();
        let mut inner = self.inner.lock();
        let sequence = self.send_to(&mut inner, now, &key, data, binary);
        self.carry_out_and_append(inner, now);
        sequence.unwrap_or(0)
    }

    /// To each session, connected or not, but those of `except`; returns how many.
    pub fn broadcast(&self, data: &Bytes, binary: bool, except: &[ConnId]) -> usize {
        if !self.is_used() {
            return 0;
        }
        let now = clock::now();
        let mut inner = self.inner.lock();
        let spared: Vec<_> =
            except.iter().filter_map(|conn| inner.machine.session_of(LinkId(conn.0)).cloned()).collect();
        let keys: Vec<_> = inner.machine.session_keys().filter(|key| !spared.contains(key)).cloned().collect();
        for key in &keys {
            self.send_to(&mut inner, now, key, data.clone(), binary);
            inner = self.append_early(inner, now);
        }
        self.carry_out_and_append(inner, now);
        keys.len()
    }

    /// To each session of the user, connected or not; returns how many.
    pub fn send_to_user(&self, user: &str, data: &Bytes, binary: bool) -> usize {
        if !self.is_used() {
            return 0;
        }
        let now = clock::now();
        let mut inner = self.inner.lock();
        let keys: Vec<_> = inner.users.get(user).into_iter().flatten().cloned().collect();
        let mut count = 0;
        for key in &keys {
            count += usize::from(self.send_to(&mut inner, now, key, data.clone(), binary).is_some());
            inner = self.append_early(inner, now);
        }
        self.carry_out_and_append(inner, now);
        count
    }

    /// Into the channel's log, for those who read it now or when they come back, but not for `except`.
    pub fn publish(&self, channel: &str, data: &[u8], binary: bool, except: &[ConnId]) {
        if !self.is_used() {
            return;
        }
        let Ok(channel) = ChannelName::new(channel) else { return };
        let now = clock::now();
        let mut inner = self.inner.lock();
        // Without a log nobody has a place in it.
        if inner.machine.channel_log(&channel).is_some() {
            let links: Vec<_> = except.iter().map(|conn| LinkId(conn.0)).collect();
            inner.machine.publish_except(now, &channel, data, binary, &links);
            self.carry_out_and_append(inner, now);
        }
    }

    /// Whether the channel may have a log, or has one.
    ///
    /// # Errors
    /// `limits.maxChannels`.
    pub fn make_room(&self, channel: &str) -> Result<(), CommandError> {
        let Ok(channel) = ChannelName::new(channel) else { return Ok(()) };
        if self.inner.lock().machine.make_room(&channel) {
            return Ok(());
        }
        let limit = self.config.server_limits.max_channels;
        Err(CommandError::Limit(format!("{limit} channels have a log, limits.maxChannels allows no more")))
    }

    /// The application subscribes a connection's session.
    pub fn subscribe(&self, outlet: &Outlet, channel: &str) {
        let Ok(channel) = ChannelName::new(channel) else { return };
        let now = clock::now();
        let mut inner = self.inner.lock();
        let Some(key) = inner.machine.session_of(LinkId(outlet.id.0)).cloned() else { return };
        inner.machine.subscribe(now, &key, &channel);
        inner.changed(&key);
        inner.moved(channel);
        self.carry_out(inner, now, By::Application);
    }

    /// The application ends a subscription of a connection's session.
    pub fn unsubscribe(&self, outlet: &Outlet, channel: &str) {
        let Ok(channel) = ChannelName::new(channel) else { return };
        let now = clock::now();
        let mut inner = self.inner.lock();
        let Some(key) = inner.machine.session_of(LinkId(outlet.id.0)).cloned() else { return };
        inner.machine.unsubscribe(&key, &channel);
        inner.changed(&key);
        self.carry_out(inner, now, By::Application);
    }

    /// The application has given a connection a user.
    pub fn bind(&self, outlet: &Outlet, user: &str) {
        let mut inner = self.inner.lock();
        if let Some(key) = inner.machine.session_of(LinkId(outlet.id.0)).cloned() {
            inner.set_user(&key, Some(user.into()));
        }
    }

    /// Whether the question is one of this server's.
    pub fn has_ticket(&self, ticket: Ticket) -> bool {
        self.inner.lock().questions.contains_key(&ticket)
    }

    pub fn answer_authentication(&self, ticket: Ticket, answer: Authentication) {
        let now = clock::now();
        let mut inner = self.inner.lock();
        let Some(Question::Authentication { conn, known, charge }) = inner.questions.remove(&ticket) else { return };
        self.memory.release(charge);
        inner.waiting.retain(|(_, waiting)| *waiting != conn);
        let Some(link) = inner.links.get_mut(&conn) else { return };
        let asking = link.asking.get_or_insert_default();
        asking.asked = false;
        let fresh = asking.fresh.take();
        let accepted = matches!(answer, Authentication::Accepted { .. });
        match answer {
            Authentication::Accepted { user, claims } => {
                asking.user.clone_from(&user);
                asking.claims = claims;
                inner.machine.handle_authenticated(now, LinkId(conn.0), Ok(user));
            }
            Authentication::Refused { code, reason } => {
                let code = code.unwrap_or(if known { close::TOKEN_EXPIRED } else { close::UNAUTHORIZED });
                if reason.is_empty() {
                    inner.machine.handle_authenticated(now, LinkId(conn.0), Err(code));
                } else {
                    inner.machine.disconnect(now, LinkId(conn.0), code, close::truncate_reason(&reason));
                }
            }
        }
        // Where it is not open yet, its opening sees to it.
        if accepted && let Some(key) = inner.links.get(&conn).and_then(|link| link.session.clone()) {
            inner.refresh_profile(conn, &key);
        }
        if let Some((token, session)) = fresh {
            self.ask_authentication(&mut inner, now, conn, token, session);
        }
        self.carry_out(inner, now, By::Application);
    }

    pub fn answer_authorisation(&self, conn: ConnId, channel: &str, mut allowed: bool) {
        let Ok(channel) = ChannelName::new(channel) else { return };
        let now = clock::now();
        let mut inner = self.inner.lock();
        if let Some(link) = inner.links.get_mut(&conn)
            && let Some(asking) = &mut link.asking
        {
            asking.channels_asked = asking.channels_asked.saturating_sub(1);
            link.forget_asking();
        }
        // Else the client has left the channel before it was let in.
        let Inner { machine, links, .. } = &mut *inner;
        if allowed
            && machine.is_asking(LinkId(conn.0), &channel)
            && let Some(link) = links.get(&conn)
        {
            // The limits are those of all connections.
            allowed = machine.make_room(&channel) && self.join(&link.outlet, channel.as_str()).is_ok();
        }
        inner.machine.handle_authorised(now, LinkId(conn.0), &channel, allowed);
        // It may have been let in before.
        if let Some(link) = inner.links.get(&conn).filter(|_| !allowed)
            && let Some(session) = inner.machine.session_of(LinkId(conn.0)).and_then(|key| inner.machine.session(key))
            && !session.is_subscribed(&channel)
        {
            self.leave(&link.outlet, channel.as_str());
        }
        self.carry_out(inner, now, By::Application);
    }

    pub fn answer_snapshot(&self, ticket: Ticket, state: Option<&(Bytes, bool)>) {
        let now = clock::now();
        let mut inner = self.inner.lock();
        let Some(Question::Snapshot { channel, position, conns }) = inner.questions.remove(&ticket) else { return };
        inner.snapshots.remove(&(channel.clone(), position.epoch.clone(), position.offset));
        for conn in conns {
            inner.machine.handle_snapshot(LinkId(conn.0), &channel, &position, state.cloned());
        }
        self.carry_out(inner, now, By::Application);
    }

    /// A session that lives.
    pub fn session(&self, session: &str) -> Option<SessionInfo> {
        let key = Key::new(session).ok()?;
        let inner = self.inner.lock();
        inner.machine.session(&key).map(|_| inner.describe(&key))
    }

    pub fn is_online(&self, session: &str) -> bool {
        Key::new(session).is_ok_and(|key| self.inner.lock().machine.link_of(&key).is_some())
    }

    pub fn change(&self, session: &str, change: Change, if_version: Option<u64>) -> Option<u64> {
        let key = Key::new(session).ok()?;
        let mut inner = self.inner.lock();
        inner.machine.session(&key)?;
        // The store is closed: it would be lost.
        if inner.book.is_none() && self.config.sessions.store.is_some() {
            return None;
        }
        inner.changed(&key);
        inner.machine.treasure(&key);
        inner.profiles.entry(key).or_default().data.apply(change, if_version)
    }

    /// Nobody new is let in; all are asked to leave before `deadline` has passed, when they are closed.
    pub fn drain(&self, deadline: Duration) {
        if self.is_used() {
            let now = clock::now();
            let mut inner = self.inner.lock();
            inner.machine.drain(now, deadline);
            self.carry_out(inner, now, By::Timekeeper);
        }
    }

    /// The server has ended.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.alarm.notify_one();
    }

    /// What of the process's memory sessions take.
    pub fn charged(&self) -> usize {
        self.inner.lock().charged
    }

    pub fn stats(&self) -> Stats {
        let int = |value: u64| Stat::Int(i64::try_from(value).unwrap_or(i64::MAX));
        // The log's lock may be held by who waits for the disk.
        let log = self.inner.lock().book.as_ref().map(|book| book.log.clone());
        let store = log.map(|log| {
            let stats = log.stats();
            Stat::Tree(Stats(vec![
                ("records".into(), int(stats.records)),
                ("fsyncs".into(), int(stats.fsyncs)),
                ("bytesOnDisk".into(), int(stats.bytes_on_disk)),
                ("failed".into(), Stat::Flag(self.disk_failed.load(Ordering::Acquire))),
            ]))
        });
        let inner = self.inner.lock();
        let counters = inner.machine.counters();
        let connected = inner.machine.session_keys().filter(|key| inner.machine.link_of(key).is_some()).count();
        let mut stats = vec![
            ("count".into(), int(inner.machine.session_count() as u64)),
            ("connected".into(), int(connected as u64)),
            ("limit".into(), int(self.config.sessions.max_sessions as u64)),
            ("resumed".into(), int(counters.resumed)),
            ("replayed".into(), int(counters.replayed)),
            ("duplicates".into(), int(counters.duplicates)),
            ("gaps".into(), int(counters.gaps)),
            ("rejected".into(), int(counters.rejected)),
            ("unacknowledged".into(), int(inner.machine.unacknowledged())),
            ("outboxes".into(), int(inner.machine.inbox_count() as u64)),
            ("bytes".into(), int(inner.machine.kept_bytes() as u64)),
        ];
        stats.extend(store.map(|store| ("store".into(), store)));
        Stats(stats)
    }

    /// The application's batch has come to its end: what clients may be told of it is given to the system first.
    /// Waits for the disk, and with it who calls.
    pub fn append(&self) {
        if self.unwritten.load(Ordering::Relaxed) && self.unwritten.swap(false, Ordering::AcqRel) {
            let _ = self.append_with(&mut self.scribe.lock(), By::Application);
        }
    }

    /// Appends what there is, and lets it go out.
    fn append_with(&self, scribe: &mut Scribe, by: By) -> Result<(), StoreError> {
        let mut inner = self.inner.lock();
        inner.stage_published();
        let Inner { machine, book: Some(book), profiles, .. } = &mut *inner else {
            // Closed: nobody is to wait for it.
            let place = inner.machine.place();
            inner.machine.handle_written(place);
            self.carry_out(inner, clock::now(), by);
            return Ok(());
        };
        let (batch, place, log) = (book.take(machine, profiles), machine.place(), book.log.clone());
        drop(inner);
        let appended = batch.append_to(&log);
        let mut inner = self.inner.lock();
        let failed =
            inner.book.as_mut().map_or_else(BTreeMap::new, |book| book.handle_appended(batch, appended.is_ok()));
        // Also when it has failed: the server goes on as one without a store.
        inner.machine.handle_written(place);
        self.carry_out(inner, clock::now(), by);
        if let Err(error) = &appended {
            scribe.torn = true;
            // Not before, or it would be tried again at once.
            if let Some(book) = &mut self.inner.lock().book {
                book.put_back(failed);
            }
            self.tell_disk_failed(error);
        }
        appended
    }

    /// Appends what there is where it is much, in between; the application's thread only.
    fn append_early<'a>(&'a self, inner: MutexGuard<'a, Inner>, now: Time) -> MutexGuard<'a, Inner> {
        if inner.staged_bytes() < STAGED {
            return inner;
        }
        self.carry_out(inner, now, By::Application);
        self.append();
        self.inner.lock()
    }

    /// As [`Sessions::carry_out_if_any`], on the application's thread, which appends where it is much.
    fn carry_out_and_append(&self, mut inner: MutexGuard<'_, Inner>, now: Time) {
        inner.stage_published();
        let much = inner.staged_bytes() >= STAGED;
        self.carry_out_if_any(inner, now, By::Application);
        if much {
            self.append();
        }
    }

    /// Writes everything anew, in pieces, between which others append; what is up to the index returned is no
    /// longer needed once all is durable.
    fn write_anew(&self) -> Result<u64, StoreError> {
        let Some(log) = self.inner.lock().book.as_ref().map(|book| book.log.clone()) else { return Ok(0) };
        // Without a lock that others wait for, so that they need not wait while the file is left.
        log.sync_all()?;
        let mut scribe = self.scribe.lock();
        self.append_with(&mut scribe, By::Timekeeper)?;
        log.roll()?;
        // What could not be appended from here on will be missing.
        scribe.torn = false;
        drop(scribe);
        let (before, start) = (log.last_index(), log.bytes());
        let mut items = Whole::all(&self.inner.lock().machine).into_iter().peekable();
        while items.peek().is_some() {
            let mut scribe = self.scribe.lock();
            let mut inner = self.inner.lock();
            let Inner { machine, book: Some(book), profiles, .. } = &mut *inner else { return Ok(0) };
            while book.staged_bytes() < STAGED
                && let Some(item) = items.next()
            {
                book.stage(machine, profiles, &item);
            }
            drop(inner);
            self.append_with(&mut scribe, By::Timekeeper)?;
        }
        self.scribe.lock().compact = log.bytes().saturating_sub(start);
        Ok(before)
    }

    /// The end of the application's batch is to see to it.
    fn expect_append(&self) {
        if !self.unwritten.swap(true, Ordering::AcqRel)
            && let Some(core) = self.core.upgrade()
        {
            core.expect_append();
        }
    }

    fn ask_to_write(&self) {
        if !self.writing.swap(true, Ordering::AcqRel)
            && let (Some(core), Some(myself)) = (self.core.upgrade(), self.myself.get().and_then(Weak::upgrade))
        {
            core.keeper.run(move || myself.tend(false));
        }
    }

    /// Writes everything and gives the directory back: the server has ended.
    pub fn close_store(&self) {
        let Some(log) = self.inner.lock().book.as_ref().map(|book| book.log.clone()) else { return };
        let anew = self.write_anew();
        let mut scribe = self.scribe.lock();
        // What came meanwhile.
        let appended = self.append_with(&mut scribe, By::Timekeeper);
        self.inner.lock().book = None;
        drop(scribe);
        let discarded = anew.and_then(|before| appended.and_then(|()| log.discard(before)));
        if let Err(error) = discarded.and(log.close()) {
            self.tell_disk_failed(&error);
        }
    }

    fn tell_disk_failed(&self, error: &StoreError) {
        // Once, not for each message.
        if !self.disk_failed.swap(true, Ordering::AcqRel) {
            self.fail_storage(error.to_string());
        }
    }

    fn fail_storage(&self, message: String) {
        self.log(LogLevel::Error, message.clone());
        let failure = Failure { kind: FailureKind::Storage, message, code: 0 };
        self.events.push(Event::Failure { endpoint: self.id, conn: None, failure: Box::new(failure) });
    }

    fn log(&self, level: LogLevel, message: String) {
        if level >= self.config.log_level {
            let record = Box::new(LogRecord { level, message, context: Vec::new() });
            self.events.push(Event::Log { endpoint: Some(self.id), record });
        }
    }

    fn send_to(&self, inner: &mut Inner, now: Time, key: &Key, data: Bytes, binary: bool) -> Option<u64> {
        let sequence = inner.send(now, key, data, binary)?;
        if let Some(link) = inner.machine.link_of(key).and_then(|link| inner.links.get(&ConnId(link.0))) {
            let unsent = inner.machine.session(key).map_or(0, Session::unsent_bytes);
            self.count_sent(&link.outlet, now, unsent);
        }
        Some(sequence)
    }

    fn count_sent(&self, outlet: &Outlet, now: Time, unsent: usize) {
        outlet.counters.messages_out.fetch_add(1, Ordering::Relaxed);
        outlet.count_message(now);
        if unsent > self.config.send.limit / 2 {
            outlet.congested.store(true, Ordering::Relaxed);
        }
    }

    /// Carries out what the machine wants; gives the lock back.
    fn carry_out(&self, mut inner: MutexGuard<'_, Inner>, now: Time, by: By) -> Upshot {
        let first = inner.machine.poll_output();
        self.carry_out_from(first, inner, now, by)
    }

    /// As [`Sessions::carry_out`], for what makes no deadlines without outputs, nor anything to write.
    fn carry_out_if_any(&self, mut inner: MutexGuard<'_, Inner>, now: Time, by: By) {
        let first = inner.machine.poll_output();
        if first.is_some() || inner.book.is_some() {
            self.carry_out_from(first, inner, now, by);
        }
    }

    /// As [`Sessions::carry_out`], with an output that was taken.
    fn carry_out_from(&self, mut next: Option<Output>, mut inner: MutexGuard<'_, Inner>, now: Time, by: By) -> Upshot {
        let mut upshot = Upshot::Nothing;
        while let Some(output) = next.take().or_else(|| inner.machine.poll_output()) {
            match output {
                Output::Answered { link, n } => {
                    if by == By::Task(ConnId(link.0)) {
                        upshot = Upshot::Answered(n);
                    }
                }
                Output::Authenticate { link, auth, session } => {
                    self.ask_authentication(&mut inner, now, ConnId(link.0), auth, session);
                }
                Output::Authorise { link, channel } => {
                    let conn = ConnId(link.0);
                    let Some(state) = inner.links.get_mut(&conn) else { continue };
                    let asking = state.asking.get_or_insert_default();
                    asking.channels_asked += 1;
                    // Who asks, leaves and asks again is not to fill the application's queue.
                    if asking.channels_asked > QUESTIONS_OF_ONE.max(2 * self.config.server_limits.max_subscriptions) {
                        let why = "too many questions about channels";
                        inner.machine.disconnect(now, link, close::RATE_LIMITED, why);
                        continue;
                    }
                    self.events.push(Event::Authorise { server: self.id, conn, channel: channel.as_str().into() });
                }
                Output::Close { link, code, reason } => self.close(&mut inner, ConnId(link.0), code, reason, by),
                Output::Deliver { link, outbox, delivery } => {
                    let Some(link) = inner.links.get(&ConnId(link.0)) else { continue };
                    self.deliver(&link.outlet, now, outbox, [delivery].into());
                }
                Output::Edit { link, outbox, delivery, edit } => {
                    self.ask_edit(&inner, link, delivery, outbox, &edit);
                }
                Output::Edited { channel, key, created, data, by: link } => {
                    self.tell_edited(&mut inner, &channel, key, created, &data, (link, by));
                }
                Output::Opened { link, session, resumed, known } => {
                    self.open(&mut inner, ConnId(link.0), &session, resumed, known);
                }
                Output::SessionEnded { session } => {
                    let info = inner.describe(&session);
                    inner.set_user(&session, None);
                    inner.profiles.remove(&session);
                    if let Some(book) = &mut inner.book {
                        book.forget(&session);
                    }
                    self.events.push(Event::SessionEnded { server: self.id, session: Box::new(info), told: true });
                }
                Output::Snapshot { link, channel, position } => {
                    self.ask_snapshot(&mut inner, ConnId(link.0), channel, position);
                }
                Output::Store { outbox, handled } => {
                    if let Some(book) = &mut inner.book {
                        book.marks.insert(outbox, handled);
                    }
                }
                Output::Subscribed { link, channel, on } => {
                    inner.moved(channel.clone());
                    if !on && let Some(key) = inner.machine.session_of(link).cloned() {
                        inner.changed(&key);
                    }
                    let Some(link) = inner.links.get(&ConnId(link.0)) else { continue };
                    if on {
                        // Asked before it was allowed; a channel too many is no news here.
                        let _ = self.join(&link.outlet, channel.as_str());
                    } else {
                        self.leave(&link.outlet, channel.as_str());
                    }
                }
                Output::Transmit { link } => {
                    if by != By::Task(ConnId(link.0))
                        && let Some(link) = inner.links.get(&ConnId(link.0))
                    {
                        self.wake(&link.outlet, by);
                    }
                }
            }
        }
        let next = inner.next_deadline();
        inner.stage_published();
        if let Some(book) = &inner.book {
            let pressing = book.is_pressing();
            if book.has_news() || inner.machine.is_unwritten() {
                self.expect_append();
            }
            drop(inner);
            if pressing {
                self.ask_to_write();
            }
        } else {
            drop(inner);
        }
        if let Some(next) = next
            && next.as_micros() < self.sleeping_until.load(Ordering::Acquire)
        {
            self.alarm.notify_one();
        }
        upshot
    }

    /// Gives items to the application.
    fn deliver(&self, outlet: &Outlet, now: Time, outbox: Key, items: VecDeque<OutboxItem>) {
        let bytes: usize = items.iter().map(|item| item.data.len()).sum();
        outlet.counters.messages_in.fetch_add(items.len() as u64, Ordering::Relaxed);
        outlet.count_message(now);
        outlet.add_inbound(bytes + items.len() * MESSAGE_COST);
        self.events.push(Event::Items { endpoint: self.id, conn: outlet.id, outbox, items });
    }

    fn wake(&self, outlet: &Arc<Outlet>, by: By) {
        match self.core.upgrade() {
            Some(core) if by == By::Application => core.mark_queued(outlet),
            _ => Core::wake(outlet),
        }
    }

    fn ask_authentication(
        &self,
        inner: &mut Inner,
        now: Time,
        conn: ConnId,
        token: Option<Secret>,
        session: Option<Key>,
    ) {
        let Some(core) = self.core.upgrade() else { return };
        let Some(link) = inner.links.get_mut(&conn) else { return };
        let asking = link.asking.get_or_insert_default();
        // One from before anybody asked has left it with the connection.
        let Some(request) = asking.request.clone().or_else(|| link.outlet.request().cloned()) else { return };
        if asking.asked {
            // Of those that come meanwhile, only the last are worth a look.
            asking.fresh = Some((token, session));
            return;
        }
        asking.asked = true;
        if inner.questions.len() >= QUESTIONS {
            let why = "too many wait for the application";
            return inner.machine.disconnect(now, LinkId(conn.0), close::TRY_AGAIN_LATER, why);
        }
        let charge = token.as_ref().map_or(0, |token| token.0.len()) + MESSAGE_COST;
        self.memory.charge(charge);
        let ticket = core.next_ticket();
        inner.questions.insert(ticket, Question::Authentication { conn, known: session.is_some(), charge });
        if inner.machine.session_of(LinkId(conn.0)).is_none() {
            inner.waiting.push_back((now + self.config.server_limits.auth_timeout, conn));
        }
        let session = session.map(Into::into);
        let credentials = Box::new(Credentials { conn, request, token, session });
        self.events.push(Event::Authenticate { server: self.id, ticket, credentials });
    }

    fn ask_snapshot(&self, inner: &mut Inner, conn: ConnId, channel: ChannelName, position: Position) {
        let place = (channel.clone(), position.epoch.clone(), position.offset);
        if let Some(Question::Snapshot { conns, .. }) =
            inner.snapshots.get(&place).and_then(|ticket| inner.questions.get_mut(ticket))
        {
            conns.push(conn);
            return;
        }
        let Some(core) = self.core.upgrade() else { return };
        let ticket = core.next_ticket();
        inner.snapshots.insert(place, ticket);
        let event = Event::SnapshotWanted { server: self.id, ticket, channel: channel.as_str().into() };
        inner.questions.insert(ticket, Question::Snapshot { channel, position, conns: vec![conn] });
        self.events.push(event);
    }

    fn open(&self, inner: &mut Inner, conn: ConnId, session: &Key, resumed: bool, known: bool) {
        if !known {
            inner.profiles.remove(session);
        }
        inner.refresh_profile(conn, session);
        inner.changed(session);
        let described = inner.describe(session);
        let channels: Vec<_> = inner.machine.session(session).map_or_else(Vec::new, |session| {
            session.channels().filter(|channel| session.is_server_made(channel)).cloned().collect()
        });
        let Some(link) = inner.links.get_mut(&conn) else { return };
        let Some(mut info) = link.asking.as_mut().and_then(|asking| asking.info.take()) else { return };
        link.session = Some(session.clone());
        link.forget_asking();
        info.resumed = resumed;
        let outlet = link.outlet.clone();
        self.tell_parted(inner, session);
        if let Some(user) = &described.user {
            self.directory.bind(&outlet, user);
        }
        info.session = Some(Box::new(described));
        outlet.announce(*info);
        for channel in channels {
            // They were within the limits when they were made.
            let _ = self.join(&outlet, channel.as_str());
        }
        // The task learns that it is open, too.
        outlet.want_task();
        Core::wake(&outlet);
    }

    /// The machine has ended the connection.
    fn close(&self, inner: &mut Inner, conn: ConnId, code: u16, reason: String, by: By) {
        let Some(link) = inner.links.remove(&conn) else { return };
        let outlet = link.outlet;
        outlet.set_closing();
        // Its peer may be long gone.
        for channel in self.directory.remove(&outlet) {
            self.tell_leave(&outlet, channel);
        }
        if matches!(code, close::BAD_PROTOCOL | close::STATE_INVALID | close::TOO_BIG) && outlet.is_announced() {
            let kind = if code == close::TOO_BIG { FailureKind::Limit } else { FailureKind::Protocol };
            let failure = Box::new(Failure { kind, message: reason.clone(), code });
            self.events.push(Event::Failure { endpoint: self.id, conn: Some(conn), failure });
        }
        if code == close::SUPERSEDED {
            // The one that has the session now is about to be announced.
            if outlet.retract() {
                self.tell_close(conn, code, reason.as_str().into(), false);
            }
        } else if let Some(session) = link.session {
            self.tell_parted(inner, &session);
            inner.parting_of.insert(session.clone(), conn);
            let reason = reason.as_str().into();
            inner.parting.insert(conn, Parting { session, outlet: outlet.clone(), code, reason });
        }
        outlet.end(Ending::Close { code, wire: code, reason });
        outlet.want_task();
        match self.core.upgrade() {
            Some(core) if by == By::Application => core.mark(&outlet),
            _ => Core::wake(&outlet),
        }
    }

    /// The connection is in the channel.
    fn join(&self, outlet: &Arc<Outlet>, channel: &str) -> Result<(), CommandError> {
        let joined = self.directory.subscribe(outlet, channel, &self.config.server_limits)?;
        if let (Some(channel), true) = (joined, self.questions.announce_members.load(Ordering::Relaxed)) {
            self.events.push(Event::Join { server: self.id, channel, conn: outlet.id });
        }
        Ok(())
    }

    fn leave(&self, outlet: &Outlet, channel: &str) {
        if let Some(channel) = self.directory.unsubscribe(outlet, channel) {
            self.tell_leave(outlet, channel);
        }
    }

    /// The session's next connection is about to be announced, or has ended, too.
    fn tell_parted(&self, inner: &mut Inner, session: &Key) {
        let conn = inner.parting_of.get(session).copied();
        if let Some(Parting { outlet, code, reason, .. }) = conn.and_then(|conn| inner.take_parting(conn))
            && outlet.retract()
        {
            self.tell_close(outlet.id, code, reason, false);
        }
    }

    fn tell_close(&self, conn: ConnId, code: u16, reason: Box<str>, clean: bool) {
        self.events.push(Event::Close { endpoint: self.id, conn, code, reason, clean });
    }

    fn tell_leave(&self, outlet: &Outlet, channel: Arc<str>) {
        if self.questions.announce_members.load(Ordering::Relaxed) {
            self.events.push(Event::Leave { server: self.id, channel, conn: outlet.id });
        }
    }

    /// Deadlines of the machine and of questions, for as long as the server lives.
    async fn keep_time(self: Arc<Self>) {
        while !self.over.load(Ordering::Acquire) {
            let next = self.look_at_deadlines();
            tokio::select! {
                () = self.alarm.notified() => {}
                () = tokio::time::sleep(next - clock::now()) => {}
            }
        }
        let mut inner = self.inner.lock();
        self.memory.release(std::mem::take(&mut inner.charged));
        for (_, question) in inner.questions.drain() {
            if let Question::Authentication { charge, .. } = question {
                self.memory.release(charge);
            }
        }
    }

    /// Returns when to look again.
    fn look_at_deadlines(&self) -> Time {
        let now = clock::now();
        let mut inner = self.inner.lock();
        inner.machine.handle_timeout(now);
        while let Some((until, conn)) = inner.waiting.front().copied()
            && until <= now
        {
            inner.waiting.pop_front();
            let why = "the application did not answer in time";
            inner.machine.disconnect(now, LinkId(conn.0), close::TRY_AGAIN_LATER, why);
        }
        self.count_memory(&mut inner, now);
        let next = inner.next_deadline().map_or(now + COUNT, |next| next.min(now + COUNT));
        self.sleeping_until.store(next.as_micros(), Ordering::Release);
        self.carry_out(inner, now, By::Timekeeper);
        next
    }

    /// Charges what sessions hold to the process, and gives some back where that has too much.
    fn count_memory(&self, inner: &mut Inner, now: Time) {
        if now < inner.count_again {
            return;
        }
        let mut held = inner.machine.kept_bytes();
        self.charge(inner, held);
        if self.memory.is_over() {
            let excess = self.memory.used().saturating_sub(self.memory.limit());
            held = held.saturating_sub(inner.machine.shed(excess));
            self.charge(inner, held);
        }
        inner.counted = now;
        inner.count_again = now + COUNT.max((clock::now() - now) * 100);
    }

    fn charge(&self, inner: &mut Inner, held: usize) {
        if held > inner.charged {
            self.memory.charge(held - inner.charged);
        } else {
            self.memory.release(inner.charged - held);
        }
        inner.charged = held;
    }
}

impl Tend for Sessions {
    fn tend(&self, tick: bool) {
        self.writing.store(false, Ordering::Release);
        let Some(log) = self.inner.lock().book.as_ref().map(|book| book.log.clone()) else { return };
        let mut scribe = self.scribe.lock();
        let appended = self.append_with(&mut scribe, By::Timekeeper);
        let anew = tick && appended.is_ok() && (scribe.torn || is_bloated(log.bytes(), scribe.compact));
        drop(scribe);
        let before = appended.and_then(|()| if anew { self.write_anew().map(Some) } else { Ok(None) });
        let marks = self.inner.lock().book.as_mut().map(Book::take_written).unwrap_or_default();
        let synced = before.and_then(|before| {
            if tick || !marks.is_empty() {
                log.sync_all()?;
            }
            before.map_or(Ok(()), |before| log.discard(before))?;
            // Another thread may have met an error meanwhile, or it is an old one.
            log.check()
        });
        let now = clock::now();
        let mut inner = self.inner.lock();
        match synced {
            Ok(()) => {
                self.disk_failed.store(false, Ordering::Release);
                if !marks.is_empty() {
                    for (outbox, handled) in marks {
                        inner.machine.handle_stored(now, &outbox, handled);
                    }
                    inner.machine.handle_batch_end();
                    self.carry_out(inner, now, By::Timekeeper);
                }
            }
            // What was handled is not acknowledged then: it comes again, unless the disk takes it later.
            Err(error) => {
                if let Some(book) = &mut inner.book {
                    book.put_back(marks);
                }
                drop(inner);
                self.tell_disk_failed(&error);
            }
        }
    }
}

impl Inner {
    /// `None`: no such session.
    fn send(&mut self, now: Time, key: &Key, data: Bytes, binary: bool) -> Option<u64> {
        let Some(book) = &mut self.book else { return self.machine.send(now, key, data, binary) };
        let sequence = self.machine.send(now, key, data, binary)?;
        if let Some(message) = self.machine.session(key).and_then(|session| session.ring().message(sequence)) {
            book.add_message(key, sequence, message);
        }
        Some(sequence)
    }

    /// The store is to have what was published.
    fn stage_published(&mut self) {
        while let Some((channel, log, entry)) = self.machine.poll_published() {
            if let Some(book) = &mut self.book {
                book.add_published(&channel, log.epoch(), entry);
            }
        }
    }

    /// Bytes that wait for the store.
    fn staged_bytes(&self) -> usize {
        self.book.as_ref().map_or(0, Book::staged_bytes)
    }

    fn next_deadline(&self) -> Option<Time> {
        let waiting = self.waiting.front().map(|(until, _)| *until);
        match (self.machine.poll_timeout(), waiting) {
            (Some(machine), Some(waiting)) => Some(machine.min(waiting)),
            (machine, waiting) => machine.or(waiting),
        }
    }

    fn take_parting(&mut self, conn: ConnId) -> Option<Parting> {
        let parting = self.parting.remove(&conn)?;
        self.parting_of.remove(&parting.session);
        Some(parting)
    }

    fn describe(&self, key: &Key) -> SessionInfo {
        let Profile { user, claims, data } = self.profiles.get(key).cloned().unwrap_or_default();
        SessionInfo { id: key.clone().into(), user, claims, data }
    }

    /// What the application has said of the connection's client holds for its session.
    fn refresh_profile(&mut self, conn: ConnId, key: &Key) {
        let asking = self.links.get_mut(&conn).and_then(|link| link.asking.as_mut());
        let (user, claims) =
            asking.map_or_else(Default::default, |asking| (asking.user.take(), std::mem::take(&mut asking.claims)));
        // Claims never change whose session it is; a user that the application has bound stays.
        if user.is_some() && self.profiles.get(key).is_none_or(|profile| profile.user.is_none()) {
            self.set_user(key, user);
        }
        if !claims.is_empty() {
            self.profiles.entry(key.clone()).or_default().claims = claims;
        }
    }

    /// The channel may be new: its place is to be written.
    fn moved(&mut self, channel: ChannelName) {
        if let Some(book) = &mut self.book {
            book.channels.insert(channel);
        }
    }

    /// The session's record is to be written.
    fn changed(&mut self, key: &Key) {
        if let Some(book) = &mut self.book {
            book.dirty.insert(key.clone());
        }
    }

    fn set_user(&mut self, key: &Key, user: Option<Arc<str>>) {
        self.changed(key);
        let old = self.profiles.get_mut(key).and_then(|profile| profile.user.take());
        if let Some(old) = old
            && let Some(keys) = self.users.get_mut(&old)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.users.remove(&old);
            }
        }
        if let Some(user) = user {
            self.machine.treasure(key);
            self.users.entry(user.clone()).or_default().insert(key.clone());
            self.profiles.entry(key.clone()).or_default().user = Some(user);
        }
    }
}

#[cfg(test)]
mod tests;
