//! The table of rows, and the promise that each has a test; halves that cannot be tested yet wait by name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Rows of which a later release brings a part, each with what that waits for.
const WAITING: &[(&str, &str)] =
    &[("TLS-07", "an identity header: the half that looks for it waits until there is one")];

/// Row id and area, as `rows.txt` lists them.
fn rows() -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for line in include_str!("rows.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let cells: Vec<_> = line.splitn(3, '\t').collect();
        assert_eq!(cells.len(), 3, "id, area, words: {line:?}");
        assert!(rows.insert(cells[0].to_owned(), cells[1].to_owned()).is_none(), "twice: {line:?}");
    }
    rows
}

/// The names of the tests in this folder.
fn tests() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("this folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source file");
        let mut is_test = false;
        for line in text.lines() {
            is_test |= line.starts_with("#[tokio::test") || line.starts_with("#[test]");
            if let Some(name) = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn ")) {
                if is_test {
                    names.insert(name.split('(').next().unwrap_or_default().to_owned());
                }
                is_test = false;
            }
        }
    }
    names
}

/// `wsh_01` of `wsh_01_a_canonical…`, as `WSH-01`.
fn row_of(test: &str) -> Option<String> {
    let mut words = test.split('_');
    let (area, number) = (words.next()?, words.next()?);
    number.chars().all(|digit| digit.is_ascii_digit()).then(|| format!("{}-{number}", area.to_ascii_uppercase()))
}

#[test]
fn every_row_of_the_table_has_a_test() {
    let rows = rows();
    let tested: BTreeSet<_> = tests().iter().filter_map(|test| row_of(test)).collect();
    let missing: Vec<_> = rows.keys().filter(|id| !tested.contains(*id)).collect();
    assert!(missing.is_empty(), "rows without a test: {missing:?}");
    let unknown: Vec<_> = tested.iter().filter(|id| !rows.contains_key(*id)).collect();
    assert!(unknown.is_empty(), "tests of rows that are not in the table: {unknown:?}");
}

#[test]
fn what_waits_is_in_the_table() {
    let rows = rows();
    assert!(WAITING.iter().all(|(id, reason)| rows.contains_key(*id) && !reason.is_empty()));
}
