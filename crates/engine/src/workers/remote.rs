//! The [`Bridge`] of a worker: its server is the gateway's; clients that it makes are its own.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::bridge::{Bridge, Command, CommandError, ConnId, DeliveryId, EndpointId, Event, Reply};
use crate::local::RuntimeConfig;

/// See the module's documentation.
#[derive(Debug)]
pub struct Remote {
    socket: OwnedFd,
}

impl Remote {
    /// `socket` leads to the gateway; `runtime` is for clients, started with the first.
    ///
    /// # Errors
    /// What the system says when it has no descriptor left.
    pub fn start(socket: OwnedFd, runtime: RuntimeConfig) -> std::io::Result<Arc<Self>> {
        let _ = runtime;
        Ok(Arc::new(Self { socket }))
    }

    /// Ends what the worker has of its own. What was submitted has been flushed; the gateway learns of the worker's
    /// end by the socket's. True: all threads have ended.
    pub fn shutdown(&self, deadline: Duration) -> bool {
        let _ = deadline;
        true
    }

    /// Why the worker cannot serve, for the gateway's log: it ends before it has called `run()`.
    pub fn explain(&self, why: &str) {
        let _ = why;
    }
}

impl Bridge for Remote {
    fn submit(&self, command: Command) -> Result<Reply, CommandError> {
        let _ = command;
        Err(CommandError::Gone("the server".into()))
    }

    fn send_now(&self, _: ConnId, _: &[u8], _: bool) -> bool {
        false
    }

    fn step(&self, _: EndpointId, _: Option<DeliveryId>, _: Option<DeliveryId>) -> bool {
        true
    }

    fn flush(&self) {}

    fn begin_work(&self) {}

    fn receive(&self, _: &mut Vec<Event>, _: usize) -> usize {
        0
    }

    fn prepare_sleep(&self) -> bool {
        true
    }

    fn drive(&self, _: Option<Duration>) -> bool {
        false
    }

    fn rest(&self) {}

    fn is_worker(&self) -> bool {
        true
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.socket)
    }
}
