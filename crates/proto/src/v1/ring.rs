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
}

/// The messages `oldest..next` of a session's stream: those that are not acknowledged, as far as the
/// limits allow. The driver copies what it gives (`Bytes::copy_from_slice`) where it would hold a
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
    /// Messages dropped before they were acknowledged.
    dropped: u64,
}

impl Ring {
    #[must_use]
    pub fn new(retention: Retention) -> Self {
        Self { retention, messages: VecDeque::new(), next: 1, acknowledged: 0, bytes: 0, dropped: 0 }
    }

    /// The ring of a stream whose messages before `next` are known to have been, and not kept.
    #[must_use]
    pub fn restore(retention: Retention, next: u64, acknowledged: u64) -> Self {
        Self { next, acknowledged, ..Self::new(retention) }
    }

    /// Appends a message and returns its number; what no longer fits goes, oldest first.
    pub fn push(&mut self, now: Time, data: Bytes, binary: bool) -> u64 {
        self.bytes += data.len();
        self.messages.push_back(Message { data, binary, at: now });
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
        while self.oldest() <= sequence && self.pop() {}
        self.acknowledged = self.acknowledged.max(sequence);
        true
    }

    /// Drops what is over the limits.
    pub fn expire(&mut self, now: Time) {
        let Retention { count, bytes, age } = self.retention;
        while let Some(oldest) = self.messages.front() {
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
    }

    /// A message that is still here.
    #[must_use]
    pub fn message(&self, sequence: u64) -> Option<&Message> {
        let index = sequence.checked_sub(self.oldest())?;
        self.messages.get(usize::try_from(index).ok()?)
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
        ring.push(now, Bytes::from(vec![b'x'; len]), false)
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
