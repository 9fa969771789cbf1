//! One attempt of a client to reach its server: name, TCP, proxy, TLS and the upgrade of RFC 6455
//! section 4.1. Whether and when to try again is decided elsewhere.

mod happy_eyeballs;
pub(crate) mod proxy;
pub(crate) mod response;
#[cfg(test)]
mod tests;
mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use lifeline_proto::deflate::{Agreement, negotiate};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{TlsConnector, TlsStream};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

pub use self::proxy::ProxyRules;
pub use self::tls::ClientTlsConfig;

use self::happy_eyeballs::{Attempts, interleave, race};
use self::proxy::{ProxyAddress, authority, base64};
use self::response::{Agreed, HeadError, ResponseHead};
use crate::bridge::{Failure, FailureKind};
use crate::config::{ClientUrl, DeflateConfig, ListenAddress};
use crate::stream::Stream;

/// What one attempt needs to know.
#[derive(Debug, Clone, Copy)]
pub struct DialRequest<'a> {
    pub url: &'a ClientUrl,
    /// Subprotocols offered, in order of preference.
    pub protocols: &'a [String],
    /// Headers of every attempt.
    pub headers: &'a [(String, String)],
    /// Headers of this attempt; they replace those of the same name.
    pub attempt_headers: &'a [(String, String)],
    /// Needed for `wss://` only.
    pub tls: Option<&'a ClientTlsConfig>,
    pub proxy: &'a ProxyRules,
    /// permessage-deflate to offer.
    pub compression: Option<&'a DeflateConfig>,
    /// For all of it, from the name to the last header.
    pub timeout: Duration,
    pub max_header_bytes: usize,
}

/// An upgraded connection.
#[derive(Debug)]
pub struct Dialed {
    pub stream: Stream,
    /// Bytes that came behind the response head: the peer's first frames.
    pub leftover: BytesMut,
    /// The subprotocol agreed on; empty when none.
    pub protocol: String,
    /// What was agreed on of permessage-deflate.
    pub compression: Option<Agreement>,
    /// `Lifeline-Spread` of the response, at most 60 s.
    pub spread: Option<Duration>,
    /// The peer's address, `unix:`, or behind a proxy `host:port` as asked of the proxy.
    pub remote: Box<str>,
    /// The response's headers in order, names as sent.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Why an attempt failed.
#[derive(Debug, Clone)]
pub struct DialError {
    /// Kind and text; `code` is the HTTP status of a refusal, by the server or by a proxy.
    pub failure: Failure,
    /// HTTP status with which the server itself answered.
    pub status: Option<u16>,
    /// `Retry-After` of the answer.
    pub retry_after: Option<Duration>,
    /// `Lifeline-Spread` of the answer.
    pub spread: Option<Duration>,
    /// Trying again cannot help: the request itself is at fault.
    pub terminal: bool,
}

/// Connects and upgrades. Dropping the future closes what it had opened.
///
/// # Errors
/// [`DialError`]: what failed, and where.
pub async fn dial(request: &DialRequest<'_>) -> Result<Dialed, DialError> {
    dial_with(request, async |host: &str, port: u16| {
        Ok(tokio::net::lookup_host((host, port)).await?.collect::<Vec<_>>())
    })
    .await
}

/// Checks headers that an application wants to send with a handshake.
///
/// # Errors
/// Names the header that is malformed, or that belongs to the handshake itself.
pub fn check_headers(headers: &[(String, String)]) -> Result<(), String> {
    const OWNED: [(&str, &str); 10] = [
        ("Upgrade", "the handshake sets it"),
        ("Connection", "the handshake sets it"),
        ("Sec-WebSocket-Key", "the handshake sets it"),
        ("Sec-WebSocket-Version", "the handshake sets it"),
        ("Sec-WebSocket-Accept", "only servers send it"),
        ("Sec-WebSocket-Extensions", "the handshake sets it"),
        ("Sec-WebSocket-Protocol", "use the option protocols"),
        ("Content-Length", "a handshake has no body"),
        ("Transfer-Encoding", "a handshake has no body"),
        ("Proxy-Authorization", "use the option connect.proxy"),
    ];
    for (name, value) in headers {
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("header name {name:?} is not a token (RFC 9110 section 5.1)"));
        }
        if let Some((owned, why)) = OWNED.iter().find(|(owned, _)| owned.eq_ignore_ascii_case(name)) {
            return Err(format!("header {owned} cannot be set: {why}"));
        }
        // Shown without the value: it may be a secret.
        if value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()) {
            return Err(format!("the value of header {name} contains a control character"));
        }
    }
    Ok(())
}

/// [`dial`] with a name resolution of the caller's choice.
async fn dial_with<R>(request: &DialRequest<'_>, resolve: R) -> Result<Dialed, DialError>
where
    R: AsyncFn(&str, u16) -> io::Result<Vec<SocketAddr>>,
{
    let attempt = Attempt { request, deadline: Instant::now() + request.timeout };
    let key = generate_key();
    let head = attempt.upgrade_request(&key)?;
    let (mut stream, remote) = match &request.url.target {
        ListenAddress::Unix { path } => (attempt.unix(path).await?, "unix:".into()),
        ListenAddress::Passed { .. } => {
            let message = "a socket that a service manager has passed is for servers".to_owned();
            return Err(DialError::new(FailureKind::Connect, message));
        }
        ListenAddress::Tcp { host, port, tls } => attempt.tcp(host, *port, *tls, &resolve).await?,
    };
    attempt.upgrade(&mut stream, &key, &head).await.map(|(response, leftover, (protocol, compression))| Dialed {
        stream,
        leftover,
        protocol,
        compression,
        spread: response.spread(),
        remote,
        headers: response.headers,
    })
}

struct Attempt<'a> {
    request: &'a DialRequest<'a>,
    deadline: Instant,
}

impl Attempt<'_> {
    async fn unix(&self, path: &Path) -> Result<Stream, DialError> {
        let what = || format!("connecting to unix://{}", path.display());
        let connected = self.within(what, UnixStream::connect(path)).await?;
        let stream = connected
            .map_err(|error| DialError::connect(format!("unix://{} cannot be reached: {error}", path.display())))?;
        Ok(Stream::Unix(stream.into()))
    }

    async fn tcp<R>(&self, host: &str, port: u16, tls: bool, resolve: &R) -> Result<(Stream, Box<str>), DialError>
    where
        R: AsyncFn(&str, u16) -> io::Result<Vec<SocketAddr>>,
    {
        let target = authority(host, port);
        // Before anything is opened: what needs no socket to fail.
        let security = if tls { Some(self.security(host, &target)?) } else { None };
        let (stream, remote) = match self.request.proxy.select(host, port, tls).map_err(DialError::connect)? {
            None => {
                let (address, stream) = self.connect(host, port, resolve).await?;
                (stream, address.to_string().into())
            }
            Some(proxy) => (self.tunnel(proxy, &target, resolve).await?, target.clone().into()),
        };
        let Some((connector, name)) = security else { return Ok((Stream::Tcp(stream.into()), remote)) };
        let what = || format!("waiting for the TLS handshake with {target}");
        let secured = self.within(what, connector.connect(name, stream)).await?;
        let secured = secured.map_err(|error| {
            DialError::connect(format!("TLS handshake with {target} failed: {}", tls::describe(&error)))
        })?;
        Ok((Stream::Tls(Box::new(TlsStream::Client(secured))), remote))
    }

    fn security(&self, host: &str, target: &str) -> Result<(TlsConnector, ServerName<'static>), DialError> {
        let config = self
            .request
            .tls
            .ok_or_else(|| DialError::connect(format!("wss://{target} needs TLS settings and there are none")))?;
        let name = tls::server_name(host).map_err(DialError::connect)?;
        Ok((TlsConnector::from(config.current()), name))
    }

    async fn connect<R>(&self, host: &str, port: u16, resolve: &R) -> Result<(SocketAddr, TcpStream), DialError>
    where
        R: AsyncFn(&str, u16) -> io::Result<Vec<SocketAddr>>,
    {
        let addresses = if let Ok(address) = host.parse::<IpAddr>() {
            vec![SocketAddr::new(address, port)]
        } else {
            let found = self.within(|| format!("resolving '{host}'"), resolve(host, port)).await?;
            interleave(found.map_err(|error| DialError::connect(format!("'{host}' cannot be resolved: {error}")))?)
        };
        if addresses.is_empty() {
            return Err(DialError::connect(format!("'{host}' has no address")));
        }
        let mut attempts = Attempts::default();
        let winner = timeout_at(self.deadline, race(&addresses, &mut attempts, TcpStream::connect)).await;
        let Ok(winner) = winner else {
            return Err(self.timed_out(&format!("connecting to '{host}' ({})", attempts.describe())));
        };
        let (address, stream) = winner
            .ok_or_else(|| DialError::connect(format!("'{host}' cannot be reached ({})", attempts.describe())))?;
        // Fails only when the peer is already gone; the handshake will tell.
        let _ = stream.set_nodelay(true);
        Ok((address, stream))
    }

    async fn tunnel<R>(&self, proxy: &ProxyAddress, target: &str, resolve: &R) -> Result<TcpStream, DialError>
    where
        R: AsyncFn(&str, u16) -> io::Result<Vec<SocketAddr>>,
    {
        let name = proxy.authority();
        let (_, mut stream) = self.connect(&proxy.host, proxy.port, resolve).await.map_err(|mut error| {
            error.failure.message = format!("proxy {name}: {}", error.failure.message);
            error
        })?;
        let mut buffer = BytesMut::new();
        let what = || format!("waiting for proxy {name} to reach {target}");
        let response = self.within(what, self.ask(&mut stream, &mut buffer, &proxy.connect_request(target))).await?;
        let response = response.map_err(|error| {
            DialError::connect(format!("proxy {name} did not reach {target}: {}", describe_head(&error)))
        })?;
        if !(200..300).contains(&response.status) {
            let body = self.body(&response, &mut stream, &mut buffer).await;
            let mut error =
                DialError::connect(format!("proxy {name} refused to reach {target}: {}", refusal(&response, &body)));
            error.failure.code = response.status;
            // The proxy's, so no word of the server: only the time to wait is taken from it.
            error.retry_after = response.retry_after(SystemTime::now());
            return Err(error);
        }
        if !buffer.is_empty() {
            return Err(DialError::connect(format!("proxy {name} sent bytes of its own into the tunnel to {target}")));
        }
        Ok(stream)
    }

    async fn upgrade(
        &self,
        stream: &mut Stream,
        key: &str,
        head: &[u8],
    ) -> Result<(ResponseHead, BytesMut, Agreed), DialError> {
        let place = self.place();
        let mut buffer = BytesMut::new();
        let what = || format!("waiting for the handshake answer of {place}");
        let response = self.within(what, self.ask(stream, &mut buffer, head)).await?.map_err(|error| {
            let kind = match error {
                HeadError::Io(_) | HeadError::Closed(_) => FailureKind::Connect,
                HeadError::TooLong(_) => FailureKind::Limit,
                HeadError::Malformed(_) => FailureKind::Protocol,
            };
            DialError::new(kind, format!("handshake with {place} failed: {}", describe_head(&error)))
        })?;
        if response.status != 101 {
            let mut text = format!("{place} refused the handshake: ");
            if (300..400).contains(&response.status)
                && let Some(location) = response.single("Location")
            {
                // Not followed (RFC 6455 section 4.1 allows that): credentials would go astray.
                let location: String = location.chars().take(200).collect();
                text = format!("{place} redirects to {location}, which is not followed: ");
            }
            let body = self.body(&response, stream, &mut buffer).await;
            text.push_str(&refusal(&response, &body));
            return Err(DialError {
                failure: Failure { kind: FailureKind::Connect, message: text, code: response.status },
                status: Some(response.status),
                retry_after: response.retry_after(SystemTime::now()),
                spread: response.spread(),
                terminal: false,
            });
        }
        match response.verify(key, self.request.protocols, self.request.compression) {
            Ok(agreed) => Ok((response, buffer, agreed)),
            // No refusal: a status that the policy could look up would mislead.
            Err(why) => Err(DialError::new(
                FailureKind::Protocol,
                format!("{place} does not answer as a WebSocket server: {why}"),
            )),
        }
    }

    async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        buffer: &mut BytesMut,
        request: &[u8],
    ) -> Result<ResponseHead, HeadError> {
        let written = async {
            stream.write_all(request).await?;
            stream.flush().await
        }
        .await;
        let head = ResponseHead::read(stream, buffer, self.request.max_header_bytes).await;
        // A server may refuse and close before it has read everything: its answer says more than
        // our broken pipe.
        match (written, head) {
            (Err(error), Err(HeadError::Closed(_) | HeadError::Io(_))) => Err(error.into()),
            (_, head) => head,
        }
    }

    /// A refusal's body, within the time that is left.
    async fn body<S: AsyncRead + Unpin>(
        &self,
        response: &ResponseHead,
        stream: &mut S,
        buffer: &mut BytesMut,
    ) -> String {
        timeout_at(self.deadline, response.body_start(stream, buffer)).await.unwrap_or_default()
    }

    async fn within<F: Future>(&self, what: impl FnOnce() -> String, future: F) -> Result<F::Output, DialError> {
        timeout_at(self.deadline, future).await.map_err(|_| self.timed_out(&what()))
    }

    fn timed_out(&self, doing: &str) -> DialError {
        let seconds = self.request.timeout.as_secs_f64();
        DialError::new(FailureKind::Timeout, format!("connect.timeout ({seconds} s) passed while {doing}"))
    }

    /// The server as people name it.
    fn place(&self) -> String {
        self.request.url.place()
    }

    fn upgrade_request(&self, key: &str) -> Result<Vec<u8>, DialError> {
        let request = self.request;
        let terminal = |message| DialError { terminal: true, ..DialError::connect(message) };
        check_headers(request.headers).map_err(terminal)?;
        // The next attempt may bring better ones.
        check_headers(request.attempt_headers).map_err(DialError::connect)?;
        if !request.url.resource.bytes().all(|byte| byte.is_ascii_graphic()) || request.url.resource.is_empty() {
            return Err(terminal("the URL's path holds characters that must be percent-encoded".into()));
        }
        if let Some(bad) = request.protocols.iter().find(|name| name.is_empty() || !name.bytes().all(is_token)) {
            return Err(terminal(format!("subprotocol {bad:?} is not a token")));
        }
        let named = |list: &[(String, String)], name: &str| list.iter().any(|(it, _)| it.eq_ignore_ascii_case(name));
        let given = |name: &str| named(request.attempt_headers, name) || named(request.headers, name);

        let resource = match &request.url.target {
            ListenAddress::Unix { .. } if !request.url.resource.starts_with('/') => "/",
            _ => &request.url.resource,
        };
        let mut head = format!("GET {resource} HTTP/1.1\r\n");
        let mut add = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                head.push_str(part);
            }
        };
        if !given("Host") {
            add("Host", &self.host());
        }
        add("Upgrade", "websocket");
        add("Connection", "Upgrade");
        add("Sec-WebSocket-Key", key);
        add("Sec-WebSocket-Version", "13");
        if !request.protocols.is_empty() {
            add("Sec-WebSocket-Protocol", &request.protocols.join(", "));
        }
        if let Some(compression) = request.compression {
            add("Sec-WebSocket-Extensions", &negotiate::offer(compression));
        }
        if let Some(credentials) = &request.url.credentials
            && !given("Authorization")
        {
            add("Authorization", &format!("Basic {}", base64(credentials.as_bytes())));
        }
        if !given("User-Agent") {
            add("User-Agent", concat!("lifeline/", env!("CARGO_PKG_VERSION")));
        }
        for (name, value) in request.headers.iter().filter(|(name, _)| !named(request.attempt_headers, name)) {
            add(name, value);
        }
        for (name, value) in request.attempt_headers {
            add(name, value);
        }
        head.push_str("\r\n");
        Ok(head.into_bytes())
    }

    fn host(&self) -> String {
        match &self.request.url.target {
            ListenAddress::Unix { .. } | ListenAddress::Passed { .. } => "localhost".into(),
            ListenAddress::Tcp { host, port, tls } => {
                let text = authority(host, *port);
                let default = if *tls { ":443" } else { ":80" };
                text.strip_suffix(default).map(str::to_owned).unwrap_or(text)
            }
        }
    }
}

impl DialError {
    pub(crate) fn new(kind: FailureKind, message: String) -> Self {
        Self {
            failure: Failure { kind, message, code: 0 },
            status: None,
            retry_after: None,
            spread: None,
            terminal: false,
        }
    }

    fn connect(message: String) -> Self {
        Self::new(FailureKind::Connect, message)
    }
}

fn describe_head(error: &HeadError) -> String {
    match error {
        HeadError::Io(error) => tls::describe(error),
        other => other.to_string(),
    }
}

/// `503 Service Unavailable: try later`
fn refusal(response: &ResponseHead, body: &str) -> String {
    let mut text = format!("{} {}", response.status, response.reason).trim_end().to_owned();
    if !body.is_empty() {
        text.push_str(": ");
        text.push_str(body);
    }
    text
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
