//! A few sums over all routes, for those who want to know at a glance how much is going on: twice asked, they are rates.
//!
//! They shrink when a route is forgotten that was gone for a while, as those who subtract have to expect.

use crate::telemetry::end::EndReason;
use crate::telemetry::metrics::{Counter, Direction, HandshakeResult, RouteBook};

/// Since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Handshakes included.
    pub requests: u64,
    /// By the gateway itself.
    pub handshakes_refused: u64,
    pub tunnels_opened: u64,
    pub messages_in: u64,
    pub messages_out: u64,
    /// Of bodies and of tunnels.
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Totals {
    pub fn add(&mut self, book: &RouteBook) {
        let way = |direction: Direction| direction as usize;
        if let Some(cells) = book.requests.sum_if_any() {
            self.requests += cells.requests.iter().flatten().map(Counter::get).sum::<u64>();
            let refused = EndReason::ALL.iter().filter(|end| HandshakeResult::of(**end) == HandshakeResult::Refused);
            self.handshakes_refused += refused.map(|end| cells.turned_down[*end as usize].get()).sum::<u64>();
            self.bytes_in += cells.bytes[way(Direction::In)].get();
            self.bytes_out += cells.bytes[way(Direction::Out)].get();
        }
        if let Some(cells) = book.tunnels.sum_if_any() {
            self.tunnels_opened += cells.opened.get();
            self.messages_in += cells.messages[way(Direction::In)].count();
            self.messages_out += cells.messages[way(Direction::Out)].count();
            self.bytes_in += cells.bytes[way(Direction::In)].get();
            self.bytes_out += cells.bytes[way(Direction::Out)].get();
        }
    }
}
