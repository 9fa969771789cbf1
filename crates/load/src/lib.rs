//! Tools that show whether a WebSocket server or client keeps its promises: a TCP proxy that
//! misbehaves on demand, peers that ping, answer, keep silent or flood, and a load generator.
//!
//! The peers write and check their frames by hand (RFC 6455 section 5), so that a mistake in the
//! engine's own decoder cannot hide itself.

pub mod args;
pub mod broadcast;
pub mod churn;
pub mod crew;
pub mod echo;
pub mod generator;
pub mod hold;
pub mod lifeline;
pub mod losses;
pub mod numbers;
pub mod pool;
pub mod process;
pub mod profile;
pub mod progress;
pub mod proxy;
pub mod report;
pub mod resume;
pub mod run;
pub mod serve;
pub mod talk;
pub mod train;
pub mod ws;

use std::io::Write;

/// One line to stdout, at once: a script waits for it.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: nothing left to tell.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
