//! H2U-20 to -27: WebSockets over HTTP/2 towards servers (RFC 8441).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;

use crate::harness::{
    A0, Backend, End, Exchange, Fields, Frame, Gateway, H2, H2Server, Handshake, Peer, Request, Setup, Stage,
    TlsOptions, Tunnel, Way, eventually, holds_within, pause, send_all, within,
};

fn clear(backend: Backend) -> Setup {
    Setup::new().b1(backend).upstream("protocols = [\"h2c\"]")
}

fn over_tls(backend: Backend, protocols: &str) -> Setup {
    Setup::new()
        .b1(backend)
        .upstream_url("https://127.0.0.1:{P1}")
        .upstream(&format!("ca = \"ca.pem\"\nprotocols = {protocols}"))
}

/// Something else than the standard answer for every handshake.
fn answering<F, Fut>(server: &H2Server, script: F) -> Stage
where
    F: Fn(Exchange) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    clear(server.scripted(script)).start()
}

#[tokio::test]
async fn h2u_20_a_handshake_of_either_kind_becomes_an_extended_connect() {
    for way in Way::ALL {
        let server = H2Server::new();
        let stage = clear(server.standard()).start();
        let handshake = Handshake::to("/ws?x=1").add("Sec-WebSocket-Protocol", "chat").add("Cookie", "a=1");
        let (answer, tunnel) = way.open(&stage, &handshake).await;
        // Nothing was agreed on, and nothing of RFC 8441's or of the gateway's own answer is left out.
        let expected = if way == Way::H2 { (200, None) } else { (101, Some(A0)) };
        assert_eq!((answer.status, answer.get("sec-websocket-accept")), expected, "{way:?} {answer:?}");
        tunnel.expect("a tunnel").echo("x").await;
        let head = server.head();
        assert_eq!((head.method.as_str(), head.uri.to_string()), ("CONNECT", "http://a.test/ws?x=1".to_owned()));
        let protocol = head.extensions.get::<h2::ext::Protocol>().map(|protocol| protocol.as_str().to_owned());
        assert_eq!(protocol.as_deref(), Some("websocket"));
        for name in ["host", "upgrade", "connection", "sec-websocket-key", "te", "content-length"] {
            assert!(!head.headers.contains_key(name), "{name}: {head:?}");
        }
        let field = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        assert_eq!((field("sec-websocket-version"), field("sec-websocket-protocol")), (Some("13"), Some("chat")));
        assert_eq!((field("origin"), field("cookie")), (Some("https://app.example"), Some("a=1")));
    }
}

#[tokio::test]
async fn h2u_20_many_tunnels_of_many_clients_share_a_connection_with_requests() {
    let server = H2Server::new().tls(&["h2", "http/1.1"]);
    let stage = over_tls(server.standard(), r#"["h2", "http/1.1"]"#).start();
    let mut tunnels = Vec::new();
    for number in 0..30 {
        tunnels.push(Way::ALL[number % 3].tunnel(&stage, &Handshake::to("/ws")).await);
    }
    let request = Request::get("/n");
    assert_eq!(Way::Clear.ask(&stage, &request).await.text(), request.nonce);
    for (number, tunnel) in tunnels.iter_mut().enumerate() {
        tunnel.echo(&format!("tunnel {number}")).await;
    }
    assert_eq!(stage.b1.connections(), 1);
    drop(tunnels);
    eventually("all lines", || {
        stage.gateway.access_log().iter().filter(|line| line["event"] == "tunnel-close").count() == 30
    })
    .await;
    let log = stage.gateway.access_log();
    assert!(log.iter().filter(|line| line["event"] == "tunnel-close").all(|line| line["messages_in"] == 1), "{log:?}");
}

#[tokio::test]
async fn h2u_20_what_was_agreed_on_goes_to_the_client() {
    for way in Way::ALL {
        let server = H2Server::new();
        let stage = answering(&server, |exchange| async move {
            let fields = [
                ("sec-websocket-protocol", "chat"),
                ("sec-websocket-extensions", "permessage-deflate"),
                ("sec-websocket-accept", "nonsense"),
                ("x-other", "1"),
            ];
            exchange.open(&fields).echo_all().await;
        });
        let handshake = Handshake::to("/ws")
            .add("Sec-WebSocket-Protocol", "chat, other")
            .add("Sec-WebSocket-Extensions", "permessage-deflate");
        let (answer, tunnel) = way.open(&stage, &handshake).await;
        assert_eq!(answer.get("sec-websocket-protocol"), Some("chat"), "{way:?} {answer:?}");
        assert_eq!(answer.get("sec-websocket-extensions"), Some("permessage-deflate"));
        assert_eq!(answer.get("sec-websocket-accept"), (way != Way::H2).then_some(A0));
        assert_eq!(answer.get("x-other"), Some("1"));
        tunnel.expect("a tunnel").echo("x").await;
    }
}

#[tokio::test]
async fn h2u_21_without_the_setting_a_handshake_goes_over_http_1_on_a_connection_of_its_own() {
    for (alpn, name) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let server = H2Server::default().settings(|_| {}).tls(alpn);
        let stage = over_tls(server.standard(), r#"["h2", "http/1.1"]"#).start();
        for way in Way::ALL {
            way.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
        }
        let request = Request::get("/n");
        assert_eq!(Way::Clear.ask(&stage, &request).await.text(), request.nonce);
        let handshakes = stage.b1.requests().iter().filter(|head| head.is_websocket()).count();
        assert_eq!(handshakes, 3, "{name}");
        assert!(server.heads().iter().all(|head| head.method == "GET"));
        // One that learns what the server speaks, and three for the tunnels; where that is HTTP/1.1, the first serves.
        assert_eq!(stage.b1.connections(), 4, "{name}");
    }
}

#[tokio::test]
async fn h2u_21_switched_off_handshakes_go_over_http_1() {
    let server = H2Server::new().tls(&["h2", "http/1.1"]);
    let stage = over_tls(server.standard(), "[\"h2\", \"http/1.1\"]\nwebsocket_over_h2 = false").start();
    Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
    assert!(server.heads().is_empty() && stage.b1.request().is_websocket());
}

#[tokio::test]
async fn h2u_21_where_http_1_is_not_allowed_there_is_no_way_and_the_log_says_so() {
    let server = H2Server::default().settings(|_| {});
    let stage = clear(server.standard()).start();
    for way in Way::ALL {
        way.refused(&stage, &Handshake::to("/ws"), 502, "upstream-protocol").await;
    }
    assert!(server.heads().is_empty());
    let log = stage.gateway.logged(3).await;
    let detail = log[0]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("opens no WebSockets over HTTP/2") && detail.contains("`protocols`"), "{detail}");
}

#[tokio::test]
async fn h2u_21_a_file_that_leaves_no_way_is_refused() {
    for (protocols, text) in [
        (r#"["h2c", "http/1.1"]"#, "nothing tells which"),
        (r#"["h2"]"#, "`h2` is chosen by TLS"),
        ("[\"h2c\"]\nwebsocket_over_h2 = false", "no WebSocket can be opened"),
        (r#"["h3"]"#, "`h3` is not a protocol"),
    ] {
        let toml = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nupstream = \"u\"\nwebsocket = {{}}\n\
             [upstream.u]\nservers = [\"http://127.0.0.1:9\"]\nprotocols = {protocols}\n"
        );
        let (code, said) = Gateway::refused(&toml, |_| {});
        assert!(code == Some(2) && said.contains(text), "{protocols}: {code:?} {said}");
    }
}

#[tokio::test]
async fn h2u_22_what_was_not_offered_cannot_be_agreed_on() {
    for fields in [
        &[("sec-websocket-protocol", "other")][..],
        &[("sec-websocket-protocol", "chat"), ("sec-websocket-protocol", "chat")],
        &[("sec-websocket-protocol", "chat, other")],
        &[("sec-websocket-extensions", "x-unasked")],
        &[("sec-websocket-extensions", "permessage-deflate;;=")],
    ] {
        let server = H2Server::new();
        let reset = Arc::new(AtomicUsize::new(0));
        let counter = reset.clone();
        let stage = answering(&server, move |exchange| {
            let counter = counter.clone();
            async move {
                let mut stream = exchange.open(fields);
                if stream.rest().await.1 == End::Reset {
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        for (number, way) in Way::ALL.into_iter().enumerate() {
            let handshake = Handshake::to("/ws")
                .add("Sec-WebSocket-Protocol", "chat")
                .add("Sec-WebSocket-Extensions", "permessage-deflate");
            way.refused(&stage, &handshake, 502, "bad-upgrade").await;
            assert!(holds_within(Duration::from_secs(2), || reset.load(Ordering::SeqCst) == number + 1).await);
        }
    }
}

#[tokio::test]
async fn h2u_23_an_answer_that_is_no_2xx_is_an_ordinary_one() {
    for status in [401, 403, 404, 302, 503] {
        let server = H2Server::new();
        let stage = answering(&server, move |exchange| async move {
            exchange.answer(status, &[("x-why", "because"), ("upgrade-insecure", "1")], "no entry").await;
        });
        for way in Way::ALL {
            let (answer, tunnel) = way.open(&stage, &Handshake::to("/ws")).await;
            assert!(tunnel.is_none());
            assert_eq!(
                (answer.status, answer.get("x-why"), answer.text()),
                (status, Some("because"), "no entry".to_owned())
            );
        }
        assert_eq!(stage.b1.connections(), 1);
    }
}

#[tokio::test]
async fn h2u_23_another_2xx_than_200_is_no_tunnel_and_nobody_takes_it_for_one() {
    for status in [201, 204, 206] {
        let server = H2Server::new();
        let stage = answering(&server, move |mut exchange| async move {
            let stream = exchange.begin(status, &[]);
            pause(200).await;
            drop(stream);
        });
        for way in Way::ALL {
            way.refused(&stage, &Handshake::to("/ws"), 502, "bad-upgrade").await;
        }
    }
}

#[tokio::test]
async fn h2u_24_a_tunnel_that_is_not_read_stops_its_server_and_no_other_tunnel() {
    let written = Arc::new(AtomicUsize::new(0));
    let (counter, server) = (written.clone(), H2Server::new());
    let stage = answering(&server, move |exchange| {
        let counter = counter.clone();
        async move {
            if exchange.path() != "/ws/pump" {
                return exchange.open(&[]).echo_all().await;
            }
            let mut stream = exchange.open(&[]);
            for number in 0..512 {
                let frame = Frame::binary(vec![number as u8; 32 * 1024]).bytes();
                if send_all(&mut stream.send, frame.into(), false).await.is_err() {
                    return;
                }
                counter.fetch_add(32, Ordering::SeqCst);
            }
            stream.write(Frame::close(1000, "").bytes()).await;
            stream.rest().await;
        }
    });
    let before = stage.gateway.rss();
    let mut pump = Way::Clear.tunnel(&stage, &Handshake::to("/ws/pump")).await;
    let mut other = Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await;
    let mut last = usize::MAX;
    while written.load(Ordering::SeqCst) != last {
        last = written.load(Ordering::SeqCst);
        other.echo("others go on").await;
        pause(300).await;
    }
    // The client's socket buffers are the largest part of it.
    assert!(last < 12 * 1024, "{last} KiB went nowhere");
    assert!(stage.gateway.rss().saturating_sub(before) < 2 * 1024);
    for number in 0..512 {
        let frame = pump.frame().await;
        assert!(frame.payload.len() == 32 * 1024 && frame.payload[0] == number as u8, "frame {number}");
    }
    assert_eq!(pump.frame().await, Frame::close(1000, ""));
    assert_eq!(stage.b1.connections(), 1);
}

#[tokio::test]
async fn h2u_24_very_many_small_messages_for_a_client_that_does_not_read_harm_no_other_tunnel() {
    const MESSAGES: usize = 40_000;
    let server = H2Server::new();
    let stage = answering(&server, |exchange| async move {
        if exchange.path() != "/ws/pump" {
            return exchange.open(&[]).echo_all().await;
        }
        let mut stream = exchange.open(&[]);
        let frame = Frame::text("x").bytes();
        loop {
            // A DATA frame for each.
            if send_all(&mut stream.send, Bytes::copy_from_slice(&frame), false).await.is_err() {
                return;
            }
        }
    });
    let before = stage.gateway.rss();
    let mut pumps = Vec::new();
    for _ in 0..4 {
        // HTTP/2 clients whose windows are small: little of it lies in sockets.
        let mut builder = h2::client::Builder::new();
        builder.data_frame_budget(1 << 30);
        let mut client = H2::connect_as(&stage, &TlsOptions::new("a.test"), &builder).await;
        pumps.push(client.tunnel(&Handshake::to("/ws/pump")).await);
    }
    let mut other = Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await;
    for _ in 0..20 {
        other.echo("others go on").await;
        pause(50).await;
    }
    let grown = stage.gateway.rss().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB");
    for pump in &mut pumps {
        for _ in 0..MESSAGES / 4 {
            assert_eq!(pump.frame().await, Frame::text("x"));
        }
    }
    assert_eq!(stage.b1.connections(), 1);
}

#[tokio::test]
async fn h2u_25_a_close_and_the_end_of_the_stream_pass_both_ways() {
    for way in Way::ALL {
        let server = H2Server::new();
        let stage = clear(server.standard()).start();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        tunnel.send(Frame::close(1000, "bye").masked().bytes()).await;
        assert_eq!(tunnel.frame().await, Frame::close(1000, "bye"));
        assert_eq!(tunnel.rest().await, (Vec::new(), End::Fin), "{way:?}");
    }
    let server = H2Server::new();
    let stage = answering(&server, |exchange| async move {
        let mut stream = exchange.open(&[]);
        assert_eq!(stream.rest().await, (Frame::text("all").masked().bytes(), End::Fin));
        stream.write(Frame::text("parting words").bytes()).await;
        stream.finish().await;
    });
    for way in Way::ALL {
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        tunnel.send(Frame::text("all").masked().bytes()).await;
        tunnel.finish().await;
        let (rest, end) = tunnel.rest().await;
        assert!(rest.starts_with(&Frame::text("parting words").bytes()), "{way:?} {rest:?}");
        assert_eq!(end, End::Fin);
    }
}

/// What a client sees when its tunnel ends abnormally on the other side: Close 1011, and then the end.
async fn assert_gone(tunnel: &mut Tunnel) {
    assert_eq!(tunnel.frame().await, Frame::close(1011, "upstream gone"));
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Fin));
}

#[tokio::test]
async fn h2u_25_a_reset_of_the_server_is_an_abnormal_end_of_that_tunnel_alone() {
    let server = H2Server::new();
    let stage = answering(&server, |exchange| async move {
        if exchange.path() != "/ws/reset" {
            return exchange.open(&[]).echo_all().await;
        }
        let mut stream = exchange.open(&[]);
        let _ = stream.try_frame().await;
        stream.write(Frame::text("last words").bytes()).await;
        pause(100).await;
        stream.send.send_reset(Reason::CANCEL);
    });
    for way in Way::ALL {
        let mut staying = way.tunnel(&stage, &Handshake::to("/ws")).await;
        let mut going = way.tunnel(&stage, &Handshake::to("/ws/reset")).await;
        going.send(Frame::text("x").masked().bytes()).await;
        assert_eq!(going.frame().await, Frame::text("last words"), "{way:?}");
        assert_gone(&mut going).await;
        staying.echo("still here").await;
    }
    let closes = || stage.gateway.access_log().iter().filter(|line| line["event"] == "tunnel-close").count();
    eventually("a line for each reset", || closes() >= 3).await;
    let log = stage.gateway.access_log();
    let ends: Vec<_> = log.iter().filter(|line| line["event"] == "tunnel-close").map(|line| &line["end"]).collect();
    assert!(ends.len() >= 3 && ends.iter().all(|end| *end == "reset-by-upstream"), "{ends:?}");
}

#[tokio::test]
async fn h2u_25_a_reset_of_the_client_is_one_for_the_server() {
    let ended = Arc::new(AtomicUsize::new(0));
    let (counter, server) = (ended.clone(), H2Server::new());
    let stage = answering(&server, move |exchange| {
        let counter = counter.clone();
        async move {
            let mut stream = exchange.open(&[]);
            let _ = stream.try_frame().await;
            stream.write(Frame::text("x").bytes()).await;
            let (_, end) = stream.rest().await;
            if end == End::Reset {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    for (number, way) in Way::ALL.into_iter().enumerate() {
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        tunnel.echo("x").await;
        if way == Way::H2 {
            // An end right behind data is a farewell there.
            pause(300).await;
        }
        tunnel.reset();
        assert!(holds_within(Duration::from_secs(2), || ended.load(Ordering::SeqCst) == number + 1).await, "{way:?}");
    }
    assert_eq!(stage.b1.connections(), 1);
}

#[tokio::test]
async fn h2u_25_the_loss_of_a_connection_ends_all_its_tunnels_and_new_ones_find_another() {
    let lose = Arc::new(tokio::sync::Notify::new());
    let waiting = lose.clone();
    let backend = Backend::scripted(move |peer: Peer| {
        let waiting = waiting.clone();
        async move {
            let is_first = peer.number == 0;
            let mut builder = h2::server::Builder::new();
            builder.enable_connect_protocol();
            let mut connection =
                builder.handshake::<_, Bytes>(peer.into_wire()).await.map_err(std::io::Error::other)?;
            loop {
                tokio::select! {
                    () = waiting.notified(), if is_first => return Ok(()),
                    accepted = connection.accept() => {
                        let Some(Ok((request, respond))) = accepted else { return Ok(()) };
                        let (head, body) = request.into_parts();
                        tokio::spawn(Exchange { number: 0, head, body, respond }.standard());
                    }
                }
            }
        }
    });
    let stage = clear(backend).start();
    let mut tunnels = Vec::new();
    for number in 0..9 {
        tunnels.push(Way::ALL[number % 3].tunnel(&stage, &Handshake::to("/ws")).await);
    }
    for tunnel in &mut tunnels {
        tunnel.echo("x").await;
    }
    lose.notify_one();
    for tunnel in &mut tunnels {
        assert_gone(tunnel).await;
    }
    assert_eq!(stage.b1.connections(), 1);
    Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
    assert_eq!(stage.b1.connections(), 2);
    drop(tunnels);
    eventually("all lines", || {
        let log = stage.gateway.access_log();
        log.iter().filter(|line| line["end"] == "reset-by-upstream").count() >= 9
    })
    .await;
}

#[tokio::test]
async fn h2u_25_a_drain_closes_tunnels_politely_over_http2_too() {
    let server = H2Server::new();
    let backend = server.standard();
    let mut stage = clear(backend).server("drain_timeout = \"500ms\"").start();
    let mut tunnel = Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await;
    tunnel.echo("x").await;
    stage.gateway.terminate();
    assert_eq!(tunnel.frame().await, Frame::close(1001, "going away"));
    assert!(within("the end", stage.gateway.exit()).await.success());
}

#[tokio::test]
async fn h2u_26_a_gateway_behind_a_gateway_opens_tunnels_over_http2_all_the_way() {
    let listener = "[[listener]]\nname = \"inner\"\naddress = \"127.0.0.1:0\"\n\
                    tls = { cert = \"backend.pem\", key = \"backend.key\" }\n";
    let inner = Setup::new().more(listener).start();
    let url = format!("https://{}", inner.gateway.address("inner"));
    let outer = Setup::new().upstream_url(&url).upstream("ca = \"ca.pem\"\nprotocols = [\"h2\"]").start();
    for way in Way::ALL {
        let request = Request::new("POST", "/n").body(vec![b'x'; 300_000]);
        let answer = way.ask(&outer, &request).await;
        assert_eq!((answer.status, answer.text()), (200, request.nonce), "{way:?} {answer:?}");
        let mut first = way.tunnel(&outer, &Handshake::to("/ws")).await;
        let mut second = way.tunnel(&outer, &Handshake::to("/ws")).await;
        first.echo("x").await;
        second.echo(&"long ".repeat(50_000)).await;
        first.send(Frame::close(1000, "").masked().bytes()).await;
        assert_eq!(first.frame().await, Frame::close(1000, ""));
        assert_eq!(first.rest().await.1, End::Fin);
        second.echo("y").await;
    }
    assert!(inner.b1.requests().iter().all(|head| head.get("x-forwarded-proto").is_some()));
}

#[tokio::test]
async fn h2u_27_a_handshake_that_was_refused_unprocessed_is_tried_again_and_any_other_is_not() {
    for (reason, is_opened) in [(Reason::REFUSED_STREAM, true), (Reason::INTERNAL_ERROR, false)] {
        let server = H2Server::new();
        let stage = answering(&server, move |mut exchange| async move {
            if exchange.number == 0 {
                exchange.respond.send_reset(reason);
                return;
            }
            exchange.standard().await;
        });
        let (answer, tunnel) = Way::Clear.open(&stage, &Handshake::to("/ws")).await;
        assert_eq!((tunnel.is_some(), server.heads().len()), (is_opened, if is_opened { 2 } else { 1 }));
        if !is_opened {
            answer.assert_refused(502, "upstream-closed");
        }
    }
}
