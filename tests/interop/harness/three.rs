//! Three Socket.IO servers that know nothing of each other, behind one upstream with or without the sticky cookie.

use std::net::SocketAddr;
use std::process::Command;

use super::{ALLOWED, Gateway, Process, folder, free_port, node};

pub const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
/// Who dies.
pub const VICTIM: usize = 1;
const SECRET: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

pub struct Three {
    servers: [Option<Process>; 3],
    addresses: [SocketAddr; 3],
    pub gateway: Gateway,
    _secret: tempfile::TempDir,
}

impl Three {
    /// `listener` are keys of the listener; `sticky` those of the cookie, none for no cookie.
    pub fn start(listener: &str, balance: &str, sticky: Option<&str>) -> Self {
        // A server has to come back under the address that it had: not 127.0.0.1, so that no connection that goes out from
        // there takes its port meanwhile.
        let addresses = [2, 3, 4].map(|last| SocketAddr::from(([127, 0, 0, last], free_port())));
        let servers = [0, 1, 2].map(|at| Some(serve(at, addresses[at])));
        let secret = folder();
        let file = secret.path().join("secret");
        std::fs::write(&file, SECRET).expect("the secret can be written");
        let sticky = sticky.map_or_else(String::new, |keys| {
            format!("sticky = {{ cookie = \"pcl\", secret_file = {file:?}{keys} }}\n")
        });
        let urls = addresses.map(|address| format!("http://{address}"));
        let routes = format!(
            "[[route]]\nhosts = [\"gate.test\"]\npath = \"/socket.io\"\nupstream = \"chat\"\n\
             websocket = {{ origins = [\"same-origin\", \"https://www.gate.test\", {ALLOWED:?}] }}\n\n\
             [upstream.chat]\nservers = {urls:?}\nbalance = {balance:?}\n{sticky}"
        );
        Self { servers, addresses, gateway: Gateway::with_listener(listener, &routes), _secret: secret }
    }

    /// What the scripts of a crowd want to know behind the gateway's port and the CA.
    pub fn victim(&self) -> [String; 2] {
        [NAMES[VICTIM].to_owned(), self.addresses[VICTIM].to_string()]
    }

    /// Runs a crowd, kills a server under it and starts it anew; the figures, which are also printed.
    pub fn outlived_by(&mut self, name: &str, crowd: Command) -> String {
        let crowd = Process::start(name, crowd);
        let said = |line: &'static str| move |seen: &str| (seen == line).then_some(());
        crowd.lines.wait_long("a crowd that is settled", said("settled"));
        // SIGKILL, as the value goes.
        self.servers[VICTIM] = None;
        crowd.lines.wait_long("a crowd that has moved", said("moved"));
        self.servers[VICTIM] = Some(serve(VICTIM, self.addresses[VICTIM]));
        let figures = crowd.lines.wait_long("the figures", |line| line.starts_with('{').then(|| line.to_owned()));
        println!("{name}: {figures}");
        assert_eq!(crowd.finish(), Some(0), "{name} ends well");
        figures
    }

    /// Tunnels that the gateway has opened over this version of HTTP (`h1` or `h2`).
    pub fn tunnels_over(&self, version: &str) -> usize {
        let (event, protocol) = ("\"event\":\"tunnel-open\"", format!("\"protocol\":\"{version}\""));
        let lines = self.gateway.process.lines.all();
        lines.iter().filter(|line| line.contains(event) && line.contains(&protocol)).count()
    }
}

fn serve(at: usize, address: SocketAddr) -> Process {
    let mut command = node("backends/socketio_named.js");
    command.arg(NAMES[at]).arg(address.ip().to_string()).arg(address.port().to_string());
    Process::backend(NAMES[at], command).0
}
