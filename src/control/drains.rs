//! Servers that drain: their tunnels are closed at the rate that their upstream says, until none is left.
//!
//! Nobody begins or ends a drain here. Every second it is looked at how things are: a server drains while it has tunnels
//! and its upstream has no weight for it, does not have it any more, or somebody has asked for it by name. So a drain
//! ends of itself when the server gets weight again, goes on after a reload, and cannot be begun twice. There is one
//! [`Pace`] for each upstream, whatever the number of its servers that drain and of workers: what follows from closing a
//! tunnel, a client that comes back, is a matter of the servers that are left.
//!
//! Without `drain_rate` nothing is closed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::pace::{Pace, Random};
use super::tunnels::Tunnels;
use crate::clock::{self, Instant};
use crate::exchange::live::{CloseOrder, Matches, TunnelRef, TunnelState};
use crate::snapshot::Snapshot;
use crate::types::Name;
use crate::upstream::{Definition, Server, State};

/// How often it is looked at how things are.
const LOOK: Duration = Duration::from_secs(1);

/// How often a drain says how far it is.
const TOLD: Duration = Duration::from_secs(5);

/// Finer than this nobody sleeps: what is due meanwhile is closed together.
const GRAIN: Duration = Duration::from_millis(2);

/// The draining of servers. Clones are the same.
#[derive(Clone)]
pub struct Drains {
    shared: Arc<Shared>,
}

struct Shared {
    /// Those of the configuration in use.
    upstreams: Mutex<Vec<Arc<Definition>>>,
    changed: Notify,
}

/// The configuration in use has no such server, or no such upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchServer;

impl Drains {
    pub fn new(snapshot: &Snapshot) -> Self {
        let upstreams = Mutex::new(snapshot.upstreams.clone());
        Self { shared: Arc::new(Shared { upstreams, changed: Notify::new() }) }
    }

    /// Another configuration is in use.
    pub fn follow(&self, snapshot: &Snapshot) {
        self.upstreams().clone_from(&snapshot.upstreams);
        self.shared.changed.notify_one();
    }

    /// Lets a server drain, whatever its weight, until [`Self::resume`] or the end of the process; how many tunnels it
    /// has. It is named as logs name it.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn drain(&self, upstream: &str, server: &str) -> Result<u32, NoSuchServer> {
        self.set(upstream, server, true)
    }

    /// Lets a server that drains by name take work again, if it has any weight.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn resume(&self, upstream: &str, server: &str) -> Result<u32, NoSuchServer> {
        self.set(upstream, server, false)
    }

    fn set(&self, upstream: &str, server: &str, drains: bool) -> Result<u32, NoSuchServer> {
        let upstreams = self.upstreams();
        let definition = upstreams.iter().find(|known| known.name.as_str() == upstream).ok_or(NoSuchServer)?;
        let (_, servers) = definition.roster.read();
        let state = &servers.iter().find(|known| known.url.as_str() == server).ok_or(NoSuchServer)?.state;
        state.set_drains(drains);
        self.shared.changed.notify_one();
        Ok(state.tunnels())
    }

    fn upstreams(&self) -> MutexGuard<'_, Vec<Arc<Definition>>> {
        self.shared.upstreams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks after drains; never completes. Dropping it stops all of them.
    pub async fn run(self, tunnels: Tunnels) {
        let order = Arc::new(CloseOrder::server_drained());
        let mut watched = Vec::<Upstream>::new();
        let mut next_look = clock::now();
        loop {
            if clock::now() >= next_look {
                look(&mut watched, &self.upstreams().clone());
                next_look = clock::now() + LOOK;
            }
            let mut next = next_look;
            for upstream in watched.iter_mut().filter(|upstream| upstream.has_drains()) {
                next = next.min(upstream.step(&tunnels, &order).await);
            }
            tokio::select! {
                () = self.shared.changed.notified() => next_look = clock::now(),
                () = tokio::time::sleep_until(next.max(clock::now() + GRAIN)) => {}
            }
        }
    }
}

/// One upstream, for as long as the configuration or a tunnel has to do with it.
struct Upstream {
    definition: Arc<Definition>,
    servers: Vec<Watched>,
    pace: Pace,
    /// Tunnels that are to be closed, and on whose behalf.
    queue: Vec<(TunnelRef, Name)>,
    /// When tunnels were last asked for.
    listed: Option<Instant>,
}

/// One server that is in the roster, or of which there are still tunnels.
struct Watched {
    server: Arc<Server>,
    drain: Option<Drain>,
}

/// A drain that is under way.
struct Drain {
    since: Instant,
    told: Instant,
    closed: usize,
}

/// Looks at all upstreams, and at those that are no more.
fn look(watched: &mut Vec<Upstream>, definitions: &[Arc<Definition>]) {
    for definition in definitions {
        match watched.iter_mut().find(|upstream| upstream.definition.name == definition.name) {
            Some(upstream) => upstream.definition = definition.clone(),
            None => watched.push(Upstream::new(definition.clone())),
        }
    }
    for upstream in watched.iter_mut() {
        let is_there = definitions.iter().any(|definition| Arc::ptr_eq(definition, &upstream.definition));
        let roster = if is_there { upstream.definition.roster.read().1.to_vec() } else { Vec::new() };
        upstream.look(&roster);
    }
    watched.retain(|upstream| !upstream.servers.is_empty());
}

impl Upstream {
    fn new(definition: Arc<Definition>) -> Self {
        Self { definition, servers: Vec::new(), pace: Pace::new(), queue: Vec::new(), listed: None }
    }

    fn has_drains(&self) -> bool {
        self.servers.iter().any(|watched| watched.drain.is_some())
    }

    /// Which servers drain now that the upstream has these.
    fn look(&mut self, roster: &[Arc<Server>]) {
        for server in roster {
            match self.servers.iter_mut().find(|watched| Arc::ptr_eq(&watched.server.state, &server.state)) {
                Some(watched) => watched.server = server.clone(),
                None => self.servers.push(Watched { server: server.clone(), drain: None }),
            }
        }
        let rate = self.definition.drain_rate;
        let mut has_changed = false;
        for watched in &mut self.servers {
            let current = roster.iter().find(|server| server.id == watched.server.id);
            let drains = rate.filter(|_| current.is_none_or(|server| server.drains()));
            has_changed |= watched.look(&self.definition.name, drains);
        }
        self.servers.retain(|watched| {
            let is_there = roster.iter().any(|server| Arc::ptr_eq(&server.state, &watched.server.state));
            is_there || watched.server.state.tunnels() > 0
        });
        if has_changed {
            self.queue.clear();
            self.listed = None;
        }
    }

    /// Closes what is due; when something is again.
    async fn step(&mut self, tunnels: &Tunnels, order: &Arc<CloseOrder>) -> Instant {
        let now = clock::now();
        let Some(rate) = self.definition.drain_rate else { return now + LOOK };
        if self.queue.is_empty() {
            if let Some(listed) = self.listed.filter(|listed| now < *listed + LOOK) {
                return listed + LOOK;
            }
            self.queue = self.list(tunnels).await;
            let now = clock::now();
            self.listed = Some(now);
            self.pace.rest(now);
        }
        let due = self.pace.due(rate, clock::now()).min(self.queue.len());
        let mut by_server = HashMap::<Name, Vec<TunnelRef>>::new();
        for (tunnel, server) in self.queue.drain(self.queue.len() - due..) {
            by_server.entry(server).or_default().push(tunnel);
        }
        for (server, these) in by_server {
            let closed = tunnels.close_these(these, order).await.tunnels;
            if let Some(drain) = self.drain_of(&server) {
                drain.closed += closed;
            }
        }
        self.pace.next().unwrap_or(now)
    }

    fn drain_of(&mut self, server: &Name) -> Option<&mut Drain> {
        let mut of = self.servers.iter_mut().filter(|watched| watched.server.url == *server);
        of.find_map(|watched| watched.drain.as_mut())
    }

    /// The open tunnels of all servers that drain, in no order: so that no worker has more to do than the others.
    async fn list(&self, tunnels: &Tunnels) -> Vec<(TunnelRef, Name)> {
        let drained = self.servers.iter().filter(|watched| watched.drain.is_some());
        let states: Vec<Arc<State>> = drained.map(|watched| watched.server.state.clone()).collect();
        let matches: Matches = Arc::new(move |row, server| {
            row.progress.state != TunnelState::Closing && states.iter().any(|state| std::ptr::eq(&**state, server))
        });
        let mut listing = tunnels.list(matches);
        let mut queue = Vec::new();
        while let Some(rows) = listing.next().await {
            queue.extend(rows.into_iter().filter_map(|row| Some((row.tunnel, row.way.server.clone()?))));
        }
        Random::new().shuffle(&mut queue);
        queue
    }
}

impl Watched {
    /// `rate`: it is to drain, and how fast. Says whether a drain has begun or ended.
    fn look(&mut self, upstream: &Name, rate: Option<u32>) -> bool {
        let (now, tunnels, server) = (clock::now(), self.server.state.tunnels(), &self.server.url);
        match (&mut self.drain, rate.filter(|_| tunnels > 0)) {
            (None, Some(rate)) => {
                tracing::info!(%upstream, %server, tunnels, rate, "a server drains");
                self.drain = Some(Drain { since: now, told: now, closed: 0 });
                true
            }
            (Some(drain), Some(_)) => {
                if now >= drain.told + TOLD {
                    drain.told = now;
                    tracing::info!(%upstream, %server, tunnels, closed = drain.closed, "a server still drains");
                }
                false
            }
            (Some(Drain { since, closed, .. }), None) => {
                let took = now - *since;
                if tunnels == 0 {
                    tracing::info!(%upstream, %server, closed = *closed, ?took, "a server has drained");
                } else {
                    tracing::info!(%upstream, %server, tunnels, closed = *closed, "a server drains no more");
                }
                self.drain = None;
                true
            }
            (None, None) => false,
        }
    }
}
