//! `GET routes`: which requests go where, and which handshakes may open.

use serde::Serialize;

use super::millis;
use crate::admin::Plane;
use crate::admin::answer::{ApiError, Reply};
use crate::config::model::{HostPattern, PathPattern, Route, Target, WebSocketPolicy};
use crate::snapshot::Snapshot;

#[derive(Serialize)]
struct List {
    /// In the order of the files.
    routes: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    /// Empty: any.
    hosts: Vec<String>,
    path: String,
    /// Empty: all.
    listeners: Vec<String>,
    client_certificate: bool,
    strip_prefix: Option<String>,
    /// One of the next three.
    upstream: Option<String>,
    redirect: Option<Redirect>,
    respond: Option<u16>,
    websocket: Option<WebSocket>,
}

#[derive(Serialize)]
struct Redirect {
    to: String,
    status: u16,
}

#[derive(Serialize)]
struct WebSocket {
    origins: Vec<String>,
    allow_missing_origin: bool,
    subprotocols: Option<Vec<String>>,
    checked_frames: bool,
    idle_timeout_ms: u64,
    ping_interval_ms: Option<u64>,
    max_lifetime_ms: Option<u64>,
    max_tunnels: Option<u32>,
    max_tunnels_per_address: Option<u32>,
    /// `null`: they are not counted.
    tunnels: Option<usize>,
}

impl Row {
    fn of(snapshot: &Snapshot, index: usize, route: &Route) -> Self {
        let (mut upstream, mut redirect, mut respond) = (None, None, None);
        match &route.target {
            Target::Upstream(index) => upstream = snapshot.upstreams.get(*index).map(|known| known.name.to_string()),
            Target::Redirect { to, status } => redirect = Some(Redirect { to: to.clone(), status: *status }),
            Target::Respond { status, .. } => respond = Some(*status),
        }
        let tunnels = snapshot.tunnels.get(index).and_then(Option::as_ref).map(|tunnels| tunnels.open());
        Self {
            name: route.name.to_string(),
            hosts: route.hosts.iter().map(|host| written(&host.value)).collect(),
            path: match &route.path.value {
                PathPattern::Prefix(path) => path.clone(),
                PathPattern::Exact(path) => format!("= {path}"),
                PathPattern::Regex(regex) => format!("~ {regex}"),
            },
            listeners: route.listeners.iter().map(|name| name.value.to_string()).collect(),
            client_certificate: route.client_certificate.value,
            strip_prefix: route.strip_prefix.as_ref().map(|prefix| prefix.value.clone()),
            upstream,
            redirect,
            respond,
            websocket: route.websocket.as_ref().map(|policy| WebSocket::of(policy, tunnels)),
        }
    }
}

impl WebSocket {
    fn of(policy: &WebSocketPolicy, tunnels: Option<usize>) -> Self {
        Self {
            origins: policy.origins.iter().map(|origin| origin.value.to_string()).collect(),
            allow_missing_origin: policy.allow_missing_origin,
            subprotocols: policy.subprotocols.allow.clone(),
            checked_frames: policy.checked_frames,
            idle_timeout_ms: millis(policy.idle_timeout),
            ping_interval_ms: policy.ping_interval.map(millis),
            max_lifetime_ms: policy.max_lifetime.map(millis),
            max_tunnels: policy.tunnels.max,
            max_tunnels_per_address: policy.tunnels.max_per_address,
            tunnels,
        }
    }
}

pub fn routes(plane: &Plane) -> Result<Reply, ApiError> {
    let snapshot = plane.in_use.snapshot();
    let rows = snapshot.routes.iter().enumerate().map(|(index, route)| Row::of(&snapshot, index, route));
    Reply::json(&List { routes: rows.collect() })
}

fn written(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Wildcard(suffix) => format!("*.{suffix}"),
    }
}
