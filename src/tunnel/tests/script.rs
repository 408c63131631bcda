//! A transport that plays a script and records what is done to it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::transport::Transport;

/// One answer to a read. After the last one the peer is silent.
#[derive(Clone, Debug)]
pub(super) enum Read {
    Bytes(Vec<u8>),
    /// Not now, but at once again.
    Later,
    /// Not for so long.
    Wait(Duration),
    End,
    Error(io::ErrorKind),
}

/// One answer to a write. After the last one everything is taken.
#[derive(Clone, Debug)]
pub(super) enum Write {
    AtMost(usize),
    Later,
    /// Takes nothing until somebody wakes it: never.
    Stall,
    Error(io::ErrorKind),
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub reads: VecDeque<Read>,
    pub writes: VecDeque<Write>,
    /// Each flush waits once when set.
    pub lazy: bool,
    pub read: usize,
    pub written: Vec<u8>,
    pub flushed: usize,
    pub shut: bool,
    pub aborted: bool,
    pub dropped: bool,
    /// The peer has reset, which nobody has read yet.
    pub reset: bool,
    flushing: bool,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

pub(super) struct Script(pub Rc<RefCell<Seen>>);

pub(super) fn script(reads: Vec<Read>, writes: Vec<Write>) -> (Box<dyn Transport>, Rc<RefCell<Seen>>) {
    let seen = Rc::new(RefCell::new(Seen { reads: reads.into(), writes: writes.into(), ..Seen::default() }));
    (Box::new(Script(seen.clone())), seen)
}

impl Drop for Script {
    fn drop(&mut self) {
        self.0.borrow_mut().dropped = true;
    }
}

impl Transport for Script {
    fn abort(&mut self) {
        self.0.borrow_mut().aborted = true;
    }

    fn poll_reset(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if self.0.borrow().reset { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl AsyncRead for Script {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let seen = &mut *self.0.borrow_mut();
        match seen.reads.front_mut() {
            None => Poll::Pending,
            Some(Read::Later) => {
                seen.reads.pop_front();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Read::Wait(time)) => {
                let sleep = seen.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(*time)));
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                seen.sleep = None;
                seen.reads.pop_front();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Read::End) => Poll::Ready(Ok(())),
            Some(Read::Error(kind)) => Poll::Ready(Err((*kind).into())),
            Some(Read::Bytes(bytes)) => {
                let taken = bytes.len().min(buffer.remaining());
                buffer.put_slice(&bytes[..taken]);
                bytes.drain(..taken);
                seen.read += taken;
                if bytes.is_empty() {
                    seen.reads.pop_front();
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let seen = &mut *self.0.borrow_mut();
        assert!(!seen.shut && !seen.aborted, "written to after its end");
        let most = match seen.writes.front() {
            None => usize::MAX,
            Some(Write::AtMost(most)) => *most,
            Some(Write::Stall) => return Poll::Pending,
            Some(Write::Error(kind)) => return Poll::Ready(Err((*kind).into())),
            Some(Write::Later) => {
                seen.writes.pop_front();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        };
        seen.writes.pop_front();
        let taken = bytes.len().min(most);
        seen.written.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let seen = &mut *self.0.borrow_mut();
        if seen.lazy && !seen.flushing && seen.flushed < seen.written.len() {
            seen.flushing = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        seen.flushing = false;
        seen.flushed = seen.written.len();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let seen = &mut *self.0.borrow_mut();
        assert_eq!(seen.flushed, seen.written.len(), "shut before it was flushed");
        seen.shut = true;
        Poll::Ready(Ok(()))
    }
}
