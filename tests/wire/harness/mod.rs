//! What the tests on the wire stand on: the real binary, scripted backends and clients that see every byte.
//!
//! Nothing here knows the gateway's code; what is known is the command line, the configuration file and the wire.
//! Order comes from channels and from what a peer has seen. Waiting has one limit, [`patience`], and one polling
//! helper, [`eventually`]; a pause of a fixed length stands only where a scenario itself speaks of time.

mod admin;
mod backend;
mod client;
mod cluster;
mod dns;
mod frames;
mod gateway;
mod h2;
mod h2server;
mod head;
mod pki;
mod rawh2;
mod request;
mod screen;
mod setup;
mod stream;
mod ways;

use std::future::Future;
use std::time::Duration;

pub use self::h2::{H2, H2Stream, send_all, whole};
pub use admin::{Api, admin_table, json};
pub use backend::{Backend, Peer, accept_for};
pub use client::{Client, TlsOptions};
pub use cluster::Cluster;
pub use dns::{NameServer, Says};
pub use frames::{Frame, OpCode};
pub use gateway::Gateway;
pub use h2server::{Exchange, H2Server};
pub use head::{Answer, Fields, Head};
pub use pki::{ClientKind, Leaf, ServerKind, pki};
pub use rawh2::{DATA, END_STREAM, GOAWAY, HEADERS, Outcome, RST_STREAM, RawH2, block};
pub use request::{A0, Handshake, K0, Request, SMUG};
pub use screen::Screen;
pub use setup::{Setup, Stage};
pub use stream::{End, Record, Stream};
pub use ways::{Tunnel, Way};

/// How long anything may take before a test gives up; `PORTCULLIS_TEST_PATIENCE` (whole seconds) stretches it.
pub fn patience() -> Duration {
    let seconds = std::env::var("PORTCULLIS_TEST_PATIENCE").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    Duration::from_secs(seconds)
}

/// Waits for `future`, and fails the test with `what` when patience runs out.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(patience(), future).await {
        Ok(value) => value,
        Err(_) => panic!("still waiting for {what} after {:?}", patience()),
    }
}

/// Waits until nobody listens at an address.
pub async fn refuses(address: std::net::SocketAddr) {
    let refused = async { while tokio::net::TcpStream::connect(address).await.is_ok() {} };
    within("refused connections", refused).await;
}

/// Polls until `probe` is true, and fails the test with `what` when patience runs out.
pub async fn eventually(what: &str, probe: impl FnMut() -> bool) {
    assert!(holds_within(patience(), probe).await, "never came true within {:?}: {what}", patience());
}

/// Whether `probe` becomes true before `limit`; for scenarios that name a time.
pub async fn holds_within(limit: Duration, mut probe: impl FnMut() -> bool) -> bool {
    let end = tokio::time::Instant::now() + limit;
    loop {
        if probe() {
            return true;
        }
        if tokio::time::Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The pause that a scenario prescribes.
pub async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// SHA-256, for long streams.
pub fn digest(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

/// The p-th percentile of some durations.
pub fn percentile(mut samples: Vec<Duration>, p: usize) -> Duration {
    samples.sort();
    samples[(samples.len() - 1) * p / 100]
}
