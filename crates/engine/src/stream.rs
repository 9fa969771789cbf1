//! One socket of any kind, both roles: plain TCP, Unix, or TLS over TCP.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

/// A connected byte stream; boxed but for the kind that most connections keep. Registered with the tokio
/// runtime of the thread that made it.
#[derive(Debug)]
pub enum Stream {
    Tcp(Box<TcpStream>),
    /// TCP whose writing side another thread may use too, see [`Stream::share`].
    Shared(OwnedReadHalf, SharedWriter),
    Unix(Box<UnixStream>),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// See [`AsyncRead::poll_read`].
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => AsyncRead::poll_read(Pin::new(&mut **stream), cx, buffer),
            Self::Shared(reader, _) => AsyncRead::poll_read(Pin::new(reader), cx, buffer),
            Self::Unix(stream) => AsyncRead::poll_read(Pin::new(&mut **stream), cx, buffer),
            Self::Tls(stream) => AsyncRead::poll_read(Pin::new(stream), cx, buffer),
        }
    }

    /// See [`AsyncWrite::poll_write`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => AsyncWrite::poll_write(Pin::new(&mut **stream), cx, bytes),
            Self::Shared(_, writer) => writer.poll_write(cx, |half| half.try_write(bytes)),
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
            Self::Shared(_, writer) => writer.poll_write(cx, |half| half.try_write_vectored(slices)),
            Self::Unix(stream) => AsyncWrite::poll_write_vectored(Pin::new(&mut **stream), cx, slices),
            Self::Tls(stream) => AsyncWrite::poll_write_vectored(Pin::new(stream), cx, slices),
        }
    }

    /// True when [`Stream::poll_write_vectored`] takes more than the first slice.
    #[must_use]
    pub fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => AsyncWrite::is_write_vectored(&**stream),
            Self::Shared(..) => true,
            Self::Unix(stream) => AsyncWrite::is_write_vectored(&**stream),
            Self::Tls(stream) => AsyncWrite::is_write_vectored(stream),
        }
    }

    /// Gives what TLS still holds to the kernel; plain sockets hold nothing.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => AsyncWrite::poll_flush(Pin::new(&mut **stream), cx),
            Self::Shared(..) => Poll::Ready(Ok(())),
            Self::Unix(stream) => AsyncWrite::poll_flush(Pin::new(&mut **stream), cx),
            Self::Tls(stream) => AsyncWrite::poll_flush(Pin::new(stream), cx),
        }
    }

    /// Ends our direction (for TLS after a `close_notify`); reading goes on.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => AsyncWrite::poll_shutdown(Pin::new(&mut **stream), cx),
            Self::Shared(reader, _) => {
                let stream: &TcpStream = reader.as_ref();
                Poll::Ready(SockRef::from(stream).shutdown(Shutdown::Write))
            }
            Self::Unix(stream) => AsyncWrite::poll_shutdown(Pin::new(&mut **stream), cx),
            Self::Tls(stream) => AsyncWrite::poll_shutdown(Pin::new(stream), cx),
        }
    }

    /// Lets another thread write to a plain TCP socket without waiting; nothing for other kinds. Who
    /// writes when is the callers' matter.
    #[must_use]
    pub fn share(self) -> (Self, Option<SharedWriter>) {
        match self {
            Self::Tcp(stream) => {
                // tokio's halves, because only its own reading knows that a short read has emptied the
                // socket: anything else asks the kernel once more for each message.
                let (reader, writer) = stream.into_split();
                let writer = SharedWriter(Some(Arc::new(writer)));
                (Self::Shared(reader, writer.clone()), Some(writer))
            }
            other => (other, None),
        }
    }

    /// Turns Nagle's algorithm off (`true`) or on; does nothing on a Unix socket.
    ///
    /// # Errors
    /// That of `setsockopt`: the socket is gone.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.tcp().map_or(Ok(()), |stream| stream.set_nodelay(on))
    }

    /// Makes the coming drop cut the link with a reset, so that the kernel keeps nothing of a dead
    /// peer: what was written and not yet acknowledged is thrown away too. Drop the stream next.
    pub fn abort(&self) {
        if let Some(stream) = self.tcp() {
            // Fails only when the socket is already gone, and then there is nothing to cut.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// True when the bytes on the wire are encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Shared(reader, _) => Some(reader.as_ref()),
            Self::Unix(_) => None,
            Self::Tls(stream) => Some(stream.get_ref().0),
        }
    }
}

/// The writing side of a TCP socket, for two threads.
#[derive(Debug, Clone)]
pub struct SharedWriter(Option<Arc<OwnedWriteHalf>>);

impl SharedWriter {
    /// Writes what the socket takes at once.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; else what the socket says.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [slice] => self.half()?.try_write(slice),
            _ => self.half()?.try_write_vectored(slices),
        }
    }

    /// Tries `write` until it takes something or the socket has to be waited for.
    fn poll_write(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&OwnedWriteHalf) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let half = self.half()?;
        loop {
            match write(half) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let stream: &TcpStream = half.as_ref();
                    ready!(stream.poll_write_ready(cx))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// Empty only while it is dropped.
    fn half(&self) -> io::Result<&OwnedWriteHalf> {
        self.0.as_deref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for SharedWriter {
    fn drop(&mut self) {
        // tokio's half says goodbye when it is dropped, also where the link is to be cut.
        if let Some(half) = self.0.take().and_then(Arc::into_inner) {
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
        direct.unwrap().try_write_vectored(&[IoSlice::new(b"a")]).unwrap();
        near.write_all(b"b").await.unwrap();
        far.write_all(b"c").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'c');
        near.abort();
        drop(near);
        let mut got = Vec::new();
        let error = far.read_to_end(&mut got).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
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
