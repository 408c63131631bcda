//! An answer's body on its way to the client: counted, cleaned of trailers that must not be, its end recorded.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::entry::Entry;
use super::stalls::{Delivered, Stallable};
use crate::http::{AnswerBody, BodyError};
use crate::proto::fields;
use crate::telemetry::end::EndReason;
use crate::types::HttpVersion;
use crate::upstream::{ResponseBody, ResponseBodyFault};

/// A body from an upstream. Dropped before its end, the entry says that the client left.
pub struct Delivery {
    body: ResponseBody,
    entry: Rc<Entry>,
}

impl Delivery {
    pub fn answer(body: ResponseBody, entry: Rc<Entry>) -> AnswerBody {
        if entry.downstream().version == HttpVersion::Http1 {
            return AnswerBody::Stream(Box::pin(Self { body, entry }));
        }
        let stalls = entry.downstream().stalls().clone();
        let limit = entry.client_stall();
        AnswerBody::Stream(Box::pin(Stallable::new(Self { body, entry }, stalls, limit)))
    }
}

impl Delivered for Delivery {
    fn give_up(self) {
        self.entry.end(EndReason::ClientStalled);
    }
}

impl Body for Delivery {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.entry.count_sent(data.len() as u64);
                } else if let Some(trailers) = frame.trailers_mut() {
                    fields::scrub_trailers(trailers);
                }
                Some(Ok(frame))
            }
            Some(Err(fault)) => {
                this.entry.end(match fault {
                    ResponseBodyFault::Truncated(_) => EndReason::UpstreamTruncated,
                    ResponseBodyFault::Timeout => EndReason::UpstreamBodyTimeout,
                });
                Some(Err(fault.into()))
            }
            None => {
                this.entry.end(EndReason::Completed);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // hyper does not ask for more once a body says that it is at its end.
        if self.body.is_end_stream() {
            self.entry.end(EndReason::Completed);
        }
    }
}
