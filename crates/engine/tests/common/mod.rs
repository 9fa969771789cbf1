//! An application's side of the bridge for tests.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeline_engine::bridge::{Bridge, Command, ConnId, EndpointId, Event, Reply, Stat, Stats};
use lifeline_engine::config::{ListenAddress, ServerConfig};
use lifeline_engine::local::{Local, RuntimeConfig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Far more than anything here takes; only a failure waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct App {
    pub local: Arc<Local>,
    waiting: VecDeque<Event>,
}

impl App {
    pub fn new() -> Self {
        Self::with_threads(2)
    }

    pub fn with_threads(io_threads: usize) -> Self {
        let config = RuntimeConfig { io_threads, on_thread_start: Arc::new(|| {}) };
        Self { local: Local::start(&config).expect("threads"), waiting: VecDeque::new() }
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
        let reply = self.local.submit(command).expect("command");
        self.local.flush();
        reply
    }

    pub fn send(&self, conn: ConnId, text: &str) -> Reply {
        self.submit(Command::Send { conn, data: Bytes::copy_from_slice(text.as_bytes()), binary: false })
    }

    /// The next event within `patience`, if one comes.
    pub fn event_within(&mut self, patience: Duration) -> Option<Event> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            let mut batch = Vec::new();
            if self.local.receive(&mut batch, 256) > 0 {
                self.waiting.extend(batch);
                continue;
            }
            if !self.local.prepare_sleep() {
                continue;
            }
            let left = deadline.checked_duration_since(Instant::now())?;
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
}

impl Drop for App {
    fn drop(&mut self) {
        assert!(self.local.shutdown(Duration::from_secs(5)), "I/O threads did not end");
    }
}
