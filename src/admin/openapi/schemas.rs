//! The shapes of answers and bodies. Every key of an answer is there, and no other: what there is not is null.

use serde_json::{Map, Value, json};

use crate::admin::calls::Call;

/// An answer's, where it is JSON.
pub fn schema(call: Call) -> Option<Value> {
    Some(match call {
        Call::Live | Call::Ready | Call::Metrics | Call::Dashboard | Call::DashboardFile => return None,
        Call::Status => status(),
        Call::Tunnels => object(&[("matched", int()), ("silent_workers", int()), ("tunnels", list(tunnel()))]),
        Call::CloseTunnels => object(&[("closed", int()), ("silent_workers", int())]),
        Call::Listeners => listeners(),
        Call::Routes => object(&[("routes", list(route()))]),
        Call::Upstreams => upstreams(),
        Call::Certificates => object(&[("certificates", list(certificate()))]),
        Call::Config => object(&[
            ("generation", int()),
            ("files", list(object(&[("path", text()), ("tables", json!({ "type": "object" }))]))),
        ]),
        Call::Refusals => object(&[("refusals", list(refusal())), ("silent_workers", int())]),
        Call::Drains | Call::Drain => object(&[("drains", list(drain()))]),
        Call::Resume => object(&[
            ("id", text()),
            ("what", text()),
            ("name", or_null(text())),
            ("upstream", or_null(text())),
            ("server", or_null(text())),
            ("filter", or_null(text())),
        ]),
        Call::Reload => reload(),
        Call::Log | Call::SetLog => object(&[("level", level()), ("configured", level())]),
        Call::OpenApi => json!({ "type": "object" }),
    })
}

/// A body's, where one is taken.
pub fn body(call: Call) -> Option<Value> {
    Some(match call {
        Call::CloseTunnels => optional(
            &[
                ("filter", or_null(text())),
                ("all", flag()),
                ("code", or_null(json!({ "type": "integer", "minimum": 1000, "maximum": 4999 }))),
                ("reason", or_null(json!({ "type": "string", "maxLength": 123 }))),
            ],
            &[],
        ),
        Call::Drain => optional(
            &[
                ("what", one_of(&DRAINED)),
                ("name", text()),
                ("server", text()),
                ("upstream", or_null(text())),
                ("filter", text()),
                ("over_ms", or_null(int())),
                ("rate", or_null(int())),
                ("code", or_null(json!({ "type": "integer", "minimum": 1000, "maximum": 4999 }))),
                ("reason", or_null(json!({ "type": "string", "maxLength": 123 }))),
            ],
            &["what"],
        ),
        Call::Reload => optional(&[], &[]),
        Call::SetLog => optional(&[("level", level())], &["level"]),
        _ => return None,
    })
}

pub fn error() -> Value {
    object(&[("error", object(&[("code", text()), ("message", text()), ("help", or_null(text()))]))])
}

pub fn reload() -> Value {
    let names = || object(&["added", "removed", "changed", "renewed"].map(|how| (how, list(text()))));
    let changes = object(&[
        ("server", flag()),
        ("log", flag()),
        ("admin", flag()),
        ("listeners", names()),
        ("routes", names()),
        ("upstreams", names()),
    ]);
    let problem = object(&[
        ("severity", one_of(&["warning", "error"])),
        ("code", text()),
        ("place", or_null(text())),
        ("message", text()),
        ("help", or_null(text())),
        ("also", or_null(text())),
    ]);
    let mut answer = object(&[
        ("reloaded", flag()),
        ("generation", int()),
        ("changes", or_null(changes)),
        ("problems", list(problem)),
        ("unsaid", int()),
        ("report", text()),
    ]);
    // Only where nothing has changed.
    answer["properties"]["error"] = error()["properties"]["error"].clone();
    answer
}

fn status() -> Value {
    let worker = object(&[("worker", int()), ("connections", int()), ("load", int()), ("tunnels", or_null(int()))]);
    let totals =
        ["requests", "handshakes_refused", "tunnels_opened", "messages_in", "messages_out", "bytes_in", "bytes_out"];
    let totals = object(&totals.map(|name| (name, int())));
    let last = object(&[("at", time()), ("reloaded", flag()), ("problems", int())]);
    object(&[
        ("version", text()),
        ("features", list(text())),
        ("pid", int()),
        ("phase", one_of(&["running", "draining", "ended"])),
        ("drain_left_ms", or_null(int())),
        ("started", time()),
        ("uptime_ms", int()),
        ("connections", object(&[("open", int()), ("max", int())])),
        ("tunnels", int()),
        ("totals", totals),
        ("workers", list(worker)),
        (
            "configuration",
            object(&[("generation", int()), ("since", time()), ("refused", int()), ("last_reload", or_null(last))]),
        ),
    ])
}

fn tunnel() -> Value {
    object(&[
        ("id", int()),
        ("state", one_of(&["open", "half-closed", "closing"])),
        ("listener", text()),
        ("protocol", one_of(&["h1", "h2"])),
        ("tls", or_null(text())),
        ("route", or_null(text())),
        ("upstream", or_null(text())),
        ("server", or_null(text())),
        ("subprotocol", or_null(text())),
        ("client", or_null(text())),
        ("peer", text()),
        ("connection", int()),
        ("worker", int()),
        ("age_ms", int()),
        ("idle_ms", int()),
        ("bytes_in", int()),
        ("bytes_out", int()),
        ("messages_in", or_null(int())),
        ("messages_out", or_null(int())),
        ("rtt_us", or_null(int())),
        ("closed_by", or_null(text())),
        ("close_code", or_null(int())),
    ])
}

fn listeners() -> Value {
    let timeouts = object(&["tls_handshake_ms", "request_head_ms", "keep_alive_ms"].map(|name| (name, int())));
    let limits = object(&["head_size", "fields", "target_size"].map(|name| (name, int())));
    let listener = object(&[
        ("name", text()),
        ("address", text()),
        ("tls", flag()),
        ("protocols", list(text())),
        ("websocket_over_h2", flag()),
        ("redirect_https", flag()),
        ("draining", flag()),
        ("proxy_protocol", or_null(list(text()))),
        ("timeouts", timeouts),
        ("limits", limits),
    ]);
    let admin = object(&[("address", text()), ("tls", flag()), ("token", flag()), ("hosts", list(text()))]);
    object(&[("listeners", list(listener)), ("admin", or_null(admin))])
}

fn route() -> Value {
    let websocket = object(&[
        ("origins", list(text())),
        ("allow_missing_origin", flag()),
        ("subprotocols", or_null(list(text()))),
        ("checked_frames", flag()),
        ("idle_timeout_ms", int()),
        ("ping_interval_ms", or_null(int())),
        ("max_lifetime_ms", or_null(int())),
        ("max_tunnels", or_null(int())),
        ("max_tunnels_per_address", or_null(int())),
        ("tunnels", or_null(int())),
    ]);
    object(&[
        ("name", text()),
        ("hosts", list(text())),
        ("path", text()),
        ("listeners", list(text())),
        ("client_certificate", flag()),
        ("strip_prefix", or_null(text())),
        ("upstream", or_null(text())),
        ("redirect", or_null(object(&[("to", text()), ("status", int())]))),
        ("respond", or_null(int())),
        ("websocket", or_null(websocket)),
    ])
}

fn upstreams() -> Value {
    let check = object(&[("at", time()), ("took_ms", int()), ("passed", flag()), ("failure", or_null(text()))]);
    let server = object(&[
        ("server", text()),
        ("id", text()),
        ("standing", one_of(&["up", "trial", "on-trial", "ejected", "down"])),
        ("since", or_null(text())),
        ("draining", flag()),
        ("weight", int()),
        ("backup", flag()),
        ("max_connections", or_null(int())),
        ("requests", int()),
        ("tunnels", int()),
        ("idle_connections", int()),
        ("ejections", int()),
        ("checks", object(&["passed", "failed", "falls"].map(|name| (name, int())))),
        ("last_check", or_null(check)),
    ]);
    let upstream = object(&[
        ("name", text()),
        ("websocket_only", flag()),
        ("drain_rate", or_null(int())),
        ("checked", flag()),
        ("servers", list(server)),
        ("queue", object(&["length", "joined", "waited_ms", "refused", "timed_out"].map(|name| (name, int())))),
        ("retries", object(&["taken", "refused"].map(|name| (name, int())))),
    ]);
    let pair = object(&[("source", or_null(text())), ("destination", text()), ("live", int())]);
    object(&[("upstreams", list(upstream)), ("ports", object(&[("per_pair", int()), ("pairs", list(pair))]))])
}

fn certificate() -> Value {
    object(&[
        ("file", text()),
        ("names", list(text())),
        ("subject", text()),
        ("fingerprint_sha256", text()),
        ("not_before", time()),
        ("not_after", time()),
        ("expires_in_s", json!({ "type": "integer" })),
        ("used_by", list(object(&[("listener", or_null(text())), ("hosts", list(text()))]))),
    ])
}

fn refusal() -> Value {
    let required = ["reason", "side", "listener", "method", "path"].map(|name| (name, text()));
    let words = ["rule", "detail", "client", "protocol", "host", "route", "upstream", "server", "origin", "user_agent"];
    let optional = words.map(|name| (name, or_null(text())));
    let others = [("time", time()), ("status", or_null(int())), ("connection", int())];
    object(&[&required[..], &optional, &others].concat())
}

fn drain() -> Value {
    object(&[
        ("id", text()),
        ("what", one_of(&DRAINED)),
        ("name", or_null(text())),
        ("upstream", or_null(text())),
        ("server", or_null(text())),
        ("filter", or_null(text())),
        ("why", one_of(&["asked", "no-weight", "gone"])),
        ("since", or_null(text())),
        ("requests", or_null(int())),
        ("tunnels", or_null(int())),
        ("total", or_null(int())),
        ("closed", int()),
        ("left", or_null(int())),
        ("rate", or_null(int())),
        ("over_ms", or_null(int())),
        ("done", flag()),
    ])
}

/// What can be asked to drain.
const DRAINED: [&str; 5] = ["process", "listener", "route", "server", "tunnels"];

/// `error`, `warn`, `info`, `debug`, `trace`; with those of single areas `info,upstream=debug`.
fn level() -> Value {
    json!({ "type": "string", "examples": ["debug", "info,upstream=debug"] })
}

fn text() -> Value {
    json!({ "type": "string" })
}

/// `null` only where the clock of the machine is out of its mind.
fn time() -> Value {
    json!({ "type": ["string", "null"], "format": "date-time" })
}

fn int() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn flag() -> Value {
    json!({ "type": "boolean" })
}

fn one_of(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

fn list(of: Value) -> Value {
    json!({ "type": "array", "items": of })
}

fn or_null(mut schema: Value) -> Value {
    schema["type"] = json!([schema["type"], "null"]);
    schema
}

/// With all of its keys.
fn object(keys: &[(&str, Value)]) -> Value {
    let required: Vec<_> = keys.iter().map(|(name, _)| *name).collect();
    optional(keys, &required)
}

fn optional(keys: &[(&str, Value)], required: &[&str]) -> Value {
    let properties: Map<String, Value> =
        keys.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}
