//! The seam between the application (PHP) and the engine: plain events one way, plain commands the
//! other, connections named by id.
//!
//! Nothing here holds a pointer that both sides share, so that the same values can later travel over
//! a Unix socket to a gateway process. [`crate::local::Local`] is the in-process implementation.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub use lifeline_proto::client::State;
pub use lifeline_proto::v1::Key;
pub use lifeline_proto::v1::Secret;
use lifeline_proto::v1::client::Delivered;
pub use lifeline_proto::v1::data::{Change, SessionData};
pub use lifeline_proto::v1::document::Bounds;
pub use lifeline_proto::v1::inbox::{Delivery as OutboxItem, DeliveryId};
pub use lifeline_proto::v1::server::Write;
pub use lifeline_proto::v1::wire::PROTOCOL;
use lifeline_proto::v1::{ChannelName, Position};
use serde::{Deserialize, Serialize};

use crate::config::{ClientConfig, ServerConfig, Spawn};
use crate::http::RequestHead;

/// Names one connection for the life of the process; never reused. PHP sees it as `$conn->id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnId(pub u64);

/// Names one `WsServer` or `WsClient` for the life of the process; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndpointId(pub u32);

/// Names one question the engine has put to the application and waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// What the engine tells the application. Order is kept within a connection and within an endpoint.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    /// A handshake waits for [`Command::AnswerHandshake`]; only where [`ServerConfig::ask_handshake`].
    Handshake { server: EndpointId, ticket: Ticket, request: Arc<RequestHead> },
    /// A connection is open. For a client it follows the transition to `Connected`.
    Open { endpoint: EndpointId, conn: ConnId, info: Box<OpenInfo> },
    /// A whole message. Its bytes count against `limits.inbound` until [`Command::Consumed`].
    Message {
        endpoint: EndpointId,
        conn: ConnId,
        data: Bytes,
        binary: bool,
        /// What `lifeline.v1` knows of it, at a client; none on plain connections.
        info: Option<Box<MessageInfo>>,
    },
    /// Messages of a client's outbox, in order and at least one, at a server (`lifeline.v1`). The handling of each is to
    /// be begun and settled by its id ([`Bridge::step`]), and its bytes count as those of `Message`.
    Items { endpoint: EndpointId, conn: ConnId, outbox: Key, items: VecDeque<OutboxItem> },
    /// A connection that was announced by `Open` has ended; once, and last of its events.
    Close { endpoint: EndpointId, conn: ConnId, code: u16, reason: Box<str>, clean: bool },
    /// What went wrong; for a connection it comes before its `Close`.
    Failure { endpoint: EndpointId, conn: Option<ConnId>, failure: Box<Failure> },
    /// The send buffer fell below its low mark after it had been above the high mark.
    /// A client's buffer is its outbox.
    Drain { endpoint: EndpointId, conn: ConnId },
    /// A connection entered or left a channel (announced only where [`ServerConfig::announce_members`]).
    Join { server: EndpointId, channel: Arc<str>, conn: ConnId },
    /// See `Join`.
    Leave { server: EndpointId, channel: Arc<str>, conn: ConnId },
    /// The endpoint has ended; last of its events.
    Stopped { endpoint: EndpointId },
    /// A client shows credentials, in HELLO or on an open connection: answer by
    /// [`Command::AnswerAuthentication`]. Only where [`ServerConfig::authenticate`].
    Authenticate { server: EndpointId, ticket: Ticket, credentials: Box<Credentials> },
    /// A client asks to subscribe: answer by [`Command::AnswerAuthorisation`]. Only where
    /// [`ServerConfig::authorise`].
    Authorise { server: EndpointId, conn: ConnId, channel: Arc<str> },
    /// Somebody has lost its place in the channel: answer with its state by [`Command::AnswerSnapshot`]. Only
    /// where [`ServerConfig::snapshots`].
    SnapshotWanted { server: EndpointId, ticket: Ticket, channel: Arc<str> },
    /// A client edits a document of which the application decides ([`Command::OpenDocument`]): begin it
    /// ([`Command::Begin`]), then [`Command::AnswerEdit`], or [`Command::Settle`] where the handler has failed. Its bytes
    /// (those of `data`) count as a message's.
    Edit { server: EndpointId, conn: ConnId, edit: Box<EditInfo> },
    /// Clients have changed a document that is watched: [`Command::TakeChanges`]; or there is something new of one that a
    /// client follows: [`Command::TakeConflicts`], then [`Command::TakeReplicaChanges`]. Not told again before.
    DocumentChanged { endpoint: EndpointId, channel: Arc<str> },
    /// A session's time without a connection is over.
    SessionEnded {
        server: EndpointId,
        session: Box<SessionInfo>,
        /// False: another worker is told to call back, this one only forgets it.
        told: bool,
    },
    /// The connection goes to another worker: answer by [`Command::Released`] when all of its events before this one have
    /// been dealt with, and forget it. Only to workers.
    Release { server: EndpointId, conn: ConnId },
    /// For the application's logger.
    Log { endpoint: Option<EndpointId>, record: Box<LogRecord> },

    // What stays within a process comes last: serde counts only the others.
    /// The client changed state.
    #[serde(skip)]
    Transition { client: EndpointId, transition: Box<Transition> },
    /// The client asks for the headers of this attempt; only where [`ClientConfig::ask_headers`].
    /// The attempt fails when there is no answer for 60 s.
    #[serde(skip)]
    HeadersWanted { client: EndpointId, ticket: Ticket, attempt: u32 },
    /// The client asks for the token that it shows the server (`lifeline.v1`): answer by
    /// [`Command::AnswerToken`]. Only where [`ClientConfig::ask_token`]. The attempt fails when there is no
    /// answer for 60 s.
    #[serde(skip)]
    TokenWanted { client: EndpointId, ticket: Ticket },
    /// Messages for the client are missing, and will not come.
    #[serde(skip)]
    Gap { client: EndpointId, conn: ConnId, gap: Box<GapInfo> },
    /// The state of a channel in which messages were missing. Its bytes count as a message's.
    #[serde(skip)]
    Snapshot { client: EndpointId, conn: ConnId, channel: Arc<str>, data: Bytes, binary: bool },
    /// The server has refused a message for good.
    #[serde(skip)]
    Rejected { client: EndpointId, sequence: u64, data: Bytes, code: i32, reason: Box<str> },
    /// A message that was accepted by `Command::ClientSend` will not be sent.
    #[serde(skip)]
    Overflow { client: EndpointId, sequence: u64, data: Bytes, why: OverflowReason },
    /// The client gave up for good: a terminal refusal, or attempts exhausted.
    #[serde(skip)]
    GaveUp { client: EndpointId, failure: Box<Failure> },
    /// Nothing is unacknowledged any more. Sent once after a [`Command::Unacknowledged`] that was
    /// answered with more than 0, for those who wait in `flush()`.
    #[serde(skip)]
    Flushed { client: EndpointId },
    /// After [`Reply::WouldBlock`]: the message would fit now.
    #[serde(skip)]
    Room { client: EndpointId },
    /// Workers have said something. Nobody but [`crate::local::Local`] gets it.
    #[serde(skip)]
    Nudge,
}

/// What is known when a connection opens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenInfo {
    /// Peer's address as text, where there is no request that says it: see [`OpenInfo::remote`].
    pub remote: Box<str>,
    /// The subprotocol agreed on; empty when none.
    pub protocol: Arc<str>,
    /// The request that was accepted (server), or none (client).
    pub request: Option<Arc<RequestHead>>,
    /// The session (`lifeline.v1` only; a client's has neither user nor claims nor data).
    pub session: Option<Box<SessionInfo>>,
    /// The session is the one of an earlier connection, and its stream has no hole; or the connection itself is not new,
    /// but comes from another worker.
    pub resumed: bool,
    /// Whose it is, if the application said so before ([`Command::Bind`]): of a connection that comes from another worker.
    pub user: Option<Arc<str>>,
}

impl OpenInfo {
    /// Peer's address as text: `203.0.113.7:4711`, `[::1]:4711`, `unix:`; behind a trusted proxy the client's.
    #[must_use]
    pub fn remote(&self) -> &str {
        self.request.as_ref().map_or(&*self.remote, |request| request.remote())
    }
}

/// A session of `lifeline.v1`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionInfo {
    pub id: Arc<str>,
    /// Whose it is, if the application said so.
    pub user: Option<Arc<str>>,
    /// What the application said of the client, as JSON; empty when it was not asked.
    pub claims: Bytes,
    /// The application's values.
    pub data: SessionData,
}

/// What `lifeline.v1` knows of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageInfo {
    /// Its handling is to be begun ([`Command::Begin`]) and settled ([`Command::Settle`]).
    pub delivery: Option<Delivery>,
    /// An item's idempotency key, a channel message's id.
    pub id: Option<Box<str>>,
    pub channel: Option<Arc<str>>,
    /// Its number in the outbox, the stream or the channel.
    pub sequence: u64,
}

/// See [`Event::Gap`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapInfo {
    /// None: the session's stream.
    pub channel: Option<Arc<str>>,
    pub from: u64,
    /// None: nobody knows, what it would count is gone.
    pub to: Option<u64>,
    pub why: Box<str>,
    /// To be settled ([`Command::Settle`]) when the application knows.
    pub delivery: Option<Delivery>,
}

impl GapInfo {
    /// Bytes that it counts against `limits.inbound` until it is received.
    pub(crate) fn cost(&self) -> usize {
        MESSAGE_COST + self.why.len() + self.channel.as_ref().map_or(0, |channel| channel.len())
    }
}

/// See [`Event::Edit`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EditInfo {
    pub channel: Arc<str>,
    pub key: Box<str>,
    /// As JSON; none: it is to be removed.
    pub value: Option<Bytes>,
    /// For [`Command::AnswerEdit`].
    pub data: Bytes,
    pub delivery: Delivery,
}

/// A document, with the entries that were asked for, by key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DocumentInfo {
    pub version: u64,
    /// The key that was asked for has an own edit that the server has not confirmed; of a client's replica.
    pub edited: bool,
    pub entries: Vec<DocumentEntry>,
}

/// A key of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentEntry {
    pub key: Box<str>,
    pub version: u64,
    /// As JSON.
    pub value: Bytes,
}

/// What became of a key of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentChange {
    pub key: Box<str>,
    /// As JSON; none: it has gone.
    pub value: Option<Bytes>,
    /// The key's; the document's where it has gone.
    pub version: u64,
    /// The client that changed it last.
    pub by: Option<ConnId>,
}

/// An edit of a client that the server did not apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentConflict {
    pub key: Box<str>,
    /// As JSON; none: the key was to go.
    pub mine: Option<Bytes>,
    /// The server's value as JSON; none: there is none.
    pub theirs: Option<Bytes>,
    /// Of the server's value; 0: there is none.
    pub version: u64,
    /// The application may merge, see [`Command::EditReplica`].
    pub asked: bool,
    /// 409 for a conflict, another for a refusal.
    pub code: i32,
    /// Of a refusal.
    pub reason: String,
}

/// Names one delivery of a message; the same message may be delivered again under another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// An item of a client's outbox, at a server.
    Item { outbox: Key, id: DeliveryId },

    // What stays within a process comes last: serde counts only the others.
    /// A message of the session's stream, at a client.
    #[serde(skip)]
    Stream(Delivered),
    /// A message of a channel, or a hole in it, at a client that keeps its session on disk.
    #[serde(skip)]
    Channel(Box<(ChannelName, Position)>),
}

/// How the handling of a message has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Well.
    Done,
    /// The handler failed: the connection is closed with 1011 and the message comes again, for a while.
    Failed,
    /// The application refused it; unless `permanent` it comes again.
    Rejected { code: i32, reason: String, permanent: bool },
}

/// See [`Event::Authenticate`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Credentials {
    pub conn: ConnId,
    pub request: Arc<RequestHead>,
    pub token: Option<Secret>,
    /// The session that the client asks for or has, if it is still there.
    pub session: Option<Arc<str>>,
}

/// The application's decision on credentials.
#[derive(Debug, Serialize, Deserialize)]
pub enum Authentication {
    /// `user` is the session's owner; only the same user can resume it.
    Accepted { user: Option<Arc<str>>, claims: Bytes },
    /// Closed with `code`; none: 4003 for a client that had been let in before, else 4500.
    Refused { code: Option<u16>, reason: String },
}

/// What a message counts against `limits.inbound` and `limits.memory` beside its payload, in bytes.
pub const MESSAGE_COST: usize = 64;

/// Why something failed, in the words of the layer that knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// What kind it is: selects the exception class in PHP.
    pub kind: FailureKind,
    /// For people. Names what and where.
    pub message: String,
    /// HTTP status of a refused handshake, WebSocket close code, or 0.
    pub code: u16,
}

/// See [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// Connecting failed: name, address, TLS, proxy or handshake.
    Connect,
    /// The peer broke RFC 6455.
    Protocol,
    /// A limit of ours was hit.
    Limit,
    /// The link died: no answer to heartbeats, reset, end of stream without a close frame.
    Link,
    /// Something took longer than allowed.
    Timeout,
    /// The application gave an answer that cannot be carried out.
    Application,
    /// The disk, or what is on it. Names the file, and the offset of damage.
    Storage,
}

/// A client's change of state.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    pub from: lifeline_proto::client::State,
    pub to: lifeline_proto::client::State,
    /// Close code or HTTP status that caused it, else 0.
    pub code: u16,
    /// For people; empty when there is nothing to say.
    pub reason: String,
    /// Attempts since the last stable connection.
    pub attempt: u32,
    /// Time until the next attempt, when one is planned.
    pub delay: Option<Duration>,
}

/// Why a message of a client's outbox was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverflowReason {
    /// Pushed out by `dropOldest`, or refused by `dropNewest`.
    Limit,
    /// Its time to live ended.
    Expired,
    /// `close()` with the message unsent.
    Closed,
}

/// One record for the application's logger (PSR-3 levels). It may hold what peers have sent:
/// [`crate::printable::printable`] before it is written anywhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogRecord {
    pub level: LogLevel,
    pub message: String,
    pub context: Vec<(Cow<'static, str>, String)>,
}

/// PSR-3's levels, least severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LogLevel {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

/// What the application asks of the engine. Each is answered at once by a [`Reply`]; none blocks.
#[derive(Debug, Serialize, Deserialize)]
pub enum Command {
    /// No new connections; close codes spread over `drain`; then abort; then `Event::Stopped`.
    StopServer { server: EndpointId, drain: Duration },
    /// The bound addresses as URLs, in the order of `listen`: `Reply::Names`.
    Addresses { server: EndpointId },
    /// Decides a handshake: `Reply::Done`, also when the peer has gone meanwhile.
    AnswerHandshake { ticket: Ticket, answer: HandshakeAnswer },

    /// Queues a message: `Reply::Sent`.
    Send { conn: ConnId, data: Bytes, binary: bool },
    /// Queues a ping (payload at most 125 bytes): `Reply::Done`.
    Ping { conn: ConnId, payload: Bytes },
    /// Sends what is queued, then a close frame: `Reply::Done`.
    Close { conn: ConnId, code: u16, reason: String },
    /// Drops the socket now; `Event::Close` follows with 1006: `Reply::Done`.
    Abort { conn: ConnId },
    /// The application is through with `messages` messages of together `bytes` bytes: `Reply::Done`.
    /// Due for each `Event::Message`, also when it was thrown away or the connection has closed.
    Consumed { conn: ConnId, messages: usize, bytes: usize },
    /// The application is about to handle a delivered message: `Reply::Flag`; false: throw it away, it was
    /// settled or will come again. Due before the handler is called.
    Begin { endpoint: EndpointId, delivery: Delivery },
    /// The handling that was begun has ended: `Reply::Done`, also when the connection or the endpoint
    /// has ended meanwhile.
    Settle { endpoint: EndpointId, delivery: Delivery, verdict: Verdict },
    /// Turns protocol tracing to the log on or off: `Reply::Done`.
    Trace { conn: ConnId, on: bool },
    /// Bytes queued and not yet given to the kernel: `Reply::Count`.
    BufferedBytes { conn: ConnId },
    /// Smoothed round-trip time: `Reply::Time`.
    RoundTrip { conn: ConnId },
    /// Open and not closing: `Reply::Flag`.
    IsOpen { conn: ConnId },
    /// Counters of one connection: `Reply::Stats`.
    ConnStats { conn: ConnId },

    /// To each open connection but `except`: `Reply::Count` of receivers.
    Broadcast { server: EndpointId, data: Bytes, binary: bool, except: Vec<ConnId> },
    /// To each member of the channel but `except`: `Reply::Count` of receivers.
    Publish { server: EndpointId, channel: Box<str>, data: Bytes, binary: bool, except: Vec<ConnId> },
    /// To each connection of the user: `Reply::Count`.
    SendToUser { server: EndpointId, user: Box<str>, data: Bytes, binary: bool },
    /// Closes each connection of the user: `Reply::Count`.
    DisconnectUser { server: EndpointId, user: Box<str>, code: u16, reason: String },
    /// Gives the connection a user (replacing an earlier one): `Reply::Done`.
    Bind { conn: ConnId, user: Box<str> },
    /// `Reply::Flag`: true when it was not a member before. Errors: invalid name, limits.
    Subscribe { conn: ConnId, channel: Box<str> },
    /// `Reply::Flag`: true when it was a member.
    Unsubscribe { conn: ConnId, channel: Box<str> },
    /// Channels of one connection: `Reply::Names`.
    ChannelsOf { conn: ConnId },
    /// Channels with at least one member: `Reply::Names`.
    Channels { server: EndpointId },
    /// `Reply::Conns`.
    Members { server: EndpointId, channel: Box<str> },
    /// `Reply::Conns`.
    ConnectionsOf { server: EndpointId, user: Box<str> },
    /// All open connections: `Reply::Conns`.
    Connections { server: EndpointId },
    /// Number of open connections: `Reply::Count`.
    CountConnections { server: EndpointId },
    /// Counters of a server or client, and of the process: `Reply::Stats`.
    EndpointStats { endpoint: EndpointId },

    /// Decides on credentials: `Reply::Done`, also when the client has gone meanwhile.
    AnswerAuthentication { ticket: Ticket, answer: Authentication },
    /// Whether the client may subscribe: `Reply::Done`.
    AnswerAuthorisation { conn: ConnId, channel: Arc<str>, allowed: bool },
    /// The channel's state and whether it is binary; none: there is none to give. `Reply::Done`.
    AnswerSnapshot { ticket: Ticket, state: Option<(Bytes, bool)> },
    /// A session that lives: `Reply::Session`.
    Session { server: EndpointId, session: Arc<str> },
    /// To a session, connected or not: `Reply::Sequence`, 0 when it has ended.
    SessionSend { server: EndpointId, session: Arc<str>, data: Bytes, binary: bool },
    /// Changes a session's values: `Reply::Version`; none: it has ended, or `if_version` is not its version.
    SessionChange { server: EndpointId, session: Arc<str>, change: Change, if_version: Option<u64> },
    /// Whether a connection has the session: `Reply::Flag`.
    SessionOnline { server: EndpointId, session: Arc<str> },

    /// Opens a channel's document, or sets the rules of the one that there is: `Reply::Done`. `watch`:
    /// [`Event::DocumentChanged`] is wanted. Errors: no name of a channel, limits.
    OpenDocument { server: EndpointId, channel: Box<str>, bounds: Bounds, write: Write, watch: bool },
    /// One entry of a document or all: `Reply::Document`.
    Document { server: EndpointId, channel: Box<str>, key: Option<Box<str>> },
    /// Sets a key of a document to a JSON value, or removes it (none): `Reply::Version`; none: `if_version` (0: it must
    /// not exist) is not its version. Errors: not JSON, no key, no room.
    ChangeDocument {
        server: EndpointId,
        channel: Box<str>,
        key: Box<str>,
        value: Option<Bytes>,
        if_version: Option<u64>,
    },
    /// Whether the edit may be made: `Reply::Done`.
    AnswerEdit { server: EndpointId, delivery: Delivery, data: Bytes, allowed: bool },
    /// What clients have changed: `Reply::Changes`.
    TakeChanges { server: EndpointId, channel: Box<str> },

    /// A worker has dealt with `Event::Open`: `Reply::Done`. Nothing where there are no workers, as the next two.
    Opened { conn: ConnId },
    /// A worker has dealt with `Event::Close`: `Reply::Done`.
    Ended { conn: ConnId },
    /// The answer to `Event::Release`: `Reply::Done`.
    Released { conn: ConnId },
    /// What a worker has to know of open connections that other workers serve; those that have ended are left out:
    /// `Reply::Described`.
    Describe { conns: Vec<ConnId> },
    /// Starts new workers, which take over from those that there are: `Reply::Done`. Errors: a server without workers.
    Reload { server: EndpointId },
    /// The application has seen `Event::Stopped`; until then its sessions can be read: `Reply::Done`.
    Forget { endpoint: EndpointId },
    /// Drops all of an endpoint now, without a word on the wire: `Reply::Done`.
    Discard { endpoint: EndpointId },

    // What stays within a process comes last: serde counts only the others.
    /// Binds and starts a server: `Reply::Endpoint`, or an error that names the address.
    #[serde(skip)]
    StartServer(Box<ServerConfig>),
    /// Starts [`crate::config::ServerConfig::workers`] of a server, which has just been started: `Reply::Done`. From now on
    /// they get its events.
    #[serde(skip)]
    StartWorkers { server: EndpointId, spawn: Box<Spawn> },
    /// Creates a client in state `Disconnected` (its outbox takes messages at once): `Reply::Endpoint`.
    #[serde(skip)]
    CreateClient(Box<ClientConfig>),
    /// Begins to connect; a second call does nothing: `Reply::Done`.
    #[serde(skip)]
    Connect { client: EndpointId },
    /// Reconnects now if waiting (lazy mode, backoff), probes if connected: `Reply::Done`.
    #[serde(skip)]
    Wake { client: EndpointId },
    /// Into the outbox: `Reply::Sequence`; `Reply::WouldBlock` for policy `block`; error for `error`;
    /// `Reply::DispatchFirst` to who sends and never takes events.
    #[serde(skip)]
    ClientSend { client: EndpointId, data: Bytes, binary: bool, ttl: Option<Duration> },
    /// As `ClientSend`, all with one commit to the disk: `Reply::Taken` (fewer than all only where the policy
    /// is to wait for room), `Reply::WouldBlock` or `Reply::DispatchFirst`: none was taken.
    #[serde(skip)]
    ClientSendMany { client: EndpointId, messages: Vec<Bytes>, binary: bool },
    /// Messages not yet acknowledged (plain peer: not yet written to the socket): `Reply::Count`.
    #[serde(skip)]
    Unacknowledged { client: EndpointId },
    /// `Reply::State`.
    #[serde(skip)]
    ClientState { client: EndpointId },
    /// Subscribes to a channel, or ends that: `Reply::Done`, the answer comes from the server. Errors: no
    /// name of a channel, a server that does not speak `lifeline.v1`.
    #[serde(skip)]
    ClientSubscribe { client: EndpointId, channel: Box<str>, on: bool },
    /// Follows a channel's document; `asks`: the application decides on conflicts: `Reply::Done`. Errors: as
    /// `ClientSubscribe`.
    #[serde(skip)]
    FollowDocument { client: EndpointId, channel: Box<str>, asks: bool },
    /// One entry as the client sees it, with the confirmed version, or all: `Reply::Document`.
    #[serde(skip)]
    Replica { client: EndpointId, channel: Box<str>, key: Option<Box<str>> },
    /// As `ClientSend`, of an edit: sets a key to a JSON value, or removes it. `on`: only if this is the key's confirmed
    /// version and nothing was edited on top of it, else `Reply::Flag`, false.
    #[serde(skip)]
    EditReplica { client: EndpointId, channel: Box<str>, key: Box<str>, value: Option<Bytes>, on: Option<u64> },
    /// `Reply::Conflicts`.
    #[serde(skip)]
    TakeConflicts { client: EndpointId, channel: Box<str> },
    /// What has changed, but for what the application did itself: `Reply::Changes`, by key.
    #[serde(skip)]
    TakeReplicaChanges { client: EndpointId, channel: Box<str> },
    /// The token for the question that asked: `Reply::Done`.
    #[serde(skip)]
    AnswerToken { ticket: Ticket, token: Secret },
    /// The application's token is another now: it will be asked, and the server told: `Reply::Done`.
    #[serde(skip)]
    RefreshToken { client: EndpointId },
    /// Headers for the attempt that asked: `Reply::Done`.
    #[serde(skip)]
    AnswerHeaders { ticket: Ticket, headers: Vec<(String, String)> },
    /// The application cannot supply headers or a token: the attempt that asked fails with this reason: `Reply::Done`.
    #[serde(skip)]
    FailAttempt { ticket: Ticket, reason: String },
    /// Closes for good: `Event::Overflow` for each unsent, `Event::Stopped` at last: `Reply::Done`.
    #[serde(skip)]
    CloseClient { client: EndpointId, code: u16, reason: String },
}

/// The application's decision on a handshake.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct HandshakeAnswer {
    /// 101 to accept, else the HTTP status to refuse with.
    pub status: u16,
    /// Extra response headers; names and values already checked for CR, LF and NUL.
    pub headers: Vec<(String, String)>,
    /// Body of a refusal.
    pub body: Bytes,
    /// Subprotocol chosen by the application, in place of the engine's own choice.
    pub protocol: Option<String>,
    /// permessage-deflate is declined for this connection.
    pub uncompressed: bool,
}

/// The engine's answer to a [`Command`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Endpoint(EndpointId),
    Flag(bool),
    Count(usize),
    Sequence(u64),
    /// So many of the messages were taken; the last one's number.
    Taken {
        count: usize,
        sequence: u64,
    },
    /// The outbox is full and its policy is to wait for room; [`Event::Room`] tells when to try again.
    WouldBlock,
    /// Many messages were given up and wait to be reported ([`Event::Overflow`]): nothing was taken.
    /// Take events, then try again.
    DispatchFirst,
    Sent(Sent),
    Time(Option<Duration>),
    Names(Vec<Arc<str>>),
    Conns(Vec<ConnId>),
    Stats(Stats),
    Described(Vec<(ConnId, Box<OpenInfo>)>),
    /// None: it has ended.
    Session(Option<Box<SessionInfo>>),
    /// The version that a change has made.
    Version(Option<u64>),
    /// None: there is none.
    Document(Option<Box<DocumentInfo>>),
    Changes(Vec<DocumentChange>),

    // What stays within a process comes last: serde counts only the others.
    #[serde(skip)]
    State(lifeline_proto::client::State),
    /// In their order.
    #[serde(skip)]
    Conflicts(Vec<DocumentConflict>),
}

/// What became of a message given to [`Command::Send`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sent {
    /// In the connection's queue.
    Queued,
    /// Dropped by the slow-consumer policy.
    Dropped,
    /// The connection is closing or gone.
    Closed,
}

/// A tree of counters, in the order in which it is to be shown.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Stats(pub Vec<(Cow<'static, str>, Stat)>);

/// One node of [`Stats`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Stat {
    Int(i64),
    Float(f64),
    Flag(bool),
    Text(String),
    Tree(Stats),
    List(Vec<Self>),
    None,
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum CommandError {
    /// The value is not allowed; the text names it and what is.
    #[error("{0}")]
    Invalid(String),
    /// Starting failed; the text names the address or file.
    #[error("{0}")]
    Start(String),
    /// No such endpoint: it has ended.
    #[error("{0} has ended")]
    Gone(Cow<'static, str>),
    /// The outbox is full; policy `error`.
    #[error("{0}")]
    Overflow(String),
    /// A limit was hit; the text names the option.
    #[error("{0}")]
    Limit(String),
    /// The disk did not take what was to be stored; the text names the file.
    #[error("{0}")]
    Storage(String),
}

/// How the application reaches the engine. One thread (the PHP thread) calls it; none of its methods
/// but [`Bridge::drive`] blocks, and none may be called after a fork in the child.
pub trait Bridge: fmt::Debug + Send + Sync {
    /// Carries out `command`. Messages queued by it leave at the next [`Bridge::flush`].
    ///
    /// # Errors
    /// [`CommandError`] when the command cannot be carried out; nothing has changed then. Asking an
    /// endpoint that has ended is no error, but for those that start or send: it has nothing.
    fn submit(&self, command: Command) -> Result<Reply, CommandError>;

    /// As [`Bridge::submit`], for a caller who does not look at the reply: where the sockets are in another process, it is
    /// not waited for, and what is wrong with the command is not told.
    ///
    /// # Errors
    /// See [`Bridge::submit`].
    fn order(&self, command: Command) -> Result<(), CommandError> {
        self.submit(command).map(drop)
    }

    /// Sends a message without a copy of it where nothing waits before it: for long ones. False: it was
    /// not sent, submit it as a [`Command::Send`].
    fn send_now(&self, conn: ConnId, data: &[u8], binary: bool) -> bool;

    /// For items of clients' outboxes: `done`, which was begun, is settled with [`Verdict::Done`], then `begin` is begun,
    /// each where it is one. As [`Command::Settle`] and [`Command::Begin`], but cheaper. False: `begin` is to be thrown
    /// away.
    fn step(&self, endpoint: EndpointId, done: Option<DeliveryId>, begin: Option<DeliveryId>) -> bool;

    /// Has what was queued since the last call written: by the calling thread where that is cheap, else
    /// each connection that got something to do is woken, once.
    fn flush(&self);

    /// The application begins callbacks that no event has brought (timers): for the watchdog.
    fn begin_work(&self);

    /// Moves up to `limit` waiting events to the end of `into`; returns how many. The call tells the
    /// watchdog that the application is alive.
    fn receive(&self, into: &mut Vec<Event>, limit: usize) -> usize;

    /// Call before sleeping on [`Bridge::descriptor`]: clears an earlier wake and returns true when
    /// no event waits; false: do not sleep, `receive` has something.
    fn prepare_sleep(&self) -> bool;

    /// Waits for an event, at most for `limit` (none: for ever), by doing a part of the I/O threads'
    /// work. May return early. False, at once: they do all of it for now; sleep on
    /// [`Bridge::descriptor`], which becomes readable also when this is worth another try.
    fn drive(&self, limit: Option<Duration>) -> bool;

    /// The application will not call [`Bridge::drive`] for a while.
    fn rest(&self);

    /// The application is a worker: its servers' sockets are in another process.
    fn is_worker(&self) -> bool {
        false
    }

    /// Becomes readable (level-triggered) when an event arrives after `prepare_sleep` returned true,
    /// or when `prepare_sleep` returned false.
    fn descriptor(&self) -> BorrowedFd<'_>;
}
