//! When a cumulative acknowledgement is due.

use std::time::Duration;

use crate::Time;

/// Acknowledged at the latest after so many messages …
pub(super) const MESSAGES: u32 = 32;
/// … bytes of payload …
pub(super) const BYTES: usize = 64 * 1024;
/// … or so much time.
const DELAY: Duration = Duration::from_secs(1);

/// One direction's acknowledgements. The driver tells what may be acknowledged, asks [`AckSchedule::poll`]
/// and piggybacks [`AckSchedule::take`] on what it sends anyway.
#[derive(Clone, Debug, Default)]
pub struct AckSchedule {
    mark: u64,
    /// What the peer was told on this connection.
    told: u64,
    messages: u32,
    bytes: usize,
    /// When the first message that is not acknowledged came.
    since: Option<Time>,
    /// Due whatever the counts say.
    wanted: bool,
}

impl AckSchedule {
    /// The peer knows that everything up to `mark` is settled.
    #[must_use]
    pub fn new(mark: u64) -> Self {
        Self { mark, told: mark, ..Self::default() }
    }

    /// Everything up to `mark` is settled; `bytes` of payload came with it. True: [`AckSchedule::poll`] has one now,
    /// or the first that [`AckSchedule::poll_timeout`] tells of.
    pub fn handle_settled(&mut self, now: Time, mark: u64, bytes: usize) -> bool {
        if mark <= self.mark {
            return false;
        }
        let count = u32::try_from(mark - self.mark).unwrap_or(u32::MAX);
        self.mark = mark;
        self.messages = self.messages.saturating_add(count);
        self.bytes = self.bytes.saturating_add(bytes);
        self.since.replace(self.since.unwrap_or(now)).is_none() || self.wanted || self.is_much()
    }

    /// A duplicate came: the peer does not know the mark, tell it again.
    pub fn handle_duplicate(&mut self) {
        self.wanted |= self.mark > 0;
    }

    /// A batch of the application's work has ended.
    pub fn handle_batch_end(&mut self) {
        self.wanted |= self.mark > self.told;
    }

    /// The acknowledgement that is due, if one is.
    pub fn poll(&mut self, now: Time) -> Option<u64> {
        let due = self.wanted || self.is_much() || self.since.is_some_and(|since| now >= since + DELAY);
        if due { self.take() } else { None }
    }

    /// The acknowledgement that has not been told, due or not, or is to be told again: for a message that goes out anyway.
    pub fn take(&mut self) -> Option<u64> {
        self.messages = 0;
        self.bytes = 0;
        self.since = None;
        let wanted = std::mem::take(&mut self.wanted);
        (self.mark > self.told || wanted).then(|| {
            self.told = self.mark;
            self.mark
        })
    }

    /// Messages and bytes that wait to be acknowledged.
    pub(super) fn waiting(&self) -> (u32, usize) {
        (self.messages, self.bytes)
    }

    fn is_much(&self) -> bool {
        self.messages >= MESSAGES || self.bytes >= BYTES
    }

    /// When [`AckSchedule::poll`] wants to be asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.since.map(|since| since + DELAY)
    }

    /// What may be acknowledged.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1000)
    }

    #[test]
    fn a_second_32_messages_or_64_kib() {
        let mut acks = AckSchedule::new(5);
        acks.handle_settled(at(0), 6, 10);
        acks.handle_settled(at(10), 7, 10);
        assert_eq!(acks.poll(at(999)), None);
        assert_eq!(acks.poll_timeout(), Some(at(1000)));
        assert_eq!(acks.poll(at(1000)), Some(7));
        assert_eq!((acks.poll(at(9000)), acks.poll_timeout()), (None, None));

        for q in 8..=38 {
            acks.handle_settled(at(9000), q, 1);
            assert_eq!(acks.poll(at(9000)), None, "{q}");
        }
        acks.handle_settled(at(9000), 39, 1);
        assert_eq!(acks.poll(at(9000)), Some(39));

        acks.handle_settled(at(9000), 40, 64 * 1024 - 1);
        assert_eq!(acks.poll(at(9000)), None);
        acks.handle_settled(at(9000), 41, 1);
        assert_eq!(acks.poll(at(9000)), Some(41));
        // Nothing moves backwards.
        acks.handle_settled(at(9000), 40, 1 << 20);
        assert_eq!(acks.poll(at(99_000)), None);
    }

    #[test]
    fn the_end_of_a_batch_and_a_message_that_goes_out_anyway() {
        let mut acks = AckSchedule::new(0);
        acks.handle_batch_end();
        assert_eq!(acks.poll(at(0)), None);
        acks.handle_settled(at(0), 1, 1);
        acks.handle_batch_end();
        assert_eq!(acks.poll(at(0)), Some(1));
        acks.handle_settled(at(0), 2, 1);
        assert_eq!(acks.take(), Some(2));
        acks.handle_batch_end();
        assert_eq!((acks.poll(at(9000)), acks.take()), (None, None));
    }

    #[test]
    fn a_duplicate_is_told_the_mark_again() {
        let mut acks = AckSchedule::new(4);
        acks.handle_duplicate();
        assert_eq!(acks.poll(at(0)), Some(4));
        assert_eq!(acks.poll(at(0)), None);
        // Also by a message that goes out anyway.
        acks.handle_duplicate();
        assert_eq!((acks.take(), acks.take(), acks.poll(at(0))), (Some(4), None, None));
        let mut nothing = AckSchedule::new(0);
        nothing.handle_duplicate();
        assert_eq!(nothing.poll(at(0)), None);
    }
}
