//! A client's connection: TCP, TLS where asked for, the WebSocket handshake.
//!
//! TLS is 1.3 with AES-128-GCM and X25519 (or the hybrid with ML-KEM), which the client dictates by offering nothing
//! else: every proxy then does the same cryptography whatever its own preferences are.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::args::{Args, Problem};
use crate::{h2, ws};

/// The provider both sides of a measurement use.
pub fn provider(hybrid: bool) -> CryptoProvider {
    let group = if hybrid { aws_lc_rs::kx_group::X25519MLKEM768 } else { aws_lc_rs::kx_group::X25519 };
    CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![group],
        ..aws_lc_rs::default_provider()
    }
}

/// Where to connect, and how.
#[derive(Clone)]
pub struct Dial {
    target: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    host: String,
    /// Whether TLS offers HTTP/2 and nothing else.
    pub h2: bool,
}

impl Dial {
    pub fn new(args: &mut Args) -> Result<Self, Problem> {
        let target: SocketAddr = args.required("target")?;
        let name: String = args.or("name", "localhost".to_owned())?;
        let authority: Option<String> = args.optional("tls")?;
        let kx: String = args.or("kx", "x25519".to_owned())?;
        let resume = args.flag("resume");
        let h2 = args.flag("h2");
        let hybrid = match kx.as_str() {
            "x25519" => false,
            "hybrid" => true,
            _ => return Err("--kx is x25519 or hybrid".into()),
        };
        let tls = match authority {
            None if h2 => return Err("--h2 wants --tls".into()),
            None => None,
            Some(file) => {
                Some((TlsConnector::from(config(&[file], hybrid, resume, h2)?), ServerName::try_from(name.clone())?))
            }
        };
        Ok(Self { target, tls, host: name, h2 })
    }

    /// In the clear, over HTTP/1.1.
    pub fn clear(target: SocketAddr) -> Self {
        Self { target, tls: None, host: "localhost".to_owned(), h2: false }
    }

    /// With TLS over HTTP/1.1, to whoever has a certificate of one of these authorities.
    pub fn secure(target: SocketAddr, authorities: &[String]) -> Result<Self, Problem> {
        let name = ServerName::try_from("localhost")?;
        let connector = TlsConnector::from(config(authorities, false, false, false)?);
        Ok(Self { target, tls: Some((connector, name)), host: "localhost".to_owned(), h2: false })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP and nothing on top.
    pub async fn tcp(&self) -> io::Result<TcpStream> {
        let tcp = TcpStream::connect(self.target).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    pub async fn connect(&self) -> io::Result<Stream> {
        let tcp = self.tcp().await?;
        match &self.tls {
            None => Ok(Stream::Tcp(tcp)),
            Some((connector, name)) => connector.connect(name.clone(), tcp).await.map(|tls| Stream::Tls(Box::new(tls))),
        }
    }

    /// A tunnel: 101 has arrived.
    pub async fn tunnel(&self, path: &str) -> io::Result<Stream> {
        let mut stream = self.connect().await?;
        stream.write_all(&ws::opening(&self.host, path)).await?;
        stream.flush().await?;
        let mut head = Vec::with_capacity(512);
        // What may come right behind the head is for a reader who never reads; all others speak first.
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 || head.len() > 16 * 1024 {
                return Err(io::Error::other("no answer to the WebSocket handshake"));
            }
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
            return Err(io::Error::other(String::from_utf8_lossy(line).into_owned()));
        }
        Ok(stream)
    }
}

fn config(authorities: &[String], hybrid: bool, resume: bool, h2: bool) -> Result<Arc<ClientConfig>, Problem> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        for certificate in CertificateDer::pem_file_iter(authority)? {
            roots.add(certificate?)?;
        }
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider(hybrid)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    if !resume {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

pub enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    H2(Box<h2::Tunnel>),
}

impl Stream {
    /// Whether ALPN says so.
    pub fn speaks_h2(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2"))
    }

    /// What the other side has shown of itself.
    pub fn certificate(&self) -> Option<&[u8]> {
        match self {
            Self::Tls(tls) => tls.get_ref().1.peer_certificates()?.first().map(AsRef::as_ref),
            Self::Tcp(_) | Self::H2(_) => None,
        }
    }

    /// One small message there and back, through a tunnel to an echo.
    pub async fn one_message(&mut self) -> io::Result<()> {
        self.write_all(&ws::masked(ws::BINARY, &[b'x'; 64])).await?;
        self.flush().await?;
        self.read_exact(&mut [0; 66]).await?;
        Ok(())
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::H2(tunnel) => Pin::new(tunnel).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::H2(tunnel) => Pin::new(tunnel).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::H2(tunnel) => Pin::new(tunnel).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::H2(tunnel) => Pin::new(tunnel).poll_shutdown(cx),
        }
    }
}
