//! The account of numbered messages, against servers that lose, repeat, reorder, change and close (tokio-tungstenite).

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use lifeline_load::numbers::{Numbers, Order};
use lifeline_load::pool::Plan;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

/// What the server sends when it gets message `number` of a connection; none: it closes.
type Reply = fn(number: u64, text: &str) -> Option<Vec<String>>;

fn run(reply: Reply, conns: usize, timeout: Duration) -> Value {
    let (address, bound) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
            address.send(listener.local_addr().unwrap()).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut peer = tokio_tungstenite::accept_async(stream).await.unwrap();
                    while let Some(Ok(message)) = peer.next().await {
                        let Message::Text(text) = message else { continue };
                        let number = text.split(' ').next().unwrap().parse().unwrap();
                        let Some(replies) = reply(number, &text) else { return };
                        for reply in replies {
                            if peer.send(Message::text(reply)).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
    });
    let url = format!("ws://{}/", bound.recv().unwrap()).parse().unwrap();
    let numbers = Numbers {
        plan: Plan::new(&url, 0, Duration::from_secs(20)).unwrap(),
        conns,
        window: 4,
        size: 20,
        every: Duration::from_millis(2),
        patience: Duration::from_millis(20),
        timeout,
    };
    // Until each has sent some (what the servers below do is over by then), or none is left.
    let mut asked = Instant::now();
    let mut enough = false;
    let (seen, open) = (std::cell::Cell::new(0), std::cell::Cell::new(conns as u64));
    let order = || {
        if (seen.get() >= 20 * conns as u64 || open.get() == 0) && !enough {
            enough = true;
            return Some(Order::End);
        }
        (asked.elapsed() > Duration::from_millis(5)).then(|| {
            asked = Instant::now();
            Order::Count
        })
    };
    let tell = |report: &Value| {
        seen.set(report["sent"].as_u64().unwrap());
        open.set(report["open"].as_u64().unwrap());
    };
    numbers.run(|| {}, order, tell).unwrap()
}

const LONG: Duration = Duration::from_secs(60);

fn assert_counts(report: &Value, wanted: &[(&str, u64)]) {
    for name in ["closes", "lost", "waiting", "reordered", "duplicates", "unknown", "changed"] {
        let count = wanted.iter().find(|(wanted, _)| *wanted == name).map_or(0, |(_, count)| *count);
        assert_eq!(report[name], count, "{name} in {report}");
    }
}

#[test]
fn an_honest_server_is_found_so() {
    let report = run(|_, text| Some(vec![text.to_owned()]), 5, LONG);
    assert_counts(&report, &[]);
    assert_eq!(report["sent"], report["answered"]);
    assert_eq!(report["open"], 5);
}

#[test]
fn losses_are_counted() {
    let reply: Reply = |number, text| Some(if number == 3 || number == 7 { vec![] } else { vec![text.to_owned()] });
    assert_counts(&run(reply, 5, LONG), &[("lost", 10)]);
}

#[test]
fn a_full_window_that_is_lost_stops_nobody() {
    let reply: Reply = |number, text| Some(if (2..6).contains(&number) { vec![] } else { vec![text.to_owned()] });
    assert_counts(&run(reply, 3, LONG), &[("lost", 12)]);
}

#[test]
fn answers_that_take_longer_than_patience_come_to_an_end() {
    let reply: Reply = |_, text| {
        std::thread::sleep(Duration::from_millis(25));
        Some(vec![text.to_owned()])
    };
    assert_counts(&run(reply, 1, Duration::from_secs(20)), &[]);
}

#[test]
fn order_and_repetition_are_seen() {
    // 3 follows 4, and 6 comes twice.
    let reply: Reply = |number, text| {
        let earlier = text.replacen('4', "3", 1);
        Some(match number {
            3 => vec![],
            4 => vec![text.to_owned(), earlier],
            6 => vec![text.to_owned(), text.to_owned()],
            _ => vec![text.to_owned()],
        })
    };
    // What comes as 3 has the bytes of 4.
    assert_counts(&run(reply, 1, LONG), &[("reordered", 1), ("duplicates", 1), ("changed", 1)]);
}

#[test]
fn changed_and_invented_answers_are_seen() {
    let reply: Reply = |number, text| {
        Some(match number {
            2 => vec![format!("{text}!")],
            5 => vec![text.to_owned(), "1000000 x".to_owned()],
            _ => vec![text.to_owned()],
        })
    };
    let report = run(reply, 1, LONG);
    assert_eq!((&report["changed"], &report["unknown"]), (&2.into(), &1.into()), "{report}");
}

#[test]
fn a_close_is_counted() {
    let reply: Reply = |number, text| (number < 5).then(|| vec![text.to_owned()]);
    let report = run(reply, 2, Duration::from_secs(1));
    assert_eq!((&report["closes"], &report["open"]), (&2.into(), &0.into()), "{report}");
}

#[test]
fn last_answers_that_never_come_are_told() {
    let reply: Reply = |number, text| Some(if number < 10 { vec![text.to_owned()] } else { vec![] });
    let report = run(reply, 1, Duration::from_millis(300));
    assert!(report["waiting"].as_u64() > Some(0), "{report}");
}
