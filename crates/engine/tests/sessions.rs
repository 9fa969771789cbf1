//! `lifeline.v1` on a server, over real sockets: hand-made frames against the dialogues of `docs/protocol.md`.

mod common;

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{App, PATIENCE};
use lifeline_engine::bridge::{
    Authentication, Bridge as _, Command, ConnId, Delivery, EndpointId, Event, OpenInfo, Reply, Sent, Verdict,
};
use lifeline_engine::config::ServerConfig;
use lifeline_proto::Time;
use lifeline_proto::v1::Key;
use lifeline_proto::v1::client::{Client, ClientConfig, Event as Told};
use lifeline_proto::v1::wire::OutboxRange;
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
        stream.set_nodelay(true).expect("an option");
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
                user: None,
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
    // The end of the batch acknowledges, not the second after which it would be late.
    let fastest = (2..=6).map(|sequence| {
        peer.send(&format!("P {sequence}\nthe next"));
        let begin = Instant::now();
        assert_eq!(handle(&mut app), "the next");
        assert_eq!(peer.read(), format!("A {sequence}"));
        begin.elapsed()
    });
    let fastest = fastest.min().expect("some");
    assert!(fastest < Duration::from_millis(900), "{fastest:?}");
    assert_eq!(app.stat(server, &["sessions", "duplicates"]), 1);
    assert_eq!(app.stat(server, &["sessions", "unacknowledged"]), 0);
    assert_eq!(app.stat(server, &["messages", "in"]), 6);
}

#[test]
fn who_says_nothing_is_cut_when_the_time_for_its_handshake_is_over() {
    let app = App::new();
    let timeout = Duration::from_secs(4);
    let (_, address) = serve(&app, |config| config.limits.handshake_timeout = timeout);
    let begin = Instant::now();
    let mut peer = Peer::silent(&address);
    // Its close frame gets no answer.
    let stream = peer.socket.get_mut();
    let mut all = Vec::new();
    std::io::Read::read_to_end(stream, &mut all).expect("an end");
    assert_eq!(all[..4], [0x88, (all.len() - 2) as u8, 0x11, 0x95], "{all:?}");
    assert!((timeout..timeout * 3 / 2).contains(&begin.elapsed()), "{:?}", begin.elapsed());
}

#[test]
fn the_next_item_settles_the_one_before() {
    let mut app = App::new();
    let (_, address) = serve(&app, |_| {});
    let (mut peer, _) = Peer::fresh(&address, "box");
    let (conn, _) = opened(&mut app);
    for sequence in 1..=3 {
        peer.send(&format!("P {sequence}\nitem"));
    }
    let items = [item(&mut app), item(&mut app), item(&mut app)];
    assert!(begin(&app, &items[0]));
    for pair in items.windows(2) {
        let [done, next] = [&pair[0], &pair[1]].map(|item| match item.delivery {
            Delivery::Item { id, .. } => Some(id),
            _ => None,
        });
        assert!(app.local.step(pair[1].endpoint, done, next));
    }
    // The third is with its handler still.
    app.submit(Command::IsOpen { conn });
    assert_eq!(peer.read(), "A 2");
    settle(&app, &items[2], Verdict::Done);
    assert_eq!(peer.read(), "A 3");
}

#[test]
fn items_that_come_together_are_told_together_and_in_order_with_the_rest() {
    let mut app = App::new();
    let (_, address) = serve(&app, |config| config.authorise = true);
    let (mut peer, _) = Peer::fresh(&address, "box");
    opened(&mut app);
    for frame in ["P 1\na", "P 2\nb", "P 3\nc", "S news", "P 4\nd", "P 5\ne"] {
        peer.socket.write(Message::text(frame)).expect("write");
    }
    peer.socket.flush().expect("flush");
    let mut told = Vec::new();
    let mut batch = Vec::new();
    let until = Instant::now() + PATIENCE;
    while !told.iter().any(|text: &String| text.ends_with('5')) {
        assert!(Instant::now() < until, "{told:?}");
        // As `App` does, which tells items one by one.
        if app.local.receive(&mut batch, 10) == 0 && !app.local.drive(Some(PATIENCE)) {
            std::thread::yield_now();
        }
        told.extend(batch.drain(..).filter_map(|event| match event {
            Event::Items { items, outbox, .. } => {
                let numbers = items.iter().map(|item| item.id.sequence.to_string()).collect::<Vec<_>>().join(" ");
                Some(format!("{outbox} {numbers}"))
            }
            Event::Authorise { channel, .. } => Some(channel.to_string()),
            _ => None,
        }));
    }
    // One write is one read here.
    assert_eq!(told, ["box 1 2 3", "news", "box 4 5"]);
}

#[test]
fn messages_of_all_sizes_come_in_order() {
    let mut app = App::new();
    let (_, address) = serve(&app, |_| {});
    let (mut peer, _) = Peer::fresh(&address, "box");
    let (conn, _) = opened(&mut app);
    let sizes = [0, 1, 2048, 2049, 20_000, 70_000, 5];
    for (number, size) in sizes.iter().cycle().take(63).enumerate() {
        let data = Bytes::from(vec![b'a' + (number % 26) as u8; *size]);
        let command = Command::Send { conn, data, binary: false };
        if number % 9 == 0 {
            app.submit(command)
        } else {
            app.queue(command)
        };
    }
    for (number, size) in sizes.iter().cycle().take(63).enumerate() {
        let frame = peer.read();
        let (header, data) = frame.split_once('\n').expect("a header");
        assert_eq!((header, data.len()), (&*format!("M {}", number + 1), *size));
        assert!(data.bytes().all(|byte| byte == b'a' + (number % 26) as u8));
    }
    peer.send("A 63");
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

/// A client by the rules, whose links are cut behind a given frame of the server's.
struct Machine {
    client: Client,
    items: Vec<String>,
    acknowledged: u64,
    received: Vec<String>,
    generation: u64,
}

impl Machine {
    fn new(items: &[&str]) -> Self {
        Self {
            client: Client::new(ClientConfig::default(), 1),
            items: items.iter().map(|item| (*item).to_owned()).collect(),
            acknowledged: 0,
            received: Vec::new(),
            generation: 0,
        }
    }

    /// Talks over a connection of its own until `done`, or until so many of the server's frames have come.
    fn talk(
        &mut self,
        address: &str,
        frames: usize,
        app: &mut App,
        work: &mut Application,
        done: impl Fn(&Self) -> bool,
    ) {
        let now = Time::ZERO;
        let mut peer = Peer::silent(address);
        peer.socket.get_ref().set_nonblocking(true).expect("a socket");
        self.generation += 1;
        let (first, next) = (self.acknowledged + 1, self.items.len() as u64 + 1);
        let id = Key::new("box").expect("a key");
        self.client.handle_connected(None, Some(OutboxRange { id, generation: self.generation, first, next }));
        let mut sent = self.acknowledged;
        let mut got = 0;
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "after {got} frames: {self:?}");
            while self.client.is_open() && sent < next - 1 {
                let data = Bytes::from(self.items[sent as usize].clone());
                if !self.client.room(data.len()) || !self.client.send(sent + 1, data, false) {
                    break;
                }
                sent += 1;
            }
            while let Some(message) = self.client.poll_transmit(now) {
                let text = String::from_utf8(message.data.to_vec()).expect("text");
                peer.send(&text);
            }
            match peer.socket.read() {
                Ok(Message::Text(text)) => {
                    let data = Bytes::copy_from_slice(text.as_bytes());
                    self.client.handle_message(now, &data, false).expect("by the rules");
                    got += 1;
                    self.take_events(&mut sent);
                    self.client.handle_batch_end();
                    if got == frames {
                        break;
                    }
                }
                Ok(other) => panic!("{other:?}"),
                Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    work.step(app);
                }
                Err(error) => panic!("{error}"),
            }
        }
        self.client.handle_lost();
    }

    fn take_events(&mut self, sent: &mut u64) {
        while let Some(event) = self.client.poll_event() {
            match event {
                Told::Acknowledged { sequence } => {
                    self.acknowledged = self.acknowledged.max(sequence);
                    *sent = (*sent).max(sequence);
                }
                Told::Message { delivery, data, .. } => {
                    self.received.push(String::from_utf8(data.to_vec()).expect("text"));
                    self.client.handle_delivered(Time::ZERO, delivery);
                }
                Told::Gap { gap, .. } => panic!("{gap:?}"),
                _ => {}
            }
        }
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "acknowledged {}, received {:?}", self.acknowledged, self.received)
    }
}

/// Answers each item with a message of the session's stream.
#[derive(Default)]
struct Application {
    handled: Vec<String>,
    sessions: std::collections::HashMap<ConnId, Box<str>>,
}

impl Application {
    fn step(&mut self, app: &mut App) {
        let Some(event) = app.event_within(Duration::from_millis(1)) else { return };
        if let Event::Open { conn, info, .. } = &event {
            self.sessions.insert(*conn, (*info.session.as_ref().expect("a session").id).into());
        }
        let Event::Message { conn, endpoint, data, info: Some(info), .. } = event else { return };
        let item = Item { conn, endpoint, data, delivery: info.delivery.expect("a delivery") };
        if begin(app, &item) {
            let text = String::from_utf8(item.data.to_vec()).expect("text");
            let data = Bytes::from(format!("re {text}"));
            // The connection may have ended: the session has not.
            let sent = app.submit(Command::Send { conn, data: data.clone(), binary: false });
            if matches!(sent, Reply::Sent(Sent::Closed)) {
                let session = (&*self.sessions[&conn]).into();
                app.submit(Command::SessionSend { server: endpoint, session, data, binary: false });
            }
            self.handled.push(text);
            settle(app, &item, Verdict::Done);
        } else {
            app.submit(Command::Consumed { conn, messages: 1, bytes: item.data.len() });
        }
    }
}

#[test]
fn a_dialogue_that_is_cut_behind_each_frame_loses_and_doubles_nothing() {
    let items = ["a", "b", "c", "d"];
    let answers = items.map(|item| format!("re {item}"));
    for frames in 1..=8 {
        let mut app = App::new();
        let (_, address) = serve(&app, |_| {});
        let mut machine = Machine::new(&items);
        let mut work = Application::default();
        let done = |machine: &Machine| machine.acknowledged == 4 && machine.received.len() >= 4;
        // Also in a row: WELCOME lost, then the answer to it, and so on.
        for _ in 0..2 {
            machine.talk(&address, frames, &mut app, &mut work, done);
        }
        machine.talk(&address, usize::MAX, &mut app, &mut work, done);
        assert_eq!(work.handled, items, "cut behind {frames}");
        assert_eq!(machine.received, answers, "cut behind {frames}");
    }
}

#[test]
fn a_welcome_that_is_lost_is_asked_for_again() {
    let mut app = App::new();
    let (server, address) = serve(&app, |_| {});
    let (_, welcome) = Peer::fresh(&address, "box");
    opened(&mut app);
    for _ in 0..3 {
        // Nobody ever sees its W: nothing comes under the new token.
        let (peer, again) = Peer::resume(&address, &welcome, 0, "box", 1, 1);
        assert_eq!(field(&again, "resumed"), "true");
        drop(peer);
    }
    let (mut peer, last) = Peer::resume(&address, &welcome, 0, "box", 1, 1);
    assert_eq!(peer.read(), "R 0");
    peer.send("I 1");
    assert_eq!(peer.read(), "O 1");
    // Now the token has been used.
    let mut late = Peer::silent(&address);
    let (sid, tok) = (field(&welcome, "sid"), field(&welcome, "tok"));
    late.send(&format!(r#"H {{"v":1,"resume":{{"sid":"{sid}","tok":"{tok}","s":0,"ch":{{}}}}}}"#));
    assert_ne!(field(&last, "tok"), tok);
    assert!(!late.read().contains(r#""resumed":true"#));
    assert_eq!(app.stat(server, &["sessions", "resumed"]), 4);
}

/// The next question about credentials: its ticket, the token, whether the session is known.
fn credentials(app: &mut App) -> (lifeline_engine::bridge::Ticket, Option<String>, bool) {
    app.wait(|event| match event {
        Event::Authenticate { ticket, credentials, .. } => {
            let token = credentials.token.as_ref().map(|token| token.0.clone());
            Some((*ticket, token, credentials.session.is_some()))
        }
        _ => None,
    })
}

fn accept(app: &App, ticket: lifeline_engine::bridge::Ticket, user: &str) {
    let answer = Authentication::Accepted { user: Some(user.into()), claims: Bytes::from_static(b"{}") };
    app.submit(Command::AnswerAuthentication { ticket, answer });
}

#[test]
fn nobody_waits_for_ever_to_be_let_in() {
    let mut app = App::new();
    let (_, address) = serve(&app, |config| {
        config.authenticate = true;
        config.server_limits.auth_timeout = Duration::from_millis(50);
    });
    let mut peer = Peer::silent(&address);
    peer.send(r#"H {"v":1,"auth":"me"}"#);
    let (ticket, token, known) = credentials(&mut app);
    assert_eq!((token.as_deref(), known), (Some("me"), false));
    assert_eq!(peer.read(), "close 1013");
    // An answer that comes too late is nobody's.
    accept(&app, ticket, "me");
    let mut peer = Peer::silent(&address);
    peer.send(r#"H {"v":1}"#);
    let (ticket, ..) = credentials(&mut app);
    accept(&app, ticket, "me");
    assert!(peer.read().starts_with("W "));
    let (_, info) = opened(&mut app);
    assert_eq!(info.session.expect("a session").user.as_deref(), Some("me"));
    // Who says nothing at all has less time.
    let (_, address) = serve(&app, |config| config.limits.handshake_timeout = Duration::from_millis(50));
    assert_eq!(Peer::silent(&address).read(), "close 4501");
}

#[test]
fn of_many_fresh_tokens_the_application_sees_the_last() {
    let mut app = App::new();
    let (_, address) = serve(&app, |config| config.authenticate = true);
    let mut peer = Peer::silent(&address);
    peer.send(r#"H {"v":1}"#);
    let (ticket, ..) = credentials(&mut app);
    accept(&app, ticket, "me");
    assert!(peer.read().starts_with("W "));
    for n in 0..100 {
        peer.send(&format!(r#"T {{"auth":"{n}"}}"#));
    }
    peer.send("I 1");
    while peer.read() != "O 1" {}
    let (ticket, token, known) = credentials(&mut app);
    assert_eq!((token.as_deref(), known), (Some("0"), true));
    accept(&app, ticket, "me");
    let (ticket, token, _) = credentials(&mut app);
    assert_eq!(token.as_deref(), Some("99"));
    let answer = Authentication::Refused { code: None, reason: String::new() };
    app.submit(Command::AnswerAuthentication { ticket, answer });
    assert_eq!(peer.read(), "close 4003");
}

#[test]
fn who_asks_for_a_channel_again_and_again_is_sent_away() {
    let mut app = App::new();
    let (_, address) = serve(&app, |config| {
        config.authorise = true;
        config.server_limits.max_subscriptions = 4;
    });
    let (mut peer, _) = Peer::fresh(&address, "box");
    for _ in 0..100 {
        // The later ones may find the connection closed.
        let _ = peer.socket.send(Message::text("S news"));
        let _ = peer.socket.send(Message::text("U news"));
    }
    assert_eq!(app.wait_close().0, 4005);
    assert!(app.pending().iter().all(|event| !matches!(event, Event::Authorise { .. })));
}

#[test]
fn a_slow_reader_is_closed_and_goes_on_later() {
    let mut app = App::new();
    let (server, address) = serve(&app, |config| {
        config.send.limit = 64 * 1024;
        config.limits.handshake_timeout = Duration::from_millis(300);
        config.sessions.resume_bytes = 64 << 20;
        config.sessions.resume_count = 100_000;
    });
    let (peer, welcome) = Peer::fresh(&address, "box");
    let (conn, info) = opened(&mut app);
    let session = info.session.expect("a session").id;
    let text = "x".repeat(32 * 1024);
    let mut count = 0;
    // It reads nothing: at some point the socket takes no more, then the limit is passed.
    while matches!(app.send(conn, &text), Reply::Sent(Sent::Queued)) {
        count += 1;
        assert!(count < 10_000, "never too slow");
        std::thread::yield_now();
    }
    assert!(count > 2);
    // It does not read its close frame either.
    assert_eq!(app.wait_close().0, 4002);
    drop(peer);
    app.submit(Command::SessionSend {
        server,
        session: (&*session).into(),
        data: Bytes::from_static(b"last"),
        binary: false,
    });
    let (mut peer, again) = Peer::resume(&address, &welcome, 0, "box", 1, 1);
    assert_eq!(field(&again, "resumed"), "true");
    for sequence in 1..=count {
        assert!(peer.read().starts_with(&format!("M {sequence}\n")), "{sequence}");
    }
    assert_eq!(peer.read(), format!("M {}\nlast", count + 1));
}

/// The next question whether a client may subscribe.
fn asked(app: &mut App) -> (ConnId, Arc<str>) {
    app.wait(|event| match event {
        Event::Authorise { conn, channel, .. } => Some((*conn, channel.clone())),
        _ => None,
    })
}

fn members(app: &App, server: EndpointId, channel: &str) -> usize {
    let Reply::Conns(members) = app.submit(Command::Members { server, channel: channel.into() }) else { panic!() };
    members.len()
}

#[test]
fn who_has_left_before_it_was_let_in_is_no_member() {
    let mut app = App::new();
    let (server, address) = serve(&app, |config| config.authorise = true);
    let (mut peer, _) = Peer::fresh(&address, "box");
    peer.send("S news");
    let (conn, channel) = asked(&mut app);
    peer.send("U news");
    assert_eq!(peer.read(), r#"K {"ch":"news","st":"left"}"#);
    app.submit(Command::AnswerAuthorisation { conn, channel, allowed: true });
    assert_eq!(members(&app, server, "news"), 0);
}

#[test]
fn who_is_denied_a_channel_that_it_was_in_leaves_it() {
    let mut app = App::new();
    let (server, address) = serve(&app, |config| config.authorise = true);
    let (mut peer, _) = Peer::fresh(&address, "box");
    for (allowed, status, count) in [(true, "ok", 1), (false, "denied", 0)] {
        peer.send("S news");
        let (conn, channel) = asked(&mut app);
        app.submit(Command::AnswerAuthorisation { conn, channel, allowed });
        assert!(peer.read().contains(status), "{status}");
        assert_eq!(members(&app, server, "news"), count);
    }
}

#[test]
fn what_the_server_subscribed_meanwhile_is_not_denied() {
    let mut app = App::new();
    let (server, address) = serve(&app, |config| config.authorise = true);
    let (mut peer, _) = Peer::fresh(&address, "box");
    peer.send("S news");
    let (conn, channel) = asked(&mut app);
    app.submit(Command::Subscribe { conn, channel: "news".into() });
    assert!(peer.read().starts_with(r#"K {"ch":"news","st":"ok""#));
    app.submit(Command::AnswerAuthorisation { conn, channel, allowed: false });
    assert!(peer.read().starts_with(r#"K {"ch":"news","st":"ok""#));
    let data = Bytes::from_static(b"hi");
    let count =
        app.submit(Command::Publish { server, channel: "news".into(), data, binary: false, except: Vec::new() });
    assert!(matches!(count, Reply::Count(1)), "{count:?}");
    assert!(peer.read().ends_with("\nhi"));
}

#[test]
fn credentials_that_wait_for_the_application_count_as_memory() {
    let mut app = App::new();
    let (server, address) = serve(&app, |config| config.authenticate = true);
    let mut peer = Peer::silent(&address);
    peer.send(r#"H {"v":1,"auth":"me"}"#);
    let ticket = |app: &mut App| {
        app.wait(|event| match event {
            Event::Authenticate { ticket, .. } => Some(*ticket),
            _ => None,
        })
    };
    let accepted = || Authentication::Accepted { user: None, claims: Bytes::new() };
    let first = ticket(&mut app);
    app.submit(Command::AnswerAuthentication { ticket: first, answer: accepted() });
    assert!(peer.read().starts_with("W {"));
    assert_eq!(peer.read(), "R 0");
    let before = app.stat(server, &["memory", "used"]);
    let token = format!(r#"T {{"auth":"{}"}}"#, "x".repeat(100_000));
    peer.send(&token);
    peer.send("I 1");
    assert_eq!(peer.read(), "O 1");
    let charged = app.stat(server, &["memory", "used"]) - before;
    // What the greeting held may be given back meanwhile.
    assert!(charged >= 90_000, "{charged}");
    let second = ticket(&mut app);
    app.submit(Command::AnswerAuthentication { ticket: second, answer: accepted() });
    let left = app.stat(server, &["memory", "used"]) - before;
    assert!(left < 10_000, "{left}");
}

#[test]
fn a_long_publish_and_leaving_do_not_wait_for_each_other() {
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut app = App::new();
        let (server, address) = serve(&app, |config| {
            config.authorise = true;
            config.protocols = vec!["other".into()];
            config.send.limit = 1 << 30;
        });
        let (mut plain, _) = Peer::offering(&address, "other");
        let (conn, _) = opened(&mut app);
        app.submit(Command::Subscribe { conn, channel: "room".into() });
        let (mut peer, _) = Peer::fresh(&address, "box");
        let (speaker, _) = opened(&mut app);
        let stop = Arc::new(AtomicBool::new(false));
        let reader = std::thread::spawn(move || while plain.socket.read().is_ok() {});
        let leaver = std::thread::spawn({
            let stop = stop.clone();
            move || {
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..100 {
                        peer.send("U elsewhere");
                    }
                    for _ in 0..100 {
                        while !peer.read().starts_with('K') {}
                    }
                }
            }
        });
        let data = Bytes::from(vec![b'x'; 300_000]);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            app.queue(Command::Send { conn: speaker, data: Bytes::from_static(b"x"), binary: false });
            app.queue(Command::Publish {
                server,
                channel: "room".into(),
                data: data.clone(),
                binary: false,
                except: Vec::new(),
            });
            app.submit(Command::CountConnections { server });
        }
        stop.store(true, Ordering::Relaxed);
        leaver.join().expect("the leaver");
        drop(app);
        reader.join().expect("the reader");
        done.send(()).expect("the test waits");
    });
    assert!(finished.recv_timeout(PATIENCE).is_ok(), "a deadlock");
}

#[test]
fn a_few_questions_about_channels_may_wait_whatever_the_limit() {
    let mut app = App::new();
    let (_, address) = serve(&app, |config| {
        config.authorise = true;
        config.server_limits.max_subscriptions = 1;
    });
    let (mut peer, _) = Peer::fresh(&address, "box");
    for channel in ["a", "b", "c"] {
        peer.send(&format!("S {channel}"));
        peer.send(&format!("U {channel}"));
        assert_eq!(peer.read(), format!(r#"K {{"ch":"{channel}","st":"left"}}"#));
    }
    for _ in 0..3 {
        asked(&mut app);
    }
}

#[test]
fn what_comes_after_close_waits_for_the_next_connection() {
    let mut app = App::new();
    let (_, address) = serve(&app, |_| {});
    let (mut peer, welcome) = Peer::fresh(&address, "box");
    let (conn, _) = opened(&mut app);
    app.submit(Command::Close { conn, code: 4006, reason: String::new() });
    // It has not seen the close frame; the server reads this before the answer to that.
    peer.send("P 1\nlate");
    assert_eq!(peer.read(), "close 4006");
    let _ = peer.socket.flush();
    let close = app.wait(|event| match event {
        Event::Message { data, .. } => panic!("{data:?} on a connection that was closed"),
        Event::Close { code, .. } => Some(*code),
        _ => None,
    });
    assert_eq!(close, 4006);
    let (mut peer, welcome) = Peer::resume(&address, &welcome, 0, "box", 1, 2);
    assert_eq!(field(&welcome, "q"), "0");
    peer.send("P 1\nlate");
    assert_eq!(handle(&mut app), "late");
}

/// Who is closed and does not answer has left all the same, and that is told before the next connection.
#[test]
fn a_connection_that_was_ended_is_gone_before_the_next_one_of_its_session() {
    let mut app = App::new();
    let (server, address) = serve(&app, |_| {});
    let (mut first, welcome) = Peer::fresh(&address, "box");
    let (conn, _) = opened(&mut app);
    app.submit(Command::Subscribe { conn, channel: "news".into() });
    assert_eq!(members(&app, server, "news"), 1);
    first.send("P 1\nx");
    let item = item(&mut app);
    assert!(begin(&app, &item));
    settle(&app, &item, Verdict::Failed);
    assert_eq!(members(&app, server, "news"), 0);
    let (mut second, again) = Peer::resume(&address, &welcome, 0, "box", 1, 2);
    assert_eq!(field(&again, "resumed"), "true");
    second.send("I 1");
    while second.read() != "O 1" {}
    let mut told = Vec::new();
    while told.len() < 2 {
        match app.event() {
            Event::Close { conn: closed, code, .. } => told.push((closed, code)),
            Event::Open { conn, .. } => told.push((conn, 0)),
            _ => {}
        }
    }
    assert_eq!((told[0], told[1].1), ((conn, 1011), 0));
    // And not a second time.
    while first.read() != "close 1011" {}
    let _ = first.socket.flush();
    assert_eq!(members(&app, server, "news"), 1);
    second.socket.close(None).expect("a close frame");
    assert_ne!(app.wait_close().0, 1011);
}

#[test]
fn who_is_cut_at_the_end_of_a_stop_was_shut_down() {
    let mut app = App::new();
    let (server, address) = serve(&app, |_| {});
    // It says nothing more, and does not answer the close frame.
    let (_peer, _) = Peer::fresh(&address, "box");
    opened(&mut app);
    app.submit(Command::StopServer { server, drain: Duration::from_millis(300) });
    assert_eq!(app.wait_close().0, 4000);
}

#[test]
fn a_second_stop_makes_it_sooner_and_never_later() {
    let mut app = App::new();
    let (server, address) = serve(&app, |_| {});
    // Asked to leave within the time, it stays to its end.
    let (_peer, _) = Peer::fresh(&address, "box");
    opened(&mut app);
    for drain in [3600, 7200, 0, 3600] {
        app.submit(Command::StopServer { server, drain: Duration::from_secs(drain) });
    }
    assert_eq!(app.wait_close().0, 4000);
}

fn user_of(app: &App, server: EndpointId, session: &str) -> Option<Arc<str>> {
    let Reply::Session(info) = app.submit(Command::Session { server, session: session.into() }) else { panic!() };
    info.expect("a session").user
}

#[test]
fn the_user_that_the_application_bound_stays_with_the_session() {
    let mut app = App::new();
    let (server, address) = serve(&app, |config| config.authenticate = true);
    let mut peer = Peer::silent(&address);
    peer.send(r#"H {"v":1,"auth":"x"}"#);
    let (ticket, ..) = credentials(&mut app);
    accept(&app, ticket, "me");
    let welcome = peer.read();
    let (conn, info) = opened(&mut app);
    let session = info.session.expect("a session").id;
    app.submit(Command::Bind { conn, user: "other".into() });
    peer.send(r#"T {"auth":"y"}"#);
    let (ticket, ..) = credentials(&mut app);
    accept(&app, ticket, "me");
    assert_eq!(user_of(&app, server, &session).as_deref(), Some("other"));
    let mut peer = Peer::silent(&address);
    let (sid, tok) = (field(&welcome, "sid"), field(&welcome, "tok"));
    peer.send(&format!(r#"H {{"v":1,"auth":"z","resume":{{"sid":"{sid}","tok":"{tok}","s":0,"ch":{{}}}}}}"#));
    let (ticket, ..) = credentials(&mut app);
    accept(&app, ticket, "me");
    assert!(peer.read().contains(r#""resumed":true"#));
    let (_, info) = opened(&mut app);
    assert_eq!(info.session.expect("a session").user.as_deref(), Some("other"));
    let data = Bytes::from_static(b"hi");
    let count = |user: &str| {
        let command = Command::SendToUser { server, user: user.into(), data: data.clone(), binary: false };
        let Reply::Count(count) = app.submit(command) else { panic!() };
        count
    };
    assert_eq!((count("me"), count("other")), (0, 1));
}

#[test]
fn clients_make_no_more_channels_than_there_may_be() {
    let mut app = App::new();
    let (server, address) = serve(&app, |config| {
        config.authorise = true;
        config.server_limits.max_channels = 2;
    });
    let (mut peer, _) = Peer::fresh(&address, "box");
    let mut ask = |app: &mut App, channel: &str| {
        peer.send(&format!("S {channel}"));
        let (conn, channel) = asked(app);
        app.submit(Command::AnswerAuthorisation { conn, channel: channel.clone(), allowed: true });
        let data = Bytes::from_static(b"kept");
        app.submit(Command::Publish { server, channel: (&*channel).into(), data, binary: false, except: Vec::new() });
        let answer = peer.read();
        if answer.contains("\"ok\"") {
            assert!(peer.read().ends_with("\nkept"));
        }
        peer.send(&format!("U {channel}"));
        peer.read();
        answer
    };
    assert!(ask(&mut app, "a").contains("\"ok\""));
    assert!(ask(&mut app, "b").contains("\"ok\""));
    // The messages of those that were left are kept.
    assert!(ask(&mut app, "c").contains("denied"));
    assert!(ask(&mut app, "a").contains("\"ok\""));
}

#[test]
fn sessions_that_nobody_uses_make_room_for_newcomers() {
    let mut app = App::new();
    let (server, address) = serve(&app, |config| config.sessions.max_sessions = 3);
    let (mut first, first_welcome) = Peer::fresh(&address, "one");
    let (conn, _) = opened(&mut app);
    app.send(conn, "something");
    while !first.read().starts_with("M 1") {}
    drop(first);
    app.wait_close();
    for _ in 0..5 {
        let mut peer = Peer::silent(&address);
        peer.send(r#"H {"v":1}"#);
        assert!(peer.read().starts_with("W {"));
        drop(peer);
        app.wait_close();
    }
    assert_eq!(app.stat(server, &["sessions", "count"]), 3);
    let (_first, again) = Peer::resume(&address, &first_welcome, 1, "one", 1, 1);
    assert_eq!(field(&again, "resumed"), "true");
    let (_second, _) = Peer::fresh(&address, "two");
    let (_third, _) = Peer::fresh(&address, "three");
    // All are in use.
    let mut peer = Peer::silent(&address);
    peer.send(r#"H {"v":1}"#);
    assert_eq!(peer.read(), "close 1013");
}

#[test]
fn a_session_costs_memory_though_it_holds_nothing() {
    let mut app = App::new();
    let (server, address) = serve(&app, |_| {});
    let before = app.stat(server, &["sessions", "bytes"]);
    let (_peer, _) = Peer::fresh(&address, "box");
    opened(&mut app);
    let cost = app.stat(server, &["sessions", "bytes"]) - before;
    assert!((500..10_000).contains(&cost), "{cost}");
}

/// A store's directory, and copies of it: what the system has of a server is what one finds that comes after a kill -9.
struct Store(std::path::PathBuf);

impl Store {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("lifeline-sessions-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(directory.join("0")).expect("a directory");
        Self(directory)
    }

    fn life(&self, life: usize) -> std::path::PathBuf {
        self.0.join(life.to_string())
    }

    /// As it is now, for the next life.
    fn kill(&self, life: usize) -> std::path::PathBuf {
        std::fs::create_dir_all(self.life(life + 1)).expect("a directory");
        for entry in std::fs::read_dir(self.life(life)).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name");
            std::fs::copy(&path, self.life(life + 1).join(name)).expect("a copy");
        }
        self.life(life + 1)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_server_that_was_killed_sends_again_what_was_not_acknowledged() {
    let store = Store::new("ring");
    let mut app = App::new();
    let (server, address) = serve(&app, |config| config.sessions.store = Some(store.life(0)));
    let (mut peer, welcome) = Peer::fresh(&address, "box");
    let (conn, info) = opened(&mut app);
    let session = info.session.expect("a session").id;
    for text in ["one", "two"] {
        app.send(conn, text);
    }
    assert_eq!((peer.read(), peer.read()), ("M 1\none".to_owned(), "M 2\ntwo".to_owned()));
    // The moment a message is on the wire, or the command for a session that is away has returned, it is stored.
    drop(peer);
    app.wait_close();
    let long = "l".repeat(100_000);
    for text in ["three", &long] {
        let data = Bytes::copy_from_slice(text.as_bytes());
        app.submit(Command::SessionSend { server, session: (&*session).into(), data, binary: false });
    }
    assert!(app.stat(server, &["sessions", "store", "records"]) >= 5);
    let directory = store.kill(0);
    let (server, address) = serve(&app, |config| config.sessions.store = Some(directory));
    assert_eq!(app.stat(server, &["sessions", "unacknowledged"]), 4);
    // Handled was the first.
    let (mut peer, again) = Peer::resume(&address, &welcome, 1, "box", 1, 1);
    assert_eq!((field(&again, "resumed"), field(&again, "s0")), ("true", "2"));
    let read: Vec<_> = (0..4).map(|_| peer.read()).collect();
    assert_eq!(read, ["M 2\ntwo", "M 3\nthree", &format!("M 4\n{long}"), "R 4"]);
    let (conn, info) = opened(&mut app);
    assert!(info.resumed);
    app.send(conn, "five");
    assert_eq!(peer.read(), "M 5\nfive");
    // The token of that WELCOME is known as well.
    let directory = store.kill(1);
    let (_, address) = serve(&app, |config| config.sessions.store = Some(directory));
    let (mut peer, again) = Peer::resume(&address, &again, 5, "box", 1, 1);
    assert_eq!((field(&again, "resumed"), peer.read().as_str()), ("true", "R 5"));
}

#[test]
fn a_server_that_was_killed_has_what_was_published() {
    let store = Store::new("channel");
    let mut app = App::new();
    let (server, address) = serve(&app, |config| config.sessions.store = Some(store.life(0)));
    let (mut peer, welcome) = Peer::fresh(&address, "box");
    let (conn, _) = opened(&mut app);
    app.submit(Command::Subscribe { conn, channel: "news".into() });
    let known = peer.read();
    assert!(known.starts_with("K "), "{known}");
    let publish = |app: &App, server, text: &str, except: Vec<ConnId>| {
        let data = Bytes::copy_from_slice(text.as_bytes());
        app.submit(Command::Publish { server, channel: "news".into(), data, binary: false, except });
    };
    publish(&app, server, "one", vec![]);
    let one = peer.read();
    assert!(one.ends_with("\none"), "{one}");
    publish(&app, server, "two", vec![]);
    publish(&app, server, "not for the one", vec![conn]);
    publish(&app, server, "four", vec![]);
    let read: Vec<_> = (0..3).map(|_| peer.read()).collect();
    let directory = store.kill(0);
    let (server, address) = serve(&app, |config| config.sessions.store = Some(directory));
    let mut resumed = Peer::silent(&address);
    let (sid, tok) = (field(&welcome, "sid"), field(&welcome, "tok"));
    let at: Vec<_> = one.split([' ', '\n']).collect();
    resumed.send(&format!(
        r#"H {{"v":1,"resume":{{"sid":"{sid}","tok":"{tok}","s":0,"ch":{{"news":{{"e":"{}","o":{},"mid":"{}"}}}}}}}}"#,
        at[2], at[3], at[4]
    ));
    let welcome = resumed.read();
    assert_eq!(field(&welcome, "resumed"), "true");
    let known = resumed.read();
    assert!(known.starts_with("K ") && known.contains("\"ok\""), "{known}");
    let again: Vec<_> = (0..3).map(|_| resumed.read()).collect();
    assert_eq!(again, read, "the same epoch, offsets and ids");
    assert_eq!(resumed.read(), "R 0");
    opened(&mut app);
    publish(&app, server, "five", vec![]);
    let five = resumed.read();
    assert!(five.starts_with(&format!("C news {} 5 ", at[2])) && five.ends_with("\nfive"), "{five}");
}
