//! Where a socket listens, and for whom.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Who may connect to a unix socket, by the mode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Owner and group: a `[[listener]]`.
    Group,
    /// The owner alone: `[admin]`.
    Owner,
}

impl Access {
    pub(super) fn mode(self) -> u32 {
        match self {
            Self::Group => 0o660,
            Self::Owner => 0o600,
        }
    }
}

/// Where a socket really listens: port 0 has become a number, a name an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundTo {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for BoundTo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(out, "{address}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}
