//! Files that somebody or something else has written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeline_engine::fuzzing;
use lifeline_store::sim::Sim;
use lifeline_store::{Config, Log, StoreError};

/// Reads numbers of the input; zeros behind its end.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// Small ones, and those at the ends.
    fn number(&mut self) -> u64 {
        match self.byte() {
            byte @ 0..0xF0 => byte.into(),
            byte @ 0xF0..0xF8 => u64::from(u32::MAX) - u64::from(byte & 7),
            byte @ 0xF8.. => u64::MAX - u64::from(byte & 7),
        }
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte() & 0x7F);
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// A segment with checksums that fit, for most of it: as [`lifeline_store`]'s documentation describes them.
fn put_header(out: &mut Vec<u8>, base: u64, mark: u64) {
    let start = out.len();
    out.extend_from_slice(b"lifelog1");
    out.extend_from_slice(&base.to_le_bytes());
    out.extend_from_slice(&mark.to_le_bytes());
    let crc = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}

fn put_record(out: &mut Vec<u8>, base: u64, number: u32, synced: u32, kind: u8, data: &[u8]) {
    let length = (data.len() as u32 + 1).to_le_bytes();
    let rest = [&number.to_le_bytes()[..], &synced.to_le_bytes()[..], &[kind], data].concat();
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&base.to_le_bytes()), &length), &rest);
    out.extend_from_slice(&length);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&rest);
}

/// Segment files of any content: an error, or what can be read of them, with which a log goes on.
pub fn log(data: &[u8]) {
    let mut input = Input(data);
    let sim = Sim::new(1);
    let directory = PathBuf::from("/log");
    let mut total = 0;
    for _ in 0..=input.byte() % 4 {
        let base = input.number();
        let mut file = Vec::new();
        while !input.0.is_empty() && file.len() < 1 << 16 {
            match input.byte() {
                b'h' => put_header(&mut file, base, input.number()),
                b'H' => put_header(&mut file, input.number(), input.number()),
                b'r' => {
                    let (number, synced) = (input.number() as u32, input.number() as u32);
                    let kind = 1 + input.byte() % 6;
                    put_record(&mut file, base, number, synced, kind, input.bytes());
                }
                b'm' => {
                    let (number, synced) = (input.number() as u32, input.number() as u32);
                    put_record(&mut file, base, number, synced, 2, &input.number().to_le_bytes());
                }
                b'z' => file.extend_from_slice(&[0; 64]),
                b'b' => {
                    let at = usize::from(input.byte()) * file.len() / 256;
                    if let Some(byte) = file.get_mut(at) {
                        *byte ^= input.byte();
                    }
                }
                b'c' => file.truncate(file.len().saturating_sub(usize::from(input.byte()))),
                b'e' => break,
                _ => file.extend_from_slice(input.bytes()),
            }
        }
        total += file.len();
        sim.put(&directory.join(format!("{base:016x}.log")), &file);
    }
    let open = || Log::open_with(Arc::new(sim.clone()), &Config { segment_bytes: 4096, ..Config::new(&directory) });
    let (log, opened) = match open() {
        Ok(opened) => opened,
        Err(StoreError::NotOurs { .. } | StoreError::Io { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let held: usize = opened.records.iter().map(|record| record.data.len()).sum();
    assert!(held <= total, "more than was there");
    assert!(opened.records.is_sorted_by(|one, next| one.index < next.index), "{:?}", opened.records);
    for damage in &opened.damages {
        assert!(damage.lost.start <= damage.lost.end && !damage.to_string().is_empty(), "{damage:?}");
    }
    // It goes on, unless all indices there are have been used.
    let last = opened.records.last().map_or(0, |record| record.index);
    let Ok(index) = log.append([(&b"one"[..], &b" more"[..])]) else { return };
    assert!(index > last, "{index} again");
    let _ = log.close();
    let (_, again) = open().unwrap();
    let mut records = opened.records;
    records.push(lifeline_store::Record { index, data: b"one more".to_vec() });
    assert_eq!(again.records, records);
    assert_eq!(again.head, opened.head);
    assert!(again.clean && again.damages.is_empty() && again.cut.is_none(), "{again:?}");
}

/// A whole log whose records mean anything: a client's outbox with its session, and a server's store.
pub fn kept(data: &[u8]) {
    let Some((&flags, rest)) = data.split_first() else { return };
    let mut input = Input(rest);
    let sim = Sim::new(1);
    let directory = Path::new("/log");
    let files = || Arc::new(sim.clone());
    let (log, _) = Log::open_with(files(), &Config::new(directory)).unwrap();
    if flags & 2 > 0 {
        log.set_head(input.bytes()).unwrap();
    }
    while !input.0.is_empty() {
        let mut record = input.bytes().to_vec();
        // A long one now and then.
        if flags & 4 > 0 {
            record.extend_from_slice(input.bytes());
        }
        log.append([(&record[..], &b""[..])]).unwrap();
    }
    if flags & 8 > 0 {
        log.close().unwrap();
    }
    drop(log);
    // The second time it reads what the first has made of it.
    for _ in 0..2 {
        let opened = if flags & 1 > 0 {
            fuzzing::open_outbox(files(), directory)
        } else {
            fuzzing::open_store(files(), directory)
        };
        opened.unwrap();
    }
}
