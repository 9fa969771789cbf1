//! The opening handshake, server side (RFC 6455 section 4.2): a request in, a decision out.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use lifeline_proto::deflate::{Agreement, negotiate};
use memchr::memchr;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::bridge::{HandshakeAnswer, PROTOCOL};
use crate::config::{Origins, ServerConfig};
use crate::http::{self, RequestHead, Response};
use crate::listen::put_number;

/// What is to be done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A handshake in order: upgrade with [`switching_protocols`], after the application was asked
    /// where it wants to be.
    Accept(Accept),
    /// A plain GET or HEAD for a file. Where there is none, send this if it is there, and close.
    File(Option<Response>),
    /// Anything else: send it and close.
    Answer(Response),
}

/// A handshake in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// `Sec-WebSocket-Key` as sent.
    pub key: String,
    /// The subprotocol agreed on: the first of ours that was offered.
    pub protocol: Option<String>,
    /// What was agreed on of permessage-deflate.
    pub compression: Option<Agreement>,
}

/// What became of the application's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Upgrade with these extra headers.
    Accept {
        accept: Accept,
        headers: Vec<(String, String)>,
    },
    Refuse(Response),
    /// The application's answer cannot be carried out: refuse with 500 and tell it `message`.
    Invalid {
        response: Response,
        message: String,
    },
}

/// What a request says of the headers that a handshake is made of; the first of each name.
#[derive(Default)]
struct Fields<'a> {
    /// `Upgrade` names websocket.
    upgrade: bool,
    /// `Connection` names upgrade.
    connection: bool,
    /// A body follows.
    body: bool,
    version: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    origin: Option<&'a [u8]>,
    /// There is a `Sec-WebSocket-Protocol`.
    protocols: bool,
    /// There is a `Sec-WebSocket-Extensions`.
    extensions: bool,
}

impl<'a> Fields<'a> {
    /// Reads the head once.
    fn of(request: &'a RequestHead) -> Self {
        let mut fields = Self::default();
        let names = |value: &[u8], token: &str| {
            value.eq_ignore_ascii_case(token.as_bytes())
                || http::elements(value).any(|element| element.eq_ignore_ascii_case(token))
        };
        for line in request.field_lines() {
            let Some(colon) = memchr(b':', line) else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
            match colon {
                6 if is(b"origin") => fields.origin = fields.origin.or(Some(value)),
                7 if is(b"upgrade") => fields.upgrade = fields.upgrade || names(value, "websocket"),
                10 if is(b"connection") => fields.connection = fields.connection || names(value, "upgrade"),
                14 if is(b"content-length") => fields.body |= value != b"0",
                17 if is(b"transfer-encoding") => fields.body = true,
                17 if is(b"sec-websocket-key") => fields.key = fields.key.or(Some(value)),
                21 if is(b"sec-websocket-version") => fields.version = fields.version.or(Some(value)),
                22 if is(b"sec-websocket-protocol") => fields.protocols = true,
                24 if is(b"sec-websocket-extensions") => fields.extensions = true,
                _ => {}
            }
        }
        fields
    }
}

/// Decides on a request by the rules alone.
#[must_use]
pub fn evaluate(request: &RequestHead, config: &ServerConfig) -> Verdict {
    let (method, target, version) = request.request_line();
    let fields = Fields::of(request);
    let path = http::path_of(target);
    if !fields.upgrade && config.health_path.as_deref() == Some(path) {
        return Verdict::Answer(match method {
            "GET" | "HEAD" => Response::text(200, "ok").with("Cache-Control", "no-store"),
            _ => Response::text(405, "only GET and HEAD").with("Allow", "GET, HEAD"),
        });
    }
    if !fields.upgrade && config.static_files.is_some() {
        return match method {
            "GET" | "HEAD" => Verdict::File((config.path.as_deref() == Some(path)).then(no_upgrade)),
            _ => Verdict::Answer(Response::text(405, "only GET and HEAD").with("Allow", "GET, HEAD")),
        };
    }
    if config.path.as_deref().is_some_and(|own| own != path) {
        return Verdict::Answer(Response::text(404, "no such path"));
    }
    if method != "GET" {
        return Verdict::Answer(Response::text(405, "only GET").with("Allow", "GET"));
    }
    if !fields.upgrade {
        return Verdict::Answer(no_upgrade());
    }
    match handshake(request, version, &fields, config) {
        Ok(accept) => Verdict::Accept(accept),
        Err(response) => Verdict::Answer(response),
    }
}

/// Applies the application's decision to a handshake that [`evaluate`] accepted.
#[must_use]
pub fn decide(request: &RequestHead, mut accept: Accept, answer: HandshakeAnswer) -> Decision {
    match answer.status {
        101 => {
            if let Some(chosen) = answer.protocol {
                if !request.list("sec-websocket-protocol").any(|offered| offered == chosen) {
                    let offered = request.protocols().join(", ");
                    let offered = if offered.is_empty() { "nothing" } else { &offered };
                    return invalid(format!(
                        "the handshake callback chose the subprotocol \"{chosen}\", but the client offered {offered}"
                    ));
                }
                accept.protocol = Some(chosen);
            }
            if answer.uncompressed {
                accept.compression = None;
            }
            Decision::Accept { accept, headers: answer.headers }
        }
        200..=599 => Decision::Refuse(Response { status: answer.status, headers: answer.headers, body: answer.body }),
        status => invalid(format!("the handshake callback answered status {status}; allowed are 101 and 200 to 599")),
    }
}

/// The 101 response. `spread`: the window over which clients should come back when this server goes.
/// Extra headers that belong to the handshake itself are left out.
#[must_use]
pub fn switching_protocols(accept: &Accept, headers: &[(String, String)], spread: Option<Duration>) -> BytesMut {
    let mut out = BytesMut::with_capacity(256);
    out.put_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.put_slice(derive_accept_key(accept.key.as_bytes()).as_bytes());
    out.put_slice(b"\r\n");
    if let Some(protocol) = &accept.protocol {
        http::put_header(&mut out, "Sec-WebSocket-Protocol", protocol);
    }
    if let Some(agreement) = &accept.compression {
        http::put_header(&mut out, "Sec-WebSocket-Extensions", &agreement.response());
    }
    if let Some(spread) = spread {
        out.put_slice(b"Lifeline-Spread: ");
        put_seconds(&mut out, spread);
        out.put_slice(b"\r\n");
    }
    for (name, value) in headers {
        if !OWN.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            http::put_header(&mut out, name, value);
        }
    }
    out.put_slice(b"\r\n");
    out
}

/// Whole milliseconds: 0.1, 2, 12.345.
fn put_seconds(out: &mut BytesMut, time: Duration) {
    put_number(out, u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    let millis = time.subsec_millis();
    let mut digits: &[u8] = &[millis / 100, millis / 10 % 10, millis % 10].map(|digit| b'0' + digit as u8);
    while let [before @ .., b'0'] = digits {
        digits = before;
    }
    if !digits.is_empty() {
        out.put_u8(b'.');
        out.put_slice(digits);
    }
}

/// Headers of a 101 that are ours alone.
const OWN: [&str; 10] = [
    "Connection",
    "Content-Length",
    "Keep-Alive",
    "Lifeline-Spread",
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Protocol",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
];

fn invalid(message: String) -> Decision {
    Decision::Invalid { response: Response::text(500, "internal error"), message }
}

fn no_upgrade() -> Response {
    upgrade_required("a WebSocket endpoint: the request has no \"Upgrade: websocket\" (does a proxy remove it?)")
}

fn upgrade_required(line: &str) -> Response {
    Response::text(426, line).with("Upgrade", "websocket").with("Sec-WebSocket-Version", "13")
}

/// RFC 6455 section 4.2.1, in the order of its list.
fn handshake(
    request: &RequestHead,
    version: &str,
    fields: &Fields<'_>,
    config: &ServerConfig,
) -> Result<Accept, Response> {
    let bad = |line: &str| Response::text(400, line);
    if version != "HTTP/1.1" {
        return Err(bad("a WebSocket handshake needs HTTP/1.1"));
    }
    if !fields.connection {
        return Err(bad("the Connection header lacks \"Upgrade\""));
    }
    // A body would be read as frames.
    if fields.body {
        return Err(bad("a WebSocket handshake has no body"));
    }
    match fields.version {
        Some(b"13") => {}
        Some(_) => return Err(upgrade_required("only version 13 of the WebSocket protocol")),
        None => return Err(bad("no Sec-WebSocket-Version header")),
    }
    let Some(key) = fields.key else { return Err(bad("no Sec-WebSocket-Key header")) };
    let Some(key) = std::str::from_utf8(key).ok().filter(|key| is_key(key)) else {
        return Err(bad("Sec-WebSocket-Key is not 16 bytes in base64"));
    };
    if !origin_allowed(request, fields.origin, &config.origins) {
        return Err(Response::text(403, "origin not allowed"));
    }
    let protocol = if fields.protocols {
        let offered: Vec<&str> = request.list("sec-websocket-protocol").collect();
        // Last, unless the application has put it elsewhere.
        let own = config.protocols.iter().map(String::as_str).chain([PROTOCOL]);
        own.into_iter().find(|own| offered.contains(own)).map(str::to_owned)
    } else {
        None
    };
    let compression = match &config.compression {
        Some(deflate) if fields.extensions => {
            let lines = request.values("sec-websocket-extensions");
            negotiate::accept(lines, deflate).map_err(|malformed| bad(&malformed.to_string()))?
        }
        _ => None,
    };
    Ok(Accept { key: key.to_owned(), protocol, compression })
}

/// 16 bytes in base64: 22 letters and two `=`.
fn is_key(key: &str) -> bool {
    key.strip_suffix("==").is_some_and(|letters| {
        letters.len() == 22 && letters.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
    })
}

fn origin_allowed(request: &RequestHead, origin: Option<&[u8]>, origins: &Origins) -> bool {
    let Some(value) = origin else { return true };
    let Ok(value) = std::str::from_utf8(value) else { return matches!(origins, Origins::Any) };
    match origins {
        Origins::Any => true,
        Origins::SameHost => Origin::parse(value).is_some_and(|origin| origin.is_same_host(request.host())),
        Origins::List(entries) => {
            let origin = Origin::parse(value);
            entries.iter().any(|entry| match &origin {
                Some(origin) => origin.matches(entry),
                // "null", or an origin of a scheme without host: only if listed by the letter.
                None => entry.eq_ignore_ascii_case(value),
            })
        }
    }
}

/// `scheme://host[:port]`, or without a scheme. Compared without regard to case.
#[derive(Debug, PartialEq, Eq)]
struct Origin<'a> {
    scheme: Option<&'a str>,
    host: &'a str,
    port: Option<&'a str>,
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // The colons of an IPv6 address are within its brackets.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let port_fits = port.is_none_or(|port| port == "*" || port.parse::<u16>().is_ok());
        let scheme_fits = scheme.is_none_or(|scheme| {
            scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) && !scheme.is_empty()
        });
        let host_fits = if let Some(address) = host.strip_prefix('[') {
            address.strip_suffix(']').is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
        } else {
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b) || b >= 0x80)
        };
        let bare_null = scheme.is_none() && text.eq_ignore_ascii_case("null");
        (port_fits && scheme_fits && host_fits && !bare_null).then_some(Self { scheme, host, port })
    }

    /// Whatever the schemes: TLS may end at a proxy that does not say so. Then a `Host` without a
    /// port stands for the default port of the origin's scheme.
    fn is_same_host(&self, host: &str) -> bool {
        let Some(own) = Origin::parse(host).filter(|own| own.scheme.is_none()) else { return false };
        own.host.eq_ignore_ascii_case(self.host)
            && match own.port {
                Some(_) => self.number() == own.number(),
                None => self.number() == self.default_port(),
            }
    }

    fn matches(&self, entry: &str) -> bool {
        let (subdomains, entry) = match entry.split_once("*.") {
            Some((scheme, rest)) if scheme.is_empty() || scheme.ends_with("://") => (true, format!("{scheme}{rest}")),
            _ => (false, entry.to_owned()),
        };
        let Some(entry) = Origin::parse(&entry) else { return false };
        let scheme = match (entry.scheme, self.scheme) {
            (Some(entry), Some(own)) => entry.eq_ignore_ascii_case(own),
            (None, _) => true,
            (Some(_), None) => false,
        };
        let host = if subdomains {
            let (own, suffix) = (self.host.to_ascii_lowercase(), entry.host.to_ascii_lowercase());
            own.strip_suffix(&suffix).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
        } else {
            entry.host.eq_ignore_ascii_case(self.host)
        };
        let port = match entry.port {
            Some("*") => true,
            Some(_) => entry.number() == self.number(),
            None => self.number() == self.default_port(),
        };
        scheme && host && port
    }

    fn number(&self) -> Option<u16> {
        self.port.map_or_else(|| self.default_port(), |port| port.parse().ok())
    }

    fn default_port(&self) -> Option<u16> {
        match self.scheme?.to_ascii_lowercase().as_str() {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Network;
    use crate::listen::PeerAddr;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn config() -> ServerConfig {
        ServerConfig {
            path: Some("/chat".into()),
            health_path: Some("/up".into()),
            protocols: vec!["two".into(), "one".into()],
            trusted_proxies: vec![Network::parse("10.0.0.0/8").unwrap()],
            ..ServerConfig::default()
        }
    }

    fn head(peer: &str, text: &str) -> RequestHead {
        let peer = PeerAddr::Tcp(peer.parse().unwrap());
        RequestHead::parse(text.as_bytes(), &peer, false, &config().trusted_proxies).unwrap().0
    }

    /// A handshake in order but for `changes`: `Name: value` replaces or adds, `Name:` removes.
    fn request(changes: &[&str]) -> RequestHead {
        let mut headers = vec![
            ("Host", "example.org"),
            ("Upgrade", "websocket"),
            ("Connection", "keep-alive, Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ];
        for change in changes {
            let (name, value) = change.split_once(':').unwrap();
            headers.retain(|(known, _)| *known != name);
            if !value.is_empty() {
                headers.push((name, value.trim()));
            }
        }
        let lines = headers.iter().map(|(name, value)| [name, ": ", value, "\r\n"].concat()).collect::<String>();
        head("10.0.0.1:9", &format!("GET /chat?a=1 HTTP/1.1\r\n{lines}\r\n"))
    }

    fn status(request: &RequestHead) -> u16 {
        match evaluate(request, &config()) {
            Verdict::Accept(_) => 101,
            Verdict::Answer(response) => response.status,
            Verdict::File(_) => 200,
        }
    }

    fn allowed(request: &RequestHead, origins: &Origins) -> bool {
        origin_allowed(request, Fields::of(request).origin, origins)
    }

    fn answer(text: &str) -> String {
        match evaluate(&head("10.0.0.1:9", text), &config()) {
            Verdict::Answer(response) => String::from_utf8(response.encode(true).to_vec()).unwrap(),
            Verdict::Accept(_) | Verdict::File(_) => panic!("accepted"),
        }
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let Verdict::Accept(accept) = evaluate(&request(&["Sec-WebSocket-Protocol: one, two, three"]), &config())
        else {
            panic!("refused")
        };
        assert_eq!(accept, Accept { key: KEY.into(), protocol: Some("two".into()), compression: None });
        let headers = [("X-A", "1"), ("upgrade", "h2c"), ("X-B", "a\r\nb")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let response = switching_protocols(&accept, &headers, Some(Duration::from_micros(2_500_400)));
        assert_eq!(
            response,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: two\r\n\
             Lifeline-Spread: 2.5\r\nX-A: 1\r\n\r\n"
        );
        let accept = Accept { protocol: None, ..accept };
        let response = switching_protocols(&accept, &[], Some(Duration::from_secs(60)));
        assert!(response.ends_with(b"+xOo=\r\nLifeline-Spread: 60\r\n\r\n"), "{response:?}");
        for (micros, expected) in
            [(0, "0"), (100_000, "0.1"), (12_345_000, "12.345"), (1_010_999, "1.01"), (600_000_000, "600")]
        {
            let response = switching_protocols(&accept, &[], Some(Duration::from_micros(micros)));
            let end = format!("\r\nLifeline-Spread: {expected}\r\n\r\n");
            assert!(response.ends_with(end.as_bytes()), "{response:?}");
        }
        assert!(switching_protocols(&accept, &[], None).ends_with(b"+xOo=\r\n\r\n"));
    }

    #[test]
    fn files_are_beside_the_endpoint() {
        let config = ServerConfig { static_files: Some(crate::config::StaticFiles::default()), ..config() };
        let verdict = |line: &str, more: &str| {
            evaluate(&head("10.0.0.1:9", &format!("{line} HTTP/1.1\r\nHost: a\r\n{more}\r\n")), &config)
        };
        assert_eq!(verdict("GET /", ""), Verdict::File(None));
        assert_eq!(verdict("HEAD /a", "Upgrade: h2c\r\n"), Verdict::File(None));
        let Verdict::File(Some(missing)) = verdict("GET /chat?a", "") else { panic!("no hint") };
        assert_eq!(missing.status, 426);
        for (line, more, expected) in [
            ("POST /", "", 405),
            ("OPTIONS *", "", 405),
            ("GET /up", "", 200),
            ("GET /a", "Upgrade: websocket\r\n", 404),
            ("GET /chat", "Upgrade: websocket\r\n", 400),
        ] {
            let Verdict::Answer(answer) = verdict(line, more) else { panic!("{line}") };
            assert_eq!(answer.status, expected, "{line}");
        }
        let text = format!(
            "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        assert!(matches!(evaluate(&head("10.0.0.1:9", &text), &config), Verdict::Accept(_)));
    }

    #[test]
    fn each_rule_of_the_handshake_has_its_status() {
        for (changes, expected) in [
            (&[][..], 101),
            (&["Upgrade: h2c, WebSocket"], 101),
            (&["Upgrade:"], 426),
            (&["Upgrade: h2c"], 426),
            (&["Connection: close"], 400),
            (&["Connection:"], 400),
            (&["Sec-WebSocket-Version: 8"], 426),
            (&["Sec-WebSocket-Version:"], 400),
            (&["Sec-WebSocket-Key:"], 400),
            (&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ="], 400),
            (&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQo=="], 400),
            (&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!Q=="], 400),
            (&["Content-Length: 0"], 101),
            (&["Content-Length: 5"], 400),
            (&["Transfer-Encoding: chunked"], 400),
            (&["Origin: https://evil.example"], 403),
            (&["Upgrade: h2c", "upgrade: websocket"], 101),
            (&["Connection: close", "CONNECTION: x,Upgrade"], 101),
            (&["Connection: upgraded"], 400),
            (&["Content-Length: 0", "content-length: 1"], 400),
        ] {
            assert_eq!(status(&request(changes)), expected, "{changes:?}");
        }
        let old = head("10.0.0.1:9", "GET /chat HTTP/1.0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        assert_eq!(status(&old), 400);
    }

    #[test]
    fn what_is_no_handshake_gets_a_plain_answer() {
        for (request_line, expected) in [
            ("GET /up?x", "200 OK"),
            ("HEAD /up", "200 OK"),
            ("POST /up", "405 Method Not Allowed"),
            ("GET /other", "404 Not Found"),
            ("GET /chat", "426 Upgrade Required"),
            ("POST /chat", "405 Method Not Allowed"),
        ] {
            let answer = answer(&format!("{request_line} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert!(answer.starts_with(&format!("HTTP/1.1 {expected}\r\n")), "{request_line}: {answer}");
        }
        assert!(answer("DELETE /chat HTTP/1.1\r\nHost: a\r\n\r\n").contains("\r\nAllow: GET\r\n"));
        let plain = answer("GET /chat HTTP/1.1\r\nHost: a\r\n\r\n");
        for line in
            ["\r\nUpgrade: websocket\r\n", "\r\nConnection: close, Upgrade\r\n", "\r\nSec-WebSocket-Version: 13\r\n"]
        {
            assert!(plain.contains(line), "{plain}");
        }
    }

    #[test]
    fn the_same_host_is_the_same_whatever_the_scheme() {
        for (host, origin, expected) in [
            ("example.org", "https://example.org", 101),
            ("example.org", "http://EXAMPLE.org", 101),
            ("example.org", "https://example.org:443", 101),
            ("example.org", "http://example.org:8080", 403),
            ("example.org:443", "https://example.org", 101),
            ("example.org:80", "https://example.org", 403),
            ("example.org:8080", "http://example.org:8080", 101),
            ("example.org:8080", "http://example.org", 403),
            ("example.org", "https://example.org.evil.net", 403),
            ("example.org", "https://www.example.org", 403),
            ("example.org", "null", 403),
            ("null", "null", 403),
            ("example.org", "https://", 403),
            ("example.org", "https://user@example.org", 403),
            ("[::1]:8080", "http://[::1]:8080", 101),
            ("[::1]", "http://[::1]", 101),
        ] {
            let request = request(&[&format!("Host: {host}"), &format!("Origin: {origin}")]);
            assert_eq!(status(&request), expected, "{host} {origin}");
        }
    }

    #[test]
    fn a_trusted_proxy_tells_the_host() {
        let told = "X-Forwarded-Host: example.org";
        assert_eq!(status(&request(&["Host: backend:8080", "Origin: https://example.org", told])), 101);
        let text = format!(
            "GET /chat HTTP/1.1\r\nHost: backend\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nOrigin: https://example.org\r\n{told}\r\n\r\n"
        );
        assert_eq!(status(&head("203.0.113.7:9", &text)), 403);
    }

    #[test]
    fn listed_origins_are_compared_by_their_parts() {
        let list = [
            "https://example.org",
            "https://*.apps.example.org",
            "bare.example",
            "http://localhost:*",
            "https://port.example:8443",
            "*.any.example",
            "chrome-extension://abcdef",
        ];
        let origins = Origins::List(list.map(str::to_owned).to_vec());
        for (origin, expected) in [
            ("https://example.org", true),
            ("https://EXAMPLE.ORG:443", true),
            ("http://example.org", false),
            ("https://example.org:8443", false),
            ("https://a.apps.example.org", true),
            ("https://b.a.apps.example.org", true),
            ("https://apps.example.org", false),
            ("https://.apps.example.org", false),
            ("https://evilapps.example.org", false),
            ("https://a.apps.example.org.evil.net", false),
            ("http://bare.example", true),
            ("https://bare.example", true),
            ("https://bare.example:1", false),
            ("http://localhost:3000", true),
            ("http://localhost", true),
            ("https://port.example:8443", true),
            ("https://port.example", false),
            ("https://x.any.example", true),
            ("chrome-extension://abcdef", true),
            ("chrome-extension://other", false),
            ("null", false),
        ] {
            let request = request(&[&format!("Origin: {origin}")]);
            assert_eq!(allowed(&request, &origins), expected, "{origin}");
        }
        let null = request(&["Origin: null"]);
        assert!(allowed(&null, &Origins::List(vec!["null".into()])));
        assert!(allowed(&null, &Origins::Any));
        assert!(allowed(&request(&[]), &Origins::List(Vec::new())));
        for text in ["", "https://", "https://a b", "https://*", "http://a:b", "a/b", "null"] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_application_decides_within_the_rules() {
        let request = request(&["Sec-WebSocket-Protocol: one, three"]);
        let Verdict::Accept(accept) = evaluate(&request, &config()) else { panic!("refused") };
        let answer = |status, protocol: Option<&str>| HandshakeAnswer {
            status,
            protocol: protocol.map(str::to_owned),
            headers: vec![("X-A".into(), "1".into())],
            ..HandshakeAnswer::default()
        };
        let decide = |answer| decide(&request, accept.clone(), answer);
        let Decision::Accept { accept: agreed, headers } = decide(answer(101, Some("three"))) else {
            panic!("refused")
        };
        assert_eq!((agreed.protocol.as_deref(), headers.len()), (Some("three"), 1));
        let Decision::Accept { accept: agreed, .. } = decide(answer(101, None)) else { panic!("refused") };
        assert_eq!(agreed.protocol.as_deref(), Some("one"));
        let Decision::Invalid { response, message } = decide(answer(101, Some("four"))) else { panic!("accepted") };
        assert_eq!(response.status, 500);
        assert!(message.contains("\"four\"") && message.contains("one, three"), "{message}");
        let Decision::Refuse(response) = decide(answer(401, Some("four"))) else { panic!("accepted") };
        assert_eq!((response.status, response.headers.len()), (401, 1));
        for status in [0, 100, 199, 600, 1000] {
            assert!(matches!(decide(answer(status, None)), Decision::Invalid { .. }), "{status}");
        }
    }

    proptest! {
        #[test]
        fn no_origin_panics(origin in "[a-z:/.*\\[\\]0-9 é-]{0,24}", entry in "[a-z:/.*\\[\\]0-9é-]{0,24}") {
            if let Some(origin) = Origin::parse(&origin) {
                let _ = (origin.matches(&entry), origin.is_same_host(&entry));
            }
        }
    }
}
