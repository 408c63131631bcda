//! Those who must not notice anything: requests one after the other, each on a connection of its own; tunnels that talk.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::scene::eventually;

/// How long one of them waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// One that has not asked yet.
pub struct Connection<S>(S);

impl Connection<TcpStream> {
    pub async fn open(address: SocketAddr) -> std::io::Result<Self> {
        Ok(Self(TcpStream::connect(address).await?))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// The body of the answer.
    pub async fn ask(&mut self) -> Result<String, String> {
        let talk = async {
            self.0.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await?;
            let mut answer = String::new();
            self.0.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(PATIENCE, talk).await.map_err(|_| "no answer in time")?;
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
            _ => Err(format!("this is no whole answer: {answer:?}")),
        }
    }
}

pub async fn ask(address: SocketAddr) -> Result<String, String> {
    Connection::open(address).await.map_err(|error| format!("connect: {error}"))?.ask().await
}

/// Until the answer is this one: for a moment both processes accept.
pub async fn answers(address: SocketAddr, body: &str) {
    let asked = async { while ask(address).await.expect("an answer") != body {} };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("nobody answers {body}"));
}

pub async fn ask_unix(path: &Path) -> Result<String, String> {
    let stream = UnixStream::connect(path).await.map_err(|error| format!("connect: {error}"))?;
    Connection(stream).ask().await
}

#[derive(Debug, Default)]
pub struct Figures {
    pub answered: usize,
    pub failed: Vec<String>,
}

/// Clients that connect and ask until they are told to stop.
pub struct Asking {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Asking {
    pub fn start(address: SocketAddr, count: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = || {
            let (stop, answered) = (stop.clone(), answered.clone());
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match ask(address).await {
                        Ok(_) => _ = answered.fetch_add(1, Ordering::Relaxed),
                        Err(error) => failed.push(error),
                    }
                }
                failed
            })
        };
        let clients = (0..count).map(|_| client()).collect();
        Self { stop, answered, clients }
    }

    /// Until this many more have been answered.
    pub async fn some_more(&self, count: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        eventually("more answers", || self.answered.load(Ordering::Relaxed) >= goal).await;
    }

    pub async fn stop(self) -> Figures {
        self.stop.store(true, Ordering::Relaxed);
        let mut failed = Vec::new();
        for client in self.clients {
            failed.extend(client.await.expect("no panic"));
        }
        Figures { answered: self.answered.load(Ordering::Relaxed), failed }
    }
}

/// A server that sends back what it gets.
pub struct Echo {
    address: SocketAddr,
}

impl Echo {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                    while let Some(Ok(message)) = socket.next().await {
                        if message.is_binary() && socket.send(message).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address }
    }

    /// As logs name it.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub fn route(&self) -> String {
        format!(
            "[[route]]\npath = \"/ws\"\nupstream = \"ws://{}\"\nwebsocket = {{ origins = [\"*\"] }}\n",
            self.address
        )
    }
}

pub type Tunnel = WebSocketStream<TcpStream>;

pub async fn connect(address: SocketAddr) -> Tunnel {
    let stream = TcpStream::connect(address).await.expect("it listens");
    let request = "ws://a.test/ws".into_client_request().expect("a request");
    tokio_tungstenite::client_async(request, stream).await.expect("a tunnel").0
}

/// The code of the Close with which a tunnel ends.
pub async fn close_code(tunnel: &mut Tunnel) -> Option<u16> {
    let end = async {
        loop {
            match tunnel.next().await {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                Some(Ok(_)) => {}
                _ => return None,
            }
        }
    };
    tokio::time::timeout(PATIENCE, end).await.expect("an end")
}

/// A tunnel with messages of many sizes, each of which has to come back as it was.
pub struct Talking {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    client: JoinHandle<()>,
}

impl Talking {
    pub async fn start(address: SocketAddr, seed: usize) -> Self {
        let mut tunnel = connect(address).await;
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counter) = (stop.clone(), count.clone());
        let client = tokio::spawn(async move {
            let mut number = seed;
            while !stopped.load(Ordering::Relaxed) {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let message: Vec<u8> = (0..(number >> 33) % 70_000).map(|at| (at ^ number) as u8).collect();
                tunnel.send(Message::binary(message.clone())).await.expect("sent");
                let back = tokio::time::timeout(PATIENCE, tunnel.next()).await.expect("in time");
                assert!(back.expect("open").expect("whole").into_data() == message, "another message has come back");
                counter.fetch_add(1, Ordering::Relaxed);
            }
            tunnel.close(None).await.expect("closed");
            assert_eq!(close_code(&mut tunnel).await, None, "nothing but the answer to our own Close");
        });
        Self { stop, count, client }
    }

    pub async fn some_more(&self, count: usize) {
        let goal = self.count.load(Ordering::Relaxed) + count;
        let is_over = || self.client.is_finished() || self.count.load(Ordering::Relaxed) >= goal;
        eventually("more messages", is_over).await;
        assert!(!self.client.is_finished(), "its tunnel has ended");
    }

    /// How many messages came back.
    pub async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.client.await.expect("no message was lost or changed");
        self.count.load(Ordering::Relaxed)
    }
}
