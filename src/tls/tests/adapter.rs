//! The adapter beside tokio-rustls, which it must not be told apart from; and what it keeps.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};

use proptest::prelude::*;
use rustls::SupportedProtocolVersion;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, split};
use tokio::net::UnixStream;
use tokio_rustls::TlsAcceptor;

use super::super::engine::OUTPUT;
use super::*;
use crate::transport::Transport;

/// What both sides do in one connection.
#[derive(Clone, Debug)]
struct Script {
    tls12: bool,
    /// Lengths of the client's writes; before those that are true it changes its keys (TLS 1.3).
    client: Vec<(usize, bool)>,
    client_end: ClientEnd,
    /// The client's ciphertext goes out in pieces of these lengths, again and again.
    pieces: Vec<usize>,
    /// Each write of the server is one of several slices.
    server: Vec<Vec<usize>>,
    /// The server ends its side without waiting for the client's end.
    server_first: bool,
    /// The server reads into buffers of these lengths, again and again.
    rooms: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum ClientEnd {
    CloseNotify,
    /// FIN alone.
    Fin,
    /// A record that does not decrypt, then FIN.
    Garbage,
}

/// What came of it: the bytes of either side and how they ended.
#[derive(Debug, PartialEq)]
struct Outcome {
    server: (Vec<u8>, Result<(), ErrorKind>),
    client: (Vec<u8>, Result<(), ErrorKind>),
}

fn scripts() -> impl Strategy<Value = Script> {
    let length = prop_oneof![1_usize..40, 1_usize..5000, 16_000_usize..17_000, 30_000_usize..80_000];
    let client = prop::collection::vec((length.clone(), prop::bool::weighted(0.2)), 0..6);
    let server = prop::collection::vec(prop::collection::vec(length, 1..4), 0..5);
    let pieces = prop::collection::vec(prop_oneof![1_usize..30, 1_usize..70_000], 1..6);
    let rooms = prop::collection::vec(prop_oneof![1_usize..30, 1_usize..70_000], 1..4);
    let end = prop::sample::select(vec![ClientEnd::CloseNotify, ClientEnd::Fin, ClientEnd::Garbage]);
    (any::<bool>(), client, end, pieces, server, any::<bool>(), rooms).prop_map(
        |(tls12, client, client_end, mut pieces, server, server_first, mut rooms)| {
            // At least one of each is large: byte by byte throughout takes its time and shows nothing more.
            pieces.push(9000);
            rooms.push(5000);
            Script { tls12, client, client_end, pieces, server, server_first, rooms }
        },
    )
}

/// A socket that writes in pieces, and lets others run between two.
struct Chopped {
    socket: UnixStream,
    pieces: Vec<usize>,
    next: usize,
    paused: bool,
}

impl AsyncRead for Chopped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Chopped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.paused = !self.paused;
        if self.paused {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let length = self.pieces[self.next % self.pieces.len()].min(bytes.len());
        self.next += 1;
        Pin::new(&mut self.socket).poll_write(cx, &bytes[..length])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

type ChoppedClient = tokio_rustls::client::TlsStream<Chopped>;

fn pattern_bytes(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + seed * 7 + at / 251) as u8).collect()
}

async fn play_client(mut client: ChoppedClient, script: &Script) -> (Vec<u8>, Result<(), ErrorKind>) {
    for (seed, (length, update)) in script.client.iter().enumerate() {
        if *update && !script.tls12 {
            client.get_mut().1.refresh_traffic_keys().expect("allowed");
        }
        client.write_all(&pattern_bytes(*length, seed)).await.expect("written");
    }
    client.flush().await.expect("flushed");
    let mut bytes = Vec::new();
    if script.client_end == ClientEnd::Garbage {
        // Not before the server has agreed: garbage behind the last message of a TLS handshake may still fail that.
        client.read_buf(&mut bytes).await.expect("a greeting");
    }
    match script.client_end {
        ClientEnd::CloseNotify => client.shutdown().await.expect("shut"),
        ClientEnd::Fin => client.get_mut().0.shutdown().await.expect("FIN"),
        ClientEnd::Garbage => {
            let mut record = vec![23, 3, 3, 0, 40];
            record.resize(45, 7);
            client.get_mut().0.write_all(&record).await.expect("written");
            client.get_mut().0.shutdown().await.expect("FIN");
        }
    }
    let end = client.read_to_end(&mut bytes).await;
    (bytes, end.map(drop).map_err(|error| error.kind()))
}

async fn read_all<S: AsyncRead + Unpin>(stream: &mut S, rooms: &[usize]) -> (Vec<u8>, Result<(), ErrorKind>) {
    let mut bytes = Vec::new();
    for room in rooms.iter().cycle() {
        let mut buffer = vec![0; *room];
        match stream.read(&mut buffer).await {
            Ok(0) => return (bytes, Ok(())),
            Ok(count) => bytes.extend(&buffer[..count]),
            Err(error) => return (bytes, Err(error.kind())),
        }
    }
    unreachable!("there is a room")
}

async fn play_server<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    script: &Script,
) -> (Vec<u8>, Result<(), ErrorKind>) {
    let (mut reader, mut writer) = split(stream);
    let (read_end, mut ended) = tokio::sync::watch::channel(());
    let speak = async {
        if script.client_end == ClientEnd::Garbage {
            writer.write_all(b"!").await.expect("written");
            writer.flush().await.expect("flushed");
            // Which data an alert cuts off is a matter of time.
            let _ = ended.changed().await;
            let _ = writer.shutdown().await;
            return;
        }
        for (seed, lengths) in script.server.iter().enumerate() {
            let text = pattern_bytes(lengths.iter().sum(), seed + 100);
            let mut done = 0;
            while done < text.len() {
                // The slices of the script, as far as they are not written yet.
                let (mut at, mut slices) = (0, Vec::new());
                for length in lengths {
                    let slice = &text[at.max(done).min(at + length)..at + length];
                    slices.push(std::io::IoSlice::new(slice));
                    at += length;
                }
                done += writer.write_vectored(&slices).await.expect("written");
            }
            writer.flush().await.expect("flushed");
        }
        if !script.server_first {
            let _ = ended.changed().await;
        }
        writer.shutdown().await.expect("shut");
    };
    let listen = async {
        let heard = read_all(&mut reader, &script.rooms).await;
        drop(read_end);
        heard
    };
    tokio::join!(listen, speak).0
}

async fn play(script: &Script, ca: &Ca, policies: &Arc<ServerPolicies>, ours: bool) -> Outcome {
    let version = if script.tls12 { &TLS12 } else { &TLS13 };
    let config = Arc::new(ca.client_of_version(None, &[], &[version]));
    let (near, far) = UnixStream::pair().expect("a pair");
    let far = Chopped { socket: far, pieces: script.pieces.clone(), next: 0, paused: false };
    let connect = TlsConnector::from(config).connect(ServerName::try_from("a.test").expect("a name"), far);
    let server = async {
        if ours {
            let accepted = accept(policies, Socket::Unix(near), Instant::now() + PATIENCE).await.expect("agreed");
            play_server(accepted.stream, script).await
        } else {
            let acceptor = TlsAcceptor::from(Arc::clone(policies.config(PolicyId::DEFAULT)));
            play_server(acceptor.accept(near).await.expect("agreed"), script).await
        }
    };
    let client = async { play_client(connect.await.expect("agreed"), script).await };
    let both = async { tokio::join!(server, client) };
    let (server, client) = tokio::time::timeout(PATIENCE, both).await.expect("no deadlock");
    Outcome { server, client }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_peer_can_tell_the_adapter_from_tokio_rustls(script in scripts()) {
        let ca = Ca::new("ca");
        let (_files, policies) = simple(&ca);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let ours = runtime.block_on(play(&script, &ca, &policies, true));
        let theirs = runtime.block_on(play(&script, &ca, &policies, false));
        if script.client_end == ClientEnd::CloseNotify {
            prop_assert_eq!(&ours.server.1, &Ok(()));
            let sent: Vec<u8> = script.server.iter().enumerate()
                .flat_map(|(seed, lengths)| pattern_bytes(lengths.iter().sum(), seed + 100)).collect();
            prop_assert!(ours.client.0 == sent, "the client got other bytes");
        }
        let sent: Vec<u8> =
            script.client.iter().enumerate().flat_map(|(seed, (length, _))| pattern_bytes(*length, seed)).collect();
        prop_assert!(ours.server.0 == sent, "the server got other bytes");
        prop_assert!(ours.client.0 == theirs.client.0, "the client got different bytes");
        prop_assert_eq!(ours.server.1, theirs.server.1);
        prop_assert_eq!(ours.client.1, theirs.client.1);
    }
}

async fn connected(version: &'static SupportedProtocolVersion) -> (TlsStream, Client) {
    let ca = Ca::new("ca");
    let (_files, policies) = simple(&ca);
    let config = Arc::new(ca.client_of_version(None, &[], &[version]));
    let (accepted, client) = meet(&policies, &config, "a.test").await;
    (accepted.expect("agreed").stream, client.expect("agreed"))
}

#[tokio::test]
async fn eight_megabytes_go_both_ways_at_once() {
    const SIZE: usize = 8 << 20;
    for version in [&TLS13, &TLS12] {
        let (server, client) = connected(version).await;
        let text: Arc<[u8]> = pattern_bytes(SIZE, 1).into();
        let client = tokio::spawn({
            let text = text.clone();
            async move {
                let (mut reader, mut writer) = split(client);
                let mut heard = Vec::new();
                let speak = async {
                    writer.write_all(&text).await.expect("written");
                    writer.shutdown().await.expect("shut");
                };
                let (read, ()) = tokio::join!(reader.read_to_end(&mut heard), speak);
                read.expect("a good end");
                heard
            }
        });
        let (mut reader, mut writer) = split(server);
        let speak = async {
            writer.write_all(&text).await.expect("written");
            writer.shutdown().await.expect("shut");
        };
        let listen = read_all(&mut reader, &[64 * 1024]);
        let ((heard, end), ()) = tokio::join!(listen, speak);
        assert_eq!(end, Ok(()));
        assert!(heard == *text && client.await.expect("no panic") == *text);
        assert_eq!(reader.unsplit(writer).stored(), 0);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_one_batch_and_no_byte_is_lost() {
    let (mut server, mut client) = connected(&TLS13).await;
    let chunk = pattern_bytes(100_000, 3);
    let mut accepted = Vec::new();
    poll_fn(|cx| {
        loop {
            let at = accepted.len() % chunk.len();
            match Pin::new(&mut server).poll_write(cx, &chunk[at..]) {
                Poll::Ready(count) => {
                    let count = count.expect("written");
                    accepted.extend_from_slice(&chunk[at..at + count]);
                    assert!(accepted.len() < 64 << 20, "more than any socket takes");
                }
                Poll::Pending => return Poll::Ready(()),
            }
        }
    })
    .await;
    assert!((1..=OUTPUT).contains(&server.stored()), "{}", server.stored());
    let flushed = poll_fn(|cx| Poll::Ready(Pin::new(&mut server).poll_flush(cx))).await;
    assert!(flushed.is_pending(), "some of it waits");
    let mut heard = vec![0; accepted.len()];
    let (read, flushed) = tokio::join!(client.read_exact(&mut heard), server.flush());
    read.expect("read");
    flushed.expect("flushed");
    assert!(heard == accepted);
    assert_eq!(server.stored(), 0);
}

#[tokio::test]
async fn tickets_wait_for_the_first_write_and_leave_with_it_or_with_the_end() {
    let (mut server, mut client) = connected(&TLS13).await;
    let tickets = server.stored();
    assert!(tickets > 0);
    client.write_all(b"x").await.expect("written");
    server.read_exact(&mut [0]).await.expect("read");
    server.flush().await.expect("nothing to do");
    assert_eq!(server.stored(), tickets);
    server.write_all(b"text").await.expect("written");
    assert_eq!(server.stored(), 0);
    client.read_exact(&mut [0; 4]).await.expect("read");

    let (mut server, mut client) = connected(&TLS13).await;
    server.shutdown().await.expect("shut");
    assert_eq!((server.stored(), client.read(&mut [0]).await.expect("close_notify")), (0, 0));
    // The client of TLS 1.2 waits for them.
    let (server, _client) = connected(&TLS12).await;
    assert_eq!(server.stored(), 0);
}

#[tokio::test]
async fn a_read_takes_several_records_at_once() {
    let (mut server, mut client) = connected(&TLS13).await;
    // With which the tickets leave.
    server.write_all(b"x").await.expect("written");
    client.read_exact(&mut [0]).await.expect("read");
    let text = pattern_bytes(40_000, 5);
    client.write_all(&text).await.expect("written");
    client.flush().await.expect("flushed");
    let mut buffer = vec![0; 64 * 1024];
    let mut heard = server.read(&mut buffer).await.expect("read");
    // All of it is usually there; what is not was still on the way.
    while heard < text.len() {
        heard += server.read(&mut buffer[heard..]).await.expect("read");
    }
    assert!(buffer[..heard] == text);
    // Three records into a small buffer: at most one of them has to be kept.
    client.write_all(&text).await.expect("written");
    client.flush().await.expect("flushed");
    assert_eq!(server.read(&mut buffer[..10]).await.expect("read"), 10);
    assert!(server.stored() <= 18_500, "{}", server.stored());
    server.read_exact(&mut buffer[10..text.len()]).await.expect("read");
    assert!(buffer[..text.len()] == text);
    assert_eq!(server.stored(), 0);
}

#[tokio::test]
async fn resets_are_told_from_ends_in_both_directions() {
    let (mut server, client) = connected(&TLS13).await;
    let mut socket = Socket::Tcp(client.into_inner().0);
    socket.abort();
    drop(socket);
    let reset = server.read(&mut [0; 16]).await.expect_err("reset");
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    assert!(server.write_all(b"x").await.is_err());

    // With data that waits: aborting drops it, and nothing is sent that looks like an end.
    let (mut server, mut client) = connected(&TLS13).await;
    server.write_all(b"text").await.expect("written");
    client.read_exact(&mut [0; 4]).await.expect("read");
    server.abort();
    drop(server);
    assert_eq!(client.read(&mut [0; 16]).await.expect_err("reset").kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn after_a_bare_fin_every_read_fails_and_writing_goes_on() {
    let (mut server, mut client) = connected(&TLS13).await;
    client.get_mut().0.shutdown().await.expect("FIN");
    for _ in 0..3 {
        assert_eq!(server.read(&mut [0; 16]).await.expect_err("truncated").kind(), ErrorKind::UnexpectedEof);
    }
    server.write_all(b"answer").await.expect("written");
    server.shutdown().await.expect("shut");
    let mut text = Vec::new();
    client.read_to_end(&mut text).await.expect("close_notify");
    assert_eq!(text, b"answer");
}

#[tokio::test]
async fn a_client_hello_without_an_end_is_refused_within_64_kib() {
    let ca = Ca::new("ca");
    let (_files, policies) = simple(&ca);
    let (mut client, server) = sockets().await;
    let send = async {
        // A ClientHello of 60,000 bytes, one byte in each record.
        let mut parts = [1, 0, 0xEA, 0x60].into_iter().chain(std::iter::repeat(0));
        for _ in 0..100_000 {
            let record = [22, 3, 1, 0, 1, parts.next().expect("endless")];
            if client.write_all(&record).await.is_err() {
                break;
            }
        }
        // Left without an answer to its bytes, or reset.
        let _ = client.shutdown().await;
    };
    let (accepted, ()) = tokio::join!(accept(&policies, server, Instant::now() + PATIENCE), send);
    assert!(matches!(accepted, Err(TlsError::Io(_) | TlsError::Handshake(_))), "{accepted:?}");
}
