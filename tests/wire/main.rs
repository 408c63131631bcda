//! The gateway on the wire: the real binary between scripted backends and clients that see every byte.
//!
//! Each test's name begins with the row of `rows.txt` that it holds; a row is a scenario, its tests are the family.

mod handshake;
mod harness;
mod headers;
mod http2;
mod interim;
mod limits;
mod operations;
mod origin;
mod pool;
mod response;
mod rows;
mod smuggling;
mod streaming;
mod subprotocol;
mod syntax;
mod tls;
mod tunnel;
mod upstream_answer;
