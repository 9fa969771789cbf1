//! Messages made and masked beforehand, and the frames that an echo server answers with.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::echo::payload;
use crate::ws::{opcode, put_frame};

/// Messages that differ; a connection sends them in turn.
const VARIANTS: usize = 16;
/// Together, those that are compressed are longer than a window: none is found in it again.
const WINDOWS: usize = 4 * 32 * 1024;
/// zlib's: the default of the server's `compression.level`.
const LEVEL: u32 = 2;

/// The first bit of a frame, permessage-deflate (RFC 7692 section 6).
const COMPRESSED: u8 = 0x40;

/// Client frames, ready to write by the run, and the replies that belong to them.
#[derive(Debug)]
pub struct Train {
    frames: Vec<u8>,
    /// Where each frame starts, all of them twice, so that every run is one slice.
    starts: Vec<usize>,
    replies: Vec<Vec<u8>>,
    payloads: Vec<Vec<u8>>,
    kind: u8,
    compressed: bool,
}

impl Train {
    /// Messages of `size` bytes.
    pub fn new(size: usize, text: bool) -> Self {
        let kind = if text { opcode::TEXT } else { opcode::BINARY };
        Self::of((0..VARIANTS as u64).map(|number| payload(number, 7, size, text)).collect(), kind, false)
    }

    /// Messages of JSON, of `size` bytes and each compressed by itself.
    pub fn compressed(size: usize) -> Self {
        let variants = (WINDOWS / size.max(1)).clamp(VARIANTS, 1024) as u64;
        Self::of((0..variants).map(|number| json(number, size)).collect(), opcode::TEXT, true)
    }

    fn of(payloads: Vec<Vec<u8>>, kind: u8, compressed: bool) -> Self {
        let (mut frames, mut starts) = (Vec::new(), vec![0]);
        for (number, payload) in payloads.iter().chain(&payloads).enumerate() {
            if compressed {
                put_frame(&mut frames, true, COMPRESSED | kind, &deflate(payload), mask(number));
            } else {
                put_frame(&mut frames, true, kind, payload, mask(number));
            }
            starts.push(frames.len());
        }
        let replies = payloads.iter().map(|payload| server_frame(kind, payload)).collect();
        Self { frames, starts, replies, payloads, kind, compressed }
    }

    /// How many differ.
    pub fn variants(&self) -> usize {
        self.payloads.len()
    }

    /// Its messages are compressed.
    pub fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// The next messages from number `from` on: up to `count`, as many as lie in one run.
    pub fn run(&self, from: u64, count: usize) -> (&[u8], usize) {
        let first = from as usize % self.variants();
        let count = count.min(self.variants());
        (&self.frames[self.starts[first]..self.starts[first + count]], count)
    }

    /// Appends a client's frame of `header` and the bytes of message `number` behind it.
    pub fn put_behind(&self, out: &mut Vec<u8>, header: &[u8], number: u64) {
        let number = number as usize % self.variants();
        let masked = &self.frames[self.starts[number + 1] - self.payloads[number].len()..self.starts[number + 1]];
        // The payload is masked already: the mask has to begin where that ends where the payload begins.
        let mut mask = mask(number);
        mask.rotate_right(header.len() % 4);
        let length = header.len() + masked.len();
        out.push(0x80 | self.kind);
        match length {
            0..126 => out.push(0x80 | length as u8),
            126..=0xFFFF => {
                out.push(0x80 | 0x7E);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                out.push(0x80 | 0x7F);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&mask);
        out.extend(header.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out.extend_from_slice(masked);
    }

    /// The frame that answers message `number` if the server does not cut it in fragments.
    pub fn reply(&self, number: u64) -> &[u8] {
        &self.replies[number as usize % self.variants()]
    }

    /// The bytes of message `number`.
    pub fn payload(&self, number: u64) -> &[u8] {
        &self.payloads[number as usize % self.variants()]
    }

    /// Opcode of the messages.
    pub fn kind(&self) -> u8 {
        self.kind
    }
}

/// An array of records whose values differ, cut to `size`.
fn json(number: u64, size: usize) -> Vec<u8> {
    let noise = payload(number, 9, size / 8 + 64, false);
    let mut text = String::from("[");
    for bytes in noise.chunks_exact(8) {
        let bytes = bytes.first_chunk::<8>().copied().unwrap_or_default();
        let number = |at: usize, below: u32| {
            u32::from_be_bytes([0, bytes[at], bytes[(at + 1) % 8], bytes[(at + 2) % 8]]) % below
        };
        let kind = ["order", "trade", "quote", "status"][usize::from(bytes[0] % 4)];
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "{{\"id\":{},\"type\":\"{kind}\",\"price\":{}.{:02},\"amount\":{},\"user\":\"u{:05}\"}},",
            number(0, 10_000_000),
            number(3, 1000),
            number(4, 100),
            number(5, 500),
            number(6, 100_000)
        );
        if text.len() >= size {
            break;
        }
    }
    text.truncate(size);
    text.into_bytes()
}

/// RFC 7692 section 7.2.1.
fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(payload.len() + 1024);
    compress(&mut deflater(), payload, &mut wire);
    wire
}

fn deflater() -> Compress {
    Compress::new(Compression::new(LEVEL), false)
}

fn compress(deflater: &mut Compress, payload: &[u8], wire: &mut Vec<u8>) {
    wire.clear();
    wire.reserve(payload.len() + 1024);
    // There is room for all of it.
    let outcome = deflater.compress_vec(payload, wire, FlushCompress::Sync);
    debug_assert!(outcome.is_ok());
    wire.truncate(wire.len() - 4);
}

/// RFC 7692 section 7.2.2, of a message of up to `most` bytes that stands alone.
///
/// # Errors
/// It is not DEFLATE.
pub fn inflate(wire: &[u8], most: usize) -> Result<Vec<u8>> {
    inflate_with(&mut Decompress::new(false), wire, most)
}

fn inflate_with(inflater: &mut Decompress, wire: &[u8], most: usize) -> Result<Vec<u8>> {
    let whole = [wire, &[0, 0, 0xFF, 0xFF]].concat();
    let mut payload = Vec::with_capacity(most + 1);
    let outcome = inflater.decompress_vec(&whole, &mut payload, FlushDecompress::Sync);
    outcome.context("compressed data is invalid")?;
    Ok(payload)
}

/// Both directions of a connection with context takeover.
#[derive(Debug)]
pub struct Codec {
    deflater: Compress,
    inflater: Decompress,
    wire: Vec<u8>,
}

impl Default for Codec {
    fn default() -> Self {
        Self { deflater: deflater(), inflater: Decompress::new(false), wire: Vec::new() }
    }
}

impl Codec {
    /// Appends the client's frame of message `number`.
    pub fn put(&mut self, out: &mut Vec<u8>, train: &Train, number: u64) {
        compress(&mut self.deflater, train.payload(number), &mut self.wire);
        put_frame(out, true, COMPRESSED | train.kind, &self.wire, mask(number as usize));
    }

    /// A message of up to `most` bytes.
    ///
    /// # Errors
    /// It is not DEFLATE.
    pub fn inflate(&mut self, wire: &[u8], most: usize) -> Result<Vec<u8>> {
        inflate_with(&mut self.inflater, wire, most)
    }
}

fn mask(number: usize) -> [u8; 4] {
    0x9E37_79B9_u32.wrapping_mul(number as u32 + 1).to_be_bytes()
}

/// An unmasked frame.
pub fn server_frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | kind];
    match payload.len() {
        length @ ..126 => frame.push(length as u8),
        length @ ..=0xFFFF => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

/// A frame of the server, in place.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    /// Its FIN bit.
    pub fin: bool,
    /// Its opcode.
    pub opcode: u8,
    /// Starts a compressed message.
    pub compressed: bool,
    /// Its payload.
    pub payload: &'a [u8],
    /// Length of all of it.
    pub length: usize,
}

/// The frame at the start of `bytes`, once whole.
///
/// # Errors
/// A server frame that is masked or has reserved bits (RFC 6455 sections 5.1 and 5.2).
pub fn parse(bytes: &[u8]) -> Result<Option<Seen<'_>>> {
    let seen = parse_compressed(bytes)?;
    ensure!(seen.as_ref().is_none_or(|seen| !seen.compressed), "reserved bits are set: {:#04x}", bytes[0]);
    Ok(seen)
}

/// The same, where permessage-deflate was agreed on.
///
/// # Errors
/// As [`parse`].
pub fn parse_compressed(bytes: &[u8]) -> Result<Option<Seen<'_>>> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    ensure!(first & 0x30 == 0, "reserved bits are set: {first:#04x}");
    ensure!(second & 0x80 == 0, "the server masked a frame");
    let (length, head) = match second & 0x7F {
        126 => match rest.first_chunk::<2>() {
            Some(long) => (usize::from(u16::from_be_bytes(*long)), 4),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(long) => (usize::try_from(u64::from_be_bytes(*long))?, 10),
            None => return Ok(None),
        },
        short => (usize::from(short), 2),
    };
    let Some(payload) = bytes[head..].get(..length) else { return Ok(None) };
    let (fin, compressed, opcode) = (first & 0x80 != 0, first & COMPRESSED != 0, first & 0x0F);
    Ok(Some(Seen { fin, opcode, compressed, payload, length: head + length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_goes_before_a_masked_payload() {
        let train = Train::new(9, true);
        for (number, header) in [(0, "P 1\n"), (3, "P 12 s=3\n"), (17, "x\n")] {
            let mut frame = Vec::new();
            train.put_behind(&mut frame, header.as_bytes(), number);
            let mask: [u8; 4] = frame[2..6].try_into().unwrap();
            let message: Vec<_> = frame[6..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            assert_eq!(message, [header.as_bytes(), train.payload(number)].concat());
            assert_eq!(usize::from(frame[1] & 0x7F), message.len());
        }
    }

    #[test]
    fn a_run_holds_the_messages_in_turn_and_wraps() {
        let train = Train::new(32, false);
        let (first, count) = train.run(14, 4);
        assert_eq!(count, 4);
        let (again, _) = train.run(14 + VARIANTS as u64, 4);
        assert_eq!(first, again);
        assert_eq!(first.len(), 4 * (2 + 4 + 32));
        assert_eq!(train.run(0, 99).1, VARIANTS);
        assert_ne!(train.payload(0), train.payload(1));
    }

    #[test]
    fn replies_parse_to_their_payloads() {
        for size in [0, 125, 126, 65_535, 65_536] {
            let train = Train::new(size, false);
            let reply = train.reply(3);
            let seen = parse(reply).unwrap().unwrap();
            assert_eq!((seen.fin, seen.opcode, seen.length), (true, opcode::BINARY, reply.len()));
            assert_eq!(seen.payload, train.payload(3));
            assert_eq!(parse(&reply[..reply.len() - 1]).unwrap(), None, "size {size}");
        }
    }

    #[test]
    fn compressed_messages_come_to_their_payloads() {
        let train = Train::compressed(4096);
        let (frames, _) = train.run(3, 1);
        assert_eq!((train.payload(3).len(), frames[0]), (4096, 0xC1));
        assert!(frames.len() < 2048, "{}", frames.len());
        let wire = deflate(train.payload(3));
        assert_eq!(inflate(&wire, 4096).unwrap(), train.payload(3));
        assert!(inflate(&[7], 4096).is_err());
        let reply = server_frame(COMPRESSED | opcode::TEXT, &wire);
        assert!(parse_compressed(&reply).unwrap().unwrap().compressed);
    }

    #[test]
    fn with_context_takeover_what_came_before_helps() {
        let train = Train::compressed(512);
        let (mut client, mut server, mut lengths) = (Codec::default(), Codec::default(), Vec::new());
        for number in 0..train.variants() as u64 + 2 {
            let mut frame = Vec::new();
            client.put(&mut frame, &train, number);
            let head = if frame[1] & 0x7F == 126 { 8 } else { 6 };
            let mask = frame[head - 4..head].to_vec();
            let wire: Vec<_> = frame[head..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            assert_eq!(server.inflate(&wire, 512).unwrap(), train.payload(number));
            lengths.push(wire.len());
        }
        // Alike, not the same: also the second time the messages go round.
        let average = lengths[1..].iter().sum::<usize>() / (lengths.len() - 1);
        assert!(average < lengths[0] * 9 / 10 && lengths[train.variants()] > 100, "{average} after {}", lengths[0]);
    }

    #[test]
    fn refuses_masked_and_reserved() {
        assert!(parse(&[0x82, 0x81, 0, 0, 0, 0, 1]).unwrap_err().to_string().contains("masked"));
        assert!(parse(&[0xC2, 0]).unwrap_err().to_string().contains("reserved"));
    }
}
