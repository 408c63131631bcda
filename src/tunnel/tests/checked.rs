//! Frames are judged: violations, the gateway's own Closes, who hears what and when it is over.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::script::{Read, Seen, Write, script};
use super::{Bench, CHECKED};
use crate::proto::frame::{MAX_CONTROL_FRAME, Rules, Violation};
use crate::telemetry::end::{EndReason, Side};
use crate::transport::SCRATCH_SIZE;
use crate::tunnel::frames::Frames;
use crate::tunnel::{Early, FrameRecord, TunnelEnd, TunnelOptions, splice};

pub(super) type Log = Rc<RefCell<Seen>>;

const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

/// A frame of a client's (masked) or a server's, of any size.
pub(super) fn frame(client: bool, first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mask = if client { 0x80 } else { 0 };
    match payload.len() {
        short @ 0..126 => bytes.push(mask | short as u8),
        middle @ 126..65_536 => {
            bytes.push(mask | 126);
            bytes.extend((middle as u16).to_be_bytes());
        }
        long => {
            bytes.push(mask | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    if client {
        bytes.extend(MASK);
        bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        bytes.extend(payload);
    }
    bytes
}

pub(super) fn close(client: bool, code: u16) -> Vec<u8> {
    frame(client, 0x88, &code.to_be_bytes())
}

/// The close codes among the frames of `bytes`, and whether they end between two frames.
pub(super) fn closes(mut bytes: &[u8]) -> (Vec<u16>, bool) {
    let mut codes = Vec::new();
    while let [first, second, ..] = *bytes {
        let masked = second & 0x80 != 0;
        let (length, mut head) = match second & 0x7F {
            126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
            127 => (u64::from_be_bytes(bytes[2..10].try_into().expect("eight")) as usize, 10),
            short => (usize::from(short), 2),
        };
        let mask = if masked { bytes[head..head + 4].try_into().expect("four") } else { [0; 4] };
        head += if masked { 4 } else { 0 };
        let Some(payload) = bytes.get(head..head + length) else { return (codes, false) };
        if first == 0x88 {
            codes.push(u16::from_be_bytes([payload[0] ^ mask[0], payload[1] ^ mask[1]]));
        }
        bytes = &bytes[head + length..];
    }
    (codes, bytes.is_empty())
}

pub(super) async fn run(
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
    (end, down_log, up_log)
}

pub(super) fn record(end: &TunnelEnd) -> FrameRecord {
    end.frames.expect("frames are followed")
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_clients_violation_is_told_to_the_server_at_once_and_to_the_client_after_the_servers_answer() {
    let good = frame(true, 0x82, b"good");
    let client = vec![Read::Bytes([good.clone(), frame(false, 0x82, b"no mask")].concat())];
    let last = frame(false, 0x81, b"last words");
    let upstream = vec![Read::Later, Read::Bytes([last.clone(), close(false, 1002)].concat())];
    let (end, down, up) = run((client, vec![]), (upstream, vec![]), CHECKED).await;
    assert_eq!(end.reason, EndReason::FrameViolationDownstream);
    assert_eq!(record(&end).violation, Some(Violation::Unmasked));
    assert_eq!((record(&end).messages_up, record(&end).messages_down), (1, 1));
    assert!(up.borrow().written.starts_with(&good) && closes(&up.borrow().written) == (vec![1002], true));
    assert_eq!(down.borrow().written, [last, close(false, 1002)].concat());
    assert!(up.borrow().shut && down.borrow().shut && !up.borrow().aborted && !down.borrow().aborted);
    // Nobody hung up, so the last step was waited out.
    assert!(end.duration >= Duration::from_secs(1) && end.duration <= Duration::from_secs(2), "{end:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_innocent_side_that_does_not_answer_is_waited_for_a_second() {
    let upstream = vec![Read::Bytes(frame(true, 0x82, b"masked"))];
    let (end, down, up) = run((vec![], vec![]), (upstream, vec![]), CHECKED).await;
    assert_eq!(end.reason, EndReason::FrameViolationUpstream);
    assert_eq!(closes(&down.borrow().written), (vec![1002], true));
    assert_eq!(closes(&up.borrow().written), (vec![1002], true));
    assert_eq!((record(&end).closed_by, record(&end).close_code), (Some(Side::Gateway), Some(1002)));
    assert!(end.duration >= Duration::from_secs(2) && end.duration <= Duration::from_secs(3), "{end:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_violation_is_the_reason_even_if_everything_is_over_in_the_same_turn() {
    for last in [Read::Error(ErrorKind::ConnectionReset), Read::End] {
        let upstream = vec![Read::Bytes(frame(true, 0x82, b"masked")), last];
        let (end, down, _) = run((vec![Read::End], vec![]), (upstream, vec![]), CHECKED).await;
        assert_eq!((end.reason, end.duration), (EndReason::FrameViolationUpstream, Duration::ZERO));
        assert_eq!(closes(&down.borrow().written), (vec![1002], true));
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_is_too_big_is_closed_with_1009_before_a_byte_of_it_has_gone_on() {
    let rules = Rules { max_frame_size: 10, max_message_size: 15, ..Rules::default() };
    let options = TunnelOptions { frames: Some(rules), ..CHECKED };
    let part = frame(true, 0x02, &[7; 10]);
    let client = vec![Read::Bytes([part.clone(), frame(true, 0x80, &[7; 6])].concat()), Read::End];
    let (end, _, up) = run((client, vec![]), (vec![Read::Later, Read::End], vec![]), options).await;
    assert_eq!(
        (end.reason, record(&end).violation),
        (EndReason::MessageTooBigDownstream, Some(Violation::MessageTooBig))
    );
    assert!(up.borrow().written.starts_with(&part) && closes(&up.borrow().written) == (vec![1009], true));
    let upstream = vec![Read::Bytes(frame(false, 0x82, &[7; 11]))];
    let (end, down, _) = run((vec![], vec![]), (upstream, vec![]), options).await;
    assert_eq!((end.reason, record(&end).violation), (EndReason::MessageTooBigUpstream, Some(Violation::FrameTooBig)));
    assert_eq!(closes(&down.borrow().written), (vec![1009], true));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn in_the_middle_of_a_frame_there_is_no_close_but_an_abnormal_end() {
    // The client is half through a frame, and the server breaks the rules.
    let half = &frame(true, 0x82, &[1; 100])[..50];
    let upstream = vec![Read::Later, Read::Later, Read::Bytes(vec![0x83, 0])];
    let (end, down, up) = run((vec![Read::Bytes(half.to_vec())], vec![]), (upstream, vec![]), CHECKED).await;
    assert_eq!(end.reason, EndReason::FrameViolationUpstream);
    assert_eq!(closes(&down.borrow().written), (vec![1002], true));
    assert_eq!(up.borrow().written, half);
    assert!(up.borrow().aborted && !up.borrow().shut);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_close_waits_for_the_end_of_the_frame_that_is_under_way() {
    let whole = frame(false, 0x82, &[9; 300]);
    let upstream = vec![
        Read::Bytes(whole[..100].to_vec()),
        Read::Later,
        Read::Later,
        Read::Later,
        Read::Bytes([&whole[100..], &frame(false, 0x82, b"too late")].concat()),
    ];
    let client = vec![Read::Later, Read::Bytes(vec![0x81, 0])];
    let (end, down, _) = run((client, vec![]), (upstream, vec![]), CHECKED).await;
    assert_eq!(end.reason, EndReason::FrameViolationDownstream);
    assert!(down.borrow().written.starts_with(&whole));
    assert_eq!(closes(&down.borrow().written), (vec![1002], true));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_server_that_is_gone_without_a_close_is_a_1011_to_its_client() {
    let data = frame(false, 0x82, b"data");
    for last in [Read::End, Read::Error(ErrorKind::ConnectionReset)] {
        let reason = match last {
            Read::End => EndReason::TunnelClosedUpstream,
            _ => EndReason::TunnelResetUpstream,
        };
        let client = vec![Read::Later, Read::Later, Read::Later, Read::Bytes(close(true, 1011)), Read::End];
        let (end, down, _) = run((client, vec![]), (vec![Read::Bytes(data.clone()), last], vec![]), CHECKED).await;
        assert_eq!((end.reason, record(&end).closed_by), (reason, Some(Side::Gateway)));
        assert!(down.borrow().written.starts_with(&data));
        assert_eq!(closes(&down.borrow().written), (vec![1011], true));
        assert!(down.borrow().shut && !down.borrow().aborted);
    }
    // In the middle of a frame there is no place for it.
    let upstream = vec![Read::Bytes(data[..4].to_vec()), Read::End];
    let (_, down, _) = run((vec![Read::Later, Read::Later, Read::End], vec![]), (upstream, vec![]), CHECKED).await;
    assert_eq!(down.borrow().written, data[..4]);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn silence_ends_with_a_close_to_both_sides_whose_answers_are_waited_for() {
    let (end, down, up) = run((vec![], vec![]), (vec![], vec![]), CHECKED).await;
    assert_eq!((end.reason, record(&end).close_code), (EndReason::IdleTimeout, Some(1001)));
    assert_eq!(closes(&down.borrow().written), (vec![1001], true));
    assert_eq!(closes(&up.borrow().written), (vec![1001], true));
    assert!(down.borrow().shut && up.borrow().shut);
    assert!(end.duration >= Duration::from_secs(601) && end.duration <= Duration::from_secs(602), "{end:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_end_of_a_drain_is_a_close_to_both_sides() {
    let bench = Bench::start();
    let (client, mut far_client) = tokio::io::duplex(256);
    let (upstream, mut far_upstream) = tokio::io::duplex(256);
    let tunnel = splice(
        Box::new(super::scripted::Duplex(client)),
        Box::new(super::scripted::Duplex(upstream)),
        Early::default(),
        CHECKED,
        &bench.tools,
        bench.phase.stop(),
    );
    let tunnel = tokio::task::spawn_local(tunnel);
    let side = async |far: &mut tokio::io::DuplexStream, is_client: bool| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut got = vec![0; 2];
        far.read_exact(&mut got).await.expect("a Close");
        far.write_all(&close(is_client, 1001)).await.expect("taken");
        far.read_to_end(&mut got).await.expect("an end");
        closes(&got)
    };
    bench.lifecycle.end();
    let (client, server) = tokio::join!(side(&mut far_client, true), side(&mut far_upstream, false));
    assert_eq!((client, server), ((vec![1001], true), (vec![1001], true)));
    drop((far_client, far_upstream));
    let end = tunnel.await.expect("no panic");
    assert_eq!((end.reason, record(&end).closed_by), (EndReason::Drained, Some(Side::Gateway)));
    assert!(end.duration < Duration::from_secs(1), "answered, so not waited out: {end:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn behind_a_close_of_ours_half_a_frame_that_is_thrown_away_makes_no_reset() {
    let bench = Bench::start();
    let (down, down_log) = script(vec![], vec![]);
    let (up, up_log) = script(vec![], vec![]);
    let tunnel = splice(down, up, Early::default(), CHECKED, &bench.tools, bench.phase.stop());
    let tunnel = tokio::task::spawn_local(tunnel);
    bench.lifecycle.end();
    while up_log.borrow().written.is_empty() {
        tokio::task::yield_now().await;
    }
    // Read when the tunnel is woken for the last time.
    down_log.borrow_mut().reads.push_back(Read::Bytes(frame(true, 0x82, &[1; 100])[..50].to_vec()));
    let end = tunnel.await.expect("no panic");
    assert_eq!((end.reason, down_log.borrow().read), (EndReason::Drained, 50));
    assert_eq!(closes(&up_log.borrow().written), (vec![1001], true));
    assert!(up_log.borrow().shut && !up_log.borrow().aborted);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn after_a_close_both_ways_nobody_may_stay_for_more_than_five_seconds() {
    let client = vec![Read::Bytes(close(true, 4000)), Read::Later];
    let upstream = vec![Read::Later, Read::Later, Read::Bytes(close(false, 1000))];
    let (end, down, up) = run((client, vec![]), (upstream, vec![]), CHECKED).await;
    assert_eq!(end.reason, EndReason::TunnelClosedDownstream);
    assert_eq!((record(&end).closed_by, record(&end).close_code), (Some(Side::Downstream), Some(4000)));
    assert_eq!((&up.borrow().written, &down.borrow().written), (&close(true, 4000), &close(false, 1000)));
    assert!(end.duration >= Duration::from_secs(5) && end.duration <= Duration::from_secs(6), "{end:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn after_a_close_both_ways_whoever_stays_alone_is_no_half_close() {
    let client = vec![Read::Bytes(close(true, 1000)), Read::Later];
    let upstream = vec![Read::Later, Read::Later, Read::Bytes(close(false, 1000)), Read::End];
    let (end, ..) = run((client, vec![]), (upstream, vec![]), CHECKED).await;
    assert_eq!(end.reason, EndReason::TunnelClosedDownstream);
    assert!(end.duration >= Duration::from_secs(5) && end.duration <= Duration::from_secs(6), "{end:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn early_bytes_are_judged_like_all_others() {
    let bench = Bench::start();
    let (down, down_log) = script(vec![Read::Later, Read::End], vec![]);
    let (up, up_log) = script(vec![Read::Later, Read::End], vec![]);
    let good = frame(false, 0x81, b"welcome");
    let early = Early { downstream: Bytes::from_static(b"\xFF\x00"), upstream: good.clone().into() };
    let end = splice(down, up, early, CHECKED, &bench.tools, bench.phase.stop()).await;
    assert_eq!(end.reason, EndReason::FrameViolationDownstream);
    assert_eq!(closes(&up_log.borrow().written), (vec![1002], true));
    assert!(down_log.borrow().written.starts_with(&good));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_tunnel_that_is_old_enough_ends_however_busy_it_is() {
    let chatter = || std::iter::repeat_n([Read::Bytes(frame(true, 0x82, b"x")), Read::Later], 50).flatten().collect();
    let mut ages = Vec::new();
    for _ in 0..20 {
        let options = TunnelOptions { max_lifetime: Some(Duration::from_secs(100)), ..CHECKED };
        let (end, down, up) = run((chatter(), vec![]), (vec![], vec![]), options).await;
        assert_eq!((end.reason, record(&end).messages_up), (EndReason::MaxLifetime, 50));
        assert_eq!((closes(&up.borrow().written).0, closes(&down.borrow().written).0), (vec![1001], vec![1001]));
        assert!(end.duration >= Duration::from_secs(90) && end.duration <= Duration::from_secs(112), "{end:?}");
        ages.push(end.duration);
    }
    ages.dedup();
    assert!(ages.len() > 5, "no two alike");
    let options = TunnelOptions { max_lifetime: Some(Duration::from_secs(100)), ..super::OPTIONS };
    let (end, down, _) = run((vec![], vec![]), (vec![], vec![]), options).await;
    assert_eq!((end.reason, end.frames, down.borrow().shut), (EndReason::MaxLifetime, None, true));
}

/// The opcodes of whole frames, and the payload of the last one (unmasked as it stands).
fn last_ping(bytes: &[u8]) -> Vec<u8> {
    assert_eq!((bytes[0], bytes[1]), (0x89, 8), "a ping of ours to a client");
    bytes[2..10].to_vec()
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_side_that_is_silent_is_pinged_and_given_up_and_any_byte_is_a_sign_of_life() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let bench = Bench::start();
    let (client, mut far_client) = tokio::io::duplex(256);
    let (upstream, mut far_upstream) = tokio::io::duplex(256);
    let options = TunnelOptions { ping_interval: Some(Duration::from_secs(20)), ..CHECKED };
    let tunnel = splice(
        Box::new(super::scripted::Duplex(client)),
        Box::new(super::scripted::Duplex(upstream)),
        Early::default(),
        options,
        &bench.tools,
        bench.phase.stop(),
    );
    let tunnel = tokio::task::spawn_local(tunnel);
    let start = tokio::time::Instant::now();
    let mut ping = [0; 10];
    for round in 1..=4 {
        far_client.read_exact(&mut ping).await.expect("a ping");
        let gone = start.elapsed().as_secs();
        assert!(gone >= 20 * round && gone < 21 * round + 1, "{gone}");
        far_client.write_all(&frame(true, 0x8A, &last_ping(&ping))).await.expect("taken");
    }
    // Half a frame is a sign of life as well, and leaves no place for the next ping.
    far_client.read_exact(&mut ping).await.expect("a ping");
    far_client.write_all(&frame(true, 0x82, b"payload")[..8]).await.expect("taken");
    let mut got = [0; 8];
    far_upstream.read_exact(&mut got).await.expect("the first that the server hears: no pong");
    assert_eq!(got, frame(true, 0x82, b"payload")[..8]);
    let from = tokio::time::Instant::now();
    far_client.read_exact(&mut ping).await.expect("a ping");
    assert!(from.elapsed().as_secs() >= 20);
    last_ping(&ping);
    let mut rest = Vec::new();
    far_client.read_to_end(&mut rest).await.expect("an end");
    assert!(from.elapsed().as_secs() >= 40 && from.elapsed().as_secs() <= 43, "{:?}", from.elapsed());
    assert_eq!(closes(&rest), (vec![1001], true));
    let end = tunnel.await.expect("no panic");
    assert_eq!(end.reason, EndReason::DeadPeerDownstream);
    assert!(record(&end).round_trip.is_some());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn pings_of_ours_do_not_keep_a_tunnel_from_its_idle_timeout_and_the_server_is_asked_where_the_route_says_so() {
    let options = TunnelOptions {
        ping_interval: Some(Duration::from_secs(400)),
        ping_upstream: true,
        idle_timeout: Duration::from_secs(600),
        ..CHECKED
    };
    let (end, down, up) = run((vec![], vec![]), (vec![], vec![]), options).await;
    assert_eq!(end.reason, EndReason::IdleTimeout);
    assert!(end.duration <= Duration::from_secs(602), "{end:?}");
    assert_eq!((down.borrow().written[0], up.borrow().written[0]), (0x89, 0x89));
    assert_eq!((up.borrow().written[1], closes(&up.borrow().written)), (0x88, (vec![1001], true)));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_ping_of_ours_that_had_to_wait_for_the_sink_is_no_activity_either() {
    let options = TunnelOptions { ping_interval: Some(Duration::from_secs(400)), ..CHECKED };
    let writes = vec![Write::AtMost(3), Write::Later, Write::AtMost(2), Write::Later];
    let (end, ..) = run((vec![], writes), (vec![], vec![]), options).await;
    assert_eq!(end.reason, EndReason::IdleTimeout);
    assert!(end.duration <= Duration::from_secs(602), "{end:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn none_of_our_pings_goes_out_while_one_of_the_servers_is_unanswered_but_its_silence_counts() {
    let theirs = frame(false, 0x89, b"theirs");
    let options = TunnelOptions { ping_interval: Some(Duration::from_secs(10)), ..CHECKED };
    let (end, down, _) = run((vec![], vec![]), (vec![Read::Bytes(theirs.clone())], vec![]), options).await;
    assert_eq!(end.reason, EndReason::DeadPeerDownstream);
    assert!(down.borrow().written.starts_with(&theirs));
    assert_eq!(closes(&down.borrow().written[theirs.len()..]), (vec![1001], true));
    assert_eq!(down.borrow().written[theirs.len()], 0x88, "no ping of ours");
    assert!(end.duration >= Duration::from_secs(20) && end.duration <= Duration::from_secs(23), "{end:?}");
}

#[test]
fn following_frames_costs_one_small_box() {
    assert!(size_of::<Frames>() <= 304, "{}", size_of::<Frames>());
}

/// Whole messages, fragmented or not, with control frames in between.
fn stream(client: bool) -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..300),
        1 => (60_000_usize..140_000).prop_map(|size| (0..size).map(|at| at as u8).collect()),
    ];
    let message = (payload, 1_usize..4, any::<bool>()).prop_map(move |(payload, pieces, ping)| {
        let size = payload.len() / pieces + 1;
        let mut bytes = Vec::new();
        let mut pieces = payload.chunks(size).peekable();
        let mut opcode = 2;
        if pieces.peek().is_none() {
            return frame(client, 0x82, b"");
        }
        while let Some(piece) = pieces.next() {
            let fin = if pieces.peek().is_none() { 0x80 } else { 0 };
            bytes.extend(frame(client, fin | opcode, piece));
            opcode = 0;
            if ping {
                bytes.extend(frame(client, 0x89, b"there?"));
            }
        }
        bytes
    });
    prop::collection::vec(message, 0..6).prop_map(|messages| messages.concat())
}

/// Cut anywhere, with pauses.
fn reads(client: bool) -> impl Strategy<Value = (Vec<u8>, Vec<Read>)> {
    (stream(client), prop::collection::vec((1_usize..3_000, any::<bool>()), 1..12), any::<bool>()).prop_map(
        |(bytes, cuts, whole)| {
            let mut reads = Vec::new();
            let mut rest = &bytes[..];
            for (size, later) in cuts.iter().cycle().take(if whole { 0 } else { 400 }) {
                let (piece, next) = rest.split_at(rest.len().min(*size));
                reads.push(Read::Bytes(piece.to_vec()));
                rest = next;
                if *later {
                    reads.push(Read::Later);
                }
                if rest.is_empty() {
                    break;
                }
            }
            reads.push(Read::Bytes(rest.to_vec()));
            reads.retain(|read| !matches!(read, Read::Bytes(bytes) if bytes.is_empty()));
            reads.push(Read::End);
            (bytes, reads)
        },
    )
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let step = prop_oneof![
        (1_usize..90_000).prop_map(Write::AtMost),
        (1_usize..20).prop_map(Write::AtMost),
        Just(Write::Later)
    ];
    prop::collection::vec(step, 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn no_byte_of_good_frames_is_lost_reordered_or_invented_and_a_bad_one_never_goes_on(
        client in (reads(true), writes()),
        upstream in (reads(false), writes()),
        lazy in any::<bool>(),
        bad in prop::option::of(any::<bool>()),
    ) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build_local(Default::default()).expect("runtime");
        runtime.block_on(async {
            let bench = Bench::start();
            let ((sent_up, mut client_reads), (sent_down, mut upstream_reads)) = (client.0, upstream.0);
            match bad {
                // Reserved opcodes, before the end.
                Some(true) => client_reads.insert(client_reads.len() - 1, Read::Bytes(vec![0x83, 0x85])),
                Some(false) => upstream_reads.insert(upstream_reads.len() - 1, Read::Bytes(vec![0x83, 0x05])),
                None => {}
            }
            let (down, down_log) = script(client_reads, client.1);
            let (up, up_log) = script(upstream_reads, upstream.1);
            down_log.borrow_mut().lazy = lazy;
            up_log.borrow_mut().lazy = lazy;
            let mut tunnel = splice(down, up, Early::default(), CHECKED, &bench.tools, bench.phase.stop());
            let end = poll_fn(|cx| {
                let poll = Pin::new(&mut tunnel).poll(cx);
                let (down, up) = (down_log.borrow(), up_log.borrow());
                assert!(down.read.saturating_sub(up.written.len()) <= SCRATCH_SIZE, "bounded by the scratch");
                assert!(up.read.saturating_sub(down.written.len()) <= SCRATCH_SIZE, "bounded by the scratch");
                assert!(bench.tools.0.scratch.idle() <= 1, "never held while waiting");
                poll
            })
            .await;
            let (down, up) = (down_log.borrow(), up_log.borrow());
            assert_eq!((end.bytes_up, end.bytes_down), (up.written.len() as u64, down.written.len() as u64));
            assert!(!(up.shut && up.aborted || down.shut && down.aborted));
            // Either everything, and then at most one Close of ours; or, when the other side was at fault, a part.
            let check = |written: &[u8], sent: &[u8], innocent: bool| {
                let behind = written.strip_prefix(sent);
                let (codes, whole) = closes(written);
                assert!(codes.len() <= 1, "{codes:?}");
                match behind {
                    Some(behind) => assert!(whole && closes(behind).0.len() == usize::from(!behind.is_empty())),
                    None => {
                        assert!(innocent && bad.is_some(), "{end:?}");
                        let common = sent.iter().zip(written).take_while(|(sent, written)| sent == written).count();
                        assert!(written.len() - common <= MAX_CONTROL_FRAME, "only a Close is ours");
                    }
                }
            };
            check(&up.written, &sent_up, bad == Some(false));
            check(&down.written, &sent_down, bad == Some(true));
            match bad {
                Some(true) => assert!(closes(&up.written).0 == [1002], "{end:?}"),
                Some(false) => assert!(closes(&down.written).0 == [1002], "{end:?}"),
                None => assert!(up.shut && down.shut && record(&end).violation.is_none()),
            }
        });
    }
}
