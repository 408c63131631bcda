//! `[server]` and `[log]`.

use std::net::SocketAddr;
use std::time::Duration;

use toml::de::DeValue;

use super::address;
use super::common;
use super::suggest::nearest;
use super::tree::{Cx, Table, integer, refuse_duplicates};
use crate::config::model::{AccessTarget, Log, LogFormat, LogLevel, Peers, Server};
use crate::config::report::Located;

const WORKERS: u32 = 512;
const CONNECTIONS: u32 = 10_000_000;

pub fn server(cx: &mut Cx<'_>, mut table: Table<'_>, include: &mut Vec<Located<String>>) -> Server {
    let defaults = default_server();
    let server = Server {
        workers: workers(cx, &mut table).unwrap_or(defaults.workers),
        drain_timeout: table.duration(cx, "drain_timeout", defaults.drain_timeout),
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
        upgrade_timeout: Duration::from_secs(60),
        upgrade_drain_timeout: Some(Duration::from_secs(24 * 60 * 60)),
        max_connections: None,
        trusted_proxies: Peers::default(),
        name_servers: None,
        forwarded: false,
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

pub fn log(cx: &mut Cx<'_>, mut table: Table<'_>) -> Log {
    let levels = LogLevel::ALL.map(|level| (level.as_str(), level));
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    let defaults = default_log();
    let log = Log {
        level: table.word(cx, "level", &levels).unwrap_or(defaults.level),
        access: access(cx, &mut table).unwrap_or(defaults.access),
        format: table.word(cx, "format", &formats).unwrap_or(defaults.format),
    };
    table.close(cx);
    log
}

/// What holds where the file has no `[log]`.
pub fn default_log() -> Log {
    Log { level: LogLevel::Info, access: AccessTarget::Stderr, format: LogFormat::Auto }
}

fn access(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Option<AccessTarget> {
    let text = table.string(cx, "access")?;
    match text.as_str() {
        "stderr" => Some(AccessTarget::Stderr),
        "off" => Some(AccessTarget::Off),
        // A bare word is a slip rather than a file next to the configuration.
        word if !word.contains(['/', '.']) => {
            let help = match nearest(word, ["stderr", "off"]) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("write \"stderr\", \"off\" or a path such as \"./{word}\""),
            };
            cx.error("unknown-value", &text.spot, format!("`access` cannot be \"{word}\"")).help(help);
            None
        }
        _ => cx.path(text).map(|path| AccessTarget::File(path.value)),
    }
}
