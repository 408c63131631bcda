//! The dashboard of the admin listener, in Chromium: the script starts the gateway by itself, since it has to start it again.

use std::fmt::Write as _;

use super::harness::{self, Process, certificates, folder, free_port, gateway::gateway_binary};
use super::{lines, script};

const TOKEN: &str = "correct-horse-battery-staple";

/// What holds at any width.
const FACTS: [&str; 13] = [
    "asks for a token, refuses a wrong one, and keeps the right one in its tab",
    "shows live numbers, and looks back at them",
    "pages through the tunnels, and sorts them",
    "says what is wrong with a filter",
    "closes a real tunnel, with a code and a reason",
    "closes all that a filter means",
    "shows what strangers have sent as text",
    "drains a server and lets it work again",
    "shows the configuration, and a reload's problems as check shows them",
    "sets the log's level",
    "holds its tables still",
    "says that the gateway is away, and finds it again",
    "everything can be done with keys alone",
];

/// `WIDTH` and more facts than [`FACTS`].
fn dashboard_works(width: &str) {
    let (_server, port) = Process::backend("ws", harness::node("backends/ws.js"));
    let folder = folder();
    let harness::gateway::Certificates { ca, cert, key, .. } = certificates();
    std::fs::write(folder.path().join("token"), TOKEN).expect("written");
    let mut text = format!(
        "[server]\nworkers = 2\ndrain_timeout = \"1s\"\n\n[log]\naccess = \"off\"\n\n\
         [admin]\naddress = \"127.0.0.1:{}\"\ntoken_file = \"token\"\n\n\
         [[listener]]\nname = \"public\"\naddress = \"127.0.0.1:{}\"\ntls = {{ cert = {cert:?}, key = {key:?} }}\n\n",
        free_port(),
        free_port()
    );
    for route in ["chat", "feed"] {
        let _ = write!(
            text,
            "[[route]]\nname = \"{route}\"\npath = \"/{route}\"\nupstream = \"{route}\"\n\
             websocket = {{ origins = [\"https://app.test\"], subprotocols = {{ allow = [\"chat.v2\"] }} }}\n\n\
             [upstream.{route}]\nservers = [\"ws://127.0.0.1:{port}\"]\n\n"
        );
    }
    let file = folder.path().join("portcullis.toml");
    std::fs::write(&file, text).expect("written");
    let (program, file) = (gateway_binary(), file.display().to_string());
    let more = [&*program.display().to_string(), &file, TOKEN, width];
    // The first argument is another script's; this one reads ports from the file.
    let facts = harness::succeed_within(harness::LONG_PATIENCE, script("dashboard.js", 0, ca, &more));
    assert_eq!(lines(&facts), FACTS, "{width}");
}

#[test]
fn the_dashboard_works_at_a_desk() {
    dashboard_works("desktop");
}

#[test]
fn the_dashboard_works_on_a_phone() {
    dashboard_works("phone");
}
