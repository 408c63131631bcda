//! The real binary in front of the servers.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

pub struct Gateway {
    child: Child,
    pub address: SocketAddr,
    _folder: TempDir,
}

impl Gateway {
    /// `urls`: the entries of `servers`; `upstream`: further keys.
    pub fn start(urls: &str, upstream: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("portcullis.toml");
        let toml = format!(
            "[server]\nworkers = 2\n[log]\naccess = \"off\"\nlevel = \"warn\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\n\
             [[route]]\nupstream = \"servers\"\nwebsocket = {{ origins = [\"*\"] }}\n\
             [route.timeouts]\nresponse = \"500ms\"\n\
             [upstream.servers]\nservers = [{urls}]\n{upstream}"
        );
        std::fs::write(&file, toml).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["run", "--config"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary");
        let mut stderr = child.stderr.take().expect("a pipe");
        let said = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        stdout.read_line(&mut line).expect("read");
        let announced = line.strip_prefix("listening on http://").and_then(|line| line.split(' ').next());
        let Some(address) = announced else {
            let _ = child.kill();
            panic!("not up: {line}{}", said.join().expect("read"));
        };
        Self { child, address: address.parse().expect("an address"), _folder: folder }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
