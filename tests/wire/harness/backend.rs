//! Backends that answer by script and remember every byte.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::frames::read_frame;
use super::stream::{Heads, Record, Wire};
use super::{End, Fields, Frame, Head, OpCode, ServerKind, Stream, pki};

/// What all connections of a backend leave behind.
#[derive(Default)]
struct Log {
    records: Mutex<Vec<Arc<Record>>>,
    heads: Heads,
    peers: Mutex<Vec<std::net::IpAddr>>,
    failures: Mutex<Vec<String>>,
    failed_tls: AtomicUsize,
    introductions: Mutex<Vec<Vec<u8>>>,
}

pub struct Backend {
    pub address: SocketAddr,
    log: Arc<Log>,
    accepting: JoinHandle<()>,
}

impl Backend {
    /// `/ws` agrees to a WebSocket and echoes messages; everything else is 200 with the request's `X-Nonce`.
    pub fn standard() -> Self {
        Self::scripted(async |mut peer: Peer| peer.serve().await)
    }

    /// Runs `script` on every connection; the connection closes when it returns.
    pub fn scripted<S>(script: S) -> Self
    where
        S: Script,
    {
        Self::start(script, None, false)
    }

    /// Standard, but for requests below `/n/slow`: those wait until `true` is sent.
    pub fn slow_until_told() -> (Self, watch::Sender<bool>) {
        let (go, wait) = watch::channel(false);
        let backend = Self::scripted(move |mut peer: Peer| {
            let mut wait = wait.clone();
            async move {
                loop {
                    let head = peer.head().await?;
                    if head.target().starts_with("/n/slow") {
                        let _ = wait.wait_for(|go| *go).await;
                    }
                    if !peer.handle(&head).await? {
                        return Ok(());
                    }
                }
            }
        });
        (backend, go)
    }

    /// Standard, behind the PROXY header that every connection has to begin with; with TLS after it, or without.
    pub fn introduced(tls: Option<ServerKind>) -> Self {
        let tls = tls.map(|kind| TlsAcceptor::from(Arc::new(pki().backend_config(kind))));
        Self::start(async |mut peer: Peer| peer.serve().await, tls, true)
    }

    pub fn tls<S>(kind: ServerKind, script: S) -> Self
    where
        S: Script,
    {
        Self::start(script, Some(TlsAcceptor::from(Arc::new(pki().backend_config(kind)))), false)
    }

    /// The standard behaviour on the same port of another address of this machine.
    pub fn beside(&self, address: &str) -> Self {
        let address = SocketAddr::new(address.parse().expect("an address"), self.address.port());
        Self::start_at(address, async |mut peer: Peer| peer.serve().await, None, false)
    }

    /// Over TLS, with what ALPN may choose.
    pub fn tls_alpn<S>(kind: ServerKind, alpn: &[&str], script: S) -> Self
    where
        S: Script,
    {
        let mut config = pki().backend_config(kind);
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self::start(script, Some(TlsAcceptor::from(Arc::new(config))), false)
    }

    fn start<S: Script>(script: S, tls: Option<TlsAcceptor>, introduced: bool) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), script, tls, introduced)
    }

    fn start_at<S: Script>(address: SocketAddr, script: S, tls: Option<TlsAcceptor>, introduced: bool) -> Self {
        let listener = std::net::TcpListener::bind(address).expect("a free port");
        listener.set_nonblocking(true).expect("a socket option");
        let address = listener.local_addr().expect("an address");
        let listener = TcpListener::from_std(listener).expect("inside a runtime");
        let log = Arc::new(Log::default());
        let accepting = tokio::spawn(accept(listener, log.clone(), Arc::new(script), tls, introduced));
        Self { address, log, accepting }
    }

    /// A port on which nobody listens, and nobody will: it is kept for as long as the tests run.
    pub fn refusing_port() -> u16 {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        let port = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address").port();
        std::mem::forget(socket);
        port
    }

    /// A port on which nobody listens yet; somebody else may come and take it.
    pub fn closed_port() -> u16 {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        listener.local_addr().expect("an address").port()
    }

    pub fn records(&self) -> Vec<Arc<Record>> {
        self.log.records.lock().expect("a whole log").clone()
    }

    /// Where each connection came from.
    pub fn peers(&self) -> Vec<std::net::IpAddr> {
        self.log.peers.lock().expect("a whole log").clone()
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.records().len()
    }

    /// How many connections ended before a request because TLS failed.
    pub fn failed_tls(&self) -> usize {
        self.log.failed_tls.load(Ordering::SeqCst)
    }

    /// The PROXY headers, in the order of arrival.
    pub fn introductions(&self) -> Vec<Vec<u8>> {
        self.log.introductions.lock().expect("a whole log").clone()
    }

    /// Every request head that was read, in the order of arrival.
    pub fn requests(&self) -> Vec<Head> {
        self.log.heads.lock().expect("a whole log").clone()
    }

    /// The only request that was read.
    #[track_caller]
    pub fn request(&self) -> Head {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// Every byte of every connection.
    pub fn bytes(&self) -> Vec<u8> {
        self.records().iter().flat_map(|record| record.bytes()).collect()
    }

    /// Whether some bytes were seen anywhere.
    pub fn saw(&self, needle: &str) -> bool {
        self.bytes().windows(needle.len()).any(|window| window == needle.as_bytes())
    }

    /// Fails if even one byte of a request came.
    #[track_caller]
    pub fn assert_untouched(&self) {
        let bytes = self.bytes();
        assert!(bytes.is_empty(), "the backend saw {:?}", String::from_utf8_lossy(&bytes));
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
        if let Ok(failures) = self.log.failures.lock()
            && !std::thread::panicking()
        {
            assert!(failures.is_empty(), "a backend's script failed: {failures:?}");
        }
    }
}

/// What a backend does on a connection: an async closure or function.
pub trait Script: Send + Sync + 'static {
    fn run(&self, peer: Peer) -> impl Future<Output = io::Result<()>> + Send;
}

impl<F, Fut> Script for F
where
    F: Fn(Peer) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<()>> + Send,
{
    fn run(&self, peer: Peer) -> impl Future<Output = io::Result<()>> + Send {
        self(peer)
    }
}

async fn accept<S: Script>(
    listener: TcpListener,
    log: Arc<Log>,
    script: Arc<S>,
    tls: Option<TlsAcceptor>,
    introduced: bool,
) {
    while let Ok((mut socket, peer)) = listener.accept().await {
        let (log, script, tls) = (log.clone(), script.clone(), tls.clone());
        log.peers.lock().expect("a whole log").push(peer.ip());
        let record = Arc::new(Record::new(log.heads.clone()));
        let number = {
            let mut records = log.records.lock().expect("a whole log");
            records.push(record.clone());
            records.len() - 1
        };
        tokio::spawn(async move {
            if introduced && let Ok(header) = proxy_header(&mut socket).await {
                log.introductions.lock().expect("a whole log").push(header);
            }
            let work = tokio::spawn(async move { serve(socket, record, number, script, tls).await });
            match work.await {
                Ok(Err(Refused::Tls)) => _ = log.failed_tls.fetch_add(1, Ordering::SeqCst),
                // A script that is cut off by the gateway ends with an error of the socket; the test judges that.
                Ok(_) => {}
                Err(error) if error.is_panic() => {
                    log.failures.lock().expect("a whole log").push(panic_text(error));
                }
                Err(_) => {}
            }
        });
    }
}

/// A PROXY header of either version, as it is.
async fn proxy_header(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut header = vec![0; 13];
    socket.read_exact(&mut header).await?;
    if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\r\n") {
            header.push(socket.read_u8().await?);
        }
        return Ok(header);
    }
    let mut rest = vec![0; 3];
    socket.read_exact(&mut rest).await?;
    let mut block = vec![0; usize::from(u16::from_be_bytes([rest[1], rest[2]]))];
    socket.read_exact(&mut block).await?;
    Ok([header, rest, block].concat())
}

fn panic_text(error: tokio::task::JoinError) -> String {
    let payload = error.into_panic();
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

enum Refused {
    Tls,
    Io,
}

async fn serve<S: Script>(
    socket: TcpStream,
    record: Arc<Record>,
    number: usize,
    script: Arc<S>,
    tls: Option<TlsAcceptor>,
) -> Result<(), Refused> {
    let wire = match tls {
        None => Wire::Clear(socket),
        Some(acceptor) => match acceptor.accept(socket).await {
            Ok(stream) => Wire::Tls(Box::new(stream.into())),
            Err(_) => return Err(Refused::Tls),
        },
    };
    let peer = Peer { stream: Stream::new(wire, Some(record)), number };
    script.run(peer).await.map_err(|_| Refused::Io)
}

/// The backend's end of one connection.
pub struct Peer {
    stream: Stream,
    /// The how-manieth connection of this backend, from 0.
    pub number: usize,
}

impl Deref for Peer {
    type Target = Stream;
    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl DerefMut for Peer {
    fn deref_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }
}

/// The `Sec-WebSocket-Accept` that belongs to a key.
pub fn accept_for(key: &str) -> String {
    tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes())
}

impl Peer {
    /// The standard behaviour until the connection ends.
    pub async fn serve(&mut self) -> io::Result<()> {
        loop {
            let head = self.head().await?;
            if !self.handle(&head).await? {
                return Ok(());
            }
        }
    }

    /// The standard behaviour from a head on that is read already.
    pub async fn serve_from(&mut self, head: Head) -> io::Result<()> {
        if self.handle(&head).await? { self.serve().await } else { Ok(()) }
    }

    /// The standard behaviour for a request whose head is read; false when the connection is used up.
    pub async fn handle(&mut self, head: &Head) -> io::Result<bool> {
        let _ = self.request_body(head).await?;
        if head.is_websocket() && head.target().starts_with("/ws") {
            self.agree(head, "").await?;
            self.echo().await?;
            return Ok(false);
        }
        self.nonce(head).await?;
        Ok(true)
    }

    /// The right 101, with further header lines (each ending in CRLF).
    pub fn agreement(head: &Head, extra: &str) -> String {
        let accept = accept_for(head.get("sec-websocket-key").unwrap_or_default());
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{extra}\r\n"
        )
    }

    pub async fn agree(&mut self, head: &Head, extra: &str) -> io::Result<()> {
        self.write(Self::agreement(head, extra).as_bytes()).await
    }

    pub async fn frame(&mut self) -> io::Result<Frame> {
        read_frame(&mut self.stream).await
    }

    /// Sends every frame back without its mask, pings as pongs, until a Close has been answered or the end.
    pub async fn echo(&mut self) -> io::Result<()> {
        loop {
            let mut frame = self.frame().await?.unmasked();
            if frame.opcode == OpCode::PING {
                frame.opcode = OpCode(10);
            }
            self.write(&frame.bytes()).await?;
            if frame.opcode == OpCode::CLOSE {
                self.finish().await?;
                self.rest().await?;
                return Ok(());
            }
        }
    }

    /// 200 with the request's `X-Nonce` as body.
    pub async fn nonce(&mut self, head: &Head) -> io::Result<()> {
        let nonce = head.get("x-nonce").unwrap_or("none").to_owned();
        let body = if head.method() == "HEAD" { "" } else { &nonce };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", nonce.len());
        self.write(answer.as_bytes()).await
    }

    /// Waits until the gateway has ended the connection.
    pub async fn until_over(&mut self) -> io::Result<()> {
        let (_, end) = self.rest().await?;
        assert_ne!(end, End::Open);
        Ok(())
    }

    pub fn reset(self) {
        self.stream.reset();
    }

    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// For a protocol library; nothing of it is recorded.
    pub fn into_wire(self) -> Wire {
        self.stream.into_wire()
    }
}
