//! When a connection's task wants to be woken, and for which moments the wheel of its shard has an entry.
//!
//! What is in the wheel cannot be taken out, so entries are used again: one that comes before its
//! connection wants to be woken moves on, which costs less than a turn of the task. A beat that was
//! answered leaves such an entry behind, because its deadline is in the wheel.

use std::sync::atomic::{AtomicU64, Ordering};

use lifeline_proto::Time;

const NEVER: u64 = u64::MAX;

/// See the module's documentation. Shared in name only: all of it happens on the thread that does the
/// shard's work. Moments are in microseconds.
#[derive(Debug)]
pub struct Alarm {
    wanted: AtomicU64,
    /// The first entry that is still to come.
    first: AtomicU64,
    /// The one that was first before that.
    second: AtomicU64,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { wanted: AtomicU64::new(NEVER), first: AtomicU64::new(NEVER), second: AtomicU64::new(NEVER) }
    }
}

impl Alarm {
    /// The task wants to be woken at `at`, not at what it wanted before. Returns the moment of an entry
    /// that the wheel needs for this.
    pub fn want(&self, at: Option<Time>, now: Time) -> Option<Time> {
        self.wanted.store(at.map_or(NEVER, Time::as_micros), Ordering::Relaxed);
        self.pass(now);
        self.enter()
    }

    /// An entry has come: whether the task is to be woken, else the moment of the next entry that the
    /// wheel needs.
    pub fn ring(&self, now: Time) -> Result<(), Option<Time>> {
        self.pass(now);
        if self.wanted.load(Ordering::Relaxed) <= now.as_micros() {
            return Ok(());
        }
        Err(self.enter())
    }

    /// Forgets entries that have come.
    fn pass(&self, now: Time) {
        while self.first.load(Ordering::Relaxed) <= now.as_micros() {
            self.first.store(self.second.swap(NEVER, Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    fn enter(&self) -> Option<Time> {
        let (wanted, first) = (self.wanted.load(Ordering::Relaxed), self.first.load(Ordering::Relaxed));
        (wanted < first).then(|| {
            self.second.store(first, Ordering::Relaxed);
            self.first.store(wanted, Ordering::Relaxed);
            Time::from_micros(wanted)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn an_answered_beat_costs_one_turn_and_two_entries() {
        let alarm = Alarm::default();
        assert_eq!(alarm.want(Some(at(25)), at(1)), Some(at(25)));
        assert_eq!(alarm.ring(at(25)), Ok(()));
        // Its deadline, then the answer.
        assert_eq!(alarm.want(Some(at(35)), at(25)), Some(at(35)));
        assert_eq!(alarm.want(Some(at(50)), at(26)), None);
        assert_eq!(alarm.ring(at(35)), Err(Some(at(50))));
        assert_eq!(alarm.ring(at(50)), Ok(()));
    }

    #[test]
    fn a_nearer_wish_leaves_the_entry_for_the_one_that_follows() {
        let alarm = Alarm::default();
        assert_eq!(alarm.want(Some(at(25)), at(1)), Some(at(25)));
        for now in 2..20 {
            assert_eq!(alarm.want(Some(at(now + 1)), at(now)), Some(at(now + 1)));
            assert_eq!(alarm.ring(at(now + 1)), Ok(()));
            assert_eq!(alarm.want(Some(at(25)), at(now + 1)), None);
        }
        assert_eq!(alarm.ring(at(25)), Ok(()));
    }

    #[test]
    fn who_wants_nothing_is_not_woken() {
        let alarm = Alarm::default();
        assert_eq!(alarm.want(Some(at(5)), at(1)), Some(at(5)));
        assert_eq!(alarm.want(None, at(2)), None);
        assert_eq!(alarm.ring(at(5)), Err(None));
        assert_eq!(alarm.want(Some(at(9)), at(6)), Some(at(9)));
    }

    #[test]
    fn an_entry_that_is_late_serves_no_more() {
        let alarm = Alarm::default();
        assert_eq!(alarm.want(Some(at(5)), at(1)), Some(at(5)));
        assert_eq!(alarm.want(Some(at(7)), at(6)), Some(at(7)));
        // The late one, and then its successor.
        assert_eq!(alarm.ring(at(6)), Err(None));
        assert_eq!(alarm.ring(at(7)), Ok(()));
    }
}
