//! A TLS connection with an upstream server as a byte stream.
//!
//! Endings as in [`adapter`](super::adapter). Buffers are rustls' own: several KiB per connection, of which there are
//! few, with nothing idle for long. Writing buffers at most what rustls allows (64 KiB), and only while the socket is
//! full; `poll_flush` empties it.
//! Boxed: the state of a TLS connection has more than 1 KiB, which every future on the way would have room for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::transport::{Socket, Transport};

/// A TLS connection with a server, after its TLS handshake.
#[derive(Debug)]
pub struct ClientTlsStream {
    inner: Box<tokio_rustls::client::TlsStream<Socket>>,
}

impl ClientTlsStream {
    pub(super) fn new(inner: tokio_rustls::client::TlsStream<Socket>) -> Self {
        Self { inner: Box::new(inner) }
    }

    /// The socket underneath, for options and for peeking: what it says about input is about TLS records, of which
    /// some (session tickets, key updates) are no data.
    pub fn socket(&self) -> &Socket {
        self.inner.get_ref().0
    }

    /// The negotiated protocol, if any (`h2`, `http/1.1`).
    pub fn alpn(&self) -> Option<&[u8]> {
        self.inner.get_ref().1.alpn_protocol()
    }

    /// Whether this connection resumed an earlier session.
    pub fn resumed(&self) -> bool {
        self.inner.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    #[cfg(test)]
    pub(super) fn common(&self) -> &rustls::CommonState {
        self.inner.get_ref().1
    }
}

impl Transport for ClientTlsStream {
    fn abort(&mut self) {
        self.inner.get_mut().0.abort();
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.get_mut().0.poll_reset(cx)
    }
}

impl AsFd for ClientTlsStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl AsyncRead for ClientTlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientTlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_shutdown(cx)
    }
}
