//! A line on a terminal that says how far a run is.

use std::io::{IsTerminal, Write};

use crate::run::Point;

/// Writes to stderr, and only to a terminal.
#[derive(Debug)]
pub struct Progress {
    on: bool,
    written: bool,
}

impl Progress {
    /// `wanted` and on a terminal.
    pub fn new(wanted: bool) -> Self {
        Self { on: wanted && std::io::stderr().is_terminal(), written: false }
    }

    /// Connections are opening.
    pub fn opening(&mut self, open: usize, conns: usize) {
        self.line(open as f64 / conns.max(1) as f64, &format!("opening {open} of {conns}"));
    }

    /// `share` of the run is over.
    pub fn show(&mut self, share: f64, points: &[Point]) {
        if let Some(last) = points.last() {
            let text = format!(
                "{} open  {:.0}/s  p50 {:.2} ms  p99 {:.2} ms  server {:.2} cores",
                last.open, last.rate, last.delays[0], last.delays[1], last.server_cores
            );
            self.line(share, &text);
        }
    }

    fn line(&mut self, share: f64, text: &str) {
        if self.on {
            self.written = true;
            let bar = bar(share, 24);
            // A terminal that is gone has nobody before it.
            let _ = write!(std::io::stderr(), "\r\x1b[K[{bar}] {:3.0} %  {text}", share.clamp(0.0, 1.0) * 100.0);
        }
    }

    /// Leaves an empty line for what comes.
    pub fn done(&mut self) {
        if self.written {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
            self.written = false;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.done();
    }
}

fn bar(share: f64, width: usize) -> String {
    let full = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    "#".repeat(full) + &"-".repeat(width - full)
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn the_bar_fills() {
        assert_eq!(bar(0.0, 4), "----");
        assert_eq!(bar(0.5, 4), "##--");
        assert_eq!(bar(7.0, 4), "####");
    }
}
