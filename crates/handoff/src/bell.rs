//! How a sleeping application learns of an event.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use crate::{Atomics, Flag, Number, Std};

/// How the application is to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "it is for the caller to wake the application"]
pub enum Ring {
    /// It drives a runtime: by the waker that it has registered.
    Waker,
    /// It sleeps on a descriptor: by raising that by one.
    Descriptor,
}

/// The application sleeps, or is about to, and the next event must wake it. Where it is awake an event costs a
/// load and a fence, no system call.
///
/// Many put events into the queue, one thread takes them out. Whoever is about to sleep says so and then looks into the
/// queue; whoever has put something there looks then whether that is said. So one of the two sees the other.
#[derive(Debug)]
pub struct Bell<A: Atomics = Std> {
    /// The application sleeps or is about to.
    asleep: A::Flag,
    /// It does so by driving a runtime.
    driving: A::Flag,
    /// What the descriptor will have been raised by, one each.
    signals: A::Number,
    /// What was read back from it.
    taken: A::Number,
}

impl<A: Atomics> Default for Bell<A> {
    fn default() -> Self {
        Self { asleep: Flag::new(false), driving: Flag::new(false), signals: Number::new(0), taken: Number::new(0) }
    }
}

impl<A: Atomics> Bell<A> {
    /// An event is in the queue. `asleep` is called when the application sleeps, before it is woken; another may be
    /// quicker to wake it.
    pub fn pushed(&self, asleep: impl FnOnce()) -> Option<Ring> {
        // With the one in `prepare_sleep` or `poll_sleep`: either we see `asleep`, or they see the event.
        A::fence(SeqCst);
        if !self.asleep.load(Relaxed) {
            return None;
        }
        asleep();
        self.asleep.swap(false, AcqRel).then(|| self.signal())
    }

    /// The application is to be woken whether there is an event or not.
    pub fn signal(&self) -> Ring {
        if self.driving.load(SeqCst) {
            return Ring::Waker;
        }
        // Counted before the descriptor is raised, because that may hand the processor to the application at once:
        // who is woken must know that there is something to read, or it is woken again and again.
        self.signals.fetch_add(1, Release);
        Ring::Descriptor
    }

    /// The application is about to sleep on the descriptor. `read` takes back what that was raised by, if it is
    /// raised; `is_empty` looks into the queue.
    ///
    /// # Errors
    /// There is an event: it must not sleep. The descriptor is to be raised where it says so, for those who sleep
    /// all the same.
    pub fn prepare_sleep(
        &self,
        read: impl FnOnce() -> Option<u64>,
        is_empty: impl FnOnce() -> bool,
    ) -> Result<(), Option<Ring>> {
        // A signal that was begun may still be on its way, and is looked for again.
        if self.signals.load(Acquire) != self.taken.load(Relaxed)
            && let Some(count) = read()
        {
            self.taken.fetch_add(count, Relaxed);
        }
        self.asleep.store(true, Release);
        A::fence(SeqCst);
        if is_empty() {
            return Ok(());
        }
        Err(self.asleep.swap(false, AcqRel).then(|| self.signal()))
    }

    /// The application is at work, although nobody has woken it. It looks into the queue before it sleeps again.
    pub fn begin_work(&self) {
        self.asleep.store(false, SeqCst);
    }

    /// The application begins to drive a runtime.
    pub fn begin_driving(&self) {
        self.driving.store(true, SeqCst);
    }

    /// It sleeps in there, having registered its waker: true when there is no event.
    pub fn poll_sleep(&self, is_empty: impl FnOnce() -> bool) -> bool {
        self.asleep.store(true, Release);
        A::fence(SeqCst);
        if is_empty() {
            return true;
        }
        self.asleep.store(false, SeqCst);
        false
    }

    /// It drives no more, and looks into the queue next.
    pub fn end_driving(&self) {
        // A swap: with an event whose push has found us asleep, that event is there to be received.
        self.asleep.swap(false, SeqCst);
        self.driving.store(false, SeqCst);
    }

    /// The application sleeps and nothing has woken it.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Acquire)
    }

    /// A signal that does not get further than this: for tests.
    #[doc(hidden)]
    pub fn begin_signal(&self) {
        self.signals.fetch_add(1, Release);
    }
}
