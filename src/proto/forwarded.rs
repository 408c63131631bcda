//! Who the client is, told to the upstream: `X-Forwarded-*`, `X-Real-IP`, `Forwarded`.
//!
//! From a peer that nobody trusts, whatever it says about itself is thrown away; from a trusted one `X-Forwarded-For`
//! is continued and its scheme and host are believed. Spellings with `_` or `.` for `-` go from everyone, because
//! CGI-like backends cannot tell them from the fields that the gateway sets. `Proxy` goes from everyone ("httpoxy").
//!
//! Lists are read from the right: the rightmost member was written by the peer that we know.
//!
//! RFC 7239 4-6; RFC 9110 7.6.3.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::fields::{is_token, members};
use super::host::{Authority, parse_authority};
use super::managed::is_managed;
use crate::types::Scheme;

pub static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What the gateway knows about a request's sender.
#[derive(Clone, Debug)]
pub struct ForwardedInput<'a> {
    /// The socket's peer; `None` on a unix socket.
    pub peer: Option<IpAddr>,
    /// The peer's own words are believed.
    pub trusted: bool,
    /// [`client_address`], taken before the fields are changed.
    pub client: Option<IpAddr>,
    /// How the peer reached us.
    pub scheme: Scheme,
    /// What the request is for; `None`: HTTP/1.0 without Host.
    pub authority: Option<&'a Authority>,
    /// The port the peer reached us on; `None` on a unix socket.
    pub port: Option<u16>,
    /// Adds `Forwarded`.
    pub emit_forwarded: bool,
}

/// How the client reached the outermost trusted hop: what `same-origin` compares with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    pub scheme: Scheme,
    pub authority: Option<Authority>,
}

/// Scheme and authority as a trusted peer reports them, else as we see them ourselves.
/// To be asked before [`set_forwarded`].
pub fn effective(headers: &HeaderMap, trusted: bool, scheme: Scheme, authority: Option<&Authority>) -> Effective {
    let reported = |name: &HeaderName| if trusted { last_member(headers, name) } else { None };
    Effective {
        scheme: reported(&X_FORWARDED_PROTO).and_then(parse_scheme).unwrap_or(scheme),
        authority: reported(&X_FORWARDED_HOST).and_then(|host| parse_authority(host).ok()).or(authority.cloned()),
    }
}

/// The rightmost address that is not trusted, beginning with the peer itself. What does not parse ends the search,
/// because nothing to the left of it can be vouched for. A peer on a unix socket is `None`, and so is the client where
/// nothing better is known.
pub fn client_address(
    headers: &HeaderMap,
    peer: Option<IpAddr>,
    is_trusted: impl Fn(Option<IpAddr>) -> bool,
) -> Option<IpAddr> {
    let mut client = peer.map(|peer| peer.to_canonical());
    if !is_trusted(client) {
        return client;
    }
    let lines: SmallVec<[&HeaderValue; 4]> = headers.get_all(&X_FORWARDED_FOR).iter().collect();
    for member in lines.iter().rev().flat_map(|line| members(line.as_bytes()).rev()) {
        let Some(address) = parse_node(member) else { break };
        client = Some(address);
        if !is_trusted(client) {
            break;
        }
    }
    client
}

/// Leaves in the fields what the upstream may believe.
pub fn set_forwarded(headers: &mut HeaderMap, input: &ForwardedInput<'_>) {
    remove_claims(headers, input.trusted);
    let peer = input.peer.map(|peer| peer.to_canonical());
    if let Some(peer) = peer {
        let chain = continued(headers, &X_FORWARDED_FOR, &peer.to_string());
        insert(headers, &X_FORWARDED_FOR, chain);
    }
    match input.client.or(peer) {
        Some(client) => insert(headers, &X_REAL_IP, HeaderValue::try_from(client.to_string()).ok()),
        None => insert(headers, &X_REAL_IP, None),
    }
    let proto_kept = last_member(headers, &X_FORWARDED_PROTO).and_then(parse_scheme);
    let host_kept = last_member(headers, &X_FORWARDED_HOST).and_then(|host| parse_authority(host).ok());
    let port_kept = last_member(headers, &X_FORWARDED_PORT).is_some_and(|port| port.parse::<u16>().is_ok());
    if !port_kept {
        let port = match (proto_kept, &host_kept) {
            (None, None) => input.port,
            // Our own port would contradict what the trusted peer says about the outside.
            (proto, host) => {
                let scheme = proto.unwrap_or(input.scheme);
                Some(host.as_ref().map_or(scheme.default_port(), |host| host.effective_port(scheme)))
            }
        };
        insert(headers, &X_FORWARDED_PORT, port.map(HeaderValue::from));
    }
    if proto_kept.is_none() {
        insert(headers, &X_FORWARDED_PROTO, Some(HeaderValue::from_static(input.scheme.as_str())));
    }
    if host_kept.is_none() {
        let host = input.authority.and_then(|authority| HeaderValue::try_from(authority.to_string()).ok());
        insert(headers, &X_FORWARDED_HOST, host);
    }
    if input.emit_forwarded {
        let element = forwarded_element(input, peer);
        let chain = continued(headers, &FORWARDED, &element);
        insert(headers, &FORWARDED, chain);
    }
}

/// An address as RFC 7239 6 wants it behind `for=`: IPv6 bracketed, and therefore quoted.
pub fn node_for_forwarded(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    }
}

/// Whether a field is another spelling of one that the gateway sets.
fn is_alias(name: &str) -> bool {
    name.bytes().any(|byte| matches!(byte, b'_' | b'.')) && is_managed(name)
}

fn remove_claims(headers: &mut HeaderMap, trusted: bool) {
    let is_claim = |name: &HeaderName| {
        let text = name.as_str();
        let known = match text.as_bytes().first() {
            Some(b'p') => text == "proxy",
            Some(b'f') => !trusted && text == "forwarded",
            Some(b'x') => !trusted && (text.starts_with("x-forwarded-") || text == "x-real-ip"),
            _ => false,
        };
        known || is_alias(text)
    };
    let doomed: SmallVec<[HeaderName; 8]> = headers.keys().filter(|name| is_claim(name)).cloned().collect();
    for name in &doomed {
        headers.remove(name);
    }
}

/// All lines of a list field as one, with another member behind them.
fn continued(headers: &HeaderMap, name: &HeaderName, member: &str) -> Option<HeaderValue> {
    let mut chain = Vec::new();
    for line in headers.get_all(name).iter().filter(|line| !line.is_empty()) {
        chain.extend_from_slice(line.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(member.as_bytes());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(chain)).ok()
}

fn insert(headers: &mut HeaderMap, name: &HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => drop(headers.insert(name, value)),
        None => drop(headers.remove(name)),
    }
}

fn forwarded_element(input: &ForwardedInput<'_>, peer: Option<IpAddr>) -> String {
    let mut element = String::from("for=");
    element.push_str(&peer.map_or("unknown".into(), node_for_forwarded));
    if let Some(authority) = input.authority {
        let host = authority.to_string();
        // An authority has neither quotes nor backslashes.
        let quote = if is_token(host.as_bytes()) { "" } else { "\"" };
        // Writing to a String does not fail.
        let _ = write!(element, ";host={quote}{host}{quote}");
    }
    let _ = write!(element, ";proto={}", input.scheme.as_str());
    element
}

fn last_member<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let line = headers.get_all(name).iter().next_back()?;
    std::str::from_utf8(members(line.as_bytes()).next_back()?).ok()
}

fn parse_scheme(text: &str) -> Option<Scheme> {
    // Some proxies name the WebSocket's scheme here.
    [("https", Scheme::Https), ("http", Scheme::Http), ("wss", Scheme::Https), ("ws", Scheme::Http)]
        .into_iter()
        .find_map(|(name, scheme)| text.eq_ignore_ascii_case(name).then_some(scheme))
}

/// An address, bracketed or not, with a port or without.
fn parse_node(member: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(member).ok()?;
    let bare = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip())).ok()?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
#[path = "forwarded_tests.rs"]
mod tests;
