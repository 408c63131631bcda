//! Things that are found by a key for as long as somebody holds them, and leave nothing behind.
//!
//! For what outlives a configuration: whoever still has to do with a thing (a tunnel, a request, a snapshot) keeps it, and
//! the next configuration that names it gets the same one. Pure; locked when configurations are made, never for a request.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// See the module.
pub struct WeakMap<K, T> {
    known: Mutex<HashMap<K, Weak<T>>>,
}

impl<K: Clone + Eq + Hash, T> WeakMap<K, T> {
    /// The one thing of this key; made, if nobody holds one.
    pub fn find(&self, key: &K, make: impl FnOnce() -> T) -> Arc<T> {
        let mut known = self.known();
        if let Some(held) = known.get(key).and_then(Weak::upgrade) {
            return held;
        }
        if known.len() == known.capacity() {
            // Before it grows: those that nobody holds any more.
            known.retain(|_, held| held.strong_count() > 0);
        }
        let made = Arc::new(make());
        known.insert(key.clone(), Arc::downgrade(&made));
        made
    }

    /// All that somebody holds, in no order.
    pub fn held(&self) -> Vec<Arc<T>> {
        self.known().values().filter_map(Weak::upgrade).collect()
    }
}

impl<K, T> WeakMap<K, T> {
    fn known(&self) -> MutexGuard<'_, HashMap<K, Weak<T>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many keys take room, with those that nobody needs any more.
    #[cfg(test)]
    pub fn room(&self) -> usize {
        self.known().len()
    }
}

impl<K, T> Default for WeakMap<K, T> {
    fn default() -> Self {
        Self { known: Mutex::default() }
    }
}

impl<K, T> fmt::Debug for WeakMap<K, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("WeakMap").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_leads_to_the_same_thing_for_as_long_as_it_is_held_and_to_a_fresh_one_afterwards() {
        let map = WeakMap::<u32, String>::default();
        let one = map.find(&1, || "first".into());
        assert!(Arc::ptr_eq(&one, &map.find(&1, || "second".into())));
        for key in 2..10_000 {
            drop(map.find(&key, String::new));
        }
        assert!(map.room() < 100, "{}", map.room());
        assert!(map.held().iter().map(|held| &***held).eq(["first"]));
        drop(one);
        assert_eq!(*map.find(&1, || "second".into()), "second");
    }
}
