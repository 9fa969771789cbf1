//! Who sees to what was put somewhere.

use std::sync::atomic::Ordering::{AcqRel, Release};

use crate::{Atomics, Flag, Std};

/// Somebody sees to what is there, or will. Set by those who have put something there, cleared by who fetches it,
/// before the first look.
#[derive(Debug)]
pub struct Mark<A: Atomics = Std>(A::Flag);

impl<A: Atomics> Default for Mark<A> {
    fn default() -> Self {
        Self(Flag::new(false))
    }
}

impl<A: Atomics> Mark<A> {
    /// Something was put there: true when it is for the caller to have it fetched.
    #[must_use = "nobody else has it fetched"]
    pub fn set(&self) -> bool {
        !self.0.swap(true, AcqRel)
    }

    /// The caller looks there next; from here on who puts something there is the first again. What guards the place
    /// orders this before its look.
    pub fn clear(&self) {
        self.0.store(false, Release);
    }

    /// As [`Mark::clear`], and sees what those did before who have set it.
    pub fn take(&self) {
        self.0.swap(false, AcqRel);
    }

    /// Has looked and not fetched all; sees to it that it is fetched.
    pub fn keep(&self) {
        self.0.store(true, Release);
    }
}
