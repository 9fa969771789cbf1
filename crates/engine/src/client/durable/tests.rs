use std::collections::{BTreeMap, BTreeSet};

use lifeline_store::sim::{Faults, Sim};
use proptest::prelude::*;

use super::*;

const WALL: Duration = Duration::from_secs(1_000_000);

fn storage(durability: Durability) -> Storage {
    Storage { path: "/outbox".into(), durability }
}

fn config() -> OutboxConfig {
    OutboxConfig { ttl: None, ..OutboxConfig::default() }
}

fn open(disk: &Sim, durability: Durability) -> (Durable, Found) {
    Durable::open_with(Arc::new(disk.clone()), &config(), &storage(durability), Time::from_micros(1), WALL).unwrap()
}

fn send(outbox: &mut Durable, data: &str) -> Result<u64, CommandError> {
    let outcome = outbox.push(Time::from_micros(1), Bytes::copy_from_slice(data.as_bytes()), false, None).unwrap();
    if let Some(work) = outbox.commit(Time::from_micros(1)) {
        let result = work.carry_out();
        outbox.handle_done(&work, &result)?;
    }
    Ok(outcome.sequence)
}

fn tend(outbox: &mut Durable, tick: bool) {
    if let Some(work) = outbox.upkeep(Time::from_micros(1), tick) {
        let result = work.carry_out();
        outbox.handle_done(&work, &result).unwrap();
    }
}

fn close(mut outbox: Durable) {
    let work = outbox.farewell(Time::from_micros(1)).unwrap();
    work.carry_out().unwrap();
}

/// What a connection would be given.
fn flow(outbox: &mut Durable) -> Vec<(u64, String)> {
    let next = |outbox: &mut Durable| outbox.next_to_send(Time::from_micros(1));
    std::iter::from_fn(|| next(outbox))
        .map(|item| (item.sequence, String::from_utf8(item.data.to_vec()).unwrap()))
        .collect()
}

fn texts(items: &[(u64, &str)]) -> Vec<(u64, String)> {
    items.iter().map(|(sequence, text)| (*sequence, (*text).to_owned())).collect()
}

#[test]
fn the_next_process_sends_what_is_left() {
    for durability in [Durability::Always, Durability::Interval, Durability::Spill] {
        let disk = Sim::new(1);
        let (mut outbox, _) = open(&disk, durability);
        for data in ["one", "two", "three"] {
            send(&mut outbox, data).unwrap();
        }
        let id = outbox.range().id;
        assert_eq!(flow(&mut outbox).len(), 3);
        outbox.handle_acknowledged(1);
        close(outbox);
        let (mut outbox, found) = open(&disk, durability);
        assert!(found.damages.is_empty() && found.remarks.is_empty() && found.notices.is_empty(), "{found:?}");
        assert_eq!(outbox.range(), OutboxRange { id, generation: 2, first: 2, next: 4 });
        assert_eq!(flow(&mut outbox), texts(&[(2, "two"), (3, "three")]));
        assert_eq!(send(&mut outbox, "four"), Ok(4));
        outbox.handle_acknowledged(4);
        close(outbox);
        // The numbers go on also when nothing is left.
        let (mut outbox, _) = open(&disk, durability);
        assert_eq!((outbox.len(), send(&mut outbox, "five")), (0, Ok(5)));
    }
}

#[test]
fn nothing_leaves_before_it_is_on_disk() {
    let disk = Sim::new(1);
    let (mut outbox, _) = open(&disk, Durability::Always);
    outbox.push(Time::from_micros(1), Bytes::from_static(b"one"), false, None).unwrap();
    assert_eq!(flow(&mut outbox), []);
    let work = outbox.commit(Time::from_micros(1)).unwrap();
    assert_eq!((flow(&mut outbox), outbox.first_waiting()), (vec![], None));
    let result = work.carry_out();
    outbox.handle_done(&work, &result).unwrap();
    assert_eq!(flow(&mut outbox), texts(&[(1, "one")]));
}

#[test]
fn what_is_taken_out_while_it_is_written_does_not_come_back() {
    let now = Time::from_micros(1);
    for durability in [Durability::Always, Durability::Interval, Durability::Spill] {
        let disk = Sim::new(1);
        let (mut outbox, _) = open(&disk, durability);
        send(&mut outbox, "one").unwrap();
        outbox.push(now, Bytes::from_static(b"not written"), false, None).unwrap();
        assert!(outbox.handle_rejected(2, 409, "").is_some());
        outbox.letters.clear();
        assert!(outbox.commit(now).is_none(), "{durability:?}");
        outbox.push(now, Bytes::from_static(b"being written"), false, None).unwrap();
        outbox.push(now, Bytes::from_static(b"four"), false, None).unwrap();
        let work = outbox.commit(now).or_else(|| {
            tend(&mut outbox, true);
            outbox.upkeep(now, true)
        });
        let work = work.unwrap();
        assert_eq!(work.items.last(), Some(&4), "{durability:?}");
        assert!(outbox.handle_rejected(3, 409, "").is_some());
        // They go to a disk that is none.
        outbox.letters.clear();
        let result = work.carry_out();
        outbox.handle_done(&work, &result).unwrap();
        tend(&mut outbox, true);
        assert!(!outbox.needs_upkeep(), "{durability:?}");
        disk.kill();
        let (mut outbox, _) = open(&disk, durability);
        assert_eq!(flow(&mut outbox), texts(&[(1, "one"), (4, "four")]), "{durability:?}");
    }
}

#[test]
fn a_process_that_was_killed() {
    for (durability, same) in [(Durability::Always, true), (Durability::Interval, false), (Durability::Spill, false)] {
        let disk = Sim::new(1);
        let (mut outbox, _) = open(&disk, durability);
        let id = outbox.range().id;
        send(&mut outbox, "one").unwrap();
        tend(&mut outbox, true);
        tend(&mut outbox, true);
        send(&mut outbox, "two").unwrap();
        disk.kill();
        let (mut outbox, found) = open(&disk, durability);
        assert_eq!(found.notices.is_empty(), same, "{found:?}");
        let kept = if durability == Durability::Spill { 1 } else { 2 };
        assert_eq!(outbox.len(), kept, "{durability:?}");
        // What is there goes under the old id, what is new under another.
        send(&mut outbox, "new").unwrap();
        let range = outbox.range();
        assert_eq!(range.id, id);
        let last = kept as u64;
        assert_eq!((range.first, range.next), (1, if same { last + 2 } else { last + 1 }));
        assert_eq!(flow(&mut outbox).len(), if same { 3 } else { kept });
        assert!(!outbox.is_outgrown());
        outbox.handle_acknowledged(if same { last + 1 } else { last });
        assert_eq!(outbox.is_outgrown(), !same);
        outbox.handle_lost();
        let range = outbox.range();
        assert_eq!(range.id == id, same);
        assert_eq!(flow(&mut outbox).len(), usize::from(!same));
        // A plain peer gets everything in one go.
        outbox.handle_lost();
        assert_eq!(flow(&mut outbox).len(), usize::from(!same));
    }
}

#[test]
fn a_lost_tail_changes_the_id() {
    let disk = Sim::new(1);
    let (mut outbox, _) = open(&disk, Durability::Always);
    let id = outbox.range().id;
    send(&mut outbox, "one").unwrap();
    send(&mut outbox, "two").unwrap();
    disk.kill();
    let path = disk.paths().into_iter().find(|path| path.extension().is_some_and(|it| it == "log")).unwrap();
    let mut content = disk.read(&path).unwrap();
    let end = content.iter().rposition(|byte| *byte != 0).unwrap();
    content[end] ^= 1;
    disk.put(&path, &content);
    let (mut outbox, found) = open(&disk, Durability::Always);
    assert!(found.remarks[0].contains(path.to_str().unwrap()), "{found:?}");
    assert_eq!(outbox.range().id, id);
    assert_eq!(flow(&mut outbox), texts(&[(1, "one")]));
    // The number may have been given, but not under this id.
    assert_eq!(send(&mut outbox, "new"), Ok(2));
    outbox.handle_acknowledged(1);
    outbox.handle_lost();
    let range = outbox.range();
    assert!(range.id != id && range.first == 2, "{range:?}");
}

#[test]
fn damage_is_told_and_the_rest_is_sent() {
    let disk = Sim::new(1);
    let (mut outbox, _) = open(&disk, Durability::Always);
    for data in ["one", "two", "three"] {
        send(&mut outbox, data).unwrap();
    }
    disk.kill();
    let path = disk.paths().into_iter().find(|path| path.extension().is_some_and(|it| it == "log")).unwrap();
    let mut content = disk.read(&path).unwrap();
    let at = content.windows(3).position(|bytes| bytes == b"two").unwrap();
    content[at] ^= 1;
    disk.put(&path, &content);
    let (mut outbox, found) = open(&disk, Durability::Always);
    assert_eq!(found.damages.len(), 1, "{found:?}");
    assert!(found.damages[0].contains("is damaged at offset"), "{found:?}");
    outbox.range();
    assert_eq!(flow(&mut outbox), texts(&[(1, "one"), (3, "three")]));
}

#[test]
fn a_disk_that_fails_takes_nothing() {
    let disk = Sim::new(1);
    let (mut outbox, _) = open(&disk, Durability::Always);
    send(&mut outbox, "one").unwrap();
    let used: u64 = disk.list("/outbox".as_ref()).unwrap().iter().map(|(_, len)| len).sum();
    disk.set_faults(Faults { capacity: Some(used), ..Faults::default() });
    let big = "x".repeat(400_000);
    let error = send(&mut outbox, &big).unwrap_err();
    assert!(matches!(&error, CommandError::Storage(text) if text.contains("/outbox/")), "{error:?}");
    assert_eq!((outbox.len(), outbox.bytes(), outbox.last_sequence()), (1, 3, 1));
    disk.set_faults(Faults::default());
    assert_eq!(send(&mut outbox, "two"), Ok(2));
    disk.set_faults(Faults { sync_fails_after: Some(0), ..Faults::default() });
    assert!(matches!(send(&mut outbox, "three"), Err(CommandError::Storage(_))));
    // It would be on disk this time, for all that the system says.
    assert!(matches!(send(&mut outbox, "three"), Err(CommandError::Storage(_))));
    assert_eq!(flow(&mut outbox), texts(&[(1, "one"), (2, "two")]));
}

#[test]
fn what_was_given_up_is_not_sent_by_the_next_process() {
    let disk = Sim::new(1);
    let (mut outbox, _) = open(&disk, Durability::Always);
    for data in ["one", "two", "three", "four"] {
        send(&mut outbox, data).unwrap();
    }
    let ttl = Some(Duration::from_secs(5));
    outbox.push(Time::from_micros(1), Bytes::from_static(b"five"), false, ttl).unwrap();
    let work = outbox.commit(Time::from_micros(1)).unwrap();
    let result = work.carry_out();
    outbox.handle_done(&work, &result).unwrap();
    flow(&mut outbox);
    outbox.letters.clear();
    assert_eq!(outbox.handle_rejected(2, 7, "no").map(|item| item.sequence), Some(2));
    assert!(
        String::from_utf8_lossy(&outbox.letters)
            .contains(r#""sequence":2,"code":7,"reason":"no","binary":false,"data":"two""#)
    );
    // An edit of a document is read as its JSON.
    outbox.letters.clear();
    let edit = Item { sequence: 9, data: Bytes::from_static(b"\xff{\"k\":1}"), binary: false, expires: None };
    outbox.bury(&edit, 409, "");
    assert!(String::from_utf8_lossy(&outbox.letters).contains(r#""binary":false,"data":"{\"k\":1}""#));
    // The file is on the real disk.
    outbox.letters.clear();
    outbox.handle_lost();
    let late = Time::from_micros(10_000_000);
    assert_eq!(outbox.expire(late).len(), 1);
    tend(&mut outbox, false);
    disk.kill();
    let (mut outbox, _) = open(&disk, Durability::Always);
    assert_eq!(flow(&mut outbox), texts(&[(1, "one"), (3, "three"), (4, "four")]));
}

/// The keeper writes while a message is being committed.
#[test]
fn upkeep_beside_a_commit_leaves_it_alone() {
    let disk = Sim::new(1);
    let (mut outbox, _) = open(&disk, Durability::Always);
    let now = Time::from_micros(1);
    outbox.push(now, Bytes::from_static(b"short"), false, Some(Duration::from_micros(1))).unwrap();
    let work = outbox.commit(now).unwrap();
    let result = work.carry_out();
    outbox.handle_done(&work, &result).unwrap();
    outbox.push(now, Bytes::from_static(b"kept"), false, None).unwrap();
    let work = outbox.commit(now).unwrap();
    let result = work.carry_out();
    // Its record is written, and not known to be; behind it comes that the other one is gone.
    assert_eq!(outbox.expire(Time::from_micros(10)).len(), 1);
    tend(&mut outbox, false);
    tend(&mut outbox, true);
    outbox.handle_done(&work, &result).unwrap();
    disk.kill();
    let (mut outbox, _) = open(&disk, Durability::Always);
    assert_eq!(flow(&mut outbox), texts(&[(2, "kept")]));
}

#[test]
fn the_time_to_live_goes_on_while_no_process_runs() {
    let disk = Sim::new(1);
    let (mut outbox, _) = open(&disk, Durability::Always);
    let now = Time::from_micros(1);
    outbox.push(now, Bytes::from_static(b"x"), false, Some(Duration::from_secs(60))).unwrap();
    let wall = wall_clock();
    let work = outbox.commit(now).unwrap();
    work.carry_out().unwrap();
    disk.kill();
    for (later, expired) in [(50, 0), (61, 1)] {
        let (mut outbox, _) = Durable::open_with(
            Arc::new(disk.clone()),
            &config(),
            &storage(Durability::Always),
            now,
            wall + Duration::from_secs(later),
        )
        .unwrap();
        assert_eq!(outbox.expire(now).len(), expired, "{later} s later");
        disk.kill();
    }
}

#[test]
fn one_old_message_does_not_keep_all_the_others_on_disk() {
    let disk = Sim::new(1);
    let (mut outbox, _) = open(&disk, Durability::Interval);
    send(&mut outbox, "old").unwrap();
    let data = "x".repeat(100_000);
    let ttl = Some(Duration::from_micros(1));
    for _ in 0..1000 {
        outbox.push(Time::from_micros(1), Bytes::copy_from_slice(data.as_bytes()), false, ttl).unwrap();
        let work = outbox.commit(Time::from_micros(1)).unwrap();
        let result = work.carry_out();
        outbox.handle_done(&work, &result).unwrap();
        assert_eq!(outbox.expire(Time::from_micros(10)).len(), 1);
        tend(&mut outbox, true);
    }
    let held = outbox.log.stats().bytes_on_disk;
    assert!(held < 2 * SLACK, "{held} bytes for one message of three");
    disk.kill();
    let (mut outbox, _) = open(&disk, Durability::Interval);
    assert_eq!(flow(&mut outbox), texts(&[(1, "old")]));
}

#[test]
fn heads_and_letters_can_be_read_again() {
    let head =
        Head { generation: 3, first: 4, last: 9, epochs: vec![(1, random_key()), (7, random_key())], session: vec![] };
    assert_eq!(Head::decode(&head.encode()), Some(head.clone()));
    for len in 0..head.encode().len() {
        // Cut anywhere it is none, or one with fewer ids.
        let decoded = Head::decode(&head.encode()[..len]);
        assert!(decoded.is_none_or(|decoded| decoded.epochs.len() < 2), "{len}");
    }
    assert_eq!(quoted("a\"\\\n\u{1}é"), "\"a\\\"\\\\\\n\\u0001é\"");
    for (data, text) in
        [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xfe\xfd\xfc", "//79/A==")]
    {
        assert_eq!(base64(data), text);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<usize>),
    Flow(usize),
    Acknowledge(usize),
    Lost,
    Reject(usize),
    Tend(bool),
    Close,
    Kill,
    CutPower,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(0usize..300, 1..4).prop_map(Step::Send),
        4 => (1usize..6).prop_map(Step::Flow),
        4 => (0usize..5).prop_map(Step::Acknowledge),
        2 => Just(Step::Lost),
        1 => (0usize..5).prop_map(Step::Reject),
        2 => any::<bool>().prop_map(Step::Tend),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        1 => Just(Step::CutPower),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a server that knows each id: what `send()` has returned arrives, in order, and once under
    /// the rules of the protocol.
    #[test]
    fn what_was_accepted_arrives(
        seed in any::<u64>(),
        durability in prop::sample::select(vec![Durability::Always, Durability::Interval, Durability::Spill]),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let disk = Sim::new(seed);
        let (mut outbox, _) = open(&disk, durability);
        let mut serial = 0u64;
        // Messages accepted and not settled, by what they say; those of which the user was told.
        let mut owed: BTreeSet<u64> = BTreeSet::new();
        // For each id what the server has handled.
        let mut marks: BTreeMap<String, u64> = BTreeMap::new();
        let mut received: Vec<u64> = Vec::new();
        let mut connected: Option<(OutboxRange, Vec<u64>)> = None;
        for step in steps.into_iter().chain([Step::Close]) {
            match step {
                Step::Send(lengths) => {
                    for len in &lengths {
                        serial += 1;
                        let mut data = serial.to_le_bytes().to_vec();
                        data.resize(8 + len, 0);
                        outbox.push(Time::from_micros(1), Bytes::from(data), true, None).unwrap();
                    }
                    if let Some(work) = outbox.commit(Time::from_micros(1)) {
                        let result = work.carry_out();
                        outbox.handle_done(&work, &result).unwrap();
                    }
                    owed.extend(serial - lengths.len() as u64 + 1..=serial);
                }
                Step::Flow(count) => {
                    if outbox.is_outgrown() {
                        outbox.handle_lost();
                        connected = None;
                    }
                    if connected.is_none() {
                        let range = outbox.range();
                        let mark = marks.entry(range.id.as_str().to_owned()).or_default();
                        if *mark >= range.next {
                            // Numbers were given that are lost; others under this id are not given any more.
                            prop_assert!(durability != Durability::Always, "{} of {:?}", mark, range);
                            outbox.renew();
                            outbox.handle_lost();
                            continue;
                        }
                        *mark = (*mark).max(range.first - 1);
                        outbox.handle_acknowledged(*mark);
                        connected = Some((range, Vec::new()));
                    }
                    let Some((range, flying)) = &mut connected else { continue };
                    for _ in 0..count {
                        let Some(item) = outbox.next_to_send(Time::from_micros(1)) else { break };
                        let serial = u64::from_le_bytes(item.data[..8].try_into().unwrap());
                        flying.push(item.sequence);
                        let mark = marks.get_mut(range.id.as_str()).unwrap();
                        prop_assert!(item.sequence > *mark, "{} came again, {} is handled", item.sequence, mark);
                        *mark = item.sequence;
                        prop_assert!(!received.contains(&serial), "{} was handled twice", serial);
                        prop_assert!(received.last().is_none_or(|last| *last < serial), "{} after {:?}", serial, received.last());
                        received.push(serial);
                        owed.remove(&serial);
                    }
                }
                Step::Acknowledge(count) => if let Some((_, flying)) = &mut connected {
                    let acknowledged: Vec<u64> = flying.drain(..count.min(flying.len())).collect();
                    if let Some(last) = acknowledged.last() {
                        outbox.handle_acknowledged(*last);
                    }
                },
                Step::Lost => {
                    outbox.handle_lost();
                    connected = None;
                }
                Step::Reject(at) => if let Some((_, flying)) = &mut connected
                    && at < flying.len()
                {
                    outbox.handle_rejected(flying.remove(at), 0, "");
                    outbox.letters.clear();
                },
                Step::Tend(tick) => tend(&mut outbox, tick),
                Step::Close | Step::Kill | Step::CutPower => {
                    connected = None;
                    match step {
                        Step::Close => close(outbox),
                        Step::Kill => disk.kill(),
                        _ => disk.cut_power(),
                    }
                    let found;
                    (outbox, found) = open(&disk, durability);
                    prop_assert_eq!(found.damages, Vec::<String>::new());
                    let there: Vec<u64> = outbox.messages.items()
                        .map(|item| u64::from_le_bytes(item.data[..8].try_into().unwrap())).collect();
                    prop_assert!(there.is_sorted());
                    let promised = match durability {
                        Durability::Always => true,
                        Durability::Interval => !matches!(step, Step::CutPower),
                        Durability::Spill => matches!(step, Step::Close),
                    };
                    if promised {
                        for serial in &owed {
                            prop_assert!(there.contains(serial), "{} is lost", serial);
                        }
                    } else {
                        // Of an order with a hole only the end may miss.
                        owed.retain(|serial| there.contains(serial));
                        serial = serial.max(there.last().copied().unwrap_or(0));
                    }
                }
            }
        }
    }
}

#[test]
fn the_session_is_kept_and_does_not_fill_the_disk() {
    let disk = Sim::new(1);
    let (mut outbox, found) = open(&disk, Durability::Interval);
    assert!(found.session.is_empty());
    // Settled, so that all that is left are heads.
    send(&mut outbox, "one").unwrap();
    outbox.range();
    flow(&mut outbox);
    outbox.handle_acknowledged(1);
    for round in 0..20_000u32 {
        let mut session = vec![7; 1000];
        session[..4].copy_from_slice(&round.to_le_bytes());
        outbox.keep_session(session);
        tend(&mut outbox, round % 100 == 0);
    }
    let bytes = outbox.log.bytes();
    assert!(bytes < 10 << 20, "{bytes} bytes for one session");
    // Nothing has changed.
    tend(&mut outbox, true);
    assert!(outbox.upkeep(Time::from_micros(1), true).is_none());
    // What waits is not thrown away with the heads.
    send(&mut outbox, "two").unwrap();
    outbox.keep_session(vec![8; 3]);
    tend(&mut outbox, false);
    disk.kill();
    let (mut outbox, found) = open(&disk, Durability::Interval);
    assert_eq!((found.session, flow(&mut outbox)), (vec![8; 3], texts(&[(2, "two")])));
    outbox.keep_session(vec![9]);
    close(outbox);
    assert_eq!(open(&disk, Durability::Interval).1.session, [9]);
}

#[test]
fn what_is_acknowledged_is_durable_with_always() {
    for (durability, syncs) in [(Durability::Always, 1), (Durability::Interval, 0)] {
        let disk = Sim::new(1);
        let (mut outbox, _) = open(&disk, durability);
        let before = outbox.store_stats().unwrap().fsyncs;
        outbox.keep_session(vec![1]);
        tend(&mut outbox, false);
        assert_eq!(outbox.store_stats().unwrap().fsyncs - before, syncs, "{durability:?}");
    }
}

#[test]
fn a_head_without_a_session_is_read() {
    let key = Key::new("box").unwrap();
    let mut head = Head { generation: 3, first: 4, last: 5, epochs: vec![(1, key.clone()), (4, key)], session: vec![] };
    let mut old = vec![OLD_HEAD_VERSION];
    old.extend_from_slice(&head.encode()[1..25]);
    old.extend_from_slice(&head.encode()[33..]);
    assert_eq!(Head::decode(&old), Some(head.clone()));
    head.session = vec![1, 2, 3];
    assert_eq!(Head::decode(&head.encode()), Some(head));
    assert_eq!(Head::decode(&[9]), None);
}

#[test]
fn numbers_that_no_outbox_has_given_are_damage() {
    for sequence in [MAX_INTEGER + 1, u64::MAX] {
        let disk = Sim::new(1);
        let (log, _) = Log::open_with(Arc::new(disk.clone()), &Config::new("/outbox")).unwrap();
        let item = Item { sequence, data: Bytes::from_static(b"x"), binary: false, expires: None };
        let record = encode_message(&item, Time::from_micros(1), WALL);
        log.append([(&record[..], &b"x"[..])]).unwrap();
        drop(log);
        let (mut outbox, found) = open(&disk, Durability::Always);
        assert_eq!(found.damages, ["/outbox: record 1 is of a kind that this version does not know"]);
        assert_eq!(send(&mut outbox, "new").unwrap(), 1);
    }
}
