//! H2U-14: health checks of servers that speak HTTP/2.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{Backend, Cluster, End, Exchange, Frame, H2Server, Request, eventually, holds_within};

/// Answers `/check` with `check`, and everything else in the standard way.
fn checked<F, Fut>(server: &H2Server, check: F) -> Backend
where
    F: Fn(Exchange) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    server.scripted(move |exchange| {
        let check = check.clone();
        async move { if exchange.path() == "/check" { check(exchange).await } else { exchange.standard().await } }
    })
}

/// Fails unless the first check with these keys is failed by such a server, for this reason.
async fn assert_fails(backend: Backend, scheme: &str, keys: &str, reason: &str) {
    let cluster = Cluster::of(vec![backend]).scheme(scheme).upstream(keys).start();
    assert!(
        holds_within(Duration::from_secs(10), || cluster.said(reason)).await,
        "{keys}: {reason:?} is not in {}",
        cluster.gateway.stderr()
    );
}

/// Fails unless such a server passes a few checks with these keys, each on a connection of its own, and serves.
async fn assert_passes(backend: Backend, scheme: &str, keys: &str) {
    let cluster = Cluster::of(vec![backend]).scheme(scheme).upstream(keys).start();
    eventually("four checks", || cluster.servers[0].connections() >= 4).await;
    assert!(!cluster.said("is down"), "{keys}: {}", cluster.gateway.stderr());
    let request = Request::get("/n");
    assert_eq!(cluster.ask(&request).await.text(), request.nonce);
}

const EVERY: &str = "interval = \"100ms\", timeout = \"1s\", fall = 1";

#[tokio::test]
async fn h2u_14_a_check_speaks_what_requests_speak() {
    let clear = format!("protocols = [\"h2c\"]\nhealth = {{ http = \"/check\", body = \"fine\", {EVERY} }}");
    let server = H2Server::new();
    let fine = |exchange: Exchange| exchange.answer(200, &[], "all is fine");
    assert_passes(checked(&server, fine), "http", &clear).await;
    let head = server.heads().remove(0);
    assert_eq!(head.headers["user-agent"], "portcullis-health-check");
    assert!(!head.headers.contains_key("connection") && head.uri.path() == "/check", "{head:?}");
    for (protocols, over_h2) in [(r#"["h2", "http/1.1"]"#, true), (r#"["h2"]"#, true), (r#"["http/1.1"]"#, false)] {
        let server = H2Server::new().tls(if over_h2 { &["h2"] } else { &["http/1.1"] });
        let keys = format!("ca = \"ca.pem\"\nprotocols = {protocols}\nhealth = {{ http = \"/check\", {EVERY} }}");
        assert_passes(server.standard(), "https", &keys).await;
        assert_eq!(server.heads().is_empty(), !over_h2, "{protocols}");
    }
}

#[tokio::test]
async fn h2u_14_what_is_asked_for_decides_over_http2_too() {
    let keys = |check: &str| format!("protocols = [\"h2c\"]\nhealth = {{ {check}, {EVERY} }}");
    let server = H2Server::new();
    let ill = checked(&server, |exchange| exchange.answer(503, &[], ""));
    assert_fails(ill, "http", &keys("http = \"/check\""), "is down: its first check failed: the answer was 503").await;
    let other = checked(&server, |exchange| exchange.answer(200, &[], "something else"));
    assert_fails(other, "http", &keys("http = \"/check\", body = \"fine\""), "the body does not hold the text").await;
    let silent = checked(&server, |exchange| async move {
        std::future::pending::<()>().await;
        drop(exchange);
    });
    assert_fails(silent, "http", &keys("http = \"/check\""), "no answer in time").await;
    let cut = checked(&server, |mut exchange: Exchange| async move {
        exchange.begin(200, &[]).send_reset(h2::Reason::CANCEL);
    });
    assert_fails(cut, "http", &keys("http = \"/check\", body = \"fine\""), "is down").await;
    let http1 = Backend::standard();
    assert_fails(http1, "http", &keys("http = \"/check\""), "is down: its first check failed: ").await;
}

#[tokio::test]
async fn h2u_14_a_handshake_that_is_a_check_goes_the_way_of_a_clients_and_is_closed() {
    let keys = format!("protocols = [\"h2c\"]\nhealth = {{ websocket = \"/check\", {EVERY} }}");
    let (server, closed) = (H2Server::new(), Arc::new(AtomicUsize::new(0)));
    let counter = closed.clone();
    let backend = checked(&server, move |exchange: Exchange| {
        let counter = counter.clone();
        async move {
            assert!(exchange.field("sec-websocket-key").is_none());
            assert_eq!(exchange.field("sec-websocket-version"), Some("13"));
            let mut stream = exchange.open(&[]);
            let close = stream.frame().await;
            assert_eq!(close.unmasked(), Frame::close(1000, ""));
            stream.write(Frame::close(1000, "").bytes()).await;
            stream.finish().await;
            if stream.rest().await.1 == End::Fin {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    assert_passes(backend, "http", &keys).await;
    assert!(closed.load(Ordering::SeqCst) >= 2);
    let refusing = checked(&H2Server::new(), |exchange| exchange.answer(403, &[], ""));
    assert_fails(refusing, "http", &keys, "the answer to the handshake was 403").await;
    let unasked = checked(&H2Server::new(), |exchange: Exchange| async move {
        exchange.open(&[("sec-websocket-protocol", "x")]).rest().await;
    });
    assert_fails(unasked, "http", &keys, "the subprotocol was not offered").await;
    let without = H2Server::default().settings(|_| {}).standard();
    assert_fails(without, "http", &keys, "opens no WebSockets over HTTP/2").await;
}

#[tokio::test]
async fn h2u_14_without_the_setting_a_checks_handshake_goes_over_http_1() {
    let server = H2Server::default().settings(|_| {}).tls(&["h2", "http/1.1"]);
    let keys =
        format!("ca = \"ca.pem\"\nprotocols = [\"h2\", \"http/1.1\"]\nhealth = {{ websocket = \"/ws\", {EVERY} }}");
    let cluster = Cluster::of(vec![server.standard()]).scheme("https").upstream(&keys).start();
    eventually("three checks", || cluster.servers[0].requests().len() >= 3).await;
    assert!(server.heads().is_empty() && !cluster.said("is down"), "{}", cluster.gateway.stderr());
}

#[tokio::test]
async fn h2u_14_checks_leave_no_connection_behind() {
    let keys = format!("protocols = [\"h2c\"]\nhealth = {{ http = \"/check\", {EVERY} }}");
    let server = H2Server::new();
    let backend = checked(&server, |exchange| exchange.answer(200, &[], "endless"));
    let cluster = Cluster::of(vec![backend]).upstream(&keys).start();
    eventually("five checks", || cluster.servers[0].connections() >= 5).await;
    let before = cluster.gateway.descriptors();
    eventually("fifteen checks", || cluster.servers[0].connections() >= 15).await;
    assert!(cluster.gateway.descriptors() <= before + 2, "{before}, then {}", cluster.gateway.descriptors());
}
