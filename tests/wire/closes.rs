//! TUN: where the gateway's own frames stand, seen from both ends: between frames, never after a Close, masked anew.

use std::time::Duration;

use crate::harness::{
    Backend, Client, End, Frame, Handshake, OpCode, Peer, Setup, Stage, Tunnel, Way, eventually, holds_within, pause,
};

/// Agrees, then does as told.
fn agreeing<F, Fut>(then: F) -> Backend
where
    F: Fn(Peer) -> Fut + Send + Sync + Clone + 'static,
    Fut: Future<Output = std::io::Result<()>> + Send + 'static,
{
    Backend::scripted(move |mut peer: Peer| {
        let then = then.clone();
        async move {
            let head = peer.head().await?;
            peer.agree(&head, "").await?;
            then(peer).await
        }
    })
}

/// What the backend has got behind the head of its newest connection.
fn behind_the_head(stage: &Stage) -> Vec<u8> {
    let bytes = stage.b1.records().pop().map(|record| record.bytes()).unwrap_or_default();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    bytes[end..].to_vec()
}

/// A frame of 64 KiB with no byte that could begin a Close.
fn block() -> Vec<u8> {
    Frame::binary(vec![0x55; 64 * 1024]).bytes()
}

/// Sends blocks until nobody takes them, then a frame that breaks the rules behind half of it all.
fn pumping_and_breaking() -> Backend {
    agreeing(async |mut peer: Peer| {
        peer.write(&block().repeat(256)).await?;
        peer.write(&Frame::text("masked").masked().bytes()).await?;
        peer.until_over().await
    })
}

/// The whole blocks at the front, and what is behind them.
fn split_blocks(bytes: &[u8]) -> (usize, &[u8]) {
    let block = block();
    let whole = bytes.chunks(block.len()).take_while(|chunk| *chunk == block).count();
    (whole, &bytes[whole * block.len()..])
}

#[tokio::test]
async fn tun_25_under_backpressure_a_close_waits_for_the_end_of_the_frame_before_it() {
    for way in Way::ALL {
        let stage = Setup::new().b1(pumping_and_breaking()).start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        // Until every buffer is full.
        pause(300).await;
        let (all, end) = tunnel.rest().await;
        let (whole, rest) = split_blocks(&all);
        assert_eq!((whole, rest, end), (256, &Frame::close(1002, "protocol error").bytes()[..], End::Fin), "{way:?}");
    }
}

#[tokio::test]
async fn tun_25_a_client_that_does_not_read_gets_no_close_into_half_a_frame() {
    for way in Way::ALL {
        // The client's own violation ends the tunnel while its side is full.
        let backend = agreeing(async |mut peer: Peer| {
            let _ = peer.write(&block().repeat(1024)).await;
            peer.until_over().await
        });
        let stage = Setup::new().b1(backend).start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        pause(300).await;
        tunnel.send(Frame::text("no mask").bytes()).await;
        let record = stage.b1.records().pop().expect("a connection");
        assert!(holds_within(Duration::from_secs(5), || record.is_over()).await, "{way:?}");
        assert_eq!(stage.gateway.logged(1).await[0]["end"], "frame-violation-by-client");
        let (all, end) = tunnel.rest().await;
        let (whole, rest) = split_blocks(&all);
        assert!(whole < 1024 && end != End::Open, "{way:?}: {whole} blocks");
        // Half a frame, and nothing else; or, if it just ended there, a Close.
        let close = Frame::close(1002, "protocol error").bytes();
        assert!(block().starts_with(rest) || rest == close, "{way:?}: {:?}", &rest[rest.len().saturating_sub(32)..]);
    }
}

#[tokio::test]
async fn tun_25_each_frame_to_a_server_has_a_mask_of_its_own() {
    let mut masks = Vec::new();
    for way in Way::ALL {
        let stage = Setup::new()
            .b1(agreeing(async |mut peer: Peer| {
                // Pings, which are answered, so that the next one comes.
                loop {
                    let frame = peer.frame().await?;
                    if frame.opcode == OpCode::CLOSE {
                        return peer.until_over().await;
                    }
                    assert_eq!((frame.opcode, frame.payload.len()), (OpCode::PING, 8));
                    peer.write(&Frame::new(OpCode(10), frame.payload).bytes()).await?;
                }
            }))
            .websocket("ping_interval = \"1s\"\nping_upstream = true\nmax_lifetime = \"5s\"")
            .start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        loop {
            let frame = tunnel.frame().await;
            if frame.opcode == OpCode::CLOSE {
                assert_eq!(frame, Frame::close(1001, "going away"), "{way:?}");
                break;
            }
            assert!(frame.opcode == OpCode::PING && frame.mask.is_none(), "{way:?}: {frame:?}");
            tunnel.send(Frame::new(OpCode(10), frame.payload).masked().bytes()).await;
        }
        tunnel.send(Frame::close(1001, "").masked().bytes()).await;
        tunnel.rest().await;
        let seen = behind_the_head(&stage);
        let (mut at, mut kinds) = (0, Vec::new());
        while at < seen.len() {
            assert_eq!(seen[at + 1] & 0x80, 0x80, "{way:?}: masked");
            masks.push(seen[at + 2..at + 6].to_vec());
            kinds.push(seen[at]);
            at += 6 + usize::from(seen[at + 1] & 0x7f);
        }
        assert_eq!(kinds.last(), Some(&0x88), "{way:?}");
        assert!(kinds.len() >= 3 && kinds[..kinds.len() - 1].iter().all(|kind| *kind == 0x89), "{way:?}: {kinds:?}");
    }
    let count = masks.len();
    masks.sort();
    masks.dedup();
    assert_eq!(masks.len(), count, "no mask twice");
}

#[tokio::test]
async fn tun_25_pongs_to_the_gateway_stay_here_in_pieces_and_inside_of_a_message() {
    for way in Way::ALL {
        let stage = Setup::new()
            .b1(agreeing(async |mut peer: Peer| peer.until_over().await))
            .websocket("ping_interval = \"1s\"")
            .start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        let ping = tunnel.frame().await;
        assert_eq!((ping.opcode, ping.payload.len()), (OpCode::PING, 8), "{way:?}");
        let first = Frame::text("in ").unfinished().masked().bytes();
        let pong = Frame::new(OpCode(10), ping.payload.clone()).masked().bytes();
        let foreign = Frame::new(OpCode(10), "unasked").masked().bytes();
        let last = Frame::new(OpCode::CONTINUATION, "two").masked().bytes();
        tunnel.send(&first).await;
        for byte in &pong {
            tunnel.send([*byte]).await;
            pause(5).await;
        }
        // The same once more, in one piece between others; and one that answers nobody, which is not ours to keep.
        tunnel.send([&pong[..], &foreign, &pong, &last].concat()).await;
        let expected = [first, foreign, last].concat();
        eventually("the message", || behind_the_head(&stage).len() >= expected.len()).await;
        assert_eq!(behind_the_head(&stage), expected, "{way:?}");
    }
}

#[tokio::test]
async fn tun_25_no_ping_goes_out_while_the_servers_own_is_unanswered() {
    for way in Way::ALL {
        let stage = Setup::new()
            .b1(agreeing(async |mut peer: Peer| {
                peer.write(&Frame::new(OpCode::PING, "mine").bytes()).await?;
                peer.until_over().await
            }))
            .websocket("ping_interval = \"2s\"")
            .start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        assert_eq!(tunnel.frame().await, Frame::new(OpCode::PING, "mine"), "{way:?}");
        // It is asked by its server; a ping of ours would have come by now. It answers before it is taken for dead.
        pause(3_000).await;
        tunnel.send(Frame::new(OpCode(10), "mine").masked().bytes()).await;
        let sent = std::time::Instant::now();
        let ping = tunnel.frame().await;
        assert_eq!((ping.opcode, ping.payload.len()), (OpCode::PING, 8), "{way:?}");
        assert!(sent.elapsed() > Duration::from_millis(1_900), "{way:?}: only then, and after a whole interval");
    }
}

#[tokio::test]
async fn tun_25_nothing_of_the_gateways_follows_a_close() {
    for way in Way::ALL {
        // The server reads the client's Close and says nothing to it.
        let stage = Setup::new()
            .b1(agreeing(async |mut peer: Peer| peer.until_over().await))
            .websocket("ping_interval = \"1s\"\nping_upstream = true\nidle_timeout = \"3s\"")
            .start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        let close = Frame::close(1000, "bye").masked().bytes();
        tunnel.send([&close[..], &Frame::text("too late").masked().bytes()].concat()).await;
        let (rest, _) = tunnel.rest().await;
        let record = stage.b1.records().pop().expect("a connection");
        eventually("the backend's end", || record.is_over()).await;
        assert_eq!(behind_the_head(&stage), close, "{way:?}: to the server");
        // The client has been told nothing yet, so it is told once.
        assert_eq!(rest, Frame::close(1001, "going away").bytes(), "{way:?}: to the client");
        let line = stage.gateway.logged(1).await.remove(0);
        assert_eq!((&line["closed_by"], &line["close_code"]), (&"downstream".into(), &1000.into()), "{line}");
    }
}

#[tokio::test]
async fn tun_25_a_close_without_a_code_passes_without_one() {
    for way in Way::ALL {
        let stage = Stage::standard().await;
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        let close = Frame::new(OpCode::CLOSE, "");
        tunnel.send(close.clone().masked().bytes()).await;
        assert_eq!(tunnel.rest().await, (close.bytes(), End::Fin), "{way:?}");
        drop(tunnel);
        let line = stage.gateway.logged(1).await.remove(0);
        assert_eq!((line.get("close_code"), &line["closed_by"]), (None, &"downstream".into()), "{line}");
    }
}

#[tokio::test]
async fn tun_25_where_frames_are_opaque_nothing_is_put_in() {
    for way in Way::ALL {
        let toml = "frames = \"opaque\"\nidle_timeout = \"1s\"";
        let stage = Setup::new().b1(agreeing(async |mut peer: Peer| peer.until_over().await)).websocket(toml).start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        let half = &Frame::text("half").masked().bytes()[..3];
        tunnel.send(half).await;
        assert_eq!(tunnel.rest().await, (vec![], End::Fin), "{way:?}");
        let record = stage.b1.records().pop().expect("a connection");
        eventually("the backend's end", || record.is_over()).await;
        assert_eq!((behind_the_head(&stage), record.end()), (half.to_vec(), End::Fin), "{way:?}");
    }
}

#[tokio::test]
async fn tun_25_at_the_end_of_a_drain_half_a_frame_is_no_place_for_a_close() {
    for way in Way::ALL {
        let backend = agreeing(async |mut peer: Peer| {
            peer.write(&Frame::text("whole").bytes()).await?;
            peer.write(&Frame::binary(vec![0x55; 100]).bytes()[..50]).await?;
            peer.until_over().await
        });
        let mut stage = Setup::new().b1(backend).server("drain_timeout = \"500ms\"").start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        assert_eq!(tunnel.frame().await, Frame::text("whole"), "{way:?}");
        stage.gateway.terminate();
        let (rest, end) = tunnel.rest().await;
        assert_eq!(rest, Frame::binary(vec![0x55; 100]).bytes()[..50], "{way:?}");
        assert_ne!(end, End::Open, "{way:?}");
        stage.gateway.exit().await;
        let seen = behind_the_head(&stage);
        assert_eq!(seen.first(), Some(&0x88), "{way:?}: the server is between frames and hears 1001");
    }
}

/// What a client can do to be a nuisance at the very end: it goes on sending behind its Close, for ever.
#[tokio::test]
async fn tun_25_whoever_goes_on_behind_a_close_is_cut() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        let mut client: Client = way.client(&stage).await;
        client.open(&Handshake::to("/ws")).await;
        client.send(Frame::close(1000, "").masked().bytes()).await;
        let noise = Frame::text("noise").masked().bytes().repeat(100);
        let start = std::time::Instant::now();
        while client.try_send(&noise).await.is_ok() {
            assert!(start.elapsed() < Duration::from_secs(40), "{way:?}");
            pause(50).await;
        }
        assert!(!stage.b1.saw("noise"));
        let _ = Tunnel::H1(client);
    }
}
