//! What is counted of one route: its requests, and its tunnels while they live.

use std::time::Duration;

use super::cells::{Counter, cells};
use super::histogram::{Histogram, Long, Short, Sizes};
use super::kinds::{CloseCode, HandshakeResult, StatusClass};
use crate::telemetry::end::{EndReason, Side};
use crate::types::HttpVersion;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    In,
    Out,
}

impl Direction {
    pub const ALL: &[Self] = &[Self::In, Self::Out];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// The sides of a tunnel, in the order of their cells.
pub const SIDES: [Side; 3] = [Side::Downstream, Side::Upstream, Side::Gateway];

/// HTTP's versions, in the order of their cells.
pub const VERSIONS: [HttpVersion; 2] = [HttpVersion::Http1, HttpVersion::Http2];

fn place_of(version: HttpVersion) -> usize {
    match version {
        HttpVersion::Http1 => 0,
        HttpVersion::Http2 => 1,
    }
}

cells! {
    /// Requests of one route, those that become tunnels included.
    pub struct RouteCells {
        /// By version and class of the status.
        pub requests: [[Counter; StatusClass::COUNT]; 2],
        /// Those that did not become tunnels, by reason.
        pub ends: [Counter; EndReason::COUNT],
        /// Of bodies, by direction.
        pub bytes: [Counter; 2],
        /// To the end, or to the head of a handshake's answer.
        pub duration: Histogram<Short>,
        /// To the head of a server's answer.
        pub upstream: Histogram<Short>,
        /// Handshakes that became tunnels.
        pub opened: Counter,
        /// Those that did not, by reason.
        pub turned_down: [Counter; EndReason::COUNT],
    }
}

/// A request that has ended, or has become a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct RequestEnd {
    pub version: HttpVersion,
    pub status: Option<u16>,
    /// `None`: it has become a tunnel.
    pub end: Option<EndReason>,
    pub is_handshake: bool,
    /// `None`: nobody knows when it began.
    pub duration: Option<Duration>,
    /// To the head of a server's answer, if there was one.
    pub upstream: Option<Duration>,
    pub received: u64,
    pub sent: u64,
}

impl RouteCells {
    pub fn note(&self, request: &RequestEnd) {
        let RequestEnd { version, status, end, is_handshake, duration, upstream, received, sent } = *request;
        self.requests[place_of(version)][StatusClass::of(status) as usize].add(1);
        if let Some(duration) = duration {
            self.duration.note_duration(duration);
        }
        if let Some(upstream) = upstream {
            self.upstream.note_duration(upstream);
        }
        let [bytes_in, bytes_out] = &self.bytes;
        bytes_in.add(received);
        bytes_out.add(sent);
        match end {
            None => self.opened.add(1),
            Some(end) => {
                self.ends[end as usize].add(1);
                if is_handshake {
                    self.turned_down[end as usize].add(1);
                }
            }
        }
    }
}

cells! {
    /// Tunnels of one route.
    pub struct TunnelCells {
        /// By reason. Read before those that were opened, so that none ends that has not begun.
        pub ended: [Counter; EndReason::COUNT],
        pub opened: Counter,
        /// By direction, as they are taken by the other side.
        pub bytes: [Counter; 2],
        /// Payload of messages that have gone on whole, by direction.
        pub messages: [Histogram<Sizes>; 2],
        /// Of the first Close, by who said it.
        pub codes: [[Counter; CloseCode::COUNT]; 3],
        /// Of our pings: the client's, the server's.
        pub round_trips: [Histogram<Short>; 2],
        pub duration: Histogram<Long>,
    }
}

impl TunnelCells {
    pub fn note_bytes(&self, direction: Direction, count: u64) {
        self.bytes[direction as usize].add(count);
    }

    pub fn note_message(&self, direction: Direction, size: u64) {
        self.messages[direction as usize].note(size);
    }

    /// The side that this direction comes from has answered our ping.
    pub fn note_round_trip(&self, from: Direction, took: Duration) {
        self.round_trips[from as usize].note_duration(took);
    }

    /// `close`: who said the first Close, with which code.
    pub fn note_end(&self, reason: EndReason, duration: Duration, close: Option<(Side, Option<u16>)>) {
        self.ended[reason as usize].add(1);
        self.duration.note_duration(duration);
        if let Some((side, code)) = close {
            let place = match side {
                Side::Downstream => 0,
                Side::Upstream => 1,
                Side::Gateway => 2,
            };
            self.codes[place][CloseCode::of(code) as usize].add(1);
        }
    }

    /// Those that live, where this is the sum of all workers.
    pub fn open(&self) -> u64 {
        let ended: u64 = self.ended.iter().map(Counter::get).sum();
        self.opened.get().saturating_sub(ended)
    }
}

impl HandshakeResult {
    /// Of a handshake that ended for this reason before it was a tunnel.
    pub fn of(end: EndReason) -> Self {
        match end {
            EndReason::Completed => Self::Declined,
            EndReason::ClientClosed
            | EndReason::ClientReset
            | EndReason::ClientTimeout
            | EndReason::ClientStalled
            | EndReason::Drained => Self::Abandoned,
            EndReason::Internal => Self::Failed,
            end if end.side() == Side::Upstream => Self::Failed,
            _ => Self::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Ledger;

    fn request() -> RequestEnd {
        RequestEnd {
            version: HttpVersion::Http2,
            status: Some(200),
            end: Some(EndReason::Completed),
            is_handshake: false,
            duration: Some(Duration::from_millis(3)),
            upstream: Some(Duration::from_millis(2)),
            received: 5,
            sent: 7,
        }
    }

    #[test]
    fn a_request_is_in_one_cell_of_each_kind() {
        let ledger = Ledger::<RouteCells>::default();
        let cells = ledger.join();
        cells.note(&request());
        cells.note(&RequestEnd { status: Some(101), end: None, is_handshake: true, ..request() });
        let refused = Some(EndReason::OriginNotAllowed);
        cells.note(&RequestEnd { status: Some(403), end: refused, is_handshake: true, upstream: None, ..request() });
        let sum = ledger.sum();
        let all = |cells: &[Counter]| cells.iter().map(Counter::get).sum::<u64>();
        assert_eq!((all(&sum.requests[0]), all(&sum.requests[1])), (0, 3));
        assert_eq!(sum.requests[1][StatusClass::ClientError as usize].get(), 1);
        assert_eq!((all(&sum.ends), sum.opened.get(), all(&sum.turned_down)), (2, 1, 1));
        assert_eq!((sum.duration.count(), sum.upstream.count()), (3, 2));
        assert_eq!((sum.bytes[0].get(), sum.bytes[1].get()), (15, 21));
    }

    #[test]
    fn a_tunnel_lives_between_its_opening_and_its_end() {
        let ledger = Ledger::<TunnelCells>::default();
        let cells = ledger.join();
        cells.opened.add(2);
        assert_eq!(ledger.sum().open(), 2);
        let close = Some((Side::Downstream, Some(1000)));
        cells.note_end(EndReason::TunnelClosedDownstream, Duration::from_secs(70), close);
        let sum = ledger.sum();
        assert_eq!((sum.open(), sum.codes[0][CloseCode::Normal as usize].get()), (1, 1));
        assert_eq!(sum.duration.places()[4], (300.0, 1));
    }

    #[test]
    fn who_is_to_blame_decides_what_became_of_a_handshake() {
        for (end, result) in [
            (EndReason::OriginNotAllowed, "refused"),
            (EndReason::TooManyTunnels, "refused"),
            (EndReason::UpstreamUnreachable, "failed"),
            (EndReason::BadUpgrade, "failed"),
            (EndReason::Completed, "declined"),
            (EndReason::ClientClosed, "abandoned"),
        ] {
            assert_eq!(HandshakeResult::of(end).as_str(), result, "{}", end.code());
        }
    }
}
