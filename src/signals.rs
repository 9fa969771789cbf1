//! Signals of a server with workers. Its gateway reloads at SIGUSR1 and stops at SIGTERM and SIGINT; its workers leave
//! them to the gateway: a terminal or a service manager sends them to all. Nothing of this where the application (or
//! whoever has started it) has handlers of its own.

use std::cell::Cell;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use lifeline_engine::bridge::{Command, EndpointId};

use crate::lifecycle::with_bridge;
use crate::shim;

/// As `stop()` without an argument.
const DRAIN: Duration = Duration::from_secs(5);

thread_local! {
    static GATEWAY: Cell<Option<EndpointId>> = const { Cell::new(None) };
    static STOPPING: Cell<bool> = const { Cell::new(false) };
}

/// From now on they are for `server`, which has workers.
pub(crate) fn watch(server: EndpointId) {
    STOPPING.set(false);
    GATEWAY.set(Some(server));
    // SAFETY: the handlers touch atomics and make a system call.
    unsafe { shim::lifeline_watch_signals(true) };
}

/// A stream's timer, which is to expire when one comes; none: there is no stream.
pub(crate) fn wake(timer: Option<BorrowedFd<'_>>) {
    // SAFETY: stores a number. Who closes the timer calls this before.
    unsafe { shim::lifeline_wake_by_signal(timer.map_or(-1, |timer| timer.as_raw_fd())) };
}

/// The server has stopped: they do what they did before.
pub(crate) fn restore() {
    if GATEWAY.take().is_some() {
        // SAFETY: changes dispositions back.
        unsafe { shim::lifeline_restore_signals() };
    }
}

/// This process is a worker.
pub(crate) fn leave_to_gateway() {
    // SAFETY: the handlers do nothing.
    unsafe { shim::lifeline_watch_signals(false) };
}

/// Deals with those that have come. True: there were some.
pub(crate) fn serve() -> bool {
    let Some(server) = GATEWAY.get() else { return false };
    let (mut stops, mut reload) = (0, false);
    // SAFETY: both pointers are valid for the call.
    if !unsafe { shim::lifeline_take_signals(&raw mut stops, &raw mut reload) } {
        return false;
    }
    if reload {
        // The engine's log says what became of it; a server that has just stopped has nothing to reload.
        with_bridge(|bridge| drop(bridge.submit(Command::Reload { server })));
    }
    for _ in 0..stops {
        // Whoever asks twice does not want to wait.
        let drain = if STOPPING.replace(true) { Duration::ZERO } else { DRAIN };
        with_bridge(|bridge| drop(bridge.submit(Command::StopServer { server, drain })));
    }
    true
}
