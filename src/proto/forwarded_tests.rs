use proptest::prelude::*;

use super::*;

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn is_trusted(peer: Option<IpAddr>) -> bool {
    peer.is_some_and(is_ten)
}

fn is_ten(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[0] == 10)
}

/// Sets the fields for a TLS request on port 443 and gives back what stands there, sorted.
fn set(peer: &str, trusted: bool, emit_forwarded: bool, lines: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut headers = map(lines);
    let authority = parse_authority("a.test").unwrap();
    let client = client_address(&headers, Some(ip(peer)), is_trusted);
    let input = ForwardedInput {
        peer: Some(ip(peer)),
        trusted,
        client,
        scheme: Scheme::Https,
        authority: Some(&authority),
        port: Some(443),
        emit_forwarded,
    };
    set_forwarded(&mut headers, &input);
    let mut lines: Vec<_> =
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    lines.sort();
    lines
}

fn expected(lines: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut lines: Vec<_> = lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    lines.sort();
    lines
}

const OURS: &[(&str, &str)] = &[
    ("x-forwarded-for", "127.0.0.1"),
    ("x-forwarded-host", "a.test"),
    ("x-forwarded-port", "443"),
    ("x-forwarded-proto", "https"),
    ("x-real-ip", "127.0.0.1"),
];

#[test]
fn the_upstream_learns_who_asks() {
    assert_eq!(set("127.0.0.1", false, false, &[]), expected(OURS));
    assert_eq!(set("::ffff:127.0.0.1", false, false, &[]), expected(OURS));
}

#[test]
fn nothing_that_an_untrusted_peer_says_about_itself_survives() {
    let claims = [
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-for", "5.6.7.8"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "evil.test"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-prefix", "/x"),
        ("x-forwarded-server", "x"),
        ("x-real-ip", "1.2.3.4"),
        ("forwarded", "for=1.2.3.4"),
        ("proxy", "http://evil.test"),
        ("x_forwarded_for", "1.2.3.4"),
        ("x_forwarded_proto", "http"),
        ("x_real_ip", "1.2.3.4"),
        ("x.forwarded.for", "1.2.3.4"),
        ("x-forwarded_for", "1.2.3.4"),
        ("x_request_id", "1"),
        ("sec_websocket_key", "1"),
        ("content_length", "5"),
    ];
    assert_eq!(set("127.0.0.1", false, false, &claims), expected(OURS));
}

#[test]
fn fields_that_only_look_similar_pass() {
    let others = [("x_custom", "1"), ("x.custom", "1"), ("x-forwardedness", "1"), ("x_real_ip_of_mine", "1")];
    let found = set("127.0.0.1", false, false, &others);
    assert!(others.iter().all(|(name, _)| found.iter().any(|(found, _)| found == name)), "{found:?}");
}

#[test]
fn a_trusted_peer_is_continued_and_believed() {
    let found = set(
        "10.0.0.1",
        true,
        false,
        &[
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "5.6.7.8, 10.0.0.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "out.test:8080"),
            ("x-forwarded-prefix", "/x"),
            ("x_forwarded_for", "6.6.6.6"),
            ("proxy", "x"),
        ],
    );
    assert_eq!(
        found,
        expected(&[
            ("x-forwarded-for", "1.2.3.4, 5.6.7.8, 10.0.0.9, 10.0.0.1"),
            ("x-forwarded-host", "out.test:8080"),
            ("x-forwarded-port", "8080"),
            ("x-forwarded-prefix", "/x"),
            ("x-forwarded-proto", "http"),
            ("x-real-ip", "5.6.7.8"),
        ])
    );
}

#[test]
fn nonsense_from_a_trusted_peer_is_replaced() {
    let found = set("10.0.0.1", true, false, &[("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a b")]);
    assert!(found.contains(&("x-forwarded-proto".into(), "https".into())));
    assert!(found.contains(&("x-forwarded-host".into(), "a.test".into())));
    assert!(found.contains(&("x-forwarded-port".into(), "443".into())));
}

#[test]
fn forwarded_quotes_ipv6_rfc_7239_6() {
    let found = set("::1", false, true, &[("forwarded", "for=6.6.6.6")]);
    assert!(found.contains(&("forwarded".into(), "for=\"[::1]\";host=a.test;proto=https".into())), "{found:?}");
    assert!(found.contains(&("x-forwarded-for".into(), "::1".into())));
    let found = set("10.0.0.1", true, true, &[("forwarded", "for=1.2.3.4"), ("forwarded", "for=_x")]);
    assert!(found.contains(&("forwarded".into(), "for=1.2.3.4, for=_x, for=10.0.0.1;host=a.test;proto=https".into())));
}

#[test]
fn a_unix_peer_has_no_address_and_lends_nobody_one() {
    let mut headers = map(&[("x-forwarded-for", "1.2.3.4"), ("x-real-ip", "1.2.3.4")]);
    let authority = parse_authority("[::1]:8443").unwrap();
    let input = ForwardedInput {
        peer: None,
        trusted: false,
        client: None,
        scheme: Scheme::Http,
        authority: Some(&authority),
        port: None,
        emit_forwarded: true,
    };
    set_forwarded(&mut headers, &input);
    let wanted = map(&[
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "[::1]:8443"),
        ("forwarded", "for=unknown;host=\"[::1]:8443\";proto=http"),
    ]);
    assert_eq!(headers, wanted);
}

#[test]
fn the_client_is_the_rightmost_address_that_is_not_trusted() {
    for (peer, lines, client) in [
        ("9.9.9.9", vec!["1.2.3.4"], "9.9.9.9"),
        ("10.0.0.1", vec![], "10.0.0.1"),
        ("10.0.0.1", vec!["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", vec!["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
        ("10.0.0.1", vec!["6.6.6.6", "1.2.3.4,", "10.0.0.2 , 10.0.0.3"], "1.2.3.4"),
        ("10.0.0.1", vec!["1.2.3.4, garbage, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", vec!["10.0.0.4, 10.0.0.2"], "10.0.0.4"),
        ("10.0.0.1", vec!["1.2.3.4:5678"], "1.2.3.4"),
        ("10.0.0.1", vec!["[2001:db8::1]:5678"], "2001:db8::1"),
        ("10.0.0.1", vec!["[2001:db8::1]"], "2001:db8::1"),
        ("::ffff:10.0.0.1", vec!["::ffff:1.2.3.4"], "1.2.3.4"),
    ] {
        let lines: Vec<_> = lines.into_iter().map(|line| ("x-forwarded-for", line)).collect();
        assert_eq!(client_address(&map(&lines), Some(ip(peer)), is_trusted), Some(ip(client)), "{lines:?}");
    }
}

#[test]
fn the_effective_origin_believes_trusted_peers_only() {
    let ours = parse_authority("a.test:8443").unwrap();
    let lines = map(&[("x-forwarded-proto", "wss"), ("x-forwarded-host", "Out.test")]);
    let out = Effective { scheme: Scheme::Https, authority: parse_authority("out.test").ok() };
    assert_eq!(effective(&lines, true, Scheme::Http, Some(&ours)), out);
    let own = Effective { scheme: Scheme::Http, authority: Some(ours.clone()) };
    assert_eq!(effective(&lines, false, Scheme::Http, Some(&ours)), own);
    assert_eq!(effective(&map(&[("x-forwarded-host", "a b")]), true, Scheme::Http, Some(&ours)), own);
}

#[test]
fn behind_a_trusted_unix_socket_the_client_is_who_the_peer_says_and_without_trust_nobody() {
    let headers = map(&[("x-forwarded-for", "9.9.9.9, 8.8.8.8, 10.0.0.1")]);
    let with_unix = |peer: Option<IpAddr>| peer.is_none_or(is_ten);
    assert_eq!(client_address(&headers, None, with_unix), Some(ip("8.8.8.8")));
    assert_eq!(client_address(&headers, None, is_trusted), None);
    assert_eq!(client_address(&map(&[]), None, with_unix), None);
}

proptest! {
    /// Without any trust the answer is the peer, whatever the fields hold.
    #[test]
    fn nobody_talks_an_untrusted_peer_into_another_address(line in "[ -~]{0,40}") {
        let headers = map(&[("x-forwarded-for", &line)]);
        prop_assert_eq!(client_address(&headers, Some(ip("9.9.9.9")), is_trusted), Some(ip("9.9.9.9")));
        prop_assert_eq!(set("9.9.9.9", false, false, &[("x-forwarded-for", &line)]), set("9.9.9.9", false, false, &[]));
    }

    /// A reference: collect the whole chain, then walk it.
    #[test]
    fn the_client_is_found_as_the_naive_way_finds_it(
        chain in prop::collection::vec(prop::sample::select(vec!["1.1.1.1", "2.2.2.2", "10.0.0.1", "10.0.0.2", "junk"]), 0..6),
        cut in 0..6usize,
    ) {
        let cut = cut.min(chain.len());
        let (first, second) = (chain[..cut].join(", "), chain[cut..].join(","));
        let headers = map(&[("x-forwarded-for", &first), ("x-forwarded-for", &second)]);
        let mut client = ip("10.9.9.9");
        for member in chain.iter().rev() {
            let Ok(address) = member.parse() else { break };
            client = address;
            if !is_ten(client) {
                break;
            }
        }
        prop_assert_eq!(client_address(&headers, Some(ip("10.9.9.9")), is_trusted), Some(client));
    }
}
