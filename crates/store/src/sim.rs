//! A disk in memory that does what disks may do: lose what was not synced, in any order, fill up, write
//! less than asked, and fail.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::StoreError;
use crate::files::{File, Files, Lock};

/// See the module. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct Sim(Arc<Mutex<World>>);

/// What the disk is told to do wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// All files together, in bytes; what is over it is "no space left".
    pub capacity: Option<u64>,
    /// Writes take a random part of what they are given.
    pub short_writes: bool,
    /// Calls of sync that succeed before one fails with EIO; what it should have written is never written,
    /// though it can be read, and later calls succeed.
    pub sync_fails_after: Option<u32>,
    /// Likewise for writes, which write a part of it.
    pub write_fails_after: Option<u32>,
    /// Truncation fails.
    pub truncate_fails: bool,
}

#[derive(Debug)]
struct World {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<(PathBuf, NameChange)>,
    owned: HashSet<PathBuf>,
    faults: Faults,
    random: SmallRng,
    /// Handles of an earlier one belong to a process that is gone.
    life: u32,
    syncs: u64,
}

#[derive(Debug, Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(usize),
    Remove,
    /// From this name.
    Rename(PathBuf),
}

/// What a disk writes at once.
const SECTOR: usize = 512;

impl Sim {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(World {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            owned: HashSet::new(),
            faults: Faults::default(),
            random: SmallRng::seed_from_u64(seed),
            life: 0,
            syncs: 0,
        })))
    }

    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    /// The process is gone; the system still has what it was given.
    pub fn kill(&self) {
        let mut world = self.0.lock();
        world.life += 1;
        world.owned.clear();
    }

    /// The power is gone: of what was not synced, any part is there, sector by sector.
    pub fn cut_power(&self) {
        let mut world = self.0.lock();
        let World { inodes, random, durable_names, pending_names, .. } = &mut *world;
        // Now and then all or nothing.
        let chance = [0.0, 0.2, 0.5, 0.8, 1.0][random.random_range(0..5)];
        for inode in inodes {
            let mut content = std::mem::take(&mut inode.durable);
            for change in inode.pending.drain(..) {
                match change {
                    Change::Length(len) => {
                        if random.random_bool(chance) {
                            content.resize(len, 0);
                        }
                    }
                    Change::Write { offset, data } => {
                        let mut at = 0;
                        while at < data.len() {
                            let end = data.len().min(at + SECTOR - (offset + at) % SECTOR);
                            if random.random_bool(chance) {
                                write(&mut content, offset + at, &data[at..end]);
                            }
                            at = end;
                        }
                    }
                }
            }
            inode.durable.clone_from(&content);
            inode.content = content;
        }
        for (name, change) in pending_names.drain(..) {
            if random.random_bool(chance) {
                apply(durable_names, name, change);
            }
        }
        world.names = world.durable_names.clone();
        world.life += 1;
        world.owned.clear();
    }

    /// How often content was synced.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// The files there are.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().names.keys().cloned().collect()
    }

    /// Replaces a file's content, durably, or makes the file.
    pub fn put(&self, path: &Path, content: &[u8]) {
        let mut world = self.0.lock();
        world.inodes.push(Inode { content: content.to_vec(), durable: content.to_vec(), pending: Vec::new() });
        let inode = world.inodes.len() - 1;
        world.names.insert(path.to_owned(), inode);
        world.durable_names.insert(path.to_owned(), inode);
    }
}

impl World {
    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].content.len() as u64).sum()
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Length after the fault of a full disk.
    fn room(&self, inode: usize, end: usize) -> usize {
        let Some(capacity) = self.faults.capacity else { return end };
        let len = self.inodes[inode].content.len();
        let free = capacity.saturating_sub(self.used()) as usize;
        end.min(len + free).max(len.min(end))
    }
}

fn write(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if content.len() < offset + data.len() {
        content.resize(offset + data.len(), 0);
    }
    content[offset..offset + data.len()].copy_from_slice(data);
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, name: PathBuf, change: NameChange) {
    match change {
        NameChange::Create(inode) => {
            names.insert(name, inode);
        }
        NameChange::Remove => {
            names.remove(&name);
        }
        NameChange::Rename(from) => {
            if let Some(inode) = names.remove(&from) {
                names.insert(name, inode);
            }
        }
    }
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

/// Counts down; true when it is this call's turn to fail.
fn fails(after: &mut Option<u32>) -> bool {
    match after {
        Some(0) => {
            *after = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl Files for Sim {
    fn create_directory(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(String, u64)>> {
        let world = self.0.lock();
        let inside = world.names.iter().filter(|(path, _)| path.parent() == Some(directory));
        Ok(inside
            .filter_map(|(path, inode)| {
                let name = path.file_name()?.to_str()?.to_owned();
                Some((name, world.inodes[*inode].content.len() as u64))
            })
            .collect())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let world = self.0.lock();
        Ok(world.inodes[world.inode(path)?].content.clone())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut world = self.0.lock();
        if world.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        world.inodes.push(Inode::default());
        let inode = world.inodes.len() - 1;
        world.names.insert(path.to_owned(), inode);
        world.pending_names.push((path.to_owned(), NameChange::Create(inode)));
        Ok(Arc::new(SimFile { disk: self.clone(), inode, life: world.life }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let world = self.0.lock();
        let inode = world.inode(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode, life: world.life }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.inode(from)?;
        let change = NameChange::Rename(from.to_owned());
        apply(&mut world.names, to.to_owned(), change.clone());
        world.pending_names.push((to.to_owned(), change));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.inode(path)?;
        apply(&mut world.names, path.to_owned(), NameChange::Remove);
        world.pending_names.push((path.to_owned(), NameChange::Remove));
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        let World { pending_names, durable_names, .. } = &mut *world;
        for (name, change) in std::mem::take(pending_names) {
            if name.parent() == Some(directory) {
                apply(durable_names, name, change);
            } else {
                pending_names.push((name, change));
            }
        }
        Ok(())
    }

    fn lock(&self, directory: &Path) -> Result<Box<dyn Lock>, StoreError> {
        let mut world = self.0.lock();
        if !world.owned.insert(directory.to_owned()) {
            return Err(StoreError::Busy { directory: directory.to_owned(), owner: "another opener".to_owned() });
        }
        Ok(Box::new(SimLock { disk: self.clone(), directory: directory.to_owned(), life: world.life }))
    }
}

#[derive(Debug)]
struct SimLock {
    disk: Sim,
    directory: PathBuf,
    life: u32,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut world = self.disk.0.lock();
        if world.life == self.life {
            world.owned.remove(&self.directory);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: Sim,
    inode: usize,
    life: u32,
}

impl File for SimFile {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let mut world = self.disk.0.lock();
        if world.life != self.life {
            return Err(broken());
        }
        let offset = offset as usize;
        let failing = fails(&mut world.faults.write_fails_after);
        let mut len = data.len();
        if failing {
            len /= 2;
        } else if world.faults.short_writes {
            len = world.random.random_range(1..=len);
        }
        let end = world.room(self.inode, offset + len);
        if end <= offset && len > 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let data = &data[..end - offset];
        let inode = &mut world.inodes[self.inode];
        write(&mut inode.content, offset, data);
        inode.pending.push(Change::Write { offset, data: data.to_vec() });
        if failing { Err(broken()) } else { Ok(data.len()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        if world.life != self.life {
            return Err(broken());
        }
        world.syncs += 1;
        let failing = fails(&mut world.faults.sync_fails_after);
        let inode = &mut world.inodes[self.inode];
        for change in std::mem::take(&mut inode.pending) {
            match change {
                _ if failing => {}
                Change::Write { offset, data } => write(&mut inode.durable, offset, &data),
                Change::Length(len) => inode.durable.resize(len, 0),
            }
        }
        if failing { Err(broken()) } else { Ok(()) }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        if world.life != self.life || world.faults.truncate_fails {
            return Err(broken());
        }
        let inode = &mut world.inodes[self.inode];
        inode.content.resize(len as usize, 0);
        inode.pending.push(Change::Length(len as usize));
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        if world.life != self.life {
            return Err(broken());
        }
        if world.room(self.inode, len as usize) < len as usize {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = &mut world.inodes[self.inode];
        if inode.content.len() < len as usize {
            inode.content.resize(len as usize, 0);
            inode.pending.push(Change::Length(len as usize));
        }
        Ok(())
    }
}
