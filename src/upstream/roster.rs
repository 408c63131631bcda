//! The servers that an upstream has at this moment. Control plane writes, workers read.
//!
//! A worker keeps the list that it read last and asks with one load whether there is a newer one; only then does it
//! take the lock. Whoever on the control plane follows the list waits with [`Roster::changed`]. Servers that leave the list keep what they have: nothing here closes anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::server::Server;

/// A list of servers that may be replaced.
#[derive(Debug)]
pub struct Roster {
    version: AtomicU64,
    servers: Mutex<Arc<[Arc<Server>]>>,
    changed: Notify,
}

impl Roster {
    pub fn new(servers: Vec<Arc<Server>>) -> Self {
        Self { version: AtomicU64::new(0), servers: Mutex::new(servers.into()), changed: Notify::new() }
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
        *self.servers.lock().unwrap_or_else(PoisonError::into_inner) = servers.into();
        self.version.fetch_add(1, Ordering::Release);
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
