//! Where a configuration has looked for what it says, whether that was there or not; and what it looked like, so that it can
//! be told later whether it is another.
//!
//! A file is told from another by its stat alone: device, inode, size, times. Of a folder its names count.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LookedAt {
    files: BTreeMap<PathBuf, FileMark>,
    folders: BTreeMap<PathBuf, Vec<OsString>>,
}

/// `None`: it is not there, or out of reach.
type FileMark = Option<Stat>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    place: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl LookedAt {
    /// As it is now, unless it was looked at before.
    pub fn note_file(&mut self, path: &Path) {
        self.files.entry(path.to_owned()).or_insert_with(|| stat(path));
    }

    pub fn note_folder(&mut self, path: &Path) {
        self.folders.entry(path.to_owned()).or_insert_with(|| names(path));
    }

    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.keys().map(PathBuf::as_path)
    }

    /// The same places as they are now.
    pub fn again(&self) -> Self {
        Self {
            files: self.files.keys().map(|path| (path.clone(), stat(path))).collect(),
            folders: self.folders.keys().map(|path| (path.clone(), names(path))).collect(),
        }
    }

    /// Has the places of `others` as well, as they were looked at there.
    pub fn add(&mut self, others: &Self) {
        for (path, mark) in &others.files {
            self.files.entry(path.clone()).or_insert(*mark);
        }
        for (path, names) in &others.folders {
            self.folders.entry(path.clone()).or_insert_with(|| names.clone());
        }
    }
}

fn stat(path: &Path) -> FileMark {
    let about = fs::metadata(path).ok()?;
    Some(Stat {
        place: (about.dev(), about.ino()),
        size: about.len(),
        written: (about.mtime(), about.mtime_nsec()),
        changed: (about.ctime(), about.ctime_nsec()),
    })
}

fn names(path: &Path) -> Vec<OsString> {
    // The empty path is the current folder.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let mut names: Vec<_> = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    names.sort_unstable();
    names
}
