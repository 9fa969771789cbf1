//! Addresses as users write them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::{OptionError, Role, Value, fields};
use crate::config::{ClientUrl, ListenAddress, Proxy};

/// `$listen`: one URL or a list.
pub(super) fn listen(value: &Value) -> Result<Vec<ListenAddress>, OptionError> {
    let mut addresses: Vec<ListenAddress> = Vec::new();
    for text in texts(Role::Server, "$listen", value)? {
        let address = listen_address(text)?;
        let fixed = !matches!(address, ListenAddress::Tcp { port: 0, .. });
        if fixed && addresses.contains(&address) {
            return Err(problem(Role::Server, "$listen", text, "is there twice"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// `$url`: one URL or a list.
pub(super) fn client(value: &Value) -> Result<Vec<ClientUrl>, OptionError> {
    texts(Role::Client, "$url", value)?.into_iter().map(client_url).collect()
}

fn texts<'a>(role: Role, name: &str, value: &'a Value) -> Result<Vec<&'a [u8]>, OptionError> {
    let class = role.class();
    let items = match value {
        Value::List(list) if list.is_empty() => {
            return Err(OptionError::Value(format!(
                "{class}: {name} must hold at least one URL, an empty array given"
            )));
        }
        Value::List(list) => list.as_slice(),
        single @ Value::Text(_) => std::slice::from_ref(single),
        Value::Map(_) => {
            return Err(OptionError::Value(format!(
                "{class}: {name} must be a URL or a list of URLs, an array with keys given"
            )));
        }
        other => {
            return Err(OptionError::Type(format!(
                "{class}: {name} must be of type string or a list of strings, {} given",
                fields::kind(other)
            )));
        }
    };
    items
        .iter()
        .map(|item| match item {
            Value::Text(text) => Ok(text.as_slice()),
            other => {
                Err(OptionError::Type(format!("{class}: {name} must hold strings only, {} given", fields::kind(other))))
            }
        })
        .collect()
}

/// Where a server listens: `ws://host:port`, `wss://host:port`, `unix:///path`; `systemd:name` or `systemd:`,
/// `systemd+wss:` with TLS, for sockets that a service manager has passed. Port 0: any free one.
///
/// # Errors
/// Names the URL and what is wrong with it.
pub fn listen_address(url: &[u8]) -> Result<ListenAddress, OptionError> {
    let refuse = |what: &str| problem(Role::Server, "listen address", url, what);
    let text = visible(url).map_err(|what| refuse(&what))?;
    if let Some(passed) = passed_sockets(text) {
        return passed.map_err(|what| refuse(&what));
    }
    let (scheme, rest) = split_scheme(text, "ws://127.0.0.1:8080").map_err(|what| refuse(&what))?;
    let tls = match scheme.as_str() {
        "ws" => false,
        "wss" => true,
        "unix" => {
            let path = socket_path(rest).map_err(|what| refuse(&what))?;
            return Ok(ListenAddress::Unix { path });
        }
        other => return Err(refuse(&wrong_scheme(other, "ws, wss, unix and systemd"))),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (place, resource) = rest.split_at(end);
    if !matches!(resource, "" | "/") {
        return Err(refuse("must end after the port; a path goes into the option 'path'"));
    }
    if place.contains('@') {
        return Err(refuse("must not hold a user name"));
    }
    let (host, port) = authority(place).map_err(|what| refuse(&what))?;
    if host.is_empty() {
        return Err(refuse("has no host ('0.0.0.0' or '[::]' listen on all addresses)"));
    }
    let Some(port) = port else {
        return Err(refuse("has no port (0 takes any free one)"));
    };
    Ok(ListenAddress::Tcp { host, port, tls })
}

/// Where a client connects: `ws://host[:80][/path][?query]`, `wss://host[:443]…`, `unix:///path.sock`
/// or `unix:///path.sock:/resource`.
///
/// # Errors
/// Names the URL and what is wrong with it; a password in it is not repeated.
pub fn client_url(url: &[u8]) -> Result<ClientUrl, OptionError> {
    let refuse = |what: &str| problem(Role::Client, "URL", url, what);
    let text = visible(url).map_err(|what| refuse(&what))?;
    let (scheme, rest) = split_scheme(text, "ws://127.0.0.1:8080/").map_err(|what| refuse(&what))?;
    if text.contains('#') {
        return Err(refuse("must not have a fragment '#' (RFC 6455 section 3)"));
    }
    let tls = match scheme.as_str() {
        "ws" => false,
        "wss" => true,
        "unix" => {
            let (socket, resource) = match rest.find(":/") {
                Some(at) => (&rest[..at], &rest[at + 1..]),
                None => (rest, "/"),
            };
            let path = socket_path(socket).map_err(|what| refuse(&what))?;
            return Ok(ClientUrl {
                target: ListenAddress::Unix { path },
                resource: resource.to_owned(),
                credentials: None,
            });
        }
        other => return Err(refuse(&wrong_scheme(other, "ws, wss and unix"))),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (place, resource) = rest.split_at(end);
    let (credentials, place) = split_credentials(place).map_err(|what| refuse(&what))?;
    let (host, port) = authority(place).map_err(|what| refuse(&what))?;
    if host.is_empty() {
        return Err(refuse("has no host"));
    }
    let port = match port {
        None => {
            if tls {
                443
            } else {
                80
            }
        }
        Some(0) => return Err(refuse("must name a port from 1 to 65535")),
        Some(port) => port,
    };
    let resource = if resource.starts_with('/') { resource.to_owned() } else { format!("/{resource}") };
    Ok(ClientUrl { target: ListenAddress::Tcp { host, port, tls }, resource, credentials })
}

/// `http://[user:password@]host[:80]`.
pub(super) fn proxy(url: &[u8]) -> Result<Proxy, String> {
    let shown = redacted(url);
    let inner = || {
        let text = visible(url)?;
        let (scheme, rest) = split_scheme(text, "http://127.0.0.1:3128")?;
        if scheme != "http" {
            return Err(format!("has the scheme '{scheme}', only 'http' is spoken to a proxy"));
        }
        let (credentials, place) = split_credentials(rest.strip_suffix('/').unwrap_or(rest))?;
        if place.contains(['/', '?', '#']) {
            return Err("must end after the port".to_owned());
        }
        match authority(place)? {
            (host, _) if host.is_empty() => Err("has no host".to_owned()),
            (_, Some(0)) => Err("must name a port from 1 to 65535".to_owned()),
            (host, port) => Ok(Proxy::Http { host, port: port.unwrap_or(80), credentials }),
        }
    };
    inner().map_err(|what| format!("{shown} {what}"))
}

/// Splits `host[:port]`, `[v6][:port]`; the host comes back without brackets.
pub(super) fn authority(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((host, rest)) = rest.split_once(']') else {
            return Err("has a '[' without ']'".to_owned());
        };
        if host.contains('%') {
            return Err("has an IPv6 zone, which is not supported".to_owned());
        }
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(format!("has no IPv6 address in brackets: '{host}'"));
        }
        match rest {
            "" => (host, None),
            rest => match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return Err(format!("has '{rest}' where ':port' was expected")),
            },
        }
    } else {
        if text.bytes().filter(|b| *b == b':').count() > 1 {
            return Err("has an IPv6 address without brackets: write [::1]".to_owned());
        }
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        None => None,
        Some("") => return Err("has no port after ':'".to_owned()),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => match port.parse::<u16>() {
            Ok(port) => Some(port),
            Err(_) => return Err(format!("has the port {port}, which is not in 0 to 65535")),
        },
        Some(port) => return Err(format!("has the port '{port}', which is not a number")),
    };
    let is_address = host.parse::<Ipv6Addr>().is_ok() || host.parse::<Ipv4Addr>().is_ok();
    if !host.is_empty() && !is_address && !is_host_name(host) {
        return Err(format!("has a host that is not a name or an address: '{host}'"));
    }
    Ok((host.to_ascii_lowercase(), port))
}

/// Letters, digits, `-` and `_` in labels of 1 to 63, 253 in all; a dot may end it.
pub(super) fn is_host_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name that ends in a number would be an address (WHATWG URL, "ends in a number").
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(label) && !numeric
}

/// A serialised origin (RFC 6454 section 6.2), in lower case; `*.` before the host stands for any
/// subdomain, `:*` for any port.
pub(super) fn origin(text: &[u8]) -> Option<String> {
    let text = visible(text).ok()?.to_ascii_lowercase();
    if text == "null" {
        return Some(text);
    }
    let (scheme, rest) = text.split_once("://")?;
    let name = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let rest = rest.strip_prefix("*.").unwrap_or(rest);
    let (host, port) = authority(rest.strip_suffix(":*").unwrap_or(rest)).ok()?;
    (name && !host.is_empty() && port != Some(0)).then(|| text.clone())
}

/// `systemd:name` and its kind; none for other addresses.
fn passed_sockets(text: &str) -> Option<Result<ListenAddress, String>> {
    let (scheme, name) = text.split_once(':')?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "systemd" => false,
        "systemd+wss" => true,
        _ => return None,
    };
    // systemd.socket(5), FileDescriptorName=; that it begins with no slash is ours, to find 'systemd://name'.
    Some(if name.len() > 255 || name.contains(':') || name.starts_with('/') {
        Err("must be like 'systemd:name', with the FileDescriptorName= of the .socket unit".to_owned())
    } else {
        Ok(ListenAddress::Passed { name: (!name.is_empty()).then(|| name.to_owned()), tls })
    })
}

fn socket_path(rest: &str) -> Result<PathBuf, String> {
    if !rest.starts_with('/') || rest == "/" {
        return Err("must name an absolute path: unix:///run/app.sock".to_owned());
    }
    // sockaddr_un: 108 bytes with the closing NUL.
    if rest.len() > 107 {
        return Err(format!("has a path of {} bytes; a Unix socket takes 107", rest.len()));
    }
    Ok(PathBuf::from(rest))
}

fn split_scheme<'t>(text: &'t str, example: &str) -> Result<(String, &'t str), String> {
    match text.split_once("://") {
        Some((scheme, rest)) if !scheme.is_empty() => Ok((scheme.to_ascii_lowercase(), rest)),
        _ => Err(format!("has no scheme; write it like '{example}'")),
    }
}

fn wrong_scheme(scheme: &str, allowed: &str) -> String {
    let hint = match scheme {
        "http" | "tcp" | "websocket" => "; write 'ws://'",
        "https" | "ssl" | "tls" => "; write 'wss://'",
        _ => "",
    };
    format!("has the scheme '{scheme}', allowed are {allowed}{hint}")
}

fn split_credentials(place: &str) -> Result<(Option<String>, &str), String> {
    let Some((user, place)) = place.rsplit_once('@') else { return Ok((None, place)) };
    let decoded = percent_decoded(user).ok_or("has a user name or password that is not percent-encoded UTF-8")?;
    let credentials = if decoded.contains(':') { decoded } else { format!("{decoded}:") };
    Ok((Some(credentials), place))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

fn visible(url: &[u8]) -> Result<&str, String> {
    if url.is_empty() {
        return Err("is empty".to_owned());
    }
    if let Some(byte) = url.iter().find(|b| **b <= b' ' || **b == 0x7F) {
        return Err(format!("has a space or control character (0x{byte:02X})"));
    }
    if url.is_ascii() {
        return std::str::from_utf8(url).map_err(|error| error.to_string());
    }
    Err("has characters beyond ASCII: write an international host name as punycode (xn--…), percent-encode the rest"
        .to_owned())
}

fn problem(role: Role, what: &str, url: &[u8], problem: &str) -> OptionError {
    OptionError::Value(format!("{}: {what} {} {problem}", role.class(), redacted(url)))
}

/// The URL without what may be a password: whatever stands before the last `@`.
fn redacted(url: &[u8]) -> String {
    let text = String::from_utf8_lossy(url);
    let start = text.find("://").map_or(0, |at| at + 3);
    match text[start..].rfind('@') {
        Some(at) => fields::shown_text(format!("{}…{}", &text[..start], &text[start + at..]).as_bytes()),
        None => fields::shown_text(text.as_bytes()),
    }
}
