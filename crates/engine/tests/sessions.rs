//! `lifeline.v1` on a server, over real sockets: hand-made frames against the dialogues of `docs/protocol.md`.

mod common;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{App, PATIENCE};
use lifeline_engine::bridge::{Command, ConnId, Delivery, EndpointId, Event, OpenInfo, Reply, Verdict};
use lifeline_engine::config::ServerConfig;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

/// A client made of text frames.
struct Peer {
    socket: WebSocket<TcpStream>,
}

impl Peer {
    /// Upgraded, nothing said.
    fn silent(address: &str) -> Self {
        Self::offering(address, "lifeline.v1").0
    }

    /// Returns the subprotocol that was agreed on, too.
    fn offering(address: &str, protocols: &str) -> (Self, String) {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let mut request = format!("ws://{address}/").into_client_request().expect("request");
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocols.parse().expect("a value"));
        let (socket, response) = tungstenite::client::client(request, stream).expect("handshake");
        let agreed = response.headers().get("Sec-WebSocket-Protocol");
        (Self { socket }, agreed.map_or_else(String::new, |value| value.to_str().expect("text").to_owned()))
    }

    /// A new session with an outbox `id`; returns its WELCOME.
    fn fresh(address: &str, outbox: &str) -> (Self, String) {
        let mut peer = Self::silent(address);
        peer.send(&format!(r#"H {{"v":1,"outbox":{{"id":"{outbox}","gen":1,"first":1,"next":1}}}}"#));
        let welcome = peer.read();
        assert!(welcome.starts_with("W {"), "{welcome}");
        assert_eq!(peer.read(), "R 0");
        (peer, welcome)
    }

    /// Comes back; `first` and `next` are of the outbox, `handled` is the stream's.
    fn resume(address: &str, welcome: &str, handled: u64, outbox: &str, first: u64, next: u64) -> (Self, String) {
        let mut peer = Self::silent(address);
        let (sid, tok) = (field(welcome, "sid"), field(welcome, "tok"));
        peer.send(&format!(
            r#"H {{"v":1,"resume":{{"sid":"{sid}","tok":"{tok}","s":{handled},"ch":{{}}}},"outbox":{{"id":"{outbox}","gen":1,"first":{first},"next":{next}}}}}"#
        ));
        let welcome = peer.read();
        assert!(welcome.starts_with("W {"), "{welcome}");
        (peer, welcome)
    }

    fn send(&mut self, frame: &str) {
        self.socket.send(Message::text(frame)).expect("send");
    }

    /// The next frame; a close frame reads `close CODE`.
    fn read(&mut self) -> String {
        loop {
            match self.socket.read().expect("a frame") {
                Message::Text(text) => return text.to_string(),
                Message::Binary(data) => return format!("binary {}", String::from_utf8_lossy(&data)),
                Message::Close(frame) => {
                    return format!("close {}", frame.map_or(0, |frame| u16::from(frame.code)));
                }
                Message::Ping(_) => panic!("a ping beside the protocol's own beats"),
                _ => {}
            }
        }
    }
}

/// A string or number out of a JSON object that has the key once.
fn field<'a>(json: &'a str, key: &str) -> &'a str {
    let (_, rest) = json.split_once(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key} in {json}"));
    let rest = rest.trim_start_matches('"');
    &rest[..rest.find(['"', ',', '}']).expect("an end")]
}

struct Item {
    conn: ConnId,
    endpoint: EndpointId,
    data: Bytes,
    delivery: Delivery,
}

/// The next item for the application; not begun.
fn item(app: &mut App) -> Item {
    app.wait(|event| match event {
        Event::Message { conn, endpoint, data, info: Some(info), .. } => Some(Item {
            conn: *conn,
            endpoint: *endpoint,
            data: data.clone(),
            delivery: info.delivery.clone().expect("a delivery"),
        }),
        _ => None,
    })
}

fn begin(app: &App, item: &Item) -> bool {
    let command = Command::Begin { endpoint: item.endpoint, delivery: item.delivery.clone() };
    let Reply::Flag(begun) = app.submit(command) else { panic!() };
    begun
}

fn settle(app: &App, item: &Item, verdict: Verdict) {
    app.submit(Command::Settle { endpoint: item.endpoint, delivery: item.delivery.clone(), verdict });
    app.submit(Command::Consumed { conn: item.conn, messages: 1, bytes: item.data.len() });
}

/// Handles the next item well; returns its text.
fn handle(app: &mut App) -> String {
    let item = item(app);
    assert!(begin(app, &item));
    settle(app, &item, Verdict::Done);
    String::from_utf8(item.data.to_vec()).expect("text")
}

fn opened(app: &mut App) -> (ConnId, Box<OpenInfo>) {
    app.wait(|event| match event {
        Event::Open { conn, info, .. } => Some((
            *conn,
            Box::new(OpenInfo {
                remote: info.remote.clone(),
                protocol: info.protocol.clone(),
                request: info.request.clone(),
                session: info.session.clone(),
                resumed: info.resumed,
            }),
        )),
        _ => None,
    })
}

fn serve(app: &App, change: impl FnOnce(&mut ServerConfig)) -> (EndpointId, String) {
    app.serve(change)
}

#[test]
fn hello_items_messages_and_acknowledgements() {
    let mut app = App::new();
    let (server, address) = serve(&app, |_| {});
    let (mut peer, welcome) = Peer::fresh(&address, "box");
    assert_eq!((field(&welcome, "resumed"), field(&welcome, "interval")), ("false", "25"));
    let (conn, info) = opened(&mut app);
    assert_eq!((&*info.protocol, info.resumed), ("lifeline.v1", false));
    assert_eq!(&*info.session.expect("a session").id, field(&welcome, "sid"));
    peer.send("P 1\nhello");
    assert_eq!(handle(&mut app), "hello");
    assert_eq!(peer.read(), "A 1");
    app.send(conn, "hi");
    assert_eq!(peer.read(), "M 1\nhi");
    // A duplicate is acknowledged again and not delivered.
    peer.send("P 1\nhello");
    assert_eq!(peer.read(), "A 1");
    peer.send("A 1");
    peer.send("P 2\nthe next");
    assert_eq!(handle(&mut app), "the next");
    assert_eq!(peer.read(), "A 2");
    assert_eq!(app.stat(server, &["sessions", "duplicates"]), 1);
    assert_eq!(app.stat(server, &["sessions", "unacknowledged"]), 0);
    assert_eq!(app.stat(server, &["messages", "in"]), 2);
}

#[test]
fn a_session_goes_on_after_its_connection() {
    let mut app = App::new();
    let (server, address) = serve(&app, |_| {});
    let (mut peer, welcome) = Peer::fresh(&address, "box");
    let (conn, info) = opened(&mut app);
    let session = info.session.expect("a session").id;
    app.send(conn, "one");
    assert_eq!(peer.read(), "M 1\none");
    drop(peer);
    assert_eq!(app.wait_close().0, 1006);
    // Sent while nobody is there.
    let sent = app.submit(Command::SessionSend {
        server,
        session: (&*session).into(),
        data: Bytes::from_static(b"two"),
        binary: false,
    });
    assert!(matches!(sent, Reply::Sequence(2)), "{sent:?}");
    let (mut peer, again) = Peer::resume(&address, &welcome, 1, "box", 1, 1);
    assert_eq!((field(&again, "resumed"), field(&again, "s0")), ("true", "2"));
    assert_eq!((peer.read().as_str(), peer.read().as_str()), ("M 2\ntwo", "R 2"));
    let (_, info) = opened(&mut app);
    assert!(info.resumed);
    assert_eq!(info.session.expect("a session").id, session);
    assert_eq!(app.stat(server, &["sessions", "resumed"]), 1);
    assert_eq!(app.stat(server, &["sessions", "replayed"]), 1);
    assert_eq!(app.stat(server, &["sessions", "count"]), 1);
}

#[test]
fn the_new_connection_takes_over_from_one_that_is_half_open() {
    let mut app = App::new();
    let (_, address) = serve(&app, |_| {});
    let (mut old, welcome) = Peer::fresh(&address, "box");
    let (first, _) = opened(&mut app);
    old.send("P 1\nran");
    old.send("P 2\nwaited");
    let ran = item(&mut app);
    assert!(begin(&app, &ran));
    let waited = item(&mut app);
    // Its peer says nothing; the other comes.
    let (mut new, again) = Peer::resume(&address, &welcome, 0, "box", 1, 3);
    assert_eq!(field(&again, "resumed"), "true");
    new.send("P 1\nran");
    new.send("P 2\nwaited");
    let (closed, code) = app.wait(|event| match event {
        Event::Close { conn, code, .. } => Some((*conn, *code)),
        Event::Open { .. } => panic!("the new one is announced before the old one's end"),
        _ => None,
    });
    assert_eq!((closed, code), (first, 4502));
    let (second, info) = opened(&mut app);
    assert!(info.resumed && second != first);
    assert!(!begin(&app, &waited), "what waited comes again");
    assert_eq!(old.read(), "close 4502");
    assert_eq!(new.read(), "R 0");
    // What ran is not delivered again; what comes behind it waits for its end.
    settle(&app, &ran, Verdict::Done);
    let next = item(&mut app);
    assert_eq!((next.data.as_ref(), next.conn), (&b"waited"[..], second));
    assert!(begin(&app, &next));
    settle(&app, &next, Verdict::Done);
    // The duplicate is told the mark again.
    while new.read() != "A 2" {}
}

#[test]
fn beats_are_frames_and_answers_measure_the_way() {
    let mut app = App::new();
    let (_, address) = serve(&app, |config| {
        config.heartbeat.rules.interval = Duration::from_millis(50);
        config.heartbeat.rules.timeout = Duration::from_millis(100);
    });
    let (mut peer, _) = Peer::fresh(&address, "box");
    let (conn, _) = opened(&mut app);
    // Also while the client is the one that talks.
    let begin = Instant::now();
    let mut beats = 0;
    while beats < 3 {
        assert!(begin.elapsed() < PATIENCE);
        peer.send("I 7");
        let frame = peer.read();
        if let Some(n) = frame.strip_prefix("I ") {
            peer.send(&format!("O {n}"));
            beats += 1;
        } else {
            assert_eq!(frame, "O 7");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    peer.send("P 1\nx");
    handle(&mut app);
    let Reply::Time(Some(_)) = app.submit(Command::RoundTrip { conn }) else { panic!("no round trip") };
    // Silence is death.
    assert_eq!(app.wait_close().0, 4001);
}
