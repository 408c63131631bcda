//! A handshake that was let in: the fields it sends upstream, the check of the answer, the fields of our own answer.
//!
//! Everything here takes a header map and gives one back. Spelling (`Sec-WebSocket-Key`) is the writer's business.
//! RFC 6455 4.1, 4.2.2; RFC 8441 5; RFC 9110 7.6.1, 7.8.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TE, TRAILER, UPGRADE,
};
use http::{StatusCode, Version};

use super::{Offer, Road};
use crate::proto::fields::scrub_answer;
use crate::proto::websocket::{Agreed, Asked, BadUpgrade, check_101, check_200};

/// The plan for a handshake that passed the policy.
#[derive(Clone, Debug)]
pub struct Handshake {
    pub(super) road: Road,
    pub(super) key: String,
    pub(super) accept: String,
    pub(super) offer: Offer,
}

impl Handshake {
    pub fn road(&self) -> Road {
        self.road
    }

    /// The `Sec-WebSocket-Key` that goes upstream: the client's, or on HTTP/2 one of our own.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The `Sec-WebSocket-Accept` that the upstream has to answer with.
    pub fn accept(&self) -> &str {
        &self.accept
    }

    /// The subprotocols that go upstream, in the client's order.
    pub fn subprotocols(&self) -> &[String] {
        &self.offer.subprotocols
    }

    /// The names of the extensions that go upstream.
    pub fn extensions(&self) -> &[String] {
        &self.offer.extensions
    }

    /// The fields of the upgrade request. `headers` are the client's after scrubbing, with what the gateway adds;
    /// whatever they still say about the handshake is replaced. What HTTP/2 has no use for is left out where it is
    /// known to be spoken.
    pub fn request_headers(&self, mut headers: HeaderMap) -> HeaderMap {
        for name in [CONTENT_LENGTH, EXPECT, TE, TRAILER, SEC_WEBSOCKET_ACCEPT] {
            headers.remove(name);
        }
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, base64_value(&self.key));
        if self.offer.extensions.is_empty() {
            headers.remove(SEC_WEBSOCKET_EXTENSIONS);
        }
        if self.offer.subprotocols.is_empty() {
            headers.remove(SEC_WEBSOCKET_PROTOCOL);
        } else if self.offer.filtered {
            let list = HeaderValue::try_from(self.offer.subprotocols.join(", "));
            headers.insert(SEC_WEBSOCKET_PROTOCOL, list.expect("tokens and commas make a header value"));
        }
        headers
    }

    /// The fields of the answer that opens the client's tunnel: of a 101, or on HTTP/2 of a 200. `upstream` are those
    /// of the 101 that [`check_answer`] has passed.
    pub fn answer_headers(&self, agreed: &Agreed, mut upstream: HeaderMap) -> HeaderMap {
        scrub_answer(&mut upstream);
        let handshake = [
            SEC_WEBSOCKET_ACCEPT,
            SEC_WEBSOCKET_PROTOCOL,
            SEC_WEBSOCKET_EXTENSIONS,
            SEC_WEBSOCKET_KEY,
            SEC_WEBSOCKET_VERSION,
        ];
        // A 101 has no body (RFC 9110 8.6, RFC 9112 6.1), and the tunnel behind it is none either.
        for name in handshake.into_iter().chain([CONTENT_LENGTH, TRAILER]) {
            upstream.remove(name);
        }
        if self.road == Road::H1 {
            upstream.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            upstream.insert(UPGRADE, HeaderValue::from_static("websocket"));
            upstream.insert(SEC_WEBSOCKET_ACCEPT, base64_value(&self.accept));
        }
        if let Some(subprotocol) = &agreed.subprotocol {
            upstream.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol.clone());
        }
        for line in &agreed.extensions {
            upstream.append(SEC_WEBSOCKET_EXTENSIONS, line.clone());
        }
        upstream
    }
}

/// Whether the upstream's answer agrees to the handshake, by the rules of the HTTP that it came over. Ask for a 101 only,
/// or over HTTP/2 for a 2xx: any other status is an ordinary answer (which becomes 502 where a client on HTTP/2 would take
/// it for its tunnel).
///
/// # Errors
/// The cause; the client gets 502 and the upstream connection is closed.
pub fn check_answer(
    plan: &Handshake,
    status: StatusCode,
    version: Version,
    headers: &HeaderMap,
) -> Result<Agreed, BadUpgrade> {
    let asked =
        Asked { accept: &plan.accept, subprotocols: &plan.offer.subprotocols, extensions: &plan.offer.extensions };
    match version {
        Version::HTTP_2 => check_200(&asked, status, headers),
        _ => check_101(&asked, status, version, headers),
    }
}

fn base64_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("base64 makes a header value")
}
