//! A WebSocket handshake: sent to a server, its 101 checked, and the tunnel that follows.

use std::any::Any;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};

use super::entry::Entry;
use super::outbound::Errand;
use super::plain;
use super::tools::{Downstream, Tools};
use crate::config::model::{Route, WebSocketPolicy};
use crate::fault::Fault;
use crate::http::{AnswerBody, Inbound};
use crate::lifecycle;
use crate::limits::TunnelPermit;
use crate::proto::frame::{Rsv, Rules};
use crate::proto::spelling;
use crate::proto::websocket::extension_names;
use crate::telemetry::end::EndReason;
use crate::transport::Transport;
use crate::tunnel::{self, Early, TunnelOptions, TunnelTools};
use crate::types::HttpVersion;
use crate::upgrade::{self, Handshake};
use crate::upstream::{Failed, HandshakeAnswer, RequestBody, Switched};

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
    head.extensions = spelling::websocket();

    let group = errand.generation.group(errand.upstream);
    let timeouts = &route.timeouts;
    let request = Request::from_parts(head, RequestBody::Empty);
    entry.set_client_stall(timeouts.client_stall);
    let asked = group.handshake(request, timeouts.response, timeouts.response_body_idle).await;
    let (answer, server) = match asked {
        Ok(answered) => answered,
        Err(Failed { failure, server }) => {
            if let Some(server) = server {
                entry.set_server(&group.definition.servers[server].url);
            }
            return Err(Fault::Upstream(failure));
        }
    };
    entry.set_server(&group.definition.servers[server].url);

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
    let Switched { head: answer, stream: upstream, early } = switched;
    let agreed = upgrade::check_answer(&handshake, answer.status, answer.version, &answer.headers)?;

    let mut response = Response::new(AnswerBody::Empty);
    *response.headers_mut() = handshake.answer_headers(&agreed, answer.headers);
    let options = options(route.websocket.as_ref(), response.headers());
    let tunnel = Tunnel {
        tools: downstream.tools.clone(),
        entry: entry.clone(),
        upstream: Box::new(upstream),
        early,
        options,
        permit,
    };
    match downstream.version {
        HttpVersion::Http1 => {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.extensions_mut() = spelling::websocket();
            entry.tunnel_opened(StatusCode::SWITCHING_PROTOCOLS);
            downstream.put_handover(Box::new(move |stream, early, held| tunnel.open(stream, early, held)));
        }
        HttpVersion::Http2 => {
            let stream = stream.ok_or(Fault::Internal("the stream cannot become a tunnel"))?;
            entry.tunnel_opened(StatusCode::OK);
            let held = downstream.hold_tunnel();
            lifecycle::spawn_local("h2 tunnel opening", async move {
                match stream.open().await {
                    Ok(stream) => tunnel.open(Box::new(stream), Bytes::new(), held),
                    Err(_) => tunnel.entry.end(EndReason::ClientClosed),
                }
            });
        }
    }
    Ok(response)
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

/// A tunnel whose client side is about to be ready.
pub struct Tunnel {
    tools: Rc<Tools>,
    entry: Rc<Entry>,
    upstream: Box<dyn Transport>,
    /// What the server sent right behind its 101.
    early: Bytes,
    options: TunnelOptions,
    /// Where the route counts its tunnels.
    permit: Option<TunnelPermit>,
}

impl Tunnel {
    /// Splices, in a small task of its own. `early` is what the client sent right behind its request; `held` is kept
    /// until the end.
    pub fn open(mut self, downstream: Box<dyn Transport>, early: Bytes, held: impl Sized + 'static) {
        match self.permit.take() {
            // Boxed with what is held anyway, so that tunnels which nobody counts have no room for it.
            Some(permit) => self.splice(downstream, early, Box::new((held, permit)) as Box<dyn Any>),
            None => self.splice(downstream, early, held),
        }
    }

    fn splice(self, downstream: Box<dyn Transport>, early: Bytes, held: impl Sized + 'static) {
        let Self { tools, entry, upstream, early: from_upstream, options, .. } = self;
        let guard = tools.lifecycle.guard();
        // hyper's buffer lives as long as a slice of it: keep a copy of the few early bytes, or nothing.
        let early = Early { downstream: Bytes::copy_from_slice(&early), upstream: from_upstream };
        let shared = TunnelTools { scratch: tools.scratch.clone(), wheel: tools.wheel.clone() };
        let splice = tunnel::splice(downstream, upstream, early, options, &shared, tools.phase.stop());
        lifecycle::spawn_local("tunnel", async move {
            let end = splice.await;
            entry.tunnel_ended(end);
            drop((entry, held, guard));
        });
    }
}
