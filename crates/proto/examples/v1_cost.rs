//! What the machines of `lifeline.v1` cost a message: `cargo run --release -p lifeline-proto --example v1_cost`,
//! or under `valgrind --tool=callgrind` with one of `items`, `messages`, `channel` and a count.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use lifeline_proto::Time;
use lifeline_proto::v1::server::{LinkId, Output, Server, ServerConfig};
use lifeline_proto::v1::{ChannelName, Key};
use rand::SeedableRng;
use rand::rngs::StdRng;

type Machine = Server<StdRng>;

fn server(connections: u64) -> (Machine, Vec<Key>) {
    let mut server = Server::new(ServerConfig::default(), StdRng::seed_from_u64(1));
    let mut sessions = Vec::new();
    for link in 0..connections {
        server.handle_connected(Time::ZERO, LinkId(link));
        let hello = format!(r#"H {{"v":1,"outbox":{{"id":"outbox{link}","gen":1,"first":1,"next":1}}}}"#);
        server.handle_message(Time::ZERO, LinkId(link), &hello.into(), false);
        while let Some(output) = server.poll_output() {
            match output {
                Output::Opened { session, .. } => sessions.push(session),
                Output::Transmit { link } => while server.poll_transmit(Time::ZERO, link).is_some() {},
                _ => {}
            }
        }
    }
    (server, sessions)
}

/// Items that are handled at once, 16 a batch.
fn items(count: u64) {
    let (mut server, _) = server(1);
    for q in 1..=count {
        let mut item = format!("P {q}\n").into_bytes();
        item.resize(item.len() + 256, b'x');
        server.handle_message(Time::ZERO, LinkId(0), &item.into(), false);
        if q % 16 == 0 {
            let mut given = Vec::new();
            while let Some(output) = server.poll_output() {
                if let Output::Deliver { outbox, delivery, .. } = output {
                    given.push((outbox, delivery));
                }
            }
            for (outbox, delivery) in given {
                server.handle_start(&outbox, delivery.id);
                server.handle_done(Time::ZERO, &outbox, delivery.id);
            }
            server.handle_batch_end();
            transmit(&mut server);
        }
    }
}

/// Messages of the stream, acknowledged after 32.
fn messages(count: u64) {
    let (mut server, sessions) = server(1);
    for s in 1..=count {
        server.send(Time::ZERO, &sessions[0], Bytes::from(vec![b'x'; 256]), false);
        transmit(&mut server);
        if s % 32 == 0 {
            server.handle_message(Time::ZERO, LinkId(0), &format!("A {s}").into(), false);
        }
    }
}

/// Messages of a channel with 1,000 readers; `count` is what they get together.
fn channel(count: u64) {
    let (mut server, sessions) = server(1000);
    let name = ChannelName::new("news").unwrap_or_else(|error| panic!("{error}"));
    for session in &sessions {
        server.subscribe(Time::ZERO, session, &name);
    }
    transmit(&mut server);
    for _ in 0..count / 1000 {
        server.publish(Time::ZERO, &name, &[b'x'; 256], false);
        transmit(&mut server);
    }
}

fn transmit(server: &mut Machine) {
    while let Some(output) = server.poll_output() {
        if let Output::Transmit { link } = output {
            while let Some(outgoing) = server.poll_transmit(Time::ZERO, link) {
                black_box(outgoing.encode());
            }
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let only = arguments.next();
    let count: u64 = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    for (name, run) in [("items", items as fn(u64)), ("messages", messages), ("channel", channel)] {
        if only.as_ref().is_none_or(|only| only == name) {
            let begun = Instant::now();
            run(count);
            eprintln!("{name}: {} ns each", begun.elapsed().as_nanos() / u128::from(count));
        }
    }
}
