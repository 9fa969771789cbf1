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

/// What the admin listener shows.
pub trait AdminSource: Send + Sync {
    /// The counters, in the order of the page.
    fn stats(&self) -> Stats;
    /// False: send no new clients here.
    fn ready(&self) -> bool;
}

/// Binds `host:port`.
///
/// # Errors
/// [`ListenError`] that names the address.
pub fn bind(address: &str, inherited: &Arc<Inheritance>) -> Result<Listener, ListenError> {
    let url = format!("http://{address} (option admin)");
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let Some((host, port)) = parts else {
        return Err(ListenError { url, cause: "the address must be host:port".into() });
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let listen = vec![ListenAddress::Tcp { host, port, tls: false }];
    let config = ServerConfig { listen, inherited: inherited.clone(), ..ServerConfig::default() };
    let mut listeners = bind_all(&config).map_err(|error| ListenError { url, ..error })?;
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
        "/" => typed("text/html; charset=utf-8", page(&source.stats(), source.ready()))
            .with("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        _ => Response::text(404, "try /metrics, /healthz, /readyz or /"),
    };
    response.with("Cache-Control", "no-store").with("X-Content-Type-Options", "nosniff")
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
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    // HTTP/1.0 has no Host, and no browser speaks it.
    name.is_empty() || name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
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
            Stat::Text(_) | Stat::None => continue,
        };
        let kind = if COUNTERS.contains(&&**key) { "counter" } else { "gauge" };
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

fn page(stats: &Stats, ready: bool) -> String {
    let mut rows = String::new();
    put_rows(&mut rows, "", stats);
    let readiness = if ready { "ready" } else { "not ready" };
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>lifeline: {readiness}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"refresh\" content=\"5\">\n\
         <style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem}}\
         table{{border-collapse:collapse;width:100%}}th{{text-align:left;padding-top:1rem}}\
         td{{border-bottom:1px solid color-mix(in srgb,currentColor 20%,transparent);padding:.15rem 0}}\
         td+td{{text-align:right;font-variant-numeric:tabular-nums}}</style></head>\n\
         <body><h1>lifeline</h1><p><strong>{readiness}</strong> · <a href=\"/metrics\">metrics</a> · \
         <a href=\"/healthz\">health</a> · <a href=\"/readyz\">readiness</a></p>\n<table>\n{rows}</table></body></html>\n"
    )
}

fn put_rows(out: &mut String, heading: &str, stats: &Stats) {
    for (key, stat) in &stats.0 {
        let name = escape(key);
        let value = match stat {
            Stat::Tree(tree) => {
                let heading = if heading.is_empty() { name } else { format!("{heading} / {name}") };
                let _ = writeln!(out, "<tr><th colspan=\"2\">{heading}</th></tr>");
                put_rows(out, &heading, tree);
                continue;
            }
            Stat::Int(value) => value.to_string(),
            Stat::Float(value) => format!("{value:.3}"),
            Stat::Flag(value) => value.to_string(),
            Stat::Text(value) => escape(value),
            Stat::None => "–".to_owned(),
        };
        let _ = writeln!(out, "<tr><td>{name}</td><td>{value}</td></tr>");
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    fn bind_to(address: &str) -> Result<Listener, ListenError> {
        bind(address, &Arc::default())
    }

    #[derive(Default)]
    struct Source(AtomicBool);

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
                ("note".into(), Stat::Text("<b>&".into())),
                ("nothing".into(), Stat::None),
            ])
        }

        fn ready(&self) -> bool {
            self.0.load(Ordering::Relaxed)
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
             # TYPE lifeline_connections_by_name_a_b gauge\nlifeline_connections_by_name_a_b 1\n"
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
        let page = ask(&source, &get("/")).await;
        assert!(page.contains("<td>&lt;b&gt;&amp;</td>") && page.contains("connections / by.name"), "{page}");
        assert!(ask(&source, &get("/other")).await.starts_with("HTTP/1.1 404 "));
        assert!(ask(&source, "POST / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.contains("\r\nAllow: GET, HEAD\r\n"));
        assert!(ask(&source, "HEAD /healthz HTTP/1.0\r\n\r\n").await.ends_with("\r\n\r\n"));
        assert!(ask(&source, "\x01").await.starts_with("HTTP/1.1 400 "));
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
        assert!(bind_to("127.0.0.1").is_err());
        assert!(url(&bind_to("[::1]:0").unwrap()).starts_with("http://[::1]:"));
    }
}
