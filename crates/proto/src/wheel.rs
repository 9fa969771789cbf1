//! One timing wheel for many deadlines.

use std::time::Duration;

use crate::Time;

/// Length of a tick.
pub const TICK: Duration = Duration::from_micros(TICK_MICROS);

/// A hashed timing wheel (Varghese and Lauck 1987, scheme 6) with 10 ms ticks. Entries are plain
/// tokens; there is no cancel: an owner that no longer cares ignores its token.
#[derive(Debug)]
pub struct Wheel {
    /// Entries by tick modulo [`SLOTS`]; those of later rounds stay in their slot. Allocated with the
    /// first entry.
    slots: Vec<Vec<Entry>>,
    /// One bit a slot: it has entries.
    occupied: [u64; WORDS],
    /// Ticks up to this one have been expired.
    expired: u64,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    token: u32,
    /// Of the wheel; with the slot it gives the tick. [`NEVER`] is in 5,000 years.
    round: u32,
}

const NEVER: u32 = u32::MAX;

impl Default for Wheel {
    fn default() -> Self {
        Self { slots: Vec::new(), occupied: [0; WORDS], expired: 0, len: 0 }
    }
}

impl Wheel {
    /// Wakes `token` at or up to one tick after `at`; with the next tick when `at` has passed.
    pub fn insert(&mut self, token: u32, at: Time) {
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, Vec::new);
        }
        let tick = at.as_micros().div_ceil(TICK_MICROS).max(self.expired + 1);
        let slot = slot_of(tick);
        let round = u32::try_from(tick / SLOTS as u64).unwrap_or(NEVER);
        self.slots[slot].push(Entry { token, round });
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.len += 1;
    }

    /// Appends the tokens that are due to `into`, in no particular order within a tick.
    pub fn expire(&mut self, now: Time, into: &mut Vec<u32>) {
        let current = now.as_micros() / TICK_MICROS;
        if current <= self.expired {
            return;
        }
        // After a whole turn every slot has been seen.
        let ticks = (current - self.expired).min(SLOTS as u64);
        let mut tick = self.expired + 1;
        let end = tick + ticks;
        while let Some(next) = self.next_occupied(tick).filter(|next| *next < end) {
            self.expire_slot(slot_of(next), current, into);
            tick = next + 1;
            if tick == end {
                break;
            }
        }
        self.expired = current;
    }

    /// When [`Wheel::expire`] wants to be called next; `None`: the wheel is empty. Up to 41 s early
    /// where only later deadlines remain.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let tick = self.next_occupied(self.expired + 1)?;
        Some(Time::from_micros(tick.saturating_mul(TICK_MICROS)))
    }

    /// Tokens in the wheel.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn expire_slot(&mut self, slot: usize, current: u64, into: &mut Vec<u32>) {
        let entries = &mut self.slots[slot];
        let before = entries.len();
        entries.retain(|entry| {
            let tick = u64::from(entry.round) * SLOTS as u64 + slot as u64;
            let due = entry.round != NEVER && tick <= current;
            if due {
                into.push(entry.token);
            }
            !due
        });
        self.len -= before - entries.len();
        if entries.is_empty() {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            // A crowd that came together must not leave its memory in every slot it ever used.
            if entries.capacity() > 64 {
                *entries = Vec::new();
            }
        }
    }

    /// The first tick from `from` on, within one turn, whose slot has entries.
    fn next_occupied(&self, from: u64) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let start = slot_of(from);
        let first = self.occupied[start / 64] & (u64::MAX << (start % 64));
        let slot = if first == 0 {
            // The word of `start` comes last again, for the slots below it.
            let word = (1..=WORDS).map(|i| (start / 64 + i) % WORDS).find(|word| self.occupied[*word] != 0)?;
            word * 64 + self.occupied[word].trailing_zeros() as usize
        } else {
            start / 64 * 64 + first.trailing_zeros() as usize
        };
        Some(from + ((slot + SLOTS - start) % SLOTS) as u64)
    }
}

const fn slot_of(tick: u64) -> usize {
    (tick % SLOTS as u64) as usize
}

const TICK_MICROS: u64 = 10_000;

/// 41 s a turn: the usual heartbeat intervals are less than one.
const SLOTS: usize = 4096;

const WORDS: usize = SLOTS / 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// Deadline relative to now, in µs; may lie in the past.
        Insert(i64),
        /// The driver sleeps until the wheel asks, plus this many µs.
        Sleep(u64),
        /// Time passes without regard to the wheel.
        Jump(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (-50_000i64..2_000_000).prop_map(Step::Insert),
            2 => (0i64..200_000_000).prop_map(Step::Insert),
            4 => (0u64..5_000).prop_map(Step::Sleep),
            1 => (0u64..100_000_000).prop_map(Step::Jump),
        ]
    }

    proptest! {
        #[test]
        fn never_early_at_most_a_tick_late_nothing_lost(
            start in 0u64..10_000_000_000,
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let mut wheel = Wheel::default();
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let (mut now, mut token, mut due) = (start, 0u32, Vec::new());
            let drain = std::iter::repeat_n(Step::Sleep(0), 2_000);
            for step in steps.into_iter().chain(drain) {
                match step {
                    Step::Insert(delta) => {
                        let at = now.saturating_add_signed(delta);
                        wheel.insert(token, Time::from_micros(at));
                        // What has passed counts from now.
                        model.insert(token, at.max(now));
                        token += 1;
                        continue;
                    }
                    Step::Sleep(late) => {
                        let Some(timeout) = wheel.poll_timeout() else { continue };
                        if let Some(first) = model.values().min() {
                            prop_assert!(timeout.as_micros() <= first + TICK_MICROS || timeout.as_micros() <= now);
                        }
                        now = now.max(timeout.as_micros()) + late;
                    }
                    Step::Jump(micros) => now += micros,
                }
                let before = wheel.poll_timeout();
                due.clear();
                wheel.expire(Time::from_micros(now), &mut due);
                for token in &due {
                    let at = model.remove(token).expect("once, and only what was put in");
                    prop_assert!(at <= now, "early: {} at {}", at, now);
                }
                let overdue = model.values().find(|at| **at + TICK_MICROS <= now);
                prop_assert_eq!(overdue, None, "late at {}", now);
                prop_assert_eq!(wheel.len(), model.len());
                // The wheel must not ask again for a moment that has been served.
                if let (Some(before), Some(after)) = (before, wheel.poll_timeout()) {
                    prop_assert!(after > before || before.as_micros() > now);
                    prop_assert!(after.as_micros() > now);
                }
            }
            prop_assert!(wheel.is_empty());
            prop_assert_eq!(model.len(), 0);
        }
    }

    #[test]
    fn sleeps_to_the_next_occupied_slot() {
        let mut wheel = Wheel::default();
        assert_eq!(wheel.poll_timeout(), None);
        let mut due = Vec::new();
        wheel.expire(Time::from_micros(1_000_000_000), &mut due);
        wheel.insert(7, Time::from_micros(1_025_000_001));
        assert_eq!(wheel.poll_timeout(), Some(Time::from_micros(1_025_010_000)));
        wheel.insert(8, Time::from_micros(1_000_000_001));
        assert_eq!(wheel.poll_timeout(), Some(Time::from_micros(1_000_010_000)));
        wheel.expire(Time::from_micros(1_000_010_000), &mut due);
        assert_eq!(due, [8]);
        assert_eq!(wheel.len(), 1);
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        let mut wheel = Wheel::default();
        wheel.insert(1, Time::from_micros(u64::MAX));
        let mut due = Vec::new();
        wheel.expire(Time::from_micros(u64::MAX / 2), &mut due);
        assert!(due.is_empty());
        assert!(wheel.poll_timeout().is_some());
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Entry>(), 8);
    }

    #[test]
    fn a_crowd_leaves_no_memory() {
        let mut wheel = Wheel::default();
        for token in 0..10_000 {
            wheel.insert(token, Time::from_micros(20_000));
        }
        let mut due = Vec::new();
        wheel.expire(Time::from_micros(20_000), &mut due);
        assert_eq!(due.len(), 10_000);
        assert!(wheel.slots.iter().all(|slot| slot.capacity() <= 64));
    }
}
