//! The queue from the I/O threads to the application's thread, with a descriptor to sleep on.

use std::cell::Cell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Context;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use futures_util::task::AtomicWaker;
use lifeline_handoff::{Bell, Ring};
use rustix::event::{EventfdFlags, eventfd};

use crate::bridge::{Event, LogLevel, LogRecord, OutboxItem};
use crate::clock;

/// Log records that may wait for the application.
const RECORDS: usize = 10_000;

/// Turns of connections and further events after which a wake is put off no longer.
const DEFERRED: u32 = 32;

thread_local! {
    /// What this thread owes the application; none on threads that wake it at once.
    static OWED: Cell<Option<Owed>> = const { Cell::new(None) };
    static TURNS: Cell<u32> = const { Cell::new(0) };
    static PUSHED: Cell<usize> = const { Cell::new(0) };
}

/// Events that were pushed without a wake, and what has happened since the first of them.
#[derive(Debug, Clone, Copy)]
enum Owed {
    Nothing,
    Wake { steps: u32 },
}

/// Turns of connections that this thread has made so far.
pub fn turns() -> u32 {
    TURNS.get()
}

/// Bytes of messages that this thread has pushed so far.
pub fn pushed() -> usize {
    PUSHED.get()
}

/// From now on this thread, which runs an I/O loop, wakes the application only by [`EventQueue::settle`]
/// and [`EventQueue::end_turn`]: once for all that a turn of the loop brings, because two threads that
/// wake each other for every event spend more on that than on the events.
pub fn defer_wakes() {
    OWED.set(Some(Owed::Nothing));
}

/// Bounded by `limits.inbound` of each connection and `limits.memory`, not by itself; log records by [`RECORDS`].
///
/// The descriptor is written only when the application sleeps, and by an I/O thread only when it has
/// nothing more to do or after [`DEFERRED`] steps: one system call a sleep, not an event.
#[derive(Debug)]
pub struct EventQueue {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
    descriptor: OwnedFd,
    /// Where the application sleeps by driving a runtime this wakes it, not the descriptor.
    driver: AtomicWaker,
    bell: Bell,
    /// When the application last asked for events, in microseconds of [`clock::now`].
    last_receive: AtomicU64,
    /// Log records in the queue.
    records: AtomicUsize,
    /// Log records that found the queue full of such.
    lost_records: AtomicU64,
    /// It got some then, and is still working on them as far as we know.
    busy: AtomicBool,
}

impl EventQueue {
    pub fn new() -> std::io::Result<Self> {
        let (sender, receiver) = unbounded();
        Ok(Self {
            sender,
            receiver,
            descriptor: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            driver: AtomicWaker::new(),
            bell: Bell::default(),
            last_receive: AtomicU64::new(clock::now().as_micros()),
            records: AtomicUsize::new(0),
            lost_records: AtomicU64::new(0),
            busy: AtomicBool::new(false),
        })
    }

    pub fn push(&self, event: Event) {
        // Peers can cause these at will, and nothing else holds them back.
        if matches!(event, Event::Log { .. }) && self.records.fetch_add(1, Ordering::Relaxed) >= RECORDS {
            self.records.fetch_sub(1, Ordering::Relaxed);
            self.lost_records.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match &event {
            Event::Message { data, .. } => PUSHED.set(PUSHED.get().wrapping_add(data.len())),
            Event::Items { items, .. } => PUSHED.set(PUSHED.get().wrapping_add(bytes_of(items))),
            _ => {}
        }
        // The receiver lives as long as the sender: both are ours.
        let _ = self.sender.send(event);
        match OWED.get() {
            None => self.wake(),
            Some(Owed::Nothing) => OWED.set(Some(Owed::Wake { steps: 0 })),
            Some(Owed::Wake { .. }) => self.step(),
        }
    }

    /// Wakes the application for what this thread has pushed. An I/O thread calls it before it sleeps.
    pub fn settle(&self) {
        if matches!(OWED.get(), Some(Owed::Wake { .. })) {
            OWED.set(Some(Owed::Nothing));
            self.wake();
        }
    }

    /// A connection has had its turn.
    pub fn end_turn(&self) {
        TURNS.set(TURNS.get().wrapping_add(1));
        self.step();
    }

    fn step(&self) {
        match OWED.get() {
            Some(Owed::Wake { steps }) if steps + 1 < DEFERRED => OWED.set(Some(Owed::Wake { steps: steps + 1 })),
            Some(Owed::Wake { .. }) => self.settle(),
            _ => {}
        }
    }

    fn wake(&self) {
        // It lags from now on, not from when it fell asleep.
        let ring = self.bell.pushed(|| self.last_receive.store(clock::now().as_micros(), Ordering::Relaxed));
        if let Some(ring) = ring {
            self.ring(ring);
        }
    }

    /// At most `limit` events, and no more after as many messages or `bytes` of them; returns how many events.
    pub fn receive(&self, into: &mut Vec<Event>, limit: usize, bytes: usize) -> usize {
        let mut count = 0;
        // Beside the first of each event.
        let mut items_more = 0;
        let mut size = 0;
        while count + items_more < limit && size < bytes {
            let Ok(event) = self.receiver.try_recv() else { break };
            match &event {
                Event::Message { data, .. } => size += data.len(),
                Event::Items { items, .. } => {
                    items_more += items.len() - 1;
                    size += bytes_of(items);
                }
                Event::Log { .. } => {
                    self.records.fetch_sub(1, Ordering::Relaxed);
                }
                _ => {}
            }
            into.push(event);
            count += 1;
        }
        if self.lost_records.load(Ordering::Relaxed) > 0 {
            let lost = self.lost_records.swap(0, Ordering::Relaxed);
            let message = format!("{lost} log records were dropped: {RECORDS} waited for PHP");
            let record = LogRecord { level: LogLevel::Warning, message, context: Vec::new() };
            into.push(Event::Log { endpoint: None, record: Box::new(record) });
            count += 1;
        }
        self.last_receive.store(clock::now().as_micros(), Ordering::Relaxed);
        self.busy.store(count > 0, Ordering::Relaxed);
        count
    }

    /// The application begins work that no event has brought. It ends when it asks for events.
    pub fn begin_work(&self) {
        self.last_receive.store(clock::now().as_micros(), Ordering::Relaxed);
        self.busy.store(true, Ordering::Relaxed);
        // It asks for events before it sleeps again.
        self.bell.begin_work();
    }

    pub fn prepare_sleep(&self) -> bool {
        let read = || {
            let mut counter = [0; 8];
            // Non-blocking.
            rustix::io::read(&self.descriptor, &mut counter).is_ok().then(|| u64::from_ne_bytes(counter))
        };
        match self.bell.prepare_sleep(read, || self.receiver.is_empty()) {
            Ok(()) => {
                self.busy.store(false, Ordering::Relaxed);
                true
            }
            Err(ring) => {
                if let Some(ring) = ring {
                    self.ring(ring);
                }
                false
            }
        }
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// How long the application has left events waiting or been at work on a batch; zero when idle.
    pub fn lag(&self) -> Duration {
        let awake = !self.bell.is_asleep();
        if awake && (self.busy.load(Ordering::Relaxed) || !self.receiver.is_empty()) {
            clock::now() - lifeline_proto::Time::from_micros(self.last_receive.load(Ordering::Relaxed))
        } else {
            Duration::ZERO
        }
    }

    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    /// The application's thread begins to drive a runtime.
    pub fn begin_driving(&self) {
        self.bell.begin_driving();
    }

    /// It sleeps in there: the next event wakes `task`. False: there is one already.
    pub fn poll_sleep(&self, task: &Context<'_>) -> bool {
        self.driver.register(task.waker());
        if self.bell.poll_sleep(|| self.receiver.is_empty()) {
            self.busy.store(false, Ordering::Relaxed);
            return true;
        }
        self.last_receive.store(clock::now().as_micros(), Ordering::Relaxed);
        false
    }

    /// The application's thread does not drive any more.
    pub fn end_driving(&self) {
        self.bell.end_driving();
    }

    /// Nobody drives again: what it was woken by keeps a runtime, which keeps this queue.
    pub fn forget_driver(&self) {
        drop(self.driver.take());
    }

    /// Wakes the application, whether there is an event or not.
    pub fn signal(&self) {
        self.ring(self.bell.signal());
    }

    fn ring(&self, ring: Ring) {
        match ring {
            Ring::Waker => self.driver.wake(),
            Ring::Descriptor => self.raise(),
        }
    }

    fn raise(&self) {
        // Fails only when the counter is full, which takes 2^64 signals.
        let _ = rustix::io::write(&self.descriptor, &1_u64.to_ne_bytes());
    }
}

fn bytes_of(items: &VecDeque<OutboxItem>) -> usize {
    items.iter().map(|item| item.data.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_raised(queue: &EventQueue) -> bool {
        let mut descriptors = [rustix::event::PollFd::new(&queue.descriptor, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut descriptors, Some(&rustix::event::Timespec::default())).unwrap() > 0
    }

    #[test]
    fn a_signal_that_is_late_does_not_keep_the_descriptor_raised() {
        let queue = EventQueue::new().unwrap();
        for late in [0, 1, 2] {
            // Threads that were interrupted on their way to the write.
            for _ in 0..late {
                queue.bell.begin_signal();
                assert!(queue.prepare_sleep());
            }
            queue.signal();
            assert!(is_raised(&queue));
            assert!(queue.prepare_sleep());
            assert!(!is_raised(&queue), "{late} late: woken for what is known");
            for _ in 0..late {
                queue.raise();
            }
            assert!(queue.prepare_sleep());
            assert!(!is_raised(&queue), "{late} late");
        }
    }

    #[test]
    fn work_that_no_event_has_brought_lags_too() {
        let queue = EventQueue::new().unwrap();
        assert!(queue.prepare_sleep());
        queue.begin_work();
        std::thread::sleep(Duration::from_millis(2));
        assert!(queue.lag() >= Duration::from_millis(2));
        assert_eq!(queue.receive(&mut Vec::new(), 1, 1), 0);
        assert_eq!(queue.lag(), Duration::ZERO);
        assert!(queue.prepare_sleep());
        assert_eq!(queue.lag(), Duration::ZERO);
    }

    #[test]
    fn who_is_woken_by_a_signal_reads_it() {
        let queue = std::sync::Arc::new(EventQueue::new().unwrap());
        for _ in 0..2000 {
            assert!(queue.prepare_sleep());
            let pusher = queue.clone();
            let record = LogRecord { level: LogLevel::Info, message: String::new(), context: Vec::new() };
            let thread =
                std::thread::spawn(move || pusher.push(Event::Log { endpoint: None, record: Box::new(record) }));
            while !is_raised(&queue) {
                std::thread::yield_now();
            }
            assert_eq!(queue.receive(&mut Vec::new(), 10, 1), 1);
            assert!(queue.prepare_sleep());
            assert!(!is_raised(&queue), "woken twice for one signal");
            thread.join().unwrap();
        }
    }

    fn some_event() -> Event {
        let record = LogRecord { level: LogLevel::Info, message: String::new(), context: Vec::new() };
        Event::Log { endpoint: None, record: Box::new(record) }
    }

    #[test]
    fn an_application_that_slept_does_not_lag() {
        let queue = EventQueue::new().unwrap();
        assert!(queue.prepare_sleep());
        queue.last_receive.store(0, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                defer_wakes();
                queue.push(some_event());
                assert_eq!(queue.lag(), Duration::ZERO, "it sleeps and has not been woken");
                let before = clock::now();
                queue.settle();
                assert!(queue.lag() <= clock::now() - before, "{:?}: it was woken just now", queue.lag());
            });
        });
    }

    #[test]
    fn a_wake_is_not_put_off_for_ever() {
        let queue = EventQueue::new().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                defer_wakes();
                for step in [EventQueue::end_turn as fn(&EventQueue), |queue| queue.push(some_event())] {
                    queue.receive(&mut Vec::new(), usize::MAX, usize::MAX);
                    assert!(queue.prepare_sleep());
                    queue.push(some_event());
                    let steps = (1..=100).find(|_| {
                        step(&queue);
                        is_raised(&queue)
                    });
                    assert_eq!(steps, Some(DEFERRED));
                }
            });
        });
    }

    #[test]
    fn log_records_are_bounded_and_their_loss_is_told() {
        let queue = EventQueue::new().unwrap();
        let record = || LogRecord { level: LogLevel::Info, message: "handshake failed".into(), context: Vec::new() };
        for _ in 0..RECORDS + 500 {
            queue.push(Event::Log { endpoint: None, record: Box::new(record()) });
        }
        assert_eq!(queue.len(), RECORDS);
        let mut events = Vec::new();
        assert_eq!(queue.receive(&mut events, usize::MAX, 1), RECORDS + 1);
        let Some(Event::Log { record: last, .. }) = events.last() else { panic!("{:?}", events.last()) };
        assert!(last.message.starts_with("500 log records were dropped"), "{}", last.message);
        // Room again.
        queue.push(Event::Log { endpoint: None, record: Box::new(record()) });
        events.clear();
        assert_eq!(queue.receive(&mut events, usize::MAX, 1), 1);
    }
}
