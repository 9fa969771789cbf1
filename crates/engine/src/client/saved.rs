//! What a client with an outbox on disk keeps of its session there, so that its next process goes on with it.
//!
//! What the application has handled, not what has come. A message of the stream is acknowledged, and a new token
//! used, once that is written: else the server would have forgotten what the next process asks for.

use std::collections::BTreeMap;

use lifeline_proto::v1::client::{Client as Rules, Delivered, Saved};
use lifeline_proto::v1::{ChannelName, Key, Position, ShortId, Token};

const VERSION: u8 = 1;

/// See the module.
#[derive(Debug, Default)]
pub struct Keeping {
    /// The last message of the stream that the application has handled and the disk does not know of.
    pub handled: Option<Delivered>,
    /// Up to where the application has handled each channel.
    channels: BTreeMap<ChannelName, Position>,
    /// Something is not written.
    dirty: bool,
    /// To be written at once.
    urgent: bool,
    /// Nothing is said to the server until its token is written.
    pub muted: bool,
}

impl Keeping {
    /// Goes on with what an earlier process has left.
    pub fn restored(saved: &Saved) -> Self {
        Self { channels: saved.channels.clone(), ..Self::default() }
    }

    /// The server has given a token.
    pub fn handle_welcome(&mut self) {
        self.muted = true;
        self.note_urgent();
    }

    /// A message of the stream was handled.
    pub fn handle_delivered(&mut self, delivered: Delivered) {
        self.handled = Some(delivered);
        self.note_urgent();
    }

    /// A channel was handled up to here. If the process dies within the next tick, its messages come again.
    pub fn handle_channel(&mut self, channel: ChannelName, position: Position) {
        self.channels.insert(channel, position);
        self.dirty = true;
    }

    /// A channel begins here, or goes on at a place that may be behind what waits for the application.
    pub fn handle_subscribed(&mut self, channel: &ChannelName, position: Option<Position>) {
        let Some(position) = position else { return };
        let known = self.channels.get(channel);
        if known.is_none_or(|known| known.epoch != position.epoch || known.offset > position.offset) {
            self.handle_channel(channel.clone(), position);
        }
    }

    /// It could not be written, and is tried again.
    pub fn handle_failed(&mut self) {
        self.dirty = true;
    }

    pub fn needs_writing(&self, tick: bool) -> bool {
        self.urgent || (tick && self.dirty)
    }

    /// What to write, in [`decode`]'s form, and the message that may be acknowledged then.
    pub fn take(&mut self, rules: &Rules) -> Option<(Vec<u8>, Option<Delivered>)> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        self.urgent = false;
        let Some(mut saved) = rules.saved_with(self.handled) else { return Some((Vec::new(), self.handled.take())) };
        self.channels.retain(|channel, _| saved.channels.contains_key(channel));
        saved.channels.clone_from(&self.channels);
        Some((encode(&saved), self.handled.take()))
    }

    fn note_urgent(&mut self) {
        self.dirty = true;
        self.urgent = true;
    }
}

fn encode(saved: &Saved) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    let text = |bytes: &mut Vec<u8>, text: &str| {
        // Each is at most some hundred bytes long.
        bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    text(&mut bytes, saved.session.as_str());
    text(&mut bytes, saved.token.expose());
    bytes.extend_from_slice(&saved.sequence.to_le_bytes());
    for (channel, Position { epoch, offset, message_id }) in &saved.channels {
        text(&mut bytes, channel.as_str());
        text(&mut bytes, epoch.as_str());
        bytes.extend_from_slice(&offset.to_le_bytes());
        text(&mut bytes, message_id.as_str());
    }
    bytes
}

/// `None`: it is empty, or of another version.
pub fn decode(bytes: &[u8]) -> Option<Saved> {
    let mut rest = bytes.strip_prefix(&[VERSION])?;
    let session = Key::new(read_text(&mut rest)?).ok()?;
    let token = Token::new(read_text(&mut rest)?).ok()?;
    let sequence = read_number(&mut rest)?;
    let mut channels = BTreeMap::new();
    while !rest.is_empty() {
        let channel = ChannelName::new(read_text(&mut rest)?).ok()?;
        let epoch = ShortId::new(read_text(&mut rest)?).ok()?;
        let offset = read_number(&mut rest)?;
        let id = read_text(&mut rest)?;
        let message_id = if id == ShortId::none().as_str() { ShortId::none() } else { ShortId::new(id).ok()? };
        channels.insert(channel, Position { epoch, offset, message_id });
    }
    Some(Saved { session, token, sequence, channels })
}

fn read_text(rest: &mut &[u8]) -> Option<String> {
    let (len, others) = rest.split_first_chunk::<2>()?;
    let (text, others) = others.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    *rest = others;
    Some(std::str::from_utf8(text).ok()?.to_owned())
}

fn read_number(rest: &mut &[u8]) -> Option<u64> {
    let (number, others) = rest.split_first_chunk::<8>()?;
    *rest = others;
    Some(u64::from_le_bytes(*number))
}
