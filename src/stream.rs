//! The readable stream that outer event loops watch.
//!
//! PHP gets an epoll descriptor that contains the engine's descriptor and a timer, never these
//! themselves: a script that reads from its stream would eat the engine's wake-up.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

use ext_php_rs::exception::PhpResult;
use ext_php_rs::types::Zval;
use rustix::event::epoll;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::exceptions::exception;
use crate::shim;

/// Readable when the engine has events, when a PHP timer is due or when events are left over.
#[derive(Debug)]
pub(crate) struct Wakeup {
    epoll: OwnedFd,
    timer: OwnedFd,
    /// What the timer is set to, to spare the call that changes nothing.
    armed: Cell<Option<Instant>>,
}

impl Wakeup {
    pub(crate) fn new() -> rustix::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        Ok(Self { epoll, timer, armed: Cell::new(None) })
    }

    /// Adds the engine's descriptor.
    pub(crate) fn watch(&self, descriptor: BorrowedFd<'_>) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, descriptor, epoll::EventData::new_u64(1), epoll::EventFlags::IN)
    }

    /// Becomes readable at `due` (the past: now), or by events alone.
    pub(crate) fn arm(&self, due: Option<Instant>) {
        if self.armed.replace(due) == due {
            return;
        }
        // An it_value of zero would disarm the timer.
        let value = due
            .map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1)));
        let it_value = Timespec {
            tv_sec: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: value.subsec_nanos().into(),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Fails only for arguments out of range, which these are not.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value });
    }

    /// The descriptor that makes it readable when its time is over.
    pub(crate) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// A PHP stream on it. Closing the stream does not close this.
    pub(crate) fn stream(&self) -> PhpResult<Zval> {
        let copy = self.epoll.try_clone().map_err(|error| exception(format!("cannot make a stream: {error}")))?;
        let mut stream = Zval::new();
        // SAFETY: `stream` is a fresh zval; the descriptor's ownership goes to the PHP stream.
        if unsafe { shim::lifeline_stream(copy.into_raw_fd(), &raw mut stream) } {
            Ok(stream)
        } else {
            Err(exception("cannot make a stream"))
        }
    }
}
