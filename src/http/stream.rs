//! An h2 stream as a transport: what an extended CONNECT (RFC 8441) becomes.
//!
//! hyper reads RST_STREAM with CANCEL as a clean end; here it is told apart (see `poll_read`). A browser whose tab is
//! closed sends its last frame, END_STREAM and RST_STREAM in one go: an end within [`GOODBYE`] of data therefore counts
//! as a clean one, so that the server gets that frame and a FIN instead of a reset. The other way round there is no RST_STREAM at our
//! disposal: an aborted stream ends with END_STREAM like any other.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{self, Instant};
use crate::transport::Transport;

/// How close behind its last data a stream's end is taken for a farewell.
const GOODBYE: Duration = Duration::from_millis(250);

/// A DATA frame of that size has others behind it, which are read with it: the server gets one write for several.
const MANY: usize = 4 * 1024;

/// An h2 stream after its 2xx.
pub struct StreamTransport {
    stream: TokioIo<Upgraded>,
    end: End,
    /// When data was last read.
    last_data: Option<Instant>,
}

/// How far the question has been settled what an end of the stream meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    NotSeen,
    /// The task that writes to the stream gets its turn, so that it can notice a reset.
    Asking,
    Clean,
}

pub(super) fn transport(upgraded: Upgraded) -> StreamTransport {
    StreamTransport { stream: TokioIo::new(upgraded), end: End::NotSeen, last_data: None }
}

impl Transport for StreamTransport {
    fn abort(&mut self) {}
}

impl AsyncRead for StreamTransport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let start = buf.filled().len();
        loop {
            match this.end {
                End::Clean => return Poll::Ready(Ok(())),
                End::NotSeen => {
                    let before = buf.filled().len();
                    let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
                    let got = buf.filled().len() - before;
                    if got >= MANY && buf.remaining() > 0 {
                        continue;
                    }
                    if buf.filled().len() > start || buf.remaining() == 0 {
                        // What else there was, an end or an error, comes again.
                        this.last_data = Some(clock::now());
                        return Poll::Ready(Ok(()));
                    }
                    ready!(polled)?;
                    if this.last_data.is_some_and(|last| last.elapsed() < GOODBYE) {
                        this.end = End::Clean;
                        continue;
                    }
                    this.end = End::Asking;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                End::Asking => {
                    // An error means that the writing half is gone too: reset, not END_STREAM.
                    if let Poll::Ready(Err(_)) = Pin::new(&mut this.stream).poll_flush(cx) {
                        return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                    }
                    this.end = End::Clean;
                }
            }
        }
    }
}

impl AsyncWrite for StreamTransport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
