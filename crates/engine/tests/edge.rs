//! The way from a listening socket to an open connection: TLS, proxies, plain HTTP, the admin listener.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{App, PATIENCE};
use lifeline_engine::bridge::{Command, Event, HandshakeAnswer, OpenInfo, Stat};
use lifeline_engine::config::{ListenAddress, Network, Origins, ServerConfig, ServerTls, StaticFiles};
use lifeline_proto::heartbeat::Mode;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

type Encrypted = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn handshake(more: &str) -> String {
    format!(
        "GET /chat HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

/// A masked text frame as a client sends it.
fn frame(text: &str) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).expect("short")];
    frame.extend(mask);
    frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream
}

/// Sends `bytes` and reads to the end of the connection.
fn exchange(address: &str, bytes: &[u8]) -> String {
    let mut stream = connect(address);
    stream.write_all(bytes).expect("write");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the end");
    String::from_utf8(answer).expect("text")
}

fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).expect("head"), 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

fn wait_info(app: &mut App) -> OpenInfo {
    app.wait(|event| match event {
        Event::Open { info, .. } => Some(OpenInfo {
            remote: info.remote().into(),
            protocol: info.protocol.clone(),
            request: info.request.clone(),
            session: None,
            resumed: info.resumed,
            user: None,
        }),
        _ => None,
    })
}

/// Certificates of their own CA in a directory of their own, gone with their guard.
struct Files {
    directory: PathBuf,
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Files {
    fn new(test: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("lifeline-edge-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("key");
        Self { directory, issuer: rcgen::CertifiedIssuer::self_signed(params, key).expect("CA") }
    }

    fn issue(&self, name: &str) -> ServerTls {
        let key = rcgen::KeyPair::generate().expect("key");
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("params");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        let tls = ServerTls {
            cert: self.directory.join("server.pem"),
            key: self.directory.join("server.key"),
            ..ServerTls::default()
        };
        for (path, text) in [(&tls.key, key.serialize_pem()), (&tls.cert, certificate.pem())] {
            let new = self.directory.join("new");
            std::fs::write(&new, text).expect("write");
            std::fs::rename(&new, path).expect("rename");
        }
        tls
    }

    /// Does the TLS handshake over `stream`.
    fn encrypt(&self, stream: TcpStream, name: &str) -> Encrypted {
        self.try_encrypt(stream, name).expect("TLS handshake")
    }

    fn try_encrypt(&self, mut stream: TcpStream, name: &str) -> std::io::Result<Encrypted> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("CA");
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).expect("name");
        let mut session = rustls::ClientConnection::new(Arc::new(config), name).expect("session");
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(rustls::StreamOwned::new(session, stream))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn listen_tls(config: &mut ServerConfig, tls: ServerTls) {
    config.listen = vec![ListenAddress::Tcp { host: "127.0.0.1".into(), port: 0, tls: true }];
    config.tls = Some(tls);
}

fn networks(texts: &[&str]) -> Vec<Network> {
    texts.iter().map(|text| Network::parse(text).expect("network")).collect()
}

#[test]
fn messages_travel_over_tls_and_changed_certificates_are_shown() {
    let files = Files::new("wss");
    let tls = files.issue("any.test");
    let mut app = App::new();
    let (_, address) = app.serve(|config| listen_tls(config, tls.clone()));
    let request = || format!("ws://{address}/").into_client_request().expect("request");
    let stream = files.encrypt(connect(&address), "any.test");
    let mut peer: WebSocket<_> = tungstenite::client::client(request(), stream).expect("handshake").0;
    // More than a TLS record, both ways.
    let text = "ä".repeat(50_000);
    peer.send(Message::text(text.as_str())).expect("send");
    let info = wait_info(&mut app);
    assert!(info.request.expect("a request").is_secure());
    let (conn, data) = app.wait_message();
    assert_eq!(data, text.as_bytes());
    app.send(conn, &text);
    assert_eq!(peer.read().expect("message").into_text().expect("text"), text);

    files.issue("any.test");
    let new = CertificateDer::from_pem_file(&tls.cert).expect("PEM");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut stream = files.encrypt(connect(&address), "any.test");
        if stream.conn.peer_certificates().expect("certificates")[0] == new {
            break;
        }
        assert!(Instant::now() < deadline, "the old certificate is still shown");
        stream.write_all(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n").expect("write");
        read_head(&mut stream);
    }
    // The connection that is open does not notice.
    app.send(conn, "still here");
    assert_eq!(peer.read().expect("message").into_text().expect("text"), "still here");
}

#[test]
fn a_stop_during_a_tls_handshake_refuses_its_request() {
    let files = Files::new("stopped");
    let tls = files.issue("any.test");
    let mut app = App::new();
    let (server, address) = app.serve(|config| listen_tls(config, tls));
    let peer = connect(&address);
    let deadline = Instant::now() + PATIENCE;
    while app.stat(server, &["connections", "handshaking"]) < 1 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let begin = Instant::now();
    app.submit(Command::StopServer { server, drain: Duration::from_secs(20) });
    app.wait(|event| matches!(event, Event::Stopped { .. }).then_some(()));
    assert!(begin.elapsed() < Duration::from_secs(10), "who has no connection holds up nothing: {:?}", begin.elapsed());
    // Accepted, but perhaps not yet looked at when the stop came: then it ends without a word.
    if let Ok(mut stream) = files.try_encrypt(peer, "any.test") {
        stream.write_all(handshake("").as_bytes()).expect("request");
        let answer = read_head(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    assert!(app.event_within(Duration::from_millis(200)).is_none(), "nothing after the end");
}

#[test]
fn a_proxy_header_before_tls_names_the_client() {
    let files = Files::new("proxy");
    let tls = files.issue("any.test");
    let mut app = App::new();
    let (_, address) = app.serve(|config| {
        listen_tls(config, tls);
        config.proxy_protocol = true;
        config.trusted_proxies = networks(&["127.0.0.1"]);
    });
    let mut stream = connect(&address);
    stream.write_all(b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 443\r\n").expect("write");
    let mut stream = files.encrypt(stream, "any.test");
    stream.write_all(handshake("X-Forwarded-For: 198.51.100.1\r\n").as_bytes()).expect("write");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    // The client is no trusted proxy itself: its own word on others does not count.
    assert_eq!(wait_info(&mut app).remote(), "203.0.113.7:4711");
    // Without the header the connection ends, without an answer.
    let mut stream = connect(&address);
    stream.write_all(handshake("").as_bytes()).expect("write");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer, b"");
}

#[test]
fn a_unix_socket_behind_a_proxy_knows_the_client() {
    let files = Files::new("unix");
    let path = files.directory.join("app.sock");
    let mut app = App::new();
    app.serve(|config| {
        config.listen = vec![ListenAddress::Unix { path: path.clone() }];
        config.trusted_proxies = networks(&["10.0.0.0/8"]);
    });
    let mut stream = UnixStream::connect(&path).expect("connect");
    let more = "X-Forwarded-For: 6.6.6.6, 198.51.100.1, 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
                X-Forwarded-Host: chat.example\r\nOrigin: https://chat.example\r\n";
    stream.write_all(handshake(more).as_bytes()).expect("write");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    let info = wait_info(&mut app);
    assert_eq!(info.remote(), "198.51.100.1");
    assert!(info.request.expect("a request").is_secure());
    drop(app);
    assert!(!path.exists());
}

#[test]
fn frames_in_the_packet_of_the_handshake_are_messages() {
    let mut app = App::new();
    let (_, address) = app.serve(|_| {});
    let mut stream = connect(&address);
    let bytes = [handshake("").as_bytes(), &frame("early"), &frame("bird")].concat();
    stream.write_all(&bytes).expect("write");
    assert_eq!(app.wait_message().1, "early");
    assert_eq!(app.wait_message().1, "bird");
    let head = read_head(&mut stream);
    assert!(head.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    assert!(head.contains("\r\nLifeline-Spread: 0.1\r\n"), "{head}");
}

#[test]
fn what_is_no_handshake_is_answered_and_closed() {
    let app = App::new();
    let (_, address) = app.serve(|config| {
        config.path = Some("/chat".into());
        config.health_path = Some("/up".into());
        config.origins = Origins::List(vec!["https://chat.example".into()]);
        config.limits.max_header_bytes = 1024;
    });
    let plain = |line: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
    let second = plain("GET /up");
    for (request, expected) in [
        (plain("GET /up"), "200"),
        (plain("GET /"), "404"),
        (plain("POST /chat"), "405"),
        (plain("GET /chat"), "426"),
        (handshake("Origin: https://evil.example\r\n"), "403"),
        (handshake("Sec-WebSocket-Key: again\r\n"), "400"),
        (handshake("X: 1\r\n folded\r\n"), "400"),
        (handshake("Content-Length: 5\r\n") + "hello", "400"),
        (format!("GET /chat HTTP/1.1\r\nX: {}", "a".repeat(2000)), "431"),
        ("\x16\x03\x01 TLS\r\n".into(), "400"),
        // Never a second answer on one connection.
        (plain("GET /") + &second, "404"),
    ] {
        let answer = exchange(&address, request.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{request:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
        assert!(answer.contains("\r\nConnection: close"), "{answer}");
    }
}

#[test]
fn files_are_served_beside_connections_while_the_application_is_busy() {
    let files = Files::new("static");
    std::fs::write(files.directory.join("index.html"), "<!doctype html>").expect("write");
    std::fs::write(files.directory.join("large.bin"), vec![b'x'; 8 << 20]).expect("write");
    let mut app = App::with_threads(1);
    let (server, address) = app.serve(|config| {
        config.static_files = Some(StaticFiles { directory: Some(files.directory.clone()) });
        // Nobody asks the application about a file.
        config.ask_handshake = true;
        config.limits.handshake_timeout = Duration::from_millis(300);
        config.heartbeat.rules.interval = Duration::from_millis(100);
        config.heartbeat.rules.timeout = Duration::from_millis(100);
        config.heartbeat.rules.mode = Mode::Keepalive;
    });
    let mut open = connect(&address);
    open.write_all(handshake("").as_bytes()).expect("write");
    let ticket = app.wait(|event| match event {
        Event::Handshake { ticket, .. } => Some(*ticket),
        _ => None,
    });
    app.submit(Command::AnswerHandshake { ticket, answer: HandshakeAnswer { status: 101, ..Default::default() } });
    assert!(read_head(&mut open).starts_with("HTTP/1.1 101 "));
    app.wait_open();

    // From here on the application does nothing.
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let page = exchange(&address, get("/").as_bytes());
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\r\n\r\n<!doctype html>"), "{page}");
    let script = exchange(&address, get("/lifeline.js").as_bytes());
    assert!(script.contains("\r\nContent-Type: text/javascript; charset=utf-8\r\n"), "{script}");
    assert_eq!(exchange(&address, (get("/") + &get("/lifeline.js")).as_bytes()).matches("HTTP/1.1 ").count(), 1);
    // Takes its head, and then its time: it is cut.
    let mut slow = connect(&address);
    slow.write_all(get("/large.bin").as_bytes()).expect("write");
    read_head(&mut slow);
    for _ in 0..3 {
        let mut ping = [0; 2];
        open.read_exact(&mut ping).expect("beats go on");
        assert_eq!(ping[0] & 0x0F, 0x09, "{ping:?}");
        open.read_exact(&mut vec![0; usize::from(ping[1])]).expect("payload");
    }
    let deadline = Instant::now() + PATIENCE;
    while app.stat(server, &["connections", "handshaking"]) != 0 {
        assert!(Instant::now() < deadline, "it is not cut");
        std::thread::yield_now();
    }
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    assert!(rest.len() < 8 << 20, "{}", rest.len());
    assert_eq!(app.stat(server, &["files", "served"]), 4);
    assert_eq!(app.stat(server, &["connections", "refused"]), 0);
}

#[test]
fn files_come_over_tls_too() {
    let files = Files::new("static-tls");
    let tls = files.issue("any.test");
    std::fs::create_dir(files.directory.join("public")).expect("directory");
    let content = "0123456789".repeat(30_000);
    std::fs::write(files.directory.join("public/large.txt"), &content).expect("write");
    let app = App::new();
    let (_, address) = app.serve(|config| {
        listen_tls(config, tls);
        config.static_files = Some(StaticFiles { directory: Some(files.directory.join("public")) });
    });
    let mut stream = files.encrypt(connect(&address), "any.test");
    stream.write_all(b"GET /large.txt HTTP/1.1\r\nHost: any.test\r\n\r\n").expect("write");
    assert!(read_head(&mut stream).contains("\r\nContent-Length: 300000\r\n"));
    let mut body = String::new();
    stream.read_to_string(&mut body).expect("the end");
    assert!(body == content);
}

#[test]
fn a_handshake_that_never_ends_is_cut() {
    let app = App::new();
    let (server, address) = app.serve(|config| config.limits.handshake_timeout = Duration::from_millis(50));
    for start in ["", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        assert_eq!(exchange(&address, start.as_bytes()), "");
    }
    let deadline = Instant::now() + PATIENCE;
    // Counted a moment after the socket has gone.
    while app.stat(server, &["connections", "failedHandshakes"]) != 2 {
        assert!(Instant::now() < deadline, "not counted");
        std::thread::yield_now();
    }
}

#[test]
fn each_address_has_only_so_many_connections() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| config.server_limits.per_ip = 1);
    let mut first = connect(&address);
    first.write_all(handshake("").as_bytes()).expect("write");
    wait_info(&mut app);
    // It does not even have to ask.
    assert!(exchange(&address, b"").starts_with("HTTP/1.1 503 "));
    drop(first);
    app.wait_close();
    let deadline = Instant::now() + PATIENCE;
    // The place is free a moment after the close is told.
    loop {
        let mut second = connect(&address);
        second.write_all(handshake("").as_bytes()).expect("write");
        if read_head(&mut second).starts_with("HTTP/1.1 101 ") {
            break;
        }
        assert!(Instant::now() < deadline, "the place is not free");
    }
    assert!(app.stat(server, &["connections", "refused"]) >= 1);

    let (_, address) = app.serve(|config| {
        config.server_limits.per_ip = 1;
        config.trusted_proxies = networks(&["127.0.0.0/8"]);
    });
    let mut open = Vec::new();
    for (client, expected) in [("198.51.100.1", "101"), ("198.51.100.2", "101"), ("198.51.100.1", "503")] {
        let mut stream = connect(&address);
        stream.write_all(handshake(&format!("X-Forwarded-For: {client}\r\n")).as_bytes()).expect("write");
        let head = read_head(&mut stream);
        assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{client}: {head}");
        open.push(stream);
    }
}

#[test]
fn the_admin_listener_tells_the_servers_state() {
    let mut app = App::new();
    let (server, address) =
        app.serve(|config| config.admin = Some(ListenAddress::Tcp { host: "127.0.0.1".into(), port: 0, tls: false }));
    let stats = app.stats(server).0;
    let Some((_, Stat::Text(admin))) = stats.into_iter().find(|(key, _)| key == "admin") else { panic!("no address") };
    let admin = admin.strip_prefix("http://").expect("a URL").to_owned();
    let ask = |path: &str| exchange(&admin, format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\n\r\n").as_bytes());
    let mut peer = connect(&address);
    peer.write_all(handshake("").as_bytes()).expect("write");
    read_head(&mut peer);
    wait_info(&mut app);
    let metrics = ask("/metrics");
    assert!(metrics.contains("# TYPE lifeline_connections_open gauge\nlifeline_connections_open 1\n"), "{metrics}");
    assert!(metrics.contains("# TYPE lifeline_connections_opened counter\n"), "{metrics}");
    assert!(ask("/healthz").starts_with("HTTP/1.1 200 "));
    assert!(ask("/readyz").starts_with("HTTP/1.1 200 "));
    assert!(ask("/").contains("<!doctype html>"));
}
