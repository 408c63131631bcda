//! The rows ORG-*, WSH-*, WSN-* and W1X-* of the wire table, as far as they are pure.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{StatusCode, Version};
use proptest::prelude::*;

use super::*;
use crate::config::model::{OriginRule, Subprotocols};
use crate::config::report::{Located, Spot};
use crate::proto::fields::scrub_hop_by_hop;
use crate::proto::origin::{Origin, parse_origin_tuple};
use crate::types::Scheme;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    headers
}

fn rule(text: &str) -> Located<OriginRule> {
    let rule = match text {
        "*" => OriginRule::Any,
        "same-origin" => OriginRule::SameOrigin,
        "null" => OriginRule::Null,
        "file://" => OriginRule::File,
        _ => {
            let tuple = parse_origin_tuple(&text.replace("*.", "")).unwrap();
            match text.contains("*.") {
                true => OriginRule::Wildcard { scheme: tuple.scheme, suffix: tuple.host, port: tuple.port },
                false => OriginRule::Exact { scheme: tuple.scheme, host: tuple.host, port: tuple.port },
            }
        }
    };
    Located::new(rule, Spot::default())
}

fn policy(origins: &[&str]) -> WebSocketPolicy {
    WebSocketPolicy {
        origins: origins.iter().map(|text| rule(text)).collect(),
        allow_missing_origin: true,
        subprotocols: Subprotocols::default(),
        pass_extensions: true,
        idle_timeout: Duration::from_secs(600),
        max_lifetime: None,
        ping_interval: None,
        ping_upstream: false,
        checked_frames: true,
        max_frame_size: None,
        max_message_size: None,
        rates: None,
        tunnels: crate::config::model::TunnelCounts::default(),
        close_removed: false,
        spot: Spot::default(),
    }
}

const SAME: EffectiveOrigin<'static> = EffectiveOrigin { scheme: Scheme::Https, host: "a.test", port: 443 };

fn request(headers: &HeaderMap, road: Road) -> HandshakeRequest<'_> {
    HandshakeRequest { headers, road, effective: Some(SAME), authority_is_named: true }
}

/// A canonical handshake with some lines more.
fn handshake_with(lines: &[(&str, &str)]) -> HeaderMap {
    let canonical = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];
    map(&canonical.into_iter().chain(lines.iter().copied()).collect::<Vec<_>>())
}

fn verdict(policy: &WebSocketPolicy, headers: &HeaderMap) -> Result<(), Refusal> {
    let over_h1 = decide(policy, &request(headers, Road::H1)).map(drop);
    // The policy is the same on both roads; only the key is not asked for on HTTP/2.
    if over_h1 != Err(Refusal::BadKey) {
        assert_eq!(decide(policy, &request(headers, Road::H2)).map(drop), over_h1, "{headers:?}");
    }
    over_h1
}

fn origin_verdict(rules: &[&str], origin: &str) -> Result<(), Refusal> {
    verdict(&policy(rules), &handshake_with(&[("origin", origin)]))
}

#[test]
fn origins_pass_or_fail_as_the_wire_table_says() {
    use Refusal::{OriginField, OriginMalformed, OriginNotAllowed};
    let app: &[&str] = &["https://app.example"];
    let wild: &[&str] = &["https://*.app.example"];
    let six: &[&str] = &["https://[::1]:8443"];
    for (row, rules, origin, expected) in [
        ("ORG-01", app, "https://app.example", Ok(())),
        ("ORG-02", app, "https://evil.test", Err(OriginNotAllowed)),
        ("ORG-03", app, "https://evilapp.example", Err(OriginNotAllowed)),
        ("ORG-03", app, "https://app.example.evil.test", Err(OriginNotAllowed)),
        ("ORG-03", app, "https://app.exampleevil.test", Err(OriginNotAllowed)),
        ("ORG-07", app, "http://app.example", Err(OriginNotAllowed)),
        ("ORG-07", app, "wss://app.example", Err(OriginNotAllowed)),
        ("ORG-07", app, "ftp://app.example", Err(OriginNotAllowed)),
        ("ORG-07", app, "http://app.example:443", Err(OriginNotAllowed)),
        ("ORG-09", app, "https://app.example:443", Ok(())),
        ("ORG-09", app, "https://app.example:80", Err(OriginNotAllowed)),
        ("ORG-10", app, "HTTPS://APP.EXAMPLE", Ok(())),
        ("ORG-12", app, "null", Err(OriginNotAllowed)),
        ("ORG-12", &["null"], "null", Ok(())),
        ("ORG-12", &["null"], "NULL", Err(OriginMalformed)),
        ("ORG-12", &["file://"], "null", Err(OriginNotAllowed)),
        ("ORG-16", app, "https://app.example https://evil.test", Err(OriginMalformed)),
        ("ORG-16", app, "https://app.example,https://evil.test", Err(OriginMalformed)),
        ("ORG-16", app, "https://app.example, https://app.example", Err(OriginMalformed)),
        ("ORG-16", app, "", Err(OriginMalformed)),
        ("ORG-18", app, "https://app.example/", Err(OriginMalformed)),
        ("ORG-18", app, "https://app.example/x", Err(OriginMalformed)),
        ("ORG-18", app, "https://app.example?x", Err(OriginMalformed)),
        ("ORG-18", app, "https://app.example#x", Err(OriginMalformed)),
        ("ORG-18", app, "https://user@app.example", Err(OriginMalformed)),
        ("ORG-18", app, "https://app.example.", Err(OriginMalformed)),
        ("ORG-18", app, "https://app.example@evil.test", Err(OriginMalformed)),
        ("ORG-23", wild, "https://x.app.example", Ok(())),
        ("ORG-23", wild, "https://a.b.app.example", Ok(())),
        ("ORG-23", wild, "https://app.example", Err(OriginNotAllowed)),
        ("ORG-23", wild, "https://evil-app.example", Err(OriginNotAllowed)),
        ("ORG-23", wild, "https://x.app.example.evil.test", Err(OriginNotAllowed)),
        ("ORG-23", wild, "https://*.app.example", Err(OriginMalformed)),
        ("ORG-23", wild, "https://.app.example", Err(OriginMalformed)),
        ("ORG-23", wild, "https://x.app.example:8443", Err(OriginNotAllowed)),
        ("ORG-24", six, "https://[::1]:8443", Ok(())),
        ("ORG-24", six, "https://[0:0:0:0:0:0:0:1]:8443", Err(OriginMalformed)),
        ("ORG-24", six, "https://[::1", Err(OriginMalformed)),
        ("ORG-24", six, "https://[::1]", Err(OriginNotAllowed)),
        ("bytes", app, "https://b\u{fc}cher.example", Err(OriginField)),
        ("bytes", &["*"], "https://b\u{fc}cher.example", Err(OriginField)),
        ("any", &["*"], "https://evil.test", Ok(())),
        ("any", &["*"], "null", Ok(())),
        ("any", &["*"], "https://evil.test/", Err(OriginMalformed)),
        ("file", &["file://"], "file://", Ok(())),
        ("file", app, "file://", Err(OriginNotAllowed)),
        ("scheme", &["capacitor://localhost"], "capacitor://localhost", Ok(())),
        ("scheme", &["capacitor://localhost"], "ionic://localhost", Err(OriginNotAllowed)),
    ] {
        assert_eq!(origin_verdict(rules, origin), expected, "{row} {rules:?} {origin}");
    }
}

#[test]
fn two_origin_lines_are_refused_even_where_both_are_allowed() {
    let headers = handshake_with(&[("origin", "https://app.example"), ("origin", "https://app.example")]);
    assert_eq!(verdict(&policy(&["https://app.example"]), &headers), Err(Refusal::OriginMalformed));
}

#[test]
fn a_missing_origin_passes_unless_the_route_wants_one_org_13() {
    let mut policy = policy(&["https://app.example"]);
    assert_eq!(verdict(&policy, &handshake_with(&[])), Ok(()));
    policy.allow_missing_origin = false;
    assert_eq!(verdict(&policy, &handshake_with(&[])), Err(Refusal::OriginMissing));
    // An empty value is not a missing one.
    assert_eq!(verdict(&policy, &handshake_with(&[("origin", "")])), Err(Refusal::OriginMalformed));
}

#[test]
fn same_origin_compares_scheme_host_and_port_with_what_the_client_reached() {
    let policy = policy(&["same-origin"]);
    let verdict = |origin: &str, effective: Option<EffectiveOrigin<'_>>, authority_is_named: bool| {
        let headers = handshake_with(&[("origin", origin)]);
        decide(&policy, &HandshakeRequest { headers: &headers, road: Road::H1, effective, authority_is_named }).is_ok()
    };
    assert!(verdict("https://a.test", Some(SAME), true));
    assert!(verdict("https://A.test:443", Some(SAME), true));
    for origin in ["http://a.test", "https://a.test:8443", "https://b.test", "https://x.a.test", "null", "wss://a.test"]
    {
        assert!(!verdict(origin, Some(SAME), true), "{origin}");
    }
    assert!(!verdict("https://a.test", Some(SAME), false), "an authority that the route does not name");
    assert!(!verdict("https://a.test", None, true), "a request without host");
    let clear = EffectiveOrigin { scheme: Scheme::Http, host: "[::1]", port: 8080 };
    assert!(verdict("http://[::1]:8080", Some(clear), true));
    assert!(!verdict("http://[::1]", Some(clear), true));
}

#[test]
fn a_handshake_that_is_none_is_refused_before_anything_else() {
    use Refusal::*;
    let evil = ("origin", "https://evil.test");
    let lines = |version: Option<&'static str>, key: Option<&'static str>, more: &[(&'static str, &'static str)]| {
        let mut lines = vec![("connection", "Upgrade"), ("upgrade", "websocket"), evil];
        lines.extend(version.map(|version| ("sec-websocket-version", version)));
        lines.extend(key.map(|key| ("sec-websocket-key", key)));
        lines.extend(more);
        map(&lines)
    };
    let policy = policy(&["https://app.example"]);
    for version in [None, Some("8"), Some("777"), Some("13, 8"), Some("013"), Some("13.0"), Some("")] {
        assert_eq!(verdict(&policy, &lines(version, Some(KEY), &[])), Err(BadVersion), "WSH-08 {version:?}");
    }
    for key in [None, Some("Zm9v"), Some(""), Some("not base64 at all!!!!!!="), Some("dGhlIHNhbXBsZSBub25jZXM=")] {
        assert_eq!(verdict(&policy, &lines(Some("13"), key, &[])), Err(BadKey), "WSH-06 {key:?}");
    }
    for (name, value) in [("sec-websocket-version", "13"), ("sec-websocket-version", "8"), ("sec-websocket-key", KEY)] {
        assert_eq!(verdict(&policy, &lines(Some("13"), Some(KEY), &[(name, value)])), Err(DuplicateHeader), "{name}");
    }
    for (name, value) in [
        ("content-length", "5"),
        ("content-length", "x"),
        ("content-length", "0, 0"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "gzip"),
    ] {
        assert_eq!(
            verdict(&policy, &lines(Some("13"), Some(KEY), &[(name, value)])),
            Err(Body),
            "WSH-17 {name} {value}"
        );
    }
    let no_body = lines(Some("13"), Some(KEY), &[("content-length", "0")]);
    assert_eq!(verdict(&policy, &no_body), Err(OriginNotAllowed));
}

#[test]
fn subprotocols_that_are_not_allowed_do_not_reach_the_upstream() {
    let allow = |allow: Option<&[&str]>, require: bool, offers: &[&str]| {
        let mut policy = policy(&["*"]);
        let allow = allow.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        policy.subprotocols = Subprotocols { allow, require };
        let lines: Vec<_> = offers.iter().map(|offer| ("sec-websocket-protocol", *offer)).collect();
        let headers = handshake_with(&lines);
        decide(&policy, &request(&headers, Road::H1)).map(|plan| {
            let sent = plan.request_headers(headers);
            let lines = sent.get_all(SEC_WEBSOCKET_PROTOCOL).iter().map(|line| line.to_str().unwrap().to_owned());
            lines.collect::<Vec<_>>()
        })
    };
    assert_eq!(allow(None, false, &["chat, superchat"]), Ok(vec!["chat, superchat".into()]), "WSN-01");
    assert_eq!(allow(None, false, &["chat ,superchat", "x"]), Ok(vec!["chat ,superchat".into(), "x".into()]));
    assert_eq!(allow(Some(&["superchat", "x"]), false, &["chat, superchat", "x"]), Ok(vec!["superchat, x".into()]));
    assert_eq!(allow(Some(&["chat"]), false, &["Chat"]), Ok(vec![]));
    assert_eq!(allow(Some(&[]), false, &["chat"]), Ok(vec![]));
    assert_eq!(allow(Some(&["chat"]), true, &["other"]), Err(Refusal::SubprotocolRequired));
    assert_eq!(allow(Some(&["chat"]), true, &[]), Err(Refusal::SubprotocolRequired));
    assert_eq!(allow(None, true, &[]), Err(Refusal::SubprotocolRequired));
    assert_eq!(allow(None, true, &["chat"]), Ok(vec!["chat".into()]));
    assert_eq!(allow(None, false, &["a b"]), Err(Refusal::BadOffer));
    assert_eq!(allow(None, false, &[""]), Ok(vec![]));
}

#[test]
fn extensions_pass_unchanged_or_not_at_all() {
    let line = "permessage-deflate; client_max_window_bits";
    let headers = handshake_with(&[("sec-websocket-extensions", line)]);
    let mut policy = policy(&["*"]);
    let plan = decide(&policy, &request(&headers, Road::H1)).unwrap();
    assert_eq!(plan.extensions(), ["permessage-deflate"]);
    assert_eq!(plan.request_headers(headers.clone())[SEC_WEBSOCKET_EXTENSIONS], line);
    policy.pass_extensions = false;
    let plan = decide(&policy, &request(&headers, Road::H1)).unwrap();
    assert!(!plan.request_headers(headers).contains_key(SEC_WEBSOCKET_EXTENSIONS));
    let answer = upstream_answer(&plan, &[("sec-websocket-extensions", "permessage-deflate")]);
    assert_eq!(check(&plan, &answer), Err(BadUpgrade::ExtensionNotOffered));
    let malformed = handshake_with(&[("sec-websocket-extensions", "a; x=\"")]);
    assert_eq!(decide(&policy, &request(&malformed, Road::H1)).map(drop), Ok(()), "what is stripped is not judged");
    policy.pass_extensions = true;
    assert_eq!(decide(&policy, &request(&malformed, Road::H1)).map(drop), Err(Refusal::BadOffer));
}

#[test]
fn the_request_that_goes_upstream_is_a_canonical_handshake() {
    let mut headers = handshake_with(&[
        ("connection", "close, X-Internal"),
        ("upgrade", "proto1"),
        ("x-internal", "admin"),
        ("sec-websocket-accept", "x"),
        ("expect", "100-continue"),
        ("te", "trailers"),
        ("content-length", "0"),
        ("cookie", "a=b"),
        ("origin", "https://app.example"),
    ]);
    let plan = decide(&policy(&["*"]), &request(&headers, Road::H1)).unwrap();
    scrub_hop_by_hop(&mut headers).unwrap();
    let wanted = map(&[
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
        ("cookie", "a=b"),
        ("origin", "https://app.example"),
    ]);
    assert_eq!(plan.request_headers(headers), wanted);
}

#[test]
fn over_http_2_the_key_is_ours_and_the_answer_says_nothing_of_it_rfc_8441_5() {
    let headers = map(&[("sec-websocket-version", "13"), ("sec-websocket-key", "x"), ("origin", "https://a.test")]);
    let plan = decide(&policy(&["same-origin"]), &request(&headers, Road::H2)).unwrap();
    assert!(is_key(plan.key().as_bytes()));
    let sent = plan.request_headers(headers);
    assert_eq!(sent[SEC_WEBSOCKET_KEY], plan.key());
    assert_eq!(sent["upgrade"], "websocket");
    let answer = upstream_answer(&plan, &[("x-more", "1")]);
    let agreed = check(&plan, &answer).unwrap();
    assert_eq!(plan.answer_headers(&agreed, answer), map(&[("x-more", "1")]));
}

fn upstream_answer(plan: &Handshake, lines: &[(&str, &str)]) -> HeaderMap {
    let canonical = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", plan.accept())];
    map(&canonical.into_iter().chain(lines.iter().copied()).collect::<Vec<_>>())
}

fn check(plan: &Handshake, headers: &HeaderMap) -> Result<Agreed, BadUpgrade> {
    check_answer(plan, StatusCode::SWITCHING_PROTOCOLS, Version::HTTP_11, headers)
}

#[test]
fn a_101_goes_to_the_client_without_what_belongs_to_one_hop() {
    let headers = handshake_with(&[("sec-websocket-protocol", "chat"), ("sec-websocket-extensions", "x-a; b=1, x-c")]);
    let plan = decide(&policy(&["*"]), &request(&headers, Road::H1)).unwrap();
    assert_eq!(plan.accept(), ACCEPT);
    let answer = upstream_answer(
        &plan,
        &[
            ("connection", "X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "x"),
            ("content-length", "10"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=b"),
            ("sec-websocket-protocol", "chat"),
            ("sec-websocket-extensions", "x-c; d"),
        ],
    );
    let agreed = check(&plan, &answer).unwrap();
    let wanted = map(&[
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", ACCEPT),
        ("set-cookie", "a=b"),
        ("sec-websocket-protocol", "chat"),
        ("sec-websocket-extensions", "x-c; d"),
    ]);
    assert_eq!(plan.answer_headers(&agreed, answer), wanted, "W1X-12, W1X-21");
}

#[test]
fn a_subprotocol_that_the_policy_took_out_cannot_come_back_in_the_answer() {
    let mut policy = policy(&["*"]);
    policy.subprotocols.allow = Some(vec!["chat".into()]);
    let headers = handshake_with(&[("sec-websocket-protocol", "chat, other")]);
    let plan = decide(&policy, &request(&headers, Road::H1)).unwrap();
    let answer = upstream_answer(&plan, &[("sec-websocket-protocol", "other")]);
    assert_eq!(check(&plan, &answer), Err(BadUpgrade::SubprotocolNotOffered), "WSN-03");
}

proptest! {
    /// A rule for one origin lets nothing pass that a browser would call another origin.
    #[test]
    fn an_exact_rule_passes_exactly_one_origin(value in "(https?|wss)://(x\\.)?app\\.example(\\.evil)?(:(443|80|8443))?[/.]?") {
        if let Ok(origin) = crate::proto::origin::parse(value.as_bytes()) {
            let passes = allows(&[rule("https://app.example")], &origin, None);
            let Origin::Tuple(tuple) = origin else { unreachable!("the pattern makes tuples only") };
            prop_assert_eq!(passes, tuple.to_string() == "https://app.example");
        }
    }
}
