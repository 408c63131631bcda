//! Clients of many makes in front of the gateway: each dials a real server through it, from the allowed Origin and from a
//! foreign one, and checks for itself what it gets; here its findings are compared with what must be seen.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::{
    ALLOWED, FOREIGN, Gateway, PATIENCE, Process, Tap, certificates, field, node, program, python, succeed,
};
use crate::websocket::websocket_route;

/// A gateway in front of an echo server, and a tap between.
fn echo_server(backend: Command) -> (Process, Tap, Gateway) {
    let (server, port) = Process::backend("the echo server", backend);
    let tap = Tap::before(port);
    let gateway = Gateway::start(&websocket_route("/ws", tap.port, ""));
    (server, tap, gateway)
}

/// A script of this suite with the gateway's port and the CA.
fn script(mut command: Command, gateway: &Gateway) -> Command {
    command.arg(gateway.port.to_string()).arg(&certificates().ca);
    command
}

#[test]
fn the_websockets_client_echoes_fragments_pings_and_closes() {
    let (_server, tap, gateway) = echo_server(python("backends/python_websockets.py"));
    let facts = succeed(script(python("clients/python_websockets.py"), &gateway));
    assert_eq!(
        facts,
        "echo ok\nfragments ok\nping ok\nclose ok\nserver close ok\nforeign origin 403 origin-not-allowed\n"
    );
    assert!(!tap.heads().iter().any(|head| head.contains("evil.test")), "a foreign handshake went upstream");
}

#[test]
fn the_ws_client_agrees_on_compression_with_the_server_end_to_end() {
    let (server, tap, gateway) = echo_server(node("backends/ws.js"));
    let facts = succeed(script(node("clients/ws.js"), &gateway));
    assert_eq!(
        facts,
        "compressed ok, extensions permessage-deflate\nclose ok\nuncompressed ok\nforeign origin 403 origin-not-allowed\n"
    );
    let tunnel = |line: &str| line.strip_prefix("tunnel /ws?compressed extensions ").map(str::to_owned);
    assert!(server.lines.wait("the server's view", tunnel).contains("permessage-deflate"));
    server.lines.wait("the close code at the server", |line| {
        (line == "closed /ws?compressed with 4004 compressed and done").then_some(())
    });
    tap.never_saw("?foreign");
}

/// `wscat` sends each line as a message and listens until the other side has closed.
fn wscat(gateway: &Gateway, origin: &str, path: &str, lines: &[&str]) -> Output {
    let mut command = Command::new(program("timeout"));
    command.arg(PATIENCE.as_secs().to_string()).arg(program("wscat"));
    command.args(["--origin", origin, "--wait", "-1", "--ca"]).arg(&certificates().ca);
    command.args(lines.iter().flat_map(|line| ["--execute", line]));
    command.arg("--connect").arg(format!("wss://127.0.0.1:{}{path}", gateway.port));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("wscat starts");
    // It leaves as soon as its input ends.
    let _keyboard = child.stdin.take();
    child.wait_with_output().expect("wscat ends")
}

#[test]
fn wscat_gets_its_echo_and_the_close_and_is_told_that_it_may_not() {
    let (server, tap, gateway) = echo_server(node("backends/ws.js"));
    let allowed = wscat(&gateway, ALLOWED, "/ws?wscat", &["Grüße", "please close 4001 bye"]);
    assert!(allowed.status.success(), "{allowed:?}");
    assert_eq!(String::from_utf8_lossy(&allowed.stdout), "Grüße\n");
    server.lines.wait("the close code at the server", |line| (line == "closed /ws?wscat with 4001 bye").then_some(()));

    let foreign = wscat(&gateway, FOREIGN, "/ws?foreign", &["no"]);
    assert!(!foreign.status.success(), "{foreign:?}");
    assert!(String::from_utf8_lossy(&foreign.stderr).contains("403"), "{foreign:?}");
    tap.never_saw("?foreign");
}

#[test]
fn a_client_by_hand_opens_tunnels_over_http2_as_rfc_8441_says() {
    let (_server, tap, gateway) = echo_server(python("backends/python_websockets.py"));
    let facts = succeed(script(python("clients/h2_websocket.py"), &gateway));
    assert_eq!(
        facts.lines().collect::<Vec<_>>(),
        [
            "extended CONNECT is offered",
            "foreign origin 403 origin-not-allowed",
            "tunnel with status 200 and subprotocol chat.v2",
            "echo and ping ok",
            "second tunnel and plain request ok",
            "close ok",
        ]
    );
    // Upstream it is an HTTP/1.1 upgrade with a key of the gateway's own.
    let head = tap.head("/ws?h2");
    assert!(head.starts_with("GET /ws?h2 HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "upgrade"), ["websocket"], "{head}");
    assert_eq!(field(&head, "sec-websocket-key").len(), 1, "{head}");
    assert_eq!(field(&head, "sec-websocket-protocol"), ["chat.v2, chat.v1"], "{head}");
    assert_eq!(field(&head, "host"), [format!("gate.test:{}", gateway.port)], "{head}");
    assert!(!tap.heads().iter().any(|head| head.contains("evil.test")), "a foreign handshake went upstream");
}

#[test]
fn curl_opens_a_tunnel_by_hand_and_is_told_why_it_may_not() {
    let (_server, tap, gateway) = echo_server(node("backends/ws.js"));
    let handshake = |origin: &str, query: &str| {
        let mut curl = gateway.curl(&format!("/ws?{query}"));
        curl.args(["--http1.1", "--include", "--no-buffer", "--header", "Connection: Upgrade"]);
        curl.args(["--header", "Upgrade: websocket", "--header", "Sec-WebSocket-Version: 13"]);
        curl.args([
            "--header",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "--header",
            &format!("Origin: {origin}"),
        ]);
        curl
    };
    let refused = succeed(handshake(FOREIGN, "foreign"));
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    assert_eq!(field(&refused, "x-portcullis-reason"), ["origin-not-allowed"], "{refused}");

    // curl waits for the end of an upgraded connection, so this one is given a second.
    let mut opened = handshake(ALLOWED, "allowed");
    opened.args(["--max-time", "1"]);
    let output = crate::harness::run(opened);
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert_eq!(field(&answer, "sec-websocket-accept"), ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="], "{answer}");
    assert_eq!(field(&answer, "upgrade"), ["websocket"], "{answer}");
    tap.head("?allowed");
    tap.never_saw("?foreign");
}

/// nginx with one small file, and a gateway that sends everything there.
fn files() -> (Process, Gateway, tempfile::TempDir) {
    let (server, port, folder) = crate::plain::nginx();
    let gateway = Gateway::start(&format!("[[route]]\nupstream = \"http://127.0.0.1:{port}\"\n"));
    (server, gateway, folder)
}

#[test]
fn nghttp_speaks_http2_and_sees_extended_connect_offered() {
    let (_server, gateway, folder) = files();
    std::fs::write(folder.path().join("docroot/hello.txt"), "hello over h2\n").expect("a file");
    let mut nghttp = Command::new(program("nghttp"));
    // It does not verify and resolves by itself, so it dials the address and names the host.
    nghttp.args(["--verbose", "--header", &format!(":authority: gate.test:{}", gateway.port)]);
    nghttp.arg(format!("https://127.0.0.1:{}/hello.txt", gateway.port));
    let seen = succeed(nghttp);
    assert!(seen.contains("hello over h2"), "{seen}");
    assert!(seen.contains(":status: 200"), "{seen}");
    // Printed by name or by number, depending on its version.
    let offered = ["SETTINGS_ENABLE_CONNECT_PROTOCOL(0x08):1", "UNKNOWN(0x08):1"];
    assert!(offered.iter().any(|setting| seen.contains(setting)), "{seen}");
}

#[test]
fn h2load_gets_every_one_of_two_thousand_answers_over_both_protocols() {
    let (_server, gateway, folder) = files();
    std::fs::write(folder.path().join("docroot/kilobyte"), vec![b'k'; 1024]).expect("a file");
    for protocol in ["h2", "http/1.1"] {
        let facts = succeed(h2load(&gateway, protocol, "/kilobyte"));
        assert!(
            facts.contains("2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout"),
            "{facts}"
        );
        assert!(facts.contains("status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{facts}");
        assert!(facts.contains(&format!("Application protocol: {protocol}")), "{facts}");
    }
}

fn h2load(gateway: &Gateway, protocol: &str, path: &str) -> Command {
    let mut command = Command::new(program("h2load"));
    command.args(["--requests=2000", "--clients=8", "--max-concurrent-streams=10", "--npn-list", protocol]);
    command.arg(format!("--connect-to=127.0.0.1:{}", gateway.port));
    command.arg(Path::new(&gateway.url(path)));
    command
}
