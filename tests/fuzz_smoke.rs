//! Every fuzz target over random and near-miss input, so that the targets compile and hold in ordinary builds.

#[path = "../fuzz/targets.rs"]
mod targets;

use proptest::prelude::*;

/// Random bytes, and text made of the pieces that the parsers look for.
fn input(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::collection::vec(prop::sample::select(pieces), 0..14);
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..64),
        4 => pieces.prop_map(|pieces| pieces.concat().into_bytes()),
    ]
}

const URLS: &[&str] = &[
    "https://", "http://", "null", "file://", "a", "A.b", ".", "..", ":", "443", "[", "]", "::1", "0", "/", "\\",
    "%2e", "%2F", "%5c", "%00", "%", "?", "#", ";", "@", "*", " ", "\u{fc}", "xn--", "_", "-",
];
const FIELDS: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
    "\n",
    "\n0",
    "\n4",
    "\n9",
    "x-a:",
    "te: trailers",
    "cookie: a",
    "right",
    "upgrade",
    "websocket",
    "chunked",
    ",",
    ";",
    " ",
    "\t",
    "=",
    "\"",
    "\\",
    "x-a",
    "host",
    "Sec-WebSocket-Key",
    "1.2.3.4",
    "[::1]:80",
    "5",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn origins_hold(data in input(URLS)) {
        targets::origin(&data);
    }

    #[test]
    fn targets_hold(data in input(URLS)) {
        targets::target(&data);
        targets::target(&[b"/".as_slice(), &data].concat());
    }

    #[test]
    fn authorities_hold(data in input(URLS)) {
        targets::authority(&data);
    }

    #[test]
    fn request_fields_hold(data in input(FIELDS)) {
        targets::request_fields(&data);
    }

    #[test]
    fn forwarded_fields_hold(data in input(FIELDS)) {
        targets::forwarded(&data);
    }

    #[test]
    fn handshakes_hold(data in input(FIELDS)) {
        targets::handshake(&data);
    }
}
