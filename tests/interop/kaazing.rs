//! The Kaazing gateway cannot be had any more; a scripted double shows its two habits.

use std::io::BufReader;
use std::process::{Command, Stdio};

use crate::harness::{ALLOWED, Gateway, NAME, Process, Tap, python, succeed};
use crate::websocket::open;

fn start() -> (Process, Tap, Gateway) {
    let (backend, port) = Process::backend("the Kaazing double", python("backends/kaazing.py"));
    let tap = Tap::before(port);
    let gateway = before(tap.port);
    (backend, tap, gateway)
}

fn before(port: u16) -> Gateway {
    Gateway::start(&format!(
        "[[route]]\npath = \"/\"\nupstream = \"http://127.0.0.1:{port}\"\nwebsocket = {{ origins = [{ALLOWED:?}] }}\n",
    ))
}

#[tokio::test]
async fn a_redirected_handshake_reaches_the_client_with_the_name_it_knows() {
    // No tap here: the double redirects to the address that it listens on, which must be the upstream's.
    let (_backend, port) = Process::backend("the Kaazing double", python("backends/kaazing.py"));
    let gateway = before(port);
    let refusal = open(&gateway, "/moved", &[("origin", ALLOWED)]).await.expect_err("a 302, not a tunnel");
    assert_eq!(refusal.status, 302);
    assert_eq!(refusal.location, Some(format!("wss://{NAME}:{}/elsewhere", gateway.port)));
    // The connection is still good for HTTP: nothing was upgraded.
    assert_eq!(succeed(answer_code(gateway.curl("/nothing"))), "404");
}

fn answer_code(mut curl: Command) -> Command {
    curl.args(["--output", "/dev/null", "--write-out", "%{http_code}"]);
    curl
}

#[test]
fn emulation_paths_keep_their_semicolons_and_their_endless_answer_is_not_held_back() {
    let (_backend, tap, gateway) = start();
    for protocol in ["--http1.1", "--http2"] {
        let mut create = gateway.curl("/service/;e/cb?.kn=1");
        create.args([protocol, "--data", ""]);
        assert_eq!(succeed(create), "/service/;e/dtb/1\n/service/;e/utb/1\n");
        tap.head("/service/;e/cb?.kn=1 ");

        let mut stream = gateway.curl("/service/;e/dtb/1;x=%3B");
        stream.args([protocol, "--no-buffer"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = stream.spawn().expect("curl starts");
        let mut down = BufReader::new(child.stdout.take().expect("stdout is piped"));
        tap.head("/service/;e/dtb/1;x=%3B ");
        for text in ["first\n", "second\n"] {
            let mut up = gateway.curl("/service/;e/utb/1");
            up.args([protocol, "--data-binary", text]);
            succeed(up);
            // The answer has no end, so a gateway that collects it never gets here.
            crate::harness::read_until(&mut down, text.trim_end());
        }
        child.kill().expect("curl is running");
        child.wait().expect("curl has ended");
    }
}
