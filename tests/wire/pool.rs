//! POL: which upstream connection may carry the next request, and what a broken one may cost (RFC 9112 §9).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::{Backend, Fields, Peer, Request, ServerKind, Setup, Stage, Way, eventually, holds_within};

#[tokio::test]
async fn pol_01_one_request_after_another_uses_one_connection() {
    for way in Way::ALL {
        let stage = Stage::standard().await;
        for _ in 0..10 {
            let request = Request::get("/n");
            let answer = way.ask(&stage, &request).await;
            assert_eq!((answer.status, answer.text()), (200, request.nonce));
        }
        assert_eq!(stage.b1.connections(), 1, "{way:?}");
    }
}

/// Answers each connection's first request and hangs up at once, without a word about it.
fn hanging_up(counts: Arc<Mutex<HashMap<String, usize>>>) -> Backend {
    Backend::scripted(move |mut peer: Peer| {
        let counts = counts.clone();
        async move {
            let head = peer.head().await?;
            peer.request_body(&head).await?;
            *counts.lock().expect("counts").entry(head.get("x-nonce").unwrap_or_default().to_owned()).or_default() += 1;
            peer.nonce(&head).await
        }
    })
}

#[tokio::test]
async fn pol_02_a_pooled_connection_that_has_died_costs_nobody_an_answer() {
    let counts = Arc::<Mutex<HashMap<String, usize>>>::default();
    let stage = Setup::new().b1(hanging_up(counts)).start();
    let mut client = stage.clear().await;
    for number in 0..500 {
        let request = Request::get("/n");
        let answer = client.ask(&request).await;
        assert_eq!((answer.status, answer.text()), (200, request.nonce), "request {number}");
    }
    let mut h2 = stage.h2().await;
    for _ in 0..50 {
        let request = Request::get("/n");
        assert_eq!(h2.ask(&request).await.text(), request.nonce);
    }
}

#[tokio::test]
async fn pol_03_a_post_is_never_executed_twice() {
    let counts = Arc::<Mutex<HashMap<String, usize>>>::default();
    let stage = Setup::new().b1(hanging_up(counts.clone())).start();
    let mut client = stage.clear().await;
    let mut served = 0;
    for _ in 0..300 {
        let request = Request::new("POST", "/n").body("hello");
        let answer = client.ask(&request).await;
        assert!([200, 502].contains(&answer.status), "{answer:?}");
        served += usize::from(answer.status == 200);
        if answer.status == 200 {
            assert_eq!(answer.text(), request.nonce);
        }
    }
    assert!(counts.lock().expect("counts").values().all(|count| *count == 1));
    assert!(served >= 150, "{served} of 300");
}

#[tokio::test]
async fn pol_03_a_post_that_was_read_and_not_answered_is_502_and_not_repeated() {
    for way in Way::ALL {
        let executed = Arc::new(AtomicUsize::new(0));
        let count = executed.clone();
        let backend = Backend::scripted(move |mut peer: Peer| {
            let count = count.clone();
            async move {
                let head = peer.head().await?;
                peer.request_body(&head).await?;
                if head.method() == "POST" {
                    count.fetch_add(1, Ordering::SeqCst);
                    peer.reset();
                    return Ok(());
                }
                peer.nonce(&head).await?;
                let head = peer.head().await?;
                peer.request_body(&head).await?;
                count.fetch_add(usize::from(head.method() == "POST"), Ordering::SeqCst);
                peer.reset();
                Ok(())
            }
        });
        let stage = Setup::new().b1(backend).start();
        // Fresh connection, then a reused one.
        way.ask(&stage, &Request::new("POST", "/n").body("x")).await.assert_refused(502, "upstream-closed");
        assert_eq!(way.ask(&stage, &Request::get("/n")).await.status, 200);
        way.ask(&stage, &Request::new("POST", "/n").body("x")).await.assert_refused(502, "upstream-closed");
        assert_eq!(executed.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn pol_08_servers_with_different_tls_identities_share_no_connection() {
    let backend = Backend::tls(ServerKind::Good, async |mut peer: Peer| peer.serve().await);
    let upstream = |name: &str, url: &str, more: &str| {
        format!(
            "[[route]]\nhosts = [\"a.test\"]\npath = \"/{name}\"\nupstream = \"{name}\"\n\
             [upstream.{name}]\nservers = [\"{url}\"]\nca = \"ca.pem\"\n{more}\n"
        )
    };
    let stage = Setup::new()
        .b1(backend)
        .upstream_url("https://127.0.0.1:{P1}")
        .upstream("ca = \"ca.pem\"")
        .more(&upstream("by-name", "https://localhost:{P1}", ""))
        .more(&upstream(
            "by-certificate",
            "https://127.0.0.1:{P1}",
            "client_cert = \"client.pem\"\nclient_key = \"client.key\"",
        ))
        .start();
    for _ in 0..2 {
        for path in ["/n", "/by-name", "/by-certificate"] {
            let request = Request::get(path);
            let answer = Way::Clear.ask(&stage, &request).await;
            assert_eq!((answer.status, answer.text()), (200, request.nonce), "{path}");
        }
    }
    assert_eq!(stage.b1.connections(), 3);
    for record in stage.b1.records() {
        let paths: Vec<_> = record.heads().iter().map(|head| head.target().to_owned()).collect();
        assert_eq!(paths.len(), 2);
        assert_eq!(paths[0], paths[1]);
    }
}

#[tokio::test]
async fn pol_10_a_client_that_leaves_within_an_answer_ends_the_upstream() {
    for way in Way::ALL {
        let backend = Backend::scripted(async |mut peer: Peer| {
            let head = peer.head().await?;
            if !head.target().starts_with("/n/long") {
                peer.nonce(&head).await?;
                return peer.serve().await;
            }
            peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 100 << 20).as_bytes()).await?;
            let block = vec![b'x'; 64 * 1024];
            while peer.write(&block).await.is_ok() {}
            peer.until_over().await
        });
        let stage = Setup::new().b1(backend).start();
        if way == Way::H2 {
            let mut h2 = stage.h2().await;
            let (answer, _send) = h2.begin(Request::get("/n/long").to_h2(), true).await;
            let answer = answer.await.expect("a head");
            assert_eq!(answer.status(), 200);
            drop(answer);
        } else {
            let mut client = way.client(&stage).await;
            client.send(Request::get("/n/long").to_h1()).await;
            assert_eq!(client.head().await.status(), 200);
            client.exact(100_000).await;
            client.reset();
        }
        let record = stage.b1.records().remove(0);
        assert!(holds_within(Duration::from_secs(1), || record.is_over()).await, "{way:?}");
        stage.assert_serving().await;
        assert_eq!(stage.b1.connections(), 2);
    }
}

#[tokio::test]
async fn pol_10_a_stream_that_is_reset_before_the_answer_ends_the_upstream() {
    let backend = Backend::scripted(async |mut peer: Peer| {
        peer.head().await?;
        peer.until_over().await
    });
    let stage = Setup::new().b1(backend).start();
    let mut h2 = stage.h2().await;
    let (answer, mut send) = h2.begin(Request::get("/n").to_h2(), true).await;
    eventually("the request upstream", || stage.b1.requests().len() == 1).await;
    send.send_reset(h2::Reason::CANCEL);
    drop(answer);
    let record = stage.b1.records().remove(0);
    assert!(holds_within(Duration::from_secs(1), || record.is_over()).await);
}
