//! WSH: what is a WebSocket handshake, what is refused as a bad one, and what goes upstream (RFC 6455 §4.2, RFC 8441).

use std::time::Duration;

use crate::harness::{A0, Backend, Client, Fields, Handshake, Head, K0, Peer, Request, SMUG, Setup, Stage, Way};

/// Fails unless this is exactly one well-formed upgrade, spelled as RFC 6455 spells it.
#[track_caller]
fn assert_upgrade(head: &Head, target: &str) {
    assert_eq!(head.start, format!("GET {target} HTTP/1.1"), "{head:?}");
    assert_eq!(head.get("upgrade"), Some("websocket"), "{head:?}");
    assert!(head.lists("connection", "upgrade"), "{head:?}");
    assert_eq!(head.get("sec-websocket-version"), Some("13"), "{head:?}");
    assert_eq!(head.get("host"), Some("a.test"), "{head:?}");
    let spelled = head.fields.iter().any(|(name, _)| name == "Sec-WebSocket-Key");
    assert!(spelled, "hand-written servers compare by case: {head:?}");
}

/// Fails unless the connection goes on with the gateway's own routing, or ends; `SMUG` must never be served.
async fn assert_not_a_pipe(mut client: Client) {
    if client.try_send(SMUG).await.is_ok() {
        match client.try_answer("GET").await {
            Ok(answer) => answer.assert_refused(404, "no-route"),
            Err(broken) => assert!(broken.answer.is_none(), "{broken:?}"),
        }
    }
}

#[tokio::test]
async fn wsh_01_a_canonical_handshake_opens_an_echoing_tunnel() {
    for way in Way::ALL {
        let stage = Stage::standard().await;
        let (answer, tunnel) = way.open(&stage, &Handshake::to("/ws")).await;
        let mut tunnel = tunnel.unwrap_or_else(|| panic!("{way:?}: {answer:?}"));
        tunnel.echo("hello").await;
        let request = stage.b1.request();
        assert_upgrade(&request, "/ws");
        if way == Way::H2 {
            assert!(!answer.has("upgrade") && !answer.has("connection"), "{answer:?}");
        } else {
            assert_eq!(request.get("sec-websocket-key"), Some(K0));
            assert_eq!(answer.get("sec-websocket-accept"), Some(A0));
            assert_eq!(answer.get("upgrade"), Some("websocket"));
            assert_eq!(answer.get("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
            assert!(answer.fields.iter().any(|(name, _)| name == "Sec-WebSocket-Accept"), "{answer:?}");
        }
        assert_eq!(stage.b1.connections(), 1);
    }
}

#[tokio::test]
async fn wsh_01_names_and_tokens_are_read_without_case() {
    let stage = Stage::standard().await;
    for (upgrade, connection) in
        [("WebSocket", "upgrade"), ("WEBSOCKET", "UPGRADE"), ("websocket", "keep-alive, Upgrade")]
    {
        let handshake = Handshake::to("/ws").set("upgrade", upgrade).set("CONNECTION", connection);
        Way::Clear.tunnel(&stage, &handshake).await.echo(upgrade).await;
    }
    assert!(stage.b1.requests().iter().all(|head| head.get("upgrade") == Some("websocket")));
}

#[tokio::test]
async fn wsh_03_connection_over_two_lines_is_one_list() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        for lines in [["keep-alive", "Upgrade"], ["Upgrade", "keep-alive"]] {
            let handshake = Handshake::to("/ws").set("Connection", lines[0]).add("Connection", lines[1]);
            way.tunnel(&stage, &handshake).await.echo("two lines").await;
        }
        let requests = stage.b1.requests();
        assert_eq!(requests.len(), 2);
        requests.iter().for_each(|head| assert_upgrade(head, "/ws"));
    }
}

#[tokio::test]
async fn wsh_04_of_several_upgrade_tokens_only_websocket_goes_upstream_and_its_rules_hold() {
    let stage = Stage::standard().await;
    let one_line = Handshake::to("/ws").set("Upgrade", "proto1, websocket, proto2");
    let two_lines = Handshake::to("/ws").set("Upgrade", "proto1, websocket").add("Upgrade", "proto2");
    for handshake in [one_line, two_lines] {
        Way::Clear.tunnel(&stage, &handshake).await.echo("x").await;
        Way::Clear.refused(&stage, &handshake.origin("https://evil.test"), 403, "origin-not-allowed").await;
    }
    let requests = stage.b1.requests();
    assert_eq!(requests.len(), 2);
    requests.iter().for_each(|head| assert_upgrade(head, "/ws"));
    assert!(!stage.b1.saw("proto"));
}

#[tokio::test]
async fn wsh_06_a_key_that_is_not_sixteen_bytes_is_refused() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        for key in ["Zm9v", "not base64 at all!!!!!!!", "", "AAAAAAAAAAAAAAAAAAAAAAA=", "dGhlIHNhbXBsZSBub25jZQ"] {
            let handshake = Handshake::to("/ws").set("Sec-WebSocket-Key", key);
            way.refused(&stage, &handshake, 400, "bad-websocket-key").await;
        }
        way.refused(&stage, &Handshake::to("/ws").without("Sec-WebSocket-Key"), 400, "bad-websocket-key").await;
        let twice = Handshake::to("/ws").add("Sec-WebSocket-Key", K0);
        way.refused(&stage, &twice, 400, "duplicate-websocket-header").await;
        stage.b1.assert_untouched();
    }
}

#[tokio::test]
async fn wsh_08_other_versions_are_answered_426_and_nothing_behind_them_is_smuggled() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        for version in ["8", "777", "13, 8", "013", "", "13.0"] {
            let mut client = way.client(&stage).await;
            client.send(Handshake::to("/ws").set("Sec-WebSocket-Version", version).to_h1()).await;
            let answer = client.answer().await;
            answer.assert_refused(426, "bad-websocket-version");
            assert_eq!(answer.get("sec-websocket-version"), Some("13"), "{answer:?}");
            assert_eq!(answer.get("upgrade"), Some("websocket"), "{answer:?}");
            assert!(answer.lists("connection", "upgrade"), "{answer:?}");
            assert_not_a_pipe(client).await;
        }
        let mut client = way.client(&stage).await;
        client.send(Handshake::to("/ws").add("Sec-WebSocket-Version", "13").to_h1()).await;
        client.answer().await.assert_refused(400, "duplicate-websocket-header");
        assert_not_a_pipe(client).await;
        stage.b1.assert_untouched();
    }
}

#[tokio::test]
async fn wsh_08_other_versions_over_h2_are_answered_426_without_upgrade() {
    let stage = Stage::standard().await;
    let handshake = Handshake::to("/ws").set("Sec-WebSocket-Version", "8");
    let answer = Way::H2.refused(&stage, &handshake, 426, "bad-websocket-version").await;
    assert_eq!(answer.get("sec-websocket-version"), Some("13"));
    assert!(!answer.has("upgrade"), "{answer:?}");
    stage.b1.assert_untouched();
}

#[tokio::test]
async fn wsh_11_what_looks_half_like_a_handshake_is_a_plain_request_without_upgrade() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        let no_connection = Handshake::to("/ws").without("Connection");
        let other_option = Handshake::to("/ws").set("Connection", "keep-alive");
        let no_upgrade = Handshake::to("/ws").without("Upgrade");
        let other_upgrade = Handshake::to("/ws").set("Upgrade", "websockets");
        for handshake in [no_connection, other_option, no_upgrade, other_upgrade] {
            let (answer, tunnel) = way.open(&stage, &handshake).await;
            assert!(tunnel.is_none() && answer.status == 200, "{handshake:?}: {answer:?}");
        }
        let requests = stage.b1.requests();
        assert_eq!(requests.len(), 4);
        for head in requests {
            assert!(!head.has("upgrade") && !head.lists("connection", "upgrade"), "{head:?}");
        }
    }
}

#[tokio::test]
async fn wsh_11_a_handshake_by_another_method_is_a_plain_request() {
    let stage = Stage::standard().await;
    let mut client = stage.clear().await;
    let handshake = String::from_utf8(Handshake::to("/ws").to_h1()).expect("text");
    client.send(handshake.replacen("GET", "PUT", 1).replace("Origin", "Content-Length: 0\r\nOrigin")).await;
    assert_eq!(client.answer().await.status, 200);
    assert!(!stage.b1.request().has("upgrade"));
}

fn h2c() -> Request {
    Request::get("/n")
        .field("Upgrade", "h2c")
        .field("Connection", "Upgrade, HTTP2-Settings")
        .field("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")
}

#[tokio::test]
async fn wsh_14_h2c_never_reaches_an_upstream() {
    for way in Way::H1 {
        // Would switch to h2c, if it were asked to.
        let backend = Backend::scripted(async |mut peer: Peer| {
            let head = peer.head().await?;
            if head.has("upgrade") {
                return peer
                    .write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")
                    .await;
            }
            peer.nonce(&head).await?;
            peer.serve().await
        });
        let stage = Setup::new().b1(backend).start();
        let request = h2c();
        let answer = way.ask(&stage, &request).await;
        assert_eq!((answer.status, answer.text()), (200, request.nonce));
        assert!(!stage.b1.saw("h2c") && !stage.b1.request().has("http2-settings"));
    }
}

#[tokio::test]
async fn wsh_14_a_101_that_nobody_asked_for_is_502() {
    for way in Way::ALL {
        let backend = Backend::scripted(async |mut peer: Peer| {
            peer.head().await?;
            peer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n").await?;
            peer.until_over().await
        });
        let stage = Setup::new().b1(backend).start();
        let request = if way == Way::H2 { Request::get("/n") } else { h2c() };
        way.ask(&stage, &request).await.assert_refused(502, "unexpected-upgrade");
    }
}

#[tokio::test]
async fn wsh_17_a_handshake_with_a_body_is_refused_and_the_body_is_no_request() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        let length = Handshake::to("/ws").add("Content-Length", &SMUG.len().to_string());
        let chunked = Handshake::to("/ws").add("Transfer-Encoding", "chunked");
        let chunks = format!("{:x}\r\n{SMUG}\r\n0\r\n\r\n", SMUG.len());
        for (handshake, body) in [(length, SMUG), (chunked, &*chunks)] {
            let mut client = way.client(&stage).await;
            client.send([handshake.to_h1(), body.as_bytes().to_vec()].concat()).await;
            client.answer().await.assert_refused(400, "handshake-with-body");
            let request = Request::get("/n");
            if client.try_send(request.to_h1()).await.is_ok()
                && let Ok(answer) = client.try_answer("GET").await
            {
                assert_eq!((answer.status, answer.text()), (200, request.nonce));
            }
        }
        assert!(!stage.b1.saw("SMUGGLED") && stage.b1.requests().iter().all(|head| !head.has("upgrade")));
    }
}

#[tokio::test]
async fn wsh_17_a_length_of_zero_is_no_body() {
    let stage = Stage::standard().await;
    Way::Clear.tunnel(&stage, &Handshake::to("/ws").add("Content-Length", "0")).await.echo("x").await;
    assert_upgrade(&stage.b1.request(), "/ws");
}

#[tokio::test]
async fn wsh_19_an_expectation_on_a_handshake_is_ignored() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        let mut client = way.client(&stage).await;
        let start = std::time::Instant::now();
        client.open(&Handshake::to("/ws").add("Expect", "100-continue")).await;
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        client.echo("x").await;
        assert!(!stage.b1.request().has("expect"));
    }
}

#[tokio::test]
async fn wsh_20_absolute_form_is_accepted_and_its_authority_wins() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        for host in ["a.test", "b.test"] {
            let mut client = way.client(&stage).await;
            client.open(&Handshake::to("http://a.test/ws?x=1").host(host)).await;
            client.echo("x").await;
        }
        let requests = stage.b1.requests();
        assert_eq!(requests.len(), 2);
        requests.iter().for_each(|head| assert_upgrade(head, "/ws?x=1"));
        stage.b2.assert_untouched();
    }
}

#[tokio::test]
async fn wsh_21_a_route_without_a_websocket_table_never_upgrades() {
    for way in Way::ALL {
        // Would open a tunnel for anyone.
        let backend = Backend::scripted(async |mut peer: Peer| {
            let head = peer.head().await?;
            peer.agree(&head, "").await?;
            peer.echo().await
        });
        let stage = Setup::new().b1(backend).start();
        way.refused(&stage, &Handshake::to("/n"), 403, "upgrade-not-allowed").await;
        assert!(!stage.b1.saw("pgrade"));
    }
}

#[tokio::test]
async fn wsh_22_what_is_end_to_end_reaches_the_upstream_unchanged() {
    for way in Way::ALL {
        let stage = Stage::standard().await;
        let handshake = Handshake::to("/ws?a=1&b=%20")
            .add("Cookie", "sid=1; theme=\"dark\"")
            .add("Authorization", "Bearer a.b-c_d==")
            .add("X-Token", "t o k e n");
        way.tunnel(&stage, &handshake).await.echo("x").await;
        let request = stage.b1.request();
        assert_upgrade(&request, "/ws?a=1&b=%20");
        assert_eq!(request.get("cookie"), Some("sid=1; theme=\"dark\""));
        assert_eq!(request.get("authorization"), Some("Bearer a.b-c_d=="));
        assert_eq!(request.get("x-token"), Some("t o k e n"));
    }
}

#[tokio::test]
async fn wsh_25_close_beside_upgrade_upgrades() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        way.tunnel(&stage, &Handshake::to("/ws").set("Connection", "close, Upgrade")).await.echo("x").await;
        assert_upgrade(&stage.b1.request(), "/ws");
    }
}

#[tokio::test]
async fn wsh_27_an_accept_in_the_request_is_dropped() {
    for way in Way::ALL {
        let stage = Stage::standard().await;
        let (answer, tunnel) = way.open(&stage, &Handshake::to("/ws").add("Sec-WebSocket-Accept", "x")).await;
        tunnel.unwrap_or_else(|| panic!("{answer:?}")).echo("x").await;
        assert_eq!(answer.get("sec-websocket-accept"), (way != Way::H2).then_some(A0));
        assert!(!stage.b1.request().has("sec-websocket-accept"));
    }
}
