//! HTTP/1.1 heads: just what a WebSocket handshake, a health check and a refusal need.

use bytes::Bytes;

/// A request's head as it came, with what the transport knows. Parsed again when asked for: a
/// connection that is never asked keeps one raw slice.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// Request line and headers up to and with the empty line.
    pub raw: Bytes,
    /// Peer's address as text; behind a trusted proxy the client's.
    pub remote: Box<str>,
    /// Came over TLS (here or at a trusted proxy).
    pub secure: bool,
}

impl RequestHead {
    /// `GET`.
    #[must_use]
    pub fn method(&self) -> &str {
        todo!()
    }

    /// As sent: path and query.
    #[must_use]
    pub fn target(&self) -> &str {
        todo!()
    }

    /// Without the query, percent-encoding kept.
    #[must_use]
    pub fn path(&self) -> &str {
        todo!()
    }

    /// After `?`, raw; empty when there is none.
    #[must_use]
    pub fn query(&self) -> &str {
        todo!()
    }

    /// All headers in order, names as sent, values as bytes.
    #[must_use]
    pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
        todo!()
    }

    /// The first header of that name (any case), when its value is visible ASCII or UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let _ = name;
        todo!()
    }
}
