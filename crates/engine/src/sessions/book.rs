//! What a server's sessions leave on disk (`store: 'file:///dir'`): who they are, what they were sent, what was published,
//! and up to where each outbox was handled.
//!
//! What records say together is [`lifeline_proto::v1::records`]. They are made under the lock of the machine, so that their
//! order is that of events, and appended without it, many at once ([`Batch`]). Nothing of what they say leaves before they
//! are given to the system; only marks wait until they are durable.
//!
//! What is acknowledged is not written: who comes back says what it has. The log is written anew when most of it is
//! about what is no longer so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use lifeline_proto::Time;
use lifeline_proto::v1::data::SessionData;
use lifeline_proto::v1::log::{Entry, Published};
use lifeline_proto::v1::records::{Found, Record};
use lifeline_proto::v1::ring::Message;
use lifeline_proto::v1::server::{Server as Machine, Stored};
use lifeline_proto::v1::session::SessionRecord;
use lifeline_proto::v1::wire::Reject;
use lifeline_proto::v1::{ChannelName, Key, Position, ShortId, Token};
use lifeline_store::{Config, Disk, Files, Log, Opened, StoreError};
use rand::rngs::StdRng;

use super::Profile;
use crate::clock;

/// A log with more bytes than these, and than four times what it was after the last time, is written anew.
const SLACK: u64 = 8 * 1024 * 1024;
/// Files go when the log was written anew, all at once; each costs an fsync when it is full.
const SEGMENT: u64 = 64 * 1024 * 1024;
/// A longer payload is not copied.
const COPY: usize = 2048;
/// A buffer that grew beyond is not kept.
const BUFFER: usize = 1024 * 1024;

const SESSION: u8 = 1;
const SESSION_GONE: u8 = 2;
const INBOX: u8 = 3;
const CHANNEL: u8 = 4;
const MESSAGE: u8 = 5;
const PUBLISHED: u8 = 6;
const BEGAN: u8 = 7;
const KNOWN: u8 = 8;

/// See the module.
#[derive(Debug)]
pub struct Book {
    pub log: Arc<Log>,
    /// To be stored and then acknowledged.
    pub marks: BTreeMap<Key, u64>,
    /// Written, and not known to be durable.
    written: BTreeMap<Key, u64>,
    /// Sessions whose record is not what is on disk.
    pub dirty: BTreeSet<Key>,
    /// Channels whose place is to be written.
    pub channels: BTreeSet<ChannelName>,
    gone: Vec<Key>,
    staged: Batch,
    /// What wall clocks show at [`Time::ZERO`], in microseconds.
    origin: u64,
}

/// Records to be appended, in order.
#[derive(Debug, Default)]
pub struct Batch {
    /// Of all records what is copied.
    heads: Vec<u8>,
    /// Where the head of each ends, and what follows it.
    records: Vec<(usize, Bytes)>,
    /// Of payloads that are not in `heads`.
    payloads: usize,
    marks: BTreeMap<Key, u64>,
}

/// What was on disk.
#[derive(Debug, Default)]
pub struct Restored {
    pub stored: Stored,
    pub profiles: HashMap<Key, Profile>,
    /// Of the log, to be told.
    pub damages: Vec<String>,
    pub remarks: Vec<String>,
}

impl Batch {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.heads.len() + self.payloads
    }

    pub fn append_to(&self, log: &Log) -> Result<(), StoreError> {
        if self.records.is_empty() {
            return Ok(());
        }
        let mut start = 0;
        let ranges: Vec<_> = self.records.iter().map(|(end, _)| std::mem::replace(&mut start, *end)..*end).collect();
        let records =
            ranges.iter().zip(&self.records).map(|(head, (_, payload))| (&self.heads[head.clone()], &payload[..]));
        log.append(records).map(drop)
    }

    fn push(&mut self, record: &[u8]) {
        self.heads.extend_from_slice(record);
        self.end(Bytes::new());
    }

    fn end(&mut self, payload: Bytes) {
        self.payloads += payload.len();
        self.records.push((self.heads.len(), payload));
    }

    fn clear(&mut self) {
        self.heads.clear();
        self.heads.shrink_to(BUFFER);
        self.records.clear();
        self.records.shrink_to(BUFFER / 64);
        self.payloads = 0;
        self.marks.clear();
    }
}

impl Book {
    /// Opens the store in a directory, or makes it. Messages that are older than `age` are left out.
    ///
    /// # Errors
    /// The directory is in use, or the disk does not work.
    pub fn open(directory: &Path, age: Duration) -> Result<(Self, Restored), StoreError> {
        Self::open_with(Arc::new(Disk), directory, age)
    }

    pub(crate) fn open_with(
        files: Arc<dyn Files>,
        directory: &Path,
        age: Duration,
    ) -> Result<(Self, Restored), StoreError> {
        let config = Config { segment_bytes: SEGMENT, ..Config::new(directory) };
        let (log, Opened { records, cut, damages, .. }) = Log::open_with(files, &config)?;
        let mut found = Found::default();
        let mut profiles = HashMap::new();
        let mut damages: Vec<_> = damages.iter().map(ToString::to_string).collect();
        for lifeline_store::Record { index, data, .. } in records {
            let Some((record, profile)) = read_record(data) else {
                damages.push(format!("{}: record {index} cannot be understood", directory.display()));
                continue;
            };
            match (&record, profile) {
                (Record::Session(session, _), Some(profile)) => drop(profiles.insert(session.id.clone(), profile)),
                (Record::SessionGone(key), _) => drop(profiles.remove(key)),
                _ => {}
            }
            found.take(record);
        }
        let stored = found.finish(clock::now(), origin(), age);
        let remarks = cut.iter().map(ToString::to_string).collect();
        let mut staged = Batch::default();
        staged.push(&Writer::new(BEGAN).0);
        let book = Self {
            log: Arc::new(log),
            marks: BTreeMap::new(),
            written: BTreeMap::new(),
            dirty: BTreeSet::new(),
            channels: BTreeSet::new(),
            gone: Vec::new(),
            staged,
            origin: origin(),
        };
        Ok((book, Restored { stored, profiles, damages, remarks }))
    }

    /// Marks wait to be made durable.
    pub fn is_pressing(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Something waits for [`Book::take`].
    pub fn has_news(&self) -> bool {
        let quiet = self.marks.is_empty() && self.dirty.is_empty() && self.gone.is_empty() && self.channels.is_empty();
        !(quiet && self.staged.records.is_empty())
    }

    /// Bytes of messages that wait for [`Book::take`].
    pub fn staged_bytes(&self) -> usize {
        self.staged.bytes()
    }

    /// The session has ended.
    pub fn forget(&mut self, key: &Key) {
        self.dirty.remove(key);
        self.gone.push(key.clone());
    }

    /// A session was sent a message.
    pub fn add_message(&mut self, key: &Key, sequence: u64, message: &Message) {
        if self.staged.records.is_empty() {
            // The system's clock may be set meanwhile.
            self.origin = origin();
        }
        let at = self.origin.saturating_add(message.at.as_micros());
        let heads = &mut self.staged.heads;
        heads.extend_from_slice(&[MESSAGE, u8::from(message.binary)]);
        put_short(heads, key.as_str());
        heads.extend_from_slice(&sequence.to_le_bytes());
        heads.extend_from_slice(&at.to_le_bytes());
        self.add_payload(&message.data);
    }

    /// Something was published.
    pub fn add_published(&mut self, channel: &ChannelName, epoch: &ShortId, entry: &Entry) {
        if self.staged.records.is_empty() {
            self.origin = origin();
        }
        let at = self.origin.saturating_add(entry.at.as_micros());
        let heads = &mut self.staged.heads;
        heads.extend_from_slice(&[PUBLISHED, u8::from(entry.binary) | u8::from(entry.document) << 1]);
        put_short(heads, channel.as_str());
        put_short(heads, epoch.as_str());
        put_short(heads, entry.message_id.as_str());
        heads.extend_from_slice(&entry.offset.to_le_bytes());
        heads.extend_from_slice(&at.to_le_bytes());
        let except = entry.except.as_deref().unwrap_or_default();
        heads.extend_from_slice(&(except.len() as u32).to_le_bytes());
        for key in except {
            put_short(heads, key.as_str());
        }
        self.add_payload(&entry.frame.slice(entry.payload..));
    }

    fn add_payload(&mut self, data: &Bytes) {
        if data.len() <= COPY {
            self.staged.heads.extend_from_slice(data);
            self.staged.end(Bytes::new());
        } else {
            self.staged.end(data.clone());
        }
    }

    /// Everything that is not on disk, to be appended and given back to [`Book::handle_appended`].
    pub fn take(&mut self, machine: &Machine<StdRng>, profiles: &HashMap<Key, Profile>) -> Batch {
        let mut batch = std::mem::take(&mut self.staged);
        for key in self.gone.drain(..) {
            let mut writer = Writer::new(SESSION_GONE);
            writer.text(key.as_str());
            batch.push(&writer.0);
        }
        for key in std::mem::take(&mut self.dirty) {
            if let Some(record) = session_record(machine, profiles, &key) {
                batch.push(&record);
            }
        }
        for name in std::mem::take(&mut self.channels) {
            if let Some(log) = machine.channel_log(&name) {
                batch.push(&channel_record(&name, &log.top()));
            }
        }
        // Last: that something was handled must not be known without what its handler has sent.
        let marks = std::mem::take(&mut self.marks);
        for (outbox, handled) in &marks {
            if let Some(record) = inbox_record(machine, outbox, *handled) {
                batch.push(&record);
            }
        }
        Batch { marks, ..batch }
    }

    /// The batch was appended, or could not be; returns the marks for [`Book::put_back`].
    pub fn handle_appended(&mut self, mut batch: Batch, whole: bool) -> BTreeMap<Key, u64> {
        let mut marks = std::mem::take(&mut batch.marks);
        if whole {
            for (outbox, handled) in std::mem::take(&mut marks) {
                let mark = self.written.entry(outbox).or_insert(handled);
                *mark = handled.max(*mark);
            }
        }
        if self.staged.records.is_empty() {
            batch.clear();
            self.staged = batch;
        }
        marks
    }

    /// The marks that may be acknowledged once all that is appended is durable.
    pub fn take_written(&mut self) -> BTreeMap<Key, u64> {
        std::mem::take(&mut self.written)
    }

    /// The marks are not durable.
    pub fn put_back(&mut self, marks: BTreeMap<Key, u64>) {
        for (outbox, handled) in marks {
            let mark = self.marks.entry(outbox).or_insert(handled);
            *mark = handled.max(*mark);
        }
    }

    /// Everything about one of them is to be written again.
    pub fn stage(&mut self, machine: &Machine<StdRng>, profiles: &HashMap<Key, Profile>, item: &Whole) {
        match item {
            Whole::Session(key) => {
                let (Some(record), Some(session)) = (session_record(machine, profiles, key), machine.session(key))
                else {
                    return;
                };
                self.staged.push(&record);
                if let Some(known) = session.record().known {
                    let mut writer = Writer::new(KNOWN);
                    writer.text(key.as_str());
                    writer.number(known);
                    self.staged.push(&writer.0);
                }
                for (sequence, message) in session.ring().messages() {
                    self.add_message(key, sequence, message);
                }
            }
            Whole::Inbox(outbox) => {
                let Some(inbox) = machine.inbox(outbox) else { return };
                // A mark that is in what is about to be discarded may be acknowledged next.
                let waiting = self.marks.get(outbox).max(self.written.get(outbox)).copied().unwrap_or(0);
                if let Some(record) = inbox_record(machine, outbox, inbox.acknowledged().max(waiting)) {
                    self.staged.push(&record);
                }
            }
            Whole::Channel(name) => {
                let Some(log) = machine.channel_log(name) else { return };
                let bottom = log.bottom();
                self.staged.push(&channel_record(name, &bottom));
                for entry in log.entries() {
                    self.add_published(name, &bottom.epoch, entry);
                }
            }
        }
    }
}

/// What is written anew.
#[derive(Debug)]
pub enum Whole {
    Session(Key),
    Inbox(Key),
    Channel(ChannelName),
}

impl Whole {
    pub fn all(machine: &Machine<StdRng>) -> Vec<Self> {
        let sessions = machine.session_keys().cloned().map(Self::Session);
        let inboxes = machine.inbox_keys().cloned().map(Self::Inbox);
        sessions.chain(inboxes).chain(machine.channel_names().cloned().map(Self::Channel)).collect()
    }
}

/// Whether most of a log of so many bytes is about what is no longer so; `compact`: when it was written anew.
pub fn is_bloated(bytes: u64, compact: u64) -> bool {
    bytes > SLACK + 4 * compact
}

/// What wall clocks show at [`Time::ZERO`], in microseconds.
fn origin() -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(wall.as_micros()).unwrap_or(u64::MAX).saturating_sub(clock::now().as_micros())
}

/// The record that those bytes are; with a session's, what the application knows of it.
///
/// `None`: they cannot be understood.
fn read_record(data: Vec<u8>) -> Option<(Record, Option<Profile>)> {
    let data = Bytes::from(data);
    let mut reader = Reader(&data);
    let record = match reader.byte()? {
        SESSION => {
            let (record, owner, profile) = read_session(&mut reader)?;
            return Some((Record::Session(Box::new(record), owner), Some(profile)));
        }
        SESSION_GONE => Record::SessionGone(reader.key()?),
        INBOX => {
            let (key, generation, handled) = (reader.key()?, reader.number()?, reader.number()?);
            let mut rejected = Vec::new();
            for _ in 0..reader.number()? {
                let (sequence, code) = (reader.number()?, reader.number()? as i32);
                rejected.push(Reject { sequence, code, reason: reader.text()?, permanent: true });
            }
            Record::Inbox(key, generation, handled, rejected)
        }
        BEGAN => Record::Began,
        KNOWN => Record::Known(reader.key()?, reader.number()?),
        CHANNEL => Record::Place(ChannelName::new(reader.text()?).ok()?, reader.position()?),
        MESSAGE => {
            let binary = reader.byte()? != 0;
            let session = Key::new(reader.short()?).ok()?;
            let (sequence, at) = (reader.number()?, reader.number()?);
            let data = data.slice(data.len() - reader.0.len()..);
            Record::Message { session, sequence, at, message: Message { data, binary, at: Time::ZERO, place: 0 } }
        }
        PUBLISHED => {
            let flags = reader.byte()?;
            let channel = ChannelName::new(reader.short()?).ok()?;
            let epoch = ShortId::new(reader.short()?).ok()?;
            let message_id = ShortId::new(reader.short()?).ok()?;
            let (offset, at) = (reader.number()?, reader.number()?);
            let mut except = Vec::new();
            for _ in 0..reader.count()? {
                except.push(Key::new(reader.short()?).ok()?);
            }
            let payload = data.slice(data.len() - reader.0.len()..);
            let (binary, document) = (flags & 1 != 0, flags & 2 != 0);
            let published = Published { message_id, at: Time::ZERO, payload, binary, except, document };
            Record::Published { channel, epoch, offset, at, published }
        }
        _ => return None,
    };
    Some((record, None))
}

fn session_record(machine: &Machine<StdRng>, profiles: &HashMap<Key, Profile>, key: &Key) -> Option<Vec<u8>> {
    let (record, owner) = machine.stored_session(key)?;
    let mut writer = Writer::new(SESSION);
    writer.text(key.as_str());
    writer.text(record.token.expose());
    writer.optional(record.previous.as_ref().map(Token::expose));
    for number in [record.generation, record.next, record.acknowledged] {
        writer.number(number);
    }
    writer.number(record.subscriptions.len() as u64);
    for (channel, server_made, start) in &record.subscriptions {
        writer.text(channel.as_str());
        writer.number(u64::from(*server_made));
        writer.position(start);
    }
    writer.optional(owner.as_deref());
    let none = Profile::default();
    let Profile { user, claims, data } = profiles.get(key).unwrap_or(&none);
    writer.optional(user.as_deref());
    writer.bytes(claims);
    writer.number(data.version());
    writer.number(data.values().len() as u64);
    for (name, value) in data.values() {
        writer.text(name);
        writer.bytes(value);
    }
    Some(writer.0)
}

fn inbox_record(machine: &Machine<StdRng>, outbox: &Key, handled: u64) -> Option<Vec<u8>> {
    let inbox = machine.inbox(outbox)?;
    let mut writer = Writer::new(INBOX);
    writer.text(outbox.as_str());
    writer.number(inbox.generation());
    writer.number(handled);
    let rejected: Vec<&Reject> = inbox.rejected().filter(|reject| reject.sequence <= handled).collect();
    writer.number(rejected.len() as u64);
    for reject in rejected {
        writer.number(reject.sequence);
        writer.number(i64::from(reject.code).cast_unsigned());
        writer.text(&reject.reason);
    }
    Some(writer.0)
}

fn channel_record(name: &ChannelName, position: &Position) -> Vec<u8> {
    let mut writer = Writer::new(CHANNEL);
    writer.text(name.as_str());
    writer.position(position);
    writer.0
}

fn read_session(reader: &mut Reader<'_>) -> Option<(SessionRecord, Option<Arc<str>>, Profile)> {
    let id = reader.key()?;
    let token = Token::new(reader.text()?).ok()?;
    let previous = match reader.optional()? {
        Some(token) => Some(Token::new(token).ok()?),
        None => None,
    };
    let (generation, next, acknowledged) = (reader.number()?, reader.number()?, reader.number()?);
    let mut subscriptions = Vec::new();
    for _ in 0..reader.number()? {
        let channel = ChannelName::new(reader.text()?).ok()?;
        subscriptions.push((channel, reader.number()? != 0, reader.position()?));
    }
    let owner = reader.optional()?.map(Arc::from);
    let user = reader.optional()?.map(Arc::from);
    let claims = Bytes::copy_from_slice(reader.bytes()?);
    let version = reader.number()?;
    let mut values = BTreeMap::new();
    for _ in 0..reader.number()? {
        let name: Box<str> = reader.text()?.into();
        values.insert(name, Bytes::copy_from_slice(reader.bytes()?));
    }
    let data = SessionData::restore(version, values);
    let record = SessionRecord { id, token, previous, generation, next, acknowledged, known: None, subscriptions };
    Some((record, owner, Profile { user, claims, data }))
}

struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u8) -> Self {
        Self(vec![kind])
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn optional(&mut self, text: Option<&str>) {
        self.0.push(u8::from(text.is_some()));
        if let Some(text) = text {
            self.text(text);
        }
    }

    fn position(&mut self, position: &Position) {
        self.text(position.epoch.as_str());
        self.number(position.offset);
        self.text(position.message_id.as_str());
    }
}

struct Reader<'a>(&'a [u8]);

/// At most 255 bytes.
fn put_short(into: &mut Vec<u8>, text: &str) {
    into.push(text.len() as u8);
    into.extend_from_slice(text.as_bytes());
}

impl<'a> Reader<'a> {
    fn short(&mut self) -> Option<&'a str> {
        let len = usize::from(self.byte()?);
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn count(&mut self) -> Option<u32> {
        let (count, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*count))
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*first))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        Some(std::str::from_utf8(self.bytes()?).ok()?.to_owned())
    }

    /// `None`: there is neither a text nor a note that there is none.
    #[expect(clippy::option_option)]
    fn optional(&mut self) -> Option<Option<String>> {
        match self.byte()? {
            0 => Some(None),
            _ => Some(Some(self.text()?)),
        }
    }

    fn key(&mut self) -> Option<Key> {
        Key::new(self.text()?).ok()
    }

    fn position(&mut self) -> Option<Position> {
        let epoch = ShortId::new(self.text()?).ok()?;
        let offset = self.number()?;
        let id = self.text()?;
        let message_id = if id == ShortId::none().as_str() { ShortId::none() } else { ShortId::new(id).ok()? };
        Some(Position { epoch, offset, message_id })
    }
}

#[cfg(test)]
mod tests;
