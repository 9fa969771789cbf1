//! What messages cost the process, and how that is kept under `limits.memory`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use lifeline_proto::deflate::{LEAST_WINDOW_BITS, MOST_WINDOW_BITS};
use lifeline_proto::frame::{Opcode, put_header};

use crate::deflate::Compression;

/// Bytes of messages held anywhere in the engine, against one limit.
#[derive(Debug, Default)]
pub struct Memory {
    used: AtomicUsize,
    /// What of it frames take that many connections send.
    shared: AtomicUsize,
    limit: AtomicUsize,
    holders: AtomicUsize,
}

impl Memory {
    /// The limit is the largest that any server or client alive asked for.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub fn charge(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// What of [`Memory::used`] shared frames take.
    pub fn shared(&self) -> usize {
        self.shared.load(Ordering::Relaxed)
    }

    pub fn is_over(&self) -> bool {
        self.used() > self.limit()
    }

    /// Shared frames take more than half of the limit.
    pub fn is_over_shared(&self) -> bool {
        self.shared() > self.limit() / 2
    }

    /// Connections that share the limit.
    pub fn add_holder(&self) {
        self.holders.fetch_add(1, Ordering::Relaxed);
    }

    pub fn remove_holder(&self) {
        self.holders.fetch_sub(1, Ordering::Relaxed);
    }

    /// What one connection may hold while the process is over its limit: half of an equal share, so
    /// that those who hold most are stopped first and the others go on.
    pub fn share(&self) -> usize {
        const LEAST: usize = 4096;
        (self.limit() / (2 * self.holders.load(Ordering::Relaxed).max(1))).max(LEAST)
    }
}

/// An encoded frame that many connections send: its bytes are charged once and released with the
/// last of them.
#[derive(Debug)]
pub struct SharedFrame {
    /// Header and payload, as they go on the wire.
    pub wire: Bytes,
    /// Compressed, by size of the window, where somebody has asked for it.
    compressed: OnceLock<Box<[OnceLock<Option<Bytes>>; WINDOWS]>>,
    memory: Arc<Memory>,
}

/// Sizes of windows that there are.
const WINDOWS: usize = (MOST_WINDOW_BITS - LEAST_WINDOW_BITS + 1) as usize;

impl SharedFrame {
    pub fn new(wire: Bytes, memory: Arc<Memory>) -> Arc<Self> {
        memory.charge(wire.len());
        memory.shared.fetch_add(wire.len(), Ordering::Relaxed);
        Arc::new(Self { wire, compressed: OnceLock::new(), memory })
    }

    /// The message without its frame's header.
    pub fn payload(&self) -> &[u8] {
        let header = match self.wire.get(1) {
            Some(126) => 4,
            Some(127) => 10,
            _ => 2,
        };
        self.wire.get(header..).unwrap_or_default()
    }

    pub fn opcode(&self) -> Opcode {
        if self.wire.first().is_some_and(|first| first & 0x0F == Opcode::Text as u8) {
            Opcode::Text
        } else {
            Opcode::Binary
        }
    }

    /// What goes on the wire of a connection that keeps no context: compressed once for all of them who have the
    /// same window, by the first that writes it.
    pub fn wire_for(&self, compression: Option<&Compression>) -> &Bytes {
        let Some(compression) = compression.filter(|it| it.wants(self.payload().len())) else { return &self.wire };
        let slots = self.compressed.get_or_init(Box::default);
        let slot = slots.get(usize::from(compression.window_bits() - LEAST_WINDOW_BITS));
        let made = slot.and_then(|slot| slot.get_or_init(|| self.compress(compression)).as_ref());
        let Some(wire) = made else { return &self.wire };
        compression.count_out(self.payload().len(), wire.len());
        wire
    }

    fn compress(&self, compression: &Compression) -> Option<Bytes> {
        let wire = compression.compress_shared(self.payload(), |payload| {
            let mut wire = BytesMut::with_capacity(payload.len() + 10);
            put_header(&mut wire, true, true, self.opcode(), payload.len(), None);
            wire.extend_from_slice(payload);
            wire.freeze()
        })?;
        self.memory.charge(wire.len());
        self.memory.shared.fetch_add(wire.len(), Ordering::Relaxed);
        Some(wire)
    }

    /// All that it holds.
    fn size(&self) -> usize {
        let slots = self.compressed.get().into_iter().flat_map(|slots| slots.iter());
        let compressed = slots.filter_map(|slot| slot.get()?.as_ref().map(Bytes::len));
        self.wire.len() + compressed.sum::<usize>()
    }
}

impl Drop for SharedFrame {
    fn drop(&mut self) {
        let size = self.size();
        self.memory.release(size);
        self.memory.shared.fetch_sub(size, Ordering::Relaxed);
    }
}
