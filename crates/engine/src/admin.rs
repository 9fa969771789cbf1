//! The admin listener: metrics, health, readiness and a page for people. Read only.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::task::JoinSet;

use crate::activation::Inheritance;
use crate::bridge::{Stat, Stats};
use crate::config::{ListenAddress, ServerConfig};
use crate::http::{self, RequestHead, Response};
use crate::listen::{Accepted, AcceptedSocket, ListenError, Listener, PeerAddr, bind_all};
use crate::status::{self, About, ConnectionInfo, History};

/// What the admin listener shows.
pub trait AdminSource: Send + Sync {
    /// The counters, in the order of the page.
    fn stats(&self) -> Stats;
    /// False: send no new clients here.
    fn ready(&self) -> bool;
    /// What the figures do not say.
    fn about(&self) -> About;
    /// The figures of the last minutes.
    fn history(&self) -> &History;
    /// The first `limit` open connections with ids above `after`, in order; whether there are more; how many there are.
    fn connections(&self, after: u64, limit: usize) -> (Vec<ConnectionInfo>, bool, usize);
}

/// Binds it.
///
/// # Errors
/// [`ListenError`] that names the address.
pub fn bind(address: &ListenAddress, inherited: &Arc<Inheritance>) -> Result<Listener, ListenError> {
    let named = |url: &str| format!("{} (option admin)", url.replacen("ws://", "http://", 1));
    let config =
        ServerConfig { listen: vec![address.clone()], inherited: inherited.clone(), ..ServerConfig::default() };
    let mut listeners = bind_all(&config).map_err(|error| ListenError { url: named(&error.url), ..error })?;
    // One address was asked for, and all or none are bound.
    Ok(listeners.remove(0))
}

/// The bound address as a URL, port 0 resolved.
#[must_use]
pub fn url(listener: &Listener) -> String {
    listener.url().replacen("ws://", "http://", 1)
}

/// Answers until it is dropped. Call it on the runtime that is to watch the sockets.
pub async fn serve(listener: Listener, source: Arc<dyn AdminSource>) {
    let Ok(mut acceptor) = listener.into_acceptor() else { return };
    let mut answering = JoinSet::new();
    loop {
        if answering.len() >= CONNECTIONS {
            answering.join_next().await;
        }
        tokio::select! {
            accepted = acceptor.accept() => {
                // Trouble is told by the server's own listeners too.
                if let Accepted::Connection { socket, peer } = accepted {
                    answering.spawn(tokio::time::timeout(PATIENCE, answer(socket, peer, source.clone())));
                }
            }
            Some(_) = answering.join_next() => {}
        }
    }
}

/// Prometheus' text format 0.0.4: each number of the tree as `lifeline_<path>`.
#[must_use]
pub fn metrics(stats: &Stats, ready: bool) -> String {
    let mut out = format!("# TYPE lifeline_ready gauge\nlifeline_ready {}\n", u8::from(ready));
    put_metrics(&mut out, "lifeline", stats);
    out
}

/// Connections answered at a time; others wait in the backlog.
const CONNECTIONS: usize = 32;
/// From accept to close.
const PATIENCE: Duration = Duration::from_secs(5);
const HEAD_LIMIT: usize = 8192;

/// Last parts of the names of what only grows. What is not among them is told as a gauge, which is
/// true of anything.
const COUNTERS: [&str; 14] = [
    "accepted",
    "closedClean",
    "closedUnclean",
    "dead",
    "dropped",
    "evicted",
    "failedHandshakes",
    "fired",
    "in",
    "opened",
    "out",
    "refused",
    "sent",
    "served",
];

async fn answer(socket: AcceptedSocket, peer: PeerAddr, source: Arc<dyn AdminSource>) {
    let Ok(mut stream) = socket.into_stream() else { return };
    let mut buffer = BytesMut::new();
    let head = match http::read_head(&mut stream, &mut buffer, HEAD_LIMIT).await {
        Ok(raw) => RequestHead::parse(&raw, &peer, false, &[]).map(|(head, _)| head),
        Err(error) => Err(error),
    };
    let (response, body) = match head {
        Ok(head) => (respond(&head, source.as_ref()), head.method() != "HEAD"),
        Err(error) => match error.answer() {
            Some(response) => (response, true),
            None => return,
        },
    };
    // Fails when the peer has gone; it was its answer.
    let _ = http::answer_and_close(&mut stream, &response.encode(body), Duration::from_secs(1)).await;
}

/// The status page: path, type, content.
const PAGE: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("../admin/index.html")),
    ("/status.css", "text/css; charset=utf-8", include_str!("../admin/status.css")),
    ("/status.js", "text/javascript; charset=utf-8", include_str!("../admin/status.js")),
];
/// It needs nothing from elsewhere, and tells nobody.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn respond(head: &RequestHead, source: &dyn AdminSource) -> Response {
    if is_foreign(head) {
        return Response::text(403, "not for other sites");
    }
    if !matches!(head.method(), "GET" | "HEAD") {
        return Response::text(405, "only GET and HEAD").with("Allow", "GET, HEAD");
    }
    let response = match head.path() {
        "/metrics" => typed("text/plain; version=0.0.4; charset=utf-8", metrics(&source.stats(), source.ready())),
        "/healthz" => Response::text(200, "ok"),
        "/readyz" if source.ready() => Response::text(200, "ready"),
        "/readyz" => Response::text(503, "not ready"),
        path => match told(path, head, source) {
            _ if !is_named_by_address(head.host()) => Response::text(403, "ask by address, or as localhost"),
            Some(Ok(response)) => response,
            Some(Err(problem)) => Response::text(400, problem),
            None => Response::text(404, "try /, /status.json, /connections.json, /metrics, /healthz or /readyz"),
        },
    };
    response
        .with("Cache-Control", "no-store")
        .with("X-Content-Type-Options", "nosniff")
        .with("Cross-Origin-Resource-Policy", "same-origin")
}

/// The page and what it asks for; none where there is nothing of that path.
fn told(path: &str, head: &RequestHead, source: &dyn AdminSource) -> Option<Result<Response, String>> {
    if let Some((_, content_type, content)) = PAGE.iter().find(|(name, ..)| *name == path) {
        return Some(Ok(typed(content_type, (*content).to_owned())
            .with("Content-Security-Policy", POLICY)
            .with("Referrer-Policy", "no-referrer")));
    }
    let json = |value: serde_json::Value| typed("application/json", value.to_string());
    match path {
        "/status.json" => {
            let known = asked(head, "since", 0.0, &f64::MAX);
            Some(known.map(|since| json(status::status(&source.about(), &source.stats(), source.history(), since))))
        }
        "/connections.json" => {
            let page = asked(head, "limit", status::PAGE, &status::LARGEST_PAGE)
                .and_then(|limit| Ok((limit.max(1), asked(head, "after", 0, &u64::MAX)?)));
            Some(page.map(|(limit, after)| {
                let (page, more, total) = source.connections(after, limit);
                json(status::connections(&page, more, total))
            }))
        }
        _ => None,
    }
}

/// A number of the query; `default` where there is none.
fn asked<T>(head: &RequestHead, name: &str, default: T, most: &T) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let Some((_, value)) = head.query_pairs().into_iter().find(|(key, _)| key == name.as_bytes()) else {
        return Ok(default);
    };
    match std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()) {
        // A NaN is not.
        Some(value) if value <= *most => Ok(value),
        _ => Err(format!("{name} must be a number up to {most}")),
    }
}

/// True for what a page of another site could make a browser send: an upgrade (WebSockets know no
/// same-origin rule), a request with an `Origin`, or one by a name that a stranger's DNS may point
/// here (rebinding): a loopback listener is asked by address or as localhost.
fn is_foreign(head: &RequestHead) -> bool {
    let cross_site = head.header("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site");
    let loopback = head.remote().parse::<std::net::SocketAddr>().is_ok_and(|peer| peer.ip().is_loopback());
    let upgrade = head.values("upgrade").next().is_some();
    upgrade || head.values("origin").next().is_some() || cross_site || (loopback && !is_own_name(head.host()))
}

fn is_own_name(host: &str) -> bool {
    let name = name_of(host);
    // HTTP/1.0 has no Host, and no browser speaks it.
    name.is_empty() || name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// As [`is_own_name`], or by a name without a dot, which no stranger's DNS answers for: for what is told beside
/// metrics and probes also where the listener is reached from elsewhere.
fn is_named_by_address(host: &str) -> bool {
    is_own_name(host) || !name_of(host).contains('.')
}

fn name_of(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    name.trim_start_matches('[').trim_end_matches(']')
}

fn typed(content_type: &str, body: String) -> Response {
    Response { body: body.into(), ..Response::new(200) }.with("Content-Type", content_type)
}

fn put_metrics(out: &mut String, prefix: &str, stats: &Stats) {
    for (key, stat) in &stats.0 {
        let name = format!("{prefix}_{}", snake_case(key));
        let value = match stat {
            Stat::Tree(tree) => {
                put_metrics(out, &name, tree);
                continue;
            }
            Stat::Int(value) => value.to_string(),
            Stat::Float(value) => value.to_string(),
            Stat::Flag(value) => u8::from(*value).to_string(),
            Stat::Text(_) | Stat::List(_) | Stat::None => continue,
        };
        // A ratio has an `in` and an `out` as well.
        let kind = if matches!(stat, Stat::Int(_)) && COUNTERS.contains(&&**key) { "counter" } else { "gauge" };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# TYPE {name} {kind}\n{name} {value}");
    }
}

/// `eventsWaiting` becomes `events_waiting`; what no name may hold becomes `_`.
fn snake_case(key: &str) -> String {
    let mut name = String::with_capacity(key.len() + 4);
    for letter in key.chars() {
        match letter {
            'A'..='Z' => {
                if !name.is_empty() {
                    name.push('_');
                }
                name.push(letter.to_ascii_lowercase());
            }
            'a'..='z' | '0'..='9' => name.push(letter),
            _ => name.push('_'),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    fn bind_to(address: &str) -> Result<Listener, ListenError> {
        let (host, port) = address.rsplit_once(':').unwrap();
        let host = host.trim_matches(['[', ']']).to_owned();
        bind(&ListenAddress::Tcp { host, port: port.parse().unwrap(), tls: false }, &Arc::default())
    }

    #[derive(Default)]
    struct Source(AtomicBool, History);

    impl AdminSource for Source {
        fn stats(&self) -> Stats {
            Stats(vec![
                ("uptime".into(), Stat::Float(1.5)),
                (
                    "connections".into(),
                    Stat::Tree(Stats(vec![
                        ("open".into(), Stat::Int(2)),
                        ("failedHandshakes".into(), Stat::Int(3)),
                        ("by.name".into(), Stat::Tree(Stats(vec![("a<b".into(), Stat::Flag(true))]))),
                    ])),
                ),
                ("ratio".into(), Stat::Tree(Stats(vec![("in".into(), Stat::Float(0.25)), ("out".into(), Stat::None)]))),
                ("note".into(), Stat::Text("<b>&".into())),
                ("nothing".into(), Stat::None),
            ])
        }

        fn ready(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }

        fn about(&self) -> About {
            About { addresses: Vec::new(), ready: self.ready(), stopping: false, started: 0.0 }
        }

        fn history(&self) -> &History {
            &self.1
        }

        fn connections(&self, after: u64, limit: usize) -> (Vec<ConnectionInfo>, bool, usize) {
            let (ids, more) = status::page((1..=5).map(crate::bridge::ConnId), after, limit);
            let info = |id| ConnectionInfo {
                id,
                remote: "127.0.0.1:1".into(),
                path: "/\"".into(),
                user: Some("<i>".into()),
                lifeline: false,
                age: Duration::from_secs(3),
                idle: Duration::ZERO,
                rtt: None,
                messages_in: 0,
                messages_out: 0,
                bytes_in: 0,
                bytes_out: 0,
                dropped: 0,
                buffered: 0,
                inbound: 0,
                channels: 0,
            };
            (ids.into_iter().map(info).collect(), more, 5)
        }
    }

    /// Asks a listener of its own, and reads to the end.
    async fn ask(source: &Arc<Source>, request: &str) -> String {
        let listener = bind_to("127.0.0.1:0").unwrap();
        let address = url(&listener).strip_prefix("http://").unwrap().to_owned();
        let talk = async {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            answer
        };
        tokio::select! {
            answer = talk => answer,
            () = serve(listener, source.clone()) => unreachable!(),
        }
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n")
    }

    #[test]
    fn each_number_has_a_name_and_a_type() {
        assert_eq!(
            metrics(&Source::default().stats(), true),
            "# TYPE lifeline_ready gauge\nlifeline_ready 1\n\
             # TYPE lifeline_uptime gauge\nlifeline_uptime 1.5\n\
             # TYPE lifeline_connections_open gauge\nlifeline_connections_open 2\n\
             # TYPE lifeline_connections_failed_handshakes counter\nlifeline_connections_failed_handshakes 3\n\
             # TYPE lifeline_connections_by_name_a_b gauge\nlifeline_connections_by_name_a_b 1\n\
             # TYPE lifeline_ratio_in gauge\nlifeline_ratio_in 0.25\n"
        );
    }

    #[tokio::test]
    async fn each_path_has_its_answer() {
        let source = Arc::new(Source::default());
        assert!(ask(&source, &get("/healthz")).await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(ask(&source, &get("/readyz")).await.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        source.0.store(true, Ordering::Relaxed);
        assert!(ask(&source, &get("/readyz")).await.starts_with("HTTP/1.1 200 OK\r\n"));
        let metrics = ask(&source, &get("/metrics?x")).await;
        assert!(metrics.contains("text/plain; version=0.0.4") && metrics.contains("\nlifeline_connections_open 2\n"));
        for (path, kind) in [("/", "text/html"), ("/status.css", "text/css"), ("/status.js", "text/javascript")] {
            let answer = ask(&source, &get(path)).await;
            assert!(
                answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains(&format!("Content-Type: {kind}")),
                "{path}"
            );
            assert!(answer.contains("Content-Security-Policy: default-src 'none'; script-src 'self'"), "{answer}");
        }
        let status = json_of(&ask(&source, &get("/status.json")).await);
        assert_eq!((&status["ready"], &status["stats"]["note"]), (&true.into(), &"<b>&".into()));
        assert!(ask(&source, &get("/other")).await.starts_with("HTTP/1.1 404 "));
        assert!(ask(&source, "POST / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.contains("\r\nAllow: GET, HEAD\r\n"));
        assert!(ask(&source, "HEAD /healthz HTTP/1.0\r\n\r\n").await.ends_with("\r\n\r\n"));
        assert!(ask(&source, "\x01").await.starts_with("HTTP/1.1 400 "));
    }

    fn json_of(answer: &str) -> serde_json::Value {
        assert!(answer.contains("\r\nContent-Type: application/json\r\n"), "{answer}");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    #[tokio::test]
    async fn connections_are_told_in_pages() {
        let source = Arc::new(Source::default());
        let mut seen = Vec::new();
        let mut after = serde_json::json!(0);
        while !after.is_null() {
            let told = json_of(&ask(&source, &get(&format!("/connections.json?limit=2&after={after}"))).await);
            assert_eq!(told["total"], 5);
            let page = told["connections"].as_array().unwrap().clone();
            assert!(page.len() <= 2 && page[0]["user"] == "<i>" && page[0]["path"] == "/\"" && page[0]["age"] == 3.0);
            seen.extend(page.iter().map(|one| one["id"].as_u64().unwrap()));
            after = told["next"].clone();
        }
        assert_eq!(seen, [1, 2, 3, 4, 5]);
        assert_eq!(json_of(&ask(&source, &get("/connections.json")).await)["connections"].as_array().unwrap().len(), 5);
        for wrong in ["limit=1001", "limit=-1", "limit=x", "after=1.5", "after=%ff", "limit="] {
            let answer = ask(&source, &get(&format!("/connections.json?{wrong}"))).await;
            assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("must be a number up to"), "{answer}");
        }
        assert!(ask(&source, &get("/status.json?since=NaN")).await.starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn the_page_is_small_and_needs_nothing_from_elsewhere() {
        let size: usize = PAGE.iter().map(|(_, _, content)| content.len()).sum();
        assert!(size < 24 * 1024, "{size} bytes");
        for (path, _, content) in PAGE {
            assert!(!content.contains("https:") && !content.contains("innerHTML"), "{path}");
            for url in content.match_indices("http:").map(|(at, _)| &content[at..]) {
                assert!(url.starts_with("http://www.w3.org/2000/svg"), "{path}");
            }
        }
    }

    #[test]
    fn figures_are_for_those_who_ask_by_address() {
        for own in ["127.0.0.1:9090", "[::1]:9090", "10.1.2.3", "localhost", "box:9090", ""] {
            assert!(is_named_by_address(own), "{own}");
        }
        for foreign in ["evil.example", "evil.example:9090", "10.1.2.3.evil.example", "localhost.evil.example"] {
            assert!(!is_named_by_address(foreign), "{foreign}");
        }
    }

    #[tokio::test]
    async fn pages_of_other_sites_get_nothing() {
        let source = Arc::new(Source::default());
        for line in [
            "Host: 127.0.0.1\r\nOrigin: https://evil.example",
            "Host: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade",
            "Host: 127.0.0.1\r\nSec-Fetch-Site: cross-site",
            "Host: evil.example:9090",
        ] {
            let answer = ask(&source, &format!("GET /metrics HTTP/1.1\r\n{line}\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{line}: {answer}");
        }
        for host in ["localhost:9090", "[::1]:9090", "LOCALHOST"] {
            let answer = ask(&source, &format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
        }
    }

    #[tokio::test]
    async fn silent_peers_take_only_so_many_places() {
        let listener = bind_to("127.0.0.1:0").unwrap();
        let address = url(&listener).strip_prefix("http://").unwrap().to_owned();
        let talk = async {
            let mut silent = Vec::new();
            for _ in 0..CONNECTIONS {
                silent.push(TcpStream::connect(&address).await.unwrap());
            }
            let mut socket = TcpStream::connect(&address).await.unwrap();
            socket.write_all(get("/healthz").as_bytes()).await.unwrap();
            let mut answer = String::new();
            let early = tokio::time::timeout(Duration::from_millis(200), socket.read_to_string(&mut answer)).await;
            assert!(early.is_err(), "answered beyond the bound");
            // A place is free as soon as one of them goes.
            silent.pop();
            socket.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = tokio::select! {
            answer = talk => answer,
            () = serve(listener, Arc::new(Source::default())) => unreachable!(),
        };
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }

    #[test]
    fn an_address_that_cannot_be_bound_is_named() {
        let taken = bind_to("127.0.0.1:0").unwrap();
        let address = url(&taken).strip_prefix("http://").unwrap().to_owned();
        let error = bind_to(&address).unwrap_err().to_string();
        assert_eq!(error, format!("cannot listen on http://{address} (option admin): Address already in use"));
        let path = std::env::temp_dir().join(format!("lifeline-admin-{}.sock", std::process::id()));
        let unix = bind(&ListenAddress::Unix { path: path.clone() }, &Arc::default()).unwrap();
        assert_eq!(url(&unix), format!("unix://{}", path.display()));
        assert!(url(&bind_to("[::1]:0").unwrap()).starts_with("http://[::1]:"));
    }
}
