//! WebSocket servers behind the gateway: each is the real software with an echo endpoint, reached through a ws-only
//! upstream, and each has the common duties done plus what is its own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    ALLOWED, Gateway, Process, Tap, compile, field, folder, free_port, installed, node, program, python, run, succeed,
    suite,
};
use crate::websocket::{
    Backend, close, closed, code_and_reason, echo, has_the_common_duties_done, noise, open, open_allowed,
    pings_pass_to_the_client, send, websocket_route,
};

const CHAT: Backend<'static> = Backend {
    path: "/ws",
    subprotocol: Some("chat.v2"),
    largest: 2 * 1024 * 1024 + 1,
    answers_close_with: (4001, "bye"),
};

/// A gateway with one ws-only route `/ws` to `port` with a tap between.
fn before(port: u16, more: &str) -> (Tap, Gateway) {
    let tap = Tap::before(port);
    let gateway = Gateway::start(&websocket_route("/ws", tap.port, more));
    (tap, gateway)
}

/// The client's Close as the backend read it.
fn saw_the_close(server: &Process, code_and_reason: &str) {
    server.lines.wait(&format!("Close {code_and_reason} at the backend"), |line| {
        (line == format!("closed with {code_and_reason}")).then_some(())
    });
}

// pywebsocket3, the successor of mod_pywebsocket

fn pywebsocket() -> (Process, Tap, Gateway, tempfile::TempDir) {
    let port = free_port();
    let files = folder();
    fs::create_dir(files.path().join("ws")).expect("a folder");
    fs::write(files.path().join("ws/secret.txt"), "a file of the standalone server's own file server").expect("a file");
    // A handler answers under its file's name: ws_wsh.py is /ws.
    let handlers = files.path().join("handlers");
    fs::create_dir(&handlers).expect("a folder");
    fs::copy(suite("backends/pywebsocket/echo_wsh.py"), handlers.join("ws_wsh.py")).expect("the handler");
    let mut command = Command::new(program("python3"));
    command.args(["-m", "pywebsocket3.standalone", "-H", "127.0.0.1", "-p", &port.to_string(), "-w"]);
    command.arg(&handlers).arg("-d").arg(files.path());
    let mut process = Process::start("pywebsocket", command);
    process.accepting(port);
    let (tap, gateway) = before(port, "");
    (process, tap, gateway, files)
}

#[tokio::test]
async fn pywebsocket_behind_the_gateway_has_the_common_duties_done() {
    let (process, tap, gateway, _files) = pywebsocket();
    // It answers every Close with 1000.
    has_the_common_duties_done(&gateway, &tap, Backend { answers_close_with: (1000, ""), ..CHAT }).await;
    saw_the_close(&process, "4001 bye");
}

#[tokio::test]
async fn a_wrong_version_gets_426_from_the_gateway_where_pywebsocket_would_say_400() {
    let (_process, tap, gateway, _files) = pywebsocket();
    for version in ["8", "14", "0", "13, 8"] {
        let mut curl = gateway.curl("/ws?wrong-version");
        curl.args(["--http1.1", "--include", "--header", "Connection: Upgrade", "--header", "Upgrade: websocket"]);
        curl.args([
            "--header",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "--header",
            &format!("Origin: {ALLOWED}"),
        ]);
        curl.args(["--header", &format!("Sec-WebSocket-Version: {version}")]);
        let answer = succeed(curl);
        assert!(answer.starts_with("HTTP/1.1 426 "), "version {version}:\n{answer}");
        assert_eq!(field(&answer, "sec-websocket-version"), ["13"], "{answer}");
    }
    drop(open_allowed(&gateway, &CHAT, "?after").await);
    tap.head("?after");
    tap.never_saw("?wrong-version");
}

#[tokio::test]
async fn pywebsockets_file_server_is_out_of_reach_through_a_ws_only_upstream() {
    let (_process, tap, gateway, _files) = pywebsocket();
    for protocol in ["--http1.1", "--http2"] {
        for path in ["/ws/secret.txt", "/ws/", "/ws"] {
            let mut curl = gateway.curl(path);
            curl.args([protocol, "--write-out", "\n%{http_code}"]);
            let answer = succeed(curl);
            assert!(answer.ends_with("\n426"), "{protocol} {path}: {answer}");
            assert!(!answer.contains("a file of"), "{answer}");
        }
    }
    drop(open_allowed(&gateway, &CHAT, "?after").await);
    tap.head("?after");
    tap.never_saw("secret.txt");
    assert_eq!(tap.heads().len(), 1, "only the tunnel came through: {:?}", tap.heads());
}

// WebSocket-Node

/// It answers every Close with 1000.
const ECHO: Backend<'static> = Backend { subprotocol: Some("echo-protocol"), answers_close_with: (1000, ""), ..CHAT };
const REQUIRE: &str = ", subprotocols = { allow = [\"echo-protocol\"], require = true }";

#[tokio::test]
async fn websocket_node_behind_the_gateway_has_the_common_duties_done() {
    let (_server, port) = Process::backend("WebSocket-Node", node("backends/websocket_node.js"));
    let (tap, gateway) = before(port, REQUIRE);
    has_the_common_duties_done(&gateway, &tap, ECHO).await;
}

#[tokio::test]
async fn required_subprotocols_keep_websocket_nodes_accept_from_throwing() {
    let (mut server, port) = Process::backend("WebSocket-Node", node("backends/websocket_node.js"));
    let (tap, gateway) = before(port, REQUIRE);
    for offer in [None, Some("chat"), Some("Echo-Protocol"), Some("echo-protocol2, x")] {
        let mut fields = vec![("origin", ALLOWED)];
        fields.extend(offer.map(|offer| ("sec-websocket-protocol", offer)));
        let refusal = open(&gateway, "/ws?without", &fields).await.expect_err("no subprotocol, no tunnel");
        assert_eq!((refusal.status, refusal.reason.as_deref()), (400, Some("subprotocol-required")), "{offer:?}");
    }
    // Offers that are not allowed do not go upstream beside the one that is.
    let fields = [("origin", ALLOWED), ("sec-websocket-protocol", "other, echo-protocol, more")];
    let (mut socket, answer) = open(&gateway, "/ws?several", &fields).await.expect("a tunnel");
    assert_eq!(answer.headers()["sec-websocket-protocol"], "echo-protocol");
    echo(&mut socket, Message::text("alive")).await;
    assert_eq!(field(&tap.head("?several"), "sec-websocket-protocol"), ["echo-protocol"]);
    tap.never_saw("?without");
    assert!(server.is_running(), "the server ended");
}

/// The proof that the shield above is needed: without it, this server does not survive.
#[tokio::test]
async fn websocket_node_without_the_shield_ends_at_a_missing_subprotocol() {
    let (mut server, port) = Process::backend("WebSocket-Node", node("backends/websocket_node.js"));
    let (_tap, gateway) = before(port, "");
    let refusal = open(&gateway, "/ws", &[("origin", ALLOWED)]).await.expect_err("no tunnel");
    assert_eq!(refusal.status, 500, "the server's last words");
    crate::harness::eventually("the server ends", || (!server.is_running()).then_some(()));
}

#[tokio::test]
async fn websocket_node_takes_the_first_forwarded_address_and_gets_the_real_one() {
    let (server, port) = Process::backend("WebSocket-Node", node("backends/websocket_node.js"));
    let (_tap, gateway) = before(port, REQUIRE);
    let fields = [
        ("origin", ALLOWED),
        ("sec-websocket-protocol", "echo-protocol"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-for", "7.7.7.7"),
    ];
    open(&gateway, "/ws?who", &fields).await.expect("a tunnel");
    let line = server
        .lines
        .wait("the server's view of the client", |line| line.starts_with("request /ws?who").then(|| line.to_owned()));
    assert_eq!(line, "request /ws?who from 127.0.0.1 offering echo-protocol");
}

#[tokio::test]
async fn websocket_nodes_own_pings_reach_the_client_and_its_pongs_keep_the_tunnel_open() {
    let mut command = node("backends/websocket_node.js");
    command.env("PING_EVERY", "150");
    let (server, port) = Process::backend("WebSocket-Node", command);
    let (_tap, gateway) = before(port, REQUIRE);
    let mut socket = open_allowed(&gateway, &ECHO, "?pinged").await;
    pings_pass_to_the_client(&mut socket, 4).await;
    echo(&mut socket, Message::text("after four pings")).await;
    close(&mut socket, 4005, "enough").await;
    // The server has hung up; as long as we do not, its next ping fails and it reports that instead.
    drop(socket);
    server
        .lines
        .wait("the close code at the server", |line| (line == "closed /ws?pinged with 4005 enough").then_some(()));
}

// ws

#[tokio::test]
async fn ws_behind_the_gateway_has_the_common_duties_done() {
    let (_server, port) = Process::backend("ws", node("backends/ws.js"));
    let (tap, gateway) = before(port, "");
    has_the_common_duties_done(&gateway, &tap, Backend::default()).await;
}

#[tokio::test]
async fn stripped_extensions_never_reach_ws_and_passed_ones_are_answered() {
    let (server, port) = Process::backend("ws", node("backends/ws.js"));
    let offer = [("origin", ALLOWED), ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")];
    let (_tap, gateway) = before(port, "");
    let (_socket, answer) = open(&gateway, "/ws?passed", &offer).await.expect("a tunnel");
    let agreed = answer.headers()["sec-websocket-extensions"].to_str().expect("ASCII");
    assert!(agreed.starts_with("permessage-deflate"), "{agreed}");
    server.lines.wait("extensions at the server", |line| {
        (line.starts_with("tunnel /ws?passed ") && line.contains("permessage-deflate")).then_some(())
    });

    let (tap, gateway) = before(port, ", extensions = \"strip\"");
    let (_socket, answer) = open(&gateway, "/ws?stripped", &offer).await.expect("a tunnel");
    assert_eq!(answer.headers().get("sec-websocket-extensions"), None);
    assert_eq!(field(&tap.head("?stripped"), "sec-websocket-extensions"), [""; 0]);
}

#[tokio::test]
async fn a_client_that_vanishes_is_no_clean_close_to_the_server() {
    let (server, port) = Process::backend("ws", node("backends/ws.js"));
    let (_tap, gateway) = before(port, "");
    let socket = open_allowed(&gateway, &Backend::default(), "?vanish").await;
    drop(socket);
    let line = server
        .lines
        .wait("the end at the server", |line| line.starts_with("closed /ws?vanish with ").then(|| line.to_owned()));
    assert!(!line.contains("with 1000"), "{line}");
}

// Python

#[tokio::test]
async fn the_websockets_package_behind_the_gateway_has_the_common_duties_done() {
    let (_server, port) = Process::backend("websockets", python("backends/python_websockets.py"));
    let (tap, gateway) = before(port, "");
    has_the_common_duties_done(&gateway, &tap, CHAT).await;
}

#[tokio::test]
async fn aiohttp_behind_the_gateway_has_the_common_duties_done() {
    let (server, port) = Process::backend("aiohttp", python("backends/python_aiohttp.py"));
    let (tap, gateway) = before(port, "");
    // It answers every Close with 1000.
    has_the_common_duties_done(&gateway, &tap, Backend { answers_close_with: (1000, ""), ..CHAT }).await;
    saw_the_close(&server, "4001");
}

#[tokio::test]
async fn uvicorn_behind_the_gateway_has_the_common_duties_done() {
    let (_server, port) = Process::backend("uvicorn", python("backends/python_uvicorn.py"));
    let (tap, gateway) = before(port, "");
    has_the_common_duties_done(&gateway, &tap, CHAT).await;
}

// Jetty

fn jetty(arguments: &[&str]) -> (Process, u16, tempfile::TempDir) {
    let jars: Vec<PathBuf> = [
        "jetty9-http",
        "jetty9-io",
        "jetty9-security",
        "jetty9-server",
        "jetty9-servlet",
        "jetty9-util",
        "jetty9-websocket-api",
        "jetty9-websocket-client",
        "jetty9-websocket-common",
        "jetty9-websocket-server",
        "jetty9-websocket-servlet",
        "servlet-api",
    ]
    .iter()
    .map(|name| PathBuf::from(format!("/usr/share/java/{name}.jar")))
    .collect();
    for jar in &jars {
        assert!(jar.exists(), "{} is not installed; `tests/run interop` installs Jetty", jar.display());
    }
    let classes = folder();
    let path =
        std::env::join_paths(jars.iter().map(PathBuf::as_path).chain([classes.path()])).expect("no colon in a path");
    let mut compiler = Command::new(program("javac"));
    compiler.arg("-d").arg(classes.path()).arg("-cp").arg(&path).arg(suite("backends/EchoServer.java"));
    compile(compiler);
    let mut command = Command::new(program("java"));
    command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]).arg(&path).arg("EchoServer").args(arguments);
    let (server, port) = Process::backend("Jetty", command);
    // Classes are loaded when they are first used.
    (server, port, classes)
}

#[tokio::test]
async fn jetty_behind_the_gateway_has_the_common_duties_done_and_its_message_limit_arrives() {
    let (server, port, _classes) = jetty(&[]);
    let (tap, gateway) = before(port, "");
    // 64 KiB is what Jetty takes unless told otherwise.
    has_the_common_duties_done(&gateway, &tap, Backend { largest: 65_536, ..CHAT }).await;
    saw_the_close(&server, "4001 bye");

    let mut socket = open_allowed(&gateway, &CHAT, "?too-big").await;
    send(&mut socket, Message::binary(noise(65_537))).await;
    let (code, _) = code_and_reason(closed(&mut socket).await.as_ref());
    assert_eq!(code, 1009, "Jetty's own limit");
}

#[tokio::test]
async fn jettys_idle_close_arrives_with_its_code_and_reason() {
    let (_server, port, _classes) = jetty(&["700"]);
    let (_tap, gateway) = before(port, "");
    let mut socket = open_allowed(&gateway, &CHAT, "?idle").await;
    let frame = closed(&mut socket).await;
    let (code, reason) = code_and_reason(frame.as_ref());
    assert_eq!(code, 1001, "{reason}");
    assert!(reason.to_ascii_lowercase().contains("idle timeout"), "{reason}");
}

// C++

#[tokio::test]
async fn websocketpp_behind_the_gateway_has_the_common_duties_done() {
    let binary = installed().join("websocketpp-echo");
    let source = suite("backends/echo.cpp");
    let age = |file: &PathBuf| fs::metadata(file).and_then(|file| file.modified()).ok();
    if age(&binary) < age(&source) {
        // Under another name first: a compiler that is interrupted leaves nothing that looks finished.
        let built = binary.with_extension(std::process::id().to_string());
        let mut compiler = Command::new(program("g++"));
        compiler.args(["-std=c++14", "-DASIO_STANDALONE", "-pthread", "-o"]).arg(&built).arg(&source);
        compile(compiler);
        fs::rename(&built, &binary).expect("the compiler's output");
    }
    let (_server, port) = Process::backend("the WebSocket++ server", Command::new(&binary));
    let (tap, gateway) = before(port, "");
    has_the_common_duties_done(&gateway, &tap, CHAT).await;
}

// Rust

/// An echo server with tokio-tungstenite on a thread of its own.
fn tungstenite() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("the address of a bound socket").port();
    listener.set_nonblocking(true).expect("a socket option");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).expect("a listening socket");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                    while let Some(Ok(message)) = socket.next().await {
                        let asked = message.to_text().ok().filter(|_| message.is_text());
                        let sent = match asked.and_then(|text| text.strip_prefix("please close ")?.split_once(' ')) {
                            Some((code, reason)) => {
                                let code: u16 = code.parse().unwrap_or(1000);
                                let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame {
                                    code: code.into(),
                                    reason: reason.to_owned().into(),
                                };
                                socket.close(Some(frame)).await
                            }
                            None if message.is_text() || message.is_binary() => socket.send(message).await,
                            None => continue,
                        };
                        if sent.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    });
    port
}

#[tokio::test]
async fn tokio_tungstenite_behind_the_gateway_has_the_common_duties_done() {
    let (tap, gateway) = before(tungstenite(), "");
    has_the_common_duties_done(&gateway, &tap, Backend { largest: 8 * 1024 * 1024, ..Backend::default() }).await;
}

#[tokio::test]
async fn many_messages_in_flight_both_ways_keep_their_order_and_their_bytes() {
    let (_tap, gateway) = before(tungstenite(), "");
    let socket = open_allowed(&gateway, &Backend::default(), "?pipelined").await;
    let (mut up, mut down) = socket.split();
    let lengths: Vec<usize> = (0..400).map(|n| (n * 7919) % 30_000).collect();
    let sent = lengths.clone();
    let sender = tokio::spawn(async move {
        for length in sent {
            up.feed(Message::binary(noise(length))).await.expect("the tunnel is open");
        }
        up.flush().await.expect("the tunnel is open");
    });
    for length in lengths {
        let got = tokio::time::timeout(crate::harness::PATIENCE, down.next()).await.expect("in time");
        let got = got.expect("the tunnel is open").expect("a valid frame");
        assert!(got == Message::binary(noise(length)), "message of {length} bytes came back as {} bytes", got.len());
    }
    sender.await.expect("the sender does not panic");
}

#[test]
fn every_program_that_these_tests_start_is_installed() {
    for name in [
        "python3", "node", "java", "javac", "g++", "nginx", "haproxy", "curl", "nghttp", "h2load", "setpriv",
        "timeout", "wscat",
    ] {
        program(name);
    }
    let mut python = Command::new(program("python3"));
    python.args(["-c", "import pywebsocket3, websockets, aiohttp, uvicorn, hypercorn, grpc, h2, kosoku"]);
    assert!(run(python).status.success(), "a Python package is missing; `tests/run interop` installs them");
}
