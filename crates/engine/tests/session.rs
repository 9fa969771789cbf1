//! The client with `lifeline.v1`, against a server that speaks it and is not ours.

mod common;

use std::time::Duration;

use bytes::Bytes;
use lifeline_engine::bridge::{Command, EndpointId, Event, OverflowReason, Reply, State};
use lifeline_engine::config::ClientConfig;
use lifeline_proto::v1::Secret;
use lifeline_proto::v1::server::ServerConfig;
use lifeline_proto::v1::wire::{ClientFrame, GoAway, Heartbeat, PROTOCOL, ServerFrame};

use common::far::{Far, Fate, Verdict};
use common::{App, PATIENCE, client, local};

/// Tells apart what the application heard.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    Open(bool),
    Message(String),
    Channel(String, u64, String),
    Gap(Option<String>, u64, Option<u64>, String),
    Snapshot(String, String),
    Close(u16),
    Rejected(u64, String, i32, String),
    Overflow(u64, OverflowReason),
    Failure(String),
    Other,
}

fn heard(event: &Event) -> Heard {
    let text = |data: &Bytes| String::from_utf8(data.to_vec()).unwrap();
    match event {
        Event::Open { info, .. } => Heard::Open(info.resumed),
        Event::Message { data, info: Some(info), .. } => match &info.channel {
            Some(channel) => Heard::Channel(channel.to_string(), info.sequence, text(data)),
            None => Heard::Message(text(data)),
        },
        Event::Gap { gap, .. } => {
            Heard::Gap(gap.channel.as_ref().map(|it| it.to_string()), gap.from, gap.to, gap.why.to_string())
        }
        Event::Snapshot { channel, data, .. } => Heard::Snapshot(channel.to_string(), text(data)),
        Event::Close { code, .. } => Heard::Close(*code),
        Event::Rejected { sequence, data, code, reason, .. } => {
            Heard::Rejected(*sequence, text(data), *code, reason.to_string())
        }
        Event::Overflow { sequence, why, .. } => Heard::Overflow(*sequence, *why),
        Event::Failure { failure, .. } => Heard::Failure(failure.message.clone()),
        _ => Heard::Other,
    }
}

fn speaking(port: u16) -> ClientConfig {
    ClientConfig { protocols: vec![PROTOCOL.to_owned()], ..client(vec![local(port)]) }
}

fn authorising() -> ServerConfig {
    ServerConfig { authorise: true, ..ServerConfig::default() }
}

fn subscribe(app: &App, client: EndpointId, channel: &str) {
    app.submit(Command::ClientSubscribe { client, channel: channel.into(), on: true });
}

/// Takes events until one is heard that `pick` takes; all until then.
async fn hear(app: &mut App, pick: impl Fn(&Heard) -> bool) -> Vec<Heard> {
    let mut all = Vec::new();
    loop {
        let next = heard(&app.next().await);
        if next == Heard::Other {
            continue;
        }
        all.push(next);
        if pick(&all[all.len() - 1]) {
            return all;
        }
    }
}

/// Waits for what other tasks do.
async fn eventually(mut done: impl FnMut() -> bool) {
    tokio::time::timeout(PATIENCE, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("it must happen");
}

async fn acknowledged(app: &App, client: EndpointId) {
    eventually(|| app.unacknowledged(client) == 0).await;
}

#[tokio::test]
async fn connected_is_who_was_welcomed_and_acknowledged_what_was_handled() {
    let mut app = App::with_threads(1);
    let far = Far::start(ServerConfig::default()).await;
    far.rules().handle = |_| Verdict::Hang;
    far.rules().mute = true;
    let id = app.create(speaking(far.port));
    assert_eq!(app.client_send(id, "early"), 1);
    app.submit(Command::Connect { client: id });
    // HELLO has come, WELCOME does not go out.
    eventually(|| far.rules().client_frames.len() == 1).await;
    assert_eq!(app.state(id), State::Connecting);
    far.rules().mute = false;
    far.cut();
    assert_eq!(hear(&mut app, |it| matches!(it, Heard::Open(_))).await, [Heard::Open(false)]);
    assert_eq!(app.state(id), State::Connected);
    eventually(|| far.rules().client_frames.iter().any(|it| matches!(it, ClientFrame::Item { sequence: 1, .. }))).await;
    assert_eq!(app.unacknowledged(id), 1);
    far.rules().handle = |_| Verdict::Done;
    // Nobody ends what was begun; a server without that memory takes it.
    far.restart();
    acknowledged(&app, id).await;
    assert_eq!(far.rules().handled, [(1, "early".to_owned())]);
    assert_eq!(app.stat(id, &["messages", "out"]), 2);
}

/// One dialogue with everything in it, over links that are cut.
async fn dialogue(fates: &[Fate]) -> Vec<(usize, usize)> {
    let mut app = App::with_threads(1);
    let far = Far::start(authorising()).await;
    far.rules().fates.extend(fates);
    let id = app.create(speaking(far.port));
    subscribe(&app, id, "news");
    for n in 1..=3 {
        app.client_send(id, format!("early {n}"));
    }
    app.submit(Command::Connect { client: id });
    let messages = |events: &[Heard]| -> Vec<String> {
        events.iter().filter_map(|it| if let Heard::Message(text) = it { Some(text.clone()) } else { None }).collect()
    };
    let news = |events: &[Heard]| -> Vec<u64> {
        events.iter().filter_map(|it| if let Heard::Channel(_, o, _) = it { Some(*o) } else { None }).collect()
    };
    let mut events = Vec::new();
    let mut session = None;
    for n in 1..=3 {
        // Each round on whatever connection there is.
        loop {
            while let Some(event) = app.try_next() {
                events.push(heard(&event));
            }
            let mut rules = far.rules();
            let key = session.clone().or_else(|| rules.only_session());
            let is_known = key.as_ref().is_some_and(|key| events.contains(&Heard::Open(false)) && rules.knows(key));
            if is_known && !news(&events).is_empty() {
                session = key;
                break;
            }
            // What comes before the server's confirmation is missed, and no hole: until one arrives.
            if is_known {
                rules.publish("news", "is anybody there?");
            }
            drop(rules);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        app.client_send(id, format!("item {n}"));
        let key = session.clone().unwrap();
        far.rules().send(&key, &format!("message {n}"));
        far.rules().publish("news", &format!("news {n}"));
    }
    // All of it arrives.
    let channel = lifeline_proto::v1::ChannelName::new("news").unwrap();
    let last = far.rules().server.channel_log(&channel).unwrap().top().offset;
    while messages(&events).len() < 3 || news(&events).last() != Some(&last) {
        events.push(heard(&app.next().await));
    }
    acknowledged(&app, id).await;
    for event in app.pending() {
        events.push(heard(&event));
    }
    let expected: Vec<_> = (1..=3).map(|n| format!("message {n}")).collect();
    assert_eq!(messages(&events), expected, "{fates:?} {events:?}");
    let first = news(&events)[0];
    assert_eq!(news(&events), (first..=last).collect::<Vec<_>>(), "{fates:?} {events:?}");
    let gaps: Vec<_> = events.iter().filter(|it| matches!(it, Heard::Gap(..))).collect();
    assert!(gaps.is_empty(), "{fates:?} {gaps:?}");
    let handled: Vec<_> = far.rules().handled.iter().map(|(q, _)| *q).collect();
    assert_eq!(handled, (1..=6).collect::<Vec<_>>(), "{fates:?}");
    let frames = far.rules().frames.clone();
    app.close(id);
    frames
}

/// Issue of the frame sweep: whatever frame is the last one that arrives, nothing is lost or doubled.
#[tokio::test]
async fn the_link_may_be_cut_behind_any_frame() {
    let frames = dialogue(&[]).await;
    assert_eq!(frames.len(), 1);
    let (from_client, from_server) = frames[0];
    assert!(from_client >= 8 && from_server >= 9, "{frames:?}");
    for n in 1..=from_client + 1 {
        dialogue(&[Fate { after_client: Some(n), after_server: None }]).await;
    }
    for n in 0..=from_server + 1 {
        dialogue(&[Fate { after_client: None, after_server: Some(n) }]).await;
    }
    // And again behind any frame of the connection that comes after it.
    for n in [2, 4, 6] {
        for m in 1..=4 {
            let first = Fate { after_client: Some(n), after_server: None };
            dialogue(&[first, Fate { after_client: Some(m), after_server: None }]).await;
            dialogue(&[first, Fate { after_client: None, after_server: Some(m) }]).await;
        }
    }
}
