//! What the RFCs say about HTTP and the WebSocket opening, as pure functions over header maps and strings.
//!
//! Nothing here does IO, waits, or looks at configuration: values in, verdict out. Everything is reachable from bytes
//! that a peer sends, so nothing may panic and nothing may cost more than linear time in the size of the input;
//! `fuzz/targets.rs` and the property tests beside each module hold that.
//!
//! RFC 9110, 9112, 9113 (fields, host, target), 6454 (origin), 6455, 7692, 8441 (WebSocket), 7239 (forwarded).
//! The PROXY protocol has no RFC; its specification is HAProxy's.

pub mod cookie;
pub mod fields;
pub mod forwarded;
pub mod frame;
pub mod host;
pub mod location;
mod managed;
pub mod origin;
pub mod proxy_protocol;
pub mod request_id;
pub mod spelling;
pub mod target;
pub mod trace;
pub mod via;
pub mod websocket;
