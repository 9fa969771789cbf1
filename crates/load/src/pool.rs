//! Sockets by the thousand on one thread: epoll, one read and one write a turn, nothing allocated a message.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::ws::{Url, put_frame};

/// The nonce of RFC 6455 section 1.3, whose answer is known.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Far above what a server has to say in a 101.
const LONGEST_HEAD: usize = 16 * 1024;
/// What one read takes at most.
const CHUNK: usize = 256 * 1024;

/// permessage-deflate on a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deflate {
    /// Not offered.
    #[default]
    Off,
    /// Each message stands alone.
    Alone,
    /// Context takeover both ways.
    Kept,
}

impl Deflate {
    /// From `--compress` and `--takeover`.
    ///
    /// # Errors
    /// The second without the first.
    pub fn of(compress: bool, takeover: bool) -> Result<Self> {
        ensure!(compress || !takeover, "--takeover is for --compress");
        Ok(if takeover {
            Self::Kept
        } else if compress {
            Self::Alone
        } else {
            Self::Off
        })
    }

    fn offer(self) -> &'static str {
        match self {
            Self::Off => "",
            Self::Alone => {
                "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
            }
            Self::Kept => "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        }
    }

    /// Whether a server's answer is what was asked for.
    fn is_met(self, answer: Option<&str>) -> bool {
        let Some(answer) = answer else { return self == Self::Off };
        let mut words = answer.split(';').map(str::trim);
        words.next() == Some("permessage-deflate")
            && match self {
                Self::Off => false,
                Self::Alone => words.any(|word| word == "server_no_context_takeover"),
                // Both know the largest window only.
                Self::Kept => words.next().is_none(),
            }
    }
}

/// How links of a [`Pool`] connect.
#[derive(Clone, Debug)]
pub struct Plan {
    address: SocketAddr,
    authority: String,
    resource: String,
    /// Own addresses: 127.0.0.2 and on; 0: the kernel chooses.
    pub sources: u8,
    /// The first of them, counted from 127.0.0.2.
    pub first_source: u8,
    /// For connecting and upgrading together.
    pub timeout: Duration,
    /// A subprotocol to ask for, and to insist on.
    pub protocol: Option<&'static str>,
    /// What to offer of permessage-deflate, and to insist on.
    pub deflate: Deflate,
}

impl Plan {
    /// To `url`, whose name is looked up here.
    ///
    /// # Errors
    /// The name has no address.
    pub fn new(url: &Url, sources: u8, timeout: Duration) -> Result<Self> {
        let mut addresses = url.authority.to_socket_addrs().with_context(|| format!("name '{}'", url.authority))?;
        let address = addresses.next().with_context(|| format!("name '{}' has no address", url.authority))?;
        let (authority, resource) = (url.authority.clone(), url.resource.clone());
        Ok(Self {
            address,
            authority,
            resource,
            sources,
            first_source: 0,
            timeout,
            protocol: None,
            deflate: Deflate::Off,
        })
    }

    /// The same, with `lifeline.v1` or without a subprotocol.
    #[must_use]
    pub fn speaking(mut self, lifeline: bool) -> Self {
        self.protocol = lifeline.then_some(crate::lifeline::PROTOCOL);
        self
    }

    /// The same, with permessage-deflate or without.
    #[must_use]
    pub fn compressing(mut self, deflate: Deflate) -> Self {
        self.deflate = deflate;
        self
    }

    fn request(&self, resource: Option<&str>) -> Vec<u8> {
        let resource = resource.unwrap_or(&self.resource);
        let protocol =
            self.protocol.map_or_else(String::new, |protocol| format!("Sec-WebSocket-Protocol: {protocol}\r\n"));
        let extensions = self.deflate.offer();
        format!(
            "GET {resource} HTTP/1.1\r\nHost: {}\r\n{protocol}{extensions}Upgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n",
            self.authority
        )
        .into_bytes()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Upgrading,
    Open,
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    /// Its place in the pool; another link may take it when this one is gone.
    pub id: usize,
    /// What the caller of [`Pool::connect`] knows it by.
    pub tag: u64,
    /// When it began to connect.
    pub begun: Instant,
    stage: Stage,
    stream: TcpStream,
    epoll: Rc<OwnedFd>,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    finished: bool,
    protocol: Option<&'static str>,
    deflate: Deflate,
}

impl Link {
    /// Writes at once what the kernel takes, the rest as soon as it does.
    ///
    /// # Errors
    /// The socket's.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.written < self.output.len() {
            self.output.extend_from_slice(bytes);
            return Ok(());
        }
        let taken = try_write(&self.stream, bytes)?;
        if taken < bytes.len() {
            self.output.clear();
            self.written = 0;
            self.output.extend_from_slice(&bytes[taken..]);
            self.watch(epoll::EventFlags::IN | epoll::EventFlags::OUT)?;
        }
        Ok(())
    }

    /// Writes one frame with a fixed mask.
    ///
    /// # Errors
    /// The socket's.
    pub fn put(&mut self, opcode: u8, payload: &[u8]) -> Result<()> {
        let mut frame = Vec::with_capacity(payload.len() + 14);
        put_frame(&mut frame, true, opcode, payload, [0x37, 0xFA, 0x21, 0x3D]);
        self.write(&frame)
    }

    /// Ends the link when the handler returns.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// What was agreed on, once open.
    pub fn deflate(&self) -> Deflate {
        self.deflate
    }

    /// Open, that is upgraded?
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Bytes that the kernel has not taken yet.
    pub fn queued(&self) -> usize {
        self.output.len() - self.written
    }

    fn flush(&mut self) -> Result<()> {
        if self.written < self.output.len() {
            self.written += try_write(&self.stream, &self.output[self.written..])?;
        }
        if self.written == self.output.len() {
            self.output = Vec::new();
            self.written = 0;
            self.watch(epoll::EventFlags::IN)?;
        }
        Ok(())
    }

    fn watch(&self, flags: epoll::EventFlags) -> Result<()> {
        let data = epoll::EventData::new_u64(self.id as u64);
        Ok(epoll::modify(&*self.epoll, &self.stream, data, flags)?)
    }
}

fn try_write(mut stream: &TcpStream, bytes: &[u8]) -> Result<usize> {
    match stream.write(bytes) {
        Ok(taken) => Ok(taken),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        Err(error) => Err(error).context("write"),
    }
}

/// What is done with links; other links are out of reach meanwhile.
pub trait Handler {
    /// The upgrade is done.
    ///
    /// # Errors
    /// Ends the link.
    fn opened(&mut self, link: &mut Link) -> Result<()>;

    /// Bytes came; returns how many are done with. The rest comes again, with more.
    ///
    /// # Errors
    /// Ends the link.
    fn received(&mut self, link: &mut Link, bytes: &[u8]) -> Result<usize>;

    /// The link is gone; `None`: [`Link::finish`].
    fn lost(&mut self, link: &Link, why: Option<anyhow::Error>);
}

/// The links of one thread.
pub struct Pool {
    plan: Plan,
    epoll: Rc<OwnedFd>,
    events: Vec<epoll::Event>,
    links: Vec<Option<Box<Link>>>,
    free: Vec<usize>,
    chunk: Vec<u8>,
    opening: usize,
    made: usize,
    swept: Instant,
}

impl Pool {
    /// Without links yet.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(plan: Plan) -> Result<Self> {
        Ok(Self {
            plan,
            epoll: Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?),
            events: Vec::with_capacity(1024),
            links: Vec::new(),
            free: Vec::new(),
            chunk: vec![0; CHUNK],
            opening: 0,
            made: 0,
            swept: Instant::now(),
        })
    }

    /// The subprotocol of links made from now on.
    pub fn speak(&mut self, protocol: Option<&'static str>) {
        self.plan.protocol = protocol;
    }

    /// What links made from now on offer of permessage-deflate.
    pub fn compress(&mut self, deflate: Deflate) {
        self.plan.deflate = deflate;
    }

    /// Links that are not upgraded yet.
    pub fn opening(&self) -> usize {
        self.opening
    }

    /// All links.
    pub fn len(&self) -> usize {
        self.links.len() - self.free.len()
    }

    /// Without links?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Places of links, taken or not.
    pub fn places(&self) -> usize {
        self.links.len()
    }

    /// The link at a place.
    pub fn link(&mut self, id: usize) -> Option<&mut Link> {
        self.links.get_mut(id)?.as_deref_mut()
    }

    /// Starts one more link; `resource` in place of the plan's.
    ///
    /// # Errors
    /// No socket or no port is left, or nobody listens and the kernel says so at once.
    pub fn connect(&mut self, tag: u64, resource: Option<&str>) -> Result<usize> {
        let domain = Domain::for_address(self.plan.address);
        let socket =
            Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP)).context("socket")?;
        if self.plan.sources > 0 {
            let number = self.made % usize::from(self.plan.sources);
            let last = 2_u8.saturating_add(self.plan.first_source).saturating_add(number as u8);
            let source = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
            socket.bind(&source.into()).with_context(|| format!("bind to {source}"))?;
        }
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&SockAddr::from(self.plan.address)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error).context("connect"),
        }
        self.made += 1;
        let id = self.free.pop().unwrap_or_else(|| {
            self.links.push(None);
            self.links.len() - 1
        });
        let stream = TcpStream::from(socket);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT;
        epoll::add(&*self.epoll, &stream, epoll::EventData::new_u64(id as u64), flags).context("epoll")?;
        self.links[id] = Some(Box::new(Link {
            id,
            tag,
            begun: Instant::now(),
            stage: Stage::Connecting,
            stream,
            epoll: Rc::clone(&self.epoll),
            input: Vec::new(),
            output: self.plan.request(resource),
            written: 0,
            finished: false,
            protocol: self.plan.protocol,
            deflate: self.plan.deflate,
        }));
        self.opening += 1;
        Ok(id)
    }

    /// Drops a link without a word; the kernel says FIN, or RST where something is unread.
    pub fn drop_link(&mut self, id: usize) {
        if let Some(link) = self.links.get_mut(id).and_then(Option::take) {
            self.opening -= usize::from(!link.is_open());
            self.free.push(id);
        }
    }

    /// Drops all links with RST, which leaves no port in TIME-WAIT.
    pub fn reset_all(&mut self) {
        for id in 0..self.links.len() {
            if let Some(link) = self.link(id) {
                // Without it the port is in use for a minute more: worse, not wrong.
                let _ = socket2::SockRef::from(&link.stream).set_linger(Some(Duration::ZERO));
            }
            self.drop_link(id);
        }
    }

    /// Waits for what happens, for up to `wait`, and hands it to `handler`.
    ///
    /// # Errors
    /// Only epoll's own.
    pub fn turn(&mut self, wait: Duration, handler: &mut impl Handler) -> Result<()> {
        let wait = Timespec::try_from(wait).context("wait")?;
        self.events.clear();
        match epoll::wait(&*self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll"),
        }
        for at in 0..self.events.len() {
            let event = self.events[at];
            self.serve(event.data.u64() as usize, event.flags, handler);
        }
        self.sweep(handler);
        Ok(())
    }

    fn serve(&mut self, id: usize, flags: epoll::EventFlags, handler: &mut impl Handler) {
        let Some(link) = self.links.get_mut(id).and_then(Option::as_deref_mut) else { return };
        let was_open = link.is_open();
        let outcome = advance(link, flags, &mut self.chunk, handler);
        self.opening -= usize::from(!was_open && link.is_open());
        let why = match outcome {
            Ok(()) if !link.finished => return,
            Ok(()) => None,
            Err(_) if link.finished => None,
            Err(error) => Some(error),
        };
        self.lose(id, why, handler);
    }

    fn lose(&mut self, id: usize, why: Option<anyhow::Error>, handler: &mut impl Handler) {
        if let Some(link) = self.links[id].take() {
            self.opening -= usize::from(!link.is_open());
            self.free.push(id);
            handler.lost(&link, why);
        }
    }

    /// Gives up links that do not open in time.
    fn sweep(&mut self, handler: &mut impl Handler) {
        if self.opening == 0 || self.swept.elapsed() < Duration::from_millis(250) {
            return;
        }
        self.swept = Instant::now();
        let late = |link: &Link| !link.is_open() && link.begun.elapsed() > self.plan.timeout;
        let late: Vec<_> = self.links.iter().flatten().filter(|link| late(link)).map(|link| link.id).collect();
        for id in late {
            self.lose(id, Some(anyhow!("handshake timed out")), handler);
        }
    }
}

fn advance(link: &mut Link, flags: epoll::EventFlags, chunk: &mut [u8], handler: &mut impl Handler) -> Result<()> {
    if link.stage == Stage::Connecting {
        if let Some(error) = link.stream.take_error()? {
            return Err(error).context("connect");
        }
        link.stage = Stage::Upgrading;
    }
    if flags.contains(epoll::EventFlags::OUT) {
        link.flush()?;
    }
    if !flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
        return Ok(());
    }
    let length = match (&link.stream).read(chunk) {
        Ok(0) => return Err(anyhow!("end of stream")),
        Ok(length) => length,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
        Err(error) => return Err(error).context("read"),
    };
    if link.stage == Stage::Open && link.input.is_empty() {
        let done = handler.received(link, &chunk[..length])?;
        link.input.extend_from_slice(&chunk[done..length]);
        return Ok(());
    }
    let mut input = std::mem::take(&mut link.input);
    input.extend_from_slice(&chunk[..length]);
    let mut done = 0;
    if link.stage == Stage::Upgrading
        && let Some(head) = check_head(&input, link.protocol, link.deflate)?
    {
        link.stage = Stage::Open;
        done = head;
        handler.opened(link)?;
    }
    if link.stage == Stage::Open && done < input.len() {
        done += handler.received(link, &input[done..])?;
    }
    if done == input.len() && input.capacity() <= 4096 {
        // An idle link keeps no buffer.
        return Ok(());
    }
    input.drain(..done);
    link.input = input;
    Ok(())
}

/// Length of the response's head, once whole.
fn check_head(received: &[u8], protocol: Option<&str>, deflate: Deflate) -> Result<Option<usize>> {
    let Some(at) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        ensure!(received.len() < LONGEST_HEAD, "handshake: head too long");
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&received[..at]);
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 101 "), "refused: {status}");
    let fields: Vec<_> = lines.filter_map(|line| line.split_once(':')).collect();
    let field =
        |wanted: &str| fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim());
    ensure!(field("sec-websocket-accept") == Some(ACCEPT), "wrong Sec-WebSocket-Accept");
    ensure!(field("sec-websocket-protocol") == protocol, "wrong Sec-WebSocket-Protocol");
    let extensions = field("sec-websocket-extensions");
    ensure!(deflate.is_met(extensions), "wrong Sec-WebSocket-Extensions: {extensions:?}");
    Ok(Some(at + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_checked() {
        let good = format!("HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: {ACCEPT}\r\n\r\nrest");
        assert_eq!(check_head(good.as_bytes(), None, Deflate::Off).unwrap(), Some(good.len() - 4));
        assert_eq!(check_head(b"HTTP/1.1 101 S", None, Deflate::Off).unwrap(), None);
        assert!(check_head(b"HTTP/1.1 503 Full\r\n\r\n", None, Deflate::Off).unwrap_err().to_string().contains("503"));
        assert!(check_head(b"HTTP/1.1 101 S\r\nSec-WebSocket-Accept: x\r\n\r\n", None, Deflate::Off).is_err());
        assert!(check_head(good.as_bytes(), Some("chat"), Deflate::Off).is_err());
        assert!(check_head(good.as_bytes(), None, Deflate::Alone).is_err());
    }

    #[test]
    fn extensions_are_checked() {
        use Deflate::{Alone, Kept, Off};
        let none_kept = "permessage-deflate; client_no_context_takeover; server_no_context_takeover";
        for (answer, met) in [
            (None, [true, false, false]),
            (Some("permessage-deflate"), [false, false, true]),
            (Some(none_kept), [false, true, false]),
            (Some("permessage-deflate; server_max_window_bits=9"), [false, false, false]),
            (Some("x-other"), [false, false, false]),
        ] {
            assert_eq!([Off, Alone, Kept].map(|deflate| deflate.is_met(answer)), met, "{answer:?}");
        }
        assert!(Deflate::of(false, true).is_err());
        assert_eq!(Deflate::of(true, true).unwrap(), Kept);
    }
}
