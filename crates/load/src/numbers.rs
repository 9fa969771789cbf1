//! Peers that number their messages and keep account of the answers: which never came, came late, twice or changed.
//!
//! A message that is not answered while a later one is counts as lost; the server may lose, but not in silence.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::crew::histogram;
use crate::echo::payload;
use crate::pool::{Handler, Link, Plan, Pool};
use crate::run::quantiles;
use crate::train::parse;
use crate::ws::opcode;

/// Peers of an echo server.
#[derive(Debug)]
pub struct Numbers {
    /// How to connect.
    pub plan: Plan,
    /// Connections.
    pub conns: usize,
    /// Unanswered messages of one connection, at most; but see [`Numbers::patience`].
    pub window: usize,
    /// Bytes behind the number.
    pub size: usize,
    /// Between two messages of one connection.
    pub every: Duration,
    /// Without any answer for so long, one message more goes out: all that are under way may be lost.
    pub patience: Duration,
    /// For all to open, and for the last answers.
    pub timeout: Duration,
}

/// What [`Numbers::run`] is told meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Report what was counted so far.
    Count,
    /// Send one last message on each connection, and end when it is answered.
    End,
}

/// The account of one connection.
#[derive(Debug, Default)]
pub struct Account {
    next: u64,
    waiting: VecDeque<(u64, Instant)>,
    passed_over: BTreeSet<u64>,
}

/// What an answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The oldest that was waited for, or a later one: those between count as lost from now on. With when it was sent.
    Next(Instant),
    /// One that counted as lost.
    Late,
    /// One that had been answered.
    Again,
    /// One that was never sent.
    Unknown,
}

impl Account {
    /// The number of the next message.
    pub fn send(&mut self, now: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        self.waiting.push_back((number, now));
        number
    }

    /// Takes note of an answer.
    pub fn answer(&mut self, number: u64) -> Answer {
        if number >= self.next {
            return Answer::Unknown;
        }
        if self.waiting.front().is_some_and(|(first, _)| number >= *first) {
            while let Some((first, sent)) = self.waiting.pop_front() {
                if first == number {
                    return Answer::Next(sent);
                }
                self.passed_over.insert(first);
            }
        }
        if self.passed_over.remove(&number) { Answer::Late } else { Answer::Again }
    }

    /// Messages that are waited for.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Messages that count as lost.
    pub fn lost(&self) -> usize {
        self.passed_over.len()
    }
}

#[derive(Debug)]
struct Member {
    account: Account,
    link: usize,
    gone: bool,
    /// When it last sent or was answered.
    moved: Instant,
    /// How long it waits for an answer before it sends one message more.
    patience: Duration,
    /// The message whose answer ends it.
    last: Option<u64>,
    done: bool,
}

struct Crowd {
    size: usize,
    open: usize,
    members: Vec<Member>,
    sent: u64,
    answered: u64,
    reordered: u64,
    duplicates: u64,
    unknown: u64,
    changed: u64,
    closes: u64,
    pings: u64,
    errors: Vec<String>,
    delays: Histogram<u64>,
}

impl Crowd {
    fn note(&mut self, error: String) {
        if self.errors.len() < 5 {
            self.errors.push(error);
        }
    }

    fn send(&mut self, number: usize, link: &mut Link) -> Result<()> {
        let member = &mut self.members[number];
        let now = Instant::now();
        member.moved = now;
        let message = member.account.send(now);
        self.sent += 1;
        link.put(opcode::TEXT, &text(number, message, self.size))
    }

    fn answered(&mut self, number: usize, bytes: &[u8]) {
        let member = &mut self.members[number];
        let digits = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
        let Some(message) = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()) else {
            self.changed += 1;
            self.note(format!("connection {number}: '{}' came", bytes.escape_ascii()));
            return;
        };
        let now = Instant::now();
        member.moved = now;
        let (account, what) = (&mut member.account, format!("connection {number}: message {message}"));
        match account.answer(message) {
            Answer::Next(sent) => {
                self.answered += 1;
                self.delays.saturating_record((now - sent).as_nanos() as u64);
            }
            Answer::Late => {
                self.answered += 1;
                self.reordered += 1;
                self.note(format!("{what} was answered after a later one"));
            }
            Answer::Again => {
                self.duplicates += 1;
                self.note(format!("{what} was answered again"));
            }
            Answer::Unknown => {
                self.unknown += 1;
                self.note(format!("{what} was answered and never sent"));
            }
        }
        let member = &mut self.members[number];
        // Where one more was sent for want of patience, that has to come too.
        member.done |= member.last.is_some_and(|last| message >= last) && member.account.waiting() == 0;
        if *bytes != text(number, message, self.size) {
            self.changed += 1;
            self.note(format!("{what} came back changed"));
        }
    }

    fn report(&self, began: Instant) -> Value {
        let sum =
            |count: fn(&Account) -> usize| self.members.iter().map(|member| count(&member.account)).sum::<usize>();
        json!({
            "conns": self.members.len(), "open": self.open, "closes": self.closes,
            "sent": self.sent, "answered": self.answered, "lost": sum(Account::lost), "waiting": sum(Account::waiting),
            "reordered": self.reordered, "duplicates": self.duplicates, "unknown": self.unknown, "changed": self.changed,
            "pings": self.pings, "seconds": began.elapsed().as_secs_f64(), "delay_ms": quantiles(&self.delays),
            "errors": self.errors,
        })
    }
}

/// A message: its number, and bytes that no other message has.
fn text(connection: usize, number: u64, size: usize) -> Vec<u8> {
    let mut text = format!("{number} ").into_bytes();
    text.extend(payload(connection as u64, number, size, true));
    text
}

impl Handler for Crowd {
    fn opened(&mut self, _: &mut Link) -> Result<()> {
        self.open += 1;
        Ok(())
    }

    fn received(&mut self, link: &mut Link, bytes: &[u8]) -> Result<usize> {
        let mut at = 0;
        while let Some(frame) = parse(&bytes[at..])? {
            match frame.opcode {
                opcode::PING => {
                    self.pings += 1;
                    link.put(opcode::PONG, frame.payload)?;
                }
                opcode::PONG => {}
                opcode::CLOSE => {
                    let code = frame.payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code));
                    anyhow::bail!("closed with {code:?}");
                }
                opcode::TEXT => {
                    ensure!(frame.fin, "a fragment");
                    self.answered(link.tag as usize, frame.payload);
                }
                other => anyhow::bail!("unexpected opcode {other}"),
            }
            at += frame.length;
        }
        Ok(at)
    }

    fn lost(&mut self, link: &Link, why: Option<anyhow::Error>) {
        let number = link.tag as usize;
        self.open -= usize::from(link.is_open());
        self.closes += 1;
        self.members[number].gone = true;
        let why = why.map_or_else(String::new, |why| format!("{why:#}"));
        self.note(format!("connection {number}: {why}"));
    }
}

impl Numbers {
    /// Opens all, calls `ready`, and talks until `order` says so; `tell` gets each report that was asked for.
    /// Returns the last report: with `waiting` more than 0, some last answers have not come in time.
    ///
    /// # Errors
    /// Not all opened in time.
    pub fn run(
        self,
        ready: impl FnOnce(),
        mut order: impl FnMut() -> Option<Order>,
        mut tell: impl FnMut(&Value),
    ) -> Result<Value> {
        let mut pool = Pool::new(self.plan.clone())?;
        let began = Instant::now();
        let mut crowd = Crowd {
            size: self.size,
            open: 0,
            members: Vec::with_capacity(self.conns),
            sent: 0,
            answered: 0,
            reordered: 0,
            duplicates: 0,
            unknown: 0,
            changed: 0,
            closes: 0,
            pings: 0,
            errors: Vec::new(),
            delays: histogram(),
        };
        while crowd.open < self.conns {
            while crowd.members.len() < self.conns && pool.opening() < 64 {
                let link = pool.connect(crowd.members.len() as u64, None)?;
                let (account, moved) = (Account::default(), Instant::now());
                let patience = self.patience;
                crowd.members.push(Member { account, link, gone: false, moved, patience, last: None, done: false });
            }
            pool.turn(Duration::from_millis(20), &mut crowd)?;
            ensure!(crowd.closes == 0, "{:?}", crowd.errors);
            ensure!(began.elapsed() < self.timeout, "{} of {} opened", crowd.open, self.conns);
        }
        ready();

        let began = Instant::now();
        let pause = self.every.max(Duration::from_micros(1)).as_secs_f64() / self.conns as f64;
        let mut visits = 0_u64;
        let mut ending: Option<Instant> = None;
        loop {
            match order() {
                Some(Order::Count) => tell(&crowd.report(began)),
                Some(Order::End) if ending.is_none() => {
                    ending = Some(Instant::now());
                    for number in 0..self.conns {
                        let member = &mut crowd.members[number];
                        member.last = Some(member.account.next);
                        Self::visit(&mut pool, &mut crowd, number);
                    }
                }
                _ => {}
            }
            // Each has its turn once in `every`.
            let due = (began.elapsed().as_secs_f64() / pause) as u64;
            // Behind by more than a round: what was missed is not made up for.
            visits = visits.max(due.saturating_sub(self.conns as u64));
            while visits < due {
                let number = (visits % self.conns as u64) as usize;
                visits += 1;
                let member = &mut crowd.members[number];
                let stalled = member.moved.elapsed() >= member.patience;
                if stalled && ending.is_some() {
                    // An answer may always come as late as the next message goes out (Nagle's algorithm at the server).
                    member.patience *= 2;
                }
                let member = &crowd.members[number];
                let room = ending.is_none() && member.account.waiting() < self.window;
                if !member.done && (room || stalled) {
                    Self::visit(&mut pool, &mut crowd, number);
                }
            }
            if let Some(since) = ending
                && (since.elapsed() >= self.timeout || crowd.members.iter().all(|member| member.gone || member.done))
            {
                break;
            }
            pool.turn(Duration::from_millis(2), &mut crowd)?;
        }
        let report = crowd.report(began);
        pool.reset_all();
        Ok(report)
    }

    fn visit(pool: &mut Pool, crowd: &mut Crowd, number: usize) {
        let member = &crowd.members[number];
        if member.gone {
            return;
        }
        if let Some(link) = pool.link(member.link)
            && let Err(error) = crowd.send(number, link)
        {
            // What becomes of the link is seen when it is read.
            crowd.note(format!("connection {number}: {error:#}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(count: usize) -> Account {
        let mut account = Account::default();
        for number in 0..count {
            assert_eq!(account.send(Instant::now()), number as u64);
        }
        account
    }

    #[test]
    fn in_order_nothing_is_lost() {
        let mut account = sent(3);
        for number in 0..3 {
            assert!(matches!(account.answer(number), Answer::Next(_)));
        }
        assert_eq!((account.waiting(), account.lost()), (0, 0));
    }

    #[test]
    fn what_is_passed_over_is_lost_until_it_comes() {
        let mut account = sent(6);
        assert!(matches!(account.answer(0), Answer::Next(_)));
        assert!(matches!(account.answer(4), Answer::Next(_)));
        assert_eq!((account.waiting(), account.lost()), (1, 3));
        assert_eq!(account.answer(2), Answer::Late);
        assert_eq!((account.waiting(), account.lost()), (1, 2));
        assert!(matches!(account.answer(5), Answer::Next(_)));
        assert_eq!((account.waiting(), account.lost()), (0, 2));
    }

    #[test]
    fn what_comes_twice_or_was_not_sent_is_told() {
        let mut account = sent(3);
        assert!(matches!(account.answer(1), Answer::Next(_)));
        assert_eq!(account.answer(1), Answer::Again);
        assert_eq!(account.answer(0), Answer::Late);
        assert_eq!(account.answer(0), Answer::Again);
        assert_eq!(account.answer(3), Answer::Unknown);
        assert_eq!((account.waiting(), account.lost()), (1, 0));
    }

    #[test]
    fn messages_carry_their_number_and_differ() {
        assert!(text(1, 12, 4).starts_with(b"12 "));
        assert_eq!(text(1, 12, 4).len(), 7);
        assert_ne!(text(1, 12, 8), text(2, 12, 8));
        assert_eq!(text(1, 2, 0), b"2 ");
    }
}
