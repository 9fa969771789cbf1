//! Which proxy leads to a target, and the `CONNECT` that opens the way (RFC 9110 section 9.3.6).

use std::net::IpAddr;

use crate::config::{Network, Proxy};

/// The proxy settings of one client, with the environment read once: it belongs to the application,
/// which may change it while I/O threads run.
#[derive(Debug, Clone)]
pub struct ProxyRules {
    secure: Choice,
    plain: Choice,
    exceptions: Vec<Exception>,
}

#[derive(Debug, Clone)]
enum Choice {
    Direct,
    Proxy(ProxyAddress),
    /// The environment names one that cannot be used; an error only when it would be needed.
    Unusable(String),
}

/// An HTTP proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxyAddress {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) credentials: Option<String>,
}

/// One entry of `no_proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    All,
    /// The name itself and all below it; with a port only that one.
    Name(String, Option<u16>),
    Address(IpAddr, Option<u16>),
    Network(Network),
}

impl ProxyRules {
    /// Reads the environment where `proxy` says so. Call it on the application's thread.
    #[must_use]
    pub fn new(proxy: &Proxy) -> Self {
        Self::with_environment(proxy, |name| std::env::var(name).ok())
    }

    fn with_environment(proxy: &Proxy, variable: impl Fn(&str) -> Option<String>) -> Self {
        match proxy {
            Proxy::Direct => Self { secure: Choice::Direct, plain: Choice::Direct, exceptions: Vec::new() },
            Proxy::Http { host, port, credentials } => {
                let address = ProxyAddress { host: host.clone(), port: *port, credentials: credentials.clone() };
                let choice = Choice::Proxy(address);
                Self { secure: choice.clone(), plain: choice, exceptions: Vec::new() }
            }
            Proxy::Environment => {
                let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
                // Under CGI `HTTP_PROXY` is the client's header `Proxy:` (CVE-2016-5385, "httpoxy").
                let upper_http = if variable("REQUEST_METHOD").is_some() { None } else { Some("HTTP_PROXY") };
                let first = |names: &[&'static str]| {
                    names.iter().find_map(|name| Some(Choice::from_environment(name, &variable(name)?)))
                };
                let all = || first(&["all_proxy", "ALL_PROXY"]).unwrap_or(Choice::Direct);
                let plain_names: Vec<&str> = std::iter::once("http_proxy").chain(upper_http).collect();
                let exceptions = variable("no_proxy").or_else(|| variable("NO_PROXY")).unwrap_or_default();
                Self {
                    secure: first(&["https_proxy", "HTTPS_PROXY"]).unwrap_or_else(all),
                    plain: first(&plain_names).unwrap_or_else(all),
                    exceptions: exceptions
                        .split([',', ' ', '\t'])
                        .filter_map(|entry| Exception::parse(entry.trim()))
                        .collect(),
                }
            }
        }
    }

    /// The proxy to use for a target; `None`: go there directly.
    pub(crate) fn select(&self, host: &str, port: u16, tls: bool) -> Result<Option<&ProxyAddress>, String> {
        let choice = if tls { &self.secure } else { &self.plain };
        if matches!(choice, Choice::Direct) || self.exceptions.iter().any(|entry| entry.covers(host, port)) {
            return Ok(None);
        }
        match choice {
            Choice::Direct => Ok(None),
            Choice::Proxy(address) => Ok(Some(address)),
            Choice::Unusable(why) => Err(why.clone()),
        }
    }
}

impl Choice {
    fn from_environment(name: &str, value: &str) -> Self {
        ProxyAddress::parse(value.trim()).map_or_else(
            // The value may hold a password: it is not repeated.
            |why| Self::Unusable(format!("the environment variable {name} names no usable proxy: {why}")),
            Self::Proxy,
        )
    }
}

impl ProxyAddress {
    /// `[http://][user:password@]host[:port][/]`
    fn parse(value: &str) -> Result<Self, &'static str> {
        const FORM: &str = "expected http://[user:password@]host:port";
        let rest = match value.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err("only http:// proxies are supported"),
            None => value,
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (credentials, endpoint) = match authority.rsplit_once('@') {
            Some((credentials, endpoint)) => (Some(percent_decode(credentials)), endpoint),
            None => (None, authority),
        };
        let (host, port) = split_port(endpoint).ok_or(FORM)?;
        if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(FORM);
        }
        let port = match port {
            Some(0) => return Err("port 0 is not a port"),
            Some(port) => port,
            None => 80,
        };
        Ok(Self { host: host.to_owned(), port, credentials })
    }

    /// `host:port`, without the credentials.
    pub(crate) fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// The request that asks for a tunnel to `target` (`host:port`).
    pub(crate) fn connect_request(&self, target: &str) -> Vec<u8> {
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(credentials) = &self.credentials {
            request.push_str("Proxy-Authorization: Basic ");
            request.push_str(&base64(credentials.as_bytes()));
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        request.into_bytes()
    }
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self::All);
        }
        if let Some((address, prefix)) = entry.split_once('/') {
            let address: IpAddr = address.trim_matches(['[', ']']).parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            return (prefix <= longest).then_some(Self::Network(Network { address, prefix }));
        }
        if let Ok(address) = entry.parse::<IpAddr>() {
            return Some(Self::Address(address, None));
        }
        let (host, port) = split_port(entry)?;
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(Self::Address(address, port));
        }
        let name = host.strip_prefix("*.").or_else(|| host.strip_prefix('.')).unwrap_or(host);
        (!name.is_empty()).then(|| Self::Name(name.trim_end_matches('.').to_ascii_lowercase(), port))
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        let address = host.parse::<IpAddr>().ok();
        match self {
            Self::All => true,
            Self::Name(name, only) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                let below = host.strip_suffix(name.as_str());
                below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.')) && only.is_none_or(|it| it == port)
            }
            Self::Address(entry, only) => address == Some(*entry) && only.is_none_or(|it| it == port),
            Self::Network(network) => address.is_some_and(|address| contains(network, address)),
        }
    }
}

fn contains(network: &Network, address: IpAddr) -> bool {
    match (network.address, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            let shift = 32 - u32::from(network.prefix.min(32));
            let masked = |bits: u32| bits.checked_shr(shift).unwrap_or(0);
            masked(base.to_bits()) == masked(address.to_bits())
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            let shift = 128 - u32::from(network.prefix.min(128));
            let masked = |bits: u128| bits.checked_shr(shift).unwrap_or(0);
            masked(base.to_bits()) == masked(address.to_bits())
        }
        _ => false,
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`; the host without brackets.
fn split_port(endpoint: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match endpoint.strip_prefix('[') {
        Some(rest) => {
            let (host, tail) = rest.split_once(']')?;
            (host, if tail.is_empty() { None } else { Some(tail.strip_prefix(':')?) })
        }
        None => match endpoint.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (endpoint, None),
        },
    };
    match port {
        Some(port) => Some((host, Some(port.parse().ok()?))),
        None => Some((host, None)),
    }
}

/// `host:port`, an IPv6 host in brackets.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Standard alphabet with padding (RFC 4648 section 4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            if position <= chunk.len() {
                text.push(char::from(ALPHABET[(group >> (18 - 6 * position) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = (bytes[index] == b'%')
            .then(|| text.get(index + 1..index + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok()))
            .flatten();
        decoded.push(hex.unwrap_or(bytes[index]));
        index += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(variables: &[(&str, &str)]) -> ProxyRules {
        ProxyRules::with_environment(&Proxy::Environment, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn selected(rules: &ProxyRules, host: &str, tls: bool) -> Option<String> {
        rules.select(host, if tls { 443 } else { 80 }, tls).unwrap().map(ProxyAddress::authority)
    }

    #[test]
    fn base64_matches_the_rfc() {
        let texts = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(texts, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn the_scheme_selects_the_variable() {
        let rules = rules(&[("https_proxy", "http://s:1"), ("http_proxy", "p:2"), ("all_proxy", "a:3")]);
        assert_eq!(selected(&rules, "x", true).as_deref(), Some("s:1"));
        assert_eq!(selected(&rules, "x", false).as_deref(), Some("p:2"));
    }

    #[test]
    fn all_proxy_fills_in_and_both_cases_count() {
        let one = rules(&[("ALL_PROXY", "http://a:3/")]);
        assert_eq!(selected(&one, "x", true).as_deref(), Some("a:3"));
        assert_eq!(selected(&one, "x", false).as_deref(), Some("a:3"));
        let upper = rules(&[("HTTPS_PROXY", "http://[::1]:8"), ("HTTP_PROXY", "p")]);
        assert_eq!(selected(&upper, "x", true).as_deref(), Some("[::1]:8"));
        assert_eq!(selected(&upper, "x", false).as_deref(), Some("p:80"));
        let lower_first = rules(&[("HTTPS_PROXY", "u:1"), ("https_proxy", "l:1")]);
        assert_eq!(selected(&lower_first, "x", true).as_deref(), Some("l:1"));
        assert_eq!(selected(&rules(&[("https_proxy", " ")]), "x", true), None);
    }

    #[test]
    fn a_proxy_header_of_a_cgi_request_is_not_believed() {
        let cgi = rules(&[("HTTP_PROXY", "evil:1"), ("REQUEST_METHOD", "GET")]);
        assert_eq!(selected(&cgi, "x", false), None);
        let cgi = rules(&[("http_proxy", "good:1"), ("HTTP_PROXY", "evil:1"), ("REQUEST_METHOD", "GET")]);
        assert_eq!(selected(&cgi, "x", false).as_deref(), Some("good:1"));
    }

    #[test]
    fn exceptions_by_name_address_network_and_port() {
        let list =
            "localhost, .example.org *.example.net,10.0.0.0/8,192.0.2.7,2001:db8::/32,[::1]:443,port.test:81,/,a/b";
        let rules = rules(&[("all_proxy", "p:1"), ("no_proxy", list)]);
        let direct = |host: &str, port: u16| rules.select(host, port, true).unwrap().is_none();
        for host in ["localhost", "example.org", "a.b.EXAMPLE.org.", "x.example.net", "10.200.3.4", "192.0.2.7"] {
            assert!(direct(host, 443), "{host}");
        }
        for host in ["notexample.org", "example.org.evil.test", "11.0.0.1", "192.0.2.8", "2001:db9::1"] {
            assert!(!direct(host, 443), "{host}");
        }
        assert!(direct("2001:db8::5", 443));
        assert!(direct("::1", 443) && !direct("::1", 444));
        assert!(direct("port.test", 81) && !direct("port.test", 80));
        let all = self::rules(&[("all_proxy", "p:1"), ("NO_PROXY", "*")]);
        assert_eq!(selected(&all, "anything", true), None);
    }

    #[test]
    fn a_zero_prefix_covers_its_family_only() {
        let rules = rules(&[("all_proxy", "p:1"), ("no_proxy", "0.0.0.0/0")]);
        assert_eq!(selected(&rules, "8.8.8.8", true), None);
        assert!(selected(&rules, "2001:db8::1", true).is_some());
        assert!(selected(&rules, "name", true).is_some());
    }

    #[test]
    fn an_unusable_proxy_is_an_error_that_keeps_the_password_to_itself() {
        for value in ["socks5://u:secret@p:1", "https://u:secret@p:1", "http://u:secret@:1", "u:secret@p:x", "p:0"] {
            let error = rules(&[("https_proxy", value)]).select("x", 443, true).unwrap_err();
            assert!(error.contains("https_proxy") && !error.contains("secret"), "{error}");
        }
        let rules = rules(&[("https_proxy", "socks5://p:1"), ("no_proxy", "x")]);
        assert!(rules.select("x", 443, true).unwrap().is_none());
        assert!(rules.select("y", 80, false).unwrap().is_none());
    }

    #[test]
    fn credentials_are_decoded_for_the_header() {
        let address = ProxyAddress::parse("http://us%3Aer:p%40ss@proxy.test:3128").unwrap();
        assert_eq!(address.credentials.as_deref(), Some("us:er:p@ss"));
        let request = String::from_utf8(address.connect_request("[::1]:443")).unwrap();
        let encoded = base64(b"us:er:p@ss");
        assert_eq!(
            request,
            format!("CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\nProxy-Authorization: Basic {encoded}\r\n\r\n")
        );
    }

    #[test]
    fn the_option_has_no_exceptions() {
        let proxy = Proxy::Http { host: "h".into(), port: 8, credentials: None };
        let rules = ProxyRules::with_environment(&proxy, |_| Some("*".into()));
        assert_eq!(selected(&rules, "localhost", false).as_deref(), Some("h:8"));
        let direct = ProxyRules::with_environment(&Proxy::Direct, |_| Some("p:1".into()));
        assert_eq!(selected(&direct, "x", true), None);
    }
}
