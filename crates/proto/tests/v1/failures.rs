//! What must happen when things fail, case by case.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use lifeline_proto::v1::Position;
use lifeline_proto::v1::client::{Client, ClientConfig, Event, Welcomed};
use lifeline_proto::v1::inbox::Start;
use lifeline_proto::v1::log::FRESH;
use lifeline_proto::v1::ring::Retention;
use lifeline_proto::v1::server::{LinkId, Output, Server, ServerConfig, Stored};
use lifeline_proto::v1::wire::{ClientFrame, Encoded, Gap, Hello, OutboxRange, Status, VERSION, Why};
use lifeline_proto::{Time, close};

use super::world::{Numbers, World, channel, key};

fn config() -> ServerConfig {
    ServerConfig { authorise: true, ..ServerConfig::default() }
}

/// A world in which the first client is connected and has seen WELCOME.
fn connected() -> World {
    connected_with(config())
}

fn connected_with(config: ServerConfig) -> World {
    let mut world = World::new(config, 2);
    world.connect(0);
    world.flow();
    let welcomed = welcome(&world.take_events(0));
    assert!(!welcomed.resumed && welcomed.why.is_none());
    world
}

fn reconnect(world: &mut World) -> (Welcomed, Vec<Event>) {
    world.connect(0);
    world.flow();
    let events = world.take_events(0);
    (welcome(&events), events)
}

fn welcome(events: &[Event]) -> Welcomed {
    let mut found = events.iter().filter_map(|event| match event {
        Event::Welcomed(welcomed) => Some((**welcomed).clone()),
        _ => None,
    });
    let welcomed = found.next().expect("no WELCOME");
    assert_eq!(found.next(), None);
    welcomed
}

fn messages(events: &[Event]) -> Vec<(u64, String)> {
    let text = |data: &Bytes| String::from_utf8(data.to_vec()).unwrap();
    events
        .iter()
        .filter_map(|event| match event {
            Event::Message { delivery, data, .. } => Some((delivery.sequence, text(data))),
            Event::Channel { position, data, .. } => Some((position.offset, text(data))),
            _ => None,
        })
        .collect()
}

fn gaps(events: &[Event]) -> Vec<(Option<&str>, u64, Option<u64>, &str)> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Gap { gap: Gap { channel, from, to, why }, .. } => {
                Some((channel.as_ref().map(lifeline_proto::v1::ChannelName::as_str), *from, *to, why.as_str()))
            }
            _ => None,
        })
        .collect()
}

fn statuses(events: &[Event]) -> Vec<Status> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Subscription { status, .. } => Some(*status),
            _ => None,
        })
        .collect()
}

fn numbered(numbers: impl IntoIterator<Item = u64>) -> Vec<(u64, String)> {
    numbers.into_iter().map(|n| (n, n.to_string())).collect()
}

fn texts(frames: impl IntoIterator<Item = Encoded>) -> Vec<String> {
    frames.into_iter().map(|frame| String::from_utf8_lossy(&frame.data).into_owned()).collect()
}

#[test]
fn a_dropped_link_loses_nothing_either_way() {
    let mut world = connected();
    for n in 1..=5 {
        world.server_send(0, &n.to_string());
        world.client_send(0, &n.to_string());
    }
    // Three arrive each way, then the link is cut.
    for _ in 0..3 {
        world.write(0);
        world.arrive_at_client(0);
        world.arrive_at_server(0);
    }
    assert_eq!(messages(&world.take_events(0)), numbered(1..=3));
    while world.begin() {
        world.finish();
    }
    world.cut(0);
    world.server_send(0, "6");
    world.client_send(0, "6");
    world.connect(0);
    assert_eq!(world.run(), ["4", "5", "6"]);
    let events = world.take_events(0);
    assert!(welcome(&events).resumed);
    assert_eq!(messages(&events), numbered(4..=6));
    assert_eq!(gaps(&events), []);
    assert_eq!(events.iter().filter(|event| **event == Event::ReplayDone).count(), 1);
    assert!(world.peers[0].outbox.is_empty());
}

#[test]
fn a_server_that_closes_during_hello_was_never_connected() {
    let mut world = World::new(config(), 1);
    world.server.drain(world.now, Duration::from_secs(5));
    world.connect(0);
    world.flow();
    assert_eq!(world.peers[0].ends, [close::SHUTDOWN]);
    assert_eq!(world.take_events(0), []);
    assert!(!world.peers[0].client.is_open());
}

#[test]
fn publishers_may_come_back_before_subscribers() {
    let mut world = connected();
    world.subscribe(0, "news");
    world.flow();
    world.publish("news", "1");
    world.flow();
    world.take_events(0);
    world.cut(0);
    world.publish("news", "2");
    world.publish("news", "3");
    let (_, events) = reconnect(&mut world);
    assert_eq!(statuses(&events), [Status::Ok]);
    assert_eq!(messages(&events), numbered(2..=3));
    assert_eq!(gaps(&events), []);
}

#[test]
fn a_restart_without_a_store_is_told() {
    let mut world = connected();
    world.subscribe(0, "news");
    world.server_send(0, "1");
    world.publish("news", "1");
    world.client_send(0, "1");
    assert_eq!(world.run(), ["1"]);
    world.take_events(0);
    // Handled, but the acknowledgement is lost with the server.
    world.client_send(0, "2");
    world.arrive_at_server(0);
    world.begin();
    world.finish();
    world.restart_server(None);
    world.connect(0);
    // The item comes again: the mark has died with the server. `outbox:q` tells the application.
    assert_eq!(world.run(), ["2"]);
    let events = world.take_events(0);
    let welcomed = welcome(&events);
    assert_eq!((welcomed.resumed, welcomed.why), (false, Some(Why::Restart)));
    assert_eq!(gaps(&events), [(None, 2, None, "restart"), (Some("news"), 2, None, "epoch")]);
    assert_eq!(statuses(&events), [Status::Gap]);
    // From here on as ever.
    world.server_send(0, "one");
    world.publish("news", "one");
    world.flow();
    assert_eq!(messages(&world.take_events(0)), [(1, "one".into()), (1, "one".into())]);
}

#[test]
fn a_restart_with_a_store_is_a_dropped_link() {
    let mut world = connected();
    world.subscribe(0, "news");
    world.flow();
    world.server_send(0, "1");
    world.publish("news", "1");
    world.client_send(0, "1");
    assert_eq!(world.run(), ["1"]);
    world.client_send(0, "2");
    world.take_events(0);
    world.batch_end();
    world.flow();
    let stored = world.server.stored();
    world.restart_server(Some(stored));
    world.connect(0);
    assert_eq!(world.run(), ["2"]);
    let events = world.take_events(0);
    assert!(welcome(&events).resumed);
    assert_eq!(gaps(&events), []);
    assert_eq!(statuses(&events), [Status::Ok]);
    world.server_send(0, "2");
    world.flow();
    assert_eq!(messages(&world.take_events(0)), numbered(2..=2));
}

#[test]
fn what_a_store_kept_is_sent_again() {
    let mut world = connected_with(ServerConfig { store: true, ..config() });
    world.subscribe(0, "news");
    world.flow();
    for n in 1..=2 {
        world.server_send(0, &n.to_string());
        world.publish("news", &n.to_string());
    }
    world.flow();
    world.take_events(0);
    // On their way when the server dies.
    for n in 3..=5 {
        world.server_send(0, &n.to_string());
        world.publish("news", &n.to_string());
    }
    let stored = world.server.stored();
    world.restart_server(Some(stored));
    let (welcomed, events) = reconnect(&mut world);
    assert!(welcomed.resumed);
    assert_eq!(gaps(&events), []);
    let both = |range: std::ops::RangeInclusive<u64>| [numbered(range.clone()), numbered(range)].concat();
    assert_eq!(messages(&events), both(3..=5));
    world.server_send(0, "6");
    world.publish("news", "6");
    world.flow();
    assert_eq!(messages(&world.take_events(0)), both(6..=6));
}

#[test]
fn nothing_leaves_before_the_store_has_it() {
    let channel = channel("news");
    let hello = Hello { version: VERSION, ..Hello::default() };
    let hello = ClientFrame::Hello(Box::new(hello)).encode();
    let beat = ClientFrame::Beat(7).encode();
    let (now, link) = (Time::from_micros(1), LinkId(1));
    let mut server = Server::new(ServerConfig { store: true, ..config() }, Numbers(1));
    let types = |server: &mut Server<Numbers>| -> String {
        while server.poll_output().is_some() {}
        std::iter::from_fn(|| server.poll_transmit(now, link)).map(|frame| char::from(frame.encode().data[0])).collect()
    };
    server.handle_connected(now, link);
    server.handle_message(now, link, &hello.data, false);
    assert_eq!(types(&mut server), "", "the token is not stored");
    assert!(server.is_held(link));
    server.handle_written(server.place());
    assert!(!server.is_held(link));
    assert_eq!(types(&mut server), "WR");
    let session = server.session_of(link).unwrap().clone();
    server.subscribe(now, &session, &channel);
    server.handle_message(now, link, &beat.data, false);
    assert_eq!(types(&mut server), "O", "the channel is not stored; a beat is answered all the same");
    server.handle_written(server.place());
    assert_eq!(types(&mut server), "K");
    server.publish(now, &channel, b"1", false);
    server.send(now, &session, Bytes::from_static(b"1"), false);
    let first = server.place();
    server.publish(now, &channel, b"2", false);
    server.send(now, &session, Bytes::from_static(b"2"), false);
    server.handle_message(now, link, &beat.data, false);
    assert_eq!(types(&mut server), "O");
    server.handle_written(first);
    assert!(matches!(server.poll_output(), Some(Output::Transmit { .. })), "it is told that there is more");
    assert_eq!(types(&mut server), "MC");
    assert!(server.is_held(link) && server.is_unwritten());
    server.handle_written(server.place());
    assert_eq!(types(&mut server), "MC");
    assert!(!server.is_held(link) && !server.is_unwritten());
}

#[test]
fn what_a_store_did_not_keep_is_a_gap() {
    let mut world = connected();
    world.subscribe(0, "news");
    world.flow();
    for n in 1..=3 {
        world.server_send(0, &n.to_string());
        world.publish("news", &n.to_string());
    }
    // Nothing of it was written.
    let stored = world.stored_without_messages();
    world.restart_server(Some(stored));
    world.take_events(0);
    let (welcomed, events) = reconnect(&mut world);
    assert_eq!((welcomed.resumed, welcomed.why), (false, Some(Why::Overflow)));
    assert_eq!(gaps(&events), [(None, 1, Some(3), "overflow"), (Some("news"), 1, Some(3), "history")]);
}

#[test]
fn a_replay_that_overlaps_is_not_delivered_twice() {
    let mut world = connected();
    for n in 1..=4 {
        world.server_send(0, &n.to_string());
    }
    world.flow();
    // The application has handled two; four are in its process.
    let first: Vec<_> = [world.take_event(0), world.take_event(0)].into_iter().flatten().collect();
    assert_eq!(messages(&first), numbered(1..=2));
    world.cut(0);
    world.connect(0);
    world.arrive_at_server(0);
    assert!(world.write(0));
    let replayed: Vec<_> = std::iter::from_fn(|| world.write(0).then_some(())).collect();
    assert_eq!(replayed.len(), 3);
    assert_eq!(texts(world.peers[0].to_client.iter().skip(1).cloned()), ["M 3\n3", "M 4\n4", "R 4"]);
    world.flow();
    assert_eq!(messages(&world.take_events(0)), numbered(3..=4));
    assert_eq!(world.peers[0].client.counters().duplicates, 2);
    assert_eq!((world.server.counters().replayed, world.server.counters().resumed), (2, 1));
}

#[test]
fn what_came_before_may_be_acknowledged_before_it_comes_again() {
    let mut world = connected();
    for n in 1..=3 {
        world.server_send(0, &n.to_string());
    }
    world.flow();
    world.cut(0);
    world.connect(0);
    world.arrive_at_server(0);
    world.write(0);
    world.arrive_at_client(0);
    // HELLO said 0; meanwhile the application has handled all three.
    assert_eq!(messages(&world.take_events(0)), numbered(1..=3));
    world.batch_end();
    world.write(0);
    world.flow();
    world.server_send(0, "4");
    world.flow();
    let events = world.take_events(0);
    assert_eq!((gaps(&events), messages(&events)), (vec![], numbered(4..=4)));
    assert!(world.peers[0].link.is_some());
    let session = world.peers[0].client.session().unwrap().clone();
    world.batch_end();
    world.flow();
    assert_eq!(world.server.session(&session).unwrap().unsent_bytes(), 0);
}

#[test]
fn a_welcome_that_was_lost_is_asked_for_again() {
    let mut world = connected();
    world.server_send(0, "1");
    for _ in 0..5 {
        world.cut(0);
        world.connect(0);
        world.arrive_at_server(0);
        while world.write(0) {}
    }
    world.cut(0);
    let (welcomed, events) = reconnect(&mut world);
    assert!(welcomed.resumed);
    assert_eq!(messages(&events), numbered(1..=1));
}

#[test]
fn the_token_before_is_good_until_a_frame_comes_under_the_present_one() {
    let mut world = connected();
    let before = world.peers[0].client.saved().unwrap();
    world.cut(0);
    reconnect(&mut world);
    assert_ne!(world.peers[0].client.saved().unwrap().token, before.token);
    world.cut(0);
    // Not proven: the thief of the old token, or who lost the answer, may come.
    world.peers[1].client.restore(before.clone());
    world.connect(1);
    world.flow();
    assert!(welcome(&world.take_events(1)).resumed);
    // Proven by a frame: the one before is worth nothing, and says nothing of the session.
    world.peers[1].client.beat(1);
    world.settle();
    world.flow();
    world.cut(1);
    let late = world.add_client("late");
    world.peers[late].client.restore(before);
    world.connect(late);
    world.flow();
    let welcomed = welcome(&world.take_events(late));
    assert_eq!((welcomed.resumed, welcomed.why), (false, Some(Why::Superseded)));
}

#[test]
fn a_hello_that_was_under_way_for_long_takes_nothing_from_who_came_later() {
    let mut world = connected();
    world.cut(0);
    world.connect(0);
    let late = world.peers[0].to_server.front().unwrap().clone();
    world.cut(0);
    reconnect(&mut world);
    // It shows the token before, and no frame has come under the present one: the session is its.
    world.server.handle_connected(world.now, LinkId(50));
    world.server.handle_message(world.now, LinkId(50), &late.data, false);
    world.settle();
    assert_eq!(world.peers[0].ends.last(), Some(&close::SUPERSEDED));
    // Whose token holds all the same.
    let (welcomed, _) = reconnect(&mut world);
    assert!(welcomed.resumed);
    world.client_send(0, "1");
    assert_eq!(world.run(), ["1"]);
    // Proven: what is later still is sent away, and neither session nor outbox are taken.
    world.server.handle_connected(world.now, LinkId(51));
    world.server.handle_message(world.now, LinkId(51), &late.data, false);
    world.settle();
    let closed = Output::Close {
        link: LinkId(51),
        code: close::SUPERSEDED,
        reason: close::default_reason(close::SUPERSEDED).into(),
    };
    assert!(world.outputs.contains(&closed));
    world.client_send(0, "2");
    assert_eq!(world.run(), ["2"]);
    // Another process with the same outbox is not held up by a connection that is dead.
    world.half_cut(0);
    world.peers[0].generation += 1;
    world.server.handle_connected(world.now, LinkId(52));
    let next = String::from_utf8(late.data.to_vec()).unwrap().replace(r#""gen":1"#, r#""gen":2"#);
    world.server.handle_message(world.now, LinkId(52), &next.into(), false);
    world.settle();
    assert!(world.server.session_of(LinkId(52)).is_some());
}

#[test]
fn a_delivery_from_before_an_outbox_was_forgotten_is_stale() {
    let mut world = connected_with(ServerConfig { max_inboxes: 1, ..config() });
    for n in 1..=2 {
        world.client_send(0, &n.to_string());
    }
    world.flow();
    world.begin();
    world.reject(false);
    world.connect(1);
    world.client_send(1, "other");
    world.flow();
    world.cut(0);
    assert!(world.server.inbox(&world.peers[0].outbox_id).is_none());
    // What waits for the application since then is not the item that comes again under the same number.
    let waiting: Vec<_> = world.given.iter().map(|given| given.delivery.id.sequence).collect();
    assert_eq!(waiting, [2, 1]);
    world.connect(0);
    world.sleep(Duration::from_secs(1));
    assert_eq!(world.run(), ["other", "1", "2"]);
}

#[test]
fn what_hello_gives_up_is_acknowledged_when_it_is_stored() {
    let mut world = connected_with(ServerConfig { store: true, ..config() });
    world.client_send(0, "1");
    world.run();
    while world.store() {}
    world.batch_end();
    world.flow();
    // The server has lost its marks; then the client falls back to what its disk knew.
    world.restart_server(None);
    world.connect(0);
    world.flow();
    let copy = world.add_client("outbox1");
    world.peers[copy].generation = 2;
    world.client_send(copy, "1");
    world.connect(copy);
    world.flow();
    while world.store() {}
    world.batch_end();
    world.flow();
    assert!(world.peers[copy].outbox.is_empty());
}

#[test]
fn a_link_cut_in_the_middle_of_the_replay_goes_on_from_what_was_delivered() {
    let mut world = connected();
    world.cut(0);
    for n in 1..=6 {
        world.server_send(0, &n.to_string());
    }
    let mut seen = Vec::new();
    for count in 1..=9 {
        world.connect(0);
        world.arrive_at_server(0);
        for _ in 0..count {
            world.write(0);
            world.arrive_at_client(0);
        }
        seen.extend(messages(&world.take_events(0)));
        world.cut(0);
    }
    assert_eq!(seen, numbered(1..=6));
}

#[test]
fn a_client_that_crashed_finds_its_outbox_and_fences_its_former_self() {
    let mut world = connected();
    for n in 1..=3 {
        world.client_send(0, &n.to_string());
    }
    world.arrive_at_server(0);
    world.begin();
    world.finish();
    world.restart_client(0);
    world.connect(0);
    assert_eq!(world.run(), ["2", "3"]);
    assert!(welcome(&world.take_events(0)).resumed);
    // The former process comes back from a long sleep.
    let zombie = world.add_client("outbox1");
    world.connect(zombie);
    world.flow();
    assert_eq!(world.peers[zombie].ends, [close::SUPERSEDED]);
    assert!(world.peers[0].client.is_open());
}

#[test]
fn a_client_that_crashed_before_it_saved_sees_some_again() {
    let mut world = connected();
    for n in 1..=3 {
        world.server_send(0, &n.to_string());
    }
    world.flow();
    world.take_event(0);
    let saved = world.peers[0].client.saved().unwrap();
    world.take_events(0);
    // Handled, not saved, not acknowledged: the number is the application's key.
    let successor = world.add_client("outbox3");
    world.peers[successor].client.restore(saved);
    world.connect(successor);
    world.flow();
    let events = world.take_events(successor);
    assert!(welcome(&events).resumed);
    assert_eq!(messages(&events), numbered(2..=3));
}

#[test]
fn a_half_open_connection_is_taken_over_at_once() {
    let mut world = connected();
    for n in 1..=4 {
        world.client_send(0, &n.to_string());
    }
    world.flow();
    assert!(world.begin());
    assert_eq!((world.given.len(), world.running.len()), (3, 1));
    world.half_cut(0);
    let old = *world.half_open.first().unwrap();
    let (welcomed, _) = reconnect(&mut world);
    assert!(welcomed.resumed);
    assert!(
        world
            .outputs
            .iter()
            .any(|output| matches!(output, Output::Close { link, code: close::SUPERSEDED, .. } if *link == old))
    );
    // The handler that runs holds back the rest; what was queued is thrown away and comes again.
    assert!(!world.begin());
    assert_eq!(world.finish().unwrap().delivery.data, "1");
    assert_eq!(world.run(), ["2", "3", "4"]);
    assert!(world.peers[0].outbox.is_empty());
    // Its end, when it is found at last, changes nothing.
    world.server.handle_lost(world.now, old);
    world.server_send(0, "on");
    world.flow();
    assert_eq!(messages(&world.take_events(0)), [(1, "on".into())]);
}

#[test]
fn two_tabs_with_one_session_do_not_fight() {
    let mut world = connected();
    let saved = world.peers[0].client.saved().unwrap();
    world.peers[1].client.restore(saved);
    world.connect(1);
    world.flow();
    assert!(welcome(&world.take_events(1)).resumed);
    // 45xx: the first one does not come back.
    assert_eq!(world.peers[0].ends, [close::SUPERSEDED]);
}

#[test]
fn too_small_a_ring_is_a_gap() {
    let retention = Retention { count: 3, ..Retention::default() };
    let mut world = connected_with(ServerConfig { retention, ..config() });
    world.subscribe(0, "news");
    world.flow();
    world.cut(0);
    for n in 1..=5 {
        world.server_send(0, &n.to_string());
        world.publish("news", &n.to_string());
    }
    world.sleep(FRESH);
    let (welcomed, events) = reconnect(&mut world);
    assert_eq!((welcomed.resumed, welcomed.why), (false, Some(Why::Overflow)));
    assert_eq!(gaps(&events), [(None, 1, Some(2), "overflow"), (Some("news"), 1, Some(2), "history")]);
    assert_eq!(messages(&events), [numbered(3..=5), numbered(3..=5)].concat());
    // The gap was reported once, also when the link is cut again at once.
    world.cut(0);
    let (welcomed, events) = reconnect(&mut world);
    assert!(welcomed.resumed);
    assert_eq!((gaps(&events), messages(&events)), (vec![], vec![]));
}

#[test]
fn a_snapshot_stands_for_what_the_log_lost() {
    let retention = Retention { count: 2, ..Retention::default() };
    let mut world = connected_with(ServerConfig { retention, snapshots: true, ..config() });
    world.states.insert(channel("news"), Bytes::from_static(b"state"));
    world.subscribe(0, "news");
    world.flow();
    assert_eq!(statuses(&world.take_events(0)), [Status::Ok]);
    world.cut(0);
    for n in 1..=5 {
        world.publish("news", &n.to_string());
    }
    world.sleep(FRESH);
    world.connect(0);
    world.arrive_at_server(0);
    while world.write(0) {}
    let frames = texts(world.peers[0].to_client.iter().skip(1).cloned());
    let kinds: String = frames.iter().map(|frame| &frame[..1]).collect();
    assert_eq!(kinds, "KGBR", "{frames:?}");
    world.flow();
    world.publish("news", "6");
    world.flow();
    let events = world.take_events(0);
    assert_eq!(gaps(&events), [(Some("news"), 1, Some(3), "history")]);
    assert!(events.iter().any(|event| matches!(event, Event::Snapshot { position, .. } if position.offset == 5)));
    assert_eq!(messages(&events), numbered(6..=6));
    // No state to give: what the log still has.
    world.states.clear();
    world.cut(0);
    for n in 7..=10 {
        world.publish("news", &n.to_string());
    }
    world.sleep(FRESH);
    let (_, events) = reconnect(&mut world);
    assert_eq!(gaps(&events), [(Some("news"), 7, Some(8), "history")]);
    assert_eq!(messages(&events), numbered(9..=10));
}

#[test]
fn a_session_ends_when_nobody_comes_back_in_time() {
    let mut world = connected();
    world.server_send(0, "1");
    let session = world.peers[0].client.session().unwrap().clone();
    world.cut(0);
    world.sleep(Duration::from_secs(119));
    assert!(world.server.session(&session).is_some());
    assert_eq!(world.server.poll_timeout(), Some(lifeline_proto::Time::from_micros(120_000_000)));
    world.sleep(Duration::from_secs(1));
    assert!(world.server.session(&session).is_none());
    assert!(world.outputs.contains(&Output::SessionEnded { session: session.clone() }));
    let (welcomed, events) = reconnect(&mut world);
    assert_eq!((welcomed.resumed, welcomed.why), (false, Some(Why::Expired)));
    assert_ne!(welcomed.session, session);
    assert_eq!(gaps(&events), [(None, 1, None, "expired")]);
    // Who comes back in time has it for as long again.
    world.cut(0);
    world.sleep(Duration::from_secs(100));
    reconnect(&mut world);
    world.sleep(Duration::from_secs(100));
    world.cut(0);
    world.sleep(Duration::from_secs(100));
    assert!(reconnect(&mut world).0.resumed);
}

#[test]
fn an_inbox_is_remembered_for_its_time_after_the_last_connection() {
    let mut world = connected_with(ServerConfig { dedupe_ttl: Duration::from_secs(1000), ..config() });
    world.client_send(0, "1");
    world.run();
    let outbox = world.peers[0].outbox_id.clone();
    for _ in 0..20 {
        world.cut(0);
        world.sleep(Duration::from_secs(90));
        world.connect(0);
        world.flow();
    }
    world.cut(0);
    world.sleep(Duration::from_micros(999_999_999));
    assert!(world.server.inbox(&outbox).is_some());
    world.sleep(Duration::from_micros(1));
    assert!(world.server.inbox(&outbox).is_none());
    // Nothing is left to wait for.
    assert_eq!(world.server.poll_timeout(), None);
}

#[test]
fn a_log_that_was_rolled_back_is_a_gap_not_silence() {
    let mut world = connected();
    world.subscribe(0, "news");
    world.flow();
    world.publish("news", "1");
    world.publish("news", "2");
    let stored = world.stored_without_messages();
    world.publish("news", "3");
    world.flow();
    world.take_events(0);
    // The store's last second is lost; another message takes offset 3.
    world.restart_server(Some(stored.clone()));
    world.publish("news", "other 3");
    let (_, events) = reconnect(&mut world);
    assert_eq!(gaps(&events), [(Some("news"), 1, Some(3), "diverged")]);
    world.publish("news", "4");
    world.flow();
    assert_eq!(messages(&world.take_events(0)), numbered(4..=4));
    // The client is ahead of the log.
    let stored = Stored { channels: stored.channels, ..world.stored_without_messages() };
    world.restart_server(Some(stored));
    let (_, events) = reconnect(&mut world);
    assert_eq!(gaps(&events), [(Some("news"), 1, Some(2), "diverged")]);
}

#[test]
fn a_stream_that_was_rolled_back_is_a_new_session() {
    let mut world = connected();
    let stored = world.server.stored();
    world.server_send(0, "1");
    world.flow();
    assert_eq!(messages(&world.take_events(0)), numbered(1..=1));
    world.restart_server(Some(stored));
    let (welcomed, events) = reconnect(&mut world);
    assert_eq!((welcomed.resumed, welcomed.why), (false, Some(Why::Restart)));
    assert_eq!(gaps(&events), [(None, 2, None, "restart")]);
}

#[test]
fn a_refused_token_closes_and_keeps_the_session_and_the_outbox() {
    let mut world = connected_with(ServerConfig { authenticate: true, ..config() });
    world.cut(0);
    world.client_send(0, "1");
    let link = LinkId(77);
    world.server.handle_connected(world.now, link);
    let saved = world.peers[0].client.saved().unwrap();
    let hello = format!(
        r#"H {{"v":1,"auth":"old","resume":{{"sid":"{}","tok":"{}","s":0}}}}"#,
        saved.session,
        saved.token.expose()
    );
    world.server.handle_message(world.now, link, &hello.into(), false);
    assert!(matches!(world.server.poll_output(), Some(Output::Authenticate { auth: Some(_), .. })));
    world.server.handle_authenticated(world.now, link, Err(close::TOKEN_EXPIRED));
    world.settle();
    assert!(world.outputs.iter().any(|output| matches!(output, Output::Close { code: close::TOKEN_EXPIRED, .. })));
    // With a fresh one it goes on.
    world.connect(0);
    assert_eq!(world.run(), ["1"]);
    assert!(welcome(&world.take_events(0)).resumed);
}

#[test]
fn a_session_is_resumed_by_its_owner_only() {
    let mut world = World::new(ServerConfig { authenticate: true, ..config() }, 0);
    let hello = |world: &mut World, link, resume: &str, owner: &str| {
        world.server.handle_connected(world.now, LinkId(link));
        world.server.handle_message(world.now, LinkId(link), &format!(r#"H {{"v":1{resume}}}"#).into(), false);
        assert!(matches!(world.server.poll_output(), Some(Output::Authenticate { .. })));
        world.server.handle_authenticated(world.now, LinkId(link), Ok(Some(owner.into())));
        world.settle();
        let outgoing = world.server.poll_transmit(world.now, LinkId(link)).unwrap().encode().data;
        let welcome: serde_json::Value = serde_json::from_slice(&outgoing[2..]).unwrap();
        (welcome["sid"].clone(), welcome["tok"].clone(), welcome["resumed"].as_bool().unwrap(), welcome["why"].clone())
    };
    let (sid, tok, ..) = hello(&mut world, 1, "", "anna");
    let resume = format!(r#","resume":{{"sid":{sid},"tok":{tok},"s":0}}"#);
    let (other, _, resumed, why) = hello(&mut world, 2, &resume, "bert");
    assert_eq!((resumed, why.as_str()), (false, Some("unknown")));
    assert_ne!(other, sid);
    let (same, _, resumed, _) = hello(&mut world, 3, &resume, "anna");
    assert_eq!((same, resumed), (sid, true));
}

#[test]
fn publishing_while_a_client_comes_back_is_neither_lost_nor_doubled() {
    // A message at every moment of the dialogue.
    for moment in 0..8 {
        let mut world = connected();
        world.subscribe(0, "news");
        world.flow();
        world.publish("news", "1");
        world.cut(0);
        world.take_events(0);
        world.publish("news", "2");
        world.connect(0);
        for step in 0..8 {
            if step == moment {
                world.publish("news", "3");
                world.server_send(0, "1");
            }
            match step {
                0 => drop(world.arrive_at_server(0)),
                _ if step % 2 == 1 => drop(world.write(0)),
                _ => drop(world.arrive_at_client(0)),
            }
        }
        world.flow();
        let mut messages = messages(&world.take_events(0));
        messages.sort();
        assert_eq!(messages, [(1, "1".into()), (1, "1".into()), (2, "2".into()), (3, "3".into())], "{moment}");
    }
}

#[test]
fn live_messages_wait_behind_the_replay() {
    let mut world = connected();
    world.subscribe(0, "news");
    world.flow();
    world.cut(0);
    world.take_events(0);
    world.publish("news", "1");
    world.server_send(0, "1");
    world.connect(0);
    world.arrive_at_server(0);
    // The replay's end was fixed by HELLO.
    world.publish("news", "2");
    world.server_send(0, "2");
    while world.write(0) {}
    let frames = texts(world.peers[0].to_client.iter().skip(1).cloned());
    let (replay, live): (Vec<_>, Vec<_>) = (frames[..3].to_vec(), frames[4..].to_vec());
    assert!(replay[0].starts_with("K ") && replay[1] == "M 1\n1" && replay[2].starts_with("C news "), "{frames:?}");
    assert_eq!(frames[3], "R 1");
    assert!(live.contains(&"M 2\n2".into()) && live.len() == 2, "{frames:?}");
}

#[test]
fn a_poison_item_does_not_block() {
    let mut world = connected();
    world.client_send(0, "poison");
    world.client_send(0, "good");
    for attempt in 1..=5 {
        world.connect(0);
        world.flow();
        assert!(world.begin());
        assert_eq!(world.fail().unwrap().delivery.data, "poison");
        assert_eq!(world.peers[0].link.is_none(), attempt < 5);
    }
    assert_eq!(world.peers[0].ends, [close::INTERNAL_ERROR; 4]);
    assert_eq!(world.run(), ["good"]);
    let events = world.take_events(0);
    let rejected =
        |event: &&Event| matches!(event, Event::Rejected(reject) if reject.sequence == 1 && reject.permanent);
    assert_eq!(events.iter().filter(rejected).count(), 1);
    assert!(world.peers[0].outbox.is_empty());
}

#[test]
fn an_item_refused_for_now_comes_again_in_order() {
    let mut world = connected();
    for n in 1..=3 {
        world.client_send(0, &n.to_string());
    }
    world.flow();
    world.begin();
    world.reject(false);
    world.flow();
    assert!(!world.begin());
    assert!(!world.peers[0].client.room(1));
    world.client_send(0, "4");
    let until = world.peers[0].client.poll_timeout().unwrap();
    world.sleep(until - world.now);
    assert_eq!(world.run(), ["1", "2", "3", "4"]);
}

#[test]
fn a_refusal_whose_n_was_lost_is_told_with_welcome() {
    let mut world = connected();
    world.client_send(0, "bad");
    world.client_send(0, "good");
    world.flow();
    world.begin();
    world.reject(true);
    world.begin();
    world.finish();
    world.cut(0);
    assert_eq!(world.peers[0].outbox.len(), 2);
    let (_, events) = reconnect(&mut world);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Rejected(_))).count(), 1);
    assert!(world.peers[0].outbox.is_empty());
    // Told once.
    world.cut(0);
    let (_, events) = reconnect(&mut world);
    assert!(!events.iter().any(|event| matches!(event, Event::Rejected(_))));
}

#[test]
fn what_expired_before_it_was_sent_is_given_up() {
    let mut world = connected();
    world.cut(0);
    let peer = &mut world.peers[0];
    for (text, ttl) in [("1", None), ("2", Some(1)), ("3", Some(1)), ("4", None)] {
        peer.outbox.push(world.now, text.into(), false, ttl.map(Duration::from_secs)).unwrap();
    }
    world.sleep(Duration::from_secs(2));
    assert_eq!(world.peers[0].outbox.expire(world.now).len(), 2);
    world.connect(0);
    assert_eq!(world.run(), ["1", "4"]);
    assert!(world.peers[0].outbox.is_empty());
    assert_eq!(world.server.inbox(&world.peers[0].outbox_id).unwrap().handled(), 4);
}

#[test]
fn what_leaves_the_outbox_between_hello_and_welcome_is_given_up() {
    let mut world = connected();
    world.cut(0);
    for n in 1..=3 {
        world.client_send(0, &n.to_string());
    }
    world.connect(0);
    assert!(world.arrive_at_server(0));
    for n in 1..=2 {
        assert!(world.peers[0].outbox.handle_rejected(n).is_some());
    }
    assert_eq!(world.run(), ["3"]);
    assert_eq!(world.peers[0].ends, [0]);
    assert!(world.peers[0].outbox.is_empty());
    assert_eq!(world.server.inbox(&world.peers[0].outbox_id).unwrap().handled(), 3);
}

#[test]
fn an_outbox_that_lost_its_end_is_found_out() {
    let mut world = connected();
    for n in 1..=3 {
        world.client_send(0, &n.to_string());
    }
    world.run();
    world.cut(0);
    // A copy from before comes back, whose next item is 2.
    let copy = world.add_client("outbox1");
    world.peers[copy].generation = 2;
    world.client_send(copy, "old 1");
    world.connect(copy);
    world.arrive_at_server(copy);
    world.write(copy);
    let welcome = world.peers[copy].to_client.pop_front().unwrap();
    let violation = world.peers[copy].client.handle_message(world.now, &welcome.data, false).unwrap_err();
    assert_eq!(violation.code, close::STATE_INVALID);
    let events: Vec<_> = std::iter::from_fn(|| world.peers[copy].client.poll_event()).collect();
    assert!(events.contains(&Event::OutboxDiverged { handled: 3 }));
}

#[test]
fn a_slow_reader_of_a_channel_gets_a_gap_and_no_kick() {
    let retention = Retention { count: 3, ..Retention::default() };
    let mut world = connected_with(ServerConfig { retention, ..config() });
    world.subscribe(0, "news");
    world.flow();
    world.take_events(0);
    for n in 1..=8 {
        world.publish("news", &n.to_string());
    }
    world.sleep(FRESH);
    world.publish("news", "9");
    world.flow();
    let events = world.take_events(0);
    assert_eq!(gaps(&events), [(Some("news"), 1, Some(6), "slow")]);
    assert_eq!(messages(&events), numbered(7..=9));
    assert!(world.peers[0].ends.is_empty());
}

#[test]
fn a_burst_is_whole_for_who_is_connected_and_reads() {
    let retention = Retention { count: 3, ..Retention::default() };
    let mut world = connected_with(ServerConfig { retention, send_limit: 1000, ..config() });
    world.subscribe(0, "news");
    world.flow();
    world.take_events(0);
    for n in 1..=20 {
        world.publish("news", &n.to_string());
        world.server_send(0, &n.to_string());
    }
    world.flow();
    let events = world.take_events(0);
    assert_eq!(gaps(&events), []);
    assert_eq!(messages(&events).len(), 40);
    // Too much for a connection that takes nothing: closed, and what the ring keeps comes with the next.
    world.batch_end();
    world.flow();
    for n in 21..=25 {
        world.server_send(0, &n.to_string().repeat(100));
    }
    assert!(world.peers[0].link.is_some());
    world.server_send(0, &"x".repeat(10));
    assert_eq!(world.peers[0].ends, [close::SLOW_CONSUMER]);
    let (welcomed, events) = reconnect(&mut world);
    assert_eq!((welcomed.resumed, welcomed.why), (false, Some(Why::Overflow)));
    assert_eq!(gaps(&events), [(None, 21, Some(23), "overflow")]);
    assert_eq!(messages(&events).len(), 3);
}

#[test]
fn who_comes_back_is_not_too_slow_for_what_is_replayed() {
    let mut world = connected_with(ServerConfig { send_limit: 100, ..config() });
    world.cut(0);
    for _ in 0..5 {
        world.server_send(0, &"x".repeat(90));
    }
    world.connect(0);
    world.arrive_at_server(0);
    world.server_send(0, "live");
    assert!(world.peers[0].link.is_some());
    world.flow();
    assert_eq!(messages(&world.take_events(0)).len(), 6);
    // From R on the limit is what it says.
    world.server_send(0, &"x".repeat(90));
    world.server_send(0, &"x".repeat(90));
    assert_eq!(world.peers[0].ends.last(), Some(&close::SLOW_CONSUMER));
}

#[test]
fn small_messages_wait_within_a_limit_too() {
    let mut world = connected();
    let sent = (1..100_000).find(|_| {
        world.server_send(0, "");
        world.peers[0].link.is_none()
    });
    // As many as the ring keeps, and those that wait.
    assert_eq!(sent, Some(1000 + 16384 + 1));
}

#[test]
fn subscriptions_come_back_as_they_were_made() {
    let mut world = connected();
    world.subscribe(0, "asked");
    world.server_subscribe(0, "given");
    world.flow();
    assert_eq!(statuses(&world.take_events(0)), [Status::Ok, Status::Ok]);
    world.cut(0);
    world.publish("asked", "1");
    world.publish("given", "1");
    // The application has changed its mind about what it is asked.
    world.denied.insert(channel("asked"));
    let (_, events) = reconnect(&mut world);
    let mut found = statuses(&events);
    found.sort_by_key(|status| *status == Status::Ok);
    assert_eq!(found, [Status::Denied, Status::Ok]);
    assert_eq!(messages(&events), numbered(1..=1));
    // One that the client never heard of goes on from where it began.
    world.server_subscribe(0, "late");
    world.cut(0);
    world.publish("late", "1");
    let (_, events) = reconnect(&mut world);
    assert_eq!(messages(&events), numbered(1..=1));
    // Left while there was no connection, also when both ends had asked for it.
    world.subscribe(0, "late");
    world.flow();
    world.cut(0);
    world.unsubscribe(0, "late");
    world.publish("late", "2");
    let (_, events) = reconnect(&mut world);
    assert_eq!(messages(&events), []);
    let session = world.peers[0].client.session().unwrap();
    assert!(!world.server.session(session).unwrap().is_subscribed(&channel("late")));
}

#[test]
fn without_a_callback_subscribing_is_denied_and_limits_hold() {
    let mut world = connected_with(ServerConfig { authorise: false, ..config() });
    world.subscribe(0, "a");
    world.flow();
    assert_eq!(statuses(&world.take_events(0)), [Status::Denied]);
    // What the server has made is not denied to who asks for it, too.
    world.server_subscribe(0, "b");
    world.subscribe(0, "b");
    world.flow();
    assert_eq!(statuses(&world.take_events(0)), [Status::Ok, Status::Ok]);
    world.publish("b", "1");
    world.flow();
    assert_eq!(messages(&world.take_events(0)), numbered(1..=1));
    let mut world = connected_with(ServerConfig { max_subscriptions: 2, ..config() });
    for name in ["a", "b", "c"] {
        world.subscribe(0, name);
    }
    world.flow();
    assert_eq!(statuses(&world.take_events(0)), [Status::Ok, Status::Ok, Status::Denied]);
    // Those that come back count once.
    world.cut(0);
    let (_, events) = reconnect(&mut world);
    assert_eq!(statuses(&events), [Status::Ok, Status::Ok]);
}

#[test]
fn a_drain_asks_clients_to_leave_within_the_window() {
    let mut world = World::new(config(), 20);
    for index in 0..20 {
        world.connect(index);
    }
    world.flow();
    world.server.drain(world.now, Duration::from_secs(10));
    world.settle();
    world.flow();
    let mut times: Vec<_> = world.peers.iter().map(|peer| peer.client.poll_timeout().unwrap()).collect();
    times.sort_unstable();
    assert!(times[19] <= lifeline_proto::Time::from_micros(7_500_000));
    assert!(times[19] - times[0] > Duration::from_secs(4), "{times:?}");
    world.sleep(Duration::from_millis(7500));
    for index in 0..20 {
        assert!(world.take_events(index).contains(&Event::Leave { url: None }));
        if index > 0 {
            world.cut(index);
        }
    }
    // One that does not listen.
    world.sleep(Duration::from_millis(2500));
    assert_eq!(world.peers[0].ends, [close::SHUTDOWN]);
}

#[test]
fn a_peer_that_says_nothing_or_the_wrong_thing_is_closed() {
    let mut world = World::new(config(), 0);
    let closed = |world: &mut World, link: u64| {
        world.settle();
        world.outputs.drain(..).find_map(|output| match output {
            Output::Close { link: LinkId(id), code, .. } if id == link => Some(code),
            _ => None,
        })
    };
    world.server.handle_connected(world.now, LinkId(1));
    world.sleep(Duration::from_micros(9_999_999));
    assert_eq!(closed(&mut world, 1), None);
    world.sleep(Duration::from_micros(1));
    assert_eq!(closed(&mut world, 1), Some(close::BAD_PROTOCOL));
    for (link, frames, code) in [
        (2, vec!["P 1\nx"], close::BAD_PROTOCOL),
        (3, vec!["Z"], close::BAD_PROTOCOL),
        (4, vec![r#"H {"v":2}"#], close::UNSUPPORTED_VERSION),
        (5, vec![r#"H {"v":1}"#, r#"H {"v":1}"#], close::BAD_PROTOCOL),
        (6, vec![r#"H {"v":1}"#, "P 1\nx"], close::BAD_PROTOCOL),
        (7, vec![r#"H {"v":1}"#, "A 1"], close::STATE_INVALID),
        (8, vec![r#"H {"v":1,"outbox":{"id":"o","gen":1,"first":1,"next":1}}"#, "P 2\nx"], close::STATE_INVALID),
    ] {
        world.server.handle_connected(world.now, LinkId(link));
        for frame in frames {
            world.server.handle_message(world.now, LinkId(link), &Bytes::from(frame), false);
        }
        assert_eq!(closed(&mut world, link), Some(code), "{link}");
    }
    // Unknown types are for a later version.
    world.server.handle_connected(world.now, LinkId(9));
    for frame in [r#"H {"v":1}"#, "Q 1\nx", "LATER x"] {
        world.server.handle_message(world.now, LinkId(9), &Bytes::from(frame), false);
    }
    assert_eq!(closed(&mut world, 9), None);
    // A client that asks and never reads.
    for n in 0..2000 {
        world.server.handle_message(world.now, LinkId(9), &Bytes::from(format!("U c{n}")), false);
    }
    assert_eq!(closed(&mut world, 9), Some(close::SLOW_CONSUMER));
}

#[test]
fn beats_are_answered_both_ways() {
    let mut world = connected();
    let link = world.peers[0].link.unwrap();
    world.server.beat(link, 7);
    world.peers[0].client.beat(8);
    world.settle();
    world.flow();
    assert!(world.outputs.contains(&Output::Answered { link, n: 7 }));
    assert!(world.take_events(0).contains(&Event::Answered(8)));
}

#[test]
fn the_window_holds_items_back() {
    let mut world = connected_with(ServerConfig { window: 200, ..config() });
    // 65 each: three fit.
    for n in 1..=5 {
        world.client_send(0, &n.to_string());
    }
    assert_eq!(world.peers[0].to_server.len(), 3);
    assert_eq!(world.run(), ["1", "2", "3", "4", "5"]);
    // One bigger than the window goes alone.
    world.client_send(0, &"x".repeat(500));
    world.client_send(0, "y");
    assert_eq!(world.peers[0].to_server.len(), 1);
    assert_eq!(world.run().len(), 2);
}

#[test]
fn positions_name_the_last_message() {
    let mut world = connected();
    world.subscribe(0, "news");
    world.flow();
    world.publish("news", "1");
    world.flow();
    let saved = world.peers[0].client.saved().unwrap();
    let Position { offset, message_id, .. } = &saved.channels[&channel("news")];
    let top = world.server.channel_log(&channel("news")).unwrap().top();
    assert_eq!((*offset, message_id), (1, &top.message_id));
}

/// A client that has seen WELCOME of a server that is only frames here.
fn client_with(frames: &[&str]) -> (Client, Vec<Event>) {
    let mut client = Client::new(ClientConfig::default(), 1);
    client.handle_connected(None, Some(OutboxRange { id: key("o"), generation: 1, first: 1, next: 1 }));
    let welcome = r#"W {"sid":"s","tok":"t","resumed":false,"s0":1,"limits":{"maxMessage":100,"window":1000}}"#;
    client.handle_message(Time::ZERO, &Bytes::from(welcome), false).unwrap();
    assert!(client.send(1, Bytes::from_static(b"a"), false) && client.send(2, Bytes::from_static(b"b"), false));
    assert!(matches!(client.poll_event(), Some(Event::Welcomed(_))));
    for frame in frames {
        client.handle_message(Time::ZERO, &Bytes::copy_from_slice(frame.as_bytes()), false).unwrap();
    }
    let events = std::iter::from_fn(|| client.poll_event()).collect();
    (client, events)
}

#[test]
fn refusals_of_what_is_settled_or_was_never_sent_are_ignored() {
    let (mut client, events) = client_with(&[
        "A 1",
        r#"N {"q":1,"permanent":true}"#,
        r#"N {"q":1,"permanent":false}"#,
        r#"N {"q":3,"permanent":true}"#,
        r#"N {"q":3,"permanent":false}"#,
    ]);
    assert_eq!(events, [Event::Acknowledged { sequence: 1 }]);
    assert!(client.room(1) && client.send(3, Bytes::new(), false));
}

#[test]
fn a_position_never_goes_back_within_an_epoch() {
    let (client, events) = client_with(&[
        r#"K {"ch":"a","st":"ok","e":"e1","o":0}"#,
        "C a e1 1 m1\n1",
        r#"K {"ch":"a","st":"ok","e":"e1","o":0}"#,
        "C a e1 1 m1\n1",
        "C a e1 2 m2\n2",
        // Valid with the G behind it, which does not come.
        r#"K {"ch":"a","st":"gap","e":"e2","o":7,"mid":"m7"}"#,
    ]);
    assert_eq!(messages(&events), numbered(1..=2));
    let saved = client.saved().unwrap();
    assert_eq!(saved.channels[&channel("a")].offset, 2);
}

#[test]
fn the_answer_to_an_earlier_question_is_not_taken_for_a_later_one() {
    let retention = Retention { count: 2, ..Retention::default() };
    let mut world = connected_with(ServerConfig { retention, snapshots: true, ..config() });
    world.states.insert(channel("news"), Bytes::from_static(b"state"));
    world.subscribe(0, "news");
    world.flow();
    world.slow = true;
    for position in [5, 10] {
        for n in position - 4..=position {
            world.publish("news", &n.to_string());
        }
        world.sleep(FRESH);
        world.publish("news", "newest");
        world.flow();
        if position == 5 {
            // Left and asked for again, before the application has told the state.
            world.unsubscribe(0, "news");
            world.subscribe(0, "news");
            world.flow();
            world.questions.rotate_left(1);
            assert!(world.answer_one());
            world.flow();
        }
    }
    assert_eq!(world.questions.len(), 2);
    world.take_events(0);
    let snapshots = |world: &mut World| {
        assert!(world.answer_one());
        world.flow();
        let events = world.take_events(0);
        events.iter().filter(|event| matches!(event, Event::Snapshot { position, .. } if position.offset == 12)).count()
    };
    assert_eq!([snapshots(&mut world), snapshots(&mut world)], [0, 1]);
}

#[test]
fn the_outbox_that_was_gone_first_is_forgotten_first() {
    let mut world = World::new(ServerConfig { max_inboxes: 3, ..config() }, 5);
    for index in 0..5 {
        world.connect(index);
        world.client_send(index, "1");
        world.run();
        if index != 1 {
            world.cut(index);
        }
        world.sleep(Duration::from_secs(1));
    }
    // The second is connected, and stays.
    let known: Vec<_> = world.peers.iter().map(|peer| world.server.inbox(&peer.outbox_id).is_some()).collect();
    assert_eq!(known, [false, true, false, true, true]);
    assert_eq!((world.server.inbox_count(), world.server.counters().evicted), (3, 2));
    // Nobody can be forgotten while all are in use.
    for index in 0..5 {
        world.connect(index);
        world.flow();
    }
    assert_eq!(world.server.inbox_count(), 5);
    // One that comes back is the last in the row.
    for index in [2, 3, 4, 0, 1, 2] {
        world.cut(index);
        world.sleep(Duration::from_secs(1));
        world.connect(index);
        world.flow();
        world.cut(index);
    }
    world.connect(4);
    let other = world.add_client("other");
    world.connect(other);
    world.flow();
    let known: Vec<_> = world.peers.iter().map(|peer| world.server.inbox(&peer.outbox_id).is_some()).collect();
    assert_eq!(known, [false, false, true, false, true, true]);
}

#[test]
fn memory_is_given_back_first_by_those_who_are_longest_gone() {
    let mut world = World::new(config(), 3);
    for index in 0..3 {
        world.connect(index);
        world.subscribe(index, "news");
        world.flow();
        world.server_send(index, &"x".repeat(100));
        world.take_events(index);
    }
    world.flow();
    world.publish("news", &"x".repeat(400));
    let log = world.server.channel_log(&channel("news")).unwrap().bytes();
    for index in [1, 0] {
        world.cut(index);
        world.sleep(Duration::from_secs(1));
    }
    assert_eq!(world.server.held_bytes(), 300 + log);
    assert_eq!(world.server.shed(1), 100);
    let held = |world: &World, index: usize| {
        let session = world.peers[index].client.session().unwrap();
        world.server.session(session).unwrap().ring().len()
    };
    assert_eq!([held(&world, 0), held(&world, 1), held(&world, 2)], [1, 0, 1]);
    assert_eq!(world.server.shed(101), 100 + log);
    assert_eq!([held(&world, 0), held(&world, 1), held(&world, 2)], [0, 0, 1]);
    assert_eq!(world.server.shed(usize::MAX), 100);
    assert_eq!((world.server.held_bytes(), world.server.counters().shed), (0, 300 + log as u64));
    assert_eq!(world.server.shed(1), 0);
    // Everybody is told: who was connected at once, with what it had not taken.
    world.flow();
    assert_eq!(gaps(&world.take_events(2)), [(Some("news"), 1, Some(1), "slow")]);
    world.take_events(0);
    let (welcomed, events) = reconnect(&mut world);
    assert_eq!(welcomed.why, None);
    assert_eq!(gaps(&events), [(Some("news"), 1, Some(1), "history")]);
    world.connect(1);
    world.flow();
    // It had come, and waited for the application.
    let events = world.take_events(1);
    assert_eq!((messages(&events).len(), gaps(&events).len()), (1, 1));
    world.cut(1);
    world.server_send(1, "lost");
    world.server.shed(1);
    world.server_send(1, "kept");
    world.connect(1);
    world.flow();
    let events = world.take_events(1);
    assert_eq!((gaps(&events), messages(&events)), (vec![(None, 2, Some(2), "overflow")], vec![(3, "kept".into())]));
}

/// What goes out to connection 1, as far as the header.
fn transmitted(world: &mut World) -> Vec<String> {
    let frames = std::iter::from_fn(|| world.server.poll_transmit(world.now, LinkId(1)));
    let header = |data: Bytes| String::from_utf8_lossy(data.split(|byte| *byte == b'\n').next().unwrap()).into_owned();
    frames.map(|frame| header(frame.encode().data)).collect()
}

#[test]
fn items_of_a_long_batch_are_acknowledged_by_count_and_with_what_goes_out() {
    let mut world = World::new(config(), 0);
    world.server.handle_connected(world.now, LinkId(1));
    let hello = r#"H {"v":1,"outbox":{"id":"o","gen":1,"first":1,"next":1}}"#;
    world.server.handle_message(world.now, LinkId(1), &Bytes::from(hello), false);
    while world.server.poll_output().is_some() {}
    let session = world.server.session_of(LinkId(1)).unwrap().clone();
    assert_eq!(transmitted(&mut world).last().unwrap(), "R 0");
    let mut ids = VecDeque::new();
    for q in 1..=80 {
        world.server.handle_message(world.now, LinkId(1), &Bytes::from(format!("P {q}\nx")), false);
        let Some(Output::Deliver { delivery, .. }) = world.server.poll_output() else { panic!("no item {q}") };
        ids.push_back(delivery.id);
    }
    let mut done = None;
    let mut handle = |world: &mut World, count: usize| {
        for id in ids.drain(..count) {
            assert_eq!(world.server.handle_step(world.now, done.replace(id), Some(id)), Start::Attempt(1));
        }
        std::iter::from_fn(|| world.server.poll_output()).count()
    };
    // The first wakes the connection, so that time counts from there; 32 are too many to wait for the end.
    assert_eq!(handle(&mut world, 2), 1);
    assert_eq!(handle(&mut world, 30), 0);
    assert_eq!(handle(&mut world, 1), 1);
    assert_eq!(transmitted(&mut world), ["A 32"]);
    assert_eq!(handle(&mut world, 2), 1);
    assert_eq!(handle(&mut world, 7), 0);
    world.server.send(world.now, &session, Bytes::from_static(b"m"), false);
    assert_eq!(transmitted(&mut world), ["M 1 q=41"], "all that is done by then");
    // Time counts anew from the next one.
    assert_eq!(handle(&mut world, 1), 1);
    assert_eq!(handle(&mut world, 1), 0);
    assert_eq!(transmitted(&mut world), [] as [&str; 0]);
    world.now = world.server.poll_timeout().unwrap();
    world.server.handle_timeout(world.now);
    assert_eq!(transmitted(&mut world), ["A 43"]);
    handle(&mut world, 10);
    world.server.handle_batch_end();
    assert_eq!(transmitted(&mut world), ["A 53"]);
}

#[test]
fn a_client_that_ignores_the_window_is_closed() {
    let mut world = World::new(ServerConfig { window: 200, ..config() }, 0);
    world.server.handle_connected(world.now, LinkId(1));
    let hello = r#"H {"v":1,"outbox":{"id":"o","gen":1,"first":1,"next":1}}"#;
    let closes = |world: &World| {
        let code = |output: &Output| match output {
            Output::Close { code, .. } => Some(*code),
            _ => None,
        };
        world.outputs.iter().find_map(code)
    };
    for (n, frame) in std::iter::once(hello.to_owned()).chain((1..=7).map(|q| format!("P {q}\n"))).enumerate() {
        assert_eq!(closes(&world), None, "{n}");
        world.server.handle_message(world.now, LinkId(1), &frame.into(), false);
        world.settle();
    }
    assert_eq!(closes(&world), Some(close::STATE_INVALID));
    assert_eq!(world.server.held_bytes(), 7 * 64);
    // What is handled leaves the window.
    while world.begin() {
        assert!(world.finish().is_some());
    }
    assert_eq!(world.server.held_bytes(), 0);
}
