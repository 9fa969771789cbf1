//! RFC 6455 framing: bytes to messages and back, under limits.
//!
//! The decoder is strict (section 5): reserved bits and opcodes, masking by role, control frames
//! whole and at most 125 bytes, shortest length encoding, continuation order, UTF-8 checked byte by
//! byte (section 8.1) so that a violation is reported before the frame ends, close payloads
//! (section 7.4). It keeps no buffer between messages: an idle decoder costs its own size.

use bytes::{Bytes, BytesMut};

/// Which end of the connection we are. A server's peer must mask, a client's must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

/// RFC 6455 section 5.2, opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

/// Bounds of what the decoder accepts. Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    pub max_message: usize,
    pub max_frame: usize,
    pub max_fragments: u32,
}

/// What the decoder found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A whole message; `binary` false: valid UTF-8.
    Message {
        data: Bytes,
        binary: bool,
    },
    Ping(Bytes),
    Pong(Bytes),
    /// The peer's close frame; `None`: without a status (reported as 1005).
    Close(Option<(u16, String)>),
}

/// The peer broke the protocol or a limit. The connection must be failed with `code`
/// (RFC 6455 section 7.1.7).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Violation {
    /// 1002 protocol error, 1007 invalid UTF-8, 1009 too big, 1008 too many fragments.
    pub code: u16,
    /// For people, e.g. `reserved bit 2 set`.
    pub reason: &'static str,
}

/// Bytes in, messages out; one direction of one connection.
#[derive(Debug)]
pub struct Decoder {
    _role: Role,
    _limits: FrameLimits,
}

impl Decoder {
    #[must_use]
    pub fn new(role: Role, limits: FrameLimits) -> Self {
        Self { _role: role, _limits: limits }
    }

    /// Reads from `input` (which it may unmask in place) until it has an item or `input` is used up.
    /// Returns how many bytes it took and the item; call again with the rest until that is empty
    /// and no item came.
    ///
    /// # Errors
    /// [`Violation`]; after it the decoder must not be used again.
    pub fn decode(&mut self, input: &mut [u8]) -> Result<(usize, Option<Item>), Violation> {
        let _ = input;
        todo!()
    }

    /// Bytes of an unfinished message held now.
    #[must_use]
    pub fn buffered(&self) -> usize {
        todo!()
    }

    /// At a frame boundary with no message open: nothing would be lost by parking the connection.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        todo!()
    }

    /// Room to read the rest of the current data frame's payload straight into the message's buffer:
    /// `Some` only when at least `least` payload bytes are still to come. After a read of `n` bytes
    /// into it call [`Decoder::filled`].
    pub fn payload_room(&mut self, least: usize) -> Option<&mut [u8]> {
        let _ = least;
        todo!()
    }

    /// `n` bytes were read into [`Decoder::payload_room`]'s slice.
    ///
    /// # Errors
    /// [`Violation`] as for [`Decoder::decode`].
    pub fn filled(&mut self, n: usize) -> Result<Option<Item>, Violation> {
        let _ = n;
        todo!()
    }
}

/// Appends a frame header (section 5.2) for a payload of `len` bytes.
pub fn put_header(out: &mut BytesMut, fin: bool, rsv1: bool, opcode: Opcode, len: usize, mask: Option<[u8; 4]>) {
    let _ = (out, fin, rsv1, opcode, len, mask);
    todo!()
}

/// Appends a whole frame; with `mask` the payload is masked as it is copied.
pub fn put_frame(out: &mut BytesMut, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    let _ = (out, opcode, payload, mask);
    todo!()
}

/// XORs `data` with `key` starting at `offset` bytes into the payload (section 5.3).
pub fn apply_mask(data: &mut [u8], key: [u8; 4], offset: usize) {
    let _ = (data, key, offset);
    todo!()
}
