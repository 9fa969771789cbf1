//! What messages cost the process, and how that is kept under `limits.memory`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

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
    memory: Arc<Memory>,
}

impl SharedFrame {
    pub fn new(wire: Bytes, memory: Arc<Memory>) -> Arc<Self> {
        memory.charge(wire.len());
        memory.shared.fetch_add(wire.len(), Ordering::Relaxed);
        Arc::new(Self { wire, memory })
    }
}

impl Drop for SharedFrame {
    fn drop(&mut self) {
        self.memory.release(self.wire.len());
        self.memory.shared.fetch_sub(self.wire.len(), Ordering::Relaxed);
    }
}
