//! `sticky`: the cookie that keeps a client with its server.

use crate::config::keys;
use crate::config::model::{SameSite, Sticky};
use crate::config::read::names::is_token;
use crate::config::read::tree::{Cx, Table};
use crate::config::report::Located;

pub(super) fn read(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Option<Sticky> {
    let mut table = table.table(cx, "sticky", &keys::STICKY)?;
    let cookie = table.string(cx, "cookie");
    if !table.has("cookie") {
        table.missing(cx, "`cookie`", "write for example sticky = { cookie = \"pcl\" }");
    }
    let secret = table.string(cx, "secret_file").and_then(|path| cx.file(path));
    if !table.has("secret_file") {
        cx.report
            .warning(
                "no-secret",
                &table.spot,
                "every start of the gateway, and every other gateway, has its own secret",
            )
            .help("clients then move to another server; name a `secret_file` that all of them share");
    }
    let words = [("strict", SameSite::Strict), ("lax", SameSite::Lax), ("none", SameSite::None)];
    let same_site = table.word(cx, "same_site", &words).unwrap_or(SameSite::Lax);
    let max_age = table.duration_or_none(cx, "max_age");
    let path = table.string(cx, "path");
    let domain = table.string(cx, "domain");
    let spot = table.spot.clone();
    table.close(cx);
    let path = match &path {
        Some(path) => attribute(cx, path, path.starts_with('/'), "a path of a cookie", "write for example \"/\"")?,
        None => "/".to_owned(),
    };
    let domain = match &domain {
        Some(domain) => {
            let is_name = domain.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
            Some(attribute(cx, domain, is_name, "a domain", "write for example \"example.com\"")?)
        }
        None => None,
    };
    let cookie = cookie?;
    if !is_token(&cookie) || (cookie.starts_with("__Host-") && (path != "/" || domain.is_some())) {
        cx.error("bad-name", &cookie.spot, format!("`{}` cannot be the name of this cookie", *cookie))
            .help("a name consists of letters, digits, `-`, `_` and `.`; `__Host-` goes without `path` and `domain`");
        return None;
    }
    Some(Sticky { cookie: cookie.as_str().into(), secret, same_site, max_age, path, domain, spot })
}

/// What may stand as an attribute's value (RFC 6265 4.1.1).
fn attribute(cx: &mut Cx<'_>, text: &Located<String>, fits: bool, what: &str, help: &str) -> Option<String> {
    if fits && !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b';') {
        return Some(text.value.clone());
    }
    cx.error("bad-value", &text.spot, format!("`{}` is not {what}", text.escape_debug())).help(help);
    None
}
