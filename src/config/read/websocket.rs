//! `[route.websocket]`: who may upgrade, and with what.

use std::time::Duration;

use super::names;
use super::tree::{Cx, Table, refuse_duplicates};
use crate::config::keys;
use crate::config::model::{OriginRule, Subprotocols, WebSocketPolicy};
use crate::config::report::Located;

/// `has_hosts`: the route names the authorities that `same-origin` can mean.
pub fn policy(cx: &mut Cx<'_>, mut table: Table<'_>, has_hosts: bool) -> WebSocketPolicy {
    let spot = table.spot.clone();
    let extensions = [("pass", true), ("strip", false)];
    let policy = WebSocketPolicy {
        origins: origins(cx, &mut table, has_hosts),
        allow_missing_origin: table.boolean(cx, "allow_missing_origin", true).value,
        subprotocols: subprotocols(cx, &mut table),
        pass_extensions: table.word(cx, "extensions", &extensions).unwrap_or(true),
        idle_timeout: table.duration(cx, "idle_timeout", Duration::from_secs(600)),
        max_lifetime: table.duration_or_none(cx, "max_lifetime"),
        ping_interval: ping_interval(cx, &mut table),
        ping_upstream: table.boolean(cx, "ping_upstream", false).value,
        checked_frames: table.word(cx, "frames", &[("checked", true), ("opaque", false)]).unwrap_or(true),
        max_frame_size: None,
        max_message_size: None,
        spot,
    };
    let max_frame_size = frame_limit(cx, &mut table, "max_frame_size", policy.checked_frames);
    let max_message_size = frame_limit(cx, &mut table, "max_message_size", policy.checked_frames);
    if policy.ping_interval.is_some() && !policy.checked_frames {
        cx.error("opaque-frames", &policy.spot, "`ping_interval` has no place for a ping while `frames = \"opaque\"`")
            .help("leave out one of the two");
    }
    table.close(cx);
    WebSocketPolicy { max_frame_size, max_message_size, ..policy }
}

/// At least a second: the clock for it is a coarse one.
fn ping_interval(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Option<Duration> {
    let spot = table.key_spot("ping_interval");
    let interval = table.duration_or_none(cx, "ping_interval")?;
    if interval < Duration::from_secs(1) {
        cx.error("out-of-range", &spot, "`ping_interval` cannot be less than a second").help("write \"1s\" or more");
    }
    Some(interval)
}

/// A size, or `"none"`; not beside opaque frames, which nobody measures.
fn frame_limit(cx: &mut Cx<'_>, table: &mut Table<'_>, key: &'static str, checked: bool) -> Option<u64> {
    let size = table.size_or_none(cx, key)?;
    if !checked {
        cx.error("opaque-frames", &size.spot, format!("`{key}` cannot be held to while `frames = \"opaque\"`"))
            .help("leave `frames` out, or the limit");
    }
    Some(size.value)
}

fn origins(cx: &mut Cx<'_>, table: &mut Table<'_>, has_hosts: bool) -> Vec<Located<OriginRule>> {
    let written = table.has("origins");
    let misspelt = !written && table.misspells("origins");
    let help = "leave `origins` out for \"same-origin\", or write [\"*\"] to allow every origin";
    let mut rules = Vec::new();
    for text in table.some_strings(cx, "origins", help).map(|list| list.value).unwrap_or_default() {
        rules.extend(cx.check(&text, names::origin_rule(&text)));
    }
    refuse_duplicates(cx, &rules, "the origin", show);
    if !written {
        rules.push(Located::new(OriginRule::SameOrigin, table.spot.clone()));
    }
    for rule in &rules {
        match &rule.value {
            OriginRule::Any => {
                let message = "every website may open this WebSocket with its visitors' cookies";
                cx.report
                    .warning("any-origin", &rule.spot, message)
                    .help("list the origins of your pages, unless nothing here depends on who asks");
            }
            OriginRule::SameOrigin if !has_hosts && !misspelt => {
                let message = "\"same-origin\" on a route without `hosts` accepts any host name that a page claims";
                cx.report
                    .warning("same-origin-any-host", &rule.spot, message)
                    .help("add `hosts` to the route, or list the origins of your pages");
            }
            OriginRule::Exact { scheme, .. } | OriginRule::Wildcard { scheme, .. }
                if scheme == "ws" || scheme == "wss" =>
            {
                let page = if scheme == "ws" { "http" } else { "https" };
                let message = format!("an Origin names the page, and pages are not loaded over `{scheme}://`");
                cx.report
                    .warning("socket-scheme-origin", &rule.spot, message)
                    .help(format!("write {page}:// instead, as browsers do"));
            }
            _ => {}
        }
    }
    rules
}

fn show(rule: &OriginRule) -> String {
    let port = |port: &Option<u16>| port.map(|port| format!(":{port}")).unwrap_or_default();
    match rule {
        OriginRule::Any => "*".into(),
        OriginRule::SameOrigin => "same-origin".into(),
        OriginRule::Null => "null".into(),
        OriginRule::File => "file://".into(),
        OriginRule::Exact { scheme, host, port: number } => format!("{scheme}://{host}{}", port(number)),
        OriginRule::Wildcard { scheme, suffix, port: number } => format!("{scheme}://*.{suffix}{}", port(number)),
    }
}

fn subprotocols(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Subprotocols {
    let Some(mut table) = table.table(cx, "subprotocols", &keys::SUBPROTOCOLS) else { return Subprotocols::default() };
    let help = "leave `allow` out to let every subprotocol pass";
    let allow = table.some_strings(cx, "allow", help).map(|list| {
        refuse_duplicates(cx, &list, "the subprotocol", String::clone);
        for name in list.value.iter().filter(|name| !names::is_token(name)) {
            cx.error("bad-subprotocol", &name.spot, format!("`{}` is not the name of a subprotocol", name.value))
                .help("names consist of letters, digits and any of ! # $ % & ' * + - . ^ _ ` | ~");
        }
        list.value.into_iter().map(|name| name.value).collect()
    });
    let require = table.boolean(cx, "require", false).value;
    table.close(cx);
    Subprotocols { allow, require }
}
