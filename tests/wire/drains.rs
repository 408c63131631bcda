//! DRN: tunnels that are closed from outside: their server drains, or a reload takes their route away.

use std::time::{Duration, Instant};

use crate::harness::{
    Backend, End, Frame, Handshake, NameServer, OpCode, Peer, Request, Says, Setup, Stage, Tunnel, Way, eventually,
    holds_within, pause,
};

/// Two servers behind `/d`, of which the first one has all the work.
fn two(setup: Setup, upstream: &str, websocket: &str) -> Stage {
    setup
        .more(&format!(
            "[[route]]\nname = \"d\"\nhosts = [\"a.test\"]\npath = \"/d\"\nstrip_prefix = \"/d\"\nupstream = \"d\"\n\
             [route.websocket]\norigins = [\"https://app.example\"]\n{websocket}\n\
             [upstream.d]\nservers = [{{ url = \"http://{{B1}}\", weight = 1 }}, {{ url = \"http://{{B2}}\", weight = 0 }}]\n\
             {upstream}\n"
        ))
        .start()
}

fn handshake() -> Handshake {
    Handshake::to("/d/ws")
}

/// The first server has no weight any more, the second one has.
async fn drain(stage: &Stage) {
    let swapped = [(stage.b1.address, 1, 0), (stage.b2.address, 0, 1)].iter().fold(
        stage.toml.clone(),
        |toml, (address, before, after)| {
            let entry = |weight| format!("url = \"http://{address}\", weight = {weight}");
            assert!(toml.contains(&entry(*before)), "{toml}");
            toml.replace(&entry(*before), &entry(*after))
        },
    );
    assert_eq!(stage.gateway.reload_with(&swapped).await["message"], "reloaded");
}

/// As it was in the beginning.
async fn undrain(stage: &Stage) {
    assert_eq!(stage.gateway.reload_with(&stage.toml).await["message"], "reloaded");
}

/// What a server has got behind the head of its newest connection.
fn behind_the_head(backend: &Backend) -> Vec<u8> {
    let bytes = backend.records().pop().map(|record| record.bytes()).unwrap_or_default();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    bytes[end..].to_vec()
}

/// The code of the Close of the gateway's that a server has got last, if it has: "going away" has ten bytes.
fn close_at_the_server(backend: &Backend) -> Option<u16> {
    let bytes = behind_the_head(backend);
    let last = bytes.last_chunk::<18>()?;
    let [0x88, 0x8c, a, b, _, _, high, low, ..] = *last else { return None };
    Some(u16::from_be_bytes([high ^ a, low ^ b]))
}

fn drained(stage: &Stage) -> usize {
    stage.gateway.access_log().iter().filter(|line| line["end"] == "server-drained").count()
}

fn is_message(event: &serde_json::Value, text: &str) -> bool {
    event["message"].as_str() == Some(text)
}

#[tokio::test]
async fn drn_01_a_server_that_drains_is_a_1012_to_its_clients_and_a_1001_to_itself() {
    for way in Way::ALL {
        let stage = two(Setup::new(), "drain_rate = 1000", "");
        let mut tunnel = way.tunnel(&stage, &handshake()).await;
        tunnel.echo("before").await;
        drain(&stage).await;
        assert_eq!(tunnel.frame().await, Frame::close(1012, "service restart"), "{way:?}");
        tunnel.send(Frame::close(1012, "").masked().bytes()).await;
        assert_eq!(tunnel.rest().await, (Vec::new(), End::Fin), "{way:?}");
        let line = stage.gateway.logged(1).await.remove(0);
        assert_eq!((line["end"].as_str(), line["side"].as_str()), (Some("server-drained"), Some("gateway")), "{line}");
        assert_eq!((&line["closed_by"], &line["close_code"]), (&"gateway".into(), &1012.into()), "{line}");
        eventually("the Close at the server", || close_at_the_server(&stage.b1) == Some(1001)).await;
        let mut next = way.tunnel(&stage, &handshake()).await;
        next.echo("elsewhere").await;
        assert_eq!((stage.b1.connections(), stage.b2.connections()), (1, 1), "{way:?}");
        let told = || stage.gateway.events().iter().any(|event| is_message(event, "a server has drained"));
        eventually("the end of the drain in the log", told).await;
        let events = stage.gateway.events();
        let start = events.iter().find(|event| is_message(event, "a server drains")).expect("its beginning");
        assert_eq!((&start["tunnels"], &start["rate"], &start["upstream"]), (&1.into(), &1000.into(), &"d".into()));
    }
}

#[tokio::test]
async fn drn_01_tunnels_are_closed_evenly_at_the_rate_over_all_workers_and_ways() {
    const COUNT: usize = 60;
    let stage = two(Setup::new().server("workers = 2"), "drain_rate = 20", "");
    let mut tunnels = Vec::new();
    for number in 0..COUNT {
        tunnels.push(Way::ALL[number % 3].tunnel(&stage, &handshake()).await);
    }
    let start = Instant::now();
    drain(&stage).await;
    let closes = tunnels.iter_mut().map(async |tunnel| {
        assert_eq!(tunnel.frame().await.close_code(), Some(1012));
        let at = start.elapsed();
        tunnel.send(Frame::close(1012, "").masked().bytes()).await;
        at
    });
    let mut times = futures_util::future::join_all(closes).await;
    times.sort_unstable();
    let took = times[COUNT - 1];
    assert!((2_000..8_000).contains(&took.as_millis()), "{COUNT} at 20 a second took {took:?}");
    for window in times.windows(11) {
        assert!(window[10] - window[0] > Duration::from_millis(100), "a burst: {window:?}");
    }
    eventually("their lines in the log", || drained(&stage) == COUNT).await;
}

#[tokio::test]
async fn drn_01_a_server_that_has_left_its_upstream_drains_and_stays_alone_without_a_rate() {
    for (rate, end) in [("drain_rate = 1000", Some(1012)), ("", None)] {
        let stage = two(Setup::new(), rate, "");
        let mut tunnel = Way::Tls.tunnel(&stage, &handshake()).await;
        let gone = format!("{{ url = \"http://{}\", weight = 1 }}, ", stage.b1.address);
        let (there, weight) =
            (format!("{}\", weight = 0", stage.b2.address), format!("{}\", weight = 1", stage.b2.address));
        let toml = stage.toml.replace(&gone, "").replace(&there, &weight);
        assert_eq!(stage.gateway.reload_with(&toml).await["message"], "reloaded");
        match end {
            Some(code) => assert_eq!(tunnel.frame().await.close_code(), Some(code)),
            None => {
                pause(2_500).await;
                tunnel.echo("still here").await;
            }
        }
    }
}

#[tokio::test]
async fn drn_01_a_server_that_a_name_stands_for_no_more_drains_until_it_does_again() {
    let dns = NameServer::start().await;
    dns.say("chat.test", Says::addresses(1, &["127.0.0.1"]));
    let stage = Setup::new()
        .server(&dns.toml())
        .upstream_servers("{ url = \"http://chat.test:{P1}\", resolve = \"each\" }")
        .upstream("drain_rate = 2")
        .start();
    let mut tunnels = Vec::new();
    for number in 0..24 {
        tunnels.push(Way::ALL[number % 3].tunnel(&stage, &Handshake::to("/ws")).await);
    }
    let _second = stage.b1.beside("127.0.0.2");
    dns.say("chat.test", Says::addresses(1, &["127.0.0.2"]));
    eventually("the first that are closed", || drained(&stage) >= 2).await;
    dns.say("chat.test", Says::addresses(1, &["127.0.0.1", "127.0.0.2"]));
    let told = |text| stage.gateway.events().iter().any(|event| is_message(event, text));
    eventually("the end of the drain", || told("a server drains no more")).await;
    pause(1_500).await;
    let left = alive(&mut tunnels).await;
    assert!((1..24).contains(&left), "{left}");
    pause(1_500).await;
    assert_eq!(alive(&mut tunnels).await, left, "it is the same server as before");
}

#[tokio::test]
async fn drn_01_a_server_that_gets_weight_again_keeps_the_tunnels_that_are_left() {
    let stage = two(Setup::new(), "drain_rate = 4", "");
    let mut tunnels = Vec::new();
    for number in 0..24 {
        tunnels.push(Way::ALL[number % 3].tunnel(&stage, &handshake()).await);
    }
    drain(&stage).await;
    eventually("the first that are closed", || drained(&stage) >= 2).await;
    undrain(&stage).await;
    // Those who have been told have a second to answer.
    pause(1_500).await;
    let closed = drained(&stage);
    pause(1_500).await;
    assert!(closed < 20 && drained(&stage) == closed, "{closed}, then {}", drained(&stage));
    let events = stage.gateway.events();
    assert!(events.iter().any(|event| is_message(event, "a server drains no more")), "{events:?}");
    assert_eq!(alive(&mut tunnels).await, 24 - closed);
}

/// How many tunnels have heard no Close, and still work.
async fn alive(tunnels: &mut Vec<Tunnel>) -> usize {
    let mut left = Vec::new();
    for mut tunnel in tunnels.drain(..) {
        match tokio::time::timeout(Duration::from_millis(20), tunnel.frame()).await {
            Ok(frame) => assert_eq!(frame.close_code(), Some(1012)),
            Err(_) => {
                tunnel.echo("still here").await;
                left.push(tunnel);
            }
        }
    }
    *tunnels = left;
    tunnels.len()
}

/// A frame of 64 KiB with no byte that could begin a Close.
fn block() -> Vec<u8> {
    Frame::binary(vec![0x55; 64 * 1024]).bytes()
}

#[tokio::test]
async fn drn_01_a_busy_tunnel_is_closed_between_two_frames_and_loses_nothing_before() {
    for way in Way::ALL {
        let backend = Backend::scripted(async |mut peer: Peer| {
            let head = peer.head().await?;
            peer.agree(&head, "").await?;
            while peer.write(&block()).await.is_ok() {}
            Ok(())
        });
        let stage = two(Setup::new().b1(backend), "drain_rate = 1000", "");
        let mut tunnel = way.tunnel(&stage, &handshake()).await;
        assert!(Frame::binary(vec![0x55; 64 * 1024]) == tunnel.frame().await);
        let (reading, ()) = tokio::join!(
            async {
                loop {
                    let frame = tunnel.frame().await;
                    if frame.opcode == OpCode::CLOSE {
                        break frame;
                    }
                    assert!(frame == Frame::binary(vec![0x55; 64 * 1024]), "{way:?}: half a frame");
                }
            },
            drain(&stage)
        );
        assert_eq!(reading, Frame::close(1012, "service restart"), "{way:?}");
        assert_eq!(stage.gateway.logged(1).await[0]["end"], "server-drained", "{way:?}");
    }
}

#[tokio::test]
async fn drn_01_a_frame_that_is_under_way_comes_whole_though_it_takes_its_time() {
    for way in Way::ALL {
        let message = Frame::binary(vec![0x55; 64 * 1024]);
        let bytes = message.bytes();
        let backend = Backend::scripted(move |mut peer: Peer| {
            let bytes = bytes.clone();
            async move {
                let head = peer.head().await?;
                peer.agree(&head, "").await?;
                peer.write(&bytes[..1024]).await?;
                // It hears of the drain within its own message, and goes on with that, slowly.
                assert_eq!(peer.frame().await?.close_code(), Some(1001));
                for piece in bytes[1024..].chunks(16 * 1024) {
                    pause(800).await;
                    peer.write(piece).await?;
                }
                peer.until_over().await
            }
        });
        let stage = two(Setup::new().b1(backend), "drain_rate = 1000", "");
        let mut tunnel = way.tunnel(&stage, &handshake()).await;
        drain(&stage).await;
        assert!(tunnel.frame().await == message, "{way:?}");
        assert_eq!(tunnel.frame().await, Frame::close(1012, "service restart"), "{way:?}");
        assert_eq!(stage.gateway.logged(1).await[0]["end"], "server-drained", "{way:?}");
    }
}

#[tokio::test]
async fn drn_01_who_neither_reads_nor_answers_is_cut_soon() {
    for way in Way::ALL {
        let backend = Backend::scripted(async |mut peer: Peer| {
            let head = peer.head().await?;
            peer.agree(&head, "").await?;
            let _ = peer.write(&block().repeat(1024)).await;
            peer.until_over().await
        });
        let stage = two(Setup::new().b1(backend), "drain_rate = 1000", "");
        let mut stalled = way.tunnel(&stage, &handshake()).await;
        // Until every buffer is full.
        pause(300).await;
        drain(&stage).await;
        let record = stage.b1.records().pop().expect("a connection");
        assert!(holds_within(Duration::from_secs(6), || record.is_over()).await, "{way:?}");
        assert_eq!(stage.gateway.logged(1).await[0]["end"], "server-drained", "{way:?}");
        let (all, end) = stalled.rest().await;
        assert!(all.len() < 1024 * block().len() && end != End::Open, "{way:?}");
        let rest = &all[all.chunks(block().len()).take_while(|chunk| *chunk == block()).count() * block().len()..];
        let close = Frame::close(1012, "service restart").bytes();
        assert!(block().starts_with(rest) || rest == close, "{way:?}: a Close within a frame");
    }
}

#[tokio::test]
async fn drn_01_where_frames_pass_unread_both_sides_are_cut() {
    for way in Way::ALL {
        let stage = two(Setup::new(), "drain_rate = 1000", "frames = \"opaque\"");
        let mut tunnel = way.tunnel(&stage, &handshake()).await;
        tunnel.echo("before").await;
        drain(&stage).await;
        assert_eq!(tunnel.rest().await, (Vec::new(), End::Fin), "{way:?}");
        let record = stage.b1.records().pop().expect("a connection");
        eventually("the end at the server", || record.is_over()).await;
        assert_eq!((close_at_the_server(&stage.b1), record.end()), (None, End::Fin), "{way:?}");
        assert_eq!(stage.gateway.logged(1).await[0]["end"], "server-drained", "{way:?}");
    }
}

/// The configuration without its route `d`; the upstream stays.
fn without_route(stage: &Stage) -> String {
    stage.toml.replace("name = \"d\"\nhosts = [\"a.test\"]", "name = \"e\"\nhosts = [\"e.test\"]")
}

#[tokio::test]
async fn drn_02_a_route_that_is_taken_out_takes_its_tunnels_along_only_where_it_says_so() {
    for way in Way::ALL {
        for closes in [true, false] {
            let stage = two(Setup::new(), "", &format!("close_removed = {closes}"));
            let mut tunnel = way.tunnel(&stage, &handshake()).await;
            let mut other = way.tunnel(&stage, &Handshake::to("/ws")).await;
            assert_eq!(stage.gateway.reload_with(&without_route(&stage)).await["message"], "reloaded");
            other.echo("another route").await;
            if !closes {
                tunnel.echo("still here").await;
                continue;
            }
            assert_eq!(tunnel.frame().await, Frame::close(1001, "going away"), "{way:?}");
            tunnel.send(Frame::close(1001, "").masked().bytes()).await;
            assert_eq!(tunnel.rest().await, (Vec::new(), End::Fin), "{way:?}");
            assert_eq!(stage.gateway.logged(1).await[0]["end"], "route-removed", "{way:?}");
        }
    }
}

#[tokio::test]
async fn drn_02_a_tunnel_that_is_being_opened_when_its_route_goes_is_closed_as_well() {
    for way in Way::ALL {
        let (go, wait) = tokio::sync::watch::channel(false);
        let backend = Backend::scripted(move |mut peer: Peer| {
            let mut wait = wait.clone();
            async move {
                let head = peer.head().await?;
                let _ = wait.wait_for(|go| *go).await;
                peer.agree(&head, "").await?;
                peer.echo().await
            }
        });
        let stage = two(Setup::new().b1(backend), "", "close_removed = true");
        let shake = handshake();
        let (mut tunnel, ()): (Tunnel, ()) = tokio::join!(way.tunnel(&stage, &shake), async {
            eventually("the handshake at the server", || stage.b1.requests().len() == 1).await;
            assert_eq!(stage.gateway.reload_with(&without_route(&stage)).await["message"], "reloaded");
            go.send_replace(true);
        });
        assert_eq!(tunnel.frame().await, Frame::close(1001, "going away"), "{way:?}");
        tunnel.send(Frame::close(1001, "").masked().bytes()).await;
        assert_eq!(stage.gateway.logged(1).await[0]["end"], "route-removed", "{way:?}");
    }
}

#[tokio::test]
async fn drn_03_connections_that_wait_for_a_request_are_closed_when_their_server_drains() {
    let stage = two(Setup::new(), "", "");
    for _ in 0..2 {
        assert_eq!(Way::Clear.ask(&stage, &Request::get("/d/n")).await.status, 200);
    }
    let record = stage.b1.records().pop().expect("a connection");
    assert!(stage.b1.connections() == 1 && !record.is_over(), "it is kept");
    drain(&stage).await;
    assert!(holds_within(Duration::from_secs(7), || record.is_over()).await, "it is still kept");
}
