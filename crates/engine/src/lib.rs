//! lifeline's engine: sockets, threads and clocks around the rules of `lifeline-proto`.
//!
//! It knows no PHP. The application reaches it through [`bridge::Bridge`] only.
#![forbid(unsafe_code)]

pub mod activation;
pub mod admin;
mod alarm;
pub mod bridge;
mod channels;
mod client;
mod clock;
pub mod config;
mod connection;
mod context;
mod core;
mod deflate;
pub mod dial;
mod events;
mod files;
pub mod forwarded;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod http;
pub mod keeper;
mod listen;
pub mod local;
mod memory;
pub mod options;
mod outlet;
mod poller;
pub mod printable;
pub mod proxy_protocol;
mod seat;
mod server;
pub mod service;
mod sessions;
mod shard;
pub mod status;
pub mod stream;
pub mod tls;
pub mod upgrade;
pub mod workers;
mod writer;

pub use core::IdMap;
pub use lifeline_proto::close;
pub use lifeline_proto::pool::recycle;

/// Bytes of an open connection's task, without what it points to.
#[must_use]
pub const fn idle_task_size() -> usize {
    size_of::<server::Link>()
}
