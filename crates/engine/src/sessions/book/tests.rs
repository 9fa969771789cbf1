use lifeline_proto::Time;
use lifeline_proto::v1::data::Change;
use lifeline_proto::v1::server::{LinkId, Output, ServerConfig};
use lifeline_proto::v1::wire::{ClientFrame, Hello, OutboxRange, VERSION};
use lifeline_store::sim::{Faults, Sim};
use rand::{Rng, SeedableRng};

use super::*;

struct Directory(std::path::PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("lifeline-book-{}-{name}", std::process::id())))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn machine(stored: Stored) -> Machine<StdRng> {
    let config = ServerConfig { store: true, ..ServerConfig::default() };
    Machine::restore(Time::ZERO, config, StdRng::seed_from_u64(7), stored)
}

/// A client of a new session with an outbox, and what it has sent handled.
fn greet(machine: &mut Machine<StdRng>, link: u64, items: u64) -> (Key, Key) {
    let (now, link) = (Time::ZERO, LinkId(link));
    let outbox = Key::random(&mut StdRng::seed_from_u64(link.0));
    machine.handle_connected(now, link);
    let range = OutboxRange { id: outbox.clone(), generation: 3, first: 1, next: items + 1 };
    let hello = Hello { version: VERSION, auth: None, resume: None, outbox: Some(range) };
    let hello = ClientFrame::Hello(Box::new(hello)).encode();
    machine.handle_message(now, link, &hello.data, false);
    for sequence in 1..=items {
        let data = Bytes::from_static(b"x");
        let item = ClientFrame::Item { sequence, acknowledged: None, data, binary: false }.encode();
        machine.handle_message(now, link, &item.data, false);
    }
    (machine.session_of(link).unwrap().clone(), outbox)
}

/// Carries out what the machine wants.
fn run(machine: &mut Machine<StdRng>, book: &mut Book) {
    while let Some(output) = machine.poll_output() {
        match output {
            Output::Deliver { outbox, delivery, .. } => {
                machine.handle_start(&outbox, delivery.id);
                if delivery.id.sequence == 2 {
                    machine.handle_rejected(Time::ZERO, &outbox, delivery.id, -7, "no".to_owned(), true);
                } else {
                    machine.handle_done(Time::ZERO, &outbox, delivery.id);
                }
            }
            Output::Opened { session, .. } => drop(book.dirty.insert(session)),
            Output::Store { outbox, handled } => drop(book.marks.insert(outbox, handled)),
            Output::SessionEnded { session } => book.forget(&session),
            _ => {}
        }
    }
}

/// Writes what is due, all of it durably.
fn write(machine: &mut Machine<StdRng>, book: &mut Book, profiles: &HashMap<Key, Profile>) {
    for (outbox, handled) in book.write(machine, profiles, true).unwrap() {
        book.log.sync_all().unwrap();
        machine.handle_stored(Time::ZERO, &outbox, handled);
    }
}

#[test]
fn what_was_written_comes_back() {
    let directory = Directory::new("back");
    let (mut book, restored) = Book::open(&directory.0).unwrap();
    assert!(restored.stored.sessions.is_empty() && restored.damages.is_empty());
    let mut machine = machine(restored.stored);
    let (session, outbox) = greet(&mut machine, 1, 3);
    let channel = ChannelName::new("news").unwrap();
    machine.subscribe(Time::ZERO, &session, &channel);
    machine.publish(Time::ZERO, &channel, b"one", false);
    book.channels.insert(channel.clone());
    let mut data = SessionData::default();
    data.apply(Change::Set("n".into(), Bytes::from_static(b"1")), None);
    let profile = Profile { user: Some("me".into()), claims: Bytes::from_static(b"{}"), data };
    let profiles = HashMap::from([(session.clone(), profile.clone())]);
    run(&mut machine, &mut book);
    write(&mut machine, &mut book, &profiles);
    for anew in [false, true] {
        if anew {
            book.write_anew(&machine, &profiles, false).unwrap();
        }
        drop(book);
        let restored;
        (book, restored) = Book::open(&directory.0).unwrap();
        assert_eq!(restored.damages, Vec::<String>::new());
        let stored = restored.stored;
        assert_eq!(stored.sessions[0].0, machine.session(&session).unwrap().record());
        let (key, generation, handled, rejected) = &stored.inboxes[0];
        assert_eq!((key, *generation, *handled), (&outbox, 3, 3));
        assert_eq!((rejected[0].sequence, rejected[0].code, &*rejected[0].reason), (2, -7, "no"));
        assert_eq!(stored.channels, [(channel.clone(), machine.channel_log(&channel).unwrap().top())]);
        let Profile { user, claims, data } = &restored.profiles[&session];
        assert_eq!((user, claims, data), (&profile.user, &profile.claims, &profile.data));
    }
    book.forget(&session);
    book.write(&machine, &profiles, false).unwrap();
    drop(book);
    assert!(Book::open(&directory.0).unwrap().1.stored.sessions.is_empty());
}

#[test]
fn a_number_is_taken_before_it_is_used() {
    let directory = Directory::new("numbers");
    let (mut book, restored) = Book::open(&directory.0).unwrap();
    let mut machine = machine(restored.stored);
    let (session, _) = greet(&mut machine, 1, 0);
    run(&mut machine, &mut book);
    let profiles = HashMap::new();
    write(&mut machine, &mut book, &profiles);
    let next = |book: Book| {
        drop(book);
        let (book, restored) = Book::open(&directory.0).unwrap();
        (book, restored.stored.sessions[0].0.next)
    };
    let restored;
    (book, restored) = next(book);
    assert_eq!(restored, 1, "nothing was sent");
    let send = |machine: &mut Machine<StdRng>, book: &mut Book| {
        let sequence = machine.send(Time::ZERO, &session, Bytes::from_static(b"x"), false).unwrap();
        book.reserve(machine, &profiles, &session, sequence).unwrap();
        sequence
    };
    for _ in 0..2 * RESERVE {
        send(&mut machine, &mut book);
    }
    let appended = book.log.stats().records;
    assert!(appended <= 3, "{appended} records for {} messages", 2 * RESERVE);
    let last = send(&mut machine, &mut book);
    let restored;
    (book, restored) = next(book);
    assert!(restored > last, "{restored} would be given again, {last} was");
    // When the client has it all, the record says it exactly.
    send(&mut machine, &mut book);
    while machine.poll_transmit(Time::ZERO, LinkId(1)).is_some() {}
    let acknowledge = ClientFrame::Acknowledge { sequence: last + 1 }.encode();
    machine.handle_message(Time::ZERO, LinkId(1), &acknowledge.data, false);
    book.write(&machine, &profiles, true).unwrap();
    let (_, restored) = next(book);
    assert_eq!(restored, last + 2);
}

#[test]
fn a_mark_is_acknowledged_when_it_is_on_disk() {
    let directory = Directory::new("marks");
    let (mut book, restored) = Book::open(&directory.0).unwrap();
    let mut machine = machine(restored.stored);
    let (_, outbox) = greet(&mut machine, 1, 5);
    run(&mut machine, &mut book);
    assert_eq!(machine.inbox(&outbox).unwrap().acknowledged(), 0);
    write(&mut machine, &mut book, &HashMap::new());
    assert_eq!(machine.inbox(&outbox).unwrap().acknowledged(), 5);
}

#[test]
fn the_log_does_not_grow_for_ever() {
    let directory = Directory::new("growth");
    let (mut book, restored) = Book::open(&directory.0).unwrap();
    let mut machine = machine(restored.stored);
    let (session, _) = greet(&mut machine, 1, 0);
    run(&mut machine, &mut book);
    let data = SessionData::restore(1, BTreeMap::from([("big".into(), Bytes::from(vec![b'1'; 100_000]))]));
    let profiles = HashMap::from([(session.clone(), Profile { data, ..Profile::default() })]);
    for _ in 0..1000 {
        book.dirty.insert(session.clone());
        book.write(&machine, &profiles, true).unwrap();
        if book.is_bloated() {
            let before = book.write_anew(&machine, &profiles, false).unwrap();
            book.log.discard(before).unwrap();
        }
    }
    let held = book.log.stats().bytes_on_disk;
    assert!(held < 2 * SLACK, "{held} bytes for one session");
    drop(book);
    assert_eq!(Book::open(&directory.0).unwrap().1.profiles[&session].data.version(), 1);
}

/// Servers that are killed, or whose machine loses its power, at any moment: what was acknowledged is known, and no
/// number of a stream is given twice after the process alone has gone.
#[test]
fn what_was_acknowledged_is_known_after_a_crash() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let disk = Sim::new(seed);
        let directory = Path::new("/store");
        let profiles = HashMap::new();
        let (mut book, restored) = Book::open_with(Arc::new(disk.clone()), directory).unwrap();
        let mut machine = machine(restored.stored);
        let items = random.random_range(1..20);
        let (session, outbox) = greet(&mut machine, 1, items);
        run(&mut machine, &mut book);
        let (mut last, mut recorded) = (0, false);
        for _ in 0..random.random_range(1..30) {
            match random.random_range(0..4) {
                0 => run(&mut machine, &mut book),
                1 => {
                    write(&mut machine, &mut book, &profiles);
                    recorded = true;
                }
                2 => {
                    book.write_anew(&machine, &profiles, false).unwrap();
                    recorded = true;
                }
                _ => {
                    last = machine.send(Time::ZERO, &session, Bytes::from_static(b"x"), false).unwrap();
                    book.reserve(&machine, &profiles, &session, last).unwrap();
                    recorded = true;
                }
            }
        }
        let acknowledged = machine.inbox(&outbox).unwrap().acknowledged();
        let power = random.random_bool(0.5);
        if power {
            disk.cut_power();
        } else {
            disk.kill();
        }
        let (_, restored) = Book::open_with(Arc::new(disk), directory).unwrap();
        assert_eq!(restored.damages, Vec::<String>::new(), "seed {seed}");
        let handled = restored.stored.inboxes.iter().find(|(key, ..)| *key == outbox).map_or(0, |inbox| inbox.2);
        assert!(handled >= acknowledged, "seed {seed}: {handled} of {acknowledged}");
        if !power && recorded {
            let next = restored.stored.sessions[0].0.next;
            assert!(next > last, "seed {seed}: {next} comes again, {last} was sent");
        }
    }
}

#[test]
fn nothing_is_acknowledged_by_a_disk_that_fails() {
    let disk = Sim::new(1);
    let (mut book, restored) = Book::open_with(Arc::new(disk.clone()), Path::new("/store")).unwrap();
    let mut machine = machine(restored.stored);
    let (_, outbox) = greet(&mut machine, 1, 5);
    run(&mut machine, &mut book);
    let used = disk.list(Path::new("/store")).unwrap().iter().map(|(_, len)| len).sum();
    disk.set_faults(Faults { capacity: Some(used), ..Faults::default() });
    book.log.append([(&vec![0; 300_000][..], &b""[..])]).unwrap_err();
    // Tried again when there is room.
    disk.set_faults(Faults { write_fails_after: Some(0), ..Faults::default() });
    assert!(book.write(&machine, &HashMap::new(), false).is_err());
    assert_eq!((book.marks.get(&outbox), book.is_dirty()), (Some(&5), true));
    write(&mut machine, &mut book, &HashMap::new());
    assert_eq!(machine.inbox(&outbox).unwrap().acknowledged(), 5);
}

#[test]
fn any_bytes_can_be_read() {
    let directory = Directory::new("bytes");
    let (book, _) = Book::open(&directory.0).unwrap();
    let mut serial = 0u32;
    let junk: Vec<Vec<u8>> = (0..2000)
        .map(|count| {
            let mut next = || {
                serial = serial.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (serial >> 24) as u8
            };
            let mut record = vec![(count % 7) as u8];
            for _ in 0..count % 60 {
                // Lengths that are short now and then.
                record.push(if next() < 200 { next() % 4 } else { next() });
            }
            record
        })
        .collect();
    book.append(&junk).unwrap();
    drop(book);
    let (_, restored) = Book::open(&directory.0).unwrap();
    assert!(restored.damages.iter().any(|damage| damage.contains("cannot be understood")));
}
