//! The values that frames are made of.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::RngCore;
use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The biggest integer on the wire: 2^53−1, the last one that every JSON reader has exactly.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;
/// Bytes of a channel's name, before percent-encoding.
pub const MAX_CHANNEL_NAME: usize = 255;
/// Characters of an epoch or message id: 128 bits in base64url.
pub const MAX_SHORT_ID: usize = 22;
/// Characters of a session's, outbox's or token's text.
pub const MAX_KEY: usize = 64;

/// A value that the protocol does not allow. Names what was found and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// A control character in a channel's name.
    #[error("a channel's name must not contain control characters, found U+{:04X}", u32::from(*.0))]
    ChannelControl(char),
    #[error("a channel's name has 1 to {MAX_CHANNEL_NAME} bytes, this one has {0}")]
    ChannelLength(usize),
    #[error("{what} has 1 to {limit} of the characters A-Z a-z 0-9 _ -, found {found}")]
    Identifier { what: &'static str, limit: usize, found: String },
}

/// A channel's name: 1 to 255 bytes of UTF-8 without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self, InvalidValue> {
        let name = name.into();
        if name.is_empty() || name.len() > MAX_CHANNEL_NAME {
            return Err(InvalidValue::ChannelLength(name.len()));
        }
        match name.chars().find(|character| character.is_control()) {
            Some(character) => Err(InvalidValue::ChannelControl(character)),
            None => Ok(Self(name)),
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<ChannelName> for Arc<str> {
    fn from(name: ChannelName) -> Self {
        name.0
    }
}

impl From<Key> for Arc<str> {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An epoch or a message id: 1 to 22 of `[A-Za-z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortId(Arc<str>);

impl ShortId {
    pub fn new(id: impl Into<Arc<str>>) -> Result<Self, InvalidValue> {
        check_identifier("an epoch or message id", MAX_SHORT_ID, id.into()).map(Self)
    }

    /// The message id at offset 0, where there is no message: `-`.
    #[must_use]
    pub fn none() -> Self {
        Self(Arc::from("-"))
    }

    /// `len` characters of 6 random bits each, 1 to 22.
    #[must_use]
    pub fn random(random: &mut impl RngCore, len: usize) -> Self {
        // A first character other than `-`, which alone would mean no message.
        Self(random_text(random, len.clamp(1, MAX_SHORT_ID)))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a session or an outbox: 1 to 64 of `[A-Za-z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    pub fn new(key: impl Into<Arc<str>>) -> Result<Self, InvalidValue> {
        check_identifier("a session's or outbox's id", MAX_KEY, key.into()).map(Self)
    }

    /// 22 characters, of which the first has 5 and each other 6 random bits.
    #[must_use]
    pub fn random(random: &mut impl RngCore) -> Self {
        Self(random_text(random, 22))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As `==`, quicker where both are clones of one.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self == other
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The secret that lets its holder resume a session: 1 to 64 of `[A-Za-z0-9_-]`. Never shown by `Debug`,
/// compared in constant time.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    pub fn new(token: impl Into<Arc<str>>) -> Result<Self, InvalidValue> {
        let token = token.into();
        check_identifier("a session's token", MAX_KEY, token)
            .map(Self)
            // Not even a broken secret belongs into a log.
            .map_err(|_| InvalidValue::Identifier {
                what: "a session's token",
                limit: MAX_KEY,
                found: "something else (not shown)".into(),
            })
    }

    /// 23 characters with 137 random bits.
    #[must_use]
    pub fn random(random: &mut impl RngCore) -> Self {
        Self(random_text(random, 23))
    }

    /// What goes over the wire, and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.bytes().zip(other.0.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The application's token, e.g. a JWT. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A place in a channel's log: behind message `offset`, whose id is `message_id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Changes when offsets start anew.
    #[serde(rename = "e")]
    pub epoch: ShortId,
    /// 0: before the first message.
    #[serde(rename = "o", deserialize_with = "integer_or_zero")]
    pub offset: u64,
    /// [`ShortId::none`] at offset 0.
    #[serde(rename = "mid", default = "ShortId::none")]
    pub message_id: ShortId,
}

/// An integer from 1 to 2^53−1 in JSON.
pub(super) fn integer<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    bounded(input, 1, &"an integer from 1 to 9007199254740991")
}

/// An integer from 0 to 2^53−1 in JSON, where 0 means that there is none yet.
pub(super) fn integer_or_zero<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    bounded(input, 0, &"an integer from 0 to 9007199254740991")
}

/// As [`integer`], or null or nothing.
pub(super) fn optional_integer<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    struct Wrapped(#[serde(deserialize_with = "integer")] u64);
    Ok(Option::<Wrapped>::deserialize(input)?.map(|wrapped| wrapped.0))
}

/// Seconds in JSON, fractions allowed.
pub(super) mod seconds {
    use super::{Deserialize, Deserializer, Duration, Error, Serializer, Unexpected};

    pub(in crate::v1) fn serialize<S: Serializer>(duration: &Duration, out: S) -> Result<S::Ok, S::Error> {
        if duration.subsec_nanos() == 0 {
            out.serialize_u64(duration.as_secs())
        } else {
            out.serialize_f64(duration.as_secs_f64())
        }
    }

    pub(in crate::v1) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(input)?;
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|duration| *duration <= super::LONGEST)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Float(seconds), &"seconds from 0 to 31536000"))
    }
}

/// A year; more is a mistake.
const LONGEST: Duration = Duration::from_secs(31_536_000);

fn bounded<'de, D: Deserializer<'de>>(input: D, least: u64, allowed: &'static &'static str) -> Result<u64, D::Error> {
    let number = u64::deserialize(input)?;
    if (least..=MAX_INTEGER).contains(&number) {
        Ok(number)
    } else {
        Err(D::Error::invalid_value(Unexpected::Unsigned(number), allowed))
    }
}

fn check_identifier(what: &'static str, limit: usize, text: Arc<str>) -> Result<Arc<str>, InvalidValue> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if text.len() > limit || text.is_empty() {
        Err(InvalidValue::Identifier { what, limit, found: format!("{} bytes", text.len()) })
    } else if let Some(byte) = text.bytes().find(|byte| !allowed(*byte)) {
        Err(InvalidValue::Identifier { what, limit, found: format!("byte 0x{byte:02X}") })
    } else {
        Ok(text)
    }
}

fn random_text(random: &mut impl RngCore, len: usize) -> Arc<str> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    let mut text = String::with_capacity(len);
    for index in 0..len {
        let bits = random.next_u32() as usize % if index == 0 { 32 } else { 64 };
        text.push(char::from(ALPHABET[bits]));
    }
    text.into()
}

macro_rules! text_in_json {
    ($($type:ident)*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(input)?).map_err(D::Error::custom)
            }
        }
    )*};
}

text_in_json!(ChannelName Key ShortId Token);
