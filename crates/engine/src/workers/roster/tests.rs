use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::bridge::{Delivery, SessionData, SessionInfo, Verdict};
use crate::config::{WorkerKey, Workers};

const SERVER: EndpointId = EndpointId(1);

/// Workers as the roster sees them: each takes what it is told in order, and does one thing at a time.
#[derive(Debug, Default)]
struct World {
    alive: BTreeMap<WorkerId, Process>,
    fails_to_spawn: bool,
    /// In the order in which it happened: (worker, connection, number) of each message that a handler has dealt with.
    handled: Vec<(WorkerId, u64, u64)>,
    /// Credit that the engine waits for, in messages, by connection.
    owed: BTreeMap<u64, usize>,
    /// Handed over to be lost: read by a process that was killed before it was through.
    lost: usize,
    closed: Vec<u64>,
    submitted: Vec<String>,
    log: Vec<String>,
    killed: Vec<WorkerId>,
    started: Vec<usize>,
    /// Serials of items that the engine gives out.
    begun: Vec<DeliveryId>,
}

#[derive(Debug, Default)]
struct Process {
    number: usize,
    told: VecDeque<ToWorker>,
    conns: Vec<u64>,
    stopped: bool,
}

impl Hands for World {
    fn tell(&mut self, worker: WorkerId, message: &ToWorker) {
        // What is told travels as bytes.
        let mut writer = super::super::wire::Writer::default();
        writer.add(message).unwrap();
        writer.end_frame();
        let mut reader = super::super::wire::Reader::default();
        reader.buffer.extend_from_slice(writer.bytes());
        let frame = reader.next_frame().unwrap().unwrap();
        if let Some(process) = self.alive.get_mut(&worker) {
            super::super::wire::read_messages(&frame, "test", |message| {
                process.told.push_back(message);
                true
            })
            .unwrap();
        }
    }

    fn submit(&mut self, command: Command) -> Result<Reply, CommandError> {
        match &command {
            Command::Consumed { conn, messages, .. } => {
                let owed = self.owed.get_mut(&conn.0).expect("a connection");
                *owed = owed.checked_sub(*messages).expect("never more than was handed out");
            }
            command => self.submitted.push(format!("{command:?}")),
        }
        Ok(match command {
            Command::Session { .. } => Reply::Session(None),
            _ => Reply::Done,
        })
    }

    fn step(&mut self, _: Option<DeliveryId>, begin: Option<DeliveryId>) -> bool {
        self.begun.extend(begin);
        true
    }

    fn spawn(&mut self, worker: WorkerId, number: usize) -> Result<u32, String> {
        if self.fails_to_spawn {
            return Err("no memory".into());
        }
        self.started.push(number);
        self.alive.insert(worker, Process { number, ..Process::default() });
        Ok(1000 + worker.0)
    }

    fn kill(&mut self, worker: WorkerId) {
        self.killed.push(worker);
    }

    fn set_questions(&mut self, _: Questions) {}

    fn memory(&mut self, _: WorkerId) -> usize {
        50 << 20
    }

    fn log(&mut self, level: LogLevel, message: String) {
        self.log.push(format!("{level:?}: {message}"));
    }
}

struct Bench {
    world: World,
    roster: Roster,
    now: Time,
}

fn settings(count: usize) -> Settings {
    Settings {
        server: SERVER,
        workers: Workers { count, ..Workers::default() },
        watchdog_lag: Duration::from_secs(30),
        watchdog_action: WatchdogAction::Replace,
        redelivery_limit: 3,
        auth_timeout: Duration::from_secs(60),
        addresses: vec!["ws://127.0.0.1:1".into()],
    }
}

impl Bench {
    fn new(count: usize) -> Self {
        Self::with(settings(count))
    }

    /// All workers have called `run()`.
    fn with(settings: Settings) -> Self {
        let mut bench = Self::starting(settings);
        bench.attach_all();
        assert_eq!(bench.roster.readiness(), Ok(true));
        bench
    }

    fn starting(settings: Settings) -> Self {
        let mut world = World::default();
        let now = Time::from_micros(1_000_000);
        let roster = Roster::new(settings, now, &mut world);
        Self { world, roster, now }
    }

    fn attach(&mut self, id: WorkerId) {
        self.roster.handle_hello(self.now, id, Questions::default(), &mut self.world);
    }

    fn attach_all(&mut self) {
        let starting: Vec<_> =
            self.roster.workers.iter().filter(|(_, w)| w.phase == Phase::Starting).map(|(id, _)| *id).collect();
        for id in starting {
            if self.world.alive.contains_key(&id) {
                self.attach(id);
            }
        }
    }

    fn event(&mut self, event: Event) -> Option<Event> {
        self.roster.handle_event(self.now, event, &mut self.world)
    }

    fn open(&mut self, conn: u64) {
        self.open_with(conn, None);
    }

    fn open_session(&mut self, conn: u64) {
        let session = SessionInfo { id: "s".into(), user: None, claims: Bytes::new(), data: SessionData::default() };
        self.open_with(conn, Some(Box::new(session)));
    }

    fn open_with(&mut self, conn: u64, session: Option<Box<SessionInfo>>) {
        self.world.owed.insert(conn, 0);
        let info =
            OpenInfo { remote: "".into(), protocol: "".into(), request: None, session, resumed: false, user: None };
        self.event(Event::Open { endpoint: SERVER, conn: ConnId(conn), info: Box::new(info) });
    }

    fn message(&mut self, conn: u64, number: u64) {
        *self.world.owed.get_mut(&conn).unwrap() += 1;
        let data = Bytes::copy_from_slice(&number.to_le_bytes());
        self.event(Event::Message { endpoint: SERVER, conn: ConnId(conn), data, binary: true, info: None });
    }

    fn close(&mut self, conn: u64) {
        let (code, reason) = (1000, "".into());
        self.event(Event::Close { endpoint: SERVER, conn: ConnId(conn), code, reason, clean: true });
    }

    fn say(&mut self, id: WorkerId, command: Command) {
        self.roster.handle_message(self.now, id, ToGateway::Command(command), &mut self.world);
    }

    /// The worker deals with what it was told next; false: nothing.
    fn step(&mut self, id: WorkerId) -> bool {
        let Some(process) = self.world.alive.get_mut(&id) else { return false };
        let Some(message) = process.told.pop_front() else { return false };
        match message {
            ToWorker::Event(event) => match event {
                Event::Open { conn, .. } => {
                    assert!(!process.conns.contains(&conn.0), "introduced twice");
                    process.conns.push(conn.0);
                    self.say(id, Command::Opened { conn });
                }
                Event::Message { conn, data, .. } => {
                    assert!(process.conns.contains(&conn.0), "a message of a stranger");
                    let number = u64::from_le_bytes(data[..].try_into().unwrap());
                    self.world.handled.push((id, conn.0, number));
                    self.say(id, Command::Consumed { conn, messages: 1, bytes: data.len() });
                }
                Event::Close { conn, .. } => {
                    process.conns.retain(|open| *open != conn.0);
                    self.world.closed.push(conn.0);
                    self.say(id, Command::Ended { conn });
                }
                Event::Release { conn, .. } => {
                    process.conns.retain(|open| *open != conn.0);
                    self.say(id, Command::Released { conn });
                }
                Event::Stopped { .. } => {
                    assert!(process.conns.is_empty(), "it has {:?}", process.conns);
                    process.stopped = true;
                    self.end(id, "exit status 0");
                }
                _ => {}
            },
            ToWorker::Beat(number) => {
                self.roster.handle_message(self.now, id, ToGateway::Beat(number), &mut self.world);
            }
            ToWorker::Welcome { .. } | ToWorker::Answer(..) => {}
        }
        true
    }

    fn settle(&mut self) {
        while self.ids().into_iter().any(|id| self.step(id)) {}
    }

    fn ids(&self) -> Vec<WorkerId> {
        self.world.alive.keys().copied().collect()
    }

    /// The process ends, with all that it has not dealt with.
    fn end(&mut self, id: WorkerId, how: &str) {
        let Some(process) = self.world.alive.remove(&id) else { return };
        let lost = process.told.iter().filter(|told| matches!(told, ToWorker::Event(Event::Message { .. }))).count();
        self.world.lost += lost;
        self.roster.handle_ended(self.now, id, how, &mut self.world);
    }

    /// Killed processes end.
    fn bury(&mut self) {
        for id in std::mem::take(&mut self.world.killed) {
            self.end(id, "signal 9");
        }
    }

    fn tick(&mut self, seconds: f64) {
        self.now = self.now + Duration::from_secs_f64(seconds);
        self.roster.tick(self.now, &mut self.world);
        self.bury();
    }

    fn serving(&self) -> Vec<WorkerId> {
        self.roster.serving().collect()
    }

    fn count(&self, name: &str) -> i64 {
        let stats = self.roster.stats(self.now);
        match stats.0.iter().find(|(key, _)| key == name) {
            Some((_, Stat::Int(value))) => *value,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn numbers(&self, conn: u64) -> Vec<u64> {
        self.world.handled.iter().filter(|(_, of, _)| *of == conn).map(|(_, _, number)| *number).collect()
    }
}

#[test]
fn connections_go_where_there_are_fewest() {
    let mut bench = Bench::new(3);
    for conn in 1..=9 {
        bench.open(conn);
    }
    bench.settle();
    for process in bench.world.alive.values() {
        assert_eq!(process.conns.len(), 3);
    }
}

#[test]
fn the_same_value_goes_to_the_same_worker_also_after_a_crash() {
    let mut settings = settings(3);
    settings.workers.by = WorkerKey::Query("room".into());
    let mut bench = Bench::with(settings);
    let open = |bench: &mut Bench, conn: u64, room: &str| {
        bench.world.owed.insert(conn, 0);
        let text = format!("GET /?a=1&room={room} HTTP/1.1\r\nHost: a\r\n\r\n");
        let peer = crate::listen::PeerAddr::Tcp("127.0.0.1:1".parse().unwrap());
        let (head, _) = RequestHead::parse(text.as_bytes(), &peer, false, &[]).unwrap();
        let info = OpenInfo {
            remote: "".into(),
            protocol: "".into(),
            request: Some(Arc::new(head)),
            session: None,
            resumed: false,
            user: None,
        };
        bench.event(Event::Open { endpoint: SERVER, conn: ConnId(conn), info: Box::new(info) });
    };
    for conn in 0..60 {
        open(&mut bench, conn, &format!("r{}", conn % 20));
    }
    bench.settle();
    let place = |bench: &Bench, conn: u64| {
        bench.world.alive.values().find(|process| process.conns.contains(&conn)).map(|process| process.number)
    };
    let before: Vec<_> = (0..60).map(|conn| place(&bench, conn).unwrap()).collect();
    for conn in 0..40 {
        assert_eq!(before[conn], before[conn + 20]);
    }
    assert!((1..=3).all(|number| before.contains(&number)), "{before:?}");
    let victim = bench.serving()[0];
    bench.end(victim, "signal 9");
    // Those of the others stay, these wait for the place's next worker.
    bench.settle();
    for conn in 0..60 {
        assert_eq!(place(&bench, conn).is_some(), before[conn as usize] != 1);
    }
    bench.attach_all();
    bench.settle();
    assert_eq!((0..60).map(|conn| place(&bench, conn).unwrap()).collect::<Vec<_>>(), before);
}

#[test]
fn a_reload_moves_everybody_and_loses_nothing() {
    let mut bench = Bench::new(2);
    for conn in 1..=4 {
        bench.open(conn);
        bench.message(conn, 0);
    }
    let old = bench.serving();
    bench.roster.reload(bench.now, &mut bench.world).unwrap();
    for conn in 1..=4 {
        bench.message(conn, 1);
    }
    // Nothing moves before all are there.
    let next: Vec<_> = bench.ids().into_iter().filter(|id| !old.contains(id)).collect();
    bench.attach(next[0]);
    assert_eq!(bench.serving(), old);
    bench.attach(next[1]);
    assert_eq!(bench.serving(), next);
    for conn in 1..=4 {
        bench.message(conn, 2);
    }
    bench.settle();
    for conn in 1..=4 {
        assert_eq!(bench.numbers(conn), [0, 1, 2]);
        let last = bench.world.handled.iter().rfind(|(_, of, _)| *of == conn).unwrap();
        assert!(next.contains(&last.0));
    }
    assert_eq!(bench.ids(), next, "the old ones have ended");
    assert_eq!((bench.count("reloads"), bench.count("generation"), bench.count("lost")), (1, 2, 0));
    assert!(bench.world.owed.values().all(|owed| *owed == 0));
}

#[test]
fn new_code_that_does_not_start_leaves_the_old_workers() {
    let mut bench = Bench::new(2);
    bench.open(1);
    bench.settle();
    let old = bench.serving();
    bench.roster.reload(bench.now, &mut bench.world).unwrap();
    let next: Vec<_> = bench.ids().into_iter().filter(|id| !old.contains(id)).collect();
    bench.attach(next[0]);
    bench.roster.handle_explanation(next[1], "PHP Parse error in line 3".into());
    bench.end(next[1], "exit status 255");
    bench.bury();
    bench.settle();
    assert_eq!(bench.serving(), old);
    assert_eq!(bench.ids(), old);
    let said = bench.world.log.iter().find(|line| line.contains("reload failed")).unwrap();
    assert!(said.contains("exit status 255: PHP Parse error in line 3"), "{said}");
    assert_eq!((bench.count("failedReloads"), bench.count("reloads"), bench.count("moved")), (1, 0, 0));
    bench.message(1, 7);
    bench.settle();
    assert_eq!(bench.numbers(1), [7]);
}

#[test]
fn new_workers_that_never_call_run_are_given_up() {
    let mut bench = Bench::new(1);
    let old = bench.serving();
    bench.roster.reload(bench.now, &mut bench.world).unwrap();
    bench.tick(29.0);
    assert_eq!(bench.count("failedReloads"), 0);
    bench.settle();
    bench.tick(2.0);
    bench.settle();
    assert_eq!(bench.serving(), old);
    assert_eq!(bench.count("failedReloads"), 1);
    assert!(bench.world.log.iter().any(|line| line.contains("workers.grace")), "{:?}", bench.world.log);
}

#[test]
fn a_reload_that_is_asked_for_twice_is_done_again() {
    let mut bench = Bench::new(1);
    bench.roster.reload(bench.now, &mut bench.world).unwrap();
    bench.roster.reload(bench.now, &mut bench.world).unwrap();
    bench.attach_all();
    bench.settle();
    assert_eq!(bench.count("generation"), 2);
    bench.attach_all();
    bench.settle();
    assert_eq!(bench.count("generation"), 3);
    assert_eq!(bench.world.alive.len(), 1);
}

#[test]
fn a_crash_costs_what_was_in_its_hands_and_no_connection() {
    let mut bench = Bench::new(2);
    bench.open(1);
    bench.open(2);
    bench.settle();
    let victim = bench.roster.routes[&ConnId(1)].worker.unwrap();
    for number in 0..3 {
        bench.message(1, number);
        bench.message(2, number);
    }
    bench.step(victim);
    bench.end(victim, "signal 9");
    bench.message(1, 3);
    bench.settle();
    assert_eq!(bench.numbers(1), [0, 3], "1 and 2 were in its hands");
    assert_eq!(bench.numbers(2), [0, 1, 2]);
    assert_eq!((bench.count("lost"), bench.count("crashes"), bench.count("moved")), (2, 1, 1));
    assert!(bench.world.owed.values().all(|owed| *owed == 0));
    assert!(bench.world.log[0].contains("signal 9") && bench.world.log[0].contains("2 messages of plain"));
    // At once, and then later and later.
    assert_eq!(bench.world.started.len(), 3);
}

#[test]
fn a_moved_connection_is_introduced_as_resumed_with_its_user() {
    let mut bench = Bench::new(1);
    bench.open(1);
    bench.settle();
    let first = bench.serving()[0];
    bench.say(first, Command::Bind { conn: ConnId(1), user: "ann".into() });
    bench.open(2);
    // The second was never dealt with.
    bench.end(first, "exit status 255");
    bench.attach_all();
    let second = bench.serving()[0];
    let mut seen = Vec::new();
    for told in &bench.world.alive[&second].told {
        if let ToWorker::Event(Event::Open { conn, info, .. }) = told {
            seen.push((conn.0, info.resumed, info.user.clone()));
        }
    }
    assert_eq!(seen, [(1, true, Some("ann".into())), (2, false, None)]);
}

#[test]
fn workers_that_crash_at_once_are_started_less_and_less_often() {
    let mut bench = Bench::new(1);
    let mut starts = Vec::new();
    for _ in 0..600 {
        bench.attach_all();
        for id in bench.serving() {
            bench.end(id, "exit status 255");
        }
        starts.push(bench.world.started.len());
        bench.tick(0.1);
    }
    let total = *starts.last().unwrap();
    assert!((9..=13).contains(&total), "{total} in a minute");
    // One that has served for a while is started again at once.
    bench.tick(60.0);
    bench.attach_all();
    bench.settle();
    for _ in 0..6 {
        bench.tick(1.0);
        bench.settle();
    }
    let before = bench.world.started.len();
    let id = bench.serving()[0];
    bench.end(id, "exit status 255");
    assert_eq!(bench.world.started.len(), before + 1);
}

#[test]
fn the_first_workers_must_start() {
    let mut bench = Bench::starting(settings(2));
    assert_eq!(bench.roster.readiness(), Ok(false));
    let ids = bench.ids();
    bench.attach(ids[0]);
    bench.end(ids[1], "exit status 1");
    let why = bench.roster.readiness().unwrap_err();
    assert!(why.contains("worker 2") && why.contains("exit status 1"), "{why}");
}

#[test]
fn a_worker_that_does_not_dispatch_is_replaced() {
    let mut bench = Bench::new(2);
    bench.open(1);
    bench.settle();
    let stuck = bench.roster.routes[&ConnId(1)].worker.unwrap();
    let other = *bench.serving().iter().find(|id| **id != stuck).unwrap();
    for _ in 0..40 {
        bench.tick(1.0);
        while bench.step(other) {}
    }
    assert!(!bench.ids().contains(&stuck));
    assert_eq!((bench.count("stuck"), bench.count("crashes")), (1, 1));
    assert_eq!(bench.roster.routes[&ConnId(1)].worker, Some(other));
}

#[test]
fn a_stuck_worker_is_only_told_of_where_that_is_the_action() {
    let mut bench = Bench::with(Settings { watchdog_action: WatchdogAction::Log, ..settings(1) });
    for _ in 0..100 {
        bench.tick(1.0);
    }
    assert_eq!((bench.count("stuck"), bench.count("crashes")), (1, 0));
    bench.settle();
    assert!(bench.world.log.last().unwrap().contains("dispatches again"));
}

#[test]
fn worn_out_workers_are_replaced_without_a_loss() {
    let mut settings = settings(2);
    settings.workers.max_requests = Some(50);
    let mut bench = Bench::with(settings);
    bench.open(1);
    bench.open(2);
    for number in 0..400 {
        bench.message(1, number);
        bench.message(2, number);
        bench.settle();
        if number % 10 == 0 {
            bench.tick(1.1);
            bench.attach_all();
        }
    }
    bench.settle();
    for conn in [1, 2] {
        assert_eq!(bench.numbers(conn), (0..400).collect::<Vec<_>>());
    }
    assert!(bench.count("recycled") >= 8, "{}", bench.count("recycled"));
    assert_eq!((bench.count("crashes"), bench.count("lost")), (0, 0));
}

#[test]
fn too_much_memory_wears_a_worker_out() {
    let mut settings = settings(1);
    settings.workers.max_memory = Some(40 << 20);
    let mut bench = Bench::with(settings);
    let first = bench.serving();
    bench.tick(1.1);
    bench.attach_all();
    bench.settle();
    assert_ne!(bench.serving(), first);
    assert_eq!(bench.count("recycled"), 1);
}

#[test]
fn what_is_in_a_workers_hands_is_bounded() {
    let mut bench = Bench::new(1);
    bench.open(1);
    let id = bench.serving()[0];
    for number in 0..10_000 {
        bench.message(1, number);
    }
    assert!(bench.world.alive[&id].told.len() <= WINDOW_MESSAGES + 2);
    bench.settle();
    assert_eq!(bench.numbers(1), (0..10_000).collect::<Vec<_>>());
}

#[test]
fn a_stop_lets_workers_finish() {
    let mut bench = Bench::new(2);
    bench.open(1);
    bench.message(1, 0);
    bench.close(1);
    assert!(bench.event(Event::Stopped { endpoint: SERVER }).is_none());
    assert!(!bench.roster.is_finished());
    bench.settle();
    assert_eq!((bench.numbers(1), bench.world.closed.clone()), (vec![0], vec![1]));
    assert!(bench.roster.is_finished());
}

#[test]
fn who_does_not_end_is_ended() {
    let mut bench = Bench::new(2);
    bench.event(Event::Stopped { endpoint: SERVER });
    bench.tick(31.0);
    bench.tick(0.1);
    assert!(bench.roster.is_finished());
}

#[test]
fn questions_are_asked_again_when_their_worker_ends() {
    let mut bench = Bench::new(1);
    let channel: Arc<str> = "news".into();
    bench.event(Event::SnapshotWanted { server: SERVER, ticket: Ticket(5), channel });
    let first = bench.serving()[0];
    bench.end(first, "signal 11");
    bench.attach_all();
    let second = bench.serving()[0];
    let asked = |told: &ToWorker| matches!(told, ToWorker::Event(Event::SnapshotWanted { ticket: Ticket(5), .. }));
    assert_eq!(bench.world.alive[&second].told.iter().filter(|told| asked(told)).count(), 1);
    bench.say(second, Command::AnswerSnapshot { ticket: Ticket(5), state: None });
    assert_eq!(bench.world.submitted.iter().filter(|command| command.contains("AnswerSnapshot")).count(), 1);
    assert!(bench.roster.questions.is_empty());
}

fn item(sequence: u64) -> OutboxItem {
    // A delivery's own numbers are the inbox's secret: they travel as they are.
    let encoded = postcard::to_stdvec(&(sequence, sequence + 100, 1_usize, 0_u32)).unwrap();
    let id: DeliveryId = postcard::from_bytes(&encoded).unwrap();
    assert_eq!(id.sequence, sequence);
    OutboxItem { id, data: Bytes::from_static(b"x"), binary: false, edit: false }
}

fn items(bench: &mut Bench, conn: u64, sequences: std::ops::Range<u64>) {
    *bench.world.owed.get_mut(&conn).unwrap() += (sequences.end - sequences.start) as usize;
    let outbox = Key::new("outbox").unwrap();
    let items = sequences.map(item).collect();
    bench.event(Event::Items { endpoint: SERVER, conn: ConnId(conn), outbox, items });
}

/// Items that a worker was told of, in order.
fn told_items(bench: &Bench, id: WorkerId) -> Vec<u64> {
    let mut told = Vec::new();
    for message in &bench.world.alive[&id].told {
        if let ToWorker::Event(Event::Items { items, .. }) = message {
            told.extend(items.iter().map(|item| item.id.sequence));
        }
    }
    told
}

#[test]
fn items_in_a_dead_workers_hands_are_handed_out_again() {
    let mut bench = Bench::new(1);
    bench.open_session(1);
    items(&mut bench, 1, 1..5);
    let first = bench.serving()[0];
    bench.roster.handle_message(bench.now, first, ToGateway::Handled(item(1).id), &mut bench.world);
    bench.say(first, Command::Consumed { conn: ConnId(1), messages: 1, bytes: 1 });
    bench.end(first, "signal 9");
    bench.attach_all();
    let second = bench.serving()[0];
    assert_eq!(told_items(&bench, second), [2, 3, 4]);
    assert_eq!(bench.world.begun.len(), 4, "begun once");
    assert_eq!(bench.world.owed[&1], 0);
    for sequence in 2..5 {
        bench.roster.handle_message(bench.now, second, ToGateway::Handled(item(sequence).id), &mut bench.world);
        bench.say(second, Command::Consumed { conn: ConnId(1), messages: 1, bytes: 1 });
    }
    assert!(bench.roster.items.is_empty());
    assert_eq!(bench.count("lost"), 0);
}

#[test]
fn an_item_that_ends_worker_after_worker_is_refused() {
    let mut bench = Bench::new(1);
    bench.open_session(1);
    items(&mut bench, 1, 1..3);
    for round in 1..=3 {
        let id = bench.serving()[0];
        assert_eq!(told_items(&bench, id), [1, 2], "round {round}");
        bench.end(id, "signal 11");
        bench.tick(10.0);
        bench.attach_all();
    }
    let id = bench.serving()[0];
    assert_eq!(told_items(&bench, id), [2]);
    let refused = bench.world.submitted.iter().find(|command| command.contains("Rejected")).unwrap();
    assert!(refused.contains("3 workers have ended") && refused.contains("permanent: true"), "{refused}");
}

#[test]
fn an_old_worker_may_still_acknowledge_what_it_has() {
    let mut bench = Bench::new(1);
    bench.open_session(1);
    items(&mut bench, 1, 1..3);
    let old = bench.serving()[0];
    // Both handlers have returned, acknowledged by hand later.
    bench.say(old, Command::Consumed { conn: ConnId(1), messages: 2, bytes: 2 });
    bench.roster.reload(bench.now, &mut bench.world).unwrap();
    bench.attach_all();
    let new = bench.serving()[0];
    bench.say(old, Command::Released { conn: ConnId(1) });
    assert_eq!(told_items(&bench, new), [0; 0]);
    bench.roster.handle_message(bench.now, old, ToGateway::Handled(item(1).id), &mut bench.world);
    // The other it gives up, at its end: no failure of the connection.
    let delivery = Delivery::Item { outbox: Key::new("outbox").unwrap(), id: item(2).id };
    bench.say(old, Command::Settle { endpoint: SERVER, delivery, verdict: Verdict::Failed });
    assert_eq!(told_items(&bench, new), [2]);
    assert!(!bench.world.submitted.iter().any(|command| command.contains("Failed")));
}

/// What may happen next.
#[derive(Debug, Clone)]
enum Happening {
    Open,
    Message(usize),
    Close(usize),
    Step(usize, u8),
    Kill(usize),
    Reload,
    Attach(usize),
    FailStart(usize),
    Time(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        2 => Just(Happening::Open),
        10 => any::<usize>().prop_map(Happening::Message),
        1 => any::<usize>().prop_map(Happening::Close),
        12 => (any::<usize>(), 1..20_u8).prop_map(|(id, times)| Happening::Step(id, times)),
        1 => any::<usize>().prop_map(Happening::Kill),
        1 => Just(Happening::Reload),
        4 => any::<usize>().prop_map(Happening::Attach),
        1 => any::<usize>().prop_map(Happening::FailStart),
        1 => (0..40_u8).prop_map(Happening::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever workers do: each message is handled once and in order, or it was in the hands of one that has ended, and
    /// counted; each end is told once; and the engine gets all of its credit back.
    #[test]
    fn nothing_is_lost_doubled_or_out_of_order(count in 1..4_usize, happenings in prop::collection::vec(happening(), 1..300)) {
        let mut bench = Bench::new(count);
        let mut sent: Vec<u64> = Vec::new();
        let mut open: Vec<u64> = Vec::new();
        for happening in happenings {
            let pick = |list: &[u64], index: usize| (!list.is_empty()).then(|| list[index % list.len()]);
            let ids = bench.ids();
            let worker = |index: usize| (!ids.is_empty()).then(|| ids[index % ids.len()]);
            match happening {
                Happening::Open => {
                    let conn = sent.len() as u64;
                    sent.push(0);
                    open.push(conn);
                    bench.open(conn);
                }
                Happening::Message(index) => if let Some(conn) = pick(&open, index) {
                    bench.message(conn, sent[conn as usize]);
                    sent[conn as usize] += 1;
                },
                Happening::Close(index) => if let Some(conn) = pick(&open, index) {
                    open.retain(|other| *other != conn);
                    bench.close(conn);
                },
                Happening::Step(index, times) => if let Some(id) = worker(index) {
                    for _ in 0..times { bench.step(id); }
                },
                Happening::Kill(index) => if let Some(id) = worker(index) { bench.end(id, "signal 9"); },
                Happening::Reload => bench.roster.reload(bench.now, &mut bench.world).unwrap(),
                Happening::Attach(index) => if let Some(id) = worker(index) { bench.attach(id); },
                Happening::FailStart(index) => if let Some(id) = worker(index)
                    && bench.roster.workers.get(&id).is_some_and(|worker| worker.phase == Phase::Starting) {
                    bench.end(id, "exit status 255");
                },
                Happening::Time(tenths) => bench.tick(f64::from(tenths) / 10.0),
            }
            bench.bury();
        }
        // All comes to rest.
        for _ in 0..200 {
            bench.tick(0.5);
            bench.attach_all();
            bench.settle();
        }
        prop_assert_eq!(bench.count("lost"), i64::try_from(bench.world.lost).unwrap());
        let mut missing = 0;
        for (conn, sent) in sent.iter().enumerate() {
            let numbers = bench.numbers(conn as u64);
            prop_assert!(numbers.is_sorted_by(|a, b| a < b), "connection {}: {:?}", conn, numbers);
            missing += *sent as usize - numbers.len();
        }
        prop_assert_eq!(missing, bench.world.lost);
        prop_assert!(bench.world.owed.values().all(|owed| *owed == 0), "{:?}", bench.world.owed);
        let mut closed = bench.world.closed.clone();
        closed.sort_unstable();
        let twice = closed.windows(2).any(|pair| pair[0] == pair[1]);
        prop_assert!(!twice || bench.count("crashes") > 0);
        prop_assert_eq!(bench.roster.routes.len(), open.len());
        prop_assert_eq!(bench.world.alive.len(), count);
        bench.event(Event::Stopped { endpoint: SERVER });
        // These are cut, not closed.
        for process in bench.world.alive.values_mut() { process.conns.clear(); }
        bench.settle();
        prop_assert!(bench.roster.is_finished());
    }
}
