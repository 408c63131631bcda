//! Which fields the gateway itself sets, under any of their spellings.
//!
//! Nobody else's words may stand in them: not in a header section, where CGI-like backends cannot tell `_` or `.` from
//! `-`, and not in a trailer section.

const MANAGED_FAMILIES: &[&str] = &["x-forwarded-", "sec-websocket-", "x-portcullis-"];

const MANAGED: &[&str] = &[
    "x-real-ip",
    "x-request-id",
    "forwarded",
    "content-length",
    "transfer-encoding",
    "proxy-connection",
    "keep-alive",
];

/// Whether a field (in lower case) is one that only the gateway may write, in this spelling or with `_` or `.` for `-`.
pub fn is_managed(name: &str) -> bool {
    // No managed name is longer; a prefix match needs no more.
    let mut plain = [0; 32];
    let length = name.len().min(plain.len());
    for (to, from) in plain.iter_mut().zip(name.bytes()) {
        *to = if matches!(from, b'_' | b'.') { b'-' } else { from };
    }
    let plain = &plain[..length];
    MANAGED_FAMILIES.iter().any(|family| plain.starts_with(family.as_bytes()))
        || (name.len() == length && MANAGED.iter().any(|managed| plain == managed.as_bytes()))
}
