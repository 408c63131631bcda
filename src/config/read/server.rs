//! `[server]`.

use std::net::SocketAddr;
use std::time::Duration;

use toml::de::DeValue;

use super::address;
use super::common;
use super::tree::{Cx, Table, integer, refuse_duplicates};
use crate::config::model::{Peers, Server, TraceMode};
use crate::config::report::Located;

/// Tunnels that a process or an upstream closes in a second.
pub const DRAIN_RATES: std::ops::RangeInclusive<u32> = 1..=100_000;

const WORKERS: u32 = 512;
const CONNECTIONS: u32 = 10_000_000;

pub fn server(cx: &mut Cx<'_>, mut table: Table<'_>, include: &mut Vec<Located<String>>) -> Server {
    let defaults = default_server();
    let server = Server {
        workers: workers(cx, &mut table).unwrap_or(defaults.workers),
        drain_timeout: table.duration(cx, "drain_timeout", defaults.drain_timeout),
        drain_rate: table.integer_or_none(cx, "drain_rate", DRAIN_RATES).map(|rate| rate.value),
        upgrade_timeout: table.duration(cx, "upgrade_timeout", defaults.upgrade_timeout),
        upgrade_drain_timeout: if table.has("upgrade_drain_timeout") {
            table.duration_or_none(cx, "upgrade_drain_timeout")
        } else {
            defaults.upgrade_drain_timeout
        },
        max_connections: table.integer(cx, "max_connections", 1..=CONNECTIONS).map(|number| number.value as usize),
        trusted_proxies: trusted_proxies(cx, &mut table),
        name_servers: name_servers(cx, &mut table),
        forwarded: table.boolean(cx, "forwarded", defaults.forwarded).value,
        trace: table.word(cx, "trace", &[("pass", TraceMode::Pass), ("start", TraceMode::Start)]).unwrap_or_default(),
        watch: table.boolean(cx, "watch", defaults.watch).value,
    };
    if let Some(patterns) = table.strings(cx, "include") {
        refuse_duplicates(cx, &patterns, "the pattern", String::clone);
        include.extend(patterns.value);
    }
    table.close(cx);
    server
}

/// What holds where the file has no `[server]`.
pub fn default_server() -> Server {
    Server {
        workers: cores(),
        drain_timeout: Duration::from_secs(30),
        drain_rate: None,
        upgrade_timeout: Duration::from_secs(60),
        upgrade_drain_timeout: Some(Duration::from_secs(24 * 60 * 60)),
        max_connections: None,
        trusted_proxies: Peers::default(),
        name_servers: None,
        forwarded: false,
        trace: TraceMode::default(),
        watch: false,
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS as usize)
}

fn workers(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Option<usize> {
    let node = table.take("workers")?;
    match node.value {
        DeValue::String(text) if text == "auto" => Some(cores()),
        DeValue::String(_) => {
            cx.error("unknown-value", &node.spot, "`workers` must be \"auto\" or a number")
                .help("write \"auto\" for one per core, or a number without quotes");
            None
        }
        _ => integer(cx, "workers", &node, 1..=WORKERS).map(|number| number.value as usize),
    }
}

fn trusted_proxies(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Peers {
    let Some(list) = table.strings(cx, "trusted_proxies") else { return Peers::default() };
    common::peers(cx, list.value, "anyone can claim any client address and host")
}

fn name_servers(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Option<Vec<SocketAddr>> {
    let list = table.strings(cx, "nameservers")?;
    let mut servers = Vec::new();
    for text in &list.value {
        servers.extend(cx.check(text, address::name_server(text)));
    }
    refuse_duplicates(cx, &servers, "the name server", ToString::to_string);
    if list.value.is_empty() {
        cx.error("empty-list", &list.spot, "`nameservers` is empty")
            .help("leave the key out to ask the system's name servers");
    }
    Some(servers.into_iter().map(|server| server.value).collect())
}
