//! `[upstream.NAME]`, and the upstreams that inline URLs stand for.

mod balance;
mod ejection;
mod health;
mod limits;
mod protocols;
mod servers;
mod sticky;

use std::time::Duration;

use super::tls::pair;
use super::tree::{Cx, Table};
use crate::config::model::{Balance, Check, Ejection, HostHeader, Panic, ServerAddress, Upstream, UpstreamServer};
use crate::config::report::{Located, Spot};
use crate::proto::proxy_protocol::Version;
use crate::types::Name;

const RETRIES: std::ops::RangeInclusive<u32> = 0..=10;
const DRAIN_RATES: std::ops::RangeInclusive<u32> = 1..=100_000;

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
    upstream.proxy_protocol = table.word(cx, "proxy_protocol", &[("v1", Version::V1), ("v2", Version::V2)]);
    upstream.protocols = protocols::read(cx, &mut table, &upstream.servers);
    let asks_http = upstream.health.as_ref().is_some_and(|health| !matches!(health.check, Check::Tcp));
    if asks_http && !upstream.protocols.http1 {
        let message = "checks speak HTTP/1.1, and `protocols` does not allow that with these servers";
        cx.error("conflicting-keys", &table.key_spot("health"), message)
            .help("write health = { tcp = true }, or add \"http/1.1\" to `protocols`");
    }
    if upstream.proxy_protocol.is_some() && upstream.protocols.http2 {
        let message = "`proxy_protocol` names one client for a connection, and HTTP/2 shares connections among many";
        cx.error("conflicting-keys", &table.key_spot("proxy_protocol"), message)
            .help("write protocols = [\"http/1.1\"], or remove `proxy_protocol`");
    }
    upstream.websocket_over_h2 = protocols::websocket_over_h2(cx, &mut table, upstream.protocols);
    tls(cx, &mut table, &mut upstream.servers);
    table.close(cx);
    upstream
}

/// What holds for every server that does not say it itself.
fn tls(cx: &mut Cx<'_>, table: &mut Table<'_>, servers: &mut [UpstreamServer]) {
    let ca = table.string(cx, "ca").and_then(|path| cx.path(path));
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
        proxy_protocol: None,
        spot,
    }
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
