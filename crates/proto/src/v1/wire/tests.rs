use proptest::prelude::*;

use super::super::document::Digest;
use super::*;

fn client(text: &str) -> Result<Option<ClientFrame>, Violation> {
    ClientFrame::decode(&Bytes::copy_from_slice(text.as_bytes()), false, 100)
}

fn server(text: &str) -> Result<Option<ServerFrame>, Violation> {
    ServerFrame::decode(&Bytes::copy_from_slice(text.as_bytes()), false, 100)
}

fn refused<T: fmt::Debug>(result: Result<T, Violation>, code: u16, words: &str) {
    let violation = result.unwrap_err();
    assert_eq!(violation.code, code, "{violation}");
    assert!(violation.reason.contains(words), "{violation}");
}

fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

fn position(epoch: &str, offset: u64, id: &str) -> Position {
    Position { epoch: ShortId::new(epoch).unwrap(), offset, message_id: ShortId::new(id).unwrap() }
}

#[test]
fn spelling() {
    let item =
        ClientFrame::Item { sequence: 59, acknowledged: Some(812), data: Bytes::from_static(b"a\nb"), binary: false };
    assert_eq!(item.encode(), Encoded { data: Bytes::from_static(b"P 59 s=812\na\nb"), binary: false });
    assert_eq!(client("P 59 s=812\na\nb"), Ok(Some(item)));
    let message = ServerFrame::Channel {
        channel: channel("caf\u{e9} a=b 100%/x"),
        position: position("k3", 42, "m_-1"),
        data: Bytes::from_static(&[0, 255]),
        binary: true,
        document: false,
    };
    let encoded = message.encode();
    assert_eq!(encoded.data, [b"C caf%C3%A9%20a=b%20100%25/x k3 42 m_-1\n".as_slice(), &[0, 255]].concat());
    assert!(encoded.binary);
    // A name as encodeURIComponent writes it is the same name.
    assert_eq!(client("S a%2fb%2Fc%3D"), Ok(Some(ClientFrame::Subscribe(channel("a/b/c=")))));
    assert_eq!(server("R 0"), Ok(Some(ServerFrame::ReplayDone { sequence: 0 })));
    assert_eq!(client("E 9007199254740991"), Ok(Some(ClientFrame::GiveUp { from: None, sequence: MAX_INTEGER })));
    assert_eq!(client("E 7 from=5"), Ok(Some(ClientFrame::GiveUp { from: Some(5), sequence: 7 })));
    refused(client("E 4 from=5"), close::BAD_PROTOCOL, "E: from is greater than q");
    let gap = server(r#"G {"channel":null,"from":3,"why":"tired"}"#).unwrap().unwrap();
    assert_eq!(gap, ServerFrame::Gap(Gap { channel: None, from: 3, to: None, why: Why::Other("tired".into()) }));
}

#[test]
fn what_later_versions_add_is_ignored() {
    assert_eq!(client("Q 7\nx"), Ok(None));
    assert_eq!(client("QUERY {\"a\":"), Ok(None));
    assert_eq!(ServerFrame::decode(&Bytes::from_static(&[b'Z', b' ', 0xFF]), true, 1), Ok(None));
    assert_eq!(
        client("P 1 z=1 z=2 trace=a-b s=4\n"),
        Ok(Some(ClientFrame::Item { sequence: 1, acknowledged: Some(4), data: Bytes::new(), binary: false }))
    );
    assert_eq!(client("A 1 x=y"), Ok(Some(ClientFrame::Acknowledge { sequence: 1 })));
    assert!(matches!(client(r#"H {"v":1,"later":{"v":[1,2]}}"#), Ok(Some(ClientFrame::Hello(_)))));
    assert!(matches!(server(r#"K {"ch":"a","st":"left","later":1}"#), Ok(Some(ServerFrame::Subscription(_)))));
}

#[test]
fn errors_name_what_where_and_what_is_allowed() {
    const BAD: u16 = close::BAD_PROTOCOL;
    refused(client(""), BAD, "a type of 1 to 16");
    refused(client(" A 1"), BAD, "a type of 1 to 16");
    refused(client("ABCDEFGHIJKLMNOPQ 1"), BAD, "a type of 1 to 16");
    refused(client("A"), BAD, "A: s is missing");
    refused(client("A  1"), BAD, "A: two spaces");
    refused(client("A 1 "), BAD, "A: two spaces, or one at the end");
    for number in ["0", "-1", "+1", "01", "1.0", "9007199254740992", "99999999999999999999", "x"] {
        refused(client(&format!("A {number}")), BAD, "allowed are decimal integers from 1 to 9007199254740991");
        refused(client(&format!("P 1 s={number}\n")), BAD, &format!("P: s is {number}, allowed"));
    }
    refused(client("A 1\n"), BAD, "A: a line feed");
    refused(client("A 1 2"), BAD, "A: 2 is one field too many");
    refused(client("P 1 =2\n"), BAD, "P: =2 is one field too many, or not key=value");
    refused(client("P 1"), BAD, "P: no line feed");
    refused(client("P 1 s=1 s=2\n"), BAD, "P: s stands there twice");
    refused(client("P 1\t\n"), BAD, "P: byte 0x09 in the header");
    refused(client("S caf\u{e9}"), BAD, "S: byte 0xC3 in the header");
    refused(client("S a%2"), BAD, "percent-encoded");
    refused(client("S a%FF"), BAD, "percent-encoded");
    refused(client("S a%0A"), BAD, "S: a channel's name must not contain control characters, found U+000A");
    refused(client(&format!("S {}", "x".repeat(256))), BAD, "this one has 256");
    refused(client(&format!("S {}", "%78".repeat(400))), BAD, "S: a header of more than 1024 bytes");
    refused(client(&format!("P 1 x={}\n", "y".repeat(1020))), BAD, "P: no line feed within the 1024 bytes");
    refused(server("C a k3 0 m\n"), BAD, "C: o is 0");
    refused(server("C a k.3 1 m\n"), BAD, "C: e: an epoch or message id has 1 to 22");
    refused(server("C a k3 1 \n"), BAD, "C: two spaces");
    refused(
        client(&format!("P 1\n{}", "x".repeat(101))),
        close::TOO_BIG,
        "P: a payload of 101 bytes, maxMessage is 100",
    );
    assert!(client(&format!("P 1\n{}", "x".repeat(100))).is_ok());
    refused(ClientFrame::decode(&Bytes::from_static(b"A 1"), true, 1), BAD, "A: a binary message");
    refused(ClientFrame::decode(&Bytes::from_static(b"H {}"), true, 1), BAD, "H: a binary message");

    refused(client("H"), BAD, "H: no space and JSON");
    refused(client("H {"), BAD, "H: EOF");
    refused(client("H {} x"), BAD, "H: ");
    refused(client("H {}"), BAD, "missing field `v`");
    refused(client(r#"H {"v":1,"v":1}"#), BAD, "duplicate field");
    refused(client(r#"H {"v":2,"resume":7}"#), close::UNSUPPORTED_VERSION, "v is 2, this server speaks 1");
    refused(client(r#"H {"v":1,"resume":{"sid":"a","tok":"b","s":-1}}"#), BAD, "integer `-1`");
    refused(
        client(r#"H {"v":1,"resume":{"sid":"a","tok":"b","s":9007199254740992}}"#),
        BAD,
        "expected an integer from 0 to 9007199254740991",
    );
    refused(client(r#"H {"v":1,"resume":{"sid":"a b","tok":"b","s":1}}"#), BAD, "1 to 64 of the characters");
    let violation = client(r#"H {"v":1,"resume":{"sid":"a","tok":"geheim!","s":1}}"#).unwrap_err();
    assert!(!violation.reason.contains("geheim"), "{violation}");
    refused(client(r#"H {"v":1,"outbox":{"id":"a","gen":1,"first":3,"next":2}}"#), BAD, "next is less than");
    refused(client(&format!("H {{\"v\":1{}}}", " ".repeat(MAX_CONTROL))), close::TOO_BIG, "allowed are 131072");
    refused(
        client(&format!("H {{\"v\":1,\"x\":{}}}", "[".repeat(100_000))),
        BAD,
        "expected value at line 1 column 100012",
    );
    refused(server(r#"K {"ch":"a","st":"ok"}"#), BAD, "K: e, o and mid come with");
    refused(server(r#"K {"ch":"a","st":"left","e":"x","o":1}"#), BAD, "K: e, o and mid come with");
    refused(server(r#"K {"ch":"a","st":"ok","e":"x"}"#), BAD, "e and o come together");
    refused(server(r#"K {"ch":"a","st":"fine"}"#), BAD, "unknown variant `fine`, expected one of");
    refused(server(r#"G {"channel":"a","from":2,"to":1,"why":"slow"}"#), BAD, "to is less than from");
    refused(server(r#"X {"after":-1}"#), BAD, "seconds from 0 to");
}

#[test]
fn secrets_are_not_shown() {
    let hello = client(r#"H {"v":1,"auth":"geheim","resume":{"sid":"a","tok":"geheim","s":1}}"#).unwrap().unwrap();
    assert!(!format!("{hello:?}").contains("geheim"));
    assert!(hello.encode().data.windows(6).any(|window| window == b"geheim"));
    assert_eq!(Token::new("abc"), Token::new("abc"));
    assert_ne!(Token::new("abc"), Token::new("abd"));
    assert_ne!(Token::new("abc"), Token::new("ab"));
}

#[test]
fn payloads_are_not_copied() {
    let message = Bytes::from(format!("P 1\n{}", "x".repeat(50)));
    let Ok(Some(ClientFrame::Item { data, .. })) = ClientFrame::decode(&message, false, 50) else { panic!() };
    assert_eq!(data.as_ptr(), message[4..].as_ptr());
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![1..10u64, 1..=MAX_INTEGER, Just(MAX_INTEGER)]
}

fn number_or_zero() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), number()]
}

fn name() -> impl Strategy<Value = ChannelName> {
    prop_oneof!["[a-z:/=%]{1,20}", "\\PC{1,60}"].prop_filter_map("a channel's name", |name| ChannelName::new(name).ok())
}

fn short_id() -> impl Strategy<Value = ShortId> {
    "[A-Za-z0-9_-]{1,22}".prop_map(|id| ShortId::new(id).unwrap())
}

fn key() -> impl Strategy<Value = Key> {
    "[A-Za-z0-9_-]{1,64}".prop_map(|id| Key::new(id).unwrap())
}

fn token() -> impl Strategy<Value = Token> {
    "[A-Za-z0-9_-]{1,64}".prop_map(|id| Token::new(id).unwrap())
}

fn place(least: u64) -> impl Strategy<Value = Position> {
    (short_id(), number(), short_id()).prop_map(move |(epoch, offset, message_id)| Position {
        epoch,
        offset: offset.max(least),
        message_id,
    })
}

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![(0..100_000u64).prop_map(Duration::from_secs), (0..10_000_000u64).prop_map(Duration::from_millis)]
}

fn payload() -> impl Strategy<Value = (Bytes, bool)> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..100).prop_map(|data| (Bytes::from(data), true)),
        "\\PC{0,20}\n?".prop_map(|text| (Bytes::from(text), false)),
    ]
}

fn why() -> impl Strategy<Value = Why> {
    prop_oneof!["[a-z]{0,12}", "(diverged|epoch|expired|history|overflow|restart|slow|superseded|unknown)"]
        .prop_map(|text| Why::from(&*text))
}

fn reject() -> impl Strategy<Value = Reject> {
    (number(), any::<i32>(), "\\PC{0,30}", any::<bool>()).prop_map(|(sequence, code, reason, permanent)| Reject {
        sequence,
        code,
        reason,
        permanent,
    })
}

fn text() -> impl Strategy<Value = Bytes> {
    "\\PC{0,50}".prop_map(Bytes::from)
}

fn state() -> impl Strategy<Value = Place> {
    (place(0), any::<u32>()).prop_map(|(place, sum)| Place {
        epoch: place.epoch,
        version: place.offset,
        digest: Digest(sum),
    })
}

fn client_frame() -> impl Strategy<Value = ClientFrame> {
    let channels = prop::collection::btree_map(name(), place(0), 0..5);
    let resume = (key(), token(), number_or_zero(), prop::option::of(number()), channels).prop_map(
        |(session, token, sequence, received, channels)| Resume { session, token, sequence, received, channels },
    );
    let outbox = (key(), number(), number(), number()).prop_map(|(id, generation, a, b)| OutboxRange {
        id,
        generation,
        first: a.min(b),
        next: a.max(b),
    });
    let hello = (prop::option::of("\\PC{0,50}"), prop::option::of(resume), prop::option::of(outbox))
        .prop_map(|(auth, resume, outbox)| Hello { version: VERSION, auth: auth.map(Secret), resume, outbox });
    prop_oneof![
        number().prop_map(|sequence| ClientFrame::Acknowledge { sequence }),
        number().prop_map(ClientFrame::Answer),
        number().prop_map(ClientFrame::Beat),
        (number(), prop::option::of(number()))
            .prop_map(|(q, from)| ClientFrame::GiveUp { from: from.map(|from| from.min(q)), sequence: q }),
        hello.prop_map(|hello| ClientFrame::Hello(Box::new(hello))),
        (number(), prop::option::of(number()), payload()).prop_map(|(sequence, acknowledged, (data, binary))| {
            ClientFrame::Item { sequence, acknowledged, data, binary }
        }),
        name().prop_map(ClientFrame::Subscribe),
        "\\PC{0,50}".prop_map(|auth| ClientFrame::Token(Credentials { auth: Secret(auth) })),
        name().prop_map(ClientFrame::Unsubscribe),
        (number(), prop::option::of(number()), text()).prop_map(|(sequence, acknowledged, data)| ClientFrame::Edit {
            sequence,
            acknowledged,
            data
        }),
        (name(), state()).prop_map(|(channel, place)| ClientFrame::Verify { channel, place }),
    ]
}

fn server_frame() -> impl Strategy<Value = ServerFrame> {
    let welcome = (
        (key(), token(), any::<bool>(), prop::option::of(why()), number(), number_or_zero()),
        prop::collection::vec(reject(), 0..3),
        prop::option::of((duration(), duration())),
        (duration(), number(), number()),
    )
        .prop_map(
            |((session, token, resumed, why, first, handled), rejected, beat, (spread, max_message, window))| Welcome {
                session,
                token,
                resumed,
                why,
                first,
                handled,
                rejected,
                heartbeat: beat.map(|(interval, timeout)| Heartbeat { interval, timeout }),
                spread,
                limits: Limits { max_message, window },
            },
        );
    let subscription =
        prop_oneof![
            (name(), prop::sample::select(vec![Status::Denied, Status::Left]))
                .prop_map(|(channel, status)| Subscription { channel, status, position: None }),
            (name(), prop::sample::select(vec![Status::Ok, Status::Gap, Status::Snapshot]), place(0))
                .prop_map(|(channel, status, place)| Subscription { channel, status, position: Some(place) }),
        ];
    let gap = (prop::option::of(name()), number(), prop::option::of(number_or_zero()), why()).prop_map(
        |(channel, from, more, why)| Gap { channel, from, to: more.map(|more| (from + more).min(MAX_INTEGER)), why },
    );
    prop_oneof![
        number().prop_map(|sequence| ServerFrame::Acknowledge { sequence }),
        number().prop_map(ServerFrame::Answer),
        number().prop_map(ServerFrame::Beat),
        (name(), place(1), payload(), any::<bool>()).prop_map(|(channel, position, (data, binary), document)| {
            ServerFrame::Channel { channel, position, data, binary, document }
        }),
        (name(), state(), text()).prop_map(|(channel, place, data)| ServerFrame::State { channel, place, data }),
        gap.prop_map(ServerFrame::Gap),
        (duration(), duration(), prop::option::of("\\PC{0,50}"))
            .prop_map(|(after, window, url)| ServerFrame::GoAway(GoAway { after, window, url })),
        (number(), prop::option::of(number()), payload()).prop_map(|(sequence, acknowledged, (data, binary))| {
            ServerFrame::Message { sequence, acknowledged, data, binary }
        }),
        reject().prop_map(ServerFrame::Reject),
        number_or_zero().prop_map(|sequence| ServerFrame::ReplayDone { sequence }),
        (name(), place(0), payload()).prop_map(|(channel, position, (data, binary))| ServerFrame::Snapshot {
            channel,
            position,
            data,
            binary
        }),
        subscription.prop_map(ServerFrame::Subscription),
        welcome.prop_map(|welcome| ServerFrame::Welcome(Box::new(welcome))),
    ]
}

/// Bytes of text that a frame keeps beside its payload.
fn kept(frame: &ClientFrame) -> usize {
    match frame {
        ClientFrame::Hello(hello) => {
            let resume = hello.resume.as_ref();
            let channels = resume.map_or(0, |resume| {
                resume.channels.iter().map(|(name, place)| name.as_str().len() + place.epoch.as_str().len()).sum()
            });
            channels + hello.auth.as_ref().map_or(0, |auth| auth.0.len())
        }
        ClientFrame::Edit { data, .. } | ClientFrame::Item { data, .. } => data.len(),
        ClientFrame::Verify { channel, place } => channel.as_str().len() + place.epoch.as_str().len(),
        ClientFrame::Subscribe(name) | ClientFrame::Unsubscribe(name) => name.as_str().len(),
        ClientFrame::Token(credentials) => credentials.auth.0.len(),
        _ => 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn client_frames_survive_the_wire(frame in client_frame()) {
        let Encoded { data, binary } = frame.encode();
        prop_assert!(binary || std::str::from_utf8(&data).is_ok());
        prop_assert!(data.len() <= longest_message(400));
        prop_assert_eq!(ClientFrame::decode(&data, binary, 400).unwrap(), Some(frame));
    }

    #[test]
    fn server_frames_survive_the_wire(frame in server_frame()) {
        let Encoded { data, binary } = frame.encode();
        prop_assert!(binary || std::str::from_utf8(&data).is_ok());
        prop_assert_eq!(ServerFrame::decode(&data, binary, 400).unwrap(), Some(frame));
    }

    #[test]
    fn any_bytes_are_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..200), binary: bool) {
        let data = Bytes::from(data);
        if let Ok(Some(frame)) = ClientFrame::decode(&data, binary, 400) {
            prop_assert!(kept(&frame) <= data.len());
        }
        let _ = ServerFrame::decode(&data, binary, 400);
    }

    /// Nearly right is the better test: frames with a few bytes changed, cut or added.
    #[test]
    fn damaged_frames_are_read_or_refused(
        ours in client_frame(),
        theirs in server_frame(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0..3u8, any::<u8>()), 1..4),
    ) {
        for Encoded { data, binary } in [ours.encode(), theirs.encode()] {
            let mut data = data.to_vec();
            for (at, how, byte) in &damage {
                let at = at.index(data.len() + 1);
                match how {
                    0 => data.truncate(at),
                    1 => data.insert(at, *byte),
                    _ if at < data.len() => data[at] = *byte,
                    _ => {}
                }
            }
            let data = Bytes::from(data);
            if let Ok(Some(frame)) = ClientFrame::decode(&data, binary, 400) {
                prop_assert!(kept(&frame) <= data.len());
                // What was read means the same when it is written again.
                let again = frame.encode();
                prop_assert_eq!(ClientFrame::decode(&again.data, again.binary, 400).unwrap(), Some(frame));
            }
            if let Ok(Some(frame)) = ServerFrame::decode(&data, binary, 400) {
                let again = frame.encode();
                prop_assert_eq!(ServerFrame::decode(&again.data, again.binary, 400).unwrap(), Some(frame));
            }
        }
    }
}
