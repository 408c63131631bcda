//! What the operator has written, table by table: kept beside the model so that a reload can say what it has changed.
//!
//! Two tables are the same when they say the same, wherever they stand and however they are laid out. What the files
//! hold that a table names (certificates) is not looked at here.

use std::collections::HashMap;
use std::fmt;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::model::ListenerKey;
use crate::types::Name;

/// Names that one line of a log lists before it counts the rest.
const LISTED: usize = 5;

/// The tables of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Written {
    pub(super) server: Wording,
    pub(super) log: Wording,
    pub(super) admin: Option<Wording>,
    pub(super) listeners: Vec<Entry>,
    pub(super) routes: Vec<Entry>,
    /// Those with a name of their own.
    pub(super) upstreams: Vec<Entry>,
    /// All of it, file by file.
    pub(super) files: Vec<Arc<WrittenFile>>,
}

/// One file as it is written, for those who ask what is in use. What could be a secret is not in it.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenFile {
    pub path: PathBuf,
    pub tables: serde_json::Value,
}

/// What stands in the place of a secret.
const MASK: &str = "***";

impl WrittenFile {
    pub(super) fn of(path: &Path, table: &DeTable<'_>) -> Arc<Self> {
        Arc::new(Self { path: path.to_owned(), tables: json_table(table) })
    }
}

fn json_table(table: &DeTable<'_>) -> serde_json::Value {
    let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let key: &std::borrow::Cow<'_, str> = key.get_ref();
        let value = if is_secret(key) { MASK.into() } else { json(value.get_ref()) };
        (key.to_string(), value)
    };
    serde_json::Value::Object(table.iter().map(entry).collect())
}

fn json(value: &DeValue<'_>) -> serde_json::Value {
    match value {
        DeValue::String(text) => text.to_string().into(),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| number.as_str().into(), serde_json::Value::from),
        DeValue::Float(number) => {
            number.as_str().parse::<f64>().map_or_else(|_| number.as_str().into(), serde_json::Value::from)
        }
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Datetime(value) => value.to_string().into(),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => json_table(table),
    }
}

/// Secrets stand in files of their own, and no key has one. Should somebody give it one, it is not shown.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    !key.ends_with("_file") && ["secret", "password", "token", "credential"].iter().any(|word| key.contains(word))
}

/// One table of several.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub identity: Identity,
    /// As it is called in messages.
    pub name: Name,
    pub wording: Wording,
}

/// What makes it the same table as before, whatever has become of its other keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    Name(Name),
    Listener(ListenerKey),
}

/// Keys in their order, values as TOML means them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wording(Box<str>);

impl Wording {
    /// `base`: where relative paths in it start, and so part of what it says.
    pub fn of(table: &DeTable<'_>, base: &Path) -> Self {
        let mut text = format!("{} ", base.display());
        write_table(&mut text, table);
        Self(text.into())
    }
}

fn write_table(out: &mut String, table: &DeTable<'_>) {
    out.push('{');
    // The map is ordered by key.
    for (key, value) in table {
        let _ = write!(out, "{:?}=", key.get_ref());
        write_value(out, value.get_ref());
        out.push(',');
    }
    out.push('}');
}

fn write_value(out: &mut String, value: &DeValue<'_>) {
    // Writing to a String cannot fail.
    let _ = match value {
        DeValue::String(text) => write!(out, "{text:?}"),
        DeValue::Integer(number) => write!(out, "{} {}", number.radix(), number.as_str()),
        DeValue::Float(number) => write!(out, "{}", number.as_str()),
        DeValue::Boolean(value) => write!(out, "{value}"),
        DeValue::Datetime(value) => write!(out, "{value}"),
        DeValue::Array(items) => {
            out.push('[');
            for item in items {
                write_value(out, item.get_ref());
                out.push(',');
            }
            out.push(']');
            Ok(())
        }
        DeValue::Table(table) => {
            write_table(out, table);
            Ok(())
        }
    };
}

/// How one configuration differs from the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub server: bool,
    pub log: bool,
    pub admin: bool,
    pub listeners: Difference,
    pub routes: Difference,
    pub upstreams: Difference,
}

/// How the tables of one kind differ. In the order of the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub added: Vec<Name>,
    pub removed: Vec<Name>,
    pub changed: Vec<Name>,
    /// The same words, but files that they name hold something else.
    pub renewed: Vec<Name>,
}

impl Written {
    /// Whether the upstream of this name is written as it was `before`, with the same to lean on in `[server]`.
    pub fn has_upstream_of(&self, before: &Self, name: &Name) -> bool {
        let entry = |written: &'_ Self| {
            written.upstreams.iter().find(|entry| entry.name == *name).map(|entry| entry.wording.clone())
        };
        let is_same = match (entry(self), entry(before)) {
            (Some(now), Some(before)) => now == before,
            // An inline one is what its URL says, unless that has a path that may be relative.
            (None, None) => !name.as_str().contains("unix:"),
            _ => false,
        };
        is_same && self.server == before.server
    }

    /// The main file, then those that it includes.
    pub fn files(&self) -> &[Arc<WrittenFile>] {
        &self.files
    }

    /// What has changed since `before`.
    pub fn since(&self, before: &Self) -> Changes {
        Changes {
            server: self.server != before.server,
            log: self.log != before.log,
            admin: self.admin != before.admin,
            listeners: difference(&self.listeners, &before.listeners),
            routes: difference(&self.routes, &before.routes),
            upstreams: difference(&self.upstreams, &before.upstreams),
        }
    }
}

fn difference(now: &[Entry], before: &[Entry]) -> Difference {
    let mut gone: HashMap<&Identity, &Entry> = before.iter().map(|entry| (&entry.identity, entry)).collect();
    let mut difference = Difference::default();
    for entry in now {
        match gone.remove(&entry.identity) {
            None => difference.added.push(entry.name.clone()),
            Some(old) if old.wording != entry.wording => difference.changed.push(entry.name.clone()),
            Some(_) => {}
        }
    }
    let removed = before.iter().filter(|entry| gone.contains_key(&entry.identity));
    difference.removed = removed.map(|entry| entry.name.clone()).collect();
    difference
}

impl Difference {
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }

    /// Notes that files of this table hold something else, unless it is named already.
    pub fn note_renewed(&mut self, name: &Name) {
        if !self.added.contains(name) && !self.changed.contains(name) {
            self.renewed.push(name.clone());
        }
    }
}

/// `added chat; changed public, admin`, or `the same`.
impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { added, removed, changed, renewed } = self;
        let kinds = [("added", added), ("removed", removed), ("changed", changed), ("renewed", renewed)];
        let mut separator = "";
        for (kind, names) in kinds.into_iter().filter(|(_, names)| !names.is_empty()) {
            write!(out, "{separator}{kind} ")?;
            separator = "; ";
            for (index, name) in names.iter().take(LISTED).enumerate() {
                write!(out, "{}{name}", if index > 0 { ", " } else { "" })?;
            }
            if names.len() > LISTED {
                write!(out, " and {} more", names.len() - LISTED)?;
            }
        }
        if separator.is_empty() { out.write_str("the same") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::read_text;

    fn written(text: &str) -> Written {
        let (config, report) = read_text("x.toml", text, Path::new(""));
        config.unwrap_or_else(|| panic!("{:?}", report.problems)).written
    }

    const BASE: &str = r#"
        [server]
        drain_timeout = "5s"
        [[listener]]
        address = "127.0.0.1:80"
        [[listener]]
        name = "other"
        address = "127.0.0.1:0"
        [[route]]
        path = "/a"
        upstream = "u"
        websocket = { origins = ["https://a.example", "https://b.example"] }
        [[route]]
        upstream = "http://127.0.0.1:1"
        [upstream.u]
        servers = ["ws://127.0.0.1:2"]
    "#;

    #[test]
    fn layout_comments_and_order_of_keys_change_nothing() {
        let other = r#"
            upstream.u.servers = [ 'ws://127.0.0.1:2', ] # the same
            [[listener]]
            name = "other"
            address = "127.0.0.1:0"
            [[listener]]
            address = "127.0.0.1:80"
            [[route]]
            upstream = "http://127.0.0.1:1"
            [[route]]
            upstream = "u"
            path = "\u002fa"
            [route.websocket]
            origins = [
                "https://a.example",
                "https://b.example"
            ]
            [server]
            drain_timeout = "5s"
        "#;
        assert_eq!(written(other).since(&written(BASE)), Changes::default());
        assert_eq!(Difference::default().to_string(), "the same");
    }

    #[test]
    fn what_was_added_removed_and_changed_is_named() {
        let other = r#"
            [[listener]]
            name = "renamed"
            address = "127.0.0.1:80"
            [[listener]]
            name = "third"
            address = "127.0.0.1:0"
            [[route]]
            path = "/a"
            upstream = "u"
            websocket = { origins = ["https://a.example"] }
            [upstream.u]
            servers = ["ws://127.0.0.1:2"]
        "#;
        let changes = written(other).since(&written(BASE));
        assert!(changes.server && !changes.log);
        assert_eq!(changes.listeners.to_string(), "added third; removed other; changed renamed");
        assert_eq!(changes.routes.to_string(), "removed /; changed /a");
        assert!(changes.upstreams.is_empty());
    }

    #[test]
    fn what_is_written_can_be_shown_but_for_what_could_be_a_secret() {
        let files = written(BASE).files().to_vec();
        let [file] = &files[..] else { panic!("{files:?}") };
        assert_eq!(file.path, Path::new("x.toml"));
        assert_eq!(file.tables["route"][0]["websocket"]["origins"][1], "https://b.example");
        assert_eq!(file.tables["server"]["drain_timeout"], "5s");
        for (key, secret) in
            [("secret_file", false), ("token_file", false), ("Token", true), ("password", true), ("key", false)]
        {
            assert_eq!(is_secret(key), secret, "{key}");
        }
    }

    #[test]
    fn a_long_list_is_cut() {
        let mut difference =
            Difference { added: (0..7).map(|n| Name::new(n.to_string())).collect(), ..Difference::default() };
        difference.note_renewed(&Name::from("3"));
        difference.note_renewed(&Name::from("x"));
        assert_eq!(difference.to_string(), "added 0, 1, 2, 3, 4 and 2 more; renewed x");
    }
}
