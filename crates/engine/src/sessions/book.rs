//! What a server's sessions leave on disk (`store: 'file:///dir'`): who they are, and where each outbox and channel is.
//!
//! Each record replaces the one before it of the same session, outbox or channel. Written under the lock of the
//! machine, so that the order of records is that of events, and made durable without it.
//!
//! Messages are not in it. So that no number of a stream is given twice, a session's record says that more are
//! taken than are ([`RESERVE`]) before the first of them leaves; when all is acknowledged the next one says it exactly.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lifeline_proto::v1::data::SessionData;
use lifeline_proto::v1::server::{Server as Machine, Stored};
use lifeline_proto::v1::session::{Session, SessionRecord};
use lifeline_proto::v1::wire::Reject;
use lifeline_proto::v1::{ChannelName, Key, Position, ShortId, Token};
use lifeline_store::{Config, Disk, Files, Log, Opened, StoreError};
use rand::rngs::StdRng;

use super::Profile;

/// Numbers of a stream that are taken ahead.
const RESERVE: u64 = 4096;
/// A log with more bytes than these, and than four times what it was after the last time, is written anew.
const SLACK: u64 = 8 * 1024 * 1024;

const SESSION: u8 = 1;
const SESSION_GONE: u8 = 2;
const INBOX: u8 = 3;
const CHANNEL: u8 = 4;
/// What comes before was written anew behind it.
const ANEW: u8 = 5;

/// See the module.
#[derive(Debug)]
pub struct Book {
    pub log: Arc<Log>,
    /// To be stored and then acknowledged.
    pub marks: BTreeMap<Key, u64>,
    /// Sessions whose record is not what is on disk.
    pub dirty: BTreeSet<Key>,
    pub channels: BTreeSet<ChannelName>,
    gone: Vec<Key>,
    /// The last number that a session's record allows; of those whose record is not exact.
    reserved: HashMap<Key, u64>,
    /// Bytes after it was written anew.
    compact: u64,
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

impl Book {
    /// Opens the store in a directory, or makes it.
    ///
    /// # Errors
    /// The directory is in use, or the disk does not work.
    pub fn open(directory: &Path) -> Result<(Self, Restored), StoreError> {
        Self::open_with(Arc::new(Disk), directory)
    }

    pub(super) fn open_with(files: Arc<dyn Files>, directory: &Path) -> Result<(Self, Restored), StoreError> {
        let (log, Opened { records, cut, damages, .. }) = Log::open_with(files, &Config::new(directory))?;
        let mut sessions: BTreeMap<Key, (SessionRecord, Option<Arc<str>>, Profile)> = BTreeMap::new();
        let mut inboxes: BTreeMap<Key, (u64, u64, Vec<Reject>)> = BTreeMap::new();
        let mut channels: BTreeMap<ChannelName, Position> = BTreeMap::new();
        let mut restored = Restored {
            damages: damages.iter().map(ToString::to_string).collect(),
            remarks: cut.iter().map(ToString::to_string).collect(),
            ..Restored::default()
        };
        for record in records {
            let mut reader = Reader(&record.data);
            let read = || -> Option<()> {
                match reader.byte()? {
                    SESSION => {
                        let (record, owner, profile) = read_session(&mut reader)?;
                        sessions.insert(record.id.clone(), (record, owner, profile));
                    }
                    SESSION_GONE => drop(sessions.remove(&reader.key()?)),
                    INBOX => {
                        let (key, generation, handled) = (reader.key()?, reader.number()?, reader.number()?);
                        let mut rejected = Vec::new();
                        for _ in 0..reader.number()? {
                            let (sequence, code) = (reader.number()?, reader.number()? as i32);
                            rejected.push(Reject { sequence, code, reason: reader.text()?, permanent: true });
                        }
                        inboxes.insert(key, (generation, handled, rejected));
                    }
                    CHANNEL => {
                        let name = ChannelName::new(reader.text()?).ok()?;
                        channels.insert(name, reader.position()?);
                    }
                    ANEW => {
                        sessions.clear();
                        inboxes.clear();
                        channels.clear();
                    }
                    _ => return None,
                }
                Some(())
            };
            if { read }().is_none() {
                let directory = directory.display();
                restored.damages.push(format!("{directory}: record {} cannot be understood", record.index));
            }
        }
        for (key, (record, owner, profile)) in sessions {
            restored.stored.sessions.push((record, owner));
            restored.profiles.insert(key, profile);
        }
        let inboxes =
            inboxes.into_iter().map(|(key, (generation, handled, rejected))| (key, generation, handled, rejected));
        restored.stored.inboxes = inboxes.collect();
        restored.stored.channels = channels.into_iter().collect();
        let book = Self {
            compact: log.bytes(),
            log: Arc::new(log),
            marks: BTreeMap::new(),
            dirty: BTreeSet::new(),
            channels: BTreeSet::new(),
            gone: Vec::new(),
            reserved: HashMap::new(),
        };
        Ok((book, restored))
    }

    /// Something waits for [`Book::write`] that ought to be written soon.
    pub fn is_dirty(&self) -> bool {
        !(self.marks.is_empty() && self.dirty.is_empty() && self.gone.is_empty())
    }

    /// The session has ended.
    pub fn forget(&mut self, key: &Key) {
        self.dirty.remove(key);
        self.reserved.remove(key);
        self.gone.push(key.clone());
    }

    /// A message with this number is about to be sent to a session.
    ///
    /// # Errors
    /// What the disk says.
    pub fn reserve(
        &mut self,
        machine: &Machine<StdRng>,
        profiles: &HashMap<Key, Profile>,
        key: &Key,
        sequence: u64,
    ) -> Result<(), StoreError> {
        if self.reserved.get(key).is_some_and(|last| sequence <= *last) {
            return Ok(());
        }
        self.reserved.insert(key.clone(), sequence + RESERVE);
        match self.session_record(machine, profiles, key) {
            Some(record) => self.append(&[record]),
            None => Ok(()),
        }
    }

    /// Appends what has changed; returns the marks that may be acknowledged once all is durable.
    ///
    /// # Errors
    /// What the disk says; it is tried again.
    pub fn write(
        &mut self,
        machine: &Machine<StdRng>,
        profiles: &HashMap<Key, Profile>,
        tick: bool,
    ) -> Result<Vec<(Key, u64)>, StoreError> {
        if tick {
            let quiet = |key: &Key| machine.session(key).is_none_or(Session::is_settled);
            let settled: Vec<Key> = self.reserved.keys().filter(|key| quiet(key)).cloned().collect();
            for key in settled {
                self.reserved.remove(&key);
                self.dirty.insert(key);
            }
        }
        let mut records = Vec::new();
        for key in &self.gone {
            let mut writer = Writer::new(SESSION_GONE);
            writer.text(key.as_str());
            records.push(writer.0);
        }
        records.extend(self.dirty.iter().filter_map(|key| self.session_record(machine, profiles, key)));
        for (outbox, handled) in &self.marks {
            records.extend(inbox_record(machine, outbox, *handled));
        }
        if tick {
            let channels = std::mem::take(&mut self.channels);
            let logs = channels.iter().filter_map(|name| Some((name, machine.channel_log(name)?.top())));
            records.extend(logs.map(|(name, position)| channel_record(name, &position)));
        }
        if !records.is_empty() {
            self.append(&records)?;
        }
        self.gone.clear();
        self.dirty.clear();
        Ok(std::mem::take(&mut self.marks).into_iter().collect())
    }

    /// The marks are not durable.
    pub fn put_back(&mut self, marks: Vec<(Key, u64)>) {
        for (outbox, handled) in marks {
            let mark = self.marks.entry(outbox).or_insert(handled);
            *mark = handled.max(*mark);
        }
    }

    /// Whether most of the log is about what is no longer so.
    pub fn is_bloated(&self) -> bool {
        self.log.bytes() > SLACK + 4 * self.compact
    }

    /// Appends everything; what is up to the index returned is no longer needed once all is durable. `exact`: no
    /// more messages are sent.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write_anew(
        &mut self,
        machine: &Machine<StdRng>,
        profiles: &HashMap<Key, Profile>,
        exact: bool,
    ) -> Result<u64, StoreError> {
        if exact {
            self.reserved.clear();
        }
        self.log.roll()?;
        let before = self.log.last_index();
        let start = self.log.bytes();
        let mut records = vec![Writer::new(ANEW).0];
        records.extend(machine.session_keys().filter_map(|key| self.session_record(machine, profiles, key)));
        let Stored { inboxes, channels, .. } = machine.stored();
        records.extend(inboxes.iter().filter_map(|(key, _, handled, _)| inbox_record(machine, key, *handled)));
        records.extend(channels.iter().map(|(name, position)| channel_record(name, position)));
        self.append(&records)?;
        self.compact = self.log.bytes() - start;
        Ok(before)
    }

    fn append(&self, records: &[Vec<u8>]) -> Result<(), StoreError> {
        self.log.append(records.iter().map(|record| (&record[..], &[][..]))).map(drop)
    }

    fn session_record(
        &self,
        machine: &Machine<StdRng>,
        profiles: &HashMap<Key, Profile>,
        key: &Key,
    ) -> Option<Vec<u8>> {
        let (record, owner) = machine.stored_session(key)?;
        let next = self.reserved.get(key).map_or(record.next, |last| record.next.max(last + 1));
        let mut writer = Writer::new(SESSION);
        writer.text(key.as_str());
        writer.text(record.token.expose());
        writer.optional(record.previous.as_ref().map(Token::expose));
        for number in [record.generation, next, record.acknowledged] {
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
    let record = SessionRecord { id, token, previous, generation, next, acknowledged, subscriptions };
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

impl<'a> Reader<'a> {
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
