//! HOP and FWD: which fields end at the gateway, and which the gateway speaks for (RFC 9110 §7.6, RFC 7239).

use crate::harness::{Backend, Client, Fields, Handshake, Head, Peer, Request, SMUG, Setup, Stage, Way};

/// What the backend saw of one request or handshake with these fields, by each way in that can send them.
async fn seen(fields: &[(&str, &str)]) -> Vec<(Way, Head)> {
    let mut heads = Vec::new();
    let stage = Stage::standard().await;
    for way in Way::ALL {
        // Connection and its like cannot be said on h2 (RFC 9113 §8.2.2).
        if way == Way::H2 && fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
            continue;
        }
        let mut request = Request::get("/n");
        let mut handshake = Handshake::to("/ws");
        for (name, value) in fields {
            request = request.field(name, value);
            handshake = if name.eq_ignore_ascii_case("connection") {
                handshake.set(name, &format!("Upgrade, {value}"))
            } else {
                handshake.add(name, value)
            };
        }
        let answer = way.ask(&stage, &request).await;
        assert_eq!((answer.status, answer.text()), (200, request.nonce), "{way:?}");
        heads.push((way, stage.b1.requests().pop().expect("a request")));
        way.tunnel(&stage, &handshake).await.echo("x").await;
        heads.push((way, stage.b1.requests().pop().expect("a handshake")));
    }
    assert!(heads.len() >= 4);
    heads
}

#[tokio::test]
async fn hop_01_what_connection_lists_stays_behind() {
    for (way, head) in
        seen(&[("Connection", "close, X-Foo, x-bar"), ("X-Foo", "1"), ("X-BAR", "2"), ("X-Baz", "3")]).await
    {
        assert!(!head.has("x-foo") && !head.has("x-bar"), "{way:?} {head:?}");
        assert_eq!(head.get("x-baz"), Some("3"));
    }
}

#[tokio::test]
async fn hop_01_the_classic_hop_by_hop_fields_stay_behind_unlisted() {
    let fields = [("Keep-Alive", "timeout=5"), ("Proxy-Connection", "keep-alive"), ("TE", "trailers, deflate")];
    let stage = Stage::standard().await;
    for way in Way::H1 {
        let mut request = Request::get("/n");
        for (name, value) in fields {
            request = request.field(name, value);
        }
        way.ask(&stage, &request).await;
        let head = stage.b1.requests().pop().expect("a request");
        assert!(!head.has("keep-alive") && !head.has("proxy-connection"), "{head:?}");
        assert!(head.all("te").iter().all(|value| *value == "trailers"), "{head:?}");
    }
}

#[tokio::test]
async fn hop_03_connection_cannot_remove_what_the_gateway_says() {
    let list = "X-Forwarded-For, X-Real-IP, X-Forwarded-Proto, X-Forwarded-Host, Forwarded, Via, X-Request-Id";
    for (way, head) in seen(&[("Connection", list)]).await {
        assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"), "{way:?} {head:?}");
        assert_eq!(head.get("x-real-ip"), Some("127.0.0.1"), "{way:?} {head:?}");
        assert!(head.has("x-forwarded-proto") && head.has("x-forwarded-host"), "{way:?} {head:?}");
        assert!(head.has("via") && head.has("x-request-id"), "{way:?} {head:?}");
    }
}

#[tokio::test]
async fn hop_06_connection_that_lists_framing_or_routing_is_refused_on_every_road() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        for name in ["Content-Length", "Transfer-Encoding", "Host", "Origin", "Sec-WebSocket-Key"] {
            let mut client = way.client(&stage).await;
            let request = Request::new("POST", "/n").field("Connection", name).body(SMUG);
            client.send(request.to_h1()).await;
            client.answer().await.assert_refused(400, "bad-connection");
            let next = Request::get("/n");
            if client.try_send(next.to_h1()).await.is_ok()
                && let Ok(answer) = client.try_answer("GET").await
            {
                assert_eq!(answer.text(), next.nonce);
            }
            let handshake = Handshake::to("/ws").set("Connection", &format!("Upgrade, {name}"));
            way.refused(&stage, &handshake, 400, "bad-connection").await;
        }
        assert!(!stage.b1.saw("SMUGGLED") && !stage.b1.saw("POST"));
    }
}

#[tokio::test]
async fn hop_08_what_connection_lists_stays_behind_on_a_handshake_too() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        let handshake =
            Handshake::to("/ws").set("Connection", "Upgrade, X-Internal-Auth").add("X-Internal-Auth", "admin");
        way.tunnel(&stage, &handshake).await.echo("x").await;
        assert!(!stage.b1.saw("admin"));
        assert_eq!(stage.b1.request().get("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
    }
}

#[tokio::test]
async fn hop_10_listed_credentials_are_stripped_the_same_on_every_road() {
    let fields = [("Connection", "Authorization, Cookie"), ("Authorization", "Basic eDp5"), ("Cookie", "a=b")];
    for (way, head) in seen(&fields).await {
        assert!(!head.has("authorization") && !head.has("cookie"), "{way:?} {head:?}");
    }
}

#[tokio::test]
async fn hop_15_every_request_upstream_carries_via() {
    for (way, head) in seen(&[]).await {
        let via = head.get("via").expect("Via");
        let version = if way == Way::H2 { "2.0 " } else { "1.1 " };
        // The papers fix the name; the version is that of the message received.
        assert!(via.starts_with("1.1 portcullis") || via.starts_with(&format!("{version}portcullis")), "{way:?} {via}");
    }
    let stage = Setup::new().upstream("via = false").start();
    stage.assert_serving().await;
    assert!(!stage.b1.request().has("via"));
}

#[tokio::test]
async fn hop_15_an_own_via_that_comes_back_is_a_loop() {
    let stage = Stage::standard().await;
    stage.assert_serving().await;
    let via = stage.b1.request().get("via").expect("Via").to_owned();
    for way in Way::ALL {
        let request = Request::get("/n").field("Via", &format!("1.0 other, {via}"));
        way.ask(&stage, &request).await.assert_refused(508, "loop-detected");
    }
    let other = Request::get("/n").field("Via", "1.1 other");
    assert_eq!(Way::Clear.ask(&stage, &other).await.status, 200);
    let head = stage.b1.requests().pop().expect("a request");
    assert!(head.lists("via", "1.1 other") && head.lists("via", &via), "{head:?}");
}

#[tokio::test]
async fn fwd_01_the_upstream_learns_the_client_the_scheme_and_the_host() {
    for (way, head) in seen(&[]).await {
        let scheme = if way == Way::Clear { "http" } else { "https" };
        assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"), "{way:?} {head:?}");
        assert_eq!(head.get("x-real-ip"), Some("127.0.0.1"));
        assert_eq!(head.get("x-forwarded-proto"), Some(scheme), "{way:?} {head:?}");
        assert_eq!(head.get("x-forwarded-host"), Some("a.test"), "{way:?} {head:?}");
        assert!(head.get("x-forwarded-port").is_some_and(|port| port.parse::<u16>().is_ok()), "{way:?} {head:?}");
        assert!(!head.has("forwarded"));
    }
}

const SPOOFED: [(&str, &str); 8] = [
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Proto", "gopher"),
    ("X-Forwarded-Host", "spoofed.test"),
    ("X-Forwarded-Port", "666"),
    ("X-Forwarded-Prefix", "/spoofed"),
    ("X-Real-IP", "6.6.6.6"),
    ("Forwarded", "for=6.6.6.6;host=spoofed.test"),
    ("Proxy", "http://spoofed.test"),
];

#[tokio::test]
async fn fwd_02_nothing_that_an_untrusted_peer_claims_survives() {
    for (way, head) in seen(&SPOOFED).await {
        let text = format!("{head:?}");
        for claim in ["6.6.6.6", "gopher", "spoofed"] {
            assert!(!text.contains(claim), "{way:?} {text}");
        }
        // Not looked for in the text, where an id of ours may hold the same digits.
        assert_ne!(head.get("x-forwarded-port"), Some("666"), "{way:?} {text}");
        assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[tokio::test]
async fn fwd_02_a_trusted_peer_is_believed_and_appended_to() {
    let stage = Setup::new().server("trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]").start();
    for way in Way::ALL {
        let request = Request::get("/n")
            .field("X-Forwarded-For", "6.6.6.6, 7.7.7.7, 10.0.0.1")
            .field("X-Forwarded-Proto", "https")
            .field("X-Forwarded-Host", "public.test");
        assert_eq!(way.ask(&stage, &request).await.status, 200);
        let head = stage.b1.requests().pop().expect("a request");
        assert_eq!(head.get("x-forwarded-for"), Some("6.6.6.6, 7.7.7.7, 10.0.0.1, 127.0.0.1"), "{head:?}");
        assert_eq!(head.get("x-real-ip"), Some("7.7.7.7"), "{head:?}");
        assert_eq!(head.get("x-forwarded-proto"), Some("https"));
        assert_eq!(head.get("x-forwarded-host"), Some("public.test"));
    }
}

#[tokio::test]
async fn fwd_04_other_spellings_of_managed_names_are_dropped() {
    let aliases = [
        ("X_Forwarded_For", "6.6.6.6"),
        ("X_FORWARDED_PROTO", "6.6.6.6"),
        ("X_Real_IP", "6.6.6.6"),
        ("X.Forwarded.For", "6.6.6.6"),
        ("X-Forwarded_For", "6.6.6.6"),
        ("X_Request_Id", "6.6.6.6"),
    ];
    for (way, head) in seen(&aliases.map(|(name, value)| (&*name.to_ascii_lowercase().leak(), value))).await {
        assert!(!format!("{head:?}").contains("6.6.6.6"), "{way:?} {head:?}");
    }
}

#[tokio::test]
async fn fwd_06_an_ipv6_client_is_bare_in_one_field_and_bracketed_in_the_other() {
    let more = "[[listener]]\nname = \"six\"\naddress = \"[::1]:0\"\n";
    let stage = Setup::new().server("forwarded = true").more(more).start();
    let mut client = Client::clear(stage.gateway.address("six")).await;
    assert_eq!(client.ask(&Request::get("/n")).await.status, 200);
    let head = stage.b1.request();
    assert_eq!(head.get("x-forwarded-for"), Some("::1"));
    assert!(head.get("forwarded").is_some_and(|value| value.contains("for=\"[::1]\"")), "{head:?}");
}

#[tokio::test]
async fn fwd_09_a_proxy_protocol_header_that_nobody_asked_for_is_not_believed() {
    let v1 = b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec();
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x01\0\x02".to_vec();
    let stage = Stage::standard().await;
    for header in [v1, v2] {
        let mut client = stage.clear().await;
        client.send([header, Request::get("/n").to_h1()].concat()).await;
        let statuses = client.statuses_until_end().await;
        assert!(statuses.iter().all(|status| *status == 400), "{statuses:?}");
    }
    stage.b1.assert_untouched();
}

#[tokio::test]
async fn fwd_13_a_request_id_is_kept_when_it_is_harmless_and_replaced_otherwise() {
    let stage = Stage::standard().await;
    for way in Way::ALL {
        let long = "x".repeat(129);
        for (id, kept) in [
            ("abc-DEF_1.2", true),
            (&*"y".repeat(128), true),
            (&*long, false),
            ("a\"b", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(way.ask(&stage, &Request::get("/n").field("X-Request-Id", id)).await.status, 200);
            let head = stage.b1.requests().pop().expect("a request");
            let sent = head.get("x-request-id").expect("a request id");
            assert_eq!(sent == id, kept, "{way:?} {sent:?}");
            let harmless = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
            assert!((1..=128).contains(&sent.len()) && sent.chars().all(harmless), "{sent:?}");
        }
    }
    // An escape character is no field value at all (RFC 9110 §5.5), so that 400 is right as well.
    let mut client = stage.clear().await;
    client.send(b"GET /n HTTP/1.1\r\nHost: a.test\r\nX-Request-Id: a\x1b[31mb\r\n\r\n").await;
    if client.answer().await.status == 200 {
        assert!(!stage.b1.saw("\x1b"));
    }
}

#[tokio::test]
async fn fwd_13_a_ten_kibibyte_request_id_is_replaced() {
    let stage = Stage::standard().await;
    let request = Request::get("/n").field("X-Request-Id", &"z".repeat(10 * 1024)).field("traceparent", "00-ab-cd-01");
    assert_eq!(Way::Clear.ask(&stage, &request).await.status, 200);
    assert!(!stage.b1.saw("zzz"));
    assert_eq!(stage.b1.request().get("traceparent"), Some("00-ab-cd-01"));
}

#[tokio::test]
async fn hop_01_an_answer_loses_its_hop_by_hop_fields_as_well() {
    let backend = Backend::scripted(async |mut peer: Peer| {
        loop {
            peer.head().await?;
            peer.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=9\r\n\
                  Proxy-Connection: x\r\nUpgrade: h2c\r\nX-End: 1\r\n\r\nok",
            )
            .await?;
        }
    });
    let stage = Setup::new().b1(backend).start();
    for way in Way::ALL {
        let answer = way.ask(&stage, &Request::get("/n")).await;
        for name in ["x-secret", "keep-alive", "proxy-connection", "upgrade"] {
            assert!(!answer.has(name), "{way:?} {answer:?}");
        }
        assert_eq!(answer.get("x-end"), Some("1"));
        assert!(!answer.has("server") && !answer.has("via"), "{answer:?}");
    }
}
