//! Stage 3: HTTP towards the client, both versions, on hyper's server.
//!
//! Owns hyper's server connections with their settings, what hyper must not be left alone with (the activity that the
//! deadlines of `connection.rs` are made from), request bodies with their limits, answer bodies, and an h2 stream as a
//! transport. hyper's `Incoming` and `Upgraded` stop here. Decides nothing about routes or policy.

mod activity;
mod answer;
mod request;
mod server;
mod stream;
mod watched;

pub use activity::{Activity, Expiry, OpenRequest};
pub use answer::{AnswerBody, BodyError};
pub use request::{Inbound, InboundBody, PendingStream};
pub use server::{ServerConnection, serve_http1, serve_http2};
pub use stream::StreamTransport;
pub use watched::Watched;
