//! A store that keeps messages, as a server's driver uses one: records wait, are appended in batches, and some time later
//! the disk has them. What died with a process is what waited, what died with the power all that was not synced.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lifeline_proto::Time;
use lifeline_proto::v1::log::{ChannelLog, Entry, Published};
use lifeline_proto::v1::records::{Found, Record};
use lifeline_proto::v1::ring::Message;
use lifeline_proto::v1::server::{Server, Stored};
use lifeline_proto::v1::wire::Reject;
use lifeline_proto::v1::{ChannelName, Key, ShortId};

use super::schedule::Numbers;

#[derive(Clone, Default)]
pub struct Book {
    /// What the system has.
    log: Vec<Record>,
    /// So many of it are on the disk.
    synced: usize,
    /// Messages, and what is written anew.
    staged: Vec<Record>,
    /// Sessions and channels of which the newest is to be written.
    pub changed: BTreeSet<Key>,
    pub moved: BTreeSet<ChannelName>,
    gone: Vec<Key>,
    pub marks: BTreeMap<Key, u64>,
    /// Appended, and not durable.
    written: BTreeMap<Key, u64>,
    under_way: Option<Batch>,
    anew: Option<Anew>,
    checkpoint: Vec<Record>,
}

/// Taken, and not appended.
#[derive(Clone)]
struct Batch {
    records: Vec<Record>,
    marks: BTreeMap<Key, u64>,
    place: u64,
}

/// All that is so is written behind what there was, which then goes.
#[derive(Clone)]
struct Anew {
    before: usize,
    items: VecDeque<Whole>,
}

#[derive(Clone)]
enum Whole {
    Session(Key),
    Inbox(Key),
    Channel(ChannelName),
}

impl Book {
    pub fn add_message(&mut self, session: &Key, sequence: u64, message: &Message) {
        let message = Message { place: 0, ..message.clone() };
        let at = message.at.as_micros();
        self.staged.push(Record::Message { session: session.clone(), sequence, at, message });
    }

    fn add_published(&mut self, channel: &ChannelName, epoch: &ShortId, entry: &Entry) {
        let published = Published {
            message_id: entry.message_id.clone(),
            at: entry.at,
            payload: entry.frame.slice(entry.payload..),
            binary: entry.binary,
            except: entry.except.as_deref().unwrap_or_default().to_vec(),
            document: entry.document,
        };
        let (channel, epoch, offset, at) = (channel.clone(), epoch.clone(), entry.offset, entry.at.as_micros());
        self.staged.push(Record::Published { channel, epoch, offset, at, published });
    }

    /// What was published waits for the next batch.
    pub fn stage_published(&mut self, server: &mut Server<Numbers>) {
        while let Some((channel, log, entry)) = server.poll_published() {
            self.add_published(&channel, log.epoch(), entry);
        }
    }

    pub fn forget(&mut self, session: &Key) {
        self.changed.remove(session);
        self.gone.push(session.clone());
    }

    pub fn is_quiet(&self) -> bool {
        self.marks.is_empty() && self.written.is_empty() && self.under_way.is_none()
    }

    /// Marks wait to be durable, or something to be appended.
    pub fn has_news(&self, server: &Server<Numbers>) -> bool {
        let still = self.staged.is_empty() && self.changed.is_empty() && self.gone.is_empty() && self.moved.is_empty();
        !still || !self.is_quiet() || server.is_unwritten()
    }

    /// Takes what waits; true: there was nothing on its way.
    pub fn take(&mut self, server: &mut Server<Numbers>) -> bool {
        if self.under_way.is_some() {
            return false;
        }
        self.stage_published(server);
        let mut records = std::mem::take(&mut self.staged);
        records.extend(self.gone.drain(..).map(Record::SessionGone));
        for key in std::mem::take(&mut self.changed) {
            records.extend(session_record(server, &key));
        }
        for channel in std::mem::take(&mut self.moved) {
            let top = server.channel_log(&channel).map(ChannelLog::top);
            records.extend(top.map(|top| Record::Place(channel, top)));
        }
        // Last: that something was handled must not be known without what its handler has sent.
        let marks = std::mem::take(&mut self.marks);
        records.extend(marks.iter().filter_map(|(outbox, handled)| inbox_record(server, outbox, *handled)));
        self.under_way = Some(Batch { records, marks, place: server.place() });
        true
    }

    /// What is on its way arrives.
    pub fn arrive(&mut self, server: &mut Server<Numbers>) {
        let Some(Batch { records, marks, place }) = self.under_way.take() else { return };
        self.log.extend(records);
        for (outbox, handled) in marks {
            let mark = self.written.entry(outbox).or_insert(handled);
            *mark = handled.max(*mark);
        }
        server.handle_written(place);
    }

    /// Appends all that waits.
    pub fn append(&mut self, server: &mut Server<Numbers>) {
        self.arrive(server);
        self.take(server);
        self.arrive(server);
    }

    /// All that was appended is durable; returns the marks that may be acknowledged, with what is stored of them.
    pub fn sync(&mut self) -> BTreeMap<Key, u64> {
        self.synced = self.log.len();
        std::mem::take(&mut self.written)
    }

    /// A piece of what there is to be written anew.
    pub fn write_anew(&mut self, server: &mut Server<Numbers>) -> bool {
        let Some(mut anew) = self.anew.take() else {
            self.append(server);
            let sessions = server.session_keys().cloned().map(Whole::Session);
            let inboxes = server.inbox_keys().cloned().map(Whole::Inbox);
            let channels = server.channel_names().cloned().map(Whole::Channel);
            let items = sessions.chain(inboxes).chain(channels).collect();
            self.anew = Some(Anew { before: self.log.len(), items });
            return false;
        };
        for _ in 0..2 {
            match anew.items.pop_front() {
                Some(Whole::Session(key)) => {
                    let known = server.session(&key).and_then(|session| session.record().known);
                    self.staged.extend(session_record(server, &key));
                    self.staged.extend(known.map(|known| Record::Known(key.clone(), known)));
                    let messages = server.session(&key).map(|session| session.ring().messages().collect::<Vec<_>>());
                    for (sequence, message) in messages.into_iter().flatten() {
                        self.add_message(&key, sequence, message);
                    }
                }
                Some(Whole::Inbox(outbox)) => {
                    let Some(inbox) = server.inbox(&outbox) else { continue };
                    let waiting = self.marks.get(&outbox).max(self.written.get(&outbox)).copied().unwrap_or(0);
                    self.staged.extend(inbox_record(server, &outbox, inbox.acknowledged().max(waiting)));
                }
                Some(Whole::Channel(channel)) => {
                    let Some(log) = server.channel_log(&channel) else { continue };
                    let bottom = log.bottom();
                    self.staged.push(Record::Place(channel.clone(), bottom.clone()));
                    for entry in log.entries() {
                        self.add_published(&channel, &bottom.epoch, entry);
                    }
                }
                None => break,
            }
        }
        self.append(server);
        if !anew.items.is_empty() {
            self.anew = Some(anew);
            return false;
        }
        // Durable first: until then a power cut finds the old, too.
        self.synced = self.log.len() - anew.before;
        self.log.drain(..anew.before);
        true
    }

    pub fn checkpoint(&mut self) {
        self.checkpoint = self.log.clone();
    }

    /// The process dies; so many records of the batch that is on its way have come to the system.
    pub fn die(&mut self, torn: usize) {
        let batch = self.under_way.take().map(|batch| batch.records).unwrap_or_default();
        self.log.extend(batch.into_iter().take(torn));
        let (log, synced) = (std::mem::take(&mut self.log), self.synced);
        let checkpoint = std::mem::take(&mut self.checkpoint);
        *self = Self { log, synced, checkpoint, staged: vec![Record::Began], ..Self::default() };
    }

    /// The power is gone, and with it all but so many of the records that were not synced.
    pub fn lose(&mut self, but: usize) {
        let unsynced = self.log.len() - self.synced;
        self.log.truncate(self.synced + but % (unsynced + 1));
        self.synced = self.log.len();
    }

    pub fn roll_back(&mut self) {
        self.log = self.checkpoint.clone();
        self.synced = self.log.len();
    }

    /// What the next process finds.
    pub fn found(&self, now: Time, age: Duration) -> Stored {
        let mut found = Found::default();
        self.log.iter().cloned().for_each(|record| found.take(record));
        found.finish(now, 0, age)
    }
}

fn session_record(server: &Server<Numbers>, key: &Key) -> Option<Record> {
    server.stored_session(key).map(|(record, owner): (_, Option<Arc<str>>)| Record::Session(Box::new(record), owner))
}

fn inbox_record(server: &Server<Numbers>, outbox: &Key, handled: u64) -> Option<Record> {
    let inbox = server.inbox(outbox)?;
    let rejected: Vec<Reject> = inbox.rejected().filter(|reject| reject.sequence <= handled).cloned().collect();
    Some(Record::Inbox(outbox.clone(), inbox.generation(), handled, rejected))
}
