//! Readers of foreign bytes that are private otherwise, for the fuzz targets in `fuzz/` (feature `fuzzing`).
#![allow(missing_docs)]

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

use crate::client::durable::Durable;
use crate::client::saved;
use crate::config::{DeflateConfig, Durability, Storage};
use crate::dial::response::ResponseHead;
pub use crate::listen::PeerAddr;
use crate::sessions::book::{Book, Restored};

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
