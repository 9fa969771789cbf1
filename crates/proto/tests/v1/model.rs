//! Random schedules of sends, cuts and restarts, and what must hold whatever happens: nothing is lost,
//! nothing is handled twice, order is kept, and each hole is reported.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lifeline_proto::v1::client::Event;
use lifeline_proto::v1::ring::Retention;
use lifeline_proto::v1::server::ServerConfig;
use lifeline_proto::v1::wire::{Gap, Status};
use proptest::prelude::*;

use super::world::{Given, World, channel};

const CLIENTS: usize = 2;
const CHANNELS: [&str; 2] = ["news", "work"];

#[derive(Clone, Debug)]
enum Step {
    Connect(usize),
    Cut(usize),
    HalfCut(usize),
    /// The server finds the half-open ones.
    Notice,
    ClientSend(usize),
    /// The newest item expires, unless it is under way.
    Expire(usize),
    ServerSend(usize),
    Publish(usize),
    Subscribe(usize, usize),
    ServerSubscribe(usize, usize),
    Unsubscribe(usize, usize),
    /// Frames move.
    ToServer(usize, usize),
    ToClient(usize, usize),
    Write(usize, usize),
    /// The server's application.
    Begin,
    Finish,
    Fail,
    Reject {
        permanent: bool,
    },
    /// The oldest mark is stored.
    Store,
    /// The oldest question is answered.
    Answer,
    /// The client's application.
    Take(usize, usize),
    BatchEnd,
    Sleep(u64),
    RestartClient(usize),
    RestartServer {
        stored: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    let frames = 1..6usize;
    prop_oneof![
        12 => client.clone().prop_map(Step::Connect),
        4 => client.clone().prop_map(Step::Cut),
        2 => client.clone().prop_map(Step::HalfCut),
        1 => Just(Step::Notice),
        10 => client.clone().prop_map(Step::ClientSend),
        1 => client.clone().prop_map(Step::Expire),
        8 => client.clone().prop_map(Step::ServerSend),
        8 => (0..CHANNELS.len()).prop_map(Step::Publish),
        3 => (client.clone(), 0..CHANNELS.len()).prop_map(|(client, channel)| Step::Subscribe(client, channel)),
        2 => (client.clone(), 0..CHANNELS.len()).prop_map(|(client, channel)| Step::ServerSubscribe(client, channel)),
        1 => (client.clone(), 0..CHANNELS.len()).prop_map(|(client, channel)| Step::Unsubscribe(client, channel)),
        25 => (client.clone(), frames.clone()).prop_map(|(client, count)| Step::ToServer(client, count)),
        20 => (client.clone(), frames.clone()).prop_map(|(client, count)| Step::ToClient(client, count)),
        20 => (client.clone(), frames.clone()).prop_map(|(client, count)| Step::Write(client, count)),
        15 => Just(Step::Begin),
        12 => Just(Step::Finish),
        1 => Just(Step::Fail),
        2 => any::<bool>().prop_map(|permanent| Step::Reject { permanent }),
        12 => (client.clone(), frames).prop_map(|(client, count)| Step::Take(client, count)),
        8 => Just(Step::Store),
        8 => Just(Step::Answer),
        4 => Just(Step::BatchEnd),
        4 => (1..3000u64).prop_map(Step::Sleep),
        3 => (10_000..12_000u64).prop_map(Step::Sleep),
        1 => (100_000..200_000u64).prop_map(Step::Sleep),
        1 => client.prop_map(Step::RestartClient),
        1 => any::<bool>().prop_map(|stored| Step::RestartServer { stored }),
    ]
}

/// What the checker knows of one client's items.
#[derive(Default)]
struct Items {
    sent: u64,
    /// How often each was handled well.
    handled: BTreeMap<u64, u32>,
    /// Refused for good by the server's application.
    refused: BTreeSet<u64>,
    /// Expired: it may have been handled when it was under way on an earlier connection.
    expired: BTreeSet<u64>,
    /// Told by the client to its application.
    told: BTreeSet<u64>,
    /// Not stored when a server died: may be handled again.
    excused: BTreeSet<u64>,
}

/// What the checker knows of one client's stream.
#[derive(Default)]
struct Stream {
    session: Option<String>,
    /// The last number that was delivered or reported missing.
    passed: u64,
}

/// What the checker knows of one subscription: the last message seen, a hole reported behind it.
#[derive(Clone, Default)]
struct Reading {
    last: Option<u64>,
    hole: bool,
}

struct Model {
    world: World,
    items: Vec<Items>,
    streams: Vec<Stream>,
    /// By client and channel.
    readings: BTreeMap<(usize, usize), Reading>,
    published: [u64; 2],
    snapshots: bool,
}

impl Model {
    fn new(config: ServerConfig) -> Self {
        let snapshots = config.snapshots;
        Self {
            world: World::new(config, CLIENTS),
            items: std::iter::repeat_with(Items::default).take(CLIENTS).collect(),
            streams: std::iter::repeat_with(Stream::default).take(CLIENTS).collect(),
            readings: BTreeMap::new(),
            published: [0; 2],
            snapshots,
        }
    }

    fn step(&mut self, step: &Step) {
        let world = &mut self.world;
        match *step {
            Step::Connect(client) => world.connect(client),
            Step::Cut(client) => world.cut(client),
            Step::HalfCut(client) => world.half_cut(client),
            Step::Notice => world.notice(),
            Step::ClientSend(client) => {
                self.items[client].sent += 1;
                let text = format!("{client} {}", self.items[client].sent);
                assert_eq!(world.client_send(client, &text), self.items[client].sent);
            }
            Step::Expire(client) => {
                let outbox = &mut world.peers[client].outbox;
                let newest = outbox.last_sequence();
                if outbox.has_waiting() && outbox.handle_rejected(newest).is_some() {
                    self.items[client].expired.insert(newest);
                }
            }
            Step::ServerSend(client) => {
                if let Some(session) = world.peers[client].client.session().cloned()
                    && let Some(next) = world.server.session(&session).map(|session| session.ring().next())
                {
                    assert_eq!(world.server_send(client, &format!("{session} {next}")), Some(next));
                }
            }
            Step::Publish(index) => {
                self.published[index] += 1;
                let count = self.published[index];
                if self.snapshots {
                    world.states.insert(channel(CHANNELS[index]), count.to_string().into());
                }
                world.publish(CHANNELS[index], &count.to_string());
            }
            Step::Subscribe(client, index) => world.subscribe(client, CHANNELS[index]),
            Step::ServerSubscribe(client, index) => world.server_subscribe(client, CHANNELS[index]),
            Step::Unsubscribe(client, index) => {
                world.unsubscribe(client, CHANNELS[index]);
                self.readings.remove(&(client, index));
            }
            Step::ToServer(client, count) => repeat(count, || world.arrive_at_server(client)),
            Step::ToClient(client, count) => repeat(count, || world.arrive_at_client(client)),
            Step::Write(client, count) => repeat(count, || world.write(client)),
            Step::Begin => self.begin(),
            Step::Finish => {
                if let Some(given) = world.finish() {
                    self.handled(&given);
                }
            }
            Step::Fail => {
                let given = world.fail();
                self.settled_for_good(given);
            }
            Step::Reject { permanent } => {
                let given = world.reject(permanent);
                self.settled_for_good(given);
            }
            Step::Take(client, count) => (0..count).for_each(|_| self.take(client)),
            Step::Store => drop(world.store().then_some(())),
            Step::Answer => drop(world.answer_one().then_some(())),
            Step::BatchEnd => world.batch_end(),
            Step::Sleep(millis) => world.sleep(Duration::from_millis(millis)),
            Step::RestartClient(client) => {
                // What was taken out of the outbox is in the dead-letter file.
                self.items[client].told.extend(world.peers[client].events.iter().filter_map(|event| match event {
                    Event::Rejected(reject) => Some(reject.sequence),
                    _ => None,
                }));
                world.restart_client(client);
                // It has forgotten what it had reported; the positions are those that it had received.
                self.readings.retain(|(reader, _), _| *reader != client);
                if let Some(saved) = world.peers[client].client.saved() {
                    let session = Some(saved.session.to_string());
                    let stream = &mut self.streams[client];
                    assert!(stream.session != session || stream.passed == saved.sequence);
                    *stream = Stream { session, passed: saved.sequence };
                }
            }
            Step::RestartServer { stored } => {
                let stored = stored.then(|| self.world.server.stored());
                for (client, items) in self.items.iter_mut().enumerate() {
                    let peer = &self.world.peers[client];
                    let mut first = peer.outbox.first_sequence();
                    if stored.is_some() {
                        first =
                            self.world.server.inbox(&peer.outbox_id).map_or(first, |inbox| inbox.acknowledged() + 1);
                    }
                    items.excused.extend(items.handled.range(first..).map(|(item, _)| *item));
                    items.excused.extend(items.refused.range(first..));
                }
                self.world.restart_server(stored);
            }
        }
    }

    /// The application begins an item: all before it are settled or given up.
    fn begin(&mut self) {
        if self.world.begin() {
            let given = self.world.running.back().unwrap();
            let (client, item) = identify(given);
            let items = &self.items[client];
            for before in 1..item {
                let known = items.handled.contains_key(&before)
                    || items.refused.contains(&before)
                    || items.expired.contains(&before);
                assert!(known, "client {client}: item {item} begins, {before} is not settled");
            }
            let times = items.handled.get(&item).copied().unwrap_or(0);
            let settled = times > 0 || items.refused.contains(&item);
            assert!(!settled || items.excused.contains(&item), "client {client}: item {item} comes again");
        }
    }

    fn handled(&mut self, given: &Given) {
        let (client, item) = identify(given);
        *self.items[client].handled.entry(item).or_default() += 1;
    }

    fn settled_for_good(&mut self, given: Option<Given>) {
        let Some(given) = given else { return };
        let (client, item) = identify(&given);
        let inbox = self.world.server.inbox(&given.outbox).unwrap();
        if inbox.rejected().any(|reject| reject.sequence == item) {
            self.items[client].refused.insert(item);
        }
    }

    fn take(&mut self, client: usize) {
        let Some(event) = self.world.take_event(client) else { return };
        match event {
            Event::Welcomed(welcomed) => {
                let session = Some(welcomed.session.to_string());
                let stream = &mut self.streams[client];
                if stream.session != session {
                    assert!(stream.session.is_none() || stream.passed == u64::MAX, "a lost session without a gap");
                    *stream = Stream { session, passed: 0 };
                }
            }
            Event::Gap { gap: Gap { channel: None, from, to, .. }, .. } => {
                let stream = &mut self.streams[client];
                assert!(from > stream.passed, "client {client}: gap from {from} behind {}", stream.passed);
                match to {
                    Some(to) => {
                        assert_eq!(from, stream.passed + 1);
                        stream.passed = to;
                    }
                    None => stream.passed = u64::MAX,
                }
            }
            Event::Message { delivery, data, .. } => {
                let stream = &mut self.streams[client];
                assert_eq!(delivery.sequence, stream.passed + 1, "client {client}");
                stream.passed += 1;
                let text = format!("{} {}", stream.session.as_ref().unwrap(), delivery.sequence);
                assert_eq!(data, text);
            }
            Event::Gap { gap: Gap { channel: Some(channel), .. }, .. } => {
                self.reading(client, channel.as_str()).hole = true;
            }
            Event::Snapshot { channel, data, .. } => {
                let count: u64 = std::str::from_utf8(&data).unwrap().parse().unwrap();
                let reading = self.reading(client, channel.as_str());
                assert!(reading.last.is_none_or(|last| count >= last) && reading.hole);
                // The state may be newer than the position that goes with it.
                *reading = Reading::default();
            }
            Event::Channel { channel, data, .. } => {
                let count: u64 = std::str::from_utf8(&data).unwrap().parse().unwrap();
                let reading = self.reading(client, channel.as_str());
                if let Some(last) = reading.last {
                    assert!(count > last, "client {client}: {channel} {count} after {last}");
                    assert!(
                        count == last + 1 || reading.hole,
                        "client {client}: {channel} {count} after {last} without a gap"
                    );
                }
                *reading = Reading { last: Some(count), hole: false };
            }
            Event::Subscription { channel, status } => {
                let index = CHANNELS.iter().position(|name| *name == channel.as_str()).unwrap();
                match status {
                    Status::Denied | Status::Left => drop(self.readings.remove(&(client, index))),
                    Status::Ok | Status::Gap | Status::Snapshot => {}
                }
            }
            Event::Rejected(reject) => {
                assert!(reject.permanent && self.items[client].told.insert(reject.sequence), "told twice");
            }
            Event::ReplayDone | Event::Leave { .. } | Event::Answered(_) => {}
            event => panic!("{event:?}"),
        }
    }

    fn reading(&mut self, client: usize, channel: &str) -> &mut Reading {
        let index = CHANNELS.iter().position(|name| *name == channel).unwrap();
        self.readings.entry((client, index)).or_default()
    }

    /// Everything works from here on; in the end nothing may be missing.
    fn finish(&mut self) {
        self.world.notice();
        for _ in 0..100 {
            for client in 0..CLIENTS {
                self.world.connect(client);
            }
            self.world.flow();
            while self.world.running.pop_front().map(|given| self.finish_one(given)).is_some() {}
            while !self.world.given.is_empty() {
                self.begin();
                while self.world.running.pop_front().map(|given| self.finish_one(given)).is_some() {}
            }
            while self.world.store() | self.world.answer_one() {}
            self.world.batch_end();
            for client in 0..CLIENTS {
                while !self.world.peers[client].events.is_empty() {
                    self.take(client);
                }
            }
            self.world.sleep(Duration::from_secs(1));
            self.world.flow();
            if self
                .world
                .peers
                .iter()
                .all(|peer| peer.outbox.is_empty() && peer.link.is_some() && peer.events.is_empty())
            {
                break;
            }
        }
        for (client, items) in self.items.iter().enumerate() {
            assert!(
                self.world.peers[client].outbox.is_empty(),
                "client {client}: {:?}",
                self.world.peers[client].outbox
            );
            for item in 1..=items.sent {
                let times = items.handled.get(&item).copied().unwrap_or(0);
                let refused = items.refused.contains(&item);
                if items.expired.contains(&item) {
                    assert!(times < 2 || items.excused.contains(&item));
                } else if items.excused.contains(&item) {
                    assert!(times > 0 || refused);
                } else {
                    assert_eq!((times, refused), (u32::from(!refused), refused), "client {client}: item {item}");
                    assert_eq!(items.told.contains(&item), refused, "client {client}: item {item}");
                }
            }
        }
        for (client, stream) in self.streams.iter().enumerate() {
            let session = self.world.peers[client].client.session().unwrap();
            assert_eq!(stream.passed + 1, self.world.server.session(session).unwrap().ring().next(), "client {client}");
        }
        while self.world.answer_one() {}
        // One more message on each channel: who reads it has seen all before, or a gap.
        for index in 0..CHANNELS.len() {
            self.step(&Step::Publish(index));
        }
        self.world.slow = false;
        while self.world.answer_one() {}
        self.world.flow();
        for client in 0..CLIENTS {
            while !self.world.peers[client].events.is_empty() {
                self.take(client);
            }
            let session = self.world.peers[client].client.session().unwrap();
            let session = self.world.server.session(session).unwrap();
            for (index, name) in CHANNELS.iter().enumerate() {
                if session.is_subscribed(&channel(name)) {
                    let reading = &self.readings[&(client, index)];
                    assert_eq!(reading.last, Some(self.published[index]), "client {client}: {name}");
                }
            }
        }
    }

    fn finish_one(&mut self, given: Given) {
        self.world.running.push_front(given);
        let given = self.world.finish().unwrap();
        self.handled(&given);
    }
}

/// Every dialogue of one client: hello, items, stream, channels, refusals, acknowledgements, resume,
/// replay, a gap, take-over, unsubscribing, the last two in the hands of a server with a store.
const SCRIPT: &[Step] = &[
    Step::Connect(0),
    Step::ClientSend(0),
    Step::Subscribe(0, 0),
    Step::ServerSubscribe(0, 1),
    Step::ServerSend(0),
    Step::Publish(0),
    Step::Begin,
    Step::ClientSend(0),
    Step::Finish,
    Step::Take(0, 100),
    Step::BatchEnd,
    Step::Cut(0),
    Step::ServerSend(0),
    Step::ServerSend(0),
    Step::Publish(0),
    Step::Publish(1),
    Step::ClientSend(0),
    Step::Connect(0),
    Step::Begin,
    Step::Reject { permanent: true },
    Step::Begin,
    Step::Reject { permanent: false },
    Step::Sleep(1000),
    Step::Begin,
    Step::Finish,
    Step::Take(0, 100),
    Step::BatchEnd,
    Step::Sleep(1000),
    Step::HalfCut(0),
    Step::Publish(1),
    Step::Publish(1),
    Step::Publish(1),
    Step::Publish(1),
    Step::Sleep(10_000),
    Step::ServerSend(0),
    Step::ServerSend(0),
    Step::ServerSend(0),
    Step::ServerSend(0),
    Step::ClientSend(0),
    Step::Connect(0),
    Step::Begin,
    Step::Fail,
    Step::Connect(0),
    Step::Unsubscribe(0, 1),
    Step::RestartServer { stored: true },
    Step::ClientSend(0),
    Step::Connect(0),
    Step::RestartClient(0),
    Step::Connect(0),
];

/// Plays the script; the link is cut after so many frames, and the client comes back at once. Returns
/// how many moved.
fn sweep(cut_after: Option<u32>, half: bool, snapshots: bool) -> u32 {
    let mut model = Model::new(ServerConfig {
        authorise: true,
        retention: Retention { count: 3, ..Retention::default() },
        snapshots,
        ..ServerConfig::default()
    });
    let mut moved = 0;
    for step in SCRIPT {
        model.step(step);
        while model.world.arrive_at_server(0) || model.world.write(0) || model.world.arrive_at_client(0) {
            moved += 1;
            if cut_after == Some(moved) {
                model.step(&if half { Step::HalfCut(0) } else { Step::Cut(0) });
                model.step(&Step::Connect(0));
            }
        }
    }
    model.finish();
    moved
}

#[test]
fn every_dialogue_may_be_cut_after_every_frame() {
    for (half, snapshots) in [(false, false), (false, true), (true, false), (true, true)] {
        let frames = sweep(None, half, snapshots);
        assert!(frames > 100, "{frames}");
        for cut_after in 1..=frames {
            sweep(Some(cut_after), half, snapshots);
        }
    }
}

/// At most `count` times, while there is something to do.
fn repeat(count: usize, mut act: impl FnMut() -> bool) {
    for _ in 0..count {
        if !act() {
            return;
        }
    }
}

/// Whose item, and which.
fn identify(given: &Given) -> (usize, u64) {
    let text = std::str::from_utf8(&given.delivery.data).unwrap();
    let (client, item) = text.split_once(' ').unwrap();
    let item = item.parse().unwrap();
    assert_eq!(given.delivery.id.sequence, item);
    (client.parse().unwrap(), item)
}

/// `MODEL_SCHEDULES` for a long run.
fn schedules() -> u32 {
    std::env::var("MODEL_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(schedules()))]

    #[test]
    fn nothing_is_lost_nothing_comes_twice_order_is_kept(
        count in 1..20usize,
        window in prop::sample::select(vec![100u64, 1000]),
        snapshots: bool,
        store: bool,
        slow: bool,
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut model = Model::new(ServerConfig {
            authorise: true,
            retention: Retention { count, ..Retention::default() },
            redelivery_limit: 3,
            window,
            snapshots,
            store,
            ..ServerConfig::default()
        });
        model.world.slow = slow;
        for step in &steps {
            model.step(step);
        }
        model.finish();
    }
}
