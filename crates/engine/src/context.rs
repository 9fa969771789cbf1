//! What all connections of one server or client have in common.

use std::sync::Arc;

use bytes::Bytes;
use lifeline_proto::Time;
use lifeline_proto::heartbeat::HeartbeatConfig;

use crate::bridge::{EndpointId, Event, LogLevel, LogRecord};
use crate::config::{Beats, DeflateConfig, Limits, SendConfig, ServerLimits};
use crate::events::EventQueue;
use crate::memory::Memory;
use crate::outlet::Outlet;
use crate::sessions::Sessions;

/// How a connection ended, for its owner.
#[derive(Debug, Clone)]
pub struct End {
    pub code: u16,
    pub reason: String,
    pub clean: bool,
}

/// What a message of the subprotocol means for the connection that brought it.
#[derive(Debug)]
pub enum Upshot {
    Nothing,
    /// It answers the connection's beat of that number.
    Answered(u64),
    /// From now on these rules say when to beat and when the peer is dead.
    Beats(Arc<HeartbeatConfig>),
}

/// The server or client that a connection belongs to.
pub trait Owner: std::fmt::Debug + Send + Sync {
    /// Messages up to outbox number `sequence` have been given to the kernel.
    fn handle_written(&self, sequence: u64);

    /// A message on a connection that speaks `lifeline.v1` ([`Outlet::is_lifeline`]); such messages come
    /// here alone. Called by the connection's task: what is queued now leaves at the end of its turn.
    fn handle_message(&self, _outlet: &Arc<Outlet>, _now: Time, _data: Bytes, _binary: bool) -> Upshot {
        Upshot::Nothing
    }

    /// As [`Owner::handle_message`], all that one read of a server's connection brought; takes them. At least one.
    fn handle_messages(&self, outlet: &Arc<Outlet>, now: Time, messages: &mut Vec<(Bytes, bool)>) -> Upshot {
        let mut upshot = Upshot::Nothing;
        for (data, binary) in messages.drain(..) {
            upshot = self.handle_message(outlet, now, data, binary);
        }
        upshot
    }

    /// Something that was sent on a `lifeline.v1` connection is not confirmed by the peer.
    fn awaits_confirmation(&self) -> bool {
        false
    }

    /// The connection is about to report its end: the place for events that come before `Close`, and
    /// for counts that the application may ask for when it sees it.
    fn handle_leaving(&self, _outlet: &Arc<Outlet>, _end: &End) {}

    /// The connection has ended and its `Event::Close` was sent, if it was announced. No further call follows.
    fn handle_closed(&self, outlet: &Arc<Outlet>, end: &End);
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Context {
    pub endpoint: EndpointId,
    pub role: lifeline_proto::frame::Role,
    pub beats: Beats,
    /// `beats.rules`, as each connection shares it.
    pub rules: Arc<HeartbeatConfig>,
    pub limits: Limits,
    /// None on a client.
    pub server_limits: Option<ServerLimits>,
    pub idle_timeout: Option<std::time::Duration>,
    pub send: SendConfig,
    /// How messages are compressed on connections that have agreed on it.
    pub compression: Option<DeflateConfig>,
    pub log_level: LogLevel,
    pub events: Arc<EventQueue>,
    pub memory: Arc<Memory>,
    /// Of a server's connections that speak `lifeline.v1`.
    pub sessions: Option<Arc<Sessions>>,
}

impl Context {
    pub fn log(&self, level: LogLevel, message: impl Into<String>, context: Vec<(&'static str, String)>) {
        if level >= self.log_level {
            self.events.push(Event::Log {
                endpoint: Some(self.endpoint),
                record: Box::new(LogRecord {
                    level,
                    message: message.into(),
                    context: context.into_iter().map(|(name, value)| (name.into(), value)).collect(),
                }),
            });
        }
    }
}
