//! What a worker counts of one listener: TLS handshakes.

use std::time::Duration;

use super::cells::{Counter, cells};
use super::histogram::{Histogram, Short};
use super::kinds::TlsResult;

/// The versions that are spoken, in the order of their cells.
pub const TLS_VERSIONS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];

cells! {
    /// TLS handshakes of one listener.
    pub struct ListenerCells {
        /// Those that were done: by version, and whether they continue an earlier session.
        pub done: [[Counter; 2]; 2],
        /// Those that were not, by reason.
        pub failed: [Counter; TlsResult::COUNT],
        /// From the connection's arrival on, of those that were done.
        pub duration: Histogram<Short>,
    }
}

impl ListenerCells {
    pub fn note_done(&self, version: &str, resumed: bool, took: Duration) {
        let place = usize::from(version == TLS_VERSIONS[1]);
        self.done[place][usize::from(resumed)].add(1);
        self.duration.note_duration(took);
    }

    pub fn note_failed(&self, why: TlsResult) {
        self.failed[why as usize].add(1);
    }
}
