//! What the gateway says about its work: end reasons, access log, event log, metrics.
//!
//! Lines are written by threads of their own (`writer.rs`), never by a worker. Everything that a peer has sent is
//! escaped before it stands in a line (`text.rs`), and secrets do not get that far: a record has no field for them.

pub mod access;
pub mod end;
pub mod events;
mod journal;
mod levels;
mod line;
pub mod metrics;
#[cfg(feature = "otel")]
mod otlp;
mod record;
mod refusals;
mod repeats;
mod sink;
mod syslog;
mod text;
mod throttle;
mod writer;

pub use access::{AccessEvent, AccessLog, AccessLogHandle, AccessRecord, Flusher};
pub use throttle::Throttle;
pub use writer::LostLines;
