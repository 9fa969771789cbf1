use std::io;
use std::path::Path;
use std::sync::mpsc;

use lifeline_proto::v1::wire::{ClientFrame, Hello, OutboxRange, VERSION};
use lifeline_store::sim::{Faults, Sim};
use lifeline_store::{File, Files, Lock, StoreError};
use parking_lot::Condvar;
use tokio::runtime::Handle;

use super::*;
use crate::shard::Shard;

#[test]
fn what_an_idle_session_costs_here_is_small() {
    assert!(size_of::<Link>() <= 32, "{}", size_of::<Link>());
}

fn failures(core: &Core) -> usize {
    let mut events = Vec::new();
    core.events.receive(&mut events, 1000, usize::MAX);
    let storage =
        |event: &&Event| matches!(event, Event::Failure { failure, .. } if failure.kind == FailureKind::Storage);
    events.iter().filter(storage).count()
}

fn open(files: impl Files + 'static) -> (Book, Restored) {
    Book::open_with(Arc::new(files), Path::new("/store"), Duration::from_secs(120)).unwrap()
}

/// A server's sessions with a store on a disk of their own, and a client whose two items were handled.
fn handled(disk: &(impl Files + Clone + 'static)) -> (Arc<Core>, Sessions, Key) {
    let shard = Arc::new(Shard::new(0, Handle::current(), None));
    let core = Arc::new(Core::new(vec![shard], Arc::new(EventQueue::new().unwrap())));
    core.memory.set_limit(1 << 30);
    let mut config = ServerConfig::default();
    config.sessions.store = Some("/store".into());
    let (book, restored) = open(disk.clone());
    let Restored { stored, profiles, .. } = restored;
    let sessions = Sessions::new(EndpointId(1), &core, &config, Some(book), stored, profiles);
    let outbox = Key::new("box").unwrap();
    {
        let (now, link) = (clock::now(), LinkId(1));
        let mut inner = sessions.inner.lock();
        let Inner { machine, book: Some(book), .. } = &mut *inner else { panic!("no store") };
        machine.handle_connected(now, link);
        let range = OutboxRange { id: outbox.clone(), generation: 1, first: 1, next: 3 };
        let hello = Hello { version: VERSION, auth: None, resume: None, outbox: Some(range) };
        machine.handle_message(now, link, &ClientFrame::Hello(Box::new(hello)).encode().data, false);
        for sequence in 1..=2 {
            let data = Bytes::from_static(b"x");
            let item = ClientFrame::Item { sequence, acknowledged: None, data, binary: false }.encode();
            machine.handle_message(now, link, &item.data, false);
        }
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Deliver { outbox, delivery, .. } => {
                    machine.handle_start(&outbox, delivery.id);
                    machine.handle_done(now, &outbox, delivery.id);
                }
                Output::Store { outbox, handled } => drop(book.marks.insert(outbox, handled)),
                _ => {}
            }
        }
    }
    (core, sessions, outbox)
}

fn acknowledged(sessions: &Sessions, outbox: &Key) -> u64 {
    sessions.inner.lock().machine.inbox(outbox).unwrap().acknowledged()
}

#[tokio::test]
async fn after_a_sync_that_failed_nothing_is_acknowledged_and_that_is_told_once() {
    let disk = Sim::new(1);
    let (core, sessions, outbox) = handled(&disk);
    disk.set_faults(Faults { sync_fails_after: Some(0), ..Faults::default() });
    sessions.tend(false);
    disk.set_faults(Faults::default());
    for tick in [false, true, true] {
        sessions.tend(tick);
    }
    assert_eq!(acknowledged(&sessions, &outbox), 0);
    let kept = sessions.inner.lock().book.as_ref().unwrap().marks.get(&outbox).copied();
    assert_eq!(kept, Some(2), "it is not stored");
    sessions.close_store();
    assert_eq!(failures(&core), 1);
}

/// Another thread's write may fail between ours and its sync.
#[tokio::test]
async fn a_log_that_failed_has_stored_no_marks() {
    let disk = Sim::new(1);
    let (core, sessions, outbox) = handled(&disk);
    sessions.append_with(&mut sessions.scribe.lock(), By::Application).unwrap();
    let log = sessions.inner.lock().book.as_ref().unwrap().log.clone();
    disk.set_faults(Faults { sync_fails_after: Some(0), ..Faults::default() });
    log.sync_all().unwrap_err();
    disk.set_faults(Faults::default());
    sessions.tend(false);
    assert_eq!(acknowledged(&sessions, &outbox), 0);
    sessions.tend(true);
    assert_eq!((acknowledged(&sessions, &outbox), failures(&core)), (0, 1));
}

/// What goes out to the client.
fn frames(sessions: &Sessions) -> String {
    let mut inner = sessions.inner.lock();
    let frames = std::iter::from_fn(|| inner.machine.poll_transmit(clock::now(), LinkId(1)));
    frames.map(|frame| char::from(frame.encode().data[0])).collect()
}

fn session(sessions: &Sessions) -> Key {
    sessions.inner.lock().machine.session_of(LinkId(1)).unwrap().clone()
}

/// Messages of the session that a store has.
fn kept(disk: Sim, key: &Key) -> Vec<Bytes> {
    let messages = open(disk).1.stored.streams.remove(key).unwrap_or_default();
    messages.into_iter().map(|message| message.data).collect()
}

/// A disk whose writes wait while it is told to.
#[derive(Clone, Debug)]
struct Stalling {
    disk: Sim,
    stalls: Arc<(Mutex<bool>, Condvar)>,
    met: mpsc::Sender<()>,
}

#[derive(Debug)]
struct StallingFile(Arc<dyn File>, Stalling);

impl Stalling {
    fn stall(&self, on: bool) {
        *self.stalls.0.lock() = on;
        self.stalls.1.notify_all();
    }
}

impl File for StallingFile {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let (stalls, news) = &*self.1.stalls;
        let mut stalls = stalls.lock();
        if *stalls {
            let _ = self.1.met.send(());
        }
        news.wait_while(&mut stalls, |stalls| *stalls);
        self.0.write_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.truncate(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }
}

impl Files for Stalling {
    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        self.disk.create_directory(directory)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(String, u64)>> {
        self.disk.list(directory)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(StallingFile(self.disk.create(path)?, self.clone())))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(StallingFile(self.disk.open(path)?, self.clone())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.disk.sync_directory(directory)
    }

    fn lock(&self, directory: &Path) -> Result<Box<dyn Lock>, StoreError> {
        self.disk.lock(directory)
    }
}

#[tokio::test]
async fn a_disk_that_stalls_holds_up_what_it_must_have_and_nothing_else() {
    let (met, stalled) = mpsc::channel();
    let disk = Stalling { disk: Sim::new(1), stalls: Arc::default(), met };
    let (_core, sessions, _) = handled(&disk);
    let sessions = Arc::new(sessions);
    sessions.append_with(&mut sessions.scribe.lock(), By::Application).unwrap();
    assert_eq!(frames(&sessions), "WR");
    let key = session(&sessions);
    sessions.send_to_session(key.as_str(), Bytes::from_static(b"one"), false);
    disk.stall(true);
    let application = std::thread::spawn({
        let sessions = sessions.clone();
        move || sessions.append()
    });
    stalled.recv().unwrap();
    // All that I/O threads do goes on meanwhile.
    let beat = ClientFrame::Beat(7).encode();
    sessions.inner.lock().machine.handle_message(clock::now(), LinkId(1), &beat.data, false);
    assert_eq!(frames(&sessions), "O", "and the message waits for the disk");
    sessions.look_at_deadlines();
    disk.stall(false);
    application.join().unwrap();
    assert_eq!(frames(&sessions), "M");
}

#[tokio::test]
async fn a_full_disk_holds_up_nobody_and_is_made_good_when_there_is_room() {
    let disk = Sim::new(1);
    let (core, sessions, outbox) = handled(&disk);
    sessions.tend(true);
    assert_eq!((acknowledged(&sessions, &outbox), frames(&sessions).as_str()), (2, "WAR"));
    let key = session(&sessions);
    let used = disk.list(Path::new("/store")).unwrap().iter().map(|(_, len)| len).sum();
    disk.set_faults(Faults { capacity: Some(used), ..Faults::default() });
    let long = vec![b'x'; 300_000];
    for _ in 0..3 {
        sessions.send_to_session(key.as_str(), long.clone().into(), false);
        sessions.append();
        assert_eq!(frames(&sessions), "M");
        sessions.tend(true);
    }
    assert_eq!(failures(&core), 1);
    assert!(sessions.inner.lock().staged_bytes() < 1000, "what could not be stored is not kept for it");
    disk.set_faults(Faults::default());
    sessions.tend(true);
    sessions.send_to_session(key.as_str(), Bytes::from_static(b"four"), false);
    sessions.append();
    disk.kill();
    let kept = kept(disk, &key);
    assert_eq!(kept.iter().map(Bytes::len).collect::<Vec<_>>(), [300_000, 300_000, 300_000, 4]);
}

#[tokio::test]
async fn a_log_is_bounded_by_what_there_is_to_keep() {
    let disk = Sim::new(1);
    let (_core, sessions, outbox) = handled(&disk);
    let key = session(&sessions);
    sessions.tend(true);
    sessions.append();
    frames(&sessions);
    let mut most = 0;
    for round in 0..100_u64 {
        for _ in 0..10 {
            sessions.send_to_session(key.as_str(), Bytes::from(vec![b'x'; 50_000]), false);
        }
        sessions.append();
        assert_eq!(frames(&sessions), "M".repeat(10));
        let last = (round + 1) * 10 - 3;
        let acknowledge = ClientFrame::Acknowledge { sequence: last }.encode();
        sessions.inner.lock().machine.handle_message(clock::now(), LinkId(1), &acknowledge.data, false);
        sessions.tend(true);
        let log = sessions.inner.lock().book.as_ref().unwrap().log.clone();
        most = most.max(log.stats().bytes_on_disk);
    }
    assert!(most < 10 * 1024 * 1024, "{most} bytes");
    disk.kill();
    let (_, Restored { stored, .. }) = open(disk);
    assert_eq!(stored.inboxes.iter().find(|(id, ..)| *id == outbox).unwrap().2, 2);
    assert_eq!(stored.sessions[0].0.next, 1001);
    assert!(stored.streams[&key].len() >= 3);
}

#[tokio::test]
async fn a_server_that_ends_leaves_everything() {
    let disk = Sim::new(1);
    let (_core, sessions, _) = handled(&disk);
    let key = session(&sessions);
    sessions.send_to_session(key.as_str(), Bytes::from_static(b"one"), false);
    sessions.close_store();
    sessions.send_to_session(key.as_str(), Bytes::from_static(b"two"), false);
    sessions.append();
    assert_eq!(frames(&sessions), "WRMM", "nobody waits for a store that is closed");
    assert_eq!(kept(disk, &key), [&b"one"[..]]);
}
