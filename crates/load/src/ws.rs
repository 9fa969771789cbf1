//! The client's side of RFC 6455, by hand: handshake, frames written, frames checked.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

/// Opcodes of RFC 6455 section 5.2.
pub mod opcode {
    /// Goes on with a fragmented message.
    pub const CONTINUATION: u8 = 0x0;
    /// Text message.
    pub const TEXT: u8 = 0x1;
    /// Binary message.
    pub const BINARY: u8 = 0x2;
    /// Close.
    pub const CLOSE: u8 = 0x8;
    /// Ping.
    pub const PING: u8 = 0x9;
    /// Pong.
    pub const PONG: u8 = 0xA;
}

/// `ws://host:port/resource`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `host:port`, as in the `Host` header.
    pub authority: String,
    /// Path and query, at least `/`.
    pub resource: String,
}

impl FromStr for Url {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let rest = text.strip_prefix("ws://").ok_or_else(|| BadUrl(text.to_owned()))?;
        let (authority, resource) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        if !authority.contains(':') {
            return Err(BadUrl(text.to_owned()));
        }
        Ok(Self { authority: authority.to_owned(), resource: resource.to_owned() })
    }
}

/// What is not a [`Url`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadUrl(String);

impl std::fmt::Display for BadUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "'{}' is not of the form ws://host:port/path", self.0)
    }
}

impl std::error::Error for BadUrl {}

/// How a peer connects.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Where to.
    pub url: Url,
    /// Own address, for more connections than one address has ports.
    pub source: Option<Ipv4Addr>,
    /// Receive buffer of the kernel, in bytes.
    pub receive_buffer: Option<u32>,
    /// For connecting and handshake together.
    pub timeout: Duration,
}

impl Connect {
    /// With the kernel's defaults and ten seconds.
    pub fn new(url: Url) -> Self {
        Self { url, source: None, receive_buffer: None, timeout: Duration::from_secs(10) }
    }

    /// Connects and upgrades.
    ///
    /// # Errors
    /// The name of the step that failed, or the HTTP status line of a refusal.
    pub async fn open(&self) -> Result<Peer> {
        timeout(self.timeout, self.upgrade()).await.map_err(|_| anyhow!("handshake timed out"))?
    }

    async fn upgrade(&self) -> Result<Peer> {
        // The nonce of RFC 6455 section 1.3, whose answer is known.
        const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
        const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        /// Far above what a server has to say in a 101.
        const LONGEST_HEAD: usize = 16 * 1024;

        let address = lookup_host(&self.url.authority).await.context("name")?.next().context("name without address")?;
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(source) = self.source {
            socket.bind(SocketAddr::from((source, 0))).context("bind")?;
        }
        let mut stream = socket.connect(address).await.context("connect")?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n",
            self.url.resource, self.url.authority
        );
        stream.write_all(request.as_bytes()).await.context("handshake")?;

        let mut received = Vec::new();
        let end = loop {
            if let Some(at) = received.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(received.len() < LONGEST_HEAD, "handshake: head too long");
            let length = stream.read_buf(&mut received).await.context("handshake")?;
            ensure!(length > 0, "handshake: end of stream");
        };
        let head = String::from_utf8_lossy(&received[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next().unwrap_or_default();
        ensure!(status.starts_with("HTTP/1.1 101 "), "refused: {status}");
        let accept = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-accept"));
        ensure!(accept.is_some_and(|(_, value)| value.trim() == ACCEPT), "wrong Sec-WebSocket-Accept");
        Ok(Peer { stream, decoder: Decoder { buffer: received.split_off(end) }, output: Vec::new(), mask: 0 })
    }
}

/// One open connection. Nothing is answered by itself.
#[derive(Debug)]
pub struct Peer {
    /// Its socket.
    pub stream: TcpStream,
    decoder: Decoder,
    output: Vec<u8>,
    mask: u32,
}

impl Peer {
    /// Queues a frame; [`Peer::flush`] sends it.
    pub fn put(&mut self, fin: bool, opcode: u8, payload: &[u8]) {
        // Unpredictable to intermediaries is the server's concern, not this tool's: different suffices.
        self.mask = self.mask.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        put_frame(&mut self.output, fin, opcode, payload, self.mask.to_be_bytes());
    }

    /// Queues a close frame.
    pub fn put_close(&mut self, code: u16) {
        self.put(true, opcode::CLOSE, &code.to_be_bytes());
    }

    /// Bytes queued and not yet taken by the kernel.
    pub fn queued(&self) -> usize {
        self.output.len()
    }

    /// Gives the kernel what it takes now; returns how much.
    ///
    /// # Errors
    /// The socket's.
    pub fn flush(&mut self) -> io::Result<usize> {
        match self.stream.try_write(&self.output) {
            Ok(length) => {
                self.output.drain(..length);
                Ok(length)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Takes what has arrived; returns how much, `Some(0)` at the end of the stream.
    ///
    /// # Errors
    /// The socket's.
    pub fn receive(&mut self, chunk: &mut [u8]) -> io::Result<Option<usize>> {
        match self.stream.try_read(chunk) {
            Ok(length) => {
                self.decoder.buffer.extend_from_slice(&chunk[..length]);
                Ok(Some(length))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The next whole frame that has arrived.
    ///
    /// # Errors
    /// The server broke RFC 6455 section 5.
    pub fn frame(&mut self) -> Result<Option<Frame>> {
        self.decoder.next()
    }

    /// Writes what is queued and waits for the next frame; `None` at the end of the stream.
    ///
    /// # Errors
    /// The socket's, or a frame that breaks RFC 6455.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        let mut chunk = [0; 8 * 1024];
        loop {
            if let Some(frame) = self.frame()? {
                return Ok(Some(frame));
            }
            let queued = self.queued() > 0;
            tokio::select! {
                ready = self.stream.readable() => {
                    ready?;
                    if self.receive(&mut chunk)? == Some(0) {
                        return Ok(None);
                    }
                }
                ready = self.stream.writable(), if queued => {
                    ready?;
                    self.flush()?;
                }
            }
        }
    }
}

/// Writes one masked frame (RFC 6455 section 5.2).
pub fn put_frame(out: &mut Vec<u8>, fin: bool, opcode: u8, payload: &[u8], mask: [u8; 4]) {
    out.push(if fin { 0x80 } else { 0 } | opcode);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xFFFF => {
            out.push(0x80 | 0x7E);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 0x7F);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// One frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Last of its message.
    pub fin: bool,
    /// See [`opcode`].
    pub opcode: u8,
    /// Unmasked, because a server does not mask.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Code and reason of a close frame; 1005 when it has none.
    pub fn close(&self) -> (u16, String) {
        match self.payload[..] {
            [high, low, ref reason @ ..] => {
                (u16::from_be_bytes([high, low]), String::from_utf8_lossy(reason).into_owned())
            }
            _ => (1005, String::new()),
        }
    }
}

#[derive(Debug, Default)]
struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    fn next(&mut self) -> Result<Option<Frame>> {
        let &[first, second, ..] = &self.buffer[..] else { return Ok(None) };
        ensure!(first & 0x70 == 0, "protocol: reserved bits set in {first:#04x}");
        ensure!(second & 0x80 == 0, "protocol: masked frame from the server");
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0F);
        let (head, length) = match second & 0x7F {
            126 => match self.buffer.get(2..4) {
                Some(&[a, b]) => (4, u64::from(u16::from_be_bytes([a, b]))),
                _ => return Ok(None),
            },
            127 => match self.buffer.get(2..10).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()) {
                Some(bytes) => (10, u64::from_be_bytes(bytes)),
                None => return Ok(None),
            },
            length => (2, u64::from(length)),
        };
        match opcode {
            opcode::CONTINUATION | opcode::TEXT | opcode::BINARY => {
                let shortest = if length < 126 {
                    2
                } else if length < 0x1_0000 {
                    4
                } else {
                    10
                };
                ensure!(head == shortest, "protocol: length {length} is not written in its shortest form");
            }
            opcode::CLOSE | opcode::PING | opcode::PONG => {
                ensure!(fin && length < 126, "protocol: control frame fragmented or too long");
            }
            _ => bail!("protocol: unknown opcode {opcode:#x}"),
        }
        let end = head + usize::try_from(length).context("protocol: length")?;
        if self.buffer.len() < end {
            return Ok(None);
        }
        let payload = self.buffer[head..end].to_vec();
        self.buffer.drain(..end);
        Ok(Some(Frame { fin, opcode, payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<Option<Frame>> {
        Decoder { buffer: bytes.to_vec() }.next()
    }

    #[test]
    fn writes_the_examples_of_the_rfc() {
        // RFC 6455 section 5.7.
        let mut out = Vec::new();
        put_frame(&mut out, true, opcode::TEXT, b"Hello", [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(out, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    #[test]
    fn reads_each_length() {
        for length in [0, 1, 125, 126, 127, 0xFFFF, 0x1_0000] {
            let payload = vec![7; length];
            let mut bytes = Vec::new();
            put_frame(&mut bytes, false, opcode::BINARY, &payload, [0; 4]);
            bytes[1] &= 0x7F;
            let head = bytes.len() - length - 4;
            bytes.drain(head..head + 4);
            for cut in [0, 1, head - 1, bytes.len() - 1] {
                assert_eq!(decode(&bytes[..cut]).unwrap(), None, "{length} cut at {cut}");
            }
            assert_eq!(decode(&bytes).unwrap(), Some(Frame { fin: false, opcode: 2, payload }));
        }
    }

    #[test]
    fn refuses_what_the_rfc_forbids() {
        for (bytes, what) in [
            (&[0xC1, 0][..], "reserved"),
            (&[0x81, 0x80], "masked"),
            (&[0x83, 0], "opcode"),
            (&[0x09, 0], "control"),
            (&[0x89, 126, 0, 126], "control"),
            (&[0x81, 126, 0, 125], "shortest"),
            (&[0x81, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], "shortest"),
        ] {
            let error = decode(bytes).unwrap_err().to_string();
            assert!(error.contains(what), "{bytes:x?}: {error}");
        }
    }

    #[test]
    fn reads_urls() {
        let url: Url = "ws://127.0.0.1:80/a?b".parse().unwrap();
        assert_eq!((url.authority.as_str(), url.resource.as_str()), ("127.0.0.1:80", "/a?b"));
        assert_eq!("ws://h:1".parse::<Url>().unwrap().resource, "/");
        assert!("http://h:1/".parse::<Url>().unwrap_err().to_string().contains("http://h:1/"));
        assert!("ws://h/".parse::<Url>().is_err());
    }
}
