//! A server's documents: who edits them, and who is told.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use foldhash::HashMap;
use rand::RngCore;
use serde::{Deserialize, Serialize};

use super::{Link, LinkId, Output, Server};
use crate::Time;
use crate::v1::document::{Bounds, Delta, Document, Edit, FORBIDDEN, Json, MALFORMED, NO_DOCUMENT, Place, Refusal};
use crate::v1::inbox::{Delivery, DeliveryId, Start, Verdict};
use crate::v1::session::Outgoing;
use crate::v1::wire::ServerFrame;
use crate::v1::{ChannelName, Key, ShortId};

/// Which clients may edit a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// Subscribed ones, as far as the application allows each edit: [`Output::Edit`].
    Ask,
    Nobody,
    /// All that are subscribed to its channel.
    #[default]
    Subscribers,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Documents {
    all: HashMap<ChannelName, (Document, Write)>,
    /// Who wants to know of a state, and which one it has.
    asked: HashMap<LinkId, BTreeMap<ChannelName, Place>>,
    /// Edits of channels that the application decides on.
    waiting: HashMap<LinkId, Vec<(ChannelName, Key, Delivery)>>,
    /// Edits to be looked at.
    queue: VecDeque<(LinkId, Key, Delivery)>,
    /// They are being looked at.
    running: bool,
}

impl Documents {
    pub(super) fn forget_link(&mut self, link: LinkId) {
        self.asked.remove(&link);
        // They come again.
        self.waiting.remove(&link);
    }

    pub(super) fn queue(&mut self, link: LinkId, outbox: &Key, delivery: Delivery) {
        self.queue.push_back((link, outbox.clone(), delivery));
    }

    pub(super) fn bytes(&self) -> usize {
        self.all.values().map(|(document, _)| super::SESSION_COST + document.bytes()).sum()
    }
}

impl<R: RngCore> Server<R> {
    /// Opens the channel's document, an empty one, or sets the rules of the one that there is. False: there
    /// are as many as there may be channels.
    pub fn open_document(&mut self, channel: &ChannelName, bounds: Bounds, write: Write) -> bool {
        if let Some((document, rule)) = self.documents.all.get_mut(channel) {
            document.set_bounds(bounds);
            *rule = write;
            return true;
        }
        if self.documents.all.len() >= self.config.max_channels {
            return false;
        }
        let epoch = ShortId::random(&mut self.random, 8);
        self.documents.all.insert(channel.clone(), (Document::new(epoch, bounds), write));
        // Those who asked for it too early.
        let links = self.readers.get(channel).into_iter().flatten().filter_map(|key| self.sessions.get(key)?.link);
        for link in links.collect::<Vec<_>>() {
            self.documents.asked.entry(link).or_default().insert(channel.clone(), Place::none());
            self.dirty.insert(link);
        }
        true
    }

    #[must_use]
    pub fn document(&self, channel: &ChannelName) -> Option<&Document> {
        self.documents.all.get(channel).map(|(document, _)| document)
    }

    /// The application's own change; `None`: there is no such document.
    pub fn change_document(
        &mut self,
        now: Time,
        channel: &ChannelName,
        key: &str,
        value: Option<Json>,
        if_version: Option<u64>,
    ) -> Option<Result<u64, Refusal>> {
        let (document, _) = self.documents.all.get_mut(channel)?;
        let created = document.entry(key).is_none();
        let delta = match document.set(key, value, if_version) {
            Ok(delta) => delta,
            Err(refusal) => return Some(Err(refusal)),
        };
        let version = delta.version;
        self.publish_delta(now, channel, &delta, created, None);
        Some(Ok(version))
    }

    /// The application's answer to [`Output::Edit`], after [`Server::handle_start`].
    pub fn handle_edit_decided(&mut self, now: Time, outbox: &Key, id: DeliveryId, data: &[u8], allowed: bool) {
        let by = self.inboxes.get(outbox).map(|shared| shared.link);
        match (Edit::decode(data), by) {
            (Ok(edit), Some(by)) if allowed => self.apply_edit(now, by, outbox, id, &edit),
            _ => self.refuse_edit(now, outbox, id, FORBIDDEN, "not allowed"),
        }
    }

    /// The client tells which state it has.
    pub(super) fn verify(&mut self, link: LinkId, channel: ChannelName, place: Place) {
        let Some(Link::Open(open)) = self.links.get(&link) else { return };
        let subscribed = self.sessions.get(&open.session).is_some_and(|owned| owned.session.is_subscribed(&channel));
        if subscribed || open.asking.contains(&channel) {
            self.documents.asked.entry(link).or_default().insert(channel, place);
        }
    }

    /// The next answer to a `V`.
    pub(super) fn poll_state(&mut self, link: LinkId) -> Option<Outgoing> {
        let asked = self.documents.asked.get_mut(&link)?;
        let Some(Link::Open(open)) = self.links.get(&link) else { return None };
        let session = &self.sessions.get(&open.session)?.session;
        if session.control_len() > 0 {
            return None;
        }
        asked.retain(|channel, _| open.asking.contains(channel) || session.is_subscribed(channel));
        let channel = asked.keys().find(|channel| !open.asking.contains(*channel)).cloned();
        let found = channel.and_then(|channel| asked.remove_entry(&channel));
        if asked.is_empty() {
            self.documents.asked.remove(&link);
        }
        let (channel, claim) = found?;
        let (place, data) = match self.documents.all.get(&channel) {
            Some((document, _)) => document.answer(&claim),
            None => (Place::none(), Bytes::new()),
        };
        Some(Outgoing::Frame(ServerFrame::State { channel, place, data }))
    }

    /// The application has decided on a channel, or the client has left it.
    pub(super) fn release_edits(&mut self, now: Time, link: LinkId, channel: &ChannelName) {
        let Some(waiting) = self.documents.waiting.get_mut(&link) else { return };
        let (released, kept) = std::mem::take(waiting).into_iter().partition(|(name, ..)| name == channel);
        *waiting = kept;
        let released: Vec<_> = released;
        for (_, outbox, delivery) in released {
            self.documents.queue(link, &outbox, delivery);
        }
        self.run_edits(now);
    }

    /// Looks at the edits that have come.
    pub(super) fn run_edits(&mut self, now: Time) {
        if self.documents.queue.is_empty() || std::mem::replace(&mut self.documents.running, true) {
            return;
        }
        while let Some((link, outbox, delivery)) = self.documents.queue.pop_front() {
            self.look_at_edit(now, link, &outbox, delivery);
        }
        self.documents.running = false;
    }

    fn look_at_edit(&mut self, now: Time, link: LinkId, outbox: &Key, delivery: Delivery) {
        // Without its connection nobody knows who edits: it comes again.
        let Some(Link::Open(open)) = self.links.get(&link) else { return };
        let edit = match Edit::decode(&delivery.data) {
            Ok(edit) => edit,
            Err(reason) => return self.begin_and_refuse(now, outbox, delivery.id, MALFORMED, &reason),
        };
        if open.asking.contains(&edit.channel) {
            self.documents.waiting.entry(link).or_default().push((edit.channel, outbox.clone(), delivery));
            return;
        }
        let subscribed =
            self.sessions.get(&open.session).is_some_and(|owned| owned.session.is_subscribed(&edit.channel));
        let write = self.documents.all.get(&edit.channel).map(|(_, write)| *write);
        match write {
            _ if !subscribed => {
                self.begin_and_refuse(now, outbox, delivery.id, FORBIDDEN, "not subscribed to the document's channel");
            }
            None => self.begin_and_refuse(now, outbox, delivery.id, NO_DOCUMENT, "there is no such document"),
            Some(Write::Nobody) => {
                self.begin_and_refuse(now, outbox, delivery.id, FORBIDDEN, "clients may not edit the document");
            }
            Some(Write::Ask) => {
                self.outputs.push_back(Output::Edit { link, outbox: outbox.clone(), delivery, edit: Box::new(edit) });
            }
            Some(Write::Subscribers) => {
                if self.begin(outbox, delivery.id) {
                    self.apply_edit(now, link, outbox, delivery.id, &edit);
                    self.acknowledge_soon(link);
                }
            }
        }
    }

    fn begin(&mut self, outbox: &Key, id: DeliveryId) -> bool {
        matches!(self.handle_start(outbox, id), Start::Attempt(_))
    }

    fn begin_and_refuse(&mut self, now: Time, outbox: &Key, id: DeliveryId, code: i32, reason: &str) {
        if self.begin(outbox, id) {
            self.refuse_edit(now, outbox, id, code, reason);
            if let Some(link) = self.inboxes.get(outbox).map(|shared| shared.link) {
                self.acknowledge_soon(link);
            }
        }
    }

    /// No application whose batch ends has a part in it.
    fn acknowledge_soon(&mut self, link: LinkId) {
        if let Some(key) = self.links.get(&link).and_then(Link::session)
            && let Some(owned) = self.sessions.get_mut(key)
        {
            owned.session.handle_batch_end();
            self.dirty.insert(link);
        }
    }

    fn apply_edit(&mut self, now: Time, by: LinkId, outbox: &Key, id: DeliveryId, edit: &Edit) {
        let Some((document, _)) = self.documents.all.get_mut(&edit.channel) else {
            return self.refuse_edit(now, outbox, id, NO_DOCUMENT, "there is no such document");
        };
        let created = document.entry(&edit.key).is_none();
        match document.apply(edit) {
            Ok(delta) => {
                if let Some(delta) = delta {
                    self.publish_delta(now, &edit.channel, &delta, created, Some(by));
                }
                self.handle_done(now, outbox, id);
            }
            Err(refusal) => self.refuse_edit(now, outbox, id, refusal.code(), &refusal.reason()),
        }
    }

    fn refuse_edit(&mut self, now: Time, outbox: &Key, id: DeliveryId, code: i32, reason: &str) {
        let Some(shared) = self.inboxes.get_mut(outbox) else { return };
        let verdict: Verdict = shared.inbox.handle_rejected(id, code, reason.into(), true);
        self.carry_out(now, outbox, id, verdict);
    }

    fn publish_delta(&mut self, now: Time, channel: &ChannelName, delta: &Delta, created: bool, by: Option<LinkId>) {
        let data = delta.encode();
        let id = ShortId::random(&mut self.random, 11);
        let place = self.next_place();
        // Without a log nobody has a place in it.
        if let Some(log) = self.logs.get_mut(channel) {
            let position = log.append_delta(now, id, &data, place);
            self.note_published(channel, position.offset);
            self.tell_readers(channel);
        }
        self.outputs.push_back(Output::Edited { channel: channel.clone(), key: delta.key.clone(), created, data, by });
    }
}
