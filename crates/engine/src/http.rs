//! HTTP/1.1 heads: just what a WebSocket handshake, a health check, a file and a refusal need.
//!
//! There is no body parser and no keep-alive: whatever is answered other than by 101, the connection
//! closes after it. So nothing behind a head can be taken for a second request.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use memchr::memchr;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::config::Network;
use crate::forwarded;
use crate::listen::PeerAddr;

/// Header lines a request may have.
const MAX_HEADERS: usize = 128;

/// A request's head as it came, with what the transport knows. Parsed again when asked for: a
/// connection that is never asked keeps one raw slice.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RequestHead {
    /// Request line and headers up to and with the empty line, then the peer's address: one allocation,
    /// because each open connection keeps it.
    text: Box<[u8]>,
    /// Where the address begins.
    remote: u32,
    /// Came over TLS (here or at a trusted proxy).
    secure: bool,
    /// `host[:port]` the client asked for, where a trusted proxy tells it.
    forwarded_host: Option<Box<str>>,
}

impl RequestHead {
    /// Checks a head that [`read_head`] returned and joins it with what is known of the peer. What
    /// `peer` says about its own clients is believed only where it is in `trusted`. Returns the
    /// address that counts as the client's too, for limits per address.
    ///
    /// # Errors
    /// [`HeadError::Malformed`]: not HTTP/1.x, folded header lines, a missing or second `Host`, a
    /// second `Sec-WebSocket-Key`, `-Version` or `Origin`. [`HeadError::TooManyHeaders`].
    pub fn parse(raw: &[u8], peer: &PeerAddr, tls: bool, trusted: &[Network]) -> Result<(Self, PeerAddr), HeadError> {
        let lead = raw.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let raw = &raw[lead..];
        check(raw)?;
        let told = forwarded::resolve(raw, peer, trusted);
        let head = Self::new(raw, &told.client, told.secure.unwrap_or(tls), told.host);
        Ok((head, told.client))
    }

    fn new(raw: &[u8], remote: &PeerAddr, secure: bool, forwarded_host: Option<Box<str>>) -> Self {
        let mut text = Vec::with_capacity(raw.len() + PeerAddr::LONGEST);
        text.extend_from_slice(raw);
        remote.write_to(&mut text);
        // A head is bounded by `limits.maxHeaderBytes`.
        let remote = u32::try_from(raw.len()).unwrap_or(u32::MAX);
        Self { text: text.into(), remote, secure, forwarded_host }
    }

    /// Request line and headers up to and with the empty line.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.text[..self.text.len().min(self.remote as usize)]
    }

    /// Peer's address as text; behind a trusted proxy the client's.
    #[must_use]
    pub fn remote(&self) -> &str {
        std::str::from_utf8(self.text.get(self.remote as usize..).unwrap_or_default()).unwrap_or("")
    }

    /// Came over TLS (here or at a trusted proxy).
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// `GET`.
    #[must_use]
    pub fn method(&self) -> &str {
        self.request_line().0
    }

    /// As sent: path and query, or an absolute URL.
    #[must_use]
    pub fn target(&self) -> &str {
        self.request_line().1
    }

    /// Without the query, percent-encoding kept; `/` when an absolute target has none.
    #[must_use]
    pub fn path(&self) -> &str {
        path_of(self.target())
    }

    /// After `?`, raw; empty when there is none.
    #[must_use]
    pub fn query(&self) -> &str {
        let local = self.authority_and_rest().1;
        let local = local.split_once('#').map_or(local, |(before, _)| before);
        local.split_once('?').map_or("", |(_, query)| query)
    }

    /// The query's pairs in order, percent-decoded, `+` as a space. A key without `=` has an empty value.
    #[must_use]
    pub fn query_pairs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.query()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (percent_decode(key.as_bytes(), true), percent_decode(value.as_bytes(), true))
            })
            .collect()
    }

    /// All headers in order, names as sent, values as bytes.
    #[must_use]
    pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
        self.fields().map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
    }

    /// The first header of that name (any case), when its value is visible ASCII or UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let value = self.values(name).next()?;
        std::str::from_utf8(value).ok().map(str::to_owned)
    }

    /// The values of each header of that name (any case), in order.
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        values(self.raw(), name)
    }

    /// The elements of a comma-separated header over all its lines, trimmed, empty ones left out.
    /// Elements that are not UTF-8 are left out too.
    pub fn list<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        list(self.raw(), name)
    }

    /// The pairs of all `Cookie` headers in order, values as sent (RFC 6265 section 5.4).
    #[must_use]
    pub fn cookies(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut pairs = Vec::new();
        for line in self.values("cookie") {
            for pair in line.split(|byte| *byte == b';') {
                let pair = pair.trim_ascii();
                if let Some(at) = pair.iter().position(|byte| *byte == b'=') {
                    pairs.push((pair[..at].trim_ascii_end().to_vec(), pair[at + 1..].trim_ascii_start().to_vec()));
                }
            }
        }
        pairs
    }

    /// The subprotocols offered, in the client's order.
    #[must_use]
    pub fn protocols(&self) -> Vec<String> {
        self.list("sec-websocket-protocol").map(str::to_owned).collect()
    }

    /// `host[:port]` the client asked for: what a trusted proxy tells, else the authority of an
    /// absolute target, else the `Host` header; empty when there is none.
    #[must_use]
    pub fn host(&self) -> &str {
        if let Some(host) = &self.forwarded_host {
            return host;
        }
        if let Some(authority) = self.authority_and_rest().0 {
            return authority;
        }
        self.values("host").next().and_then(|value| std::str::from_utf8(value).ok()).unwrap_or("")
    }

    /// True for HTTP/1.1, false for HTTP/1.0.
    #[must_use]
    pub fn is_http11(&self) -> bool {
        self.request_line().2 == "HTTP/1.1"
    }

    /// Method, target and version.
    #[must_use]
    pub fn request_line(&self) -> (&str, &str, &str) {
        let raw = self.raw();
        let line = std::str::from_utf8(&raw[..memchr(b'\r', raw).unwrap_or(raw.len())]).unwrap_or("");
        let cut = |text: &'_ str| memchr(b' ', text.as_bytes()).map_or((text.len(), text.len()), |at| (at, at + 1));
        let (end, next) = cut(line);
        let (method, rest) = (&line[..end], &line[next..]);
        let (end, next) = cut(rest);
        (method, &rest[..end], &rest[next..])
    }

    /// Splits `http://authority/path?query`; an origin-form target has no authority.
    fn authority_and_rest(&self) -> (Option<&str>, &str) {
        authority_and_rest(self.target())
    }

    fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.field_lines().filter_map(|line| {
            let at = memchr(b':', line)?;
            Some((std::str::from_utf8(&line[..at]).ok()?, line[at + 1..].trim_ascii()))
        })
    }

    /// The header lines, with their ends.
    pub fn field_lines(&self) -> impl Iterator<Item = &[u8]> {
        field_lines(self.raw())
    }
}

fn field_lines(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = &raw[memchr(b'\n', raw).map_or(raw.len(), |at| at + 1)..];
    std::iter::from_fn(move || {
        let (line, after) = rest.split_at_checked(memchr(b'\n', rest)? + 1)?;
        rest = after;
        Some(line)
    })
}

/// See [`RequestHead::values`].
pub fn values<'a>(raw: &'a [u8], name: &str) -> impl Iterator<Item = &'a [u8]> {
    let is_named = move |line: &&[u8]| {
        line.get(name.len()) == Some(&b':') && line[..name.len()].eq_ignore_ascii_case(name.as_bytes())
    };
    field_lines(raw).filter(is_named).map(move |line| line[name.len() + 1..].trim_ascii())
}

/// See [`RequestHead::list`].
pub fn list<'a>(raw: &'a [u8], name: &str) -> impl Iterator<Item = &'a str> {
    values(raw, name).flat_map(elements)
}

/// The elements of a comma-separated value, trimmed, empty ones left out; none of one that is not UTF-8.
pub fn elements(value: &[u8]) -> impl Iterator<Item = &str> {
    std::str::from_utf8(value)
        .unwrap_or("")
        .split(',')
        .map(|element| element.trim_matches([' ', '\t']))
        .filter(|element| !element.is_empty())
}

/// Of a request's target; see [`RequestHead::path`].
#[must_use]
pub fn path_of(target: &str) -> &str {
    let local = authority_and_rest(target).1;
    let end = local.bytes().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(local.len());
    if end == 0 { "/" } else { &local[..end] }
}

fn authority_and_rest(target: &str) -> (Option<&str>, &str) {
    if target.starts_with('/') {
        return (None, target);
    }
    let Some((_, after)) = target.split_once("://") else { return (None, target) };
    let end = after.find(['/', '?', '#']).unwrap_or(after.len());
    (Some(&after[..end]), &after[end..])
}

/// What a head could not be read for.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The peer went away after `received` bytes of a head.
    #[error("the peer closed after {received} bytes of an HTTP head")]
    Eof { received: usize },
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("malformed HTTP head: {0}")]
    Malformed(&'static str),
    #[error("HTTP head larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("HTTP head with more than {MAX_HEADERS} header lines")]
    TooManyHeaders,
}

impl HeadError {
    /// What to tell a client about its request; none when it is not there to be told.
    #[must_use]
    pub fn answer(&self) -> Option<Response> {
        match self {
            Self::Eof { .. } | Self::Io(_) => None,
            Self::Malformed(_) => Some(Response::text(400, self.to_string())),
            Self::TooLarge { .. } | Self::TooManyHeaders => Some(Response::text(431, self.to_string())),
        }
    }
}

/// Reads a request's or response's head: returns it with its empty line, as a copy of just its size.
/// What came behind it is left in `buffer`. Takes what is in `buffer` already into account; put a
/// time limit around it.
///
/// # Errors
/// [`HeadError`]; malformed here means a control character or a line that ends in a bare LF, which
/// is told as soon as it arrives (a TLS hello on a plain port for instance).
pub async fn read_head<S>(stream: &mut S, buffer: &mut BytesMut, max_header_bytes: usize) -> Result<Bytes, HeadError>
where
    S: AsyncRead + Unpin + ?Sized,
{
    let end = await_head(stream, buffer, max_header_bytes).await?;
    let head = Bytes::copy_from_slice(&buffer[..end]);
    buffer.advance(end);
    Ok(head)
}

/// As [`read_head`], but leaves the head in `buffer` and returns its length.
///
/// # Errors
/// See [`read_head`].
pub async fn await_head<S>(stream: &mut S, buffer: &mut BytesMut, max_header_bytes: usize) -> Result<usize, HeadError>
where
    S: AsyncRead + Unpin + ?Sized,
{
    let mut scanned = 0;
    loop {
        match if buffer.is_empty() { Scan::More } else { scan(buffer, scanned) } {
            Scan::End(end) if end <= max_header_bytes => return Ok(end),
            Scan::End(_) => return Err(HeadError::TooLarge { limit: max_header_bytes }),
            Scan::Malformed(why) => return Err(HeadError::Malformed(why)),
            Scan::More => {}
        }
        scanned = buffer.len();
        if scanned >= max_header_bytes {
            return Err(HeadError::TooLarge { limit: max_header_bytes });
        }
        let room = (max_header_bytes - scanned).min(4096);
        buffer.reserve(room.min(FIRST));
        if stream.read_buf(&mut (&mut *buffer).limit(room)).await? == 0 {
            return Err(HeadError::Eof { received: scanned });
        }
    }
}

/// Room for a head of the usual size, just below what glibc's allocator treats as large.
const FIRST: usize = 960;

/// An HTTP answer that is not an upgrade. The connection closes after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Without those that frame the answer: `Connection`, `Content-Length`, `Transfer-Encoding`.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Response {
    /// An answer without a body.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// An answer of one line of plain text.
    #[must_use]
    pub fn text(status: u16, line: impl Into<String>) -> Self {
        let mut line = line.into();
        line.push('\n');
        Self { status, headers: Vec::new(), body: line.into() }.with("Content-Type", "text/plain; charset=utf-8")
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The bytes for the wire. Headers that frame the answer, and such as could not stand on one
    /// line, are left out. `body` false: for a HEAD request.
    #[must_use]
    pub fn encode(&self, body: bool) -> Bytes {
        let mut out = BytesMut::with_capacity(256 + self.body.len());
        put_status_line(&mut out, self.status);
        let mut upgrade = false;
        for (name, value) in &self.headers {
            if FRAMING.iter().any(|own| own.eq_ignore_ascii_case(name)) {
                continue;
            }
            upgrade |= name.eq_ignore_ascii_case("upgrade");
            put_header(&mut out, name, value);
        }
        if self.status != 204 && self.status != 304 {
            put_header(&mut out, "Content-Length", &self.body.len().to_string());
        }
        // RFC 9110 section 7.8: who sends Upgrade names it in Connection too.
        put_header(&mut out, "Connection", if upgrade { "close, Upgrade" } else { "close" });
        out.put_slice(b"\r\n");
        if body && self.status != 204 && self.status != 304 {
            out.put_slice(&self.body);
        }
        out.freeze()
    }
}

/// Sends an answer, ends our direction and throws away what the peer still sends, until it closes or
/// `linger` is over: a close with unread bytes would reset the link and could take the answer along.
///
/// # Errors
/// The peer has gone before it could take the answer.
pub async fn answer_and_close<S>(stream: &mut S, answer: &[u8], linger: Duration) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    let send = async {
        stream.write_all(answer).await?;
        stream.flush().await?;
        stream.shutdown().await?;
        let mut scrap = [0; 1024];
        // As much as a client may have had under way when it saw the answer.
        for _ in 0..1024 {
            if stream.read(&mut scrap).await? == 0 {
                break;
            }
        }
        Ok(())
    };
    tokio::time::timeout(linger, send).await.unwrap_or(Ok(()))
}

/// `HTTP/1.1 404 Not Found` and CRLF.
pub fn put_status_line(out: &mut BytesMut, status: u16) {
    out.put_slice(format!("HTTP/1.1 {status} {}\r\n", reason(status)).as_bytes());
}

/// A header line. A name that is no token or a value with a control character is left out: the
/// option parser refuses them, and past it they must not be able to end the line.
pub fn put_header(out: &mut BytesMut, name: &str, value: &str) {
    if is_token(name) && !value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        out.put_slice(name.as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
}

/// RFC 9110 section 5.6.2: what names of headers, methods and subprotocols are made of.
#[must_use]
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Decodes `%41`; a `%` that is not followed by two hex digits stands for itself. `plus`: `+` is a space.
#[must_use]
pub fn percent_decode(text: &[u8], plus: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            (b'+', _) if plus => out.push(b' '),
            _ => out.push(byte),
        }
    }
    out
}

/// The reason phrase of a status (RFC 9110); empty for one that has none.
#[must_use]
pub fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// Headers that an answer's sender writes itself.
const FRAMING: [&str; 5] = ["Connection", "Content-Length", "Keep-Alive", "Trailer", "Transfer-Encoding"];

#[cfg_attr(test, derive(Debug, PartialEq))]
enum Scan {
    /// The head is this long.
    End(usize),
    Malformed(&'static str),
    More,
}

/// Looks at `bytes` from `from` on for the end of the head.
fn scan(bytes: &[u8], from: usize) -> Scan {
    // Most heads are in order, which shows in two fast passes.
    let mut found = None;
    for at in memchr::memchr_iter(b'\n', &bytes[from..]).map(|at| from + at) {
        if at == 0 || bytes[at - 1] != b'\r' {
            return scan_lines(bytes, from);
        }
        if at >= 3 && bytes[at - 2] == b'\n' {
            found = Some(at + 1);
            break;
        }
    }
    let end = found.unwrap_or(bytes.len());
    if has_forbidden(&bytes[from..end]) || bytes.first().is_none_or(u8::is_ascii_whitespace) {
        return scan_lines(bytes, from);
    }
    found.map_or(Scan::More, Scan::End)
}

/// Line ends aside. A sum over all, because a loop without a way out does many bytes at a time.
#[expect(clippy::needless_bitwise_bool, reason = "a branch would be taken a byte at a time")]
fn has_forbidden(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |found, byte| found | u8::from(is_forbidden(*byte) & (*byte != b'\n'))) != 0
}

/// The same, a line at a time: tells what is wrong with the first that is not in order.
fn scan_lines(bytes: &[u8], from: usize) -> Scan {
    let mut at = from;
    // Once for all lines: a head of empty ones is looked at as fast as any other.
    let begin = bytes.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(bytes.len());
    while at < bytes.len() {
        let end = memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |length| at + length);
        if bytes[at..end].iter().any(|byte| is_forbidden(*byte)) {
            return Scan::Malformed("a control character");
        }
        if end == bytes.len() {
            break;
        }
        if end == 0 || bytes[end - 1] != b'\r' {
            return Scan::Malformed("a line ends without CR");
        }
        // Empty lines before the first line are skipped (RFC 9112 section 2.2).
        if end >= 3 && bytes[end - 2] == b'\n' && begin < end - 1 {
            return Scan::End(end + 1);
        }
        at = end + 1;
    }
    Scan::More
}

/// Control characters but for tabs and the CR of a line's end.
#[expect(clippy::needless_bitwise_bool, reason = "without branches many can be looked at together")]
const fn is_forbidden(byte: u8) -> bool {
    ((byte < b' ') & (byte != b'\t') & (byte != b'\r')) | (byte == 0x7F)
}

fn check(raw: &[u8]) -> Result<(), HeadError> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(raw, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length == raw.len() => {}
        Ok(_) => return Err(HeadError::Malformed("it does not end with its empty line")),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyHeaders),
        Err(error) => {
            return Err(HeadError::Malformed(match error {
                httparse::Error::HeaderName => "invalid header name or folded line",
                httparse::Error::HeaderValue => "invalid header value",
                httparse::Error::NewLine => "invalid line end",
                httparse::Error::Token => "invalid request line",
                httparse::Error::Version => "not HTTP/1.0 or HTTP/1.1",
                _ => "cannot be parsed",
            }));
        }
    }
    // httparse alone would take these.
    if memchr::memchr_iter(b'\n', raw).any(|at| at == 0 || raw[at - 1] != b'\r') {
        return Err(HeadError::Malformed("a line ends without CR"));
    }
    let mut seen = [false; ONCE.len()];
    for header in request.headers.iter() {
        for ((name, why), seen) in ONCE.iter().zip(&mut seen) {
            if header.name.len() == name.len()
                && header.name.eq_ignore_ascii_case(name)
                && std::mem::replace(seen, true)
            {
                return Err(HeadError::Malformed(why));
            }
        }
    }
    if !seen[0] && request.version == Some(1) {
        return Err(HeadError::Malformed("no Host header"));
    }
    Ok(())
}

/// Headers that a request may have once, `Host` first.
const ONCE: [(&str, &str); 4] = [
    ("host", "more than one Host header"),
    ("sec-websocket-key", "more than one Sec-WebSocket-Key header"),
    ("sec-websocket-version", "more than one Sec-WebSocket-Version header"),
    ("origin", "more than one Origin header"),
];

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<RequestHead, HeadError> {
        let peer = PeerAddr::Tcp("203.0.113.7:4711".parse().unwrap());
        RequestHead::parse(text.as_bytes(), &peer, false, &[]).map(|(head, _)| head)
    }

    fn why(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    async fn read(bytes: &[u8], limit: usize) -> Result<(Bytes, Bytes), HeadError> {
        let mut buffer = BytesMut::new();
        let mut stream = bytes;
        let head = read_head(&mut stream, &mut buffer, limit).await?;
        buffer.extend_from_slice(stream);
        Ok((head, buffer.freeze()))
    }

    #[test]
    fn a_head_is_taken_apart() {
        let head = parse(
            "GET /chat%20room?a=1&b=%41+c&a=2&x HTTP/1.1\r\nHost: example.org:8080\r\nCookie: a=b; c = d=e\r\n\
             X-Thing:  spaced \t\r\ncookie: f=g\r\nSec-WebSocket-Protocol: one , two,\r\nsec-websocket-protocol: three\r\n\r\n",
        )
        .unwrap();
        assert_eq!(head.method(), "GET");
        assert_eq!(head.target(), "/chat%20room?a=1&b=%41+c&a=2&x");
        assert_eq!(head.path(), "/chat%20room");
        assert_eq!(head.query(), "a=1&b=%41+c&a=2&x");
        assert_eq!(
            head.query_pairs(),
            [("a", "1"), ("b", "A c"), ("a", "2"), ("x", "")].map(|(k, v)| (k.into(), v.into()))
        );
        assert_eq!(head.cookies(), [("a", "b"), ("c", "d=e"), ("f", "g")].map(|(k, v)| (k.into(), v.into())));
        assert_eq!(head.header("x-THING").as_deref(), Some("spaced"));
        assert_eq!(head.header("absent"), None);
        assert_eq!(head.protocols(), ["one", "two", "three"]);
        assert_eq!(head.host(), "example.org:8080");
        assert_eq!(head.remote(), "203.0.113.7:4711");
        assert_eq!(head.headers().len(), 6);
        assert!(head.is_http11() && !head.secure);
    }

    #[test]
    fn an_absolute_target_names_its_host() {
        let head = parse("GET http://a.example:81/p?q=1#f HTTP/1.1\r\nHost: other\r\n\r\n").unwrap();
        assert_eq!((head.host(), head.path(), head.query()), ("a.example:81", "/p", "q=1"));
        let head = parse("GET http://a.example?q HTTP/1.1\r\nHost: other\r\n\r\n").unwrap();
        assert_eq!((head.host(), head.path(), head.query()), ("a.example", "/", "q"));
    }

    #[test]
    fn leading_empty_lines_are_skipped() {
        assert_eq!(parse("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().method(), "GET");
    }

    #[test]
    fn heads_that_two_parsers_could_read_differently_are_refused() {
        for (text, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "more than one Host"),
            ("GET / HTTP/1.1\r\nhost: a\r\nSec-WebSocket-Key: x\r\nsec-websocket-key: x\r\n\r\n", "Sec-WebSocket-Key"),
            ("GET / HTTP/1.1\r\nHost: a\r\nOrigin: x\r\nOrigin: y\r\n\r\n", "Origin"),
            ("GET / HTTP/1.1\r\n\r\n", "no Host"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n", "folded"),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "header name"),
            ("GET / HTTP/1.1\nHost: a\n\n", "without CR"),
            ("GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", "without CR"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r2\r\n\r\n", "header value"),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "HTTP/1.1"),
            ("GET /\r\nHost: a\r\n\r\n", ""),
            ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "request line"),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nmore", "empty line"),
            ("GET / HTTP/1.1\r\nHost: a\r\n", "empty line"),
            ("\r\n\r\n", ""),
            ("", ""),
        ] {
            let message = why(text);
            assert!(message.contains(expected), "{text:?}: {message}");
        }
        assert_eq!(parse("GET / HTTP/1.0\r\n\r\n").unwrap().host(), "");
    }

    #[test]
    fn too_many_headers_are_told_as_431() {
        let mut text = String::from("GET / HTTP/1.1\r\nHost: a\r\n");
        (0..MAX_HEADERS).for_each(|_| text.push_str("X: 1\r\n"));
        let error = parse(&(text + "\r\n")).unwrap_err();
        assert_eq!(error.answer().unwrap().status, 431);
    }

    #[tokio::test]
    async fn reading_stops_at_the_head_and_at_the_limit() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let (got, rest) = read(&[&head[..], b"\x81\x80frames"].concat(), 1024).await.unwrap();
        assert_eq!((&got[..], &rest[..]), (&head[..], &b"\x81\x80frames"[..]));
        assert_eq!(read(head, head.len()).await.unwrap().0, &head[..]);
        assert!(matches!(read(head, head.len() - 1).await, Err(HeadError::TooLarge { .. })));
        assert!(matches!(read(&head[..9], 1024).await, Err(HeadError::Eof { received: 9 })));
        assert!(matches!(read(b"\x16\x03\x01", 1024).await, Err(HeadError::Malformed(_))));
        assert!(matches!(read(b"GET / HTTP/1.1\n", 1024).await, Err(HeadError::Malformed(_))));
        assert!(matches!(read(&[b'a'; 64], 32).await, Err(HeadError::TooLarge { limit: 32 })));
    }

    #[tokio::test]
    async fn an_answer_arrives_though_the_peer_is_still_sending() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut server = listener.accept().await.unwrap().0;
        client.write_all(&[b'x'; 8192]).await.unwrap();
        let answer = Response::text(400, "no").encode(true);
        let told = tokio::spawn(async move { answer_and_close(&mut server, &answer, Duration::from_secs(30)).await });
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert!(got.starts_with(b"HTTP/1.1 400 Bad Request\r\n") && got.ends_with(b"\r\n\r\nno\n"));
        drop(client);
        told.await.unwrap().unwrap();
    }

    #[test]
    fn an_answer_frames_itself() {
        let response = Response::text(403, "no")
            .with("X-A", "1")
            .with("Content-Length", "77")
            .with("connection", "keep-alive")
            .with("X-Bad", "a\r\nSet-Cookie: x")
            .with("X Bad", "1");
        assert_eq!(
            response.encode(true),
            "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nX-A: 1\r\nContent-Length: 3\r\n\
             Connection: close\r\n\r\nno\n"
        );
        assert!(response.encode(false).ends_with(b"Content-Length: 3\r\nConnection: close\r\n\r\n"));
        assert_eq!(Response::new(204).encode(true), "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        assert_eq!(Response::new(499).encode(true), "HTTP/1.1 499 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn percent_decoding_is_lenient() {
        for (text, plus, expected) in [
            ("a%20b", true, "a b"),
            ("a+b", true, "a b"),
            ("a+b", false, "a+b"),
            ("%4", true, "%4"),
            ("%zz%", true, "%zz%"),
        ] {
            assert_eq!(percent_decode(text.as_bytes(), plus), expected.as_bytes());
        }
        assert_eq!(percent_decode(b"%ff%00", false), [0xff, 0]);
    }

    /// What `scan` does, byte by byte.
    fn scan_slowly(bytes: &[u8], from: usize) -> Scan {
        for at in from..bytes.len() {
            match bytes[at] {
                b'\n' if at == 0 || bytes[at - 1] != b'\r' => return Scan::Malformed("a line ends without CR"),
                b'\n' if at >= 3 && bytes[at - 2] == b'\n' && !bytes[..at - 1].trim_ascii().is_empty() => {
                    return Scan::End(at + 1);
                }
                b'\n' | b'\r' | b'\t' => {}
                byte if byte.is_ascii_control() => return Scan::Malformed("a control character"),
                _ => {}
            }
        }
        Scan::More
    }

    #[test]
    fn empty_lines_before_the_first_are_looked_at_once() {
        // Each of them looked at anew for each that follows would take minutes.
        let mut bytes = b"\r\n".repeat(1 << 20);
        assert_eq!(scan(&bytes, 0), Scan::More);
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(scan(&bytes, 0), Scan::End(bytes.len()));
        assert_eq!(scan(&bytes, bytes.len() - 1), Scan::End(bytes.len()));
    }

    proptest! {
        #[test]
        fn the_end_of_a_head_is_found_as_byte_by_byte(
            parts in proptest::collection::vec("\r\n|\r\n\r\n|\n|\r|\t|\x7f|\x01|\u{e9}|[a-c]{0,40}", 0..8),
            from in 0_usize..60,
        ) {
            let bytes = parts.concat().into_bytes();
            let from = from.min(bytes.len());
            prop_assert_eq!(scan(&bytes, from), scan_slowly(&bytes, from));
        }

        #[test]
        fn the_cut_of_the_bytes_changes_nothing(
            text in "(GET|POST) /[a-z?=&%]{0,20} HTTP/1.1\r?\n([A-Za-z -]{1,8}:[ a-z]{0,10}\r?\n){0,4}\r\n[a-z\r\n]{0,8}",
            cuts in proptest::collection::vec(1usize..7, 1..64),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let whole = runtime.block_on(read(text.as_bytes(), 64));
            let pieces = runtime.block_on(async {
                let (mut near, mut far) = tokio::io::duplex(1);
                let (bytes, mut cuts) = (text.clone().into_bytes(), cuts.into_iter().cycle());
                let mut buffer = BytesMut::new();
                let feed = async {
                    let mut at = 0;
                    while at < bytes.len() {
                        let end = (at + cuts.next().unwrap()).min(bytes.len());
                        if far.write_all(&bytes[at..end]).await.is_err() { break; }
                        at = end;
                    }
                    drop(far);
                };
                let take = async {
                    let head = read_head(&mut near, &mut buffer, 64).await;
                    near.read_to_end(&mut Vec::new()).await.unwrap();
                    head
                };
                tokio::join!(take, feed).0
            });
            match (whole, pieces) {
                (Ok((head, _)), Ok(same)) => prop_assert_eq!(head, same),
                // Which of two faults is met first may depend on the cut.
                (Err(_), Err(_)) => {}
                (a, b) => prop_assert!(false, "{:?} but in pieces {:?}", a, b),
            }
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let head = RequestHead::new(&bytes, &PeerAddr::Unix, false, None);
            let _ = (head.method(), head.path(), head.query_pairs(), head.cookies(), head.protocols(), head.host());
            let _ = RequestHead::parse(&bytes, &PeerAddr::Unix, false, &[]);
        }
    }
}
