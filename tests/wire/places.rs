//! LIM: how many tunnels a route may have, and when a place is free again.

use crate::harness::{
    Backend, Client, Fields, Frame, H2, Handshake, Peer, Request, Setup, Stage, Tunnel, Way, eventually, pause,
};

/// Opens a tunnel as soon as there is room for it.
async fn room_again(way: Way, stage: &Stage, what: &str) -> Tunnel {
    let end = std::time::Instant::now() + crate::harness::patience();
    loop {
        if let (_, Some(tunnel)) = way.open(stage, &Handshake::to("/ws")).await {
            return tunnel;
        }
        assert!(std::time::Instant::now() < end, "{way:?}: no room again after {what}");
        pause(20).await;
    }
}

/// The status of an answer, as soon as there is room for the handshake.
async fn answered(way: Way, stage: &Stage, handshake: &Handshake) -> u16 {
    let end = std::time::Instant::now() + crate::harness::patience();
    loop {
        let status = way.open(stage, handshake).await.0.status;
        if status != 429 {
            return status;
        }
        assert!(std::time::Instant::now() < end, "{way:?}: no room for {handshake:?}");
        pause(20).await;
    }
}

#[tokio::test]
async fn lim_20_more_tunnels_than_the_route_may_have_are_429_and_reach_no_server() {
    // Two workers: the count is one.
    let stage = Setup::new().server("workers = 2").websocket("max_tunnels = 3").start();
    let mut held = Vec::new();
    for way in Way::ALL {
        held.push(way.tunnel(&stage, &Handshake::to("/ws")).await);
    }
    let connections = stage.b1.connections();
    for way in Way::ALL {
        for _ in 0..5 {
            let answer = way.refused(&stage, &Handshake::to("/ws"), 429, "too-many-tunnels").await;
            assert_eq!(answer.get("retry-after"), Some("10"), "{way:?}");
        }
        // Only whom the policy lets in is counted, or told of it.
        way.refused(&stage, &Handshake::to("/ws").origin("https://evil.test"), 403, "origin-not-allowed").await;
    }
    assert_eq!(stage.b1.connections(), connections);
    for tunnel in &mut held {
        tunnel.echo("still open").await;
    }
    let other = Handshake::to("/ws").host("b.test");
    Way::Clear.tunnel(&stage, &other).await.echo("another route counts by itself").await;
    let lines = stage.gateway.logged(18).await;
    assert_eq!(lines.iter().filter(|line| line["end"] == "too-many-tunnels" && line["status"] == 429).count(), 15);
    for way in Way::ALL {
        drop(held.remove(0));
        held.push(room_again(way, &stage, "one has gone").await);
    }
}

#[tokio::test]
async fn lim_20_a_refusal_leaves_the_connection_usable() {
    let stage = Setup::new().websocket("max_tunnels = 1").start();
    let mut held = Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await;
    for way in Way::H1 {
        let mut client = way.client(&stage).await;
        client.send(Handshake::to("/ws").to_h1()).await;
        assert_eq!(client.answer().await.status, 429, "{way:?}");
        assert_eq!(client.ask(&Request::get("/n")).await.status, 200, "{way:?}");
    }
    let mut h2 = H2::connect(&stage).await;
    let (answer, _) = h2.open(&Handshake::to("/ws")).await.expect("an answer");
    assert_eq!((answer.status, h2.ask(&Request::get("/n")).await.status), (429, 200));
    held.echo("x").await;
}

#[tokio::test]
async fn lim_20_a_storm_of_handshakes_never_gets_more_places_than_there_are() {
    let stage = Setup::new().server("workers = 2").websocket("max_tunnels = 10").start();
    let mut storm = Vec::new();
    for _ in 0..60 {
        let mut client = stage.clear().await;
        client.send(Handshake::to("/ws").to_h1()).await;
        storm.push(client);
    }
    let mut open = Vec::new();
    for mut client in storm {
        match client.head().await.status() {
            101 => open.push(client),
            status => assert_eq!(status, 429),
        }
    }
    assert_eq!((open.len(), stage.b1.connections()), (10, 10));
}

/// A handshake of a client behind the trusted proxy.
fn of(client: &str) -> Handshake {
    Handshake::to("/ws").add("X-Forwarded-For", client)
}

#[tokio::test]
async fn lim_21_each_address_has_its_own_places_and_a_trusted_proxy_says_which() {
    for way in Way::ALL {
        let stage = Setup::new()
            .server("trusted_proxies = [\"127.0.0.1\"]")
            .websocket("max_tunnels_per_address = 2\nmax_tunnels = 100")
            .start();
        let mut held = Vec::new();
        for client in ["9.9.9.9", "9.9.9.9", "9.9.9.8", "2001:db8::1", "2001:db8::ffff:2"] {
            held.push(way.tunnel(&stage, &of(client)).await);
        }
        for client in ["9.9.9.9", "::ffff:9.9.9.9", "1.1.1.1, 9.9.9.9", "2001:db8::3"] {
            let answer = way.refused(&stage, &of(client), 429, "too-many-tunnels-from-address").await;
            assert!(answer.has("retry-after"), "{way:?} {client}");
        }
        for client in ["9.9.9.8", "2001:db8:0:1::1"] {
            held.push(way.tunnel(&stage, &of(client)).await);
        }
        drop(held.remove(0));
        eventually("the first one's end", || stage.b1.records()[0].is_over()).await;
        let mut again = None;
        for _ in 0..200 {
            again = way.open(&stage, &of("9.9.9.9")).await.1;
            if again.is_some() {
                break;
            }
            pause(20).await;
        }
        assert!(again.is_some(), "{way:?}: its place is free again");
    }
}

#[tokio::test]
async fn lim_21_nobody_else_can_say_that_it_is_somebody_else() {
    for way in Way::ALL {
        let stage = Setup::new().websocket("max_tunnels_per_address = 1").start();
        let _held = way.tunnel(&stage, &of("9.9.9.9")).await;
        way.refused(&stage, &of("9.9.9.8"), 429, "too-many-tunnels-from-address").await;
    }
}

#[tokio::test]
async fn lim_22_a_place_comes_back_however_a_handshake_ends() {
    // What the backend does with a handshake that the client sees fail.
    let backend = Backend::scripted(async |mut peer: Peer| {
        let head = peer.head().await?;
        match head.get("x-do").unwrap_or_default() {
            "refuse" => peer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await,
            "wrong" => peer.agree(&head, "Sec-WebSocket-Protocol: nobody-asked\r\n").await,
            "leave" => Ok(()),
            "silence" => peer.until_over().await,
            _ => {
                peer.agree(&head, "").await?;
                peer.echo().await
            }
        }
    });
    let stage = Setup::new().b1(backend).websocket("max_tunnels = 1").route_timeouts("response = \"1s\"").start();
    for way in Way::ALL {
        for (what, status) in [("refuse", 403), ("wrong", 502), ("leave", 502), ("silence", 504)] {
            let handshake = Handshake::to("/ws").add("X-Do", what);
            assert_eq!(answered(way, &stage, &handshake).await, status, "{way:?} {what}");
            // At once: the answer is behind it.
            let (answer, tunnel) = way.open(&stage, &Handshake::to("/ws")).await;
            let mut tunnel = tunnel.unwrap_or_else(|| panic!("{way:?} {what}: {answer:?}"));
            tunnel.send(Frame::close(1000, "").masked().bytes()).await;
            tunnel.rest().await;
            drop(tunnel);
            drop(room_again(way, &stage, "a closing exchange").await);
            room_again(way, &stage, "a client that is gone").await.reset();
            drop(room_again(way, &stage, "a reset").await);
        }
        drop(room_again(way, &stage, "all of it").await);
    }
}

#[tokio::test]
async fn lim_22_a_place_comes_back_when_the_client_leaves_before_the_answer() {
    let backend = Backend::scripted(async |mut peer: Peer| {
        let head = peer.head().await?;
        if head.has("x-wait") {
            return peer.until_over().await;
        }
        peer.agree(&head, "").await?;
        peer.echo().await
    });
    let stage = Setup::new().b1(backend).websocket("max_tunnels = 1").route_timeouts("response = \"3s\"").start();
    let waiting = Handshake::to("/ws").add("X-Wait", "1");
    for way in Way::ALL {
        let before = stage.b1.connections();
        if way == Way::H2 {
            let mut h2 = stage.h2().await;
            let (answer, mut send) = h2.begin(waiting.to_h2(), false).await;
            eventually("the handshake at the backend", || stage.b1.requests().len() > before).await;
            send.send_reset(h2::Reason::CANCEL);
            drop(answer);
        } else {
            let mut client: Client = way.client(&stage).await;
            client.send(waiting.to_h1()).await;
            eventually("the handshake at the backend", || stage.b1.requests().len() > before).await;
            client.reset();
        }
        drop(room_again(way, &stage, "a client that left").await);
        room_again(way, &stage, "a tunnel").await.reset();
    }
}
