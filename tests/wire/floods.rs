//! More of the same than anybody needs: floods of frames, of streams that must be reset, of connections that are none.

use std::time::Duration;

use bytes::Bytes;

use crate::harness::{Client, DATA, HEADERS, RawH2, Request, Stage, Way, block, eventually};

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/n")];

/// A flood of frames on one h2 connection that is never read; then the gateway must still serve others, from bounded
/// memory.
async fn flood(name: &str, stage: &Stage, mut raw: RawH2, frames: Vec<u8>, rounds: usize) {
    let before = stage.gateway.rss();
    let wait = Duration::from_secs(5);
    let _ = tokio::time::timeout(wait, async {
        for _ in 0..rounds {
            if !raw.try_write(&frames).await {
                return;
            }
        }
    })
    .await;
    stage.assert_serving().await;
    let grown = stage.gateway.rss().saturating_sub(before);
    assert!(grown < 12 * 1024, "{name}: {grown} KiB");
}

#[tokio::test]
async fn ht2_15_floods_of_frames_cost_neither_memory_nor_other_clients() {
    let stage = Stage::standard().await;
    stage.assert_serving().await;
    let head = block(&GET);
    let ping = RawH2::encode(6, 0, 0, &[7; 8]).repeat(1000);
    let settings = RawH2::encode(4, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(1000);
    let priority = RawH2::encode(2, 0, 1, &[0, 0, 0, 1, 16]).repeat(1000);
    let window = RawH2::encode(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(10);
    let unknown = RawH2::encode(0xbe, 0xff, 0, &[0; 100]).repeat(100);
    for (name, frames) in
        [("ping", ping), ("settings", settings), ("priority", priority), ("window", window), ("unknown", unknown)]
    {
        flood(name, &stage, RawH2::connect(&stage).await, frames, 200).await;
    }
    let mut raw = RawH2::connect(&stage).await;
    raw.frame(HEADERS, 0, 1, &head).await;
    flood("continuation", &stage, raw, RawH2::encode(9, 0, 1, &block(&[("x", "y")])).repeat(100), 500).await;
    let mut raw = RawH2::connect(&stage).await;
    raw.frame(HEADERS, 0, 1, &head).await;
    flood("empty continuation", &stage, raw, RawH2::encode(9, 0, 1, &[]).repeat(1000), 200).await;
    let mut raw = RawH2::connect(&stage).await;
    let post = [(":method", "POST"), GET[1], GET[2], GET[3]];
    raw.headers(1, &post, false).await;
    flood("empty data", &stage, raw, RawH2::encode(DATA, 0, 1, &[]).repeat(1000), 200).await;
    let mut raw = RawH2::connect(&stage).await;
    raw.headers(1, &post, false).await;
    let padded = [&[255][..], &[0; 255]].concat();
    flood("padding", &stage, raw, RawH2::encode(DATA, 8, 1, &padded).repeat(100), 100).await;
}

/// Frames for which the server itself has to reset the stream (CVE-2025-8671).
#[tokio::test]
async fn ht2_15_streams_that_the_gateway_is_made_to_reset_are_bounded_too() {
    let stage = Stage::standard().await;
    let head = block(&GET);
    for (name, bad) in [
        ("window of nothing", (8, 0, vec![0, 0, 0, 0])),
        ("data behind the end", (DATA, 0, vec![b'x'; 10])),
        ("headers behind the end", (HEADERS, 5, head.clone())),
        ("depends on itself", (2, 0, vec![0; 5])),
        ("window overflow", (8, 0, vec![0x7f, 0xff, 0xff, 0xff])),
    ] {
        let mut raw = RawH2::connect(&stage).await;
        let mut id = 1_u32;
        for _ in 0..50 {
            let mut frames = Vec::new();
            for _ in 0..100 {
                frames.extend(RawH2::encode(HEADERS, 5, id, &head));
                let (kind, flags, payload) = &bad;
                let mut payload = payload.clone();
                if name == "depends on itself" {
                    payload[..4].copy_from_slice(&id.to_be_bytes());
                }
                frames.extend(RawH2::encode(*kind, *flags, id, &payload));
                id += 2;
            }
            if !raw.try_write(&frames).await {
                break;
            }
        }
        let connections = stage.b1.connections();
        assert!(connections <= 400, "{name}: {connections} upstream connections");
        stage.assert_serving().await;
    }
}

#[tokio::test]
async fn smg_32_refused_uploads_over_h2_give_their_window_back() {
    let stage = Stage::standard().await;
    let mut h2 = stage.h2().await;
    for number in 0..150 {
        let request = Request::new("POST", if number % 2 == 0 { "/denied" } else { "/nowhere" });
        let (answer, mut send) = h2.begin(request.to_h2(), false).await;
        let _ = send_all_now(&mut send, 60_000);
        let answer = answer.await.expect("an answer");
        assert!([403, 404].contains(&answer.status().as_u16()));
        drop(answer);
        send.send_reset(h2::Reason::CANCEL);
    }
    let upload = Request::new("POST", "/n").body(vec![b'x'; 1 << 20]);
    assert_eq!(h2.ask(&upload).await.text(), upload.nonce);
}

fn send_all_now(send: &mut h2::SendStream<Bytes>, count: usize) -> Result<(), h2::Error> {
    send.reserve_capacity(count);
    send.send_data(vec![b'x'; count].into(), false)
}

#[tokio::test]
async fn lim_06_bogus_hellos_by_the_thousand_leave_nothing() {
    let stage = Stage::standard().await;
    Way::Tls.ask(&stage, &Request::get("/n")).await;
    let descriptors = stage.gateway.descriptors();
    let before = stage.gateway.rss();
    let address = stage.gateway.address("tls");
    // A record that promises much, one that is no hello, one of another protocol, hellos that break off.
    let openings: [&[u8]; 6] = [
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        b"\x17\x03\x03\x00\x01x",
        b"\x80\x2e\x01\x00\x02",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x16\x03\x01\x00\x01\x01",
    ];
    for number in 0..2000 {
        let mut client = Client::clear(address).await;
        let _ = client.try_send(openings[number % openings.len()]).await;
        if number % 2 == 0 {
            client.reset();
        }
    }
    eventually("descriptors back", || stage.gateway.descriptors() <= descriptors + 1).await;
    let grown = stage.gateway.rss().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
    let request = Request::get("/n");
    assert_eq!(Way::Tls.ask(&stage, &request).await.text(), request.nonce);
}
