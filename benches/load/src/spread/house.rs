//! The gateway and its three servers as processes, which end with the value.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::args::Problem;
use crate::program::{Program, announced, serve};

const SERVERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(20);

pub struct House {
    gateway: Program,
    address: SocketAddr,
    servers: [Option<Program>; SERVERS],
    addresses: [SocketAddr; SERVERS],
    folder: PathBuf,
}

impl House {
    pub fn start(gateway: &str, balance: &str, workers: usize) -> Result<Self, Problem> {
        let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); SERVERS];
        for (at, address) in addresses.iter_mut().enumerate() {
            // Addresses of their own: what the gateway connects from is 127.0.0.1, so that no port of a server that is down
            // can be taken meanwhile.
            let probe = TcpListener::bind((Ipv4Addr::new(127, 0, 0, at as u8 + 2), 0))?;
            *address = probe.local_addr()?;
        }
        let mut servers = [const { None }; SERVERS];
        for (server, address) in servers.iter_mut().zip(addresses) {
            *server = Some(serve(address)?);
        }
        let folder = std::env::temp_dir().join(format!("portcullis-spread-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let file = folder.join("portcullis.toml");
        let urls = addresses.map(|address| format!("ws://{address}"));
        fs::write(
            &file,
            format!(
                "[server]\nworkers = {workers}\n[log]\nlevel = \"error\"\naccess = \"off\"\n\
                 [[listener]]\naddress = \"127.0.0.1:0\"\n\
                 [[route]]\nupstream = \"chat\"\nwebsocket = {{ origins = [\"https://app.example\"] }}\n\
                 [upstream.chat]\nservers = {urls:?}\nbalance = {balance:?}\n"
            ),
        )?;
        let mut command = Command::new(gateway);
        command.arg("run").arg("--config").arg(&file);
        let (gateway, line) = announced(command, "listening on http://")?;
        let address = line.split([' ', '/']).next().unwrap_or_default().parse()?;
        Ok(Self { gateway, address, servers, addresses, folder })
    }

    /// The gateway's.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn pid(&self) -> u32 {
        self.gateway.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self, at: usize) {
        self.servers[at] = None;
    }

    pub fn serve(&mut self, at: usize) -> Result<(), Problem> {
        self.servers[at] = Some(serve(self.addresses[at])?);
        Ok(())
    }

    /// How many tunnels each server says it has; `None`: it is not there.
    pub async fn tunnels(&self) -> Result<[Option<usize>; SERVERS], Problem> {
        let mut held = [None; SERVERS];
        for ((held, server), address) in held.iter_mut().zip(&self.servers).zip(self.addresses) {
            if server.is_some() {
                *held = Some(tokio::time::timeout(PATIENCE, ask(address)).await??);
            }
        }
        Ok(held)
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // Left behind it does no harm.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

async fn ask(server: SocketAddr) -> Result<usize, Problem> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(b"GET /tunnels HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    let mut answer = Vec::with_capacity(256);
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && head.ends_with(&format!("Content-Length: {}", body.len()))
        {
            return Ok(body.parse()?);
        }
        if stream.read_buf(&mut answer).await? == 0 {
            return Err("a server did not say how many tunnels it has".into());
        }
    }
}
