//! How busy a worker is, as the accept loop sees it.
//!
//! A plain count of connections is not enough: a TLS handshake costs a worker as much as dozens of messages, so that
//! a burst of new connections would pile up on the worker that happened to have the fewest old ones. A connection
//! therefore weighs more until its handshake is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::telemetry::metrics::{Closed, Counter, ListenerBook};

/// What a connection weighs on top of its 1 while its handshake (TLS, or the first request on a clear listener) is
/// not over. A full TLS handshake costs about as much as 30 small messages; an ordinary connection has few in flight.
const HANDSHAKE_WEIGHT: usize = 8;

/// The load of one worker: shared between the accept loop, which adds, and the connections, which take away.
#[derive(Debug, Default)]
pub struct WorkerLoad {
    /// Low-level truth: connections plus handshakes times their weight.
    weight: AtomicUsize,
    connections: AtomicUsize,
    /// Connections that were ever given to the worker. The accept loop alone writes it.
    given: Counter,
}

impl WorkerLoad {
    /// What the accept loop compares.
    pub fn weight(&self) -> usize {
        self.weight.load(Ordering::Relaxed)
    }

    /// Connections that live on the worker, those in their handshake included.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections that were ever given to the worker.
    pub fn given(&self) -> u64 {
        self.given.get()
    }
}

/// One connection's share in a worker's load, and in what is counted of its listener; taken away on drop.
#[derive(Debug)]
pub struct LoadGuard {
    load: Arc<WorkerLoad>,
    book: Arc<ListenerBook>,
    in_handshake: bool,
    closed: Closed,
}

impl LoadGuard {
    /// A connection whose handshake is still to come. For the accept loop.
    pub fn new(load: &Arc<WorkerLoad>, book: &Arc<ListenerBook>) -> Self {
        load.weight.fetch_add(1 + HANDSHAKE_WEIGHT, Ordering::Relaxed);
        load.connections.fetch_add(1, Ordering::Relaxed);
        load.given.add(1);
        book.connections.note_accepted();
        let (load, book) = (Arc::clone(load), Arc::clone(book));
        Self { load, book, in_handshake: true, closed: Closed::Drained }
    }

    /// The connection weighs like any other from now on. Calling it again changes nothing.
    pub fn handshake_done(&mut self) {
        if std::mem::take(&mut self.in_handshake) {
            self.load.weight.fetch_sub(HANDSHAKE_WEIGHT, Ordering::Relaxed);
        }
    }

    /// What the connection's end is to be counted as. Until something is said: the gateway has taken it down.
    pub fn ends_as(&mut self, closed: Closed) {
        self.closed = closed;
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.handshake_done();
        self.load.weight.fetch_sub(1, Ordering::Relaxed);
        self.load.connections.fetch_sub(1, Ordering::Relaxed);
        self.book.connections.note_closed(self.closed);
    }
}
