//! What is counted of one server, by each worker for itself.

use super::failure::Failure;
use crate::telemetry::metrics::{Counter, cells, kinds};

kinds! {
    /// How a server has failed an attempt.
    FailureKind {
        /// Refused, unreachable, or its name stands for nothing.
        Connect = "connect",
        ConnectTimeout = "connect-timeout",
        Tls = "tls",
        /// It speaks another HTTP than it should.
        Protocol = "protocol",
        /// Closed or reset before an answer.
        Closed = "closed",
        Malformed = "malformed",
        /// No answer in time.
        Timeout = "timeout",
        /// 500, 502, 503 or 504.
        Status = "status",
        /// A 101 that does not agree to its handshake, or that nobody asked for.
        BadUpgrade = "bad-upgrade",
        /// The body of an answer broke off.
        Truncated = "truncated",
        /// The body of an answer did not come on in time.
        BodyTimeout = "body-timeout",
    }
}

impl FailureKind {
    /// `None`: it is not the server's.
    pub(super) fn of(failure: &Failure) -> Option<Self> {
        Some(match failure {
            Failure::NoServer | Failure::Overloaded | Failure::QueueTimeout | Failure::RequestBody(_) => return None,
            Failure::Connect(_) => Self::Connect,
            Failure::ConnectTimeout(_) => Self::ConnectTimeout,
            Failure::Tls(_) => Self::Tls,
            Failure::Protocol(_) => Self::Protocol,
            Failure::Closed(_) => Self::Closed,
            Failure::Malformed(_) => Self::Malformed,
            Failure::Timeout => Self::Timeout,
        })
    }
}

cells! {
    /// One server's.
    pub struct ServerCells {
        /// Attempts: requests and handshakes that were given to it.
        pub requests: Counter,
        pub failures: [Counter; FailureKind::COUNT],
        /// Attempts on a connection that was open already.
        pub reused: Counter,
    }
}

impl ServerCells {
    pub(super) fn note_failed(&self, kind: FailureKind) {
        self.failures[kind as usize].add(1);
    }

    pub(super) fn note_failure(&self, failure: &Failure) {
        if let Some(kind) = FailureKind::of(failure) {
            self.note_failed(kind);
        }
    }
}
