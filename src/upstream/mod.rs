//! Stage 6: a group of servers, as one worker sees it: pick, dial, keep-alive pool, send, retry.
//!
//! Owns the client side of HTTP/1.1 (hyper's `client::conn`) and of HTTP/2 (`http2`), and every connection to a server.
//! A [`Group`] belongs to one upstream of one snapshot on one worker, so nothing is shared between threads or between
//! different TLS settings. HTTP/1.1 connections for WebSocket are dialled for one handshake and never pooled.
//! Does not decide which group a request goes to, and does not touch header fields except those of framing.

mod answer_head;
mod attempt;
mod attempts;
mod balance;
mod budget;
mod carrier;
mod circuit;
mod connection;
mod definition;
mod dial;
mod failure;
mod foresee;
mod gate;
mod group;
mod handshake;
mod health;
mod http2;
#[cfg(test)]
mod limits_tests;
mod pool;
mod queue;
mod request_body;
mod response_body;
mod roster;
mod send;
mod server;
mod share;
mod sticky;
mod trail;
mod upkeep;

pub use balance::{Ask, Balance};
pub use budget::RetryCounts;
pub use definition::Definition;
pub use dial::UpstreamStream;
pub use failure::Failure;
pub use foresee::{Foreseen, How};
pub use group::{Asker, Group};
pub use handshake::{HandshakeAnswer, HandshakeOptions, Switched};
pub use health::{CheckCounts, LastCheck};
pub use queue::{Queue, QueueCounts};
pub use request_body::{BodyError, RequestBody};
pub use response_body::{ResponseBody, ResponseBodyFault};
pub use roster::Roster;
pub use send::{Answered, Failed, SendOptions};
pub use server::{Condition, Server, ServerId, Standing, State, TunnelShare};
pub use share::Share;
pub use trail::Trail;
pub use upkeep::Upkeep;
