//! The client's half of `lifeline.v1` for peers that count: `docs/protocol.md`, by hand as the frames below it.

use std::io::Write as _;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// For `Sec-WebSocket-Protocol`.
pub const PROTOCOL: &str = "lifeline.v1";
/// An acknowledgement that nothing takes along is due after so many messages, …
const MESSAGES: u64 = 32;
/// … so many bytes of payload, …
const BYTES: usize = 64 * 1024;
/// … or so many nanoseconds.
const DELAY: u64 = 1_000_000_000;

/// What the server said.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A.
    Acknowledged(u64),
    /// I with its number.
    Beat(&'a [u8]),
    /// C.
    Channel(&'a [u8]),
    /// M; what its `q` says.
    Message { sequence: u64, acknowledged: Option<u64>, payload: &'a [u8] },
    /// K, O, X: nothing to do.
    Nothing,
    /// R.
    ReplayDone(u64),
    /// W.
    Welcome(&'a [u8]),
}

/// Reads a message of the server.
///
/// # Errors
/// A refusal, a gap, or what is no frame.
pub fn hear(message: &[u8]) -> Result<Heard<'_>> {
    let (kind, rest) = message.split_first().context("an empty frame")?;
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    Ok(match kind {
        b'M' => {
            let (header, payload) = split(rest)?;
            let (sequence, header) = number(header)?;
            let acknowledged = header.strip_prefix(b" q=").map(number).transpose()?.map(|(mark, _)| mark);
            Heard::Message { sequence, acknowledged, payload }
        }
        b'C' => Heard::Channel(split(rest)?.1),
        b'A' => Heard::Acknowledged(number(rest)?.0),
        b'I' => Heard::Beat(rest),
        b'W' => Heard::Welcome(rest),
        b'R' => Heard::ReplayDone(number(rest)?.0),
        b'K' | b'O' | b'X' => Heard::Nothing,
        _ => bail!("the server says {:.100}", String::from_utf8_lossy(message)),
    })
}

fn split(message: &[u8]) -> Result<(&[u8], &[u8])> {
    let end = message.iter().position(|byte| *byte == b'\n').context("a header without its end")?;
    Ok((&message[..end], &message[end + 1..]))
}

fn number(text: &[u8]) -> Result<(u64, &[u8])> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    ensure!((1..=16).contains(&end), "no number in {:.40}", String::from_utf8_lossy(text));
    Ok((text[..end].iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')), &text[end..]))
}

/// One connection's counts.
#[derive(Debug, Default)]
pub struct Speaker {
    /// W has come.
    pub welcomed: bool,
    received: u64,
    told: u64,
    bytes: usize,
    /// When the first message that is not acknowledged came.
    since: u64,
    /// Items that the server has settled.
    settled: u64,
}

impl Speaker {
    /// H for a new session; with an outbox if it has an id.
    pub fn hello(outbox: Option<&str>) -> Vec<u8> {
        let mut hello = json!({ "v": 1 });
        if let Some(id) = outbox {
            hello["outbox"] = json!({ "id": id, "gen": 1, "first": 1, "next": 1 });
        }
        format!("H {hello}").into_bytes()
    }

    /// H for a session that W has told of; nothing of its stream is acknowledged.
    ///
    /// # Errors
    /// W without a session.
    pub fn resume(welcome: &[u8]) -> Result<Vec<u8>> {
        let welcome: Value = serde_json::from_slice(welcome).context("W")?;
        let part = |name: &str| welcome[name].as_str().with_context(|| format!("W without {name}"));
        let resume = json!({ "sid": part("sid")?, "tok": part("tok")?, "s": 0, "ch": {} });
        Ok(format!("H {}", json!({ "v": 1, "resume": resume })).into_bytes())
    }

    /// A message of the stream came.
    ///
    /// # Errors
    /// Not the next one.
    pub fn count(&mut self, sequence: u64, bytes: usize, now: u64) -> Result<()> {
        ensure!(sequence == self.received + 1, "M {sequence} came behind M {}", self.received);
        if self.received == self.told {
            self.since = now;
        }
        self.received = sequence;
        self.bytes += bytes;
        Ok(())
    }

    /// Items up to `mark` are settled; `sent` were sent.
    ///
    /// # Errors
    /// More than was sent, or the mark went back.
    pub fn settle(&mut self, mark: u64, sent: u64) -> Result<()> {
        ensure!((self.settled..=sent).contains(&mark), "A {mark}, {} were settled, {sent} sent", self.settled);
        self.settled = mark;
        Ok(())
    }

    /// What an item that is sent now takes along.
    pub fn take(&mut self) -> Option<u64> {
        self.bytes = 0;
        (self.told < self.received).then(|| {
            self.told = self.received;
            self.received
        })
    }

    /// The acknowledgement that is due without an item.
    pub fn due(&mut self, now: u64) -> Option<u64> {
        let open = self.received - self.told;
        let due = open >= MESSAGES || self.bytes >= BYTES || (open > 0 && now >= self.since + DELAY);
        if due { self.take() } else { None }
    }
}

/// The header of an item.
pub fn item_header(out: &mut Vec<u8>, sequence: u64, acknowledged: Option<u64>) {
    // Writing to a vector cannot fail.
    let _ = match acknowledged {
        Some(mark) => writeln!(out, "P {sequence} s={mark}"),
        None => writeln!(out, "P {sequence}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read() {
        let message = Heard::Message { sequence: 12, acknowledged: None, payload: b"a\nb" };
        assert_eq!(hear(b"M 12\na\nb").unwrap(), message);
        let message = Heard::Message { sequence: 3, acknowledged: Some(40), payload: b"" };
        assert_eq!(hear(b"M 3 q=40\n").unwrap(), message);
        assert_eq!(hear(b"C news e 1 m\nx").unwrap(), Heard::Channel(b"x"));
        assert_eq!(hear(b"A 7").unwrap(), Heard::Acknowledged(7));
        assert_eq!(hear(b"I 9").unwrap(), Heard::Beat(b"9"));
        for bad in [b"".as_slice(), b"M x\n", b"M 1", b"G {}", b"N {}"] {
            assert!(hear(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn acknowledgements_are_due_by_count_bytes_and_time() {
        let mut speaker = Speaker::default();
        for sequence in 1..32 {
            speaker.count(sequence, 1, 0).unwrap();
            assert_eq!(speaker.due(0), None);
        }
        speaker.count(32, 1, 0).unwrap();
        assert_eq!((speaker.due(0), speaker.due(0), speaker.take()), (Some(32), None, None));
        speaker.count(33, BYTES, 5).unwrap();
        assert_eq!(speaker.due(5), Some(33));
        speaker.count(34, 1, 6).unwrap();
        assert_eq!((speaker.due(DELAY + 5), speaker.due(DELAY + 6)), (None, Some(34)));
        assert!(speaker.count(36, 1, 0).is_err());
        speaker.settle(2, 3).unwrap();
        assert!(speaker.settle(1, 3).is_err() && speaker.settle(4, 3).is_err());
    }
}
