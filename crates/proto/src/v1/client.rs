//! A client's side of a session: what it has seen, what it says when it comes back.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::ack::AckSchedule;
use super::document::Place;
use super::wire::{
    ClientFrame, Credentials, Encoded, Gap, Heartbeat, Hello, ITEM_COST, Limits, OutboxRange, Reject, Resume,
    ServerFrame, Status, Subscription, VERSION, Welcome, Why,
};
use super::{ChannelName, Key, Position, Secret, Token, Violation};
use crate::backoff::{Backoff, BackoffConfig};
use crate::{Time, close};

/// A client's rules.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientConfig {
    /// Bytes of one payload that the server may send.
    pub max_message: usize,
    /// Delays before an item goes again that the server refused for now.
    pub retry: BackoffConfig,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self { max_message: 1024 * 1024, retry: BackoffConfig::default() }
    }
}

/// What a client must remember to go on with its session after its process has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub session: Key,
    pub token: Token,
    /// The last message of the stream that was delivered.
    pub sequence: u64,
    /// As received; who must not lose those that wait in its process saves what it has handled.
    pub channels: BTreeMap<ChannelName, Position>,
}

/// What happened since the client began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that came again and were dropped.
    pub duplicates: u64,
    /// Holes reported, of the stream and of channels.
    pub gaps: u64,
    /// Items refused for good.
    pub rejected: u64,
    /// WELCOMEs under which the session went on without a hole.
    pub resumed: u64,
}

/// What the driver must do, or tell the application; in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Everything of the outbox up to `sequence` was handled: forget it.
    Acknowledged { sequence: u64 },
    /// The server answered beat `n`.
    Answered(u64),
    /// A message of a channel.
    Channel { channel: ChannelName, position: Position, data: Bytes, binary: bool },
    /// A change of a channel's document, see [`super::document::Delta`].
    Delta { channel: ChannelName, position: Position, data: Bytes },
    /// Messages are missing, and will not come.
    Gap {
        gap: Gap,
        /// In the session's stream: call [`Client::handle_delivered`] when the application knows.
        delivery: Option<Delivered>,
    },
    /// The server asks to leave: close with 1001 and connect again at once, to `url` where there is one.
    Leave { url: Option<String> },
    /// A message of the session's stream; call [`Client::handle_delivered`] when it was handled.
    Message { delivery: Delivered, data: Bytes, binary: bool },
    /// The server has handled items up to `handled` that this outbox has never given a number to: it
    /// has lost its end. The connection is to be closed; new items need another outbox's id.
    OutboxDiverged { handled: u64 },
    /// What was missed has come; from here on it is live.
    ReplayDone,
    /// The server refused an item for good: take it out of the outbox, and tell the application if it was
    /// still there.
    Rejected(Reject),
    /// The item and all behind it must be sent again, when [`Client::room`] allows.
    Resend { sequence: u64 },
    /// The state of a channel in which messages were missing.
    Snapshot { channel: ChannelName, position: Position, data: Bytes, binary: bool },
    /// The server's state of a document, with a snapshot where it is another than this client's.
    State { channel: ChannelName, place: Place, data: Bytes },
    /// A subscription began, went on, was denied or ended.
    Subscription { channel: ChannelName, status: Status },
    /// The session is there: the connection is open for the application.
    Welcomed(Box<Welcomed>),
}

/// See [`Event::Welcomed`].
#[derive(Clone, Debug, PartialEq)]
pub struct Welcomed {
    pub session: Key,
    /// The session went on, with its stream whole.
    pub resumed: bool,
    pub why: Option<Why>,
    /// Death is declared after `interval + timeout` of silence.
    pub heartbeat: Option<Heartbeat>,
    /// The window for coming back after a loss.
    pub spread: Duration,
    pub limits: Limits,
}

/// Names a message of the stream, or a hole in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub sequence: u64,
    /// Of which session, counted.
    stream: u32,
    bytes: usize,
}

/// One client's session, over all its connections. The items are in an outbox of the driver's choice,
/// e.g. [`crate::outbox::MemoryOutbox`]; this machine says when one may be sent and what became of it.
///
/// After each input take all of [`Client::poll_event`] and [`Client::poll_transmit`], then
/// [`Client::poll_timeout`]. The connection counts as established from [`Event::Welcomed`] on: one that
/// ends before is a failed attempt.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    random: SmallRng,
    phase: Phase,
    /// R has come.
    live: bool,
    session: Option<(Key, Token)>,
    /// Counts sessions.
    stream: u32,
    /// The last message of the stream that came.
    received: u64,
    /// The last one that the application has handled, and all before it.
    delivered: u64,
    acks: AckSchedule,
    channels: BTreeMap<ChannelName, Channel>,
    outbox: Option<OutboxRange>,
    limits: Limits,
    /// The item that the server expects next.
    next_item: u64,
    acknowledged: u64,
    /// On this connection.
    highest_sent: u64,
    in_flight: VecDeque<(u64, u64)>,
    in_flight_cost: u64,
    retry: Backoff,
    /// The server refused an item for now.
    paused_until: Option<Time>,
    leave: Option<(Time, Option<String>)>,
    transmit: VecDeque<ClientFrame>,
    events: VecDeque<Event>,
    counters: Counters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Offline,
    /// HELLO is out.
    Greeting,
    Open,
}

#[derive(Clone, Debug, Default)]
struct Channel {
    /// The application asked for it; else the server made it.
    wanted: bool,
    /// The application left it; the server has not confirmed.
    leaving: bool,
    /// `None`: the server has not confirmed.
    position: Option<Position>,
    /// Where it goes on once the gap, which comes next, is reported.
    behind_gap: Option<Position>,
}

impl Client {
    /// `seed` fixes delays.
    #[must_use]
    pub fn new(config: ClientConfig, seed: u64) -> Self {
        Self {
            retry: Backoff::new(config.retry.clone()),
            config,
            random: SmallRng::seed_from_u64(seed),
            phase: Phase::Offline,
            live: false,
            session: None,
            stream: 0,
            received: 0,
            delivered: 0,
            acks: AckSchedule::default(),
            channels: BTreeMap::new(),
            outbox: None,
            limits: Limits { max_message: 0, window: 0 },
            next_item: 1,
            acknowledged: 0,
            highest_sent: 0,
            in_flight: VecDeque::new(),
            in_flight_cost: 0,
            paused_until: None,
            leave: None,
            transmit: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Goes on with the session of an earlier process. Before the first connection.
    pub fn restore(&mut self, saved: Saved) {
        let Saved { session, token, sequence, channels } = saved;
        self.session = Some((session, token));
        self.stream = 1;
        self.received = sequence;
        self.delivered = sequence;
        self.channels = channels
            .into_iter()
            .map(|(name, position)| (name, Channel { wanted: true, position: Some(position), ..Channel::default() }))
            .collect();
    }

    /// What to keep for [`Client::restore`]; `None`: there is no session yet. To be written after
    /// [`Client::handle_delivered`] and before the acknowledgement goes out: what was acknowledged and
    /// not written would be a gap.
    #[must_use]
    pub fn saved(&self) -> Option<Saved> {
        let (session, token) = self.session.clone()?;
        Some(Saved { session, token, sequence: self.delivered, channels: self.positions() })
    }

    /// [`Client::saved`] as it will be once `handled` is given to [`Client::handle_delivered`], which can so wait
    /// until it is written.
    #[must_use]
    pub fn saved_with(&self, handled: Option<Delivered>) -> Option<Saved> {
        let mut saved = self.saved()?;
        if let Some(handled) = handled.filter(|handled| handled.stream == self.stream) {
            saved.sequence = saved.sequence.max(handled.sequence);
        }
        Some(saved)
    }

    /// The channels that were asked for, in no order.
    pub fn wanted(&self) -> impl Iterator<Item = &ChannelName> {
        self.channels.iter().filter(|(_, channel)| channel.wanted && !channel.leaving).map(|(name, _)| name)
    }

    /// The place in a channel, as received.
    #[must_use]
    pub fn position(&self, channel: &ChannelName) -> Option<&Position> {
        self.channels.get(channel)?.position.as_ref()
    }

    /// The WebSocket is open, with the subprotocol: HELLO goes out. `outbox` says what the outbox has now,
    /// with nothing in flight.
    pub fn handle_connected(&mut self, auth: Option<Secret>, outbox: Option<OutboxRange>) {
        self.handle_lost();
        self.phase = Phase::Greeting;
        let resume = self.session.clone().map(|(session, token)| Resume {
            session,
            token,
            sequence: self.delivered,
            received: Some(self.received).filter(|received| *received > self.delivered),
            channels: self.positions(),
        });
        self.outbox.clone_from(&outbox);
        self.transmit.push_back(ClientFrame::Hello(Box::new(Hello { version: VERSION, auth, resume, outbox })));
    }

    /// A WebSocket message came.
    ///
    /// # Errors
    /// [`Violation`]: close the connection with its code.
    pub fn handle_message(&mut self, now: Time, data: &Bytes, binary: bool) -> Result<(), Violation> {
        let Some(frame) = ServerFrame::decode(data, binary, self.config.max_message)? else {
            // Later versions may say more, but not before W.
            let early = self.phase == Phase::Greeting;
            return if early { Err(Violation::bad("a frame before W, the answer to H")) } else { Ok(()) };
        };
        match (self.phase, frame) {
            (Phase::Offline, _) => Ok(()),
            (Phase::Greeting, ServerFrame::Welcome(welcome)) => self.handle_welcome(*welcome),
            (Phase::Greeting, _) => Err(Violation::bad("a frame before W, the answer to H")),
            (Phase::Open, frame) => self.handle_frame(now, frame),
        }
    }

    /// The connection has ended. Items that were in flight are to be put back into the outbox.
    pub fn handle_lost(&mut self) {
        self.phase = Phase::Offline;
        self.live = false;
        self.transmit.clear();
        self.in_flight.clear();
        self.in_flight_cost = 0;
        self.leave = None;
        for channel in self.channels.values_mut() {
            channel.behind_gap = None;
        }
        // Left without a confirmation: not named in HELLO, it ends there.
        self.channels.retain(|_, channel| channel.wanted || !channel.leaving || channel.position.is_some());
    }

    /// The application has handled a message of the stream and all before it.
    pub fn handle_delivered(&mut self, now: Time, delivered: Delivered) {
        if delivered.stream == self.stream && delivered.sequence > self.delivered {
            self.delivered = delivered.sequence;
            self.acks.handle_settled(now, self.delivered, delivered.bytes);
        }
    }

    /// A batch of the application's work has ended: the acknowledgement goes out.
    pub fn handle_batch_end(&mut self) {
        self.acks.handle_batch_end();
    }

    /// A deadline may have passed.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.paused_until.is_some_and(|until| now >= until) {
            self.paused_until = None;
        }
        if let Some((_, url)) = self.leave.take_if(|(at, _)| now >= *at) {
            self.events.push_back(Event::Leave { url });
        }
    }

    /// Subscribes; what is published from the server's confirmation on comes.
    pub fn subscribe(&mut self, channel: ChannelName) {
        let state = self.channels.entry(channel.clone()).or_default();
        let known = state.wanted && !state.leaving;
        if state.leaving && self.phase == Phase::Greeting {
            // HELLO did not name it: it has ended, and begins anew behind W.
            state.position = None;
        }
        state.wanted = true;
        state.leaving = false;
        if !known && self.phase == Phase::Open {
            self.transmit.push_back(ClientFrame::Subscribe(channel));
        }
    }

    /// Ends a subscription, also one that the server made.
    pub fn unsubscribe(&mut self, channel: &ChannelName) {
        let Some(state) = self.channels.get_mut(channel) else { return };
        if self.phase == Phase::Open {
            self.transmit.push_back(ClientFrame::Unsubscribe(channel.clone()));
        } else if self.phase == Phase::Offline && state.position.is_none() {
            self.channels.remove(channel);
            return;
        }
        state.wanted = false;
        state.leaving = true;
    }

    /// Whether an item of `len` bytes may be sent now: the session is there, the window has room, and
    /// no refusal asks to wait. One item may always be under way, whatever its size.
    #[must_use]
    pub fn room(&self, len: usize) -> bool {
        let fits = self.in_flight.is_empty() || self.in_flight_cost + cost(len) <= self.limits.window;
        self.phase == Phase::Open && self.outbox.is_some() && self.paused_until.is_none() && fits
    }

    /// Sends the outbox's next item; what is missing before it was given up and will not come. False: it
    /// is not the next one, or nothing can be sent now.
    pub fn send(&mut self, sequence: u64, data: Bytes, binary: bool) -> bool {
        self.send_item(sequence, data, Some(binary))
    }

    /// As [`Client::send`], of an item that edits a document.
    pub fn send_edit(&mut self, sequence: u64, data: Bytes) -> bool {
        self.send_item(sequence, data, None)
    }

    /// `binary`: a message.
    fn send_item(&mut self, sequence: u64, data: Bytes, binary: Option<bool>) -> bool {
        if sequence < self.next_item || !self.room(data.len()) {
            return false;
        }
        self.give_up(sequence - 1);
        self.next_item = sequence + 1;
        self.highest_sent = self.highest_sent.max(sequence);
        let cost = cost(data.len());
        self.in_flight.push_back((sequence, cost));
        self.in_flight_cost += cost;
        let acknowledged = self.acks.take();
        self.transmit.push_back(match binary {
            Some(binary) => ClientFrame::Item { sequence, acknowledged, data, binary },
            None => ClientFrame::Edit { sequence, acknowledged, data },
        });
        true
    }

    /// Tells which state of a document there is; [`Event::State`] is the answer, where the channel is subscribed to.
    pub fn verify(&mut self, channel: ChannelName, place: Place) {
        if self.phase == Phase::Open {
            self.transmit.push_back(ClientFrame::Verify { channel, place });
        }
    }

    /// What was not sent up to `sequence` will not come: expired, or dropped.
    pub fn give_up(&mut self, sequence: u64) {
        if self.phase == Phase::Open && self.outbox.is_some() && sequence >= self.next_item {
            let from = Some(std::mem::replace(&mut self.next_item, sequence + 1));
            self.highest_sent = self.highest_sent.max(sequence);
            self.transmit.push_back(ClientFrame::GiveUp { from, sequence });
        }
    }

    /// Sends a fresh token of the application's.
    pub fn refresh(&mut self, auth: Secret) {
        if self.phase == Phase::Open {
            self.transmit.push_back(ClientFrame::Token(Credentials { auth }));
        }
    }

    /// Sends a beat, for doubt about the link.
    pub fn beat(&mut self, n: u64) {
        if self.phase == Phase::Open {
            self.transmit.push_back(ClientFrame::Beat(n));
        }
    }

    /// The next message to write.
    pub fn poll_transmit(&mut self, now: Time) -> Option<Encoded> {
        if let Some(frame) = self.transmit.pop_front() {
            return Some(frame.encode());
        }
        if self.phase != Phase::Open {
            return None;
        }
        self.acks.poll(now).map(|sequence| ClientFrame::Acknowledge { sequence }.encode())
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        match &event {
            Event::Gap { .. } => self.counters.gaps += 1,
            Event::Rejected(_) => self.counters.rejected += 1,
            Event::Welcomed(welcomed) => self.counters.resumed += u64::from(welcomed.resumed),
            _ => {}
        }
        Some(event)
    }

    /// When [`Client::handle_timeout`] and [`Client::poll_transmit`] want to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let acks = self.acks.poll_timeout().filter(|_| self.phase == Phase::Open);
        let leave = self.leave.as_ref().map(|(at, _)| *at);
        [acks, leave, self.paused_until].into_iter().flatten().min()
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes of items under way, as the window counts them.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight_cost
    }

    /// WELCOME has come, and the connection is there.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// What was missed has come on this connection.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// The session's id, once there is one.
    #[must_use]
    pub fn session(&self) -> Option<&Key> {
        self.session.as_ref().map(|(id, _)| id)
    }

    fn handle_welcome(&mut self, welcome: Welcome) -> Result<(), Violation> {
        let Welcome { session, token, resumed, why, first, handled, rejected, heartbeat, spread, limits } = welcome;
        self.phase = Phase::Open;
        let same = self.session.as_ref().is_some_and(|(id, _)| *id == session);
        if !same {
            let before = self.session.is_some().then_some(self.received);
            self.stream += 1;
            self.received = first - 1;
            self.delivered = first - 1;
            if let Some(received) = before {
                // Nobody knows what the lost session had for us.
                let why = why.clone().unwrap_or(Why::Unknown);
                let gap = Gap { channel: None, from: received + 1, to: None, why };
                self.events.push_back(Event::Gap { gap, delivery: None });
            }
        }
        self.session = Some((session.clone(), token));
        self.acks = AckSchedule::new(self.delivered);
        self.limits = limits;
        self.events.push_back(Event::Welcomed(Box::new(Welcomed { session, resumed, why, heartbeat, spread, limits })));
        if let Some(outbox) = &self.outbox {
            if handled >= outbox.next {
                let next = outbox.next;
                self.events.push_back(Event::OutboxDiverged { handled });
                return Err(Violation::new(
                    close::STATE_INVALID,
                    format!("W: q is {handled}, but this outbox's next item is {next}"),
                ));
            }
            let known = rejected.into_iter().filter(|reject| reject.permanent && reject.sequence >= outbox.first);
            self.events.extend(known.map(Event::Rejected));
            if handled >= outbox.first {
                self.events.push_back(Event::Acknowledged { sequence: handled });
            }
            self.next_item = outbox.first.max(handled + 1);
            self.acknowledged = self.next_item - 1;
            self.highest_sent = self.acknowledged;
        }
        for (name, channel) in &self.channels {
            if channel.leaving {
                self.transmit.push_back(ClientFrame::Unsubscribe(name.clone()));
            } else if channel.position.is_none() {
                self.transmit.push_back(ClientFrame::Subscribe(name.clone()));
            }
        }
        Ok(())
    }

    fn handle_frame(&mut self, now: Time, frame: ServerFrame) -> Result<(), Violation> {
        match frame {
            ServerFrame::Acknowledge { sequence } => self.handle_acknowledged(sequence)?,
            ServerFrame::Answer(n) => self.events.push_back(Event::Answered(n)),
            ServerFrame::Beat(n) => self.transmit.push_back(ClientFrame::Answer(n)),
            ServerFrame::Channel { channel, position, data, binary, document } => {
                self.handle_channel(channel, position, data, binary, document)?;
            }
            ServerFrame::Gap(gap) => self.handle_gap(gap),
            ServerFrame::GoAway(go_away) => {
                let share = self.random.random_range(0.0..=1.0);
                self.leave = Some((now + go_away.after + go_away.window.mul_f64(share), go_away.url));
            }
            ServerFrame::Message { sequence, acknowledged, data, binary } => {
                if let Some(acknowledged) = acknowledged {
                    self.handle_acknowledged(acknowledged)?;
                }
                if sequence <= self.received {
                    self.counters.duplicates += 1;
                    // It waits for the application, or has been handled and the server does not know.
                    if sequence <= self.delivered {
                        self.acks.handle_duplicate();
                    }
                } else if sequence == self.received + 1 {
                    self.received = sequence;
                    let delivery = Delivered { sequence, stream: self.stream, bytes: data.len() };
                    self.events.push_back(Event::Message { delivery, data, binary });
                } else {
                    return Err(Violation::new(
                        close::STATE_INVALID,
                        format!("M {sequence}: {} is next, G tells what will not come", self.received + 1),
                    ));
                }
            }
            ServerFrame::Reject(reject) => self.handle_reject(now, reject),
            ServerFrame::ReplayDone { .. } => {
                self.live = true;
                self.events.push_back(Event::ReplayDone);
            }
            ServerFrame::Snapshot { channel, position, data, binary } => {
                if let Some(state) = self.channels.get_mut(&channel).filter(|state| !state.leaving) {
                    state.position = Some(position.clone());
                    self.events.push_back(Event::Snapshot { channel, position, data, binary });
                }
            }
            ServerFrame::State { channel, place, data } => {
                if self.channels.get(&channel).is_some_and(|state| !state.leaving) {
                    self.events.push_back(Event::State { channel, place, data });
                }
            }
            ServerFrame::Subscription(subscription) => self.handle_subscription(subscription)?,
            ServerFrame::Welcome(_) => return Err(Violation::bad("W: a second WELCOME, one is allowed")),
        }
        Ok(())
    }

    fn handle_acknowledged(&mut self, sequence: u64) -> Result<(), Violation> {
        // Items sent on an earlier connection may be settled before they are sent on this one.
        let last = self.outbox.as_ref().map_or(0, |outbox| outbox.next - 1).max(self.highest_sent);
        if sequence > last {
            return Err(Violation::new(
                close::STATE_INVALID,
                format!("A {sequence}: {last} is the last that was sent"),
            ));
        }
        while let Some((_, cost)) = self.in_flight.front().copied().filter(|(item, _)| *item <= sequence) {
            self.in_flight.pop_front();
            self.in_flight_cost -= cost;
        }
        if sequence > self.acknowledged {
            self.acknowledged = sequence;
            // It may have been refused for now and come all the same, sent before that was known.
            self.next_item = self.next_item.max(sequence + 1);
            self.retry = Backoff::new(self.config.retry.clone());
            self.events.push_back(Event::Acknowledged { sequence });
        }
        Ok(())
    }

    fn handle_reject(&mut self, now: Time, reject: Reject) {
        let sequence = reject.sequence;
        if sequence <= self.acknowledged || sequence >= self.next_item {
            return;
        }
        if reject.permanent {
            self.events.push_back(Event::Rejected(reject));
            return;
        }
        while let Some((_, cost)) = self.in_flight.back().copied().filter(|(item, _)| *item >= sequence) {
            self.in_flight.pop_back();
            self.in_flight_cost -= cost;
        }
        self.next_item = sequence;
        let delay = self.retry.next_delay(&mut self.random, None, None).unwrap_or(self.config.retry.max);
        self.paused_until = Some(now + delay);
        self.events.push_back(Event::Resend { sequence });
    }

    fn handle_subscription(&mut self, subscription: Subscription) -> Result<(), Violation> {
        let Subscription { channel, status, position } = subscription;
        match status {
            // Nobody asked for it.
            Status::Denied if !self.channels.contains_key(&channel) => return Ok(()),
            Status::Denied | Status::Left => {
                // Asked for again meanwhile: the answer to that is under way.
                let again = status == Status::Left
                    && self.channels.get(&channel).is_some_and(|state| state.wanted && !state.leaving);
                if again {
                    if let Some(state) = self.channels.get_mut(&channel) {
                        state.position = None;
                    }
                } else {
                    self.channels.remove(&channel);
                }
            }
            Status::Gap | Status::Ok | Status::Snapshot => {
                if self.channels.len() >= MAX_CHANNELS && !self.channels.contains_key(&channel) {
                    return Err(Violation::new(
                        close::STATE_INVALID,
                        format!("K {channel}: a session may be in at most {MAX_CHANNELS} channels"),
                    ));
                }
                let state = self.channels.entry(channel.clone()).or_default();
                if state.leaving {
                    return Ok(());
                }
                if status != Status::Ok {
                    state.behind_gap = position;
                } else if status == Status::Ok && ahead(state.position.as_ref(), position.as_ref()) {
                    // What the server sends again from there is known.
                } else {
                    state.position = position;
                }
            }
        }
        self.events.push_back(Event::Subscription { channel, status });
        Ok(())
    }

    fn handle_gap(&mut self, mut gap: Gap) {
        let Some(channel) = &gap.channel else {
            let to = gap.to.unwrap_or(gap.from);
            if to > self.received {
                gap.from = gap.from.max(self.received + 1);
                self.received = to;
                let delivery = Some(Delivered { sequence: to, stream: self.stream, bytes: 0 });
                self.events.push_back(Event::Gap { gap, delivery });
            }
            return;
        };
        let Some(state) = self.channels.get_mut(channel).filter(|state| !state.leaving) else { return };
        if let Some(position) = state.behind_gap.take() {
            state.position = Some(position);
        }
        self.events.push_back(Event::Gap { gap, delivery: None });
    }

    fn handle_channel(
        &mut self,
        channel: ChannelName,
        position: Position,
        data: Bytes,
        binary: bool,
        document: bool,
    ) -> Result<(), Violation> {
        // Left, and the server did not know it yet.
        let Some(state) = self.channels.get_mut(&channel).filter(|state| !state.leaving) else { return Ok(()) };
        let Some(present) = &state.position else { return Ok(()) };
        if present.epoch == position.epoch && position.offset <= present.offset {
            self.counters.duplicates += 1;
            return Ok(());
        }
        if present.epoch != position.epoch || position.offset != present.offset + 1 {
            return Err(Violation::new(
                close::STATE_INVALID,
                format!(
                    "C {channel}: {} of epoch {}, but {} of epoch {} is next, K and G tell what will not come",
                    position.offset,
                    position.epoch,
                    present.offset + 1,
                    present.epoch
                ),
            ));
        }
        state.position = Some(position.clone());
        self.events.push_back(if document {
            Event::Delta { channel, position, data }
        } else {
            Event::Channel { channel, position, data, binary }
        });
        Ok(())
    }

    fn positions(&self) -> BTreeMap<ChannelName, Position> {
        let named = self.channels.iter().filter(|(_, channel)| !channel.leaving);
        named.filter_map(|(name, channel)| Some((name.clone(), channel.position.clone()?))).collect()
    }
}

/// Channels that a server may put a session into: what is kept of them is named in each HELLO.
const MAX_CHANNELS: usize = 16 * 1024;

/// Whether `ours` is a place behind `theirs` in the same epoch.
fn ahead(ours: Option<&Position>, theirs: Option<&Position>) -> bool {
    matches!((ours, theirs), (Some(ours), Some(theirs)) if ours.epoch == theirs.epoch && ours.offset > theirs.offset)
}

/// What an item counts against the window.
fn cost(len: usize) -> u64 {
    (len + ITEM_COST) as u64
}
