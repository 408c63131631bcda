//! From a server's address to a connected stream, PROXY header and TLS included, under one deadline.

use std::io;
use std::task::{Context, Poll};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use super::definition::Definition;
use super::failure::Failure;
use super::http2::StreamTransport;
use super::server::Server;
use crate::config::model::ServerAddress;
use crate::proto::proxy_protocol::{self, Addresses, Sender, Version};
use crate::tls::{ClientTlsStream, Offer};
use crate::transport::{Socket, Transport, delegate_io};

/// Connects to one of the upstream's servers, for `sender`. `offer` is for servers with TLS.
pub(super) async fn dial(
    upstream: &Definition,
    server: &Server,
    sender: Sender,
    offer: Offer,
) -> Result<UpstreamStream, Failure> {
    let header = upstream.proxy_protocol.map(|version| (version, sender));
    tokio::time::timeout(upstream.connect_timeout, connect(server, header, offer))
        .await
        .unwrap_or(Err(Failure::ConnectTimeout))
}

async fn connect(server: &Server, header: Option<(Version, Sender)>, offer: Offer) -> Result<UpstreamStream, Failure> {
    let mut socket = connect_socket(&server.address).await.map_err(Failure::Connect)?;
    if let Some((version, sender)) = header {
        // Nothing of a request has been written when this fails.
        introduce(&mut socket, version, sender).await.map_err(Failure::Connect)?;
    }
    let Some((name, tls)) = &server.tls else {
        return Ok(UpstreamStream::Clear(socket));
    };
    match tls.connect(name, offer, socket).await {
        Ok(stream) => Ok(UpstreamStream::Tls(Box::new(stream))),
        Err(error) => Err(Failure::Tls(error.to_string())),
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
    /// A stream of a connection that others use too. Boxed: there are few, and an idle tunnel keeps room for the largest.
    Http2(Box<StreamTransport>),
}

impl UpstreamStream {
    /// Whether the server has chosen HTTP/2; on a clear connection there is no choice.
    pub(super) fn has_chosen_http2(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.alpn() == Some(b"h2"))
    }

    /// Whether the server has sent something or gone while nobody was reading. Streams are never idle in a pool.
    pub(super) fn has_input_or_end(&self) -> bool {
        match self {
            Self::Clear(socket) => socket.has_input_or_end(),
            Self::Tls(stream) => stream.socket().has_input_or_end(),
            Self::Http2(_) => true,
        }
    }
}

impl Transport for UpstreamStream {
    fn abort(&mut self) {
        match self {
            Self::Clear(socket) => socket.abort(),
            Self::Tls(stream) => stream.abort(),
            Self::Http2(stream) => stream.abort(),
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Clear(socket) => socket.poll_reset(cx),
            Self::Tls(stream) => stream.poll_reset(cx),
            Self::Http2(stream) => stream.poll_reset(cx),
        }
    }

    fn as_socket(&self) -> Option<&Socket> {
        match self {
            Self::Clear(socket) => Some(socket),
            Self::Tls(_) | Self::Http2(_) => None,
        }
    }
}

delegate_io!(UpstreamStream { Clear, Tls, Http2 });

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What is written for `sender` on a connection, and the connection's own ends.
    async fn written(version: Version, sender: Sender) -> (Vec<u8>, Addresses) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let destination = listener.local_addr().expect("an address");
        let mut near = connect_socket(&ServerAddress::Ip(destination)).await.expect("connected");
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
