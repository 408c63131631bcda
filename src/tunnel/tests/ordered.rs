//! Tunnels that are told to close by somebody outside.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::checked::{Log, close, closes, frame};
use super::script::{Read, Write, script};
use super::{Bench, CHECKED, OPTIONS};
use crate::telemetry::end::{EndReason, Side};
use crate::transport::Transport;
use crate::tunnel::{CloseOrder, Early, Splice, TunnelEnd, TunnelOptions, TunnelState, splice};

type Tunnel = Splice<Box<dyn Transport>, Box<dyn Transport>>;

/// A tunnel in a task of its own that can be spoken to.
struct Live {
    bench: Bench,
    tunnel: Rc<RefCell<Tunnel>>,
    task: JoinHandle<TunnelEnd>,
    down: Log,
    up: Log,
}

fn live(client: (Vec<Read>, Vec<Write>), server: (Vec<Read>, Vec<Write>), options: TunnelOptions) -> Live {
    let bench = Bench::start();
    let ((downstream, down), (upstream, up)) = (script(client.0, client.1), script(server.0, server.1));
    let tunnel = splice(downstream, upstream, Early::default(), options, &bench.tools, bench.phase.stop());
    let tunnel = Rc::new(RefCell::new(tunnel));
    let polled = tunnel.clone();
    let task = tokio::task::spawn_local(poll_fn(move |cx| Pin::new(&mut *polled.borrow_mut()).poll(cx)));
    Live { bench, tunnel, task, down, up }
}

impl Live {
    /// Lets the tunnel do what it can.
    async fn rest(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    fn state(&self) -> TunnelState {
        self.tunnel.borrow().progress().state
    }

    fn order(&self, code: u16, reason: &str) -> bool {
        self.give(CloseOrder::new(code, reason, EndReason::ClosedByOperator).expect("a good order"))
    }

    fn give(&self, order: CloseOrder) -> bool {
        let is_taken = self.tunnel.borrow_mut().obey(&Arc::new(order));
        self.bench.phase.wake(self.tunnel.borrow().place().expect("it has been polled"));
        is_taken
    }

    async fn end(self) -> (TunnelEnd, Log, Log) {
        (self.task.await.expect("no panic"), self.down, self.up)
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_order_is_a_close_to_both_sides_and_only_the_client_hears_its_words() {
    let live = live((vec![], vec![]), (vec![], vec![]), CHECKED);
    live.rest().await;
    assert_eq!(live.state(), TunnelState::Open);
    assert!(live.order(4003, "mañana"));
    assert!(!live.order(4004, "once is enough"));
    assert_eq!(live.state(), TunnelState::Closing);
    let (end, down, up) = live.end().await;
    assert_eq!(end.reason, EndReason::ClosedByOperator);
    let frames = end.frames.expect("checked");
    assert_eq!((frames.closed_by, frames.close_code), (Some(Side::Gateway), Some(4003)));
    assert_eq!(down.borrow().written, frame(false, 0x88, &[&4003_u16.to_be_bytes()[..], "mañana".as_bytes()].concat()));
    assert_eq!(closes(&up.borrow().written), (vec![1001], true));
    assert!(down.borrow().shut && up.borrow().shut && !down.borrow().aborted);
    // Nobody answers.
    assert!(end.duration >= Duration::from_secs(1) && end.duration <= Duration::from_secs(2), "{end:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_ordered_close_waits_for_the_end_of_the_frame_that_is_under_way() {
    let message = frame(false, 0x82, &[7; 300]);
    let server = vec![
        Read::Bytes(message[..100].to_vec()),
        Read::Wait(Duration::from_millis(300)),
        Read::Bytes([&message[100..], &frame(false, 0x82, b"too late")].concat()),
    ];
    let live = live((vec![], vec![]), (server, vec![]), CHECKED);
    live.rest().await;
    assert!(live.order(1012, "service restart"));
    let (end, down, _) = live.end().await;
    assert_eq!(end.reason, EndReason::ClosedByOperator);
    let close = frame(false, 0x88, &[&1012_u16.to_be_bytes()[..], b"service restart"].concat());
    assert_eq!(down.borrow().written, [message, close].concat());
    assert!(down.borrow().shut && !down.borrow().aborted);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_frame_that_does_not_end_ends_abnormally_a_second_after_the_order() {
    let half = frame(false, 0x82, &[7; 300])[..100].to_vec();
    let live = live((vec![], vec![]), (vec![Read::Bytes(half.clone())], vec![]), CHECKED);
    live.rest().await;
    assert!(live.order(1012, ""));
    let (end, down, up) = live.end().await;
    assert_eq!(end.reason, EndReason::ClosedByOperator);
    assert_eq!(down.borrow().written, half);
    assert!(down.borrow().aborted && !down.borrow().shut);
    assert_eq!(closes(&up.borrow().written), (vec![1001], true));
    assert!(end.duration >= Duration::from_secs(1) && end.duration <= Duration::from_secs(2), "{end:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_server_that_drains_gets_half_a_minute_for_the_frame_that_is_under_way_and_answers_have_their_second() {
    let message = frame(false, 0x82, &[7; 300]);
    // Slow, but it moves.
    let mut server = vec![Read::Bytes(message[..100].to_vec())];
    for byte in &message[100..110] {
        server.extend([Read::Wait(Duration::from_secs(2)), Read::Bytes(vec![*byte])]);
    }
    server.push(Read::Bytes(message[110..].to_vec()));
    let live_long = live((vec![], vec![]), (server, vec![]), CHECKED);
    live_long.rest().await;
    assert!(live_long.give(CloseOrder::server_drained()));
    assert!(!live_long.give(CloseOrder::server_drained()));
    let (end, down, _) = live_long.end().await;
    assert_eq!(end.reason, EndReason::ServerDrained);
    let close = frame(false, 0x88, &[&1012_u16.to_be_bytes()[..], b"service restart"].concat());
    assert_eq!(down.borrow().written, [message, close].concat());
    assert!(down.borrow().shut && !down.borrow().aborted);
    assert!(end.duration >= Duration::from_secs(21) && end.duration <= Duration::from_secs(23), "{end:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_frame_that_does_not_move_outlives_a_drain_by_three_seconds_and_an_operators_order_by_one() {
    let half = || vec![Read::Bytes(frame(false, 0x82, &[7; 300])[..100].to_vec())];
    for (kill, seconds) in [(false, 3), (true, 1)] {
        let live = live((vec![], vec![]), (half(), vec![]), CHECKED);
        live.rest().await;
        assert!(live.give(CloseOrder::server_drained()));
        live.rest().await;
        if kill {
            assert!(!live.order(4000, "now"), "its end has begun already; it comes sooner");
        }
        let (end, down, _) = live.end().await;
        assert_eq!(end.reason, EndReason::ServerDrained);
        assert!(down.borrow().aborted && down.borrow().written == frame(false, 0x82, &[7; 300])[..100]);
        let took = end.duration.as_secs();
        assert!(took == seconds, "{end:?}");
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_tunnel_whose_frames_pass_unread_is_cut_at_once_and_so_is_one_that_is_half_closed() {
    let live_opaque = live((vec![], vec![]), (vec![Read::Bytes(b"any bytes".to_vec())], vec![]), OPTIONS);
    let live_half = live((vec![Read::End], vec![]), (vec![], vec![]), CHECKED);
    live_half.rest().await;
    assert_eq!((live_opaque.state(), live_half.state()), (TunnelState::Open, TunnelState::HalfClosed));
    let progress = live_opaque.tunnel.borrow().progress();
    assert_eq!((progress.bytes_down, progress.bytes_up, progress.frames), (9, 0, None));
    for live in [live_opaque, live_half] {
        assert!(live.order(4000, "bye"));
        assert!(!live.order(4000, "bye"));
        let (end, down, up) = live.end().await;
        assert_eq!(end.reason, EndReason::ClosedByOperator);
        assert_eq!(end.duration, Duration::ZERO);
        assert!(down.borrow().shut && up.borrow().shut);
        assert!(!down.borrow().written.contains(&0x88));
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_order_takes_a_tunnel_that_waits_for_the_answer_to_a_close_but_none_that_has_it() {
    let live_half = live((vec![Read::Bytes(close(true, 1000))], vec![]), (vec![], vec![]), CHECKED);
    let both = vec![Read::Later, Read::Later, Read::Bytes(close(false, 1000))];
    let live_both = live((vec![Read::Bytes(close(true, 1000))], vec![]), (both, vec![]), CHECKED);
    live_both.rest().await;
    live_half.rest().await;
    assert_eq!((live_half.state(), live_both.state()), (TunnelState::Closing, TunnelState::Closing));
    assert!(live_half.order(4000, "") && !live_both.order(4000, ""));
    let (end, down, up) = live_half.end().await;
    assert_eq!(end.reason, EndReason::ClosedByOperator);
    assert_eq!((closes(&down.borrow().written).0, closes(&up.borrow().written).0), (vec![4000], vec![1000]));
    let (end, ..) = live_both.end().await;
    assert_eq!(end.reason, EndReason::TunnelClosedDownstream);
}
