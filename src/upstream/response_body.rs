//! An answer's body on its way back, and with it the connection that it comes on.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::pool::Lease;
use crate::clock::IdleTimer;

/// Why an answer's body broke off.
#[derive(Debug)]
pub enum ResponseBodyFault {
    /// The server closed, reset or broke the framing before the end.
    Truncated(hyper::Error),
    /// The server was silent for the route's `response_body_idle`.
    Timeout,
}

impl std::fmt::Display for ResponseBodyFault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated(error) => write!(out, "the answer broke off: {error}"),
            Self::Timeout => out.write_str("the answer stalled"),
        }
    }
}

impl Error for ResponseBodyFault {}

/// An answer's body as it arrives. At its end the connection goes back to the pool; dropped before, it is closed.
pub struct ResponseBody {
    incoming: Incoming,
    lease: Option<Lease>,
    silence: IdleTimer,
}

impl ResponseBody {
    pub(super) fn new(incoming: Incoming, lease: Lease, idle: Duration) -> Self {
        let mut body = Self { incoming, lease: Some(lease), silence: IdleTimer::new(idle) };
        body.release_at_end();
        body
    }

    fn release_at_end(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.finish();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseBodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) else {
            ready!(this.silence.poll_expired(cx));
            this.lease = None;
            return Poll::Ready(Some(Err(ResponseBodyFault::Timeout)));
        };
        this.silence.touch();
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                this.release_at_end();
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let fault = ResponseBodyFault::Truncated(error);
                if let Some(mut lease) = this.lease.take() {
                    lease.share.failed(&fault);
                }
                Some(Err(fault))
            }
            None => {
                if let Some(lease) = this.lease.take() {
                    lease.finish();
                }
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
