//! One request on one stream, and the body of its answer.
//!
//! Body and answer go their ways independently: an answer may come, and end, while the body is still being sent. An
//! answer ends well only with END_STREAM; a reset of any kind before that is a truncation. Dropping the future, or the
//! body of the answer before its end, resets the stream with CANCEL; the connection's other streams do not notice.
//! RFC 9113 5.4.2, 8.1, 8.7.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::{Response, request};
use http_body::{Body, Frame, SizeHint};

use super::channel::{Processed, Slot};
use super::head::{self, Origin};
use super::inlet::Inlet;
use super::upload::{Upload, Uploaded};
use crate::lifecycle;
use crate::proto::fields;
use crate::upstream::failure::Failure;
use crate::upstream::request_body::RequestBody;

/// Why there is no answer.
pub(in crate::upstream) struct Broken {
    pub failure: Failure,
    /// The request's body as it was, where the server has certainly done nothing about the request.
    pub unprocessed: Option<RequestBody>,
    /// The connection was lost with it.
    pub is_lost: bool,
}

impl Broken {
    pub(super) fn bad_head(body: RequestBody) -> Self {
        drop(body);
        let failure = Failure::Protocol("the request's Host cannot be an :authority of HTTP/2".to_owned());
        Self { failure, unprocessed: None, is_lost: false }
    }
}

/// Sends a request whose head is ready for HTTP/1.1, and waits for the head of the answer. Has no deadline of its own.
pub(in crate::upstream) async fn send(
    slot: Slot,
    head: request::Parts,
    body: RequestBody,
    origin: &Origin<'_>,
) -> Result<Response<Download>, Broken> {
    let Ok(request) = head::plain(head, origin) else { return Err(Broken::bad_head(body)) };
    let is_whole = body.is_end_stream();
    let (answer, stream) = match slot.send(request, is_whole) {
        Ok(sent) => sent,
        Err(error) => return Err(Broken { failure: slot.judge(&error).0, unprocessed: Some(body), is_lost: false }),
    };
    let mut upload = if is_whole { None } else { Some(Box::new(Upload::new(stream, body))) };
    let outcome = race(answer, upload.as_deref_mut()).await;
    let (response, is_sending) = match outcome {
        Ok(answered) => answered,
        Err(Lost::Body(failure)) => return Err(Broken { failure, unprocessed: None, is_lost: false }),
        Err(Lost::Stream(error)) => {
            let (failure, processed) = slot.judge(&error);
            let whole = || upload.map_or(Some(RequestBody::Empty), |upload| upload.restore());
            let unprocessed = if processed == Processed::Not { whole() } else { None };
            return Err(Broken { failure, unprocessed, is_lost: error.is_io() });
        }
    };
    let sending = upload.filter(|_| is_sending).map(Sending::begin);
    Ok(Download::while_sending(response, slot, sending))
}

/// A body that is still being sent after the answer has begun. Dropped, it stops.
struct Sending(tokio::task::AbortHandle);

impl Sending {
    fn begin(mut upload: Box<Upload>) -> Self {
        upload.forget();
        let task = lifecycle::spawn_local("h2 request body", async move {
            // A failed body resets the stream, which the reader of the answer notices.
            let _ = upload.await;
        });
        Self(task.abort_handle())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Lost {
    Stream(h2::Error),
    Body(Failure),
}

/// The answer, and whether the body is still being sent.
async fn race(
    mut answer: ResponseFuture,
    mut upload: Option<&mut Upload>,
) -> Result<(Response<RecvStream>, bool), Lost> {
    poll_fn(|cx| {
        if let Some(sending) = &mut upload
            && let Poll::Ready(uploaded) = Pin::new(&mut **sending).poll(cx)
        {
            upload = None;
            if let Uploaded::Failed(error) = uploaded {
                return Poll::Ready(Err(Lost::Body(Failure::from_body(&*error))));
            }
        }
        let answer = std::task::ready!(Pin::new(&mut answer).poll(cx)).map_err(Lost::Stream)?;
        Poll::Ready(Ok((answer, upload.is_some())))
    })
    .await
}

/// The body of an answer as it arrives.
pub(in crate::upstream) struct Download {
    inlet: Rc<Inlet>,
    slot: Slot,
    #[expect(dead_code, reason = "held until the end")]
    sending: Option<Sending>,
    /// What `Content-Length` says is still to come.
    left: Option<u64>,
}

impl Download {
    pub(super) fn new(response: Response<RecvStream>, slot: Slot) -> Response<Self> {
        Self::while_sending(response, slot, None)
    }

    fn while_sending(response: Response<RecvStream>, slot: Slot, sending: Option<Sending>) -> Response<Self> {
        let (parts, stream) = response.into_parts();
        let inlet = slot.inlet(stream);
        // To HEAD, and with 304, the length is not that of what comes.
        let left = if inlet.is_end_stream() { Some(0) } else { fields::content_length(&parts.headers).ok().flatten() };
        Response::from_parts(parts, Self { inlet, slot, sending, left })
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = String;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(this.inlet.poll_frame(cx, this.slot.lap()));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let (Some(left), Some(data)) = (&mut this.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => Some(Err(this.slot.judge(&error).0.to_string())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inlet.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
