//! The client with `lifeline.v1`, against a server that speaks it and is not ours.

mod common;

use std::time::Duration;

use bytes::Bytes;
use lifeline_engine::bridge::{Bounds, Command, EndpointId, Event, OverflowReason, Reply, State, Write};
use lifeline_engine::config::{ClientConfig, Durability, Storage};
use lifeline_proto::v1::server::ServerConfig;
use lifeline_proto::v1::wire::{ClientFrame, Gap, GoAway, Heartbeat, PROTOCOL, ServerFrame, Why};
use lifeline_proto::v1::{ChannelName, Key, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use common::far::{Far, Fate, Verdict};
use common::{App, Directory, PATIENCE, client, local};

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
            Heard::Gap(gap.channel.as_ref().map(ToString::to_string), gap.from, gap.to, gap.why.to_string())
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
    let deadline = std::time::Instant::now() + 2 * PATIENCE;
    loop {
        assert!(std::time::Instant::now() < deadline, "much came, but not what is awaited: {all:?}");
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
    let channel = ChannelName::new("news").unwrap();
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

fn is_open(it: &Heard) -> bool {
    matches!(it, Heard::Open(_))
}

/// Answers the next question for a token.
async fn give_token(app: &mut App, token: &str) {
    let ticket =
        app.until(|event| if let Event::TokenWanted { ticket, .. } = event { Some(*ticket) } else { None }).await;
    app.submit(Command::AnswerToken { ticket, token: Secret(token.to_owned()) });
}

fn with_token(port: u16) -> ClientConfig {
    ClientConfig { ask_token: true, ..speaking(port) }
}

fn authenticating() -> ServerConfig {
    ServerConfig { authenticate: true, ..ServerConfig::default() }
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_again_when_it_has_expired() {
    let mut app = App::with_threads(1);
    let far = Far::start(authenticating()).await;
    let id = app.connect(with_token(far.port));
    give_token(&mut app, "first").await;
    assert_eq!(hear(&mut app, is_open).await, [Heard::Open(false)]);
    // It is kept over a loss, ...
    far.cut();
    assert_eq!(hear(&mut app, is_open).await.last(), Some(&Heard::Open(true)));
    // ... but not when the server does not like it any more, on the open connection or at HELLO.
    far.rules().authenticate = |token| if token == Some("first") { Err(4003) } else { Ok(None) };
    far.rules().disconnect(4003);
    give_token(&mut app, "second").await;
    hear(&mut app, is_open).await;
    far.rules().authenticate = |token| if token == Some("second") { Err(4003) } else { Ok(None) };
    far.cut();
    give_token(&mut app, "third").await;
    assert_eq!(hear(&mut app, is_open).await.last(), Some(&Heard::Open(true)));
    let tokens: Vec<_> = far.rules().tokens.iter().flatten().cloned().collect();
    assert_eq!(tokens, ["first", "first", "second", "second", "third"]);
    // A new one goes to the server in band.
    app.submit(Command::RefreshToken { client: id });
    give_token(&mut app, "fourth").await;
    eventually(|| far.rules().tokens.last() == Some(&Some("fourth".to_owned()))).await;
    assert_eq!(far.rules().frames.len(), 5);
    // One that is none ends the client.
    far.rules().authenticate = |_| Err(4500);
    far.cut();
    assert_eq!(app.reach(State::Closed).await.code, 4500);
    let why = given_up(&mut app).await;
    let expected = format!("the connection to ws://127.0.0.1:{} ended before WELCOME with 4500", far.port);
    assert!(why.starts_with(&expected), "{why}");
}

/// Why the client has given up.
async fn given_up(app: &mut App) -> String {
    app.until(|event| if let Event::GaveUp { failure, .. } = event { Some(failure.message.clone()) } else { None })
        .await
}

/// Answers one handshake with 401; its request.
async fn unauthorised(listener: &TcpListener) -> String {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    socket.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    socket.shutdown().await.unwrap();
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_401_asks_for_a_fresh_token_once() {
    let mut app = App::with_threads(1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    app.connect(with_token(listener.local_addr().unwrap().port()));
    give_token(&mut app, "stale").await;
    unauthorised(&listener).await;
    give_token(&mut app, "fresh").await;
    unauthorised(&listener).await;
    assert_eq!(app.reach(State::Closed).await.code, 401);
}

#[tokio::test]
async fn an_attempt_without_a_token_fails_and_is_made_again() {
    let mut app = App::with_threads(1);
    let far = Far::start(authenticating()).await;
    app.connect(with_token(far.port));
    let ticket =
        app.until(|event| if let Event::TokenWanted { ticket, .. } = event { Some(*ticket) } else { None }).await;
    app.submit(Command::FailAttempt { ticket, reason: "none today".to_owned() });
    assert_eq!(app.reach(State::Reconnecting).await.reason, "none today");
    give_token(&mut app, "later").await;
    app.reach(State::Connected).await;
}

#[tokio::test]
async fn refused_items_are_told_and_block_nothing() {
    let mut app = App::with_threads(1);
    let far = Far::start(ServerConfig { redelivery_limit: 3, ..ServerConfig::default() }).await;
    far.rules().handle = |text| match text {
        "bad" => Verdict::Never,
        "poison" => Verdict::Failed,
        "unwilling" => Verdict::Later,
        _ => Verdict::Done,
    };
    let id = app.connect(speaking(far.port));
    for text in ["a", "bad", "b", "poison", "c", "unwilling", "d"] {
        app.client_send(id, text);
    }
    let all = hear(&mut app, |it| matches!(it, Heard::Rejected(6, ..))).await;
    let rejected: Vec<_> = all.iter().filter(|it| matches!(it, Heard::Rejected(..))).collect();
    let Heard::Rejected(2, bad, 7, reason) = rejected[0] else { panic!("{rejected:?}") };
    assert_eq!((bad.as_str(), reason.as_str()), ("bad", "no"));
    assert!(matches!(rejected[1], Heard::Rejected(4, text, ..) if text == "poison"), "{rejected:?}");
    assert!(matches!(rejected[2], Heard::Rejected(6, text, ..) if text == "unwilling"), "{rejected:?}");
    assert_eq!(rejected.len(), 3);
    // The handler's failures have cost connections.
    assert_eq!(all.iter().filter(|it| **it == Heard::Close(1011)).count(), 2, "{all:?}");
    acknowledged(&app, id).await;
    let handled: Vec<_> = far.rules().handled.iter().map(|(_, text)| text.clone()).collect();
    assert_eq!(handled, ["a", "b", "c", "d"]);
    assert_eq!(app.stat(id, &["session", "rejected"]), 3);
}

#[tokio::test]
async fn asked_to_leave_it_comes_back_at_once_with_its_session() {
    let mut app = App::with_threads(1);
    let far = Far::start(authorising()).await;
    let mut config = speaking(far.port);
    config.reconnect.backoff.first = Some(Duration::from_secs(3600));
    config.reconnect.backoff.floor = Duration::from_secs(3600);
    config.reconnect.backoff.stable_after = Duration::ZERO;
    let id = app.connect(config);
    hear(&mut app, is_open).await;
    let key = far.session();
    let go = GoAway { after: Duration::ZERO, window: Duration::from_millis(20), url: None };
    far.rules().say(&ServerFrame::GoAway(go));
    far.rules().send(&key, "meanwhile");
    app.client_send(id, "on the way");
    let all = hear(&mut app, |it| *it == Heard::Open(true)).await;
    assert!(all.contains(&Heard::Close(1001)), "{all:?}");
    if !all.contains(&Heard::Message("meanwhile".to_owned())) {
        hear(&mut app, |it| *it == Heard::Message("meanwhile".to_owned())).await;
    }
    acknowledged(&app, id).await;
    assert_eq!(far.rules().closes, [1001]);
    assert_eq!(far.rules().handled.len(), 1);
}

#[tokio::test]
async fn asked_to_go_elsewhere_it_does_and_finds_its_way_home() {
    let mut app = App::with_threads(1);
    let (home, elsewhere) = (Far::start(ServerConfig::default()).await, Far::start(ServerConfig::default()).await);
    let mut config = speaking(home.port);
    config.reconnect.backoff.stable_after = Duration::ZERO;
    let id = app.connect(config);
    hear(&mut app, is_open).await;
    let url = Some(format!("ws://127.0.0.1:{}/", elsewhere.port));
    home.rules().say(&ServerFrame::GoAway(GoAway { after: Duration::ZERO, window: Duration::ZERO, url }));
    // Another server does not know the session.
    let all = hear(&mut app, is_open).await;
    assert_eq!(all[..2], [Heard::Close(1001), Heard::Open(false)]);
    assert_eq!((home.rules().frames.len(), elsewhere.rules().frames.len()), (1, 1));
    elsewhere.cut();
    hear(&mut app, is_open).await;
    assert_eq!((home.rules().frames.len(), elsewhere.rules().frames.len()), (2, 1));
    // A file is no place to go.
    let url = Some("unix:///tmp/somewhere.sock".to_owned());
    home.rules().say(&ServerFrame::GoAway(GoAway { after: Duration::ZERO, window: Duration::ZERO, url }));
    hear(&mut app, is_open).await;
    assert_eq!((home.rules().frames.len(), elsewhere.rules().frames.len()), (3, 1));
    assert_eq!(app.stat(id, &["connections", "failedAttempts"]), 0, "it was not tried");
}

#[tokio::test]
async fn close_codes_say_whether_and_when_to_come_back() {
    for code in [4500, 4502, 4503, 4777] {
        let mut app = App::with_threads(1);
        let far = Far::start(ServerConfig::default()).await;
        app.connect(speaking(far.port));
        hear(&mut app, is_open).await;
        far.rules().disconnect(code);
        assert_eq!(app.reach(State::Closed).await.code, code);
        let why = given_up(&mut app).await;
        let expected = format!("ws://127.0.0.1:{} closed the connection with {code}", far.port);
        assert!(why.starts_with(&expected), "{why}");
    }
    let mut app = App::with_threads(1);
    let far = Far::start(ServerConfig::default()).await;
    let id = app.connect(speaking(far.port));
    hear(&mut app, is_open).await;
    for code in [1000, 1011, 4000, 4002, 4004, 4005, 4444] {
        far.rules().disconnect(code);
        assert_eq!(hear(&mut app, is_open).await, [Heard::Close(code), Heard::Open(true)]);
    }
    // Idle: when there is something to say.
    far.rules().disconnect(4006);
    let transition = app.reach(State::Reconnecting).await;
    assert_eq!((transition.code, transition.delay), (4006, None));
    app.client_send(id, "something");
    hear(&mut app, is_open).await;
    acknowledged(&app, id).await;
}

fn beating(interval: u64, timeout: u64) -> ServerConfig {
    let heartbeat = Heartbeat { interval: Duration::from_millis(interval), timeout: Duration::from_millis(timeout) };
    ServerConfig { heartbeat: Some(heartbeat), ..ServerConfig::default() }
}

#[tokio::test]
async fn a_silent_server_is_dead_after_what_it_said_and_beats_are_answered() {
    let mut app = App::with_threads(1);
    let far = Far::start(beating(500, 500)).await;
    let id = app.connect(speaking(far.port));
    hear(&mut app, is_open).await;
    for n in 1..=5 {
        far.rules().beat(n);
        eventually(|| far.rules().beats as u64 == n).await;
    }
    let begin = std::time::Instant::now();
    far.rules().mute = true;
    assert_eq!(hear(&mut app, |it| matches!(it, Heard::Close(_))).await, [Heard::Close(4001)]);
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_millis(700), "{waited:?}");
    far.rules().mute = false;
    far.cut();
    assert_eq!(hear(&mut app, is_open).await.last(), Some(&Heard::Open(true)));
    assert!(app.stat(id, &["heartbeats", "sent"]) >= 1, "it asks before it gives up");
    assert!(far.rules().closes.is_empty(), "nothing is said to the dead");
}

#[tokio::test]
async fn a_full_application_does_not_make_its_client_look_dead() {
    let mut app = App::with_threads(1);
    let far = Far::start(ServerConfig { send_limit: 64 << 20, ..beating(300, 300) }).await;
    let mut config = speaking(far.port);
    config.limits.inbound = 1000;
    let id = app.connect(config);
    hear(&mut app, is_open).await;
    let key = far.session();
    for _ in 0..200 {
        far.rules().send(&key, &"x".repeat(10_000));
    }
    // Nobody takes it. Twice the time after which a server would cut a silent peer.
    let beats = |far: &Far| far.rules().client_frames.iter().filter(|it| matches!(it, ClientFrame::Beat(_))).count();
    let before = beats(&far);
    eventually(|| beats(&far) >= before + 3).await;
    let waiting = app.stat(id, &["bytes", "inboundWaiting"]);
    assert!((10_000..500_000).contains(&waiting), "{waiting} bytes of two million wait");
    far.rules().send(&key, "after");
    let all = hear(&mut app, |it| *it == Heard::Message("after".to_owned())).await;
    assert!(!all.iter().any(|it| matches!(it, Heard::Close(_))), "{all:?}");
}

#[tokio::test]
async fn what_a_server_has_forgotten_is_a_gap_and_items_go_on() {
    let mut app = App::with_threads(1);
    let far = Far::start(ServerConfig::default()).await;
    let id = app.connect(speaking(far.port));
    hear(&mut app, is_open).await;
    let key = far.session();
    far.rules().send(&key, "one");
    hear(&mut app, |it| matches!(it, Heard::Message(_))).await;
    app.client_send(id, "a");
    acknowledged(&app, id).await;
    far.restart();
    app.client_send(id, "b");
    let all = hear(&mut app, |it| matches!(it, Heard::Gap(..))).await;
    // The opening first: a gap belongs to a connection.
    assert_eq!(all, [Heard::Close(1006), Heard::Open(false), Heard::Gap(None, 2, None, "restart".to_owned())]);
    acknowledged(&app, id).await;
    assert_eq!(far.rules().handled, [(1, "a".to_owned()), (2, "b".to_owned())]);
    assert_eq!(app.stat(id, &["session", "gaps"]), 1);
}

#[tokio::test]
async fn a_ring_that_was_too_small_is_a_gap_with_its_range() {
    let mut app = App::with_threads(1);
    let mut config = authorising();
    config.retention.bytes = 3000;
    config.snapshots = true;
    let far = Far::start(config).await;
    far.rules().state = Some((Bytes::from_static(b"all of it"), false));
    let mut config = speaking(far.port);
    config.reconnect.lazy = true;
    let id = app.connect(config);
    hear(&mut app, is_open).await;
    subscribe(&app, id, "news");
    let key = far.session();
    let channel = ChannelName::new("news").unwrap();
    eventually(|| far.rules().server.channel_log(&channel).is_some()).await;
    far.rules().publish("news", "0");
    hear(&mut app, |it| matches!(it, Heard::Channel(..))).await;
    far.cut();
    app.reach(State::Reconnecting).await;
    for n in 1..=5 {
        far.rules().send(&key, &format!("{n:1000}"));
        far.rules().publish("news", &format!("{n:1000}"));
    }
    app.submit(Command::Wake { client: id });
    let all = hear(&mut app, |it| matches!(it, Heard::Snapshot(..))).await;
    let Some(Heard::Gap(None, 1, Some(last), why)) = all.iter().find(|it| matches!(it, Heard::Gap(None, ..))) else {
        panic!("{all:?}")
    };
    assert_eq!(why, "overflow");
    let messages: Vec<_> = (last + 1..=5).map(|n| Heard::Message(format!("{n:1000}"))).collect();
    let came: Vec<_> = all.iter().filter(|it| matches!(it, Heard::Message(_))).cloned().collect();
    assert!(came.len() >= 2 && came == messages, "{all:?}");
    assert!(
        all.iter()
            .any(|it| matches!(it, Heard::Gap(Some(name), 2, Some(_), why) if name == "news" && why == "history")),
        "{all:?}"
    );
    assert_eq!(all.last(), Some(&Heard::Snapshot("news".to_owned(), "all of it".to_owned())));
}

#[tokio::test]
async fn what_has_expired_is_told_and_skipped() {
    let mut app = App::with_threads(1);
    let far = Far::start(ServerConfig::default()).await;
    let id = app.create(speaking(far.port));
    app.client_send(id, "a");
    let ttl = Some(Duration::from_millis(1));
    app.submit(Command::ClientSend { client: id, data: Bytes::from_static(b"b"), binary: false, ttl });
    app.client_send(id, "c");
    assert_eq!(
        hear(&mut app, |it| matches!(it, Heard::Overflow(..))).await,
        [Heard::Overflow(2, OverflowReason::Expired)]
    );
    app.submit(Command::Connect { client: id });
    acknowledged(&app, id).await;
    assert_eq!(far.rules().handled, [(1, "a".to_owned()), (3, "c".to_owned())]);
    let given_up = ClientFrame::GiveUp { from: Some(2), sequence: 2 };
    assert!(far.rules().client_frames.contains(&given_up), "{:?}", far.rules().client_frames);
}

#[tokio::test]
async fn the_window_and_the_size_that_the_server_names_are_obeyed() {
    let mut app = App::with_threads(1);
    let far = Far::start(ServerConfig { window: 200, max_message: 100, ..ServerConfig::default() }).await;
    far.rules().handle = |_| Verdict::Hang;
    let id = app.connect(speaking(far.port));
    hear(&mut app, is_open).await;
    app.client_send(id, "x".repeat(101));
    for _ in 0..10 {
        app.client_send(id, "x".repeat(30));
    }
    let Heard::Rejected(1, _, 4504, reason) =
        hear(&mut app, |it| matches!(it, Heard::Rejected(..))).await.pop().unwrap()
    else {
        panic!()
    };
    assert_eq!(reason, "a message of 101 bytes, the server takes at most 100");
    let items =
        |far: &Far| far.rules().client_frames.iter().filter(|it| matches!(it, ClientFrame::Item { .. })).count();
    eventually(|| items(&far) == 2).await;
    // Beats go on: with one answered after it, nothing else was sent.
    far.rules().beat(1);
    eventually(|| far.rules().beats == 1).await;
    assert_eq!(items(&far), 2, "two of 94 bytes fit into 200");
    far.rules().handle = |_| Verdict::Done;
    far.restart();
    acknowledged(&app, id).await;
    assert_eq!(far.rules().handled.len(), 10);
}

#[tokio::test]
async fn closing_waits_for_the_last_acknowledgements() {
    let mut app = App::with_threads(1);
    let far = Far::start(ServerConfig { window: 4000, ..ServerConfig::default() }).await;
    let id = app.connect(speaking(far.port));
    hear(&mut app, is_open).await;
    for n in 0..100 {
        app.client_send(id, format!("{n} {}", "x".repeat(60)));
    }
    app.close(id);
    let events = app.rest(id).await;
    let lost = events.iter().any(|event| matches!(event, Event::Overflow { .. }));
    assert!(!lost, "{events:?}");
    assert_eq!(far.rules().handled.len(), 100);
    eventually(|| far.rules().closes == [1000]).await;
    // Not for ever.
    far.rules().handle = |_| Verdict::Hang;
    let id = app.connect(speaking(far.port));
    hear(&mut app, is_open).await;
    app.client_send(id, "nobody answers");
    app.close(id);
    let events = app.rest(id).await;
    assert!(events.iter().any(|event| heard(event) == Heard::Overflow(1, OverflowReason::Closed)), "{events:?}");
}

#[tokio::test]
async fn denials_and_wrong_frames_are_errors() {
    let mut app = App::with_threads(1);
    let far = Far::start(authorising()).await;
    let id = app.connect(speaking(far.port));
    subscribe(&app, id, "secret plans");
    let all = hear(&mut app, |it| matches!(it, Heard::Failure(_))).await;
    let denied = "the server denied the subscription to channel 'secret plans'".to_owned();
    assert_eq!(all.last(), Some(&Heard::Failure(denied)));
    let wrong = ServerFrame::Message { sequence: 7, acknowledged: None, data: Bytes::from_static(b"x"), binary: false };
    far.rules().say(&wrong);
    let all = hear(&mut app, is_open).await;
    assert!(matches!(&all[0], Heard::Failure(message) if message.contains("M 7")), "{all:?}");
    assert_eq!(all[1..], [Heard::Close(4004), Heard::Open(true)]);
    let name = "\n".repeat(3);
    let command = Command::ClientSubscribe { client: id, channel: name.into(), on: true };
    app.try_submit(command).unwrap_err();
}

#[tokio::test]
async fn two_clients_are_two_sessions_and_one_may_leave_a_channel() {
    let mut app = App::with_threads(1);
    let far = Far::start(authorising()).await;
    let (one, other) = (app.connect(speaking(far.port)), app.connect(speaking(far.port)));
    for id in [one, other] {
        app.client_send(id, "here");
        acknowledged(&app, id).await;
        subscribe(&app, id, "news");
    }
    assert_eq!(far.rules().handled, [(1, "here".to_owned()), (1, "here".to_owned())]);
    let subscribed =
        |far: &Far| far.rules().client_frames.iter().filter(|it| matches!(it, ClientFrame::Subscribe(_))).count() == 2;
    eventually(|| subscribed(&far)).await;
    far.rules().publish("news", "for both");
    for _ in 0..2 {
        hear(&mut app, |it| matches!(it, Heard::Channel(..))).await;
    }
    app.submit(Command::ClientSubscribe { client: one, channel: "news".into(), on: false });
    let left = |far: &Far| far.rules().client_frames.iter().any(|it| matches!(it, ClientFrame::Unsubscribe(_)));
    eventually(|| left(&far)).await;
    far.rules().publish("news", "for one");
    app.until(|event| match event {
        Event::Message { endpoint, .. } => {
            assert_eq!(*endpoint, other);
            Some(())
        }
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn a_welcome_that_does_not_come_is_a_failed_attempt() {
    let mut app = App::with_threads(1);
    let far = Far::start(ServerConfig::default()).await;
    far.rules().mute = true;
    let mut config = speaking(far.port);
    config.connect_timeout = Duration::from_millis(50);
    let id = app.connect(config);
    // On a busy machine the handshake alone may take as long.
    let transition = loop {
        let transition = app.reach(State::Reconnecting).await;
        if transition.reason.contains("WELCOME") {
            break transition;
        }
    };
    assert_eq!((transition.from, transition.code), (State::Connecting, 0));
    assert!(transition.reason.contains("connect.timeout (0.05 s) passed while waiting for WELCOME"), "{transition:?}");
    far.rules().mute = false;
    app.reach(State::Connected).await;
    assert!(app.stat(id, &["connections", "failedAttempts"]) >= 1);
    assert_eq!(app.stat(id, &["connections", "opened"]), 1);
}

/// Some servers choose whatever is offered first.
#[tokio::test]
async fn a_server_that_does_not_know_what_it_chose_is_spoken_plain_websocket_with() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
    let mut app = App::with_threads(1);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            #[allow(clippy::result_large_err, clippy::unnecessary_wraps)]
            let choose = |request: &Request, mut response: Response| {
                if let Some(first) = request.headers().get("Sec-WebSocket-Protocol") {
                    response.headers_mut().insert("Sec-WebSocket-Protocol", first.clone());
                }
                Ok(response)
            };
            let mut socket = tokio_tungstenite::accept_hdr_async(socket, choose).await.unwrap();
            tokio::spawn(async move {
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() && socket.send(message).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    let id = app.connect(speaking(port));
    app.client_send(id, "hello");
    assert_eq!(app.message(id).await, "hello");
    assert_eq!(app.unacknowledged(id), 0);
    let command = Command::ClientSubscribe { client: id, channel: "news".into(), on: true };
    app.try_submit(command).unwrap_err();
}

#[tokio::test]
async fn what_the_application_has_not_handled_comes_again_to_nobody_but_is_not_acknowledged() {
    let mut app = App::with_threads(1);
    app.settles = false;
    let far = Far::start(ServerConfig::default()).await;
    let id = app.connect(speaking(far.port));
    hear(&mut app, is_open).await;
    let key = far.session();
    for n in 1..=3 {
        far.rules().send(&key, &format!("{n}"));
    }
    let mut deliveries = Vec::new();
    while deliveries.len() < 3 {
        let delivery = app
            .until(|event| match event {
                Event::Message { info: Some(info), .. } => info.delivery.clone(),
                _ => None,
            })
            .await;
        deliveries.push(delivery);
    }
    app.settle(id, deliveries[0].clone());
    let acknowledges = |far: &Far, s: u64| {
        far.rules().client_frames.iter().any(|it| matches!(it, ClientFrame::Acknowledge { sequence } if *sequence == s))
    };
    eventually(|| acknowledges(&far, 1)).await;
    far.cut();
    hear(&mut app, is_open).await;
    app.settle(id, deliveries[1].clone());
    app.settle(id, deliveries[2].clone());
    eventually(|| acknowledges(&far, 3)).await;
    assert!(!app.pending().iter().any(|event| matches!(event, Event::Message { .. })));
    assert_eq!(app.stat(id, &["session", "duplicates"]), 2);
    let Reply::Count(0) = app.submit(Command::Unacknowledged { client: id }) else { panic!() };
}

#[tokio::test]
async fn gaps_that_nobody_takes_stop_the_reading_like_messages() {
    let mut app = App::with_threads(1);
    let far = Far::start(ServerConfig::default()).await;
    let mut config = speaking(far.port);
    config.limits.inbound = 1000;
    let id = app.connect(config);
    hear(&mut app, is_open).await;
    let why = Why::Other("x".repeat(2000).into());
    for n in 1..=2000 {
        far.rules().say(&ServerFrame::Gap(Gap { channel: None, from: n, to: Some(n), why: why.clone() }));
    }
    eventually(|| app.stat(id, &["bytes", "inboundWaiting"]) >= 1000).await;
    let data = Bytes::from_static(b"after");
    far.rules().say(&ServerFrame::Message { sequence: 2001, acknowledged: None, data, binary: false });
    let all = hear(&mut app, |it| *it == Heard::Message("after".to_owned())).await;
    assert_eq!(all.iter().filter(|it| matches!(it, Heard::Gap(..))).count(), 2000);
    let waiting = app.stat(id, &["bytes", "inboundWaiting"]);
    assert!(waiting < 1000, "{waiting} bytes of what was taken");
}

/// What a process would leave in its directory that is killed now.
fn left_behind(directory: &Directory) -> Directory {
    let copy = Directory::new();
    std::fs::create_dir_all(&copy.0).unwrap();
    for entry in std::fs::read_dir(&directory.0).unwrap().flatten() {
        std::fs::copy(entry.path(), copy.0.join(entry.file_name())).unwrap();
    }
    copy
}

fn keeping(port: u16, directory: &Directory) -> ClientConfig {
    let storage = Some(Storage { path: directory.0.clone(), durability: Durability::Interval });
    ClientConfig { storage, ..speaking(port) }
}

#[tokio::test]
async fn the_next_process_goes_on_where_the_server_thinks_that_it_is() {
    let mut app = App::with_threads(1);
    let far = Far::start(authorising()).await;
    let mut directory = Directory::new();
    let mut id = app.create(keeping(far.port, &directory));
    subscribe(&app, id, "news");
    app.submit(Command::Connect { client: id });
    hear(&mut app, is_open).await;
    let key = far.session();
    eventually(|| {
        let said = |it: &ClientFrame| matches!(it, ClientFrame::Subscribe(_));
        far.rules().client_frames.iter().any(said)
    })
    .await;
    for round in 0..10 {
        // These two are in the process when it dies.
        app.settles = false;
        far.rules().publish("news", &format!("{round} news"));
        hear(&mut app, |it| matches!(it, Heard::Channel(..))).await;
        app.settles = true;
        far.rules().send(&key, &format!("{round} handled"));
        hear(&mut app, |it| matches!(it, Heard::Message(_))).await;
        // As soon as the server has the acknowledgement.
        let left = loop {
            let rules = far.rules();
            let said =
                |it: &ClientFrame| matches!(it, ClientFrame::Acknowledge { sequence } if *sequence == 2 * round + 1);
            if rules.client_frames.iter().any(said) {
                break left_behind(&directory);
            }
            drop(rules);
            tokio::task::yield_now().await;
        };
        app.settles = false;
        far.rules().send(&key, &format!("{round} waits"));
        hear(&mut app, |it| matches!(it, Heard::Message(_))).await;
        app.submit(Command::Discard { endpoint: id });
        hear(&mut app, |it| matches!(it, Heard::Close(_))).await;
        app.settles = true;
        directory = left;
        id = app.create(keeping(far.port, &directory));
        app.submit(Command::Connect { client: id });
        let mut all = hear(&mut app, |it| matches!(it, Heard::Message(_))).await;
        if !all.iter().any(|it| matches!(it, Heard::Channel(..))) {
            all.extend(hear(&mut app, |it| matches!(it, Heard::Channel(..))).await);
        }
        all.sort_by_key(|it| (!is_open(it), matches!(it, Heard::Channel(..))));
        let news = Heard::Channel("news".to_owned(), round + 1, format!("{round} news"));
        assert_eq!(all, [Heard::Open(true), Heard::Message(format!("{round} waits")), news]);
        assert_eq!(far.session(), key);
    }
}

#[tokio::test]
async fn nothing_is_said_under_a_token_that_the_next_process_would_not_have() {
    let mut app = App::with_threads(1);
    let far = Far::start(ServerConfig::default()).await;
    let mut directory = Directory::new();
    let mut id = app.create(keeping(far.port, &directory));
    for round in 0..10 {
        app.submit(Command::Connect { client: id });
        // Its first frame makes the token before useless.
        app.client_send(id, "something");
        let left = loop {
            let rules = far.rules();
            if rules.client_frames.iter().any(|it| matches!(it, ClientFrame::Item { .. })) {
                break left_behind(&directory);
            }
            drop(rules);
            tokio::task::yield_now().await;
        };
        assert_eq!(hear(&mut app, is_open).await, [Heard::Open(round > 0)]);
        app.submit(Command::Discard { endpoint: id });
        hear(&mut app, |it| matches!(it, Heard::Close(_))).await;
        directory = left;
        far.rules().client_frames.clear();
        id = app.create(keeping(far.port, &directory));
    }
}

/// Of each HELLO: the outbox's id, its first item and its next.
fn outboxes(far: &Far) -> Vec<(Key, u64, u64)> {
    let rules = far.rules();
    let hellos = rules.client_frames.iter().filter_map(|frame| match frame {
        ClientFrame::Hello(hello) => hello.outbox.clone(),
        _ => None,
    });
    hellos.map(|range| (range.id, range.first, range.next)).collect()
}

fn numbered(texts: &[&str]) -> Vec<(u64, String)> {
    (1..).zip(texts.iter().map(|text| (*text).to_owned())).collect()
}

#[tokio::test]
async fn an_outbox_in_memory_has_one_id_over_all_connections() {
    type Way = (&'static str, fn(&Far));
    let mut app = App::with_threads(1);
    let far = Far::start(ServerConfig::default()).await;
    let mut config = speaking(far.port);
    config.reconnect.backoff.stable_after = Duration::ZERO;
    let id = app.connect(config);
    let ways: [Way; 6] = [
        ("cut", Far::cut),
        ("to leave", |far| {
            let go = GoAway { after: Duration::ZERO, window: Duration::ZERO, url: None };
            far.rules().say(&ServerFrame::GoAway(go));
        }),
        ("closed", |far| far.rules().disconnect(4004)),
        ("restarted", Far::restart),
        ("failed", |far| far.rules().disconnect(1011)),
        ("cut again", Far::cut),
    ];
    let mut texts = Vec::new();
    for (way, end) in ways {
        hear(&mut app, is_open).await;
        app.client_send(id, way);
        texts.push(way);
        acknowledged(&app, id).await;
        end(&far);
    }
    hear(&mut app, is_open).await;
    let said = outboxes(&far);
    let numbers: Vec<_> = said.iter().map(|(_, first, next)| (*first, *next)).collect();
    assert_eq!(numbers, (1..=7).map(|n| (n, n)).collect::<Vec<_>>());
    assert!(said.iter().all(|(key, ..)| *key == said[0].0), "{said:?}");
    assert_eq!(far.rules().handled, numbered(&texts));
}

#[tokio::test]
async fn behind_a_crash_what_is_new_goes_under_another_id_and_nothing_is_lost_or_doubled() {
    let mut app = App::with_threads(1);
    let far = Far::start(ServerConfig::default()).await;
    let directory = Directory::new();
    let dead = app.create(keeping(far.port, &directory));
    app.client_send(dead, "a");
    app.client_send(dead, "b");
    let left = left_behind(&directory);
    app.submit(Command::Discard { endpoint: dead });
    let id = app.create(keeping(far.port, &left));
    // The process that died may have sent more numbers than are on the disk.
    assert_eq!(app.client_send(id, "c"), 3);
    app.submit(Command::Connect { client: id });
    let all = hear(&mut app, |it| *it == Heard::Open(true)).await;
    assert_eq!(all, [Heard::Open(false), Heard::Close(1001), Heard::Open(true)]);
    acknowledged(&app, id).await;
    far.cut();
    hear(&mut app, is_open).await;
    app.client_send(id, "d");
    acknowledged(&app, id).await;
    let said = outboxes(&far);
    let numbers: Vec<_> = said.iter().map(|(_, first, next)| (*first, *next)).collect();
    assert_eq!(numbers, [(1, 3), (3, 4), (4, 4)]);
    assert!(said[0].0 != said[1].0 && said[1].0 == said[2].0, "{said:?}");
    assert_eq!(far.rules().handled, numbered(&["a", "b", "c", "d"]));
}

#[tokio::test]
async fn a_server_that_knows_more_than_was_sent_gets_what_is_new_under_another_id() {
    let mut app = App::with_threads(1);
    let far = Far::start(ServerConfig::default()).await;
    let id = app.connect(speaking(far.port));
    hear(&mut app, is_open).await;
    app.client_send(id, "a");
    app.client_send(id, "b");
    acknowledged(&app, id).await;
    let before = outboxes(&far)[0].0.clone();
    far.restart_knowing(&before, 3);
    hear(&mut app, |it| *it == Heard::Close(4004)).await;
    hear(&mut app, is_open).await;
    assert_eq!(app.client_send(id, "c"), 3);
    acknowledged(&app, id).await;
    let said = outboxes(&far);
    assert_eq!(said[1], (before.clone(), 3, 3));
    assert_eq!((said.len(), said[2].1, said[2].2), (3, 3, 3));
    assert_ne!(said[2].0, before);
    assert_eq!(far.rules().handled.last(), Some(&(3, "c".to_owned())));
    assert_eq!(far.rules().handled.len(), 6);
}

#[tokio::test]
async fn edits_behind_a_refused_one_leave_the_outbox_with_it() {
    let app = App::with_threads(1);
    // One edit is under way at a time.
    let far = Far::start(ServerConfig { window: 150, ..authorising() }).await;
    let board = ChannelName::new("board").unwrap();
    far.rules().server.open_document(&board, Bounds::default(), Write::Nobody);
    let id = app.create(speaking(far.port));
    let edit = |key: &str, value: &'static str| {
        let value = Some(Bytes::from_static(value.as_bytes()));
        app.submit(Command::EditReplica { client: id, channel: "board".into(), key: key.into(), value, on: None })
    };
    app.submit(Command::FollowDocument { client: id, channel: "board".into(), asks: false });
    edit("a", "1");
    edit("a", "2");
    edit("b", "3");
    app.submit(Command::Connect { client: id });
    acknowledged(&app, id).await;
    let given_up = ClientFrame::GiveUp { from: Some(2), sequence: 2 };
    let rules = far.rules();
    let edits = rules.client_frames.iter().filter_map(|frame| match frame {
        ClientFrame::Edit { sequence, .. } => Some(*sequence),
        _ => None,
    });
    assert_eq!(edits.collect::<Vec<_>>(), [1, 3]);
    assert!(rules.client_frames.contains(&given_up), "{:?}", rules.client_frames);
    drop(rules);
    let Reply::Conflicts(told) = app.submit(Command::TakeConflicts { client: id, channel: "board".into() }) else {
        panic!()
    };
    let told: Vec<_> = told.iter().map(|it| (&*it.key, it.mine.as_deref(), it.code)).collect();
    assert_eq!(told, [("a", Some(&b"2"[..]), 403), ("b", Some(&b"3"[..]), 403)]);
}
