//! INT: what comes before or instead of a body: 100, other 1xx, HEAD (RFC 9110 §9.3.2, §10.1.1, §15.2).

use std::time::{Duration, Instant};

use crate::harness::{Backend, Fields, Peer, Request, Setup, Stage, Way};

fn expecting() -> Vec<u8> {
    b"POST /n HTTP/1.1\r\nHost: a.test\r\nX-Nonce: mine\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n".to_vec()
}

#[tokio::test]
async fn int_01_the_upstreams_100_opens_the_clients_body() {
    for way in Way::H1 {
        let backend = Backend::scripted(async |mut peer: Peer| {
            let head = peer.head().await?;
            assert_eq!(head.get("expect"), Some("100-continue"));
            assert!(peer.silent_for(200).await, "the body came before it was asked for");
            peer.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            assert_eq!(peer.request_body(&head).await?.0, b"hello");
            peer.nonce(&head).await?;
            peer.serve().await
        });
        let stage = Setup::new().b1(backend).start();
        let mut client = way.client(&stage).await;
        client.send(expecting()).await;
        assert_eq!(client.head().await.status(), 100);
        client.send("hello").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (200, "mine".to_owned()));
        let next = Request::get("/n");
        assert_eq!(client.ask(&next).await.text(), next.nonce);
    }
}

#[tokio::test]
async fn int_01_a_final_answer_leaves_the_body_where_it_is() {
    for way in Way::H1 {
        let backend = Backend::scripted(async |mut peer: Peer| {
            peer.head().await?;
            peer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await?;
            peer.until_over().await
        });
        let stage = Setup::new().b1(backend).start();
        let mut client = way.client(&stage).await;
        client.send(expecting()).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (403, "no".to_owned()));
        assert!(!stage.b1.saw("hello"));
    }
}

#[tokio::test]
async fn int_01_an_upstream_that_never_says_100_gets_the_body_after_a_second() {
    let stage = Stage::standard().await;
    let mut client = stage.clear().await;
    let start = Instant::now();
    client.send(expecting()).await;
    assert_eq!(client.head().await.status(), 100);
    assert!(start.elapsed() < Duration::from_secs(5));
    client.send("hello").await;
    assert_eq!(client.answer().await.text(), "mine");
}

#[tokio::test]
async fn int_01_a_client_that_does_not_wait_loses_nothing() {
    let stage = Stage::standard().await;
    let mut client = stage.clear().await;
    client.send([expecting(), b"hello".to_vec()].concat()).await;
    let mut head = client.try_answer("GET").await.expect("an answer");
    if head.status == 100 {
        head = client.answer().await;
    }
    assert_eq!((head.status, head.text()), (200, "mine".to_owned()));
    let next = Request::get("/n");
    assert_eq!(client.ask(&next).await.text(), next.nonce);
}

#[tokio::test]
async fn int_01_over_h2_the_expectation_ends_at_the_gateway() {
    let stage = Stage::standard().await;
    let request = Request::new("POST", "/n").field("Expect", "100-continue").body("hello");
    assert_eq!(stage.h2().await.ask(&request).await.text(), request.nonce);
    assert!(!stage.b1.request().has("expect"));
}

#[tokio::test]
async fn int_04_other_expectations_are_417() {
    for way in Way::ALL {
        let stage = Stage::standard().await;
        for value in ["foo", "100-continue, foo", "101-continue"] {
            let answer = way.ask(&stage, &Request::get("/n").field("Expect", value)).await;
            answer.assert_refused(417, "bad-expectation");
        }
        stage.b1.assert_untouched();
    }
}

#[tokio::test]
async fn int_05_early_hints_are_swallowed_and_the_final_answer_is_whole() {
    for way in Way::ALL {
        let backend = Backend::scripted(async |mut peer: Peer| {
            let head = peer.head().await?;
            peer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x.css>; rel=preload\r\n\r\n").await?;
            peer.write(b"HTTP/1.1 102 Processing\r\n\r\n").await?;
            peer.nonce(&head).await?;
            peer.serve().await
        });
        let stage = Setup::new().b1(backend).start();
        let request = Request::get("/n");
        // The documented limit: the next thing on the wire is the final answer.
        let answer = way.ask(&stage, &request).await;
        assert_eq!((answer.status, answer.text()), (200, request.nonce));
        assert!(!answer.has("link"));
    }
}

#[tokio::test]
async fn int_08_an_answer_to_head_has_the_length_and_no_body() {
    for way in Way::ALL {
        for body in [0, 1000] {
            let backend = Backend::scripted(move |mut peer: Peer| async move {
                loop {
                    let head = peer.head().await?;
                    if head.method() == "HEAD" {
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(body));
                        peer.write(answer.as_bytes()).await?;
                    } else {
                        peer.nonce(&head).await?;
                    }
                }
            });
            let stage = Setup::new().b1(backend).start();
            let (head, next) = (Request::new("HEAD", "/n"), Request::get("/n"));
            let (answer, after) = if way == Way::H2 {
                let mut h2 = stage.h2().await;
                (h2.ask(&head).await, h2.ask(&next).await)
            } else {
                let mut client = way.client(&stage).await;
                (client.ask(&head).await, client.ask(&next).await)
            };
            assert_eq!((answer.status, answer.get("content-length")), (200, Some("1000")), "{way:?}");
            assert!(answer.body.is_empty());
            assert_eq!((after.status, after.text()), (200, next.nonce), "{way:?}");
            assert_eq!(stage.b1.connections(), if body == 0 { 1 } else { 2 }, "{way:?} {body}");
        }
    }
}

#[tokio::test]
async fn int_08_the_gateways_own_answers_to_head_have_no_body_either() {
    let stage = Stage::standard().await;
    for way in Way::ALL {
        for (path, status, length) in [("/denied", 403, 7), ("/nowhere", 404, 14)] {
            let answer = way.ask(&stage, &Request::new("HEAD", path)).await;
            assert_eq!((answer.status, answer.text()), (status, String::new()), "{way:?}");
            assert_eq!(answer.get("content-length"), Some(&*length.to_string()), "{way:?} {path}");
            assert_eq!(way.ask(&stage, &Request::get(path)).await.body.len(), length, "{way:?} {path}");
        }
    }
}
