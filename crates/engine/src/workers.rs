//! A server whose callbacks run in processes of their own (option `workers`): the *gateway* has the sockets, sessions and
//! channels, *workers* are started with a Unix socket as their standard input and get events over it.
//!
//! What is said on that socket is in `wire`; who serves which connection is decided by `roster`; `gateway` and
//! [`remote`] are its two ends.

pub mod remote;

use std::sync::Arc;

use crate::bridge::CommandError;
use crate::config::Spawn;
use crate::local::Local;
use crate::server::Server;

/// Names a worker's number to itself: 1 and up, as many as there are at a time.
pub const VARIABLE: &str = "LIFELINE_WORKER";

impl Local {
    pub(crate) fn start_workers(&self, server: Arc<Server>, spawn: Spawn) -> Result<(), CommandError> {
        let _ = (server, spawn);
        Err(CommandError::Start("workers".into()))
    }

    pub(crate) fn reload_workers(&self, server: Arc<Server>) -> Result<(), CommandError> {
        let _ = server;
        Err(CommandError::Invalid("the server has no workers".into()))
    }
}
