//! What the control plane does for the upstreams of a snapshot while that is in use.
//!
//! Owned by whoever puts a snapshot into use, and told of the next one; what is done for upstreams that are in both goes on.
//! Dropped, it ends everything that it has started, whatever that is at. What
//! has been learnt stays in the servers' [`State`](super::State). Runs on the control plane's own runtime, never on a
//! worker's.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::definition::Definition;
use super::health;
use crate::lifecycle::Held;

/// What is done for a snapshot's upstreams.
#[must_use = "dropping it ends the upkeep"]
pub struct Upkeep {
    /// For the checks of all upstreams.
    room: Rc<Semaphore>,
    kept: Vec<Kept>,
}

/// What is done for one upstream.
struct Kept {
    upstream: Arc<Definition>,
    #[expect(dead_code, reason = "held until the end")]
    task: Option<Held>,
}

impl Upkeep {
    /// # Panics
    /// Outside of a runtime that has local tasks, which is a mistake in the program.
    pub fn start(upstreams: &[Arc<Definition>]) -> Self {
        let mut upkeep = Self { room: Rc::new(health::room()), kept: Vec::new() };
        upkeep.change(upstreams);
        upkeep
    }

    /// Another snapshot, with these upstreams, is in use.
    ///
    /// # Panics
    /// Like [`start`](Self::start).
    pub fn change(&mut self, upstreams: &[Arc<Definition>]) {
        let before = self.kept.drain(..).map(|kept| (Arc::as_ptr(&kept.upstream), kept));
        let mut before: HashMap<_, _> = before.collect();
        self.kept.extend(upstreams.iter().map(|upstream| {
            let known = before.remove(&Arc::as_ptr(upstream));
            known.unwrap_or_else(|| Kept { upstream: upstream.clone(), task: health::keep(upstream, &self.room) })
        }));
    }
}
