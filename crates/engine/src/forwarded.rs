//! What a reverse proxy tells of its client: `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded`
//! (RFC 7239). Believed only from trusted networks.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::Network;
use crate::http;
use crate::listen::PeerAddr;

impl Network {
    /// `10.0.0.0/8`, `2001:db8::/32` or a single address. Bits behind the prefix are cleared.
    ///
    /// # Errors
    /// A text that says what is wrong with `text`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr =
            address.parse().map_err(|_| format!("\"{text}\" is no address or network such as 10.0.0.0/8"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix
                .parse::<u8>()
                .ok()
                .filter(|prefix| *prefix <= bits)
                .ok_or_else(|| format!("the prefix of \"{text}\" must be 0 to {bits}"))?,
        };
        Ok(Self { address, prefix }.masked())
    }

    /// True when `address` lies in it. IPv4 addresses mapped into IPv6 count as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                prefix_of(u128::from(network.to_bits()), 32, self.prefix)
                    == prefix_of(u128::from(address.to_bits()), 32, self.prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                prefix_of(network.to_bits(), 128, self.prefix) == prefix_of(address.to_bits(), 128, self.prefix)
            }
            // A network of mapped addresses, ::ffff:10.0.0.0/104.
            (IpAddr::V6(network), IpAddr::V4(address)) => {
                let mapped = address.to_ipv6_mapped();
                prefix_of(network.to_bits(), 128, self.prefix) == prefix_of(mapped.to_bits(), 128, self.prefix)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        }
    }

    fn masked(self) -> Self {
        let address = match self.address {
            IpAddr::V4(address) => {
                IpAddr::V4(((prefix_of(u128::from(address.to_bits()), 32, self.prefix)) as u32).into())
            }
            IpAddr::V6(address) => IpAddr::V6(prefix_of(address.to_bits(), 128, self.prefix).into()),
        };
        Self { address, prefix: self.prefix }
    }
}

/// True when the peer may speak for others. A peer on a Unix socket may wherever any network is
/// trusted at all: the file's permissions say who can connect.
#[must_use]
pub fn is_trusted(peer: &PeerAddr, trusted: &[Network]) -> bool {
    match peer.ip() {
        Some(address) => trusted.iter().any(|network| network.contains(address)),
        None => !trusted.is_empty(),
    }
}

/// What is to be believed of a request's client.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    pub client: PeerAddr,
    /// Whether the client came over TLS; none where nobody says.
    pub secure: Option<bool>,
    /// `host[:port]` the client asked for.
    pub host: Option<Box<str>>,
}

/// Finds the client behind the proxies: from the right, the first address that is not trusted
/// itself (the left end is whatever the client wrote). `X-Forwarded-For` wins over `Forwarded`; the
/// outermost proxy must replace or remove what it gets of both. An element that is no address
/// (`unknown`, obfuscated) ends the search at the last good one.
#[must_use]
pub fn resolve(head: &[u8], peer: &PeerAddr, trusted: &[Network]) -> Told {
    let mut told = Told { client: peer.clone(), secure: None, host: None };
    if !is_trusted(peer, trusted) {
        return told;
    }
    if http::values(head, "x-forwarded-for").next().is_some() {
        let chain: Vec<&str> = http::list(head, "x-forwarded-for").collect();
        for element in chain.into_iter().rev() {
            let Some(client) = node(element) else { break };
            let go_on = is_trusted(&client, trusted);
            told.client = client;
            if !go_on {
                break;
            }
        }
    } else {
        for element in elements(head).into_iter().rev() {
            let Some(client) = element.client.as_deref().and_then(node) else { break };
            let go_on = is_trusted(&client, trusted);
            // Each proxy writes what it saw itself, so these two belong to this client.
            told = Told { client, secure: element.proto.as_deref().map(is_secure), host: element.host.map(Into::into) };
            if !go_on {
                break;
            }
        }
    }
    // The first of a list is what the outermost proxy saw. A page in a browser cannot set these, and
    // whoever is not a browser can write any Origin as well.
    if let Some(proto) = http::list(head, "x-forwarded-proto").next() {
        told.secure = Some(is_secure(proto));
    }
    if let Some(host) = http::list(head, "x-forwarded-host").next() {
        told.host = Some(host.into());
    }
    told
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Element {
    client: Option<String>,
    proto: Option<String>,
    host: Option<String>,
}

/// The elements of all `Forwarded` headers; values unquoted. Reading stops where the syntax breaks,
/// and what came before (the left, less trusted end) is dropped with it.
fn elements(head: &[u8]) -> Vec<Element> {
    let mut elements = Vec::new();
    for line in http::values(head, "forwarded") {
        let Some(mut parsed) = std::str::from_utf8(line).ok().and_then(parse_line) else {
            elements.clear();
            continue;
        };
        elements.append(&mut parsed);
    }
    elements
}

fn parse_line(line: &str) -> Option<Vec<Element>> {
    let mut elements = vec![Element::default()];
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = if let Some(quoted) = after.strip_prefix('"') {
            unquote(quoted)?
        } else {
            let end = after.find([';', ',', ' ', '\t']).unwrap_or(after.len());
            (after[..end].to_owned(), &after[end..])
        };
        let element = elements.last_mut()?;
        match name.trim().to_ascii_lowercase().as_str() {
            "for" => element.client = Some(value),
            "proto" => element.proto = Some(value),
            "host" => element.host = Some(value),
            _ => {}
        }
        rest = after.trim_start();
        if let Some(next) = rest.strip_prefix(',') {
            elements.push(Element::default());
            rest = next.trim_start();
        } else if let Some(next) = rest.strip_prefix(';') {
            rest = next.trim_start();
        } else if !rest.is_empty() {
            return None;
        }
    }
    Some(elements)
}

/// The text up to the closing quote without its backslashes, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            _ => value.push(letter),
        }
    }
    None
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn node(text: &str) -> Option<PeerAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(PeerAddr::Address(address.to_canonical()));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(PeerAddr::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port())));
    }
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse::<Ipv6Addr>().ok().map(|address| PeerAddr::Address(IpAddr::V6(address).to_canonical()))
}

fn is_secure(proto: &str) -> bool {
    proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss")
}

/// The upper `prefix` of `bits` bits, the others zero.
fn prefix_of(address: u128, bits: u32, prefix: u8) -> u128 {
    let low = bits - u32::from(prefix).min(bits);
    address.checked_shr(low).unwrap_or(0).checked_shl(low).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(peer: &str, headers: &str) -> Told {
        let networks = ["10.0.0.0/8", "2001:db8:1::/48"].map(|text| Network::parse(text).unwrap());
        let raw = format!("GET / HTTP/1.1\r\nHost: backend:80\r\n{headers}\r\n");
        let peer = if peer.is_empty() { PeerAddr::Unix } else { PeerAddr::Tcp(peer.parse().unwrap()) };
        let (head, client) = http::RequestHead::parse(raw.as_bytes(), &peer, false, &networks).unwrap();
        let told = resolve(head.raw(), &peer, &networks);
        assert_eq!(told.client, client);
        assert_eq!(head.remote(), client.to_string());
        told
    }

    #[test]
    fn networks_hold_their_addresses() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.1.2", true),
            ("10.9.9.9/8", "10.255.1.2", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "11.0.0.1", false),
            ("0.0.0.0/0", "203.0.113.7", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("192.0.2.128/25", "192.0.2.127", false),
        ] {
            let parsed = Network::parse(network).unwrap();
            assert_eq!(parsed.contains(address.parse().unwrap()), expected, "{network} {address}");
        }
        assert_eq!(Network::parse("10.9.9.9/8").unwrap(), Network::parse("10.0.0.0/8").unwrap());
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "example.org", "10.0.0/8"] {
            assert!(Network::parse(text).unwrap_err().contains(text), "{text}");
        }
    }

    #[test]
    fn the_rightmost_untrusted_address_is_the_client() {
        for (peer, headers, expected) in [
            ("10.0.0.1:9", "", "10.0.0.1:9"),
            ("203.0.113.7:9", "X-Forwarded-For: 198.51.100.1\r\n", "203.0.113.7:9"),
            ("10.0.0.1:9", "X-Forwarded-For: 198.51.100.1\r\n", "198.51.100.1"),
            ("10.0.0.1:9", "X-Forwarded-For: 6.6.6.6, 198.51.100.1, 10.0.0.2\r\n", "198.51.100.1"),
            ("10.0.0.1:9", "X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 198.51.100.1\r\n", "198.51.100.1"),
            ("10.0.0.1:9", "X-Forwarded-For: 10.0.0.3, 10.0.0.2\r\n", "10.0.0.3"),
            ("10.0.0.1:9", "X-Forwarded-For: 198.51.100.1, unknown, 10.0.0.2\r\n", "10.0.0.2"),
            ("10.0.0.1:9", "X-Forwarded-For: 198.51.100.1:4711\r\n", "198.51.100.1:4711"),
            ("10.0.0.1:9", "X-Forwarded-For: 2001:db8::7\r\n", "2001:db8::7"),
            ("10.0.0.1:9", "X-Forwarded-For: [2001:db8::7]:80\r\n", "[2001:db8::7]:80"),
            ("10.0.0.1:9", "X-Forwarded-For: 198.51.100.1\r\nForwarded: for=6.6.6.6\r\n", "198.51.100.1"),
            ("10.0.0.1:9", "Forwarded: for=6.6.6.6, for=198.51.100.1;proto=https\r\n", "198.51.100.1"),
            ("10.0.0.1:9", "Forwarded: for=\"[2001:db8::7]:80\", for=10.0.0.4\r\n", "[2001:db8::7]:80"),
            ("10.0.0.1:9", "Forwarded: for=\"[2001:db8::7]\";host=a\r\n", "2001:db8::7"),
            ("10.0.0.1:9", "Forwarded: for=_hidden, for=10.0.0.4\r\n", "10.0.0.4"),
            ("10.0.0.1:9", "Forwarded: for=6.6.6.6;;\r\n", "10.0.0.1:9"),
            ("10.0.0.1:9", "Forwarded: for=\"6.6.6.6\r\n", "10.0.0.1:9"),
            ("[2001:db8:1::1]:9", "X-Forwarded-For: 198.51.100.1\r\n", "198.51.100.1"),
            ("", "X-Forwarded-For: 198.51.100.1\r\n", "198.51.100.1"),
        ] {
            assert_eq!(told(peer, headers).client.to_string(), expected, "{peer} {headers}");
        }
    }

    #[test]
    fn scheme_and_host_come_from_the_outermost_proxy() {
        let seen = told("10.0.0.1:9", "X-Forwarded-Proto: HTTPS, http\r\nX-Forwarded-Host: a.example:8443, inner\r\n");
        assert_eq!((seen.secure, seen.host.as_deref()), (Some(true), Some("a.example:8443")));
        let seen =
            told("10.0.0.1:9", "Forwarded: for=1.2.3.4;proto=https;host=\"a.example:8443\", for=10.0.0.2;host=b\r\n");
        assert_eq!((seen.secure, seen.host.as_deref()), (Some(true), Some("a.example:8443")));
        let seen = told("203.0.113.7:9", "X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n");
        assert_eq!((seen.secure, seen.host), (None, None));
    }

    #[test]
    fn without_trusted_networks_a_unix_peer_speaks_for_itself() {
        assert!(!is_trusted(&PeerAddr::Unix, &[]));
    }

    proptest! {
        #[test]
        fn no_header_panics(line in "[a-z0-9=;,\"\\\\ .\\[\\]:_é]{0,40}") {
            let _ = parse_line(&line);
            let _ = node(&line);
        }
    }
}
