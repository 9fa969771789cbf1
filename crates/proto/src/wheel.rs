//! One timing wheel for many deadlines.

use crate::Time;

/// A hashed timing wheel (Varghese and Lauck 1987, scheme 6) with 10 ms ticks. Entries are plain
/// tokens; there is no cancel: an owner that no longer cares ignores its token.
#[derive(Debug, Default)]
pub struct Wheel;

impl Wheel {
    /// Wakes `token` at or up to one tick after `at`.
    pub fn insert(&mut self, token: u64, at: Time) {
        let _ = (token, at);
        todo!()
    }

    /// When [`Wheel::expire`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        todo!()
    }

    /// Appends the tokens that are due to `into`.
    pub fn expire(&mut self, now: Time, into: &mut Vec<u64>) {
        let _ = (now, into);
        todo!()
    }
}
