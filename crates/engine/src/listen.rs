//! Listening sockets: binding them all at start, accepting without ever spinning.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::activation::{Bound, Claim};
use crate::config::{ListenAddress, ServerConfig};
use crate::http::Response;
use crate::stream::Stream;

/// Why a server cannot listen. Names the URL and the cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot listen on {url}: {cause}")]
pub struct ListenError {
    pub url: String,
    pub cause: String,
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerAddr {
    Tcp(SocketAddr),
    /// Told by a proxy, which named no port.
    Address(IpAddr),
    /// A Unix socket has no address worth showing.
    Unix,
}

impl PeerAddr {
    /// The address for limits and trust; none on a Unix socket.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Address(address) => Some(address.to_canonical()),
            Self::Unix => None,
        }
    }

    /// Bytes that [`PeerAddr::write_to`] adds at most, but for IPv6.
    pub const LONGEST: usize = "255.255.255.255:65535".len();

    /// Adds what [`fmt::Display`] shows.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        use std::io::Write;
        let ip = match self {
            Self::Tcp(address) => Some((address.ip().to_canonical(), Some(address.port()))),
            Self::Address(address) => Some((address.to_canonical(), None)),
            Self::Unix => None,
        };
        if let Some((IpAddr::V4(ip), port)) = ip {
            // Without fmt, which takes longer than all the rest of a handshake's text.
            for (index, part) in ip.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                put_number(out, u32::from(part));
            }
            if let Some(port) = port {
                out.push(b':');
                put_number(out, u32::from(port));
            }
        } else {
            // A vector takes everything.
            let _ = write!(out, "{self}");
        }
    }
}

/// Adds a number in decimal.
pub fn put_number(out: &mut impl BufMut, number: u32) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    let mut left = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}

/// `203.0.113.7:4711`, `[::1]:4711`, `203.0.113.7` (no port known) or `unix:`.
impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f),
            Self::Address(address) => address.to_canonical().fmt(f),
            Self::Unix => f.write_str("unix:"),
        }
    }
}

/// A bound socket, not yet registered with any runtime. Connections wait in its backlog until
/// [`Listener::into_acceptor`] is called and the acceptor polled. Dropping it unbinds; a Unix
/// socket's file is then removed.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    url: Arc<str>,
    tls: bool,
    unix: bool,
    file: Option<Arc<UnixFile>>,
    /// Of a socket that was passed.
    claim: Option<Arc<Claim>>,
}

impl Listener {
    /// The bound address as a URL, port 0 resolved: `ws://127.0.0.1:8080`, `wss://[::1]:443`,
    /// `unix:///run/app.sock`. A host name is kept as given.
    #[must_use]
    pub fn url(&self) -> &Arc<str> {
        &self.url
    }

    /// True for `wss://`.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// A second handle on the same socket, so that several threads accept from one backlog.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            url: self.url.clone(),
            tls: self.tls,
            unix: self.unix,
            file: self.file.clone(),
            claim: self.claim.clone(),
        })
    }

    /// Registers with the runtime of the current thread, which has to have I/O enabled.
    ///
    /// # Errors
    /// The runtime cannot watch one more descriptor.
    pub fn into_acceptor(self) -> io::Result<Acceptor> {
        // Its safe constructor is deprecated for types whose `as_raw_fd` could change its answer. An
        // `OwnedFd` cannot, and there is no unsafe code in this crate.
        #[allow(deprecated)]
        let socket = AsyncFd::with_interest(self.socket, Interest::READABLE)?;
        Ok(Acceptor {
            socket,
            url: self.url,
            tls: self.tls,
            unix: self.unix,
            file: self.file,
            claim: self.claim,
            spare: spare(),
            exhausted: None,
        })
    }
}

/// Binds every address of `config.listen`, in order, all or none.
///
/// A host name binds its first address that can be bound. `[::]` takes IPv4 too, unless the same
/// server also listens on an IPv4 address of that port; then each takes its own. A Unix socket's
/// file that nobody answers on is replaced. What a service manager has passed (`config.inherited`) is taken
/// instead of binding that address anew.
///
/// # Errors
/// [`ListenError`] for the first address that cannot be bound. May block on the resolver for names.
pub fn bind_all(config: &ServerConfig) -> Result<Vec<Listener>, ListenError> {
    let mut listeners = Vec::with_capacity(config.listen.len());
    // Addresses first: a passed socket that one of them names is not for those that take what is left.
    let (passed, bound): (Vec<_>, Vec<_>) = config
        .listen
        .iter()
        .enumerate()
        .partition(|(_, address)| matches!(address, ListenAddress::Passed { name: None, .. }));
    for (place, address) in bound.into_iter().chain(passed) {
        listeners.extend(bind(address, config)?.into_iter().map(|listener| (place, listener)));
    }
    listeners.sort_by_key(|(place, _)| *place);
    Ok(listeners.into_iter().map(|(_, listener)| listener).collect())
}

/// What [`Acceptor::accept`] came back with.
#[derive(Debug)]
pub enum Accepted {
    Connection {
        socket: AcceptedSocket,
        peer: PeerAddr,
    },
    /// Accepting is impaired (out of file descriptors, out of memory). Told once per episode, for
    /// the log; call `accept` again, it paces itself.
    Trouble(String),
}

/// An accepted socket, not yet registered with any runtime: move it to its thread, then
/// [`AcceptedSocket::into_stream`].
#[derive(Debug)]
pub enum AcceptedSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl AcceptedSocket {
    /// Registers with the runtime of the current thread.
    ///
    /// # Errors
    /// The runtime cannot watch one more descriptor.
    pub fn into_stream(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(socket) => Stream::Tcp(tokio::net::TcpStream::from_std(socket)?.into()),
            Self::Unix(socket) => Stream::Unix(tokio::net::UnixStream::from_std(socket)?.into()),
        })
    }
}

/// A listener on a runtime.
#[derive(Debug)]
pub struct Acceptor {
    socket: AsyncFd<OwnedFd>,
    url: Arc<str>,
    tls: bool,
    unix: bool,
    #[expect(dead_code, reason = "removes the socket's file when dropped")]
    file: Option<Arc<UnixFile>>,
    #[expect(dead_code, reason = "lets another server have the socket when dropped")]
    claim: Option<Arc<Claim>>,
    /// Given up for a moment when descriptors run out, to take a waiting peer and turn it away.
    spare: Option<File>,
    exhausted: Option<Exhausted>,
}

impl Acceptor {
    /// See [`Listener::url`].
    #[must_use]
    pub fn url(&self) -> &Arc<str> {
        &self.url
    }

    /// See [`Listener::is_tls`].
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Waits for the next connection. Cancel-safe. When the process has no descriptor left, waiting
    /// peers are turned away (503) at a bounded rate, so that they can go elsewhere.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            if let Some(exhausted) = &self.exhausted {
                tokio::time::sleep_until(exhausted.until).await;
            }
            let Ok(mut ready) = self.socket.readable().await else {
                // The runtime ends; nothing will come any more.
                std::future::pending::<()>().await;
                continue;
            };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let taken = ready.try_io(|socket| Ok(rustix::net::acceptfrom_with(socket, flags)?));
            match taken {
                Ok(Ok((socket, address))) => {
                    self.exhausted = None;
                    if self.spare.is_none() {
                        self.spare = spare();
                    }
                    if self.unix {
                        return Accepted::Connection {
                            socket: AcceptedSocket::Unix(socket.into()),
                            peer: PeerAddr::Unix,
                        };
                    }
                    let Some(Ok(address)) = address.map(SocketAddr::try_from) else { continue };
                    let socket = AcceptedSocket::Tcp(socket.into());
                    return Accepted::Connection { socket, peer: PeerAddr::Tcp(address) };
                }
                Ok(Err(error)) if is_exhaustion(&error) => {
                    let first = self.exhausted.is_none();
                    let pause = self.exhausted.as_ref().map_or(FIRST_PAUSE, |last| (last.pause * 2).min(LAST_PAUSE));
                    self.shed(flags);
                    self.exhausted = Some(Exhausted { pause, until: Instant::now() + pause });
                    if first {
                        return Accepted::Trouble(format!("cannot accept on {}: {}", self.url, cause(&error)));
                    }
                }
                // A peer that left while it waited, or a network error of its connection that accept(2)
                // hands on: the next one may be fine.
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// Takes up to `SHED` waiting peers on the spare descriptor and turns them away.
    fn shed(&mut self, flags: SocketFlags) {
        for _ in 0..SHED {
            if self.spare.take().is_none() {
                break;
            }
            let Ok(socket) = rustix::net::accept_with(self.socket.get_ref(), flags) else { break };
            if !self.tls {
                let answer = Response::text(503, "too many connections").with("Retry-After", "1").encode(true);
                // The socket is new, so its buffer has room; and if not, the close says enough.
                let _ = rustix::net::send(&socket, &answer, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            }
            drop(socket);
            self.spare = spare();
        }
        if self.spare.is_none() {
            self.spare = spare();
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(500);
/// Peers turned away between two pauses.
const SHED: usize = 64;

#[derive(Debug)]
struct Exhausted {
    pause: Duration,
    until: Instant,
}

/// The file of a bound Unix socket; removed when the last handle goes, in the process that bound it.
#[derive(Debug)]
struct UnixFile {
    path: PathBuf,
    identity: (u64, u64),
    process: u32,
}

impl Drop for UnixFile {
    fn drop(&mut self) {
        // Another server may have taken the path over meanwhile.
        if self.process == std::process::id() && identity(&self.path) == Some(self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn bind(address: &ListenAddress, config: &ServerConfig) -> Result<Vec<Listener>, ListenError> {
    let fail = |cause: String| ListenError { url: url(address, None), cause };
    // Who passed sockets has bound that address, or one that was mistaken for it.
    let taken = |error: io::Error| match config.inherited.told() {
        told if error.kind() == io::ErrorKind::AddrInUse && !told.is_empty() => format!("{} ({told})", cause(&error)),
        _ => cause(&error),
    };
    let needs_tls = || fail("wss:// needs a certificate (tls.cert and tls.key)".into());
    let backlog = i32::try_from(config.backlog).unwrap_or(i32::MAX);
    match address {
        ListenAddress::Passed { tls: true, .. } if config.tls.is_none() => Err(needs_tls()),
        ListenAddress::Passed { name, tls } => {
            let claims = config.inherited.take_named(name.as_deref()).map_err(fail)?;
            claims.into_iter().map(|claim| inherit(claim, *tls).map_err(|error| fail(cause(&error)))).collect()
        }
        ListenAddress::Unix { path } => {
            if let Some(claim) = config.inherited.take_unix(path) {
                return Ok(vec![inherit(claim, false).map_err(|error| fail(cause(&error)))?]);
            }
            let socket = bind_unix(path, backlog).map_err(fail)?;
            let file = identity(path)
                .map(|identity| Arc::new(UnixFile { path: path.clone(), identity, process: std::process::id() }));
            let url = url(address, None).into();
            Ok(vec![Listener { socket: socket.into(), url, tls: false, unix: true, file, claim: None }])
        }
        ListenAddress::Tcp { host, port, tls } => {
            if *tls && config.tls.is_none() {
                return Err(needs_tls());
            }
            let candidates: Vec<SocketAddr> =
                (host.as_str(), *port).to_socket_addrs().map_err(|error| fail(cause(&error)))?.collect();
            if let Some(claim) = candidates.iter().find_map(|candidate| config.inherited.take_tcp(*candidate)) {
                return Ok(vec![inherit(claim, *tls).map_err(|error| fail(cause(&error)))?]);
            }
            let mut last = None;
            for candidate in candidates {
                match bind_tcp(candidate, backlog, config) {
                    Ok((socket, port)) => {
                        let url = url(address, Some(port)).into();
                        let (socket, tls) = (socket.into(), *tls);
                        return Ok(vec![Listener { socket, url, tls, unix: false, file: None, claim: None }]);
                    }
                    Err(error) => last = last.or(Some(error)),
                }
            }
            Err(fail(last.map_or_else(|| "the name has no address".to_owned(), taken)))
        }
    }
}

/// Listens on what was passed. The manager has set its backlog, and removes its file.
fn inherit(claim: Claim, tls: bool) -> io::Result<Listener> {
    let unix = matches!(claim.bound(), Bound::Unix(_));
    // A certificate is for TCP, as with `unix://`.
    let tls = tls && !unix;
    let (socket, url) = (claim.socket()?, claim.bound().url(tls).into());
    Ok(Listener { socket, url, tls, unix, file: None, claim: Some(Arc::new(claim)) })
}

fn bind_tcp(address: SocketAddr, backlog: i32, config: &ServerConfig) -> io::Result<(Socket, u16)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    if config.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        let own_ipv4 = |other: &ListenAddress| match other {
            ListenAddress::Tcp { host, port, .. } => *port == address.port() && host.parse::<Ipv4Addr>().is_ok(),
            ListenAddress::Unix { .. } | ListenAddress::Passed { .. } => false,
        };
        let wildcard = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        socket.set_only_v6(!wildcard || config.listen.iter().any(own_ipv4))?;
    }
    // Handed on to each socket that is accepted (tcp(7)).
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    let port = socket.local_addr()?.as_socket().map_or(address.port(), |bound| bound.port());
    Ok((socket, port))
}

fn bind_unix(path: &Path, backlog: i32) -> Result<Socket, String> {
    let address = SockAddr::unix(path).map_err(|error| cause(&error))?;
    let open = || Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None);
    let socket = open().map_err(|error| cause(&error))?;
    if let Err(error) = socket.bind(&address) {
        if error.kind() != io::ErrorKind::AddrInUse {
            return Err(cause(&error));
        }
        if !std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
            return Err("the file exists and is no socket".into());
        }
        // Only a refusal says that nobody is there: a full backlog answers EAGAIN.
        match open().and_then(|probe| probe.connect(&address)) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => return Err("another process listens on it".into()),
        }
        std::fs::remove_file(path).map_err(|error| format!("cannot remove the stale socket: {}", cause(&error)))?;
        socket.bind(&address).map_err(|error| cause(&error))?;
    }
    socket.listen(backlog).map_err(|error| cause(&error))?;
    Ok(socket)
}

fn url(address: &ListenAddress, bound: Option<u16>) -> String {
    match address {
        ListenAddress::Unix { path } => format!("unix://{}", path.display()),
        ListenAddress::Passed { name, tls } => {
            format!("systemd{}:{}", if *tls { "+wss" } else { "" }, name.as_deref().unwrap_or_default())
        }
        ListenAddress::Tcp { host, port, tls } => {
            let scheme = if *tls { "wss" } else { "ws" };
            let port = bound.unwrap_or(*port);
            if host.contains(':') { format!("{scheme}://[{host}]:{port}") } else { format!("{scheme}://{host}:{port}") }
        }
    }
}

/// The system's words without the number behind them.
pub(crate) fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(words, _)| words.to_owned())
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

fn is_exhaustion(error: &io::Error) -> bool {
    Errno::from_io_error(error)
        .is_some_and(|errno| [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&errno))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn config(listen: Vec<ListenAddress>) -> ServerConfig {
        ServerConfig { listen, ..ServerConfig::default() }
    }

    fn tcp(host: &str, port: u16) -> ListenAddress {
        ListenAddress::Tcp { host: host.into(), port, tls: false }
    }

    fn port(listener: &Listener) -> u16 {
        listener.url().rsplit(':').next().unwrap().parse().unwrap()
    }

    /// A path of our own below the system's directory for such, gone with its guard.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lifeline-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    async fn next(acceptor: &mut Acceptor) -> (Stream, PeerAddr) {
        match acceptor.accept().await {
            Accepted::Connection { socket, peer } => (socket.into_stream().unwrap(), peer),
            Accepted::Trouble(what) => panic!("{what}"),
        }
    }

    #[tokio::test]
    async fn several_addresses_are_bound_in_order() {
        let listeners = bind_all(&config(vec![tcp("127.0.0.1", 0), tcp("::1", 0), tcp("localhost", 0)])).unwrap();
        let urls: Vec<&str> = listeners.iter().map(|listener| &**listener.url()).collect();
        assert!(urls[0].starts_with("ws://127.0.0.1:") && urls[1].starts_with("ws://[::1]:"), "{urls:?}");
        assert!(urls[2].starts_with("ws://localhost:"), "{urls:?}");
        for listener in listeners {
            let host = if listener.url().contains('[') { "::1" } else { "127.0.0.1" };
            if listener.url().contains("localhost") {
                continue;
            }
            let port = port(&listener);
            assert_ne!(port, 0);
            let mut acceptor = listener.into_acceptor().unwrap();
            let mut client = tokio::net::TcpStream::connect((host, port)).await.unwrap();
            let (mut stream, peer) = next(&mut acceptor).await;
            assert_eq!(peer.to_string(), client.local_addr().unwrap().to_string());
            let Stream::Tcp(socket) = &stream else { panic!("{stream:?}") };
            assert!(socket.nodelay().unwrap());
            stream.write_all(b"hello").await.unwrap();
            let mut got = [0; 5];
            client.read_exact(&mut got).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_ipv6_wildcard_takes_ipv4_unless_told_apart() {
        let both = bind_all(&config(vec![tcp("::", 0)])).unwrap().remove(0);
        let (v4, mut acceptor) = (port(&both), both.into_acceptor().unwrap());
        let _client = tokio::net::TcpStream::connect(("127.0.0.1", v4)).await.unwrap();
        let (stream, peer) = next(&mut acceptor).await;
        assert!(peer.to_string().starts_with("127.0.0.1:"), "{peer}");
        assert!(peer.ip().unwrap().is_ipv4());
        let Stream::Tcp(accepted) = &stream else { panic!("{stream:?}") };
        assert!(accepted.nodelay().unwrap());
        // A port that the system just gave us is free again for both families, unless others are quick.
        let apart = (0..20).any(|_| {
            let free = port(&bind_all(&config(vec![tcp("::", 0)])).unwrap()[0]);
            bind_all(&config(vec![tcp("0.0.0.0", free), tcp("::", free)])).is_ok()
        });
        assert!(apart);
    }

    #[test]
    fn what_cannot_be_bound_is_named() {
        let first = bind_all(&config(vec![tcp("127.0.0.1", 0)])).unwrap().remove(0);
        let taken = port(&first);
        let error = bind_all(&config(vec![tcp("127.0.0.1", taken)])).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on ws://127.0.0.1:{taken}: Address already in use"));
        let error = bind_all(&config(vec![tcp("192.0.2.1", 0)])).unwrap_err();
        assert_eq!(error.to_string(), "cannot listen on ws://192.0.2.1:0: Cannot assign requested address");
        let error = bind_all(&config(vec![tcp("no.such.invalid", 80)])).unwrap_err();
        assert!(error.to_string().starts_with("cannot listen on ws://no.such.invalid:80: "), "{error}");
        let wss = ListenAddress::Tcp { host: "::1".into(), port: 0, tls: true };
        let error = bind_all(&config(vec![wss])).unwrap_err();
        assert!(error.to_string().starts_with("cannot listen on wss://[::1]:0: "), "{error}");
    }

    #[test]
    fn a_shared_port_can_be_bound_twice() {
        let shared = ServerConfig { reuse_port: true, ..config(vec![tcp("127.0.0.1", 0)]) };
        let first = bind_all(&shared).unwrap().remove(0);
        let again = ServerConfig { reuse_port: true, ..config(vec![tcp("127.0.0.1", port(&first))]) };
        assert!(bind_all(&again).is_ok());
    }

    #[tokio::test]
    async fn a_unix_socket_replaces_only_a_stale_file() {
        let directory = Directory::new("unix");
        let path = directory.0.join("app.sock");
        let unix = config(vec![ListenAddress::Unix { path: path.clone() }]);
        let listener = bind_all(&unix).unwrap().remove(0);
        assert_eq!(&**listener.url(), format!("unix://{}", path.display()));
        let error = bind_all(&unix).unwrap_err();
        assert!(error.to_string().ends_with("app.sock: another process listens on it"), "{error}");
        let clone = listener.try_clone().unwrap();
        let mut acceptor = listener.into_acceptor().unwrap();
        let _client = tokio::net::UnixStream::connect(&path).await.unwrap();
        let (stream, peer) = next(&mut acceptor).await;
        assert!(matches!(stream, Stream::Unix(_)) && peer == PeerAddr::Unix && peer.to_string() == "unix:");
        drop(acceptor);
        assert!(path.exists());
        drop(clone);
        assert!(!path.exists());

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = bind_all(&unix).unwrap();
        // Somebody else's file at the same path stays.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "data").unwrap();
        drop(listener);
        let error = bind_all(&unix).unwrap_err();
        assert!(error.to_string().ends_with("the file exists and is no socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }

    /// Runs [`without_descriptors`] in a process of its own, whose limit it can lower.
    #[test]
    fn without_descriptors_peers_are_turned_away() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "listen::tests::without_descriptors", "--ignored", "--test-threads=1"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    }

    #[tokio::test]
    #[ignore = "changes the limits of its process: run by without_descriptors_peers_are_turned_away"]
    async fn without_descriptors() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let listener = bind_all(&config(vec![tcp("127.0.0.1", 0)])).unwrap().remove(0);
        let port = port(&listener);
        let mut acceptor = listener.into_acceptor().unwrap();
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        }
        setrlimit(Resource::Nofile, Rlimit { current: Some(40), ..getrlimit(Resource::Nofile) }).unwrap();
        let mut held: Vec<File> = std::iter::from_fn(spare).collect();
        let Accepted::Trouble(what) = acceptor.accept().await else { panic!("accepted") };
        assert_eq!(what, format!("cannot accept on ws://127.0.0.1:{port}: Too many open files"));
        for client in &mut clients {
            let mut answer = Vec::new();
            let read = client.read_to_end(&mut answer);
            tokio::time::timeout(Duration::from_secs(30), read).await.expect("turned away").unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 503 Service Unavailable\r\n"));
        }
        // Told once only, and well again as soon as there is a descriptor.
        clients.clear();
        held.clear();
        let _client = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (_stream, _) = next(&mut acceptor).await;
    }
}
