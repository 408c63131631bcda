//! `balance` and `hash`: how an upstream spreads its work.

use http::HeaderName;

use crate::config::keys;
use crate::config::model::{Balance, Hash, HashBy};
use crate::config::read::names::is_token;
use crate::config::read::tree::{Cx, Table};

/// In percent. At 100 a server would have to be exactly as busy as the others.
const LOADS: std::ops::RangeInclusive<u32> = 101..=10_000;
const LOAD: u32 = 125;

/// What `balance` may say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    RoundRobin,
    LeastConnections,
    TwoChoices,
    Hash,
}

pub(super) fn read(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Balance {
    let words = [
        ("round-robin", Word::RoundRobin),
        ("least-connections", Word::LeastConnections),
        ("two-choices", Word::TwoChoices),
        ("hash", Word::Hash),
    ];
    let word = table.word(cx, "balance", &words).unwrap_or(Word::RoundRobin);
    if word != Word::Hash && table.has("hash") {
        let spot = table.key_spot("hash");
        cx.error("no-effect", &spot, "`hash` has no effect without `balance = \"hash\"`")
            .help("write balance = \"hash\", or remove this key");
    }
    let hash = hash(cx, table);
    match word {
        Word::RoundRobin => Balance::RoundRobin,
        Word::LeastConnections => Balance::LeastConnections,
        Word::TwoChoices => Balance::TwoChoices,
        Word::Hash => Balance::Hash(hash),
    }
}

fn hash(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Hash {
    let mut hash = Hash { by: HashBy::Address, load: LOAD };
    let Some(mut table) = table.table(cx, "hash", &keys::HASH) else { return hash };
    hash.by = by(cx, &mut table);
    hash.load = table.integer(cx, "load", LOADS).map_or(hash.load, |load| load.value);
    table.close(cx);
    hash
}

/// What `hash.by` may say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Address,
    Header,
    Cookie,
    Path,
}

fn by(cx: &mut Cx<'_>, table: &mut Table<'_>) -> HashBy {
    let words = [("address", By::Address), ("header", By::Header), ("cookie", By::Cookie), ("path", By::Path)];
    let by = table.word(cx, "by", &words).unwrap_or(By::Address);
    let name = table.string(cx, "name");
    let name_spot = table.key_spot("name");
    match (by, name) {
        (By::Header, Some(name)) => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => return HashBy::Header(name),
            Err(_) => {
                cx.error("bad-name", &name.spot, format!("`{}` cannot be the name of a header field", *name))
                    .help("write for example \"X-User\"");
            }
        },
        (By::Cookie, Some(name)) if is_token(&name) => return HashBy::Cookie(name.as_str().into()),
        (By::Cookie, Some(name)) => {
            cx.error("bad-name", &name.spot, format!("`{}` cannot be the name of a cookie", *name))
                .help("a name consists of letters, digits, `-`, `_` and `.`");
        }
        (By::Header | By::Cookie, None) if !table.has("name") => {
            let example = if by == By::Header {
                "{ by = \"header\", name = \"X-User\" }"
            } else {
                "{ by = \"cookie\", name = \"session\" }"
            };
            table.missing(cx, "`name`", &format!("write for example hash = {example}"));
        }
        (By::Header | By::Cookie, None) => {}
        (By::Address | By::Path, Some(_)) => {
            cx.error("no-effect", &name_spot, "`name` says which header or cookie, and this hashes by neither")
                .help("remove this key, or write by = \"header\"");
        }
        (By::Address, None) => return HashBy::Address,
        (By::Path, None) => return HashBy::Path,
    }
    HashBy::Address
}
