//! Peers that mean harm, on either side: odd answers, resets in the worst moment, bytes where none belong.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{Backend, Fields, Frame, Handshake, Peer, Request, SMUG, Setup, Stage, Way, eventually, pause};

#[tokio::test]
async fn rsp_06_a_101_that_nobody_asked_for_is_502_whatever_was_asked() {
    for way in Way::ALL {
        let backend = Backend::scripted(async |mut peer: Peer| {
            loop {
                let head = peer.head().await?;
                if head.has("x-odd") {
                    let odd = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
                    peer.write(format!("{odd}{SMUG}").as_bytes()).await?;
                    return peer.until_over().await;
                }
                peer.handle(&head).await?;
            }
        });
        let stage = Setup::new().b1(backend).start();
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
            let mut request = Request::new(method, "/n").field("X-Odd", "1");
            if method.starts_with('P') {
                request = request.body("hello");
            }
            let answer = way.ask(&stage, &request).await;
            answer.assert_refused(502, "unexpected-upgrade");
            let next = Request::get("/n");
            assert_eq!(way.ask(&stage, &next).await.text(), next.nonce);
        }
        assert!(!stage.b2.saw("SMUGGLED"));
    }
}

#[tokio::test]
async fn int_05_any_number_of_interim_answers_is_swallowed_without_growing() {
    for way in Way::ALL {
        let backend = Backend::scripted(async |mut peer: Peer| {
            let head = peer.head().await?;
            let batch = "HTTP/1.1 103 Early Hints\r\nLink: </x.css>; rel=preload\r\n\r\n".repeat(500);
            for _ in 0..40 {
                peer.write(batch.as_bytes()).await?;
            }
            peer.nonce(&head).await?;
            peer.serve().await
        });
        let stage = Setup::new().b1(backend).start();
        let before = stage.gateway.rss();
        let request = Request::get("/n");
        let answer = way.ask(&stage, &request).await;
        assert_eq!((answer.status, answer.text()), (200, request.nonce));
        let grown = stage.gateway.rss().saturating_sub(before);
        assert!(grown < 8 * 1024, "{way:?}: {grown} KiB");
    }
}

#[tokio::test]
async fn int_05_interim_answers_without_end_run_into_the_response_timeout() {
    for handshake in [false, true] {
        let backend = Backend::scripted(async |mut peer: Peer| {
            peer.head().await?;
            while peer.write(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_ok() {
                pause(5).await;
            }
            Ok(())
        });
        let stage = Setup::new().b1(backend).route_timeouts("response = \"500ms\"").start();
        for way in Way::ALL {
            if handshake {
                way.refused(&stage, &Handshake::to("/ws"), 504, "upstream-timeout").await;
            } else {
                way.ask(&stage, &Request::get("/n")).await.assert_refused(504, "upstream-timeout");
            }
        }
    }
}

#[tokio::test]
async fn lim_01_heads_of_answers_are_taken_up_to_their_limit_and_are_502_beyond() {
    for way in Way::ALL {
        let backend = Backend::scripted(async |mut peer: Peer| {
            loop {
                let head = peer.head().await?;
                let fill = |bytes: usize| format!("X-Fill: {}\r\n", "y".repeat(bytes));
                let many = |count: usize| (0..count).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
                let more = match head.target() {
                    "/n/large" => fill(60 * 1024),
                    "/n/larger" => fill(80 * 1024),
                    "/n/many" => many(98),
                    "/n/more" => many(150),
                    _ => String::new(),
                };
                peer.write(format!("HTTP/1.1 200 OK\r\n{more}Content-Length: 2\r\n\r\nok").as_bytes()).await?;
            }
        });
        let stage = Setup::new().b1(backend).start();
        for (path, status) in [("/n/large", 200), ("/n/larger", 502), ("/n/many", 200), ("/n/more", 502), ("/n", 200)] {
            if way == Way::H2 && path == "/n/large" {
                continue; // The client of these tests takes 16 KiB.
            }
            let answer = way.ask(&stage, &Request::get(path)).await;
            assert_eq!(answer.status, status, "{way:?} {path}");
        }
    }
}

#[tokio::test]
async fn str_07_trailers_without_measure_end_the_answer_and_not_the_gateway() {
    for way in Way::ALL {
        for trailers in [format!("X-T: {}\r\n", "z".repeat(1 << 20)), "X-T: 1\r\n".repeat(100_000)] {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{trailers}\r\n"
            );
            let answer: &'static str = answer.leak();
            let backend = Backend::scripted(async move |mut peer: Peer| {
                let head = peer.head().await?;
                if head.target() == "/n/odd" {
                    let _ = peer.write(answer.as_bytes()).await;
                    return peer.until_over().await;
                }
                peer.serve_from(head).await
            });
            let stage = Setup::new().b1(backend).start();
            let before = stage.gateway.rss();
            let request = Request::get("/n/odd").field("TE", "trailers");
            if way == Way::H2 {
                let _ = stage.h2().await.try_ask(&request).await;
            } else {
                let mut client = way.client(&stage).await;
                client.send(request.to_h1()).await;
                let _ = client.try_answer("GET").await;
            }
            let grown = stage.gateway.rss().saturating_sub(before);
            assert!(grown < 8 * 1024, "{way:?}: {grown} KiB");
            stage.assert_serving().await;
        }
    }
}

#[tokio::test]
async fn tun_11_a_reset_in_any_phase_of_an_opening_leaves_nothing() {
    for way in Way::H1 {
        let (go, wait) = tokio::sync::watch::channel(0);
        let backend = Backend::scripted(move |mut peer: Peer| {
            let mut wait = wait.clone();
            async move {
                let head = peer.head().await?;
                if head.target() == "/ws/late" {
                    let _ = wait.wait_for(|go| *go > 0).await;
                }
                peer.agree(&head, "").await?;
                peer.echo().await
            }
        });
        let stage = Setup::new().b1(backend).start();
        Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
        eventually("an end of the first", || stage.b1.records().iter().all(|record| record.is_over())).await;
        let descriptors = stage.gateway.descriptors();
        let head = Handshake::to("/ws/late").to_h1();
        // Before the head, in the middle of it, while the server thinks, right behind the 101.
        for cut in [0, 20, head.len()] {
            let mut client = way.client(&stage).await;
            client.send(&head[..cut]).await;
            if cut == head.len() {
                eventually("the handshake upstream", || stage.b1.requests().len() == 2).await;
            }
            client.reset();
        }
        go.send(1).expect("a waiting backend");
        for _ in 0..20 {
            let mut client = way.client(&stage).await;
            client.open(&Handshake::to("/ws")).await;
            client.reset();
        }
        eventually("every upstream connection over", || stage.b1.records().iter().all(|record| record.is_over())).await;
        eventually("descriptors back", || stage.gateway.descriptors() <= descriptors).await;
    }
}

#[tokio::test]
async fn tun_11_an_upstream_that_resets_in_any_phase_is_502_or_the_end() {
    for way in Way::ALL {
        let phase = Arc::new(AtomicUsize::new(0));
        let count = phase.clone();
        let backend = Backend::scripted(move |mut peer: Peer| {
            let count = count.clone();
            async move {
                let number = count.fetch_add(1, Ordering::SeqCst);
                if number > 0 {
                    let head = peer.head().await?;
                    let agreement = Peer::agreement(&head, "");
                    let cut = [0, 20, agreement.len()][number.min(3) - 1];
                    peer.write(&agreement.as_bytes()[..cut]).await?;
                    pause(30).await;
                }
                peer.reset();
                Ok(())
            }
        });
        let stage = Setup::new().b1(backend).start();
        for expected in [502, 502, 502] {
            let (answer, _) = way.open(&stage, &Handshake::to("/ws")).await;
            assert_eq!(answer.status, expected, "{way:?}: {answer:?}");
        }
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        assert_eq!(tunnel.rest().await.0, Frame::close(1011, "upstream gone").bytes());
    }
}

#[tokio::test]
async fn lim_03_a_head_may_be_split_anywhere() {
    let stage = Stage::standard().await;
    let mut client = stage.clear().await;
    let request = Request::new("POST", "/n").field("Transfer-Encoding", "chunked");
    let bytes = [request.to_h1(), b"5\r\nhello\r\n0\r\n\r\n".to_vec()].concat();
    for at in 1..bytes.len() {
        client.send(&bytes[..at]).await;
        tokio::task::yield_now().await;
        client.send(&bytes[at..]).await;
        assert_eq!(client.answer().await.text(), request.nonce, "split at {at}");
    }
    let bytes = [Handshake::to("/ws").to_h1(), Frame::text("early").masked().bytes()].concat();
    for at in (1..bytes.len()).step_by(3) {
        let mut client = stage.clear().await;
        client.send(&bytes[..at]).await;
        pause(1).await;
        client.send(&bytes[at..]).await;
        assert_eq!(client.head().await.status(), 101, "split at {at}");
        assert_eq!(client.frame().await, Frame::text("early"));
    }
}

#[tokio::test]
async fn smg_37_an_opening_in_a_pipeline_takes_its_turn_and_what_follows_belongs_to_its_tunnel() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        let request = Request::get("/n");
        let frame = Frame::text(SMUG);
        let mut client = way.client(&stage).await;
        let all = [request.to_h1(), Handshake::to("/ws").to_h1(), frame.clone().masked().bytes()].concat();
        client.send(all).await;
        assert_eq!(client.answer().await.text(), request.nonce);
        assert_eq!(client.head().await.status(), 101);
        assert_eq!(client.frame().await, frame);
        // Refused: what follows is the next request, or nothing.
        let mut client = way.client(&stage).await;
        let refused = Handshake::to("/ws").origin("https://evil.test").to_h1();
        client.send([refused, SMUG.into(), request.to_h1()].concat()).await;
        let statuses = client.try_statuses(3).await;
        assert!(matches!(statuses[..], [403] | [403, 404, 200]), "{statuses:?}");
        assert!(!stage.b1.saw("SMUGGLED HTTP"));
    }
}

/// Counts requests and answers each with what `answer` gives; closes behind it without a word.
fn once(executed: Arc<AtomicUsize>) -> Backend {
    Backend::scripted(move |mut peer: Peer| {
        let executed = executed.clone();
        async move {
            let head = peer.head().await?;
            peer.request_body(&head).await?;
            peer.nonce(&head).await?;
            // The second request on this connection is read and then let down.
            let head = peer.head().await?;
            peer.request_body(&head).await?;
            executed.fetch_add(1, Ordering::SeqCst);
            if head.has("x-byte") {
                peer.write(b"HTTP/1.1 2").await?;
                pause(50).await;
            }
            peer.reset();
            Ok(())
        }
    })
}

#[tokio::test]
async fn pol_03_only_what_may_be_repeated_is_sent_again() {
    for way in Way::ALL {
        for (method, body, byte, status) in [
            ("GET", None, false, 200),
            ("DELETE", None, false, 200),
            ("GET", None, true, 502),
            ("PUT", Some("hello"), false, 502),
            ("POST", None, false, 502),
            ("PATCH", Some("hello"), false, 502),
            ("QUERY", None, false, 502),
        ] {
            let executed = Arc::new(AtomicUsize::new(0));
            let stage = Setup::new().b1(once(executed.clone())).start();
            assert_eq!(way.ask(&stage, &Request::get("/n")).await.status, 200);
            let mut request = Request::new(method, "/n");
            if let Some(body) = body {
                request = request.body(body);
            }
            if byte {
                request = request.field("X-Byte", "1");
            }
            let answer = way.ask(&stage, &request).await;
            assert_eq!(answer.status, status, "{way:?} {method} {body:?} {byte}");
            assert_eq!(executed.load(Ordering::SeqCst), 1);
            assert_eq!(stage.b1.connections(), if status == 200 { 2 } else { 1 }, "{way:?} {method}");
        }
    }
}

#[tokio::test]
async fn ops_10_a_drain_during_a_handshake_still_opens_its_tunnel_or_says_no() {
    for way in Way::ALL {
        let (go, wait) = tokio::sync::watch::channel(false);
        let backend = Backend::scripted(move |mut peer: Peer| {
            let mut wait = wait.clone();
            async move {
                let head = peer.head().await?;
                let _ = wait.wait_for(|go| *go).await;
                peer.agree(&head, "").await?;
                peer.echo().await
            }
        });
        let mut stage = Setup::new().b1(backend).server("drain_timeout = \"2s\"").start();
        if way == Way::H2 {
            let mut h2 = stage.h2().await;
            let (answer, _send) = h2.begin(Handshake::to("/ws").to_h2(), false).await;
            eventually("the handshake upstream", || stage.b1.requests().len() == 1).await;
            stage.gateway.terminate();
            pause(100).await;
            go.send(true).expect("a waiting backend");
            assert_eq!(answer.await.expect("an answer").status(), 200);
        } else {
            let mut client = way.client(&stage).await;
            client.send(Handshake::to("/ws").to_h1()).await;
            eventually("the handshake upstream", || stage.b1.requests().len() == 1).await;
            stage.gateway.terminate();
            pause(100).await;
            go.send(true).expect("a waiting backend");
            let head = client.head().await;
            assert_eq!(head.status(), 101, "{head:?}");
            assert!(head.lists("connection", "upgrade") && !head.lists("connection", "close"), "{head:?}");
            client.echo("x").await;
        }
        assert_eq!(stage.gateway.exit().await.code(), Some(0));
    }
}

#[tokio::test]
async fn ops_10_a_second_signal_does_not_wait_for_the_deadline() {
    let mut stage = Setup::new().server("drain_timeout = \"60s\"").start();
    let mut tunnel = Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await;
    stage.gateway.terminate();
    // Two signals that are pending together are one.
    eventually("the drain", || stage.gateway.stderr().contains("draining")).await;
    tunnel.echo("draining").await;
    stage.gateway.terminate();
    tunnel.rest().await;
    stage.gateway.exit().await;
}
