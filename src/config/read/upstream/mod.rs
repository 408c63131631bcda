//! `[upstream.NAME]`, and the upstreams that inline URLs stand for.

mod balance;
mod ejection;
mod health;
mod limits;
mod protocols;
mod servers;
mod sticky;

use std::net::IpAddr;
use std::time::Duration;

use super::address;
use super::server::DRAIN_RATES;
use super::tls::pair;
use super::tree::{Cx, Table, refuse_duplicates};
use crate::config::model::{Balance, Check, Ejection, HostHeader, Panic, ServerAddress, Upstream, UpstreamServer};
use crate::config::report::{Located, Spot};
use crate::proto::proxy_protocol::Version;
use crate::types::Name;

const RETRIES: std::ops::RangeInclusive<u32> = 0..=10;

pub fn upstream(cx: &mut Cx<'_>, mut table: Table<'_>, name: &str) -> Upstream {
    let mut upstream = plain(name, table.spot.clone());
    if !table.has("servers") {
        table.missing(cx, "`servers`", "add for example `servers = [\"ws://127.0.0.1:9000\"]`");
    }
    (upstream.servers, upstream.websocket_only) = servers::read(cx, &mut table);
    upstream.balance = balance::read(cx, &mut table);
    upstream.sticky = sticky::read(cx, &mut table);
    upstream.slow_start = table.duration_or_none(cx, "slow_start");
    upstream.drain_rate = table.integer_or_none(cx, "drain_rate", DRAIN_RATES).map(|rate| rate.value);
    upstream.health = health::read(cx, &mut table, &upstream);
    upstream.ejection = ejection::read(cx, &mut table);
    upstream.panic = table.word(cx, "panic", &[("all", Panic::All), ("refuse", Panic::Refuse)]).unwrap_or_default();
    upstream.host = host(cx, &mut table, &upstream.servers);
    upstream.via = table.boolean(cx, "via", true).value;
    upstream.retries = table.integer(cx, "retries", RETRIES).map_or(upstream.retries, |number| number.value);
    limits::read(cx, &mut table, &mut upstream);
    upstream.connect_timeout = table.duration(cx, "connect_timeout", upstream.connect_timeout);
    upstream.sources = sources(cx, &mut table, &upstream.servers);
    upstream.proxy_protocol = table.word(cx, "proxy_protocol", &[("v1", Version::V1), ("v2", Version::V2)]);
    upstream.protocols = protocols::read(cx, &mut table, &upstream.servers);
    if upstream.proxy_protocol.is_some() && upstream.protocols.http2 {
        let message = "`proxy_protocol` names one client for a connection, and HTTP/2 shares connections among many";
        cx.error("conflicting-keys", &table.key_spot("proxy_protocol"), message)
            .help("write protocols = [\"http/1.1\"], or remove `proxy_protocol`");
    }
    upstream.websocket_over_h2 = protocols::websocket_over_h2(cx, &mut table, upstream.protocols);
    let asks_websocket = upstream.health.as_ref().is_some_and(|health| matches!(health.check, Check::WebSocket { .. }));
    if asks_websocket && !upstream.protocols.http1 && !upstream.websocket_over_h2.value {
        let message = "every check would fail: a WebSocket can be opened neither over HTTP/2 nor over HTTP/1.1";
        cx.error("no-websocket", &table.key_spot("health"), message)
            .help("remove `websocket_over_h2 = false`, or write health = { tcp = true }");
    }
    tls(cx, &mut table, &mut upstream.servers);
    table.close(cx);
    upstream
}

/// What holds for every server that does not say it itself.
fn tls(cx: &mut Cx<'_>, table: &mut Table<'_>, servers: &mut [UpstreamServer]) {
    let ca = table.string(cx, "ca").and_then(|path| cx.file(path));
    let own = pair(cx, table, "client_cert", "client_key");
    let clear = !servers.is_empty() && servers.iter().all(|server| server.tls_name.is_none());
    for key in ["ca", "client_cert", "client_key"].into_iter().filter(|key| clear && table.has(key)) {
        let spot = table.key_spot(key);
        cx.error("no-effect", &spot, format!("`{key}` has no effect: no server of this upstream uses TLS"))
            .help("write wss:// or https:// for the servers, or remove this key");
    }
    for server in servers.iter_mut().filter(|server| server.tls_name.is_some()) {
        server.ca = server.ca.take().or_else(|| ca.clone());
        server.client_certificate = server.client_certificate.take().or_else(|| own.clone());
    }
}

/// What a URL stands for that a route names directly.
pub fn inline(cx: &mut Cx<'_>, text: &Located<String>) -> Option<Upstream> {
    let (kind, server) = servers::server(cx, text)?;
    let mut upstream = plain(text, text.spot.clone());
    upstream.websocket_only = kind.websocket_only;
    upstream.servers.push(server);
    Some(upstream)
}

/// Names stand in logs, metrics and in `upstream = "NAME"`, where a colon or slash would make them a URL.
pub fn check_name(cx: &mut Cx<'_>, name: &str, spot: &Spot) {
    if name.is_empty() || name.len() > 128 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        cx.error("bad-name", spot, format!("`{name}` cannot be the name of an upstream"))
            .help("a name consists of letters, digits, `-`, `_` and `.`");
    }
}

fn plain(name: &str, spot: Spot) -> Upstream {
    Upstream {
        protocols: protocols::DEFAULT,
        websocket_over_h2: Located::new(true, spot.clone()),
        name: Name::new(name),
        servers: Vec::new(),
        balance: Balance::RoundRobin,
        slow_start: None,
        drain_rate: None,
        sticky: None,
        health: None,
        ejection: Some(Ejection::default()),
        panic: Panic::All,
        websocket_only: false,
        host: HostHeader::Preserve,
        via: true,
        retries: 1,
        retry_budget: limits::RETRY_BUDGET,
        queue: limits::QUEUE,
        connect_timeout: Duration::from_secs(5),
        sources: Vec::new(),
        proxy_protocol: None,
        spot,
    }
}

fn sources(cx: &mut Cx<'_>, table: &mut Table<'_>, servers: &[UpstreamServer]) -> Vec<Located<IpAddr>> {
    let spot = table.key_spot("source");
    let Some(list) = table.strings(cx, "source") else { return Vec::new() };
    if list.value.is_empty() {
        cx.error("empty-list", &list.spot, "`source` is empty").help("leave the key out to let the kernel choose");
    }
    let mut sources = Vec::new();
    for text in &list.value {
        sources.extend(cx.check(text, address::source(text)));
    }
    refuse_duplicates(cx, &sources, "the address", ToString::to_string);
    if !servers.is_empty() && servers.iter().all(|server| matches!(server.address, ServerAddress::Unix(_))) {
        cx.error("no-effect", &spot, "`source` has no effect: all servers are unix sockets").help("remove this key");
    }
    for server in servers {
        let ServerAddress::Ip(address) = &server.address else { continue };
        if sources.len() == list.value.len()
            && !sources.is_empty()
            && !sources.iter().any(|source| source.value.is_ipv6() == address.is_ipv6())
        {
            let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
            cx.error(
                "no-source",
                &spot,
                format!("no address in `source` can reach this server: it has an {family} address"),
            )
            .help(format!("add an {family} address of this machine"))
            .also(&server.spot, "the server");
        }
    }
    sources
}

fn host(cx: &mut Cx<'_>, table: &mut Table<'_>, servers: &[UpstreamServer]) -> HostHeader {
    let words = [("preserve", HostHeader::Preserve), ("upstream", HostHeader::Upstream)];
    let host = table.word(cx, "host", &words).unwrap_or(HostHeader::Preserve);
    let unix = servers.iter().find(|server| matches!(server.address, ServerAddress::Unix(_)));
    if let (HostHeader::Upstream, Some(unix)) = (host, unix) {
        let spot = table.key_spot("host");
        cx.error("no-name", &spot, "`host = \"upstream\"` sends the server's name, and a unix socket has none")
            .help("write \"preserve\": the client's Host goes upstream")
            .also(&unix.spot, "the unix socket");
    }
    host
}
