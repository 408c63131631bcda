//! OPS: what an operator relies on: upstreams that are down, drains, logs, refusals to start.

use std::time::{Duration, Instant};

use crate::harness::{
    Backend, Client, End, Fields, Frame, GOAWAY, Gateway, Handshake, OpCode, Outcome, Peer, RawH2, Request, Setup,
    Stage, TlsOptions, Tunnel, Way, eventually, holds_within, within,
};

#[tokio::test]
async fn ops_01_an_upstream_that_is_down_is_502_at_once() {
    let stage = Setup::new().upstream_url(&format!("http://127.0.0.1:{}", Backend::refusing_port())).start();
    for way in Way::ALL {
        // The best of a few: a busy machine may be slow once, a gateway that waits is so each time.
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let start = Instant::now();
            way.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-unreachable");
            way.refused(&stage, &Handshake::to("/ws"), 502, "upstream-unreachable").await;
            best = best.min(start.elapsed() / 2);
        }
        assert!(best < Duration::from_millis(200), "{way:?}: {best:?}");
    }
}

#[tokio::test]
async fn ops_01_an_upstream_that_hangs_up_is_502() {
    let stage = Setup::new().b1(Backend::scripted(async |mut peer: Peer| peer.head().await.map(drop))).start();
    for way in Way::ALL {
        way.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-closed");
        way.refused(&stage, &Handshake::to("/ws"), 502, "upstream-closed").await;
    }
}

#[tokio::test]
async fn ops_03_an_upstream_without_an_answer_is_504_and_let_go() {
    for way in Way::ALL {
        let backend = Backend::scripted(async |mut peer: Peer| {
            peer.head().await?;
            peer.until_over().await
        });
        let stage = Setup::new().b1(backend).route_timeouts("response = \"500ms\"").start();
        let start = Instant::now();
        way.ask(&stage, &Request::get("/n")).await.assert_refused(504, "upstream-timeout");
        assert!(start.elapsed() >= Duration::from_millis(400));
        let records = stage.b1.records();
        assert!(holds_within(Duration::from_secs(1), || records.iter().all(|record| record.is_over())).await);
    }
}

#[tokio::test]
async fn ops_03_an_upstream_that_stops_within_a_body_is_cut() {
    for way in Way::H1 {
        let backend = Backend::scripted(async |mut peer: Peer| {
            peer.head().await?;
            peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await?;
            peer.until_over().await
        });
        let stage = Setup::new().b1(backend).route_timeouts("response_body_idle = \"500ms\"").start();
        let mut client = way.client(&stage).await;
        client.send(Request::get("/n").to_h1()).await;
        client.try_answer("GET").await.expect_err("a broken answer");
        let record = stage.b1.records().remove(0);
        assert!(holds_within(Duration::from_secs(1), || record.is_over()).await);
    }
}

#[tokio::test]
async fn ops_10_a_drain_finishes_what_is_open_and_takes_nothing_new() {
    let (backend, go) = Backend::slow_until_told();
    let mut stage = Setup::new().b1(backend).server("drain_timeout = \"3s\"").start();
    let slow = Request::get("/n/slow");
    let mut asking = stage.clear().await;
    asking.send(slow.to_h1()).await;
    let mut idle = stage.clear().await;
    assert_eq!(idle.ask(&Request::get("/n")).await.status, 200);
    let mut h2 = RawH2::connect(&stage).await;
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/n")];
    h2.headers(1, &fields, true).await;
    assert_eq!(h2.outcome(1).await, Outcome::Status(200));
    let mut tunnel = Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await;
    tunnel.echo("before").await;
    let _unfinished = Client::clear(stage.gateway.address("tls")).await;
    eventually("the slow request upstream", || stage.b1.saw("/n/slow")).await;

    let start = Instant::now();
    stage.gateway.terminate();
    assert_eq!(idle.expect_end().await, End::Fin, "an idle connection");
    let address = stage.gateway.address("clear");
    let refused = async { while tokio::net::TcpStream::connect(address).await.is_ok() {} };
    within("refused connections", refused).await;
    let mut last = 0;
    while let Some(frame) = h2.next().await {
        last = if frame.kind == GOAWAY {
            u32::from_be_bytes(frame.payload[4..8].try_into().expect("a code")) + 1
        } else {
            last
        };
    }
    assert_eq!(last, 1, "GOAWAY with NO_ERROR before the end");
    tunnel.echo("during").await;
    go.send(true).expect("a waiting backend");
    let answer = asking.answer().await;
    assert_eq!((answer.status, answer.text()), (200, slow.nonce));
    assert!(answer.lists("connection", "close"), "{answer:?}");
    if start.elapsed() < Duration::from_secs(2) {
        tunnel.echo("until the deadline").await;
    }
    let (rest, _) = tunnel.rest().await;
    assert_eq!(rest, Frame::close(1001, "going away").bytes());
    assert!(start.elapsed() > Duration::from_millis(2500), "cut before the deadline: {:?}", start.elapsed());
    let status = stage.gateway.exit().await;
    assert_eq!(status.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn ops_10_a_drain_with_nothing_open_ends_at_once() {
    let mut stage = Stage::standard().await;
    stage.assert_serving().await;
    let start = Instant::now();
    stage.gateway.terminate();
    assert_eq!(stage.gateway.exit().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn ops_10_an_h2_tunnel_lives_until_the_drain_deadline() {
    let mut stage = Setup::new().server("drain_timeout = \"1s\"").start();
    let mut tunnel = Way::H2.tunnel(&stage, &Handshake::to("/ws")).await;
    stage.gateway.terminate();
    tunnel.echo("still here").await;
    let (rest, _) = tunnel.rest().await;
    assert_eq!(rest, Frame::close(1001, "going away").bytes());
    assert_eq!(stage.gateway.exit().await.code(), Some(0));
}

#[tokio::test]
async fn ops_13_nothing_a_client_sends_can_forge_a_line_of_the_log() {
    let stage = Stage::standard().await;
    let requests: [&[u8]; 5] = [
        b"GET /n/a%0d%0aFAKE HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
        b"GET /n HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nUser-Agent: \"quoted\\\" {\"end\":\"FAKE\"}\r\n\r\n",
        b"GET /n/\xff\xfe HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nX: \xff\xfe\r\n\r\n",
        b"GET /n/\"},{\"end\":\"FAKE HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
        b"GET /n HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nX: \x1b[31m\"}\r\n\r\n",
    ];
    for (sent, bytes) in requests.into_iter().enumerate() {
        let mut client = stage.clear().await;
        client.send(bytes).await;
        let statuses = client.statuses_until_end().await;
        assert_eq!(statuses.len(), 1, "{:?}", String::from_utf8_lossy(bytes));
        stage.gateway.logged(sent + 1).await;
    }
    let lines = stage.gateway.access_log();
    assert_eq!(lines.len(), requests.len(), "one line for each request: {lines:?}");
    let text = stage.gateway.stderr();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok_and(|value| value["end"] != "FAKE"), "{line:?}");
    }
    assert!(!text.contains('\x1b'));
}

#[tokio::test]
async fn ops_13_every_request_and_tunnel_leaves_its_end_reason() {
    let stage = Stage::standard().await;
    Way::Clear.ask(&stage, &Request::get("/n")).await;
    Way::Clear.ask(&stage, &Request::get("/denied")).await;
    Way::H2.refused(&stage, &Handshake::to("/ws").origin("https://evil.test"), 403, "origin-not-allowed").await;
    stage.gateway.logged(3).await;
    let mut tunnel = Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await;
    tunnel.send(Frame::close(1000, "").masked().bytes()).await;
    tunnel.rest().await;
    drop(tunnel);
    let found = |reason: &str| stage.gateway.access_log().iter().any(|line| line["end"] == reason);
    for reason in ["completed", "responded", "origin-not-allowed"] {
        assert!(found(reason), "{reason}: {:?}", stage.gateway.access_log());
    }
    eventually("the tunnel's line", || found("closed-by-client") || found("closed-by-upstream")).await;
}

#[tokio::test]
async fn ops_14_no_secret_is_logged() {
    let stage = Stage::standard().await;
    let key = "c2VjcmV0LXdlYnNvY2tldA==";
    for way in Way::ALL {
        let request = Request::get("/n?token=secret-query&x=1")
            .field("Authorization", "Bearer secret-bearer")
            .field("Cookie", "sid=secret-cookie");
        assert_eq!(way.ask(&stage, &request).await.status, 200);
        let handshake = Handshake::to("/ws?token=secret-query")
            .set("Sec-WebSocket-Key", key)
            .add("Authorization", "Bearer secret-bearer")
            .add("Cookie", "sid=secret-cookie");
        let mut tunnel: Tunnel = way.tunnel(&stage, &handshake).await;
        tunnel.echo("secret-message").await;
        tunnel.send(Frame::new(OpCode::CLOSE, "").masked().bytes()).await;
        tunnel.rest().await;
        way.refused(&stage, &handshake.origin("https://evil.test"), 403, "origin-not-allowed").await;
    }
    stage.gateway.logged(9).await;
    let text = stage.gateway.stderr();
    assert!(!text.contains("secret") && !text.contains(key), "{text}");
    assert!(text.contains("token"), "the names of query parameters stay: {text}");
}

#[tokio::test]
async fn ops_16_nothing_administrative_answers_on_a_public_listener() {
    let stage = Stage::standard().await;
    for path in ["/metrics", "/healthz", "/admin/tunnels", "/-/reload", "/debug/pprof/", "/.well-known/portcullis"] {
        for host in ["a.test", "localhost", "127.0.0.1"] {
            let request = Request::get(path).host(host).field("X-Forwarded-For", "127.0.0.1");
            let answer = stage.clear().await.ask(&request).await;
            let routed = path.starts_with("/admin") && host == "a.test";
            if routed {
                assert_eq!((answer.status, answer.text()), (403, "admin\n".to_owned()));
            } else {
                answer.assert_refused(404, "no-route");
            }
        }
    }
    stage.b1.assert_untouched();
}

fn minimal(listener: &str, route: &str) -> String {
    format!("[[listener]]\nname = \"x\"\n{listener}\n{route}")
}

const ROUTE: &str = "[[route]]\nupstream = \"http://127.0.0.1:1\"\n";

#[tokio::test]
async fn ops_20_a_port_in_use_ends_the_start_with_3() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let start = Instant::now();
    let (code, said) = Gateway::refused(&minimal(&format!("address = \"{address}\""), ROUTE), |_| {});
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(&address) && start.elapsed() < Duration::from_secs(5), "{said}");
}

#[tokio::test]
async fn ops_20_a_configuration_that_cannot_work_ends_the_start_with_2() {
    let clear = "address = \"127.0.0.1:0\"";
    let tls = |cert: &str, key: &str| format!("{clear}\ntls = {{ cert = \"{cert}\", key = \"{key}\" }}");
    let cases = [
        ("no such key", minimal(&tls("a.pem", "missing.key"), ROUTE), "missing.key"),
        ("no key in the file", minimal(&tls("a.pem", "a.pem"), ROUTE), "a.pem"),
        ("another certificate's key", minimal(&tls("a.pem", "b.key"), ROUTE), "b.key"),
        ("no routes", minimal(clear, ""), "route"),
        ("an unknown key", minimal(clear, &format!("{ROUTE}orgins = []\n")), "orgins"),
        ("no TOML", "[[listener]\n".to_owned(), "portcullis.toml"),
        ("an unknown upstream", minimal(clear, "[[route]]\nupstream = \"nowhere\"\n"), "nowhere"),
        ("empty origins", minimal(clear, &format!("{ROUTE}websocket = {{ origins = [] }}\n")), "origins"),
    ];
    for (what, toml, named) in cases {
        let (code, said) = Gateway::refused(&toml, |_| {});
        assert_eq!(code, Some(2), "{what}: {said}");
        assert!(said.contains(named), "{what}: {said}");
    }
}

#[tokio::test]
async fn ops_21_random_bytes_on_every_port_make_nothing_panic() {
    let stage = Stage::standard().await;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..200_usize {
        let mut bytes: Vec<u8> = match round % 4 {
            0 => Vec::new(),
            1 => Request::get("/n").to_h1(),
            2 => Handshake::to("/ws").to_h1(),
            _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        };
        for _ in 0..random() % 8 {
            if !bytes.is_empty() {
                let at = random() as usize % bytes.len();
                bytes[at] = random() as u8;
            }
        }
        bytes.extend((0..random() % 64).map(|_| random() as u8));
        let mut client = match round % 3 {
            0 => Client::clear(stage.gateway.address("tls")).await,
            1 => stage.tls_as(&TlsOptions::new("a.test")).await,
            _ => stage.clear().await,
        };
        let _ = client.try_send(&bytes).await;
        if round % 2 == 0 {
            client.reset();
        }
    }
    for _ in 0..30 {
        let mut raw = RawH2::connect(&stage).await;
        for _ in 0..5 {
            let payload: Vec<u8> = (0..random() % 40).map(|_| random() as u8).collect();
            raw.frame(random() as u8 % 12, random() as u8, (random() % 4) as u32, &payload).await;
        }
    }
    // Dropping the gateway fails on a line that says so; what counts as well is that it still serves.
    stage.assert_serving().await;
    Way::H2.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
}
