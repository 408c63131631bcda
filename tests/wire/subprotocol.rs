//! WSN: subprotocols and extensions are negotiated by the two ends (RFC 6455 §1.9, §9.1, RFC 7692).

use crate::harness::{Backend, Fields, Frame, Handshake, OpCode, Peer, Setup, Stage, Way};

/// Agrees with these further lines in the 101, then echoes.
fn agreeing(extra: &'static str) -> Backend {
    Backend::scripted(move |mut peer: Peer| async move {
        let head = peer.head().await?;
        peer.agree(&head, extra).await?;
        peer.echo().await
    })
}

fn offering(protocols: &str) -> Handshake {
    Handshake::to("/ws").add("Sec-WebSocket-Protocol", protocols)
}

#[tokio::test]
async fn wsn_01_the_offer_goes_up_in_order_and_the_choice_comes_down() {
    for way in Way::ALL {
        let stage = Setup::new().b1(agreeing("Sec-WebSocket-Protocol: superchat\r\n")).start();
        let (answer, tunnel) = way.open(&stage, &offering("chat, superchat")).await;
        tunnel.unwrap_or_else(|| panic!("{answer:?}")).echo("x").await;
        assert_eq!(answer.get("sec-websocket-protocol"), Some("superchat"));
        let request = stage.b1.request();
        let sent: Vec<_> =
            request.all("sec-websocket-protocol").join(",").split(',').map(|p| p.trim().to_owned()).collect();
        assert_eq!(sent, ["chat", "superchat"]);
    }
}

#[tokio::test]
async fn wsn_01_offers_that_are_not_allowed_never_reach_the_upstream() {
    for way in Way::ALL {
        let stage = Setup::new()
            .b1(agreeing("Sec-WebSocket-Protocol: echo-protocol\r\n"))
            .websocket("subprotocols = { allow = [\"echo-protocol\"], require = true }")
            .start();
        for handshake in [Handshake::to("/ws"), offering("chat"), offering("Echo-Protocol")] {
            way.refused(&stage, &handshake, 400, "subprotocol-required").await;
        }
        stage.b1.assert_untouched();
        let two_lines = offering("chat").add("Sec-WebSocket-Protocol", "echo-protocol, superchat");
        way.tunnel(&stage, &two_lines).await.echo("x").await;
        assert_eq!(stage.b1.request().get("sec-websocket-protocol"), Some("echo-protocol"));
    }
}

#[tokio::test]
async fn wsn_03_a_choice_that_was_not_offered_is_502() {
    for way in Way::ALL {
        for (extra, handshake) in [
            ("Sec-WebSocket-Protocol: other\r\n", offering("chat, superchat")),
            ("Sec-WebSocket-Protocol: other\r\n", Handshake::to("/ws")),
            ("Sec-WebSocket-Protocol: chat, superchat\r\n", offering("chat, superchat")),
            ("Sec-WebSocket-Protocol: CHAT\r\n", offering("chat")),
        ] {
            let stage = Setup::new().b1(agreeing(extra)).start();
            way.refused(&stage, &handshake, 502, "bad-upgrade").await;
        }
    }
}

#[tokio::test]
async fn wsn_03_an_extension_that_was_not_offered_is_502() {
    for way in Way::ALL {
        let stage = Setup::new().b1(agreeing("Sec-WebSocket-Extensions: permessage-deflate\r\n")).start();
        way.refused(&stage, &Handshake::to("/ws"), 502, "bad-upgrade").await;
    }
}

#[tokio::test]
async fn wsn_05_compressed_messages_pass_bit_by_bit_once_agreed() {
    let offer = "permessage-deflate; client_max_window_bits";
    for way in Way::ALL {
        let stage = Setup::new().b1(agreeing("Sec-WebSocket-Extensions: permessage-deflate\r\n")).start();
        let handshake = Handshake::to("/ws").add("Sec-WebSocket-Extensions", offer);
        let (answer, tunnel) = way.open(&stage, &handshake).await;
        let mut tunnel = tunnel.unwrap_or_else(|| panic!("{answer:?}"));
        assert_eq!(answer.get("sec-websocket-extensions"), Some("permessage-deflate"));
        assert_eq!(stage.b1.request().get("sec-websocket-extensions"), Some(offer));
        // "Hello" deflated, as RFC 7692 §7.2.3.1 shows it.
        let frame = Frame::new(OpCode::TEXT, [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]).rsv(0b100);
        let sent = frame.clone().masked().bytes();
        tunnel.send(&sent).await;
        assert_eq!(tunnel.exact(frame.bytes().len()).await, frame.bytes());
        assert!(stage.b1.bytes().ends_with(&sent));
    }
}

#[tokio::test]
async fn wsn_05_extensions_can_be_stripped() {
    for way in Way::ALL {
        let stage = Setup::new().websocket("extensions = \"strip\"").start();
        let handshake = Handshake::to("/ws").add("Sec-WebSocket-Extensions", "permessage-deflate");
        let (answer, tunnel) = way.open(&stage, &handshake).await;
        tunnel.unwrap_or_else(|| panic!("{answer:?}")).echo("x").await;
        assert!(!answer.has("sec-websocket-extensions") && !stage.b1.request().has("sec-websocket-extensions"));
    }
}

#[tokio::test]
async fn wsn_05_what_was_stripped_cannot_be_agreed_on_nor_set_its_bit() {
    for way in Way::ALL {
        let strip = "extensions = \"strip\"";
        let stage = Setup::new().b1(agreeing("Sec-WebSocket-Extensions: permessage-deflate\r\n")).websocket(strip);
        let handshake = Handshake::to("/ws")
            .add("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")
            .add("Sec-WebSocket-Extensions", "x-other");
        way.refused(&stage.start(), &handshake, 502, "bad-upgrade").await;
        let stage = Setup::new().websocket(strip).start();
        let mut tunnel = way.tunnel(&stage, &handshake).await;
        assert!(!stage.b1.saw("xtensions") && !stage.b1.saw("deflate"), "{way:?}");
        tunnel.send(Frame::text("compressed").rsv(0b100).masked().bytes()).await;
        assert_eq!(tunnel.frame().await.close_code(), Some(1002), "{way:?}");
    }
}

#[tokio::test]
async fn wsn_05_a_server_may_compress_only_what_was_agreed_and_only_first_frames() {
    for way in Way::ALL {
        for (agreed, frames, passes) in [
            ("", vec![Frame::text("a").rsv(0b100)], 0),
            ("Sec-WebSocket-Extensions: permessage-deflate\r\n", vec![Frame::text("a").rsv(0b100)], 1),
            (
                "Sec-WebSocket-Extensions: permessage-deflate\r\n",
                vec![Frame::text("a").rsv(0b100).unfinished(), Frame::new(OpCode::CONTINUATION, "b").rsv(0b100)],
                1,
            ),
            ("Sec-WebSocket-Extensions: permessage-deflate\r\n", vec![Frame::new(OpCode::PING, "").rsv(0b100)], 0),
        ] {
            let sent: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
            let backend = Backend::scripted(move |mut peer: Peer| {
                let sent = sent.clone();
                async move {
                    let head = peer.head().await?;
                    peer.agree(&head, agreed).await?;
                    peer.write(&sent).await?;
                    peer.until_over().await
                }
            });
            let stage = Setup::new().b1(backend).start();
            let handshake = Handshake::to("/ws").add("Sec-WebSocket-Extensions", "permessage-deflate");
            let mut tunnel = way.tunnel(&stage, &handshake).await;
            for frame in &frames[..passes] {
                assert_eq!(&tunnel.frame().await, frame, "{way:?}");
            }
            if passes < frames.len() {
                assert_eq!(tunnel.frame().await.close_code(), Some(1002), "{way:?} {frames:?}");
            }
        }
    }
}

#[tokio::test]
async fn wsn_05_without_extensions_neither_end_sees_any() {
    let stage = Stage::standard().await;
    let (answer, _tunnel) = Way::H2.open(&stage, &Handshake::to("/ws")).await;
    assert!(!answer.has("sec-websocket-extensions") && !stage.b1.request().has("sec-websocket-extensions"));
}
