//! What is answered, one file for each thing that can be asked. Everything here is data: shapes for JSON, made from what
//! the [`Plane`](super::Plane) shows.
//!
//! Names are those of the access log where it has them. Times are RFC 3339, durations whole milliseconds (`_ms`) or
//! microseconds (`_us`); what there is not is `null`.

pub mod certificates;
pub mod config;
mod drain_rows;
pub mod drains;
pub mod listeners;
pub mod log;
pub mod metrics;
pub mod refusals;
pub mod reload;
pub mod routes;
pub mod status;
pub mod tunnels;
pub mod upstreams;

use std::time::{Duration, SystemTime};

use crate::clock::{self, Instant};

/// `2026-11-22T04:19:01.862Z`
fn time(time: SystemTime) -> Option<String> {
    let stamp = jiff::Timestamp::try_from(time).ok()?;
    stamp.round(jiff::Unit::Millisecond).ok().map(|stamp| stamp.to_string())
}

/// A moment of the monotonic clock, by the other one.
fn moment(instant: Instant) -> Option<String> {
    time(clock::wall().checked_sub(clock::now().saturating_duration_since(instant))?)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
