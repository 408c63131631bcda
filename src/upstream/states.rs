//! What is known of servers, found by their ids for as long as anything has to do with them: a configuration, a request, a
//! tunnel. A server that is taken out and put in again meanwhile is the one that it was, with everything that it has;
//! whatever its limit is, that holds. The same goes for the queue of an upstream.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::queue::Queue;
use super::server::{ServerId, State};
use crate::types::Name;

/// See the module. One for the whole process.
#[derive(Debug, Default)]
pub struct States {
    servers: Mutex<HashMap<ServerId, Weak<State>>>,
    queues: Mutex<HashMap<Name, Weak<Queue>>>,
}

impl States {
    /// That of a server; a fresh one, if nothing is known of it.
    pub(super) fn of(&self, server: ServerId) -> Arc<State> {
        find(&self.servers, server)
    }

    /// The queue of an upstream.
    pub(super) fn queue(&self, upstream: &Name) -> Arc<Queue> {
        find(&self.queues, upstream.clone())
    }
}

fn find<K: Eq + Hash, T: Default>(all: &Mutex<HashMap<K, Weak<T>>>, key: K) -> Arc<T> {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = all.get(&key).and_then(Weak::upgrade) {
        return known;
    }
    if all.len() == all.capacity() {
        // Those that nothing has to do with any more.
        all.retain(|_, known| known.strong_count() > 0);
    }
    let fresh = Arc::new(T::default());
    all.insert(key, Arc::downgrade(&fresh));
    fresh
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_lasts_as_long_as_somebody_has_to_do_with_it_and_leaves_nothing_behind() {
        let states = States::default();
        let held = states.of(ServerId(1));
        assert!(Arc::ptr_eq(&held, &states.of(ServerId(1))));
        for id in 2..10_000 {
            drop(states.of(ServerId(id)));
        }
        assert!(Arc::ptr_eq(&held, &states.of(ServerId(1))));
        let left = states.servers.lock().unwrap_or_else(PoisonError::into_inner).len();
        assert!(left < 100, "{left}");
    }
}
