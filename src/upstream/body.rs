//! The bodies that cross this stage: the request's on its way to a server, the answer's on its way back.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::pool::Lease;
use crate::clock::IdleTimer;

/// Anything a body can fail with.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// A request body of any origin.
#[derive(Default)]
pub enum RequestBody {
    #[default]
    Empty,
    Stream(Pin<Box<dyn Body<Data = Bytes, Error = BodyError>>>),
}

impl RequestBody {
    /// A body that is read while it is being sent.
    pub fn stream<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<BodyError> + 'static,
    {
        Self::Stream(Box::pin(http_body_util::BodyExt::map_err(body, Into::into)))
    }

    pub fn is_empty(&self) -> bool {
        self.is_end_stream()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

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
                this.lease = None;
                Some(Err(ResponseBodyFault::Truncated(error)))
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
