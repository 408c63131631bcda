//! TUN: what is promised once a tunnel is open: every byte, in order, both ways, to the end, in bounded memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Backend, Client, End, Frame, Handshake, OpCode, Peer, Setup, Stage, Tunnel, Way, digest, eventually, holds_within,
    pause, percentile,
};

const MIB: usize = 1024 * 1024;

/// A binary frame of 64 KiB whose payload differs from one to the next.
fn block(number: usize) -> Vec<u8> {
    let payload: Vec<u8> =
        (0..64 * 1024_usize).map(|at| (at.wrapping_mul(31) ^ number.wrapping_mul(7919)) as u8).collect();
    Frame::binary(payload).bytes()
}

fn blocks(count: usize) -> Vec<u8> {
    (0..count).flat_map(block).collect()
}

/// What a client is told whose server ends without a Close.
fn gone() -> Vec<u8> {
    Frame::close(1011, "upstream gone").bytes()
}

/// Agrees, then does as told.
fn agreeing<F, Fut>(then: F) -> Backend
where
    F: Fn(Peer) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let then = Arc::new(then);
    Backend::scripted(move |mut peer: Peer| {
        let then = then.clone();
        async move {
            let head = peer.head().await?;
            peer.agree(&head, "").await?;
            then(peer).await
        }
    })
}

/// What a lively conversation looks like, with or without masks.
fn conversation(mask: bool) -> Vec<u8> {
    let frames = [
        Frame::text("text"),
        Frame::binary(vec![0, 0xff, 0x0d, 0x0a]),
        Frame::new(OpCode::PING, "are you there"),
        Frame::text("first ").unfinished(),
        Frame::new(OpCode::PING, "in the middle"),
        Frame::new(OpCode::CONTINUATION, "second ").unfinished(),
        Frame::new(OpCode::CONTINUATION, "third"),
        Frame::text(""),
        Frame::binary(vec![7; 125]),
        Frame::binary(vec![8; 126]),
        Frame::binary(vec![9; 70_000]),
    ];
    let mut bytes = Vec::new();
    for (number, mut frame) in frames.into_iter().enumerate() {
        frame.mask = mask.then_some([number as u8, 0, 0xff, 0x55]);
        bytes.extend(frame.bytes());
    }
    bytes
}

#[tokio::test]
async fn tun_01_a_frame_in_the_same_segment_as_the_101_arrives_whole() {
    for way in Way::ALL {
        let backend = Backend::scripted(async |mut peer: Peer| {
            let head = peer.head().await?;
            let mut bytes = Peer::agreement(&head, "").into_bytes();
            bytes.extend(Frame::text("first").bytes());
            peer.write(&bytes).await?;
            peer.echo().await
        });
        let stage = Setup::new().b1(backend).start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        assert_eq!(tunnel.frame().await, Frame::text("first"));
        tunnel.echo("second").await;
    }
}

#[tokio::test]
async fn tun_03_every_kind_of_frame_passes_bit_by_bit_both_ways() {
    for way in Way::ALL {
        let backend = agreeing(async |mut peer: Peer| {
            let expected = conversation(true);
            assert!(peer.exact(expected.len()).await? == expected, "what came up differs");
            peer.write(&conversation(false)).await?;
            peer.until_over().await
        });
        let stage = Setup::new().b1(backend).start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        tunnel.send(conversation(true)).await;
        let expected = conversation(false);
        assert!(tunnel.exact(expected.len()).await == expected, "{way:?}: what came down differs");
    }
}

#[tokio::test]
async fn tun_03_frames_cut_at_every_byte_arrive_the_same() {
    let stage = Stage::standard().await;
    let mut tunnel = Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await;
    let sent = [Frame::text("cut").masked().bytes(), Frame::binary(vec![1; 130]).masked().bytes()].concat();
    for byte in &sent {
        tunnel.send([*byte]).await;
    }
    assert_eq!(tunnel.frame().await, Frame::text("cut"));
    assert_eq!(tunnel.frame().await, Frame::binary(vec![1; 130]));
    assert!(stage.b1.bytes().ends_with(&sent));
}

#[tokio::test]
async fn tun_05_small_messages_meet_no_delayed_acknowledgement() {
    for way in Way::ALL {
        let stage = Stage::standard().await;
        // What the machine itself costs at the moment: the same without the gateway.
        let mut direct = Client::clear(stage.b1.address).await;
        direct.open(&Handshake::to("/ws")).await;
        let quiet = echoes(&mut Tunnel::H1(direct)).await;
        let slow = echoes(&mut way.tunnel(&stage, &Handshake::to("/ws")).await).await;
        assert!(slow < (quiet * 5).max(Duration::from_millis(20)), "{way:?}: {slow:?}, {quiet:?} without the gateway");
    }
}

/// The 99th percentile of 1000 echoes of one byte.
async fn echoes(tunnel: &mut Tunnel) -> Duration {
    let mut times = Vec::new();
    for _ in 0..1000 {
        let start = Instant::now();
        tunnel.echo("x").await;
        times.push(start.elapsed());
    }
    percentile(times, 99)
}

/// Bytes that are no legal frame of a client's, and with what the tunnel ends.
fn illegal_frames() -> Vec<(Vec<u8>, u16)> {
    let ping = |payload: Vec<u8>| Frame::new(OpCode::PING, payload).masked();
    let mut long = Frame::binary(vec![1; 300]).masked().bytes();
    long[1] = 0xff;
    long.splice(2..4, [0x80, 0, 0, 0, 0, 0, 1, 44]);
    vec![
        (Frame::text("no mask").bytes(), 1002),
        (Frame::text("rsv1").rsv(0b100).masked().bytes(), 1002),
        (Frame::text("rsv2").rsv(0b010).masked().bytes(), 1002),
        (Frame::new(OpCode(3), "opcode").masked().bytes(), 1002),
        (Frame::new(OpCode(15), "opcode").masked().bytes(), 1002),
        (ping(vec![0; 126]).bytes(), 1002),
        (ping(vec![0; 3]).unfinished().bytes(), 1002),
        (Frame::new(OpCode::CONTINUATION, "of nothing").masked().bytes(), 1002),
        ([Frame::text("a").unfinished().masked().bytes(), Frame::text("b").masked().bytes()].concat(), 1002),
        (Frame::close(1005, "").masked().bytes(), 1002),
        (long, 1002),
        (Frame::binary(vec![1; 2_001]).masked().bytes(), 1009),
        (vec![0xff, 0x00, 0x13], 1002),
    ]
}

const SMALL: &str = "max_frame_size = \"2000B\"\nmax_message_size = \"3000B\"";

#[tokio::test]
async fn tun_06_what_is_no_frame_passes_unread_where_frames_are_opaque() {
    let stage = Setup::new()
        .b1(agreeing(async |mut peer: Peer| peer.until_over().await))
        .websocket("frames = \"opaque\"")
        .start();
    for way in Way::ALL {
        for (bytes, _) in illegal_frames() {
            let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
            tunnel.send(&bytes).await;
            eventually("the bytes at the backend", || stage.b1.bytes().ends_with(&bytes)).await;
        }
    }
}

#[tokio::test]
async fn tun_06_checked_frames_end_the_tunnel_with_a_close_to_both_sides() {
    for way in Way::ALL {
        let stage = Setup::new().websocket(SMALL).start();
        for (number, (bytes, code)) in illegal_frames().into_iter().enumerate() {
            let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
            tunnel.echo("before").await;
            tunnel.send(&bytes).await;
            let mut frame = tunnel.frame().await;
            if frame == Frame::text("a").unfinished() {
                // The good half of one of them is echoed.
                frame = tunnel.frame().await;
            }
            assert_eq!(frame.close_code(), Some(code), "{way:?} {number}");
            let (rest, end) = tunnel.rest().await;
            assert_eq!((rest, end), (vec![], End::Fin), "{way:?} {number}");
            drop(tunnel);
            let record = stage.b1.records().pop().expect("a connection");
            eventually("the backend's end", || record.is_over()).await;
            // An upstream's Close of ours is 8 bytes and its reason; what is illegal stands nowhere before it.
            assert!(!record.bytes().windows(bytes.len()).any(|seen| seen == bytes), "{way:?} {number}: it went on");
        }
        let ends = stage.gateway.logged(illegal_frames().len()).await;
        assert!(ends.iter().all(|line| line["side"] == "downstream" && line["closed_by"] == "gateway"), "{ends:?}");
        assert!(ends.iter().any(|line| line["end"] == "message-too-big-by-client" && line["close_code"] == 1009));
        assert!(ends.iter().any(|line| line["end"] == "frame-violation-by-client" && line["close_code"] == 1002));
        assert!(ends.iter().all(|line| line["messages_in"] == 1 && line["messages_out"] == 1), "{ends:?}");
    }
}

#[tokio::test]
async fn tun_06_a_servers_illegal_frame_is_a_close_to_its_client_and_then_to_itself() {
    for way in Way::ALL {
        let backend = agreeing(async |mut peer: Peer| {
            peer.write(&[Frame::text("good").bytes(), Frame::text("masked").masked().bytes()].concat()).await?;
            peer.until_over().await
        });
        let stage = Setup::new().b1(backend).start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        assert_eq!(tunnel.frame().await, Frame::text("good"));
        assert_eq!(tunnel.frame().await.close_code(), Some(1002), "{way:?}");
        let answer = Frame::close(1002, "").masked().bytes();
        tunnel.send(&answer).await;
        let (rest, end) = tunnel.rest().await;
        assert_eq!((rest, end), (vec![], End::Fin), "{way:?}");
        eventually("the client's answer as the server's Close", || stage.b1.bytes().ends_with(&answer)).await;
    }
}

#[tokio::test]
async fn tun_06_agreed_compression_may_set_its_bit() {
    let backend = Backend::scripted(async |mut peer: Peer| {
        let head = peer.head().await?;
        peer.agree(&head, "Sec-WebSocket-Extensions: permessage-deflate\r\n").await?;
        peer.echo().await
    });
    let stage = Setup::new().b1(backend).start();
    for way in Way::ALL {
        let handshake = Handshake::to("/ws").add("Sec-WebSocket-Extensions", "permessage-deflate");
        let mut tunnel = way.tunnel(&stage, &handshake).await;
        tunnel.send(Frame::text("compressed").rsv(0b100).masked().bytes()).await;
        tunnel.frame().await;
        tunnel.send(Frame::text("no such bit").rsv(0b010).masked().bytes()).await;
        assert_eq!(tunnel.frame().await.close_code(), Some(1002), "{way:?}");
    }
}

#[tokio::test]
async fn tun_07_a_close_is_passed_both_ways_and_then_both_sockets_end_well() {
    for way in Way::ALL {
        let stage = Stage::standard().await;
        stage.assert_serving().await;
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        let close = Frame::close(1000, "bye");
        tunnel.send(close.clone().masked().bytes()).await;
        assert_eq!(tunnel.frame().await, close);
        let (rest, end) = tunnel.rest().await;
        assert!(rest.is_empty());
        assert_eq!(end, End::Fin, "{way:?}");
        assert!(stage.b1.bytes().ends_with(&close.masked().bytes()));
        drop(tunnel);
        let record = stage.b1.records().pop().expect("a connection");
        assert!(holds_within(Duration::from_secs(1), || record.end() == End::Fin).await, "{:?}", record.end());
    }
}

#[tokio::test]
async fn tun_08_half_closed_by_the_client_the_other_direction_goes_on_to_its_end() {
    for way in Way::ALL {
        let backend = agreeing(async |mut peer: Peer| {
            let (rest, end) = peer.rest().await?;
            assert_eq!((rest, end), (Frame::text("last words").masked().bytes(), End::Fin));
            peer.write(&blocks(16)).await
        });
        let stage = Setup::new().b1(backend).start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        tunnel.send(Frame::text("last words").masked().bytes()).await;
        tunnel.finish().await;
        let (rest, end) = tunnel.rest().await;
        assert_eq!((rest.len(), end), (blocks(16).len(), End::Fin), "{way:?}");
        assert!(rest == blocks(16));
    }
}

#[tokio::test]
async fn tun_08_half_closed_by_the_backend_the_client_can_still_speak() {
    for way in Way::ALL {
        let backend = agreeing(async |mut peer: Peer| {
            peer.finish().await?;
            let (rest, end) = peer.rest().await?;
            assert_eq!((rest, end), (Frame::text("last words").masked().bytes(), End::Fin));
            Ok(())
        });
        let stage = Setup::new().b1(backend).start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        assert_eq!(tunnel.rest().await, (gone(), End::Fin));
        tunnel.send(Frame::text("last words").masked().bytes()).await;
        tunnel.finish().await;
        let record = stage.b1.records().remove(0);
        eventually("the backend's end", || record.is_over()).await;
    }
}

#[tokio::test]
async fn tun_11_a_reset_by_the_client_ends_the_backend_within_a_second() {
    for way in Way::ALL {
        let stage = Stage::standard().await;
        stage.assert_serving().await;
        let before = stage.gateway.descriptors();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        tunnel.echo("x").await;
        let record = stage.b1.records().pop().expect("a connection");
        tunnel.reset();
        assert!(holds_within(Duration::from_secs(1), || record.is_over()).await, "{way:?}");
        eventually("descriptors back to where they were", || stage.gateway.descriptors() <= before).await;
    }
}

#[tokio::test]
async fn tun_13_what_was_sent_before_a_close_is_delivered_to_a_slow_reader() {
    for way in Way::ALL {
        let stage = Setup::new().b1(agreeing(async |mut peer: Peer| peer.write(&blocks(64)).await)).start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        let expected = [blocks(64), gone()].concat();
        let mut got = Vec::new();
        for _ in 0..8 {
            pause(100).await;
            got.extend(tunnel.exact(512 * 1024).await);
        }
        let (rest, end) = tunnel.rest().await;
        got.extend(rest);
        assert_eq!((got.len(), end), (expected.len(), End::Fin), "{way:?}");
        assert!(got == expected);
    }
}

/// Pumps `count` blocks, counting those that were written.
fn pumping(count: usize, written: Arc<AtomicUsize>) -> Backend {
    agreeing(move |mut peer: Peer| {
        let written = written.clone();
        async move {
            for number in 0..count {
                peer.write(&block(number)).await?;
                written.fetch_add(1, Ordering::SeqCst);
            }
            peer.finish().await?;
            peer.until_over().await
        }
    })
}

#[tokio::test]
async fn tun_15_a_client_that_stops_reading_stops_the_backend_and_costs_no_memory() {
    // 256 MiB.
    const BLOCKS: usize = 4096;
    for way in [Way::Clear, Way::Tls] {
        let written = Arc::new(AtomicUsize::new(0));
        let stage = Setup::new().b1(pumping(BLOCKS, written.clone())).start();
        stage.gateway.descriptors();
        let before = stage.gateway.rss();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        // Stalled: for half a second nothing more was taken.
        let mut last = 0;
        loop {
            pause(500).await;
            let now = written.load(Ordering::SeqCst);
            if now == last && now > 0 {
                break;
            }
            last = now;
        }
        assert!(last < BLOCKS / 8, "{way:?}: {last} blocks of 64 KiB went nowhere");
        pause(3000).await;
        assert_eq!(written.load(Ordering::SeqCst), last, "{way:?}: something trickles on");
        let grown = stage.gateway.rss().saturating_sub(before);
        assert!(grown < 8 * 1024, "{way:?}: {grown} KiB");
        let (all, end) = tunnel.rest().await;
        assert_eq!(end, End::Fin);
        assert_eq!(digest(&all), digest(&[blocks(BLOCKS), gone()].concat()), "{way:?}: {} bytes", all.len());
        assert!(all.len() > 256 * MIB);
    }
}

#[tokio::test]
async fn tun_15_a_backend_that_stops_reading_stops_the_client() {
    for way in Way::H1 {
        let (go, wait) = tokio::sync::watch::channel(false);
        let backend = agreeing(move |mut peer: Peer| {
            let mut wait = wait.clone();
            async move {
                let _ = wait.wait_for(|go| *go).await;
                peer.until_over().await
            }
        });
        let stage = Setup::new().b1(backend).start();
        let before = stage.gateway.rss();
        let mut stream = match way.tunnel(&stage, &Handshake::to("/ws")).await {
            Tunnel::H1(client) => client.into_stream(),
            Tunnel::H2(_) => unreachable!("h1 only"),
        };
        let frame = Frame::binary(vec![5; 64 * 1024]).masked().bytes();
        let mut sent = 0;
        while sent < 1024 {
            match tokio::time::timeout(Duration::from_millis(500), stream.write(&frame)).await {
                Ok(written) => written.expect("an open connection"),
                Err(_) => break,
            }
            sent += 1;
        }
        assert!(sent < 512, "{way:?}: {sent} blocks of 64 KiB went nowhere");
        let grown = stage.gateway.rss().saturating_sub(before);
        assert!(grown < 8 * 1024, "{way:?}: {grown} KiB");
        go.send(true).expect("a waiting backend");
        eventually("the rest", || stage.b1.bytes().len() > sent * frame.len()).await;
    }
}

#[tokio::test]
async fn tun_19_silence_both_ways_ends_the_tunnel_at_its_idle_timeout() {
    for way in Way::ALL {
        let stage = Setup::new().websocket("idle_timeout = \"3s\"").start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        pause(1000).await;
        tunnel.echo("not idle").await;
        let start = Instant::now();
        let (rest, _) = tunnel.rest().await;
        assert_eq!(rest, Frame::close(1001, "going away").bytes(), "{way:?}");
        let took = start.elapsed();
        assert!(took > Duration::from_millis(2400) && took < Duration::from_millis(3600), "{way:?}: {took:?}");
        let record = stage.b1.records().remove(0);
        // The client's answer is waited for.
        assert!(holds_within(Duration::from_secs(4), || record.is_over()).await);
    }
}

/// A pong that answers a frame.
fn pong(ping: &Frame) -> Vec<u8> {
    assert_eq!((ping.opcode, ping.payload.len()), (OpCode::PING, 8), "a ping of the gateway's");
    Frame::new(OpCode(10), ping.payload.clone()).masked().bytes()
}

#[tokio::test]
async fn tun_20_a_silent_client_is_pinged_and_given_up_when_it_does_not_answer() {
    for way in Way::ALL {
        let stage = Setup::new().websocket("ping_interval = \"1s\"").start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        for _ in 0..2 {
            let ping = tunnel.frame().await;
            tunnel.send(pong(&ping)).await;
        }
        tunnel.echo("alive").await;
        assert!(!stage.b1.bytes().windows(2).any(|bytes| bytes == [0x8a, 0x88]), "the pongs stay here");
        let start = Instant::now();
        pong(&tunnel.frame().await);
        let (rest, _) = tunnel.rest().await;
        assert_eq!(rest, Frame::close(1001, "going away").bytes(), "{way:?}");
        assert!(start.elapsed() > Duration::from_millis(1900), "{way:?}: {:?}", start.elapsed());
        drop(tunnel);
        let line = stage.gateway.logged(1).await.remove(0);
        assert_eq!((&line["end"], &line["close_code"]), (&"dead-peer-downstream".into(), &1001.into()));
        assert!(line["rtt_us"].as_u64().is_some_and(|micros| micros < 1_000_000), "{line}");
    }
}

#[tokio::test]
async fn tun_20_a_silent_server_is_given_up_with_1011_where_the_route_pings_it() {
    let stage = Setup::new()
        .b1(agreeing(async |mut peer: Peer| peer.until_over().await))
        .websocket("ping_interval = \"1s\"\nping_upstream = true")
        .start();
    for way in Way::ALL {
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        loop {
            let frame = tunnel.frame().await;
            match frame.close_code() {
                Some(code) => break assert_eq!(code, 1011, "{way:?}"),
                None => tunnel.send(pong(&frame)).await,
            }
        }
    }
}

#[tokio::test]
async fn tun_20_a_tunnel_of_the_maximal_age_is_closed_with_1001() {
    for way in Way::ALL {
        let stage = Setup::new().websocket("max_lifetime = \"2s\"").start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        let start = Instant::now();
        pause(1000).await;
        tunnel.echo("busy").await;
        assert_eq!(tunnel.frame().await.close_code(), Some(1001), "{way:?}");
        assert!(start.elapsed() < Duration::from_secs(4), "{way:?}: {:?}", start.elapsed());
        tunnel.send(Frame::close(1001, "").masked().bytes()).await;
        tunnel.rest().await;
        drop(tunnel);
        assert_eq!(stage.gateway.logged(1).await[0]["end"], "max-lifetime");
    }
}

#[tokio::test]
async fn tun_21_the_timeouts_of_requests_do_not_touch_a_silent_tunnel() {
    for way in Way::ALL {
        let stage = Setup::new()
            .listener_timeouts("request_head = \"300ms\"\nkeep_alive = \"300ms\"\ntls_handshake = \"1s\"")
            .route_timeouts("response = \"500ms\"\nresponse_body_idle = \"300ms\"\nclient_stall = \"300ms\"\nrequest_body_idle = \"300ms\"")
            .start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        pause(1500).await;
        tunnel.echo("still here").await;
    }
}

/// One open, echo and end; every third by RST, every third half-closed.
async fn cycle(stage: &Stage, way: Way, number: usize) {
    let mut tunnel = way.tunnel(stage, &Handshake::to("/ws")).await;
    tunnel.echo("x").await;
    match number % 3 {
        0 => tunnel.reset(),
        1 => {
            tunnel.finish().await;
            tunnel.rest().await;
        }
        _ => {
            tunnel.send(Frame::close(1000, "").masked().bytes()).await;
            tunnel.rest().await;
        }
    }
}

async fn cycles(stage: &Stage, count: usize) {
    for number in 0..count {
        // Mostly clear, because TLS of an unoptimised build is slow.
        let way = match number % 20 {
            0..=2 => Way::Tls,
            3..=5 => Way::H2,
            _ => Way::Clear,
        };
        cycle(stage, way, number).await;
    }
}

#[tokio::test]
async fn tun_22_nothing_is_left_of_tunnels_that_are_over() {
    let stage = Stage::standard().await;
    stage.assert_serving().await;
    let descriptors = stage.gateway.descriptors();
    cycles(&stage, 500).await;
    eventually("descriptors back to where they were", || stage.gateway.descriptors() <= descriptors).await;
    let warm = stage.gateway.rss();
    cycles(&stage, 2000).await;
    eventually("descriptors back to where they were", || stage.gateway.descriptors() <= descriptors).await;
    let after = stage.gateway.rss();
    assert!(after < warm + warm / 10 + 2048, "{warm} KiB, then {after} KiB");
    let open =
        |records: Vec<_>| records.iter().filter(|record: &&Arc<crate::harness::Record>| !record.is_over()).count();
    // The one that is left is the pooled connection of the plain request.
    eventually("every backend connection over", || open(stage.b1.records()) <= 1).await;
}

#[tokio::test]
async fn tun_22_a_client_that_is_gone_before_the_101_leaves_no_tunnel() {
    let backend = Backend::scripted(async |mut peer: Peer| {
        let head = peer.head().await?;
        pause(200).await;
        peer.agree(&head, "").await?;
        peer.until_over().await
    });
    let stage = Setup::new().b1(backend).start();
    let mut client: Client = stage.clear().await;
    client.send(Handshake::to("/ws").to_h1()).await;
    eventually("the handshake at the backend", || stage.b1.requests().len() == 1).await;
    client.reset();
    let record = stage.b1.records().remove(0);
    eventually("the end of the backend's connection", || record.is_over()).await;
}
