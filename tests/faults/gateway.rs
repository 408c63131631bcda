//! The real binary in front of the servers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

pub struct Gateway {
    child: Child,
    pub address: SocketAddr,
    folder: TempDir,
}

impl Gateway {
    /// `urls`: the entries of `servers`; `upstream`: further keys.
    pub fn start(urls: &str, upstream: &str) -> Self {
        Self::start_with("", urls, upstream)
    }

    /// `server`: further keys of `[server]`.
    pub fn start_with(server: &str, urls: &str, upstream: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("portcullis.toml");
        let toml = format!(
            "[server]\nworkers = 2\n{server}[log]\naccess = \"off\"\nlevel = \"warn\"\n\
             [admin]\naddress = \"unix:admin.sock\"\n\
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
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let announced = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening on http://")?.split(' ').next()?.parse().ok());
        let Some(address) = announced else {
            let _ = child.kill();
            panic!("not up: {}", said.join().expect("read"));
        };
        Self { child, address, folder }
    }

    /// Attempts after the first one, as the gateway counts them.
    pub fn retried(&self) -> u64 {
        let mut admin = UnixStream::connect(self.folder.path().join("admin.sock")).expect("an admin listener");
        admin.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("room");
        let mut answer = String::new();
        admin.read_to_string(&mut answer).expect("metrics");
        let line = answer.lines().find_map(|line| line.strip_prefix("portcullis_upstream_retries_total{"));
        let value = line.and_then(|line| line.rsplit_once(' ')).and_then(|(_, value)| value.parse().ok());
        value.unwrap_or_else(|| panic!("no retries are counted: {answer}"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
