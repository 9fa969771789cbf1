//! Readers of foreign bytes that are private otherwise, for the fuzz targets in `fuzz/` (feature `fuzzing`).
#![allow(missing_docs)]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use lifeline_proto::Time;
use lifeline_proto::outbox::OutboxConfig;
use lifeline_proto::v1::server::{Server, ServerConfig};
use lifeline_store::Files;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::AsyncRead;

use crate::bridge::{
    Command, CommandError, ConnId, DeliveryId, EndpointId, Event, LogLevel, OpenInfo, OutboxItem, Reply, SessionData,
    SessionInfo, Ticket,
};
use crate::client::durable::Durable;
use crate::client::saved;
use crate::config::{DeflateConfig, Durability, Storage};
use crate::dial::response::ResponseHead;
pub use crate::listen::PeerAddr;
use crate::sessions::book::{Book, Restored};
use crate::workers::Questions;
use crate::workers::roster::{Hands, Roster, Settings, WorkerId};
use crate::workers::wire::{self, Greeting, Reader, ToGateway, ToWorker, Writer};

/// What a server answers to a client's handshake: its status and headers, and what is wrong with it as a 101 with
/// `key`, `offered` and `compression`, or the subprotocol chosen and whether messages are compressed.
///
/// # Errors
/// It is no head of HTTP, or longer than `max_bytes`.
pub async fn answer<S: AsyncRead + Unpin>(
    stream: &mut S,
    max_bytes: usize,
    key: &str,
    offered: &[String],
    compression: Option<&DeflateConfig>,
) -> Result<Answer, String> {
    let mut buffer = BytesMut::new();
    let head = ResponseHead::read(stream, &mut buffer, max_bytes).await.map_err(|error| error.to_string())?;
    // The times are bounded by themselves.
    let _ = (head.spread(), head.retry_after(SystemTime::UNIX_EPOCH));
    let verdict = head.verify(key, offered, compression).map(|(protocol, agreement)| (protocol, agreement.is_some()));
    Ok(Answer { status: head.status, verdict, headers: head.headers, rest: buffer })
}

/// See [`answer`].
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub verdict: Result<(String, bool), String>,
    /// What came behind the head.
    pub rest: BytesMut,
}

/// Opens a client's outbox with what it keeps of a session.
///
/// # Errors
/// The disk's.
pub fn open_outbox(files: Arc<dyn Files>, directory: &Path) -> Result<(), String> {
    let storage = Storage { path: directory.to_owned(), durability: Durability::Always };
    let wall = Duration::from_secs(1_700_000_000);
    let opened = Durable::open_with(files, &OutboxConfig::default(), &storage, Time::from_micros(1), wall);
    let (_outbox, found) = opened.map_err(|error| error.to_string())?;
    let _ = saved::decode(&found.session);
    Ok(())
}

/// Opens a server's store and goes on from there.
///
/// # Errors
/// The disk's.
pub fn open_store(files: Arc<dyn Files>, directory: &Path) -> Result<(), String> {
    let opened = Book::open_with(files, directory, Duration::from_secs(3600));
    let (_book, Restored { stored, .. }) = opened.map_err(|error| error.to_string())?;
    let machine = Server::restore(Time::from_micros(1), ServerConfig::default(), StdRng::seed_from_u64(1), stored);
    let _ = machine.session_count();
    Ok(())
}

/// What a process says on a worker's socket, in pieces of `piece` bytes, to a gateway that has given it connections. Returns how
/// many messages were understood.
///
/// # Errors
/// What is wrong with it.
///
/// # Panics
/// What was understood does not read the same when it is said again.
pub fn worker(data: &[u8], piece: usize) -> Result<usize, String> {
    let mut hands = Nobody::default();
    let now = Time::from_micros(1_000_000);
    let settings = Settings {
        server: EndpointId(1),
        workers: crate::config::Workers { count: 2, ..Default::default() },
        watchdog_lag: Duration::from_secs(30),
        watchdog_action: crate::config::WatchdogAction::Replace,
        redelivery_limit: 5,
        auth_timeout: Duration::from_secs(60),
        addresses: Vec::new(),
    };
    let mut roster = Roster::new(settings, now, &mut hands);
    let mut reader = Reader::of_stranger();
    let (mut greeted, mut count) = (false, 0);
    for part in data.chunks(piece.max(1)) {
        reader.buffer.extend_from_slice(part);
        while let Some(frame) = reader.next_frame().map_err(|error| error.to_string())? {
            if !greeted {
                match wire::read_greeting(&frame).map_err(|error| error.to_string())? {
                    Greeting::Hello { questions } => {
                        greeted = true;
                        roster.handle_hello(now, WorkerId(2), Questions::default(), &mut hands);
                        roster.handle_hello(now, WorkerId(1), questions, &mut hands);
                        employ(&mut roster, now, &mut hands);
                    }
                    Greeting::Explain(why) => roster.handle_explanation(WorkerId(1), why),
                }
                continue;
            }
            let mut messages = Vec::new();
            let result = wire::read_messages(&frame, "messages", |message: ToGateway| {
                messages.push(message);
                true
            });
            result.map_err(|error| error.to_string())?;
            for message in messages {
                let mut writer = Writer::default();
                writer.add(&message).expect("it has come over the wire");
                writer.end_frame();
                let mut again = Reader::default();
                again.buffer.extend_from_slice(writer.bytes());
                let frame = again.next_frame().expect("a frame").expect("a whole one");
                let read = |second: ToGateway| {
                    assert_eq!(format!("{second:?}"), format!("{message:?}"));
                    true
                };
                wire::read_messages(&frame, "messages", read).expect("messages");
                count += 1;
                roster.handle_message(now, WorkerId(1), message, &mut hands);
            }
        }
    }
    roster.tick(now + Duration::from_secs(2), &mut hands);
    roster.handle_ended(now, WorkerId(1), "exit status 0", &mut hands);
    Ok(count)
}

/// Connections 1 to 4 with messages, items and questions, so that the worker has something to answer.
fn employ(roster: &mut Roster, now: Time, hands: &mut Nobody) {
    let endpoint = EndpointId(1);
    for number in 1..=4 {
        let conn = ConnId(number);
        let session =
            SessionInfo { id: "s".into(), user: None, claims: bytes::Bytes::new(), data: SessionData::default() };
        let info = OpenInfo {
            remote: "".into(),
            protocol: "".into(),
            request: None,
            session: (number > 2).then(|| Box::new(session)),
            resumed: false,
            user: None,
        };
        roster.handle_event(now, Event::Open { endpoint, conn, info: Box::new(info) }, hands);
        let data = bytes::Bytes::from_static(b"x");
        if number > 2 {
            let id: DeliveryId = postcard::from_bytes(&[number as u8, 1, 1, 0]).expect("numbers");
            let items = VecDeque::from([OutboxItem { id, data, binary: false, edit: false }]);
            let outbox = lifeline_proto::v1::Key::new("o").expect("a key");
            roster.handle_event(now, Event::Items { endpoint, conn, outbox, items }, hands);
            roster.handle_event(now, Event::Authorise { server: endpoint, conn, channel: "c".into() }, hands);
        } else {
            roster.handle_event(now, Event::Message { endpoint, conn, data, binary: false, info: None }, hands);
        }
    }
    roster.handle_event(now, Event::SnapshotWanted { server: endpoint, ticket: Ticket(1), channel: "c".into() }, hands);
    let (code, reason) = (1000, "".into());
    roster.handle_event(now, Event::Close { endpoint, conn: ConnId(1), code, reason, clean: true }, hands);
}

/// An engine that takes all, and checks the credit that it gets back.
#[derive(Debug, Default)]
struct Nobody {
    next: u32,
    consumed: std::collections::HashMap<ConnId, usize>,
}

impl Hands for Nobody {
    fn tell(&mut self, _: WorkerId, _: &ToWorker) {}

    fn submit(&mut self, command: Command) -> Result<Reply, CommandError> {
        if let Command::Consumed { conn, messages, .. } = command {
            let sum = self.consumed.entry(conn).or_default();
            *sum += messages;
            assert!(*sum <= 1, "credit for more than was handed out");
        }
        Ok(Reply::Done)
    }

    fn step(&mut self, _: Option<DeliveryId>, _: Option<DeliveryId>) -> bool {
        true
    }

    fn spawn(&mut self, _: WorkerId, _: usize) -> Result<u32, String> {
        self.next += 1;
        Ok(self.next)
    }

    fn kill(&mut self, _: WorkerId) {}

    fn set_questions(&mut self, _: Questions) {}

    fn memory(&mut self, _: WorkerId) -> usize {
        0
    }

    fn log(&mut self, _: LogLevel, _: String) {}
}

/// Frames of a worker that greets and then does what others might, to begin with.
#[must_use]
pub fn worker_seeds() -> Vec<Vec<u8>> {
    let conn = ConnId(3);
    let id: DeliveryId = postcard::from_bytes(&[3, 1, 1, 0]).expect("numbers");
    let outbox = lifeline_proto::v1::Key::new("o").expect("a key");
    let delivery = crate::bridge::Delivery::Item { outbox, id };
    let server = EndpointId(1);
    let data = bytes::Bytes::from_static(b"hello");
    let commands = [
        Command::Opened { conn },
        Command::Send { conn, data: data.clone(), binary: false },
        Command::Consumed { conn, messages: 1, bytes: 1 },
        Command::Settle { endpoint: server, delivery, verdict: crate::bridge::Verdict::Failed },
        Command::AnswerAuthorisation { conn, channel: "c".into(), allowed: true },
        Command::AnswerSnapshot { ticket: Ticket(1), state: Some((data.clone(), false)) },
        Command::Publish { server, channel: "c".into(), data, binary: true, except: vec![conn] },
        Command::Bind { conn, user: "ann".into() },
        Command::Released { conn },
        Command::Ended { conn: ConnId(1) },
        Command::Describe { conns: vec![conn] },
        Command::EndpointStats { endpoint: server },
        Command::Reload { server },
        Command::StopServer { server, drain: Duration::from_secs(1) },
    ];
    let begin = || {
        let mut writer = Writer::default();
        wire::greet(&mut writer, &Greeting::Hello { questions: Questions::default() });
        writer
    };
    let mut all = begin();
    let mut seeds = Vec::new();
    for (number, command) in commands.into_iter().enumerate() {
        let mut one = begin();
        let message = ToGateway::Question(number as u64, command);
        one.add(&message).expect("it travels");
        all.add(&message).expect("it travels");
        seeds.push(one.take());
    }
    all.add(&ToGateway::Handled(id)).expect("it travels");
    all.add(&ToGateway::Beat(1)).expect("it travels");
    seeds.push(all.take());
    let mut explains = Writer::default();
    wire::greet(&mut explains, &Greeting::Explain("no database".to_owned()));
    seeds.push(explains.take());
    seeds
}

#[cfg(test)]
mod tests {
    /// `LIFELINE_SEEDS=fuzz/corpus/worker cargo test -p lifeline-engine --features fuzzing seeds` writes them.
    #[test]
    fn seeds_are_understood() {
        let directory = std::env::var_os("LIFELINE_SEEDS").map(std::path::PathBuf::from);
        for (number, seed) in super::worker_seeds().into_iter().enumerate() {
            let whole = super::worker(&seed, usize::MAX);
            assert!(whole.is_ok(), "{number}: {whole:?}");
            assert_eq!(super::worker(&seed, 1), whole);
            if let Some(directory) = &directory {
                let text = [&[15], &*seed].concat();
                std::fs::write(directory.join(format!("seed-{number:02}")), text)
                    .expect("a directory that can be written to");
            }
        }
    }
}
