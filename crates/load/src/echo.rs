//! Peers that send messages to an echo server and check every byte that comes back.

use std::collections::VecDeque;
use std::future::pending;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Interval, interval};

use crate::hold::source;
use crate::ws::{Connect, Peer, Url, opcode};

/// What `echo` does.
#[derive(Clone, Debug)]
pub struct Echo {
    /// Where to.
    pub url: Url,
    /// Connections at a time.
    pub conns: usize,
    /// Messages of one connection that may be under way.
    pub window: usize,
    /// Payload of a message, in bytes.
    pub size: usize,
    /// Messages of one connection at most.
    pub messages: u64,
    /// Pause between two messages of one connection.
    pub every: Duration,
    /// Text messages in place of binary ones.
    pub text: bool,
    /// Own addresses, 127.0.0.2 and on; 0: the kernel chooses.
    pub sources: u8,
    /// For all of it.
    pub timeout: Duration,
}

impl Echo {
    /// Sends and checks all; `ready` is called when all are open, `ended` may end it early.
    ///
    /// # Errors
    /// A message that came back changed, out of order or not at all.
    pub async fn run(self, ready: impl FnOnce(), ended: impl Future<Output = ()>) -> Result<Value> {
        let timeout = self.timeout;
        let (end, ends) = watch::channel(false);
        let talk = tokio::time::timeout(timeout, self.talk(ready, ends));
        let stop = async {
            ended.await;
            end.send_replace(true);
            pending::<Result<Value>>().await
        };
        tokio::select! {
            report = talk => report.with_context(|| format!("not done after {timeout:?}"))?,
            never = stop => never,
        }
    }

    async fn talk(self, ready: impl FnOnce(), ends: watch::Receiver<bool>) -> Result<Value> {
        let mut opening = JoinSet::new();
        for number in 0..self.conns {
            let mut connect = Connect::new(self.url.clone());
            connect.source = source(self.sources, number);
            connect.timeout = self.timeout;
            opening.spawn(async move { connect.open().await.with_context(|| format!("connection {number}")) });
        }
        let mut peers = Vec::new();
        while let Some(peer) = opening.join_next().await {
            peers.push(peer??);
        }
        ready();
        let mut talks = JoinSet::new();
        let start = Instant::now();
        for (number, peer) in peers.into_iter().enumerate() {
            let (echo, ends) = (self.clone(), ends.clone());
            talks.spawn(
                async move { echo.one(peer, number, ends).await.with_context(|| format!("connection {number}")) },
            );
        }
        let mut delays = Vec::new();
        while let Some(talk) = talks.join_next().await {
            delays.append(&mut talk??);
        }
        let seconds = start.elapsed().as_secs_f64();
        delays.sort_unstable();
        Ok(json!({
            "conns": self.conns,
            "messages": delays.len(),
            "bytes": delays.len() * self.size,
            "seconds": seconds,
            "messages_per_second": delays.len() as f64 / seconds,
            "delay": percentiles(&delays),
        }))
    }

    async fn one(&self, mut peer: Peer, number: usize, mut ends: watch::Receiver<bool>) -> Result<Vec<Duration>> {
        let kind = if self.text { opcode::TEXT } else { opcode::BINARY };
        let mut under_way = VecDeque::new();
        let mut sent = 0;
        let mut delays = Vec::new();
        let mut message = Vec::new();
        let mut clock = (!self.every.is_zero()).then(|| interval(self.every));
        loop {
            let over = sent >= self.messages || *ends.borrow_and_update();
            if over && under_way.is_empty() {
                break;
            }
            if !over && clock.is_none() {
                while sent < self.messages && under_way.len() < self.window {
                    self.send(&mut peer, kind, number, &mut sent, &mut under_way);
                }
            }
            let may_send = !over && under_way.len() < self.window;
            let frame = tokio::select! {
                () = tick(&mut clock), if may_send => {
                    self.send(&mut peer, kind, number, &mut sent, &mut under_way);
                    continue;
                }
                changed = ends.changed(), if !over => {
                    changed?;
                    continue;
                }
                frame = peer.next() => frame?.context("end of stream")?,
            };
            let expected = if message.is_empty() { kind } else { opcode::CONTINUATION };
            match frame.opcode {
                opcode::PING => peer.put(true, opcode::PONG, &frame.payload),
                opcode::PONG => {}
                opcode::CLOSE => bail!("closed with {:?} after {} messages", frame.close(), delays.len()),
                got => {
                    ensure!(got == expected, "opcode {got} in place of {expected}");
                    message.extend_from_slice(&frame.payload);
                    if frame.fin {
                        let sequence = delays.len() as u64;
                        let wanted = payload(number as u64, sequence, self.size, self.text);
                        ensure!(message == wanted, "message {sequence} came back changed");
                        message.clear();
                        delays.push(under_way.pop_front().context("more came back than was sent")?.elapsed());
                    }
                }
            }
        }
        peer.put_close(1000);
        while let Some(frame) = peer.next().await? {
            match frame.opcode {
                opcode::CLOSE => return Ok(delays),
                opcode::PING | opcode::PONG => {}
                _ => bail!("more came back than was sent"),
            }
        }
        bail!("the close frame was not answered");
    }

    fn send(&self, peer: &mut Peer, kind: u8, number: usize, sent: &mut u64, under_way: &mut VecDeque<Instant>) {
        peer.put(true, kind, &payload(number as u64, *sent, self.size, self.text));
        under_way.push_back(Instant::now());
        *sent += 1;
    }
}

/// The next beat of a clock; never without one.
async fn tick(clock: &mut Option<Interval>) {
    match clock {
        Some(clock) => drop(clock.tick().await),
        None => pending().await,
    }
}

/// The bytes of one message: another stream for each connection and message (splitmix64).
pub fn payload(connection: u64, sequence: u64, size: usize, text: bool) -> Vec<u8> {
    let mut state = connection.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ sequence.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_be_bytes());
    }
    bytes.truncate(size);
    if text {
        for byte in &mut bytes {
            *byte = b' ' + *byte % 95;
        }
    }
    bytes
}

/// Median, 99th percentile and maximum of sorted times, in seconds.
pub(crate) fn percentiles(sorted: &[Duration]) -> Value {
    let at = |share: f64| {
        let index = (sorted.len() as f64 * share) as usize;
        sorted.get(index.min(sorted.len().saturating_sub(1))).map_or(0.0, Duration::as_secs_f64)
    };
    json!({ "p50": at(0.5), "p99": at(0.99), "max": at(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_differ_and_text_is_text() {
        assert_ne!(payload(0, 1, 16, false), payload(1, 0, 16, false));
        assert_ne!(payload(0, 0, 16, false), payload(0, 1, 16, false));
        assert_eq!(payload(3, 4, 13, false).len(), 13);
        assert!(payload(3, 4, 1000, true).iter().all(|byte| (b' '..=b'~').contains(byte)));
    }

    #[test]
    fn percentiles_of_few_and_many() {
        assert_eq!(percentiles(&[])["max"], 0.0);
        let times: Vec<_> = (1..=100).map(Duration::from_secs).collect();
        assert_eq!(percentiles(&times), json!({ "p50": 51.0, "p99": 100.0, "max": 100.0 }));
    }
}
