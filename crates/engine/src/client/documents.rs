//! Documents that a client follows: replicas, and what the application has to be told of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use lifeline_proto::client::State;
use lifeline_proto::outbox::Item as Kept;
use lifeline_proto::v1::document::replica::{Event as News, Policy, Replica, Resolution};
use lifeline_proto::v1::document::{CONFLICT, Edit, Json, Place};
use lifeline_proto::v1::wire::Status;
use lifeline_proto::v1::{ChannelName, ShortId};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::outbox::Refusal;
use super::{Client, Inner};
use crate::bridge::{
    CommandError, DocumentChange, DocumentConflict, DocumentEntry, DocumentInfo, Event, OverflowReason, Reply,
};
use crate::clock;

/// Begins an edit in the outbox: no text does.
const EDIT: u8 = 0xFF;
/// Edits do not expire before; a year.
const LIFE: std::time::Duration = std::time::Duration::from_secs(365 * 86_400);
/// Keys of which it is noted that they have changed; above it all are looked at.
const NOTED: usize = 4096;

/// All that one client follows.
#[derive(Debug, Default)]
pub struct Documents(BTreeMap<ChannelName, Followed>);

#[derive(Debug)]
struct Followed {
    replica: Replica<fn() -> ShortId>,
    /// What the application was told, or did itself.
    shown: BTreeMap<Box<str>, Json>,
    /// What may be another value than that; `None`: anything.
    changed: Option<BTreeSet<Box<str>>>,
    conflicts: Vec<DocumentConflict>,
    /// The application knows that there is something.
    told: bool,
}

/// What the outbox keeps of an edit.
fn marked(edit: &Edit) -> Bytes {
    let payload = edit.encode();
    let mut data = BytesMut::with_capacity(payload.len() + 1);
    data.put_u8(EDIT);
    data.extend_from_slice(&payload);
    data.freeze()
}

/// The payload of an item that is an edit.
pub fn payload(data: &Bytes, binary: bool) -> Option<Bytes> {
    (!binary && data.first() == Some(&EDIT)).then(|| data.slice(1..))
}

fn new_id() -> ShortId {
    ShortId::random(&mut StdRng::from_os_rng(), 16)
}

fn bytes(value: &Json) -> Bytes {
    Bytes::copy_from_slice(value.as_str().as_bytes())
}

impl Documents {
    pub fn handle_acknowledged(&mut self, sequence: u64) {
        self.0.values_mut().for_each(|followed| followed.replica.handle_acknowledged(sequence));
    }

    pub fn handle_delta(&mut self, channel: &ChannelName, data: &[u8]) {
        self.with(channel, |replica| replica.handle_delta(data));
    }

    pub fn handle_state(&mut self, channel: &ChannelName, place: Place, data: &[u8]) {
        self.with(channel, |replica| replica.handle_state(place, data));
    }

    pub fn handle_gap(&mut self, channel: &ChannelName) {
        self.with(channel, Replica::handle_gap);
    }

    pub fn handle_subscription(&mut self, channel: &ChannelName, status: Status) {
        self.with(channel, |replica| match status {
            Status::Ok => replica.handle_subscribed(false),
            Status::Gap | Status::Snapshot => replica.handle_subscribed(true),
            Status::Denied | Status::Left => replica.handle_left(),
        });
    }

    pub fn handle_replay_done(&mut self) {
        self.0.values_mut().for_each(|followed| followed.replica.handle_replay_done());
    }

    pub fn handle_lost(&mut self) {
        self.0.values_mut().for_each(|followed| followed.replica.handle_lost());
    }

    /// The server refused an edit. False: nobody here knows of it.
    pub fn handle_rejected(&mut self, payload: &[u8], code: i32, reason: &str) -> bool {
        self.settle(payload, |replica, id| replica.handle_rejected(id, code, reason))
    }

    /// As [`Documents::handle_rejected`], of one that the server has not seen.
    pub fn handle_dropped(&mut self, payload: &[u8], code: i32, reason: &str) -> bool {
        self.settle(payload, |replica, id| replica.handle_dropped(id, code, reason))
    }

    fn settle(&mut self, payload: &[u8], input: impl FnOnce(&mut Replica<fn() -> ShortId>, &ShortId)) -> bool {
        let Ok(edit) = Edit::decode(payload) else { return false };
        let Some(followed) = self.0.get_mut(&edit.channel) else { return false };
        let known = followed.replica.is_made_here(&edit.id);
        input(&mut followed.replica, &edit.id);
        known
    }

    /// An item that is to leave the outbox without a word.
    pub fn poll_obsolete(&mut self) -> Option<u64> {
        self.0.values_mut().find_map(|followed| followed.replica.poll_obsolete())
    }

    /// What is to be asked of the server.
    pub fn poll_verify(&mut self) -> Option<(ChannelName, Place)> {
        self.0.iter_mut().find_map(|(channel, followed)| Some((channel.clone(), followed.replica.poll_verify()?)))
    }

    /// A channel of which there is something to tell that the application does not know of.
    fn poll_news(&mut self) -> Option<ChannelName> {
        self.0.iter_mut().find_map(|(channel, followed)| {
            followed.note();
            let any = !followed.conflicts.is_empty() || followed.changed.as_ref().is_none_or(|keys| !keys.is_empty());
            (any && !std::mem::replace(&mut followed.told, true)).then(|| channel.clone())
        })
    }

    fn with(&mut self, channel: &ChannelName, input: impl FnOnce(&mut Replica<fn() -> ShortId>)) {
        if let Some(followed) = self.0.get_mut(channel) {
            input(&mut followed.replica);
        }
    }
}

impl Followed {
    /// Takes what the replica tells.
    fn note(&mut self) {
        while let Some(news) = self.replica.poll_event() {
            match news {
                News::Changed { key, .. } => {
                    if let Some(keys) = &mut self.changed {
                        keys.insert(key);
                        if keys.len() > NOTED {
                            self.changed = None;
                        }
                    }
                }
                News::Conflict(conflict) => self.conflicts.push(DocumentConflict {
                    asked: conflict.resolution == Resolution::Asked,
                    key: conflict.key,
                    mine: conflict.mine.as_ref().map(bytes),
                    version: conflict.theirs.as_ref().map_or(0, |(version, _)| *version),
                    theirs: conflict.theirs.map(|(_, value)| bytes(&value)),
                    code: CONFLICT,
                    reason: String::new(),
                }),
                News::Refused { key, value, code, reason } => self.conflicts.push(DocumentConflict {
                    asked: false,
                    mine: value.as_ref().map(bytes),
                    version: self.replica.version(&key),
                    theirs: self.replica.get(&key).map(bytes),
                    key,
                    code,
                    reason,
                }),
                News::Synced => {}
            }
        }
    }

    /// The application has the key's value now. False: it had.
    fn show(&mut self, key: &str) -> bool {
        let now = self.replica.get(key);
        if self.shown.get(key) == now {
            return false;
        }
        match now {
            Some(value) => self.shown.insert(key.into(), value.clone()),
            None => self.shown.remove(key),
        };
        true
    }
}

impl Client {
    /// Follows a channel's document. `asks`: the application decides on conflicts.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub fn open_document(&self, channel: &str, asks: bool) -> Result<(), CommandError> {
        self.subscribe(channel, true)?;
        let channel = ChannelName::new(channel).map_err(|error| CommandError::Invalid(error.to_string()))?;
        let policy = if asks { Policy::Ask } else { Policy::ServerWins };
        let now = clock::now();
        let mut inner = self.inner.lock();
        let Inner { documents, session, .. } = &mut *inner;
        let (is_live, is_there) = (session.rules.is_live(), session.rules.position(&channel).is_some());
        if let Some(followed) = documents.0.get_mut(&channel) {
            followed.replica.set_policy(policy);
        } else {
            let mut replica: Replica<fn() -> ShortId> = Replica::new(channel.clone(), policy, new_id);
            if is_live {
                replica.handle_replay_done();
                if is_there {
                    replica.handle_subscribed(false);
                }
            }
            let changed = Some(BTreeSet::new());
            let followed = Followed { replica, shown: BTreeMap::new(), changed, conflicts: Vec::new(), told: false };
            documents.0.insert(channel, followed);
        }
        self.tend_documents(&mut inner);
        if let Some(outlet) = inner.outlet.clone() {
            inner.transmit(now, &outlet);
            if let Some(core) = self.core.upgrade() {
                core.mark(&outlet);
            }
        }
        Ok(())
    }

    /// As the application sees it, with one entry or all; `None`: it is not followed.
    pub fn document(&self, channel: &str, key: Option<&str>) -> Option<DocumentInfo> {
        let channel = ChannelName::new(channel).ok()?;
        let inner = self.inner.lock();
        let replica = &inner.documents.0.get(&channel)?.replica;
        let entry = |key: &str, value: &Json| DocumentEntry {
            key: key.into(),
            version: replica.version(key),
            value: bytes(value),
        };
        let entries = match key {
            Some(key) => replica.get(key).map(|value| entry(key, value)).into_iter().collect(),
            None => replica.entries().into_iter().map(|(key, value)| entry(key, value)).collect(),
        };
        let edited = key.is_some_and(|key| replica.is_edited(key));
        Some(DocumentInfo { version: replica.place().version, edited, entries })
    }

    /// The application's edit; `on`, for a merge, which is told like a change of others: only if this is the key's confirmed
    /// version still and nothing else was edited on top of it, else `Reply::Flag`, false.
    ///
    /// # Errors
    /// As [`Client::send`]; a key or value that is none; a document that is not followed.
    pub fn edit(&self, channel: &str, key: &str, value: Option<&[u8]>, on: Option<u64>) -> Result<Reply, CommandError> {
        let channel = ChannelName::new(channel).map_err(|error| CommandError::Invalid(error.to_string()))?;
        let value = match value.map(std::str::from_utf8) {
            None => None,
            Some(Ok(text)) => Some(Json::new(text).map_err(CommandError::Invalid)?),
            Some(Err(_)) => return Err(CommandError::Invalid("the value is not valid UTF-8".into())),
        };
        let now = clock::now();
        let mut inner = self.inner.lock();
        if inner.machine.state() == State::Closed {
            return Err(CommandError::Gone("the client".into()));
        }
        if self.has_too_much_to_report() {
            return Ok(Reply::DispatchFirst);
        }
        let expired = inner.expired(now);
        self.report(&mut inner, OverflowReason::Expired, expired);
        let Inner { documents, outbox, .. } = &mut *inner;
        let Some(followed) = documents.0.get_mut(&channel) else {
            return Err(CommandError::Invalid(format!("document '{channel}' is not followed")));
        };
        let replica = &mut followed.replica;
        if on.is_some_and(|version| version != replica.version(key) || replica.is_edited(key)) {
            return Ok(Reply::Flag(false));
        }
        let made = if on.is_some() { replica.merge(key, value) } else { replica.edit(key, value) };
        let id = made.map_err(CommandError::Invalid)?;
        let Some(edit) = replica.poll_edit() else { return Ok(Reply::Flag(false)) };
        let data = marked(&edit);
        let length = data.len();
        let outcome = match outbox.push(now, data, false, Some(LIFE)) {
            Ok(outcome) => outcome,
            Err(refusal) => {
                replica.withdraw(&id);
                return match refusal {
                    Refusal::Wait => {
                        inner.wanting = Some(length);
                        Ok(Reply::WouldBlock)
                    }
                    Refusal::Error(error) => Err(error),
                };
            }
        };
        replica.handle_queued(&id, outcome.sequence);
        if on.is_none() {
            followed.show(key);
        }
        self.report(&mut inner, OverflowReason::Limit, outcome.evicted);
        if let Err(error) = self.accept(inner, now, length) {
            let mut inner = self.inner.lock();
            if let Some(followed) = inner.documents.0.get_mut(&channel) {
                followed.replica.withdraw(&id);
                followed.show(key);
            }
            return Err(error);
        }
        Ok(Reply::Sequence(outcome.sequence))
    }

    /// Conflicts and refusals since the last look, in order.
    pub fn take_conflicts(&self, channel: &str) -> Vec<DocumentConflict> {
        let mut inner = self.inner.lock();
        let Some(followed) = inner.documents.0.get_mut(channel) else { return Vec::new() };
        followed.told = false;
        followed.note();
        std::mem::take(&mut followed.conflicts)
    }

    /// What has become another value since the last look, by key.
    pub fn take_replica_changes(&self, channel: &str) -> Vec<DocumentChange> {
        let mut inner = self.inner.lock();
        let Some(followed) = inner.documents.0.get_mut(channel) else { return Vec::new() };
        followed.told = false;
        followed.note();
        let keys = followed.changed.replace(BTreeSet::new()).unwrap_or_else(|| {
            let seen = followed.replica.entries().into_keys().map(Box::from);
            seen.chain(followed.shown.keys().cloned()).collect()
        });
        let mut changes = Vec::new();
        for key in keys {
            if followed.show(&key) {
                let (value, version) = (followed.replica.get(&key).map(bytes), followed.replica.version(&key));
                changes.push(DocumentChange { key, value, version, by: None });
            }
        }
        changes
    }

    /// Takes out what cannot get through, asks the server what is to be asked, and tells the application that there is
    /// something.
    pub(super) fn tend_documents(&self, inner: &mut Inner) {
        while let Some(sequence) = inner.documents.poll_obsolete() {
            inner.outbox.handle_rejected(sequence, CONFLICT, "an edit of the key before it was not taken");
        }
        while let Some((channel, place)) = inner.documents.poll_verify() {
            inner.session.rules.verify(channel, place);
        }
        while let Some(channel) = inner.documents.poll_news() {
            self.emit(Event::DocumentChanged { endpoint: self.id, channel: channel.into() });
        }
    }
}

impl Inner {
    /// Tells replicas of edits among what will not be sent; what is left is for the application.
    pub(super) fn sort_out_edits(&mut self, why: OverflowReason, items: Vec<Kept>) -> Vec<Kept> {
        let mut rest = Vec::with_capacity(items.len());
        for mut item in items {
            if let Some(payload) = payload(&item.data, item.binary) {
                let reason = match why {
                    OverflowReason::Limit => "limit",
                    OverflowReason::Expired => "expired",
                    OverflowReason::Closed => "closed",
                };
                if why != OverflowReason::Closed && self.documents.handle_dropped(&payload, 0, reason) {
                    continue;
                }
                item.data = payload;
            }
            rest.push(item);
        }
        rest
    }
}
