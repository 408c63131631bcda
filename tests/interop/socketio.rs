//! Socket.IO: long polling and WebSocket under one path, through one route with an `http` upstream; in `three`, with a
//! session on one of several servers.

use crate::harness::{ALLOWED, Gateway, Process, Tap, certificates, field, node, succeed};

#[test]
fn socketio_polls_upgrades_and_carries_large_packets_through_one_route() {
    let (server, port) = Process::backend("Socket.IO", node("backends/socketio.js"));
    let tap = Tap::before(port);
    let gateway = Gateway::start(&format!(
        "[[route]]\npath = \"/socket.io\"\nupstream = \"http://127.0.0.1:{}\"\nwebsocket = {{ origins = [{ALLOWED:?}] }}\n",
        tap.port
    ));
    let mut client = node("clients/socketio.js");
    client.arg(gateway.port.to_string()).arg(&certificates().ca);
    let facts = succeed(client);
    assert_eq!(
        facts,
        "polling, then websocket ok\npolling alone with 1.5 MB ok\nwebsocket alone ok\nforeign origin refused with 403\n"
    );
    let upgraded = |line: &str| line.ends_with("upgraded to websocket").then_some(());
    server.lines.wait("an upgrade at the server", upgraded);
    // Plain requests are not gated by Origin, so the polls of a foreign page are the server's own CORS rule's business.
    let head = tap.head("transport=websocket");
    assert_eq!(field(&head, "x-forwarded-for"), ["127.0.0.1"], "{head}");
    assert!(!tap.heads().iter().any(|head| head.contains("evil.test")), "a foreign handshake went upstream");
}

/// By itself and seen: `tests/run` runs it alone, and its figures are worth it.
mod three {
    use crate::harness::three::Three;
    use crate::harness::{certificates, node, succeed};

    #[test]
    fn sessions_stay_on_their_server_and_outlive_the_others() {
        for balance in ["round-robin", "least-connections"] {
            let mut three = Three::start("", balance, Some(""));
            let mut crowd = node("clients/socketio_three.js");
            crowd.arg(three.gateway.port.to_string()).arg(&certificates().ca).args(three.victim());
            three.outlived_by(&format!("Socket.IO in Node, {balance}"), crowd);
            assert!(three.tunnels_over("h1") > 30);
        }
    }

    #[test]
    fn without_the_cookie_servers_do_not_know_the_sessions_of_others() {
        let three = Three::start("", "round-robin", None);
        let mut crowd = node("clients/socketio_three.js");
        crowd.arg(three.gateway.port.to_string()).arg(&certificates().ca).arg("without");
        assert_eq!(succeed(crowd), "400 Session ID unknown\nclients are not upgraded\n");
    }
}
