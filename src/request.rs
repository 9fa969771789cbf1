//! `WsRequest`: the request that asked for a connection.

use std::sync::Arc;

use ext_php_rs::convert::IntoZval;
use ext_php_rs::exception::PhpResult;
use ext_php_rs::flags::ClassFlags;
use ext_php_rs::prelude::*;
use ext_php_rs::types::{ZendClassObject, ZendHashTable, Zval};
use lifeline_engine::http::RequestHead;

use crate::argument::PhpBytes;
use crate::classes::{self, mask};
use crate::convert::{StringZval, bytes, list, null, text};
use crate::exceptions::error;
use crate::shim;

/// The opening handshake's request. Made only for callbacks that declare it and for
/// `WsConnection::handshake()`.
#[php_class]
#[php(flags = ClassFlags::Final.union(ClassFlags::NoDynamicProperties))]
#[derive(Debug)]
pub(crate) struct WsRequest {
    head: Arc<RequestHead>,
}

#[php_impl]
impl WsRequest {
    #[php(vis = "private")]
    pub fn __construct() -> PhpResult<Self> {
        Err(error("a WsRequest is made by WsServer"))
    }

    /// The value of a header by its name in any case, several joined by ", "; null when absent.
    pub fn header(&self, name: PhpBytes) -> Option<StringZval> {
        combined(&self.head, |candidate| candidate.as_bytes().eq_ignore_ascii_case(name.0))
            .map(|value| StringZval(bytes(&value)))
    }
}

/// Values of all headers that match, joined by ", ".
fn combined(head: &RequestHead, matches: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
    let mut joined: Option<Vec<u8>> = None;
    for (name, value) in head.headers() {
        if matches(&name) {
            match &mut joined {
                Some(joined) => {
                    joined.extend_from_slice(b", ");
                    joined.extend_from_slice(&value);
                }
                None => joined = Some(value),
            }
        }
    }
    joined
}

/// Registers the class; only in MINIT.
pub(crate) fn register() -> ext_php_rs::error::Result<()> {
    let class = classes::register::<WsRequest>(&[])?;
    classes::readonly(class, c"method", mask::STRING);
    classes::readonly(class, c"target", mask::STRING);
    classes::readonly(class, c"path", mask::STRING);
    classes::readonly(class, c"remoteAddress", mask::STRING);
    classes::readonly(class, c"query", mask::ARRAY);
    classes::readonly(class, c"headers", mask::ARRAY);
    classes::readonly(class, c"cookies", mask::ARRAY);
    classes::readonly(class, c"protocols", mask::ARRAY);
    classes::readonly(class, c"origin", mask::STRING | mask::NULL);
    Ok(())
}

/// A `WsRequest` object.
pub(crate) fn build(head: &Arc<RequestHead>) -> Zval {
    let mut object = ZendClassObject::new(WsRequest { head: Arc::clone(head) });
    let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, value) in head.headers() {
        let name = name.to_ascii_lowercase();
        match headers.iter_mut().find(|(known, _)| *known == name) {
            Some((_, joined)) => {
                // RFC 6265 section 5.4: cookies are separated by semicolons.
                joined.extend_from_slice(if name == "cookie" { b"; " } else { b", " });
                joined.extend_from_slice(&value);
            }
            None => headers.push((name, value)),
        }
    }
    let find = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice());
    let values = [
        text(head.method()),
        text(head.target()),
        text(head.path()),
        text(head.remote()),
        query(head.query()),
        table(headers.iter().map(|(name, value)| (name.as_bytes(), bytes(value)))),
        find("cookie").map_or_else(|| table([]), cookies),
        list(protocols(head).iter().map(|name| text(name))),
        find("origin").map_or_else(null, bytes),
    ];
    for (index, value) in values.into_iter().enumerate() {
        classes::init_property(&mut object.std, index, value);
    }
    let mut zval = Zval::new();
    // Does not fail for an object.
    let _ = object.set_zval(&mut zval, false);
    zval
}

/// Subprotocols that the client offers.
pub(crate) fn protocols(head: &RequestHead) -> Vec<String> {
    let mut protocols = Vec::new();
    for (name, value) in head.headers() {
        if name.eq_ignore_ascii_case("sec-websocket-protocol") {
            let value = String::from_utf8_lossy(&value);
            protocols.extend(value.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned));
        }
    }
    protocols
}

/// As `$_GET` would have it.
fn query(query: &str) -> Zval {
    let mut result = Zval::new();
    // SAFETY: valid for `length` bytes; `result` is fresh.
    unsafe { shim::lifeline_parse_query(query.as_ptr().cast(), query.len(), &raw mut result) };
    result
}

/// As `$_COOKIE` would have them: the first of a name counts, values are percent-decoded.
fn cookies(header: &[u8]) -> Zval {
    let mut seen: Vec<(&[u8], Zval)> = Vec::new();
    for pair in header.split(|byte| *byte == b';') {
        let pair = pair.trim_ascii();
        let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (pair[..at].trim_ascii(), &pair[at + 1..]),
            None => (pair, &b""[..]),
        };
        if !name.is_empty() && !seen.iter().any(|(known, _)| *known == name) {
            seen.push((name, bytes(&percent_decode(value))));
        }
    }
    table(seen)
}

fn percent_decode(value: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(value.len());
    let mut at = 0;
    while let Some(byte) = value.get(at) {
        if *byte == b'%'
            && let (Some(high), Some(low)) = (digit(value.get(at + 1)), digit(value.get(at + 2)))
        {
            decoded.push((high * 16 + low) as u8);
            at += 3;
        } else {
            decoded.push(*byte);
            at += 1;
        }
    }
    decoded
}

/// An array by names; a name that is no UTF-8 shows U+FFFD.
fn table<'a>(entries: impl IntoIterator<Item = (&'a [u8], Zval)>) -> Zval {
    let mut table = ZendHashTable::new();
    for (name, value) in entries {
        // Fails only for names with a NUL byte, which HTTP does not allow.
        let _ = table.insert(String::from_utf8_lossy(name).as_ref(), value);
    }
    let mut zval = Zval::new();
    zval.set_hashtable(table);
    zval
}
