//! Who is slow pays for it alone: slow readers and slow writers, and what is held for them meanwhile.

use std::time::Duration;

use crate::harness::{
    Backend, END_STREAM, End, H2, HEADERS, Handshake, Peer, RawH2, Request, Setup, TlsOptions, Way, block, eventually,
    holds_within, pause,
};

const MIB: usize = 1024 * 1024;

/// `/n/long` is an answer of this many bytes, everything else the standard.
fn long(bytes: usize) -> Backend {
    Backend::scripted(move |mut peer: Peer| async move {
        loop {
            let head = peer.head().await?;
            if !head.target().starts_with("/n/long") {
                peer.handle(&head).await?;
                continue;
            }
            peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").as_bytes()).await?;
            peer.write(&vec![b'x'; bytes]).await?;
        }
    })
}

#[tokio::test]
async fn str_01_a_slow_client_is_no_silent_upstream() {
    for way in Way::H1 {
        let stage = Setup::new().b1(long(32 * MIB)).route_timeouts("response_body_idle = \"500ms\"").start();
        let mut client = way.client(&stage).await;
        client.send(Request::get("/n/long").to_h1()).await;
        pause(1500).await;
        assert_eq!(client.answer().await.body.len(), 32 * MIB, "{way:?}");
    }
}

#[tokio::test]
async fn str_01_a_slow_upstream_is_no_silent_client() {
    for way in Way::ALL {
        let backend = Backend::scripted(async |mut peer: Peer| {
            let head = peer.head().await?;
            pause(1500).await;
            assert_eq!(peer.request_body(&head).await?.0.len(), 32 * MIB);
            peer.nonce(&head).await
        });
        let stage = Setup::new().b1(backend).route_timeouts("request_body_idle = \"500ms\"").start();
        let upload = Request::new("POST", "/n").body(vec![b'x'; 32 * MIB]);
        let answer = way.ask(&stage, &upload).await;
        assert_eq!((answer.status, answer.text()), (200, upload.nonce), "{way:?}");
    }
}

#[tokio::test]
async fn pol_10_streams_whose_client_never_opens_a_window_let_their_upstreams_go() {
    let stage = Setup::new()
        .b1(long(MIB))
        .route_timeouts("client_stall = \"1s\"")
        .listener_timeouts("keep_alive = \"1s\"")
        .start();
    let mut raw = RawH2::connect(&stage).await;
    // SETTINGS_INITIAL_WINDOW_SIZE = 0.
    raw.frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
    let head = block(&[(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/n/long")]);
    for number in 0..20 {
        raw.frame(HEADERS, 4 | END_STREAM, number * 2 + 1, &head).await;
    }
    eventually("the requests upstream", || stage.b1.requests().len() == 20).await;
    let records = stage.b1.records();
    let over = || records.iter().all(|record| record.is_over());
    assert!(holds_within(Duration::from_secs(4), over).await, "upstreams are held for a client that does not read");
    // Nothing is open any more: the connection ends like an idle one.
    while raw.next().await.is_some() {}
}

#[tokio::test]
async fn pol_10_a_stream_that_stalls_is_reset_and_the_others_go_on() {
    let stage = Setup::new().b1(long(MIB)).route_timeouts("client_stall = \"1s\"").start();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(64 * 1024).initial_connection_window_size(8 * 1024 * 1024);
    let mut h2 = H2::connect_as(&stage, &TlsOptions::new("a.test"), &builder).await;
    let (answer, _send) = h2.begin(Request::get("/n/long").to_h2(), true).await;
    let mut answer = answer.await.expect("a head");
    eventually("the request upstream", || !stage.b1.records().is_empty()).await;
    let record = stage.b1.records().remove(0);
    assert!(holds_within(Duration::from_secs(4), || record.is_over()).await);
    let next = Request::get("/n");
    assert_eq!(h2.ask(&next).await.text(), next.nonce);
    // What had been sent may still be read; then the stream is reset, never ended cleanly.
    loop {
        match answer.body_mut().data().await {
            Some(Ok(part)) => drop(answer.body_mut().flow_control().release_capacity(part.len())),
            Some(Err(_)) => break,
            None => panic!("a truncated answer has ended cleanly"),
        }
    }
}

#[tokio::test]
async fn pol_10_a_client_that_resets_while_it_waits_ends_the_upstream() {
    for way in Way::H1 {
        let backend = Backend::scripted(async |mut peer: Peer| {
            peer.head().await?;
            peer.until_over().await
        });
        let stage = Setup::new().b1(backend).start();
        for handshake in [false, true] {
            let mut client = way.client(&stage).await;
            let count = stage.b1.requests().len();
            client.send(if handshake { Handshake::to("/ws").to_h1() } else { Request::get("/n").to_h1() }).await;
            eventually("the request upstream", || stage.b1.requests().len() == count + 1).await;
            client.reset();
            let record = stage.b1.records().pop().expect("a record");
            assert!(holds_within(Duration::from_secs(2), || record.is_over()).await, "{way:?} {handshake}");
        }
    }
}

#[tokio::test]
async fn rsp_07_a_truncated_answer_to_http_1_0_does_not_look_whole() {
    for way in Way::H1 {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
        ] {
            let backend = Backend::scripted(async move |mut peer: Peer| {
                peer.head().await?;
                peer.write(answer).await
            });
            let stage = Setup::new().b1(backend).start();
            let mut client = way.client(&stage).await;
            client.send("GET /n HTTP/1.0\r\nHost: a.test\r\n\r\n").await;
            assert_eq!(client.head().await.status(), 200);
            let (rest, end) = client.rest().await;
            assert!(rest.is_empty() || rest == b"hello");
            assert_ne!(end, End::Fin, "{way:?}: a clean end behind {rest:?}");
        }
    }
}
