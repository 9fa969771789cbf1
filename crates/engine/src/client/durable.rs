//! An outbox on disk: what it has taken is sent, if need be by a later process.
//!
//! The messages are in memory, too; the log is read when it is opened. It is written by the thread that
//! sends, outside of the client's lock, and by the [`Keeper`](crate::keeper::Keeper): never by one that does
//! I/O for connections.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use lifeline_proto::Time;
use lifeline_proto::outbox::{Full, Item, MemoryOutbox, OutboxConfig, OverflowPolicy, PushOutcome};
use lifeline_proto::v1::Key;
use lifeline_proto::v1::value::MAX_INTEGER;
use lifeline_proto::v1::wire::OutboxRange;
use lifeline_store::{Config, Disk, Files, Log, Opened, Stats, StoreError};

use super::documents;
use super::outbox::{KEPT, Outbox, Refusal, random_key};
use crate::bridge::CommandError;
use crate::config::{Durability, Storage};

/// Where rejected messages go, one JSON object a line.
const DEAD_LETTERS: &str = "rejected.jsonl";
/// Beyond it the file is renamed, in place of the one renamed before.
const DEAD_LETTER_BYTES: u64 = 16 * 1024 * 1024;
/// Kinds of records.
const MESSAGE: u8 = 1;
const GONE: u8 = 2;
/// Kind, flags, number, expiry.
const PREFIX: usize = 18;
const BINARY: u8 = 1;
const HEAD_VERSION: u8 = 2;
/// Without a session.
const OLD_HEAD_VERSION: u8 = 1;
/// A log with more bytes than these and twice what waits is written anew.
const SLACK: u64 = 16 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Durable {
    log: Arc<Log>,
    messages: MemoryOutbox,
    durability: Durability,
    /// The policy is to wait for room.
    waits: bool,
    head: Head,
    /// An open connection speaks for the items below only.
    bound: Option<u64>,
    /// Items that are in the log, in order.
    places: VecDeque<Place>,
    /// Pushed, and not given to [`Outbox::commit`].
    staged: Vec<Item>,
    /// A commit is under way, of what comes behind this index and has this number at least.
    committing: Option<(u64, u64)>,
    /// The last index that is accounted for in `places`.
    last_index: u64,
    /// What is in the log and must not be sent.
    gone: Vec<u64>,
    letters: Vec<u8>,
    /// `spill`: items up to this number have waited for a while.
    aged: u64,
    /// As the log has it.
    marked: Marked,
    /// The head has another session than the log.
    session_changed: bool,
    closed: bool,
}

/// The first message's number, and the index before its record.
type Marked = (u64, u64);

/// What is at the front of each file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    /// Grows when the outbox is opened.
    generation: u64,
    /// Everything before it is settled.
    first: u64,
    last: u64,
    /// The outbox's ids, each from an item's number on.
    epochs: Vec<(u64, Key)>,
    /// Of the client's session, for the client to read; may be empty.
    session: Vec<u8>,
}

/// Where an item is.
#[derive(Clone, Copy, Debug)]
struct Place {
    sequence: u64,
    index: u64,
    /// The least index of this and all later items.
    floor: u64,
}

/// What was found when the outbox was opened.
#[derive(Debug, Default)]
pub struct Found {
    /// What [`Outbox::keep_session`] was given last.
    pub session: Vec<u8>,
    /// To be told as errors: what is lost.
    pub damages: Vec<String>,
    /// To be told as warnings.
    pub remarks: Vec<String>,
    /// What is usual after a crash.
    pub notices: Vec<String>,
}

/// What is to be written, without any lock.
#[derive(Debug)]
pub struct Work {
    log: Arc<Log>,
    /// In the log's order; the items come first.
    records: Vec<(Vec<u8>, Bytes)>,
    items: Vec<u64>,
    /// The last item that was in the log.
    last: u64,
    gone: Vec<u64>,
    head: Option<Vec<u8>>,
    discard: u64,
    sync: bool,
    letters: Vec<u8>,
    close: bool,
    purpose: Purpose,
}

/// Where work was written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// The index of the first item.
    first: u64,
    /// The index of the head.
    head: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Commit,
    Upkeep,
    /// The items are in the log already.
    Rewriting,
}

impl Work {
    /// Writes it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn carry_out(&self) -> Result<Written, StoreError> {
        if !self.letters.is_empty() {
            self.bury()?;
        }
        let log = &self.log;
        let mut written = Written::default();
        if !self.records.is_empty() {
            written.first = log.append(self.records.iter().map(|(prefix, data)| (&prefix[..], &data[..])))?;
        }
        if self.sync && self.purpose == Purpose::Commit {
            log.sync(written.first + self.records.len() as u64 - 1)?;
        }
        if let Some(head) = &self.head {
            written.head = log.set_head(head)?;
            log.discard(self.discard)?;
        }
        if self.close {
            log.close()?;
        } else if self.sync && self.purpose != Purpose::Commit {
            log.sync_all()?;
        }
        Ok(written)
    }

    /// Keeps rejected messages for people to look at.
    fn bury(&self) -> Result<(), StoreError> {
        let path = self.log.directory().join(DEAD_LETTERS);
        let failed = |source| StoreError::Io { action: "write", path: path.clone(), source };
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() > DEAD_LETTER_BYTES {
            std::fs::rename(&path, path.with_extension("jsonl.1")).map_err(failed)?;
            file = std::fs::OpenOptions::new().append(true).create(true).open(&path).map_err(failed)?;
        }
        std::io::Write::write_all(&mut file, &self.letters).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        Disk.sync_directory(self.log.directory()).map_err(failed)
    }
}

impl Durable {
    /// Opens the outbox in a directory, or makes it.
    ///
    /// # Errors
    /// The directory is in use, or the disk does not work.
    pub fn open(config: &OutboxConfig, storage: &Storage, now: Time) -> Result<(Self, Found), StoreError> {
        Self::open_with(Arc::new(Disk), config, storage, now, wall_clock())
    }

    pub(crate) fn open_with(
        files: Arc<dyn Files>,
        config: &OutboxConfig,
        storage: &Storage,
        now: Time,
        wall: Duration,
    ) -> Result<(Self, Found), StoreError> {
        let (log, opened) = Log::open_with(files, &Config::new(&storage.path))?;
        let mut found = Found::default();
        found.damages.extend(opened.damages.iter().map(ToString::to_string));
        found.remarks.extend(opened.cut.iter().map(ToString::to_string));
        let Opened { records, head, clean, cut, damages } = opened;
        let fresh = head.is_none() && records.is_empty();
        let mut head = head.as_deref().and_then(Head::decode).unwrap_or(Head {
            generation: 0,
            first: 1,
            last: 0,
            epochs: Vec::new(),
            session: Vec::new(),
        });
        let mut kept: BTreeMap<u64, (u64, Item)> = BTreeMap::new();
        for record in records {
            match decode(record.data) {
                Some(Stored::Message { sequence, binary, expires, data }) => {
                    head.last = head.last.max(sequence);
                    let expires = expires.map(|at| now + at.saturating_sub(wall));
                    kept.insert(sequence, (record.index, Item { sequence, data, binary, expires }));
                }
                Some(Stored::Gone { sequence }) => drop(kept.remove(&sequence)),
                None => found.damages.push(format!(
                    "{}: record {} is of a kind that this version does not know",
                    storage.path.display(),
                    record.index
                )),
            }
        }
        let first = head.first;
        kept.retain(|sequence, _| *sequence >= first);
        let mut messages = MemoryOutbox::new(config.clone());
        let mut places: VecDeque<Place> = VecDeque::new();
        for (sequence, (index, item)) in kept {
            places.push_back(Place { sequence, index, floor: index });
            messages.restore(item);
        }
        lower(&mut places);
        messages.restore_sequence(head.last);
        head.generation += 1;
        found.session.clone_from(&head.session);
        // Numbers may have been given, and sent, of which the log knows nothing.
        let forgot = cut.is_some() || !damages.is_empty() || (!clean && storage.durability != Durability::Always);
        if head.epochs.is_empty() || (forgot && !fresh) {
            head.epochs.push((head.last + 1, random_key()));
            if !fresh {
                found.notices.push(format!(
                    "{} was not closed in order: what is new gets another outbox id",
                    storage.path.display()
                ));
            }
        }
        let last_index = log.last_index();
        let mut outbox = Self {
            log: Arc::new(log),
            messages,
            durability: storage.durability,
            waits: config.overflow == OverflowPolicy::Block,
            head,
            bound: None,
            places,
            staged: Vec::new(),
            committing: None,
            last_index,
            gone: Vec::new(),
            letters: Vec::new(),
            aged: 0,
            marked: (0, 0),
            session_changed: false,
            closed: false,
        };
        outbox.advance();
        // Before anything is said to a server: a process that comes later must know of this one.
        outbox.log.set_head(&outbox.head.encode())?;
        outbox.log.sync_all()?;
        outbox.marked = (outbox.head.first, 0);
        Ok((outbox, found))
    }

    /// Drops ids whose items are all settled.
    fn advance(&mut self) {
        let first = self.messages.first_sequence();
        while self.head.epochs.get(1).is_some_and(|(start, _)| *start <= first) {
            self.head.epochs.remove(0);
        }
        while self.places.front().is_some_and(|place| place.sequence < first) {
            self.places.pop_front();
        }
        self.head.first = first;
        self.head.last = self.messages.last_sequence();
    }

    fn set_ceiling(&mut self) {
        let staged = self.staged.first().map(|item| item.sequence);
        let committing = self.committing.map(|(_, sequence)| sequence);
        let ceilings = [self.bound, staged, committing];
        self.messages.set_ceiling(ceilings.into_iter().flatten().min().unwrap_or(u64::MAX));
    }

    /// Everything up to this index is settled.
    fn settled_index(&self) -> u64 {
        let behind = self.places.front().map_or(self.last_index, |place| place.floor - 1);
        self.committing.map_or(behind, |(index, _)| behind.min(index))
    }

    fn work(&self, purpose: Purpose) -> Work {
        Work {
            log: self.log.clone(),
            records: Vec::new(),
            items: Vec::new(),
            last: self.places.back().map_or(0, |place| place.sequence),
            gone: Vec::new(),
            head: None,
            discard: 0,
            sync: false,
            letters: Vec::new(),
            close: false,
            purpose,
        }
    }

    fn bury(&mut self, item: &Item, code: i32, reason: &str) {
        let id = self.epoch_of(item.sequence).as_str().to_owned();
        write_letter(&mut self.letters, &id, item, code, reason);
    }

    fn epoch_of(&self, sequence: u64) -> &Key {
        let mut epochs = self.head.epochs.iter().rev();
        &epochs.find(|(start, _)| *start <= sequence).unwrap_or(&self.head.epochs[0]).1
    }

    fn take_gone(&mut self, work: &mut Work) {
        work.gone = std::mem::take(&mut self.gone);
        work.records.extend(work.gone.iter().map(|sequence| (encode_gone(*sequence), Bytes::new())));
    }

    fn note_gone(&mut self, items: &[Item]) {
        for item in items {
            self.staged.retain(|staged| staged.sequence != item.sequence);
            if self.places.binary_search_by_key(&item.sequence, |place| place.sequence).is_ok() {
                self.gone.push(item.sequence);
            }
        }
    }
}

impl Outbox for Durable {
    fn range(&mut self) -> OutboxRange {
        self.advance();
        let (_, id) = &self.head.epochs[0];
        self.bound = self.head.epochs.get(1).map(|(start, _)| *start);
        let range = OutboxRange {
            id: id.clone(),
            generation: self.head.generation,
            first: self.head.first,
            next: self.bound.unwrap_or(self.head.last + 1),
        };
        self.set_ceiling();
        range
    }

    fn is_outgrown(&self) -> bool {
        self.bound.is_some_and(|bound| self.messages.first_sequence() >= bound)
    }

    fn renew(&mut self) {
        if let Some(bound) = self.bound {
            // All its numbers were given, some by a process that could not write them down: what is left was handled.
            self.messages.handle_written(bound - 1);
            self.advance();
            return;
        }
        // The directory is older than what the server knows, say from a backup. The next upkeep writes the id; until
        // then nobody else needs it.
        self.advance();
        self.head.epochs = vec![(self.head.first, random_key())];
        self.marked = (0, 0);
    }

    fn push(&mut self, now: Time, data: Bytes, binary: bool, ttl: Option<Duration>) -> Result<PushOutcome, Refusal> {
        let outcome = self.messages.push(now, data, binary, ttl).map_err(|full| match full {
            Full::Bytes { .. } | Full::Messages { .. } if self.waits => Refusal::Wait,
            full => Refusal::Error(CommandError::Overflow(full.to_string())),
        })?;
        self.note_gone(&outcome.evicted);
        let last = self.messages.items().last().filter(|item| item.sequence == outcome.sequence);
        if self.durability != Durability::Spill
            && let Some(item) = last
        {
            self.staged.push(item.clone());
            self.set_ceiling();
        }
        Ok(outcome)
    }

    fn withdraw(&mut self, from: u64) {
        self.messages.withdraw(from);
        self.staged.retain(|item| item.sequence < from);
        self.set_ceiling();
    }

    fn commit(&mut self, now: Time) -> Option<Work> {
        let first = self.staged.first()?.sequence;
        let mut work = self.work(Purpose::Commit);
        let wall = wall_clock();
        for item in std::mem::take(&mut self.staged) {
            work.records.push((encode_message(&item, now, wall), item.data));
            work.items.push(item.sequence);
        }
        self.take_gone(&mut work);
        work.sync = self.durability == Durability::Always;
        self.committing = Some((self.log.last_index(), first));
        self.set_ceiling();
        Some(work)
    }

    fn keep_session(&mut self, session: Vec<u8>) {
        self.head.session = session;
        self.session_changed = true;
    }

    fn upkeep(&mut self, now: Time, tick: bool) -> Option<Work> {
        if self.closed {
            return None;
        }
        let mut work = self.work(Purpose::Upkeep);
        self.advance();
        let live = (self.messages.bytes() + self.messages.len() * KEPT) as u64;
        if tick && self.committing.is_none() && self.log.bytes() > SLACK + 2 * live {
            // What is settled stands between what is not.
            work.purpose = Purpose::Rewriting;
        }
        if tick && self.durability == Durability::Spill {
            self.spill(&mut work, now, self.aged);
            self.aged = self.messages.last_sequence();
        } else if work.purpose == Purpose::Rewriting {
            let wall = wall_clock();
            for item in self.messages.items().filter(|item| self.staged.iter().all(|staged| staged != *item)) {
                work.records.push((encode_message(item, now, wall), item.data.clone()));
                work.items.push(item.sequence);
            }
        }
        self.take_gone(&mut work);
        work.letters = std::mem::take(&mut self.letters);
        let mark = (self.head.first, self.settled_index());
        let session_changed = std::mem::take(&mut self.session_changed);
        // Its messages are acknowledged by what is written here.
        work.sync = session_changed && self.durability == Durability::Always;
        if mark != self.marked || session_changed {
            self.marked = mark;
            work.head = Some(self.head.encode());
            work.discard = mark.1;
        }
        work.sync |= tick && self.durability != Durability::Always && self.log.has_unsynced();
        work.sync |= work.purpose == Purpose::Rewriting || (tick && !work.items.is_empty());
        let idle = work.records.is_empty() && work.head.is_none() && work.letters.is_empty() && !work.sync;
        (!idle).then_some(work)
    }

    fn farewell(&mut self, now: Time) -> Option<Work> {
        if std::mem::replace(&mut self.closed, true) {
            return None;
        }
        let mut work = self.work(Purpose::Upkeep);
        self.advance();
        if self.durability == Durability::Spill {
            self.spill(&mut work, now, u64::MAX);
        }
        self.take_gone(&mut work);
        work.letters = std::mem::take(&mut self.letters);
        work.head = Some(self.head.encode());
        work.discard = self.settled_index();
        work.close = true;
        Some(work)
    }

    fn handle_done(&mut self, work: &Work, result: &Result<Written, StoreError>) -> Result<(), CommandError> {
        if work.purpose == Purpose::Commit {
            self.committing = None;
        }
        let outcome = match result {
            Ok(Written { first, head }) => {
                let indices = *first..;
                if work.purpose == Purpose::Rewriting {
                    let copied = |sequence: u64| work.items.binary_search(&sequence).is_ok();
                    self.places.retain(|place| place.sequence > work.last || copied(place.sequence));
                    for (sequence, index) in work.items.iter().zip(indices) {
                        match self.places.binary_search_by_key(sequence, |place| place.sequence) {
                            Ok(at) => self.places[at].index = index,
                            Err(at) if at == self.places.len() => {
                                self.places.push_back(Place { sequence: *sequence, index, floor: index });
                            }
                            // Settled meanwhile.
                            Err(_) => {}
                        }
                    }
                    lower(&mut self.places);
                } else {
                    let first = self.messages.first_sequence();
                    for (sequence, index) in work.items.iter().zip(indices) {
                        self.places.push_back(Place { sequence: *sequence, index, floor: index });
                        if *sequence > first && !self.messages.contains(*sequence) {
                            // Taken out while it was written.
                            self.gone.push(*sequence);
                        }
                    }
                }
                if !work.records.is_empty() {
                    self.last_index = self.last_index.max(first + work.records.len() as u64 - 1);
                }
                if *head > 0 && self.marked.1 == work.discard {
                    // Files that have nothing else but heads can go with the next one.
                    self.last_index = self.last_index.max(*head);
                    self.marked.1 = self.settled_index();
                }
                Ok(())
            }
            Err(error) => {
                if work.purpose == Purpose::Commit
                    && let Some(first) = work.items.first()
                {
                    self.messages.withdraw(*first);
                }
                self.letters.extend_from_slice(&work.letters);
                self.gone.extend_from_slice(&work.gone);
                self.marked = (0, 0);
                self.session_changed |= work.head.is_some();
                Err(CommandError::Storage(error.to_string()))
            }
        };
        self.set_ceiling();
        outcome
    }

    fn needs_upkeep(&self) -> bool {
        let first = self.messages.first_sequence();
        !self.closed && (first != self.marked.0 || !self.gone.is_empty() || !self.letters.is_empty())
    }

    fn store_stats(&self) -> Option<Stats> {
        Some(self.log.stats())
    }

    fn first_waiting(&self) -> Option<(u64, usize)> {
        self.messages.first_waiting()
    }

    fn next_to_send(&mut self, now: Time) -> Option<Item> {
        self.messages.next_to_send(now)
    }

    fn handle_acknowledged(&mut self, sequence: u64) {
        self.messages.handle_written(sequence);
    }

    fn handle_lost(&mut self) {
        self.messages.handle_lost();
        self.bound = None;
        self.set_ceiling();
    }

    fn handle_resend(&mut self, sequence: u64) {
        self.messages.handle_resend(sequence);
    }

    fn handle_rejected(&mut self, sequence: u64, code: i32, reason: &str) -> Option<Item> {
        let item = self.messages.handle_rejected(sequence)?;
        self.bury(&item, code, reason);
        self.note_gone(std::slice::from_ref(&item));
        Some(item)
    }

    fn expire(&mut self, now: Time) -> Vec<Item> {
        let expired = self.messages.expire(now);
        self.note_gone(&expired);
        expired
    }

    fn poll_expiry(&self) -> Option<Time> {
        self.messages.poll_expiry()
    }

    fn close(&mut self) -> Vec<Item> {
        Vec::new()
    }

    fn has_room(&self, len: usize) -> bool {
        self.messages.has_room(len)
    }

    fn len(&self) -> usize {
        self.messages.len()
    }

    fn bytes(&self) -> usize {
        self.messages.bytes()
    }

    fn held(&self) -> usize {
        self.messages.bytes() + self.messages.len() * KEPT
    }

    fn last_sequence(&self) -> u64 {
        self.messages.last_sequence()
    }
}

impl Durable {
    /// Has the items up to `last` written that are not.
    fn spill(&self, work: &mut Work, now: Time, last: u64) {
        let written = self.places.back().map_or(0, |place| place.sequence);
        let wall = wall_clock();
        for item in self.messages.items() {
            let rewriting = work.purpose == Purpose::Rewriting && item.sequence <= written;
            if rewriting || (item.sequence > written && item.sequence <= last) {
                work.records.push((encode_message(item, now, wall), item.data.clone()));
                work.items.push(item.sequence);
            }
        }
    }
}

impl Head {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![HEAD_VERSION];
        for number in [self.generation, self.first, self.last] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&(self.epochs.len() as u64).to_le_bytes());
        for (start, id) in &self.epochs {
            bytes.extend_from_slice(&start.to_le_bytes());
            bytes.push(id.as_str().len() as u8);
            bytes.extend_from_slice(id.as_str().as_bytes());
        }
        bytes.extend_from_slice(&self.session);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, mut rest) = bytes.split_first()?;
        let old = *version == OLD_HEAD_VERSION;
        if !old && *version != HEAD_VERSION {
            return None;
        }
        let number = |rest: &mut &[u8]| {
            let (first, others) = rest.split_first_chunk::<8>()?;
            *rest = others;
            Some(u64::from_le_bytes(*first))
        };
        let (generation, first, last) = (number(&mut rest)?, number(&mut rest)?, number(&mut rest)?);
        if generation.max(first).max(last) > MAX_INTEGER {
            return None;
        }
        let mut left = if old { u64::MAX } else { number(&mut rest)? };
        let mut epochs = Vec::new();
        while left > 0 && !(old && rest.is_empty()) {
            left -= 1;
            let start = number(&mut rest)?;
            let (len, others) = rest.split_first()?;
            let (id, others) = others.split_at_checked(usize::from(*len))?;
            rest = others;
            epochs.push((start, Key::new(std::str::from_utf8(id).ok()?).ok()?));
        }
        Some(Self { generation, first, last, epochs, session: rest.to_vec() })
    }
}

enum Stored {
    Message { sequence: u64, binary: bool, expires: Option<Duration>, data: Bytes },
    Gone { sequence: u64 },
}

fn encode_message(item: &Item, now: Time, wall: Duration) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(PREFIX);
    prefix.extend_from_slice(&[MESSAGE, if item.binary { BINARY } else { 0 }]);
    prefix.extend_from_slice(&item.sequence.to_le_bytes());
    // The process's clock means nothing to the next one.
    let expires = item.expires.map_or(0, |at| (wall + (at - now)).as_millis() as u64);
    prefix.extend_from_slice(&expires.to_le_bytes());
    prefix
}

fn encode_gone(sequence: u64) -> Vec<u8> {
    let mut record = vec![GONE];
    record.extend_from_slice(&sequence.to_le_bytes());
    record
}

fn decode(record: Vec<u8>) -> Option<Stored> {
    let number = |at: usize| Some(u64::from_le_bytes(record.get(at..at + 8)?.try_into().ok()?));
    match *record.first()? {
        MESSAGE => {
            let (sequence, expires) = (number(2)?, number(10)?);
            if sequence > MAX_INTEGER {
                return None;
            }
            let binary = record[1] & BINARY != 0;
            let expires = (expires > 0).then(|| Duration::from_millis(expires));
            Some(Stored::Message { sequence, binary, expires, data: Bytes::from(record).slice(PREFIX..) })
        }
        GONE => Some(Stored::Gone { sequence: number(1)? }),
        _ => None,
    }
}

/// Sets each floor from the indices.
fn lower(places: &mut VecDeque<Place>) {
    let mut floor = u64::MAX;
    for place in places.iter_mut().rev() {
        floor = floor.min(place.index);
        place.floor = floor;
    }
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// One line of JSON. What is no text is in base64; an edit of a document is its payload.
fn write_letter(into: &mut Vec<u8>, outbox: &str, item: &Item, code: i32, reason: &str) {
    let mut line = String::new();
    let time = wall_clock().as_secs();
    let Item { sequence, binary, .. } = item;
    // Writing to a string does not fail.
    let _ = write!(
        line,
        "{{\"time\":{time},\"outbox\":\"{outbox}\",\"sequence\":{sequence},\"code\":{code},\"reason\":{},\"binary\":{binary},",
        quoted(reason)
    );
    let data = documents::payload(&item.data, *binary).unwrap_or_else(|| item.data.clone());
    let _ = match std::str::from_utf8(&data) {
        Ok(text) => writeln!(line, "\"data\":{}}}", quoted(text)),
        Err(_) => writeln!(line, "\"base64\":\"{}\"}}", base64(&data)),
    };
    into.extend_from_slice(line.as_bytes());
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            character if character < ' ' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(character));
            }
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

fn base64(data: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(data.len().div_ceil(3) * 4);
    for chunk in data.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() { char::from(ALPHABET[value as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests;
