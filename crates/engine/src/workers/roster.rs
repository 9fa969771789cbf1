//! Who serves which connection: placement, hand-over, crashes, new code, worn-out and stuck workers. No I/O and no clock:
//! what it has done goes through [`Hands`], and the time comes with each call.
//!
//! Here are workers, from their start to their end; connections and their events are in `delivery`, what workers ask for is in
//! `orders`.

mod delivery;
mod orders;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;

use lifeline_proto::Time;

use self::delivery::{address, key_of};
use super::wire::{Questions, ToGateway, ToWorker};
use crate::bridge::{
    Command, CommandError, ConnId, Credentials, DeliveryId, EditInfo, EndpointId, Event, Key, LogLevel, OpenInfo,
    OutboxItem, Reply, Stat, Stats, Ticket,
};
use crate::config::{WatchdogAction, Workers};
use crate::core::{IdHasher, IdMap};
use crate::http::RequestHead;

/// What a worker may have in its hands at a time. Little, for what a plain connection has sent is lost with it; enough for
/// it not to wait.
const WINDOW_BYTES: usize = 256 * 1024;
const WINDOW_MESSAGES: usize = 256;
/// What an open event costs beside its request's head.
const OPEN_COST: usize = 256;
/// A worker that has served for so long has not failed when it ends.
const STABLE: Duration = Duration::from_secs(5);
/// The wait before the second start in a row that fails, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// How often workers have to show that they dispatch.
const BEAT: Duration = Duration::from_secs(1);
/// Records that may wait for a worker; the others go to the gateway's own log.
const LOGS: usize = 1000;

/// Names one worker process; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u32);

/// What the roster has done by others.
pub trait Hands {
    /// Sends to a worker, in order.
    fn tell(&mut self, worker: WorkerId, message: &ToWorker);

    /// Asks the engine.
    ///
    /// # Errors
    /// The engine's.
    fn submit(&mut self, command: Command) -> Result<Reply, CommandError>;

    /// See [`crate::bridge::Bridge::step`].
    fn step(&mut self, done: Option<DeliveryId>, begin: Option<DeliveryId>) -> bool;

    /// Starts a process and returns its id.
    ///
    /// # Errors
    /// What the system says.
    fn spawn(&mut self, worker: WorkerId, number: usize) -> Result<u32, String>;

    /// Ends the process at once; [`Roster::handle_ended`] follows.
    fn kill(&mut self, worker: WorkerId);

    /// The engine asks what these callbacks want to be asked.
    fn set_questions(&mut self, questions: Questions);

    /// Resident memory of the process in bytes; 0: unknown.
    fn memory(&mut self, worker: WorkerId) -> usize;

    fn log(&mut self, level: LogLevel, message: String);
}

/// What the roster is told at start.
#[derive(Debug, Clone)]
pub struct Settings {
    pub server: EndpointId,
    pub workers: Workers,
    pub watchdog_lag: Duration,
    pub watchdog_action: WatchdogAction,
    pub redelivery_limit: u32,
    pub auth_timeout: Duration,
    pub addresses: Vec<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has not called `run()` yet.
    Starting,
    Serving,
    /// Its connections go to others.
    Leaving,
    /// It has been told to end.
    Ending,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Leaving | Self::Ending => "leaving",
        }
    }
}

/// An event for a worker; `again`: another one had it in its hands.
#[derive(Debug)]
struct Job {
    event: Event,
    again: bool,
}

#[derive(Debug)]
struct Worker {
    slot: usize,
    phase: Phase,
    pid: u32,
    started: Time,
    questions: Questions,
    /// When it is ended by force.
    deadline: Option<Time>,
    /// In its hands: sent, and not known to be dealt with.
    messages: usize,
    bytes: usize,
    /// Questions in its hands.
    asked: usize,
    /// What it is to get when there is room in its hands.
    queue: VecDeque<Job>,
    conns: HashSet<ConnId, BuildHasherDefault<IdHasher>>,
    handled: u64,
    /// The beat that it has not answered.
    beat: Option<(u32, Time)>,
    beats: u32,
    next_beat: Time,
    is_late: bool,
    memory: usize,
    /// It is to be replaced because it is worn out.
    worn: bool,
    /// Its own words, or why it was ended by force.
    why: Option<String>,
}

impl Worker {
    fn is_full(&self) -> bool {
        self.bytes >= WINDOW_BYTES || self.messages >= WINDOW_MESSAGES
    }

    fn lag(&self, now: Time) -> Duration {
        self.beat.map_or(Duration::ZERO, |(_, sent)| now - sent)
    }
}

/// A place for a worker, as long as the server lives.
#[derive(Debug, Default)]
struct Slot {
    /// It serves.
    current: Option<WorkerId>,
    /// It starts, or waits for others that start.
    next: Option<WorkerId>,
    /// Starts in a row that failed.
    failures: u32,
    retry_at: Option<Time>,
}

/// What few connections have.
#[derive(Debug, Default)]
struct Rare {
    /// Items and edits in workers' hands, whose handling is begun.
    items: VecDeque<(Key, OutboxItem)>,
    edits: Vec<EditInfo>,
    /// Channels about which a worker is asked.
    asked: Vec<Arc<str>>,
    /// The connection's end, in a worker's hands.
    close: Option<(u16, Box<str>, bool)>,
    /// What came while nobody served it.
    held: VecDeque<Event>,
}

#[derive(Debug)]
struct Route {
    worker: Option<WorkerId>,
    /// The worker knows of it.
    introduced: bool,
    /// The worker was asked to give it away.
    leaving: bool,
    /// A worker has dealt with its opening.
    opened: bool,
    info: Box<OpenInfo>,
    /// What [`WorkerKey`] finds.
    key: Option<u64>,
    /// What the engine waits to be told is consumed.
    messages: usize,
    bytes: usize,
    rare: Option<Box<Rare>>,
}

impl Route {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// An item or edit whose handling is begun.
#[derive(Debug)]
struct Held {
    conn: ConnId,
    outbox: Key,
    /// Who has it in its hands; none: it waits for the connection's next worker.
    worker: Option<WorkerId>,
}

/// What the engine waits for, from whichever worker.
#[derive(Debug)]
enum Asked {
    Handshake(Arc<RequestHead>),
    Authenticate(Box<Credentials>),
    Snapshot(Arc<str>),
}

#[derive(Debug)]
struct Question {
    asked: Asked,
    worker: Option<WorkerId>,
    since: Time,
}

/// A document whose changes workers want to know.
#[derive(Debug, Default)]
struct Watch {
    watchers: Vec<WorkerId>,
    news: News,
}

/// Whether a document has changed since its changes were taken.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum News {
    #[default]
    None,
    /// Nobody knows yet.
    Untold,
    Told(WorkerId),
}

/// Since the start.
#[derive(Debug, Default)]
struct Counters {
    reloads: u64,
    failed_reloads: u64,
    crashes: u64,
    recycled: u64,
    stuck: u64,
    moved: u64,
    lost: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Roster {
    settings: Settings,
    slots: Vec<Slot>,
    workers: BTreeMap<WorkerId, Worker>,
    routes: IdMap<ConnId, Route>,
    /// Connections that wait for a worker.
    waiting: VecDeque<ConnId>,
    questions: HashMap<Ticket, Question>,
    documents: HashMap<Box<str>, Watch>,
    /// Items and edits whose handling is begun.
    items: HashMap<DeliveryId, Held>,
    /// How many workers have ended with this item in their hands.
    poison: HashMap<DeliveryId, u32>,
    next: u32,
    generation: u64,
    /// New workers for all slots are starting.
    reloading: bool,
    reload_again: bool,
    stopping: bool,
    /// The first workers have all started.
    is_up: bool,
    /// Why they have not.
    fault: Option<String>,
    last_error: Option<String>,
    counters: Counters,
}

/// Where an event belongs.
enum Address {
    Conn(ConnId),
    Ticket(Ticket),
    Any,
    Other,
}

impl Roster {
    /// Starts the workers.
    pub fn new(settings: Settings, now: Time, hands: &mut impl Hands) -> Self {
        let slots = (0..settings.workers.count).map(|_| Slot::default()).collect();
        let mut roster = Self {
            settings,
            slots,
            workers: BTreeMap::new(),
            routes: IdMap::default(),
            waiting: VecDeque::new(),
            questions: HashMap::new(),
            documents: HashMap::new(),
            items: HashMap::new(),
            poison: HashMap::new(),
            next: 1,
            generation: 1,
            reloading: false,
            reload_again: false,
            stopping: false,
            is_up: false,
            fault: None,
            last_error: None,
            counters: Counters::default(),
        };
        for slot in 0..roster.slots.len() {
            roster.spawn(now, slot, hands);
        }
        roster
    }

    /// All of the first workers have called `run()`; or why that will not happen.
    pub fn readiness(&self) -> Result<bool, &str> {
        match &self.fault {
            Some(fault) => Err(fault),
            None => Ok(self.is_up),
        }
    }

    /// Some worker serves.
    pub fn is_served(&self) -> bool {
        self.first_serving().is_some()
    }

    /// The server has stopped and no worker is left.
    pub fn is_finished(&self) -> bool {
        self.stopping && self.workers.is_empty()
    }

    /// An event of the engine. Returned are those for the gateway's own application.
    pub fn handle_event(&mut self, now: Time, event: Event, hands: &mut impl Hands) -> Option<Event> {
        match event {
            Event::Open { conn, info, .. } => {
                let key = key_of(&self.settings.workers.by, &info);
                let route = Route {
                    worker: None,
                    introduced: false,
                    leaving: false,
                    opened: false,
                    info,
                    key,
                    messages: 0,
                    bytes: 0,
                    rare: None,
                };
                self.routes.insert(conn, route);
                self.assign(conn, hands);
            }
            Event::Handshake { ticket, request, .. } => self.ask(now, ticket, Asked::Handshake(request), hands),
            Event::Authenticate { ticket, credentials, .. } => {
                self.ask(now, ticket, Asked::Authenticate(credentials), hands);
            }
            Event::SnapshotWanted { ticket, channel, .. } => self.ask(now, ticket, Asked::Snapshot(channel), hands),
            Event::SessionEnded { server, session, .. } => {
                let chosen = self.least_loaded();
                let others: Vec<_> = self.attached().filter(|id| Some(*id) != chosen).collect();
                for worker in others {
                    let session = session.clone();
                    self.give(
                        worker,
                        Job { event: Event::SessionEnded { server, session, told: false }, again: false },
                        hands,
                    );
                }
                if let Some(worker) = chosen {
                    self.give(
                        worker,
                        Job { event: Event::SessionEnded { server, session, told: true }, again: false },
                        hands,
                    );
                }
            }
            Event::DocumentChanged { channel, .. } => {
                self.documents.entry((*channel).into()).or_default().news = News::Untold;
                self.tell_changes(&channel, hands);
            }
            Event::Failure { conn: None, .. } | Event::Log { .. } => match self.first_serving() {
                Some(worker) if self.workers.get(&worker).is_some_and(|worker| worker.queue.len() < LOGS) => {
                    self.give(worker, Job { event, again: false }, hands);
                }
                _ => return Some(event),
            },
            Event::Stopped { endpoint } if endpoint == self.settings.server => self.stop(now, hands),
            event => match address(&event) {
                Address::Conn(conn) => self.deliver(conn, event, hands),
                _ => return Some(event),
            },
        }
        None
    }

    /// What a worker has said.
    pub fn handle_message(&mut self, now: Time, id: WorkerId, message: ToGateway, hands: &mut impl Hands) {
        match message {
            ToGateway::Command(command) => {
                // Nobody waits for the reply; what is wrong with it the worker has checked.
                let _ = self.carry_out(now, id, command, hands);
            }
            ToGateway::Question(number, command) => {
                let reply = self.carry_out(now, id, command, hands);
                hands.tell(id, &ToWorker::Answer(number, reply));
            }
            ToGateway::Handled(item) => self.settle(id, item, None, hands),
            ToGateway::Beat(number) => {
                let Some(worker) = self.workers.get_mut(&id) else { return };
                if worker.beat.is_some_and(|(sent, _)| sent == number) {
                    worker.beat = None;
                    worker.next_beat = now + BEAT;
                    if std::mem::take(&mut worker.is_late) {
                        let number = worker.slot + 1;
                        hands.log(LogLevel::Warning, format!("worker {number} dispatches again"));
                    }
                }
            }
        }
    }

    /// A worker has called `run()`.
    pub fn handle_hello(&mut self, now: Time, id: WorkerId, questions: Questions, hands: &mut impl Hands) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.phase == Phase::Starting) else { return };
        let slot = worker.slot;
        worker.questions = questions;
        worker.phase = Phase::Serving;
        worker.deadline = None;
        worker.next_beat = now + BEAT;
        hands.tell(id, &ToWorker::Welcome { server: self.settings.server, addresses: self.settings.addresses.clone() });
        if self.reloading {
            let ready = self.slots.iter().all(|slot| slot.next.is_some_and(|next| self.is_serving(next)));
            if ready {
                self.reloading = false;
                self.generation += 1;
                self.counters.reloads += 1;
                hands.log(LogLevel::Notice, format!("reload: {} new workers have started", self.slots.len()));
                for slot in 0..self.slots.len() {
                    self.take_over(now, slot, hands);
                }
                if std::mem::take(&mut self.reload_again) {
                    self.begin_reload(now, hands);
                }
            }
        } else {
            self.take_over(now, slot, hands);
        }
        if !self.is_up && self.slots.iter().all(|slot| slot.current.is_some()) {
            self.is_up = true;
        }
    }

    /// A worker says why it ends before it has called `run()`.
    pub fn handle_explanation(&mut self, id: WorkerId, why: String) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.why.get_or_insert(why);
        }
    }

    /// What a worker says cannot be understood: it is ended.
    pub fn handle_broken(&mut self, id: WorkerId, why: &str, hands: &mut impl Hands) {
        self.end_by_force(id, format!("what it says on its socket is refused: {why}"), hands);
    }

    /// The process has ended; `how`: exit status or signal.
    pub fn handle_ended(&mut self, now: Time, id: WorkerId, how: &str, hands: &mut impl Hands) {
        let Some(worker) = self.workers.remove(&id) else { return };
        let slot = worker.slot;
        let name = format!("worker {} (process {})", slot + 1, worker.pid);
        let how = match &worker.why {
            Some(why) => format!("{how}: {why}"),
            None => how.to_owned(),
        };
        for watch in self.documents.values_mut() {
            watch.watchers.retain(|watcher| *watcher != id);
            if watch.news == News::Told(id) {
                watch.news = News::Untold;
            }
        }
        match worker.phase {
            Phase::Starting => {
                self.handle_failed_start(now, id, slot, &format!("{name} has not started: {how}"), hands);
            }
            Phase::Ending => {}
            Phase::Serving | Phase::Leaving => {
                let worker_started = worker.started;
                let lost = self.abandon(id, worker, hands);
                let moved = lost.moved;
                self.counters.moved += moved as u64;
                self.counters.lost += lost.plain as u64;
                self.counters.crashes += 1;
                let text = format!(
                    "{name} has ended: {how}. Its {moved} connections go on; {} messages of plain connections were in its \
                     hands and are lost, {} of lifeline.v1 are handled again",
                    lost.plain, lost.again
                );
                hands.log(LogLevel::Error, text.clone());
                self.last_error = Some(text);
                let place = &mut self.slots[slot];
                if now - worker_started >= STABLE {
                    place.failures = 0;
                }
                if place.current == Some(id) {
                    place.current = None;
                    if place.next.is_none() {
                        self.retry(now, slot, hands);
                    }
                } else if place.next == Some(id) {
                    // It waited for others.
                    place.next = None;
                    if self.reloading {
                        self.fail_reload(&format!("{name} has ended: {how}"), hands);
                    } else {
                        self.retry(now, slot, hands);
                    }
                }
            }
        }
        let channels: Vec<_> = self
            .documents
            .iter()
            .filter(|(_, watch)| watch.news == News::Untold)
            .map(|(name, _)| name.clone())
            .collect();
        for channel in channels {
            self.tell_changes(&channel, hands);
        }
    }

    /// Starts new workers for all places, which take over when all of them have started.
    ///
    /// # Errors
    /// The server is stopping.
    pub fn reload(&mut self, now: Time, hands: &mut impl Hands) -> Result<(), CommandError> {
        if self.stopping {
            return Err(CommandError::Gone("the server".into()));
        }
        if self.reloading || !self.is_up {
            self.reload_again = true;
        } else {
            self.begin_reload(now, hands);
        }
        Ok(())
    }

    /// What is due. To be called a few times a second.
    pub fn tick(&mut self, now: Time, hands: &mut impl Hands) {
        if self.is_up && !self.reloading && !self.stopping && std::mem::take(&mut self.reload_again) {
            self.begin_reload(now, hands);
        }
        for slot in 0..self.slots.len() {
            let place = &self.slots[slot];
            if !self.stopping && place.next.is_none() && place.retry_at.is_some_and(|at| at <= now) {
                self.slots[slot].retry_at = None;
                self.spawn(now, slot, hands);
            }
        }
        let ids: Vec<_> = self.workers.keys().copied().collect();
        for id in ids {
            self.look_after(now, id, hands);
        }
        // The engine has given them up long ago.
        let patience = self.settings.auth_timeout + Duration::from_secs(60);
        self.questions.retain(|_, question| question.worker.is_some() || now - question.since < patience);
    }

    /// For `stats()`.
    pub fn stats(&self, now: Time) -> Stats {
        let int = |value: u64| Stat::Int(i64::try_from(value).unwrap_or(i64::MAX));
        let list = self.workers.values().map(|worker| {
            Stat::Tree(Stats(vec![
                ("number".into(), int(worker.slot as u64 + 1)),
                ("pid".into(), int(worker.pid.into())),
                ("state".into(), Stat::Text(worker.phase.name().into())),
                ("connections".into(), int(worker.conns.len() as u64)),
                ("messages".into(), int(worker.handled)),
                ("lag".into(), Stat::Float(worker.lag(now).as_secs_f64())),
                ("memory".into(), int(worker.memory as u64)),
                ("uptime".into(), Stat::Float((now - worker.started).as_secs_f64())),
            ]))
        });
        let counters = &self.counters;
        Stats(vec![
            ("count".into(), int(self.slots.len() as u64)),
            ("generation".into(), int(self.generation)),
            ("reloads".into(), int(counters.reloads)),
            ("failedReloads".into(), int(counters.failed_reloads)),
            ("crashes".into(), int(counters.crashes)),
            ("recycled".into(), int(counters.recycled)),
            ("stuck".into(), int(counters.stuck)),
            ("moved".into(), int(counters.moved)),
            ("lost".into(), int(counters.lost)),
            ("waiting".into(), int(self.waiting.len() as u64)),
            ("lastError".into(), self.last_error.clone().map_or(Stat::None, Stat::Text)),
            ("list".into(), Stat::List(list.collect())),
        ])
    }
}

/// Starting and ending.
impl Roster {
    fn spawn(&mut self, now: Time, slot: usize, hands: &mut impl Hands) {
        let id = WorkerId(self.next);
        self.next += 1;
        match hands.spawn(id, slot + 1) {
            Ok(pid) => {
                let worker = Worker {
                    slot,
                    phase: Phase::Starting,
                    pid,
                    started: now,
                    questions: Questions::default(),
                    deadline: Some(now + self.settings.workers.grace),
                    messages: 0,
                    bytes: 0,
                    asked: 0,
                    queue: VecDeque::new(),
                    conns: HashSet::default(),
                    handled: 0,
                    beat: None,
                    beats: 0,
                    next_beat: now,
                    is_late: false,
                    memory: 0,
                    worn: false,
                    why: None,
                };
                self.workers.insert(id, worker);
                self.slots[slot].next = Some(id);
            }
            Err(why) => {
                let text = format!("worker {} cannot be started: {why}", slot + 1);
                self.handle_failed_start(now, id, slot, &text, hands);
            }
        }
    }

    fn handle_failed_start(&mut self, now: Time, id: WorkerId, slot: usize, text: &str, hands: &mut impl Hands) {
        let place = &mut self.slots[slot];
        if place.next == Some(id) {
            place.next = None;
        }
        if self.stopping {
            return;
        }
        if !self.is_up {
            self.fault.get_or_insert_with(|| text.to_owned());
            return;
        }
        if self.reloading {
            self.fail_reload(text, hands);
            return;
        }
        hands.log(LogLevel::Error, text.to_owned());
        self.last_error = Some(text.to_owned());
        self.retry(now, slot, hands);
    }

    /// Starts a worker again, at once or after a while.
    fn retry(&mut self, now: Time, slot: usize, hands: &mut impl Hands) {
        if self.stopping || self.reloading {
            return;
        }
        let place = &mut self.slots[slot];
        if place.next.is_some() {
            return;
        }
        let wait = match place.failures {
            0 => Duration::ZERO,
            failures => BACKOFF.1.min(BACKOFF.0 * 2_u32.saturating_pow(failures - 1)),
        };
        place.failures += 1;
        if wait.is_zero() {
            self.spawn(now, slot, hands);
        } else {
            place.retry_at = Some(now + wait);
        }
    }

    fn begin_reload(&mut self, now: Time, hands: &mut impl Hands) {
        self.reloading = true;
        hands.log(LogLevel::Notice, format!("reload: {} new workers are being started", self.slots.len()));
        for slot in 0..self.slots.len() {
            // One that was about to replace another may have begun with the old code.
            if let Some(next) = self.slots[slot].next.take() {
                self.dismiss(now, next, hands);
            }
            self.slots[slot].retry_at = None;
            if self.reloading {
                self.spawn(now, slot, hands);
            }
        }
    }

    fn fail_reload(&mut self, why: &str, hands: &mut impl Hands) {
        self.reloading = false;
        self.counters.failed_reloads += 1;
        let text = format!("reload failed, the old workers stay: {why}");
        hands.log(LogLevel::Error, text.clone());
        self.last_error = Some(text);
        for slot in 0..self.slots.len() {
            if let Some(next) = self.slots[slot].next.take() {
                self.end_by_force(next, "other new workers have not started".into(), hands);
                if let Some(worker) = self.workers.get_mut(&next) {
                    worker.phase = Phase::Ending;
                }
            }
            // What ended meanwhile was not started again.
            if self.slots[slot].current.is_none() {
                self.slots[slot].retry_at = Some(Time::ZERO);
            }
        }
    }

    /// A new worker that nobody needs any more.
    fn dismiss(&mut self, now: Time, id: WorkerId, hands: &mut impl Hands) {
        match self.workers.get(&id).map(|worker| worker.phase) {
            Some(Phase::Serving) => self.finish(now, id, hands),
            Some(_) => {
                self.end_by_force(id, "it is not needed any more".into(), hands);
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.phase = Phase::Ending;
                }
            }
            None => {}
        }
    }

    /// The slot's new worker begins to serve, and its old one to leave.
    fn take_over(&mut self, now: Time, slot: usize, hands: &mut impl Hands) {
        let place = &mut self.slots[slot];
        let Some(next) = place.next.take() else { return };
        let old = place.current.replace(next);
        place.retry_at = None;
        if let Some(worker) = self.workers.get(&next) {
            hands.set_questions(worker.questions);
        }
        if let Some(old) = old {
            self.retire(now, old, hands);
        }
        for conn in std::mem::take(&mut self.waiting) {
            self.assign(conn, hands);
        }
        let unasked: Vec<_> = self
            .questions
            .iter()
            .filter(|(_, question)| question.worker.is_none())
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in unasked {
            self.ask_somebody(ticket, hands);
        }
    }

    /// The worker's connections go to others, one by one when their handlers are idle.
    fn retire(&mut self, now: Time, id: WorkerId, hands: &mut impl Hands) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.phase = Phase::Leaving;
        worker.deadline = Some(now + self.settings.workers.grace);
        let queue = std::mem::take(&mut worker.queue);
        let mut conns: Vec<_> = worker.conns.iter().copied().collect();
        conns.sort_unstable();
        self.put_elsewhere(queue, hands);
        for conn in conns {
            let Some(route) = self.routes.get_mut(&conn) else { continue };
            self.counters.moved += 1;
            if route.introduced {
                route.leaving = true;
                let server = self.settings.server;
                hands.tell(id, &ToWorker::Event(Event::Release { server, conn }));
            } else {
                self.detach(id, conn);
                self.assign(conn, hands);
            }
        }
        self.check_left(now, id, hands);
    }

    /// What a worker did not get: held for its connection, or given to others.
    fn put_elsewhere(&mut self, queue: VecDeque<Job>, hands: &mut impl Hands) {
        for Job { event, again } in queue {
            match address(&event) {
                // What somebody had in hand before is kept with the connection; it is introduced anew.
                Address::Conn(conn) => {
                    if !again
                        && !matches!(event, Event::Open { .. })
                        && let Some(route) = self.routes.get_mut(&conn)
                    {
                        route.rare().held.push_back(event);
                    }
                }
                Address::Ticket(ticket) => {
                    if let Some(question) = self.questions.get_mut(&ticket) {
                        question.worker = None;
                    }
                    self.ask_somebody(ticket, hands);
                }
                Address::Any => match event {
                    Event::SessionEnded { told: false, .. } => {}
                    Event::DocumentChanged { channel, .. } => {
                        if let Some(watch) = self.documents.get_mut(&*channel) {
                            watch.news = News::Untold;
                        }
                        self.tell_changes(&channel, hands);
                    }
                    event => {
                        if let Some(worker) = self.first_serving() {
                            self.give(worker, Job { event, again: false }, hands);
                        }
                    }
                },
                Address::Other => {}
            }
        }
    }

    /// A worker that leaves may go when nothing is left to it.
    fn check_left(&mut self, now: Time, id: WorkerId, hands: &mut impl Hands) {
        let done = self
            .workers
            .get(&id)
            .is_some_and(|worker| worker.phase == Phase::Leaving && worker.conns.is_empty() && worker.asked == 0);
        if done {
            self.finish(now, id, hands);
        }
    }

    fn finish(&mut self, now: Time, id: WorkerId, hands: &mut impl Hands) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.phase = Phase::Ending;
        worker.deadline = Some(now + self.settings.workers.grace);
        hands.tell(id, &ToWorker::Event(Event::Stopped { endpoint: self.settings.server }));
    }

    fn end_by_force(&mut self, id: WorkerId, why: String, hands: &mut impl Hands) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.why.get_or_insert(why);
            worker.deadline = None;
            hands.kill(id);
        }
    }

    fn stop(&mut self, now: Time, hands: &mut impl Hands) {
        self.stopping = true;
        self.waiting.clear();
        let deadline = now + self.settings.workers.grace;
        let ids: Vec<_> = self.workers.keys().copied().collect();
        for id in ids {
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            worker.deadline = Some(deadline);
            match worker.phase {
                Phase::Starting => self.end_by_force(id, "the server has stopped".into(), hands),
                // After what it still has to get.
                Phase::Serving | Phase::Leaving => {
                    let event = Event::Stopped { endpoint: self.settings.server };
                    self.give(id, Job { event, again: false }, hands);
                }
                Phase::Ending => {}
            }
        }
    }

    fn look_after(&mut self, now: Time, id: WorkerId, hands: &mut impl Hands) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let number = worker.slot + 1;
        if worker.deadline.is_some_and(|deadline| deadline <= now) {
            let why = match worker.phase {
                Phase::Starting => "it has not called run() or start() in time (workers.grace)",
                _ => "it has not finished in time (workers.grace)",
            };
            return self.end_by_force(id, why.into(), hands);
        }
        if worker.phase == Phase::Starting || worker.phase == Phase::Ending {
            return;
        }
        match worker.beat {
            None if worker.next_beat <= now => {
                worker.beats = worker.beats.wrapping_add(1);
                worker.beat = Some((worker.beats, now));
                hands.tell(id, &ToWorker::Beat(worker.beats));
                worker.memory = hands.memory(id);
                if worker.phase == Phase::Serving && !worker.worn && self.is_worn(id) {
                    self.recycle(now, id, hands);
                }
            }
            Some((_, sent)) if now - sent >= self.settings.watchdog_lag && !worker.is_late => {
                worker.is_late = true;
                self.counters.stuck += 1;
                let lag = (now - sent).as_secs_f64();
                let text = format!("worker {number} (process {}) has not dispatched for {lag:.1} s", worker.pid);
                hands.log(LogLevel::Error, text.clone());
                self.last_error = Some(text);
                if self.settings.watchdog_action == WatchdogAction::Replace {
                    self.end_by_force(id, "it was stuck (watchdog.lag)".into(), hands);
                }
            }
            _ => {}
        }
    }

    fn is_worn(&self, id: WorkerId) -> bool {
        let Some(worker) = self.workers.get(&id) else { return false };
        let workers = &self.settings.workers;
        // Not all at a time.
        let spread = |limit: u64| {
            let (slot, slots) = (worker.slot as u64, self.slots.len() as u64);
            limit - limit / 10 + limit / 5 * (slot + 1) / (slots + 1)
        };
        let requests = workers.max_requests.is_some_and(|limit| worker.handled >= spread(limit).max(1));
        requests || workers.max_memory.is_some_and(|limit| worker.memory > limit)
    }

    fn recycle(&mut self, now: Time, id: WorkerId, hands: &mut impl Hands) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let slot = worker.slot;
        if self.stopping || self.reloading || self.slots[slot].next.is_some() || self.slots[slot].current != Some(id) {
            return;
        }
        worker.worn = true;
        self.counters.recycled += 1;
        self.spawn(now, slot, hands);
    }
}

#[cfg(test)]
mod tests;
