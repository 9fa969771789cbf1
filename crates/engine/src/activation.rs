//! Listening sockets that a service manager has opened and passed: systemd's socket activation
//! (sd_listen_fds(3)).
//!
//! The manager keeps such a socket open while the service is started anew: who connects meanwhile
//! waits in its backlog instead of being refused, and ports below 1024 need no privileges here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd, ioctl_fionbio};
use rustix::net::SocketType;

/// The first descriptor that is passed (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;
/// More are taken for a mistake.
const MOST: RawFd = 1024;
/// What systemd calls a socket that nobody named.
const UNNAMED: &str = "unknown";

/// The variables that tell of passed sockets, as the environment has them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Environment<'a> {
    /// `LISTEN_PID`
    pub pid: Option<&'a str>,
    /// `LISTEN_FDS`
    pub fds: Option<&'a str>,
    /// `LISTEN_FDNAMES`
    pub names: Option<&'a str>,
}

impl Environment<'_> {
    /// The descriptors that were passed to `process`, and their names, in order.
    ///
    /// # Errors
    /// Why there are none: nothing was passed, it was passed to another process, or the variables
    /// contradict each other.
    pub fn parse(&self, process: u32) -> Result<Vec<(RawFd, String)>, String> {
        let Some(fds) = self.fds else {
            return Err("LISTEN_FDS is not set: was it started by a .socket unit?".into());
        };
        match self.pid.map(str::parse::<u32>) {
            Some(Ok(pid)) if pid == process => {}
            Some(Ok(pid)) => {
                return Err(format!(
                    "LISTEN_PID is {pid}, but this process is {process}: it must be started directly, or by 'exec'"
                ));
            }
            _ => return Err("LISTEN_FDS is set, but LISTEN_PID is no process id".into()),
        }
        let Ok(count @ 1..=MOST) = fds.parse::<RawFd>() else {
            return Err(format!("LISTEN_FDS must be a number from 1 to {MOST}, '{fds}' given"));
        };
        let names: Vec<&str> = self.names.map(|names| names.split(':').collect()).unwrap_or_default();
        if !names.is_empty() && names.len() != count as usize {
            return Err(format!("LISTEN_FDS is {count}, but LISTEN_FDNAMES has {} names", names.len()));
        }
        let name = |index| (*names.get(index as usize).unwrap_or(&UNNAMED)).to_owned();
        Ok((0..count).map(|index| (FIRST + index, name(index))).collect())
    }
}

/// Where a passed socket is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    Tcp(SocketAddr),
    /// Path of a Unix socket; `@name` for an abstract one.
    Unix(String),
}

impl Bound {
    /// As a URL.
    #[must_use]
    pub fn url(&self, tls: bool) -> String {
        match self {
            Self::Tcp(address) => format!("{}://{address}", if tls { "wss" } else { "ws" }),
            Self::Unix(path) => format!("unix://{path}"),
        }
    }

    /// Whether it is what `wanted` asks for. A manager that is told a port alone binds `[::]`, which takes
    /// IPv4 too, so that is also what `0.0.0.0` asks for.
    fn serves(&self, wanted: SocketAddr) -> bool {
        let Self::Tcp(bound) = self else { return false };
        let any = bound.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && wanted.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        bound.port() == wanted.port() && (any || bound.ip() == wanted.ip())
    }
}

/// One of them.
#[derive(Debug)]
struct Passed {
    name: String,
    bound: Bound,
    socket: OwnedFd,
    taken: AtomicBool,
}

/// What was passed to this process. The sockets stay open as long as it lives: a server that is started
/// after another has stopped takes them again.
#[derive(Debug)]
pub struct Inheritance {
    sockets: Vec<Passed>,
    /// Why there are none.
    none: String,
}

impl Default for Inheritance {
    fn default() -> Self {
        Self { sockets: Vec::new(), none: "no socket was passed".into() }
    }
}

impl Inheritance {
    /// Nothing, and why.
    #[must_use]
    pub fn nothing(why: String) -> Arc<Self> {
        Arc::new(Self { sockets: Vec::new(), none: why })
    }

    /// Takes over what was passed. Descriptors are kept from child processes, and never block.
    ///
    /// # Errors
    /// Names the socket that is none to listen on.
    pub fn adopt(sockets: Vec<(String, OwnedFd)>) -> Result<Arc<Self>, String> {
        let mut passed = Vec::with_capacity(sockets.len());
        for (name, socket) in sockets {
            let wrong = |what: &str| format!("the socket '{name}' that was passed {what}");
            let told = rustix::net::sockopt::socket_type(&socket);
            if told != Ok(SocketType::STREAM) {
                return Err(wrong("is no stream socket (ListenStream=)"));
            }
            if rustix::net::sockopt::socket_acceptconn(&socket) != Ok(true) {
                return Err(wrong("does not listen (Accept=no is needed)"));
            }
            let bound = bound(&socket).ok_or_else(|| wrong("has an address that is neither TCP nor Unix"))?;
            fcntl_setfd(&socket, FdFlags::CLOEXEC)
                .and_then(|()| ioctl_fionbio(&socket, true))
                .map_err(|error| wrong(&format!("is unusable: {error}")))?;
            if matches!(bound, Bound::Tcp(_)) {
                // Handed on to each socket that is accepted (tcp(7)); without it messages only come later.
                let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
            }
            passed.push(Passed { name, bound, socket, taken: AtomicBool::new(false) });
        }
        Ok(Arc::new(Self { sockets: passed, none: String::new() }))
    }

    /// The socket bound to that address, unless a server has it.
    pub(crate) fn take_tcp(self: &Arc<Self>, wanted: SocketAddr) -> Option<Claim> {
        // Port 0 asks for one of its own.
        if wanted.port() == 0 {
            return None;
        }
        self.take(|passed| passed.bound.serves(wanted))
    }

    /// The socket bound to that path, unless a server has it.
    pub(crate) fn take_unix(self: &Arc<Self>, wanted: &Path) -> Option<Claim> {
        self.take(|passed| matches!(&passed.bound, Bound::Unix(path) if Path::new(path) == wanted))
    }

    /// Those of that name that no server has; without a name, all that are left.
    ///
    /// # Errors
    /// There is none: what was passed instead.
    pub(crate) fn take_named(self: &Arc<Self>, name: Option<&str>) -> Result<Vec<Claim>, String> {
        let mut claims = Vec::new();
        while let Some(claim) = self.take(|passed| name.is_none_or(|name| passed.name == name)) {
            claims.push(claim);
        }
        if !claims.is_empty() {
            return Ok(claims);
        }
        Err(match name {
            _ if self.sockets.is_empty() => self.none.clone(),
            Some(name) => format!("no socket of the name '{name}' is left; {}", self.told()),
            None => format!("no socket is left; {}", self.told()),
        })
    }

    fn take(self: &Arc<Self>, wanted: impl Fn(&Passed) -> bool) -> Option<Claim> {
        let free = |passed: &Passed| wanted(passed) && !passed.taken.swap(true, Ordering::AcqRel);
        let index = self.sockets.iter().position(free)?;
        Some(Claim { of: self.clone(), index })
    }

    /// What was passed, for people; empty when nothing was.
    pub(crate) fn told(&self) -> String {
        if self.sockets.is_empty() {
            return String::new();
        }
        let one = |passed: &Passed| format!("{} ({})", passed.bound.url(false), passed.name);
        format!("passed were {}", self.sockets.iter().map(one).collect::<Vec<_>>().join(", "))
    }
}

/// A passed socket that a server listens on; free for another when it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    of: Arc<Inheritance>,
    index: usize,
}

impl Claim {
    pub(crate) fn bound(&self) -> &Bound {
        &self.passed().bound
    }

    /// A descriptor of its own for the same socket.
    pub(crate) fn socket(&self) -> std::io::Result<OwnedFd> {
        self.passed().socket.try_clone()
    }

    fn passed(&self) -> &Passed {
        &self.of.sockets[self.index]
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.passed().taken.store(false, Ordering::Release);
    }
}

fn bound(socket: impl AsFd) -> Option<Bound> {
    let address = rustix::net::getsockname(socket).ok()?;
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return Some(Bound::Tcp(address));
    }
    let unix = rustix::net::SocketAddrUnix::try_from(address).ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if let Some(path) = unix.path_bytes() {
        return Some(Bound::Unix(text(path)));
    }
    unix.abstract_name().map(|name| Bound::Unix(format!("@{}", text(name))))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    fn parse(pid: &str, fds: &str, names: Option<&str>) -> Result<Vec<(RawFd, String)>, String> {
        Environment { pid: Some(pid), fds: Some(fds), names }.parse(42)
    }

    #[test]
    fn the_environment_names_what_was_passed() {
        let socket = |fd, name: &str| (fd, name.to_owned());
        assert_eq!(parse("42", "1", None), Ok(vec![socket(3, "unknown")]));
        assert_eq!(parse("42", "2", Some("web:admin")), Ok(vec![socket(3, "web"), socket(4, "admin")]));
        assert_eq!(parse("42", "2", Some(":")), Ok(vec![socket(3, ""), socket(4, "")]));
        let refused = |given: Result<_, String>, why: &str| {
            let error = given.unwrap_err();
            assert!(error.contains(why), "{error}");
        };
        refused(Environment::default().parse(42), "LISTEN_FDS is not set");
        refused(Environment { fds: Some("1"), ..Environment::default() }.parse(42), "LISTEN_PID is no process id");
        refused(parse("me", "1", None), "LISTEN_PID is no process id");
        refused(parse("41", "1", None), "LISTEN_PID is 41, but this process is 42");
        refused(parse("42", "2", Some("web")), "LISTEN_FDNAMES has 1 names");
        for fds in ["", "0", "-1", "1025", "1x", "99999999999999999999"] {
            refused(parse("42", fds, None), "must be a number from 1 to 1024");
        }
    }

    #[test]
    fn a_socket_is_found_by_address_and_by_name_and_serves_one_at_a_time() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let abstract_name = format!("lifeline-{}-{address}", std::process::id());
        let name = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name;
        let unix = UnixListener::bind_addr(&name(&abstract_name).unwrap()).unwrap();
        let passed = Inheritance::adopt(vec![("web".into(), tcp.into()), ("local".into(), unix.into())]).unwrap();
        assert!(passed.take_tcp(SocketAddr::new(address.ip(), 0)).is_none());
        assert!(passed.take_tcp("127.0.0.2:1".parse().unwrap()).is_none());
        let claim = passed.take_tcp(address).unwrap();
        assert_eq!(claim.bound().url(true), format!("wss://{address}"));
        assert!(rustix::io::fcntl_getfd(claim.socket().unwrap()).unwrap().contains(FdFlags::CLOEXEC));
        assert!(passed.take_tcp(address).is_none(), "taken");
        let error = passed.take_named(Some("web")).unwrap_err();
        let both = format!("passed were ws://{address} (web), unix://@{abstract_name} (local)");
        assert_eq!(error, format!("no socket of the name 'web' is left; {both}"));
        let rest = passed.take_named(None).unwrap();
        assert_eq!(rest.len(), 1);
        assert_eq!(*rest[0].bound(), Bound::Unix(format!("@{abstract_name}")));
        drop(claim);
        assert_eq!(passed.take_named(Some("web")).unwrap().len(), 1);
        assert_eq!(Inheritance::nothing("why".into()).take_named(None).unwrap_err(), "why");
    }

    #[test]
    fn all_addresses_is_what_a_port_alone_opens() {
        let any = Bound::Tcp("[::]:80".parse().unwrap());
        assert!(any.serves("0.0.0.0:80".parse().unwrap()) && any.serves("[::]:80".parse().unwrap()));
        assert!(!any.serves("127.0.0.1:80".parse().unwrap()) && !any.serves("0.0.0.0:81".parse().unwrap()));
        assert!(!Bound::Tcp("0.0.0.0:80".parse().unwrap()).serves("[::]:80".parse().unwrap()));
    }

    #[test]
    fn what_cannot_be_listened_on_is_refused() {
        let refused = |socket: OwnedFd, why: &str| {
            let error = Inheritance::adopt(vec![("it".into(), socket)]).unwrap_err();
            assert!(error.starts_with("the socket 'it' that was passed ") && error.contains(why), "{error}");
        };
        refused(UnixDatagram::unbound().unwrap().into(), "no stream socket");
        refused(UnixStream::pair().unwrap().0.into(), "does not listen (Accept=no");
        refused(std::fs::File::open("/dev/null").unwrap().into(), "no stream socket");
    }
}
