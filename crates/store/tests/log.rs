//! What the log promises, on a disk that may do everything a disk may do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeline_store::sim::{Faults, Sim};
use lifeline_store::{Config, Files, Log, Opened, Record, StoreError};
use proptest::prelude::*;

const DIRECTORY: &str = "/log";

fn config() -> Config {
    Config::new(DIRECTORY)
}

fn open(disk: &Sim, config: &Config) -> Result<(Log, Opened), StoreError> {
    Log::open_with(Arc::new(disk.clone()), config)
}

fn append(log: &Log, data: &str) -> u64 {
    log.append([(data.as_bytes(), &[][..])]).unwrap()
}

fn texts(opened: &Opened) -> Vec<String> {
    opened.records.iter().map(|record| String::from_utf8(record.data.clone()).unwrap()).collect()
}

fn only_segment(disk: &Sim) -> PathBuf {
    let paths = disk.paths();
    let mut segments = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let segment = segments.next().unwrap().clone();
    assert_eq!(segments.next(), None);
    segment
}

#[test]
fn what_was_appended_comes_back() {
    let disk = Sim::new(1);
    let (log, opened) = open(&disk, &config()).unwrap();
    assert_eq!(opened, Opened { clean: true, ..Opened::default() });
    assert_eq!(log.append([(&b"one "[..], &b"record"[..]), (b"two", b"")]).unwrap(), 1);
    log.set_head(b"head").unwrap();
    assert_eq!(append(&log, "three"), 4);
    log.close().unwrap();
    assert!(matches!(log.append([(&b"x"[..], &b""[..])]), Err(StoreError::Closed { .. })));
    let (log, opened) = open(&disk, &config()).unwrap();
    assert_eq!(texts(&opened), ["one record", "two", "three"]);
    assert_eq!(opened.records.iter().map(|record| record.index).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!((opened.head.as_deref(), opened.clean), (Some(&b"head"[..]), true));
    // Indices are not used again.
    assert!(append(&log, "four") > 4);
}

#[test]
fn a_killed_process_loses_nothing_and_is_noticed() {
    let disk = Sim::new(1);
    let (log, _) = open(&disk, &config()).unwrap();
    append(&log, "one");
    disk.kill();
    let (_, opened) = open(&disk, &config()).unwrap();
    assert_eq!((texts(&opened), opened.clean), (vec!["one".to_owned()], false));
    assert_eq!((opened.cut, opened.damages), (None, vec![]));
}

#[test]
fn what_is_discarded_is_gone_with_its_files() {
    let disk = Sim::new(1);
    let config = Config { segment_bytes: 200, ..config() };
    let (log, _) = open(&disk, &config).unwrap();
    let last = (0..100).map(|_| append(&log, "twenty bytes of data")).last().unwrap();
    assert!(log.stats().segments > 10);
    let before = log.stats().bytes_on_disk;
    log.discard(last - 1).unwrap();
    let stats = log.stats();
    assert_eq!(stats.segments, 1, "{stats:?}");
    assert!(stats.bytes_on_disk < before / 10 && stats.bytes_on_disk < 400, "{stats:?}");
    disk.kill();
    let (log, opened) = open(&disk, &config).unwrap();
    assert_eq!(opened.records.len(), 1);
    assert_eq!(opened.records[0].index, last);
    log.discard(last).unwrap();
    log.close().unwrap();
    assert_eq!(open(&disk, &config).unwrap().1.records, []);
}

#[test]
fn the_limit_refuses_and_discarding_makes_room() {
    let disk = Sim::new(1);
    let config = Config { segment_bytes: 200, limit_bytes: Some(1000), ..config() };
    let (log, _) = open(&disk, &config).unwrap();
    let mut last = 0;
    let full = loop {
        match log.append([(&[b'x'; 50][..], &b""[..])]) {
            Ok(index) => last = index,
            Err(full) => break full,
        }
    };
    assert!(full.is_full() && matches!(full, StoreError::Full { limit: 1000, .. }), "{full}");
    assert!(full.to_string().contains("/log is full"), "{full}");
    assert!(log.bytes() <= 1000);
    log.discard(last - 3).unwrap();
    append(&log, "fits");
}

#[test]
fn two_owners_are_one_too_many() {
    let directory = std::env::temp_dir().join(format!("lifeline-store-{}-owners", std::process::id()));
    let config = Config::new(&directory);
    let (log, _) = Log::open(&config).unwrap();
    let busy = Log::open(&config).unwrap_err().to_string();
    assert!(busy.contains(directory.to_str().unwrap()), "{busy}");
    assert!(busy.contains(&format!("in use by this process ({})", std::process::id())), "{busy}");
    // The refused one must not have taken the lock away.
    assert!(matches!(Log::open(&config), Err(StoreError::Busy { .. })));
    append(&log, "one");
    drop(log);
    let (log, opened) = Log::open(&config).unwrap();
    assert_eq!(texts(&opened), ["one"]);
    log.close().unwrap();
    Log::open(&config).unwrap();
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_full_disk_takes_nothing_of_what_it_refuses() {
    for truncate_fails in [false, true] {
        let disk = Sim::new(1);
        let (log, _) = open(&disk, &config()).unwrap();
        append(&log, "one");
        log.sync_all().unwrap();
        let used: u64 = disk.list(Path::new(DIRECTORY)).unwrap().iter().map(|(_, len)| len).sum();
        disk.set_faults(Faults { capacity: Some(used + 100_000), truncate_fails, ..Faults::default() });
        let big = vec![b'x'; 400_000];
        let error = log.append([(&b"small"[..], &b""[..]), (&big, b"")]).unwrap_err();
        if truncate_fails {
            assert!(matches!(error, StoreError::Failed { .. }), "{error}");
            assert!(matches!(log.append([(&b"x"[..], &b""[..])]), Err(StoreError::Failed { .. })));
            disk.kill();
            disk.set_faults(Faults::default());
            let (_, opened) = open(&disk, &config()).unwrap();
            assert_eq!(texts(&opened)[0], "one");
            continue;
        }
        assert!(error.is_full(), "{error}");
        assert!(error.to_string().contains("/log/0000000000000001.log"), "{error}");
        append(&log, "two");
        disk.set_faults(Faults::default());
        append(&log, "three");
        log.sync_all().unwrap();
        disk.cut_power();
        let (_, opened) = open(&disk, &config()).unwrap();
        assert_eq!(texts(&opened), ["one", "two", "three"]);
        assert_eq!((opened.cut, opened.damages), (None, vec![]));
    }
}

#[test]
fn an_error_of_fsync_ends_the_log() {
    let disk = Sim::new(1);
    let (log, _) = open(&disk, &config()).unwrap();
    append(&log, "one");
    log.sync_all().unwrap();
    disk.set_faults(Faults { sync_fails_after: Some(0), ..Faults::default() });
    append(&log, "two");
    let error = log.sync_all().unwrap_err().to_string();
    assert!(error.contains("takes nothing more") && error.contains("cannot sync /log/0000000000000001.log"), "{error}");
    // A second call would succeed, and mean nothing.
    assert!(matches!(log.sync_all(), Err(StoreError::Failed { .. })));
    assert!(matches!(log.append([(&b"x"[..], &b""[..])]), Err(StoreError::Failed { .. })));
    assert!(matches!(log.discard(1), Err(StoreError::Failed { .. })));
    assert!(matches!(log.close(), Err(StoreError::Failed { .. })));
    // The system shows what is not on the disk. Who opens the log and is told of it may rely on it.
    disk.kill();
    let (_, opened) = open(&disk, &config()).unwrap();
    assert_eq!(texts(&opened), ["one", "two"]);
    for _ in 0..20 {
        disk.cut_power();
        assert_eq!(texts(&open(&disk, &config()).unwrap().1), ["one", "two"]);
    }
}

#[test]
fn threads_share_the_syncs() {
    let disk = Sim::new(1);
    let (log, _) = open(&disk, &config()).unwrap();
    let log = Arc::new(log);
    let barrier = Arc::new(std::sync::Barrier::new(8));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (log, barrier) = (log.clone(), barrier.clone());
            std::thread::spawn(move || {
                for _ in 0..50 {
                    let index = append(&log, "x");
                    barrier.wait();
                    log.sync(index).unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    // The eight of a round are appended when the first of them syncs.
    let syncs = log.stats().fsyncs;
    assert!(syncs <= 100, "{syncs} syncs for 400 records");
    assert_eq!(disk.syncs(), syncs);
    disk.cut_power();
    assert_eq!(open(&disk, &config()).unwrap().1.records.len(), 400);
}

/// A log of some records, each made durable on its own, and its only file.
fn small_log(close: bool) -> (Vec<u8>, PathBuf, Vec<Record>) {
    let disk = Sim::new(1);
    let (log, _) = open(&disk, &config()).unwrap();
    log.set_head(b"head").unwrap();
    for data in ["first", "the second record", "", "fourth", "and the fifth"] {
        append(&log, data);
        log.sync_all().unwrap();
    }
    if close {
        log.close().unwrap();
    }
    let path = only_segment(&disk);
    let mut content = disk.read(&path).unwrap();
    let end = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    if !close {
        content.truncate(end + 40);
    }
    disk.kill();
    (content, path, open(&disk, &config()).unwrap().1.records)
}

#[test]
fn a_torn_tail_at_every_byte() {
    for close in [false, true] {
        let (content, path, records) = small_log(close);
        for len in 0..content.len() {
            let disk = Sim::new(1);
            disk.put(&path, &content[..len]);
            let (log, opened) = open(&disk, &config()).unwrap();
            let kept = opened.records.len();
            assert_eq!(opened.records, records[..kept], "cut at {len}");
            assert_eq!(opened.damages, [], "cut at {len}");
            if let Some(cut) = &opened.cut {
                assert!(cut.offset + cut.bytes <= len as u64, "{cut:?}, cut at {len}");
                assert!(cut.to_string().contains(path.to_str().unwrap()));
            }
            assert!(!opened.clean || (len == content.len() && close), "cut at {len}");
            // It goes on from there, and what was cut is not seen again.
            append(&log, "new");
            disk.kill();
            let (_, again) = open(&disk, &config()).unwrap();
            assert_eq!((&again.cut, &again.damages), (&None, &vec![]), "cut at {len}");
            assert_eq!(again.records[..kept], records[..kept]);
            assert_eq!(texts(&again)[kept..], ["new"]);
        }
    }
}

#[test]
fn a_flipped_bit_anywhere() {
    for close in [false, true] {
        let (content, path, records) = small_log(close);
        let end = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let (mut damaged, mut cut_off) = (0, 0);
        for position in 0..content.len() * 8 {
            let mut content = content.clone();
            content[position / 8] ^= 1 << (position % 8);
            let disk = Sim::new(1);
            disk.put(&path, &content);
            let (log, opened) = open(&disk, &config()).unwrap_or_else(|error| panic!("bit {position}: {error}"));
            let mut lost = records.clone();
            lost.retain(|record| !opened.records.contains(record));
            assert_eq!(opened.records.len() + lost.len(), records.len(), "bit {position}: something was invented");
            assert!(opened.records.is_sorted_by_key(|record| record.index), "bit {position}");
            assert!(lost.len() <= 1, "bit {position} cost {lost:?}");
            assert!(!opened.damages.is_empty() || opened.cut.is_some(), "bit {position} went unseen");
            damaged += opened.damages.len();
            cut_off += usize::from(opened.cut.is_some());
            for damage in &opened.damages {
                let place = damage.offset..damage.offset + damage.bytes;
                assert!(place.contains(&(position as u64 / 8)), "bit {position}: {damage:?}");
                assert!(damage.to_string().contains(&format!(
                    "{} is damaged at offset {}",
                    path.display(),
                    damage.offset
                )));
                assert_eq!(disk.read(damage.kept.as_ref().unwrap()).unwrap(), content);
                if let [lost] = &lost[..] {
                    assert!(damage.lost.contains(&lost.index), "bit {position}: {damage:?}");
                }
            }
            if let Some(cut) = &opened.cut {
                // Nobody can know: the last record, the header of the only file, reserved space.
                let last = position / 8 >= end - 17 - 13 || position / 8 < 32;
                assert!(last, "bit {position}: {cut:?}");
                assert!(cut.offset <= position as u64 / 8, "bit {position}: {cut:?}");
            }
            // Told once, and it goes on.
            append(&log, "new");
            log.close().unwrap();
            let (_, again) = open(&disk, &config()).unwrap();
            assert_eq!((&again.cut, &again.damages), (&None, &vec![]), "bit {position}");
            assert_eq!(again.records[..again.records.len() - 1], opened.records);
        }
        assert!(damaged > 0 && cut_off > 0);
    }
}

#[test]
fn damage_in_one_of_many_files() {
    let disk = Sim::new(1);
    let config = Config { segment_bytes: 200, ..config() };
    let (log, _) = open(&disk, &config).unwrap();
    for number in 0..40 {
        append(&log, &format!("record number {number:03}"));
    }
    log.close().unwrap();
    let paths: Vec<_> = disk.paths();
    assert!(paths.len() > 6);
    let all = open(&disk, &config).unwrap().1.records;
    disk.kill();
    for (at, path) in paths.iter().enumerate().take(paths.len() - 1) {
        for kind in ["flip", "shorten", "empty", "missing"] {
            let copy = Sim::new(1);
            for path in &paths {
                copy.put(path, &disk.read(path).unwrap());
            }
            let mut content = disk.read(path).unwrap();
            match kind {
                "flip" => content[70] ^= 4,
                "shorten" => content.truncate(content.len() - 1),
                _ => content.clear(),
            }
            copy.put(path, &content);
            if kind == "missing" {
                copy.remove(path).unwrap();
            }
            let (log, opened) = open(&copy, &config).unwrap();
            if kind == "missing" && at == 0 {
                // Deleted, for all that one can know.
                assert_eq!(opened.damages, []);
                continue;
            }
            assert_eq!(opened.damages.iter().filter(|damage| !damage.lost.is_empty()).count(), 1, "{kind} {opened:?}");
            let damage = opened.damages.iter().find(|damage| !damage.lost.is_empty()).unwrap();
            let expected: Vec<_> = all.iter().filter(|record| !damage.lost.contains(&record.index)).cloned().collect();
            assert_eq!(opened.records, expected, "{kind} {damage:?}");
            assert!(!opened.clean);
            log.close().unwrap();
            let (_, again) = open(&copy, &config).unwrap();
            assert_eq!((again.damages, again.records, again.clean), (vec![], expected, true), "{kind}");
        }
    }
}

/// A file with checksums that fit, as no log has written it.
fn forge(base: u64, mark: u64, records: &[(u8, u32, &[u8])]) -> Vec<u8> {
    let mut file = [&b"lifelog1"[..], &base.to_le_bytes(), &mark.to_le_bytes()].concat();
    file.extend(crc32c::crc32c(&file).to_le_bytes());
    file.extend([0; 4]);
    for (kind, number, data) in records {
        let len = (data.len() as u32 + 1).to_le_bytes();
        let rest = [&number.to_le_bytes()[..], &[0; 4], &[*kind], data].concat();
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&base.to_le_bytes()), &len), &rest);
        file.extend([&len[..], &crc.to_le_bytes(), &rest].concat());
    }
    file
}

#[test]
fn a_log_goes_on_whatever_numbers_and_marks_its_files_have() {
    const DATA: u8 = 1;
    const MARK: u8 = 2;
    const CLOSED: u8 = 4;
    let most = u64::MAX.to_le_bytes();
    let far = (1_u64 << 40).to_le_bytes();
    let cases: &[&[(u64, Vec<u8>)]] = &[
        &[(1, forge(1, 0, &[(DATA, u32::MAX, b"x")]))],
        &[(1, forge(1, 0, &[(DATA, u32::MAX - 1, b"x"), (CLOSED, u32::MAX, b"")]))],
        &[(1, forge(1, u64::MAX, &[(DATA, 0, b"x")]))],
        &[(1, forge(1, 7, &[]))],
        &[(1, forge(1, 7, &[(CLOSED, 0, b"")]))],
        &[(1, forge(1, 0, &[(MARK, 0, &most)]))],
        &[(1, forge(1, 0, &[(MARK, 0, &far), (CLOSED, 1, b"")]))],
        &[(u64::MAX, forge(u64::MAX, 0, &[(DATA, 1, b"x")]))],
        &[(u64::MAX - 1, forge(u64::MAX - 1, 0, &[(DATA, 9, b"x"), (CLOSED, 10, b"")]))],
        &[(1, forge(1, 0, &[(DATA, 0, b"x")])), (u64::MAX - 9, forge(u64::MAX - 9, u64::MAX, &[(DATA, 40, b"y")]))],
        &[(1, forge(1, 0, &[(DATA, 0, b"x")])), (1 << 50, forge(1 << 50, 0, &[]))],
        &[(1, forge(1, 209, &[])), (57, forge(57, 1, &[]))],
        &[(61, forge(61, 0, &[(DATA, 104, b"x")])), (104, forge(0, 0, &[]))],
    ];
    for (index, files) in cases.iter().enumerate() {
        let disk = Sim::new(1);
        for (base, content) in *files {
            disk.put(&Path::new(DIRECTORY).join(format!("{base:016x}.log")), content);
        }
        let (log, opened) = open(&disk, &config()).unwrap();
        let first = append(&log, "one");
        assert!(opened.records.iter().all(|record| record.index < first), "case {index}: {opened:?}, then {first}");
        let second = append(&log, "two");
        log.discard(first).unwrap();
        log.close().unwrap();
        let (_, again) = open(&disk, &config()).unwrap();
        let expected = [Record { index: second, data: b"two".to_vec() }];
        assert_eq!(again.records, expected, "case {index}");
        assert!(again.clean, "case {index}: {again:?}");
    }
}

#[test]
fn another_programs_file_is_left_alone() {
    let disk = Sim::new(1);
    let mut header = *b"lifelog9________________\0\0\0\0\0\0\0\0";
    let crc = crc32c::crc32c(&header[..24]);
    header[24..28].copy_from_slice(&crc.to_le_bytes());
    let path = Path::new(DIRECTORY).join("0000000000000001.log");
    disk.put(&path, &header);
    let error = open(&disk, &config()).unwrap_err().to_string();
    assert!(error.contains("0000000000000001.log is not a log of this version: it begins with lifelog9"), "{error}");
    assert_eq!(disk.read(&path).unwrap(), header);
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    Sync,
    Discard(usize),
    Head(u8),
    Roll,
    Close,
    Kill,
    CutPower,
    Fault(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(0usize..300, 1..6).prop_map(Step::Append),
        4 => Just(Step::Sync),
        2 => (0usize..12).prop_map(Step::Discard),
        1 => any::<u8>().prop_map(Step::Head),
        1 => Just(Step::Roll),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        3 => Just(Step::CutPower),
        2 => (0u8..8).prop_map(Step::Fault),
    ]
}

/// What the log should have.
#[derive(Default)]
struct Model {
    records: Vec<Record>,
    /// Up to this index all is durable, and discarded.
    durable: u64,
    discarded: u64,
    heads: Vec<(u64, Vec<u8>)>,
    /// Nothing was appended since it was closed; `None`: nor was it closed.
    closed: Option<bool>,
    serial: u32,
}

impl Model {
    fn check(&mut self, opened: &Opened, lost: bool) -> Result<(), TestCaseError> {
        prop_assert_eq!(&opened.damages, &vec![]);
        if let Some(closed) = self.closed.filter(|closed| *closed || !lost) {
            prop_assert_eq!(opened.clean, closed);
        }
        if let Some(first) = opened.records.first() {
            let start = self.records.iter().position(|record| record.index == first.index);
            prop_assert!(start.is_some(), "record {} was never appended", first.index);
            let start = start.unwrap_or(0);
            prop_assert!(self.records.len() >= start + opened.records.len());
            prop_assert_eq!(&self.records[start..start + opened.records.len()], &opened.records[..]);
        }
        let has = |index: u64| opened.records.iter().any(|record| record.index == index);
        for record in &self.records {
            let kept = record.index > self.discarded && (!lost || record.index <= self.durable);
            prop_assert!(!kept || has(record.index), "record {} is lost", record.index);
        }
        let least = self.heads.iter().rposition(|(index, _)| !lost || *index <= self.durable);
        let head = opened.head.as_ref();
        let fine = self.heads.iter().skip(least.unwrap_or(0)).any(|(_, data)| Some(data) == head);
        prop_assert!(fine || (least.is_none() && head.is_none()), "head {:?} of {:?}", head, self.heads);
        // What was told is durable from now on.
        let last = opened.records.last().map_or(0, |record| record.index);
        self.records.retain(|record| record.index <= last.max(self.discarded));
        self.heads.retain(|(_, data)| Some(data) == head);
        self.heads.iter_mut().for_each(|(index, _)| *index = 0);
        self.durable = last.max(self.durable);
        self.closed = None;
        Ok(())
    }
}

/// `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(2000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn what_was_durable_is_there_and_nothing_is_invented(
        seed in any::<u64>(),
        segment_bytes in prop::sample::select(vec![100u64, 700, 3000, 1 << 20]),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let disk = Sim::new(seed);
        let config = Config { segment_bytes, ..config() };
        let mut model = Model { closed: Some(true), ..Model::default() };
        let (mut log, opened) = open(&disk, &config).unwrap();
        model.check(&opened, false)?;
        let mut next_index = 1;
        for step in steps {
            let mut reopen = None;
            match step {
                Step::Append(lengths) => {
                    let batch: Vec<Vec<u8>> = lengths.iter().map(|len| {
                        model.serial += 1;
                        let mut data = model.serial.to_le_bytes().to_vec();
                        data.resize(4 + len, model.serial as u8);
                        data
                    }).collect();
                    if let Ok(first) = log.append(batch.iter().map(|data| (&data[..2], &data[2..]))) {
                        prop_assert!(first >= next_index);
                        next_index = first + batch.len() as u64;
                        let indices = first..;
                        model.records.extend(indices.zip(batch).map(|(index, data)| Record { index, data }));
                        model.closed = Some(false);
                    }
                }
                Step::Sync => if log.sync_all().is_ok() {
                    model.durable = log.last_index();
                },
                Step::Discard(count) => {
                    let alive = model.records.iter().filter(|record| record.index > model.discarded);
                    if let Some(record) = alive.take(count).last() {
                        let index = record.index;
                        // Also where it fails: it was asked for.
                        model.closed = log.discard(index).ok().map(|()| false);
                        model.discarded = index;
                    }
                }
                Step::Head(data) => {
                    model.serial += 1;
                    let head = vec![data, model.serial as u8, (model.serial >> 8) as u8];
                    if let Ok(index) = log.set_head(&head) {
                        model.heads.push((index, head));
                        model.closed = Some(false);
                    }
                }
                Step::Roll => if log.roll().is_ok() {
                    model.durable = log.last_index();
                    model.closed = Some(false);
                },
                Step::Close => {
                    let closed = log.close();
                    if closed.is_ok() {
                        model.durable = log.last_index();
                    }
                    model.closed = closed.is_ok().then_some(true);
                    reopen = Some(false);
                }
                Step::Kill => {
                    disk.kill();
                    reopen = Some(false);
                }
                Step::CutPower => {
                    disk.cut_power();
                    reopen = Some(true);
                }
                Step::Fault(kind) => {
                    let used: u64 = disk.list(Path::new(DIRECTORY)).unwrap().iter().map(|(_, len)| len).sum();
                    disk.set_faults(match kind {
                        0 => Faults { capacity: Some(used + seed % 400), ..Faults::default() },
                        1 => Faults { sync_fails_after: Some((seed % 3) as u32), ..Faults::default() },
                        2 => Faults { write_fails_after: Some((seed % 3) as u32), ..Faults::default() },
                        3 => Faults { short_writes: true, ..Faults::default() },
                        _ => Faults::default(),
                    });
                }
            }
            if let Some(lost) = reopen {
                drop(log);
                disk.set_faults(Faults::default());
                let opened;
                (log, opened) = open(&disk, &config).unwrap();
                if !lost {
                    prop_assert_eq!(&opened.cut, &None);
                }
                model.check(&opened, lost)?;
                // What is lost gives its indices back.
                model.discarded = model.discarded.min(log.last_index());
                model.records.retain(|record| record.index <= log.last_index());
                next_index = log.last_index() + 1;
            }
        }
    }

    #[test]
    fn any_bytes_can_be_opened(
        content in prop::collection::vec(prop_oneof![3 => any::<u8>(), 2 => Just(0u8), 1 => 0u8..20], 0..400),
        good in 0usize..200,
        last in any::<bool>(),
    ) {
        // A good beginning, and anything behind it.
        let (mut bytes, path, records) = small_log(false);
        bytes.truncate(good);
        bytes.extend(content);
        let disk = Sim::new(1);
        disk.put(&path, &bytes);
        if !last {
            let (log, _) = Log::open_with(Arc::new(Sim::new(2)), &config()).unwrap();
            drop(log);
            let mut header = b"lifelog1".to_vec();
            header.extend(100u64.to_le_bytes());
            header.extend(0u64.to_le_bytes());
            header.extend(crc32c::crc32c(&header).to_le_bytes());
            header.extend([0; 4]);
            disk.put(&Path::new(DIRECTORY).join("0000000000000064.log"), &header);
        }
        if let Ok((log, opened)) = open(&disk, &config()) {
            for record in &opened.records {
                prop_assert!(records.contains(record), "invented {:?}", record);
            }
            append(&log, "new");
            disk.kill();
            let again = open(&disk, &config()).unwrap().1;
            prop_assert_eq!(again.records.len(), opened.records.len() + 1);
            prop_assert_eq!((again.cut, again.damages), (None, vec![]));
        }
    }
}
