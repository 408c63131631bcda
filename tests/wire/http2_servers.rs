//! H2U-01 to -13: HTTP/2 towards servers (RFC 9113).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use tokio::sync::Notify;

use crate::harness::{
    Backend, Exchange, Fields, H2Server, Peer, RawH2, Request, Setup, Stage, Way, eventually, holds_within, pause,
    send_all, whole, within,
};

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A gateway before a clear server that is known to speak HTTP/2.
fn clear(backend: Backend) -> Setup {
    Setup::new().b1(backend).upstream("protocols = [\"h2c\"]")
}

/// A gateway before a server with TLS; what may be spoken is said in TOML.
fn over_tls(backend: Backend, protocols: &str) -> Setup {
    Setup::new()
        .b1(backend)
        .upstream_url("https://127.0.0.1:{P1}")
        .upstream(&format!("ca = \"ca.pem\"\nprotocols = {protocols}"))
}

async fn assert_served(stage: &Stage) {
    for way in Way::ALL {
        let request = Request::get("/n");
        let answer = way.ask(stage, &request).await;
        assert_eq!((answer.status, answer.text()), (200, request.nonce), "{way:?}");
    }
}

#[tokio::test]
async fn h2u_01_the_server_chooses_what_is_spoken_and_gets_only_what_is_offered() {
    for (alpn, protocols, over_h2) in [
        (&["h2", "http/1.1"][..], r#"["h2", "http/1.1"]"#, true),
        (&["http/1.1"], r#"["h2", "http/1.1"]"#, false),
        (&[], r#"["h2", "http/1.1"]"#, false),
        (&["h2", "http/1.1"], r#"["http/1.1"]"#, false),
        (&["h2"], r#"["h2"]"#, true),
    ] {
        let server = H2Server::new().tls(alpn);
        let stage = over_tls(server.standard(), protocols).start();
        for _ in 0..2 {
            assert_served(&stage).await;
        }
        assert_eq!(server.heads().len(), if over_h2 { 6 } else { 0 }, "{alpn:?} {protocols}");
        assert_eq!(stage.b1.requests().len(), if over_h2 { 0 } else { 6 }, "{alpn:?} {protocols}");
        assert_eq!(stage.b1.connections(), 1, "{alpn:?} {protocols}");
    }
}

#[tokio::test]
async fn h2u_01_where_http2_is_required_a_server_without_it_gets_no_request() {
    for alpn in [&["http/1.1"][..], &[]] {
        let server = H2Server::new().tls(alpn);
        let stage = over_tls(server.standard(), r#"["h2"]"#).start();
        let answer = Way::Clear.ask(&stage, &Request::get("/n")).await;
        // Without ALPN it finds out that it has not been asked for HTTP/1.1; with another one TLS itself fails.
        assert!(answer.status == 502 && ["upstream-protocol", "upstream-tls"].contains(&answer.reason()), "{answer:?}");
        assert!(stage.b1.requests().is_empty() && server.heads().is_empty());
    }
}

#[tokio::test]
async fn h2u_02_many_requests_share_one_connection_in_the_clear() {
    let release = Arc::new(Notify::new());
    let (gate, server) = (release.clone(), H2Server::new());
    let backend = server.scripted(move |exchange: Exchange| {
        let gate = gate.clone();
        async move {
            gate.notified().await;
            exchange.nonce().await;
        }
    });
    let stage = clear(backend).start();
    let mut h2 = stage.h2().await;
    let mut answers = Vec::new();
    for _ in 0..40 {
        let request = Request::get("/n");
        answers.push((request.nonce.clone(), h2.begin(request.to_h2(), true).await.0));
    }
    eventually("all requests at the server", || server.heads().len() == 40).await;
    release.notify_waiters();
    for (nonce, answer) in answers {
        let answer = whole(within("an answer", answer).await.expect("an answer")).await.expect("a whole answer");
        assert_eq!((answer.status, answer.text()), (200, nonce));
    }
    assert_eq!(stage.b1.connections(), 1);
}

#[tokio::test]
async fn h2u_02_a_server_that_speaks_only_http_1_gets_no_request_by_prior_knowledge() {
    let backend = Backend::scripted(async |mut peer: Peer| {
        peer.exact(24).await?;
        peer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await?;
        peer.until_over().await
    });
    let stage = clear(backend).start();
    Way::Clear.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-protocol");
    let log = stage.gateway.logged(1).await;
    assert!(log[0]["detail"].as_str().is_some_and(|text| text.contains("does not speak HTTP/2")), "{log:?}");
}

#[tokio::test]
async fn h2u_03_what_belongs_to_http_1_does_not_go_up_and_the_rest_does() {
    let server = H2Server::new();
    let stage = clear(server.standard()).start();
    let mut client = stage.clear().await;
    client
        .send(
            "POST /n/a%2Fb?x=%20 HTTP/1.1\r\nHost: a.test:8080\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: trailers, gzip\r\n\
             Keep-Alive: 5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nCookie: a=1; b=2\r\nTransfer-Encoding: chunked\r\n\
             X-Nonce: mine\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.text(), "mine");
    let head = server.head();
    assert_eq!((head.method.as_str(), head.uri.to_string()), ("POST", "http://a.test:8080/n/a%2Fb?x=%20".to_owned()));
    for name in
        ["host", "connection", "x-hop", "keep-alive", "proxy-connection", "upgrade", "transfer-encoding", "expect"]
    {
        assert!(!head.headers.contains_key(name), "{name}: {head:?}");
    }
    assert!(head.headers["cookie"] == "a=1; b=2" && head.headers["te"] == "trailers", "{head:?}");
    assert_eq!(head.headers["x-forwarded-host"], "a.test:8080");
    assert!(head.headers["via"].to_str().is_ok_and(|via| via.starts_with("1.1 portcullis")), "{head:?}");
    // Trailers are welcome where the client says so, and nothing else of TE goes on.
    let request = Request::get("/n").field("TE", "trailers").field("Cookie", "a=1").field("Cookie", "b=2");
    stage.h2().await.ask(&request).await;
    let head = server.heads().pop().expect("a request");
    assert!(head.headers["te"] == "trailers" && head.headers["cookie"] == "a=1; b=2", "{head:?}");
    assert_eq!(head.uri.scheme_str(), Some("http"));
}

#[tokio::test]
async fn h2u_03_the_servers_own_name_is_the_authority_where_that_is_asked_for() {
    let server = H2Server::new();
    let setup = Setup::new().b1(server.standard()).upstream_url("http://localhost:{P1}");
    let stage = setup.upstream("protocols = [\"h2c\"]\nhost = \"upstream\"").start();
    Way::Clear.ask(&stage, &Request::get("/n")).await;
    let authority = server.head().uri.authority().map(ToString::to_string);
    assert_eq!(authority, Some(format!("localhost:{}", stage.b1.address.port())));
}

#[tokio::test]
async fn h2u_04_calls_with_trailers_both_ways_pass_when_both_sides_speak_http2() {
    let server = H2Server::new();
    let backend = server.scripted(|mut exchange: Exchange| async move {
        let mut stream = exchange.begin(200, &[("content-type", "application/grpc")]);
        // Each message is answered while the next one is still to come.
        while let Some(Ok(part)) = exchange.body.data().await {
            let _ = exchange.body.flow_control().release_capacity(part.len());
            let _ = send_all(&mut stream, part, false).await;
        }
        let mut trailers = exchange.body.trailers().await.expect("an end").expect("trailers");
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        stream.send_trailers(trailers).expect("an open stream");
    });
    let stage = clear(backend).start();
    let mut h2 = stage.h2().await;
    let request = Request::new("POST", "/n").field("TE", "trailers").field("content-type", "application/grpc");
    let (answer, mut send) = h2.begin(request.to_h2(), false).await;
    send_all(&mut send, Bytes::from_static(b"one"), false).await.expect("open");
    let mut answer = within("an answer", answer).await.expect("an answer");
    assert!(answer.status() == 200 && answer.headers()["content-type"] == "application/grpc", "{answer:?}");
    let part = within("a part", answer.body_mut().data()).await.expect("a part").expect("a part");
    assert_eq!(part, "one");
    send_all(&mut send, Bytes::from_static(b"two"), false).await.expect("open");
    let part = within("a part", answer.body_mut().data()).await.expect("a part").expect("a part");
    assert_eq!(part, "two");
    send.send_trailers([("x-sum".parse().expect("a name"), "2".parse().expect("a value"))].into_iter().collect())
        .expect("open");
    assert!(within("the end", answer.body_mut().data()).await.is_none());
    let trailers = within("trailers", answer.body_mut().trailers()).await.expect("an end").expect("trailers");
    assert!(trailers["grpc-status"] == "0" && trailers["x-sum"] == "2", "{trailers:?}");
}

#[tokio::test]
async fn h2u_04_large_bodies_arrive_whole_both_ways_from_every_client() {
    let server = H2Server::new();
    let backend = server.scripted(|mut exchange: Exchange| async move {
        let body = exchange.whole_body().await;
        let length = body.len().to_string();
        exchange.answer(200, &[("content-length", &length)], body).await;
    });
    let stage = clear(backend).start();
    let body: Vec<u8> = (0..2_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    for way in Way::ALL {
        let answer = way.ask(&stage, &Request::new("POST", "/n").body(body.clone())).await;
        assert!(answer.status == 200 && answer.body == body, "{way:?}: {} bytes", answer.body.len());
    }
    assert!(server.heads().iter().all(|head| head.headers["content-length"] == "2000000"));
}

#[tokio::test]
async fn h2u_04_a_server_that_does_not_read_stops_the_client_and_only_it() {
    let server = H2Server::new();
    let backend = server.scripted(|exchange: Exchange| async move {
        if exchange.path() == "/n/stall" {
            std::future::pending::<()>().await;
        }
        exchange.nonce().await;
    });
    let stage = clear(backend).start();
    let before = stage.gateway.rss();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let mut h2 = stage.h2().await;
    let (_answer, mut send) = h2.begin(Request::new("POST", "/n/stall").to_h2(), false).await;
    let sending = tokio::spawn(async move {
        loop {
            if send_all(&mut send, Bytes::from(vec![0; 64 * 1024]), false).await.is_err() {
                return;
            }
            counter.fetch_add(64, Ordering::SeqCst);
        }
    });
    let mut last = usize::MAX;
    while sent.load(Ordering::SeqCst) != last {
        last = sent.load(Ordering::SeqCst);
        pause(300).await;
    }
    assert!(last < 1024, "{last} KiB went nowhere");
    assert!(stage.gateway.rss().saturating_sub(before) < 4 * 1024);
    assert_served(&stage).await;
    sending.abort();
}

/// After the first answer GOAWAY with what the test wants; later connections serve. The nonces of processed requests
/// come back as bodies.
fn going_away(last: u32, reason: u32) -> Backend {
    Backend::scripted(move |peer: Peer| async move {
        let number = peer.number;
        let mut raw = RawH2::accept(peer, &[]).await;
        if number > 0 {
            while let Some(stream) = raw.next_headers().await {
                raw.headers(stream, &[(":status", "200"), ("content-length", "0")], true).await;
            }
            return Ok(());
        }
        // Two requests are there when it goes: one it answers, the other it may not have seen.
        let first = raw.next_headers().await.expect("a request");
        raw.next_headers().await.expect("another one");
        let goaway = [&last.to_be_bytes()[..], &reason.to_be_bytes()].concat();
        raw.frame(7, 0, 0, &goaway).await;
        pause(100).await;
        raw.headers(first, &[(":status", "201"), ("content-length", "0")], true).await;
        raw.until_over().await;
        Ok(())
    })
}

#[tokio::test]
async fn h2u_05_what_a_goaway_leaves_out_is_sent_elsewhere_and_what_it_has_seen_is_finished() {
    let stage = clear(going_away(1, 0)).start();
    let mut h2 = stage.h2().await;
    let post = Request::new("POST", "/n").body("body");
    let (first, _send) = h2.begin(Request::get("/n").to_h2(), true).await;
    let (second, mut send) = h2.begin(post.to_h2(), false).await;
    send_all(&mut send, Bytes::from_static(b"body"), true).await.expect("open");
    let status = async |answer: h2::client::ResponseFuture| {
        within("an answer", answer).await.expect("an answer").status().as_u16()
    };
    assert_eq!((status(first).await, status(second).await), (201, 200));
    assert_eq!(stage.b1.connections(), 2);
    assert_eq!(Way::Clear.ask(&stage, &Request::get("/n")).await.status, 200);
    assert_eq!(stage.b1.connections(), 2);
}

#[tokio::test]
async fn h2u_05_a_graceful_goaway_takes_no_new_streams_and_loses_none() {
    let stage = clear(going_away(0x7fff_ffff, 0)).start();
    let mut h2 = stage.h2().await;
    let (first, _send) = h2.begin(Request::get("/n").to_h2(), true).await;
    let (second, _send) = h2.begin(Request::get("/n").to_h2(), true).await;
    let answer = within("an answer", first).await.expect("an answer");
    assert_eq!(answer.status(), 201);
    assert_eq!(Way::Clear.ask(&stage, &Request::get("/n")).await.status, 200);
    assert_eq!(stage.b1.connections(), 2);
    drop(second);
}

/// Resets the first stream of each connection with `reason`, having read its body; the others are answered.
fn resetting_first(reason: Reason, server: &H2Server, bodies: Arc<AtomicUsize>) -> Backend {
    server.scripted(move |mut exchange: Exchange| {
        let bodies = bodies.clone();
        async move {
            if exchange.number == 0 {
                let body = exchange.whole_body().await;
                bodies.fetch_add(body.len(), Ordering::SeqCst);
                exchange.respond.send_reset(reason);
                return;
            }
            let body = exchange.whole_body().await;
            exchange.answer(200, &[], body).await;
        }
    })
}

#[tokio::test]
async fn h2u_06_a_refused_stream_is_tried_again_with_its_whole_body() {
    for way in Way::ALL {
        let (server, bodies) = (H2Server::new(), Arc::new(AtomicUsize::new(0)));
        let stage = clear(resetting_first(Reason::REFUSED_STREAM, &server, bodies.clone())).start();
        let answer = way.ask(&stage, &Request::new("POST", "/n").body(vec![b'x'; 20_000])).await;
        assert_eq!((answer.status, answer.body.len()), (200, 20_000), "{way:?}");
        assert_eq!((bodies.load(Ordering::SeqCst), server.heads().len()), (20_000, 2));
    }
}

#[tokio::test]
async fn h2u_06_any_other_reset_may_have_done_something_and_is_not_tried_again() {
    for reason in [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::NO_ERROR, Reason::ENHANCE_YOUR_CALM] {
        let (server, bodies) = (H2Server::new(), Arc::new(AtomicUsize::new(0)));
        let stage = clear(resetting_first(reason, &server, bodies)).start();
        Way::Clear.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-closed");
        assert_eq!(server.heads().len(), 1, "{reason:?}");
        assert_eq!(Way::H2.ask(&stage, &Request::get("/n")).await.status, 200);
    }
}

#[tokio::test]
async fn h2u_06_without_retries_a_refused_stream_is_an_error() {
    let (server, bodies) = (H2Server::new(), Arc::new(AtomicUsize::new(0)));
    let backend = resetting_first(Reason::REFUSED_STREAM, &server, bodies);
    let stage = Setup::new().b1(backend).upstream("protocols = [\"h2c\"]\nretries = 0").start();
    Way::Clear.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-closed");
    assert_eq!(server.heads().len(), 1);
}

#[tokio::test]
async fn h2u_07_an_answer_that_is_reset_never_ends_cleanly() {
    for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
        let server = H2Server::new();
        let backend = server.scripted(move |mut exchange: Exchange| async move {
            if exchange.path() != "/n/cut" {
                return exchange.nonce().await;
            }
            let mut stream = exchange.begin(200, &[]);
            send_all(&mut stream, Bytes::from_static(b"hello"), false).await.expect("open");
            pause(100).await;
            stream.send_reset(reason);
        });
        let stage = clear(backend).start();
        for way in Way::H1 {
            let mut client = way.client(&stage).await;
            client.send(Request::get("/n/cut").to_h1()).await;
            assert!(client.try_answer("GET").await.is_err(), "{way:?} {reason:?}");
        }
        assert!(stage.h2().await.try_ask(&Request::get("/n/cut")).await.is_err(), "{reason:?}");
        let log = stage.gateway.logged(3).await;
        assert!(log.iter().all(|line| line["end"] == "upstream-truncated"), "{log:?}");
        // The connection is as good as before.
        assert_served(&stage).await;
        assert_eq!(stage.b1.connections(), 1);
    }
}

/// Every stream gets these fields, then this as its whole body.
fn answering_raw(fields: &'static [(&'static str, &'static str)], body: &'static str) -> Backend {
    Backend::scripted(move |peer: Peer| async move {
        let mut raw = RawH2::accept(peer, &[]).await;
        while let Some(stream) = raw.next_headers().await {
            raw.headers(stream, fields, false).await;
            raw.frame(0, 1, stream, body.as_bytes()).await;
        }
        Ok(())
    })
}

#[tokio::test]
async fn h2u_07_a_length_that_lies_is_never_a_whole_answer() {
    for body in ["hell", "hello!", ""] {
        let stage = clear(answering_raw(&[(":status", "200"), ("content-length", "5")], body)).start();
        for way in Way::H1 {
            let mut client = way.client(&stage).await;
            client.send(Request::get("/n").to_h1()).await;
            let got = client.try_answer("GET").await;
            assert!(got.as_ref().map_or(true, |answer| answer.status == 502), "{way:?} {body:?}: {got:?}");
        }
        let got = stage.h2().await.try_ask(&Request::get("/n")).await;
        assert!(got.as_ref().map_or(true, |answer| answer.status == 502), "{body:?}: {got:?}");
    }
}

#[tokio::test]
async fn h2u_07_fields_that_would_frame_an_http_1_answer_are_malformed_and_reach_nobody() {
    for field in [
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("upgrade", "websocket"),
        ("X-Upper", "1"),
        ("x", "a\r\nSet-Cookie: evil=1"),
        ("content-length", "1, 2"),
    ] {
        let fields: &'static [_] = vec![(":status", "200"), field].leak();
        let stage = clear(answering_raw(fields, "hello")).start();
        for way in Way::ALL {
            way.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-malformed");
        }
    }
}

#[tokio::test]
async fn h2u_08_a_client_that_leaves_resets_its_stream_and_nothing_else() {
    let reset = Arc::new(AtomicUsize::new(0));
    let (counter, server) = (reset.clone(), H2Server::new());
    let backend = server.scripted(move |mut exchange: Exchange| {
        let counter = counter.clone();
        async move {
            if exchange.path() == "/n/late" {
                let reason = std::future::poll_fn(|cx| exchange.respond.poll_reset(cx)).await.expect("a reset");
                assert_eq!(reason, Reason::CANCEL);
                counter.fetch_add(1, Ordering::SeqCst);
                return;
            }
            if exchange.path() == "/n/long" {
                let mut stream = exchange.begin(200, &[]);
                send_all(&mut stream, Bytes::from_static(b"begin"), false).await.expect("open");
                let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await.expect("a reset");
                assert_eq!(reason, Reason::CANCEL);
                counter.fetch_add(1, Ordering::SeqCst);
                return;
            }
            exchange.nonce().await;
        }
    });
    let stage = clear(backend).start();
    for path in ["/n/late", "/n/long"] {
        let mut h2 = stage.h2().await;
        let (_answer, mut send) = h2.begin(Request::get(path).to_h2(), true).await;
        eventually("the request", || server.heads().iter().any(|head| head.uri.path() == path)).await;
        send.send_reset(Reason::CANCEL);
        assert_eq!(h2.ask(&Request::get("/n")).await.status, 200);
    }
    let mut client = stage.clear().await;
    client.send(Request::get("/n/long").to_h1()).await;
    client.head().await;
    client.reset();
    eventually("three resets", || reset.load(Ordering::SeqCst) == 3).await;
    assert_served(&stage).await;
    assert_eq!(stage.b1.connections(), 1);
}

#[tokio::test]
async fn h2u_08_hundreds_of_cancelled_downloads_cost_the_others_nothing() {
    let server = H2Server::new();
    let backend = server.scripted(|mut exchange: Exchange| async move {
        if exchange.path() != "/n/long" {
            return exchange.nonce().await;
        }
        let mut stream = exchange.begin(200, &[]);
        while send_all(&mut stream, Bytes::from(vec![0; 16 * 1024]), false).await.is_ok() {}
    });
    let stage = clear(backend).start();
    let mut staying = stage.h2().await;
    let (answer, _send) = staying.begin(Request::get("/n/long").to_h2(), true).await;
    let mut answer = within("an answer", answer).await.expect("an answer");
    for _ in 0..20 {
        let mut h2 = stage.h2().await;
        let mut streams = Vec::new();
        for _ in 0..40 {
            streams.push(h2.begin(Request::get("/n/long").to_h2(), true).await);
        }
        for (answer, mut send) in streams {
            within("an answer", answer).await.expect("an answer");
            send.send_reset(Reason::CANCEL);
        }
    }
    for _ in 0..100 {
        let part = within("a part", answer.body_mut().data()).await.expect("a part").expect("a part");
        let _ = answer.body_mut().flow_control().release_capacity(part.len());
    }
    assert_served(&stage).await;
    assert_eq!(stage.b1.connections(), 1);
}

#[tokio::test]
async fn h2u_09_one_stream_at_a_time_means_one_connection_for_each_request() {
    let release = Arc::new(Notify::new());
    let gate = release.clone();
    let server = H2Server::new().settings(|builder| _ = builder.max_concurrent_streams(1));
    let backend = server.scripted(move |exchange: Exchange| {
        let gate = gate.clone();
        async move {
            gate.notified().await;
            exchange.nonce().await;
        }
    });
    let stage = clear(backend).start();
    let mut h2 = stage.h2().await;
    let mut answers = Vec::new();
    for _ in 0..12 {
        answers.push(h2.begin(Request::get("/n").to_h2(), true).await.0);
    }
    eventually("all requests at the server", || server.heads().len() == 12).await;
    release.notify_waiters();
    for answer in answers {
        assert_eq!(within("an answer", answer).await.expect("an answer").status(), 200);
    }
    let connections: std::collections::BTreeSet<_> =
        server.seen.lock().expect("whole heads").iter().map(|(connection, _)| *connection).collect();
    assert_eq!((connections.len(), stage.b1.connections()), (12, 12));
}

#[tokio::test]
async fn h2u_09_a_server_that_allows_no_stream_is_an_error_and_not_a_loop() {
    let server = H2Server::new().settings(|builder| _ = builder.max_concurrent_streams(0));
    let stage = clear(server.standard()).start();
    Way::Clear.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-protocol");
    assert!(stage.b1.connections() <= 2, "{}", stage.b1.connections());
}

/// Floods the gateway with these frames once a request is there, for as long as it takes them, a bound at most.
fn flooding(frames: Vec<u8>) -> Backend {
    Backend::scripted(move |peer: Peer| {
        let frames = frames.clone();
        async move {
            let mut raw = RawH2::accept(peer, &[]).await;
            raw.next_headers().await;
            for _ in 0..200 {
                // Nothing of the answers is read: they must not pile up.
                let write = raw.try_write(&frames);
                if !tokio::time::timeout(Duration::from_millis(200), write).await.unwrap_or(false) {
                    break;
                }
            }
            pause(500).await;
            Ok(())
        }
    })
}

#[tokio::test]
async fn h2u_10_floods_of_a_server_are_bounded_and_others_are_served() {
    let settings = RawH2::encode(SETTINGS, 0, 0, &RawH2::pairs(&[(4, 70_000), (1, 0), (1, 4096)]));
    let pings = RawH2::encode(PING, 0, 0, &[7; 8]);
    for frame in [settings, pings] {
        let flood = frame.repeat(1_000);
        let setup = clear(flooding(flood)).route_timeouts("response = \"2s\"");
        let stage = setup.more("[[route]]\nhosts = [\"c.test\"]\nupstream = \"http://{B2}\"\n").start();
        let before = stage.gateway.rss();
        let asking = tokio::spawn({
            let mut client = stage.clear().await;
            async move {
                client.send(Request::get("/n").to_h1()).await;
                client.answer().await
            }
        });
        for _ in 0..10 {
            let begun = Instant::now();
            let request = Request::get("/n").host("c.test");
            assert_eq!(Way::Clear.ask(&stage, &request).await.text(), request.nonce);
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        }
        assert!(asking.await.expect("no panic").status >= 502);
        let grown = stage.gateway.rss().saturating_sub(before);
        assert!(grown < 8 * 1024, "{grown} KiB");
    }
}

#[tokio::test]
async fn h2u_10_a_head_without_end_or_bound_ends_the_request() {
    for is_continued in [false, true] {
        let backend = Backend::scripted(move |peer: Peer| async move {
            let mut raw = RawH2::accept(peer, &[]).await;
            let Some(stream) = raw.next_headers().await else { return Ok(()) };
            let line = crate::harness::block(&[("x-filler", &"x".repeat(8_000))]);
            let status = crate::harness::block(&[(":status", "200")]);
            raw.frame(1, 0, stream, &[status, line.clone()].concat()).await;
            for number in 0..400 {
                let flags = if !is_continued && number == 30 { END_HEADERS } else { 0 };
                if !raw.try_write(&RawH2::encode(CONTINUATION, flags, stream, &line)).await || flags != 0 {
                    break;
                }
            }
            raw.until_over().await;
            Ok(())
        });
        let stage = clear(backend).start();
        let before = stage.gateway.rss();
        let answer = Way::Clear.ask(&stage, &Request::get("/n")).await;
        answer.assert_refused(502, "upstream-malformed");
        assert!(stage.gateway.rss().saturating_sub(before) < 4 * 1024);
    }
}

/// Every connection serves one request, and is closed when the second one comes.
fn closing_on_second(server: &H2Server) -> Backend {
    let seen = server.seen.clone();
    Backend::scripted(move |peer: Peer| {
        let seen = seen.clone();
        async move {
            let connection = peer.number;
            let mut server = h2::server::handshake(peer.into_wire()).await.map_err(std::io::Error::other)?;
            let mut number = 0;
            while let Some(Ok((request, mut respond))) = server.accept().await {
                seen.lock().expect("whole heads").push((connection, request.into_parts().0));
                number += 1;
                if number == 2 {
                    return Ok(());
                }
                let _ = respond.send_response(http::Response::new(()), false).map(|mut stream| {
                    let _ = stream.send_data(Bytes::from_static(b"ok"), true);
                });
            }
            Ok(())
        }
    })
}

#[tokio::test]
async fn h2u_11_a_connection_that_dies_costs_a_repeatable_request_nothing_and_any_other_an_error() {
    for (method, body, status, requests) in
        [("GET", None, 200, 3), ("PUT", Some("x"), 502, 2), ("POST", None, 502, 2), ("DELETE", None, 200, 3)]
    {
        let server = H2Server::new();
        let stage = clear(closing_on_second(&server)).start();
        assert_eq!(Way::Clear.ask(&stage, &Request::get("/n")).await.status, 200);
        let mut request = Request::new(method, "/n");
        request.body = body.map(|body| body.as_bytes().to_vec());
        let answer = Way::Clear.ask(&stage, &request).await;
        assert_eq!((answer.status, server.heads().len()), (status, requests), "{method}: {answer:?}");
    }
}

#[tokio::test]
async fn h2u_11_on_a_fresh_connection_nothing_is_tried_twice() {
    let server = H2Server::new();
    let seen = server.seen.clone();
    let backend = Backend::scripted(move |peer: Peer| {
        let seen = seen.clone();
        async move {
            let mut server = h2::server::handshake(peer.into_wire()).await.map_err(std::io::Error::other)?;
            if let Some(Ok((request, _))) = server.accept().await {
                seen.lock().expect("whole heads").push((0, request.into_parts().0));
            }
            Ok(())
        }
    });
    let stage = clear(backend).start();
    Way::Clear.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-closed");
    assert_eq!(server.heads().len(), 1);
}

#[tokio::test]
async fn h2u_12_answers_to_head_have_their_length_and_no_body() {
    let server = H2Server::new();
    let stage = clear(server.standard()).start();
    for way in Way::ALL {
        let request = Request::new("HEAD", "/n");
        let length = request.nonce.len().to_string();
        let answer = match way {
            Way::H2 => way.ask(&stage, &request).await,
            _ => {
                let mut client = way.client(&stage).await;
                client.send(request.to_h1()).await;
                client.try_answer("HEAD").await.expect("an answer")
            }
        };
        assert_eq!((answer.status, answer.get("content-length")), (200, Some(&*length)), "{way:?} {answer:?}");
        assert!(answer.body.is_empty());
    }
}

#[tokio::test]
async fn h2u_12_an_expectation_stays_with_the_gateway_and_the_body_is_sent() {
    let server = H2Server::new();
    let backend = server.scripted(|mut exchange: Exchange| async move {
        let body = exchange.whole_body().await;
        exchange.answer(200, &[], body).await;
    });
    let stage = clear(backend).start();
    let mut client = stage.clear().await;
    client.send("POST /n HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
    assert!(client.head().await.start.contains(" 100 "));
    client.send("hello").await;
    assert_eq!(client.answer().await.text(), "hello");
    assert!(!server.head().headers.contains_key("expect"));
}

#[tokio::test]
async fn h2u_12_an_answer_may_come_and_end_before_the_request_has() {
    let server = H2Server::new();
    let backend = server.scripted(|mut exchange: Exchange| async move {
        let Some(Ok(_)) = exchange.body.data().await else { return };
        let mut stream = exchange.begin(413, &[]);
        send_all(&mut stream, Bytes::from_static(b"too much"), true).await.expect("open");
        pause(50).await;
        // RFC 9113 8.1: the rest is not wanted.
        stream.send_reset(Reason::NO_ERROR);
    });
    let stage = clear(backend).start();
    let mut h2 = stage.h2().await;
    let (answer, mut send) = h2.begin(Request::new("POST", "/n").to_h2(), false).await;
    send_all(&mut send, Bytes::from_static(b"begin"), false).await.expect("open");
    let answer = whole(within("an answer", answer).await.expect("an answer")).await.expect("a whole answer");
    assert_eq!((answer.status, answer.text()), (413, "too much".to_owned()));
}

#[tokio::test]
async fn h2u_13_an_answer_that_falls_silent_is_broken_off_and_its_stream_reset() {
    let reset = Arc::new(AtomicUsize::new(0));
    let (counter, server) = (reset.clone(), H2Server::new());
    let backend = server.scripted(move |mut exchange: Exchange| {
        let counter = counter.clone();
        async move {
            if exchange.path() != "/n/silent" {
                return exchange.nonce().await;
            }
            let mut stream = exchange.begin(200, &[]);
            send_all(&mut stream, Bytes::from_static(b"begin"), false).await.expect("open");
            let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let stage = clear(backend).route_timeouts("response_body_idle = \"300ms\"\nresponse = \"300ms\"").start();
    assert!(stage.h2().await.try_ask(&Request::get("/n/silent")).await.is_err());
    assert_eq!(stage.gateway.logged(1).await[0]["end"], "upstream-body-timeout");
    assert!(holds_within(Duration::from_secs(2), || reset.load(Ordering::SeqCst) == 1).await);
    assert_served(&stage).await;
}

#[tokio::test]
async fn h2u_13_a_server_that_does_not_answer_is_given_up_in_time() {
    let server = H2Server::new();
    let backend = server.scripted(|exchange: Exchange| async move {
        if exchange.path() == "/n/never" {
            std::future::pending::<()>().await;
        }
        exchange.nonce().await;
    });
    let stage = clear(backend).route_timeouts("response = \"300ms\"").start();
    Way::Clear.ask(&stage, &Request::get("/n/never")).await.assert_refused(504, "upstream-timeout");
    assert_served(&stage).await;
    assert_eq!(stage.b1.connections(), 1);
}
