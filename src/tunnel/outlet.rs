//! What a direction owes its sink: the bytes that the sink would not take yet, and a flush behind those that it took.
//!
//! Invariants: bytes are taken in the order in which they were given, and counted when the sink has them; nothing is
//! given while a leftover waits; what owes nothing holds no memory. Errors are the sink's. When to write is
//! `direction`'s business, moving bytes within the kernel that of `piped`. The fields are the direction's own: a struct
//! of their own would need eight bytes more in each, and there are two in every tunnel.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};

use super::direction::Direction;
use super::piped::{Leftover, drain};
use crate::transport::{Pipe, Scratch, Transport};

impl Direction {
    /// Gives the sink bytes, and keeps those that it does not take.
    pub(super) fn write(&mut self, cx: &mut Context<'_>, sink: &mut dyn Transport, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let Poll::Ready(taken) = self.write_once(cx, sink, bytes)? else {
                self.leftover = Some(Box::new(Leftover::Bytes(Bytes::copy_from_slice(bytes))));
                break;
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Gives the sink a ping of ours; returns how much of it was taken at once. See [`Self::poll_leftover`].
    pub(super) fn write_own(&mut self, cx: &mut Context<'_>, sink: &mut dyn Transport, ping: &[u8]) -> io::Result<u64> {
        let before = self.carried;
        self.write(cx, sink, ping)?;
        self.leftover_own = self.leftover.is_some();
        Ok(self.carried - before)
    }

    /// Gives the sink, a socket, what is in a pipe.
    pub(super) fn write_piped(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn Transport,
        pipe: Pipe,
        scratch: &Scratch,
    ) -> io::Result<()> {
        self.leftover = self.drain(cx, sink, pipe, scratch)?.map(Box::new);
        Ok(())
    }

    fn drain(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn Transport,
        pipe: Pipe,
        scratch: &Scratch,
    ) -> io::Result<Option<Leftover>> {
        match sink.as_socket() {
            Some(socket) => drain(cx, socket, pipe, scratch, &mut self.carried),
            None => Ok(Some(Leftover::Bytes(pipe.recover()?.into()))),
        }
    }

    fn write_once(&mut self, cx: &mut Context<'_>, sink: &mut dyn Transport, bytes: &[u8]) -> io::Result<Poll<usize>> {
        let Poll::Ready(taken) = Pin::new(sink).poll_write(cx, bytes)? else { return Ok(Poll::Pending) };
        if taken == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        debug_assert!(taken <= bytes.len(), "a transport takes no more than it is given");
        self.carried += taken as u64;
        self.unflushed = true;
        Ok(Poll::Ready(taken.min(bytes.len())))
    }

    /// Ready when nothing is left over. `own` grows by what was taken of a ping of ours.
    pub(super) fn poll_leftover(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn Transport,
        scratch: &Scratch,
        own: &mut u64,
    ) -> io::Result<Poll<()>> {
        let Some(leftover) = self.leftover.take() else { return Ok(Poll::Ready(())) };
        let rest = match *leftover {
            Leftover::Piped(pipe) => self.drain(cx, sink, pipe, scratch)?,
            bytes @ Leftover::Bytes(_) => Some(bytes),
        };
        let rest = match rest {
            Some(Leftover::Bytes(bytes)) => self.write_leftover(cx, sink, bytes, own)?.map(Leftover::Bytes),
            rest => rest,
        };
        let Some(rest) = rest else { return Ok(Poll::Ready(())) };
        self.leftover = Some(Box::new(rest));
        // The bytes before it must not wait in the transport for those after it.
        self.flush(cx, sink).map(|_| Poll::Pending)
    }

    /// What the sink does not take now.
    fn write_leftover(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn Transport,
        mut bytes: Bytes,
        own: &mut u64,
    ) -> io::Result<Option<Bytes>> {
        while bytes.has_remaining() {
            let Poll::Ready(taken) = self.write_once(cx, sink, &bytes)? else { return Ok(Some(bytes)) };
            bytes.advance(taken);
            *own += if self.leftover_own { taken as u64 } else { 0 };
        }
        self.leftover_own = false;
        Ok(None)
    }

    /// Ready when the transport holds nothing back of what it has taken.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>, sink: &mut dyn Transport) -> io::Result<Poll<()>> {
        if !self.unflushed {
            return Ok(Poll::Ready(()));
        }
        let poll = Pin::new(sink).poll_flush(cx)?;
        self.unflushed = poll.is_pending();
        Ok(poll)
    }
}
