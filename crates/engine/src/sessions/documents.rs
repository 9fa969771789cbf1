//! Documents of a server: what the application asks of them, and who is told of a change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use lifeline_proto::v1::ChannelName;
use lifeline_proto::v1::document::{Bounds, Document, Json, Refusal};
use lifeline_proto::v1::server::{LinkId, Write};

use super::{By, Inner, Sessions};
use crate::bridge::{
    CommandError, ConnId, Delivery, DocumentChange, DocumentEntry, DocumentInfo, EditInfo, Event, MESSAGE_COST, Sent,
};
use crate::clock;
use crate::local::server_frame;
use crate::memory::SharedFrame;
use crate::outlet::Item;

/// What clients have changed and the application has not been told, by channel. Not more than twice the keys that a
/// document may have: of a key the last change counts.
#[derive(Debug, Default)]
pub(super) struct Watches(HashMap<ChannelName, Watch>);

#[derive(Debug, Default)]
struct Watch {
    changes: BTreeMap<Box<str>, Change>,
    /// The application knows that there are changes.
    told: bool,
}

#[derive(Debug, Clone, Copy)]
struct Change {
    by: Option<ConnId>,
    /// The application does not know of the key.
    fresh: bool,
}

impl Sessions {
    /// Opens the channel's document, or sets the rules of the one that there is.
    ///
    /// # Errors
    /// No name of a channel; `limits.maxChannels`.
    pub fn open_document(&self, channel: &str, bounds: Bounds, write: Write, watch: bool) -> Result<(), CommandError> {
        let channel = name(channel)?;
        let mut inner = self.inner.lock();
        if !inner.machine.open_document(&channel, bounds, write) {
            let limit = self.config.server_limits.max_channels;
            let why = format!("{limit} channels have a document, limits.maxChannels allows no more");
            return Err(CommandError::Limit(why));
        }
        if watch {
            inner.watches.0.entry(channel).or_default();
        } else {
            inner.watches.0.remove(&channel);
        }
        self.carry_out(inner, clock::now(), By::Application);
        Ok(())
    }

    /// The document, with one entry of it or all; `None`: there is none.
    pub fn document(&self, channel: &str, key: Option<&str>) -> Option<DocumentInfo> {
        let channel = ChannelName::new(channel).ok()?;
        let inner = self.inner.lock();
        let document = inner.machine.document(&channel)?;
        let entries = match key {
            Some(key) => document.entry(key).map(|_| entry(document, key)).into_iter().collect(),
            None => document.entries().keys().map(|key| entry(document, key)).collect(),
        };
        Some(DocumentInfo { version: document.version(), edited: false, entries })
    }

    /// The application sets a key, or removes it; returns the version. `None`: it has another version than
    /// `if_version`.
    ///
    /// # Errors
    /// No document; a key or value that it has no room for.
    pub fn change_document(
        &self,
        channel: &str,
        key: &str,
        value: Option<&[u8]>,
        if_version: Option<u64>,
    ) -> Result<Option<u64>, CommandError> {
        let channel = name(channel)?;
        let value = match value.map(std::str::from_utf8) {
            None => None,
            Some(Ok(text)) => Some(Json::new(text).map_err(CommandError::Invalid)?),
            Some(Err(_)) => return Err(CommandError::Invalid("the value is not valid UTF-8".into())),
        };
        let now = clock::now();
        let mut inner = self.inner.lock();
        let outcome = inner.machine.change_document(now, &channel, key, value, if_version);
        self.carry_out(inner, now, By::Application);
        match outcome {
            None => Err(CommandError::Gone("the document".into())),
            Some(Ok(version)) => Ok(Some(version)),
            Some(Err(Refusal::Conflict(..))) => Ok(None),
            Some(Err(Refusal::Malformed(why))) => Err(CommandError::Invalid(why)),
            Some(Err(Refusal::TooBig(why))) => Err(CommandError::Limit(why)),
        }
    }

    /// The application's decision on [`Event::Edit`], which was begun.
    pub fn answer_edit(&self, delivery: &Delivery, data: &[u8], allowed: bool) {
        let Delivery::Item { outbox, id } = delivery else { return };
        let now = clock::now();
        let mut inner = self.inner.lock();
        inner.machine.handle_edit_decided(now, outbox, *id, data, allowed);
        self.expect_batch_end();
        self.carry_out(inner, now, By::Application);
    }

    /// What clients have changed since the last look, in the order of versions.
    pub fn take_changes(&self, channel: &str) -> Vec<DocumentChange> {
        let Ok(channel) = ChannelName::new(channel) else { return Vec::new() };
        let mut inner = self.inner.lock();
        let Inner { machine, watches, .. } = &mut *inner;
        let (Some(watch), Some(document)) = (watches.0.get_mut(&channel), machine.document(&channel)) else {
            return Vec::new();
        };
        watch.told = false;
        let mut changes: Vec<_> = std::mem::take(&mut watch.changes)
            .into_iter()
            .map(|(key, change)| {
                let entry = document.entry(&key);
                DocumentChange {
                    value: entry.map(|entry| Bytes::copy_from_slice(entry.value.as_str().as_bytes())),
                    version: entry.map_or(document.version(), |entry| entry.version),
                    by: change.by,
                    key,
                }
            })
            .collect();
        changes.sort_by_key(|change| change.version);
        changes
    }

    pub(super) fn ask_edit(
        &self,
        inner: &Inner,
        link: LinkId,
        delivery: lifeline_proto::v1::inbox::Delivery,
        outbox: lifeline_proto::v1::Key,
        edit: &lifeline_proto::v1::document::Edit,
    ) {
        let Some(link) = inner.links.get(&ConnId(link.0)) else { return };
        let outlet = &link.outlet;
        outlet.counters.messages_in.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        outlet.count_message(clock::now());
        outlet.add_inbound(delivery.data.len() + MESSAGE_COST);
        let info = EditInfo {
            channel: edit.channel.as_str().into(),
            key: edit.key.clone(),
            value: edit.value.as_ref().map(|value| Bytes::copy_from_slice(value.as_str().as_bytes())),
            data: delivery.data,
            delivery: Delivery::Item { outbox, id: delivery.id },
        };
        self.events.push(Event::Edit { server: self.id, conn: outlet.id, edit: Box::new(info) });
    }

    /// Tells those of the channel that have no session, and the application.
    pub(super) fn tell_edited(
        &self,
        inner: &mut Inner,
        channel: &ChannelName,
        key: Box<str>,
        created: bool,
        data: &Bytes,
        who: (Option<LinkId>, By),
    ) {
        let now = clock::now();
        let mut frame = None;
        self.directory.for_each_member(channel.as_str(), |outlet| {
            if outlet.is_lifeline() {
                return;
            }
            let frame = frame.get_or_insert_with(|| SharedFrame::new(server_frame(data, false), self.memory.clone()));
            let sent = outlet.push(Item::Shared(frame.clone()));
            if sent == Sent::Queued {
                outlet.count_message(now);
            } else {
                outlet.want_task();
            }
            if sent != Sent::Closed {
                self.wake(outlet, who.1);
            }
        });
        let by = who.0.map(|link| ConnId(link.0));
        if let Some(watch) = inner.watches.0.get_mut(channel) {
            let exists = inner.machine.document(channel).is_some_and(|document| document.entry(&key).is_some());
            watch.note(key, by, created, exists);
            if !watch.changes.is_empty() && !std::mem::replace(&mut watch.told, true) {
                self.events.push(Event::DocumentChanged { endpoint: self.id, channel: Arc::from(channel.as_str()) });
            }
        }
    }
}

impl Watch {
    fn note(&mut self, key: Box<str>, by: Option<ConnId>, created: bool, exists: bool) {
        match self.changes.get_mut(&key) {
            // It came and went, and the application heard of neither.
            Some(change) if change.fresh && !exists => {
                self.changes.remove(&key);
            }
            Some(change) => change.by = by.or(change.by),
            // What the application does is no news to it.
            None if by.is_none() => {}
            None => {
                self.changes.insert(key, Change { by, fresh: created });
            }
        }
    }
}

fn name(channel: &str) -> Result<ChannelName, CommandError> {
    ChannelName::new(channel).map_err(|error| CommandError::Invalid(error.to_string()))
}

/// Of a key that there is.
fn entry(document: &Document, key: &str) -> DocumentEntry {
    let (version, value) = document
        .entry(key)
        .map_or((0, Bytes::new()), |entry| (entry.version, Bytes::copy_from_slice(entry.value.as_str().as_bytes())));
    DocumentEntry { key: key.into(), version, value }
}
