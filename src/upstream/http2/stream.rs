//! A WebSocket handshake as extended CONNECT, and the stream that becomes a tunnel (RFC 8441).
//!
//! The stream is a byte stream like a socket: END_STREAM is its FIN, RST_STREAM with CANCEL its reset, both ways, and the
//! loss of the connection is a reset of all streams on it. Writing takes what the windows have room for, up to a bound;
//! what has been taken is written by the connection's own task. Dropped before both ways have ended, it is reset.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::{Response, request, response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::channel::{Processed, Slot};
use super::exchange::{Broken, Download};
use super::head::{self, Origin};
use super::inlet::Inlet;
use crate::transport::Transport;
use crate::upstream::request_body::RequestBody;

/// What the server said to the handshake.
pub(in crate::upstream) enum Connected {
    /// 2xx, still to be checked: the stream is open.
    Open(response::Parts, StreamTransport),
    /// Anything else.
    Other(Response<Download>),
}

/// Sends a handshake whose head is ready for HTTP/1.1, and waits for the answer. Has no deadline of its own.
pub(in crate::upstream) async fn connect(
    slot: Slot,
    head: request::Parts,
    origin: &Origin<'_>,
) -> Result<Connected, Broken> {
    let Ok(request) = head::extended_connect(head, origin) else { return Err(Broken::bad_head(RequestBody::Empty)) };
    let broken = |slot: &Slot, error: &h2::Error, is_unsent: bool| {
        let (failure, processed) = slot.judge(error);
        let unprocessed = (is_unsent || processed == Processed::Not).then_some(RequestBody::Empty);
        Broken { failure, unprocessed, is_lost: error.is_io() }
    };
    let (mut answer, mut stream) = match slot.send(request, false) {
        Ok(sent) => sent,
        Err(error) => return Err(broken(&slot, &error, true)),
    };
    let response = match poll_fn(|cx| Pin::new(&mut answer).poll(cx)).await {
        Ok(response) => response,
        Err(error) => return Err(broken(&slot, &error, false)),
    };
    if !response.status().is_success() {
        // There is nothing more to say; an error means that the server has ended the stream already.
        let _ = stream.send_data(Bytes::new(), true);
        return Ok(Connected::Other(Download::new(response, slot)));
    }
    slot.becomes_tunnel();
    let (parts, incoming) = response.into_parts();
    let inlet = slot.inlet(incoming);
    Ok(Connected::Open(parts, StreamTransport { inlet, stream, is_finished: false, slot }))
}

/// A stream after its 2xx.
pub struct StreamTransport {
    inlet: Rc<Inlet>,
    stream: SendStream<Bytes>,
    /// END_STREAM is on its way.
    is_finished: bool,
    slot: Slot,
}

impl StreamTransport {
    /// The error of writing to a stream that takes nothing any more.
    fn lost(&mut self, cx: &mut Context<'_>) -> io::Error {
        // NO_ERROR: the server has said everything, and wants no more (RFC 9113 8.1). That is still to be read.
        match self.stream.poll_reset(cx) {
            Poll::Ready(Ok(Reason::NO_ERROR)) => io::ErrorKind::BrokenPipe.into(),
            _ => io::ErrorKind::ConnectionReset.into(),
        }
    }
}

impl Transport for StreamTransport {
    fn abort(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(drop)
    }
}

impl AsyncRead for StreamTransport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inlet.poll_read(cx, self.slot.lap(), buf)
    }
}

impl AsyncWrite for StreamTransport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.stream.reserve_capacity(bytes.len());
        while this.stream.capacity() == 0 {
            match ready!(this.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(this.lost(cx))),
            }
        }
        let count = bytes.len().min(this.stream.capacity());
        match this.stream.send_data(Bytes::copy_from_slice(&bytes[..count]), false) {
            Ok(()) => Poll::Ready(Ok(count)),
            Err(_) => Poll::Ready(Err(this.lost(cx))),
        }
    }

    /// What has been taken is with the connection's task, which lets nothing lie.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_finished {
            return Poll::Ready(Ok(()));
        }
        this.is_finished = true;
        this.stream.reserve_capacity(0);
        match this.stream.send_data(Bytes::new(), true) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => Poll::Ready(Err(this.lost(cx))),
        }
    }
}
