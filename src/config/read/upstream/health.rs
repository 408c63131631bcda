//! `health`: how an upstream's servers are checked.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;
use toml::de::DeValue;

use crate::config::keys;
use crate::config::model::{Asked, Check, Health, OriginRule, Upstream};
use crate::config::read::names;
use crate::config::read::tree::{self, Cx, Node, Table, refuse_duplicates};
use crate::config::report::Located;

const RUNS: RangeInclusive<u32> = 1..=100;
const STATUSES: RangeInclusive<u32> = 200..=599;

/// Checks must not be what keeps a server busy.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

const LONGEST_BODY: usize = 1024;
const LONGEST_TARGET: usize = 2048;

/// The keys that say what kind of check it is.
const KINDS: [&str; 3] = ["tcp", "http", "websocket"];

/// What else a check may say, and of which kinds.
const ASKED_OF: [(&str, &[&str], &str); 4] = [
    ("status", &["http"], "`http`"),
    ("body", &["http"], "`http`"),
    ("host", &["http", "websocket"], "`http` or `websocket`"),
    ("origin", &["http", "websocket"], "`http` or `websocket`"),
];

pub(super) fn read(cx: &mut Cx<'_>, table: &mut Table<'_>, upstream: &Upstream) -> Option<Health> {
    let mut table = table.table(cx, "health", &keys::HEALTH)?;
    let check = check(cx, &mut table, upstream);
    let mut health = Health {
        check: check.unwrap_or(Check::Tcp),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        rise: 2,
        fall: 3,
    };
    health.interval = table.duration(cx, "interval", health.interval);
    if health.interval < SHORTEST_INTERVAL {
        let spot = table.key_spot("interval");
        cx.error("out-of-range", &spot, "`interval` cannot be less than a tenth of a second")
            .help("write \"100ms\" or more");
    }
    health.timeout = table.duration(cx, "timeout", health.timeout);
    health.rise = table.integer(cx, "rise", RUNS).map_or(health.rise, |number| number.value);
    health.fall = table.integer(cx, "fall", RUNS).map_or(health.fall, |number| number.value);
    table.close(cx);
    Some(health)
}

fn check(cx: &mut Cx<'_>, table: &mut Table<'_>, upstream: &Upstream) -> Option<Check> {
    let named: Vec<_> = KINDS.into_iter().filter(|kind| table.has(kind)).collect();
    if let [first, second, ..] = named[..] {
        let message = format!("a check is of one kind, and this one has `{first}` and `{second}`");
        cx.error("two-checks", &table.key_spot(second), message)
            .help("keep the one that asks most of the server: websocket, http, tcp")
            .also(&table.key_spot(first), "the other one");
    }
    if named.is_empty() {
        let example = if upstream.websocket_only { "websocket = \"/ws\"" } else { "http = \"/healthz\"" };
        table.missing(cx, "kind of check", &format!("add for example {example}, or tcp = true"));
    }
    let tcp = table.boolean(cx, "tcp", true);
    if !tcp.value {
        cx.error("no-effect", &tcp.spot, "`tcp = false` is no check")
            .help("write tcp = true, http = \"…\" or websocket = \"…\"; without `health` there are no checks");
    }
    let http = table.string(cx, "http").and_then(|text| target(cx, "http", text));
    let websocket = table.string(cx, "websocket").and_then(|text| target(cx, "websocket", text));
    if let Some(http) = http.as_ref().filter(|_| upstream.websocket_only) {
        cx.error(
            "wrong-check",
            &http.spot,
            "the servers of this upstream speak only WebSocket, and this check is plain HTTP",
        )
        .help("write websocket = \"…\" or tcp = true, or http:// for servers that speak HTTP");
    }
    for (key, kinds, words) in ASKED_OF {
        if !named.is_empty() && table.has(key) && !kinds.iter().any(|kind| table.has(kind)) {
            cx.error("no-effect", &table.key_spot(key), format!("`{key}` has no effect without {words}"))
                .help("remove this key, or choose another kind of check");
        }
    }
    let status = statuses(cx, table);
    let body = body(cx, table);
    let host = host(cx, table);
    let origin = origin(cx, table);
    match (http, websocket) {
        (Some(target), _) => Some(Check::Http { asked: Asked { target: target.value, host, origin }, status, body }),
        (None, Some(target)) => Some(Check::WebSocket { asked: Asked { target: target.value, host, origin } }),
        (None, None) => None,
    }
}

/// What is asked for: a path and perhaps a query, as it stands in a request.
fn target(cx: &mut Cx<'_>, key: &str, text: Located<String>) -> Option<Located<PathAndQuery>> {
    let parsed = PathAndQuery::try_from(text.as_str());
    let good = text.starts_with('/')
        && text.len() <= LONGEST_TARGET
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    match parsed {
        Ok(target) if good => Some(Located::new(target, text.spot)),
        _ => {
            cx.error("bad-path", &text.spot, format!("`{key}` is the path that is asked for, and this is none"))
                .help("write for example \"/healthz\": it begins with `/`, other characters are percent-encoded");
            None
        }
    }
}

fn statuses(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Vec<u16> {
    let default = || vec![200];
    let Some(node) = table.take("status") else { return default() };
    let DeValue::Array(items) = node.value else {
        let number = node.value.as_integer().map(|number| number.to_string());
        let problem = node.mistyped(cx, "status", "a list of numbers");
        if let Some(number) = number {
            problem.help(format!("write [{number}]"));
        }
        return default();
    };
    if items.is_empty() && !cx.broken {
        cx.error("empty-list", &node.spot, "`status` is empty: no answer would do").help("leave it out for [200]");
    }
    let mut statuses: Vec<Located<u32>> = Vec::new();
    for item in items.iter() {
        let item = Node { value: item.get_ref(), spot: cx.spot(item.span()) };
        statuses.extend(tree::integer(cx, "status", &item, STATUSES));
    }
    refuse_duplicates(cx, &statuses, "the status", u32::to_string);
    statuses.into_iter().filter_map(|status| u16::try_from(status.value).ok()).collect()
}

fn body(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Option<String> {
    let text = table.string(cx, "body")?;
    if text.is_empty() || text.len() > LONGEST_BODY {
        cx.error("out-of-range", &text.spot, format!("`body` is a text of 1 to {LONGEST_BODY} bytes"))
            .help("leave it out where the status is enough");
    }
    Some(text.value)
}

fn host(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Option<HeaderValue> {
    let text = table.string(cx, "host")?;
    if let Some((_, host)) = text.split_once("://") {
        let host = host.split('/').next().unwrap_or_default();
        cx.error("bad-host", &text.spot, "a Host has no scheme").help(format!("write \"{host}\""));
        return None;
    }
    let parsed = names::split_port(&text).and_then(|(host, _)| names::host(host));
    cx.check(&text, parsed)?;
    // What has been read as a host is a value.
    HeaderValue::from_str(&text).ok()
}

fn origin(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Option<HeaderValue> {
    let text = table.string(cx, "origin")?;
    let rule = cx.check(&text, names::origin_rule(&text))?;
    match rule.value {
        OriginRule::Exact { .. } | OriginRule::Null | OriginRule::File => {}
        OriginRule::Any | OriginRule::SameOrigin | OriginRule::Wildcard { .. } => {
            cx.error("bad-origin", &text.spot, "a check has one Origin, as a browser sends it")
                .help("write for example \"https://app.example.com\"");
            return None;
        }
    }
    HeaderValue::from_str(&text).ok()
}
