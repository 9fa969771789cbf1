//! A server: all its connections, sessions, inboxes and channels in one machine.

mod documents;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;
use rand::RngCore;

use self::documents::Documents;
pub use self::documents::Write;
use super::ack;
use super::document::Edit;
use super::inbox::{Delivery, DeliveryId, Inbox, Receipt, Start, Verdict};
use super::log::{ChannelLog, Entry, Published};
use super::ring::{Message, Retention};
use super::session::{Incoming, Outgoing, Session, SessionRecord};
use super::table::Table;
use super::wire::{self, ClientFrame, GoAway, Heartbeat, Hello, ITEM_COST, Limits, Reject, ServerFrame, Why};
use super::{ChannelName, Key, Position, Secret, ShortId, Token, Violation};
use crate::{Time, close};

/// Names one connection; the driver's choice, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// A server's rules.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Of each session's stream and each channel's log.
    pub retention: Retention,
    /// How long a session lives without a connection.
    pub resume_ttl: Duration,
    /// How long an inbox lives without a connection.
    pub dedupe_ttl: Duration,
    pub redelivery_limit: u32,
    /// Bytes of one payload.
    pub max_message: usize,
    /// Bytes of items sent and not acknowledged, see [`wire::ITEM_COST`].
    pub window: u64,
    /// Bytes of a session's stream that its connection has not taken, beside what it is replayed: above it
    /// the connection is closed with 4002, and the rest waits for the next one. One message may always
    /// wait; of small ones 16384, or a 64th of this, if that is more.
    pub send_limit: usize,
    /// What WELCOME says.
    pub heartbeat: Option<Heartbeat>,
    /// What WELCOME says, see [`Server::set_spread`].
    pub spread: Duration,
    /// For HELLO; the driver times the application's answers itself.
    pub handshake_timeout: Duration,
    /// Above it the session goes that has been without a connection for longest, first of those that hold nothing.
    pub max_sessions: usize,
    /// Outboxes whose marks are remembered. Above it the one whose connection ended first is forgotten: it
    /// may have items handled again that were not acknowledged. Those in use are never forgotten.
    pub max_inboxes: usize,
    /// Of one session.
    pub max_subscriptions: usize,
    /// Logs, see [`Server::make_room`].
    pub max_channels: usize,
    /// Ask [`Output::Authenticate`]; else everybody is let in, without an owner.
    pub authenticate: bool,
    /// Ask [`Output::Authorise`] when a client subscribes; else it is denied.
    pub authorise: bool,
    /// Ask [`Output::Snapshot`] for those who lost their place in a channel.
    pub snapshots: bool,
    /// Ask [`Output::Store`] before an item is acknowledged, and wait for [`Server::handle_written`] before a
    /// client is told what a restart must know.
    pub store: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            resume_ttl: Duration::from_secs(120),
            dedupe_ttl: Duration::from_secs(7 * 24 * 3600),
            redelivery_limit: 5,
            max_message: 1024 * 1024,
            window: 1024 * 1024,
            send_limit: 1024 * 1024,
            heartbeat: Some(Heartbeat { interval: Duration::from_secs(25), timeout: Duration::from_secs(10) }),
            spread: Duration::from_millis(100),
            handshake_timeout: Duration::from_secs(10),
            max_sessions: 100_000,
            max_inboxes: 250_000,
            max_subscriptions: 128,
            max_channels: 100_000,
            authenticate: false,
            authorise: false,
            snapshots: false,
            store: false,
        }
    }
}

/// What the driver must do, or tell the application.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// The client answered beat `n`.
    Answered { link: LinkId, n: u64 },
    /// Ask the application; answer by [`Server::handle_authenticated`].
    Authenticate {
        link: LinkId,
        auth: Option<Secret>,
        /// The session asked for, where the client has shown its token, or already in use (`T`).
        session: Option<Key>,
    },
    /// Ask the application; answer by [`Server::handle_authorised`].
    Authorise { link: LinkId, channel: ChannelName },
    /// Close the connection; [`Server::handle_lost`] need not be called.
    Close { link: LinkId, code: u16, reason: String },
    /// Give the item to the application: [`Server::handle_start`], then its verdict. Items of one
    /// outbox one after another.
    Deliver { link: LinkId, outbox: Key, delivery: Delivery },
    /// Ask the application whether the edit may be made: [`Server::handle_start`], then
    /// [`Server::handle_edit_decided`] or [`Server::handle_failed`]. Only where [`Write::Ask`].
    Edit { link: LinkId, outbox: Key, delivery: Delivery, edit: Box<Edit> },
    /// A document has changed: `data` is the change as its receivers get it, those of the channel that have no session
    /// are to be told.
    Edited {
        channel: ChannelName,
        key: Box<str>,
        /// The key did not exist before.
        created: bool,
        data: Bytes,
        /// The client that did it; `None`: the application.
        by: Option<LinkId>,
    },
    /// WELCOME is queued: the connection is open for the application.
    Opened {
        link: LinkId,
        session: Key,
        /// The session is the one asked for, with a whole stream.
        resumed: bool,
        /// The session is the one asked for, with or without a hole in its stream.
        known: bool,
    },
    /// The session's time is over.
    SessionEnded { session: Key },
    /// Ask the application for the channel's state; answer by [`Server::handle_snapshot`].
    Snapshot { link: LinkId, channel: ChannelName, position: Position },
    /// Store the mark, then call [`Server::handle_stored`].
    Store { outbox: Key, handled: u64 },
    /// The client subscribed or unsubscribed.
    Subscribed { link: LinkId, channel: ChannelName, on: bool },
    /// There may be something to write: call [`Server::poll_transmit`] until `None`, as the
    /// connection takes it.
    Transmit { link: LinkId },
}

/// A message was appended to a session's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub sequence: u64,
    /// Bytes of the stream that the connection has not taken, with this message.
    pub unsent: usize,
}

/// What happened since the server began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Items that came again and were dropped.
    pub duplicates: u64,
    /// Outboxes forgotten before their time, see [`ServerConfig::max_inboxes`].
    pub evicted: u64,
    /// Holes told to clients, of streams and channels.
    pub gaps: u64,
    /// Items refused for good.
    pub rejected: u64,
    /// Messages sent before R.
    pub replayed: u64,
    /// Sessions that went on without a hole.
    pub resumed: u64,
    /// Bytes given back by [`Server::shed`].
    pub shed: u64,
}

/// What a store keeps of a server. Who missed messages that are not in it is told so.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// With their owners.
    pub sessions: Vec<(SessionRecord, Option<Arc<str>>)>,
    /// Outbox, newest generation, mark, and refusals that the client may not know of.
    pub inboxes: Vec<(Key, u64, u64, Vec<Reject>)>,
    /// Where each channel is, or was before the first of its messages that are kept.
    pub channels: Vec<(ChannelName, Position)>,
    /// Of sessions' streams the last messages, up to the one before the `next` of the session's record.
    pub streams: HashMap<Key, VecDeque<Message>>,
    /// What was published behind the channel's position.
    pub published: HashMap<ChannelName, Vec<Published>>,
}

/// One server. Inputs are `handle_*` and the application's commands; after each of them take all of
/// [`Server::poll_output`], then [`Server::poll_timeout`]. A driver with several threads may hold the
/// parts ([`Session`], [`Inbox`], [`ChannelLog`]) under locks of their own instead; this is how they
/// work together.
#[derive(Clone, Debug)]
pub struct Server<R> {
    config: ServerConfig,
    random: R,
    /// Begins the id of each session, to tell one that ended here from one of another life.
    instance: ShortId,
    links: std::collections::HashMap<LinkId, Link, BuildHasherDefault<LinkHasher>>,
    sessions: Table<Owned>,
    /// Sessions without a connection: those that hold nothing, then the others, the longest first.
    away: BTreeSet<(bool, Time, Key)>,
    inboxes: Table<Shared>,
    /// New ones, counted.
    inboxes_made: u64,
    /// Inboxes without a connection, the longest first.
    idle: BTreeSet<(Time, Key)>,
    logs: HashMap<ChannelName, ChannelLog>,
    documents: Documents,
    /// Who may be subscribed; checked when used.
    readers: HashMap<ChannelName, BTreeSet<Key>>,
    outputs: VecDeque<Output>,
    dirty: LinkSet,
    /// Connections with something to acknowledge at the end of the batch.
    settled: LinkSet,
    deadlines: BTreeSet<(Time, Deadline)>,
    counters: Counters,
    /// No new sessions; at the moment given the last connections are closed.
    draining: Option<Time>,
    /// Places given, see [`Server::handle_written`].
    places: u64,
    /// The last that is written.
    written: u64,
    /// Connections with something that is not.
    held: BTreeSet<LinkId>,
    /// What the store is to be given.
    published: VecDeque<(ChannelName, u64)>,
}

#[derive(Clone, Debug)]
enum Link {
    /// HELLO is due.
    Greeting {
        deadline: Time,
    },
    /// The application decides.
    Deciding(Box<Hello>),
    Open(Box<Open>),
}

#[derive(Clone, Debug)]
struct Open {
    session: Key,
    /// Where it is in [`Server::sessions`].
    session_place: u32,
    generation: u64,
    /// The outbox and its attachment.
    inbox: Option<(Key, u64)>,
    /// Where it is in [`Server::inboxes`].
    inbox_place: u32,
    /// Channels that the application decides on.
    asking: BTreeSet<ChannelName>,
}

#[derive(Clone, Debug)]
struct Owned {
    session: Session,
    owner: Option<Arc<str>>,
    link: Option<LinkId>,
    /// There is a deadline.
    armed: bool,
    /// The driver has something for it.
    treasured: bool,
    /// Where it is in [`Server::away`].
    away: Option<(bool, Time)>,
}

impl Owned {
    fn is_blank(&self) -> bool {
        !self.treasured && self.owner.is_none() && self.session.is_blank()
    }
}

#[derive(Clone, Debug)]
struct Shared {
    inbox: Inbox,
    /// The connection that has or had it last.
    link: LinkId,
    /// There is a deadline.
    armed: bool,
    /// Where it is in [`Server::idle`].
    idle: Option<Time>,
    late: Late,
}

/// Items that are done and that the session's acknowledgements do not count yet: they do before the connection is told
/// anything and at the end of the batch, many at a time.
#[derive(Clone, Copy, Debug, Default)]
struct Late {
    /// The end of the batch will see to them: the session has begun to count, so many messages and bytes so far.
    counted: Option<(u32, usize)>,
    count: u32,
    bytes: usize,
    /// When one was last counted at once.
    since: Time,
}

impl Late {
    /// Whether one more of `bytes` may wait; then it does.
    fn take(&mut self, bytes: usize) -> bool {
        let waits = self.counted.is_some_and(|(count, size)| {
            count + self.count + 1 < ack::MESSAGES && size + self.bytes + bytes < ack::BYTES
        });
        if waits {
            self.count += 1;
            self.bytes += bytes;
        }
        waits
    }
}

impl Shared {
    /// The handler ended well. True: that is all that is to be done for now.
    fn handle_done(&mut self, id: DeliveryId) -> bool {
        self.inbox.handle_done(id);
        !self.inbox.has_delivery() && self.late.take(id.bytes)
    }

    /// # Errors
    /// More was sent than the window has room for.
    fn check_window(&self, sequence: u64, item_cost: u64, config: &ServerConfig) -> Result<(), Violation> {
        // Twice: handlers of items that the client has given up may run. One item may be longer than the window.
        let allowed = config.window.saturating_add(config.window.max(item_cost));
        if self.inbox.outstanding() > allowed {
            return Err(Violation::new(
                close::STATE_INVALID,
                format!("P {sequence}: more than limits.window, {} bytes", config.window),
            ));
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    Acknowledgement(LinkId),
    Drain,
    Greeting(LinkId),
    Inbox(Key),
    Log(ChannelName),
    Session(Key),
}

impl<R: RngCore> Server<R> {
    /// `random` makes tokens: it must be cryptographically strong.
    #[must_use]
    pub fn new(config: ServerConfig, mut random: R) -> Self {
        Self {
            config,
            instance: ShortId::random(&mut random, 6),
            random,
            links: std::collections::HashMap::default(),
            sessions: Table::default(),
            away: BTreeSet::new(),
            inboxes: Table::default(),
            inboxes_made: 0,
            idle: BTreeSet::new(),
            logs: HashMap::default(),
            documents: Documents::default(),
            readers: HashMap::default(),
            outputs: VecDeque::new(),
            dirty: LinkSet::default(),
            settled: LinkSet::default(),
            deadlines: BTreeSet::new(),
            counters: Counters::default(),
            draining: None,
            places: 0,
            written: 0,
            held: BTreeSet::new(),
            published: VecDeque::new(),
        }
    }

    /// A server that goes on from what a store kept.
    #[must_use]
    pub fn restore(now: Time, config: ServerConfig, random: R, stored: Stored) -> Self {
        let mut server = Self::new(config, random);
        let Stored { sessions, inboxes, channels, mut streams, mut published } = stored;
        for (channel, position) in channels {
            server.deadlines.insert((now + server.config.retention.age, Deadline::Log(channel.clone())));
            let kept = published.remove(&channel).unwrap_or_default();
            let log = ChannelLog::restore(now, channel.clone(), server.config.retention, position, kept);
            server.logs.insert(channel, log);
        }
        for (record, owner) in sessions {
            let key = record.id.clone();
            for (channel, _, _) in &record.subscriptions {
                server.log(now, channel);
                server.readers.entry(channel.clone()).or_default().insert(key.clone());
            }
            let messages = streams.remove(&key).unwrap_or_default();
            let session = Session::restore(now, record, messages, server.config.retention, server.config.snapshots);
            server.deadlines.insert((now + server.config.resume_ttl, Deadline::Session(key.clone())));
            let owned = Owned { session, owner, link: None, armed: true, treasured: false, away: None };
            server.sessions.insert(key.clone(), owned);
            server.file(&key);
        }
        for (key, generation, handled, rejected) in inboxes {
            server.inboxes_made += 1;
            let inbox = Inbox::restore(now, server.config.redelivery_limit, generation, handled, rejected)
                .with_serials_from(server.inboxes_made << 32);
            server.deadlines.insert((now + server.config.dedupe_ttl, Deadline::Inbox(key.clone())));
            let shared = Shared { inbox, link: LinkId(u64::MAX), armed: true, idle: Some(now), late: Late::default() };
            server.idle.insert((now, key.clone()));
            server.inboxes.insert(key, shared);
        }
        server.forget_inboxes_above(server.config.max_inboxes);
        server
    }

    /// What a store should have of one session now, with its owner.
    #[must_use]
    pub fn stored_session(&self, key: &Key) -> Option<(SessionRecord, Option<Arc<str>>)> {
        self.sessions.get(key).map(|owned| (owned.session.record(), owned.owner.clone()))
    }

    /// What a store should have of it now.
    #[must_use]
    pub fn stored(&self) -> Stored {
        Stored {
            sessions: self.sessions.values().map(|owned| (owned.session.record(), owned.owner.clone())).collect(),
            inboxes: self
                .inboxes
                .iter()
                .map(|(key, shared)| {
                    let inbox = &shared.inbox;
                    let rejected = inbox.rejected().filter(|reject| reject.sequence <= inbox.acknowledged());
                    (key.clone(), inbox.generation(), inbox.acknowledged(), rejected.cloned().collect())
                })
                .collect(),
            channels: self.logs.iter().map(|(channel, log)| (channel.clone(), log.bottom())).collect(),
            streams: self
                .sessions
                .iter()
                .map(|(key, owned)| {
                    let messages = owned.session.ring().messages();
                    (key.clone(), messages.map(|(_, message)| Message { place: 0, ..message.clone() }).collect())
                })
                .collect(),
            published: self
                .logs
                .iter()
                .map(|(channel, log)| {
                    let published = |entry: &Entry| Published {
                        message_id: entry.message_id.clone(),
                        at: entry.at,
                        payload: entry.frame.slice(entry.payload..),
                        binary: entry.binary,
                        except: entry.except.as_deref().unwrap_or_default().to_vec(),
                        document: entry.document,
                    };
                    (channel.clone(), log.entries().map(published).collect())
                })
                .collect(),
        }
    }

    /// Counts what a store must be given before clients may know of it: messages, new tokens, new channels. With
    /// [`ServerConfig::store`] the driver gives the store what it has to say, in order, and notes this
    /// place; [`Server::handle_written`] is told when the store has it. Until then none of it is
    /// transmitted.
    #[must_use]
    pub fn place(&self) -> u64 {
        self.places
    }

    /// What was published since this was asked last, for the store: the channel, and the message in its log.
    pub fn poll_published(&mut self) -> Option<(ChannelName, &ChannelLog, &Entry)> {
        while let Some((channel, offset)) = self.published.pop_front() {
            // It may have been too much for its log.
            if self.logs.get(&channel).is_some_and(|log| log.entry(offset).is_some()) {
                let log = self.logs.get(&channel)?;
                return log.entry(offset).map(|entry| (channel, log, entry));
            }
        }
        None
    }

    /// The store has everything up to this [`Server::place`], or has failed and nobody is to wait for it.
    pub fn handle_written(&mut self, place: u64) {
        self.written = self.written.max(place);
        for link in std::mem::take(&mut self.held) {
            self.dirty.insert(link);
        }
    }

    /// The store has not got everything.
    #[must_use]
    pub fn is_unwritten(&self) -> bool {
        self.written < self.places
    }

    /// The connection had something to transmit that the store has not got.
    #[must_use]
    pub fn is_held(&self, link: LinkId) -> bool {
        self.held.contains(&link)
    }

    /// A connection with the subprotocol is open.
    pub fn handle_connected(&mut self, now: Time, link: LinkId) {
        let deadline = now + self.config.handshake_timeout;
        self.links.insert(link, Link::Greeting { deadline });
        self.deadlines.insert((deadline, Deadline::Greeting(link)));
    }

    /// A WebSocket message came.
    pub fn handle_message(&mut self, now: Time, link: LinkId, data: &Bytes, binary: bool) {
        self.take_message(now, link, data.clone(), binary);
    }

    /// As [`Server::handle_message`], of a message that nobody else holds: cheaper.
    pub fn take_message(&mut self, now: Time, link: LinkId, data: Bytes, binary: bool) {
        if let Some(delivery) = self.pass_message(now, link, data, binary)
            && let Some(outbox) = self.outbox_of(link).cloned()
        {
            self.outputs.push_back(Output::Deliver { link, outbox, delivery });
        }
    }

    /// As [`Server::take_message`], but returns what would be the last output, where that is an item of
    /// [`Server::outbox_of`] for the application.
    pub fn pass_message(&mut self, now: Time, link: LinkId, mut data: Bytes, binary: bool) -> Option<Delivery> {
        let result = match self.links.get(&link) {
            Some(Link::Open(open)) if open.inbox.is_some() && self.outputs.is_empty() => {
                match wire::take_item(&mut data, self.config.max_message) {
                    Some((sequence, acknowledged)) => self.pass_item(link, sequence, acknowledged, data, binary),
                    None => return self.handle_other(now, link, data, binary),
                }
            }
            _ => return self.handle_other(now, link, data, binary),
        };
        result.unwrap_or_else(|Violation { code, reason }| {
            self.close(now, link, code, reason);
            None
        })
    }

    fn handle_other(&mut self, now: Time, link: LinkId, data: Bytes, binary: bool) -> Option<Delivery> {
        let result = match ClientFrame::take(data, binary, self.config.max_message) {
            Ok(Some(frame)) => self.handle_frame(now, link, frame),
            Ok(None) if matches!(self.links.get(&link), Some(Link::Greeting { .. })) => {
                Err(Violation::bad("the first frame is not H"))
            }
            Ok(None) => Ok(()),
            Err(violation) => Err(violation),
        };
        if let Err(Violation { code, reason }) = result {
            self.close(now, link, code, reason);
        }
        None
    }

    /// The outbox that a connection brings items of.
    #[must_use]
    pub fn outbox_of(&self, link: LinkId) -> Option<&Key> {
        match self.links.get(&link)? {
            Link::Open(open) => open.inbox.as_ref().map(|(outbox, _)| outbox),
            Link::Greeting { .. } | Link::Deciding(_) => None,
        }
    }

    /// The connection has ended.
    pub fn handle_lost(&mut self, now: Time, link: LinkId) {
        self.documents.forget_link(link);
        let open = match self.links.remove(&link) {
            Some(Link::Open(open)) => open,
            Some(Link::Greeting { deadline }) => {
                self.deadlines.remove(&(deadline, Deadline::Greeting(link)));
                return;
            }
            Some(Link::Deciding(_)) | None => return,
        };
        self.held.remove(&link);
        if let Some(owned) = self.sessions.get_mut(&open.session)
            && owned.session.detach(now, open.generation)
        {
            owned.link = None;
            let key = open.session.clone();
            if !std::mem::replace(&mut owned.armed, true) {
                let ttl = now + self.config.resume_ttl;
                self.deadlines.insert((ttl, Deadline::Session(key.clone())));
            }
            self.file(&key);
        }
        if let Some((outbox, attachment)) = &open.inbox
            && let Some(shared) = self.inboxes.get_mut(outbox)
        {
            if !shared.inbox.detach(now, *attachment) {
                return;
            }
            if shared.inbox.is_blank() {
                self.inboxes.remove(outbox);
                return;
            }
            shared.idle = Some(now);
            self.idle.insert((now, outbox.clone()));
            if !std::mem::replace(&mut shared.armed, true) {
                self.deadlines.insert((now + self.config.dedupe_ttl, Deadline::Inbox(outbox.clone())));
            }
            self.forget_inboxes_above(self.config.max_inboxes);
        }
    }

    /// The application's answer to [`Output::Authenticate`]: the owner, if it names one, or a close code.
    /// A session is only resumed by its owner.
    /// From now on the application wants to be asked about credentials, channels and snapshots, or not.
    pub fn set_questions(&mut self, authenticate: bool, authorise: bool, snapshots: bool) {
        self.config.authenticate = authenticate;
        self.config.authorise = authorise;
        self.config.snapshots = snapshots;
    }

    pub fn handle_authenticated(&mut self, now: Time, link: LinkId, answer: Result<Option<Arc<str>>, u16>) {
        match (self.links.get_mut(&link), answer) {
            (None | Some(Link::Greeting { .. }), _) => {}
            (Some(_), Err(code)) => self.close(now, link, code, close::default_reason(code)),
            (Some(Link::Deciding(hello)), Ok(owner)) => {
                let hello = std::mem::take(&mut **hello);
                self.welcome(now, link, &hello, owner);
            }
            (Some(Link::Open(open)), Ok(owner)) => {
                let session = self.sessions.get(&open.session);
                if session.is_some_and(|owned| owned.owner != owner) {
                    self.close(now, link, close::UNAUTHORIZED, "T: the token is of another user than the session");
                }
            }
        }
    }

    /// Whether the application's answer to [`Output::Authorise`] is still wanted.
    #[must_use]
    pub fn is_asking(&self, link: LinkId, channel: &ChannelName) -> bool {
        matches!(self.links.get(&link), Some(Link::Open(open)) if open.asking.contains(channel))
    }

    /// The application's answer to [`Output::Authorise`].
    pub fn handle_authorised(&mut self, now: Time, link: LinkId, channel: &ChannelName, allowed: bool) {
        let Some(Link::Open(open)) = self.links.get_mut(&link) else { return };
        if !open.asking.remove(channel) {
            return;
        }
        let key = open.session.clone();
        // One that the server has made meanwhile is not the client's to be denied.
        let server_made = self.sessions.get(&key).is_some_and(|owned| owned.session.is_server_made(channel));
        if allowed || server_made {
            self.subscribe_session(now, &key, channel, false);
            self.outputs.push_back(Output::Subscribed { link, channel: channel.clone(), on: true });
        } else if let Some(owned) = self.sessions.get_mut(&key) {
            owned.session.deny(channel);
        }
        self.wake(&key);
        self.release_edits(now, link, channel);
    }

    /// The application's answer to [`Output::Snapshot`], with the position from there; `None`: it has none.
    pub fn handle_snapshot(
        &mut self,
        link: LinkId,
        channel: &ChannelName,
        position: &Position,
        state: Option<(Bytes, bool)>,
    ) {
        let Some(Link::Open(open)) = self.links.get(&link) else { return };
        let key = open.session.clone();
        if let Some(owned) = self.sessions.get_mut(&key) {
            owned.session.handle_snapshot(channel, position, state);
        }
        self.wake(&key);
    }

    /// The application is about to handle an item.
    pub fn handle_start(&mut self, outbox: &Key, id: DeliveryId) -> Start {
        self.inboxes.find_mut(id.place, outbox).map_or(Start::Stale, |shared| shared.inbox.handle_start(id))
    }

    /// The handler ended well, or acknowledged the item.
    pub fn handle_done(&mut self, now: Time, outbox: &Key, id: DeliveryId) {
        let Some(shared) = self.inboxes.find_mut(id.place, outbox) else { return };
        if !shared.handle_done(id) {
            self.settled(now, outbox, id.place, id.bytes);
        }
    }

    /// As [`Server::handle_done`] of `done`, then [`Server::handle_start`] of `begin`, each where it is one: numbers of
    /// deliveries tell outboxes apart.
    pub fn handle_step(&mut self, now: Time, done: Option<DeliveryId>, begin: Option<DeliveryId>) -> Start {
        if let Some(id) = done
            && let Some((outbox, shared)) = self.inboxes.entry_mut(id.place)
            && !shared.handle_done(id)
        {
            let outbox = outbox.clone();
            self.settled(now, &outbox, id.place, id.bytes);
        }
        let Some(id) = begin else { return Start::Stale };
        self.inboxes.at_mut(id.place).map_or(Start::Stale, |shared| shared.inbox.handle_start(id))
    }

    /// The handler threw.
    pub fn handle_failed(&mut self, now: Time, outbox: &Key, id: DeliveryId) {
        let Some(shared) = self.inboxes.get_mut(outbox) else { return };
        let verdict = shared.inbox.handle_failed(id);
        self.carry_out(now, outbox, id, verdict);
    }

    /// The handler refused the item.
    pub fn handle_rejected(
        &mut self,
        now: Time,
        outbox: &Key,
        id: DeliveryId,
        code: i32,
        reason: String,
        permanent: bool,
    ) {
        let Some(shared) = self.inboxes.get_mut(outbox) else { return };
        let verdict = shared.inbox.handle_rejected(id, code, reason, permanent);
        self.carry_out(now, outbox, id, verdict);
    }

    /// The mark of [`Output::Store`] is stored.
    pub fn handle_stored(&mut self, now: Time, outbox: &Key, handled: u64) {
        let Some(shared) = self.inboxes.get_mut(outbox) else { return };
        shared.inbox.handle_stored(handled);
        let (link, mark) = (shared.link, shared.inbox.acknowledged());
        self.acknowledge(now, link, mark, 0);
    }

    /// A batch of the application's work has ended: acknowledgements go out.
    pub fn handle_batch_end(&mut self) {
        while let Some(link) = self.settled.pop_first() {
            self.count_late(link);
            let Some(Link::Open(open)) = self.links.get(&link) else { continue };
            if let Some(owned) = self.sessions.find_mut(open.session_place, &open.session) {
                owned.session.handle_batch_end();
                self.dirty.insert(link);
            }
        }
    }

    /// A deadline may have passed.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some((at, _)) = self.deadlines.first()
            && *at <= now
        {
            let Some((_, deadline)) = self.deadlines.pop_first() else { break };
            match deadline {
                Deadline::Acknowledgement(link) => {
                    self.dirty.insert(link);
                }
                Deadline::Drain => {
                    let links: Vec<_> = self.links.keys().copied().collect();
                    for link in links {
                        self.close(now, link, close::SHUTDOWN, close::default_reason(close::SHUTDOWN));
                    }
                }
                Deadline::Greeting(link) => {
                    if let Some(Link::Greeting { deadline }) = self.links.get(&link)
                        && *deadline <= now
                    {
                        self.close(now, link, close::BAD_PROTOCOL, "no H within the time for the handshake");
                    }
                }
                Deadline::Inbox(outbox) => {
                    let Some(shared) = self.inboxes.get(&outbox) else { continue };
                    let ttl = self.config.dedupe_ttl;
                    let idle = shared.inbox.idle_since();
                    let end = idle.map_or(now + ttl.max(SHORTEST_SWEEP), |since| since + ttl);
                    if now < end {
                        self.deadlines.insert((end, Deadline::Inbox(outbox)));
                    } else {
                        self.forget_inbox(&outbox);
                    }
                }
                Deadline::Log(channel) => self.expire_log(now, &channel),
                Deadline::Session(key) => {
                    let Some(owned) = self.sessions.get(&key) else { continue };
                    let detached = owned.session.detached_since();
                    let ttl = self.config.resume_ttl;
                    let end = detached.map_or(now + ttl.max(SHORTEST_SWEEP), |since| since + ttl);
                    if now < end {
                        self.deadlines.insert((end, Deadline::Session(key)));
                    } else {
                        self.end_session(&key);
                    }
                }
            }
        }
    }

    /// Sends to a session, connected or not; returns the message's number, `None`: no such session.
    pub fn send(&mut self, now: Time, session: &Key, data: Bytes, binary: bool) -> Option<u64> {
        let place = self.sessions.place(session)?;
        self.append(now, place, data, binary).map(|sent| sent.sequence)
    }

    /// Sends to the session that a connection has; `None`: it has none.
    pub fn send_on(&mut self, now: Time, link: LinkId, data: Bytes, binary: bool) -> Option<Sent> {
        let Link::Open(open) = self.links.get(&link)? else { return None };
        let place = match self.sessions.find(open.session_place, &open.session) {
            Some(_) => open.session_place,
            None => self.sessions.place(&open.session)?,
        };
        self.append(now, place, data, binary)
    }

    fn append(&mut self, now: Time, place: u32, data: Bytes, binary: bool) -> Option<Sent> {
        let len = data.len();
        let store_place = self.next_place();
        let owned = self.sessions.at_mut(place)?;
        let sequence = owned.session.send(now, data, binary, store_place);
        let (unsent, waiting) = (owned.session.unsent_bytes(), owned.session.unsent_len());
        // What is replayed was not sent too fast.
        let replayed = if owned.session.is_replaying() { self.config.retention.bytes } else { 0 };
        let slow = unsent > self.config.send_limit.saturating_add(replayed) && unsent > len;
        // Small messages cost memory, too.
        let many = self.config.retention.count.saturating_add(MAX_UNSENT.max(self.config.send_limit / ITEM_COST));
        match owned.link {
            Some(link) if slow || waiting > many => {
                self.close(now, link, close::SLOW_CONSUMER, close::default_reason(close::SLOW_CONSUMER));
            }
            // Of those before it the driver knows.
            Some(link) if waiting == 1 => self.dirty.insert(link),
            None if matches!(owned.away, Some((false, _))) => {
                let key = owned.session.id().clone();
                self.file(&key);
            }
            _ => {}
        }
        Some(Sent { sequence, unsent })
    }

    /// Sends to each session, connected or not; returns how many.
    pub fn broadcast(&mut self, now: Time, data: &Bytes, binary: bool) -> usize {
        let keys: Vec<_> = self.sessions.keys().cloned().collect();
        for key in &keys {
            self.send(now, key, data.clone(), binary);
        }
        keys.len()
    }

    /// Publishes; returns the message's position.
    pub fn publish(&mut self, now: Time, channel: &ChannelName, data: &[u8], binary: bool) -> Position {
        self.publish_except(now, channel, data, binary, &[])
    }

    /// As [`Server::publish`], but the sessions that the connections `except` have do not get it.
    pub fn publish_except(
        &mut self,
        now: Time,
        channel: &ChannelName,
        data: &[u8],
        binary: bool,
        except: &[LinkId],
    ) -> Position {
        let spared: Vec<_> = except.iter().filter_map(|link| self.session_of(*link).cloned()).collect();
        let id = ShortId::random(&mut self.random, 11);
        let place = self.next_place();
        let position = self.log(now, channel).append(now, id, data, binary, &spared, place);
        self.note_published(channel, position.offset);
        self.tell_readers(channel);
        position
    }

    /// For [`Server::poll_published`].
    fn note_published(&mut self, channel: &ChannelName, offset: u64) {
        if self.config.store {
            self.published.push_back((channel.clone(), offset));
        }
    }

    /// Something was published.
    fn tell_readers(&mut self, channel: &ChannelName) {
        if let Some(keys) = self.readers.get_mut(channel) {
            keys.retain(|key| {
                let Some(owned) = self.sessions.get_mut(key).filter(|owned| owned.session.is_subscribed(channel))
                else {
                    return false;
                };
                owned.session.handle_published(channel);
                self.dirty.extend(owned.link);
                true
            });
        }
    }

    /// Subscribes a session; the client is told, and the subscription comes back with the session.
    pub fn subscribe(&mut self, now: Time, session: &Key, channel: &ChannelName) {
        self.subscribe_session(now, session, channel, true);
        self.file(session);
        self.wake(session);
    }

    /// Ends a session's subscription.
    pub fn unsubscribe(&mut self, session: &Key, channel: &ChannelName) {
        let place = self.next_place();
        if let Some(owned) = self.sessions.get_mut(session) {
            owned.session.unsubscribe(channel);
            owned.session.hold(place);
        }
        self.wake(session);
    }

    /// The driver has something for the session, e.g. values of the application: it is not among the first that go
    /// when there are too many.
    pub fn treasure(&mut self, session: &Key) {
        if let Some(owned) = self.sessions.get_mut(session)
            && !std::mem::replace(&mut owned.treasured, true)
        {
            self.file(session);
        }
    }

    /// Whether there may be a log of the channel, or is one. Those that are empty and that nobody reads go for it.
    pub fn make_room(&mut self, channel: &ChannelName) -> bool {
        if self.logs.len() < self.config.max_channels || self.logs.contains_key(channel) {
            return true;
        }
        let Self { logs, readers, sessions, deadlines, .. } = self;
        let is_read = |name: &ChannelName| {
            readers.get(name).is_some_and(|keys| {
                keys.iter().any(|key| sessions.get(key).is_some_and(|owned| owned.session.is_subscribed(name)))
            })
        };
        let before = logs.len();
        logs.retain(|name, log| !log.is_empty() || is_read(name));
        if logs.len() < before {
            readers.retain(|name, _| logs.contains_key(name));
            deadlines.retain(|(_, deadline)| match deadline {
                Deadline::Log(name) => logs.contains_key(name),
                _ => true,
            });
        }
        self.logs.len() < self.config.max_channels
    }

    /// What the next WELCOMEs say: the driver knows how many connections there are.
    pub fn set_spread(&mut self, spread: Duration) {
        self.config.spread = spread;
    }

    /// Sends a beat.
    pub fn beat(&mut self, link: LinkId, n: u64) {
        let Some(Link::Open(open)) = self.links.get(&link) else { return };
        let key = open.session.clone();
        if let Some(owned) = self.sessions.get_mut(&key) {
            owned.session.control(ServerFrame::Beat(n));
        }
        self.wake(&key);
    }

    /// Closes a connection; its session stays for those who come back.
    pub fn disconnect(&mut self, now: Time, link: LinkId, code: u16, reason: &str) {
        self.close(now, link, code, reason);
    }

    /// Lets nobody in, asks all clients to leave within three quarters of `deadline`, and closes with 4000
    /// those who are still there at its end.
    pub fn drain(&mut self, now: Time, deadline: Duration) {
        let (end, window) = (now + deadline, deadline.mul_f64(0.75));
        self.draining = Some(end);
        self.deadlines.insert((end, Deadline::Drain));
        let keys: Vec<_> = self.links.values().filter_map(Link::session).cloned().collect();
        for key in keys {
            if let Some(owned) = self.sessions.get_mut(&key) {
                owned.session.control(ServerFrame::GoAway(GoAway { after: Duration::ZERO, window, url: None }));
            }
            self.wake(&key);
        }
    }

    /// Gives memory back, at least `bytes` of it where there is so much: what is kept for sessions without a
    /// connection, the longest gone first; then channels' logs and what is kept for connected sessions, the
    /// biggest first. Who misses something of it is told of a gap. Returns how many bytes of payload went.
    /// Looks at every session: for a driver whose memory is over its limit, not for each message.
    pub fn shed(&mut self, bytes: usize) -> usize {
        let mut freed = 0;
        let mut away = Vec::new();
        let mut present = Vec::new();
        for (key, owned) in self.sessions.iter().filter(|(_, owned)| !owned.session.ring().is_empty()) {
            match owned.session.detached_since() {
                Some(since) => away.push((since, key.clone())),
                None => present.push((owned.session.ring().bytes(), key.clone())),
            }
        }
        away.sort_unstable();
        for (_, key) in away {
            if freed >= bytes {
                break;
            }
            freed += self.shed_ring(&key);
        }
        if freed < bytes {
            let mut logs: Vec<_> = self.logs.values_mut().collect();
            logs.sort_unstable_by_key(|log| std::cmp::Reverse(log.bytes()));
            for log in logs {
                if freed >= bytes {
                    break;
                }
                freed += log.bytes();
                log.clear();
            }
        }
        present.sort_unstable_by(|a, b| b.cmp(a));
        for (_, key) in present {
            if freed >= bytes {
                break;
            }
            freed += self.shed_ring(&key);
            self.wake(&key);
        }
        self.counters.shed += freed as u64;
        freed
    }

    /// Bytes that rings, logs and items hold, for a driver's limit. Looks at everything.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let rings: usize = self.sessions.values().map(|owned| owned.session.ring().bytes()).sum();
        let logs: usize = self.logs.values().map(ChannelLog::bytes).sum();
        let items: u64 = self.inboxes.values().map(|shared| shared.inbox.outstanding()).sum();
        rings + logs + usize::try_from(items).unwrap_or(usize::MAX)
    }

    /// As [`Server::held_bytes`] without items, which wait for the application, and with what sessions and logs
    /// cost that hold nothing.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        let session = |owned: &Owned| {
            SESSION_COST + owned.session.channels().count() * SUBSCRIPTION_COST + owned.session.ring().bytes()
        };
        let sessions: usize = self.sessions.values().map(session).sum();
        let logs: usize = self.logs.values().map(|log| SESSION_COST + log.bytes()).sum();
        sessions + logs + self.documents.bytes()
    }

    /// The sessions that live, in no order.
    pub fn session_keys(&self) -> impl Iterator<Item = &Key> {
        self.sessions.keys()
    }

    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Messages of all streams that are not acknowledged. Looks at every session.
    #[must_use]
    pub fn unacknowledged(&self) -> u64 {
        self.sessions.values().map(|owned| owned.session.ring().len() as u64).sum()
    }

    /// Outboxes whose marks are remembered, in no order.
    pub fn inbox_keys(&self) -> impl Iterator<Item = &Key> {
        self.inboxes.keys()
    }

    /// Channels that have a log, in no order.
    pub fn channel_names(&self) -> impl Iterator<Item = &ChannelName> {
        self.logs.keys()
    }

    /// How many outboxes' marks are remembered.
    #[must_use]
    pub fn inbox_count(&self) -> usize {
        self.inboxes.len()
    }

    /// What to do next, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front().or_else(|| self.dirty.pop_first().map(|link| Output::Transmit { link }))
    }

    /// What the connection writes next. May bring outputs, too.
    pub fn poll_transmit(&mut self, now: Time, link: LinkId) -> Option<Outgoing> {
        self.count_late(link);
        if let Some(state) = self.poll_state(link) {
            return Some(state);
        }
        let Some(Link::Open(open)) = self.links.get(&link) else { return None };
        let session = &mut self.sessions.find_mut(open.session_place, &open.session)?.session;
        let replaying = session.is_replaying();
        let outgoing = session.poll_transmit(now, open.generation, &self.logs, self.written);
        if outgoing.is_none() && session.is_held(self.written) {
            self.held.insert(link);
        }
        match outgoing {
            Some(Outgoing::Frame(ServerFrame::Gap(_))) => self.counters.gaps += 1,
            Some(Outgoing::Channel { .. } | Outgoing::Frame(ServerFrame::Message { .. })) if replaying => {
                self.counters.replayed += 1;
            }
            _ => {}
        }
        while let Some((channel, position)) = session.poll_snapshot() {
            self.outputs.push_back(Output::Snapshot { link, channel, position });
        }
        if let Some(at) = session.poll_timeout() {
            self.deadlines.insert((at, Deadline::Acknowledgement(link)));
        }
        outgoing
    }

    /// Gives `write` the messages of the stream that are next for the connection, each with its number and what it
    /// acknowledges, while it returns true; stops before anything else that is to go out. Cheaper than
    /// [`Server::poll_transmit`], which is to be asked then.
    pub fn write_stream(&mut self, link: LinkId, write: impl FnMut(u64, Option<u64>, &Message) -> bool) {
        self.count_late(link);
        let Some(Link::Open(open)) = self.links.get(&link) else { return };
        let Some(owned) = self.sessions.find_mut(open.session_place, &open.session) else { return };
        let replaying = owned.session.is_replaying();
        let count = owned.session.write_stream(open.generation, self.written, write);
        if replaying {
            self.counters.replayed += count;
        }
    }

    /// When [`Server::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    #[must_use]
    pub fn session(&self, session: &Key) -> Option<&Session> {
        self.sessions.get(session).map(|owned| &owned.session)
    }

    /// The session that a connection has; `None` before WELCOME.
    #[must_use]
    pub fn session_of(&self, link: LinkId) -> Option<&Key> {
        self.links.get(&link).and_then(Link::session)
    }

    /// The connection that has a session.
    #[must_use]
    pub fn link_of(&self, session: &Key) -> Option<LinkId> {
        self.sessions.get(session)?.link
    }

    #[must_use]
    pub fn inbox(&self, outbox: &Key) -> Option<&Inbox> {
        self.inboxes.get(outbox).map(|shared| &shared.inbox)
    }

    #[must_use]
    pub fn channel_log(&self, channel: &ChannelName) -> Option<&ChannelLog> {
        self.logs.get(channel)
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    fn handle_frame(&mut self, now: Time, link: LinkId, frame: ClientFrame) -> Result<(), Violation> {
        match self.links.get_mut(&link) {
            None => Ok(()),
            Some(Link::Deciding(_)) => Err(Violation::bad("a frame before W, the answer to H")),
            Some(state @ Link::Greeting { .. }) => {
                let ClientFrame::Hello(hello) = frame else { return Err(Violation::bad("the first frame is not H")) };
                if self.draining.is_some() {
                    return Err(Violation::new(close::SHUTDOWN, close::default_reason(close::SHUTDOWN)));
                }
                if let Link::Greeting { deadline } = state {
                    self.deadlines.remove(&(*deadline, Deadline::Greeting(link)));
                }
                if self.config.authenticate {
                    let shown = |resume: &&wire::Resume| {
                        self.sessions.get(&resume.session).is_some_and(|owned| owned.session.check(resume).is_ok())
                    };
                    let session = hello.resume.as_ref().filter(shown).map(|resume| resume.session.clone());
                    self.outputs.push_back(Output::Authenticate { link, auth: hello.auth.clone(), session });
                    *state = Link::Deciding(hello);
                } else {
                    self.welcome(now, link, &hello, None);
                }
                Ok(())
            }
            Some(Link::Open(open)) => {
                let Some(owned) = self.sessions.find_mut(open.session_place, &open.session) else { return Ok(()) };
                let incoming = owned.session.handle_frame(open.generation, frame)?;
                // These alone give nothing to write.
                let quiet = matches!(incoming, Incoming::None | Incoming::Item { .. });
                if quiet && owned.session.control_len() == 0 {
                    if let Incoming::Item { sequence, data, binary } = incoming {
                        self.handle_item(link, sequence, data, Some(binary))?;
                    }
                    return Ok(());
                }
                let key = open.session.clone();
                let result = self.handle_incoming(now, link, &key, incoming);
                if let Some(owned) = self.sessions.get(&key) {
                    let waiting = owned.session.control_len();
                    if waiting > MAX_CONTROL_FRAMES {
                        return Err(Violation::new(close::SLOW_CONSUMER, close::default_reason(close::SLOW_CONSUMER)));
                    }
                    if !quiet || waiting > 0 {
                        self.dirty.extend(owned.link);
                    }
                }
                result
            }
        }
    }

    /// An item's frame has come on an open connection.
    fn pass_item(
        &mut self,
        link: LinkId,
        sequence: u64,
        acknowledged: Option<u64>,
        data: Bytes,
        binary: bool,
    ) -> Result<Option<Delivery>, Violation> {
        let Some(Link::Open(open)) = self.links.get(&link) else { return Ok(None) };
        let Some(owned) = self.sessions.find_mut(open.session_place, &open.session) else { return Ok(None) };
        if !owned.session.handle_item_frame(open.generation, acknowledged)? {
            if owned.session.control_len() > MAX_CONTROL_FRAMES {
                return Err(Violation::new(close::SLOW_CONSUMER, close::default_reason(close::SLOW_CONSUMER)));
            }
            self.dirty.insert(link);
        }
        let Some((outbox, attachment)) = &open.inbox else { return Ok(None) };
        let Some(place) = self.inboxes.find_place(open.inbox_place, outbox) else { return Ok(None) };
        let Some(shared) = self.inboxes.at_mut(place) else { return Ok(None) };
        let item_cost = (data.len() + ITEM_COST) as u64;
        let receipt = match shared.inbox.pass_item(*attachment, sequence, data, binary)? {
            Ok(mut delivery) => {
                if let Err(violation) = shared.check_window(sequence, item_cost, &self.config) {
                    // It is received; the application gets it with what it settles next.
                    shared.inbox.take_back(delivery);
                    return Err(violation);
                }
                delivery.id.place = place;
                return Ok(Some(delivery));
            }
            Err(receipt) => receipt,
        };
        self.handle_receipt(link, sequence, item_cost, receipt)?;
        Ok(None)
    }

    /// `binary`: a message; `None`: an edit.
    fn handle_item(&mut self, link: LinkId, sequence: u64, data: Bytes, binary: Option<bool>) -> Result<(), Violation> {
        let Some(Link::Open(open)) = self.links.get(&link) else { return Ok(()) };
        let Some((outbox, attachment)) = &open.inbox else {
            return Err(Violation::bad("an item without an outbox in H"));
        };
        let Some(shared) = self.inboxes.find_mut(open.inbox_place, outbox) else { return Ok(()) };
        let item_cost = (data.len() + ITEM_COST) as u64;
        let receipt = match binary {
            Some(binary) => shared.inbox.handle_item(*attachment, sequence, data, binary)?,
            None => shared.inbox.handle_edit(*attachment, sequence, data)?,
        };
        self.handle_receipt(link, sequence, item_cost, receipt)
    }

    fn handle_receipt(
        &mut self,
        link: LinkId,
        sequence: u64,
        item_cost: u64,
        receipt: Receipt,
    ) -> Result<(), Violation> {
        let Some(Link::Open(open)) = self.links.get(&link) else { return Ok(()) };
        match receipt {
            Receipt::Accepted => {
                let Some((outbox, _)) = &open.inbox else { return Ok(()) };
                let Some(place) = self.inboxes.find_place(open.inbox_place, outbox) else { return Ok(()) };
                let Some(shared) = self.inboxes.at_mut(place) else { return Ok(()) };
                shared.check_window(sequence, item_cost, &self.config)?;
                deliver(shared, outbox, place, &mut self.outputs, &mut self.documents);
            }
            Receipt::Duplicate => {
                self.counters.duplicates += 1;
                if let Some(owned) = self.sessions.find_mut(open.session_place, &open.session) {
                    owned.session.handle_duplicate();
                    self.dirty.insert(link);
                }
            }
            Receipt::Ignored | Receipt::Stale => {}
        }
        Ok(())
    }

    fn handle_incoming(&mut self, now: Time, link: LinkId, key: &Key, incoming: Incoming) -> Result<(), Violation> {
        let Some(Link::Open(open)) = self.links.get_mut(&link) else { return Ok(()) };
        match incoming {
            Incoming::None => {}
            Incoming::Answered(n) => self.outputs.push_back(Output::Answered { link, n }),
            Incoming::Edit { sequence, data } => {
                self.handle_item(link, sequence, data, None)?;
                self.run_edits(now);
            }
            Incoming::Item { sequence, data, binary } => self.handle_item(link, sequence, data, Some(binary))?,
            Incoming::GiveUp { from, sequence } => {
                let Some((outbox, attachment)) = open.inbox.clone() else {
                    return Err(Violation::bad("E without an outbox in H"));
                };
                let Some(shared) = self.inboxes.get_mut(&outbox) else { return Ok(()) };
                shared.inbox.handle_give_up(attachment, from, sequence)?;
                self.settled(now, &outbox, u32::MAX, 0);
            }
            Incoming::Subscribe(channel) => self.ask(link, key, channel),
            Incoming::Unsubscribed(channel) => {
                open.asking.remove(&channel);
                // It may have been one that comes back with the session.
                let place = self.next_place();
                if let Some(owned) = self.sessions.get_mut(key) {
                    owned.session.hold(place);
                }
                self.release_edits(now, link, &channel);
                self.outputs.push_back(Output::Subscribed { link, channel, on: false });
            }
            Incoming::Token(auth) => {
                if self.config.authenticate {
                    let session = Some(key.clone());
                    self.outputs.push_back(Output::Authenticate { link, auth: Some(auth), session });
                }
            }
            Incoming::Verify(channel, place) => self.verify(link, channel, place),
        }
        Ok(())
    }

    fn welcome(&mut self, now: Time, link: LinkId, hello: &Hello, owner: Option<Arc<str>>) {
        let mut why = None;
        let resumable = hello.resume.as_ref().filter(|resume| {
            let result = match self.sessions.get(&resume.session) {
                Some(owned) if owned.owner == owner => owned.session.check(resume),
                Some(_) => Err(Why::Unknown),
                None if resume.session.as_str().starts_with(self.instance.as_str()) => Err(Why::Expired),
                None => Err(Why::Restart),
            };
            result.map_err(|reason| why = Some(reason)).is_ok()
        });
        if resumable.is_none() && self.sessions.len() >= self.config.max_sessions && !self.evict_session() {
            return self.close(now, link, close::TRY_AGAIN_LATER, "there are as many sessions as limits.maxSessions");
        }
        if why == Some(Why::Superseded)
            && let Some(range) = &hello.outbox
            && let Some(shared) = self.inboxes.get(&range.id)
            && shared.inbox.is_attached()
            && shared.inbox.generation() == range.generation
        {
            // The same process has shown a later token: this HELLO was under way for long, or a copy sent it.
            return self.close(now, link, close::SUPERSEDED, close::default_reason(close::SUPERSEDED));
        }
        let mut inbox = None;
        let (mut handled, mut rejected) = (0, Vec::new());
        if let Some(range) = &hello.outbox {
            if !self.inboxes.contains_key(&range.id) {
                self.forget_inboxes_above(self.config.max_inboxes.saturating_sub(1));
                self.inboxes_made += 1;
                let inbox = Inbox::new(now, self.config.redelivery_limit).with_serials_from(self.inboxes_made << 32);
                self.inboxes
                    .insert(range.id.clone(), Shared { inbox, link, armed: false, idle: None, late: Late::default() });
            }
            let Some(shared) = self.inboxes.get_mut(&range.id) else { return };
            match shared.inbox.attach(range) {
                Err(fenced) => return self.close(now, link, close::SUPERSEDED, fenced.to_string()),
                Ok(attached) => {
                    handled = attached.handled;
                    rejected = attached.rejected;
                    inbox = Some((range.id.clone(), attached.attachment));
                    if let Some(since) = shared.idle.take() {
                        self.idle.remove(&(since, range.id.clone()));
                    }
                }
            }
            shared.late = Late::default();
            let previous = std::mem::replace(&mut shared.link, link);
            if previous != link {
                self.close(now, previous, close::SUPERSEDED, close::default_reason(close::SUPERSEDED));
            }
            if let Some(shared) = self.inboxes.get_mut(&range.id)
                && !self.config.store
                && let Some(mark) = shared.inbox.poll_store()
            {
                shared.inbox.handle_stored(mark);
                handled = mark;
            }
        }
        let token = Token::random(&mut self.random);
        let key = match resumable {
            Some(resume) => resume.session.clone(),
            None => self.create_session(now, owner),
        };
        let Some(owned) = self.sessions.get_mut(&key) else { return };
        let attachment = owned.session.attach(now, token, resumable, handled);
        self.counters.resumed += u64::from(attachment.resumed);
        let previous = owned.link.replace(link).filter(|previous| *previous != link);
        self.file(&key);
        let Some(owned) = self.sessions.get_mut(&key) else { return };
        let welcome = wire::Welcome {
            session: key.clone(),
            token: owned.session.token().clone(),
            resumed: attachment.resumed,
            why: why.or(attachment.why),
            first: attachment.first,
            handled,
            rejected,
            heartbeat: self.config.heartbeat,
            spread: self.config.spread,
            limits: Limits { max_message: self.config.max_message as u64, window: self.config.window },
        };
        let named = hello.resume.as_ref().map_or_else(BTreeMap::new, |resume| resume.channels.clone());
        let place = self.next_place();
        let Some(owned) = self.sessions.get_mut(&key) else { return };
        let undecided = owned.session.welcome(welcome, resumable, &named, &self.logs);
        owned.session.hold(place);
        let open = Open {
            session: key.clone(),
            session_place: self.sessions.place(&key).unwrap_or(u32::MAX),
            generation: attachment.generation,
            inbox_place: inbox.as_ref().and_then(|(outbox, _)| self.inboxes.place(outbox)).unwrap_or(u32::MAX),
            inbox,
            asking: BTreeSet::new(),
        };
        self.links.insert(link, Link::Open(Box::new(open)));
        if let Some(previous) = previous {
            self.close(now, previous, close::SUPERSEDED, close::default_reason(close::SUPERSEDED));
        }
        self.outputs.push_back(Output::Opened {
            link,
            session: key.clone(),
            resumed: attachment.resumed,
            known: resumable.is_some(),
        });
        for channel in undecided {
            self.ask(link, &key, channel);
        }
        if let Some(range) = &hello.outbox {
            // What HELLO gave up may move the mark.
            self.settled(now, &range.id, u32::MAX, 0);
        }
        self.wake(&key);
    }

    fn create_session(&mut self, now: Time, owner: Option<Arc<str>>) -> Key {
        let random = Key::random(&mut self.random);
        let text = format!("{}{random}", self.instance);
        // Of the alphabet and short enough.
        let key = Key::new(text).unwrap_or(random);
        // Replaced when a connection takes it, before anybody sees it.
        let token = Token::random(&mut self.random);
        let session = Session::new(now, key.clone(), token, self.config.retention, self.config.snapshots);
        let owned = Owned { session, owner, link: None, armed: false, treasured: false, away: None };
        self.sessions.insert(key.clone(), owned);
        key
    }

    fn end_session(&mut self, key: &Key) {
        if let Some(Owned { away: Some((worth, since)), .. }) = self.sessions.remove(key) {
            self.away.remove(&(worth, since, key.clone()));
        }
        self.outputs.push_back(Output::SessionEnded { session: key.clone() });
    }

    /// Notes where it belongs among those without a connection.
    fn file(&mut self, key: &Key) {
        let Some(owned) = self.sessions.get_mut(key) else { return };
        let away = owned.session.detached_since().filter(|_| owned.link.is_none());
        let away = away.map(|since| (!owned.is_blank(), since));
        let before = std::mem::replace(&mut owned.away, away);
        if before == away {
            return;
        }
        if let Some((worth, since)) = before {
            self.away.remove(&(worth, since, key.clone()));
        }
        if let Some((worth, since)) = away {
            self.away.insert((worth, since, key.clone()));
        }
    }

    /// False: all have a connection.
    fn evict_session(&mut self) -> bool {
        let Some((_, since, key)) = self.away.pop_first() else { return false };
        self.deadlines.remove(&(since + self.config.resume_ttl, Deadline::Session(key.clone())));
        self.end_session(&key);
        true
    }

    fn shed_ring(&mut self, key: &Key) -> usize {
        let Some(owned) = self.sessions.get_mut(key) else { return 0 };
        let bytes = owned.session.ring().bytes();
        owned.session.clear_ring();
        bytes
    }

    /// Forgets those that have been without a connection for longest, while there are too many.
    fn forget_inboxes_above(&mut self, count: usize) {
        while self.inboxes.len() > count {
            let unused = |(_, key): &&(Time, Key)| {
                self.inboxes.get(key).is_none_or(|shared| shared.inbox.idle_since().is_some())
            };
            let Some((_, outbox)) = self.idle.iter().find(unused).cloned() else { return };
            self.forget_inbox(&outbox);
            self.counters.evicted += 1;
        }
    }

    fn forget_inbox(&mut self, outbox: &Key) {
        if let Some(Shared { idle: Some(since), .. }) = self.inboxes.remove(outbox) {
            self.idle.remove(&(since, outbox.clone()));
        }
    }

    /// The application decides whether a client may subscribe.
    fn ask(&mut self, link: LinkId, key: &Key, channel: ChannelName) {
        let Some(Link::Open(open)) = self.links.get_mut(&link) else { return };
        let Some(owned) = self.sessions.get_mut(key) else { return };
        if owned.session.is_server_made(&channel) {
            // Not the client's to ask for, nor to be denied.
            owned.session.subscribe(&channel, true, &self.logs);
            let place = self.next_place();
            if let Some(owned) = self.sessions.get_mut(key) {
                owned.session.hold(place);
            }
            return;
        }
        // Those that come back with the session are asked about, and not counted twice.
        let others = owned.session.channels().filter(|name| **name != channel && !open.asking.contains(*name));
        let taken = others.count() + open.asking.len();
        if !self.config.authorise || taken >= self.config.max_subscriptions {
            owned.session.deny(&channel);
        } else if open.asking.insert(channel.clone()) {
            self.outputs.push_back(Output::Authorise { link, channel });
        }
    }

    fn subscribe_session(&mut self, now: Time, key: &Key, channel: &ChannelName, server_made: bool) {
        self.log(now, channel).expire(now);
        let place = self.next_place();
        let Some(owned) = self.sessions.get_mut(key) else { return };
        owned.session.subscribe(channel, server_made, &self.logs);
        owned.session.hold(place);
        self.readers.entry(channel.clone()).or_default().insert(key.clone());
    }

    fn carry_out(&mut self, now: Time, outbox: &Key, id: DeliveryId, verdict: Verdict) {
        let Some(shared) = self.inboxes.get(outbox) else { return };
        let link = shared.link;
        match verdict {
            Verdict::Stale => return,
            Verdict::Close => {
                self.close(now, link, close::INTERNAL_ERROR, close::default_reason(close::INTERNAL_ERROR));
            }
            Verdict::Reject(reject) => {
                self.counters.rejected += u64::from(reject.permanent);
                if let Some(key) = self.links.get(&link).and_then(Link::session).cloned() {
                    if let Some(owned) = self.sessions.get_mut(&key) {
                        owned.session.reject(reject);
                    }
                    self.wake(&key);
                }
            }
        }
        self.settled(now, outbox, id.place, id.bytes);
    }

    /// Has the session count what is done and was left for later.
    fn count_late(&mut self, link: LinkId) {
        let Some(Link::Open(open)) = self.links.get(&link) else { return };
        let Some((outbox, _)) = &open.inbox else { return };
        let Some(shared) = self.inboxes.find_mut(open.inbox_place, outbox) else { return };
        if shared.link != link || shared.late.counted.is_none() {
            return;
        }
        let Late { bytes, since, .. } = std::mem::take(&mut shared.late);
        if let Some(handled) = shared.inbox.poll_store() {
            shared.inbox.handle_stored(handled);
            if let Some(owned) = self.sessions.find_mut(open.session_place, &open.session) {
                owned.session.handle_settled(since, handled, bytes);
            }
        }
    }

    /// Items may have been settled.
    fn settled(&mut self, now: Time, outbox: &Key, place: u32, bytes: usize) {
        let place = self.inboxes.find_place(place, outbox);
        let Some(shared) = place.and_then(|place| self.inboxes.at_mut(place)) else { return };
        let place = place.unwrap_or(u32::MAX);
        let link = shared.link;
        let late = std::mem::take(&mut shared.late);
        let bytes = bytes + late.bytes;
        let mut mark = None;
        if let Some(handled) = shared.inbox.poll_store() {
            if self.config.store {
                self.outputs.push_back(Output::Store { outbox: outbox.clone(), handled });
            } else {
                shared.inbox.handle_stored(handled);
                mark = Some(shared.inbox.acknowledged());
            }
        }
        deliver(shared, outbox, place, &mut self.outputs, &mut self.documents);
        if let Some(mark) = mark {
            let counted = self.acknowledge(now, link, mark, bytes);
            if let Some(shared) = self.inboxes.at_mut(place) {
                shared.late = Late { counted, since: now, ..Late::default() };
            }
        }
        self.run_edits(now);
    }

    /// Returns how many messages and bytes are to be acknowledged.
    fn acknowledge(&mut self, now: Time, link: LinkId, mark: u64, bytes: usize) -> Option<(u32, usize)> {
        let Some(Link::Open(open)) = self.links.get(&link) else { return None };
        let owned = self.sessions.find_mut(open.session_place, &open.session)?;
        self.settled.insert(link);
        if owned.session.handle_settled(now, mark, bytes) {
            self.dirty.insert(link);
        }
        owned.session.unacknowledged()
    }

    fn close(&mut self, now: Time, link: LinkId, code: u16, reason: impl Into<String>) {
        if !self.links.contains_key(&link) {
            return;
        }
        self.handle_lost(now, link);
        self.links.remove(&link);
        self.dirty.remove(link);
        self.held.remove(&link);
        self.outputs.push_back(Output::Close { link, code, reason: reason.into() });
    }

    /// 0: there is no store.
    fn next_place(&mut self) -> u64 {
        self.places += u64::from(self.config.store);
        self.places
    }

    fn wake(&mut self, key: &Key) {
        self.dirty.extend(self.sessions.get(key).and_then(|owned| owned.link));
    }

    fn log(&mut self, now: Time, channel: &ChannelName) -> &mut ChannelLog {
        let (retention, random, deadlines) = (self.config.retention, &mut self.random, &mut self.deadlines);
        self.logs.entry(channel.clone()).or_insert_with(|| {
            deadlines.insert((now + retention.age, Deadline::Log(channel.clone())));
            ChannelLog::new(channel.clone(), retention, ShortId::random(random, 8))
        })
    }

    /// Drops what is too old, and the log when nothing is left that anybody reads.
    fn expire_log(&mut self, now: Time, channel: &ChannelName) {
        let Some(log) = self.logs.get_mut(channel) else { return };
        log.expire(now);
        let mut used = !log.is_empty();
        if let Some(keys) = self.readers.get_mut(channel) {
            keys.retain(|key| self.sessions.get(key).is_some_and(|owned| owned.session.is_subscribed(channel)));
            used |= !keys.is_empty();
        }
        if used {
            let again = now + self.config.retention.age.max(SHORTEST_SWEEP);
            self.deadlines.insert((again, Deadline::Log(channel.clone())));
        } else {
            self.readers.remove(channel);
            self.logs.remove(channel);
        }
    }
}

/// What of an inbox is the application's turn.
fn deliver(shared: &mut Shared, outbox: &Key, place: u32, outputs: &mut VecDeque<Output>, documents: &mut Documents) {
    while shared.inbox.has_delivery()
        && let Some(mut delivery) = shared.inbox.poll_delivery()
    {
        delivery.id.place = place;
        if delivery.edit {
            documents.queue(shared.link, outbox, delivery);
        } else {
            outputs.push_back(Output::Deliver { link: shared.link, outbox: outbox.clone(), delivery });
        }
    }
}

/// Connections to see to, each once, by their ids. Mostly there is one, which costs no allocation.
#[derive(Clone, Debug, Default)]
struct LinkSet {
    /// Not in `more`.
    one: Option<LinkId>,
    more: BTreeSet<LinkId>,
    /// The one that came last, while it is here.
    last: Option<LinkId>,
}

impl LinkSet {
    fn insert(&mut self, link: LinkId) {
        if self.last.replace(link) == Some(link) {
            return;
        }
        if self.one.is_none() && self.more.is_empty() {
            self.one = Some(link);
        } else if self.one != Some(link) {
            self.more.insert(link);
        }
    }

    fn extend(&mut self, link: Option<LinkId>) {
        if let Some(link) = link {
            self.insert(link);
        }
    }

    fn remove(&mut self, link: LinkId) {
        self.last.take_if(|last| *last == link);
        self.one.take_if(|one| *one == link);
        self.more.remove(&link);
    }

    fn pop_first(&mut self) -> Option<LinkId> {
        self.last = None;
        if self.more.is_empty() {
            return self.one.take();
        }
        match (self.one, self.more.first()) {
            (Some(one), Some(first)) if *first < one => self.more.pop_first(),
            (Some(_), _) => self.one.take(),
            (None, _) => self.more.pop_first(),
        }
    }
}

impl Link {
    fn session(&self) -> Option<&Key> {
        match self {
            Self::Open(open) => Some(&open.session),
            _ => None,
        }
    }
}

/// For numbers that the driver gives and no peer chooses.
#[derive(Clone, Copy, Debug, Default)]
struct LinkHasher(u64);

impl Hasher for LinkHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, n: u64) {
        // The table takes the highest bits and the lowest.
        self.0 = (self.0 ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }
}

/// Bytes that a session costs without what it holds, and likewise a log: an estimate.
const SESSION_COST: usize = 1024;
/// The same of a subscription.
const SUBSCRIPTION_COST: usize = 256;

/// What is in use is not looked at more often.
const SHORTEST_SWEEP: Duration = Duration::from_secs(1);

/// Messages that wait for a connection, however small.
const MAX_UNSENT: usize = 16 * 1024;

/// Answers that wait for a client that does not read them.
const MAX_CONTROL_FRAMES: usize = 1024;
