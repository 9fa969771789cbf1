//! One socket of any kind, both roles: plain TCP, Unix, or TLS over TCP.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use crate::poller::{Socket, Writer};

static INHERITED: AtomicBool = AtomicBool::new(false);

/// The process is about to fork (`child` false), or is the child: children may hold our sockets, whose
/// peers then learn of no end by a close alone. Only touches an atomic.
pub fn handle_fork(child: bool) {
    INHERITED.store(!child, Ordering::SeqCst);
}

/// A child may hold our sockets.
pub(crate) fn is_inherited() -> bool {
    INHERITED.load(Ordering::SeqCst)
}

/// A connected byte stream; boxed but for the kind that most connections keep. Registered with the tokio
/// runtime of the thread that made it.
#[derive(Debug)]
pub enum Stream {
    Tcp(Box<TcpStream>),
    /// TCP that was accepted.
    Plain(Socket),
    /// TCP whose writing side is elsewhere, see [`Stream::share`].
    Shared(OwnedReadHalf),
    Unix(Box<UnixStream>),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// See [`AsyncRead::poll_read`].
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => AsyncRead::poll_read(Pin::new(&mut **stream), cx, buffer),
            Self::Plain(socket) => socket.poll_read(buffer),
            Self::Shared(reader) => AsyncRead::poll_read(Pin::new(reader), cx, buffer),
            Self::Unix(stream) => AsyncRead::poll_read(Pin::new(&mut **stream), cx, buffer),
            Self::Tls(stream) => AsyncRead::poll_read(Pin::new(stream), cx, buffer),
        }
    }

    /// See [`AsyncWrite::poll_write`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => AsyncWrite::poll_write(Pin::new(&mut **stream), cx, bytes),
            Self::Plain(socket) => socket.poll_write(&[IoSlice::new(bytes)], false),
            Self::Shared(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
            Self::Unix(stream) => AsyncWrite::poll_write(Pin::new(&mut **stream), cx, bytes),
            Self::Tls(stream) => AsyncWrite::poll_write(Pin::new(stream), cx, bytes),
        }
    }

    /// See [`AsyncWrite::poll_write_vectored`].
    pub fn poll_write_vectored(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        // send() costs the kernel less than writev().
        if let [slice] = slices {
            return self.poll_write(cx, slice);
        }
        match self {
            Self::Tcp(stream) => AsyncWrite::poll_write_vectored(Pin::new(&mut **stream), cx, slices),
            Self::Plain(socket) => socket.poll_write(slices, false),
            Self::Shared(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
            Self::Unix(stream) => AsyncWrite::poll_write_vectored(Pin::new(&mut **stream), cx, slices),
            Self::Tls(stream) => AsyncWrite::poll_write_vectored(Pin::new(stream), cx, slices),
        }
    }

    /// True when [`Stream::poll_write_vectored`] takes more than the first slice.
    #[must_use]
    pub fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => AsyncWrite::is_write_vectored(&**stream),
            Self::Plain(_) | Self::Shared(_) => true,
            Self::Unix(stream) => AsyncWrite::is_write_vectored(&**stream),
            Self::Tls(stream) => AsyncWrite::is_write_vectored(stream),
        }
    }

    /// Gives what TLS still holds to the kernel; plain sockets hold nothing.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => AsyncWrite::poll_flush(Pin::new(&mut **stream), cx),
            Self::Plain(_) | Self::Shared(_) => Poll::Ready(Ok(())),
            Self::Unix(stream) => AsyncWrite::poll_flush(Pin::new(&mut **stream), cx),
            Self::Tls(stream) => AsyncWrite::poll_flush(Pin::new(stream), cx),
        }
    }

    /// Ends our direction (for TLS after a `close_notify`); reading goes on.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => AsyncWrite::poll_shutdown(Pin::new(&mut **stream), cx),
            Self::Plain(socket) => Poll::Ready(SockRef::from(&*socket).shutdown(Shutdown::Write)),
            Self::Shared(reader) => {
                let stream: &TcpStream = reader.as_ref();
                Poll::Ready(SockRef::from(stream).shutdown(Shutdown::Write))
            }
            Self::Unix(stream) => AsyncWrite::poll_shutdown(Pin::new(&mut **stream), cx),
            Self::Tls(stream) => AsyncWrite::poll_shutdown(Pin::new(stream), cx),
        }
    }

    /// Takes the writing side of a plain TCP socket out, so that another thread may write without waiting
    /// (nothing for other kinds): writes to the stream itself fail from then on. Who writes when is the
    /// callers' matter.
    #[must_use]
    pub fn share(self) -> (Self, Option<SharedWriter>) {
        match self {
            Self::Tcp(stream) => {
                // tokio's halves, because only its own reading knows that a short read has emptied the
                // socket: anything else asks the kernel once more for each message.
                let (reader, writer) = stream.into_split();
                (Self::Shared(reader), Some(SharedWriter(Some(Half::Tokio(writer)))))
            }
            Self::Plain(socket) => {
                let writer = SharedWriter(Some(Half::Plain(socket.writer())));
                (Self::Plain(socket), Some(writer))
            }
            other => (other, None),
        }
    }

    /// Turns Nagle's algorithm off (`true`) or on; does nothing on a Unix socket.
    ///
    /// # Errors
    /// That of `setsockopt`: the socket is gone.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.tcp().map_or(Ok(()), |stream| stream.set_tcp_nodelay(on))
    }

    /// Makes the coming drop cut the link with a reset, so that the kernel keeps nothing of a dead
    /// peer: what was written and not yet acknowledged is thrown away too. Drop the stream next.
    pub fn abort(&self) {
        if let Some(stream) = self.tcp() {
            // Fails only when the socket is already gone, and then there is nothing to cut.
            let _ = stream.set_linger(Some(Duration::ZERO));
        }
    }

    /// True when the bytes on the wire are encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    fn tcp(&self) -> Option<SockRef<'_>> {
        match self {
            Self::Tcp(stream) => Some(SockRef::from(&**stream)),
            Self::Plain(socket) => Some(SockRef::from(socket)),
            Self::Shared(reader) => Some(SockRef::from(AsRef::<TcpStream>::as_ref(reader))),
            Self::Unix(_) => None,
            Self::Tls(stream) => Some(SockRef::from(stream.get_ref().0)),
        }
    }
}

/// The writing side of a TCP socket, for two threads.
#[derive(Debug)]
pub struct SharedWriter(Option<Half>);

#[derive(Debug)]
enum Half {
    Tokio(OwnedWriteHalf),
    Plain(Writer),
}

impl SharedWriter {
    /// Writes what the socket takes at once.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; else what the socket says.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match (self.half()?, slices) {
            (Half::Plain(writer), _) => writer.try_write(slices),
            (Half::Tokio(half), [slice]) => half.try_write(slice),
            (Half::Tokio(half), _) => half.try_write_vectored(slices),
        }
    }

    /// Writes until something is taken or the socket has to be waited for. `last`: it is closed as soon as
    /// all is written, so that the end may travel with the last bytes.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        let stream: &TcpStream = match self.half()? {
            Half::Plain(writer) => return writer.poll_write(slices, last),
            Half::Tokio(half) => half.as_ref(),
        };
        loop {
            match self.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(stream.poll_write_ready(cx))?,
                result => return Poll::Ready(result),
            }
        }
    }

    /// Empty only while it is dropped.
    fn half(&self) -> io::Result<&Half> {
        self.0.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for SharedWriter {
    fn drop(&mut self) {
        // tokio's half says goodbye when it is dropped, also where the link is to be cut.
        if let Some(Half::Tokio(half)) = self.0.take() {
            half.forget();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Self::poll_read(self.get_mut(), cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(self.get_mut(), cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_flush(self.get_mut(), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_shutdown(self.get_mut(), cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Self::poll_write_vectored(self.get_mut(), cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        Self::is_write_vectored(self)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::poller::Poller;

    async fn pair() -> (Stream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Stream::Tcp(near.unwrap().into()), Stream::Tcp(far.unwrap().0.into()))
    }

    #[tokio::test]
    async fn an_aborted_link_ends_with_a_reset() {
        let (near, mut far) = pair().await;
        near.abort();
        drop(near);
        let error = far.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_shared_link_is_cut_with_a_reset_and_no_goodbye() {
        let (near, mut far) = pair().await;
        let (mut near, direct) = near.share();
        let direct = direct.unwrap();
        direct.try_write_vectored(&[IoSlice::new(b"a")]).unwrap();
        let slices = [IoSlice::new(b"b")];
        assert_eq!(std::future::poll_fn(|cx| direct.poll_write_vectored(cx, &slices, false)).await.unwrap(), 1);
        assert_eq!(near.write(b"?").await.unwrap_err().kind(), io::ErrorKind::Unsupported);
        far.write_all(b"c").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'c');
        near.abort();
        drop((near, direct));
        let mut got = Vec::new();
        let error = far.read_to_end(&mut got).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn the_last_bytes_leave_with_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let near = listener.accept().await.unwrap().0.into_std().unwrap();
        let (written, is_written) = tokio::sync::oneshot::channel();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        Poller::start(&tokio::runtime::Handle::current())
            .unwrap()
            .spawn(near.into(), |near| async move {
                let (near, direct) = Stream::Plain(near).share();
                let direct = direct.unwrap();
                let slices = [IoSlice::new(b"last")];
                let count = std::future::poll_fn(|cx| direct.poll_write_vectored(cx, &slices, true)).await.unwrap();
                written.send(count).unwrap();
                ended.await.unwrap();
                drop((near, direct));
            })
            .unwrap();
        assert_eq!(is_written.await.unwrap(), 4);
        let early = far.try_read(&mut [0; 8]);
        assert_eq!(early.unwrap_err().kind(), io::ErrorKind::WouldBlock, "kept back, for a while");
        end.send(()).unwrap();
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"last");
    }

    #[tokio::test]
    async fn a_dropped_link_ends_in_order() {
        let (mut near, mut far) = pair().await;
        near.write_all(b"last").await.unwrap();
        drop(near);
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"last");
    }

    #[tokio::test]
    async fn slices_leave_in_one_write() {
        let (mut near, mut far) = pair().await;
        assert!(near.is_write_vectored());
        let slices = [IoSlice::new(b"ab"), IoSlice::new(b"cd")];
        let sent = std::future::poll_fn(|cx| near.poll_write_vectored(cx, &slices)).await.unwrap();
        assert_eq!(sent, 4);
        let mut got = [0; 4];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"abcd");
    }

    #[tokio::test]
    async fn a_unix_socket_has_no_nagle_and_no_reset() {
        let (near, far) = UnixStream::pair().unwrap();
        let (near, mut far) = (Stream::Unix(near.into()), Stream::Unix(far.into()));
        near.set_nodelay(true).unwrap();
        near.abort();
        drop(near);
        assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
