//! What a log needs of a file system.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::StoreError;

/// A file system, or a test's idea of one.
pub trait Files: fmt::Debug + Send + Sync {
    /// Makes the directory and those above it.
    fn create_directory(&self, directory: &Path) -> io::Result<()>;

    /// Names and lengths of the regular files in it.
    fn list(&self, directory: &Path) -> io::Result<Vec<(String, u64)>>;

    /// All bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Makes a file that must not exist, for its owner only.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens a file that exists for writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Replaces what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes names durable: what was created, renamed and removed.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;

    /// Takes the directory for this process until the lock is dropped.
    ///
    /// # Errors
    /// [`StoreError::Busy`] names the owner.
    fn lock(&self, directory: &Path) -> Result<Box<dyn Lock>, StoreError>;
}

/// An open file.
pub trait File: fmt::Debug + Send + Sync {
    /// Writes some of `data`; returns how much.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes the content durable, and its length.
    fn sync(&self) -> io::Result<()>;

    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes the file so long, with zeros, on space that is reserved. Only makes later writes faster.
    fn allocate(&self, len: u64) -> io::Result<()>;
}

/// Ownership of a directory; ends when it is dropped.
pub trait Lock: fmt::Debug + Send + Sync {}
