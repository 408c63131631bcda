//! One immutable, validated configuration in use: what `run` serves, `check` tries, `explain` asks.
//!
//! Owns nothing but the result of each stage's `build`. A request ends under the snapshot it began with; a tunnel keeps
//! its own options, so that a snapshot is gone with the last request that has to do with it. What must outlive a reload
//! (counts, tickets, our name in `Via`) is carried over from the one before.

mod admin;

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::looked_at::LookedAt;
use crate::config::model::{
    Config, Listener, ListenerKey, ListenerLimits, ListenerTimeouts, Peers, Protocols, Route, TraceMode,
};
use crate::config::places::Rulebook;
use crate::config::report::{Digest, Report, Spot};
use crate::config::written::{Changes, Written};
use crate::limits::{Ledger, Shut, Tunnels};
use crate::proto::via::Via;
use crate::route::RouteTable;
use crate::telemetry::AccessLogHandle;
use crate::telemetry::metrics::{Books, ListenerBook, RouteBook};
use crate::tls::{ServerPolicies, SystemRoots};
use crate::types::{Name, Scheme};
use crate::upstream::{AskedDrains, Definition, States};

pub use admin::{AdminPlan, Token};

/// Everything a worker needs to know.
pub struct Snapshot {
    /// Counts the configurations that this process has had in use, from 1.
    pub number: u64,
    pub listeners: Vec<Arc<ListenerPlan>>,
    /// Where the gateway is asked and told; nowhere, unless the configuration says so.
    pub admin: Option<Arc<AdminPlan>>,
    pub table: RouteTable,
    /// In the order of the configuration; `table` answers with an index into this.
    pub routes: Vec<Route>,
    /// Of each route, in the same order; `None` where they are not counted.
    pub tunnels: Vec<Option<Tunnels>>,
    /// What is counted of each route, in the same order.
    pub route_books: Vec<Arc<RouteBook>>,
    /// What is counted of requests that no route takes.
    pub unrouted: Arc<RouteBook>,
    /// `Target::Upstream` is an index into this.
    pub upstreams: Vec<Arc<Definition>>,
    /// What the files hold that each of them is built on.
    upstream_files: Vec<Files>,
    /// What its rules are called, with their places.
    pub rules: Rulebook,
    pub trusted_proxies: Peers,
    pub forwarded: bool,
    pub trace: TraceMode,
    /// The files that it is built on.
    pub looked_at: LookedAt,
    /// Our pseudonym in `Via` (RFC 9110 7.6.3).
    pub via: Via,
    written: Written,
    ledger: Arc<Ledger>,
    books: Arc<Books>,
    /// Servers that drain because somebody has asked for it: of this process, whatever the configuration.
    pub asked_drains: Arc<AskedDrains>,
    /// Routes that take no new tunnels for the same reason.
    pub shut_routes: Arc<Shut>,
    /// Listeners that take no new connections.
    pub shut_listeners: Arc<Shut>,
    states: Arc<States>,
}

/// A listener as its connections see it.
pub struct ListenerPlan {
    /// Position in the configuration.
    pub index: usize,
    pub key: ListenerKey,
    pub name: Name,
    pub tls: Option<Arc<ServerPolicies>>,
    pub protocols: Protocols,
    pub websocket_over_h2: bool,
    pub redirect_https: bool,
    pub proxy_protocol: Option<Peers>,
    pub timeouts: ListenerTimeouts,
    pub limits: ListenerLimits,
    /// What is counted of it.
    pub book: Arc<ListenerBook>,
}

impl ListenerPlan {
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }

    /// Whether a connection that was made under the one is as good under the other, whoever made it.
    pub fn offers_the_same(&self, other: &Self) -> bool {
        let tls = match (&self.tls, &other.tls) {
            (None, None) => true,
            (Some(policies), Some(others)) => policies.ask_the_same(others),
            _ => false,
        };
        tls && self.protocols == other.protocols
            && self.websocket_over_h2 == other.websocket_over_h2
            && self.proxy_protocol == other.proxy_protocol
            && self.limits.head_size == other.limits.head_size
            && self.limits.fields == other.limits.fields
    }

    fn build(
        index: usize,
        listener: &Listener,
        previous: Option<&Snapshot>,
        books: &Books,
        report: &mut Report,
    ) -> Option<Arc<Self>> {
        let key = listener.key();
        let before = previous.and_then(|previous| previous.listener(&key)).and_then(|before| before.tls.as_deref());
        let tls = match &listener.tls {
            Some(tls) => Some(Arc::new(ServerPolicies::build(tls, listener.protocols, before, report)?)),
            None => None,
        };
        Some(Arc::new(Self {
            index,
            key,
            name: listener.name.clone(),
            tls,
            protocols: listener.protocols,
            websocket_over_h2: listener.websocket_over_h2,
            redirect_https: listener.redirect_https,
            proxy_protocol: listener.proxy_protocol.clone(),
            timeouts: listener.timeouts.clone(),
            limits: listener.limits.clone(),
            book: books.listener(&listener.name),
        }))
    }
}

impl Snapshot {
    /// Builds every stage. All problems go into the report; `None` if any of them is an error.
    ///
    /// What `previous` knows of what is in this one as well is carried over: how many tunnels a route has, what was
    /// counted for metrics, tickets of TLS policies, live counts of servers and who is down, connections to upstreams that are the same.
    pub fn build(config: &Config, previous: Option<&Self>, report: &mut Report) -> Option<Self> {
        let books = previous.map_or_else(Arc::default, |previous| previous.books.clone());
        let listeners: Vec<_> = config
            .listeners
            .iter()
            .enumerate()
            .map(|(index, listener)| ListenerPlan::build(index, listener, previous, &books, report))
            .collect();
        AccessLogHandle::look(&config.log, report);
        let table = RouteTable::build(config, report);
        let states = previous.map_or_else(Arc::default, |previous| previous.states.clone());
        let upstreams = build_upstreams(config, &states, previous, report);
        let admin = match &config.admin {
            None => Some(None),
            Some(admin) => {
                let previous = previous.and_then(|previous| previous.admin.as_deref());
                AdminPlan::build(admin, previous, report).map(Some)
            }
        };
        if report.has_errors() {
            return None;
        }
        let listeners = listeners.into_iter().collect::<Option<Vec<_>>>()?;
        check_hosts(config, &listeners, report);
        let (upstreams, upstream_files): (Vec<Arc<Definition>>, _) = upstreams?.into_iter().unzip();
        let ledger = previous.map_or_else(Arc::default, |previous| previous.ledger.clone());
        let asked_drains = previous.map_or_else(Arc::default, |previous| previous.asked_drains.clone());
        let shut_routes = previous.map_or_else(Arc::default, |previous| previous.shut_routes.clone());
        let shut_listeners = previous.map_or_else(Arc::default, |previous| previous.shut_listeners.clone());
        // Before anybody can ask a server of this one.
        upstreams.iter().for_each(|upstream| upstream.honour(&asked_drains));
        Some(Self {
            number: previous.map_or(1, |previous| previous.number + 1),
            listeners,
            admin: admin?,
            table,
            routes: config.routes.clone(),
            tunnels: config.routes.iter().map(|route| tunnels(&ledger, route)).collect(),
            route_books: config.routes.iter().map(|route| books.route(&route.name)).collect(),
            unrouted: books.route(&Name::from("")),
            upstreams,
            upstream_files,
            rules: Rulebook::of(config),
            trusted_proxies: config.server.trusted_proxies.clone(),
            forwarded: config.server.forwarded,
            // Spans that are exported are in a trace.
            trace: if config.log.otlp.is_some() { TraceMode::Start } else { config.server.trace },
            looked_at: report.looked_at(),
            via: previous.map_or_else(our_via, |previous| Some(previous.via.clone()))?,
            written: config.written.clone(),
            ledger,
            books,
            asked_drains,
            shut_routes,
            shut_listeners,
            states,
        })
    }

    /// As it is written.
    pub fn written(&self) -> &Written {
        &self.written
    }

    /// What has changed since `before`, with which this one was built: what is written, and what the files hold.
    pub fn since(&self, before: &Self) -> Changes {
        let mut changes = self.written.since(&before.written);
        for plan in &self.listeners {
            if let (Some(now), Some(old)) = (&plan.tls, before.listener(&plan.key).and_then(|old| old.tls.as_ref()))
                && !now.is_kept_from(old)
            {
                changes.listeners.note_renewed(&plan.name);
            }
        }
        if let (Some(now), Some(old)) = (&self.admin, &before.admin) {
            changes.admin |= !now.has_files_of(old);
        }
        for (upstream, files) in self.upstreams.iter().zip(&self.upstream_files) {
            if before.upstream(&upstream.name).is_some_and(|(_, old)| old != files) {
                changes.upstreams.note_renewed(&upstream.name);
            }
        }
        changes
    }

    pub fn listener(&self, key: &ListenerKey) -> Option<&Arc<ListenerPlan>> {
        self.listeners.iter().find(|plan| plan.key == *key)
    }

    fn upstream(&self, name: &Name) -> Option<(&Arc<Definition>, &Files)> {
        let mut all = self.upstreams.iter().zip(&self.upstream_files);
        all.find(|(upstream, _)| upstream.name == *name)
    }
}

type Files = Box<[Digest]>;

/// All upstreams, with what their files hold. Where neither text nor files differ from `previous`, it is the same one: its
/// groups on the workers, and the connections that they have, go on.
fn build_upstreams(
    config: &Config,
    states: &Arc<States>,
    previous: Option<&Snapshot>,
    report: &mut Report,
) -> Option<Vec<(Arc<Definition>, Files)>> {
    let mut roots = SystemRoots::default();
    let mut all = Vec::new();
    for upstream in &config.upstreams {
        let known = previous.and_then(|previous| previous.upstream(&upstream.name));
        let before = report.files_read();
        let built = Definition::build(upstream, &mut roots, states, known.map(|(known, _)| &**known), report);
        let files: Files = report.read_since(before).into();
        let is_written_the_same =
            previous.is_some_and(|previous| config.written.has_upstream_of(&previous.written, &upstream.name));
        let kept = known.filter(|(_, old)| is_written_the_same && **old == files).map(|(known, _)| known.clone());
        all.push(built.map(|built| (kept.unwrap_or_else(|| Arc::new(built)), files)));
    }
    all.into_iter().collect()
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        tracing::debug!(generation = self.number, "nothing uses this configuration any more");
    }
}

fn tunnels(ledger: &Ledger, route: &Route) -> Option<Tunnels> {
    let counts = route.websocket.as_ref()?.tunnels;
    ledger.tunnels(&route.name, counts.max, counts.max_per_address)
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
