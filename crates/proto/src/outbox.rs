//! A client's unsent and unacknowledged messages, in memory, in order.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::Time;

/// What happens to a message that finds the outbox full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverflowPolicy {
    /// The call fails.
    #[default]
    Error,
    /// The caller waits for room.
    Block,
    /// The oldest that are not being written make room; where those do not suffice the new one goes.
    DropOldest,
    /// The new message goes.
    DropNewest,
}

/// The options `outbox.*` of the memory outbox.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxConfig {
    /// Messages.
    pub limit: usize,
    /// Bytes of payload.
    pub bytes: usize,
    pub overflow: OverflowPolicy,
    /// How long `block` waits; `None`: until there is room.
    pub block_timeout: Option<Duration>,
    /// Default time to live; `None`: for ever.
    pub ttl: Option<Duration>,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            limit: 10_000,
            bytes: 16 * 1024 * 1024,
            overflow: OverflowPolicy::Error,
            block_timeout: None,
            ttl: Some(Duration::from_secs(300)),
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub sequence: u64,
    pub data: Bytes,
    pub binary: bool,
    /// `None`: never.
    pub expires: Option<Time>,
}

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushOutcome {
    /// The message's number: 1, 2, 3, …
    pub sequence: u64,
    /// Dropped by the overflow policy, in order; may be the message itself.
    pub evicted: Vec<Item>,
}

/// There is no room. No sequence number was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Too many bytes of payload wait.
    #[error("the outbox is full: {len} bytes do not fit beside the {held} that wait, outbox.bytes is {limit}")]
    Bytes { len: usize, held: usize, limit: usize },
    /// The message alone is over the limit; waiting does not help.
    #[error("a message of {len} bytes never fits the outbox, outbox.bytes is {limit}")]
    MessageTooBig { len: usize, limit: usize },
    /// Too many messages wait.
    #[error("the outbox is full: {limit} messages wait, outbox.limit is {limit}")]
    Messages { limit: usize },
}

/// A client's messages from `send()` until they are acknowledged (plain peer: written to the socket).
///
/// Messages wait, are in flight once handed out, and leave when acknowledged. Losing the connection
/// puts those in flight back. Messages in flight neither expire nor are evicted.
#[derive(Debug)]
pub struct MemoryOutbox {
    config: OutboxConfig,
    last_sequence: u64,
    in_flight: VecDeque<Item>,
    waiting: VecDeque<Item>,
    /// From this number on nothing is handed out.
    ceiling: u64,
    /// Of `waiting`.
    expiries: BTreeSet<(Time, u64)>,
    /// Found expired on the way out, to be reported by [`MemoryOutbox::expire`].
    expired: Vec<Item>,
    bytes: usize,
}

impl MemoryOutbox {
    #[must_use]
    pub fn new(config: OutboxConfig) -> Self {
        Self {
            config,
            last_sequence: 0,
            in_flight: VecDeque::new(),
            waiting: VecDeque::new(),
            ceiling: u64::MAX,
            expiries: BTreeSet::new(),
            expired: Vec::new(),
            bytes: 0,
        }
    }

    /// Appends a message. `ttl` overrides the configured time to live.
    ///
    /// # Errors
    /// [`Full`] where the policy is `error` or `block` (the caller may wait until
    /// [`MemoryOutbox::has_room`]), and in any policy for a message that can never fit.
    pub fn push(&mut self, now: Time, data: Bytes, binary: bool, ttl: Option<Duration>) -> Result<PushOutcome, Full> {
        let OutboxConfig { limit, bytes, overflow, .. } = self.config;
        let len = data.len();
        if len > bytes {
            return Err(Full::MessageTooBig { len, limit: bytes });
        }
        let mut evicted = Vec::new();
        let mut dropped = false;
        if !self.has_room(len) {
            match overflow {
                OverflowPolicy::Error | OverflowPolicy::Block if self.len() >= limit => {
                    return Err(Full::Messages { limit });
                }
                OverflowPolicy::Error | OverflowPolicy::Block => {
                    return Err(Full::Bytes { len, held: self.bytes, limit: bytes });
                }
                OverflowPolicy::DropOldest => match self.enough_to_evict(len) {
                    Some(count) => evicted = self.evict(count),
                    None => dropped = true,
                },
                OverflowPolicy::DropNewest => dropped = true,
            }
        }
        self.last_sequence += 1;
        let expires = ttl.or(self.config.ttl).map(|ttl| now + ttl).filter(|at| *at < END_OF_TIME);
        let item = Item { sequence: self.last_sequence, data, binary, expires };
        if dropped {
            evicted.push(item);
        } else {
            self.bytes += len;
            self.expiries.extend(item.expires.map(|at| (at, item.sequence)));
            self.waiting.push_back(item);
        }
        Ok(PushOutcome { sequence: self.last_sequence, evicted })
    }

    /// Takes in a message of an earlier process, behind all others. It may be over the limits.
    pub fn restore(&mut self, item: Item) {
        self.last_sequence = self.last_sequence.max(item.sequence);
        self.bytes += item.data.len();
        self.expiries.extend(item.expires.map(|at| (at, item.sequence)));
        self.waiting.push_back(item);
    }

    /// The numbers up to this were given by an earlier process.
    pub fn restore_sequence(&mut self, last: u64) {
        self.last_sequence = self.last_sequence.max(last);
    }

    /// Messages from this number on are not handed out: they are not stored yet, or belong to another
    /// connection.
    pub fn set_ceiling(&mut self, sequence: u64) {
        self.ceiling = sequence;
    }

    /// Takes back the messages from this number on, which were not handed out; the numbers are given again.
    pub fn withdraw(&mut self, from: u64) {
        while self.waiting.back().is_some_and(|item| item.sequence >= from)
            && let Some(item) = self.waiting.pop_back()
        {
            self.bytes -= item.data.len();
            if let Some(at) = item.expires {
                self.expiries.remove(&(at, item.sequence));
            }
        }
        self.expired.retain(|item| item.sequence < from);
        self.last_sequence = from - 1;
    }

    /// All that is in it, in order.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.in_flight.iter().chain(&self.waiting)
    }

    /// The oldest message that waits, which is in flight from now on. Expired ones are passed over and
    /// reported by [`MemoryOutbox::expire`].
    pub fn next_to_send(&mut self, now: Time) -> Option<Item> {
        while self.has_waiting()
            && let Some(item) = self.waiting.pop_front()
        {
            if let Some(at) = item.expires {
                self.expiries.remove(&(at, item.sequence));
                if at <= now {
                    self.bytes -= item.data.len();
                    self.expired.push(item);
                    continue;
                }
            }
            self.in_flight.push_back(item.clone());
            return Some(item);
        }
        None
    }

    /// Everything up to and with `sequence` has been acknowledged: what is in flight, and what was when
    /// the connection was lost, whose last bytes may leave after that.
    pub fn handle_written(&mut self, sequence: u64) {
        while self.in_flight.front().is_some_and(|item| item.sequence <= sequence) {
            self.bytes -= self.in_flight.pop_front().map_or(0, |item| item.data.len());
        }
        while self.waiting.front().is_some_and(|item| item.sequence <= sequence) {
            let Some(item) = self.waiting.pop_front() else { break };
            self.bytes -= item.data.len();
            if let Some(at) = item.expires {
                self.expiries.remove(&(at, item.sequence));
            }
        }
    }

    /// The connection is gone: what was in flight waits again, first in order.
    pub fn handle_lost(&mut self) {
        while let Some(item) = self.in_flight.pop_back() {
            self.expiries.extend(item.expires.map(|at| (at, item.sequence)));
            self.waiting.push_front(item);
        }
    }

    /// The peer refused `sequence` for now: it and what is in flight behind it waits again, first in order.
    pub fn handle_resend(&mut self, sequence: u64) {
        while self.in_flight.back().is_some_and(|item| item.sequence >= sequence) {
            let Some(item) = self.in_flight.pop_back() else { break };
            self.expiries.extend(item.expires.map(|at| (at, item.sequence)));
            self.waiting.push_front(item);
        }
    }

    /// Takes out the message that the peer refused for good.
    pub fn handle_rejected(&mut self, sequence: u64) -> Option<Item> {
        let find = |items: &VecDeque<Item>| items.binary_search_by_key(&sequence, |item| item.sequence);
        let item = if let Ok(index) = find(&self.in_flight) {
            self.in_flight.remove(index)?
        } else {
            let index = find(&self.waiting).ok()?;
            self.waiting.remove(index)?
        };
        self.expiries.retain(|(_, expiring)| *expiring != sequence);
        self.bytes -= item.data.len();
        Some(item)
    }

    #[must_use]
    pub fn contains(&self, sequence: u64) -> bool {
        let has = |items: &VecDeque<Item>| items.binary_search_by_key(&sequence, |item| item.sequence).is_ok();
        has(&self.in_flight) || has(&self.waiting)
    }

    /// The oldest message that is not acknowledged; the next one's number when there is none.
    #[must_use]
    pub fn first_sequence(&self) -> u64 {
        let first = |items: &VecDeque<Item>| items.front().map(|item| item.sequence);
        first(&self.in_flight).or_else(|| first(&self.waiting)).unwrap_or(self.last_sequence + 1)
    }

    /// Takes out what has outlived its time to live, in order.
    pub fn expire(&mut self, now: Time) -> Vec<Item> {
        let mut expired = std::mem::take(&mut self.expired);
        if self.expiries.first().is_some_and(|(at, _)| *at <= now) {
            self.waiting.retain(|item| {
                let Some(at) = item.expires.filter(|at| *at <= now) else { return true };
                self.expiries.remove(&(at, item.sequence));
                self.bytes -= item.data.len();
                expired.push(item.clone());
                false
            });
        }
        expired.sort_unstable_by_key(|item| item.sequence);
        expired
    }

    /// Takes out everything, in order: the client closes.
    pub fn drain_all(&mut self) -> Vec<Item> {
        self.expiries.clear();
        self.bytes = 0;
        let mut items = std::mem::take(&mut self.expired);
        items.extend(self.in_flight.drain(..));
        items.extend(self.waiting.drain(..));
        items.sort_unstable_by_key(|item| item.sequence);
        items
    }

    /// When [`MemoryOutbox::expire`] wants to be called next.
    #[must_use]
    pub fn poll_expiry(&self) -> Option<Time> {
        if self.expired.is_empty() { self.expiries.first().map(|(at, _)| *at) } else { Some(Time::ZERO) }
    }

    /// Whether a message of `len` bytes fits now.
    #[must_use]
    pub fn has_room(&self, len: usize) -> bool {
        self.len() < self.config.limit && self.bytes.saturating_add(len) <= self.config.bytes
    }

    /// Messages that wait or are in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.in_flight.len() + self.waiting.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether [`MemoryOutbox::next_to_send`] has something to look at.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.waiting.front().is_some_and(|item| item.sequence < self.ceiling)
    }

    /// Number and length of the oldest message that waits.
    #[must_use]
    pub fn first_waiting(&self) -> Option<(u64, usize)> {
        let first = self.waiting.front().filter(|item| item.sequence < self.ceiling);
        first.map(|item| (item.sequence, item.data.len()))
    }

    /// Bytes of payload that wait or are in flight.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages accepted and not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.len()
    }

    /// The number of the last message accepted; 0: none yet.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// How many of the oldest waiting must go for `len` bytes to fit; `None`: all would not do.
    fn enough_to_evict(&self, len: usize) -> Option<usize> {
        let (mut count, mut bytes) = (self.len(), self.bytes.saturating_add(len));
        for (evicted, item) in self.waiting.iter().enumerate() {
            if count < self.config.limit && bytes <= self.config.bytes {
                return Some(evicted);
            }
            count -= 1;
            bytes -= item.data.len();
        }
        (count < self.config.limit && bytes <= self.config.bytes).then_some(self.waiting.len())
    }

    fn evict(&mut self, count: usize) -> Vec<Item> {
        let evicted: Vec<_> = self.waiting.drain(..count).collect();
        for item in &evicted {
            self.bytes -= item.data.len();
            if let Some(at) = item.expires {
                self.expiries.remove(&(at, item.sequence));
            }
        }
        evicted
    }
}

/// A deadline that saturated.
const END_OF_TIME: Time = Time::from_micros(u64::MAX);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn outbox(limit: usize, bytes: usize, overflow: OverflowPolicy) -> MemoryOutbox {
        MemoryOutbox::new(OutboxConfig { limit, bytes, overflow, ttl: None, block_timeout: None })
    }

    fn push(outbox: &mut MemoryOutbox, data: &'static str) -> Result<(u64, Vec<u64>), Full> {
        outbox
            .push(Time::ZERO, Bytes::from_static(data.as_bytes()), false, None)
            .map(|outcome| (outcome.sequence, sequences(&outcome.evicted)))
    }

    fn sequences(items: &[Item]) -> Vec<u64> {
        items.iter().map(|item| item.sequence).collect()
    }

    fn next(outbox: &mut MemoryOutbox) -> Option<u64> {
        outbox.next_to_send(Time::ZERO).map(|item| item.sequence)
    }

    #[test]
    fn order_acknowledgement_and_loss() {
        let mut outbox = outbox(10, 100, OverflowPolicy::Error);
        assert_eq!(push(&mut outbox, "a"), Ok((1, vec![])));
        assert_eq!(push(&mut outbox, "bb"), Ok((2, vec![])));
        assert_eq!(push(&mut outbox, "ccc"), Ok((3, vec![])));
        assert_eq!([next(&mut outbox), next(&mut outbox)], [Some(1), Some(2)]);
        outbox.handle_written(1);
        assert_eq!((outbox.len(), outbox.bytes()), (2, 5));
        outbox.handle_lost();
        assert_eq!([next(&mut outbox), next(&mut outbox), next(&mut outbox)], [Some(2), Some(3), None]);
        outbox.handle_written(9);
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes(), 0);
        assert_eq!(push(&mut outbox, "d"), Ok((4, vec![])));
    }

    #[test]
    fn what_left_after_the_loss_is_not_sent_again() {
        let config = OutboxConfig { ttl: Some(Duration::from_secs(10)), ..OutboxConfig::default() };
        let mut outbox = MemoryOutbox::new(config);
        for data in ["a", "b", "c"] {
            push(&mut outbox, data).unwrap();
        }
        assert_eq!([next(&mut outbox), next(&mut outbox)], [Some(1), Some(2)]);
        outbox.handle_lost();
        outbox.handle_written(1);
        assert_eq!((outbox.len(), outbox.bytes()), (2, 2));
        assert_eq!(sequences(&outbox.expire(Time::from_micros(u64::MAX))), [2, 3]);
    }

    #[test]
    fn what_the_peer_refuses() {
        let config = OutboxConfig { ttl: Some(Duration::from_secs(10)), ..OutboxConfig::default() };
        let mut outbox = MemoryOutbox::new(config);
        for data in ["a", "bb", "ccc", "dddd"] {
            push(&mut outbox, data).unwrap();
        }
        assert_eq!(outbox.first_sequence(), 1);
        assert_eq!([next(&mut outbox), next(&mut outbox), next(&mut outbox)], [Some(1), Some(2), Some(3)]);
        // For now: it and what is behind it goes again, what is before it does not.
        outbox.handle_resend(2);
        assert_eq!(next(&mut outbox), Some(2));
        // For good: in flight or waiting.
        assert_eq!(outbox.handle_rejected(2).map(|item| item.sequence), Some(2));
        assert_eq!(outbox.handle_rejected(4).map(|item| item.sequence), Some(4));
        assert_eq!(outbox.handle_rejected(4), None);
        assert_eq!((outbox.len(), outbox.bytes(), outbox.first_sequence()), (2, 4, 1));
        outbox.handle_written(1);
        assert_eq!(outbox.first_sequence(), 3);
        assert_eq!(sequences(&outbox.expire(Time::from_micros(10_000_000))), [3]);
        assert_eq!((outbox.poll_expiry(), outbox.first_sequence()), (None, 5));
    }

    #[test]
    fn a_full_outbox_names_its_limit() {
        for policy in [OverflowPolicy::Error, OverflowPolicy::Block] {
            let mut outbox = outbox(2, 5, policy);
            assert_eq!(push(&mut outbox, "abc"), Ok((1, vec![])));
            let full = push(&mut outbox, "def").unwrap_err();
            assert_eq!(full, Full::Bytes { len: 3, held: 3, limit: 5 });
            assert!(full.to_string().contains("outbox.bytes is 5"));
            assert_eq!(push(&mut outbox, "d"), Ok((2, vec![])));
            let full = push(&mut outbox, "").unwrap_err();
            assert_eq!(full, Full::Messages { limit: 2 });
            assert!(full.to_string().contains("outbox.limit is 2"));
            assert!(!outbox.has_room(0));
        }
        for policy in
            [OverflowPolicy::Error, OverflowPolicy::Block, OverflowPolicy::DropOldest, OverflowPolicy::DropNewest]
        {
            let mut outbox = outbox(2, 5, policy);
            let full = push(&mut outbox, "abcdef").unwrap_err();
            assert_eq!(full, Full::MessageTooBig { len: 6, limit: 5 });
            assert_eq!(push(&mut outbox, "abcde"), Ok((1, vec![])));
        }
    }

    #[test]
    fn drop_oldest_spares_what_is_in_flight() {
        let mut outbox = outbox(3, 6, OverflowPolicy::DropOldest);
        for data in ["aa", "b", "cc"] {
            push(&mut outbox, data).unwrap();
        }
        assert_eq!(next(&mut outbox), Some(1));
        assert_eq!(push(&mut outbox, "dd"), Ok((4, vec![2])));
        // Four bytes need both that wait; five never fit beside the two in flight.
        assert_eq!(push(&mut outbox, "eeeee"), Ok((5, vec![5])));
        assert_eq!(push(&mut outbox, "ffff"), Ok((6, vec![3, 4])));
        assert_eq!((outbox.len(), outbox.bytes()), (2, 6));
        assert_eq!([next(&mut outbox), next(&mut outbox)], [Some(6), None]);
    }

    #[test]
    fn drop_newest_reports_itself() {
        let mut outbox = outbox(1, 10, OverflowPolicy::DropNewest);
        assert_eq!(push(&mut outbox, "a"), Ok((1, vec![])));
        assert_eq!(push(&mut outbox, "b"), Ok((2, vec![2])));
        assert_eq!(next(&mut outbox), Some(1));
        outbox.handle_written(1);
        assert_eq!(push(&mut outbox, "c"), Ok((3, vec![])));
    }

    #[test]
    fn expiry() {
        let config = OutboxConfig { ttl: Some(Duration::from_secs(10)), ..OutboxConfig::default() };
        let mut outbox = MemoryOutbox::new(config);
        let at = |seconds: u64| Time::from_micros(seconds * 1_000_000);
        let mut push = |now, ttl: Option<u64>| {
            outbox.push(at(now), Bytes::from_static(b"x"), true, ttl.map(Duration::from_secs)).unwrap();
        };
        push(0, None);
        push(1, Some(2));
        push(2, Some(u64::MAX));
        push(3, None);
        assert_eq!(outbox.poll_expiry(), Some(at(3)));
        assert_eq!(outbox.expire(at(2)), []);
        assert_eq!(sequences(&outbox.expire(at(3))), [2]);
        assert_eq!(outbox.poll_expiry(), Some(at(10)));
        // In flight it does not expire, put back it does.
        assert_eq!(outbox.next_to_send(at(9)).map(|item| item.sequence), Some(1));
        assert_eq!(outbox.poll_expiry(), Some(at(13)));
        assert_eq!(outbox.expire(at(12)), []);
        outbox.handle_lost();
        assert_eq!(outbox.poll_expiry(), Some(at(10)));
        // Not sent late, and not forgotten.
        assert_eq!(outbox.next_to_send(at(13)).map(|item| item.sequence), Some(3));
        assert_eq!(outbox.next_to_send(at(13)), None);
        assert_eq!(outbox.poll_expiry(), Some(Time::ZERO));
        assert_eq!(sequences(&outbox.expire(at(13))), [1, 4]);
        assert_eq!(outbox.poll_expiry(), None);
        assert_eq!(outbox.bytes(), 1);
        assert_eq!(sequences(&outbox.drain_all()), [3]);
        assert!(outbox.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push { len: usize, ttl: Option<u64> },
        Send,
        Written(usize),
        Lost,
        Expire,
        Sleep(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0usize..40, prop::option::of(0u64..50)).prop_map(|(len, ttl)| Step::Push { len, ttl }),
            4 => Just(Step::Send),
            3 => (0usize..5).prop_map(Step::Written),
            1 => Just(Step::Lost),
            1 => Just(Step::Expire),
            2 => (0u64..30).prop_map(Step::Sleep),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn order_is_kept_nothing_vanishes_limits_hold(
            (limit, bytes) in (0usize..8, 0usize..120),
            overflow in prop::sample::select(vec![
                OverflowPolicy::Error, OverflowPolicy::Block, OverflowPolicy::DropOldest, OverflowPolicy::DropNewest,
            ]),
            default_ttl in prop::option::of(0u64..60),
            steps in prop::collection::vec(step(), 1..150),
        ) {
            let ttl = default_ttl.map(Duration::from_micros);
            let mut outbox = MemoryOutbox::new(OutboxConfig { limit, bytes, overflow, ttl, block_timeout: None });
            // What is still owed, with its deadline; what is in flight.
            let mut owed: BTreeMap<u64, (usize, Option<u64>)> = BTreeMap::new();
            let mut flying: Vec<u64> = Vec::new();
            let (mut now, mut accepted) = (0u64, 0u64);
            for step in steps {
                let time = Time::from_micros(now);
                match step {
                    Step::Push { len, ttl } => {
                        let data = Bytes::from(vec![b'x'; len]);
                        let fits = owed.len() < limit && owed.values().map(|(len, _)| len).sum::<usize>() + len <= bytes;
                        match outbox.push(time, data, false, ttl.map(Duration::from_micros)) {
                            Ok(outcome) => {
                                accepted += 1;
                                prop_assert_eq!(outcome.sequence, accepted);
                                prop_assert!(!fits || outcome.evicted.is_empty());
                                owed.insert(accepted, (len, ttl.or(default_ttl).map(|ttl| now + ttl)));
                                for item in outcome.evicted {
                                    prop_assert!(owed.remove(&item.sequence).is_some());
                                    prop_assert!(!flying.contains(&item.sequence));
                                }
                            }
                            Err(full) => {
                                prop_assert!(!fits);
                                let permanent = matches!(full, Full::MessageTooBig { .. });
                                prop_assert_eq!(permanent, len > bytes);
                                prop_assert!(permanent || matches!(overflow, OverflowPolicy::Error | OverflowPolicy::Block));
                            }
                        }
                    }
                    Step::Send => {
                        let expected = owed.iter().find(|(sequence, (_, expires))| {
                            !flying.contains(sequence) && expires.is_none_or(|at| at > now)
                        });
                        let expected = expected.map(|(sequence, _)| *sequence);
                        let sent = outbox.next_to_send(time).map(|item| item.sequence);
                        prop_assert_eq!(sent, expected);
                        prop_assert!(flying.last() < sent.as_ref() || sent.is_none());
                        flying.extend(sent);
                        for item in outbox.expire(time) {
                            prop_assert!(owed.remove(&item.sequence).is_some_and(|(_, at)| at.is_some_and(|at| at <= now)));
                        }
                    }
                    Step::Written(count) => {
                        let acknowledged: Vec<u64> = flying.drain(..count.min(flying.len())).collect();
                        if let Some(last) = acknowledged.last() {
                            outbox.handle_written(*last);
                        }
                        owed.retain(|sequence, _| !acknowledged.contains(sequence));
                    }
                    Step::Lost => {
                        outbox.handle_lost();
                        flying.clear();
                    }
                    Step::Expire => {
                        let due: Vec<u64> = owed
                            .iter()
                            .filter(|(sequence, (_, at))| !flying.contains(sequence) && at.is_some_and(|at| at <= now))
                            .map(|(sequence, _)| *sequence)
                            .collect();
                        prop_assert_eq!(outbox.poll_expiry().is_some_and(|at| at <= time), !due.is_empty());
                        prop_assert_eq!(sequences(&outbox.expire(time)), due.clone());
                        owed.retain(|sequence, _| !due.contains(sequence));
                    }
                    Step::Sleep(micros) => now += micros,
                }
                prop_assert!(outbox.len() <= limit && outbox.bytes() <= bytes);
                prop_assert_eq!(outbox.len(), owed.len());
                prop_assert_eq!(outbox.bytes(), owed.values().map(|(len, _)| len).sum::<usize>());
            }
            let rest: Vec<u64> = owed.keys().copied().collect();
            prop_assert_eq!(sequences(&outbox.drain_all()), rest);
            prop_assert_eq!((outbox.len(), outbox.bytes(), outbox.poll_expiry()), (0, 0, None));
        }
    }
}
