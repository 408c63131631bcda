//! EJC: what live traffic learns of servers: who is taken out, for how long, and who tries it again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Backend, Client, Cluster, Head, Peer, Request, ServerKind, eventually, pause};

/// Ejects after three, for longer than a test takes.
const THREE: &str = "ejection = { failures = 3, duration = \"60s\" }\nretries = 0";

/// Does with each request what `script` says; false ends the connection.
fn doing<C, F>(script: C) -> Backend
where
    C: Fn(Peer, Head) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<Option<Peer>>> + Send,
{
    Backend::scripted(move |mut peer: Peer| {
        let script = script.clone();
        async move {
            loop {
                let head = peer.head().await?;
                peer.request_body(&head).await?;
                match script(peer, head).await? {
                    Some(same) => peer = same,
                    None => return Ok(()),
                }
            }
        }
    })
}

/// Answers everything with this status.
fn failing(status: u16) -> Backend {
    doing(move |mut peer: Peer, _| async move {
        peer.write(format!("HTTP/1.1 {status} X\r\nContent-Length: 1\r\n\r\nx").as_bytes()).await?;
        Ok(Some(peer))
    })
}

/// Writes these bytes and ends.
fn ending(bytes: &'static str) -> Backend {
    doing(move |mut peer: Peer, _| async move {
        peer.write(bytes.as_bytes()).await?;
        Ok(None)
    })
}

/// What the client sees of a request, broken answers included.
async fn try_status(client: &mut Client, request: &Request) -> Option<u16> {
    client.try_send(request.to_h1()).await.ok()?;
    client.try_answer(&request.method).await.ok().map(|answer| answer.status)
}

/// Fails unless such a server, beside a good one, gets exactly three of many requests.
async fn assert_ejected(bad: Backend, route: &str, reason: &str) {
    let cluster = Cluster::of(vec![bad, Backend::standard()]).upstream(THREE).route(route).start();
    for _ in 0..20 {
        try_status(&mut cluster.client().await, &Request::get("/n")).await;
    }
    assert_eq!(cluster.servers[0].requests().len(), 3, "{}", cluster.gateway.stderr());
    assert_eq!(cluster.servers[1].requests().len(), 17);
    let line = format!("many: http{} is ejected for 60s: 3 failures in a row, the last: {reason}", cluster.url(0));
    cluster.tells(&line, 1).await;
    cluster.tells("is ejected", 1).await;
}

/// Fails unless such a server keeps its share.
async fn assert_kept(server: Backend, request: impl Fn() -> Request) {
    let cluster = Cluster::of(vec![server, Backend::standard()]).upstream(THREE).start();
    for _ in 0..20 {
        try_status(&mut cluster.client().await, &request()).await;
    }
    assert_eq!(cluster.servers[0].requests().len(), 10, "{}", cluster.gateway.stderr());
    assert!(!cluster.said("is ejected"));
}

#[tokio::test]
async fn ejc_01_so_many_answers_in_a_row_that_blame_the_server_take_it_out() {
    for status in [500, 502, 503, 504] {
        assert_ejected(failing(status), "", &format!("the answer was {status}")).await;
    }
}

#[tokio::test]
async fn ejc_01_other_statuses_do_not() {
    for status in [400, 401, 404, 429, 501, 505] {
        assert_kept(failing(status), || Request::get("/n")).await;
    }
}

#[tokio::test]
async fn ejc_01_a_good_answer_in_between_starts_the_count_anew() {
    let number = Arc::new(AtomicUsize::new(0));
    let sometimes = doing(move |mut peer: Peer, head| {
        let good = number.fetch_add(1, Ordering::SeqCst) % 3 == 2;
        async move {
            if good {
                peer.nonce(&head).await?;
            } else {
                peer.write(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n").await?;
            }
            Ok(Some(peer))
        }
    });
    assert_kept(sometimes, || Request::get("/n")).await;
}

#[tokio::test]
async fn ejc_01_handshakes_count_by_what_comes_of_them() {
    for (status, ejected) in [(503, true), (403, false), (200, false), (426, false)] {
        let cluster = Cluster::of(vec![failing(status), Backend::standard()]).upstream(THREE).start();
        for _ in 0..20 {
            cluster.shake().await;
        }
        let asked = if ejected { 3 } else { 10 };
        assert_eq!(cluster.servers[0].requests().len(), asked, "{status}: {}", cluster.gateway.stderr());
    }
    // A tunnel is a success.
    let number = Arc::new(AtomicUsize::new(0));
    let sometimes = doing(move |mut peer: Peer, head| {
        let good = number.fetch_add(1, Ordering::SeqCst) % 3 == 2;
        async move {
            if good {
                peer.agree(&head, "").await?;
                peer.until_over().await?;
            } else {
                peer.write(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n").await?;
            }
            Ok(None)
        }
    });
    let cluster = Cluster::of(vec![sometimes, Backend::standard()]).upstream(THREE).start();
    for _ in 0..20 {
        cluster.shake().await;
    }
    assert_eq!(cluster.servers[0].requests().len(), 10);
}

#[tokio::test]
async fn ejc_02_no_answer_and_what_is_none_count() {
    assert_ejected(ending(""), "", "closed before an answer").await;
    let resetting = doing(|peer: Peer, _| async move {
        peer.reset();
        Ok(None)
    });
    assert_ejected(resetting, "", "closed before an answer").await;
    assert_ejected(ending("HTTP/1.1 200 OK\r\nContent-Le"), "", "closed before an answer").await;
    assert_ejected(ending("garbage\r\n\r\n"), "", "malformed answer").await;
    let both = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    assert_ejected(ending(both), "", "a transfer coding other than chunked").await;
    let unasked = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n";
    assert_ejected(ending(unasked), "", "a 101 that nobody asked for").await;
    let silent = doing(|mut peer: Peer, _| async move {
        peer.until_over().await?;
        Ok(None)
    });
    assert_ejected(silent, "[route.timeouts]\nresponse = \"100ms\"", "no answer in time").await;
}

#[tokio::test]
async fn ejc_02_an_answer_that_breaks_off_counts_whatever_its_head_said() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
    assert_ejected(ending(half), "", "the answer broke off: ").await;
    let resetting = doing(move |mut peer: Peer, _| async move {
        peer.write(half.as_bytes()).await?;
        // Not before the gateway has had it.
        pause(20).await;
        peer.reset();
        Ok(None)
    });
    assert_ejected(resetting, "", "the answer broke off: ").await;
}

#[tokio::test]
async fn ejc_02_a_101_that_does_not_agree_counts() {
    let lying = doing(|mut peer: Peer, head| async move {
        peer.write(Peer::agreement(&head, "").replace("Accept: ", "Accept: x").as_bytes()).await?;
        peer.until_over().await?;
        Ok(None)
    });
    let cluster = Cluster::of(vec![lying, Backend::standard()]).upstream(THREE).start();
    for _ in 0..20 {
        cluster.shake().await;
    }
    assert_eq!(cluster.servers[0].requests().len(), 3);
    cluster.tells("3 failures in a row, the last: Sec-WebSocket-Accept does not belong to the key", 1).await;
}

#[tokio::test]
async fn ejc_03_one_connection_that_cannot_be_made_is_enough_and_costs_nobody_an_answer() {
    let port = Backend::closed_port();
    let cluster = Cluster::of(vec![Backend::standard()])
        .further(&format!("http://127.0.0.1:{port}"))
        .upstream("ejection = { duration = \"60s\" }")
        .start();
    for _ in 0..10 {
        assert_eq!(cluster.status().await, 200);
        assert_eq!(cluster.shake().await, 101);
    }
    let line = format!("many: http://127.0.0.1:{port} is ejected for 60s: cannot connect: ");
    cluster.tells(&line, 1).await;
}

#[tokio::test]
async fn ejc_03_a_certificate_that_is_not_valid_is_no_connection() {
    let bad = Backend::tls(ServerKind::Expired, async |mut peer: Peer| peer.serve().await);
    let good = Backend::tls(ServerKind::Good, async |mut peer: Peer| peer.serve().await);
    let upstream = "ca = \"ca.pem\"\nejection = { duration = \"60s\" }";
    let cluster = Cluster::of(vec![bad, good]).scheme("https").upstream(upstream).start();
    for _ in 0..10 {
        assert_eq!(cluster.status().await, 200);
    }
    assert_eq!(cluster.servers[0].connections(), 1);
    cluster.tells("is ejected for 60s: TLS handshake failed: ", 1).await;
}

#[tokio::test]
async fn ejc_03_several_dead_servers_are_passed_within_one_request_if_there_are_as_many_retries() {
    let dead = || format!("http://127.0.0.1:{}", Backend::refusing_port());
    let cluster = Cluster::of(vec![])
        .further(&dead())
        .further(&dead())
        .further(&dead())
        .upstream("retries = 2\nejection = { duration = \"60s\" }")
        .start();
    cluster.ask(&Request::get("/n")).await.assert_refused(502, "upstream-unreachable");
    // Each was asked once.
    cluster.tells("is ejected", 3).await;
    // The last resort is to try, again and again.
    cluster.ask(&Request::get("/n")).await.assert_refused(502, "upstream-unreachable");
    assert_eq!(cluster.shake().await, 502);

    let cluster =
        Cluster::of(vec![Backend::standard()]).further(&dead()).further(&dead()).upstream("retries = 2").start();
    for _ in 0..10 {
        assert_eq!(cluster.status().await, 200);
    }
}

#[tokio::test]
async fn ejc_03_an_only_server_that_cannot_be_reached_is_asked_all_the_same_unless_the_file_would_rather_refuse() {
    let dead = format!("http://127.0.0.1:{}", Backend::refusing_port());
    let cluster = Cluster::of(vec![]).further(&dead).upstream("ejection = { duration = \"60s\" }").start();
    for _ in 0..3 {
        cluster.ask(&Request::get("/n")).await.assert_refused(502, "upstream-unreachable");
    }
    let upstream = "ejection = { duration = \"60s\" }\npanic = \"refuse\"";
    let cluster = Cluster::of(vec![]).further(&dead).upstream(upstream).start();
    cluster.ask(&Request::get("/n")).await.assert_refused(502, "upstream-unreachable");
    for _ in 0..3 {
        cluster.ask(&Request::get("/n")).await.assert_refused(503, "upstream-unavailable");
        assert_eq!(cluster.shake().await, 503);
    }
}

#[tokio::test]
async fn ejc_04_no_more_servers_are_taken_out_than_the_file_allows() {
    for (keys, out) in [("", 1), (", max_ejected_percent = 70", 2), (", max_ejected_percent = 10", 0)] {
        let upstream =
            format!("ejection = {{ failures = 3, duration = \"60s\"{keys} }}\nretries = 0\npanic = \"refuse\"");
        let servers = vec![failing(500), failing(502), failing(503)];
        let cluster = Cluster::of(servers).upstream(&upstream).workers(2).start();
        for _ in 0..40 {
            assert!([500, 502, 503].contains(&cluster.status().await), "nobody is refused");
        }
        cluster.tells("is ejected", out).await;
    }
}

#[tokio::test]
async fn ejc_04_an_only_server_is_never_taken_out_for_its_answers() {
    let cluster = Cluster::of(vec![failing(503)]).upstream("panic = \"refuse\"").start();
    for _ in 0..20 {
        let answer = cluster.ask(&Request::get("/n")).await;
        assert_eq!((answer.status, answer.text()), (503, "x".to_owned()), "the server's own answer");
    }
}

#[tokio::test]
async fn ejc_05_after_an_ejection_one_request_tries_the_server_and_the_others_go_elsewhere_until_it_is_answered() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let failed = Arc::new(AtomicUsize::new(0));
    let sick = doing(move |mut peer: Peer, head| {
        let (mut wait, first) = (wait.clone(), failed.fetch_add(1, Ordering::SeqCst) < 3);
        async move {
            if first {
                peer.write(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n").await?;
            } else {
                let _ = wait.wait_for(|go| *go).await;
                peer.nonce(&head).await?;
            }
            Ok(Some(peer))
        }
    });
    let upstream = "ejection = { failures = 3, duration = \"200ms\" }\nretries = 0";
    let cluster = Cluster::of(vec![sick, Backend::standard()]).upstream(upstream).workers(2).start();
    while !cluster.said("is ejected") {
        cluster.status().await;
    }
    pause(250).await;
    // Somebody gets the trial, and waits; all others are answered.
    let asked = || cluster.servers.iter().map(|server| server.requests().len()).sum::<usize>();
    let mut waiting = Vec::new();
    while cluster.servers[0].requests().len() == 3 {
        let before = asked();
        let mut client = cluster.client().await;
        client.send(Request::get("/n").to_h1()).await;
        eventually("the request at one of them", || asked() > before).await;
        waiting.push(client);
    }
    for _ in 0..20 {
        assert_eq!(cluster.status().await, 200);
        assert_eq!(cluster.shake().await, 101);
    }
    assert_eq!(cluster.servers[0].requests().len(), 4, "one at a time");
    assert!(!cluster.said("is back"));
    go.send(true).expect("a waiting server");
    cluster.tells("is back", 1).await;
    for _ in 0..10 {
        assert_eq!(cluster.status().await, 200);
    }
    // Its share of the ten; each of the two workers may have begun at either server.
    let asked = cluster.servers[0].requests().len();
    assert!((8..=10).contains(&asked), "{asked}");
}

#[tokio::test]
async fn ejc_05_a_trial_that_fails_ejects_for_twice_as_long() {
    let upstream = "ejection = { failures = 3, duration = \"100ms\", max_duration = \"300ms\" }\nretries = 0";
    let cluster = Cluster::of(vec![failing(503), Backend::standard()]).upstream(upstream).start();
    let start = Instant::now();
    while cluster.count_said("is ejected for 300ms: its trial failed: the answer was 503") < 2 {
        cluster.status().await;
        assert!(start.elapsed() < Duration::from_secs(20), "{}", cluster.gateway.stderr());
    }
    assert!(cluster.said("is ejected for 100ms: 3 failures in a row"));
    assert!(cluster.said("is ejected for 200ms: its trial failed"));
    assert!(start.elapsed() > Duration::from_millis(590), "{:?}", start.elapsed());
    assert_eq!(cluster.servers[0].requests().len(), 2 + cluster.count_said("is ejected"));
}

#[tokio::test]
async fn ejc_05_a_server_that_could_not_be_reached_is_back_with_the_first_connection() {
    let port = Backend::closed_port();
    let cluster = Cluster::of(vec![])
        .further(&format!("http://127.0.0.1:{port}"))
        .upstream("ejection = { duration = \"60s\" }")
        .start();
    cluster.ask(&Request::get("/n")).await.assert_refused(502, "upstream-unreachable");
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port again");
    let mut client = cluster.client().await;
    client.send(Request::get("/n").to_h1()).await;
    let _open = listener.accept().await.expect("a connection");
    cluster.tells("is back: it answers again", 1).await;
}

#[tokio::test]
async fn ejc_06_all_workers_count_together() {
    let cluster = Cluster::of(vec![failing(500), Backend::standard()]).upstream(THREE).workers(2).start();
    // Connections are given out in turns, so that each worker has one of two that are open at once.
    let mut clients = [cluster.client().await, cluster.client().await];
    for round in 0..20 {
        try_status(&mut clients[round % 2], &Request::get("/n")).await;
    }
    assert_eq!(cluster.servers[0].requests().len(), 3, "{}", cluster.gateway.stderr());
}

#[tokio::test]
async fn ejc_07_a_kept_connection_that_the_server_closes_is_not_its_fault() {
    // It answers each connection's first request and hangs up without a word.
    let closing = doing(|mut peer: Peer, head| async move {
        peer.nonce(&head).await?;
        Ok(None)
    });
    let cluster = Cluster::of(vec![closing, Backend::standard()]).upstream(THREE).start();
    let mut client = cluster.client().await;
    for number in 0..200 {
        let method = if number % 4 == 0 { "POST" } else { "GET" };
        try_status(&mut client, &Request::new(method, "/n").body("x")).await;
    }
    assert!(!cluster.said("is ejected"), "{}", cluster.gateway.stderr());
}

#[tokio::test]
async fn ejc_07_a_client_that_breaks_off_or_dawdles_is_not_held_against_the_server() {
    let route = "[route.timeouts]\nresponse = \"200ms\"\nrequest_body_idle = \"10s\"";
    let patient = || {
        Backend::scripted(async |mut peer: Peer| {
            let head = peer.head().await?;
            peer.request_body(&head).await?;
            peer.until_over().await
        })
    };
    let cluster = Cluster::of(vec![patient(), patient()]).upstream(THREE).route(route).start();
    for round in 0..12 {
        let mut client = cluster.client().await;
        client.send("POST /n HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhalf").await;
        if round % 2 == 0 {
            // The server has got all that there was, and cannot answer.
            assert_eq!(client.answer().await.status, 504);
        } else {
            let seen = cluster.servers.iter().map(|server| server.requests().len()).sum::<usize>();
            eventually("the request upstream", || {
                seen > round || cluster.servers.iter().map(|server| server.requests().len()).sum::<usize>() > round
            })
            .await;
            client.reset();
        }
    }
    assert!(!cluster.said("is ejected"), "{}", cluster.gateway.stderr());
}

#[tokio::test]
async fn ejc_07_a_client_that_leaves_within_an_answer_is_not_held_against_the_server() {
    let streaming = || {
        doing(|mut peer: Peer, _| async move {
            peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\nstart").await?;
            peer.until_over().await?;
            Ok(None)
        })
    };
    let cluster = Cluster::of(vec![streaming(), streaming()]).upstream(THREE).start();
    for _ in 0..12 {
        let mut client = cluster.client().await;
        client.send(Request::get("/n").to_h1()).await;
        assert_eq!(client.head().await.status(), 200);
        client.reset();
    }
    eventually("all of them", || cluster.servers.iter().all(|server| server.requests().len() == 6)).await;
    assert!(!cluster.said("is ejected"));
}

#[tokio::test]
async fn ejc_07_without_ejection_every_server_keeps_its_share() {
    let upstream = "ejection = false\nretries = 0";
    let cluster = Cluster::of(vec![failing(500), Backend::standard()]).upstream(upstream).start();
    for _ in 0..20 {
        cluster.status().await;
    }
    assert_eq!(cluster.servers[0].requests().len(), 10);
}
