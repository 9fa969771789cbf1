//! Readiness of many accepted sockets at little memory each.
//!
//! tokio keeps 256 bytes for each socket that it watches, beside what the allocator needs to align them.
//! A server's plain sockets are watched by an epoll of their own instead, one an I/O thread, which tokio
//! watches in turn: an idle socket costs what [`Inner`] is.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use rustix::event::{Timespec, epoll};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};

/// Events taken at once.
const BATCH: usize = 256;

/// The socket may have something to read.
const READABLE: u8 = 1;
/// It may take something.
const WRITABLE: u8 = 2;
/// The peer has ended its side, or the link has failed: to be read until it says so.
const ENDED: u8 = 4;
/// The task waits for the one or the other.
const WANTS_READ: u8 = 8;
const WANTS_WRITE: u8 = 16;

/// See the module's documentation.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    sockets: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    sockets: Vec<Option<Arc<Inner>>>,
    free: Vec<u32>,
}

impl Poller {
    /// Begins to watch, as a task of the current runtime.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn start() -> io::Result<Arc<Self>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let poller = Arc::new(Self { epoll, sockets: Mutex::default() });
        // See `Listener::into_acceptor`. The task's own, because what is registered with a runtime has to
        // go with it.
        #[allow(deprecated)]
        let ready = AsyncFd::with_interest(poller.epoll.try_clone()?, Interest::READABLE)?;
        tokio::spawn(poller.clone().run(ready));
        Ok(poller)
    }

    /// Watches a non-blocking socket until it is dropped.
    ///
    /// # Errors
    /// The kernel cannot watch one more.
    pub fn add(self: &Arc<Self>, socket: OwnedFd) -> io::Result<Socket> {
        use epoll::EventFlags;
        let inner = {
            let mut table = self.sockets.lock();
            let key = table.free.pop().unwrap_or_else(|| {
                table.sockets.push(None);
                u32::try_from(table.sockets.len() - 1).unwrap_or(u32::MAX)
            });
            let waker = AtomicWaker::new();
            let inner = Arc::new(Inner { poller: self.clone(), waker, socket, key, state: AtomicU8::new(WRITABLE) });
            table.sockets[key as usize] = Some(inner.clone());
            inner
        };
        let socket = Socket(inner);
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &socket.0.socket, epoll::EventData::new_u64(u64::from(socket.0.key)), flags)?;
        Ok(socket)
    }

    async fn run(self: Arc<Self>, ready: AsyncFd<OwnedFd>) {
        while let Ok(mut guard) = poll_fn(|task| ready.poll_read_ready(task)).await {
            if self.take() < BATCH {
                guard.clear_ready();
            }
        }
    }

    /// Takes in what has happened; returns how much.
    fn take(&self) -> usize {
        let mut events = [const { MaybeUninit::uninit() }; BATCH];
        // Fails only when interrupted: then it is tried again.
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events[..], Some(&Timespec::default())) else {
            return BATCH;
        };
        let table = self.sockets.lock();
        for event in &*events {
            // One that is not there was closed here and is held open by a child process.
            if let Some(Some(inner)) = table.sockets.get(event.data.u64() as usize) {
                inner.handle_event(event.flags);
            }
        }
        events.len()
    }
}

/// What a socket costs.
#[derive(Debug)]
struct Inner {
    poller: Arc<Poller>,
    waker: AtomicWaker,
    socket: OwnedFd,
    key: u32,
    state: AtomicU8,
}

impl Inner {
    fn handle_event(&self, flags: epoll::EventFlags) {
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
            self.waker.wake();
        }
    }

    /// Ready when the socket may do what `ready` says; else the task is woken when it may.
    fn poll_ready(&self, task: &Context<'_>, ready: u8, wants: u8) -> Poll<()> {
        if self.state.load(Ordering::Acquire) & ready > 0 {
            return Poll::Ready(());
        }
        self.waker.register(task.waker());
        if self.state.fetch_or(wants, Ordering::AcqRel) & ready > 0 { Poll::Ready(()) } else { Poll::Pending }
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

/// A watched socket, for one task. Closed when it and its [`Writer`] are dropped.
#[derive(Debug)]
pub struct Socket(Arc<Inner>);

impl Socket {
    pub fn poll_read(&mut self, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.0.poll_ready(task, READABLE, WANTS_READ).is_pending() {
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

    pub fn poll_write(&self, task: &Context<'_>, slices: &[IoSlice<'_>], last: bool) -> Poll<io::Result<usize>> {
        poll_write(&self.0, task, slices, last)
    }

    pub fn writer(&self) -> Writer {
        Writer(self.0.clone())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let key = self.0.key;
        let mut table = self.0.poller.sockets.lock();
        let entry = table.sockets.get_mut(key as usize).and_then(Option::take);
        table.free.push(key);
        drop(table);
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

    /// Only for the socket's task.
    pub fn poll_write(&self, task: &Context<'_>, slices: &[IoSlice<'_>], last: bool) -> Poll<io::Result<usize>> {
        poll_write(&self.0, task, slices, last)
    }
}

fn poll_write(inner: &Inner, task: &Context<'_>, slices: &[IoSlice<'_>], last: bool) -> Poll<io::Result<usize>> {
    let flags = if last { SendFlags::MORE } else { SendFlags::empty() };
    loop {
        if inner.poll_ready(task, WRITABLE, WANTS_WRITE).is_pending() {
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
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::stream::Stream;

    fn pair(poller: &Arc<Poller>) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let near = listener.accept().unwrap().0;
        near.set_nonblocking(true).unwrap();
        (poller.add(near.into()).unwrap(), far)
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
        use tokio::io::AsyncReadExt;
        let poller = Poller::start().unwrap();
        let (near, mut far) = pair(&poller);
        let mut near = Stream::Plain(near);
        let mut got = [0; 64];
        for text in ["a", "bc"] {
            let (count, ()) = in_time(async {
                tokio::join!(async { near.read(&mut got).await.unwrap() }, async {
                    // After the other has begun to wait.
                    tokio::task::yield_now().await;
                    far.write_all(text.as_bytes()).unwrap();
                })
            })
            .await;
            assert_eq!(&got[..count], text.as_bytes());
        }
        far.write_all(b"last").unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        in_time(near.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest, b"last");
    }

    #[tokio::test]
    async fn who_cannot_write_is_woken_when_it_can() {
        use tokio::io::AsyncWriteExt;
        let poller = Poller::start().unwrap();
        let (near, mut far) = pair(&poller);
        let writer = near.writer();
        let mut near = Stream::Plain(near);
        let most = 64 << 20;
        let chunk = vec![7; 1 << 20];
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
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            far.read_to_end(&mut all).map(|_| all.len()).unwrap()
        });
        in_time(near.write_all(&chunk)).await.unwrap();
        drop((near, writer));
        assert_eq!(reading.join().unwrap(), sent + chunk.len());
    }

    #[tokio::test]
    async fn a_place_serves_again_and_what_is_gone_is_closed() {
        let poller = Poller::start().unwrap();
        let (first, mut far) = pair(&poller);
        let (second, _far) = pair(&poller);
        assert_eq!((first.0.key, second.0.key), (0, 1));
        drop(first);
        assert_eq!(far.read(&mut [0; 8]).unwrap(), 0);
        let (third, _far) = pair(&poller);
        assert_eq!(third.0.key, 0);
        drop((second, third));
        assert!(poller.sockets.lock().sockets.iter().all(Option::is_none));
    }

    #[test]
    fn an_idle_socket_stays_small() {
        assert!(size_of::<Inner>() <= 48, "{} bytes", size_of::<Inner>());
    }
}
