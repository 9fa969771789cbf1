//! State documents: a map of JSON values on a channel, kept by the server and followed by its clients.
//!
//! `docs/protocol.md`, "Documents", is the specification. A [`Document`] is the server's; a
//! [`replica::Replica`] is what a client has of it, with its own edits on top. A key's version is the
//! document's when the key was last changed, so that none comes twice within an epoch.

pub mod replica;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::value::integer;
use super::{ChannelName, ShortId};

/// Bytes of a key.
pub const MAX_KEY_BYTES: usize = 255;
/// How deep arrays and objects of a value may be nested.
pub const MAX_DEPTH: usize = 64;
/// What an entry counts beside its key and its value, in bytes.
pub const ENTRY_COST: usize = 64;
/// Deletions whose operation is remembered, for the edits that follow them.
const MAX_GONE: usize = 256;

/// `N.code` of an edit that is no edit.
pub const MALFORMED: i32 = 400;
/// `N.code` of an edit that the application does not allow.
pub const FORBIDDEN: i32 = 403;
/// `N.code` of an edit of a document that there is not.
pub const NO_DOCUMENT: i32 = 404;
/// `N.code` of an edit whose condition does not hold.
pub const CONFLICT: i32 = 409;
/// `N.code` of an edit for which the document has no room.
pub const TOO_BIG: i32 = 413;

/// The text of one JSON value, as it was written.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Box<str>);

impl Json {
    /// Checks that `text` is one JSON value, nested at most [`MAX_DEPTH`] deep.
    ///
    /// # Errors
    /// What it is instead, and what is allowed.
    pub fn new(text: &str) -> Result<Self, String> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| format!("no JSON value: {error}"))?;
        Self::from_raw(raw)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn from_raw(raw: &RawValue) -> Result<Self, String> {
        let depth = depth(raw.get());
        if depth > MAX_DEPTH {
            return Err(format!("a value nested {depth} deep, {MAX_DEPTH} are allowed"));
        }
        Ok(Self(raw.get().into()))
    }

    fn raw(&self) -> Option<&RawValue> {
        serde_json::from_str(&self.0).ok()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        // It was checked, so it is always there.
        self.raw().serialize(out)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(input)?;
        Self::from_raw(&raw).map_err(serde::de::Error::custom)
    }
}

/// How deep the arrays and objects of a JSON text are nested.
fn depth(text: &str) -> usize {
    let (mut deepest, mut depth, mut quoted, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Which state somebody has: the frame `V`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `-`: no state, there is no document.
    pub epoch: ShortId,
    /// 0: nothing was ever changed.
    pub version: u64,
    pub digest: Digest,
}

impl Place {
    /// No state.
    #[must_use]
    pub fn none() -> Self {
        Self { epoch: ShortId::none(), version: 0, digest: Digest::default() }
    }
}

/// The sum of what [`Digest::of`] says of each key, modulo 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(pub u32);

impl Digest {
    /// FNV-1a of the key's UTF-8, a zero byte and the decimal version.
    #[must_use]
    pub fn of(key: &str, version: u64) -> Self {
        let version = version.to_string();
        let bytes = key.bytes().chain([0]).chain(version.bytes());
        Self(bytes.fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)))
    }

    /// Of a whole state.
    #[must_use]
    pub fn sum<'a>(versions: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        versions.into_iter().fold(Self::default(), |sum, (key, version)| sum.plus(Self::of(key, version)))
    }

    fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u32::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl std::str::FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| format!("a digest has 8 of the characters 0-9 a-f, found {text:.40}"))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?.parse().map_err(serde::de::Error::custom)
    }
}

/// When an edit may be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    Always,
    /// The key does not exist.
    Absent,
    /// The operation with this id was the key's last change.
    After(ShortId),
    /// The key has this version of this epoch.
    Version(ShortId, u64),
}

/// An edit of one key, the payload of `D`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    pub channel: ChannelName,
    pub key: Box<str>,
    /// `None`: the key goes.
    pub value: Option<Json>,
    /// Names the operation; unique, chosen by who makes it.
    pub id: ShortId,
    pub condition: Condition,
}

#[derive(Serialize, Deserialize)]
struct EditFields {
    ch: ChannelName,
    k: Box<str>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    v: Option<Json>,
    id: ShortId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<ShortId>,
    #[serde(rename = "if", default, deserialize_with = "optional_version", skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<ShortId>,
}

/// A value that is there, `null` included.
fn present<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(input).map(Some)
}

fn optional_version<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    super::value::integer_or_zero(input).map(Some)
}

impl Edit {
    /// Reads the payload of `D`.
    ///
    /// # Errors
    /// What is wrong with it, for an N with [`MALFORMED`].
    pub fn decode(payload: &[u8]) -> Result<Self, String> {
        let fields: EditFields = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        check_key(&fields.k)?;
        let condition = match (fields.version, fields.e, fields.after) {
            (None, _, None) => Condition::Always,
            (Some(0), _, None) => Condition::Absent,
            (Some(version), Some(epoch), None) => Condition::Version(epoch, version),
            (Some(_), None, None) => return Err("if is not 0, and e is missing".into()),
            (None, _, Some(id)) => Condition::After(id),
            (Some(_), _, Some(_)) => return Err("if and after, one is allowed".into()),
        };
        Ok(Self { channel: fields.ch, key: fields.k, value: fields.v, id: fields.id, condition })
    }

    /// The payload of `D`.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (mut e, mut version, mut after) = (None, None, None);
        match self.condition.clone() {
            Condition::Always => {}
            Condition::Absent => version = Some(0),
            Condition::After(id) => after = Some(id),
            Condition::Version(epoch, number) => (e, version) = (Some(epoch), Some(number)),
        }
        let Self { channel, key, value, id, .. } = self.clone();
        let fields = EditFields { ch: channel, k: key, v: value, id, e, version, after };
        // Its keys are strings, so there is always a text.
        serde_json::to_vec(&fields).unwrap_or_default().into()
    }
}

/// Whether the key is one.
///
/// # Errors
/// What is wrong with it.
pub fn check_key(key: &str) -> Result<(), String> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(format!("a key has 1 to {MAX_KEY_BYTES} bytes, this one has {}", key.len()));
    }
    Ok(())
}

/// A change that was made: the payload of a `C` with `d=1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    #[serde(rename = "e")]
    pub epoch: ShortId,
    /// The document's version behind it, and the key's.
    #[serde(rename = "n", deserialize_with = "integer")]
    pub version: u64,
    #[serde(rename = "k")]
    pub key: Box<str>,
    /// `None`: the key has gone.
    #[serde(rename = "v", default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub value: Option<Json>,
    /// The operation; absent where the server made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ShortId>,
    /// Of the state behind it.
    #[serde(rename = "h")]
    pub digest: Digest,
}

impl Delta {
    /// # Errors
    /// What is wrong with it.
    pub fn decode(payload: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(payload).map_err(|error| error.to_string())
    }

    #[must_use]
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

/// Reads a snapshot, the payload of `V`: versions and values by key.
///
/// # Errors
/// What is wrong with it.
pub fn decode_snapshot(payload: &[u8]) -> Result<BTreeMap<Box<str>, (u64, Json)>, String> {
    #[derive(Deserialize)]
    struct Entry(#[serde(deserialize_with = "integer")] u64, Json);
    let entries: BTreeMap<Box<str>, Entry> = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    Ok(entries.into_iter().map(|(key, Entry(version, value))| (key, (version, value))).collect())
}

/// Why an edit was not applied: the body of an N.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The condition does not hold in this version of this epoch.
    Conflict(ShortId, u64),
    TooBig(String),
    Malformed(String),
}

impl Refusal {
    /// `N.code`
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::Conflict(..) => CONFLICT,
            Self::TooBig(_) => TOO_BIG,
            Self::Malformed(_) => MALFORMED,
        }
    }

    /// `N.reason`: of a conflict, epoch and version with a space between them.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Conflict(epoch, version) => format!("{epoch} {version}"),
            Self::TooBig(reason) | Self::Malformed(reason) => reason.clone(),
        }
    }
}

/// What a document may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    pub keys: usize,
    /// Of keys and values as JSON, and [`ENTRY_COST`] for each; a snapshot is not longer.
    pub bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { keys: 1000, bytes: 256 * 1024 }
    }
}

/// One document, at the server.
#[derive(Clone, Debug)]
pub struct Document {
    epoch: ShortId,
    version: u64,
    digest: Digest,
    entries: BTreeMap<Box<str>, Entry>,
    /// Keys that have gone, and by which operation; the oldest first.
    gone: VecDeque<(Box<str>, ShortId)>,
    bytes: usize,
    bounds: Bounds,
}

/// A key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub version: u64,
    pub value: Json,
    /// The operation that set it; `None`: the server did.
    pub id: Option<ShortId>,
}

impl Document {
    /// An empty one. An epoch must never be used again.
    #[must_use]
    pub fn new(epoch: ShortId, bounds: Bounds) -> Self {
        Self {
            epoch,
            version: 0,
            digest: Digest::default(),
            entries: BTreeMap::new(),
            gone: VecDeque::new(),
            bytes: 0,
            bounds,
        }
    }

    /// Other bounds; what it has beyond them stays.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Which state it has.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { epoch: self.epoch.clone(), version: self.version, digest: self.digest }
    }

    /// Counts changes.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    #[must_use]
    pub fn epoch(&self) -> &ShortId {
        &self.epoch
    }

    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All of it, by key.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<Box<str>, Entry> {
        &self.entries
    }

    /// As the bound counts them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Applies a client's edit; `None`: it was the key's last change already.
    ///
    /// # Errors
    /// [`Refusal`]: nothing has changed.
    pub fn apply(&mut self, edit: &Edit) -> Result<Option<Delta>, Refusal> {
        let present = self.entries.get(&edit.key);
        let last = match present {
            Some(entry) => entry.id.as_ref(),
            None => self.gone.iter().find(|(key, _)| *key == edit.key).map(|(_, id)| id),
        };
        if last == Some(&edit.id) {
            return Ok(None);
        }
        let holds = match &edit.condition {
            Condition::Always => true,
            Condition::Absent => present.is_none(),
            Condition::After(id) => last == Some(id),
            Condition::Version(epoch, version) => {
                *epoch == self.epoch && present.is_some_and(|entry| entry.version == *version)
            }
        };
        if !holds {
            return Err(Refusal::Conflict(self.epoch.clone(), self.version));
        }
        self.change(&edit.key, edit.value.clone(), Some(edit.id.clone())).map(Some)
    }

    /// The server's own change: where `if_version` is given, the key must have this version, or not exist
    /// where it is 0.
    ///
    /// # Errors
    /// [`Refusal`]: nothing has changed.
    pub fn set(&mut self, key: &str, value: Option<Json>, if_version: Option<u64>) -> Result<Delta, Refusal> {
        let version = self.entries.get(key).map_or(0, |entry| entry.version);
        if if_version.is_some_and(|wanted| wanted != version) {
            return Err(Refusal::Conflict(self.epoch.clone(), self.version));
        }
        self.change(key, value, None)
    }

    /// The answer to a `V`: this state, and a snapshot where the client has another.
    #[must_use]
    pub fn answer(&self, claim: &Place) -> (Place, Bytes) {
        let place = self.place();
        let snapshot = if place == *claim { Bytes::new() } else { self.snapshot() };
        (place, snapshot)
    }

    /// All versions and values as JSON.
    #[must_use]
    pub fn snapshot(&self) -> Bytes {
        #[derive(Serialize)]
        struct Pair<'a>(u64, &'a Json);
        let entries: BTreeMap<_, _> =
            self.entries.iter().map(|(key, entry)| (key, Pair(entry.version, &entry.value))).collect();
        serde_json::to_vec(&entries).unwrap_or_default().into()
    }

    fn change(&mut self, key: &str, value: Option<Json>, id: Option<ShortId>) -> Result<Delta, Refusal> {
        check_key(key).map_err(Refusal::Malformed)?;
        let before = self.entries.get(key).map_or(0, |entry| cost(key, &entry.value));
        if let Some(value) = &value {
            let Bounds { keys, bytes } = self.bounds;
            if before == 0 && self.entries.len() >= keys {
                return Err(Refusal::TooBig(format!("the document has {keys} keys, no more are allowed")));
            }
            let after = self.bytes - before + cost(key, value);
            if after > bytes && cost(key, value) > before {
                return Err(Refusal::TooBig(format!("the document would have {after} bytes, allowed are {bytes}")));
            }
        }
        self.version += 1;
        self.gone.retain(|(gone, _)| **gone != *key);
        if let Some(old) = self.entries.remove(key) {
            self.digest = self.digest.minus(Digest::of(key, old.version));
            self.bytes -= before;
        }
        match &value {
            Some(value) => {
                self.bytes += cost(key, value);
                self.digest = self.digest.plus(Digest::of(key, self.version));
                let entry = Entry { version: self.version, value: value.clone(), id: id.clone() };
                self.entries.insert(key.into(), entry);
            }
            None => {
                if let Some(id) = &id {
                    self.gone.push_back((key.into(), id.clone()));
                    if self.gone.len() > MAX_GONE {
                        self.gone.pop_front();
                    }
                }
            }
        }
        Ok(Delta { epoch: self.epoch.clone(), version: self.version, key: key.into(), value, id, digest: self.digest })
    }
}

/// What an entry counts; never 0.
fn cost(key: &str, value: &Json) -> usize {
    let key = serde_json::to_string(key).map_or(key.len(), |text| text.len());
    key + value.as_str().len() + ENTRY_COST
}

#[cfg(test)]
mod tests;
