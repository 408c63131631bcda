//! Long frames between plain sockets, which the kernel moves: nothing is lost, whatever stands in the way.

use rustix::fs::OFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::sockets::{pair, pattern, soon};
use super::{Bench, CHECKED};
use crate::telemetry::end::EndReason;
use crate::transport::Socket;
use crate::tunnel::{Early, TunnelEnd, TunnelOptions, splice};

struct Wire {
    bench: Bench,
    client: TcpStream,
    server: TcpStream,
    tunnel: JoinHandle<TunnelEnd>,
}

impl Wire {
    async fn open(options: TunnelOptions) -> Self {
        let (client, downstream) = pair().await;
        let (upstream, server) = pair().await;
        Self::join(options, client, downstream, upstream, server)
    }

    fn join(
        options: TunnelOptions,
        client: TcpStream,
        downstream: TcpStream,
        upstream: TcpStream,
        server: TcpStream,
    ) -> Self {
        let bench = Bench::start();
        let tunnel = splice(
            Box::new(Socket::Tcp(downstream)),
            Box::new(Socket::Tcp(upstream)),
            Early::default(),
            options,
            &bench.tools,
            bench.phase.stop(),
        );
        let tunnel = tokio::task::spawn_local(tunnel);
        Self { bench, client, server, tunnel }
    }
}

/// Pipes that exist, and those of them that nobody uses.
fn pipes(bench: &Bench) -> (usize, usize) {
    let pipes = bench.tools.0.scratch.pipes();
    (pipes.open(), pipes.idle())
}

/// A binary frame of the client's, with a mask that changes nothing, or of the server's.
fn frame(masked: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, if masked { 0x80 } else { 0 }];
    match payload.len() {
        short @ 0..126 => frame[1] |= short as u8,
        medium @ 126..65_536 => {
            frame[1] |= 126;
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame[1] |= 127;
            frame.extend((long as u64).to_be_bytes());
        }
    }
    if masked {
        frame.extend([0; 4]);
    }
    frame.extend(payload);
    frame
}

/// A small generator of numbers, the same ones every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    /// Frames of all lengths around everything that decides who moves them.
    fn frames(&mut self, masked: bool, count: usize) -> Vec<u8> {
        let payload = pattern(700_000);
        let mut stream = Vec::new();
        for _ in 0..count {
            let most = [1, 126, 5_000, 20_000, 70_000, 300_000, 700_000][self.below(7)];
            stream.extend(frame(masked, &payload[..self.below(most)]));
        }
        stream
    }
}

/// Writes in pieces of all sizes, then ends.
async fn say(mut socket: tokio::net::tcp::OwnedWriteHalf, bytes: Vec<u8>, mut dice: Dice) {
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let most = [10, 2_000, 100_000, 1_000_000][dice.below(4)];
        let (piece, later) = rest.split_at((1 + dice.below(most)).min(rest.len()));
        socket.write_all(piece).await.expect("taken");
        for _ in 0..dice.below(4) {
            tokio::task::yield_now().await;
        }
        rest = later;
    }
    socket.shutdown().await.expect("half-close");
}

/// Reads in pieces of all sizes, with pauses, to the end.
async fn hear(mut socket: tokio::net::tcp::OwnedReadHalf, mut dice: Dice) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), vec![0; 300_000]);
    loop {
        let room = 1 + dice.below(piece.len());
        match socket.read(&mut piece[..room]).await.expect("no reset") {
            0 => return all,
            length => all.extend_from_slice(&piece[..length]),
        }
        for _ in 0..dice.below(12) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "local")]
async fn frames_of_all_lengths_pass_unchanged_both_ways_at_once() {
    let mut piped = 0;
    for seed in 0..12 {
        let Wire { bench, client, server, tunnel } = Wire::open(CHECKED).await;
        let (up, down) = (Dice(seed).frames(true, 24), Dice(seed + 100).frames(false, 24));
        let (client_in, client_out) = client.into_split();
        let (server_in, server_out) = server.into_split();
        let (_, _, got_up, got_down) = soon(async {
            tokio::join!(
                say(client_out, up.clone(), Dice(seed + 200)),
                say(server_out, down.clone(), Dice(seed + 300)),
                hear(server_in, Dice(seed + 400)),
                hear(client_in, Dice(seed + 500)),
            )
        })
        .await;
        assert!(got_up == up && got_down.starts_with(&down), "seed {seed}");
        // A client that has not ended itself is told that the server has gone.
        assert!(matches!(got_down[down.len()..], [] | [0x88, ..]), "seed {seed}");
        let (open, idle) = pipes(&bench);
        assert_eq!(open, idle, "seed {seed}: nobody keeps a pipe");
        piped += open;
        let end = soon(tunnel).await.expect("no panic");
        assert_eq!((end.bytes_up, end.bytes_down), (up.len() as u64, got_down.len() as u64), "seed {seed}");
        let frames = end.frames.expect("they were followed");
        assert_eq!((frames.messages_up, frames.messages_down), (24, 24), "seed {seed}");
    }
    assert!(piped > 0, "the kernel has moved some of it");
}

/// A tunnel in whose pipe upward there is something, because the server does not read.
struct Stuck {
    bench: Bench,
    server: TcpStream,
    tunnel: JoinHandle<TunnelEnd>,
    /// What the client sends.
    stream: Vec<u8>,
    /// The client, which resets if it is stopped.
    saying: JoinHandle<TcpStream>,
}

async fn stuck(options: TunnelOptions) -> Stuck {
    // Where the sink fills up while a short piece is copied, the rest of that is boxed instead: once more, then.
    for _ in 0..20 {
        let Wire { bench, mut client, server, tunnel } = Wire::open(options).await;
        client.set_zero_linger().expect("an option");
        let stream = frame(true, &pattern(32 << 20));
        let bytes = stream.clone();
        let saying = tokio::task::spawn_local(async move {
            client.write_all(&bytes).await.expect("taken");
            client
        });
        let quiet = async {
            // Until really nothing moves any more.
            let (mut still, mut last) = (0, (0, 0));
            while still < 2_000 {
                tokio::task::yield_now().await;
                let now = pipes(&bench);
                still = if now == last && now.0 > 0 { still + 1 } else { 0 };
                last = now;
            }
            last
        };
        if soon(quiet).await == (1, 0) {
            return Stuck { bench, server, tunnel, stream, saying };
        }
        saying.abort();
    }
    panic!("no pipe was ever left with something in it");
}

#[tokio::test(flavor = "local")]
async fn a_server_that_does_not_read_holds_one_pipe_and_gets_every_byte_when_it_does() {
    for options in [CHECKED, super::OPTIONS] {
        let Stuck { bench, mut server, tunnel, stream, saying } = stuck(options).await;
        assert!(!saying.is_finished(), "the sender is held back");
        let mut got = vec![0; stream.len()];
        soon(server.read_exact(&mut got)).await.expect("it comes");
        assert!(got == stream);
        assert_eq!(pipes(&bench), (1, 1), "given back");
        let mut client = soon(saying).await.expect("no panic");
        client.shutdown().await.expect("an end");
        drop(server);
        assert_eq!(soon(tunnel).await.expect("no panic").bytes_up, stream.len() as u64);
    }
}

#[tokio::test(flavor = "local")]
async fn a_tunnel_that_is_cut_takes_its_bytes_with_it() {
    let Stuck { bench, mut server, tunnel, stream, saying } = stuck(CHECKED).await;
    tunnel.abort();
    assert!(soon(tunnel).await.is_err());
    assert_eq!(pipes(&bench), (0, 0));
    saying.abort();
    let mut got = Vec::new();
    // An end or a reset.
    let _ = soon(server.read_to_end(&mut got)).await;
    assert!(got.len() < stream.len() && stream.starts_with(&got));
}

#[tokio::test(flavor = "local")]
async fn a_client_that_resets_in_the_middle_of_a_frame_is_a_reset_for_the_server_too() {
    let Stuck { bench, mut server, tunnel, stream, saying } = stuck(CHECKED).await;
    saying.abort();
    let mut got = Vec::new();
    let error = soon(server.read_to_end(&mut got)).await.expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(got.len() < stream.len() && stream.starts_with(&got));
    let end = soon(tunnel).await.expect("no panic");
    assert_eq!(end.reason, EndReason::TunnelResetDownstream);
    let counted = got.len() as u64..stream.len() as u64;
    assert!(counted.contains(&end.bytes_up), "what went on is counted, what stayed in the pipe is not");
    assert_eq!(pipes(&bench), (1, 1));
}

#[tokio::test(flavor = "local")]
async fn a_close_of_ours_waits_until_the_frame_in_the_pipe_is_whole() {
    let Stuck { bench: _bench, mut server, tunnel, stream, saying } = stuck(CHECKED).await;
    // Masked, which a server must not do.
    soon(server.write_all(&frame(true, b"x"))).await.expect("taken");
    let mut got = vec![0; stream.len() + 2];
    soon(server.read_exact(&mut got)).await.expect("the whole frame, and what follows");
    assert!(got[..stream.len()] == stream);
    assert_eq!(got[stream.len()], 0x88, "a Close between two frames");
    let mut client = soon(saying).await.expect("no panic");
    let mut first = [0; 4];
    soon(client.read_exact(&mut first)).await.expect("a Close");
    assert_eq!((first[0], u16::from_be_bytes([first[2], first[3]])), (0x88, 1002));
    drop((client, server));
    let end = soon(tunnel).await.expect("no panic");
    assert_eq!(end.reason, EndReason::FrameViolationUpstream);
}

/// One long frame and a short one go up, and nothing is missing.
async fn speaks(client: &mut TcpStream, server: &mut TcpStream) {
    let stream = [frame(true, &pattern(3 << 20)), frame(true, b"short")].concat();
    let mut got = vec![0; stream.len()];
    let talk = async { tokio::join!(client.write_all(&stream), server.read_exact(&mut got)) };
    let (said, heard) = soon(talk).await;
    said.expect("taken");
    heard.expect("it comes");
    assert!(got == stream);
}

#[tokio::test(flavor = "local")]
async fn where_the_kernel_refuses_bytes_that_are_in_a_pipe_already_they_go_on_by_copying() {
    let (client, downstream) = pair().await;
    let (upstream, server) = pair().await;
    // splice(2) does not write to what is in append mode: EINVAL.
    rustix::fs::fcntl_setfl(&upstream, OFlags::NONBLOCK | OFlags::APPEND).expect("a flag");
    let Wire { bench, mut client, mut server, .. } = Wire::join(CHECKED, client, downstream, upstream, server);
    assert!(bench.tools.0.scratch.pipes().take().is_some());
    speaks(&mut client, &mut server).await;
    assert_eq!(pipes(&bench), (0, 0));
    assert!(bench.tools.0.scratch.pipes().take().is_none(), "nobody tries again");
}

#[tokio::test(flavor = "local")]
async fn a_worker_without_pipes_copies() {
    let Wire { bench, mut client, mut server, .. } = Wire::open(CHECKED).await;
    bench.tools.0.scratch.pipes().give_up();
    speaks(&mut client, &mut server).await;
    assert_eq!(pipes(&bench), (0, 0));
}
