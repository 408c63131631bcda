//! The reader: files → spanned trees → [`Draft`] → checks across tables → [`Config`].
//!
//! Each file is read on its own into the common draft (`server`, `admin`, `listener`, `tls`, `route`, `websocket`, `upstream`,
//! one file each); `link` then resolves names and checks what no single table can know. Problems are gathered all the
//! way; a configuration comes out only when none of them is an error.

mod address;
mod admin;
mod common;
mod fault;
mod include;
mod link;
mod listener;
mod log;
mod names;
mod paths;
mod route;
mod server;
mod suggest;
mod syntax;
mod tls;
mod tree;
mod units;
mod upstream;
mod websocket;

pub use include::is_handed_over;
pub use units::{show_duration, show_size};

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::keys;
use super::model::{Admin, Config, ListenAddress, Listener, Log, Route, Server, Upstream};
use super::places::Places;
use super::report::{Located, Report, Severity, Source, Spot};
use super::written::{Entry, Identity, Wording, Written, WrittenFile};
use crate::types::Name;
use tree::{Cx, Node, Table};

/// Reads a file and what it includes. No configuration where the report has errors.
pub fn read(path: &Path) -> (Option<Config>, Report) {
    let mut report = Report::default();
    report.note_file(path);
    let text = match include::load(path) {
        Ok(text) => text,
        Err(why) => {
            report.sources.push(Source { path: path.to_owned(), text: String::new() });
            report.error_anywhere("unreadable", format!("cannot read {}: {why}", path.display()));
            return (None, report);
        }
    };
    finish(path.to_owned(), text, report)
}

/// Reads a text as if it stood in a file called `name` in the folder `base`, where relative paths start.
pub fn read_text(name: &str, text: &str, base: &Path) -> (Option<Config>, Report) {
    finish(base.join(name), text.to_owned(), Report::default())
}

/// The `[admin]` of a file, whatever else is wrong with that: a gateway that runs is asked about a file that it would not
/// take. The report has what is wrong with the table itself, or with the file as a whole.
pub fn read_admin(path: &Path) -> (Option<Admin>, Report) {
    let mut report = Report::default();
    let text = match include::load(path) {
        Ok(text) => text,
        Err(why) => {
            report.error_anywhere("unreadable", format!("cannot read {}: {why}", path.display()));
            return (None, report);
        }
    };
    report.sources.push(Source { path: path.to_owned(), text: text.clone() });
    let (tree, damaged) = syntax::parse(&text, 0, &mut report);
    let syntax = report.problems.len();
    let mut cx = Cx {
        report: &mut report,
        file: 0,
        base: include::folder_of(path),
        broken: !damaged.is_empty(),
        places: Places::default(),
    };
    let mut root = Table::new(&keys::ROOT, tree.get_ref(), cx.spot(0..0));
    let admin = root.table(&mut cx, "admin", &keys::ADMIN).map(|table| admin::admin(&mut cx, table));
    // What is damaged may be anything, also this table; and matters only then.
    let is_whole =
        |admin: &Admin| !matches!(&admin.address.value, ListenAddress::Unix(path) if path.as_os_str().is_empty());
    if admin.as_ref().is_some_and(is_whole) {
        report.problems.drain(..syntax);
    }
    (admin.filter(|_| !report.has_errors()), report)
}

/// A duration as files write it, or what would be right.
///
/// # Errors
/// It is none, or zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|fault| fault.help.unwrap_or(fault.message))
}

/// A size as files write it, in bytes, or what would be right.
///
/// # Errors
/// It is none, or zero.
pub fn size(text: &str) -> Result<u64, String> {
    units::size(text).map_err(|fault| fault.help.unwrap_or(fault.message))
}

/// The nearest of some words, where it is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    suggest::nearest(word, candidates)
}

fn finish(path: PathBuf, text: String, mut report: Report) -> (Option<Config>, Report) {
    let mut draft = Draft::default();
    file(&mut report, &mut draft, Source { path: path.clone(), text }, None);
    include::read_all(&mut report, &mut draft, &path);
    let config = link::finish(draft, &mut report);
    report.problems.sort_by_key(|problem| {
        let place = problem.spot.as_ref().map(|spot| (spot.file, spot.range.start, spot.range.end));
        (place, std::cmp::Reverse(problem.severity))
    });
    let config = config.filter(|_| !report.has_errors());
    (config, report)
}

/// What has been read so far, over all files.
#[derive(Default)]
struct Draft {
    server: Option<Server>,
    log: Option<Log>,
    admin: Option<Admin>,
    /// Patterns of `server.include`, still to be read.
    include: Vec<Located<String>>,
    listeners: Vec<Listener>,
    routes: Vec<DraftRoute>,
    upstreams: Vec<DraftUpstream>,
    written: Written,
    places: Places,
    /// A file could not be read in full: what is missing may stand in the rest of it.
    incomplete: bool,
}

struct DraftRoute {
    /// Its target is a placeholder where `upstream` is given.
    route: Route,
    named: bool,
    upstream: Option<UpstreamReference>,
}

enum UpstreamReference {
    Name(Located<String>),
    /// An inline URL, already read.
    Inline(Box<Upstream>),
    /// Wrong, and reported.
    Broken,
}

struct DraftUpstream {
    upstream: Upstream,
    /// Its name as written in the header.
    name_spot: Spot,
}

/// Reads one file into the draft. `included_by` is the place that named it.
fn file(report: &mut Report, draft: &mut Draft, source: Source, included_by: Option<&Spot>) {
    let index = report.sources.len();
    let base = include::folder_of(&source.path);
    let text = source.text.clone();
    draft.places.add_file(index, &source);
    report.sources.push(source);
    let (tree, damaged) = syntax::parse(&text, index, report);
    let after_syntax = report.problems.len();
    let mut cx =
        Cx { report, file: index, base, broken: !damaged.is_empty(), places: std::mem::take(&mut draft.places) };
    if let Some(source) = cx.report.sources.get(index) {
        draft.written.files.push(WrittenFile::of(&source.path, tree.get_ref()));
    }
    let mut root = Table::new(&keys::ROOT, tree.get_ref(), cx.spot(0..0));
    match included_by {
        None => {
            if let Some(table) = root.table(&mut cx, "server", &keys::SERVER) {
                draft.written.server = table.wording(&cx);
                draft.server = Some(server::server(&mut cx, table, &mut draft.include));
            }
            if let Some(table) = root.table(&mut cx, "log", &keys::LOG) {
                draft.written.log = table.wording(&cx);
                draft.log = Some(log::log(&mut cx, table));
            }
            if let Some(table) = root.table(&mut cx, "admin", &keys::ADMIN) {
                draft.written.admin = Some(table.wording(&cx));
                draft.admin = Some(admin::admin(&mut cx, table));
            }
        }
        Some(place) => {
            for key in ["server", "log", "admin"] {
                if root.take(key).is_some() {
                    let spot = root.key_spot(key);
                    cx.error("misplaced-table", &spot, format!("[{key}] cannot stand in an included file"))
                        .help("move it to the main file")
                        .also(place, "included here");
                }
            }
        }
    }
    for table in root.tables(&mut cx, "listener", &keys::LISTENER) {
        let wording = table.wording(&cx);
        let listener = listener::listener(&mut cx, table);
        let (identity, name) = (Identity::Listener(listener.key()), listener.name.clone());
        draft.written.listeners.push(Entry { identity, name, wording });
        draft.listeners.push(listener);
    }
    for table in root.tables(&mut cx, "route", &keys::ROUTE) {
        let wording = table.wording(&cx);
        let route = route::route(&mut cx, table);
        draft.written.routes.push(named(&route.route.name, wording));
        draft.routes.push(route);
    }
    if let Some(node) = root.take("upstream") {
        upstreams(&mut cx, draft, &node);
    }
    root.close(&mut cx);
    draft.incomplete |= cx.broken;
    draft.places = cx.places;
    // A value on a damaged line is not what the operator meant; only the syntax error is worth reading.
    report.named.retain(|path| path.spot.file != index || !syntax::overlaps(&damaged, &path.spot.range));
    let mut at = 0;
    report.problems.retain(|problem| {
        at += 1;
        let semantic = at > after_syntax;
        let hidden =
            problem.spot.as_ref().is_some_and(|spot| spot.file == index && syntax::overlaps(&damaged, &spot.range));
        !(semantic && hidden && problem.severity == Severity::Error)
    });
}

fn named(name: &Name, wording: Wording) -> Entry {
    Entry { identity: Identity::Name(name.clone()), name: name.clone(), wording }
}

fn upstreams(cx: &mut Cx<'_>, draft: &mut Draft, node: &Node<'_>) {
    let DeValue::Table(groups) = node.value else {
        node.mistyped(cx, "upstream", "a table of named tables").help("write [upstream.NAME]");
        return;
    };
    let mut groups: Vec<_> = groups.iter().collect();
    // The tree is ordered by name; the order of the file is the one that operators know.
    groups.sort_by_key(|(name, _)| name.span().start);
    for (name, group) in groups {
        let name_spot = cx.spot(name.span());
        let group = Node { value: group.get_ref(), spot: cx.spot(group.span()) };
        let DeValue::Table(entries) = group.value else {
            if keys::UPSTREAM.has(name.get_ref()) {
                cx.error("misplaced-key", &name_spot, "an upstream needs a name").help("write [upstream.NAME]");
            } else {
                group
                    .mistyped(cx, &format!("upstream.{}", name.get_ref()), "a table")
                    .help("write [upstream.NAME] once");
            }
            continue;
        };
        let mut table = Table::new(&keys::UPSTREAM, entries, group.spot);
        table.header = format!("[upstream.{}]", name.get_ref());
        draft.written.upstreams.push(named(&Name::new(&**name.get_ref()), table.wording(cx)));
        upstream::check_name(cx, name.get_ref(), &name_spot);
        let upstream = upstream::upstream(cx, table, name.get_ref());
        draft.upstreams.push(DraftUpstream { upstream, name_spot });
    }
}
