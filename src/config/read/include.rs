//! Files: reading them within bounds, and `server.include`.
//!
//! Patterns are relative to the main file and have `*` and `?` in the last part of the path only. Included files cannot
//! include further ones, so the only loop is a file that includes the main file; it is refused by comparing canonical
//! paths. The files of one pattern are read in the order of their names, and each file once. What
//! matches and cannot be read (a link that leads nowhere, a folder) is an error: its routes would be missed in silence.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::Draft;
use crate::config::looked_at::or_here;
use crate::config::report::{Located, Report, Source};

/// The largest file that is read, in bytes.
const FILE_SIZE: u64 = 16 << 20;
/// The most files that one configuration includes.
const FILES: usize = 4096;

/// The text of a file, or why there is none.
pub fn load(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    // Looked at before it is opened: that alone may wait for ever, and so may reading.
    let kind = fs::metadata(path).map_err(|error| error.to_string())?.file_type();
    if kind.is_dir() {
        return Err("it is a directory".into());
    }
    if kind.is_fifo() && !is_handed_over(path) {
        return Err("it is a pipe, and opening it would wait for somebody who writes".into());
    }
    if !kind.is_file() && !is_handed_over(path) {
        return Err("it is no file but a device or a socket".into());
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(FILE_SIZE + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_SIZE {
        return Err(format!("it is larger than {} MiB", FILE_SIZE >> 20));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        format!("line {line} is not UTF-8")
    })
}

/// Where relative paths in a file start; in one that was handed over, at the current folder.
pub fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|_| !is_handed_over(path)).map(Path::to_owned).unwrap_or_default()
}

/// `/dev/stdin`, or what a shell makes of `<(…)`: open already, so that nothing waits but for what is being written.
pub fn is_handed_over(path: &Path) -> bool {
    path == Path::new("/dev/stdin") || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

/// Reads every file that the main file includes.
pub fn read_all(report: &mut Report, draft: &mut Draft, main: &Path) {
    let base = folder_of(main);
    let main = fs::canonicalize(main).ok();
    let mut done: Vec<PathBuf> = Vec::new();
    for pattern in std::mem::take(&mut draft.include) {
        for path in matches(report, draft, &base, &pattern) {
            let canonical = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
            if Some(&canonical) == main.as_ref() {
                let message = format!("`{}` includes the file that it stands in", pattern.value);
                report
                    .error("include-loop", &pattern.spot, message)
                    .help("keep included files in a folder of their own");
                continue;
            }
            if done.contains(&canonical) {
                continue;
            }
            if done.len() == FILES {
                report.error("too-many-files", &pattern.spot, format!("more than {FILES} included files"));
                return;
            }
            done.push(canonical);
            report.note_file(&path);
            match load(&path) {
                Ok(text) => super::file(report, draft, Source { path, text }, Some(&pattern.spot)),
                Err(why) => {
                    report.error("unreadable", &pattern.spot, format!("cannot read {}: {why}", path.display()));
                    draft.incomplete = true;
                }
            }
        }
    }
}

/// The files that a pattern stands for, in order.
fn matches(report: &mut Report, draft: &mut Draft, base: &Path, pattern: &Located<String>) -> Vec<PathBuf> {
    let (folder, name) = pattern.rsplit_once('/').map_or(("", &***pattern), |(folder, name)| match folder {
        "" => ("/", name),
        folder => (folder, name),
    });
    if name.is_empty() || pattern.contains('\0') {
        report.error("bad-path", &pattern.spot, "this names no file").help("write \"conf.d/*.toml\"");
        return Vec::new();
    }
    if folder.contains(['*', '?']) {
        report
            .error("bad-path", &pattern.spot, "`*` and `?` may stand in the last part of the path only")
            .help("name each folder in an entry of its own");
        return Vec::new();
    }
    if !name.contains(['*', '?']) {
        return vec![base.join(&**pattern)];
    }
    let folder = base.join(folder);
    report.note_folder(&folder);
    let mut found: Vec<PathBuf> = match fs::read_dir(or_here(&folder)) {
        Ok(entries) => entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(|file| glob(name, file)))
            .map(|entry| folder.join(entry.file_name()))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            report.error("unreadable", &pattern.spot, format!("cannot list {}: {error}", folder.display()));
            draft.incomplete = true;
            return Vec::new();
        }
    };
    found.sort();
    if found.is_empty() {
        report.warning("includes-nothing", &pattern.spot, format!("no file matches `{}`", pattern.value));
    }
    found
}

/// `*` is any run of characters, `?` any one; hidden files only match a pattern that begins with a dot.
fn glob(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last `*` stood and how far it had reached: falling back to it keeps the work below length × length.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, reached)) => {
                    star = Some((at, reached + 1));
                    p = at + 1;
                    n = reached + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, want) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".a.toml", false),
            (".*", ".a", true),
            ("*.toml", "a.toml~", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b", "xxaxxbb", true),
            ("*a*b", "xxaxxbc", false),
            ("*", "", true),
        ] {
            assert_eq!(glob(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        assert!(!glob(&"*a".repeat(100), &"a".repeat(99)));
    }
}
