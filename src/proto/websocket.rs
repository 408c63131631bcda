//! The WebSocket opening: what a handshake is, its key and lists, and whether a 101 agrees to it.
//!
//! Only grammar and arithmetic; which handshakes are welcome is `upgrade/`'s business. Key and accept are compared
//! byte for byte, extension lists by name only (their parameters belong to the two ends).
//!
//! RFC 6455 4.1, 4.2, 9.1, 11.3; RFC 9110 7.8; RFC 8441 5.

use std::fmt;

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Method, StatusCode, Version};

use super::fields::{has_token, is_token, members, tokens, trim};

/// Whether an HTTP/1.1 request opens a WebSocket. What only half looks like it is a plain request.
pub fn is_handshake_h1(method: &Method, version: Version, headers: &HeaderMap) -> bool {
    method == Method::GET
        && version == Version::HTTP_11
        && has_token(headers, &CONNECTION, "upgrade")
        && has_token(headers, &UPGRADE, "websocket")
}

/// Whether a value is a key: 16 bytes in base64, in the one form that an encoder writes.
pub fn is_key(value: &[u8]) -> bool {
    let mut bytes = [0; 18];
    value.len() == 24 && STANDARD.decode_slice(value, &mut bytes) == Ok(16)
}

/// A fresh key for a handshake of our own.
pub fn new_key() -> String {
    let mut nonce = [0; 16];
    rand::fill(&mut nonce).expect("AWS-LC ends the process rather than run out of random bytes");
    STANDARD.encode(nonce)
}

/// The `Sec-WebSocket-Accept` that belongs to a key (RFC 6455 4.2.2).
pub fn accept_for(key: &str) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finish())
}

/// A list of subprotocols or extensions that does not follow its grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadList;

/// The subprotocols that a handshake offers, in its order, each once.
pub fn subprotocols(headers: &HeaderMap) -> Result<Vec<String>, BadList> {
    let mut offered: Vec<String> = Vec::new();
    for member in tokens(headers, &SEC_WEBSOCKET_PROTOCOL) {
        if !is_token(member) {
            return Err(BadList);
        }
        let member = std::str::from_utf8(member).map_err(|_| BadList)?;
        // Nobody has that many subprotocols; the bound keeps the search below cheap.
        if offered.len() == MAX_MEMBERS {
            return Err(BadList);
        }
        if !offered.iter().any(|known| known == member) {
            offered.push(member.to_owned());
        }
    }
    Ok(offered)
}

/// The names of the extensions in `Sec-WebSocket-Extensions`, in order, without parameters.
pub fn extension_names(headers: &HeaderMap) -> Result<Vec<String>, BadList> {
    let mut names = Vec::new();
    for line in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        for member in split_quoted(line.as_bytes(), b',')? {
            if member.is_empty() {
                continue;
            }
            let mut parts = split_quoted(member, b';')?.into_iter();
            let name = parts.next().filter(|name| is_token(name)).ok_or(BadList)?;
            if names.len() == MAX_MEMBERS || !parts.all(is_parameter) {
                return Err(BadList);
            }
            names.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok(names)
}

/// What a 101 is held against.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// [`accept_for`] the key that was sent.
    pub accept: &'a str,
    pub subprotocols: &'a [String],
    pub extensions: &'a [String],
}

/// What both ends have agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    pub subprotocol: Option<HeaderValue>,
    /// The upstream's lines, unchanged.
    pub extensions: Vec<HeaderValue>,
}

/// Why an upstream's answer is no agreement to the handshake; the client gets 502.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadUpgrade {
    /// Not a 101 at all; over HTTP/2 not a 200.
    Status,
    /// Not HTTP/1.1.
    Version,
    /// `Upgrade` is not exactly `websocket`.
    Upgrade,
    /// `Connection` does not hold `upgrade`.
    Connection,
    AcceptMissing,
    AcceptTwice,
    AcceptWrong,
    /// More than one subprotocol, or something that is none.
    SubprotocolMalformed,
    SubprotocolNotOffered,
    ExtensionsMalformed,
    ExtensionNotOffered,
}

impl fmt::Display for BadUpgrade {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Status => "the answer is neither a 101 nor, over HTTP/2, a 200",
            Self::Version => "the 101 is not HTTP/1.1",
            Self::Upgrade => "Upgrade is not exactly websocket",
            Self::Connection => "Connection does not hold upgrade",
            Self::AcceptMissing => "there is no Sec-WebSocket-Accept",
            Self::AcceptTwice => "there are several Sec-WebSocket-Accept",
            Self::AcceptWrong => "Sec-WebSocket-Accept does not belong to the key",
            Self::SubprotocolMalformed => "Sec-WebSocket-Protocol is not one subprotocol",
            Self::SubprotocolNotOffered => "the subprotocol was not offered",
            Self::ExtensionsMalformed => "Sec-WebSocket-Extensions is not a list of extensions",
            Self::ExtensionNotOffered => "an extension was not offered",
        })
    }
}

impl std::error::Error for BadUpgrade {}

/// Whether an answer agrees to the handshake (RFC 6455 4.1, the client's side).
pub fn check_101(
    asked: &Asked<'_>,
    status: StatusCode,
    version: Version,
    headers: &HeaderMap,
) -> Result<Agreed, BadUpgrade> {
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(BadUpgrade::Status);
    }
    if version != Version::HTTP_11 {
        return Err(BadUpgrade::Version);
    }
    let mut upgrades = tokens(headers, &UPGRADE);
    if !upgrades.next().is_some_and(|token| token.eq_ignore_ascii_case(b"websocket")) || upgrades.next().is_some() {
        return Err(BadUpgrade::Upgrade);
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err(BadUpgrade::Connection);
    }
    let accept = single(headers, &SEC_WEBSOCKET_ACCEPT).map_err(|_| BadUpgrade::AcceptTwice)?;
    match accept {
        None => return Err(BadUpgrade::AcceptMissing),
        Some(accept) if accept.as_bytes() != asked.accept.as_bytes() => return Err(BadUpgrade::AcceptWrong),
        Some(_) => {}
    }
    Ok(Agreed { subprotocol: agreed_subprotocol(asked, headers)?, extensions: agreed_extensions(asked, headers)? })
}

/// Whether an answer over HTTP/2 agrees to the handshake: what a 101 says besides is said there by the stream (RFC 8441
/// 5). Other 2xx would open it as well (RFC 9110 9.3.6), but no WebSocket.
pub fn check_200(asked: &Asked<'_>, status: StatusCode, headers: &HeaderMap) -> Result<Agreed, BadUpgrade> {
    if status != StatusCode::OK {
        return Err(BadUpgrade::Status);
    }
    Ok(Agreed { subprotocol: agreed_subprotocol(asked, headers)?, extensions: agreed_extensions(asked, headers)? })
}

/// The one line of a field that must not stand twice.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, BadList> {
    let mut lines = headers.get_all(name).into_iter();
    match (lines.next(), lines.next()) {
        (line, None) => Ok(line),
        (_, Some(_)) => Err(BadList),
    }
}

fn agreed_subprotocol(asked: &Asked<'_>, headers: &HeaderMap) -> Result<Option<HeaderValue>, BadUpgrade> {
    let line = single(headers, &SEC_WEBSOCKET_PROTOCOL).map_err(|_| BadUpgrade::SubprotocolMalformed)?;
    let Some(line) = line else { return Ok(None) };
    let chosen = line.as_bytes();
    if !is_token(chosen) {
        return Err(BadUpgrade::SubprotocolMalformed);
    }
    if !asked.subprotocols.iter().any(|offered| offered.as_bytes() == chosen) {
        return Err(BadUpgrade::SubprotocolNotOffered);
    }
    Ok(Some(line.clone()))
}

fn agreed_extensions(asked: &Asked<'_>, headers: &HeaderMap) -> Result<Vec<HeaderValue>, BadUpgrade> {
    let names = extension_names(headers).map_err(|_| BadUpgrade::ExtensionsMalformed)?;
    if !names.iter().all(|name| asked.extensions.contains(name)) {
        return Err(BadUpgrade::ExtensionNotOffered);
    }
    // Empty lines name no extension and do not go on.
    let lines = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
    Ok(lines.filter(|line| members(line.as_bytes()).next().is_some()).cloned().collect())
}

/// Cuts at a separator outside quoted strings.
fn split_quoted(line: &[u8], separator: u8) -> Result<Vec<&[u8]>, BadList> {
    let (mut parts, mut start, mut quoted, mut at) = (Vec::new(), 0, false, 0);
    while at < line.len() {
        match line[at] {
            b'"' => quoted = !quoted,
            b'\\' if quoted => at += 1,
            byte if byte == separator && !quoted => {
                parts.push(trim(&line[start..at]));
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    if quoted || at > line.len() {
        return Err(BadList);
    }
    parts.push(trim(&line[start..]));
    Ok(parts)
}

/// `name`, `name=token` or `name="token"`: RFC 6455 9.1 wants a token inside the quotes as well.
fn is_parameter(parameter: &[u8]) -> bool {
    let Some(equals) = parameter.iter().position(|byte| *byte == b'=') else { return is_token(parameter) };
    let (name, value) = (trim(&parameter[..equals]), trim(&parameter[equals + 1..]));
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    is_token(name) && is_token(bare)
}

const MAX_MEMBERS: usize = 64;

#[cfg(test)]
#[path = "websocket_tests.rs"]
mod tests;
