//! An application without PHP: it talks to the engine through the bridge alone, as `src/` does.
#![allow(dead_code, unreachable_pub)]

use std::collections::VecDeque;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeline_engine::bridge::{Bridge, Command, CommandError, ConnId, EndpointId, Event, Reply, State, Transition};
use lifeline_engine::config::{ClientConfig, ClientUrl, ListenAddress, Proxy, ServerConfig};
use lifeline_engine::local::{Local, RuntimeConfig};
use tokio::io::unix::AsyncFd;

/// Far above anything that these tests wait for.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct App {
    pub bridge: Arc<Local>,
    descriptor: AsyncFd<OwnedFd>,
    waiting: VecDeque<Event>,
    /// Texts of the events taken so far, for messages of failed tests.
    seen: Vec<String>,
}

impl App {
    /// Call it inside a tokio runtime.
    pub fn start() -> Self {
        Self::with_threads(1)
    }

    pub fn with_threads(io_threads: usize) -> Self {
        let config = RuntimeConfig { io_threads, on_thread_start: Arc::new(|| ()) };
        let bridge = Local::start(&config).unwrap();
        // Sound here: an `OwnedFd` keeps the descriptor open.
        #[allow(deprecated)]
        let descriptor = AsyncFd::new(bridge.descriptor().try_clone_to_owned().unwrap()).unwrap();
        Self { bridge, descriptor, waiting: VecDeque::new(), seen: Vec::new() }
    }

    pub fn submit(&self, command: Command) -> Result<Reply, CommandError> {
        let reply = self.bridge.submit(command);
        self.bridge.flush();
        reply
    }

    pub fn create(&self, config: ClientConfig) -> EndpointId {
        match self.submit(Command::CreateClient(Box::new(config))) {
            Ok(Reply::Endpoint(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    /// Creates a client and has it connect.
    pub fn connect(&self, config: ClientConfig) -> EndpointId {
        let client = self.create(config);
        self.submit(Command::Connect { client }).unwrap();
        client
    }

    /// Starts a server; its id and first address.
    pub fn serve(&self, config: ServerConfig) -> (EndpointId, Arc<str>) {
        let Ok(Reply::Endpoint(server)) = self.submit(Command::StartServer(Box::new(config))) else { panic!() };
        let Ok(Reply::Names(names)) = self.submit(Command::Addresses { server }) else { panic!() };
        (server, names[0].clone())
    }

    pub fn send(&self, client: EndpointId, data: impl Into<Bytes>) -> u64 {
        match self.submit(Command::ClientSend { client, data: data.into(), binary: false, ttl: None }) {
            Ok(Reply::Sequence(sequence)) => sequence,
            other => panic!("{other:?}"),
        }
    }

    pub fn close(&self, client: EndpointId) {
        self.submit(Command::CloseClient { client, code: 1000, reason: String::new() }).unwrap();
    }

    pub fn state(&self, client: EndpointId) -> State {
        let Ok(Reply::State(state)) = self.submit(Command::ClientState { client }) else { panic!() };
        state
    }

    pub fn unacknowledged(&self, client: EndpointId) -> usize {
        let Ok(Reply::Count(count)) = self.submit(Command::Unacknowledged { client }) else { panic!() };
        count
    }

    /// The next event that is no log record; messages are consumed.
    pub async fn event(&mut self) -> Event {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            while let Some(event) = self.waiting.pop_front() {
                self.seen.push(format!("{event:?}"));
                match &event {
                    Event::Message { conn, data, .. } => {
                        self.submit(Command::Consumed { conn: *conn, messages: 1, bytes: data.len() }).unwrap();
                    }
                    Event::Log { .. } => continue,
                    _ => {}
                }
                return event;
            }
            let mut batch = Vec::new();
            if self.bridge.receive(&mut batch, 256) > 0 {
                self.waiting.extend(batch);
                continue;
            }
            if self.bridge.prepare_sleep() {
                let readable = tokio::time::timeout_at(deadline, self.descriptor.readable()).await;
                let Ok(guard) = readable else { panic!("nothing came any more after\n{}", self.seen.join("\n")) };
                guard.unwrap().clear_ready();
            }
        }
    }

    /// Takes events until `pick` finds what it looks for.
    pub async fn until<T>(&mut self, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        loop {
            let event = self.event().await;
            if let Some(found) = pick(&event) {
                return found;
            }
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
            let event = self.event().await;
            if matches!(event, Event::Stopped { endpoint: of } if of == endpoint) {
                return events;
            }
            events.push(event);
        }
    }

    /// Events that are already there.
    pub fn pending(&mut self) -> Vec<Event> {
        let mut events: Vec<Event> = self.waiting.drain(..).collect();
        self.bridge.receive(&mut events, usize::MAX);
        events
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let stopped = self.bridge.shutdown(PATIENCE);
        if std::thread::panicking() {
            eprintln!("events so far:\n{}", self.seen.join("\n"));
        } else {
            assert!(stopped, "the I/O threads must end");
        }
    }
}

/// `ws://127.0.0.1:port/`
pub fn local(port: u16) -> ClientUrl {
    tcp("127.0.0.1", port, false)
}

pub fn tcp(host: &str, port: u16, tls: bool) -> ClientUrl {
    ClientUrl { target: ListenAddress::Tcp { host: host.into(), port, tls }, resource: "/".into(), credentials: None }
}

/// A client of these URLs that reconnects fast and looks at no proxy.
pub fn client(urls: Vec<ClientUrl>) -> ClientConfig {
    let mut config = ClientConfig { urls, proxy: Proxy::Direct, ..ClientConfig::default() };
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
