//! A side as the core sees it: the socket.
//!
//! It does what sockets may do: it gives and takes in pieces, waits for no reason and wakes later, fills up, needs
//! flushing, ends, half-closes, breaks. What the core must not do to it fails on the spot.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{End, Found, Side, is_mere_end};
use crate::transport::Transport;

impl Side {
    fn waits_for_no_reason(&mut self, cx: &mut Context<'_>) -> bool {
        if self.habits.waits == 0 || !self.chance.one_in(self.habits.waits) {
            return false;
        }
        if self.chance.one_in(2) {
            self.idle_wakes += 1;
            cx.waker().wake_by_ref();
        } else {
            self.owes_wake = true;
        }
        true
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        assert!(self.found.is_none(), "{}: read after its end", self.name());
        assert!(!self.is_aborted, "{}: read after it was aborted", self.name());
        assert!(buffer.remaining() > 0, "{}: read into nothing", self.name());
        self.read_waker = None;
        if !self.has_news() || self.waits_for_no_reason(cx) {
            self.read_waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.unread() > 0 {
            let most = self.unread().min(buffer.remaining()).min(self.habits.piece);
            let taken = if self.chance.one_in(2) { most } else { self.chance.between(1, most) };
            buffer.put_slice(&self.sent[self.read..self.read + taken]);
            self.read += taken;
            self.tell(|| format!("is read: {taken} bytes, {} in all", self.read));
            return Poll::Ready(Ok(()));
        }
        self.turns += 1;
        let (found, result) = match self.end {
            Some(End::Reset(kind)) => {
                // The error is told once.
                let told = self.lost == Some(kind);
                (Found::Broken, if told { Ok(()) } else { Err(kind.into()) })
            }
            Some(End::Eof) => (Found::Well, Err(ErrorKind::UnexpectedEof.into())),
            _ => (Found::Well, Ok(())),
        };
        // A write has found it broken; the end that is read now is that of a broken stream.
        let found = if self.lost.is_some_and(|kind| !is_mere_end(kind)) { Found::Broken } else { found };
        self.found = Some(found);
        self.found_at = self.log.step();
        self.tell(|| format!("is read to its end: {found:?}"));
        Poll::Ready(result)
    }

    fn check_open(&self, act: &str) {
        assert!(!self.is_aborted, "{}: {act} after it was aborted", self.name());
        assert!(!self.is_dropped, "{}: {act} after it was dropped", self.name());
        assert!(self.lost.is_none(), "{}: {act} after it had failed", self.name());
    }

    fn fail(&mut self) -> io::Result<()> {
        let Some(kind) = self.write_error else { return Ok(()) };
        self.lost = Some(kind);
        self.turns += 1;
        self.tell(|| format!("refuses: {kind:?}"));
        Err(kind.into())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_open("written to");
        assert!(!self.is_shutting, "{}: written to after its end", self.name());
        assert!(!bytes.is_empty(), "{}: nothing is written", self.name());
        self.write_waker = None;
        self.fail()?;
        if self.room == 0 || self.waits_for_no_reason(cx) {
            self.write_waker = Some(cx.waker().clone());
            self.has_refused = true;
            return Poll::Pending;
        }
        self.has_refused = false;
        let most = bytes.len().min(self.room).min(self.habits.piece);
        let taken = if self.chance.one_in(2) { most } else { self.chance.between(1, most) };
        self.got.extend_from_slice(&bytes[..taken]);
        self.room -= taken;
        if !self.habits.buffers {
            self.flushed = self.got.len();
        }
        self.tell(|| format!("takes {taken} of {} bytes, {} in all", bytes.len(), self.got.len()));
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_open("flushed");
        self.flush_waker = None;
        self.lost_at_end = self.write_error.is_some();
        self.fail()?;
        if self.flushed < self.got.len() {
            if self.waits_for_no_reason(cx) {
                self.flush_waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            self.flushed = self.got.len();
            self.tell(|| "is flushed".into());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_open("shut");
        assert!(!self.is_shut, "{}: shut twice", self.name());
        assert_eq!(self.flushed, self.got.len(), "{}: shut before it was flushed", self.name());
        self.write_waker = None;
        self.lost_at_end = self.write_error.is_some();
        self.fail()?;
        self.is_shutting = true;
        if self.waits_for_no_reason(cx) {
            self.write_waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.turns += 1;
        self.is_shut = true;
        self.shut_at = self.log.step();
        self.tell(|| "is shut".into());
        Poll::Ready(Ok(()))
    }
}

/// The core's handle of a side.
pub(in crate::tunnel::tests::simulation) struct Socket(pub Rc<RefCell<Side>>);

impl Drop for Socket {
    fn drop(&mut self) {
        let mut side = self.0.borrow_mut();
        side.is_dropped = true;
        side.tell(|| "is dropped".into());
    }
}

impl Transport for Socket {
    fn abort(&mut self) {
        let mut side = self.0.borrow_mut();
        side.check_open("aborted");
        side.is_aborted = true;
        side.turns += 1;
        side.tell(|| "is aborted".into());
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_shutdown(cx)
    }
}
