//! How fast a client may send: delayed, or closed.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::checked::{Log, close, closes, frame, record, run};
use super::script::{Read, Write, script};
use super::{Bench, CHECKED, OPTIONS};
use crate::clock::{self, Instant, TICK};
use crate::config::model::{OnExcess, Rates};
use crate::proto::frame::Violation;
use crate::telemetry::end::{EndReason, Side};
use crate::tunnel::{Early, Splice, TunnelEnd, TunnelOptions, splice};

fn messages(per_second: u32, on_excess: OnExcess) -> TunnelOptions {
    let rates = Rates { messages_per_second: Some(per_second), bytes_per_second: None, on_excess };
    TunnelOptions { rates: Some(rates), ..CHECKED }
}

fn bytes(per_second: u64, on_excess: OnExcess, options: TunnelOptions) -> TunnelOptions {
    let rates = Rates { messages_per_second: None, bytes_per_second: Some(per_second), on_excess };
    TunnelOptions { rates: Some(rates), ..options }
}

/// How many bytes had gone up at which time.
type Course = Vec<(Instant, usize)>;

/// Polls a tunnel to its end, and notes what goes up and when.
async fn watch(mut tunnel: Splice, up: &Log) -> (TunnelEnd, Course) {
    let mut course: Course = Vec::new();
    let end = poll_fn(|cx| {
        let poll = Pin::new(&mut tunnel).poll(cx);
        let written = up.borrow().written.len();
        if course.last().is_none_or(|(_, before)| written > *before) && written > 0 {
            course.push((clock::now(), written));
        }
        poll
    })
    .await;
    (end, course)
}

async fn paced(client: Vec<Read>, writes: Vec<Write>, options: TunnelOptions) -> (TunnelEnd, Log, Course, Instant) {
    let bench = Bench::start();
    let (down, _down_log) = script(client, vec![]);
    let (up, up_log) = script(vec![], writes);
    let start = clock::now();
    let tunnel = splice(down, up, Early::default(), options, &bench.tools, bench.phase.stop());
    let (end, course) = watch(tunnel, &up_log).await;
    (end, up_log, course, start)
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_client_over_its_rate_is_read_no_faster_and_loses_nothing() {
    let sent = frame(true, 0x81, b"hello").repeat(200);
    let size = frame(true, 0x81, b"hello").len();
    let client = vec![Read::Bytes(sent.clone()), Read::End];
    let (_, up, course, start) = paced(client, vec![], messages(20, OnExcess::Delay)).await;
    assert!(up.borrow().written == sent);
    for (at, written) in &course {
        let allowed = 20 + (at.duration_since(start).as_millis() as usize * 20) / 1_000;
        assert!(written.div_ceil(size) <= allowed, "{written} bytes after {:?}", at.duration_since(start));
    }
    // 20 at once, 180 at 20 a second.
    let took = course.last().expect("something").0.duration_since(start);
    assert!(took >= Duration::from_secs(9) && took <= Duration::from_secs(9) + TICK, "{took:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn pings_and_small_fragments_count_like_messages_and_a_close_does_not() {
    let small = [frame(true, 0x01, b"a"), frame(true, 0x00, b"b"), frame(true, 0x89, b"ping"), frame(true, 0x80, b"c")];
    let large = [frame(true, 0x02, &[1; 1024]), frame(true, 0x00, &[1; 1024]), frame(true, 0x80, &[1; 9])];
    let sent = [small.concat(), large.concat(), close(true, 1000)].concat();
    let client = vec![Read::Bytes(sent.clone()), Read::End];
    // The first fragment, the second, the Ping, the large message: four.
    let (end, up, ..) = paced(client.clone(), vec![], messages(4, OnExcess::Close)).await;
    // The server does not answer the Close.
    assert!(end.reason == EndReason::HalfCloseTimeout && up.borrow().written == sent, "{end:?}");
    let (end, ..) = paced(client, vec![], messages(3, OnExcess::Close)).await;
    assert_eq!(end.reason, EndReason::RateExceeded);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn bytes_are_paced_in_the_middle_of_a_frame_as_well_and_where_frames_are_opaque() {
    // A frame that says it has 1 GiB.
    let head = [&[0x82, 0xFF][..], &(1_u64 << 30).to_be_bytes(), &[0; 4]].concat();
    for options in [CHECKED, OPTIONS] {
        let client = vec![Read::Bytes([head.clone(), vec![7; 10_000]].concat())];
        let (end, up, course, start) = paced(client, vec![], bytes(1_000, OnExcess::Delay, options)).await;
        assert_eq!(up.borrow().written.len(), head.len() + 10_000);
        for (at, written) in &course {
            assert!(*written as u128 <= 1_000 + at.duration_since(start).as_millis());
        }
        let took = course.last().expect("something").0.duration_since(start);
        assert!(took >= Duration::from_millis(9_014) && took <= Duration::from_millis(9_014) + TICK, "{took:?}");
        assert_eq!(end.reason, EndReason::IdleTimeout);
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_rate_of_less_than_a_frame_still_gets_on() {
    let sent = frame(true, 0x82, &[7; 20]);
    let client = vec![Read::Bytes(sent.clone()), Read::End];
    let (_, up, course, start) = paced(client, vec![], bytes(1, OnExcess::Delay, CHECKED)).await;
    assert!(up.borrow().written == sent);
    let took = course.last().expect("something").0.duration_since(start).as_secs();
    assert!((23..=25).contains(&took), "{took}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn too_many_messages_are_a_1008_to_the_client_and_a_1001_to_the_server() {
    let good = frame(true, 0x81, b"good");
    let client = vec![Read::Bytes([good.repeat(5), frame(true, 0x81, b"one too many")].concat())];
    let last = frame(false, 0x81, b"last words");
    let upstream =
        vec![Read::Bytes(last.clone()), Read::Later, Read::Later, Read::Bytes(close(false, 1001)), Read::End];
    let client = [client, vec![Read::Later, Read::Bytes(close(true, 1008)), Read::End]].concat();
    let (end, down, up) = run((client, vec![]), (upstream, vec![]), messages(5, OnExcess::Close)).await;
    assert_eq!(end.reason, EndReason::RateExceeded);
    assert_eq!(record(&end).violation, Some(Violation::TooManyMessages));
    assert_eq!((record(&end).messages_up, record(&end).closed_by), (5, Some(Side::Gateway)));
    assert!(up.borrow().written.starts_with(&good.repeat(5)));
    assert_eq!(closes(&up.borrow().written), (vec![1001], true));
    // What the server said before goes on if it came before, its answer does not.
    assert_eq!(closes(&down.borrow().written), (vec![1008], true));
    assert!(end.duration < Duration::from_secs(1), "both have answered: {end:?}");
    assert!(down.borrow().shut && up.borrow().shut && !down.borrow().aborted && !up.borrow().aborted);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn as_many_messages_as_allowed_are_no_excess_however_long_they_go_on() {
    let reads = (0..50).flat_map(|_| [Read::Bytes(frame(true, 0x81, b"x")), Read::Wait(Duration::from_millis(100))]);
    let client = reads.chain([Read::End]).collect();
    let (end, ..) = paced(client, vec![], messages(10, OnExcess::Close)).await;
    assert_eq!((end.reason, record(&end).messages_up), (EndReason::HalfCloseTimeout, 50));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn too_many_bytes_end_the_tunnel_behind_the_frame_that_has_been_begun_if_that_ends_soon() {
    let small = frame(true, 0x82, &[7; 100]);
    let client = vec![Read::Bytes(small.repeat(50))];
    let options = bytes(1_000, OnExcess::Close, CHECKED);
    let (end, down, up) = run((client, vec![]), (vec![], vec![]), options).await;
    assert_eq!((end.reason, record(&end).violation), (EndReason::RateExceeded, Some(Violation::TooManyBytes)));
    assert_eq!(closes(&up.borrow().written), (vec![1001], true));
    assert_eq!(closes(&down.borrow().written), (vec![1008], true));
    // In a frame that does not end there is no place for a Close.
    let begun = [&[0x82, 0xFF][..], &(1_u64 << 30).to_be_bytes(), &[0; 4], &[7; 500]].concat();
    let client = vec![Read::Bytes(begun.clone()), Read::Later, Read::Bytes(vec![7; 5_000])];
    let (end, down, up) = run((client, vec![]), (vec![], vec![]), options).await;
    assert_eq!(end.reason, EndReason::RateExceeded);
    assert_eq!(closes(&down.borrow().written), (vec![1008], true));
    assert!(
        up.borrow().written.starts_with(&begun) && up.borrow().written[begun.len()..].iter().all(|byte| *byte == 7)
    );
    assert!(up.borrow().aborted && !up.borrow().shut);
    assert!(end.duration <= Duration::from_secs(4), "{end:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn too_many_opaque_bytes_are_a_cut_of_both_sides() {
    let client = vec![Read::Bytes(vec![7; 900]), Read::Later, Read::Bytes(vec![7; 200])];
    let options = bytes(1_000, OnExcess::Close, OPTIONS);
    let (end, _, up) = run((client, vec![]), (vec![], vec![]), options).await;
    assert_eq!((end.reason, end.bytes_up, end.frames), (EndReason::RateExceeded, 900, None));
    assert_eq!(up.borrow().written, vec![7; 900]);
    assert!(end.duration < Duration::from_secs(1));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_came_early_is_held_to_the_rate_as_well() {
    let bench = Bench::start();
    let (down, _log) = script(vec![], vec![]);
    let (up, up_log) = script(vec![], vec![]);
    let early = Early { downstream: frame(true, 0x81, b"x").repeat(30).into(), upstream: Bytes::new() };
    let options = messages(10, OnExcess::Delay);
    let start = clock::now();
    let tunnel = splice(down, up, early, options, &bench.tools, bench.phase.stop());
    let (_, course) = watch(tunnel, &up_log).await;
    assert_eq!(course[0].1, 10 * frame(true, 0x81, b"x").len());
    assert!(up_log.borrow().written.starts_with(&frame(true, 0x81, b"x").repeat(30)));
    let whole = course.iter().find(|(_, written)| *written >= 30 * 7).expect("all of it");
    let took = whole.0.duration_since(start);
    assert!(took >= Duration::from_secs(2) && took <= Duration::from_secs(2) + TICK, "{took:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_delayed_tunnel_is_not_silent_and_gets_as_old_as_any() {
    let flood = || vec![Read::Bytes(frame(true, 0x81, b"x").repeat(60)), Read::End];
    // Less than it waits from one message to the next.
    let options = TunnelOptions { idle_timeout: Duration::from_millis(300), ..messages(1, OnExcess::Delay) };
    let (end, up, ..) = paced(flood(), vec![], options).await;
    assert_eq!((end.reason, up.borrow().written.len()), (EndReason::HalfCloseTimeout, 60 * 7));
    // Even one that is delayed anew at each tick of the wheel.
    for rate in [1, 8, 100] {
        let options = TunnelOptions { max_lifetime: Some(Duration::from_secs(20)), ..messages(rate, OnExcess::Delay) };
        let flood = vec![Read::Bytes(frame(true, 0x81, b"x").repeat(5_000)), Read::End];
        let (end, down, up) = run((flood, vec![]), (vec![], vec![]), options).await;
        assert_eq!(end.reason, EndReason::MaxLifetime);
        assert!(end.duration <= Duration::from_secs(25), "{end:?}");
        assert_eq!((closes(&up.borrow().written).0, closes(&down.borrow().written).0), (vec![1001], vec![1001]));
    }
    let options = TunnelOptions { ping_interval: Some(Duration::from_secs(1)), ..messages(1, OnExcess::Delay) };
    let (end, up, ..) = paced(flood(), vec![], options).await;
    assert_eq!((end.reason, up.borrow().written.len()), (EndReason::HalfCloseTimeout, 60 * 7), "alive all the time");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn while_a_client_is_delayed_its_reset_and_the_end_of_a_drain_are_seen_at_once() {
    for is_reset in [true, false] {
        let bench = Bench::start();
        let (down, down_log) = script(vec![Read::Bytes(frame(true, 0x81, b"x").repeat(500)), Read::End], vec![]);
        let (up, up_log) = script(vec![], vec![]);
        let options = messages(1, OnExcess::Delay);
        let tunnel = splice(down, up, Early::default(), options, &bench.tools, bench.phase.stop());
        let tunnel = tokio::task::spawn_local(tunnel);
        tokio::time::sleep(Duration::from_millis(5_100)).await;
        match is_reset {
            true => down_log.borrow_mut().reset = true,
            false => bench.lifecycle.end(),
        }
        let from = clock::now();
        let end = tunnel.await.expect("no panic");
        let took = clock::now().duration_since(from);
        if is_reset {
            assert_eq!(end.reason, EndReason::TunnelResetDownstream);
            assert!(up_log.borrow().aborted && took <= Duration::from_millis(1_500), "{took:?}");
        } else {
            assert_eq!(end.reason, EndReason::Drained);
            assert_eq!(closes(&up_log.borrow().written), (vec![1001], true));
            assert_eq!(closes(&down_log.borrow().written), (vec![1001], true));
            assert!(took <= Duration::from_millis(2_500), "{took:?}");
        }
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_server_may_send_as_it_likes_while_its_client_is_delayed() {
    let bench = Bench::start();
    let (down, down_log) = script(vec![Read::Bytes(frame(true, 0x81, b"x").repeat(100))], vec![]);
    let (up, up_log) = script(vec![Read::Bytes(frame(false, 0x82, &[1; 1000]).repeat(500))], vec![]);
    let tunnel = splice(down, up, Early::default(), messages(1, OnExcess::Delay), &bench.tools, bench.phase.stop());
    let tunnel = tokio::task::spawn_local(tunnel);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(down_log.borrow().written.len(), 500 * 1_004);
    assert_eq!(up_log.borrow().written.len(), 2 * 7);
    tunnel.abort();
}

/// Frames of any kind that a client may send, and where what counts as one ends.
fn flood() -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    let step = prop_oneof![
        4 => (0_usize..200).prop_map(|size| frame(true, 0x82, &vec![1; size])),
        1 => Just(frame(true, 0x89, &[3; 125])),
        1 => Just(frame(true, 0x8A, b"")),
        1 => (2_000_usize..70_000).prop_map(|size| frame(true, 0x82, &vec![1; size])),
        1 => Just([frame(true, 0x02, b"1"), frame(true, 0x80, b"2")].concat()),
    ];
    prop::collection::vec(step, 1..120).prop_map(|steps| {
        let (mut all, mut ends) = (Vec::new(), Vec::new());
        for bytes in steps {
            all.extend(bytes);
            ends.push(all.len());
        }
        (all, ends)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    /// Whatever comes, in whatever pieces, and however the server takes it: in no stretch of time is there more than
    /// the rate and one burst, in the end everything has gone on, and no later than the rate allows.
    #[test]
    fn a_paced_tunnel_keeps_its_rates_and_loses_nothing(
        (sent, ends) in flood(),
        rate in 1_u32..40,
        byte_rate in prop::option::of(500_u64..200_000),
        pieces in prop::collection::vec(1_usize..4_000, 1..20),
    ) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build_local(Default::default()).expect("runtime");
        runtime.block_on(async {
            let mut reads = Vec::new();
            let mut rest = &sent[..];
            for size in pieces.iter().cycle() {
                let (piece, next) = rest.split_at(rest.len().min(*size));
                reads.extend([Read::Bytes(piece.to_vec()), Read::Later]);
                rest = next;
                if rest.is_empty() {
                    break;
                }
            }
            reads.push(Read::End);
            let rates = Rates {
                messages_per_second: Some(rate),
                bytes_per_second: byte_rate,
                on_excess: OnExcess::Delay,
            };
            let (_, up, course, start) =
                paced(reads, vec![], TunnelOptions { rates: Some(rates), ..CHECKED }).await;
            assert_eq!(up.borrow().written.len(), sent.len());
            assert!(up.borrow().written == sent);
            // Of messages, what has begun.
            let count = |written: usize| ends.partition_point(|end| *end < written) + 1;
            let burst = rate.max(2) as f64;
            for (index, (from, _)) in course.iter().enumerate() {
                let before = if index == 0 { 0 } else { course[index - 1].1 };
                for (at, written) in &course[index..] {
                    let seconds = at.duration_since(*from).as_secs_f64();
                    let begun = count(*written) - if before == 0 { 0 } else { count(before) };
                    assert!(begun as f64 <= burst + seconds * f64::from(rate) + 1e-6, "{begun} in {seconds} s");
                    if let Some(byte_rate) = byte_rate {
                        let bytes = (written - before) as f64;
                        assert!(bytes <= byte_rate as f64 * (1.0 + seconds) + 140.0, "{bytes} in {seconds} s");
                    }
                }
            }
            let took = course.last().expect("something").0.duration_since(start).as_secs_f64();
            let by_messages = (ends.len() as f64 - burst).max(0.0) / f64::from(rate);
            let by_bytes = byte_rate.map_or(0.0, |rate| (sent.len() as f64 - rate as f64).max(0.0) / rate as f64);
            // Both budgets may run out in turn; neither is waited for twice.
            assert!(took >= by_messages.max(by_bytes) - 1e-3, "{took}");
            assert!(took <= by_messages + by_bytes + 1.0, "{took}, not {by_messages} or {by_bytes}");
        });
    }
}
