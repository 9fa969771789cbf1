use std::io;
use std::path::{Path, PathBuf};

/// How the owner is named that is this process.
pub(crate) const OWN: &str = "this process";

/// What went wrong, with the file or directory.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process, or another object of this one, owns the directory.
    #[error("{} is in use by {owner}; a directory has one owner", directory.display())]
    Busy { directory: PathBuf, owner: String },
    /// The log was closed.
    #[error("{} was closed", directory.display())]
    Closed { directory: PathBuf },
    /// An earlier write could not be made durable. What the disk has is not known, so nothing more is taken
    /// until the directory is opened again.
    #[error("{} takes nothing more since an error: {cause}", directory.display())]
    Failed { directory: PathBuf, cause: String },
    /// The files would be over their limit.
    #[error(
        "{} is full: {len} bytes do not fit beside {held}, the limit is {limit} bytes",
        directory.display()
    )]
    Full { directory: PathBuf, len: u64, held: u64, limit: u64 },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// A file that another program, or a later version of this one, has written.
    #[error("{} is not a log of this version: it begins with {found}", path.display())]
    NotOurs { path: PathBuf, found: String },
    /// More at once than a file can have.
    #[error("{len} bytes at once are too many, at most {limit} go into one file")]
    TooBig { len: u64, limit: u64 },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// It is this process that has the directory.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Busy { owner, .. } if owner.starts_with(OWN))
    }

    /// There is no room: on the disk, or under the limit. It may succeed later.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
                    || source.kind() == io::ErrorKind::FileTooLarge
            }
            _ => false,
        }
    }
}
