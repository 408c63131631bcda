//! A WebSocket handshake: sent to a server, its agreement checked, and the tunnel that follows. Which HTTP either side
//! speaks makes no difference to the other.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, Response, StatusCode};

use super::downstream::Downstream;
use super::entry::Entry;
use super::outbound::Errand;
use super::plain;
use super::tunnel::Tunnel;
use crate::config::model::{Route, WebSocketPolicy};
use crate::fault::Fault;
use crate::http::{AnswerBody, Inbound};
use crate::lifecycle;
use crate::limits::TunnelPermit;
use crate::proto::frame::{Rsv, Rules};
use crate::proto::spelling;
use crate::proto::websocket::extension_names;
use crate::tunnel::TunnelOptions;
use crate::types::{HttpVersion, Name};
use crate::upgrade::{self, Handshake};
use crate::upstream::{Failed, HandshakeAnswer, HandshakeOptions, Switched};

/// Bytes of a subprotocol's name that lists show.
const LONGEST_SUBPROTOCOL: usize = 64;

/// Asks the upstream, and answers the client with what it said: a tunnel only where it really agreed.
pub async fn open(
    errand: Errand<'_>,
    downstream: &Rc<Downstream>,
    entry: &Rc<Entry>,
    route: &Route,
    handshake: Handshake,
    inbound: Inbound,
    permit: Option<TunnelPermit>,
) -> Result<Response<AnswerBody>, Fault> {
    let Inbound { mut head, stream, .. } = inbound;
    errand.prepare(&mut head)?;
    head.method = http::Method::GET;
    head.headers = handshake.request_headers(head.headers);

    let group = errand.generation.group(errand.upstream);
    let timeouts = &route.timeouts;
    entry.set_client_stall(timeouts.client_stall);
    let asking = HandshakeOptions {
        trail: entry.trail(),
        asker: errand.asker(&head),
        response_timeout: timeouts.response,
        response_body_idle: timeouts.response_body_idle,
    };
    let asked = pin!(group.handshake(head, &asking));
    let (answer, server) = match entry.follow(asked).await {
        Ok(answered) => answered,
        Err(Failed { failure, server }) => {
            if let Some(server) = server {
                entry.set_server(&server.url);
            }
            return Err(Fault::Upstream(failure));
        }
    };
    entry.set_server(&server.url);

    let switched = match answer {
        // On h2 a 2xx would tell the client that the tunnel is open (RFC 8441 5).
        HandshakeAnswer::Other(response)
            if downstream.version == HttpVersion::Http2 && response.status().is_success() =>
        {
            return Err(Fault::UnexpectedUpgrade);
        }
        HandshakeAnswer::Other(response) => return plain::admit(&errand, response, entry),
        HandshakeAnswer::Switched(switched) => switched,
    };
    let Switched { head: answer, stream: upstream, early, share } = switched;
    let (agreed, share) = match upgrade::check_answer(&handshake, answer.status, answer.version, &answer.headers) {
        Ok(agreed) => (agreed, share.into_tunnel()),
        Err(cause) => {
            share.disagreed(&cause);
            return Err(cause.into());
        }
    };

    let mut response = Response::new(AnswerBody::Empty);
    *response.headers_mut() = handshake.answer_headers(&agreed, answer.headers);
    let options = options(route.websocket.as_ref(), response.headers());
    let subprotocol = subprotocol(response.headers());
    let status =
        if downstream.version == HttpVersion::Http1 { StatusCode::SWITCHING_PROTOCOLS } else { StatusCode::OK };
    *response.status_mut() = status;
    let tools = downstream.tools.clone();
    let closes_removed = route.websocket.as_ref().is_some_and(|policy| policy.close_removed);
    let opened_under = closes_removed.then(|| errand.generation.snapshot.clone());
    match downstream.version {
        HttpVersion::Http1 => {
            *response.extensions_mut() = spelling::websocket();
            let (record, open) = entry.tunnel_opened(status, subprotocol);
            downstream.put_tunnel(Tunnel {
                tools,
                record,
                open,
                upstream,
                early,
                options,
                permit,
                share,
                opened_under,
            });
        }
        HttpVersion::Http2 => {
            let stream = stream.ok_or(Fault::Internal("the stream cannot become a tunnel"))?;
            let (record, open) = entry.tunnel_opened(status, subprotocol);
            let held = (downstream.hold_tunnel(), open, tools.lifecycle.guard());
            let tunnel = Tunnel { tools, record, open: None, upstream, early, options, permit, share, opened_under };
            lifecycle::spawn_local("h2 tunnel opening", async move {
                if let Ok(stream) = stream.open().await {
                    tunnel.open(stream, Bytes::new(), held);
                }
            });
        }
    }
    Ok(response)
}

/// The one that was agreed on, for lists: what is longer is cut.
fn subprotocol(answer: &HeaderMap) -> Option<Name> {
    let name = answer.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    Some(name[..name.floor_char_boundary(LONGEST_SUBPROTOCOL)].into())
}

/// `answer`: what the client is told, with the extensions that were agreed on.
fn options(policy: Option<&WebSocketPolicy>, answer: &HeaderMap) -> TunnelOptions {
    let mut options = TunnelOptions::default();
    if let Some(policy) = policy {
        options.idle_timeout = policy.idle_timeout;
        options.half_close_timeout = Duration::min(options.half_close_timeout, policy.idle_timeout);
        options.ping_interval = policy.ping_interval;
        options.ping_upstream = policy.ping_upstream;
        options.max_lifetime = policy.max_lifetime;
        options.rates = policy.rates;
        // The answer has been checked, so the list is one.
        let extensions = extension_names(answer).unwrap_or_default();
        options.frames = policy.checked_frames.then(|| Rules {
            rsv: Rsv::agreed(extensions.iter().map(String::as_str)),
            max_frame_size: policy.max_frame_size.unwrap_or(u64::MAX),
            max_message_size: policy.max_message_size.unwrap_or(u64::MAX),
        });
    }
    options
}
