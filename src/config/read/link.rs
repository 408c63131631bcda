//! What no single table can know: names that refer to others, duplicates, and requests that could arrive where they
//! must not.
//!
//! Runs once, after all files. Where a file could not be read in full, references are left alone: what they name may
//! stand in the part that is missing.

use std::collections::{BTreeMap, HashMap};

use super::suggest::nearest;
use super::{Draft, DraftRoute, DraftUpstream, UpstreamReference, address, admin, server};
use crate::config::model::{
    ClientAuth, Config, HostPattern, ListenAddress, Listener, ListenerTls, Route, Target, TlsPolicy, Upstream,
};
use crate::config::report::{Report, Spot};
use crate::types::Name;

pub fn finish(draft: Draft, report: &mut Report) -> Option<Config> {
    let top = Spot { file: 0, range: 0..0 };
    let linkable = !draft.incomplete && draft.listeners.len() <= LISTENERS;
    if !draft.incomplete {
        required(&draft, report, &top);
    }
    listener_duplicates(&draft.listeners, report);
    route_duplicates(&draft.routes, report);
    upstream_duplicates(&draft.upstreams, report);
    for route in &draft.routes {
        if linkable {
            listeners_exist(&route.route, &draft.listeners, report);
            client_certificate(&route.route, &draft.listeners, report);
            nameless_clients(&route.route, &draft, report);
        }
    }
    let (routes, upstreams) = resolve(draft.routes, draft.upstreams, draft.incomplete, report);
    if let Some(admin) = &draft.admin {
        admin::check(admin, &draft.listeners, &upstreams, report);
    }
    Some(Config {
        admin: draft.admin,
        server: draft.server.unwrap_or_else(server::default_server),
        log: draft.log.unwrap_or_else(super::log::default_log),
        listeners: draft.listeners,
        routes,
        upstreams,
        written: draft.written,
        places: draft.places.into(),
    })
}

fn required(draft: &Draft, report: &mut Report, top: &Spot) {
    if draft.listeners.is_empty() {
        report
            .error("no-listener", top, "there is no [[listener]]: nothing could reach this gateway")
            .help("add [[listener]] with `address = \"0.0.0.0:443\"` and a `tls` table");
    }
    let only_redirects = !draft.listeners.is_empty() && draft.listeners.iter().all(|listener| listener.redirect_https);
    if draft.routes.is_empty() && !only_redirects {
        report
            .error("no-route", top, "there is no [[route]]: every request would be refused")
            .help("add [[route]] with `upstream = \"http://127.0.0.1:8080\"`");
    }
}

/// Each pair is compared, and each listener is a socket: there is no use for so many.
const LISTENERS: usize = 1024;

fn listener_duplicates(listeners: &[Listener], report: &mut Report) {
    if let Some(listener) = listeners.get(LISTENERS) {
        report.error("too-many", &listener.spot, format!("a configuration has at most {LISTENERS} listeners"));
        return;
    }
    for (index, listener) in listeners.iter().enumerate() {
        let before = &listeners[..index];
        let any_port = matches!(&listener.address.value, ListenAddress::Tcp(address) if address.port() == 0);
        let unread = matches!(&listener.address.value, ListenAddress::Unix(path) if path.as_os_str().is_empty());
        if unread {
            continue;
        }
        let same_address = before.iter().find(|other| other.address.value == listener.address.value);
        if let Some(other) = same_address.filter(|_| !any_port) {
            report
                .error("duplicate-address", &listener.address.spot, "two listeners have the same address")
                .help("merge them, or change one of the addresses")
                .also(&other.address.spot, "the other one");
        } else if let Some(other) = before.iter().find(|other| other.address.value.shuts_out(&listener.address.value)) {
            report
                .error(
                    "overlapping-address",
                    &listener.address.spot,
                    "this address and that of another listener cannot both be bound",
                )
                .help(address::OVERLAP)
                .also(&other.address.spot, "the other one");
        } else if let Some(other) = before.iter().find(|other| other.name == listener.name) {
            let message = format!("two listeners are called `{}`", listener.name);
            report
                .error("duplicate-name", &listener.spot, message)
                .help("give one of them another `name`")
                .also(&other.spot, "the other one");
        }
    }
}

fn route_duplicates(routes: &[DraftRoute], report: &mut Report) {
    let mut seen: HashMap<&Name, &DraftRoute> = HashMap::new();
    for route in routes {
        let Some(other) = seen.get(&route.route.name) else {
            seen.insert(&route.route.name, route);
            continue;
        };
        let (message, help) = if route.named || other.named {
            (format!("two routes are called `{}`", route.route.name), "give one of them another `name`")
        } else {
            let message = format!("two routes have the same hosts and path, `{}`", route.route.name);
            (message, "remove one, or give each a `name` and `listeners` of its own")
        };
        report.error("duplicate-name", &route.route.spot, message).help(help).also(&other.route.spot, "the other one");
    }
}

/// Within one file TOML itself refuses these; across files it cannot.
fn upstream_duplicates(upstreams: &[DraftUpstream], report: &mut Report) {
    let mut seen: HashMap<&Name, &Spot> = HashMap::new();
    for draft in upstreams {
        if let Some(other) = seen.insert(&draft.upstream.name, &draft.name_spot) {
            let message = format!("the upstream `{}` is defined twice", draft.upstream.name);
            report
                .error("duplicate-name", &draft.name_spot, message)
                .help("give one of them another name")
                .also(other, "the other one");
        }
    }
}

fn listeners_exist(route: &Route, listeners: &[Listener], report: &mut Report) {
    for name in &route.listeners {
        match listeners.iter().find(|listener| listener.name == name.value) {
            None => {
                let message = format!("there is no listener called `{}`", name.value);
                let help = known(&name.value, listeners.iter().map(|listener| &listener.name), "listener");
                report.error("unknown-listener", &name.spot, message).help = help;
            }
            Some(listener) if listener.redirect_https => {
                let message =
                    format!("no request reaches this route through `{}`: it redirects all to https", name.value);
                report
                    .error("unreachable", &name.spot, message)
                    .help("remove this entry")
                    .also(&listener.spot, "`redirect_https = true` here");
            }
            Some(_) => {}
        }
    }
}

fn known<'a>(name: &Name, all: impl Iterator<Item = &'a Name> + Clone, what: &str) -> Option<String> {
    if let Some(near) = nearest(name.as_str(), all.clone().map(Name::as_str)) {
        return Some(format!("did you mean `{near}`?"));
    }
    // A handful helps; a list of a thousand does not.
    let names: Vec<_> = all.take(9).map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => Some(format!("no {what} has a name")),
        9 => None,
        _ => Some(format!("known: {}", names.join(", "))),
    }
}

/// A route that wants a client certificate must not be within reach of a connection that is never asked for one.
///
/// Requests come in under the TLS policy that their host belongs to (the gateway answers 421 where SNI and host differ),
/// so what counts are the policies that the route's hosts can fall under. `client_auth = "optional"` passes: such a
/// request without certificate is answered with 403.
fn client_certificate(route: &Route, listeners: &[Listener], report: &mut Report) {
    if !route.client_certificate.value {
        return;
    }
    let named = |listener: &Listener| route.listeners.iter().any(|name| name.value == listener.name);
    for listener in listeners.iter().filter(|l| !l.redirect_https && (route.listeners.is_empty() || named(l))) {
        let Some(tls) = &listener.tls else {
            let message =
                format!("`{}` has no TLS, so requests arrive there without a client certificate", listener.name);
            report
                .error("certificate-not-asked", &route.client_certificate.spot, message)
                .help("keep this route to TLS listeners with `listeners = [\"…\"]`")
                .also(&listener.spot, "this listener");
            continue;
        };
        for policy in policies_for(tls, &route.hosts) {
            if matches!(policy.client_auth, ClientAuth::None) {
                let message = format!("`{}` does not ask clients for a certificate here", listener.name);
                report
                    .error("certificate-not-asked", &route.client_certificate.spot, message)
                    .help("set `client_auth = \"required\"` and `client_ca` there, or narrow this route's `hosts` or `listeners`")
                    .also(&policy.spot, "this TLS policy");
            }
        }
    }
}

/// Whoever comes over a unix socket has no address; unless it may say one, all of its clients count as one.
fn nameless_clients(route: &Route, draft: &Draft, report: &mut Report) {
    let Some(websocket) = &route.websocket else { return };
    let trusts_sockets = draft.server.as_ref().is_some_and(|server| server.trusted_proxies.unix);
    if websocket.tunnels.max_per_address.is_none() || trusts_sockets {
        return;
    }
    let named = |listener: &Listener| route.listeners.iter().any(|name| name.value == listener.name);
    let reached = draft.listeners.iter().filter(|listener| route.listeners.is_empty() || named(listener));
    let is_nameless = |listener: &&Listener| {
        let is_unix = matches!(listener.address.value, ListenAddress::Unix(_));
        is_unix && !listener.proxy_protocol.as_ref().is_some_and(|peers| peers.unix)
    };
    for listener in reached.filter(is_nameless) {
        let message = format!("all clients that come through `{}` count as one address", listener.name);
        report
            .warning("one-address", &websocket.spot, message)
            .help("add \"unix\" to `server.trusted_proxies`, so that the proxy's `X-Forwarded-For` tells them apart")
            .also(&listener.address.spot, "a unix socket");
    }
}

/// The TLS policies that requests for these hosts can arrive under.
fn policies_for<'a>(tls: &'a ListenerTls, hosts: &[super::Located<HostPattern>]) -> Vec<&'a TlsPolicy> {
    let mut reached: Vec<bool> = vec![hosts.is_empty(); tls.policies.len()];
    let mut default = hosts.is_empty();
    for host in hosts {
        let mut covered = false;
        match &host.value {
            HostPattern::Exact(name) => {
                if let Some(index) = most_specific(tls, name) {
                    reached[index] = true;
                    covered = true;
                }
            }
            HostPattern::Wildcard(suffix) => {
                for (index, policy) in tls.policies.iter().enumerate() {
                    for pattern in &policy.hosts {
                        // A policy can hold some of the route's names, or all of them.
                        reached[index] |= match &pattern.value {
                            HostPattern::Exact(name) => below(name, suffix),
                            HostPattern::Wildcard(other) => {
                                other == suffix || below(other, suffix) || below(suffix, other)
                            }
                        };
                        covered |= matches!(&pattern.value, HostPattern::Wildcard(other) if other == suffix || below(suffix, other));
                    }
                }
            }
        }
        default |= !covered;
    }
    let further = tls.policies.iter().zip(reached).filter(|(_, reached)| *reached).map(|(policy, _)| policy);
    default.then_some(&tls.default).into_iter().chain(further).collect()
}

/// The policy whose host pattern fits a name best: an exact one, else the longest wildcard.
fn most_specific(tls: &ListenerTls, name: &str) -> Option<usize> {
    let fits = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(other) => (other == name).then_some(usize::MAX),
        HostPattern::Wildcard(suffix) => below(name, suffix).then_some(suffix.len()),
    };
    let best = |policy: &TlsPolicy| policy.hosts.iter().filter_map(|host| fits(host)).max();
    let ranked = tls.policies.iter().enumerate().filter_map(|(index, policy)| best(policy).map(|rank| (rank, index)));
    ranked.max().map(|(_, index)| index)
}

fn below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
}

/// Gives every route its upstream: named ones by index, inline ones appended, equal URLs shared.
fn resolve(
    drafts: Vec<DraftRoute>,
    named: Vec<DraftUpstream>,
    incomplete: bool,
    report: &mut Report,
) -> (Vec<Route>, Vec<Upstream>) {
    let mut used = vec![false; named.len()];
    let mut inline: BTreeMap<String, usize> = BTreeMap::new();
    let name_spots: Vec<Spot> = named.iter().map(|draft| draft.name_spot.clone()).collect();
    let mut upstreams: Vec<Upstream> = named.into_iter().map(|draft| draft.upstream).collect();
    let by_name: HashMap<Name, usize> = upstreams.iter().enumerate().map(|(at, up)| (up.name.clone(), at)).collect();
    let mut routes = Vec::with_capacity(drafts.len());
    for DraftRoute { mut route, upstream, .. } in drafts {
        let index = match upstream {
            Some(UpstreamReference::Name(name)) => {
                let name = super::Located::new(Name::new(name.value), name.spot);
                let found = by_name.get(&name.value).copied();
                match found {
                    Some(index) => used[index] = true,
                    None if !incomplete => {
                        let message = format!("there is no upstream called `{}`", name.value);
                        let all = upstreams[..used.len()].iter().map(|upstream| &upstream.name);
                        let help = known(&name.value, all, "upstream");
                        let help =
                            help.map(|help| format!("{help} (a URL begins with ws://, wss://, http:// or https://)"));
                        report.error("unknown-upstream", &name.spot, message).help = help;
                    }
                    None => {}
                }
                found
            }
            Some(UpstreamReference::Inline(upstream)) => {
                let index = *inline.entry(inline_key(&upstream)).or_insert_with(|| {
                    upstreams.push(*upstream);
                    upstreams.len() - 1
                });
                Some(index)
            }
            Some(UpstreamReference::Broken) | None => None,
        };
        if let Some(index) = index {
            route.target = Target::Upstream(index);
            warn_never_answers(&route, &upstreams[index], report);
            refuse_closed_to_websockets(&route, &upstreams[index], report);
        }
        routes.push(route);
    }
    for (index, _) in used.iter().enumerate().filter(|(_, used)| !**used && !incomplete) {
        let message = format!("no route leads to the upstream `{}`", upstreams[index].name);
        report
            .warning("unused-upstream", &name_spots[index], message)
            .help("remove it, or name it in a route's `upstream`");
    }
    (routes, upstreams)
}

/// Equal URLs are one upstream; a relative socket path in another folder's file is another socket.
fn inline_key(upstream: &Upstream) -> String {
    format!("{} {:?}", upstream.name, upstream.servers.first().map(|server| &server.address))
}

fn warn_never_answers(route: &Route, upstream: &Upstream, report: &mut Report) {
    if upstream.websocket_only && route.websocket.is_none() {
        let message =
            "every request to this route is refused: the upstream speaks only WebSocket, and the route never upgrades";
        report
            .warning("never-upgrades", &route.spot, message)
            .help("add a `websocket` table, or write http:// for a server that speaks HTTP");
    }
}

/// A handshake needs HTTP/1.1, or leave to go over HTTP/2.
fn refuse_closed_to_websockets(route: &Route, upstream: &Upstream, report: &mut Report) {
    let over_h2 = &upstream.websocket_over_h2;
    if let (Some(websocket), false, false) = (&route.websocket, upstream.protocols.http1, over_h2.value) {
        let message = format!("no WebSocket can be opened to the upstream `{}`", upstream.name);
        report
            .error("no-websocket", &websocket.spot, message)
            .help("add \"http/1.1\" to its `protocols` (where its servers use TLS), or remove `websocket_over_h2 = false`")
            .also(&over_h2.spot, "neither over HTTP/2 nor over HTTP/1.1");
    }
}
