//! Who of two threads drives.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use crate::{Atomics, Flag, Number, Std};

/// The I/O thread drives.
const THREAD: u64 = 0;
/// It does, and the application waits for it to stop.
const WANTED: u64 = 1;
/// The application drives.
const DRIVING: u64 = 2;
/// The application does, but is at work: nobody looks at the sockets.
const AWAY: u64 = 3;

/// What one of two threads does: the I/O thread, or the application's while it has nothing else to do. Closures
/// called `wake` wake the I/O thread from what it sleeps in.
#[derive(Debug)]
pub struct Seat<A: Atomics = Std> {
    state: A::Number,
    /// The I/O thread looks again within its patience, without being woken.
    watched: A::Flag,
}

impl<A: Atomics> Default for Seat<A> {
    fn default() -> Self {
        Self { state: Number::new(THREAD), watched: Flag::new(false) }
    }
}

impl<A: Atomics> Seat<A> {
    /// The application wants to drive: true when it may, until [`Seat::leave`]. False: the I/O thread drives and is
    /// told to stop; it says when it has ([`Seat::hand_over`]).
    pub fn take(&self, wake: impl FnOnce()) -> bool {
        if self.change(AWAY, DRIVING) {
            return true;
        }
        if self.change(THREAD, WANTED) {
            wake();
        }
        false
    }

    /// The application has stopped driving and will be back.
    pub fn leave(&self, wake: impl FnOnce()) {
        self.state.store(AWAY, SeqCst);
        // With the one in `watch`: either we see that nobody looks, or it sees us away.
        A::fence(SeqCst);
        if !self.watched.load(Relaxed) && !self.watched.swap(true, SeqCst) {
            wake();
        }
    }

    /// The application is not coming back for now.
    pub fn give_up(&self, wake: impl FnOnce()) {
        if self.change(AWAY, THREAD) {
            wake();
        } else {
            self.change(WANTED, THREAD);
        }
    }

    /// True while nobody drives: whoever does next looks at what there is to do, unasked. Ask after
    /// that was put where they look.
    pub fn is_away(&self) -> bool {
        A::fence(SeqCst);
        self.state.load(SeqCst) == AWAY
    }

    /// The I/O thread, which drives, is to stop. Ask after what [`Seat::take`] wakes was registered.
    pub fn is_wanted(&self) -> bool {
        self.state.load(SeqCst) == WANTED
    }

    /// The I/O thread has stopped driving: true when the application still wants to, and is to be told.
    pub fn hand_over(&self) -> bool {
        self.watched.store(true, SeqCst);
        self.change(WANTED, AWAY)
    }

    /// The I/O thread waits until it is to drive. `left` is what is left of its patience with an application that is
    /// at work, none when it is over; `park` sleeps, for so long at most, or until it is woken.
    pub fn watch(&self, mut left: impl FnMut() -> Option<Duration>, mut park: impl FnMut(Option<Duration>)) {
        loop {
            match self.state.load(SeqCst) {
                AWAY => {
                    if let Some(left) = left() {
                        park(Some(left));
                    } else if self.change(AWAY, THREAD) {
                        return;
                    }
                }
                DRIVING => {
                    self.watched.store(false, SeqCst);
                    A::fence(SeqCst);
                    if self.state.load(SeqCst) == DRIVING {
                        park(None);
                    }
                    self.watched.store(true, SeqCst);
                }
                _ => return,
            }
        }
    }

    fn change(&self, from: u64, to: u64) -> bool {
        self.state.exchange(from, to, SeqCst, SeqCst)
    }
}
