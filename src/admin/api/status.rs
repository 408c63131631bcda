//! `GET status`, and what load balancers ask: `healthz`, `readyz`.

use http::StatusCode;
use serde::Serialize;

use super::{millis, time};
use crate::admin::Plane;
use crate::admin::answer::{ApiError, Reply};
use crate::clock;
use crate::control;
use crate::lifecycle::Phase;

const TEXT: &str = "text/plain; charset=utf-8";

/// The process answers.
pub fn live() -> Reply {
    Reply::text(TEXT, "ok\n")
}

/// It takes new work.
pub fn ready(plane: &Plane) -> Result<Reply, ApiError> {
    if plane.lifecycle.phase() == Phase::Running {
        return Ok(Reply::text(TEXT, "ready\n"));
    }
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "the gateway takes no new work"))
}

#[derive(Serialize)]
struct Status {
    version: &'static str,
    features: Vec<&'static str>,
    pid: u32,
    /// `running`, `draining`, `ended`.
    phase: &'static str,
    /// Of a drain: how long open work may still go on.
    drain_left_ms: Option<u64>,
    started: Option<String>,
    uptime_ms: u64,
    connections: Connections,
    /// Without those of workers that have not answered.
    tunnels: usize,
    totals: Totals,
    workers: Vec<Worker>,
    configuration: Configuration,
}

#[derive(Serialize)]
struct Connections {
    open: usize,
    max: usize,
}

/// Since the start, over all routes: asked twice, they are rates. Of a route that is gone they are lost some time.
#[derive(Serialize)]
struct Totals {
    requests: u64,
    handshakes_refused: u64,
    tunnels_opened: u64,
    messages_in: u64,
    messages_out: u64,
    /// Of bodies and of tunnels.
    bytes_in: u64,
    bytes_out: u64,
}

impl From<control::Totals> for Totals {
    fn from(totals: control::Totals) -> Self {
        let control::Totals { requests, handshakes_refused, tunnels_opened, .. } = totals;
        let control::Totals { messages_in, messages_out, bytes_in, bytes_out, .. } = totals;
        Self { requests, handshakes_refused, tunnels_opened, messages_in, messages_out, bytes_in, bytes_out }
    }
}

#[derive(Serialize)]
struct Worker {
    worker: usize,
    connections: usize,
    /// What the accept loop compares.
    load: usize,
    /// `null`: it has not answered.
    tunnels: Option<usize>,
}

#[derive(Serialize)]
struct Configuration {
    generation: u64,
    since: Option<String>,
    /// Reloads that were refused.
    refused: u64,
    last_reload: Option<LastReload>,
}

#[derive(Serialize)]
struct LastReload {
    at: Option<String>,
    reloaded: bool,
    problems: usize,
}

pub async fn status(plane: &Plane) -> Result<Reply, ApiError> {
    let counts = plane.tunnels.counts().await;
    let (phase, drain_left_ms) = match plane.lifecycle.phase() {
        Phase::Running => ("running", None),
        Phase::Draining { deadline, .. } => {
            ("draining", Some(millis(deadline.saturating_duration_since(clock::now()))))
        }
        Phase::Ended => ("ended", None),
    };
    let history = plane.in_use.history();
    let workers = plane.loads.iter().zip(&counts).enumerate().map(|(worker, (load, tunnels))| Worker {
        worker,
        connections: load.connections(),
        load: load.weight(),
        tunnels: *tunnels,
    });
    Reply::json(&Status {
        version: env!("CARGO_PKG_VERSION"),
        features: if cfg!(feature = "demo") { vec!["demo"] } else { Vec::new() },
        pid: std::process::id(),
        phase,
        drain_left_ms,
        started: time(plane.started.1),
        uptime_ms: millis(plane.started.0.elapsed()),
        connections: Connections { open: plane.connections.open(), max: plane.connections.max() },
        tunnels: counts.iter().flatten().sum(),
        totals: plane.metrics.totals().into(),
        workers: workers.collect(),
        configuration: Configuration {
            generation: plane.in_use.snapshot().number,
            since: time(history.since),
            refused: history.refused,
            last_reload: history.last.map(|(at, outcome)| LastReload {
                at: time(at),
                reloaded: outcome.changes.is_some(),
                problems: outcome.problems.len() + outcome.unsaid,
            }),
        },
    })
}
