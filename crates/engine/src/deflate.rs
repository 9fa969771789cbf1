//! permessage-deflate of one connection, where it was agreed on: what it keeps, and what it saves.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeline_proto::deflate::{
    Agreement, DeflateConfig, Deflater, INFLATER_SIZE, Side, compressor_size, with_deflater,
};
use lifeline_proto::frame::{Inflated, Role};
use parking_lot::Mutex;

use crate::bridge::{Stat, Stats};

/// A compressed payload's buffer is kept for the next one up to this size.
const KEPT: usize = 256 * 1024;

thread_local! {
    static COMPRESSED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Compressed messages and the bytes of their payloads, before compression and on the wire.
#[derive(Debug, Default)]
pub struct Counters {
    pub messages_in: AtomicU64,
    pub messages_out: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub wire_in: AtomicU64,
    pub wire_out: AtomicU64,
}

impl Counters {
    pub fn absorb(&self, of: &Self) {
        for (sum, part) in [
            (&self.messages_in, &of.messages_in),
            (&self.messages_out, &of.messages_out),
            (&self.bytes_in, &of.bytes_in),
            (&self.bytes_out, &of.bytes_out),
            (&self.wire_in, &of.wire_in),
            (&self.wire_out, &of.wire_out),
        ] {
            sum.fetch_add(part.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// As `stats()` shows them, behind what is known of the connections.
    pub fn stats(&self, mut head: Vec<(std::borrow::Cow<'static, str>, Stat)>) -> Stats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let pair = |inward: &AtomicU64, outward: &AtomicU64| {
            let int = |counter| Stat::Int(i64::try_from(load(counter)).unwrap_or(i64::MAX));
            Stat::Tree(Stats(vec![("in".into(), int(inward)), ("out".into(), int(outward))]))
        };
        let ratio = |wire: &AtomicU64, bytes: &AtomicU64| match load(bytes) {
            0 => Stat::None,
            bytes => Stat::Float(load(wire) as f64 / bytes as f64),
        };
        head.extend([
            ("messages".into(), pair(&self.messages_in, &self.messages_out)),
            ("bytes".into(), pair(&self.bytes_in, &self.bytes_out)),
            ("wireBytes".into(), pair(&self.wire_in, &self.wire_out)),
            (
                "ratio".into(),
                Stat::Tree(Stats(vec![
                    ("in".into(), ratio(&self.wire_in, &self.bytes_in)),
                    ("out".into(), ratio(&self.wire_out, &self.bytes_out)),
                ])),
            ),
        ]);
        Stats(head)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Compression {
    config: DeflateConfig,
    agreement: Agreement,
    ours: Side,
    theirs: Side,
    /// With context takeover: made for the first message. Locked by who has the connection's writer.
    own: Mutex<Option<Box<Deflater>>>,
    pub counters: Counters,
}

impl Compression {
    pub fn new(agreement: Agreement, role: Role, config: DeflateConfig) -> Self {
        let (ours, theirs) = match role {
            Role::Server => (agreement.server, agreement.client),
            Role::Client => (agreement.client, agreement.server),
        };
        Self { config, agreement, ours, theirs, own: Mutex::new(None), counters: Counters::default() }
    }

    /// What the connection keeps from message to message, in bytes.
    pub fn kept_size(agreement: Agreement, role: Role) -> usize {
        let (ours, theirs) = match role {
            Role::Server => (agreement.server, agreement.client),
            Role::Client => (agreement.client, agreement.server),
        };
        let deflater = if ours.takeover && ours.can_compress() { compressor_size(ours.window_bits) } else { 0 };
        let inflater = if theirs.takeover { INFLATER_SIZE } else { 0 };
        deflater + inflater
    }

    pub fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    /// The peer's messages may refer to earlier ones.
    pub fn inflates_with_context(&self) -> bool {
        self.theirs.takeover
    }

    /// Ours may, so that what was compressed has to be sent.
    pub fn deflates_with_context(&self) -> bool {
        self.ours.takeover
    }

    /// 9 to 15, of what we send.
    pub fn window_bits(&self) -> u8 {
        self.ours.window_bits
    }

    /// Whether a message of `size` bytes is to be compressed.
    pub fn wants(&self, size: usize) -> bool {
        size >= self.config.threshold && self.ours.can_compress()
    }

    /// Compresses a message whose payload is the `parts` one after the other, and passes on what comes of it;
    /// `None`: nothing is gained, it is to be sent as it is.
    pub fn compress<T>(&self, parts: &[&[u8]], then: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let size = parts.iter().map(|part| part.len()).sum();
        with_buffer(|out| {
            if self.ours.takeover {
                let mut own = self.own.lock();
                let new = || Box::new(Deflater::new(self.config.level, self.ours.window_bits));
                own.get_or_insert_with(new).compress(parts, out);
            } else {
                with_deflater(self.config.level, self.ours.window_bits, |deflater| deflater.compress(parts, out));
                if out.len() >= size {
                    return None;
                }
            }
            self.count_out(size, out.len());
            Some(then(out))
        })
    }

    /// Compresses a message for all whose window is `window_bits` and who keep none; `None` as for
    /// [`Compression::compress`].
    pub fn compress_shared<T>(&self, payload: &[u8], then: impl FnOnce(&[u8]) -> T) -> Option<T> {
        with_buffer(|out| {
            with_deflater(self.config.level, self.ours.window_bits, |deflater| deflater.compress(&[payload], out));
            (out.len() < payload.len()).then(|| then(out))
        })
    }

    pub fn count_out(&self, bytes: usize, wire: usize) {
        self.counters.messages_out.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
        self.counters.wire_out.fetch_add(wire as u64, Ordering::Relaxed);
    }

    pub fn count_in(&self, inflated: Inflated) {
        if inflated.messages > 0 {
            self.counters.messages_in.fetch_add(inflated.messages, Ordering::Relaxed);
            self.counters.bytes_in.fetch_add(inflated.bytes, Ordering::Relaxed);
            self.counters.wire_in.fetch_add(inflated.wire, Ordering::Relaxed);
        }
    }
}

fn with_buffer<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    COMPRESSED.with_borrow_mut(|out| {
        out.clear();
        let result = work(out);
        if out.capacity() > KEPT {
            *out = Vec::new();
        }
        result
    })
}
