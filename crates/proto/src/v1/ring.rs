//! What a session keeps of its stream, to send it again after a loss.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::Time;

/// How much is kept for those who come back: the options `resume.*`. Of a session's stream and of a
/// channel's log each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Messages.
    pub count: usize,
    /// Bytes of payload; the newest message is kept also when it alone is more.
    pub bytes: usize,
    pub age: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { count: 1000, bytes: 1024 * 1024, age: Duration::from_secs(120) }
    }
}

/// A message of the stream. Its number follows from its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub data: Bytes,
    pub binary: bool,
    /// When it was sent.
    pub at: Time,
    /// Its place in what a store is given, see [`super::server::Server::handle_written`]; 0: in none.
    pub place: u64,
}

/// The messages `oldest..next` of a session's stream: those that are not acknowledged, as far as the
/// limits allow, and those that a connection has not taken yet. The driver copies what it gives (`Bytes::copy_from_slice`) where it would hold a
/// bigger buffer.
#[derive(Clone, Debug)]
pub struct Ring {
    retention: Retention,
    messages: VecDeque<Message>,
    /// The number of the next message.
    next: u64,
    /// Everything up to this was acknowledged.
    acknowledged: u64,
    bytes: usize,
    /// The next message to hand to the connection; from it on nothing is dropped. `None`: there is none.
    cursor: Option<u64>,
    /// The last message that any connection was given, or need not be given.
    taken: u64,
    /// Of payload, from the cursor on.
    unsent_bytes: usize,
    /// Messages dropped before they were acknowledged.
    dropped: u64,
}

impl Ring {
    #[must_use]
    pub fn new(retention: Retention) -> Self {
        Self {
            retention,
            messages: VecDeque::new(),
            next: 1,
            acknowledged: 0,
            bytes: 0,
            cursor: None,
            taken: 0,
            unsent_bytes: 0,
            dropped: 0,
        }
    }

    /// The ring of a stream that has had the messages before `next`, of which the last ones were kept.
    #[must_use]
    pub fn restore(
        now: Time,
        retention: Retention,
        next: u64,
        acknowledged: u64,
        mut messages: VecDeque<Message>,
    ) -> Self {
        let room = usize::try_from(next.saturating_sub(acknowledged + 1)).unwrap_or(usize::MAX);
        messages.drain(..messages.len().saturating_sub(room));
        let bytes = messages.iter().map(|message| message.data.len()).sum();
        let mut ring = Self { next, acknowledged, taken: next - 1, bytes, messages, ..Self::new(retention) };
        ring.expire(now);
        ring
    }

    /// Appends a message and returns its number; what no longer fits goes, oldest first.
    pub fn push(&mut self, now: Time, data: Bytes, binary: bool, place: u64) -> u64 {
        self.bytes += data.len();
        if self.cursor.is_some() {
            self.unsent_bytes += data.len();
        }
        self.messages.push_back(Message { data, binary, at: now, place });
        self.next += 1;
        self.expire(now);
        self.next - 1
    }

    /// The peer has everything up to `sequence`. False: it was never sent.
    #[must_use]
    pub fn handle_acknowledged(&mut self, sequence: u64) -> bool {
        if sequence >= self.next {
            return false;
        }
        // A client may have it from an earlier connection, and handle it before it comes again.
        while let Some(cursor) = self.cursor.filter(|cursor| *cursor <= sequence) {
            self.unsent_bytes -= self.message(cursor).map_or(0, |message| message.data.len());
            self.move_to(cursor + 1);
        }
        while self.oldest() <= sequence && self.pop() {}
        self.acknowledged = self.acknowledged.max(sequence);
        true
    }

    /// A connection takes messages from `from` on, or from the oldest that is here.
    pub fn attach(&mut self, from: u64) {
        let cursor = from.clamp(self.oldest(), self.next);
        self.move_to(cursor);
        self.unsent_bytes = (cursor..self.next).filter_map(|s| self.message(s)).map(|message| message.data.len()).sum();
    }

    /// The connection is gone; the limits hold for all messages again.
    pub fn detach(&mut self, now: Time) {
        self.cursor = None;
        self.unsent_bytes = 0;
        self.expire(now);
    }

    /// The connection takes the next message, if there is one, its number is at most `last` and its place at
    /// most `written`.
    pub fn take(&mut self, last: u64, written: u64) -> Option<(u64, Message)> {
        self.take_next(last, written).map(|(sequence, message)| (sequence, message.clone()))
    }

    /// As [`Ring::take`], where it lies.
    pub fn take_next(&mut self, last: u64, written: u64) -> Option<(u64, &Message)> {
        let sequence = self.cursor.filter(|cursor| *cursor <= last)?;
        let index = usize::try_from(sequence.checked_sub(self.oldest())?).ok()?;
        let len = self.messages.get(index).filter(|message| message.place <= written)?.data.len();
        self.move_to(sequence + 1);
        self.unsent_bytes -= len;
        self.messages.get(index).map(|message| (sequence, message))
    }

    /// Whether [`Ring::take_hole`] has something to report.
    #[must_use]
    pub fn has_hole(&self) -> bool {
        self.cursor.is_some_and(|cursor| cursor < self.oldest())
    }

    /// Whether the connection's next message has a later place than `written`.
    #[must_use]
    pub fn is_held(&self, written: u64) -> bool {
        self.cursor.and_then(|cursor| self.message(cursor)).is_some_and(|message| message.place > written)
    }

    /// Messages that the connection should have been given and that are gone: from, to. Reported once.
    pub fn take_hole(&mut self) -> Option<(u64, u64)> {
        let (from, oldest) = (self.cursor?, self.oldest());
        (from < oldest).then(|| {
            self.move_to(oldest);
            (from, oldest - 1)
        })
    }

    /// The last message that the connection was given, or that it need not be given.
    #[must_use]
    pub fn sent(&self) -> Option<u64> {
        self.cursor.map(|cursor| cursor - 1)
    }

    /// The last message that any connection was given, or need not be given: a client has no later one.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes of payload that the connection has not taken. No limit of the ring's holds for them: the
    /// driver has one of its own.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    /// Messages that the connection has not taken.
    #[must_use]
    pub fn unsent_len(&self) -> usize {
        self.cursor.map_or(0, |cursor| usize::try_from(self.next - cursor).unwrap_or(usize::MAX).min(self.len()))
    }

    /// Drops what is over the limits and has been sent.
    pub fn expire(&mut self, now: Time) {
        let Retention { count, bytes, age } = self.retention;
        while let Some(oldest) = self.messages.front() {
            if self.cursor.is_some_and(|cursor| self.oldest() >= cursor) {
                return;
            }
            let over = self.messages.len() > count.max(1) || (self.bytes > bytes && self.messages.len() > 1);
            if !over && now < oldest.at + age {
                return;
            }
            self.pop();
            self.dropped += 1;
        }
    }

    /// Drops everything, for want of memory.
    pub fn clear(&mut self) {
        self.dropped += self.messages.len() as u64;
        self.messages = VecDeque::new();
        self.bytes = 0;
        self.unsent_bytes = 0;
    }

    /// A message that is still here.
    #[must_use]
    pub fn message(&self, sequence: u64) -> Option<&Message> {
        let index = sequence.checked_sub(self.oldest())?;
        self.messages.get(usize::try_from(index).ok()?)
    }

    /// All that are here, with their numbers.
    pub fn messages(&self) -> impl Iterator<Item = (u64, &Message)> {
        (self.oldest()..).zip(&self.messages)
    }

    /// The number of the oldest message that is here; [`Ring::next`] when there is none.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.next - self.messages.len() as u64
    }

    /// The number that the next message will have.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Everything up to this was acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Bytes of payload held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Messages that went before they were acknowledged.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn move_to(&mut self, cursor: u64) {
        self.cursor = Some(cursor);
        self.taken = self.taken.max(cursor - 1);
    }

    fn pop(&mut self) -> bool {
        let Some(message) = self.messages.pop_front() else { return false };
        self.bytes -= message.data.len();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    fn push(ring: &mut Ring, now: Time, len: usize) -> u64 {
        ring.push(now, Bytes::from(vec![b'x'; len]), false, 0)
    }

    #[test]
    fn count_bytes_and_age_bound_it() {
        let mut ring = Ring::new(Retention { count: 3, bytes: 10, age: Duration::from_secs(5) });
        assert_eq!([push(&mut ring, at(0), 1), push(&mut ring, at(1), 1), push(&mut ring, at(2), 1)], [1, 2, 3]);
        assert_eq!((ring.oldest(), ring.next()), (1, 4));
        push(&mut ring, at(3), 1);
        assert_eq!((ring.oldest(), ring.len(), ring.bytes()), (2, 3, 3));
        push(&mut ring, at(3), 9);
        assert_eq!((ring.oldest(), ring.len(), ring.bytes()), (4, 2, 10));
        push(&mut ring, at(4), 50);
        assert_eq!((ring.oldest(), ring.len(), ring.bytes()), (6, 1, 50));
        ring.expire(at(8));
        assert_eq!(ring.len(), 1);
        ring.expire(at(9));
        assert_eq!((ring.len(), ring.oldest(), ring.next(), ring.dropped()), (0, 7, 7, 6));
    }

    #[test]
    fn what_a_connection_has_not_taken_stays() {
        let mut ring = Ring::new(Retention { count: 2, bytes: 10, age: Duration::from_secs(5) });
        push(&mut ring, at(0), 1);
        ring.attach(1);
        for _ in 0..5 {
            push(&mut ring, at(0), 3);
        }
        ring.expire(at(99));
        assert_eq!((ring.oldest(), ring.len(), ring.unsent_bytes()), (1, 6, 16));
        assert_eq!(ring.take(0, 0), None);
        assert_eq!([1, 2, 3].map(|_| ring.take(9, 0).unwrap().0), [1, 2, 3]);
        assert_eq!((ring.unsent_bytes(), ring.sent()), (9, Some(3)));
        push(&mut ring, at(99), 3);
        // What was sent is kept as the limits say, here not at all.
        assert_eq!((ring.oldest(), ring.take_hole()), (4, None));
        ring.detach(at(99));
        assert_eq!((ring.len(), ring.oldest(), ring.unsent_bytes()), (1, 7, 0));
        ring.attach(6);
        assert_eq!(ring.take(9, 0).unwrap().0, 7);
        push(&mut ring, at(99), 3);
        ring.clear();
        assert_eq!((ring.take_hole(), ring.take_hole(), ring.take(9, 0)), (Some((8, 8)), None, None));
    }

    #[test]
    fn acknowledged_ones_go_and_strange_acknowledgements_are_refused() {
        let mut ring = Ring::new(Retention::default());
        for _ in 0..4 {
            push(&mut ring, at(0), 2);
        }
        assert!(ring.handle_acknowledged(2));
        assert_eq!((ring.oldest(), ring.bytes(), ring.acknowledged()), (3, 4, 2));
        assert!(ring.handle_acknowledged(1));
        assert_eq!((ring.oldest(), ring.acknowledged()), (3, 2));
        assert!(!ring.handle_acknowledged(5));
        assert_eq!(ring.message(2), None);
        assert!(ring.message(3).is_some() && ring.message(4).is_some());
        assert_eq!(ring.message(5), None);
        ring.clear();
        assert_eq!((ring.oldest(), ring.next(), ring.dropped()), (5, 5, 2));
        assert!(ring.handle_acknowledged(4));
    }
}
