//! Stage 6: a group of servers, as one worker sees it: pick, dial, keep-alive pool, send, retry.
//!
//! Owns the client side of HTTP/1.1 (hyper's `client::conn`) and of HTTP/2 (`http2`), and every connection to a server.
//! A [`Group`] belongs to one upstream of one snapshot on one worker, so nothing is shared between threads or between
//! different TLS settings. HTTP/1.1 connections for WebSocket are dialled for one handshake and never pooled.
//! Does not decide which group a request goes to, and does not touch header fields except those of framing.

mod answer_head;
mod asked;
mod attempt;
mod attempts;
mod balance;
mod budget;
mod capacity;
mod carrier;
mod circuit;
mod connection;
mod counts;
mod definition;
mod dial;
mod entries;
#[cfg(test)]
mod entries_tests;
mod failure;
mod foresee;
mod gate;
mod group;
mod handshake;
mod health;
mod http2;
#[cfg(test)]
mod limits_tests;
mod names;
mod own_doors;
mod pool;
mod ports;
mod queue;
mod race;
mod request_body;
mod response_body;
mod roster;
mod send;
mod server;
mod share;
mod source;
mod states;
mod sticky;
mod trail;
mod upkeep;
mod whereabouts;

pub use asked::{AskedDrain, AskedDrains};
pub use balance::{Ask, Balance};
pub use budget::RetryCounts;
pub use capacity::TunnelShare;
pub use counts::{FailureKind, ServerCells};
pub use definition::Definition;
pub use dial::UpstreamStream;
pub use failure::Failure;
pub use foresee::{Foreseen, How};
pub use group::{Asker, Group};
pub use handshake::{HandshakeAnswer, HandshakeOptions, Switched};
pub use health::{CheckCounts, LastCheck};
pub use own_doors::OwnDoor;
pub use ports::{Pair, in_use as ports_in_use};
pub use queue::{Queue, QueueCounts};
pub use race::Unreachable;
pub use request_body::{BodyError, RequestBody};
pub use response_body::{ResponseBody, ResponseBodyFault};
pub use roster::Roster;
pub use send::{Answered, Failed, SendOptions};
pub use server::{Condition, Server, ServerId, Standing, State};
pub use share::Share;
pub use states::States;
pub use trail::Trail;
pub use upkeep::Upkeep;
pub use whereabouts::{Location, Nowhere};
