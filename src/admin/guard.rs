//! Who is let in: the right door, the right name, the right page, the right token.
//!
//! A browser on the operator's own machine can be made to ask the admin listener anything, by any page that is open in it.
//! So the name that it was asked under has to be one that belongs to this listener, and not one that somebody's DNS made
//! to point here; a request that says which page made it has to come from the listener's own; and what changes something
//! has to be JSON, which no form can send. What comes through a gateway, this one first of all, is not let in, whatever it
//! says. The token is compared in constant time.
//!
//! Pure. RFC 6454 7 (Origin), RFC 6750 2.1 (Bearer), RFC 9110 7.2 (Host), 7.6.3 (Via).

use std::net::IpAddr;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName};
use http::request::Parts;
use http::{Method, StatusCode};

use super::answer::{ApiError, JSON};
use crate::config::model::ListenAddress;
use crate::proto::host::{Authority, effective_authority};
use crate::proto::origin::{self, Origin};
use crate::proto::via::Via;
use crate::snapshot::AdminPlan;
use crate::types::Scheme;

/// What browsers say of who makes a request (Fetch Metadata).
static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether the request may be answered at all. `is_tls`: how it came.
pub fn check(plan: &AdminPlan, via: &Via, is_tls: bool, head: &Parts) -> Result<(), ApiError> {
    let scheme = if is_tls { Scheme::Https } else { Scheme::Http };
    let forbidden = |code, message: &str| ApiError::new(StatusCode::FORBIDDEN, code, message);
    if via.is_in(&head.headers) {
        return Err(forbidden("came-through-the-gateway", "the admin listener is not reached through the gateway")
            .help("a route leads here; take it out of the configuration"));
    }
    if head.uri.authority().is_some() {
        return Err(ApiError::bad_request("bad-target", "the request's target is an absolute URL")
            .help("this is no proxy: ask for a path"));
    }
    let authority = effective_authority(&head.method, head.version, &head.uri, &head.headers)
        .map_err(|bad| ApiError::bad_request("bad-host", bad.to_string()))?
        .ok_or_else(|| ApiError::bad_request("bad-host", "the request names no host"))?;
    if !is_known(plan, &authority) {
        return Err(forbidden("unknown-host", "the admin listener is not known by this name")
            .help("ask it under an address of this machine, or add the name to `hosts` of `[admin]`"));
    }
    let is_own = match origin::origin_of(&head.headers) {
        Ok(None) => true,
        Ok(Some(Origin::Tuple(origin))) => {
            let port = origin.port.or_else(|| origin::default_port(&origin.scheme));
            origin.scheme == scheme.as_str()
                && origin.host == authority.host
                && port == Some(authority.effective_port(scheme))
        }
        Ok(Some(_)) | Err(_) => false,
    };
    if !is_own {
        return Err(forbidden("foreign-origin", "a page of another origin asks"));
    }
    // To follow a link to the page itself is no harm.
    let is_page = head.uri.path() == "/" && head.method == Method::GET;
    let mut sites = head.headers.get_all(&SEC_FETCH_SITE).into_iter();
    if !is_page && !sites.all(|site| matches!(site.as_bytes(), b"same-origin" | b"none")) {
        return Err(forbidden("foreign-origin", "a page of another site asks"));
    }
    Ok(())
}

/// Names that nobody else's DNS can give to this listener: loopback's own, the address that it listens on, and what the
/// configuration lists.
fn is_known(plan: &AdminPlan, authority: &Authority) -> bool {
    let host = &*authority.host;
    if host == "localhost" || host.ends_with(".localhost") || plan.hosts.iter().any(|known| known == host) {
        return true;
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let Ok(address) = bare.parse::<IpAddr>() else { return false };
    let address = address.to_canonical();
    match &plan.key.address {
        ListenAddress::Tcp(own) => {
            let own = own.ip().to_canonical();
            address.is_loopback() || own.is_unspecified() || own == address
        }
        ListenAddress::Unix(_) | ListenAddress::Inherited(_) => address.is_loopback(),
    }
}

/// Whether whoever asks knows the token, where there is one.
pub fn authenticate(plan: &AdminPlan, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(token) = &plan.token else { return Ok(()) };
    let mut lines = headers.get_all(AUTHORIZATION).into_iter();
    let (line, more) = (lines.next(), lines.next());
    let said = line.filter(|_| more.is_none()).map(|line| line.as_bytes()).and_then(bearer);
    if said.is_some_and(|said| token.is(said)) {
        return Ok(());
    }
    let unauthorized = |code, message: &str| ApiError::new(StatusCode::UNAUTHORIZED, code, message);
    Err(match line {
        None => unauthorized("no-token", "a token is needed")
            .help("send `Authorization: Bearer TOKEN`; the commands take it from --token-file"),
        Some(_) => unauthorized("wrong-token", "this is not the token"),
    })
}

/// The token of `Bearer TOKEN`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let token = rest.strip_prefix(b" ")?.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}

/// Whether a body is what it has to be; where there is none, whether nothing else is claimed.
pub fn check_body(headers: &HeaderMap, is_empty: bool) -> Result<(), ApiError> {
    let mut lines = headers.get_all(CONTENT_TYPE).into_iter();
    let is_json = match (lines.next(), lines.next()) {
        (None, _) => is_empty,
        (Some(line), None) => {
            let kind = line.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
            kind.trim_ascii().eq_ignore_ascii_case(JSON.as_bytes())
        }
        (Some(_), Some(_)) => false,
    };
    if is_json {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", "the body is not JSON")
        .help("send `Content-Type: application/json`"))
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
