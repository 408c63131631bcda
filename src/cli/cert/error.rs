//! Why no certificate was made: one line for the operator, and the exit code that goes with it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fmt, io};

/// Why no certificate was made. One line each.
#[derive(Debug)]
pub enum Error {
    /// The operator asked for a name that no certificate may carry.
    Name {
        name: String,
        why: &'static str,
    },
    /// The folder holds something that must not be used or overwritten.
    Files {
        path: PathBuf,
        why: String,
    },
    Io {
        path: PathBuf,
        source: io::Error,
    },
    Sign(rcgen::Error),
}

impl Error {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Name { .. } => ExitCode::from(2),
            Self::Files { .. } | Self::Io { .. } | Self::Sign(_) => ExitCode::from(1),
        }
    }

    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(super) fn files(path: &Path, why: impl Into<String>) -> Self {
        Self::Files { path: path.to_owned(), why: why.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { name, why } => write!(f, "{name:?} cannot stand in a certificate: {why}"),
            Self::Files { path, why } => write!(f, "{}: {why}", path.display()),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Sign(error) => write!(f, "the certificate could not be made: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Name { .. } | Self::Files { .. } => None,
            Self::Io { source, .. } => Some(source),
            Self::Sign(error) => Some(error),
        }
    }
}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Self::Sign(error)
    }
}
