//! Where a client's messages wait until they are acknowledged.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use lifeline_proto::Time;
use lifeline_proto::outbox::{Full, Item, MemoryOutbox, OutboxConfig, OverflowPolicy, PushOutcome};
use lifeline_proto::v1::Key;
use lifeline_proto::v1::wire::OutboxRange;
use rand::SeedableRng;
use rand::rngs::StdRng;

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
    /// What HELLO says of it.
    fn range(&self) -> OutboxRange;

    /// The server knows items that this outbox has never given a number to: new ones need another id.
    fn renew(&mut self);

    /// Appends a message. `ttl` overrides the configured time to live.
    ///
    /// # Errors
    /// [`Refusal`]: nothing was taken.
    fn push(&mut self, now: Time, data: Bytes, binary: bool, ttl: Option<Duration>) -> Result<PushOutcome, Refusal>;

    /// The caller is about to be told that what was pushed is accepted: makes it as safe as it is meant
    /// to be. Once for one `send()` or `sendMany()`.
    ///
    /// # Errors
    /// It could not be made safe.
    fn commit(&mut self) -> Result<(), CommandError> {
        Ok(())
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
    fn handle_rejected(&mut self, sequence: u64) -> Option<Item>;

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
fn random_key() -> Key {
    Key::random(&mut StdRng::from_os_rng())
}

impl Outbox for Memory {
    fn range(&self) -> OutboxRange {
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

    fn handle_rejected(&mut self, sequence: u64) -> Option<Item> {
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
