//! `protocols` and `websocket_over_h2`: which HTTP is spoken with the servers.

use crate::config::model::{Protocols, UpstreamServer};
use crate::config::read::tree::{Cx, Table, refuse_duplicates};
use crate::config::report::{Located, Problem, Spot};

pub(super) const DEFAULT: Protocols = Protocols { http1: true, http2: false };

pub(super) fn read(cx: &mut Cx<'_>, table: &mut Table<'_>, servers: &[UpstreamServer]) -> Protocols {
    let Some(list) = table.some_strings(cx, "protocols", "write [\"http/1.1\"]") else { return DEFAULT };
    refuse_duplicates(cx, &list, "the protocol", String::clone);
    let mut protocols = Protocols { http1: false, http2: false };
    for text in &list.value {
        match text.as_str() {
            "http/1.1" => protocols.http1 = true,
            "h2" => {
                protocols.http2 = true;
                if let Some(clear) = servers.iter().find(|server| server.tls_name.is_none()) {
                    wrong(cx, &text.spot, "`h2` is chosen by TLS, and a server of this upstream is clear", &clear.spot)
                        .help("write \"h2c\" for HTTP/2 with prior knowledge, or https:// and wss:// for the servers");
                }
            }
            "h2c" => {
                protocols.http2 = true;
                if let Some(tls) = servers.iter().find(|server| server.tls_name.is_some()) {
                    wrong(
                        cx,
                        &text.spot,
                        "`h2c` is for clear servers, and a server of this upstream has TLS",
                        &tls.spot,
                    )
                    .help("write \"h2\"");
                } else if list.value.iter().any(|other| other.as_str() == "http/1.1") {
                    let message = "a clear server speaks either `h2c` or `http/1.1`: nothing tells which";
                    cx.error("wrong-protocol", &text.spot, message)
                        .help("write [\"h2c\"] if the servers are known to speak HTTP/2, else [\"http/1.1\"]");
                }
            }
            other => {
                cx.error("unknown-value", &text.spot, format!("`{other}` is not a protocol"))
                    .help("the protocols are \"http/1.1\", \"h2\" (with TLS) and \"h2c\" (without)");
            }
        }
    }
    if protocols == (Protocols { http1: false, http2: false }) { DEFAULT } else { protocols }
}

fn wrong<'c>(cx: &'c mut Cx<'_>, spot: &Spot, message: &str, server: &Spot) -> &'c mut Problem {
    cx.error("wrong-protocol", spot, message).also(server, "this one")
}

/// Whether handshakes go over HTTP/2, where the server opens tunnels there.
pub(super) fn websocket_over_h2(cx: &mut Cx<'_>, table: &mut Table<'_>, protocols: Protocols) -> Located<bool> {
    let written = table.has("websocket_over_h2");
    let value = table.boolean(cx, "websocket_over_h2", true);
    if written && value.value && !protocols.http2 && !cx.broken {
        let message = "`websocket_over_h2` has no effect: HTTP/2 is not spoken with these servers";
        cx.report.warning("no-effect", &value.spot, message).help("add HTTP/2 to `protocols`, or remove this key");
    }
    value
}
