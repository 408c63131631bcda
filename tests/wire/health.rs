//! HLT: what checks ask of servers, what they make of the answers, and where requests go then.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Backend, Cluster, End, Fields, Frame, Head, OpCode, Peer, Request, ServerKind, eventually, holds_within,
};

/// Serves as ever, but for checks, which it answers with what `check` writes.
fn checked<C, F>(check: C) -> Backend
where
    C: Fn(Peer, Head) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<()>> + Send,
{
    Backend::scripted(move |mut peer: Peer| {
        let check = check.clone();
        async move {
            loop {
                let head = peer.head().await?;
                if head.target().starts_with("/check") {
                    return check(peer, head).await;
                }
                if !peer.handle(&head).await? {
                    return Ok(());
                }
            }
        }
    })
}

/// Answers each check with these bytes, then waits for the other side to hang up.
fn answering(answer: impl Into<Vec<u8>>) -> Backend {
    let answer: Arc<[u8]> = answer.into().into();
    checked(move |mut peer: Peer, _| {
        let answer = answer.clone();
        async move {
            peer.write(&answer).await?;
            peer.until_over().await
        }
    })
}

/// Whether checks pass, as a test turns it.
#[derive(Clone)]
struct Switch(Arc<AtomicBool>);

impl Switch {
    fn new(healthy: bool) -> Self {
        Self(Arc::new(AtomicBool::new(healthy)))
    }

    fn turn(&self, healthy: bool) {
        self.0.store(healthy, Ordering::SeqCst);
    }

    fn backend(&self) -> Backend {
        let switch = self.clone();
        checked(move |mut peer: Peer, _| {
            let status = if switch.0.load(Ordering::SeqCst) { "200 OK" } else { "503 Not Now" };
            async move {
                peer.write(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
                peer.until_over().await
            }
        })
    }
}

/// Fails unless a check with these keys is passed by such a server, again and again.
async fn assert_passes(backend: Backend, scheme: &str, keys: &str) {
    let upstream = format!("health = {{ {keys}, interval = \"100ms\", timeout = \"1s\", fall = 1 }}");
    let cluster = Cluster::of(vec![backend]).scheme(scheme).upstream(&upstream).start();
    eventually("three checks", || cluster.servers[0].connections() >= 3).await;
    assert!(!cluster.said("is down"), "{keys}: {}", cluster.gateway.stderr());
}

/// Fails unless the first check with these keys is failed by such a server, for this reason.
async fn assert_fails(backend: Backend, scheme: &str, keys: &str, reason: &str) {
    let ca = if ["https", "wss"].contains(&scheme) { "ca = \"ca.pem\"\n" } else { "" };
    let upstream = format!("{ca}health = {{ {keys}, interval = \"100ms\", timeout = \"1s\", fall = 1 }}");
    let cluster = Cluster::of(vec![backend]).scheme(scheme).upstream(&upstream).start();
    let line = format!("many: {scheme}{} is down: its first check failed: {reason}", cluster.url(0));
    assert!(
        holds_within(Duration::from_secs(10), || cluster.said("is down")).await && cluster.said(&line),
        "{keys}: no line {line:?} in {}",
        cluster.gateway.stderr()
    );
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

const HTTP: &str = "http = \"/check\"";
const WEBSOCKET: &str = "websocket = \"/check\"";

#[tokio::test]
async fn hlt_01_a_tcp_check_asks_for_a_connection_and_sends_nothing() {
    let backend = Backend::scripted(async |mut peer: Peer| peer.until_over().await);
    let cluster = Cluster::of(vec![backend]).upstream("health = { tcp = true, interval = \"100ms\" }").start();
    eventually("four checks", || cluster.servers[0].connections() >= 4).await;
    eventually("their ends", || cluster.servers[0].records()[..3].iter().all(|record| record.end() == End::Fin)).await;
    cluster.servers[0].assert_untouched();
    assert!(!cluster.said("is down"));
}

#[tokio::test]
async fn hlt_01_a_port_on_which_nobody_listens_is_down_before_a_request_has_tried_it() {
    let port = Backend::closed_port();
    let cluster = Cluster::of(vec![Backend::standard()])
        .further(&format!("http://127.0.0.1:{port}"))
        .upstream("health = { tcp = true, interval = \"100ms\" }\nretries = 0")
        .start();
    let line = format!("many: http://127.0.0.1:{port} is down: its first check failed: cannot connect: ");
    eventually("the line", || cluster.said(&line)).await;
    for _ in 0..10 {
        assert_eq!(cluster.status().await, 200);
    }
    assert!(!cluster.said("is ejected"), "no request has been there");
}

#[tokio::test]
async fn hlt_01_where_the_server_has_tls_its_certificate_is_part_of_the_check() {
    let serve = async |mut peer: Peer| peer.until_over().await;
    let backend = Backend::tls(ServerKind::Good, serve);
    let upstream = "ca = \"ca.pem\"\nhealth = { tcp = true, interval = \"100ms\" }";
    let cluster = Cluster::of(vec![backend]).scheme("https").upstream(upstream).start();
    eventually("four checks", || cluster.servers[0].connections() >= 4).await;
    eventually("their ends", || cluster.servers[0].records()[0].end() == End::Fin).await;
    assert!(!cluster.said("is down"));
    for kind in [ServerKind::Expired, ServerKind::WrongName] {
        assert_fails(Backend::tls(kind, serve), "https", "tcp = true", "TLS handshake failed: ").await;
    }
    let silent = Backend::scripted(async |mut peer: Peer| peer.until_over().await);
    assert_fails(silent, "https", "tcp = true", "no connection in time").await;
}

#[tokio::test]
async fn hlt_02_an_http_check_is_one_request_on_a_connection_of_its_own() {
    let keys = "http = \"/check?deep=1\", host = \"health.test:81\", origin = \"https://app.example\"";
    let upstream = format!("health = {{ {keys}, interval = \"100ms\" }}");
    let cluster = Cluster::of(vec![answering(ok("fine"))]).upstream(&upstream).start();
    eventually("two checks", || cluster.servers[0].connections() >= 3).await;
    let heads = cluster.servers[0].requests();
    assert_eq!(heads[0].start, "GET /check?deep=1 HTTP/1.1");
    let mut fields: Vec<_> = heads[0].fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    fields.sort();
    let expected = [
        "Connection: close",
        "Host: health.test:81",
        "Origin: https://app.example",
        "User-Agent: portcullis-health-check",
    ];
    assert_eq!(fields, expected);
    let records = cluster.servers[0].records();
    assert!(records[..2].iter().all(|record| record.heads().len() == 1));
    eventually("the end of the first", || records[0].is_over()).await;
}

#[tokio::test]
async fn hlt_02_the_host_of_a_check_is_the_servers_own_unless_the_file_says_another() {
    let cluster = Cluster::of(vec![answering(ok(""))]).upstream("health = { http = \"/check\" }").start();
    eventually("a check", || !cluster.servers[0].requests().is_empty()).await;
    let head = cluster.servers[0].requests().remove(0);
    assert_eq!(head.get("host"), Some(&*cluster.servers[0].address.to_string()));
    assert!(!head.has("origin"));
}

#[tokio::test]
async fn hlt_02_the_status_decides_and_200_alone_is_good_unless_the_file_says_more() {
    assert_passes(answering(ok("")), "http", HTTP).await;
    assert_passes(answering("HTTP/1.1 103 Early\r\n\r\nHTTP/1.0 200 OK\r\n\r\n"), "http", HTTP).await;
    for status in [204, 301, 404, 500, 503] {
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        assert_fails(answering(answer), "http", HTTP, &format!("the answer was {status}")).await;
    }
    let several = "http = \"/check\", status = [204, 429]";
    assert_passes(answering("HTTP/1.1 429 X\r\nContent-Length: 0\r\n\r\n"), "http", several).await;
    assert_fails(answering(ok("")), "http", several, "the answer was 200").await;
}

#[tokio::test]
async fn hlt_02_a_text_may_be_asked_for_wherever_it_stands_in_the_body() {
    let text = "http = \"/check\", body = \"all good\"";
    assert_passes(answering(ok("well: all good.")), "http", text).await;
    let pieces = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nwell al\r\n4\r\nl go\r\n2\r\nod\r\n";
    // It is there before the body's end, for which nobody waits.
    assert_passes(answering(pieces), "http", text).await;
    assert_fails(answering(ok("all bad")), "http", text, "the body does not hold the text").await;
    let broken = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nall go";
    let closing = checked(move |mut peer: Peer, _| async move { peer.write(broken.as_bytes()).await });
    assert_fails(closing, "http", text, "the body broke off: ").await;
    assert_fails(answering(broken), "http", text, "the body did not come in time").await;
}

#[tokio::test]
async fn hlt_02_an_endless_body_is_read_only_so_far() {
    let endless = |late: bool| {
        checked(move |mut peer: Peer, _| async move {
            peer.write(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            let block = [b'x'; 8192];
            for _ in 0..if late { 9 } else { 8 } {
                peer.write(&block).await?;
            }
            peer.write(b"ready").await?;
            while peer.write(&block).await.is_ok() {}
            peer.until_over().await
        })
    };
    let text = "http = \"/check\", body = \"ready\"";
    assert_fails(endless(true), "http", text, "the body does not hold the text").await;
    // Where no text is asked for, nobody reads a body.
    assert_passes(endless(true), "http", HTTP).await;
}

#[tokio::test]
async fn hlt_02_what_is_no_answer_is_a_failed_check() {
    assert_fails(answering(""), "http", HTTP, "no answer in time").await;
    assert_fails(answering("HTTP/1.1 200 OK\r\nContent-"), "http", HTTP, "no answer in time").await;
    assert_fails(answering("SSH-2.0-OpenSSH_9.6\r\n"), "http", HTTP, "malformed answer: ").await;
    assert_fails(answering("\x16\x03\x01\x02"), "http", HTTP, "malformed answer: ").await;
    let closing = checked(|_, _| async { Ok(()) });
    assert_fails(closing, "http", HTTP, "closed before an answer").await;
    let resetting = checked(|peer: Peer, _| async move {
        peer.reset();
        Ok(())
    });
    assert_fails(resetting, "http", HTTP, "closed before an answer").await;
    let endless = checked(|mut peer: Peer, _| async move {
        peer.write(b"HTTP/1.1 200 OK\r\n").await?;
        while peer.write(b"X-Filler: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n").await.is_ok() {}
        peer.until_over().await
    });
    assert_fails(endless, "http", HTTP, "malformed answer: ").await;
}

/// Answers each check with the right 101, changed by `change`.
fn agreeing(change: fn(String) -> String) -> Backend {
    checked(move |mut peer: Peer, head| async move {
        peer.write(change(Peer::agreement(&head, "")).as_bytes()).await?;
        peer.until_over().await
    })
}

#[tokio::test]
async fn hlt_03_a_websocket_check_is_a_real_handshake_and_a_clean_close() {
    let closes = Arc::new(AtomicUsize::new(0));
    let count = closes.clone();
    let backend = checked(move |mut peer: Peer, head| {
        let count = count.clone();
        async move {
            // What a server says before the Close does not bother.
            peer.agree(&head, "").await?;
            peer.write(&Frame::text("welcome").bytes()).await?;
            peer.write(&Frame::new(OpCode::PING, "x").bytes()).await?;
            let close = peer.frame().await?;
            assert!(close.mask.is_some(), "a client's frame is masked");
            assert_eq!((close.opcode, close.close_code(), close.payload.len()), (OpCode::CLOSE, Some(1000), 2));
            peer.write(&Frame::close(1000, "").bytes()).await?;
            let (rest, end) = peer.rest().await?;
            assert_eq!((rest, end), (Vec::new(), End::Fin));
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let upstream = "health = { websocket = \"/check?x\", origin = \"https://app.example\", interval = \"100ms\" }";
    let cluster = Cluster::of(vec![backend]).scheme("ws").upstream(upstream).start();
    eventually("three clean ends", || closes.load(Ordering::SeqCst) >= 3).await;
    let heads = cluster.servers[0].requests();
    let head = &heads[0];
    assert_eq!(head.start, "GET /check?x HTTP/1.1");
    assert!(head.is_websocket() && head.get("sec-websocket-version") == Some("13"));
    assert_eq!(head.get("origin"), Some("https://app.example"));
    assert_eq!(head.get("host"), Some(&*cluster.servers[0].address.to_string()));
    assert!(head.fields.iter().any(|(name, _)| name == "Sec-WebSocket-Key"), "in the RFC's spelling");
    assert_ne!(heads[1].get("sec-websocket-key"), head.get("sec-websocket-key"));
    for name in ["sec-websocket-protocol", "sec-websocket-extensions"] {
        assert!(!head.has(name));
    }
    assert!(!cluster.said("is down"));
}

#[tokio::test]
async fn hlt_03_a_101_is_held_to_what_a_tunnels_is() {
    type Change = fn(String) -> String;
    let cases: [(Change, &str); 6] = [
        (
            |right| {
                let accept = right.lines().find(|line| line.starts_with("Sec-WebSocket-Accept")).expect("there");
                right.replace(accept, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
            },
            "Sec-WebSocket-Accept does not belong to the key",
        ),
        (|right| right.replace("Upgrade: websocket", "Upgrade: h2c"), "Upgrade is not exactly websocket"),
        (|right| right.replace("Connection: Upgrade\r\n", ""), "Connection does not hold upgrade"),
        (|right| right.replace("HTTP/1.1 101", "HTTP/1.0 101"), "the 101 is not HTTP/1.1"),
        (
            |right| right.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\n\r\n"),
            "the subprotocol was not offered",
        ),
        (
            |right| right.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
            "an extension was not offered",
        ),
    ];
    for (change, reason) in cases {
        assert_fails(agreeing(change), "ws", WEBSOCKET, reason).await;
    }
}

#[tokio::test]
async fn hlt_03_anything_but_a_101_is_a_failed_check() {
    for status in [200, 403, 426, 503] {
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        let reason = format!("the answer to the handshake was {status}");
        assert_fails(answering(answer), "ws", WEBSOCKET, &reason).await;
    }
    assert_fails(answering(""), "ws", WEBSOCKET, "no answer in time").await;
    assert_fails(answering("\x16\x03\x01\x02"), "ws", WEBSOCKET, "the answer is not HTTP").await;
    assert_fails(checked(|_, _| async { Ok(()) }), "ws", WEBSOCKET, "closed before an answer").await;
    let plain = Backend::scripted(async |mut peer: Peer| peer.until_over().await);
    assert_fails(plain, "wss", WEBSOCKET, "no connection in time").await;
}

#[tokio::test]
async fn hlt_03_over_tls_the_check_speaks_tls() {
    let backend = Backend::tls(ServerKind::Good, async |mut peer: Peer| {
        let head = peer.head().await?;
        peer.agree(&head, "").await?;
        peer.echo().await
    });
    let upstream = "ca = \"ca.pem\"\nhealth = { websocket = \"/check\", interval = \"100ms\" }";
    let cluster = Cluster::of(vec![backend]).scheme("wss").upstream(upstream).start();
    eventually("three checks", || cluster.servers[0].requests().len() >= 3).await;
    eventually("a clean end", || cluster.servers[0].records()[0].end() == End::Fin).await;
    assert!(!cluster.said("is down"));
}

#[tokio::test]
async fn hlt_03_how_a_server_takes_the_close_is_not_judged_and_nobody_waits_long_for_it() {
    let flooding = checked(|mut peer: Peer, head| async move {
        peer.agree(&head, "").await?;
        let frame = Frame::binary(vec![7; 60_000]).bytes();
        while peer.write(&frame).await.is_ok() {}
        peer.until_over().await
    });
    assert_passes(flooding, "ws", WEBSOCKET).await;
    let garbage = checked(|mut peer: Peer, head| async move {
        peer.agree(&head, "").await?;
        peer.write(&[0xff; 100]).await?;
        peer.until_over().await
    });
    assert_passes(garbage, "ws", WEBSOCKET).await;
    let upstream = "health = { websocket = \"/check\", interval = \"100ms\", timeout = \"5s\" }";
    let cluster = Cluster::of(vec![agreeing(|right| right)]).scheme("ws").upstream(upstream).start();
    eventually("a check", || cluster.servers[0].connections() == 1).await;
    let start = Instant::now();
    eventually("the next one", || cluster.servers[0].connections() == 2).await;
    assert!(start.elapsed() > Duration::from_millis(700) && start.elapsed() < Duration::from_secs(4));
    assert!(!cluster.said("is down"));
}

#[tokio::test]
async fn hlt_04_so_many_failures_in_a_row_take_a_server_out_and_so_many_successes_bring_it_back() {
    let number = Arc::new(AtomicUsize::new(0));
    let count = number.clone();
    let backend = checked(move |mut peer: Peer, _| {
        // Two in a row are not enough either way; three failures are, and two successes then.
        let results = "+--+-+---+-+-++";
        let result = results.as_bytes().get(count.fetch_add(1, Ordering::SeqCst)).copied().unwrap_or(b'+');
        async move {
            let status = if result == b'+' { "200" } else { "500" };
            peer.write(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
            peer.until_over().await
        }
    });
    let upstream = "health = { http = \"/check\", interval = \"100ms\", fall = 3, rise = 2 }";
    let cluster = Cluster::of(vec![backend]).upstream(upstream).start();
    eventually("all of it", || number.load(Ordering::SeqCst) >= 20).await;
    let url = format!("many: http{}", cluster.url(0));
    cluster.tells(&format!("{url} is down: 3 checks failed, the last: the answer was 500"), 1).await;
    cluster.tells(&format!("{url} is up again: 2 checks passed"), 1).await;
    assert_eq!((cluster.count_said("is down"), cluster.count_said("is up again")), (1, 1), "each told once");
}

#[tokio::test]
async fn hlt_05_a_server_that_is_down_gets_no_request_while_another_is_up_and_its_share_when_it_is_back() {
    let sick = Switch::new(false);
    let upstream = "health = { http = \"/check\", interval = \"100ms\", fall = 1, rise = 1 }";
    let servers = vec![sick.backend(), Switch::new(true).backend()];
    let cluster = Cluster::of(servers).upstream(upstream).start();
    cluster.tells("is down", 1).await;
    let (before, handshakes) = (cluster.requests(0, "/n"), cluster.requests(0, "/ws"));
    let mut kept = cluster.client().await;
    for _ in 0..20 {
        assert_eq!(cluster.status().await, 200);
        assert_eq!(cluster.shake().await, 101);
        assert_eq!(kept.ask(&Request::new("POST", "/n").body("x")).await.status, 200);
    }
    assert_eq!((cluster.requests(0, "/n"), cluster.requests(0, "/ws")), (before, handshakes));
    sick.turn(true);
    cluster.tells("is up again", 1).await;
    for _ in 0..20 {
        assert_eq!(cluster.status().await, 200);
    }
    assert_eq!(cluster.requests(0, "/n"), before + 10);
    sick.turn(false);
    cluster.tells("is down", 2).await;
    for _ in 0..10 {
        assert_eq!(cluster.status().await, 200);
    }
    assert_eq!(cluster.requests(0, "/n"), before + 10);
}

#[tokio::test]
async fn hlt_05_a_tunnel_stays_where_it_is_when_its_server_goes_down() {
    let sick = Switch::new(true);
    let upstream = "health = { http = \"/check\", interval = \"100ms\", fall = 1 }";
    let cluster = Cluster::of(vec![sick.backend()]).upstream(upstream).start();
    let mut client = cluster.client().await;
    client.open(&crate::harness::Handshake::to("/ws")).await;
    client.echo("before").await;
    sick.turn(false);
    cluster.tells("is down", 1).await;
    client.echo("after").await;
}

#[tokio::test]
async fn hlt_06_checks_of_one_server_never_overlap_and_end_with_their_timeout() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, seen) = (now.clone(), most.clone());
    let backend = Backend::scripted(move |mut peer: Peer| {
        let (now, most) = (counted.clone(), seen.clone());
        async move {
            let open = now.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(open, Ordering::SeqCst);
            let over = peer.until_over().await;
            now.fetch_sub(1, Ordering::SeqCst);
            over
        }
    });
    let upstream = "health = { http = \"/check\", interval = \"100ms\", timeout = \"300ms\" }";
    let cluster = Cluster::of(vec![backend]).upstream(upstream).start();
    let start = Instant::now();
    eventually("five checks", || cluster.servers[0].connections() >= 5).await;
    assert!(start.elapsed() >= Duration::from_millis(1200), "{:?}", start.elapsed());
    // One may still be seen as open by its server when the next one comes.
    assert!(most.load(Ordering::SeqCst) <= 1, "{most:?} at once");
    cluster.tells("is down", 1).await;
}

#[tokio::test]
async fn hlt_06_requests_are_served_while_the_first_check_hangs() {
    let hanging = Backend::scripted(async |mut peer: Peer| {
        let head = peer.head().await?;
        if head.target().starts_with("/check") {
            return peer.until_over().await;
        }
        peer.serve_from(head).await
    });
    let upstream = "health = { http = \"/check\", interval = \"5s\", timeout = \"4s\" }\npanic = \"refuse\"";
    let cluster = Cluster::of(vec![hanging]).upstream(upstream).start();
    eventually("the first check", || cluster.requests(0, "/check") == 1).await;
    // Until it has failed the server counts as up: a start refuses nobody.
    for _ in 0..10 {
        assert_eq!(cluster.status().await, 200);
    }
}

#[tokio::test]
async fn hlt_07_where_every_server_is_down_all_are_asked_as_if_they_were_up() {
    let upstream = "health = { http = \"/check\", interval = \"100ms\" }";
    let servers = vec![Switch::new(false).backend(), Switch::new(false).backend()];
    let cluster = Cluster::of(servers).upstream(upstream).start();
    cluster.tells("is down", 2).await;
    for _ in 0..10 {
        assert_eq!(cluster.status().await, 200);
        assert_eq!(cluster.shake().await, 101);
    }
    assert!((0..2).all(|server| cluster.requests(server, "/n") + cluster.requests(server, "/ws") == 10));
}

#[tokio::test]
async fn hlt_07_or_refused_at_once_where_the_file_says_so() {
    let sick = Switch::new(false);
    let upstream = "panic = \"refuse\"\nhealth = { http = \"/check\", interval = \"100ms\" }";
    let servers = vec![sick.backend(), Switch::new(false).backend()];
    let cluster = Cluster::of(servers).upstream(upstream).start();
    cluster.tells("is down", 2).await;
    let start = Instant::now();
    cluster.ask(&Request::get("/n")).await.assert_refused(503, "upstream-unavailable");
    assert_eq!(cluster.shake().await, 503);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!((0..2).all(|server| cluster.requests(server, "/n") + cluster.requests(server, "/ws") == 0));
    sick.turn(true);
    cluster.tells("is up again", 1).await;
    assert_eq!(cluster.status().await, 200);
}
