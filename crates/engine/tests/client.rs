//! The client on real sockets: against tokio-tungstenite, against servers made by hand, and against
//! our own server.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use lifeline_engine::bridge::{Bridge, Command, CommandError, Event, OverflowReason, Reply, State};
use lifeline_engine::config::{ClientTls, ClientUrl, ListenAddress, ServerConfig, ServerTls};
use lifeline_proto::outbox::OverflowPolicy;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use common::{App, Directory, PATIENCE, client, local, tcp};

/// A server by another make.
struct Peer {
    listener: TcpListener,
    port: u16,
}

impl Peer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { listener, port }
    }

    async fn socket(&self) -> TcpStream {
        tokio::time::timeout(PATIENCE, self.listener.accept()).await.expect("nobody came").unwrap().0
    }

    async fn accept(&self) -> WebSocketStream<TcpStream> {
        tokio_tungstenite::accept_async(self.socket().await).await.unwrap()
    }

    /// Answers one request with `answer` and closes; the request.
    async fn refuse(&self, answer: &str) -> String {
        let mut socket = self.socket().await;
        let request = read_request(&mut socket).await;
        socket.write_all(answer.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        let _ = socket.read_to_end(&mut Vec::new()).await;
        request
    }
}

async fn read_request(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Upgrades by hand, so that frames can be malformed afterwards.
async fn upgrade(socket: &mut TcpStream) {
    let request = read_request(socket).await;
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    socket.write_all(answer.as_bytes()).await.unwrap();
}

async fn text(peer: &mut WebSocketStream<TcpStream>) -> String {
    loop {
        let message = tokio::time::timeout(PATIENCE, peer.next()).await.expect("nothing came");
        if let Message::Text(text) = message.unwrap().unwrap() {
            return text.to_string();
        }
    }
}

fn close_frame(code: u16) -> CloseFrame {
    CloseFrame { code: CloseCode::from(code), reason: "".into() }
}

fn overflows(events: &[Event]) -> Vec<(u64, Bytes, OverflowReason)> {
    let pick = |event: &Event| match event {
        Event::Overflow { sequence, data, why, .. } => Some((*sequence, data.clone(), *why)),
        _ => None,
    };
    events.iter().filter_map(pick).collect()
}

#[tokio::test]
async fn who_subscribed_before_it_found_a_plain_server_is_told() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let mut config = client(vec![local(peer.port)]);
    config.protocols = vec!["lifeline.v1".to_owned()];
    let id = app.create(config);
    for (channel, on) in [("news", true), ("weather", true), ("news", false)] {
        app.submit(Command::ClientSubscribe { client: id, channel: channel.into(), on });
    }
    app.submit(Command::Connect { client: id });
    let _far = peer.accept().await;
    app.opened(id).await;
    let told = app
        .until(|event| match event {
            Event::Failure { failure, .. } => Some(failure.message.clone()),
            _ => None,
        })
        .await;
    let place = format!("ws://127.0.0.1:{}", peer.port);
    let expected = format!("{place} does not speak lifeline.v1, which channels need: not subscribed to 'weather'");
    assert_eq!(told, expected);
}

#[tokio::test]
async fn messages_go_both_ways_and_close_is_clean() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let id = app.create(client(vec![local(peer.port)]));
    assert_eq!(app.state(id), State::Disconnected);
    assert_eq!(app.client_send(id, "early"), 1);
    assert_eq!(app.unacknowledged(id), 1);
    app.submit(Command::Connect { client: id });
    app.submit(Command::Connect { client: id });
    let mut far = peer.accept().await;
    assert_eq!(text(&mut far).await, "early");

    let transition = app.transition().await;
    assert_eq!((transition.from, transition.to), (State::Disconnected, State::Connecting));
    let transition = app.transition().await;
    assert_eq!((transition.from, transition.to), (State::Connecting, State::Connected));
    let conn = app.opened(id).await;
    assert_eq!(app.client_send(id, "later"), 2);
    assert_eq!(text(&mut far).await, "later");
    far.send(Message::text("answer")).await.unwrap();
    far.send(Message::binary(vec![0, 255])).await.unwrap();
    assert_eq!(app.message(id).await, "answer");
    assert_eq!(app.message(id).await, [0, 255].as_slice());

    app.close(id);
    let code = loop {
        if let Message::Close(frame) = far.next().await.unwrap().unwrap() {
            break u16::from(frame.unwrap().code);
        }
    };
    assert_eq!(code, 1000);
    while let Some(Ok(_)) = far.next().await {}
    let events = app.rest(id).await;
    let close = events.iter().find_map(|event| match event {
        Event::Close { conn: of, code, clean, .. } if *of == conn => Some((*code, *clean)),
        _ => None,
    });
    assert_eq!(close, Some((1000, true)));
    let closed = events
        .iter()
        .any(|event| matches!(event, Event::Transition { transition, .. } if transition.to == State::Closed));
    assert!(closed, "{events:?}");
    assert!(overflows(&events).is_empty());
    assert_eq!(app.state(id), State::Closed);
}

#[tokio::test]
async fn a_lost_link_comes_back_by_itself() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let id = app.connect(client(vec![local(peer.port)]));
    let mut previous = None;
    for round in 0..5 {
        let mut far = peer.accept().await;
        let conn = app.opened(id).await;
        assert_ne!(previous.replace(conn), Some(conn));
        app.client_send(id, format!("round {round}"));
        assert_eq!(text(&mut far).await, format!("round {round}"));
        drop(far);
        let (code, clean) = app
            .until(|event| match event {
                Event::Close { code, clean, .. } => Some((*code, *clean)),
                _ => None,
            })
            .await;
        assert_eq!((code, clean), (1006, false));
        let transition = app.transition().await;
        assert_eq!((transition.from, transition.to), (State::Connected, State::Reconnecting));
        assert!(transition.delay.is_some());
    }
}

#[tokio::test]
async fn a_close_by_the_peer_is_reported_and_answered_by_a_reconnect() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let id = app.connect(client(vec![local(peer.port)]));
    for code in [1001, 1000, 1008, 1011, 1012, 1013, 3000, 4500] {
        let mut far = peer.accept().await;
        app.opened(id).await;
        far.close(Some(close_frame(code))).await.unwrap();
        while let Some(Ok(_)) = far.next().await {}
        let transition = app.reach(State::Reconnecting).await;
        assert_eq!(transition.code, code);
    }
}

#[tokio::test]
async fn a_terminal_close_code_ends_the_client() {
    for code in [1002, 1003, 1007, 1009, 1010] {
        let mut app = App::with_threads(1);
        let peer = Peer::start().await;
        let id = app.connect(client(vec![local(peer.port)]));
        let mut far = peer.accept().await;
        app.client_send(id, "first");
        assert_eq!(text(&mut far).await, "first");
        app.opened(id).await;
        far.close(Some(close_frame(code))).await.unwrap();
        while let Some(Ok(_)) = far.next().await {}
        let events = app.rest(id).await;
        let failure = events.iter().find_map(|event| match event {
            Event::GaveUp { failure, .. } => Some(failure.code),
            _ => None,
        });
        assert_eq!(failure, Some(code));
        assert_eq!(app.state(id), State::Closed);
    }
}

#[tokio::test]
async fn a_terminal_refusal_ends_the_client_and_reports_what_was_unsent() {
    for status in [400, 403, 404, 410, 426] {
        let mut app = App::with_threads(1);
        let peer = Peer::start().await;
        let id = app.create(client(vec![local(peer.port)]));
        app.client_send(id, "kept");
        app.submit(Command::Connect { client: id });
        peer.refuse(&format!("HTTP/1.1 {status} No\r\nContent-Length: 5\r\n\r\nnever")).await;
        let events = app.rest(id).await;
        let failure = events.iter().find_map(|event| match event {
            Event::GaveUp { failure, .. } => Some((**failure).clone()),
            _ => None,
        });
        let failure = failure.expect("the client gives up");
        assert_eq!(failure.code, status);
        assert!(failure.message.contains("never"), "{}", failure.message);
        assert_eq!(overflows(&events), [(1, Bytes::from("kept"), OverflowReason::Closed)]);
        assert_eq!(app.state(id), State::Closed);
    }
}

#[tokio::test]
async fn unauthorized_is_tried_once_more_with_fresh_headers() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let mut config = client(vec![local(peer.port)]);
    config.ask_headers = true;
    let id = app.connect(config);
    for round in 1..=2 {
        let ticket = app
            .until(|event| match event {
                Event::HeadersWanted { ticket, .. } => Some(*ticket),
                _ => None,
            })
            .await;
        let headers = vec![("Authorization".to_owned(), format!("Bearer {round}"))];
        app.submit(Command::AnswerHeaders { ticket, headers });
        let request = peer.refuse("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await;
        assert!(request.contains(&format!("\r\nAuthorization: Bearer {round}\r\n")), "{request}");
    }
    let events = app.rest(id).await;
    assert!(events.iter().any(|event| matches!(event, Event::GaveUp { failure, .. } if failure.code == 401)));
    assert!(!events.iter().any(|event| matches!(event, Event::HeadersWanted { .. })));
}

#[tokio::test]
async fn an_application_that_cannot_supply_headers_fails_the_attempt_only() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let mut config = client(vec![local(peer.port)]);
    config.ask_headers = true;
    let id = app.connect(config);
    let wanted = |event: &Event| match event {
        Event::HeadersWanted { ticket, .. } => Some(*ticket),
        _ => None,
    };
    let ticket = app.until(wanted).await;
    app.submit(Command::FailAttempt { ticket, reason: "no token today".into() });
    let transition = app.reach(State::Reconnecting).await;
    assert!(transition.reason.contains("no token today"), "{}", transition.reason);
    let ticket = app.until(wanted).await;
    let bad = vec![("X-A".to_owned(), "a\r\nb".to_owned())];
    app.submit(Command::AnswerHeaders { ticket, headers: bad });
    let transition = app.reach(State::Reconnecting).await;
    assert!(transition.reason.contains("X-A"), "{}", transition.reason);
    let ticket = app.until(wanted).await;
    app.submit(Command::AnswerHeaders { ticket, headers: Vec::new() });
    let _far = peer.accept().await;
    app.opened(id).await;
}

#[tokio::test]
async fn retry_after_is_waited_for_and_wake_cuts_it_short() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let id = app.connect(client(vec![local(peer.port)]));
    peer.refuse("HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n").await;
    let transition = app.reach(State::Reconnecting).await;
    assert_eq!(transition.code, 503);
    assert!(transition.delay >= Some(Duration::from_secs(3600)), "{transition:?}");
    app.submit(Command::Wake { client: id });
    let _far = peer.accept().await;
    app.opened(id).await;
}

#[tokio::test]
async fn attempts_may_be_limited() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let port = peer.port;
    drop(peer);
    let mut config = client(vec![local(port)]);
    config.reconnect.backoff.max_attempts = Some(3);
    let id = app.connect(config);
    let events = app.rest(id).await;
    let failure = events.iter().find_map(|event| match event {
        Event::GaveUp { failure, .. } => Some(failure.message.clone()),
        _ => None,
    });
    let failure = failure.expect("the client gives up");
    assert!(failure.contains(&format!("127.0.0.1:{port}")), "{failure}");
    let dials = events
        .iter()
        .filter(|event| matches!(event, Event::Transition { transition, .. } if transition.to == State::Connecting))
        .count();
    // The first attempt and three retries.
    assert_eq!(dials, 4);
}

#[tokio::test]
async fn the_next_url_takes_over() {
    let mut app = App::with_threads(1);
    let (dead, second) = (Peer::start().await, Peer::start().await);
    let urls = vec![local(dead.port), local(second.port)];
    drop(dead);
    let id = app.connect(client(urls));
    let far = second.accept().await;
    app.opened(id).await;
    drop(far);
    let _far = second.accept().await;
    app.opened(id).await;
}

#[tokio::test]
async fn a_lazy_client_waits_for_something_to_send() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let mut config = client(vec![local(peer.port)]);
    config.reconnect.lazy = true;
    let id = app.connect(config);
    for round in 0..4 {
        let far = peer.accept().await;
        app.opened(id).await;
        drop(far);
        let transition = app.reach(State::Reconnecting).await;
        assert_eq!(transition.delay, None);
        if round % 2 == 0 {
            app.client_send(id, "news");
        } else {
            app.submit(Command::Wake { client: id });
        }
        // Nothing had been dialled before: the next change comes from the send.
        assert_eq!(app.transition().await.to, State::Connecting);
    }
}

#[tokio::test]
async fn the_outbox_is_bounded_by_its_policy() {
    let mut app = App::with_threads(1);
    let with = |overflow| {
        let mut config = client(vec![local(1)]);
        config.outbox.limit = 2;
        config.outbox.overflow = overflow;
        config
    };
    let send = |app: &App, id, data: &'static str| {
        app.try_submit(Command::ClientSend { client: id, data: data.into(), binary: false, ttl: None })
    };
    let id = app.create(with(OverflowPolicy::Error));
    app.client_send(id, "a");
    app.client_send(id, "b");
    let Err(CommandError::Overflow(error)) = send(&app, id, "c") else { panic!() };
    assert!(error.contains("outbox.limit"), "{error}");

    let id = app.create(with(OverflowPolicy::Block));
    app.client_send(id, "a");
    app.client_send(id, "b");
    assert!(matches!(send(&app, id, "c"), Ok(Reply::WouldBlock)));

    for (policy, victim) in [(OverflowPolicy::DropOldest, (1, "a")), (OverflowPolicy::DropNewest, (3, "c"))] {
        let id = app.create(with(policy));
        app.client_send(id, "a");
        app.client_send(id, "b");
        assert_eq!(app.client_send(id, "c"), 3);
        let event = app.next().await;
        assert_eq!(overflows(&[event]), [(victim.0, Bytes::from(victim.1), OverflowReason::Limit)]);
    }
}

#[tokio::test]
async fn what_was_dropped_is_told_before_more_is_dropped() {
    let mut app = App::with_threads(1);
    let mut config = client(vec![local(1)]);
    config.outbox.limit = 2;
    config.outbox.overflow = OverflowPolicy::DropOldest;
    let id = app.create(config);
    let (mut sent, mut dropped) = (0, 0);
    while sent < 20_000 {
        match app.try_submit(Command::ClientSend { client: id, data: "x".into(), binary: false, ttl: None }) {
            Ok(Reply::Sequence(_)) => sent += 1,
            Ok(Reply::DispatchFirst) => {
                assert!(sent - 2 - dropped >= 1000, "asked after {dropped} of {sent}");
                // As many as are known to wait.
                while dropped < sent - 2 {
                    dropped += overflows(&[app.next().await]).len();
                }
            }
            other => panic!("{other:?}"),
        }
        assert!(sent - dropped < 5000, "{} wait to be reported", sent - dropped);
    }
}

#[tokio::test]
async fn a_blocked_sender_is_told_of_room() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let mut config = client(vec![local(peer.port)]);
    config.outbox.limit = 1;
    config.outbox.overflow = OverflowPolicy::Block;
    let id = app.create(config);
    app.client_send(id, "a");
    let again = Command::ClientSend { client: id, data: "b".into(), binary: false, ttl: None };
    assert!(matches!(app.try_submit(again), Ok(Reply::WouldBlock)));
    app.submit(Command::Connect { client: id });
    let mut far = peer.accept().await;
    app.until(|event| matches!(event, Event::Room { .. }).then_some(())).await;
    assert_eq!(app.client_send(id, "b"), 2);
    assert_eq!([text(&mut far).await, text(&mut far).await], ["a", "b"]);
}

#[tokio::test]
async fn expired_messages_are_reported_and_not_sent() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let id = app.create(client(vec![local(peer.port)]));
    let ttl = Some(Duration::from_millis(20));
    app.submit(Command::ClientSend { client: id, data: "stale".into(), binary: false, ttl });
    app.client_send(id, "fresh");
    let event = app
        .until(|event| matches!(event, Event::Overflow { .. }).then(|| overflows(std::slice::from_ref(event))))
        .await;
    assert_eq!(event, [(1, Bytes::from("stale"), OverflowReason::Expired)]);
    app.submit(Command::Connect { client: id });
    let mut far = peer.accept().await;
    assert_eq!(text(&mut far).await, "fresh");
}

#[tokio::test]
async fn flushed_comes_once_to_those_who_asked() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let id = app.create(client(vec![local(peer.port)]));
    for number in 0..100 {
        app.client_send(id, format!("{number}"));
    }
    assert_eq!(app.unacknowledged(id), 100);
    app.submit(Command::Connect { client: id });
    let mut far = peer.accept().await;
    app.until(|event| matches!(event, Event::Flushed { .. }).then_some(())).await;
    assert_eq!(app.unacknowledged(id), 0);
    for number in 0..100 {
        assert_eq!(text(&mut far).await, format!("{number}"));
    }
    app.client_send(id, "nobody asked");
    assert_eq!(text(&mut far).await, "nobody asked");
    far.send(Message::text("end")).await.unwrap();
    let flushed = app
        .until(|event| match event {
            Event::Flushed { .. } => Some(true),
            Event::Message { .. } => Some(false),
            _ => None,
        })
        .await;
    assert!(!flushed);
}

#[tokio::test]
async fn close_sends_what_waits_and_reports_what_it_cannot() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let id = app.connect(client(vec![local(peer.port)]));
    let mut far = peer.accept().await;
    app.opened(id).await;
    // More than a connection's queue takes at a time.
    let long = "x".repeat(1000);
    for number in 0..2000 {
        app.client_send(id, format!("{number} {long}"));
    }
    app.close(id);
    for number in 0..2000 {
        assert_eq!(text(&mut far).await, format!("{number} {long}"));
    }
    while let Some(Ok(_)) = far.next().await {}
    assert!(overflows(&app.rest(id).await).is_empty());

    let id = app.create(client(vec![local(peer.port)]));
    app.client_send(id, "a");
    app.client_send(id, "b");
    app.close(id);
    let lost = overflows(&app.rest(id).await);
    let expected = [(1, Bytes::from("a"), OverflowReason::Closed), (2, Bytes::from("b"), OverflowReason::Closed)];
    assert_eq!(lost, expected);
    let after = app.try_submit(Command::ClientSend { client: id, data: "c".into(), binary: false, ttl: None });
    assert!(matches!(after, Err(CommandError::Gone(_))), "{after:?}");
}

#[tokio::test]
async fn close_while_connecting_gives_the_attempt_up() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let id = app.connect(client(vec![local(peer.port)]));
    let mut socket = peer.socket().await;
    read_request(&mut socket).await;
    app.close(id);
    app.rest(id).await;
    assert_eq!(socket.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn discard_says_nothing_on_the_wire() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let id = app.connect(client(vec![local(peer.port)]));
    let mut socket = peer.socket().await;
    upgrade(&mut socket).await;
    app.opened(id).await;
    app.submit(Command::Discard { endpoint: id });
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes).await;
    assert_eq!(bytes, b"");
    app.rest(id).await;
}

#[tokio::test]
async fn an_attempt_without_answer_ends_with_the_connect_timeout() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let mut config = client(vec![local(peer.port)]);
    config.connect_timeout = Duration::from_millis(50);
    app.connect(config);
    let _silent = peer.socket().await;
    let transition = app.reach(State::Reconnecting).await;
    assert!(transition.reason.contains("connect.timeout"), "{}", transition.reason);
    // It tries again, as often as it takes on a busy machine.
    let next = async {
        while tokio_tungstenite::accept_async(peer.socket().await).await.is_err() {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = app.reach(State::Connected) => {}
        () = next => {}
    }
}

/// The promise to plain peers: in order, nothing dropped in silence. A peer that closes and reads on
/// gets every message exactly once; what a cut destroys had left for the socket.
async fn order_survives_closes(count: usize, length: usize) {
    let app = App::with_threads(2);
    let peer = Peer::start().await;
    let mut config = client(vec![local(peer.port)]);
    config.outbox.bytes = 64 * 1024 * 1024;
    let id = app.connect(config);
    let far = tokio::spawn(async move {
        let mut seen: Vec<usize> = Vec::new();
        while seen.len() < count {
            let mut far = peer.accept().await;
            let stop = seen.len() + count / 12;
            let mut closing = false;
            while seen.len() < count
                && let Some(Ok(message)) = far.next().await
            {
                if let Message::Text(text) = message {
                    seen.push(text.split(' ').next().unwrap().parse().unwrap());
                }
                if seen.len() >= stop && !closing {
                    closing = true;
                    far.send(Message::Close(Some(close_frame(1012)))).await.unwrap();
                }
            }
        }
        seen
    });
    let filling = "z".repeat(length);
    for number in 0..count {
        app.client_send(id, format!("{number} {filling}"));
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let seen = tokio::time::timeout(PATIENCE, far).await.unwrap().unwrap();
    assert_eq!(seen, (0..count).collect::<Vec<_>>());
    app.close(id);
}

#[tokio::test]
async fn order_of_small_messages_survives_closes() {
    order_survives_closes(5000, 0).await;
}

/// The socket is full when the close comes: some of it leaves after.
#[tokio::test]
async fn order_of_large_messages_survives_closes() {
    order_survives_closes(600, 50_000).await;
}

#[tokio::test]
async fn order_survives_cuts() {
    const CUTS: usize = 10;
    const PORTION: usize = 200;
    let mut app = App::with_threads(2);
    let peer = Peer::start().await;
    let mut config = client(vec![local(peer.port)]);
    config.outbox.bytes = 64 * 1024 * 1024;
    let id = app.connect(config);
    let far = tokio::spawn(async move {
        let mut seen: Vec<usize> = Vec::new();
        let number = |text: &str| text.split(' ').next().unwrap().parse::<usize>().unwrap();
        for _ in 0..CUTS {
            let mut far = peer.accept().await;
            for _ in 0..PORTION / 4 {
                seen.push(number(&text(&mut far).await));
            }
        }
        let mut far = peer.accept().await;
        while seen.last() != Some(&(PORTION * (CUTS + 1) - 1)) {
            seen.push(number(&text(&mut far).await));
        }
        seen
    });
    let long = "y".repeat(20_000);
    app.opened(id).await;
    for round in 0..=CUTS {
        for number in PORTION * round..PORTION * (round + 1) {
            app.client_send(id, format!("{number} {long}"));
        }
        if round < CUTS {
            app.opened(id).await;
        }
    }
    let seen = tokio::time::timeout(PATIENCE, far).await.unwrap().unwrap();
    assert!(seen.is_sorted_by(|earlier, later| earlier < later), "no reordering, no duplicates: {seen:?}");
    assert!(seen.ends_with(&(PORTION * CUTS..PORTION * (CUTS + 1)).collect::<Vec<_>>()));
}

/// The other end of `socket` was closed, in both directions, before this call.
fn assert_gone(socket: TcpStream, round: usize) {
    use std::io::{ErrorKind, Read, Write};
    // Not through the runtime, which may not have heard of it yet.
    let mut socket = socket.into_std().unwrap();
    let mut scrap = [0; 4096];
    loop {
        match socket.read(&mut scrap) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("round {round}: the previous socket is still open: {error}"),
        }
    }
    // An end that is closed altogether answers with a reset; one that only says nothing more does not.
    if socket.write(b"x").is_ok() {
        let patience = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
        let answered = poll(&mut [PollFd::new(&socket, PollFlags::empty())], Some(&patience)).unwrap();
        assert_eq!(answered, 1, "round {round}: the previous socket is still there");
    }
}

/// However a connection ends, the client has closed its socket before it opens the next.
#[tokio::test]
async fn there_are_never_two_sockets() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let id = app.connect(client(vec![local(peer.port)]));
    let mut previous: Option<TcpStream> = None;
    for round in 0..24 {
        let mut socket = peer.socket().await;
        if let Some(previous) = previous.take() {
            assert_gone(previous, round);
        }
        if round % 6 == 5 {
            read_request(&mut socket).await;
            socket.write_all(b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nhalf").await.unwrap();
        } else {
            upgrade(&mut socket).await;
            match round % 6 {
                // A close frame, and the socket stays open.
                0 => socket.write_all(&[0x88, 0x02, 0x03, 0xe9]).await.unwrap(),
                // An abnormal end of our direction only.
                1 => socket.shutdown().await.unwrap(),
                // Another close frame: 1011.
                2 => socket.write_all(&[0x88, 0x02, 0x03, 0xf3]).await.unwrap(),
                // A wake of a client that is connected probes, and does not dial.
                3 => {
                    app.opened(id).await;
                    app.submit(Command::Wake { client: id });
                    app.submit(Command::Connect { client: id });
                    socket.write_all(&[0x88, 0x00]).await.unwrap();
                }
                // Data right before the end.
                _ => socket.write_all(&[0x81, 0x01, b'x', 0x88, 0x00]).await.unwrap(),
            }
        }
        previous = Some(socket);
    }
}

#[tokio::test]
async fn a_peer_that_answers_no_beat_is_replaced() {
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let mut config = client(vec![local(peer.port)]);
    config.heartbeat.rules.interval = Duration::from_millis(40);
    config.heartbeat.rules.timeout = Duration::from_millis(20);
    let id = app.connect(config);
    let mut frozen = peer.socket().await;
    upgrade(&mut frozen).await;
    app.opened(id).await;
    let (code, clean) = app
        .until(|event| match event {
            Event::Close { code, clean, .. } => Some((*code, *clean)),
            _ => None,
        })
        .await;
    assert_eq!((code, clean), (4001, false));
    let _next = peer.socket().await;
    // Its socket was cut, not closed: nothing is left of it.
    let mut ping = Vec::new();
    let error = frozen.read_to_end(&mut ping).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(ping.is_empty() || ping[0] == 0x89, "{ping:?}");
}

#[tokio::test]
async fn statistics_tell_the_state() {
    use lifeline_engine::bridge::Stat;
    let mut app = App::with_threads(1);
    let peer = Peer::start().await;
    let id = app.connect(client(vec![local(peer.port)]));
    let _far = peer.accept().await;
    app.opened(id).await;
    let stats = app.stats(id);
    let found = stats.0.iter().find(|(name, _)| name == "state").map(|(_, value)| value);
    assert!(matches!(found, Some(Stat::Text(text)) if text == "Connected"), "{stats:?}");
}

#[tokio::test]
async fn a_client_needs_usable_settings() {
    let app = App::with_threads(1);
    let create = |change: &dyn Fn(&mut lifeline_engine::config::ClientConfig)| {
        let mut config = client(vec![tcp("a.test", 443, true)]);
        change(&mut config);
        match app.try_submit(Command::CreateClient(Box::new(config))) {
            Err(CommandError::Invalid(text) | CommandError::Start(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    let text = create(&|it| it.tls = ClientTls { ca: Some("/no/such/file".into()), ..ClientTls::default() });
    assert!(text.contains("tls.ca") && text.contains("/no/such/file"), "{text}");
    let text = create(&|it| it.headers = vec![("Upgrade".into(), "x".into())]);
    assert!(text.contains("Upgrade"), "{text}");
    let text = create(&|it| it.urls.clear());
    assert!(text.contains("URL"), "{text}");
}

fn unix(path: &std::path::Path) -> ClientUrl {
    ClientUrl { target: ListenAddress::Unix { path: path.into() }, resource: "/".into(), credentials: None }
}

/// One client and our own server in the same process.
async fn conversation(server: ServerConfig, url: impl FnOnce(u16) -> ClientUrl, tls: ClientTls) {
    let mut app = App::with_threads(2);
    let (server, address) = app.serve(|config| *config = server);
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0);
    let mut config = client(vec![url(port)]);
    config.tls = tls;
    let id = app.connect(config);
    app.client_send(id, "question");
    let (conn, question) = app
        .until(|event| match event {
            Event::Message { endpoint, conn, data, .. } if *endpoint == server => Some((*conn, data.clone())),
            _ => None,
        })
        .await;
    assert_eq!(question, "question");
    app.submit(Command::Send { conn, data: "answer".into(), binary: false });
    assert_eq!(app.message(id).await, "answer");
    // The server cuts the link; the client is back by itself.
    app.submit(Command::Abort { conn });
    app.opened(server).await;
    app.close(id);
    app.rest(id).await;
}

fn listen(target: ListenAddress) -> ServerConfig {
    ServerConfig { listen: vec![target], ..ServerConfig::default() }
}

#[tokio::test]
async fn our_own_server_over_tcp() {
    let server = listen(ListenAddress::Tcp { host: "127.0.0.1".into(), port: 0, tls: false });
    conversation(server, local, ClientTls::default()).await;
}

#[tokio::test]
async fn our_own_server_over_a_unix_socket() {
    let directory = Directory::new();
    let path = directory.0.join("socket");
    let server = listen(ListenAddress::Unix { path: path.clone() });
    conversation(server, |_| unix(&path), ClientTls::default()).await;
}

#[tokio::test]
async fn our_own_server_over_tls_with_client_certificates() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &authority).unwrap().pem(), key.serialize_pem())
    };
    let directory = Directory::new();
    let ca = directory.file("ca.pem", &authority.pem());
    let (server_pem, server_secret) = issue("127.0.0.1");
    let (user_pem, user_secret) = issue("client");
    let mut server = listen(ListenAddress::Tcp { host: "127.0.0.1".into(), port: 0, tls: true });
    server.tls = Some(ServerTls {
        cert: directory.file("cert.pem", &server_pem),
        key: directory.file("key.pem", &server_secret),
        client_ca: Some(ca.clone()),
        sni: Vec::new(),
    });
    let tls = ClientTls {
        ca: Some(ca),
        verify: true,
        cert: Some(directory.file("client-cert.pem", &user_pem)),
        key: Some(directory.file("client-key.pem", &user_secret)),
    };
    conversation(server, |port| tcp("127.0.0.1", port, true), tls).await;
}

#[tokio::test]
async fn a_crowd_comes_back_after_a_restart_of_the_server() {
    const CROWD: usize = 50;
    let mut app = App::with_threads(2);
    let target = ListenAddress::Tcp { host: "127.0.0.1".into(), port: 0, tls: false };
    let (first, address) = app.serve(|config| *config = listen(target));
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let clients: Vec<_> = (0..CROWD).map(|_| app.connect(client(vec![local(port)]))).collect();
    let opened = AtomicUsize::new(0);
    let count = |event: &Event, server| {
        if matches!(event, Event::Open { endpoint, .. } if *endpoint == server) {
            opened.fetch_add(1, Ordering::Relaxed);
        }
        (opened.load(Ordering::Relaxed) == CROWD).then_some(())
    };
    app.until(|event| count(event, first)).await;
    app.submit(Command::StopServer { server: first, drain: Duration::from_millis(100) });
    app.until(|event| matches!(event, Event::Stopped { endpoint } if *endpoint == first).then_some(())).await;
    opened.store(0, Ordering::Relaxed);
    let target = ListenAddress::Tcp { host: "127.0.0.1".into(), port, tls: false };
    let (second, _) = app.serve(|config| *config = listen(target));
    app.until(|event| count(event, second)).await;
    let Reply::Count(open) = app.submit(Command::CountConnections { server: second }) else { panic!() };
    assert_eq!(open, CROWD);
    for id in clients {
        app.close(id);
    }
}

#[tokio::test]
async fn sending_and_writing_go_on_at_once() {
    let app = App::with_threads(2);
    let peer = Peer::start().await;
    let id = app.connect(client(vec![local(peer.port)]));
    let bridge = app.local.clone();
    let sending = tokio::task::spawn_blocking(move || {
        for number in 0..10_000_u32 {
            let data = Bytes::from(number.to_string());
            while !matches!(
                bridge.submit(Command::ClientSend { client: id, data: data.clone(), binary: false, ttl: None }),
                Ok(Reply::Sequence(_))
            ) {
                std::thread::yield_now();
            }
            if number % 64 == 0 {
                bridge.flush();
            }
        }
        bridge.flush();
    });
    let mut far = peer.accept().await;
    for number in 0..10_000_u32 {
        assert_eq!(text(&mut far).await, number.to_string());
    }
    sending.await.unwrap();
}
