//! A client's TLS connection as a byte stream over its socket.
//!
//! Between two polls a connection owns its keys and nothing else, except what could not be helped: a record that came
//! in part, plaintext for which the reader had no room, ciphertext that the socket would not take. Everything else
//! happens in a buffer of the thread's, borrowed within one poll: one read takes as many records as are there, one
//! write sends up to four.
//!
//! Ending: `poll_shutdown` sends close_notify, then FIN (RFC 8446 6.1), and reading goes on; [`Transport::abort`] makes
//! the drop a TCP RST without close_notify. The peer's FIN without close_notify is `Err(UnexpectedEof)` when reading,
//! since it may be a truncation: whoever knows from the protocol above that the data was complete may forgive it.
//! `poll_write` takes nothing while ciphertext of an earlier one waits; `poll_flush` is ready when none does. Only the
//! tickets of TLS 1.3, for which no client waits, stay until the first write or the end, and leave with that.
//! Boxed: the state of a TLS connection has more than 1 KiB, which every future on the way would have room for.

use std::cell::Cell;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use rustls::{CommonState, Error, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use super::engine::{Engine, INPUT, OUTPUT, RECORD, WIRE_RECORD};
use crate::transport::{SCRATCH_SIZE, Socket, Transport};

/// Reads of one poll that may bring nothing for the reader (key updates, empty records, parts of records) before other
/// tasks get their turn.
const ROUNDS: usize = 8;

/// Tickets up to this size leave in one write with what follows them; larger ones, with certificates of clients in
/// them, by themselves.
const COMPANY: usize = 2048;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// A client's TLS connection.
pub struct TlsStream {
    inner: Box<Inner>,
}

struct Inner {
    engine: Engine,
    socket: Socket,
    /// Ciphertext that waits for company: tickets. 0 once something has been sent after the TLS handshake.
    held_back: usize,
}

impl TlsStream {
    /// A connection whose TLS handshake has not begun; see [`handshake`](Self::handshake).
    pub(super) fn new(config: Arc<ServerConfig>, socket: Socket) -> Result<Self, (Error, Socket)> {
        match Engine::new(config) {
            Ok(engine) => Ok(Self { inner: Box::new(Inner { engine, socket, held_back: 0 }) }),
            Err(error) => Err((error, socket)),
        }
    }

    /// Runs the TLS handshake. `read` has come from the socket already.
    ///
    /// # Errors
    /// Those of TLS are `InvalidData`, and the alert for the peer has been sent.
    pub(super) async fn handshake(&mut self, read: &[u8]) -> io::Result<()> {
        for part in read.chunks(RECORD) {
            self.inner.receive(part);
        }
        std::future::poll_fn(|cx| self.inner.poll_handshake(cx)).await
    }

    /// The socket underneath, for options and for peeking: what it says about input is about TLS records, of which
    /// some (key updates) are no data.
    pub fn socket(&self) -> &Socket {
        &self.inner.socket
    }

    pub(super) fn into_socket(self) -> Socket {
        self.inner.socket
    }

    pub(super) fn common(&self) -> &CommonState {
        self.inner.engine.common()
    }

    /// Bytes held in buffers.
    #[cfg(test)]
    pub(super) fn stored(&self) -> usize {
        self.inner.engine.stored()
    }
}

impl Inner {
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let is_over = !self.engine.common().is_handshaking();
            let is_tls13 = self.engine.common().protocol_version() == Some(ProtocolVersion::TLSv1_3);
            if is_over && is_tls13 && self.engine.failed().is_none() {
                self.held_back = self.engine.unsent().len();
                return Poll::Ready(Ok(()));
            }
            let sent = ready!(self.poll_send(cx));
            if let Some(error) = self.engine.failed() {
                return Poll::Ready(Err(error));
            }
            sent?;
            if is_over {
                return Poll::Ready(Ok(()));
            }
            if let Some(end) = self.engine.end() {
                return Poll::Ready(end.and(Err(ErrorKind::UnexpectedEof.into())));
            }
            ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))?;
        }
    }

    fn receive(&mut self, input: &[u8]) {
        let held = self.engine.held();
        with_scratch(|scratch| {
            scratch[held..held + input.len()].copy_from_slice(input);
            self.engine.receive(&mut scratch[..held + input.len()], &mut ReadBuf::new(&mut []));
        });
    }

    /// Reads once from the socket, for `out` or for a state in which reading is over.
    fn poll_receive(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let held = self.engine.held();
        // Not much more than the reader has room for: what is decrypted beyond that has to be kept. But a record at
        // least, since parts of one are copied each time.
        let wanted = if out.remaining() >= SCRATCH_SIZE { INPUT } else { out.remaining() };
        let end = wanted.max(WIRE_RECORD).max(held + RECORD).min(INPUT);
        with_scratch(|scratch| {
            let mut input = ReadBuf::new(&mut scratch[held..end]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut input))?;
            match input.filled().len() {
                0 => self.engine.receive_end(),
                count => self.engine.receive(&mut scratch[..held + count], out),
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Sends what waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held_back = 0;
        while !self.engine.unsent().is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, self.engine.unsent()))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                count => self.engine.mark_sent(count),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Gives the socket close_notify, to leave in one segment with the FIN that follows at once.
    fn try_send_with_fin(&mut self) {
        let (Socket::Tcp(stream), unsent @ [_, ..]) = (&self.socket, self.engine.unsent()) else { return };
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = stream.try_io(Interest::WRITABLE, || Ok(rustix::net::send(stream, unsent, flags)?));
        if let Ok(count) = sent {
            self.engine.mark_sent(count);
        }
    }

    /// Sends what it can of alerts that reading has brought about. Without a waker: that of the writer, who may be
    /// another task, must stay where it is.
    fn try_send(&mut self) {
        let unsent = self.engine.unsent();
        if unsent.len() <= self.held_back {
            return;
        }
        self.held_back = 0;
        let sent = match &self.socket {
            Socket::Tcp(stream) => stream.try_write(unsent),
            Socket::Unix(stream) => stream.try_write(unsent),
        };
        if let Ok(count) = sent {
            self.engine.mark_sent(count);
        }
    }
}

impl Transport for TlsStream {
    fn abort(&mut self) {
        self.inner.socket.abort();
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.socket.poll_reset(cx)
    }

    fn has_ended(&self) -> bool {
        self.inner.socket.has_ended()
    }
}

impl AsFd for TlsStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TlsStream").field("socket", self.socket()).finish_non_exhaustive()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.inner;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        for _ in 0..ROUNDS {
            if buf.filled().len() > before || inner.engine.take_plaintext(buf) {
                return Poll::Ready(Ok(()));
            }
            if let Some(end) = inner.engine.end() {
                return Poll::Ready(end);
            }
            ready!(inner.poll_receive(cx, buf))?;
            inner.try_send();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.inner;
        if inner.engine.unsent().len() > inner.held_back.min(COMPANY) {
            ready!(inner.poll_send(cx))?;
        }
        inner.held_back = 0;
        with_scratch(|scratch| {
            let (out, gather) = scratch.split_at_mut(COMPANY + OUTPUT);
            let company = inner.engine.unsent().len();
            let sealed = inner.engine.seal(slices, &mut out[company..], gather)?;
            let mut rest = &out[company..company + sealed.length];
            // Otherwise something stands before what was sealed.
            if inner.engine.unsent().len() == company {
                inner.engine.take_unsent(out);
                rest = &out[..company + sealed.length];
                if !rest.is_empty()
                    && let Poll::Ready(sent) = Pin::new(&mut inner.socket).poll_write(cx, rest)?
                {
                    rest = &rest[sent..];
                }
            }
            inner.engine.keep_unsent(rest);
            Poll::Ready(Ok(sealed.accepted))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.inner;
        if inner.engine.unsent().len() <= inner.held_back {
            return Poll::Ready(Ok(()));
        }
        inner.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.inner;
        inner.engine.close();
        inner.try_send_with_fin();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.socket).poll_shutdown(cx)
    }
}

/// Lends the thread's buffer, of [`COMPANY`] + [`OUTPUT`] + [`RECORD`] bytes with arbitrary content. A call within a
/// call would get a new one.
fn with_scratch<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    const { assert!(INPUT <= OUTPUT) };
    let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; COMPANY + OUTPUT + RECORD].into_boxed_slice());
    let result = work(&mut scratch);
    SCRATCH.set(Some(scratch));
    result
}
