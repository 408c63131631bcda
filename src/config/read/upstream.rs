//! `[upstream.NAME]`, and the upstreams that inline URLs stand for.

use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use super::address::{self, Kind, Place};
use super::common::unix;
use super::names::Host;
use super::tls;
use super::tree::{Cx, Node, Table, refuse_duplicates};
use crate::config::keys;
use crate::config::model::{HostHeader, ServerAddress, Upstream, UpstreamServer};
use crate::config::report::{Located, Spot};
use crate::types::Name;

const RETRIES: std::ops::RangeInclusive<u32> = 0..=10;
const LATER_BALANCE: [&str; 3] = ["least-connections", "two-choices", "hash"];

pub fn upstream(cx: &mut Cx<'_>, mut table: Table<'_>, name: &str) -> Upstream {
    let mut upstream = plain(name, table.spot.clone());
    if !table.has("servers") {
        table.missing(cx, "`servers`", "add for example `servers = [\"ws://127.0.0.1:9000\"]`");
    }
    let servers = servers(cx, &mut table);
    upstream.websocket_only = one_kind(cx, &servers);
    upstream.servers = servers.into_iter().map(|(_, server)| server).collect();
    balance(cx, &mut table);
    upstream.host = host(cx, &mut table, &upstream.servers);
    upstream.via = table.boolean(cx, "via", true).value;
    upstream.retries = table.integer(cx, "retries", RETRIES).map_or(upstream.retries, |number| number.value);
    upstream.connect_timeout = table.duration(cx, "connect_timeout", upstream.connect_timeout);
    upstream.ca = table.string(cx, "ca").and_then(|path| cx.path(path));
    upstream.client_certificate = tls::pair(cx, &mut table, "client_cert", "client_key");
    let clear = !upstream.servers.is_empty() && upstream.servers.iter().all(|server| server.tls_name.is_none());
    for key in ["ca", "client_cert", "client_key"].into_iter().filter(|key| clear && table.has(key)) {
        let spot = table.key_spot(key);
        cx.error("no-effect", &spot, format!("`{key}` has no effect: no server of this upstream uses TLS"))
            .help("write wss:// or https:// for the servers, or remove this key");
    }
    table.close(cx);
    upstream
}

/// What a URL stands for that a route names directly.
pub fn inline(cx: &mut Cx<'_>, text: &Located<String>) -> Option<Upstream> {
    let (kind, server) = server(cx, text)?;
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
        name: Name::new(name),
        servers: Vec::new(),
        websocket_only: false,
        host: HostHeader::Preserve,
        via: true,
        retries: 1,
        connect_timeout: Duration::from_secs(5),
        ca: None,
        client_certificate: None,
        spot,
    }
}

fn servers(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Vec<(Kind, UpstreamServer)> {
    let Some(node) = table.take("servers") else { return Vec::new() };
    let DeValue::Array(items) = node.value else {
        let problem = node.mistyped(cx, "servers", "a list of URLs");
        if let DeValue::String(text) = node.value {
            problem.help(format!("write [\"{text}\"]"));
        }
        return Vec::new();
    };
    if items.is_empty() && !cx.broken {
        cx.error("empty-list", &node.spot, "`servers` is empty").help("add for example \"ws://127.0.0.1:9000\"");
    }
    let mut servers = Vec::new();
    for item in items.iter() {
        let item = Node { value: item.get_ref(), spot: cx.spot(item.span()) };
        let text = match item.value {
            DeValue::Table(entries) => {
                let mut entry = Table::new(&keys::UPSTREAM_SERVER, entries, item.spot);
                let url = entry.string(cx, "url");
                if !entry.has("url") {
                    entry.missing(cx, "`url`", "write { url = \"ws://127.0.0.1:9000\" }");
                }
                entry.close(cx);
                url
            }
            _ => item.string(cx, "an entry of `servers`", "a string (a URL), or { url = \"…\" }"),
        };
        servers.extend(text.and_then(|text| server(cx, &text)));
    }
    let urls: Vec<_> =
        servers.iter().map(|(_, server)| Located::new(server.address.clone(), server.spot.clone())).collect();
    refuse_duplicates(cx, &urls, "the server", show);
    servers
}

fn show(address: &ServerAddress) -> String {
    match address {
        ServerAddress::Ip(address) => address.to_string(),
        ServerAddress::Name(name, port) => format!("{name}:{port}"),
        ServerAddress::Unix(path) => path.display().to_string(),
    }
}

fn server(cx: &mut Cx<'_>, text: &Located<String>) -> Option<(Kind, UpstreamServer)> {
    let parsed = cx.check(text, address::upstream(text))?;
    let (kind, place) = parsed.value;
    let (address, name) = match place {
        Place::Unix(path) => (ServerAddress::Unix(unix(cx, path, &text.spot)?), None),
        Place::Host(Host::Name(name), port) => (ServerAddress::Name(Arc::from(name.as_str()), port), Some(name)),
        Place::Host(Host::V4(ip), port) => (ServerAddress::Ip((ip, port).into()), Some(ip.to_string())),
        Place::Host(Host::V6(ip), port) => (ServerAddress::Ip((ip, port).into()), Some(ip.to_string())),
    };
    let tls_name = name.filter(|_| kind.tls).map(|name| Located::new(Arc::from(name), text.spot.clone()));
    Some((kind, UpstreamServer { address, tls_name, url: Name::new(text.as_str()), spot: text.spot.clone() }))
}

/// Whether all servers are of the WebSocket-only kind; mixing the kinds is an error.
fn one_kind(cx: &mut Cx<'_>, servers: &[(Kind, UpstreamServer)]) -> bool {
    let Some((first, first_server)) = servers.first() else { return false };
    for (_, other) in servers.iter().filter(|(kind, _)| kind.websocket_only != first.websocket_only) {
        let message = "one upstream cannot hold servers that speak only WebSocket and servers that speak HTTP";
        cx.error("mixed-kinds", &other.spot, message)
            .help("http and https carry WebSocket too; or make two upstreams, with a route for each")
            .also(&first_server.spot, "of the other kind");
    }
    first.websocket_only
}

fn balance(cx: &mut Cx<'_>, table: &mut Table<'_>) {
    let Some(text) = table.string(cx, "balance") else { return };
    if *text != "round-robin" {
        let help = if LATER_BALANCE.contains(&text.as_str()) {
            format!("\"{}\" is not in this release; write \"round-robin\", or leave the key out", *text)
        } else {
            "write \"round-robin\", or leave the key out".into()
        };
        cx.error("unknown-value", &text.spot, format!("`balance` cannot be \"{}\"", *text)).help(help);
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
