//! The outgoing half of a connection: frames to bytes to socket, many a system call.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};

use bytes::{Bytes, BytesMut};
use lifeline_proto::close::truncate_reason;
use lifeline_proto::frame::{Opcode, Role, put_frame, put_header};

use crate::memory::SharedFrame;
use crate::outlet::{Ending, Item, Outlet};
use crate::stream::Stream;
use tokio::net::TcpStream;

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

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Writer {
    /// The socket, where the application's thread may write to it.
    pub direct: Option<Arc<TcpStream>>,
    backlog: VecDeque<Chunk>,
    marks: VecDeque<Mark>,
    /// Bytes put into the backlog since the beginning.
    queued: u64,
    /// Bytes written since the beginning.
    written: u64,
    /// Answers to pings. RFC 6455 section 5.5.3 allows to answer only the latest: so of many, the
    /// oldest go unanswered.
    pongs: VecDeque<Bytes>,
    /// A beat to be sent: a ping's payload or an application's text.
    beat: Option<(Opcode, Bytes)>,
    /// Answers to the peer's own beats.
    replies: u32,
    /// The close frame's payload, to be sent as soon as a frame ends; nothing follows it.
    close: Option<Bytes>,
    close_queued: bool,
}

impl Writer {
    pub fn add_pong(&mut self, payload: Bytes) {
        if self.pongs.len() >= PONGS {
            self.pongs.pop_front();
        }
        self.pongs.push_back(payload);
    }

    pub fn set_beat(&mut self, opcode: Opcode, payload: Bytes) {
        self.beat = Some((opcode, payload));
    }

    /// Sends a close frame before anything that is still queued, and nothing after it.
    pub fn set_close(&mut self, payload: Bytes) {
        if !self.close_queued && self.close.is_none() {
            self.close = Some(payload);
        }
    }

    pub fn is_blocked(&self) -> bool {
        !self.backlog.is_empty()
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

    /// Writes until the socket blocks or nothing is left. `more` false: only what was encoded before
    /// and control frames.
    pub fn poll(&mut self, stream: &mut Stream, outlet: &Outlet, role: Role, task: &mut TaskContext<'_>) -> Written {
        let mut result = Written::default();
        loop {
            if self.backlog.is_empty() {
                self.fill(outlet, role);
                if self.backlog.is_empty() {
                    self.replies = 0;
                    if let Poll::Ready(Err(error)) = stream.poll_flush(task) {
                        result.failed = Some(error);
                    }
                    return result;
                }
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            for (slice, chunk) in slices.iter_mut().zip(&self.backlog) {
                *slice = IoSlice::new(&chunk.bytes);
                used += 1;
            }
            match stream.poll_write_vectored(task, &slices[..used]) {
                Poll::Ready(Ok(0)) => {
                    result.failed = Some(std::io::ErrorKind::WriteZero.into());
                    return result;
                }
                Poll::Ready(Ok(count)) => {
                    result.progress = true;
                    self.advance(count, outlet, &mut result);
                }
                Poll::Ready(Err(error)) => {
                    result.failed = Some(error);
                    return result;
                }
                Poll::Pending => {
                    result.blocked = true;
                    self.unpin_scratch();
                    return result;
                }
            }
        }
    }

    /// Writes from a thread that is not the task's: data only, on a plain socket that has taken everything
    /// so far. False: the task has something to do.
    pub fn write_now(&mut self, outlet: &Outlet) -> bool {
        if !self.backlog.is_empty() || self.beat.is_some() || self.close.is_some() || self.close_queued {
            return false;
        }
        let Some(direct) = self.direct.clone() else { return false };
        if outlet.queue.lock().ending.is_some() || outlet.congested.load(Ordering::Relaxed) {
            return false;
        }
        let mut result = Written::default();
        let done = loop {
            self.fill(outlet, Role::Server);
            // An ending that came meanwhile is the task's to finish.
            if self.backlog.is_empty() {
                break !self.close_queued;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            for (slice, chunk) in slices.iter_mut().zip(&self.backlog) {
                *slice = IoSlice::new(&chunk.bytes);
                used += 1;
            }
            match direct.try_write_vectored(&slices[..used]) {
                Ok(count) if count > 0 => self.advance(count, outlet, &mut result),
                // The task meets the error or waits for the socket.
                _ => break false,
            }
            if !self.backlog.is_empty() {
                break false;
            }
        };
        self.unpin_scratch();
        self.replies = 0;
        outlet.counters.bytes_out.fetch_add(result.bytes, Ordering::Relaxed);
        done
    }

    /// Forgets everything that was not written.
    pub fn clear(&mut self, outlet: &Outlet) {
        self.direct = None;
        self.backlog.clear();
        for mark in self.marks.drain(..) {
            if mark.kind == Kind::Data {
                outlet.release_sizes(mark.size, mark.charge);
            }
        }
    }

    /// Encodes control frames and a batch of the queue into the backlog.
    fn fill(&mut self, outlet: &Outlet, role: Role) {
        SCRATCH.with_borrow_mut(|scratch| {
            let mask = || (role == Role::Client).then(rand::random::<[u8; 4]>);
            for payload in std::mem::take(&mut self.pongs) {
                if !self.close_queued {
                    outlet.trace(|| format!("sending pong of {} bytes", payload.len()));
                    put_frame(scratch, Opcode::Pong, &payload, mask());
                    self.mark(scratch, 0, 0, 0, Kind::Control, None);
                }
            }
            if let Some((opcode, payload)) = self.beat.take()
                && !self.close_queued
            {
                outlet.trace(|| "sending a heartbeat".to_owned());
                put_frame(scratch, opcode, &payload, mask());
                self.mark(scratch, 0, 0, 0, Kind::Beat, None);
            }
            if self.close.is_none() && !self.close_queued {
                let mut queue = outlet.queue.lock();
                let mut taken = 0;
                while taken < BATCH && self.backlog.len() < SLICES - 2 {
                    let Some(item) = queue.items.pop_front() else { break };
                    let (size, charge) = (item.size(), item.charge());
                    taken += size.max(1);
                    let only = queue.items.is_empty() && scratch.is_empty() && self.backlog.is_empty();
                    match item {
                        Item::Message { data, binary, sequence } => {
                            let opcode = if binary { Opcode::Binary } else { Opcode::Text };
                            outlet.trace(|| format!("sending {opcode:?} of {size} bytes").to_lowercase());
                            if role == Role::Client || data.len() <= COPY {
                                put_frame(scratch, opcode, &data, mask());
                            } else {
                                put_header(scratch, true, false, opcode, data.len(), None);
                                self.move_scratch(scratch);
                                self.queued += data.len() as u64;
                                self.backlog.push_back(Chunk { bytes: data, scratch: false });
                            }
                            self.mark(scratch, size, charge, sequence, Kind::Data, None);
                        }
                        Item::Shared(frame) => {
                            outlet.trace(|| format!("sending a shared frame of {size} bytes"));
                            if frame.wire.len() <= COPY_SHARED && !only {
                                scratch.extend_from_slice(&frame.wire);
                            } else {
                                self.move_scratch(scratch);
                                self.queued += frame.wire.len() as u64;
                                self.backlog.push_back(Chunk { bytes: frame.wire.clone(), scratch: false });
                            }
                            self.mark(scratch, size, charge, 0, Kind::Data, Some(frame));
                        }
                        Item::Ping(payload) => {
                            outlet.trace(|| format!("sending ping of {size} bytes"));
                            put_frame(scratch, Opcode::Ping, &payload, mask());
                            self.mark(scratch, size, charge, 0, Kind::Data, None);
                        }
                    }
                }
                if queue.items.is_empty() {
                    if queue.items.capacity() > 64 {
                        queue.items = VecDeque::new();
                    }
                    if let Some(Ending::Close { wire, reason, .. }) = &queue.ending {
                        self.close = Some(close_payload(*wire, reason));
                    }
                }
            }
            if let Some(payload) = self.close.take() {
                outlet.trace(|| "sending close".to_owned());
                put_frame(scratch, Opcode::Close, &payload, mask());
                self.mark(scratch, 0, 0, 0, Kind::Close, None);
                self.close_queued = true;
            }
            self.move_scratch(scratch);
        });
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
        // One large burst must not keep its room for the life of the connection.
        if self.backlog.is_empty() && self.backlog.capacity() > 16 {
            self.backlog = VecDeque::new();
        }
        if self.marks.is_empty() && self.marks.capacity() > 64 {
            self.marks = VecDeque::new();
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

/// RFC 6455 section 5.5.1. The reason is cut to fit.
pub fn close_payload(code: u16, reason: &str) -> Bytes {
    let reason = truncate_reason(reason);
    let mut payload = BytesMut::with_capacity(2 + reason.len());
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(reason.as_bytes());
    payload.freeze()
}
