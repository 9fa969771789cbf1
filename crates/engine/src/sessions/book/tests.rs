use lifeline_proto::Time;
use lifeline_proto::v1::data::Change;
use lifeline_proto::v1::server::{LinkId, Output, ServerConfig};
use lifeline_proto::v1::session::Outgoing;
use lifeline_proto::v1::wire::{ClientFrame, Hello, OutboxRange, ServerFrame, VERSION};
use lifeline_store::sim::{Faults, Sim};
use rand::{Rng, SeedableRng};

use super::*;

const AGE: Duration = Duration::from_secs(600);

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

/// Appends what there is, and lets it go out.
fn append(machine: &mut Machine<StdRng>, book: &mut Book, profiles: &HashMap<Key, Profile>) -> Result<(), StoreError> {
    let (batch, place) = (book.take(machine, profiles), machine.place());
    let appended = batch.append_to(&book.log);
    let failed = book.handle_appended(batch, appended.is_ok());
    book.put_back(failed);
    machine.handle_written(place);
    appended
}

/// Writes what is due, all of it durably.
fn write(machine: &mut Machine<StdRng>, book: &mut Book, profiles: &HashMap<Key, Profile>) {
    append(machine, book, profiles).unwrap();
    book.log.sync_all().unwrap();
    for (outbox, handled) in book.take_written() {
        machine.handle_stored(Time::ZERO, &outbox, handled);
    }
}

fn send(machine: &mut Machine<StdRng>, book: &mut Book, session: &Key, data: &[u8]) -> u64 {
    let data = Bytes::copy_from_slice(data);
    let sequence = machine.send(clock::now(), session, data, false).unwrap();
    book.add_message(session, sequence, machine.session(session).unwrap().ring().message(sequence).unwrap());
    sequence
}

fn publish(machine: &mut Machine<StdRng>, book: &mut Book, channel: &ChannelName, data: &[u8], except: &[LinkId]) {
    machine.publish_except(clock::now(), channel, data, true, except);
    let (channel, log, entry) = machine.poll_published().unwrap();
    book.add_published(&channel, log.epoch(), entry);
}

/// Messages of the session that were kept, with their numbers.
fn stream(stored: &Stored, session: &Key) -> BTreeMap<u64, Bytes> {
    let record = &stored.sessions.iter().find(|(record, _)| record.id == *session).unwrap().0;
    let messages: Vec<_> = stored.streams.get(session).into_iter().flatten().collect();
    let first = record.next - messages.len() as u64;
    (first..).zip(messages).map(|(sequence, message)| (sequence, message.data.clone())).collect()
}

#[test]
fn what_was_written_comes_back() {
    let directory = Directory::new("back");
    let (mut book, restored) = Book::open(&directory.0, AGE).unwrap();
    assert!(restored.stored.sessions.is_empty() && restored.damages.is_empty());
    let mut machine = machine(restored.stored);
    let (session, outbox) = greet(&mut machine, 1, 3);
    let channel = ChannelName::new("news").unwrap();
    machine.subscribe(Time::ZERO, &session, &channel);
    let long = vec![b'l'; 3 * COPY];
    publish(&mut machine, &mut book, &channel, b"one", &[LinkId(1)]);
    publish(&mut machine, &mut book, &channel, &long, &[]);
    send(&mut machine, &mut book, &session, b"1");
    send(&mut machine, &mut book, &session, &long);
    let empty = ChannelName::new("empty").unwrap();
    machine.subscribe(Time::ZERO, &session, &empty);
    book.channels.insert(empty.clone());
    let mut data = SessionData::default();
    data.apply(Change::Set("n".into(), Bytes::from_static(b"1")), None);
    let profile = Profile { user: Some("me".into()), claims: Bytes::from_static(b"{}"), data };
    let profiles = HashMap::from([(session.clone(), profile.clone())]);
    run(&mut machine, &mut book);
    write(&mut machine, &mut book, &profiles);
    for anew in 0..3 {
        if anew > 0 {
            for item in Whole::all(&machine) {
                book.stage(&machine, &profiles, &item);
            }
            append(&mut machine, &mut book, &profiles).unwrap();
        }
        if anew == 2 {
            let before = book.log.last_index();
            for item in Whole::all(&machine) {
                book.stage(&machine, &profiles, &item);
            }
            append(&mut machine, &mut book, &profiles).unwrap();
            book.log.discard(before).unwrap();
        }
        drop(book);
        let restored;
        (book, restored) = Book::open(&directory.0, AGE).unwrap();
        assert_eq!(restored.damages, Vec::<String>::new());
        let stored = restored.stored;
        // Noted where a server begins; it was discarded the last time, and this machine is of no store.
        let known = [None, Some(3), None][anew];
        let record = machine.session(&session).unwrap().record();
        assert_eq!(stored.sessions[0].0, SessionRecord { known, ..record });
        let (key, generation, handled, rejected) = &stored.inboxes[0];
        assert_eq!((key, *generation, *handled), (&outbox, 3, 3));
        assert_eq!((rejected[0].sequence, rejected[0].code, &*rejected[0].reason), (2, -7, "no"));
        let channels: HashMap<_, _> = stored.channels.iter().cloned().collect();
        assert_eq!(channels[&channel], machine.channel_log(&channel).unwrap().bottom());
        assert_eq!(channels[&empty], machine.channel_log(&empty).unwrap().top());
        assert_eq!(stream(&stored, &session), BTreeMap::from([(1, "1".into()), (2, long.clone().into())]));
        let published = &stored.published[&channel];
        let payloads: Vec<_> = published.iter().map(|message| (&message.payload[..], message.binary)).collect();
        assert_eq!(payloads, [(&b"one"[..], true), (&long[..], true)]);
        assert_eq!((&published[0].except, &published[1].except), (&vec![session.clone()], &vec![]));
        let again = self::machine(stored);
        let top = |machine: &Machine<StdRng>| machine.channel_log(&channel).unwrap().top();
        assert_eq!(top(&again), top(&machine), "ids and all");
        let Profile { user, claims, data } = &restored.profiles[&session];
        assert_eq!((user, claims, data), (&profile.user, &profile.claims, &profile.data));
    }
    book.forget(&session);
    append(&mut machine, &mut book, &profiles).unwrap();
    // Of one that has ended, what was under way is nobody's.
    send(&mut machine, &mut book, &session, b"3");
    book.dirty.remove(&session);
    append(&mut machine, &mut book, &profiles).unwrap();
    drop(book);
    let stored = Book::open(&directory.0, AGE).unwrap().1.stored;
    assert!(stored.sessions.is_empty() && stored.streams.is_empty());
}

#[test]
fn what_is_behind_a_hole_or_too_old_is_left_out() {
    let directory = Directory::new("holes");
    let (mut book, restored) = Book::open(&directory.0, AGE).unwrap();
    let mut machine = machine(restored.stored);
    let (session, _) = greet(&mut machine, 1, 0);
    run(&mut machine, &mut book);
    let channel = ChannelName::new("news").unwrap();
    machine.subscribe(Time::ZERO, &session, &channel);
    let profiles = HashMap::new();
    for n in 1..=6_u8 {
        if n == 4 {
            book.origin -= 1_000_000_000;
        }
        send(&mut machine, &mut book, &session, &[n]);
        publish(&mut machine, &mut book, &channel, &[n], &[]);
        if n == 2 {
            // What the disk did not take.
            drop(book.take(&machine, &profiles));
        } else {
            append(&mut machine, &mut book, &profiles).unwrap();
        }
    }
    let numbers = |age| {
        let stored = Book::open(&directory.0, age).unwrap().1.stored;
        let stream: Vec<_> = stream(&stored, &session).into_keys().collect();
        let published: Vec<_> = stored.published[&channel].iter().map(|message| message.payload[0]).collect();
        (stream, stored.channels[0].1.offset, published)
    };
    drop(book);
    assert_eq!(numbers(AGE), (vec![3, 4, 5, 6], 2, vec![3, 4, 5, 6]));
    // A channel has what is younger than ten seconds in any case.
    assert_eq!(numbers(Duration::ZERO), (vec![], 2, vec![3, 4, 5, 6]));
    let (mut book, _) = Book::open(&directory.0, AGE).unwrap();
    book.origin = origin() - 1_000_000_000;
    book.staged.heads.extend_from_slice(&[MESSAGE, 0]);
    put_short(&mut book.staged.heads, session.as_str());
    for number in [7, book.origin] {
        book.staged.heads.extend_from_slice(&number.to_le_bytes());
    }
    book.staged.end(Bytes::new());
    append(&mut machine, &mut book, &profiles).unwrap();
    drop(book);
    // The system's clock was set back: as in memory, the oldest goes first.
    assert_eq!(numbers(AGE).0, vec![3, 4, 5, 6, 7]);
}

#[test]
fn no_number_is_given_twice_nor_left_out() {
    let directory = Directory::new("numbers");
    let (mut book, restored) = Book::open(&directory.0, AGE).unwrap();
    let mut machine = machine(restored.stored);
    let (session, _) = greet(&mut machine, 1, 0);
    run(&mut machine, &mut book);
    let profiles = HashMap::new();
    write(&mut machine, &mut book, &profiles);
    let next = |book: Book| {
        drop(book);
        let (book, restored) = Book::open(&directory.0, AGE).unwrap();
        (book, restored.stored.sessions[0].0.next)
    };
    let restored;
    (book, restored) = next(book);
    assert_eq!(restored, 1, "nothing was sent");
    let appended = book.log.stats().records;
    for _ in 0..3000 {
        send(&mut machine, &mut book, &session, b"x");
    }
    append(&mut machine, &mut book, &profiles).unwrap();
    assert_eq!(book.log.stats().records, appended + 3001, "one each, and where the server begins");
    assert_eq!(next(book).1, 3001);
}

/// Who has received what was given anew must not go on, however often the server was restarted and its log written anew.
#[test]
fn what_was_known_first_holds_until_a_connection_has_the_session() {
    let directory = Directory::new("known");
    let profiles = HashMap::new();
    let (mut book, restored) = Book::open(&directory.0, AGE).unwrap();
    let mut server = machine(restored.stored);
    let (session, _) = greet(&mut server, 1, 0);
    run(&mut server, &mut book);
    send(&mut server, &mut book, &session, b"1");
    write(&mut server, &mut book, &profiles);
    for round in 0..4 {
        drop(book);
        let restored;
        (book, restored) = Book::open(&directory.0, AGE).unwrap();
        assert_eq!(restored.stored.sessions[0].0.known, Some(2).filter(|_| round > 0), "after {round} restarts");
        server = machine(restored.stored);
        assert_eq!(server.session(&session).unwrap().record().known, Some(2));
        send(&mut server, &mut book, &session, b"given anew");
        append(&mut server, &mut book, &profiles).unwrap();
        if round > 1 {
            let before = book.log.last_index();
            for item in Whole::all(&server) {
                book.stage(&server, &profiles, &item);
            }
            append(&mut server, &mut book, &profiles).unwrap();
            book.log.discard(before).unwrap();
        }
    }
}

#[test]
fn a_mark_is_acknowledged_when_it_is_on_disk() {
    let directory = Directory::new("marks");
    let (mut book, restored) = Book::open(&directory.0, AGE).unwrap();
    let mut machine = machine(restored.stored);
    let (_, outbox) = greet(&mut machine, 1, 5);
    run(&mut machine, &mut book);
    assert_eq!(machine.inbox(&outbox).unwrap().acknowledged(), 0);
    write(&mut machine, &mut book, &HashMap::new());
    assert_eq!(machine.inbox(&outbox).unwrap().acknowledged(), 5);
}

/// Servers that are killed, or whose machine loses its power, at any moment: what was acknowledged is known; and after
/// the process alone has gone, all that a client may have seen, and no number comes twice.
#[test]
fn what_others_know_is_known_after_a_crash() {
    for seed in 0..400 {
        let mut random = StdRng::seed_from_u64(seed);
        let disk = Sim::new(seed);
        let directory = Path::new("/store");
        let profiles = HashMap::new();
        let (mut book, restored) = Book::open_with(Arc::new(disk.clone()), directory, AGE).unwrap();
        let mut machine = machine(restored.stored);
        let items = random.random_range(1..20);
        let (session, outbox) = greet(&mut machine, 1, items);
        run(&mut machine, &mut book);
        let channel = ChannelName::new("news").unwrap();
        machine.subscribe(Time::ZERO, &session, &channel);
        book.channels.insert(channel.clone());
        let (mut sent, mut told, mut seen) = (Vec::new(), 0, 0);
        for step in 0..random.random_range(1..40_u32) {
            match random.random_range(0..6) {
                0 => run(&mut machine, &mut book),
                1 => write(&mut machine, &mut book, &profiles),
                2 => append(&mut machine, &mut book, &profiles).unwrap(),
                3 => {
                    book.log.roll().unwrap();
                    let before = book.log.last_index();
                    let items = Whole::all(&machine);
                    let whole = random.random_bool(0.7);
                    for item in &items[..if whole { items.len() } else { random.random_range(0..items.len()) }] {
                        book.stage(&machine, &profiles, item);
                        if random.random_bool(0.3) {
                            append(&mut machine, &mut book, &profiles).unwrap();
                        }
                    }
                    append(&mut machine, &mut book, &profiles).unwrap();
                    if whole {
                        book.log.sync_all().unwrap();
                        book.log.discard(before).unwrap();
                    }
                }
                4 => publish(&mut machine, &mut book, &channel, &step.to_le_bytes(), &[]),
                _ => {
                    let sequence = send(&mut machine, &mut book, &session, &step.to_le_bytes());
                    sent.push((sequence, Bytes::copy_from_slice(&step.to_le_bytes())));
                }
            }
            while let Some(outgoing) = machine.poll_transmit(clock::now(), LinkId(1)) {
                match outgoing {
                    Outgoing::Channel { .. } => seen += 1,
                    Outgoing::Frame(ServerFrame::Message { sequence, .. }) => told = sequence,
                    Outgoing::Frame(_) => {}
                }
            }
        }
        let acknowledged = machine.inbox(&outbox).unwrap().acknowledged();
        let welcomed = machine.session(&session).unwrap().control_len() == 0;
        let power = random.random_bool(0.5);
        if power {
            disk.cut_power();
        } else {
            disk.kill();
        }
        let (_, restored) = Book::open_with(Arc::new(disk), directory, AGE).unwrap();
        assert_eq!(restored.damages, Vec::<String>::new(), "seed {seed}");
        let stored = restored.stored;
        let handled = stored.inboxes.iter().find(|(key, ..)| *key == outbox).map_or(0, |inbox| inbox.2);
        assert!(handled >= acknowledged, "seed {seed}: {handled} of {acknowledged}");
        if !power && welcomed {
            let record = &stored.sessions[0].0;
            assert_eq!(record.token, *machine.session(&session).unwrap().token(), "seed {seed}");
            assert!(record.next > told, "seed {seed}: {} comes again, {told} was sent", record.next);
            let kept = stream(&stored, &session);
            let missing = sent.iter().find(|(sequence, data)| *sequence <= told && kept.get(sequence) != Some(data));
            assert_eq!(missing, None, "seed {seed}");
            let live = machine.channel_log(&channel).unwrap();
            assert_eq!(stored.channels[0].1, live.bottom(), "seed {seed}");
            let ids: Vec<_> = stored.published[&channel].iter().map(|message| &message.message_id).collect();
            let truth: Vec<_> = live.entries().map(|entry| &entry.message_id).collect();
            assert!(ids.len() >= seen && truth[..ids.len()] == ids, "seed {seed}: {} of {seen}", ids.len());
        }
    }
}

#[test]
fn nothing_is_acknowledged_by_a_disk_that_fails() {
    let disk = Sim::new(1);
    let (mut book, restored) = Book::open_with(Arc::new(disk.clone()), Path::new("/store"), AGE).unwrap();
    let mut machine = machine(restored.stored);
    let (_, outbox) = greet(&mut machine, 1, 5);
    run(&mut machine, &mut book);
    let used = disk.list(Path::new("/store")).unwrap().iter().map(|(_, len)| len).sum();
    disk.set_faults(Faults { capacity: Some(used), ..Faults::default() });
    book.log.append([(&vec![0; 300_000][..], &b""[..])]).unwrap_err();
    // Tried again when there is room.
    disk.set_faults(Faults { write_fails_after: Some(0), ..Faults::default() });
    assert!(append(&mut machine, &mut book, &HashMap::new()).is_err());
    assert_eq!((book.marks.get(&outbox), book.is_pressing()), (Some(&5), true));
    write(&mut machine, &mut book, &HashMap::new());
    assert_eq!(machine.inbox(&outbox).unwrap().acknowledged(), 5);
}

#[test]
fn any_bytes_can_be_read() {
    let directory = Directory::new("bytes");
    let (book, _) = Book::open(&directory.0, AGE).unwrap();
    let mut serial = 0u32;
    let junk: Vec<Vec<u8>> = (0..2000)
        .map(|count| {
            let mut next = || {
                serial = serial.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (serial >> 24) as u8
            };
            let mut record = vec![(count % 8) as u8];
            for _ in 0..count % 60 {
                // Lengths that are short now and then.
                record.push(if next() < 200 { next() % 4 } else { next() });
            }
            record
        })
        .collect();
    book.log.append(junk.iter().map(|record| (&record[..], &[][..]))).unwrap();
    drop(book);
    let (_, restored) = Book::open(&directory.0, AGE).unwrap();
    assert!(restored.damages.iter().any(|damage| damage.contains("cannot be understood")));
}
