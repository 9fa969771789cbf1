//! Documents of a server, over real sockets.

mod common;

use std::net::TcpStream;

use bytes::Bytes;
use common::{App, PATIENCE};
use lifeline_engine::bridge::{
    Bounds, Command, ConnId, DocumentChange, EditInfo, EndpointId, Event, Reply, Verdict, Write,
};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

struct Peer(WebSocket<TcpStream>);

impl Peer {
    fn connect(address: &str, protocol: Option<&str>) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let mut request = format!("ws://{address}/").into_client_request().expect("request");
        if let Some(protocol) = protocol {
            request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse().expect("a value"));
        }
        Self(tungstenite::client::client(request, stream).expect("handshake").0)
    }

    /// A new session, subscribed to `board`.
    fn subscribed(app: &mut App, address: &str, outbox: &str) -> (Self, ConnId) {
        let mut peer = Self::connect(address, Some("lifeline.v1"));
        peer.send(&format!(r#"H {{"v":1,"outbox":{{"id":"{outbox}","gen":1,"first":1,"next":1}}}}"#));
        assert!(peer.read().starts_with("W {"));
        assert_eq!(peer.read(), "R 0");
        peer.send("S board");
        let conn = app.wait(|event| match event {
            Event::Authorise { conn, .. } => Some(*conn),
            _ => None,
        });
        app.submit(Command::AnswerAuthorisation { conn, channel: "board".into(), allowed: true });
        assert!(peer.read().starts_with(r#"K {"ch":"board","st":"ok""#));
        (peer, conn)
    }

    fn send(&mut self, frame: &str) {
        self.0.send(Message::text(frame)).expect("send");
    }

    fn read(&mut self) -> String {
        loop {
            match self.0.read().expect("a frame") {
                Message::Text(text) => return text.to_string(),
                Message::Close(frame) => {
                    return format!("close {}", frame.map_or(0, |frame| u16::from(frame.code)));
                }
                _ => {}
            }
        }
    }

    /// The next frame that begins so.
    fn read_until(&mut self, start: &str) -> String {
        loop {
            let frame = self.read();
            if frame.starts_with(start) {
                return frame;
            }
        }
    }
}

fn open(app: &App, server: EndpointId, write: Write, watch: bool) {
    let bounds = Bounds { keys: 3, bytes: 2000 };
    app.submit(Command::OpenDocument { server, channel: "board".into(), bounds, write, watch });
}

fn change(app: &App, server: EndpointId, key: &str, value: Option<&str>, if_version: Option<u64>) -> Option<u64> {
    let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
    let command = Command::ChangeDocument { server, channel: "board".into(), key: key.into(), value, if_version };
    let Reply::Version(version) = app.submit(command) else { panic!() };
    version
}

fn document(app: &App, server: EndpointId) -> (u64, Vec<(String, u64, String)>) {
    let Reply::Document(Some(info)) = app.submit(Command::Document { server, channel: "board".into(), key: None })
    else {
        panic!()
    };
    let text = |value: &Bytes| String::from_utf8(value.to_vec()).expect("text");
    let entries = info.entries.iter().map(|entry| (entry.key.to_string(), entry.version, text(&entry.value)));
    (info.version, entries.collect())
}

fn edit_event(app: &mut App) -> (ConnId, EditInfo) {
    app.wait(|event| match event {
        Event::Edit { conn, edit, .. } => Some((*conn, (**edit).clone())),
        _ => None,
    })
}

#[test]
fn a_client_edits_while_the_application_sleeps() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| config.authorise = true);
    open(&app, server, Write::Subscribers, false);
    assert_eq!(change(&app, server, "a", Some("1"), Some(0)), Some(1));
    assert_eq!(change(&app, server, "a", Some("2"), Some(0)), None);
    let (mut one, _) = Peer::subscribed(&mut app, &address, "one");
    let (mut two, _) = Peer::subscribed(&mut app, &address, "two");
    // From here on the application does nothing.
    one.send("V board - 0 00000000");
    let state = one.read();
    assert!(state.starts_with("V board ") && state.ends_with("\n{\"a\":[1,1]}"), "{state}");
    one.send("D 1\n{\"ch\":\"board\",\"k\":\"b\",\"v\":[true],\"id\":\"o1\",\"if\":0}");
    let seen = two.read();
    assert!(seen.contains(" d=1\n") && seen.contains(r#""k":"b","v":[true],"id":"o1""#), "{seen}");
    one.read_until("A 1");
    two.send("D 1\n{\"ch\":\"board\",\"k\":\"b\",\"id\":\"o2\",\"if\":0}");
    let refused = two.read();
    assert!(refused.starts_with(r#"N {"q":1,"code":409,"reason":""#) && refused.contains(" 2\""), "{refused}");
    two.read_until("A 1");
    assert_eq!(document(&app, server), (2, vec![("a".into(), 1, "1".into()), ("b".into(), 2, "[true]".into())]));
}

#[test]
fn edits_are_acknowledged_with_a_store_too() {
    let directory = std::env::temp_dir().join(format!("lifeline-documents-{}", std::process::id()));
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        config.authorise = true;
        config.sessions.store = Some(directory.clone());
    });
    open(&app, server, Write::Subscribers, false);
    let (mut peer, _) = Peer::subscribed(&mut app, &address, "one");
    // From here on the application does nothing.
    peer.send("D 1\n{\"ch\":\"board\",\"k\":\"a\",\"v\":1,\"id\":\"o1\",\"if\":0}");
    peer.send("D 2\n{\"ch\":\"board\",\"k\":\"a\",\"v\":2,\"id\":\"o2\",\"if\":0}");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let frame = peer.read();
        if frame != "A 1" {
            seen.push(frame);
        }
    }
    seen.sort();
    assert_eq!(seen[0], "A 2");
    assert!(seen[1].starts_with("C board ") && seen[2].starts_with("N "), "{seen:?}");
    drop(app);
    let _ = std::fs::remove_dir_all(directory);
}

#[test]
fn plain_receivers_get_the_json() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| config.authorise = true);
    open(&app, server, Write::Subscribers, false);
    let mut plain = Peer::connect(&address, None);
    let conn = app.wait(|event| match event {
        Event::Open { conn, .. } => Some(*conn),
        _ => None,
    });
    app.submit(Command::Subscribe { conn, channel: "board".into() });
    change(&app, server, "a", Some("1"), None);
    let frame = plain.read();
    assert!(frame.starts_with(r#"{"e":""#) && frame.contains(r#""n":1,"k":"a","v":1"#), "{frame}");
    // The same of a client's edit, while the application does nothing.
    let (mut peer, _) = Peer::subscribed(&mut app, &address, "one");
    peer.send("D 1\n{\"ch\":\"board\",\"k\":\"a\",\"id\":\"o1\"}");
    let frame = plain.read();
    assert!(frame.contains(r#""n":2,"k":"a","id":"o1""#), "{frame}");
}

#[test]
fn the_application_decides_on_edits() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| config.authorise = true);
    open(&app, server, Write::Ask, true);
    let (mut peer, conn) = Peer::subscribed(&mut app, &address, "one");
    peer.send("D 1\n{\"ch\":\"board\",\"k\":\"a\",\"v\":1,\"id\":\"o1\",\"if\":0}");
    peer.send("D 2\n{\"ch\":\"board\",\"k\":\"b\",\"v\":2,\"id\":\"o2\",\"if\":0}");
    for allowed in [false, true] {
        let (by, edit) = edit_event(&mut app);
        assert_eq!((by, &*edit.channel), (conn, "board"));
        let delivery = edit.delivery.clone();
        let begin = Command::Begin { endpoint: server, delivery: delivery.clone() };
        assert!(matches!(app.submit(begin), Reply::Flag(true)));
        app.submit(Command::AnswerEdit { server, delivery, data: edit.data.clone(), allowed });
        app.submit(Command::Consumed { conn, messages: 1, bytes: edit.data.len() });
    }
    let refused = peer.read_until("N ");
    assert!(refused.contains(r#""q":1,"code":403"#), "{refused}");
    peer.read_until("A 2");
    assert_eq!(document(&app, server), (1, vec![("b".into(), 1, "2".into())]));
    // It is told of what clients change, once until it looks.
    app.wait(|event| matches!(event, Event::DocumentChanged { .. }).then_some(()));
    let take = |app: &App| match app.submit(Command::TakeChanges { server, channel: "board".into() }) {
        Reply::Changes(changes) => changes,
        _ => panic!(),
    };
    let by = Some(conn);
    assert_eq!(take(&app), [DocumentChange { key: "b".into(), value: Some(Bytes::from_static(b"2")), version: 1, by }]);
    change(&app, server, "c", Some("3"), None);
    assert_eq!(take(&app), []);
    // A handler that fails: the connection is closed, and the edit comes again.
    peer.send("D 3\n{\"ch\":\"board\",\"k\":\"d\",\"v\":2,\"id\":\"o3\"}");
    let (_, edit) = edit_event(&mut app);
    let delivery = edit.delivery.clone();
    app.submit(Command::Begin { endpoint: server, delivery: delivery.clone() });
    app.submit(Command::Settle { endpoint: server, delivery, verdict: Verdict::Failed });
    assert_eq!(peer.read_until("close"), "close 1011");
}

#[test]
fn who_may_not_edit_is_refused() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| config.authorise = true);
    open(&app, server, Write::Nobody, false);
    let (mut peer, _) = Peer::subscribed(&mut app, &address, "one");
    for (q, channel, code) in [(1, "board", 403), (2, "other", 403)] {
        peer.send(&format!("D {q}\n{{\"ch\":\"{channel}\",\"k\":\"a\",\"v\":1,\"id\":\"o1\",\"if\":0}}"));
        assert!(peer.read_until("N ").contains(&format!(r#""q":{q},"code":{code}"#)));
    }
    // What would not fit.
    open(&app, server, Write::Subscribers, false);
    let long = "x".repeat(2000);
    peer.send(&format!("D 3\n{{\"ch\":\"board\",\"k\":\"a\",\"v\":\"{long}\",\"id\":\"o1\",\"if\":0}}"));
    assert!(peer.read_until("N ").contains(r#""q":3,"code":413"#));
    peer.send("D 4\nnothing");
    assert!(peer.read_until("N ").contains(r#""q":4,"code":400"#));
    assert_eq!(document(&app, server).0, 0);
}
