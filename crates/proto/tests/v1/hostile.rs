//! A peer that sends whatever it likes, in frames that can be read: no panic, and no memory without a limit.

use bytes::Bytes;
use lifeline_proto::Time;
use lifeline_proto::v1::client::{Client, ClientConfig};
use lifeline_proto::v1::server::{LinkId, Output, Server, ServerConfig};
use proptest::prelude::*;

use super::world::Numbers;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 1..6u64, 1 => 1..=9_007_199_254_740_991u64, 1 => Just(9_007_199_254_740_991u64)]
}

fn position() -> impl Strategy<Value = String> {
    (0..2u8, prop_oneof![0..6u64, number()]).prop_map(|(epoch, offset)| format!("e{epoch} {offset} m"))
}

fn json_position() -> impl Strategy<Value = String> {
    position().prop_map(|position| {
        let fields: Vec<_> = position.split(' ').collect();
        format!(r#""e":"{}","o":{},"mid":"{}""#, fields[0], fields[1], fields[2])
    })
}

fn client_frame() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (number(), number()).prop_map(|(q, s)| format!("P {q} s={s}\nx")),
        8 => number().prop_map(|q| format!("P {q}\nx")),
        2 => number().prop_map(|s| format!("A {s}")),
        1 => number().prop_map(|q| format!("E {q}")),
        2 => (number(), number()).prop_map(|(a, b)| format!("E {} from={}", a.max(b), a.min(b))),
        1 => number().prop_map(|n| format!("I {n}")),
        1 => number().prop_map(|n| format!("O {n}")),
        2 => (0..3u8).prop_map(|n| format!("S c{n}")),
        1 => (0..3u8).prop_map(|n| format!("U c{n}")),
        1 => Just(r#"T {"auth":"t"}"#.to_owned()),
    ]
}

fn server_frame() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => number().prop_map(|s| format!("M {s}\nx")),
        2 => (number(), number()).prop_map(|(s, q)| format!("M {s} q={q}\nx")),
        4 => number().prop_map(|q| format!("A {q}")),
        2 => (number(), any::<bool>()).prop_map(|(q, permanent)| format!(r#"N {{"q":{q},"permanent":{permanent}}}"#)),
        4 => (0..2u8, prop::sample::select(vec!["ok", "gap", "snapshot"]), json_position())
            .prop_map(|(n, st, position)| format!(r#"K {{"ch":"c{n}","st":"{st}",{position}}}"#)),
        1 => (0..2u8, prop::sample::select(vec!["left", "denied"]))
            .prop_map(|(n, st)| format!(r#"K {{"ch":"c{n}","st":"{st}"}}"#)),
        4 => (0..2u8, position()).prop_map(|(n, position)| format!("C c{n} {position}\nx")),
        2 => (0..2u8, position()).prop_map(|(n, position)| format!("B c{n} {position}\nx")),
        2 => (prop::option::of(0..2u8), number(), prop::option::of(number())).prop_map(|(n, from, to)| {
            let channel = n.map_or_else(|| "null".into(), |n| format!("\"c{n}\""));
            let to = to.map_or_else(|| "null".into(), |to| from.max(to).to_string());
            format!(r#"G {{"channel":{channel},"from":{from},"to":{to},"why":"overflow"}}"#)
        }),
        1 => number().prop_map(|s| format!("R {s}")),
        1 => number().prop_map(|n| format!("I {n}")),
        1 => Just(r#"X {"after":31536000,"window":31536000}"#.to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_server_survives_any_client(
        hellos in prop::collection::vec(
            (number(), number(), number(), prop_oneof![0..4u64, number()], prop::collection::vec(client_frame(), 0..40)),
            1..5,
        ),
    ) {
        let mut server = Server::new(ServerConfig { authorise: true, ..ServerConfig::default() }, Numbers(1));
        let mut resume = String::new();
        let (mut frames, mut transmitted) = (0, 0);
        for (number, (generation, first, next, s, messages)) in hellos.into_iter().enumerate() {
            let link = LinkId(number as u64);
            let (first, next) = (first.min(next), first.max(next));
            server.handle_connected(Time::ZERO, link);
            let resumed = if resume.is_empty() { String::new() } else { resume.replace("$s", &s.to_string()) };
            let hello = format!(
                r#"H {{"v":1{resumed},"outbox":{{"id":"o","gen":{generation},"first":{first},"next":{next}}}}}"#
            );
            for message in std::iter::once(hello).chain(messages) {
                frames += 1;
                server.handle_message(Time::ZERO, link, &Bytes::from(message), false);
                while let Some(output) = server.poll_output() {
                    match output {
                        Output::Authorise { link, channel } => {
                            server.handle_authorised(Time::ZERO, link, &channel, true);
                        }
                        Output::Opened { session, .. } => {
                            server.send(Time::ZERO, &session, Bytes::from_static(b"x"), false);
                        }
                        Output::Deliver { outbox, delivery, .. } => {
                            server.handle_start(&outbox, delivery.id);
                            if delivery.id.sequence % 3 == 0 {
                                server.handle_failed(Time::ZERO, &outbox, delivery.id);
                            } else {
                                server.handle_done(Time::ZERO, &outbox, delivery.id);
                            }
                        }
                        Output::Transmit { link } => {
                            while let Some(outgoing) = server.poll_transmit(Time::ZERO, link) {
                                transmitted += 1;
                                let data = outgoing.encode().data;
                                if data.starts_with(b"W ") {
                                    let welcome: serde_json::Value = serde_json::from_slice(&data[2..]).unwrap();
                                    let (sid, tok) = (&welcome["sid"], &welcome["tok"]);
                                    resume = format!(
                                        r#","resume":{{"sid":{sid},"tok":{tok},"s":$s,"ch":{{"c1":{{"e":"x","o":{s}}}}}}}"#
                                    );
                                }
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        prop_assert!(transmitted <= 12 * frames, "{transmitted} frames for {frames}");
    }

    #[test]
    fn a_client_survives_any_server(
        outbox in prop::option::of((number(), number())),
        connections in prop::collection::vec(
            ((0..3u8, number(), prop_oneof![0..4u64, number()]), prop::collection::vec(server_frame(), 0..40)),
            1..5,
        ),
    ) {
        let mut client = Client::new(ClientConfig::default(), 1);
        for ((session, first, handled), frames) in connections {
            let outbox = outbox.map(|(a, b)| lifeline_proto::v1::wire::OutboxRange {
                id: super::world::key("o"),
                generation: 1,
                first: a.min(b),
                next: a.max(b),
            });
            client.handle_connected(None, outbox.clone());
            client.subscribe(super::world::channel("c0"));
            let welcome = format!(
                r#"W {{"sid":"s{session}","tok":"t","resumed":true,"s0":{first},"q":{handled},"limits":{{"maxMessage":1,"window":1}}}}"#
            );
            let (mut next, mut answers) = (outbox.map_or(1, |outbox| outbox.next), 0);
            for frame in std::iter::once(welcome).chain(frames) {
                answers += 1;
                if client.handle_message(Time::ZERO, &Bytes::from(frame), false).is_err() {
                    break;
                }
                while client.poll_event().is_some() {}
                if client.room(1) && client.send(next, Bytes::from_static(b"x"), false) {
                    next += 1;
                }
                client.handle_timeout(Time::from_micros(answers * 1_000_000_000_000));
                let mut written = 0;
                while client.poll_transmit(Time::ZERO).is_some() {
                    written += 1;
                }
                prop_assert!(written < 10);
            }
            while client.poll_event().is_some() {}
            client.unsubscribe(&super::world::channel("c0"));
        }
    }
}

/// A client that was welcomed.
fn welcomed() -> Client {
    let mut client = Client::new(ClientConfig::default(), 1);
    client.handle_connected(None, None);
    let welcome = r#"W {"sid":"s","tok":"t","resumed":false,"s0":1,"q":0,"limits":{"maxMessage":1,"window":1}}"#;
    client.handle_message(Time::ZERO, &Bytes::from_static(welcome.as_bytes()), false).unwrap();
    while client.poll_event().is_some() {}
    client
}

#[test]
fn a_server_that_makes_subscriptions_without_end_is_left() {
    let mut client = welcomed();
    let made = (0..100_000).find_map(|n| {
        let frame = format!(r#"K {{"ch":"c{n}","st":"ok","e":"e","o":1,"mid":"m"}}"#);
        client.handle_message(Time::ZERO, &Bytes::from(frame), false).err()
    });
    let violation = made.expect("no limit");
    assert!(violation.code == 4004 && violation.reason.contains("16384 channels"), "{violation}");
}

#[test]
fn a_denial_that_nobody_asked_for_is_nothing() {
    let mut client = welcomed();
    for _ in 0..3 {
        let frame = Bytes::from_static(br#"K {"ch":"c","st":"denied"}"#);
        client.handle_message(Time::ZERO, &frame, false).unwrap();
    }
    assert_eq!(client.poll_event(), None);
    client.subscribe(super::world::channel("c"));
    let frame = Bytes::from_static(br#"K {"ch":"c","st":"denied"}"#);
    client.handle_message(Time::ZERO, &frame, false).unwrap();
    assert!(client.poll_event().is_some());
}
