//! The queue from the I/O threads to the application's thread, with a descriptor to sleep on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::event::{EventfdFlags, eventfd};

use crate::bridge::{Event, LogLevel, LogRecord};
use crate::clock;

/// Log records that may wait for the application.
const RECORDS: usize = 10_000;

/// Bounded by `limits.inbound` of each connection and `limits.memory`, not by itself; log records by [`RECORDS`].
///
/// The descriptor is written only when the application sleeps: one system call a sleep, not an event.
#[derive(Debug)]
pub struct EventQueue {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
    descriptor: OwnedFd,
    /// The application sleeps or is about to: the next event must write the descriptor.
    asleep: AtomicBool,
    /// The descriptor has been written and not read since.
    signalled: AtomicBool,
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
            asleep: AtomicBool::new(false),
            signalled: AtomicBool::new(false),
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
        // The receiver lives as long as the sender: both are ours.
        let _ = self.sender.send(event);
        // Pairs with the fence in `prepare_sleep`: either we see `asleep`, or it sees the event.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            self.signal();
        }
    }

    /// At most `limit` events, and no more after `bytes` of messages.
    pub fn receive(&self, into: &mut Vec<Event>, limit: usize, bytes: usize) -> usize {
        let mut count = 0;
        let mut size = 0;
        while count < limit && size < bytes {
            let Ok(event) = self.receiver.try_recv() else { break };
            match &event {
                Event::Message { data, .. } => size += data.len(),
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

    pub fn prepare_sleep(&self) -> bool {
        if self.signalled.swap(false, Ordering::AcqRel) {
            let mut counter = [0; 8];
            // Non-blocking; another wake's bytes may have been read along with the last.
            let _ = rustix::io::read(&self.descriptor, &mut counter);
        }
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.receiver.is_empty() {
            self.busy.store(false, Ordering::Relaxed);
            return true;
        }
        if self.asleep.swap(false, Ordering::AcqRel) {
            self.signal();
        }
        false
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// How long the application has left events waiting or been at work on a batch; zero when idle.
    pub fn lag(&self) -> Duration {
        if self.busy.load(Ordering::Relaxed) || !self.receiver.is_empty() {
            clock::now() - lifeline_proto::Time::from_micros(self.last_receive.load(Ordering::Relaxed))
        } else {
            Duration::ZERO
        }
    }

    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    fn signal(&self) {
        // Fails only when the counter is full, and then the descriptor is readable anyway.
        let _ = rustix::io::write(&self.descriptor, &1_u64.to_ne_bytes());
        // After the write: who sees it finds something to read. The other way round a reader in between
        // would leave the descriptor readable with nobody to know it, and never sleep again.
        self.signalled.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
