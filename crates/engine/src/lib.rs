//! lifeline's engine: sockets, threads and clocks around the rules of `lifeline-proto`.
//!
//! It knows no PHP. The application reaches it through [`bridge::Bridge`] only.
#![forbid(unsafe_code)]

pub mod bridge;
pub mod config;
pub mod dial;
pub mod forwarded;
pub mod http;
pub mod listen;
pub mod options;
pub mod stream;
pub mod upgrade;
