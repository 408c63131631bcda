//! A request as hyper hands it over: head, body with its limits, and the stream an extended CONNECT may become.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, request};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::stream::{self, StreamTransport};
use crate::clock::IdleTimer;
use crate::proto::fields;
use crate::types::RequestBodyFault;

/// A request whose head has arrived whole.
pub struct Inbound {
    pub head: request::Parts,
    pub body: InboundBody,
    /// `:protocol` of an extended CONNECT (RFC 8441).
    pub protocol: Option<hyper::ext::Protocol>,
    /// On h2: what the stream becomes once a 2xx has been sent to a CONNECT.
    pub stream: Option<PendingStream>,
}

impl Inbound {
    pub(super) fn new(request: Request<Incoming>) -> Self {
        let (mut head, incoming) = request.into_parts();
        let protocol = head.extensions.remove::<hyper::ext::Protocol>();
        let stream = head.extensions.remove::<OnUpgrade>().map(PendingStream);
        // What is left in there is hyper's and of no use to the request that goes upstream.
        head.extensions.clear();
        Self { head, body: InboundBody::new(incoming), protocol, stream }
    }
}

/// An h2 stream that will be a tunnel.
pub struct PendingStream(OnUpgrade);

impl PendingStream {
    /// Resolves once the 2xx head has been sent.
    ///
    /// # Errors
    /// The connection ended first.
    pub async fn open(self) -> Result<StreamTransport, hyper::Error> {
        Ok(stream::transport(self.0.await?))
    }
}

/// A request body with its bounds: size, and silence.
///
/// Trailer fields that must not stand in trailers (RFC 9110 6.5.1) are dropped on the way.
pub struct InboundBody {
    incoming: Incoming,
    /// How long the client may be silent, from the first look at the body on: until then nobody asks it for more.
    idle: Duration,
    silence: Option<IdleTimer>,
    left: Option<u64>,
    received: Rc<Cell<u64>>,
    fault: Rc<Cell<Option<RequestBodyFault>>>,
}

impl InboundBody {
    fn new(incoming: Incoming) -> Self {
        Self {
            incoming,
            idle: Duration::from_secs(30),
            silence: None,
            left: None,
            received: Rc::default(),
            fault: Rc::default(),
        }
    }

    /// Sets the route's bounds: silence, and size in bytes if there is one.
    pub fn bound(&mut self, idle: Duration, size: Option<u64>) {
        self.idle = idle;
        self.left = size;
    }

    /// Bytes received so far, readable while the body is being sent on.
    pub fn received(&self) -> Rc<Cell<u64>> {
        self.received.clone()
    }

    /// What went wrong with it, readable while the body is being sent on.
    pub fn fault(&self) -> Rc<Cell<Option<RequestBodyFault>>> {
        self.fault.clone()
    }

    fn fail(&self, fault: RequestBodyFault) -> Poll<Option<Result<Frame<Bytes>, RequestBodyFault>>> {
        self.fault.set(Some(fault));
        Poll::Ready(Some(Err(fault)))
    }

    fn admit(&mut self, mut frame: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyFault>>> {
        if let Some(data) = frame.data_ref() {
            let length = data.len() as u64;
            self.received.set(self.received.get() + length);
            if let Some(left) = &mut self.left {
                match left.checked_sub(length) {
                    Some(rest) => *left = rest,
                    None => return self.fail(RequestBodyFault::TooLarge),
                }
            }
        } else if let Some(trailers) = frame.trailers_mut() {
            fields::scrub_trailers(trailers);
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Body for InboundBody {
    type Data = Bytes;
    type Error = RequestBodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let silence = this.silence.get_or_insert_with(|| IdleTimer::new(this.idle));
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                silence.touch();
                this.admit(frame)
            }
            Poll::Ready(Some(Err(_))) => this.fail(RequestBodyFault::Broken),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match silence.poll_expired(cx) {
                Poll::Ready(()) => this.fail(RequestBodyFault::Timeout),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
