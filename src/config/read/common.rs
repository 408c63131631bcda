//! Values that several kinds of tables have.

use std::path::PathBuf;

use super::address::{self, UNIX_PATH};
use super::tree::{Cx, Table, refuse_duplicates};
use crate::config::model::Peers;
use crate::config::report::{Located, Spot};
use crate::types::Name;

/// Long names make logs and metrics unreadable.
const NAME_LENGTH: usize = 128;

/// The key `name` of a listener or route.
pub fn name(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Option<Name> {
    let text = table.string(cx, "name")?;
    if text.trim().is_empty() || text.len() > NAME_LENGTH || text.chars().any(char::is_control) {
        cx.error("bad-name", &text.spot, "this cannot be a name")
            .help(format!("a name has 1 to {NAME_LENGTH} bytes and no control characters"));
        return None;
    }
    Some(Name::new(text.as_str()))
}

/// The resolved path of a unix socket, if the system can hold it.
pub fn unix(cx: &mut Cx<'_>, path: String, spot: &Spot) -> Option<PathBuf> {
    let path = cx.path(Located::new(path, spot.clone()))?.value;
    if path.as_os_str().len() > UNIX_PATH {
        cx.error("bad-path", spot, format!("the path of a unix socket has at most {UNIX_PATH} bytes"))
            .help(format!("this one comes to {}", path.display()));
        return None;
    }
    Some(path)
}

/// Networks, addresses and `"unix"`. `danger`: what follows from trusting everyone.
pub fn peers(cx: &mut Cx<'_>, list: Vec<Located<String>>, danger: &str) -> Peers {
    let (sockets, list): (Vec<_>, Vec<_>) = list.into_iter().partition(|text| text.value == "unix");
    refuse_duplicates(cx, &sockets, "the entry", String::clone);
    let mut networks = Vec::new();
    for text in &list {
        networks.extend(cx.check(text, address::network(text)));
    }
    refuse_duplicates(cx, &networks, "the network", ToString::to_string);
    for network in networks.iter().filter(|network| network.prefix_len() == 0) {
        let message = format!("every peer is trusted: {danger}");
        cx.report.warning("trusts-everyone", &network.spot, message).help("name the networks of your proxies");
    }
    let networks = networks.into_iter().map(|network| network.value).collect();
    Peers { networks, unix: !sockets.is_empty() }
}
