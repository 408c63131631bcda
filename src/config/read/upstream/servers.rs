//! `servers` of an upstream: URLs, and entries that say more.

use std::path::PathBuf;
use std::sync::Arc;

use toml::de::DeValue;

use crate::config::keys;
use crate::config::model::{CertificateFiles, Resolve, ServerAddress, UpstreamServer};
use crate::config::read::address::{self, Kind, Place};
use crate::config::read::common::unix;
use crate::config::read::names::{self, Host};
use crate::config::read::tls::pair;
use crate::config::read::tree::{Cx, Node, Table, refuse_duplicates};
use crate::config::read::upstream::limits;
use crate::config::report::{Located, Spot};
use crate::types::Name;

/// 0 is a server that drains.
const WEIGHTS: std::ops::RangeInclusive<u32> = 0..=1000;

/// All servers, and whether they speak only WebSocket.
pub(super) fn read(cx: &mut Cx<'_>, table: &mut Table<'_>) -> (Vec<UpstreamServer>, bool) {
    let max_connections = table.integer_or_none(cx, "max_connections", limits::CONNECTIONS);
    let servers = entries(cx, table, max_connections.map(|max| max.value));
    let websocket_only = one_kind(cx, &servers);
    let servers: Vec<_> = servers.into_iter().map(|(_, server)| server).collect();
    if let (Some(first), true) = (servers.first(), servers.iter().all(|server| server.weight == 0)) {
        let message = "no server of this upstream gets any work: all of them have weight 0";
        cx.report
            .warning("no-work", &first.spot, message)
            .help("requests are answered with 503 until one has a weight");
    }
    (servers, websocket_only)
}

/// `max_connections`: of those that do not say.
fn entries(cx: &mut Cx<'_>, table: &mut Table<'_>, max_connections: Option<u32>) -> Vec<(Kind, UpstreamServer)> {
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
        servers.extend(match item.value {
            DeValue::Table(entries) => {
                entry(cx, Table::new(&keys::UPSTREAM_SERVER, entries, item.spot), max_connections)
            }
            _ => {
                let text = item.string(cx, "an entry of `servers`", "a string (a URL), or { url = \"…\" }");
                text.and_then(|text| server(cx, &text)).map(|(kind, mut server)| {
                    server.max_connections = max_connections;
                    (kind, server)
                })
            }
        });
    }
    let urls: Vec<_> =
        servers.iter().map(|(_, server)| Located::new(server.address.clone(), server.spot.clone())).collect();
    refuse_duplicates(cx, &urls, "the server", show);
    servers
}

/// An entry that says more than the URL.
fn entry(cx: &mut Cx<'_>, mut entry: Table<'_>, max_connections: Option<u32>) -> Option<(Kind, UpstreamServer)> {
    let url = entry.string(cx, "url");
    if !entry.has("url") {
        entry.missing(cx, "`url`", "write { url = \"ws://127.0.0.1:9000\" }");
    }
    let weight = entry.integer(cx, "weight", WEIGHTS).map(|weight| weight.value);
    let backup = entry.boolean(cx, "backup", false).value;
    let words = [("one", Resolve::One), ("each", Resolve::Each), ("srv", Resolve::Service)];
    let resolve = entry.word(cx, "resolve", &words).map(|resolve| (resolve, entry.key_spot("resolve")));
    let own = entry.integer_or_none(cx, "max_connections", limits::CONNECTIONS).map(|max| max.value);
    let max_connections = if entry.has("max_connections") { own } else { max_connections };
    let tls = ServerTls::read(cx, &mut entry);
    entry.close(cx);
    let url = url?;
    let (kind, mut server) = server(cx, &url)?;
    if let Some((resolve, spot)) = resolve {
        server.resolve = resolve;
        check_resolve(cx, &mut server, &url, &spot);
    }
    tls.apply(cx, kind, &mut server);
    server.weight = weight.unwrap_or(server.weight);
    server.backup = backup;
    server.max_connections = max_connections;
    Some((kind, server))
}

/// What `resolve` says has to fit to the URL.
fn check_resolve(cx: &mut Cx<'_>, server: &mut UpstreamServer, url: &Located<String>, spot: &Spot) {
    let ServerAddress::Name(name, _) = &server.address else {
        if server.resolve != Resolve::One {
            cx.error("no-effect", spot, "`resolve` has no effect: this server has no name to resolve")
                .help("remove this key")
                .also(&url.spot, "it says where it is");
        }
        return;
    };
    if server.resolve != Resolve::Service {
        return;
    }
    let authority = url.split_once("://").map_or("", |(_, authority)| authority);
    if let Ok((host, Some(_))) = names::split_port(authority) {
        cx.error("service-with-port", &url.spot, "the records of a service say which ports its servers have")
            .help(format!("leave the port out: \"{}\"", url.replace(authority, host)));
    }
    match address::service_domain(name) {
        // The records are not to be trusted with whom the certificate has to name (RFC 6125 1.8).
        Some(domain) => {
            let domain = Arc::from(domain.trim_end_matches('.'));
            server.tls_name = server.tls_name.take().map(|name| Located::new(domain, name.spot));
        }
        None => {
            cx.error("no-service", &url.spot, format!("`{name}` is not the name of a service"))
                .help("write _SERVICE._PROTOCOL in front of the domain, as in \"ws://_ws._tcp.chat.internal\"");
        }
    }
}

/// What an entry says of TLS with its server.
struct ServerTls {
    name: Option<Located<Arc<str>>>,
    ca: Option<Located<PathBuf>>,
    client_certificate: Option<CertificateFiles>,
    /// The keys that are there.
    written: Vec<(&'static str, Spot)>,
}

impl ServerTls {
    fn read(cx: &mut Cx<'_>, entry: &mut Table<'_>) -> Self {
        let keys = ["tls_name", "ca", "client_cert", "client_key"];
        let written = keys.into_iter().filter(|key| entry.has(key)).map(|key| (key, entry.key_spot(key))).collect();
        let name = entry.string(cx, "tls_name").and_then(|text| match names::host(&text) {
            Ok(host) => Some(Located::new(Arc::from(host.text()), text.spot.clone())),
            Err(fault) => {
                cx.fault(&text.spot, &text, fault);
                None
            }
        });
        let ca = entry.string(cx, "ca").and_then(|path| cx.file(path));
        Self { name, ca, client_certificate: pair(cx, entry, "client_cert", "client_key"), written }
    }

    fn apply(self, cx: &mut Cx<'_>, kind: Kind, server: &mut UpstreamServer) {
        if !kind.tls {
            for (key, spot) in &self.written {
                cx.error("no-effect", spot, format!("`{key}` has no effect: the server is reached without TLS"))
                    .help("write wss:// or https:// for the server, or remove this key");
            }
            return;
        }
        server.tls_name = self.name.or_else(|| server.tls_name.take());
        server.ca = self.ca;
        server.client_certificate = self.client_certificate;
    }
}

fn show(address: &ServerAddress) -> String {
    match address {
        ServerAddress::Ip(address) => address.to_string(),
        ServerAddress::Name(name, port) => format!("{name}:{port}"),
        ServerAddress::Unix(path) => path.display().to_string(),
    }
}

pub(super) fn server(cx: &mut Cx<'_>, text: &Located<String>) -> Option<(Kind, UpstreamServer)> {
    let parsed = cx.check(text, address::upstream(text))?;
    let (kind, place) = parsed.value;
    let (address, name) = match place {
        Place::Unix(path) => (ServerAddress::Unix(unix(cx, path, &text.spot)?), None),
        Place::Host(Host::Name(name), port) => {
            // Whoever writes a dot at the end means the name as a whole.
            let authority = text.split_once("://").and_then(|(_, authority)| names::split_port(authority).ok());
            let dot = if authority.is_some_and(|(host, _)| host.ends_with('.')) { "." } else { "" };
            (ServerAddress::Name(format!("{name}{dot}").into(), port), Some(name))
        }
        Place::Host(Host::V4(ip), port) => (ServerAddress::Ip((ip, port).into()), Some(ip.to_string())),
        Place::Host(Host::V6(ip), port) => (ServerAddress::Ip((ip, port).into()), Some(ip.to_string())),
    };
    let tls_name = name.filter(|_| kind.tls).map(|name| Located::new(Arc::from(name), text.spot.clone()));
    let url = Name::new(text.as_str());
    let server = UpstreamServer {
        address,
        resolve: Resolve::One,
        tls_name,
        url,
        weight: 1,
        backup: false,
        max_connections: None,
        ca: None,
        client_certificate: None,
        spot: text.spot.clone(),
    };
    Some((kind, server))
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
