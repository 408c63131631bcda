//! The gateway on the wire: the real binary between scripted backends and clients that see every byte.
//!
//! Each test's name begins with the row of `rows.txt` that it holds; a row is a scenario, its tests are the family.

// The house rules about clocks, threads and tasks are for the gateway; this is the world outside it.
#![allow(clippy::disallowed_methods)]

mod admin;
mod admin_listener;
mod balance;
mod closes;
mod drains;
mod drains_asked;
mod early;
mod ejection;
mod floods;
mod handshake;
mod harness;
mod headers;
mod health;
mod hostile;
mod http2;
mod http2_checks;
mod http2_ejection;
mod http2_servers;
mod http2_tunnels;
mod interim;
mod limits;
mod logs;
mod metrics;
mod names;
mod operations;
mod origin;
mod overload;
mod places;
mod pool;
mod proxy_protocol;
mod rates;
mod reload;
mod reload_listeners;
mod reload_policies;
mod reload_tls;
mod response;
mod rows;
mod smuggling;
mod sources;
mod stalls;
mod sticky;
mod streaming;
mod subprotocol;
mod syntax;
mod tls;
mod top;
mod tunnel;
mod upstream_answer;
