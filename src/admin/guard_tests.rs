use std::path::PathBuf;

use http::Request;

use super::*;
use crate::config::model::ListenerKey;
use crate::snapshot::Token;

fn plan(address: &str, hosts: &[&str], token: Option<&str>) -> AdminPlan {
    let address = match address.strip_prefix("unix:") {
        Some(path) => ListenAddress::Unix(PathBuf::from(path)),
        None => ListenAddress::Tcp(address.parse().expect("an address")),
    };
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    AdminPlan::for_tests(ListenerKey { address, name: None }, token.map(|token| Token::new(token.as_bytes())), hosts)
}

fn head(path: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::get(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

/// The code of what is wrong, or nothing.
fn checked(plan: &AdminPlan, is_tls: bool, path: &str, fields: &[(&str, &str)]) -> Option<&'static str> {
    let via = Via::new("portcullis-7f3a").expect("a token");
    check(plan, &via, is_tls, &head(path, fields)).err().map(|error| error.code)
}

#[test]
fn only_names_that_nobody_else_can_give_away_are_known() {
    let local = plan("127.0.0.1:9900", &["gateway.internal", "[2001:db8::1]"], None);
    for host in [
        "localhost",
        "LOCALHOST:9900",
        "admin.localhost:80",
        "127.0.0.1:9900",
        "127.8.8.8",
        "[::1]:9900",
        "[::ffff:127.0.0.1]",
        "gateway.internal",
        "Gateway.Internal.:8080",
        "[2001:db8:0::1]",
    ] {
        assert_eq!(checked(&local, false, "/x", &[("host", host)]), None, "{host}");
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "0.0.0.0",
        "xlocalhost",
        "[::]",
    ] {
        assert_eq!(checked(&local, false, "/x", &[("host", host)]), Some("unknown-host"), "{host}");
    }
    for host in ["", "a b", "user@localhost", "localhost:http", "127.0.0.1:99999"] {
        assert_eq!(checked(&local, false, "/x", &[("host", host)]), Some("bad-host"), "{host}");
    }
    assert_eq!(checked(&local, false, "/x", &[]), Some("bad-host"));
    assert_eq!(checked(&local, false, "/x", &[("host", "localhost"), ("host", "localhost")]), Some("bad-host"));
    assert_eq!(checked(&local, false, "http://localhost/x", &[("host", "localhost")]), Some("bad-target"));

    let public = plan("0.0.0.0:9900", &[], None);
    assert_eq!(checked(&public, false, "/x", &[("host", "10.0.0.1:9900")]), None);
    assert_eq!(checked(&public, false, "/x", &[("host", "evil.example")]), Some("unknown-host"));
    let one = plan("10.0.0.1:9900", &[], None);
    assert_eq!(checked(&one, false, "/x", &[("host", "10.0.0.1")]), None);
    assert_eq!(checked(&one, false, "/x", &[("host", "10.0.0.2")]), Some("unknown-host"));
    let socket = plan("unix:/run/a.sock", &[], None);
    assert_eq!(checked(&socket, false, "/x", &[("host", "localhost")]), None);
    assert_eq!(checked(&socket, false, "/x", &[("host", "10.0.0.1")]), Some("unknown-host"));
}

#[test]
fn a_page_that_asks_has_to_be_the_listeners_own() {
    let plan = plan("127.0.0.1:9900", &["gateway.internal"], None);
    let asked =
        |is_tls, host, field, value| checked(&plan, is_tls, "/api/v1/status", &[("host", host), (field, value)]);
    for (is_tls, host, origin) in [
        (false, "localhost:9900", "http://localhost:9900"),
        (true, "gateway.internal", "https://gateway.internal"),
        (true, "gateway.internal:443", "https://gateway.internal"),
        (false, "127.0.0.1", "http://127.0.0.1"),
    ] {
        assert_eq!(asked(is_tls, host, "origin", origin), None, "{origin}");
    }
    for (is_tls, host, origin) in [
        (false, "localhost:9900", "http://localhost:8080"),
        (false, "localhost:9900", "http://127.0.0.1:9900"),
        (false, "localhost:9900", "https://localhost:9900"),
        (true, "localhost:9900", "http://localhost:9900"),
        (false, "localhost:9900", "http://evil.example"),
        (false, "localhost:9900", "null"),
        (false, "localhost:9900", "file://"),
        (false, "localhost:9900", "http://localhost:9900/"),
        (false, "localhost:9900", ""),
    ] {
        assert_eq!(asked(is_tls, host, "origin", origin), Some("foreign-origin"), "{origin}");
    }
    for (site, is_in) in
        [("same-origin", true), ("none", true), ("same-site", false), ("cross-site", false), ("", false)]
    {
        assert_eq!(asked(false, "localhost", "sec-fetch-site", site).is_none(), is_in, "{site}");
    }
    // A link to the page may be followed from anywhere.
    assert_eq!(checked(&plan, false, "/", &[("host", "localhost"), ("sec-fetch-site", "cross-site")]), None);
}

#[test]
fn what_came_through_this_very_gateway_is_not_let_in() {
    let plan = plan("127.0.0.1:9900", &[], None);
    let asked = |via| checked(&plan, false, "/x", &[("host", "localhost"), ("via", via)]);
    assert_eq!(asked("1.1 other, 1.1 portcullis-7f3a"), Some("came-through-the-gateway"));
    assert_eq!(asked("1.1 other"), None);
}

#[test]
fn the_token_is_wanted_where_there_is_one_and_only_as_a_bearers() {
    let plan = plan("127.0.0.1:9900", &[], Some("0123456789abcdef"));
    let asked =
        |fields: &[(&str, &str)]| authenticate(&plan, &head("/x", fields).headers).err().map(|error| error.code);
    for value in ["Bearer 0123456789abcdef", "bearer 0123456789abcdef", "BEARER   0123456789abcdef"] {
        assert_eq!(asked(&[("authorization", value)]), None, "{value}");
    }
    assert_eq!(asked(&[]), Some("no-token"));
    for value in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer0123456789abcdef",
        "Bearer 0123456789abcde",
        "Bearer 0123456789abcdef0",
        "Basic MDEyMzQ1Njc4OWFiY2RlZg==",
        "0123456789abcdef",
        "Bearer 0123456789ABCDEF",
    ] {
        assert_eq!(asked(&[("authorization", value)]), Some("wrong-token"), "{value}");
    }
    let right = ("authorization", "Bearer 0123456789abcdef");
    assert_eq!(asked(&[right, right]), Some("wrong-token"), "twice is not once");
}

#[test]
fn a_body_is_json_and_what_a_form_can_send_is_none() {
    let of = |kinds: &[&str], is_empty| {
        let fields: Vec<_> = kinds.iter().map(|kind| ("content-type", *kind)).collect();
        check_body(&head("/x", &fields).headers, is_empty).is_ok()
    };
    for kind in ["application/json", "Application/JSON; charset=utf-8"] {
        assert!(of(&[kind], false) && of(&[kind], true), "{kind}");
    }
    for kind in
        ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "", "application/jsonp"]
    {
        assert!(!of(&[kind], false) && !of(&[kind], true), "{kind}");
    }
    assert!(of(&[], true) && !of(&[], false) && !of(&["application/json", "application/json"], false));
}
