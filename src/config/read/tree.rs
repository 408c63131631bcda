//! Access to the spanned tree: typed values by key, each wrong one reported where it stands.
//!
//! A reader opens a [`Table`] against its [`Section`], takes what it knows and closes it; what was not taken is an
//! unknown key. Every method reports what is wrong by itself and answers with the default, so that readers go on and
//! find the next problem; a configuration with any error is thrown away as a whole.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::fault::Fault;
use super::suggest::nearest;
use super::units;
use crate::config::keys::{SECTIONS, Section};
use crate::config::places::Places;
use crate::config::report::{Located, Problem, Report, Spot};
use crate::config::written::Wording;

const BOOLEAN: &str = "true or false";
const INTEGER: &str = "a whole number";

/// What every reader carries along: where problems go, and which file is being read.
pub struct Cx<'r> {
    pub report: &'r mut Report,
    pub file: usize,
    /// The folder of that file; relative paths start here.
    pub base: PathBuf,
    /// The file has syntax errors: what seems to be missing may only be unreadable.
    pub broken: bool,
    /// Where keys stand, so far.
    pub places: Places,
}

impl Cx<'_> {
    pub fn spot(&self, range: Range<usize>) -> Spot {
        Spot { file: self.file, range }
    }

    pub fn error(&mut self, code: &'static str, spot: &Spot, message: impl std::fmt::Display) -> &mut Problem {
        self.report.error(code, spot, message)
    }

    /// Reports a fault of the string value at `spot`.
    pub fn fault(&mut self, spot: &Spot, value: &str, fault: Fault) {
        let spot = fault.within.and_then(|range| self.inside(spot, value, range)).unwrap_or_else(|| spot.clone());
        let problem = self.report.error(fault.code, &spot, fault.message);
        problem.help = fault.help;
    }

    /// The value of a parse, or `None` after reporting why there is none.
    pub fn check<T>(&mut self, text: &Located<String>, parsed: Result<T, Fault>) -> Option<Located<T>> {
        match parsed {
            Ok(value) => Some(Located::new(value, text.spot.clone())),
            Err(fault) => {
                self.fault(&text.spot, text, fault);
                None
            }
        }
    }

    /// A path as it is used: relative ones start at the folder of the file that names them.
    pub fn path(&mut self, text: Located<String>) -> Option<Located<PathBuf>> {
        if text.is_empty() || text.contains('\0') {
            self.error("bad-path", &text.spot, "this is not a path to a file");
            return None;
        }
        Some(Located::new(self.base.join(&*text), text.spot))
    }

    /// The same, of a file that has to be there.
    pub fn file(&mut self, text: Located<String>) -> Option<Located<PathBuf>> {
        let path = self.path(text)?;
        self.report.named.push(path.clone());
        Some(path)
    }

    /// Some bytes of a string value; only where the file spells the value without escapes.
    fn inside(&self, spot: &Spot, value: &str, range: Range<usize>) -> Option<Spot> {
        let raw = self.report.sources.get(spot.file)?.text.get(spot.range.clone())?;
        let start = spot.range.start + raw.find(value).filter(|_| !value.is_empty())?;
        Some(Spot { file: spot.file, range: start + range.start..start + range.end })
    }
}

/// A value and its place.
#[derive(Clone)]
pub struct Node<'t> {
    pub value: &'t DeValue<'t>,
    pub spot: Spot,
}

impl Node<'_> {
    /// Reports that another kind of value was wanted.
    pub fn mistyped<'c>(&self, cx: &'c mut Cx<'_>, key: &str, wanted: &str) -> &'c mut Problem {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        let raw = cx.report.sources.get(self.spot.file).and_then(|source| source.text.get(self.spot.range.clone()));
        let help = match self.value {
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) if wanted.starts_with("a string") => {
                raw.map(|raw| format!("write \"{raw}\""))
            }
            DeValue::String(text) if wanted == BOOLEAN && matches!(&**text, "true" | "false") => {
                Some(format!("write {text} without quotes"))
            }
            DeValue::String(text) if wanted == INTEGER && text.parse::<u32>().is_ok() => {
                Some(format!("write {text} without quotes"))
            }
            _ => None,
        };
        let key = if key.contains(' ') { key.to_owned() } else { format!("`{key}`") };
        let problem = cx.error("wrong-type", &self.spot, format!("{key} must be {wanted}, but this is {found}"));
        problem.help = help;
        problem
    }

    pub fn string(&self, cx: &mut Cx<'_>, key: &str, wanted: &str) -> Option<Located<String>> {
        match self.value {
            DeValue::String(text) => Some(Located::new(text.to_string(), self.spot.clone())),
            _ => {
                self.mistyped(cx, key, wanted);
                None
            }
        }
    }
}

/// One table that is being read.
pub struct Table<'t> {
    pub section: &'static Section,
    pub spot: Spot,
    /// The header for messages, with the upstream's own name where there is one.
    pub header: String,
    file: usize,
    entries: &'t DeTable<'t>,
    taken: BTreeSet<&'static str>,
}

impl<'t> Table<'t> {
    pub fn new(section: &'static Section, entries: &'t DeTable<'t>, spot: Spot) -> Self {
        let file = spot.file;
        Self { section, spot, header: section.header.to_owned(), file, entries, taken: BTreeSet::new() }
    }

    /// What it says, for comparison.
    pub fn wording(&self, cx: &Cx<'_>) -> Wording {
        Wording::of(self.entries, &cx.base)
    }

    pub fn take(&mut self, key: &'static str) -> Option<Node<'t>> {
        debug_assert!(self.section.has(key), "keys.rs must list {key} under {:?}", self.section.path);
        self.taken.insert(key);
        let value = self.entries.get(key)?;
        Some(Node { value: value.get_ref(), spot: Spot { file: self.file, range: value.span() } })
    }

    /// The place of a key's name; of the table where the key is absent.
    pub fn key_spot(&self, key: &str) -> Spot {
        self.entries
            .get_key_value(key)
            .map_or_else(|| self.spot.clone(), |(name, _)| Spot { file: self.file, range: name.span() })
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    pub fn is_empty_list(&self, key: &str) -> bool {
        matches!(self.entries.get(key).map(|value| value.get_ref()), Some(DeValue::Array(items)) if items.is_empty())
    }

    /// Reports that a required key is absent.
    pub fn missing(&self, cx: &mut Cx<'_>, what: &str, help: &str) {
        if !cx.broken {
            cx.error("missing-key", &self.spot, format!("{} has no {what}", self.header)).help(help);
        }
    }

    pub fn string(&mut self, cx: &mut Cx<'_>, key: &'static str) -> Option<Located<String>> {
        self.take(key)?.string(cx, key, "a string")
    }

    pub fn boolean(&mut self, cx: &mut Cx<'_>, key: &'static str, default: bool) -> Located<bool> {
        let Some(node) = self.take(key) else {
            return Located::new(default, self.spot.clone());
        };
        match node.value {
            DeValue::Boolean(value) => Located::new(*value, node.spot),
            _ => {
                node.mistyped(cx, key, BOOLEAN);
                Located::new(default, node.spot)
            }
        }
    }

    pub fn integer(&mut self, cx: &mut Cx<'_>, key: &'static str, range: RangeInclusive<u32>) -> Option<Located<u32>> {
        let node = self.take(key)?;
        integer(cx, key, &node, range)
    }

    /// An integer; `None` for `"none"` as for nothing.
    pub fn integer_or_none(
        &mut self,
        cx: &mut Cx<'_>,
        key: &'static str,
        range: RangeInclusive<u32>,
    ) -> Option<Located<u32>> {
        let none = self.take(key).is_some_and(|node| node.value.as_str() == Some("none"));
        if none { None } else { self.integer(cx, key, range) }
    }

    pub fn duration(&mut self, cx: &mut Cx<'_>, key: &'static str, default: Duration) -> Duration {
        let Some(node) = self.take(key) else { return default };
        if let DeValue::Integer(number) = node.value {
            let number = number.as_str();
            let help = format!("say of what: \"{number}ms\", \"{number}s\", \"{number}m\" or \"{number}h\"");
            node.mistyped(cx, key, "a duration").help(help);
            return default;
        }
        node.string(cx, key, "a duration such as \"10s\"")
            .and_then(|text| cx.check(&text, units::duration(&text)))
            .map_or(default, |value| value.value)
    }

    /// A duration; `None` for `"none"` as for nothing.
    pub fn duration_or_none(&mut self, cx: &mut Cx<'_>, key: &'static str) -> Option<Duration> {
        let none = self.take(key).is_none_or(|node| node.value.as_str() == Some("none"));
        if none { None } else { Some(self.duration(cx, key, Duration::MAX)) }
    }

    pub fn size(&mut self, cx: &mut Cx<'_>, key: &'static str) -> Option<Located<u64>> {
        let node = self.take(key)?;
        if let DeValue::Integer(number) = node.value {
            let number = number.as_str();
            let help = format!("say of what: \"{number}B\", \"{number}KiB\" or \"{number}MiB\"");
            node.mistyped(cx, key, "a size").help(help);
            return None;
        }
        let text = node.string(cx, key, "a size such as \"64KiB\"")?;
        cx.check(&text, units::size(&text))
    }

    /// A size; `None` for `"none"` as for nothing.
    pub fn size_or_none(&mut self, cx: &mut Cx<'_>, key: &'static str) -> Option<Located<u64>> {
        let none = self.take(key).is_some_and(|node| node.value.as_str() == Some("none"));
        if none { None } else { self.size(cx, key) }
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, cx: &mut Cx<'_>, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.take(key)?.string(cx, key, "a string")?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == *text) {
            return Some(*value);
        }
        let all = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let help = match nearest(&text, words.iter().map(|(word, _)| *word)) {
            Some(word) => format!("did you mean \"{word}\"?"),
            None => format!("write one of {all}"),
        };
        cx.error("unknown-value", &text.spot, format!("`{key}` cannot be \"{}\"", *text)).help(help);
        None
    }

    /// A list of strings without duplicates; `None` where the key is absent or no list. The list itself is located.
    pub fn strings(&mut self, cx: &mut Cx<'_>, key: &'static str) -> Option<Located<Vec<Located<String>>>> {
        let node = self.take(key)?;
        let DeValue::Array(items) = node.value else {
            let problem = node.mistyped(cx, key, "a list of strings");
            if let DeValue::String(text) = node.value {
                problem.help(format!("write [\"{text}\"]"));
            }
            return None;
        };
        let mut list: Vec<Located<String>> = Vec::new();
        for item in items.iter() {
            let item = Node { value: item.get_ref(), spot: cx.spot(item.span()) };
            list.extend(item.string(cx, &format!("an entry of `{key}`"), "a string"));
        }
        Some(Located::new(list, node.spot))
    }

    /// Like [`Self::strings`], and an empty list is an error: it never means "anything".
    pub fn some_strings(
        &mut self,
        cx: &mut Cx<'_>,
        key: &'static str,
        help: &str,
    ) -> Option<Located<Vec<Located<String>>>> {
        let list = self.strings(cx, key)?;
        if self.is_empty_list(key) && !cx.broken {
            cx.error("empty-list", &list.spot, format!("`{key}` is empty")).help(help);
        }
        Some(list)
    }

    /// A table inside this one.
    pub fn table(&mut self, cx: &mut Cx<'_>, key: &'static str, section: &'static Section) -> Option<Table<'t>> {
        let node = self.take(key)?;
        match node.value {
            DeValue::Table(entries) => Some(Table::new(section, entries, node.spot)),
            DeValue::Array(_) if section.header.starts_with('[') => {
                let message = format!("`{key}` is one table, but this is a list of tables");
                cx.error("wrong-type", &node.spot, message).help(format!("write {} once", section.header));
                None
            }
            _ => {
                node.mistyped(cx, key, "a table");
                None
            }
        }
    }

    /// A list of tables inside this one.
    pub fn tables(&mut self, cx: &mut Cx<'_>, key: &'static str, section: &'static Section) -> Vec<Table<'t>> {
        let Some(node) = self.take(key) else { return Vec::new() };
        match node.value {
            DeValue::Array(items) => items
                .iter()
                .filter_map(|item| {
                    let item = Node { value: item.get_ref(), spot: cx.spot(item.span()) };
                    match item.value {
                        DeValue::Table(entries) => Some(Table::new(section, entries, item.spot)),
                        _ => {
                            item.mistyped(cx, &format!("an entry of `{key}`"), "a table");
                            None
                        }
                    }
                })
                .collect(),
            // Read it all the same: the brackets are one problem, what is between them may hold more.
            DeValue::Table(entries) => {
                let help = if section.header.starts_with("[[") {
                    format!("write {}", section.header)
                } else {
                    format!("write `{key} = [{{ … }}]`")
                };
                cx.error("wrong-type", &node.spot, format!("`{key}` is a list of tables")).help(help);
                vec![Table::new(section, entries, node.spot)]
            }
            _ => {
                node.mistyped(cx, key, "a list of tables");
                Vec::new()
            }
        }
    }

    /// Ends the reading: what was not taken is unknown.
    pub fn close(self, cx: &mut Cx<'_>) {
        for (key, value) in self.entries {
            cx.places.add_key(&self.spot, self.section, key.get_ref(), key.span(), value.span());
        }
        for (key, _) in self.entries.iter().filter(|(key, _)| !self.taken.contains(key.get_ref().as_ref())) {
            let spot = cx.spot(key.span());
            let name: &str = key.get_ref();
            let help = self.unknown_help(name);
            cx.error("unknown-key", &spot, format!("unknown key `{name}` in {}", self.header)).help = help;
        }
    }

    /// Whether an unknown key looks like this one: what is missing was meant to be there.
    pub fn misspells(&self, key: &str) -> bool {
        let mut unknown = self.entries.iter().map(|(name, _)| name.get_ref()).filter(|name| !self.section.has(name));
        unknown.any(|name| nearest(name, [key]).is_some())
    }

    fn unknown_help(&self, name: &str) -> Option<String> {
        if self.section.later.contains(&name) {
            return Some(format!("`{name}` is not in this release"));
        }
        let keys = || self.section.keys.iter().map(|key| key.name);
        let elsewhere = || SECTIONS.iter().find(|section| section.has(name) && section.header.starts_with('['));
        if let Some(near) = nearest(name, keys()) {
            Some(format!("did you mean `{near}`?"))
        } else if let Some(section) = elsewhere() {
            Some(format!("`{name}` belongs in {}", section.header))
        } else {
            let later = nearest(name, self.section.later.iter().copied());
            later
                .map(|later| format!("`{later}` is not in this release"))
                .or_else(|| Some(format!("known keys: {}", keys().collect::<Vec<_>>().join(", "))))
        }
    }
}

/// An integer within a range.
pub fn integer(cx: &mut Cx<'_>, key: &str, node: &Node<'_>, range: RangeInclusive<u32>) -> Option<Located<u32>> {
    let DeValue::Integer(number) = node.value else {
        node.mistyped(cx, key, INTEGER);
        return None;
    };
    match u32::from_str_radix(number.as_str(), number.radix()) {
        Ok(value) if range.contains(&value) => Some(Located::new(value, node.spot.clone())),
        _ => {
            let (low, high) = (range.start(), range.end());
            cx.error("out-of-range", &node.spot, format!("`{key}` cannot be {number}"))
                .help(format!("write a number from {low} to {high}"));
            None
        }
    }
}

/// Reports every entry that stands in a list for the second time; `show` gives what is compared.
pub fn refuse_duplicates<T>(cx: &mut Cx<'_>, list: &[Located<T>], what: &str, show: impl Fn(&T) -> String) {
    let mut seen: std::collections::BTreeMap<String, &Spot> = std::collections::BTreeMap::new();
    for item in list {
        let text = show(&item.value);
        match seen.get(&text) {
            Some(first) => {
                cx.error("duplicate", &item.spot, format!("{what} `{text}` is listed twice")).also(first, "first here");
            }
            None => {
                seen.insert(text, &item.spot);
            }
        }
    }
}
