//! Words that every floor shares: small values that would be mixed up if they were bare strings and numbers.
//!
//! Nothing here does IO, reads configuration or decides anything.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What Cargo may be asked for, and whether this build was.
pub const FEATURES: [(&str, bool); 2] = [("demo", cfg!(feature = "demo")), ("otel", cfg!(feature = "otel"))];

/// The name of a listener, route or upstream, as it stands in configuration, logs and metrics.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", &*self.0)
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// Where a stream's other end is: the socket's peer, or the one that a believed PROXY header names; before any field of a
/// request is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// A unix socket; peers have no address worth naming.
    Unix,
}

impl Peer {
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            // A v4 client of a dual-stack socket is a v4 client.
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(out, "{}", SocketAddr::new(address.ip().to_canonical(), address.port())),
            Self::Unix => out.write_str("unix"),
        }
    }
}

/// A connection of a client's: who it is, and what it connected to. As the socket says it, or as a PROXY header does that
/// is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    pub peer: Peer,
    /// `None` on a unix socket.
    pub local: Option<Local>,
}

/// An address of ours, smaller than a `SocketAddr`: one is kept for each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    pub ip: IpAddr,
    pub port: u16,
}

impl From<SocketAddr> for Local {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip(), port: address.port() }
    }
}

/// The scheme under which the client reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The version of HTTP spoken on a downstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    Http1,
    Http2,
}

impl HttpVersion {
    /// As logs and metrics write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Http2 => "h2",
        }
    }
}

/// What the client did wrong while its request body was being sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBodyFault {
    /// Went away or broke the framing.
    Broken,
    /// Silent for too long.
    Timeout,
    TooLarge,
}

impl fmt::Display for RequestBodyFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Broken => "the request body broke off",
            Self::Timeout => "the request body stalled",
            Self::TooLarge => "the request body is too large",
        })
    }
}

impl std::error::Error for RequestBodyFault {}

/// A place in a trace: its id, the id of one span, that span's parent where it is ours, and flags (W3C Trace Context).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace: [u8; 16],
    pub span: [u8; 8],
    pub parent: Option<[u8; 8]>,
    pub flags: u8,
    /// The span is the gateway's.
    pub is_own: bool,
}
