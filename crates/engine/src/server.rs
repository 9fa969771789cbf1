//! A server: listeners, admission, handshakes, and what all its connections share.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io::Write;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes, BytesMut};
use lifeline_proto::Time;
use lifeline_proto::backoff::spread;
use lifeline_proto::close;
use lifeline_proto::deflate::Agreement;
use lifeline_proto::frame::Role;
use parking_lot::{Mutex, RwLock};
use rand::seq::SliceRandom;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::admin::{self, AdminSource};
use crate::bridge::{
    CommandError, ConnId, EndpointId, Event, Failure, FailureKind, HandshakeAnswer, LogLevel, OpenInfo, PROTOCOL, Sent,
    Stat, Stats, Ticket,
};
use crate::clock;
use crate::config::{ServerConfig, WatchdogAction};
use crate::connection::Connection;
use crate::context::{Context, End, Owner, Upshot};
use crate::core::{Core, Endpoint, IdMap};
use crate::deflate::{self, Compression};
use crate::files::Files;
use crate::forwarded;
use crate::http::{self, RequestHead, Response};
use crate::listen::{Accepted, AcceptedSocket, Acceptor, PeerAddr, bind_all};
use crate::local::server_frame;
use crate::memory::SharedFrame;
use crate::outlet::{Ending, Item, Outlet};
use crate::proxy_protocol;
use crate::sessions::Sessions;
use crate::status::{self, About, ConnectionInfo, History};
use crate::stream::Stream;
use crate::tls::{Refreshed, ServerTlsAcceptor};
use crate::upgrade::{self, Accept, Decision, Verdict};
use crate::workers::Questions;

/// Descriptors that are not for connections: listeners, files, PHP's own.
const RESERVED_DESCRIPTORS: u64 = 64;
/// Handshakes that may wait for the application at a time.
const WAITING: usize = 4096;
const SHUTTING_DOWN: &str = "the server is shutting down";
const TOO_MANY_FROM_ADDRESS: &str = "too many connections from this address";
/// How long after the last close frame of a stop the sockets are cut.
const STOP_GRACE: Duration = Duration::from_millis(250);

/// Counters since the start.
#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    opened: AtomicU64,
    refused: AtomicU64,
    failed_handshakes: AtomicU64,
    closed_clean: AtomicU64,
    closed_unclean: AtomicU64,
    dead: AtomicU64,
    evicted: AtomicU64,
    messages_in: AtomicU64,
    messages_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    beats: AtomicU64,
    dropped: AtomicU64,
    watchdog: AtomicU64,
    deflate: deflate::Counters,
}

impl Counters {
    /// Adds what a connection has done in its life.
    fn absorb(&self, outlet: &Outlet) {
        let of = &outlet.counters;
        for (sum, part) in [
            (&self.messages_in, &of.messages_in),
            (&self.messages_out, &of.messages_out),
            (&self.bytes_in, &of.bytes_in),
            (&self.bytes_out, &of.bytes_out),
            (&self.beats, &of.beats),
            (&self.dropped, &of.dropped),
        ] {
            sum.fetch_add(part.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        if let Some(compression) = outlet.compression() {
            self.deflate.absorb(&compression.counters);
        }
    }
}

/// Who is counted at `limits.perIp`.
#[derive(Debug, Default)]
struct PerIp {
    counts: HashMap<IpAddr, usize>,
    /// Of those that are open. Beside them, because most servers have no such limit.
    open: IdMap<ConnId, IpAddr>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Server {
    id: EndpointId,
    config: ServerConfig,
    context: Arc<Context>,
    core: Weak<Core>,
    pub sessions: Arc<Sessions>,
    connections: RwLock<IdMap<ConnId, Arc<Outlet>>>,
    /// Connections whose `Close` event has not been sent.
    unreported: AtomicUsize,
    /// Admitted: open and shaking hands.
    admitted: AtomicUsize,
    max_connections: usize,
    per_ip: Mutex<PerIp>,
    waiting: Mutex<HashMap<Ticket, oneshot::Sender<HandshakeAnswer>>>,
    addresses: Vec<Arc<str>>,
    tls: Option<ServerTlsAcceptor>,
    files: Option<Files>,
    /// The admin listener's bound address.
    admin: Option<String>,
    /// Serves it until the server has ended.
    admin_task: Mutex<Option<JoinHandle<()>>>,
    counters: Counters,
    /// True: listeners close.
    stopping: watch::Sender<bool>,
    /// When who has not left is cut, from the stop on.
    drained_at: watch::Sender<Option<tokio::time::Instant>>,
    /// Set under the lock of `connections`: nothing opens any more.
    cutting: AtomicBool,
    /// `Event::Handshake`s that the application has not taken.
    asked: AtomicUsize,
    stopped: AtomicBool,
    /// True: the application has not dispatched for `watchdog.lag`.
    stuck: AtomicBool,
    /// Certificates are being looked at.
    refreshing: AtomicBool,
    started: Time,
    /// The same by the calendar, in seconds since 1970.
    started_at: f64,
    history: History,
    /// Where callbacks run in workers.
    workers: Mutex<Option<Stats>>,
    /// It has workers, and none of them serves.
    is_deserted: AtomicBool,
}

impl Server {
    /// Binds and begins to accept.
    ///
    /// # Errors
    /// Names the address or file and the cause.
    pub fn start(core: &Arc<Core>, config: ServerConfig) -> Result<EndpointId, CommandError> {
        let tls = match &config.tls {
            Some(tls) => Some(ServerTlsAcceptor::new(tls).map_err(|error| CommandError::Start(error.to_string()))?),
            None => None,
        };
        let listeners = bind_all(&config).map_err(|error| CommandError::Start(error.to_string()))?;
        let addresses = listeners.iter().map(|listener| listener.url().clone()).collect();
        let acceptors: Vec<Acceptor> = {
            let _runtime = core.shards[0].handle.enter();
            listeners
                .into_iter()
                .map(|listener| {
                    let url = listener.url().clone();
                    listener
                        .into_acceptor()
                        .map_err(|error| CommandError::Start(format!("cannot listen on {url}: {error}")))
                })
                .collect::<Result<_, _>>()?
        };
        let admin = match &config.admin {
            Some(address) => {
                Some(admin::bind(address, &config.inherited).map_err(|error| CommandError::Start(error.to_string()))?)
            }
            None => None,
        };
        let id = core.next_endpoint_id();
        let sessions = Sessions::create(id, core, &config)?;
        let context = Arc::new(Context {
            endpoint: id,
            role: Role::Server,
            rules: Arc::new(config.heartbeat.rules),
            beats: config.heartbeat.clone(),
            limits: config.limits.clone(),
            server_limits: Some(config.server_limits.clone()),
            idle_timeout: config.idle_timeout,
            send: config.send.clone(),
            compression: config.compression,
            log_level: config.log_level,
            events: core.events.clone(),
            memory: core.memory.clone(),
            sessions: Some(sessions.clone()),
        });
        let max_connections = match config.server_limits.max_connections {
            0 => descriptor_limit(),
            limit => limit,
        };
        let server = Arc::new(Self {
            id,
            context,
            core: Arc::downgrade(core),
            sessions,
            connections: RwLock::default(),
            unreported: AtomicUsize::new(0),
            admitted: AtomicUsize::new(0),
            max_connections,
            per_ip: Mutex::default(),
            waiting: Mutex::default(),
            addresses,
            tls,
            files: config.static_files.clone().map(|files| Files::new(files, core.memory.clone())),
            admin: admin.as_ref().map(admin::url),
            admin_task: Mutex::default(),
            counters: Counters::default(),
            stopping: watch::Sender::new(false),
            drained_at: watch::Sender::new(None),
            cutting: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            refreshing: AtomicBool::new(false),
            started: clock::now(),
            started_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            history: History::default(),
            workers: Mutex::default(),
            is_deserted: AtomicBool::new(config.workers.count > 0),
            config,
        });
        core.add_endpoint(id, Endpoint::Server(server.clone()));
        server.sessions.begin_restored();
        for acceptor in acceptors {
            core.shards[0].handle.spawn(server.clone().accept_all(acceptor));
        }
        // With workers it is ready when they are.
        if server.config.workers.count == 0 {
            server.announce(core);
        }
        if let Some(admin) = admin {
            let source = server.clone();
            let task = core.shards[0].handle.spawn(admin::serve(admin, source));
            *server.admin_task.lock() = Some(task);
        }
        Ok(id)
    }

    /// The service manager hears that it serves.
    pub fn announce(&self, core: &Arc<Core>) {
        match &self.config.manager {
            Ok(Some(manager)) => core.service.handle_start(core, manager),
            Ok(None) => {}
            Err(problem) => {
                let message = format!("the service manager cannot be told: {problem}");
                self.context.log(LogLevel::Warning, message, Vec::new());
            }
        }
    }

    pub fn addresses(&self) -> Vec<Arc<str>> {
        self.addresses.clone()
    }

    pub fn count(&self) -> usize {
        self.connections.read().len()
    }

    pub fn connection_ids(&self) -> Vec<ConnId> {
        let mut ids: Vec<_> = self.connections.read().keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// No new connections; each open one gets its close frame at a time of its own within the window;
    /// what is still there after `drain` is cut.
    pub fn stop(self: &Arc<Self>, drain: Duration) {
        let end = tokio::time::Instant::now() + drain.max(STOP_GRACE);
        if self.stopping.send_replace(true) {
            // Who asks again may want it sooner.
            let sooner = self.drained_at.send_if_modified(|known| {
                let sooner = known.is_some_and(|known| end < known);
                if sooner {
                    *known = Some(end);
                }
                sooner
            });
            if sooner {
                self.sessions.drain(drain.mul_f64(0.9));
            }
            return;
        }
        self.drained_at.send_replace(Some(end));
        // Who waits for the application's decision is refused; nobody is asked about after this.
        self.waiting.lock().clear();
        let Some(core) = self.core.upgrade() else { return };
        core.service.handle_stop(&core, drain);
        let server = self.clone();
        core.shards[0].handle.spawn(async move { server.drain(drain).await });
    }

    /// Ends at once: sockets are cut.
    pub fn discard(self: &Arc<Self>) {
        self.stopping.send_replace(true);
        if let Some(admin) = self.admin_task.lock().take() {
            admin.abort();
        }
        self.waiting.lock().clear();
        self.cut_all();
        self.report_stopped();
    }

    async fn drain(self: Arc<Self>, drain: Duration) {
        // Sessions have a little less, so that their close frames get through.
        self.sessions.drain(drain.mul_f64(0.9));
        let mut outlets: Vec<_> = {
            let connections = self.connections.read();
            connections.values().filter(|outlet| !outlet.is_lifeline()).cloned().collect()
        };
        outlets.shuffle(&mut rand::rng());
        // A crowd is told to leave over half the time at most, so that all have the other half to go.
        let window = spread(outlets.len()).min(drain / 2);
        let begin = tokio::time::Instant::now();
        let total = outlets.len().max(1);
        let mut end = self.drained_at.subscribe();
        let mut hurries = false;
        for (index, outlet) in outlets.into_iter().enumerate() {
            let at = begin + window.mul_f64(index as f64 / total as f64);
            if !hurries && at > tokio::time::Instant::now() + Duration::from_millis(2) {
                tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    _ = end.changed() => hurries = true,
                }
            }
            outlet.set_closing();
            outlet.end(Ending::Close {
                code: close::GOING_AWAY,
                wire: close::GOING_AWAY,
                reason: "server shutdown".to_owned(),
            });
            Core::wake(&outlet);
        }
        let is_over = || self.drained_at.borrow().is_none_or(|end| end <= tokio::time::Instant::now());
        while self.unreported.load(Ordering::Acquire) > 0 && !is_over() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.cut_all();
        // The cuts are reported by the connections' own tasks.
        for _ in 0..200 {
            if self.unreported.load(Ordering::Acquire) == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Told until now that it stops. Its address is free when the application knows that it has.
        let admin = self.admin_task.lock().take();
        if let Some(admin) = admin {
            admin.abort();
            let _ = admin.await;
        }
        self.report_stopped();
    }

    fn cut_all(&self) {
        let outlets: Vec<_> = {
            let connections = self.connections.write();
            self.cutting.store(true, Ordering::Relaxed);
            connections.values().cloned().collect()
        };
        for outlet in outlets {
            outlet.end(Ending::Abort { code: shutdown_code(&outlet), reason: "server shutdown".to_owned() });
            Core::wake(&outlet);
        }
    }

    fn report_stopped(&self) {
        if !self.stopped.swap(true, Ordering::AcqRel) {
            self.sessions.end();
            let stopped = Event::Stopped { endpoint: self.id };
            match self.core.upgrade() {
                // The directory is free when the application is told.
                Some(core) if self.config.sessions.store.is_some() => {
                    let (sessions, events) = (self.sessions.clone(), self.context.events.clone());
                    core.keeper.run(move || {
                        sessions.close_store();
                        events.push(stopped);
                    });
                }
                _ => self.context.events.push(stopped),
            }
        }
    }

    pub fn broadcast(&self, data: &Bytes, binary: bool, except: &[ConnId]) -> usize {
        let (now, frame) = (clock::now(), self.encode(data, binary));
        let mut count = self.sessions.broadcast(data, binary, except);
        let mut queued = 0;
        for outlet in self.connections.read().values().filter(|outlet| !outlet.is_lifeline()) {
            count += usize::from(self.push_shared(now, outlet, &frame, except, &mut queued));
        }
        self.count_queued(queued);
        count
    }

    pub fn publish(&self, channel: &str, data: &Bytes, binary: bool, except: &[ConnId]) -> usize {
        let now = clock::now();
        let mut frame = None;
        let mut count = 0;
        let mut queued = 0;
        self.sessions.directory.for_each_member(channel, |outlet| {
            count += usize::from(if outlet.is_lifeline() {
                !except.contains(&outlet.id)
            } else {
                let frame = frame.get_or_insert_with(|| self.encode(data, binary));
                self.push_shared(now, outlet, frame, except, &mut queued)
            });
        });
        self.count_queued(queued);
        self.sessions.publish(channel, data, binary, except);
        count
    }

    pub fn send_to_user(&self, user: &str, data: &Bytes, binary: bool) -> usize {
        let now = clock::now();
        let mut frame = None;
        let mut count = self.sessions.send_to_user(user, data, binary);
        let mut queued = 0;
        self.sessions.directory.for_each_of_user(user, |outlet| {
            if !outlet.is_lifeline() {
                let frame = frame.get_or_insert_with(|| self.encode(data, binary));
                count += usize::from(self.push_shared(now, outlet, frame, &[], &mut queued));
            }
        });
        self.count_queued(queued);
        count
    }

    pub fn disconnect_user(&self, user: &str, code: u16, reason: &str) -> usize {
        let mut count = 0;
        // The default code is lifeline's; any other that the application chose goes out as it is.
        let plain = if code == close::BANNED { close::to_plain(code) } else { code };
        self.sessions.directory.for_each_of_user(user, |outlet| {
            count += 1;
            let wire = if outlet.is_lifeline() { code } else { plain };
            outlet.set_closing();
            outlet.end(Ending::Close { code, wire, reason: reason.to_owned() });
            if let Some(core) = self.core.upgrade() {
                core.mark(outlet);
            }
        });
        count
    }

    /// # Errors
    /// See [`Directory::subscribe`].
    pub fn subscribe(&self, outlet: &Arc<Outlet>, channel: &str) -> Result<bool, CommandError> {
        if outlet.is_lifeline() {
            self.sessions.make_room(channel)?;
        }
        let joined = self.sessions.directory.subscribe(outlet, channel, &self.config.server_limits)?;
        if outlet.is_lifeline() {
            self.sessions.subscribe(outlet, channel);
        }
        let new = joined.is_some();
        if let (Some(channel), true) = (joined, self.sessions.questions.announce_members.load(Ordering::Relaxed)) {
            self.context.events.push(Event::Join { server: self.id, channel, conn: outlet.id });
        }
        Ok(new)
    }

    pub fn unsubscribe(&self, outlet: &Outlet, channel: &str) -> bool {
        let left = self.sessions.directory.unsubscribe(outlet, channel);
        if outlet.is_lifeline() {
            self.sessions.unsubscribe(outlet, channel);
        }
        let was = left.is_some();
        if let (Some(channel), true) = (left, self.sessions.questions.announce_members.load(Ordering::Relaxed)) {
            self.context.events.push(Event::Leave { server: self.id, channel, conn: outlet.id });
        }
        was
    }

    /// Gives the connection a user.
    pub fn bind(&self, outlet: &Arc<Outlet>, user: &str) {
        self.sessions.directory.bind(outlet, user);
        if outlet.is_lifeline() {
            self.sessions.bind(outlet, user);
        }
    }

    /// The application has taken an `Event::Handshake`.
    pub fn handle_asked(&self) {
        self.asked.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn has_ticket(&self, ticket: Ticket) -> bool {
        self.waiting.lock().contains_key(&ticket)
    }

    pub fn answer_handshake(&self, ticket: Ticket, answer: HandshakeAnswer) {
        if let Some(waiting) = self.waiting.lock().remove(&ticket) {
            // The peer may have gone meanwhile.
            let _ = waiting.send(answer);
        }
    }

    /// Once a second: the watchdog and changed certificates.
    pub fn tick(self: &Arc<Self>) {
        if self.tls.is_some() && !self.refreshing.swap(true, Ordering::AcqRel) {
            let server = self.clone();
            // Files may lie on a network: connections must not wait for them.
            tokio::task::spawn_blocking(move || {
                server.refresh_certificates();
                server.refreshing.store(false, Ordering::Release);
            });
        }
        if self.admin.is_some() && self.history.is_due(clock::now() - self.started) {
            self.history.add(&self.stats());
        }
        let lag = self.context.events.lag();
        let watchdog = &self.config.watchdog;
        if lag >= watchdog.lag {
            if !self.stuck.swap(true, Ordering::AcqRel) {
                self.counters.watchdog.fetch_add(1, Ordering::Relaxed);
                // The application's own log is as stuck as the application.
                let report = format!(
                    "lifeline: watchdog: PHP has not dispatched for {:.1} s (watchdog.lag is {:.1} s), {} events wait\n",
                    lag.as_secs_f64(),
                    watchdog.lag.as_secs_f64(),
                    self.context.events.len()
                );
                // Whoever reads it may be as stuck, or gone: this thread must not wait for that.
                tokio::task::spawn_blocking(move || {
                    let _ = std::io::stderr().write_all(report.as_bytes());
                });
                if watchdog.action == WatchdogAction::Drain {
                    self.stop(Duration::from_secs(5));
                }
            }
        } else if self.stuck.swap(false, Ordering::AcqRel) {
            self.context.log(LogLevel::Warning, "watchdog: PHP dispatches again", Vec::new());
        }
    }

    fn refresh_certificates(&self) {
        let Some(tls) = &self.tls else { return };
        for refreshed in tls.refresh() {
            match refreshed {
                Refreshed::Reloaded(file) => {
                    let file = vec![("file", file.display().to_string())];
                    self.context.log(LogLevel::Notice, "a changed certificate was loaded", file);
                }
                Refreshed::Kept(error) => {
                    let message = format!("a changed certificate was not loaded, the old one stays: {error}");
                    self.context.log(LogLevel::Error, message, Vec::new());
                }
            }
        }
    }

    pub fn id(&self) -> EndpointId {
        self.id
    }

    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// What the application wants to be asked from now on.
    pub fn set_questions(&self, questions: Questions) {
        self.sessions.set_questions(questions);
    }

    /// What is to be shown of its workers, and whether any of them serves.
    pub fn set_workers(&self, stats: Stats, any: bool) {
        *self.workers.lock() = Some(stats);
        self.is_deserted.store(!any, Ordering::Release);
    }

    /// Its `limits.memory`.
    pub fn memory_limit(&self) -> usize {
        self.context.limits.memory
    }

    pub fn stats(&self) -> Stats {
        let int = |value: u64| Stat::Int(i64::try_from(value).unwrap_or(i64::MAX));
        let load = |counter: &AtomicU64| int(counter.load(Ordering::Relaxed));
        // What the open connections have done so far, on top of what the closed ones did.
        let sum = Counters::default();
        let mut buffered = 0;
        let mut inbound = 0;
        let mut paused = 0_u64;
        let (mut own, mut sending) = (0, 0);
        let mut round_trips = Vec::new();
        let mut compressed = 0_u64;
        let open = {
            let connections = self.connections.read();
            for outlet in connections.values() {
                sum.absorb(outlet);
                buffered += outlet.buffered.load(Ordering::Relaxed);
                inbound += outlet.inbound.load(Ordering::Relaxed);
                paused += u64::from(outlet.paused.load(Ordering::Relaxed));
                let charges = outlet.charges();
                own += charges.0;
                sending += charges.1;
                match outlet.rtt.load(Ordering::Relaxed) {
                    0 => {}
                    micros => round_trips.push(micros),
                }
                compressed += u64::from(outlet.compression().is_some());
            }
            connections.len()
        };
        let both =
            |closed: &AtomicU64, open: &AtomicU64| int(closed.load(Ordering::Relaxed) + open.load(Ordering::Relaxed));
        let counters = &self.counters;
        let (used, shared, kept) = (self.context.memory.used(), self.context.memory.shared(), self.sessions.charged());
        // Messages that are coming in, files, and other servers and clients of the process.
        let other = used.saturating_sub(own + sending + shared + inbound + kept);
        sum.deflate.absorb(&counters.deflate);
        let mut stats = Stats(vec![
            ("uptime".into(), Stat::Float((clock::now() - self.started).as_secs_f64())),
            ("admin".into(), self.admin.clone().map_or(Stat::None, Stat::Text)),
            (
                "connections".into(),
                Stat::Tree(Stats(vec![
                    ("open".into(), int(open as u64)),
                    ("handshaking".into(), int(self.admitted.load(Ordering::Relaxed).saturating_sub(open) as u64)),
                    ("limit".into(), int(self.max_connections as u64)),
                    ("accepted".into(), load(&counters.accepted)),
                    ("opened".into(), load(&counters.opened)),
                    ("refused".into(), load(&counters.refused)),
                    ("failedHandshakes".into(), load(&counters.failed_handshakes)),
                    ("closedClean".into(), load(&counters.closed_clean)),
                    ("closedUnclean".into(), load(&counters.closed_unclean)),
                    ("dead".into(), load(&counters.dead)),
                    ("evicted".into(), load(&counters.evicted)),
                    ("readsPaused".into(), int(paused)),
                ])),
            ),
            (
                "messages".into(),
                Stat::Tree(Stats(vec![
                    ("in".into(), both(&counters.messages_in, &sum.messages_in)),
                    ("out".into(), both(&counters.messages_out, &sum.messages_out)),
                    ("dropped".into(), both(&counters.dropped, &sum.dropped)),
                ])),
            ),
            (
                "bytes".into(),
                Stat::Tree(Stats(vec![
                    ("in".into(), both(&counters.bytes_in, &sum.bytes_in)),
                    ("out".into(), both(&counters.bytes_out, &sum.bytes_out)),
                    ("sendBuffered".into(), int(buffered as u64)),
                    ("inboundWaiting".into(), int(inbound as u64)),
                ])),
            ),
            ("compression".into(), Stat::Tree(sum.deflate.stats(vec![("connections".into(), int(compressed))]))),
            (
                "files".into(),
                Stat::Tree(Stats(vec![
                    ("served".into(), self.files.as_ref().map_or(Stat::Int(0), |files| load(&files.served))),
                    ("bytes".into(), self.files.as_ref().map_or(Stat::Int(0), |files| load(&files.bytes))),
                ])),
            ),
            ("heartbeats".into(), Stat::Tree(Stats(vec![("sent".into(), both(&counters.beats, &sum.beats))]))),
            ("rtt".into(), Stat::Tree(status::round_trips(round_trips))),
            ("channels".into(), int(self.sessions.directory.count_channels() as u64)),
            ("users".into(), int(self.sessions.directory.count_users() as u64)),
            ("sessions".into(), Stat::Tree(self.sessions.stats())),
            (
                "memory".into(),
                Stat::Tree(Stats(vec![
                    ("used".into(), int(used as u64)),
                    ("limit".into(), int(self.context.memory.limit() as u64)),
                    ("connections".into(), int(own as u64)),
                    ("sending".into(), int(sending as u64)),
                    ("shared".into(), int(shared as u64)),
                    ("inbound".into(), int(inbound as u64)),
                    ("sessions".into(), int(kept as u64)),
                    ("other".into(), int(other as u64)),
                ])),
            ),
            (
                "watchdog".into(),
                Stat::Tree(Stats(vec![
                    ("lag".into(), Stat::Float(self.context.events.lag().as_secs_f64())),
                    ("fired".into(), load(&counters.watchdog)),
                    ("eventsWaiting".into(), int(self.context.events.len() as u64)),
                ])),
            ),
        ]);
        if let Some(workers) = &*self.workers.lock() {
            stats.0.push(("workers".into(), Stat::Tree(workers.clone())));
        }
        stats
    }

    fn encode(&self, data: &Bytes, binary: bool) -> Arc<SharedFrame> {
        SharedFrame::new(server_frame(data, binary), self.context.memory.clone())
    }

    /// What it adds to `queued` is to be counted when no table is locked any more: that may flush, and a flush
    /// asks sessions, which are asked before the tables.
    fn push_shared(
        &self,
        now: Time,
        outlet: &Arc<Outlet>,
        frame: &Arc<SharedFrame>,
        except: &[ConnId],
        queued: &mut usize,
    ) -> bool {
        if except.contains(&outlet.id) {
            return false;
        }
        let sent = outlet.push(Item::Shared(frame.clone()));
        if sent == Sent::Queued {
            outlet.count_message(now);
        }
        if sent != Sent::Closed
            && let Some(core) = self.core.upgrade()
        {
            if sent == Sent::Queued {
                core.mark_queued(outlet);
            } else {
                core.mark(outlet);
            }
            *queued += frame.wire.len();
        }
        sent == Sent::Queued
    }

    fn count_queued(&self, bytes: usize) {
        if bytes > 0
            && let Some(core) = self.core.upgrade()
        {
            core.count_queued(bytes);
        }
    }

    async fn accept_all(self: Arc<Self>, mut acceptor: Acceptor) {
        let mut stopping = self.stopping.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = acceptor.accept() => accepted,
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            let (socket, peer) = match accepted {
                Accepted::Connection { socket, peer } => (socket, peer),
                Accepted::Trouble(problem) => {
                    self.context.log(LogLevel::Error, problem, Vec::new());
                    continue;
                }
            };
            self.counters.accepted.fetch_add(1, Ordering::Relaxed);
            let Some(core) = self.core.upgrade() else { return };
            // TLS is work enough to be shared out.
            let shard = if acceptor.is_tls() { &core.pick_shard() } else { core.place(0) };
            shard.population.fetch_add(1, Ordering::Relaxed);
            self.admitted.fetch_add(1, Ordering::AcqRel);
            let admission = Admission { server: self.clone(), shard: shard.clone(), transferred: false, ip: None };
            let server = self.clone();
            let tls = acceptor.is_tls();
            match socket {
                AcceptedSocket::Tcp(socket) if !tls => {
                    let spawned = shard.poller().and_then(|poller| {
                        poller.spawn(socket.into(), |socket| {
                            Link::ShakingHands(Box::pin(server.shake_hands(
                                Stream::Plain(socket),
                                peer,
                                tls,
                                admission,
                            )))
                        })
                    });
                    if let Err(error) = spawned {
                        self.log_handshake("socket", &error.to_string());
                    }
                }
                socket => {
                    shard.handle.spawn(Link::ShakingHands(Box::pin(async move {
                        match socket.into_stream() {
                            Ok(stream) => server.shake_hands(stream, peer, tls, admission).await,
                            Err(error) => {
                                server.log_handshake("socket", &error.to_string());
                                None
                            }
                        }
                    })));
                }
            }
        }
    }

    async fn shake_hands(
        self: Arc<Self>,
        stream: Stream,
        peer: PeerAddr,
        tls: bool,
        mut admission: Admission,
    ) -> Option<Connection> {
        let over = self.admitted.load(Ordering::Acquire) > self.max_connections && !self.evict();
        let refuse = over || self.context.memory.is_over() || self.is_unready();
        // A peer that no proxy speaks for is what it is: it is counted before it can take its time.
        let trusted = &self.config.trusted_proxies;
        let spoken_for = forwarded::is_trusted(&peer, trusted) || (self.config.proxy_protocol && trusted.is_empty());
        let crowded = !refuse && !spoken_for && !self.admit_ip(peer.ip(), &mut admission);
        if refuse || crowded {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            // Its place is free for another while this one reads its answer.
            drop(admission);
            // Without TLS: with it the answer would cost more than the connection.
            if !tls {
                let mut stream = stream;
                let why = if crowded { TOO_MANY_FROM_ADDRESS } else { "the server is full" };
                let response = Response::text(503, why).with("Retry-After", "1");
                turn_away(&mut stream, response.encode(true), Duration::from_millis(200)).await;
            }
            return None;
        }
        let network = self.config.limits.handshake_timeout;
        let received = tokio::time::timeout(network, Box::pin(self.receive_request(stream, peer, tls))).await;
        let (mut stream, early, head, peer) = match received {
            Ok(Some(parts)) => parts,
            Ok(None) => {
                self.counters.failed_handshakes.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            Err(_) => {
                self.counters.failed_handshakes.fetch_add(1, Ordering::Relaxed);
                self.log_handshake("timeout", "nothing complete within limits.handshakeTimeout");
                return None;
            }
        };
        let decision = match self.judge(&head, &peer, &mut admission) {
            Judgement::Ask(accept) => self.ask_about(&head, accept).await,
            Judgement::File(missing) => {
                self.send_file(&mut stream, &head, missing).await;
                return None;
            }
            Judgement::Decided(decision) => decision,
        };
        let (mut accept, headers) = match decision {
            Decision::Accept { accept, headers } => (accept, headers),
            Decision::Refuse(response) | Decision::Invalid { response, .. } => {
                let answer = response.encode(head.method() != "HEAD");
                turn_away(&mut stream, answer, Duration::from_millis(500)).await;
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        };
        accept.compression = accept.compression.map(|agreement| self.afford(agreement));
        let spread = spread(self.admitted.load(Ordering::Relaxed));
        let mut response = upgrade::switching_protocols(&accept, &headers, Some(spread));
        // Mostly the socket takes it at once.
        let written = poll_fn(|task| Poll::Ready(stream.poll_write(task, &response))).await;
        let sent = match written {
            Poll::Ready(Ok(count)) if count == response.len() && !stream.is_tls() => true,
            Poll::Ready(Err(_)) => false,
            written => {
                if let Poll::Ready(Ok(count)) = written {
                    response.advance(count);
                }
                send_in_time(&mut stream, response.freeze(), network).await
            }
        };
        if !sent {
            self.counters.failed_handshakes.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.open(stream, early, head, accept, admission)
    }

    /// Windows are kept while there is memory for them.
    fn afford(&self, agreement: Agreement) -> Agreement {
        let memory = &self.context.memory;
        let kept = Compression::kept_size(agreement, Role::Server);
        if memory.used() + kept > memory.limit() / 2 { agreement.without_takeover() } else { agreement }
    }

    /// Proxy header, TLS, request head.
    async fn receive_request(
        &self,
        mut stream: Stream,
        mut peer: PeerAddr,
        tls: bool,
    ) -> Option<(Stream, BytesMut, Arc<RequestHead>, PeerAddr)> {
        let mut buffer = BytesMut::new();
        if self.config.proxy_protocol {
            match Box::pin(proxy_protocol::read(&mut stream, &peer, &self.config.trusted_proxies)).await {
                Ok(Some(source)) => peer = source,
                Ok(None) => {}
                Err(error) => {
                    self.log_handshake("PROXY protocol", &error.to_string());
                    return None;
                }
            }
        }
        if tls {
            let acceptor = self.tls.as_ref()?;
            match Box::pin(acceptor.accept(stream)).await {
                Ok(encrypted) => stream = encrypted,
                Err(error) => {
                    self.log_handshake("TLS", &error.to_string());
                    return None;
                }
            }
        }
        let end = match http::await_head(&mut stream, &mut buffer, self.config.limits.max_header_bytes).await {
            Ok(end) => end,
            Err(error) => {
                if let Some(answer) = error.answer() {
                    turn_away(&mut stream, answer.encode(true), Duration::from_millis(500)).await;
                }
                self.log_handshake("request", &error.to_string());
                return None;
            }
        };
        match RequestHead::parse(&buffer[..end], &peer, tls, &self.config.trusted_proxies) {
            Ok((head, peer)) => {
                buffer.advance(end);
                Some((stream, buffer, Arc::new(head), peer))
            }
            Err(error) => {
                if let Some(answer) = error.answer() {
                    turn_away(&mut stream, answer.encode(true), Duration::from_millis(500)).await;
                }
                self.log_handshake("request", &error.to_string());
                None
            }
        }
    }

    /// Whether the request becomes a connection: the rules and the limits. The application is still to be
    /// asked where it wants to be.
    fn judge(&self, head: &RequestHead, peer: &PeerAddr, admission: &mut Admission) -> Judgement {
        let unavailable = |why| Judgement::refuse(Response::text(503, why).with("Retry-After", "1"));
        let verdict = upgrade::evaluate(head, &self.config);
        if let Verdict::Answer(response) = verdict {
            return Judgement::refuse(response);
        }
        if !self.admit_ip(peer.ip(), admission) {
            return unavailable(TOO_MANY_FROM_ADDRESS);
        }
        let accept = match verdict {
            Verdict::Accept(accept) => accept,
            Verdict::Answer(response) => return Judgement::refuse(response),
            Verdict::File(missing) => return Judgement::File(missing),
        };
        if self.sessions.questions.ask_handshake.load(Ordering::Relaxed) {
            Judgement::Ask(accept)
        } else if *self.stopping.borrow() {
            unavailable(SHUTTING_DOWN)
        } else {
            Judgement::Decided(Decision::Accept { accept, headers: Vec::new() })
        }
    }

    /// See [`Files::serve`]. Boxed, because most handshakes never need the room.
    fn send_file<'a>(
        &'a self,
        stream: &'a mut Stream,
        head: &'a Arc<RequestHead>,
        missing: Option<Response>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            if let Some(files) = &self.files {
                files.serve(stream, head, missing, self.config.limits.handshake_timeout, &self.cutting).await;
            }
        })
    }

    /// What the application says. Boxed, because most handshakes never need the room.
    fn ask_about<'a>(
        &'a self,
        head: &'a Arc<RequestHead>,
        accept: Accept,
    ) -> Pin<Box<dyn Future<Output = Decision> + Send + 'a>> {
        Box::pin(async move {
            let unanswered = |why| Decision::Refuse(Response::text(503, why).with("Retry-After", "1"));
            let decision = match self.ask(head).await {
                Some(answer) => upgrade::decide(head, accept, answer),
                None if *self.stopping.borrow() => unanswered(SHUTTING_DOWN),
                None => unanswered("the application did not answer in time"),
            };
            if let Decision::Invalid { response, message } = &decision {
                let failure =
                    Failure { kind: FailureKind::Application, message: message.clone(), code: response.status };
                self.context.events.push(Event::Failure { endpoint: self.id, conn: None, failure: Box::new(failure) });
            }
            decision
        })
    }

    async fn ask(&self, head: &Arc<RequestHead>) -> Option<HandshakeAnswer> {
        let ticket = self.core.upgrade()?.next_ticket();
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            // Questions that nobody waits for any more still lie in the queue while PHP is blocked.
            let asked = self.asked.load(Ordering::Acquire);
            if waiting.len().max(asked) >= WAITING || *self.stopping.borrow() {
                return None;
            }
            waiting.insert(ticket, sender);
            self.asked.fetch_add(1, Ordering::AcqRel);
            // Under the lock, so that none follows a stop.
            self.context.events.push(Event::Handshake { server: self.id, ticket, request: head.clone() });
        }
        let answer = tokio::time::timeout(self.config.server_limits.auth_timeout, receiver).await;
        self.waiting.lock().remove(&ticket);
        answer.ok()?.ok()
    }

    fn open(
        self: Arc<Self>,
        stream: Stream,
        early: BytesMut,
        head: Arc<RequestHead>,
        accept: Accept,
        mut admission: Admission,
    ) -> Option<Connection> {
        let Accept { protocol, compression, .. } = accept;
        let core = self.core.upgrade()?;
        let outlet =
            Outlet::new(core.next_connection_id(), admission.shard.clone(), self.context.clone(), head.raw().len());
        let lifeline = protocol.as_deref() == Some(PROTOCOL);
        let outlet = outlet.with_request(head.clone());
        let outlet = outlet.with_compression(compression);
        let outlet = Arc::new(if lifeline { outlet.with_lifeline() } else { outlet });
        {
            let mut connections = self.connections.write();
            // Its end would be reported after the server's.
            if self.cutting.load(Ordering::Relaxed) {
                return None;
            }
            core.add_connection(&outlet);
            // Asked under the lock: a stop that has begun must not miss this connection.
            if *self.stopping.borrow() {
                let code = shutdown_code(&outlet);
                outlet.end(Ending::Close { code, wire: code, reason: "server shutdown".to_owned() });
            }
            connections.insert(outlet.id, outlet.clone());
            if let Some(ip) = admission.ip {
                self.per_ip.lock().open.insert(outlet.id, ip);
            }
        }
        admission.transferred = true;
        self.unreported.fetch_add(1, Ordering::AcqRel);
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        let info = OpenInfo {
            remote: Box::default(),
            protocol: protocol.map_or_else(Arc::default, Arc::from),
            request: Some(head),
            session: None,
            resumed: false,
            user: None,
        };
        let info = if lifeline {
            self.sessions.connect(&outlet, info, spread(self.admitted.load(Ordering::Relaxed)));
            None
        } else {
            Some(info)
        };
        let owner: Arc<dyn Owner> = self;
        Some(Connection::open(stream, early, outlet, owner, info))
    }

    /// Takes a place of `limits.perIp`, if it has none yet.
    fn admit_ip(&self, ip: Option<IpAddr>, admission: &mut Admission) -> bool {
        let limit = self.config.server_limits.per_ip;
        let (true, Some(ip), None) = (limit > 0, ip, admission.ip) else { return true };
        let table = &mut self.per_ip.lock().counts;
        let count = table.entry(ip).or_insert(0);
        if *count >= limit {
            return false;
        }
        *count += 1;
        admission.ip = Some(ip);
        true
    }

    fn release(&self, ip: Option<IpAddr>) {
        self.admitted.fetch_sub(1, Ordering::AcqRel);
        if let Some(ip) = ip {
            let table = &mut self.per_ip.lock().counts;
            if let Some(count) = table.get_mut(&ip) {
                *count -= 1;
                if *count == 0 {
                    table.remove(&ip);
                }
            }
        }
    }

    /// Makes room at the limit by closing the connection that has been idle longest; false when that
    /// is not asked for or nobody is idle.
    fn evict(&self) -> bool {
        if !self.config.idle_evict {
            return false;
        }
        let oldest = self
            .connections
            .read()
            .values()
            .filter(|outlet| outlet.is_open())
            .min_by_key(|outlet| outlet.last_message.load(Ordering::Relaxed))
            .cloned();
        let Some(outlet) = oldest else { return false };
        self.counters.evicted.fetch_add(1, Ordering::Relaxed);
        outlet.set_closing();
        outlet.end(Ending::of_ours(&outlet, close::IDLE, "idle: room for others"));
        Core::wake(&outlet);
        true
    }

    /// `stop()` was called.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// How long the application has not dispatched.
    pub fn lag(&self) -> Duration {
        self.context.events.lag()
    }

    /// It has not for `watchdog.lag`.
    pub fn is_late(&self) -> bool {
        self.lag() >= self.config.watchdog.lag
    }

    fn is_unready(&self) -> bool {
        let tells = matches!(self.config.watchdog.action, WatchdogAction::Unready | WatchdogAction::Drain);
        self.is_stopping() || (tells && self.stuck.load(Ordering::Acquire))
    }

    fn log_handshake(&self, stage: &'static str, problem: &str) {
        self.context.log(LogLevel::Info, format!("handshake failed: {problem}"), vec![("stage", stage.to_owned())]);
    }
}

fn connection_info(outlet: &Outlet, now: Time) -> ConnectionInfo {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &outlet.counters;
    let (user, channels) = match &*outlet.membership.lock() {
        Some(membership) => (membership.user.clone(), membership.channels.len()),
        None => (None, 0),
    };
    let request = outlet.request();
    ConnectionInfo {
        id: outlet.id,
        remote: request.map(|request| request.remote()).unwrap_or_default().to_owned(),
        path: request.map(|request| request.path()).unwrap_or_default().to_owned(),
        user,
        lifeline: outlet.is_lifeline(),
        age: now - outlet.opened,
        idle: now - Time::from_micros(load(&outlet.last_message)),
        rtt: outlet.round_trip(),
        messages_in: load(&counters.messages_in),
        messages_out: load(&counters.messages_out),
        bytes_in: load(&counters.bytes_in),
        bytes_out: load(&counters.bytes_out),
        dropped: load(&counters.dropped),
        buffered: outlet.buffered.load(Ordering::Relaxed),
        inbound: outlet.inbound.load(Ordering::Relaxed),
        channels,
    }
}

/// What a connection is told when the server stops.
fn shutdown_code(outlet: &Outlet) -> u16 {
    if outlet.is_lifeline() { close::SHUTDOWN } else { close::GOING_AWAY }
}

impl Owner for Server {
    fn handle_written(&self, _sequence: u64) {}

    fn handle_message(&self, outlet: &Arc<Outlet>, now: Time, data: Bytes, binary: bool) -> Upshot {
        self.sessions.handle_messages(outlet, now, &mut vec![(data, binary)])
    }

    fn handle_messages(&self, outlet: &Arc<Outlet>, now: Time, messages: &mut Vec<(Bytes, bool)>) -> Upshot {
        self.sessions.handle_messages(outlet, now, messages)
    }

    fn handle_leaving(&self, outlet: &Arc<Outlet>, end: &End) {
        if outlet.is_lifeline() {
            self.sessions.lost(outlet, end);
        }
        for channel in self.sessions.directory.remove(outlet) {
            if self.sessions.questions.announce_members.load(Ordering::Relaxed) {
                self.context.events.push(Event::Leave { server: self.id, channel, conn: outlet.id });
            }
        }
        let counter = if end.clean { &self.counters.closed_clean } else { &self.counters.closed_unclean };
        counter.fetch_add(1, Ordering::Relaxed);
        if end.code == close::NO_PONG {
            self.counters.dead.fetch_add(1, Ordering::Relaxed);
        }
        let entry = {
            let mut connections = self.connections.write();
            // Under the lock, so that `stats` counts it either here or there.
            self.counters.absorb(outlet);
            connections.remove(&outlet.id)
        };
        if entry.is_some() {
            let counted = self.config.server_limits.per_ip > 0;
            let ip = if counted { self.per_ip.lock().open.remove(&outlet.id) } else { None };
            self.release(ip);
        }
    }

    fn handle_closed(&self, outlet: &Arc<Outlet>, _end: &End) {
        if outlet.is_lifeline()
            && !outlet.is_announced()
            && let Some(core) = self.core.upgrade()
        {
            // No `Close` will have it forgotten.
            core.forget_connection(outlet.id);
        }
        self.unreported.fetch_sub(1, Ordering::AcqRel);
    }
}

impl AdminSource for Server {
    fn stats(&self) -> Stats {
        Self::stats(self)
    }

    fn ready(&self) -> bool {
        !self.is_unready() && !self.is_deserted.load(Ordering::Acquire)
    }

    fn about(&self) -> About {
        About {
            addresses: self.addresses(),
            ready: self.ready(),
            stopping: self.is_stopping(),
            started: self.started_at,
        }
    }

    fn history(&self) -> &History {
        &self.history
    }

    fn connections(&self, after: u64, limit: usize) -> (Vec<ConnectionInfo>, bool, usize) {
        let now = clock::now();
        let connections = self.connections.read();
        let (ids, more) = status::page(connections.keys().copied(), after, limit);
        let infos = ids.iter().filter_map(|id| connections.get(id)).map(|outlet| connection_info(outlet, now));
        (infos.collect(), more, connections.len())
    }
}

/// A connection, from the accepted socket on. Its size is part of what an idle connection costs.
#[expect(clippy::large_enum_variant, reason = "the large one is what it becomes for good")]
pub enum Link {
    ShakingHands(Pin<Box<dyn Future<Output = Option<Connection>> + Send>>),
    Open(Connection),
}

impl Future for Link {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        if let Self::ShakingHands(handshake) = &mut *self {
            match ready!(handshake.as_mut().poll(task)) {
                Some(connection) => *self = Self::Open(connection),
                None => return Poll::Ready(()),
            }
        }
        match &mut *self {
            Self::Open(connection) => Pin::new(connection).poll(task),
            Self::ShakingHands(_) => Poll::Ready(()),
        }
    }
}

/// What the rules say of a request.
enum Judgement {
    Decided(Decision),
    /// In order; now for the application.
    Ask(Accept),
    /// See [`Verdict::File`].
    File(Option<Response>),
}

impl Judgement {
    fn refuse(response: Response) -> Self {
        Self::Decided(Decision::Refuse(response))
    }
}

/// A place among `limits.maxConnections`, held from accept until the connection has closed.
#[derive(Debug)]
struct Admission {
    server: Arc<Server>,
    shard: Arc<crate::shard::Shard>,
    /// The connection has it now.
    transferred: bool,
    ip: Option<IpAddr>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        if !self.transferred {
            self.server.release(self.ip);
            self.shard.population.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// See [`http::answer_and_close`]. Boxed, because most handshakes never need the room.
fn turn_away(stream: &mut Stream, answer: Bytes, linger: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
    Box::pin(async move {
        let _ = http::answer_and_close(stream, &answer, linger).await;
    })
}

/// Sends the rest of an answer that the socket did not take at once. Boxed for the same reason.
fn send_in_time(stream: &mut Stream, rest: Bytes, limit: Duration) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
    use tokio::io::AsyncWriteExt;
    Box::pin(async move {
        let send = async {
            stream.write_all(&rest).await?;
            stream.flush().await
        };
        matches!(tokio::time::timeout(limit, send).await, Ok(Ok(())))
    })
}

fn descriptor_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(RESERVED_DESCRIPTORS).max(1)).unwrap_or(usize::MAX)
}
