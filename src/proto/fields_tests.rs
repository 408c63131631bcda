use proptest::prelude::*;

use super::*;

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_list_runs_over_lines_white_space_and_empty_members() {
    let headers = map(&[("connection", " keep-alive ,,\tX-A\t"), ("connection", ""), ("connection", "UpGrade,")]);
    let members: Vec<_> = tokens(&headers, &CONNECTION).collect();
    assert_eq!(members, [b"keep-alive".as_slice(), b"X-A", b"UpGrade"]);
    assert!(has_token(&headers, &CONNECTION, "upgrade"));
    assert!(!has_token(&headers, &CONNECTION, "upgrad"));
    assert!(!has_token(&map(&[("connection", "not-upgrade")]), &CONNECTION, "upgrade"));
}

#[test]
fn what_belongs_to_one_hop_does_not_go_on_rfc_9110_7_6_1() {
    let mut headers = map(&[
        ("connection", "close, X-Foo"),
        ("connection", "x-bar, Cookie"),
        ("x-foo", "1"),
        ("x-bar", "1"),
        ("x-bar", "2"),
        ("cookie", "a=b"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic eA=="),
        ("te", "gzip, deflate"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABk"),
        ("trailer", "X-Sum"),
        ("authorization", "Basic eA=="),
    ]);
    scrub_hop_by_hop(&mut headers).unwrap();
    assert_eq!(names(&headers), ["authorization", "trailer"]);
}

#[test]
fn te_trailers_goes_on_with_its_connection_option_rfc_9110_10_1_4() {
    let mut headers = map(&[("connection", "TE"), ("te", "gzip, Trailers")]);
    scrub_hop_by_hop(&mut headers).unwrap();
    assert_eq!(headers, map(&[("te", "trailers"), ("connection", "te")]));
}

#[test]
fn a_connection_that_names_an_end_to_end_field_is_refused_and_nothing_is_changed() {
    for option in ["Host", "content-length", "TRANSFER-ENCODING", "Origin", "Sec-WebSocket-Key", "sec-websocket-x"] {
        for line in [option.to_owned(), format!("close,{option}"), format!("Upgrade,\t{option} ,x")] {
            let mut headers = map(&[("connection", "keep-alive"), ("connection", &line), ("keep-alive", "1")]);
            let before = headers.clone();
            let refused = scrub_hop_by_hop(&mut headers).unwrap_err();
            assert_eq!(refused.option, option.to_ascii_lowercase());
            assert_eq!(headers, before);
        }
    }
}

#[test]
fn an_answer_is_cleaned_but_keeps_its_framing() {
    let mut headers = map(&[
        ("connection", "Upgrade, X-Secret, Content-Length"),
        ("x-secret", "1"),
        ("upgrade", "websocket"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "x"),
        ("proxy-authenticate", "Basic"),
        ("content-length", "2"),
        ("set-cookie", "a=b"),
    ]);
    scrub_answer(&mut headers);
    assert_eq!(names(&headers), ["content-length", "set-cookie"]);
}

#[test]
fn trailers_lose_what_must_not_be_merged_rfc_9110_6_5_1() {
    let mut trailers = map(&[
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("host", "b.test"),
        ("authorization", "x"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x_forwarded_for", "1.2.3.4"),
        ("x-request-id", "1"),
        ("sec-websocket-key", "x"),
        ("if-match", "x"),
        ("set-cookie", "a=b"),
        ("connection", "close"),
        ("grpc-status", "0"),
        ("x-checksum", "1"),
        ("server-timing", "a"),
        ("etag", "x"),
    ]);
    scrub_trailers(&mut trailers);
    assert_eq!(names(&trailers), ["etag", "grpc-status", "server-timing", "x-checksum"]);
}

#[test]
fn only_chunked_alone_is_a_transfer_encoding() {
    let verdict = |lines: &[&str]| {
        let lines: Vec<_> = lines.iter().map(|line| ("transfer-encoding", *line)).collect();
        transfer_encoding_is_exactly_chunked(&map(&lines))
    };
    assert_eq!(verdict(&[]), TransferCoding::Absent);
    assert_eq!(verdict(&["chunked"]), TransferCoding::Chunked);
    assert_eq!(verdict(&[" Chunked\t"]), TransferCoding::Chunked);
    for bad in ["", "gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", ",chunked", "chunked,", "chunked;a=b"]
    {
        assert_eq!(verdict(&[bad]), TransferCoding::Bad, "{bad:?}");
    }
    for bad in ["\"chunked\"", "xchunked", "identity", "chunked\u{b}"] {
        if HeaderValue::from_str(bad).is_ok() {
            assert_eq!(verdict(&[bad]), TransferCoding::Bad, "{bad:?}");
        }
    }
    assert_eq!(verdict(&["chunked", "chunked"]), TransferCoding::Bad);
}

#[test]
fn content_lengths_agree_or_are_refused() {
    let settle = |lines: &[&str]| {
        let lines: Vec<_> = lines.iter().map(|line| ("content-length", *line)).collect();
        let mut headers = map(&lines);
        settle_content_length(&mut headers).map(|length| {
            let lines: Vec<_> =
                headers.get_all(CONTENT_LENGTH).iter().map(|line| line.to_str().unwrap().to_owned()).collect();
            (length, lines)
        })
    };
    assert_eq!(settle(&[]), Ok((None, vec![])));
    assert_eq!(settle(&["0"]), Ok((Some(0), vec!["0".into()])));
    assert_eq!(settle(&["5", "5"]), Ok((Some(5), vec!["5".into()])));
    assert_eq!(settle(&["010"]), Ok((Some(10), vec!["10".into()])));
    for bad in ["", "+3", "-3", "3, 3", "3,", "0x1", "3 3", "18446744073709551616"] {
        assert_eq!(settle(&[bad]), Err(BadContentLength), "{bad:?}");
    }
    assert_eq!(settle(&["5", "6"]), Err(BadContentLength));
}

#[test]
fn expectations_other_than_100_continue_are_told_apart() {
    assert_eq!(expectation(&map(&[])), Expectation::None);
    assert_eq!(expectation(&map(&[("expect", "100-Continue")])), Expectation::Continue);
    assert_eq!(expectation(&map(&[("expect", "100-continue, foo")])), Expectation::Other);
    assert_eq!(expectation(&map(&[("expect", "foo")])), Expectation::Other);
}

#[test]
fn cookie_crumbs_become_one_line_rfc_9113_8_2_3() {
    let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
    join_cookies(&mut headers);
    assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
}

proptest! {
    /// However a list is cut into lines, its members and their order stay the same.
    #[test]
    fn a_list_is_the_same_however_it_is_cut(
        members in prop::collection::vec("[a-zA-Z0-9-]{1,8}", 0..8),
        cuts in prop::collection::vec(0..4u8, 8),
    ) {
        let mut lines = vec![String::new()];
        for (member, cut) in members.iter().zip(&cuts) {
            match cut {
                0 => lines.push(String::new()),
                1 => lines.last_mut().unwrap().push_str(" ,, \t"),
                2 => lines.last_mut().unwrap().push(','),
                _ => lines.last_mut().unwrap().push_str(" , "),
            }
            lines.last_mut().unwrap().push_str(member);
        }
        let lines: Vec<_> = lines.iter().map(|line| ("connection", line.as_str())).collect();
        let headers = map(&lines);
        let found: Vec<_> = tokens(&headers, &CONNECTION).map(|member| String::from_utf8_lossy(member).into_owned()).collect();
        prop_assert_eq!(&found, &members);
    }

    /// After the scrub nothing that was named is left, and what was not named is.
    #[test]
    fn the_scrub_takes_what_is_named_and_nothing_else(
        named in prop::collection::vec("x-[a-m]{1,4}", 0..5),
        others in prop::collection::vec("x-[n-z]{1,4}", 0..5),
    ) {
        let mut headers = HeaderMap::new();
        for name in named.iter().chain(&others) {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("1"));
        }
        headers.append(CONNECTION, HeaderValue::from_str(&named.join(", ").to_uppercase()).unwrap());
        scrub_hop_by_hop(&mut headers).unwrap();
        prop_assert!(named.iter().all(|name| !headers.contains_key(name.as_str())));
        prop_assert!(others.iter().all(|name| headers.contains_key(name.as_str())));
        prop_assert!(!headers.contains_key(CONNECTION));
    }
}
