//! Where a configuration stands, so that it can be read again.

use std::path::{Path, PathBuf};

use super::model::Config;
use super::report::Report;
use super::{file, read};

/// A configuration's text: in a file (with what that includes), or in our hands.
#[derive(Clone, Debug)]
pub enum Document {
    File(PathBuf),
    /// From a command line; `name` poses as the path of a file. Relative paths in it start at the current folder.
    Text {
        name: String,
        text: String,
    },
}

impl Document {
    /// Reads it as it is now. No configuration where the report has errors.
    pub fn read(&self) -> (Option<Config>, Report) {
        let (config, mut report) = match self {
            Self::File(path) => read::read(path),
            // Joined to nothing, relative paths stay as they were written.
            Self::Text { name, text } => read::read_text(name, text, Path::new("")),
        };
        if config.is_none() {
            file::look_for_named(&mut report);
        }
        (config, report)
    }

    /// Whether a second reading can say anything else than the first: what came through a pipe is gone.
    pub fn can_be_read_again(&self) -> bool {
        match self {
            Self::File(path) => !read::is_handed_over(path),
            Self::Text { .. } => true,
        }
    }
}
