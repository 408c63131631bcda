//! RSP: an upstream's answer is forwarded as what it is, or not at all (RFC 9112 §6.3, §8, §9).

use std::time::Duration;

use crate::harness::{Backend, End, Fields, Peer, Request, Setup, Way, holds_within, pause};

/// Answers the first request of every connection with these bytes, then whatever `serve` does.
fn answering(bytes: &'static str) -> Backend {
    Backend::scripted(move |mut peer: Peer| async move {
        let head = peer.head().await?;
        peer.request_body(&head).await?;
        peer.write(bytes.as_bytes()).await?;
        peer.serve().await
    })
}

/// Answers with these bytes and closes.
fn closing(bytes: &'static str) -> Backend {
    Backend::scripted(move |mut peer: Peer| async move {
        peer.head().await?;
        peer.write(bytes.as_bytes()).await
    })
}

/// Fails unless this answer is 502 by every way in and its connection is closed.
async fn assert_malformed(bytes: &'static str) {
    for way in Way::ALL {
        let stage = Setup::new().b1(answering(bytes)).start();
        way.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-malformed");
        let records = stage.b1.records();
        assert!(holds_within(Duration::from_secs(2), || records.iter().all(|record| record.is_over())).await);
        assert_eq!(stage.b1.requests().len(), 1, "an answer was seen: no retry");
    }
}

#[tokio::test]
async fn rsp_01_a_length_that_is_not_one_number_is_502() {
    assert_malformed("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!").await;
    assert_malformed("HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello!").await;
    assert_malformed("HTTP/1.1 200 OK\r\nContent-Length: foo\r\n\r\nhello!").await;
    assert_malformed("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello!").await;
}

#[tokio::test]
async fn rsp_01_another_transfer_coding_than_chunked_is_502() {
    assert_malformed("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello!").await;
    assert_malformed("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn rsp_01_chunked_beats_a_length_and_that_connection_is_not_used_again() {
    for way in Way::ALL {
        let bytes = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        let stage = Setup::new().b1(answering(bytes)).start();
        let answer = way.ask(&stage, &Request::get("/n")).await;
        assert_eq!((answer.status, answer.text()), (200, "hello".to_owned()));
        assert!(answer.get("content-length").is_none_or(|length| length == "5"), "{answer:?}");
        way.ask(&stage, &Request::get("/n")).await;
        assert_eq!(stage.b1.connections(), 2);
    }
}

#[tokio::test]
async fn rsp_05_bytes_behind_an_answer_belong_to_nobody() {
    for way in Way::ALL {
        let bytes = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nSEE-THIS-NOT-THIS HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale";
        let stage = Setup::new().b1(answering(bytes)).start();
        for _ in 0..2 {
            let answer = way.ask(&stage, &Request::get("/n")).await;
            assert_eq!((answer.status, answer.text()), (200, "SEE-THIS".to_owned()));
        }
        assert_eq!(stage.b1.connections(), 2, "the connection was used again");
    }
}

#[tokio::test]
async fn rsp_06_an_answer_that_nobody_asked_for_is_given_to_nobody() {
    const STALE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale";
    for way in Way::ALL {
        for delay in [0, 50] {
            let backend = Backend::scripted(move |mut peer: Peer| async move {
                let head = peer.head().await?;
                peer.nonce(&head).await?;
                if peer.number == 0 {
                    pause(delay).await;
                    peer.write(STALE).await?;
                }
                peer.serve().await
            });
            let stage = Setup::new().b1(backend).start();
            for _ in 0..2 {
                let request = Request::get("/n");
                let answer = way.ask(&stage, &request).await;
                assert!(answer.status == 502 || answer.text() == request.nonce, "{way:?}: {answer:?}");
                pause(delay * 2).await;
            }
            let request = Request::get("/n");
            assert_eq!(way.ask(&stage, &request).await.text(), request.nonce);
            let record = stage.b1.records().remove(0);
            assert!(holds_within(Duration::from_secs(2), || record.is_over()).await, "still pooled");
        }
    }
}

#[tokio::test]
async fn rsp_07_a_truncated_answer_is_never_ended_cleanly() {
    let fifty = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n12345678901234567890123456789012345678901234567890";
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for bytes in [fifty, chunks] {
        for way in Way::H1 {
            let stage = Setup::new().b1(closing(bytes)).start();
            let mut client = way.client(&stage).await;
            client.send(Request::get("/n").to_h1()).await;
            let broken = client.try_answer("GET").await.expect_err("a broken answer");
            if let Some(answer) = broken.answer {
                assert!(answer.status == 200 && answer.body.len() <= 50, "{answer:?}");
            }
        }
        let stage = Setup::new().b1(closing(bytes)).start();
        stage.h2().await.try_ask(&Request::get("/n")).await.expect_err("RST_STREAM");
    }
}

#[tokio::test]
async fn rsp_07_a_close_delimited_answer_ends_where_the_upstream_ends() {
    for way in Way::ALL {
        let stage = Setup::new().b1(closing("HTTP/1.1 200 OK\r\n\r\nto the end")).start();
        let answer = way.ask(&stage, &Request::get("/n")).await;
        assert_eq!((answer.status, answer.text()), (200, "to the end".to_owned()));
    }
}

#[tokio::test]
async fn rsp_12_statuses_of_three_digits_pass_and_others_are_502() {
    for (line, status) in [("299 X", 299), ("499 X", 499), ("599 X", 599), ("600 X", 600), ("999 X", 999)] {
        let bytes: &'static str = format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nok").leak();
        for way in Way::ALL {
            let stage = Setup::new().b1(answering(bytes)).start();
            let answer = way.ask(&stage, &Request::get("/n")).await;
            assert_eq!((answer.status, answer.text()), (status, "ok".to_owned()));
        }
    }
    for line in ["20 OK", "2000 OK", "abc OK", "-20 OK"] {
        assert_malformed(format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nok").leak()).await;
    }
    assert_malformed("ICY 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_malformed("\r\n\r\n\0\0\0garbage without any meaning\r\n\r\n").await;
}

#[tokio::test]
async fn rsp_12_bodyless_statuses_have_no_body() {
    for line in ["204 No Content", "304 Not Modified\r\nETag: \"x\""] {
        let bytes: &'static str = format!("HTTP/1.1 {line}\r\n\r\n").leak();
        for way in Way::H1 {
            let stage = Setup::new().b1(answering(bytes)).start();
            let mut client = way.client(&stage).await;
            assert!(client.ask(&Request::get("/n")).await.body.is_empty());
            let next = Request::get("/n");
            assert_eq!(client.ask(&next).await.text(), next.nonce);
        }
    }
}

#[tokio::test]
async fn rsp_14_an_upstream_that_closes_does_not_close_the_client() {
    for way in Way::H1 {
        let backend = Backend::scripted(async |mut peer: Peer| {
            let head = peer.head().await?;
            let nonce = head.get("x-nonce").unwrap_or_default();
            let answer =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{nonce}", nonce.len());
            peer.write(answer.as_bytes()).await?;
            // Not closed here: whoever pools it in spite of the word gets no answer.
            peer.until_over().await
        });
        let stage = Setup::new().b1(backend).start();
        let mut client = way.client(&stage).await;
        for _ in 0..3 {
            let request = Request::get("/n");
            let answer = client.ask(&request).await;
            assert_eq!(answer.text(), request.nonce);
            assert!(!answer.lists("connection", "close"), "{answer:?}");
        }
        assert_eq!(stage.b1.connections(), 3);
        assert!(
            holds_within(Duration::from_secs(2), || stage.b1.records().iter().all(|one| one.end() != End::Open)).await
        );
    }
}
