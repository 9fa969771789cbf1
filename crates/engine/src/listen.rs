//! Listening sockets.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

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
