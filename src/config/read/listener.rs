//! `[[listener]]`, but for its `tls` table.

use std::path::PathBuf;
use std::time::Duration;

use super::address::{self, Listen};
use super::tree::{Cx, Table, refuse_duplicates};
use super::units::show_size;
use super::{common, tls};
use crate::config::keys;
use crate::config::model::{ListenAddress, Listener, ListenerLimits, ListenerTimeouts, ListenerTls, Peers, Protocols};
use crate::config::report::Located;
use crate::types::Name;

const KIB: u64 = 1 << 10;
/// Bounds of `head_size`, in bytes.
const HEAD: std::ops::RangeInclusive<u64> = KIB..=1024 * KIB;
const HEAD_DEFAULT: u64 = 16 * KIB;
/// Bounds of `target_size`, in bytes; above, the URI type of `http` refuses by itself.
const TARGET: std::ops::RangeInclusive<u64> = 64..=32 * KIB;
const TARGET_DEFAULT: u64 = 8 * KIB;
const FIELDS: std::ops::RangeInclusive<u32> = 1..=1000;

pub fn listener(cx: &mut Cx<'_>, mut table: Table<'_>) -> Listener {
    let spot = table.spot.clone();
    let text = table.string(cx, "address");
    if !table.has("address") {
        table.missing(cx, "`address`", "add for example `address = \"0.0.0.0:443\"`");
    }
    let address = text.as_ref().and_then(|text| listen_address(cx, text));
    let is_unix = address.as_ref().and_then(|address| match address.value {
        ListenAddress::Unix(_) => Some(true),
        ListenAddress::Tcp(_) => Some(false),
        // Who has made it knows.
        ListenAddress::Inherited(_) => None,
    });
    let name = common::name(cx, &mut table).unwrap_or_else(|| match &text {
        Some(text) => Name::new(text.as_str()),
        None => Name::from("listener"),
    });
    let has_tls = table.has("tls");
    let tls = table.table(cx, "tls", &keys::TLS).map(|tls| tls::listener_tls(cx, tls));
    let protocols = protocols(cx, &mut table, has_tls);
    let listener = Listener {
        name,
        // The placeholder never leaves the reader: the address is reported as wrong or missing.
        address: address.unwrap_or_else(|| Located::new(ListenAddress::Unix(PathBuf::new()), spot.clone())),
        websocket_over_h2: websocket_over_h2(cx, &mut table, protocols),
        redirect_https: redirect_https(cx, &mut table, tls.as_ref()),
        proxy_protocol: proxy_protocol(cx, &mut table, is_unix),
        protocols,
        tls,
        timeouts: timeouts(cx, &mut table),
        limits: limits(cx, &mut table),
        spot,
    };
    table.close(cx);
    listener
}

pub fn listen_address(cx: &mut Cx<'_>, text: &Located<String>) -> Option<Located<ListenAddress>> {
    let listen = cx.check(text, address::listen(text))?;
    match listen.value {
        Listen::Tcp(address) => Some(Located::new(ListenAddress::Tcp(address), listen.spot)),
        Listen::Inherited(name) => Some(Located::new(ListenAddress::Inherited(Name::new(name)), listen.spot)),
        Listen::Unix(path) => {
            common::unix(cx, path, &listen.spot).map(|path| Located::new(ListenAddress::Unix(path), listen.spot))
        }
    }
}

fn protocols(cx: &mut Cx<'_>, table: &mut Table<'_>, tls: bool) -> Protocols {
    let default = Protocols { http1: true, http2: tls };
    let help = if tls { "write [\"h2\", \"http/1.1\"]" } else { "write [\"http/1.1\"]" };
    let Some(list) = table.some_strings(cx, "protocols", help) else { return default };
    refuse_duplicates(cx, &list, "the protocol", String::clone);
    let mut protocols = Protocols { http1: false, http2: false };
    for text in &list.value {
        match (text.as_str(), tls) {
            ("http/1.1", _) => protocols.http1 = true,
            ("h2", true) | ("h2c", false) => protocols.http2 = true,
            ("h2", false) => {
                cx.error("wrong-protocol", &text.spot, "`h2` needs TLS, and this listener is clear")
                    .help("write \"h2c\" for HTTP/2 with prior knowledge, or add a `tls` table");
            }
            ("h2c", true) => {
                cx.error("wrong-protocol", &text.spot, "`h2c` is for clear listeners, and this one has TLS")
                    .help("write \"h2\"");
            }
            (other, _) => {
                cx.error("unknown-value", &text.spot, format!("`{other}` is not a protocol"))
                    .help("the protocols are \"http/1.1\", \"h2\" (with TLS) and \"h2c\" (without)");
            }
        }
    }
    protocols
}

fn websocket_over_h2(cx: &mut Cx<'_>, table: &mut Table<'_>, protocols: Protocols) -> bool {
    let written = table.has("websocket_over_h2");
    let value = table.boolean(cx, "websocket_over_h2", true);
    if written && value.value && !protocols.http2 && !cx.broken {
        let message = "`websocket_over_h2` has no effect: this listener does not speak HTTP/2";
        cx.report.warning("no-effect", &value.spot, message).help("add HTTP/2 to `protocols`, or remove this key");
    }
    value.value
}

fn redirect_https(cx: &mut Cx<'_>, table: &mut Table<'_>, tls: Option<&ListenerTls>) -> bool {
    let redirect = table.boolean(cx, "redirect_https", false);
    if let (true, Some(tls)) = (redirect.value, tls) {
        cx.error(
            "redirect-with-tls",
            &redirect.spot,
            "a listener with TLS cannot redirect to https: it would go round",
        )
        .help("remove `redirect_https`, or remove `tls`")
        .also(&tls.default.spot, "TLS is set up here");
    }
    redirect.value
}

/// `is_unix`: what the listener's peers come from, where that is known.
fn proxy_protocol(cx: &mut Cx<'_>, table: &mut Table<'_>, is_unix: Option<bool>) -> Option<Peers> {
    let mut table = table.table(cx, "proxy_protocol", &keys::PROXY_PROTOCOL)?;
    if !table.has("from") {
        table.missing(cx, "`from`", "name the proxies in front: `proxy_protocol = { from = [\"10.0.0.0/8\"] }`");
    }
    let list =
        table.some_strings(cx, "from", "name the networks of your proxies; without any, remove `proxy_protocol`");
    let spot = list.as_ref().map(|list| list.spot.clone());
    let peers = list.map(|list| common::peers(cx, list.value, "anyone can claim any address in a PROXY header"));
    table.close(cx);
    if let (Some(peers), Some(spot), Some(is_unix)) = (&peers, spot, is_unix) {
        let (none, who, help) = if is_unix {
            (!peers.unix, "peers of a unix socket have no address", "write [\"unix\"]")
        } else {
            (
                peers.networks.is_empty(),
                "no peer of this address has a unix socket",
                "name the networks of your proxies",
            )
        };
        // Those that are no addresses at all have been reported.
        if none && (peers.unix || !peers.networks.is_empty()) {
            cx.report.warning("no-effect", &spot, format!("no PROXY header is read here: {who}")).help(help);
        }
    }
    peers
}

fn timeouts(cx: &mut Cx<'_>, table: &mut Table<'_>) -> ListenerTimeouts {
    let mut values = ListenerTimeouts {
        tls_handshake: Duration::from_secs(10),
        request_head: Duration::from_secs(10),
        keep_alive: Duration::from_secs(60),
    };
    if let Some(mut table) = table.table(cx, "timeouts", &keys::LISTENER_TIMEOUTS) {
        values.tls_handshake = table.duration(cx, "tls_handshake", values.tls_handshake);
        values.request_head = table.duration(cx, "request_head", values.request_head);
        values.keep_alive = table.duration(cx, "keep_alive", values.keep_alive);
        table.close(cx);
    }
    values
}

fn limits(cx: &mut Cx<'_>, table: &mut Table<'_>) -> ListenerLimits {
    let (mut head, mut fields, mut target) = (HEAD_DEFAULT, 100, TARGET_DEFAULT);
    if let Some(mut table) = table.table(cx, "limits", &keys::LISTENER_LIMITS) {
        head = bounded(cx, &mut table, "head_size", HEAD).map_or(head, |size| size.value);
        fields = table.integer(cx, "fields", FIELDS).map_or(fields, |number| number.value);
        target = target.min(head);
        if let Some(size) = bounded(cx, &mut table, "target_size", TARGET) {
            if size.value > head {
                let message =
                    format!("a target of {} cannot fit into a head of {}", show_size(size.value), show_size(head));
                cx.error("out-of-range", &size.spot, message).help("raise `head_size` or lower `target_size`");
            }
            target = size.value;
        }
        table.close(cx);
    }
    ListenerLimits { head_size: head as usize, fields: fields as usize, target_size: target as usize }
}

fn bounded(
    cx: &mut Cx<'_>,
    table: &mut Table<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<u64>,
) -> Option<Located<u64>> {
    let size = table.size(cx, key)?;
    if range.contains(&size.value) {
        return Some(size);
    }
    let (low, high) = (show_size(*range.start()), show_size(*range.end()));
    cx.error("out-of-range", &size.spot, format!("`{key}` cannot be {}", show_size(size.value)))
        .help(format!("write a size from \"{low}\" to \"{high}\""));
    None
}
