//! A server over real sockets, against an independent peer (tokio-tungstenite) and raw bytes.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{App, PATIENCE};
use lifeline_engine::bridge::{Bridge, Command, EndpointId, Event, HandshakeAnswer, LogLevel, Reply, Sent};
use lifeline_engine::config::{RateAction, SlowConsumer, WatchdogAction};
use lifeline_proto::heartbeat::{Adaptive, Mode};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

type Peer = WebSocket<TcpStream>;

fn connect(address: &str) -> Peer {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let request = format!("ws://{address}/").into_client_request().expect("request");
    tungstenite::client::client(request, stream).expect("handshake").0
}

/// Does the handshake and leaves raw bytes.
fn connect_raw(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .expect("request");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).expect("head"), 1);
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream
}

/// Answers each message with itself until `count` have come.
fn echo(app: &mut App, count: usize) {
    let mut left = count;
    while left > 0 {
        if let Event::Message { conn, data, binary, .. } = app.event() {
            let bytes = data.len();
            app.submit(Command::Send { conn, data, binary });
            app.submit(Command::Consumed { conn, messages: 1, bytes });
            left -= 1;
        }
    }
}

#[test]
fn echoes_text_and_binary_of_all_sizes_in_order() {
    let mut app = App::new();
    let (_, address) = app.serve(|config| {
        config.limits.max_message = 4 << 20;
        config.limits.max_frame = 4 << 20;
        config.send.limit = 16 << 20;
        config.limits.inbound = 16 << 20;
    });
    let sizes = [0, 1, 125, 126, 127, 65_535, 65_536, 70_000, 1 << 20, 3];
    let peer = std::thread::spawn(move || {
        let mut peer = connect(&address);
        for size in sizes {
            peer.write(Message::text("t".repeat(size))).expect("send");
            peer.write(Message::binary(vec![7; size])).expect("send");
        }
        peer.flush().expect("flush");
        for size in sizes {
            assert_eq!(peer.read().expect("text"), Message::text("t".repeat(size)));
            assert_eq!(peer.read().expect("binary"), Message::binary(vec![7; size]));
        }
    });
    echo(&mut app, sizes.len() * 2);
    peer.join().expect("peer");
}

#[test]
fn reports_the_peers_close_and_answers_it() {
    let mut app = App::new();
    let (server, address) = app.serve(|_| {});
    let mut peer = connect(&address);
    app.wait_open();
    peer.close(Some(CloseFrame { code: 4321.into(), reason: "bye".into() })).expect("close");
    assert_eq!(app.wait_close(), (4321, "bye".to_owned(), true));
    let answer = peer.read().expect("close frame");
    assert!(matches!(&answer, Message::Close(Some(frame)) if u16::from(frame.code) == 4321), "{answer:?}");
    assert!(matches!(peer.read(), Err(tungstenite::Error::ConnectionClosed)));
    assert_eq!(app.stat(server, &["connections", "open"]), 0);
}

#[test]
fn sends_what_is_queued_before_its_own_close() {
    let mut app = App::new();
    let (_, address) = app.serve(|_| {});
    let mut peer = connect(&address);
    let conn = app.wait_open();
    app.send(conn, "last words");
    app.submit(Command::Close { conn, code: 3000, reason: "done".into() });
    assert!(matches!(app.send(conn, "too late"), Reply::Sent(Sent::Closed)));
    assert_eq!(peer.read().expect("message"), Message::text("last words"));
    let close = peer.read().expect("close");
    assert!(matches!(&close, Message::Close(Some(frame)) if u16::from(frame.code) == 3000 && frame.reason == "done"));
    let _ = peer.read();
    assert_eq!(app.wait_close(), (3000, "done".to_owned(), true));
}

#[test]
fn a_lost_peer_is_1006() {
    let mut app = App::new();
    let (_, address) = app.serve(|_| {});
    let peer = connect(&address);
    app.wait_open();
    drop(peer);
    let (code, _, clean) = app.wait_close();
    assert_eq!((code, clean), (1006, false));
}

#[test]
fn a_violation_is_told_to_both_sides() {
    let mut app = App::new();
    let (_, address) = app.serve(|_| {});
    let mut peer = connect_raw(&address);
    app.wait_open();
    // Text, masked with zeros, not UTF-8 from its first byte on: told before the frame ends.
    peer.write_all(&[0x81, 0xFE, 0x10, 0x00, 0, 0, 0, 0, 0xFF]).expect("write");
    let failure = app.wait(|event| if let Event::Failure { failure, .. } = event { Some(failure.code) } else { None });
    assert_eq!(failure, 1007);
    assert_eq!(app.wait_close().0, 1007);
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).expect("close frame and end");
    assert_eq!(&answer[..4], [0x88, answer[1], 0x03, 0xEF], "close 1007");
}

#[test]
fn answers_pings_and_measures_round_trips_without_the_application() {
    let mut app = App::new();
    let (_, address) = app.serve(|config| {
        config.heartbeat.rules.interval = Duration::from_millis(50);
        config.heartbeat.rules.timeout = PATIENCE;
    });
    let mut peer = connect(&address);
    let conn = app.wait_open();
    peer.send(Message::Ping(Bytes::from_static(b"are you there"))).expect("ping");
    let mut pong = false;
    let mut ping = false;
    while !(pong && ping) {
        match peer.read().expect("frame") {
            Message::Pong(payload) => {
                assert_eq!(&payload[..], b"are you there");
                pong = true;
            }
            Message::Ping(_) => {
                peer.flush().expect("automatic pong");
                ping = true;
            }
            other => panic!("{other:?}"),
        }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Reply::Time(Some(rtt)) = app.submit(Command::RoundTrip { conn }) {
            assert!(rtt < PATIENCE);
            break;
        }
        assert!(Instant::now() < deadline, "no round trip was measured");
        std::thread::yield_now();
    }
}

#[test]
fn a_silent_peer_is_cut_and_reported_as_4001() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        config.heartbeat.rules.interval = Duration::from_millis(100);
        config.heartbeat.rules.timeout = Duration::from_millis(100);
    });
    // Reads nothing and answers nothing.
    let _peer = connect_raw(&address);
    app.wait_open();
    let (code, reason, clean) = app.wait_close();
    assert_eq!((code, clean), (4001, false), "{reason}");
    assert_eq!(app.stat(server, &["connections", "dead"]), 1);
    assert_eq!(app.stat(server, &["heartbeats", "sent"]), 1);
}

#[test]
fn a_peer_that_answers_is_never_cut() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        config.heartbeat.rules.interval = Duration::from_millis(20);
        config.heartbeat.rules.timeout = Duration::from_secs(10);
        config.heartbeat.rules.mode = Mode::Fixed;
    });
    let mut peer = connect(&address);
    app.wait_open();
    for _ in 0..20 {
        assert!(matches!(peer.read().expect("ping"), Message::Ping(_)));
        peer.flush().expect("pong");
    }
    assert!(app.stat(server, &["heartbeats", "sent"]) >= 20);
    assert_eq!(app.stat(server, &["connections", "open"]), 1);
}

#[test]
fn publishes_to_members_but_the_excepted() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| config.announce_members = true);
    let mut peers: Vec<_> = (0..3).map(|_| connect(&address)).collect();
    let conns: Vec<_> = (0..3).map(|_| app.wait_open()).collect();
    for conn in &conns {
        assert!(matches!(app.submit(Command::Subscribe { conn: *conn, channel: "news".into() }), Reply::Flag(true)));
        assert!(matches!(app.submit(Command::Subscribe { conn: *conn, channel: "news".into() }), Reply::Flag(false)));
    }
    let publish = |app: &App, except| {
        let command =
            Command::Publish { server, channel: "news".into(), data: Bytes::from_static(b"hi"), binary: false, except };
        let Reply::Count(count) = app.submit(command) else { panic!("not a count") };
        count
    };
    assert_eq!(publish(&app, vec![]), 3);
    for peer in &mut peers {
        assert_eq!(peer.read().expect("message"), Message::text("hi"));
    }
    assert_eq!(publish(&app, vec![conns[0]]), 2);
    drop(peers);
    let mut left = 0;
    let mut closed = 0;
    while closed < 3 {
        match app.event() {
            Event::Leave { channel, .. } => {
                assert_eq!(&*channel, "news");
                left += 1;
                assert!(left > closed, "leaves come before their close");
            }
            Event::Close { .. } => closed += 1,
            _ => {}
        }
    }
    assert_eq!(left, 3);
    assert_eq!(publish(&app, vec![]), 0);
    assert!(matches!(app.submit(Command::Channels { server }), Reply::Names(names) if names.is_empty()));
}

#[test]
fn finds_connections_by_user() {
    let mut app = App::new();
    let (server, address) = app.serve(|_| {});
    let mut peer = connect(&address);
    let conn = app.wait_open();
    app.submit(Command::Bind { conn, user: "ann".into() });
    app.submit(Command::Bind { conn, user: "bob".into() });
    let send = |user: &str| {
        app.submit(Command::SendToUser { server, user: user.into(), data: Bytes::from_static(b"psst"), binary: false })
    };
    assert!(matches!(send("ann"), Reply::Count(0)));
    assert!(matches!(send("bob"), Reply::Count(1)));
    assert_eq!(peer.read().expect("message"), Message::text("psst"));
    app.submit(Command::DisconnectUser { server, user: "bob".into(), code: 4503, reason: "out".into() });
    let close = peer.read().expect("close");
    assert!(matches!(&close, Message::Close(Some(frame)) if u16::from(frame.code) == 1008), "{close:?}");
}

/// Fills the send buffer of a peer that does not read; returns how often each result came.
fn overfill(policy: SlowConsumer) -> (App, TcpStream, usize, usize, usize) {
    let mut app = App::new();
    let (_, address) = app.serve(|config| {
        config.send.limit = 64 * 1024;
        config.send.policy = policy;
        config.limits.handshake_timeout = Duration::from_secs(2);
        config.heartbeat.rules.mode = Mode::Off;
    });
    let peer = connect_raw(&address);
    let conn = app.wait_open();
    let data = Bytes::from(vec![b'x'; 16 * 1024]);
    let (mut queued, mut dropped, mut closed) = (0, 0, 0);
    for _ in 0..200_000 {
        match app.submit(Command::Send { conn, data: data.clone(), binary: true }) {
            Reply::Sent(Sent::Queued) => queued += 1,
            Reply::Sent(Sent::Dropped) => dropped += 1,
            Reply::Sent(Sent::Closed) => closed += 1,
            other => panic!("{other:?}"),
        }
        let Reply::Count(buffered) = app.submit(Command::BufferedBytes { conn }) else { panic!("not a count") };
        assert!(buffered <= 8 * 64 * 1024, "{buffered} bytes buffered");
        if dropped + closed > 3 {
            break;
        }
    }
    (app, peer, queued, dropped, closed)
}

#[test]
fn a_slow_consumer_is_closed() {
    let (mut app, mut peer, _, dropped, closed) = overfill(SlowConsumer::Close);
    assert_eq!(dropped, 1);
    assert!(closed > 0);
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).expect("what was written, a close frame, the end");
    let tail = String::from_utf8_lossy(&rest[rest.len().saturating_sub(60)..]);
    assert!(tail.contains("slow consumer"), "{tail}");
    assert_eq!(app.wait_close().0, 4002);
}

#[test]
fn a_slow_consumer_loses_the_newest() {
    let (mut app, peer, _, dropped, closed) = overfill(SlowConsumer::DropNewest);
    assert!(dropped > 0);
    assert_eq!(closed, 0);
    // Once it reads again, the application hears that there is room.
    let reader = std::thread::spawn(move || {
        let mut peer = peer;
        let mut sink = vec![0; 65_536];
        while peer.read(&mut sink).is_ok_and(|count| count > 0) {}
    });
    app.wait(|event| matches!(event, Event::Drain { .. }).then_some(()));
    app.local.shutdown(Duration::from_secs(5));
    reader.join().expect("reader");
}

#[test]
fn a_slow_consumer_loses_the_oldest() {
    let mut app = App::new();
    let (_, address) = app.serve(|config| {
        config.send.limit = 64 * 1024;
        config.send.policy = SlowConsumer::DropOldest;
    });
    let mut peer = connect(&address);
    let conn = app.wait_open();
    let count = 2_000_u32;
    for number in 0..count {
        let mut data = vec![0; 16 * 1024];
        data[..4].copy_from_slice(&number.to_be_bytes());
        assert!(!matches!(
            app.submit(Command::Send { conn, data: data.into(), binary: true }),
            Reply::Sent(Sent::Closed)
        ));
    }
    let mut last = None;
    let mut received = 0;
    while last != Some(count - 1) {
        let Message::Binary(data) = peer.read().expect("message") else { continue };
        let number = u32::from_be_bytes(data[..4].try_into().expect("four bytes"));
        assert!(last.is_none_or(|last| number > last), "order");
        last = Some(number);
        received += 1;
    }
    assert!(received < count, "nothing was dropped");
}

const COUNT: usize = 2_000;

#[test]
fn reads_pause_at_the_inbound_limit_and_go_on_when_consumed() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        config.limits.inbound = 128 * 1024;
        config.heartbeat.rules.mode = Mode::Off;
    });
    let peer = std::thread::spawn(move || {
        let mut peer = connect(&address);
        for _ in 0..COUNT {
            peer.write(Message::binary(vec![1; 16 * 1024])).expect("send");
        }
        peer.flush().expect("flush");
        peer
    });
    let conn = app.wait_open();
    // Not consuming: the engine must stop reading at the limit, give or take one read.
    let deadline = Instant::now() + PATIENCE;
    while app.stat(server, &["connections", "readsPaused"]) == 0 {
        assert!(Instant::now() < deadline, "reads never paused");
        std::thread::yield_now();
    }
    let waiting = app.stat(server, &["bytes", "inboundWaiting"]);
    assert!(waiting < 256 * 1024, "{waiting} bytes wait");
    for _ in 0..COUNT {
        let (_, data) = app.wait_message();
        app.submit(Command::Consumed { conn, messages: 1, bytes: data.len() });
    }
    assert_eq!(app.stat(server, &["bytes", "inboundWaiting"]), 0);
    peer.join().expect("peer");
}

#[test]
fn the_application_decides_on_handshakes() {
    let mut app = App::new();
    let (_, address) = app.serve(|config| config.ask_handshake = true);
    let peer = std::thread::spawn(move || {
        let refused = tungstenite::connect(format!("ws://{address}/no"));
        let Err(tungstenite::Error::Http(response)) = refused else { panic!("not refused") };
        assert_eq!(response.status(), 418);
        assert_eq!(response.body().as_deref(), Some(&b"short and stout"[..]));
        let (_, response) = tungstenite::connect(format!("ws://{address}/yes")).expect("accepted");
        assert_eq!(response.headers()["x-extra"], "1");
    });
    for _ in 0..2 {
        let (ticket, path) = app.wait(|event| match event {
            Event::Handshake { ticket, request, .. } => Some((*ticket, request.path().to_owned())),
            _ => None,
        });
        let answer = if path == "/yes" {
            HandshakeAnswer { status: 101, headers: vec![("X-Extra".into(), "1".into())], ..HandshakeAnswer::default() }
        } else {
            HandshakeAnswer { status: 418, body: Bytes::from_static(b"short and stout"), ..HandshakeAnswer::default() }
        };
        app.submit(Command::AnswerHandshake { ticket, answer });
    }
    peer.join().expect("peer");
}

#[test]
fn connections_over_the_limit_are_refused_before_the_upgrade() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| config.server_limits.max_connections = 2);
    let first = connect(&address);
    let _second = connect(&address);
    app.wait_open();
    app.wait_open();
    let refused = tungstenite::connect(format!("ws://{address}/"));
    assert!(matches!(&refused, Err(tungstenite::Error::Http(response)) if response.status() == 503), "{refused:?}");
    drop(first);
    app.wait_close();
    connect(&address);
    app.wait_open();
    assert_eq!(app.stat(server, &["connections", "refused"]), 1);
}

#[test]
fn the_longest_idle_makes_room() {
    let mut app = App::new();
    let (_, address) = app.serve(|config| {
        config.server_limits.max_connections = 2;
        config.idle_evict = true;
    });
    let mut first = connect(&address);
    let idle = app.wait_open();
    let mut second = connect(&address);
    app.wait_open();
    first.send(Message::text("awake")).expect("send");
    app.wait_message();
    let _third = connect(&address);
    // The second has been silent longest now.
    assert!(matches!(second.read(), Ok(Message::Close(Some(frame))) if u16::from(frame.code) == 1001));
    let _ = second.read();
    let evicted =
        app.wait(|event| if let Event::Close { conn, code, .. } = event { Some((*conn, *code)) } else { None });
    assert_ne!(evicted.0, idle);
    assert_eq!(evicted.1, 4006);
}

#[test]
fn stop_says_goodbye_and_ends() {
    let mut app = App::new();
    let (server, address) = app.serve(|_| {});
    let mut peers: Vec<_> = (0..5).map(|_| connect(&address)).collect();
    for _ in 0..5 {
        app.wait_open();
    }
    // One that never answers the close.
    let _mute = connect_raw(&address);
    app.wait_open();
    app.submit(Command::StopServer { server, drain: Duration::from_millis(500) });
    for peer in &mut peers {
        let close = peer.read().expect("close");
        assert!(matches!(&close, Message::Close(Some(frame)) if u16::from(frame.code) == 1001), "{close:?}");
        let _ = peer.read();
    }
    let mut closed = 0;
    loop {
        match app.event() {
            Event::Close { .. } => closed += 1,
            Event::Stopped { endpoint } => {
                assert_eq!(endpoint, server);
                break;
            }
            _ => {}
        }
    }
    assert_eq!(closed, 6, "each connection is reported before the end");
    assert!(TcpStream::connect(&address).is_err(), "still listening");
    assert!(matches!(app.submit(Command::Connections { server }), Reply::Conns(ids) if ids.is_empty()));
}

#[test]
fn idle_connections_are_closed() {
    let mut app = App::new();
    let (_, address) = app.serve(|config| config.idle_timeout = Some(Duration::from_millis(50)));
    let mut peer = connect(&address);
    app.wait_open();
    let close = peer.read().expect("close");
    assert!(matches!(&close, Message::Close(Some(frame)) if u16::from(frame.code) == 1001), "{close:?}");
    let _ = peer.read();
    assert_eq!(app.wait_close().0, 4006);
}

#[test]
fn application_beats_are_answered_and_swallowed() {
    let mut app = App::new();
    let (_, address) = app.serve(|config| {
        config.heartbeat.accept = vec![("ping".into(), "pong".into())];
        config.heartbeat.message = Some("beat".into());
        config.heartbeat.reply = Some("alive".into());
        config.heartbeat.rules.interval = Duration::from_millis(50);
        config.heartbeat.rules.timeout = PATIENCE;
    });
    let mut peer = connect(&address);
    let conn = app.wait_open();
    peer.send(Message::text("ping")).expect("send");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let text = peer.read().expect("text").into_text().expect("text").to_string();
        if text == "beat" {
            peer.send(Message::text("alive")).expect("send");
        }
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    peer.send(Message::text("for the application")).expect("send");
    assert_eq!(app.wait_message(), (conn, Bytes::from_static(b"for the application")));
}

#[test]
fn a_flood_over_the_rate_is_slowed_not_lost() {
    let mut app = App::new();
    let (_, address) = app.serve(|config| config.server_limits.message_rate = Some(100.0));
    let mut peer = connect(&address);
    let conn = app.wait_open();
    let started = Instant::now();
    for number in 0..150 {
        peer.write(Message::text(number.to_string())).expect("send");
    }
    peer.flush().expect("flush");
    for number in 0..150 {
        assert_eq!(app.wait_message(), (conn, Bytes::from(number.to_string())));
    }
    // Not before: what comes with one read is taken together.
    peer.send(Message::text("after")).expect("send");
    assert_eq!(app.wait_message().1, "after");
    // A burst of a second's worth passes at once; the debt of the other 50 takes half a second.
    assert!(started.elapsed() >= Duration::from_millis(450), "{:?}", started.elapsed());
}

#[test]
fn a_traced_connection_tells_what_passes() {
    let mut app = App::new();
    // Errors only: tracing is asked for by name and heard all the same.
    let (_, address) = app.serve(|config| config.log_level = LogLevel::Error);
    let mut peer = connect(&address);
    let conn = app.wait_open();
    app.submit(Command::Trace { conn, on: true });
    peer.send(Message::Ping(Bytes::from_static(b"abc"))).expect("ping");
    peer.send(Message::text("hello")).expect("text");
    let mut lines = Vec::new();
    let mut tell = |event: &Event| {
        if let Event::Log { record, .. } = event {
            assert_eq!((record.level, record.context[0].1.as_str()), (LogLevel::Debug, conn.0.to_string().as_str()));
            lines.push(record.message.clone());
        }
    };
    while !matches!(app.event(), ref event if { tell(event); matches!(event, Event::Message { .. }) }) {}
    app.send(conn, "world!");
    assert!(peer.read().expect("pong").is_pong());
    assert!(peer.read().expect("text").is_text());
    peer.close(None).expect("close");
    let _ = peer.read();
    while !matches!(app.event(), ref event if { tell(event); matches!(event, Event::Close { .. }) }) {}
    for line in [
        "received ping of 3 bytes",
        "sending pong of 3 bytes",
        "received text of 5 bytes",
        "sending text of 6 bytes",
        "received close without a status",
        "ended: 1005 \"\", clean: true",
    ] {
        assert!(lines.iter().any(|seen| seen == line), "{line} is not among {lines:#?}");
    }
}

#[test]
fn what_was_sent_leaves_while_the_application_is_at_work() {
    for outer_loop in [false, true] {
        let mut app = App::new();
        let (_, address) = app.serve(|_| {});
        let mut peer = connect(&address);
        let conn = app.wait_open();
        if outer_loop {
            app.local.rest();
        }
        // As a callback that sends and blocks: no flush. For the second the I/O thread is at work already.
        for text in ["one", "two"] {
            let data = Bytes::copy_from_slice(text.as_bytes());
            app.local.submit(Command::Send { conn, data, binary: false }).expect("send");
            assert_eq!(peer.read().expect("in time"), Message::text(text), "in an outer loop: {outer_loop}");
        }
    }
}

#[test]
fn an_application_that_drives_lets_a_crowd_have_its_turn() {
    let mut app = App::with_threads(1);
    let (_, address) = app.serve(|_| {});
    let mut peers: Vec<TcpStream> = (0..200).map(|_| connect_raw(&address)).collect();
    for _ in &peers {
        app.wait_open();
    }
    // Where the I/O thread has taken over, or this one was interrupted, there is nothing to be seen.
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        while app.event_within(Duration::from_millis(20)).is_some() {}
        if !app.local.drive(Some(Duration::ZERO)) {
            continue;
        }
        for peer in &mut peers {
            peer.write_all(&[0x81, 0x81, 0, 0, 0, 0, b'x']).expect("message");
        }
        let mut batch = Vec::new();
        if app.local.drive(Some(PATIENCE)) && app.local.receive(&mut batch, 1000) >= 150 {
            return;
        }
    }
    panic!("never more than a few at a time");
}

#[test]
fn an_idle_task_stays_small() {
    // Part of what each idle connection costs; raise it only with a reason.
    assert!(lifeline_engine::idle_task_size() <= 232, "{} bytes", lifeline_engine::idle_task_size());
}

/// Whether this process still holds its end of the connection that `peer` is the other end of.
fn is_held(peer: &TcpStream) -> bool {
    let (own, other) = (peer.local_addr().expect("address").port(), peer.peer_addr().expect("address").port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("sockets");
    table.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let port = |field: &str| u16::from_str_radix(field.rsplit(':').next().unwrap_or_default(), 16).unwrap_or(0);
        port(fields[1]) == other && port(fields[2]) == own && fields[9] != "0"
    })
}

#[test]
fn a_peer_that_never_hangs_up_is_let_go() {
    let mut app = App::new();
    let (_, address) = app.serve(|_| {});
    let mut peer = connect_raw(&address);
    app.wait_open();
    peer.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8]).expect("close frame");
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).expect("close frame and end");
    assert_eq!(answer, [0x88, 0x02, 0x03, 0xE8]);
    assert_eq!(app.wait_close(), (1000, String::new(), true));
    let deadline = Instant::now() + PATIENCE / 3;
    while is_held(&peer) {
        assert!(Instant::now() < deadline, "the socket is still open");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_peer_that_talks_on_after_its_close_frame_reads_ours() {
    let mut app = App::new();
    let (_, address) = app.serve(|_| {});
    let mut peer = connect_raw(&address);
    app.wait_open();
    peer.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8, 0x81]).expect("close frame and more");
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).expect("close frame and end");
    assert_eq!(answer, [0x88, 0x02, 0x03, 0xE8]);
    // Closed with bytes on their way to it, a socket answers with a reset.
    assert!(is_held(&peer));
}

#[test]
fn a_peer_that_ends_its_side_behind_its_close_frame_reads_ours() {
    let mut app = App::new();
    let (_, address) = app.serve(|config| config.ask_handshake = true);
    let mut peer = TcpStream::connect(&address).expect("connect");
    peer.set_read_timeout(Some(PATIENCE)).expect("timeout");
    write!(
        peer,
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .expect("request");
    let ticket = app.wait(|event| if let Event::Handshake { ticket, .. } = event { Some(*ticket) } else { None });
    // While nobody reads.
    peer.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8]).expect("close frame");
    peer.shutdown(std::net::Shutdown::Write).expect("shutdown");
    app.submit(Command::AnswerHandshake { ticket, answer: HandshakeAnswer { status: 101, ..Default::default() } });
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).expect("close frame and end");
    assert!(answer.ends_with(b"\r\n\r\n\x88\x02\x03\xE8"), "{}", answer.escape_ascii());
    assert_eq!(app.wait_close(), (1000, String::new(), true));
}

#[test]
fn a_rate_limit_does_not_lift_the_inbound_limit() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        config.limits.inbound = 4096;
        config.server_limits.message_rate = Some(50.0);
    });
    let mut peer = connect_raw(&address);
    app.wait_open();
    let mut frame = vec![0x82, 0xFE, 0x04, 0x00, 0, 0, 0, 0];
    frame.resize(8 + 1024, 7);
    std::thread::spawn(move || while peer.write_all(&frame).is_ok() {});
    app.wait_message();
    // Long enough for several rests of the rate limit; one read's worth may pass the limit.
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        let waiting = app.stat(server, &["bytes", "inboundWaiting"]);
        assert!(waiting < 100_000, "{waiting} bytes wait");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn commands_for_a_server_that_has_ended_do_nothing() {
    let mut app = App::new();
    let (server, address) = app.serve(|_| {});
    let _peer = connect(&address);
    let conn = app.wait_open();
    app.submit(Command::StopServer { server, drain: Duration::ZERO });
    app.wait(|event| matches!(event, Event::Stopped { .. }).then_some(()));
    // The application learns of the end later than the engine: what it does until then is no error.
    let data = Bytes::from_static(b"left");
    let except = Vec::new();
    let reply = app.submit(Command::Broadcast { server, data: data.clone(), binary: false, except });
    assert!(matches!(reply, Reply::Count(0)), "{reply:?}");
    let reply = app.submit(Command::SendToUser { server, user: "u".into(), data, binary: false });
    assert!(matches!(reply, Reply::Count(0)), "{reply:?}");
    assert!(
        matches!(app.submit(Command::Members { server, channel: "c".into() }), Reply::Conns(ids) if ids.is_empty())
    );
    assert!(matches!(app.submit(Command::Subscribe { conn, channel: "c".into() }), Reply::Flag(false)));
    assert!(matches!(app.submit(Command::StopServer { server, drain: Duration::ZERO }), Reply::Done));
}

#[test]
fn a_handshake_that_ends_after_the_server_is_refused() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| config.ask_handshake = true);
    // Without the application's decision, and without the end of its request.
    let mut asking = TcpStream::connect(&address).expect("connect");
    let mut slow = TcpStream::connect(&address).expect("connect");
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    );
    write!(asking, "{request}\r\n").expect("request");
    write!(slow, "{request}").expect("request");
    app.wait(|event| matches!(event, Event::Handshake { .. }).then_some(()));
    while app.stat(server, &["connections", "handshaking"]) < 2 {
        std::thread::yield_now();
    }
    app.submit(Command::StopServer { server, drain: Duration::ZERO });
    app.wait(|event| matches!(event, Event::Stopped { .. }).then_some(()));
    slow.write_all(b"\r\n").expect("end of the request");
    for mut peer in [asking, slow] {
        peer.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let mut answer = String::new();
        peer.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    let late = app.event_within(Duration::from_millis(200));
    assert!(late.is_none(), "{late:?}");
}

#[test]
fn questions_that_nobody_waits_for_are_bounded() {
    const BOUND: usize = 4096;
    let mut app = App::new();
    let (_, address) = app.serve(|config| {
        config.ask_handshake = true;
        config.server_limits.auth_timeout = Duration::from_millis(1);
    });
    let peers = (0..8).map(|_| {
        let address = address.clone();
        std::thread::spawn(move || {
            for _ in 0..BOUND / 8 + 20 {
                let mut peer = TcpStream::connect(&address).expect("connect");
                peer.set_read_timeout(Some(PATIENCE)).expect("timeout");
                write!(
                    peer,
                    "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                )
                .expect("request");
                let mut status = [0; 12];
                peer.read_exact(&mut status).expect("answer");
                assert_eq!(&status, b"HTTP/1.1 503");
            }
        })
    });
    for peer in peers.collect::<Vec<_>>() {
        peer.join().expect("peer");
    }
    let mut asked = 0;
    while let Some(event) = app.event_within(Duration::from_millis(100)) {
        asked += usize::from(matches!(event, Event::Handshake { .. }));
    }
    assert_eq!(asked, BOUND);
}

/// Runs [`watchdog_without_a_reader`] in a process whose error output nobody reads.
#[test]
fn a_watchdog_that_cannot_report_harms_nobody() {
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let output = std::process::Command::new(std::env::current_exe().expect("program"))
        .args(["--exact", "watchdog_without_a_reader", "--ignored", "--test-threads=1", "--nocapture"])
        .stderr(writer)
        .output()
        .expect("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
#[ignore = "wants a broken error output: run by a_watchdog_that_cannot_report_harms_nobody"]
fn watchdog_without_a_reader() {
    let app = App::new();
    let (server, address) = app.serve(|config| config.watchdog.lag = Duration::from_millis(10));
    let _first = connect(&address);
    let deadline = Instant::now() + PATIENCE;
    while app.stat(server, &["watchdog", "fired"]) == 0 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let _second = connect(&address);
}

#[test]
fn a_flood_over_the_rate_may_be_closed() {
    let mut app = App::new();
    let (_, address) = app.serve(|config| {
        config.server_limits.byte_rate = Some(1000.0);
        config.server_limits.rate_action = RateAction::Close;
    });
    let mut peer = connect(&address);
    app.wait_open();
    for _ in 0..3 {
        peer.send(Message::binary(vec![0; 500])).expect("send");
    }
    let close = peer.read().expect("close");
    assert!(matches!(&close, Message::Close(Some(frame)) if u16::from(frame.code) == 1013), "{close:?}");
    let _ = peer.read();
    assert_eq!(app.wait_close().0, 4005);
}

#[test]
fn the_watchdog_may_drain() {
    let mut app = App::new();
    let (_, address) = app.serve(|config| {
        config.watchdog.lag = Duration::from_millis(50);
        config.watchdog.action = WatchdogAction::Drain;
    });
    // The application does not take the opening.
    let mut peer = connect(&address);
    let close = peer.read().expect("close");
    assert!(matches!(&close, Message::Close(Some(frame)) if u16::from(frame.code) == 1001), "{close:?}");
    let _ = peer.read();
    assert_eq!(app.wait_close().0, 1001);
    app.wait(|event| matches!(event, Event::Stopped { .. }).then_some(()));
}

#[test]
fn channels_and_subscriptions_are_limited() {
    let mut app = App::new();
    let (_, address) = app.serve(|config| {
        config.server_limits.max_channels = 3;
        config.server_limits.max_subscriptions = 2;
    });
    let _peers = [connect(&address), connect(&address)];
    let (first, second) = (app.wait_open(), app.wait_open());
    let subscribe = |conn, name: &str| app.local.submit(Command::Subscribe { conn, channel: name.into() });
    assert!(matches!(subscribe(first, "a"), Ok(Reply::Flag(true))));
    assert!(matches!(subscribe(first, "a"), Ok(Reply::Flag(false))));
    assert!(matches!(subscribe(first, "b"), Ok(Reply::Flag(true))));
    let error = subscribe(first, "c").expect_err("too many").to_string();
    assert!(error.contains("limits.maxSubscriptions allows 2"), "{error}");
    assert!(matches!(subscribe(second, "c"), Ok(Reply::Flag(true))));
    let error = subscribe(second, "d").expect_err("too many").to_string();
    assert!(error.contains("limits.maxChannels allows 3"), "{error}");
    // A channel without members is none.
    app.submit(Command::Unsubscribe { conn: second, channel: "c".into() });
    assert!(matches!(subscribe(second, "d"), Ok(Reply::Flag(true))));
}

/// A handshake that the server answers with `status`.
fn is_refused(address: &str, status: u16) -> bool {
    let answer = tungstenite::connect(format!("ws://{address}/"));
    matches!(&answer, Err(tungstenite::Error::Http(response)) if response.status() == status)
}

#[test]
fn over_the_memory_limit_the_one_that_holds_most_is_stopped() {
    const PART: usize = 64 * 1024;
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        config.limits.memory = 8 * PART;
        config.limits.inbound = 1 << 30;
        config.limits.handshake_timeout = Duration::from_secs(1);
    });
    let mut neighbour = connect(&address);
    let near = app.wait_open();
    let mut greedy = connect(&address);
    let hog = app.wait_open();
    let mut writer = greedy.get_ref().try_clone().expect("clone");
    let flood = std::thread::spawn(move || {
        let mut frame = vec![0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        frame.resize(frame.len() + PART, 0);
        // Until it is closed.
        while writer.write_all(&frame).is_ok() {}
    });
    let mut held = 0;
    let mut take = |event: &Event| match event {
        Event::Message { conn, .. } if *conn == hog => {
            held += 1;
            None
        }
        Event::Message { conn, data, .. } if *conn == near => Some(data.clone()),
        _ => None,
    };
    // Asked until it is so: a part that has just become whole counts twice for a moment.
    let deadline = Instant::now() + PATIENCE;
    while !is_refused(&address, 503) {
        assert!(Instant::now() < deadline, "never over the limit");
    }
    for _ in 0..5 {
        neighbour.send(Message::text("still here")).expect("send");
        let data = app.wait(&mut take);
        let bytes = data.len();
        app.submit(Command::Consumed { conn: near, messages: 1, bytes });
        app.send(near, "so am I");
        assert_eq!(neighbour.read().expect("answer"), Message::text("so am I"));
    }
    let code = app.wait(|event| {
        take(event);
        if let Event::Close { code, conn, .. } = event { (*conn == hog).then_some(*code) } else { None }
    });
    assert_eq!(code, 1013);
    // The part under way counts with all the room that is made for it.
    assert!((6..=12).contains(&held), "{held} parts were taken: reading paused at the limit");
    // A reset may overtake the close frame: what it sent behind lies unread.
    if let Ok(close) = greedy.read() {
        assert!(matches!(&close, Message::Close(Some(frame)) if u16::from(frame.code) == 1013), "{close:?}");
    }
    drop(greedy);
    flood.join().expect("flood");
    // What the application has not finished with still counts.
    let used = app.stat(server, &["memory", "used"]);
    assert!(usize::try_from(used).is_ok_and(|used| used >= held * PART), "{used} bytes for {held} parts");
    app.submit(Command::Consumed { conn: hog, messages: held, bytes: held * PART });
    // The part under way goes with the task, which ends by itself.
    let deadline = Instant::now() + PATIENCE;
    while usize::try_from(app.stat(server, &["memory", "used"])).is_ok_and(|left| left >= PART) {
        assert!(Instant::now() < deadline, "{} bytes left", app.stat(server, &["memory", "used"]));
        std::thread::yield_now();
    }
    connect(&address);
    app.wait_open();
    neighbour.send(Message::text("at the end")).expect("send");
    assert_eq!(app.wait_message().1, "at the end");
}

/// Broadcasts or publishes `count` messages of 1 MiB.
fn tell_much(app: &App, server: EndpointId, channel: Option<&str>, count: usize) {
    let data = Bytes::from(vec![7; 1 << 20]);
    for _ in 0..count {
        let (data, except) = (data.clone(), Vec::new());
        app.submit(match channel {
            None => Command::Broadcast { server, data, binary: true, except },
            Some(channel) => Command::Publish { server, channel: channel.into(), data, binary: true, except },
        });
    }
}

#[test]
fn news_count_once_while_somebody_has_not_read_them() {
    const MIB: i64 = 1 << 20;
    let mut app = App::new();
    let (server, address) = app.serve(|config| config.send.limit = 64 << 20);
    let peers: Vec<_> = (0..4).map(|_| connect_raw(&address)).collect();
    for _ in &peers {
        app.wait_open();
    }
    let before = app.stat(server, &["memory", "used"]);
    tell_much(&app, server, None, 24);
    // The kernel takes some of it, for each peer as much as it likes.
    let used = app.stat(server, &["memory", "used"]) - before;
    assert!((8 * MIB..26 * MIB).contains(&used), "{used} bytes for 24 MiB of news to 4 peers");
    drop(peers);
    for _ in 0..4 {
        app.wait_close();
    }
    // The tasks go a moment after that.
    let deadline = Instant::now() + PATIENCE;
    while app.stat(server, &["memory", "used"]) >= before {
        assert!(Instant::now() < deadline, "{} bytes, {before} before", app.stat(server, &["memory", "used"]));
        std::thread::yield_now();
    }
}

#[test]
fn news_that_nobody_reads_meet_the_memory_limit() {
    const ROOMS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        config.limits.memory = 8 << 20;
        config.send.limit = 64 << 20;
        config.limits.handshake_timeout = Duration::from_secs(1);
    });
    let mut peers = Vec::new();
    for room in ROOMS {
        peers.push(connect_raw(&address));
        let conn = app.wait_open();
        app.submit(Command::Subscribe { conn, channel: room.into() });
    }
    // No peer has so much to read that it would be slow by itself.
    for room in ROOMS {
        tell_much(&app, server, Some(room), 12);
    }
    assert_eq!(app.wait_close().0, 4002);
    let used = app.stat(server, &["memory", "used"]);
    assert!(used < 48 << 20, "{used} bytes of 96 MiB of news are held");
}

#[test]
fn who_reads_the_news_a_little_later_keeps_the_place() {
    const PEERS: usize = 8;
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        config.limits.memory = 80 << 20;
        config.send.limit = 80 << 20;
        config.send.policy = SlowConsumer::DropNewest;
    });
    let mut peers = vec![connect_raw(&address)];
    let deaf = app.wait_open();
    app.submit(Command::Subscribe { conn: deaf, channel: "alone".into() });
    for _ in 0..PEERS {
        peers.push(connect_raw(&address));
        app.wait_open();
    }
    let news = Bytes::from(vec![7; 1 << 20]);
    let tell = || {
        let data = news.clone();
        let reply = app.submit(Command::Broadcast { server, data, binary: true, except: vec![deaf] });
        assert!(matches!(reply, Reply::Count(PEERS)), "{reply:?}");
    };
    let publish = || {
        let (channel, data) = ("alone".into(), news.clone());
        let reply = app.submit(Command::Publish { server, channel, data, binary: true, except: Vec::new() });
        matches!(reply, Reply::Count(0))
    };
    // The kernel takes more of it for one than for another.
    for _ in 0..14 {
        tell();
    }
    assert!((0..120).any(|_| publish()), "one that holds it all was never stopped");
    tell();
    tell();
}

#[test]
fn the_memory_limit_is_the_largest_of_the_endpoints_alive() {
    let mut app = App::new();
    let (small, _) = app.serve(|config| config.limits.memory = 1 << 20);
    let (large, _) = app.serve(|config| config.limits.memory = 3 << 20);
    let (_middle, _) = app.serve(|config| config.limits.memory = 2 << 20);
    assert_eq!(app.stat(small, &["memory", "limit"]), 3 << 20);
    app.submit(Command::StopServer { server: large, drain: Duration::ZERO });
    app.wait(|event| matches!(event, Event::Stopped { .. }).then_some(()));
    app.submit(Command::Forget { endpoint: large });
    assert_eq!(app.stat(small, &["memory", "limit"]), 2 << 20);
}

#[test]
fn too_many_fragments_are_1008() {
    let mut app = App::new();
    let (_, address) = app.serve(|config| config.limits.max_fragments = 10);
    let mut peer = connect_raw(&address);
    app.wait_open();
    // Just as many as are allowed, and an end that makes it one message.
    let part = |opcode: u8| [opcode, 0x81, 0, 0, 0, 0, b'x'];
    peer.write_all(&part(0x02)).expect("write");
    peer.write_all(&part(0x00).repeat(8)).expect("write");
    peer.write_all(&part(0x80)).expect("write");
    assert_eq!(app.wait_message().1.len(), 10);
    peer.write_all(&part(0x02)).expect("write");
    peer.write_all(&part(0x00).repeat(10)).expect("write");
    let failure = app.wait(|event| if let Event::Failure { failure, .. } = event { Some(failure.code) } else { None });
    assert_eq!(failure, 1008);
    assert_eq!(app.wait_close().0, 1008);
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).expect("close frame and end");
    assert_eq!(&answer[..4], [0x88, answer[1], 0x03, 0xF0], "close 1008");
}

#[test]
fn an_unready_server_accepts_nobody_until_the_application_is_back() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        config.watchdog.lag = Duration::from_millis(50);
        config.watchdog.action = WatchdogAction::Unready;
    });
    // The application does not take the opening.
    let mut first = connect(&address);
    let deadline = Instant::now() + PATIENCE;
    while app.stat(server, &["watchdog", "fired"]) == 0 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    for _ in 0..3 {
        assert!(is_refused(&address, 503));
    }
    assert_eq!(app.stat(server, &["connections", "refused"]), 3);
    // Who is there already stays.
    let conn = app.wait_open();
    app.send(conn, "hello");
    assert_eq!(first.read().expect("message"), Message::text("hello"));
    while is_refused(&address, 503) {
        assert!(Instant::now() < deadline, "never ready again");
        app.event_within(Duration::from_millis(20));
    }
    app.wait_open();
    assert_eq!(app.stat(server, &["connections", "opened"]), 2);
}

#[test]
fn passive_waits_for_the_peers_beats() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        config.heartbeat.rules.mode = Mode::Passive;
        config.heartbeat.rules.interval = Duration::from_secs(1);
    });
    let mut peer = connect(&address);
    app.wait_open();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(2) {
        peer.send(Message::Ping(Bytes::new())).expect("ping");
        assert!(matches!(peer.read().expect("pong"), Message::Pong(_)));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(app.stat(server, &["connections", "open"]), 1);
    let (code, reason, clean) = app.wait_close();
    assert_eq!((code, clean), (4001, false), "{reason}");
    assert_eq!(app.stat(server, &["heartbeats", "sent"]), 0);
}

#[test]
fn keepalive_beats_and_never_cuts() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        config.heartbeat.rules.mode = Mode::Keepalive;
        config.heartbeat.rules.interval = Duration::from_millis(30);
        config.heartbeat.rules.timeout = Duration::from_millis(30);
    });
    // Answers nothing.
    let mut peer = connect_raw(&address);
    let conn = app.wait_open();
    for _ in 0..8 {
        let mut ping = [0; 6];
        peer.read_exact(&mut ping).expect("ping");
        assert_eq!(ping[..2], [0x89, 4]);
    }
    assert_eq!(app.stat(server, &["connections", "open"]), 1);
    assert!(app.stat(server, &["heartbeats", "sent"]) >= 8);
    assert!(matches!(app.send(conn, "still"), Reply::Sent(Sent::Queued)));
}

#[test]
fn a_missed_limit_of_three_gives_three_beats() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        config.heartbeat.rules.interval = Duration::from_millis(50);
        config.heartbeat.rules.timeout = Duration::from_millis(50);
        config.heartbeat.rules.missed_limit = 3;
    });
    let mut peer = connect_raw(&address);
    app.wait_open();
    let mut pings = Vec::new();
    // A dead link is reset, or it ends.
    let _ = peer.read_to_end(&mut pings);
    assert_eq!(pings.len(), 18, "{pings:?}");
    assert!(pings.chunks(6).all(|ping| ping[..2] == [0x89, 4]));
    assert_eq!(app.wait_close().0, 4001);
    assert_eq!(app.stat(server, &["heartbeats", "sent"]), 3);

    // Any answer makes the count begin anew.
    let mut peer = connect_raw(&address);
    app.wait_open();
    let mut ping = [0; 6];
    for round in 0..3 {
        for _ in 0..2 {
            peer.read_exact(&mut ping).unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        peer.write_all(&[0x8A, 0x84, 0, 0, 0, 0]).expect("pong");
        peer.write_all(&ping[2..]).expect("pong");
    }
}

#[test]
fn adaptive_beats_grow_rare_until_there_is_traffic() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        config.heartbeat.rules.adaptive = Some(Adaptive {
            min: Duration::from_millis(100),
            max: Duration::from_millis(1300),
            step: Duration::from_millis(600),
        });
        config.heartbeat.rules.timeout = Duration::from_secs(20);
    });
    let mut peer = connect(&address);
    app.wait_open();
    let mut gap = || {
        let begin = Instant::now();
        assert!(matches!(peer.read().expect("ping"), Message::Ping(_)));
        peer.flush().expect("pong");
        begin.elapsed()
    };
    let gaps = [gap(), gap(), gap(), gap()];
    // Not exactly: the machine may be busy.
    assert!(gaps[2] > gaps[0] && gaps[3] > Duration::from_millis(900), "{gaps:?}");
    peer.send(Message::text("traffic")).expect("send");
    app.wait_message();
    let mut gap = || {
        let begin = Instant::now();
        assert!(matches!(peer.read().expect("ping"), Message::Ping(_)));
        peer.flush().expect("pong");
        begin.elapsed()
    };
    let after = gap();
    assert!(after < gaps[3].mul_f64(0.7), "{after:?} after traffic, {gaps:?} before");
    assert_eq!(app.stat(server, &["connections", "open"]), 1);
}

#[test]
fn a_crowd_is_told_to_leave_over_a_window() {
    use rustix::event::{PollFd, PollFlags, poll};
    const CROWD: usize = 300;
    let drain = Duration::from_secs(60);
    let mut app = App::new();
    let (server, address) = app.serve(|_| {});
    let mut peers: Vec<_> = (0..CROWD).map(|_| connect_raw(&address)).collect();
    for _ in 0..CROWD {
        app.wait_open();
    }
    let begin = Instant::now();
    let told = std::thread::spawn(move || {
        let mut told = Vec::new();
        while !peers.is_empty() {
            let mut ready: Vec<_> = peers.iter().map(|peer| PollFd::new(peer, PollFlags::IN)).collect();
            poll(&mut ready, None).expect("poll");
            let ready: Vec<_> = ready.iter().map(|peer| !peer.revents().is_empty()).collect();
            let mut ready = ready.into_iter();
            peers.retain_mut(|peer| {
                if ready.next() != Some(true) {
                    return true;
                }
                told.push(begin.elapsed());
                let mut close = [0; 4];
                peer.read_exact(&mut close).expect("close frame");
                assert_eq!([close[0], close[2], close[3]], [0x88, 0x03, 0xE9], "close 1001");
                peer.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE9]).expect("answer");
                false
            });
        }
        told
    });
    app.submit(Command::StopServer { server, drain });
    let mut closed = 0;
    app.wait(|event| match event {
        Event::Close { code, clean, .. } => {
            assert_eq!((*code, *clean), (1001, true));
            closed += 1;
            None
        }
        Event::Stopped { .. } => Some(()),
        _ => None,
    });
    assert_eq!(closed, CROWD);
    assert!(begin.elapsed() < drain, "{:?}", begin.elapsed());
    let told = told.join().expect("peers");
    // A millisecond for each of them, of which two may go together. A busy machine brings nobody's time forward.
    for (index, told) in told.iter().enumerate() {
        assert!(*told + Duration::from_millis(3) >= Duration::from_millis(index as u64), "number {index}: {told:?}");
    }
}

#[test]
fn who_is_only_sent_to_is_not_idle() {
    let mut app = App::new();
    let idle = Duration::from_millis(800);
    let (server, address) = app.serve(|config| {
        config.idle_timeout = Some(idle);
        config.heartbeat.accept = vec![("ping".into(), "pong".into())];
    });
    // One is told its news alone, one with all others.
    let mut dashboard = connect(&address);
    let conn = app.wait_open();
    let mut wall = connect(&address);
    app.wait_open();
    let begin = Instant::now();
    let mut round = 0;
    while begin.elapsed() < 2 * idle {
        round += 1;
        let data = Bytes::from(round.to_string());
        app.submit(Command::Send { conn, data: data.clone(), binary: false });
        app.submit(Command::Broadcast { server, data, binary: false, except: vec![conn] });
        for peer in [&mut dashboard, &mut wall] {
            assert_eq!(peer.read().expect("news"), Message::text(round.to_string()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    wall.close(None).expect("close");
    assert!(matches!(wall.read().expect("answer"), Message::Close(_)));
    app.wait_close();
    // Beats, whatever they look like, are no messages.
    let begin = Instant::now();
    loop {
        let _ = dashboard.send(Message::text("ping"));
        match dashboard.read() {
            Ok(Message::Close(Some(frame))) => {
                assert_eq!(u16::from(frame.code), 1001);
                break;
            }
            Ok(_) => assert!(begin.elapsed() < PATIENCE, "beats kept it open"),
            Err(error) => panic!("{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = dashboard.read();
    assert_eq!(app.wait_close().0, 4006);
}
