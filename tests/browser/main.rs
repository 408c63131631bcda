//! A real browser in front of the gateway: Chromium, driven by the scripts beside this file, over HTTP/1.1 and over
//! HTTP/2 (RFC 8441), from the allowed Origin and from a foreign one.
//!
//! The browser trusts the test CA through its own certificate store and knows the names ending in `.test` as this
//! machine; nothing is told to ignore errors. A script prints a line per fact and ends with 0 only if all held.
//! `tests/run browser` installs what is needed; a plain `cargo test` leaves this out (`test = false` in Cargo.toml).

// Tests may spawn and read clocks as they like; see `clippy.toml` for what is banned elsewhere.
#![allow(clippy::disallowed_methods)]

#[path = "../interop/harness/mod.rs"]
mod harness;

mod dashboard;

use std::ffi::OsStr;
use std::process::Command;

use harness::gateway::{announced_port, gateway_binary};
use harness::three::Three;
use harness::{ALLOWED, Gateway, Process, Tap, certificates, field, installed_file, program, root};

/// A script of this folder: the gateway's port, the CA, and what else it wants to know.
fn script(file: &str, port: u16, ca: &std::path::Path, more: &[impl AsRef<OsStr>]) -> Command {
    // Asked for here so that a missing one is named at once.
    let chromium = program("chromium");
    program("certutil");
    let mut command = Command::new(program("node"));
    command.arg(root().join("tests/browser").join(file)).arg(port.to_string()).arg(ca).args(more);
    command.env("NODE_PATH", installed_file("node_modules")).env("CHROMIUM", chromium);
    command.env("TMPDIR", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// More to say to a script.
const NOTHING: &[&str] = &[];

fn lines(facts: &str) -> Vec<&str> {
    facts.lines().collect()
}

/// `ws` behind a route with subprotocols, and a page of the gateway's own beside it.
fn sockets(protocols: &str) -> (Process, Tap, Gateway) {
    let (server, port) = Process::backend("ws", harness::node("backends/ws.js"));
    let tap = Tap::before(port);
    let gateway = Gateway::with_listener(
        &format!("protocols = {protocols}"),
        &format!(
            "[[route]]\nhosts = [\"gate.test\"]\npath = \"/ws\"\nupstream = \"ws://127.0.0.1:{}\"\n\
             websocket = {{ origins = [{ALLOWED:?}, \"same-origin\"], subprotocols = {{ allow = [\"chat.v2\"] }} }}\n\n\
             [[route]]\npath = \"/\"\nhosts = [\"gate.test\", \"other.test\"]\nrespond = {{ status = 200, body = \"a page\" }}\n",
            tap.port
        ),
    );
    (server, tap, gateway)
}

const FACTS: [&str; 9] = [
    "opens: CONNECTING, open event, OPEN, subprotocol chat.v2",
    "text, ArrayBuffer and Blob come back as they went",
    "bufferedAmount counts what waits and falls to zero",
    "close(4001, bye): CLOSING, clean close event with 4001 bye, CLOSED",
    "the server's close arrives: 4002 that is all",
    "twenty sockets at once echo",
    "a page that goes away leaves 1001",
    "a foreign page gets error, then close 1006; the answer is 403 origin-not-allowed",
    "a sandboxed page (Origin null) is refused the same way",
];

fn socket_api_works(protocols: &str, spoken: &str, status: &str) {
    let (server, tap, gateway) = sockets(protocols);
    let ca = &certificates().ca;
    let facts = harness::succeed(script("websocket.js", gateway.port, ca, &[spoken]));
    let mut wanted = vec![format!("{spoken}: the handshake was answered with {status}")];
    wanted.extend(FACTS.map(str::to_owned));
    assert_eq!(lines(&facts), wanted);

    server.lines.wait("the code of a close", |line| (line == "closed /ws?closes with 4001 bye").then_some(()));
    let left = server.lines.wait("the end of the page that went away", |line| {
        line.strip_prefix("closed /ws?leaves with ").map(|code| code.trim_end().to_owned())
    });
    // Over HTTP/2 Chromium often resets the stream before its Close frame has left; the server then sees no code.
    assert!(left == "1001" || (spoken == "h2" && left == "1006"), "{left}");
    let head = tap.head("/ws?opens");
    assert_eq!(field(&head, "origin"), [ALLOWED], "{head}");
    assert_eq!(
        field(&head, "sec-websocket-protocol"),
        ["chat.v2"],
        "an offer that is not allowed went upstream:\n{head}"
    );
    tap.never_saw("?foreign");
}

#[test]
fn the_socket_api_works_over_http1() {
    socket_api_works("[\"http/1.1\"]", "http/1.1", "101");
}

#[test]
fn the_socket_api_works_over_http2() {
    socket_api_works("[\"h2\", \"http/1.1\"]", "h2", "200");
}

#[test]
fn socketio_in_the_browser_polls_and_upgrades() {
    let (server, port) = Process::backend("Socket.IO", harness::node("backends/socketio.js"));
    for protocols in ["[\"http/1.1\"]", "[\"h2\", \"http/1.1\"]"] {
        let gateway = Gateway::with_listener(
            &format!("protocols = {protocols}"),
            &format!(
                "[[route]]\npath = \"/socket.io\"\nupstream = \"http://127.0.0.1:{port}\"\nwebsocket = {{ origins = [{ALLOWED:?}] }}\n"
            ),
        );
        let facts = harness::succeed(script("socketio.js", gateway.port, &certificates().ca, NOTHING));
        assert_eq!(
            lines(&facts),
            [
                "polling, then websocket",
                "echo over the tunnel",
                "websocket alone",
                "a foreign page is refused its tunnel"
            ],
            "{protocols}"
        );
    }
    server.lines.wait("an upgrade at the server", |line| line.ends_with("upgraded to websocket").then_some(()));
}

/// Every tunnel of theirs goes over the one version of HTTP.
fn socketio_sessions_outlive_other_servers(protocols: &str, spoken: &str, other: &str) {
    let mut three =
        Three::start(&format!("protocols = {protocols}"), "least-connections", Some(", path = \"/socket.io\""));
    let crowd = script("socketio_three.js", three.gateway.port, &certificates().ca, &three.victim());
    three.outlived_by(&format!("Socket.IO in Chromium, {spoken}"), crowd);
    assert!(three.tunnels_over(spoken) > 30 && three.tunnels_over(other) == 0);
}

#[test]
fn socketio_sessions_stay_on_their_server_and_outlive_the_others_over_http1() {
    socketio_sessions_outlive_other_servers("[\"http/1.1\"]", "h1", "h2");
}

#[test]
fn socketio_sessions_stay_on_their_server_and_outlive_the_others_over_http2() {
    socketio_sessions_outlive_other_servers("[\"h2\", \"http/1.1\"]", "h2", "h1");
}

#[test]
fn socketio_sessions_of_other_hosts_and_of_many_tabs_stay_on_their_server() {
    let three = Three::start("", "round-robin", Some(", same_site = \"none\""));
    let facts = harness::succeed_within(
        harness::LONG_PATIENCE,
        script("socketio_elsewhere.js", three.gateway.port, &certificates().ca, NOTHING),
    );
    assert_eq!(
        lines(&facts),
        [
            "pages of another host stay with their server",
            "pages of another site stay with their server",
            "tabs that open at once all work, and the next ones stay with one server"
        ]
    );
}

#[test]
fn the_demo_page_works_at_desktop_and_phone_width() {
    let mut command = Command::new(gateway_binary());
    command.args(["demo", "--listen", "127.0.0.1:0"]);
    let demo = Process::start("the demo", command);
    let ca =
        demo.lines.wait("the demo's CA", |line| line.trim().strip_prefix("CA ").map(|path| path.trim().to_owned()));
    let port = demo.lines.wait("the demo's `listening on https://…` line", announced_port);
    for width in ["desktop", "phone"] {
        let facts = harness::succeed(script("demo.js", port, ca.as_ref(), &[width]));
        assert_eq!(
            lines(&facts),
            [
                "the page loads without errors and fits the window",
                "connects: state OPEN",
                "text comes back identical",
                "one mebibyte comes back identical",
                "a file comes back with every byte equal",
                "the backend saw the gateway's handshake",
                "disconnects with 4001",
                "three Origins: opened, refused, refused; one handshake reached the backend",
                "two pages talk in the chat",
            ],
            "{width}"
        );
    }
    assert_eq!(demo.terminate(), Some(0), "the demo stops when asked");
}
