//! The PROXY protocol, versions 1 and 2: a load balancer's word on who its client is, sent before
//! anything else (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::config::Network;
use crate::forwarded;
use crate::listen::PeerAddr;

/// Why a PROXY header could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("invalid PROXY protocol header: {0}")]
    Invalid(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the header and not one byte more, so TLS or HTTP can follow on the same stream. Returns the
/// client's address; none where the proxy speaks for itself (LOCAL, UNKNOWN), or where `peer` is
/// not in a `trusted` list that is not empty: it is a client that came directly then, and nothing
/// is read. Put a time limit around it.
///
/// # Errors
/// The header is missing, invalid or too long, or the peer has gone.
pub async fn read<S>(stream: &mut S, peer: &PeerAddr, trusted: &[Network]) -> Result<Option<PeerAddr>, ProxyError>
where
    S: AsyncRead + Unpin + ?Sized,
{
    if !trusted.is_empty() && !forwarded::is_trusted(peer, trusted) {
        return Ok(None);
    }
    let mut header = Vec::with_capacity(64);
    loop {
        match parse(&header) {
            Progress::Done(source) => return Ok(source),
            Progress::Need(more) => {
                let length = header.len();
                header.resize(length + more, 0);
                stream.read_exact(&mut header[length..]).await?;
            }
            Progress::Invalid(why) => return Err(ProxyError::Invalid(why)),
        }
    }
}

/// What the bytes so far amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// They are the header in full.
    Done(Option<PeerAddr>),
    /// The header has at least so many bytes more: reading them cannot run over its end.
    Need(usize),
    Invalid(&'static str),
}

/// Looks at the start of a connection. `header` must hold no bytes beyond what was needed.
#[must_use]
pub fn parse(header: &[u8]) -> Progress {
    let starts = |signature: &[u8]| header.iter().zip(signature).all(|(a, b)| a == b);
    if starts(V1) {
        parse_v1(header)
    } else if starts(V2) {
        parse_v2(header)
    } else {
        Progress::Invalid("the connection does not begin with one")
    }
}

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1 with its CRLF.
const V1_LIMIT: usize = 107;
/// The shortest: `PROXY UNKNOWN` and CRLF. That of version 2 is one byte longer.
const V1_SHORTEST: usize = 15;
const V2_PREFIX: usize = 16;
/// What may follow the prefix of version 2: addresses and type-length-value fields, among them a
/// certificate at most.
const V2_LIMIT: usize = 8192;

fn parse_v1(header: &[u8]) -> Progress {
    if header.len() < V1_SHORTEST {
        return Progress::Need(V1_SHORTEST - header.len());
    }
    let Some(line) = header.strip_suffix(b"\r\n") else {
        // Each part that is still missing is a space and a letter at least.
        let parts = header.split(|byte| *byte == b' ').count() - 1;
        let missing = if header.starts_with(b"PROXY TCP") { 5_usize.saturating_sub(parts) * 2 } else { 0 };
        let need = missing + 2 - usize::from(header.ends_with(b"\r"));
        if header.contains(&b'\n') || header.len() + need > V1_LIMIT {
            return Progress::Invalid("a line that does not end in time");
        }
        return Progress::Need(need);
    };
    let Ok(line) = std::str::from_utf8(line) else { return Progress::Invalid("a line that is not ASCII") };
    let parts: Vec<&str> = line.split(' ').collect();
    let source = match parts[..] {
        ["PROXY", "UNKNOWN", ..] => return Progress::Done(None),
        ["PROXY", "TCP4", source, target, source_port, target_port] => {
            address::<Ipv4Addr>(source, source_port).filter(|_| address::<Ipv4Addr>(target, target_port).is_some())
        }
        ["PROXY", "TCP6", source, target, source_port, target_port] => {
            address::<Ipv6Addr>(source, source_port).filter(|_| address::<Ipv6Addr>(target, target_port).is_some())
        }
        _ => None,
    };
    source.map_or(Progress::Invalid("a line that names no pair of addresses"), |source| Progress::Done(Some(source)))
}

fn address<A: std::str::FromStr + Into<IpAddr>>(address: &str, port: &str) -> Option<PeerAddr> {
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let address: A = address.parse().ok()?;
    Some(PeerAddr::Tcp(SocketAddr::new(address.into(), port.parse().ok()?)))
}

fn parse_v2(header: &[u8]) -> Progress {
    // Version 1 is ruled out by the first byte.
    if header.len() < V2_PREFIX {
        return Progress::Need(if header.is_empty() { V1_SHORTEST } else { V2_PREFIX - header.len() });
    }
    let (version, command) = (header[12] >> 4, header[12] & 0xf);
    let (family, transport) = (header[13] >> 4, header[13] & 0xf);
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if version != 2 || command > 1 {
        return Progress::Invalid("an unknown version or command");
    }
    if length > V2_LIMIT {
        return Progress::Invalid("longer than 8192 bytes");
    }
    let body = &header[V2_PREFIX..];
    if body.len() < length {
        return Progress::Need(length - body.len());
    }
    // LOCAL: the proxy's own health check, or its client is not to be told.
    if command == 0 || family == 0 || transport == 0 {
        return Progress::Done(None);
    }
    if transport != 1 {
        return Progress::Invalid("not a stream");
    }
    let source = match family {
        1 if length >= 12 => peer(IpAddr::from([body[0], body[1], body[2], body[3]]), &body[8..10]),
        2 if length >= 36 => {
            let mut octets = [0; 16];
            octets.copy_from_slice(&body[..16]);
            peer(IpAddr::from(octets).to_canonical(), &body[32..34])
        }
        3 if length >= 216 => PeerAddr::Unix,
        1..=3 => return Progress::Invalid("too short for its addresses"),
        _ => return Progress::Invalid("an unknown address family"),
    };
    Progress::Done(Some(source))
}

fn peer(address: IpAddr, port: &[u8]) -> PeerAddr {
    PeerAddr::Tcp(SocketAddr::new(address, u16::from_be_bytes([port[0], port[1]])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = V2.to_vec();
        header.extend([0x20 | command, family]);
        header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(body);
        header
    }

    fn inet() -> Vec<u8> {
        [&[203, 0, 113, 7, 10, 0, 0, 1][..], &4711_u16.to_be_bytes(), &80_u16.to_be_bytes()].concat()
    }

    /// Reads from a connection that brings `bytes`; with what is left behind the header.
    fn run(bytes: &[u8]) -> Result<(Option<String>, Vec<u8>), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut stream = bytes;
            let source = read(&mut stream, &PeerAddr::Unix, &[]).await.map_err(|error| error.to_string())?;
            Ok((source.map(|source| source.to_string()), stream.to_vec()))
        })
    }

    #[test]
    fn both_versions_name_the_client() {
        let inet6 = [
            &"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets()[..],
            &[0; 16],
            &4711_u16.to_be_bytes(),
            &80_u16.to_be_bytes(),
        ]
        .concat();
        let with_fields = [&inet()[..], &[0x04, 0, 200], &[7; 200]].concat();
        for (header, expected) in [
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n".to_vec(), Some("203.0.113.7:4711")),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n".to_vec(), Some("1.1.1.1:1")),
            (b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n".to_vec(), Some("[2001:db8::7]:4711")),
            (b"PROXY TCP6 :: :: 1 1\r\n".to_vec(), Some("[::]:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(), None),
            (v2(1, 0x11, &inet()), Some("203.0.113.7:4711")),
            (v2(1, 0x11, &with_fields), Some("203.0.113.7:4711")),
            (v2(1, 0x21, &inet6), Some("[2001:db8::7]:4711")),
            (v2(1, 0x31, &[0; 216]), Some("unix:")),
            (v2(0, 0x11, &inet()), None),
            (v2(0, 0x00, &[]), None),
            (v2(1, 0x00, b"whatever"), None),
        ] {
            let expected = (expected.map(str::to_owned), b"GET / HTTP/1.1\r\n".to_vec());
            assert_eq!(run(&[&header[..], b"GET / HTTP/1.1\r\n"].concat()), Ok(expected), "{header:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for (header, expected) in [
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "does not begin with one"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaa".to_vec(), "does not begin with one"),
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 4711\r\nGET ".to_vec(), ""),
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80 1\r\n".to_vec(), "pair of addresses"),
            (b"PROXY TCP4 ::1 ::1 4711 80\r\n".to_vec(), "pair of addresses"),
            (b"PROXY TCP6 1.1.1.1 1.1.1.1 4711 80\r\n".to_vec(), "pair of addresses"),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 65536 80\r\n".to_vec(), "pair of addresses"),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 +1 80\r\n".to_vec(), "pair of addresses"),
            (b"PROXY TCP4  1.1.1.1 1.1.1.1 1 80\r\n".to_vec(), "pair of addresses"),
            (b"PROXY UDP4 1.1.1.1 1.1.1.1 1 80\r\n".to_vec(), "pair of addresses"),
            ([b"PROXY UNKNOWN ".to_vec(), vec![b'a'; 200]].concat(), "does not end in time"),
            (v2(1, 0x11, &[1, 2, 3]), "too short"),
            (v2(1, 0x21, &inet()), "too short"),
            (v2(1, 0x31, &inet()), "too short"),
            (v2(1, 0x12, &inet()), "not a stream"),
            (v2(1, 0x41, &inet()), "address family"),
            (v2(2, 0x11, &inet()), "version or command"),
            (v2(1, 0x11, &vec![0; 9000]), "longer than"),
        ] {
            let error = run(&header).unwrap_err();
            assert!(error.contains(expected), "{header:?}: {error}");
        }
        let mut old = v2(1, 0x11, &inet());
        old[12] = 0x11;
        assert!(run(&old).is_err());
    }

    #[tokio::test]
    async fn only_trusted_peers_are_listened_to() {
        let trusted = [Network::parse("10.0.0.0/8").unwrap()];
        let line = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n";
        for (peer, expected) in [("10.9.9.9:1", Some("203.0.113.7:4711")), ("192.0.2.1:1", None)] {
            let mut stream = &line[..];
            let peer = PeerAddr::Tcp(peer.parse().unwrap());
            let source = read(&mut stream, &peer, &trusted).await.unwrap();
            assert_eq!(source.map(|source| source.to_string()).as_deref(), expected);
            assert_eq!(stream.is_empty(), expected.is_some());
        }
    }

    proptest! {
        #[test]
        fn no_header_is_read_past_its_end(
            source: [u8; 4], port: u16, target: [u8; 16], fields in proptest::collection::vec(any::<u8>(), 0..64),
            version in 0..3, tail in proptest::collection::vec(any::<u8>(), 0..8), cut in 1_usize..9,
        ) {
            let (a, b) = (Ipv4Addr::from(source), Ipv6Addr::from(target));
            let (header, expected) = match version {
                0 => (format!("PROXY TCP4 {a} {a} {port} {port}\r\n").into_bytes(), SocketAddr::new(a.into(), port)),
                1 => (format!("PROXY TCP6 {b} {b} {port} {port}\r\n").into_bytes(), SocketAddr::new(b.into(), port)),
                _ => {
                    let body = [&source[..], &source, &port.to_be_bytes(), &[0; 2], &fields].concat();
                    (v2(1, 0x11, &body), SocketAddr::new(a.into(), port))
                }
            };
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (found, left) = runtime.block_on(async {
                let (mut near, mut far) = tokio::io::duplex(cut);
                let bytes = [&header[..], &tail].concat();
                let feed = async { far.write_all(&bytes).await.unwrap(); drop(far) };
                let take = async {
                    let found = read(&mut near, &PeerAddr::Unix, &[]).await;
                    let mut left = Vec::new();
                    near.read_to_end(&mut left).await.unwrap();
                    (found, left)
                };
                tokio::join!(take, feed).0
            });
            prop_assert_eq!(found.unwrap().unwrap().to_string(), PeerAddr::Tcp(expected).to_string());
            prop_assert_eq!(left, tail);
        }

        #[test]
        fn garbage_ends(bytes in proptest::collection::vec(any::<u8>(), 0..300), version in 0_usize..3) {
            let start: &[u8] = [&b"PROXY "[..], V2, b""][version];
            let _ = run(&[start, &bytes].concat());
        }
    }
}
