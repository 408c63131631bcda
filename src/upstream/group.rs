//! A group of servers at work on one worker: which is asked next, and what is known of each.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::connection::Idle;
use super::definition::Definition;
use super::dial::{self, UpstreamStream};
use super::failure::Failure;
use crate::clock::{self, Instant};

/// How long a server that could not be reached is passed over while others can be asked.
const SKIP_UNREACHABLE: Duration = Duration::from_secs(2);

/// A group at work on one worker.
pub struct Group {
    pub definition: Arc<Definition>,
    pub(super) servers: Vec<Server>,
    /// Where the next round begins.
    next: Cell<usize>,
    pub(super) sweeping: Cell<bool>,
}

/// What this worker knows of one server.
#[derive(Default)]
pub struct Server {
    pub(super) idle: RefCell<Vec<Idle>>,
    /// Could not be reached; passed over until then.
    skipped_until: Cell<Option<Instant>>,
}

impl Group {
    pub fn new(definition: Arc<Definition>) -> Rc<Self> {
        let servers = definition.servers.iter().map(|_| Server::default()).collect();
        Rc::new(Self { definition, servers, next: Cell::new(0), sweeping: Cell::new(false) })
    }

    /// Round robin over the servers that were not `tried` yet; unreachable ones only when nothing else is left.
    pub(super) fn pick(&self, tried: &[usize]) -> Option<usize> {
        let count = self.servers.len();
        let start = self.next.get();
        let untried = || (0..count).map(|step| (start + step) % count).filter(|server| !tried.contains(server));
        let chosen = untried().find(|server| !self.servers[*server].is_skipped()).or_else(|| untried().next())?;
        self.next.set((chosen + 1) % count);
        Some(chosen)
    }

    /// Connects to one server and notes whether it could be reached.
    pub(super) async fn dial(&self, server: usize) -> Result<UpstreamStream, Failure> {
        let connected = dial::dial(&self.definition, server).await;
        let skipped_until = connected.is_err().then(|| clock::now() + SKIP_UNREACHABLE);
        self.servers[server].skipped_until.set(skipped_until);
        connected
    }
}

impl Server {
    fn is_skipped(&self) -> bool {
        self.skipped_until.get().is_some_and(|until| clock::now() < until)
    }
}
