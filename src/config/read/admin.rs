//! `[admin]`: where the gateway is asked and told, and by whom.
//!
//! Whoever gets in can close every tunnel, so that an address which others than the machine's own users can reach needs
//! TLS and a token.

use std::path::PathBuf;

use super::listener::listen_address;
use super::tree::{Cx, Table, refuse_duplicates};
use super::{address, names, tls};
use crate::config::keys;
use crate::config::model::{Admin, CertificateFiles, ListenAddress, Listener, ServerAddress, Upstream};
use crate::config::report::{Located, Report};

pub fn admin(cx: &mut Cx<'_>, mut table: Table<'_>) -> Admin {
    let spot = table.spot.clone();
    let text = table.string(cx, "address");
    if !table.has("address") {
        table.missing(cx, "`address`", "add for example `address = \"127.0.0.1:9900\"`");
    }
    let address = text.as_ref().and_then(|text| listen_address(cx, text)).filter(|address| is_said(cx, address));
    let admin = Admin {
        token_file: table.string(cx, "token_file").and_then(|path| cx.file(path)),
        hosts: hosts(cx, &mut table),
        tls: certificate(cx, &mut table),
        // The placeholder never leaves the reader: the address is reported as wrong or missing.
        address: address.unwrap_or_else(|| Located::new(ListenAddress::Unix(PathBuf::new()), spot.clone())),
        spot,
    };
    if !admin.address.is_local() && !cx.broken {
        let lacks = match (table.has("token_file"), table.has("tls")) {
            (true, true) => None,
            (true, false) => Some("`tls`"),
            (false, true) => Some("`token_file`"),
            (false, false) => Some("`token_file` and `tls`"),
        };
        if let Some(lacks) = lacks {
            let message = format!("others than this machine can reach this address: it needs {lacks}");
            cx.error("admin-in-public", &admin.address.spot, message)
                .help("write \"127.0.0.1:9900\" or \"unix:/run/portcullis/admin.sock\", or add what is missing");
        }
    }
    table.close(cx);
    admin
}

/// Of a socket that is only named nobody knows who can reach it.
fn is_said(cx: &mut Cx<'_>, address: &Located<ListenAddress>) -> bool {
    let is_named = matches!(address.value, ListenAddress::Inherited(_));
    if is_named {
        cx.error("bad-address", &address.spot, "the admin listener has an address of its own, not a name")
            .help("write the address of the inherited socket, which is then taken: \"127.0.0.1:9900\"");
    }
    !is_named
}

fn hosts(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Vec<String> {
    let Some(list) = table.strings(cx, "hosts") else { return Vec::new() };
    let mut hosts = Vec::new();
    for text in &list.value {
        hosts.extend(cx.check(text, names::host(text)).map(|host| Located::new(host.value.text(), host.spot)));
    }
    refuse_duplicates(cx, &hosts, "the host", String::clone);
    hosts.into_iter().map(|host| host.value).collect()
}

fn certificate(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Option<CertificateFiles> {
    let mut table = table.table(cx, "tls", &keys::ADMIN_TLS)?;
    let before = cx.report.problems.len();
    let files = tls::pair(cx, &mut table, "cert", "key");
    if files.is_none() && cx.report.problems.len() == before {
        table.missing(cx, "`cert` and `key`", "write { cert = \"…\", key = \"…\" }");
    }
    table.close(cx);
    files
}

/// What no single table can know: the address is nobody else's, and no route leads there.
///
/// A name that turns out to be the admin address is found out when it is asked (see `admin/guard.rs`).
pub fn check(admin: &Admin, listeners: &[Listener], upstreams: &[Upstream], report: &mut Report) {
    let address = &admin.address;
    let is_fixed = !matches!(address.value, ListenAddress::Tcp(address) if address.port() == 0);
    if let Some(listener) = listeners.iter().find(|listener| is_fixed && listener.address.value == address.value) {
        report
            .error("duplicate-address", &address.spot, "a listener has the same address")
            .help("the admin listener is for those who run the gateway, and needs an address of its own")
            .also(&listener.address.spot, "the listener");
    }
    if let Some(listener) = listeners.iter().find(|listener| listener.address.value.shuts_out(&address.value)) {
        report
            .error("overlapping-address", &address.spot, "this address and that of a listener cannot both be bound")
            .help(address::OVERLAP)
            .also(&listener.address.spot, "the listener");
    }
    for server in upstreams.iter().flat_map(|upstream| &upstream.servers) {
        if leads_to(&server.address, &address.value) {
            let message = format!("`{}` is the admin listener: this would open it to everybody", server.url);
            report
                .error("admin-exposed", &server.spot, message)
                .help("whoever may ask it can reach it directly; take this server out")
                .also(&address.spot, "the admin listener");
        }
    }
}

fn leads_to(server: &ServerAddress, admin: &ListenAddress) -> bool {
    match (server, admin) {
        (ServerAddress::Unix(path), ListenAddress::Unix(admin)) => path == admin,
        (ServerAddress::Ip(server), ListenAddress::Tcp(admin)) => {
            let (to, at) = (server.ip().to_canonical(), admin.ip().to_canonical());
            let is_ours = to == at || to.is_unspecified() || at.is_unspecified() && to.is_loopback();
            server.port() == admin.port() && is_ours
        }
        (ServerAddress::Name(name, port), ListenAddress::Tcp(admin)) => {
            let name = name.trim_end_matches('.');
            let is_ours = name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
            let at = admin.ip().to_canonical();
            *port == admin.port() && is_ours && (at.is_loopback() || at.is_unspecified())
        }
        _ => false,
    }
}
