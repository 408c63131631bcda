//! Servers that are spoken to over HTTP/2: nginx for plain requests, gRPC, and hypercorn for WebSockets (RFC 8441).

use std::fs;

use tokio_tungstenite::tungstenite::Message;

use crate::harness::{ALLOWED, Gateway, Process, certificates, field, free_port, python, succeed};
use crate::plain::nginx_with;
use crate::websocket::{Socket, close, closed, code_and_reason, echo, noise, open, pings_pass_to_the_backend, send};

const PROTOCOLS: [&str; 2] = ["--http1.1", "--http2"];

/// A gateway before a server that is known to speak HTTP/2 in the clear.
fn before(port: u16) -> Gateway {
    Gateway::start(&format!(
        "[[route]]\nupstream = \"u\"\nwebsocket = {{ origins = [{ALLOWED:?}] }}\n\
         [upstream.u]\nservers = [\"http://127.0.0.1:{port}\"]\nprotocols = [\"h2c\"]\n"
    ))
}

#[test]
fn files_go_to_and_from_nginx_byte_for_byte() {
    let (_server, port, folder) = nginx_with("http2");
    let gateway = before(port);
    let docroot = folder.path().join("docroot");
    let bytes = noise(24 * 1024 * 1024 + 3);
    let source = docroot.join("big");
    fs::write(&source, &bytes).expect("a file");
    for protocol in PROTOCOLS {
        let got = folder.path().join("downloaded");
        let mut curl = gateway.curl("/big");
        curl.args([protocol, "--fail", "--output"]).arg(&got);
        succeed(curl);
        assert!(fs::read(&got).expect("the download") == bytes, "download over {protocol}");
        let target = format!("upload/by{protocol}");
        let mut curl = gateway.curl(&format!("/{target}"));
        curl.args([protocol, "--fail", "--upload-file"]).arg(&source);
        succeed(curl);
        assert!(fs::read(docroot.join(&target)).expect("the upload") == bytes, "upload over {protocol}");
        let mut curl = gateway.curl("/big");
        curl.args([protocol, "--include", "--head"]);
        let head = succeed(curl);
        assert_eq!(field(&head, "content-length"), [bytes.len().to_string()], "{head}");
        let mut curl = gateway.curl("/denied");
        curl.args([protocol, "--write-out", "%{http_code}"]);
        assert_eq!(succeed(curl), "not for you\n403");
    }
}

#[test]
fn a_server_that_speaks_only_http_1_is_named_as_one() {
    let (_server, port, _folder) = nginx_with("");
    let gateway = before(port);
    let mut curl = gateway.curl("/denied");
    curl.args(["--include"]);
    let answer = succeed(curl);
    // It says 400 and hangs up, or the other way round.
    let reason = field(&answer, "x-portcullis-reason");
    assert!(reason == ["upstream-protocol"] || reason == ["upstream-unreachable"], "{answer}");
    let nobody = before(free_port());
    assert_eq!(
        field(
            &succeed({
                let mut curl = nobody.curl("/");
                curl.arg("--include");
                curl
            }),
            "x-portcullis-reason"
        ),
        ["upstream-unreachable"]
    );
}

async fn hypercorn_tunnel(gateway: &Gateway) -> Socket {
    let fields = [("origin", ALLOWED), ("sec-websocket-protocol", "chat.v2")];
    let (socket, answer) = open(gateway, "/ws", &fields).await.expect("a tunnel");
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat.v2");
    assert_eq!(answer.headers()["x-http-version"], "2", "what hypercorn was spoken to in");
    socket
}

#[tokio::test]
async fn hypercorn_echoes_messages_and_requests_over_http_2() {
    let (_server, port) = Process::backend("hypercorn", python("backends/python_hypercorn.py"));
    let gateway = before(port);
    let mut sockets = Vec::new();
    for _ in 0..60 {
        // More than it allows on one connection.
        sockets.push(hypercorn_tunnel(&gateway).await);
    }
    for socket in &mut sockets {
        echo(socket, Message::text("Fallgatter Öffnen! 城門 🏰")).await;
    }
    let mut socket = sockets.swap_remove(0);
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 2 * 1024 * 1024 + 1] {
        echo(&mut socket, Message::binary(noise(length))).await;
    }
    pings_pass_to_the_backend(&mut socket).await;
    close(&mut socket, 4001, "bye").await;
    let mut socket = sockets.swap_remove(0);
    send(&mut socket, Message::text("please close 4002 that is all")).await;
    let frame = closed(&mut socket).await;
    assert_eq!(code_and_reason(frame.as_ref()), (4002, "that is all".to_owned()));
    for protocol in PROTOCOLS {
        let mut curl = gateway.curl("/plain");
        curl.args([protocol, "--include", "--data-binary", "as it came"]);
        let answer = succeed(curl);
        assert!(answer.ends_with("as it came"), "{answer}");
        assert_eq!(field(&answer, "x-http-version"), ["2"], "{answer}");
    }
    for socket in &mut sockets {
        echo(socket, Message::text("still there")).await;
    }
}

#[tokio::test]
async fn hypercorns_refusals_are_ordinary_answers_and_foreign_origins_never_reach_it() {
    let (_server, port) = Process::backend("hypercorn", python("backends/python_hypercorn.py"));
    let gateway = before(port);
    let refusal = open(&gateway, "/ws/denied", &[("origin", ALLOWED)]).await.expect_err("no entry");
    assert_eq!((refusal.status, refusal.reason), (401, None));
    let refusal = open(&gateway, "/ws", &[("origin", "https://evil.test")]).await.expect_err("no entry");
    assert_eq!((refusal.status, refusal.reason.as_deref()), (403, Some("origin-not-allowed")));
    echo(&mut hypercorn_tunnel(&gateway).await, Message::text("alive")).await;
}

#[test]
fn grpc_calls_of_every_kind_pass_and_a_deadline_ends_the_servers_work() {
    let (server, port) = Process::backend("gRPC", python("backends/python_grpc.py"));
    let gateway = before(port);
    let mut client = python("clients/python_grpc.py");
    client.arg(gateway.port.to_string()).arg(&certificates().ca);
    let facts = succeed(client);
    assert_eq!(facts, "unary ok\n4 MiB ok\nserver stream ok\nclient stream ok\nboth ways ok\nerrors ok\ndeadline ok\n");
    server.lines.wait("the end of the call that was given up", |line| (line == "a call was cancelled").then_some(()));
}
