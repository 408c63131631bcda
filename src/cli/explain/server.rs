//! Which server of an upstream gets a request, and why.

use std::net::IpAddr;

use http::HeaderMap;

use crate::cli::check::count;
use crate::config::model::{self, Balance, HashBy, Resolve};
use crate::upstream::{Ask, Definition, Foreseen, How};

/// Nothing where there is nothing to choose.
pub(super) fn lines(
    configured: &model::Upstream,
    upstream: &Definition,
    client: Option<IpAddr>,
    headers: &HeaderMap,
    onward: &str,
) -> Vec<(&'static str, String)> {
    let path = onward.split('?').next().unwrap_or_default();
    let mut lines = Vec::new();
    let many = |server: &&model::UpstreamServer| server.resolve != Resolve::One && server.weight > 0;
    let names: Vec<_> = configured.servers.iter().filter(many).map(|server| server.url.as_str()).collect();
    match upstream.foresee(&Ask { client, headers, path, home: None }) {
        // Nobody is asked here for what names stand for.
        None if !names.is_empty() => lines.push(("server", format!("one that {} stands for", names.join(" or ")))),
        Some(foreseen) if !names.is_empty() => {
            let more = format!("not counting those that {} stands for", names.join(" or "));
            lines.push(("server", format!("{}, {more}", reason(configured, &foreseen))));
        }
        None => lines.push(("server", "none: all of them have weight 0".to_owned())),
        Some(foreseen) if configured.servers.len() > 1 => lines.push(("server", reason(configured, &foreseen))),
        Some(_) => {}
    }
    if let Some(sticky) = &configured.sticky {
        let from_now_on = format!("the cookie {} keeps the client with its server", sticky.cookie);
        lines.push(("sticky", from_now_on));
    }
    lines
}

fn reason(configured: &model::Upstream, foreseen: &Foreseen) -> String {
    let Foreseen { server, how, is_backup, total_weight, choices } = foreseen;
    let backup = if *is_backup { "a backup, " } else { "" };
    let share = || format!("{:.0} % of new work", f64::from(server.weight) * 100.0 / f64::from(*total_weight));
    let others = count(choices - 1, "other");
    let other = if *choices == 2 { "the other".to_owned() } else { format!("one of {others}") };
    let because = match how {
        How::Only => "the only one that may get work".to_owned(),
        How::Sticky => "the client's cookie says that it is with this one".to_owned(),
        How::Turns => format!("first in turn with {others}, {}", share()),
        How::LeastConnections => {
            format!("or {other}, whichever has the fewest requests and tunnels for its weight")
        }
        How::TwoChoices => format!("or {other}: of two at random the one with fewer requests and tunnels"),
        How::Hash => format!("by the hash of {}, while it is not too busy", compared(configured)),
        How::NothingToHash => {
            let by_address = matches!(&configured.balance, Balance::Hash(hash) if matches!(hash.by, HashBy::Address));
            let hint = if by_address { " (--client gives one)" } else { "" };
            format!("first in turn with {others}, since the request has no {}{hint}", compared(configured))
        }
    };
    format!("{}: {backup}{because}", server.url)
}

fn compared(configured: &model::Upstream) -> String {
    match &configured.balance {
        Balance::Hash(hash) => match &hash.by {
            HashBy::Address => "client address".to_owned(),
            HashBy::Header(name) => format!("header {name}"),
            HashBy::Cookie(name) => format!("cookie {name}"),
            HashBy::Path => "path".to_owned(),
        },
        Balance::RoundRobin | Balance::LeastConnections | Balance::TwoChoices => String::new(),
    }
}
