use std::net::{SocketAddrV4, SocketAddrV6};

use proptest::prelude::*;

use super::*;

fn addresses(source: &str, destination: &str) -> Addresses {
    Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

/// The whole of `bytes` is one header with these addresses.
#[track_caller]
fn assert_whole(bytes: &[u8], addresses: Option<Addresses>) {
    assert_eq!(parse(bytes), Ok(Parsed::Header { length: bytes.len(), addresses }), "{}", bytes.escape_ascii());
}

#[track_caller]
fn assert_refused(bytes: &[u8], because: Malformed) {
    assert_eq!(parse(bytes), Err(because), "{}", bytes.escape_ascii());
}

/// A version 2 header with a block as it is.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// The same header with the right checksum in the four bytes at `at`.
fn summed(mut header: Vec<u8>, at: usize) -> Vec<u8> {
    header[at..at + 4].fill(0);
    let sum = !crc32c(!0, &header);
    header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    header
}

const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 9, 0x04, 0xD2, 0x01, 0xBB];

fn v4_addresses() -> Addresses {
    addresses("192.0.2.1:1234", "198.51.100.9:443")
}

#[test]
fn the_specifications_own_lines_are_read() {
    assert_whole(
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        Some(addresses("192.168.0.1:56324", "192.168.0.11:443")),
    );
    assert_whole(
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        Some(addresses("255.255.255.255:65535", "255.255.255.255:65535")),
    );
    let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let both = addresses(&format!("[{long}]:65535"), &format!("[{long}]:65535"));
    assert_whole(format!("PROXY TCP6 {long} {long} 65535 65535\r\n").as_bytes(), Some(both));
    assert_whole(b"PROXY TCP6 2001:DB8::1 ::1 0 80\r\n", Some(addresses("[2001:db8::1]:0", "[::1]:80")));
    assert_whole(b"PROXY UNKNOWN\r\n", None);
    let worst = format!("PROXY UNKNOWN {long} {long} 65535 65535\r\n");
    assert_eq!(worst.len(), MAX_LINE);
    assert_whole(worst.as_bytes(), None);
    assert_whole(b"PROXY UNKNOWN \xff\x00 anything\r\n", None);
}

#[test]
fn a_line_that_is_not_exactly_one_is_refused() {
    let lines: [&[u8]; 22] = [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n",
        b"PROXY TCP4 192.0.2.1\r192.0.2.2 1 2\r\n",
        b"PROXY UNKNOWN\nGET / HTTP/1.1\r\n",
        b"PROXY UNKNOWN \rx\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY unknown\r\n",
        b"PROXY \r\n",
        b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP6 fe80::1%1 ::1 1 2\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
    ];
    for line in lines {
        assert_refused(line, Malformed::Line);
    }
}

#[test]
fn a_line_that_does_not_end_is_refused_once_it_cannot_end_any_more() {
    let mut line = b"PROXY UNKNOWN ".to_vec();
    while line.len() < MAX_LINE - 2 {
        line.push(b'x');
        assert_eq!(parse(&line), Ok(Parsed::Partial));
    }
    assert_eq!(parse(&[&line[..], b"\r"].concat()), Ok(Parsed::Partial));
    assert_whole(&[&line[..], b"\r\n"].concat(), None);
    line.push(b'x');
    assert_refused(&line, Malformed::Line);
    assert_refused(&[&line[..], b"\r\n"].concat(), Malformed::Line);
    assert_refused(&[&line[..], &[b'x'; 5000]].concat(), Malformed::Line);
}

#[test]
fn what_is_something_else_is_refused_at_its_first_strange_byte() {
    let others: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"proxy TCP4",
        b"PROXYTCP4",
        b"\r\n\r\nGET / HTTP/1.1\r\n",
        b"\r\n\r\n\0\r\nQUIX\n",
        b"\0",
    ];
    for bytes in others {
        assert_refused(bytes, Malformed::Absent);
    }
    assert_refused(b"G", Malformed::Absent);
    assert_refused(b"\x16", Malformed::Absent);
    assert_eq!(parse(b""), Ok(Parsed::Partial));
}

#[test]
fn binary_headers_carry_the_clients_addresses() {
    assert_whole(&v2(0x21, 0x11, &V4), Some(v4_addresses()));
    let v6 = [&[0x20, 1, 0xD, 0xB8][..], &[0; 11], &[7], &[0xFE, 0x80], &[0; 13], &[1], &[0, 1, 0, 2]].concat();
    assert_whole(&v2(0x21, 0x21, &v6), Some(addresses("[2001:db8::7]:1", "[fe80::1]:2")));
    // A client that came over QUIC.
    assert_whole(&v2(0x21, 0x12, &V4), Some(v4_addresses()));
    assert_whole(&v2(0x21, 0x22, &v6), Some(addresses("[2001:db8::7]:1", "[fe80::1]:2")));
}

#[test]
fn where_a_header_has_no_client_the_sockets_addresses_hold() {
    // LOCAL, whatever stands in it: no family, a family with addresses, one that nobody knows, one that does not fit.
    for (family, block) in [(0x00, &b""[..]), (0x11, &V4), (0xF7, b"??"), (0x11, b"short"), (0x21, &[0xFF; 400])] {
        assert_whole(&v2(0x20, family, block), None);
    }
    // Unspecified family or transport, and unix sockets.
    for (family, block) in
        [(0x00, &b""[..]), (0x00, b"?"), (0x01, b""), (0x10, &V4), (0x31, &[0; 216]), (0x32, &[b'/'; 220])]
    {
        assert_whole(&v2(0x21, family, block), None);
    }
}

#[test]
fn a_binary_header_that_the_specification_does_not_have_is_refused() {
    for command in [0x00, 0x11, 0x22, 0x2F, 0x31, 0xFF] {
        assert_refused(&v2(command, 0x11, &V4), Malformed::Kind);
        // As soon as it is there.
        assert_refused(&[SIGNATURE, &[command]].concat(), Malformed::Kind);
    }
    for family in [0x13, 0x1F, 0x23, 0x41, 0xF0, 0xFF] {
        assert_refused(&v2(0x21, family, &V4), Malformed::Kind);
    }
    assert_refused(&v2(0x21, 0x11, &V4[..11]), Malformed::TooShort);
    assert_refused(&v2(0x21, 0x21, &V4), Malformed::TooShort);
    assert_refused(&v2(0x21, 0x31, &[0; 215]), Malformed::TooShort);
}

#[test]
fn the_length_of_a_binary_header_is_bounded() {
    let padding = |length: usize| tlv(0x04, &vec![0; length - 3]);
    assert_whole(&v2(0x21, 0x11, &[&V4[..], &padding(MAX_BLOCK - 12)].concat()), Some(v4_addresses()));
    assert_refused(&v2(0x21, 0x11, &[&V4[..], &padding(MAX_BLOCK - 11)].concat()), Malformed::TooLong);
    // Nothing of such a block is waited for.
    for command in [0x20, 0x21] {
        assert_refused(&[SIGNATURE, &[command, 0x11, 0xFF, 0xFF]].concat(), Malformed::TooLong);
    }
}

#[test]
fn tlvs_are_skipped_and_have_to_fill_their_room() {
    let known = [tlv(0x01, b"h2"), tlv(0x02, b"a.test"), tlv(0x20, &[1, 0, 0, 0, 0]), tlv(0xEA, b"")].concat();
    assert_whole(&v2(0x21, 0x11, &[&V4[..], &known].concat()), Some(v4_addresses()));
    for broken in [&b"\x04"[..], b"\x04\x00", b"\x04\x00\x01", b"\x04\xFF\xFF\x00", b"\x01\x00\x00\x02\x00\x05abc"] {
        assert_refused(&v2(0x21, 0x11, &[&V4[..], broken].concat()), Malformed::Tlv);
    }
}

#[test]
fn a_checksum_is_verified_wherever_it_stands() {
    assert_eq!(!crc32c(!0, b"123456789"), 0xE306_9283, "RFC 3720 B.4 names this polynomial");
    let (before, after) = (tlv(0x02, b"a.test"), tlv(0x04, &[9; 5]));
    let block = [&V4[..], &before, &tlv(TLV_CRC32C, &[0; 4]), &after].concat();
    let at = FIXED + V4.len() + before.len() + 3;
    let good = summed(v2(0x21, 0x11, &block), at);
    assert_whole(&good, Some(v4_addresses()));
    // But for the byte that says that it is one.
    for index in (FIXED..good.len()).filter(|index| *index != at - 3) {
        let mut bad = good.clone();
        bad[index] ^= 0x10;
        assert!(matches!(parse(&bad), Err(Malformed::Checksum | Malformed::Tlv)), "byte {index}");
    }
    let mut bad = good.clone();
    bad[FIXED] ^= 1;
    assert_refused(&bad, Malformed::Checksum);
    // Of LOCAL and unspecified ones too, where it can be found.
    for command in [0x20, 0x21] {
        let local = summed(v2(command, 0x00, &tlv(TLV_CRC32C, &[0; 4])), FIXED + 3);
        assert_whole(&local, None);
        let mut bad = local;
        bad[FIXED + 3] ^= 1;
        assert_refused(&bad, Malformed::Checksum);
    }
}

#[test]
fn a_header_that_haproxy_has_sent_is_read() {
    let header = b"\r\n\r\n\x00\r\nQUIT\n!\x11\x00B\x7f\x00\x00\x01\x7f\x00\x00\x01\xa6*G\x87\x03\x00\x04r\xf3\xb3$\
        \x05\x00$91236a9e-765b-477a-9470-c327b14ae2a1 \x00\x05\x00\x00\x00\x00\x00";
    assert_whole(header, Some(addresses("127.0.0.1:42538", "127.0.0.1:18311")));
    let mut other = *header;
    other[16] = 126;
    assert_refused(&other, Malformed::Checksum);
}

#[test]
fn a_checksum_of_another_size_or_a_second_one_is_refused() {
    let sum = tlv(TLV_CRC32C, &[0; 4]);
    for tlvs in [tlv(TLV_CRC32C, &[0; 3]), tlv(TLV_CRC32C, b""), tlv(TLV_CRC32C, &[0; 5]), [&sum[..], &sum].concat()] {
        assert_refused(&v2(0x21, 0x11, &[&V4[..], &tlvs].concat()), Malformed::Tlv);
    }
}

#[test]
fn what_is_written_is_the_specifications_form() {
    let written = |version, sender| header(version, sender);
    let client = |source, destination| Sender::Client(Some(addresses(source, destination)));
    let v4 = client("192.0.2.1:1234", "198.51.100.9:443");
    assert_eq!(written(Version::V1, v4), b"PROXY TCP4 192.0.2.1 198.51.100.9 1234 443\r\n");
    assert_eq!(written(Version::V2, v4), v2(0x21, 0x11, &V4));
    let v6 = client("[2001:db8::7]:1", "[::1]:2");
    assert_eq!(written(Version::V1, v6), b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n");
    assert_eq!(written(Version::V2, v6)[..16], v2(0x21, 0x21, &[0; 36])[..16]);
    // A dual-stack socket's IPv4 client.
    let dual = client("[::ffff:192.0.2.1]:1234", "[::ffff:198.51.100.9]:443");
    assert_eq!(
        (written(Version::V1, dual), written(Version::V2, dual)),
        (written(Version::V1, v4), written(Version::V2, v4))
    );
    let mixed = client("192.0.2.1:1", "[::1]:2");
    assert_eq!(written(Version::V1, mixed), b"PROXY UNKNOWN\r\n");
    assert_whole(&written(Version::V2, mixed), Some(addresses("[::ffff:192.0.2.1]:1", "[::1]:2")));
    for (sender, command) in [(Sender::Client(None), 0x21), (Sender::Local, 0x20)] {
        assert_eq!(written(Version::V1, sender), b"PROXY UNKNOWN\r\n");
        assert_eq!(written(Version::V2, sender), v2(command, 0x00, b""));
    }
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddrV4::new(ip.into(), port).into()),
        (any::<[u8; 16]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddrV6::new(ip.into(), port, 0, 0).into()),
    ]
}

fn any_sender() -> impl Strategy<Value = Sender> {
    let addresses = (any_address(), any_address()).prop_map(|(source, destination)| Addresses { source, destination });
    prop_oneof![1 => Just(Sender::Local), 8 => prop::option::of(addresses).prop_map(Sender::Client)]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again_wherever_it_is_split_and_whatever_follows(
        sender in any_sender(),
        behind in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        for version in [Version::V1, Version::V2] {
            let written = header(version, sender);
            prop_assert!(written.len() <= MAX_LINE);
            for end in 0..written.len() {
                prop_assert_eq!(parse(&written[..end]), Ok(Parsed::Partial));
            }
            let Ok(Parsed::Header { length, addresses }) = parse(&[&written[..], &behind].concat()) else {
                panic!("not read: {}", written.escape_ascii())
            };
            prop_assert_eq!(length, written.len());
            match (sender, addresses) {
                (Sender::Client(Some(sent)), Some(read)) => {
                    prop_assert_eq!(read.source.ip().to_canonical(), sent.source.ip().to_canonical());
                    prop_assert_eq!(read.destination.ip().to_canonical(), sent.destination.ip().to_canonical());
                    prop_assert_eq!(read.source.port(), sent.source.port());
                    prop_assert_eq!(read.destination.port(), sent.destination.port());
                }
                (Sender::Client(Some(sent)), None) => {
                    let is_v4 = |address: SocketAddr| address.ip().to_canonical().is_ipv4();
                    prop_assert_eq!(version, Version::V1);
                    prop_assert_ne!(is_v4(sent.source), is_v4(sent.destination));
                }
                (_, addresses) => prop_assert_eq!(addresses, None),
            }
        }
    }

    #[test]
    fn a_block_of_any_kind_is_taken_or_refused_and_never_waited_for_beyond_its_length(
        command in any::<u8>(),
        family in any::<u8>(),
        block in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = v2(command, family, &block);
        prop_assert_ne!(parse(&bytes), Ok(Parsed::Partial));
        if let Ok(Parsed::Header { length, .. }) = parse(&bytes) {
            prop_assert_eq!(length, bytes.len());
        }
    }
}
