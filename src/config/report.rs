//! Everything that is wrong with a configuration, gathered before anything is said.
//!
//! Owns the list of problems and the text of the files they point into. Readers and stages add problems through
//! [`Report::error`] and [`Report::warning`] and go on, so that one run of `check` names them all.
//! Rendering is in `render.rs`.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use super::looked_at::LookedAt;

/// A place in a configuration file: which file, and which bytes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spot {
    /// Index into [`Report::sources`].
    pub file: usize,
    /// Byte range in that file's text.
    pub range: Range<usize>,
}

/// A value together with the place it was read from. A default stands at the place of the table it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    pub value: T,
    pub spot: Spot,
}

impl<T> Located<T> {
    pub fn new(value: T, spot: Spot) -> Self {
        Self { value, spot }
    }
}

impl<T> std::ops::Deref for Located<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// A file that was read; command-line input poses as one.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Warning,
    Error,
}

/// One thing that is wrong: where, what, and what would be right.
#[derive(Clone, Debug)]
pub struct Problem {
    pub severity: Severity,
    /// Stable kebab-case name, for example `unknown-key`.
    pub code: &'static str,
    /// `None` for problems of the file as a whole (unreadable, for example).
    pub spot: Option<Spot>,
    /// What is wrong, one line.
    pub message: String,
    /// What would be right, one line.
    pub help: Option<String>,
    /// A second place that belongs to the problem ("first defined here"), with its words.
    pub also: Option<(Spot, String)>,
}

impl Problem {
    pub fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = Some(text.into());
        self
    }

    pub fn also(&mut self, spot: &Spot, text: impl Into<String>) -> &mut Self {
        self.also = Some((spot.clone(), text.into()));
        self
    }
}

/// All problems found so far, and the files they point into.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub sources: Vec<Source>,
    pub problems: Vec<Problem>,
    /// Files that the configuration names, and that have to be there.
    pub named: Vec<Located<PathBuf>>,
    /// What was read of other files, in that order.
    read: Vec<Digest>,
    looked_at: LookedAt,
}

/// Tells one text from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Report {
    /// Adds an error; the configuration will not be used.
    pub fn error(&mut self, code: &'static str, spot: &Spot, message: impl fmt::Display) -> &mut Problem {
        self.add(Severity::Error, code, Some(spot.clone()), message.to_string())
    }

    /// Adds a warning; the configuration will be used all the same.
    pub fn warning(&mut self, code: &'static str, spot: &Spot, message: impl fmt::Display) -> &mut Problem {
        self.add(Severity::Warning, code, Some(spot.clone()), message.to_string())
    }

    /// Adds an error that belongs to no place in a file.
    pub fn error_anywhere(&mut self, code: &'static str, message: impl fmt::Display) -> &mut Problem {
        self.add(Severity::Error, code, None, message.to_string())
    }

    /// `portcullis.toml:7:3`: file, line and column of a place. `None` where it is in no file.
    pub fn place(&self, spot: &Spot) -> Option<String> {
        let source = self.sources.get(spot.file)?;
        let before = source.text.get(..source.text.floor_char_boundary(spot.range.start))?;
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        let column = 1 + before.rsplit('\n').next().map_or(0, |line| line.chars().count());
        Some(format!("{}:{line}:{column}", source.path.display()))
    }

    /// A file is about to be read. Before that: what happens to it meanwhile is to be seen.
    pub fn note_file(&mut self, path: &Path) {
        self.looked_at.note_file(path);
    }

    /// Files are about to be looked for in this folder.
    pub fn note_folder(&mut self, path: &Path) {
        self.looked_at.note_folder(path);
    }

    /// Everything that has been looked at, the configuration's own files included.
    pub fn looked_at(&self) -> LookedAt {
        self.looked_at.clone()
    }

    /// A file that the configuration names holds this.
    pub fn note_read(&mut self, text: &[u8]) {
        let mut digest = [0; 32];
        digest.copy_from_slice(digest::digest(&digest::SHA256, text).as_ref());
        self.read.push(Digest(digest));
    }

    /// What has been read since there were `before` files: the same where each of them holds the same.
    pub fn read_since(&self, before: usize) -> &[Digest] {
        self.read.get(before..).unwrap_or_default()
    }

    pub fn files_read(&self) -> usize {
        self.read.len()
    }

    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    fn add(&mut self, severity: Severity, code: &'static str, spot: Option<Spot>, message: String) -> &mut Problem {
        self.problems.push(Problem { severity, code, spot, message, help: None, also: None });
        self.problems.last_mut().expect("a problem was pushed just now")
    }
}
