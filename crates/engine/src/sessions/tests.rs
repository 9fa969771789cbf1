use std::path::Path;

use lifeline_proto::v1::wire::{ClientFrame, Hello, OutboxRange, VERSION};
use lifeline_store::sim::{Faults, Sim};
use tokio::runtime::Handle;

use super::*;
use crate::shard::Shard;

fn failures(core: &Core) -> usize {
    let mut events = Vec::new();
    core.events.receive(&mut events, 1000, usize::MAX);
    let storage =
        |event: &&Event| matches!(event, Event::Failure { failure, .. } if failure.kind == FailureKind::Storage);
    events.iter().filter(storage).count()
}

/// A server's sessions with a store on a disk of their own, and a client whose two items were handled.
fn handled(disk: &Sim) -> (Arc<Core>, Sessions, Key) {
    let shard = Arc::new(Shard::new(0, Handle::current(), None));
    let core = Arc::new(Core::new(vec![shard], Arc::new(EventQueue::new().unwrap())));
    let mut config = ServerConfig::default();
    config.sessions.store = Some("/store".into());
    let (book, restored) = Book::open_with(Arc::new(disk.clone()), Path::new("/store")).unwrap();
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
    {
        let mut inner = sessions.inner.lock();
        let Inner { machine, book: Some(book), profiles, .. } = &mut *inner else { panic!("no store") };
        let marks = book.write(machine, profiles, false).unwrap();
        disk.set_faults(Faults { sync_fails_after: Some(0), ..Faults::default() });
        book.log.sync_all().unwrap_err();
        disk.set_faults(Faults::default());
        assert!(commit(&book.log, None).is_err());
        book.put_back(marks);
    }
    sessions.tend(true);
    assert_eq!((acknowledged(&sessions, &outbox), failures(&core)), (0, 1));
}
