//! An append-only log of records in segment files: what a client still has to send, and what a server must
//! remember, over the end of the process.
//!
//! Blocking, without any thread of its own. [`Log`] can be shared by threads; one process owns a
//! directory at a time. Each access to the disk goes through [`Files`], so that tests can take its place.

#![forbid(unsafe_code)]

mod disk;
mod error;
mod files;
mod log;
mod segment;
#[cfg(feature = "sim")]
pub mod sim;

pub use disk::Disk;
pub use error::StoreError;
pub use files::{File, Files, Lock};
pub use log::{Config, Cut, Damage, Log, Opened, Record, Stats};
