//! Which items of one client's outbox were received and handled.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Violation;
use super::wire::{ITEM_COST, OutboxRange, Reject};
use crate::{Time, close};

/// Names one delivery of an item; a later one of the same item has another serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeliveryId {
    pub sequence: u64,
    serial: u64,
    /// Of the payload.
    pub bytes: usize,
    /// Where its inbox is, for who keeps many.
    pub(super) place: u32,
}

/// An item on its way to the application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    pub id: DeliveryId,
    pub data: Bytes,
    pub binary: bool,
    /// It is not a message but an edit of a document.
    pub edit: bool,
}

/// A connection may send items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Names this attachment; a later one makes it stale.
    pub attachment: u64,
    /// For WELCOME.
    pub handled: u64,
    /// Refused for good, and the client may not know.
    pub rejected: Vec<Reject>,
}

/// A process with an older generation of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the outbox was opened by another process since: generation {given}, the newest is {newest}")]
pub struct Fenced {
    pub given: u64,
    pub newest: u64,
}

/// What became of an item that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// New: take [`Inbox::poll_delivery`].
    Accepted,
    /// Known: tell the client the mark again.
    Duplicate,
    /// Behind one that the client was asked to send again: it will come again, too.
    Ignored,
    /// The connection is not the one that has the outbox.
    Stale,
}

/// Whether a delivery may be handled now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Handle it; counted from 1.
    Attempt(u32),
    /// Throw it away: it will come again, or was settled.
    Stale,
}

/// What follows from a handler that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Close the connection with 1011; the client sends it again.
    Close,
    /// Send this N.
    Reject(Reject),
    /// Nothing: the delivery was stale.
    Stale,
}

/// The items of one outbox, process-wide, whichever connection brings them.
///
/// Items come in order and leave [`Inbox::poll_delivery`] in order; the application may settle them in any order.
/// What is acknowledged is the mark up to which all are settled and stored. An item is delivered again only
/// when its handler did not settle it, so handlers see each item once for as long as the inbox lives.
///
/// When another connection takes the outbox over, what waits is forgotten, and an item whose handler runs
/// holds back those behind it until it has ended.
#[derive(Clone, Debug)]
pub struct Inbox {
    /// Attempts of one item before it is refused for good.
    redelivery_limit: u32,
    /// The newest that has opened the outbox.
    generation: u64,
    attachment: u64,
    attached: bool,
    /// Everything below was received, given up or settled, but for what `items` says.
    frontier: u64,
    /// The next item that this connection must bring.
    expected: u64,
    /// The client was asked to go back to `expected`: what is behind it is on its way still.
    rewound: bool,
    items: Items,
    waiting: VecDeque<Delivery>,
    /// Handlers that have ended, of items that they did not settle.
    attempts: BTreeMap<u64, u32>,
    /// Handlers that run for deliveries of an earlier attachment.
    foreign: usize,
    /// Of items that wait or whose handler runs, as the window counts them.
    outstanding: u64,
    stored: u64,
    rejected: VecDeque<Reject>,
    next_serial: u64,
    /// When the last connection left.
    idle_since: Time,
}

/// An item below the frontier that is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    /// The client must send it again.
    Missing,
    Queued {
        serial: u64,
        bytes: usize,
    },
    Running {
        serial: u64,
        attachment: u64,
        bytes: usize,
    },
}

impl Inbox {
    #[must_use]
    pub fn new(now: Time, redelivery_limit: u32) -> Self {
        Self::restore(now, redelivery_limit, 0, 0, Vec::new())
    }

    /// An inbox from what a store kept.
    #[must_use]
    pub fn restore(now: Time, redelivery_limit: u32, generation: u64, handled: u64, rejected: Vec<Reject>) -> Self {
        Self {
            redelivery_limit: redelivery_limit.max(1),
            generation,
            attachment: 0,
            attached: false,
            frontier: handled + 1,
            expected: handled + 1,
            rewound: false,
            items: Items::default(),
            waiting: VecDeque::new(),
            attempts: BTreeMap::new(),
            foreign: 0,
            outstanding: 0,
            stored: handled,
            rejected: rejected.into(),
            next_serial: 1,
            idle_since: now,
        }
    }

    /// Deliveries are told apart from those of another inbox that the outbox had before, by numbers from here
    /// on.
    #[must_use]
    pub fn with_serials_from(mut self, serial: u64) -> Self {
        self.next_serial = serial;
        self
    }

    /// A connection has named the outbox: from now on it is the one that brings items.
    ///
    /// # Errors
    /// [`Fenced`]: refuse it with 4502.
    pub fn attach(&mut self, range: &OutboxRange) -> Result<Attached, Fenced> {
        if range.generation < self.generation {
            return Err(Fenced { given: range.generation, newest: self.generation });
        }
        self.generation = range.generation;
        self.attachment += 1;
        self.attached = true;
        self.forget_waiting(0);
        self.foreign = self.items.running();
        // What the client no longer has will not come.
        self.frontier = self.frontier.max(range.first);
        self.items.retain(|sequence, item| sequence >= range.first || item != Item::Missing);
        self.expected = range.first.max(self.handled() + 1);
        self.rewound = false;
        self.rejected.retain(|reject| reject.sequence >= range.first);
        Ok(Attached {
            attachment: self.attachment,
            handled: self.stored,
            rejected: self.rejected.iter().cloned().collect(),
        })
    }

    /// The connection is gone. What waits is still delivered, unless another connection is faster. False: it
    /// did not have the outbox any more.
    pub fn detach(&mut self, now: Time, attachment: u64) -> bool {
        let current = attachment == self.attachment;
        if current {
            self.attached = false;
            self.idle_since = now;
        }
        current
    }

    /// An item came in.
    ///
    /// # Errors
    /// A [`Violation`] with 4004 when items before it are missing.
    pub fn handle_item(
        &mut self,
        attachment: u64,
        sequence: u64,
        data: Bytes,
        binary: bool,
    ) -> Result<Receipt, Violation> {
        self.receive(attachment, sequence, data, binary, false)
    }

    /// As [`Inbox::handle_item`], of one that edits a document.
    ///
    /// # Errors
    /// See [`Inbox::handle_item`].
    pub fn handle_edit(&mut self, attachment: u64, sequence: u64, data: Bytes) -> Result<Receipt, Violation> {
        self.receive(attachment, sequence, data, false, true)
    }

    /// As [`Inbox::handle_item`]; the item itself where it is the application's turn at once, as if
    /// [`Inbox::poll_delivery`] had given it.
    ///
    /// # Errors
    /// See [`Inbox::handle_item`].
    pub fn pass_item(
        &mut self,
        attachment: u64,
        sequence: u64,
        data: Bytes,
        binary: bool,
    ) -> Result<Result<Delivery, Receipt>, Violation> {
        let passes = self.foreign == 0 && self.waiting.is_empty();
        let accepted = self.accept(attachment, sequence, data, binary, false)?;
        Ok(accepted.and_then(|delivery| {
            if passes {
                return Ok(delivery);
            }
            self.waiting.push_back(delivery);
            Err(Receipt::Accepted)
        }))
    }

    /// What [`Inbox::pass_item`] gave is [`Inbox::poll_delivery`]'s to give.
    pub(super) fn take_back(&mut self, delivery: Delivery) {
        self.waiting.push_back(delivery);
    }

    fn receive(
        &mut self,
        attachment: u64,
        sequence: u64,
        data: Bytes,
        binary: bool,
        edit: bool,
    ) -> Result<Receipt, Violation> {
        Ok(match self.accept(attachment, sequence, data, binary, edit)? {
            Ok(delivery) => {
                self.waiting.push_back(delivery);
                Receipt::Accepted
            }
            Err(receipt) => receipt,
        })
    }

    /// The item is new and on its way, or what became of it.
    #[inline]
    fn accept(
        &mut self,
        attachment: u64,
        sequence: u64,
        data: Bytes,
        binary: bool,
        edit: bool,
    ) -> Result<Result<Delivery, Receipt>, Violation> {
        if !self.is_current(attachment) {
            return Ok(Err(Receipt::Stale));
        }
        self.pass_acknowledged();
        if sequence < self.expected {
            return Ok(Err(Receipt::Duplicate));
        }
        if sequence > self.expected {
            if self.rewound {
                return Ok(Err(Receipt::Ignored));
            }
            return Err(Violation::new(
                close::STATE_INVALID,
                format!("P {sequence}: {} is next, E gives up what will not come", self.expected),
            ));
        }
        self.expected += 1;
        self.rewound = false;
        if sequence < self.frontier && self.items.get(sequence) != Some(Item::Missing) {
            return Ok(Err(Receipt::Duplicate));
        }
        self.frontier = self.frontier.max(sequence + 1);
        let serial = self.next_serial;
        self.next_serial += 1;
        let bytes = data.len();
        let item = Item::Queued { serial, bytes };
        if self.items.places.back().is_none_or(|(last, _)| *last < sequence) {
            self.items.places.push_back((sequence, Some(item)));
        } else {
            self.items.insert(sequence, item);
        }
        self.outstanding += cost(bytes);
        let id = DeliveryId { sequence, serial, bytes, place: 0 };
        Ok(Ok(Delivery { id, data, binary, edit }))
    }

    /// The client gives up the items `from..=sequence`, as far as they have not come; without `from`, those
    /// from the next one on.
    ///
    /// # Errors
    /// A [`Violation`] with 4004 when items before them are missing, or it is not clear which are meant.
    pub fn handle_give_up(&mut self, attachment: u64, from: Option<u64>, sequence: u64) -> Result<(), Violation> {
        self.pass_acknowledged();
        if !self.is_current(attachment) || sequence < self.expected {
            return Ok(());
        }
        let Some(from) = from.or_else(|| (!self.rewound).then_some(self.expected)) else {
            // It may have been sent before the client knew that it must go back.
            return Err(Violation::new(close::STATE_INVALID, format!("E {sequence}: from is missing behind an N")));
        };
        if from > self.expected {
            if self.rewound {
                return Ok(());
            }
            return Err(Violation::new(
                close::STATE_INVALID,
                format!("E {sequence} from={from}: {} is next", self.expected),
            ));
        }
        self.items.retain(|item, state| !(from..=sequence).contains(&item) || state != Item::Missing);
        self.frontier = self.frontier.max(sequence + 1);
        self.expected = sequence + 1;
        self.rewound = false;
        Ok(())
    }

    /// Whether [`Inbox::poll_delivery`] has one.
    #[must_use]
    pub fn has_delivery(&self) -> bool {
        self.foreign == 0 && !self.waiting.is_empty()
    }

    /// The next item for the application, in order. Ask again after each input: an item may wait for
    /// the handler of one that an earlier connection brought.
    pub fn poll_delivery(&mut self) -> Option<Delivery> {
        if self.foreign > 0 {
            return None;
        }
        let delivery = self.waiting.pop_front();
        if self.waiting.is_empty() && self.waiting.capacity() > KEPT {
            self.waiting = VecDeque::new();
        }
        delivery
    }

    /// The application is about to handle a delivery.
    pub fn handle_start(&mut self, id: DeliveryId) -> Start {
        match self.items.get_mut(id.sequence) {
            Some(item) if *item == (Item::Queued { serial: id.serial, bytes: id.bytes }) => {
                *item = Item::Running { serial: id.serial, attachment: self.attachment, bytes: id.bytes };
                Start::Attempt(self.attempts(id.sequence))
            }
            _ => Start::Stale,
        }
    }

    /// The handler ended well, or acknowledged the item.
    pub fn handle_done(&mut self, id: DeliveryId) {
        let Ok(index) = self.items.place(id.sequence) else { return };
        let Some(Item::Running { serial, attachment, bytes }) = self.items.places[index].1 else { return };
        if serial == id.serial {
            self.foreign -= usize::from(attachment != self.attachment);
            self.items.remove_at(index);
            self.outstanding -= cost(bytes);
            self.forget_attempts(id.sequence);
        }
    }

    /// The handler threw.
    pub fn handle_failed(&mut self, id: DeliveryId) -> Verdict {
        let Some(attachment) = self.running(id) else { return Verdict::Stale };
        let attempts = self.attempts(id.sequence);
        if attempts >= self.redelivery_limit {
            let reason = format!("the handler failed {attempts} times");
            return Verdict::Reject(self.reject(id.sequence, 0, reason, true));
        }
        if attachment == self.attachment && self.attached {
            self.count_attempt(id.sequence);
            self.miss(id.sequence);
            self.forget_waiting(id.sequence);
            // What still arrives on that connection comes again, too.
            self.attached = false;
            return Verdict::Close;
        }
        Verdict::Reject(self.reject(id.sequence, 0, "the handler failed".into(), false))
    }

    /// The handler refused the item. Not permanent: the client sends it again, unless it has been tried
    /// too often.
    pub fn handle_rejected(&mut self, id: DeliveryId, code: i32, reason: String, permanent: bool) -> Verdict {
        if self.running(id).is_none() {
            return Verdict::Stale;
        }
        let permanent = permanent || self.attempts(id.sequence) >= self.redelivery_limit;
        Verdict::Reject(self.reject(id.sequence, code, reason, permanent))
    }

    /// A mark that wants to be stored before it is acknowledged.
    #[must_use]
    pub fn poll_store(&self) -> Option<u64> {
        Some(self.handled()).filter(|handled| *handled > self.stored)
    }

    /// The mark up to `sequence` is stored as durably as it will be.
    pub fn handle_stored(&mut self, sequence: u64) {
        self.stored = self.stored.max(sequence.min(self.handled()));
    }

    /// Everything up to this is settled.
    #[must_use]
    pub fn handled(&self) -> u64 {
        self.items.first().unwrap_or(self.frontier) - 1
    }

    /// What A and WELCOME may say.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.stored
    }

    /// A connection has the outbox.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// The newest generation that has opened the outbox.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Refused for good, as far as the client may not know; oldest first.
    pub fn rejected(&self) -> impl Iterator<Item = &Reject> {
        self.rejected.iter()
    }

    /// Since when no connection has had the outbox and no handler has run; `None`: in use.
    #[must_use]
    pub fn idle_since(&self) -> Option<Time> {
        let busy = self.attached || self.items.running() > 0;
        (!busy).then_some(self.idle_since)
    }

    /// What items that wait or whose handler runs cost, as the window counts them. More than one connection's
    /// window only when handlers of an earlier connection's items run.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Nothing was ever received, so there is nothing to remember.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.frontier == 1 && !self.attached
    }

    fn is_current(&self, attachment: u64) -> bool {
        self.attached && attachment == self.attachment
    }

    /// What was acknowledged before it came on this connection need not come.
    fn pass_acknowledged(&mut self) {
        self.expected = self.expected.max(self.stored + 1);
    }

    fn running(&self, id: DeliveryId) -> Option<u64> {
        match self.items.get(id.sequence) {
            Some(Item::Running { serial, attachment, .. }) if serial == id.serial => Some(attachment),
            _ => None,
        }
    }

    /// Handlers begun for an item, with the one that runs.
    fn attempts(&self, sequence: u64) -> u32 {
        if self.attempts.is_empty() { 1 } else { self.attempts.get(&sequence).copied().unwrap_or(0) + 1 }
    }

    /// The handler that runs will not settle the item.
    fn count_attempt(&mut self, sequence: u64) {
        *self.attempts.entry(sequence).or_default() += 1;
    }

    fn settle(&mut self, sequence: u64) {
        self.leave_running(sequence);
        self.outstanding -= self.items.remove(sequence).map_or(0, Item::cost);
        self.forget_attempts(sequence);
    }

    fn forget_attempts(&mut self, sequence: u64) {
        if !self.attempts.is_empty() {
            self.attempts.remove(&sequence);
        }
    }

    fn reject(&mut self, sequence: u64, code: i32, reason: String, permanent: bool) -> Reject {
        let reject = Reject { sequence, code, reason, permanent };
        if permanent {
            self.settle(sequence);
            if self.rejected.len() == REJECTS {
                self.rejected.pop_front();
            }
            self.rejected.push_back(reject.clone());
        } else {
            self.leave_running(sequence);
            self.count_attempt(sequence);
            self.miss(sequence);
            self.forget_waiting(sequence);
            if sequence < self.expected {
                self.expected = sequence;
                self.rewound = true;
            }
        }
        reject
    }

    fn leave_running(&mut self, sequence: u64) {
        if let Some(Item::Running { attachment, .. }) = self.items.get(sequence)
            && attachment != self.attachment
        {
            self.foreign -= 1;
        }
    }

    /// It must be sent again.
    fn miss(&mut self, sequence: u64) {
        self.outstanding -= self.items.insert(sequence, Item::Missing).map_or(0, Item::cost);
    }

    /// What waits behind `sequence` must be sent again.
    fn forget_waiting(&mut self, sequence: u64) {
        self.waiting.retain(|delivery| delivery.id.sequence <= sequence);
        for item in self.items.behind_mut(sequence) {
            if let Item::Queued { .. } = item {
                self.outstanding -= item.cost();
                *item = Item::Missing;
            }
        }
    }
}

impl Item {
    fn cost(self) -> u64 {
        match self {
            Self::Missing => 0,
            Self::Queued { bytes, .. } | Self::Running { bytes, .. } => cost(bytes),
        }
    }
}

/// Items by their numbers. They come at the end and mostly go at the front, so it is a queue; what goes from its
/// middle leaves its place until those before it are gone, too.
#[derive(Clone, Debug, Default)]
struct Items {
    /// In order. The first is there.
    places: VecDeque<(u64, Option<Item>)>,
    /// Places without an item.
    holes: usize,
}

/// Places for which the room is kept when none is taken.
const KEPT: usize = 32;

impl Items {
    fn place(&self, sequence: u64) -> Result<usize, usize> {
        let first = self.first().unwrap_or(u64::MAX);
        // Most queues have no number left out.
        match sequence.checked_sub(first).and_then(|index| usize::try_from(index).ok()) {
            Some(index) if self.places.get(index).is_some_and(|(found, _)| *found == sequence) => Ok(index),
            _ => self.places.binary_search_by_key(&sequence, |(sequence, _)| *sequence),
        }
    }

    fn first(&self) -> Option<u64> {
        self.places.front().map(|(sequence, _)| *sequence)
    }

    fn get(&self, sequence: u64) -> Option<Item> {
        self.places[self.place(sequence).ok()?].1
    }

    fn get_mut(&mut self, sequence: u64) -> Option<&mut Item> {
        let index = self.place(sequence).ok()?;
        self.places[index].1.as_mut()
    }

    fn insert(&mut self, sequence: u64, item: Item) -> Option<Item> {
        match self.place(sequence) {
            Ok(index) => {
                let before = self.places[index].1.replace(item);
                self.holes -= usize::from(before.is_none());
                before
            }
            Err(index) => {
                if index == self.places.len() {
                    self.places.push_back((sequence, Some(item)));
                } else {
                    self.places.insert(index, (sequence, Some(item)));
                }
                None
            }
        }
    }

    fn remove(&mut self, sequence: u64) -> Option<Item> {
        self.remove_at(self.place(sequence).ok()?)
    }

    fn remove_at(&mut self, index: usize) -> Option<Item> {
        let item = self.places[index].1.take()?;
        self.holes += 1;
        self.tidy();
        Some(item)
    }

    fn retain(&mut self, keep: impl Fn(u64, Item) -> bool) {
        self.places.retain(|(sequence, item)| item.is_some_and(|item| keep(*sequence, item)));
        self.holes = 0;
        self.tidy();
    }

    fn behind_mut(&mut self, sequence: u64) -> impl Iterator<Item = &mut Item> {
        let start = match self.place(sequence) {
            Ok(index) => index + 1,
            Err(index) => index,
        };
        self.places.range_mut(start..).filter_map(|(_, item)| item.as_mut())
    }

    /// How many are with their handlers.
    fn running(&self) -> usize {
        self.places.iter().filter(|(_, item)| matches!(item, Some(Item::Running { .. }))).count()
    }

    fn tidy(&mut self) {
        while let Some((_, None)) = self.places.front() {
            self.places.pop_front();
            self.holes -= 1;
        }
        // One that stays for long must not keep the places of all that came and went since.
        if self.holes > KEPT && self.holes > self.places.len() / 2 {
            self.places.retain(|(_, item)| item.is_some());
            self.holes = 0;
        }
        if self.places.is_empty() && self.places.capacity() > KEPT {
            self.places = VecDeque::new();
        }
    }
}

/// What an item counts against the window.
fn cost(bytes: usize) -> u64 {
    (bytes + ITEM_COST) as u64
}

/// Refusals remembered for a client that may not have heard of them.
const REJECTS: usize = 1000;

#[cfg(test)]
mod tests;
