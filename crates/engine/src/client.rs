//! The client's driver.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeline_proto::client::State;

use crate::bridge::{CommandError, EndpointId, Reply, Stats, Ticket};
use crate::config::ClientConfig;
use crate::core::Core;

/// A client.
#[derive(Debug)]
pub struct Client {}

impl Client {
    pub fn create(_core: &Arc<Core>, _config: ClientConfig) -> Result<EndpointId, CommandError> {
        todo!()
    }
    pub fn connect(&self) {}
    pub fn wake(&self) {}
    pub fn send(&self, _data: Bytes, _binary: bool, _ttl: Option<Duration>) -> Result<Reply, CommandError> {
        todo!()
    }
    pub fn unacknowledged(&self) -> usize {
        0
    }
    pub fn state(&self) -> State {
        State::Closed
    }
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
    pub fn has_ticket(&self, _ticket: Ticket) -> bool {
        false
    }
    pub fn answer_headers(&self, _ticket: Ticket, _headers: Vec<(String, String)>) {}
    pub fn fail_attempt(&self, _ticket: Ticket, _reason: String) {}
    pub fn close(&self, _code: u16, _reason: String) {}
    pub fn discard(&self) {}
    pub fn handle_clock_jump(&self) {}
}
