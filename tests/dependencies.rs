//! The dependency tree held to `deny.toml`: licences, crates that are banned, versions that stand twice.
//!
//! `cargo deny check` reads the same file and knows more (advisories, sources); where it is not installed this test
//! keeps the rules that need no network. What Cargo builds for Linux is judged, development dependencies included.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use toml::de::{DeTable, DeValue};

const TARGET: &str = "x86_64-unknown-linux-gnu";

#[test]
fn every_licence_is_one_that_deny_toml_allows() {
    let policy = policy();
    let allowed: BTreeSet<&str> = strings(&policy, &["licenses", "allow"]).into_iter().collect();
    let refused: Vec<_> = tree()
        .into_iter()
        .filter(|package| package.name != env!("CARGO_PKG_NAME"))
        .filter(|package| !Licence { words: words(&package.license), allowed: &allowed }.judge())
        .map(|package| format!("{} {}: {}", package.name, package.version, package.license))
        .collect();
    assert!(refused.is_empty(), "not allowed by deny.toml:\n{}", refused.join("\n"));
}

#[test]
fn no_banned_crate_is_in_the_tree() {
    let policy = policy();
    let banned: Vec<_> = tables(&policy, &["bans", "deny"])
        .into_iter()
        .filter(|entry| !entry.contains_key("deny-multiple-versions"))
        .filter_map(|entry| entry.get("crate")?.get_ref().as_str())
        .collect();
    assert!(banned.contains(&"ring"), "deny.toml is not read as it is meant");
    let found: Vec<_> = tree().into_iter().filter(|package| banned.contains(&package.name.as_str())).collect();
    assert!(found.is_empty(), "banned by deny.toml: {found:?}");
}

#[test]
fn no_crate_stands_in_the_tree_in_two_versions_without_a_reason() {
    let policy = policy();
    let skipped: BTreeSet<_> = tables(&policy, &["bans", "skip"])
        .into_iter()
        .filter_map(|entry| entry.get("crate")?.get_ref().as_str()?.split('@').next())
        .collect();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in tree() {
        versions.entry(package.name).or_default().insert(package.version);
    }
    let doubled: Vec<_> =
        versions.iter().filter(|(name, all)| all.len() > 1 && !skipped.contains(name.as_str())).collect();
    assert!(doubled.is_empty(), "in more than one version, without a reason in deny.toml: {doubled:?}");
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    license: String,
}

/// What Cargo would build, from its own mouth. (`cargo metadata` also lists optional crates that nothing switches on.)
fn tree() -> BTreeSet<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--target", TARGET, "--edges=normal,build,dev"])
        .args(["--prefix=none", "--format={p}\t{l}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("cargo speaks UTF-8");
    // `name v1.2.3 (where) <tab> licence (*)`, the star where it has been listed before.
    let packages: BTreeSet<_> = lines
        .lines()
        .map(|line| {
            let (package, license) = line.split_once('\t').expect("two columns");
            let mut words = package.split(' ');
            Package {
                name: words.next().expect("a name").to_owned(),
                version: words.next().expect("a version").to_owned(),
                license: license.trim_end_matches("(*)").trim().to_owned(),
            }
        })
        .collect();
    assert!(packages.len() > 50, "that is not the whole tree");
    packages
}

/// An SPDX expression, read from the front: `AND` binds closer than `OR`.
struct Licence<'a> {
    words: Vec<String>,
    allowed: &'a BTreeSet<&'a str>,
}

fn words(expression: &str) -> Vec<String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words: Vec<String> = spaced.split_whitespace().map(str::to_owned).collect();
    while let Some(with) = words.iter().position(|word| word == "WITH") {
        let exception = words.remove(with + 1);
        words.remove(with);
        words[with - 1] = format!("{} WITH {exception}", words[with - 1]);
    }
    words.reverse();
    words
}

impl Licence<'_> {
    fn judge(mut self) -> bool {
        let allowed = self.any();
        assert!(self.words.is_empty(), "not an SPDX expression");
        allowed
    }

    fn any(&mut self) -> bool {
        let mut allowed = self.all();
        while self.take("OR") {
            allowed |= self.all();
        }
        allowed
    }

    fn all(&mut self) -> bool {
        let mut allowed = self.one();
        while self.take("AND") {
            allowed &= self.one();
        }
        allowed
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            let allowed = self.any();
            assert!(self.take(")"), "a parenthesis is not closed");
            return allowed;
        }
        self.words.pop().is_some_and(|name| self.allowed.contains(name.as_str()))
    }

    fn take(&mut self, word: &str) -> bool {
        self.words.pop_if(|next| next == word).is_some()
    }
}

fn policy() -> DeTable<'static> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    let text: &'static str = std::fs::read_to_string(path).expect("deny.toml").leak();
    DeTable::parse(text).expect("deny.toml is TOML").into_inner()
}

fn at<'a>(table: &'a DeTable<'static>, path: &[&str]) -> &'a DeValue<'static> {
    let (last, first) = path.split_last().expect("a path");
    let table = first.iter().fold(table, |table, name| table[*name].get_ref().as_table().expect("a table"));
    table[*last].get_ref()
}

fn strings<'a>(table: &'a DeTable<'static>, path: &[&str]) -> Vec<&'a str> {
    let items = at(table, path).as_array().expect("a list");
    items.iter().map(|item| item.get_ref().as_str().expect("a string")).collect()
}

fn tables<'a>(table: &'a DeTable<'static>, path: &[&str]) -> Vec<&'a DeTable<'static>> {
    let items = at(table, path).as_array().expect("a list");
    items.iter().map(|item| item.get_ref().as_table().expect("a table")).collect()
}

#[test]
fn a_licence_expression_is_read_as_spdx_means_it() {
    let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("MIT AND (GPL-3.0 OR ISC)", true),
        ("GPL-3.0 OR MIT AND Zlib", false),
        ("Apache-2.0 WITH LLVM-exception OR Zlib", true),
        ("Apache-2.0", false),
    ] {
        assert_eq!(Licence { words: words(expression), allowed: &allowed }.judge(), expected, "{expression}");
    }
}
