//! RFC 6455 framing: bytes to messages and back, under limits.
//!
//! The decoder is strict (section 5): reserved bits and opcodes, masking by role, control frames
//! whole and at most 125 bytes, shortest length encoding, continuation order, UTF-8 checked byte by
//! byte (section 8.1) so that a violation is reported before the frame ends, close payloads
//! (section 7.4). It keeps no buffer between messages: an idle decoder costs its own size.
//!
//! Where permessage-deflate was agreed on ([`Decoder::with_inflation`]), messages are inflated as their
//! bytes arrive, and everything that is checked is checked on what comes of them.

use bytes::{BufMut, Bytes, BytesMut};

use crate::close;
use crate::deflate::{self, INFLATER_SIZE, InflateError, Inflater, Output};
use crate::pool;
use crate::utf8::{InvalidUtf8, Utf8Stream};

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

impl Opcode {
    /// `None`: reserved.
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    /// Section 5.5: close, ping and pong.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self as u8 >= 0x8
    }
}

/// Bounds of what the decoder accepts. Sizes in bytes; a size equal to the bound is accepted.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// Of a compressed message: inflated.
    pub max_message: usize,
    /// As it comes over the wire.
    pub max_frame: usize,
    /// Frames of one message, the first included.
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

impl Violation {
    const fn protocol(reason: &'static str) -> Self {
        Self { code: close::PROTOCOL_ERROR, reason }
    }
}

impl From<InvalidUtf8> for Violation {
    fn from(_: InvalidUtf8) -> Self {
        Self { code: close::INVALID_PAYLOAD, reason: "text is not UTF-8" }
    }
}

impl From<InflateError> for Violation {
    fn from(error: InflateError) -> Self {
        match error {
            InflateError::Invalid => Self { code: close::INVALID_PAYLOAD, reason: "compressed data is invalid" },
            InflateError::TooBig => Self { code: close::MESSAGE_TOO_BIG, reason: "message too big" },
        }
    }
}

/// Compressed messages that were received: how many, and the bytes of their payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inflated {
    pub messages: u64,
    /// As they came.
    pub wire: u64,
    /// What came of them.
    pub bytes: u64,
}

/// permessage-deflate, where it was agreed on.
#[derive(Debug)]
struct Inflation {
    /// The peer's messages may refer to earlier ones.
    takeover: bool,
    /// Without takeover only while a message is open.
    inflater: Option<Inflater>,
    /// Bytes of the open message that have come.
    wire: u64,
    done: Inflated,
}

/// Bytes in, messages out; one direction of one connection.
#[derive(Debug)]
pub struct Decoder {
    limits: FrameLimits,
    role: Role,
    /// The start of a header whose rest has not arrived.
    header: [u8; MAX_HEADER],
    header_len: u8,
    /// Set while a frame's payload is due.
    frame: Option<Frame>,
    /// Set while a fragmented message, or the first frame of one, is open.
    message: Option<Message>,
    /// The open message's payload is `buffer[..held]`; behind it there may be room for a read.
    buffer: Vec<u8>,
    held: usize,
    utf8: Utf8Stream,
    /// Payload of a control frame that arrives in pieces.
    control: Vec<u8>,
    inflation: Option<Box<Inflation>>,
}

/// The frame whose payload is being read.
#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    fin: bool,
    masked: bool,
    /// Rotated so that its first byte is for the next payload byte.
    key: [u8; 4],
    remaining: usize,
}

/// The message whose frames are being read.
#[derive(Clone, Copy, Debug)]
struct Message {
    binary: bool,
    compressed: bool,
    frames: u32,
}

impl Decoder {
    #[must_use]
    pub fn new(role: Role, limits: FrameLimits) -> Self {
        Self {
            limits,
            role,
            header: [0; MAX_HEADER],
            header_len: 0,
            frame: None,
            message: None,
            buffer: Vec::new(),
            held: 0,
            utf8: Utf8Stream::default(),
            control: Vec::new(),
            inflation: None,
        }
    }

    /// permessage-deflate was agreed on (RFC 7692 section 6). `takeover`: the peer's messages may refer to
    /// earlier ones; then the decoder has to be kept for the connection's life.
    #[must_use]
    pub fn with_inflation(mut self, takeover: bool) -> Self {
        self.inflation = Some(Box::new(Inflation { takeover, inflater: None, wire: 0, done: Inflated::default() }));
        self
    }

    /// What was inflated since the last call.
    pub fn take_inflated(&mut self) -> Inflated {
        self.inflation.as_mut().map_or_else(Inflated::default, |inflation| std::mem::take(&mut inflation.done))
    }

    /// Later messages may refer to what this decoder has seen.
    #[must_use]
    pub fn keeps_context(&self) -> bool {
        self.inflation.as_ref().is_some_and(|inflation| inflation.takeover && inflation.inflater.is_some())
    }

    /// Reads from `input` (which it may unmask in place) until it has an item or `input` is used up.
    /// Returns how many bytes it took and the item; call again with the rest until that is empty
    /// and no item came.
    ///
    /// # Errors
    /// [`Violation`]; after it the decoder must not be used again.
    pub fn decode(&mut self, input: &mut [u8]) -> Result<(usize, Option<Item>), Violation> {
        let mut taken = 0;
        loop {
            if self.frame.is_none() {
                taken += self.read_header(&input[taken..])?;
            }
            let Some(frame) = &mut self.frame else { return Ok((taken, None)) };
            let rest = &mut input[taken..];
            let len = frame.remaining.min(rest.len());
            let piece = &mut rest[..len];
            frame.take(piece);
            taken += len;
            let frame = *frame;
            let item = if frame.opcode.is_control() {
                self.push_control(frame, piece)?
            } else {
                self.push_data(frame, piece)?
            };
            if item.is_some() || taken == input.len() {
                return Ok((taken, item));
            }
        }
    }

    /// Memory held for an unfinished message now, in bytes: what arrived and what is kept ready for
    /// the next bytes (64 KiB or a quarter of the message at most; half of it where it is inflated), and what
    /// inflates it, unless that is kept from message to message.
    #[must_use]
    pub fn buffered(&self) -> usize {
        let lent = |inflation: &Inflation| !inflation.takeover && inflation.inflater.is_some();
        let inflater = if self.inflation.as_deref().is_some_and(lent) { INFLATER_SIZE } else { 0 };
        self.buffer.capacity() + self.control.capacity() + inflater
    }

    /// At a frame boundary with no message open: nothing would be lost by parking the connection.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    /// Room to read the rest of the current data frame's payload straight into the message's buffer:
    /// `Some` only when at least `least` payload bytes are still to come. After a read of `n` bytes
    /// into it call [`Decoder::filled`].
    pub fn payload_room(&mut self, least: usize) -> Option<&mut [u8]> {
        let frame = self.frame.filter(|frame| !frame.opcode.is_control())?;
        if frame.remaining == 0 || frame.remaining < least || self.message.is_some_and(|it| it.compressed) {
            return None;
        }
        // Growing only when little is left keeps short reads from reallocating each time.
        if self.buffer.len() - self.held < frame.remaining.min(READ_AHEAD / 4) {
            let end = self.held + frame.remaining.min(READ_AHEAD);
            if self.buffer.capacity() < end
                && let Some(mut buffer) = pool::take(end)
            {
                // Clears what it has not got from the message it was last used for.
                buffer.resize(buffer.len().max(end), 0);
                buffer[..self.held].copy_from_slice(&self.buffer[..self.held]);
                self.buffer = buffer;
            } else {
                self.reserve(self.held, end, self.most(frame, frame.remaining));
                self.buffer.resize(end, 0);
            }
        }
        let end = self.buffer.len().min(self.held + frame.remaining);
        Some(&mut self.buffer[self.held..end])
    }

    /// `n` bytes were read into [`Decoder::payload_room`]'s slice.
    ///
    /// # Errors
    /// [`Violation`] as for [`Decoder::decode`].
    pub fn filled(&mut self, n: usize) -> Result<Option<Item>, Violation> {
        let (Some(frame), Some(message)) = (&mut self.frame, self.message) else { return Ok(None) };
        if frame.opcode.is_control() {
            return Ok(None);
        }
        let end = self.buffer.len().min(self.held + n.min(frame.remaining));
        let piece = &mut self.buffer[self.held..end];
        frame.take(piece);
        if !message.binary {
            self.utf8.push(piece)?;
        }
        self.held = end;
        let frame = *frame;
        self.end_data(frame)
    }

    /// Takes header bytes from `input`; the frame is open when they sufficed. Returns how many it took.
    fn read_header(&mut self, input: &[u8]) -> Result<usize, Violation> {
        let mut taken = 0;
        loop {
            let known = usize::from(self.header_len);
            let needed = if known < 2 { 2 } else { header_len(self.header[1]) };
            if known >= 2 && known == needed {
                self.header_len = 0;
                self.open_frame()?;
                return Ok(taken);
            }
            let piece = &input[taken..input.len().min(taken + needed - known)];
            if piece.is_empty() {
                return Ok(taken);
            }
            self.header[known..known + piece.len()].copy_from_slice(piece);
            self.header_len += piece.len() as u8;
            taken += piece.len();
            if known == 0 {
                self.check_first_byte()?;
            }
            if known < 2 && self.header_len == 2 {
                self.check_second_byte()?;
            }
        }
    }

    fn check_first_byte(&self) -> Result<(), Violation> {
        let first = self.header[0];
        for (bit, reason) in [(RSV1, "reserved bit 1 set"), (0x20, "reserved bit 2 set"), (0x10, "reserved bit 3 set")]
        {
            if first & bit != 0 && (bit != RSV1 || self.inflation.is_none()) {
                return Err(Violation::protocol(reason));
            }
        }
        // RFC 7692 section 6.1: of data messages, and of their first frame alone.
        if first & RSV1 != 0 && !matches!(first & 0x0F, 0x1 | 0x2) {
            return Err(Violation::protocol("reserved bit 1 set on a frame that starts no message"));
        }
        let opcode = Opcode::from_bits(first & 0x0F).ok_or(Violation::protocol("reserved opcode"))?;
        match opcode {
            Opcode::Continuation if self.message.is_none() => {
                Err(Violation::protocol("continuation without a message"))
            }
            Opcode::Text | Opcode::Binary if self.message.is_some() => {
                Err(Violation::protocol("new message inside a fragmented one"))
            }
            Opcode::Close | Opcode::Ping | Opcode::Pong if first & FIN == 0 => {
                Err(Violation::protocol("fragmented control frame"))
            }
            _ => Ok(()),
        }
    }

    fn check_second_byte(&self) -> Result<(), Violation> {
        let masked = self.header[1] & MASKED != 0;
        match self.role {
            Role::Server if !masked => return Err(Violation::protocol("client frame not masked")),
            Role::Client if masked => return Err(Violation::protocol("server frame masked")),
            _ => {}
        }
        if self.header[0] & 0x08 != 0 && self.header[1] & 0x7F > 125 {
            return Err(Violation::protocol("control frame longer than 125 bytes"));
        }
        Ok(())
    }

    /// The header is whole; its first two bytes have been checked.
    fn open_frame(&mut self) -> Result<(), Violation> {
        let Some(opcode) = Opcode::from_bits(self.header[0] & 0x0F) else {
            return Err(Violation::protocol("reserved opcode"));
        };
        let masked = self.header[1] & MASKED != 0;
        let mut fields = &self.header[2..header_len(self.header[1])];
        let len = match self.header[1] & 0x7F {
            126 => {
                let len = u64::from(u16::from_be_bytes(take_array(&mut fields)));
                if len < 126 {
                    return Err(Violation::protocol("length not in its shortest form"));
                }
                len
            }
            127 => {
                let len = u64::from_be_bytes(take_array(&mut fields));
                if len >> 63 != 0 {
                    return Err(Violation::protocol("top bit of a 64-bit length set"));
                }
                if len <= 0xFFFF {
                    return Err(Violation::protocol("length not in its shortest form"));
                }
                len
            }
            len => u64::from(len),
        };
        let key = if masked { take_array(&mut fields) } else { [0; 4] };
        let too_big = |reason| Violation { code: close::MESSAGE_TOO_BIG, reason };
        let remaining = usize::try_from(len).map_err(|_| too_big("frame too big"))?;
        if !opcode.is_control() {
            if remaining > self.limits.max_frame {
                return Err(too_big("frame too big"));
            }
            let compressed = self.message.map_or(self.header[0] & RSV1 != 0, |message| message.compressed);
            if !compressed && remaining > self.limits.max_message.saturating_sub(self.held) {
                return Err(too_big("message too big"));
            }
            if let Some(message) = &mut self.message {
                message.frames = message.frames.saturating_add(1);
                if message.frames > self.limits.max_fragments {
                    return Err(Violation { code: close::POLICY_VIOLATION, reason: "too many fragments" });
                }
            } else {
                let binary = opcode == Opcode::Binary;
                self.message = Some(Message { binary, compressed, frames: 1 });
            }
        }
        let fin = self.header[0] & FIN != 0;
        self.frame = Some(Frame { opcode, fin, masked, key, remaining });
        Ok(())
    }

    /// `piece` is the next part of a control frame's payload.
    fn push_control(&mut self, frame: Frame, piece: &[u8]) -> Result<Option<Item>, Violation> {
        if frame.remaining > 0 {
            self.control.extend_from_slice(piece);
            return Ok(None);
        }
        self.frame = None;
        if self.control.is_empty() {
            return control_item(frame.opcode, piece).map(Some);
        }
        let mut payload = std::mem::take(&mut self.control);
        payload.extend_from_slice(piece);
        control_item(frame.opcode, &payload).map(Some)
    }

    /// `piece` is the next part of a data frame's payload.
    fn push_data(&mut self, frame: Frame, piece: &[u8]) -> Result<Option<Item>, Violation> {
        let Some(message) = self.message else { return Ok(None) };
        if message.compressed {
            return self.push_compressed(frame, piece);
        }
        if !message.binary {
            self.utf8.push(piece)?;
        }
        if frame.fin && frame.remaining == 0 && self.held == 0 {
            if !message.binary {
                self.utf8.finish()?;
            }
            self.frame = None;
            self.message = None;
            self.buffer = Vec::new();
            return Ok(Some(Item::Message { data: Bytes::copy_from_slice(piece), binary: message.binary }));
        }
        if !piece.is_empty() {
            self.buffer.truncate(self.held);
            let end = self.held + piece.len();
            self.reserve(end, end, self.most(frame, piece.len() + frame.remaining));
            self.buffer.extend_from_slice(piece);
            self.held = self.buffer.len();
        }
        self.end_data(frame)
    }

    /// `piece` is the next part of a compressed message.
    fn push_compressed(&mut self, frame: Frame, piece: &[u8]) -> Result<Option<Item>, Violation> {
        let (Some(message), Some(inflation)) = (self.message, &mut self.inflation) else { return Ok(None) };
        inflation.wire += piece.len() as u64;
        let inflater = inflation.inflater.get_or_insert_with(deflate::take_inflater);
        let mut output = Output { buffer: &mut self.buffer, most: self.limits.max_message };
        inflater.push(piece, &mut output)?;
        let ends = frame.fin && frame.remaining == 0;
        // Who sends nothing at all for an empty message means no harm.
        if ends && inflation.wire > 0 {
            inflater.finish(inflation.takeover, &mut output)?;
        }
        if ends {
            inflation.done.messages += 1;
            inflation.done.wire += std::mem::take(&mut inflation.wire);
            inflation.done.bytes += self.buffer.len() as u64;
            if !inflation.takeover {
                inflation.inflater.take().into_iter().for_each(deflate::put_inflater);
            }
        }
        if !message.binary {
            self.utf8.push(&self.buffer[self.held..])?;
        }
        self.held = self.buffer.len();
        self.end_data(frame)
    }

    /// Closes the frame, and with it the message, when its payload is complete.
    fn end_data(&mut self, frame: Frame) -> Result<Option<Item>, Violation> {
        if frame.remaining > 0 {
            return Ok(None);
        }
        self.frame = None;
        if !frame.fin {
            return Ok(None);
        }
        let Some(message) = self.message.take() else { return Ok(None) };
        if !message.binary {
            self.utf8.finish()?;
        }
        let mut data = std::mem::take(&mut self.buffer);
        data.truncate(std::mem::take(&mut self.held));
        // Not for a little: that would copy it.
        if data.capacity() - data.len() > data.len() / 4 {
            data.shrink_to_fit();
        }
        Ok(Some(Item::Message { data: Bytes::from(data), binary: message.binary }))
    }

    /// Makes room for `end` bytes of message of which `arrived` are there, and for more in proportion
    /// to those, but not beyond `most`: many small pieces cost few reallocations, and a header that
    /// lies about its length costs its sender more than us.
    fn reserve(&mut self, arrived: usize, end: usize, most: usize) {
        if end <= self.buffer.capacity() {
            return;
        }
        let spare = arrived.min(READ_AHEAD).max(arrived / 4);
        let capacity = arrived.saturating_add(spare).min(most).max(end);
        self.buffer.reserve_exact(capacity - self.buffer.len());
    }

    /// The message's greatest possible length when `expected` bytes of `frame` are still to be stored.
    fn most(&self, frame: Frame, expected: usize) -> usize {
        if frame.fin { self.held + expected } else { self.limits.max_message }
    }
}

impl Frame {
    /// Unmasks the next bytes of the payload.
    fn take(&mut self, piece: &mut [u8]) {
        if self.masked {
            apply_mask(piece, self.key, 0);
            self.key.rotate_left(piece.len() % 4);
        }
        self.remaining -= piece.len();
    }
}

/// Length of the header whose second byte is `second`.
const fn header_len(second: u8) -> usize {
    let extended = match second & 0x7F {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + extended + if second & MASKED == 0 { 0 } else { 4 }
}

/// The next `N` bytes; zeros where there are none.
fn take_array<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let mut array = [0; N];
    if let Some((first, rest)) = bytes.split_at_checked(N) {
        array.copy_from_slice(first);
        *bytes = rest;
    }
    array
}

fn control_item(opcode: Opcode, payload: &[u8]) -> Result<Item, Violation> {
    Ok(match opcode {
        Opcode::Ping => Item::Ping(Bytes::copy_from_slice(payload)),
        Opcode::Pong => Item::Pong(Bytes::copy_from_slice(payload)),
        _ => Item::Close(parse_close(payload)?),
    })
}

/// Section 5.5.1: nothing, or a code and a reason.
fn parse_close(payload: &[u8]) -> Result<Option<(u16, String)>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(Violation::protocol("close payload of one byte")) };
    };
    let code = u16::from_be_bytes(*code);
    if !close::is_valid_to_send(code) {
        return Err(Violation::protocol("invalid close code"));
    }
    let reason = std::str::from_utf8(reason)
        .map_err(|_| Violation { code: close::INVALID_PAYLOAD, reason: "close reason is not UTF-8" })?;
    Ok(Some((code, reason.to_owned())))
}

/// Appends a frame header (section 5.2) for a payload of `len` bytes.
pub fn put_header(out: &mut BytesMut, fin: bool, rsv1: bool, opcode: Opcode, len: usize, mask: Option<[u8; 4]>) {
    let mut header = [0; MAX_HEADER];
    header[0] = opcode as u8 | if fin { FIN } else { 0 } | if rsv1 { RSV1 } else { 0 };
    let masked = if mask.is_some() { MASKED } else { 0 };
    let mut used = 2;
    if len <= 125 {
        header[1] = masked | len as u8;
    } else if let Ok(len) = u16::try_from(len) {
        header[1] = masked | 0x7E;
        header[2..4].copy_from_slice(&len.to_be_bytes());
        used = 4;
    } else {
        header[1] = masked | 0x7F;
        header[2..10].copy_from_slice(&(len as u64).to_be_bytes());
        used = 10;
    }
    if let Some(key) = mask {
        header[used..used + 4].copy_from_slice(&key);
        used += 4;
    }
    out.put_slice(&header[..used]);
}

/// Appends a whole frame; with `mask` the payload is masked as it is copied. Control payloads of more
/// than 125 bytes are the caller's error.
pub fn put_frame(out: &mut BytesMut, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    debug_assert!(!opcode.is_control() || payload.len() <= 125, "control frame longer than 125 bytes");
    out.reserve(MAX_HEADER + payload.len());
    put_header(out, true, false, opcode, payload.len(), mask);
    let start = out.len();
    out.put_slice(payload);
    if let Some(key) = mask {
        apply_mask(&mut out[start..], key, 0);
    }
}

/// XORs `data` with `key` starting at `offset` bytes into the payload (section 5.3).
pub fn apply_mask(data: &mut [u8], mut key: [u8; 4], offset: usize) {
    key.rotate_left(offset % 4);
    let half = u64::from(u32::from_ne_bytes(key));
    let wide = half << 32 | half;
    let (words, rest) = data.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const MASKED: u8 = 0x80;

/// Two bytes, a 64-bit length and a masking key.
const MAX_HEADER: usize = 14;

/// Most bytes made ready at once for a payload that has not arrived.
const READ_AHEAD: usize = 64 * 1024;

#[cfg(test)]
mod tests;
