//! Clients with a tunnel each: every message must come back whole and in order, and who loses a tunnel opens another.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

#[derive(Default)]
struct Shared {
    /// Tunnels by server.
    on: HashMap<String, usize>,
    opened: usize,
    refused: usize,
    moved: usize,
    messages: usize,
    damaged: usize,
}

pub struct Tunnels {
    shared: Arc<Mutex<Shared>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

/// What became of them.
pub struct Kept {
    pub opened: usize,
    pub refused: usize,
    pub moved: usize,
    pub messages: usize,
    /// Messages that came back changed, or that never came on a tunnel that stayed open.
    pub damaged: usize,
    pub open: usize,
}

impl fmt::Display for Kept {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { opened, refused, moved, messages, damaged, open } = self;
        write!(
            out,
            "{opened} tunnels opened ({refused} refused), {moved} moved, {open} open at the end, {messages} messages, \
             {damaged} damaged"
        )
    }
}

impl Tunnels {
    pub async fn open(gateway: SocketAddr, count: usize) -> Self {
        let shared = Arc::<Mutex<Shared>>::default();
        let stop = Arc::<AtomicBool>::default();
        let clients = (0..count).map(|_| tokio::spawn(client(gateway, shared.clone(), stop.clone()))).collect();
        let tunnels = Self { shared, stop, clients };
        let end = std::time::Instant::now() + Duration::from_secs(15);
        while tunnels.shared.lock().expect("whole").on.values().sum::<usize>() < count {
            assert!(std::time::Instant::now() < end, "not all tunnels are open");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tunnels
    }

    /// How many are on this server now.
    pub fn on(&self, server: &str) -> usize {
        self.shared.lock().expect("whole").on.get(server).copied().unwrap_or(0)
    }

    pub fn moved(&self) -> usize {
        self.shared.lock().expect("whole").moved
    }

    pub async fn close(self) -> Kept {
        let open = self.shared.lock().expect("whole").on.values().sum();
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("no client panics");
        }
        let Shared { opened, refused, moved, messages, damaged, .. } = *self.shared.lock().expect("whole");
        Kept { opened, refused, moved, messages, damaged, open }
    }
}

async fn client(gateway: SocketAddr, shared: Arc<Mutex<Shared>>, stop: Arc<AtomicBool>) {
    let mut had_one = false;
    while !stop.load(Ordering::Relaxed) {
        let Ok((socket, server)) = connect(gateway).await else {
            shared.lock().expect("whole").refused += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        {
            let mut shared = shared.lock().expect("whole");
            shared.opened += 1;
            shared.moved += usize::from(had_one);
            *shared.on.entry(server.clone()).or_default() += 1;
        }
        had_one = true;
        talk(socket, &shared, &stop).await;
        *shared.lock().expect("whole").on.entry(server).or_default() -= 1;
    }
}

async fn connect(gateway: SocketAddr) -> Result<(WebSocketStream<TcpStream>, String), Error> {
    let stream = TcpStream::connect(gateway).await.map_err(Error::Io)?;
    let request = format!("ws://{gateway}/socket").into_client_request()?;
    let (socket, answer) = tokio_tungstenite::client_async(request, stream).await?;
    let server = answer.headers().get("x-server").and_then(|name| name.to_str().ok()).unwrap_or_default().to_owned();
    Ok((socket, server))
}

/// Until the tunnel ends or the test does.
async fn talk(mut socket: WebSocketStream<TcpStream>, shared: &Mutex<Shared>, stop: &AtomicBool) {
    for number in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            let _ = socket.close(None).await;
            return;
        }
        let sent = Message::text(format!("{number} {}", "x".repeat(number * 37 % 3000)));
        if socket.send(sent.clone()).await.is_err() {
            return;
        }
        // A stopped server answers when it goes on.
        match tokio::time::timeout(Duration::from_secs(10), socket.next()).await {
            Ok(Some(Ok(received))) if received == sent => shared.lock().expect("whole").messages += 1,
            Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => return,
            Ok(Some(Ok(_))) | Err(_) => {
                shared.lock().expect("whole").damaged += 1;
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
