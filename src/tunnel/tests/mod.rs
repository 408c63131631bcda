//! The splice over scripted transports (paused clock), and over loopback sockets (real clock, bounded by patience).

mod checked;
mod ordered;
mod paced;
mod piped;
mod script;
mod scripted;
pub(super) mod simulation;
mod sockets;

use std::rc::Rc;
use std::time::Duration;

use crate::clock::Wheel;
use crate::lifecycle::{Lifecycle, WorkerPhase};
use crate::proto::frame::{Rsv, Rules};
use crate::telemetry::metrics::Own;
use crate::transport::Scratch;

use super::{TunnelOptions, TunnelTools};

/// What a worker would have.
struct Bench {
    lifecycle: Lifecycle,
    phase: Rc<WorkerPhase>,
    tools: TunnelTools,
}

impl Bench {
    fn start() -> Self {
        let lifecycle = Lifecycle::new();
        let (phase, follower) = lifecycle.follow();
        let (wheel, ticker) = Wheel::new();
        tokio::task::spawn_local(follower);
        tokio::task::spawn_local(ticker);
        Self { lifecycle, phase, tools: TunnelTools::new(Rc::new(Scratch::new()), wheel, Own::unread()) }
    }
}

/// Bytes pass unread.
const OPTIONS: TunnelOptions = TunnelOptions {
    idle_timeout: Duration::from_secs(600),
    half_close_timeout: Duration::from_secs(30),
    max_lifetime: None,
    ping_interval: None,
    ping_upstream: false,
    frames: None,
    rates: None,
};

/// Frames are judged.
const CHECKED: TunnelOptions = TunnelOptions {
    frames: Some(Rules { rsv: Rsv::None, max_frame_size: u64::MAX, max_message_size: u64::MAX }),
    ..OPTIONS
};
