//! The house rules, read from the source itself: imports go down only, foreign types stay where they belong, tasks are
//! spawned in one place, and every file says what it is for and stays readable.
//!
//! Comments, strings of documentation and test code are not judged, except for length of files that are not tests.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Code lines of one file, tests excluded.
const LONGEST: usize = 450;

/// Who may import whom; what stands on no list is an arrow that runs back up, or sideways between stages.
const ALLOWED: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("cli", &["gateway", "handover", "snapshot", EVERYTHING_BELOW]),
    (
        "gateway",
        &["reload", "handover", "admin", "control", "worker", "connection", "exchange", "snapshot", EVERYTHING_BELOW],
    ),
    ("reload", &["admin", "control", "worker", "listener", "snapshot", "upstream", GROUND]),
    ("admin", &["control", "exchange", "snapshot", "listener", "tls", "http", "upstream", GROUND]),
    ("handover", &["listener", GROUND]),
    ("control", &["worker", "exchange", "snapshot", "listener", "upstream", GROUND]),
    ("worker", &["connection", "exchange", "snapshot", "listener", GROUND]),
    ("connection", &["exchange", "fault", "snapshot", "listener", "tls", "http", GROUND]),
    ("exchange", &["route", "upgrade", "upstream", "tunnel", "http", "tls", "fault", "snapshot", GROUND]),
    ("fault", &["listener", "tls", "http", "route", "upgrade", "upstream", "tunnel", GROUND]),
    ("snapshot", &["listener", "tls", "http", "route", "upgrade", "upstream", "tunnel", GROUND]),
    ("listener", &[GROUND]),
    ("tls", &[GROUND]),
    ("http", &[GROUND]),
    ("route", &[GROUND]),
    ("upgrade", &[GROUND]),
    // The one exception among the stages: TLS to a server is the TLS stage's craft.
    ("upstream", &["tls", GROUND]),
    ("tunnel", &[GROUND]),
    ("proto", &["types"]),
    ("transport", &["types"]),
    // The model is typed by the same rules that judge requests.
    ("config", &["proto", "types"]),
    ("lifecycle", &["clock", "types"]),
    ("limits", &["weak_map", "types"]),
    ("telemetry", &["config", "lifecycle", "clock", "weak_map", "types"]),
    ("clock", &["types"]),
    ("weak_map", &[]),
    ("types", &[]),
];

/// What every stage stands on.
const GROUND: &str = "the ground floor";
const GROUND_MODULES: &[&str] =
    &["proto", "transport", "config", "lifecycle", "limits", "telemetry", "clock", "weak_map", "types"];

/// For the two that call everything: all but themselves and what calls them.
const EVERYTHING_BELOW: &str = "everything below";
const BELOW_MODULES: &[&str] =
    &["exchange", "fault", "listener", "tls", "http", "route", "upgrade", "upstream", "tunnel", "worker"];

struct Source {
    /// Relative to `src/`.
    path: String,
    /// The first segment: the module that the file belongs to.
    module: String,
    text: String,
    /// Without comments and without the test module at the end.
    code: String,
}

fn files_under(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files_under(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Whether a file holds nothing but tests.
fn is_test(path: &str) -> bool {
    path.contains("tests/") || path.ends_with("tests.rs")
}

/// Code without comments, up to the inline test module.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let next = lines.peek().map_or("", |next| next.trim_start());
        if line.trim() == "#[cfg(test)]" && next.starts_with("mod ") && next.ends_with('{') {
            break;
        }
        let line = if line.trim_start().starts_with("//") { "" } else { line.split(" // ").next().unwrap_or(line) };
        code += line;
        code.push('\n');
    }
    code
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files_under(&root, &mut paths);
    let mut sources = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a source file");
        let path = path.strip_prefix(&root).expect("under src").to_string_lossy().replace('\\', "/");
        let module = path.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
        let code = code_of(&text);
        sources.push(Source { path, module, text, code });
    }
    assert!(sources.len() > 20, "found {} files", sources.len());
    sources
}

/// The sources that are no tests.
fn product() -> Vec<Source> {
    sources().into_iter().filter(|source| !is_test(&source.path)).collect()
}

/// Every name that follows `prefix` in the code, those of a braced list included.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let name = |text: &str| -> String {
        text.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect()
    };
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(name(rest));
            continue;
        };
        // Only the first name of each item at the list's own depth is a module.
        let mut depth = 0;
        let mut item = true;
        for (at, letter) in list.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => item = true,
                letter if item && !letter.is_whitespace() => {
                    names.insert(name(&list[at..]));
                    item = false;
                }
                _ => {}
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// How many modules deep a file's own module lies below the crate's root.
fn depth(path: &str) -> usize {
    let segments = path.split('/').count();
    if path.ends_with("/mod.rs") { segments - 1 } else { segments }
}

/// The top-level modules that a file names, by `crate::` or by as many `super::` as lead to the root.
fn imports(source: &Source) -> BTreeSet<String> {
    let mut names = names_after(&source.code, "crate::");
    let climb = "super::".repeat(depth(&source.path));
    names.extend(names_after(&source.code, &climb));
    names.extend(names_after(&source.code, "portcullis::"));
    names.remove(&source.module);
    names.remove("super");
    names
}

fn allowed(module: &str) -> Option<BTreeSet<&'static str>> {
    let list = ALLOWED.iter().find(|(name, _)| *name == module)?.1;
    let mut all = BTreeSet::new();
    for name in list {
        match *name {
            GROUND => all.extend(GROUND_MODULES),
            EVERYTHING_BELOW => all.extend(GROUND_MODULES.iter().chain(BELOW_MODULES)),
            name => _ = all.insert(name),
        }
    }
    Some(all)
}

#[track_caller]
fn assert_none(found: &str, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{found}");
}

#[test]
fn imports_go_down_only() {
    let mut found = String::new();
    for source in product() {
        if source.module == "lib" {
            continue;
        }
        let Some(allowed) = allowed(&source.module) else {
            let _ = writeln!(found, "{}: module {} has no place in the house", source.path, source.module);
            continue;
        };
        for name in imports(&source) {
            if !allowed.contains(&*name) {
                let _ = writeln!(found, "{}: {} imports {name}", source.path, source.module);
            }
        }
    }
    assert_none(&found, "arrows that run up or sideways");
}

#[test]
fn the_table_itself_has_no_way_back_up() {
    // Reachable from a module by allowed arrows must never be the module itself.
    for (module, _) in ALLOWED {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&str> = allowed(module).into_iter().flatten().collect();
        while let Some(name) = next.pop() {
            assert_ne!(name, *module, "{module} can be reached from itself");
            if seen.insert(name) {
                next.extend(allowed(name).unwrap_or_else(|| panic!("{name} has no row")));
            }
        }
    }
}

#[test]
fn the_reader_of_imports_sees_every_form() {
    let code = "use crate::tls;\nuse crate::{http::{self, Body}, route};\nlet x = crate::clock::now();\nuse mycrate::worker;\n";
    let names: Vec<_> = names_after(code, "crate::").into_iter().collect();
    assert_eq!(names, ["clock", "http", "route", "tls"]);
    let source = |path: &str, text: &str| {
        let module = path.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
        Source { path: path.to_owned(), module, text: text.to_owned(), code: code_of(text) }
    };
    let climbing = source("tls/stream.rs", "use super::super::http;\nuse super::policy;\n// crate::gateway\n");
    assert_eq!(imports(&climbing).into_iter().collect::<Vec<_>>(), ["http"]);
    let flat = source("fault.rs", "use super::upgrade;\n#[cfg(test)]\nmod tests {\n    use crate::gateway;\n}\n");
    assert_eq!(imports(&flat).into_iter().collect::<Vec<_>>(), ["upgrade"]);
}

/// Fails where code outside these places (files, or folders with a slash at the end) has this text.
fn assert_only_in(needle: &str, places: &[&str]) {
    let mut found = String::new();
    for source in product() {
        let inside = places
            .iter()
            .any(|place| source.path == *place || (place.ends_with('/') && source.path.starts_with(place)));
        if !inside {
            for (number, line) in source.code.lines().enumerate().filter(|(_, line)| line.contains(needle)) {
                let _ = writeln!(found, "{}:{}: {}", source.path, number + 1, line.trim());
            }
        }
    }
    assert_none(&found, &format!("`{needle}` belongs in {places:?}"));
}

#[test]
fn pem_is_read_by_rustls_pemfile_in_one_file() {
    assert_only_in("rustls_pemfile", &["tls/pem.rs"]);
    assert!(product().iter().any(|source| source.path == "tls/pem.rs" && source.code.contains("rustls_pemfile")));
}

#[test]
fn rustls_stops_at_the_tls_stage() {
    assert_only_in("rustls::", &["tls/"]);
}

#[test]
fn hypers_bodies_and_upgrades_stop_at_http_and_upstream() {
    // The demo's backend is a server of its own; the spelling of names is learned from a canned request that no peer
    // has sent.
    let apart = ["cli/demo/", "proto/spelling.rs"];
    for needle in ["body::Incoming", "upgrade::Upgraded", "upgrade::OnUpgrade", "hyper::upgrade"] {
        assert_only_in(needle, &[&["http/", "upstream/"], &apart[..]].concat());
    }
}

#[test]
fn the_h2_crate_stops_at_the_servers_http2() {
    assert_only_in("h2::", &["upstream/http2/"]);
}

#[test]
fn tasks_are_spawned_in_one_place() {
    for needle in ["tokio::spawn", "task::spawn", "use tokio::task"] {
        // The demo's backend is a server of its own beside the gateway.
        assert_only_in(needle, &["lifecycle/", "cli/demo/"]);
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut found = String::new();
    for source in product().iter().filter(|source| !source.text.starts_with("//!")) {
        let _ = writeln!(found, "{}", source.path);
    }
    assert_none(&found, "files that do not begin with `//!`");
}

#[test]
fn no_file_is_too_long_to_be_read() {
    let mut found = String::new();
    for source in product() {
        let lines = source.code.lines().count();
        if lines > LONGEST {
            let _ = writeln!(found, "{}: {lines} lines", source.path);
        }
    }
    assert_none(&found, &format!("files of more than {LONGEST} lines, tests not counted"));
}

#[test]
fn nothing_unwraps() {
    assert_only_in(".unwrap()", &[]);
}
