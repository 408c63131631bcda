//! What the control plane does for the upstreams of a snapshot while that is in use.
//!
//! Owned by whoever puts a snapshot into use, and told of the next one: what is done for an upstream that is in both goes
//! on. Dropped, it ends everything that it has started, whatever that is at. What has been learnt stays in the servers'
//! [`State`](super::State). Runs on the control plane's own runtime, never on a worker's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::definition::Definition;
use super::health;
use super::names::{self, Keepers, Oracle};
use crate::lifecycle::Held;

/// What is done for a snapshot's upstreams.
#[must_use = "dropping it ends the upkeep"]
pub struct Upkeep {
    /// For the checks of all of them.
    room: Rc<Semaphore>,
    oracle: Oracle,
    kept: Vec<Kept>,
}

/// What is done for one of them.
struct Kept {
    upstream: Arc<Definition>,
    #[expect(dead_code, reason = "held until the end")]
    checks: Option<Held>,
    #[expect(dead_code, reason = "held until the end")]
    names: Keepers,
}

impl Upkeep {
    /// `name_servers` are asked for the names of servers, instead of the system's.
    ///
    /// # Panics
    /// Outside of a runtime that has local tasks, which is a mistake in the program.
    pub fn start(upstreams: &[Arc<Definition>], name_servers: Option<&[SocketAddr]>) -> Self {
        let oracle = Oracle::new(name_servers);
        let mut upkeep = Self { room: Rc::new(health::room()), oracle, kept: Vec::new() };
        upkeep.follow(upstreams, name_servers);
        upkeep
    }

    /// A snapshot with these upstreams is in use from now on.
    ///
    /// # Panics
    /// Like [`start`](Self::start).
    pub fn follow(&mut self, upstreams: &[Arc<Definition>], name_servers: Option<&[SocketAddr]>) {
        // Where the name servers are others, no upstream is the same.
        self.oracle = std::mem::take(&mut self.oracle).renewed(name_servers);
        let before = self.kept.drain(..).map(|kept| (Arc::as_ptr(&kept.upstream), kept));
        let mut before: HashMap<_, _> = before.collect();
        for upstream in upstreams {
            let kept = before.remove(&Arc::as_ptr(upstream)).unwrap_or_else(|| Kept {
                upstream: upstream.clone(),
                checks: health::keep(upstream, &self.room),
                names: names::keep(upstream, &mut self.oracle),
            });
            self.kept.push(kept);
        }
    }
}
