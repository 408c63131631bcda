//! `[[route]]`, but for its `websocket` table.

use std::time::Duration;

use super::address;
use super::names;
use super::paths;
use super::tree::{Cx, Node, Table, refuse_duplicates};
use super::{DraftRoute, UpstreamReference, common, tls, upstream, websocket};
use crate::config::keys;
use crate::config::model::{HostPattern, PathPattern, Route, RouteTimeouts, Target};
use crate::config::report::{Located, Spot};
use crate::types::Name;

const REDIRECTS: [u32; 5] = [301, 302, 303, 307, 308];

pub fn route(cx: &mut Cx<'_>, mut table: Table<'_>) -> DraftRoute {
    let spot = table.spot.clone();
    let hosts = hosts(cx, &mut table);
    let has_hosts = table.has("hosts");
    let path_text = table.string(cx, "path").unwrap_or_else(|| Located::new("/".to_owned(), spot.clone()));
    let path = cx.check(&path_text, paths::pattern(&path_text));
    let given_name = common::name(cx, &mut table);
    let strip_prefix = strip_prefix(cx, &mut table, path.as_ref());
    let listeners = listeners(cx, &mut table);
    let client_certificate = table.boolean(cx, "client_certificate", false);
    let (target, upstream) = target(cx, &mut table);
    let route = Route {
        name: given_name.clone().unwrap_or_else(|| default_name(&hosts, &path_text)),
        hosts,
        // The placeholder never leaves the reader: the pattern is reported as wrong.
        path: path.unwrap_or_else(|| Located::new(PathPattern::Prefix("/".into()), path_text.spot)),
        listeners,
        client_certificate,
        strip_prefix,
        target,
        timeouts: timeouts(cx, &mut table),
        body_size: body_size(cx, &mut table),
        websocket: table
            .table(cx, "websocket", &keys::WEBSOCKET)
            .map(|websocket| websocket::policy(cx, websocket, has_hosts)),
        spot,
    };
    table.close(cx);
    DraftRoute { route, named: given_name.is_some(), upstream }
}

fn default_name(hosts: &[Located<HostPattern>], path: &str) -> Name {
    let hosts: Vec<_> = hosts.iter().map(|host| tls::show_host(host)).collect();
    let separator = if path.starts_with('/') || hosts.is_empty() { "" } else { " " };
    Name::new(format!("{}{separator}{path}", hosts.join(",")))
}

fn hosts(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Vec<Located<HostPattern>> {
    let Some(list) = table.some_strings(cx, "hosts", "leave `hosts` out to match any host") else { return Vec::new() };
    let mut hosts = Vec::new();
    for text in &list.value {
        hosts.extend(cx.check(text, names::host_pattern(text)));
    }
    refuse_duplicates(cx, &hosts, "the host", tls::show_host);
    hosts
}

fn listeners(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Vec<Located<Name>> {
    let help = "leave `listeners` out for all of them";
    let Some(list) = table.some_strings(cx, "listeners", help) else { return Vec::new() };
    refuse_duplicates(cx, &list, "the listener", String::clone);
    list.value.into_iter().map(|text| Located::new(Name::new(text.value), text.spot)).collect()
}

fn strip_prefix(
    cx: &mut Cx<'_>,
    table: &mut Table<'_>,
    path: Option<&Located<PathPattern>>,
) -> Option<Located<String>> {
    let prefix = table.string(cx, "strip_prefix")?;
    if let Err(fault) = paths::prefix(&prefix, "`strip_prefix`") {
        cx.fault(&prefix.spot, &prefix, fault);
        return None;
    }
    let path = path?;
    let fits = match &path.value {
        PathPattern::Prefix(path) | PathPattern::Exact(path) => paths::is_prefix(&prefix, path),
        PathPattern::Regex(_) => {
            cx.error(
                "strip-prefix-with-regex",
                &prefix.spot,
                "`strip_prefix` cannot be checked against a regular expression",
            )
            .help("write the path as a prefix, for example `path = \"/app\"`")
            .also(&path.spot, "the path");
            return None;
        }
    };
    if *prefix == "/" {
        cx.error("no-effect", &prefix.spot, "`strip_prefix = \"/\"` cuts nothing").help("remove it");
    } else if !fits {
        cx.error(
            "strip-prefix-mismatch",
            &prefix.spot,
            format!("`{}` does not begin every path of this route", *prefix),
        )
        .help("write the path of the route, or its first segments")
        .also(&path.spot, "the path");
    }
    Some(prefix)
}

/// What the route leads to. The target is a placeholder where there is an upstream reference.
fn target(cx: &mut Cx<'_>, table: &mut Table<'_>) -> (Target, Option<UpstreamReference>) {
    let kinds: Vec<_> = ["upstream", "redirect", "respond"].into_iter().filter(|key| table.has(key)).collect();
    if let [first, second, ..] = kinds[..] {
        let (at, also) = (table.key_spot(second), table.key_spot(first));
        cx.error("two-targets", &at, format!("a route cannot have both `{first}` and `{second}`"))
            .help("remove one of them, or make two routes")
            .also(&also, "the other one");
    } else if kinds.is_empty() {
        table.missing(cx, "target", "add `upstream`, `redirect` or `respond`");
    }
    if kinds.first().is_some_and(|kind| *kind != "upstream") {
        for key in ["websocket", "strip_prefix"].into_iter().filter(|key| table.has(key)) {
            let (at, also) = (table.key_spot(key), table.key_spot(kinds[0]));
            cx.error("no-effect", &at, format!("`{key}` needs an upstream, and this route has `{}`", kinds[0]))
                .help(format!("remove `{key}`, or lead the route to an upstream"))
                .also(&also, "this answers every request");
        }
    }
    let redirect = table.table(cx, "redirect", &keys::REDIRECT).map(|table| redirect(cx, table));
    let respond = table.table(cx, "respond", &keys::RESPOND).map(|table| respond(cx, table));
    let reference = table.take("upstream").map(|node| reference(cx, &node));
    let target = redirect.or(respond).unwrap_or(Target::Upstream(usize::MAX));
    (target, reference.or((kinds.is_empty()).then_some(UpstreamReference::Broken)))
}

fn reference(cx: &mut Cx<'_>, node: &Node<'_>) -> UpstreamReference {
    let Some(text) = node.string(cx, "upstream", "a string (the name of an upstream, or a URL)") else {
        return UpstreamReference::Broken;
    };
    if !address::is_url(&text) {
        return UpstreamReference::Name(text);
    }
    match upstream::inline(cx, &text) {
        Some(upstream) => UpstreamReference::Inline(Box::new(upstream)),
        None => UpstreamReference::Broken,
    }
}

fn redirect(cx: &mut Cx<'_>, mut table: Table<'_>) -> Target {
    if !table.has("to") {
        table.missing(cx, "`to`", "add `to = \"https://www.example.com/\"`");
    }
    let to = table.string(cx, "to");
    if let Some(to) = &to {
        check_location(cx, to);
    }
    let status = table.integer(cx, "status", 100..=599);
    if let Some(status) = status.as_ref().filter(|status| !REDIRECTS.contains(status)) {
        cx.error("out-of-range", &status.spot, format!("{} is no redirect", status.value))
            .help("write 301, 302, 303, 307 or 308");
    }
    table.close(cx);
    Target::Redirect {
        to: to.map(|to| to.value).unwrap_or_default(),
        status: status.map_or(308, |status| status.value as u16),
    }
}

/// A `Location` that is the same for every request: absolute, or a path on the same host.
fn check_location(cx: &mut Cx<'_>, to: &Located<String>) {
    let help = "write \"https://host/path\", or \"/path\" for the same host";
    let problem = if !to.bytes().all(|b| b.is_ascii_graphic()) {
        Some("a redirect's target is a URL: no spaces, and other characters percent-encoded")
    } else if to.starts_with("//") {
        Some("a redirect's target that begins with `//` leads to another host")
    } else if to.starts_with('/') {
        None
    } else {
        match to.split_once("://") {
            Some(("http" | "https", rest)) => {
                let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
                let valid = names::split_port(authority).and_then(|(host, _)| names::host(host));
                if valid.is_err() { Some("a redirect's target needs a valid host") } else { None }
            }
            _ => Some("a redirect's target begins with `https://`, `http://` or `/`"),
        }
    };
    if let Some(message) = problem {
        cx.error("bad-redirect", &to.spot, message).help(help);
    }
}

fn respond(cx: &mut Cx<'_>, mut table: Table<'_>) -> Target {
    if !table.has("status") {
        table.missing(cx, "`status`", "add for example `status = 403`");
    }
    let body = table.string(cx, "body");
    let status = table.integer(cx, "status", 100..=599);
    if let Some(status) = &status {
        check_status(cx, status, body.as_ref().map(|body| (&body.spot, body.as_str())));
    }
    table.close(cx);
    Target::Respond {
        status: status.map_or(403, |status| status.value as u16),
        body: body.map(|body| body.value).unwrap_or_default(),
    }
}

fn check_status(cx: &mut Cx<'_>, status: &Located<u32>, body: Option<(&Spot, &str)>) {
    match status.value {
        // RFC 9110, section 15.2: an interim answer, after which the client goes on waiting.
        100..=199 => {
            cx.error("out-of-range", &status.spot, format!("{} does not end a request", status.value))
                .help("write a status from 200 to 599");
        }
        300..=399 => {
            cx.error("out-of-range", &status.spot, format!("{} says nothing without a target", status.value))
                .help("use `redirect = { to = \"…\", status = 308 }`");
        }
        // RFC 9110, sections 15.3.5 and 15.3.6.
        204 | 205 => {
            if let Some((spot, _)) = body.filter(|(_, text)| !text.is_empty()) {
                cx.error("no-effect", spot, format!("an answer with status {} has no body", status.value))
                    .help("remove `body`, or answer with 200");
            }
        }
        _ => {}
    }
}

fn timeouts(cx: &mut Cx<'_>, table: &mut Table<'_>) -> RouteTimeouts {
    let mut values = RouteTimeouts {
        response: Duration::from_secs(60),
        request_body_idle: Duration::from_secs(30),
        response_body_idle: Duration::from_secs(600),
        client_stall: Duration::from_secs(30),
    };
    if let Some(mut table) = table.table(cx, "timeouts", &keys::ROUTE_TIMEOUTS) {
        values.response = table.duration(cx, "response", values.response);
        values.request_body_idle = table.duration(cx, "request_body_idle", values.request_body_idle);
        values.response_body_idle = table.duration(cx, "response_body_idle", values.response_body_idle);
        values.client_stall = table.duration(cx, "client_stall", values.client_stall);
        table.close(cx);
    }
    values
}

fn body_size(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Option<u64> {
    let mut table = table.table(cx, "limits", &keys::ROUTE_LIMITS)?;
    let size = table.size_or_none(cx, "body_size").map(|size| size.value);
    table.close(cx);
    size
}
