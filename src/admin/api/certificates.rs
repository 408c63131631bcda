//! `GET certificates`: what the gateway shows of itself, where, and for how long that is good.

use serde::Serialize;

use super::time;
use crate::admin::Plane;
use crate::admin::answer::{ApiError, Reply};
use crate::clock;
use crate::tls::{CertificateInfo, ServerPolicies};

#[derive(Serialize)]
struct List {
    certificates: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    file: String,
    names: Vec<String>,
    subject: String,
    fingerprint_sha256: String,
    not_before: Option<String>,
    not_after: Option<String>,
    /// Less than 0: it has expired.
    expires_in_s: i64,
    used_by: Vec<Use>,
}

#[derive(Serialize)]
struct Use {
    /// `null`: the admin listener.
    listener: Option<String>,
    /// Hosts of the TLS policy; empty: the one for all others.
    hosts: Vec<String>,
}

pub fn certificates(plane: &Plane) -> Result<Reply, ApiError> {
    let snapshot = plane.in_use.snapshot();
    let mut rows: Vec<(CertificateInfo, Vec<Use>)> = Vec::new();
    let mut note = |listener: Option<&str>, policies: &ServerPolicies| {
        for (hosts, certificates) in policies.certificates() {
            for info in certificates {
                let (listener, hosts) = (listener.map(str::to_owned), hosts.clone());
                let used = Use { listener, hosts };
                match rows.iter_mut().find(|(known, _)| *known == info) {
                    Some((_, uses)) => uses.push(used),
                    None => rows.push((info, vec![used])),
                }
            }
        }
    };
    for plan in &snapshot.listeners {
        plan.tls.iter().for_each(|tls| note(Some(plan.name.as_str()), tls));
    }
    snapshot.admin.iter().filter_map(|admin| admin.tls.as_ref()).for_each(|tls| note(None, tls));
    let now = clock::wall().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let rows = rows.into_iter().map(|(info, used_by)| Row {
        file: info.file.display().to_string(),
        names: info.names,
        subject: info.subject,
        fingerprint_sha256: info.fingerprint,
        not_before: date(info.not_before),
        not_after: date(info.not_after),
        expires_in_s: info.not_after.saturating_sub(now),
        used_by,
    });
    Reply::json(&List { certificates: rows.collect() })
}

fn date(seconds: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds).ok().and_then(|stamp| time(stamp.into()))
}
