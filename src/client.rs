//! `WsClient`: a connection that comes back by itself.
//!
//! The object and the engine's client share a [`Core`]. Whatever runs callbacks works on the core, not
//! on the object: a callback may destroy the object that it was given.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ext_php_rs::convert::IntoZval;
use ext_php_rs::exception::{PhpException, PhpResult};
use ext_php_rs::flags::ClassFlags;
use ext_php_rs::prelude::*;
use ext_php_rs::types::{ZendClassObject, ZendObject, ZendStr, Zval};
use ext_php_rs::zend::ce;
use lifeline_engine::bridge::{
    Command, ConnId, Delivery, EndpointId, Event, Failure, FailureKind, GapInfo, LogLevel, LogRecord, MessageInfo,
    OverflowReason, Reply, Secret, State, Stats, Ticket, Verdict,
};
use lifeline_engine::close;
use lifeline_engine::config::ClientConfig;

use crate::argument::{PhpArray, PhpBool, PhpBytes, PhpFloat, PhpInt};
use crate::callable::{Callback, Callbacks, PhpCb};
use crate::classes::{self, mask};
use crate::connection::{channel_name, close_code, close_reason, is_payload, payload};
use crate::convert::{
    ArrayZval, IteratorZval, MessageZval, MixedZval, ReplicaZval, This, boolean, bytes, entries, int, null, text,
};
use crate::dispatcher::{Endpoint, Serial, dispatcher};
use crate::exceptions::{
    Class, Pending, argument_type_error, argument_value_error, error, exception, from_failure, type_error,
};
use crate::failure;
use crate::gc::{self, Visit};
use crate::lifecycle::{self, generation, inherited, query, submit, with_bridge};
use crate::logger::{Logger, to_error_log};
use crate::message::{self, Turn};
use crate::options::{self, ClientOptions};
use crate::replica::{self, Replicas};
use crate::shim;
use crate::timers::Timers;
use crate::values::{WsState, transition};

/// A wait longer than this is one without end.
const FOREVER: f64 = 1e9;

/// A callback's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Open,
    Message,
    Close,
    StateChange,
    Connecting,
    Error,
    Drain,
    Overflow,
    Token,
    Gap,
    Snapshot,
    Reject,
}

/// Name, method and number of arguments, in the order of `Slot`.
const SLOTS: [(Slot, &str, &str, usize); 12] = [
    (Slot::Open, "open", "onOpen", 2),
    (Slot::Message, "message", "onMessage", 4),
    (Slot::Close, "close", "onClose", 4),
    (Slot::StateChange, "stateChange", "onStateChange", 1),
    (Slot::Connecting, "connecting", "onConnecting", 2),
    (Slot::Error, "error", "onError", 1),
    (Slot::Drain, "drain", "onDrain", 1),
    (Slot::Overflow, "overflow", "onOverflow", 3),
    (Slot::Token, "token", "onToken", 0),
    (Slot::Gap, "gap", "onGap", 1),
    (Slot::Snapshot, "snapshot", "onSnapshot", 3),
    (Slot::Reject, "reject", "onReject", 4),
];

/// A message that waits for `receive()`; its bytes count against `limits.inbound` until then.
#[derive(Debug)]
struct Waiting {
    conn: ConnId,
    data: Bytes,
    binary: bool,
    info: Option<Box<MessageInfo>>,
}

/// What object and dispatcher share.
pub(crate) struct Core {
    /// The PHP object; null once it is destroyed.
    object: Cell<*mut ZendObject>,
    /// Until the engine has it.
    config: RefCell<Option<Box<ClientConfig>>>,
    block_timeout: Option<Duration>,
    logger: Option<Logger>,
    callbacks: Callbacks<12>,
    /// The engine's name for it, from the first `connect()` or `send()` on.
    id: Cell<Option<EndpointId>>,
    generation: Cell<u32>,
    serial: Rc<Serial>,
    inbox: RefCell<VecDeque<Waiting>>,
    /// What `receive()` gave last: handled when the next one is asked for.
    received: RefCell<Option<Delivery>>,
    timers: Timers,
    connect_called: Cell<bool>,
    /// `close()` was called.
    closing: Cell<bool>,
    /// The engine's client has ended, or will never be made.
    ended: Cell<bool>,
    /// The last state that the application was told of.
    told: Cell<State>,
    /// A terminal failure that nobody was told of yet.
    failure: RefCell<Option<Box<Failure>>>,
    /// The end came with messages unsent.
    lost: Cell<bool>,
    /// The full outbox has room again.
    room: Cell<bool>,
    last_sequence: Cell<u64>,
    replicas: Replicas,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("id", &self.id).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Core {
    fn new(object: *mut ZendObject, options: ClientOptions) -> Rc<Self> {
        Rc::new(Self {
            object: Cell::new(object),
            block_timeout: options.config.outbox.block_timeout,
            config: RefCell::new(Some(Box::new(options.config))),
            logger: options.logger,
            callbacks: Callbacks::default(),
            id: Cell::new(None),
            generation: Cell::new(0),
            serial: Rc::default(),
            inbox: RefCell::default(),
            received: RefCell::default(),
            timers: Timers::default(),
            connect_called: Cell::new(false),
            closing: Cell::new(false),
            ended: Cell::new(false),
            told: Cell::new(State::Disconnected),
            failure: RefCell::default(),
            lost: Cell::new(false),
            room: Cell::new(false),
            last_sequence: Cell::new(0),
            replicas: RefCell::default(),
        })
    }

    fn callback(&self, slot: Slot) -> Option<Rc<PhpCb>> {
        self.callbacks.get(slot as usize)
    }

    fn set(&self, slot: Slot, callback: Callback) -> PhpResult<()> {
        let (_, _, method, offered) = SLOTS[slot as usize];
        let method = format!("WsClient::{method}()");
        let asked_once = self.id.get().is_some() && !(slot == Slot::Token && self.callback(slot).is_some());
        if matches!(slot, Slot::Connecting | Slot::Token) && asked_once {
            return Err(exception(format!("{method} must be called before connect() and before the first send()")));
        }
        self.callbacks.set(slot as usize, callback, &method, offered)?;
        if slot == Slot::Token
            && let Some(client) = self.id.get()
            && !self.ended.get()
        {
            submit(Command::RefreshToken { client })?;
        }
        if slot == Slot::Message
            && let Some(endpoint) = self.id.get()
        {
            // What came before there was a handler goes to it, in order.
            let waiting = std::mem::take(&mut *self.inbox.borrow_mut());
            let again = |Waiting { conn, data, binary, info }| Event::Message { endpoint, conn, data, binary, info };
            dispatcher().requeue(waiting.into_iter().map(again).collect());
        }
        Ok(())
    }

    /// Throws in a process that inherited the object from before a fork.
    fn usable(&self) -> PhpResult<()> {
        lifecycle::forget_inherited();
        if self.id.get().is_some() && self.generation.get() != generation() {
            return Err(inherited("WsClient"));
        }
        Ok(())
    }

    fn closed() -> PhpException {
        exception("the WsClient is closed")
    }

    /// The engine's client, made now if need be.
    pub(crate) fn endpoint(self: &Rc<Self>) -> PhpResult<EndpointId> {
        self.usable()?;
        if self.ended.get() || self.closing.get() {
            return Err(Self::closed());
        }
        if let Some(id) = self.id.get() {
            return Ok(id);
        }
        lifecycle::start(None)?;
        let Some(mut config) = self.config.borrow().clone() else { return Err(Self::closed()) };
        config.ask_headers = self.callback(Slot::Connecting).is_some();
        config.ask_token = self.callback(Slot::Token).is_some();
        let Reply::Endpoint(id) = query(Command::CreateClient(config))? else { return Err(Self::closed()) };
        self.config.borrow_mut().take();
        self.id.set(Some(id));
        self.generation.set(generation());
        let core: Rc<dyn Endpoint> = Rc::clone(self) as _;
        dispatcher().register(id, Rc::downgrade(&core));
        Ok(id)
    }

    fn connect(self: &Rc<Self>) -> PhpResult<()> {
        let client = self.endpoint()?;
        if !self.connect_called.replace(true) {
            submit(Command::Connect { client })?;
        }
        Ok(())
    }

    /// For the methods that wait: connects, unless it is too late for that.
    fn connect_unless_closed(self: &Rc<Self>) -> PhpResult<()> {
        self.usable()?;
        if self.ended.get() || self.closing.get() { Ok(()) } else { self.connect() }
    }

    /// Calls a callback of a document.
    pub(crate) fn call_for(self: &Rc<Self>, callback: &PhpCb, arguments: &mut [Zval]) -> Result<usize, Pending> {
        self.call(callback, "document", arguments)
    }

    /// A callback of a document has thrown.
    pub(crate) fn tell_failed(self: &Rc<Self>) -> Result<(), Pending> {
        Rc::clone(self).failed("document", None)
    }

    fn failed_for_good(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Dispatches until `done` or `deadline`, then throws what this client has given up with.
    fn serve(self: &Rc<Self>, deadline: Option<Instant>, done: impl Fn(usize) -> bool) -> PhpResult<usize> {
        let ran = dispatcher().serve(deadline, &|ran| self.failed_for_good() || done(ran))?;
        self.throw_failure()?;
        Ok(ran)
    }

    fn throw_failure(&self) -> PhpResult<()> {
        match self.failure.borrow_mut().take() {
            Some(failure) => Err(give_up_exception(&failure)),
            None => Ok(()),
        }
    }

    fn send(self: &Rc<Self>, data: &Bytes, binary: bool, ttl: Option<Duration>) -> PhpResult<u64> {
        self.offer(|client| Command::ClientSend { client, data: data.clone(), binary, ttl })
            .map(|(_, sequence)| sequence)
    }

    fn send_many(self: &Rc<Self>, mut messages: Vec<Bytes>, binary: bool) -> PhpResult<()> {
        // With `block`, what does not fit yet waits for room.
        while !messages.is_empty() {
            let offer = |client| Command::ClientSendMany { client, messages: messages.clone(), binary };
            let (taken, _) = self.offer(offer)?;
            messages.drain(..taken);
        }
        Ok(())
    }

    /// Has the engine take messages; waits for room where that is the policy. How many, and the last one's number; 0:
    /// an edit that is not to be made.
    pub(crate) fn offer(self: &Rc<Self>, command: impl Fn(EndpointId) -> Command) -> PhpResult<(usize, u64)> {
        let client = self.endpoint()?;
        let mut until = None;
        loop {
            let reply = match submit(command(client)) {
                // It has given up; the event that says so waits.
                Err(_) if self.engine_state() == State::Closed => return Err(Self::closed()),
                reply => reply?,
            };
            match reply {
                Reply::Sequence(sequence) => {
                    self.last_sequence.set(sequence);
                    return Ok((1, sequence));
                }
                Reply::Flag(_) => return Ok((0, 0)),
                Reply::Taken { count, sequence } => {
                    self.last_sequence.set(sequence);
                    return Ok((count, sequence));
                }
                Reply::DispatchFirst => {
                    self.serve(Some(Instant::now()), |_| true)?;
                    continue;
                }
                _ => {}
            }
            let now = Instant::now();
            if until.is_none() {
                until = self.block_timeout.map(|timeout| now + timeout);
            }
            if until.is_some_and(|until| until <= now) {
                let waited = self.block_timeout.unwrap_or_default().as_secs_f64();
                return Err(Class::Timeout.exception(
                    format!("the outbox was full for {waited} s (outbox.overflow 'block', outbox.blockTimeout)"),
                    0,
                ));
            }
            self.room.set(false);
            self.serve(until, |_| self.room.get() || self.ended.get() || self.closing.get())?;
            if self.ended.get() || self.closing.get() {
                return Err(Self::closed());
            }
        }
    }

    fn unacknowledged(&self) -> usize {
        match self.id.get() {
            Some(client) if !self.ended.get() => match query(Command::Unacknowledged { client }) {
                Ok(Reply::Count(count)) => count,
                _ => 0,
            },
            _ => 0,
        }
    }

    fn receive(self: &Rc<Self>, timeout: Option<f64>) -> PhpResult<Option<Zval>> {
        self.usable()?;
        if self.callback(Slot::Message).is_some() {
            return Err(exception("receive() and messages() are not for a client that has onMessage"));
        }
        self.connect_unless_closed()?;
        self.settle_received();
        let core = Rc::clone(self);
        // At least one batch, so that a caller who always finds a message starves nobody.
        let waiting = || !core.inbox.borrow().is_empty() || core.ended.get();
        let deadline = if waiting() { Some(Instant::now()) } else { deadline(timeout) };
        dispatcher().serve(deadline, &|_| waiting() || core.failed_for_good())?;
        // What has come before the end is not lost to it.
        let next = self.inbox.borrow_mut().pop_front();
        let Some(Waiting { conn, data, binary, info }) = next else { return self.throw_failure().map(|()| None) };
        let message = message::build(&bytes(&data), binary, info.as_deref(), None);
        dispatcher().consume(conn, data.len());
        *self.received.borrow_mut() = info.and_then(|info| info.delivery);
        Ok(Some(message))
    }

    /// Whoever asks for the next message is through with the last.
    fn settle_received(&self) {
        let received = self.received.borrow_mut().take();
        if let (Some(delivery), Some(endpoint)) = (received, self.id.get()) {
            dispatcher().verdict(endpoint, delivery, Verdict::Done);
        }
    }

    fn subscribe(self: &Rc<Self>, channel: &str, on: bool) -> PhpResult<()> {
        let client = self.endpoint()?;
        match submit(Command::ClientSubscribe { client, channel: channel.into(), on }) {
            Err(_) if self.engine_state() == State::Closed => Err(Self::closed()),
            reply => reply.map(drop),
        }
    }

    fn flush(self: &Rc<Self>, timeout: Option<f64>) -> PhpResult<bool> {
        self.usable()?;
        // A client that has given up has nothing unacknowledged either: the events that say so count.
        let core = Rc::clone(self);
        let settled = || core.ended.get() || core.unacknowledged() == 0 && core.engine_state() != State::Closed;
        let deadline = if settled() {
            Some(Instant::now())
        } else {
            self.connect_unless_closed()?;
            deadline(timeout)
        };
        self.serve(deadline, |_| settled())?;
        Ok(self.unacknowledged() == 0 && !self.lost.get())
    }

    fn state(&self) -> State {
        match self.engine_state() {
            // Closed only when its callbacks have run: loops end at it.
            State::Closed if !self.ended.get() => self.told.get(),
            state => state,
        }
    }

    /// Ahead of what the application was told.
    fn engine_state(&self) -> State {
        match self.id.get() {
            _ if self.ended.get() => State::Closed,
            None => State::Disconnected,
            Some(client) => match query(Command::ClientState { client }) {
                Ok(Reply::State(state)) => state,
                _ => State::Closed,
            },
        }
    }

    fn close(&self, code: u16, reason: String) -> PhpResult<()> {
        self.usable()?;
        if self.closing.replace(true) || self.ended.get() {
            return Ok(());
        }
        if let Some(client) = self.id.get() {
            return submit(Command::CloseClient { client, code, reason }).map(drop);
        }
        self.ended.set(true);
        Ok(())
    }

    /// The object is being destroyed: what it would be told of is no longer told to anyone.
    fn released(&self) {
        self.object.set(ptr::null_mut());
        if self.generation.get() != generation() {
            return;
        }
        if let Some(failure) = self.failure.borrow_mut().take() {
            let message = format!("a WsClient gave up and nobody asked it: {}", failure.message);
            to_error_log(&LogRecord { level: LogLevel::Error, message, context: Vec::new() });
        }
        for Waiting { conn, data, .. } in std::mem::take(&mut *self.inbox.borrow_mut()) {
            dispatcher().consume(conn, data.len());
        }
        self.serial.discard();
        let replicas = std::mem::take(&mut *self.replicas.borrow_mut());
        for (replica, _) in replicas.values() {
            replica.clear();
        }
        drop(replicas);
        if let Some(client) = self.id.get()
            && !self.ended.get()
            && !self.closing.get()
        {
            let reason = String::new();
            let _ =
                with_bridge(|bridge| bridge.submit(Command::CloseClient { client, code: close::GOING_AWAY, reason }));
            dispatcher().submitted();
        }
    }

    /// The object as an argument; None when it is gone.
    fn object(&self) -> Option<Zval> {
        // SAFETY: the pointer is cleared before the object is freed.
        let object = unsafe { self.object.get().as_mut()? };
        let mut zval = Zval::new();
        zval.set_object(object);
        Some(zval)
    }

    /// Runs a callback, with as many of `arguments` as it declares.
    fn call(self: &Rc<Self>, callback: &PhpCb, context: &str, arguments: &mut [Zval]) -> Result<usize, Pending> {
        let wanted = callback.wanted().min(arguments.len());
        if callback.call(&mut arguments[..wanted]).is_err() {
            Rc::clone(self).failed(context, None)?;
        }
        Ok(1)
    }

    fn handle_message(
        self: &Rc<Self>,
        conn: ConnId,
        data: &Bytes,
        binary: bool,
        info: Option<&MessageInfo>,
    ) -> Result<usize, Pending> {
        let delivery = info.and_then(|info| info.delivery.clone()).zip(self.id.get());
        let delivery = delivery.map(|(delivery, endpoint)| (endpoint, delivery));
        let (Some(callback), Some(object)) = (self.callback(Slot::Message), self.object()) else {
            dispatcher().consume(conn, data.len());
            if let Some((endpoint, delivery)) = delivery {
                dispatcher().verdict(endpoint, delivery, Verdict::Done);
            }
            return Ok(0);
        };
        let wanted = callback.wanted();
        let mut arguments = [object, Zval::new(), Zval::new(), Zval::new()];
        if wanted > 1 {
            arguments[1] = bytes(data);
        }
        if wanted > 2 {
            arguments[2] = boolean(binary);
        }
        let wants_turn = wanted > 3 || delivery.is_some();
        let turn = wants_turn.then(|| Turn::new(&self.serial, conn, data.len(), delivery));
        if let Some(turn) = turn.as_ref().filter(|_| wanted > 3) {
            arguments[3] = message::build(&arguments[1], binary, info, Some(Rc::clone(turn)));
        }
        let result = callback.call(&mut arguments[..wanted.min(4)]);
        match (&turn, &result) {
            (Some(turn), Ok(_)) => turn.returned(),
            // It has been told, and is told no better a second time.
            (Some(turn), Err(_)) => turn.end_with(Verdict::Done),
            (None, _) => dispatcher().consume(conn, data.len()),
        }
        if result.is_err() {
            Rc::clone(self).failed("onMessage", Some(conn))?;
        }
        Ok(1)
    }

    fn handle_headers_wanted(self: &Rc<Self>, ticket: Ticket, attempt: u32) -> Result<usize, Pending> {
        let (Some(callback), Some(object)) = (self.callback(Slot::Connecting), self.object()) else {
            answer(Command::AnswerHeaders { ticket, headers: Vec::new() });
            return Ok(0);
        };
        let mut arguments = [object, int(attempt.into())];
        let wanted = callback.wanted().min(arguments.len());
        let answered = callback
            .call(&mut arguments[..wanted])
            .and_then(|given| options::headers(&given, "WsClient: what onConnecting returns").map_err(Pending::from));
        let Ok(headers) = answered else {
            answer(Command::FailAttempt { ticket, reason: "onConnecting has thrown".to_owned() });
            Rc::clone(self).failed("onConnecting", None)?;
            return Ok(1);
        };
        answer(Command::AnswerHeaders { ticket, headers });
        Ok(1)
    }

    /// What happens on the connection, one after the other.
    fn handle_in_turn(self: &Rc<Self>, event: Event) -> Result<usize, Pending> {
        let (slot, context, mut arguments) = match event {
            Event::Message { conn, data, binary, info, .. } => {
                return self.handle_message(conn, &data, binary, info.as_deref());
            }
            Event::Gap { client, gap, .. } => return self.handle_gap(client, &gap),
            Event::Snapshot { conn, channel, data, .. } => {
                dispatcher().consume(conn, data.len());
                (Slot::Snapshot, "onSnapshot", vec![text(&channel), bytes(&data)])
            }
            Event::Open { info, .. } => (Slot::Open, "onOpen", vec![boolean(info.resumed)]),
            Event::Close { code, reason, clean, .. } => {
                (Slot::Close, "onClose", vec![int(code.into()), text(&reason), boolean(clean)])
            }
            Event::Drain { .. } => (Slot::Drain, "onDrain", Vec::new()),
            _ => return Ok(0),
        };
        let (Some(callback), Some(object)) = (self.callback(slot), self.object()) else { return Ok(0) };
        arguments.insert(0, object);
        self.call(&callback, context, &mut arguments)
    }

    fn handle_gap(self: &Rc<Self>, endpoint: EndpointId, gap: &GapInfo) -> Result<usize, Pending> {
        let result = match self.callback(Slot::Gap) {
            Some(callback) => {
                let argument = crate::values::gap(gap).map_err(Pending::from)?;
                self.call(&callback, "onGap", &mut [argument])
            }
            None => Ok(0),
        };
        if let Some(delivery) = gap.delivery.clone() {
            dispatcher().verdict(endpoint, delivery, Verdict::Done);
        }
        result
    }

    fn handle_token_wanted(self: &Rc<Self>, ticket: Ticket) -> Result<usize, Pending> {
        let Some(callback) = self.callback(Slot::Token) else {
            answer(Command::FailAttempt { ticket, reason: "there is no onToken any more".to_owned() });
            return Ok(0);
        };
        let given = callback.call(&mut []).and_then(|given| {
            let token = given.zend_str().and_then(|text| std::str::from_utf8(text.as_bytes()).ok()).map(str::to_owned);
            token.ok_or_else(|| {
                let kind = options::kind(&given);
                type_error(format!("WsClient: onToken must return a string of UTF-8, {kind} returned")).into()
            })
        });
        let Ok(token) = given else {
            answer(Command::FailAttempt { ticket, reason: "onToken has given no token".to_owned() });
            Rc::clone(self).failed("onToken", None)?;
            return Ok(1);
        };
        answer(Command::AnswerToken { ticket, token: Secret(token) });
        Ok(1)
    }

    fn handle_gave_up(self: &Rc<Self>, failure: Box<Failure>) -> Result<usize, Pending> {
        if self.callback(Slot::Error).is_some() {
            give_up_exception(&failure).throw();
            Rc::clone(self).failed("connect", None)?;
        } else {
            *self.failure.borrow_mut() = Some(failure);
        }
        Ok(1)
    }

    fn handle_failure(self: &Rc<Self>, failure: &Failure) -> Result<usize, Pending> {
        // The network's failures are transitions. What the peer did wrong is also worth an error.
        if matches!(failure.kind, FailureKind::Connect | FailureKind::Link | FailureKind::Timeout)
            || self.callback(Slot::Error).is_none()
        {
            return Ok(0);
        }
        from_failure(failure).throw();
        Rc::clone(self).failed("connection", None)?;
        Ok(1)
    }
}

impl Endpoint for Core {
    fn deliver(self: Rc<Self>, event: Event) -> Result<usize, Pending> {
        match event {
            // As in browsers: who has closed is told no more.
            Event::Message { conn, data, .. } | Event::Snapshot { conn, data, .. } if self.closing.get() => {
                dispatcher().consume(conn, data.len());
                Ok(0)
            }
            Event::Message { conn, data, binary, info, .. } if self.callback(Slot::Message).is_none() => {
                self.inbox.borrow_mut().push_back(Waiting { conn, data, binary, info });
                Ok(1)
            }
            Event::Message { .. }
            | Event::Open { .. }
            | Event::Close { .. }
            | Event::Drain { .. }
            | Event::Gap { .. }
            | Event::Snapshot { .. } => {
                let Some(event) = self.serial.begin(event) else { return Ok(0) };
                let result = self.handle_in_turn(event);
                self.serial.end();
                result
            }
            Event::Transition { transition: change, .. } => {
                self.told.set(change.to);
                let Some(callback) = self.callback(Slot::StateChange) else { return Ok(0) };
                let change = transition(&change).map_err(Pending::from)?;
                self.call(&callback, "onStateChange", &mut [change])
            }
            Event::TokenWanted { ticket, .. } => self.handle_token_wanted(ticket),
            Event::Rejected { sequence, data, code, reason, .. } => {
                let Some(callback) = self.callback(Slot::Reject) else { return Ok(0) };
                let arguments = &mut [int(sequence.cast_signed()), bytes(&data), int(code.into()), text(&reason)];
                self.call(&callback, "onReject", arguments)
            }
            Event::HeadersWanted { ticket, attempt, .. } => self.handle_headers_wanted(ticket, attempt),
            Event::Overflow { sequence, data, why, .. } => {
                if why == OverflowReason::Closed {
                    self.lost.set(true);
                }
                let Some(callback) = self.callback(Slot::Overflow) else { return Ok(0) };
                let why = match why {
                    OverflowReason::Limit => "limit",
                    OverflowReason::Expired => "expired",
                    OverflowReason::Closed => "closed",
                };
                self.call(&callback, "onOverflow", &mut [int(sequence.cast_signed()), bytes(&data), text(why)])
            }
            Event::GaveUp { failure, .. } => self.handle_gave_up(failure),
            Event::Failure { failure, .. } => self.handle_failure(&failure),
            Event::Log { record, .. } => {
                let Some(logger) = &self.logger else {
                    to_error_log(&record);
                    return Ok(0);
                };
                if logger.log(&record).is_err() {
                    self.failed("the logger", None)?;
                }
                Ok(0)
            }
            Event::Stopped { endpoint } => {
                let mut waiting = self.serial.release();
                if !waiting.is_empty() {
                    waiting.push_back(Event::Stopped { endpoint });
                    dispatcher().requeue(waiting);
                    return Ok(0);
                }
                self.ended.set(true);
                dispatcher().unregister(endpoint);
                Ok(1)
            }
            Event::DocumentChanged { endpoint, channel } => {
                let shared = self.replicas.borrow().get(&*channel).map(|(shared, _)| Rc::clone(shared));
                shared.map_or(Ok(0), |shared| shared.tell(&self, endpoint))
            }
            Event::Room { .. } => {
                self.room.set(true);
                Ok(1)
            }
            Event::Flushed { .. }
            | Event::Handshake { .. }
            | Event::Join { .. }
            | Event::Leave { .. }
            | Event::Authenticate { .. }
            | Event::Authorise { .. }
            | Event::SnapshotWanted { .. }
            | Event::Edit { .. }
            | Event::Items { .. }
            | Event::Release { .. }
            | Event::Nudge
            | Event::SessionEnded { .. } => Ok(0),
        }
    }

    fn failed(self: Rc<Self>, _context: &str, _conn: Option<ConnId>) -> Result<(), Pending> {
        let caught = failure::take()?;
        let Some(callback) = self.callback(Slot::Error) else { return Err(caught.rethrow()) };
        callback.call(&mut [caught.zval()][..callback.wanted().min(1)]).map(drop)
    }

    fn timers(&self) -> &Timers {
        &self.timers
    }

    fn farewell(&self, id: EndpointId) -> Option<Command> {
        Some(Command::CloseClient { client: id, code: close::GOING_AWAY, reason: String::new() })
    }

    fn forgotten(&self) {
        self.ended.set(true);
        self.inbox.borrow_mut().clear();
        self.timers.clear();
    }
}

/// Given to an attempt that may be over by now.
fn answer(command: Command) {
    let _ = with_bridge(|bridge| bridge.submit(command));
    dispatcher().submitted();
}

fn give_up_exception(failure: &Failure) -> PhpException {
    Class::Connect.exception(&failure.message, i32::from(failure.code))
}

/// A timeout in seconds that is argument `number` of the running method.
fn timeout(number: u32, timeout: Option<PhpFloat>) -> PhpResult<Option<f64>> {
    match timeout {
        Some(PhpFloat(seconds)) if seconds.is_nan() || seconds < 0.0 => {
            Err(argument_value_error(number, &format!("must be at least 0 seconds, {seconds} given")))
        }
        timeout => Ok(timeout.map(|timeout| timeout.0)),
    }
}

fn deadline(timeout: Option<f64>) -> Option<Instant> {
    timeout.filter(|seconds| *seconds < FOREVER).map(|seconds| Instant::now() + Duration::from_secs_f64(seconds))
}

/// A client whose connection comes back by itself.
#[php_class]
#[php(flags = ClassFlags::Final.union(ClassFlags::NoDynamicProperties))]
#[derive(Debug)]
pub(crate) struct WsClient {
    core: Rc<Core>,
}

impl Drop for WsClient {
    fn drop(&mut self) {
        self.core.released();
    }
}

impl Visit for WsClient {
    fn visit(&self, see: &mut dyn FnMut(&Zval)) {
        self.core.callbacks.visit(see);
        if let Some(logger) = &self.core.logger {
            see(logger.zval());
        }
        self.core.timers.visit(see);
        if let Ok(replicas) = self.core.replicas.try_borrow() {
            for (replica, object) in replicas.values() {
                replica.visit(see);
                see(object);
            }
        }
    }
}

#[php_impl]
impl WsClient {
    #[php(defaults(options = PhpArray(None)))]
    pub fn __construct(url: &Zval, options: PhpArray) -> PhpResult<Self> {
        // SAFETY: the object of the running constructor is alive.
        let object = unsafe { shim::lifeline_this().as_ref() };
        let built = object.and_then(ZendClassObject::<Self>::from_zend_obj).is_some_and(|object| object.obj.is_some());
        if built {
            return Err(error("this WsClient is constructed already"));
        }
        let options = options::client(url, options.0)?;
        let object = object.map_or(ptr::null_mut(), |object| ptr::from_ref(object).cast_mut());
        Ok(Self { core: Core::new(object, options) })
    }

    /// Sets the callback of that name, as the method `on<Event>` does.
    pub fn on(&self, event: PhpBytes, callback: Callback) -> PhpResult<This> {
        let Some((slot, ..)) = SLOTS.iter().find(|(_, name, ..)| name.as_bytes() == event.0) else {
            let names: Vec<_> = SLOTS.iter().map(|(_, name, ..)| format!("'{name}'")).collect();
            let given = event.text();
            return Err(argument_value_error(1, &format!("must be one of {}, '{given}' given", names.join(", "))));
        };
        self.core.set(*slot, callback)?;
        Ok(This)
    }

    pub fn on_open(&self, callback: Callback) -> PhpResult<This> {
        self.core.set(Slot::Open, callback)?;
        Ok(This)
    }

    pub fn on_message(&self, callback: Callback) -> PhpResult<This> {
        self.core.set(Slot::Message, callback)?;
        Ok(This)
    }

    pub fn on_close(&self, callback: Callback) -> PhpResult<This> {
        self.core.set(Slot::Close, callback)?;
        Ok(This)
    }

    pub fn on_state_change(&self, callback: Callback) -> PhpResult<This> {
        self.core.set(Slot::StateChange, callback)?;
        Ok(This)
    }

    pub fn on_connecting(&self, callback: Callback) -> PhpResult<This> {
        self.core.set(Slot::Connecting, callback)?;
        Ok(This)
    }

    pub fn on_error(&self, callback: Callback) -> PhpResult<This> {
        self.core.set(Slot::Error, callback)?;
        Ok(This)
    }

    pub fn on_drain(&self, callback: Callback) -> PhpResult<This> {
        self.core.set(Slot::Drain, callback)?;
        Ok(This)
    }

    pub fn on_overflow(&self, callback: Callback) -> PhpResult<This> {
        self.core.set(Slot::Overflow, callback)?;
        Ok(This)
    }

    pub fn on_token(&self, callback: Callback) -> PhpResult<This> {
        self.core.set(Slot::Token, callback)?;
        Ok(This)
    }

    pub fn on_gap(&self, callback: Callback) -> PhpResult<This> {
        self.core.set(Slot::Gap, callback)?;
        Ok(This)
    }

    pub fn on_snapshot(&self, callback: Callback) -> PhpResult<This> {
        self.core.set(Slot::Snapshot, callback)?;
        Ok(This)
    }

    pub fn on_reject(&self, callback: Callback) -> PhpResult<This> {
        self.core.set(Slot::Reject, callback)?;
        Ok(This)
    }

    /// Begins to connect and returns at once. Does nothing the second time.
    pub fn connect(&self) -> PhpResult<()> {
        let core = Rc::clone(&self.core);
        core.connect()
    }

    /// Connects, and dispatches until this client is closed.
    pub fn run(&self) -> PhpResult<()> {
        let core = Rc::clone(&self.core);
        core.connect_unless_closed()?;
        core.throw_failure()?;
        if core.ended.get() {
            return Ok(());
        }
        core.serve(None, |_| core.ended.get()).map(drop)
    }

    /// Dispatches what waits; waits at most so many seconds for the first event.
    #[php(defaults(timeout = 0.0))]
    pub fn poll(&self, timeout: PhpFloat) -> PhpResult<i64> {
        let core = Rc::clone(&self.core);
        core.usable()?;
        let deadline = deadline(self::timeout(1, Some(timeout))?);
        let ran = core.serve(deadline, |ran| ran > 0)?;
        Ok(i64::try_from(ran).unwrap_or(i64::MAX))
    }

    /// `poll(0)` that returns nothing and takes whatever an event loop passes: `$loop->onReadable($s->stream(), $s->tick(...))`.
    pub fn tick(&self, ignored: &[&Zval]) -> PhpResult<()> {
        let _ = ignored;
        let core = Rc::clone(&self.core);
        core.usable()?;
        core.serve(Some(Instant::now()), |_| true).map(drop)
    }

    /// Readable when there is something to poll.
    pub fn stream(&self) -> PhpResult<MixedZval> {
        self.core.usable()?;
        dispatcher().stream().map(MixedZval)
    }

    /// Reconnects now; probes the link when connected.
    pub fn wake(&self) -> PhpResult<()> {
        let core = Rc::clone(&self.core);
        let client = core.endpoint()?;
        core.connect()?;
        submit(Command::Wake { client }).map(drop)
    }

    /// Into the outbox; its sequence number.
    #[php(defaults(binary = false))]
    pub fn send(&self, data: PhpBytes, binary: PhpBool, ttl: Option<PhpFloat>) -> PhpResult<i64> {
        let core = Rc::clone(&self.core);
        let ttl = match ttl {
            None => None,
            Some(PhpFloat(seconds)) if seconds > 0.0 && seconds < FOREVER => Some(Duration::from_secs_f64(seconds)),
            Some(PhpFloat(seconds)) => {
                let message = format!("must be greater than 0 seconds and less than {FOREVER}, {seconds} given");
                return Err(argument_value_error(3, &message));
            }
        };
        let data = payload(1, data, binary)?;
        core.send(&data, binary.0, ttl).map(u64::cast_signed)
    }

    /// Into the outbox, in order; the last one's sequence number.
    #[php(defaults(binary = false))]
    pub fn send_many(&self, messages: PhpArray, binary: PhpBool) -> PhpResult<i64> {
        let core = Rc::clone(&self.core);
        core.usable()?;
        let mut payloads = Vec::new();
        for (index, (_, message)) in messages.0.into_iter().flat_map(entries).enumerate() {
            let Some(data) = message.dereference().zend_str() else {
                let kind = crate::options::kind(message.dereference());
                return Err(argument_type_error(1, &format!("must be a list of strings, element {index} is {kind}")));
            };
            if !is_payload(data.as_bytes(), binary) {
                let problem = format!("must hold valid UTF-8 unless $binary is true, element {index} is not");
                return Err(argument_value_error(1, &problem));
            }
            payloads.push(Bytes::copy_from_slice(data.as_bytes()));
        }
        core.send_many(payloads, binary.0)?;
        Ok(core.last_sequence.get().cast_signed())
    }

    /// The next message, or null when the time is over or the client is closed.
    pub fn receive(&self, timeout: Option<PhpFloat>) -> PhpResult<Option<MessageZval>> {
        let core = Rc::clone(&self.core);
        let timeout = self::timeout(1, timeout)?;
        Ok(core.receive(timeout)?.map(MessageZval))
    }

    /// `receive()` until closed.
    pub fn messages(&self) -> PhpResult<IteratorZval> {
        let core = Rc::clone(&self.core);
        core.usable()?;
        if core.callback(Slot::Message).is_some() {
            return Err(exception("receive() and messages() are not for a client that has onMessage"));
        }
        let iterator =
            WsMessageIterator { client: This.into_zval(false)?, core, current: RefCell::default(), key: Cell::new(0) };
        Ok(IteratorZval(iterator.into_zval(false)?))
    }

    /// Waits until everything is acknowledged; false when the time is over first, or closed.
    pub fn flush(&self, timeout: Option<PhpFloat>) -> PhpResult<bool> {
        let core = Rc::clone(&self.core);
        core.flush(self::timeout(1, timeout)?)
    }

    /// Asks for the messages of a channel (`lifeline.v1`); they come to `onMessage`.
    pub fn subscribe(&self, channel: PhpBytes) -> PhpResult<()> {
        let core = Rc::clone(&self.core);
        core.subscribe(channel_name(1, channel)?, true)
    }

    /// Ends that, also where the server subscribed us.
    pub fn unsubscribe(&self, channel: PhpBytes) -> PhpResult<()> {
        let core = Rc::clone(&self.core);
        core.subscribe(channel_name(1, channel)?, false)
    }

    /// Follows the document of that channel (`lifeline.v1`), and subscribes to it. $options: conflict ('serverWins',
    /// 'clientWins', or a callable that merges).
    #[php(defaults(options = PhpArray(None)))]
    pub fn document(&self, channel: PhpBytes, options: PhpArray) -> PhpResult<ReplicaZval> {
        let core = Rc::clone(&self.core);
        let channel = channel_name(1, channel)?;
        let known =
            core.replicas.borrow().get(channel).map(|(shared, object)| (Rc::clone(shared), object.shallow_clone()));
        if let Some((shared, object)) = known {
            shared.configure(&core, options.0)?;
            return Ok(ReplicaZval(object));
        }
        let (shared, object) = replica::Shared::open(&core, channel, options.0)?;
        core.replicas.borrow_mut().insert(channel.into(), (shared, object.shallow_clone()));
        Ok(ReplicaZval(object))
    }

    pub fn state(&self) -> PhpResult<WsState> {
        self.core.usable()?;
        Ok(self.core.state().into())
    }

    /// Messages accepted by `send()` and not yet acknowledged.
    pub fn unacknowledged(&self) -> PhpResult<i64> {
        self.core.usable()?;
        Ok(i64::try_from(self.core.unacknowledged()).unwrap_or(i64::MAX))
    }

    /// Counters; empty before `connect()`.
    pub fn stats(&self) -> PhpResult<ArrayZval> {
        self.core.usable()?;
        let reply = self.core.id.get().map(|endpoint| query(Command::EndpointStats { endpoint })).transpose()?;
        let stats = if let Some(Reply::Stats(stats)) = reply { stats } else { Stats::default() };
        Ok(ArrayZval(crate::convert::stats(&stats)))
    }

    /// Closes for good; what is unsent goes to `onOverflow`.
    #[php(defaults(code = 1000, reason = PhpBytes::EMPTY))]
    pub fn close(&self, code: PhpInt, reason: PhpBytes) -> PhpResult<()> {
        let code = close_code(1, code)?;
        let reason = close_reason(2, reason)?;
        self.core.close(code, reason)
    }

    /// Calls the callback once; the timer's number.
    pub fn after(&self, s: PhpFloat, f: Callback) -> PhpResult<i64> {
        self.core.usable()?;
        Timers::add(&self.core, s.0, false, f.0)
    }

    /// Calls the callback again and again; the timer's number.
    pub fn every(&self, s: PhpFloat, f: Callback) -> PhpResult<i64> {
        self.core.usable()?;
        Timers::add(&self.core, s.0, true, f.0)
    }

    /// Ends a timer.
    pub fn cancel(&self, timer: PhpInt) {
        self.core.timers.cancel(timer.0);
    }
}

/// What `messages()` returns.
#[php_class]
#[php(flags = ClassFlags::Final.union(ClassFlags::NoDynamicProperties))]
#[php(implements(ce = ce::iterator, stub = "\\Iterator"))]
#[derive(Debug)]
pub(crate) struct WsMessageIterator {
    /// Keeps the object alive.
    client: Zval,
    core: Rc<Core>,
    current: RefCell<Option<Zval>>,
    key: Cell<i64>,
}

impl Visit for WsMessageIterator {
    fn visit(&self, see: &mut dyn FnMut(&Zval)) {
        see(&self.client);
        if let Ok(current) = self.current.try_borrow()
            && let Some(current) = &*current
        {
            see(current);
        }
    }
}

#[php_impl]
impl WsMessageIterator {
    #[php(vis = "private")]
    pub fn __construct() -> PhpResult<Self> {
        Err(error("a WsMessageIterator is made by WsClient::messages()"))
    }

    /// Waits for the next message.
    pub fn valid(&self) -> PhpResult<bool> {
        if self.current.borrow().is_none() {
            let core = Rc::clone(&self.core);
            let next = core.receive(None)?;
            *self.current.borrow_mut() = next;
        }
        Ok(self.current.borrow().is_some())
    }

    pub fn current(&self) -> MixedZval {
        MixedZval(self.current.borrow().as_ref().map_or_else(null, Zval::shallow_clone))
    }

    pub fn key(&self) -> i64 {
        self.key.get()
    }

    pub fn next(&self) {
        let before = self.current.borrow_mut().take();
        drop(before);
        self.key.set(self.key.get() + 1);
    }

    /// Does nothing: what was received is gone.
    #[expect(clippy::unused_self, reason = "Iterator has it as a method")]
    pub fn rewind(&self) {}
}

/// Writing `$client->onMessage = …` looks right in other libraries; it must not fail in silence.
unsafe extern "C" fn write_property(
    object: *mut ZendObject,
    member: *mut ZendStr,
    value: *mut Zval,
    cache_slot: *mut *mut c_void,
) -> *mut Zval {
    // SAFETY: Zend passes a live name.
    let name = unsafe { (*member).as_bytes() };
    if let Some((_, _, method, _)) = SLOTS.iter().find(|(_, _, method, _)| method.as_bytes() == name) {
        let wrong =
            error(format!("Cannot assign WsClient::${method}: set the callback with $client->{method}(callable)"));
        wrong.throw();
        return value;
    }
    // SAFETY: the arguments are passed on as they came.
    unsafe { ext_php_rs::ffi::zend_std_write_property(object, member, value, cache_slot) }
}

static INTERFACE: classes::Entry = classes::Entry::new();

/// Registers classes and interface; only in MINIT.
pub(crate) fn register() -> ext_php_rs::error::Result<()> {
    let interface = classes::register_interface::<WsClient>("WsClientInterface", &INTERFACE)?;
    let class = classes::register::<WsClient>(&[(|| INTERFACE.entry(), "WsClientInterface")])?;
    for class in [interface, class] {
        for method in [
            c"on",
            c"onopen",
            c"onmessage",
            c"onclose",
            c"onstatechange",
            c"onconnecting",
            c"onerror",
            c"ondrain",
            c"onoverflow",
            c"ontoken",
            c"ongap",
            c"onsnapshot",
            c"onreject",
        ] {
            classes::set_type(class, method, 0, mask::STATIC);
        }
    }
    classes::set_type(class, c"__construct", 1, mask::STRING | mask::ARRAY);
    // User and password in a URL; headers and the proxy's password among the options.
    classes::set_sensitive(class, c"__construct", 1);
    classes::set_sensitive(class, c"__construct", 2);
    gc::patch::<WsClient>();
    // SAFETY: in MINIT, before any object exists; the class has no properties of its own.
    unsafe { (*gc::handlers::<WsClient>()).write_property = Some(write_property) };
    classes::register::<WsMessageIterator>(&[])?;
    gc::patch::<WsMessageIterator>();
    Ok(())
}
