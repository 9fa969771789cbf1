//! Who does the work of the first I/O thread: that thread, or the application's own while it has
//! nothing else to do.
//!
//! To hand a message to another thread and the answer back costs more than to read and write them. So
//! an application's thread that waits for events drives the first runtime meanwhile, and leaves it
//! for as long as it works on the events. When that takes longer than [`PATIENCE`], the I/O thread
//! takes over: beats, pongs and new connections never wait for the application.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread::Thread;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use lifeline_proto::Time;

use crate::clock;

/// How long sockets, and what it has sent, wait for an application that is at work.
pub const PATIENCE: Duration = Duration::from_millis(10);

/// The I/O thread drives.
const THREAD: u8 = 0;
/// It does, and the application waits for it to stop.
const WANTED: u8 = 1;
/// The application drives.
const DRIVING: u8 = 2;
/// The application does, but is at work: nobody looks at the sockets.
const AWAY: u8 = 3;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Seat {
    state: AtomicU8,
    /// When the application last left, in microseconds.
    left: AtomicU64,
    /// The I/O thread looks again within [`PATIENCE`]: so it is woken once in that time at most.
    watched: AtomicBool,
    thread: OnceLock<Thread>,
    /// Of the I/O thread while it drives.
    waker: AtomicWaker,
}

impl Seat {
    /// The application wants to drive: true when it may, until [`Seat::leave`]. False: the I/O thread
    /// drives, was told to stop, and wakes the application when it has.
    pub fn take(&self) -> bool {
        if self.change(AWAY, DRIVING) {
            return true;
        }
        if self.change(THREAD, WANTED) {
            self.waker.wake();
        }
        false
    }

    /// The application has stopped driving and will be back.
    pub fn leave(&self) {
        self.left.store(clock::now().as_micros(), Ordering::Relaxed);
        self.state.store(AWAY, Ordering::SeqCst);
        // With `Seat::watch`: either we see that nobody looks, or it sees us away.
        if !self.watched.load(Ordering::SeqCst) && !self.watched.swap(true, Ordering::SeqCst) {
            self.wake_thread();
        }
    }

    /// The application is not coming back for now.
    pub fn give_up(&self) {
        if self.change(AWAY, THREAD) {
            self.wake_thread();
        } else {
            self.change(WANTED, THREAD);
        }
    }

    /// True while nobody drives: whoever does next looks at what there is to do, unasked. Ask after
    /// that was put where they look.
    pub fn is_away(&self) -> bool {
        std::sync::atomic::fence(Ordering::SeqCst);
        self.state.load(Ordering::SeqCst) == AWAY
    }

    /// Called by the I/O thread before anything else here.
    pub fn sit_down(&self) {
        let _ = self.thread.set(std::thread::current());
    }

    /// Ready when the I/O thread is to stop driving.
    pub fn poll_wanted(&self, task: &mut Context<'_>) -> Poll<()> {
        self.waker.register(task.waker());
        if self.state.load(Ordering::SeqCst) == WANTED { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The I/O thread has stopped driving: true when the application still wants to.
    pub fn hand_over(&self) -> bool {
        self.left.store(clock::now().as_micros(), Ordering::Relaxed);
        self.watched.store(true, Ordering::SeqCst);
        self.change(WANTED, AWAY)
    }

    /// Returns when it is for the I/O thread to drive.
    pub fn watch(&self) {
        loop {
            match self.state.load(Ordering::SeqCst) {
                AWAY => {
                    let away = clock::now() - Time::from_micros(self.left.load(Ordering::Relaxed));
                    if let Some(left) = PATIENCE.checked_sub(away) {
                        std::thread::park_timeout(left);
                    } else if self.change(AWAY, THREAD) {
                        return;
                    }
                }
                DRIVING => {
                    self.watched.store(false, Ordering::SeqCst);
                    if self.state.load(Ordering::SeqCst) == DRIVING {
                        std::thread::park();
                    }
                    self.watched.store(true, Ordering::SeqCst);
                }
                _ => return,
            }
        }
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn wake_thread(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}
