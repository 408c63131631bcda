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

/// Lines of version 1 and blocks of version 2, in an order that is often legal.
fn proxy_headers() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&[u8]] = &[
        b"PROXY ",
        b"TCP4 192.0.2.1 192.0.2.2 1 2",
        b"TCP6 ::1 2001:db8::1 65535 0",
        b"UNKNOWN",
        b"\r\n",
        b" ",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"\x21\x11\x00\x0c",
        b"\x21\x11\x00\x13",
        b"\x20\x00\x00\x00",
        b"\x21\x21\x00\x24",
        b"\x21\x31\x00\xd8",
        b"\x21\x11\xff\xff",
        b"\x7f\x00\x00\x01\x0a\x00\x00\x01\x04\xd2\x01\xbb",
        b"\x03\x00\x04\x01\x02\x03\x04",
        b"\x04\x00\x04pads",
        &[0; 36],
        &[0; 216],
    ];
    const STARTS: &[&[u8]] = &[b"", b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];
    let start = prop::sample::select(STARTS);
    let pieces = prop::collection::vec(prop::sample::select(PIECES), 0..6);
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..64),
        6 => (start, pieces).prop_map(|(start, pieces)| [start, &pieces.concat()].concat()),
    ]
}

/// First bytes of frames, lengths and payloads, masked and not, in an order that is often legal.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&[u8]] = &[
        &[0x81, 0x00],
        &[0x82, 0x03, 1, 2, 3],
        &[0x01, 0x01, 7],
        &[0x80, 0x00],
        &[0x00, 0x02, 8, 9],
        &[0x89, 0x04, 1, 2, 3, 4],
        &[0x8A, 0x00],
        &[0x88, 0x02, 0x03, 0xE8],
        &[0xC1, 0x01, 0],
        &[0x82, 126, 0, 126],
        &[0x81, 0x80, 1, 2, 3, 4],
        &[0x02, 0x81, 1, 2, 3, 4, 5],
        &[0x80, 0x82, 0, 0, 0, 0, 1, 2],
        &[0x8A, 0x80, 9, 9, 9, 9],
        &[0x89, 0xFD, 0, 0, 0, 0],
        &[0x88, 0x82, 0, 0, 0, 0, 0x0F, 0xA0],
        &[0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4],
        &[0; 63],
    ];
    let legal = |parity: u8, range: std::ops::Range<usize>| {
        let pieces = prop::collection::vec(prop::sample::select(&PIECES[range]), 0..12);
        (any::<u8>(), any::<u8>(), pieces)
            .prop_map(move |(choice, size, pieces)| [&[choice & !1 | parity, size][..], &pieces.concat()].concat())
    };
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..64),
        2 => legal(1, 0..10),
        2 => legal(0, 10..18),
        1 => legal(0, 0..18),
    ]
}

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

    #[test]
    fn rates_hold(data in prop::collection::vec(any::<u8>(), 0..120)) {
        targets::rates(&data);
    }

    #[test]
    fn places_hold(data in prop::collection::vec(any::<u8>(), 0..120)) {
        targets::places(&data);
    }

    #[test]
    fn proxy_headers_hold(data in proxy_headers()) {
        targets::proxy_header(&data);
    }

    #[test]
    fn frames_hold(data in frames()) {
        targets::frames(&data);
    }
}
