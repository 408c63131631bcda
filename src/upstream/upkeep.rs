//! What the control plane does for the upstreams of a snapshot while that is in use.
//!
//! Owned by whoever puts a snapshot into use; dropped, it ends everything that it has started, whatever that is at. What
//! has been learnt stays in the servers' [`State`](super::State). Runs on the control plane's own runtime, never on a
//! worker's.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::definition::Definition;
use super::health;
use super::names;
use crate::lifecycle::Held;

/// What is done for a snapshot's upstreams.
#[derive(Debug)]
#[must_use = "dropping it ends the upkeep"]
pub struct Upkeep {
    #[expect(dead_code, reason = "held until the end")]
    tasks: Vec<Held>,
    #[expect(dead_code, reason = "held until the end")]
    names: names::Keepers,
}

impl Upkeep {
    /// `name_servers` are asked for the names of servers, instead of the system's.
    ///
    /// # Panics
    /// Outside of a runtime that has local tasks, which is a mistake in the program.
    pub fn start(upstreams: &[Arc<Definition>], name_servers: Option<&[SocketAddr]>) -> Self {
        let room = Rc::new(health::room());
        let tasks = upstreams.iter().filter_map(|upstream| health::keep(upstream, &room));
        Self { tasks: tasks.collect(), names: names::keep(upstreams, name_servers) }
    }
}
