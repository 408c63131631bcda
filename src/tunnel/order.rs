//! An order to close a tunnel, given by somebody outside of it: its Close, and what the tunnel has then ended for.
//!
//! Checked when it is made, so that whoever carries it out cannot fail. RFC 6455 5.5.1, 7.4.

use std::fmt;
use std::time::Duration;

use super::closing::{FRAME, STEP};
use crate::proto::frame::{MAX_CLOSE_REASON, close_code_may_be_sent};
use crate::telemetry::end::EndReason;

/// What a tunnel is closed with. The client hears code and reason; the server, that its client is
/// going away (1001). Where frames pass unread, the tunnel is cut and nobody hears anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseOrder {
    pub(super) code: u16,
    pub(super) reason: Box<str>,
    pub(super) end: EndReason,
    /// How long frames that are under way are let through.
    pub(super) patience: Duration,
}

/// Why there can be no such order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadClose {
    /// A code that an endpoint must not send.
    Code(u16),
    /// A reason that does not fit into a control frame: so many bytes.
    Reason(usize),
}

impl CloseOrder {
    /// A frame that is under way has a second to come to its end.
    ///
    /// # Errors
    /// See [`BadClose`].
    pub fn new(code: u16, reason: &str, end: EndReason) -> Result<Self, BadClose> {
        if !close_code_may_be_sent(code) {
            return Err(BadClose::Code(code));
        }
        if reason.len() > MAX_CLOSE_REASON {
            return Err(BadClose::Reason(reason.len()));
        }
        Ok(Self { code, reason: reason.into(), end, patience: STEP })
    }

    /// The server is to get no more work (RFC 6455's registry: 1012, service restart): clients come back, elsewhere. There
    /// is time: a frame that is under way may take half a minute, as long as it moves.
    pub fn server_drained() -> Self {
        Self { code: 1012, reason: "service restart".into(), end: EndReason::ServerDrained, patience: FRAME }
    }

    /// The process is to end. There is as much time.
    pub fn process_drained() -> Self {
        Self::going_away(EndReason::Drained)
    }

    /// The route is to have no tunnels. There is as much time.
    pub fn route_drained() -> Self {
        Self::going_away(EndReason::RouteDrained)
    }

    /// The listener is to have no connections. There is as much time.
    pub fn listener_drained() -> Self {
        Self::going_away(EndReason::ListenerDrained)
    }

    /// The route is gone from the configuration. There is as much time.
    pub fn route_removed() -> Self {
        Self::going_away(EndReason::RouteRemoved)
    }

    fn going_away(end: EndReason) -> Self {
        Self { code: 1001, reason: "going away".into(), end, patience: FRAME }
    }
}

impl fmt::Display for BadClose {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(out, "{code} is no code that may be sent"),
            Self::Reason(size) => {
                write!(out, "a reason has at most {MAX_CLOSE_REASON} bytes, and this one has {size}")
            }
        }
    }
}

impl std::error::Error for BadClose {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_a_code_that_may_be_sent_and_a_reason_that_fits() {
        let new = |code, reason: &str| CloseOrder::new(code, reason, EndReason::ClosedByOperator).map(drop);
        for code in [1000, 1003, 1007, 1012, 1014, 3000, 4999] {
            assert_eq!(new(code, ""), Ok(()), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            assert_eq!(new(code, ""), Err(BadClose::Code(code)));
        }
        assert_eq!(new(4000, &"é".repeat(61)), Ok(()));
        assert_eq!(new(4000, &"é".repeat(62)), Err(BadClose::Reason(124)));
        let orders = [
            CloseOrder::server_drained(),
            CloseOrder::process_drained(),
            CloseOrder::route_drained(),
            CloseOrder::listener_drained(),
            CloseOrder::route_removed(),
        ];
        for order in orders {
            let checked = CloseOrder::new(order.code, &order.reason, order.end);
            assert_eq!(checked.map(|checked| CloseOrder { patience: FRAME, ..checked }), Ok(order));
        }
    }
}
