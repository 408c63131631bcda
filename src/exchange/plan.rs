//! What is to be done with a request: decided from its head alone, without IO, in one place for all four ways in.
//!
//! The order of the questions is the order of trust: is the head sound, whom is it for, may it be asked there, and
//! only then what the route says. `explain` asks the same function.

use std::net::IpAddr;

use http::{Method, Version, request};

use crate::config::model::{Route, Target};
use crate::fault::Fault;
use crate::proto::fields::{self, Expectation, TransferCoding};
use crate::proto::forwarded;
use crate::proto::host::{self, Authority};
use crate::proto::target::parse_target;
use crate::proto::websocket;
use crate::route::{self, Lookup};
use crate::snapshot::{ListenerPlan, Snapshot};
use crate::tls::TlsInfo;
use crate::types::HttpVersion;
use crate::upgrade::{self, EffectiveOrigin, Handshake, HandshakeRequest, Road};

/// A request head and the connection it came on.
pub struct Asked<'a> {
    pub listener: &'a ListenerPlan,
    /// The peer's address, before any field is believed; `None` on a unix socket.
    pub peer: Option<IpAddr>,
    pub tls: Option<&'a TlsInfo>,
    pub version: HttpVersion,
    /// `:protocol` of an extended CONNECT.
    pub protocol: Option<&'a str>,
    pub head: &'a request::Parts,
}

/// What was found out on the way, for the log, however far it went.
#[derive(Default)]
pub struct Found {
    pub authority: Option<Authority>,
    pub route: Option<usize>,
    pub is_handshake: bool,
}

/// What is to be done.
pub enum Plan {
    /// `OPTIONS *`.
    Options,
    Redirect {
        to: String,
        status: u16,
    },
    Respond {
        status: u16,
        body: String,
    },
    Forward {
        upstream: usize,
        onward: String,
        expect_continue: bool,
    },
    Handshake {
        upstream: usize,
        onward: String,
        handshake: Handshake,
    },
}

/// Decides. `found` is filled as far as the decision came.
pub fn plan(snapshot: &Snapshot, asked: &Asked<'_>, found: &mut Found) -> Result<Plan, Fault> {
    let head = asked.head;
    found.is_handshake = is_handshake(asked);
    check_method(asked)?;
    let authority = host::effective_authority(&head.method, head.version, &head.uri, &head.headers)?;
    found.authority = authority.clone();
    // hyper counts them on HTTP/1.1 before we see the head.
    if head.headers.len() > asked.listener.limits.fields {
        return Err(Fault::TooManyFields);
    }
    let expect_continue = check_head(asked, found.is_handshake)?;

    let raw = head.uri.path_and_query().map_or("", |target| target.as_str());
    if raw.len() > asked.listener.limits.target_size {
        return Err(Fault::TargetTooLong);
    }
    if head.method == Method::OPTIONS && raw == "*" {
        return Ok(Plan::Options);
    }
    let target = parse_target(raw)?;
    // Refused by hyper, unless it was offered to this connection before a reload.
    if found.is_handshake && asked.version == HttpVersion::Http2 && !asked.listener.websocket_over_h2 {
        return Err(Fault::Misdirected);
    }
    if snapshot.via.is_in(&head.headers) {
        return Err(Fault::Loop);
    }
    check_tls_policy(asked, authority.as_ref())?;
    if asked.listener.redirect_https {
        let host = authority.as_ref().ok_or(Fault::NoRoute)?.host.as_str();
        return Ok(Plan::Redirect { to: format!("https://{host}{}", target.onward(None)), status: 308 });
    }

    let index = match snapshot.table.lookup(asked.listener.index, authority.as_ref(), &target.normalised) {
        Lookup::Found(index) => index,
        Lookup::NoHost if is_for_another_sni(asked, authority.as_ref()) => return Err(Fault::Misdirected),
        Lookup::NoHost | Lookup::NoPath => return Err(Fault::NoRoute),
    };
    found.route = Some(index);
    let route = &snapshot.routes[index];
    if *route.client_certificate && asked.tls.is_none_or(|tls| tls.client_certificate.is_none()) {
        return Err(Fault::ClientCertificateRequired);
    }
    let onward = target.onward(route.strip_prefix.as_ref().map(|prefix| prefix.as_str())).into_owned();
    if found.is_handshake {
        return plan_handshake(snapshot, asked, authority.as_ref(), route, onward);
    }
    match &route.target {
        Target::Redirect { to, status } => Ok(Plan::Redirect { to: to.clone(), status: *status }),
        Target::Respond { status, body } => Ok(Plan::Respond { status: *status, body: body.clone() }),
        Target::Upstream(upstream) if snapshot.upstreams[*upstream].websocket_only => Err(Fault::WebSocketOnly),
        Target::Upstream(upstream) => Ok(Plan::Forward { upstream: *upstream, onward, expect_continue }),
    }
}

/// RFC 6455 4.2.1, RFC 8441 4.
fn is_handshake(asked: &Asked<'_>) -> bool {
    match asked.version {
        HttpVersion::Http1 => websocket::is_handshake_h1(&asked.head.method, asked.head.version, &asked.head.headers),
        HttpVersion::Http2 => asked.head.method == Method::CONNECT && asked.protocol == Some("websocket"),
    }
}

fn check_method(asked: &Asked<'_>) -> Result<(), Fault> {
    match (&asked.head.method, asked.protocol) {
        (&Method::CONNECT, Some("websocket")) => Ok(()),
        (&Method::CONNECT, Some(_)) => Err(Fault::UnknownProtocol),
        (&Method::CONNECT | &Method::TRACE, _) => Err(Fault::MethodNotAllowed),
        _ => Ok(()),
    }
}

/// The fields that say how the message is framed and what this hop must do. Whether to wait for a 100.
fn check_head(asked: &Asked<'_>, is_handshake: bool) -> Result<bool, Fault> {
    let headers = &asked.head.headers;
    fields::check_connection(headers)?;
    // HTTP/1.0 knows no transfer codings, HTTP/2 has none (RFC 9113 8.2.2 lets h2 refuse it before).
    match fields::transfer_encoding_is_exactly_chunked(headers) {
        TransferCoding::Absent => {}
        TransferCoding::Chunked if asked.head.version == Version::HTTP_11 => {}
        TransferCoding::Chunked | TransferCoding::Bad => return Err(Fault::TransferEncoding),
    }
    fields::content_length(headers)?;
    match fields::expectation(headers) {
        _ if is_handshake => Ok(false),
        Expectation::None => Ok(false),
        Expectation::Continue => Ok(asked.version == HttpVersion::Http1),
        Expectation::Other => Err(Fault::Expectation),
    }
}

/// SNI and authority must belong to the same TLS policy (RFC 9110 7.4), and the connection must be one that this policy
/// lets in: a reload may have changed what it asks of clients, or the listener from clear to TLS, since it was made. On
/// 421 a client may come again with a new connection (RFC 9110 15.5.20).
fn check_tls_policy(asked: &Asked<'_>, authority: Option<&Authority>) -> Result<(), Fault> {
    let host = authority.map(|authority| authority.host.as_str());
    match (asked.tls, &asked.listener.tls) {
        (None, None) => Ok(()),
        (Some(tls), Some(policies)) if policies.admit(tls, host) => Ok(()),
        _ => Err(Fault::Misdirected),
    }
}

fn is_for_another_sni(asked: &Asked<'_>, authority: Option<&Authority>) -> bool {
    let sni = asked.tls.and_then(|tls| tls.sni.as_deref());
    match (sni, authority) {
        (Some(sni), Some(authority)) => sni != authority.host,
        _ => false,
    }
}

fn plan_handshake(
    snapshot: &Snapshot,
    asked: &Asked<'_>,
    authority: Option<&Authority>,
    route: &Route,
    onward: String,
) -> Result<Plan, Fault> {
    let (Some(policy), Target::Upstream(upstream)) = (&route.websocket, &route.target) else {
        return Err(Fault::UpgradeNotAllowed);
    };
    let trusted = snapshot.trusted_proxies.has(asked.peer);
    let effective = forwarded::effective(&asked.head.headers, trusted, asked.listener.scheme(), authority);
    let is_named = effective.authority.as_ref().is_some_and(|authority| route::names(route, authority));
    let handshake = upgrade::decide(
        policy,
        &HandshakeRequest {
            headers: &asked.head.headers,
            road: match asked.version {
                HttpVersion::Http1 => Road::H1,
                HttpVersion::Http2 => Road::H2,
            },
            effective: EffectiveOrigin::of(&effective),
            authority_is_named: is_named,
        },
    )?;
    // Last, so that who would be refused anyway is told the same as ever, and comes no sooner again.
    if snapshot.shut_routes.has(&route.name) {
        return Err(Fault::RouteDrains);
    }
    Ok(Plan::Handshake { upstream: *upstream, onward, handshake })
}
