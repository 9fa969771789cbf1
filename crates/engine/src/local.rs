//! The in-process [`Bridge`]: the application and the engine in one process.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::time::{Sleep, sleep_until};

use crate::bridge::{
    Bridge, Command, CommandError, ConnId, Delivery, DeliveryId, EndpointId, Event, LogLevel, LogRecord, MESSAGE_COST,
    Reply, Sent, Stat, Stats, Ticket,
};
use crate::client::Client;
use crate::clock;
use crate::config::Spawn;
use crate::core::{Core, Endpoint};
use crate::events::{self, EventQueue};
use crate::outlet::{Ending, Item, Outlet};
use crate::seat::Seat;
use crate::server::Server;
use crate::shard::Shard;
use crate::workers::gateway::{self, Gateway};

/// Bytes of messages that one [`Bridge::receive`] hands over at most: they are the application's from
/// then on, so a batch must not be what breaks its memory.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// How many turns a runtime makes before it looks at its sockets and at what else there is.
const TURNS: u32 = 31;

/// Turns of connections between two such looks from which on more of them wait.
const CROWD: u32 = TURNS * 3 / 4;

/// How long the application's thread goes on for a crowd before it turns to its events.
const STRETCH: Duration = Duration::from_millis(2);

/// How much it may have taken in when it goes on: long messages had better be worked on while the caches have them.
const STRETCH_BYTES: usize = 1024 * 1024;

/// How the I/O threads are started.
#[derive(Clone)]
pub struct RuntimeConfig {
    /// At least 1.
    pub io_threads: usize,
    /// Called on each thread before anything else: the place to block signals.
    pub on_thread_start: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for RuntimeConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RuntimeConfig").field("io_threads", &self.io_threads).finish_non_exhaustive()
    }
}

/// See the module's documentation. Stop it with [`Local::shutdown`]; after a fork the child must forget
/// it instead of dropping it.
#[derive(Debug)]
pub struct Local {
    core: Arc<Core>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    driver: Option<Driver>,
    /// Dropped by each thread when it ends: the receiver then knows that all have.
    ended: crossbeam_channel::Receiver<()>,
    /// Where a server's callbacks run in workers.
    gateway: Mutex<Option<Gateway>>,
    has_gateway: AtomicBool,
}

impl Local {
    /// Starts the I/O threads. They do all the work; [`Bridge::drive`] does nothing.
    ///
    /// # Errors
    /// What the system says when it has no descriptor or thread left.
    pub fn start(config: &RuntimeConfig) -> std::io::Result<Arc<Self>> {
        Self::start_with(config, None)
    }

    /// Starts the I/O threads, for an application that calls [`Bridge::drive`] when it would sleep. That
    /// ends early when `interrupt`, which is never read, becomes readable.
    ///
    /// # Errors
    /// What the system says when it has no descriptor or thread left.
    pub fn start_driven(config: &RuntimeConfig, interrupt: OwnedFd) -> std::io::Result<Arc<Self>> {
        Self::start_with(config, Some(interrupt))
    }

    fn start_with(config: &RuntimeConfig, interrupt: Option<OwnedFd>) -> std::io::Result<Arc<Self>> {
        let count = config.io_threads.max(1);
        let events = Arc::new(EventQueue::new()?);
        let mut runtimes = Vec::with_capacity(count);
        let mut shards = Vec::with_capacity(count);
        for index in 0..count {
            let hook = config.on_thread_start.clone();
            let settled = events.clone();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .thread_name("lifeline-dns")
                .max_blocking_threads(16)
                .thread_keep_alive(Duration::from_secs(5))
                .event_interval(TURNS)
                .on_thread_start(move || hook())
                .on_thread_park(move || settled.settle())
                .build()?;
            let seat = (index == 0 && interrupt.is_some()).then(Arc::default);
            shards.push(Arc::new(Shard::new(index, runtime.handle().clone(), seat)));
            runtimes.push(Arc::new(runtime));
        }
        let driver = interrupt.map(|interrupt| Driver::new(&runtimes[0], interrupt)).transpose()?;
        let core = Arc::new(Core::new(shards, events));
        core.keeper.set_hook(config.on_thread_start.clone());
        let (running, ended) = crossbeam_channel::bounded::<()>(0);
        let mut threads = Vec::with_capacity(count);
        for (index, runtime) in runtimes.into_iter().enumerate() {
            let shard = core.shards[index].clone();
            let weak = Arc::downgrade(&core);
            let hook = config.on_thread_start.clone();
            let running = running.clone();
            let events = core.events.clone();
            threads.push(std::thread::Builder::new().name(format!("lifeline-io-{index}")).spawn(move || {
                hook();
                events::defer_wakes();
                serve(&runtime, &shard, &events, &weak);
                // A name lookup that hangs must not hold up the end of the process.
                if let Some(runtime) = Arc::into_inner(runtime) {
                    runtime.shutdown_timeout(Duration::from_millis(100));
                }
                events.settle();
                drop(running);
            })?);
        }
        let (gateway, has_gateway) = (Mutex::default(), AtomicBool::new(false));
        Ok(Arc::new(Self { core, threads: Mutex::new(threads), driver, ended, gateway, has_gateway }))
    }

    /// Stops all I/O threads, dropping every socket, and waits for them up to `deadline`; true when
    /// all have ended. Stop servers and close clients first.
    pub fn shutdown(&self, deadline: Duration) -> bool {
        drop(self.gateway.lock().take());
        if let Some(driver) = &self.driver {
            driver.end();
            self.core.events.forget_driver();
            self.rest();
        }
        for shard in &self.core.shards {
            shard.stop();
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        let joined = !matches!(self.ended.recv_timeout(deadline), Err(crossbeam_channel::RecvTimeoutError::Timeout));
        if joined {
            for thread in threads {
                // A panic on an I/O thread was reported by the panic hook.
                let _ = thread.join();
            }
        }
        self.core.keeper.stop();
        let endpoints: Vec<Endpoint> = self.core.endpoints.read().values().cloned().collect();
        for endpoint in endpoints {
            match endpoint {
                Endpoint::Client(client) => client.seal(),
                Endpoint::Server(server) => server.sessions.close_store(),
            }
        }
        // Break the circles of shards and connections, and of endpoints and core.
        for shard in &self.core.shards {
            shard.forget_mail();
        }
        self.core.endpoints.write().clear();
        self.core.connections.write().clear();
        joined
    }

    /// How long the application has been at work without asking for events; zero when it is idle.
    pub fn lag(&self) -> Duration {
        self.core.events.lag()
    }

    fn outlet(&self, conn: ConnId) -> Option<Arc<Outlet>> {
        self.core.connection(conn)
    }

    fn server(&self, id: EndpointId) -> Result<Arc<Server>, CommandError> {
        match self.core.endpoint(id) {
            Some(Endpoint::Server(server)) => Ok(server),
            _ => Err(CommandError::Gone("the server".into())),
        }
    }

    fn server_of(&self, outlet: &Outlet) -> Result<Arc<Server>, CommandError> {
        self.server(outlet.endpoint())
    }

    fn client(&self, id: EndpointId) -> Result<Arc<Client>, CommandError> {
        match self.core.endpoint(id) {
            Some(Endpoint::Client(client)) => Ok(client),
            _ => Err(CommandError::Gone("the client".into())),
        }
    }

    /// The client that has put the question.
    fn asking_client(&self, ticket: Ticket) -> Option<Arc<Client>> {
        self.core.endpoints.read().values().find_map(|endpoint| match endpoint {
            Endpoint::Client(client) if client.has_ticket(ticket) => Some(client.clone()),
            _ => None,
        })
    }

    fn server_that_asked(&self, ticket: Ticket) -> Option<Arc<Server>> {
        self.core.endpoints.read().values().find_map(|endpoint| match endpoint {
            Endpoint::Server(server) if server.sessions.has_ticket(ticket) => Some(server.clone()),
            _ => None,
        })
    }

    fn end(&self, conn: ConnId, ending: Ending) {
        if let Some(outlet) = self.outlet(conn) {
            if matches!(ending, Ending::Close { .. }) {
                outlet.set_closing();
            }
            outlet.end(ending);
            self.core.mark(&outlet);
        }
    }

    fn send(&self, outlet: &Arc<Outlet>, item: Item) -> Sent {
        let size = item.size();
        let is_message = matches!(item, Item::Message { .. });
        let sent = outlet.push(item);
        if is_message && sent == Sent::Queued {
            outlet.count_message(clock::now());
        }
        if sent != Sent::Closed {
            self.core.mark_queued(outlet);
            self.core.count_queued(size);
        }
        sent
    }
}

impl Local {
    pub(crate) fn event_queue(&self) -> Arc<EventQueue> {
        self.core.events.clone()
    }

    /// Connections, endpoints and questions get numbers from these on.
    pub(crate) fn number_from(&self, connections: u64, endpoints: u32) {
        self.core.number_from(connections, endpoints);
    }

    /// Returns when all workers of the server have called `run()`.
    fn start_workers(&self, server: &Arc<Server>, spawn: Spawn) -> Result<(), CommandError> {
        if self.gateway.lock().is_some() {
            return Err(CommandError::Start(
                "a process has one server with workers, and this one has it already".into(),
            ));
        }
        // The I/O threads do all the work meanwhile.
        self.rest();
        let handle = self.core.shards[0].handle.clone();
        let gateway = Gateway::start(self, server.clone(), spawn, gateway::settings(server), handle);
        *self.gateway.lock() = Some(gateway);
        self.has_gateway.store(true, Ordering::Relaxed);
        let mut events = Vec::new();
        let result = loop {
            self.receive(&mut events, usize::MAX);
            let readiness = self
                .gateway
                .lock()
                .as_ref()
                .map_or(Ok(true), |gateway| gateway.roster.readiness().map_err(ToOwned::to_owned));
            match readiness {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(why) => break Err(CommandError::Start(why)),
            }
            if self.prepare_sleep() {
                let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
                // A signal only makes it look once more.
                let _ = rustix::event::poll(&mut [PollFd::new(&self.descriptor(), PollFlags::IN)], Some(&limit));
            }
        };
        // For the application, when it is ready to take them.
        for event in events {
            self.core.events.push(event);
        }
        if result.is_ok() {
            // Who is told that it is ready may ask at once.
            if let Some(gateway) = &*self.gateway.lock() {
                server.set_workers(gateway.stats(), gateway.roster.is_served());
            }
            server.announce(&self.core);
        } else {
            self.has_gateway.store(false, Ordering::Relaxed);
            drop(self.gateway.lock().take());
            server.discard();
        }
        result
    }

    fn carry_out(&self, command: Command) -> Result<Reply, CommandError> {
        Ok(match command {
            Command::StartServer(config) => Reply::Endpoint(Server::start(&self.core, *config)?),
            Command::StopServer { server, drain } => {
                self.server(server)?.stop(drain);
                Reply::Done
            }
            Command::Addresses { server } => Reply::Names(self.server(server)?.addresses()),
            Command::AnswerHandshake { ticket, answer } => {
                for endpoint in self.core.endpoints.read().values() {
                    if let Endpoint::Server(server) = endpoint
                        && server.has_ticket(ticket)
                    {
                        server.answer_handshake(ticket, answer);
                        break;
                    }
                }
                Reply::Done
            }

            Command::Send { conn, data, binary } => {
                let Some(outlet) = self.outlet(conn) else { return Ok(Reply::Sent(Sent::Closed)) };
                if let Some(sessions) = outlet.context.sessions.as_ref().filter(|_| outlet.is_lifeline()) {
                    let len = data.len();
                    let sent = sessions.send(&outlet, data, binary);
                    self.core.count_queued(len);
                    return Ok(Reply::Sent(sent));
                }
                Reply::Sent(self.send(&outlet, Item::Message { data, binary, sequence: 0 }))
            }
            Command::Ping { conn, payload } => {
                if payload.len() > 125 {
                    return Err(CommandError::Invalid(format!(
                        "a ping carries at most 125 bytes, these are {}",
                        payload.len()
                    )));
                }
                if let Some(outlet) = self.outlet(conn) {
                    self.send(&outlet, Item::Ping(payload));
                }
                Reply::Done
            }
            Command::Close { conn, code, reason } => {
                self.end(conn, Ending::Close { code, wire: code, reason });
                Reply::Done
            }
            Command::Abort { conn } => {
                self.end(conn, Ending::Abort { code: lifeline_proto::close::ABNORMAL, reason: "aborted".to_owned() });
                Reply::Done
            }
            Command::Consumed { conn, messages, bytes } => {
                if let Some(outlet) = self.outlet(conn) {
                    if outlet.consumed(bytes + messages * MESSAGE_COST) {
                        self.core.mark(&outlet);
                    }
                    if outlet.is_closed() {
                        self.core.forget_connection(conn);
                    }
                }
                Reply::Done
            }
            Command::Trace { conn, on } => {
                if let Some(outlet) = self.outlet(conn) {
                    outlet.tracing.store(on, Ordering::Relaxed);
                }
                Reply::Done
            }
            Command::BufferedBytes { conn } => {
                Reply::Count(self.outlet(conn).map_or(0, |outlet| outlet.waiting_bytes()))
            }
            Command::RoundTrip { conn } => Reply::Time(self.outlet(conn).and_then(|outlet| outlet.round_trip())),
            Command::IsOpen { conn } => Reply::Flag(self.outlet(conn).is_some_and(|outlet| outlet.is_open())),
            Command::ConnStats { conn } => {
                Reply::Stats(self.outlet(conn).map_or_else(Stats::default, |outlet| connection_stats(&outlet)))
            }

            Command::Broadcast { server, data, binary, except } => {
                Reply::Count(self.server(server)?.broadcast(&data, binary, &except))
            }
            Command::Publish { server, channel, data, binary, except } => {
                Reply::Count(self.server(server)?.publish(&channel, &data, binary, &except))
            }
            Command::SendToUser { server, user, data, binary } => {
                Reply::Count(self.server(server)?.send_to_user(&user, &data, binary))
            }
            Command::DisconnectUser { server, user, code, reason } => {
                Reply::Count(self.server(server)?.disconnect_user(&user, code, &reason))
            }
            Command::Bind { conn, user } => {
                if let Some(outlet) = self.outlet(conn) {
                    self.server_of(&outlet)?.bind(&outlet, &user);
                }
                Reply::Done
            }
            Command::Subscribe { conn, channel } => match self.outlet(conn) {
                Some(outlet) => Reply::Flag(self.server_of(&outlet)?.subscribe(&outlet, &channel)?),
                None => Reply::Flag(false),
            },
            Command::Unsubscribe { conn, channel } => match self.outlet(conn) {
                Some(outlet) => Reply::Flag(self.server_of(&outlet)?.unsubscribe(&outlet, &channel)),
                None => Reply::Flag(false),
            },
            Command::ChannelsOf { conn } => Reply::Names(self.outlet(conn).map_or_else(Vec::new, |outlet| {
                outlet.membership.lock().as_ref().map_or_else(Vec::new, |membership| membership.channels.clone())
            })),
            Command::Channels { server } => Reply::Names(self.server(server)?.sessions.directory.channels()),
            Command::Members { server, channel } => {
                let mut ids = Vec::new();
                self.server(server)?.sessions.directory.for_each_member(&channel, |outlet| ids.push(outlet.id));
                ids.sort_unstable();
                Reply::Conns(ids)
            }
            Command::ConnectionsOf { server, user } => {
                let mut ids = Vec::new();
                self.server(server)?.sessions.directory.for_each_of_user(&user, |outlet| ids.push(outlet.id));
                ids.sort_unstable();
                Reply::Conns(ids)
            }
            Command::Connections { server } => Reply::Conns(self.server(server)?.connection_ids()),
            Command::CountConnections { server } => Reply::Count(self.server(server)?.count()),
            Command::EndpointStats { endpoint } => Reply::Stats(match self.core.endpoint(endpoint) {
                Some(Endpoint::Server(server)) => {
                    // Who asks from within a turn of the gateway knows better.
                    if let Some(Some(gateway)) = self.gateway.try_lock().as_deref()
                        && gateway.endpoint() == endpoint
                    {
                        server.set_workers(gateway.stats(), gateway.roster.is_served());
                    }
                    server.stats()
                }
                Some(Endpoint::Client(client)) => client.stats(),
                None => Stats::default(),
            }),

            Command::Begin { delivery: Delivery::Stream(_) | Delivery::Channel(_), .. } => Reply::Flag(true),
            Command::Settle { endpoint, delivery: Delivery::Stream(delivered), .. } => {
                if let Ok(client) = self.client(endpoint) {
                    client.settle_delivery(delivered);
                }
                Reply::Done
            }
            Command::Settle { endpoint, delivery: Delivery::Channel(place), .. } => {
                if let Ok(client) = self.client(endpoint) {
                    client.settle_channel(*place);
                }
                Reply::Done
            }
            Command::Begin { endpoint, delivery: Delivery::Item { id, .. } } => {
                Reply::Flag(self.step(endpoint, None, Some(id)))
            }
            Command::Settle { endpoint, delivery, verdict } => {
                if let Some(Endpoint::Server(server)) = self.core.endpoint(endpoint) {
                    server.sessions.settle(&delivery, verdict);
                }
                Reply::Done
            }
            Command::AnswerAuthentication { ticket, answer } => {
                if let Some(server) = self.server_that_asked(ticket) {
                    server.sessions.answer_authentication(ticket, answer);
                }
                Reply::Done
            }
            Command::AnswerAuthorisation { conn, channel, allowed } => {
                if let Some(outlet) = self.outlet(conn) {
                    self.server_of(&outlet)?.sessions.answer_authorisation(conn, &channel, allowed);
                }
                Reply::Done
            }
            Command::AnswerSnapshot { ticket, state } => {
                if let Some(server) = self.server_that_asked(ticket) {
                    server.sessions.answer_snapshot(ticket, state.as_ref());
                }
                Reply::Done
            }
            Command::Session { server, session } => {
                Reply::Session(self.server(server)?.sessions.session(&session).map(Box::new))
            }
            Command::SessionSend { server, session, data, binary } => {
                let len = data.len();
                let sequence = self.server(server)?.sessions.send_to_session(&session, data, binary);
                self.core.count_queued(len);
                Reply::Sequence(sequence)
            }
            Command::SessionChange { server, session, change, if_version } => {
                Reply::Version(self.server(server)?.sessions.change(&session, change, if_version))
            }
            Command::SessionOnline { server, session } => {
                Reply::Flag(self.server(server)?.sessions.is_online(&session))
            }

            Command::OpenDocument { server, channel, bounds, write, watch } => {
                self.server(server)?.sessions.open_document(&channel, bounds, write, watch)?;
                Reply::Done
            }
            Command::Document { server, channel, key } => {
                let document = self.server(server)?.sessions.document(&channel, key.as_deref());
                Reply::Document(document.map(Box::new))
            }
            Command::ChangeDocument { server, channel, key, value, if_version } => {
                let sessions = &self.server(server)?.sessions;
                Reply::Version(sessions.change_document(&channel, &key, value.as_deref(), if_version)?)
            }
            Command::AnswerEdit { server, delivery, data, allowed } => {
                if let Some(Endpoint::Server(server)) = self.core.endpoint(server) {
                    server.sessions.answer_edit(&delivery, &data, allowed);
                }
                Reply::Done
            }
            Command::TakeChanges { server, channel } => {
                Reply::Changes(self.server(server)?.sessions.take_changes(&channel))
            }

            Command::CreateClient(config) => Reply::Endpoint(Client::create(&self.core, *config)?),
            Command::Connect { client } => {
                self.client(client)?.connect();
                Reply::Done
            }
            Command::Wake { client } => {
                self.client(client)?.wake();
                Reply::Done
            }
            Command::ClientSendMany { client, messages, binary } => self.client(client)?.send_many(messages, binary)?,
            Command::ClientSend { client, data, binary, ttl } => self.client(client)?.send(data, binary, ttl)?,
            Command::Unacknowledged { client } => Reply::Count(self.client(client)?.unacknowledged()),
            Command::ClientState { client } => {
                Reply::State(self.client(client).map_or(lifeline_proto::client::State::Closed, |client| client.state()))
            }
            Command::ClientSubscribe { client, channel, on } => {
                self.client(client)?.subscribe(&channel, on)?;
                Reply::Done
            }
            Command::FollowDocument { client, channel, asks } => {
                self.client(client)?.open_document(&channel, asks)?;
                Reply::Done
            }
            Command::Replica { client, channel, key } => {
                let document = self.client(client)?.document(&channel, key.as_deref());
                Reply::Document(document.map(Box::new))
            }
            Command::EditReplica { client, channel, key, value, on } => {
                self.client(client)?.edit(&channel, &key, value.as_deref(), on)?
            }
            Command::TakeConflicts { client, channel } => {
                Reply::Conflicts(self.client(client)?.take_conflicts(&channel))
            }
            Command::TakeReplicaChanges { client, channel } => {
                Reply::Changes(self.client(client)?.take_replica_changes(&channel))
            }
            Command::RefreshToken { client } => {
                self.client(client)?.refresh_token();
                Reply::Done
            }
            Command::AnswerToken { ticket, token } => {
                if let Some(client) = self.asking_client(ticket) {
                    client.answer_token(ticket, token);
                }
                Reply::Done
            }
            Command::AnswerHeaders { ticket, headers } => {
                if let Some(client) = self.asking_client(ticket) {
                    client.answer_headers(ticket, headers);
                }
                Reply::Done
            }
            Command::FailAttempt { ticket, reason } => {
                if let Some(client) = self.asking_client(ticket) {
                    client.fail_attempt(ticket, reason);
                }
                Reply::Done
            }
            Command::CloseClient { client, code, reason } => {
                self.client(client)?.close(code, reason);
                Reply::Done
            }
            Command::Opened { .. } | Command::Ended { .. } | Command::Released { .. } => Reply::Done,
            Command::Describe { conns } => match &*self.gateway.lock() {
                Some(gateway) => gateway.roster.describe(conns),
                // Nobody else serves any.
                None => Reply::Described(Vec::new()),
            },
            Command::StartWorkers { server, spawn } => {
                self.start_workers(&self.server(server)?, *spawn)?;
                Reply::Done
            }
            Command::Reload { server } => {
                match &mut *self.gateway.lock() {
                    Some(gateway) if gateway.endpoint() == server => gateway.reload(self)?,
                    _ => return Err(CommandError::Invalid("the server has no workers (option 'workers')".into())),
                }
                Reply::Done
            }
            Command::Forget { endpoint } => {
                self.core.remove_endpoint(endpoint);
                Reply::Done
            }
            Command::Discard { endpoint } => {
                match self.core.endpoint(endpoint) {
                    Some(Endpoint::Server(server)) => server.discard(),
                    Some(Endpoint::Client(client)) => client.discard(),
                    None => {}
                }
                Reply::Done
            }
        })
    }
}

/// What an I/O thread does until its shard is stopped.
fn serve(runtime: &Runtime, shard: &Arc<Shard>, events: &EventQueue, core: &Weak<Core>) {
    if let Some(seat) = &shard.seat {
        seat.sit_down();
    }
    // A task of its own: whoever drives the runtime polls it.
    let mut pump = runtime.spawn(supervise(shard.clone(), core.clone()));
    loop {
        let stopped = runtime.block_on(poll_fn(|task| {
            if Pin::new(&mut pump).poll(task).is_ready() {
                return Poll::Ready(true);
            }
            match &shard.seat {
                Some(seat) => seat.poll_wanted(task).map(|()| false),
                None => Poll::Pending,
            }
        }));
        if stopped {
            return;
        }
        events.settle();
        if let Some(seat) = &shard.seat
            && seat.hand_over()
        {
            events.signal();
            seat.watch();
            shard.taken_over();
            // What the callback that takes long, or others before it, have sent.
            if let Some(core) = core.upgrade() {
                core.flush();
            }
        }
    }
}

/// Runs the shard's pump, again when it falls.
async fn supervise(shard: Arc<Shard>, core: Weak<Core>) {
    while let Err(panic) = AssertUnwindSafe(shard.clone().pump(core.clone())).catch_unwind().await {
        report_panic(&core, shard.index, &*panic);
        // What the pump had in its hands when it fell is found by who is woken for nothing.
        shard.wake_all();
        // A pump that falls again and again must not take the whole machine along.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The application's means to do the first I/O thread's work.
#[derive(Debug)]
struct Driver {
    /// None when the threads are being stopped.
    means: Mutex<Option<Means>>,
}

/// What is registered with a runtime has to go before it, or is never freed.
#[derive(Debug)]
struct Means {
    interrupt: AsyncFd<OwnedFd>,
    /// Kept from one wait to the next, which mostly end long before it would fire.
    timer: Option<Pin<Box<Sleep>>>,
    runtime: Arc<Runtime>,
}

impl Driver {
    fn new(runtime: &Arc<Runtime>, interrupt: OwnedFd) -> std::io::Result<Self> {
        let _context = runtime.enter();
        // Deprecated because of types that may close their descriptor on the sly; `OwnedFd` does not. What
        // replaces it is unsafe, which has no place here.
        #[expect(deprecated)]
        let interrupt = AsyncFd::try_with_interest(interrupt, Interest::READABLE)?;
        Ok(Self { means: Mutex::new(Some(Means { interrupt, timer: None, runtime: runtime.clone() })) })
    }

    fn drive(&self, shard: &Shard, seat: &Seat, events: &EventQueue, limit: Option<Duration>) -> bool {
        struct Driving<'a>(&'a Seat, &'a EventQueue);
        impl Drop for Driving<'_> {
            fn drop(&mut self) {
                self.1.end_driving();
                self.0.leave();
            }
        }
        let mut means = self.means.lock();
        let Some(Means { interrupt, timer, runtime }) = &mut *means else { return false };
        // With events to work on, the application leaves the sockets to the thread that has them.
        if events.len() > 0 && !seat.is_away() {
            return false;
        }
        if !seat.take() {
            return false;
        }
        events.begin_driving();
        let _driving = Driving(seat, events);
        let begin = Instant::now();
        let deadline = limit.map(|limit| begin + limit);
        let mut first = true;
        let mut turns = events::turns();
        let pushed = events::pushed();
        runtime.block_on(poll_fn(|task| {
            let sleeps = events.poll_sleep(task);
            // Tokio asks after some turns whether to go on. With so many, others wait for theirs.
            let crowded = events::turns().wrapping_sub(std::mem::replace(&mut turns, events::turns())) >= CROWD;
            if std::mem::take(&mut first) {
                shard.taken_over();
                // At least one look at the sockets, or an application with timers that are always due
                // would never read.
                if !sleeps || limit.is_some_and(|limit| limit.is_zero()) {
                    task.waker().wake_by_ref();
                }
            } else if crowded && begin.elapsed() < STRETCH && events::pushed().wrapping_sub(pushed) < STRETCH_BYTES {
                task.waker().wake_by_ref();
            } else if !sleeps || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Poll::Ready(());
            }
            if let Poll::Ready(Ok(mut ready)) = interrupt.poll_read_ready(task) {
                ready.clear_ready();
                return Poll::Ready(());
            }
            if let Some(deadline) = deadline {
                set_timer(timer, task, deadline);
            }
            Poll::Pending
        }));
        true
    }

    fn end(&self) {
        *self.means.lock() = None;
    }
}

/// Has the task woken at `deadline`, or earlier.
fn set_timer(timer: &mut Option<Pin<Box<Sleep>>>, task: &mut Context<'_>, deadline: Instant) {
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline.into())));
    if timer.deadline() > deadline.into() || timer.as_mut().poll(task).is_ready() {
        timer.as_mut().reset(deadline.into());
        let _ = timer.as_mut().poll(task);
    }
}

/// An I/O thread's pump fell and begins anew. The panic hook has written to the error output.
fn report_panic(core: &Weak<Core>, thread: usize, panic: &(dyn Any + Send)) {
    let what = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    if let Some(core) = core.upgrade() {
        let message = format!("internal error: I/O thread {thread} panicked and goes on: {what}");
        let record = LogRecord { level: LogLevel::Error, message, context: Vec::new() };
        core.events.push(Event::Log { endpoint: None, record: Box::new(record) });
    }
}

/// The answer of an endpoint that has ended, where that is no error: the application hears of the end
/// after the events before it, and what it does on those must not fail.
pub(crate) fn of_nothing(command: &Command) -> Option<Reply> {
    Some(match command {
        Command::StopServer { .. }
        | Command::Bind { .. }
        | Command::Connect { .. }
        | Command::Wake { .. }
        | Command::CloseClient { .. } => Reply::Done,
        Command::Subscribe { .. } | Command::Unsubscribe { .. } | Command::SessionOnline { .. } => Reply::Flag(false),
        Command::Broadcast { .. }
        | Command::Publish { .. }
        | Command::SendToUser { .. }
        | Command::DisconnectUser { .. }
        | Command::CountConnections { .. }
        | Command::Unacknowledged { .. } => Reply::Count(0),
        Command::Channels { .. } => Reply::Names(Vec::new()),
        Command::Session { .. } => Reply::Session(None),
        Command::SessionSend { .. } => Reply::Sequence(0),
        Command::SessionChange { .. } => Reply::Version(None),
        Command::Document { .. } | Command::Replica { .. } => Reply::Document(None),
        Command::TakeChanges { .. } | Command::TakeReplicaChanges { .. } => Reply::Changes(Vec::new()),
        Command::TakeConflicts { .. } => Reply::Conflicts(Vec::new()),
        Command::Members { .. } | Command::ConnectionsOf { .. } | Command::Connections { .. } => {
            Reply::Conns(Vec::new())
        }
        _ => return None,
    })
}

impl Bridge for Local {
    fn submit(&self, command: Command) -> Result<Reply, CommandError> {
        let of_nothing = of_nothing(&command);
        match (self.carry_out(command), of_nothing) {
            (Err(CommandError::Gone(_)), Some(reply)) => Ok(reply),
            (result, _) => result,
        }
    }

    fn send_now(&self, conn: ConnId, data: &[u8], binary: bool) -> bool {
        let Some(outlet) = self.outlet(conn).filter(|outlet| !outlet.is_lifeline()) else { return false };
        let Some(done) = outlet.send_now(data, binary) else { return false };
        outlet.count_message(clock::now());
        if !done {
            // The socket is full: the rest is for the task to write, while the application goes on.
            self.core.mark(&outlet);
            self.core.flush();
        }
        true
    }

    fn step(&self, endpoint: EndpointId, done: Option<DeliveryId>, begin: Option<DeliveryId>) -> bool {
        match self.core.endpoint(endpoint) {
            Some(Endpoint::Server(server)) => server.sessions.step(done, begin),
            _ => false,
        }
    }

    fn flush(&self) {
        self.core.end_batch();
        self.core.append();
        self.core.flush();
    }

    fn begin_work(&self) {
        self.core.events.begin_work();
    }

    fn receive(&self, into: &mut Vec<Event>, limit: usize) -> usize {
        let from = into.len();
        let count = self.core.events.receive(into, limit, BATCH_BYTES);
        for event in &into[from..] {
            match event {
                Event::Close { conn, .. } => self.core.forget_connection(*conn),
                Event::Gap { conn, gap, .. } => {
                    if let Some(outlet) = self.outlet(*conn)
                        && outlet.consumed(gap.cost())
                    {
                        Core::wake(&outlet);
                    }
                }
                Event::Overflow { client, data, .. } => {
                    if let Ok(client) = self.client(*client) {
                        client.handle_reported(data.len());
                    }
                }
                Event::Handshake { server, .. } => {
                    if let Ok(server) = self.server(*server) {
                        server.handle_asked();
                    }
                }
                _ => {}
            }
        }
        if self.has_gateway.load(Ordering::Relaxed)
            && let Some(gateway) = &mut *self.gateway.lock()
        {
            gateway.turn(self, into, from);
            return into.len() - from;
        }
        count
    }

    fn drive(&self, limit: Option<Duration>) -> bool {
        let shard = &self.core.shards[0];
        match (&self.driver, &shard.seat) {
            (Some(driver), Some(seat)) => driver.drive(shard, seat, &self.core.events, limit),
            _ => false,
        }
    }

    fn rest(&self) {
        if let Some(seat) = &self.core.shards[0].seat {
            seat.give_up();
        }
    }

    fn prepare_sleep(&self) -> bool {
        if !self.core.events.prepare_sleep() {
            return false;
        }
        // The call above may have cleared what told that the I/O thread has stopped for us.
        if self.core.shards[0].is_away() {
            self.core.events.signal();
            return false;
        }
        true
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.core.events.descriptor()
    }
}

/// Encodes a frame as servers send it: not masked.
pub fn server_frame(data: &[u8], binary: bool) -> Bytes {
    use lifeline_proto::frame::{Opcode, put_frame};
    let mut wire = bytes::BytesMut::with_capacity(data.len() + 10);
    put_frame(&mut wire, if binary { Opcode::Binary } else { Opcode::Text }, data, None);
    wire.freeze()
}

fn connection_stats(outlet: &Outlet) -> Stats {
    let counters = &outlet.counters;
    let int = |value: u64| Stat::Int(i64::try_from(value).unwrap_or(i64::MAX));
    let load = |counter: &std::sync::atomic::AtomicU64| int(counter.load(Ordering::Relaxed));
    Stats(vec![
        ("messagesIn".into(), load(&counters.messages_in)),
        ("messagesOut".into(), load(&counters.messages_out)),
        ("bytesIn".into(), load(&counters.bytes_in)),
        ("bytesOut".into(), load(&counters.bytes_out)),
        ("beats".into(), load(&counters.beats)),
        ("dropped".into(), load(&counters.dropped)),
        ("bufferedBytes".into(), int(outlet.buffered.load(Ordering::Relaxed) as u64)),
        ("inboundBytes".into(), int(outlet.inbound.load(Ordering::Relaxed) as u64)),
        ("rtt".into(), outlet.round_trip().map_or(Stat::None, |rtt| Stat::Float(rtt.as_secs_f64()))),
        ("uptime".into(), Stat::Float((crate::clock::now() - outlet.opened).as_secs_f64())),
        (
            "compression".into(),
            outlet.compression().map_or(Stat::None, |compression| {
                let agreed = Stat::Text(compression.agreement().response());
                Stat::Tree(compression.counters.stats(vec![("agreed".into(), agreed)]))
            }),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

    use super::*;
    use crate::config::{ListenAddress, ServerConfig};

    /// A server on one I/O thread and its address.
    fn serve() -> (Arc<Local>, EndpointId, String) {
        let config = RuntimeConfig { io_threads: 1, on_thread_start: Arc::new(|| {}) };
        serve_on(Local::start(&config).unwrap())
    }

    /// The same for an application that drives, and what ends that.
    fn serve_driven() -> (Arc<Local>, OwnedFd, String) {
        let config = RuntimeConfig { io_threads: 1, on_thread_start: Arc::new(|| {}) };
        let interrupt = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let (local, _, address) = serve_on(Local::start_driven(&config, interrupt.try_clone().unwrap()).unwrap());
        (local, interrupt, address)
    }

    fn serve_on(local: Arc<Local>) -> (Arc<Local>, EndpointId, String) {
        let mut config = ServerConfig {
            listen: vec![ListenAddress::Tcp { host: "127.0.0.1".into(), port: 0, tls: false }],
            ..ServerConfig::default()
        };
        // A beat that is due would make up for a wake that was forgotten.
        config.heartbeat.rules.mode = lifeline_proto::heartbeat::Mode::Off;
        let Reply::Endpoint(server) = local.submit(Command::StartServer(Box::new(config))).unwrap() else { panic!() };
        let Reply::Names(names) = local.submit(Command::Addresses { server }).unwrap() else { panic!() };
        let address = names[0].trim_start_matches("ws://").to_owned();
        (local, server, address)
    }

    fn connect(address: &str) -> std::net::TcpStream {
        let mut peer = std::net::TcpStream::connect(address).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        peer.write_all(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            assert_eq!(peer.read(&mut byte).unwrap(), 1);
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        peer
    }

    /// The next event that `pick` takes.
    fn wait<T>(local: &Local, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut events = Vec::new();
        while Instant::now() < deadline {
            local.receive(&mut events, 1);
            if let Some(found) = events.pop().and_then(&mut pick) {
                return found;
            }
            std::thread::yield_now();
        }
        panic!("the awaited event did not come");
    }

    /// A text message there and back.
    fn echo(local: &Local, peer: &mut std::net::TcpStream) {
        peer.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'o', b'k']).unwrap();
        let (conn, data) =
            wait(local, |event| if let Event::Message { conn, data, .. } = event { Some((conn, data)) } else { None });
        local.submit(Command::Consumed { conn, messages: 1, bytes: data.len() }).unwrap();
        local.submit(Command::Send { conn, data, binary: false }).unwrap();
        local.flush();
        let mut answer = [0; 4];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0x81, 2, b'o', b'k']);
    }

    /// Drives once it is allowed to.
    fn drive(local: &Local, limit: Option<Duration>) {
        while !local.drive(limit) {
            // There is something to receive.
            if !local.prepare_sleep() {
                return;
            }
            poll(&mut [PollFd::new(&local.descriptor(), PollFlags::IN)], None).unwrap();
        }
    }

    /// The connection's next message, got by driving alone.
    fn driven_message(local: &Local) -> (ConnId, Bytes) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut events = Vec::new();
        while Instant::now() < deadline {
            drive(local, Some(Duration::from_secs(1)));
            local.receive(&mut events, 64);
            for event in events.drain(..) {
                if let Event::Message { conn, data, .. } = event {
                    return (conn, data);
                }
            }
        }
        panic!("the awaited message did not come");
    }

    #[test]
    fn an_application_that_drives_needs_no_other_thread() {
        let (local, _interrupt, address) = serve_driven();
        let peer = std::thread::spawn(move || {
            let mut peer = connect(&address);
            for _ in 0..100 {
                peer.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'o', b'k']).unwrap();
                let mut answer = [0; 4];
                peer.read_exact(&mut answer).unwrap();
                assert_eq!(answer, [0x81, 2, b'o', b'k']);
            }
        });
        let seat = local.core.shards[0].seat.clone().unwrap();
        let mut away = 0;
        for _ in 0..100 {
            let (conn, data) = driven_message(&local);
            away += usize::from(seat.is_away());
            local.submit(Command::Consumed { conn, messages: 1, bytes: data.len() }).unwrap();
            local.submit(Command::Send { conn, data, binary: false }).unwrap();
            local.flush();
        }
        peer.join().unwrap();
        // Some other thread may have found this one asleep for long.
        assert!(away > 50, "drove for {away} of 100 messages");
        assert!(local.shutdown(Duration::from_secs(30)));
    }

    #[test]
    fn sockets_do_not_wait_for_an_application_at_work() {
        let (local, _interrupt, address) = serve_driven();
        let opened = std::thread::spawn(move || {
            let mut peer = connect(&address);
            peer.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'o', b'k']).unwrap();
            peer
        });
        let (conn, _) = driven_message(&local);
        let mut peer = opened.join().unwrap();
        // From here on it neither drives nor sleeps. What it leaves behind is done, ...
        local.submit(Command::Ping { conn, payload: Bytes::from_static(b"p") }).unwrap();
        local.submit(Command::Close { conn, code: 1000, reason: String::new() }).unwrap();
        local.flush();
        let mut frames = [0; 7];
        peer.read_exact(&mut frames).unwrap();
        assert_eq!(frames, [0x89, 1, b'p', 0x88, 2, 3, 0xE8]);
        // ... and whoever comes is welcome.
        let Reply::Names(names) =
            local.submit(Command::Addresses { server: local.outlet(conn).unwrap().endpoint() }).unwrap()
        else {
            panic!()
        };
        let mut other = connect(names[0].trim_start_matches("ws://"));
        other.write_all(&[0x89, 0x80, 0, 0, 0, 0]).unwrap();
        let mut pong = [0; 2];
        other.read_exact(&mut pong).unwrap();
        assert_eq!(pong, [0x8A, 0]);
        assert!(local.shutdown(Duration::from_secs(30)));
    }

    #[test]
    fn driving_ends_at_its_limit_and_when_interrupted() {
        let (local, interrupt, _) = serve_driven();
        drive(&local, Some(Duration::ZERO));
        let before = Instant::now();
        drive(&local, Some(Duration::from_millis(20)));
        assert!(before.elapsed() >= Duration::from_millis(20));
        rustix::io::write(&interrupt, &1_u64.to_ne_bytes()).unwrap();
        drive(&local, None);
        // It is not read, and not seen twice.
        let before = Instant::now();
        drive(&local, Some(Duration::from_millis(20)));
        assert!(before.elapsed() >= Duration::from_millis(20));
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            rustix::io::write(&interrupt, &1_u64.to_ne_bytes()).unwrap();
        });
        drive(&local, None);
        writer.join().unwrap();
        assert!(local.shutdown(Duration::from_secs(30)));
    }

    #[test]
    fn a_panic_in_a_connection_ends_that_one_alone() {
        let (local, server, address) = serve();
        let mut neighbour = connect(&address);
        let mut peer = connect(&address);
        for _ in 0..2 {
            wait(&local, |event| matches!(event, Event::Open { .. }).then_some(()));
        }
        peer.write_all(&[0x81, 0x85, 0, 0, 0, 0, b'p', b'a', b'n', b'i', b'c']).unwrap();
        let (code, reason) =
            wait(
                &local,
                |event| if let Event::Close { code, reason, .. } = event { Some((code, reason)) } else { None },
            );
        assert_eq!((code, &*reason), (1006, "internal error: the connection's task panicked"));
        assert_eq!(peer.read(&mut [0; 16]).unwrap_or(0), 0, "the socket is closed");
        echo(&local, &mut neighbour);
        let Reply::Count(open) = local.submit(Command::CountConnections { server }).unwrap() else { panic!() };
        assert_eq!(open, 1);
        assert_eq!(local.core.shards[0].population.load(Ordering::Relaxed), 1);
        assert_eq!(local.core.connections.read().len(), 1);
        // Nothing is left that a stop would wait for.
        drop(neighbour);
        wait(&local, |event| matches!(event, Event::Close { .. }).then_some(()));
        local.submit(Command::StopServer { server, drain: Duration::from_secs(20) }).unwrap();
        let begin = Instant::now();
        wait(&local, |event| matches!(event, Event::Stopped { .. }).then_some(()));
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        assert!(local.shutdown(Duration::from_secs(5)));
    }

    #[test]
    fn an_io_thread_whose_pump_panicked_goes_on() {
        let (local, _, address) = serve();
        let mut peer = connect(&address);
        wait(&local, |event| matches!(event, Event::Open { .. }).then_some(()));
        for _ in 0..2 {
            let mut lost = connect(&address);
            let conn = wait(&local, |event| if let Event::Open { conn, .. } = event { Some(conn) } else { None });
            local.core.shards[0].break_pump();
            local.submit(Command::Abort { conn }).unwrap();
            local.flush();
            let said = wait(&local, |event| if let Event::Log { record, .. } = event { Some(record) } else { None });
            assert_eq!(said.level, LogLevel::Error);
            assert_eq!(said.message, "internal error: I/O thread 0 panicked and goes on: as the test asked");
            // What the pump was about to deliver is not lost.
            let closed = wait(&local, |event| if let Event::Close { conn, .. } = event { Some(conn) } else { None });
            assert_eq!(closed, conn);
            assert_eq!(lost.read(&mut [0; 16]).unwrap_or(0), 0, "the socket is closed");
            echo(&local, &mut peer);
        }
        let mut other = connect(&address);
        echo(&local, &mut other);
        assert!(local.shutdown(Duration::from_secs(5)));
    }

    #[test]
    fn mail_that_comes_after_the_end_holds_nothing() {
        let (local, _, address) = serve();
        let _peer = connect(&address);
        let conn = wait(&local, |event| if let Event::Open { conn, .. } = event { Some(conn) } else { None });
        let outlet = local.outlet(conn).unwrap();
        local.core.shards[0].stop();
        assert!(local.ended.recv_timeout(Duration::from_secs(30)).is_err_and(|error| error.is_disconnected()));
        local.core.shards[0].post(&mut vec![outlet]);
        assert!(local.shutdown(Duration::from_secs(5)));
        let shard = Arc::downgrade(&local.core.shards[0]);
        drop(local);
        assert!(shard.upgrade().is_none());
    }

    #[test]
    fn a_crowd_of_deadlines_is_served_in_parts() {
        let (local, _, address) = serve();
        let _peers: Vec<_> = (0..100).map(|_| connect(&address)).collect();
        let ids: Vec<_> = (0..100)
            .map(|_| wait(&local, |event| if let Event::Open { conn, .. } = event { Some(conn) } else { None }))
            .collect();
        let shard = &local.core.shards[0];
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let now = clock::now();
            for &id in &ids[10..] {
                local.outlet(id).unwrap().alarm.want(Some(now), now);
            }
            let places: Vec<u32> = ids
                .iter()
                .map(|id| local.outlet(*id).unwrap().place.load(std::sync::atomic::Ordering::Relaxed))
                .collect();
            // Ten want nothing, and one is gone: these are no work.
            let due = std::iter::once(u32::MAX).chain(places.iter().copied()).rev().collect();
            let left = shard.left_due(now, due);
            if left == places[74..].iter().rev().copied().collect::<Vec<_>>() {
                break;
            }
            // Some task was still in the turn that it began with.
            assert!(Instant::now() < deadline, "left: {left:?}");
        }
        assert!(local.shutdown(Duration::from_secs(5)));
    }

    #[test]
    fn rests_leave_no_timers_behind() {
        let config = RuntimeConfig { io_threads: 1, on_thread_start: Arc::new(|| {}) };
        let local = Local::start(&config).unwrap();
        let mut config = ServerConfig {
            listen: vec![ListenAddress::Tcp { host: "127.0.0.1".into(), port: 0, tls: false }],
            ..ServerConfig::default()
        };
        config.server_limits.message_rate = Some(200.0);
        config.limits.inbound = 64 << 20;
        let Reply::Endpoint(server) = local.submit(Command::StartServer(Box::new(config))).unwrap() else { panic!() };
        let Reply::Names(names) = local.submit(Command::Addresses { server }).unwrap() else { panic!() };
        let mut peer = std::net::TcpStream::connect(names[0].trim_start_matches("ws://")).unwrap();
        peer.write_all(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .unwrap();
        assert!(peer.read(&mut [0; 4096]).unwrap() > 0);
        // Each crowd after the first makes the connection rest for a moment; then it waits for a beat.
        let mut events = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(30);
        for size in std::iter::once(260).chain(std::iter::repeat_n(60, 10)) {
            peer.write_all(&[0x81, 0x80, 0, 0, 0, 0].repeat(size)).unwrap();
            let mut left = size;
            while left > 0 {
                assert!(Instant::now() < deadline);
                events.clear();
                local.receive(&mut events, 1024);
                left -= events.iter().filter(|event| matches!(event, Event::Message { .. })).count();
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(320));
        }
        assert!(local.core.shards[0].timers() < 6, "{} timers", local.core.shards[0].timers());
        assert!(local.shutdown(Duration::from_secs(5)));
    }
}
