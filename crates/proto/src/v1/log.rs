//! A channel's log: what was published, in order, for all who read it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::ring::Retention;
use super::wire::{Gap, Why, channel_header, delta_header};
use super::{ChannelName, Key, Position, ShortId};
use crate::Time;

/// A published message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub offset: u64,
    pub message_id: ShortId,
    pub at: Time,
    /// The header of the `C` frame and, behind it, the payload: the same bytes for every receiver.
    pub frame: Bytes,
    /// Where the payload begins.
    pub payload: usize,
    pub binary: bool,
    /// Sessions that it is not for.
    pub except: Option<Arc<[Key]>>,
    /// Its place in what a store is given, see [`super::server::Server::handle_written`]; 0: in none.
    pub place: u64,
    /// It changes the channel's document.
    pub document: bool,
}

/// A message of a channel that a store has kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub message_id: ShortId,
    pub at: Time,
    pub payload: Bytes,
    pub binary: bool,
    /// Sessions that it is not for.
    pub except: Vec<Key>,
    /// It changes the channel's document.
    pub document: bool,
}

/// Where a reader that names a position stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Everything behind its position is here.
    Whole,
    /// Messages are missing; what is left goes on behind `resume`.
    Missing { resume: Position, from: u64, to: Option<u64>, why: Why },
}

/// The newest messages of one channel. Offsets are contiguous within an epoch; each reader has a
/// position of its own and reads on from there, so that replay, live messages and a slow reader are one
/// case. A publisher appends and wakes the readers.
#[derive(Clone, Debug)]
pub struct ChannelLog {
    channel: ChannelName,
    retention: Retention,
    epoch: ShortId,
    entries: VecDeque<Entry>,
    /// Bytes of frames.
    bytes: usize,
    /// The last offset given.
    top: u64,
    /// The id of the message before the oldest entry.
    floor_id: ShortId,
    /// Of the newest message, also when it has gone.
    place: u64,
}

impl ChannelLog {
    /// An empty log. An epoch must never be used again with other messages.
    #[must_use]
    pub fn new(channel: ChannelName, retention: Retention, epoch: ShortId) -> Self {
        Self {
            channel,
            retention,
            epoch,
            entries: VecDeque::new(),
            bytes: 0,
            top: 0,
            floor_id: ShortId::none(),
            place: 0,
        }
    }

    /// A log that has had messages up to `position`, which were not kept, and behind it those that were.
    #[must_use]
    pub fn restore(
        now: Time,
        channel: ChannelName,
        retention: Retention,
        position: Position,
        kept: Vec<Published>,
    ) -> Self {
        let mut log = Self::new(channel, retention, position.epoch);
        log.top = position.offset;
        log.floor_id = position.message_id;
        for Published { message_id, at, payload, binary, except, document } in kept {
            log.append_framed(at, message_id, &payload, binary, &except, 0, document);
        }
        log.expire(now);
        log
    }

    /// Appends a message that is not for the sessions of `except`; returns its position.
    pub fn append(
        &mut self,
        now: Time,
        message_id: ShortId,
        payload: &[u8],
        binary: bool,
        except: &[Key],
        place: u64,
    ) -> Position {
        self.append_framed(now, message_id, payload, binary, except, place, false)
    }

    /// Appends a change of the channel's document.
    pub fn append_delta(&mut self, now: Time, message_id: ShortId, payload: &[u8], place: u64) -> Position {
        self.append_framed(now, message_id, payload, false, &[], place, true)
    }

    #[expect(clippy::too_many_arguments)]
    fn append_framed(
        &mut self,
        now: Time,
        message_id: ShortId,
        payload: &[u8],
        binary: bool,
        except: &[Key],
        place: u64,
        document: bool,
    ) -> Position {
        self.top += 1;
        self.place = place;
        let position = Position { epoch: self.epoch.clone(), offset: self.top, message_id };
        let mut frame = if document {
            delta_header(&self.channel, &position).into_bytes()
        } else {
            channel_header('C', &self.channel, &position).into_bytes()
        };
        let header = frame.len();
        frame.reserve_exact(payload.len());
        frame.extend_from_slice(payload);
        self.bytes += frame.len();
        self.entries.push_back(Entry {
            offset: self.top,
            message_id: position.message_id.clone(),
            at: now,
            frame: frame.into(),
            payload: header,
            binary,
            except: (!except.is_empty()).then(|| except.into()),
            place,
            document,
        });
        self.expire(now);
        position
    }

    /// Drops what is over the limits. Count and age do not hold for what is younger than [`FRESH`].
    pub fn expire(&mut self, now: Time) {
        let Retention { count, bytes, age } = self.retention;
        while let Some(oldest) = self.entries.front() {
            let too_big = self.bytes > bytes && self.entries.len() > 1;
            let too_many = self.entries.len() > count.max(1) || now >= oldest.at + age;
            let fresh = now < oldest.at + FRESH;
            if !too_big && (fresh || !too_many) {
                return;
            }
            self.pop();
        }
    }

    /// Drops all messages, for want of memory.
    pub fn clear(&mut self) {
        while self.pop() {}
        self.entries = VecDeque::new();
    }

    /// The entry behind `position`; `None`: nothing newer, or gone (see [`ChannelLog::standing`]).
    #[must_use]
    pub fn after(&self, position: &Position) -> Option<&Entry> {
        if position.epoch != self.epoch {
            return None;
        }
        let index = position.offset.checked_sub(self.floor())?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// The position behind the last message.
    #[must_use]
    pub fn top(&self) -> Position {
        let id = self.entries.back().map_or(&self.floor_id, |entry| &entry.message_id);
        Position { epoch: self.epoch.clone(), offset: self.top, message_id: id.clone() }
    }

    /// Whether all behind `position` is here.
    #[must_use]
    pub fn standing(&self, position: &Position) -> Standing {
        if position.epoch != self.epoch {
            let from = position.offset + 1;
            return Standing::Missing { resume: self.bottom(), from, to: None, why: Why::Epoch };
        }
        if position.offset < self.floor() {
            let (from, to) = (position.offset + 1, self.floor());
            return Standing::Missing { resume: self.bottom(), from, to: Some(to), why: Why::History };
        }
        if self.message_id(position.offset) == Some(&position.message_id) {
            Standing::Whole
        } else {
            // Ahead of the log, or another message has that offset: what the reader saw since some
            // unknown offset is not what is here. What is here may be new to it or not, so it starts
            // at the top.
            let to = Some(self.top.max(1));
            Standing::Missing { resume: self.top(), from: 1, to, why: Why::Diverged }
        }
    }

    /// The place of the newest message, see [`Entry::place`].
    #[must_use]
    pub fn place(&self) -> u64 {
        self.place
    }

    #[must_use]
    pub fn epoch(&self) -> &ShortId {
        &self.epoch
    }

    #[must_use]
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of frames held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All that are here.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The message at `offset`, if it is here.
    #[must_use]
    pub fn entry(&self, offset: u64) -> Option<&Entry> {
        let index = offset.checked_sub(self.floor() + 1)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// The position before the oldest message that is here.
    #[must_use]
    pub fn bottom(&self) -> Position {
        Position { epoch: self.epoch.clone(), offset: self.floor(), message_id: self.floor_id.clone() }
    }

    fn floor(&self) -> u64 {
        self.top - self.entries.len() as u64
    }

    /// The id of the message at `offset`, where it is known.
    fn message_id(&self, offset: u64) -> Option<&ShortId> {
        match offset.checked_sub(self.floor())? {
            0 => Some(&self.floor_id),
            distance => self.entries.get(usize::try_from(distance - 1).ok()?).map(|entry| &entry.message_id),
        }
    }

    fn pop(&mut self) -> bool {
        let Some(entry) = self.entries.pop_front() else { return false };
        self.bytes -= entry.frame.len();
        self.floor_id = entry.message_id;
        true
    }
}

/// Readers that are connected are expected to be so fast, however much is published at once.
pub const FRESH: Duration = Duration::from_secs(10);

impl Standing {
    /// The gap to report, where messages are missing.
    #[must_use]
    pub fn gap(&self, channel: &ChannelName) -> Option<Gap> {
        match self {
            Self::Whole => None,
            Self::Missing { from, to, why, .. } => {
                Some(Gap { channel: Some(channel.clone()), from: *from, to: *to, why: why.clone() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str) -> ShortId {
        ShortId::new(id).unwrap()
    }

    fn at(epoch: &str, offset: u64, message_id: &str) -> Position {
        Position { epoch: id(epoch), offset, message_id: id(message_id) }
    }

    /// Messages `m1` to `m<count>`, of which the last three are kept.
    fn log(count: u64) -> ChannelLog {
        let retention = Retention { count: 3, bytes: 1000, age: Duration::from_secs(60) };
        let mut log = ChannelLog::new(ChannelName::new("news").unwrap(), retention, id("e1"));
        for offset in 1..=count {
            log.append(Time::ZERO, id(&format!("m{offset}")), format!("{offset}").as_bytes(), false, &[], 0);
        }
        assert_eq!(log.len(), count as usize);
        log.expire(Time::ZERO + FRESH);
        log
    }

    fn missing(log: &ChannelLog, position: &Position) -> (u64, u64, Option<u64>, Why) {
        match log.standing(position) {
            Standing::Missing { resume, from, to, why } => (resume.offset, from, to, why),
            Standing::Whole => panic!("whole"),
        }
    }

    #[test]
    fn readers_go_on_where_they_are() {
        let log = log(5);
        assert_eq!(log.standing(&at("e1", 3, "m3")), Standing::Whole);
        let entry = log.after(&at("e1", 3, "m3")).unwrap();
        assert_eq!((entry.offset, &*entry.frame), (4, b"C news e1 4 m4\n4".as_slice()));
        assert_eq!(&entry.frame[entry.payload..], b"4");
        assert_eq!(log.after(&at("e1", 4, "m4")).unwrap().offset, 5);
        assert_eq!(log.after(&at("e1", 5, "m5")), None);
        assert_eq!(log.after(&at("e0", 3, "m3")), None);
        assert_eq!(log.top(), at("e1", 5, "m5"));
    }

    #[test]
    fn at_the_edges_nothing_is_missing() {
        // Exactly at the top, also when nothing is kept any more.
        let mut log = log(5);
        assert_eq!(log.standing(&at("e1", 5, "m5")), Standing::Whole);
        // Exactly before the oldest that is kept.
        assert_eq!(log.standing(&at("e1", 2, "m2")), Standing::Whole);
        log.clear();
        assert_eq!(log.standing(&at("e1", 5, "m5")), Standing::Whole);
        assert_eq!(missing(&log, &at("e1", 4, "m4")), (5, 5, Some(5), Why::History));
        let empty = self::log(0);
        assert_eq!(empty.standing(&at("e1", 0, "-")), Standing::Whole);
    }

    #[test]
    fn too_little_history_is_a_gap_up_to_what_is_left() {
        assert_eq!(missing(&log(5), &at("e1", 0, "-")), (2, 1, Some(2), Why::History));
        assert_eq!(missing(&log(5), &at("e1", 1, "m1")), (2, 2, Some(2), Why::History));
    }

    #[test]
    fn another_epoch_is_a_gap_without_an_end() {
        assert_eq!(missing(&log(2), &at("e0", 41, "m41")), (0, 42, None, Why::Epoch));
    }

    #[test]
    fn a_log_that_was_rolled_back_is_found_out() {
        // Another message has the offset.
        assert_eq!(missing(&log(5), &at("e1", 4, "old4")), (5, 1, Some(5), Why::Diverged));
        // Before the oldest that is kept, where the id is still known.
        assert_eq!(missing(&log(5), &at("e1", 2, "old2")), (5, 1, Some(5), Why::Diverged));
        // Ahead of the log.
        assert_eq!(missing(&log(5), &at("e1", 6, "m6")), (5, 1, Some(5), Why::Diverged));
        assert_eq!(missing(&log(0), &at("e1", 1, "m1")), (0, 1, Some(1), Why::Diverged));
    }

    #[test]
    fn age_and_bytes_bound_it() {
        let mut log = log(3);
        log.expire(Time::from_micros(59_999_999));
        assert_eq!(log.len(), 3);
        log.append(Time::from_micros(59_999_999), id("m4"), &[b'x'; 2000], true, &[], 0);
        assert_eq!(log.len(), 1);
        log.expire(Time::from_micros(200_000_000));
        assert_eq!((log.len(), log.bytes(), log.top().offset), (0, 0, 4));
        let now = Time::from_micros(200_000_000);
        let restored = ChannelLog::restore(now, log.channel().clone(), Retention::default(), log.top(), Vec::new());
        assert_eq!(restored.standing(&at("e1", 4, "m4")), Standing::Whole);
        assert_eq!(missing(&restored, &at("e1", 3, "m3")), (4, 4, Some(4), Why::History));
    }
}
