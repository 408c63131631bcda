//! The configuration from outside: a corpus of files with the exact report that each gives, the examples in `conf/`,
//! the reference in `docs/config.md` held to the list of keys, and texts that nobody would write.
//!
//! `BLESS=1 cargo test --test config` rewrites the recorded reports; look at the difference before committing it.

#![allow(clippy::disallowed_methods)] // tests may read the clock

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis::config::keys::{Default as KeyDefault, SECTIONS, Section};
use portcullis::config::model::{Config, Target};
use portcullis::config::written::Written;
use portcullis::config::{read, read_text, render};
use proptest::prelude::*;

#[path = "../fuzz/config_targets.rs"]
mod fuzz;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn toml_files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(here(folder))
        .expect("the folder is part of the repository")
        .map(|entry| entry.expect("a readable entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} holds no example");
    files
}

#[test]
fn every_file_of_the_corpus_gives_exactly_its_recorded_report() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for path in toml_files("tests/config") {
        let (config, report) = read(&path);
        assert_eq!(config.is_some(), !report.has_errors(), "{}", path.display());
        let folder = format!("{}/", here("tests/config").display());
        let shown = render(&report, false).replace(&folder, "");
        let recorded = path.with_extension("txt");
        if bless {
            fs::write(&recorded, &shown).expect("the record can be written");
        } else if fs::read_to_string(&recorded).ok().as_deref() != Some(&shown) {
            wrong.push(format!("{}:\n{shown}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "reports differ from their records:\n{}", wrong.join("\n"));
}

#[test]
fn no_record_is_left_without_its_file() {
    for entry in fs::read_dir(here("tests/config")).expect("the folder is part of the repository") {
        let path = entry.expect("a readable entry").path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            assert!(path.with_extension("toml").exists(), "{} has no .toml", path.display());
        }
    }
}

#[test]
fn files_called_good_have_no_problem_and_files_called_bad_have_errors() {
    for path in toml_files("tests/config") {
        let (_, report) = read(&path);
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        match name.split('-').next() {
            Some("good") => assert!(report.problems.is_empty(), "{}", render(&report, false)),
            Some("warn") => assert!(!report.problems.is_empty() && !report.has_errors(), "{name}"),
            _ => assert!(report.has_errors(), "{name}"),
        }
    }
}

#[test]
fn every_problem_has_a_remedy_and_stands_in_order() {
    for path in toml_files("tests/config") {
        let (_, report) = read(&path);
        let places: Vec<_> = report.problems.iter().map(|p| p.spot.as_ref().map(|s| (s.file, s.range.start))).collect();
        assert!(places.is_sorted(), "{}", path.display());
        for problem in &report.problems {
            assert!(problem.spot.is_some() || problem.code == "unreadable", "{problem:?}");
            assert!(!problem.message.ends_with('.') && !problem.message.contains('\n'), "{problem:?}");
        }
    }
}

#[test]
fn every_example_loads_without_a_word() {
    for path in toml_files("conf") {
        let (config, report) = read(&path);
        assert!(report.problems.is_empty() && config.is_some(), "{}", render(&report, false));
    }
}

#[test]
fn the_full_example_has_every_key() {
    let text = fs::read_to_string(here("conf/full.toml")).expect("conf/full.toml exists");
    // Keys that say the same thing in another way cannot stand beside each other; they may stand in comments.
    for section in SECTIONS {
        for key in section.keys {
            let found = text.lines().any(|line| {
                let line = line.trim_start_matches(['#', ' ']);
                line.starts_with(key.name)
                    || line.contains(&format!("{} =", key.name))
                    || line.contains(key.name) && line.starts_with('[')
            });
            assert!(found, "conf/full.toml lacks {} of {}", key.name, section.header);
        }
    }
}

// ── docs/config.md ──

struct Documented {
    section: String,
    key: String,
    body: String,
}

fn documented() -> Vec<Documented> {
    let text = fs::read_to_string(here("docs/config.md")).expect("docs/config.md exists");
    let mut keys = Vec::new();
    for block in text.split("\n### ").skip(1) {
        let (title, body) = block.split_once('\n').expect("a heading has a body");
        let body = body.split("\n## ").next().unwrap_or_default();
        let path = title.trim().trim_matches('`');
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        keys.push(Documented { section: section.into(), key: key.into(), body: body.into() });
    }
    keys
}

fn field<'a>(entry: &'a Documented, name: &str) -> &'a str {
    let start = format!("- **{name}:** ");
    entry
        .body
        .lines()
        .find_map(|line| line.strip_prefix(&start))
        .unwrap_or_else(|| panic!("{}.{} has no {name}", entry.section, entry.key))
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let in_docs: Vec<_> = documented().iter().map(|entry| format!("{}.{}", entry.section, entry.key)).collect();
    let in_reader: Vec<_> =
        SECTIONS.iter().flat_map(|s| s.keys.iter().map(|key| format!("{}.{}", s.path, key.name))).collect();
    let missing: Vec<_> = in_reader.iter().filter(|key| !in_docs.contains(key)).collect();
    let unknown: Vec<_> = in_docs.iter().filter(|key| !in_reader.contains(key)).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing: {missing:?}, unknown: {unknown:?}");
    assert_eq!(in_docs.len(), in_docs.iter().collect::<BTreeSet<_>>().len(), "a key is documented twice");
    assert_eq!(in_docs, in_reader, "the reference follows the order of keys.rs");
}

#[test]
fn every_key_is_documented_in_the_one_fixed_form() {
    for entry in documented() {
        assert!(
            entry.body.lines().any(|line| !line.is_empty() && !line.starts_with('-')),
            "{} has no purpose",
            entry.key
        );
        for name in ["Values", "Default", "Behaviour", "Interactions", "Example"] {
            assert!(!field(&entry, name).trim().is_empty(), "{}.{}: {name} is empty", entry.section, entry.key);
        }
    }
}

#[test]
fn documented_defaults_are_those_of_the_reader() {
    for entry in documented() {
        let section = SECTIONS.iter().find(|section| section.path == entry.section).expect("checked elsewhere");
        let key = section.keys.iter().find(|key| key.name == entry.key).expect("checked elsewhere");
        let want = match key.default {
            KeyDefault::Required => "required".to_owned(),
            KeyDefault::Value(value) => format!("`{value}`"),
            KeyDefault::Words(words) => words.to_owned(),
        };
        assert_eq!(field(&entry, "Default"), want, "{}.{}", entry.section, entry.key);
    }
}

/// A valid file in which the section stands with the given keys and with those that it needs.
fn file_with(section: &Section, lines: &str) -> String {
    let has = |key: &str| lines.lines().any(|line| line.starts_with(key));
    let unless = |key: &str, line: &str| if has(key) { String::new() } else { format!("{line}\n") };
    let mut server = String::new();
    let mut listener = "[[listener]]\naddress = \"127.0.0.1:443\"\n".to_owned();
    let mut tls = "[listener.tls]\ncert = \"a.pem\"\nkey = \"a.key\"\n".to_owned();
    let mut route = "[[route]]\nhosts = [\"a.test\"]\nupstream = \"a\"\n".to_owned();
    let mut upstream = "[upstream.a]\nservers = [\"https://a.test\"]\n".to_owned();
    match section.path {
        "" => {}
        "admin" => {
            let address = unless("address", "address = \"127.0.0.1:9900\"");
            server = format!("[admin]\n{address}{lines}\n");
        }
        "admin.tls" => {
            let (cert, key) = (unless("cert", "cert = \"a.pem\""), unless("key", "key = \"a.key\""));
            server = format!("[admin]\naddress = \"127.0.0.1:9900\"\n[admin.tls]\n{cert}{key}{lines}\n");
        }
        "server" | "log" => server = format!("[{}]\n{lines}\n", section.path),
        "log.otlp" => {
            let endpoint = unless("endpoint", "endpoint = \"http://127.0.0.1:4318\"");
            server = format!("[log.otlp]\n{endpoint}{lines}\n");
        }
        "listener" if has("redirect_https = true") => {
            listener.push_str(lines);
            tls.clear();
        }
        "listener" => {
            listener = format!("[[listener]]\n{}{lines}\n", unless("address", "address = \"127.0.0.1:443\""));
            if has("tls") || lines.contains("h2c") {
                tls.clear();
            }
        }
        "listener.tls" => {
            let own = has("cert") || has("certificates");
            let own_key = has("key");
            let cert = if own { "" } else { "cert = \"a.pem\"\n" };
            let key = if own_key || has("certificates") { "" } else { "key = \"a.key\"\n" };
            let auth = if has("client_ca") { "client_auth = \"required\"\n" } else { "" };
            let ca = if has("client_auth") && !has("client_auth = \"none\"") { "client_ca = \"ca.pem\"\n" } else { "" };
            tls = format!("[listener.tls]\n{cert}{key}{auth}{ca}{lines}\n");
        }
        "listener.tls.certificates" => {
            let cert = unless("cert", "cert = \"a.pem\"");
            tls = format!("[[listener.tls.certificates]]\n{cert}{}{lines}\n", unless("key", "key = \"a.key\""));
        }
        "listener.tls.policy" => {
            tls.push_str("[[listener.tls.policy]]\n");
            tls.push_str(&unless("hosts", "hosts = [\"b.test\"]"));
            for (one, other) in [("cert ", "key = \"b.key\"\n"), ("key ", "cert = \"b.pem\"\n")] {
                if has(one) {
                    tls.push_str(other);
                }
            }
            if has("client_ca") {
                tls.push_str("client_auth = \"required\"\n");
            }
            if has("client_auth") && !has("client_auth = \"none\"") {
                tls.push_str("client_ca = \"ca.pem\"\n");
            }
            tls.push_str(lines);
        }
        "listener.proxy_protocol" => {
            let from = unless("from", "from = [\"10.0.0.0/8\"]");
            listener.push_str(&format!("[listener.proxy_protocol]\n{from}{lines}\n"));
        }
        "listener.timeouts" | "listener.limits" => listener.push_str(&format!("[{}]\n{lines}\n", section.path)),
        "route" => {
            let target =
                if has("redirect") || has("respond") { String::new() } else { unless("upstream", "upstream = \"a\"") };
            let name = if has("listeners") { "listeners_named" } else { "" };
            if !name.is_empty() {
                listener.push_str("name = \"public\"\n");
            }
            if has("strip_prefix") {
                route = "path = \"/app\"\n".into();
            } else {
                route.clear();
            }
            if has("client_certificate = true") {
                tls.push_str("client_ca = \"ca.pem\"\nclient_auth = \"required\"\n");
            }
            route = format!("[[route]]\n{}{target}{route}{lines}\n", unless("hosts", "hosts = [\"a.test\"]"));
            upstream =
                if has("redirect") || has("respond") || has("upstream = \"http") { String::new() } else { upstream };
        }
        "route.redirect" | "route.respond" => {
            let needed = if section.path == "route.redirect" {
                unless("to", "to = \"/x\"")
            } else {
                unless("status", "status = 403")
            };
            route = format!("[[route]]\nhosts = [\"a.test\"]\n[{}]\n{needed}{lines}\n", section.path);
            upstream.clear();
        }
        "route.timeouts" | "route.limits" | "route.websocket" => {
            route.push_str(&format!("[{}]\n{lines}\n", section.path))
        }
        "route.websocket.subprotocols" => route.push_str(&format!("[{}]\n{lines}\n", section.path)),
        "upstream.NAME" => {
            for (one, other) in
                [("client_cert ", "client_key = \"b.key\"\n"), ("client_key ", "client_cert = \"b.pem\"\n")]
            {
                if has(one) {
                    upstream.push_str(other);
                }
            }
            let servers = unless("servers", "servers = [\"https://a.test\"]");
            upstream = upstream.replace("servers = [\"https://a.test\"]\n", &servers);
            if has("hash = ") && !has("balance") {
                upstream.push_str("balance = \"hash\"\n");
            }
            if has("queue = ") {
                upstream.push_str("max_connections = 10\n");
            }
            upstream.push_str(lines);
        }
        "upstream.NAME.servers" => {
            upstream =
                format!("[upstream.a]\n[[upstream.a.servers]]\n{}{lines}\n", unless("url", "url = \"https://a.test\""));
            for (one, other) in
                [("client_cert ", "client_key = \"b.key\"\n"), ("client_key ", "client_cert = \"b.pem\"\n")]
            {
                if has(one) {
                    upstream.push_str(other);
                }
            }
        }
        "upstream.NAME.sticky" => {
            let needed = unless("cookie", "cookie = \"pcl\"") + &unless("secret_file", "secret_file = \"s\"");
            upstream.push_str(&format!("[upstream.a.sticky]\n{needed}{lines}\n"));
        }
        "upstream.NAME.retry_budget" => upstream.push_str(&format!("[{}]\n{lines}\n", "upstream.a.retry_budget")),
        "upstream.NAME.queue" => {
            upstream.push_str(&format!("max_connections = 10\n[upstream.a.queue]\n{lines}\n"));
        }
        "upstream.NAME.hash" => {
            let by = if has("name = ") { unless("by", "by = \"header\"") } else { String::new() };
            let name = if lines.contains("\"header\"") { unless("name", "name = \"X-User\"") } else { String::new() };
            upstream.push_str(&format!("balance = \"hash\"\n[upstream.a.hash]\n{by}{name}{lines}\n"));
        }
        "upstream.NAME.health" => {
            let kind = ["tcp", "http", "websocket"].iter().any(|kind| has(kind));
            let kind = if kind { "" } else { "http = \"/healthz\"\n" };
            upstream.push_str(&format!("[upstream.a.health]\n{kind}{lines}\n"));
        }
        "upstream.NAME.ejection" => upstream.push_str(&format!("[upstream.a.ejection]\n{lines}\n")),
        other => panic!("no file is known for {other}"),
    }
    format!("{server}\n{listener}\n{tls}\n{route}\n{upstream}\n")
}

#[test]
fn every_documented_example_is_valid() {
    for entry in documented().iter().filter(|entry| !entry.section.is_empty()) {
        let section = SECTIONS.iter().find(|section| section.path == entry.section).expect("checked elsewhere");
        let example = field(entry, "Example").trim_matches('`');
        assert!(example.starts_with(&entry.key), "{}.{}: {example}", entry.section, entry.key);
        let text = file_with(section, example);
        let (_, report) = read_text("example.toml", &text, Path::new("/nonexistent"));
        let problems = report
            .problems
            .iter()
            .filter(|problem| !["any-origin", "includes-nothing", "never-upgrades"].contains(&problem.code))
            // Only some builds know of collectors.
            .filter(|problem| problem.code != "no-otel" || cfg!(feature = "otel"))
            .count();
        assert_eq!(problems, 0, "{}.{}:\n{text}\n{}", entry.section, entry.key, render(&report, false));
    }
}

/// The configuration without the places it was read from, and how it was written there.
fn bare(config: &Config) -> String {
    let config = Config { written: Written::default(), places: Arc::default(), ..config.clone() };
    let spots = regex::Regex::new(r"Spot \{ file: \d+, range: \d+\.\.\d+ \}").expect("a valid expression");
    spots.replace_all(&format!("{config:?}"), "").into_owned()
}

#[test]
fn writing_a_default_out_changes_nothing() {
    for section in SECTIONS {
        for key in section.keys {
            let KeyDefault::Value(default) = key.default else { continue };
            let line = format!("{} = {default}", key.name);
            if section.path == "log.otlp" && !cfg!(feature = "otel") {
                continue;
            }
            // The redirect's own status needs a target in both files.
            let (with, without) = (file_with(section, &line), file_with(section, ""));
            let (with, with_report) = read_text("a.toml", &with, Path::new("/nonexistent"));
            let (without, _) = read_text("a.toml", &without, Path::new("/nonexistent"));
            let with = with.unwrap_or_else(|| panic!("{line}: {}", render(&with_report, false)));
            let without = without.expect("the file without the key is valid");
            // The process fills this one in; that it was written only turns a note into a warning.
            let without = bare(&without).replace("max_connections: None", "max_connections: Some(100000)");
            let with = bare(&with).replace("max_connections: None", "max_connections: Some(100000)");
            assert_eq!(with, without, "{}.{}", section.path, key.name);
        }
    }
}

// ── behaviour that no report shows ──

#[test]
fn relative_paths_start_at_the_file_that_names_them() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("sites")).expect("a folder");
    let main = folder.path().join("main.toml");
    fs::write(&main, "[server]\ninclude = [\"sites/*.toml\"]\n[[listener]]\naddress = \"127.0.0.1:1\"\ntls = { cert = \"c.pem\", key = \"/k.pem\" }\n").expect("written");
    let site =
        "[[route]]\nhosts = [\"B\"]\nupstream = \"u\"\n[upstream.u]\nservers = [\"https://u.test\"]\nca = \"ca.pem\"\n";
    fs::write(folder.path().join("sites/b.toml"), site).expect("written");
    fs::write(folder.path().join("sites/a.toml"), "[[route]]\nhosts = [\"a\"]\nupstream = \"unix:s.sock\"\n")
        .expect("written");
    let (config, report) = read(&main);
    let config = config.unwrap_or_else(|| panic!("{}", render(&report, false)));
    let tls = config.listeners[0].tls.as_ref().expect("TLS is set up");
    assert_eq!(*tls.default.certificates[0].cert, folder.path().join("c.pem"));
    assert_eq!(*tls.default.certificates[0].key, Path::new("/k.pem"));
    assert_eq!(
        config.upstreams[0].servers[0].ca.as_ref().map(|ca| ca.value.clone()),
        Some(folder.path().join("sites/ca.pem"))
    );
    let names: Vec<_> = config.routes.iter().map(|route| route.name.to_string()).collect();
    assert_eq!(names, ["a/", "b/"], "files are read in the order of their names");
    assert_eq!(report.sources[config.routes[1].spot.file].path, folder.path().join("sites/b.toml"));
}

#[test]
fn a_problem_in_an_included_file_points_into_it_and_loops_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let main = folder.path().join("main.toml");
    fs::write(&main, "[server]\ninclude = [\"*.toml\", \"none.toml\", \"*.conf\"]\n").expect("written");
    fs::write(folder.path().join("x.toml"), "[server]\n\n[[route]]\nupstraem = 1\n").expect("written");
    let (config, report) = read(&main);
    let shown = render(&report, false);
    assert!(config.is_none());
    assert!(shown.contains("x.toml:4:1") && shown.contains("did you mean `upstream`?"), "{shown}");
    for code in ["include-loop", "unreadable", "includes-nothing", "misplaced-table"] {
        assert!(report.problems.iter().any(|problem| problem.code == code), "{code}: {shown}");
    }
}

#[test]
fn what_a_pattern_matches_and_cannot_be_read_is_an_error_and_not_left_out() {
    for what in ["a link that leads nowhere", "a link in a circle", "a folder", "a pipe"] {
        let folder = tempfile::tempdir().expect("a folder");
        let (main, entry) = (folder.path().join("main.conf"), folder.path().join("b.toml"));
        fs::write(&main, "[server]\ninclude = [\"*.toml\"]\n[[listener]]\naddress = \"127.0.0.1:0\"\n")
            .expect("written");
        fs::write(folder.path().join("a.toml"), "[[route]]\nrespond = { status = 204 }\n").expect("written");
        assert!(read(&main).0.is_some());
        match what {
            "a folder" => fs::create_dir(&entry).expect("made"),
            "a pipe" => {
                let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
                rustix::fs::mknodat(rustix::fs::CWD, &entry, kind, mode, 0).expect("made");
            }
            "a link in a circle" => std::os::unix::fs::symlink(&entry, &entry).expect("made"),
            _ => std::os::unix::fs::symlink("nowhere", &entry).expect("made"),
        }
        let (config, report) = read(&main);
        let shown = render(&report, false);
        assert!(config.is_none() && shown.contains("b.toml") && shown.contains("unreadable"), "{what}: {shown}");
    }
}

#[test]
fn equal_inline_urls_share_one_upstream() {
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\npath = \"/a\"\nupstream = \"http://u:1\"\n[[route]]\npath = \"/b\"\nupstream = \"http://u:1\"\n[[route]]\nupstream = \"n\"\n[upstream.n]\nservers = [\"http://n\"]\n";
    let (config, report) = read_text("a.toml", text, Path::new(""));
    let config = config.unwrap_or_else(|| panic!("{}", render(&report, false)));
    let targets: Vec<_> = config
        .routes
        .iter()
        .map(|route| match route.target {
            Target::Upstream(index) => config.upstreams[index].name.to_string(),
            _ => String::new(),
        })
        .collect();
    assert_eq!(targets, ["http://u:1", "http://u:1", "n"]);
    assert_eq!(config.upstreams.len(), 2);
}

#[test]
fn a_file_that_is_missing_a_folder_or_no_text_is_one_clear_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = folder.path().join("b.toml");
    fs::write(&binary, b"a = 1\n\xff\xfe").expect("written");
    for (path, words) in [
        (binary.as_path(), "line 2 is not UTF-8"),
        (folder.path(), "directory"),
        (Path::new("/nonexistent/x"), "cannot read"),
    ] {
        let (config, report) = read(path);
        let shown = render(&report, false);
        assert!(config.is_none() && shown.contains(words) && shown.contains("1 error in"), "{shown}");
    }
}

// ── texts that nobody would write ──

/// Pieces from which files are put together that come near to being valid.
const PIECES: &[&str] = &[
    "[[listener]]\n",
    "[[route]]\n",
    "[server]\n",
    "[log]\n",
    "[upstream.a]\n",
    "[listener.tls]\n",
    "[route.websocket]\n",
    "[listener.limits]\n",
    "[[listener.tls.policy]]\n",
    "address = ",
    "upstream = ",
    "servers = ",
    "origins = ",
    "path = ",
    "hosts = ",
    "redirect = ",
    "workers = ",
    "strip_prefix = ",
    "head_size = ",
    "idle_timeout = ",
    "trusted_proxies = ",
    "\"0.0.0.0:443\"",
    "\"ws://a:1\"",
    "\"~ (\"",
    "\"/é%\"",
    "\"*.é\"",
    "\"https://[\"",
    "\"\\u0000\"",
    "\"10s\"",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'''",
    "\n",
    ",",
    " = ",
    "1",
    "-1",
    "1e9",
    "true",
    "1979-05-27",
    "#",
    "\u{feff}",
    "\u{1b}",
    "\r",
    "é",
    "a.b.c = ",
];

#[test]
fn a_remedy_repeats_no_control_characters_of_the_file() {
    for text in ["0=\u{1}\t\u{1}", "0=\t\u{7f}\u{1b}[31m", "a = 1-\tb"] {
        fuzz::configuration_text(text.as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_reader_panic(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzz::configuration_text(&data);
    }

    #[test]
    fn no_near_miss_makes_the_reader_panic(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..40)) {
        fuzz::configuration_text(pieces.concat().as_bytes());
    }

    #[test]
    fn no_damage_to_a_valid_file_makes_the_reader_panic(at in 0usize..10_000, cut in 0usize..40, put in "[\\[\\]{}\"'=,.#\n a-z0-9é\u{1b}]{0,6}") {
        let mut text = include_str!("../conf/full.toml").to_owned();
        let start = text.floor_char_boundary(at % (text.len() + 1));
        let end = text.floor_char_boundary((start + cut).min(text.len()));
        text.replace_range(start..end, &put);
        fuzz::configuration_text(text.as_bytes());
    }

    #[test]
    fn no_string_value_makes_the_reader_panic(value in "\\PC{0,40}", key in 0usize..9) {
        let keys = ["address", "path", "hosts", "upstream", "origins", "drain_timeout", "to", "body_size", "trusted_proxies"];
        let quoted = format!("\"{}\"", value.escape_default().to_string().replace("\\'", "'"));
        let quoted = regex::Regex::new(r"\\u\{([0-9a-f]+)\}").expect("valid").replace_all(&quoted, |found: &regex::Captures<'_>| format!("\\U{:0>8}", &found[1])).into_owned();
        let list = if matches!(keys[key], "hosts" | "origins" | "trusted_proxies") { format!("[{quoted}]") } else { quoted };
        let line = |name: &str| if keys[key] == name { format!("{name} = {list}\n") } else { String::new() };
        let text = format!(
            "[server]\n{}{}[[listener]]\n{}[[route]]\n{}{}{}[route.websocket]\n{}[route.limits]\n{}[[route]]\n[route.redirect]\n{}",
            line("drain_timeout"), line("trusted_proxies"), line("address"), line("path"), line("hosts"), line("upstream"), line("origins"), line("body_size"), line("to"),
        );
        fuzz::configuration_text(text.as_bytes());
    }
}

#[test]
fn a_hostile_file_is_read_in_reasonable_time() {
    for unit in [
        "[",
        "[[a]]\n",
        "a = {",
        "a.",
        "\"",
        "[zz\n",
        "x = \n",
        "[[route]]\nfoo = 1\n",
        "[[listener]]\naddress = \"a\"\n",
    ] {
        let started = std::time::Instant::now();
        fuzz::configuration_text(unit.repeat(100_000 / unit.len()).as_bytes());
        assert!(started.elapsed().as_secs() < 20, "{unit:?} took {:?}", started.elapsed());
    }
}
