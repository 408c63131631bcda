//! From a server to a connected stream, TLS included, under one deadline.
//!
//! Where the server is says its location (`place.rs`); which of its addresses answers first, and from which local address,
//! is the business of `source.rs` and `race.rs`. Dropping the future closes what was begun.

use std::net::SocketAddr;
use std::task::{Context, Poll};

use tokio::net::UnixStream;

use super::definition::Definition;
use super::failure::Failure;
use super::place::Location;
use super::ports::PortGuard;
use super::server::Server;
use crate::clock::{self, Instant};
use crate::tls::ClientTlsStream;
use crate::transport::{Socket, Transport, delegate_io};

/// Connects to one of the upstream's servers.
pub(super) async fn dial(upstream: &Definition, server: &Server) -> Result<UpstreamStream, Failure> {
    let deadline = clock::now() + upstream.connect_timeout;
    let (socket, port) = connect(server, deadline).await?;
    socket.set_nodelay().map_err(Failure::Connect)?;
    let Some((name, tls)) = &server.tls else {
        return Ok(UpstreamStream::Clear(socket, port));
    };
    match tokio::time::timeout_at(deadline, tls.connect(name, socket)).await {
        Ok(Ok(stream)) => Ok(UpstreamStream::Tls(Box::new(stream), port)),
        Ok(Err(error)) => Err(Failure::Tls(error.to_string())),
        Err(_) => Err(Failure::ConnectTimeout("the TLS handshake took too long".to_owned())),
    }
}

async fn connect(server: &Server, deadline: Instant) -> Result<(Socket, Option<PortGuard>), Failure> {
    let connected = match &server.location {
        Location::Fixed(addresses) => addresses.connect(deadline).await,
        Location::Unix(path) => return connect_unix(path, deadline).await.map(|socket| (socket, None)),
        Location::Named => match tokio::time::timeout_at(deadline, server.state.whereabouts().known()).await {
            Ok(Ok(addresses)) => addresses.connect(deadline).await,
            Ok(Err(nowhere)) => return Err(Failure::nowhere(nowhere)),
            Err(_) => return Err(Failure::unresolved()),
        },
    };
    match connected {
        Ok((stream, port)) => Ok((Socket::Tcp(stream), Some(port))),
        Err(unreachable) => Err(Failure::from_race(unreachable)),
    }
}

async fn connect_unix(path: &std::path::Path, deadline: Instant) -> Result<Socket, Failure> {
    match tokio::time::timeout_at(deadline, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => Ok(Socket::Unix(stream)),
        Ok(Err(error)) => Err(Failure::Connect(error)),
        Err(_) => Err(Failure::ConnectTimeout(format!("{}: timed out", path.display()))),
    }
}

/// A connection to a server, with the local port that it takes.
pub enum UpstreamStream {
    Clear(Socket, Option<PortGuard>),
    Tls(Box<ClientTlsStream>, Option<PortGuard>),
}

impl UpstreamStream {
    /// `None`: a unix socket.
    pub(super) fn destination(&self) -> Option<SocketAddr> {
        let (Self::Clear(_, port) | Self::Tls(_, port)) = self;
        port.as_ref().map(PortGuard::destination)
    }

    /// Whether the server has sent something or gone while nobody was reading.
    pub(super) fn has_input_or_end(&self) -> bool {
        match self {
            Self::Clear(socket, _) => socket.has_input_or_end(),
            Self::Tls(stream, _) => stream.socket().has_input_or_end(),
        }
    }
}

impl Transport for UpstreamStream {
    fn abort(&mut self) {
        match self {
            Self::Clear(socket, _) => socket.abort(),
            Self::Tls(stream, _) => stream.abort(),
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Clear(socket, _) => socket.poll_reset(cx),
            Self::Tls(stream, _) => stream.poll_reset(cx),
        }
    }

    fn as_socket(&self) -> Option<&Socket> {
        match self {
            Self::Clear(socket, _) => Some(socket),
            Self::Tls(..) => None,
        }
    }
}

delegate_io!(UpstreamStream { Clear, Tls });
