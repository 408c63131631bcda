//! A plain request: sent to a server, its answer checked, cleaned and streamed back.

use std::pin::pin;
use std::rc::Rc;

use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body;

use super::delivery::Delivery;
use super::entry::Entry;
use super::outbound::Errand;
use crate::config::model::Route;
use crate::fault::Fault;
use crate::http::{AnswerBody, Inbound};
use crate::proto::fields::{self, TransferCoding};
use crate::types::RequestBodyFault;
use crate::upstream::{Failed, Failure, RequestBody, ResponseBody, SendOptions};

/// Forwards, and returns the answer as soon as its head is there.
pub async fn forward(
    errand: Errand<'_>,
    entry: &Rc<Entry>,
    route: &Route,
    expect_continue: bool,
    inbound: Inbound,
) -> Result<Response<AnswerBody>, Fault> {
    let Inbound { mut head, mut body, .. } = inbound;
    errand.prepare(&mut head)?;
    body.bound(route.timeouts.request_body_idle, route.body_size);
    if body.size_hint().lower() > route.body_size.unwrap_or(u64::MAX) {
        return Err(Fault::BodyTooLarge);
    }
    entry.count_received_by(body.received());
    let fault = body.fault();
    let expects_body = !body.is_end_stream();
    frame(&mut head.headers, &body);
    let expect_continue = expect_continue && expects_body;
    if expect_continue {
        head.headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
    }
    let body = if expects_body { RequestBody::stream(body) } else { RequestBody::Empty };

    let group = errand.generation.group(errand.upstream);
    let options = SendOptions {
        trail: entry.trail(),
        asker: errand.asker(&head),
        expect_continue,
        response_timeout: route.timeouts.response,
        response_body_idle: route.timeouts.response_body_idle,
    };
    entry.set_client_stall(route.timeouts.client_stall);
    let sending = pin!(group.send(Request::from_parts(head, body), &options));
    match entry.follow(sending).await {
        Ok(answered) => {
            entry.set_server(&answered.server.url);
            admit(&errand, answered.response, entry)
        }
        Err(Failed { failure, server }) => {
            if let Some(server) = server {
                entry.set_server(&server.url);
            }
            Err(blame(failure, fault.get()))
        }
    }
}

/// A request that broke because of its body is the client's fault, whatever it looked like from the other side.
fn blame(failure: Failure, body: Option<RequestBodyFault>) -> Fault {
    match body {
        Some(RequestBodyFault::TooLarge) => Fault::BodyTooLarge,
        Some(fault) => Fault::RequestBody(fault),
        None => Fault::Upstream(failure),
    }
}

/// Exactly one framing field where there is a body, none where there is none; hyper follows it.
fn frame(headers: &mut http::HeaderMap, body: &impl Body) {
    match body.size_hint().exact() {
        Some(0) if body.is_end_stream() => {}
        Some(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        None => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

/// Checks and cleans an answer (any but a switched one).
pub fn admit(
    errand: &Errand<'_>,
    mut response: Response<ResponseBody>,
    entry: &Rc<Entry>,
) -> Result<Response<AnswerBody>, Fault> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Fault::UnexpectedUpgrade);
    }
    let headers = response.headers_mut();
    match fields::transfer_encoding_is_exactly_chunked(headers) {
        TransferCoding::Absent => {}
        // hyper's server would trust a length that stands beside it.
        TransferCoding::Chunked => {
            headers.remove(CONTENT_LENGTH);
        }
        TransferCoding::Bad => {
            return Err(Fault::Upstream(Failure::Malformed("a transfer coding other than chunked".to_owned())));
        }
    }
    fields::scrub_answer(headers);
    errand.make_public(headers);
    *response.version_mut() = Version::HTTP_11;
    entry.answered(response.status());
    Ok(response.map(|body| Delivery::answer(body, entry.clone())))
}
