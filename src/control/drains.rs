//! Servers that drain: their tunnels are closed at the rate that their upstream says, until none is left.
//!
//! Nobody begins or ends a drain here. Every second it is looked at how things are: a server drains while it has tunnels
//! and its upstream has no weight for it, does not have it any more, or somebody has asked for it by name (which is kept
//! beside the servers, in `upstream/asked.rs`, and so outlives them). So a drain ends of itself when the server gets weight again, goes on after a reload, and cannot be begun twice. There is one
//! [`Pace`] for each upstream, whatever the number of its servers that drain and of workers: what follows from closing a
//! tunnel, a client that comes back, is a matter of the servers that are left.
//!
//! Without `drain_rate` nothing is closed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::pace::{Pace, Random, per_second};
use super::tunnels::Tunnels;
use crate::clock::{self, Instant};
use crate::config;
use crate::exchange::live::{CloseOrder, Matches, TunnelRef, TunnelState};
use crate::snapshot::Snapshot;
use crate::types::Name;
use crate::upstream::{AskedDrain, AskedDrains, Definition, Server, ServerId, State};

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
    asked: Arc<AskedDrains>,
    /// Those that close tunnels, as of the last look.
    under_way: Mutex<Vec<UnderWay>>,
    changed: Notify,
}

/// Why a server is not asked to drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoDrain {
    /// The configuration in use has no such server, or no such upstream.
    NoSuchServer,
    /// So many are asked to already.
    TooMany,
}

/// Why a server drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyDrains {
    /// Somebody has asked for it.
    Asked,
    /// It has no weight.
    NoWeight,
    /// Its upstream, or the configuration, does not have it any more.
    Gone,
}

/// A server that drains.
#[derive(Clone, Debug)]
pub struct ServerDrain {
    pub id: ServerId,
    pub upstream: Name,
    pub server: Name,
    pub why: WhyDrains,
    /// Since when it is asked to, or loses tunnels. `None`: there is no telling.
    pub since: Option<Instant>,
    pub requests: u32,
    pub tunnels: u32,
    /// Tunnels that have been closed for it.
    pub closed: usize,
    /// How many are closed in a second, over all of its upstream. `None`: they stay until they end of themselves.
    pub rate: Option<u32>,
}

/// A drain that closes tunnels.
#[derive(Clone, Debug)]
struct UnderWay {
    upstream: Name,
    server: Arc<Server>,
    since: Instant,
    closed: usize,
    rate: Option<u32>,
}

impl Drains {
    pub fn new(snapshot: &Snapshot) -> Self {
        let upstreams = Mutex::new(snapshot.upstreams.clone());
        let asked = snapshot.asked_drains.clone();
        Self { shared: Arc::new(Shared { upstreams, asked, under_way: Mutex::default(), changed: Notify::new() }) }
    }

    /// Another configuration is in use.
    pub fn follow(&self, snapshot: &Snapshot) {
        self.upstreams().clone_from(&snapshot.upstreams);
        // Who was asked, or forgotten, while this one was being read.
        snapshot.upstreams.iter().for_each(|upstream| self.shared.asked.apply(&upstream.roster.read().1));
        self.shared.changed.notify_one();
    }

    /// Lets a server drain, whatever its weight, until [`Self::resume`] or the end of the process; how many tunnels it
    /// has. Where somebody else closes these (`is_emptied`), they are not closed here. It is named as logs name it.
    ///
    /// # Errors
    /// See [`NoDrain`].
    pub fn drain(&self, upstream: &str, server: &str, is_emptied: bool) -> Result<u32, NoDrain> {
        let [found, ..] = &self.find(Some(upstream), server)[..] else { return Err(NoDrain::NoSuchServer) };
        if !self.shared.asked.ask(&found.0, &found.1, is_emptied) {
            return Err(NoDrain::TooMany);
        }
        self.shared.changed.notify_one();
        Ok(found.1.state.tunnels())
    }

    /// Lets a server that drains by name take work again, if it has any weight. It need not be there at the moment.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn resume(&self, upstream: &str, server: &str) -> Result<u32, NoDrain> {
        let is_known = self.resume_by_id(ServerId::of(upstream, server)).is_some();
        match &self.find(Some(upstream), server)[..] {
            [found, ..] => Ok(found.1.state.tunnels()),
            [] if is_known => Ok(0),
            [] => Err(NoDrain::NoSuchServer),
        }
    }

    /// The same; what was asked of it, if anything was.
    pub fn resume_by_id(&self, id: ServerId) -> Option<AskedDrain> {
        let asked = self.shared.asked.get(id)?;
        self.shared.asked.forget(id);
        for upstream in self.upstreams().iter() {
            self.shared.asked.apply(&upstream.roster.read().1);
        }
        self.shared.changed.notify_one();
        Some(asked)
    }

    /// The servers of this name, with their upstreams; of one of them alone where that is named.
    pub fn find(&self, upstream: Option<&str>, server: &str) -> Vec<(Name, Arc<Server>)> {
        let upstreams = self.upstreams().clone();
        let meant = upstreams.iter().filter(|known| upstream.is_none_or(|upstream| known.name.as_str() == upstream));
        let found = meant.filter_map(|known| {
            let (_, servers) = known.roster.read();
            let server = servers.iter().find(|known| known.url.as_str() == server)?.clone();
            Some((known.name.clone(), server))
        });
        found.collect()
    }

    /// All servers that drain: those of the configuration in its order, then those that are not there any more.
    pub fn list(&self) -> Vec<ServerDrain> {
        let (upstreams, mut asked) = (self.upstreams().clone(), self.shared.asked.all());
        let mut under_way = self.under_way().clone();
        let mut drains = Vec::new();
        let of = |upstream: &Name, server: &Server, why| ServerDrain {
            id: server.id,
            upstream: upstream.clone(),
            server: server.url.clone(),
            why,
            since: None,
            requests: server.state.requests(),
            tunnels: server.state.tunnels(),
            closed: 0,
            rate: None,
        };
        for upstream in &upstreams {
            for server in upstream.roster.read().1.iter().filter(|server| server.drains()) {
                let by_name = asked.iter().position(|asked| asked.id == server.id).map(|at| asked.swap_remove(at));
                let why = if by_name.is_some() { WhyDrains::Asked } else { WhyDrains::NoWeight };
                let mut drain = of(&upstream.name, server, why);
                (drain.since, drain.rate) = (by_name.map(|asked| asked.since), upstream.drain_rate);
                let closing = under_way.iter().position(|closing| Arc::ptr_eq(&closing.server.state, &server.state));
                if let Some(closing) = closing.map(|at| under_way.swap_remove(at)) {
                    drain.closed = closing.closed;
                    drain.since = drain.since.or(Some(closing.since));
                }
                drains.push(drain);
            }
        }
        let gone = under_way.iter().map(|closing| {
            let mut drain = of(&closing.upstream, &closing.server, WhyDrains::Gone);
            (drain.since, drain.closed, drain.rate) = (Some(closing.since), closing.closed, closing.rate);
            drain
        });
        drains.extend(gone);
        drains.extend(asked.into_iter().map(|AskedDrain { id, upstream, server, since, .. }| {
            let (why, since) = (WhyDrains::Asked, Some(since));
            ServerDrain { id, upstream, server, why, since, requests: 0, tunnels: 0, closed: 0, rate: None }
        }));
        drains
    }

    fn under_way(&self) -> MutexGuard<'_, Vec<UnderWay>> {
        self.shared.under_way.lock().unwrap_or_else(PoisonError::into_inner)
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
            *self.under_way() = watched.iter().flat_map(Upstream::under_way).collect();
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

    fn under_way(&self) -> impl Iterator<Item = UnderWay> {
        self.servers.iter().filter_map(|watched| {
            let Drain { since, closed, .. } = watched.drain.as_ref()?;
            Some(UnderWay {
                upstream: self.definition.name.clone(),
                server: watched.server.clone(),
                since: *since,
                closed: *closed,
                rate: self.definition.drain_rate,
            })
        })
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
            let is_ours = !watched.server.state.is_emptied() && current.is_none_or(|server| server.drains());
            let drains = rate.filter(|_| is_ours);
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
        let due = self.pace.due(per_second(rate), clock::now()).min(self.queue.len());
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
                let took = config::show_duration(now - *since);
                if tunnels == 0 {
                    tracing::info!(%upstream, %server, closed = *closed, took, "a server has drained");
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
