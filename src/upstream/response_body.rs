//! An answer's body on its way back, and with it the connection or the stream that it comes on.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::counts::FailureKind;
use super::http2::Download;
use super::pool::Lease;
use super::share::Share;
use crate::clock::IdleTimer;

/// Why an answer's body broke off.
#[derive(Debug)]
pub enum ResponseBodyFault {
    /// The server closed, reset or broke the framing before the end.
    Truncated(String),
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

/// An answer's body as it arrives. At its end the connection goes back to the pool; dropped before, it is closed. On
/// HTTP/2 that is said of the stream alone.
pub struct ResponseBody {
    source: Source,
    silence: IdleTimer,
}

enum Source {
    Http1 {
        incoming: Incoming,
        lease: Option<Lease>,
    },
    /// Boxed: two of them make the whole larger for both.
    Http2(Box<(Download, Share)>),
    /// Given up.
    Nothing,
}

impl ResponseBody {
    pub(super) fn new(incoming: Incoming, lease: Lease, idle: Duration) -> Self {
        let mut source = Source::Http1 { incoming, lease: Some(lease) };
        source.release_at_end();
        Self { source, silence: IdleTimer::new(idle) }
    }

    pub(super) fn of_stream(download: Download, share: Share, idle: Duration) -> Self {
        let mut source = Source::Http2(Box::new((download, share)));
        source.release_at_end();
        Self { source, silence: IdleTimer::new(idle) }
    }
}

impl Source {
    fn release_at_end(&mut self) {
        match self {
            Self::Http1 { incoming, lease } if incoming.is_end_stream() => {
                if let Some(lease) = lease.take() {
                    lease.finish();
                }
            }
            Self::Http2(stream) if stream.0.is_end_stream() => stream.1.completed(),
            Self::Http1 { .. } | Self::Http2(_) | Self::Nothing => {}
        }
    }

    /// Closes what it comes on, and says why of the server.
    fn give_up(&mut self, fault: &ResponseBodyFault) {
        let share = match self {
            Self::Http1 { lease: Some(lease), .. } => Some(&mut lease.share),
            Self::Http2(stream) => Some(&mut stream.1),
            Self::Http1 { lease: None, .. } | Self::Nothing => None,
        };
        match (share, fault) {
            (Some(share), ResponseBodyFault::Truncated(_)) => {
                share.count(FailureKind::Truncated);
                share.failed(fault);
            }
            // Not held against it: some answers have nothing to say for a long time.
            (Some(share), ResponseBodyFault::Timeout) => share.count(FailureKind::BodyTimeout),
            (None, _) => {}
        }
        *self = Self::Nothing;
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        match self {
            Self::Http1 { incoming, lease } => {
                let frame = ready!(Pin::new(incoming).poll_frame(cx));
                if frame.is_none()
                    && let Some(lease) = lease.take()
                {
                    lease.finish();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(|error| error.to_string())))
            }
            Self::Http2(stream) => {
                let frame = ready!(Pin::new(&mut stream.0).poll_frame(cx));
                if frame.is_none() {
                    stream.1.completed();
                }
                Poll::Ready(frame)
            }
            Self::Nothing => Poll::Ready(None),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseBodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = this.source.poll_frame(cx) else {
            ready!(this.silence.poll_expired(cx));
            this.source.give_up(&ResponseBodyFault::Timeout);
            return Poll::Ready(Some(Err(ResponseBodyFault::Timeout)));
        };
        this.silence.touch();
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                this.source.release_at_end();
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let fault = ResponseBodyFault::Truncated(error);
                this.source.give_up(&fault);
                Some(Err(fault))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Http1 { incoming, .. } => incoming.is_end_stream(),
            Source::Http2(stream) => stream.0.is_end_stream(),
            Source::Nothing => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Http1 { incoming, .. } => incoming.size_hint(),
            Source::Http2(stream) => stream.0.size_hint(),
            Source::Nothing => SizeHint::default(),
        }
    }
}
