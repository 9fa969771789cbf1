//! What is fuzzed: readers of bytes from the network and from disks, and both machines with a peer that sends what it
//! likes.

mod deflate;
mod disk;
mod http;
mod naive;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lifeline_proto::Time;
use lifeline_proto::deflate::INFLATER_SIZE;
use lifeline_proto::frame::{Decoder, FrameLimits, Item, Opcode, Role, put_frame};
use lifeline_proto::v1::client::{Client, ClientConfig, Event};
use lifeline_proto::v1::ring::Retention;
use lifeline_proto::v1::server::{LinkId, Output, Server, ServerConfig};
use lifeline_proto::v1::wire::{ClientFrame, OutboxRange, ServerFrame};
use lifeline_proto::v1::{ChannelName, Key, Secret};
use rand::RngCore;

pub use deflate::{deflate, extensions};
pub use disk::{kept, log};
pub use http::{answer, proxy, request};
use naive::Read;

/// What a process says on a worker's socket: it is refused or understood, in whatever pieces it comes.
pub fn worker(data: &[u8]) {
    let Some((&piece, bytes)) = data.split_first() else { return };
    let whole = lifeline_engine::fuzzing::worker(bytes, usize::MAX);
    assert_eq!(lifeline_engine::fuzzing::worker(bytes, 1 + usize::from(piece)), whole);
}

/// A frame of `lifeline.v1` from either end: what can be read is written in a way that reads the same.
///
/// The first byte's lowest bit: binary; the next: a server's.
pub fn frames(data: &[u8]) {
    let Some((flags, message)) = data.split_first() else { return };
    let (binary, message) = (flags & 1 > 0, Bytes::copy_from_slice(message));
    if flags & 2 > 0 {
        if let Ok(Some(frame)) = ServerFrame::decode(&message, binary, 4096) {
            let written = frame.encode();
            let again = ServerFrame::decode(&written.data, written.binary, 4096);
            assert_eq!(again, Ok(Some(frame)), "{written:?}");
        }
    } else if let Ok(Some(frame)) = ClientFrame::decode(&message, binary, 4096) {
        let written = frame.encode();
        let again = ClientFrame::decode(&written.data, written.binary, 4096);
        assert_eq!(again, Ok(Some(frame)), "{written:?}");
    }
}

const LIMITS: FrameLimits = FrameLimits { max_message: 4096, max_frame: 3000, max_fragments: 20 };

/// What a decoder makes of `input`, given a few bytes at a time, or so many as it has room for.
fn messages(role: Role, input: Vec<u8>, chunk: usize, into_room: bool) -> (Vec<Read>, Option<u16>) {
    messages_of(role, input, chunk, into_room, None)
}

/// The same. `takeover`: permessage-deflate was agreed on, with or without it.
fn messages_of(
    role: Role,
    mut input: Vec<u8>,
    chunk: usize,
    into_room: bool,
    takeover: Option<bool>,
) -> (Vec<Read>, Option<u16>) {
    let mut decoder = Decoder::new(role, LIMITS);
    if let Some(takeover) = takeover {
        decoder = decoder.with_inflation(takeover);
    }
    let mut items = Vec::new();
    let mut note = |item| {
        items.push(match item {
            Item::Message { data, binary: true } => Read::Binary(data.into()),
            Item::Message { data, binary: false } => Read::Text(data.into()),
            Item::Ping(data) => Read::Ping(data.into()),
            Item::Pong(data) => Read::Pong(data.into()),
            Item::Close(close) => Read::Close(close),
        });
    };
    for piece in input.chunks_mut(chunk) {
        let mut rest = piece;
        while !rest.is_empty() {
            let decoded = if into_room && let Some(room) = decoder.payload_room(1) {
                let used = room.len().min(rest.len());
                room[..used].copy_from_slice(&rest[..used]);
                decoder.filled(used).map(|item| (used, item))
            } else {
                decoder.decode(rest)
            };
            let (used, item) = match decoded {
                Ok(decoded) => decoded,
                Err(violation) => return (items, Some(violation.code)),
            };
            assert!(used > 0 || item.is_some(), "nothing was read");
            assert!(decoder.buffered() <= 4096 + 3000 + if takeover.is_some() { INFLATER_SIZE } else { 0 });
            item.into_iter().for_each(&mut note);
            rest = &mut rest[used..];
        }
    }
    (items, None)
}

/// WebSocket frames: in whatever pieces they come, what a naive reader makes of them; what is written is read.
///
/// The first byte's lowest bit is the role, the others are the size of pieces.
pub fn decoder(data: &[u8]) {
    let Some((flags, input)) = data.split_first() else { return };
    let role = if flags & 1 > 0 { Role::Server } else { Role::Client };
    let expected = naive::read(role, input, LIMITS);
    let chunk = 1 + usize::from(flags >> 1);
    for (chunk, into_room) in [(usize::MAX, false), (chunk, false), (chunk, true)] {
        assert_eq!(messages(role, input.to_vec(), chunk, into_room), expected, "{chunk}, {into_room}");
    }
    let mask = (role == Role::Server).then_some([1, 2, 3, *flags]);
    let payload = &input[..input.len().min(3000)];
    let mut out = BytesMut::new();
    put_frame(&mut out, Opcode::Binary, payload, mask);
    let message = Read::Binary(payload.to_vec());
    assert_eq!(messages(role, out.to_vec(), usize::MAX, false), (vec![message], None));
}

/// SplitMix64, as the vectors in `tests/vectors` use it, so that their tokens fit.
struct Numbers(u64);

impl RngCore for Numbers {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        dest.fill_with(|| self.next_u32() as u8);
    }
}

fn channel(byte: u8) -> ChannelName {
    ChannelName::new(if byte & 1 > 0 { "news" } else { "orders/7" }).unwrap()
}

/// Steps are separated by 0xFF: a letter says what happens, a byte to whom, the rest is a message.
fn steps(data: &[u8]) -> impl Iterator<Item = (u8, u8, Bytes)> {
    data.split(|byte| *byte == 0xFF).take(300).filter_map(|step| {
        let [what, whom, message @ ..] = step else { return None };
        Some((*what, *whom, Bytes::copy_from_slice(message)))
    })
}

/// A server and four connections whose peers send what they like.
pub fn server(data: &[u8]) {
    let config = ServerConfig {
        retention: Retention { count: 3, bytes: 10_000, age: Duration::from_secs(60) },
        max_message: 2000,
        window: 2000,
        send_limit: 2000,
        max_inboxes: 3,
        max_sessions: 5,
        max_subscriptions: 2,
        redelivery_limit: 2,
        authorise: true,
        authenticate: data.first().is_some_and(|byte| *byte == b'!'),
        snapshots: data.first().is_some_and(|byte| matches!(byte, b'!' | b'?')),
        store: data.first().is_some_and(|byte| *byte == b'!'),
        ..ServerConfig::default()
    };
    let mut server = Server::new(config, Numbers(1));
    let mut now = Time::ZERO;
    // The connection of each peer, and whether it is there.
    let mut links = [(0, false); 4];
    let mut next = 0;
    let mut waiting = VecDeque::new();
    let mut sessions = Vec::new();
    let mut questions = VecDeque::new();
    for (what, whom, message) in steps(data) {
        let peer = usize::from(whom) % 4;
        let link = LinkId(links[peer].0);
        match what {
            b'+' => {
                if std::mem::replace(&mut links[peer], (next, true)).1 {
                    server.handle_lost(now, link);
                }
                server.handle_connected(now, LinkId(next));
                next += 1;
            }
            b'-' => {
                links[peer].1 = false;
                server.handle_lost(now, link);
            }
            b'b' => server.handle_batch_end(),
            b'd' | b'f' | b'n' | b'N' => {
                if let Some((outbox, id)) = waiting.pop_front() {
                    server.handle_start(&outbox, id);
                    match what {
                        b'd' => server.handle_done(now, &outbox, id),
                        b'f' => server.handle_failed(now, &outbox, id),
                        _ => server.handle_rejected(now, &outbox, id, 1, String::new(), what == b'N'),
                    }
                }
            }
            b'p' => drop(server.publish(now, &channel(whom), &message, false)),
            b's' => {
                if let Some(session) = sessions.get(usize::from(whom) % sessions.len().max(1)) {
                    server.send(now, session, message, false);
                }
            }
            b'k' | b'l' => {
                if let Some(session) = sessions.get(usize::from(whom / 2) % sessions.len().max(1)) {
                    if what == b'k' {
                        server.subscribe(now, session, &channel(whom));
                    } else {
                        server.unsubscribe(session, &channel(whom));
                    }
                }
            }
            b't' => {
                now = now + Duration::from_millis(u64::from(whom) * 500);
                server.handle_timeout(now);
            }
            b'x' => drop(server.shed(usize::from(whom) * 10)),
            b'X' => server.drain(now, Duration::from_secs(1)),
            b'a' => match questions.pop_front() {
                Some(Output::Authenticate { link, .. }) => {
                    server.handle_authenticated(now, link, if whom == b'0' { Err(4003) } else { Ok(None) });
                }
                Some(Output::Authorise { link, channel }) => {
                    server.handle_authorised(now, link, &channel, whom != b'0');
                }
                Some(Output::Snapshot { link, channel, position }) => {
                    let state = (whom != b'0').then_some((message, false));
                    server.handle_snapshot(link, &channel, &position, state);
                }
                Some(Output::Store { outbox, handled }) => server.handle_stored(now, &outbox, handled),
                _ => {}
            },
            b'm' => server.handle_message(now, link, &message, false),
            b'M' => server.handle_message(now, link, &message, true),
            _ => {}
        }
        let mut written = 0;
        server.handle_written(server.place());
        while let Some(output) = server.poll_output() {
            match output {
                Output::Transmit { link } => {
                    // Some read, some do not.
                    while what != b's'
                        && server.poll_transmit(now, link).is_some_and(|outgoing| {
                            ServerFrame::decode(&outgoing.encode().data, false, 1 << 20).is_ok()
                        })
                    {
                        written += 1;
                        assert!(written < 2000, "it never ends");
                    }
                }
                Output::Deliver { outbox, delivery, .. } => waiting.push_back((outbox, delivery.id)),
                Output::Opened { session, .. } => sessions.push(session),
                Output::Close { link, .. } => {
                    assert!(server.session_of(link).is_none() && server.poll_transmit(now, link).is_none());
                }
                output => questions.push_back(output),
            }
        }
        assert!(server.inbox_count() <= 3 + 4);
        // Five rings with what waits, two logs, items of seven outboxes.
        assert!(server.held_bytes() <= 5 * 14_000 + 2 * 12_000 + 7 * 6000, "{}", server.held_bytes());
    }
}

/// A client whose server sends what it likes.
pub fn client(data: &[u8]) {
    let config = ClientConfig { max_message: 2000, ..ClientConfig::default() };
    let mut client = Client::new(config, 1);
    let (mut now, mut first, mut next) = (Time::ZERO, 1, 1);
    let mut delivered = VecDeque::new();
    for (what, whom, message) in steps(data) {
        match what {
            b'c' => {
                let outbox = OutboxRange { id: Key::new("outbox1").unwrap(), generation: 1, first, next };
                client.handle_connected(Some(Secret("x".into())), (whom != b'0').then_some(outbox));
            }
            b'-' => client.handle_lost(),
            b'i' => next += 1,
            b'g' => client.give_up(next - 1),
            b'S' => client.subscribe(channel(whom)),
            b'U' => client.unsubscribe(&channel(whom)),
            b'T' => client.refresh(Secret("y".into())),
            b'B' => client.beat(u64::from(whom) + 1),
            b'b' => client.handle_batch_end(),
            b'd' => {
                if let Some(delivery) = delivered.pop_front() {
                    client.handle_delivered(now, delivery);
                }
            }
            b'r' => {
                if let Some(saved) = client.saved() {
                    client = Client::new(ClientConfig::default(), 2);
                    client.restore(saved);
                    delivered.clear();
                }
            }
            b't' => {
                now = now + Duration::from_millis(u64::from(whom) * 500);
                client.handle_timeout(now);
            }
            b'm' | b'M' => {
                if client.handle_message(now, &message, what == b'M').is_err() {
                    client.handle_lost();
                }
            }
            _ => {}
        }
        let mut told = 0;
        while let Some(event) = client.poll_event() {
            told += 1;
            assert!(told < 2000, "it never ends");
            match event {
                Event::Acknowledged { sequence } => {
                    assert!(sequence < next, "{sequence} was never sent");
                    first = first.max(sequence + 1);
                }
                Event::Message { delivery, .. } => delivered.push_back(delivery),
                Event::Gap { delivery, .. } => delivered.extend(delivery),
                _ => {}
            }
        }
        for item in first..next {
            client.send(item, Bytes::from_static(b"x"), false);
        }
        while let Some(encoded) = client.poll_transmit(now) {
            let frame = ClientFrame::decode(&encoded.data, encoded.binary, 1 << 20);
            assert!(matches!(frame, Ok(Some(_))), "{encoded:?}: {frame:?}");
        }
    }
}
