//! `after()`, `every()` and `cancel()`: timers whose callbacks run on the PHP thread.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use ext_php_rs::exception::PhpResult;
use ext_php_rs::types::Zval;

use crate::callable::PhpCb;
use crate::dispatcher::{Endpoint, dispatcher};
use crate::exceptions::argument_value_error;

/// The timers of one object.
#[derive(Default)]
pub(crate) struct Timers {
    timers: RefCell<HashMap<i64, Rc<Timer>>>,
}

struct Timer {
    callback: PhpCb,
    interval: Option<Duration>,
    /// Its callback is suspended: the next run is left out, not stacked.
    running: Cell<bool>,
}

impl Timers {
    /// Gives `owner` a timer; returns its number.
    pub(crate) fn add<E>(owner: &Rc<E>, seconds: f64, repeat: bool, callback: PhpCb) -> PhpResult<i64>
    where
        E: Endpoint + 'static,
    {
        if repeat && seconds <= 0.0 {
            return Err(argument_value_error(1, "must be greater than 0"));
        }
        let delay = match Duration::try_from_secs_f64(seconds) {
            Ok(delay) if delay.as_secs() < 100 * 365 * 86_400 => delay,
            _ => return Err(argument_value_error(1, "must be between 0 and 100 years, in seconds")),
        };
        let id = dispatcher().timer_id();
        let interval = repeat.then_some(delay);
        // Known before it is scheduled: what the schedule does not find here is dropped.
        let timer = Rc::new(Timer { callback, interval, running: Cell::new(false) });
        owner.timers().timers.borrow_mut().insert(id, timer);
        let owner: Weak<E> = Rc::downgrade(owner);
        dispatcher().schedule(Instant::now() + delay, id, owner);
        Ok(id)
    }

    /// Forgets a timer; nothing happens for an unknown number.
    pub(crate) fn cancel(&self, id: i64) {
        // Bound to a name: the callable is released after the borrow.
        let timer = self.timers.borrow_mut().remove(&id);
        dispatcher().unscheduled(usize::from(timer.is_some()));
    }

    /// Forgets all; returns them, to be released where PHP code may run.
    pub(crate) fn clear(&self) {
        let timers = std::mem::take(&mut *self.timers.borrow_mut());
        dispatcher().unscheduled(timers.len());
    }

    /// For the collector.
    pub(crate) fn visit(&self, see: &mut dyn FnMut(&Zval)) {
        if let Ok(timers) = self.timers.try_borrow() {
            for timer in timers.values() {
                see(timer.callback.zval());
            }
        }
    }

    /// Runs what is due under `id`; returns the number of callbacks run.
    pub(crate) fn fire(owner: &Rc<dyn Endpoint>, id: i64, due: Instant) -> Result<usize, crate::exceptions::Pending> {
        let Some(timer) = owner.timers().timers.borrow().get(&id).cloned() else { return Ok(0) };
        match timer.interval {
            // A late timer does not run once for every interval it missed.
            Some(interval) => {
                let next = (due + interval).max(Instant::now());
                dispatcher().schedule(next, id, Rc::downgrade(owner));
            }
            None => owner.timers().cancel(id),
        }
        if timer.running.replace(true) {
            return Ok(0);
        }
        let result = timer.callback.call(&mut []);
        timer.running.set(false);
        if result.is_err() {
            Rc::clone(owner).failed("a timer", None)?;
        }
        Ok(1)
    }
}

/// Timers of all objects, by time.
#[derive(Default)]
pub(crate) struct Schedule {
    heap: BinaryHeap<Reverse<Entry>>,
    last_id: i64,
    /// Entries that do not count any more, at most: timers were cancelled.
    stale: usize,
}

struct Entry {
    due: Instant,
    id: i64,
    owner: Weak<dyn Endpoint>,
}

impl Entry {
    fn is_alive(&self) -> bool {
        self.owner.upgrade().is_some_and(|owner| owner.timers().timers.borrow().contains_key(&self.id))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.id) == (other.due, other.id)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.id).cmp(&(other.due, other.id))
    }
}

impl Schedule {
    /// A number that no timer has had.
    pub(crate) fn id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    /// Adds an entry.
    pub(crate) fn add(&mut self, due: Instant, id: i64, owner: Weak<dyn Endpoint>) {
        self.heap.push(Reverse(Entry { due, id, owner }));
    }

    /// `count` timers were cancelled. Their entries go when most are such: a timer far ahead that is
    /// cancelled and set anew all the time must not fill memory until it is due.
    pub(crate) fn forget(&mut self, count: usize) {
        const FEW: usize = 64;
        self.stale += count;
        if self.stale > FEW && self.stale > self.heap.len() / 2 {
            self.heap.retain(|Reverse(entry)| entry.is_alive());
            self.stale = 0;
        }
    }

    /// When the next one that still counts is due.
    pub(crate) fn next(&mut self) -> Option<Instant> {
        while let Some(Reverse(entry)) = self.heap.peek() {
            if entry.is_alive() {
                return Some(entry.due);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes the first that is due at `now`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Rc<dyn Endpoint>, i64, Instant)> {
        while self.heap.peek().is_some_and(|Reverse(entry)| entry.due <= now) {
            let Reverse(entry) = self.heap.pop()?;
            if let Some(owner) = entry.owner.upgrade() {
                return Some((owner, entry.id, entry.due));
            }
        }
        None
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}
