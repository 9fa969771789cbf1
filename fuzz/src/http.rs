//! Handshakes of both roles, and what proxies say before and in them.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use lifeline_engine::bridge::{HandshakeAnswer, PROTOCOL};
use lifeline_engine::config::{DeflateConfig, Network, Origins, ServerConfig};
use lifeline_engine::fuzzing::{self, PeerAddr};
use lifeline_engine::http::{self, HeadError, RequestHead, Response};
use lifeline_engine::{proxy_protocol, upgrade};
use tokio::io::{AsyncRead, ReadBuf};

/// What a socket has, a few bytes a read. It never has to wait.
struct Socket<'a> {
    data: &'a [u8],
    piece: usize,
}

impl AsyncRead for Socket<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let (piece, rest) = self.data.split_at(self.piece.min(self.data.len()).min(into.remaining()));
        into.put_slice(piece);
        self.data = rest;
        Poll::Ready(Ok(()))
    }
}

fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("there was nothing to wait for"),
    }
}

const LIMIT: usize = 2048;

fn trusted() -> Vec<Network> {
    ["10.0.0.0/8", "2001:db8::/32"].map(|text| Network::parse(text).unwrap()).to_vec()
}

/// The first byte's lowest bit: the peer is a trusted proxy; the others are the size of pieces.
pub fn request(data: &[u8]) {
    let Some((&flags, input)) = data.split_first() else { return };
    let read = |piece| {
        let (mut socket, mut buffer) = (Socket { data: input, piece }, BytesMut::new());
        let head = now(http::read_head(&mut socket, &mut buffer, LIMIT));
        // A refusal is told as soon as it is certain: with more bytes at once it may be another one.
        head.map(|head| (head, [&buffer, socket.data].concat()))
            .map_err(|error| !matches!(error, HeadError::Eof { .. }))
    };
    let whole = read(usize::MAX);
    assert_eq!(whole, read(1 + usize::from(flags >> 1)));
    let Ok((head, rest)) = whole else { return };
    assert!(head.len() <= LIMIT && head.len() + rest.len() == input.len());
    let peer = PeerAddr::Tcp((IpAddr::V4(Ipv4Addr::new(if flags & 1 > 0 { 10 } else { 192 }, 0, 0, 1)), 4711).into());
    let request = match RequestHead::parse(&head, &peer, false, &trusted()) {
        Ok((request, client)) => {
            assert!(flags & 1 > 0 || client == peer, "an untrusted peer spoke for another");
            request
        }
        Err(error) => return error.answer().iter().for_each(check_answer),
    };
    assert_eq!(request.host().contains(['\r', '\n']), false);
    let _ = (request.path(), request.query_pairs(), request.cookies(), request.headers(), request.remote());
    for protocols in [vec![], vec!["lifeline.v1".to_owned(), "chat".to_owned()]] {
        for origins in [Origins::Any, Origins::SameHost, Origins::List(vec!["https://*.example.org:444".into()])] {
            let compression = (!protocols.is_empty()).then(DeflateConfig::default);
            let config = ServerConfig { origins, protocols: protocols.clone(), compression, ..ServerConfig::default() };
            match upgrade::evaluate(&request, &config) {
                upgrade::Verdict::Answer(answer) => check_answer(&answer),
                upgrade::Verdict::File(_) => panic!("no files are served"),
                upgrade::Verdict::Accept(accept) => {
                    if let Some(protocol) = &accept.protocol {
                        let is_ours = protocol == PROTOCOL || protocols.contains(protocol);
                        assert!(request.protocols().contains(protocol) && is_ours, "{protocol}");
                    }
                    // The application answers what the client said, at worst.
                    let headers = request
                        .headers()
                        .into_iter()
                        .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()));
                    let answer = HandshakeAnswer {
                        status: if flags & 2 > 0 { 101 } else { 200 + u16::from(flags) },
                        headers: headers.collect(),
                        body: Bytes::new(),
                        protocol: request.protocols().pop(),
                        uncompressed: flags & 4 > 0,
                    };
                    match upgrade::decide(&request, accept, answer) {
                        upgrade::Decision::Accept { accept, headers } => {
                            check_head(&upgrade::switching_protocols(&accept, &headers, None), 101);
                        }
                        upgrade::Decision::Refuse(answer) => check_answer(&answer),
                        upgrade::Decision::Invalid { response, .. } => check_answer(&response),
                    }
                }
            }
        }
    }
}

fn check_answer(answer: &Response) {
    check_head(&answer.encode(true), answer.status);
}

/// One head in order, whatever it was made of.
fn check_head(bytes: &[u8], status: u16) {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = response.parse(bytes) else {
        panic!("no head: {}", bytes.escape_ascii());
    };
    assert_eq!(response.code, Some(status), "{}", bytes.escape_ascii());
    assert!(status != 101 || length == bytes.len(), "more than one head: {}", bytes.escape_ascii());
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    assert_eq!(end.map(|at| at + 4), Some(length), "{}", bytes.escape_ascii());
}

/// The key of the RFC's example; corpora have its answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A server's answer, whole and in pieces.
pub fn answer(data: &[u8]) {
    let Some((&flags, input)) = data.split_first() else { return };
    let offered: Vec<String> = if flags & 1 > 0 { vec!["lifeline.v1".into(), "chat".into()] } else { Vec::new() };
    let compression = (flags & 2 > 0).then(DeflateConfig::default);
    let read = |piece| {
        let mut socket = Socket { data: input, piece };
        let answer = now(fuzzing::answer(&mut socket, LIMIT, KEY, &offered, compression.as_ref()));
        answer.map(|mut answer| {
            answer.rest.extend_from_slice(socket.data);
            answer
        })
    };
    let whole = read(usize::MAX);
    let pieces = read(1 + usize::from(flags >> 1));
    match (whole, pieces) {
        (Ok(whole), pieces) => {
            if let Ok((protocol, compressed)) = &whole.verdict {
                assert!(!compressed || compression.is_some(), "compression was not offered");
                assert!(protocol.is_empty() || offered.contains(protocol), "{protocol} was not offered");
                let has = |name: &str| whole.headers.iter().any(|(it, _)| it.eq_ignore_ascii_case(name));
                assert!(["upgrade", "connection", "sec-websocket-accept"].into_iter().all(has));
            } else if let Err(why) = &whole.verdict {
                assert!(!why.contains(['\r', '\n', '\0']), "not fit for a log: {why:?}");
            }
            assert_eq!(Ok(whole), pieces);
        }
        // With more bytes at once another fault may be seen first.
        (Err(_), pieces) => assert!(pieces.is_err(), "only in pieces: {pieces:?}"),
    }
}

/// The PROXY protocol in pieces, as it is read: never a byte more than it has.
pub fn proxy(data: &[u8]) {
    let Some((&flags, input)) = data.split_first() else { return };
    let peer = PeerAddr::Unix;
    let mut socket = Socket { data: input, piece: 1 + usize::from(flags) };
    let read = now(proxy_protocol::read(&mut socket, &peer, &[]));
    let used = input.len() - socket.data.len();
    match read {
        Ok(client) => {
            assert!((15..=16 + 8192).contains(&used), "{used}");
            assert_eq!(proxy_protocol::parse(&input[..used]), proxy_protocol::Progress::Done(client.clone()));
            // The same header, with anything behind it.
            let longer = [&input[..used], b"GET / HTTP/1.1\r\n"].concat();
            let mut socket = Socket { data: &longer, piece: usize::MAX };
            assert_eq!(now(proxy_protocol::read(&mut socket, &peer, &[])).unwrap(), client);
            assert_eq!(socket.data, b"GET / HTTP/1.1\r\n");
            // A v1 line is text that people may write: as a number of bytes it stays within its limit.
            assert!(!input.starts_with(b"PROXY ") || used <= 107);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
