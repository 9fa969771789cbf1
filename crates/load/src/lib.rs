//! Tools that show whether a WebSocket server or client keeps its promises: a TCP proxy that
//! misbehaves on demand, and peers that ping, answer, keep silent or flood.
//!
//! The peers write and check their frames by hand (RFC 6455 section 5), so that a mistake in the
//! engine's own decoder cannot hide itself.

pub mod args;
pub mod churn;
pub mod echo;
pub mod hold;
pub mod proxy;
pub mod ws;
