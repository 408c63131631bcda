use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::script::{Read, Seen, Write, script};
use super::{Bench, OPTIONS};
use crate::clock;
use crate::telemetry::end::EndReason;
use crate::transport::SCRATCH_SIZE;
use crate::tunnel::direction::Direction;
use crate::tunnel::{Early, Splice, TunnelEnd, TunnelOptions, splice};

type Log = Rc<RefCell<Seen>>;

fn bytes(text: &str) -> Read {
    Read::Bytes(text.as_bytes().to_vec())
}

/// Runs a tunnel to its end: the client's script, the upstream's script.
async fn run(
    client: (Vec<Read>, Vec<Write>),
    upstream: (Vec<Read>, Vec<Write>),
    options: TunnelOptions,
) -> (TunnelEnd, Log, Log) {
    let bench = Bench::start();
    let (down, down_log) = script(client.0, client.1);
    let (up, up_log) = script(upstream.0, upstream.1);
    let end = splice(down, up, Early::default(), options, &bench.tools, bench.phase.stop()).await;
    assert!(bench.tools.0.wheel.is_empty(), "no deadline stays behind");
    assert!(bench.tools.0.scratch.idle() <= 1, "one buffer serves both directions");
    assert!(down_log.borrow().dropped && up_log.borrow().dropped);
    (end, down_log, up_log)
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn early_bytes_go_to_the_other_side_first() {
    let bench = Bench::start();
    let (down, down_log) = script(vec![bytes("later"), Read::End], vec![]);
    let (up, up_log) = script(vec![Read::Later, bytes("frame"), Read::End], vec![]);
    let early = Early { downstream: Bytes::from_static(b"first "), upstream: Bytes::from_static(b"OPEN ") };
    let end = splice(down, up, early, OPTIONS, &bench.tools, bench.phase.stop()).await;
    assert_eq!(up_log.borrow().written, b"first later");
    assert_eq!(down_log.borrow().written, b"OPEN frame");
    assert_eq!((end.reason, end.bytes_up, end.bytes_down), (EndReason::TunnelClosedDownstream, 11, 10));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn silence_both_ways_ends_at_the_idle_timeout_with_an_end_on_both_sides() {
    let (end, down, up) = run((vec![bytes("hi")], vec![]), (vec![], vec![]), OPTIONS).await;
    assert_eq!(end.reason, EndReason::IdleTimeout);
    assert!(end.duration >= OPTIONS.idle_timeout && end.duration <= OPTIONS.idle_timeout + Duration::from_secs(1));
    assert!(down.borrow().shut && up.borrow().shut && !down.borrow().aborted && !up.borrow().aborted);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_byte_now_and_then_keeps_a_tunnel_open() {
    let bench = Bench::start();
    let (client, ours) = tokio::io::duplex(64);
    let (theirs, server) = tokio::io::duplex(64);
    let tunnel = splice(
        Box::new(Duplex(ours)),
        Box::new(Duplex(theirs)),
        Early::default(),
        TunnelOptions { idle_timeout: Duration::from_secs(10), ..OPTIONS },
        &bench.tools,
        bench.phase.stop(),
    );
    let tunnel = tokio::task::spawn_local(tunnel);
    let (mut client, mut server) = (client, server);
    let mut byte = [0];
    for round in 0..20_u8 {
        tokio::time::sleep(Duration::from_secs(9)).await;
        if round % 2 == 0 {
            tokio::io::AsyncWriteExt::write_all(&mut client, &[round]).await.expect("open");
            tokio::io::AsyncReadExt::read_exact(&mut server, &mut byte).await.expect("open");
        } else {
            tokio::io::AsyncWriteExt::write_all(&mut server, &[round]).await.expect("open");
            tokio::io::AsyncReadExt::read_exact(&mut client, &mut byte).await.expect("open");
        }
        assert_eq!(byte, [round]);
    }
    let end = tunnel.await.expect("no panic");
    assert_eq!((end.reason, end.bytes_up, end.bytes_down), (EndReason::IdleTimeout, 10, 10));
    assert!(end.duration >= Duration::from_secs(190) && end.duration <= Duration::from_millis(190_600));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_half_closed_and_silent_tunnel_ends_after_thirty_seconds() {
    let (end, down, up) = run((vec![bytes("q"), Read::End], vec![]), (vec![bytes("a")], vec![]), OPTIONS).await;
    assert_eq!((end.reason, end.bytes_up, end.bytes_down), (EndReason::HalfCloseTimeout, 1, 1));
    assert!(end.duration >= Duration::from_secs(30) && end.duration <= Duration::from_secs(31), "{end:?}");
    assert!(up.borrow().shut && down.borrow().shut);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_side_that_takes_nothing_is_cut_abnormally_at_the_idle_timeout() {
    let many = Read::Bytes(vec![7; 300_000]);
    let (end, down, up) = run((vec![], vec![Write::AtMost(1_000), Write::Stall]), (vec![many], vec![]), OPTIONS).await;
    assert_eq!((end.reason, end.bytes_down), (EndReason::IdleTimeout, 1_000));
    assert_eq!(up.borrow().read, SCRATCH_SIZE, "no more is read than one scratch holds");
    assert!(down.borrow().aborted && !down.borrow().shut, "a stream with a hole must not look whole");
    assert!(up.borrow().shut);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_reset_is_passed_on_as_a_reset_after_what_came_before_it() {
    let reads = vec![bytes("last words"), Read::Error(ErrorKind::ConnectionReset)];
    let writes = vec![Write::AtMost(3), Write::Later, Write::AtMost(2), Write::Later];
    let (end, _, up) = run((reads.clone(), vec![]), (vec![bytes("x"), Read::Later], writes.clone()), OPTIONS).await;
    assert_eq!(end.reason, EndReason::TunnelResetDownstream);
    assert!(up.borrow().aborted && up.borrow().written == b"last words");
    let (end, down, _) = run((vec![], writes), (reads, vec![]), OPTIONS).await;
    assert_eq!(end.reason, EndReason::TunnelResetUpstream);
    assert!(down.borrow().aborted && down.borrow().written == b"last words");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_upstream_that_closed_before_our_write_still_has_its_last_bytes_delivered() {
    // The write finds a broken pipe while 1 MiB and the end still lie unread.
    let upstream = vec![Read::Later, Read::Bytes(vec![5; 1 << 20]), Read::End];
    let client = vec![bytes("ping"), Read::Later, bytes("ping"), Read::Later, Read::End];
    let slow = vec![Write::AtMost(100), Write::Later, Write::AtMost(70_000), Write::Later];
    let (end, down, _) = run((client, slow), (upstream, vec![Write::Error(ErrorKind::BrokenPipe)]), OPTIONS).await;
    assert_eq!((end.bytes_up, end.bytes_down), (0, 1 << 20));
    assert!(down.borrow().shut && !down.borrow().aborted);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_upstream_that_reset_before_our_write_has_its_last_bytes_delivered_and_then_the_reset() {
    // The error is told only once: after the write has had it, the read shows a plain end.
    let upstream = vec![Read::Later, Read::Bytes(vec![5; 1 << 20]), Read::End];
    let writes = vec![Write::Error(ErrorKind::ConnectionReset)];
    let (end, down, _) = run((vec![bytes("ping")], vec![]), (upstream, writes), OPTIONS).await;
    assert_eq!((end.reason, end.bytes_down), (EndReason::TunnelResetUpstream, 1 << 20));
    assert!(down.borrow().aborted);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_side_whose_reset_a_write_has_found_is_no_good_end_even_if_nothing_more_of_it_can_be_read() {
    let writes = vec![Write::Error(ErrorKind::ConnectionReset)];
    let (end, _, up) = run((vec![bytes("half")], writes), (vec![Read::Later, bytes("x")], vec![]), OPTIONS).await;
    assert_eq!((end.bytes_up, end.duration.as_secs()), (4, 30));
    assert!(up.borrow().aborted && !up.borrow().shut);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn after_the_upstream_has_gone_the_client_is_read_until_it_closes_so_that_no_reset_overtakes_its_data() {
    let upstream = vec![bytes("bye"), Read::End];
    let client = vec![Read::Later, Read::Later, bytes("a"), Read::Later, bytes("bc"), Read::Later, Read::End];
    let (end, down, up) = run((client, vec![]), (upstream, vec![Write::Error(ErrorKind::BrokenPipe)]), OPTIONS).await;
    assert_eq!((end.reason, end.bytes_up), (EndReason::TunnelClosedUpstream, 0));
    assert_eq!(down.borrow().read, 3, "read and thrown away");
    assert!(down.borrow().shut && !down.borrow().aborted && !up.borrow().aborted);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_client_that_goes_on_talking_to_nobody_is_cut_after_the_half_close_timeout() {
    let chatter = std::iter::repeat_n([Read::Later, bytes("noise")], 1_000).flatten().collect();
    let upstream = (vec![Read::End], vec![Write::Error(ErrorKind::BrokenPipe)]);
    let (end, ..) = run((chatter, vec![]), upstream, OPTIONS).await;
    assert_eq!(end.reason, EndReason::TunnelClosedUpstream);
    assert!(end.duration <= Duration::from_secs(31));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_end_of_a_drain_cuts_an_idle_tunnel_at_once_and_the_drain_itself_does_not() {
    let bench = Bench::start();
    let (down, _down_log) = script(vec![], vec![]);
    let (up, _up_log) = script(vec![], vec![]);
    let tunnel = splice(down, up, Early::default(), OPTIONS, &bench.tools, bench.phase.stop());
    let tunnel = tokio::task::spawn_local(tunnel);
    bench.lifecycle.drain(clock::now() + Duration::from_secs(30));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!tunnel.is_finished());
    bench.lifecycle.end();
    let end = tunnel.await.expect("no panic");
    assert_eq!(end.reason, EndReason::Drained);
    assert_eq!(end.duration.as_secs(), 30);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_busy_tunnel_gives_way_after_a_bounded_piece_of_work() {
    let bench = Bench::start();
    let (down, _down_log) = script(vec![Read::Bytes(vec![1; 8 << 20]), Read::End], vec![]);
    let (up, up_log) = script(vec![Read::End], vec![]);
    let mut tunnel = splice(down, up, Early::default(), OPTIONS, &bench.tools, bench.phase.stop());
    let mut most = 0;
    let mut before = 0;
    let end = poll_fn(|cx| {
        let poll = Pin::new(&mut tunnel).poll(cx);
        let now = up_log.borrow().written.len();
        most = most.max(now - before);
        before = now;
        poll
    })
    .await;
    assert_eq!(end.bytes_up, 8 << 20);
    assert!(most <= 4 * SCRATCH_SIZE, "{most} bytes in one turn");
}

#[test]
fn an_idle_tunnel_is_small_and_holds_no_buffer() {
    assert!(size_of::<Direction>() <= 24, "{}", size_of::<Direction>());
    // Two sockets of 32 bytes among them.
    let size = size_of::<Splice<[u64; 4], [u64; 4]>>();
    assert!(size <= 232, "{size}");
}

pub(super) struct Duplex(pub tokio::io::DuplexStream);

impl crate::transport::Transport for Duplex {
    fn abort(&mut self) {}
}

impl tokio::io::AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Duplex {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn reads() -> impl Strategy<Value = Vec<Read>> {
    let step = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 1..200).prop_map(Read::Bytes),
        1 => (60_000_usize..200_000, any::<u8>()).prop_map(|(length, seed)| {
            Read::Bytes((0..length).map(|index| (index as u8).wrapping_mul(31).wrapping_add(seed)).collect())
        }),
        3 => Just(Read::Later),
    ];
    let end = prop_oneof![
        4 => Just(Some(Read::End)),
        1 => Just(Some(Read::Error(ErrorKind::ConnectionReset))),
        1 => Just(Some(Read::Error(ErrorKind::UnexpectedEof))),
        1 => Just(None),
    ];
    (prop::collection::vec(step, 0..12), end).prop_map(|(mut steps, end)| {
        steps.extend(end);
        steps
    })
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let step = prop_oneof![
        (1_usize..90_000).prop_map(Write::AtMost),
        (1_usize..20).prop_map(Write::AtMost),
        Just(Write::Later)
    ];
    let end = prop_oneof![
        8 => Just(None),
        1 => Just(Some(Write::Stall)),
        1 => Just(Some(Write::Error(ErrorKind::BrokenPipe))),
        1 => Just(Some(Write::Error(ErrorKind::ConnectionReset))),
    ];
    (prop::collection::vec(step, 0..24), end).prop_map(|(mut steps, end)| {
        steps.extend(end);
        steps
    })
}

fn sent(reads: &[Read]) -> Vec<u8> {
    reads.iter().flat_map(|read| if let Read::Bytes(bytes) = read { bytes.clone() } else { vec![] }).collect()
}

fn refuses(writes: &[Write]) -> bool {
    writes.iter().any(|write| matches!(write, Write::Stall | Write::Error(_)))
}

fn ends_well(reads: &[Read]) -> bool {
    matches!(reads.last(), Some(Read::End | Read::Error(ErrorKind::UnexpectedEof)))
}

fn resets(reads: &[Read]) -> bool {
    matches!(reads.last(), Some(Read::Error(ErrorKind::ConnectionReset)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn no_byte_is_lost_reordered_or_invented_however_reads_and_writes_fall(
        client in (reads(), writes()),
        upstream in (reads(), writes()),
        lazy in any::<bool>(),
        early in (prop::collection::vec(any::<u8>(), 0..100), prop::collection::vec(any::<u8>(), 0..100)),
    ) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build_local(Default::default()).expect("runtime");
        runtime.block_on(async {
            let bench = Bench::start();
            let (down, down_log) = script(client.0.clone(), client.1.clone());
            let (up, up_log) = script(upstream.0.clone(), upstream.1.clone());
            down_log.borrow_mut().lazy = lazy;
            up_log.borrow_mut().lazy = lazy;
            let first = Early { downstream: early.0.clone().into(), upstream: early.1.clone().into() };
            let mut tunnel = splice(down, up, first, OPTIONS, &bench.tools, bench.phase.stop());
            let end = poll_fn(|cx| {
                let poll = Pin::new(&mut tunnel).poll(cx);
                let (down, up) = (down_log.borrow(), up_log.borrow());
                if !refuses(&upstream.1) {
                    assert!(down.read + early.0.len() - up.written.len() <= SCRATCH_SIZE, "bounded by the scratch");
                }
                if !refuses(&client.1) {
                    assert!(up.read + early.1.len() - down.written.len() <= SCRATCH_SIZE, "bounded by the scratch");
                }
                assert!(bench.tools.0.scratch.idle() <= 1, "never held while waiting");
                poll
            })
            .await;
            let (down, up) = (down_log.borrow(), up_log.borrow());
            let all_up = [early.0, sent(&client.0)].concat();
            let all_down = [early.1, sent(&upstream.0)].concat();
            assert!(all_up.starts_with(&up.written) && all_down.starts_with(&down.written));
            assert_eq!((end.bytes_up, end.bytes_down), (up.written.len() as u64, down.written.len() as u64));
            assert!(!(up.shut && up.aborted || down.shut && down.aborted));
            let willing = !refuses(&client.1) && !refuses(&upstream.1);
            if willing && !resets(&upstream.0) {
                assert_eq!(up.written.len(), all_up.len(), "{end:?}");
            }
            if willing && !resets(&client.0) {
                assert_eq!(down.written.len(), all_down.len(), "{end:?}");
            }
            if willing && ends_well(&client.0) && ends_well(&upstream.0) {
                assert!(up.shut && down.shut);
                assert!(matches!(end.reason, EndReason::TunnelClosedDownstream | EndReason::TunnelClosedUpstream));
            }
            if willing && resets(&client.0) && !resets(&upstream.0) {
                assert!(up.aborted || up.shut, "{end:?}");
                assert_eq!(end.reason, EndReason::TunnelResetDownstream);
            }
            if willing && resets(&upstream.0) && !resets(&client.0) {
                assert_eq!(end.reason, EndReason::TunnelResetUpstream);
                assert!(down.aborted);
            }
            assert!(end.duration <= Duration::from_secs(602));
        });
    }
}
