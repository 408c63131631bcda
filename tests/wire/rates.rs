//! TUN: how fast a client may send through a tunnel, and what becomes of one that is faster.

use std::time::{Duration, Instant};

use crate::harness::{Backend, End, Frame, Handshake, OpCode, Peer, Setup, Stage, Way, eventually};

/// Agrees, and reads until the end.
fn listening() -> Backend {
    Backend::scripted(async |mut peer: Peer| {
        let head = peer.head().await?;
        peer.agree(&head, "").await?;
        peer.until_over().await
    })
}

/// What the backend has got behind the head of its newest connection.
fn behind_the_head(stage: &Stage) -> Vec<u8> {
    let bytes = stage.b1.records().pop().map(|record| record.bytes()).unwrap_or_default();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    bytes[end..].to_vec()
}

#[tokio::test]
async fn tun_23_a_client_over_its_messages_is_delayed_and_nothing_is_lost() {
    for way in Way::ALL {
        let stage = Setup::new().b1(listening()).websocket("messages_per_second = 20").start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        let start = Instant::now();
        let one = Frame::text("x").masked().bytes();
        tunnel.send(one.repeat(60)).await;
        let mut most = 0.0_f64;
        eventually("all messages", || {
            // Looked at first, so that the time is never too late.
            let count = behind_the_head(&stage).len() / one.len();
            most = most.max(count as f64 - 20.0 - start.elapsed().as_secs_f64() * 20.0);
            count >= 60
        })
        .await;
        let took = start.elapsed();
        assert!(most <= 0.0, "{way:?}: {most} too many at a time");
        assert!(took >= Duration::from_millis(1_990) && took < Duration::from_secs(5), "{way:?}: {took:?}");
        assert_eq!(behind_the_head(&stage), one.repeat(60), "{way:?}");
    }
}

#[tokio::test]
async fn tun_23_bytes_are_paced_within_a_frame_and_where_frames_are_opaque() {
    for way in Way::ALL {
        for frames in ["checked", "opaque"] {
            let toml = format!("bytes_per_second = \"64KiB\"\nframes = \"{frames}\"");
            let stage = Setup::new().b1(listening()).websocket(&toml).start();
            let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
            let start = Instant::now();
            let frame = Frame::binary(vec![7; 160 * 1024]).masked().bytes();
            tunnel.send(&frame).await;
            eventually("the frame", || behind_the_head(&stage).len() == frame.len()).await;
            let took = start.elapsed();
            assert!(
                took >= Duration::from_millis(1_490) && took < Duration::from_secs(5),
                "{way:?} {frames}: {took:?}"
            );
            assert_eq!(behind_the_head(&stage), frame, "{way:?} {frames}");
        }
    }
}

#[tokio::test]
async fn tun_23_a_delayed_client_still_hears_its_server_and_its_reset_is_heard() {
    for way in Way::ALL {
        let stage = Setup::new()
            .b1(Backend::scripted(async |mut peer: Peer| {
                let head = peer.head().await?;
                peer.agree(&head, "").await?;
                peer.frame().await?;
                peer.write(&Frame::text("heard").bytes()).await?;
                peer.until_over().await
            }))
            .websocket("messages_per_second = 1\nidle_timeout = \"500ms\"")
            .start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        tunnel.send(Frame::text("x").masked().bytes().repeat(1_000)).await;
        assert_eq!(tunnel.frame().await, Frame::text("heard"), "{way:?}");
        // Longer than the idle timeout: waiting for its turn is not silence.
        let one = Frame::text("x").masked().bytes().len();
        eventually("the fourth message", || behind_the_head(&stage).len() >= 4 * one).await;
        let record = stage.b1.records().pop().expect("a connection");
        if way != Way::H2 {
            tunnel.reset();
            eventually("the backend's end", || record.is_over()).await;
            assert!(behind_the_head(&stage).len() < 20 * one, "{way:?}: what was not read yet is of no use any more");
        }
    }
}

#[tokio::test]
async fn tun_23_what_comes_with_the_handshake_is_held_to_the_rate() {
    for way in Way::H1 {
        let stage = Setup::new().b1(listening()).websocket("messages_per_second = 10").start();
        let mut client = way.client(&stage).await;
        let one = Frame::text("x").masked().bytes();
        let start = Instant::now();
        client.send([Handshake::to("/ws").to_h1(), one.repeat(20)].concat()).await;
        assert_eq!(client.head().await.status(), 101);
        eventually("all messages", || behind_the_head(&stage).len() == 20 * one.len()).await;
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(990) && took < Duration::from_secs(4), "{way:?}: {took:?}");
    }
}

#[tokio::test]
async fn tun_24_too_many_messages_or_pings_close_the_tunnel_with_1008() {
    for way in Way::ALL {
        let stage = Setup::new().websocket("messages_per_second = 10\non_excess = \"close\"").start();
        for (number, frame) in [Frame::text("x"), Frame::new(OpCode::PING, "x")].into_iter().enumerate() {
            let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
            tunnel.send(frame.masked().bytes().repeat(11)).await;
            let mut echoes = 0;
            let close = loop {
                let frame = tunnel.frame().await;
                if frame.opcode == OpCode::CLOSE {
                    break frame;
                }
                assert_eq!(frame.payload, b"x", "{way:?}");
                echoes += 1;
            };
            assert!(echoes <= 10 && close == Frame::close(1008, "rate exceeded"), "{way:?}: {echoes}, {close:?}");
            let (rest, end) = tunnel.rest().await;
            assert_eq!((rest, end), (vec![], End::Fin), "{way:?}");
            drop(tunnel);
            let line = stage.gateway.logged(number + 1).await.pop().expect("a line");
            assert_eq!((&line["end"], &line["side"]), (&"rate-exceeded".into(), &"downstream".into()), "{line}");
            assert_eq!(line["closed_by"], "gateway", "{line}");
        }
    }
}

#[tokio::test]
async fn tun_24_the_offender_is_told_1008_and_the_server_1001() {
    for way in Way::ALL {
        for (toml, bytes) in [
            ("messages_per_second = 5", Frame::text("x").masked().bytes().repeat(6)),
            ("bytes_per_second = \"1KiB\"", Frame::binary(vec![1; 100]).masked().bytes().repeat(11)),
        ] {
            let stage = Setup::new().b1(listening()).websocket(&format!("{toml}\non_excess = \"close\"")).start();
            let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
            tunnel.send(&bytes).await;
            assert_eq!(tunnel.frame().await, Frame::close(1008, "rate exceeded"), "{way:?} {toml}");
            tunnel.send(Frame::close(1008, "").masked().bytes()).await;
            let (rest, end) = tunnel.rest().await;
            assert_eq!((rest, end), (vec![], End::Fin), "{way:?} {toml}");
            drop(tunnel);
            let line = stage.gateway.logged(1).await.remove(0);
            assert_eq!(line["end"], "rate-exceeded", "{line}");
            let seen = behind_the_head(&stage);
            let close = seen.len() - 8 - "going away".len();
            assert!(bytes.starts_with(&seen[..close]), "{way:?} {toml}");
            assert_eq!(
                seen[close..close + 2],
                [0x88, 0x80 | 12],
                "{way:?} {toml}: a masked Close and nothing behind it"
            );
            let code = [seen[close + 6] ^ seen[close + 2], seen[close + 7] ^ seen[close + 3]];
            assert_eq!(u16::from_be_bytes(code), 1001, "{way:?} {toml}");
        }
    }
}

#[tokio::test]
async fn tun_24_opaque_tunnels_are_cut() {
    for way in Way::ALL {
        let toml = "bytes_per_second = \"1KiB\"\non_excess = \"close\"\nframes = \"opaque\"";
        let stage = Setup::new().b1(listening()).websocket(toml).start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        tunnel.send(vec![7; 2_000]).await;
        let (rest, end) = tunnel.rest().await;
        assert!(rest.is_empty() && end != End::Open, "{way:?}: {rest:?}");
        let record = stage.b1.records().pop().expect("a connection");
        eventually("the backend's end", || record.is_over()).await;
        assert_eq!(stage.gateway.logged(1).await[0]["end"], "rate-exceeded");
    }
}
