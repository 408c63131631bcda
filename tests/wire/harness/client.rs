//! A client of HTTP/1.1 that writes what it is told and reads byte for byte.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::frames::read_frame;
use super::stream::Wire;
use super::{Answer, ClientKind, End, Frame, Handshake, Head, Request, Stream, pki, within};

/// How a client opens TLS.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    pub name: String,
    pub send_sni: bool,
    pub alpn: Vec<&'static str>,
    pub certificate: Option<ClientKind>,
    /// TLS 1.2 and nothing newer.
    pub tls12: bool,
    /// What is sent before TLS begins, in one segment with its first bytes.
    pub introduction: Vec<u8>,
}

impl TlsOptions {
    /// SNI `name`, ALPN `http/1.1`, no certificate.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            send_sni: true,
            alpn: vec!["http/1.1"],
            certificate: None,
            tls12: false,
            introduction: Vec::new(),
        }
    }

    pub fn alpn(mut self, alpn: &[&'static str]) -> Self {
        self.alpn = alpn.to_vec();
        self
    }

    pub fn certificate(mut self, kind: ClientKind) -> Self {
        self.certificate = Some(kind);
        self
    }

    pub fn tls12(mut self) -> Self {
        self.tls12 = true;
        self
    }

    pub fn without_sni(mut self) -> Self {
        self.send_sni = false;
        self
    }
}

/// An answer that ended before its end.
#[derive(Debug)]
pub struct Broken {
    /// What had come of it; `None`: not even a head.
    pub answer: Option<Answer>,
}

pub struct Client {
    stream: Stream,
}

impl Client {
    pub async fn clear(address: SocketAddr) -> Self {
        let socket = within("a TCP connection", TcpStream::connect(address)).await.expect("a listener");
        Self { stream: Stream::new(Wire::Clear(socket), None) }
    }

    /// Fails the test when TLS fails.
    pub async fn tls(address: SocketAddr, options: &TlsOptions) -> Self {
        Self::try_tls(address, options).await.expect("a TLS handshake")
    }

    pub async fn try_tls(address: SocketAddr, options: &TlsOptions) -> io::Result<Self> {
        Self::tls_over(within("a TCP connection", TcpStream::connect(address)).await?, options).await
    }

    /// On a connection that has been made.
    pub async fn tls_over(socket: TcpStream, options: &TlsOptions) -> io::Result<Self> {
        if !options.introduction.is_empty() {
            // Waits for what TLS writes.
            rustix::net::send(&socket, &options.introduction, rustix::net::SendFlags::MORE)?;
        }
        let config = pki().client_config(options);
        let name = ServerName::try_from(options.name.clone()).expect("a server name");
        let connector = TlsConnector::from(Arc::new(config));
        let tls = within("a TLS handshake", connector.connect(name, socket)).await?;
        Ok(Self { stream: Stream::new(Wire::Tls(Box::new(tls.into())), None) })
    }

    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// The protocol that ALPN chose.
    pub fn alpn(&self) -> Option<String> {
        let session = self.stream.tls()?.get_ref().1;
        session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// The server's own certificate.
    pub fn certificate(&self) -> Vec<u8> {
        let session = self.stream.tls().expect("a TLS connection").get_ref().1;
        session.peer_certificates().and_then(|chain| chain.first()).expect("a certificate").to_vec()
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("room to write", self.stream.write(bytes.as_ref())).await.expect("an open connection");
    }

    /// Writes where the other side may be gone already.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within("room to write", self.stream.write(bytes.as_ref())).await
    }

    pub async fn head(&mut self) -> Head {
        within("the head of an answer", self.stream.head()).await.expect("the head of an answer")
    }

    pub async fn exact(&mut self, count: usize) -> Vec<u8> {
        within("bytes", self.stream.exact(count)).await.expect("bytes")
    }

    pub async fn frame(&mut self) -> Frame {
        within("a frame", read_frame(&mut self.stream)).await.expect("a frame")
    }

    /// A whole answer to a request with this method.
    pub async fn try_answer(&mut self, method: &str) -> Result<Answer, Broken> {
        let head = match within("the head of an answer", self.stream.head()).await {
            Ok(head) => head,
            Err(_) => return Err(Broken { answer: None }),
        };
        let (status, fields) = (head.status(), head.fields);
        let mut answer = Answer { status, fields, body: Vec::new(), trailers: Vec::new() };
        match within("the body of an answer", self.stream.answer_body(&mut answer, method)).await {
            Ok(()) => Ok(answer),
            Err(_) => Err(Broken { answer: Some(answer) }),
        }
    }

    /// A whole answer to a request that is not a HEAD.
    pub async fn answer(&mut self) -> Answer {
        self.try_answer("GET").await.expect("a whole answer")
    }

    pub async fn ask(&mut self, request: &Request) -> Answer {
        self.send(request.to_h1()).await;
        self.try_answer(&request.method).await.expect("a whole answer")
    }

    /// Sends a handshake and fails the test unless the tunnel opens; the head of the 101.
    pub async fn open(&mut self, handshake: &Handshake) -> Head {
        self.send(handshake.to_h1()).await;
        let head = self.head().await;
        assert_eq!(head.status(), 101, "{head:?}");
        head
    }

    /// Sends a text message and fails the test unless it comes back.
    pub async fn echo(&mut self, text: &str) {
        self.send(Frame::text(text).masked().bytes()).await;
        assert_eq!(self.frame().await, Frame::text(text));
    }

    /// Everything up to the end.
    pub async fn rest(&mut self) -> (Vec<u8>, End) {
        match within("the end of the connection", self.stream.rest()).await {
            Ok(rest) => rest,
            Err(error) => panic!("{error}"),
        }
    }

    /// Fails unless the connection ends without another byte.
    #[track_caller]
    pub fn expect_end(&mut self) -> impl Future<Output = End> + '_ {
        let place = std::panic::Location::caller();
        async move {
            let (rest, end) = self.rest().await;
            assert!(rest.is_empty(), "{place}: {:?} instead of the end", String::from_utf8_lossy(&rest));
            end
        }
    }

    /// Nothing but the end, or answers that a test judges: statuses until the connection is closed by the other side.
    pub async fn statuses_until_end(&mut self) -> Vec<u16> {
        let mut statuses = Vec::new();
        loop {
            match self.try_answer("GET").await {
                Ok(answer) => statuses.push(answer.status),
                Err(Broken { answer: Some(answer), .. }) => statuses.push(answer.status),
                Err(_) => return statuses,
            }
        }
    }

    /// The statuses of the next answers, fewer where the connection ends.
    pub async fn try_statuses(&mut self, count: usize) -> Vec<u16> {
        let mut statuses = Vec::new();
        while statuses.len() < count
            && let Ok(answer) = self.try_answer("GET").await
        {
            statuses.push(answer.status);
        }
        statuses
    }

    pub async fn finish(&mut self) {
        within("a FIN", self.stream.finish()).await.expect("an open connection");
    }

    pub fn reset(self) {
        self.stream.reset();
    }
}
