//! Connections and their events: which worker gets them, and what becomes of what a worker had in its hands.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};

use super::{
    Address, Asked, Hands, Held, Job, News, OPEN_COST, Phase, Question, Rare, Roster, Route, Worker, WorkerId,
};
use crate::bridge::{
    Command, ConnId, Delivery, DeliveryId, EndpointId, Event, MESSAGE_COST, OpenInfo, Reply, Ticket, Verdict,
};
use crate::config::WorkerKey;
use crate::core::{IdHasher, IdMap};
use crate::workers::wire::ToWorker;
use lifeline_proto::Time;

/// What was in the hands of a worker that has ended.
#[derive(Debug, Default)]
pub(super) struct Lost {
    pub(super) moved: usize,
    pub(super) plain: usize,
    pub(super) again: usize,
}

/// Connections and their events.
impl Roster {
    pub(super) fn is_serving(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| worker.phase == Phase::Serving)
    }

    pub(super) fn attached(&self) -> impl Iterator<Item = WorkerId> {
        self.workers
            .iter()
            .filter(|(_, worker)| matches!(worker.phase, Phase::Serving | Phase::Leaving))
            .map(|(id, _)| *id)
    }

    pub(super) fn serving(&self) -> impl Iterator<Item = WorkerId> {
        self.slots.iter().filter_map(|slot| slot.current).filter(|id| self.is_serving(*id))
    }

    pub(super) fn first_serving(&self) -> Option<WorkerId> {
        self.serving().next()
    }

    /// That has the fewest connections.
    pub(super) fn least_loaded(&self) -> Option<WorkerId> {
        self.serving().min_by_key(|id| self.workers.get(id).map_or(usize::MAX, |worker| worker.conns.len()))
    }

    /// The one for a key is the same for as long as there are as many workers, whoever of them is away at the moment.
    pub(super) fn place(&self, key: Option<u64>) -> Option<WorkerId> {
        let Some(key) = key else { return self.least_loaded() };
        let slot = (0..self.slots.len()).max_by_key(|slot| mix(key ^ mix(*slot as u64 + 1)))?;
        self.slots[slot].current.filter(|id| self.is_serving(*id))
    }

    /// Finds a worker for a connection that nobody serves.
    pub(super) fn assign(&mut self, conn: ConnId, hands: &mut impl Hands) {
        let Some(route) = self.routes.get(&conn) else { return };
        let Some(id) = self.place(route.key) else {
            if !self.stopping {
                self.waiting.push_back(conn);
            }
            return;
        };
        let Some(route) = self.routes.get_mut(&conn) else { return };
        route.worker = Some(id);
        let mut info = route.info.clone();
        if route.opened {
            info.resumed = true;
        }
        // As it is now.
        if let Some(session) = &info.session {
            let command = Command::Session { server: self.settings.server, session: session.id.clone() };
            if let Ok(Reply::Session(Some(session))) = hands.submit(command) {
                info.session = Some(session);
            }
        }
        let rare = route.rare.as_deref_mut();
        let mut jobs: Vec<Job> = Vec::new();
        let endpoint = self.settings.server;
        if let Some(rare) = rare {
            jobs.extend(hand_over(&mut self.items, rare, id, endpoint, conn));
            for channel in &rare.asked {
                jobs.push(Job {
                    event: Event::Authorise { server: endpoint, conn, channel: channel.clone() },
                    again: true,
                });
            }
            if let Some((code, reason, clean)) = rare.close.clone() {
                jobs.push(Job { event: Event::Close { endpoint, conn, code, reason, clean }, again: true });
            }
            jobs.extend(std::mem::take(&mut rare.held).into_iter().map(|event| Job { event, again: false }));
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.conns.insert(conn);
        }
        self.give(id, Job { event: Event::Open { endpoint, conn, info }, again: false }, hands);
        for job in jobs {
            self.give(id, job, hands);
        }
    }

    pub(super) fn deliver(&mut self, conn: ConnId, event: Event, hands: &mut impl Hands) {
        let Some(route) = self.routes.get_mut(&conn) else {
            // Its end has been dealt with.
            return Self::give_back(conn, &event, hands);
        };
        match route.worker {
            Some(id) if !route.leaving => self.give(id, Job { event, again: false }, hands),
            // Nobody has known it, and nobody will miss it.
            None if matches!(event, Event::Close { .. })
                && !route.opened
                && route.rare.iter().flat_map(|rare| &rare.held).all(|event| weight(event).0 == 0) =>
            {
                self.routes.remove(&conn);
                if self.waiting.len() > 1024 + 2 * self.routes.len() {
                    self.waiting.retain(|conn| self.routes.contains_key(conn));
                }
            }
            _ => route.rare().held.push_back(event),
        }
    }

    /// The engine gets its credit back for what nobody will handle.
    pub(super) fn give_back(conn: ConnId, event: &Event, hands: &mut impl Hands) {
        let (messages, bytes) = weight(event);
        if messages > 0 {
            let _ = hands.submit(Command::Consumed { conn, messages, bytes });
        }
    }

    /// To the worker, now or when there is room in its hands.
    pub(super) fn give(&mut self, id: WorkerId, job: Job, hands: &mut impl Hands) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !worker.queue.is_empty() || worker.is_full() {
            worker.queue.push_back(job);
        } else {
            self.hand(id, job, hands);
        }
    }

    pub(super) fn pump(&mut self, id: WorkerId, hands: &mut impl Hands) {
        while let Some(worker) = self.workers.get_mut(&id)
            && !worker.is_full()
            && let Some(job) = worker.queue.pop_front()
        {
            self.hand(id, job, hands);
        }
    }

    /// Into the worker's hands.
    pub(super) fn hand(&mut self, id: WorkerId, job: Job, hands: &mut impl Hands) {
        let Job { mut event, again } = job;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let address = address(&event);
        if let Address::Conn(conn) = address {
            let Some(route) = self.routes.get_mut(&conn) else { return };
            match &mut event {
                Event::Open { info, .. } => {
                    route.introduced = true;
                    worker.bytes += open_cost(info);
                }
                Event::Message { data, .. } => {
                    route.messages += 1;
                    route.bytes += data.len();
                }
                Event::Items { outbox, items, .. } if !again => {
                    items.retain(|item| {
                        let begun = hands.step(None, Some(item.id));
                        if begun {
                            self.items.insert(item.id, Held { conn, outbox: outbox.clone(), worker: Some(id) });
                            route.messages += 1;
                            route.bytes += item.data.len();
                            route.rare().items.push_back((outbox.clone(), item.clone()));
                        } else {
                            // It was settled meanwhile, or comes again on another connection.
                            let (messages, bytes) = (1, item.data.len());
                            let _ = hands.submit(Command::Consumed { conn, messages, bytes });
                        }
                        begun
                    });
                    if items.is_empty() {
                        return;
                    }
                }
                Event::Edit { edit, .. } if !again => {
                    let Delivery::Item { id: item, outbox } = &edit.delivery else { return };
                    let (item, outbox) = (*item, outbox.clone());
                    if !hands.step(None, Some(item)) {
                        let _ = hands.submit(Command::Consumed { conn, messages: 1, bytes: edit.data.len() });
                        return;
                    }
                    self.items.insert(item, Held { conn, outbox, worker: Some(id) });
                    route.messages += 1;
                    route.bytes += edit.data.len();
                    route.rare().edits.push((**edit).clone());
                }
                Event::Authorise { channel, .. } if !again => route.rare().asked.push(channel.clone()),
                Event::Close { code, reason, clean, .. } if !again => {
                    route.rare().close = Some((*code, reason.clone(), *clean));
                }
                _ => {}
            }
        }
        let (messages, bytes) = weight(&event);
        worker.messages += messages;
        worker.bytes += bytes + messages * MESSAGE_COST;
        worker.handled += messages as u64;
        if let Address::Ticket(_) = address {
            worker.asked += 1;
        }
        if matches!(event, Event::Stopped { .. }) {
            worker.phase = Phase::Ending;
        }
        hands.tell(id, &ToWorker::Event(event));
    }

    /// The worker does not know of the connection any more.
    pub(super) fn detach(&mut self, id: WorkerId, conn: ConnId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.conns.remove(&conn);
        }
        if let Some(route) = self.routes.get_mut(&conn) {
            route.worker = None;
            route.introduced = false;
            route.leaving = false;
        }
    }

    /// Nobody counts on what was in a worker's hands of this connection any more.
    pub(super) fn forget_credit(route: &mut Route, conn: ConnId, hands: &mut impl Hands) {
        let (messages, bytes) = (std::mem::take(&mut route.messages), std::mem::take(&mut route.bytes));
        if messages > 0 {
            let _ = hands.submit(Command::Consumed { conn, messages, bytes });
        }
    }

    /// A worker has ended with all of this in its hands. It is not among the workers any more.
    pub(super) fn abandon(&mut self, id: WorkerId, mut worker: Worker, hands: &mut impl Hands) -> Lost {
        let mut lost = Lost { moved: worker.conns.len(), ..Lost::default() };
        let mut conns: Vec<_> = std::mem::take(&mut worker.conns).into_iter().collect();
        conns.sort_unstable();
        let mut queues: IdMap<ConnId, VecDeque<Event>> = IdMap::default();
        let mut others = VecDeque::new();
        for job in worker.queue {
            match address(&job.event) {
                Address::Conn(_) if job.again || matches!(job.event, Event::Open { .. }) => {}
                Address::Conn(conn) => queues.entry(conn).or_default().push_back(job.event),
                _ => others.push_back(job),
            }
        }
        // Of connections that others have now, too: it may have kept messages to itself.
        let mut again: HashSet<ConnId> = HashSet::new();
        let mut orphans = Vec::new();
        for (item, held) in &mut self.items {
            if held.worker == Some(id) {
                held.worker = None;
                if self.routes.contains_key(&held.conn) {
                    lost.again += 1;
                    again.insert(held.conn);
                } else {
                    orphans.push((*item, held.outbox.clone(), Verdict::Failed));
                }
            }
        }
        for conn in &conns {
            let Some(rare) = self.routes.get_mut(conn).and_then(|route| route.rare.as_deref_mut()) else { continue };
            // It may be what has ended the worker.
            let Some((outbox, first)) = rare.items.front() else { continue };
            if self.items.get(&first.id).is_none_or(|held| held.worker.is_some()) {
                continue;
            }
            let ended = self.poison.entry(first.id).or_default();
            *ended += 1;
            let limit = self.settings.redelivery_limit;
            if *ended >= limit {
                let reason = format!("{limit} workers have ended while they handled it");
                orphans.push((first.id, outbox.clone(), Verdict::Rejected { code: 0, reason, permanent: true }));
                rare.items.pop_front();
                lost.again -= 1;
            }
        }
        for (item, outbox, verdict) in orphans {
            self.items.remove(&item);
            self.poison.remove(&item);
            let delivery = Delivery::Item { outbox, id: item };
            let _ = hands.submit(Command::Settle { endpoint: self.settings.server, delivery, verdict });
        }
        for conn in conns {
            again.remove(&conn);
            let Some(route) = self.routes.get_mut(&conn) else { continue };
            let plain = route.info.session.is_none();
            if plain {
                lost.plain += route.messages;
            }
            Self::forget_credit(route, conn, hands);
            route.worker = None;
            route.introduced = false;
            route.leaving = false;
            if let Some(mut queue) = queues.remove(&conn) {
                let rare = route.rare();
                queue.append(&mut rare.held);
                rare.held = queue;
            }
            self.assign(conn, hands);
        }
        for conn in again {
            self.hand_out_again(conn, hands);
        }
        let tickets: Vec<_> = self
            .questions
            .iter_mut()
            .filter(|(_, question)| question.worker == Some(id))
            .map(|(ticket, question)| {
                question.worker = None;
                *ticket
            })
            .collect();
        for ticket in tickets {
            self.ask_somebody(ticket, hands);
        }
        self.put_elsewhere(others, hands);
        lost
    }

    /// What an old worker has not settled, to the one that serves the connection now.
    pub(super) fn hand_out_again(&mut self, conn: ConnId, hands: &mut impl Hands) {
        let endpoint = self.settings.server;
        let Some(route) = self.routes.get_mut(&conn) else { return };
        // Else it gets them when it gets a worker.
        let Some(id) = route.worker.filter(|_| !route.leaving) else { return };
        let Some(rare) = route.rare.as_deref_mut() else { return };
        let jobs = hand_over(&mut self.items, rare, id, endpoint, conn);
        for job in jobs {
            self.give(id, job, hands);
        }
    }

    pub(super) fn ask(&mut self, now: Time, ticket: Ticket, asked: Asked, hands: &mut impl Hands) {
        self.questions.insert(ticket, Question { asked, worker: None, since: now });
        self.ask_somebody(ticket, hands);
    }

    pub(super) fn ask_somebody(&mut self, ticket: Ticket, hands: &mut impl Hands) {
        let server = self.settings.server;
        // Not the one that has the fewest connections alone: it may be as stuck as those that wait for it.
        let Some(id) = self.serving().min_by_key(|id| {
            self.workers
                .get(id)
                .map_or((usize::MAX, 0), |worker| (worker.asked + worker.queue.len(), worker.conns.len()))
        }) else {
            return;
        };
        let Some(question) = self.questions.get_mut(&ticket) else { return };
        question.worker = Some(id);
        let event = match &question.asked {
            Asked::Handshake(request) => Event::Handshake { server, ticket, request: request.clone() },
            Asked::Authenticate(credentials) => {
                Event::Authenticate { server, ticket, credentials: credentials.clone() }
            }
            Asked::Snapshot(channel) => Event::SnapshotWanted { server, ticket, channel: channel.clone() },
        };
        self.give(id, Job { event, again: false }, hands);
    }

    /// One of a document's watchers is told of its changes, unless one is already.
    pub(super) fn tell_changes(&mut self, channel: &str, hands: &mut impl Hands) {
        let Some(watch) = self.documents.get_mut(channel).filter(|watch| watch.news == News::Untold) else { return };
        let Some(id) = watch
            .watchers
            .iter()
            .copied()
            .find(|id| self.workers.get(id).is_some_and(|worker| worker.phase == Phase::Serving))
        else {
            return;
        };
        watch.news = News::Told(id);
        let event = Event::DocumentChanged { endpoint: self.settings.server, channel: channel.into() };
        self.give(id, Job { event, again: false }, hands);
    }
}

/// What the connection's earlier workers have not settled, for another.
pub(super) fn hand_over(
    items: &mut HashMap<DeliveryId, Held>,
    rare: &Rare,
    to: WorkerId,
    endpoint: EndpointId,
    conn: ConnId,
) -> Vec<Job> {
    // Those that an old worker can still settle are its.
    let mut take = |item: DeliveryId| match items.get_mut(&item) {
        Some(held) if held.worker.is_none() => {
            held.worker = Some(to);
            true
        }
        _ => false,
    };
    let mut jobs = Vec::new();
    for (outbox, item) in &rare.items {
        if take(item.id) {
            let items = VecDeque::from([item.clone()]);
            jobs.push(Job { event: Event::Items { endpoint, conn, outbox: outbox.clone(), items }, again: true });
        }
    }
    for edit in &rare.edits {
        if matches!(edit.delivery, Delivery::Item { id, .. } if take(id)) {
            jobs.push(Job { event: Event::Edit { server: endpoint, conn, edit: Box::new(edit.clone()) }, again: true });
        }
    }
    jobs
}

/// What an event's data costs until it is consumed: messages and their bytes.
pub(super) fn weight(event: &Event) -> (usize, usize) {
    match event {
        Event::Message { data, .. } => (1, data.len()),
        Event::Items { items, .. } => (items.len(), items.iter().map(|item| item.data.len()).sum()),
        Event::Edit { edit, .. } => (1, edit.data.len()),
        _ => (0, 0),
    }
}

pub(super) fn open_cost(info: &OpenInfo) -> usize {
    OPEN_COST + info.request.as_ref().map_or(0, |request| request.raw().len())
}

pub(super) fn address(event: &Event) -> Address {
    match event {
        Event::Open { conn, .. }
        | Event::Message { conn, .. }
        | Event::Items { conn, .. }
        | Event::Close { conn, .. }
        | Event::Failure { conn: Some(conn), .. }
        | Event::Drain { conn, .. }
        | Event::Join { conn, .. }
        | Event::Leave { conn, .. }
        | Event::Authorise { conn, .. }
        | Event::Edit { conn, .. } => Address::Conn(*conn),
        Event::Handshake { ticket, .. } | Event::Authenticate { ticket, .. } | Event::SnapshotWanted { ticket, .. } => {
            Address::Ticket(*ticket)
        }
        Event::Failure { conn: None, .. }
        | Event::Log { .. }
        | Event::SessionEnded { .. }
        | Event::DocumentChanged { .. } => Address::Any,
        _ => Address::Other,
    }
}

/// The value that decides on the worker.
pub(super) fn key_of(by: &WorkerKey, info: &OpenInfo) -> Option<u64> {
    let request = info.request.as_ref();
    let value = match by {
        WorkerKey::Connection => return None,
        WorkerKey::User => info.session.as_ref()?.user.as_ref()?.to_string(),
        WorkerKey::Header(name) => request?.header(name)?,
        WorkerKey::Query(name) => query_value(request?.target(), name)?,
    };
    let mut hasher = IdHasher::default();
    value.hash(&mut hasher);
    Some(mix(hasher.finish()))
}

/// The first value of that name in a target's query, as it stands there.
pub(super) fn query_value(target: &str, name: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| value.to_owned())
    })
}

/// Spreads what is alike (splitmix64's finalizer, Steele, Lea and Flood 2014).
pub(super) fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}
