//! A server, clients and the links between them, driven by hand: each frame moves when a test says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use lifeline_proto::Time;
use lifeline_proto::outbox::{MemoryOutbox, OutboxConfig};
use lifeline_proto::v1::client::{Client, ClientConfig, Event};
use lifeline_proto::v1::document::replica::{self, Policy, Replica};
use lifeline_proto::v1::document::{Edit, Json};
use lifeline_proto::v1::inbox::{Delivery, Start};
use lifeline_proto::v1::server::{LinkId, Output, Server, ServerConfig, Stored};
use lifeline_proto::v1::wire::{Encoded, Gap, OutboxRange, Status};
use lifeline_proto::v1::{ChannelName, Key, ShortId};
use rand::RngCore;
use serde_json::{Value, json};

/// The same numbers in each run and in each version of every library.
#[derive(Clone, Debug)]
pub struct Numbers(pub u64);

impl RngCore for Numbers {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    // SplitMix64.
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        for byte in dest {
            *byte = self.next_u32() as u8;
        }
    }
}

/// An item that the server's application was given.
#[derive(Clone, Debug)]
pub struct Given {
    pub outbox: Key,
    pub delivery: Delivery,
    pub link: LinkId,
}

/// Makes the ids of operations: a prefix and a number.
pub type Ids = Box<dyn FnMut() -> ShortId>;

pub struct Peer {
    pub client: Client,
    pub outbox: MemoryOutbox,
    pub outbox_id: Key,
    pub generation: u64,
    pub link: Option<LinkId>,
    pub to_server: VecDeque<Encoded>,
    pub to_client: VecDeque<Encoded>,
    /// What waits for the client's application.
    pub events: VecDeque<Event>,
    /// Close codes that ended its connections, 0: cut.
    pub ends: Vec<u16>,
    /// Of one document, where it has one.
    pub replica: Option<Replica<Ids>>,
    /// Items of the outbox that edit it.
    pub edits: BTreeMap<u64, Edit>,
    /// What the replica told.
    pub told: Vec<replica::Event>,
}

pub struct World {
    pub now: Time,
    pub config: ServerConfig,
    pub server: Server<Numbers>,
    pub peers: Vec<Peer>,
    next_link: u64,
    /// What waits for the server's application.
    pub given: VecDeque<Given>,
    pub running: VecDeque<Given>,
    /// Outputs that are not carried out here.
    pub outputs: Vec<Output>,
    /// Connections whose end the server has not noticed.
    pub half_open: BTreeSet<LinkId>,
    /// Whether the application lets clients subscribe, by channel; absent: it does.
    pub denied: BTreeSet<ChannelName>,
    /// What the application says is a channel's state.
    pub states: BTreeMap<ChannelName, Bytes>,
    /// Marks on their way to the store.
    pub stores: VecDeque<(Key, u64)>,
    /// The server's application takes its time for answers.
    pub slow: bool,
    pub questions: VecDeque<Output>,
    /// What happened, in the words of the transcripts.
    pub journal: Vec<Value>,
    seed: u64,
}

pub fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

fn text(data: &Bytes) -> String {
    String::from_utf8(data.to_vec()).unwrap_or_else(|_| format!("{data:?}"))
}

/// An event as the transcripts tell it.
fn words(event: &Event) -> String {
    match event {
        Event::Acknowledged { sequence } => format!("acknowledged {sequence}"),
        Event::Answered(n) => format!("answered {n}"),
        Event::Channel { channel, position, data, .. } => {
            format!("channel {channel} {} {}", position.offset, text(data))
        }
        Event::Delta { channel, position, data } => format!("delta {channel} {} {}", position.offset, text(data)),
        Event::State { channel, place, data } => {
            format!("state {channel} {} {} {} {}", place.epoch, place.version, place.digest, text(data))
        }
        Event::Gap { gap: Gap { channel, from, to, why }, .. } => {
            let name = channel.as_ref().map_or_else(|| "of the session".into(), ToString::to_string);
            format!("gap {name} {from}..{} {}", to.map_or_else(|| "?".into(), |to| to.to_string()), why.as_str())
        }
        Event::Leave { .. } => "leave".into(),
        Event::Message { delivery, data, .. } => format!("message {} {}", delivery.sequence, text(data)),
        Event::OutboxDiverged { handled } => format!("outbox diverged {handled}"),
        Event::Rejected(reject) => format!("rejected {} {} {}", reject.sequence, reject.code, reject.reason),
        Event::ReplayDone => "replay done".into(),
        Event::Resend { sequence } => format!("resend {sequence}"),
        Event::Snapshot { channel, position, data, .. } => {
            format!("snapshot {channel} {} {}", position.offset, text(data))
        }
        Event::Subscription { channel, status } => format!("subscription {channel} {status:?}").to_lowercase(),
        Event::Welcomed(welcomed) => {
            let why = welcomed.why.as_ref().map_or_else(String::new, |why| format!(" {}", why.as_str()));
            format!("welcomed resumed={}{why}", welcomed.resumed)
        }
    }
}

/// As the transcripts tell it.
fn value(value: Option<&Json>) -> &str {
    value.map_or("-", Json::as_str)
}

impl Peer {
    fn tell_replica(&mut self, event: &Event) {
        let Some(replica) = &mut self.replica else { return };
        match event {
            Event::Acknowledged { sequence } => replica.handle_acknowledged(*sequence),
            Event::Delta { data, .. } => replica.handle_delta(data),
            Event::Gap { gap, .. } if gap.channel.is_some() => replica.handle_gap(),
            Event::Rejected(reject) => {
                if let Some(edit) = self.edits.get(&reject.sequence) {
                    replica.handle_rejected(&edit.id, reject.code, &reject.reason);
                }
            }
            Event::ReplayDone => replica.handle_replay_done(),
            Event::State { place, data, .. } => replica.handle_state(place.clone(), data),
            Event::Subscription { status, .. } => match status {
                Status::Ok => replica.handle_subscribed(false),
                Status::Gap | Status::Snapshot => replica.handle_subscribed(true),
                Status::Denied | Status::Left => replica.handle_left(),
            },
            _ => {}
        }
    }

    fn poll_replica(&mut self, now: Time, journal: &mut Vec<Value>) {
        let Some(replica) = &mut self.replica else { return };
        while let Some(event) = replica.poll_event() {
            let words = match &event {
                replica::Event::Changed { key, local } => {
                    let whose = if *local { " by itself" } else { "" };
                    format!("changed {key} {}{whose}", value(replica.get(key)))
                }
                replica::Event::Conflict(conflict) => {
                    let replica::Conflict { key, mine, theirs, attempt, resolution } = conflict;
                    let theirs = value(theirs.as_ref().map(|(_, value)| value));
                    format!("conflict {key} {} {theirs} {attempt} {resolution:?}", value(mine.as_ref())).to_lowercase()
                }
                replica::Event::Refused { key, value: mine, code, .. } => {
                    format!("refused {key} {} {code}", value(mine.as_ref()))
                }
                replica::Event::Synced => "synced".into(),
            };
            journal.push(json!({"clientEvent": words}));
            if let replica::Event::Conflict(replica::Conflict {
                key,
                mine,
                theirs,
                resolution: replica::Resolution::Asked,
                ..
            }) = &event
            {
                // As an application might: both.
                let theirs = theirs.as_ref().map(|(_, value)| value);
                let both =
                    format!("[{},{}]", mine.as_ref().map_or("null", Json::as_str), theirs.map_or("null", Json::as_str));
                let id =
                    replica.merge(key, Some(Json::new(&both).unwrap_or_else(|_| Json::new("0").unwrap()))).unwrap();
                assert!(replica.has_pending(&id));
            }
            self.told.push(event);
        }
        while let Some(edit) = replica.poll_edit() {
            let sequence = self.outbox.push(now, edit.encode(), false, None).unwrap().sequence;
            replica.handle_queued(&edit.id, sequence);
            self.edits.insert(sequence, edit);
        }
        while let Some(sequence) = replica.poll_obsolete() {
            self.outbox.handle_rejected(sequence);
        }
        if let Some(place) = replica.poll_verify() {
            self.client.verify(channel(DOCUMENT), place);
        }
    }
}

/// The channel of all documents here.
pub const DOCUMENT: &str = "board";

impl World {
    /// The client opens the document.
    pub fn follow(&mut self, index: usize, policy: Policy) {
        let mut number = 0;
        let ids: Ids = Box::new(move || {
            number += 1;
            let prefix = if index == 0 { String::new() } else { format!("c{index}") };
            ShortId::new(format!("{prefix}o{number}")).unwrap()
        });
        let mut replica = Replica::new(channel(DOCUMENT), policy, ids);
        if self.peers[index].client.is_live() {
            replica.handle_replay_done();
        }
        self.peers[index].replica = Some(replica);
        self.subscribe(index, DOCUMENT);
    }

    pub fn edit(&mut self, index: usize, key: &str, value: Option<&str>) -> ShortId {
        let replica = self.peers[index].replica.as_mut().unwrap();
        let id = replica.edit(key, value.map(|value| Json::new(value).unwrap())).unwrap();
        self.settle();
        id
    }

    pub fn server_edit(&mut self, key: &str, value: Option<&str>) {
        let value = value.map(|value| Json::new(value).unwrap());
        self.server.change_document(self.now, &channel(DOCUMENT), key, value, None).unwrap().unwrap();
        self.settle();
    }

    pub fn new(config: ServerConfig, clients: usize) -> Self {
        let mut world = Self {
            now: Time::ZERO,
            server: Server::new(config.clone(), Numbers(1)),
            config,
            peers: Vec::new(),
            next_link: 1,
            given: VecDeque::new(),
            running: VecDeque::new(),
            outputs: Vec::new(),
            half_open: BTreeSet::new(),
            denied: BTreeSet::new(),
            states: BTreeMap::new(),
            stores: VecDeque::new(),
            slow: false,
            questions: VecDeque::new(),
            journal: Vec::new(),
            seed: 1,
        };
        for index in 0..clients {
            world.add_client(&format!("outbox{}", index + 1));
        }
        world
    }

    pub fn add_client(&mut self, outbox: &str) -> usize {
        self.peers.push(Peer {
            client: Client::new(ClientConfig::default(), self.peers.len() as u64),
            outbox: MemoryOutbox::new(OutboxConfig { ttl: None, ..OutboxConfig::default() }),
            outbox_id: key(outbox),
            generation: 1,
            link: None,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            events: VecDeque::new(),
            ends: Vec::new(),
            replica: None,
            edits: BTreeMap::new(),
            told: Vec::new(),
        });
        self.peers.len() - 1
    }

    pub fn sleep(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.server.handle_timeout(self.now);
        for peer in &mut self.peers {
            peer.client.handle_timeout(self.now);
        }
        self.settle();
    }

    pub fn connect(&mut self, index: usize) {
        if self.peers[index].link.is_some() {
            return;
        }
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let peer = &mut self.peers[index];
        peer.link = Some(link);
        peer.to_server.clear();
        peer.to_client.clear();
        peer.client.handle_connected(
            None,
            Some(OutboxRange {
                id: peer.outbox_id.clone(),
                generation: peer.generation,
                first: peer.outbox.first_sequence(),
                next: peer.outbox.last_sequence() + 1,
            }),
        );
        self.server.handle_connected(self.now, link);
        self.settle();
    }

    /// Both ends see the end; what is on the way is lost.
    pub fn cut(&mut self, index: usize) {
        if let Some(link) = self.end(index, 0) {
            self.server.handle_lost(self.now, link);
            self.settle();
        }
    }

    /// Only the client sees the end.
    pub fn half_cut(&mut self, index: usize) {
        if let Some(link) = self.end(index, 0) {
            self.half_open.insert(link);
            self.settle();
        }
    }

    /// The server sees the end of those that only the clients have seen.
    pub fn notice(&mut self) {
        for link in std::mem::take(&mut self.half_open) {
            self.server.handle_lost(self.now, link);
        }
        self.settle();
    }

    /// What a store has that keeps no messages.
    pub fn stored_without_messages(&self) -> Stored {
        let mut stored = self.server.stored();
        stored.streams.clear();
        stored.published.clear();
        for (channel, position) in &mut stored.channels {
            *position = self.server.channel_log(channel).unwrap().top();
        }
        stored
    }

    /// The process dies, and handlers with it. `stored`: what its successor finds.
    pub fn restart_server(&mut self, stored: Option<Stored>) {
        for index in 0..self.peers.len() {
            self.end(index, 0);
        }
        self.half_open.clear();
        self.given.clear();
        self.running.clear();
        self.stores.clear();
        self.questions.clear();
        self.seed += 1;
        let random = Numbers(self.seed);
        self.server = match stored {
            Some(stored) => Server::restore(self.now, self.config.clone(), random, stored),
            None => Server::new(self.config.clone(), random),
        };
    }

    /// The client's process dies: what it had received and not handled is lost to it. It finds its
    /// session and its outbox as it had saved them.
    pub fn restart_client(&mut self, index: usize) {
        self.cut(index);
        let peer = &mut self.peers[index];
        let saved = peer.client.saved();
        peer.client = Client::new(ClientConfig::default(), index as u64);
        if let Some(saved) = saved {
            peer.client.restore(saved);
        }
        peer.events.clear();
        peer.generation += 1;
    }

    fn end(&mut self, index: usize, code: u16) -> Option<LinkId> {
        let peer = &mut self.peers[index];
        let link = peer.link.take()?;
        peer.ends.push(code);
        peer.client.handle_lost();
        if let Some(replica) = &mut peer.replica {
            replica.handle_lost();
        }
        peer.outbox.handle_lost();
        peer.to_server.clear();
        peer.to_client.clear();
        Some(link)
    }

    pub fn client_send(&mut self, index: usize, text: &str) -> u64 {
        let data = Bytes::copy_from_slice(text.as_bytes());
        let sequence = self.peers[index].outbox.push(self.now, data, false, None).unwrap().sequence;
        self.settle();
        sequence
    }

    pub fn server_send(&mut self, index: usize, text: &str) -> Option<u64> {
        let session = self.peers[index].client.session()?.clone();
        let sequence = self.server.send(self.now, &session, Bytes::copy_from_slice(text.as_bytes()), false);
        self.settle();
        sequence
    }

    pub fn publish(&mut self, name: &str, text: &str) {
        self.server.publish(self.now, &channel(name), text.as_bytes(), false);
        self.settle();
    }

    pub fn server_subscribe(&mut self, index: usize, name: &str) {
        let Some(session) = self.peers[index].client.session().cloned() else { return };
        self.server.subscribe(self.now, &session, &channel(name));
        self.settle();
    }

    pub fn subscribe(&mut self, index: usize, name: &str) {
        self.peers[index].client.subscribe(channel(name));
        self.settle();
    }

    pub fn unsubscribe(&mut self, index: usize, name: &str) {
        self.peers[index].client.unsubscribe(&channel(name));
        self.settle();
    }

    /// One frame arrives at the server.
    pub fn arrive_at_server(&mut self, index: usize) -> bool {
        let peer = &mut self.peers[index];
        let (Some(link), Some(Encoded { data, binary })) = (peer.link, peer.to_server.pop_front()) else {
            return false;
        };
        self.journal.push(json!({"client": text(&data)}));
        self.server.handle_message(self.now, link, &data, binary);
        self.settle();
        true
    }

    /// One frame arrives at the client.
    pub fn arrive_at_client(&mut self, index: usize) -> bool {
        let peer = &mut self.peers[index];
        let Some(Encoded { data, binary }) = peer.to_client.pop_front() else { return false };
        self.journal.push(json!({"server": text(&data)}));
        if let Err(violation) = peer.client.handle_message(self.now, &data, binary) {
            panic!("client {index}: {violation}");
        }
        self.settle();
        true
    }

    /// The server writes one frame.
    pub fn write(&mut self, index: usize) -> bool {
        let Some(link) = self.peers[index].link else { return false };
        let Some(outgoing) = self.server.poll_transmit(self.now, link) else {
            self.settle();
            return false;
        };
        self.peers[index].to_client.push_back(outgoing.encode());
        self.settle();
        true
    }

    /// The application begins the next item, unless a handler of that connection runs.
    pub fn begin(&mut self) -> bool {
        while let Some(given) = self.given.pop_front() {
            if self.running.iter().any(|running| running.link == given.link) {
                self.given.push_front(given);
                return false;
            }
            if let Start::Attempt(_) = self.server.handle_step(self.now, None, Some(given.delivery.id)) {
                self.running.push_back(given);
                return true;
            }
        }
        false
    }

    pub fn finish(&mut self) -> Option<Given> {
        let given = self.running.pop_front()?;
        self.server.handle_step(self.now, Some(given.delivery.id), None);
        self.settle();
        Some(given)
    }

    pub fn fail(&mut self) -> Option<Given> {
        let given = self.running.pop_front()?;
        self.server.handle_failed(self.now, &given.outbox, given.delivery.id);
        self.settle();
        Some(given)
    }

    pub fn reject(&mut self, permanent: bool) -> Option<Given> {
        let given = self.running.pop_front()?;
        let id = given.delivery.id;
        self.server.handle_rejected(self.now, &given.outbox, id, 7, "no".into(), permanent);
        self.settle();
        Some(given)
    }

    pub fn batch_end(&mut self) {
        self.server.handle_batch_end();
        for peer in &mut self.peers {
            peer.client.handle_batch_end();
        }
        self.settle();
    }

    /// The client's application takes its next event; messages are handled at once.
    pub fn take_event(&mut self, index: usize) -> Option<Event> {
        let peer = &mut self.peers[index];
        let event = peer.events.pop_front()?;
        if let Event::Message { delivery, .. } | Event::Gap { delivery: Some(delivery), .. } = &event {
            peer.client.handle_delivered(self.now, *delivery);
        }
        self.settle();
        Some(event)
    }

    pub fn take_events(&mut self, index: usize) -> Vec<Event> {
        std::iter::from_fn(|| self.take_event(index)).collect()
    }

    /// Frames move until all is quiet; the application handles nothing.
    pub fn flow(&mut self) {
        loop {
            let mut moved = false;
            for index in 0..self.peers.len() {
                moved |= self.arrive_at_server(index) | self.write(index) | self.arrive_at_client(index);
            }
            if !moved {
                return;
            }
        }
    }

    /// As [`World::flow`], and the server's application handles what comes.
    pub fn run(&mut self) -> Vec<String> {
        let mut handled = Vec::new();
        loop {
            self.flow();
            if !self.begin() {
                self.batch_end();
                self.flow();
                if self.given.is_empty() {
                    return handled;
                }
                continue;
            }
            let given = self.finish().unwrap();
            handled.push(String::from_utf8(given.delivery.data.to_vec()).unwrap());
        }
    }

    /// The store has written the oldest mark that it was given.
    pub fn store(&mut self) -> bool {
        let Some((outbox, handled)) = self.stores.pop_front() else { return false };
        self.server.handle_stored(self.now, &outbox, handled);
        self.settle();
        true
    }

    fn answer(&mut self, question: Output) {
        match question {
            Output::Authorise { link, channel } => {
                let allowed = !self.denied.contains(&channel);
                self.server.handle_authorised(self.now, link, &channel, allowed);
            }
            Output::Snapshot { link, channel, position } => {
                let state = self.states.get(&channel).map(|state| (state.clone(), false));
                self.server.handle_snapshot(link, &channel, &position, state);
            }
            _ => {}
        }
    }

    /// The slow application answers the oldest question.
    pub fn answer_one(&mut self) -> bool {
        let Some(question) = self.questions.pop_front() else { return false };
        self.answer(question);
        self.settle();
        true
    }

    /// Carries out what both machines want, without moving a frame.
    pub fn settle(&mut self) {
        self.server.handle_written(self.server.place());
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Deliver { link, outbox, delivery } => {
                    let item = format!("item {} {}", delivery.id.sequence, text(&delivery.data));
                    self.journal.push(json!({"serverEvent": item}));
                    self.given.push_back(Given { outbox, delivery, link });
                }
                Output::Authenticate { link, .. } => self.server.handle_authenticated(self.now, link, Ok(None)),
                Output::Authorise { .. } | Output::Snapshot { .. } if self.slow => self.questions.push_back(output),
                Output::Authorise { .. } | Output::Snapshot { .. } => self.answer(output),
                Output::Store { outbox, handled } => self.stores.push_back((outbox, handled)),
                Output::Close { link, code, .. } => {
                    self.journal.push(json!({"close": code}));
                    self.half_open.remove(&link);
                    if let Some(index) = self.peers.iter().position(|peer| peer.link == Some(link)) {
                        self.end(index, code);
                    }
                    self.outputs.push(output);
                }
                Output::Transmit { .. } => {}
                other => self.outputs.push(other),
            }
        }
        for peer in &mut self.peers {
            while let Some(event) = peer.client.poll_event() {
                if !matches!(event, Event::Delta { .. } | Event::State { .. }) {
                    self.journal.push(json!({"clientEvent": words(&event)}));
                }
                peer.tell_replica(&event);
                match &event {
                    Event::Acknowledged { sequence } => peer.outbox.handle_written(*sequence),
                    Event::Resend { sequence } => peer.outbox.handle_resend(*sequence),
                    Event::Rejected(reject) if peer.edits.contains_key(&reject.sequence) => {
                        peer.outbox.handle_rejected(reject.sequence);
                    }
                    Event::Delta { .. } | Event::State { .. } => {}
                    Event::Rejected(reject) => {
                        if peer.outbox.handle_rejected(reject.sequence).is_some() {
                            peer.events.push_back(event);
                        }
                    }
                    _ => peer.events.push_back(event),
                }
            }
            peer.poll_replica(self.now, &mut self.journal);
            while peer.outbox.has_waiting() && peer.client.room(1) {
                let Some(item) = peer.outbox.next_to_send(self.now) else { break };
                if peer.edits.contains_key(&item.sequence) {
                    assert!(peer.client.send_edit(item.sequence, item.data));
                } else {
                    assert!(peer.client.send(item.sequence, item.data, item.binary));
                }
            }
            while let Some(message) = peer.client.poll_transmit(self.now) {
                if peer.link.is_some() {
                    peer.to_server.push_back(message);
                }
            }
        }
    }
}
