//! The configuration in use, and what has come of reloads, for those beside the workers who want to look at it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::reloads::Outcome;
use crate::clock;
use crate::snapshot::Snapshot;

/// Shared by who changes it and who looks. Clones are the same.
#[derive(Clone)]
pub struct InUse {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    snapshot: Arc<Snapshot>,
    since: SystemTime,
    refused: u64,
    last: Option<(SystemTime, Arc<Outcome>)>,
}

/// How reloads have gone so far.
#[derive(Clone, Debug)]
pub struct ReloadHistory {
    /// Since when the configuration is in use.
    pub since: SystemTime,
    pub refused: u64,
    /// `None`: there was none yet.
    pub last: Option<(SystemTime, Arc<Outcome>)>,
}

impl InUse {
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        let shared = Shared { snapshot, since: clock::wall(), refused: 0, last: None };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    /// The one in use at this moment. Not to be held for long.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared().snapshot.clone()
    }

    pub fn history(&self) -> ReloadHistory {
        let shared = self.shared();
        ReloadHistory { since: shared.since, refused: shared.refused, last: shared.last.clone() }
    }

    /// A reload has put another one in use.
    pub fn replace(&self, snapshot: Arc<Snapshot>) {
        let before = {
            let mut shared = self.shared();
            shared.since = clock::wall();
            std::mem::replace(&mut shared.snapshot, snapshot)
        };
        // Outside of the lock: it may be the last one to hold it.
        drop(before);
    }

    /// A reload has ended, one way or the other. How many have been refused.
    pub fn note(&self, outcome: Arc<Outcome>) -> u64 {
        let mut shared = self.shared();
        shared.refused += u64::from(outcome.changes.is_none());
        shared.last = Some((clock::wall(), outcome));
        shared.refused
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
