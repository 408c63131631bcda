//! When a server is out: its checks, its ejections, and what happens when all are.

use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;

/// How the servers of an upstream are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub check: Check,
    /// From the beginning of a check to that of the next, give or take a tenth. Default 5 s.
    pub interval: Duration,
    /// For a whole check. Default 2 s.
    pub timeout: Duration,
    /// So many passed in a row bring a server back. Default 2.
    pub rise: u32,
    /// So many failed in a row take a server out. Default 3.
    pub fall: u32,
}

/// What a server is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A connection, with its TLS handshake where the server has TLS.
    Tcp,
    Http {
        asked: Asked,
        /// Never empty. Default 200 alone.
        status: Vec<u16>,
        /// Text that has to stand in the answer's body.
        body: Option<String>,
    },
    /// A handshake, and the 101 that belongs to it.
    WebSocket { asked: Asked },
}

/// The head of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Path, and query if there is one.
    pub target: PathAndQuery,
    /// `None`: the server's own.
    pub host: Option<HeaderValue>,
    pub origin: Option<HeaderValue>,
}

/// When live traffic takes a server out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// In a row. Default 5.
    pub failures: u32,
    /// Of the first ejection; doubled with each further one in a row. Default 2 s.
    pub duration: Duration,
    /// Never less than `duration`. Default 1 min.
    pub max_duration: Duration,
    /// Of the upstream's servers, for failures; one that cannot be reached is passed over in any case. Default 50.
    pub max_ejected_percent: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            failures: 5,
            duration: Duration::from_secs(2),
            max_duration: Duration::from_secs(60),
            max_ejected_percent: 50,
        }
    }
}

/// What happens when every server is out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Panic {
    /// All are asked as if they were up.
    #[default]
    All,
    /// Requests are refused at once.
    Refuse,
}
