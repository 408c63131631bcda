//! Over loopback sockets, with the peers' kernels' own idea of ends and resets.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::task::JoinHandle;

use super::{Bench, OPTIONS};
use crate::telemetry::end::EndReason;
use crate::transport::Socket;
use crate::tunnel::{Early, TunnelEnd, splice};

/// Far beyond what any step takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Wire {
    _bench: Bench,
    client: TcpStream,
    server: TcpStream,
    tunnel: JoinHandle<TunnelEnd>,
}

impl Wire {
    /// client — tunnel — server, with small buffers, so that a reader that stalls is felt soon.
    async fn open() -> Self {
        let bench = Bench::start();
        let (client, downstream) = pair().await;
        let (upstream, server) = pair().await;
        let tunnel = splice(
            Box::new(Socket::Tcp(downstream)),
            Box::new(Socket::Tcp(upstream)),
            Early::default(),
            OPTIONS,
            &bench.tools,
            bench.phase.stop(),
        );
        let tunnel = tokio::task::spawn_local(tunnel);
        Self { _bench: bench, client, server, tunnel }
    }
}

/// The connecting and the accepting end.
pub(super) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let socket = TcpSocket::new_v4().expect("socket");
    socket.set_recv_buffer_size(64 * 1024).expect("option");
    let (near, far) = tokio::join!(socket.connect(listener.local_addr().expect("address")), listener.accept());
    (near.expect("connect"), far.expect("accept").0)
}

pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("within patience")
}

pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8).collect()
}

#[tokio::test(flavor = "local")]
async fn everything_an_upstream_sent_before_it_closed_reaches_a_slow_client_and_then_the_end() {
    let Wire { mut client, mut server, tunnel, _bench } = Wire::open().await;
    let sent = pattern(4 << 20);
    let expected = sent.clone();
    let backend = tokio::task::spawn_local(async move {
        server.write_all(&sent).await.expect("taken");
    });
    let mut got = Vec::new();
    let mut piece = [0; 1_000];
    loop {
        let length = soon(client.read(&mut piece)).await.expect("no reset");
        if length == 0 {
            break;
        }
        got.extend_from_slice(&piece[..length]);
        tokio::task::yield_now().await;
    }
    assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
    drop(client);
    backend.await.expect("no panic");
    let end = soon(tunnel).await.expect("no panic");
    assert_eq!((end.reason, end.bytes_down), (EndReason::TunnelClosedUpstream, 4 << 20));
}

#[tokio::test(flavor = "local")]
async fn a_client_that_talks_on_after_the_upstream_has_gone_still_gets_every_byte() {
    let Wire { mut client, mut server, tunnel, _bench } = Wire::open().await;
    let sent = pattern(1 << 20);
    let expected = sent.clone();
    // Closes without reading what the client sends meanwhile would be its own reset: it sends after the end only.
    let backend = tokio::task::spawn_local(async move { server.write_all(&sent).await.expect("taken") });
    let mut got = vec![0; 1 << 20];
    let (head, tail) = got.split_at_mut(1_000);
    soon(client.read_exact(head)).await.expect("no reset");
    // The backend cannot be done before the client reads on, so read to near the end and then talk.
    let (middle, last) = tail.split_at_mut((1 << 20) - 2_000);
    soon(client.read_exact(middle)).await.expect("no reset");
    soon(backend).await.expect("no panic");
    for _ in 0..200 {
        soon(client.write_all(&[9; 1_000])).await.expect("taken");
        tokio::task::yield_now().await;
    }
    soon(client.read_exact(last)).await.expect("no reset");
    assert_eq!(soon(client.read(&mut [0; 1])).await.expect("a good end"), 0);
    assert!(got == expected);
    drop(client);
    assert_eq!(soon(tunnel).await.expect("no panic").reason, EndReason::TunnelClosedUpstream);
}

#[tokio::test(flavor = "local")]
async fn a_half_closed_client_gets_the_whole_answer() {
    let Wire { mut client, mut server, tunnel, _bench } = Wire::open().await;
    client.write_all(b"question").await.expect("taken");
    client.shutdown().await.expect("half-close");
    let mut question = Vec::new();
    soon(server.read_to_end(&mut question)).await.expect("an end");
    assert_eq!(question, b"question");
    let answer = pattern(1 << 20);
    let expected = answer.clone();
    tokio::task::spawn_local(async move { server.write_all(&answer).await.expect("taken") });
    let mut got = Vec::new();
    soon(client.read_to_end(&mut got)).await.expect("an end");
    assert!(got == expected);
    let end = soon(tunnel).await.expect("no panic");
    assert_eq!((end.reason, end.bytes_up, end.bytes_down), (EndReason::TunnelClosedDownstream, 8, 1 << 20));
}

#[tokio::test(flavor = "local")]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    for by_client in [true, false] {
        let Wire { mut client, mut server, tunnel, _bench } = Wire::open().await;
        client.write_all(b"a").await.expect("taken");
        server.write_all(b"b").await.expect("taken");
        let mut byte = [0];
        soon(server.read_exact(&mut byte)).await.expect("arrives");
        soon(client.read_exact(&mut byte)).await.expect("arrives");
        let (gone, mut left) = if by_client { (client, server) } else { (server, client) };
        gone.set_zero_linger().expect("option");
        drop(gone);
        let error = soon(left.read(&mut byte)).await.expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let reason = if by_client { EndReason::TunnelResetDownstream } else { EndReason::TunnelResetUpstream };
        assert_eq!(soon(tunnel).await.expect("no panic").reason, reason);
    }
}

#[tokio::test(flavor = "local")]
async fn a_client_that_does_not_read_slows_its_upstream_and_loses_nothing() {
    let Wire { mut client, mut server, tunnel, _bench } = Wire::open().await;
    let sent = pattern(32 << 20);
    let expected = sent.clone();
    let backend = tokio::task::spawn_local(async move { server.write_all(&sent).await.expect("taken") });
    // Nothing else runs on this thread: when the writer has not finished after so many turns, it is held back.
    for _ in 0..20_000 {
        tokio::task::yield_now().await;
    }
    assert!(!backend.is_finished(), "32 MiB do not fit between the two");
    let mut got = Vec::new();
    soon(client.read_to_end(&mut got)).await.expect("an end");
    assert!(got == expected);
    drop(client);
    assert_eq!(soon(tunnel).await.expect("no panic").reason, EndReason::TunnelClosedUpstream);
}

#[tokio::test(flavor = "local")]
async fn both_directions_run_at_once_over_unix_sockets() {
    let bench = Bench::start();
    let (mut client, downstream) = UnixStream::pair().expect("pair");
    let (upstream, mut server) = UnixStream::pair().expect("pair");
    let tunnel = splice(
        Box::new(Socket::Unix(downstream)),
        Box::new(Socket::Unix(upstream)),
        Early::default(),
        OPTIONS,
        &bench.tools,
        bench.phase.stop(),
    );
    let tunnel = tokio::task::spawn_local(tunnel);
    let echo = tokio::task::spawn_local(async move {
        let (mut read, mut write) = server.split();
        tokio::io::copy(&mut read, &mut write).await.expect("copied");
    });
    let sent = pattern(3 << 20);
    let expected = sent.clone();
    let (mut read, mut write) = client.split();
    let mut got = Vec::new();
    let talk = async {
        write.write_all(&sent).await.expect("taken");
        write.shutdown().await.expect("half-close");
    };
    let (_, length) = soon(async { tokio::join!(talk, read.read_to_end(&mut got)) }).await;
    assert_eq!(length.expect("an end"), 3 << 20);
    assert!(got == expected);
    echo.await.expect("no panic");
    let end = soon(tunnel).await.expect("no panic");
    assert_eq!((end.bytes_up, end.bytes_down), (3 << 20, 3 << 20));
}
