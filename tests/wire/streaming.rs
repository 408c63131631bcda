//! STR: bodies pass as they come, in both directions, with their trailers.

use std::time::Duration;

use bytes::Bytes;

use crate::harness::{Backend, Fields, Peer, Request, Setup, Stage, Way, holds_within, pause, send_all, within};

/// Far above what a busy machine needs, far below the time at which buffering would let go.
const AT_ONCE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn str_01_every_chunk_of_an_upload_arrives_before_the_next_is_sent() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        let mut client = way.client(&stage).await;
        client.send("POST /n HTTP/1.1\r\nHost: a.test\r\nX-Nonce: mine\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for number in 0..10 {
            let chunk = format!("chunk-{number};");
            client.send(format!("{:x}\r\n{chunk}\r\n", chunk.len())).await;
            assert!(holds_within(AT_ONCE, || stage.b1.saw(&chunk)).await, "{way:?} {chunk}");
            pause(100).await;
        }
        client.send("0\r\n\r\n").await;
        assert_eq!(client.answer().await.text(), "mine");
    }
    let stage = Stage::standard().await;
    let mut h2 = stage.h2().await;
    let request = Request::new("POST", "/n");
    let (answer, mut send) = h2.begin(request.to_h2(), false).await;
    for number in 0..10 {
        let chunk = format!("chunk-{number};");
        send_all(&mut send, Bytes::from(chunk.clone()), false).await.expect("an open stream");
        assert!(holds_within(AT_ONCE, || stage.b1.saw(&chunk)).await, "h2 {chunk}");
        pause(100).await;
    }
    send_all(&mut send, Bytes::new(), true).await.expect("an open stream");
    assert_eq!(within("an answer", answer).await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn str_03_every_event_arrives_before_the_next_is_sent() {
    for way in Way::ALL {
        let (next, turns) = tokio::sync::watch::channel(0_usize);
        let backend = Backend::scripted(move |mut peer: Peer| {
            let mut turns = turns.clone();
            async move {
                peer.head().await?;
                peer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .await?;
                for turn in 1..=10 {
                    let _ = turns.wait_for(|now| *now >= turn).await;
                    let event = format!("data: {turn:02}\n\n");
                    peer.write(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
                }
                peer.write(b"0\r\n\r\n").await
            }
        });
        let stage = Setup::new().b1(backend).start();
        let request = Request::get("/n").field("Accept-Encoding", "gzip, br");
        if way == Way::H2 {
            let mut h2 = stage.h2().await;
            let (answer, _send) = h2.begin(request.to_h2(), true).await;
            let mut answer = within("an answer", answer).await.expect("an answer");
            assert!(!answer.headers().contains_key("content-length"));
            let mut seen = Vec::new();
            for turn in 1..=10 {
                next.send(turn).expect("a backend");
                while seen.len() < turn * 10 {
                    let part = within("an event", answer.body_mut().data()).await.expect("an event").expect("an event");
                    seen.extend(part);
                }
                assert!(seen.ends_with(format!("data: {turn:02}\n\n").as_bytes()));
            }
        } else {
            let mut client = way.client(&stage).await;
            client.send(request.to_h1()).await;
            let head = client.head().await;
            assert_eq!(head.get("content-type"), Some("text/event-stream"));
            assert!(!head.has("content-length") && !head.has("content-encoding"), "{head:?}");
            for turn in 1..=10 {
                next.send(turn).expect("a backend");
                let event = format!("a\r\ndata: {turn:02}\n\n\r\n");
                let got = client.exact(event.len()).await;
                assert_eq!(String::from_utf8_lossy(&got).to_ascii_lowercase(), event);
            }
        }
    }
}

/// Sends back each byte while the request is still coming.
fn echoing() -> Backend {
    Backend::scripted(async |mut peer: Peer| {
        let head = peer.head().await?;
        assert!(head.lists("transfer-encoding", "chunked"), "{head:?}");
        peer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
        loop {
            // The framing of what comes goes back with it: chunks are chunks in either direction.
            let bytes = peer.some().await?;
            if bytes.is_empty() {
                return Ok(());
            }
            peer.write(&bytes).await?;
            if bytes.ends_with(b"0\r\n\r\n") {
                return peer.until_over().await;
            }
        }
    })
}

#[tokio::test]
async fn str_04_an_answer_may_begin_before_its_request_has_ended() {
    for way in Way::H1 {
        let stage = Setup::new().b1(echoing()).start();
        let mut client = way.client(&stage).await;
        client.send("POST /n HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for (turn, word) in ["one", "two", "six"].into_iter().enumerate() {
            client.send(format!("3\r\n{word}\r\n")).await;
            if turn == 0 {
                assert_eq!(client.head().await.status(), 200);
            }
            assert_eq!(client.exact(8).await, format!("3\r\n{word}\r\n").as_bytes());
        }
        client.send("0\r\n\r\n").await;
        assert_eq!(client.exact(5).await, b"0\r\n\r\n");
    }
    let stage = Setup::new().b1(echoing()).start();
    let mut h2 = stage.h2().await;
    let (answer, mut send) = h2.begin(Request::new("POST", "/n").to_h2(), false).await;
    send_all(&mut send, Bytes::from("one"), false).await.expect("an open stream");
    let mut answer = within("an answer", answer).await.expect("an answer");
    let part = within("an echo", answer.body_mut().data()).await.expect("an echo").expect("an echo");
    assert_eq!(part, "one");
    send_all(&mut send, Bytes::from("two"), true).await.expect("an open stream");
    let part = within("an echo", answer.body_mut().data()).await.expect("an echo").expect("an echo");
    assert_eq!(part, "two");
}

#[tokio::test]
async fn str_06_a_client_that_has_said_all_still_gets_its_answer() {
    for way in Way::H1 {
        let backend = Backend::scripted(async |mut peer: Peer| {
            loop {
                let head = peer.head().await?;
                let body = peer.request_body(&head).await?.0;
                pause(500).await;
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 100_000 + body.len());
                peer.write(answer.as_bytes()).await?;
                peer.write(&vec![b'x'; 100_000 + body.len()]).await?;
            }
        });
        let stage = Setup::new().b1(backend).start();
        for request in [Request::get("/n"), Request::new("POST", "/n").body("hello")] {
            let mut client = way.client(&stage).await;
            client.send(request.to_h1()).await;
            client.finish().await;
            let answer = client.answer().await;
            assert!(answer.status == 200 && answer.body.len() >= 100_000, "{way:?} {}", answer.body.len());
            client.expect_end().await;
        }
        assert_eq!(stage.b1.requests().len(), 2);
    }
}

#[tokio::test]
async fn str_07_trailers_are_delivered_as_trailers_or_not_at_all() {
    let backend = || {
        Backend::scripted(async |mut peer: Peer| {
            loop {
                peer.head().await?;
                peer.write(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
                )
                .await?;
            }
        })
    };
    for way in Way::ALL {
        for te in [true, false] {
            let stage = Setup::new().b1(backend()).start();
            let mut request = Request::get("/n");
            if te {
                request = request.field("TE", "trailers");
                if way != Way::H2 {
                    request = request.field("Connection", "TE");
                }
            }
            let answer = way.ask(&stage, &request).await;
            assert_eq!((answer.status, answer.text()), (200, "hello".to_owned()));
            assert!(!answer.has("x-t"), "{answer:?}");
            let right = [("x-t".to_owned(), "1".to_owned())];
            let found: Vec<_> =
                answer.trailers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
            assert!(found.is_empty() || found == right, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn str_01_a_long_upload_and_a_long_answer_arrive_whole() {
    let backend = Backend::scripted(async |mut peer: Peer| {
        loop {
            let head = peer.head().await?;
            let (body, _) = peer.request_body(&head).await?;
            peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes()).await?;
            peer.write(&body).await?;
        }
    });
    let stage = Setup::new().b1(backend).start();
    let body: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for way in Way::ALL {
        let answer = way.ask(&stage, &Request::new("POST", "/n").body(body.clone())).await;
        assert!(answer.status == 200 && answer.body == body, "{way:?}: {} {}", answer.status, answer.body.len());
    }
}
