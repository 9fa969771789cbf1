//! The rules of a WebSocket link that stays alive, as sans-IO state machines.
//!
//! This crate does no I/O, starts no thread and never asks what time it is: inputs go in by
//! `handle_*(now, …)`, outputs come out by `poll_*`, and the driver (the `lifeline-engine` crate)
//! owns sockets and clocks. So every rule is tested with a hand-driven clock.
#![forbid(unsafe_code)]

pub mod backoff;
pub mod client;
pub mod close;
pub mod deflate;
pub mod frame;
pub mod heartbeat;
pub mod outbox;
pub mod pool;
pub mod rate;
pub mod time;
pub mod utf8;
pub mod v1;
pub mod wheel;

pub use time::Time;
