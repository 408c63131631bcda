//! One attempt of a request, over either version of HTTP: sent, its answer's head awaited, and where there is none, whether
//! it may be sent again without anything happening twice.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode, request};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::counts::FailureKind;
use super::failure::Failure;
use super::group::Picked;
use super::http2::{self, Broken, Origin, Slot};
use super::pool::Lease;
use super::request_body::RequestBody;
use super::response_body::ResponseBody;
use super::send::{Progress, SendOptions};
use super::share::Share;
use crate::proto::fields::{TransferCoding, transfer_encoding_is_exactly_chunked};

/// What holds for each attempt.
pub(super) struct Terms<'a> {
    pub options: &'a SendOptions<'a>,
    pub progress: &'a Progress,
    /// Bodyless and idempotent.
    pub replayable: bool,
    /// Should this one fail, there can be another.
    pub may_retry: bool,
}

/// An attempt that has failed.
pub(super) struct Attempt {
    pub failure: Failure,
    /// The request, where sending it again cannot make anything happen twice.
    pub retry: Option<Box<Request<RequestBody>>>,
}

pub(super) async fn over_http1(
    mut lease: Lease,
    request: Request<RequestBody>,
    terms: &Terms<'_>,
) -> Result<Response<ResponseBody>, Attempt> {
    let Some(connection) = lease.connection() else {
        return Err(Attempt { failure: Failure::Timeout, retry: Some(Box::new(request)) });
    };
    let replay = (terms.replayable && connection.reused).then(|| copy_head(&request));
    let read_before = connection.bytes_read();
    let answer = connection.sender.try_send_request(request);

    match terms.progress.within(terms.options.response_timeout, answer).await {
        None => {
            terms.blame(&mut lease.share, &Failure::Timeout);
            Err(Attempt { failure: Failure::Timeout, retry: None })
        }
        Some(Ok(response)) => Ok(admit(response, lease, terms.options)),
        Some(Err(error)) => Err(judge(error, replay, &mut lease, read_before, terms)),
    }
}

impl Terms<'_> {
    /// The server has failed, unless the client may have: a body that is still on its way may break anything but what an
    /// answer says.
    fn blame(&self, share: &mut Share, failure: &Failure) {
        let is_certain = self.progress.is_sent() || matches!(failure, Failure::Malformed(_));
        if is_certain && failure.is_a_bad_answer() {
            share.failed(failure);
        }
    }
}

pub(super) async fn over_http2(
    slot: Slot,
    mut picked: Picked,
    request: Request<RequestBody>,
    terms: &Terms<'_>,
) -> Result<Response<ResponseBody>, Attempt> {
    let again = terms.may_retry.then(|| copy_head(&request));
    let was_reused = slot.reused;
    let is_replayable = terms.replayable && was_reused;
    let server = picked.member.server.clone();
    let origin = Origin { secure: server.tls.is_some(), host: &server.host };
    let (head, body) = request.into_parts();
    let answer = http2::send(slot, head, body, &origin);
    match terms.progress.within(terms.options.response_timeout, answer).await {
        None => {
            terms.blame(&mut picked.share, &Failure::Timeout);
            Err(Attempt { failure: Failure::Timeout, retry: None })
        }
        Some(Ok(response)) => {
            picked.share.answered(response.status());
            let idle = terms.options.response_body_idle;
            Ok(response.map(|download| ResponseBody::of_stream(download, picked.share, idle)))
        }
        Some(Err(Broken { failure, unprocessed, is_lost })) => {
            // A server that goes away politely has done nothing wrong, nor one whose connection was idle when it ended.
            if unprocessed.is_none() && !(was_reused && is_lost) {
                terms.blame(&mut picked.share, &failure);
            }
            let body = unprocessed.or_else(|| (is_replayable && is_lost).then_some(RequestBody::Empty));
            let retry = again.zip(body).map(|(head, body)| Box::new(Request::from_parts(head, body)));
            Err(Attempt { failure, retry })
        }
    }
}

fn judge(
    mut error: TrySendError<Request<RequestBody>>,
    replay: Option<request::Parts>,
    lease: &mut Lease,
    read_before: u64,
    terms: &Terms<'_>,
) -> Attempt {
    let reused = lease.connection().is_some_and(|connection| connection.reused);
    if let Some(unsent) = error.take_message() {
        let failure = Failure::from_hyper(error.into_error());
        if !reused {
            terms.blame(&mut lease.share, &failure);
        }
        return Attempt { failure, retry: Some(Box::new(unsent)) };
    }
    let silent = lease.connection().is_none_or(|connection| connection.bytes_read() <= read_before);
    let failure = Failure::from_hyper(error.into_error());
    let closed_in_silence = silent && matches!(failure, Failure::Closed(_));
    // A server may close an idle connection at any time.
    if !(reused && closed_in_silence) {
        terms.blame(&mut lease.share, &failure);
    }
    let retry =
        replay.filter(|_| closed_in_silence).map(|head| Box::new(Request::from_parts(head, RequestBody::Empty)));
    Attempt { failure, retry }
}

fn copy_head(request: &Request<RequestBody>) -> request::Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = request.method().clone();
    parts.uri = request.uri().clone();
    parts.version = request.version();
    parts.headers = request.headers().clone();
    parts
}

/// Puts the answer's body on its lease, and decides whether the connection may serve again, and what the answer says of
/// the server.
fn admit(response: Response<Incoming>, mut lease: Lease, options: &SendOptions<'_>) -> Response<ResponseBody> {
    let framing_is_doubtful =
        response.headers().contains_key(TRANSFER_ENCODING) && response.headers().contains_key(CONTENT_LENGTH);
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    lease.reusable = !framing_is_doubtful && !switched;
    if switched {
        lease.share.count(FailureKind::BadUpgrade);
        lease.share.failed(&"a 101 that nobody asked for");
    } else if transfer_encoding_is_exactly_chunked(response.headers()) == TransferCoding::Bad {
        lease.share.count(FailureKind::Malformed);
        lease.share.failed(&"a transfer coding other than chunked");
    } else {
        lease.share.answered(response.status());
    }
    response.map(|incoming| ResponseBody::new(incoming, lease, options.response_body_idle))
}
