//! The byte-stream contract, and the two kinds of socket that fulfil it.
//!
//! A [`Transport`] is what a tunnel splices: plain sockets here, TLS streams in `tls/`, h2 streams in `http/`.
//! Reading goes into a buffer of the caller's (a worker's scratch), so that nothing is held per stream while it is
//! silent. Half-close is `poll_shutdown` (TLS: close_notify, then FIN; h2: END_STREAM).

mod delegate;
mod pipe;
mod scratch;
mod socket;

use std::io;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

pub(crate) use delegate::delegate_io;
pub use pipe::{Pipe, Pipes, is_no_way};
pub use scratch::{Lease, SCRATCH_SIZE, Scratch};
pub use socket::Socket;

/// A stream of bytes both ways that can be ended well (`poll_shutdown`) or abruptly ([`Transport::abort`]).
///
/// Contract beyond tokio's traits: a read that finds the peer's abnormal end is an `Err`, never an `Ok(0)`, as far as
/// the transport can tell them apart; nothing is buffered for writing beyond what the transport's own framing needs,
/// and `poll_flush` empties that.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Makes the coming drop an abnormal end (TCP: RST). Where the transport has no such thing, the drop just closes.
    fn abort(&mut self);

    /// Ready once the peer has reset the stream, without reading from it; where that cannot be told, never.
    /// For whoever does not read for a while and still has to know.
    fn poll_reset(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// Whether the peer has ended its side, as far as that can be told without reading what comes before.
    fn has_ended(&self) -> bool {
        false
    }

    /// The socket, where the stream's bytes are just the socket's: both ways, with nothing before and nothing between.
    fn as_socket(&self) -> Option<&Socket> {
        None
    }
}

impl<T: Transport + ?Sized> Transport for Box<T> {
    fn abort(&mut self) {
        (**self).abort();
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_reset(cx)
    }

    fn has_ended(&self) -> bool {
        (**self).has_ended()
    }

    fn as_socket(&self) -> Option<&Socket> {
        (**self).as_socket()
    }
}

/// Ends our side, then reads and throws away what still comes, up to the peer's end or this many bytes: closing with
/// something unread would be a reset, which may overtake our last words. How long that may take is the caller's to say.
///
/// # Errors
/// Those of the stream.
pub async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), most: usize) -> io::Result<()> {
    stream.shutdown().await?;
    let (mut left, mut sink) = (most, [0_u8; 2048]);
    while left > 0 {
        match stream.read(&mut sink).await? {
            0 => break,
            count => left = left.saturating_sub(count),
        }
    }
    Ok(())
}

/// Whether an error says that the peer reset the stream, as against anything else.
pub fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe
    )
}
