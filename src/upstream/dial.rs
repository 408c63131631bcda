//! From a server to a connected stream, PROXY header and TLS included, under one deadline.
//!
//! Where the server is says its location (`whereabouts.rs`); which of its addresses answers first, and from which local address,
//! is the business of `source.rs` and `race.rs`. Dropping the future closes what was begun.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::definition::Definition;
use super::failure::Failure;
use super::http2::StreamTransport;
use super::own_doors;
use super::ports::LinkGuard;
use super::server::Server;
use super::whereabouts::Location;
use crate::clock::Instant;
use crate::proto::proxy_protocol::{self, Addresses, Sender, Version};
use crate::tls::{ClientTlsStream, Offer};
use crate::transport::{Socket, Transport, delegate_io};

/// Connects to one of the upstream's servers before `deadline`, for `sender`. `offer` is for servers with TLS.
pub(super) async fn dial(
    upstream: &Definition,
    server: &Server,
    sender: Sender,
    offer: Offer,
    deadline: Instant,
) -> Result<UpstreamStream, Failure> {
    let dialled = dial_once(upstream, server, sender, offer, deadline).await;
    if dialled.is_err() {
        // Its name may stand for something else by now.
        server.doubt.notify_waiters();
    }
    dialled
}

async fn dial_once(
    upstream: &Definition,
    server: &Server,
    sender: Sender,
    offer: Offer,
    deadline: Instant,
) -> Result<UpstreamStream, Failure> {
    let header = upstream.proxy_protocol.map(|version| (version, sender));
    let (socket, link) = connect(server, deadline).await?;
    if let Socket::Tcp(stream) = &socket
        && own_doors::leads_in(stream)
    {
        return Err(Failure::Connect(io::Error::other("this is the gateway's own admin listener")));
    }
    server.state.note_opened();
    socket.set_nodelay().map_err(Failure::Connect)?;
    if header.is_none() && server.tls.is_none() {
        return Ok(UpstreamStream::Clear(socket, link));
    }
    match tokio::time::timeout_at(deadline, settle(server, socket, link, header, offer)).await {
        Ok(settled) => settled,
        Err(_) => {
            let what = if server.tls.is_some() { "TLS handshake" } else { "PROXY header" };
            Err(Failure::ConnectTimeout(format!("connected, but the {what} took too long")))
        }
    }
}

/// Everything between the connection and the first byte of a request.
async fn settle(
    server: &Server,
    mut socket: Socket,
    link: LinkGuard,
    header: Option<(Version, Sender)>,
    offer: Offer,
) -> Result<UpstreamStream, Failure> {
    if let Some((version, sender)) = header {
        // Nothing of a request has been written when this fails.
        introduce(&mut socket, version, sender).await.map_err(Failure::Connect)?;
    }
    let Some((name, tls)) = &server.tls else {
        return Ok(UpstreamStream::Clear(socket, link));
    };
    match tls.connect(name, offer, socket).await {
        Ok(stream) => Ok(UpstreamStream::Tls(Box::new(stream), link)),
        Err(error) => Err(Failure::Tls(error.to_string())),
    }
}

async fn connect(server: &Server, deadline: Instant) -> Result<(Socket, LinkGuard), Failure> {
    let connected = match &server.location {
        Location::Fixed(addresses) => addresses.connect(deadline).await,
        Location::Unix(path, link) => {
            let guard = link.take();
            return connect_unix(path, deadline).await.map(|socket| (socket, guard));
        }
        Location::Named => match tokio::time::timeout_at(deadline, server.state.whereabouts().known()).await {
            Ok(Ok(addresses)) => addresses.connect(deadline).await,
            Ok(Err(nowhere)) => return Err(Failure::nowhere(nowhere)),
            Err(_) => return Err(Failure::unresolved()),
        },
    };
    match connected {
        Ok((stream, link)) => Ok((Socket::Tcp(stream), link)),
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

async fn introduce(socket: &mut Socket, version: Version, sender: Sender) -> io::Result<()> {
    let sender = match (version, sender) {
        // Version 1 has no LOCAL, and some receivers refuse UNKNOWN (specification, 2.1).
        (Version::V1, Sender::Local) => Sender::Client(own_addresses(socket)),
        _ => sender,
    };
    socket.write_all(&proxy_protocol::header(version, sender)).await
}

/// Of the connection itself.
fn own_addresses(socket: &Socket) -> Option<Addresses> {
    match socket {
        Socket::Tcp(stream) => {
            Some(Addresses { source: stream.local_addr().ok()?, destination: stream.peer_addr().ok()? })
        }
        Socket::Unix(_) => None,
    }
}

/// A connection to a server, with its place in what is counted of those.
pub enum UpstreamStream {
    Clear(Socket, LinkGuard),
    Tls(Box<ClientTlsStream>, LinkGuard),
    /// A stream of a connection that others use too. Boxed: there are few, and an idle tunnel keeps room for the largest.
    Http2(Box<StreamTransport>),
}

impl UpstreamStream {
    /// `None`: a unix socket, or a stream of a connection that others use too.
    pub(super) fn destination(&self) -> Option<SocketAddr> {
        match self {
            Self::Clear(_, link) | Self::Tls(_, link) => link.destination(),
            Self::Http2(_) => None,
        }
    }

    /// Whether the server has chosen HTTP/2; on a clear connection there is no choice.
    pub(super) fn has_chosen_http2(&self) -> bool {
        matches!(self, Self::Tls(stream, _) if stream.alpn() == Some(b"h2"))
    }

    /// Whether the server has sent something or gone while nobody was reading. Streams are never idle in a pool.
    pub(super) fn has_input_or_end(&self) -> bool {
        match self {
            Self::Clear(socket, _) => socket.has_input_or_end(),
            Self::Tls(stream, _) => stream.socket().has_input_or_end(),
            Self::Http2(_) => true,
        }
    }
}

impl Transport for UpstreamStream {
    fn abort(&mut self) {
        match self {
            Self::Clear(socket, _) => socket.abort(),
            Self::Tls(stream, _) => stream.abort(),
            Self::Http2(stream) => stream.abort(),
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Clear(socket, _) => socket.poll_reset(cx),
            Self::Tls(stream, _) => stream.poll_reset(cx),
            Self::Http2(stream) => stream.poll_reset(cx),
        }
    }

    fn as_socket(&self) -> Option<&Socket> {
        match self {
            Self::Clear(socket, _) => Some(socket),
            Self::Tls(..) | Self::Http2(_) => None,
        }
    }
}

delegate_io!(UpstreamStream { Clear, Tls, Http2 });

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// What is written for `sender` on a connection, and the connection's own ends.
    async fn written(version: Version, sender: Sender) -> (Vec<u8>, Addresses) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let destination = listener.local_addr().expect("an address");
        let mut near = Socket::Tcp(TcpStream::connect(destination).await.expect("connected"));
        let (mut far, source) = listener.accept().await.expect("accepted");
        introduce(&mut near, version, sender).await.expect("taken");
        drop(near);
        let mut header = Vec::new();
        far.read_to_end(&mut header).await.expect("arrives");
        (header, Addresses { source, destination })
    }

    #[tokio::test]
    async fn a_connection_of_our_own_is_said_to_be_that() {
        let (header, addresses) = written(Version::V1, Sender::Local).await;
        assert_eq!(header, proxy_protocol::header(Version::V1, Sender::Client(Some(addresses))));
        let (header, _) = written(Version::V2, Sender::Local).await;
        assert_eq!(header, proxy_protocol::header(Version::V2, Sender::Local));
    }
}
