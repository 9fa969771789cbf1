//! What the admin listener tells programs: figures as JSON, their recent past, and the open connections.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::bridge::{ConnId, Stat, Stats};

/// Between two samples.
pub const EVERY: Duration = Duration::from_secs(2);
/// Samples that are kept: ten minutes.
pub const KEPT: usize = 300;
/// What a sample has, as paths into the figures. The first is its time.
pub const FIELDS: [&str; 22] = [
    "uptime",
    "connections.open",
    "connections.handshaking",
    "connections.dead",
    "messages.in",
    "messages.out",
    "messages.dropped",
    "bytes.in",
    "bytes.out",
    "watchdog.lag",
    "rtt.median",
    "rtt.high",
    "memory.connections",
    "memory.sending",
    "memory.shared",
    "memory.inbound",
    "memory.sessions",
    "memory.other",
    "sessions.count",
    "sessions.gaps",
    "channels",
    "users",
];
/// Connections of one answer, where the question names no number, and at most.
pub const PAGE: usize = 100;
pub const LARGEST_PAGE: usize = 1000;

type Sample = [f64; FIELDS.len()];

/// The figures of the last minutes.
#[derive(Debug, Default)]
pub struct History {
    samples: Mutex<VecDeque<Sample>>,
}

impl History {
    /// Whether the newest sample is older than [`EVERY`].
    pub fn is_due(&self, uptime: Duration) -> bool {
        // Ticks are a little late or early.
        let due = EVERY.as_secs_f64() * 0.75;
        self.samples.lock().back().is_none_or(|last| uptime.as_secs_f64() - last[0] >= due)
    }

    /// Takes what is of interest from the figures.
    pub fn add(&self, stats: &Stats) {
        let sample = FIELDS.map(|path| number(stats, path));
        let mut samples = self.samples.lock();
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// Those later than `since`, in order.
    fn since(&self, since: f64) -> Vec<Sample> {
        self.samples.lock().iter().filter(|sample| sample[0] > since).copied().collect()
    }
}

/// What is known of a server beside its figures.
#[derive(Debug, Clone)]
pub struct About {
    pub addresses: Vec<Arc<str>>,
    pub ready: bool,
    pub stopping: bool,
    /// Seconds since 1970.
    pub started: f64,
}

/// `GET /status.json?since=uptime`.
#[must_use]
pub fn status(about: &About, stats: &Stats, history: &History, since: f64) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "started": about.started,
        "ready": about.ready,
        "stopping": about.stopping,
        "addresses": about.addresses.iter().map(|url| &**url).collect::<Vec<_>>(),
        "stats": tree(stats),
        "history": {
            "every": EVERY.as_secs(),
            "kept": KEPT,
            "fields": FIELDS,
            "samples": history.since(since).iter().map(<[f64; FIELDS.len()]>::as_slice).collect::<Vec<_>>(),
        },
    })
}

/// An open connection, for people. The request's query and headers, which may hold secrets, are not told.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    pub id: ConnId,
    pub remote: String,
    pub path: String,
    pub user: Option<Arc<str>>,
    pub lifeline: bool,
    pub age: Duration,
    /// Since the last message of the application, either way.
    pub idle: Duration,
    pub rtt: Option<Duration>,
    pub messages_in: u64,
    pub messages_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub dropped: u64,
    /// Bytes that wait for the peer, and for PHP.
    pub buffered: usize,
    pub inbound: usize,
    pub channels: usize,
}

/// `GET /connections.json?limit=&after=`: those with ids above `after`, in order.
#[must_use]
pub fn connections(page: &[ConnectionInfo], more: bool, total: usize) -> Value {
    let one = |info: &ConnectionInfo| {
        json!({
            "id": info.id.0,
            "remote": info.remote,
            "path": info.path,
            "user": info.user.as_deref(),
            "lifeline": info.lifeline,
            "age": info.age.as_secs_f64(),
            "idle": info.idle.as_secs_f64(),
            "rtt": info.rtt.map(|rtt| rtt.as_secs_f64()),
            "messagesIn": info.messages_in,
            "messagesOut": info.messages_out,
            "bytesIn": info.bytes_in,
            "bytesOut": info.bytes_out,
            "dropped": info.dropped,
            "buffered": info.buffered,
            "inbound": info.inbound,
            "channels": info.channels,
        })
    };
    let next = page.last().filter(|_| more).map(|last| last.id.0);
    json!({ "total": total, "connections": page.iter().map(one).collect::<Vec<_>>(), "next": next })
}

/// The first `limit` of the ids above `after`, in order, and whether there are more.
#[must_use]
pub fn page(ids: impl Iterator<Item = ConnId>, after: u64, limit: usize) -> (Vec<ConnId>, bool) {
    let mut ids: Vec<ConnId> = ids.filter(|id| id.0 > after).collect();
    let more = ids.len() > limit;
    if more {
        // Only the page is sorted.
        ids.select_nth_unstable(limit);
        ids.truncate(limit);
    }
    ids.sort_unstable();
    (ids, more)
}

/// Round-trip times, of `micros` that were measured.
#[must_use]
pub fn round_trips(mut micros: Vec<u32>) -> Stats {
    let count = micros.len();
    let mut at = |part: f64| {
        if count == 0 {
            return Stat::Float(0.0);
        }
        let index = (((count as f64) * part) as usize).min(count - 1);
        let (_, value, _) = micros.select_nth_unstable(index);
        Stat::Float(f64::from(*value) / 1e6)
    };
    let (median, high, most) = (at(0.5), at(0.95), at(1.0));
    Stats(vec![
        ("measured".into(), Stat::Int(i64::try_from(count).unwrap_or(i64::MAX))),
        ("median".into(), median),
        ("high".into(), high),
        ("most".into(), most),
    ])
}

fn value(stat: &Stat) -> Value {
    match stat {
        Stat::Int(value) => json!(value),
        Stat::Float(value) => json!(value),
        Stat::Flag(value) => json!(value),
        Stat::Text(value) => json!(value),
        Stat::Tree(stats) => tree(stats),
        Stat::List(list) => list.iter().map(value).collect(),
        Stat::None => Value::Null,
    }
}

fn tree(stats: &Stats) -> Value {
    Value::Object(stats.0.iter().map(|(key, stat)| (key.to_string(), value(stat))).collect::<Map<_, _>>())
}

/// What a path leads to, 0 where that is no number.
fn number(stats: &Stats, path: &str) -> f64 {
    let (key, rest) = path.split_once('.').unwrap_or((path, ""));
    match stats.0.iter().find(|(name, _)| name == key).map(|(_, stat)| stat) {
        Some(Stat::Tree(tree)) => number(tree, rest),
        Some(Stat::Int(value)) => *value as f64,
        Some(Stat::Float(value)) => *value,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(uptime: f64, open: i64) -> Stats {
        let tree = Stats(vec![("open".into(), Stat::Int(open)), ("why".into(), Stat::Text("\"<".into()))]);
        Stats(vec![
            ("uptime".into(), Stat::Float(uptime)),
            ("connections".into(), Stat::Tree(tree)),
            ("admin".into(), Stat::None),
            ("users".into(), Stat::Float(f64::NAN)),
        ])
    }

    #[test]
    fn the_past_is_bounded_and_told_from_where_one_knows_it() {
        let history = History::default();
        assert!(history.is_due(Duration::ZERO));
        for (open, index) in (0..).zip(0..KEPT + 5) {
            history.add(&figures(index as f64 * 2.0, open));
        }
        let newest = (KEPT + 4) as f64 * 2.0;
        assert!(!history.is_due(Duration::from_secs_f64(newest + 1.0)));
        assert!(history.is_due(Duration::from_secs_f64(newest + 1.9)));
        assert_eq!(history.since(-1.0).len(), KEPT);
        assert_eq!(history.since(-1.0)[0][..2].to_vec(), vec![10.0, 5.0]);
        let late = history.since(newest - 4.0);
        assert_eq!(late.iter().map(|sample| sample[0]).collect::<Vec<_>>(), [newest - 2.0, newest]);
        let about = About { addresses: vec!["ws://a:1".into()], ready: true, stopping: false, started: 1.5 };
        let told = status(&about, &figures(1.0, 7), &history, newest - 2.0);
        assert_eq!(
            told["stats"],
            json!({"uptime": 1.0, "connections": {"open": 7, "why": "\"<"}, "admin": null, "users": null})
        );
        assert_eq!(told["history"]["samples"].as_array().unwrap().len(), 1);
        assert_eq!(told["history"]["samples"][0].as_array().unwrap().len(), FIELDS.len());
        assert_eq!(told["addresses"], json!(["ws://a:1"]));
        // What a page loads at first.
        let all = status(&about, &figures(1.0, 7), &history, 0.0).to_string();
        assert!(all.len() < 64 * 1024, "{} bytes", all.len());
    }

    #[test]
    fn pages_have_every_connection_once() {
        let ids = || [9, 2, 7, 4, 3].map(ConnId).into_iter();
        let numbers = |after, limit| {
            let (ids, more) = page(ids(), after, limit);
            (ids.iter().map(|id| id.0).collect::<Vec<_>>(), more)
        };
        assert_eq!(numbers(0, 2), (vec![2, 3], true));
        assert_eq!(numbers(3, 2), (vec![4, 7], true));
        assert_eq!(numbers(7, 2), (vec![9], false));
        assert_eq!(numbers(9, 2), (vec![], false));
        assert_eq!(numbers(0, 5).0.len(), 5);
        assert!(!numbers(0, 5).1);
    }

    #[test]
    fn round_trips_are_told_by_their_ranks() {
        let told = |micros: Vec<u32>| {
            let stats = round_trips(micros);
            ["measured", "median", "high", "most"].map(|key| (number(&stats, key) * 1e3).round() as u64)
        };
        assert_eq!(told(vec![]), [0; 4]);
        assert_eq!(told(vec![5000]), [1000, 5, 5, 5]);
        assert_eq!(told((1..=100).rev().map(|ms| ms * 1000).collect()), [100_000, 51, 96, 100]);
    }
}
