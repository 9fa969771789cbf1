use proptest::prelude::*;

use super::*;

const LIMITS: FrameLimits = FrameLimits { max_message: 300, max_frame: 200, max_fragments: 4 };
const WIDE: FrameLimits = FrameLimits { max_message: 1 << 24, max_frame: 1 << 24, max_fragments: 1 << 20 };
const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// Feeds `bytes` in pieces of the given sizes, in turn.
fn decode_pieces(decoder: &mut Decoder, bytes: &[u8], sizes: &[usize]) -> (Vec<Item>, Option<Violation>) {
    let mut items = Vec::new();
    let mut sizes = sizes.iter().cycle();
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + sizes.next().copied().unwrap_or(usize::MAX).max(1)).min(bytes.len());
        let mut piece = bytes[at..end].to_vec();
        let mut rest = piece.as_mut_slice();
        while !rest.is_empty() {
            match decoder.decode(rest) {
                Ok((taken, item)) => {
                    assert!(taken > 0 || item.is_some(), "no progress");
                    items.extend(item);
                    rest = &mut rest[taken..];
                }
                Err(violation) => return (items, Some(violation)),
            }
        }
        at = end;
    }
    (items, None)
}

fn decode_all(role: Role, limits: FrameLimits, bytes: &[u8]) -> (Vec<Item>, Option<Violation>) {
    decode_pieces(&mut Decoder::new(role, limits), bytes, &[usize::MAX])
}

fn violation(role: Role, bytes: &[u8]) -> (u16, &'static str) {
    let mut byte_by_byte = Decoder::new(role, LIMITS);
    let (_, slow) = decode_pieces(&mut byte_by_byte, bytes, &[1]);
    let (_, fast) = decode_all(role, LIMITS, bytes);
    assert_eq!(slow, fast);
    let violation = fast.expect("a violation");
    (violation.code, violation.reason)
}

fn text(data: &str) -> Item {
    Item::Message { data: Bytes::copy_from_slice(data.as_bytes()), binary: false }
}

fn binary(data: &[u8]) -> Item {
    Item::Message { data: Bytes::copy_from_slice(data), binary: true }
}

fn frame(fin: bool, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_header(&mut out, fin, false, opcode, payload.len(), mask);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = mask {
        apply_mask(&mut out[start..], key, 0);
    }
    out.to_vec()
}

#[test]
fn examples_of_section_5_7() {
    let hello = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    assert_eq!(decode_all(Role::Client, LIMITS, &hello), (vec![text("Hello")], None));
    let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(decode_all(Role::Server, LIMITS, &masked), (vec![text("Hello")], None));
    let fragmented = [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
    assert_eq!(decode_all(Role::Client, LIMITS, &fragmented), (vec![text("Hello")], None));
    let ping = [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    assert_eq!(decode_all(Role::Client, LIMITS, &ping), (vec![Item::Ping("Hello".into())], None));
    let masked_pong = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(decode_all(Role::Server, LIMITS, &masked_pong), (vec![Item::Pong("Hello".into())], None));
    let mut out = BytesMut::new();
    put_header(&mut out, true, false, Opcode::Binary, 256, None);
    assert_eq!(out.as_ref(), [0x82, 0x7E, 0x01, 0x00]);
    out.clear();
    put_header(&mut out, true, false, Opcode::Binary, 65536, None);
    assert_eq!(out.as_ref(), [0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0]);
    out.clear();
    put_frame(&mut out, Opcode::Text, b"Hello", Some(KEY));
    assert_eq!(out.as_ref(), masked);
    out.clear();
    put_header(&mut out, false, true, Opcode::Text, 125, None);
    assert_eq!(out.as_ref(), [0x41, 125]);
}

#[test]
fn empty_messages() {
    assert_eq!(decode_all(Role::Client, LIMITS, &[0x81, 0]), (vec![text("")], None));
    assert_eq!(
        decode_all(Role::Client, LIMITS, &[0x02, 0, 0x00, 0, 0x80, 0, 0x89, 0]),
        (vec![binary(b""), Item::Ping(Bytes::new())], None)
    );
}

#[test]
fn violations_of_the_header() {
    for (bytes, reason) in [
        (&[0xC1, 0][..], "reserved bit 1 set"),
        (&[0xA1, 0], "reserved bit 2 set"),
        (&[0x91, 0], "reserved bit 3 set"),
        (&[0xC9, 0], "reserved bit 1 set"),
        (&[0x83, 0], "reserved opcode"),
        (&[0x87, 0], "reserved opcode"),
        (&[0x8B, 0], "reserved opcode"),
        (&[0x8F, 0], "reserved opcode"),
        (&[0x80, 0], "continuation without a message"),
        (&[0x00, 0], "continuation without a message"),
        (&[0x01, 0, 0x81, 0], "new message inside a fragmented one"),
        (&[0x01, 0, 0x02, 0], "new message inside a fragmented one"),
        (&[0x09, 0], "fragmented control frame"),
        (&[0x08, 0], "fragmented control frame"),
        (&[0x89, 126, 0, 126], "control frame longer than 125 bytes"),
        (&[0x8A, 127], "control frame longer than 125 bytes"),
        (&[0x81, 0x80, 1, 2, 3, 4], "server frame masked"),
        (&[0x82, 126, 0, 125], "length not in its shortest form"),
        (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], "length not in its shortest form"),
        (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], "top bit of a 64-bit length set"),
    ] {
        assert_eq!(violation(Role::Client, bytes), (1002, reason), "{bytes:x?}");
    }
    assert_eq!(violation(Role::Server, &[0x81, 0]), (1002, "client frame not masked"));
    for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        assert_eq!(violation(Role::Client, &[0x80 | opcode]), (1002, "reserved opcode"));
    }
}

#[test]
fn limits_are_checked_with_the_header() {
    let frame_of = |len: u8| [0x82, 126, 0, len];
    assert_eq!(violation(Role::Client, &frame_of(201)), (1009, "frame too big"));
    assert_eq!(decode_all(Role::Client, LIMITS, &frame_of(200)), (vec![], None));
    let huge = [0x82, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
    assert_eq!(violation(Role::Client, &huge), (1009, "frame too big"));

    let mut message = frame(false, Opcode::Binary, &[7; 200], None);
    message.extend([0x00, 100]);
    assert_eq!(decode_all(Role::Client, LIMITS, &message), (vec![], None));
    message.pop();
    message.push(101);
    assert_eq!(violation(Role::Client, &message), (1009, "message too big"));

    let four = [[0x02, 0], [0x00, 0], [0x00, 0], [0x80, 0]].concat();
    assert_eq!(decode_all(Role::Client, LIMITS, &four), (vec![binary(b"")], None));
    let five = [[0x02, 0], [0x00, 0], [0x00, 0], [0x00, 0], [0x80, 0]].concat();
    assert_eq!(violation(Role::Client, &five), (1008, "too many fragments"));
    // A control frame between fragments is none of them.
    let mixed = [[0x02, 0], [0x89, 0], [0x00, 0], [0x89, 0], [0x00, 0], [0x89, 0], [0x80, 0]].concat();
    assert_eq!(decode_all(Role::Client, LIMITS, &mixed).0.len(), 4);
}

#[test]
fn close_payloads() {
    let close = |payload: &[u8]| frame(true, Opcode::Close, payload, None);
    let decoded = |payload: &[u8]| decode_all(Role::Client, LIMITS, &close(payload)).0;
    assert_eq!(decoded(&[]), [Item::Close(None)]);
    assert_eq!(decoded(&[0x03, 0xE8]), [Item::Close(Some((1000, String::new())))]);
    assert_eq!(decoded(b"\x0F\xA0bye"), [Item::Close(Some((4000, "bye".into())))]);
    assert_eq!(violation(Role::Client, &close(&[3])), (1002, "close payload of one byte"));
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        assert_eq!(violation(Role::Client, &close(&code.to_be_bytes())), (1002, "invalid close code"), "{code}");
    }
    assert_eq!(violation(Role::Client, &close(b"\x03\xE8\xFF")), (1007, "close reason is not UTF-8"));
    assert_eq!(violation(Role::Client, &close(b"\x03\xE8\xE2\x82")), (1007, "close reason is not UTF-8"));
}

#[test]
fn text_fails_at_the_offending_byte() {
    // Autobahn 6.4.1: valid text, then a surrogate half, then more, all in one frame.
    let payload = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited";
    for mask in [None, Some(KEY)] {
        let role = if mask.is_some() { Role::Server } else { Role::Client };
        let bytes = frame(true, Opcode::Text, payload, mask);
        let bad = bytes.len() - payload.len() + 12;
        let mut decoder = Decoder::new(role, LIMITS);
        assert_eq!(decode_pieces(&mut decoder, &bytes[..bad], &[1]), (vec![], None));
        let failed = decoder.decode(&mut [bytes[bad]]).unwrap_err();
        assert_eq!(failed.code, 1007);
    }
    // A sequence may be split over fragments, but not cut off by the end of the message.
    let split = [frame(false, Opcode::Text, b"a\xE2\x82", None), frame(true, Opcode::Continuation, b"\xAC", None)];
    assert_eq!(decode_all(Role::Client, LIMITS, &split.concat()), (vec![text("a€")], None));
    let cut = [frame(false, Opcode::Text, b"a\xE2", None), frame(true, Opcode::Continuation, b"\x82", None)];
    assert_eq!(violation(Role::Client, &cut.concat()), (1007, "text is not UTF-8"));
    assert_eq!(violation(Role::Client, &frame(true, Opcode::Text, b"\xE2\x82", None)), (1007, "text is not UTF-8"));
    // Binary is not looked at.
    assert_eq!(decode_all(Role::Client, LIMITS, &frame(true, Opcode::Binary, b"\xFF", None)).0, [binary(b"\xFF")]);
}

#[test]
fn a_header_that_lies_costs_nothing() {
    let limits = FrameLimits { max_message: 1 << 30, max_frame: 1 << 30, max_fragments: 1 };
    let mut header = BytesMut::new();
    put_header(&mut header, true, false, Opcode::Binary, 1 << 30, None);
    let mut decoder = Decoder::new(Role::Client, limits);
    assert_eq!(decode_pieces(&mut decoder, &header, &[3]), (vec![], None));
    assert_eq!(decoder.buffered(), 0);
    decode_pieces(&mut decoder, &[1; 100], &[7]);
    assert!(decoder.buffered() <= 256, "{}", decoder.buffered());
    assert_eq!(decoder.payload_room(1).unwrap().len(), 64 * 1024);
    assert!(decoder.buffered() <= 100 + 64 * 1024);
    assert!(decoder.payload_room((1 << 30) - 100).is_some());
    assert!(decoder.payload_room((1 << 30) - 99).is_none());
}

#[test]
fn keeps_nothing_between_messages() {
    let mut decoder = Decoder::new(Role::Server, WIDE);
    assert!(decoder.is_idle());
    assert_eq!(decoder.buffered(), 0);
    let bytes = [
        frame(false, Opcode::Text, "grüße".repeat(1000).as_bytes(), Some(KEY)),
        frame(true, Opcode::Ping, b"abc", Some(KEY)),
        frame(true, Opcode::Continuation, b"!", Some(KEY)),
        frame(true, Opcode::Close, b"\x03\xE8fine", Some(KEY)),
    ]
    .concat();
    for (at, byte) in bytes.iter().enumerate() {
        decoder.decode(&mut [*byte]).unwrap();
        assert_eq!(
            decoder.is_idle(),
            at + 1 >= bytes.len() - 12 && (at + 1 == bytes.len() || at + 1 == bytes.len() - 12)
        );
    }
    assert!(decoder.is_idle());
    assert_eq!(decoder.buffered(), 0);
    assert!(size_of::<Decoder>() <= 160, "{}", size_of::<Decoder>());
}

#[test]
fn big_payload_by_room_and_by_decode() {
    let payload: Vec<u8> = (0..700_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
    let bytes = [
        frame(false, Opcode::Binary, &payload[..400_000], Some(KEY)),
        frame(true, Opcode::Pong, b"in between", Some(KEY)),
        frame(true, Opcode::Continuation, &payload[400_000..], Some(KEY)),
    ]
    .concat();
    let mut decoder = Decoder::new(Role::Server, WIDE);
    let (mut at, mut items, mut roomy) = (0, Vec::new(), 0);
    for step in (1usize..).map(|i| i * 7919 % 30_011 + 1) {
        if at == bytes.len() {
            break;
        }
        if let Some(room) = decoder.payload_room(1000) {
            let n = step.min(room.len());
            room[..n].copy_from_slice(&bytes[at..at + n]);
            items.extend(decoder.filled(n).unwrap());
            at += n;
            roomy += n;
        } else {
            let end = bytes.len().min(at + step % 5000);
            let (taken, item) = decoder.decode(&mut bytes[at..end].to_vec()).unwrap();
            items.extend(item);
            at += taken;
        }
        assert!(decoder.buffered() <= at + (at / 4).max(READ_AHEAD));
    }
    assert!(roomy > 500_000);
    assert_eq!(items, [Item::Pong("in between".into()), binary(&payload)]);
    assert_eq!(decoder.buffered(), 0);
}

#[test]
fn text_through_room_is_validated() {
    let mut payload = vec![b'a'; 5000];
    payload[4000] = 0xFF;
    let bytes = frame(true, Opcode::Text, &payload, None);
    let mut decoder = Decoder::new(Role::Client, WIDE);
    decoder.decode(&mut bytes[..4].to_vec()).unwrap();
    decoder.payload_room(1).unwrap()[..4000].copy_from_slice(&payload[..4000]);
    assert_eq!(decoder.filled(4000), Ok(None));
    decoder.payload_room(1).unwrap()[0] = 0xFF;
    assert_eq!(decoder.filled(1).unwrap_err().code, 1007);
}

/// A second decoder, written for clarity: whole input, no state but the open message.
fn model(role: Role, limits: FrameLimits, mut bytes: &[u8]) -> (Vec<Item>, Option<u16>) {
    let mut items = Vec::new();
    let mut open: Option<(bool, u32, Vec<u8>)> = None;
    let hopeless = |bytes: &[u8]| matches!(std::str::from_utf8(bytes), Err(e) if e.error_len().is_some());
    loop {
        let Some(&first) = bytes.first() else { return (items, None) };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0F);
        let control = opcode >= 8;
        if first & 0x70 != 0
            || !matches!(opcode, 0 | 1 | 2 | 8 | 9 | 10)
            || (control && !fin)
            || (!control && (opcode == 0) != open.is_some())
        {
            return (items, Some(1002));
        }
        let Some(&second) = bytes.get(1) else { return (items, None) };
        if (second & 0x80 != 0) != (role == Role::Server) || (control && second & 0x7F > 125) {
            return (items, Some(1002));
        }
        let extra = [2, 8].get((second as usize & 0x7F).wrapping_sub(126)).copied().unwrap_or(0);
        let mask_len = if role == Role::Server { 4 } else { 0 };
        if bytes.len() < 2 + extra + mask_len {
            return (items, None);
        }
        let mut len = u64::from(second & 0x7F);
        if extra > 0 {
            len = bytes[2..2 + extra].iter().fold(0, |len, byte| len << 8 | u64::from(*byte));
            if len < if extra == 2 { 126 } else { 65536 } || len >> 63 != 0 {
                return (items, Some(1002));
            }
        }
        let held = open.as_ref().map_or(0, |(_, _, data)| data.len() as u64);
        if !control && (len > limits.max_frame as u64 || held + len > limits.max_message as u64) {
            return (items, Some(1009));
        }
        if let (0, Some((_, frames, _))) = (opcode, &mut open) {
            *frames += 1;
            if *frames > limits.max_fragments {
                return (items, Some(1008));
            }
        }
        let key = &bytes[2 + extra..2 + extra + mask_len];
        let body = &bytes[2 + extra + mask_len..];
        let complete = body.len() as u64 >= len;
        let body = &body[..body.len().min(len as usize)];
        let payload: Vec<u8> =
            body.iter().enumerate().map(|(i, b)| if mask_len == 0 { *b } else { b ^ key[i % 4] }).collect();
        bytes = &bytes[2 + extra + mask_len + body.len()..];
        if control {
            if !complete {
                return (items, None);
            }
            items.push(match opcode {
                9 => Item::Ping(payload.into()),
                10 => Item::Pong(payload.into()),
                _ if payload.is_empty() => Item::Close(None),
                _ if payload.len() == 1 => return (items, Some(1002)),
                _ => {
                    let code = u16::from(payload[0]) << 8 | u16::from(payload[1]);
                    if !((1000..=1014).contains(&code) && !(1004..=1006).contains(&code)
                        || (3000..5000).contains(&code))
                    {
                        return (items, Some(1002));
                    }
                    match String::from_utf8(payload[2..].to_vec()) {
                        Ok(reason) => Item::Close(Some((code, reason))),
                        Err(_) => return (items, Some(1007)),
                    }
                }
            });
            continue;
        }
        let (is_binary, _, data) = open.get_or_insert((opcode == 2, 1, Vec::new()));
        data.extend(payload);
        if !*is_binary && hopeless(data) {
            return (items, Some(1007));
        }
        if !complete {
            return (items, None);
        }
        if fin {
            let (is_binary, _, data) = open.take().unwrap();
            if !is_binary && std::str::from_utf8(&data).is_err() {
                return (items, Some(1007));
            }
            items.push(Item::Message { data: data.into(), binary: is_binary });
        }
    }
}

/// Streams of frames that are mostly valid, with some bytes damaged.
fn stream(role: Role) -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        3 => "\\PC{0,40}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..30),
        1 => (100usize..210).prop_map(|n| vec![b'x'; n]),
        1 => (1000u16..1016, "[a-z]{0,9}").prop_map(|(c, r)| [&c.to_be_bytes()[..], r.as_bytes()].concat()),
    ];
    // A run of frames that forms one message, control frames in between.
    let run = (any::<bool>(), prop::collection::vec((payload, 0u8..10), 1..6), any::<[u8; 4]>()).prop_map(
        move |(is_binary, parts, key)| {
            let mask = (role == Role::Server).then_some(key);
            let last = parts.len() - 1;
            let mut out = Vec::new();
            for (i, (payload, kind)) in parts.iter().enumerate() {
                let opcode = match (i, is_binary) {
                    (0, true) => Opcode::Binary,
                    (0, false) => Opcode::Text,
                    _ => Opcode::Continuation,
                };
                let small = &payload[..payload.len().min(125)];
                match kind {
                    0 => out.extend(frame(true, Opcode::Ping, small, mask)),
                    1 => out.extend(frame(true, Opcode::Pong, small, mask)),
                    2 => out.extend(frame(true, Opcode::Close, small, mask)),
                    _ => {}
                }
                out.extend(frame(i == last, opcode, payload, mask));
            }
            out
        },
    );
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
    (prop::collection::vec(run, 1..4), damage, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(runs, damage, cut, is_cut)| {
            let mut bytes = runs.concat();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if is_cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        },
    )
}

fn role_and_stream() -> impl Strategy<Value = (Role, Vec<u8>)> {
    prop_oneof![Just(Role::Server), Just(Role::Client)].prop_flat_map(|role| (Just(role), stream(role)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_the_model_in_any_pieces(
        (role, bytes) in role_and_stream(),
        sizes in prop::collection::vec(1usize..50, 1..10),
    ) {
        let (items, code) = model(role, LIMITS, &bytes);
        let (whole, violation) = decode_all(role, LIMITS, &bytes);
        prop_assert_eq!(&whole, &items);
        prop_assert_eq!(violation.as_ref().map(|v| v.code), code, "{:?}", violation);
        let in_pieces = decode_pieces(&mut Decoder::new(role, LIMITS), &bytes, &sizes);
        prop_assert_eq!(in_pieces, (whole, violation));
    }

    #[test]
    fn room_gives_the_same(
        (role, bytes) in role_and_stream(),
        sizes in prop::collection::vec(1usize..50, 1..10),
        least in 1usize..40,
    ) {
        let mut decoder = Decoder::new(role, LIMITS);
        let (mut at, mut items, mut failed) = (0, Vec::new(), None);
        let mut sizes = sizes.iter().cycle();
        while at < bytes.len() && failed.is_none() {
            let size = sizes.next().copied().unwrap_or(1).min(bytes.len() - at);
            let result = match decoder.payload_room(least) {
                Some(room) => {
                    let n = size.min(room.len());
                    room[..n].copy_from_slice(&bytes[at..at + n]);
                    decoder.filled(n).map(|item| (n, item))
                }
                None => decoder.decode(&mut bytes[at..at + size].to_vec()),
            };
            match result {
                Ok((n, item)) => {
                    at += n;
                    items.extend(item);
                }
                Err(violation) => failed = Some(violation),
            }
        }
        prop_assert_eq!((items, failed), decode_all(role, LIMITS, &bytes));
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for role in [Role::Server, Role::Client] {
            decode_all(role, LIMITS, &bytes);
        }
    }

    #[test]
    fn round_trip(len in prop_oneof![0usize..300, 65_500usize..65_600], key in any::<Option<[u8; 4]>>()) {
        let role = if key.is_some() { Role::Server } else { Role::Client };
        let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        let mut out = BytesMut::new();
        put_frame(&mut out, Opcode::Binary, &payload, key);
        prop_assert_eq!(decode_all(role, WIDE, &out), (vec![binary(&payload)], None));
    }

    #[test]
    fn masking_twice_is_nothing_and_pieces_do_not_matter(
        data in prop::collection::vec(any::<u8>(), 0..100),
        key in any::<[u8; 4]>(),
        cut in any::<prop::sample::Index>(),
        offset in 0usize..9,
    ) {
        let mut masked = data.clone();
        apply_mask(&mut masked, key, offset);
        for (i, byte) in masked.iter().enumerate() {
            prop_assert_eq!(*byte, data[i] ^ key[(i + offset) % 4]);
        }
        let mut pieces = data.clone();
        let (left, right) = pieces.split_at_mut(cut.index(data.len() + 1));
        apply_mask(left, key, offset);
        apply_mask(right, key, offset + left.len());
        prop_assert_eq!(&pieces, &masked);
        apply_mask(&mut masked, key, offset);
        prop_assert_eq!(masked, data);
    }
}

mod inflating {
    use super::*;
    use crate::deflate::{Deflater, INFLATER_SIZE};

    /// The frames of a compressed message, each with so much of its payload.
    fn compressed(opcode: Opcode, wire: &[u8], step: usize, mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut out = BytesMut::new();
        let count = wire.len().div_ceil(step).max(1);
        for index in 0..count {
            let piece = &wire[(index * step).min(wire.len())..((index + 1) * step).min(wire.len())];
            let opcode = if index == 0 { opcode } else { Opcode::Continuation };
            put_header(&mut out, index + 1 == count, index == 0, opcode, piece.len(), mask);
            let start = out.len();
            out.extend_from_slice(piece);
            if let Some(key) = mask {
                apply_mask(&mut out[start..], key, 0);
            }
        }
        out.to_vec()
    }

    fn deflate(deflater: &mut Deflater, payload: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        deflater.compress(&[payload], &mut wire);
        wire
    }

    fn decoder(role: Role, limits: FrameLimits, takeover: bool) -> Decoder {
        Decoder::new(role, limits).with_inflation(takeover)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn messages_of_every_kind_survive_under_any_chunking(
            messages in prop::collection::vec(("[a-d\u{e9}\u{20ac}]{0,600}", any::<bool>(), any::<bool>(), 1usize..400), 1..6),
            sizes in prop::collection::vec(1usize..900, 1..6),
            takeover in any::<bool>(),
            as_server in any::<bool>(),
            level in 1u8..=9,
            window_bits in 9u8..=15,
        ) {
            let (role, mask) = if as_server { (Role::Server, Some(KEY)) } else { (Role::Client, None) };
            let mut deflater = Deflater::new(level, window_bits);
            let (mut bytes, mut expected, mut totals) = (Vec::new(), Vec::new(), Inflated::default());
            for (payload, binary, plain, step) in &messages {
                let opcode = if *binary { Opcode::Binary } else { Opcode::Text };
                if *plain {
                    bytes.extend(frame(true, opcode, payload.as_bytes(), mask));
                } else {
                    let wire = deflate(&mut deflater, payload.as_bytes());
                    totals.messages += 1;
                    totals.wire += wire.len() as u64;
                    totals.bytes += payload.len() as u64;
                    bytes.extend(compressed(opcode, &wire, *step, mask));
                    if !takeover {
                        deflater.reset();
                    }
                }
                expected.push(Item::Message { data: Bytes::copy_from_slice(payload.as_bytes()), binary: *binary });
                bytes.extend(frame(true, Opcode::Ping, b"beat", mask));
                expected.push(Item::Ping(Bytes::from_static(b"beat")));
            }
            let mut decoder = decoder(role, WIDE, takeover);
            prop_assert_eq!(decode_pieces(&mut decoder, &bytes, &sizes), (expected, None));
            prop_assert_eq!(decoder.take_inflated(), totals);
            prop_assert_eq!(decoder.take_inflated(), Inflated::default());
            prop_assert!(decoder.is_idle());
            prop_assert_eq!(decoder.buffered(), 0);
            prop_assert_eq!(decoder.keeps_context(), takeover && totals.messages > 0);
        }
    }

    #[test]
    fn the_bit_is_for_the_first_frame_of_a_message() {
        let wire = deflate(&mut Deflater::new(6, 15), b"Hello");
        for (bytes, reason) in [
            (vec![0x80 | RSV1, 0], "reserved bit 1 set on a frame that starts no message"),
            (vec![0x89 | RSV1, 0], "reserved bit 1 set on a frame that starts no message"),
            (vec![0x88 | RSV1, 0], "reserved bit 1 set on a frame that starts no message"),
            (vec![0x83 | RSV1, 0], "reserved bit 1 set on a frame that starts no message"),
            (vec![0x82 | 0x20, 0], "reserved bit 2 set"),
            (
                [compressed(Opcode::Text, &wire, 100, None), vec![RSV1, 0]].concat(),
                "reserved bit 1 set on a frame that starts no message",
            ),
        ] {
            for size in [1, 100] {
                let (_, violation) = decode_pieces(&mut decoder(Role::Client, WIDE, false), &bytes, &[size]);
                assert_eq!(violation, Some(Violation { code: 1002, reason }), "{bytes:x?}");
            }
        }
        assert_eq!(violation(Role::Client, &compressed(Opcode::Text, &wire, 100, None)), (1002, "reserved bit 1 set"));
    }

    #[test]
    fn the_bound_of_a_frame_is_about_the_wire_and_that_of_a_message_about_what_comes_of_it() {
        let wire = deflate(&mut Deflater::new(6, 15), &[7; 300]);
        assert!(wire.len() < 20);
        let bytes = compressed(Opcode::Binary, &wire, 5, None);
        let (items, violation) = decode_pieces(&mut decoder(Role::Client, LIMITS, false), &bytes, &[3]);
        assert_eq!((items, violation), (vec![binary(&[7; 300])], None));
        for takeover in [false, true] {
            let wire = deflate(&mut Deflater::new(6, 15), &[7; 301]);
            let bytes = compressed(Opcode::Binary, &wire, 5, None);
            let (items, violation) = decode_pieces(&mut decoder(Role::Client, LIMITS, takeover), &bytes, &[3]);
            assert_eq!((items, violation.unwrap().code), (vec![], 1009));
        }
        // 201 bytes that come to nothing but are too many for a frame.
        let empty_blocks = [0x00, 0x00, 0x00, 0xFF, 0xFF].repeat(41);
        let bytes = compressed(Opcode::Binary, &empty_blocks[..201], 1000, None);
        let (_, violation) = decode_pieces(&mut decoder(Role::Client, LIMITS, false), &bytes, &[100]);
        assert_eq!(violation, Some(Violation { code: 1009, reason: "frame too big" }));
    }

    #[test]
    fn text_is_checked_as_it_is_inflated() {
        let wire = deflate(&mut Deflater::new(6, 15), b"good\xFFbad");
        let whole = [&wire[..], &[0, 0, 0xFF, 0xFF]].concat();
        // The message has not ended.
        let mut bytes = BytesMut::new();
        put_header(&mut bytes, false, true, Opcode::Text, whole.len(), None);
        bytes.extend_from_slice(&whole);
        let (_, violation) = decode_pieces(&mut decoder(Role::Client, WIDE, false), &bytes, &[100]);
        assert_eq!(violation, Some(Violation { code: 1007, reason: "text is not UTF-8" }));
    }

    #[test]
    fn what_inflates_an_open_message_is_held_for_it() {
        let wire = deflate(&mut Deflater::new(6, 15), &b"0123456789".repeat(2));
        let bytes = compressed(Opcode::Binary, &wire, 100, None);
        let mut lent = decoder(Role::Client, WIDE, false);
        assert_eq!(lent.buffered(), 0);
        decode_pieces(&mut lent, &bytes[..bytes.len() - 1], &[100]);
        assert!(lent.buffered() >= INFLATER_SIZE);
        assert!(lent.payload_room(1).is_none(), "it is not read straight into its message");
        decode_pieces(&mut lent, &bytes[bytes.len() - 1..], &[100]);
        assert_eq!(lent.buffered(), 0);
        let mut own = decoder(Role::Client, WIDE, true);
        decode_pieces(&mut own, &bytes[..bytes.len() - 1], &[100]);
        assert!(own.buffered() < INFLATER_SIZE, "charged to the connection once");
    }

    #[test]
    fn an_empty_message_may_be_nothing_at_all() {
        for takeover in [false, true] {
            let hello = deflate(&mut Deflater::new(6, 15), b"Hello");
            let bytes = [compressed(Opcode::Text, &[], 9, None), compressed(Opcode::Text, &hello, 9, None)].concat();
            let mut decoder = decoder(Role::Client, WIDE, takeover);
            assert_eq!(decode_pieces(&mut decoder, &bytes, &[1]), (vec![text(""), text("Hello")], None));
        }
    }
}
