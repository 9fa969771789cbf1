//! What must hold whatever happens. Each rule is a panic that says what was broken.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use lifeline_proto::Time;
use lifeline_proto::v1::log::FRESH;
use lifeline_proto::v1::ring::Retention;
use lifeline_proto::v1::wire::{Gap, Status, Why};
use lifeline_proto::v1::{Key, Position, ShortId};

/// An item of an outbox.
#[derive(Clone, Debug, Default)]
pub struct Item {
    /// `send()` has returned.
    pub accepted: bool,
    /// Handlers that ended well.
    pub handled: u32,
    pub started: u32,
    /// For good, by the server's application.
    pub refused: bool,
    /// Expired: told to the client's application. It may have been under way before.
    pub dropped: bool,
    /// How often the client's application was told of a refusal.
    pub told: u32,
    /// The server has forgotten that it was settled: it may be handled once more.
    pub excused: bool,
}

impl Item {
    fn settled(&self) -> bool {
        self.handled > 0 || self.refused
    }
}

#[derive(Clone, Debug, Default)]
pub struct Items {
    pub items: Vec<Item>,
    /// Its client has died and had it in memory only.
    pub gone: bool,
}

impl Items {
    pub fn item(&mut self, q: u64) -> &mut Item {
        let index = q as usize - 1;
        if self.items.len() <= index {
            self.items.resize(index + 1, Item::default());
        }
        &mut self.items[index]
    }

    /// What is settled, given up or gone without a hole.
    fn mark(&self) -> u64 {
        self.items.iter().take_while(|item| item.settled() || item.dropped).count() as u64
    }
}

/// A message of a stream or channel, as it was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub text: String,
    /// Of a channel.
    pub message_id: Option<ShortId>,
    pub at: Time,
    /// As the limit counts it.
    pub bytes: usize,
}

/// A session's stream, or a channel's log in one epoch. After a rollback there may be several messages of
/// one number.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    pub sent: BTreeMap<u64, Vec<Sent>>,
    /// Everything up to this was given back, or died with a server.
    pub lost: u64,
    /// Numbers were given twice.
    pub rolled_back: bool,
    /// Texts that a power cut, or a rollback, has taken from the server.
    forgotten: HashSet<String>,
}

impl Truth {
    fn knows(&self, number: u64, text: &str) -> bool {
        self.sent.get(&number).is_some_and(|sent| sent.iter().any(|sent| sent.text == text))
    }

    pub fn top(&self) -> u64 {
        self.sent.last_key_value().map_or(0, |(number, _)| *number)
    }

    /// The server has forgotten what it sent from `next` on: some of it may have arrived, or be on its way yet.
    pub fn forget(&mut self, next: u64) {
        self.forgotten.extend(self.sent.range(next..).flat_map(|(_, sent)| sent).map(|sent| sent.text.clone()));
        self.rolled_back = true;
        self.lost = self.top();
    }

    /// Whether the limits allow that message to be gone.
    fn droppable(&self, number: u64, now: Time, retention: Retention, fresh: Duration) -> bool {
        let Some(sent) = self.sent.get(&number).and_then(|sent| sent.last()) else { return true };
        let behind = self.sent.range(number..).filter_map(|(_, sent)| sent.last());
        let (count, bytes) = behind.fold((0, 0), |(count, bytes), sent| (count + 1, bytes + sent.bytes));
        let old = now >= sent.at + retention.age;
        number <= self.lost || bytes > retention.bytes || ((count > retention.count || old) && now >= sent.at + fresh)
    }
}

/// A client's stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    pub session: Option<Key>,
    /// The last message that came or was reported missing.
    pub seen: u64,
    /// The last one that the application handled.
    pub handled: u64,
    /// The session is lost, the application was told.
    pub broken: bool,
    /// The first that was seen of what the server has forgotten: there is no going on behind it.
    pub stale: Option<u64>,
}

/// A client's subscription.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    pub position: Option<Position>,
    /// The client has left; nothing may come.
    pub left: bool,
    /// It has left and asked again: a subscription may begin elsewhere.
    pub anew: bool,
    /// A gap that a snapshot may follow.
    gap: bool,
    /// Texts.
    came: HashSet<String>,
}

#[derive(Default)]
pub struct Check {
    pub outboxes: HashMap<Key, Items>,
    pub streams: Vec<Stream>,
    pub readers: HashMap<(usize, usize), Reader>,
    pub sessions: HashMap<Key, Truth>,
    pub logs: HashMap<(usize, ShortId), Truth>,
    /// Sessions that may be lost to their clients: expired, or taken by others, or not stored.
    pub lost_sessions: HashSet<Key>,
}

impl Check {
    /// A handler begins. `running`: the outbox's items whose handlers run.
    pub fn begins(&mut self, outbox: &Key, q: u64, running: &[u64], serial: bool) {
        let items = self.outboxes.entry(outbox.clone()).or_default();
        for before in 1..q {
            let item = items.item(before);
            let known = item.settled() || item.dropped || (!serial && item.started > 0);
            assert!(known, "{outbox} {q} begins and {before} is not settled");
        }
        assert!(!serial || running.is_empty(), "{outbox} {q} begins while {running:?} run");
        assert!(!running.contains(&q), "{outbox} {q} begins twice at once");
        let gone = items.gone;
        let item = items.item(q);
        assert!(item.accepted || gone, "{outbox} {q} was never sent");
        assert!(!item.settled() || item.excused, "{outbox} {q} is handled again: {item:?}");
        item.started += 1;
    }

    pub fn handled(&mut self, outbox: &Key, q: u64) {
        let item = self.outboxes.entry(outbox.clone()).or_default().item(q);
        item.handled += 1;
        item.excused = false;
    }

    pub fn refused(&mut self, outbox: &Key, q: u64) {
        let item = self.outboxes.entry(outbox.clone()).or_default().item(q);
        item.refused = true;
        item.excused = false;
    }

    /// The server remembers the outbox up to `mark` only.
    pub fn excuse(&mut self, outbox: &Key, mark: u64) {
        for item in self.outboxes.entry(outbox.clone()).or_default().items.iter_mut().skip(mark as usize) {
            item.excused |= item.settled();
        }
    }

    /// The server says that everything up to `q` is handled; `stored` is on its disk, if it has one.
    pub fn acknowledges(&mut self, outbox: &Key, q: u64, stored: Option<u64>) {
        let items = self.outboxes.entry(outbox.clone()).or_default();
        let mark = items.mark();
        assert!(q <= mark || items.gone, "{outbox}: acknowledged {q}, handled are {mark}");
        if let Some(stored) = stored {
            assert!(q <= stored, "{outbox}: acknowledged {q}, stored is {stored}");
        }
    }

    /// A client forgets an item because it was acknowledged.
    pub fn forgets(&mut self, outbox: &Key, q: u64) {
        let item = self.outboxes.entry(outbox.clone()).or_default().item(q);
        assert!(item.handled > 0 || item.dropped || item.told > 0, "{outbox} {q} is forgotten: {item:?}");
    }

    /// A client tells its application of a refusal.
    pub fn told(&mut self, outbox: &Key, q: u64) {
        let item = self.outboxes.entry(outbox.clone()).or_default().item(q);
        item.told += 1;
        assert!(item.refused && item.told == 1 && !item.dropped, "{outbox} {q} told: {item:?}");
    }

    pub fn welcomed(&mut self, client: usize, session: &Key) {
        let stream = &mut self.streams[client];
        if stream.session.as_ref() != Some(session) {
            assert!(stream.session.is_none() || stream.broken, "client {client}: lost its session without a gap");
            *stream = Stream { session: Some(session.clone()), ..Stream::default() };
        }
    }

    pub fn message(&mut self, client: usize, sequence: u64, text: &str) {
        let stream = &mut self.streams[client];
        let session = stream.session.as_ref().expect("a message without a session");
        assert_eq!(sequence, stream.seen + 1, "client {client}: messages in order, each once");
        let truth = &self.sessions[session];
        assert!(!stream.broken && truth.knows(sequence, text), "client {client}: message {sequence} is {text}");
        stream.seen = sequence;
        if truth.forgotten.contains(text) {
            stream.stale.get_or_insert(sequence);
        }
    }

    pub fn stream_gap(&mut self, client: usize, gap: &Gap, now: Time, retention: Retention) {
        let stream = &mut self.streams[client];
        let session = stream.session.as_ref().expect("a gap without a session");
        let truth = self.sessions.entry(session.clone()).or_default();
        assert_eq!(gap.from, stream.seen + 1, "client {client}: {gap:?} behind {}", stream.seen);
        assert!(!stream.broken, "client {client}: {gap:?} twice");
        if let Some(to) = gap.to {
            assert!(to >= gap.from && gap.why == Why::Overflow, "{gap:?}");
            let allowed = truth.rolled_back || truth.droppable(to, now, retention, Duration::ZERO);
            assert!(allowed, "client {client}: {gap:?}, {to} should be there");
            stream.seen = to;
        } else {
            assert!(self.lost_sessions.contains(session), "client {client}: {session} is lost, {gap:?}");
            stream.broken = true;
        }
    }

    fn reader(&mut self, client: usize, channel: usize) -> &mut Reader {
        self.readers.entry((client, channel)).or_default()
    }

    /// `position` is where the client is now.
    pub fn subscription(&mut self, client: usize, channel: usize, status: Status, position: Option<Position>) {
        let reader = self.reader(client, channel);
        if reader.anew {
            // One that the server made begins where it began.
            reader.came.clear();
        }
        if reader.anew && position.is_none() {
            reader.position = None;
        }
        match status {
            Status::Denied | Status::Left => {
                reader.position = None;
                reader.left = false;
            }
            Status::Ok => {
                assert!(position.is_some(), "client {client} {channel}: subscribed, and no position");
                assert!(
                    reader.position.is_none() || reader.position == position || reader.anew,
                    "client {client} {channel}: was at {:?}, goes on at {position:?} without a gap",
                    reader.position
                );
                reader.position = position;
                reader.anew = false;
            }
            Status::Gap | Status::Snapshot => {
                assert_eq!(reader.position, position, "client {client} {channel}: moved without G");
            }
        }
    }

    pub fn channel_gap(
        &mut self,
        client: usize,
        channel: usize,
        gap: &Gap,
        position: Option<Position>,
        now: Time,
        retention: Retention,
    ) {
        let reader = self.readers.entry((client, channel)).or_default();
        if std::mem::take(&mut reader.anew) {
            reader.position = None;
            reader.came.clear();
        }
        // Where a subscription of the server's began, the client need not know.
        let start =
            |epoch: &ShortId| Position { epoch: epoch.clone(), offset: gap.from - 1, message_id: ShortId::none() };
        let after = position.unwrap_or_else(|| panic!("client {client} {channel}: {gap:?} leads nowhere"));
        assert!(!reader.left, "client {client} {channel}: {gap:?} after it has left");
        let known = reader.position.is_some();
        let before = reader.position.take().unwrap_or_else(|| start(&after.epoch));
        match gap.why {
            Why::History | Why::Slow => {
                assert_eq!(gap.from, before.offset + 1, "client {client} {channel}: {gap:?}");
                assert_eq!((gap.to, &after.epoch), (Some(after.offset), &before.epoch), "{gap:?}");
                assert!(after.offset >= gap.from, "{gap:?}");
                let truth = &self.logs[&(channel, before.epoch)];
                let allowed = truth.rolled_back || truth.droppable(after.offset, now, retention, FRESH);
                assert!(allowed, "client {client} {channel}: {gap:?}, {} should be there", after.offset);
            }
            Why::Epoch => {
                assert_eq!((gap.from, gap.to), (before.offset + 1, None), "client {client} {channel}: {gap:?}");
                assert!(!known || before.epoch != after.epoch, "client {client} {channel}: {gap:?}");
                let truth = self.logs.entry((channel, after.epoch.clone())).or_default();
                let allowed = after.offset == 0 || truth.droppable(after.offset, now, retention, FRESH);
                assert!(allowed, "client {client} {channel}: {gap:?}, goes on behind {}", after.offset);
            }
            Why::Diverged => {
                assert_eq!((gap.from, gap.to), (1, Some(after.offset.max(1))), "client {client} {channel}: {gap:?}");
                let truth = &self.logs[&(channel, before.epoch)];
                assert!(truth.rolled_back, "client {client} {channel}: {gap:?} of a log that was not rolled back");
            }
            _ => panic!("client {client} {channel}: {gap:?}"),
        }
        reader.gap = true;
        reader.position = Some(after);
    }

    pub fn channel_message(&mut self, client: usize, channel: usize, position: &Position, text: &str) {
        let reader = self.readers.entry((client, channel)).or_default();
        let Some(before) = &reader.position else { panic!("client {client} {channel}: {text} of nothing") };
        assert!(!reader.left, "client {client} {channel}: {text} after it has left");
        assert_eq!(
            (&before.epoch, before.offset + 1),
            (&position.epoch, position.offset),
            "client {client} {channel}: in order, each once"
        );
        let sent = self.logs.get(&(channel, position.epoch.clone())).and_then(|log| log.sent.get(&position.offset));
        let known = sent
            .into_iter()
            .flatten()
            .any(|sent| sent.text == text && sent.message_id.as_ref() == Some(&position.message_id));
        assert!(known, "client {client} {channel}: {position:?} is {text}");
        assert!(reader.came.insert(text.into()), "client {client} {channel}: {text} came twice");
        reader.position = Some(position.clone());
        reader.gap = false;
    }

    pub fn snapshot(&mut self, client: usize, channel: usize, position: &Position, state: u64) {
        let reader = self.readers.entry((client, channel)).or_default();
        assert!(reader.gap && !reader.left, "client {client} {channel}: a snapshot without a gap");
        let Some(before) = &reader.position else { panic!("client {client} {channel}: a snapshot of nothing") };
        assert!(
            before.epoch == position.epoch && before.offset <= position.offset,
            "back from {before:?} to {position:?}"
        );
        let sent = self.logs.get(&(channel, position.epoch.clone())).and_then(|log| log.sent.get(&position.offset));
        let newest = sent.and_then(|sent| sent.last()).map_or(0, |sent| number(&sent.text));
        assert!(state >= newest, "client {client} {channel}: state {state} at {position:?}, which has {newest}");
        reader.gap = false;
        reader.position = Some(position.clone());
    }

    /// A client has died: it knows again what it had saved.
    pub fn client_died(&mut self, client: usize, saved: Option<(Key, u64)>, positions: &[Option<Position>]) {
        match saved {
            Some((session, sequence)) => {
                let stream = &mut self.streams[client];
                assert!(stream.session.as_ref() != Some(&session) || sequence <= stream.handled);
                let stale =
                    stream.stale.filter(|stale| *stale <= sequence && stream.session.as_ref() == Some(&session));
                *stream = Stream { session: Some(session), seen: sequence, handled: sequence, broken: false, stale };
            }
            None => self.streams[client] = Stream::default(),
        }
        for (channel, position) in positions.iter().enumerate() {
            self.readers.insert((client, channel), Reader { position: position.clone(), ..Reader::default() });
        }
    }

    /// Everything had the time that it needs.
    pub fn items_in_the_end(&self) {
        for (outbox, items) in self.outboxes.iter().filter(|(_, items)| !items.gone) {
            for (index, item) in items.items.iter().enumerate().filter(|(_, item)| item.accepted) {
                let q = index + 1;
                assert!(item.settled() || item.dropped, "{outbox} {q} is lost: {item:?}");
                let refused = item.refused && item.handled == 0 && !item.dropped;
                assert!(!refused || item.told == 1, "{outbox} {q} was refused and nobody knows: {item:?}");
            }
        }
    }
}

/// Each text begins with a number of its own.
pub fn number(text: &str) -> u64 {
    text.split_once(' ').map_or(text, |(number, _)| number).parse().unwrap_or_else(|_| panic!("{text}"))
}
