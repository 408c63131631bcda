//! `[listener.tls]` and its policies.
//!
//! Only what the file says: whether certificates exist, match their keys and cover the hosts is for `tls/` to find out.

use super::names;
use super::tree::{Cx, Table, refuse_duplicates};
use crate::config::keys;
use crate::config::model::{CertificateFiles, ClientAuth, HostPattern, ListenerTls, TlsPolicy, TlsVersion};
use crate::config::report::Located;

#[derive(Clone, Copy)]
enum Auth {
    None,
    Optional,
    Required,
}

pub fn listener_tls(cx: &mut Cx<'_>, mut table: Table<'_>) -> ListenerTls {
    let default = policy(cx, &mut table, None);
    if default.certificates.is_empty() && !["cert", "key", "certificates"].iter().any(|key| table.has(key)) {
        table.missing(cx, "certificate", "add `cert` and `key`, or `certificates = [{ cert = \"…\", key = \"…\" }]`");
    }
    let mut policies = Vec::new();
    for mut further in table.tables(cx, "policy", &keys::POLICY) {
        policies.push(policy(cx, &mut further, Some(&default)));
        further.close(cx);
    }
    let hosts: Vec<_> = policies.iter().flat_map(|policy| policy.hosts.iter().cloned()).collect();
    refuse_duplicates(cx, &hosts, "the host", show_host);
    table.close(cx);
    ListenerTls { default, policies }
}

pub fn show_host(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Wildcard(suffix) => format!("*.{suffix}"),
    }
}

/// The default policy where `parent` is `None`, else one that takes from it what it does not say itself.
fn policy(cx: &mut Cx<'_>, table: &mut Table<'_>, parent: Option<&TlsPolicy>) -> TlsPolicy {
    let versions = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    TlsPolicy {
        hosts: if parent.is_some() { hosts(cx, table) } else { Vec::new() },
        certificates: certificates(cx, table),
        min_version: table
            .word(cx, "min_version", &versions)
            .unwrap_or(parent.map_or(TlsVersion::Tls12, |parent| parent.min_version)),
        client_auth: client_auth(cx, table, parent.map(|parent| &parent.client_auth)),
        spot: table.spot.clone(),
    }
}

fn hosts(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Vec<Located<HostPattern>> {
    if !table.has("hosts") {
        table.missing(cx, "`hosts`", "a policy applies to names: `hosts = [\"internal.example.com\"]`");
    }
    let help = "name the hosts that this policy applies to";
    let Some(list) = table.some_strings(cx, "hosts", help) else { return Vec::new() };
    let mut hosts = Vec::new();
    for text in &list.value {
        let Some(host) = cx.check(text, names::host_pattern(text)) else { continue };
        // RFC 6066, section 3: SNI carries names and never addresses.
        let address = matches!(&host.value, HostPattern::Exact(name) if name.starts_with('[') || is_v4(name));
        if address {
            cx.error("bad-host", &host.spot, "clients send no SNI for an address, so this policy would never apply")
                .help("set it in [listener.tls], which applies to connections without SNI");
        }
        hosts.push(host);
    }
    hosts
}

fn is_v4(name: &str) -> bool {
    name.parse::<std::net::Ipv4Addr>().is_ok()
}

/// `cert` and `key`, or `certificates`; never both.
fn certificates(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Vec<CertificateFiles> {
    let short = pair(cx, table, "cert", "key");
    let short_spot = ["cert", "key"].iter().find(|key| table.has(key)).map(|key| table.key_spot(key));
    if !table.has("certificates") {
        return short.into_iter().collect();
    }
    let list_spot = table.key_spot("certificates");
    if let Some(spot) = short_spot {
        cx.error("two-ways", &spot, "certificates are given in two ways")
            .help("move this one into `certificates`")
            .also(&list_spot, "and here");
    }
    let mut list = Vec::new();
    let tables = table.tables(cx, "certificates", &keys::CERTIFICATE);
    if table.is_empty_list("certificates") {
        cx.error("empty-list", &list_spot, "`certificates` is empty").help("add { cert = \"…\", key = \"…\" }");
    }
    for mut entry in tables {
        let before = cx.report.problems.len();
        let files = pair(cx, &mut entry, "cert", "key");
        if files.is_none() && cx.report.problems.len() == before {
            entry.missing(cx, "`cert` and `key`", "write { cert = \"…\", key = \"…\" }");
        }
        list.extend(files);
        entry.close(cx);
    }
    list
}

/// Two keys that only make sense together: a certificate and its private key.
pub fn pair(cx: &mut Cx<'_>, table: &mut Table<'_>, cert: &'static str, key: &'static str) -> Option<CertificateFiles> {
    for (there, absent) in [(cert, key), (key, cert)] {
        if table.has(there) && !table.has(absent) && !cx.broken {
            let spot = table.key_spot(there);
            cx.error("missing-key", &spot, format!("`{there}` without `{absent}`")).help(format!("add `{absent}`"));
        }
    }
    let cert = table.string(cx, cert).and_then(|path| cx.file(path));
    let key = table.string(cx, key).and_then(|path| cx.file(path));
    Some(CertificateFiles { cert: cert?, key: key? })
}

fn client_auth(cx: &mut Cx<'_>, table: &mut Table<'_>, parent: Option<&ClientAuth>) -> ClientAuth {
    let words = [("none", Auth::None), ("optional", Auth::Optional), ("required", Auth::Required)];
    let written = table.has("client_auth");
    let auth = table.word(cx, "client_auth", &words);
    let wrong = written && auth.is_none();
    let own_ca = table.string(cx, "client_ca").and_then(|path| cx.file(path));
    let auth = auth.unwrap_or(match parent {
        Some(ClientAuth::Optional { .. }) => Auth::Optional,
        Some(ClientAuth::Required { .. }) => Auth::Required,
        Some(ClientAuth::None) | None => Auth::None,
    });
    if table.has("client_ca") && matches!(auth, Auth::None) && !wrong && !cx.broken {
        // Read as "no certificates are asked for", this would be open where its author thinks that it is closed.
        let spot = table.key_spot("client_ca");
        cx.error("no-effect", &spot, "`client_ca` has no effect: clients are not asked for a certificate")
            .help("add `client_auth = \"required\"` (or \"optional\"), or remove `client_ca`");
    }
    let inherited = parent.and_then(|parent| match parent {
        ClientAuth::Optional { ca } | ClientAuth::Required { ca } => Some(ca.clone()),
        ClientAuth::None => None,
    });
    let has_own = table.has("client_ca");
    let ca = if has_own { own_ca } else { inherited };
    match (auth, ca) {
        (Auth::None, _) => ClientAuth::None,
        (Auth::Optional, Some(ca)) => ClientAuth::Optional { ca },
        (Auth::Required, Some(ca)) => ClientAuth::Required { ca },
        (Auth::Optional | Auth::Required, None) => {
            if !has_own && !cx.broken {
                let spot = table.key_spot("client_auth");
                cx.error("missing-key", &spot, "`client_auth` needs `client_ca`")
                    .help("add `client_ca = \"certs/clients.pem\"`: the authorities whose certificates are accepted");
            }
            ClientAuth::None
        }
    }
}
