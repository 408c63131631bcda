//! What can go wrong between the gateway and a server.

use std::{fmt, io};

use rustix::io::Errno;

use super::race::Unreachable;
use super::whereabouts::Nowhere;
use crate::types::RequestBodyFault;

/// Why a server gave no answer that could be passed on.
#[derive(Debug)]
pub enum Failure {
    /// No server may take work: all of them drain, or are out and `panic` is `refuse`.
    NoServer,
    /// Every server has as much as it may, and so has the queue.
    Overloaded,
    /// No place at a server within the queue's timeout.
    QueueTimeout,
    /// Refused, unreachable, or the name does not resolve.
    Connect(io::Error),
    /// Not connected in time; the text says which addresses said nothing.
    ConnectTimeout(String),
    /// The TLS handshake failed; the text names the cause.
    Tls(String),
    /// The server does not speak what `protocols` asks for.
    Protocol(String),
    /// Closed or reset before the head of an answer.
    Closed(String),
    /// The answer is not HTTP, or its framing cannot be trusted.
    Malformed(String),
    /// The request's body could not be read from the client.
    RequestBody(RequestBodyFault),
    /// No head of an answer within the route's `response` timeout.
    Timeout,
}

impl Failure {
    /// No address of a server could be connected to.
    pub(super) fn from_race(unreachable: Unreachable) -> Self {
        if unreachable.timed_out() {
            return Self::ConnectTimeout(unreachable.to_string());
        }
        Self::Connect(io::Error::other(unreachable))
    }

    /// A name stands for nothing.
    pub(super) fn nowhere(why: Nowhere) -> Self {
        Self::Connect(io::Error::new(io::ErrorKind::NotFound, why))
    }

    /// A name that nobody has found out about yet.
    pub(super) fn unresolved() -> Self {
        Self::nowhere(Nowhere("its name has not been resolved in time".into()))
    }

    /// Sorts hyper's error into ours.
    pub(super) fn from_hyper(error: hyper::Error) -> Self {
        if let Some(fault) = find::<RequestBodyFault>(&error) {
            return Self::RequestBody(*fault);
        }
        if error.is_parse() {
            return Self::Malformed(chain(&error));
        }
        Self::Closed(chain(&error))
    }

    /// Why a request's body could not be read on.
    pub(super) fn from_body(error: &(dyn std::error::Error + 'static)) -> Self {
        find::<RequestBodyFault>(error).map_or_else(|| Self::Closed(chain(error)), |fault| Self::RequestBody(*fault))
    }

    /// The same, for others whom it concerns.
    pub(super) fn copy(&self) -> Self {
        match self {
            Self::Connect(error) => Self::Connect(copy(error)),
            Self::ConnectTimeout(what) => Self::ConnectTimeout(what.clone()),
            Self::Tls(cause) => Self::Tls(cause.clone()),
            Self::Protocol(cause) => Self::Protocol(cause.clone()),
            Self::Closed(cause) => Self::Closed(cause.clone()),
            Self::Malformed(cause) => Self::Malformed(cause.clone()),
            Self::RequestBody(fault) => Self::RequestBody(*fault),
            Self::Timeout => Self::Timeout,
            Self::NoServer => Self::NoServer,
            Self::Overloaded => Self::Overloaded,
            Self::QueueTimeout => Self::QueueTimeout,
        }
    }

    /// Whether the next server may be asked although this one failed before anything was sent.
    pub(super) fn is_connect(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout(_) | Self::Tls(_) | Self::Protocol(_))
    }

    /// Whether an exchange that ended so is held against the server. A request that cannot be written is the client's.
    pub(super) fn is_a_bad_answer(&self) -> bool {
        matches!(self, Self::Closed(_) | Self::Malformed(_) | Self::Timeout)
    }

    /// Whether it may be held against the server: not what this machine lacks, nor what the client did.
    pub(super) fn is_the_servers(&self) -> bool {
        match self {
            Self::NoServer | Self::Overloaded | Self::QueueTimeout | Self::RequestBody(_) => false,
            Self::Connect(error) => match error.get_ref() {
                Some(inner) if inner.is::<Nowhere>() => false,
                Some(inner) => inner.downcast_ref().is_none_or(Unreachable::is_the_servers),
                None => !is_ours(error),
            },
            Self::ConnectTimeout(_)
            | Self::Tls(_)
            | Self::Protocol(_)
            | Self::Closed(_)
            | Self::Malformed(_)
            | Self::Timeout => true,
        }
    }
}

/// What it says, and whose it is, stay.
fn copy(error: &io::Error) -> io::Error {
    let inner = error.get_ref();
    if let Some(nowhere) = inner.and_then(|inner| inner.downcast_ref::<Nowhere>()) {
        return io::Error::new(error.kind(), nowhere.clone());
    }
    if let Some(unreachable) = inner.and_then(|inner| inner.downcast_ref::<Unreachable>()) {
        return io::Error::new(error.kind(), unreachable.copy());
    }
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Whether a connection failed because of what this machine lacks.
pub(super) fn is_ours(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
        || matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer => out.write_str("no server takes work: they are down, ejected or draining"),
            Self::Overloaded => out.write_str("every server has its max_connections, and the queue is full"),
            Self::QueueTimeout => out.write_str("no place at a server within the queue's timeout"),
            Self::Connect(error) => write!(out, "cannot connect: {error}"),
            Self::ConnectTimeout(what) => write!(out, "cannot connect in time: {what}"),
            Self::Tls(cause) => write!(out, "TLS handshake failed: {cause}"),
            Self::Protocol(cause) => out.write_str(cause),
            Self::Closed(cause) => write!(out, "closed before an answer: {cause}"),
            Self::Malformed(cause) => write!(out, "malformed answer: {cause}"),
            Self::RequestBody(fault) => fault.fmt(out),
            Self::Timeout => out.write_str("no answer in time"),
        }
    }
}

impl std::error::Error for Failure {}

/// The first cause of a kind.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;
    use crate::upstream::source::{Addresses, Sources};

    async fn connecting(from: Vec<std::net::IpAddr>) -> Failure {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let nobody = listener.local_addr().expect("an address");
        drop(listener);
        let addresses = Addresses::new([nobody], &Sources::new(from), &std::sync::Arc::default());
        let deadline = clock::now() + Duration::from_secs(10);
        Failure::from_race(addresses.connect(deadline).await.expect_err("nobody listens"))
    }

    #[tokio::test]
    async fn a_server_is_blamed_for_refusing_and_neither_for_a_lack_of_ports_nor_for_its_name() {
        let refused = connecting(vec![]).await;
        // From the block for documentation (RFC 5737): no machine has it.
        let no_source = connecting(vec![[203, 0, 113, 77].into()]).await;
        for (failure, is_the_servers) in [
            (&refused, true),
            (&no_source, false),
            (&Failure::nowhere(Nowhere("no such name".into())), false),
            (&Failure::unresolved(), false),
            (&Failure::Connect(io::Error::from_raw_os_error(Errno::MFILE.raw_os_error())), false),
        ] {
            assert_eq!(failure.is_the_servers(), is_the_servers, "{failure}");
            assert_eq!(failure.copy().is_the_servers(), is_the_servers, "a copy of: {failure}");
            assert_eq!(failure.copy().to_string(), failure.to_string());
        }
    }

    #[test]
    fn a_request_that_cannot_be_written_is_not_held_against_the_server_and_no_answer_is() {
        assert!(!Failure::Protocol("the Host cannot be an :authority".to_owned()).is_a_bad_answer());
        assert!(!Failure::RequestBody(RequestBodyFault::TooLarge).is_a_bad_answer());
        assert!(Failure::Timeout.is_a_bad_answer() && Failure::Closed(String::new()).is_a_bad_answer());
    }
}
