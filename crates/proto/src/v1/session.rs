//! A session on the server: what survives its connections, and what the present one is sent next.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::BuildHasher;

use bytes::Bytes;

use super::ack::AckSchedule;
use super::document::Place;
use super::log::{ChannelLog, Entry, Standing};
use super::ring::{Message, Retention, Ring};
use super::wire::{self, ClientFrame, Encoded, Gap, Reject, Resume, ServerFrame, Status, Why};
use super::{ChannelName, Key, Position, Secret, Token, Violation};
use crate::{Time, close};

/// The channel logs that sessions read.
pub trait Logs {
    /// The entry behind `position`; `None`: nothing newer, gone, or another epoch's position.
    fn after(&self, channel: &ChannelName, position: &Position) -> Option<Entry>;

    /// Whether all behind `position` is there; `None`: no such log.
    fn standing(&self, channel: &ChannelName, position: &Position) -> Option<Standing>;

    /// The position behind the last message; `None`: no such log.
    fn top(&self, channel: &ChannelName) -> Option<Position>;

    /// The place of the newest message in what a store is given; 0: no such log.
    fn place(&self, channel: &ChannelName) -> u64;
}

impl<S: BuildHasher> Logs for HashMap<ChannelName, ChannelLog, S> {
    fn after(&self, channel: &ChannelName, position: &Position) -> Option<Entry> {
        self.get(channel)?.after(position).cloned()
    }

    fn standing(&self, channel: &ChannelName, position: &Position) -> Option<Standing> {
        Some(self.get(channel)?.standing(position))
    }

    fn top(&self, channel: &ChannelName) -> Option<Position> {
        Some(self.get(channel)?.top())
    }

    fn place(&self, channel: &ChannelName) -> u64 {
        self.get(channel).map_or(0, ChannelLog::place)
    }
}

/// What the driver must see to after a frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// The client answered beat `n`.
    Answered(u64),
    /// For [`super::inbox::Inbox::handle_edit`].
    Edit { sequence: u64, data: Bytes },
    /// For [`super::inbox::Inbox::handle_give_up`].
    GiveUp { from: Option<u64>, sequence: u64 },
    /// For [`super::inbox::Inbox::handle_item`].
    Item { sequence: u64, data: Bytes, binary: bool },
    /// The session has dealt with it.
    None,
    /// Ask the application, then [`Session::subscribe`] or [`Session::deny`].
    Subscribe(ChannelName),
    /// Ask the application whether the fresh token is good.
    Token(Secret),
    /// Gone already; to be told to the application.
    Unsubscribed(ChannelName),
    /// The state that the client has of a document: answer with [`ServerFrame::State`].
    Verify(ChannelName, Place),
}

/// What to write to the connection next.
#[derive(Clone, Debug, PartialEq)]
pub enum Outgoing {
    /// A `C` frame, encoded once for all its receivers.
    Channel {
        frame: Bytes,
        binary: bool,
    },
    Frame(ServerFrame),
}

impl Outgoing {
    /// The WebSocket message.
    #[must_use]
    pub fn encode(&self) -> Encoded {
        match self {
            Self::Channel { frame, binary } => Encoded { data: frame.clone(), binary: *binary },
            Self::Frame(frame) => frame.encode(),
        }
    }
}

/// A connection has the session now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Names this connection's hold on the session; a later one makes it stale.
    pub generation: u64,
    /// For WELCOME.
    pub resumed: bool,
    /// See `resumed`.
    pub why: Option<Why>,
    /// The first message of the stream that the connection may bring.
    pub first: u64,
    /// The session was in the hands of another connection: close that with 4502.
    pub superseded: Option<u64>,
}

/// What a store keeps of a session, to be written at WELCOME and with beats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    pub id: Key,
    pub token: Token,
    pub previous: Option<Token>,
    pub generation: u64,
    /// The number of the stream's next message; after a restart it must not be less than what was sent.
    pub next: u64,
    pub acknowledged: u64,
    /// What a client must not have received that goes on with it: this number and later ones were given anew since then.
    pub known: Option<u64>,
    /// Channels, whether the server made the subscription, and where it began.
    pub subscriptions: Vec<(ChannelName, bool, Position)>,
}

/// One session.
///
/// Whoever shows the token gets it at once, the connection that had it becomes stale: its generation is
/// refused by every method that takes one. The stream's ring is the send queue, too: a connection takes
/// [`Session::poll_transmit`] as fast as it can write, and the driver watches [`Session::unsent_bytes`].
/// The same holds for channels, which are read from their logs; one that reads too slowly gets a gap.
#[derive(Clone, Debug)]
pub struct Session {
    id: Key,
    token: Token,
    /// Valid until the first frame comes under the present one.
    previous: Option<Token>,
    generation: u64,
    ring: Ring,
    subscriptions: BTreeMap<ChannelName, Subscription>,
    /// A channel without a place in its log is told the state, not only that there is a gap.
    snapshots: bool,
    link: Option<Box<Link>>,
    /// When the last connection was lost.
    detached: Time,
    /// It came from a store that may have lost the end of the stream, and no connection has had it since: a client that has
    /// received this number, or a later one, has another message by it.
    known: Option<u64>,
}

#[derive(Clone, Debug)]
struct Subscription {
    /// Comes back by itself; others the client names in HELLO, and they are authorised again.
    server_made: bool,
    /// Where a client goes on that has never heard of it.
    start: Position,
}

/// The connection that has the session.
#[derive(Clone, Debug)]
struct Link {
    /// A frame has come: the client has the present token.
    proven: bool,
    control: VecDeque<ServerFrame>,
    acks: AckSchedule,
    /// Before a store has this place only answers to beats go out.
    gate: u64,
    /// `None`: nothing is replayed, and no channel is read. Most sessions are that way for most of the time.
    reading: Option<Box<Reading>>,
}

/// What is replayed, and the channels that are read.
#[derive(Clone, Debug, Default)]
struct Reading {
    replay: Option<Replay>,
    readers: BTreeMap<ChannelName, Reader>,
    /// Readers that may have something to send, each once.
    woken: VecDeque<ChannelName>,
    /// Channels of HELLO that the application has not decided on, with the client's positions.
    undecided: BTreeMap<ChannelName, Position>,
    wanted: VecDeque<(ChannelName, Position)>,
}

/// What goes out before anything live.
#[derive(Clone, Debug)]
struct Replay {
    /// The last message of the stream.
    stream: u64,
    /// The last offset of each channel.
    channels: BTreeMap<ChannelName, u64>,
    /// Channels whose application's answer is awaited.
    waiting: BTreeSet<ChannelName>,
}

#[derive(Clone, Debug)]
struct Reader {
    position: Position,
    woken: bool,
    /// The state at this position is awaited.
    snapshot: Option<Position>,
}

impl Session {
    /// A session that no connection has yet.
    #[must_use]
    pub fn new(now: Time, id: Key, token: Token, retention: Retention, snapshots: bool) -> Self {
        Self {
            id,
            token,
            previous: None,
            generation: 0,
            ring: Ring::new(retention),
            subscriptions: BTreeMap::new(),
            snapshots,
            link: None,
            detached: now,
            known: None,
        }
    }

    /// A session from what a store kept, with the last messages of its stream; resuming reports what is not there.
    #[must_use]
    pub fn restore(
        now: Time,
        record: SessionRecord,
        messages: VecDeque<Message>,
        retention: Retention,
        snapshots: bool,
    ) -> Self {
        let SessionRecord { id, token, previous, generation, next, acknowledged, known, subscriptions } = record;
        let subscriptions = subscriptions
            .into_iter()
            .map(|(channel, server_made, start)| (channel, Subscription { server_made, start }))
            .collect();
        Self {
            previous,
            generation,
            ring: Ring::restore(now, retention, next.max(1), acknowledged, messages),
            subscriptions,
            known: known.or(Some(next.max(1))),
            ..Self::new(now, id, token, retention, snapshots)
        }
    }

    /// Everything that was sent is acknowledged.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.ring.acknowledged() + 1 == self.ring.next()
    }

    /// Nothing was ever sent to it, and it reads nothing.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.ring.next() == 1 && self.subscriptions.is_empty()
    }

    /// For a store.
    #[must_use]
    pub fn record(&self) -> SessionRecord {
        let subscriptions = self.subscriptions.iter();
        SessionRecord {
            id: self.id.clone(),
            token: self.token.clone(),
            previous: self.previous.clone(),
            generation: self.generation,
            next: self.ring.next(),
            acknowledged: self.ring.acknowledged(),
            known: self.known,
            subscriptions: subscriptions
                .map(|(name, sub)| (name.clone(), sub.server_made, sub.start.clone()))
                .collect(),
        }
    }

    /// Whether the client may go on with this session.
    ///
    /// # Errors
    /// Why it gets a new one.
    pub fn check(&self, resume: &Resume) -> Result<(), Why> {
        // Both are compared whatever the first says.
        let present = self.token == resume.token;
        let previous = self.previous.as_ref().is_some_and(|previous| *previous == resume.token);
        if !(present | previous) {
            Err(Why::Superseded)
        } else if resume.received.unwrap_or(0).max(resume.sequence) >= self.known.unwrap_or(self.ring.next()) {
            // The client has seen messages that this session has forgotten; their numbers would come again.
            Err(Why::Restart)
        } else {
            Ok(())
        }
    }

    /// A connection takes the session; `resume` was checked, `None`: the session is new. `token` is the next
    /// one; WELCOME, which goes out by [`Session::welcome`], says [`Session::token`]. `handled` is what WELCOME says of the outbox.
    pub fn attach(&mut self, now: Time, token: Token, resume: Option<&Resume>, handled: u64) -> Attachment {
        let superseded = self.link.is_some().then_some(self.generation);
        self.generation += 1;
        self.known = None;
        // The client has what it showed; the answer to it may be lost. Or it has come, and this HELLO was
        // under way for long: who shows the one before is told the present one again, so that both hold.
        let again = resume.is_some_and(|resume| self.token != resume.token && self.previous.is_some());
        if !again {
            self.previous = resume.map(|resume| resume.token.clone());
            self.token = token;
        }
        self.ring.detach(now);
        let delivered = resume.map_or(0, |resume| resume.sequence);
        // Checked to be less than what is next.
        let _ = self.ring.handle_acknowledged(delivered);
        let first = self.ring.oldest();
        self.ring.attach(first);
        let whole = first == delivered + 1;
        let replay = Replay { stream: self.ring.next() - 1, channels: BTreeMap::new(), waiting: BTreeSet::new() };
        self.link = Some(Box::new(Link {
            proven: false,
            control: VecDeque::new(),
            acks: AckSchedule::new(handled),
            gate: 0,
            reading: Some(Box::new(Reading { replay: Some(replay), ..Reading::default() })),
        }));
        Attachment {
            generation: self.generation,
            resumed: resume.is_some() && whole,
            why: (resume.is_some() && !whole).then_some(Why::Overflow),
            first,
            superseded,
        }
    }

    /// Queues WELCOME and begins the replay behind `resume`'s positions. Returns the channels that the
    /// application must authorise ([`Session::subscribe`] or [`Session::deny`]).
    pub fn welcome(
        &mut self,
        welcome: wire::Welcome,
        resume: Option<&Resume>,
        channels: &BTreeMap<ChannelName, Position>,
        logs: &impl Logs,
    ) -> Vec<ChannelName> {
        let Some(link) = &mut self.link else { return Vec::new() };
        let delivered = resume.map_or(0, |resume| resume.sequence);
        let first = welcome.first;
        link.control.push_back(ServerFrame::Welcome(Box::new(welcome)));
        if first > delivered + 1 {
            link.control.push_back(ServerFrame::Gap(Gap {
                channel: None,
                from: delivered + 1,
                to: Some(first - 1),
                why: Why::Overflow,
            }));
        }
        // What the client asked for and does not name, it has left or will ask for again.
        self.subscriptions.retain(|name, subscription| subscription.server_made || channels.contains_key(name));
        let mut undecided = Vec::new();
        for (name, position) in channels {
            if self.subscriptions.get(name).is_none_or(|subscription| !subscription.server_made) {
                undecided.push(name.clone());
                let reading = link.reading.get_or_insert_default();
                reading.undecided.insert(name.clone(), position.clone());
                if let Some(replay) = &mut reading.replay {
                    replay.waiting.insert(name.clone());
                }
            }
        }
        let server_made: Vec<_> = self
            .subscriptions
            .iter()
            .filter(|(_, subscription)| subscription.server_made)
            .map(|(name, subscription)| (name.clone(), channels.get(name).unwrap_or(&subscription.start).clone()))
            .collect();
        for (name, position) in server_made {
            self.read(&name, position, logs);
        }
        undecided
    }

    /// The connection is gone. False: it did not have the session any more.
    pub fn detach(&mut self, now: Time, generation: u64) -> bool {
        if generation != self.generation || self.link.is_none() {
            return false;
        }
        self.link = None;
        self.ring.detach(now);
        self.detached = now;
        true
    }

    /// A frame came from the client.
    ///
    /// # Errors
    /// [`Violation`]; 4502 when another connection has the session.
    pub fn handle_frame(&mut self, generation: u64, frame: ClientFrame) -> Result<Incoming, Violation> {
        let link = self.prove(generation)?;
        Ok(match frame {
            ClientFrame::Acknowledge { sequence } => {
                self.handle_acknowledged(sequence)?;
                Incoming::None
            }
            ClientFrame::Answer(n) => Incoming::Answered(n),
            ClientFrame::Beat(n) => {
                // One answer for all beats that wait for one: a flood of beats costs nothing here.
                link.control.retain(|frame| !matches!(frame, ServerFrame::Answer(_)));
                link.control.push_back(ServerFrame::Answer(n));
                Incoming::None
            }
            ClientFrame::Edit { sequence, acknowledged, data } => {
                if let Some(acknowledged) = acknowledged {
                    self.handle_acknowledged(acknowledged)?;
                }
                Incoming::Edit { sequence, data }
            }
            ClientFrame::GiveUp { from, sequence } => Incoming::GiveUp { from, sequence },
            ClientFrame::Hello(_) => return Err(Violation::bad("H: a second HELLO, one is allowed")),
            ClientFrame::Item { sequence, acknowledged, data, binary } => {
                if let Some(acknowledged) = acknowledged {
                    self.handle_acknowledged(acknowledged)?;
                }
                Incoming::Item { sequence, data, binary }
            }
            ClientFrame::Subscribe(channel) => Incoming::Subscribe(channel),
            ClientFrame::Token(credentials) => Incoming::Token(credentials.auth),
            ClientFrame::Unsubscribe(channel) => {
                self.unsubscribe(&channel);
                Incoming::Unsubscribed(channel)
            }
            ClientFrame::Verify { channel, place } => Incoming::Verify(channel, place),
        })
    }

    /// As [`Session::handle_frame`], of an item's frame: what it says beside the item. False: something waits to be
    /// said, see [`Session::control_len`].
    ///
    /// # Errors
    /// See [`Session::handle_frame`].
    pub fn handle_item_frame(&mut self, generation: u64, acknowledged: Option<u64>) -> Result<bool, Violation> {
        let quiet = self.prove(generation)?.control.is_empty();
        if let Some(acknowledged) = acknowledged {
            self.handle_acknowledged(acknowledged)?;
        }
        Ok(quiet)
    }

    /// A frame has come on that connection.
    #[inline]
    fn prove(&mut self, generation: u64) -> Result<&mut Link, Violation> {
        let Some(link) = self.link.as_mut().filter(|_| generation == self.generation) else {
            return Err(Violation::new(close::SUPERSEDED, close::default_reason(close::SUPERSEDED)));
        };
        if !link.proven {
            link.proven = true;
            self.previous = None;
        }
        Ok(link)
    }

    /// Appends a message to the stream, with or without a connection; returns its number. `place`: see
    /// [`super::server::Server::handle_written`].
    pub fn send(&mut self, now: Time, data: Bytes, binary: bool, place: u64) -> u64 {
        self.ring.push(now, data, binary, place)
    }

    /// The connection is told nothing more before a store has what was given it up to `place`.
    pub fn hold(&mut self, place: u64) {
        if let Some(link) = &mut self.link {
            link.gate = place;
        }
    }

    /// Whether there is something that waits for the store, which has what was given it up to `written`; to be
    /// asked when [`Session::poll_transmit`] has nothing.
    #[must_use]
    pub fn is_held(&self, written: u64) -> bool {
        self.link.as_ref().is_some_and(|link| {
            link.gate > written || link.reading.as_ref().is_some_and(|reading| !reading.woken.is_empty())
        }) || self.ring.is_held(written)
    }

    /// Subscribes; announced to the client, which gets what is published from here on, or what is behind
    /// the position that it named in HELLO. The channel's log must be there.
    pub fn subscribe(&mut self, channel: &ChannelName, server_made: bool, logs: &impl Logs) {
        let named = self.link.as_mut().and_then(|link| link.decide(channel));
        let Some(top) = logs.top(channel) else { return };
        if let Some(subscription) = self.subscriptions.get_mut(channel) {
            subscription.server_made |= server_made;
            if named.is_none()
                && let Some(link) = &mut self.link
                && let Some(reader) = link.reader(channel)
            {
                let position = Some(reader.position.clone());
                link.announce(channel, Status::Ok, position);
                return;
            }
        } else {
            let start = named.clone().unwrap_or_else(|| top.clone());
            self.subscriptions.insert(channel.clone(), Subscription { server_made, start });
        }
        if self.link.is_some() {
            self.read(channel, named.unwrap_or(top), logs);
        }
    }

    /// The application does not let the client subscribe.
    pub fn deny(&mut self, channel: &ChannelName) {
        self.subscriptions.remove(channel);
        if let Some(link) = &mut self.link {
            link.decide(channel);
            link.leave(channel);
            link.announce(channel, Status::Denied, None);
        }
    }

    /// Ends a subscription, also one that there is not; announced to the client.
    pub fn unsubscribe(&mut self, channel: &ChannelName) {
        self.subscriptions.remove(channel);
        if let Some(link) = &mut self.link {
            link.decide(channel);
            link.leave(channel);
            link.announce(channel, Status::Left, None);
        }
    }

    /// Something was published on a channel that the session reads.
    pub fn handle_published(&mut self, channel: &ChannelName) {
        if let Some(reading) = self.link.as_mut().and_then(|link| link.reading.as_mut()) {
            reading.wake(channel);
        }
    }

    /// The application's answer to [`Session::poll_snapshot`], with the position from there; `None`: it has
    /// no state to give, the channel goes on with what the log still has.
    pub fn handle_snapshot(&mut self, channel: &ChannelName, position: &Position, state: Option<(Bytes, bool)>) {
        let Some(link) = &mut self.link else { return };
        let Some(reading) = &mut link.reading else { return };
        let Some(reader) = reading.readers.get_mut(channel) else { return };
        // The answer to an earlier question may be older than this position.
        let Some(position) = reader.snapshot.take_if(|wanted| wanted == position) else { return };
        if let Some((data, binary)) = state {
            reader.position = position.clone();
            link.control.push_back(ServerFrame::Snapshot { channel: channel.clone(), position, data, binary });
        }
        if let Some(replay) = &mut reading.replay {
            replay.waiting.remove(channel);
        }
        reading.wake(channel);
    }

    /// Everything of the outbox up to `mark` may be acknowledged. True: ask [`Session::poll_transmit`] and
    /// [`Session::poll_timeout`], an acknowledgement is due, or is from some time on.
    pub fn handle_settled(&mut self, now: Time, mark: u64, bytes: usize) -> bool {
        self.link.as_mut().is_some_and(|link| link.acks.handle_settled(now, mark, bytes))
    }

    /// Items that are settled, with their bytes, and not acknowledged on this connection.
    pub(super) fn unacknowledged(&self) -> Option<(u32, usize)> {
        self.link.as_ref().map(|link| link.acks.waiting())
    }

    /// A duplicate item came.
    pub fn handle_duplicate(&mut self) {
        if let Some(link) = &mut self.link {
            link.acks.handle_duplicate();
        }
    }

    /// A batch of the application's work has ended.
    pub fn handle_batch_end(&mut self) {
        if let Some(link) = &mut self.link {
            link.acks.handle_batch_end();
        }
    }

    /// Queues a frame that is not of the stream: N, X, I.
    pub fn control(&mut self, frame: ServerFrame) {
        if let Some(link) = &mut self.link {
            link.control.push_back(frame);
        }
    }

    /// Queues N.
    pub fn reject(&mut self, reject: Reject) {
        self.control(ServerFrame::Reject(reject));
    }

    /// What the connection writes next; `None`: nothing now, or the connection is stale. A store has what was
    /// given it up to `written`.
    pub fn poll_transmit(&mut self, now: Time, generation: u64, logs: &impl Logs, written: u64) -> Option<Outgoing> {
        let link = self.link.as_mut().filter(|_| generation == self.generation)?;
        if link.gate > written {
            // Whoever waits for one takes the server for dead without it.
            let answer = link.control.iter().position(|frame| matches!(frame, ServerFrame::Answer(_)));
            return answer.and_then(|index| link.control.remove(index)).map(Outgoing::Frame);
        }
        loop {
            if let Some(frame) = link.control.pop_front() {
                if link.control.is_empty() {
                    // Control frames are rare and big: an idle session keeps no room for them.
                    link.control = VecDeque::new();
                }
                return Some(Outgoing::Frame(frame));
            }
            if let Some((from, to)) = self.ring.take_hole() {
                let gap = Gap { channel: None, from, to: Some(to), why: Why::Overflow };
                return Some(Outgoing::Frame(ServerFrame::Gap(gap)));
            }
            let last = link.last_of_stream();
            if let Some((sequence, message)) = self.ring.take(last, written) {
                let Message { data, binary, .. } = message;
                let acknowledged = link.acks.take();
                return Some(Outgoing::Frame(ServerFrame::Message { sequence, acknowledged, data, binary }));
            }
            // What goes out anyway takes it along.
            if let Some(sequence) = link.acks.poll(now) {
                return Some(Outgoing::Frame(ServerFrame::Acknowledge { sequence }));
            }
            if let Some(outgoing) = link.poll_channels(&self.id, self.snapshots, logs, written) {
                return Some(outgoing);
            }
            if link.gate > written {
                return None;
            }
            if !link.control.is_empty() {
                continue;
            }
            let sequence = self.ring.sent().unwrap_or(0);
            return link.end_replay(sequence).then_some(Outgoing::Frame(ServerFrame::ReplayDone { sequence }));
        }
    }

    /// Gives `write` what [`Session::poll_transmit`] would give next, as far as that is messages of the stream, while
    /// it returns true; returns how many.
    pub fn write_stream(
        &mut self,
        generation: u64,
        written: u64,
        mut write: impl FnMut(u64, Option<u64>, &Message) -> bool,
    ) -> u64 {
        let Some(link) = self.link.as_mut().filter(|_| generation == self.generation) else { return 0 };
        if !link.control.is_empty() || link.gate > written || self.ring.has_hole() {
            return 0;
        }
        let last = link.last_of_stream();
        let mut count = 0;
        while let Some((sequence, message)) = self.ring.take_next(last, written) {
            count += 1;
            if !write(sequence, link.acks.take(), message) {
                break;
            }
        }
        count
    }

    /// A channel whose state the application must give ([`Session::handle_snapshot`]). The position has
    /// been read already, so the state may be newer than it, never older.
    pub fn poll_snapshot(&mut self) -> Option<(ChannelName, Position)> {
        self.link.as_mut()?.reading.as_mut()?.wanted.pop_front()
    }

    /// When [`Session::poll_transmit`] may have something without another input.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.link.as_ref()?.acks.poll_timeout()
    }

    #[must_use]
    pub fn id(&self) -> &Key {
        &self.id
    }

    /// What WELCOME says.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Which connection has the session, if one has.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        self.link.as_ref().map(|_| self.generation)
    }

    /// A connection has the session and has not been sent R.
    #[must_use]
    pub fn is_replaying(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.replay().is_some())
    }

    /// Since when no connection has had it; `None`: one has.
    #[must_use]
    pub fn detached_since(&self) -> Option<Time> {
        self.link.is_none().then_some(self.detached)
    }

    /// The channels subscribed to.
    pub fn channels(&self) -> impl Iterator<Item = &ChannelName> {
        self.subscriptions.keys()
    }

    /// Bytes of the stream that the connection has not taken; the slow-consumer policy looks at it.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.ring.unsent_bytes()
    }

    /// Messages of the stream that the connection has not taken.
    #[must_use]
    pub fn unsent_len(&self) -> usize {
        self.ring.unsent_len()
    }

    /// Frames that wait and are not of the stream or a channel; answers to a client that reads nothing.
    #[must_use]
    pub fn control_len(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.control.len())
    }

    /// Whether the session reads the channel.
    #[must_use]
    pub fn is_subscribed(&self, channel: &ChannelName) -> bool {
        self.subscriptions.contains_key(channel)
    }

    /// Whether the server made the subscription.
    #[must_use]
    pub fn is_server_made(&self, channel: &ChannelName) -> bool {
        self.subscriptions.get(channel).is_some_and(|subscription| subscription.server_made)
    }

    /// The stream's messages that are not acknowledged.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Gives the ring's memory back; what was not acknowledged becomes a gap.
    pub fn clear_ring(&mut self) {
        self.ring.clear();
    }

    fn handle_acknowledged(&mut self, sequence: u64) -> Result<(), Violation> {
        let sent = self.ring.taken();
        if sequence > sent || !self.ring.handle_acknowledged(sequence) {
            return Err(Violation::new(
                close::STATE_INVALID,
                format!("A {sequence}: {sent} is the last that was sent"),
            ));
        }
        Ok(())
    }

    /// Begins to read a channel behind `position`, and says so.
    fn read(&mut self, channel: &ChannelName, position: Position, logs: &impl Logs) {
        let Some(link) = &mut self.link else { return };
        let (Some(standing), Some(top)) = (logs.standing(channel, &position), logs.top(channel)) else { return };
        let reading = link.reading.get_or_insert_default();
        if let Some(replay) = &mut reading.replay {
            replay.channels.insert(channel.clone(), top.offset);
        }
        reading.readers.insert(channel.clone(), Reader { position: position.clone(), woken: false, snapshot: None });
        if standing == Standing::Whole {
            link.announce(channel, Status::Ok, Some(position));
        }
        link.fall_back(channel, &standing, top, self.snapshots);
        link.wake(channel);
    }
}

impl Link {
    fn replay(&self) -> Option<&Replay> {
        self.reading.as_ref()?.replay.as_ref()
    }

    fn reader(&self, channel: &ChannelName) -> Option<&Reader> {
        self.reading.as_ref()?.readers.get(channel)
    }

    /// Up to which message the stream may be sent now.
    fn last_of_stream(&self) -> u64 {
        self.replay().map_or(u64::MAX, |replay| replay.stream)
    }

    /// The position that HELLO named for a channel that has now been decided on.
    fn decide(&mut self, channel: &ChannelName) -> Option<Position> {
        let reading = self.reading.as_mut()?;
        if let Some(replay) = &mut reading.replay {
            replay.waiting.remove(channel);
        }
        reading.undecided.remove(channel)
    }

    fn leave(&mut self, channel: &ChannelName) {
        let Some(reading) = &mut self.reading else { return };
        reading.readers.remove(channel);
        reading.woken.retain(|name| name != channel);
        reading.wanted.retain(|(name, _)| name != channel);
        self.forget_reading();
    }

    /// What has nothing to say takes no memory.
    fn forget_reading(&mut self) {
        self.reading.take_if(|reading| reading.is_idle());
    }

    fn announce(&mut self, channel: &ChannelName, status: Status, position: Option<Position>) {
        let channel = channel.clone();
        self.control.push_back(ServerFrame::Subscription(wire::Subscription { channel, status, position }));
    }

    fn wake(&mut self, channel: &ChannelName) {
        if let Some(reading) = &mut self.reading {
            reading.wake(channel);
        }
    }

    /// Reports what is missing and goes on behind it.
    fn fall_back(&mut self, channel: &ChannelName, standing: &Standing, top: Position, snapshots: bool) {
        let (Standing::Missing { resume, .. }, Some(gap)) = (standing, standing.gap(channel)) else { return };
        let status = if snapshots { Status::Snapshot } else { Status::Gap };
        self.announce(channel, status, Some(resume.clone()));
        self.control.push_back(ServerFrame::Gap(gap));
        let Some(reading) = &mut self.reading else { return };
        let Some(reader) = reading.readers.get_mut(channel) else { return };
        reader.position = resume.clone();
        if let Some(replay) = &mut reading.replay {
            replay.channels.insert(channel.clone(), top.offset);
            if snapshots {
                replay.waiting.insert(channel.clone());
            }
        }
        if snapshots {
            reader.snapshot = Some(top.clone());
            reading.wanted.push_back((channel.clone(), top));
        }
    }

    fn poll_channels(&mut self, own: &Key, snapshots: bool, logs: &impl Logs, written: u64) -> Option<Outgoing> {
        while let Some(reading) = &mut self.reading
            && let Some(channel) = reading.woken.pop_front()
        {
            let Some(reader) = reading.readers.get_mut(&channel) else { continue };
            reader.woken = false;
            if reader.snapshot.is_some() {
                continue;
            }
            if let Some(replay) = &reading.replay
                && replay.channels.get(&channel).is_none_or(|last| reader.position.offset >= *last)
            {
                // Live; the end of the replay wakes it.
                continue;
            }
            if let Some(entry) = logs.after(&channel, &reader.position) {
                if entry.place > written {
                    // Nor has the store anything of the others that is newer.
                    reader.woken = true;
                    reading.woken.push_front(channel);
                    return None;
                }
                reader.position.offset = entry.offset;
                reader.position.message_id = entry.message_id;
                if entry.except.is_some_and(|except| except.contains(own)) {
                    // Not for this client: it goes on behind it, and misses nothing.
                    let position = Some(reader.position.clone());
                    reading.wake(&channel);
                    self.announce(&channel, Status::Ok, position);
                    return self.control.pop_front().map(Outgoing::Frame);
                }
                reading.wake(&channel);
                return Some(Outgoing::Channel { frame: entry.frame, binary: entry.binary });
            }
            let (Some(mut standing), Some(top)) = (logs.standing(&channel, &reader.position), logs.top(&channel))
            else {
                continue;
            };
            if let Standing::Missing { why: why @ Why::History, .. } = &mut standing {
                *why = Why::Slow;
            }
            if standing != Standing::Whole {
                self.fall_back(&channel, &standing, top, snapshots);
                self.wake(&channel);
                // Where it goes on is news, too.
                self.gate = self.gate.max(logs.place(&channel));
                if self.gate > written {
                    return None;
                }
                return self.control.pop_front().map(Outgoing::Frame);
            }
        }
        None
    }

    /// Whether the replay is over just now.
    fn end_replay(&mut self, sent: u64) -> bool {
        let Some(reading) = &mut self.reading else { return false };
        let Some(replay) = &reading.replay else { return false };
        let behind = |(channel, last): (&ChannelName, &u64)| {
            reading.readers.get(channel).is_some_and(|reader| reader.position.offset < *last)
        };
        if sent < replay.stream || !replay.waiting.is_empty() || replay.channels.iter().any(behind) {
            return false;
        }
        reading.replay = None;
        let channels: Vec<_> = reading.readers.keys().cloned().collect();
        for channel in &channels {
            reading.wake(channel);
        }
        self.forget_reading();
        true
    }
}

impl Reading {
    fn is_idle(&self) -> bool {
        self.replay.is_none() && self.readers.is_empty() && self.undecided.is_empty() && self.wanted.is_empty()
    }

    fn wake(&mut self, channel: &ChannelName) {
        if let Some(reader) = self.readers.get_mut(channel)
            && !reader.woken
            && reader.snapshot.is_none()
        {
            reader.woken = true;
            self.woken.push_back(channel.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_waits_for_its_client_is_small() {
        assert!(size_of::<Session>() <= 248, "{}", size_of::<Session>());
        // Read by a client that is there and reads no channel.
        assert!(size_of::<Link>() <= 112, "{}", size_of::<Link>());
    }
}
