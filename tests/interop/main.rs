//! Real servers behind the gateway and real clients in front of it, over TLS and with Origin rules on.
//!
//! `tests/run interop` installs what is needed and runs this; a plain `cargo test` leaves it out (`test = false` in
//! Cargo.toml). Each test starts its server and a gateway, drives them, and ends both. The servers are under
//! `backends/`, the clients' scripts under `clients/`.

// Tests may spawn and read clocks as they like; see `clippy.toml` for what is banned elsewhere.
#![allow(clippy::disallowed_methods)]

mod harness;
mod websocket;

mod backends;
mod clients;
mod conformance;
mod http2;
mod kaazing;
mod plain;
mod proxy_protocol;
mod socketio;
