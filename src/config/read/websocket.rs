//! `[route.websocket]`: who may upgrade, and with what.

use std::time::Duration;

use super::names;
use super::tree::{Cx, Table, refuse_duplicates};
use super::units;
use crate::config::keys;
use crate::config::model::{OnExcess, OriginRule, Rates, Subprotocols, TunnelCounts, WebSocketPolicy};
use crate::config::report::Located;

/// More is no limit.
const MOST_MESSAGES: u32 = 10_000_000;
const MOST_TUNNELS: u32 = 10_000_000;

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
        rates: None,
        tunnels: tunnels(cx, &mut table),
        close_removed: table.boolean(cx, "close_removed", false).value,
        spot,
    };
    let max_frame_size = frame_limit(cx, &mut table, "max_frame_size", policy.checked_frames);
    let max_message_size = frame_limit(cx, &mut table, "max_message_size", policy.checked_frames);
    let largest = max_message_size.or(max_frame_size);
    let rates = rates(cx, &mut table, policy.checked_frames, largest);
    if policy.ping_interval.is_some() && !policy.checked_frames {
        cx.error("opaque-frames", &policy.spot, "`ping_interval` has no place for a ping while `frames = \"opaque\"`")
            .help("leave out one of the two");
    }
    table.close(cx);
    WebSocketPolicy { max_frame_size, max_message_size, rates, ..policy }
}

/// `largest`: what a message may have, where the route says so.
fn rates(cx: &mut Cx<'_>, table: &mut Table<'_>, checked: bool, largest: Option<u64>) -> Option<Rates> {
    let messages = table.integer_or_none(cx, "messages_per_second", 1..=MOST_MESSAGES);
    let bytes = table.size_or_none(cx, "bytes_per_second");
    let words = [("delay", OnExcess::Delay), ("close", OnExcess::Close)];
    let on_excess = table.word(cx, "on_excess", &words).unwrap_or_default();
    if let Some(messages) = messages.as_ref().filter(|_| !checked) {
        let message = "`messages_per_second` cannot be held to while `frames = \"opaque\"`";
        cx.error("opaque-frames", &messages.spot, message)
            .help("leave `frames` out, or limit bytes with `bytes_per_second`");
    }
    if let (OnExcess::Close, Some(bytes), Some(largest)) = (on_excess, &bytes, largest)
        && largest > bytes.value
    {
        let message = "one message that the route allows can be more than a second's bytes, and close its tunnel";
        let help = format!("write \"{}\" or more, or `on_excess = \"delay\"`", units::show_size(largest));
        cx.report.warning("closed-by-one-message", &bytes.spot, message).help(help);
    }
    let none = messages.is_none() && bytes.is_none();
    let misspelt = ["messages_per_second", "bytes_per_second"].into_iter().any(|key| table.misspells(key));
    if none && on_excess == OnExcess::Close && !misspelt {
        let spot = table.key_spot("on_excess");
        let message = "`on_excess` does nothing here: no rate is limited";
        cx.report.warning("no-effect", &spot, message).help("set `messages_per_second` or `bytes_per_second`");
    }
    if none {
        return None;
    }
    let (messages_per_second, bytes_per_second) = (messages.map(|limit| limit.value), bytes.map(|limit| limit.value));
    Some(Rates { messages_per_second, bytes_per_second, on_excess })
}

fn tunnels(cx: &mut Cx<'_>, table: &mut Table<'_>) -> TunnelCounts {
    let max = table.integer_or_none(cx, "max_tunnels", 1..=MOST_TUNNELS);
    let per_address = table.integer_or_none(cx, "max_tunnels_per_address", 1..=MOST_TUNNELS);
    if let (Some(max), Some(per_address)) = (&max, &per_address)
        && per_address.value > max.value
    {
        let message = "no address can have so many tunnels: the route has fewer";
        cx.report
            .warning("no-effect", &per_address.spot, message)
            .help(format!("write less than {}, or leave it out", max.value))
            .also(&max.spot, "all of the route's");
    }
    TunnelCounts { max: max.map(|limit| limit.value), max_per_address: per_address.map(|limit| limit.value) }
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
