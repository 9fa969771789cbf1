//! Happy Eyeballs (RFC 8305): several addresses of one name, the first that answers wins.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

/// Head start of each attempt over the next ("Connection Attempt Delay", RFC 8305 section 5).
pub(crate) const STAGGER: Duration = Duration::from_millis(250);

/// What became of each address so far. The caller holds it, so that it survives a timeout.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Vec<(SocketAddr, Option<String>)>);

impl Attempts {
    fn failed(&mut self, address: SocketAddr, error: &dyn Display) {
        if let Some((_, outcome)) = self.0.iter_mut().find(|(tried, _)| *tried == address) {
            *outcome = Some(error.to_string());
        }
    }

    /// Each address that was tried, with its error: `192.0.2.1:80: no answer; [2001:db8::1]:80: refused`.
    pub(crate) fn describe(&self) -> String {
        let texts: Vec<String> = self
            .0
            .iter()
            .map(|(address, outcome)| match outcome {
                Some(error) => format!("{address}: {error}"),
                None => format!("{address}: no answer"),
            })
            .collect();
        texts.join("; ")
    }
}

/// Orders addresses for [`race`]: families take turns, beginning with the family that the resolver
/// prefers (RFC 8305 section 4); within a family the resolver's order stays. Duplicates go.
pub(crate) fn interleave(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut unique: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    let Some(first) = unique.first().copied() else { return unique };
    let (preferred, other): (Vec<_>, Vec<_>) =
        unique.into_iter().partition(|address| address.is_ipv6() == first.is_ipv6());
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = [preferred.next(), other.next()];
        if pair.iter().all(Option::is_none) {
            return ordered;
        }
        ordered.extend(pair.into_iter().flatten());
    }
}

/// Connects to `addresses` in order: the next one starts when the newest has failed or has had
/// [`STAGGER`] to itself. The first success is returned and the others are dropped with their
/// sockets; `None` when all have failed.
pub(crate) async fn race<T, F>(
    addresses: &[SocketAddr],
    attempts: &mut Attempts,
    connect: impl Fn(SocketAddr) -> F,
) -> Option<(SocketAddr, T)>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.iter().copied();
    let mut running = FuturesUnordered::new();
    let mut next_start = Instant::now();
    loop {
        let more = waiting.len() > 0;
        tokio::select! {
            biased;
            Some((address, outcome)) = running.next() => match outcome {
                Ok(connection) => return Some((address, connection)),
                Err(error) => {
                    attempts.failed(address, &error);
                    next_start = Instant::now();
                }
            },
            () = sleep_until(next_start), if more => {
                if let Some(address) = waiting.next() {
                    attempts.0.push((address, None));
                    let connecting = connect(address);
                    running.push(async move { (address, connecting.await) });
                }
                next_start = Instant::now() + STAGGER;
            }
            else => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::io::ErrorKind;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns_beginning_with_the_resolvers_choice() {
        let list = ["[::1]:1", "[::2]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"].map(address);
        let ordered: Vec<String> = interleave(list).iter().map(ToString::to_string).collect();
        assert_eq!(ordered, ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
        let list = ["1.1.1.1:1", "2.2.2.2:1", "[::1]:1"].map(address);
        let ordered: Vec<String> = interleave(list).iter().map(ToString::to_string).collect();
        assert_eq!(ordered, ["1.1.1.1:1", "[::1]:1", "2.2.2.2:1"]);
        assert!(interleave([]).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_gets_its_head_start_and_then_company() {
        let list = ["[::1]:1", "1.1.1.1:1", "[::2]:1"].map(address);
        let begin = Instant::now();
        let started = RefCell::new(Vec::new());
        let mut attempts = Attempts::default();
        let winner = race(&list, &mut attempts, |address| {
            started.borrow_mut().push((address, begin.elapsed()));
            async move {
                if address == list[2] {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    return Ok(7);
                }
                std::future::pending().await
            }
        })
        .await;
        assert_eq!(winner, Some((list[2], 7)));
        assert_eq!(begin.elapsed(), Duration::from_millis(530));
        let expected = [(list[0], 0), (list[1], 250), (list[2], 500)];
        assert_eq!(*started.borrow(), expected.map(|(address, at)| (address, Duration::from_millis(at))));
        assert_eq!(attempts.describe(), "[::1]:1: no answer; 1.1.1.1:1: no answer; [::2]:1: no answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_starts_the_next_at_once() {
        let list = ["[::1]:1", "1.1.1.1:1"].map(address);
        let begin = Instant::now();
        let mut attempts = Attempts::default();
        let winner = race(&list, &mut attempts, |address| async move {
            if address.is_ipv6() { Err(io::Error::from(ErrorKind::ConnectionRefused)) } else { Ok(()) }
        })
        .await;
        assert_eq!(winner, Some((list[1], ())));
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_address_may_still_win_and_the_losers_are_dropped() {
        struct Alive<'a>(&'a Cell<u32>);
        impl Drop for Alive<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        let list = ["[::1]:1", "1.1.1.1:1"].map(address);
        let alive = Cell::new(0);
        let mut attempts = Attempts::default();
        let winner = race(&list, &mut attempts, |address| {
            alive.set(alive.get() + 1);
            let guard = Alive(&alive);
            async move {
                let delay = if address.is_ipv6() { 300 } else { 10_000 };
                tokio::time::sleep(Duration::from_millis(delay)).await;
                drop(guard);
                Ok(())
            }
        })
        .await;
        assert_eq!(winner, Some((list[0], ())));
        assert_eq!(alive.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_each_is_named() {
        let list = ["[::1]:1", "1.1.1.1:1"].map(address);
        let mut attempts = Attempts::default();
        let winner: Option<(SocketAddr, ())> =
            race(&list, &mut attempts, |address| async move { Err(io::Error::other(format!("no {address}"))) }).await;
        assert_eq!(winner, None);
        assert_eq!(attempts.describe(), "[::1]:1: no [::1]:1; 1.1.1.1:1: no 1.1.1.1:1");
    }

    #[tokio::test]
    async fn without_addresses_there_is_no_winner() {
        let mut attempts = Attempts::default();
        assert!(race(&[], &mut attempts, |_| async { Ok(()) }).await.is_none());
    }
}
