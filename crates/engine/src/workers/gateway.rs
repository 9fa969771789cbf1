//! The gateway's end: processes, their sockets, and the roster between them and the engine.
//!
//! All decisions are made on the application's thread, in [`Gateway::turn`]. Tasks of the first I/O thread only read
//! sockets and write what a socket did not take at once.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lifeline_proto::Time;
use parking_lot::Mutex;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType, UCred,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::VARIABLE;
use super::roster::{Hands, Roster, Settings, WorkerId};
use super::wire::{self, Greeting, Questions, READ, Reader, ToWorker, Writer};
use crate::bridge::{Bridge, Command, CommandError, DeliveryId, EndpointId, Event, LogLevel, LogRecord, Reply, Stats};
use crate::clock;
use crate::config::Spawn;
use crate::events::EventQueue;
use crate::local::Local;
use crate::printable::printable;
use crate::server::Server;

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(250);
/// How long a process may take to end after its socket has.
const FAREWELL: Duration = Duration::from_secs(1);
/// What may have been read and not been dealt with before sockets are read no further.
const UNREAD: usize = 16 * 1024 * 1024;

/// What sockets have brought, for the application's thread.
#[derive(Debug)]
struct Inbox {
    arrived: Mutex<VecDeque<(WorkerId, Arrival)>>,
    /// Bytes in there.
    bytes: AtomicUsize,
    /// The application's thread knows that there is something.
    nudged: AtomicBool,
    events: Arc<EventQueue>,
}

#[derive(Debug)]
enum Arrival {
    Frame(Bytes),
    /// Who has sent the first bytes.
    Peer(Option<UCred>),
    Broken(String),
    /// Nothing more comes; so many bytes were no whole frame.
    Ended(usize),
}

impl Inbox {
    fn put(&self, worker: WorkerId, arrival: Arrival) {
        if let Arrival::Frame(frame) = &arrival {
            self.bytes.fetch_add(frame.len(), Ordering::Relaxed);
        }
        self.arrived.lock().push_back((worker, arrival));
        self.nudge();
    }

    fn nudge(&self) {
        if !self.nudged.swap(true, Ordering::AcqRel) {
            self.events.push(Event::Nudge);
        }
    }

    fn take(&self) -> VecDeque<(WorkerId, Arrival)> {
        self.nudged.store(false, Ordering::Release);
        let arrived = std::mem::take(&mut *self.arrived.lock());
        self.bytes.store(0, Ordering::Relaxed);
        arrived
    }
}

/// A worker's socket.
#[derive(Debug)]
struct Link {
    socket: UnixStream,
    /// What the socket did not take.
    rest: Mutex<Vec<u8>>,
    wanted: Notify,
}

impl Link {
    /// Sends what the socket takes; returns how much of it need not be sent again. A socket that has ended takes all:
    /// its reader tells of that.
    fn send(&self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            match rustix::net::send(&self.socket, &bytes[sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => sent += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => return bytes.len(),
            }
        }
        sent
    }

    fn put(&self, writer: &mut Writer) {
        writer.end_frame();
        if writer.is_empty() {
            return;
        }
        let mut rest = self.rest.lock();
        if !rest.is_empty() {
            rest.extend_from_slice(writer.bytes());
            writer.advance(usize::MAX);
            return;
        }
        let sent = self.send(writer.bytes());
        writer.advance(sent);
        if !writer.is_empty() {
            *rest = writer.take();
            drop(rest);
            self.wanted.notify_one();
        }
    }

    /// Writes what was left over, for ever.
    async fn write(&self) {
        loop {
            self.wanted.notified().await;
            loop {
                if self.socket.ready(Interest::WRITABLE).await.is_err() {
                    return;
                }
                let result = self.socket.try_io(Interest::WRITABLE, || {
                    let mut rest = self.rest.lock();
                    let sent = self.send(&rest);
                    rest.drain(..sent);
                    if rest.is_empty() { Ok(()) } else { Err(std::io::ErrorKind::WouldBlock.into()) }
                });
                match result {
                    Ok(()) => break,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        }
    }
}

/// A process and what leads to it.
#[derive(Debug)]
struct Peer {
    child: Child,
    link: Arc<Link>,
    writer: Writer,
    /// It has been greeted by who was started.
    is_known: bool,
    greeted: bool,
    /// It was killed, or its socket has ended: what it says is not listened to any more.
    silent: Option<Time>,
    /// Its socket was read to the end.
    drained: bool,
    exited: Option<(String, Time)>,
    tasks: [JoinHandle<()>; 2],
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Gateway {
    pub roster: Roster,
    shell: Shell,
    inbox: Arc<Inbox>,
    server: Arc<Server>,
    next_tick: Time,
    /// The application knows that the server has stopped.
    is_over: bool,
    ticker: JoinHandle<()>,
    /// Reused.
    events: Vec<Event>,
}

#[derive(Debug)]
struct Shell {
    spawn: Spawn,
    peers: HashMap<WorkerId, Peer>,
    inbox: Arc<Inbox>,
    handle: Handle,
    server: Arc<Server>,
    log_level: LogLevel,
    /// The process was killed, or has ended by itself, and its socket may still have something to say.
    log: Vec<(LogLevel, String)>,
}

/// What the roster does things by.
struct Reach<'a> {
    shell: &'a mut Shell,
    local: &'a Local,
}

impl Hands for Reach<'_> {
    fn tell(&mut self, worker: WorkerId, message: &ToWorker) {
        if let Some(peer) = self.shell.peers.get_mut(&worker) {
            if let Err(why) = peer.writer.add(message) {
                self.log(LogLevel::Error, format!("an event cannot be handed to a worker: {why}"));
                return;
            }
            if peer.writer.frame_len() >= wire::FULL_FRAME {
                peer.link.put(&mut peer.writer);
            }
        }
    }

    fn submit(&mut self, command: Command) -> Result<Reply, CommandError> {
        self.local.submit(command)
    }

    fn step(&mut self, done: Option<DeliveryId>, begin: Option<DeliveryId>) -> bool {
        self.local.step(self.shell.server.id(), done, begin)
    }

    fn spawn(&mut self, worker: WorkerId, number: usize) -> Result<u32, String> {
        self.shell.start(worker, number).map_err(|error| {
            let program = self.shell.spawn.program.display().to_string();
            format!("{}: {error}", printable(&program))
        })
    }

    fn kill(&mut self, worker: WorkerId) {
        if let Some(peer) = self.shell.peers.get_mut(&worker) {
            // Fails where it has ended: that will be seen.
            let _ = peer.child.kill();
            peer.silent.get_or_insert(clock::now());
        }
    }

    fn set_questions(&mut self, questions: Questions) {
        self.shell.server.set_questions(questions);
    }

    fn memory(&mut self, worker: WorkerId) -> usize {
        let Some(peer) = self.shell.peers.get(&worker) else { return 0 };
        // proc_pid_status(5), in kibibytes.
        let status = std::fs::read_to_string(format!("/proc/{}/status", peer.child.id())).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = resident.and_then(|text| text.trim().split(' ').next()?.parse::<usize>().ok());
        kibibytes.unwrap_or(0) * 1024
    }

    fn log(&mut self, level: LogLevel, message: String) {
        if level >= self.shell.log_level {
            self.shell.log.push((level, message));
        }
    }
}

impl Shell {
    fn start(&mut self, worker: WorkerId, number: usize) -> std::io::Result<u32> {
        let (own, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::sockopt::set_socket_passcred(&own, true)?;
        rustix::io::ioctl_fionbio(&own, true)?;
        let socket = {
            let _runtime = self.handle.enter();
            UnixStream::from_std(own.into())?
        };
        let mut command = std::process::Command::new(&self.spawn.program);
        command.args(&self.spawn.arguments).env(VARIABLE, number.to_string()).stdin(Stdio::from(theirs));
        // The service manager and its sockets are the gateway's.
        for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"] {
            command.env_remove(name);
        }
        if let Some(directory) = &self.spawn.directory {
            command.current_dir(directory);
        }
        // A terminal's ^C is for the gateway, which ends them.
        command.process_group(0);
        let child = command.spawn()?;
        let pid = child.id();
        let link = Arc::new(Link { socket, rest: Mutex::default(), wanted: Notify::new() });
        let writer = link.clone();
        let tasks = [
            self.handle.spawn(read(link.clone(), worker, self.inbox.clone())),
            self.handle.spawn(async move { writer.write().await }),
        ];
        let peer = Peer {
            child,
            link,
            writer: Writer::default(),
            is_known: false,
            greeted: false,
            silent: None,
            drained: false,
            exited: None,
            tasks,
        };
        self.peers.insert(worker, peer);
        Ok(pid)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Reads a worker's socket to its end.
async fn read(link: Arc<Link>, worker: WorkerId, inbox: Arc<Inbox>) {
    let mut reader = Reader::of_stranger();
    let mut peer = None;
    loop {
        while inbox.bytes.load(Ordering::Relaxed) > UNREAD {
            // The application's thread is far behind; the worker waits.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        reader.buffer.reserve(READ);
        if link.socket.readable().await.is_err() {
            break;
        }
        let result = match peer {
            None => link.socket.try_io(Interest::READABLE, || receive_first(&link.socket, &mut reader)).map(
                |(count, credentials)| {
                    if count > 0 {
                        peer = Some(());
                        inbox.put(worker, Arrival::Peer(credentials));
                    }
                    count
                },
            ),
            Some(()) => link.socket.try_read_buf(&mut reader.buffer),
        };
        match result {
            Ok(0) => break,
            Ok(_) => loop {
                match reader.next_frame() {
                    Ok(Some(frame)) => inbox.put(worker, Arrival::Frame(frame)),
                    Ok(None) => break,
                    Err(error) => {
                        inbox.put(worker, Arrival::Broken(error.to_string()));
                        return;
                    }
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    inbox.put(worker, Arrival::Ended(reader.buffer.len()));
}

/// The first bytes, with the kernel's word on who has sent them (unix(7), SCM_CREDENTIALS).
fn receive_first(socket: &UnixStream, reader: &mut Reader) -> std::io::Result<(usize, Option<UCred>)> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let received = rustix::net::recvmsg(
        socket.as_fd(),
        &mut [std::io::IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::DONTWAIT,
    )?;
    reader.buffer.extend_from_slice(&bytes[..received.bytes]);
    let credentials = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials),
        _ => None,
    });
    Ok((received.bytes, credentials))
}

/// What the server's options say of its workers.
pub fn settings(server: &Server) -> Settings {
    let config = server.config();
    Settings {
        server: server.id(),
        workers: config.workers.clone(),
        watchdog_lag: config.watchdog.lag,
        watchdog_action: config.watchdog.action,
        redelivery_limit: config.sessions.redelivery_limit,
        auth_timeout: config.server_limits.auth_timeout,
        addresses: server.addresses(),
    }
}

impl Gateway {
    pub fn start(local: &Local, server: Arc<Server>, spawn: Spawn, settings: Settings, handle: Handle) -> Self {
        let log_level = server.config().log_level;
        let events = local.event_queue();
        let inbox = Arc::new(Inbox {
            arrived: Mutex::default(),
            bytes: AtomicUsize::new(0),
            nudged: AtomicBool::new(false),
            events,
        });
        let ticking = inbox.clone();
        let ticker = handle.spawn(async move {
            let mut interval = tokio::time::interval(TICK);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                ticking.nudge();
            }
        });
        let mut shell = Shell {
            spawn,
            peers: HashMap::new(),
            inbox: inbox.clone(),
            handle,
            server: server.clone(),
            log_level,
            log: Vec::new(),
        };
        let now = clock::now();
        let roster = Roster::new(settings, now, &mut Reach { shell: &mut shell, local });
        Self { roster, shell, inbox, server, next_tick: now, is_over: false, ticker, events: Vec::new() }
    }

    /// Takes what the engine and the workers have said, and says what is to be said. Of `events` remain those that are for
    /// the gateway's own application.
    pub fn turn(&mut self, local: &Local, events: &mut Vec<Event>, from: usize) {
        let now = clock::now();
        let mut own = std::mem::take(&mut self.events);
        own.extend(events.drain(from..));
        let Self { roster, shell, inbox, .. } = self;
        let mut reach = Reach { shell, local };
        for (worker, arrival) in inbox.take() {
            handle(now, roster, &mut reach, worker, arrival);
        }
        for event in own.drain(..).filter(|event| !matches!(event, Event::Nudge)) {
            if let Some(event) = roster.handle_event(now, event, &mut reach) {
                events.push(event);
            }
        }
        self.events = own;
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            reap(now, roster, &mut reach);
            roster.tick(now, &mut reach);
            self.server.set_workers(self.roster.stats(now), self.roster.is_served());
        }
        if self.roster.is_finished() && !std::mem::replace(&mut self.is_over, true) {
            events.push(Event::Stopped { endpoint: self.server.id() });
        }
        for (level, message) in std::mem::take(&mut self.shell.log) {
            let record = LogRecord { level, message, context: Vec::new() };
            events.push(Event::Log { endpoint: Some(self.server.id()), record: Box::new(record) });
        }
        self.flush();
        local.flush();
    }

    fn flush(&mut self) {
        for peer in self.shell.peers.values_mut() {
            if !peer.writer.is_empty() {
                peer.link.put(&mut peer.writer);
            }
        }
    }

    /// The application wants other workers.
    ///
    /// # Errors
    /// See [`Roster::reload`].
    pub fn reload(&mut self, local: &Local) -> Result<(), CommandError> {
        let result = self.roster.reload(clock::now(), &mut Reach { shell: &mut self.shell, local });
        self.inbox.nudge();
        result
    }

    pub fn stats(&self) -> Stats {
        self.roster.stats(clock::now())
    }

    pub fn endpoint(&self) -> EndpointId {
        self.server.id()
    }

    /// Ends all processes at once.
    pub fn kill_all(&mut self) {
        self.ticker.abort();
        for (_, mut peer) in self.shell.peers.drain() {
            // Who has ended already does not mind.
            let _ = peer.child.kill();
            let _ = peer.child.wait();
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill_all();
    }
}

fn handle(now: Time, roster: &mut Roster, reach: &mut Reach<'_>, worker: WorkerId, arrival: Arrival) {
    let Some(peer) = reach.shell.peers.get_mut(&worker) else { return };
    let broken = match arrival {
        Arrival::Ended(rest) => {
            peer.silent.get_or_insert(now);
            peer.drained = true;
            if rest > 0 {
                roster.handle_explanation(worker, format!("the last {rest} bytes on its socket are no whole frame"));
            }
            let inbox = reach.shell.inbox.clone();
            // It ends right after its socket.
            reach.shell.handle.spawn(async move {
                for pause in [1, 4, 20, 100, 500] {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    inbox.nudge();
                }
            });
            return reap(now, roster, reach);
        }
        // It is being ended: what it goes on to say is not done.
        _ if peer.silent.is_some() => return,
        Arrival::Peer(credentials) => {
            let own = rustix::process::geteuid();
            let child = peer.child.id();
            match credentials {
                Some(found) if found.uid == own && found.pid.as_raw_nonzero().get().cast_unsigned() == child => {
                    peer.is_known = true;
                    None
                }
                Some(found) => Some(format!(
                    "process {} of user {} speaks, wanted is process {child} of user {}",
                    found.pid.as_raw_nonzero(),
                    found.uid.as_raw(),
                    own.as_raw()
                )),
                None => Some("the kernel does not say who speaks".to_owned()),
            }
        }
        Arrival::Broken(why) => Some(why),
        Arrival::Frame(_) if !peer.is_known => return,
        Arrival::Frame(frame) if !peer.greeted => match wire::read_greeting(&frame) {
            Ok(Greeting::Hello { questions }) => {
                peer.greeted = true;
                roster.handle_hello(now, worker, questions, reach);
                None
            }
            Ok(Greeting::Explain(why)) => {
                roster.handle_explanation(worker, printable(&why).into_owned());
                None
            }
            Err(error) => Some(error.to_string()),
        },
        Arrival::Frame(frame) => {
            let mut messages = Vec::new();
            let read = wire::read_messages(&frame, "messages of a worker", |message| {
                messages.push(message);
                true
            });
            match read {
                Ok(()) => {
                    for message in messages {
                        roster.handle_message(now, worker, message, reach);
                    }
                    None
                }
                Err(error) => Some(error.to_string()),
            }
        }
    };
    if let Some(why) = broken {
        roster.handle_broken(worker, &why, reach);
    }
}

/// Looks which processes have ended: what they have said before was dealt with.
fn reap(now: Time, roster: &mut Roster, reach: &mut Reach<'_>) {
    let mut ended = Vec::new();
    for (id, peer) in &mut reach.shell.peers {
        if peer.exited.is_none() {
            match peer.child.try_wait() {
                Ok(Some(status)) => peer.exited = Some((explain(status), now)),
                Ok(None) => {}
                // Somebody else has waited for it, such as a handler of SIGCHLD.
                Err(_) => peer.exited = Some(("its exit status is unknown".to_owned(), now)),
            }
        }
        match &peer.exited {
            // A process that it has left behind may hold the socket.
            Some((how, since)) if peer.drained || now - *since >= FAREWELL => ended.push((*id, how.clone())),
            None if peer.silent.is_some_and(|since| now - since >= FAREWELL) => {
                // Fails where it ends just now.
                let _ = peer.child.kill();
            }
            _ => {}
        }
    }
    ended.sort_unstable();
    for (id, how) in ended {
        reach.shell.peers.remove(&id);
        roster.handle_ended(now, id, &how, reach);
    }
}

fn explain(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
