//! What a client has of a document: the state that the server confirmed, and its own edits on top.
//!
//! The driver feeds in what the frames say and takes, after each input, [`Replica::poll_event`],
//! [`Replica::poll_edit`] (into the outbox, then [`Replica::handle_queued`]), [`Replica::poll_obsolete`] (out of it)
//! and [`Replica::poll_verify`] (a `V`). Refusals go in before the acknowledgement that covers them, as they come.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{CONFLICT, Condition, Delta, Digest, Edit, Json, Place, check_key, decode_snapshot};
use crate::v1::{ChannelName, ShortId};

/// What becomes of an edit that is in conflict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The edit is dropped.
    #[default]
    ServerWins,
    /// It is made again on top of the server's value, [`MAX_ATTEMPTS`] times in a row.
    ClientWins,
    /// The application says, by [`Replica::merge`], [`MAX_ATTEMPTS`] times in a row.
    Ask,
}

/// Conflicts of one key in a row after which the server wins.
pub const MAX_ATTEMPTS: u32 = 5;

/// What the application is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key has another value, or has come or gone: see [`Replica::get`].
    Changed {
        key: Box<str>,
        /// By an edit of this replica's.
        local: bool,
    },
    Conflict(Conflict),
    /// The server, or the outbox, did not take an edit.
    Refused {
        key: Box<str>,
        value: Option<Json>,
        code: i32,
        reason: String,
    },
    /// This is the server's state: told once a connection.
    Synced,
}

/// An edit, or several of one key in a row, that met a change which this replica had not seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub key: Box<str>,
    /// What the newest of them set; `None`: the key was to go.
    pub mine: Option<Json>,
    /// The server's version and value; `None`: the key does not exist.
    pub theirs: Option<(u64, Json)>,
    /// Counts from 1 for each key, until an edit of it gets through.
    pub attempt: u32,
    pub resolution: Resolution,
}

/// See [`Conflict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The edit was made again.
    Client,
    /// The server's value holds.
    Server,
    /// The server's value holds, unless the application calls [`Replica::merge`] now.
    Asked,
}

/// See the module's documentation.
pub struct Replica<F> {
    channel: ChannelName,
    policy: Policy,
    ids: F,
    place: Place,
    confirmed: BTreeMap<Box<str>, (u64, Json)>,
    /// Own edits of which it is not known that the confirmed state has them; the oldest first.
    pending: Vec<Pending>,
    /// Edits that cannot get through, as one before them did not, and are in the outbox still: that they are refused
    /// is no news.
    doomed: BTreeMap<ShortId, Option<u64>>,
    /// Conflicts in a row.
    attempts: BTreeMap<Box<str>, u32>,
    /// The replay is over.
    ready: bool,
    subscribed: bool,
    /// A `V` is to be sent ...
    wanted: bool,
    /// ... and one is under way.
    asking: bool,
    /// Told on this connection.
    synced: bool,
    /// The state is not what it should be.
    suspect: bool,
    /// The last delta that came since the last `V` went out.
    newest: Option<(ShortId, u64)>,
    /// `V`s sent, and answered.
    asked: u64,
    answered: u64,
    edits: VecDeque<Edit>,
    events: VecDeque<Event>,
}

impl<F> std::fmt::Debug for Replica<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { channel, place, pending, .. } = self;
        f.debug_struct("Replica").field("channel", channel).field("place", place).field("pending", pending).finish()
    }
}

#[derive(Debug)]
struct Pending {
    id: ShortId,
    key: Box<str>,
    value: Option<Json>,
    /// In the outbox, once it is there.
    sequence: Option<u64>,
    /// `V`s that were answered when it was made.
    born: u64,
    /// The server has applied it; how many `V`s were sent then.
    applied: Option<u64>,
    /// It was in conflict at this version, and how many `V`s were sent then.
    refused: Option<(ShortId, u64, u64)>,
}

impl<F: FnMut() -> ShortId> Replica<F> {
    /// Knows nothing yet. `ids` makes those of operations: no other client may ever make the same.
    #[must_use]
    pub fn new(channel: ChannelName, policy: Policy, ids: F) -> Self {
        Self {
            channel,
            policy,
            ids,
            place: Place::none(),
            confirmed: BTreeMap::new(),
            pending: Vec::new(),
            doomed: BTreeMap::new(),
            attempts: BTreeMap::new(),
            ready: false,
            subscribed: false,
            wanted: false,
            asking: false,
            synced: false,
            suspect: false,
            newest: None,
            asked: 0,
            answered: 0,
            edits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// An edit that an earlier process left in the outbox; in their order, before anything else.
    pub fn restore(&mut self, edit: Edit, sequence: u64) {
        let Edit { key, value, id, .. } = edit;
        self.touch(&key.clone(), true, |replica| {
            replica.pending.push(Pending {
                id,
                key,
                value,
                sequence: Some(sequence),
                born: 0,
                applied: None,
                refused: None,
            });
        });
    }

    /// The application sets a key, or deletes it: visible at once, and [`Replica::poll_edit`] has an edit that
    /// holds only if the server has nothing newer than what this replica has.
    ///
    /// # Errors
    /// The key is none.
    pub fn edit(&mut self, key: &str, value: Option<Json>) -> Result<ShortId, String> {
        check_key(key)?;
        self.attempts.remove(key);
        Ok(self.make(key, value, true))
    }

    /// As [`Replica::edit`], in answer to a conflict.
    ///
    /// # Errors
    /// The key is none.
    pub fn merge(&mut self, key: &str, value: Option<Json>) -> Result<ShortId, String> {
        check_key(key)?;
        Ok(self.make(key, value, true))
    }

    /// The edit is in the outbox.
    pub fn handle_queued(&mut self, id: &ShortId, sequence: u64) {
        if let Some(edit) = self.pending.iter_mut().find(|edit| edit.id == *id) {
            edit.sequence = Some(sequence);
        } else if let Some(item) = self.doomed.get_mut(id) {
            *item = Some(sequence);
        }
    }

    /// The outbox did not take the edit: as if it had not been made.
    pub fn withdraw(&mut self, id: &ShortId) {
        self.doomed.remove(id);
        if let Some(index) = self.pending.iter().position(|edit| edit.id == *id) {
            let key = self.pending[index].key.clone();
            self.touch(&key, true, |replica| drop(replica.pending.remove(index)));
        }
    }

    /// K: the subscription is there; `missed`: with a gap.
    pub fn handle_subscribed(&mut self, missed: bool) {
        self.wanted |= missed || !self.subscribed;
        self.subscribed = true;
    }

    /// K: it has ended, or was denied.
    pub fn handle_left(&mut self) {
        self.subscribed = false;
        self.asking = false;
    }

    /// R: what was missed has come.
    pub fn handle_replay_done(&mut self) {
        self.ready = true;
        self.wanted = true;
    }

    /// G for the channel.
    pub fn handle_gap(&mut self) {
        self.wanted = true;
    }

    /// The connection has ended.
    pub fn handle_lost(&mut self) {
        self.ready = false;
        self.subscribed = false;
        self.wanted = false;
        self.asking = false;
        self.synced = false;
        self.newest = None;
    }

    /// C with `d=1`.
    pub fn handle_delta(&mut self, payload: &[u8]) {
        let Ok(delta) = Delta::decode(payload) else {
            self.suspect = true;
            self.wanted = true;
            return;
        };
        self.newest = Some((delta.epoch.clone(), delta.version));
        if delta.epoch != self.place.epoch && delta.version == 1 {
            // Another document, from its beginning.
            self.replace(Place { epoch: delta.epoch.clone(), ..Place::none() }, BTreeMap::new());
        }
        let own = delta.id.as_ref().and_then(|id| self.pending.iter().position(|edit| edit.id == *id));
        let next = delta.epoch == self.place.epoch && delta.version == self.place.version + 1;
        let known = delta.epoch == self.place.epoch && delta.version <= self.place.version;
        if !next && !known {
            // It stays on top until the state has it.
            self.wanted = true;
            if let Some(index) = own {
                let asked = self.asked;
                self.pending[index].applied.get_or_insert(asked);
            }
            return;
        }
        let key = delta.key.clone();
        self.touch(&key, false, |replica| {
            if let Some(index) = own {
                let done = replica.pending.remove(index);
                replica.attempts.remove(&done.key);
            }
            if next {
                replica.apply(delta);
            }
        });
        self.resolve_reached();
    }

    /// V from the server.
    pub fn handle_state(&mut self, place: Place, snapshot: &[u8]) {
        let asked = std::mem::replace(&mut self.asking, false);
        self.answered = self.asked;
        if place.epoch == ShortId::none() {
            // There is no document; the server tells when there is one.
            self.wanted |= asked && self.newest.is_some();
            self.resolve_reached();
            return;
        }
        let older = place.epoch == self.place.epoch && place.version < self.place.version && !self.suspect;
        if !snapshot.is_empty() && !older {
            let Ok(entries) = decode_snapshot(snapshot) else {
                self.wanted = true;
                return;
            };
            self.replace(place, entries);
        }
        self.suspect = false;
        // Of what was applied before the question, the answer knows.
        let number = self.asked;
        while let Some(index) = self.pending.iter().position(|edit| edit.applied.is_some_and(|asked| asked < number)) {
            let key = self.pending[index].key.clone();
            self.touch(&key, false, |replica| {
                let done = replica.pending.remove(index);
                replica.attempts.remove(&done.key);
            });
        }
        if let Some((epoch, version)) = &self.newest
            && (*epoch != self.place.epoch || *version > self.place.version)
        {
            // It overtook the answer.
            self.wanted = true;
        } else if !std::mem::replace(&mut self.synced, true) {
            self.events.push_back(Event::Synced);
        }
        self.resolve_reached();
    }

    /// N: the server refused the edit for good.
    pub fn handle_rejected(&mut self, id: &ShortId, code: i32, reason: &str) {
        let sequence = self.pending.iter().find(|edit| edit.id == *id).and_then(|edit| edit.sequence);
        if let Some(sequence) = sequence {
            // Those before it were not refused.
            self.mark_applied(sequence - 1);
        }
        let place = (code == CONFLICT).then(|| reason.split_once(' ')).flatten();
        let place = place.and_then(|(epoch, version)| Some((ShortId::new(epoch).ok()?, version.parse().ok()?)));
        let Some((epoch, version)) = place else { return self.handle_dropped(id, code, reason) };
        self.doomed.remove(id);
        if let Some(edit) = self.pending.iter_mut().find(|edit| edit.id == *id) {
            edit.refused = Some((epoch, version, self.asked));
            self.resolve_reached();
        }
    }

    /// The edit will not be sent, e.g. as its time was over, or is not worth another try.
    pub fn handle_dropped(&mut self, id: &ShortId, code: i32, reason: &str) {
        self.doomed.remove(id);
        let Some(index) = self.pending.iter().position(|edit| edit.id == *id) else { return };
        let key = self.pending[index].key.clone();
        self.touch(&key, false, |replica| {
            let value = replica.drop_chain(index);
            replica.events.push_back(Event::Refused { key: key.clone(), value, code, reason: reason.into() });
        });
    }

    /// A: the outbox is settled up to `sequence`.
    pub fn handle_acknowledged(&mut self, sequence: u64) {
        self.mark_applied(sequence);
    }

    /// The value as the application sees it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self.pending.iter().rev().find(|edit| *edit.key == *key) {
            Some(edit) => edit.value.as_ref(),
            None => self.confirmed.get(key).map(|(_, value)| value),
        }
    }

    /// All that the application sees.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<&str, &Json> {
        let keys: BTreeSet<&str> =
            self.confirmed.keys().map(|key| &**key).chain(self.pending.iter().map(|edit| &*edit.key)).collect();
        keys.into_iter().filter_map(|key| Some((key, self.get(key)?))).collect()
    }

    /// The version that the server confirmed last of the key; 0: it does not exist.
    #[must_use]
    pub fn version(&self, key: &str) -> u64 {
        self.confirmed.get(key).map_or(0, |(version, _)| *version)
    }

    /// Which state of the server's it has.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What the server confirmed.
    #[must_use]
    pub fn confirmed(&self) -> &BTreeMap<Box<str>, (u64, Json)> {
        &self.confirmed
    }

    /// The server's state is known, and nothing newer is known to be missing.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced && !self.is_state_due() && !self.asking
    }

    /// Own edits of which it is not known that the confirmed state has them.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether the edit is one of this replica's whose fate it does not know, so that its refusal goes to
    /// [`Replica::handle_rejected`] and to nobody else.
    #[must_use]
    pub fn is_made_here(&self, id: &ShortId) -> bool {
        self.has_pending(id) || self.doomed.contains_key(id)
    }

    /// An own edit of the key is on top of the confirmed state.
    #[must_use]
    pub fn is_edited(&self, key: &str) -> bool {
        self.pending.iter().any(|edit| *edit.key == *key)
    }

    #[must_use]
    pub fn has_pending(&self, id: &ShortId) -> bool {
        self.pending.iter().any(|edit| edit.id == *id)
    }

    /// The next edit for the outbox: then [`Replica::handle_queued`] or [`Replica::withdraw`].
    pub fn poll_edit(&mut self) -> Option<Edit> {
        self.edits.pop_front()
    }

    /// An item to take out of the outbox, of which nothing is to be told: the edit cannot get through, and what it is
    /// part of is told. A later process must not find it and tell it again.
    pub fn poll_obsolete(&mut self) -> Option<u64> {
        let (id, sequence) = self.doomed.iter().find_map(|(id, item)| Some((id.clone(), (*item)?)))?;
        self.doomed.remove(&id);
        Some(sequence)
    }

    /// A `V` to send.
    pub fn poll_verify(&mut self) -> Option<Place> {
        if !(self.ready && self.subscribed && self.is_state_due()) || self.asking {
            return None;
        }
        self.wanted = false;
        self.asking = true;
        self.asked += 1;
        self.newest = None;
        Some(if self.suspect { Place::none() } else { self.place.clone() })
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn is_state_due(&self) -> bool {
        // A conflict with an epoch that is no more, or not known yet, is not reached by deltas.
        let strays = |edit: &Pending| {
            edit.refused.as_ref().is_some_and(|(epoch, _, asked)| *epoch != self.place.epoch && *asked == self.asked)
        };
        self.wanted || self.pending.iter().any(strays)
    }

    fn make(&mut self, key: &str, value: Option<Json>, local: bool) -> ShortId {
        let id = (self.ids)();
        let condition = match (self.pending.iter().rev().find(|edit| *edit.key == *key), self.confirmed.get(key)) {
            (Some(edit), _) => Condition::After(edit.id.clone()),
            (None, Some((version, _))) => Condition::Version(self.place.epoch.clone(), *version),
            (None, None) => Condition::Absent,
        };
        let (born, channel) = (self.answered, self.channel.clone());
        self.touch(key, local, |replica| {
            let (id, key, value) = (id.clone(), Box::from(key), value.clone());
            replica.pending.push(Pending { id, key, value, sequence: None, born, applied: None, refused: None });
        });
        self.edits.push_back(Edit { channel, key: key.into(), value, id: id.clone(), condition });
        id
    }

    /// Changes something of a key, and tells whether its value is another one then.
    fn touch(&mut self, key: &str, local: bool, change: impl FnOnce(&mut Self)) {
        let before = self.get(key).cloned();
        change(self);
        if self.get(key) != before.as_ref() {
            self.events.push_back(Event::Changed { key: key.into(), local });
        }
    }

    fn apply(&mut self, delta: Delta) {
        let Delta { version, key, value, digest, .. } = delta;
        let mut sum = self.place.digest;
        if let Some((version, _)) = self.confirmed.remove(&key) {
            sum = sum.minus(Digest::of(&key, version));
        }
        if let Some(value) = value {
            sum = sum.plus(Digest::of(&key, version));
            self.confirmed.insert(key, (version, value));
        }
        self.place.version = version;
        self.place.digest = sum;
        if sum != digest {
            self.suspect = true;
            self.wanted = true;
        }
    }

    fn replace(&mut self, place: Place, entries: BTreeMap<Box<str>, (u64, Json)>) {
        let sum = Digest::sum(entries.iter().map(|(key, (version, _))| (&**key, *version)));
        let keys: BTreeSet<Box<str>> = self.confirmed.keys().chain(entries.keys()).cloned().collect();
        let before: Vec<_> = keys.into_iter().map(|key| (self.get(&key).cloned(), key)).collect();
        self.place = Place { digest: sum, ..place };
        self.confirmed = entries;
        for (value, key) in before {
            if self.get(&key) != value.as_ref() {
                self.events.push_back(Event::Changed { key, local: false });
            }
        }
    }

    /// Of those up to `sequence` the server has applied what it did not refuse.
    fn mark_applied(&mut self, sequence: u64) {
        let asked = self.asked;
        for edit in &mut self.pending {
            if edit.refused.is_none() && edit.sequence.is_some_and(|item| item <= sequence) && edit.applied.is_none() {
                edit.applied = Some(asked);
                // The answer that came meanwhile may have it, and then no delta follows.
                self.wanted |= self.answered > edit.born;
            }
        }
    }

    /// Conflicts whose cause is now known.
    fn resolve_reached(&mut self) {
        let reached = |edit: &Pending, place: &Place, answered: u64| {
            edit.refused.as_ref().is_some_and(|(epoch, version, asked)| {
                answered > *asked || (*epoch == place.epoch && *version <= place.version)
            })
        };
        while let Some(index) = self.pending.iter().position(|edit| reached(edit, &self.place, self.answered)) {
            self.resolve(index);
        }
    }

    fn resolve(&mut self, index: usize) {
        let key = self.pending[index].key.clone();
        let attempt = self.attempts.get(&key).copied().unwrap_or(0) + 1;
        self.touch(&key.clone(), false, |replica| {
            let mine = replica.drop_chain(index);
            let theirs = replica.confirmed.get(&key).cloned();
            let resolution = match replica.policy {
                Policy::ClientWins if attempt <= MAX_ATTEMPTS => Resolution::Client,
                Policy::Ask if attempt <= MAX_ATTEMPTS => Resolution::Asked,
                _ => Resolution::Server,
            };
            if resolution == Resolution::Server {
                replica.attempts.remove(&key);
            } else {
                replica.attempts.insert(key.clone(), attempt);
            }
            let conflict = Conflict { key: key.clone(), mine: mine.clone(), theirs, attempt, resolution };
            replica.events.push_back(Event::Conflict(conflict));
            if resolution == Resolution::Client {
                replica.make(&key, mine, false);
            }
        });
    }

    /// Takes an edit out, which has left the outbox, and those of its key behind it; returns what the last of them set.
    fn drop_chain(&mut self, index: usize) -> Option<Json> {
        let mut last = self.pending.remove(index);
        let key = last.key.clone();
        while let Some(next) = (index..self.pending.len()).find(|at| self.pending[*at].key == key) {
            last = self.pending.remove(next);
            match self.edits.iter().position(|edit| edit.id == last.id) {
                Some(at) => drop(self.edits.remove(at)),
                None => drop(self.doomed.insert(last.id.clone(), last.sequence)),
            }
        }
        last.value
    }
}

#[cfg(test)]
mod tests;
