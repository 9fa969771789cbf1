//! What gateway and workers say to each other, and its framing. No I/O.
//!
//! A stream of frames: four bytes, the length of what follows in little-endian order, then messages in postcard's encoding,
//! one behind the other. A frame is dealt with as a whole or not at all, so that what a worker has done for a message and
//! that it is through with it are known together. A worker's first frame is its greeting, whose first bytes say which
//! version of this it speaks: both ends are the same program, unless it was replaced on disk.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

use crate::bridge::{Command, CommandError, DeliveryId, EndpointId, Event, Reply};

/// Bytes that a frame may have after its length.
pub const MAX_FRAME: usize = 1 << 30;
/// The same of the first frame, a greeting: who sends it may be a stranger.
pub const MAX_GREETING: usize = 64 * 1024;
/// Messages are gathered in frames of about this size.
pub const FULL_FRAME: usize = 64 * 1024;
/// Changes whenever the meaning of a message does.
pub const VERSION: u16 = 1;
const MAGIC: &[u8] = b"lifeline-worker";
/// Bytes of the length.
const HEADER: usize = 4;
/// How much room is made at once for what is read.
pub const READ: usize = 64 * 1024;

/// What a worker's callbacks want to be asked; see [`crate::config::ServerConfig`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a callback that is set or not")]
pub struct Questions {
    pub ask_handshake: bool,
    pub authenticate: bool,
    pub authorise: bool,
    pub snapshots: bool,
    pub announce_members: bool,
}

/// From the gateway.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// The answer to [`Greeting::Hello`]: events follow.
    Welcome {
        server: EndpointId,
        addresses: Vec<Arc<str>>,
    },
    Event(Event),
    /// To [`ToGateway::Question`] of that number.
    Answer(u64, Result<Reply, CommandError>),
    /// To be repeated by a worker that dispatches.
    Beat(u32),
}

/// A worker's first word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Greeting {
    /// It has called `run()` or `start()`.
    Hello { questions: Questions },
    /// It ends before that, and why.
    Explain(String),
}

/// From a worker that was welcomed.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToGateway {
    /// To be carried out; what it replies nobody wants to know.
    Command(Command),
    /// To be carried out and answered.
    Question(u64, Command),
    /// An item that was handed out has been handled well.
    Handled(DeliveryId),
    Beat(u32),
}

/// What cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a frame of {length} bytes, allowed are 1 to {limit}")]
    Length { length: usize, limit: usize },
    #[error("{bytes} bytes of a frame cannot be read as {what}")]
    Malformed { what: &'static str, bytes: usize },
    #[error("it does not begin with a worker's greeting")]
    Stranger,
    #[error(
        "it speaks version {theirs} of the workers' protocol, this process {VERSION}: the extension was replaced, restart the server"
    )]
    Version { theirs: u16 },
    #[error("its extension is lifeline {0}, this process has {here}: restart the server", here = env!("CARGO_PKG_VERSION"))]
    Build(String),
}

/// Frames that are being written.
#[derive(Debug, Default)]
pub struct Writer {
    buffer: Vec<u8>,
    /// Where the frame begins that is not complete, if there is one.
    open: Option<usize>,
}

impl Writer {
    /// Adds a message to the present frame.
    ///
    /// # Errors
    /// For what does not travel (postcard's text): nothing has changed then. A frame that would be too long.
    pub fn add<T: Serialize>(&mut self, message: &T) -> Result<(), String> {
        let start = *self.open.get_or_insert_with(|| {
            let start = self.buffer.len();
            self.buffer.extend_from_slice(&[0; HEADER]);
            start
        });
        let before = self.buffer.len();
        let result = postcard::serialize_with_flavor(message, Tail(&mut self.buffer));
        let error = match result {
            Ok(()) if self.buffer.len() - start - HEADER <= MAX_FRAME => return Ok(()),
            Ok(()) => format!("{} bytes, a process can hand over at most {MAX_FRAME}", self.buffer.len() - before),
            Err(error) => error.to_string(),
        };
        self.buffer.truncate(before);
        if before == start + HEADER {
            self.buffer.truncate(start);
            self.open = None;
        }
        Err(error)
    }

    /// The present frame is complete; the next message begins another.
    pub fn end_frame(&mut self) {
        if let Some(start) = self.open.take() {
            let length = (self.buffer.len() - start - HEADER) as u32;
            self.buffer[start..start + HEADER].copy_from_slice(&length.to_le_bytes());
        }
    }

    /// Bytes of the present frame so far.
    pub fn frame_len(&self) -> usize {
        self.open.map_or(0, |start| self.buffer.len() - start)
    }

    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// What is to be sent, all of it complete frames after [`Writer::end_frame`].
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// The first `count` bytes were sent.
    pub fn advance(&mut self, count: usize) {
        debug_assert!(self.open.is_none(), "a frame that is not complete does not go out");
        if count >= self.buffer.len() {
            self.buffer.clear();
            // What one long message has needed is not kept.
            self.buffer.shrink_to(4 * FULL_FRAME);
        } else {
            self.buffer.drain(..count);
        }
    }

    /// All that is to be sent; it is empty afterwards.
    pub fn take(&mut self) -> Vec<u8> {
        self.end_frame();
        std::mem::take(&mut self.buffer)
    }
}

/// A worker's first frame.
pub fn greet(writer: &mut Writer, greeting: &Greeting) {
    writer.end_frame();
    let mut text = MAGIC.to_vec();
    text.extend_from_slice(&VERSION.to_le_bytes());
    let build = env!("CARGO_PKG_VERSION");
    text.push(build.len() as u8);
    text.extend_from_slice(build.as_bytes());
    // Cannot fail: flags and a text.
    let body = postcard::to_stdvec(greeting).unwrap_or_default();
    writer.buffer.extend_from_slice(&((text.len() + body.len()) as u32).to_le_bytes());
    writer.buffer.extend_from_slice(&text);
    writer.buffer.extend_from_slice(&body);
}

/// Reads a worker's first frame.
///
/// # Errors
/// Who speaks is no worker, or another program's.
pub fn read_greeting(frame: &[u8]) -> Result<Greeting, WireError> {
    let rest = frame.strip_prefix(MAGIC).ok_or(WireError::Stranger)?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or(WireError::Stranger)?;
    let theirs = u16::from_le_bytes(*version);
    if theirs != VERSION {
        return Err(WireError::Version { theirs });
    }
    let (length, rest) = rest.split_first().ok_or(WireError::Stranger)?;
    let (build, body) = rest.split_at_checked(usize::from(*length)).ok_or(WireError::Stranger)?;
    if build != env!("CARGO_PKG_VERSION").as_bytes() {
        return Err(WireError::Build(String::from_utf8_lossy(build).into_owned()));
    }
    match postcard::take_from_bytes(body) {
        Ok((greeting, [])) => Ok(greeting),
        _ => Err(WireError::Malformed { what: "a greeting", bytes: body.len() }),
    }
}

/// Calls `each` with the messages of a frame until it returns false.
///
/// # Errors
/// The frame has something else behind the messages that `each` got.
pub fn read_messages<T: for<'a> Deserialize<'a>>(
    frame: &[u8],
    what: &'static str,
    mut each: impl FnMut(T) -> bool,
) -> Result<(), WireError> {
    let mut rest = frame;
    while !rest.is_empty() {
        let (message, left) =
            postcard::take_from_bytes(rest).map_err(|_| WireError::Malformed { what, bytes: rest.len() })?;
        if left.len() == rest.len() {
            return Err(WireError::Malformed { what, bytes: rest.len() });
        }
        if !each(message) {
            return Ok(());
        }
        rest = left;
    }
    Ok(())
}

/// Bytes that have come, as frames.
#[derive(Debug)]
pub struct Reader {
    pub buffer: BytesMut,
    /// The longest frame.
    limit: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), limit: MAX_FRAME }
    }
}

impl Reader {
    /// Whose first frame is a greeting.
    pub fn of_stranger() -> Self {
        Self { limit: MAX_GREETING, ..Self::default() }
    }

    /// The next frame, if it has come whole.
    ///
    /// # Errors
    /// A length that no frame has: nothing behind it can be understood.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, WireError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header) as usize;
        if !(1..=self.limit).contains(&length) {
            return Err(WireError::Length { length, limit: self.limit });
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        self.limit = MAX_FRAME;
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// Where postcard writes to.
struct Tail<'a>(&'a mut Vec<u8>);

impl Flavor for Tail<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
