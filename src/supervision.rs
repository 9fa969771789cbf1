//! What this process was started with: sockets and the address of a service manager (systemd), from the
//! environment; a worker's socket, which is its standard input; and the command line, with which a gateway starts
//! workers. The rules are the engine's; here are descriptors that come by number.

use std::env;
use std::ffi::{CStr, OsString};
use std::fs;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lifeline_engine::activation::{Environment, Inheritance};
use lifeline_engine::config::Spawn;
use lifeline_engine::service::Manager;
use lifeline_engine::workers::VARIABLE;
use rustix::net::AddressFamily;

use crate::lifecycle::generation;
use crate::shim;

/// Whose [`VARIABLE`] is: the worker's process id. Programs that a worker starts inherit both, and are no workers.
const OWNER: &str = "LIFELINE_WORKER_PID";

/// What this process is to a gateway.
#[derive(Debug)]
enum Seat {
    /// Nothing.
    None,
    /// A worker, with the socket that leads to the gateway until somebody has taken it.
    Worker(Mutex<Option<OwnedFd>>),
    /// It looks like a worker, but is none: why.
    Broken(String),
}

static SEAT: OnceLock<Seat> = OnceLock::new();
static COMMAND: OnceLock<Result<Spawn, String>> = OnceLock::new();

/// MINIT: scripts change directory and title.
pub(crate) fn module_startup() {
    if is_command_line() {
        COMMAND.get_or_init(own_command);
    }
}

/// RINIT: what the script reads from its standard input is not the gateway's.
pub(crate) fn request_startup() {
    if is_command_line() && matches!(SEAT.get_or_init(take_seat), Seat::Worker(_)) {
        crate::signals::leave_to_gateway();
    }
}

fn is_command_line() -> bool {
    // SAFETY: static text of the SAPI.
    unsafe { CStr::from_ptr(shim::lifeline_sapi_name()) == c"cli" }
}

fn own_command() -> Result<Spawn, String> {
    let failed = |what: &str, error: std::io::Error| format!("cannot read {what}: {error}");
    let line = fs::read("/proc/self/cmdline").map_err(|error| failed("/proc/self/cmdline", error))?;
    let program = fs::read_link("/proc/self/exe").map_err(|error| failed("/proc/self/exe", error))?;
    let words = line.strip_suffix(&[0]).unwrap_or(&line).split(|byte| *byte == 0);
    let arguments = words.skip(1).map(|word| OsString::from_vec(word.to_vec())).collect();
    Ok(Spawn { program, arguments, directory: env::current_dir().ok() })
}

/// How workers are started: as this process was.
///
/// # Errors
/// Why they cannot be.
pub(crate) fn command() -> Result<Spawn, String> {
    if generation() > 0 {
        return Err(
            "this process was forked by another one, and its workers would run the script from the beginning".into()
        );
    }
    // SAFETY: a look at what the script is.
    if unsafe { shim::lifeline_script_is_stdin() } {
        return Err(
            "the script was read from the standard input, where workers cannot read it again; give PHP its file".into(),
        );
    }
    COMMAND.get().cloned().unwrap_or_else(|| Err("this is not the command line PHP".into()))
}

/// This process runs the callbacks of a server in another one, the gateway.
pub(crate) fn is_worker() -> bool {
    generation() == 0 && matches!(SEAT.get(), Some(Seat::Worker(_)))
}

/// Why this process, which has a worker's environment, can have no server.
pub(crate) fn no_worker() -> Option<String> {
    match SEAT.get() {
        Some(Seat::Broken(why)) => Some(why.clone()),
        Some(Seat::Worker(_)) if generation() > 0 => Some(
            "the process that has forked this one is a worker, and stays the only one that its gateway knows".into(),
        ),
        _ => None,
    }
}

/// The worker's socket; once.
pub(crate) fn take_socket() -> Option<OwnedFd> {
    match SEAT.get() {
        Some(Seat::Worker(socket)) if generation() == 0 => socket.lock().unwrap_or_else(PoisonError::into_inner).take(),
        _ => None,
    }
}

fn take_seat() -> Seat {
    // Empty is how a wrapper takes it away.
    let Some(number) = env::var_os(VARIABLE).filter(|number| !number.is_empty()) else { return Seat::None };
    let own = std::process::id().to_string();
    if env::var_os(OWNER).is_some_and(|owner| owner != *own) {
        // SAFETY: in RINIT of the command line PHP, which has one thread.
        unsafe {
            env::remove_var(VARIABLE);
            env::remove_var(OWNER);
        }
        return Seat::None;
    }
    match take_standard_input() {
        Ok(socket) => {
            // SAFETY: as above.
            unsafe { env::set_var(OWNER, own) };
            Seat::Worker(Mutex::new(Some(socket)))
        }
        Err(why) => Seat::Broken(format!(
            "{VARIABLE} is '{}', which a server with the option 'workers' sets for the processes that it starts, but {why}: \
             unset it",
            number.to_string_lossy()
        )),
    }
}

/// Takes the socket over, and leaves an empty file in its place.
fn take_standard_input() -> Result<OwnedFd, String> {
    let input = rustix::stdio::stdin();
    let local = rustix::net::getsockname(input).is_ok_and(|address| address.address_family() == AddressFamily::UNIX);
    if !local {
        return Err("the standard input is no Unix socket".into());
    }
    let failed = |error: rustix::io::Errno| format!("the standard input cannot be taken over ({error})");
    let socket = rustix::io::fcntl_dupfd_cloexec(input, 3).map_err(failed)?;
    let nothing =
        rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).map_err(failed)?;
    rustix::stdio::dup2_stdin(&nothing).map_err(failed)?;
    Ok(socket)
}

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
