//! A server, clients, and proxies between them, driven by hand, with an application and a disk at each end.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeline_proto::v1::client::{Client, ClientConfig, Delivered, Event, Saved};
use lifeline_proto::v1::inbox::{Delivery, Inbox, Start};
use lifeline_proto::v1::log::ChannelLog;
use lifeline_proto::v1::server::{LinkId, Output, Server, Stored};
use lifeline_proto::v1::session::SessionRecord;
use lifeline_proto::v1::wire::{
    ClientFrame, Encoded, ITEM_COST, OutboxRange, Reject, Resume, ServerFrame, channel_header,
};
use lifeline_proto::v1::{ChannelName, Key, Position, Secret};
use lifeline_proto::{Time, close};

use super::book::Book;
use super::check::{Check, Reader, Sent, Stream, number};
use super::schedule::{CHANNELS, CLIENTS, Keeps, Numbers, Op, Restart, Setup};

/// Numbers of the stream that a record has in reserve.
const RESERVE: u64 = 16;

/// A connection, as the proxy sees it.
struct Conn {
    client: usize,
    link: LinkId,
    client_open: bool,
    server_open: bool,
    /// The server will hear of the client's end behind what is on its way.
    told: bool,
    up: VecDeque<Encoded>,
    down: VecDeque<Encoded>,
    /// The server has closed it, 0: the connection is gone without a word.
    closed: Option<u16>,
    /// What the client has sent, for a proxy that plays it again.
    history: Vec<Encoded>,
    /// What went down.
    welcomed: bool,
    replayed: bool,
    /// Where the stream ended at HELLO.
    replay_end: u64,
    last_message: u64,
    acknowledged: u64,
    outbox: Option<Key>,
    /// H asks for a session of which the server has forgotten what the client has seen.
    stale: Option<Key>,
}

struct Entry {
    q: u64,
    data: Bytes,
    expires: bool,
}

/// A client's outbox: memory, or a log on a disk.
struct Outbox {
    id: Key,
    generation: u64,
    next: u64,
    /// Up to here it is on the disk, and may be sent.
    synced: u64,
    entries: VecDeque<Entry>,
    /// The next one to send.
    cursor: u64,
    /// The disk knows of acknowledgements up to here.
    forgotten: u64,
    /// What the disk still has though it was acknowledged.
    old: VecDeque<Entry>,
}

impl Outbox {
    fn first(&self) -> u64 {
        self.entries.front().map_or(self.synced + 1, |entry| entry.q)
    }
}

struct Peer {
    client: Client,
    conn: Option<usize>,
    outbox: Outbox,
    disk: Option<Saved>,
    /// Its clock is further by.
    ahead: Duration,
    /// What waits for the application.
    events: VecDeque<Delivered>,
    /// 4502 and the like: only an operator brings it back.
    away: bool,
    /// Which credentials it has.
    credentials: u64,
    window: u64,
    /// The server has asked to leave.
    leave: bool,
}

/// An item that the server's application has.
#[derive(Clone)]
struct Given {
    outbox: Key,
    delivery: Delivery,
    link: LinkId,
}

type InboxRecord = (u64, u64, Vec<Reject>);

#[derive(Clone, Default)]
struct Disk {
    sessions: BTreeMap<String, (SessionRecord, Option<Arc<str>>)>,
    inboxes: BTreeMap<String, (Key, InboxRecord)>,
    channels: BTreeMap<String, (ChannelName, Position)>,
}

pub struct World {
    setup: Setup,
    now: Time,
    server: Server<Numbers>,
    server_ahead: Duration,
    peers: Vec<Peer>,
    conns: Vec<Conn>,
    given: VecDeque<Given>,
    running: Vec<Given>,
    questions: VecDeque<Output>,
    /// Marks on their way to the disk.
    writes: VecDeque<(Key, InboxRecord)>,
    disk: Disk,
    checkpoint: Option<Disk>,
    /// Where messages are kept, this is the disk; `disk` has the durable marks then.
    book: Book,
    /// What handlers have sent before they ended: outbox, item, session, number.
    answers: Vec<(Key, u64, Key, u64)>,
    denied: BTreeSet<usize>,
    /// The oldest credentials that are good, by client.
    good: Vec<u64>,
    /// Outboxes that the server should know.
    known: HashMap<Key, Time>,
    evicted: u64,
    sessions: BTreeSet<String>,
    keys: HashMap<String, Key>,
    texts: u64,
    states: [u64; CHANNELS.len()],
    lives: u64,
    boxes: u64,
    check: Check,
    pub reached: BTreeMap<String, u64>,
    /// Frames that the first client's connections have moved: to the server, to the client.
    pub moved: [u32; 2],
    /// Tell what moves.
    trace: bool,
    /// In which direction, after how many frames, and how its link ends.
    pub cut: Option<(usize, u32, Op)>,
}

fn name(channel: usize) -> ChannelName {
    ChannelName::new(CHANNELS[channel]).unwrap()
}

fn channel_index(name: &ChannelName) -> usize {
    CHANNELS.iter().position(|channel| *channel == name.as_str()).expect("a channel that there is not")
}

fn text(data: &Bytes) -> &str {
    std::str::from_utf8(data).unwrap()
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let mut world = Self {
            now: Time::ZERO + Duration::from_secs(1000),
            server: Server::new(setup.config.clone(), Numbers(1)),
            server_ahead: Duration::ZERO,
            peers: Vec::new(),
            conns: Vec::new(),
            given: VecDeque::new(),
            running: Vec::new(),
            questions: VecDeque::new(),
            writes: VecDeque::new(),
            disk: Disk::default(),
            checkpoint: None,
            book: Book::default(),
            answers: Vec::new(),
            denied: BTreeSet::new(),
            good: vec![0; CLIENTS],
            known: HashMap::new(),
            evicted: 0,
            sessions: BTreeSet::new(),
            keys: HashMap::new(),
            texts: 0,
            states: [0; CHANNELS.len()],
            lives: 1,
            boxes: 0,
            check: Check::default(),
            reached: BTreeMap::new(),
            moved: [0; 2],
            trace: std::env::var_os("MODEL_TRACE").is_some(),
            cut: None,
            setup,
        };
        for index in 0..CLIENTS {
            let outbox = world.new_outbox(index);
            world.check.streams.push(Stream::default());
            world.peers.push(Peer {
                client: Client::new(ClientConfig::default(), index as u64),
                conn: None,
                outbox,
                disk: None,
                ahead: Duration::ZERO,
                events: VecDeque::new(),
                away: false,
                credentials: 0,
                window: 0,
                leave: false,
            });
        }
        world
    }

    fn reach(&mut self, what: impl Into<String>) {
        *self.reached.entry(what.into()).or_default() += 1;
    }

    fn new_outbox(&mut self, client: usize) -> Outbox {
        self.boxes += 1;
        let id = Key::new(format!("box{}-{client}", self.boxes)).unwrap();
        Outbox {
            id,
            generation: 1,
            next: 1,
            synced: 0,
            entries: VecDeque::new(),
            cursor: 1,
            forgotten: 0,
            old: VecDeque::new(),
        }
    }

    fn server_now(&self) -> Time {
        self.now + self.server_ahead
    }

    fn client_now(&self, client: usize) -> Time {
        self.now + self.peers[client].ahead
    }

    fn text(&mut self, size: usize) -> String {
        self.texts += 1;
        let mut text = format!("{} ", self.texts);
        text.extend(std::iter::repeat_n('x', size.saturating_sub(text.len())));
        text
    }

    pub fn step(&mut self, op: Op) {
        if self.trace {
            eprintln!("-- {op:?}");
        }
        match op {
            Op::Connect(client) => self.connect(client),
            Op::Cut(client) => self.cut(client, true, false),
            Op::Reset(client) => self.cut(client, true, true),
            Op::HalfOpen(client) => self.cut(client, false, false),
            Op::Deaf(client) => self.deaf(client),
            Op::Notice => self.notice(),
            Op::Up(client, count) => self.each_conn(client, count, Self::up),
            Op::Write(client, count) => self.each_conn(client, count, Self::write),
            Op::Down(client, count) => self.each_conn(client, count, Self::down),
            Op::Flow(client) => while self.flow(client) {},
            Op::Round(client) => self.round(client),
            Op::Late(client) => self.late(client),
            Op::Again(client) => self.again(client),
            Op::Send(client, size) => {
                self.client_send(client, size);
                self.synced(client);
            }
            Op::SendMany(client, count) => (0..count).for_each(|_| self.client_send(client, 10)),
            Op::Synced(client) => self.synced(client),
            Op::Expire(client) => self.expire(client),
            Op::Subscribe(client, channel) => {
                let reader = self.check.readers.entry((client, channel)).or_default();
                reader.anew |= std::mem::take(&mut reader.left);
                self.peers[client].client.subscribe(name(channel));
            }
            Op::Unsubscribe(client, channel) => {
                let reader = self.check.readers.entry((client, channel)).or_default();
                reader.left = reader.position.is_some();
                self.peers[client].client.unsubscribe(&name(channel));
            }
            Op::ClientBeat(client) => self.peers[client].client.beat(7),
            Op::Refresh(client) => {
                let credentials = self.peers[client].credentials;
                self.peers[client].client.refresh(Secret(credentials.to_string()));
            }
            Op::Take(client, count) => self.take(client, count),
            Op::ClientBatch(client) => self.peers[client].client.handle_batch_end(),
            Op::KillClient(client) => self.kill_client(client),
            Op::ServerSend(client, size) => self.server_send(client, size),
            Op::Broadcast => self.broadcast(),
            Op::Publish(channel, count) => (0..count).for_each(|_| self.publish(channel)),
            Op::ServerSubscribe(client, channel) => {
                if let Some(session) = self.session(client) {
                    self.server.subscribe(self.server_now(), &session, &name(channel));
                    self.log_truth(channel);
                    self.book.changed.insert(session);
                    self.book.moved.insert(name(channel));
                }
            }
            Op::ServerUnsubscribe(client, channel) => {
                if let Some(session) = self.session(client) {
                    self.server.unsubscribe(&session, &name(channel));
                    self.book.changed.insert(session);
                }
            }
            Op::ServerBeat(client) => {
                if let Some(link) = self.peers[client].conn.map(|conn| self.conns[conn].link) {
                    self.server.beat(link, 9);
                }
            }
            Op::Deny(channel, yes) => {
                if yes {
                    self.denied.insert(channel);
                } else {
                    self.denied.remove(&channel);
                }
            }
            Op::TokenExpires(client) => self.good[client] = self.peers[client].credentials + 1,
            Op::Ban(client) => {
                if let Some(conn) = self.peers[client].conn {
                    let link = self.conns[conn].link;
                    self.server.disconnect(self.server_now(), link, close::BANNED, "");
                }
            }
            Op::Answer => drop(self.answer()),
            Op::Begin => drop(self.begin()),
            Op::Finish(index) => self.finish(index),
            Op::Fail(index) => self.refuse(index, None),
            Op::Reject(index, permanent) => self.refuse(index, Some(permanent)),
            Op::ServerBatch => self.server.handle_batch_end(),
            Op::Stored => drop(self.stored()),
            Op::Records => self.write_records(),
            Op::Stage => {
                if self.setup.keeps.is_some() && self.book.take(&mut self.server) {
                    self.reach("batch under way");
                }
            }
            Op::Append => self.append(),
            Op::WriteAnew => {
                if self.setup.keeps.is_some() {
                    while self.stored() {}
                    if self.book.write_anew(&mut self.server) {
                        self.reach("written anew");
                    }
                }
            }
            Op::Checkpoint => {
                self.checkpoint = Some(self.disk.clone());
                self.book.checkpoint();
            }
            Op::RestartServer(how) => self.restart_server(how),
            Op::Drain(millis) => {
                self.reach("drain");
                self.server.drain(self.server_now(), Duration::from_millis(millis));
            }
            Op::Shed(bytes) => self.shed(bytes),
            Op::Sleep(millis) => self.pass(Duration::from_millis(millis)),
            Op::ServerJump(millis) => {
                self.server_ahead += Duration::from_millis(millis);
                self.pass(Duration::ZERO);
            }
            Op::ClientJump(client, millis) => {
                self.peers[client].ahead += Duration::from_millis(millis);
                self.pass(Duration::ZERO);
            }
        }
        self.settle();
        self.bounds();
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.server.handle_timeout(self.server_now());
        for index in 0..CLIENTS {
            let now = self.client_now(index);
            self.peers[index].client.handle_timeout(now);
        }
    }

    fn session(&self, client: usize) -> Option<Key> {
        let session = self.peers[client].client.session()?;
        self.server.session(session).map(|_| session.clone())
    }

    // Connections.

    fn connect(&mut self, client: usize) {
        if self.peers[client].conn.is_some() {
            return;
        }
        let link = LinkId(self.conns.len() as u64);
        let peer = &mut self.peers[client];
        peer.away = false;
        peer.leave = false;
        peer.conn = Some(self.conns.len());
        peer.outbox.cursor = peer.outbox.first();
        let auth = Secret(peer.credentials.to_string());
        let outbox = &peer.outbox;
        peer.client.handle_connected(
            Some(auth),
            Some(OutboxRange {
                id: outbox.id.clone(),
                generation: outbox.generation,
                first: outbox.first(),
                next: outbox.synced + 1,
            }),
        );
        let outbox = Some(outbox.id.clone());
        self.open(client, link, outbox, true);
    }

    fn open(&mut self, client: usize, link: LinkId, outbox: Option<Key>, client_open: bool) {
        self.conns.push(Conn {
            client,
            link,
            client_open,
            server_open: true,
            told: true,
            up: VecDeque::new(),
            down: VecDeque::new(),
            closed: None,
            history: Vec::new(),
            welcomed: false,
            replayed: false,
            replay_end: 0,
            last_message: 0,
            acknowledged: 0,
            outbox,
            stale: None,
        });
        self.server.handle_connected(self.server_now(), link);
    }

    /// The client's end is over.
    fn leave(&mut self, client: usize) -> Option<usize> {
        let conn = self.peers[client].conn.take()?;
        self.conns[conn].client_open = false;
        self.conns[conn].down.clear();
        let peer = &mut self.peers[client];
        peer.client.handle_lost();
        peer.leave = false;
        Some(conn)
    }

    fn cut(&mut self, client: usize, told: bool, reset: bool) {
        let Some(conn) = self.leave(client) else { return };
        self.conns[conn].told = told;
        if reset {
            self.conns[conn].up.clear();
            self.server_lost(conn);
        }
    }

    fn server_lost(&mut self, conn: usize) {
        if std::mem::replace(&mut self.conns[conn].server_open, false) {
            self.server.handle_lost(self.server_now(), self.conns[conn].link);
        }
    }

    /// The server believes that the connection has ended, the client does not know.
    fn deaf(&mut self, client: usize) {
        let Some(conn) = self.peers[client].conn else { return };
        self.conns[conn].up.clear();
        self.server_lost(conn);
    }

    fn notice(&mut self) {
        for conn in 0..self.conns.len() {
            let Conn { client, client_open, server_open, .. } = self.conns[conn];
            if !client_open && server_open {
                self.conns[conn].up.clear();
                self.server_lost(conn);
            }
            if client_open && !server_open && self.conns[conn].closed.is_none() {
                self.leave(client);
            }
        }
        self.settle();
    }

    fn each_conn(&mut self, client: usize, count: usize, act: impl Fn(&mut Self, usize) -> bool) {
        for _ in 0..count {
            let Some(conn) = self.peers[client].conn else { return };
            if !act(self, conn) {
                return;
            }
            self.settle();
        }
    }

    fn flow(&mut self, client: usize) -> bool {
        let Some(conn) = self.peers[client].conn else { return false };
        let mut moved = self.up(conn);
        self.settle();
        moved |= self.write(conn);
        self.settle();
        moved |= self.down(conn);
        self.settle();
        moved
    }

    fn round(&mut self, client: usize) {
        self.connect(client);
        self.settle();
        for _ in 0..3 {
            while self.flow(client) {}
            while self.answer() | self.stored() {
                self.settle();
            }
            while self.begin() {
                self.finish(self.running.len() - 1);
                self.settle();
            }
            self.take(client, usize::MAX);
            self.server.handle_batch_end();
            self.peers[client].client.handle_batch_end();
            self.settle();
        }
    }

    fn late(&mut self, client: usize) {
        for conn in 0..self.conns.len() {
            let Conn { client: owner, client_open, .. } = self.conns[conn];
            while owner == client && !client_open && self.up(conn) {
                self.reach("frame of an ended connection");
                self.settle();
            }
        }
    }

    fn again(&mut self, client: usize) {
        let ended = |conn: &&Conn| conn.client == client && !conn.client_open && !conn.history.is_empty();
        let Some(conn) = self.conns.iter().rev().find(ended) else { return };
        let (frames, outbox) = (conn.history.clone(), conn.outbox.clone());
        self.reach("connection played again");
        // It takes the session away from who has it.
        self.check.lost_sessions.extend(self.check.streams[client].session.clone());
        let link = LinkId(self.conns.len() as u64);
        self.open(client, link, outbox, false);
        self.conns.last_mut().unwrap().up.extend(frames);
    }

    /// One frame arrives at the server, or the end of the connection.
    fn up(&mut self, conn: usize) -> bool {
        if !self.conns[conn].server_open {
            self.conns[conn].up.clear();
            return false;
        }
        let link = self.conns[conn].link;
        let Some(Encoded { data, binary }) = self.conns[conn].up.pop_front() else {
            if !self.conns[conn].client_open && self.conns[conn].told {
                self.server_lost(conn);
                return true;
            }
            return false;
        };
        if self.trace {
            eprintln!("{link:?} > {}", String::from_utf8_lossy(&data));
        }
        let before = self.server.counters();
        self.server.handle_message(self.server_now(), link, &data, binary);
        self.count(conn, 0);
        if self.server.counters().duplicates > before.duplicates {
            self.reach("item that came twice");
        }
        true
    }

    /// The server writes one frame.
    fn write(&mut self, conn: usize) -> bool {
        if !self.conns[conn].server_open {
            return false;
        }
        let Some(outgoing) = self.server.poll_transmit(self.server_now(), self.conns[conn].link) else { return false };
        let encoded = outgoing.encode();
        self.tap_down(conn, &encoded);
        if self.conns[conn].client_open {
            self.conns[conn].down.push_back(encoded);
        }
        true
    }

    /// One frame arrives at the client, or the end of the connection.
    fn down(&mut self, conn: usize) -> bool {
        let client = self.conns[conn].client;
        if self.peers[client].conn != Some(conn) {
            return false;
        }
        if let Some(Encoded { data, binary }) = self.conns[conn].down.pop_front() {
            if self.trace {
                eprintln!("client {client} < {}", String::from_utf8_lossy(&data));
            }
            let now = self.client_now(client);
            if let Err(violation) = self.peers[client].client.handle_message(now, &data, binary) {
                panic!("client {client}: {violation}");
            }
            self.count(conn, 1);
            return true;
        }
        let Some(code) = self.conns[conn].closed else { return false };
        self.leave(client);
        let peer = &mut self.peers[client];
        peer.away = (4500..5000).contains(&code);
        if code == close::TOKEN_EXPIRED {
            peer.credentials = self.good[client];
        }
        true
    }

    /// A frame has moved; the link may end here.
    fn count(&mut self, conn: usize, direction: usize) {
        if self.conns[conn].client > 0 {
            return;
        }
        self.moved[direction] += 1;
        if let Some((cut, after, how)) = self.cut
            && cut == direction
            && self.moved[cut] == after
        {
            self.cut = None;
            self.step(how);
            self.step(Op::Connect(0));
        }
    }

    /// What the server says is allowed.
    fn tap_down(&mut self, conn: usize, encoded: &Encoded) {
        let frame = ServerFrame::decode(&encoded.data, encoded.binary, usize::MAX).unwrap().expect("a known type");
        let kind = String::from_utf8_lossy(&encoded.data[..1]).into_owned();
        self.reach(format!("S: {kind}"));
        let Conn { welcomed, replayed, replay_end, last_message, .. } = self.conns[conn];
        let first = matches!(frame, ServerFrame::Welcome(_));
        assert_ne!(welcomed, first, "W is the first frame, once: {frame:?}");
        match frame {
            ServerFrame::Welcome(welcome) => {
                self.conns[conn].welcomed = true;
                let stale = self.conns[conn].stale.as_ref() == Some(&welcome.session);
                assert!(!stale, "{} goes on, and has forgotten what its client has seen", welcome.session);
                if let Some(why) = &welcome.why {
                    self.reach(format!("W: {}", why.as_str()));
                }
                if !welcome.rejected.is_empty() {
                    self.reach("W: rejected");
                }
                if let Some(outbox) = self.conns[conn].outbox.clone() {
                    for reject in &welcome.rejected {
                        let item = self.check.outboxes.entry(outbox.clone()).or_default().item(reject.sequence);
                        assert!(item.refused, "W says that {} was refused", reject.sequence);
                    }
                    self.acknowledged(conn, welcome.handled);
                }
            }
            ServerFrame::Acknowledge { sequence } => self.acknowledged(conn, sequence),
            ServerFrame::Message { sequence, acknowledged, .. } => {
                assert!(sequence > last_message, "M {sequence} behind {last_message}");
                assert!(replayed || sequence <= replay_end, "M {sequence} is live and R has not come");
                self.conns[conn].last_message = sequence;
                if let Some(acknowledged) = acknowledged {
                    self.reach("S: M with q");
                    self.acknowledged(conn, acknowledged);
                }
            }
            ServerFrame::ReplayDone { sequence } => {
                assert!(!replayed && sequence >= replay_end, "R {sequence}, the stream ended at {replay_end}");
                self.conns[conn].replayed = true;
            }
            ServerFrame::Reject(reject) => {
                self.reach(if reject.permanent { "N for good" } else { "N for now" });
                let outbox = self.conns[conn].outbox.clone().unwrap();
                assert!(reject.sequence > self.conns[conn].acknowledged, "N {} behind its A", reject.sequence);
                let item = self.check.outboxes.entry(outbox).or_default().item(reject.sequence);
                assert!(!reject.permanent || item.refused);
            }
            ServerFrame::Gap(gap) => self.reach(format!("G: {}", gap.why.as_str())),
            ServerFrame::Subscription(subscription) => self.reach(format!("K: {:?}", subscription.status)),
            _ => {}
        }
    }

    fn acknowledged(&mut self, conn: usize, q: u64) {
        let outbox = self.conns[conn].outbox.clone().unwrap();
        let stored = self.disk.inboxes.get(outbox.as_str()).map_or(0, |(_, record)| record.1);
        let stored = self.setup.config.store.then_some(stored);
        self.check.acknowledges(&outbox, q, stored);
        let conn = &mut self.conns[conn];
        conn.acknowledged = conn.acknowledged.max(q);
    }

    /// What a client says is allowed.
    fn tap_up(&mut self, client: usize, encoded: &Encoded) {
        let frame = ClientFrame::decode(&encoded.data, encoded.binary, usize::MAX).unwrap().expect("a known type");
        let kind = String::from_utf8_lossy(&encoded.data[..1]).into_owned();
        self.reach(format!("C: {kind}"));
        let peer = &self.peers[client];
        let handled = self.check.streams[client].handled;
        let saved = peer.disk.as_ref().map(|saved| saved.sequence).filter(|_| self.setup.durable[client]);
        let acknowledged = match &frame {
            ClientFrame::Acknowledge { sequence } => Some(*sequence),
            ClientFrame::Item { acknowledged, .. } => *acknowledged,
            ClientFrame::Hello(hello) => hello.resume.as_ref().map(|resume| resume.sequence),
            _ => None,
        };
        if let Some(s) = acknowledged {
            assert!(s <= handled, "client {client} acknowledges {s}, handled is {handled}");
            assert!(saved.is_none_or(|saved| s <= saved), "client {client} acknowledges {s}, saved is {saved:?}");
            if kind == "P" {
                self.reach("C: P with s");
            }
        }
        match frame {
            ClientFrame::Hello(hello) => {
                if let (Some(conn), Some(resume)) = (self.peers[client].conn, hello.resume)
                    && self.check.streams[client].stale.is_some()
                {
                    self.reach("H of a session that its server has forgotten");
                    self.conns[conn].stale = Some(resume.session);
                }
            }
            ClientFrame::Item { .. } => {
                let peer = &self.peers[client];
                let alone = (encoded.data.len() + ITEM_COST) as u64;
                assert!(peer.client.in_flight() <= peer.window.max(alone), "client {client}: over the window");
            }
            ClientFrame::GiveUp { from: Some(from), sequence } => {
                let items = self.check.outboxes.entry(self.peers[client].outbox.id.clone()).or_default();
                for q in from..=sequence {
                    let item = items.item(q);
                    assert!(item.dropped || item.told > 0, "client {client} gives {q} up: {item:?}");
                }
            }
            _ => {}
        }
    }

    // The client's application and disk.

    fn client_send(&mut self, client: usize, size: usize) {
        if self.peers[client].outbox.entries.len() >= 100 {
            return;
        }
        let data = Bytes::from(self.text(size));
        let outbox = &mut self.peers[client].outbox;
        let q = outbox.next;
        outbox.next += 1;
        outbox.entries.push_back(Entry { q, data, expires: false });
    }

    /// `send()` returns.
    fn synced(&mut self, client: usize) {
        let outbox = &mut self.peers[client].outbox;
        let items = self.check.outboxes.entry(outbox.id.clone()).or_default();
        for q in outbox.synced + 1..outbox.next {
            items.item(q).accepted = true;
        }
        outbox.synced = outbox.next - 1;
    }

    fn expire(&mut self, client: usize) {
        let outbox = &mut self.peers[client].outbox;
        let waits = |entry: &&mut Entry| entry.q >= outbox.cursor && entry.q <= outbox.synced;
        if let Some(entry) = outbox.entries.iter_mut().rev().find(waits) {
            entry.expires = true;
        }
        let connected = self.peers[client].conn.is_some();
        let outbox = &mut self.peers[client].outbox;
        let cursor = if connected { outbox.cursor } else { 0 };
        let items = self.check.outboxes.entry(outbox.id.clone()).or_default();
        let before = outbox.entries.len();
        outbox.entries.retain(|entry| {
            let expired = entry.expires && entry.q >= cursor;
            if expired {
                items.item(entry.q).dropped = true;
            }
            !expired
        });
        if before > outbox.entries.len() {
            self.reach("item expired");
        }
    }

    fn take(&mut self, client: usize, count: usize) {
        for _ in 0..count {
            let Some(delivered) = self.peers[client].events.pop_front() else { return };
            let now = self.client_now(client);
            self.peers[client].client.handle_delivered(now, delivered);
            let stream = &mut self.check.streams[client];
            // Of this session?
            let sequence = self.peers[client].client.saved().map_or(0, |saved| saved.sequence);
            stream.handled = stream.handled.max(sequence);
            assert!(stream.handled <= stream.seen);
        }
    }

    fn kill_client(&mut self, client: usize) {
        self.reach(if self.setup.durable[client] { "client killed" } else { "client killed, nothing kept" });
        if let Some(conn) = self.leave(client) {
            self.conns[conn].told = true;
        }
        let mut fresh = Client::new(ClientConfig::default(), client as u64 + self.texts);
        if self.setup.durable[client] {
            let saved = self.peers[client].disk.clone();
            let positions: Vec<_> = (0..CHANNELS.len())
                .map(|channel| saved.as_ref().and_then(|saved| saved.channels.get(&name(channel)).cloned()))
                .collect();
            let session = saved.as_ref().map(|saved| (saved.session.clone(), saved.sequence));
            self.check.client_died(client, session, &positions);
            if let Some(saved) = saved {
                fresh.restore(saved);
            }
            let outbox = &mut self.peers[client].outbox;
            // What was not synced was not accepted; the disk may not know of the last acknowledgements.
            while outbox.entries.back().is_some_and(|entry| entry.q > outbox.synced) {
                outbox.entries.pop_back();
            }
            while let Some(entry) = outbox.old.pop_back() {
                outbox.entries.push_front(entry);
            }
            outbox.next = outbox.synced + 1;
            outbox.generation += 1;
        } else {
            self.check.client_died(client, None, &[None, None]);
            let id = self.peers[client].outbox.id.clone();
            self.check.outboxes.entry(id).or_default().gone = true;
            let outbox = self.new_outbox(client);
            self.peers[client].outbox = outbox;
        }
        let peer = &mut self.peers[client];
        peer.client = fresh;
        peer.events.clear();
    }

    fn settle_client(&mut self, client: usize) {
        let now = self.client_now(client);
        let server_now = self.server_now();
        let retention = self.setup.config.retention;
        while let Some(event) = self.peers[client].client.poll_event() {
            let position = |peer: &Peer, channel: &ChannelName| {
                peer.client.saved().and_then(|saved| saved.channels.get(channel).cloned())
            };
            let peer = &mut self.peers[client];
            match event {
                Event::Acknowledged { sequence } => {
                    let outbox = &mut peer.outbox;
                    while outbox.entries.front().is_some_and(|entry| entry.q <= sequence) {
                        let entry = outbox.entries.pop_front().unwrap();
                        self.check.forgets(&outbox.id, entry.q);
                        outbox.old.push_back(entry);
                        // The disk is told of every third.
                        if entry_is_third(outbox) {
                            outbox.old.clear();
                        }
                    }
                    outbox.cursor = outbox.cursor.max(sequence + 1);
                }
                Event::Rejected(reject) => {
                    let outbox = &mut peer.outbox;
                    if let Some(index) = outbox.entries.iter().position(|entry| entry.q == reject.sequence) {
                        // A refusal of what the disk does not remember as acknowledged may come again.
                        if self.check.outboxes.entry(outbox.id.clone()).or_default().item(reject.sequence).told == 0 {
                            self.check.told(&outbox.id, reject.sequence);
                        }
                        outbox.entries.remove(index);
                        self.reach("refusal told");
                    }
                }
                Event::Resend { sequence } => {
                    peer.outbox.cursor = peer.outbox.cursor.min(sequence);
                    self.reach("resend");
                }
                Event::Welcomed(welcomed) => {
                    peer.window = welcomed.limits.window;
                    self.check.welcomed(client, &welcomed.session);
                    if welcomed.resumed {
                        self.reach("resumed");
                    }
                }
                Event::Message { delivery, data, .. } => {
                    self.check.message(client, delivery.sequence, text(&data));
                    peer.events.push_back(delivery);
                }
                Event::Gap { gap, delivery } => {
                    if let Some(channel) = gap.channel.clone() {
                        let position = position(peer, &channel);
                        let channel = channel_index(&channel);
                        self.check.channel_gap(client, channel, &gap, position, server_now, retention);
                    } else {
                        self.check.stream_gap(client, &gap, server_now, retention);
                        peer.events.extend(delivery);
                        if gap.to.is_none() {
                            peer.events.clear();
                        }
                    }
                    self.reach(format!("gap {}", gap.why.as_str()));
                }
                Event::Channel { channel, position, data, .. } => {
                    self.check.channel_message(client, channel_index(&channel), &position, text(&data));
                }
                Event::Snapshot { channel, position, data, .. } => {
                    self.check.snapshot(client, channel_index(&channel), &position, number(text(&data)));
                }
                Event::Subscription { channel, status } => {
                    let position = position(peer, &channel);
                    self.check.subscription(client, channel_index(&channel), status, position);
                }
                Event::Leave { .. } => peer.leave = true,
                Event::Answered(n) => assert_eq!(n, 7),
                Event::ReplayDone => {}
                Event::Delta { .. } | Event::State { .. } => panic!("there are no documents"),
                Event::OutboxDiverged { handled } => panic!("client {client}: diverged at {handled}"),
            }
        }
        if self.peers[client].leave {
            self.reach("left when asked");
            self.cut(client, true, false);
        }
        loop {
            let peer = &mut self.peers[client];
            let outbox = &mut peer.outbox;
            let next = outbox.entries.iter().find(|entry| entry.q >= outbox.cursor && entry.q <= outbox.synced);
            let Some(entry) = next.filter(|entry| peer.client.room(entry.data.len())) else { break };
            assert!(peer.client.send(entry.q, entry.data.clone(), false), "client {client}: {} is not next", entry.q);
            outbox.cursor = entry.q + 1;
        }
        loop {
            let peer = &mut self.peers[client];
            // Saved first, then sent.
            if self.setup.durable[client] {
                peer.disk = peer.client.saved();
            }
            let Some(encoded) = peer.client.poll_transmit(now) else { return };
            let Some(conn) = peer.conn else { continue };
            self.tap_up(client, &encoded);
            self.conns[conn].history.push(encoded.clone());
            self.conns[conn].up.push_back(encoded);
        }
    }

    // The server's application and disk.

    fn truth(&mut self, session: &Key) -> &mut super::check::Truth {
        self.check.sessions.entry(session.clone()).or_default()
    }

    fn log_truth(&mut self, channel: usize) {
        if let Some(top) = self.server.channel_log(&name(channel)).map(ChannelLog::top) {
            self.check.logs.entry((channel, top.epoch)).or_default();
        }
    }

    fn sent(&mut self, session: &Key, sequence: u64, text: String) {
        let at = self.server_now();
        let bytes = text.len();
        let truth = self.truth(session);
        truth.rolled_back |= truth.sent.contains_key(&sequence) || sequence < truth.top();
        truth.sent.entry(sequence).or_default().push(Sent { text, message_id: None, at, bytes });
        if self.setup.keeps.is_some() {
            return;
        }
        // The next numbers are reserved before they are used up.
        let reserved = self.disk.sessions.get(session.as_str()).map(|(record, _)| record.next);
        if reserved.is_some_and(|next| sequence + 1 >= next) {
            self.write_session(session);
        }
    }

    fn server_send(&mut self, client: usize, size: usize) {
        let Some(session) = self.session(client) else { return };
        let text = self.text(size);
        let sequence = self.server.session(&session).unwrap().ring().next();
        self.sent(&session, sequence, text.clone());
        let given = self.server.send(self.server_now(), &session, Bytes::from(text), false);
        assert_eq!(given, Some(sequence));
        self.note_message(&session, sequence);
    }

    /// The store is to have it.
    fn note_message(&mut self, session: &Key, sequence: u64) {
        if let Some(message) = self.server.session(session).and_then(|session| session.ring().message(sequence)) {
            self.book.add_message(session, sequence, message);
        }
    }

    fn broadcast(&mut self) {
        let text = self.text(20);
        let mut numbers = Vec::new();
        for session in self.live_sessions() {
            let sequence = self.server.session(&session).unwrap().ring().next();
            self.sent(&session, sequence, text.clone());
            numbers.push((session, sequence));
        }
        let count = self.server.broadcast(self.server_now(), &Bytes::from(text), false);
        assert_eq!(count, self.live_sessions().len());
        for (session, sequence) in numbers {
            self.note_message(&session, sequence);
        }
    }

    fn live_sessions(&self) -> Vec<Key> {
        let known = self.sessions.iter().map(|session| &self.keys[session]);
        known.filter(|session| self.server.session(session).is_some()).cloned().collect()
    }

    fn publish(&mut self, channel: usize) {
        let text = self.text(10);
        self.states[channel] = number(&text);
        let position = self.server.publish(self.server_now(), &name(channel), text.as_bytes(), false);
        if self.setup.keeps.is_some() {
            self.book.stage_published(&mut self.server);
        }
        let bytes = channel_header('C', &name(channel), &position).len() + text.len();
        let sent = Sent { text, message_id: Some(position.message_id), at: self.server_now(), bytes };
        let truth = self.check.logs.entry((channel, position.epoch)).or_default();
        truth.rolled_back |= truth.sent.contains_key(&position.offset);
        truth.sent.entry(position.offset).or_default().push(sent);
    }

    fn begin(&mut self) -> bool {
        while let Some(given) = self.given.pop_front() {
            // The callbacks of one connection are serial, unless they say that they go on by themselves.
            if self.running.iter().filter(|running| running.link == given.link).count() >= self.setup.handlers {
                self.given.push_front(given);
                return false;
            }
            let id = given.delivery.id;
            match self.server.handle_start(&given.outbox, id) {
                Start::Stale => self.reach("stale delivery"),
                Start::Attempt(attempt) => {
                    let others = self.running.iter().filter(|running| running.outbox == given.outbox);
                    let others: Vec<_> = others.map(|running| running.delivery.id.sequence).collect();
                    self.check.begins(&given.outbox, id.sequence, &others, self.setup.handlers == 1);
                    assert!(attempt <= self.setup.config.redelivery_limit, "attempt {attempt}");
                    if attempt > 1 {
                        self.reach("attempt again");
                    }
                    self.running.push(given);
                    return true;
                }
            }
        }
        false
    }

    fn take_running(&mut self, index: usize) -> Option<Given> {
        (!self.running.is_empty()).then(|| self.running.remove(index % self.running.len()))
    }

    fn finish(&mut self, index: usize) {
        let Some(given) = self.take_running(index) else { return };
        let q = given.delivery.id.sequence;
        if self.setup.keeps.is_some()
            && q.is_multiple_of(2)
            && let Some(session) = self.server.session_of(given.link).cloned()
            // Not so much that it is a slow reader for that alone.
            && self.server.session(&session).is_some_and(|session| session.unsent_len() == 0)
        {
            let text = self.text(10);
            let sequence = self.server.session(&session).unwrap().ring().next();
            self.sent(&session, sequence, text.clone());
            self.server.send(self.server_now(), &session, Bytes::from(text), false);
            self.note_message(&session, sequence);
            if self.server.inbox(&given.outbox).is_some() {
                self.answers.push((given.outbox.clone(), q, session, sequence));
            }
        }
        if self.server.inbox(&given.outbox).is_some() {
            self.check.handled(&given.outbox, given.delivery.id.sequence);
        }
        self.server.handle_done(self.server_now(), &given.outbox, given.delivery.id);
    }

    /// The handler fails, or refuses.
    fn refuse(&mut self, index: usize, permanent: Option<bool>) {
        let Some(given) = self.take_running(index) else { return };
        let id = given.delivery.id;
        let before = self.server.counters().rejected;
        match permanent {
            None => self.server.handle_failed(self.server_now(), &given.outbox, id),
            Some(permanent) => {
                self.server.handle_rejected(self.server_now(), &given.outbox, id, 7, "no".into(), permanent);
            }
        }
        if self.server.counters().rejected > before {
            self.check.refused(&given.outbox, id.sequence);
            if permanent != Some(true) {
                self.reach("poison");
            }
        } else {
            assert_ne!(permanent, Some(true));
        }
    }

    fn answer(&mut self) -> bool {
        let Some(question) = self.questions.pop_front() else { return false };
        let now = self.server_now();
        match question {
            Output::Authenticate { link, auth, .. } => {
                let client = self.conns[link.0 as usize].client;
                let given: u64 = auth.map_or(0, |auth| auth.0.parse().unwrap());
                let owner: Arc<str> = format!("user{client}").into();
                let answer = if given < self.good[client] { Err(close::TOKEN_EXPIRED) } else { Ok(Some(owner)) };
                self.server.handle_authenticated(now, link, answer);
            }
            Output::Authorise { link, channel } => {
                let index = channel_index(&channel);
                self.server.handle_authorised(now, link, &channel, !self.denied.contains(&index));
                self.log_truth(index);
            }
            Output::Snapshot { link, channel, position } => {
                let state = self.states[channel_index(&channel)];
                // Every fifth time the application has none.
                let state = (!state.is_multiple_of(5)).then(|| (Bytes::from(state.to_string()), false));
                self.server.handle_snapshot(link, &channel, &position, state);
            }
            _ => {}
        }
        true
    }

    /// Appends all that waits, where messages are kept.
    fn append(&mut self) {
        if self.setup.keeps.is_some() {
            self.book.append(&mut self.server);
        }
    }

    fn stored(&mut self) -> bool {
        if self.setup.keeps.is_some() {
            let news = self.book.has_news(&self.server);
            self.append();
            for (outbox, mark) in self.book.sync() {
                let record = (0, mark, Vec::new());
                self.disk.inboxes.insert(outbox.to_string(), (outbox.clone(), record));
                self.server.handle_stored(self.server_now(), &outbox, mark);
            }
            return news;
        }
        let Some((outbox, record)) = self.writes.pop_front() else { return false };
        let mark = record.1;
        self.disk.inboxes.insert(outbox.to_string(), (outbox.clone(), record));
        self.server.handle_stored(self.server_now(), &outbox, mark);
        true
    }

    fn write_session(&mut self, session: &Key) {
        if !self.setup.config.store || self.setup.keeps.is_some() {
            return;
        }
        let Some(state) = self.server.session(session) else { return };
        let mut record = state.record();
        record.next += RESERVE;
        let owner = self.owner(session);
        self.disk.sessions.insert(session.to_string(), (record, owner));
    }

    fn owner(&self, session: &Key) -> Option<Arc<str>> {
        self.server.stored().sessions.into_iter().find(|(record, _)| record.id == *session).and_then(|(_, owner)| owner)
    }

    fn write_records(&mut self) {
        if self.setup.keeps.is_some() {
            return self.append();
        }
        for session in self.live_sessions() {
            self.write_session(&session);
        }
        for text in CHANNELS {
            let name = ChannelName::new(text).unwrap();
            match self.server.channel_log(&name).map(ChannelLog::top) {
                Some(top) => self.disk.channels.insert(text.into(), (name, top)),
                None => self.disk.channels.remove(text),
            };
        }
    }

    /// A server dies whose store, if it has one, keeps no messages; what the next one finds.
    fn restart_plain(&mut self, how: Restart) -> Option<Stored> {
        let stored = match how {
            Restart::Clean => Some(without_messages(self.server.stored(), &self.server)),
            Restart::Killed | Restart::PowerCut => Some(stored_of(&self.disk)),
            Restart::RolledBack => {
                self.disk = self.checkpoint.clone().unwrap_or_default();
                Some(stored_of(&self.disk))
            }
            Restart::Empty => {
                self.disk = Disk::default();
                None
            }
        };
        // What rings and logs had is lost, and what was handled behind the marks.
        let logs = &mut self.check.logs;
        for truth in logs.values_mut() {
            truth.lost = truth.top();
        }
        let sessions: Vec<_> = self.sessions.iter().map(|session| self.keys[session].clone()).collect();
        for session in sessions {
            let record = stored.as_ref().and_then(|stored| {
                stored.sessions.iter().map(|(record, _)| record).find(|record| record.id == session)
            });
            let next = record.map_or(0, |record| record.next);
            let missing = record.is_none();
            let truth = self.truth(&session);
            truth.lost = truth.top();
            truth.rolled_back |= next <= truth.top();
            if missing || how == Restart::RolledBack {
                self.check.lost_sessions.insert(session);
            }
        }
        let rolled = stored.iter().flat_map(|stored| &stored.channels);
        let tops: HashMap<_, _> = rolled.map(|(channel, top)| (channel_index(channel), top.clone())).collect();
        for ((channel, epoch), truth) in &mut self.check.logs {
            if tops.get(channel).is_some_and(|top| top.epoch == *epoch && top.offset < truth.top()) {
                truth.rolled_back = true;
            }
        }
        stored
    }

    /// A server dies whose store keeps messages; what the next one finds.
    fn restart_kept(&mut self, how: Restart) -> Stored {
        let before: Vec<_> = (0..CLIENTS).map(|client| self.would_resume(client)).collect();
        let live = self.live_sessions();
        let epochs: Vec<_> = (0..CHANNELS.len())
            .map(|channel| self.server.channel_log(&name(channel)).map(|log| log.epoch().clone()))
            .collect();
        if how == Restart::Clean {
            while self.stored() {}
        }
        let random = (self.texts + self.lives) as usize;
        self.book.die(random % 5);
        match how {
            Restart::Clean | Restart::Killed => {}
            Restart::PowerCut => self.book.lose(random / 5),
            Restart::RolledBack => self.book.roll_back(),
            Restart::Empty => self.book = Book::default(),
        }
        let stored = self.book.found(self.server_now(), self.setup.config.retention.age);
        // What the disk knows of it, if it does: the next number.
        let next = |session: &Key| stored.sessions.iter().find(|(record, _)| record.id == *session).map(|s| s.0.next);
        let mark = |outbox: &Key| stored.inboxes.iter().find(|(key, ..)| key == outbox).map_or(0, |inbox| inbox.2);
        let strict = !matches!(how, Restart::RolledBack | Restart::Empty);
        for (outbox, q, session, sequence) in &self.answers {
            if strict && mark(outbox) >= *q && live.contains(session) {
                let next = next(session);
                assert!(
                    next > Some(*sequence),
                    "{outbox} {q} is marked, {session} knows {next:?}, sent was {sequence}"
                );
            }
        }
        for (outbox, (key, record)) in &self.disk.inboxes {
            assert!(!strict || mark(key) >= record.1, "{outbox}: acknowledged is {}, found {}", record.1, mark(key));
        }
        let server = Server::restore(self.server_now(), self.setup.config.clone(), Numbers(1), stored.clone());
        // Also those that have ended: an older store knows them.
        let sessions: Vec<_> = self.keys.values().cloned().collect();
        for session in &sessions {
            let known = next(session).is_some();
            let mine = self.check.streams.iter_mut().filter(|stream| stream.session.as_ref() == Some(session));
            let (mut mine, next): (Vec<_>, _) = (mine.collect(), next(session).unwrap_or(1));
            let seen = mine.iter().map(|stream| stream.seen).max().unwrap_or(0);
            let truth = self.check.sessions.entry(session.clone()).or_default();
            if strict && how != Restart::PowerCut && seen < next {
                // Nobody has what is behind, and the numbers are given again.
                truth.sent.split_off(&next);
            } else if next <= truth.top() {
                let lost = how == Restart::PowerCut || !strict || !live.contains(session) || seen == 0;
                let lost = lost || truth.rolled_back;
                assert!(lost, "{session} had {seen} seen, and goes on with {next}");
                truth.forget(next);
                for stream in mine.iter_mut().filter(|stream| stream.seen >= next) {
                    stream.stale = Some(next.min(stream.stale.unwrap_or(next)));
                }
            }
            if !known || !strict {
                self.check.lost_sessions.insert(session.clone());
            }
        }
        for (client, before) in before.into_iter().enumerate() {
            let Some(resume) = before else { continue };
            let goes_on = server.session(&resume.session).is_some_and(|session| session.check(&resume).is_ok());
            if how == Restart::PowerCut {
                self.reach(if goes_on { "power cut, session goes on" } else { "power cut, session lost" });
            } else if strict {
                assert!(goes_on, "client {client} cannot go on with {resume:?}");
            }
            if !goes_on || how == Restart::PowerCut {
                self.check.lost_sessions.insert(resume.session);
            }
        }
        for ((channel, epoch), truth) in &mut self.check.logs {
            let top = stored.channels.iter().find(|(name, at)| channel_index(name) == *channel && at.epoch == *epoch);
            let kept =
                top.map_or(0, |(name, at)| at.offset + stored.published.get(name).map_or(0, |all| all.len() as u64));
            let readers = self.check.readers.iter().filter(|((_, other), _)| other == channel);
            let positions = readers.filter_map(|(_, reader)| reader.position.as_ref());
            let seen = positions.filter(|at| at.epoch == *epoch).map(|at| at.offset).max().unwrap_or(0);
            if strict && how != Restart::PowerCut && seen <= kept {
                truth.sent.split_off(&(kept + 1));
            } else if kept < truth.top() {
                let current = epochs[*channel].as_ref() == Some(epoch);
                let lost = !strict || !current || how == Restart::PowerCut || truth.rolled_back;
                assert!(lost, "channel {channel} was seen up to {seen}, and goes on at {kept}");
                truth.rolled_back = true;
                truth.lost = truth.top();
            }
        }
        self.answers.clear();
        self.disk.inboxes =
            stored.inboxes.iter().map(|(key, g, m, r)| (key.to_string(), (key.clone(), (*g, *m, r.clone())))).collect();
        stored
    }

    /// What a client would come back with, if its server would take it.
    fn would_resume(&self, client: usize) -> Option<Resume> {
        let saved = self.peers[client].client.saved()?;
        let Saved { session, token, sequence, channels } = saved;
        let seen = self.check.streams[client].seen;
        let resume = Resume { session, token, sequence, received: Some(seen), channels };
        let known = self.server.session(&resume.session).is_some_and(|session| session.check(&resume).is_ok());
        known.then_some(resume)
    }

    fn restart_server(&mut self, how: Restart) {
        let how = match how {
            Restart::Killed if !self.setup.config.store => Restart::Empty,
            // Only a store can be.
            Restart::RolledBack | Restart::PowerCut if !self.setup.config.store => return,
            Restart::PowerCut if self.setup.keeps.is_none() => return,
            _ => how,
        };
        self.reach(format!("restart {how:?}"));
        for conn in &mut self.conns {
            if std::mem::replace(&mut conn.server_open, false) {
                conn.closed = Some(0);
            }
            conn.up.clear();
        }
        let stored = match self.setup.keeps {
            Some(_) => Some(self.restart_kept(how)),
            None => self.restart_plain(how),
        };
        for outbox in self.check.outboxes.keys().cloned().collect::<Vec<_>>() {
            let stored = stored.as_ref();
            let record = stored.and_then(|stored| stored.inboxes.iter().find(|(key, ..)| *key == outbox));
            self.check.excuse(&outbox, record.map_or(0, |(_, _, mark, _)| *mark));
        }
        for (record, _) in stored.iter().flat_map(|stored| &stored.sessions) {
            self.sessions.insert(record.id.to_string());
        }
        self.given.clear();
        self.running.clear();
        self.questions.clear();
        self.writes.clear();
        self.known.clear();
        self.lives += 1;
        let (config, random) = (self.setup.config.clone(), Numbers(self.lives << 32));
        let outboxes: Vec<_> = stored.iter().flat_map(|stored| &stored.inboxes).map(|(key, ..)| key.clone()).collect();
        self.server = match stored {
            Some(stored) => Server::restore(self.server_now(), config, random, stored),
            None => Server::new(config, random),
        };
        self.evicted = self.server.counters().evicted;
        for outbox in outboxes {
            if self.server.inbox(&outbox).is_none() {
                assert!(self.evicted > 0, "{outbox} was not restored");
                self.check.excuse(&outbox, 0);
                self.disk.inboxes.remove(outbox.as_str());
            }
        }
        if how == Restart::Clean && self.setup.keeps.is_none() {
            // Everything was stored.
            self.disk.inboxes = self
                .server
                .stored()
                .inboxes
                .into_iter()
                .map(|(key, g, m, r)| (key.to_string(), (key, (g, m, r))))
                .collect();
            self.write_records();
        }
        self.know();
    }

    fn shed(&mut self, bytes: usize) {
        let held: Vec<_> = self
            .live_sessions()
            .into_iter()
            .map(|session| {
                let ring = self.server.session(&session).unwrap().ring();
                (ring.bytes(), ring.next() - 1, session)
            })
            .collect();
        let tops: Vec<_> = (0..CHANNELS.len())
            .filter_map(|channel| Some((channel, self.server.channel_log(&name(channel))?.top())))
            .collect();
        let total: usize = self.server.held_bytes();
        let items: u64 = self.known.keys().filter_map(|key| self.server.inbox(key)).map(Inbox::outstanding).sum();
        let freed = self.server.shed(bytes);
        assert!(freed >= bytes.min(total - items as usize), "{freed} of {total}");
        for (bytes, top, session) in held {
            if bytes > 0 && self.server.session(&session).unwrap().ring().bytes() == 0 {
                self.reach("ring given back");
                self.truth(&session).lost = top;
            }
        }
        for (channel, top) in tops {
            if self.server.channel_log(&name(channel)).unwrap().is_empty() {
                self.check.logs.entry((channel, top.epoch)).or_default().lost = top.offset;
            }
        }
    }

    /// Carries out what both machines want, without moving a frame.
    fn settle(&mut self) {
        loop {
            match self.setup.keeps {
                None => self.server.handle_written(self.server.place()),
                Some(Keeps::Eager) => self.book.append(&mut self.server),
                Some(Keeps::Lazy) => self.book.stage_published(&mut self.server),
            }
            while let Some(output) = self.server.poll_output() {
                self.carry_out(output);
            }
            if self.setup.keeps == Some(Keeps::Eager) {
                self.book.append(&mut self.server);
            }
            self.know();
            for client in 0..CLIENTS {
                self.settle_client(client);
            }
            if self.setup.slow || !self.answer() {
                return;
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Deliver { link, outbox, delivery } => self.given.push_back(Given { outbox, delivery, link }),
            Output::Authenticate { .. } | Output::Authorise { .. } | Output::Snapshot { .. } => {
                self.questions.push_back(output);
            }
            Output::Store { outbox, handled } if self.setup.keeps.is_some() => {
                self.book.marks.insert(outbox, handled);
            }
            Output::Store { outbox, handled } => {
                let inbox = self.server.inbox(&outbox).unwrap();
                let rejected = inbox.rejected().filter(|reject| reject.sequence <= handled).cloned().collect();
                let generation = inbox.generation();
                self.writes.push_back((outbox, (generation, handled, rejected)));
            }
            Output::Close { link, code, reason } => {
                self.reach(format!("close {code}"));
                let conn = &mut self.conns[link.0 as usize];
                if !conn.server_open {
                    return;
                }
                conn.server_open = false;
                conn.closed = Some(code);
                assert!(self.server.session_of(link).is_none());
                assert!(self.server.poll_transmit(self.server_now(), link).is_none());
                // Nobody here breaks the rules; but an H may be late, and a proxy may play it again.
                let strange = [close::BAD_PROTOCOL, close::STATE_INVALID, close::TOO_BIG, close::UNSUPPORTED_VERSION];
                let again = !self.conns[link.0 as usize].client_open;
                assert!(!strange.contains(&code) || again || reason.starts_with("no H "), "{link:?}: {code} {reason}");
            }
            Output::Opened { link, session, .. } => {
                let end = self.server.session(&session).unwrap().ring().next() - 1;
                self.conns[link.0 as usize].replay_end = end;
                self.sessions.insert(session.to_string());
                self.keys.insert(session.to_string(), session.clone());
                self.write_session(&session);
                self.book.changed.insert(session);
            }
            Output::SessionEnded { session } => {
                self.book.forget(&session);
                self.reach("session ended");
                assert!(self.server.session(&session).is_none());
                self.disk.sessions.remove(session.as_str());
                self.sessions.remove(session.as_str());
                self.check.lost_sessions.insert(session);
            }
            Output::Answered { n, .. } => {
                assert_eq!(n, 9);
                self.reach("beat answered");
            }
            Output::Edit { .. } | Output::Edited { .. } => panic!("there are no documents"),
            Output::Subscribed { link, channel, on } => {
                self.book.moved.insert(channel);
                if !on {
                    self.book.changed.extend(self.server.session_of(link).cloned());
                }
            }
            Output::Transmit { .. } => {}
        }
    }

    /// Whether the server still knows the outboxes that it should.
    fn know(&mut self) {
        let now = self.server_now();
        let evicted = self.server.counters().evicted;
        let mut gone = Vec::new();
        for (outbox, idle) in &mut self.known {
            match self.server.inbox(outbox) {
                Some(inbox) => *idle = inbox.idle_since().unwrap_or(now),
                None => gone.push((outbox.clone(), now - *idle)),
            }
        }
        for (outbox, idle) in gone {
            let forgotten = self.known.remove(&outbox);
            let items = &self.check.outboxes.entry(outbox.clone()).or_default().items;
            let known = items.iter().any(|item| (item.handled > 0 || item.refused) && !item.excused);
            if idle >= self.setup.config.dedupe_ttl {
                self.reach("outbox expired");
            } else if known {
                assert!(self.evicted < evicted, "{outbox} forgotten: {forgotten:?}");
                self.evicted += 1;
                self.reach("outbox evicted");
            }
            self.check.excuse(&outbox, 0);
            self.disk.inboxes.remove(outbox.as_str());
            self.writes.retain(|(written, _)| *written != outbox);
        }
        self.evicted = evicted;
        let all = self.conns.iter().filter(|conn| conn.server_open).filter_map(|conn| conn.outbox.clone());
        let all = all.chain(self.disk.inboxes.values().map(|(key, _)| key.clone()));
        for outbox in all.collect::<Vec<_>>() {
            if let Some(inbox) = self.server.inbox(&outbox) {
                self.known.entry(outbox).or_insert(inbox.idle_since().unwrap_or(now));
            }
        }
    }

    /// Memory has its limits.
    fn bounds(&self) {
        let config = &self.setup.config;
        for session in &self.sessions {
            let Some(session) = self.server.session(&self.keys[session]) else { continue };
            let ring = session.ring();
            let unsent = session.unsent_bytes();
            if ring.sent().is_none() {
                assert!(ring.len() <= config.retention.count.max(1), "a ring of {}", ring.len());
                assert!(ring.bytes() <= config.retention.bytes || ring.len() == 1, "a ring of {} B", ring.bytes());
            }
            assert!(ring.bytes() <= config.retention.bytes + config.send_limit + 800, "a ring of {} B", ring.bytes());
            assert!(
                unsent <= config.send_limit + config.retention.bytes || session.unsent_len() == 1,
                "{unsent} B wait"
            );
            assert!(session.control_len() <= 1100);
        }
        for channel in 0..CHANNELS.len() {
            if let Some(log) = self.server.channel_log(&name(channel)) {
                assert!(log.bytes() <= config.retention.bytes || log.len() == 1, "a log of {} B", log.bytes());
            }
        }
        for outbox in self.known.keys() {
            let Some(inbox) = self.server.inbox(outbox) else { continue };
            assert!(inbox.outstanding() <= 2 * config.window.max(500), "{} B of items", inbox.outstanding());
        }
        let used =
            self.known.keys().filter_map(|key| self.server.inbox(key)).filter(|inbox| inbox.idle_since().is_none());
        assert!(self.server.inbox_count() <= config.max_inboxes.max(used.count() + 1), "too many inboxes");
    }

    /// Everything works from here on: in the end nothing may be missing.
    pub fn finish_all(&mut self) {
        self.notice();
        self.denied.clear();
        let mut rounds = 0;
        while rounds < 2 || !self.quiet() {
            rounds += 1;
            assert!(rounds < 150, "not quiet after {rounds} s: {}", self.unrest());
            if self.server.is_draining() {
                self.restart_server(Restart::Clean);
            }
            for client in 0..CLIENTS {
                self.synced(client);
                self.connect(client);
                self.settle();
                self.late(client);
                while self.flow(client) {}
            }
            for _ in 0..200 {
                while self.answer() | self.stored() {
                    self.settle();
                }
                while self.begin() || !self.running.is_empty() {
                    while !self.running.is_empty() {
                        self.finish(0);
                    }
                    self.settle();
                    while self.stored() {
                        self.settle();
                    }
                }
                self.server.handle_batch_end();
                for client in 0..CLIENTS {
                    self.take(client, usize::MAX);
                    self.peers[client].client.handle_batch_end();
                    self.settle();
                    while self.flow(client) {}
                }
                if self.given.is_empty() {
                    break;
                }
            }
            // What an earlier life left half-open is found by beats.
            if rounds % 10 == 9 {
                self.notice();
            }
            self.pass(Duration::from_secs(1));
            self.settle();
            self.bounds();
        }
        self.check.items_in_the_end();
        self.in_the_end();
    }

    fn unrest(&self) -> String {
        let peers = self.peers.iter().map(|peer| {
            let conn = peer.conn.map(|conn| &self.conns[conn]);
            let at = conn.map(|conn| (conn.server_open, conn.welcomed, conn.replayed, conn.closed));
            let first = peer.outbox.entries.front().map(|entry| entry.q);
            format!("{at:?} first {first:?} events {}; ", peer.events.len())
        });
        peers.collect::<String>() + &format!("given {} running {}", self.given.len(), self.running.len())
    }

    fn quiet(&self) -> bool {
        let mut sessions = self.sessions.iter().filter_map(|session| self.server.session(&self.keys[session]));
        self.peers.iter().all(|peer| {
            let conn = peer.conn.map(|conn| &self.conns[conn]);
            peer.outbox.entries.is_empty()
                && peer.events.is_empty()
                && conn
                    .is_some_and(|conn| conn.server_open && conn.replayed && conn.down.is_empty() && conn.up.is_empty())
        }) && self.given.is_empty()
            && self.running.is_empty()
            && self.questions.is_empty()
            && self.writes.is_empty()
            && self.book.is_quiet()
            && !self.server.is_draining()
            && sessions.all(|session| session.detached_since().is_some() || session.ring().is_empty())
            && self.conns.iter().all(|conn| !conn.server_open || conn.client_open)
    }

    fn in_the_end(&mut self) {
        for conn in self.conns.iter().filter(|conn| !conn.server_open) {
            assert!(self.server.session_of(conn.link).is_none(), "{:?} lives on", conn.link);
        }
        for client in 0..CLIENTS {
            let session = self.session(client).expect("a session");
            let state = self.server.session(&session).unwrap();
            let stream = &self.check.streams[client];
            let truth = &self.check.sessions.get(&session);
            let rolled_back = truth.is_some_and(|truth| truth.rolled_back);
            assert!(rolled_back || stream.seen + 1 == state.ring().next(), "client {client}: {stream:?}");
            for channel in 0..CHANNELS.len() {
                let reader =
                    self.check.readers.get(&(client, channel)).map_or(&None, |reader: &Reader| &reader.position);
                let ours =
                    self.peers[client].client.saved().and_then(|saved| saved.channels.get(&name(channel)).cloned());
                let subscribed = state.is_subscribed(&name(channel));
                assert_eq!(ours.is_some(), subscribed, "client {client} {channel}: subscribed?");
                if subscribed {
                    let top = self.server.channel_log(&name(channel)).map(ChannelLog::top);
                    assert_eq!(*reader, top, "client {client} {channel}: has not come to the end");
                }
            }
        }
    }
}

/// The disk's memory of acknowledgements is a little behind.
fn entry_is_third(outbox: &mut Outbox) -> bool {
    outbox.forgotten += 1;
    outbox.forgotten.is_multiple_of(3)
}

fn stored_of(disk: &Disk) -> Stored {
    Stored {
        sessions: disk.sessions.values().cloned().collect(),
        inboxes: disk
            .inboxes
            .values()
            .map(|(key, (generation, mark, rejected))| (key.clone(), *generation, *mark, rejected.clone()))
            .collect(),
        channels: disk.channels.values().cloned().collect(),
        ..Stored::default()
    }
}

/// What a store has that keeps no messages.
fn without_messages(mut stored: Stored, server: &Server<Numbers>) -> Stored {
    stored.streams.clear();
    stored.published.clear();
    for (channel, position) in &mut stored.channels {
        *position = server.channel_log(channel).unwrap().top();
    }
    stored
}
