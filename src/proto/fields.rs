//! Header fields that rule a message on one hop: lists, `Connection` and what it names, framing, trailers.
//!
//! Everything that asks "does this list hold that token" or "may this field go on" asks here, over all lines of a
//! field and with optional white space, for every road alike. Requests whose `Connection` names a field that must
//! not be hop-by-hop are refused; answers are only cleaned, because the client can do nothing about them.
//!
//! RFC 9110 5.6.1 (lists), 6.5.1 (trailers), 7.6.1 (Connection), 8.6 (Content-Length), 10.1.4 (TE);
//! RFC 9112 6.1 (Transfer-Encoding); RFC 9113 8.2.3 (cookie crumbs).

use std::fmt;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, Entry, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use smallvec::SmallVec;

use super::managed::is_managed;

/// A request's `Connection` names a field that must reach the other end (or frames the message): 400.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForbiddenConnectionOption {
    /// The option, in lower case.
    pub option: String,
}

impl fmt::Display for ForbiddenConnectionOption {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Connection names {:?}, which is not hop-by-hop", self.option)
    }
}

impl std::error::Error for ForbiddenConnectionOption {}

/// What `Transfer-Encoding` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferCoding {
    Absent,
    /// One line that is `chunked` and nothing else.
    Chunked,
    /// Anything else; the end of such a message is anyone's guess.
    Bad,
}

/// `Content-Length` that is no number, a list, or several lines that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadContentLength;

impl fmt::Display for BadContentLength {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Content-Length is not one number")
    }
}

impl std::error::Error for BadContentLength {}

/// What `Expect` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    None,
    /// `100-continue`
    Continue,
    Other,
}

/// The members of a list field over all its lines, without white space around them and without empty ones.
/// For fields whose members are tokens; quoted strings are not understood.
pub fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    headers.get_all(name).into_iter().flat_map(|line| members(line.as_bytes()))
}

/// The members of one line of a list field; see [`tokens`].
pub fn members(line: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    line.split(|byte| *byte == b',').map(trim).filter(|member| !member.is_empty())
}

/// Whether a list field holds a token; case does not matter.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether the bytes are one token (RFC 9110 5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

/// Cuts spaces and tabs from both ends.
pub fn trim(bytes: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = bytes.iter().position(|byte| !blank(byte)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    &bytes[start..end]
}

/// Refuses a request whose `Connection` names a field that is never hop-by-hop.
///
/// # Errors
/// The first such option: Host, Content-Length, Transfer-Encoding, Origin or any Sec-WebSocket-*.
pub fn check_connection(headers: &HeaderMap) -> Result<(), ForbiddenConnectionOption> {
    match tokens(headers, &CONNECTION).find(|option| is_forbidden_option(option)) {
        None => Ok(()),
        Some(option) => Err(ForbiddenConnectionOption { option: String::from_utf8_lossy(option).to_ascii_lowercase() }),
    }
}

/// Makes a request's fields fit for the next hop: what belongs to this hop goes, the rest stays.
///
/// `TE: trailers` stays, with the `Connection: te` that RFC 9110 10.1.4 wants beside it. `Trailer` stays: trailers
/// go through. `Proxy-Authorization` goes: it was meant for us, and we never asked for it (RFC 9110 11.7.2).
///
/// # Errors
/// As [`check_connection`]; the fields are then untouched.
pub fn scrub_hop_by_hop(headers: &mut HeaderMap) -> Result<(), ForbiddenConnectionOption> {
    check_connection(headers)?;
    let trailers_welcome = tokens(headers, &TE).any(|member| member.eq_ignore_ascii_case(b"trailers"));
    remove_connection(headers);
    for name in
        [&TE, &TRANSFER_ENCODING, &UPGRADE, &PROXY_AUTHORIZATION, &KEEP_ALIVE, &PROXY_CONNECTION, &HTTP2_SETTINGS]
    {
        headers.remove(name);
    }
    if trailers_welcome {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    Ok(())
}

/// Makes an answer's fields fit for the client. Never fails: a backend's odd `Connection` is not the client's fault.
///
/// `Proxy-Authenticate` goes, because a browser would ask its user for a proxy password on a gateway's behalf.
pub fn scrub_answer(headers: &mut HeaderMap) {
    remove_connection(headers);
    for name in [&TE, &TRANSFER_ENCODING, &UPGRADE, &PROXY_AUTHENTICATE, &KEEP_ALIVE, &PROXY_CONNECTION] {
        headers.remove(name);
    }
}

/// Removes from a trailer section what would change a message's framing, routing, rights or meaning if anyone merged
/// it into the header section (RFC 9110 6.5.1), and what only the gateway may say.
pub fn scrub_trailers(trailers: &mut HeaderMap) {
    let doomed: SmallVec<[HeaderName; 4]> = trailers.keys().filter(|name| !may_be_trailer(name)).cloned().collect();
    for name in &doomed {
        trailers.remove(name);
    }
}

/// What `Transfer-Encoding` says; `chunked` alone is understood, in any case (RFC 9112 6.1).
pub fn transfer_encoding_is_exactly_chunked(headers: &HeaderMap) -> TransferCoding {
    let mut lines = headers.get_all(TRANSFER_ENCODING).into_iter();
    match (lines.next(), lines.next()) {
        (None, _) => TransferCoding::Absent,
        (Some(line), None) if trim(line.as_bytes()).eq_ignore_ascii_case(b"chunked") => TransferCoding::Chunked,
        _ => TransferCoding::Bad,
    }
}

/// The length that all `Content-Length` lines agree on; a list in one line is refused even where its members agree.
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, BadContentLength> {
    let mut length = None;
    for line in headers.get_all(CONTENT_LENGTH) {
        let number = decimal(trim(line.as_bytes())).ok_or(BadContentLength)?;
        if length.is_some_and(|known| known != number) {
            return Err(BadContentLength);
        }
        length = Some(number);
    }
    Ok(length)
}

/// As [`content_length`], and leaves one line in its shortest form: `010` read as octal by the next hop would be 8.
pub fn settle_content_length(headers: &mut HeaderMap) -> Result<Option<u64>, BadContentLength> {
    let length = content_length(headers)?;
    if let Some(number) = length {
        let mut lines = headers.get_all(CONTENT_LENGTH).into_iter();
        let plain = lines.next().is_some_and(|line| line.len() == 1 || !line.as_bytes().starts_with(b"0"));
        if !plain || lines.next().is_some() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(number));
        }
    }
    Ok(length)
}

/// What `Expect` asks for (RFC 9110 10.1.1).
pub fn expectation(headers: &HeaderMap) -> Expectation {
    let mut asked = Expectation::None;
    for member in tokens(headers, &EXPECT) {
        if !member.eq_ignore_ascii_case(b"100-continue") {
            return Expectation::Other;
        }
        asked = Expectation::Continue;
    }
    asked
}

/// Joins the cookie crumbs of HTTP/2 into the one line that HTTP/1.1 wants (RFC 9113 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).into_iter().nth(1).is_none() {
        return;
    }
    let mut joined = Vec::new();
    for crumb in headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    // Bytes of header values and "; " make a header value again.
    if let Ok(mut value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        value.set_sensitive(true);
        headers.insert(COOKIE, value);
    }
}

/// Removes `Connection` and every field that it names. Framing and handshake fields stay even where an answer's
/// `Connection` names them; requests of that kind have been refused before.
fn remove_connection(headers: &mut HeaderMap) {
    let Entry::Occupied(entry) = headers.entry(CONNECTION) else { return };
    let lines: SmallVec<[HeaderValue; 2]> = entry.remove_entry_mult().1.collect();
    for option in lines.iter().flat_map(|line| members(line.as_bytes())) {
        // What is no field name names no field.
        if let Ok(name) = std::str::from_utf8(option)
            && !is_forbidden_option(option)
        {
            headers.remove(name);
        }
    }
}

fn is_forbidden_option(option: &[u8]) -> bool {
    [&HOST, &CONTENT_LENGTH, &TRANSFER_ENCODING, &ORIGIN]
        .iter()
        .any(|name| option.eq_ignore_ascii_case(name.as_str().as_bytes()))
        || option.get(..SEC_WEBSOCKET.len()).is_some_and(|start| start.eq_ignore_ascii_case(SEC_WEBSOCKET))
}

fn may_be_trailer(name: &HeaderName) -> bool {
    let text = name.as_str();
    !(NEVER_IN_TRAILERS.contains(&text)
        || *name == AUTHORIZATION
        || ["if-", "proxy-", "sec-", "access-control-", "cf-"].iter().any(|start| text.starts_with(start))
        || is_managed(text))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    // `str::parse` alone would take a leading plus.
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const SEC_WEBSOCKET: &[u8] = b"sec-websocket-";

/// Framing, routing, controls, rights, cookies, and what says how to read the content.
const NEVER_IN_TRAILERS: &[&str] = &[
    "age",
    "authentication-info",
    "cache-control",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-security-policy",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "host",
    "http2-settings",
    "keep-alive",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "range",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "www-authenticate",
];

#[cfg(test)]
#[path = "fields_tests.rs"]
mod tests;
