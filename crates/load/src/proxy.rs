//! A TCP proxy whose faults are switched while it runs.
//!
//! Directions: *up* is from the client to the target, *down* is from the target to the client.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// A running proxy; dropping it closes its listener and connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    refuse: mpsc::Sender<(Refuse, oneshot::Sender<io::Result<()>>)>,
}

impl Proxy {
    /// Listens on `listen` (port 0: any) and forwards to `target` (`host:port`, resolved at each
    /// connection). Must be called within a tokio runtime.
    ///
    /// `buffer` bounds the kernel's receive buffer of every socket, in bytes, so that a stalled
    /// link gets stuck early.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn start(listen: SocketAddr, target: &str, buffer: Option<u32>) -> Result<Self> {
        let listener = bind(listen, buffer).with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            faults: watch::Sender::new(Faults { target: target.to_owned(), ..Faults::default() }),
            connections: Mutex::default(),
            counters: Counters::default(),
            buffer,
        });
        let (refuse, orders) = mpsc::channel(1);
        tokio::spawn(accept(listener, address, Arc::clone(&shared), orders));
        Ok(Self { address, shared, refuse })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Carries out one command; when it returns, the command has taken effect. The answer is `ok`,
    /// or JSON for `stats`.
    ///
    /// # Errors
    /// The line is no command (the text names those that are), or the port cannot be bound again.
    pub async fn command(&self, line: &str) -> Result<String> {
        self.apply(line.parse()?).await
    }

    /// The same for a parsed command.
    ///
    /// # Errors
    /// See [`Proxy::command`].
    pub async fn apply(&self, command: Command) -> Result<String> {
        let faults = &self.shared.faults;
        match command {
            Command::Blackhole(direction) => faults.send_modify(|faults| faults.put(direction, Flow::Blackhole)),
            Command::Close => self.end(End::Close).await,
            Command::Cut => self.end(End::Cut).await,
            Command::Delay(delay) => faults.send_modify(|faults| faults.delay = delay),
            Command::Refuse(refuse) => {
                let (done, answer) = oneshot::channel();
                self.refuse.send((refuse, done)).await.context("the proxy has ended")?;
                answer.await?.with_context(|| format!("cannot listen on {} again", self.address))?;
            }
            Command::Resume => faults.send_modify(|faults| faults.put(Direction::Both, Flow::Pass)),
            Command::Split(split) => faults.send_modify(|faults| faults.split = split),
            Command::Stall(direction) => faults.send_modify(|faults| faults.put(direction, Flow::Stall)),
            Command::Stats => return Ok(self.stats().to_string()),
            Command::Target(target) => faults.send_modify(|faults| faults.target = target),
            Command::Throttle(rate) => faults.send_modify(|faults| faults.throttle = rate),
        }
        Ok("ok".to_owned())
    }

    /// Counters: connections now and in all, bytes forwarded and dropped each way.
    pub fn stats(&self) -> Value {
        let counters = &self.shared.counters;
        json!({
            "connections": {
                "now": self.shared.open().len(),
                "total": counters.accepted.load(Ordering::Relaxed),
                "refused": counters.refused.load(Ordering::Relaxed),
            },
            "up": counters.up.to_json(),
            "down": counters.down.to_json(),
        })
    }

    async fn end(&self, end: End) {
        let open: Vec<_> = self.shared.open().values().cloned().collect();
        for connection in &open {
            // An error says that it has ended by itself.
            let _ = connection.send(end);
        }
        for connection in open {
            connection.closed().await;
        }
    }
}

/// What a control line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `blackhole up|down|both`: read and drop; ends of stream are swallowed too.
    Blackhole(Direction),
    /// `close`: FIN to both sides of every connection.
    Close,
    /// `cut`: RST to both sides of every connection.
    Cut,
    /// `delay MS`: each byte leaves so much later; 0 switches it off.
    Delay(Duration),
    /// `refuse on|reset|off`.
    Refuse(Refuse),
    /// `resume`: ends blackhole and stall.
    Resume,
    /// `split N`: at most N bytes a write; 0 switches it off.
    Split(Option<NonZeroUsize>),
    /// `stall up|down|both`: stop reading, so that the sender's writes get stuck.
    Stall(Direction),
    /// `stats`.
    Stats,
    /// `target HOST:PORT`: for connections accepted from now on.
    Target(String),
    /// `throttle BYTES_PER_S`: each way of each connection; 0 switches it off.
    Throttle(Option<NonZeroU64>),
}

impl FromStr for Command {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Ok(match words[..] {
            ["blackhole", direction] => Self::Blackhole(direction.parse()?),
            ["close"] => Self::Close,
            ["cut"] => Self::Cut,
            ["delay", ms] => Self::Delay(Duration::from_millis(ms.parse().with_context(|| format!("delay {ms}"))?)),
            ["refuse", "on"] => Self::Refuse(Refuse::Closed),
            ["refuse", "reset"] => Self::Refuse(Refuse::Reset),
            ["refuse", "off"] => Self::Refuse(Refuse::Off),
            ["resume"] => Self::Resume,
            ["split", n] => Self::Split(NonZeroUsize::new(n.parse().with_context(|| format!("split {n}"))?)),
            ["stall", direction] => Self::Stall(direction.parse()?),
            ["stats"] => Self::Stats,
            ["target", target] => Self::Target(target.to_owned()),
            ["throttle", rate] => {
                Self::Throttle(NonZeroU64::new(rate.parse().with_context(|| format!("throttle {rate}"))?))
            }
            _ => bail!(
                "unknown command '{line}'; known are: delay MS, throttle BYTES_PER_S, split N, \
                 blackhole up|down|both, stall up|down|both, resume, cut, close, refuse on|reset|off, \
                 target HOST:PORT, stats"
            ),
        })
    }
}

/// Which way a fault works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to target.
    Up,
    /// Target to client.
    Down,
    /// Both ways.
    Both,
}

impl FromStr for Direction {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "up" => Ok(Self::Up),
            "down" => Ok(Self::Down),
            "both" => Ok(Self::Both),
            _ => bail!("unknown direction '{word}'; known are up, down, both"),
        }
    }
}

/// What new connections meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuse {
    /// No listener: connection refused.
    Closed,
    /// They are forwarded.
    Off,
    /// Accepted, then RST.
    Reset,
}

#[derive(Debug)]
struct Shared {
    faults: watch::Sender<Faults>,
    /// By number; the receiving side lives as long as the connection's sockets.
    connections: Mutex<HashMap<u64, mpsc::UnboundedSender<End>>>,
    counters: Counters,
    buffer: Option<u32>,
}

impl Shared {
    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<u64, mpsc::UnboundedSender<End>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    refused: AtomicU64,
    up: Bytes,
    down: Bytes,
}

#[derive(Debug, Default)]
struct Bytes {
    forwarded: AtomicU64,
    dropped: AtomicU64,
}

impl Bytes {
    fn to_json(&self) -> Value {
        json!({
            "bytes": self.forwarded.load(Ordering::Relaxed),
            "dropped": self.dropped.load(Ordering::Relaxed),
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Flow {
    #[default]
    Pass,
    Blackhole,
    Stall,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Close,
    Cut,
}

#[derive(Clone, Debug, Default)]
struct Faults {
    target: String,
    delay: Duration,
    throttle: Option<NonZeroU64>,
    split: Option<NonZeroUsize>,
    up: Flow,
    down: Flow,
}

impl Faults {
    fn put(&mut self, direction: Direction, flow: Flow) {
        if direction != Direction::Down {
            self.up = flow;
        }
        if direction != Direction::Up {
            self.down = flow;
        }
    }

    fn flow(&self, up: bool) -> Flow {
        if up { self.up } else { self.down }
    }
}

fn bind(address: SocketAddr, buffer: Option<u32>) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if let Some(bytes) = buffer {
        // Accepted sockets inherit it.
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind(address)?;
    socket.listen(4096)
}

async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    mut orders: mpsc::Receiver<(Refuse, oneshot::Sender<io::Result<()>>)>,
) {
    let mut listener = Some(listener);
    let mut reset = false;
    let mut running = JoinSet::new();
    loop {
        let next = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => pending().await,
            }
        };
        let client = tokio::select! {
            biased;
            order = orders.recv() => {
                // None: the proxy was dropped, and with `running` its connections are.
                let Some((refuse, done)) = order else { return };
                reset = refuse == Refuse::Reset;
                let result = if refuse == Refuse::Closed {
                    listener = None;
                    Ok(())
                } else if listener.is_none() {
                    bind(address, shared.buffer).map(|again| listener = Some(again))
                } else {
                    Ok(())
                };
                // An error says that nobody waits for the answer any more.
                let _ = done.send(result);
                continue;
            }
            Some(_) = running.join_next() => continue,
            accepted = next => {
                let Ok((client, _)) = accepted else {
                    // Out of descriptors: give connections time to end.
                    sleep(Duration::from_millis(10)).await;
                    continue;
                };
                client
            }
        };
        if reset {
            shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            abort(client);
            continue;
        }
        let number = shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let (ender, end) = mpsc::unbounded_channel();
        shared.open().insert(number, ender);
        let shared = Arc::clone(&shared);
        running.spawn(async move {
            let _registered = Registered { shared: &shared, number };
            forward(client, &shared, end).await;
        });
    }
}

/// Takes the connection out of the list at its end, also when its task is dropped.
struct Registered<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.open().remove(&self.number);
    }
}

/// Serves one connection to its end. `end` is dropped last: whoever waits for it knows that both
/// sockets are closed.
async fn forward(mut client: TcpStream, shared: &Shared, mut end: mpsc::UnboundedReceiver<End>) {
    let target = shared.faults.borrow().target.clone();
    let connected = tokio::select! {
        connected = connect(&target, shared.buffer) => connected,
        end = end.recv() => {
            if matches!(end, Some(End::Cut)) {
                abort(client);
            }
            return;
        }
    };
    let Ok(mut server) = connected else {
        abort(client);
        return;
    };
    // Without it `split` and `delay` would measure Nagle's algorithm.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);

    let finished = {
        let (client_reads, client_writes) = client.split();
        let (server_reads, server_writes) = server.split();
        let pumps = async {
            tokio::try_join!(
                pump(client_reads, server_writes, true, shared),
                pump(server_reads, client_writes, false, shared),
            )
        };
        tokio::select! {
            biased;
            end = end.recv() => end.ok_or(()),
            done = pumps => done.map(|_| End::Close).map_err(|_| ()),
        }
    };
    match finished {
        Ok(End::Close) => {
            for stream in [&mut client, &mut server] {
                let _ = stream.shutdown().await;
                // Unread bytes would turn the FIN into an RST.
                let mut rest = [0; 16 * 1024];
                while matches!(stream.try_read(&mut rest), Ok(1..)) {}
            }
            drop((client, server));
        }
        Ok(End::Cut) | Err(()) => {
            abort(client);
            abort(server);
        }
    }
    drop(end);
}

async fn connect(target: &str, buffer: Option<u32>) -> io::Result<TcpStream> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in tokio::net::lookup_host(target).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bytes) = buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Closes with RST in place of FIN.
fn abort(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

const CHUNK: usize = 16 * 1024;
/// Chunks that `delay` and `throttle` may hold back: 256 KiB a direction.
const HELD_BACK: usize = 16;

async fn pump(from: ReadHalf<'_>, to: WriteHalf<'_>, up: bool, shared: &Shared) -> io::Result<()> {
    let (queue, waiting) = mpsc::channel(HELD_BACK);
    let counter = if up { &shared.counters.up } else { &shared.counters.down };
    tokio::try_join!(
        read(from, queue, shared.faults.subscribe(), up, counter),
        write(to, waiting, shared.faults.subscribe(), up, counter),
    )?;
    Ok(())
}

async fn read(
    from: ReadHalf<'_>,
    queue: mpsc::Sender<(Instant, Vec<u8>)>,
    mut faults: watch::Receiver<Faults>,
    up: bool,
    counter: &Bytes,
) -> io::Result<()> {
    let ended = loop {
        until(&mut faults, |faults| faults.flow(up) != Flow::Stall).await;
        tokio::select! {
            biased;
            () = changed(&mut faults) => continue,
            ready = from.readable() => ready?,
        }
        if faults.borrow().flow(up) == Flow::Stall {
            continue;
        }
        let mut data = vec![0; CHUNK];
        match from.try_read(&mut data) {
            Ok(0) => break Ok(()),
            Ok(length) => data.truncate(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => break Err(error),
        }
        let read_at = Instant::now();
        loop {
            let (flow, delay) = {
                let faults = faults.borrow_and_update();
                (faults.flow(up), faults.delay)
            };
            if flow == Flow::Blackhole {
                counter.dropped.fetch_add(data.len() as u64, Ordering::Relaxed);
                break;
            }
            tokio::select! {
                biased;
                () = changed(&mut faults) => {}
                place = queue.reserve() => {
                    // An error: the writing half has failed and ends the connection.
                    if let Ok(place) = place {
                        place.send((read_at + delay, data));
                    }
                    break;
                }
            }
        }
    };
    // A dead link carries neither FIN nor RST.
    until(&mut faults, |faults| faults.flow(up) == Flow::Pass).await;
    ended
}

async fn write(
    mut to: WriteHalf<'_>,
    mut waiting: mpsc::Receiver<(Instant, Vec<u8>)>,
    faults: watch::Receiver<Faults>,
    up: bool,
    counter: &Bytes,
) -> io::Result<()> {
    while let Some((due, data)) = waiting.recv().await {
        sleep_until(due).await;
        let mut rest = &data[..];
        while !rest.is_empty() {
            let (flow, split, throttle) = {
                let faults = faults.borrow();
                (faults.flow(up), faults.split, faults.throttle)
            };
            if flow == Flow::Blackhole {
                counter.dropped.fetch_add(rest.len() as u64, Ordering::Relaxed);
                break;
            }
            let mut length = split.map_or(rest.len(), |split| split.get().min(rest.len()));
            if let Some(rate) = throttle {
                // 20 portions a second: smooth, and a change of rate shows soon.
                length = length.min(usize::try_from(rate.get() / 20).unwrap_or(usize::MAX).max(1));
            }
            let (portion, later) = rest.split_at(length);
            to.write_all(portion).await?;
            counter.forwarded.fetch_add(length as u64, Ordering::Relaxed);
            rest = later;
            if let Some(rate) = throttle {
                sleep(Duration::from_secs_f64(length as f64 / rate.get() as f64)).await;
            } else if split.is_some() {
                tokio::task::yield_now().await;
            }
        }
    }
    to.shutdown().await
}

/// Waits for a change; for ever when the proxy is gone, because its tasks are dropped then.
async fn changed(faults: &mut watch::Receiver<Faults>) {
    if faults.changed().await.is_err() {
        pending::<()>().await;
    }
}

async fn until(faults: &mut watch::Receiver<Faults>, wanted: impl Fn(&Faults) -> bool) {
    if faults.wait_for(|faults| wanted(faults)).await.is_err() {
        pending::<()>().await;
    }
}
