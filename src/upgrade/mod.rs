//! The WebSocket policy of a route, as a named decision.
//!
//! [`decide`] judges a handshake by the request's fields as they arrived, before anything is scrubbed from them, and
//! before any connection to an upstream is opened. [`Handshake`] is the plan: what goes upstream, what the answer is
//! held against, and what the client is told. Both roads (HTTP/1.1 upgrade, RFC 8441 over HTTP/2) come through here;
//! statuses are `fault.rs`' business.
//!
//! Checks run in this order: what cannot be a WebSocket handshake at all (repeated fields, version, key, body), who
//! asks (Origin), what is offered (subprotocols, extensions). RFC 6455 4.2, 4.4, 10.2; RFC 8441 5.

pub mod handshake;
pub mod origin;

use std::fmt;

use http::header::{
    HeaderMap, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
};

use crate::config::model::WebSocketPolicy;
use crate::proto::fields::{TransferCoding, content_length, transfer_encoding_is_exactly_chunked};
use crate::proto::origin::{OriginError, origin_of};
use crate::proto::websocket::{accept_for, extension_names, is_key, new_key, single, subprotocols};

pub use crate::proto::websocket::{Agreed, BadUpgrade};
pub use handshake::{Handshake, check_answer};
pub use origin::{EffectiveOrigin, allows, deciding_rule};

/// How a handshake arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Road {
    /// `GET` with `Upgrade: websocket`.
    H1,
    /// Extended CONNECT; the key is ours, not the client's.
    H2,
}

/// A handshake as [`decide`] needs it.
#[derive(Clone, Debug)]
pub struct HandshakeRequest<'a> {
    /// As they arrived.
    pub headers: &'a HeaderMap,
    pub road: Road,
    /// Where the client believes to be; `None` where the request names no host.
    pub effective: Option<EffectiveOrigin<'a>>,
    /// The route names that authority (or has no `hosts`); else `same-origin` means nothing.
    pub authority_is_named: bool,
}

/// Why a handshake is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// `Sec-WebSocket-Key` or `-Version` stands twice: 400.
    DuplicateHeader,
    /// Not exactly version 13: 426 with `Sec-WebSocket-Version: 13`.
    BadVersion,
    /// No key, or not 16 bytes in base64: 400.
    BadKey,
    /// A handshake has no body: 400.
    Body,
    /// `Origin` has bytes that no origin can have: 400.
    OriginField,
    /// `Origin` is not one serialised origin: 403.
    OriginMalformed,
    /// No `Origin`, and the route wants one: 403.
    OriginMissing,
    /// 403.
    OriginNotAllowed,
    /// `Sec-WebSocket-Protocol` or `-Extensions` does not follow its grammar: 400.
    BadOffer,
    /// No acceptable subprotocol is offered, and the route wants one: 400.
    SubprotocolRequired,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::DuplicateHeader => "a WebSocket field stands twice",
            Self::BadVersion => "the WebSocket version is not 13",
            Self::BadKey => "Sec-WebSocket-Key is not a key",
            Self::Body => "the handshake has a body",
            Self::OriginField => "Origin is malformed",
            Self::OriginMalformed => "Origin is not one serialised origin",
            Self::OriginMissing => "there is no Origin",
            Self::OriginNotAllowed => "the Origin is not allowed",
            Self::BadOffer => "a list of subprotocols or extensions is malformed",
            Self::SubprotocolRequired => "no acceptable subprotocol is offered",
        })
    }
}

impl std::error::Error for Refusal {}

/// Judges a handshake by a route's policy.
pub fn decide(policy: &WebSocketPolicy, request: &HandshakeRequest<'_>) -> Result<Handshake, Refusal> {
    let key = opening(request)?;
    check_origin(policy, request)?;
    let offer = offer(policy, request.headers)?;
    let accept = accept_for(&key);
    Ok(Handshake { road: request.road, key, accept, offer })
}

/// What passes on of the client's offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) subprotocols: Vec<String>,
    /// Names; the lines themselves are in the request.
    pub(crate) extensions: Vec<String>,
    /// Some subprotocol was taken out, so that the client's lines cannot go on as they are.
    pub(crate) filtered: bool,
}

/// The checks without configuration; gives the key that goes upstream.
fn opening(request: &HandshakeRequest<'_>) -> Result<String, Refusal> {
    let headers = request.headers;
    let line = |name| single(headers, &name).map_err(|_| Refusal::DuplicateHeader);
    let (version, key) = (line(SEC_WEBSOCKET_VERSION)?, line(SEC_WEBSOCKET_KEY)?);
    // Before the key: older drafts have keys of other forms, and the answer to them is the version we speak.
    if version.is_none_or(|version| version != "13") {
        return Err(Refusal::BadVersion);
    }
    let key = match request.road {
        // RFC 8441 5: the key and its accept have no meaning on HTTP/2; what a client sends there is dropped.
        Road::H2 => new_key(),
        Road::H1 => match key.map(|key| key.to_str()) {
            Some(Ok(key)) if is_key(key.as_bytes()) => key.to_owned(),
            _ => return Err(Refusal::BadKey),
        },
    };
    // A body behind a handshake would come out of the tunnel as its first bytes.
    if transfer_encoding_is_exactly_chunked(headers) != TransferCoding::Absent
        || !matches!(content_length(headers), Ok(None | Some(0)))
    {
        return Err(Refusal::Body);
    }
    Ok(key)
}

fn check_origin(policy: &WebSocketPolicy, request: &HandshakeRequest<'_>) -> Result<(), Refusal> {
    debug_assert!(!policy.origins.is_empty(), "an empty list never means \"allow\"");
    match origin_of(request.headers) {
        Err(OriginError::Field) => Err(Refusal::OriginField),
        Err(OriginError::NotAnOrigin) => Err(Refusal::OriginMalformed),
        Ok(None) if policy.allow_missing_origin => Ok(()),
        Ok(None) => Err(Refusal::OriginMissing),
        Ok(Some(origin)) => {
            let same = request.effective.as_ref().filter(|_| request.authority_is_named);
            if allows(&policy.origins, &origin, same) { Ok(()) } else { Err(Refusal::OriginNotAllowed) }
        }
    }
}

fn offer(policy: &WebSocketPolicy, headers: &HeaderMap) -> Result<Offer, Refusal> {
    let mut offer = Offer::default();
    if headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        offer.subprotocols = subprotocols(headers).map_err(|_| Refusal::BadOffer)?;
    }
    if policy.pass_extensions && headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        offer.extensions = extension_names(headers).map_err(|_| Refusal::BadOffer)?;
    }
    if let Some(allowed) = &policy.subprotocols.allow {
        let before = offer.subprotocols.len();
        offer.subprotocols.retain(|offered| allowed.contains(offered));
        offer.filtered = offer.subprotocols.len() < before;
    }
    if policy.subprotocols.require && offer.subprotocols.is_empty() {
        return Err(Refusal::SubprotocolRequired);
    }
    Ok(offer)
}

#[cfg(test)]
mod tests;
