//! Tunnels over HTTP/2 (RFC 8441): extended CONNECT, many of them on one connection, each a `Stream` like any other.
//!
//! Windows are as large as those of browsers, so that it is the proxy's windows that are measured and not ours.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::dial::{Dial, Stream};
use crate::ws;

const STREAM_WINDOW: u32 = 6 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 15 * 1024 * 1024;
/// How long a server may take to say that it knows extended CONNECT: that is in its first frame.
const SETTINGS: Duration = Duration::from_secs(3);

/// A connection on which tunnels can be opened.
pub struct Session {
    send: SendRequest<Bytes>,
    host: String,
}

impl Session {
    pub async fn open(dial: &Dial) -> io::Result<Self> {
        let stream = dial.connect().await?;
        if !stream.speaks_h2() {
            return Err(io::Error::other("HTTP/2 was not agreed to"));
        }
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await
            .map_err(io::Error::other)?;
        // How it ends shows on its streams.
        tokio::task::spawn_local(async move { drop(connection.await) });
        let knows = async {
            while !send.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(SETTINGS, knows).await.is_err() {
            return Err(io::Error::other("no extended CONNECT (RFC 8441)"));
        }
        Ok(Self { send, host: dial.host().to_owned() })
    }

    pub async fn tunnel(&self, path: &str) -> io::Result<Stream> {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(format!("https://{}{path}", self.host))
            .version(Version::HTTP_2)
            .header("sec-websocket-version", "13")
            // RFC 8441 has none; Envoy passes it on to a server that wants one, and has no tunnel without it.
            .header("sec-websocket-key", ws::KEY)
            .extension(Protocol::from_static("websocket"))
            .body(())
            .map_err(io::Error::other)?;
        let mut ready = self.send.clone().ready().await.map_err(io::Error::other)?;
        let (answer, send) = ready.send_request(request, false).map_err(io::Error::other)?;
        let answer = answer.await.map_err(io::Error::other)?;
        if answer.status() != StatusCode::OK {
            return Err(io::Error::other(format!("HTTP/2 answered {}", answer.status())));
        }
        let receive = answer.into_body();
        Ok(Stream::H2(Box::new(Tunnel { send, receive, left: Bytes::new(), _session: ready })))
    }
}

pub struct Tunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// What has come and has not been read.
    left: Bytes,
    /// The connection goes on as long as one of its tunnels.
    _session: SendRequest<Bytes>,
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.left.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(piece) => this.left = piece.map_err(io::Error::other)?,
            }
        }
        let take = this.left.len().min(buf.remaining());
        buf.put_slice(&this.left.split_to(take));
        this.receive.flow_control().release_capacity(take).map_err(io::Error::other)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.send.reserve_capacity(buf.len());
        while this.send.capacity() == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Some(granted) => granted.map_err(io::Error::other)?,
            };
        }
        let take = this.send.capacity().min(buf.len());
        this.send.send_data(Bytes::copy_from_slice(&buf[..take]), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's own task writes.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().send.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}
