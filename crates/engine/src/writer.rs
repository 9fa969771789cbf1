//! The outgoing half of a connection: frames to bytes to socket, many a system call.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};

use bytes::{Bytes, BytesMut};
use lifeline_proto::close::truncate_reason;
use lifeline_proto::frame::{Opcode, Role, apply_mask, put_frame, put_header};
use lifeline_proto::v1::wire::MessageHeader;
use parking_lot::MutexGuard;

use crate::deflate::Compression;
use crate::memory::SharedFrame;
use crate::outlet::{Ending, Item, Outlet};
use crate::stream::{SharedWriter, Stream};

/// A batch taken from the queue at a time, in bytes: what a slow peer holds here and can no longer be
/// dropped by the slow-consumer policy.
const BATCH: usize = 64 * 1024;
/// Payloads up to this size are copied next to their header; larger ones go out from where they lie.
const COPY: usize = 2048;
/// A shared frame up to this size is copied when it is not alone.
const COPY_SHARED: usize = 512;
/// Pings that are answered each; of more in one turn, the latest.
const PONGS: usize = 16;
/// Slices a system call.
const SLICES: usize = 32;

thread_local! {
    /// Where small frames are encoded. Empty between calls.
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(2 * BATCH));
    /// An empty batch with room.
    static SPARE: Cell<Option<Box<Batch>>> = const { Cell::new(None) };
}

/// What is to be done when the byte at `end` has been written.
#[derive(Debug)]
struct Mark {
    /// Offset in the stream of all bytes ever put into the backlog.
    end: u64,
    size: usize,
    charge: usize,
    sequence: u64,
    kind: Kind,
    _frame: Option<Arc<SharedFrame>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Control,
    Beat,
    Close,
}

/// Bytes to be written.
#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    /// A part of the thread's scratch block, which must not be kept alive for long.
    scratch: bool,
}

/// What a write achieved.
#[derive(Debug, Default)]
pub struct Written {
    pub progress: bool,
    /// Bytes wait for the socket.
    pub blocked: bool,
    /// A heartbeat has left.
    pub beat: bool,
    /// The close frame has left.
    pub close: bool,
    /// The highest outbox number that has left; 0: none.
    pub sequence: u64,
    pub bytes: u64,
    /// The socket failed, after what is told above.
    pub failed: Option<std::io::Error>,
}

/// Frames on their way to the socket, and what is to be done when they have left. Most batches are
/// written at once, so each thread has one for all its connections; a connection has one of its own
/// only while its socket blocks.
#[derive(Debug, Default)]
struct Batch {
    backlog: VecDeque<Chunk>,
    marks: VecDeque<Mark>,
    /// Bytes put into the backlog since it was empty.
    queued: u64,
    /// Bytes of these written.
    written: u64,
}

/// What goes out besides the queue. None for most of the time.
#[derive(Debug, Default)]
struct Extras {
    /// Answers to pings. RFC 6455 section 5.5.3 allows to answer only the latest: so of many, the
    /// oldest go unanswered.
    pongs: VecDeque<Bytes>,
    /// A beat to be sent: a ping's payload or an application's text.
    beat: Option<(Opcode, Bytes)>,
    /// The close frame's payload, to be sent as soon as a frame ends; nothing follows it.
    close: Option<Bytes>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Writer {
    /// The socket, where it is one that two threads may write to.
    pub direct: Option<SharedWriter>,
    /// What the socket did not take.
    parked: Option<Box<Batch>>,
    extras: Option<Box<Extras>>,
    /// Answers to the peer's own beats.
    replies: u32,
    close_queued: bool,
}

impl Writer {
    pub fn add_pong(&mut self, payload: Bytes) {
        let pongs = &mut self.extras.get_or_insert_default().pongs;
        if pongs.len() >= PONGS {
            pongs.pop_front();
        }
        pongs.push_back(payload);
    }

    pub fn set_beat(&mut self, opcode: Opcode, payload: Bytes) {
        self.extras.get_or_insert_default().beat = Some((opcode, payload));
    }

    /// Sends a close frame before anything that is still queued, and nothing after it.
    pub fn set_close(&mut self, payload: Bytes) {
        if !self.close_queued {
            self.extras.get_or_insert_default().close.get_or_insert(payload);
        }
    }

    pub fn is_blocked(&self) -> bool {
        self.parked.is_some()
    }

    /// Queues an answer to an application-level beat; false when too many wait already.
    pub fn reply(&mut self, outlet: &Outlet, text: &str) -> bool {
        // An answer that cannot be sent is no answer: a flood of beats must not fill memory.
        if self.is_blocked() && self.replies >= 16 {
            return false;
        }
        self.replies += 1;
        let sent =
            outlet.push(Item::Message { data: Bytes::copy_from_slice(text.as_bytes()), binary: false, sequence: 0 });
        sent == crate::bridge::Sent::Queued
    }

    /// Writes until the socket blocks or nothing is left. `last`: the socket is closed after that.
    pub fn poll(
        &mut self,
        stream: &mut Stream,
        outlet: &Outlet,
        role: Role,
        last: bool,
        task: &mut TaskContext<'_>,
    ) -> Written {
        let mut result = Written::default();
        let mut batch = self.parked.take().unwrap_or_else(take_spare);
        loop {
            if batch.backlog.is_empty() {
                self.fill(&mut batch, outlet, role);
                if batch.backlog.is_empty() {
                    self.replies = 0;
                    if let Poll::Ready(Err(error)) = stream.poll_flush(task) {
                        result.failed = Some(error);
                    }
                    break;
                }
            }
            let written = batch.write(|slices| match &self.direct {
                Some(direct) => direct.poll_write_vectored(task, slices, last),
                None => stream.poll_write_vectored(task, slices),
            });
            match written {
                Poll::Ready(Ok(0)) => {
                    result.failed = Some(std::io::ErrorKind::WriteZero.into());
                    break;
                }
                Poll::Ready(Ok(count)) => {
                    result.progress = true;
                    batch.advance(count, outlet, &mut result);
                }
                Poll::Ready(Err(error)) => {
                    result.failed = Some(error);
                    break;
                }
                Poll::Pending => {
                    result.blocked = true;
                    break;
                }
            }
        }
        self.put_back(batch);
        result
    }

    /// Writes from a thread that is not the task's: data only, on a plain socket that has taken everything
    /// so far. False: the task has something to do.
    pub fn write_now(&mut self, outlet: &Outlet) -> bool {
        if !self.may_write_now(outlet) {
            return false;
        }
        let single = {
            let mut queue = outlet.queue.lock();
            if queue.ending.is_some() || outlet.congested.load(Ordering::Relaxed) {
                return false;
            }
            let keeps_context = outlet.compression().is_some_and(Compression::deflates_with_context);
            let is_short = match queue.items.front() {
                // Its session may have more; and what was compressed with a context cannot go back to the queue.
                _ if outlet.is_lifeline() || keeps_context => false,
                Some(Item::Message { data, .. }) => data.len() <= COPY,
                Some(Item::Shared(_)) => true,
                Some(Item::Stream { .. } | Item::Ping(_)) | None => false,
            };
            if is_short && queue.items.len() == 1 { queue.items.pop_front() } else { None }
        };
        if let Some(item) = single {
            let written = self.write_single(outlet, &item);
            if written.is_none() {
                outlet.queue.lock().items.push_front(item);
            }
            return written == Some(true);
        }
        let mut result = Written::default();
        let mut batch = take_spare();
        let done = loop {
            self.fill(&mut batch, outlet, Role::Server);
            // An ending that came meanwhile is the task's to finish.
            if batch.backlog.is_empty() {
                break !self.close_queued;
            }
            match batch.write(|slices| self.direct.as_ref().map(|direct| direct.try_write_vectored(slices))) {
                Some(Ok(count)) if count > 0 => batch.advance(count, outlet, &mut result),
                // The task meets the error or waits for the socket.
                _ => break false,
            }
            if !batch.backlog.is_empty() {
                break false;
            }
        };
        self.put_back(batch);
        self.replies = 0;
        outlet.counters.bytes_out.fetch_add(result.bytes, Ordering::Relaxed);
        done
    }

    /// Writes a message from where it lies, if nothing is to leave before it. False: nothing of it was
    /// written. Keeps what the socket does not take, for the task.
    pub fn send_now(&mut self, outlet: &Outlet, data: &[u8], binary: bool) -> bool {
        if !self.may_write_now(outlet) {
            return false;
        }
        {
            let queue = outlet.queue.lock();
            if queue.ending.is_some() || !queue.items.is_empty() {
                return false;
            }
        }
        let opcode = if binary { Opcode::Binary } else { Opcode::Text };
        let compression = outlet.compression().filter(|compression| compression.wants(data.len()));
        let compressed = compression.and_then(|compression| {
            compression.compress(&[data], |payload| self.send_payload_now(outlet, (opcode, true), payload, data.len()))
        });
        compressed.unwrap_or_else(|| self.send_payload_now(outlet, (opcode, false), data, data.len()))
    }

    /// What is compressed is kept for the task if the socket takes nothing: it is not to be made, or counted, again.
    fn send_payload_now(
        &mut self,
        outlet: &Outlet,
        (opcode, compressed): (Opcode, bool),
        payload: &[u8],
        size: usize,
    ) -> bool {
        SCRATCH.with_borrow_mut(|scratch| {
            put_header(scratch, true, compressed, opcode, payload.len(), None);
            let parts = [IoSlice::new(scratch), IoSlice::new(payload)];
            let whole = || Bytes::from([&scratch[..], payload].concat());
            let rest = self.write_parts(outlet, &parts).or_else(|| compressed.then(whole));
            scratch.clear();
            let Some(rest) = rest else { return false };
            outlet.trace(|| format!("sending {opcode:?} of {size} bytes").to_lowercase());
            if !rest.is_empty() {
                let (size, charge) = outlet.add_written(size);
                self.park(rest, size, charge, None);
            }
            true
        })
    }

    /// Whether a thread that is not the task's may write, as far as is known here. Clients' writes are
    /// acknowledged to their outbox, which only the task does.
    fn may_write_now(&self, outlet: &Outlet) -> bool {
        let busy = self.parked.is_some() || self.extras.is_some() || self.close_queued;
        !busy && self.direct.is_some() && outlet.context.role == Role::Server
    }

    /// Returns a copy of what is left; None: nothing was written.
    fn write_parts(&self, outlet: &Outlet, parts: &[IoSlice<'_>]) -> Option<Bytes> {
        let mut count = self.direct.as_ref()?.try_write_vectored(parts).ok()?;
        outlet.counters.bytes_out.fetch_add(count as u64, Ordering::Relaxed);
        let mut rest = Vec::new();
        for part in parts {
            rest.extend_from_slice(part.get(count..).unwrap_or_default());
            count = count.saturating_sub(part.len());
        }
        Some(rest.into())
    }

    /// Writes the one item that there is, without the book-keeping of a batch. None: nothing of it was
    /// written, and it is still to be queued; `Some(false)`: the rest is kept for the task.
    fn write_single(&mut self, outlet: &Outlet, item: &Item) -> Option<bool> {
        let size = item.size();
        let (rest, frame) = match item {
            Item::Shared(frame) => {
                outlet.trace(|| format!("sending a shared frame of {size} bytes"));
                let wire = frame.wire_for(outlet.compression());
                let taken = self.direct.as_ref()?.try_write_vectored(&[IoSlice::new(wire)]).ok();
                // Compressed, it is not to be counted again.
                let count = taken.or_else(|| (!std::ptr::eq(wire, &raw const frame.wire)).then_some(0))?;
                outlet.counters.bytes_out.fetch_add(count as u64, Ordering::Relaxed);
                (wire.slice(count..), Some(frame.clone()))
            }
            Item::Message { data, binary, .. } => SCRATCH.with_borrow_mut(|scratch| {
                let opcode = if *binary { Opcode::Binary } else { Opcode::Text };
                outlet.trace(|| format!("sending {opcode:?} of {size} bytes").to_lowercase());
                let compressed = put_compressed(scratch, outlet, opcode, &[data], None);
                if !compressed {
                    put_frame(scratch, opcode, data, None);
                }
                let rest = self.write_parts(outlet, &[IoSlice::new(scratch)]);
                let rest = rest.or_else(|| compressed.then(|| Bytes::copy_from_slice(scratch)));
                scratch.clear();
                rest.map(|rest| (rest, None))
            })?,
            Item::Stream { .. } | Item::Ping(_) => return None,
        };
        self.replies = 0;
        let done = rest.is_empty();
        if done {
            outlet.release(item);
        } else {
            self.park(rest, size, item.charge(), frame);
        }
        Some(done)
    }

    /// Keeps what the socket did not take of a message.
    fn park(&mut self, rest: Bytes, size: usize, charge: usize, frame: Option<Arc<SharedFrame>>) {
        let mut batch = take_spare();
        batch.queued = rest.len() as u64;
        batch.marks.push_back(Mark { end: batch.queued, size, charge, sequence: 0, kind: Kind::Data, _frame: frame });
        batch.backlog.push_back(Chunk { bytes: rest, scratch: false });
        self.put_back(batch);
    }

    /// Forgets everything that was not written.
    pub fn clear(&mut self, outlet: &Outlet) {
        self.direct = None;
        self.extras = None;
        for mark in self.parked.take().into_iter().flat_map(|batch| batch.marks) {
            if mark.kind == Kind::Data {
                outlet.release_sizes(mark.size, mark.charge);
            }
        }
    }

    /// Keeps what the socket did not take; the room of what it took is for the next.
    fn put_back(&mut self, mut batch: Box<Batch>) {
        if batch.backlog.is_empty() && batch.marks.is_empty() {
            batch.queued = 0;
            batch.written = 0;
            batch.backlog.shrink_to(SLICES);
            batch.marks.shrink_to(1024);
            SPARE.set(Some(batch));
        } else {
            batch.unpin_scratch();
            self.parked = Some(batch);
        }
    }

    /// Encodes control frames and a batch of the queue into the backlog.
    fn fill(&mut self, batch: &mut Batch, outlet: &Outlet, role: Role) {
        SCRATCH.with_borrow_mut(|scratch| {
            let mask = || (role == Role::Client).then(rand::random::<[u8; 4]>);
            let Extras { pongs, beat, mut close } = self.extras.take().map_or_else(Extras::default, |extras| *extras);
            for payload in pongs {
                if !self.close_queued {
                    outlet.trace(|| format!("sending pong of {} bytes", payload.len()));
                    put_frame(scratch, Opcode::Pong, &payload, mask());
                    batch.mark(scratch, 0, 0, 0, Kind::Control, None);
                }
            }
            if let Some((opcode, payload)) = beat
                && !self.close_queued
            {
                outlet.trace(|| "sending a heartbeat".to_owned());
                put_frame(scratch, opcode, &payload, mask());
                batch.mark(scratch, 0, 0, 0, Kind::Beat, None);
            }
            if close.is_none() && !self.close_queued {
                let (mut count, mut taken) = (0, 0);
                let mut uncompressed = Vec::new();
                let all = outlet.refill(|sequence, acknowledged, data, binary| {
                    outlet.trace(|| format!("sending message {sequence} of {} bytes", data.len()));
                    count += 1;
                    taken += data.len();
                    // The sessions are locked: compressing has to wait.
                    if outlet.compression().is_some() {
                        uncompressed.push((sequence, acknowledged, data.clone(), binary));
                        return taken < BATCH && count < SLICES / 2 - 1;
                    }
                    put_message_header(scratch, sequence, acknowledged, binary, data.len());
                    batch.put_payload(scratch, data);
                    taken + scratch.len() < BATCH && batch.backlog.len() < SLICES - 2
                });
                for (sequence, acknowledged, data, binary) in uncompressed {
                    batch.put_stream(scratch, outlet, sequence, acknowledged, &data, binary);
                }
                if count > 0 {
                    let (size, charge) = outlet.add_streamed(count, taken);
                    batch.mark(scratch, size, charge, 0, Kind::Data, None);
                }
                let mut queue = outlet.queue.lock();
                while taken < BATCH && batch.backlog.len() < SLICES - 2 {
                    let Some(item) = queue.items.pop_front() else { break };
                    let (size, charge) = (item.size(), item.charge());
                    taken += size.max(1);
                    let only = queue.items.is_empty() && scratch.is_empty() && batch.backlog.is_empty();
                    // Who has more to send need not wait for a compressor.
                    let mut compress = |opcode, payload: &[u8]| {
                        let wanted = outlet.compression().is_some_and(|compression| compression.wants(payload.len()));
                        wanted
                            && MutexGuard::unlocked(&mut queue, || {
                                batch.put_compressed(scratch, outlet, opcode, &[payload], mask())
                            })
                    };
                    match item {
                        Item::Message { data, binary, sequence } => {
                            let opcode = if binary { Opcode::Binary } else { Opcode::Text };
                            outlet.trace(|| format!("sending {opcode:?} of {size} bytes").to_lowercase());
                            if compress(opcode, &data) {
                                // It is there.
                            } else if role == Role::Client || data.len() <= COPY {
                                put_frame(scratch, opcode, &data, mask());
                            } else {
                                put_header(scratch, true, false, opcode, data.len(), None);
                                batch.move_scratch(scratch);
                                batch.queued += data.len() as u64;
                                batch.backlog.push_back(Chunk { bytes: data, scratch: false });
                            }
                            batch.mark(scratch, size, charge, sequence, Kind::Data, None);
                        }
                        Item::Stream { sequence, acknowledged, data, binary } => {
                            outlet.trace(|| format!("sending message {sequence} of {size} bytes"));
                            let mut put = || batch.put_stream(scratch, outlet, sequence, acknowledged, &data, binary);
                            match outlet.compression() {
                                Some(_) => MutexGuard::unlocked(&mut queue, put),
                                None => put(),
                            }
                            batch.mark(scratch, size, charge, 0, Kind::Data, None);
                        }
                        Item::Shared(frame) => {
                            outlet.trace(|| format!("sending a shared frame of {size} bytes"));
                            let keeps_context = outlet.compression().is_some_and(Compression::deflates_with_context);
                            if !(keeps_context && compress(frame.opcode(), frame.payload())) {
                                let wire = match outlet.compression().filter(|_| !keeps_context) {
                                    Some(own) => MutexGuard::unlocked(&mut queue, || frame.wire_for(Some(own))),
                                    None => &frame.wire,
                                };
                                if wire.len() <= COPY_SHARED && !only {
                                    scratch.extend_from_slice(wire);
                                } else {
                                    batch.move_scratch(scratch);
                                    batch.queued += wire.len() as u64;
                                    batch.backlog.push_back(Chunk { bytes: wire.clone(), scratch: false });
                                }
                            }
                            batch.mark(scratch, size, charge, 0, Kind::Data, Some(frame));
                        }
                        Item::Ping(payload) => {
                            outlet.trace(|| format!("sending ping of {size} bytes"));
                            put_frame(scratch, Opcode::Ping, &payload, mask());
                            batch.mark(scratch, size, charge, 0, Kind::Data, None);
                        }
                    }
                }
                if all && queue.items.is_empty() {
                    if queue.items.capacity() > 64 {
                        queue.items = VecDeque::new();
                    }
                    if let Some(Ending::Close { wire, reason, .. }) = queue.ending.as_deref() {
                        close = Some(close_payload(*wire, reason));
                    }
                }
            }
            if let Some(payload) = close.filter(|_| !self.close_queued) {
                outlet.trace(|| "sending close".to_owned());
                put_frame(scratch, Opcode::Close, &payload, mask());
                batch.mark(scratch, 0, 0, 0, Kind::Close, None);
                self.close_queued = true;
            }
            batch.move_scratch(scratch);
        });
    }
}

impl Batch {
    /// Offers the socket what one call may take.
    fn write<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.backlog) {
            *slice = IoSlice::new(&chunk.bytes);
            used += 1;
        }
        write(&slices[..used])
    }

    /// Notes that a frame ends where the scratch buffer ends now.
    fn mark(
        &mut self,
        scratch: &BytesMut,
        size: usize,
        charge: usize,
        sequence: u64,
        kind: Kind,
        frame: Option<Arc<SharedFrame>>,
    ) {
        let end = self.queued + scratch.len() as u64;
        self.marks.push_back(Mark { end, size, charge, sequence, kind, _frame: frame });
    }

    /// A message of a session's stream.
    fn put_stream(
        &mut self,
        scratch: &mut BytesMut,
        outlet: &Outlet,
        sequence: u64,
        acknowledged: u64,
        data: &Bytes,
        binary: bool,
    ) {
        if outlet.compression().is_some_and(|compression| compression.wants(data.len())) {
            let opcode = if binary { Opcode::Binary } else { Opcode::Text };
            let header = MessageHeader::new(sequence, (acknowledged > 0).then_some(acknowledged));
            if self.put_compressed(scratch, outlet, opcode, &[&header, data], None) {
                return;
            }
        }
        put_message_header(scratch, sequence, acknowledged, binary, data.len());
        self.put_payload(scratch, data);
    }

    /// A message that is to be compressed; false: nothing was gained, and nothing was put.
    fn put_compressed(
        &mut self,
        scratch: &mut BytesMut,
        outlet: &Outlet,
        opcode: Opcode,
        parts: &[&[u8]],
        mask: Option<[u8; 4]>,
    ) -> bool {
        let put = put_compressed(scratch, outlet, opcode, parts, mask);
        // The scratch block is not to grow with each message.
        if scratch.len() >= BATCH {
            self.move_scratch(scratch);
        }
        put
    }

    fn put_payload(&mut self, scratch: &mut BytesMut, data: &Bytes) {
        if data.len() <= COPY {
            scratch.extend_from_slice(data);
        } else {
            self.move_scratch(scratch);
            self.queued += data.len() as u64;
            self.backlog.push_back(Chunk { bytes: data.clone(), scratch: false });
        }
    }

    fn move_scratch(&mut self, scratch: &mut BytesMut) {
        if !scratch.is_empty() {
            self.queued += scratch.len() as u64;
            self.backlog.push_back(Chunk { bytes: scratch.split().freeze(), scratch: true });
            scratch.reserve(BATCH);
        }
    }

    fn advance(&mut self, mut count: usize, outlet: &Outlet, result: &mut Written) {
        result.bytes += count as u64;
        self.written += count as u64;
        while let Some(first) = self.backlog.front_mut() {
            if first.bytes.len() > count {
                let _ = first.bytes.split_to(count);
                break;
            }
            count -= first.bytes.len();
            self.backlog.pop_front();
        }
        while self.marks.front().is_some_and(|mark| mark.end <= self.written) {
            let Some(mark) = self.marks.pop_front() else { break };
            match mark.kind {
                Kind::Data => {
                    outlet.release_sizes(mark.size, mark.charge);
                    result.sequence = result.sequence.max(mark.sequence);
                }
                Kind::Beat => result.beat = true,
                Kind::Close => result.close = true,
                Kind::Control => {}
            }
        }
    }

    /// What stays behind must not keep the thread's scratch block alive.
    fn unpin_scratch(&mut self) {
        for chunk in &mut self.backlog {
            if chunk.scratch {
                *chunk = Chunk { bytes: Bytes::copy_from_slice(&chunk.bytes), scratch: false };
            }
        }
    }
}

/// A frame with a message that is long enough to be compressed, where that was agreed on; false: it is to be sent
/// as it is.
fn put_compressed(
    scratch: &mut BytesMut,
    outlet: &Outlet,
    opcode: Opcode,
    parts: &[&[u8]],
    mask: Option<[u8; 4]>,
) -> bool {
    let size = parts.iter().map(|part| part.len()).sum();
    let Some(compression) = outlet.compression().filter(|compression| compression.wants(size)) else { return false };
    let put = compression.compress(parts, |payload| {
        put_header(scratch, true, true, opcode, payload.len(), mask);
        let start = scratch.len();
        scratch.extend_from_slice(payload);
        if let Some(key) = mask {
            apply_mask(&mut scratch[start..], key, 0);
        }
    });
    put.is_some()
}

/// The header of the frame and that of the message in it, of a session's stream.
fn put_message_header(scratch: &mut BytesMut, sequence: u64, acknowledged: u64, binary: bool, payload: usize) {
    let opcode = if binary { Opcode::Binary } else { Opcode::Text };
    let header = MessageHeader::new(sequence, (acknowledged > 0).then_some(acknowledged));
    put_header(scratch, true, false, opcode, header.len() + payload, None);
    scratch.extend_from_slice(&header);
}

#[expect(clippy::unnecessary_box_returns, reason = "the allocation is what is kept and used again")]
fn take_spare() -> Box<Batch> {
    SPARE.take().unwrap_or_default()
}

/// RFC 6455 section 5.5.1. The reason is cut to fit.
pub fn close_payload(code: u16, reason: &str) -> Bytes {
    let reason = truncate_reason(reason);
    let mut payload = BytesMut::with_capacity(2 + reason.len());
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(reason.as_bytes());
    payload.freeze()
}
