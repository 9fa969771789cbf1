//! Frames of `lifeline.v1`: WebSocket messages to values and back.
//!
//! A message is `header LF payload`, or a type and JSON. Strict: single spaces, decimal integers without
//! leading zeros, known JSON keys once and of the right type. What a later version may add is ignored:
//! unknown types, unknown `key=value` fields, unknown JSON keys. Decoding keeps slices of the message and
//! copies names and JSON values only, so it holds less than a few times the control frame's size.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use bytes::{Buf, Bytes};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::document::Place;
use super::value::{ChannelName, Key, MAX_INTEGER, Position, Secret, ShortId, Token};
use super::value::{integer, integer_or_zero, optional_integer, seconds};
use crate::close;

/// The name of the subprotocol in `Sec-WebSocket-Protocol`.
pub const PROTOCOL: &str = "lifeline.v1";
/// `v` in HELLO.
pub const VERSION: u64 = 1;
/// Bytes of a header without its line feed.
pub const MAX_HEADER: usize = 1024;
/// Bytes of a control frame's JSON.
pub const MAX_CONTROL: usize = 128 * 1024;
/// Characters of a type.
const MAX_TYPE: usize = 16;

/// How long a WebSocket message may be where payloads are bounded by `max_message`: the bound for the
/// layer below, in bytes.
#[must_use]
pub const fn longest_message(max_message: usize) -> usize {
    let data = max_message.saturating_add(MAX_HEADER + 1);
    let control = MAX_CONTROL + 2;
    if data > control { data } else { control }
}

/// The peer broke the protocol, or a limit. Close with `code`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Violation {
    /// 4501 bad protocol, 4504 too big, 4505 version, 4004 state invalid.
    pub code: u16,
    /// What, where and what is allowed.
    pub reason: String,
}

impl Violation {
    pub(super) fn new(code: u16, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    pub(super) fn bad(reason: impl Into<String>) -> Self {
        Self::new(close::BAD_PROTOCOL, reason)
    }
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientFrame {
    /// `A s`: everything of the session's stream up to `s` was delivered.
    Acknowledge {
        sequence: u64,
    },
    /// `O n`: the answer to the server's beat.
    Answer(u64),
    /// `I n`: a beat; the server answers.
    Beat(u64),
    /// `D q`: an item that edits a document.
    Edit {
        sequence: u64,
        /// Piggybacked `A s`.
        acknowledged: Option<u64>,
        /// JSON, see [`super::document::Edit`].
        data: Bytes,
    },
    /// `E q`: items up to `q` will not come.
    GiveUp {
        /// The first of them.
        from: Option<u64>,
        sequence: u64,
    },
    Hello(Box<Hello>),
    /// `P q`: an item of the outbox.
    Item {
        sequence: u64,
        /// Piggybacked `A s`.
        acknowledged: Option<u64>,
        data: Bytes,
        binary: bool,
    },
    /// `S name`
    Subscribe(ChannelName),
    /// `T`: a fresh token of the application's, in band.
    Token(Credentials),
    /// `U name`
    Unsubscribe(ChannelName),
    /// `V name e n h`: the state that the client has of a document; the server answers.
    Verify {
        channel: ChannelName,
        place: Place,
    },
}

/// What a server sends.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerFrame {
    /// `A q`: everything of the outbox up to `q` was handled.
    Acknowledge {
        sequence: u64,
    },
    /// `O n`: the answer to the client's beat.
    Answer(u64),
    /// `I n`: a beat; the client answers.
    Beat(u64),
    /// `C name e o mid`
    Channel {
        channel: ChannelName,
        position: Position,
        data: Bytes,
        binary: bool,
        /// `d=1`: a change of a document, see [`super::document::Delta`].
        document: bool,
    },
    Gap(Gap),
    GoAway(GoAway),
    /// `M s`: a message of the session's stream.
    Message {
        sequence: u64,
        /// Piggybacked `A q`.
        acknowledged: Option<u64>,
        data: Bytes,
        binary: bool,
    },
    Reject(Reject),
    /// `R s`: the replay is done; what comes from here on is live. `sequence` is the last of the stream
    /// that was sent or acknowledged, 0: none.
    ReplayDone {
        sequence: u64,
    },
    /// `B name e o mid`: the state at a position.
    Snapshot {
        channel: ChannelName,
        position: Position,
        data: Bytes,
        binary: bool,
    },
    /// `V name e n h`: the state of a document, and a snapshot where it is not the client's.
    State {
        channel: ChannelName,
        place: Place,
        /// Empty: the client has this state, or there is no document.
        data: Bytes,
    },
    Subscription(Subscription),
    Welcome(Box<Welcome>),
}

/// `H`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    #[serde(rename = "v", deserialize_with = "integer")]
    pub version: u64,
    /// The application's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Secret>,
    /// The session to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
    /// Without it the client sends no items on this connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbox: Option<OutboxRange>,
}

/// `H.resume`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    #[serde(rename = "sid")]
    pub session: Key,
    #[serde(rename = "tok")]
    pub token: Token,
    /// The last message of the stream that was delivered, 0: none.
    #[serde(rename = "s", deserialize_with = "integer_or_zero")]
    pub sequence: u64,
    /// The last one that was received, where that is a later one.
    #[serde(rename = "r", default, deserialize_with = "optional_integer", skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// Where the client is in each channel.
    #[serde(rename = "ch", default)]
    pub channels: BTreeMap<ChannelName, Position>,
}

/// `H.outbox`: which items the client has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRange {
    pub id: Key,
    /// Grows each time a process opens the outbox; fences a forgotten one.
    #[serde(rename = "gen", deserialize_with = "integer")]
    pub generation: u64,
    /// The oldest item that is not acknowledged; `next` when there is none.
    #[serde(deserialize_with = "integer")]
    pub first: u64,
    /// The number of the item after the newest.
    #[serde(deserialize_with = "integer")]
    pub next: u64,
}

/// `W`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    #[serde(rename = "sid")]
    pub session: Key,
    /// For the next HELLO.
    #[serde(rename = "tok")]
    pub token: Token,
    /// The session's stream goes on without a hole.
    pub resumed: bool,
    /// Why not, where a session was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
    /// The first message of the stream that this connection may bring.
    #[serde(rename = "s0", deserialize_with = "integer")]
    pub first: u64,
    /// Everything of the outbox up to this was handled, 0: nothing.
    #[serde(rename = "q", default, deserialize_with = "integer_or_zero")]
    pub handled: u64,
    /// Items that were refused for good; the N may have been lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Reject>,
    /// `None`: the server does not beat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Heartbeat>,
    /// The window for coming back after a loss.
    #[serde(default, with = "seconds")]
    pub spread: Duration,
    pub limits: Limits,
}

/// `W.heartbeat`: the link is dead after `interval + timeout` of silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    #[serde(with = "seconds")]
    pub interval: Duration,
    #[serde(with = "seconds")]
    pub timeout: Duration,
}

/// `W.limits`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Of one payload.
    #[serde(rename = "maxMessage", deserialize_with = "integer")]
    pub max_message: u64,
    /// Of items sent and not acknowledged; each counts its payload and [`ITEM_COST`].
    #[serde(deserialize_with = "integer")]
    pub window: u64,
}

/// What an item counts against the window beside its payload, in bytes, so that empty ones count, too.
pub const ITEM_COST: usize = 64;

/// `N`: an item was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    #[serde(rename = "q", deserialize_with = "integer")]
    pub sequence: u64,
    /// The application's.
    #[serde(default)]
    pub code: i32,
    #[serde(default)]
    pub reason: String,
    /// False: send it and all after it again, after a delay.
    pub permanent: bool,
}

/// `K`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    #[serde(rename = "ch")]
    pub channel: ChannelName,
    #[serde(rename = "st")]
    pub status: Status,
    /// The channel goes on behind this; with `ok`, `gap` and `snapshot`.
    #[serde(flatten, default, deserialize_with = "optional_position")]
    pub position: Option<Position>,
}

/// `K.st`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Denied,
    /// Messages are missing: G follows, and makes the position valid.
    Gap,
    Left,
    /// Nothing is missing behind the position that the client named, or behind the one told here.
    Ok,
    /// As `gap`; then B follows.
    Snapshot,
}

/// `G`: a hole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// `None`: the session's stream.
    pub channel: Option<ChannelName>,
    #[serde(deserialize_with = "integer")]
    pub from: u64,
    /// `None`: nobody knows, what it would count is gone.
    #[serde(default, deserialize_with = "optional_integer", skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    pub why: Why,
}

/// `X`: the server asks the client to leave, at a moment of its choice in `after..after + window`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoAway {
    #[serde(with = "seconds")]
    pub after: Duration,
    #[serde(default, with = "seconds")]
    pub window: Duration,
    /// Where to go instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// `T`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    pub auth: Secret,
}

/// Why a session or a channel does not go on without a hole. Later versions may have more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The log disagrees about what the client has seen: it was rolled back.
    Diverged,
    /// The log's offsets started anew.
    Epoch,
    /// The session's time without a connection was over.
    Expired,
    /// The log kept less than was missed.
    History,
    Other(Box<str>),
    /// The session's ring kept less than was missed.
    Overflow,
    /// The server that had the session is gone, and its memory with it.
    Restart,
    /// The client read too slowly.
    Slow,
    /// The token was replaced by a later one.
    Superseded,
    /// There is no such session.
    Unknown,
}

impl Why {
    const KNOWN: [(Self, &'static str); 9] = [
        (Self::Diverged, "diverged"),
        (Self::Epoch, "epoch"),
        (Self::Expired, "expired"),
        (Self::History, "history"),
        (Self::Overflow, "overflow"),
        (Self::Restart, "restart"),
        (Self::Slow, "slow"),
        (Self::Superseded, "superseded"),
        (Self::Unknown, "unknown"),
    ];

    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(text) => text,
            known => Self::KNOWN.iter().find(|(why, _)| why == known).map_or("", |(_, text)| text),
        }
    }
}

impl From<&str> for Why {
    fn from(text: &str) -> Self {
        Self::KNOWN
            .into_iter()
            .find(|(_, known)| *known == text)
            .map_or_else(|| Self::Other(text.into()), |(why, _)| why)
    }
}

impl Serialize for Why {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Why {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Ok(Self::from(&*String::deserialize(input)?))
    }
}

/// A frame as a WebSocket message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub data: Bytes,
    pub binary: bool,
}

impl ClientFrame {
    /// Reads a message that a client sent; `None`: a type that is unknown and to be ignored.
    ///
    /// # Errors
    /// [`Violation`]
    pub fn decode(data: &Bytes, binary: bool, max_message: usize) -> Result<Option<Self>, Violation> {
        Self::take(data.clone(), binary, max_message)
    }

    /// As [`ClientFrame::decode`], of a message that nobody else holds: a payload is what is left of it, and needs
    /// no count of its holders.
    ///
    /// # Errors
    /// [`Violation`]
    pub fn take(mut data: Bytes, binary: bool, max_message: usize) -> Result<Option<Self>, Violation> {
        if let Some((sequence, acknowledged)) = take_item(&mut data, max_message) {
            return Ok(Some(Self::Item { sequence, acknowledged, data, binary }));
        }
        let message = Message::split(&data)?;
        Ok(Some(match message.kind {
            "A" => Self::Acknowledge { sequence: message.control(binary)?.integer("s")? },
            "D" => {
                message.check_text(binary)?;
                let (mut fields, header) = message.header(data.len(), max_message)?;
                let sequence = fields.next_integer("q", 1)?;
                let acknowledged = fields.options("s")?;
                data.advance(header);
                Self::Edit { sequence, acknowledged, data }
            }
            "E" => {
                let mut fields = message.control(binary)?;
                let sequence = fields.next_integer("q", 1)?;
                let from = fields.options("from")?;
                if from.is_some_and(|from| from > sequence) {
                    return Err(message.error("from is greater than q"));
                }
                Self::GiveUp { from, sequence }
            }
            "H" => Self::Hello(Box::new(decode_hello(&message, binary)?)),
            "I" => Self::Beat(message.control(binary)?.integer("n")?),
            "O" => Self::Answer(message.control(binary)?.integer("n")?),
            "P" => {
                let (mut fields, header) = message.header(data.len(), max_message)?;
                let sequence = fields.next_integer("q", 1)?;
                let acknowledged = fields.options("s")?;
                data.advance(header);
                Self::Item { sequence, acknowledged, data, binary }
            }
            "S" => Self::Subscribe(message.control(binary)?.channel()?),
            "T" => Self::Token(message.json(binary)?),
            "U" => Self::Unsubscribe(message.control(binary)?.channel()?),
            "V" => {
                let (channel, place) = message.control(binary)?.state()?;
                Self::Verify { channel, place }
            }
            _ => return Ok(None),
        }))
    }

    /// The message to send.
    #[must_use]
    pub fn encode(&self) -> Encoded {
        match self {
            Self::Acknowledge { sequence } => control(&format!("A {sequence}")),
            Self::Answer(n) => control(&format!("O {n}")),
            Self::Beat(n) => control(&format!("I {n}")),
            Self::Edit { sequence, acknowledged, data } => {
                Encoded { data: item_frame('D', *sequence, 's', *acknowledged, data).into(), binary: false }
            }
            Self::GiveUp { from: None, sequence } => control(&format!("E {sequence}")),
            Self::GiveUp { from: Some(from), sequence } => control(&format!("E {sequence} from={from}")),
            Self::Hello(hello) => json("H", hello),
            Self::Item { sequence, acknowledged, data, binary } => {
                Encoded { data: item_frame('P', *sequence, 's', *acknowledged, data).into(), binary: *binary }
            }
            Self::Subscribe(channel) => control(&format!("S {}", Escaped(channel))),
            Self::Token(credentials) => json("T", credentials),
            Self::Unsubscribe(channel) => control(&format!("U {}", Escaped(channel))),
            Self::Verify { channel, place } => control(&state_header(channel, place)),
        }
    }
}

impl ServerFrame {
    /// Reads a message that a server sent; `None`: a type that is unknown and to be ignored.
    ///
    /// # Errors
    /// [`Violation`]
    pub fn decode(data: &Bytes, binary: bool, max_message: usize) -> Result<Option<Self>, Violation> {
        if let Some((sequence, acknowledged, header)) = plain_header(data, b"M ", b" q=")
            && data.len() - header <= max_message
        {
            return Ok(Some(Self::Message { sequence, acknowledged, data: data.slice(header..), binary }));
        }
        let message = Message::split(data)?;
        Ok(Some(match message.kind {
            "A" => Self::Acknowledge { sequence: message.control(binary)?.integer("q")? },
            "B" => {
                let (channel, position, data, _) = message.channel_message(data, max_message)?;
                Self::Snapshot { channel, position, data, binary }
            }
            "C" => {
                let (channel, position, data, document) = message.channel_message(data, max_message)?;
                if position.offset == 0 {
                    return Err(message.error("o is 0, allowed are integers from 1"));
                }
                Self::Channel { channel, position, data, binary, document }
            }
            "G" => {
                let gap: Gap = message.json(binary)?;
                if gap.to.is_some_and(|to| to < gap.from) {
                    return Err(message.error("to is less than from"));
                }
                Self::Gap(gap)
            }
            "I" => Self::Beat(message.control(binary)?.integer("n")?),
            "K" => {
                let subscription: Subscription = message.json(binary)?;
                let placed = !matches!(subscription.status, Status::Denied | Status::Left);
                if placed != subscription.position.is_some() {
                    return Err(message.error("e, o and mid come with st ok, gap and snapshot, and only with them"));
                }
                Self::Subscription(subscription)
            }
            "M" => {
                let (mut fields, data) = message.payload(data, max_message)?;
                let sequence = fields.next_integer("s", 1)?;
                let acknowledged = fields.options("q")?;
                Self::Message { sequence, acknowledged, data, binary }
            }
            "N" => Self::Reject(message.json(binary)?),
            "O" => Self::Answer(message.control(binary)?.integer("n")?),
            "R" => Self::ReplayDone { sequence: message.control(binary)?.integer_or_zero("s")? },
            "V" => {
                message.check_text(binary)?;
                let (fields, data) = message.payload(data, max_message)?;
                let (channel, place) = fields.state()?;
                Self::State { channel, place, data }
            }
            "W" => Self::Welcome(Box::new(message.json(binary)?)),
            "X" => Self::GoAway(message.json(binary)?),
            _ => return Ok(None),
        }))
    }

    /// The message to send.
    #[must_use]
    pub fn encode(&self) -> Encoded {
        match self {
            Self::Acknowledge { sequence } => control(&format!("A {sequence}")),
            Self::Answer(n) => control(&format!("O {n}")),
            Self::Beat(n) => control(&format!("I {n}")),
            Self::Channel { channel, position, data, binary, document: false } => {
                with_payload(channel_header('C', channel, position), data, *binary)
            }
            Self::Channel { channel, position, data, binary, document: true } => {
                with_payload(delta_header(channel, position), data, *binary)
            }
            Self::Gap(gap) => json("G", gap),
            Self::GoAway(go_away) => json("X", go_away),
            Self::Message { sequence, acknowledged, data, binary } => {
                Encoded { data: item_frame('M', *sequence, 'q', *acknowledged, data).into(), binary: *binary }
            }
            Self::Reject(reject) => json("N", reject),
            Self::ReplayDone { sequence } => control(&format!("R {sequence}")),
            Self::Snapshot { channel, position, data, binary } => {
                with_payload(channel_header('B', channel, position), data, *binary)
            }
            Self::State { channel, place, data } => {
                with_payload(format!("{}\n", state_header(channel, place)), data, false)
            }
            Self::Subscription(subscription) => json("K", subscription),
            Self::Welcome(welcome) => json("W", welcome),
        }
    }
}

/// The header of an `M` or `P` with its line feed: for a writer that sends header and payload from
/// where they are.
#[must_use]
pub fn item_header(kind: char, sequence: u64, key: char, acknowledged: Option<u64>) -> String {
    String::from_utf8(item_frame(kind, sequence, key, acknowledged, &[])).unwrap_or_default()
}

/// The header of an `M` with its line feed, without an allocation.
#[derive(Clone, Copy, Debug)]
pub struct MessageHeader {
    bytes: [u8; Self::LONGEST],
    /// Where it begins; it ends with them.
    start: usize,
}

impl MessageHeader {
    /// Two numbers of 20 digits with what is around them.
    const LONGEST: usize = 46;

    #[must_use]
    pub fn new(sequence: u64, acknowledged: Option<u64>) -> Self {
        let mut header = Self { bytes: [b'\n'; Self::LONGEST], start: Self::LONGEST - 1 };
        if let Some(acknowledged) = acknowledged {
            header.put_integer(acknowledged);
            header.put(*b" q=");
        }
        header.put_integer(sequence);
        header.put(*b"M ");
        header
    }

    fn put<const N: usize>(&mut self, part: [u8; N]) {
        self.start -= N;
        self.bytes[self.start..self.start + N].copy_from_slice(&part);
    }

    fn put_integer(&mut self, mut number: u64) {
        loop {
            self.start -= 1;
            self.bytes[self.start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return;
            }
        }
    }
}

impl std::ops::Deref for MessageHeader {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// An `M` or `P`, in one allocation.
fn item_frame(kind: char, sequence: u64, key: char, acknowledged: Option<u64>, payload: &[u8]) -> Vec<u8> {
    let digits = |number: u64| number.checked_ilog10().unwrap_or(0) as usize + 1;
    let header = 3 + digits(sequence) + acknowledged.map_or(0, |number| 3 + digits(number));
    let mut frame = Vec::with_capacity(header + payload.len());
    frame.extend_from_slice(&[kind as u8, b' ']);
    put_integer(&mut frame, sequence);
    if let Some(acknowledged) = acknowledged {
        frame.extend_from_slice(&[b' ', key as u8, b'=']);
        put_integer(&mut frame, acknowledged);
    }
    frame.push(b'\n');
    frame.extend_from_slice(payload);
    frame
}

/// Decimal; the formatter of the standard library takes several times as long.
fn put_integer(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The header of a `C` or `B` with its line feed.
#[must_use]
pub fn channel_header(kind: char, channel: &ChannelName, position: &Position) -> String {
    let Position { epoch, offset, message_id } = position;
    format!("{kind} {} {epoch} {offset} {message_id}\n", Escaped(channel))
}

/// As [`channel_header`], of a `C` that changes a document.
#[must_use]
pub fn delta_header(channel: &ChannelName, position: &Position) -> String {
    let Position { epoch, offset, message_id } = position;
    format!("C {} {epoch} {offset} {message_id} d=1\n", Escaped(channel))
}

/// The header of a `V` without a line feed.
fn state_header(channel: &ChannelName, place: &Place) -> String {
    let Place { epoch, version, digest } = place;
    format!("V {} {epoch} {version} {digest}", Escaped(channel))
}

/// A channel's name in a header.
struct Escaped<'a>(&'a ChannelName);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.as_str().bytes() {
            if matches!(byte, 0x21..=0x7E) && byte != b'%' {
                f.write_char(char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

fn control(text: &str) -> Encoded {
    Encoded { data: Bytes::copy_from_slice(text.as_bytes()), binary: false }
}

fn json(kind: &str, body: &impl Serialize) -> Encoded {
    let mut data = format!("{kind} ").into_bytes();
    // These types have string keys and no reader that fails, so there is always a body.
    if serde_json::to_writer(&mut data, body).is_err() {
        data.truncate(kind.len());
    }
    Encoded { data: data.into(), binary: false }
}

fn with_payload(header: String, payload: &[u8], binary: bool) -> Encoded {
    let mut data = header.into_bytes();
    data.reserve_exact(payload.len());
    data.extend_from_slice(payload);
    Encoded { data: data.into(), binary }
}

fn decode_hello(message: &Message, binary: bool) -> Result<Hello, Violation> {
    #[derive(Deserialize)]
    struct Version {
        #[serde(deserialize_with = "integer")]
        v: u64,
    }
    let Version { v } = message.json(binary)?;
    if v != VERSION {
        return Err(Violation::new(
            close::UNSUPPORTED_VERSION,
            format!("HELLO: v is {v}, this server speaks {VERSION}"),
        ));
    }
    let hello: Hello = message.json(binary)?;
    match &hello.outbox {
        Some(outbox) if outbox.next < outbox.first => Err(message.error("outbox.next is less than outbox.first")),
        _ => Ok(hello),
    }
}

/// `e`, `o` and `mid` beside other keys: all of them or none.
fn optional_position<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Position>, D::Error> {
    #[derive(Deserialize)]
    struct Fields {
        e: Option<ShortId>,
        #[serde(default, deserialize_with = "optional_offset")]
        o: Option<u64>,
        mid: Option<ShortId>,
    }
    fn optional_offset<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
        integer_or_zero(input).map(Some)
    }
    match Fields::deserialize(input)? {
        Fields { e: Some(epoch), o: Some(offset), mid } => {
            Ok(Some(Position { epoch, offset, message_id: mid.unwrap_or_else(ShortId::none) }))
        }
        Fields { e: None, o: None, mid: None } => Ok(None),
        _ => Err(serde::de::Error::custom("e and o come together")),
    }
}

/// A message whose type is known, its rest unread.
struct Message<'a> {
    kind: &'a str,
    /// Behind the type: the rest of the header, or JSON.
    rest: &'a [u8],
}

impl<'a> Message<'a> {
    fn split(data: &'a [u8]) -> Result<Self, Violation> {
        let end = data.iter().take(MAX_TYPE + 1).position(|byte| matches!(byte, b' ' | b'\n')).unwrap_or(data.len());
        let kind = &data[..end];
        if end == 0 || end > MAX_TYPE || !kind.iter().all(u8::is_ascii_alphanumeric) {
            return Err(Violation::bad(format!("a frame begins with a type of 1 to {MAX_TYPE} letters and digits")));
        }
        // Checked to be ASCII.
        let kind = std::str::from_utf8(kind).unwrap_or_default();
        Ok(Self { kind, rest: &data[end..] })
    }

    fn error(&self, problem: impl fmt::Display) -> Violation {
        Violation::bad(format!("{}: {problem}", self.kind))
    }

    /// The fields of a frame without a payload.
    fn control(&self, binary: bool) -> Result<Fields<'a>, Violation> {
        self.check_text(binary)?;
        if self.rest.contains(&b'\n') {
            return Err(self.error("a line feed, but this type has no payload"));
        }
        self.fields(self.rest)
    }

    /// The fields and payload of a frame that has one.
    fn payload(&self, data: &Bytes, max_message: usize) -> Result<(Fields<'a>, Bytes), Violation> {
        let (fields, header) = self.header(data.len(), max_message)?;
        Ok((fields, data.slice(header..)))
    }

    /// The fields of a frame that has a payload, and where in its `len` bytes that begins.
    fn header(&self, len: usize, max_message: usize) -> Result<(Fields<'a>, usize), Violation> {
        let Some(end) = self.rest.iter().take(MAX_HEADER + 1).position(|byte| *byte == b'\n') else {
            return Err(self.error(format!("no line feed within the {MAX_HEADER} bytes of a header")));
        };
        let fields = self.fields(&self.rest[..end])?;
        let header = self.kind.len() + end + 1;
        if len - header > max_message {
            let len = len - header;
            return Err(Violation::new(
                close::TOO_BIG,
                format!("{}: a payload of {len} bytes, maxMessage is {max_message}", self.kind),
            ));
        }
        Ok((fields, header))
    }

    /// With whether `d` is there.
    fn channel_message(
        &self,
        data: &Bytes,
        max_message: usize,
    ) -> Result<(ChannelName, Position, Bytes, bool), Violation> {
        let (mut fields, payload) = self.payload(data, max_message)?;
        let channel = fields.next_channel()?;
        let epoch = fields.short_id("e")?;
        let offset = fields.next_integer("o", 0)?;
        let message_id = fields.short_id("mid")?;
        let document = fields.options("d")?.is_some();
        Ok((channel, Position { epoch, offset, message_id }, payload, document))
    }

    /// The body of a frame whose rest is JSON.
    fn json<T: Deserialize<'a>>(&self, binary: bool) -> Result<T, Violation> {
        self.check_text(binary)?;
        let Some(body) = self.rest.strip_prefix(b" ") else {
            return Err(self.error("no space and JSON behind the type"));
        };
        if body.len() > MAX_CONTROL {
            return Err(Violation::new(
                close::TOO_BIG,
                format!("{}: {} bytes of JSON, allowed are {MAX_CONTROL}", self.kind, body.len()),
            ));
        }
        serde_json::from_slice(body).map_err(|error| self.error(error))
    }

    fn check_text(&self, binary: bool) -> Result<(), Violation> {
        if binary { Err(self.error("a binary message, control frames are text")) } else { Ok(()) }
    }

    fn fields(&self, rest: &'a [u8]) -> Result<Fields<'a>, Violation> {
        if self.kind.len() + rest.len() > MAX_HEADER {
            return Err(self.error(format!("a header of more than {MAX_HEADER} bytes")));
        }
        if let Some(byte) = rest.iter().find(|byte| !matches!(byte, 0x20..=0x7E)) {
            return Err(self.error(format!("byte 0x{byte:02X} in the header, allowed are 0x20 to 0x7E")));
        }
        // Checked to be ASCII.
        let rest = std::str::from_utf8(rest).unwrap_or_default();
        Ok(Fields { kind: self.kind, rest })
    }
}

/// What is left of a header.
struct Fields<'a> {
    kind: &'a str,
    /// Empty, or begins with a space.
    rest: &'a str,
}

impl<'a> Fields<'a> {
    fn error(&self, problem: impl fmt::Display) -> Violation {
        Violation::bad(format!("{}: {problem}", self.kind))
    }

    fn next(&mut self, name: &str) -> Result<&'a str, Violation> {
        let Some(rest) = self.rest.strip_prefix(' ') else {
            return Err(self.error(format!("{name} is missing")));
        };
        let end = rest.find(' ').unwrap_or(rest.len());
        let (field, rest) = rest.split_at(end);
        self.rest = rest;
        if field.is_empty() {
            Err(self.error("two spaces, or one at the end, fields are separated by one"))
        } else {
            Ok(field)
        }
    }

    fn next_integer(&mut self, name: &str, least: u64) -> Result<u64, Violation> {
        let field = self.next(name)?;
        parse_integer(field, least).ok_or_else(|| {
            self.error(format!("{name} is {field:.40}, allowed are decimal integers from {least} to {MAX_INTEGER}"))
        })
    }

    fn next_channel(&mut self) -> Result<ChannelName, Violation> {
        let field = self.next("the channel's name")?;
        let name = unescape(field)
            .ok_or_else(|| self.error("the channel's name is not percent-encoded UTF-8 (%20 is a space, %25 a %)"))?;
        ChannelName::new(name).map_err(|error| self.error(error))
    }

    fn short_id(&mut self, name: &str) -> Result<ShortId, Violation> {
        let field = self.next(name)?;
        ShortId::new(field).map_err(|error| self.error(format!("{name}: {error}")))
    }

    /// One integer and nothing that is known behind it.
    fn integer(&mut self, name: &str) -> Result<u64, Violation> {
        let n = self.next_integer(name, 1)?;
        self.end()?;
        Ok(n)
    }

    fn integer_or_zero(&mut self, name: &str) -> Result<u64, Violation> {
        let n = self.next_integer(name, 0)?;
        self.end()?;
        Ok(n)
    }

    fn channel(&mut self) -> Result<ChannelName, Violation> {
        let channel = self.next_channel()?;
        self.end()?;
        Ok(channel)
    }

    /// What `V` says.
    fn state(mut self) -> Result<(ChannelName, Place), Violation> {
        let channel = self.next_channel()?;
        let epoch = self.short_id("e")?;
        let version = self.next_integer("n", 0)?;
        let digest = self.next("h")?.parse().map_err(|error| self.error(error))?;
        self.end()?;
        Ok((channel, Place { epoch, version, digest }))
    }

    /// `key=value` fields of which none is known.
    fn end(&mut self) -> Result<(), Violation> {
        self.options("").map(|_| ())
    }

    /// `key=value` fields; the value of the one that is known, an integer.
    fn options(&mut self, known: &str) -> Result<Option<u64>, Violation> {
        let mut value = None;
        while !self.rest.is_empty() {
            let field = self.next("a field")?;
            let Some((key, text)) = field.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                return Err(self.error(format!("{field:.40} is one field too many, or not key=value")));
            };
            if key == known {
                let number = parse_integer(text, 1).ok_or_else(|| {
                    self.error(format!("{key} is {text:.40}, allowed are decimal integers from 1 to {MAX_INTEGER}"))
                })?;
                if value.replace(number).is_some() {
                    return Err(self.error(format!("{key} stands there twice")));
                }
            }
        }
        Ok(value)
    }
}

/// Of the usual form of `P`, the number and what it acknowledges; `data` is its payload then. `None`: it is something
/// else, or to be read with more care, and `data` is as it was.
#[inline]
pub(super) fn take_item(data: &mut Bytes, max_message: usize) -> Option<(u64, Option<u64>)> {
    let (sequence, acknowledged, header) = plain_header(data, b"P ", b" s=")?;
    (data.len() - header <= max_message).then(|| {
        data.advance(header);
        (sequence, acknowledged)
    })
}

/// The header of an `M` or `P` that looks as most do, and its length: quicker than to take it apart. None: it does
/// not, and may still be a good one.
fn plain_header(data: &[u8], kind: &[u8], key: &[u8]) -> Option<(u64, Option<u64>, usize)> {
    fn integer(data: &[u8], at: &mut usize) -> Option<u64> {
        let start = *at;
        let mut number = 0;
        while let Some(digit) = data.get(*at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
            // Of 16 digits at most.
            if *at - start == 16 || (number == 0 && *at > start) {
                return None;
            }
            number = number * 10 + u64::from(digit);
            *at += 1;
        }
        (1..=MAX_INTEGER).contains(&number).then_some(number)
    }
    if !data.starts_with(kind) {
        return None;
    }
    let mut at = kind.len();
    let sequence = integer(data, &mut at)?;
    let mut acknowledged = None;
    if data[at..].starts_with(key) {
        at += key.len();
        acknowledged = Some(integer(data, &mut at)?);
    }
    (data.get(at) == Some(&b'\n')).then_some((sequence, acknowledged, at + 1))
}

fn parse_integer(text: &str, least: u64) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    text.parse().ok().filter(|number| (least..=MAX_INTEGER).contains(number))
}

fn unescape(field: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
