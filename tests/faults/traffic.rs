//! Clients that ask without a pause, and what became of each request.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

static IDS: AtomicU64 = AtomicU64::new(1);

/// What became of the requests so far.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub sent: usize,
    pub answered: usize,
    /// GETs, HEADs and PUTs.
    pub idempotent_failed: usize,
    /// POSTs.
    pub others_failed: usize,
    /// Status and reason of failures, or how the connection ended.
    pub reasons: std::collections::BTreeMap<String, usize>,
}

impl Figures {
    pub fn failed(&self) -> usize {
        self.idempotent_failed + self.others_failed
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, answered, idempotent_failed, others_failed, reasons } = self;
        write!(
            out,
            "{sent} requests sent, {answered} answered, failed {idempotent_failed} idempotent and {others_failed} others"
        )?;
        if reasons.is_empty() { Ok(()) } else { write!(out, " {reasons:?}") }
    }
}

pub struct Traffic {
    figures: Arc<Mutex<Figures>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    pub fn start(gateway: SocketAddr, clients: usize) -> Self {
        let figures = Arc::<Mutex<Figures>>::default();
        let stop = Arc::<AtomicBool>::default();
        let clients =
            (0..clients).map(|number| tokio::spawn(client(gateway, number, figures.clone(), stop.clone()))).collect();
        Self { figures, stop, clients }
    }

    pub fn figures(&self) -> Figures {
        self.figures.lock().expect("whole figures").clone()
    }

    /// Lets every client get its last answer.
    pub async fn stop(self) -> Figures {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("no client panics");
        }
        let figures = self.figures.lock().expect("whole figures").clone();
        assert_eq!(figures.sent, figures.answered + figures.failed(), "{figures}");
        figures
    }
}

async fn client(gateway: SocketAddr, number: usize, figures: Arc<Mutex<Figures>>, stop: Arc<AtomicBool>) {
    // Every fourth request may not be repeated.
    let methods = ["GET", "PUT", "GET", "POST"];
    let turn = AtomicUsize::new(number);
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let method = methods[turn.fetch_add(1, Ordering::Relaxed) % methods.len()];
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        figures.lock().expect("whole figures").sent += 1;
        let asked = tokio::time::timeout(std::time::Duration::from_secs(10), ask(&mut connection, gateway, method, id));
        let outcome = asked.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
        let failure = match outcome {
            Ok(Answer { status: 200, body, .. }) if body.ends_with(&format!(" {id}")) => None,
            Ok(Answer { status, reason, body }) => Some(format!("{status} {reason} {body}")),
            Err(error) => Some(error.to_string()),
        };
        let mut figures = figures.lock().expect("whole figures");
        match failure {
            None => figures.answered += 1,
            Some(why) => {
                connection = None;
                *figures.reasons.entry(format!("{method}: {}", why.trim())).or_default() += 1;
                if method == "POST" { figures.others_failed += 1 } else { figures.idempotent_failed += 1 }
            }
        }
    }
}

struct Answer {
    status: u16,
    reason: String,
    body: String,
}

async fn ask(connection: &mut Option<TcpStream>, gateway: SocketAddr, method: &str, id: u64) -> io::Result<Answer> {
    let socket = match connection {
        Some(socket) => socket,
        None => connection.insert(TcpStream::connect(gateway).await?),
    };
    // What has a body is never repeated: so PUT goes without one here.
    let body = if method == "POST" { "Content-Length: 4\r\n\r\nbody" } else { "\r\n" };
    socket.write_all(format!("{method} /work/{id} HTTP/1.1\r\nHost: test\r\n{body}").as_bytes()).await?;
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        more(socket, &mut read).await?;
    };
    let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
    let field =
        |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    let length: usize = field("content-length:").parse().unwrap_or(0);
    while read.len() < end + length {
        more(socket, &mut read).await?;
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    if head.contains("connection: close") {
        *connection = None;
    }
    let body = String::from_utf8_lossy(&read[end..]).into_owned();
    Ok(Answer { status, reason: field("x-portcullis-reason:"), body })
}

async fn more(socket: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<()> {
    match socket.read_buf(read).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
