//! What may happen, and random schedules of it.

use std::time::Duration;

use lifeline_proto::v1::ring::Retention;
use lifeline_proto::v1::server::ServerConfig;
use rand::RngCore;

pub const CLIENTS: usize = 3;
pub const CHANNELS: [&str; 2] = ["news", "or%ders 7"];

/// SplitMix64: the same numbers in each run and in each version of every library.
#[derive(Clone, Debug)]
pub struct Numbers(pub u64);

impl RngCore for Numbers {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        for byte in dest {
            *byte = self.next_u32() as u8;
        }
    }
}

impl Numbers {
    /// From 0 to `end` - 1.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end
    }

    pub fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What comes back after a server has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// In order: all is stored.
    Clean,
    /// kill -9: what was stored by then.
    Killed,
    /// With what of it was not on the disk; where messages are kept.
    PowerCut,
    /// The store is as it was some time before.
    RolledBack,
    /// There is no store.
    Empty,
}

/// One thing that happens; none depends on the state, so that each may be left out. The first number is a
/// client's unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Connect(usize),
    /// Both ends see the end; what is on its way to the server still arrives.
    Cut(usize),
    /// What is on its way is lost, too.
    Reset(usize),
    /// Only the client sees it.
    HalfOpen(usize),
    /// Only the server sees it.
    Deaf(usize),
    /// The half-open ones are found, at both ends.
    Notice,
    /// Frames move: to the server, out of the server's queues, to the client.
    Up(usize, usize),
    Write(usize, usize),
    Down(usize, usize),
    /// All of them, until nothing moves.
    Flow(usize),
    /// A connection, and all that both applications have to do.
    Round(usize),
    /// What old connections have on their way to the server arrives.
    Late(usize),
    /// A proxy plays the bytes of an ended connection again.
    Again(usize),
    Send(usize, usize),
    SendMany(usize, usize),
    /// The items of `SendMany` are on the disk.
    Synced(usize),
    /// The newest item that is not under way outlives its time.
    Expire(usize),
    Subscribe(usize, usize),
    Unsubscribe(usize, usize),
    ClientBeat(usize),
    Refresh(usize),
    /// The application takes so many of its events.
    Take(usize, usize),
    ClientBatch(usize),
    KillClient(usize),
    ServerSend(usize, usize),
    Broadcast,
    /// By channel, so many.
    Publish(usize, usize),
    ServerSubscribe(usize, usize),
    ServerUnsubscribe(usize, usize),
    ServerBeat(usize),
    /// A channel may not, or may, be subscribed to.
    Deny(usize, bool),
    /// The credentials that the client has are no longer good.
    TokenExpires(usize),
    /// The application ends a connection.
    Ban(usize),
    /// The oldest question to the server's application is answered.
    Answer,
    Begin,
    Finish(usize),
    Fail(usize),
    Reject(usize, bool),
    ServerBatch,
    /// The oldest mark is stored; where messages are kept, all that was appended is on the disk.
    Stored,
    /// The store takes what there is, …
    Stage,
    /// … and has it.
    Append,
    /// A piece of what there is is written anew.
    WriteAnew,
    /// Sessions and channels are stored.
    Records,
    /// To come back to by [`Restart::RolledBack`].
    Checkpoint,
    RestartServer(Restart),
    Drain(u64),
    Shed(usize),
    /// Milliseconds.
    Sleep(u64),
    /// The server's clock is that much further than the others.
    ServerJump(u64),
    ClientJump(usize, u64),
}

/// A store that keeps messages, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Whatever is news is appended at once.
    Eager,
    /// By [`Op::Stage`] and [`Op::Append`].
    Lazy,
}

/// What a schedule is played with.
#[derive(Clone, Debug)]
pub struct Setup {
    pub config: ServerConfig,
    /// The server's application takes its time for answers.
    pub slow: bool,
    /// Handlers of one connection that may run at once.
    pub handlers: usize,
    /// Whether clients keep their outbox and session on a disk.
    pub durable: [bool; CLIENTS],
    /// Whether the server's store keeps messages; only where there is one.
    pub keeps: Option<Keeps>,
}

impl Setup {
    pub fn random(random: &mut Numbers) -> Self {
        let store = random.chance(60);
        Self {
            config: ServerConfig {
                retention: Retention {
                    count: random.one_of(&[1, 2, 3, 5, 20]),
                    bytes: random.one_of(&[120, 600, 10_000]),
                    age: Duration::from_secs(random.one_of(&[20, 120])),
                },
                resume_ttl: Duration::from_secs(random.one_of(&[30, 120])),
                dedupe_ttl: Duration::from_secs(random.one_of(&[100, 100_000])),
                redelivery_limit: random.one_of(&[2, 3]),
                window: random.one_of(&[100, 300, 3000]),
                send_limit: random.one_of(&[150, 1000, 10_000]),
                max_sessions: random.one_of(&[6, 1000, 1000, 1000]),
                max_inboxes: random.one_of(&[2, 1000]),
                max_subscriptions: random.one_of(&[1, 10, 10]),
                authenticate: random.chance(40),
                authorise: random.chance(95),
                snapshots: random.chance(40),
                store,
                ..ServerConfig::default()
            },
            slow: random.chance(40),
            handlers: random.one_of(&[1, 1, 3]),
            durable: std::array::from_fn(|_| random.chance(65)),
            keeps: if store { random.one_of(&[None, Some(Keeps::Eager), Some(Keeps::Lazy)]) } else { None },
        }
    }
}

/// Weights, and how to make one.
type Kind = (u64, fn(&mut Numbers) -> Op);

fn client(random: &mut Numbers) -> usize {
    // Mostly one, so that something happens to it.
    random.one_of(&[0, 0, 0, 0, 1, 1, 2])
}

fn few(random: &mut Numbers) -> usize {
    1 + random.below(4) as usize
}

fn some_channel(random: &mut Numbers) -> usize {
    random.one_of(&[0, 0, 1])
}

const KINDS: &[Kind] = &[
    (60, |r| Op::Connect(client(r))),
    (25, |r| Op::Round(client(r))),
    (14, |r| Op::Cut(client(r))),
    (8, |r| Op::Reset(client(r))),
    (8, |r| Op::HalfOpen(client(r))),
    (4, |r| Op::Deaf(client(r))),
    (5, |_| Op::Notice),
    (45, |r| Op::Up(client(r), few(r))),
    (40, |r| Op::Write(client(r), few(r))),
    (40, |r| Op::Down(client(r), few(r))),
    (70, |r| Op::Flow(client(r))),
    (6, |r| Op::Late(client(r))),
    (2, |r| Op::Again(client(r))),
    (40, |r| Op::Send(client(r), r.one_of(&[10, 10, 10, 90, 400]))),
    (10, |r| Op::SendMany(client(r), r.one_of(&[2, 3, 40]))),
    (12, |r| Op::Synced(client(r))),
    (6, |r| Op::Expire(client(r))),
    (18, |r| Op::Subscribe(client(r), some_channel(r))),
    (8, |r| Op::Unsubscribe(client(r), some_channel(r))),
    (3, |r| Op::ClientBeat(client(r))),
    (3, |r| Op::Refresh(client(r))),
    (40, |r| Op::Take(client(r), few(r) * few(r))),
    (15, |r| Op::ClientBatch(client(r))),
    (5, |r| Op::KillClient(client(r))),
    (30, |r| Op::ServerSend(client(r), r.one_of(&[10, 10, 60, 400]))),
    (5, |_| Op::Broadcast),
    (35, |r| Op::Publish(some_channel(r), few(r))),
    (8, |r| Op::ServerSubscribe(client(r), some_channel(r))),
    (3, |r| Op::ServerUnsubscribe(client(r), some_channel(r))),
    (3, |r| Op::ServerBeat(client(r))),
    (3, |r| Op::Deny(some_channel(r), r.chance(40))),
    (3, |r| Op::TokenExpires(client(r))),
    (1, |r| Op::Ban(client(r))),
    (20, |_| Op::Answer),
    (70, |_| Op::Begin),
    (55, |r| Op::Finish(r.below(3) as usize)),
    (12, |r| Op::Fail(r.below(3) as usize)),
    (14, |r| Op::Reject(r.below(3) as usize, r.chance(40))),
    (15, |_| Op::ServerBatch),
    (25, |_| Op::Stored),
    (4, |_| Op::Records),
    (15, |_| Op::Stage),
    (40, |_| Op::Append),
    (6, |_| Op::WriteAnew),
    (3, |_| Op::Checkpoint),
    (2, |_| Op::RestartServer(Restart::Clean)),
    (5, |_| Op::RestartServer(Restart::Killed)),
    (2, |_| Op::RestartServer(Restart::PowerCut)),
    (1, |_| Op::RestartServer(Restart::RolledBack)),
    (1, |_| Op::RestartServer(Restart::Empty)),
    (1, |r| Op::Drain(r.one_of(&[0, 4000]))),
    (3, |r| Op::Shed(r.one_of(&[1, 200, 100_000]))),
    (20, |r| Op::Sleep(r.below(1500))),
    (6, |r| Op::Sleep(10_000 + r.below(2000))),
    (2, |r| Op::Sleep(r.one_of(&[31_000, 125_000]))),
    (1, |r| Op::ServerJump(r.one_of(&[5000, 40_000, 200_000]))),
    (1, |r| Op::ClientJump(client(r), r.one_of(&[5000, 200_000]))),
];

/// The schedule of a seed.
pub fn schedule(seed: u64) -> (Setup, Vec<Op>) {
    let mut random = Numbers(seed.wrapping_mul(0xA076_1D64_78BD_642F));
    let setup = Setup::random(&mut random);
    let total: u64 = KINDS.iter().map(|(weight, _)| weight).sum();
    let length = random.one_of(&[40, 100, 200, 300]);
    let mut ops = vec![Op::Connect(0), Op::Flow(0)];
    for _ in 0..length {
        let mut pick = random.below(total);
        for (weight, make) in KINDS {
            if pick < *weight {
                ops.push(make(&mut random));
                break;
            }
            pick -= weight;
        }
    }
    (setup, ops)
}

/// Each dialogue of `docs/protocol.md`, with what leads to it.
pub const DIALOGUES: &[(&str, &[Op])] = &[
    ("hello", &[Op::Connect(0), Op::Flow(0)]),
    (
        "items",
        &[Op::Connect(0), Op::SendMany(0, 4), Op::Synced(0), Op::Flow(0), Op::Begin, Op::Finish(0), Op::Round(0)],
    ),
    ("resume", &[Op::Round(0), Op::Send(0, 10), Op::ServerSend(0, 10), Op::Cut(0), Op::Send(0, 10), Op::Round(0)]),
    (
        "replay",
        &[
            Op::Subscribe(0, 0),
            Op::Round(0),
            Op::Cut(0),
            Op::ServerSend(0, 10),
            Op::Publish(0, 2),
            Op::ServerSend(0, 10),
            Op::Connect(0),
            Op::Flow(0),
            Op::Publish(0, 1),
            Op::Round(0),
        ],
    ),
    (
        "acknowledgement",
        &[
            Op::Round(0),
            Op::SendMany(0, 3),
            Op::Synced(0),
            Op::ServerSend(0, 10),
            Op::Round(0),
            Op::Send(0, 10),
            Op::Flow(0),
            Op::Begin,
            Op::Finish(0),
            Op::ServerSend(0, 10),
            Op::Round(0),
        ],
    ),
    (
        "take-over",
        &[
            Op::Round(0),
            Op::SendMany(0, 3),
            Op::Synced(0),
            Op::Flow(0),
            Op::Begin,
            Op::HalfOpen(0),
            Op::Connect(0),
            Op::Flow(0),
            Op::Late(0),
            Op::Finish(0),
            Op::Round(0),
        ],
    ),
    ("drain", &[Op::Round(0), Op::Send(0, 10), Op::Drain(4000), Op::Flow(0), Op::Sleep(3001), Op::Round(0)]),
    (
        "refused for good",
        &[
            Op::Round(0),
            Op::SendMany(0, 2),
            Op::Synced(0),
            Op::Flow(0),
            Op::Begin,
            Op::Reject(0, true),
            Op::Flow(0),
            Op::Round(0),
        ],
    ),
    (
        "refused for now",
        &[
            Op::Round(0),
            Op::SendMany(0, 3),
            Op::Synced(0),
            Op::Flow(0),
            Op::Begin,
            Op::Reject(0, false),
            Op::Flow(0),
            Op::Expire(0),
            Op::Sleep(1000),
            Op::Round(0),
        ],
    ),
    (
        "poison",
        &[
            Op::Round(0),
            Op::SendMany(0, 2),
            Op::Synced(0),
            Op::Flow(0),
            Op::Begin,
            Op::Fail(0),
            Op::Flow(0),
            Op::Connect(0),
            Op::Flow(0),
            Op::Begin,
            Op::Fail(0),
            Op::Round(0),
        ],
    ),
    ("given up", &[Op::SendMany(0, 3), Op::Synced(0), Op::Expire(0), Op::Send(0, 10), Op::Round(0)]),
    (
        "subscribe",
        &[
            Op::Round(0),
            Op::Subscribe(0, 0),
            Op::Flow(0),
            Op::Publish(0, 2),
            Op::Flow(0),
            Op::ServerSubscribe(0, 1),
            Op::Publish(1, 2),
            Op::Flow(0),
            Op::Unsubscribe(0, 0),
            Op::Publish(0, 1),
            Op::Flow(0),
            Op::Subscribe(0, 0),
            Op::Flow(0),
            Op::Deny(0, true),
            Op::Cut(0),
            Op::Round(0),
        ],
    ),
    (
        "gap, and snapshot where there is one",
        &[
            Op::Subscribe(0, 0),
            Op::ServerSubscribe(0, 1),
            Op::Round(0),
            Op::Cut(0),
            Op::Publish(0, 5),
            Op::Publish(1, 5),
            Op::ServerSend(0, 10),
            Op::ServerSend(0, 10),
            Op::ServerSend(0, 10),
            Op::ServerSend(0, 10),
            Op::Sleep(11_000),
            Op::Connect(0),
            Op::Flow(0),
            Op::Publish(0, 1),
            Op::Round(0),
            Op::Publish(0, 5),
            Op::Sleep(11_000),
            Op::Publish(0, 1),
            Op::Round(0),
        ],
    ),
    (
        "fresh token",
        &[
            Op::Round(0),
            Op::Refresh(0),
            Op::Flow(0),
            Op::TokenExpires(0),
            Op::Refresh(0),
            Op::Flow(0),
            Op::Connect(0),
            Op::Flow(0),
            Op::Send(0, 10),
            Op::Round(0),
        ],
    ),
    ("beats", &[Op::Round(0), Op::ServerBeat(0), Op::ClientBeat(0), Op::Round(0)]),
    (
        "restart with a store",
        &[
            Op::Subscribe(0, 0),
            Op::Round(0),
            Op::Send(0, 10),
            Op::ServerSend(0, 10),
            Op::Publish(0, 1),
            Op::Flow(0),
            Op::Begin,
            Op::Finish(0),
            Op::RestartServer(Restart::Killed),
            Op::Round(0),
        ],
    ),
    (
        "restart without a store",
        &[
            Op::Subscribe(0, 0),
            Op::Round(0),
            Op::Send(0, 10),
            Op::ServerSend(0, 10),
            Op::Publish(0, 1),
            Op::Flow(0),
            Op::RestartServer(Restart::Empty),
            Op::Round(0),
        ],
    ),
];

impl Setup {
    /// For a dialogue: all that can be asked is asked.
    pub fn strict(snapshots: bool, store: bool, slow: bool) -> Self {
        Self {
            config: ServerConfig {
                retention: Retention { count: 2, ..Retention::default() },
                redelivery_limit: 2,
                window: 300,
                authenticate: true,
                authorise: true,
                snapshots,
                store,
                ..ServerConfig::default()
            },
            slow,
            handlers: 1,
            durable: [true; CLIENTS],
            keeps: None,
        }
    }
}
