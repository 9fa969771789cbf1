//! A server whose callbacks run in processes of their own (option `workers`): the *gateway* has the sockets, sessions and
//! channels, *workers* are started with a Unix socket as their standard input and get events over it.
//!
//! What is said on that socket is in `wire`; who serves which connection is decided by `roster`; `gateway` and [`remote`]
//! are its two ends.

pub(crate) mod gateway;
pub mod remote;
pub(crate) mod roster;
pub(crate) mod wire;

pub(crate) use wire::Questions;

/// Names a worker's number to itself: 1 and up, as many as there are at a time.
pub const VARIABLE: &str = "LIFELINE_WORKER";
