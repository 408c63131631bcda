//! The PROXY header in front of a connection, read from its socket and not a byte further: what follows is TLS or HTTP.
//!
//! What has come is looked at first; only bytes of the header are taken. It usually comes at once, and costs two calls
//! then and no memory; otherwise its beginning is kept until the rest is there.
//! Whether a peer is believed is decided by the caller. Dropping the future closes the socket.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use tokio::time::timeout_at;

use crate::clock::Instant;
use crate::proto::proxy_protocol::{self, Addresses, MAX_HEADER, Malformed, Parsed};
use crate::transport::{Scratch, Socket};

/// Why there is no header.
#[derive(Debug)]
pub enum NoHeader {
    /// What came is none.
    Malformed(Malformed),
    /// Not whole in time.
    Late,
    /// The peer has left within it.
    Broken,
    /// The peer has left without a word, as those do that only look whether somebody listens.
    Silent,
}

impl fmt::Display for NoHeader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(malformed) => malformed.fmt(out),
            Self::Late => out.write_str("the PROXY header did not arrive in time"),
            Self::Broken => out.write_str("the peer left within its PROXY header"),
            Self::Silent => out.write_str("the peer left without a PROXY header"),
        }
    }
}

impl std::error::Error for NoHeader {}

/// Takes the header. `None`: the socket's own addresses hold.
///
/// # Errors
/// See [`NoHeader`]; there is nothing left to be done with the connection but to close it.
pub async fn read_header(socket: &Socket, scratch: &Scratch, deadline: Instant) -> Result<Option<Addresses>, NoHeader> {
    let mut begun = Vec::new();
    let header = poll_fn(|cx| poll_header(socket, scratch, &mut begun, cx));
    match timeout_at(deadline, header).await {
        Err(_) => Err(NoHeader::Late),
        Ok(Ok(verdict)) => verdict.map_err(NoHeader::Malformed),
        // A reset is one way of leaving.
        Ok(Err(_)) if begun.is_empty() => Err(NoHeader::Silent),
        Ok(Err(_)) => Err(NoHeader::Broken),
    }
}

/// `begun`: what has been taken so far, always the beginning of a header. An end is an error.
fn poll_header(
    socket: &Socket,
    scratch: &Scratch,
    begun: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Result<Option<Addresses>, Malformed>>> {
    let mut lease = scratch.borrow();
    loop {
        let buffer = &mut lease[..MAX_HEADER];
        let old = begun.len();
        buffer[..old].copy_from_slice(begun);
        let count = ready!(socket.poll_peek(cx, &mut buffer[old..]))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        let (end, addresses) = match proxy_protocol::parse(&buffer[..old + count]) {
            Ok(Parsed::Partial) => (old + count, None),
            Ok(Parsed::Header { length, addresses }) => (length, Some(addresses)),
            Err(malformed) => return Poll::Ready(Ok(Err(malformed))),
        };
        socket.take_peeked(&mut buffer[old..end])?;
        if let Some(addresses) = addresses {
            return Poll::Ready(Ok(Ok(addresses)));
        }
        begun.extend_from_slice(&buffer[old..end]);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    use super::*;
    use crate::clock;
    use crate::proto::proxy_protocol::{Sender, Version, header};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn addresses() -> Addresses {
        Addresses {
            source: "192.0.2.1:1234".parse().expect("an address"),
            destination: "198.51.100.9:443".parse().expect("an address"),
        }
    }

    async fn tcp() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let far = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
        far.set_nodelay(true).expect("an option");
        (Socket::Tcp(listener.accept().await.expect("accept").0), far)
    }

    async fn read(socket: &Socket) -> Result<Option<Addresses>, NoHeader> {
        read_header(socket, &Scratch::new(), clock::now() + PATIENCE).await
    }

    #[tokio::test]
    async fn what_follows_a_header_stays_in_the_socket_wherever_the_header_is_split() {
        for version in [Version::V1, Version::V2] {
            let header = header(version, Sender::Client(Some(addresses())));
            for split in 0..=header.len() {
                let (near, mut far) = UnixStream::pair().expect("a pair");
                let mut near = Socket::Unix(near);
                let writing = async {
                    far.write_all(&header[..split]).await.expect("taken");
                    tokio::task::yield_now().await;
                    far.write_all(&[&header[split..], b"GET /"].concat()).await.expect("taken");
                };
                let (read, ()) = tokio::join!(read(&near), writing);
                assert_eq!(read.expect("a header"), Some(addresses()), "{version:?}, split at {split}");
                let mut behind = [0; 5];
                near.read_exact(&mut behind).await.expect("arrives");
                assert_eq!(&behind, b"GET /");
            }
        }
    }

    #[tokio::test]
    async fn a_header_may_come_byte_by_byte_over_tcp() {
        for version in [Version::V1, Version::V2] {
            let (mut near, mut far) = tcp().await;
            let writing = async {
                for byte in [&header(version, Sender::Client(Some(addresses())))[..], b"\x16rest"].concat() {
                    far.write_all(&[byte]).await.expect("taken");
                    tokio::task::yield_now().await;
                }
            };
            let (read, ()) = tokio::join!(read(&near), writing);
            assert_eq!(read.expect("a header"), Some(addresses()));
            let mut behind = [0; 5];
            near.read_exact(&mut behind).await.expect("arrives");
            assert_eq!(&behind, b"\x16rest");
        }
    }

    #[tokio::test]
    async fn whoever_leaves_before_its_end_is_noticed_at_once() {
        for (begun, silent) in [(&b""[..], true), (b"PROXY TCP4", false), (b"\r\n\r\n\0\r\nQUIT\n\x21", false)] {
            let (near, mut far) = tcp().await;
            far.write_all(begun).await.expect("taken");
            far.shutdown().await.expect("open");
            let error = read(&near).await.expect_err("an end");
            assert!(matches!(error, NoHeader::Silent) == silent && !matches!(error, NoHeader::Late), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_left_unread() {
        let (mut near, mut far) = tcp().await;
        far.write_all(b"GET / HTTP/1.1\r\n").await.expect("taken");
        let error = read(&near).await.expect_err("no header");
        assert!(matches!(error, NoHeader::Malformed(Malformed::Absent)), "{error}");
        assert_eq!(near.read_u8().await.expect("still there"), b'G');
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_beyond_the_deadline() {
        let (near, mut far) = UnixStream::pair().expect("a pair");
        far.write_all(b"PROXY UNKN").await.expect("taken");
        let error = read(&Socket::Unix(near)).await.expect_err("too late");
        assert!(matches!(error, NoHeader::Late), "{error}");
    }
}
