//! The [`Bridge`] of a worker: its server is the gateway's; clients that it makes are its own.
//!
//! There is no thread here: the application's thread reads the socket when it asks for events, and writes to it at the end
//! of a batch. It may wait for room then, and for the answer to a question; what comes meanwhile is kept. The gateway never
//! waits for a worker.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::wire::{self, FULL_FRAME, Greeting, Questions, READ, Reader, ToGateway, ToWorker, Writer};
use crate::bridge::{
    Bridge, Command, CommandError, ConnId, Delivery, DeliveryId, EndpointId, Event, Reply, Sent, Ticket,
};
use crate::config::{ServerConfig, SlowConsumer};
use crate::core::IdHasher;
use crate::local::{Local, RuntimeConfig, of_nothing};

/// Numbers of a worker's own clients, their connections and questions begin here: those of the gateway never get there.
pub const OWN_CONNECTIONS: u64 = 1 << 62;
pub const OWN_ENDPOINTS: u32 = 1 << 31;

/// Bytes that are read at once at most before the application gets what has come.
const READ_AT_ONCE: usize = 1024 * 1024;
const ENDED: &str = "the process that holds the sockets has ended";

type IdSet<K> = HashMap<K, bool, BuildHasherDefault<IdHasher>>;

/// See the module's documentation.
#[derive(Debug)]
pub struct Remote {
    socket: OwnedFd,
    /// The socket, `raised`, and the descriptor of own clients.
    readable: OwnedFd,
    /// Readable while there is something that was read already.
    raised: OwnedFd,
    is_raised: AtomicBool,
    runtime: RuntimeConfig,
    /// The engine of own clients, from the first on.
    own: Mutex<Option<Arc<Local>>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    writer: Writer,
    reader: Reader,
    /// Where reads go to.
    scratch: Vec<u8>,
    /// What has come, in order.
    events: VecDeque<Event>,
    /// Connections that this worker serves; false: it has closed them.
    conns: IdSet<ConnId>,
    server: Option<EndpointId>,
    addresses: Vec<Arc<str>>,
    /// `send()` tells whether a message was dropped, which only the gateway knows.
    asks_to_send: bool,
    questions: u64,
    answer: Option<(u64, Result<Reply, CommandError>)>,
    /// To be answered when the application dispatches.
    beat: Option<u32>,
    /// The gateway has said that it is over, or it has gone.
    over: bool,
    gone: bool,
}

/// Whose a command is.
enum Place {
    Gateway,
    Own,
}

impl Remote {
    /// `socket` leads to the gateway; `runtime` is for clients, started with the first.
    ///
    /// # Errors
    /// What the system says when it has no descriptor left.
    pub fn start(socket: OwnedFd, runtime: RuntimeConfig) -> std::io::Result<Arc<Self>> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let readable = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let raised = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&readable, &socket, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        epoll::add(&readable, &raised, epoll::EventData::new_u64(1), epoll::EventFlags::IN)?;
        Ok(Arc::new(Self {
            socket,
            readable,
            raised,
            is_raised: AtomicBool::new(false),
            runtime,
            own: Mutex::new(None),
            state: Mutex::default(),
        }))
    }

    /// Ends what the worker has of its own. What was submitted has been flushed; the gateway learns of the worker's
    /// end by the socket's. True: all threads have ended.
    pub fn shutdown(&self, deadline: Duration) -> bool {
        self.flush();
        let own = self.own.lock().take();
        own.is_none_or(|own| own.shutdown(deadline))
    }

    /// Why the worker cannot serve, for the gateway's log: it ends before it has called `run()`.
    pub fn explain(&self, why: &str) {
        let mut state = self.state.lock();
        if state.server.is_none() {
            wire::greet(&mut state.writer, &Greeting::Explain(why.to_owned()));
            self.write(&mut state);
        }
    }

    fn own(&self) -> Option<Arc<Local>> {
        self.own.lock().clone()
    }

    fn make_own(&self) -> Result<Arc<Local>, CommandError> {
        let mut own = self.own.lock();
        if let Some(own) = &*own {
            return Ok(own.clone());
        }
        let failed = |error: std::io::Error| CommandError::Start(format!("cannot start an I/O thread: {error}"));
        let local = Local::start(&self.runtime).map_err(failed)?;
        local.number_from(OWN_CONNECTIONS, OWN_ENDPOINTS);
        epoll::add(&self.readable, local.descriptor(), epoll::EventData::new_u64(2), epoll::EventFlags::IN)
            .map_err(|error| failed(error.into()))?;
        *own = Some(local.clone());
        Ok(local)
    }

    /// Becomes the server's worker.
    fn attach(&self, config: &ServerConfig) -> Result<Reply, CommandError> {
        let mut state = self.state.lock();
        if state.server.is_some() {
            return Err(CommandError::Start("a worker has one server, and this one has it already".into()));
        }
        let questions = Questions {
            ask_handshake: config.ask_handshake,
            authenticate: config.authenticate,
            authorise: config.authorise,
            snapshots: config.snapshots,
            announce_members: config.announce_members,
        };
        state.asks_to_send = config.send.policy == SlowConsumer::DropNewest;
        wire::greet(&mut state.writer, &Greeting::Hello { questions });
        self.write(&mut state);
        while state.server.is_none() {
            if state.gone {
                return Err(CommandError::Start(ENDED.into()));
            }
            self.wait(&state, false);
            self.read(&mut state);
        }
        Ok(state.server.map_or(Reply::Done, Reply::Endpoint))
    }

    /// What nobody waits for.
    fn tell(&self, state: &mut State, message: &ToGateway) -> Result<Reply, CommandError> {
        state.writer.add(message).map_err(CommandError::Invalid)?;
        // What was sent for a message goes out with the word that it was dealt with, as far as that is possible.
        if state.writer.frame_len() >= 4 * FULL_FRAME {
            self.write(state);
        }
        Ok(Reply::Done)
    }

    fn ask(&self, state: &mut State, command: Command) -> Result<Reply, CommandError> {
        let nothing = of_nothing(&command);
        let gone = || match nothing {
            Some(reply) => Ok(reply),
            None => Err(CommandError::Gone(ENDED.into())),
        };
        if state.gone {
            return gone();
        }
        state.questions += 1;
        let number = state.questions;
        self.tell(state, &ToGateway::Question(number, command))?;
        self.write(state);
        loop {
            match state.answer.take() {
                Some((answered, reply)) if answered == number => return reply,
                _ if state.gone => return gone(),
                _ => {}
            }
            self.wait(state, false);
            self.read(state);
        }
    }

    /// Sends all that there is, waiting for room.
    fn write(&self, state: &mut State) {
        state.writer.end_frame();
        while !state.writer.is_empty() && !state.gone {
            match rustix::net::send(&self.socket, state.writer.bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => state.writer.advance(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.wait(state, true);
                    self.read(state);
                }
                Err(_) => self.read_to_the_end(state),
            }
        }
        if state.gone {
            let _ = state.writer.take();
        }
    }

    /// Sleeps until the socket has something, or has room.
    fn wait(&self, state: &State, to_write: bool) {
        if state.gone {
            return;
        }
        let wanted = if to_write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        // A signal's handler is PHP's to run, later.
        let _ = rustix::event::poll(&mut [PollFd::new(&self.socket, wanted)], None);
    }

    /// Takes what the socket has.
    fn read(&self, state: &mut State) {
        let mut read = 0;
        while read < READ_AT_ONCE && !state.gone {
            state.scratch.resize(READ, 0);
            match rustix::net::recv(&self.socket, &mut state.scratch[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.lose(state),
                Ok((count, _)) => {
                    read += count;
                    state.reader.buffer.extend_from_slice(&state.scratch[..count]);
                    self.take_frames(state);
                    if count < READ {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.lose(state),
            }
        }
    }

    fn read_to_the_end(&self, state: &mut State) {
        while !state.gone {
            self.wait(state, false);
            self.read(state);
        }
    }

    fn take_frames(&self, state: &mut State) {
        loop {
            let frame = match state.reader.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(_) => return self.lose(state),
            };
            let State { events, server, addresses, answer, beat, over, .. } = state;
            let result = wire::read_messages(&frame, "messages of the gateway", |message| {
                match message {
                    ToWorker::Welcome { server: given, addresses: bound } => {
                        *server = Some(given);
                        *addresses = bound;
                    }
                    ToWorker::Event(event) => {
                        *over |= matches!(event, Event::Stopped { .. });
                        events.push_back(event);
                    }
                    ToWorker::Answer(number, reply) => *answer = Some((number, reply)),
                    ToWorker::Beat(number) => *beat = Some(number),
                }
                true
            });
            if result.is_err() {
                return self.lose(state);
            }
        }
    }

    /// The gateway has gone, or cannot be understood.
    fn lose(&self, state: &mut State) {
        if std::mem::replace(&mut state.gone, true) {
            return;
        }
        let _ = epoll::delete(&self.readable, &self.socket);
        let Some(endpoint) = state.server.filter(|_| !state.over) else { return };
        state.over = true;
        let mut conns: Vec<_> = state.conns.keys().copied().collect();
        for event in &state.events {
            match event {
                Event::Open { conn, .. } => conns.push(*conn),
                Event::Close { conn, .. } => conns.retain(|open| open != conn),
                _ => {}
            }
        }
        conns.sort_unstable();
        conns.dedup();
        for conn in conns {
            let (code, reason) = (lifeline_proto::close::ABNORMAL, ENDED.into());
            state.events.push_back(Event::Close { endpoint, conn, code, reason, clean: false });
        }
        state.events.push_back(Event::Stopped { endpoint });
    }

    fn raise(&self) {
        if !self.is_raised.swap(true, Ordering::AcqRel) {
            // Fails only when the counter is full.
            let _ = rustix::io::write(&self.raised, &1_u64.to_ne_bytes());
        }
    }

    fn lower(&self) {
        if self.is_raised.swap(false, Ordering::AcqRel) {
            // Non-blocking.
            let _ = rustix::io::read(&self.raised, &mut [0; 8]);
        }
    }

    /// A command for the gateway.
    fn pass_on(&self, command: Command) -> Result<Reply, CommandError> {
        let mut state = self.state.lock();
        let state = &mut *state;
        match command {
            Command::Send { conn, .. } => {
                match state.conns.get(&conn) {
                    Some(true) if !state.asks_to_send => {}
                    Some(false) => return Ok(Reply::Sent(Sent::Closed)),
                    // Another worker's: only the gateway knows.
                    _ => return self.ask(state, command),
                }
                self.tell(state, &ToGateway::Command(command))?;
                Ok(Reply::Sent(Sent::Queued))
            }
            Command::Close { conn, .. } | Command::Abort { conn } => {
                if let Some(open) = state.conns.get_mut(&conn) {
                    *open = false;
                }
                self.tell(state, &ToGateway::Command(command))
            }
            Command::IsOpen { conn } if state.conns.get(&conn) == Some(&false) => Ok(Reply::Flag(false)),
            Command::Ping { ref payload, .. } if payload.len() > 125 => {
                Err(CommandError::Invalid(format!("a ping carries at most 125 bytes, these are {}", payload.len())))
            }
            Command::Released { conn } => {
                state.conns.remove(&conn);
                self.tell(state, &ToGateway::Command(command))
            }
            Command::Addresses { .. } => Ok(Reply::Names(state.addresses.clone())),
            Command::Settle { delivery: Delivery::Item { id, .. }, verdict: crate::bridge::Verdict::Done, .. } => {
                self.tell(state, &ToGateway::Handled(id))
            }
            // Its handling was begun when it was handed out.
            Command::Begin { .. } => Ok(Reply::Flag(true)),
            Command::Unsubscribe { .. } => {
                self.tell(state, &ToGateway::Command(command))?;
                Ok(Reply::Flag(true))
            }
            Command::Discard { endpoint } => {
                // The worker ends; the server goes on.
                if !std::mem::replace(&mut state.over, true) {
                    state.events.push_back(Event::Stopped { endpoint });
                }
                Ok(Reply::Done)
            }
            Command::Forget { .. } => Ok(Reply::Done),
            Command::StopServer { .. }
            | Command::AnswerHandshake { .. }
            | Command::AnswerAuthentication { .. }
            | Command::AnswerAuthorisation { .. }
            | Command::AnswerSnapshot { .. }
            | Command::AnswerEdit { .. }
            | Command::Ping { .. }
            | Command::Consumed { .. }
            | Command::Settle { .. }
            | Command::Trace { .. }
            | Command::Bind { .. }
            | Command::Opened { .. }
            | Command::Ended { .. } => self.tell(state, &ToGateway::Command(command)),
            command => self.ask(state, command),
        }
    }
}

impl Bridge for Remote {
    fn submit(&self, command: Command) -> Result<Reply, CommandError> {
        if let Command::StartServer(config) = &command {
            return self.attach(config);
        }
        if let Command::CreateClient(_) = &command {
            return self.make_own()?.submit(command);
        }
        match place(&command) {
            Place::Gateway => self.pass_on(command),
            Place::Own => match self.own() {
                Some(own) => own.submit(command),
                None => of_nothing(&command).ok_or(CommandError::Gone("the client".into())),
            },
        }
    }

    fn order(&self, command: Command) -> Result<(), CommandError> {
        match place(&command) {
            Place::Gateway => self.tell(&mut self.state.lock(), &ToGateway::Command(command)).map(drop),
            Place::Own => self.submit(command).map(drop),
        }
    }

    fn send_now(&self, _: ConnId, _: &[u8], _: bool) -> bool {
        false
    }

    fn step(&self, endpoint: EndpointId, done: Option<DeliveryId>, begin: Option<DeliveryId>) -> bool {
        if endpoint.0 >= OWN_ENDPOINTS {
            return self.own().is_some_and(|own| own.step(endpoint, done, begin));
        }
        if let Some(done) = done {
            let mut state = self.state.lock();
            // Cannot fail: a few numbers.
            let _ = self.tell(&mut state, &ToGateway::Handled(done));
        }
        begin.is_some()
    }

    fn flush(&self) {
        let mut state = self.state.lock();
        self.write(&mut state);
        drop(state);
        if let Some(own) = self.own() {
            own.flush();
        }
    }

    fn begin_work(&self) {
        if let Some(own) = self.own() {
            own.begin_work();
        }
    }

    fn receive(&self, into: &mut Vec<Event>, limit: usize) -> usize {
        let from = into.len();
        let mut state = self.state.lock();
        let state = &mut *state;
        self.read(state);
        if let Some(number) = state.beat.take() {
            // Cannot fail: a number.
            let _ = self.tell(state, &ToGateway::Beat(number));
            self.write(state);
        }
        let count = state.events.len().min(limit);
        for event in state.events.drain(..count) {
            match &event {
                Event::Open { conn, .. } => drop(state.conns.insert(*conn, true)),
                Event::Close { conn, .. } => drop(state.conns.remove(conn)),
                _ => {}
            }
            into.push(event);
        }
        if let Some(own) = self.own() {
            own.receive(into, limit.saturating_sub(count).max(1));
        }
        into.len() - from
    }

    fn prepare_sleep(&self) -> bool {
        let mut state = self.state.lock();
        self.write(&mut state);
        let ready = !state.events.is_empty() || state.beat.is_some();
        drop(state);
        let own_ready = self.own().is_some_and(|own| !own.prepare_sleep());
        if ready || own_ready {
            self.raise();
            return false;
        }
        self.lower();
        true
    }

    fn drive(&self, _: Option<Duration>) -> bool {
        false
    }

    fn rest(&self) {
        if let Some(own) = self.own() {
            own.rest();
        }
    }

    fn is_worker(&self) -> bool {
        true
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

fn place(command: &Command) -> Place {
    let by = |own: bool| if own { Place::Own } else { Place::Gateway };
    let by_conn = |conn: &ConnId| by(conn.0 >= OWN_CONNECTIONS);
    let by_endpoint = |endpoint: &EndpointId| by(endpoint.0 >= OWN_ENDPOINTS);
    let by_ticket = |ticket: &Ticket| by(ticket.0 >= OWN_CONNECTIONS);
    match command {
        Command::Send { conn, .. }
        | Command::Ping { conn, .. }
        | Command::Close { conn, .. }
        | Command::Abort { conn }
        | Command::Consumed { conn, .. }
        | Command::Trace { conn, .. }
        | Command::BufferedBytes { conn }
        | Command::RoundTrip { conn }
        | Command::IsOpen { conn }
        | Command::ConnStats { conn } => by_conn(conn),
        Command::Begin { endpoint, .. }
        | Command::Settle { endpoint, .. }
        | Command::EndpointStats { endpoint }
        | Command::Forget { endpoint }
        | Command::Discard { endpoint } => by_endpoint(endpoint),
        Command::AnswerToken { ticket, .. }
        | Command::AnswerHeaders { ticket, .. }
        | Command::FailAttempt { ticket, .. } => by_ticket(ticket),
        Command::CreateClient(_)
        | Command::Connect { .. }
        | Command::Wake { .. }
        | Command::ClientSend { .. }
        | Command::ClientSendMany { .. }
        | Command::Unacknowledged { .. }
        | Command::ClientState { .. }
        | Command::ClientSubscribe { .. }
        | Command::FollowDocument { .. }
        | Command::Replica { .. }
        | Command::EditReplica { .. }
        | Command::TakeConflicts { .. }
        | Command::TakeReplicaChanges { .. }
        | Command::RefreshToken { .. }
        | Command::CloseClient { .. } => Place::Own,
        _ => Place::Gateway,
    }
}

#[cfg(test)]
mod tests;
