//! An application without PHP: it talks to the engine through the bridge alone, as `src/` does. Tests
//! whose peers block wait with `event` and `wait`, those whose peers are tasks with `next` and `until`.
#![allow(dead_code, unreachable_pub)]

pub mod cutter;
pub mod far;

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeline_engine::bridge::{
    Bridge, Command, CommandError, ConnId, Delivery, EndpointId, Event, MessageInfo, OutboxItem, Reply, Stat, State,
    Stats, Transition, Verdict,
};
use lifeline_engine::config::{ClientConfig, ClientUrl, ListenAddress, Proxy, ServerConfig};
use lifeline_engine::local::{Local, RuntimeConfig};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::io::unix::AsyncFd;

/// Far more than anything here takes; only a failure waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct App {
    pub local: Arc<Local>,
    waiting: VecDeque<Event>,
    /// Texts of the events that `next` gave, for messages of failed tests.
    seen: Vec<String>,
    /// Whether `next` settles what it gives.
    pub settles: bool,
}

impl App {
    pub fn new() -> Self {
        Self::with_threads(2)
    }

    pub fn with_threads(io_threads: usize) -> Self {
        let config = RuntimeConfig { io_threads, on_thread_start: Arc::new(|| {}) };
        let never = eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor");
        let local = Local::start_driven(&config, never).expect("threads");
        Self { local, waiting: VecDeque::new(), seen: Vec::new(), settles: true }
    }

    /// Starts a server on a free port; returns it with `host:port`.
    pub fn serve(&self, change: impl FnOnce(&mut ServerConfig)) -> (EndpointId, String) {
        let mut config = ServerConfig {
            listen: vec![ListenAddress::Tcp { host: "127.0.0.1".into(), port: 0, tls: false }],
            ..ServerConfig::default()
        };
        change(&mut config);
        let Reply::Endpoint(server) = self.local.submit(Command::StartServer(Box::new(config))).expect("start") else {
            panic!("not an endpoint")
        };
        let Reply::Names(names) = self.local.submit(Command::Addresses { server }).expect("addresses") else {
            panic!("not names")
        };
        let address = names[0].split_once("://").expect("a URL").1.to_owned();
        (server, address)
    }

    pub fn submit(&self, command: Command) -> Reply {
        self.try_submit(command).expect("command")
    }

    /// As [`App::submit`], and leaves what follows for the end of the batch.
    pub fn queue(&self, command: Command) -> Reply {
        self.local.submit(command).expect("command")
    }

    pub fn try_submit(&self, command: Command) -> Result<Reply, CommandError> {
        let reply = self.local.submit(command);
        self.local.flush();
        reply
    }

    fn take(&mut self) -> Option<Event> {
        if self.waiting.is_empty() {
            let mut batch = Vec::new();
            self.local.receive(&mut batch, 256);
            self.waiting.extend(batch.into_iter().flat_map(singly));
        }
        self.waiting.pop_front()
    }

    pub fn send(&self, conn: ConnId, text: &str) -> Reply {
        self.submit(Command::Send { conn, data: Bytes::copy_from_slice(text.as_bytes()), binary: false })
    }

    /// The next event within `patience`, if one comes.
    pub fn event_within(&mut self, patience: Duration) -> Option<Event> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(event) = self.take() {
                return Some(event);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            if self.local.drive(Some(left)) || !self.local.prepare_sleep() {
                continue;
            }
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).expect("a short time"),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let descriptor = self.local.descriptor();
            poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout)).expect("poll");
        }
    }

    pub fn event(&mut self) -> Event {
        self.event_within(PATIENCE).expect("an event in time")
    }

    /// The next event that `pick` takes; others are dropped.
    pub fn wait<T>(&mut self, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let event = self.event();
            if let Some(found) = pick(&event) {
                return found;
            }
        }
        panic!("the awaited event did not come");
    }

    pub fn wait_open(&mut self) -> ConnId {
        self.wait(|event| if let Event::Open { conn, .. } = event { Some(*conn) } else { None })
    }

    pub fn wait_close(&mut self) -> (u16, String, bool) {
        self.wait(|event| match event {
            Event::Close { code, reason, clean, .. } => Some((*code, reason.to_string(), *clean)),
            _ => None,
        })
    }

    pub fn wait_message(&mut self) -> (ConnId, Bytes) {
        self.wait(
            |event| if let Event::Message { conn, data, .. } = event { Some((*conn, data.clone())) } else { None },
        )
    }

    pub fn stats(&self, endpoint: EndpointId) -> Stats {
        let Reply::Stats(stats) = self.submit(Command::EndpointStats { endpoint }) else { panic!("not stats") };
        stats
    }

    /// A number out of the stats by its path.
    pub fn stat(&self, endpoint: EndpointId, path: &[&str]) -> i64 {
        let mut tree = self.stats(endpoint);
        for (depth, name) in path.iter().enumerate() {
            let (_, stat) = tree.0.iter().find(|(key, _)| key == name).unwrap_or_else(|| panic!("no {name}"));
            match stat.clone() {
                Stat::Tree(next) => tree = next,
                Stat::Int(value) if depth + 1 == path.len() => return value,
                other => panic!("{path:?}: {other:?}"),
            }
        }
        panic!("{path:?} is a tree");
    }

    pub fn create(&self, config: ClientConfig) -> EndpointId {
        match self.submit(Command::CreateClient(Box::new(config))) {
            Reply::Endpoint(id) => id,
            other => panic!("{other:?}"),
        }
    }

    /// Creates a client and has it connect.
    pub fn connect(&self, config: ClientConfig) -> EndpointId {
        let client = self.create(config);
        self.submit(Command::Connect { client });
        client
    }

    pub fn client_send(&self, client: EndpointId, data: impl Into<Bytes>) -> u64 {
        match self.submit(Command::ClientSend { client, data: data.into(), binary: false, ttl: None }) {
            Reply::Sequence(sequence) => sequence,
            other => panic!("{other:?}"),
        }
    }

    pub fn close(&self, client: EndpointId) {
        self.submit(Command::CloseClient { client, code: 1000, reason: String::new() });
    }

    pub fn state(&self, client: EndpointId) -> State {
        let Reply::State(state) = self.submit(Command::ClientState { client }) else { panic!() };
        state
    }

    pub fn unacknowledged(&self, client: EndpointId) -> usize {
        let Reply::Count(count) = self.submit(Command::Unacknowledged { client }) else { panic!() };
        count
    }

    /// The application handles a message; false: it must not, and throws it away.
    pub fn settle(&self, endpoint: EndpointId, delivery: Delivery) -> bool {
        let Reply::Flag(begun) = self.submit(Command::Begin { endpoint, delivery: delivery.clone() }) else { panic!() };
        if begun {
            self.submit(Command::Settle { endpoint, delivery, verdict: Verdict::Done });
        }
        begun
    }

    /// The next event that is no log record, if there is one; messages are consumed and settled.
    pub fn try_next(&mut self) -> Option<Event> {
        while let Some(event) = self.take() {
            self.seen.push(format!("{event:?}"));
            match &event {
                Event::Message { endpoint, conn, data, info, .. } => {
                    self.submit(Command::Consumed { conn: *conn, messages: 1, bytes: data.len() });
                    let delivery = info.as_ref().and_then(|info| info.delivery.clone());
                    if let Some(delivery) = delivery.filter(|_| self.settles)
                        && !self.settle(*endpoint, delivery)
                    {
                        continue;
                    }
                }
                Event::Snapshot { conn, data, .. } => {
                    self.submit(Command::Consumed { conn: *conn, messages: 1, bytes: data.len() });
                }
                Event::Gap { client, gap, .. } => {
                    if let Some(delivery) = gap.delivery.clone() {
                        self.settle(*client, delivery);
                    }
                }
                Event::Log { .. } => continue,
                _ => {}
            }
            return Some(event);
        }
        None
    }

    /// The next event that is no log record; messages are consumed and settled.
    pub async fn next(&mut self) -> Event {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.try_next() {
                return event;
            }
            if self.local.prepare_sleep() {
                // Sound here: an `OwnedFd` keeps the descriptor open.
                #[allow(deprecated)]
                let descriptor = AsyncFd::new(self.local.descriptor().try_clone_to_owned().unwrap()).unwrap();
                let readable = tokio::time::timeout_at(deadline, descriptor.readable()).await;
                assert!(readable.is_ok(), "nothing came any more after\n{}", self.seen.join("\n"));
            }
        }
    }

    /// Takes events until `pick` finds what it looks for.
    pub async fn until<T>(&mut self, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let event = self.next().await;
            if let Some(found) = pick(&event) {
                return found;
            }
            assert!(Instant::now() < deadline, "much came, but not what is awaited");
        }
    }

    /// The next change of state.
    pub async fn transition(&mut self) -> Transition {
        self.until(|event| match event {
            Event::Transition { transition, .. } => Some((**transition).clone()),
            _ => None,
        })
        .await
    }

    /// Waits for a change to `state` and returns it.
    pub async fn reach(&mut self, state: State) -> Transition {
        loop {
            let transition = self.transition().await;
            if transition.to == state {
                return transition;
            }
        }
    }

    /// The next opening of a connection of `endpoint`.
    pub async fn opened(&mut self, endpoint: EndpointId) -> ConnId {
        self.until(|event| match event {
            Event::Open { endpoint: of, conn, .. } if *of == endpoint => Some(*conn),
            _ => None,
        })
        .await
    }

    /// The next message for `endpoint`.
    pub async fn message(&mut self, endpoint: EndpointId) -> Bytes {
        self.until(|event| match event {
            Event::Message { endpoint: of, data, .. } if *of == endpoint => Some(data.clone()),
            _ => None,
        })
        .await
    }

    /// Everything up to the end of `endpoint`.
    pub async fn rest(&mut self, endpoint: EndpointId) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await;
            if matches!(event, Event::Stopped { endpoint: of } if of == endpoint) {
                return events;
            }
            events.push(event);
        }
    }

    /// Events that are already there.
    pub fn pending(&mut self) -> Vec<Event> {
        let mut events: Vec<Event> = self.waiting.drain(..).collect();
        let mut batch = Vec::new();
        self.local.receive(&mut batch, usize::MAX);
        events.extend(batch.into_iter().flat_map(singly));
        events
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let stopped = self.local.shutdown(PATIENCE);
        if !std::thread::panicking() {
            assert!(stopped, "the I/O threads must end");
        } else if !self.seen.is_empty() {
            eprintln!("events so far:\n{}", self.seen.join("\n"));
        }
    }
}

/// Items each by itself, as a message with what is known of it.
fn singly(event: Event) -> Vec<Event> {
    let Event::Items { endpoint, conn, outbox, items } = event else { return vec![event] };
    let single = |OutboxItem { id, data, binary, .. }| {
        let delivery = Some(Delivery::Item { outbox: outbox.clone(), id });
        let info = MessageInfo { delivery, id: None, channel: None, sequence: id.sequence };
        Event::Message { endpoint, conn, data, binary, info: Some(Box::new(info)) }
    };
    items.into_iter().map(single).collect()
}

/// `ws://127.0.0.1:port/`
pub fn local(port: u16) -> ClientUrl {
    tcp("127.0.0.1", port, false)
}

pub fn tcp(host: &str, port: u16, tls: bool) -> ClientUrl {
    ClientUrl { target: ListenAddress::Tcp { host: host.into(), port, tls }, resource: "/".into(), credentials: None }
}

/// A client of these URLs with plain WebSocket that reconnects fast and looks at no proxy.
pub fn client(urls: Vec<ClientUrl>) -> ClientConfig {
    let mut config = ClientConfig { urls, proxy: Proxy::Direct, protocols: Vec::new(), ..ClientConfig::default() };
    let backoff = &mut config.reconnect.backoff;
    backoff.first = Some(Duration::from_millis(1));
    backoff.floor = Duration::from_millis(1);
    backoff.base = Duration::from_millis(5);
    backoff.max = Duration::from_millis(20);
    config
}

/// A directory that goes with the test.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        use rand::{Rng, SeedableRng};
        let number: u64 = rand::rngs::SmallRng::from_os_rng().random();
        let path = std::env::temp_dir().join(format!("lifeline-test-{number:016x}"));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
