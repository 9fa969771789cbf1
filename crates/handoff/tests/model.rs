//! Each hand-over in every order of steps that C11's memory model allows (loom), with two switches at most at
//! places where no thread waits. A lost wake shows as a deadlock.
//!
//! What is checked could also be checked too little: so each scenario is played with an order that is wrong, too,
//! and has to fail.

use std::future::poll_fn;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};
use std::task::Poll;
use std::time::Duration;

use lifeline_handoff::{Atomics, Bell, Flag, Mark, Number, Ring, Seat};
use loom::future::{AtomicWaker, block_on};
use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

#[derive(Debug)]
struct Checked;

/// As on a machine without fences.
#[derive(Debug)]
struct Fenceless;

#[derive(Debug)]
struct CheckedFlag(AtomicBool);

#[derive(Debug)]
struct CheckedNumber(AtomicU64);

impl Atomics for Checked {
    type Flag = CheckedFlag;
    type Number = CheckedNumber;
    fn fence(order: Ordering) {
        fence(order);
    }
}

impl Atomics for Fenceless {
    type Flag = CheckedFlag;
    type Number = CheckedNumber;
    fn fence(_: Ordering) {}
}

impl Flag for CheckedFlag {
    fn new(value: bool) -> Self {
        Self(AtomicBool::new(value))
    }
    fn load(&self, order: Ordering) -> bool {
        self.0.load(order)
    }
    fn store(&self, value: bool, order: Ordering) {
        self.0.store(value, order);
    }
    fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(value, order)
    }
}

impl Number for CheckedNumber {
    fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }
    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_add(value, order)
    }
    fn exchange(&self, from: u64, to: u64, success: Ordering, failure: Ordering) -> bool {
        self.0.compare_exchange(from, to, success, failure).is_ok()
    }
}

fn check(scenario: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(scenario);
}

/// For a scenario that is wrong: it has to end with `complaint`. In a process of its own, because what loom finds
/// while threads wait takes that along.
fn check_fails(test: &str, complaint: &str, scenario: impl Fn() + Sync + Send + 'static) {
    const CHILD: &str = "LIFELINE_MODEL_FAILS";
    if std::env::var_os(CHILD).is_some() {
        return check(scenario);
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let child = command.args([test, "--exact", "--nocapture"]).env(CHILD, "1").env("RUST_BACKTRACE", "0");
    let child = child.output().unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(!child.status.success(), "{test}: no order of steps was found that fails");
    assert!(said.contains(complaint), "{test}: it failed otherwise:\n{said}");
}

/// eventfd(2), and poll(2) on it.
#[derive(Debug, Default)]
struct Descriptor {
    count: Mutex<u64>,
    raised: Condvar,
}

impl Descriptor {
    fn raise(&self) {
        *self.count.lock().unwrap() += 1;
        self.raised.notify_one();
    }

    fn read(&self) -> Option<u64> {
        Some(std::mem::take(&mut *self.count.lock().unwrap())).filter(|count| *count > 0)
    }

    fn wait(&self) {
        let mut count = self.count.lock().unwrap();
        while *count == 0 {
            count = self.raised.wait(count).unwrap();
        }
    }
}

/// The queue from the I/O threads to the application, with what wakes it.
#[derive(Debug, Default)]
struct Events<A: Atomics> {
    bell: Bell<A>,
    /// No more ordered than any queue is.
    pushed: AtomicUsize,
    descriptor: Descriptor,
    driver: AtomicWaker,
}

impl<A: Atomics> Events<A> {
    fn push(&self) {
        self.pushed.fetch_add(1, Release);
        if let Some(ring) = self.bell.pushed(|| ()) {
            self.wake(ring);
        }
    }

    fn wake(&self, ring: Ring) {
        match ring {
            Ring::Waker => self.driver.wake(),
            Ring::Descriptor => self.descriptor.raise(),
        }
    }

    fn is_empty(&self, received: usize) -> bool {
        self.pushed.load(Acquire) == received
    }

    /// False: there is an event.
    fn prepare_sleep(&self, received: usize) -> bool {
        match self.bell.prepare_sleep(|| self.descriptor.read(), || self.is_empty(received)) {
            Ok(()) => true,
            Err(ring) => {
                if let Some(ring) = ring {
                    self.wake(ring);
                }
                false
            }
        }
    }

    /// Drives a runtime until there is an event, or once around where `briefly`.
    fn drive(&self, received: usize, briefly: bool) {
        self.bell.begin_driving();
        let mut turns = 0;
        block_on(poll_fn(|task| {
            turns += 1;
            self.driver.register_by_ref(task.waker());
            let sleeps = self.bell.poll_sleep(|| self.is_empty(received));
            if sleeps && !(briefly && turns == 1) { Poll::Pending } else { Poll::Ready(()) }
        }));
        self.bell.end_driving();
    }
}

/// An application that takes all events, sleeping in between as `sleep` says, and threads that push some.
fn events_arrive<A: Atomics + 'static>(pushers: &[usize], sleep: impl Fn(&Events<A>, usize))
where
    Bell<A>: Send + Sync,
{
    let events = Arc::new(Events::<A> {
        bell: Bell::default(),
        pushed: AtomicUsize::new(0),
        descriptor: Descriptor::default(),
        driver: AtomicWaker::new(),
    });
    let threads: Vec<_> = pushers
        .iter()
        .map(|&count| {
            let events = events.clone();
            thread::spawn(move || (0..count).for_each(|_| events.push()))
        })
        .collect();
    let all = pushers.iter().sum();
    let mut received = 0;
    while received < all {
        received = events.pushed.load(Acquire);
        if received < all {
            sleep(&events, received);
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

fn on_the_descriptor<A: Atomics>(events: &Events<A>, received: usize) {
    if events.prepare_sleep(received) {
        events.descriptor.wait();
    }
}

#[test]
fn an_event_wakes_who_sleeps_on_the_descriptor() {
    check(|| events_arrive::<Checked>(&[2], on_the_descriptor));
    check(|| events_arrive::<Checked>(&[1, 1], on_the_descriptor));
}

#[test]
fn without_fences_an_event_is_slept_through() {
    check_fails("without_fences_an_event_is_slept_through", "deadlock", || {
        events_arrive::<Fenceless>(&[1], on_the_descriptor);
    });
}

#[test]
fn who_looks_before_it_says_that_it_sleeps_sleeps_through_an_event() {
    check_fails("who_looks_before_it_says_that_it_sleeps_sleeps_through_an_event", "deadlock", || {
        events_arrive::<Checked>(&[1], |events, received| {
            let is_empty = events.is_empty(received);
            if events.bell.prepare_sleep(|| events.descriptor.read(), || is_empty).is_ok() {
                events.descriptor.wait();
            }
        });
    });
}

#[test]
fn an_event_wakes_who_drives() {
    check(|| events_arrive::<Checked>(&[2], |events, received| events.drive(received, false)));
}

#[test]
fn without_fences_an_event_is_driven_past() {
    check_fails("without_fences_an_event_is_driven_past", "deadlock", || {
        events_arrive::<Fenceless>(&[1], |events, received| events.drive(received, false));
    });
}

/// Who pushes may find it asleep in one place and wake it in the other.
#[test]
fn an_event_wakes_who_has_just_stopped_driving() {
    check(|| {
        events_arrive::<Checked>(&[1], |events, received| {
            events.drive(received, true);
            on_the_descriptor(events, received);
        });
    });
}

/// Something to write for a connection, and those who may write it.
#[derive(Debug)]
struct Outlet {
    mark: Mark<Checked>,
    queue: Mutex<usize>,
    /// Held by who writes.
    written: Mutex<usize>,
    /// For the connection's task.
    mail: AtomicBool,
}

impl Outlet {
    fn new() -> Self {
        Self { mark: Mark::default(), queue: Mutex::new(0), written: Mutex::new(0), mail: AtomicBool::new(false) }
    }

    /// As in `Core::flush`: from the thread that has queued it, or else by the task.
    fn send(&self, write_now: impl Fn(&Self) -> bool) {
        *self.queue.lock().unwrap() += 1;
        if self.mark.set() && !write_now(self) {
            self.mail.store(true, SeqCst);
        }
    }

    fn write_now(&self) -> bool {
        let Ok(mut written) = self.written.try_lock() else { return false };
        self.mark.clear();
        *written += std::mem::take(&mut *self.queue.lock().unwrap());
        true
    }

    /// The task has its turn, for mail or for other reasons.
    fn turn(&self) {
        if self.mail.swap(false, SeqCst) {
            self.mark.take();
        }
        let mut written = self.written.lock().unwrap();
        *written += std::mem::take(&mut *self.queue.lock().unwrap());
    }
}

fn all_is_written(write_now: impl Fn(&Outlet) -> bool + Copy + Send + 'static) {
    let outlet = Arc::new(Outlet::new());
    let others = [(); 2].map(|()| outlet.clone());
    let [sender, task] = others;
    let sender = thread::spawn(move || sender.send(write_now));
    let task = thread::spawn(move || task.turn());
    outlet.send(write_now);
    sender.join().unwrap();
    task.join().unwrap();
    // The pump wakes the task as long as there is mail.
    if outlet.mail.load(SeqCst) {
        outlet.turn();
    }
    assert_eq!(*outlet.written.lock().unwrap(), 2, "something was forgotten in the queue");
}

#[test]
fn what_was_queued_is_written() {
    check(|| all_is_written(Outlet::write_now));
}

#[test]
fn a_mark_cleared_after_the_look_forgets_what_came_in_between() {
    check_fails("a_mark_cleared_after_the_look_forgets_what_came_in_between", "forgotten in the queue", || {
        all_is_written(|outlet| {
            let Ok(mut written) = outlet.written.try_lock() else { return false };
            *written += std::mem::take(&mut *outlet.queue.lock().unwrap());
            outlet.mark.clear();
            true
        });
    });
}

/// The seat of the first shard, with both threads' means to wait.
#[derive(Debug)]
struct Place<A: Atomics> {
    seat: Seat<A>,
    /// Of the I/O thread while it drives.
    waker: AtomicWaker,
    /// Tells the application that it may drive.
    handed: Descriptor,
    drivers: AtomicUsize,
    /// The application is at work for longer than anybody's patience.
    gone: AtomicBool,
    stopping: AtomicBool,
}

impl<A: Atomics> Place<A> {
    fn drive<R>(&self, work: impl FnOnce() -> R) -> R {
        assert_eq!(self.drivers.fetch_add(1, SeqCst), 0, "two threads drive");
        let result = work();
        self.drivers.fetch_sub(1, SeqCst);
        result
    }

    /// As `serve` in the engine. `early`: how often its patience ends although the application is on its way.
    fn serve(&self, mut early: usize) {
        loop {
            let stopped = self.drive(|| {
                block_on(poll_fn(|task| {
                    self.waker.register_by_ref(task.waker());
                    if self.stopping.load(SeqCst) {
                        return Poll::Ready(true);
                    }
                    if self.seat.is_wanted() { Poll::Ready(false) } else { Poll::Pending }
                }))
            });
            if stopped {
                return;
            }
            if self.seat.hand_over() {
                self.handed.raise();
                self.seat.watch(
                    || {
                        if self.gone.load(SeqCst) {
                            return None;
                        }
                        if early == 0 {
                            return Some(Duration::ZERO);
                        }
                        early -= 1;
                        None
                    },
                    |limit| if limit.is_none() { thread::park() } else { thread::yield_now() },
                );
            }
        }
    }
}

/// The application drives `times` times and is then at work for long; the I/O thread has to take over by itself.
fn one_of_two_drives<A: Atomics + 'static>(times: usize, early: usize, gives_up: bool)
where
    Seat<A>: Send + Sync,
{
    let place = Arc::new(Place::<A> {
        seat: Seat::default(),
        waker: AtomicWaker::new(),
        handed: Descriptor::default(),
        drivers: AtomicUsize::new(0),
        gone: AtomicBool::new(false),
        stopping: AtomicBool::new(false),
    });
    let thread = {
        let place = place.clone();
        thread::spawn(move || place.serve(early))
    };
    let unpark = || thread.thread().unpark();
    for _ in 0..times {
        while !place.seat.take(|| place.waker.wake()) {
            place.handed.wait();
            place.handed.read();
        }
        place.drive(|| ());
        place.seat.leave(unpark);
    }
    if gives_up {
        place.seat.give_up(unpark);
    }
    place.gone.store(true, SeqCst);
    // Whoever drives sees it: it is the I/O thread's task that ends it.
    place.stopping.store(true, SeqCst);
    place.waker.wake();
    thread.join().unwrap();
    assert_eq!(place.drivers.load(Relaxed), 0);
}

#[test]
fn one_of_two_drives_and_the_thread_takes_over() {
    check(|| one_of_two_drives::<Checked>(2, 0, false));
    check(|| one_of_two_drives::<Checked>(1, 1, false));
}

#[test]
fn one_of_two_drives_after_the_application_has_given_up() {
    check(|| one_of_two_drives::<Checked>(1, 1, true));
}

#[test]
fn without_fences_nobody_takes_over() {
    check_fails("without_fences_nobody_takes_over", "deadlock", || one_of_two_drives::<Fenceless>(1, 0, false));
}
