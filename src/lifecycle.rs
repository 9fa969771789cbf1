//! When the engine starts and ends: lazily at the first `start()` or `connect()`, never in a process
//! that only loads the module; forgotten in a forked child; stopped at the end of the request.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_void};
use std::mem;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ext_php_rs::exception::{PhpException, PhpResult};
use lifeline_engine::bridge::{Bridge, Command, ConnId, Event, Reply};
use lifeline_engine::local::{Local, RuntimeConfig};
use lifeline_engine::workers::remote::Remote;

use crate::dispatcher::dispatcher;
use crate::exceptions::{error, exception, from_command};
use crate::shim;
use crate::supervision;

/// How many forks lie between this process and the one that loaded the module.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Bytes of what a worker says of its end.
const LONGEST_WHY: usize = 4096;

/// Time for close codes to leave and threads to end when a request ends with endpoints alive.
const FAREWELL: Duration = Duration::from_millis(600);
const JOIN: Duration = Duration::from_millis(400);

thread_local! {
    static ENGINE: RefCell<Option<Engine>> = const { RefCell::new(None) };
    /// Set from the end of the request on: objects freed later must not start anything.
    static OVER: Cell<bool> = const { Cell::new(false) };
    /// A worker's server has been started.
    static ATTACHED: Cell<bool> = const { Cell::new(false) };
}

struct Engine {
    bridge: Arc<dyn Bridge>,
    /// The same, of a worker.
    remote: Option<Arc<Remote>>,
    shutdown: Box<dyn Fn(Duration) -> bool>,
    generation: u32,
}

/// Tells processes apart: an object that was started in another generation belongs to the parent.
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

extern "C" fn before_fork() {
    lifeline_engine::stream::handle_fork(false);
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    lifeline_engine::stream::handle_fork(true);
}

/// MINIT. Starts nothing: PHP-FPM and Apache load modules in a parent that forks.
pub(crate) fn module_startup() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: both only touch atomics, which is safe in a forked child.
        unsafe { shim::lifeline_at_fork(before_fork, in_child) };
    });
}

/// RINIT.
pub(crate) fn request_startup() {
    OVER.set(false);
    supervision::request_startup();
    dispatcher().reset();
}

/// A worker's server has been started: from now on the gateway knows of its end what it has to.
pub(crate) fn attached() {
    ATTACHED.set(true);
}

/// Runs `action` with the engine of this process, if it has one.
pub(crate) fn with_bridge<R>(action: impl FnOnce(&dyn Bridge) -> R) -> Option<R> {
    ENGINE.with_borrow(|engine| {
        let engine = engine.as_ref().filter(|engine| engine.generation == generation())?;
        Some(action(&*engine.bridge))
    })
}

/// Starts the engine unless it runs. `io_threads` counts for the first caller.
pub(crate) fn start(io_threads: Option<usize>) -> PhpResult<()> {
    forget_inherited();
    if OVER.get() {
        return Err(error("the request is over: nothing can be started"));
    }
    if ENGINE.with_borrow(Option::is_some) {
        return Ok(());
    }
    let count = io_threads.unwrap_or_else(|| {
        let configured = crate::ini_io_threads();
        if configured > 0 {
            configured
        } else {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(4)
        }
    });
    let engine = start_engine(count)?;
    dispatcher()
        .watch(&*engine.bridge)
        .map_err(|error| exception(format!("cannot watch the engine's events: {error}")))?;
    ENGINE.set(Some(engine));
    Ok(())
}

/// In a forked child: drops the parent's engine from sight. Dropping it for real would wait for
/// threads that do not exist here and shut sockets that the parent serves.
pub(crate) fn forget_inherited() {
    let inherited = ENGINE.with_borrow_mut(|engine| engine.take_if(|engine| engine.generation != generation()));
    if let Some(engine) = inherited {
        mem::forget(engine);
        dispatcher().forget();
    } else if dispatcher().is_inherited() {
        dispatcher().forget();
    }
}

fn runtime(io_threads: usize) -> RuntimeConfig {
    // SAFETY: changes the signal mask of a thread of ours that runs no PHP.
    let on_thread_start = Arc::new(|| unsafe { shim::lifeline_block_signals() });
    RuntimeConfig { io_threads, on_thread_start }
}

fn start_engine(io_threads: usize) -> PhpResult<Engine> {
    let config = runtime(io_threads);
    if let Some(socket) = supervision::take_socket() {
        let remote = Remote::start(socket, config)
            .map_err(|error| exception(format!("cannot talk to the process that has started this worker: {error}")))?;
        let bridge: Arc<dyn Bridge> = Arc::clone(&remote) as _;
        let ended = Arc::clone(&remote);
        let shutdown = Box::new(move |deadline| ended.shutdown(deadline));
        return Ok(Engine { bridge, remote: Some(remote), shutdown, generation: generation() });
    }
    // SAFETY: makes a descriptor.
    let interrupt = unsafe { shim::lifeline_signal_descriptor() };
    if interrupt < 0 {
        let error = std::io::Error::last_os_error();
        return Err(exception(format!("cannot watch for signals: {error}")));
    }
    // SAFETY: it is open and nobody else's.
    let interrupt = unsafe { OwnedFd::from_raw_fd(interrupt) };
    let local = with_signals_blocked(|| Local::start_driven(&config, interrupt))
        .ok_or_else(|| exception("starting the I/O threads failed"))?
        .map_err(|error| exception(format!("cannot start {io_threads} I/O threads: {error}")))?;
    let bridge: Arc<dyn Bridge> = Arc::clone(&local) as _;
    let shutdown = Box::new(move |deadline| local.shutdown(deadline));
    Ok(Engine { bridge, remote: None, shutdown, generation: generation() })
}

fn with_signals_blocked<R>(make: impl FnOnce() -> R) -> Option<R> {
    struct Context<R, F> {
        make: Option<F>,
        made: Option<R>,
    }
    unsafe extern "C" fn call<R, F: FnOnce() -> R>(context: *mut c_void) {
        // SAFETY: `context` is the `Context` below, alive for the call.
        let context = unsafe { &mut *context.cast::<Context<R, F>>() };
        if let Some(make) = context.make.take() {
            context.made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(make)).ok();
        }
    }
    fn run<R, F: FnOnce() -> R>(make: F) -> Option<R> {
        let mut context = Context { make: Some(make), made: None };
        // SAFETY: `call::<R, F>` gets the context that belongs to it.
        unsafe { shim::lifeline_with_signals_blocked(call::<R, F>, (&raw mut context).cast()) };
        context.made
    }
    run(make)
}

/// Gives `command` to the engine; what it queues leaves at the end of the dispatch batch, or at once
/// outside of one.
pub(crate) fn submit(command: Command) -> PhpResult<Reply> {
    dispatcher().settle_done();
    let reply = with_bridge(|bridge| bridge.submit(command)).ok_or_else(not_running)?;
    dispatcher().submitted();
    dispatcher().answered();
    reply.map_err(from_command)
}

/// As [`submit`], for a reply that nobody looks at: a worker does not wait for it.
pub(crate) fn order(command: Command) -> PhpResult<()> {
    dispatcher().settle_done();
    let result = with_bridge(|bridge| bridge.order(command)).ok_or_else(not_running)?;
    dispatcher().submitted();
    result.map_err(from_command)
}

/// Sends a message from where it lies; false: it was not sent, submit it.
pub(crate) fn send_now(conn: ConnId, data: &[u8], binary: bool) -> bool {
    dispatcher().settle_done();
    let sent = with_bridge(|bridge| bridge.send_now(conn, data, binary)).unwrap_or(false);
    if sent {
        dispatcher().submitted();
    }
    sent
}

/// As [`submit`], for commands that put nothing on the wire.
pub(crate) fn query(command: Command) -> PhpResult<Reply> {
    dispatcher().settle_done();
    let reply = with_bridge(|bridge| bridge.submit(command)).ok_or_else(not_running)?;
    dispatcher().answered();
    reply.map_err(from_command)
}

fn not_running() -> PhpException {
    exception("not running")
}

/// The Error for an object that was started before a fork, used in the child.
pub(crate) fn inherited(class: &str) -> PhpException {
    error(format!(
        "this {class} was started before the process forked and belongs to the parent process; create a new one after the fork"
    ))
}

/// A worker whose script is over. What it has begun is not settled: another worker gets it, or it is counted as lost.
pub(crate) fn worker_is_ending() -> bool {
    // SAFETY: reads two fields of the executor's globals.
    supervision::is_worker() && unsafe { shim::lifeline_is_ending() }
}

/// RSHUTDOWN: peers are told, threads are joined, both within about a second.
pub(crate) fn request_shutdown() {
    OVER.set(true);
    forget_inherited();
    if supervision::is_worker() && !ATTACHED.get() {
        explain();
    }
    // What a worker is through with is not lost, whatever has ended it.
    dispatcher().flush_at_end();
    let Some(engine) = ENGINE.take() else {
        dispatcher().reset();
        return;
    };
    engine.bridge.rest();
    let mut alive = dispatcher().stop_all(&*engine.bridge);
    engine.bridge.flush();
    let deadline = Instant::now() + FAREWELL;
    let mut events = Vec::new();
    while alive > 0 {
        events.clear();
        engine.bridge.receive(&mut events, 1024);
        alive -= events.iter().filter(|event| matches!(event, Event::Stopped { .. })).count().min(alive);
        let left = deadline.saturating_duration_since(Instant::now());
        if alive == 0 || left.is_zero() {
            break;
        }
        if events.is_empty() && engine.bridge.prepare_sleep() {
            wait_readable(&*engine.bridge, left);
        }
    }
    (engine.shutdown)(JOIN);
    dispatcher().reset();
}

/// Tells the gateway why there is no server in this worker.
fn explain() {
    let remote = ENGINE.with_borrow(|engine| engine.as_ref().and_then(|engine| engine.remote.clone()));
    // Nothing has needed it yet: the script may not even have been compiled.
    let remote = remote.or_else(|| Remote::start(supervision::take_socket()?, runtime(1)).ok());
    let Some(remote) = remote else { return };
    let ended = || "the script has ended and has not started a WsServer with the option 'workers'".to_owned();
    let mut why = fatal_error().unwrap_or_else(ended);
    let mut end = why.len().min(LONGEST_WHY);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why.truncate(end);
    remote.explain(&why);
}

/// The error that has ended the script.
fn fatal_error() -> Option<String> {
    let (mut length, mut file, mut line) = (0, std::ptr::null(), 0);
    // SAFETY: the pointers are valid for the call; what it returns lives until the request has ended.
    let (message, file) = unsafe {
        let message = shim::lifeline_fatal_error(&raw mut length, &raw mut file, &raw mut line);
        if message.is_null() {
            return None;
        }
        (std::slice::from_raw_parts(message.cast::<u8>(), length), CStr::from_ptr(file))
    };
    let message = String::from_utf8_lossy(message);
    // An exception's says where it was thrown.
    if message.starts_with("Uncaught ") {
        return Some(message.into_owned());
    }
    Some(format!("{message} in {}:{line}", file.to_string_lossy()))
}

fn wait_readable(bridge: &dyn Bridge, limit: Duration) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let descriptor = bridge.descriptor();
    let mut ready = [PollFd::new(&descriptor, PollFlags::IN)];
    if let Ok(limit) = Timespec::try_from(limit) {
        // A signal only makes the caller look once more.
        let _ = poll(&mut ready, Some(&limit));
    }
}
