//! What comes back: the response head, and the checks of RFC 6455 section 4.1.

use std::io;
use std::time::{Duration, SystemTime};

use bytes::{Buf, BytesMut};
use lifeline_proto::deflate::{Agreement, negotiate};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::config::DeflateConfig;

/// Longest spread that is believed; servers advertise at most this much.
const MAX_SPREAD: Duration = Duration::from_secs(60);
/// How much of a refusal's body goes into the message.
const MAX_BODY: usize = 1024;
/// How long a refusal's body may take; its status is known by then.
const BODY_PATIENCE: Duration = Duration::from_secs(1);
/// More headers than any server sends.
const MAX_HEADERS: usize = 128;

/// The subprotocol chosen, empty for none, and what was agreed on of permessage-deflate.
pub(crate) type Agreed = (String, Option<Agreement>);

/// A response head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    pub(crate) reason: String,
    /// In order, names as sent.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

/// Why there is no response head.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The stream ended; true when part of a head had come.
    #[error("the peer closed the connection {}", if *.0 { "in the middle of its answer" } else { "without an answer" })]
    Closed(bool),
    #[error("the answer's head is longer than limits.maxHeaderBytes ({0} bytes)")]
    TooLong(usize),
    #[error("the answer is not HTTP/1.1: {0}")]
    Malformed(String),
}

impl ResponseHead {
    /// Reads up to the end of the head; what came behind it stays in `buffer`. Interim responses
    /// (1xx, RFC 9110 section 15.2) are skipped, but for 101.
    pub(crate) async fn read<S: AsyncRead + Unpin>(
        stream: &mut S,
        buffer: &mut BytesMut,
        max_bytes: usize,
    ) -> Result<Self, HeadError> {
        let mut budget = max_bytes;
        loop {
            let head = Self::read_one(stream, buffer, &mut budget, max_bytes).await?;
            if !(100..200).contains(&head.status) || head.status == 101 {
                return Ok(head);
            }
        }
    }

    async fn read_one<S: AsyncRead + Unpin>(
        stream: &mut S,
        buffer: &mut BytesMut,
        budget: &mut usize,
        max_bytes: usize,
    ) -> Result<Self, HeadError> {
        let mut searched = 0;
        loop {
            // Something that will never be HTTP (TLS, SSH, SMTP) is told apart at once.
            let start = &buffer[..buffer.len().min(5)];
            if !b"HTTP/".starts_with(start) {
                return Err(HeadError::Malformed(format!("it begins with {:?}", String::from_utf8_lossy(start))));
            }
            if let Some(length) = end_of_head(buffer, searched) {
                if length > *budget {
                    return Err(HeadError::TooLong(max_bytes));
                }
                *budget -= length;
                let head = Self::parse(&buffer[..length])?;
                buffer.advance(length);
                return Ok(head);
            }
            if buffer.len() > *budget {
                return Err(HeadError::TooLong(max_bytes));
            }
            searched = buffer.len().saturating_sub(2);
            buffer.reserve(1024);
            if stream.read_buf(buffer).await? == 0 {
                return Err(HeadError::Closed(!buffer.is_empty()));
            }
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(bytes) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(HeadError::Malformed("it is incomplete".into())),
            Err(error) => return Err(HeadError::Malformed(error.to_string())),
        }
        if response.version != Some(1) {
            return Err(HeadError::Malformed("it is of an older version".into()));
        }
        Ok(Self {
            status: response.code.unwrap_or_default(),
            reason: response.reason.unwrap_or_default().to_owned(),
            headers: response.headers.iter().map(|it| (it.name.to_owned(), it.value.to_vec())).collect(),
        })
    }

    /// Each value of a header, without surrounding blanks; bytes that are not UTF-8 replaced.
    fn values(&self, name: &str) -> Vec<String> {
        let named = self.headers.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
        named.map(|(_, value)| String::from_utf8_lossy(value).trim().to_owned()).collect()
    }

    /// A header that may stand there once; `None` when it is absent or repeated.
    pub(crate) fn single(&self, name: &str) -> Option<String> {
        let mut values = self.values(name);
        if values.len() == 1 { values.pop() } else { None }
    }

    /// `Lifeline-Spread`: the width of the window over which the server wants reconnects spread.
    pub(crate) fn spread(&self) -> Option<Duration> {
        let value = self.single("Lifeline-Spread")?;
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return None;
        }
        Some(Duration::try_from_secs_f64(value.parse().ok()?).unwrap_or(MAX_SPREAD).min(MAX_SPREAD))
    }

    /// `Retry-After` in either of its forms (RFC 9110 section 10.2.3); zero for a date in the past.
    pub(crate) fn retry_after(&self, now: SystemTime) -> Option<Duration> {
        let value = self.single("Retry-After")?;
        if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
        }
        let date = httpdate::parse_http_date(&value).ok()?;
        Some(date.duration_since(now).unwrap_or_default())
    }

    /// Checks a 101 against RFC 6455 section 4.1 and returns the subprotocol chosen, empty for none, and what was
    /// agreed on of permessage-deflate.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn verify(
        &self,
        key: &str,
        offered: &[String],
        compression: Option<&DeflateConfig>,
    ) -> Result<Agreed, String> {
        let upgrade = self.values("Upgrade").join(", ");
        if !upgrade.eq_ignore_ascii_case("websocket") {
            return Err(wrong("Upgrade", &upgrade, "'websocket'"));
        }
        let connection = self.values("Connection").join(", ");
        if !connection.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")) {
            return Err(wrong("Connection", &connection, "'Upgrade'"));
        }
        let accept = self.values("Sec-WebSocket-Accept");
        if accept.len() != 1 || accept[0] != derive_accept_key(key.as_bytes()) {
            return Err(wrong("Sec-WebSocket-Accept", &accept.join(", "), "the answer to our key"));
        }
        let extensions = self.values("Sec-WebSocket-Extensions").join(", ");
        let agreement = match compression {
            Some(compression) => negotiate::conclude([extensions.as_bytes()], compression).map_err(|problem| {
                let offer = negotiate::offer(compression);
                wrong("Sec-WebSocket-Extensions", &extensions, &format!("an answer to '{offer}', but {problem}"))
            })?,
            None if extensions.contains(|c: char| c != ',' && !c.is_whitespace()) => {
                return Err(wrong("Sec-WebSocket-Extensions", &extensions, "none, because none was offered"));
            }
            None => None,
        };
        let mut protocols = self.values("Sec-WebSocket-Protocol");
        match (protocols.pop(), protocols.is_empty()) {
            (None, _) => Ok((String::new(), agreement)),
            (Some(one), true) if offered.contains(&one) => Ok((one, agreement)),
            (Some(last), _) => {
                protocols.push(last);
                let allowed = if offered.is_empty() {
                    "none, because none was offered".into()
                } else {
                    format!("one of those offered: {}", offered.join(", "))
                };
                Err(wrong("Sec-WebSocket-Protocol", &protocols.join(", "), &allowed))
            }
        }
    }

    /// The start of the body, for an error message: one line of printable text, possibly empty.
    pub(crate) async fn body_start<S: AsyncRead + Unpin>(&self, stream: &mut S, buffer: &mut BytesMut) -> String {
        let chunked = self.values("Transfer-Encoding").iter().any(|it| it.eq_ignore_ascii_case("chunked"));
        let announced = self.single("Content-Length").and_then(|length| length.parse::<usize>().ok());
        let wanted = if chunked { MAX_BODY } else { announced.unwrap_or(MAX_BODY).min(MAX_BODY) };
        let read = async {
            while buffer.len() < wanted && !(chunked && buffer.ends_with(b"0\r\n\r\n")) {
                buffer.reserve(256);
                if matches!(stream.read_buf(buffer).await, Ok(0) | Err(_)) {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(BODY_PATIENCE, read).await;
        let raw = &buffer[..buffer.len().min(wanted)];
        let body = if chunked { unchunk(raw) } else { raw.to_vec() };
        let text = String::from_utf8_lossy(&body);
        let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

fn wrong(name: &str, given: &str, expected: &str) -> String {
    if given.is_empty() {
        return format!("the answer has no header {name} (expected {expected})");
    }
    let mut given: String = given.chars().filter(|c| !c.is_control()).take(100).collect();
    if given.is_empty() {
        given.push(' ');
    }
    format!("the answer's header {name} is '{given}' (expected {expected})")
}

/// Length of the head with its empty line; searching begins at `from`. A bare LF ends a line too
/// (RFC 9112 section 2.2).
fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let mut position = from;
    while let Some(found) = bytes.get(position..)?.iter().position(|byte| *byte == b'\n') {
        let next = position + found + 1;
        match &bytes[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            _ => position = next,
        }
    }
    None
}

/// As much of a chunked body as `bytes` holds.
fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(httparse::Status::Complete((start, length))) = httparse::parse_chunk_size(bytes) {
        let Some(rest) = bytes.get(start..) else { break };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length == 0 {
            break;
        }
        let chunk = &rest[..length.min(rest.len())];
        body.extend_from_slice(chunk);
        bytes = rest.get(chunk.len() + 2..).unwrap_or_default();
    }
    body
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn head(headers: &[(&str, &str)]) -> ResponseHead {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        ResponseHead { status: 101, reason: String::new(), headers }
    }

    /// The example of RFC 6455 section 1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const GOOD: [(&str, &str); 3] = [
        ("upgrade", "WebSocket"),
        ("Connection", "keep-alive, upgrade"),
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ];

    fn verdict(change: &str, value: Option<&str>, offered: &[&str]) -> Result<String, String> {
        let mut headers: Vec<(&str, &str)> = GOOD.to_vec();
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case(change));
        headers.extend(value.map(|value| (change, value)));
        let offered: Vec<String> = offered.iter().map(|it| (*it).to_owned()).collect();
        head(&headers).verify(KEY, &offered, None).map(|agreed| agreed.0)
    }

    #[test]
    fn a_correct_answer_passes() {
        assert_eq!(verdict("X", None, &[]), Ok(String::new()));
        assert_eq!(verdict("X", None, &["chat"]), Ok(String::new()));
        assert_eq!(verdict("Sec-WebSocket-Protocol", Some("b"), &["a", "b"]), Ok("b".into()));
        assert_eq!(verdict("Sec-WebSocket-Extensions", Some(" , "), &[]), Ok(String::new()));
    }

    #[test]
    fn each_bad_header_is_named() {
        let cases = [
            ("Upgrade", None),
            ("Upgrade", Some("h2c")),
            ("Upgrade", Some("websocket, h2c")),
            ("Connection", None),
            ("Connection", Some("close")),
            ("Connection", Some("not-upgrade")),
            ("Sec-WebSocket-Accept", None),
            ("Sec-WebSocket-Accept", Some("")),
            ("Sec-WebSocket-Accept", Some("S3PPLMBITXAQ9KYGZZHZRBK+XOO=")),
            ("Sec-WebSocket-Extensions", Some("permessage-deflate")),
            ("Sec-WebSocket-Protocol", Some("c")),
            ("Sec-WebSocket-Protocol", Some("A")),
            ("Sec-WebSocket-Protocol", Some("a, b")),
            ("Sec-WebSocket-Protocol", Some("")),
        ];
        for (name, value) in cases {
            let error = verdict(name, value, &["a", "b"]).unwrap_err();
            assert!(error.contains(name), "{name} {value:?}: {error}");
        }
        assert!(verdict("Sec-WebSocket-Protocol", Some("a"), &[]).is_err());
    }

    #[test]
    fn a_repeated_accept_or_protocol_is_refused() {
        let mut headers = GOOD.to_vec();
        headers.push(GOOD[2]);
        assert!(head(&headers).verify(KEY, &[], None).is_err());
        let mut headers = GOOD.to_vec();
        headers.extend([("Sec-WebSocket-Protocol", "a"), ("Sec-WebSocket-Protocol", "a")]);
        assert!(head(&headers).verify(KEY, &["a".into()], None).is_err());
    }

    #[test]
    fn spread_is_a_bounded_decimal() {
        let spread = |value| head(&[("lifeline-spread", value)]).spread();
        assert_eq!(spread("0.25"), Some(Duration::from_millis(250)));
        assert_eq!(spread("2"), Some(Duration::from_secs(2)));
        assert_eq!(spread("99999999999999999999999"), Some(MAX_SPREAD));
        for bad in ["", "-1", "1e3", "inf", "NaN", "1.2.3", ".", "1s"] {
            assert_eq!(spread(bad), None, "{bad}");
        }
        assert_eq!(head(&[]).spread(), None);
    }

    #[test]
    fn retry_after_in_seconds_and_as_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let after = |value| head(&[("Retry-After", value)]).retry_after(now);
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        assert_eq!(after("99999999999999999999999"), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:07 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(after("Sunday, 06-Nov-94 08:50:07 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(after("Sun Nov  6 08:50:07 1994"), Some(Duration::from_secs(30)));
        assert_eq!(after("Sun, 06 Nov 1994 08:40:07 GMT"), Some(Duration::ZERO));
        for bad in ["", "soon", "-5", "1.5"] {
            assert_eq!(after(bad), None, "{bad}");
        }
    }

    async fn read(bytes: &[u8], max: usize) -> (Result<ResponseHead, HeadError>, Vec<u8>) {
        let mut buffer = BytesMut::new();
        let head = ResponseHead::read(&mut &*bytes, &mut buffer, max).await;
        (head, buffer.to_vec())
    }

    #[tokio::test]
    async fn what_follows_the_head_stays() {
        let (head, rest) = read(b"HTTP/1.1 101 Switching\r\nA: b\r\n\r\n\x81\x01x", 100).await;
        let head = head.unwrap();
        assert_eq!((head.status, head.reason.as_str()), (101, "Switching"));
        assert_eq!(head.single("a").as_deref(), Some("b"));
        assert_eq!(rest, b"\x81\x01x");
    }

    #[tokio::test]
    async fn a_head_may_come_byte_by_byte() {
        let (mut near, mut far) = tokio::io::duplex(1);
        let sending = tokio::io::AsyncWriteExt::write_all(&mut far, b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n");
        let mut buffer = BytesMut::new();
        let (sent, head) = tokio::join!(sending, ResponseHead::read(&mut near, &mut buffer, 100));
        sent.unwrap();
        assert_eq!(head.unwrap().single("A").as_deref(), Some("b"));
    }

    #[tokio::test]
    async fn interim_answers_are_skipped_within_the_limit() {
        let bytes = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200\r\n\r\nbody";
        let (head, rest) = read(bytes, 100).await;
        assert_eq!(head.unwrap().status, 200);
        assert_eq!(rest, b"body");
        let many = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100);
        assert!(matches!(read(&many, 1000).await.0, Err(HeadError::TooLong(1000))));
    }

    #[tokio::test]
    async fn heads_that_are_none() {
        assert!(matches!(read(b"", 100).await.0, Err(HeadError::Closed(false))));
        assert!(matches!(read(b"HTTP/1.1 101", 100).await.0, Err(HeadError::Closed(true))));
        assert!(matches!(read(b"SSH-2.0-OpenSSH_9.2\r\n", 100).await.0, Err(HeadError::Malformed(_))));
        // However much of it has come.
        assert!(matches!(read(b"\r\nHTTP/1.1 200 OK\r\n\r\n", 100).await.0, Err(HeadError::Malformed(_))));
        assert!(matches!(read(b"HTTP/1.0 200 OK\r\n\r\n", 100).await.0, Err(HeadError::Malformed(_))));
        assert!(matches!(read(b"HTTP/1.1 2xx OK\r\n\r\n", 100).await.0, Err(HeadError::Malformed(_))));
        assert!(matches!(read(b"HTTP/1.1 200 OK\r\nA b\r\n\r\n", 100).await.0, Err(HeadError::Malformed(_))));
        let endless = [b"HTTP/1.1 200 OK\r\nA: ".as_slice(), &b"x".repeat(200)].concat();
        assert!(matches!(read(&endless, 100).await.0, Err(HeadError::TooLong(100))));
    }

    #[test]
    fn the_end_of_a_head_is_found_across_reads() {
        let bytes = b"HTTP/1.1 200\r\nA: b\r\n\r\nrest";
        let length = bytes.len() - 4;
        for cut in 0..length {
            assert_eq!(end_of_head(&bytes[..cut], 0), None);
            assert_eq!(end_of_head(bytes, cut.saturating_sub(2)), Some(length), "{cut}");
        }
        assert_eq!(end_of_head(b"HTTP/1.1 200\nA: b\n\nrest", 0), Some(19));
    }

    #[tokio::test]
    async fn bodies_become_one_line() {
        let body = |headers: &'static [(&'static str, &'static str)], bytes: &'static [u8]| async move {
            head(headers).body_start(&mut &*bytes, &mut BytesMut::new()).await
        };
        assert_eq!(body(&[("Content-Length", "5")], b"a\r\n\x1bbcde").await, "a b");
        assert_eq!(body(&[], b" no\n  entry ").await, "no entry");
        assert_eq!(body(&[("Transfer-Encoding", "chunked")], b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n").await, "abcde");
        assert_eq!(body(&[("Transfer-Encoding", "chunked")], b"ffffffff\r\nabc").await, "abc");
        assert_eq!(body(&[("Transfer-Encoding", "chunked")], b"zz\r\n").await, "");
        assert_eq!(body(&[], &[b'x'; 5000]).await.len(), MAX_BODY);
    }
}
