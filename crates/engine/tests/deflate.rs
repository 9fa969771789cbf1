//! permessage-deflate over real sockets, both roles, against a peer that is flate2 and little else.

mod common;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use common::{App, PATIENCE, client, local};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use lifeline_engine::bridge::{Bridge, Command, ConnId, Event, HandshakeAnswer, Reply, Sent, Stat, State};
use lifeline_engine::config::{DeflateConfig, ServerConfig, SlowConsumer};
use rustix::net::{SendFlags, getpeername, send};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// A peer that compresses all that it sends.
struct Peer {
    stream: TcpStream,
    /// What the server has answered of extensions.
    agreed: String,
    compress: Compress,
    decompress: Decompress,
    /// The server's and our windows are kept.
    takeover: (bool, bool),
}

/// A message as it came.
#[derive(Debug, PartialEq, Eq)]
struct Got {
    opcode: u8,
    compressed: bool,
    wire: Vec<u8>,
    payload: Vec<u8>,
}

fn ask(address: &str, extensions: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: {extensions}\r\n\r\n"
    )
    .expect("request");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).expect("head"), 1);
        head.push(byte[0]);
    }
    (stream, String::from_utf8(head).expect("text"))
}

impl Peer {
    fn connect(address: &str, extensions: &str) -> Self {
        let (stream, head) = ask(address, extensions);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let agreed = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ")).unwrap_or_default();
        let bits = |name: &str| {
            agreed.split_once(name).map_or(15, |(_, rest)| rest[1..].split(';').next().unwrap().parse().unwrap())
        };
        Self {
            stream,
            compress: Compress::new_with_window_bits(Compression::new(6), false, bits("client_max_window_bits").max(9)),
            // No larger than was agreed on: what refers further back is an error.
            decompress: Decompress::new_with_window_bits(false, bits("server_max_window_bits")),
            takeover: (!agreed.contains("server_no_context"), !agreed.contains("client_no_context")),
            agreed: agreed.to_owned(),
        }
    }

    fn deflate(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut wire = Vec::with_capacity(payload.len() + 1000);
        self.compress.compress_vec(payload, &mut wire, FlushCompress::Sync).expect("compressed");
        wire.truncate(wire.len() - 4);
        if !self.takeover.1 {
            self.compress.reset();
        }
        wire
    }

    /// In frames of `step` bytes.
    fn send(&mut self, payload: &[u8], step: usize) {
        let wire = self.deflate(payload);
        let count = wire.len().div_ceil(step);
        let mut bytes = Vec::new();
        for (index, piece) in wire.chunks(step).enumerate() {
            let first = if index == 0 { 0x41 } else { 0x00 };
            let last = if index + 1 == count { 0x80 } else { 0x00 };
            put_frame(&mut bytes, first | last, piece);
        }
        self.stream.write_all(&bytes).expect("send");
    }

    /// The next message: its first byte without FIN, whether it was compressed, and what it comes to.
    fn receive(&mut self) -> Got {
        let (first, wire) = self.frame();
        assert_eq!(first & 0x80, 0x80, "whole");
        let compressed = first & 0x40 > 0;
        let payload = if compressed {
            let input = [&wire, &[0, 0, 0xFF, 0xFF][..]].concat();
            let mut payload = Vec::with_capacity(4 << 20);
            self.decompress.decompress_vec(&input, &mut payload, FlushDecompress::Sync).expect("inflated");
            if !self.takeover.0 {
                self.decompress.reset(false);
            }
            payload
        } else {
            wire.clone()
        };
        Got { opcode: first & 0x0F, compressed, wire, payload }
    }

    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).expect("a frame");
        let mut long = [0; 8];
        let length = match head[1] {
            126 => {
                self.stream.read_exact(&mut long[6..]).expect("length");
                u64::from_be_bytes(long)
            }
            127 => {
                self.stream.read_exact(&mut long).expect("length");
                u64::from_be_bytes(long)
            }
            short => short.into(),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut payload).expect("payload");
        (head[0], payload)
    }

    /// The status of the server's close frame.
    fn closed(&mut self) -> u16 {
        loop {
            let (first, payload) = self.frame();
            if first == 0x88 {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }
}

/// With a mask that changes nothing.
fn put_frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    out.push(first);
    match payload.len() {
        short @ 0..=125 => out.push(0x80 | short as u8),
        long @ 126..=0xFFFF => {
            out.push(0xFE);
            out.extend((long as u16).to_be_bytes());
        }
        long => {
            out.push(0xFF);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(payload);
}

fn compressing(change: impl FnOnce(&mut DeflateConfig)) -> impl FnOnce(&mut ServerConfig) {
    move |config| {
        let mut deflate = DeflateConfig { threshold: 100, ..DeflateConfig::default() };
        change(&mut deflate);
        config.compression = Some(deflate);
        config.heartbeat.rules.mode = lifeline_proto::heartbeat::Mode::Off;
    }
}

/// Text that refers to earlier messages, and far back within itself.
fn text(size: usize, seed: usize) -> String {
    let mut text = String::new();
    while text.len() < size {
        let number = text.len() * 7 % 1013;
        let _ = writeln!(text, "{{\"n\":{number},\"seed\":{seed},\"what\":\"a line of some words\"}}");
    }
    text.truncate(size);
    text
}

fn echo(app: &mut App, count: usize) {
    let mut left = count;
    while left > 0 {
        if let Event::Message { conn, data, binary, .. } = app.event() {
            let bytes = data.len();
            if data.len() < 40_000 || !app.local.send_now(conn, &data, binary) {
                app.submit(Command::Send { conn, data, binary });
            }
            app.submit(Command::Consumed { conn, messages: 1, bytes });
            left -= 1;
        }
    }
}

#[test]
fn messages_of_all_sizes_come_and_go_whatever_was_agreed_on() {
    let sizes = [100, 3000, 99, 0, 70_000, 5000, 1 << 20, 400, 300_000];
    for (takeover, bits, offer) in [
        (false, 15, "permessage-deflate"),
        (false, 9, "permessage-deflate; client_max_window_bits"),
        (true, 15, "permessage-deflate; client_max_window_bits"),
        (true, 15, "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10"),
        (true, 15, "permessage-deflate; server_no_context_takeover"),
        (true, 15, "permessage-deflate; client_no_context_takeover"),
        (true, 11, "permessage-deflate; client_max_window_bits=9; server_max_window_bits=15"),
    ] {
        let mut app = App::new();
        let (server, address) = app.serve(|config| {
            compressing(|deflate| {
                deflate.context_takeover = takeover;
                deflate.window_bits = bits;
            })(config);
            config.limits.max_message = 2 << 20;
            config.send.limit = 8 << 20;
            config.limits.inbound = 8 << 20;
        });
        let mut peer = Peer::connect(&address, offer);
        assert!(peer.agreed.starts_with("permessage-deflate"), "{offer}");
        let far = std::thread::spawn(move || {
            for (index, size) in sizes.into_iter().enumerate() {
                let payload = text(size, index);
                if size == 0 {
                    let mut bytes = Vec::new();
                    put_frame(&mut bytes, 0xC1, &[0]);
                    peer.stream.write_all(&bytes).expect("send");
                } else {
                    peer.send(payload.as_bytes(), [7000, 1 << 20, 10][index % 3]);
                }
                let got = peer.receive();
                assert_eq!(got.opcode, 1);
                assert_eq!(got.compressed, size >= 100, "{size}");
                assert!(got.payload == payload.as_bytes(), "{size}: {} came", got.payload.len());
                assert!(!got.compressed || got.wire.len() < size / 3 * 2, "{size}: {}", got.wire.len());
            }
            peer
        });
        echo(&mut app, sizes.len());
        let peer = far.join().expect("peer");
        let counted = |path: &[&str]| app.stat(server, &[&["compression"], path].concat());
        assert_eq!(counted(&["connections"]), 1);
        assert_eq!(counted(&["messages", "in"]), int(sizes.len()));
        assert_eq!(counted(&["messages", "out"]), int(sizes.len()) - 2, "two are short");
        assert_eq!(counted(&["bytes", "in"]), int(sizes.iter().sum()));
        assert_eq!(counted(&["bytes", "out"]), int(sizes.iter().sum()) - 99);
        assert!(counted(&["wireBytes", "out"]) < counted(&["bytes", "out"]) / 2);
        assert!(counted(&["wireBytes", "in"]) < counted(&["bytes", "in"]) / 2);
        assert!(counted(&["wireBytes", "out"]) < app.stat(server, &["bytes", "out"]));
        drop(peer);
    }
}

#[test]
fn it_is_off_unless_asked_for() {
    let mut app = App::new();
    let (_, address) = app.serve(|_| {});
    let mut peer = Peer::connect(&address, "permessage-deflate");
    assert_eq!(peer.agreed, "");
    peer.send(b"compressed all the same", 100);
    assert_eq!(peer.closed(), 1002);
    assert_eq!(app.wait_close().0, 1002);
}

#[test]
fn the_application_may_decline_for_a_connection() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        compressing(|_| {})(config);
        config.ask_handshake = true;
    });
    let far = std::thread::spawn(move || {
        let declined = Peer::connect(&address, "permessage-deflate");
        assert_eq!(declined.agreed, "");
        let other = Peer::connect(&address, "permessage-deflate");
        assert_ne!(other.agreed, "");
        (declined, other)
    });
    for uncompressed in [true, false] {
        let ticket = app.wait(|event| if let Event::Handshake { ticket, .. } = event { Some(*ticket) } else { None });
        let answer = HandshakeAnswer { status: 101, uncompressed, ..HandshakeAnswer::default() };
        app.submit(Command::AnswerHandshake { ticket, answer });
    }
    let _peers = far.join().expect("peers");
    app.wait_open();
    assert_eq!(app.stat(server, &["compression", "connections"]), 1);
}

#[test]
fn a_header_that_is_no_list_of_extensions_is_refused() {
    let app = App::new();
    let (_, address) = app.serve(compressing(|_| {}));
    let (_, head) = ask(&address, "permessage-deflate; =");
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    let (_, head) = ask(&address, "permessage-deflate; server_max_window_bits=8");
    assert!(head.starts_with("HTTP/1.1 101 ") && !head.contains("Sec-WebSocket-Extensions"), "{head}");
}

#[test]
fn what_breaks_the_rules_ends_the_connection() {
    let whole = |payload: &[u8]| {
        let mut deflater = Compress::new(Compression::new(6), false);
        let mut wire = Vec::with_capacity(payload.len() + 100);
        deflater.compress_vec(payload, &mut wire, FlushCompress::Sync).unwrap();
        wire.truncate(wire.len() - 4);
        wire
    };
    let hello = whole(b"Hello");
    let frames = |frames: &[(u8, &[u8])]| {
        let mut bytes = Vec::new();
        for (first, payload) in frames {
            put_frame(&mut bytes, *first, payload);
        }
        bytes
    };
    for (what, code, bytes) in [
        ("a compressed continuation", 1002, frames(&[(0x41, &hello[..3]), (0xC0, &hello[3..])])),
        ("a compressed continuation of a plain message", 1002, frames(&[(0x01, b"Hel"), (0xC0, &hello)])),
        ("a compressed ping", 1002, frames(&[(0xC9, b"")])),
        ("a compressed close", 1002, frames(&[(0xC8, b"")])),
        ("reserved bit 2", 1002, frames(&[(0xE1, &hello)])),
        ("invalid data", 1007, frames(&[(0xC2, b"\x07\x07\x07")])),
        ("a message cut short", 1007, frames(&[(0xC2, &whole(&text(1000, 1).into_bytes())[..50])])),
        ("text that is not UTF-8", 1007, frames(&[(0xC1, &whole(b"ab\xFFcd"))])),
        ("text that ends within a letter", 1007, frames(&[(0xC1, &whole("abcd€".as_bytes())[..6])])),
        (
            "invalid text before its end",
            1007,
            frames(&[(0x41, &[&whole(b"ab\xFF")[..], &[0, 0, 0xFF, 0xFF]].concat())]),
        ),
        ("more than limits.maxMessage", 1009, frames(&[(0xC2, &whole(&[0; 3001]))])),
        (
            "more than limits.maxMessage, later",
            1009,
            frames(&[(0x42, &whole(&[0; 9000])[..8]), (0x00, &whole(&[0; 9000])[8..])]),
        ),
        ("more than limits.maxFrame", 1009, frames(&[(0xC2, &[0; 2001])])),
    ] {
        let mut app = App::new();
        let (_, address) = app.serve(|config| {
            compressing(|_| {})(config);
            config.limits.max_message = 3000;
            config.limits.max_frame = 2000;
        });
        let mut peer = Peer::connect(&address, "permessage-deflate");
        peer.stream.write_all(&frames(&[(0xC2, &whole(&[0; 3000]))])).expect("send");
        peer.stream.write_all(&bytes).expect("send");
        let (conn, data) = app.wait_message();
        assert_eq!(data.len(), 3000, "exactly the bound");
        app.submit(Command::Consumed { conn, messages: 1, bytes: data.len() });
        assert_eq!(app.wait_close().0, code, "{what}");
        assert_eq!(peer.closed(), code, "{what}");
    }
}

#[test]
fn a_broadcast_is_compressed_once_for_each_window() {
    let mut app = App::new();
    let (server, address) = app.serve(compressing(|deflate| deflate.context_takeover = true));
    let spare = "permessage-deflate; server_no_context_takeover";
    let mut peers = Vec::new();
    for offer in [
        "none",
        spare,
        &format!("{spare}; server_max_window_bits=9"),
        spare,
        &format!("{spare}; server_max_window_bits=9"),
        "permessage-deflate",
        "permessage-deflate; server_max_window_bits=10",
    ] {
        peers.push(Peer::connect(&address, offer));
        app.wait_open();
    }
    let message = text(20_000, 1);
    let mut wires = Vec::new();
    for round in 0..3 {
        let data = Bytes::copy_from_slice(message.as_bytes());
        let Reply::Count(7) = app.submit(Command::Broadcast { server, data, binary: false, except: vec![] }) else {
            panic!()
        };
        wires = Vec::new();
        for peer in &mut peers {
            let got = peer.receive();
            assert!(got.payload == message.as_bytes(), "{}", peer.agreed);
            assert_eq!(got.compressed, !peer.agreed.is_empty());
            wires.push(got.wire);
        }
        assert!(wires[1] == wires[3] && wires[2] == wires[4], "shared");
        assert!(wires[1].len() < wires[2].len(), "a larger window does better: {} {}", wires[1].len(), wires[2].len());
        assert!(wires[2].len() < message.len() / 2);
        assert_eq!(round > 0, 4 * wires[5].len() < 3 * wires[1].len(), "the window is kept: {}", wires[5].len());
    }
    assert_eq!(wires.len(), 7);
    assert_eq!(app.stat(server, &["compression", "messages", "out"]), 18);
}

/// Sixty messages of a MiB each come in one read.
#[test]
fn a_little_input_does_not_become_a_lot_at_once() {
    let mut app = App::with_threads(1);
    let (server, address) = app.serve(|config| {
        compressing(|_| {})(config);
        config.limits.max_message = 1 << 20;
        config.limits.inbound = 2 << 20;
    });
    let mut peer = Peer::connect(&address, "permessage-deflate");
    let zeros = peer.deflate(&vec![0; 1 << 20]);
    let mut bytes = Vec::new();
    for _ in 0..60 {
        put_frame(&mut bytes, 0xC2, &zeros);
    }
    assert!(bytes.len() < 64 * 1024 + 10_000, "{}", bytes.len());
    peer.stream.write_all(&bytes).expect("send");
    let mut most = 0;
    let mut waiting = Vec::new();
    for _ in 0..60 {
        let (conn, data) = app.wait_message();
        assert_eq!(data.len(), 1 << 20);
        waiting.push((conn, data));
        let held = app.stat(server, &["bytes", "inboundWaiting"]);
        most = most.max(held);
        if waiting.len() == 2 {
            for (conn, data) in waiting.drain(..) {
                app.submit(Command::Consumed { conn, messages: 1, bytes: data.len() });
            }
        }
    }
    assert!(most <= (3 << 20) + 4096, "{most} bytes were waiting, limits.inbound is 2 MiB");
}

/// What a policy drops must not be in the window that the peer has.
#[test]
fn with_context_takeover_nothing_that_was_compressed_is_dropped() {
    for policy in [SlowConsumer::DropNewest, SlowConsumer::DropOldest] {
        let mut app = App::new();
        let (server, address) = app.serve(|config| {
            compressing(|deflate| deflate.context_takeover = true)(config);
            config.send.policy = policy;
            config.send.limit = 300_000;
        });
        let mut peer = Peer::connect(&address, "permessage-deflate");
        let conn = app.wait_open();
        // Noise, so that the socket's buffers fill, each with a place of the one before.
        let mut noise: Vec<u8> = Vec::new();
        let mut state = 1_u64;
        let mut dropped = 0;
        for index in 0..600_u32 {
            let earlier = noise.clone();
            noise.clear();
            noise.extend(index.to_be_bytes());
            while noise.len() < 20_000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                noise.extend((state >> 16).to_be_bytes());
            }
            noise.extend(earlier.get(..10_000).unwrap_or_default());
            let sent = app.submit(Command::Send { conn, data: noise.clone().into(), binary: true });
            dropped += usize::from(matches!(sent, Reply::Sent(Sent::Dropped)));
        }
        let lost = app.stat(server, &["messages", "dropped"]);
        assert!(lost > 50, "{policy:?}: only {lost} of 600 were dropped");
        assert!(policy == SlowConsumer::DropOldest || dropped > 50);
        let mut last = None;
        for _ in 0..600 - lost {
            // Would not inflate, or not to this.
            let got = peer.receive();
            let index = u32::from_be_bytes(got.payload[..4].try_into().unwrap());
            assert!(Some(index) > last, "{index} after {last:?}");
            assert!(got.payload.len() >= 20_000);
            last = Some(index);
        }
    }
}

/// The server's socket of a connection, of which this process has both ends.
fn server_side(peer: &Peer) -> rustix::fd::OwnedFd {
    let local = peer.stream.local_addr().expect("address");
    let process = pidfd_open(getpid(), PidfdFlags::empty()).expect("this process");
    let numbers = std::fs::read_dir("/proc/self/fd").expect("descriptors");
    numbers
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok())
        .find(|fd| getpeername(fd).ok().flatten().and_then(|name| SocketAddr::try_from(name).ok()) == Some(local))
        .expect("the other end")
}

/// Fills it behind the server's back, to the last byte that the kernel takes; returns how many.
fn fill(socket: &rustix::fd::OwnedFd) -> usize {
    let mut filled = 0;
    let mut quiet = 0;
    // What is under way between the two ends arrives, and makes room once more.
    while quiet < 20 {
        let chunk = [0; 16_384];
        let size = if quiet == 0 { chunk.len() } else { 1 };
        match send(socket, &chunk[..size], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => (filled, quiet) = (filled + count, 0),
            Err(rustix::io::Errno::AGAIN) => {
                quiet += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
    filled
}

/// Each way that a message takes may find the socket full before its first byte.
#[test]
fn what_a_full_socket_does_not_take_is_compressed_once() {
    for way in ["send at once", "queue", "broadcast"] {
        let mut app = App::new();
        let (server, address) = app.serve(compressing(|_| {}));
        let mut peer = Peer::connect(&address, "permessage-deflate");
        let conn = app.wait_open();
        let filled = fill(&server_side(&peer));
        let message = text(1500, 1);
        match way {
            "send at once" if app.local.send_now(conn, message.as_bytes(), false) => {}
            "send at once" | "queue" => drop(app.send(conn, &message)),
            _ => {
                let data = Bytes::copy_from_slice(message.as_bytes());
                app.submit(Command::Broadcast { server, data, binary: false, except: vec![] });
            }
        }
        assert!(app.stat(server, &["bytes", "sendBuffered"]) >= 1500, "{way}: it was not full");
        peer.stream.read_exact(&mut vec![0; filled]).expect("what fills it");
        assert!(peer.receive().payload == message.as_bytes());
        let counted = ["messages", "bytes"].map(|what| app.stat(server, &["compression", what, "out"]));
        assert_eq!(counted, [1, 1500], "{way}");
    }
}

#[test]
fn windows_are_kept_while_there_is_memory_for_them() {
    let mut app = App::new();
    let (server, address) = app.serve(|config| {
        compressing(|deflate| deflate.context_takeover = true)(config);
        config.limits.memory = 4 << 20;
        config.send.limit = 1 << 20;
        config.sessions.resume_bytes = 1 << 20;
    });
    let before = app.stat(server, &["memory", "used"]);
    let mut peers = Vec::new();
    for _ in 0..12 {
        peers.push(Peer::connect(&address, "permessage-deflate"));
        app.wait_open();
    }
    let kept = peers.iter().filter(|peer| peer.agreed == "permessage-deflate").count();
    assert!((4..12).contains(&kept), "{kept}");
    assert!(peers[..kept].iter().all(|peer| peer.agreed == "permessage-deflate"), "the first have them");
    assert_eq!(peers[11].agreed, "permessage-deflate; server_no_context_takeover; client_no_context_takeover");
    let used = app.stat(server, &["memory", "used"]);
    assert!(used > before + int(kept) * 300_000 && used < 4 << 20, "{used}");
    drop(peers);
    for _ in 0..12 {
        app.wait_close();
    }
    assert!(app.stat(server, &["memory", "used"]) <= before, "given back");
}

fn int(number: usize) -> i64 {
    i64::try_from(number).unwrap()
}

fn port(address: &str) -> u16 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_client_compresses_what_the_server_agrees_to() {
    for (ours, theirs, agreed) in [
        (None, Some((false, 15)), None),
        (Some((false, 15)), None, None),
        (
            Some((false, 15)),
            Some((true, 15)),
            Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        ),
        (Some((true, 15)), Some((true, 15)), Some("permessage-deflate")),
        (
            Some((true, 10)),
            Some((true, 12)),
            Some("permessage-deflate; server_max_window_bits=10; client_max_window_bits=10"),
        ),
        (
            Some((true, 15)),
            Some((false, 9)),
            Some(
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; client_max_window_bits=9",
            ),
        ),
    ] {
        for protocols in [vec![], vec!["lifeline.v1".to_owned()]] {
            let deflate = |of: Option<(bool, u8)>| {
                of.map(|(context_takeover, window_bits)| DeflateConfig {
                    context_takeover,
                    window_bits,
                    ..DeflateConfig::default()
                })
            };
            let mut app = App::new();
            let (server, address) = app.serve(|config| {
                config.compression = deflate(theirs);
                config.authenticate = false;
            });
            let mut config = client(vec![local(port(&address))]);
            config.compression = deflate(ours);
            config.protocols = protocols.clone();
            let id = app.connect(config);
            let conn = app.opened(server).await;
            for round in 0..3 {
                for size in [10, 2000, 100_000, 700_000] {
                    let message = text(size, round);
                    app.client_send(id, message.clone());
                    assert!(app.message(server).await == message.as_bytes());
                    let reply = app.submit(Command::Send { conn, data: message.clone().into(), binary: false });
                    assert!(matches!(reply, Reply::Sent(Sent::Queued)), "{reply:?}");
                    assert!(app.message(id).await == message.as_bytes());
                }
            }
            let of = |endpoint, path: &[&str]| app.stat(endpoint, &[&["compression"], path].concat());
            let many = if agreed.is_some() { 9 } else { 0 };
            for (endpoint, direction) in [(server, "in"), (server, "out"), (id, "in"), (id, "out")] {
                assert_eq!(of(endpoint, &["messages", direction]), many, "{endpoint:?} {direction} {protocols:?}");
            }
            assert_eq!(of(server, &["wireBytes", "in"]), of(id, &["wireBytes", "out"]));
            assert_eq!(of(server, &["bytes", "out"]), of(id, &["bytes", "in"]));
            assert!(of(id, &["wireBytes", "in"]) <= of(id, &["bytes", "in"]) / 2);
            assert_eq!(shown(&app, id), agreed.map(str::to_owned));
            assert_eq!(shown_of(&app, conn), agreed.map(str::to_owned));
            app.close(id);
            app.reach(State::Closed).await;
        }
    }
}

fn shown(app: &App, endpoint: lifeline_engine::bridge::EndpointId) -> Option<String> {
    let stats = app.stats(endpoint);
    let (_, Stat::Tree(tree)) = stats.0.into_iter().find(|(key, _)| key == "compression").unwrap() else { panic!() };
    match &tree.0[0] {
        (key, Stat::Text(agreed)) if key == "agreed" => Some(agreed.clone()),
        (_, Stat::None) => None,
        other => panic!("{other:?}"),
    }
}

fn shown_of(app: &App, conn: ConnId) -> Option<String> {
    let Reply::Stats(stats) = app.submit(Command::ConnStats { conn }) else { panic!() };
    match stats.0.into_iter().find(|(key, _)| key == "compression").unwrap().1 {
        Stat::None => None,
        Stat::Tree(tree) => match &tree.0[0].1 {
            Stat::Text(agreed) => Some(agreed.clone()),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}
