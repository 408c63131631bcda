//! W1X: what the upstream's answer to a handshake must be for a tunnel, and what becomes of any other.

use std::time::{Duration, Instant};

use crate::harness::{
    Backend, End, Fields, Frame, Handshake, Head, Peer, Request, SMUG, Setup, Stage, Way, holds_within, within,
};

/// Answers every head with what `answer` makes of it, then waits for the gateway to hang up.
fn answering(answer: impl Fn(&Head) -> String + Send + Sync + 'static) -> Backend {
    let answer = std::sync::Arc::new(answer);
    Backend::scripted(move |mut peer: Peer| {
        let answer = answer.clone();
        async move {
            let head = peer.head().await?;
            peer.write(answer(&head).as_bytes()).await?;
            peer.until_over().await
        }
    })
}

/// Fails unless this answer to a handshake is 502 by every way in, and the connection is closed.
async fn assert_bad_upgrade(answer: impl Fn(&Head) -> String + Send + Sync + Clone + 'static) {
    for way in Way::ALL {
        let stage = Setup::new().b1(answering(answer.clone())).start();
        way.refused(&stage, &Handshake::to("/ws"), 502, "bad-upgrade").await;
        let record = stage.b1.records().remove(0);
        assert!(holds_within(Duration::from_secs(2), || record.is_over()).await, "{way:?}: not closed");
    }
}

#[tokio::test]
async fn w1x_01_a_101_without_upgrade_is_502_and_its_connection_is_closed() {
    assert_bad_upgrade(|head| Peer::agreement(head, "").replace("Upgrade: websocket\r\n", "")).await;
}

#[tokio::test]
async fn w1x_01_a_101_without_connection_upgrade_or_to_something_else_is_502() {
    assert_bad_upgrade(|head| Peer::agreement(head, "").replace("Connection: Upgrade\r\n", "")).await;
    assert_bad_upgrade(|head| Peer::agreement(head, "").replace("Upgrade: websocket", "Upgrade: h2c")).await;
    assert_bad_upgrade(|head| Peer::agreement(head, "").replace("Upgrade: websocket", "Upgrade: websocket, h2c")).await;
}

#[tokio::test]
async fn w1x_05_a_wrong_accept_is_502_by_every_way_in() {
    let with = |accept: fn(&str) -> String| {
        move |head: &Head| {
            let right = crate::harness::accept_for(head.get("sec-websocket-key").unwrap_or_default());
            let line = format!("Sec-WebSocket-Accept: {right}\r\n");
            Peer::agreement(head, "").replace(&line, &accept(&right))
        }
    };
    assert_bad_upgrade(with(|_| "Sec-WebSocket-Accept: invalid_key\r\n".to_owned())).await;
    assert_bad_upgrade(with(|right| format!("Sec-WebSocket-Accept: {}\r\n", right.to_lowercase()))).await;
    assert_bad_upgrade(with(|right| format!("Sec-WebSocket-Accept: {right}\r\n").repeat(2))).await;
    assert_bad_upgrade(with(|_| String::new())).await;
}

#[tokio::test]
async fn w1x_06_a_200_that_claims_an_upgrade_opens_nothing() {
    for way in Way::H1 {
        let backend = Backend::scripted(async |mut peer: Peer| {
            peer.head().await?;
            peer.write(b"HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok")
                .await?;
            peer.serve().await
        });
        let stage = Setup::new().b1(backend).start();
        let mut client = way.client(&stage).await;
        client.send(Handshake::to("/ws").to_h1()).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (200, "ok".to_owned()));
        assert!(!answer.has("upgrade") && !answer.lists("connection", "upgrade"), "{answer:?}");
        if client.try_send(SMUG).await.is_ok()
            && let Ok(answer) = client.try_answer("GET").await
        {
            answer.assert_refused(404, "no-route");
        }
        assert!(!stage.b1.saw("SMUGGLED"));
    }
}

#[tokio::test]
async fn w1x_08_another_answer_than_101_passes_as_it_is() {
    for (status, line) in [
        (401, "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\""),
        (403, "403 Forbidden\r\nX-Why: because"),
        (404, "404 Not Found\r\nX-Why: gone"),
        (503, "503 Service Unavailable\r\nRetry-After: 7"),
    ] {
        for way in Way::ALL {
            let backend = answering(move |_| format!("HTTP/1.1 {line}\r\nContent-Length: 4\r\n\r\nbody"));
            let stage = Setup::new().b1(backend).start();
            let (answer, _) = way.open(&stage, &Handshake::to("/ws")).await;
            assert_eq!((answer.status, answer.text(), answer.reason()), (status, "body".to_owned(), ""));
            let (name, value) = line.split_once("\r\n").and_then(|(_, field)| field.split_once(": ")).expect("a field");
            assert_eq!(answer.get(name), Some(value));
            assert_eq!(stage.b1.requests().len(), 1);
        }
    }
}

#[tokio::test]
async fn w1x_12_framing_fields_on_a_101_are_removed_and_no_byte_is_a_body() {
    for extra in ["Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"] {
        for way in Way::ALL {
            let backend = Backend::scripted(move |mut peer: Peer| async move {
                let head = peer.head().await?;
                let mut bytes = Peer::agreement(&head, extra).into_bytes();
                bytes.extend(Frame::text("longer than ten bytes").bytes());
                peer.write(&bytes).await?;
                peer.echo().await
            });
            let stage = Setup::new().b1(backend).start();
            let (answer, tunnel) = way.open(&stage, &Handshake::to("/ws")).await;
            let mut tunnel = tunnel.unwrap_or_else(|| panic!("{answer:?}"));
            assert!(!answer.has("content-length") && !answer.has("transfer-encoding"), "{answer:?}");
            assert_eq!(tunnel.frame().await, Frame::text("longer than ten bytes"));
            tunnel.echo("and on").await;
        }
    }
}

#[tokio::test]
async fn w1x_16_a_silent_upstream_is_504_at_the_response_timeout() {
    for way in Way::ALL {
        let backend = Backend::scripted(async |mut peer: Peer| {
            peer.head().await?;
            peer.until_over().await
        });
        let stage = Setup::new().b1(backend).route_timeouts("response = \"500ms\"").start();
        let start = Instant::now();
        way.refused(&stage, &Handshake::to("/ws"), 504, "upstream-timeout").await;
        assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
        let record = stage.b1.records().remove(0);
        assert!(holds_within(Duration::from_secs(1), || record.is_over()).await);
        assert_eq!(stage.b1.requests().len(), 1, "a handshake is not tried again");
    }
}

#[tokio::test]
async fn w1x_18_early_frames_wait_for_the_101_and_then_arrive() {
    for way in Way::H1 {
        let backend = Backend::scripted(async |mut peer: Peer| {
            let head = peer.head().await?;
            assert!(peer.silent_for(300).await, "bytes before the 101");
            peer.agree(&head, "").await?;
            peer.echo().await
        });
        let stage = Setup::new().b1(backend).start();
        let mut client = way.client(&stage).await;
        let early = Frame::text("early").masked().bytes();
        client.send([Handshake::to("/ws").to_h1(), early.clone()].concat()).await;
        assert_eq!(client.head().await.status(), 101);
        assert_eq!(client.frame().await, Frame::text("early"));
        client.echo("late").await;
        assert_eq!(stage.b1.bytes().windows(early.len()).filter(|bytes| *bytes == early).count(), 1);
    }
}

#[tokio::test]
async fn w1x_18_early_bytes_behind_a_refused_handshake_reach_nobody() {
    let stage =
        Setup::new().b1(answering(|_| "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_owned())).start();
    let mut client = stage.clear().await;
    client.send([Handshake::to("/ws").to_h1(), SMUG.as_bytes().to_vec()].concat()).await;
    assert_eq!(client.answer().await.status, 403);
    if let Ok(answer) = client.try_answer("GET").await {
        answer.assert_refused(404, "no-route");
    }
    assert!(!stage.b1.saw("SMUGGLED"));
}

#[tokio::test]
async fn w1x_19_a_hundred_times_five_tunnels_open_however_fast_the_101_is() {
    let stage = Stage::standard().await;
    let tunnels = (0..500).map(|_| async {
        let mut client = stage.clear().await;
        client.open(&Handshake::to("/ws")).await;
        client.echo("x").await;
    });
    // Ten at a time: enough to collide, few enough for a small machine.
    use futures_util::StreamExt;
    within("500 tunnels", futures_util::stream::iter(tunnels).buffer_unordered(10).for_each(async |()| {})).await;
    assert_eq!(stage.b1.requests().len(), 500);
}

#[tokio::test]
async fn w1x_21_what_is_hop_by_hop_on_a_101_stays_behind() {
    let extra =
        "Keep-Alive: timeout=5\r\nConnection: X-Secret\r\nX-Secret: 1\r\nProxy-Connection: x\r\nX-End: to-end\r\n";
    for way in Way::ALL {
        let stage = Setup::new().b1(answering(move |head| Peer::agreement(head, extra))).start();
        let (answer, _tunnel) = way.open(&stage, &Handshake::to("/ws")).await;
        for name in ["keep-alive", "x-secret", "proxy-connection"] {
            assert!(!answer.has(name), "{answer:?}");
        }
        assert_eq!(answer.get("x-end"), Some("to-end"));
        let connection = answer.get("connection").map(str::to_ascii_lowercase);
        assert_eq!(connection.as_deref(), (way != Way::H2).then_some("upgrade"));
    }
}

#[tokio::test]
async fn w1x_23_a_refusal_leaves_the_connection_usable_or_says_close() {
    for way in Way::H1 {
        let backend = Backend::scripted(async |mut peer: Peer| {
            loop {
                let head = peer.head().await?;
                if head.is_websocket() {
                    peer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await?;
                } else {
                    peer.nonce(&head).await?;
                }
            }
        });
        let stage = Setup::new().b1(backend).start();
        for handshake in [Handshake::to("/ws"), Handshake::to("/ws").origin("https://evil.test")] {
            let mut client = way.client(&stage).await;
            client.send(handshake.to_h1()).await;
            let refusal = client.answer().await;
            assert_eq!(refusal.status, 403);
            let request = Request::get("/n");
            if refusal.lists("connection", "close") {
                assert_eq!(client.expect_end().await, End::Fin);
            } else {
                assert_eq!(client.ask(&request).await.text(), request.nonce);
            }
        }
    }
}
