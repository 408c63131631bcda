//! The tunnel: an upgraded connection's bytes, both directions, from the 101 to the end.
//!
//! [`splice()`] is the whole of it: one small hand-written future per tunnel, spawned as a task of its own, so that no
//! state of the handshake stays in memory for the day that a socket may live. While nothing moves it holds no buffer.
//! A `Direction` carries the bytes of one way; all of them pass through it. Where frames are checked it hands them to its
//! `frames::Lane`, which judges them before they go on and puts in what the gateway says itself; `closing` is how the
//! gateway ends a tunnel. RFC 6455 5 and 7 (frames, who closes first), RFC 9112 9.6 (no reset that overtakes data).
//!
//! Not here: the handshake, picking a server, and the record of the end, which is the caller's (it gets a
//! [`TunnelEnd`]). Dropping the future drops both transports at once.

mod bucket;
mod closing;
mod direction;
mod frames;
mod order;
mod outlet;
mod pace;
mod piped;
mod probes;
mod random;
mod splice;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Wheel;
use crate::config::model::Rates;
use crate::proto::frame::{Rules, Violation};
use crate::telemetry::end::{EndReason, Side};
use crate::telemetry::metrics::{Direction as Counted, Own, TunnelCells};
use crate::transport::Scratch;

pub use bucket::Bucket;
pub use order::{BadClose, CloseOrder};
pub use splice::{Splice, splice};

/// The policy that a tunnel keeps of its route for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelOptions {
    /// No byte either way, or one side takes none of what the other sends. Default 10 min.
    pub idle_timeout: Duration,
    /// One direction has ended and nothing moves in the other. Default 30 s; a shorter `idle_timeout` rules it too.
    pub half_close_timeout: Duration,
    /// How old it gets, give or take a tenth at random. `None`, the default: any age.
    pub max_lifetime: Option<Duration>,
    /// How long a side may be silent before it is pinged, and again before it is given up. Needs `frames`. Default never.
    pub ping_interval: Option<Duration>,
    /// The server is pinged as well as the client. Default false.
    pub ping_upstream: bool,
    /// What frames are held to. `None`: bytes pass unread. Default [`Rules::default`].
    pub frames: Option<Rules>,
    /// How fast the client may send; messages only with `frames`. `None`, the default: as fast as it can.
    pub rates: Option<Rates>,
}

impl Default for TunnelOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(600),
            half_close_timeout: Duration::from_secs(30),
            max_lifetime: None,
            ping_interval: None,
            ping_upstream: false,
            frames: Some(Rules::default()),
            rates: None,
        }
    }
}

/// Bytes that were read together with a head and belong to the tunnel.
#[derive(Clone, Debug, Default)]
pub struct Early {
    /// Came after the client's request; goes to the upstream first.
    pub downstream: Bytes,
    /// Came after the upstream's 101; goes to the client first.
    pub upstream: Bytes,
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    pub reason: EndReason,
    /// Client to server, as handed to the upstream's transport, early bytes included.
    pub bytes_up: u64,
    /// Server to client, as handed to the client's transport, early bytes included.
    pub bytes_down: u64,
    /// From the splice's start.
    pub duration: Duration,
    /// What was seen of its frames; `None` where they pass unread.
    pub frames: Option<FrameRecord>,
}

/// What a tunnel has seen of its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRecord {
    /// Messages that went up whole.
    pub messages_up: u64,
    /// Messages that went down whole.
    pub messages_down: u64,
    /// Who said Close first, if anybody did.
    pub closed_by: Option<Side>,
    /// The code of that Close, if it had one.
    pub close_code: Option<u16>,
    pub violation: Option<Violation>,
    /// From our last ping that was answered to its pong.
    pub round_trip: Option<Duration>,
}

/// A tunnel at one moment of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub state: TunnelState,
    /// Client to server, as in [`TunnelEnd`].
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// Since its splice began.
    pub age: Duration,
    /// Since a byte last went on, or a direction last changed its state.
    pub idle: Duration,
    /// `None` where frames pass unread.
    pub frames: Option<FrameRecord>,
}

/// How far a tunnel is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelState {
    Open,
    /// One side has ended what it sends, without a Close.
    HalfClosed,
    /// Somebody has said Close, or is about to.
    Closing,
}

impl TunnelState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::HalfClosed => "half-closed",
            Self::Closing => "closing",
        }
    }
}

/// Which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

impl Way {
    fn other(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }

    /// As it is called where it is counted.
    fn counted(self) -> Counted {
        match self {
            Self::Up => Counted::In,
            Self::Down => Counted::Out,
        }
    }
}

/// What a tunnel shares with the others of its worker and its route. Clones are the same.
#[derive(Clone, Debug)]
pub struct TunnelTools(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    scratch: Rc<Scratch>,
    wheel: Rc<Wheel>,
    cells: Own<TunnelCells>,
}

impl TunnelTools {
    /// `cells`: what goes through its tunnels is counted there as it passes. How they begin and end is for the caller to
    /// count.
    pub fn new(scratch: Rc<Scratch>, wheel: Rc<Wheel>, cells: Own<TunnelCells>) -> Self {
        Self(Rc::new(Shared { scratch, wheel, cells }))
    }

    pub fn cells(&self) -> &TunnelCells {
        &self.0.cells
    }
}

#[cfg(test)]
mod tests;
