//! What takes nothing new because somebody has asked for that, by name: routes, listeners.
//!
//! Kept beside the configuration, so that it outlives reloads. Looked at with every handshake, or connection: that is one
//! load, and a lock of a few instructions only while anything is shut. Whoever has something to do when that changes can
//! wait for it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::types::Name;

/// Names at once. Nobody has more of them.
const MOST: usize = 10_000;

/// The names of one kind.
#[derive(Debug, Default)]
pub struct Shut {
    any: AtomicBool,
    names: Mutex<HashSet<Name>>,
    changed: Notify,
}

impl Shut {
    pub fn has(&self, name: &Name) -> bool {
        self.any.load(Ordering::Acquire) && self.names().contains(name)
    }

    /// Says whether there is room to remember it.
    pub fn shut(&self, name: &Name) -> bool {
        let mut names = self.names();
        if names.len() >= MOST && !names.contains(name) {
            return false;
        }
        names.insert(name.clone());
        self.any.store(true, Ordering::Release);
        self.changed.notify_one();
        true
    }

    pub fn open(&self, name: &Name) {
        let mut names = self.names();
        names.remove(name);
        self.any.store(!names.is_empty(), Ordering::Release);
        self.changed.notify_one();
    }

    /// Waits until a name is shut or opened. For one who waits; what happens while he does not is told him the next time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Has whoever waits for a change look once more.
    pub fn nudge(&self) {
        self.changed.notify_one();
    }

    fn names(&self) -> MutexGuard<'_, HashSet<Name>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shut_stays_so_until_it_is_opened_and_there_is_an_end_to_what_is_remembered() {
        let shut = Shut::default();
        let name = |number: usize| Name::from(format!("r{number}").as_str());
        assert!(!shut.has(&name(0)));
        assert!((0..MOST).all(|number| shut.shut(&name(number))));
        assert!(shut.shut(&name(0)) && !shut.shut(&name(MOST)) && !shut.has(&name(MOST)));
        (1..MOST).for_each(|number| shut.open(&name(number)));
        assert!(shut.has(&name(0)) && !shut.has(&name(1)));
        shut.open(&name(0));
        assert!(!shut.has(&name(0)) && !shut.any.load(Ordering::Acquire));
    }
}
