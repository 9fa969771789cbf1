//! Messages to DEFLATE and back (RFC 7692 section 7.2).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{LEAST_WINDOW_BITS, MOST_WINDOW_BITS};

/// The end of a block that a sync flush writes, without its first three bits: it is left out on the wire
/// (section 7.2.1) and put back by the receiver (section 7.2.2).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];
/// An empty block that is the last of a stream: what follows a complete message makes its stream end.
const LAST_BLOCK: [u8; 5] = [0x01, 0x00, 0x00, 0xFF, 0xFF];
/// The same, of a stream that goes on.
const EMPTY_BLOCK: [u8; 5] = [0x00, 0x00, 0x00, 0xFF, 0xFF];

/// Room for output that is made at once, at least; a flush needs more than six bytes.
const ROOM: usize = 64;

/// What an [`Inflater`] takes, in bytes, as the example `deflate_cost` measures it: zlib-rs makes the largest window for
/// each.
pub const INFLATER_SIZE: usize = 54 * 1024;

/// What a [`Deflater`] takes, in bytes, as the example `deflate_cost` measures it.
#[must_use]
pub const fn compressor_size(window_bits: u8) -> usize {
    /// Hash table, pending output and symbols.
    const FIXED: usize = 200 * 1024;
    // Twice the window, and what was last seen at each place of it.
    FIXED + (4 << window_bits)
}

/// Compresses messages. What it has compressed has to be sent, unless [`Deflater::reset`] follows.
#[derive(Debug)]
pub struct Deflater {
    stream: Compress,
    level: u8,
    window_bits: u8,
}

impl Deflater {
    /// `level` 1 to 9, `window_bits` 9 to 15; what is outside is brought inside.
    #[must_use]
    pub fn new(level: u8, window_bits: u8) -> Self {
        let level = level.clamp(1, 9);
        let window_bits = window_bits.clamp(LEAST_WINDOW_BITS, MOST_WINDOW_BITS);
        let stream = Compress::new_with_window_bits(Compression::new(level.into()), false, window_bits);
        Self { stream, level, window_bits }
    }

    pub(super) fn is_of(&self, level: u8, window_bits: u8) -> bool {
        self.level == level && self.window_bits == window_bits
    }

    /// Appends the payload of a compressed message whose payload is the `parts` one after the other.
    pub fn compress(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) {
        let start = out.len();
        let whole: usize = parts.iter().map(|part| part.len()).sum();
        // Section 7.2.3.6. A flush would write nothing where nothing came since the last.
        if whole == 0 {
            out.push(0x00);
            return;
        }
        out.reserve(whole / 4 + ROOM);
        for part in parts {
            self.run(part, FlushCompress::None, out);
        }
        self.run(&[], FlushCompress::Sync, out);
        debug_assert!(out[start..].ends_with(&TAIL), "a sync flush ends in an empty block");
        out.truncate(out.len() - TAIL.len());
    }

    fn run(&mut self, mut input: &[u8], flush: FlushCompress, out: &mut Vec<u8>) {
        loop {
            if out.capacity() - out.len() < ROOM {
                out.reserve((out.len() / 2).max(4096));
            }
            let before = self.stream.total_in();
            // Fails only on a stream that was finished, which ours never is.
            let outcome = self.stream.compress_vec(input, out, flush);
            debug_assert!(outcome.is_ok(), "{outcome:?}");
            let taken = (self.stream.total_in() - before) as usize;
            input = input.get(taken..).unwrap_or_default();
            // With room left nothing is held back.
            if outcome.is_err() || (input.is_empty() && out.len() < out.capacity()) {
                return;
            }
        }
    }

    /// Forgets what has been compressed: the next message stands alone.
    pub fn reset(&mut self) {
        self.stream.reset();
    }
}

/// Why a compressed message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    #[error("compressed data is invalid")]
    Invalid,
    #[error("message too big")]
    TooBig,
}

/// Where inflated bytes go. They are bounded while they come.
#[derive(Debug)]
pub struct Output<'a> {
    pub buffer: &'a mut Vec<u8>,
    /// The longest that `buffer` may become.
    pub most: usize,
}

/// Decompresses messages as their bytes arrive.
#[derive(Debug)]
pub struct Inflater {
    stream: Decompress,
    /// The last block of a stream was the last that came.
    ended: bool,
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

impl Inflater {
    /// For any window: one larger than the sender's does no harm.
    #[must_use]
    pub fn new() -> Self {
        Self { stream: Decompress::new(false), ended: false }
    }

    /// Forgets what has been seen: the next message stands alone.
    pub fn reset(&mut self) {
        self.stream.reset(false);
        self.ended = false;
    }

    /// The next bytes of a message; what they come to is appended.
    ///
    /// # Errors
    /// [`InflateError`]; [`Inflater::reset`] before it is used again.
    pub fn push(&mut self, mut input: &[u8], output: &mut Output<'_>) -> Result<(), InflateError> {
        while !input.is_empty() {
            // A block marked as the last may be followed by more (section 7.2.3.4).
            if self.ended {
                self.reset();
            }
            let before = output.buffer.len();
            let taken = self.step(input, output)?;
            if taken == 0 && output.buffer.len() == before && !self.ended {
                return Err(InflateError::Invalid);
            }
            input = &input[taken..];
        }
        // What is left of the output has to come before the input's end is believed.
        while !self.ended && output.buffer.len() == output.buffer.capacity() && self.step_more(output)? {}
        Ok(())
    }

    /// The message ends here. `takeover`: the next one may refer to it.
    ///
    /// # Errors
    /// As [`Inflater::push`]; also when the message ends within a block.
    pub fn finish(&mut self, takeover: bool, output: &mut Output<'_>) -> Result<(), InflateError> {
        if self.ended {
            // Without the empty block that section 7.2.3.4 asks for: nothing is missing.
            self.reset();
            return Ok(());
        }
        self.push(&TAIL, output)?;
        let before = output.buffer.len();
        if takeover {
            self.push(&EMPTY_BLOCK, output)?;
        } else {
            self.push(&LAST_BLOCK, output)?;
        }
        if output.buffer.len() != before || (!takeover && !self.ended) {
            return Err(InflateError::Invalid);
        }
        if !takeover {
            self.reset();
        }
        Ok(())
    }

    /// Returns how much of the input it took.
    fn step(&mut self, input: &[u8], output: &mut Output<'_>) -> Result<usize, InflateError> {
        if output.buffer.len() < output.most {
            output.make_room(input.len());
            let before = self.stream.total_in();
            let status = self.stream.decompress_vec(input, output.buffer, FlushDecompress::None);
            self.note(&status)?;
            return Ok((self.stream.total_in() - before) as usize);
        }
        // Full: only what adds nothing is still allowed.
        let mut beyond = [0; 1];
        let (before_in, before_out) = (self.stream.total_in(), self.stream.total_out());
        let status = self.stream.decompress(input, &mut beyond, FlushDecompress::None);
        self.note(&status)?;
        if self.stream.total_out() != before_out {
            return Err(InflateError::TooBig);
        }
        Ok((self.stream.total_in() - before_in) as usize)
    }

    /// The same without input; false when nothing came of it.
    fn step_more(&mut self, output: &mut Output<'_>) -> Result<bool, InflateError> {
        let before = self.stream.total_out();
        self.step(&[], output)?;
        Ok(self.stream.total_out() != before)
    }

    fn note(&mut self, status: &Result<Status, flate2::DecompressError>) -> Result<(), InflateError> {
        match status {
            // `BufError`: it wants more of the one or the other.
            Ok(Status::Ok | Status::BufError) => Ok(()),
            Ok(Status::StreamEnd) => {
                self.ended = true;
                Ok(())
            }
            Err(_) => Err(InflateError::Invalid),
        }
    }
}

impl Output<'_> {
    /// Never more than is allowed, and in proportion to what is there: a message that becomes long is moved a few
    /// times, and one that stays short does not take much.
    fn make_room(&mut self, arrived: usize) {
        let used = self.buffer.len();
        if self.buffer.capacity() > used {
            return;
        }
        let more = used.max(4 * arrived).clamp(256, CHUNK.max(used / 2));
        self.buffer.reserve_exact(more.min(self.most - used));
    }
}

/// Room that is made at once for a message that is still short.
const CHUNK: usize = 64 * 1024;
