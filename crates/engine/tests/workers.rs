//! A gateway with real worker processes: this very program, started again as one that echoes.

mod common;

use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeline_engine::bridge::{Bridge, Command, CommandError, ConnId, EndpointId, Event, LogLevel, Reply, Stat, Stats};
use lifeline_engine::config::{ServerConfig, Spawn, WatchdogAction};
use lifeline_engine::local::RuntimeConfig;
use lifeline_engine::service::Manager;
use lifeline_engine::workers::remote::Remote;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use common::{App, PATIENCE};

type Peer = WebSocket<tungstenite::stream::MaybeTlsStream<std::net::TcpStream>>;

/// Tells the child what to do before it serves.
const MANNER: &str = "LIFELINE_TEST_MANNER";

fn spawn(manner: &str) -> Spawn {
    let arguments = ["--exact", "a_worker_process", "--ignored", "--test-threads=1", "--nocapture"];
    let program = "/usr/bin/env".into();
    let mut all = vec![format!("{MANNER}={manner}").into(), std::env::current_exe().expect("program").into_os_string()];
    all.extend(arguments.map(Into::into));
    Spawn { program, arguments: all, directory: None }
}

/// What a worker does.
#[test]
#[ignore = "a process of its own: run by the other tests"]
fn a_worker_process() {
    match std::env::var(MANNER).as_deref() {
        Ok("late") => std::process::exit(7),
        Ok("explains") => {
            remote().explain("syntax error, unexpected end of file");
            std::process::exit(255);
        }
        Ok("stranger") => {
            let socket = std::io::stdin().as_fd().try_clone_to_owned().expect("a socket");
            rustix::io::write(&socket, b"\x0e\0\0\0GET / HTTP/1.1").expect("write");
            std::thread::sleep(Duration::from_secs(60));
        }
        _ => {}
    }
    let remote = remote();
    let config = ServerConfig { announce_members: true, ..ServerConfig::default() };
    let Reply::Endpoint(server) = remote.submit(Command::StartServer(Box::new(config))).expect("attach") else {
        panic!()
    };
    let number = std::env::var(lifeline_engine::workers::VARIABLE).expect("a number");
    let mut events = Vec::new();
    loop {
        remote.receive(&mut events, 256);
        for event in events.drain(..) {
            let command = match event {
                Event::Open { conn, info, .. } => {
                    remote.submit(Command::Opened { conn }).expect("opened");
                    let data = Bytes::from(format!("open {}", u8::from(info.resumed)));
                    Command::Send { conn, data, binary: false }
                }
                Event::Message { conn, data, binary, .. } => {
                    let bytes = data.len();
                    let text = String::from_utf8_lossy(&data).into_owned();
                    let answer = match text.split_once(' ').map_or((&*text, ""), |(word, rest)| (word, rest)) {
                        ("exit", _) => std::process::exit(3),
                        ("loop", _) => loop {
                            std::thread::sleep(Duration::from_secs(1));
                        },
                        ("who", _) => Bytes::from(format!("{number} {}", std::process::id())),
                        ("join", channel) => {
                            let command = Command::Subscribe { conn, channel: channel.into() };
                            Bytes::from(format!("{:?}", remote.submit(command)))
                        }
                        ("publish", channel) => {
                            let channel = channel.into();
                            let data = Bytes::from_static(b"news");
                            let command = Command::Publish { server, channel, data, binary: false, except: vec![] };
                            Bytes::from(format!("{:?}", remote.submit(command)))
                        }
                        ("connections", _) => {
                            Bytes::from(format!("{:?}", remote.submit(Command::Connections { server })))
                        }
                        ("tell", other) => {
                            let to = ConnId(other.parse().expect("a number"));
                            let command =
                                Command::Send { conn: to, data: Bytes::from_static(b"from afar"), binary: false };
                            Bytes::from(format!("{:?}", remote.submit(command)))
                        }
                        ("stop", _) => {
                            remote.submit(Command::StopServer { server, drain: Duration::ZERO }).expect("stop");
                            data
                        }
                        _ => data,
                    };
                    remote.submit(Command::Send { conn, data: answer, binary }).expect("send");
                    Command::Consumed { conn, messages: 1, bytes }
                }
                Event::Close { conn, .. } => Command::Ended { conn },
                Event::Release { conn, .. } => Command::Released { conn },
                Event::Stopped { .. } => {
                    remote.shutdown(Duration::from_secs(1));
                    std::process::exit(0);
                }
                _ => continue,
            };
            remote.submit(command).expect("command");
        }
        remote.flush();
        if remote.prepare_sleep() {
            let descriptor = remote.descriptor();
            rustix::event::poll(&mut [rustix::event::PollFd::new(&descriptor, rustix::event::PollFlags::IN)], None)
                .expect("poll");
        }
    }
}

fn remote() -> Arc<Remote> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().expect("a socket");
    Remote::start(socket, RuntimeConfig { io_threads: 1, on_thread_start: Arc::new(|| {}) }).expect("remote")
}

type Job = Box<dyn FnOnce(&mut App, &mut Vec<String>) + Send>;

/// A gateway on a thread of its own.
struct Gateway {
    jobs: Sender<Job>,
    thread: Option<JoinHandle<()>>,
    server: EndpointId,
    address: String,
}

impl Gateway {
    fn start(change: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::start_with("serves", change).expect("workers")
    }

    fn start_with(manner: &str, change: impl FnOnce(&mut ServerConfig)) -> Result<Self, CommandError> {
        let app = App::with_threads(1);
        let (server, address) = app.serve(|config| {
            config.workers.count = 2;
            config.log_level = LogLevel::Debug;
            change(config);
        });
        app.try_submit(Command::StartWorkers { server, spawn: Box::new(spawn(manner)) })?;
        let (jobs, received) = channel();
        let thread = std::thread::spawn(move || run(app, server, &received));
        Ok(Self { jobs, thread: Some(thread), server, address })
    }

    fn ask<T: Send + 'static>(&self, question: impl FnOnce(&mut App, &mut Vec<String>) -> T + Send + 'static) -> T {
        let (answer, answered) = channel();
        self.jobs.send(Box::new(move |app, log| answer.send(question(app, log)).expect("a listener"))).expect("thread");
        answered.recv_timeout(PATIENCE).expect("an answer")
    }

    fn stat(&self, name: &'static str) -> i64 {
        let server = self.server;
        self.ask(move |app, _| {
            let Reply::Stats(stats) = app.submit(Command::EndpointStats { endpoint: server }) else { panic!() };
            match find(&stats, "workers") {
                Some(Stat::Tree(tree)) => match find(tree, name) {
                    Some(Stat::Int(value)) => *value,
                    other => panic!("{name}: {other:?}"),
                },
                other => panic!("{other:?}"),
            }
        })
    }

    fn log(&self) -> Vec<String> {
        self.ask(|_, log| log.clone())
    }

    fn connect(&self) -> Peer {
        let (peer, _) = tungstenite::connect(format!("ws://{}/", self.address)).expect("connect");
        peer
    }

    fn reload(&self) {
        let server = self.server;
        self.ask(move |app, _| drop(app.submit(Command::Reload { server })));
    }

    fn wait_for(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn join(mut self) {
        self.thread.take().expect("once").join().expect("the gateway's thread");
    }
}

fn find<'a>(stats: &'a Stats, name: &str) -> Option<&'a Stat> {
    stats.0.iter().find(|(key, _)| key == name).map(|(_, stat)| stat)
}

fn run(mut app: App, server: EndpointId, jobs: &Receiver<Job>) {
    let mut log = Vec::new();
    loop {
        match jobs.try_recv() {
            Ok(job) => job(&mut app, &mut log),
            Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                app.submit(Command::StopServer { server, drain: Duration::ZERO });
                // What the workers say last nobody needs.
                app.local.shutdown(Duration::from_secs(5));
                return;
            }
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
        }
        match app.event_within(Duration::from_millis(5)) {
            Some(Event::Log { record, .. }) => log.push(record.message.clone()),
            Some(Event::Stopped { .. }) => {
                app.local.shutdown(Duration::from_secs(5));
                return;
            }
            Some(other) => log.push(format!("unexpected: {other:?}")),
            None => {}
        }
    }
}

fn talk(peer: &mut Peer, text: &str) -> String {
    peer.send(Message::text(text)).expect("send");
    next(peer)
}

fn next(peer: &mut Peer) -> String {
    peer.read().expect("an answer").into_text().expect("text").to_string()
}

#[test]
fn workers_serve_what_the_gateway_holds() {
    let gateway = Gateway::start(|_| {});
    let mut peers: Vec<_> = (0..4).map(|_| gateway.connect()).collect();
    let mut numbers = Vec::new();
    for peer in &mut peers {
        assert_eq!(next(peer), "open 0");
        assert_eq!(talk(peer, "hello"), "hello");
        numbers.push(talk(peer, "who")[..1].to_owned());
    }
    numbers.sort();
    assert_eq!(numbers, ["1", "1", "2", "2"]);
    // What is asked is about all of them.
    for peer in &mut peers {
        assert_eq!(talk(peer, "join us"), "Ok(Flag(true))");
    }
    assert_eq!(talk(&mut peers[0], "publish us"), "news");
    assert_eq!(next(&mut peers[0]), "Ok(Count(4))");
    for peer in &mut peers[1..] {
        assert_eq!(next(peer), "news");
    }
    assert_eq!(talk(&mut peers[0], "connections"), "Ok(Conns([ConnId(1), ConnId(2), ConnId(3), ConnId(4)]))");
    for other in 2..=4 {
        assert_eq!(talk(&mut peers[0], &format!("tell {other}")), "Ok(Sent(Queued))");
        assert_eq!(next(&mut peers[other - 1]), "from afar");
    }
    assert_eq!(talk(&mut peers[0], "tell 99"), "Ok(Sent(Closed))");
    let long = "x".repeat(900_000);
    assert_eq!(talk(&mut peers[1], &long), long);
}

#[test]
fn a_crash_and_a_reload_cost_no_connection() {
    let gateway = Gateway::start(|_| {});
    let mut peers: Vec<_> = (0..4).map(|_| gateway.connect()).collect();
    let mut pids = Vec::new();
    for peer in &mut peers {
        assert_eq!(next(peer), "open 0");
        pids.push(talk(peer, "who")[2..].to_owned());
    }
    peers[0].send(Message::text("exit")).expect("send");
    assert_eq!(next(&mut peers[0]), "open 1");
    gateway.wait_for("the crash is counted", |gateway| gateway.stat("crashes") == 1);
    assert_eq!(gateway.stat("lost"), 1, "the message that did it");
    assert!(gateway.log().iter().any(|line| line.contains("exit status 3")), "{:?}", gateway.log());
    gateway.reload();
    gateway.wait_for("the new workers serve", |gateway| gateway.stat("generation") == 2);
    // Each has heard of a crash, a reload, or both.
    for (peer, pid) in peers.iter_mut().zip(&pids) {
        peer.send(Message::text("who")).expect("send");
        let mut heard = next(peer);
        while heard == "open 1" {
            heard = next(peer);
        }
        assert_ne!(&heard[2..], pid);
    }
    assert_eq!((gateway.stat("lost"), gateway.stat("reloads")), (1, 1));
}

#[test]
fn messages_stay_in_order_over_reloads() {
    let gateway = Gateway::start(|_| {});
    let mut peer = gateway.connect();
    let mut wanted = 0;
    for number in 0..2000 {
        peer.send(Message::text(number.to_string())).expect("send");
        if number % 400 == 200 {
            gateway.reload();
        }
        if number % 50 == 49 {
            while wanted <= number {
                let heard = next(&mut peer);
                if !heard.starts_with("open") {
                    assert_eq!(heard, wanted.to_string());
                    wanted += 1;
                }
            }
        }
    }
    gateway.wait_for("a reload", |gateway| gateway.stat("reloads") >= 1);
    assert_eq!(gateway.stat("lost"), 0);
}

#[test]
fn a_stuck_worker_is_replaced() {
    let gateway = Gateway::start(|config| {
        config.watchdog.lag = Duration::from_millis(300);
        config.watchdog.action = WatchdogAction::Replace;
    });
    let mut peers: Vec<_> = (0..3).map(|_| gateway.connect()).collect();
    for peer in &mut peers {
        assert_eq!(next(peer), "open 0");
    }
    peers[0].send(Message::text("loop")).expect("send");
    // More than its socket takes: what is left has nobody to go to when it has ended.
    for number in 0..400 {
        peers[2].send(Message::text(format!("{number:01024}"))).expect("send");
    }
    assert_eq!(next(&mut peers[0]), "open 1");
    assert_eq!(talk(&mut peers[0], "again"), "again");
    assert_eq!(next(&mut peers[2]), "open 1");
    let lost = gateway.stat("lost");
    // Those that had not been handed out.
    for number in lost - 1..400 {
        assert_eq!(next(&mut peers[2]), format!("{number:01024}"));
    }
    assert_eq!(gateway.stat("stuck"), 1);
    assert!((2..400).contains(&lost), "{lost}");
}

#[test]
fn a_worker_may_stop_the_server() {
    let gateway = Gateway::start(|_| {});
    let mut peer = gateway.connect();
    assert_eq!(next(&mut peer), "open 0");
    peer.send(Message::text("stop")).expect("send");
    loop {
        match peer.read() {
            Ok(Message::Close(_)) | Err(_) => break,
            Ok(_) => {}
        }
    }
    gateway.join();
}

#[test]
fn workers_that_do_not_start_are_an_error_that_says_why() {
    for (manner, why) in [
        ("late", "exit status 7"),
        ("explains", "syntax error, unexpected end of file"),
        ("stranger", "it does not begin with a worker's greeting"),
    ] {
        let Err(CommandError::Start(text)) = Gateway::start_with(manner, |_| {}) else {
            panic!("{manner} has started")
        };
        assert!(text.contains("has not started") && text.contains(why), "{manner}: {text}");
    }
}

#[test]
fn the_service_manager_hears_of_a_server_when_its_workers_have_started() {
    let name = format!("lifeline-workers-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let manager = UnixDatagram::bind_addr(&address).expect("bind");
    manager.set_nonblocking(true).expect("set");
    let told = |config: &mut ServerConfig| {
        config.manager = Ok(Some(Manager { address: address.clone(), watchdog: None }));
    };
    let mut text = [0; 500];
    assert!(Gateway::start_with("late", told).is_err());
    assert!(manager.recv(&mut text).is_err(), "{}", String::from_utf8_lossy(&text));
    let _gateway = Gateway::start(told);
    let count = manager.recv(&mut text).expect("a word");
    assert!(text[..count].starts_with(b"READY=1\n"), "{}", String::from_utf8_lossy(&text[..count]));
}
