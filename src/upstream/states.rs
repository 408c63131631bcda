//! What is known of servers, found by their ids for as long as anything has to do with them: a configuration, a request, a
//! tunnel. A server that is taken out and put in again meanwhile is the one that it was, with everything that it has;
//! whatever its limit is, that holds. The same goes for the queue of an upstream.

use std::sync::Arc;

use super::queue::Queue;
use super::server::{ServerId, State};
use crate::types::Name;
use crate::weak_map::WeakMap;

/// See the module. One for the whole process.
#[derive(Debug, Default)]
pub struct States {
    servers: WeakMap<ServerId, State>,
    queues: WeakMap<Name, Queue>,
}

impl States {
    /// That of a server; a fresh one, if nothing is known of it.
    pub(super) fn of(&self, server: ServerId) -> Arc<State> {
        self.servers.find(&server, State::default)
    }

    /// The queue of an upstream.
    pub(super) fn queue(&self, upstream: &Name) -> Arc<Queue> {
        self.queues.find(upstream, Queue::default)
    }
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
        let left = states.servers.room();
        assert!(left < 100, "{left}");
    }
}
