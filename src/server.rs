//! `WsServer`.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ext_php_rs::exception::{PhpException, PhpResult};
use ext_php_rs::flags::ClassFlags;
use ext_php_rs::prelude::*;
use ext_php_rs::types::{ZendClassObject, ZendHashTable, ZendObject, ZendStr, Zval};
use ext_php_rs::zend::ce;
use lifeline_engine::IdMap;
use lifeline_engine::bridge::{
    Authentication, Command, ConnId, Credentials, Delivery, DeliveryId, EditInfo, EndpointId, Event, HandshakeAnswer,
    Key, MessageInfo, OutboxItem, Reply, SessionInfo, Verdict,
};
use lifeline_engine::close;
use lifeline_engine::config::{ServerConfig, Spawn};
use lifeline_engine::http::RequestHead;
use lifeline_engine::recycle;

use crate::argument::{PhpArray, PhpBool, PhpBytes, PhpFloat, PhpInt};
use crate::callable::{Callback, Callbacks};
use crate::classes::{self, mask};
use crate::connection::{Conn, channel_name, close_code, close_quietly, close_reason, id_of, payload, utf8};
use crate::convert::{
    ArrayZval, ConnectionZval, DocumentZval, IterableZval, MixedZval, SessionZval, This, boolean, bytes, int, list,
    null, text,
};
use crate::dispatcher::{Endpoint, dispatcher};
use crate::document::{self, Documents};
use crate::exceptions::{
    Pending, argument_type_error, argument_value_error, error, exception, from_failure, type_error,
};
use crate::failure::{self, Caught};
use crate::gc;
use crate::lifecycle::{self, generation, inherited, query, submit, worker_is_ending};
use crate::logger::{self, Logger};
use crate::message::{self, Turn};
use crate::request;
use crate::session;
use crate::shim;
use crate::signals;
use crate::supervision;
use crate::timers::Timers;

/// A callback of the server: its number, name for `on()`, method and the arguments it is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Handshake,
    Open,
    Message,
    Close,
    Error,
    Drain,
    Join,
    Leave,
    Auth,
    Subscribe,
    Snapshot,
    SessionEnd,
}

impl On {
    const ALL: [Self; 12] = [
        Self::Handshake,
        Self::Open,
        Self::Message,
        Self::Close,
        Self::Error,
        Self::Drain,
        Self::Join,
        Self::Leave,
        Self::Auth,
        Self::Subscribe,
        Self::Snapshot,
        Self::SessionEnd,
    ];

    /// For `on()`.
    fn event(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Open => "open",
            Self::Message => "message",
            Self::Close => "close",
            Self::Error => "error",
            Self::Drain => "drain",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Auth => "auth",
            Self::Subscribe => "subscribe",
            Self::Snapshot => "snapshot",
            Self::SessionEnd => "sessionEnd",
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Handshake => "onHandshake",
            Self::Open => "onOpen",
            Self::Message => "onMessage",
            Self::Close => "onClose",
            Self::Error => "onError",
            Self::Drain => "onDrain",
            Self::Join => "onJoin",
            Self::Leave => "onLeave",
            Self::Auth => "onAuth",
            Self::Subscribe => "onSubscribe",
            Self::Snapshot => "onSnapshot",
            Self::SessionEnd => "onSessionEnd",
        }
    }

    fn offered(self) -> usize {
        match self {
            Self::Handshake | Self::Drain | Self::Snapshot | Self::SessionEnd => 1,
            Self::Open | Self::Error | Self::Join | Self::Leave | Self::Subscribe => 2,
            Self::Auth => 3,
            Self::Message | Self::Close => 4,
        }
    }
}

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    New,
    Running,
    Stopped,
}

/// What a process is to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// All there is: sockets and callbacks.
    Alone,
    /// It has the sockets; its workers run the callbacks (option `workers`).
    Gateway,
    /// It runs callbacks for a gateway.
    Worker,
}

/// Connections that are asked for at once.
const DESCRIBED: usize = 1000;

thread_local! {
    /// The one server with workers that a process may have.
    static WITH_WORKERS: RefCell<Option<(Weak<Core>, u32)>> = const { RefCell::new(None) };
}

/// What is known of a session, and PHP's object for it.
type SeenSession = (Rc<session::Shared>, Zval);

/// What the object and the dispatcher share of a server.
pub(crate) struct Core {
    this: Weak<Self>,
    config: ServerConfig,
    logger: Option<Logger>,
    callbacks: Callbacks<12>,
    timers: Timers,
    life: Cell<Life>,
    role: Cell<Role>,
    id: Cell<Option<EndpointId>>,
    /// The process that started it.
    generation: Cell<u32>,
    addresses: RefCell<Vec<Arc<str>>>,
    connections: RefCell<IdMap<ConnId, (Rc<Conn>, Zval)>>,
    /// Sessions that PHP has seen, until they end.
    sessions: RefCell<HashMap<Arc<str>, SeenSession>>,
    documents: Documents,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Core").field("id", &self.id).field("life", &self.life).finish_non_exhaustive()
    }
}

impl Core {
    /// Throws in a process that inherited the running server.
    fn own(&self) -> PhpResult<()> {
        lifecycle::forget_inherited();
        if self.life.get() != Life::New && self.generation.get() != generation() {
            return Err(inherited("WsServer"));
        }
        Ok(())
    }

    /// The engine's name of it; None when it has stopped; throws before `start()`.
    fn running(&self, method: &str) -> PhpResult<Option<EndpointId>> {
        self.own()?;
        match self.life.get() {
            Life::New => {
                Err(exception(format!("WsServer::{method}() needs a started server: call start() or run() first")))
            }
            Life::Running => Ok(self.id.get()),
            Life::Stopped => Ok(None),
        }
    }

    fn start(&self) -> PhpResult<()> {
        self.own()?;
        if self.life.get() == Life::Running {
            return Ok(());
        }
        let (role, spawn) = self.cast()?;
        let mut config = self.config.clone();
        config.ask_handshake = self.callbacks.is_set(On::Handshake as usize);
        config.authenticate = self.callbacks.is_set(On::Auth as usize);
        config.authorise = self.callbacks.is_set(On::Subscribe as usize);
        config.snapshots = self.callbacks.is_set(On::Snapshot as usize);
        config.announce_members = self.callbacks.is_set(On::Join as usize) || self.callbacks.is_set(On::Leave as usize);
        config.inherited = supervision::inherited();
        config.manager = supervision::manager();
        lifecycle::start(config.io_threads)?;
        let Reply::Endpoint(id) = submit(Command::StartServer(Box::new(config)))? else {
            return Err(exception("the engine did not start the server"));
        };
        if let Reply::Names(names) = query(Command::Addresses { server: id })? {
            self.addresses.replace(names);
        }
        if let Some(spawn) = spawn
            && let Err(wrong) = query(Command::StartWorkers { server: id, spawn: Box::new(spawn) })
        {
            let _ = submit(Command::Discard { endpoint: id });
            return Err(wrong);
        }
        self.id.set(Some(id));
        self.generation.set(generation());
        self.life.set(Life::Running);
        self.role.set(role);
        let this: Weak<dyn Endpoint> = self.this.clone();
        dispatcher().register(id, this);
        if role != Role::Alone {
            WITH_WORKERS.replace(Some((self.this.clone(), generation())));
        }
        match role {
            Role::Alone => {}
            Role::Worker => lifecycle::attached(),
            Role::Gateway => {
                // They are the workers'.
                self.timers.clear();
                signals::watch(id);
                dispatcher().wake_by_signals();
            }
        }
        Ok(())
    }

    /// What this process will be to the server, and how it starts workers, if it does.
    fn cast(&self) -> PhpResult<(Role, Option<Spawn>)> {
        if let Some(why) = supervision::no_worker() {
            return Err(exception(format!("this process can have no WsServer: {why}")));
        }
        let with_workers = self.config.workers.count > 0;
        let known = WITH_WORKERS.with_borrow(Clone::clone).filter(|(_, started)| *started == generation());
        let another = known.is_some_and(|(known, _)| !Weak::ptr_eq(&known, &self.this));
        if supervision::is_worker() {
            if !with_workers {
                return Err(exception(
                    "a worker process serves the server with the option 'workers' alone: do not start others where \
                     getenv('LIFELINE_WORKER') is set",
                ));
            }
            if another {
                return Err(exception("a worker process serves one WsServer, and this would be its second"));
            }
            return Ok((Role::Worker, None));
        }
        if !with_workers {
            return Ok((Role::Alone, None));
        }
        if another {
            return Err(exception(
                "a process can have one WsServer with the option 'workers', and this would be its second: its workers \
                 run the same script, and would not know which is theirs",
            ));
        }
        let spawn = supervision::command()
            .map_err(|why| exception(format!("option 'workers': they cannot be started: {why}")))?;
        Ok((Role::Gateway, Some(spawn)))
    }

    /// What waits behind handlers that have not finished: each opened connection gets its onClose.
    fn release(&self) -> VecDeque<Event> {
        let mut conns: Vec<_> = self.connections.borrow().values().map(|(conn, _)| Rc::clone(conn)).collect();
        conns.sort_unstable_by_key(|conn| conn.id);
        conns.iter().flat_map(|conn| conn.serial.release()).collect()
    }

    /// It has ended: whatever comes now finds nothing.
    fn stopped(&self) {
        if self.role.replace(Role::Alone) == Role::Gateway {
            signals::restore();
        }
        self.life.set(Life::Stopped);
        self.id.set(None);
        self.timers.clear();
        let connections = std::mem::take(&mut *self.connections.borrow_mut());
        for (conn, _) in connections.values() {
            conn.closed();
            conn.serial.discard();
        }
        drop(connections);
        let sessions = std::mem::take(&mut *self.sessions.borrow_mut());
        drop(sessions);
        let documents = std::mem::take(&mut *self.documents.borrow_mut());
        for (document, _) in documents.values() {
            document.end();
        }
        drop(documents);
    }

    /// The object is being freed.
    fn destroyed(&self) {
        if self.life.get() == Life::Running
            && self.generation.get() == generation()
            && let Some(server) = self.id.get()
        {
            // The server goes on without this worker.
            let command = match self.role.get() {
                Role::Worker => Command::Discard { endpoint: server },
                Role::Alone | Role::Gateway => Command::StopServer { server, drain: Duration::ZERO },
            };
            // At the end of a request the engine may be gone before the object.
            let _ = submit(command);
        }
        self.stopped();
        self.callbacks.clear();
    }

    /// A session and its object, brought up to date; none where the server has ended.
    fn session(&self, info: &SessionInfo) -> Option<SeenSession> {
        let known =
            self.sessions.borrow().get(&info.id).map(|(shared, object)| (Rc::clone(shared), object.shallow_clone()));
        if let Some((shared, mut object)) = known {
            session::refresh(&mut object, info);
            return Some((shared, object));
        }
        let (shared, object) = session::Shared::new(self.id.get()?, info);
        self.sessions.borrow_mut().insert(info.id.clone(), (Rc::clone(&shared), object.shallow_clone()));
        Some((shared, object))
    }

    /// The server, where other processes serve connections of it.
    fn elsewhere(&self) -> Option<EndpointId> {
        self.id.get().filter(|_| self.role.get() != Role::Alone)
    }

    /// A connection and its object.
    fn connection(&self, id: ConnId) -> Option<(Rc<Conn>, Zval)> {
        self.connections.borrow().get(&id).map(|(conn, object)| (Rc::clone(conn), object.shallow_clone()))
    }

    /// As [`Core::connection`], its object alone; of one that another worker serves an object that only names it.
    fn named(&self, id: ConnId) -> PhpResult<Option<Zval>> {
        if let Some((_, object)) = self.connection(id) {
            return Ok(Some(object));
        }
        Ok(self.describe(&[id])?.remove(&id))
    }

    /// Objects of connections that this process does not serve. They name them and know no callback.
    fn describe(&self, conns: &[ConnId]) -> PhpResult<IdMap<ConnId, Zval>> {
        let mut objects = IdMap::default();
        if self.role.get() == Role::Alone || conns.is_empty() {
            return Ok(objects);
        }
        for part in conns.chunks(DESCRIBED) {
            let Reply::Described(described) = query(Command::Describe { conns: part.to_vec() })? else { break };
            for (id, info) in described {
                let session = info.session.as_ref().and_then(|session| self.session(session));
                objects.insert(id, Conn::new(id, &info, session).1);
            }
        }
        Ok(objects)
    }

    /// Objects of the connections in a reply.
    fn objects(&self, reply: Reply) -> PhpResult<Zval> {
        let Reply::Conns(ids) = reply else { return Ok(list([])) };
        let known = self.connections.borrow();
        let unknown: Vec<_> = ids.iter().copied().filter(|id| !known.contains_key(id)).collect();
        drop(known);
        let mut named = self.describe(&unknown)?;
        let object = |id| self.connection(id).map(|(_, object)| object).or_else(|| named.remove(&id));
        Ok(list(ids.into_iter().filter_map(object).collect::<Vec<_>>()))
    }

    /// A worker tells the gateway what it is through with, after what it has consumed before.
    fn tell_gateway(&self, command: Command) {
        if self.role.get() == Role::Worker {
            dispatcher().credit();
            // A gateway that has gone does not mind.
            let _ = submit(command);
        }
    }

    /// Calls `on` with as many of `arguments` as it wants; Ok(None): it is not set.
    fn call(&self, on: On, arguments: &mut [Zval]) -> Option<Result<Zval, Pending>> {
        let callback = self.callbacks.get(on as usize)?;
        let wanted = callback.wanted().min(arguments.len());
        Some(callback.call(&mut arguments[..wanted]))
    }

    /// Calls `on` for `conn`, reports what it throws; returns how many callbacks were run.
    fn run(&self, on: On, conn: ConnId, object: &Zval, arguments: &mut [Zval]) -> Result<usize, Pending> {
        match self.call(on, arguments) {
            None => Ok(0),
            Some(Ok(_)) => Ok(1),
            Some(Err(_)) => self.report(on.method(), Some((conn, object))).map(|()| 1),
        }
    }

    /// Deals with the exception that a callback has thrown: onError, else a warning. `conn` is closed.
    fn report(&self, context: &str, conn: Option<(ConnId, &Zval)>) -> Result<(), Pending> {
        // The end of a fiber or of the script is nothing that the connection did.
        let caught = failure::take()?;
        if let Some((conn, _)) = conn {
            close_quietly(conn, close::INTERNAL_ERROR, "");
        }
        self.explain(caught, context, conn)
    }

    /// As [`Core::report`], and leaves the connection as it is.
    fn tell(&self, context: &str, conn: Option<(ConnId, &Zval)>) -> Result<(), Pending> {
        self.explain(failure::take()?, context, conn)
    }

    fn explain(&self, caught: Caught, context: &str, conn: Option<(ConnId, &Zval)>) -> Result<(), Pending> {
        if context == On::Error.method() {
            return caught.warn("WsServer: onError");
        }
        let object = conn.map_or_else(null, |(_, object)| object.shallow_clone());
        match self.call(On::Error, &mut [caught.zval(), object]) {
            Some(Ok(_)) => Ok(()),
            None => caught.warn(&format!("WsServer: {context}")),
            Some(Err(_)) => {
                let second = failure::take()?;
                caught.warn(&format!("WsServer: {context}"))?;
                second.warn("WsServer: onError")
            }
        }
    }

    /// `onHandshake`.
    fn handshake(&self, request: &Arc<RequestHead>) -> Result<(usize, HandshakeAnswer), Pending> {
        const REFUSED: u16 = 403;
        const BROKEN: u16 = 500;
        let Some(result) = self.call(On::Handshake, &mut [request::build(request)]) else {
            return Ok((0, HandshakeAnswer { status: 101, ..HandshakeAnswer::default() }));
        };
        let answer = match result {
            Ok(decision) => answer(&decision, request, REFUSED).map_err(|wrong| {
                wrong.throw();
                Pending
            }),
            Err(pending) => Err(pending),
        };
        if let Ok(answer) = answer {
            return Ok((1, answer));
        }
        self.report("onHandshake", None)?;
        Ok((1, HandshakeAnswer { status: BROKEN, ..HandshakeAnswer::default() }))
    }

    /// Events of one connection, whose turn it is.
    fn serve(&self, conn: &Rc<Conn>, object: &Zval, event: Event) -> Result<usize, Pending> {
        let id = conn.id;
        match event {
            Event::Message { endpoint, data, binary, .. } => self.message(endpoint, conn, object, data, binary, None),
            Event::Authorise { channel, .. } => self.authorise(id, object, channel),
            Event::Edit { server, edit, .. } => self.edit(server, id, object, &edit),
            Event::Close { code, reason, clean, .. } => {
                conn.closed();
                // Kept until the callback has returned, then released if nobody else holds it.
                let _entry = self.connections.borrow_mut().remove(&id);
                let (code, reason, clean) = (int(code.into()), text(&reason), boolean(clean));
                let result = self.run(On::Close, id, object, &mut [object.shallow_clone(), code, reason, clean])?;
                self.tell_gateway(Command::Ended { conn: id });
                Ok(result)
            }
            Event::Release { .. } => {
                // Its object, if somebody holds it, goes on as a name of the connection.
                let _entry = self.connections.borrow_mut().remove(&id);
                self.tell_gateway(Command::Released { conn: id });
                Ok(0)
            }
            Event::Failure { failure, .. } => {
                if !self.callbacks.is_set(On::Error as usize) {
                    return Ok(0);
                }
                let Some(caught) = failure::object(from_failure(&failure)) else { return Ok(0) };
                self.run(On::Error, id, object, &mut [caught.zval(), object.shallow_clone()])
            }
            Event::Drain { .. } => self.run(On::Drain, id, object, &mut [object.shallow_clone()]),
            Event::Join { channel, .. } => {
                self.run(On::Join, id, object, &mut [text(&channel), object.shallow_clone()])
            }
            Event::Leave { channel, .. } => {
                self.run(On::Leave, id, object, &mut [text(&channel), object.shallow_clone()])
            }
            _ => Ok(0),
        }
    }

    fn message(
        &self,
        endpoint: EndpointId,
        conn: &Rc<Conn>,
        object: &Zval,
        data: Bytes,
        binary: bool,
        item: Option<(&Key, DeliveryId)>,
    ) -> Result<usize, Pending> {
        let length = data.len();
        let callback = self.callbacks.get(On::Message as usize);
        let wanted = callback.as_ref().map_or(0, |callback| callback.wanted());
        if let Some((_, id)) = item
            && !dispatcher().begin(endpoint, id)
        {
            // It was settled meanwhile, or comes again on another connection.
            dispatcher().consume(conn.id, length);
            return Ok(0);
        }
        let Some(callback) = callback else {
            dispatcher().consume(conn.id, length);
            if let Some((_, id)) = item {
                dispatcher().handled(endpoint, id);
            }
            return Ok(0);
        };
        let manual = self.config.sessions.manual_ack && item.is_some();
        let delivery = || item.map(|(outbox, id)| Delivery::Item { outbox: outbox.clone(), id });
        let mut arguments = [object.shallow_clone(), Zval::new(), Zval::new(), Zval::new()];
        if wanted > 1 {
            arguments[1] = bytes(&data);
        }
        recycle(data);
        if wanted > 2 {
            arguments[2] = boolean(binary);
        }
        // Else nobody but this code can end it.
        let wants_turn = wanted > 3 || manual;
        let turn = wants_turn.then(|| {
            let make = if manual { Turn::manual } else { Turn::new };
            make(&conn.serial, conn.id, length, delivery().map(|delivery| (endpoint, delivery)))
        });
        if let Some(turn) = turn.as_ref().filter(|_| wanted > 3) {
            let info = item.map(|(_, id)| MessageInfo {
                delivery: delivery(),
                id: None,
                channel: None,
                sequence: id.sequence,
            });
            arguments[3] = message::build(&arguments[1], binary, info.as_ref(), Some(Rc::clone(turn)));
        }
        let result = callback.call(&mut arguments[..wanted.min(4)]);
        if result.is_err() && worker_is_ending() {
            if let Some(turn) = turn {
                turn.forget();
            }
            return Err(Pending);
        }
        let is_open_item = item.is_some() && turn.as_ref().is_none_or(|turn| !turn.is_over());
        let rejection = if result.is_err() { failure::take_rejection() } else { None };
        let refused = rejection.is_some();
        match (&turn, rejection) {
            (Some(turn), Some(rejection)) => turn.end_with(rejection.verdict()),
            (Some(turn), None) if result.is_err() => turn.end_with(Verdict::Failed),
            // Nobody else could ever end it.
            (Some(turn), None) if manual && wanted <= 3 => turn.abandon(),
            (Some(turn), None) => turn.returned(),
            (None, rejection) => {
                dispatcher().consume(conn.id, length);
                match (item, rejection) {
                    (None, _) => {}
                    (Some((_, id)), None) if result.is_ok() => dispatcher().handled(endpoint, id),
                    (Some((outbox, id)), rejection) => {
                        let verdict = rejection.map_or(Verdict::Failed, failure::Rejection::verdict);
                        dispatcher().verdict(endpoint, Delivery::Item { outbox: outbox.clone(), id }, verdict);
                    }
                }
            }
        }
        if result.is_err() && !refused {
            // The engine closes for an item, unless it has failed too often, or was settled before.
            if is_open_item {
                self.tell("onMessage", Some((conn.id, object)))?;
            } else {
                self.report("onMessage", Some((conn.id, object)))?;
            }
        }
        Ok(1)
    }

    /// Items of a client's outbox, whose connection's turn it is. While a callback runs, those behind it are in the queue,
    /// where they wait as anything else does.
    fn items(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        object: &Zval,
        endpoint: EndpointId,
        outbox: &Key,
        mut items: VecDeque<OutboxItem>,
    ) -> Result<usize, Pending> {
        let mut ran = 0;
        let mut next = items.pop_front();
        if !items.is_empty() {
            dispatcher().put_back(Event::Items { endpoint, conn: conn.id, outbox: outbox.clone(), items });
        }
        while let Some(OutboxItem { id, data, binary, .. }) = next.take() {
            let result = self.message(endpoint, conn, object, data, binary, Some((outbox, id)));
            conn.serial.end();
            ran += result?;
            dispatcher().settle(Rc::clone(self) as Rc<dyn Endpoint>)?;
            if conn.is_open() && conn.serial.try_enter() {
                next = dispatcher().next_item(conn.id);
                if next.is_none() {
                    conn.serial.end();
                }
            }
        }
        Ok(ran)
    }

    /// `onSubscribe`.
    fn authorise(&self, conn: ConnId, object: &Zval, channel: Arc<str>) -> Result<usize, Pending> {
        let result = self.call(On::Subscribe, &mut [object.shallow_clone(), text(&channel)]);
        if matches!(result, Some(Err(_))) && worker_is_ending() {
            return Err(Pending);
        }
        let allowed = match &result {
            Some(Ok(decision)) => decision.dereference().bool(),
            None | Some(Err(_)) => Some(false),
        };
        let answer = Command::AnswerAuthorisation { conn, channel, allowed: allowed == Some(true) };
        let outcome = match result {
            Some(Err(_)) if failure::take_rejection().is_none() => self.report("onSubscribe", Some((conn, object))),
            Some(Ok(decision)) if allowed.is_none() => {
                let kind = crate::options::kind(decision.dereference());
                type_error(format!("onSubscribe must return bool, {kind} returned")).throw();
                self.report("onSubscribe", Some((conn, object)))
            }
            _ => Ok(()),
        };
        // A connection that has gone meanwhile is no error.
        let _ = submit(answer);
        outcome.map(|()| 1)
    }

    /// The callback of a document's option `write`.
    fn edit(&self, server: EndpointId, conn: ConnId, object: &Zval, edit: &EditInfo) -> Result<usize, Pending> {
        let Delivery::Item { id, .. } = edit.delivery else { return Ok(0) };
        let begun = dispatcher().begin(server, id);
        dispatcher().consume(conn, edit.data.len());
        if !begun {
            // It comes again on another connection.
            return Ok(0);
        }
        let document = self.documents.borrow().get(&*edit.channel).map(|(document, _)| Rc::clone(document));
        let asked = document.and_then(|document| {
            let callback = document.write_callback()?;
            Some(document.edit_arguments(object, edit).map_err(Pending::from).and_then(|mut arguments| {
                let wanted = callback.wanted().min(arguments.len());
                callback.call(&mut arguments[..wanted])
            }))
        });
        if matches!(asked, Some(Err(_))) && worker_is_ending() {
            return Err(Pending);
        }
        let delivery = edit.delivery.clone();
        let answer =
            |allowed| Command::AnswerEdit { server, delivery: delivery.clone(), data: edit.data.clone(), allowed };
        let context = "the callback of a document's option 'write'";
        match asked {
            // Nobody decides any more.
            None => {
                let _ = submit(answer(false));
                Ok(0)
            }
            Some(Ok(decision)) if decision.dereference().bool().is_some() => {
                // A connection that has gone meanwhile is no error.
                let _ = submit(answer(decision.dereference().bool() == Some(true)));
                Ok(1)
            }
            Some(Ok(decision)) => {
                dispatcher().verdict(server, edit.delivery.clone(), Verdict::Failed);
                let kind = crate::options::kind(decision.dereference());
                type_error(format!("{context} must return bool, {kind} returned")).throw();
                self.tell(context, Some((conn, object))).map(|()| 1)
            }
            Some(Err(_)) => {
                if let Some(rejection) = failure::take_rejection() {
                    dispatcher().verdict(server, edit.delivery.clone(), rejection.verdict());
                    return Ok(1);
                }
                dispatcher().verdict(server, edit.delivery.clone(), Verdict::Failed);
                self.tell(context, Some((conn, object))).map(|()| 1)
            }
        }
    }

    /// A document's `onChange`.
    fn document_changed(&self, channel: &str) -> Result<usize, Pending> {
        let document = self.documents.borrow().get(channel).map(|(document, _)| Rc::clone(document));
        let Some(document) = document else { return Ok(0) };
        let mut ran = 0;
        for change in document.take_changes() {
            let Some(callback) = document.change_callback() else { break };
            let by = change.by.and_then(|conn| self.named(conn).ok().flatten()).unwrap_or_else(null);
            let mut arguments = document::change_arguments(&change, by);
            let wanted = callback.wanted().min(arguments.len());
            ran += 1;
            if callback.call(&mut arguments[..wanted]).is_err() {
                self.report("WsDocument::onChange", None)?;
            }
        }
        Ok(ran)
    }

    /// `onAuth`.
    fn authenticate(&self, credentials: &Credentials) -> Result<(usize, Authentication), Pending> {
        let session = credentials.session.as_ref().and_then(|session| self.living_session(session));
        let token = credentials.token.as_ref().map_or_else(null, |token| text(&token.0));
        let request = request::build(&credentials.request);
        let Some(result) = self.call(On::Auth, &mut [request, token, session.unwrap_or_else(null)]) else {
            return Ok((0, Authentication::Accepted { user: None, claims: Bytes::new() }));
        };
        let answer = match result {
            Ok(decision) => claims(&decision).map_err(Pending::from),
            Err(pending) => Err(pending),
        };
        if let Ok(answer) = answer {
            return Ok((1, answer));
        }
        if let Some(rejection) = failure::take_rejection() {
            let code = u16::try_from(rejection.code).ok().filter(|code| (4000..=4999).contains(code));
            return Ok((1, Authentication::Refused { code, reason: rejection.reason }));
        }
        let mut caught = failure::take()?;
        if let Some(token) = &credentials.token {
            caught.hide(token.0.as_bytes());
        }
        self.explain(caught, "onAuth", None)?;
        let reason = close::default_reason(close::INTERNAL_ERROR).to_owned();
        Ok((1, Authentication::Refused { code: Some(close::INTERNAL_ERROR), reason }))
    }

    /// `onSnapshot`.
    fn snapshot(&self, channel: &str) -> Result<(usize, Option<(Bytes, bool)>), Pending> {
        let Some(result) = self.call(On::Snapshot, &mut [text(channel)]) else { return Ok((0, None)) };
        let state = match result {
            Ok(state) => match state.dereference().zend_str() {
                Some(state) => {
                    let binary = simdutf8::basic::from_utf8(state.as_bytes()).is_err();
                    return Ok((1, Some((Bytes::copy_from_slice(state.as_bytes()), binary))));
                }
                None => crate::options::kind(state.dereference()),
            },
            Err(_) => return self.report("onSnapshot", None).map(|()| (1, None)),
        };
        type_error(format!("onSnapshot must return a string, {state} returned")).throw();
        self.report("onSnapshot", None).map(|()| (1, None))
    }

    /// `after()`, `every()`.
    fn timer(self: &Rc<Self>, seconds: f64, repeat: bool, callback: Callback) -> PhpResult<i64> {
        let timer = Timers::add(self, seconds, repeat, callback.0)?;
        // Workers run it.
        if self.role.get() == Role::Gateway {
            self.timers.cancel(timer);
        }
        Ok(timer)
    }

    /// The object of a session, unless it has ended.
    fn living_session(&self, session: &str) -> Option<Zval> {
        let server = self.id.get()?;
        match query(Command::Session { server, session: session.into() }) {
            Ok(Reply::Session(Some(info))) => self.session(&info).map(|(_, object)| object),
            _ => None,
        }
    }
}

impl Endpoint for Core {
    fn deliver(self: Rc<Self>, event: Event) -> Result<usize, Pending> {
        match event {
            Event::Handshake { ticket, request, .. } => {
                let (ran, answer) = self.handshake(&request)?;
                // A peer that has gone meanwhile is no error.
                let _ = submit(Command::AnswerHandshake { ticket, answer });
                Ok(ran)
            }
            Event::Open { conn: id, info, .. } => {
                let session = info.session.as_ref().and_then(|session| self.session(session));
                let (conn, object) = Conn::new(id, &info, session);
                self.connections.borrow_mut().insert(id, (Rc::clone(&conn), object.shallow_clone()));
                let Some(callback) = self.callbacks.get(On::Open as usize) else {
                    self.tell_gateway(Command::Opened { conn: id });
                    return Ok(0);
                };
                conn.serial.enter();
                let wanted = callback.wanted().min(2);
                let mut arguments = [object.shallow_clone(), Zval::new()];
                if wanted > 1
                    && let Some(request) = &info.request
                {
                    arguments[1] = request::build(request);
                }
                let result = callback.call(&mut arguments[..wanted]);
                conn.serial.end();
                if result.is_err() {
                    self.report("onOpen", Some((id, &object)))?;
                }
                self.tell_gateway(Command::Opened { conn: id });
                Ok(1)
            }
            Event::Message { conn: id, .. }
            | Event::Items { conn: id, .. }
            | Event::Close { conn: id, .. }
            | Event::Drain { conn: id, .. }
            | Event::Join { conn: id, .. }
            | Event::Leave { conn: id, .. }
            | Event::Authorise { conn: id, .. }
            | Event::Edit { conn: id, .. }
            | Event::Release { conn: id, .. }
            | Event::Failure { conn: Some(id), .. } => {
                let Some((conn, object)) = self.connection(id) else {
                    match &event {
                        // Nothing of it is left to deal with.
                        Event::Release { .. } => self.tell_gateway(Command::Released { conn: id }),
                        Event::Message { data, .. } => dispatcher().consume(id, data.len()),
                        Event::Items { items, .. } => {
                            for item in items {
                                dispatcher().consume(id, item.data.len());
                            }
                        }
                        Event::Edit { edit, .. } => dispatcher().consume(id, edit.data.len()),
                        _ => {}
                    }
                    return Ok(0);
                };
                let event = match conn.serial.begin(event) {
                    None => return Ok(0),
                    Some(Event::Items { endpoint, outbox, items, .. }) => {
                        return self.items(&conn, &object, endpoint, &outbox, items);
                    }
                    Some(event) => event,
                };
                let result = self.serve(&conn, &object, event);
                conn.serial.end();
                result
            }
            Event::Failure { conn: None, failure, .. } => {
                let Some(caught) = failure::object(from_failure(&failure)) else { return Ok(0) };
                if self.role.get() == Role::Gateway {
                    return caught.warn("WsServer").map(|()| 0);
                }
                match self.call(On::Error, &mut [caught.zval(), null()]) {
                    None => caught.warn("WsServer").map(|()| 0),
                    Some(Ok(_)) => Ok(1),
                    Some(Err(_)) => self.report("onError", None).map(|()| 1),
                }
            }
            Event::Stopped { endpoint } => {
                let mut waiting = if self.id.get() == Some(endpoint) { self.release() } else { VecDeque::new() };
                if !waiting.is_empty() {
                    waiting.push_back(Event::Stopped { endpoint });
                    dispatcher().requeue(waiting);
                    return Ok(0);
                }
                dispatcher().unregister(endpoint);
                if self.id.get() == Some(endpoint) {
                    self.stopped();
                }
                Ok(0)
            }
            Event::Log { record, .. } => {
                match &self.logger {
                    Some(logger) => {
                        if logger.log(&record).is_err() {
                            self.report("logger", None)?;
                        }
                    }
                    None => logger::to_error_log(&record),
                }
                Ok(0)
            }
            Event::Authenticate { ticket, credentials, .. } => {
                let (ran, answer) = self.authenticate(&credentials)?;
                let _ = submit(Command::AnswerAuthentication { ticket, answer });
                // The object of a session shows what may be claimed now.
                if let Some(session) = &credentials.session {
                    self.living_session(session);
                }
                Ok(ran)
            }
            Event::SnapshotWanted { ticket, channel, .. } => {
                let (ran, state) = self.snapshot(&channel)?;
                let _ = submit(Command::AnswerSnapshot { ticket, state });
                Ok(ran)
            }
            Event::DocumentChanged { channel, .. } => self.document_changed(&channel),
            Event::SessionEnded { session, told, .. } => {
                let known = self.sessions.borrow_mut().remove(&session.id);
                if !told {
                    if let Some((shared, mut object)) = known {
                        session::refresh(&mut object, &session);
                        shared.end(session.data);
                    }
                    return Ok(0);
                }
                if known.is_none() && !self.callbacks.is_set(On::SessionEnd as usize) {
                    return Ok(0);
                }
                let Some(server) = self.id.get() else { return Ok(0) };
                let (shared, mut object) = known.unwrap_or_else(|| session::Shared::new(server, &session));
                session::refresh(&mut object, &session);
                shared.end(session.data);
                match self.call(On::SessionEnd, &mut [object]) {
                    None => Ok(0),
                    Some(Ok(_)) => Ok(1),
                    Some(Err(_)) => self.report(On::SessionEnd.method(), None).map(|()| 1),
                }
            }
            Event::Transition { .. }
            | Event::HeadersWanted { .. }
            | Event::TokenWanted { .. }
            | Event::Gap { .. }
            | Event::Snapshot { .. }
            | Event::Rejected { .. }
            | Event::Overflow { .. }
            | Event::GaveUp { .. }
            | Event::Room { .. }
            | Event::Nudge
            | Event::Flushed { .. } => Ok(0),
        }
    }

    fn failed(self: Rc<Self>, context: &str, conn: Option<ConnId>) -> Result<(), Pending> {
        let entry = conn.and_then(|conn| self.connection(conn));
        self.report(context, entry.as_ref().map(|(conn, object)| (conn.id, object)))
    }

    fn timers(&self) -> &Timers {
        &self.timers
    }

    fn farewell(&self, id: EndpointId) -> Option<Command> {
        (self.role.get() != Role::Worker).then_some(Command::StopServer { server: id, drain: Duration::ZERO })
    }

    fn forgotten(&self) {
        // In a forked child the object keeps saying whose it is.
        let connections = std::mem::take(&mut *self.connections.borrow_mut());
        let sessions = std::mem::take(&mut *self.sessions.borrow_mut());
        let documents = std::mem::take(&mut *self.documents.borrow_mut());
        if self.generation.get() == generation() {
            self.life.set(Life::Stopped);
            self.id.set(None);
            for (conn, _) in connections.values() {
                conn.closed();
            }
        } else {
            self.timers.clear();
        }
        drop((connections, sessions, documents));
    }
}

/// What an `onAuth` callback has decided.
fn claims(decision: &Zval) -> PhpResult<Authentication> {
    let decision = decision.dereference();
    if decision.bool() == Some(false) {
        return Ok(Authentication::Refused { code: None, reason: String::new() });
    }
    let Some(claims) = decision.array() else {
        let kind = crate::options::kind(decision);
        return Err(type_error(format!("onAuth must return an array or false, {kind} returned")));
    };
    let name = ["user", "sub"].into_iter().find_map(|key| claims.get(key).filter(|value| !value.is_null()));
    let user: Option<Arc<str>> = match name.map(Zval::dereference) {
        None => None,
        Some(name) => match (name.zend_str().map(|name| std::str::from_utf8(name.as_bytes())), name.long()) {
            (Some(Ok(name)), _) if !name.is_empty() => Some(name.into()),
            (None, Some(number)) => Some(number.to_string().into()),
            _ => {
                return Err(type_error("onAuth: 'user' (or 'sub') must be a non-empty string of UTF-8 or an int"));
            }
        },
    };
    Ok(Authentication::Accepted { user, claims: session::encode(decision, "what onAuth returned")? })
}

/// What an `onHandshake` callback has decided.
fn answer(decision: &Zval, request: &RequestHead, refused: u16) -> PhpResult<HandshakeAnswer> {
    let decision = decision.dereference();
    let mut answer = HandshakeAnswer { status: 101, ..HandshakeAnswer::default() };
    if let Some(accepted) = decision.bool() {
        answer.status = if accepted { 101 } else { refused };
        return Ok(answer);
    }
    if let Some(status) = decision.long() {
        answer.status = status_code(status)?;
        return Ok(answer);
    }
    let Some(array) = decision.array() else {
        return Err(type_error(format!(
            "onHandshake must return bool, int (an HTTP status) or array, {} returned",
            crate::options::kind(decision)
        )));
    };
    let mut entries = array.iter();
    while let Some((key, value)) = entries.next_zval() {
        let value = value.dereference();
        let wrong = |expected: &str| {
            Err(type_error(format!(
                "onHandshake must return '{}' as {expected}, {} returned",
                key.zend_str().map_or_else(String::new, |key| String::from_utf8_lossy(key.as_bytes()).into_owned()),
                crate::options::kind(value)
            )))
        };
        match key.zend_str().map(ZendStr::as_bytes) {
            Some(b"status") => match value.long() {
                Some(status) => answer.status = status_code(status)?,
                None => return wrong("int"),
            },
            Some(b"headers") => {
                answer.headers = crate::options::headers(value, "onHandshake: 'headers'")?;
            }
            Some(b"body") => match value.zend_str() {
                Some(body) => answer.body = Bytes::copy_from_slice(body.as_bytes()),
                None => return wrong("string"),
            },
            Some(b"protocol") => match value.zend_str().map(|protocol| String::from_utf8_lossy(protocol.as_bytes())) {
                Some(protocol) => {
                    let offered = request::protocols(request);
                    if !offered.iter().any(|offer| *offer == protocol) {
                        return Err(crate::exceptions::value_error(format!(
                            "onHandshake chose the subprotocol '{protocol}', but the client offers {}",
                            if offered.is_empty() { "none".to_owned() } else { offered.join(", ") }
                        )));
                    }
                    answer.protocol = Some(protocol.into_owned());
                }
                None => return wrong("string"),
            },
            // True is the server's own choice: there may be nothing to agree on.
            Some(b"compression") => match value.bool() {
                Some(compression) => answer.uncompressed = !compression,
                None => return wrong("bool"),
            },
            _ => {
                let name = key.zend_str().map_or_else(
                    || key.long().unwrap_or_default().to_string(),
                    |key| String::from_utf8_lossy(key.as_bytes()).into_owned(),
                );
                return Err(crate::exceptions::value_error(format!(
                    "onHandshake returned the unknown key '{name}'; known are status, headers, body, protocol, compression"
                )));
            }
        }
    }
    Ok(answer)
}

fn status_code(status: i64) -> PhpResult<u16> {
    match status {
        101 | 200..=599 => Ok(status as u16),
        _ => Err(crate::exceptions::value_error(format!(
            "onHandshake returned the status {status}; allowed are 101 (accept) and 200-599 (refuse)"
        ))),
    }
}

/// A WebSocket server. Sockets, heartbeats and buffers live on threads of their own; PHP runs the
/// callbacks, in run(), poll() or tick().
///
/// The object owns its sockets: when its last reference goes, they are closed with 1001.
#[php_class]
#[php(flags = ClassFlags::Final.union(ClassFlags::NoDynamicProperties))]
#[php(implements(ce = ce::countable, stub = "\\Countable"))]
#[derive(Debug)]
pub(crate) struct WsServer {
    core: Rc<Core>,
}

impl Drop for WsServer {
    fn drop(&mut self) {
        self.core.destroyed();
    }
}

impl gc::Visit for WsServer {
    fn visit(&self, see: &mut dyn FnMut(&Zval)) {
        self.core.callbacks.visit(see);
        self.core.timers.visit(see);
        if let Some(logger) = &self.core.logger {
            see(logger.zval());
        }
        if let Ok(connections) = self.core.connections.try_borrow() {
            for (_, object) in connections.values() {
                see(object);
            }
        }
        if let Ok(sessions) = self.core.sessions.try_borrow() {
            for (_, object) in sessions.values() {
                see(object);
            }
        }
        if let Ok(documents) = self.core.documents.try_borrow() {
            for (document, object) in documents.values() {
                document.visit(see);
                see(object);
            }
        }
    }
}

impl WsServer {
    fn set(&self, on: On, callback: Callback) -> PhpResult<()> {
        self.core.own()?;
        let before_start = matches!(on, On::Handshake | On::Join | On::Leave | On::Auth | On::Subscribe | On::Snapshot);
        if self.core.life.get() == Life::Running && before_start {
            let set = match on {
                On::Handshake | On::Auth | On::Subscribe | On::Snapshot => self.core.callbacks.is_set(on as usize),
                _ => self.core.callbacks.is_set(On::Join as usize) || self.core.callbacks.is_set(On::Leave as usize),
            };
            if !set {
                return Err(exception(format!("WsServer::{}() must be called before start()", on.method())));
            }
        }
        self.core.callbacks.set(on as usize, callback, &format!("WsServer::{}()", on.method()), on.offered())
    }

    fn count_of(&self, method: &str, command: impl FnOnce(EndpointId) -> PhpResult<Command>) -> PhpResult<i64> {
        let Some(id) = self.core.running(method)? else { return Ok(0) };
        // SAFETY: a look at the frame of the running method and of its caller.
        if supervision::is_worker() && unsafe { shim::lifeline_result_is_unused() } {
            lifecycle::order(command(id)?)?;
            return Ok(0);
        }
        match submit(command(id)?)? {
            Reply::Count(count) => Ok(i64::try_from(count).unwrap_or(i64::MAX)),
            _ => Ok(0),
        }
    }
}

/// The `$except` of broadcast() and publish().
fn except(number: u32, list: PhpArray) -> PhpResult<Vec<ConnId>> {
    let mut ids = Vec::new();
    for value in list.0.into_iter().flat_map(ZendHashTable::values) {
        match id_of(value) {
            Some(id) => ids.push(id),
            None => return Err(argument_type_error(number, "must contain WsConnection objects or their ids only")),
        }
    }
    Ok(ids)
}

/// A time to wait in seconds, 0 or more.
fn seconds(number: u32, value: PhpFloat) -> PhpResult<Duration> {
    Duration::try_from_secs_f64(value.0)
        .map(|time| time.min(Duration::from_secs(100 * 365 * 86_400)))
        .map_err(|_| argument_value_error(number, "must be 0 or more seconds"))
}

#[php_impl]
impl WsServer {
    /// Checks its arguments; nothing is opened yet.
    pub fn __construct(listen: Option<&Zval>, options: Option<&Zval>) -> PhpResult<Self> {
        refuse_second_construction()?;
        // SAFETY: a look at the server API's name.
        if unsafe { shim::lifeline_sapi_serves_requests() } {
            // SAFETY: static text of the SAPI.
            let sapi = unsafe { std::ffi::CStr::from_ptr(shim::lifeline_sapi_name()) };
            return Err(error(format!(
                "a WsServer lives longer than a request: run it with the command line PHP, not under {}",
                sapi.to_string_lossy()
            )));
        }
        let default_listen = text("ws://127.0.0.1:8080");
        let no_options = list([]);
        let parsed = crate::options::server(listen.unwrap_or(&default_listen), options.unwrap_or(&no_options))?;
        let core = Rc::new_cyclic(|this| Core {
            this: this.clone(),
            config: parsed.config,
            logger: parsed.logger,
            callbacks: Callbacks::default(),
            timers: Timers::default(),
            life: Cell::new(Life::New),
            role: Cell::new(Role::Alone),
            id: Cell::new(None),
            generation: Cell::new(generation()),
            addresses: RefCell::default(),
            connections: RefCell::default(),
            sessions: RefCell::default(),
            documents: RefCell::default(),
        });
        Ok(Self { core })
    }

    /// Sets a callback by the event's name: `message` for onMessage().
    pub fn on(&self, event: PhpBytes, callback: Callback) -> PhpResult<This> {
        let Some(on) = On::ALL.into_iter().find(|on| on.event().as_bytes() == event.0) else {
            let known: Vec<_> = On::ALL.into_iter().map(|on| format!("'{}'", on.event())).collect();
            return Err(argument_value_error(
                1,
                &format!("must be one of {}, '{}' given", known.join(", "), event.text()),
            ));
        };
        self.set(on, callback)?;
        Ok(This)
    }

    /// fn (WsRequest $request): bool|int|array. Decides on each handshake, before start().
    pub fn on_handshake(&self, callback: Callback) -> PhpResult<This> {
        self.set(On::Handshake, callback)?;
        Ok(This)
    }

    /// fn (WsConnection $connection, WsRequest $request)
    pub fn on_open(&self, callback: Callback) -> PhpResult<This> {
        self.set(On::Open, callback)?;
        Ok(This)
    }

    /// fn (WsConnection $connection, string $data, bool $binary, WsMessage $message)
    pub fn on_message(&self, callback: Callback) -> PhpResult<This> {
        self.set(On::Message, callback)?;
        Ok(This)
    }

    /// fn (WsConnection $connection, int $code, string $reason, bool $clean). Once for each opened.
    pub fn on_close(&self, callback: Callback) -> PhpResult<This> {
        self.set(On::Close, callback)?;
        Ok(This)
    }

    /// fn (Throwable $error, ?WsConnection $connection)
    pub fn on_error(&self, callback: Callback) -> PhpResult<This> {
        self.set(On::Error, callback)?;
        Ok(This)
    }

    /// fn (WsConnection $connection). Its send buffer has fallen below the low mark.
    pub fn on_drain(&self, callback: Callback) -> PhpResult<This> {
        self.set(On::Drain, callback)?;
        Ok(This)
    }

    /// fn (string $channel, WsConnection $connection), before start().
    pub fn on_join(&self, callback: Callback) -> PhpResult<This> {
        self.set(On::Join, callback)?;
        Ok(This)
    }

    /// fn (string $channel, WsConnection $connection), before start().
    pub fn on_leave(&self, callback: Callback) -> PhpResult<This> {
        self.set(On::Leave, callback)?;
        Ok(This)
    }

    /// fn (WsRequest $request, ?string $token, ?WsSession $session): array|false, before start(). What the
    /// client may claim, or that it may not come in; 'user' or else 'sub' names the session's owner.
    pub fn on_auth(&self, callback: Callback) -> PhpResult<This> {
        self.set(On::Auth, callback)?;
        Ok(This)
    }

    /// fn (WsConnection $connection, string $channel): bool, before start(). Without it clients may not subscribe.
    pub fn on_subscribe(&self, callback: Callback) -> PhpResult<This> {
        self.set(On::Subscribe, callback)?;
        Ok(This)
    }

    /// fn (string $channel): string, before start(). The state, for those who lost their place in the channel.
    pub fn on_snapshot(&self, callback: Callback) -> PhpResult<This> {
        self.set(On::Snapshot, callback)?;
        Ok(This)
    }

    /// fn (WsSession $session)
    pub fn on_session_end(&self, callback: Callback) -> PhpResult<This> {
        self.set(On::SessionEnd, callback)?;
        Ok(This)
    }

    /// Binds and starts the threads. Throws WsConnectException when an address cannot be bound.
    pub fn start(&self) -> PhpResult<()> {
        self.core.start()
    }

    /// Starts, and runs callbacks until this server has stopped.
    pub fn run(&self) -> PhpResult<()> {
        let core = Rc::clone(&self.core);
        core.start()?;
        dispatcher().serve(None, &|_| core.life.get() == Life::Stopped)?;
        Ok(())
    }

    /// Runs the callbacks that are due, waiting up to $timeout seconds for the first; returns how many.
    #[php(defaults(timeout = 0.0))]
    pub fn poll(&self, timeout: PhpFloat) -> PhpResult<i64> {
        let core = Rc::clone(&self.core);
        let timeout = seconds(1, timeout)?;
        core.running("poll")?;
        let ran =
            dispatcher().serve(Some(Instant::now() + timeout), &|ran| ran > 0 || core.life.get() == Life::Stopped)?;
        Ok(i64::try_from(ran).unwrap_or(i64::MAX))
    }

    /// `poll(0)` that returns nothing and takes whatever an event loop passes: `$loop->onReadable($s->stream(), $s->tick(...))`.
    pub fn tick(&self, ignored: &[&Zval]) -> PhpResult<()> {
        let _ = ignored;
        self.core.running("tick")?;
        dispatcher().serve(Some(Instant::now()), &|_| true)?;
        Ok(())
    }

    /// A stream that is readable when there are callbacks to run, for stream_select() and event loops.
    pub fn stream(&self) -> PhpResult<MixedZval> {
        self.core.own()?;
        lifecycle::start(self.core.config.io_threads)?;
        Ok(MixedZval(dispatcher().stream()?))
    }

    /// Takes no new connections, closes all with 1001 within $drain seconds, drops the rest.
    #[php(defaults(drain = 5.0))]
    pub fn stop(&self, drain: PhpFloat) -> PhpResult<()> {
        let drain = seconds(1, drain)?;
        self.core.own()?;
        if let Some(server) = self.core.id.get() {
            submit(Command::StopServer { server, drain })?;
        }
        Ok(())
    }

    /// Starts new workers, with the code as it is now, which take over from those that there are.
    pub fn reload(&self) -> PhpResult<()> {
        if self.core.config.workers.count == 0 {
            return Err(exception("WsServer::reload() needs the option 'workers': this server has none"));
        }
        if let Some(server) = self.core.running("reload")? {
            submit(Command::Reload { server })?;
        }
        Ok(())
    }

    /// The bound address as a URL (the first, where there are several listeners); port 0 is resolved.
    pub fn address(&self) -> PhpResult<String> {
        self.core.running("address")?;
        match self.core.addresses.borrow().first() {
            Some(address) => Ok(address.to_string()),
            None => Err(exception("the server has no address")),
        }
    }

    /// Sends to each open connection; returns how many.
    #[php(defaults(binary = false, except = PhpArray(None)))]
    pub fn broadcast(&self, data: PhpBytes, binary: PhpBool, except: PhpArray) -> PhpResult<i64> {
        self.count_of("broadcast", |server| {
            let data = payload(1, data, binary)?;
            Ok(Command::Broadcast { server, data, binary: binary.0, except: self::except(3, except)? })
        })
    }

    /// Sends to each member of the channel; returns how many.
    #[php(defaults(binary = false, except = PhpArray(None)))]
    pub fn publish(&self, channel: PhpBytes, data: PhpBytes, binary: PhpBool, except: PhpArray) -> PhpResult<i64> {
        self.count_of("publish", |server| {
            let channel = channel_name(1, channel)?.into();
            let data = payload(2, data, binary)?;
            Ok(Command::Publish { server, channel, data, binary: binary.0, except: self::except(4, except)? })
        })
    }

    /// Sends to each connection that is bound to the user; returns how many.
    #[php(defaults(binary = false))]
    pub fn send_to_user(&self, user: PhpBytes, data: PhpBytes, binary: PhpBool) -> PhpResult<i64> {
        self.count_of("sendToUser", |server| {
            let user = utf8(1, user)?.into();
            Ok(Command::SendToUser { server, user, data: payload(2, data, binary)?, binary: binary.0 })
        })
    }

    /// Closes each connection that is bound to the user; returns how many.
    #[php(defaults(code = 4503, reason = PhpBytes::EMPTY))]
    pub fn disconnect_user(&self, user: PhpBytes, code: PhpInt, reason: PhpBytes) -> PhpResult<i64> {
        self.count_of("disconnectUser", |server| {
            let user = utf8(1, user)?.into();
            Ok(Command::DisconnectUser { server, user, code: close_code(2, code)?, reason: close_reason(3, reason)? })
        })
    }

    /// The connections that are bound to the user.
    pub fn connections_of(&self, user: PhpBytes) -> PhpResult<ArrayZval> {
        let Some(server) = self.core.running("connectionsOf")? else { return Ok(ArrayZval(list([]))) };
        let user = utf8(1, user)?.into();
        Ok(ArrayZval(self.core.objects(query(Command::ConnectionsOf { server, user })?)?))
    }

    /// Whether a connection is bound to the user.
    pub fn is_online(&self, user: PhpBytes) -> PhpResult<bool> {
        let Some(server) = self.core.running("isOnline")? else { return Ok(false) };
        let user = utf8(1, user)?.into();
        Ok(matches!(query(Command::ConnectionsOf { server, user })?, Reply::Conns(ids) if !ids.is_empty()))
    }

    /// The members of the channel.
    pub fn members(&self, channel: PhpBytes) -> PhpResult<ArrayZval> {
        let Some(server) = self.core.running("members")? else { return Ok(ArrayZval(list([]))) };
        let channel = channel_name(1, channel)?.into();
        Ok(ArrayZval(self.core.objects(query(Command::Members { server, channel })?)?))
    }

    /// The channels that have members.
    pub fn channels(&self) -> PhpResult<ArrayZval> {
        let Some(server) = self.core.running("channels")? else { return Ok(ArrayZval(list([]))) };
        match query(Command::Channels { server })? {
            Reply::Names(names) => Ok(ArrayZval(crate::convert::names(&names))),
            _ => Ok(ArrayZval(list([]))),
        }
    }

    /// All connections that onOpen was called for, in this process or another worker.
    pub fn connections(&self) -> PhpResult<IterableZval> {
        self.core.own()?;
        if let Some(server) = self.core.elsewhere() {
            return Ok(IterableZval(self.core.objects(query(Command::Connections { server })?)?));
        }
        let mut ids: Vec<_> = self.core.connections.borrow().keys().copied().collect();
        ids.sort_unstable();
        Ok(IterableZval(list(ids.into_iter().filter_map(|id| self.core.connection(id)).map(|(_, object)| object))))
    }

    /// The connection of that id; null when it has ended.
    pub fn connection(&self, id: PhpInt) -> PhpResult<ConnectionZval> {
        self.core.own()?;
        let connection = self.core.named(ConnId(id.0.cast_unsigned()))?;
        Ok(ConnectionZval(connection.unwrap_or_else(null)))
    }

    /// The document of that channel: opened where there is none. $options: write (bool, or callable that decides on
    /// each edit of a client), keys, bytes.
    #[php(defaults(options = PhpArray(None)))]
    pub fn document(&self, channel: PhpBytes, options: PhpArray) -> PhpResult<DocumentZval> {
        let Some(server) = self.core.running("document")? else {
            return Err(exception("WsServer::document() needs a server that has not stopped"));
        };
        let channel = channel_name(1, channel)?;
        let longest = self.core.config.limits.max_message;
        let known = self
            .core
            .documents
            .borrow()
            .get(channel)
            .map(|(shared, object)| (Rc::clone(shared), object.shallow_clone()));
        if let Some((shared, object)) = known {
            if options.0.is_some_and(|options| !options.is_empty()) {
                shared.configure(options.0, longest)?;
            }
            return Ok(DocumentZval(object));
        }
        let (shared, object) = document::Shared::open(server, channel, options.0, longest)?;
        self.core.documents.borrow_mut().insert(channel.into(), (shared, object.shallow_clone()));
        Ok(DocumentZval(object))
    }

    /// The session of that id; null when it has ended.
    pub fn session(&self, id: PhpBytes) -> PhpResult<SessionZval> {
        self.core.running("session")?;
        let id = utf8(1, id)?;
        Ok(SessionZval(self.core.living_session(id).unwrap_or_else(null)))
    }

    /// Number of connections.
    pub fn count(&self) -> PhpResult<i64> {
        self.core.own()?;
        if let Some(server) = self.core.elsewhere() {
            let Reply::Count(count) = query(Command::CountConnections { server })? else { return Ok(0) };
            return Ok(i64::try_from(count).unwrap_or(i64::MAX));
        }
        Ok(i64::try_from(self.core.connections.borrow().len()).unwrap_or(i64::MAX))
    }

    /// Calls $f once after $s seconds; returns the timer's number.
    pub fn after(&self, s: PhpFloat, f: Callback) -> PhpResult<i64> {
        self.core.own()?;
        self.core.timer(s.0, false, f)
    }

    /// Calls $f every $s seconds; returns the timer's number.
    pub fn every(&self, s: PhpFloat, f: Callback) -> PhpResult<i64> {
        self.core.own()?;
        self.core.timer(s.0, true, f)
    }

    /// Ends a timer.
    pub fn cancel(&self, timer: PhpInt) -> PhpResult<()> {
        self.core.own()?;
        self.core.timers.cancel(timer.0);
        Ok(())
    }

    /// The bound addresses, counters of the server and of the process.
    pub fn stats(&self) -> PhpResult<ArrayZval> {
        let Some(endpoint) = self.core.running("stats")? else { return Ok(ArrayZval(list([]))) };
        match query(Command::EndpointStats { endpoint })? {
            Reply::Stats(stats) => {
                let mut stats = crate::convert::stats(&stats);
                let addresses = self.core.addresses.borrow().clone();
                if let Some(table) = stats.array_mut() {
                    // Fails only for keys with a NUL byte.
                    let _ = table.insert("addresses", crate::convert::names(&addresses));
                }
                Ok(ArrayZval(stats))
            }
            _ => Ok(ArrayZval(list([]))),
        }
    }
}

/// `$server->__construct()` on a living object would replace it under its connections.
fn refuse_second_construction() -> PhpResult<()> {
    // SAFETY: the running method's object, if any; alive for the call.
    let constructed =
        unsafe { shim::lifeline_this().as_ref() }.and_then(ZendClassObject::<WsServer>::from_zend_obj).is_some();
    if constructed { Err(error("a WsServer cannot be constructed twice")) } else { Ok(()) }
}

/// Writing `$server->onMessage = …` looks right in other libraries; it must not fail in silence.
unsafe extern "C" fn write_property(
    object: *mut ZendObject,
    member: *mut ZendStr,
    value: *mut Zval,
    cache_slot: *mut *mut std::ffi::c_void,
) -> *mut Zval {
    // SAFETY: Zend passes a live name.
    let name = unsafe { (*member).as_bytes() };
    if let Some(on) = On::ALL.into_iter().find(|on| on.method().as_bytes() == name) {
        let method = on.method();
        let wrong: PhpException =
            error(format!("Cannot assign WsServer::${method}: set the callback with $server->{method}(callable)"));
        wrong.throw();
        return value;
    }
    // SAFETY: the arguments are passed on as they came.
    unsafe { ext_php_rs::ffi::zend_std_write_property(object, member, value, cache_slot) }
}

static INTERFACE: classes::Entry = classes::Entry::new();

/// Registers class and interface; only in MINIT.
pub(crate) fn register() -> ext_php_rs::error::Result<()> {
    let interface = classes::register_interface::<WsServer>("WsServerInterface", &INTERFACE)?;
    let class = classes::register::<WsServer>(&[(|| INTERFACE.entry(), "WsServerInterface")])?;
    for class in [interface, class] {
        for method in [
            c"on",
            c"onhandshake",
            c"onopen",
            c"onmessage",
            c"onclose",
            c"onerror",
            c"ondrain",
            c"onjoin",
            c"onleave",
            c"onauth",
            c"onsubscribe",
            c"onsnapshot",
            c"onsessionend",
        ] {
            classes::set_type(class, method, 0, mask::STATIC);
        }
    }
    classes::set_type(class, c"__construct", 1, mask::STRING | mask::ARRAY);
    classes::set_default(class, c"__construct", 1, c"'ws://127.0.0.1:8080'");
    classes::set_type(class, c"__construct", 2, mask::ARRAY);
    // User and password have no place in an address, and may stand there all the same.
    classes::set_sensitive(class, c"__construct", 1);
    classes::set_sensitive(class, c"__construct", 2);
    classes::set_default(class, c"__construct", 2, c"[]");
    gc::patch::<WsServer>();
    // SAFETY: in MINIT, before any object exists; the class has no properties of its own.
    unsafe { (*gc::handlers::<WsServer>()).write_property = Some(write_property) };
    Ok(())
}
