//! One per PHP thread, for every `WsServer` and `WsClient`: takes the engine's events and runs the
//! callbacks of the objects they belong to.
//!
//! A callback may call `poll()` again, stop and destroy objects, suspend its fiber (other code then
//! goes on, and polls), end the script, or leave by longjmp (fatal error). So nothing is borrowed,
//! locked or half-taken while one runs: events lie in one queue, are taken one at a time, and a frame
//! that comes back finds the queue as others have left it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use ext_php_rs::exception::PhpResult;
use ext_php_rs::types::Zval;
use lifeline_engine::IdMap;
use lifeline_engine::bridge::{Bridge, Command, ConnId, Delivery, DeliveryId, EndpointId, Event, OutboxItem, Verdict};

use crate::exceptions::{Pending, exception, pending};
use crate::lifecycle::{self, with_bridge};
use crate::shim;
use crate::signals;
use crate::stream::Wakeup;
use crate::supervision;
use crate::timers::{Schedule, Timers};

/// Events taken from the engine at once.
const BATCH: usize = 1024;
/// Without `pcntl_async_signals(true)` a signal that arrives just before the sleep is seen after it.
const SIGNAL_CHECK: Duration = Duration::from_secs(1);

/// After a sleep no longer than this another short one is expected.
const BRISK: Duration = Duration::from_millis(1);

/// What the dispatcher knows of a `WsServer` or `WsClient`.
pub(crate) trait Endpoint {
    /// Runs the callbacks for `event`; returns how many were run. Err: an exception is pending and
    /// is to leave `run()` or `poll()`.
    fn deliver(self: Rc<Self>, event: Event) -> Result<usize, Pending>;

    /// An exception is pending that a callback has thrown. Reports it (then Ok) or lets it travel.
    /// `context` names the callback; `conn` is the connection that it served.
    fn failed(self: Rc<Self>, context: &str, conn: Option<ConnId>) -> Result<(), Pending>;

    /// `after()`, `every()`.
    fn timers(&self) -> &Timers;

    /// The command that ends it at once, politely; none: it is another process's.
    fn farewell(&self, id: EndpointId) -> Option<Command>;

    /// The engine that knew it is gone: it counts as ended.
    fn forgotten(&self);
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Dispatcher {
    endpoints: RefCell<IdMap<EndpointId, Weak<dyn Endpoint>>>,
    queue: RefCell<VecDeque<Event>>,
    /// Reused by `receive`.
    scratch: Cell<Vec<Event>>,
    schedule: RefCell<Schedule>,
    /// Frames of `serve` below the running code, on this fiber's stack.
    depth: Cell<u32>,
    /// `depth` of the fibers that are suspended inside of a callback.
    suspended: RefCell<HashMap<usize, u32>>,
    /// Commands were submitted since the last flush.
    dirty: Cell<bool>,
    /// Bytes that handlers are through with, not yet told to the engine.
    consumed: RefCell<Vec<(ConnId, usize, usize)>>,
    /// An item whose handler has ended well, which the engine learns when the next one begins, and before any other
    /// code of the application runs or anything else is asked of the engine.
    done: Cell<Option<(EndpointId, DeliveryId)>>,
    wakeup: RefCell<Option<Wakeup>>,
    /// The process that all of this belongs to.
    generation: Cell<u32>,
    /// The last sleep was a short one.
    brisk: Cell<bool>,
    /// A coroutine scheduler that Zend does not announce switches of: never wait with a flush.
    eager: Cell<bool>,
}

thread_local! {
    // Leaked, one per thread: nothing of it may be dropped when PHP's memory is gone.
    static DISPATCHER: &'static Dispatcher = Box::leak(Box::default());
}

/// This thread's dispatcher.
#[inline]
pub(crate) fn dispatcher() -> &'static Dispatcher {
    DISPATCHER.with(|dispatcher| *dispatcher)
}

impl Dispatcher {
    /// From now on events of `id` go to `endpoint`.
    pub(crate) fn register(&self, id: EndpointId, endpoint: Weak<dyn Endpoint>) {
        self.endpoints.borrow_mut().insert(id, endpoint);
    }

    /// `id` has ended, and whatever came before that was dispatched.
    pub(crate) fn unregister(&self, id: EndpointId) {
        self.endpoints.borrow_mut().remove(&id);
        with_bridge(|bridge| drop(bridge.submit(Command::Forget { endpoint: id })));
    }

    /// Dispatches until `done`, which is asked after each batch with the number of callbacks run, or
    /// until `deadline`; at least one batch. Returns that number.
    pub(crate) fn serve(&self, deadline: Option<Instant>, done: &dyn Fn(usize) -> bool) -> Result<usize, Pending> {
        struct Frame<'a>(&'a Dispatcher);
        impl Drop for Frame<'_> {
            fn drop(&mut self) {
                self.0.depth.set(self.0.depth.get().saturating_sub(1));
                self.0.flush();
                self.0.arm();
            }
        }
        self.depth.set(self.depth.get() + 1);
        let _frame = Frame(self);
        let mut ran = 0;
        loop {
            ran += self.batch()?;
            self.flush();
            if done(ran) {
                return Ok(ran);
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(ran);
            }
            self.wait(now, deadline)?;
        }
    }

    /// One batch: timers that are due, then what the engine has.
    fn batch(&self) -> Result<usize, Pending> {
        self.serve_signals();
        let mut ran = self.fire()?;
        self.receive();
        while let Some(event) = self.pop() {
            let Some(id) = endpoint_of(&event) else {
                log(None, &event);
                continue;
            };
            let endpoint = self.endpoints.borrow().get(&id).and_then(Weak::upgrade);
            if !matches!((&event, self.done.get()), (Event::Items { .. }, Some((other, _))) if other == id) {
                self.settle_done();
            }
            match endpoint {
                Some(endpoint) => {
                    ran += Rc::clone(&endpoint).deliver(event)?;
                    self.settle(endpoint)?;
                }
                None => self.orphan(&event),
            }
        }
        Ok(ran)
    }

    /// Signals to a server with workers.
    fn serve_signals(&self) -> bool {
        if !signals::serve() {
            return false;
        }
        self.submitted();
        // What made the stream readable is over.
        if let Some(wakeup) = &*self.wakeup.borrow() {
            wakeup.arm(Some(Instant::now()));
        }
        true
    }

    /// A signal to a server with workers makes the stream readable, if there is one.
    pub(crate) fn wake_by_signals(&self) {
        signals::wake(self.wakeup.borrow().as_ref().map(Wakeup::timer));
    }

    fn pop(&self) -> Option<Event> {
        self.queue.borrow_mut().pop_front()
    }

    /// The next of the items at the front of the queue, where they are of that connection.
    pub(crate) fn next_item(&self, conn: ConnId) -> Option<OutboxItem> {
        let mut queue = self.queue.borrow_mut();
        let Some(Event::Items { conn: of, items, .. }) = queue.front_mut() else { return None };
        let item = if *of == conn { items.pop_front() } else { None };
        if items.is_empty() {
            queue.pop_front();
        }
        item
    }

    /// Puts items back that a callback of their connection is run before.
    pub(crate) fn put_back(&self, event: Event) {
        self.queue.borrow_mut().push_front(event);
    }

    /// Puts events back, in their order, before all others.
    pub(crate) fn requeue(&self, events: VecDeque<Event>) {
        let mut queue = self.queue.borrow_mut();
        for event in events.into_iter().rev() {
            queue.push_front(event);
        }
        drop(queue);
        // Outside of a dispatch nobody looks at the queue until the stream says so.
        if self.depth.get() == 0 {
            self.arm();
        }
    }

    fn receive(&self) {
        let mut scratch = self.scratch.take();
        with_bridge(|bridge| bridge.receive(&mut scratch, BATCH));
        self.queue.borrow_mut().extend(scratch.drain(..));
        self.scratch.set(scratch);
    }

    /// An event of an object that is gone.
    fn orphan(&self, event: &Event) {
        match event {
            Event::Message { conn, data, .. } | Event::Snapshot { conn, data, .. } => self.consume(*conn, data.len()),
            Event::Items { conn, items, .. } => {
                for item in items {
                    self.consume(*conn, item.data.len());
                }
            }
            Event::Edit { conn, edit, .. } => self.consume(*conn, edit.data.len()),
            Event::Stopped { endpoint } => self.unregister(*endpoint),
            _ => {}
        }
    }

    fn fire(&self) -> Result<usize, Pending> {
        if self.schedule.borrow().is_empty() {
            return Ok(0);
        }
        let mut ran = 0;
        let now = Instant::now();
        loop {
            let due = self.schedule.borrow_mut().pop(now);
            let Some((owner, id, due)) = due else { return Ok(ran) };
            with_bridge(|bridge| bridge.begin_work());
            ran += Timers::fire(&owner, id, due)?;
            self.settle(owner)?;
        }
    }

    /// A number for a new timer.
    pub(crate) fn timer_id(&self) -> i64 {
        self.schedule.borrow_mut().id()
    }

    /// Lets timer `id` of `owner`, which knows it, fire at `due`.
    pub(crate) fn schedule(&self, due: Instant, id: i64, owner: Weak<dyn Endpoint>) {
        self.schedule.borrow_mut().add(due, id, owner);
        if self.depth.get() == 0 {
            self.arm();
        }
    }

    /// `count` timers were cancelled.
    pub(crate) fn unscheduled(&self, count: usize) {
        self.schedule.borrow_mut().forget(count);
    }

    /// Sleeps until there is something to do, at most until `deadline`.
    fn wait(&self, now: Instant, deadline: Option<Instant>) -> Result<(), Pending> {
        if !self.queue.borrow().is_empty() {
            return Ok(());
        }
        // SAFETY: runs PHP's own dispatcher of signals, which may call handlers; nothing is borrowed.
        let signals = unsafe { shim::lifeline_dispatch_signals() };
        pending()?;
        let timer = self.schedule.borrow_mut().next();
        let until = match (timer, deadline) {
            (Some(timer), Some(deadline)) => Some(timer.min(deadline)),
            (timer, deadline) => timer.or(deadline),
        };
        let mut limit = until.map(|until| until.saturating_duration_since(now));
        if signals {
            limit = Some(limit.map_or(SIGNAL_CHECK, |limit| limit.min(SIGNAL_CHECK)));
        }
        // The handlers above may have sent something, and may have eaten what says that a signal has come.
        if self.serve_signals() {
            return Ok(());
        }
        self.flush();
        if drive(limit) {
            return self.check();
        }
        let descriptor = with_bridge(|bridge| bridge.prepare_sleep().then(|| bridge.descriptor().as_raw_fd()));
        let descriptor = match descriptor {
            Some(None) => return Ok(()),
            Some(Some(descriptor)) => descriptor,
            None => -1,
        };
        let nanoseconds = limit.map_or(-1, |limit| i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX));
        // SAFETY: the descriptor lives as long as the engine, which only this thread ends.
        let outcome = unsafe { shim::lifeline_wait(descriptor, nanoseconds, self.brisk.get()) };
        self.brisk.set(outcome > 0 && now.elapsed() < BRISK);
        if outcome < 0 {
            self.check()?;
            // SAFETY: as above.
            unsafe { shim::lifeline_dispatch_signals() };
            pending()?;
        }
        self.check()
    }

    /// After a callback of `endpoint`.
    pub(crate) fn settle(&self, endpoint: Rc<dyn Endpoint>) -> Result<(), Pending> {
        // Thrown when the callback's arguments or result were released.
        if pending().is_err() {
            endpoint.failed("a destructor", None)?;
        }
        self.check()
    }

    /// Before going on: serves interrupts, and ends the loop of a process that was forked in it.
    fn check(&self) -> Result<(), Pending> {
        interrupts()?;
        if self.generation.get() == lifecycle::generation() {
            return Ok(());
        }
        lifecycle::forget_inherited();
        Err(lifecycle::inherited("event loop").into())
    }

    /// A command was given to the engine: it is woken at the end of the batch, or now.
    #[inline]
    pub(crate) fn submitted(&self) {
        self.dirty.set(true);
        if self.depth.get() == 0 || self.eager.get() {
            self.flush();
        }
    }

    /// The engine has answered. A worker's answer may have brought events along, of which its descriptor tells no more.
    #[inline]
    pub(crate) fn answered(&self) {
        if self.depth.get() == 0 && self.wakeup.borrow().is_some() && supervision::is_worker() {
            self.arm();
        }
    }

    /// A handler is through with `bytes` of `conn`.
    pub(crate) fn consume(&self, conn: ConnId, bytes: usize) {
        let mut consumed = self.consumed.borrow_mut();
        match consumed.last_mut() {
            Some((last, messages, sum)) if *last == conn => {
                *messages += 1;
                *sum += bytes;
            }
            _ => consumed.push((conn, 1, bytes)),
        }
        drop(consumed);
        self.submitted();
    }

    /// The handling of a message that `lifeline.v1` delivered has ended.
    pub(crate) fn verdict(&self, endpoint: EndpointId, delivery: Delivery, verdict: Verdict) {
        if verdict == Verdict::Done
            && let Delivery::Item { id, .. } = delivery
        {
            return self.handled(endpoint, id);
        }
        self.settle_done();
        // An endpoint that has ended meanwhile does not mind.
        with_bridge(|bridge| drop(bridge.submit(Command::Settle { endpoint, delivery, verdict })));
        self.submitted();
    }

    /// The handler of an item has ended well.
    pub(crate) fn handled(&self, endpoint: EndpointId, item: DeliveryId) {
        self.settle_done();
        self.done.set(Some((endpoint, item)));
        self.submitted();
    }

    /// Whether the handler of an item may be called.
    pub(crate) fn begin(&self, endpoint: EndpointId, item: DeliveryId) -> bool {
        let mut done = self.done.take();
        if done.is_some_and(|(other, _)| other != endpoint) {
            Self::settle_last(done.take());
        }
        let done = done.map(|(_, item)| item);
        with_bridge(|bridge| bridge.step(endpoint, done, Some(item))) == Some(true)
    }

    /// Tells the engine of the item that was handled last.
    #[inline]
    pub(crate) fn settle_done(&self) {
        if self.done.get().is_some() {
            Self::settle_last(self.done.take());
        }
    }

    #[cold]
    fn settle_last(done: Option<(EndpointId, DeliveryId)>) {
        let Some((endpoint, item)) = done else { return };
        // An endpoint that has ended meanwhile does not mind.
        with_bridge(|bridge| bridge.step(endpoint, Some(item), None));
    }

    /// Tells the engine what was consumed and wakes it.
    pub(crate) fn flush(&self) {
        if !self.dirty.replace(false) {
            return;
        }
        self.credit();
        with_bridge(|bridge| bridge.flush());
    }

    /// Tells the engine what was consumed.
    pub(crate) fn credit(&self) {
        self.settle_done();
        let mut consumed = self.consumed.borrow_mut();
        with_bridge(|bridge| {
            for (conn, messages, bytes) in consumed.drain(..) {
                // Cannot fail: a connection that the engine has forgotten needs no credit.
                let _ = bridge.submit(Command::Consumed { conn, messages, bytes });
            }
        });
        consumed.clear();
    }

    /// At the end of the request, which may have come in the middle of a batch.
    pub(crate) fn flush_at_end(&self) {
        if !self.is_inherited() && with_bridge(|bridge| bridge.is_worker()) == Some(true) {
            self.dirty.set(true);
            self.flush();
        }
    }

    /// The stream for outer loops; see [`Wakeup`].
    pub(crate) fn stream(&self) -> PhpResult<Zval> {
        if self.wakeup.borrow().is_none() {
            let wakeup = Wakeup::new().map_err(|error| exception(format!("cannot make a stream: {error}")))?;
            with_bridge(|bridge| wakeup.watch(bridge.descriptor()))
                .transpose()
                .map_err(|error| exception(format!("cannot make a stream: {error}")))?;
            *self.wakeup.borrow_mut() = Some(wakeup);
            self.wake_by_signals();
        }
        self.arm();
        match &*self.wakeup.borrow() {
            Some(wakeup) => wakeup.stream(),
            None => Err(exception("cannot make a stream")),
        }
    }

    /// The engine has started: a stream that exists must see its events.
    pub(crate) fn watch(&self, bridge: &dyn Bridge) -> rustix::io::Result<()> {
        // SAFETY: a look into the module registry.
        self.eager.set(unsafe {
            shim::lifeline_module_loaded(c"swoole".as_ptr()) || shim::lifeline_module_loaded(c"openswoole".as_ptr())
        });
        match &*self.wakeup.borrow() {
            Some(wakeup) => wakeup.watch(bridge.descriptor().as_fd()),
            None => Ok(()),
        }
    }

    /// Makes the stream readable when there is something to do: now, or when a timer is due.
    fn arm(&self) {
        let wakeup = self.wakeup.borrow();
        let Some(wakeup) = &*wakeup else { return };
        // Whoever watches the stream sleeps elsewhere.
        if self.depth.get() == 0 {
            with_bridge(|bridge| bridge.rest());
        }
        // A forked child shares the descriptors with its parent.
        if self.generation.get() != lifecycle::generation() {
            return;
        }
        let left_over = !self.queue.borrow().is_empty();
        if left_over {
            wakeup.arm(Some(Instant::now()));
            return;
        }
        let timer = self.schedule.borrow_mut().next();
        wakeup.arm(timer);
        // False leaves the engine's descriptor readable, which is what is wanted then.
        with_bridge(|bridge| bridge.prepare_sleep());
    }

    /// The engine says farewell to all; returns how many there are.
    pub(crate) fn stop_all(&self, bridge: &dyn Bridge) -> usize {
        let endpoints: Vec<_> =
            self.endpoints.borrow().iter().map(|(id, endpoint)| (*id, endpoint.upgrade())).collect();
        let mut alive = 0;
        let queue = self.queue.borrow();
        for (id, endpoint) in endpoints {
            // Its end has come already and only waits to be dispatched.
            if queue.iter().any(|event| matches!(event, Event::Stopped { endpoint } if *endpoint == id)) {
                continue;
            }
            // An object that is gone has said farewell itself; its end is still to be waited for.
            let waits = match endpoint.map(|endpoint| endpoint.farewell(id)) {
                None => !bridge.is_worker(),
                Some(None) => false,
                Some(Some(farewell)) => bridge.submit(farewell).is_ok(),
            };
            alive += usize::from(waits);
        }
        alive
    }

    /// It was filled by the parent process.
    pub(crate) fn is_inherited(&self) -> bool {
        self.generation.get() != lifecycle::generation()
    }

    /// After a fork, in the child: what the parent's engine said is not for us, and its descriptors
    /// are shared with the parent.
    pub(crate) fn forget(&self) {
        let endpoints = std::mem::take(&mut *self.endpoints.borrow_mut());
        for endpoint in endpoints.values().filter_map(Weak::upgrade) {
            endpoint.forgotten();
        }
        std::mem::forget(std::mem::take(&mut *self.queue.borrow_mut()));
        self.consumed.borrow_mut().clear();
        self.done.set(None);
        self.dirty.set(false);
        // Closing our copies does not change the parent's epoll set.
        signals::wake(None);
        *self.wakeup.borrow_mut() = None;
        self.generation.set(lifecycle::generation());
    }

    /// At both ends of a request: a fatal error may have left anything behind.
    pub(crate) fn reset(&self) {
        let endpoints = std::mem::take(&mut *self.endpoints.borrow_mut());
        for endpoint in endpoints.values().filter_map(Weak::upgrade) {
            endpoint.forgotten();
        }
        self.queue.borrow_mut().clear();
        *self.schedule.borrow_mut() = Schedule::default();
        self.depth.set(0);
        self.suspended.borrow_mut().clear();
        self.dirty.set(false);
        self.consumed.borrow_mut().clear();
        self.done.set(None);
        signals::wake(None);
        *self.wakeup.borrow_mut() = None;
        self.generation.set(lifecycle::generation());
    }
}

/// Has the engine wait, which does a part of its work on this thread meanwhile; false: it does not.
fn drive(limit: Option<Duration>) -> bool {
    struct Held;
    impl Drop for Held {
        fn drop(&mut self) {
            // SAFETY: ends what began below, on the same thread.
            unsafe { shim::lifeline_release_signals() };
        }
    }
    with_bridge(|bridge| {
        // SAFETY: changes this thread's signal mask, until `Held` is dropped.
        if !unsafe { shim::lifeline_hold_signals() } {
            return true;
        }
        let _held = Held;
        bridge.drive(limit)
    })
    .unwrap_or(false)
}

/// What the VM does between opcodes: signal handlers, the time limit.
pub(crate) fn interrupts() -> Result<(), Pending> {
    // SAFETY: no borrow is held by any caller: the time limit leaves by longjmp.
    unsafe {
        if shim::lifeline_interrupted() {
            shim::lifeline_serve_interrupts();
        }
    }
    pending()
}

/// MINIT: sends that a callback has made before it suspends its fiber must not wait for its return.
pub(crate) fn observe_fibers() {
    unsafe extern "C" fn switched(from: *mut c_void, to: *mut c_void) {
        let dispatcher = dispatcher();
        let depth = dispatcher.depth.get();
        if depth == 0 && dispatcher.suspended.borrow().is_empty() {
            return;
        }
        dispatcher.flush();
        let mut suspended = dispatcher.suspended.borrow_mut();
        if depth > 0 {
            suspended.insert(from as usize, depth);
        }
        dispatcher.depth.set(suspended.remove(&(to as usize)).unwrap_or(0));
        drop(suspended);
        if depth > 0 {
            dispatcher.arm();
        }
    }
    // SAFETY: in MINIT; the handler only reads the pointers' values.
    unsafe { shim::lifeline_observe_fibers(switched) };
}

fn endpoint_of(event: &Event) -> Option<EndpointId> {
    Some(match event {
        Event::Handshake { server: id, .. }
        | Event::Open { endpoint: id, .. }
        | Event::Message { endpoint: id, .. }
        | Event::Items { endpoint: id, .. }
        | Event::Close { endpoint: id, .. }
        | Event::Failure { endpoint: id, .. }
        | Event::Drain { endpoint: id, .. }
        | Event::Join { server: id, .. }
        | Event::Leave { server: id, .. }
        | Event::Authenticate { server: id, .. }
        | Event::Authorise { server: id, .. }
        | Event::SnapshotWanted { server: id, .. }
        | Event::Edit { server: id, .. }
        | Event::DocumentChanged { endpoint: id, .. }
        | Event::SessionEnded { server: id, .. }
        | Event::Release { server: id, .. }
        | Event::Transition { client: id, .. }
        | Event::HeadersWanted { client: id, .. }
        | Event::TokenWanted { client: id, .. }
        | Event::Gap { client: id, .. }
        | Event::Snapshot { client: id, .. }
        | Event::Rejected { client: id, .. }
        | Event::Overflow { client: id, .. }
        | Event::GaveUp { client: id, .. }
        | Event::Flushed { client: id }
        | Event::Room { client: id }
        | Event::Stopped { endpoint: id } => *id,
        Event::Log { endpoint, .. } => return *endpoint,
        Event::Nudge => return None,
    })
}

/// A record that belongs to no object goes to PHP's error log.
fn log(_endpoint: Option<EndpointId>, event: &Event) {
    if let Event::Log { record, .. } = event {
        crate::logger::to_error_log(record);
    }
}

/// Few connections ever have any: each pays for a pointer alone.
#[derive(Debug, Default)]
struct Waiting(VecDeque<Event>);

/// Serialises the callbacks of one connection: while a handler is suspended or has deferred its
/// message, further events of the connection wait here.
#[derive(Debug, Default)]
pub(crate) struct Serial {
    busy: Cell<bool>,
    deferred: Cell<u32>,
    waiting: RefCell<Option<Box<Waiting>>>,
    /// Set by `release`.
    released: Cell<bool>,
}

impl Serial {
    /// Takes the turn; gives the event back when it may be handled now, else keeps it for later.
    pub(crate) fn begin(&self, event: Event) -> Option<Event> {
        if !self.released.get() && (self.busy.get() || self.deferred.get() > 0) {
            self.waiting.borrow_mut().get_or_insert_default().0.push_back(event);
            return None;
        }
        self.busy.set(true);
        Some(event)
    }

    /// Takes the turn of a connection that is new.
    pub(crate) fn enter(&self) {
        self.busy.set(true);
    }

    /// Takes the turn, if it is nobody's.
    pub(crate) fn try_enter(&self) -> bool {
        let free = !self.busy.get() && self.deferred.get() == 0 && self.waiting.borrow().is_none();
        self.busy.set(self.busy.get() || free);
        free
    }

    /// The handler has returned: what waited comes next, unless the message was deferred.
    pub(crate) fn end(&self) {
        self.busy.set(false);
        self.resume();
    }

    /// `WsMessage::defer()`.
    pub(crate) fn defer(&self) {
        self.deferred.set(self.deferred.get() + 1);
    }

    /// `WsMessage::ack()`, or the message's last reference is gone.
    pub(crate) fn acknowledge(&self) {
        self.deferred.set(self.deferred.get().saturating_sub(1));
        self.resume();
    }

    /// The server or client has ended: what has waited is to be told now, for nobody looks later.
    pub(crate) fn release(&self) -> VecDeque<Event> {
        self.released.set(true);
        self.take()
    }

    fn take(&self) -> VecDeque<Event> {
        self.waiting.take().map_or_else(VecDeque::new, |waiting| waiting.0)
    }

    /// The connection is gone: messages that waited for their turn are nobody's.
    pub(crate) fn discard(&self) {
        for event in self.take() {
            match event {
                Event::Message { conn, data, .. } | Event::Snapshot { conn, data, .. } => {
                    dispatcher().consume(conn, data.len());
                }
                Event::Items { conn, items, .. } => {
                    for item in &items {
                        dispatcher().consume(conn, item.data.len());
                    }
                }
                Event::Edit { conn, edit, .. } => dispatcher().consume(conn, edit.data.len()),
                _ => {}
            }
        }
    }

    fn resume(&self) {
        if self.busy.get() || self.deferred.get() > 0 || self.waiting.borrow().is_none() {
            return;
        }
        dispatcher().requeue(self.take());
    }
}
