//! What this process was started with: sockets and the address of a service manager (systemd), from the
//! environment. The rules are the engine's; here are descriptors that come by number.

use std::env;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};

use lifeline_engine::activation::{Environment, Inheritance};
use lifeline_engine::service::Manager;

use crate::lifecycle::generation;

/// The sockets that were passed to this process: taken over by the first caller, kept until the process ends.
pub(crate) fn inherited() -> Arc<Inheritance> {
    static INHERITED: OnceLock<Arc<Inheritance>> = OnceLock::new();
    if generation() > 0 {
        return Inheritance::nothing("sockets were passed to the process that has forked this one".into());
    }
    Arc::clone(INHERITED.get_or_init(|| take().unwrap_or_else(Inheritance::nothing)))
}

fn take() -> Result<Arc<Inheritance>, String> {
    let variable = |name: &str| env::var(name).ok();
    let (pid, fds, names) = (variable("LISTEN_PID"), variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"));
    let environment = Environment { pid: pid.as_deref(), fds: fds.as_deref(), names: names.as_deref() };
    let named = environment.parse(std::process::id())?;
    if let Some((number, name)) = named.iter().find(|(number, _)| !is_socket(*number)) {
        return Err(format!("LISTEN_FDS says that descriptor {number} ({name}) is a socket, but it is not"));
    }
    // SAFETY: `LISTEN_PID` says that the caller of this program has opened them for us, they are open sockets, and
    // they are taken once.
    let own = |(number, name): (RawFd, String)| (name, unsafe { OwnedFd::from_raw_fd(number) });
    Inheritance::adopt(named.into_iter().map(own).collect())
}

fn is_socket(number: RawFd) -> bool {
    // SAFETY: fstat says so if there is no such descriptor, and nobody closes it meanwhile.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::fs::fstat(socket).is_ok_and(|told| rustix::fs::FileType::from_raw_mode(told.st_mode).is_socket())
}

/// The service manager that wants to be told how the process is.
///
/// # Errors
/// What is wrong with its address.
pub(crate) fn manager() -> Result<Option<Manager>, String> {
    // Empty is how a wrapper takes it away.
    let Some(address) = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else { return Ok(None) };
    let (usec, pid) = (env::var("WATCHDOG_USEC").ok(), env::var("WATCHDOG_PID").ok());
    Manager::parse(&address, usec.as_deref(), pid.as_deref(), std::process::id()).map(Some)
}
