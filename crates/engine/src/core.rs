//! What the process has one of: shards, the event queue, the memory budget, and the tables of
//! connections and endpoints.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use lifeline_proto::Time;
use parking_lot::{Mutex, RwLock};

use crate::bridge::{ConnId, EndpointId, Ticket};
use crate::client::Client;
use crate::events::EventQueue;
use crate::keeper::Keeper;
use crate::memory::Memory;
use crate::outlet::Outlet;
use crate::server::Server;
use crate::service::Service;
use crate::shard::Shard;

/// Bytes queued after which a batch is flushed before its end.
const EARLY_FLUSH: usize = 256 * 1024;

/// The same, where it is the calling thread that writes, a connection.
const EARLY_FLUSH_EACH: usize = 16 * 1024;

/// Connections of one batch up to which the calling thread writes to the sockets itself.
const DIRECT: usize = 16;

/// The same, while the calling thread does the first shard's work anyway: a few milliseconds.
const DIRECT_AWAY: usize = 1024;

/// By how many connections the shard that accepts may lead: the application's thread does that one's
/// work, and to hand each message over between two threads costs more than it is worth for a few.
const LEAD: usize = 256;

/// Ids are consecutive numbers: no hash is better than themselves, spread over the table.
#[derive(Debug, Default, Clone, Copy)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }
}

/// A table by id.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// A server or a client.
#[derive(Debug, Clone)]
pub enum Endpoint {
    Server(Arc<Server>),
    Client(Arc<Client>),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Core {
    pub shards: Vec<Arc<Shard>>,
    pub events: Arc<EventQueue>,
    pub memory: Arc<Memory>,
    pub keeper: Keeper,
    pub service: Service,
    /// Connections, from their opening until the application has consumed their last message.
    pub connections: RwLock<IdMap<ConnId, Arc<Outlet>>>,
    pub endpoints: RwLock<IdMap<EndpointId, Endpoint>>,
    next_connection: AtomicU64,
    next_endpoint: AtomicU32,
    next_ticket: AtomicU64,
    next_shard: AtomicU32,
    /// Outlets that got something to do since the last flush.
    dirty: Mutex<Vec<Arc<Outlet>>>,
    /// Clients whose messages were settled since the last end of a batch.
    settled: Mutex<Vec<Arc<Client>>>,
    any_settled: AtomicBool,
    /// Servers have something for their stores.
    any_unwritten: AtomicBool,
    /// Bytes queued since the last flush.
    queued: AtomicUsize,
    /// Flushes that found something.
    flushes: AtomicU64,
    /// The first shard's pump looks, within [`PATIENCE`], whether what was marked has been flushed.
    watched: AtomicBool,
    last_tick: AtomicU64,
}

impl Core {
    pub fn new(shards: Vec<Arc<Shard>>, events: Arc<EventQueue>) -> Self {
        Self {
            shards,
            events,
            memory: Arc::default(),
            keeper: Keeper::default(),
            service: Service::default(),
            connections: RwLock::default(),
            endpoints: RwLock::default(),
            next_connection: AtomicU64::new(1),
            next_endpoint: AtomicU32::new(1),
            next_ticket: AtomicU64::new(1),
            next_shard: AtomicU32::new(0),
            dirty: Mutex::default(),
            settled: Mutex::default(),
            any_settled: AtomicBool::new(false),
            any_unwritten: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            flushes: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            last_tick: AtomicU64::new(0),
        }
    }

    /// Numbers begin here.
    pub fn number_from(&self, connections: u64, endpoints: u32) {
        self.next_connection.store(connections, Ordering::Relaxed);
        self.next_ticket.store(connections, Ordering::Relaxed);
        self.next_endpoint.store(endpoints, Ordering::Relaxed);
    }

    pub fn next_connection_id(&self) -> ConnId {
        ConnId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    pub fn next_endpoint_id(&self) -> EndpointId {
        EndpointId(self.next_endpoint.fetch_add(1, Ordering::Relaxed))
    }

    pub fn next_ticket(&self) -> Ticket {
        Ticket(self.next_ticket.fetch_add(1, Ordering::Relaxed))
    }

    /// The shard with the fewest connections, ties in turn.
    pub fn pick_shard(&self) -> Arc<Shard> {
        let start = self.next_shard.fetch_add(1, Ordering::Relaxed) as usize;
        let count = self.shards.len();
        let index = (0..count)
            .map(|offset| (start + offset) % count)
            .min_by_key(|&index| self.shards[index].population.load(Ordering::Relaxed))
            .unwrap_or(0);
        self.shards[index].clone()
    }

    /// The shard for a connection that shard `here` has accepted: that one, unless another has clearly
    /// fewer connections. To hand one over wakes a thread.
    pub fn place(&self, here: usize) -> &Arc<Shard> {
        let population = |shard: &Shard| shard.population.load(Ordering::Relaxed);
        let own = &self.shards[here];
        let least = self.shards.iter().min_by_key(|shard| population(shard)).unwrap_or(own);
        if population(own) > population(least) + LEAD { least } else { own }
    }

    pub fn add_connection(&self, outlet: &Arc<Outlet>) {
        self.connections.write().insert(outlet.id, outlet.clone());
    }

    pub fn connection(&self, id: ConnId) -> Option<Arc<Outlet>> {
        self.connections.read().get(&id).cloned()
    }

    /// The application has seen the connection's end, or has consumed a message: forget it when both
    /// are done.
    pub fn forget_connection(&self, id: ConnId) {
        let mut connections = self.connections.write();
        if connections.get(&id).is_some_and(|outlet| outlet.is_closed() && outlet.inbound.load(Ordering::Acquire) == 0)
        {
            connections.remove(&id);
        }
    }

    /// A server or client begins: `limits.memory` is the largest of those alive.
    pub fn add_endpoint(&self, id: EndpointId, endpoint: Endpoint) {
        let mut endpoints = self.endpoints.write();
        endpoints.insert(id, endpoint);
        self.memory.set_limit(largest(&endpoints));
    }

    /// The application has seen its end.
    pub fn remove_endpoint(&self, id: EndpointId) {
        let mut endpoints = self.endpoints.write();
        let ended = endpoints.remove(&id);
        self.memory.set_limit(largest(&endpoints));
        drop(endpoints);
        drop(ended);
    }

    pub fn endpoint(&self, id: EndpointId) -> Option<Endpoint> {
        self.endpoints.read().get(&id).cloned()
    }

    /// Has the outlet's task woken at the next [`Core::flush`].
    pub fn mark(&self, outlet: &Arc<Outlet>) {
        outlet.want_task();
        self.mark_queued(outlet);
    }

    /// Has what was queued written by the next [`Core::flush`].
    pub fn mark_queued(&self, outlet: &Arc<Outlet>) {
        if !outlet.mark() {
            return;
        }
        let first = {
            let mut dirty = self.dirty.lock();
            dirty.push(outlet.clone());
            dirty.len() == 1
        };
        // Whoever marks flushes soon, unless it is blocked: then an I/O thread does. Where nobody drives
        // the first shard now, its thread flushes when it takes over.
        if first && !self.shards[0].is_away() && !self.watched.swap(true, Ordering::SeqCst) {
            self.shards[0].wake_pump();
        }
    }

    /// Flushes what has been marked since before the last call, at which `seen` was returned; None:
    /// nothing is. To be called again within [`PATIENCE`] unless it is none.
    pub fn flush_overdue(&self, seen: Option<u64>) -> Option<u64> {
        if !self.watched.load(Ordering::SeqCst) {
            return None;
        }
        let flushes = self.flushes.load(Ordering::SeqCst);
        if seen == Some(flushes) {
            if self.dirty.lock().is_empty() {
                self.watched.store(false, Ordering::SeqCst);
                // With `mark_queued`: either we see its outlet or it sees that nobody looks.
                if self.dirty.lock().is_empty() || self.watched.swap(true, Ordering::SeqCst) {
                    return None;
                }
            } else {
                self.flush();
            }
        }
        Some(self.flushes.load(Ordering::SeqCst))
    }

    /// `bytes` were queued: a long batch is flushed on its way, so that the I/O threads write while the
    /// application goes on.
    pub fn count_queued(&self, bytes: usize) {
        let queued = self.queued.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if queued > EARLY_FLUSH {
            // With nobody to write meanwhile there is only the queues' length to care for.
            if self.shards[0].is_away() && queued < self.dirty.lock().len() * EARLY_FLUSH_EACH {
                return;
            }
            self.append();
            self.flush();
        }
    }

    /// Writes for the marked outlets, where they are few; has the tasks of the others woken: one wake a shard.
    pub fn flush(&self) {
        self.queued.store(0, Ordering::Relaxed);
        let mut dirty = std::mem::take(&mut *self.dirty.lock());
        if dirty.is_empty() {
            return;
        }
        self.flushes.fetch_add(1, Ordering::SeqCst);
        // A few writes cost less than waking another thread to make them, ...
        let away = self.shards[0].is_away();
        let few = dirty.len() <= if away { DIRECT_AWAY } else { DIRECT };
        if few {
            dirty.retain(|outlet| !outlet.write_now());
        }
        // ... many are shared out, ...
        for shard in &self.shards[1..] {
            let mut own: Vec<_> = dirty.extract_if(.., |outlet| outlet.shard.index == shard.index).collect();
            shard.post(&mut own);
        }
        // ... and with nobody awake there, it is this thread that makes them sooner or later.
        if away && !few {
            dirty.retain(|outlet| !outlet.write_now());
        }
        self.shards[0].post(&mut dirty);
        // Keep the room for the next batch.
        dirty.clear();
        let mut slot = self.dirty.lock();
        if slot.capacity() < dirty.capacity() && slot.is_empty() {
            *slot = dirty;
        }
    }

    /// At the end of the application's batch the client has something to acknowledge.
    pub fn note_settled(&self, client: &Arc<Client>) {
        self.settled.lock().push(client.clone());
        self.any_settled.store(true, Ordering::Release);
    }

    /// At the end of the application's batch a server has something to acknowledge.
    pub fn expect_batch_end(&self) {
        self.any_settled.store(true, Ordering::Release);
    }

    /// At the end of the application's batch a server has something for its store.
    pub fn expect_append(&self) {
        self.any_unwritten.store(true, Ordering::Release);
    }

    /// All servers, so that others have the table while something is done with each.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        let endpoints = self.endpoints.read();
        let server = |endpoint: &Endpoint| match endpoint {
            Endpoint::Server(server) => Some(server.clone()),
            Endpoint::Client(_) => None,
        };
        endpoints.values().filter_map(server).collect()
    }

    /// Gives servers' stores what is to go out next. Waits for disks: for the application's thread.
    pub fn append(&self) {
        if self.any_unwritten.load(Ordering::Relaxed) && self.any_unwritten.swap(false, Ordering::AcqRel) {
            for server in self.servers() {
                server.sessions.append();
            }
        }
    }

    /// The application has come to the end of a batch.
    pub fn end_batch(&self) {
        if self.any_settled.load(Ordering::Relaxed) && self.any_settled.swap(false, Ordering::AcqRel) {
            for client in std::mem::take(&mut *self.settled.lock()) {
                client.handle_batch_end();
            }
            for endpoint in self.endpoints.read().values() {
                if let Endpoint::Server(server) = endpoint {
                    server.sessions.end_batch();
                }
            }
        }
    }

    /// Wakes one outlet's task now.
    pub fn wake(outlet: &Arc<Outlet>) {
        // Also when it is marked already: that may be for a flush which the application is far from.
        let _ = outlet.mark();
        outlet.shard.post(&mut vec![outlet.clone()]);
    }

    /// The process was frozen or the machine slept: what the sockets say of their peers is old news.
    pub fn handle_clock_jump(&self, shard: &Shard) {
        let connections = self.connections.read();
        for outlet in connections.values().filter(|outlet| outlet.shard.index == shard.index) {
            outlet.wake_probe();
        }
        drop(connections);
        if shard.index == 0 {
            for endpoint in self.endpoints.read().values() {
                if let Endpoint::Client(client) = endpoint {
                    client.handle_clock_jump();
                }
            }
        }
    }

    /// Housekeeping, from the first shard, at most once a second.
    pub fn tick(&self, now: Time) {
        let last = Time::from_micros(self.last_tick.load(Ordering::Relaxed));
        if now - last < Duration::from_millis(900) {
            return;
        }
        self.last_tick.store(now.as_micros(), Ordering::Relaxed);
        let servers = self.servers();
        for server in &servers {
            server.tick();
        }
        self.service.tick(&servers);
    }
}

fn largest(endpoints: &IdMap<EndpointId, Endpoint>) -> usize {
    let limit = |endpoint: &Endpoint| match endpoint {
        Endpoint::Server(server) => server.memory_limit(),
        Endpoint::Client(client) => client.memory_limit(),
    };
    endpoints.values().map(limit).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_connection_stays_unless_others_have_clearly_less() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let shards = (0..3).map(|index| Arc::new(Shard::new(index, runtime.handle().clone(), None))).collect();
        let core = Core::new(shards, Arc::new(EventQueue::new().unwrap()));
        let mut placed = Vec::new();
        for _ in 0..LEAD + 100 {
            let shard = core.place(0);
            shard.population.fetch_add(1, Ordering::Relaxed);
            placed.push(shard.index);
        }
        assert!(placed[..=LEAD].iter().all(|&index| index == 0), "{placed:?}");
        let count = |shard| placed.iter().filter(|&&index| index == shard).count();
        assert_eq!(count(0), LEAD + 34, "{placed:?}");
        assert_eq!(count(1), 33, "{placed:?}");
        assert_eq!(count(2), 33, "{placed:?}");
    }
}
