//! Readiness and turns of many accepted sockets at little memory each.
//!
//! tokio keeps 256 bytes for each socket that it watches and aligns both these and each task to 128. A
//! server's plain sockets are watched by an epoll of their own instead, one an I/O thread, which tokio
//! watches in turn, and the futures that own them have their turns in the one task that does so: an idle
//! socket costs what [`Inner`] is and its future.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::mem::{MaybeUninit, take};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use futures_util::task::{ArcWake, AtomicWaker, waker_ref};
use parking_lot::Mutex;
use rustix::event::{Timespec, epoll};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};
use tokio::runtime::Handle;

/// Events taken at once.
const BATCH: usize = 256;
/// Futures that have a turn before tokio's other tasks get theirs.
const TURNS: usize = 8;

/// The socket may have something to read.
const READABLE: u8 = 1;
/// It may take something.
const WRITABLE: u8 = 2;
/// The peer has ended its side, or the link has failed: to be read until it says so.
const ENDED: u8 = 4;
/// The future waits for the one or the other.
const WANTS_READ: u8 = 8;
const WANTS_WRITE: u8 = 16;
/// The future is in the queue for a turn.
const QUEUED: u8 = 32;
/// The future is gone: who still wakes it means nobody.
const GONE: u8 = 64;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See the module's documentation.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    sockets: Mutex<Table>,
    mail: Mutex<Mail>,
    runner: AtomicWaker,
}

#[derive(Debug, Default)]
struct Table {
    sockets: Vec<Option<Arc<Inner>>>,
    free: Vec<u32>,
}

/// What other threads, and the futures themselves, have for the runner.
#[derive(Default)]
struct Mail {
    arrived: Vec<(u32, Task)>,
    woken: Vec<Arc<Inner>>,
    /// There is no runner any more.
    closed: bool,
}

impl std::fmt::Debug for Mail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { arrived, woken, closed } = self;
        f.debug_struct("Mail").field("arrived", &arrived.len()).field("woken", woken).field("closed", closed).finish()
    }
}

impl Poller {
    /// Begins to watch, as a task of `runtime`.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn start(runtime: &Handle) -> io::Result<Arc<Self>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let poller =
            Arc::new(Self { epoll, sockets: Mutex::default(), mail: Mutex::default(), runner: AtomicWaker::new() });
        let _context = runtime.enter();
        // See `Listener::into_acceptor`. The task's own, because what is registered with a runtime has to
        // go with it.
        #[allow(deprecated)]
        let ready = AsyncFd::with_interest(poller.epoll.try_clone()?, Interest::READABLE)?;
        let mut runner = Runner { poller: poller.clone(), ready, tasks: Vec::new(), queue: VecDeque::new() };
        runtime.spawn(poll_fn(move |task| runner.run(task)));
        Ok(poller)
    }

    /// Runs the future that `task` makes of a non-blocking socket, which is watched until it is dropped. Only
    /// this future may wait for it. When the runtime has ended, the future is dropped.
    ///
    /// # Errors
    /// The kernel cannot watch one more.
    pub fn spawn<T>(self: &Arc<Self>, socket: OwnedFd, task: impl FnOnce(Socket) -> T) -> io::Result<()>
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let socket = self.add(socket)?;
        let inner = socket.0.clone();
        let task: Task = Box::pin(task(socket));
        let mut mail = self.mail.lock();
        if mail.closed {
            drop(mail);
            drop(task);
            self.sockets.lock().free.push(inner.key);
            return Ok(());
        }
        mail.arrived.push((inner.key, task));
        drop(mail);
        inner.wake();
        Ok(())
    }

    fn add(self: &Arc<Self>, socket: OwnedFd) -> io::Result<Socket> {
        use epoll::EventFlags;
        let inner = {
            let mut table = self.sockets.lock();
            let key = table.free.pop().unwrap_or_else(|| {
                table.sockets.push(None);
                u32::try_from(table.sockets.len() - 1).unwrap_or(u32::MAX)
            });
            let inner = Arc::new(Inner { poller: self.clone(), socket, key, state: AtomicU8::new(WRITABLE) });
            table.sockets[key as usize] = Some(inner.clone());
            inner
        };
        let socket = Socket(inner);
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if let Err(error) =
            epoll::add(&self.epoll, &socket.0.socket, epoll::EventData::new_u64(u64::from(socket.0.key)), flags)
        {
            let key = socket.0.key;
            drop(socket);
            self.sockets.lock().free.push(key);
            return Err(error.into());
        }
        Ok(socket)
    }
}

/// The task that watches and gives turns.
struct Runner {
    poller: Arc<Poller>,
    ready: AsyncFd<OwnedFd>,
    /// By the keys of their sockets.
    tasks: Vec<Option<Task>>,
    queue: VecDeque<Arc<Inner>>,
}

impl Runner {
    fn run(&mut self, task: &mut Context<'_>) -> Poll<()> {
        self.poller.runner.register(task.waker());
        let mut more = false;
        loop {
            let mut guard = match self.ready.poll_read_ready(task) {
                Poll::Pending => break,
                // The runtime ends.
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(guard)) => guard,
            };
            if take_events(&self.poller, &mut self.queue) == BATCH {
                more = true;
                break;
            }
            guard.clear_ready();
        }
        self.fetch();
        for _ in 0..TURNS {
            let Some(inner) = self.queue.pop_front() else { break };
            self.turn(&inner);
        }
        if more || !self.queue.is_empty() {
            task.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Takes in what others have left.
    fn fetch(&mut self) {
        let mut mail = self.poller.mail.lock();
        self.queue.extend(mail.woken.drain(..));
        for (key, task) in mail.arrived.drain(..) {
            let key = key as usize;
            if key >= self.tasks.len() {
                self.tasks.resize_with(key + 1, || None);
            }
            self.tasks[key] = Some(task);
        }
        // After a crowd of arrivals.
        mail.arrived.shrink_to(BATCH);
        mail.woken.shrink_to(BATCH);
    }

    fn turn(&mut self, inner: &Arc<Inner>) {
        let before = inner.state.fetch_and(!QUEUED, Ordering::AcqRel);
        let slot = match self.tasks.get_mut(inner.key as usize) {
            Some(slot) if before & GONE == 0 => slot,
            _ => return,
        };
        let Some(mut task) = slot.take() else { return };
        // Dropped while it falls if it does, so that it knows.
        let left = catch_unwind(AssertUnwindSafe(move || {
            let waker = waker_ref(inner);
            task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending().then_some(task)
        }));
        if let Ok(Some(task)) = left {
            *slot = Some(task);
            return;
        }
        inner.state.fetch_or(GONE, Ordering::AcqRel);
        self.poller.sockets.lock().free.push(inner.key);
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let arrived = {
            let mut mail = self.poller.mail.lock();
            mail.closed = true;
            mail.woken = Vec::new();
            take(&mut mail.arrived)
        };
        drop(arrived);
    }
}

/// Takes in what has happened to sockets; returns how much.
fn take_events(poller: &Poller, queue: &mut VecDeque<Arc<Inner>>) -> usize {
    let mut events = [const { MaybeUninit::uninit() }; BATCH];
    // Fails only when interrupted: then it is tried again.
    let Ok((events, _)) = epoll::wait(&poller.epoll, &mut events[..], Some(&Timespec::default())) else {
        return BATCH;
    };
    let table = poller.sockets.lock();
    for event in &*events {
        // One that is not there was closed here and is held open by a child process.
        if let Some(Some(inner)) = table.sockets.get(event.data.u64() as usize)
            && inner.handle_event(event.flags)
            && inner.enqueue()
        {
            queue.push_back(inner.clone());
        }
    }
    events.len()
}

/// What a socket costs.
#[derive(Debug)]
struct Inner {
    poller: Arc<Poller>,
    socket: OwnedFd,
    key: u32,
    state: AtomicU8,
}

impl ArcWake for Inner {
    fn wake_by_ref(inner: &Arc<Self>) {
        inner.wake();
    }
}

impl Inner {
    /// Has the future get a turn.
    fn wake(self: &Arc<Self>) {
        if !self.enqueue() {
            return;
        }
        let mut mail = self.poller.mail.lock();
        if mail.closed {
            return;
        }
        mail.woken.push(self.clone());
        let first = mail.woken.len() == 1;
        drop(mail);
        if first {
            self.poller.runner.wake();
        }
    }

    /// Whether it was not in the queue.
    fn enqueue(&self) -> bool {
        self.state.fetch_or(QUEUED, Ordering::AcqRel) & QUEUED == 0
    }

    /// Whether this is what the future waits for.
    fn handle_event(&self, flags: epoll::EventFlags) -> bool {
        use epoll::EventFlags;
        let mut news = 0;
        if flags.intersects(EventFlags::IN | EventFlags::PRI) {
            news |= READABLE;
        }
        if flags.contains(EventFlags::OUT) {
            news |= WRITABLE;
        }
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            news |= READABLE | WRITABLE | ENDED;
        }
        let before = self.state.fetch_or(news, Ordering::AcqRel);
        let wanted =
            (before & WANTS_READ > 0 && news & READABLE > 0) || (before & WANTS_WRITE > 0 && news & WRITABLE > 0);
        if wanted {
            self.state.fetch_and(!(WANTS_READ | WANTS_WRITE), Ordering::AcqRel);
        }
        wanted
    }

    /// Ready when the socket may do what `ready` says; else the future is woken when it may.
    fn poll_ready(&self, ready: u8, wants: u8) -> Poll<()> {
        if self.state.load(Ordering::Acquire) & ready > 0 || self.state.fetch_or(wants, Ordering::AcqRel) & ready > 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// The socket has said that it may not.
    fn not(&self, ready: u8) {
        self.state.fetch_and(!ready, Ordering::AcqRel);
    }

    fn try_write(&self, slices: &[IoSlice<'_>], flags: SendFlags) -> io::Result<usize> {
        let flags = flags | SendFlags::NOSIGNAL;
        loop {
            let sent = match slices {
                // Costs the kernel less.
                [slice] => rustix::net::send(&self.socket, slice, flags),
                _ => rustix::net::sendmsg(&self.socket, slices, &mut SendAncillaryBuffer::default(), flags),
            };
            match sent {
                Err(rustix::io::Errno::INTR) => {}
                sent => return Ok(sent?),
            }
        }
    }
}

/// A watched socket, for the future that was made of it. Closed when it, its [`Writer`] and wakers of its future are dropped.
#[derive(Debug)]
pub struct Socket(Arc<Inner>);

impl Socket {
    pub fn poll_read(&mut self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.0.poll_ready(READABLE, WANTS_READ).is_pending() {
                return Poll::Pending;
            }
            let room = buffer.initialize_unfilled();
            let length = room.len();
            match rustix::net::recv(&self.0.socket, room, RecvFlags::empty()) {
                Ok((count, _)) => {
                    // A short read has emptied it: what comes next is told. An end that came along is not.
                    if count < length && self.0.state.load(Ordering::Acquire) & ENDED == 0 {
                        self.0.not(READABLE);
                    }
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(rustix::io::Errno::AGAIN) => self.0.not(READABLE),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    pub fn poll_write(&self, slices: &[IoSlice<'_>], last: bool) -> Poll<io::Result<usize>> {
        poll_write(&self.0, slices, last)
    }

    pub fn writer(&self) -> Writer {
        Writer(self.0.clone())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The key is free when the future has ended.
        let entry = self.0.poller.sockets.lock().sockets.get_mut(self.0.key as usize).and_then(Option::take);
        drop(entry);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

/// The writing side of a [`Socket`], for two threads.
#[derive(Debug)]
pub struct Writer(Arc<Inner>);

impl Writer {
    /// Writes what the socket takes at once.
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write(slices, SendFlags::empty())
    }

    /// Only for the socket's future.
    pub fn poll_write(&self, slices: &[IoSlice<'_>], last: bool) -> Poll<io::Result<usize>> {
        poll_write(&self.0, slices, last)
    }
}

fn poll_write(inner: &Inner, slices: &[IoSlice<'_>], last: bool) -> Poll<io::Result<usize>> {
    let flags = if last { SendFlags::MORE } else { SendFlags::empty() };
    loop {
        if inner.poll_ready(WRITABLE, WANTS_WRITE).is_pending() {
            return Poll::Pending;
        }
        match inner.try_write(slices, flags) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => inner.not(WRITABLE),
            result => return Poll::Ready(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;
    use crate::stream::Stream;

    fn poller() -> Arc<Poller> {
        Poller::start(&Handle::current()).unwrap()
    }

    fn pair() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let near = listener.accept().unwrap().0;
        near.set_nonblocking(true).unwrap();
        (near.into(), far)
    }

    /// What `task` returns once it has run.
    async fn run<T, F>(poller: &Arc<Poller>, socket: OwnedFd, task: impl FnOnce(Socket) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        poller
            .spawn(socket, |socket| {
                let task = task(socket);
                async move { drop(sender.send(task.await)) }
            })
            .unwrap();
        in_time(receiver).await.expect("the task ends")
    }

    async fn in_time<T>(future: impl Future<Output = T>) -> T {
        // Its own wake must not be what lets the future go on.
        tokio::select! {
            biased;
            () = tokio::time::sleep(Duration::from_secs(10)) => panic!("nobody was woken"),
            done = future => done,
        }
    }

    #[tokio::test]
    async fn what_comes_is_read_and_so_is_an_end_that_came_along() {
        let poller = poller();
        let (near, mut far) = pair();
        let (asking, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let writing = std::thread::spawn(move || {
            for text in ["a", "bc"] {
                // After the other has begun to wait.
                asked.blocking_recv().unwrap();
                far.write_all(text.as_bytes()).unwrap();
            }
            asked.blocking_recv().unwrap();
            far.write_all(b"last").unwrap();
            far.shutdown(Shutdown::Write).unwrap();
        });
        let got = run(&poller, near, |near| async move {
            let mut near = Stream::Plain(near);
            let mut got = Vec::new();
            for _ in 0..2 {
                let mut some = [0; 64];
                let count = {
                    let mut read = std::pin::pin!(near.read(&mut some));
                    poll_fn(|task| {
                        assert!(read.as_mut().poll(task).is_pending());
                        Poll::Ready(())
                    })
                    .await;
                    asking.send(()).unwrap();
                    read.await.unwrap()
                };
                got.push(String::from_utf8(some[..count].to_vec()).unwrap());
            }
            asking.send(()).unwrap();
            let mut rest = String::new();
            near.read_to_string(&mut rest).await.unwrap();
            got.push(rest);
            got
        })
        .await;
        assert_eq!(got, ["a", "bc", "last"]);
        writing.join().unwrap();
    }

    #[tokio::test]
    async fn who_cannot_write_is_woken_when_it_can() {
        let poller = poller();
        let (near, mut far) = pair();
        let most = 64 << 20;
        let chunk = vec![7; 1 << 20];
        let (full, mut is_full) = tokio::sync::mpsc::unbounded_channel();
        let reading = std::thread::spawn(move || {
            is_full.blocking_recv().unwrap();
            let mut all = Vec::new();
            far.read_to_end(&mut all).map(|_| all.len()).unwrap()
        });
        let sent = run(&poller, near, move |near| async move {
            let writer = near.writer();
            let mut near = Stream::Plain(near);
            let mut sent = 0;
            while sent < most {
                match writer.try_write(&[IoSlice::new(&chunk)]) {
                    Ok(count) => sent += count,
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                        break;
                    }
                }
            }
            assert!(sent < most);
            full.send(()).unwrap();
            near.write_all(&chunk).await.unwrap();
            sent + chunk.len()
        })
        .await;
        assert_eq!(reading.join().unwrap(), sent);
    }

    #[tokio::test]
    async fn a_place_serves_again_and_what_is_gone_is_closed() {
        let poller = poller();
        let (first, mut far) = pair();
        let (second, _second_far) = pair();
        let (end, ended) = oneshot::channel::<()>();
        poller
            .spawn(second, |socket| async move {
                assert_eq!(socket.0.key, 0);
                let _ = ended.await;
            })
            .unwrap();
        assert_eq!(run(&poller, first, |socket| async move { socket.0.key }).await, 1);
        assert_eq!(far.read(&mut [0; 8]).unwrap(), 0);
        let (third, _third_far) = pair();
        assert_eq!(run(&poller, third, |socket| async move { socket.0.key }).await, 1);
        end.send(()).unwrap();
        in_time(poll_fn(|task| {
            task.waker().wake_by_ref();
            if poller.sockets.lock().sockets.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
        }))
        .await;
    }

    #[tokio::test]
    async fn a_place_is_kept_until_the_future_has_ended() {
        let poller = poller();
        let (first, mut first_far) = pair();
        let (end, ended) = oneshot::channel::<()>();
        let (dropped, is_dropped) = oneshot::channel();
        poller
            .spawn(first, |socket| async move {
                drop(socket);
                dropped.send(()).unwrap();
                ended.await.unwrap();
            })
            .unwrap();
        in_time(is_dropped).await.unwrap();
        let (second, _far) = pair();
        assert_eq!(run(&poller, second, |socket| async move { socket.0.key }).await, 1);
        end.send(()).unwrap();
        in_time(poll_fn(|task| {
            task.waker().wake_by_ref();
            if poller.sockets.lock().free.contains(&0) { Poll::Ready(()) } else { Poll::Pending }
        }))
        .await;
        assert_eq!(first_far.read(&mut [0; 8]).unwrap(), 0);
    }

    #[tokio::test]
    async fn one_that_panics_ends_alone_and_knows_it() {
        struct Tell(Option<oneshot::Sender<bool>>);
        impl Drop for Tell {
            fn drop(&mut self) {
                let _ = self.0.take().unwrap().send(std::thread::panicking());
            }
        }
        let poller = poller();
        let (first, mut far) = pair();
        let (sender, receiver) = oneshot::channel();
        let tell = Tell(Some(sender));
        poller
            .spawn(first, |socket| async move {
                let _held = (socket, tell);
                panic!("as the test asked");
            })
            .unwrap();
        assert!(in_time(receiver).await.unwrap());
        assert_eq!(far.read(&mut [0; 8]).unwrap(), 0);
        let (second, _far) = pair();
        assert_eq!(run(&poller, second, |socket| async move { socket.0.key }).await, 0);
    }

    #[tokio::test]
    async fn a_waker_of_one_that_is_gone_wakes_nobody() {
        let poller = poller();
        let (first, _first_far) = pair();
        let waker = run(&poller, first, |_| poll_fn(|task| Poll::Ready(task.waker().clone()))).await;
        let (second, _second_far) = pair();
        let turns = Arc::new(Mutex::new(0));
        let counted = turns.clone();
        poller
            .spawn(second, |socket| {
                poll_fn(move |_| {
                    let _held = &socket;
                    *counted.lock() += 1;
                    Poll::<()>::Pending
                })
            })
            .unwrap();
        waker.wake_by_ref();
        let (third, _third_far) = pair();
        run(&poller, third, |_| async {}).await;
        assert_eq!(*turns.lock(), 1);
    }

    #[test]
    fn a_crowd_leaves_turns_to_others_and_ends_with_the_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let crowd = 100;
        let (poller, waiting) = runtime.block_on(async {
            let poller = poller();
            let done = Arc::new(Mutex::new(0));
            let mut ends = Vec::new();
            for _ in 0..crowd {
                let (near, far) = pair();
                ends.push(far);
                let done = done.clone();
                poller
                    .spawn(near, |socket| async move {
                        *done.lock() += 1;
                        drop((pending::<()>().await, socket));
                    })
                    .unwrap();
            }
            // A task beside them that always wants a turn. (tokio's own `yield_now` waits for more.)
            let mut seen = vec![0];
            let beside = tokio::spawn(poll_fn(move |task| {
                seen.push(*done.lock());
                if seen[seen.len() - 1] == crowd {
                    return Poll::Ready(take(&mut seen));
                }
                task.waker().wake_by_ref();
                Poll::Pending
            }));
            let seen = in_time(beside).await.unwrap();
            assert!(seen.windows(2).all(|two| two[1] - two[0] <= TURNS), "{seen:?}");
            (poller, ends)
        });
        drop(runtime);
        for mut far in waiting {
            assert_eq!(far.read(&mut [0; 8]).unwrap(), 0);
        }
        // One that comes too late is closed.
        let (near, mut far) = pair();
        poller.spawn(near, |socket| async move { drop((pending::<()>().await, socket)) }).unwrap();
        assert_eq!(far.read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn an_idle_socket_stays_small() {
        assert!(size_of::<Inner>() <= 24, "{} bytes", size_of::<Inner>());
    }
}
