//! The fault proxy between two plain sockets.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lifeline_load::proxy::Proxy;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Far above what a test needs; a test that hangs fails with it.
const LIMIT: Duration = Duration::from_secs(30);

struct Pair {
    proxy: Proxy,
    target: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    async fn new() -> Self {
        let target = TcpListener::bind(loopback()).await.unwrap();
        let proxy = Proxy::start(loopback(), &target.local_addr().unwrap().to_string(), Some(16 * 1024)).unwrap();
        let client = TcpStream::connect(proxy.address()).await.unwrap();
        let (server, _) = within(target.accept()).await.unwrap();
        Self { proxy, target, client, server }
    }

    async fn command(&self, line: &str) {
        assert_eq!(within(self.proxy.command(line)).await.unwrap(), "ok", "{line}");
    }

    fn stat(&self, pointer: &str) -> u64 {
        let stats: Value = self.proxy.stats();
        stats.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} in {stats}"))
    }

    /// `text` goes up and `answer` comes down.
    async fn talk(&mut self, text: &str, answer: &str) {
        send(&mut self.client, text).await;
        expect(&mut self.server, text).await;
        send(&mut self.server, answer).await;
        expect(&mut self.client, answer).await;
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future).await.expect("took longer than the test allows")
}

async fn send(stream: &mut TcpStream, text: &str) {
    within(stream.write_all(text.as_bytes())).await.unwrap();
}

async fn expect(stream: &mut TcpStream, text: &str) {
    let mut got = vec![0; text.len()];
    within(stream.read_exact(&mut got)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), text);
}

#[tokio::test]
async fn forwards_and_counts() {
    let mut pair = Pair::new().await;
    pair.talk("hello", "hi").await;
    assert_eq!(pair.stat("/up/bytes"), 5);
    assert_eq!(pair.stat("/down/bytes"), 2);
    assert_eq!(pair.stat("/connections/now"), 1);
    assert_eq!(pair.stat("/connections/total"), 1);
}

#[tokio::test]
async fn passes_a_half_close_on() {
    let mut pair = Pair::new().await;
    pair.client.shutdown().await.unwrap();
    assert_eq!(within(pair.server.read(&mut [0; 8])).await.unwrap(), 0);
    send(&mut pair.server, "still here").await;
    expect(&mut pair.client, "still here").await;
}

#[tokio::test]
async fn passes_a_reset_on() {
    let mut pair = Pair::new().await;
    socket2::SockRef::from(&pair.server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(pair.server);
    let error = within(pair.client.read(&mut [0; 8])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn delays_both_ways_without_losing_order() {
    let mut pair = Pair::new().await;
    pair.command("delay 100").await;
    let start = Instant::now();
    pair.talk("one", "two").await;
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
    pair.command("delay 0").await;
    pair.talk("three", "four").await;
}

#[tokio::test]
async fn throttles() {
    let mut pair = Pair::new().await;
    pair.command("throttle 100000").await;
    let start = Instant::now();
    // A pause follows each portion of 5000 bytes: three lie between the first and the last byte.
    pair.talk(&"x".repeat(20_000), "y").await;
    assert!(start.elapsed() >= Duration::from_millis(150), "{:?}", start.elapsed());
    pair.command("throttle 0").await;
    pair.talk("three", "four").await;
}

#[tokio::test]
async fn splits_writes() {
    let mut pair = Pair::new().await;
    pair.command("split 1").await;
    send(&mut pair.client, &"x".repeat(1000)).await;
    let mut reads = 0;
    let mut length = 0;
    while length < 1000 {
        length += within(pair.server.read(&mut [0; 1000])).await.unwrap();
        reads += 1;
    }
    // The kernel may join some portions again, never all of them.
    assert!(reads > 1, "{reads} reads");
}

#[tokio::test]
async fn blackhole_drops_bytes_and_ends_of_stream() {
    let mut pair = Pair::new().await;
    pair.command("blackhole up").await;
    send(&mut pair.client, "lost").await;
    send(&mut pair.server, "down still works").await;
    expect(&mut pair.client, "down still works").await;
    within(async {
        while pair.stat("/up/dropped") < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    pair.command("resume").await;
    pair.talk("found", "yes").await;
    assert_eq!(pair.stat("/up/bytes"), 5);

    pair.command("blackhole both").await;
    pair.client.shutdown().await.unwrap();
    send(&mut pair.server, "into the void").await;
    within(async {
        while pair.stat("/down/dropped") < 13 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(pair.server.try_read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    pair.command("resume").await;
    assert_eq!(within(pair.server.read(&mut [0; 8])).await.unwrap(), 0);
}

#[tokio::test]
async fn stall_sticks_writes_and_loses_nothing() {
    let mut pair = Pair::new().await;
    pair.command("stall up").await;
    let portion = [b'x'; 16 * 1024];
    let mut written = 0;
    loop {
        match pair.client.try_write(&portion) {
            Ok(length) => written += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    send(&mut pair.server, "down still works").await;
    expect(&mut pair.client, "down still works").await;
    assert_eq!(pair.stat("/up/bytes"), 0);
    pair.command("resume").await;
    let mut got = vec![0; written];
    within(pair.server.read_exact(&mut got)).await.unwrap();
    pair.talk("and on", "yes").await;
    assert_eq!(pair.stat("/up/dropped"), 0);
}

#[tokio::test]
async fn cut_resets_both_sides() {
    let mut pair = Pair::new().await;
    pair.talk("a", "b").await;
    pair.command("cut").await;
    assert_eq!(pair.stat("/connections/now"), 0);
    for stream in [&mut pair.client, &mut pair.server] {
        let error = within(stream.read(&mut [0; 8])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn close_ends_both_sides_cleanly() {
    let mut pair = Pair::new().await;
    pair.talk("a", "b").await;
    pair.command("close").await;
    assert_eq!(pair.stat("/connections/now"), 0);
    for stream in [&mut pair.client, &mut pair.server] {
        assert_eq!(within(stream.read(&mut [0; 8])).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn refuses_and_comes_back_on_the_same_port() {
    let mut pair = Pair::new().await;
    pair.command("refuse on").await;
    let error = within(TcpStream::connect(pair.proxy.address())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    pair.talk("open ones", "go on").await;

    pair.command("refuse reset").await;
    let mut late = within(TcpStream::connect(pair.proxy.address())).await.unwrap();
    assert_eq!(within(late.read(&mut [0; 8])).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(pair.stat("/connections/refused"), 1);

    pair.command("refuse off").await;
    pair.client = within(TcpStream::connect(pair.proxy.address())).await.unwrap();
    pair.server = within(pair.target.accept()).await.unwrap().0;
    pair.talk("back", "again").await;
}

#[tokio::test]
async fn turns_new_connections_to_another_target() {
    let pair = Pair::new().await;
    let other = TcpListener::bind(loopback()).await.unwrap();
    pair.command(&format!("target {}", other.local_addr().unwrap())).await;
    let mut client = TcpStream::connect(pair.proxy.address()).await.unwrap();
    let (mut server, _) = within(other.accept()).await.unwrap();
    send(&mut client, "new").await;
    expect(&mut server, "new").await;
}

#[tokio::test]
async fn resets_clients_whose_target_is_down() {
    let pair = Pair::new().await;
    let address = pair.target.local_addr().unwrap();
    drop(pair.target);
    pair.proxy.command(&format!("target {address}")).await.unwrap();
    let mut client = TcpStream::connect(pair.proxy.address()).await.unwrap();
    assert_eq!(within(client.read(&mut [0; 8])).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn names_a_wrong_command() {
    let pair = Pair::new().await;
    for line in ["", "dance", "stall sideways", "delay soon", "refuse"] {
        let error = format!("{:#}", pair.proxy.command(line).await.unwrap_err());
        let wrong = line.split(' ').next_back().unwrap();
        assert!(error.contains(wrong), "{line}: {error}");
    }
}
