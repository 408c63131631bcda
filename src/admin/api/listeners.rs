//! `GET listeners`: where clients come in, and what they are offered.

use serde::Serialize;

use super::millis;
use crate::admin::Plane;
use crate::admin::answer::{ApiError, Reply};
use crate::snapshot::ListenerPlan;

#[derive(Serialize)]
struct List {
    listeners: Vec<Listener>,
    /// This one.
    admin: Option<AdminListener>,
}

#[derive(Serialize)]
struct Listener {
    name: String,
    /// As configured; the port may be 0, and is another one then.
    address: String,
    tls: bool,
    protocols: Vec<&'static str>,
    websocket_over_h2: bool,
    redirect_https: bool,
    /// Whether an operator has it take no new connections.
    draining: bool,
    /// Peers that introduce their clients with a PROXY header.
    proxy_protocol: Option<Vec<String>>,
    timeouts: Timeouts,
    limits: Limits,
}

#[derive(Serialize)]
struct Timeouts {
    tls_handshake_ms: u64,
    request_head_ms: u64,
    keep_alive_ms: u64,
}

#[derive(Serialize)]
struct Limits {
    head_size: usize,
    fields: usize,
    target_size: usize,
}

#[derive(Serialize)]
struct AdminListener {
    address: String,
    tls: bool,
    token: bool,
    hosts: Vec<String>,
}

impl Listener {
    fn new(plan: &ListenerPlan, draining: bool) -> Self {
        let mut protocols = Vec::new();
        if plan.protocols.http2 {
            protocols.push(if plan.tls.is_some() { "h2" } else { "h2c" });
        }
        if plan.protocols.http1 {
            protocols.push("http/1.1");
        }
        let proxies = plan.proxy_protocol.as_ref().map(|peers| {
            let networks = peers.networks.iter().map(ToString::to_string);
            networks.chain(peers.unix.then(|| "unix".to_owned())).collect()
        });
        Self {
            name: plan.name.to_string(),
            address: plan.key.address.to_string(),
            tls: plan.tls.is_some(),
            protocols,
            websocket_over_h2: plan.websocket_over_h2 && plan.protocols.http2,
            redirect_https: plan.redirect_https,
            draining,
            proxy_protocol: proxies,
            timeouts: Timeouts {
                tls_handshake_ms: millis(plan.timeouts.tls_handshake),
                request_head_ms: millis(plan.timeouts.request_head),
                keep_alive_ms: millis(plan.timeouts.keep_alive),
            },
            limits: Limits {
                head_size: plan.limits.head_size,
                fields: plan.limits.fields,
                target_size: plan.limits.target_size,
            },
        }
    }
}

pub fn listeners(plane: &Plane) -> Result<Reply, ApiError> {
    let snapshot = plane.in_use.snapshot();
    let admin = snapshot.admin.as_ref().map(|admin| AdminListener {
        address: admin.key.address.to_string(),
        tls: admin.tls.is_some(),
        token: admin.token.is_some(),
        hosts: admin.hosts.clone(),
    });
    let listeners = snapshot.listeners.iter().map(|plan| Listener::new(plan, plane.sweeps.is_shut(&plan.name)));
    Reply::json(&List { listeners: listeners.collect(), admin })
}
