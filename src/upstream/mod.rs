//! Stage 6: a group of servers, as one worker sees it: pick, dial, keep-alive pool, send, retry.
//!
//! Owns the client side of HTTP/1.1 (hyper's `client::conn`) and every connection to a server. A [`Group`] belongs to
//! one upstream of one snapshot on one worker, so nothing is shared between threads or between different TLS
//! settings. Connections for WebSocket are dialled for one handshake and never pooled.
//! Does not decide which group a request goes to, and does not touch header fields except those of framing.

mod body;
mod dial;
mod failure;
mod gate;
mod group;
mod handshake;
mod pool;
mod send;

pub use body::{BodyError, RequestBody, ResponseBody, ResponseBodyFault};
pub use dial::UpstreamStream;
pub use failure::Failure;
pub use group::{Definition, Group, ServerDefinition};
pub use handshake::{HandshakeAnswer, Switched};
pub use send::{Answered, Failed, SendOptions};
