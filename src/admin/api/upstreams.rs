//! `GET upstreams`: the servers, how they stand and what they have; who waits for them; which local ports they take.

use serde::Serialize;

use super::{millis, moment};
use crate::admin::Plane;
use crate::admin::answer::{ApiError, Reply};
use crate::upstream::{self, Definition, Server, Standing};

#[derive(Serialize)]
struct List {
    upstreams: Vec<Upstream>,
    ports: Ports,
}

#[derive(Serialize)]
struct Upstream {
    name: String,
    websocket_only: bool,
    drain_rate: Option<u32>,
    checked: bool,
    servers: Vec<Row>,
    queue: Queue,
    retries: Retries,
}

#[derive(Serialize)]
struct Row {
    /// As logs name it.
    server: String,
    /// The same for the same upstream and server, in every process.
    id: String,
    /// `up`, `trial`, `on-trial`, `ejected`, `down`.
    standing: &'static str,
    /// When it last went out or came back; `null`: never yet.
    since: Option<String>,
    /// It finishes what it has, and gets nothing new.
    draining: bool,
    weight: u32,
    backup: bool,
    max_connections: Option<u32>,
    requests: u32,
    tunnels: u32,
    idle_connections: u32,
    ejections: u64,
    checks: Checks,
    last_check: Option<LastCheck>,
}

#[derive(Serialize)]
struct Checks {
    passed: u64,
    failed: u64,
    /// How often they have taken the server out.
    falls: u64,
}

#[derive(Serialize)]
struct LastCheck {
    at: Option<String>,
    took_ms: u64,
    passed: bool,
    failure: Option<String>,
}

#[derive(Serialize)]
struct Queue {
    length: usize,
    joined: u64,
    waited_ms: u64,
    refused: u64,
    timed_out: u64,
}

#[derive(Serialize)]
struct Retries {
    taken: u64,
    refused: u64,
}

#[derive(Serialize)]
struct Ports {
    /// Local ports that there are for each pair of addresses.
    per_pair: u32,
    pairs: Vec<Pair>,
}

#[derive(Serialize)]
struct Pair {
    /// `null`: the kernel's choice.
    source: Option<String>,
    destination: String,
    live: u32,
}

impl Row {
    fn of(upstream: &Definition, server: &Server) -> Self {
        let condition = server.state.condition(upstream);
        Self {
            server: server.url.to_string(),
            id: format!("{:016x}", server.id.0),
            standing: match condition.standing {
                Standing::Up => "up",
                Standing::Trial => "trial",
                Standing::OnTrial => "on-trial",
                Standing::Ejected => "ejected",
                Standing::Down => "down",
            },
            since: condition.since.and_then(moment),
            draining: server.drains(),
            weight: server.weight,
            backup: server.backup,
            max_connections: server.max_connections,
            requests: server.state.requests(),
            tunnels: server.state.tunnels(),
            idle_connections: server.state.idle(),
            ejections: condition.ejections,
            checks: Checks {
                passed: condition.checks.passed,
                failed: condition.checks.failed,
                falls: condition.checks.falls,
            },
            last_check: condition.last_check.map(|check| LastCheck {
                at: moment(check.at),
                took_ms: millis(check.took),
                passed: check.failure.is_none(),
                failure: check.failure,
            }),
        }
    }
}

impl Upstream {
    fn of(upstream: &Definition) -> Self {
        let (queue, retries) = (upstream.queue_counts(), upstream.retry_counts());
        let (_, servers) = upstream.roster.read();
        Self {
            name: upstream.name.to_string(),
            websocket_only: upstream.websocket_only,
            drain_rate: upstream.drain_rate,
            checked: upstream.health.is_some(),
            servers: servers.iter().map(|server| Row::of(upstream, server)).collect(),
            queue: Queue {
                length: queue.length,
                joined: queue.joined,
                waited_ms: millis(queue.waited),
                refused: queue.refused,
                timed_out: queue.timed_out,
            },
            retries: Retries { taken: retries.taken, refused: retries.refused },
        }
    }
}

pub fn upstreams(plane: &Plane) -> Result<Reply, ApiError> {
    let snapshot = plane.in_use.snapshot();
    let (per_pair, pairs) = upstream::ports_in_use();
    let pairs = pairs.into_iter().map(|(pair, live)| Pair {
        source: pair.source.map(|source| source.to_string()),
        destination: pair.destination.to_string(),
        live,
    });
    Reply::json(&List {
        upstreams: snapshot.upstreams.iter().map(|upstream| Upstream::of(upstream)).collect(),
        ports: Ports { per_pair, pairs: pairs.collect() },
    })
}
