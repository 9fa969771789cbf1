//! Who does the work of the first I/O thread: that thread, or the application's own while it has
//! nothing else to do.
//!
//! To hand a message to another thread and the answer back costs more than to read and write them. So
//! an application's thread that waits for events drives the first runtime meanwhile, and leaves it
//! for as long as it works on the events. When that takes longer than [`PATIENCE`], the I/O thread
//! takes over: beats, pongs and new connections never wait for the application.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread::Thread;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use lifeline_proto::Time;

use crate::clock;

/// How long sockets, and what it has sent, wait for an application that is at work.
pub const PATIENCE: Duration = Duration::from_millis(10);

/// See the module's documentation; the order of it all is in [`lifeline_handoff::Seat`].
#[derive(Debug, Default)]
pub struct Seat {
    state: lifeline_handoff::Seat,
    /// When the application last left, in microseconds.
    left: AtomicU64,
    thread: OnceLock<Thread>,
    /// Of the I/O thread while it drives.
    waker: AtomicWaker,
}

impl Seat {
    /// The application wants to drive: true when it may, until [`Seat::leave`]. False: the I/O thread
    /// drives, was told to stop, and wakes the application when it has.
    pub fn take(&self) -> bool {
        self.state.take(|| self.waker.wake())
    }

    /// The application has stopped driving and will be back.
    pub fn leave(&self) {
        self.note_left();
        self.state.leave(|| self.wake_thread());
    }

    /// The application is not coming back for now.
    pub fn give_up(&self) {
        self.state.give_up(|| self.wake_thread());
    }

    /// True while nobody drives: whoever does next looks at what there is to do, unasked. Ask after
    /// that was put where they look.
    pub fn is_away(&self) -> bool {
        self.state.is_away()
    }

    /// Called by the I/O thread before anything else here.
    pub fn sit_down(&self) {
        let _ = self.thread.set(std::thread::current());
    }

    /// Ready when the I/O thread is to stop driving.
    pub fn poll_wanted(&self, task: &mut Context<'_>) -> Poll<()> {
        self.waker.register(task.waker());
        if self.state.is_wanted() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The I/O thread has stopped driving: true when the application still wants to.
    pub fn hand_over(&self) -> bool {
        self.note_left();
        self.state.hand_over()
    }

    /// Returns when it is for the I/O thread to drive.
    pub fn watch(&self) {
        let left = || {
            let away = clock::now() - Time::from_micros(self.left.load(Ordering::Relaxed));
            PATIENCE.checked_sub(away)
        };
        self.state.watch(left, |limit| limit.map_or_else(std::thread::park, std::thread::park_timeout));
    }

    fn note_left(&self) {
        self.left.store(clock::now().as_micros(), Ordering::Relaxed);
    }

    fn wake_thread(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}
