//! Where keys stand in the files, for as long as a configuration is in use: so that what it refuses can name its rule as
//! `route.websocket.origins (portcullis.toml:9)`, long after the text of the files is gone.
//!
//! Gathered by the reader, table by table; asked by place of the outermost table and names of keys from there on.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::keys::Section;
use super::model::Config;
use super::report::{Source, Spot};

/// Where the keys of all files stand.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// By [`Spot::file`].
    files: HashMap<usize, File>,
    /// By the start of their table.
    keys: HashMap<(usize, usize, &'static str), Key>,
}

#[derive(Clone, Debug)]
struct File {
    shown: Box<str>,
    /// Where its lines start.
    lines: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Key {
    name: usize,
    /// Where the table starts that is its value, if it is one.
    value: usize,
}

impl Places {
    pub(super) fn add_file(&mut self, index: usize, source: &Source) {
        let starts = memchr::memchr_iter(b'\n', source.text.as_bytes()).map(|end| end as u32 + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        self.files.insert(index, File { shown: source.path.display().to_string().into(), lines });
    }

    pub(super) fn add_key(
        &mut self,
        table: &Spot,
        section: &Section,
        key: &str,
        name: Range<usize>,
        value: Range<usize>,
    ) {
        if let Some(key) = section.keys.iter().find(|known| known.name == key) {
            self.keys.insert((table.file, table.range.start, key.name), Key { name: name.start, value: value.start });
        }
    }

    /// `portcullis.toml:9`: the line of the last of these keys that is written there, each inside the one before; where the
    /// first is not, that of the table.
    fn place(&self, table: &Spot, keys: &[&'static str]) -> Option<String> {
        let (index, mut table) = (table.file, table.range.start);
        let file = self.files.get(&index)?;
        let mut at = table;
        for name in keys {
            let Some(key) = self.keys.get(&(index, table, *name)) else { break };
            (at, table) = (key.name, key.value);
        }
        let line = file.lines.partition_point(|start| *start as usize <= at);
        Some(format!("{}:{line}", file.shown))
    }
}

/// Which table a rule stands in: a place in the configuration's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    Listener(usize),
    Route(usize),
    Upstream(usize),
}

/// The rules of one configuration, by name.
#[derive(Clone, Debug)]
pub struct Rulebook {
    places: Arc<Places>,
    listeners: Vec<Spot>,
    routes: Vec<Spot>,
    upstreams: Vec<Spot>,
}

impl Rulebook {
    pub fn of(config: &Config) -> Self {
        Self {
            places: config.places.clone(),
            listeners: config.listeners.iter().map(|listener| listener.spot.clone()).collect(),
            routes: config.routes.iter().map(|route| route.spot.clone()).collect(),
            upstreams: config.upstreams.iter().map(|upstream| upstream.spot.clone()).collect(),
        }
    }

    /// `route.websocket.origins (portcullis.toml:9)`; where the key is not written, with the place of its table.
    pub fn name(&self, within: Within, keys: &[&'static str]) -> String {
        let (kind, table) = match within {
            Within::Listener(index) => ("listener", self.listeners.get(index)),
            Within::Route(index) => ("route", self.routes.get(index)),
            Within::Upstream(index) => ("upstream", self.upstreams.get(index)),
        };
        let mut name = kind.to_owned();
        for key in keys {
            name.push('.');
            name.push_str(key);
        }
        match table.and_then(|table| self.places.place(table, keys)) {
            Some(place) => format!("{name} ({place})"),
            None => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::read_text;

    #[test]
    fn a_rule_is_named_with_the_line_of_its_key_or_else_of_its_table() {
        let text = r#"
[[listener]]
address = "127.0.0.1:0"
[listener.limits]
fields = 50

[[route]]
upstream = "chat"
websocket = { origins = ["https://a.test"],
  subprotocols = { require = true } }

[[route]]
path = "/b"
upstream = "http://127.0.0.1:1"
[route.websocket]
max_tunnels = 5
[route.timeouts]
response = "5s"

[upstream.chat]
servers = ["ws://127.0.0.1:2"]
queue = { size = 10 }
max_connections = 5
"#;
        let (config, report) = read_text("a.toml", text, Path::new(""));
        let rules = Rulebook::of(&config.unwrap_or_else(|| panic!("{:?}", report.problems)));
        for (within, keys, name) in [
            (Within::Listener(0), &["limits", "fields"][..], "listener.limits.fields (a.toml:5)"),
            (Within::Listener(0), &["limits", "target_size"], "listener.limits.target_size (a.toml:4)"),
            (Within::Listener(0), &["timeouts", "request_head"], "listener.timeouts.request_head (a.toml:2)"),
            (Within::Listener(0), &[], "listener (a.toml:2)"),
            (Within::Route(0), &["websocket", "origins"], "route.websocket.origins (a.toml:9)"),
            (
                Within::Route(0),
                &["websocket", "subprotocols", "require"],
                "route.websocket.subprotocols.require (a.toml:10)",
            ),
            (Within::Route(0), &["websocket", "max_tunnels"], "route.websocket.max_tunnels (a.toml:9)"),
            (Within::Route(1), &["websocket", "max_tunnels"], "route.websocket.max_tunnels (a.toml:16)"),
            (Within::Route(1), &["websocket", "origins"], "route.websocket.origins (a.toml:15)"),
            (Within::Route(1), &["timeouts", "response"], "route.timeouts.response (a.toml:18)"),
            (Within::Upstream(0), &["queue", "timeout"], "upstream.queue.timeout (a.toml:22)"),
            (Within::Upstream(0), &["connect_timeout"], "upstream.connect_timeout (a.toml:20)"),
            (Within::Upstream(9), &["servers"], "upstream.servers"),
        ] {
            assert_eq!(rules.name(within, keys), name);
        }
    }
}
