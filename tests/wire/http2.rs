//! HT2 and H2W: HTTP/2 and WebSockets over it (RFC 9113, RFC 8441).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::harness::{
    Backend, Client, End, Fields, Frame, H2, Handshake, Outcome, Peer, RawH2, Request, Setup, Stage, TlsOptions, Way,
    block, digest, eventually, holds_within, pause, send_all, within,
};

const GET: (&str, &str) = (":method", "GET");
const HTTPS: (&str, &str) = (":scheme", "https");
const A: (&str, &str) = (":authority", "a.test");
const N: (&str, &str) = (":path", "/n");

/// What becomes of a stream with these fields on a connection of its own.
async fn outcome(stage: &Stage, fields: &[(&str, &str)], end: bool) -> Outcome {
    let mut raw = RawH2::connect(stage).await;
    raw.headers(1, fields, end).await;
    raw.outcome(1).await
}

#[tokio::test]
async fn ht2_02_a_host_that_differs_from_the_authority_is_refused() {
    let stage = Stage::standard().await;
    let got = outcome(&stage, &[GET, HTTPS, A, N, ("host", "b.test")], true).await;
    assert!(got.is_refusal(), "{got:?}");
    let got = outcome(&stage, &[GET, HTTPS, A, N, ("host", "a.test"), ("host", "b.test")], true).await;
    assert!(got.is_refusal(), "{got:?}");
    stage.b1.assert_untouched();
    stage.b2.assert_untouched();
    assert_eq!(outcome(&stage, &[GET, HTTPS, A, N, ("host", "a.test")], true).await, Outcome::Status(200));
    assert_eq!(stage.b1.request().get("host"), Some("a.test"));
    assert_eq!(outcome(&stage, &[GET, HTTPS, N, ("host", "a.test")], true).await, Outcome::Status(200));
}

#[tokio::test]
async fn ht2_06_a_path_that_is_none_is_refused() {
    let stage = Stage::standard().await;
    for path in ["", "hello", "/a b", "/n\r\nX: y", "/n\0", "*", "?x", "/n\x7f"] {
        let got = outcome(&stage, &[GET, HTTPS, A, (":path", path)], true).await;
        assert!(got.is_refusal(), "{path:?}: {got:?}");
    }
    let got = outcome(&stage, &[GET, HTTPS, A], true).await;
    assert!(got.is_refusal(), "no path: {got:?}");
    stage.b1.assert_untouched();
    // The fragment is cut on every road.
    outcome(&stage, &[GET, HTTPS, A, (":path", "/n#/../admin")], true).await;
    assert!(!stage.b1.saw("#"));
}

#[tokio::test]
async fn ht2_06_fields_that_would_break_http_1_are_refused() {
    let stage = Stage::standard().await;
    for field in [
        ("x", "a\r\nX-Evil: 1"),
        ("x", "a\nb"),
        ("x\r\ny", "1"),
        ("X-Upper", "1"),
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("keep-alive", "1"),
        (":unknown", "1"),
        ("", "1"),
    ] {
        let got = outcome(&stage, &[GET, HTTPS, A, N, field], true).await;
        assert!(got.is_refusal(), "{field:?}: {got:?}");
    }
    let got = outcome(&stage, &[GET, (":method", "POST"), HTTPS, A, N], true).await;
    assert!(got.is_refusal(), "{got:?}");
    stage.b1.assert_untouched();
    stage.assert_serving().await;
}

#[tokio::test]
async fn ht2_06_a_length_that_lies_is_refused_or_never_completed() {
    let stage = Stage::standard().await;
    let fields = [(":method", "POST"), HTTPS, A, N, ("content-length", "5")];
    for data in ["hell", "hello!"] {
        let mut raw = RawH2::connect(&stage).await;
        raw.headers(1, &fields, false).await;
        raw.frame(crate::harness::DATA, crate::harness::END_STREAM, 1, data.as_bytes()).await;
        let got = raw.outcome(1).await;
        assert_ne!(got, Outcome::Status(200), "{data}");
    }
    stage.assert_serving().await;
}

#[tokio::test]
async fn ht2_13_cookie_crumbs_are_joined() {
    let stage = Stage::standard().await;
    let fields = [GET, HTTPS, A, N, ("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    assert_eq!(outcome(&stage, &fields, true).await, Outcome::Status(200));
    assert_eq!(stage.b1.request().get("cookie"), Some("a=1; b=2; c=3"));
    let handshake = Handshake::to("/ws").add("Cookie", "a=1").add("Cookie", "b=2");
    Way::H2.tunnel(&stage, &handshake).await.echo("x").await;
    assert_eq!(stage.b1.requests().pop().expect("a handshake").get("cookie"), Some("a=1; b=2"));
}

#[tokio::test]
async fn ht2_15_rapid_resets_end_in_a_goaway_or_in_bounded_work() {
    let stage = Stage::standard().await;
    let mut raw = RawH2::connect(&stage).await;
    let head = block(&[GET, HTTPS, A, N]);
    let mut id = 1;
    let mut canary = Vec::new();
    let mut quiet = Duration::ZERO;
    for _ in 0..5 {
        let start = Instant::now();
        stage.assert_serving().await;
        quiet = quiet.max(start.elapsed());
    }
    for _ in 0..100 {
        let mut frames = Vec::new();
        for _ in 0..100 {
            frames.push(RawH2::encode(crate::harness::HEADERS, 5, id, &head));
            frames.push(RawH2::encode(crate::harness::RST_STREAM, 0, id, &8_u32.to_be_bytes()));
            id += 2;
        }
        raw.frames(&frames).await;
        if id % 2000 == 1 {
            let start = Instant::now();
            stage.assert_serving().await;
            canary.push(start.elapsed());
        }
    }
    // A request that is still alive shows whether the connection is.
    raw.headers(id, &[GET, HTTPS, A, N], true).await;
    let got = raw.outcome(id).await;
    assert!(matches!(got, Outcome::GoAway(11) | Outcome::Closed | Outcome::Status(_)), "{got:?}");
    assert!(stage.b1.connections() <= 300, "{} upstream connections", stage.b1.connections());
    let limit = (quiet * 10).max(Duration::from_millis(100));
    assert!(canary.iter().all(|time| *time < limit), "{canary:?}, {quiet:?} before");
    stage.assert_serving().await;
}

#[tokio::test]
async fn ht2_22_a_reset_within_an_answer_ends_the_upstream() {
    let backend = Backend::scripted(async |mut peer: Peer| {
        peer.head().await?;
        peer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await?;
        peer.until_over().await
    });
    let stage = Setup::new().b1(backend).start();
    let mut h2 = stage.h2().await;
    let (answer, mut send) = h2.begin(Request::get("/n").to_h2(), true).await;
    let mut answer = within("an answer", answer).await.expect("an answer");
    within("a part", answer.body_mut().data()).await.expect("a part").expect("a part");
    send.send_reset(h2::Reason::CANCEL);
    let record = stage.b1.records().remove(0);
    assert!(holds_within(Duration::from_secs(1), || record.is_over()).await);
    // Other streams of the connection go on.
    assert_eq!(h2.ask(&Request::get("/denied")).await.status, 403);
}

#[tokio::test]
async fn ht2_30_prior_knowledge_is_served_only_where_the_listener_says_so() {
    let more = "[[listener]]\nname = \"h2c\"\naddress = \"127.0.0.1:0\"\nprotocols = [\"h2c\"]\n";
    let stage = Setup::new().more(more).start();
    let mut client = stage.clear().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let statuses = client.statuses_until_end().await;
    assert!(matches!(statuses[..], [] | [400 | 505]), "{statuses:?}");
    let wire = Client::clear(stage.gateway.address("h2c")).await.into_stream().into_wire();
    let mut h2 = H2::over(wire, &Default::default()).await;
    let mut request = Request::get("/n").to_h2();
    *request.uri_mut() = "http://a.test/n".parse().expect("a URI");
    let (answer, _send) = h2.begin(request, true).await;
    assert_eq!(within("an answer", answer).await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn h2w_01_the_setting_of_rfc_8441_is_announced_unless_switched_off() {
    let stage = Stage::standard().await;
    let mut raw = RawH2::connect(&stage).await;
    assert!(raw.settings().await.contains(&(8, 1)));
    let stage = Setup::new().listener("websocket_over_h2 = false").start();
    let mut raw = RawH2::connect(&stage).await;
    assert!(!raw.settings().await.contains(&(8, 1)));
}

#[tokio::test]
async fn h2w_02_an_extended_connect_becomes_an_http_1_handshake() {
    let stage = Stage::standard().await;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let (answer, tunnel) = stage.h2().await.open(&Handshake::to("/ws?x=1")).await.expect("an answer");
        for name in ["upgrade", "connection", "sec-websocket-accept", "transfer-encoding", "content-length"] {
            assert!(!answer.has(name), "{answer:?}");
        }
        tunnel.expect("a tunnel").echo("x").await;
        let head = stage.b1.requests().pop().expect("a handshake");
        assert_eq!(head.start, "GET /ws?x=1 HTTP/1.1");
        assert_eq!((head.get("host"), head.get("sec-websocket-version")), (Some("a.test"), Some("13")));
        assert_eq!((head.get("upgrade"), head.lists("connection", "upgrade")), (Some("websocket"), true));
        let key = head.get("sec-websocket-key").expect("a key").to_owned();
        assert!(key.len() == 24 && key.ends_with("=="), "{key}");
        keys.push(key);
    }
    assert_ne!(keys[0], keys[1], "a fresh key each time");
}

#[tokio::test]
async fn h2w_02_many_tunnels_share_a_connection_with_plain_requests() {
    let stage = Stage::standard().await;
    let mut h2 = stage.h2().await;
    let mut tunnels = Vec::new();
    for _ in 0..20 {
        tunnels.push(h2.tunnel(&Handshake::to("/ws")).await);
    }
    let request = Request::get("/n");
    assert_eq!(h2.ask(&request).await.text(), request.nonce);
    for (number, tunnel) in tunnels.iter_mut().enumerate() {
        tunnel.echo(&format!("tunnel {number}")).await;
    }
    assert_eq!(stage.b1.connections(), 21);
}

#[tokio::test]
async fn h2w_02_without_authority_or_with_a_body_length_nobody_else_notices() {
    let stage = Stage::standard().await;
    let mut other = stage.h2().await;
    let mut tunnel = other.tunnel(&Handshake::to("/ws")).await;
    let connect = [(":method", "CONNECT"), (":protocol", "websocket"), HTTPS, (":path", "/ws")];
    let rest = [("sec-websocket-version", "13"), ("origin", "https://app.example")];
    let got = outcome(&stage, &[&connect[..], &rest].concat(), false).await;
    assert!(got.is_refusal(), "{got:?}");
    let length = [("content-length", "5")];
    let got = outcome(&stage, &[&connect[..], &[A], &rest, &length].concat(), false).await;
    assert!(got.is_refusal(), "{got:?}");
    tunnel.echo("undisturbed").await;
    assert_eq!(other.ask(&Request::get("/n")).await.status, 200);
}

#[tokio::test]
async fn h2w_05_a_2xx_that_is_no_tunnel_is_502_and_its_body_stays_behind() {
    for answer in ["200 OK", "204 No Content", "206 Partial Content"] {
        let bytes: &'static str = if answer.starts_with("204") {
            format!("HTTP/1.1 {answer}\r\n\r\n").leak()
        } else {
            format!("HTTP/1.1 {answer}\r\nContent-Length: 6\r\n\r\nsecret").leak()
        };
        let backend = Backend::scripted(move |mut peer: Peer| async move {
            peer.head().await?;
            peer.write(bytes.as_bytes()).await?;
            peer.until_over().await
        });
        let stage = Setup::new().b1(backend).start();
        let answer = Way::H2.refused(&stage, &Handshake::to("/ws"), 502, "unexpected-upgrade").await;
        assert!(!answer.text().contains("secret"));
        let record = stage.b1.records().remove(0);
        assert!(holds_within(Duration::from_secs(2), || record.is_over()).await);
    }
}

#[tokio::test]
async fn h2w_07_another_protocol_than_websocket_is_501() {
    let stage = Stage::standard().await;
    for protocol in ["foo", "connect-udp", "h2c", "WebSockets", "webtransport"] {
        let mut request = Handshake::to("/ws").to_h2();
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
        let (answer, _send) = stage.h2().await.begin(request, false).await;
        let answer = within("an answer", answer).await.expect("an answer");
        assert_eq!(answer.status(), 501, "{protocol}");
        assert_eq!(
            answer.headers().get("x-portcullis-reason").map(|value| value.as_bytes()),
            Some(&b"unknown-protocol"[..])
        );
    }
    stage.b1.assert_untouched();
}

#[tokio::test]
async fn h2w_11_early_data_waits_for_the_101_and_then_arrives_in_order() {
    let backend = Backend::scripted(async |mut peer: Peer| {
        let head = peer.head().await?;
        assert!(peer.silent_for(300).await, "bytes before the 101");
        peer.agree(&head, "").await?;
        peer.echo().await
    });
    let stage = Setup::new().b1(backend).start();
    let mut h2 = stage.h2().await;
    let (answer, mut send) = h2.begin(Handshake::to("/ws").to_h2(), false).await;
    let early = [Frame::text("early").masked().bytes(), Frame::text("bird").masked().bytes()].concat();
    send_all(&mut send, Bytes::from(early), false).await.expect("an open stream");
    let answer = within("an answer", answer).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let mut tunnel = h2.stream_of(send, answer.into_body());
    assert_eq!(tunnel.frame().await, Frame::text("early"));
    assert_eq!(tunnel.frame().await, Frame::text("bird"));
    tunnel.echo("late").await;
}

#[tokio::test]
async fn h2w_16_a_reset_stream_closes_its_upstream_and_nothing_else() {
    let stage = Stage::standard().await;
    let mut h2 = stage.h2().await;
    let mut staying = h2.tunnel(&Handshake::to("/ws")).await;
    let mut going = h2.tunnel(&Handshake::to("/ws")).await;
    going.echo("x").await;
    going.send.send_reset(h2::Reason::CANCEL);
    let record = stage.b1.records().remove(1);
    assert!(holds_within(Duration::from_secs(1), || record.is_over()).await);
    staying.echo("still here").await;
    drop((staying, going, h2));
    eventually("the end of the other tunnel with its connection", || stage.b1.records()[0].is_over()).await;
}

#[tokio::test]
async fn h2w_17_a_stream_that_is_not_read_stops_its_backend_and_only_it() {
    const BLOCKS: usize = 1024;
    let written = Arc::new(AtomicUsize::new(0));
    let counter = written.clone();
    let payload = |number: usize| Frame::binary(vec![number as u8; 64 * 1024]).bytes();
    let backend = Backend::scripted(move |mut peer: Peer| {
        let counter = counter.clone();
        async move {
            let head = peer.head().await?;
            peer.agree(&head, "").await?;
            if head.target() != "/ws/pump" {
                return peer.echo().await;
            }
            for number in 0..BLOCKS {
                peer.write(&payload(number)).await?;
                counter.fetch_add(1, Ordering::SeqCst);
            }
            peer.finish().await?;
            peer.until_over().await
        }
    });
    let stage = Setup::new().b1(backend).start();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(64 * 1024).initial_connection_window_size(8 * 1024 * 1024);
    let before = stage.gateway.rss();
    let mut h2 = H2::connect_as(&stage, &TlsOptions::new("a.test"), &builder).await;
    let mut pump = h2.tunnel(&Handshake::to("/ws/pump")).await;
    let mut last = 0;
    loop {
        pause(500).await;
        let now = written.load(Ordering::SeqCst);
        if now == last && now > 0 {
            break;
        }
        last = now;
    }
    assert!(last < BLOCKS / 4, "{last} blocks of 64 KiB went nowhere");
    let grown = stage.gateway.rss().saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB");
    h2.tunnel(&Handshake::to("/ws")).await.echo("others go on").await;
    let (all, end) = pump.rest().await;
    assert_eq!(end, End::Fin);
    let mut expected: Vec<u8> = (0..BLOCKS).flat_map(payload).collect();
    // The backend ends without one of its own.
    expected.extend(Frame::close(1011, "upstream gone").bytes());
    assert_eq!(digest(&all), digest(&expected), "{} bytes", all.len());
}

#[tokio::test]
async fn h2w_22_a_connect_that_ends_its_stream_is_a_half_closed_tunnel() {
    let backend = Backend::scripted(async |mut peer: Peer| {
        let head = peer.head().await?;
        peer.agree(&head, "").await?;
        assert_eq!(peer.rest().await?, (Vec::new(), End::Fin));
        peer.write(&Frame::text("parting words").bytes()).await
    });
    let stage = Setup::new().b1(backend).start();
    let mut h2 = stage.h2().await;
    let (answer, send) = h2.begin(Handshake::to("/ws").to_h2(), true).await;
    let answer = within("an answer", answer).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let mut tunnel = h2.stream_of(send, answer.into_body());
    assert_eq!(tunnel.rest().await, (Frame::text("parting words").bytes(), End::Fin));
}
