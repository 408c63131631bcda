//! The life of a request: plan → refuse, answer, forward, or open a tunnel.
//!
//! The entry for the access log is opened first; whatever happens afterwards is recorded exactly once, when the last
//! holder of the entry lets go of it. A request is served to its end by the configuration that was in use when its head
//! was whole. Dropping the future (the client left) closes what was opened upstream.

mod counts;
mod delivery;
mod downstream;
mod entry;
pub mod live;
mod live_listener;
mod outbound;
mod plain;
pub mod plan;
mod promise;
mod record;
pub mod refusals;
mod rule;
mod stalls;
mod tools;
mod tunnel;
mod websocket;

use std::rc::Rc;

use http::header::{CONNECTION, CONTENT_LENGTH, LOCATION};
use http::{HeaderValue, Method, Response, StatusCode};

use crate::fault::Fault;
use crate::http::{AnswerBody, Inbound};
use crate::telemetry::end::EndReason;
use crate::types::HttpVersion;

pub use downstream::Downstream;
use entry::Entry;
pub use live_listener::{LiveListener, Serving};
use outbound::Errand;
use plan::{Asked, Found, Plan};
pub use promise::{Promise, Standing};
pub use record::Way;
pub use tools::{Generation, Numbers, Tools};

/// Answers one request. On HTTP/1.1 a 101 leaves its tunnel with the connection.
pub async fn handle(downstream: Rc<Downstream>, inbound: Inbound) -> Response<AnswerBody> {
    downstream.note_asked();
    let serving = downstream.listener.serving();
    let generation =
        serving.as_ref().map_or_else(|| downstream.tools.generation(), |serving| serving.generation.clone());
    let entry = Entry::open(&downstream, &generation, &inbound);
    let is_head = inbound.head.method == Method::HEAD;
    let served = match &serving {
        Some(serving) if downstream.standing() != Standing::Void => serve(&downstream, serving, &entry, inbound).await,
        // Also where its listener is long gone: there is no telling what it would have said.
        _ => Err(Fault::Misdirected),
    };
    let mut answer = match served {
        Ok(answer) => answer,
        Err(fault) => {
            entry.failed(&fault, serving.as_ref());
            fault.answer(downstream.version)
        }
    };
    if is_head {
        strip_body(&mut answer);
    }
    if downstream.version == HttpVersion::Http1
        && answer.status() != StatusCode::SWITCHING_PROTOCOLS
        && downstream.is_outdated()
    {
        // Before `connection.rs` gets to look: the client need not try again in vain.
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Answers to HEAD have no body (RFC 9110 9.3.2); on h2 hyper would send it.
fn strip_body(answer: &mut Response<AnswerBody>) {
    if let AnswerBody::Full(body) = answer.body() {
        let length = HeaderValue::from(body.len());
        *answer.body_mut() = AnswerBody::Empty;
        answer.headers_mut().insert(CONTENT_LENGTH, length);
    }
}

async fn serve(
    downstream: &Rc<Downstream>,
    serving: &Serving,
    entry: &Rc<Entry>,
    inbound: Inbound,
) -> Result<Response<AnswerBody>, Fault> {
    let (generation, snapshot) = (&serving.generation, serving.snapshot());
    let mut found = Found::default();
    let asked = Asked {
        listener: serving.listener(),
        peer: downstream.peer.ip(),
        tls: downstream.tls.as_ref(),
        version: downstream.version,
        protocol: inbound.protocol.as_ref().map(hyper::ext::Protocol::as_str),
        head: &inbound.head,
    };
    let planned = plan::plan(snapshot, &asked, &mut found);
    entry.found(&found, generation);
    let errand = |upstream, onward| Errand {
        downstream,
        generation,
        entry,
        authority: found.authority.as_ref(),
        upstream,
        onward,
        strip_prefix: found
            .route
            .and_then(|route| snapshot.routes[route].strip_prefix.as_ref())
            .map(|prefix| prefix.as_str()),
    };
    match planned? {
        Plan::Options => Ok(answer_options(entry)),
        Plan::Redirect { to, status } => redirect(entry, &to, status),
        Plan::Respond { status, body } => respond(entry, status, body),
        Plan::Forward { upstream, onward, expect_continue } => {
            let route = found.route.map(|route| &snapshot.routes[route]).ok_or(Fault::NoRoute)?;
            plain::forward(errand(upstream, &onward), entry, route, expect_continue, inbound).await
        }
        Plan::Handshake { upstream, onward, handshake } => {
            let index = found.route.ok_or(Fault::NoRoute)?;
            let route = &snapshot.routes[index];
            // Before the upstream hears of it; held until the tunnel has gone, or will never be.
            let room = snapshot.tunnels[index].as_ref().map(|tunnels| tunnels.try_acquire(entry.client()));
            let permit = room.transpose()?;
            downstream.set_opening(downstream.version == HttpVersion::Http1);
            let opened =
                websocket::open(errand(upstream, &onward), downstream, entry, route, handshake, inbound, permit).await;
            downstream.set_opening(false);
            opened
        }
    }
}

/// `OPTIONS *` asks about the server as a whole (RFC 9110 9.3.7).
fn answer_options(entry: &Entry) -> Response<AnswerBody> {
    let mut answer = Response::new(AnswerBody::Empty);
    answer.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static(crate::fault::ALLOWED_METHODS));
    finish(entry, answer, EndReason::Responded)
}

fn redirect(entry: &Entry, to: &str, status: u16) -> Result<Response<AnswerBody>, Fault> {
    let mut answer = Response::new(AnswerBody::Empty);
    *answer.status_mut() = valid_status(status)?;
    let location = HeaderValue::from_str(to).map_err(|_| Fault::Internal("the redirect cannot be written"))?;
    answer.headers_mut().insert(LOCATION, location);
    Ok(finish(entry, answer, EndReason::Redirected))
}

fn respond(entry: &Entry, status: u16, body: String) -> Result<Response<AnswerBody>, Fault> {
    let mut answer = Response::new(AnswerBody::Full(body.into()));
    *answer.status_mut() = valid_status(status)?;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, text);
    Ok(finish(entry, answer, EndReason::Responded))
}

fn finish(entry: &Entry, answer: Response<AnswerBody>, end: EndReason) -> Response<AnswerBody> {
    entry.answered(answer.status());
    entry.end(end);
    answer
}

fn valid_status(status: u16) -> Result<StatusCode, Fault> {
    StatusCode::from_u16(status).map_err(|_| Fault::Internal("the configured status is none"))
}
