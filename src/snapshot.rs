//! One immutable, validated configuration in use: what `run` serves, `check` tries, `explain` asks.
//!
//! Owns nothing but the result of each stage's `build`. A request or tunnel ends under the snapshot it began with.

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::model::{Config, ListenerLimits, ListenerTimeouts, Peers, Protocols, Route};
use crate::config::report::{Report, Spot};
use crate::limits::Tunnels;
use crate::proto::via::Via;
use crate::route::RouteTable;
use crate::tls::{ServerPolicies, SystemRoots};
use crate::types::{Name, Scheme};
use crate::upstream::Definition;

/// Everything a worker needs to know.
pub struct Snapshot {
    pub listeners: Vec<Arc<ListenerPlan>>,
    pub table: RouteTable,
    /// In the order of the configuration; `table` answers with an index into this.
    pub routes: Vec<Route>,
    /// Of each route, in the same order; `None` where they are not counted.
    pub tunnels: Vec<Option<Tunnels>>,
    /// `Target::Upstream` is an index into this.
    pub upstreams: Vec<Arc<Definition>>,
    pub trusted_proxies: Peers,
    pub forwarded: bool,
    /// Our pseudonym in `Via` (RFC 9110 7.6.3).
    pub via: Via,
}

/// A listener as its connections see it.
pub struct ListenerPlan {
    /// Position in the configuration.
    pub index: usize,
    pub name: Name,
    pub tls: Option<Arc<ServerPolicies>>,
    pub protocols: Protocols,
    pub websocket_over_h2: bool,
    pub redirect_https: bool,
    pub proxy_protocol: Option<Peers>,
    pub timeouts: ListenerTimeouts,
    pub limits: ListenerLimits,
}

impl ListenerPlan {
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }
}

impl Snapshot {
    /// Builds every stage. All problems go into the report; `None` if any of them is an error.
    ///
    /// What `previous` knows of servers that are in this one as well is carried over: live counts, and who is down.
    pub fn build(config: &Config, previous: Option<&Self>, report: &mut Report) -> Option<Self> {
        let listeners: Vec<_> = config
            .listeners
            .iter()
            .enumerate()
            .map(|(index, listener)| {
                let tls = match &listener.tls {
                    Some(tls) => Some(Arc::new(ServerPolicies::build(tls, listener.protocols, report)?)),
                    None => None,
                };
                Some(Arc::new(ListenerPlan {
                    index,
                    name: listener.name.clone(),
                    tls,
                    protocols: listener.protocols,
                    websocket_over_h2: listener.websocket_over_h2,
                    redirect_https: listener.redirect_https,
                    proxy_protocol: listener.proxy_protocol.clone(),
                    timeouts: listener.timeouts.clone(),
                    limits: listener.limits.clone(),
                }))
            })
            .collect();
        let table = RouteTable::build(config, report);
        let mut roots = SystemRoots::default();
        let upstreams: Vec<_> = config
            .upstreams
            .iter()
            .map(|upstream| {
                let known = previous.and_then(|previous| previous.upstream(&upstream.name));
                Definition::build(upstream, &mut roots, known, report).map(Arc::new)
            })
            .collect();
        if report.has_errors() {
            return None;
        }
        let listeners = listeners.into_iter().collect::<Option<Vec<_>>>()?;
        check_hosts(config, &listeners, report);
        Some(Self {
            listeners,
            table,
            routes: config.routes.clone(),
            tunnels: config.routes.iter().map(tunnels).collect(),
            upstreams: upstreams.into_iter().collect::<Option<_>>()?,
            trusted_proxies: config.server.trusted_proxies.clone(),
            forwarded: config.server.forwarded,
            via: our_via()?,
        })
    }

    fn upstream(&self, name: &Name) -> Option<&Definition> {
        self.upstreams.iter().find(|upstream| upstream.name == *name).map(|upstream| &**upstream)
    }
}

fn tunnels(route: &Route) -> Option<Tunnels> {
    let counts = route.websocket.as_ref()?.tunnels;
    Tunnels::new(counts.max, counts.max_per_address)
}

/// Warns of every host of a route that some TLS listener serves without a certificate for it, once per host.
fn check_hosts(config: &Config, listeners: &[Arc<ListenerPlan>], report: &mut Report) {
    let key = |spot: &Spot| (spot.file, spot.range.start);
    for listener in listeners {
        let Some(policies) = &listener.tls else { continue };
        let served = |route: &&Route| {
            route.listeners.is_empty() || route.listeners.iter().any(|name| name.value == listener.name)
        };
        let told: HashSet<_> = report.problems.iter().filter_map(|problem| problem.spot.as_ref().map(key)).collect();
        let hosts = config.routes.iter().filter(served).flat_map(|route| &route.hosts);
        policies.check_hosts(hosts.filter(|host| !told.contains(&key(&host.spot))), report);
    }
}

/// `portcullis-` and four random bytes: tells this gateway's own requests from those of another in front of it.
fn our_via() -> Option<Via> {
    let mut bytes = [0_u8; 4];
    // Without randomness only the recognition of loops through a twin suffers.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    Via::new(format!("portcullis-{:08x}", u32::from_be_bytes(bytes))).ok()
}
