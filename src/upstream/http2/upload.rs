//! A request's body on its way up one stream, at the pace that the server's windows allow.
//!
//! What has been sent is kept, up to [`KEPT`] bytes, until the answer begins: a server that has processed nothing of a
//! request says so (RFC 9113 8.7), and then the body can be had whole again for another try. A body that fails resets
//! the stream: the server must not take what it has for all of it. Dropping it stops the sending; whoever drops the
//! stream's other half too resets it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame, SizeHint};

use crate::upstream::request_body::{BodyError, RequestBody};

/// Of one request, until its answer begins.
const KEPT: usize = 64 * 1024;

/// See the module. Ready when there is nothing more to send.
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    body: RequestBody,
    kept: Option<Vec<Bytes>>,
    kept_size: usize,
}

/// How an upload came to its end.
pub(super) enum Uploaded {
    /// Everything is on its way, or the server wants no more of it.
    Done,
    /// The body could not be read; the stream has been reset.
    Failed(BodyError),
}

impl Upload {
    pub(super) fn new(stream: SendStream<Bytes>, body: RequestBody) -> Self {
        Self { stream, body, kept: Some(Vec::new()), kept_size: 0 }
    }

    /// The answer has begun: nobody will ask for the body again.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// The body as it was, if it still can be had.
    pub(super) fn restore(self) -> Option<RequestBody> {
        let kept = self.kept?;
        if kept.is_empty() {
            return Some(self.body);
        }
        Some(RequestBody::Stream(Box::pin(Replayed { kept: kept.into(), body: self.body })))
    }

    fn keep(&mut self, chunk: &Bytes) {
        self.kept_size = self.kept_size.saturating_add(chunk.len());
        match &mut self.kept {
            Some(kept) if self.kept_size <= KEPT => kept.push(chunk.clone()),
            kept => *kept = None,
        }
    }

    /// Ready when the stream has room, or takes nothing any more (`false`).
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(false);
        }
        // One byte: how much there will be to send is not known before there is room for it.
        self.stream.reserve_capacity(1);
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(false),
            }
        }
        Poll::Ready(true)
    }
}

impl Future for Upload {
    type Output = Uploaded;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Uploaded> {
        let this = self.get_mut();
        loop {
            if !ready!(this.poll_room(cx)) {
                return Poll::Ready(Uploaded::Done);
            }
            let sent = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => {
                        this.keep(&chunk);
                        let is_last = this.body.is_end_stream();
                        if chunk.is_empty() && !is_last {
                            continue;
                        }
                        this.stream.send_data(chunk, is_last).map(|()| is_last)
                    }
                    Err(frame) => {
                        let Ok(trailers) = frame.into_trailers() else { continue };
                        this.kept = None;
                        this.stream.send_trailers(trailers).map(|()| true)
                    }
                },
                None => this.stream.send_data(Bytes::new(), true).map(|()| true),
                Some(Err(error)) => {
                    this.kept = None;
                    this.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Uploaded::Failed(error));
                }
            };
            match sent {
                Ok(false) => {}
                // An error: the stream has ended meanwhile, and says why where it is read.
                Ok(true) | Err(_) => return Poll::Ready(Uploaded::Done),
            }
        }
    }
}

/// A body of which the beginning has been read before.
struct Replayed {
    kept: VecDeque<Bytes>,
    body: RequestBody,
}

impl Body for Replayed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        match this.kept.pop_front() {
            Some(chunk) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
            None => Pin::new(&mut this.body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.kept.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let kept: u64 = self.kept.iter().map(|chunk| chunk.len() as u64).sum();
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint.set_lower(rest.lower().saturating_add(kept));
        hint
    }
}
