//! From a server's address to a connected stream, TLS included, under one deadline.

use std::io;
use std::task::{Context, Poll};

use tokio::net::{TcpStream, UnixStream};

use super::definition::Definition;
use super::failure::Failure;
use super::server::Server;
use crate::config::model::ServerAddress;
use crate::tls::ClientTlsStream;
use crate::transport::{Socket, Transport, delegate_io};

/// Connects to one of the upstream's servers.
pub(super) async fn dial(upstream: &Definition, server: &Server) -> Result<UpstreamStream, Failure> {
    tokio::time::timeout(upstream.connect_timeout, connect(server)).await.unwrap_or(Err(Failure::ConnectTimeout))
}

async fn connect(server: &Server) -> Result<UpstreamStream, Failure> {
    let socket = connect_socket(&server.address).await.map_err(Failure::Connect)?;
    let Some((name, tls)) = &server.tls else {
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

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Clear(socket) => socket.poll_reset(cx),
            Self::Tls(stream) => stream.poll_reset(cx),
        }
    }

    fn as_socket(&self) -> Option<&Socket> {
        match self {
            Self::Clear(socket) => Some(socket),
            Self::Tls(_) => None,
        }
    }
}

delegate_io!(UpstreamStream { Clear, Tls });
