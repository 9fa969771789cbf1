//! One I/O thread: a runtime, a mailbox and a timing wheel.
//!
//! A connection lives on one shard. The application's thread never wakes a connection directly: what it
//! does not write itself it posts, and wakes the shard once; the shard's pump wakes the tasks from
//! inside, which costs no system call. The first shard's work may be done by the application's thread
//! ([`crate::seat`]).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use lifeline_proto::Time;
use lifeline_proto::wheel::Wheel;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

use crate::clock;
use crate::core::Core;
use crate::outlet::Outlet;
use crate::poller::Poller;
use crate::seat::{PATIENCE, Seat};

/// The pump wakes at least this often, to see clock jumps.
const TICK: Duration = Duration::from_secs(1);
/// A pump that wakes so much later than planned was frozen or the machine slept.
const JUMP: Duration = Duration::from_secs(3);

/// Tasks that are woken for their deadlines before others get their turn.
const CROWD: usize = 64;

/// See the module's documentation.
#[derive(Debug)]
pub struct Shard {
    pub index: usize,
    pub handle: Handle,
    /// Connections that live here.
    pub population: AtomicUsize,
    mailbox: Mutex<Vec<Arc<Outlet>>>,
    wheel: Mutex<Wheel>,
    /// Of the tasks that live here: a task outlives what the application knows of its connection.
    tasks: Mutex<Tasks>,
    /// What the pump sleeps towards, in microseconds.
    sleeping_until: AtomicU64,
    pump: AtomicWaker,
    /// Of the shard that the application's thread may drive.
    pub seat: Option<Arc<Seat>>,
    /// Watches accepted sockets, since there is one.
    poller: Mutex<Option<Arc<Poller>>>,
    stopping: AtomicBool,
    #[cfg(test)]
    broken: AtomicBool,
}

/// By place, which is what the wheel knows of a task. An entry of one that has left rings at the next one of its
/// place, which does no harm.
#[derive(Debug, Default)]
struct Tasks {
    places: Vec<Option<Arc<Outlet>>>,
    free: Vec<u32>,
}

impl Shard {
    pub fn new(index: usize, handle: Handle, seat: Option<Arc<Seat>>) -> Self {
        Self {
            index,
            handle,
            population: AtomicUsize::new(0),
            mailbox: Mutex::new(Vec::new()),
            wheel: Mutex::new(Wheel::default()),
            tasks: Mutex::default(),
            sleeping_until: AtomicU64::new(u64::MAX),
            pump: AtomicWaker::new(),
            seat,
            poller: Mutex::new(None),
            stopping: AtomicBool::new(false),
            #[cfg(test)]
            broken: AtomicBool::new(false),
        }
    }

    /// Wakes each of `outlets` (and empties it), with one wake of this shard.
    pub fn post(&self, outlets: &mut Vec<Arc<Outlet>>) {
        if outlets.is_empty() {
            return;
        }
        self.mailbox.lock().append(outlets);
        if !self.is_away() {
            self.pump.wake();
        }
    }

    /// What watches accepted sockets and gives their connections turns.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn poller(&self) -> std::io::Result<Arc<Poller>> {
        let mut place = self.poller.lock();
        if let Some(poller) = &*place {
            return Ok(poller.clone());
        }
        let poller = Poller::start(&self.handle)?;
        *place = Some(poller.clone());
        Ok(poller)
    }

    /// Nobody does this shard's work, because the application does it and is busy.
    pub fn is_away(&self) -> bool {
        self.seat.as_ref().is_some_and(|seat| seat.is_away())
    }

    /// Another thread does this shard's work from now on: it looks at what was posted meanwhile.
    pub fn taken_over(&self) {
        if !self.mailbox.lock().is_empty() {
            self.pump.wake();
        }
    }

    /// Has the pump look around.
    pub fn wake_pump(&self) {
        self.pump.wake();
    }

    /// After the pump's end: drops the mail that has come too late.
    pub fn forget_mail(&self) {
        let mail = std::mem::take(&mut *self.mailbox.lock());
        drop(mail);
    }

    /// A connection's task begins: [`Shard::arm`] finds it until [`Shard::leave`].
    pub fn enter(&self, outlet: &Arc<Outlet>) {
        let mut tasks = self.tasks.lock();
        let place = tasks.free.pop().unwrap_or_else(|| {
            tasks.places.push(None);
            u32::try_from(tasks.places.len() - 1).unwrap_or(u32::MAX)
        });
        outlet.place.store(place, Ordering::Relaxed);
        tasks.places[place as usize] = Some(outlet.clone());
    }

    /// The task has ended.
    pub fn leave(&self, outlet: &Outlet) {
        let place = outlet.place.load(Ordering::Relaxed);
        let left = {
            let mut tasks = self.tasks.lock();
            tasks.free.push(place);
            tasks.places[place as usize].take()
        };
        drop(left);
        self.population.fetch_sub(1, Ordering::Relaxed);
    }

    /// Has the connection looked at by [`Outlet::wake_timer`] at `at`, and not when it was asked for before.
    pub fn arm(&self, outlet: &Outlet, at: Option<Time>, now: Time) {
        let Some(at) = outlet.alarm.want(at, now) else { return };
        let mut wheel = self.wheel.lock();
        wheel.insert(outlet.place.load(Ordering::Relaxed), at);
        // Compared under the lock: the pump decides how long to sleep under it too.
        if at.as_micros() < self.sleeping_until.load(Ordering::Relaxed) {
            self.pump.wake();
        }
    }

    /// Has every connection that lives here look at what there is to do.
    pub fn wake_all(&self) {
        for outlet in self.tasks.lock().places.iter().flatten() {
            outlet.wake_mail();
            outlet.wake_timer();
        }
    }

    /// Has the pump panic with the next mail in its hands.
    #[cfg(test)]
    pub fn break_pump(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// What is left of `due` after tasks were woken once.
    #[cfg(test)]
    pub fn left_due(&self, now: Time, mut due: Vec<u32>) -> Vec<u32> {
        self.wake_due(now, &mut due);
        due
    }

    /// Entries in the wheel.
    #[cfg(test)]
    pub fn timers(&self) -> usize {
        self.wheel.lock().len()
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.pump.wake();
    }

    /// Wakes some of the tasks whose entries have come, and takes these from `due`.
    fn wake_due(&self, now: Time, due: &mut Vec<u32>) {
        if due.is_empty() {
            return;
        }
        let mut woken = 0;
        let mut wheel = self.wheel.lock();
        let tasks = self.tasks.lock();
        while woken < CROWD
            && let Some(place) = due.pop()
        {
            let Some(Some(outlet)) = tasks.places.get(place as usize) else { continue };
            match outlet.alarm.ring(now) {
                Ok(()) => {
                    outlet.wake_timer();
                    woken += 1;
                }
                Err(Some(next)) => wheel.insert(place, next),
                Err(None) => {}
            }
        }
    }

    /// Runs until [`Shard::stop`]: delivers mail and expired timers.
    pub async fn pump(self: Arc<Self>, core: Weak<Core>) {
        let mut sleep = pin!(sleep_until(Instant::now()));
        let mut mail = Vec::new();
        let mut due = Vec::new();
        let mut planned = clock::now();
        let mut flushes = None;
        let mut look_at = Time::ZERO;
        let mut last = (clock::now(), clock::since_boot());
        poll_fn(|context| {
            loop {
                self.pump.register(context.waker());
                if self.stopping.load(Ordering::Acquire) {
                    return Poll::Ready(());
                }
                std::mem::swap(&mut *self.mailbox.lock(), &mut mail);
                #[cfg(test)]
                assert!(mail.is_empty() || !self.broken.swap(false, Ordering::AcqRel), "as the test asked");
                for outlet in mail.drain(..) {
                    outlet.wake_mail();
                }

                let now = clock::now();
                let boot = clock::since_boot();
                // A frozen process shows as lateness, a machine that slept as a difference of the clocks.
                let suspended = boot.saturating_sub(last.1).saturating_sub(now - last.0);
                if (now - planned > JUMP || suspended > JUMP)
                    && let Some(core) = core.upgrade()
                {
                    core.handle_clock_jump(&self);
                }
                last = (now, boot);

                if due.is_empty() {
                    self.wheel.lock().expire(now, &mut due);
                    // In the order in which they were put in: who was early in one crowd is in the next.
                    due.reverse();
                }
                self.wake_due(now, &mut due);
                if self.index == 0
                    && let Some(core) = core.upgrade()
                {
                    core.tick(now);
                    if flushes.is_none() || now >= look_at {
                        flushes = core.flush_overdue(flushes);
                        look_at = now + PATIENCE;
                    }
                }

                if !due.is_empty() {
                    // Not all at once: sockets that are ready meanwhile get their turn in between.
                    planned = now;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                planned = {
                    let wheel = self.wheel.lock();
                    let tick = if flushes.is_some() { look_at } else { now + TICK };
                    let next = wheel.poll_timeout().map_or(tick, |at| at.min(tick));
                    self.sleeping_until.store(next.as_micros(), Ordering::Relaxed);
                    next
                };
                sleep.as_mut().reset(Instant::now() + (planned - clock::now()));
                if sleep.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }
}
