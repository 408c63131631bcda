//! TCP and unix sockets as one type.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, sockopt};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::{Transport, delegate_io};

/// A connected stream socket.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Whether the peer has sent something, closed or reset while nobody was reading. One `recv(MSG_PEEK)`, which
    /// unlike the runtime's cached readiness cannot be out of date.
    pub fn has_input_or_end(&self) -> bool {
        let mut byte = [0_u8; 1];
        let answer = rustix::net::recv(self.as_fd(), &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(answer, Err(rustix::io::Errno::AGAIN))
    }

    /// Copies what has come into `buffer` (not empty) and leaves it where it is; 0 is the end. For whoever may take only
    /// what belongs to it, with [`take_peeked`](Self::take_peeked): to look again before that finds the same bytes, and
    /// does not wait.
    pub fn poll_peek(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_reading(cx, |socket| Ok(rustix::net::recv(socket, &mut *buffer, RecvFlags::PEEK)?.0))
    }

    /// Takes as many bytes as `peeked` has, into it.
    ///
    /// # Errors
    /// They have not been seen by [`poll_peek`](Self::poll_peek), or the socket has failed since.
    pub fn take_peeked(&self, mut peeked: &mut [u8]) -> io::Result<()> {
        while !peeked.is_empty() {
            match rustix::net::recv(self.as_fd(), &mut *peeked, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((count, _)) => peeked = &mut peeked[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// TCP_NODELAY; a unix socket has nothing to set.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Ready with what `work`, which reads, says about the descriptor; it must not block, and that it would is waited for.
    pub(super) fn poll_reading<R>(
        &self,
        cx: &mut Context<'_>,
        work: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll_io(cx, Interest::READABLE, work)
    }

    /// As [`poll_reading`](Self::poll_reading), for the other direction.
    pub(super) fn poll_writing<R>(
        &self,
        cx: &mut Context<'_>,
        work: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll_io(cx, Interest::WRITABLE, work)
    }

    fn poll_io<R>(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        mut work: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            match (self, interest.is_readable()) {
                (Self::Tcp(stream), true) => ready!(stream.poll_read_ready(cx))?,
                (Self::Tcp(stream), false) => ready!(stream.poll_write_ready(cx))?,
                (Self::Unix(stream), true) => ready!(stream.poll_read_ready(cx))?,
                (Self::Unix(stream), false) => ready!(stream.poll_write_ready(cx))?,
            }
            let answer = self.try_io(interest, &mut work);
            if !answer.as_ref().is_err_and(is_not_now) {
                return Poll::Ready(answer);
            }
        }
    }

    fn try_io<R>(&self, interest: Interest, work: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, || work(stream.as_fd())),
            Self::Unix(stream) => stream.try_io(interest, || work(stream.as_fd())),
        }
    }
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl Transport for Socket {
    fn abort(&mut self) {
        if let Self::Tcp(stream) = self {
            // Fails only on a socket that is already gone.
            let _ = sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO));
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self::Tcp(stream) = self else { return Poll::Pending };
        // Asked only to be woken: input or an end that nobody has read yet hides a reset until something else wakes us.
        let _ = stream.poll_read_ready(cx);
        let failed = pin!(stream.ready(Interest::ERROR)).poll(&mut Context::from_waker(Waker::noop()));
        match failed {
            Poll::Ready(Ok(ready)) if ready.is_error() => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    fn has_ended(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // What the kernel has told of, without another question.
        let ready = match self {
            Self::Tcp(stream) => pin!(stream.ready(Interest::READABLE)).poll(&mut cx),
            Self::Unix(stream) => pin!(stream.ready(Interest::READABLE)).poll(&mut cx),
        };
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    fn as_socket(&self) -> Option<&Socket> {
        Some(self)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

delegate_io!(Socket { Tcp, Unix });

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::ErrorKind;
    use std::pin::Pin;

    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
    use tokio::net::TcpListener;

    use super::*;

    async fn tcp() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let near = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
        (Socket::Tcp(near), listener.accept().await.expect("accept").0)
    }

    fn unix() -> (Socket, UnixStream) {
        let (near, far) = UnixStream::pair().expect("pair");
        (Socket::Unix(near), far)
    }

    #[tokio::test]
    async fn an_aborted_tcp_socket_is_a_reset_for_its_peer_and_a_dropped_one_is_an_end() {
        let (mut near, mut far) = tcp().await;
        near.abort();
        drop(near);
        let error = far.read(&mut [0; 1]).await.expect_err("a reset");
        assert!(super::super::is_reset(&error));
        let (near, mut far) = tcp().await;
        drop(near);
        assert_eq!(far.read(&mut [0; 1]).await.expect("an end"), 0);
        let (mut near, mut far) = unix();
        near.abort();
        drop(near);
        assert_eq!(far.read(&mut [0; 1]).await.expect("a unix socket has no other end"), 0);
    }

    #[tokio::test]
    async fn a_reset_is_noticed_without_reading_and_neither_input_nor_an_end_is_taken_for_one() {
        let (mut near, mut far) = tcp().await;
        assert!(poll_fn(|cx| Poll::Ready(near.poll_reset(cx))).await.is_pending());
        sockopt::set_socket_linger(far.as_fd(), Some(Duration::ZERO)).expect("a socket option");
        far.flush().await.expect("open");
        drop(far);
        poll_fn(|cx| near.poll_reset(cx)).await;
        let (mut near, mut far) = tcp().await;
        far.write_all(b"x").await.expect("taken");
        far.shutdown().await.expect("shut");
        poll_fn(|cx| Pin::new(&mut near).poll_read(cx, &mut ReadBuf::new(&mut [0; 1]))).await.expect("input");
        assert!(poll_fn(|cx| Poll::Ready(near.poll_reset(cx))).await.is_pending());
    }

    #[tokio::test]
    async fn an_end_is_noticed_behind_bytes_that_nobody_has_read() {
        for is_unix in [false, true] {
            let (near, mut far): (Socket, Box<dyn AsyncWrite + Unpin>) = if is_unix {
                let (near, far) = unix();
                (near, Box::new(far))
            } else {
                let (near, far) = tcp().await;
                (near, Box::new(far))
            };
            assert!(!near.has_ended());
            far.write_all(b"x").await.expect("taken");
            poll_fn(|cx| near.poll_reading(cx, |_| Ok(()))).await.expect("input");
            assert!(!near.has_ended());
            far.shutdown().await.expect("shut");
            while !near.has_ended() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    #[tokio::test]
    async fn shutting_the_write_side_leaves_the_read_side_open() {
        let (mut near, mut far) = tcp().await;
        poll_fn(|cx| Pin::new(&mut near).poll_shutdown(cx)).await.expect("shut");
        assert_eq!(far.read(&mut [0; 1]).await.expect("an end"), 0);
        far.write_all(b"late").await.expect("still taken");
        let mut answer = [0; 4];
        near.read_exact(&mut answer).await.expect("arrives");
        assert_eq!(&answer, b"late");
        assert_eq!(near.write(b"x").await.expect_err("shut").kind(), ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_look_tells_silence_from_input_and_from_an_end() {
        let (near, mut far) = unix();
        assert!(!near.has_input_or_end());
        far.write_all(b"x").await.expect("taken");
        assert!(near.has_input_or_end());
        let (near, far) = unix();
        drop(far);
        assert!(near.has_input_or_end());
    }
}
