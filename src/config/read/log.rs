//! `[log]`.

use super::suggest::nearest;
use super::tree::{Cx, Table};
use crate::config::keys;
use crate::config::model::{AccessTarget, Log, LogFormat, LogLevel, Otlp, SyslogTarget};
use crate::config::report::Spot;
use crate::proto::host;

const REFUSALS: u32 = 1_000_000;

pub fn log(cx: &mut Cx<'_>, mut table: Table<'_>) -> Log {
    let levels = LogLevel::ALL.map(|level| (level.as_str(), level));
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    let defaults = default_log();
    let access_spot = if table.has("access") { table.key_spot("access") } else { table.spot.clone() };
    let log = Log {
        level: table.word(cx, "level", &levels).unwrap_or(defaults.level),
        access: access(cx, &mut table).unwrap_or(defaults.access),
        access_spot,
        format: table.word(cx, "format", &formats).unwrap_or(defaults.format),
        refusals_per_second: refusals(cx, &mut table, defaults.refusals_per_second),
        otlp: otlp(cx, &mut table),
    };
    table.close(cx);
    log
}

/// What holds where the file has no `[log]`.
pub fn default_log() -> Log {
    Log {
        level: LogLevel::Info,
        access: AccessTarget::Stderr,
        access_spot: Spot::default(),
        format: LogFormat::Auto,
        refusals_per_second: Some(1_000),
        otlp: None,
    }
}

/// `"none"` takes the measure away; nothing leaves it as it is.
fn refusals(cx: &mut Cx<'_>, table: &mut Table<'_>, default: Option<u32>) -> Option<u32> {
    if !table.has("refusals_per_second") {
        return default;
    }
    table.integer_or_none(cx, "refusals_per_second", 1..=REFUSALS).map(|number| number.value)
}

fn otlp(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Option<Otlp> {
    let spot = table.key_spot("otlp");
    let mut table = table.table(cx, "otlp", &keys::OTLP)?;
    if cfg!(not(feature = "otel")) {
        cx.error("no-otel", &spot, "this portcullis was built without OpenTelemetry")
            .help("build it with `cargo build --release --features otel`, or remove this key");
        return None;
    }
    let endpoint = table.string(cx, "endpoint");
    if endpoint.is_none() && !table.has("endpoint") {
        table.missing(cx, "`endpoint`", "add for example endpoint = \"http://127.0.0.1:4318\"");
    }
    let service = table.string(cx, "service").map_or_else(|| "portcullis".to_owned(), |service| service.value);
    table.close(cx);
    let endpoint = endpoint?;
    let Some((host, port, path)) = collector(&endpoint) else {
        cx.error("bad-address", &endpoint.spot, "this is no address of a collector")
            .help("write \"http://HOST:4318\"; to a collector elsewhere one beside the gateway speaks TLS");
        return None;
    };
    Some(Otlp { host, port, path, service })
}

/// Host, port and path of `http://HOST:PORT/PATH`. Without a path it is the one that the protocol has for traces.
fn collector(text: &str) -> Option<(String, u16, String)> {
    let rest = text.strip_prefix("http://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = address(authority, 4318)?;
    let is_fit = path.len() <= 1024 && path.bytes().all(|byte| byte.is_ascii_graphic());
    let path = if path.trim_end_matches('/').is_empty() { "/v1/traces" } else { path };
    is_fit.then(|| (host, port, path.to_owned()))
}

/// Host, without the brackets of an address, and port.
fn address(text: &str, default: u16) -> Option<(String, u16)> {
    let authority = host::parse_authority(text).ok()?;
    let host = authority.host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port.unwrap_or(default);
    (!host.is_empty() && port != 0).then_some((host, port))
}

/// What `access` may say beside a path, and what follows `syslog:`.
const TARGETS: [&str; 4] = ["stderr", "off", "syslog", "journald"];
const SYSLOG: &str = "write \"syslog\", \"syslog:udp://HOST:514\" or \"syslog:unix:/PATH\"";

fn access(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Option<AccessTarget> {
    let text = table.string(cx, "access")?;
    match text.as_str() {
        "stderr" => Some(AccessTarget::Stderr),
        "off" => Some(AccessTarget::Off),
        "journald" => Some(AccessTarget::Journald),
        "syslog" => Some(AccessTarget::Syslog(SyslogTarget::Local)),
        word if word.starts_with("syslog:") => {
            let target = syslog(&word["syslog:".len()..]);
            if target.is_none() {
                cx.error("bad-address", &text.spot, "this is no syslog server").help(SYSLOG);
            }
            target.map(AccessTarget::Syslog)
        }
        // A bare word is a slip rather than a file next to the configuration.
        word if !word.contains(['/', '.']) => {
            let help = match nearest(word, TARGETS) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => {
                    format!("write \"stderr\", \"syslog\", \"journald\", \"off\" or a path such as \"./{word}\"")
                }
            };
            cx.error("unknown-value", &text.spot, format!("`access` cannot be \"{word}\"")).help(help);
            None
        }
        _ => cx.path(text).map(|path| AccessTarget::File(path.value)),
    }
}

/// What stands behind `syslog:`.
fn syslog(text: &str) -> Option<SyslogTarget> {
    if let Some(path) = text.strip_prefix("unix:") {
        // As long as a socket's name may be.
        let is_fit = path.starts_with('/') && path.len() <= 107 && !path.contains('\0');
        return is_fit.then(|| SyslogTarget::Unix(path.into()));
    }
    let (host, port) = address(text.strip_prefix("udp://")?, 514)?;
    Some(SyslogTarget::Udp { host, port })
}
