//! SMG: one message is one message, whatever its framing claims (RFC 9112 §6, §7, §9.3).

use crate::harness::{
    Backend, Client, End, Fields, Handshake, Peer, Request, SMUG, Setup, Stage, Way, eventually, pause,
};

/// A POST to /n with these header lines and this body, byte for byte.
fn post(lines: &str, body: &str) -> String {
    format!("POST /n HTTP/1.1\r\nHost: a.test\r\nX-Nonce: mine\r\n{lines}\r\n{body}")
}

/// Fails unless the bytes are answered by one 400 (or 501) and the end, and reach no backend.
async fn assert_rejected(bytes: impl AsRef<[u8]>) {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        let mut client = way.client(&stage).await;
        client.send(bytes.as_ref()).await;
        let statuses = client.statuses_until_end().await;
        let shown = String::from_utf8_lossy(bytes.as_ref()).into_owned();
        assert!(matches!(statuses[..], [400 | 501]), "{way:?} {shown:?}: {statuses:?}");
        stage.b1.assert_untouched();
    }
}

#[tokio::test]
async fn smg_01_chunked_beats_a_length_and_the_connection_ends_there() {
    for way in Way::H1 {
        for lines in [
            "Content-Length: 13\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 13\r\n",
        ] {
            let stage = Stage::standard().await;
            let mut client = way.client(&stage).await;
            client.send(post(lines, "0\r\n\r\nSMUGGLED")).await;
            let statuses = client.statuses_until_end().await;
            assert!(matches!(statuses[..], [200 | 400]), "{statuses:?}");
            assert!(!stage.b1.saw("SMUGGLED"));
            for head in stage.b1.requests() {
                assert!(!head.has("content-length") || !head.has("transfer-encoding"), "{head:?}");
                assert_ne!(head.get("content-length"), Some("13"));
            }
        }
    }
}

#[tokio::test]
async fn smg_05_other_transfer_codings_are_rejected() {
    for coding in [
        "chunked, gzip",
        "gzip",
        "identity",
        "xchunked",
        "chunked, chunked",
        "gzip, chunked",
        "chunked\r\nTransfer-Encoding: chunked",
    ] {
        assert_rejected(post(&format!("Transfer-Encoding: {coding}\r\n"), &format!("0\r\n\r\n{SMUG}"))).await;
    }
}

#[tokio::test]
async fn smg_05_http_1_0_has_no_transfer_encoding() {
    let bytes = format!("POST /n HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUG}");
    assert_rejected(bytes).await;
}

#[tokio::test]
async fn smg_07_disguised_codings_are_rejected_and_never_copied() {
    for coding in [",chunked", "chunked,", "chunked;a=b", "\"chunked\"", "\x0bchunked", "chun\tked"] {
        for way in Way::H1 {
            let stage = Stage::standard().await;
            let mut client = way.client(&stage).await;
            client.send(post(&format!("Transfer-Encoding: {coding}\r\n"), &format!("0\r\n\r\n{SMUG}"))).await;
            let statuses = client.statuses_until_end().await;
            assert!(matches!(statuses[..], [400 | 501]), "{coding:?}: {statuses:?}");
            assert!(!stage.b1.saw(coding) && !stage.b1.saw("SMUGGLED"));
        }
    }
    assert_rejected(format!("POST /n HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n{SMUG}"))
        .await;
    assert_rejected(format!(
        "POST /n HTTP/1.1\r\nHost: a.test\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUG}"
    ))
    .await;
}

#[tokio::test]
async fn smg_15_two_lengths_are_none() {
    for lines in ["Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: 5, 6\r\n", "Content-Length: 5, 5\r\n"]
    {
        assert_rejected(post(lines, &format!("hello{SMUG}"))).await;
    }
    for length in ["+5", "-1", "0x5", "5 5", "5a", "", "99999999999999999999999"] {
        assert_rejected(post(&format!("Content-Length: {length}\r\n"), "hello")).await;
    }
}

#[tokio::test]
async fn smg_16_the_same_length_twice_goes_up_once() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        let mut client = way.client(&stage).await;
        client.send(post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello")).await;
        assert_eq!(client.answer().await.text(), "mine");
        assert_eq!(stage.b1.request().all("content-length"), ["5"]);
    }
}

#[tokio::test]
async fn smg_18_a_length_with_a_leading_zero_is_decimal_or_refused() {
    let stage = Stage::standard().await;
    let mut client = stage.clear().await;
    client.send(post("Content-Length: 010\r\n", &format!("0123456789{SMUG}"))).await;
    let first = client.answer().await;
    if first.status == 200 {
        assert_eq!(stage.b1.requests()[0].get("content-length"), Some("10"));
        assert!(stage.b1.saw("0123456789"));
        client.answer().await.assert_refused(404, "no-route");
    } else {
        assert_eq!(first.status, 400);
    }
    assert!(!stage.b1.saw("SMUGGLED"));
}

#[tokio::test]
async fn smg_21_control_characters_in_fields_are_rejected() {
    for byte in ["\0", "\x01", "\x7f", "\r"] {
        assert_rejected(format!("GET /n HTTP/1.1\r\nHost: a.test\r\nX: a{byte}b\r\n\r\n")).await;
        assert_rejected(format!("GET /n HTTP/1.1\r\nHost: a.test\r\nX{byte}Y: ab\r\n\r\n")).await;
    }
    assert_rejected("GET /n HTTP/1.1\r\nHost: a.test\r\n: nameless\r\n\r\n").await;
}

#[tokio::test]
async fn smg_24_a_chunk_size_that_is_no_hexadecimal_number_never_completes() {
    for size in ["0x5", "+5", "-1", "5_", " 5", "", "FFFFFFFFFFFFFFFFF", "5g"] {
        for way in Way::H1 {
            let stage = Stage::standard().await;
            let mut client = way.client(&stage).await;
            client.send(post("Transfer-Encoding: chunked\r\n", &format!("{size}\r\nhello\r\n0\r\n\r\n{SMUG}"))).await;
            let statuses = client.statuses_until_end().await;
            assert!(matches!(statuses[..], [] | [400..=599]), "{size:?}: {statuses:?}");
            assert!(!stage.b1.saw("0\r\n\r\n") && !stage.b1.saw("SMUGGLED"), "{size:?} was completed");
        }
    }
}

#[tokio::test]
async fn smg_24_chunk_extensions_are_not_forwarded_and_lone_line_feeds_end_nothing() {
    let stage = Stage::standard().await;
    let mut client = stage.clear().await;
    client.send(post("Transfer-Encoding: chunked\r\n", "5;name=value\r\nhello\r\n0\r\n\r\n")).await;
    assert_eq!(client.answer().await.text(), "mine");
    assert!(!stage.b1.saw("name=value"));
    let mut client = stage.clear().await;
    client.send(post("Transfer-Encoding: chunked\r\n", "5\nhello\n0\n\n")).await;
    client.finish().await;
    assert!(!client.statuses_until_end().await.contains(&200));
}

#[tokio::test]
async fn smg_31_trailers_never_become_headers() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        let trailers = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: b.test\r\nAuthorization: x\r\n\
                        X-Forwarded-For: 1.2.3.4\r\n";
        let mut client = way.client(&stage).await;
        client
            .send(post(
                "Transfer-Encoding: chunked\r\nTrailer: Host\r\n",
                &format!("5\r\nhello\r\n0\r\n{trailers}\r\n"),
            ))
            .await;
        let answer = client.answer().await;
        assert!([200, 400].contains(&answer.status), "{answer:?}");
        assert!(!stage.b1.saw("b.test") && !stage.b1.saw("1.2.3.4") && !stage.b1.saw("uthorization"));
        for head in stage.b1.requests() {
            assert_eq!(head.get("host"), Some("a.test"));
            assert!(!head.has("content-length"));
        }
        stage.b2.assert_untouched();
    }
}

#[tokio::test]
async fn smg_32_the_body_of_a_refused_request_is_never_a_request() {
    let more = "[[route]]\nname = \"only\"\nhosts = [\"a.test\"]\npath = \"/only\"\nupstream = \"ws://{B1}\"\n\
                websocket = { origins = [\"https://app.example\"] }\n";
    for way in Way::H1 {
        let stage = Setup::new().plain_route("[route.limits]\nbody_size = \"10B\"\n").more(more).start();
        for (path, status) in [("/denied", 403), ("/nowhere", 404), ("/n", 413), ("/only", 426)] {
            let mut client = way.client(&stage).await;
            let answer = client.ask(&Request::new("POST", path).body(SMUG)).await;
            assert_eq!(answer.status, status, "{answer:?}");
            next_is_own(&mut client).await;
        }
        let mut client = way.client(&stage).await;
        let foreign = Handshake::to("/ws").origin("https://evil.test").add("Content-Length", &SMUG.len().to_string());
        client.send([foreign.to_h1(), SMUG.as_bytes().to_vec()].concat()).await;
        assert!([400, 403].contains(&client.answer().await.status));
        next_is_own(&mut client).await;
        assert!(!stage.b1.saw("SMUGGLED"));
    }
}

/// The next answer on a connection, if there is one, belongs to the next request.
async fn next_is_own(client: &mut Client) {
    let next = Request::get("/n");
    if client.try_send(next.to_h1()).await.is_ok()
        && let Ok(answer) = client.try_answer("GET").await
    {
        assert_eq!((answer.status, answer.text()), (200, next.nonce));
    }
}

#[tokio::test]
async fn smg_37_pipelined_requests_are_answered_in_order() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        let (first, denied, last) = (Request::get("/n"), Request::get("/denied"), Request::get("/n"));
        let mut client = way.client(&stage).await;
        client.send([first.to_h1(), denied.to_h1(), last.to_h1()].concat()).await;
        let (one, two, three) = (client.answer().await, client.answer().await, client.answer().await);
        assert_eq!((one.status, one.text()), (200, first.nonce));
        assert_eq!((two.status, two.text()), (403, "denied\n".to_owned()));
        assert_eq!((three.status, three.text()), (200, last.nonce));
        assert_eq!(stage.b1.requests().len(), 2);
    }
}

#[tokio::test]
async fn smg_39_an_upload_that_was_answered_early_is_never_read_as_a_request() {
    for way in Way::ALL {
        let backend = Backend::scripted(async |mut peer: Peer| {
            loop {
                let head = peer.head().await?;
                peer.nonce(&head).await?;
                pause(200).await;
                peer.request_body(&head).await?;
            }
        });
        let stage = Setup::new().b1(backend).start();
        let upload = Request::new("POST", "/n").body(SMUG.repeat(100_000 / SMUG.len()));
        let (first, second) = (Request::get("/n"), Request::get("/n"));
        if way == Way::H2 {
            let mut h2 = stage.h2().await;
            // The stream may be reset after the answer; what matters is what the backend reads.
            let _ = h2.try_ask(&upload).await;
        } else {
            let mut client = way.client(&stage).await;
            client.send(&upload.to_h1()[..1000]).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.text()), (200, upload.nonce.clone()));
            let _ = client.try_send(&upload.to_h1()[1000..]).await;
        }
        for request in [first, second] {
            assert_eq!(Way::Clear.ask(&stage, &request).await.text(), request.nonce);
        }
        assert!(stage.b1.requests().iter().all(|head| !head.start.contains("SMUGGLED")));
    }
}

#[tokio::test]
async fn smg_42_other_versions_are_rejected() {
    let stage = Stage::standard().await;
    for version in ["HTTP/2.0", "HTTP/1.11", "http/1.1", "HTTP/1.1 x", "HTTP/1", "HTTP/1.1\t", "HTTQ/1.1"] {
        let mut client = stage.clear().await;
        client.send(format!("GET /n {version}\r\nHost: a.test\r\n\r\n")).await;
        let statuses = client.statuses_until_end().await;
        assert!(matches!(statuses[..], [400 | 505]), "{version}: {statuses:?}");
    }
    let mut client = stage.clear().await;
    client.send("GET /n\r\n").await;
    client.finish().await;
    let (_, end) = client.rest().await;
    assert_ne!(end, End::Open);
    stage.b1.assert_untouched();
    let mut client = stage.clear().await;
    client.send("GET /n HTTP/1.2\r\nHost: a.test\r\nX-Nonce: mine\r\nConnection: close\r\n\r\n").await;
    assert!(matches!(client.statuses_until_end().await[..], [200 | 400 | 505]));
}

#[tokio::test]
async fn smg_42_http_1_0_is_served_and_closed() {
    let stage = Stage::standard().await;
    let mut client = stage.clear().await;
    client.send("GET /n HTTP/1.0\r\nHost: a.test\r\nX-Nonce: old\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "old".to_owned()));
    assert_eq!(client.expect_end().await, End::Fin);
    eventually("HTTP/1.1 upstream", || stage.b1.request().start == "GET /n HTTP/1.1").await;
}
