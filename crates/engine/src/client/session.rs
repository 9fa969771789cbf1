//! `lifeline.v1` at a client: carries out what the rules of its session decide.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use lifeline_proto::client::{Comeback, DialFailure};
use lifeline_proto::heartbeat::{HeartbeatConfig, Mode};
use lifeline_proto::outbox::Item as Kept;
use lifeline_proto::v1::client::{
    Client as Rules, ClientConfig as RulesConfig, Delivered, Event as Told, Saved, Welcomed,
};
use lifeline_proto::v1::wire::{Heartbeat, PROTOCOL, Status};
use lifeline_proto::v1::{ChannelName, Position, Secret, Violation};
use lifeline_proto::{Time, close};

use super::documents;
use super::saved::Keeping;
use super::{Client, Inner, WINDOW};
use crate::bridge::{
    CommandError, Delivery, Event, Failure, FailureKind, GapInfo, LogLevel, MESSAGE_COST, MessageInfo, OpenInfo, Sent,
    Ticket,
};
use crate::config::{ClientConfig, ClientUrl, ListenAddress};
use crate::context::{End, Upshot};
use crate::core::Core;
use crate::dial::Dialed;
use crate::options::client_url;
use crate::outlet::{Ending, Item, Outlet};

/// Bytes of a refusal's reason that the application is told.
const REASON: usize = 1024;
/// How long our close frame waits for the last acknowledgements.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a client keeps of its session, over all its connections.
#[derive(Debug)]
pub struct Session {
    pub rules: Rules,
    /// The connection that waits for WELCOME.
    greeting: Option<Greeting>,
    /// What the application gave for HELLO, until the server does not like it.
    pub token: Option<Secret>,
    /// The application is asked for a fresh one, to be sent on the open connection.
    pub refresh: Option<Ticket>,
    /// Holes that are told once the connection is.
    early: Vec<GapInfo>,
    /// The largest payload that the server takes.
    max_message: usize,
    /// Between WELCOME and the end of the replay.
    replaying: bool,
    pub replayed: u64,
    /// We leave because the server has asked us to.
    leaving: bool,
    /// Where it sent us.
    pub detour: Option<ClientUrl>,
    /// We are closing, and wait for acknowledgements.
    farewell: Option<Farewell>,
    /// The server picks the subprotocol and does not speak it: it is not offered any more.
    pub misunderstood: bool,
    /// An acknowledgement is due at the end of the application's batch.
    pub settled: bool,
    /// With an outbox on disk, the session is kept there, too.
    pub keeping: Option<Keeping>,
}

#[derive(Debug)]
struct Greeting {
    outlet: Arc<Outlet>,
    remote: Box<str>,
    /// As the handshake told it.
    spread: Option<Duration>,
    until: Time,
    violated: bool,
}

#[derive(Debug)]
struct Farewell {
    until: Time,
    code: u16,
    reason: String,
}

impl Session {
    /// `saved`: by an earlier process.
    pub fn new(config: &ClientConfig, saved: Option<Saved>) -> Self {
        let rules = RulesConfig { max_message: config.limits.max_message, ..RulesConfig::default() };
        let mut rules = Rules::new(rules, rand::random());
        let mut keeping = config.storage.is_some().then(Keeping::default);
        if let Some(saved) = saved {
            keeping = Some(Keeping::restored(&saved));
            rules.restore(saved);
        }
        Self {
            rules,
            keeping,
            greeting: None,
            token: None,
            refresh: None,
            early: Vec::new(),
            max_message: usize::MAX,
            replaying: false,
            replayed: 0,
            leaving: false,
            detour: None,
            farewell: None,
            misunderstood: false,
            settled: false,
        }
    }

    /// When the client's task has to look again.
    pub fn poll_timeout(&self) -> Option<Time> {
        let greeting = self.greeting.as_ref().map(|greeting| greeting.until);
        let farewell = self.farewell.as_ref().map(|farewell| farewell.until);
        [self.rules.poll_timeout(), greeting, farewell].into_iter().flatten().min()
    }

    /// The connection is there, and nothing may be said on it yet.
    fn is_muted(&self) -> bool {
        self.rules.is_open() && self.keeping.as_ref().is_some_and(|keeping| keeping.muted)
    }

    /// Where a channel is, for [`Delivery::Channel`].
    fn place(&self, channel: &ChannelName) -> Option<(ChannelName, Position)> {
        self.keeping.as_ref()?;
        Some((channel.clone(), self.rules.position(channel)?.clone()))
    }

    /// The connection that is not announced yet.
    pub fn greeting(&self) -> Option<&Arc<Outlet>> {
        self.greeting.as_ref().map(|greeting| &greeting.outlet)
    }
}

/// As much of it as the application is told.
fn shortened(reason: String) -> String {
    if reason.len() <= REASON {
        return reason;
    }
    let end = (0..=REASON).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    reason[..end].to_owned()
}

impl Client {
    /// The subprotocols of the next handshake.
    pub(super) fn offer(&self, inner: &Inner) -> Vec<String> {
        let offered = self.config.protocols.iter().filter(|name| *name != PROTOCOL || !inner.session.misunderstood);
        offered.cloned().collect()
    }

    /// Whether the next handshake offers `lifeline.v1`.
    pub(super) fn offers_session(&self, inner: &Inner) -> bool {
        !inner.session.misunderstood && self.config.protocols.iter().any(|name| name == PROTOCOL)
    }

    /// The WebSocket is open and the server has chosen `lifeline.v1`: HELLO goes out. The attempt has
    /// succeeded with WELCOME, which must come until then.
    pub(super) fn greet(self: &Arc<Self>, inner: &mut Inner, now: Time, dialed: Dialed, until: Time) {
        let Some(core) = self.core.upgrade() else { return };
        self.shard.population.fetch_add(1, Ordering::Relaxed);
        let outlet = Outlet::new(core.next_connection_id(), self.shard.clone(), self.context.clone(), 0);
        let outlet = Arc::new(outlet.with_compression(dialed.compression).with_lifeline());
        let session = &mut inner.session;
        session.rules.handle_connected(session.token.clone(), Some(inner.outbox.range()));
        session.greeting = Some(Greeting {
            outlet: outlet.clone(),
            remote: dialed.remote.clone(),
            spread: dialed.spread,
            until,
            violated: false,
        });
        inner.transmit(now, &outlet);
        inner.task = Some(self.spawn(dialed, outlet, None));
    }

    /// A WebSocket message of the server's.
    pub(super) fn handle_frame(&self, outlet: &Arc<Outlet>, now: Time, data: &Bytes, binary: bool) -> Upshot {
        let mut inner = self.inner.lock();
        let outcome = inner.session.rules.handle_message(now, data, binary);
        let mut upshot = Upshot::Nothing;
        let quiet = self.follow(&mut inner, now, outlet, &mut upshot);
        if let Err(violation) = outcome {
            self.violated(&mut inner, outlet, violation);
        } else if quiet {
            // An acknowledgement may be due, or our leaving.
            self.wake_for_deadline(&mut inner);
            return upshot;
        }
        inner.feed(now, WINDOW);
        self.settle(&mut inner, now);
        upshot
    }

    /// Carries out what the rules have decided. True: nothing but messages has come.
    fn follow(&self, inner: &mut Inner, now: Time, outlet: &Arc<Outlet>, upshot: &mut Upshot) -> bool {
        let mut quiet = true;
        while let Some(told) = inner.session.rules.poll_event() {
            match told {
                Told::Message { delivery, data, binary } => {
                    let session = inner.session.rules.session().map_or("", |key| key.as_str());
                    let id = format!("{session}:{}", delivery.sequence).into_boxed_str();
                    let sequence = delivery.sequence;
                    let delivery = Some(Delivery::Stream(delivery));
                    let info = MessageInfo { delivery, id: Some(id), channel: None, sequence };
                    self.deliver(inner, now, outlet, data, binary, info);
                    continue;
                }
                Told::Channel { channel, position, data, binary } => {
                    let id = Some(position.message_id.as_str().into());
                    let sequence = position.offset;
                    let keeps = inner.session.keeping.is_some();
                    let delivery = keeps.then(|| Delivery::Channel(Box::new((channel.clone(), position))));
                    let info = MessageInfo { delivery, id, channel: Some(channel.into()), sequence };
                    self.deliver(inner, now, outlet, data, binary, info);
                    continue;
                }
                Told::Snapshot { channel, data, binary, .. } => {
                    outlet.add_inbound(data.len() + MESSAGE_COST);
                    self.emit(Event::Snapshot {
                        client: self.id,
                        conn: outlet.id,
                        channel: channel.into(),
                        data,
                        binary,
                    });
                    continue;
                }
                Told::Acknowledged { sequence } => {
                    inner.outbox.handle_acknowledged(sequence);
                    inner.documents.handle_acknowledged(sequence);
                }
                Told::Answered(n) => *upshot = Upshot::Answered(n),
                Told::Gap { gap, delivery } => {
                    if let Some(channel) = &gap.channel {
                        inner.documents.handle_gap(channel);
                    }
                    let delivery = match &gap.channel {
                        Some(channel) => inner.session.place(channel).map(Box::new).map(Delivery::Channel),
                        None => delivery.map(Delivery::Stream),
                    };
                    let info = GapInfo {
                        channel: gap.channel.map(Arc::from),
                        from: gap.from,
                        to: gap.to,
                        why: gap.why.as_str().into(),
                        delivery,
                    };
                    if outlet.is_announced() {
                        self.report_gap(outlet, info);
                    } else {
                        inner.session.early.push(info);
                    }
                }
                Told::Delta { channel, data, .. } => inner.documents.handle_delta(&channel, &data),
                Told::State { channel, place, data } => inner.documents.handle_state(&channel, place, &data),
                Told::Leave { url } => self.leave(inner, outlet, url.as_deref()),
                Told::OutboxDiverged { handled } => {
                    inner.outbox.renew();
                    let context = vec![("handled", handled.to_string())];
                    let message = "the server knows more messages of this outbox than it has sent: a new outbox begins";
                    self.context.log(LogLevel::Error, message, context);
                }
                Told::Rejected(reject) => {
                    self.reject(inner, reject.sequence, reject.code, shortened(reject.reason), true);
                }
                Told::ReplayDone => {
                    inner.session.replaying = false;
                    inner.documents.handle_replay_done();
                }
                Told::Resend { sequence } => inner.outbox.handle_resend(sequence),
                Told::Subscription { channel, status } => {
                    inner.documents.handle_subscription(&channel, status);
                    if status == Status::Denied {
                        let message = format!("the server denied the subscription to channel '{channel}'");
                        self.fail(outlet, FailureKind::Application, 0, message);
                    } else if status == Status::Ok {
                        let position = inner.session.rules.position(&channel).cloned();
                        if let Some(keeping) = &mut inner.session.keeping {
                            keeping.handle_subscribed(&channel, position);
                        }
                    }
                }
                Told::Welcomed(welcomed) => {
                    *upshot = Upshot::Beats(Arc::new(beats(&self.context.rules, welcomed.heartbeat)));
                    self.welcome(inner, now, &welcomed);
                }
            }
            quiet = false;
        }
        self.tend_documents(inner);
        inner.transmit(now, outlet);
        quiet
    }

    fn deliver(&self, inner: &mut Inner, now: Time, outlet: &Outlet, data: Bytes, binary: bool, info: MessageInfo) {
        inner.session.replayed += u64::from(inner.session.replaying);
        outlet.counters.messages_in.fetch_add(1, Ordering::Relaxed);
        outlet.count_message(now);
        outlet.add_inbound(data.len() + MESSAGE_COST);
        let info = Some(Box::new(info));
        self.emit(Event::Message { endpoint: self.id, conn: outlet.id, data, binary, info });
    }

    fn welcome(&self, inner: &mut Inner, now: Time, welcomed: &Welcomed) {
        let Some(greeting) = inner.session.greeting.take() else { return };
        let Greeting { outlet, remote, spread, .. } = greeting;
        let spread = Some(welcomed.spread).filter(|spread| !spread.is_zero()).or(spread);
        if !inner.machine.handle_dialed(now, spread) {
            outlet.end(Ending::Abort { code: close::ABNORMAL, reason: "the attempt was given up".to_owned() });
            return;
        }
        let session = &mut inner.session;
        session.max_message = usize::try_from(welcomed.limits.max_message).unwrap_or(usize::MAX);
        session.replaying = true;
        session.leaving = false;
        if let Some(keeping) = &mut session.keeping {
            keeping.handle_welcome();
            self.ask_keeper();
        }
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        // The change of state comes before the opening.
        self.settle(inner, now);
        if let Some(core) = self.core.upgrade() {
            core.add_connection(&outlet);
        }
        let resumed = welcomed.resumed;
        outlet.announce(OpenInfo {
            remote,
            protocol: Arc::from(PROTOCOL),
            request: None,
            session: None,
            resumed,
            user: None,
        });
        for gap in std::mem::take(&mut inner.session.early) {
            self.report_gap(&outlet, gap);
        }
        inner.outlet = Some(outlet);
    }

    /// What the connection spoke for is settled, and the rest is under another outbox's id: it says HELLO again. So it is
    /// behind a crash of an earlier process, with an outbox on disk.
    pub(super) fn greet_again(inner: &mut Inner) {
        let Some(outlet) = inner.outlet.clone().filter(|outlet| outlet.is_lifeline() && outlet.is_open()) else {
            return;
        };
        if inner.outbox.is_outgrown() && inner.session.farewell.is_none() {
            inner.session.leaving = true;
            outlet.set_closing();
            let reason = "the next outbox".to_owned();
            outlet.end(Ending::Close { code: close::GOING_AWAY, wire: close::GOING_AWAY, reason });
            Core::wake(&outlet);
        }
    }

    fn report_gap(&self, outlet: &Outlet, gap: GapInfo) {
        // Until the application has taken it.
        outlet.add_inbound(gap.cost());
        self.emit(Event::Gap { client: self.id, conn: outlet.id, gap: Box::new(gap) });
    }

    /// Takes out a message that will never be handled, and tells who sent it. `seen`: by the server.
    fn reject(&self, inner: &mut Inner, sequence: u64, code: i32, reason: String, seen: bool) {
        if let Some(Kept { mut data, binary, .. }) = inner.outbox.handle_rejected(sequence, code, &reason) {
            if let Some(payload) = documents::payload(&data, binary) {
                let known = if seen {
                    inner.documents.handle_rejected(&payload, code, &reason)
                } else {
                    inner.documents.handle_dropped(&payload, code, &reason)
                };
                if known {
                    return self.tend_documents(inner);
                }
                // An earlier process made it.
                data = payload;
            }
            let reason = reason.into_boxed_str();
            self.emit(Event::Rejected { client: self.id, sequence, data, code, reason });
        }
    }

    /// Has what is too long for the server out of the way.
    pub(super) fn reject_too_long(&self, inner: &mut Inner) {
        let max = inner.session.max_message;
        while inner.outlet.as_ref().is_some_and(|outlet| outlet.is_lifeline())
            && let Some((sequence, len)) = inner.outbox.first_waiting().filter(|(_, len)| *len > max)
        {
            let reason = format!("a message of {len} bytes, the server takes at most {max}");
            self.reject(inner, sequence, i32::from(close::TOO_BIG), reason, false);
        }
    }

    /// Closes because the server has asked for it; [`Client::handle_ended`] sees to coming back.
    fn leave(&self, inner: &mut Inner, outlet: &Arc<Outlet>, url: Option<&str>) {
        inner.session.leaving = true;
        inner.session.detour = url.and_then(|url| match self.follow_url(url) {
            Ok(url) => Some(url),
            Err(why) => {
                self.context.log(
                    LogLevel::Warning,
                    format!("the server sent us elsewhere, which is not followed: {why}"),
                    Vec::new(),
                );
                None
            }
        });
        outlet.set_closing();
        let reason = "the server asked to leave".to_owned();
        outlet.end(Ending::Close { code: close::GOING_AWAY, wire: close::GOING_AWAY, reason });
    }

    /// A URL that a server has named, where it may be used.
    fn follow_url(&self, url: &str) -> Result<ClientUrl, Cow<'static, str>> {
        let url = client_url(url.as_bytes()).map_err(|error| Cow::Owned(error.to_string()))?;
        let secure = |url: &ClientUrl| matches!(url.target, ListenAddress::Tcp { tls: true, .. });
        if matches!(url.target, ListenAddress::Unix { .. }) || url.credentials.is_some() {
            return Err("it must be ws:// or wss:// without credentials".into());
        }
        if !secure(&url) && self.config.urls.iter().all(secure) {
            return Err("it is not encrypted, unlike the present one".into());
        }
        if secure(&url) && self.tls.is_none() {
            return Err("it is wss:// and the present one is not".into());
        }
        Ok(url)
    }

    fn violated(&self, inner: &mut Inner, outlet: &Arc<Outlet>, violation: Violation) {
        let Violation { code, reason } = violation;
        if let Some(greeting) = inner.session.greeting.as_mut().filter(|greeting| greeting.outlet.id == outlet.id) {
            greeting.violated = true;
        } else {
            self.fail(outlet, FailureKind::Protocol, code, reason.clone());
        }
        outlet.set_closing();
        outlet.end(Ending::Close { code, wire: code, reason });
    }

    fn fail(&self, outlet: &Outlet, kind: FailureKind, code: u16, message: String) {
        let failure = Box::new(Failure { kind, message, code });
        self.emit(Event::Failure { endpoint: self.id, conn: Some(outlet.id), failure });
    }

    /// Deadlines of the session may have passed.
    pub(super) fn tick(&self, inner: &mut Inner, now: Time) {
        if let Some(greeting) = inner.session.greeting.as_mut().filter(|greeting| greeting.until <= now) {
            greeting.until = super::END_OF_TIME;
            let seconds = self.config.connect_timeout.as_secs_f64();
            let reason = format!("connect.timeout ({seconds} s) passed while waiting for WELCOME");
            greeting.outlet.end(Ending::Abort { code: close::ABNORMAL, reason });
            Core::wake(&greeting.outlet);
        }
        if inner.session.farewell.as_ref().is_some_and(|farewell| farewell.until <= now) {
            inner.end_farewell();
        }
        if inner.session.rules.poll_timeout().is_some_and(|at| at <= now) {
            inner.session.rules.handle_timeout(now);
            if let Some(outlet) = inner.outlet.clone() {
                self.follow(inner, now, &outlet, &mut Upshot::Nothing);
                inner.feed(now, WINDOW);
                Core::wake(&outlet);
            }
        }
    }

    /// A connection with the subprotocol has ended.
    pub(super) fn handle_ended(&self, inner: &mut Inner, now: Time, outlet: &Arc<Outlet>, end: &End) {
        let session = &mut inner.session;
        session.rules.handle_lost();
        session.refresh = None;
        session.early.clear();
        session.farewell = None;
        inner.documents.handle_lost();
        inner.outbox.handle_lost();
        if end.code == close::TOKEN_EXPIRED {
            session.token = None;
        }
        let session_over = (close::UNAUTHORIZED..5000).contains(&end.code);
        if let Some(greeting) = session.greeting.take_if(|greeting| greeting.outlet.id == outlet.id) {
            self.counters.failed_attempts.fetch_add(1, Ordering::Relaxed);
            session.detour = None;
            // Our own servers tell the spread. Others may pick what they are offered without knowing it.
            let unknown = greeting.spread.is_none() && session.rules.session().is_none();
            let silent = end.code == close::ABNORMAL && greeting.until == super::END_OF_TIME;
            let misunderstood = unknown && (greeting.violated || silent);
            if misunderstood && !session.misunderstood {
                session.misunderstood = true;
                let message = "the server chose lifeline.v1 and does not speak it: it is not offered any more";
                self.context.log(LogLevel::Warning, message, Vec::new());
            }
            inner.machine.handle_dial_failed(
                now,
                DialFailure {
                    status: Some(end.code).filter(|code| *code != close::ABNORMAL),
                    retry_after: None,
                    terminal: !misunderstood
                        && (session_over || self.config.reconnect.terminal_codes.contains(&end.code)),
                    spread: greeting.spread,
                    reason: format!(
                        "the connection to {} ended before WELCOME with {} {}",
                        inner.place, end.code, end.reason
                    ),
                },
            );
            return;
        }
        let comeback = match end.code {
            _ if session.leaving => Comeback::AtOnce,
            close::IDLE => Comeback::WhenWanted,
            _ if session_over => Comeback::Never,
            _ => Comeback::Usual,
        };
        if !std::mem::take(&mut session.leaving) {
            session.detour = None;
        }
        inner.lost = true;
        inner.machine.handle_ended(now, end.code, end.reason.clone(), comeback);
    }

    /// The application asks for messages of a channel.
    ///
    /// # Errors
    /// The name is none, the client has closed, or its server does not speak `lifeline.v1`.
    pub fn subscribe(&self, channel: &str, on: bool) -> Result<(), CommandError> {
        let channel = ChannelName::new(channel).map_err(|error| CommandError::Invalid(error.to_string()))?;
        let now = crate::clock::now();
        let mut inner = self.inner.lock();
        if inner.machine.state() == lifeline_proto::client::State::Closed {
            return Err(CommandError::Gone("the client".into()));
        }
        let plain = inner.outlet.as_ref().is_some_and(|outlet| !outlet.is_lifeline());
        if plain || !self.offers_session(&inner) {
            let why = if plain { "the server does not speak it" } else { "it is not in the option 'protocols'" };
            return Err(CommandError::Limit(format!("channels need the subprotocol lifeline.v1, and {why}")));
        }
        if on {
            inner.session.rules.subscribe(channel);
        } else {
            inner.session.rules.unsubscribe(&channel);
        }
        if let Some(outlet) = inner.outlet.clone() {
            inner.transmit(now, &outlet);
            if let Some(core) = self.core.upgrade() {
                core.mark(&outlet);
            }
        } else {
            inner.machine.handle_pending(now);
        }
        self.settle(&mut inner, now);
        Ok(())
    }

    /// The server that was found does not speak `lifeline.v1`: channels that were asked for wait for one that does.
    pub(super) fn tell_unheard(&self, inner: &Inner) {
        let names: Vec<_> = inner.session.rules.wanted().map(|name| format!("'{name}'")).collect();
        let Some(outlet) = inner.outlet.as_ref().filter(|_| !names.is_empty()) else { return };
        let (names, place) = (names.join(", "), &inner.place);
        let message = format!("{place} does not speak lifeline.v1, which channels need: not subscribed to {names}");
        self.context.log(LogLevel::Warning, message.clone(), Vec::new());
        self.fail(outlet, FailureKind::Application, 0, message);
    }

    /// The application is through with a message of the stream, or knows of a hole in it.
    pub fn settle_delivery(self: &Arc<Self>, delivered: Delivered) {
        let now = crate::clock::now();
        let mut inner = self.inner.lock();
        if let Some(keeping) = &mut inner.session.keeping {
            // Acknowledged when it is written.
            keeping.handle_delivered(delivered);
            return self.ask_keeper();
        }
        inner.session.rules.handle_delivered(now, delivered);
        let Some(outlet) = inner.outlet.clone() else { return };
        let Some(core) = self.core.upgrade() else { return };
        // 32 messages or 64 KiB do not wait for the end of the batch.
        if inner.transmit(now, &outlet) {
            core.mark(&outlet);
        }
        if !std::mem::replace(&mut inner.session.settled, true) {
            core.note_settled(self);
        }
        self.wake_for_deadline(&mut inner);
    }

    /// The application is through with a message of a channel, or knows of a hole in it.
    pub fn settle_channel(&self, (channel, position): (ChannelName, Position)) {
        if let Some(keeping) = &mut self.inner.lock().session.keeping {
            keeping.handle_channel(channel, position);
        }
    }

    /// What was to be written before the server may hear of it is written; or it cannot be, which was told.
    pub(super) fn handle_kept(&self, inner: &mut Inner, handled: Option<Delivered>) {
        let now = crate::clock::now();
        let session = &mut inner.session;
        if let Some(handled) = handled {
            session.rules.handle_delivered(now, handled);
            session.rules.handle_batch_end();
        }
        // A later connection's token is another.
        if let Some(keeping) = session.keeping.as_mut().filter(|keeping| !keeping.needs_writing(false)) {
            keeping.muted = false;
        }
        if let Some(outlet) = inner.outlet.clone().filter(|outlet| outlet.is_lifeline()) {
            inner.transmit(now, &outlet);
            inner.feed(now, WINDOW);
            Core::wake(&outlet);
        }
        self.settle(inner, now);
    }

    /// A batch of the application's work has ended: its acknowledgement goes out.
    pub fn handle_batch_end(&self) {
        let mut inner = self.inner.lock();
        inner.session.settled = false;
        inner.session.rules.handle_batch_end();
        if let Some(outlet) = inner.outlet.clone()
            && inner.transmit(crate::clock::now(), &outlet)
            && let Some(core) = self.core.upgrade()
        {
            core.mark(&outlet);
        }
    }

    /// The application has another token than before: it is asked, and the server told.
    pub fn refresh_token(&self) {
        let Some(core) = self.core.upgrade() else { return };
        let mut inner = self.inner.lock();
        inner.session.token = None;
        if inner.session.rules.is_open() {
            let ticket = core.next_ticket();
            inner.session.refresh = Some(ticket);
            self.emit(Event::TokenWanted { client: self.id, ticket });
        }
    }

    /// The answer to [`Event::TokenWanted`] on an open connection; false: that is not what was asked.
    pub(super) fn refreshed(&self, inner: &mut Inner, ticket: Ticket, token: Option<Secret>) -> bool {
        if inner.session.refresh.take_if(|asked| *asked == ticket).is_none() {
            return false;
        }
        if let (Some(token), Some(outlet)) = (token, inner.outlet.clone()) {
            inner.session.token = Some(token.clone());
            inner.session.rules.refresh(token);
            inner.transmit(crate::clock::now(), &outlet);
            if let Some(core) = self.core.upgrade() {
                core.mark(&outlet);
            }
        }
        true
    }
}

impl Inner {
    /// Puts our close frame off until all is acknowledged, for a moment; false: there is nothing to wait for.
    pub(super) fn begin_farewell(&mut self, now: Time, code: u16, reason: &str) -> bool {
        let Some(outlet) = self.outlet.clone().filter(|outlet| outlet.is_lifeline() && outlet.is_open()) else {
            return false;
        };
        if self.outbox.len() == 0 || !self.session.rules.is_open() {
            return false;
        }
        self.session.farewell = Some(Farewell { until: now + FAREWELL, code, reason: reason.to_owned() });
        self.feed(now, WINDOW);
        Core::wake(&outlet);
        true
    }

    /// Ends what [`Inner::begin_farewell`] began, when all is acknowledged.
    pub(super) fn watch_farewell(&mut self) {
        if self.session.farewell.is_some() && self.outbox.len() == 0 {
            self.end_farewell();
        }
    }

    fn end_farewell(&mut self) {
        let Some(Farewell { code, reason, .. }) = self.session.farewell.take() else { return };
        if let Some(outlet) = &self.outlet {
            outlet.set_closing();
            outlet.end(Ending::Close { code, wire: code, reason });
            Core::wake(outlet);
        }
    }

    /// Gives the connection what the rules have to say; true when there was something.
    pub(super) fn transmit(&mut self, now: Time, outlet: &Outlet) -> bool {
        let mut any = false;
        if self.session.is_muted() {
            return false;
        }
        while let Some(message) = self.session.rules.poll_transmit(now) {
            if outlet.push(Item::Message { data: message.data, binary: message.binary, sequence: 0 }) == Sent::Queued {
                // Only messages of the application count.
                outlet.counters.messages_out.fetch_sub(1, Ordering::Relaxed);
            }
            any = true;
        }
        any
    }

    /// [`Inner::feed`] on a connection with the subprotocol.
    pub(super) fn feed_session(&mut self, now: Time, window: usize, outlet: &Outlet) -> bool {
        let mut fed = false;
        if self.session.is_muted() {
            return false;
        }
        let rules = &mut self.session.rules;
        while outlet.is_open() && outlet.buffered.load(Ordering::Relaxed) < window {
            let Some((_, len)) = self.outbox.first_waiting() else { break };
            if len > self.session.max_message || !rules.room(len) {
                break;
            }
            let Some(Kept { sequence, data, binary, .. }) = self.outbox.next_to_send(now) else { break };
            // Behind one that has expired there may be a longer one.
            let edit = documents::payload(&data, binary);
            let fits = data.len() <= self.session.max_message;
            let sent = fits
                && match edit {
                    Some(payload) => rules.send_edit(sequence, payload),
                    None => rules.send(sequence, data, binary),
                };
            if !sent {
                self.outbox.handle_resend(sequence);
                break;
            }
            while let Some(message) = rules.poll_transmit(now) {
                let is_item = matches!(message.data.first(), Some(b'P' | b'D'));
                let sequence = if is_item { sequence } else { 0 };
                if outlet.push(Item::Message { data: message.data, binary: message.binary, sequence }) == Sent::Queued
                    && !is_item
                {
                    outlet.counters.messages_out.fetch_sub(1, Ordering::Relaxed);
                }
            }
            outlet.count_message(now);
            fed = true;
        }
        fed
    }
}

/// The server says when it beats. A client beats when that time is half over without a word, and its
/// reads rest; it takes the server for dead when it is over.
fn beats(own: &HeartbeatConfig, server: Option<Heartbeat>) -> HeartbeatConfig {
    let Some(Heartbeat { interval, timeout }) = server else { return *own };
    let mode = match own.mode {
        Mode::Off => Mode::Off,
        Mode::Keepalive => Mode::Keepalive,
        Mode::Auto | Mode::Fixed | Mode::Passive => Mode::Auto,
    };
    let half = timeout / 2;
    HeartbeatConfig { interval: interval + half, timeout: half, missed_limit: 1, mode, adaptive: None }
}
