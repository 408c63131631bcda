//! A connection read byte for byte, clear or over TLS, with an optional record of all that arrived.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::{Answer, Fields, Head};

/// How the other side ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Not yet.
    Open,
    /// FIN; over TLS with close_notify before it.
    Fin,
    /// Over TLS a FIN without close_notify.
    Truncated,
    Reset,
}

/// A socket, with TLS or without.
pub enum Wire {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Clear(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// All that a backend has seen on one connection.
#[derive(Debug)]
pub struct Record {
    bytes: Mutex<Vec<u8>>,
    heads: Mutex<Vec<Head>>,
    end: Mutex<End>,
    /// The heads of all connections of the backend, in the order of arrival.
    all_heads: Heads,
}

pub type Heads = Arc<Mutex<Vec<Head>>>;

impl Record {
    pub fn new(all_heads: Heads) -> Self {
        Self { bytes: Mutex::default(), heads: Mutex::default(), end: Mutex::new(End::Open), all_heads }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().expect("a whole record").clone()
    }

    pub fn heads(&self) -> Vec<Head> {
        self.heads.lock().expect("a whole record").clone()
    }

    pub fn end(&self) -> End {
        *self.end.lock().expect("a whole record")
    }

    pub fn is_over(&self) -> bool {
        self.end() != End::Open
    }
}

pub struct Stream {
    wire: Wire,
    buffer: Vec<u8>,
    end: End,
    record: Option<Arc<Record>>,
}

impl Stream {
    pub fn new(wire: Wire, record: Option<Arc<Record>>) -> Self {
        let _ = wire.tcp().set_nodelay(true);
        Self { wire, buffer: Vec::new(), end: End::Open, record }
    }

    /// How many bytes have come that nobody has taken.
    pub fn ahead(&self) -> usize {
        self.buffer.len()
    }

    /// Whether nothing more comes for so long; what comes stays to be read.
    pub async fn silent_for(&mut self, millis: u64) -> bool {
        let limit = std::time::Duration::from_millis(millis);
        self.ahead() == 0 && tokio::time::timeout(limit, self.fill()).await.is_err()
    }

    /// The wire with nothing read ahead, for a protocol library.
    pub fn into_wire(self) -> Wire {
        assert!(self.buffer.is_empty(), "bytes were read ahead");
        self.wire
    }

    /// One read into the buffer; false at the end, which is then in `end`.
    pub async fn fill(&mut self) -> io::Result<bool> {
        let mut scratch = vec![0; 64 * 1024];
        let end = match self.wire.read(&mut scratch).await {
            Ok(0) => End::Fin,
            Ok(count) => {
                self.buffer.extend(&scratch[..count]);
                if let Some(record) = &self.record {
                    record.bytes.lock().expect("a whole record").extend(&scratch[..count]);
                }
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => End::Truncated,
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                End::Reset
            }
            Err(error) => return Err(error),
        };
        self.end = end;
        if let Some(record) = &self.record {
            *record.end.lock().expect("a whole record") = end;
        }
        Ok(false)
    }

    async fn need(&mut self, count: usize) -> io::Result<()> {
        while self.buffer.len() < count {
            if !self.fill().await? {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{:?}", self.end)));
            }
        }
        Ok(())
    }

    pub async fn exact(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.need(count).await?;
        Ok(self.buffer.drain(..count).collect())
    }

    /// What is there, or what comes next; empty at the end.
    pub async fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.buffer[seen..].windows(2).position(|two| two == b"\r\n") {
                return Ok(self.buffer.drain(..seen + at + 2).collect());
            }
            seen = self.buffer.len().saturating_sub(1);
            self.need(self.buffer.len() + 1).await?;
        }
    }

    /// A head up to and with its empty line.
    pub async fn head(&mut self) -> io::Result<Head> {
        let mut raw = Vec::new();
        loop {
            let line = self.line().await?;
            raw.extend(&line);
            if line == b"\r\n" && raw.len() > 2 {
                break;
            }
        }
        let head = Head::parse(&raw);
        if let Some(record) = &self.record {
            record.heads.lock().expect("a whole record").push(head.clone());
            record.all_heads.lock().expect("a whole record").push(head.clone());
        }
        Ok(head)
    }

    /// A chunked body and its trailers.
    async fn chunked(&mut self, body: &mut Vec<u8>) -> io::Result<Vec<(String, String)>> {
        loop {
            let line = self.line().await?;
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            let size = usize::from_str_radix(text.split(';').next().unwrap_or(""), 16).map_err(io::Error::other)?;
            if size == 0 {
                break;
            }
            self.partial(size, body).await?;
            let end = self.exact(2).await?;
            assert_eq!(end, b"\r\n", "a chunk of {size} bytes does not end where it says");
        }
        let mut raw = b"trailers\r\n".to_vec();
        loop {
            let line = self.line().await?;
            raw.extend(&line);
            if line == b"\r\n" {
                return Ok(Head::parse(&raw).fields);
            }
        }
    }

    /// Exactly `count` bytes; those that came before an early end stay in `body`.
    async fn partial(&mut self, count: usize, body: &mut Vec<u8>) -> io::Result<()> {
        let wanted = body.len() + count;
        loop {
            let take = (wanted - body.len()).min(self.buffer.len());
            body.extend(self.buffer.drain(..take));
            if body.len() == wanted {
                return Ok(());
            }
            self.need(1).await?;
        }
    }

    /// The body of a request, and its trailers.
    pub async fn request_body(&mut self, head: &Head) -> io::Result<(Vec<u8>, Vec<(String, String)>)> {
        let mut body = Vec::new();
        let mut trailers = Vec::new();
        if head.lists("transfer-encoding", "chunked") {
            assert!(!head.has("content-length"), "both framings in one request: {head:?}");
            trailers = self.chunked(&mut body).await?;
        } else if let Some(length) = head.get("content-length") {
            self.partial(length.parse().map_err(io::Error::other)?, &mut body).await?;
        }
        Ok((body, trailers))
    }

    /// The body that belongs to the head of an answer; on an error `answer.body` holds what had come.
    pub async fn answer_body(&mut self, answer: &mut Answer, method: &str) -> io::Result<()> {
        if method == "HEAD" || matches!(answer.status, 100..=199 | 204 | 304) {
            return Ok(());
        }
        if answer.lists("transfer-encoding", "chunked") {
            let trailers = self.chunked(&mut answer.body).await?;
            answer.trailers = trailers;
            return Ok(());
        }
        if let Some(length) = answer.get("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            return self.partial(length, &mut answer.body).await;
        }
        let (rest, end) = self.rest().await?;
        answer.body = rest;
        match end {
            End::Fin => Ok(()),
            other => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{other:?}"))),
        }
    }

    /// Everything up to the end, and how it ended.
    pub async fn rest(&mut self) -> io::Result<(Vec<u8>, End)> {
        while self.end == End::Open && self.fill().await? {}
        Ok((std::mem::take(&mut self.buffer), self.end))
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write_all(bytes).await?;
        self.wire.flush().await
    }

    /// FIN, over TLS with close_notify.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.wire.shutdown().await
    }

    /// RST.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(self.wire.tcp()).set_linger(Some(std::time::Duration::ZERO));
    }

    /// Peer's certificate chain, ALPN: the TLS session, where there is one.
    pub fn tls(&self) -> Option<&TlsStream<TcpStream>> {
        match &self.wire {
            Wire::Clear(_) => None,
            Wire::Tls(tls) => Some(tls),
        }
    }
}
