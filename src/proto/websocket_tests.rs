use proptest::prelude::*;

use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

#[test]
fn a_handshake_is_a_get_that_asks_for_websocket_in_both_lists() {
    let is = |lines: &[(&str, &str)]| is_handshake_h1(&Method::GET, Version::HTTP_11, &map(lines));
    assert!(is(&[("connection", "Upgrade"), ("upgrade", "websocket")]));
    assert!(is(&[("connection", "keep-alive"), ("connection", "uPgRade"), ("upgrade", "WebSocket")]));
    assert!(is(&[("connection", "close, Upgrade"), ("upgrade", "proto1, websocket, proto2")]));
    assert!(is(&[("connection", "Upgrade"), ("upgrade", "proto1"), ("upgrade", "websocket")]));
    assert!(!is(&[("upgrade", "websocket")]));
    assert!(!is(&[("connection", "Upgrade")]));
    assert!(!is(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")]));
    assert!(!is(&[("connection", "Upgrade"), ("upgrade", "websocket/13")]));
    let lines = map(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
    assert!(!is_handshake_h1(&Method::POST, Version::HTTP_11, &lines));
    assert!(!is_handshake_h1(&Method::GET, Version::HTTP_10, &lines));
    assert!(!is_handshake_h1(&Method::GET, Version::HTTP_2, &lines));
}

#[test]
fn a_key_is_sixteen_bytes_in_base64() {
    assert!(is_key(KEY.as_bytes()));
    for bad in [
        "",
        "Zm9v",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZR==",
        "dGhlIHNhbXBsZSBub25jZXM=",
        "dGhlIHNhbXBsZSBub25jZXMh",
        "dGhlIHNhbXBsZSBub25j!Q==",
        " GhlIHNhbXBsZSBub25jZQ==",
        "dGhlIHNhbXBsZSBub25jZQ==\t",
        "dGhlIHNh_XBsZSBub25jZQ==",
    ] {
        assert!(!is_key(bad.as_bytes()), "{bad}");
    }
}

#[test]
fn the_accept_is_that_of_rfc_6455_1_3() {
    assert_eq!(accept_for(KEY), ACCEPT);
}

#[test]
fn new_keys_are_keys_and_differ() {
    let (first, second) = (new_key(), new_key());
    assert!(is_key(first.as_bytes()) && is_key(second.as_bytes()));
    assert_ne!(first, second);
}

#[test]
fn subprotocol_offers_keep_their_order_and_have_to_be_tokens() {
    let offers = |lines: &[&str]| {
        let lines: Vec<_> = lines.iter().map(|line| ("sec-websocket-protocol", *line)).collect();
        subprotocols(&map(&lines))
    };
    assert_eq!(offers(&[]), Ok(vec![]));
    assert_eq!(offers(&["chat, superchat", "Chat ,chat"]), Ok(vec!["chat".into(), "superchat".into(), "Chat".into()]));
    for bad in ["a b", "a/b", "a;b", "\"a\"", "a=b", "b\u{fc}"] {
        assert_eq!(offers(&[bad]), Err(BadList), "{bad}");
    }
    let many = (0..=64).map(|number| format!("p{number}")).collect::<Vec<_>>().join(",");
    assert_eq!(offers(&[&many]), Err(BadList));
}

#[test]
fn extensions_are_known_by_name() {
    let names = |line: &str| extension_names(&map(&[("sec-websocket-extensions", line)]));
    assert_eq!(names(""), Ok(vec![]));
    assert_eq!(names("permessage-deflate; client_max_window_bits"), Ok(vec!["permessage-deflate".into()]));
    assert_eq!(names("a; x=\"1\" ; y = 2,, b, a"), Ok(vec!["a".into(), "b".into(), "a".into()]));
    for bad in ["a;", ";x", "a b", "a; x=", "a; x=\"1", "a; x=\"1,2\"", "\"a\"", "a; =1", "a; x=\"\\"] {
        assert_eq!(names(bad), Err(BadList), "{bad}");
    }
}

fn answer(lines: &[(&str, &str)]) -> Result<Agreed, BadUpgrade> {
    let (subprotocols, extensions) = (["chat".to_owned(), "superchat".to_owned()], ["permessage-deflate".to_owned()]);
    let asked = Asked { accept: ACCEPT, subprotocols: &subprotocols, extensions: &extensions };
    check_101(&asked, StatusCode::SWITCHING_PROTOCOLS, Version::HTTP_11, &map(lines))
}

const UPGRADE_LINE: (&str, &str) = ("upgrade", "websocket");
const CONNECTION_LINE: (&str, &str) = ("connection", "Upgrade");
const ACCEPT_LINE: (&str, &str) = ("sec-websocket-accept", ACCEPT);

#[test]
fn a_101_that_agrees_is_taken() {
    assert_eq!(answer(&[UPGRADE_LINE, CONNECTION_LINE, ACCEPT_LINE]), Ok(Agreed::default()));
    let lines = [
        ("upgrade", "WebSocket"),
        ("connection", "keep-alive, upgrade"),
        ACCEPT_LINE,
        ("sec-websocket-protocol", "superchat"),
        ("sec-websocket-extensions", "permessage-deflate; server_max_window_bits=10"),
    ];
    let agreed = answer(&lines).unwrap();
    assert_eq!(agreed.subprotocol.unwrap(), "superchat");
    assert_eq!(agreed.extensions, ["permessage-deflate; server_max_window_bits=10"]);
}

#[test]
fn a_101_that_does_not_agree_is_refused_with_its_cause() {
    use BadUpgrade::*;
    let lower = ACCEPT.to_lowercase();
    let good = [UPGRADE_LINE, CONNECTION_LINE, ACCEPT_LINE];
    let with = |line: (&'static str, &'static str)| good.iter().copied().chain([line]).collect::<Vec<_>>();
    let cases: Vec<(Vec<(&str, &str)>, BadUpgrade)> = vec![
        (vec![CONNECTION_LINE, ACCEPT_LINE], Upgrade),
        (vec![("upgrade", "h2c"), CONNECTION_LINE, ACCEPT_LINE], Upgrade),
        (vec![("upgrade", "websocket, h2c"), CONNECTION_LINE, ACCEPT_LINE], Upgrade),
        (with(("upgrade", "websocket")), Upgrade),
        (vec![UPGRADE_LINE, ACCEPT_LINE], Connection),
        (vec![UPGRADE_LINE, ("connection", "close"), ACCEPT_LINE], Connection),
        (vec![UPGRADE_LINE, CONNECTION_LINE], AcceptMissing),
        (vec![UPGRADE_LINE, CONNECTION_LINE, ("sec-websocket-accept", "invalid_key")], AcceptWrong),
        (vec![UPGRADE_LINE, CONNECTION_LINE, ("sec-websocket-accept", &lower)], AcceptWrong),
        (vec![UPGRADE_LINE, CONNECTION_LINE, ("sec-websocket-accept", "")], AcceptWrong),
        (with(ACCEPT_LINE), AcceptTwice),
        (with(("sec-websocket-protocol", "other")), SubprotocolNotOffered),
        (with(("sec-websocket-protocol", "Chat")), SubprotocolNotOffered),
        (with(("sec-websocket-protocol", "chat, superchat")), SubprotocolMalformed),
        (with(("sec-websocket-protocol", "")), SubprotocolMalformed),
        (with(("sec-websocket-extensions", "x-other")), ExtensionNotOffered),
        (with(("sec-websocket-extensions", "permessage-deflate, x-other")), ExtensionNotOffered),
        (with(("sec-websocket-extensions", "permessage-deflate; x=\"")), ExtensionsMalformed),
    ];
    for (lines, cause) in cases {
        assert_eq!(answer(&lines), Err(cause), "{lines:?}");
    }
    let mut twice = with(("sec-websocket-protocol", "chat"));
    twice.push(("sec-websocket-protocol", "chat"));
    assert_eq!(answer(&twice), Err(SubprotocolMalformed));
}

#[test]
fn only_a_101_over_http_1_1_opens_a_tunnel() {
    let asked = Asked { accept: ACCEPT, subprotocols: &[], extensions: &[] };
    let headers = map(&[UPGRADE_LINE, CONNECTION_LINE, ACCEPT_LINE]);
    assert_eq!(check_101(&asked, StatusCode::OK, Version::HTTP_11, &headers), Err(BadUpgrade::Status));
    assert_eq!(
        check_101(&asked, StatusCode::SWITCHING_PROTOCOLS, Version::HTTP_10, &headers),
        Err(BadUpgrade::Version)
    );
}

proptest! {
    /// The library that browsers' peers use computes the same accept.
    #[test]
    fn the_accept_is_the_one_tungstenite_computes(nonce in any::<[u8; 16]>()) {
        let key = STANDARD.encode(nonce);
        prop_assert!(is_key(key.as_bytes()));
        let theirs = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        prop_assert_eq!(accept_for(&key), theirs);
    }

    #[test]
    fn any_extension_line_parses_or_is_refused(line in "[ -~\t]{0,40}") {
        if let Ok(names) = extension_names(&map(&[("sec-websocket-extensions", &line)])) {
            prop_assert!(names.iter().all(|name| is_token(name.as_bytes()) && line.contains(name.as_str())));
        }
    }
}

#[test]
fn over_http_2_only_a_200_opens_and_what_it_agrees_to_was_offered() {
    let offers = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let (subprotocols, extensions) = (offers(&["chat"]), offers(&["permessage-deflate"]));
    let asked = Asked { accept: ACCEPT, subprotocols: &subprotocols, extensions: &extensions };
    // Neither Upgrade nor an accept: RFC 8441 5.
    let check = |status, lines: &[(&str, &str)]| check_200(&asked, status, &map(lines));
    assert_eq!(check(StatusCode::OK, &[]), Ok(Agreed::default()));
    let agreed = check(StatusCode::OK, &[("sec-websocket-protocol", "chat"), ("sec-websocket-accept", "x")]).unwrap();
    assert_eq!(agreed.subprotocol, Some(HeaderValue::from_static("chat")));
    for status in [StatusCode::CREATED, StatusCode::NO_CONTENT, StatusCode::SWITCHING_PROTOCOLS] {
        assert_eq!(check(status, &[]), Err(BadUpgrade::Status));
    }
    let refused = check(StatusCode::OK, &[("sec-websocket-protocol", "other")]);
    assert_eq!(refused, Err(BadUpgrade::SubprotocolNotOffered));
    let refused = check(StatusCode::OK, &[("sec-websocket-extensions", "x-other")]);
    assert_eq!(refused, Err(BadUpgrade::ExtensionNotOffered));
}
