//! The log: segments in a directory, one of which grows.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::disk::full_path;
use crate::files::{File, Files, Lock};
use crate::segment::{self, HEADER, Kind, MAGIC, MAX_BASE, MAX_LEN, MAX_NUMBER, RECORD_HEADER};
use crate::{Disk, StoreError};

/// Where a log is and how big it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Made where it does not exist. It belongs to the log alone.
    pub directory: PathBuf,
    /// A file that is longer gets no further records; what is appended at once is in one file, however long
    /// it is. Default: 4 MiB.
    pub segment_bytes: u64,
    /// Of all files; what is over it is refused with [`StoreError::Full`]. Default: none.
    pub limit_bytes: Option<u64>,
}

impl Config {
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), segment_bytes: 4 * 1024 * 1024, limit_bytes: None }
    }
}

/// Something that was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Grows by at least 1 from record to record.
    pub index: u64,
    pub data: Vec<u8>,
}

/// What a log had when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Those behind the mark of [`Log::discard`], in order.
    pub records: Vec<Record>,
    /// The last of [`Log::set_head`].
    pub head: Option<Vec<u8>>,
    /// The log is new or was closed by [`Log::close`]: nothing is missing at its end.
    pub clean: bool,
    /// The end of the log was not whole and was cut off.
    pub cut: Option<Cut>,
    /// Records that had been durable and are lost, with all that is not listed in between kept.
    pub damages: Vec<Damage>,
}

/// See [`Opened::cut`]. A write was under way when the power or the process went; or the last records,
/// which may have been durable, are damaged: nobody can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub path: PathBuf,
    /// In the file, of the first byte cut off.
    pub offset: u64,
    pub bytes: u64,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, offset, bytes } = self;
        write!(
            f,
            "{} ends with an unfinished record: {bytes} bytes from offset {offset} on were cut off",
            path.display()
        )
    }
}

/// See [`Opened::damages`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub path: PathBuf,
    /// In the file, of the first bad byte's record.
    pub offset: u64,
    pub bytes: u64,
    /// The indices of the lost records, as far as that is known.
    pub lost: Range<u64>,
    /// A copy of the file as it was.
    pub kept: Option<PathBuf>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, offset, bytes, lost, kept } = self;
        let count = lost.end - lost.start;
        write!(
            f,
            "{} is damaged at offset {offset}: {bytes} bytes with about {count} records are unreadable",
            path.display()
        )?;
        match kept {
            Some(kept) => write!(f, "; the file as it was is kept as {}", kept.display()),
            None => Ok(()),
        }
    }
}

/// What a log has done since it was opened, and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Of all files, with what is reserved.
    pub bytes_on_disk: u64,
    pub segments: usize,
    /// Calls of fdatasync(2) or fsync(2) for content.
    pub fsyncs: u64,
    /// Records appended.
    pub records: u64,
    /// Given to write(2).
    pub bytes_written: u64,
}

/// See the crate. All methods may be called by any thread.
///
/// [`Log::append`] gives records to the operating system: they survive the end of the process, however it
/// ends. [`Log::sync`] makes them survive the end of the machine's power. Dropping a log is what a crash
/// would do to it; [`Log::close`] ends it.
#[derive(Debug)]
pub struct Log {
    files: Arc<dyn Files>,
    config: Config,
    state: Mutex<State>,
    synced: Condvar,
}

#[derive(Debug)]
struct State {
    lock: Option<Box<dyn Lock>>,
    file: Arc<dyn File>,
    path: PathBuf,
    base: u64,
    /// Of the next record.
    number: u32,
    offset: u64,
    /// The file's length, with what is reserved.
    allocated: u64,
    /// What of the file is durable.
    synced: u64,
    /// The last record that is.
    durable: u64,
    sealed: Vec<Sealed>,
    mark: u64,
    head: Option<Vec<u8>>,
    syncing: bool,
    failed: Option<String>,
    buffer: Vec<u8>,
    fsyncs: u64,
    records: u64,
    bytes_written: u64,
}

/// A segment that gets no further records and is durable.
#[derive(Debug)]
struct Sealed {
    base: u64,
    path: PathBuf,
    bytes: u64,
}

/// Space is reserved in steps: the file's length changes that seldom, which a sync would have to write.
const ALLOCATION: u64 = 256 * 1024;
/// A buffer that grew beyond is not kept.
const BUFFER: usize = 1024 * 1024;

impl Log {
    /// Opens the log in `config.directory` on this machine's disk.
    ///
    /// # Errors
    /// See [`Log::open_with`].
    pub fn open(config: &Config) -> Result<(Self, Opened), StoreError> {
        Self::open_with(Arc::new(Disk), config)
    }

    /// Opens a log, or makes it. What is unfinished at its end is cut off; what is damaged is left out, and
    /// both is reported. What is left is durable.
    ///
    /// # Errors
    /// [`StoreError::Busy`], [`StoreError::NotOurs`] or [`StoreError::Io`]. Damage is none.
    pub fn open_with(files: Arc<dyn Files>, config: &Config) -> Result<(Self, Opened), StoreError> {
        let config = Config { directory: full_path(&config.directory), ..config.clone() };
        let directory = &config.directory;
        files.create_directory(directory).map_err(StoreError::io("create", directory))?;
        let lock = files.lock(directory)?;
        let mut recovery =
            Recovery { files: &*files, directory, opened: Opened::default(), mark: 0, fsyncs: 0, head_missing: false };
        let (sealed, last) = recovery.run()?;
        let Recovery { mut opened, mark, fsyncs, head_missing, .. } = recovery;
        let next = last.as_ref().map_or(1, |last| last.base + u64::from(last.next_number)).max(mark + 1);
        opened.clean &= opened.cut.is_none() && opened.damages.is_empty();
        let (file, path, base, number, len) = if let Some(Tail { base, next_number, path, bytes: Some(bytes) }) = last {
            let file = files.open(&path).map_err(StoreError::io("open", &path))?;
            (file, path, base, next_number, bytes)
        } else {
            let fresh = Fresh::create(&*files, directory, next, mark, opened.head.as_deref())?;
            (fresh.file, fresh.path, next, fresh.number, fresh.len)
        };
        let log = Self {
            state: Mutex::new(State {
                lock: Some(lock),
                file,
                path,
                base,
                number,
                offset: len,
                allocated: len,
                synced: if base == next { 0 } else { len },
                durable: next - 1,
                sealed,
                mark,
                head: opened.head.clone(),
                syncing: false,
                failed: None,
                buffer: Vec::new(),
                fsyncs,
                records: 0,
                bytes_written: 0,
            }),
            synced: Condvar::new(),
            files,
            config,
        };
        if head_missing && let Some(head) = &opened.head {
            let index = log.set_head(head)?;
            log.sync(index)?;
        }
        Ok((log, opened))
    }

    /// Appends records, all or none, each in two parts; returns the index of the first, the others follow.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::TooBig`] and [`StoreError::Io`] (a full disk among them): nothing
    /// was appended, and a later call may succeed. [`StoreError::Failed`], [`StoreError::Closed`]: none will.
    pub fn append<'a>(
        &self,
        records: impl IntoIterator<Item = (&'a [u8], &'a [u8]), IntoIter: Clone>,
    ) -> Result<u64, StoreError> {
        let records = records.into_iter();
        let len: u64 = records.clone().map(|(first, second)| (RECORD_HEADER + first.len() + second.len()) as u64).sum();
        let mut state = self.usable()?;
        if let Some(limit) = self.config.limit_bytes {
            let held = state.bytes();
            if held.saturating_add(len) > limit {
                let directory = self.config.directory.clone();
                return Err(StoreError::Full { directory, len, held, limit });
            }
        }
        self.make_room(&mut state, len)?;
        let first = state.next();
        let mut joined = Vec::new();
        let mut buffer = std::mem::take(&mut state.buffer);
        let mut count = 0;
        for (one, two) in records {
            let data = if two.is_empty() {
                one
            } else {
                joined.clear();
                joined.extend_from_slice(one);
                joined.extend_from_slice(two);
                &joined
            };
            let (number, synced) = (state.number + count, state.synced as u32);
            segment::encode_record(&mut buffer, state.base, number, synced, Kind::Data, data);
            count += 1;
        }
        let written = self.write(&mut state, &buffer, count);
        state.records += u64::from(count);
        buffer.clear();
        buffer.shrink_to(BUFFER);
        state.buffer = buffer;
        written.map(|()| first)
    }

    /// Returns when the records up to `index` are durable. Calls of several threads share the work.
    ///
    /// # Errors
    /// What of the log is durable is not known then; it takes nothing more.
    pub fn sync(&self, index: u64) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        while state.durable < index {
            state.check(&self.config.directory)?;
            if index >= state.next() {
                return Ok(());
            }
            if state.syncing {
                self.synced.wait(&mut state);
                continue;
            }
            state.syncing = true;
            let (file, base) = (state.file.clone(), state.base);
            let (last, offset) = (state.next() - 1, state.offset);
            let result = MutexGuard::unlocked(&mut state, || file.sync());
            state.syncing = false;
            state.fsyncs += 1;
            self.synced.notify_all();
            match result {
                Ok(()) => {
                    state.durable = state.durable.max(last);
                    if state.base == base {
                        state.synced = state.synced.max(offset);
                    }
                }
                Err(error) => {
                    let error = StoreError::io("sync", &state.path)(error);
                    return Err(state.fail(&self.config.directory, &error));
                }
            }
        }
        Ok(())
    }

    /// Makes everything durable that was appended so far.
    ///
    /// # Errors
    /// See [`Log::sync`].
    pub fn sync_all(&self) -> Result<(), StoreError> {
        let last = self.state.lock().next() - 1;
        self.sync(last)
    }

    /// The records up to `index` are no longer needed: they are not returned when the log is opened again,
    /// and files that have no others are deleted. Not made durable at once: after a power cut some may
    /// come back.
    ///
    /// # Errors
    /// As [`Log::append`] and [`Log::sync`]; it counts all the same.
    pub fn discard(&self, index: u64) -> Result<(), StoreError> {
        let mut state = self.usable()?;
        let index = index.min(state.next() - 1);
        if index <= state.mark {
            return Ok(());
        }
        state.mark = index;
        let marked = self.append_special(&mut state, Kind::Mark, &index.to_le_bytes());
        let last = state.next() - 1;
        if state.deletable() == 0 {
            return marked;
        }
        // Else files could be missing before a mark that says so.
        drop(state);
        let durable = marked.and_then(|()| self.sync(last));
        if durable.as_ref().is_err_and(|error| !error.is_full()) {
            return durable;
        }
        let mut state = self.state.lock();
        let count = state.deletable();
        let gone: Vec<Sealed> = state.sealed.drain(..count).collect();
        drop(state);
        let directory = &self.config.directory;
        for segment in gone {
            self.files.remove(&segment.path).map_err(StoreError::io("delete", &segment.path))?;
            if durable.is_err() {
                // The oldest first, so that none is missing in between.
                self.files.sync_directory(directory).map_err(StoreError::io("sync", directory))?;
            }
        }
        self.files.sync_directory(directory).map_err(StoreError::io("sync", directory))?;
        durable
    }

    /// Replaces the application's state, which is returned when the log is opened again and costs its length
    /// in each file. Appended like a record; returns its index.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn set_head(&self, head: &[u8]) -> Result<u64, StoreError> {
        let mut state = self.usable()?;
        self.make_room(&mut state, (RECORD_HEADER + head.len()) as u64)?;
        self.append_special(&mut state, Kind::Head, head)?;
        state.head = Some(head.to_vec());
        Ok(state.next() - 1)
    }

    /// Starts another file, so that what is appended so far can be deleted without what comes.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn roll(&self) -> Result<(), StoreError> {
        let mut state = self.usable()?;
        // An empty one would have the next one's name.
        if state.number == 0 { Ok(()) } else { self.roll_over(&mut state) }
    }

    /// Makes everything durable, notes that nothing is missing, and gives the directory to others.
    ///
    /// # Errors
    /// As [`Log::sync`]; it is closed all the same.
    pub fn close(&self) -> Result<(), StoreError> {
        let result = self.sync_all().and_then(|()| {
            let mut state = self.usable()?;
            let (path, file, before) = (state.path.clone(), state.file.clone(), state.offset);
            self.append_special(&mut state, Kind::Closed, &[])?;
            file.truncate(state.offset).map_err(StoreError::io("truncate", &path))?;
            state.allocated = state.offset;
            drop(state);
            // It must not be read by who opens the log next if it is not on the disk.
            self.sync_all().inspect_err(|_| drop(file.truncate(before)))
        });
        self.state.lock().lock = None;
        result
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.state.lock();
        Stats {
            bytes_on_disk: state.bytes() - state.offset + state.allocated,
            segments: state.sealed.len() + 1,
            fsyncs: state.fsyncs,
            records: state.records,
            bytes_written: state.bytes_written,
        }
    }

    /// Something was appended that is not durable.
    #[must_use]
    pub fn has_unsynced(&self) -> bool {
        let state = self.state.lock();
        state.durable + 1 < state.next() && state.failed.is_none()
    }

    /// Of all files, without what is reserved.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes()
    }

    /// The last record's index, durable or not.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.state.lock().next() - 1
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.config.directory
    }

    /// Whether it takes more.
    ///
    /// # Errors
    /// What has failed before, after which it takes nothing.
    pub fn check(&self) -> Result<(), StoreError> {
        self.usable().map(drop)
    }

    fn usable(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.state.lock();
        state.check(&self.config.directory)?;
        Ok(state)
    }

    /// Goes on to another file if this one would get too long.
    fn make_room(&self, state: &mut State, len: u64) -> Result<(), StoreError> {
        let directory = &self.config.directory;
        let limit = MAX_LEN - state.head.as_ref().map_or(0, Vec::len) as u64 - ALLOCATION;
        if len > limit {
            return Err(StoreError::TooBig { len, limit });
        }
        let most = self.config.segment_bytes.min(limit);
        if state.offset + len > most && state.number > 0 {
            self.roll_over(state)?;
        }
        let end = state.offset + len;
        if end > state.allocated {
            // It is an optimisation; what the disk cannot take, the write will report.
            let target = (end.next_multiple_of(ALLOCATION)).min(self.config.segment_bytes.max(end));
            if state.file.allocate(target).is_ok() {
                state.allocated = target;
            }
        }
        state.check(directory)
    }

    fn roll_over(&self, state: &mut State) -> Result<(), StoreError> {
        let directory = &self.config.directory;
        let path = state.path.clone();
        state.file.truncate(state.offset).map_err(StoreError::io("truncate", &path))?;
        state.allocated = state.offset;
        if let Err(error) = state.file.sync() {
            return Err(state.fail(directory, &StoreError::io("sync", &path)(error)));
        }
        state.fsyncs += 1;
        state.synced = state.offset;
        let next = state.next();
        state.durable = next - 1;
        let fresh = match Fresh::create(&*self.files, directory, next, state.mark, state.head.as_deref()) {
            Ok(fresh) => fresh,
            Err(error) => {
                // This file goes on: one that would follow it must not be there after a power cut.
                let path = segment_path(directory, next);
                let removed = match self.files.remove(&path) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                    removed => removed.and_then(|()| self.files.sync_directory(directory)),
                };
                return Err(match removed {
                    Ok(()) => error,
                    Err(second) => state.fail(directory, &StoreError::io("delete", &path)(second)),
                });
            }
        };
        state.sealed.push(Sealed { base: state.base, path, bytes: state.offset });
        state.bytes_written += fresh.len;
        state.file = fresh.file;
        state.path = fresh.path;
        state.base = next;
        state.number = fresh.number;
        state.offset = fresh.len;
        state.allocated = fresh.len;
        state.synced = 0;
        Ok(())
    }

    fn append_special(&self, state: &mut State, kind: Kind, data: &[u8]) -> Result<(), StoreError> {
        let mut record = Vec::with_capacity(RECORD_HEADER + data.len());
        segment::encode_record(&mut record, state.base, state.number, state.synced as u32, kind, data);
        self.write(state, &record, 1)
    }

    /// Writes at the end, all or nothing.
    fn write(&self, state: &mut State, data: &[u8], records: u32) -> Result<(), StoreError> {
        if let Err(error) = write_all(&*state.file, data, state.offset) {
            let error = StoreError::io("write", &state.path)(error);
            // What was written of it must not stand behind what comes next, nor come back after a power cut.
            let Err(second) = state.file.truncate(state.offset).and_then(|()| state.file.sync()) else {
                state.allocated = state.offset;
                state.synced = state.offset;
                state.durable = state.next() - 1;
                state.fsyncs += 1;
                return Err(error);
            };
            let cause = format!("{error}; and cannot take back what was written of it: {second}");
            state.failed = Some(cause.clone());
            return Err(StoreError::Failed { directory: self.config.directory.clone(), cause });
        }
        state.offset += data.len() as u64;
        state.allocated = state.allocated.max(state.offset);
        state.number += records;
        state.bytes_written += data.len() as u64;
        Ok(())
    }
}

impl State {
    /// The next record's index.
    fn next(&self) -> u64 {
        self.base + u64::from(self.number)
    }

    fn bytes(&self) -> u64 {
        self.offset + self.sealed.iter().map(|segment| segment.bytes).sum::<u64>()
    }

    /// Sealed segments, from the first one on, that have nothing behind the mark.
    fn deletable(&self) -> usize {
        let ends = self.sealed.iter().skip(1).map(|next| next.base).chain([self.base]);
        ends.take(self.sealed.len()).take_while(|end| *end <= self.mark + 1).count()
    }

    fn check(&self, directory: &Path) -> Result<(), StoreError> {
        if let Some(cause) = &self.failed {
            return Err(StoreError::Failed { directory: directory.to_owned(), cause: cause.clone() });
        }
        if self.lock.is_none() {
            return Err(StoreError::Closed { directory: directory.to_owned() });
        }
        Ok(())
    }

    /// After an error of fsync(2) the kernel may take for written what is not, and a second call would
    /// succeed.
    fn fail(&mut self, directory: &Path, error: &StoreError) -> StoreError {
        let cause = error.to_string();
        self.failed.get_or_insert_with(|| cause.clone());
        StoreError::Failed { directory: directory.to_owned(), cause }
    }
}

/// A file that was just made, not yet durable.
struct Fresh {
    file: Arc<dyn File>,
    path: PathBuf,
    number: u32,
    len: u64,
}

impl Fresh {
    fn create(
        files: &dyn Files,
        directory: &Path,
        base: u64,
        mark: u64,
        head: Option<&[u8]>,
    ) -> Result<Self, StoreError> {
        let path = segment_path(directory, base);
        let mut content = segment::encode_header(base, mark).to_vec();
        if let Some(head) = head {
            segment::encode_record(&mut content, base, 0, 0, Kind::Head, head);
        }
        // Left over where it could not be filled.
        let _ = files.remove(&path);
        let file = files.create(&path).map_err(StoreError::io("create", &path))?;
        write_all(&*file, &content, 0).map_err(StoreError::io("write", &path))?;
        files.sync_directory(directory).map_err(StoreError::io("sync", directory))?;
        Ok(Self { file, path, number: u32::from(head.is_some()), len: content.len() as u64 })
    }
}

/// Where a log that is being opened goes on.
struct Tail {
    base: u64,
    next_number: u32,
    path: PathBuf,
    /// The length of the file; `None`: there is none any more.
    bytes: Option<u64>,
}

/// Opening.
struct Recovery<'a> {
    files: &'a dyn Files,
    directory: &'a Path,
    opened: Opened,
    mark: u64,
    fsyncs: u64,
    /// The last file was cut before its head, and the one that has it may be deleted.
    head_missing: bool,
}

/// A file that was taken in.
struct Recovered {
    next_number: u32,
    bytes: u64,
    records: Vec<Record>,
}

/// What is in one file.
struct Parsed<'a> {
    found: Vec<segment::Found<'a>>,
    /// Bytes that are no records, in order, and how many records come before them.
    bad: Vec<(Range<usize>, usize)>,
}

impl Recovery<'_> {
    /// From the last file to the first: the last ones know best what is no longer needed.
    fn run(&mut self) -> Result<(Vec<Sealed>, Option<Tail>), StoreError> {
        let names = self.files.list(self.directory).map_err(StoreError::io("list", self.directory))?;
        let mut bases: Vec<u64> = Vec::new();
        for (name, _) in names {
            if let Some(base) = parse_name(&name) {
                bases.push(base);
            } else if name.ends_with(TEMPORARY) {
                let path = self.directory.join(name);
                self.files.remove(&path).map_err(StoreError::io("delete", &path))?;
            }
        }
        bases.sort_unstable();
        self.opened.clean = bases.is_empty();
        // Only what is no longer needed is deleted, from the front on.
        self.mark = bases.first().map_or(0, |base| base - 1);
        let (mut sealed, mut tail, mut records) = (Vec::new(), None, Vec::new());
        let mut next_base = None;
        for base in bases.into_iter().rev() {
            let path = segment_path(self.directory, base);
            if next_base.is_some_and(|next: u64| next <= self.mark + 1) {
                self.files.remove(&path).map_err(StoreError::io("delete", &path))?;
                continue;
            }
            if let Some(Recovered { next_number, bytes, records: more }) = self.recover(base, &path, next_base)? {
                records.push(more);
                if next_base.is_some() {
                    sealed.push(Sealed { base, path, bytes });
                } else {
                    tail = Some(Tail { base, next_number, path, bytes: Some(bytes) });
                }
            } else {
                // Its creation was cut short, and what came before is whole.
                self.files.remove(&path).map_err(StoreError::io("delete", &path))?;
                tail = Some(Tail { base, next_number: 0, path, bytes: None });
            }
            next_base = Some(base);
        }
        sealed.reverse();
        let mark = self.mark;
        self.opened.records = records.into_iter().rev().flatten().filter(|record| record.index > mark).collect();
        self.opened.damages.reverse();
        self.opened.damages.retain(|damage| damage.lost.end > mark + 1 || damage.lost.is_empty());
        Ok((sealed, tail))
    }

    /// Takes in one file and repairs it. `None`: it was never finished, and nothing in it was ever durable.
    fn recover(&mut self, base: u64, path: &Path, next_base: Option<u64>) -> Result<Option<Recovered>, StoreError> {
        let content = self.files.read(path).map_err(StoreError::io("read", path))?;
        let header = segment::decode_header(&content).filter(|(of, _)| *of == base);
        if header.is_none()
            && let Some(head) = content.get(..HEADER)
            && head[..8] != MAGIC
            && head[24..28] == crc32c::crc32c(&head[..24]).to_le_bytes()
        {
            let found = head[..8].escape_ascii().to_string();
            return Err(StoreError::NotOurs { path: path.to_owned(), found });
        }
        let Parsed { mut found, mut bad } = parse(&content, base);
        // The next file was begun where this one's indices ended.
        let room = next_base.map_or(u64::MAX, |next| next - base);
        if let Some(beyond) = found.iter().position(|record| u64::from(record.number) >= room) {
            let start = beyond.checked_sub(1).map_or(HEADER, |before| found[before].end);
            bad.retain(|(_, before)| *before < beyond);
            bad.push((start..content.len(), beyond));
            found.truncate(beyond);
        }
        let mut header_lost = header.is_none();
        let mut cut = None;
        if next_base.is_none() {
            // Bytes that were durable are damage. Others are writes that did not arrive, and what followed them
            // was not durable either.
            let evidence = found.iter().map(|record| record.synced as usize).max().unwrap_or(0);
            let end = content.iter().rposition(|byte| *byte != 0).map_or(0, |position| position + 1);
            let cut_at = |start: usize| Cut {
                path: path.to_owned(),
                offset: start as u64,
                bytes: end.saturating_sub(start) as u64,
            };
            if let Some(torn) = bad.iter().position(|(range, _)| range.start >= evidence) {
                let (range, before) = bad[torn].clone();
                found.truncate(before);
                bad.truncate(torn);
                cut = Some(cut_at(range.start));
            }
            if header_lost && evidence == 0 {
                if end > HEADER {
                    cut = Some(cut_at(0));
                }
                if found.is_empty() {
                    self.opened.cut = cut;
                    return Ok(None);
                }
                header_lost = false;
            }
        }
        // Not of what was cut off, whose indices are given again; and none is further behind: what a file was told is
        // of before the next one began.
        let marks = found.iter().filter(|record| record.kind == Kind::Mark);
        let marks = marks.filter_map(|record| segment::u64_at(record.data, 0)).chain(header.map(|(_, mark)| mark));
        let most = base + u64::from(MAX_NUMBER);
        let plausible = next_base.map_or(most, |next| next.min(most));
        self.mark = marks.filter(|mark| *mark < plausible).fold(self.mark, u64::max);
        let mut next_number = found.last().map_or(0, |record| record.number + 1);
        if next_base.is_none() {
            // What was marked as no longer needed had been there: its indices are not given again.
            let marked = u32::try_from((self.mark + 1).saturating_sub(base)).unwrap_or(MAX_NUMBER);
            next_number = next_number.max(marked);
        }
        if let Some(next) = next_base {
            // What the next file begins with tells how many were here.
            let full = u32::try_from(next - base).unwrap_or(MAX_NUMBER).min(MAX_NUMBER);
            if next_number < full && bad.last().is_none_or(|(_, before)| *before < found.len()) {
                bad.push((content.len()..content.len(), found.len()));
            }
            next_number = next_number.max(full);
        }
        let mut damages = Vec::new();
        if header_lost {
            damages.push((0..HEADER.min(content.len()), 0..0));
        }
        for (range, before) in &bad {
            let first = before.checked_sub(1).map_or(0, |before| found[before].number + 1);
            let end = found.get(*before).map_or(next_number.max(first + 1), |record| record.number);
            if base + u64::from(end) > self.mark + 1 {
                damages.push((range.clone(), first..end));
            }
        }
        let kept = if damages.is_empty() { None } else { Some(self.keep(path, &content)?) };
        for (range, numbers) in damages.into_iter().rev() {
            self.opened.damages.push(Damage {
                path: path.to_owned(),
                offset: range.start as u64,
                bytes: range.len() as u64,
                lost: base + u64::from(numbers.start)..base + u64::from(numbers.end),
                kept: kept.clone(),
            });
        }
        let mut records = Vec::new();
        for record in &found {
            if record.kind == Kind::Data {
                records.push(Record { index: base + u64::from(record.number), data: record.data.to_vec() });
            }
        }
        if self.opened.head.is_none() {
            let head = found.iter().rev().find(|record| record.kind == Kind::Head);
            self.opened.head = head.map(|record| record.data.to_vec());
            self.head_missing |= next_base.is_none() && self.opened.head.is_none();
        }
        let closed = found.last().is_some_and(|record| record.kind == Kind::Closed) && cut.is_none();
        if next_base.is_none() {
            self.opened.clean = closed && kept.is_none();
        }
        let whole = bad.is_empty() && header.is_some();
        let bytes = if whole && (next_base.is_some() || closed) {
            found.last().map_or(HEADER, |record| record.end) as u64
        } else {
            let rewritten = self.rewrite(base, path, &found, next_number);
            let end = found.last().map_or(HEADER, |record| record.end) as u64;
            match rewritten {
                // A full disk must not keep what is there from being sent.
                Err(error) if error.is_full() && whole => self.trim(path, end)?,
                other => other?,
            }
        };
        if cut.is_some() {
            self.opened.cut = cut;
        }
        Ok(Some(Recovered { next_number, bytes, records }))
    }

    /// Writes the file anew: after a crash the system may take for durable what an error kept from the disk.
    fn rewrite(
        &mut self,
        base: u64,
        path: &Path,
        found: &[segment::Found<'_>],
        next_number: u32,
    ) -> Result<u64, StoreError> {
        let mut content = segment::encode_header(base, self.mark).to_vec();
        let mut last = None;
        for record in found {
            let index = base + u64::from(record.number);
            let needed = match record.kind {
                Kind::Data => index > self.mark,
                Kind::Head => true,
                Kind::Mark | Kind::Closed => false,
            };
            if needed {
                let synced = content.len() as u32;
                segment::encode_record(&mut content, base, record.number, synced, record.kind, record.data);
                last = Some(record.number);
            }
        }
        if next_number > 0 && last != Some(next_number - 1) {
            let synced = content.len() as u32;
            segment::encode_record(&mut content, base, next_number - 1, synced, Kind::Mark, &self.mark.to_le_bytes());
        }
        let temporary = path.with_extension(&TEMPORARY[1..]);
        self.write_file(&temporary, &content)?;
        self.files.rename(&temporary, path).map_err(StoreError::io("rename", &temporary))?;
        self.files.sync_directory(self.directory).map_err(StoreError::io("sync", self.directory))?;
        Ok(content.len() as u64)
    }

    /// Cuts the file where its records end, and makes it durable.
    fn trim(&mut self, path: &Path, end: u64) -> Result<u64, StoreError> {
        let file = self.files.open(path).map_err(StoreError::io("open", path))?;
        file.truncate(end).map_err(StoreError::io("truncate", path))?;
        file.sync().map_err(StoreError::io("sync", path))?;
        self.fsyncs += 1;
        Ok(end)
    }

    /// A copy for whoever wants to look at it.
    fn keep(&mut self, path: &Path, content: &[u8]) -> Result<PathBuf, StoreError> {
        let mut kept = path.with_extension("damaged");
        let names = self.files.list(self.directory).map_err(StoreError::io("list", self.directory))?;
        let taken = |path: &Path| names.iter().any(|(name, _)| path.file_name().is_some_and(|file| *file == **name));
        for count in 2.. {
            if !taken(&kept) {
                break;
            }
            kept = path.with_extension(format!("damaged{count}"));
        }
        self.write_file(&kept, content)?;
        Ok(kept)
    }

    fn write_file(&mut self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        let file = self.files.create(path).map_err(StoreError::io("create", path))?;
        let written = write_all(&*file, content, 0)
            .map_err(StoreError::io("write", path))
            .and_then(|()| file.sync().map_err(StoreError::io("sync", path)));
        self.fsyncs += 1;
        if written.is_err() {
            let _ = self.files.remove(path);
        }
        written
    }
}

fn parse(content: &[u8], base: u64) -> Parsed<'_> {
    let mut parsed = Parsed { found: Vec::new(), bad: Vec::new() };
    let mut offset = HEADER;
    while offset < content.len() {
        let last = parsed.found.last().map(|record: &segment::Found<'_>| record.number);
        let record = segment::decode_record(content, base, offset);
        if let Some(record) = record.filter(|record| last.is_none_or(|last| record.number > last)) {
            offset = record.end;
            parsed.found.push(record);
            continue;
        }
        if segment::is_blank(content, offset) {
            break;
        }
        let next = segment::resynchronise(content, base, offset + 1, last);
        parsed.bad.push((offset..next.unwrap_or(content.len()), parsed.found.len()));
        let Some(next) = next else { break };
        offset = next;
    }
    parsed
}

/// Of files that are being written.
const TEMPORARY: &str = ".new";

fn segment_path(directory: &Path, base: u64) -> PathBuf {
    directory.join(format!("{base:016x}.log"))
}

fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok().filter(|base| (1..=MAX_BASE).contains(base))
}

fn write_all(file: &dyn File, mut data: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !data.is_empty() {
        match file.write_at(data, offset) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                data = &data[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
