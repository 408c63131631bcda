//! The servers that an upstream has at this moment. Control plane writes, workers read.
//!
//! A worker keeps the list that it read last and asks with one load whether there is a newer one; only then does it
//! take the lock. Whoever on the control plane follows the list waits with [`Roster::changed`]. Servers that leave the
//! list keep what they have: nothing here closes anything. Servers that come into it give their places to those who wait
//! in the upstream's queue, and a new list calls these.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::queue::Queue;
use super::server::Server;

/// A list of servers that may be replaced.
#[derive(Debug)]
pub struct Roster {
    version: AtomicU64,
    servers: Mutex<Arc<[Arc<Server>]>>,
    queue: Arc<Queue>,
    changed: Notify,
}

impl Roster {
    /// `queue`: that of the upstream.
    pub fn new(servers: Vec<Arc<Server>>, queue: Arc<Queue>) -> Self {
        servers.iter().for_each(|server| server.state.join(&queue));
        Self { version: AtomicU64::new(0), servers: Mutex::new(servers.into()), queue, changed: Notify::new() }
    }

    /// Who waits for one of them.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Changes with every replacement.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// With the version that it is at least of.
    pub fn read(&self) -> (u64, Arc<[Arc<Server>]>) {
        // First the version: a list that is newer than its version is only read once more.
        let version = self.version();
        (version, self.servers.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub fn replace(&self, servers: Vec<Arc<Server>>) {
        servers.iter().for_each(|server| server.state.join(&self.queue));
        *self.servers.lock().unwrap_or_else(PoisonError::into_inner) = servers.into();
        self.version.fetch_add(1, Ordering::Release);
        self.queue.call_all();
        self.changed.notify_waiters();
    }

    /// Waits until there is another list than that of `version`.
    pub async fn changed(&self, version: u64) {
        loop {
            // Registered by its making, so that no change slips through between the look and the wait.
            let changed = self.changed.notified();
            if self.version() != version {
                return;
            }
            changed.await;
        }
    }
}
