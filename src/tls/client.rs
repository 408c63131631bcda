//! A client's stream as HTTP and tunnels see it: its socket, or TLS over that. An enum, not a box: there is one for each
//! idle tunnel.

use std::task::{Context, Poll};

use super::adapter::TlsStream;
use crate::transport::{Socket, Transport, delegate_io};

/// See the module.
#[derive(Debug)]
pub enum ClientStream {
    Clear(Socket),
    Tls(TlsStream),
}

impl Transport for ClientStream {
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

    fn has_ended(&self) -> bool {
        match self {
            Self::Clear(socket) => socket.has_ended(),
            Self::Tls(stream) => stream.has_ended(),
        }
    }

    fn as_socket(&self) -> Option<&Socket> {
        match self {
            Self::Clear(socket) => Some(socket),
            Self::Tls(_) => None,
        }
    }
}

delegate_io!(ClientStream { Clear, Tls });
