//! What one request has met on its way to a server: for its line in the log, and for who watches its client.

use std::cell::Cell;
use std::time::Duration;

use crate::clock::{self, Instant};

/// The way of one request.
#[derive(Debug, Default)]
pub struct Trail {
    retries: Cell<u32>,
    queued: Cell<Duration>,
    is_waiting: Cell<bool>,
}

impl Trail {
    /// Attempts after the first one.
    pub fn retries(&self) -> u32 {
        self.retries.get()
    }

    /// How long it has waited for a place at a server.
    pub fn queued(&self) -> Duration {
        self.queued.get()
    }

    /// Whether it waits for one now: nothing of it has gone upstream, and nobody reads its body.
    pub fn is_waiting(&self) -> bool {
        self.is_waiting.get()
    }

    pub(super) fn note_retry(&self) {
        self.retries.set(self.retries.get().saturating_add(1));
    }

    /// It waits for as long as this is held.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.is_waiting.set(true);
        Waiting { trail: self, since: clock::now() }
    }
}

pub(super) struct Waiting<'a> {
    trail: &'a Trail,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = clock::now().saturating_duration_since(self.since);
        self.trail.queued.set(self.trail.queued.get() + waited);
        self.trail.is_waiting.set(false);
    }
}
