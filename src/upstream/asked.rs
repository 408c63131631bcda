//! Servers that drain because somebody has asked for it by name, whatever their weight.
//!
//! Kept beside the servers, so that it outlives them: one that has left its upstream, or that its name stands for no more,
//! drains again from the moment on that it is back. Locked when an operator says something and when servers come, never
//! on a worker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::server::{Server, ServerId};
use crate::clock::{self, Instant};
use crate::types::Name;

/// Servers that are asked to drain. Nobody names more than this.
const MOST: usize = 10_000;

/// All of them.
#[derive(Debug, Default)]
pub struct AskedDrains {
    asked: Mutex<HashMap<ServerId, AskedDrain>>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct AskedDrain {
    pub id: ServerId,
    pub upstream: Name,
    pub server: Name,
    pub since: Instant,
}

impl AskedDrains {
    /// From now on this server drains wherever it is met. Asked again, it goes on since the first time. Says whether there
    /// is room to remember it.
    pub fn ask(&self, upstream: &Name, server: &Arc<Server>) -> bool {
        let mut asked = self.lock();
        if asked.len() >= MOST && !asked.contains_key(&server.id) {
            return false;
        }
        asked.entry(server.id).or_insert_with(|| AskedDrain {
            id: server.id,
            upstream: upstream.clone(),
            server: server.url.clone(),
            since: clock::now(),
        });
        // Under the lock, so that of two who say something different the last one counts.
        server.state.set_drains(true);
        true
    }

    /// It does not drain by name any more, wherever it is. Says whether it did.
    pub fn forget(&self, id: ServerId) -> bool {
        self.lock().remove(&id).is_some()
    }

    /// What there is of these servers stands as it was asked to.
    pub fn apply(&self, servers: &[Arc<Server>]) {
        let asked = self.lock();
        servers.iter().for_each(|server| server.state.set_drains(asked.contains_key(&server.id)));
    }

    /// Whether this one is asked to drain.
    pub(super) fn has(&self, id: ServerId) -> bool {
        self.lock().contains_key(&id)
    }

    pub fn get(&self, id: ServerId) -> Option<AskedDrain> {
        self.lock().get(&id).cloned()
    }

    /// In no order.
    pub fn all(&self) -> Vec<AskedDrain> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServerId, AskedDrain>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
