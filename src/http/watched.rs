//! The stream beneath hyper, with its activity noted, and with the bytes in front that were read before hyper was there.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use crate::transport::Transport;

/// A downstream stream that writes its [`Activity`].
pub struct Watched<T> {
    stream: T,
    /// Comes before what the stream has.
    read: Bytes,
    activity: Rc<Activity>,
}

impl<T: Transport> Watched<T> {
    /// `read`: what was taken from the stream already.
    pub fn new(stream: T, read: Bytes, activity: Rc<Activity>) -> Self {
        Self { stream, read, activity }
    }

    /// The stream without its watch, and what of `read` has not been taken: it becomes a tunnel, rests, or is closed.
    pub fn into_parts(self) -> (T, Bytes) {
        (self.stream, self.read)
    }

    /// Reset; or, while the request waits in a queue, ended: those who closed must not keep the places of those who
    /// wait. Elsewhere an end is a half-close, behind which the answer is still wanted.
    fn has_gone(&mut self, cx: &mut Context<'_>) -> bool {
        self.stream.poll_reset(cx).is_ready() || (self.activity.is_queued() && self.stream.has_ended())
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(_)) => self.activity.note_written(),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.note_write_pending(),
        }
        written
    }
}

impl<T: Transport> AsyncRead for Watched<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.read.is_empty() {
            let count = this.read.len().min(buf.remaining());
            buf.put_slice(&this.read[..count]);
            this.read.advance(count);
            if this.read.is_empty() {
                this.read = Bytes::new();
            }
            this.activity.note_read(count);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let answer = Pin::new(&mut this.stream).poll_read(cx, buf);
        if answer.is_ready() {
            this.activity.note_read(buf.filled().len() - before);
        }
        answer
    }
}

impl<T: Transport> AsyncWrite for Watched<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.note(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        match &flushed {
            Poll::Pending => this.activity.note_write_pending(),
            Poll::Ready(Ok(())) => {
                this.activity.note_flushed();
                // hyper flushes at the end of each turn: the place to notice a client that has gone while it waited.
                if this.activity.is_unread() && this.has_gone(cx) {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
            }
            Poll::Ready(Err(_)) => {}
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::super::Expiry;
    use super::*;
    use crate::types::HttpVersion;

    /// Takes every write; as `full` says, nothing of it leaves.
    struct Buffering {
        full: bool,
    }

    impl Transport for Buffering {
        fn abort(&mut self) {}
    }

    impl AsyncRead for Buffering {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Buffering {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if std::mem::take(&mut self.full) { Poll::Pending } else { Poll::Ready(Ok(())) }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_a_layer_below_held_back_and_then_sent_is_no_stall_any_more() {
        let activity = Rc::new(Activity::new(HttpVersion::Http1, crate::clock::now(), Duration::from_secs(30)));
        let mut watched = Watched::new(Buffering { full: true }, Bytes::new(), activity.clone());
        let expiry = || activity.deadline(Duration::ZERO, Duration::ZERO).map(|(_, expiry)| expiry);
        poll_fn(|cx| Pin::new(&mut watched).poll_write(cx, b"answer")).await.expect("taken");
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut watched).poll_flush(cx))).await.is_pending());
        assert_eq!(expiry(), Some(Expiry::Stall));
        poll_fn(|cx| Pin::new(&mut watched).poll_flush(cx)).await.expect("flushed");
        assert_eq!(expiry(), Some(Expiry::KeepAlive));
    }
}
