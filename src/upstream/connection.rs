//! A connection to a server with hyper's client on it, and the look at its socket that the pool needs.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use hyper::client::conn::http1;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::capacity::Kept;
use super::dial::UpstreamStream;
use super::request_body::RequestBody;
use crate::clock::Instant;

/// The head of an answer may be this large.
pub(super) const MAX_ANSWER_HEAD: usize = 64 * 1024;

/// A connection to a server with hyper on it.
pub(super) struct Connection {
    pub(super) sender: http1::SendRequest<RequestBody>,
    watch: WireWatch,
    pub(super) task: tokio::task::AbortHandle,
    pub(super) reused: bool,
}

impl Connection {
    pub(super) fn new(
        sender: http1::SendRequest<RequestBody>,
        watch: WireWatch,
        task: tokio::task::AbortHandle,
    ) -> Self {
        Self { sender, watch, task, reused: false }
    }

    /// Bytes that the server has sent so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.watch.read.get()
    }

    /// Which of its addresses the server was reached at; `None`: at a unix socket, or not any more.
    pub(super) fn destination(&self) -> Option<SocketAddr> {
        self.watch.wire.upgrade()?.borrow().stream.destination()
    }

    /// Whether a request may be sent: nobody hung up, nothing unexpected has arrived.
    pub(super) fn is_clean(&self) -> bool {
        self.sender.is_ready() && self.watch.is_silent()
    }
}

/// A connection that is not in use.
pub(super) struct Idle {
    pub(super) connection: Connection,
    pub(super) since: Instant,
    #[expect(dead_code, reason = "held until the end")]
    pub(super) kept: Kept,
}

/// How hyper speaks to servers.
pub(super) fn client_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.title_case_headers(true).max_header_size(MAX_ANSWER_HEAD).max_buf_size(2 * MAX_ANSWER_HEAD);
    builder
}

/// A server connection that hyper reads and writes while the pool may look at its socket.
pub(super) struct SharedWire(Rc<RefCell<Wire>>);

struct Wire {
    stream: UpstreamStream,
    read: Rc<Cell<u64>>,
}

/// A look at a connection that hyper owns. Does not keep it open.
pub(super) struct WireWatch {
    wire: Weak<RefCell<Wire>>,
    read: Rc<Cell<u64>>,
}

impl WireWatch {
    /// Still open, and nothing has arrived that nobody read.
    fn is_silent(&self) -> bool {
        self.wire.upgrade().is_some_and(|wire| !wire.borrow().stream.has_input_or_end())
    }
}

impl SharedWire {
    pub(super) fn new(stream: UpstreamStream) -> Self {
        Self(Rc::new(RefCell::new(Wire { stream, read: Rc::default() })))
    }

    pub(super) fn watch(&self) -> WireWatch {
        WireWatch { wire: Rc::downgrade(&self.0), read: self.0.borrow().read.clone() }
    }
}

impl AsyncRead for SharedWire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        let before = buf.filled().len();
        let answer = Pin::new(&mut wire.stream).poll_read(cx, buf);
        wire.read.set(wire.read.get() + (buf.filled().len() - before) as u64);
        answer
    }
}

impl AsyncWrite for SharedWire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_shutdown(cx)
    }
}
