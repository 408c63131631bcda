//! Portcullis, the gateway that understands WebSockets, as a library; `main.rs` is a thin shell around it.
//!
//! The modules stand here in the order in which data meets them. Imports go down only; `tests/architecture.rs`
//! holds the house to that, and `ARCHITECTURE.md` walks a request and a tunnel through it.

// Tests may spawn and read clocks as they like; see `clippy.toml` for what is banned elsewhere.
#![cfg_attr(test, allow(clippy::disallowed_methods))]
#![forbid(unsafe_code)]

// What the operator calls.
pub mod cli;

// The spine: three lives, each readable top to bottom.
pub mod gateway;

// From one configuration in use to the next, and from one process to the next.
pub mod handover;
pub mod reload;

// Where those who run it ask and tell it something.
pub mod admin;

// What is done beside the workers.
pub mod control;

// What carries the stages: one thread each, and the configuration in use.
pub mod worker;

pub mod connection;
pub mod exchange;
pub mod fault;

pub mod snapshot;

// The stages, in the data's order.
pub mod http;
pub mod listener;
pub mod route;
pub mod tls;
pub mod tunnel;
pub mod upgrade;
pub mod upstream;

// Rules without IO.
pub mod proto;

// Ground floor.
pub mod clock;
pub mod config;
pub mod lifecycle;
pub mod limits;
pub mod telemetry;
pub mod transport;
pub mod types;
pub mod weak_map;
