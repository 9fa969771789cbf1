//! Connections that come and go: connect, upgrade, close.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::task::JoinSet;

use crate::echo::percentiles;
use crate::hold::source;
use crate::ws::{Connect, Url, opcode};

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Close frames both ways, then the server's FIN.
    Close,
    /// FIN without a word.
    Fin,
    /// RST without a word.
    Reset,
}

impl FromStr for Ending {
    type Err = BadEnding;

    fn from_str(word: &str) -> Result<Self, BadEnding> {
        match word {
            "close" => Ok(Self::Close),
            "fin" => Ok(Self::Fin),
            "reset" => Ok(Self::Reset),
            _ => Err(BadEnding(word.to_owned())),
        }
    }
}

/// What is not an [`Ending`].
#[derive(Debug)]
pub struct BadEnding(String);

impl std::fmt::Display for BadEnding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown ending '{}'; known are close, fin, reset", self.0)
    }
}

impl std::error::Error for BadEnding {}

/// What `churn` does.
#[derive(Clone, Debug)]
pub struct Churn {
    /// Where to.
    pub url: Url,
    /// Connections in all.
    pub connects: u64,
    /// Connections at a time.
    pub concurrency: usize,
    /// How each ends.
    pub ending: Ending,
    /// Own addresses, 127.0.0.2 and on; 0: the kernel chooses.
    pub sources: u8,
}

impl Churn {
    /// Opens and closes all; a failed one is counted by its reason and does not end the run.
    ///
    /// # Errors
    /// None of the network's.
    pub async fn run(self) -> Result<Value> {
        let next = Arc::new(AtomicU64::new(0));
        let mut workers = JoinSet::new();
        let start = Instant::now();
        for _ in 0..self.concurrency {
            let (churn, next) = (self.clone(), Arc::clone(&next));
            workers.spawn(async move {
                let mut times = Vec::new();
                let mut failed = BTreeMap::<String, u64>::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= churn.connects {
                        return (times, failed);
                    }
                    match churn.one(number as usize).await {
                        Ok(time) => times.push(time),
                        Err(error) => *failed.entry(format!("{error:#}")).or_default() += 1,
                    }
                }
            });
        }
        let mut times = Vec::new();
        let mut failed = BTreeMap::<String, u64>::new();
        while let Some(worker) = workers.join_next().await {
            let (mut some, failures) = worker?;
            times.append(&mut some);
            for (reason, count) in failures {
                *failed.entry(reason).or_default() += count;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        times.sort_unstable();
        Ok(json!({
            "connects": times.len(),
            "failed": failed,
            "seconds": seconds,
            "connects_per_second": times.len() as f64 / seconds,
            "handshake": percentiles(&times),
        }))
    }

    async fn one(&self, number: usize) -> Result<Duration> {
        let mut connect = Connect::new(self.url.clone());
        connect.source = source(self.sources, number);
        let start = Instant::now();
        let mut peer = connect.open().await?;
        let time = start.elapsed();
        match self.ending {
            Ending::Close => {
                peer.put_close(1000);
                tokio::time::timeout(Duration::from_secs(10), async {
                    let mut code = None;
                    while let Some(frame) = peer.next().await.context("close")? {
                        if frame.opcode == opcode::CLOSE {
                            code = Some(frame.close().0);
                        }
                    }
                    ensure!(code == Some(1000), "closed with {code:?} in place of 1000");
                    Ok(())
                })
                .await
                .context("no end of stream after close")??;
            }
            Ending::Fin => drop(peer),
            Ending::Reset => {
                if SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).is_err() {
                    bail!("cannot reset");
                }
            }
        }
        Ok(time)
    }
}
