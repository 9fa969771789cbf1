//! Where a client's messages wait until they are acknowledged.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use lifeline_proto::Time;
use lifeline_proto::outbox::{Full, Item, MemoryOutbox, OutboxConfig, OverflowPolicy, PushOutcome};
use lifeline_proto::v1::Key;
use lifeline_proto::v1::wire::OutboxRange;
use lifeline_store::{Stats, StoreError};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::durable::{Work, Written};
use crate::bridge::CommandError;

/// Why a message was not taken.
#[derive(Debug)]
pub enum Refusal {
    /// The policy is to wait for room.
    Wait,
    /// For good.
    Error(CommandError),
}

/// A client's messages, from `send()` until they are acknowledged (plain peer: written to the socket).
///
/// Messages wait, are in flight once handed out, and leave when acknowledged, rejected, expired or
/// evicted. Called under the client's lock.
pub trait Outbox: fmt::Debug + Send {
    /// What HELLO says of it; until [`Outbox::handle_lost`] only what it speaks of is handed out.
    fn range(&mut self) -> OutboxRange;

    /// What HELLO spoke of is settled, and the rest needs another HELLO.
    fn is_outgrown(&self) -> bool {
        false
    }

    /// The server knows items that this outbox has never given a number to: new ones need another id. Numbers go on: an
    /// id's first may be any.
    fn renew(&mut self);

    /// Appends a message. `ttl` overrides the configured time to live.
    ///
    /// # Errors
    /// [`Refusal`]: nothing was taken.
    fn push(&mut self, now: Time, data: Bytes, binary: bool, ttl: Option<Duration>) -> Result<PushOutcome, Refusal>;

    /// Takes back what was pushed from this number on, before it was committed.
    fn withdraw(&mut self, from: u64);

    /// The caller is about to be told that what was pushed is accepted: what has to be done before, without
    /// the client's lock. Then [`Outbox::handle_done`]; until then, what was pushed is not handed out.
    fn commit(&mut self, _now: Time) -> Option<Work> {
        None
    }

    /// What is to be written beside, likewise; `tick`: once in [`crate::keeper::TICK`].
    fn upkeep(&mut self, _now: Time, _tick: bool) -> Option<Work> {
        None
    }

    /// What the next [`Outbox::upkeep`] or [`Outbox::farewell`] writes of the client's session.
    fn keep_session(&mut self, _session: Vec<u8>) {}

    /// The last work; nothing else is done afterwards.
    fn farewell(&mut self, _now: Time) -> Option<Work> {
        None
    }

    /// The work was carried out.
    ///
    /// # Errors
    /// It was not; what was to be committed is taken back.
    fn handle_done(&mut self, _work: &Work, _result: &Result<Written, StoreError>) -> Result<(), CommandError> {
        Ok(())
    }

    /// [`Outbox::upkeep`] has something to do.
    fn needs_upkeep(&self) -> bool {
        false
    }

    /// Of the log, where there is one.
    fn store_stats(&self) -> Option<Stats> {
        None
    }

    /// Number and length of the oldest message that waits.
    fn first_waiting(&self) -> Option<(u64, usize)>;

    /// The oldest message that waits, which is in flight from now on. Expired ones are passed over.
    fn next_to_send(&mut self, now: Time) -> Option<Item>;

    /// Everything up to and with `sequence` is acknowledged.
    fn handle_acknowledged(&mut self, sequence: u64);

    /// The connection is gone: what was in flight waits again.
    fn handle_lost(&mut self);

    /// `sequence` and what is in flight behind it waits again.
    fn handle_resend(&mut self, sequence: u64);

    /// Takes out a message that was refused for good.
    fn handle_rejected(&mut self, sequence: u64, code: i32, reason: &str) -> Option<Item>;

    /// Takes out what has outlived its time to live, in order.
    fn expire(&mut self, now: Time) -> Vec<Item>;

    /// When [`Outbox::expire`] wants to be called next.
    fn poll_expiry(&self) -> Option<Time>;

    /// The client closes: takes out what will not be sent any more, in order. What is kept for another
    /// client stays.
    fn close(&mut self) -> Vec<Item>;

    /// Whether a message of `len` bytes fits now.
    fn has_room(&self, len: usize) -> bool;

    /// Messages accepted and not acknowledged.
    fn len(&self) -> usize;

    /// Bytes of their payloads.
    fn bytes(&self) -> usize;

    /// Bytes of memory that they take; a part of it, where they are kept elsewhere.
    fn held(&self) -> usize;

    /// The number of the last message accepted; 0: none yet.
    fn last_sequence(&self) -> u64;
}

/// What a kept message costs beside its payload, in bytes.
pub const KEPT: usize = 96;

/// In memory: what is in it ends with the client.
#[derive(Debug)]
pub struct Memory {
    id: Key,
    messages: MemoryOutbox,
    waits: bool,
}

impl Memory {
    pub fn new(config: OutboxConfig) -> Self {
        let waits = config.overflow == OverflowPolicy::Block;
        Self { id: random_key(), messages: MemoryOutbox::new(config), waits }
    }
}

/// Hard to guess: who knows an outbox's id can take it over.
pub fn random_key() -> Key {
    Key::random(&mut StdRng::from_os_rng())
}

// One id for as long as the client lives: nobody else gives its numbers, so the next connection goes on where the server
// says. Only a server that knows more than was sent makes it take another.
impl Outbox for Memory {
    fn range(&mut self) -> OutboxRange {
        OutboxRange {
            id: self.id.clone(),
            generation: 1,
            first: self.messages.first_sequence(),
            next: self.messages.last_sequence() + 1,
        }
    }

    fn renew(&mut self) {
        self.id = random_key();
    }

    fn push(&mut self, now: Time, data: Bytes, binary: bool, ttl: Option<Duration>) -> Result<PushOutcome, Refusal> {
        self.messages.push(now, data, binary, ttl).map_err(|full| match full {
            Full::Bytes { .. } | Full::Messages { .. } if self.waits => Refusal::Wait,
            full => Refusal::Error(CommandError::Overflow(full.to_string())),
        })
    }

    fn withdraw(&mut self, from: u64) {
        self.messages.withdraw(from);
    }

    fn first_waiting(&self) -> Option<(u64, usize)> {
        self.messages.first_waiting()
    }

    fn next_to_send(&mut self, now: Time) -> Option<Item> {
        self.messages.next_to_send(now)
    }

    fn handle_acknowledged(&mut self, sequence: u64) {
        self.messages.handle_written(sequence);
    }

    fn handle_lost(&mut self) {
        self.messages.handle_lost();
    }

    fn handle_resend(&mut self, sequence: u64) {
        self.messages.handle_resend(sequence);
    }

    fn handle_rejected(&mut self, sequence: u64, _code: i32, _reason: &str) -> Option<Item> {
        self.messages.handle_rejected(sequence)
    }

    fn expire(&mut self, now: Time) -> Vec<Item> {
        self.messages.expire(now)
    }

    fn poll_expiry(&self) -> Option<Time> {
        self.messages.poll_expiry()
    }

    fn close(&mut self) -> Vec<Item> {
        self.messages.drain_all()
    }

    fn has_room(&self, len: usize) -> bool {
        self.messages.has_room(len)
    }

    fn len(&self) -> usize {
        self.messages.len()
    }

    fn bytes(&self) -> usize {
        self.messages.bytes()
    }

    fn held(&self) -> usize {
        self.messages.bytes() + self.messages.len() * KEPT
    }

    fn last_sequence(&self) -> u64 {
        self.messages.last_sequence()
    }
}
