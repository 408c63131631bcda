//! What can go wrong between the gateway and a server.

use std::{fmt, io};

use rustix::io::Errno;

use crate::types::RequestBodyFault;

/// Why a server gave no answer that could be passed on.
#[derive(Debug)]
pub enum Failure {
    /// No server may take work: all of them drain, or are out and `panic` is `refuse`.
    NoServer,
    /// Refused, unreachable, or the name does not resolve.
    Connect(io::Error),
    ConnectTimeout,
    /// The TLS handshake failed; the text names the cause.
    Tls(String),
    /// Closed or reset before the head of an answer.
    Closed(hyper::Error),
    /// The answer is not HTTP, or its framing cannot be trusted.
    Malformed(String),
    /// The request's body could not be read from the client.
    RequestBody(RequestBodyFault),
    /// No head of an answer within the route's `response` timeout.
    Timeout,
}

impl Failure {
    /// Sorts hyper's error into ours.
    pub(super) fn from_hyper(error: hyper::Error) -> Self {
        if let Some(fault) = find::<RequestBodyFault>(&error) {
            return Self::RequestBody(*fault);
        }
        if error.is_parse() {
            return Self::Malformed(chain(&error));
        }
        Self::Closed(error)
    }

    /// Whether the next server may be asked although this one failed before anything was sent.
    pub(super) fn is_connect(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout | Self::Tls(_))
    }

    /// Whether it may be held against the server: not what this machine lacks, nor what the client did.
    pub(super) fn is_the_servers(&self) -> bool {
        match self {
            Self::NoServer | Self::RequestBody(_) => false,
            Self::Connect(error) => !matches!(
                Errno::from_io_error(error),
                Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::ADDRNOTAVAIL)
            ),
            Self::ConnectTimeout | Self::Tls(_) | Self::Closed(_) | Self::Malformed(_) | Self::Timeout => true,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer => out.write_str("no server takes work: they are down, ejected or draining"),
            Self::Connect(error) => write!(out, "cannot connect: {error}"),
            Self::ConnectTimeout => out.write_str("cannot connect: timed out"),
            Self::Tls(cause) => write!(out, "TLS handshake failed: {cause}"),
            Self::Closed(error) => write!(out, "closed before an answer: {}", chain(error)),
            Self::Malformed(cause) => write!(out, "malformed answer: {cause}"),
            Self::RequestBody(fault) => fault.fmt(out),
            Self::Timeout => out.write_str("no answer in time"),
        }
    }
}

impl std::error::Error for Failure {}

fn find<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The error and its sources in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
