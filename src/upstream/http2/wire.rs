//! The connection under HTTP/2 as the library reads and writes it: counted, and taken in laps.
//!
//! The library reads for as long as there is anything. Here a reader gets its turn after [`LAP`] bytes at the latest, so
//! that what has come is looked after (`inlet`) before there is too much of it. Whoever drives the connection begins
//! the next lap.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{self, Instant};

/// So many bytes are read before others get their turn. The smallest DATA frames that fit in there cost far less than
/// the library allows before it gives up the connection for them.
pub(super) const LAP: usize = 32 * 1024;

/// What is known of a connection from its bytes alone.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Bytes that the server has sent.
    read: Cell<u64>,
    /// When the server was last heard of.
    heard: Cell<Instant>,
    /// Bytes that may still be read in this lap.
    left: Cell<usize>,
}

impl Pulse {
    fn new() -> Self {
        Self { read: Cell::new(0), heard: Cell::new(clock::now()), left: Cell::new(LAP) }
    }

    /// Bytes that the server has sent.
    pub(super) fn read(&self) -> u64 {
        self.read.get()
    }

    /// When the server was last heard of.
    pub(super) fn heard(&self) -> Instant {
        self.heard.get()
    }

    /// Begins a new lap if the last one is over, however many turns it took.
    pub(super) fn begin_lap(&self) -> bool {
        let is_over = self.left.get() == 0;
        if is_over {
            self.left.set(LAP);
        }
        is_over
    }
}

/// See the module.
pub(super) struct Wire<S> {
    stream: S,
    pulse: Rc<Pulse>,
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, pulse: Rc::new(Pulse::new()) }
    }

    pub(super) fn pulse(&self) -> Rc<Pulse> {
        self.pulse.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = this.pulse.left.get();
        if left == 0 {
            // The driver begins the next lap when it is woken.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        if count > 0 {
            this.pulse.read.set(this.pulse.read.get() + count as u64);
            this.pulse.heard.set(clock::now());
            this.pulse.left.set(left.saturating_sub(count));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
