//! One socket of any kind, both roles: plain TCP, Unix, or TLS over TCP.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

/// A connected byte stream. Registered with the tokio runtime of the thread that made it.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    /// TCP whose writing side another thread may use too, see [`Stream::share`].
    Shared(Arc<TcpStream>),
    Unix(UnixStream),
    /// Boxed: a TLS session is a hundred times larger than a socket.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// See [`AsyncRead::poll_read`].
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => AsyncRead::poll_read(Pin::new(stream), cx, buffer),
            Self::Shared(stream) => poll_shared_read(stream, cx, buffer),
            Self::Unix(stream) => AsyncRead::poll_read(Pin::new(stream), cx, buffer),
            Self::Tls(stream) => AsyncRead::poll_read(Pin::new(stream), cx, buffer),
        }
    }

    /// See [`AsyncWrite::poll_write`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => AsyncWrite::poll_write(Pin::new(stream), cx, bytes),
            Self::Shared(stream) => poll_shared_write(stream, cx, || stream.try_write(bytes)),
            Self::Unix(stream) => AsyncWrite::poll_write(Pin::new(stream), cx, bytes),
            Self::Tls(stream) => AsyncWrite::poll_write(Pin::new(stream), cx, bytes),
        }
    }

    /// See [`AsyncWrite::poll_write_vectored`].
    pub fn poll_write_vectored(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => AsyncWrite::poll_write_vectored(Pin::new(stream), cx, slices),
            Self::Shared(stream) => poll_shared_write(stream, cx, || stream.try_write_vectored(slices)),
            Self::Unix(stream) => AsyncWrite::poll_write_vectored(Pin::new(stream), cx, slices),
            Self::Tls(stream) => AsyncWrite::poll_write_vectored(Pin::new(stream), cx, slices),
        }
    }

    /// True when [`Stream::poll_write_vectored`] takes more than the first slice.
    #[must_use]
    pub fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => AsyncWrite::is_write_vectored(stream),
            Self::Shared(..) => true,
            Self::Unix(stream) => AsyncWrite::is_write_vectored(stream),
            Self::Tls(stream) => AsyncWrite::is_write_vectored(stream),
        }
    }

    /// Gives what TLS still holds to the kernel; plain sockets hold nothing.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => AsyncWrite::poll_flush(Pin::new(stream), cx),
            Self::Shared(..) => Poll::Ready(Ok(())),
            Self::Unix(stream) => AsyncWrite::poll_flush(Pin::new(stream), cx),
            Self::Tls(stream) => AsyncWrite::poll_flush(Pin::new(stream), cx),
        }
    }

    /// Ends our direction (for TLS after a `close_notify`); reading goes on.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => AsyncWrite::poll_shutdown(Pin::new(stream), cx),
            Self::Shared(stream) => Poll::Ready(SockRef::from(&**stream).shutdown(Shutdown::Write)),
            Self::Unix(stream) => AsyncWrite::poll_shutdown(Pin::new(stream), cx),
            Self::Tls(stream) => AsyncWrite::poll_shutdown(Pin::new(stream), cx),
        }
    }

    /// Lets another thread write to a plain TCP socket without waiting ([`TcpStream::try_write_vectored`]);
    /// nothing for other kinds. Who writes when is the callers' matter. (Not tokio's split: its writing
    /// half says goodbye when dropped, also where the link is to be cut.)
    #[must_use]
    pub fn share(self) -> (Self, Option<Arc<TcpStream>>) {
        match self {
            Self::Tcp(stream) => {
                let stream = Arc::new(stream);
                (Self::Shared(stream.clone()), Some(stream))
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
            Self::Shared(stream) => Some(stream),
            Self::Unix(_) => None,
            Self::Tls(stream) => Some(stream.get_ref().0),
        }
    }
}

/// Reads what there is, or waits for the socket.
fn poll_shared_read(stream: &TcpStream, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        match stream.try_read_buf(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result.map(drop)),
        }
    }
}

/// Tries `write` until it takes something or the socket has to be waited for.
fn poll_shared_write(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    mut write: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        match write() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(stream.poll_write_ready(cx))?,
            result => return Poll::Ready(result),
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
        (Stream::Tcp(near.unwrap()), Stream::Tcp(far.unwrap().0))
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
        direct.unwrap().try_write(b"a").unwrap();
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
        let (near, mut far) = (Stream::Unix(near), Stream::Unix(far));
        near.set_nodelay(true).unwrap();
        near.abort();
        drop(near);
        assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
