//! What is going on on one downstream connection, noted as it happens, so that its deadlines can be told.
//!
//! hyper has one timer for heads and for keep-alive, and none for a client that does not read. These cells are written
//! by the IO beneath hyper ([`super::Watched`]) and by the requests above it; `connection.rs` reads the one deadline
//! that applies.

use std::cell::Cell;
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::types::HttpVersion;

/// Which deadline it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// A request head did not arrive whole in time.
    Head,
    /// Nothing to do for too long.
    KeepAlive,
    /// The client does not read what it asked for.
    Stall,
}

/// Notes on one connection.
#[derive(Debug)]
pub struct Activity {
    /// On h2 most bytes between requests belong to no head, so that only `keep_alive` rules there.
    version: HttpVersion,
    open_requests: Cell<u32>,
    /// Since when no request is open.
    idle_since: Cell<Instant>,
    /// First byte of a head that is not complete yet.
    head_since: Cell<Option<Instant>>,
    /// Since when nothing could be written although there was something to write.
    stalled_since: Cell<Option<Instant>>,
    /// `client_stall` of the request seen last.
    client_stall: Cell<Duration>,
    bytes_read: Cell<u64>,
    bytes_written: Cell<u64>,
    requests: Cell<u64>,
}

impl Activity {
    /// `client_stall`: how long a client may not read, until a route says otherwise.
    pub fn new(version: HttpVersion, client_stall: Duration) -> Self {
        Self {
            version,
            open_requests: Cell::new(0),
            idle_since: Cell::new(clock::now()),
            head_since: Cell::new(None),
            stalled_since: Cell::new(None),
            client_stall: Cell::new(client_stall),
            bytes_read: Cell::new(0),
            bytes_written: Cell::new(0),
            requests: Cell::new(0),
        }
    }

    /// A request head is complete.
    pub fn request_opened(&self) {
        self.open_requests.set(self.open_requests.get() + 1);
        self.requests.set(self.requests.get() + 1);
        self.head_since.set(None);
    }

    /// An answer has been handed over whole, or given up.
    pub fn request_closed(&self) {
        let open = self.open_requests.get().saturating_sub(1);
        self.open_requests.set(open);
        if open == 0 {
            self.idle_since.set(clock::now());
        }
    }

    /// The route's `client_stall` for the answer that is about to be written.
    pub fn set_client_stall(&self, limit: Duration) {
        self.client_stall.set(limit);
    }

    pub fn open_requests(&self) -> u32 {
        self.open_requests.get()
    }

    /// Requests whose heads were complete, over the connection's life.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.get()
    }

    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.get()
    }

    pub(super) fn note_read(&self, bytes: usize) {
        self.bytes_read.set(self.bytes_read.get() + bytes as u64);
        let expects_head = self.version == HttpVersion::Http1 && self.open_requests.get() == 0;
        if bytes > 0 && expects_head && self.head_since.get().is_none() {
            self.head_since.set(Some(clock::now()));
        }
    }

    pub(super) fn note_written(&self, bytes: usize) {
        self.bytes_written.set(self.bytes_written.get() + bytes as u64);
        self.stalled_since.set(None);
    }

    /// Everything has left, also what a layer below held back after it had taken it.
    pub(super) fn note_flushed(&self) {
        self.stalled_since.set(None);
    }

    /// On HTTP/1.1 nobody reads while a request is being answered, so that nobody would notice a reset.
    pub(super) fn is_unread(&self) -> bool {
        self.version == HttpVersion::Http1 && self.open_requests.get() > 0
    }

    pub(super) fn note_write_pending(&self) {
        if self.stalled_since.get().is_none() {
            self.stalled_since.set(Some(clock::now()));
        }
    }

    /// The deadline in force, if any: `None` while requests are open and the client reads.
    pub fn deadline(&self, request_head: Duration, keep_alive: Duration) -> Option<(Instant, Expiry)> {
        if let Some(since) = self.stalled_since.get() {
            return Some((since + self.client_stall.get(), Expiry::Stall));
        }
        if self.open_requests.get() > 0 {
            return None;
        }
        match self.head_since.get() {
            Some(since) => Some((since + request_head, Expiry::Head)),
            None => Some((self.idle_since.get() + keep_alive, Expiry::KeepAlive)),
        }
    }
}
