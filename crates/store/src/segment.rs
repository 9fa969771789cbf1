//! The bytes of one segment file.
//!
//! A header, then records without holes, then zeros up to the end where space was reserved:
//!
//! ```text
//! header   magic[8] base:u64 mark:u64 crc:u32 0:u32
//! record   len:u32 crc:u32 number:u32 synced:u32 kind:u8 data[len - 1]
//! ```
//!
//! Little endian. `crc` is CRC-32C over everything else of the header or record, seeded with `base` for
//! records, so that none of another segment is taken for one of this. A record's index is
//! `base + number`. `synced` is how much of the file was durable when the record was written: where bytes
//! before that are bad, the disk has lost what it had, and it is not merely a write that the power cut
//! short.

/// What the first bytes of a file say.
pub const MAGIC: [u8; 8] = *b"lifelog1";
pub const HEADER: usize = 32;
pub const RECORD_HEADER: usize = 17;
/// A file's offsets have 32 bits; this leaves room for what is added at its end.
pub const MAX_LEN: u64 = 1 << 31;
/// How many times a damaged file may be read over to find where it goes on.
const EFFORT: usize = 16;

/// Records' numbers are below, and nothing is known of what would come so far behind a base: no file is long enough. So
/// no sum of theirs can overflow, whatever a damaged or forged file says.
pub const MAX_NUMBER: u32 = 1 << 31;
/// Likewise the bases of segments, and what a mark can be.
pub const MAX_BASE: u64 = 1 << 62;

/// More numbers are not missing at one place: others are no record's.
const LEAP: u32 = 1 << 20;

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The application's.
    Data = 1,
    /// Everything up to an index is no longer needed.
    Mark = 2,
    /// The application's state, of which the last counts.
    Head = 3,
    /// The log was closed in order; everything before it is durable.
    Closed = 4,
}

/// A record where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    pub kind: Kind,
    pub number: u32,
    pub synced: u32,
    pub data: &'a [u8],
    /// Behind it.
    pub end: usize,
}

#[must_use]
pub fn encode_header(base: u64, mark: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&base.to_le_bytes());
    header[16..24].copy_from_slice(&mark.to_le_bytes());
    let crc = crc32c::crc32c(&header[..24]);
    header[24..28].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Base and mark; `None`: it is damaged.
#[must_use]
pub fn decode_header(file: &[u8]) -> Option<(u64, u64)> {
    let header = file.get(..HEADER)?;
    let whole = header[..8] == MAGIC && u32_at(header, 24)? == crc32c::crc32c(&header[..24]) && header[28..] == [0; 4];
    whole.then_some((u64_at(header, 8)?, u64_at(header, 16)?))
}

pub fn encode_record(into: &mut Vec<u8>, base: u64, number: u32, synced: u32, kind: Kind, data: &[u8]) {
    let len = (data.len() + 1) as u32;
    let start = into.len();
    into.extend_from_slice(&len.to_le_bytes());
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&number.to_le_bytes());
    into.extend_from_slice(&synced.to_le_bytes());
    into.push(kind as u8);
    into.extend_from_slice(data);
    let crc = checksum(base, &into[start..]);
    into[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// The record at `offset`, if a whole one is there.
#[must_use]
pub fn decode_record(file: &[u8], base: u64, offset: usize) -> Option<Found<'_>> {
    let end = plausible(file, offset)?;
    let record = &file[offset..end];
    if u32_at(record, 4)? != checksum(base, record) {
        return None;
    }
    let kind = match record[16] {
        1 => Kind::Data,
        2 => Kind::Mark,
        3 => Kind::Head,
        4 => Kind::Closed,
        _ => return None,
    };
    let (number, synced) = (u32_at(record, 8)?, u32_at(record, 12)?);
    (number < MAX_NUMBER).then(|| Found { kind, number, synced, data: &record[RECORD_HEADER..], end })
}

/// Where the next whole record behind damage begins, whose number is more than `last`.
#[must_use]
pub fn resynchronise(file: &[u8], base: u64, from: usize, last: Option<u32>) -> Option<usize> {
    // What looks like a record and is none costs a checksum; a file full of such must not take for ever.
    let mut effort = file.len().saturating_mul(EFFORT);
    let next = last.map_or(0, |last| last + 1);
    for offset in from..file.len() {
        let Some(end) = plausible(file, offset) else { continue };
        let (Some(number), Some(synced)) = (u32_at(file, offset + 8), u32_at(file, offset + 12)) else { continue };
        if number < next || number - next > LEAP || synced as usize > offset {
            continue;
        }
        effort = effort.checked_sub(end - offset)?;
        if decode_record(file, base, offset).is_some() {
            return Some(offset);
        }
    }
    None
}

/// Whether there is nothing but reserved space from `offset` on.
#[must_use]
pub fn is_blank(file: &[u8], offset: usize) -> bool {
    file[offset..].iter().all(|byte| *byte == 0)
}

/// The end of the record that a length at `offset` speaks of.
fn plausible(file: &[u8], offset: usize) -> Option<usize> {
    let len = u32_at(file, offset)? as usize;
    let end = (offset + RECORD_HEADER - 1).checked_add(len)?;
    (len > 0 && end <= file.len()).then_some(end)
}

/// Of a record, whatever stands in the place of its checksum.
fn checksum(base: u64, record: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&base.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &record[..4]);
    crc32c::crc32c_append(crc, &record[8..])
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset.checked_add(8)?)?.try_into().ok()?))
}
