//! The operating system's file system.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, fcntl_lock};

use crate::StoreError;
use crate::error::OWN;
use crate::files::{File, Files, Lock};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

/// Names the owner of a directory, whose locks end with its process.
const LOCK_FILE: &str = "lock";

/// The directories that this process owns. A record lock of fcntl(2) does not keep its own process out; unlike
/// one of flock(2) it is not inherited by fork(2), so a worker that was forked off cannot keep the
/// directory when its owner has died.
static OWNED: Mutex<Option<HashSet<(u32, u64, u64)>>> = Mutex::new(None);

#[derive(Debug)]
struct OwnedDirectory {
    /// Process, device and inode.
    key: (u32, u64, u64),
    _file: fs::File,
}

impl Lock for OwnedDirectory {}

impl Drop for OwnedDirectory {
    fn drop(&mut self) {
        if let Some(owned) = &mut *OWNED.lock() {
            owned.remove(&self.key);
        }
    }
}

impl Files for Disk {
    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.exists()).collect();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        // Their names must last as well.
        for parent in missing.iter().filter_map(|path| path.parent()) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            self.sync_directory(parent)?;
        }
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                names.push((name, metadata.len()));
            }
        }
        Ok(names)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(DiskFile(fs::OpenOptions::new().write(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        fs::File::open(directory)?.sync_all()
    }

    fn lock(&self, directory: &Path) -> Result<Box<dyn Lock>, StoreError> {
        let path = directory.join(LOCK_FILE);
        let metadata = fs::metadata(directory).map_err(StoreError::io("read", directory))?;
        let key = (process::id(), metadata.dev(), metadata.ino());
        let busy = |owner| StoreError::Busy { directory: directory.to_owned(), owner };
        let mut owned = OWNED.lock();
        let owned = owned.get_or_insert_default();
        // To open and close the file would give up the lock that this process has.
        if owned.contains(&key) {
            return Err(busy(format!("{OWN} ({})", process::id())));
        }
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        if let Err(error) = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            if !matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) {
                return Err(StoreError::io("lock", &path)(error.into()));
            }
            let mut owner = String::new();
            let known = file.read_to_string(&mut owner).is_ok() && !owner.trim().is_empty();
            let owner = if known { format!("process {}", owner.trim()) } else { "another process".to_owned() };
            return Err(busy(owner));
        }
        // For those who are turned away; without it they are told less. A full disk must not keep the owner out.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", process::id()));
        owned.insert(key);
        Ok(Box::new(OwnedDirectory { key, _file: file }))
    }
}

#[derive(Debug)]
struct DiskFile(fs::File);

impl File for DiskFile {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        Ok(fallocate(&self.0, FallocateFlags::empty(), 0, len)?)
    }
}

/// For messages: without `.` and `..`, where that is possible.
#[must_use]
pub(crate) fn full_path(directory: &Path) -> PathBuf {
    std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned())
}
