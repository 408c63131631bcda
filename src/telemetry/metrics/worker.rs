//! What a worker counts of itself: how late it gets round to what is due, and what it has taken from its inbox.

use std::time::Duration;

use super::cells::{Counter, cells};
use super::histogram::{Bounds, Histogram};

/// How late: from a millisecond, which is the grain of the runtime's timers, to ten seconds.
#[derive(Debug)]
pub struct Lags;

impl Bounds for Lags {
    const PER_UNIT: f64 = 1_000_000.0;
    const BOUNDS: &'static [u64] =
        &[1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000];
}

cells! {
    /// One worker's.
    pub struct WorkerCells {
        pub lag: Histogram<Lags>,
        /// Connections that it has taken out of its inbox.
        pub taken: Counter,
    }
}

impl WorkerCells {
    pub fn note_lag(&self, late: Duration) {
        self.lag.note_duration(late);
    }
}
