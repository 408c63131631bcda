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
    /// Its tunnels are closed meanwhile, whatever its upstream says: who is sent away must not come back.
    pub is_emptied: bool,
}

/// What an operator wants of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// That it takes work, if it has any weight.
    Work,
    /// That it drains, whatever its weight.
    Drain,
    /// The same, and its tunnels are closed meanwhile.
    Empty,
}

impl AskedDrains {
    /// From now on this server drains wherever it is met, and its tunnels are closed if it `is_emptied`. Asked again, it goes
    /// on since the first time. Says whether there is room to remember it.
    pub fn ask(&self, upstream: &Name, server: &Arc<Server>, is_emptied: bool) -> bool {
        let mut asked = self.lock();
        if asked.len() >= MOST && !asked.contains_key(&server.id) {
            return false;
        }
        let drain = asked.entry(server.id).or_insert_with(|| AskedDrain {
            id: server.id,
            upstream: upstream.clone(),
            server: server.url.clone(),
            since: clock::now(),
            is_emptied,
        });
        drain.is_emptied = is_emptied;
        let wish = drain.wish();
        // Under the lock, so that of two who say something different the last one counts.
        server.state.set_wish(wish);
        true
    }

    /// It does not drain by name any more, wherever it is. Says whether it did.
    pub fn forget(&self, id: ServerId) -> bool {
        self.lock().remove(&id).is_some()
    }

    /// What there is of these servers stands as it was asked to.
    pub fn apply(&self, servers: &[Arc<Server>]) {
        let asked = self.lock();
        let wish = |id| asked.get(&id).map_or(Wish::Work, AskedDrain::wish);
        servers.iter().for_each(|server| server.state.set_wish(wish(server.id)));
    }

    /// What is asked of this one.
    pub(super) fn wish(&self, id: ServerId) -> Wish {
        self.lock().get(&id).map_or(Wish::Work, AskedDrain::wish)
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

impl AskedDrain {
    fn wish(&self) -> Wish {
        if self.is_emptied { Wish::Empty } else { Wish::Drain }
    }
}
