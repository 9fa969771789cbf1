use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use socket2::{Domain, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::*;
use crate::config::{ClientTls, Proxy};

/// A request as the tests vary it.
struct Client {
    url: ClientUrl,
    protocols: Vec<String>,
    headers: Vec<(String, String)>,
    attempt_headers: Vec<(String, String)>,
    tls: Option<ClientTlsConfig>,
    proxy: ProxyRules,
    compression: Option<DeflateConfig>,
    timeout: Duration,
}

impl Client {
    fn tcp(host: &str, port: u16, tls: bool) -> Self {
        Self::new(ListenAddress::Tcp { host: host.into(), port, tls })
    }

    fn new(target: ListenAddress) -> Self {
        Self {
            url: ClientUrl { target, resource: "/chat?room=1".into(), credentials: None },
            protocols: Vec::new(),
            headers: Vec::new(),
            attempt_headers: Vec::new(),
            tls: None,
            proxy: ProxyRules::new(&Proxy::Direct),
            compression: None,
            timeout: Duration::from_secs(30),
        }
    }

    fn request(&self) -> DialRequest<'_> {
        DialRequest {
            url: &self.url,
            protocols: &self.protocols,
            headers: &self.headers,
            attempt_headers: &self.attempt_headers,
            tls: self.tls.as_ref(),
            proxy: &self.proxy,
            compression: self.compression.as_ref(),
            timeout: self.timeout,
            max_header_bytes: 4096,
        }
    }

    async fn dial(&self) -> Result<Dialed, DialError> {
        dial(&self.request()).await
    }

    /// The text of the error that must come.
    async fn fail(&self) -> String {
        self.dial().await.expect_err("the attempt must fail").failure.message
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Reads a request head and returns it.
async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn key_of(request: &str) -> &str {
    request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap()
}

/// A correct 101 for `request`, with more headers.
fn accept(request: &str, more: &str) -> String {
    let answer = derive_accept_key(key_of(request).as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {answer}\r\n{more}\r\n"
    )
}

/// Serves one connection: reads the request, writes what `answer` makes of it, waits for the end.
/// Returns the request.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: impl FnOnce(&str) -> Vec<u8>) -> (String, S) {
    let request = read_request(&mut stream).await;
    stream.write_all(&answer(&request)).await.unwrap();
    stream.flush().await.unwrap();
    (request, stream)
}

/// Dials a server that answers with `answer`; the request and the outcome.
async fn exchange(client: &mut Client, answer: &str) -> (String, Result<Dialed, DialError>) {
    let (listener, port) = listen().await;
    client.url.target = ListenAddress::Tcp { host: "127.0.0.1".into(), port, tls: false };
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        // Closed at the end: a refusal without a length ends with the connection.
        serve(stream, |_| answer.as_bytes().to_vec()).await.0
    };
    tokio::join!(server, client.dial())
}

#[tokio::test]
async fn an_upgrade_brings_protocol_spread_headers_and_the_first_bytes() {
    let (listener, port) = listen().await;
    let mut client = Client::tcp("127.0.0.1", port, false);
    client.protocols = vec!["a".into(), "b".into()];
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, |request| {
            let more = "Sec-WebSocket-Protocol: b\r\nLifeline-Spread: 1.5\r\nX-Node: n1\r\n";
            [accept(request, more).as_bytes(), b"\x81\x02hi"].concat()
        })
        .await
    };
    let ((request, mut far), dialed) = tokio::join!(server, client.dial());
    let mut dialed = dialed.unwrap();
    assert_eq!(dialed.protocol, "b");
    assert_eq!(dialed.spread, Some(Duration::from_millis(1500)));
    assert_eq!(*dialed.remote, *format!("127.0.0.1:{port}"));
    assert!(dialed.headers.contains(&("X-Node".into(), b"n1".to_vec())));
    let mut first = dialed.leftover.to_vec();
    while first.len() < 4 {
        dialed.stream.read_buf(&mut first).await.unwrap();
    }
    assert_eq!(first, b"\x81\x02hi");
    dialed.stream.write_all(b"back").await.unwrap();
    let mut back = [0; 4];
    far.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"back");

    let lines: Vec<&str> = request.lines().collect();
    assert_eq!(lines[0], "GET /chat?room=1 HTTP/1.1");
    for line in [
        &*format!("Host: 127.0.0.1:{port}"),
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: a, b",
    ] {
        assert!(lines.contains(&line), "{line} in {request}");
    }
    assert!(!request.contains("Origin"));
    assert_eq!(key_of(&request).len(), 24);
}

#[tokio::test]
async fn bytes_behind_the_head_in_one_packet_are_kept() {
    let (listener, port) = listen().await;
    let client = Client::tcp("127.0.0.1", port, false);
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, |request| [accept(request, "").into_bytes(), vec![7; 3000]].concat()).await
    };
    let ((_, far), dialed) = tokio::join!(server, client.dial());
    let mut dialed = dialed.unwrap();
    drop(far);
    let mut all = dialed.leftover.to_vec();
    assert!(!all.is_empty());
    dialed.stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, [7; 3000]);
}

#[tokio::test]
async fn keys_differ() {
    let (first, _) = exchange(&mut Client::tcp("", 0, false), "HTTP/1.1 403\r\n\r\n").await;
    let (second, _) = exchange(&mut Client::tcp("", 0, false), "HTTP/1.1 403\r\n\r\n").await;
    assert_ne!(key_of(&first), key_of(&second));
}

#[tokio::test]
async fn headers_of_the_attempt_replace_those_of_the_client() {
    let mut client = Client::tcp("", 0, false);
    client.url.credentials = Some("user:pa:ss".into());
    client.headers = pairs(&[("X-Token", "stale-token"), ("Cookie", "a=1"), ("Cookie", "b=2"), ("Host", "front.test")]);
    client.attempt_headers = pairs(&[("x-token", "new"), ("Origin", "https://o.test")]);
    let (request, _) = exchange(&mut client, "HTTP/1.1 403\r\n\r\n").await;
    assert!(request.contains("\r\nx-token: new\r\n") && !request.contains("stale-token"), "{request}");
    assert!(request.contains("\r\nCookie: a=1\r\nCookie: b=2\r\n"), "{request}");
    assert!(request.contains("\r\nOrigin: https://o.test\r\n"), "{request}");
    assert_eq!(request.matches("Host:").count(), 1);
    assert!(request.contains("\r\nHost: front.test\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nAuthorization: Basic {}\r\n", base64(b"user:pa:ss"))), "{request}");

    client.attempt_headers = pairs(&[("authorization", "Bearer t")]);
    let (request, _) = exchange(&mut client, "HTTP/1.1 403\r\n\r\n").await;
    assert!(request.contains("\r\nauthorization: Bearer t\r\n") && !request.contains("Basic"), "{request}");
}

#[tokio::test]
async fn headers_that_would_break_the_handshake_never_leave() {
    for bad in [
        ("Upgrade", "x"),
        ("connection", "close"),
        ("SEC-WEBSOCKET-KEY", "x"),
        ("Sec-WebSocket-Version", "8"),
        ("Sec-WebSocket-Accept", "x"),
        ("Sec-WebSocket-Extensions", "x"),
        ("Sec-WebSocket-Protocol", "x"),
        ("Content-Length", "1"),
        ("Transfer-Encoding", "chunked"),
        ("X-A", "a\r\nX-B: b"),
        ("X-A", "a\nb"),
        ("X-A", "a\0b"),
        ("X A", "a"),
        ("X:", "a"),
        ("", "a"),
    ] {
        let mut client = Client::tcp("127.0.0.1", 1, false);
        client.headers = pairs(&[bad]);
        let error = client.dial().await.unwrap_err();
        assert!(error.terminal, "{bad:?}");
        assert!(error.failure.message.contains("header"), "{}", error.failure.message);
        let mut client = Client::tcp("127.0.0.1", 1, false);
        client.attempt_headers = pairs(&[bad]);
        let error = client.dial().await.unwrap_err();
        assert!(!error.terminal && error.failure.message.contains("header"), "{}", error.failure.message);
    }
    assert_eq!(check_headers(&pairs(&[("X-Ok", "tab\tand \u{e9}")])), Ok(()));
}

#[tokio::test]
async fn a_path_or_protocol_that_would_break_the_request_never_leaves() {
    for resource in ["/a b", "/a\r\nX: y", "", "/\u{e9}"] {
        let mut client = Client::tcp("127.0.0.1", 1, false);
        client.url.resource = resource.into();
        assert!(client.dial().await.unwrap_err().terminal, "{resource:?}");
    }
    let mut client = Client::tcp("127.0.0.1", 1, false);
    client.protocols = vec!["a, b".into()];
    assert!(client.dial().await.unwrap_err().terminal);
}

#[tokio::test]
async fn the_default_port_is_not_in_the_host_header() {
    let named = |host: &str, port, tls| {
        let client = Client::tcp(host, port, tls);
        let request = client.request();
        Attempt { request: &request, deadline: Instant::now() }.host()
    };
    assert_eq!(named("a.test", 80, false), "a.test");
    assert_eq!(named("a.test", 443, true), "a.test");
    assert_eq!(named("a.test", 443, false), "a.test:443");
    assert_eq!(named("a.test", 8443, true), "a.test:8443");
    assert_eq!(named("::1", 80, false), "[::1]");
    assert_eq!(named("::1", 81, false), "[::1]:81");
}

#[tokio::test]
async fn a_refusal_carries_status_delay_spread_and_the_start_of_its_body() {
    let answer = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nLifeline-Spread: 3\r\n\
                  Content-Length: 9\r\n\r\ntry later";
    let (_, outcome) = exchange(&mut Client::tcp("", 0, false), answer).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.status, Some(503));
    assert_eq!(error.failure.code, 503);
    assert_eq!(error.failure.kind, FailureKind::Connect);
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
    assert_eq!(error.spread, Some(Duration::from_secs(3)));
    assert!(!error.terminal);
    let message = &error.failure.message;
    assert!(message.starts_with("ws://127.0.0.1:"), "{message}");
    assert!(message.ends_with("refused the handshake: 503 Service Unavailable: try later"), "{message}");
}

#[tokio::test]
async fn a_redirect_names_its_goal_and_is_not_followed() {
    let answer = "HTTP/1.1 302 Found\r\nLocation: wss://other.test/x\r\nContent-Length: 0\r\n\r\n";
    let (_, outcome) = exchange(&mut Client::tcp("", 0, false), answer).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.status, Some(302));
    assert!(error.failure.message.contains("redirects to wss://other.test/x"), "{}", error.failure.message);
}

#[tokio::test]
async fn a_wrong_answer_is_a_protocol_failure() {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n";
    let (_, outcome) = exchange(&mut Client::tcp("", 0, false), answer).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.failure.kind, FailureKind::Protocol);
    assert_eq!(error.status, None);
    assert!(error.failure.message.contains("Sec-WebSocket-Accept"), "{}", error.failure.message);

    let (_, outcome) = exchange(&mut Client::tcp("", 0, false), "SSH-2.0-OpenSSH_9.2\r\n").await;
    assert_eq!(outcome.unwrap_err().failure.kind, FailureKind::Protocol);
    let long = format!("HTTP/1.1 101 S\r\nX: {}\r\n\r\n", "y".repeat(5000));
    let (_, outcome) = exchange(&mut Client::tcp("", 0, false), &long).await;
    assert_eq!(outcome.unwrap_err().failure.kind, FailureKind::Limit);
    let (_, outcome) = exchange(&mut Client::tcp("", 0, false), "").await;
    let error = outcome.unwrap_err();
    assert_eq!(error.failure.kind, FailureKind::Connect);
    assert!(error.failure.message.contains("closed the connection"), "{}", error.failure.message);
}

#[tokio::test]
async fn a_closed_port_is_named() {
    let (listener, port) = listen().await;
    drop(listener);
    let error = Client::tcp("127.0.0.1", port, false).dial().await.unwrap_err();
    assert_eq!(error.failure.kind, FailureKind::Connect);
    assert!(error.failure.message.contains(&format!("127.0.0.1:{port}: ")), "{}", error.failure.message);
    assert!(error.failure.message.contains("refused"), "{}", error.failure.message);
}

#[tokio::test]
async fn a_failed_resolution_is_named() {
    let client = Client::tcp("name.test", 80, false);
    let error = dial_with(&client.request(), async |_: &str, _| Err(io::Error::other("no such name"))).await;
    assert_eq!(error.unwrap_err().failure.message, "'name.test' cannot be resolved: no such name");
    let error = dial_with(&client.request(), async |_: &str, _| Ok(Vec::new())).await;
    assert_eq!(error.unwrap_err().failure.message, "'name.test' has no address");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_up() {
    let (listener, port) = listen().await;
    let begin = Instant::now();
    let error = Client::tcp("127.0.0.1", port, false).dial().await.unwrap_err();
    assert_eq!(begin.elapsed(), Duration::from_secs(30));
    assert_eq!(error.failure.kind, FailureKind::Timeout);
    let message = error.failure.message;
    assert!(message.starts_with("connect.timeout (30 s) passed while waiting for the handshake answer"), "{message}");
    drop(listener);
}

#[tokio::test(start_paused = true)]
async fn each_stage_that_hangs_is_named() {
    let (listener, port) = listen().await;
    let client = Client::tcp("name.test", 80, false);
    let error = dial_with(&client.request(), async |_: &str, _| std::future::pending().await).await.unwrap_err();
    assert!(error.failure.message.ends_with("resolving 'name.test'"), "{}", error.failure.message);

    let mut client = Client::tcp("127.0.0.1", port, true);
    client.tls = Some(ClientTlsConfig::new(&ClientTls { verify: false, ..ClientTls::default() }).unwrap());
    assert!(client.fail().await.contains("waiting for the TLS handshake with 127.0.0.1:"));

    let mut client = Client::tcp("far.test", 80, false);
    client.proxy = ProxyRules::new(&Proxy::Http { host: "127.0.0.1".into(), port, credentials: None });
    assert!(client.fail().await.contains(&format!("waiting for proxy 127.0.0.1:{port} to reach far.test:80")));
    drop(listener);
}

/// A listener whose queue is full: the kernel answers no SYN any more.
fn full_listener() -> (Socket, Vec<std::net::TcpStream>, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queued.push(stream);
    }
    (socket, queued, address)
}

#[tokio::test]
async fn a_silent_address_does_not_keep_from_the_next() {
    let (_full, _queued, silent) = full_listener();
    let (listener, port) = listen().await;
    let good: SocketAddr = ([127, 0, 0, 1], port).into();
    let client = Client::tcp("name.test", port, false);
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, |request| accept(request, "").into_bytes()).await
    };
    let request = client.request();
    let dialing = dial_with(&request, async |_: &str, _| Ok(vec![silent, good]));
    let (_, dialed) = tokio::join!(server, dialing);
    assert_eq!(*dialed.unwrap().remote, *good.to_string());
}

#[tokio::test]
async fn when_every_address_fails_each_is_named_with_its_error() {
    let (_full, _queued, silent) = full_listener();
    let (listener, port) = listen().await;
    drop(listener);
    let refused: SocketAddr = ([127, 0, 0, 1], port).into();
    let mut client = Client::tcp("name.test", port, false);
    client.timeout = Duration::from_millis(500);
    let error = dial_with(&client.request(), async |_: &str, _| Ok(vec![refused, silent])).await.unwrap_err();
    assert_eq!(error.failure.kind, FailureKind::Timeout);
    let message = error.failure.message;
    assert!(message.contains(&format!("{refused}: Connection refused")), "{message}");
    assert!(message.contains(&format!("{silent}: no answer")), "{message}");
}

#[tokio::test]
async fn dropping_the_attempt_closes_its_socket() {
    let (listener, port) = listen().await;
    let client = Client::tcp("127.0.0.1", port, false);
    let mut far = {
        let request = client.request();
        let dialing = dial(&request);
        tokio::pin!(dialing);
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            stream
        };
        tokio::select! {
            stream = server => stream,
            _ = &mut dialing => panic!("nobody has answered"),
        }
    };
    assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_unix_socket_is_localhost() {
    let directory = Directory::new();
    let path = directory.0.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::new(ListenAddress::Unix { path });
    client.url.resource = "/".into();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, |request| accept(request, "").into_bytes()).await
    };
    let ((request, _), dialed) = tokio::join!(server, client.dial());
    assert_eq!(*dialed.unwrap().remote, *"unix:");
    assert!(request.starts_with("GET / HTTP/1.1\r\nHost: localhost\r\n"), "{request}");

    let path = directory.0.join("absent");
    let message = Client::new(ListenAddress::Unix { path: path.clone() }).fail().await;
    assert!(message.contains(path.to_str().unwrap()), "{message}");
}

#[tokio::test]
async fn a_proxy_is_asked_with_credentials_and_then_out_of_the_way() {
    let (listener, port) = listen().await;
    let mut client = Client::tcp("far.test", 8080, false);
    client.proxy =
        ProxyRules::new(&Proxy::Http { host: "127.0.0.1".into(), port, credentials: Some("user:secret".into()) });
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let (connect, stream) =
            serve(stream, |_| b"HTTP/1.1 200 Connection established\r\nVia: p\r\n\r\n".to_vec()).await;
        let (upgrade, stream) = serve(stream, |request| accept(request, "").into_bytes()).await;
        (connect, upgrade, stream)
    };
    let ((connect, upgrade, _), dialed) = tokio::join!(server, client.dial());
    assert_eq!(*dialed.unwrap().remote, *"far.test:8080");
    let credentials = base64(b"user:secret");
    assert_eq!(
        connect,
        format!(
            "CONNECT far.test:8080 HTTP/1.1\r\nHost: far.test:8080\r\n\
             Proxy-Authorization: Basic {credentials}\r\n\r\n"
        )
    );
    assert!(upgrade.contains("\r\nHost: far.test:8080\r\n") && !upgrade.contains("Proxy-"), "{upgrade}");
}

#[tokio::test]
async fn a_proxys_refusal_is_its_own() {
    let (listener, port) = listen().await;
    let mut client = Client::tcp("far.test", 443, false);
    client.proxy = ProxyRules::new(&Proxy::Http { host: "127.0.0.1".into(), port, credentials: None });
    let refuse = async |answer: &'static str| {
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, |_| answer.as_bytes().to_vec()).await.0
        };
        tokio::join!(server, client.dial()).1.unwrap_err()
    };
    let error = refuse("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 5\r\n\r\nlogin").await;
    assert_eq!(error.status, None);
    assert_eq!(error.failure.code, 407);
    assert_eq!(
        error.failure.message,
        format!("proxy 127.0.0.1:{port} refused to reach far.test:443: 407 Proxy Authentication Required: login")
    );
    let error = refuse("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 S\r\n\r\n").await;
    assert!(error.failure.message.contains("into the tunnel"), "{}", error.failure.message);
    let error = refuse("").await;
    assert!(error.failure.message.contains("closed the connection"), "{}", error.failure.message);
    drop(listener);
    assert!(client.fail().await.starts_with(&format!("proxy 127.0.0.1:{port}: '127.0.0.1' cannot be reached")));
}

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("lifeline-dial-{:016x}", SmallRng::from_os_rng().random::<u64>()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A certificate authority and what it issues.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, names: &[&str], last_year: i32) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    fn pem(&self) -> String {
        self.0.pem()
    }
}

/// Accepts one TLS connection and upgrades it if the handshake works out; client certificates are
/// demanded when `clients` names their authority.
async fn serve_tls(listener: &TcpListener, identity: &(rcgen::Certificate, KeyPair), clients: Option<&Authority>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.0.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::try_from(identity.1.serialize_der()).unwrap();
    let config = builder.with_single_cert(vec![CertificateDer::from(identity.0.der().to_vec())], key).unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await {
        let request = read_request(&mut stream).await;
        stream.write_all(accept(&request, "").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }
}

async fn over_tls(
    host: &str,
    options: &ClientTls,
    identity: &(rcgen::Certificate, KeyPair),
    clients: Option<&Authority>,
) -> Result<Dialed, String> {
    let (listener, port) = listen().await;
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let mut client = Client::tcp(host, port, true);
    client.tls = Some(ClientTlsConfig::new(options).unwrap());
    let request = client.request();
    let dialing = dial_with(&request, async |_: &str, _| Ok(vec![address]));
    let ((), outcome) = tokio::join!(serve_tls(&listener, identity, clients), dialing);
    outcome.map_err(|error| {
        assert_eq!(error.failure.kind, FailureKind::Connect);
        error.failure.message
    })
}

#[tokio::test]
async fn tls_by_name_and_by_address() {
    let authority = Authority::new("ours");
    let directory = Directory::new();
    let options = ClientTls { ca: Some(directory.file("ca", &authority.pem())), ..ClientTls::default() };
    let identity = authority.issue(&["good.test", "127.0.0.1"], 2100);
    for host in ["good.test", "good.test.", "127.0.0.1"] {
        let dialed = over_tls(host, &options, &identity, None).await.unwrap();
        assert!(matches!(dialed.stream, Stream::Tls(_)), "{host}");
    }
}

#[tokio::test]
async fn each_fault_of_a_certificate_is_named() {
    let authority = Authority::new("ours");
    let directory = Directory::new();
    let options = ClientTls { ca: Some(directory.file("ca", &authority.pem())), ..ClientTls::default() };

    let error = over_tls("other.test", &options, &authority.issue(&["good.test"], 2100), None).await.unwrap_err();
    assert!(error.contains("it is not for 'other.test'") && error.contains("good.test"), "{error}");

    let error = over_tls("good.test", &options, &authority.issue(&["good.test"], 2002), None).await.unwrap_err();
    assert!(error.contains("it expired") && error.contains("days ago"), "{error}");

    let stranger = Authority::new("stranger").issue(&["good.test"], 2100);
    let error = over_tls("good.test", &options, &stranger, None).await.unwrap_err();
    assert!(error.contains("issuer is unknown"), "{error}");

    // All three pass where the application asked for no check.
    let blind = ClientTls { verify: false, ..ClientTls::default() };
    over_tls("other.test", &blind, &stranger, None).await.unwrap();
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told_apart() {
    let (listener, port) = listen().await;
    let mut client = Client::tcp("127.0.0.1", port, true);
    client.tls = Some(ClientTlsConfig::new(&ClientTls { verify: false, ..ClientTls::default() }).unwrap());
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    };
    let ((), message) = tokio::join!(server, client.fail());
    assert!(message.contains("does not speak TLS"), "{message}");
}

#[tokio::test]
async fn a_client_certificate_is_shown_when_it_is_there() {
    let authority = Authority::new("ours");
    let identity = authority.issue(&["good.test"], 2100);
    let (cert, key) = authority.issue(&["me"], 2100);
    let directory = Directory::new();
    let anonymous = ClientTls { ca: Some(directory.file("ca", &authority.pem())), ..ClientTls::default() };
    let known = ClientTls {
        cert: Some(directory.file("cert", &cert.pem())),
        key: Some(directory.file("key", &key.serialize_pem())),
        ..anonymous.clone()
    };
    over_tls("good.test", &known, &identity, Some(&authority)).await.unwrap();
    let error = over_tls("good.test", &anonymous, &identity, Some(&authority)).await.unwrap_err();
    assert!(error.contains("requires a client certificate"), "{error}");
    let other = Authority::new("other");
    let error = over_tls("good.test", &known, &identity, Some(&other)).await.unwrap_err();
    assert!(error.contains("our certificate"), "{error}");
}

#[test]
fn unusable_files_are_named_at_construction() {
    let authority = Authority::new("ours");
    let (cert, key) = authority.issue(&["me"], 2100);
    let (_, other_key) = authority.issue(&["me"], 2100);
    let directory = Directory::new();
    let ca = directory.file("ca", &authority.pem());
    let cert = directory.file("cert", &cert.pem());
    let other_key = directory.file("other-key", &other_key.serialize_pem());
    let key = directory.file("key", &key.serialize_pem());
    let empty = directory.file("empty", "");
    let absent = directory.0.join("absent");
    let base = ClientTls { ca: Some(ca), ..ClientTls::default() };
    let broken = |change: &dyn Fn(&mut ClientTls)| {
        let mut options = base.clone();
        change(&mut options);
        ClientTlsConfig::new(&options).unwrap_err().to_string()
    };
    let text = broken(&|it| it.ca = Some(absent.clone()));
    assert!(text.contains("tls.ca") && text.contains("absent"), "{text}");
    let text = broken(&|it| it.ca = Some(empty.clone()));
    assert!(text.contains("tls.ca") && text.contains("no certificate"), "{text}");
    let text = broken(&|it| it.cert = Some(cert.clone()));
    assert!(text.contains("tls.cert needs tls.key"), "{text}");
    let text = broken(&|it| it.key = Some(key.clone()));
    assert!(text.contains("tls.key needs tls.cert"), "{text}");
    let text = broken(&|it| (it.cert, it.key) = (Some(cert.clone()), Some(absent.clone())));
    assert!(text.contains("tls.key") && text.contains("absent"), "{text}");
    let text = broken(&|it| (it.cert, it.key) = (Some(cert.clone()), Some(other_key.clone())));
    assert!(text.contains("does not belong to the certificate"), "{text}");
}

#[tokio::test]
async fn changed_files_are_used_and_broken_ones_are_not() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let directory = Directory::new();
    let ca = directory.file("ca", &old.pem());
    let config = ClientTlsConfig::new(&ClientTls { ca: Some(ca), ..ClientTls::default() }).unwrap();
    let first = config.current();
    assert!(Arc::ptr_eq(&first, &config.current()));
    directory.file("ca", "half writ");
    assert!(Arc::ptr_eq(&first, &config.current()));
    directory.file("ca", &(new.pem() + &old.pem()));
    assert!(!Arc::ptr_eq(&first, &config.current()));
}

#[test]
fn the_future_may_move_between_threads() {
    fn check<T: Send>(_: &T) {}
    let client = Client::tcp("127.0.0.1", 1, false);
    let request = client.request();
    let dialing = dial(&request);
    check(&dialing);
}
