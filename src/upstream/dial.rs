//! From a server's address to a connected stream, TLS included, under one deadline.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::definition::Definition;
use super::failure::Failure;
use crate::config::model::ServerAddress;
use crate::tls::ClientTlsStream;
use crate::transport::{Socket, Transport};

/// Connects to one of the upstream's servers.
pub(super) async fn dial(upstream: &Definition, server: usize) -> Result<UpstreamStream, Failure> {
    tokio::time::timeout(upstream.connect_timeout, connect(upstream, server))
        .await
        .unwrap_or(Err(Failure::ConnectTimeout))
}

async fn connect(upstream: &Definition, server: usize) -> Result<UpstreamStream, Failure> {
    let definition = &upstream.servers[server];
    let socket = connect_socket(&definition.address).await.map_err(Failure::Connect)?;
    let (Some(name), Some(tls)) = (&definition.tls_name, &upstream.tls) else {
        return Ok(UpstreamStream::Clear(socket));
    };
    match tls.connect(name, socket).await {
        Ok(stream) => Ok(UpstreamStream::Tls(Box::new(stream))),
        Err(error) => Err(Failure::Tls(error.to_string())),
    }
}

async fn connect_socket(address: &ServerAddress) -> io::Result<Socket> {
    let socket = match address {
        ServerAddress::Ip(address) => Socket::Tcp(TcpStream::connect(address).await?),
        // getaddrinfo runs on the runtime's blocking pool; each address is tried in turn.
        ServerAddress::Name(name, port) => Socket::Tcp(TcpStream::connect((&**name, *port)).await?),
        ServerAddress::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
    };
    socket.set_nodelay()?;
    Ok(socket)
}

/// A connection to a server.
pub enum UpstreamStream {
    Clear(Socket),
    Tls(Box<ClientTlsStream>),
}

impl UpstreamStream {
    /// Whether the server has sent something or gone while nobody was reading.
    pub(super) fn has_input_or_end(&self) -> bool {
        match self {
            Self::Clear(socket) => socket.has_input_or_end(),
            Self::Tls(stream) => stream.socket().has_input_or_end(),
        }
    }
}

impl Transport for UpstreamStream {
    fn abort(&mut self) {
        match self {
            Self::Clear(socket) => socket.abort(),
            Self::Tls(stream) => stream.abort(),
        }
    }

    fn as_socket(&self) -> Option<&Socket> {
        match self {
            Self::Clear(socket) => Some(socket),
            Self::Tls(_) => None,
        }
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
