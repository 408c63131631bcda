//! What is going on on one downstream connection, noted as it happens, so that its deadlines can be told.
//!
//! hyper has one timer for heads and for keep-alive, and none for a client that does not read. These cells are written
//! by the IO beneath hyper ([`super::Watched`]) and by the requests above it; `connection.rs` reads the one deadline
//! that applies.

use std::cell::Cell;
use std::rc::Rc;
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
    /// The open request waits for a server to have room.
    is_queued: Cell<bool>,
}

impl Activity {
    /// `idle_since`: since when the connection has been ready for requests. `client_stall`: how long a client may not
    /// read, until a route says otherwise.
    pub fn new(version: HttpVersion, idle_since: Instant, client_stall: Duration) -> Self {
        Self {
            version,
            open_requests: Cell::new(0),
            idle_since: Cell::new(idle_since),
            head_since: Cell::new(None),
            stalled_since: Cell::new(None),
            client_stall: Cell::new(client_stall),
            is_queued: Cell::new(false),
        }
    }

    /// A request head is complete.
    pub fn open_request(self: &Rc<Self>) -> OpenRequest {
        self.open_requests.set(self.open_requests.get() + 1);
        self.head_since.set(None);
        OpenRequest(self.clone())
    }

    /// An answer has been handed over whole, or given up.
    fn request_closed(&self) {
        let open = self.open_requests.get().saturating_sub(1);
        self.open_requests.set(open);
        self.is_queued.set(false);
        if open == 0 {
            self.idle_since.set(clock::now());
        }
    }

    /// The route's `client_stall` for the answer that is about to be written.
    pub fn set_client_stall(&self, limit: Duration) {
        self.client_stall.set(limit);
    }

    /// Whether the open request waits for a server to have room: nothing has been done for it yet.
    pub fn set_queued(&self, queued: bool) {
        self.is_queued.set(queued);
    }

    pub(super) fn is_queued(&self) -> bool {
        self.is_queued.get()
    }

    /// Since when no request is open, if none is.
    pub fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    pub(super) fn note_read(&self, bytes: usize) {
        let expects_head = self.version == HttpVersion::Http1 && self.open_requests.get() == 0;
        if bytes > 0 && expects_head && self.head_since.get().is_none() {
            self.head_since.set(Some(clock::now()));
        }
    }

    pub(super) fn note_written(&self) {
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

/// A request, or the tunnel that it became, which is open on its connection for as long as this is held.
#[derive(Debug)]
pub struct OpenRequest(Rc<Activity>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.request_closed();
    }
}
