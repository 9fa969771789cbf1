//! What a store's records say of a server, taken together.
//!
//! A record of a session, an outbox or a channel's place replaces the one before it; messages are added to what there
//! is. The log is cut anywhere by a crash, and where it is written anew, records come behind what happened meanwhile, or
//! twice: each says where it belongs.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;

use super::log::{FRESH, Published};
use super::ring::Message;
use super::server::Stored;
use super::session::SessionRecord;
use super::wire::Reject;
use super::{ChannelName, Key, Position, ShortId};
use crate::Time;

/// One record. `at` is the system's clock, in microseconds.
#[derive(Clone, Debug)]
pub enum Record {
    /// A session as it is now, and its owner.
    Session(Box<SessionRecord>, Option<Arc<str>>),
    SessionGone(Key),
    /// A server begins with what is before this.
    Began,
    /// See [`SessionRecord::known`]; of a session whose record is before this.
    Known(Key, u64),
    /// An outbox: newest generation, mark, refusals up to it.
    Inbox(Key, u64, u64, Vec<Reject>),
    /// Where a channel is, or was before what follows.
    Place(ChannelName, Position),
    /// What a session was sent, with its number.
    Message {
        session: Key,
        sequence: u64,
        at: u64,
        message: Message,
    },
    Published {
        channel: ChannelName,
        epoch: ShortId,
        offset: u64,
        at: u64,
        published: Published,
    },
}

/// What was found in a store. [`Found::take`] all records in order, then [`Found::finish`].
#[derive(Clone, Debug, Default)]
pub struct Found {
    sessions: BTreeMap<Key, (SessionRecord, Option<Arc<str>>)>,
    inboxes: BTreeMap<Key, (u64, u64, Vec<Reject>)>,
    streams: HashMap<Key, FoundStream>,
    channels: HashMap<ChannelName, FoundChannel>,
}

/// By number, with when it was sent.
type FoundStream = BTreeMap<u64, (u64, Message)>;

#[derive(Clone, Debug)]
struct FoundChannel {
    epoch: ShortId,
    /// Ids that are known from places, by offset.
    places: BTreeMap<u64, ShortId>,
    /// By offset, with when it was published.
    messages: BTreeMap<u64, (u64, Published)>,
}

impl Found {
    pub fn take(&mut self, record: Record) {
        match record {
            Record::Session(record, owner) => {
                let before = self.sessions.remove(&record.id);
                // A connection has had it since.
                let known = before.filter(|(before, _)| before.generation == record.generation);
                let known = known.and_then(|(before, _)| before.known);
                self.sessions.insert(record.id.clone(), (SessionRecord { known, ..*record }, owner));
            }
            Record::Began => {
                for (key, (record, _)) in &mut self.sessions {
                    let next = record.next.max(last(self.streams.get(key)) + 1);
                    record.known.get_or_insert(next);
                }
            }
            Record::Known(key, number) => {
                if let Some((record, _)) = self.sessions.get_mut(&key) {
                    record.known = Some(number);
                }
            }
            Record::SessionGone(key) => {
                self.sessions.remove(&key);
                self.streams.remove(&key);
            }
            Record::Inbox(key, generation, handled, rejected) => {
                self.inboxes.insert(key, (generation, handled, rejected));
            }
            Record::Place(channel, Position { epoch, offset, message_id }) => {
                self.channel(channel, epoch).places.insert(offset, message_id);
            }
            Record::Message { session, sequence, at, message } => {
                self.streams.entry(session).or_default().insert(sequence, (at, message));
            }
            Record::Published { channel, epoch, offset, at, published } => {
                self.channel(channel, epoch).messages.insert(offset, (at, published));
            }
        }
    }

    fn channel(&mut self, name: ChannelName, epoch: ShortId) -> &mut FoundChannel {
        let fresh = FoundChannel { epoch, places: BTreeMap::new(), messages: BTreeMap::new() };
        match self.channels.entry(name) {
            Slot::Occupied(entry) => {
                let found = entry.into_mut();
                if found.epoch != fresh.epoch {
                    *found = fresh;
                }
                found
            }
            Slot::Vacant(entry) => entry.insert(fresh),
        }
    }

    /// What a server begins with. `origin` is what the system's clock shows at [`Time::ZERO`], in microseconds; messages
    /// that are older than `age` are left out.
    #[must_use]
    pub fn finish(self, now: Time, origin: u64, age: Duration) -> Stored {
        let wall = origin.saturating_add(now.as_micros());
        let is_old = |at: u64, age: Duration| u128::from(wall.saturating_sub(at)) >= age.as_micros();
        // No later than now, whatever was done to the system's clock. A process that has just begun has no time for
        // when they were sent: they live up to `age` from its beginning.
        let time = |at: u64| Time::from_micros(at.saturating_sub(origin).min(now.as_micros()));
        let mut stored = Stored::default();
        let Self { sessions, inboxes, mut streams, channels } = self;
        for (key, (mut record, owner)) in sessions {
            if let Some(messages) = streams.remove(&key) {
                record.next = record.next.max(last(Some(&messages)) + 1);
                let kept = unbroken(messages, record.next - 1, |at| is_old(at, age));
                let kept = kept.into_iter().map(|(at, message)| Message { at: time(at), ..message });
                stored.streams.insert(key, kept.collect());
            }
            stored.sessions.push((record, owner));
        }
        let inboxes =
            inboxes.into_iter().map(|(key, (generation, handled, rejected))| (key, generation, handled, rejected));
        stored.inboxes = inboxes.collect();
        for (name, FoundChannel { epoch, places, messages }) in channels {
            let top = last(Some(&places)).max(last(Some(&messages)));
            let ids: BTreeMap<_, _> =
                messages.iter().map(|(offset, (_, message))| (*offset, message.message_id.clone())).collect();
            let kept: Vec<_> = unbroken(messages, top, |at| is_old(at, age.max(FRESH)))
                .into_iter()
                .map(|(at, message)| Published { at: time(at), ..message })
                .collect();
            let offset = top - kept.len() as u64;
            // Nobody's, where it is not known.
            let message_id = ids.get(&offset).or_else(|| places.get(&offset)).cloned().unwrap_or_else(ShortId::none);
            stored.channels.push((name.clone(), Position { epoch, offset, message_id }));
            stored.published.insert(name, kept);
        }
        stored
    }
}

fn last<T>(messages: Option<&BTreeMap<u64, T>>) -> u64 {
    messages.and_then(BTreeMap::last_key_value).map_or(0, |(last, _)| *last)
}

/// Those between a hole and the last number, without the first ones that are old.
fn unbroken<T>(mut messages: BTreeMap<u64, (u64, T)>, last: u64, is_old: impl Fn(u64) -> bool) -> VecDeque<(u64, T)> {
    let mut kept: VecDeque<_> = (1..=last).rev().map_while(|number| messages.remove(&number)).collect();
    while kept.back().is_some_and(|(at, _)| is_old(*at)) {
        kept.pop_back();
    }
    kept.make_contiguous().reverse();
    kept
}
