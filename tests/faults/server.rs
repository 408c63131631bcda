//! Servers: real ones, each a process of its own that this binary becomes, and doubles that fail in one way.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// `NAME ADDRESS JOURNAL`, in the environment of the process that is to be a server.
const ASKED: &str = "PORTCULLIS_TEST_SERVER";

/// How long a request takes, so that there is always one on its way when something happens.
const WORK: Duration = Duration::from_millis(5);

/// A server in a process of its own. It writes down what it executes before it answers.
pub struct Server {
    name: &'static str,
    address: SocketAddr,
    child: Child,
    folder: TempDir,
}

impl Server {
    pub fn start(name: &'static str) -> Self {
        Self::start_at(name, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub fn start_at(name: &'static str, address: SocketAddr) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (child, address) = spawn(name, address, &folder);
        Self { name, address, child, folder }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    /// The same server at the same address.
    pub fn restart(&mut self) {
        (self.child, _) = spawn(self.name, self.address, &self.folder);
    }

    /// SIGSTOP.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.expect("kill").success());
    }

    fn journal(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("journal")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Requests so far.
    pub fn executed(&self) -> usize {
        self.journal().len()
    }

    /// What may not be repeated and was.
    pub fn executed_twice(servers: &[Self]) -> Vec<String> {
        let mut counts = HashMap::<String, usize>::new();
        for line in servers.iter().flat_map(Self::journal).filter(|line| line.starts_with("POST ")) {
            *counts.entry(line).or_default() += 1;
        }
        counts.into_iter().filter(|(_, count)| *count > 1).map(|(line, _)| line).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(name: &str, address: SocketAddr, folder: &TempDir) -> (Child, SocketAddr) {
    let journal = folder.path().join("journal");
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["server_process", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(ASKED, format!("{name} {address} {}", journal.display()));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a process");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let address = lines.by_ref().find_map(|line| {
        let line = line.expect("read");
        line.split_once("serving at ").map(|(_, address)| address.parse().expect("an address"))
    });
    (child, address.expect("the server is up"))
}

pub fn serve_if_asked() {
    let Ok(asked) = std::env::var(ASKED) else { return };
    let mut words = asked.splitn(3, ' ');
    let (Some(name), Some(address), Some(journal)) = (words.next(), words.next(), words.next()) else {
        panic!("{asked}")
    };
    let journal = OpenOptions::new().create(true).append(true).open(journal).expect("the journal");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(serve(name.to_owned(), address.parse().expect("an address"), Arc::new(journal)));
}

async fn serve(name: String, address: SocketAddr, journal: Arc<File>) {
    let listener = TcpListener::bind(address).await.expect("the port");
    println!("serving at {}", listener.local_addr().expect("an address"));
    while let Ok((socket, _)) = listener.accept().await {
        let (name, journal) = (name.clone(), journal.clone());
        tokio::spawn(async move {
            let _ = converse(socket, &name, &journal).await;
        });
    }
}

/// A request's head and body, as far as these tests need them.
struct Request {
    method: String,
    target: String,
    fields: HashMap<String, String>,
}

async fn read_request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Request>> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if socket.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end);
    let mut lines = head.lines();
    let mut start = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (start.next().unwrap_or_default().to_owned(), start.next().unwrap_or_default().to_owned());
    let fields = lines.filter_map(|line| line.split_once(':'));
    let fields: HashMap<_, _> =
        fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    let length = fields.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while buffer.len() < length {
        if socket.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    buffer.drain(..length);
    Ok(Some(Request { method, target, fields }))
}

async fn converse(mut socket: TcpStream, name: &str, mut journal: &File) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut socket, &mut buffer).await? {
        if let Some(key) = request.fields.get("sec-websocket-key") {
            let accept = derive_accept_key(key.as_bytes());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\nX-Server: {name}\r\n\r\n"
            );
            socket.write_all(answer.as_bytes()).await?;
            return echo(socket).await;
        }
        let id = request.target.rsplit('/').next().unwrap_or_default();
        if request.target != "/health" {
            journal.write_all(format!("{} {id}\n", request.method).as_bytes())?;
            tokio::time::sleep(WORK).await;
        }
        let body = format!("{name} {id}");
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        socket.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

async fn echo(socket: TcpStream) -> std::io::Result<()> {
    let mut socket = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// A server that fails in one way, always.
pub struct Double {
    pub address: SocketAddr,
    asked: Arc<AtomicUsize>,
    /// Holds what makes it a blackhole.
    _held: Vec<std::net::TcpStream>,
    _listener: Option<std::net::TcpListener>,
}

impl Double {
    /// Connections that it got.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    pub fn refusing() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        Self { address, asked: Arc::default(), _held: Vec::new(), _listener: None }
    }

    /// Connecting never ends: the queue is full and nobody accepts.
    pub fn blackhole() -> Self {
        let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
        let socket = socket.expect("a socket");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        rustix::net::bind(&socket, &any).expect("a port");
        rustix::net::listen(&socket, 0).expect("listening");
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr().expect("an address");
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200));
        let held = std::iter::from_fn(|| connect().ok()).take(16).collect();
        assert!(connect().is_err(), "the queue is full");
        Self { address, asked: Arc::default(), _held: held, _listener: Some(listener) }
    }

    /// Answers like a good one, but late.
    pub fn slow(delay: Duration) -> Self {
        Self::scripted(move |mut socket| async move {
            let mut buffer = Vec::new();
            while let Ok(Some(request)) = read_request(&mut socket, &mut buffer).await {
                tokio::time::sleep(delay).await;
                if let Some(key) = request.fields.get("sec-websocket-key") {
                    let accept = derive_accept_key(key.as_bytes());
                    let answer = format!(
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Accept: {accept}\r\nX-Server: slow\r\n\r\n"
                    );
                    let _ = socket.write_all(answer.as_bytes()).await;
                    let _ = echo(socket).await;
                    return;
                }
                let body = format!("slow {}", request.target.rsplit('/').next().unwrap_or_default());
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                if socket.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        })
    }

    /// Reads a request, says this, closes.
    pub fn saying(answer: &'static [u8]) -> Self {
        Self::scripted(move |mut socket| async move {
            if let Ok(Some(_)) = read_request(&mut socket, &mut Vec::new()).await {
                let _ = socket.write_all(answer).await;
            }
        })
    }

    /// Reads a request, says this, resets.
    pub fn resetting(answer: &'static [u8]) -> Self {
        Self::scripted(move |mut socket| async move {
            if let Ok(Some(_)) = read_request(&mut socket, &mut Vec::new()).await {
                let _ = socket.write_all(answer).await;
                // The answer is to arrive before the reset overtakes it.
                tokio::time::sleep(Duration::from_millis(5)).await;
                let _ = rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
            }
        })
    }

    fn scripted<F, Fut>(script: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("an option");
        let address = listener.local_addr().expect("an address");
        let listener = TcpListener::from_std(listener).expect("inside a runtime");
        let asked = Arc::<AtomicUsize>::default();
        let counted = asked.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(script(socket));
            }
        });
        Self { address, asked, _held: Vec::new(), _listener: None }
    }
}
