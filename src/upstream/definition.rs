//! An upstream as configured, shared by all workers: immutable but for the roster of its servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::asked::AskedDrains;
use super::balance::Balance;
use super::budget::{Retries, RetryCounts};
use super::entries::{Entries, Entry, Find, Progress, Search};
use super::queue::QueueCounts;
use super::roster::Roster;
use super::server::{Server, ServerId};
use super::source::Sources;
use super::states::States;
use super::sticky::Sticky;
use super::whereabouts::Nowhere;
use crate::config::model::{self, Ejection, Health, HostHeader, Panic, Protocols};
use crate::config::report::Report;
use crate::proto::proxy_protocol::Version;
use crate::tls::{ClientTls, SystemRoots};
use crate::types::Name;

/// An upstream as configured.
pub struct Definition {
    pub name: Name,
    pub roster: Roster,
    pub balance: Balance,
    pub(super) sticky: Option<Sticky>,
    /// How long a server that came new or back takes to get its full weight.
    pub slow_start: Option<Duration>,
    /// Tunnels that are closed in a second, of all its servers that drain. `None`: they stay.
    pub drain_rate: Option<u32>,
    /// How servers are checked, if they are.
    pub health: Option<Health>,
    /// When live traffic takes a server out, if it does.
    pub ejection: Option<Ejection>,
    /// What happens when every server is out.
    pub panic: Panic,
    /// Plain requests are refused; the servers speak only WebSocket.
    pub websocket_only: bool,
    pub host: HostHeader,
    pub via: bool,
    pub retries: u32,
    pub retry_budget: model::RetryBudget,
    /// Who may wait where all servers have as much as they may.
    pub queue: model::Queue,
    pub connect_timeout: Duration,
    /// The servers as configured, and what their names stand for.
    pub(super) entries: Entries,
    /// Local addresses to connect from.
    pub(super) sources: Arc<Sources>,
    /// The PROXY header that each connection begins with. Such a connection is of one client, and is not pooled.
    pub(super) proxy_protocol: Option<Version>,
    pub(super) protocols: Protocols,
    /// Handshakes go over HTTP/2 where the server opens tunnels there.
    pub(super) websocket_over_h2: bool,
    /// Workers that have a group: so that they do not all begin their rounds at the same server.
    groups: AtomicUsize,
    pub(super) budget: Arc<Retries>,
    /// Some worker is about to eject a server.
    ejecting: AtomicBool,
}

impl Definition {
    /// What `states` has of its servers holds for them; those that `previous` lacks come new, or back. `None` after an
    /// error was reported.
    pub fn build(
        upstream: &model::Upstream,
        roots: &mut SystemRoots,
        states: &Arc<States>,
        previous: Option<&Self>,
        report: &mut Report,
    ) -> Option<Self> {
        let tls = ClientTls::build(upstream, roots, report)?;
        let sticky = match &upstream.sticky {
            Some(sticky) => {
                let known = previous.and_then(|previous| previous.sticky.as_ref());
                Some(Sticky::build(upstream.name.as_str(), sticky, known, report)?)
            }
            None => None,
        };
        let before = previous.map(|previous| previous.roster.read().1);
        let comes = |id| before.as_ref().is_some_and(|before| before.iter().all(|server| server.id != id));
        let sources = Sources::new(upstream.sources.iter().map(|source| source.value).collect());
        let servers = upstream.servers.iter().zip(tls).map(|(server, tls)| {
            let id = ServerId::of(upstream.name.as_str(), server.url.as_str());
            let state = states.of(id);
            if comes(id) {
                state.enter_upstream();
            } else if previous.is_none() {
                // The upstream itself may have been out for a while.
                state.checks.forget();
            }
            let built = Server::build(upstream.name.as_str(), server, tls, state, &sources);
            Entry { server: Arc::new(built), search: Search::of(server) }
        });
        let servers = servers.collect();
        let known = previous.map(|previous| &previous.entries);
        let entries = Entries::new(upstream.name.clone(), sources.clone(), states.clone(), servers, known);
        Some(Self {
            name: upstream.name.clone(),
            roster: Roster::new(entries.servers(), states.queue(&upstream.name)),
            entries,
            sources,
            balance: Balance::new(&upstream.balance),
            sticky,
            slow_start: upstream.slow_start,
            drain_rate: upstream.drain_rate,
            health: upstream.health.clone(),
            ejection: upstream.ejection,
            panic: upstream.panic,
            websocket_only: upstream.websocket_only,
            host: upstream.host,
            via: upstream.via,
            retries: upstream.retries,
            retry_budget: upstream.retry_budget,
            queue: upstream.queue,
            connect_timeout: upstream.connect_timeout,
            proxy_protocol: upstream.proxy_protocol,
            protocols: upstream.protocols,
            websocket_over_h2: upstream.websocket_over_h2.value,
            groups: AtomicUsize::new(0),
            budget: previous.map_or_else(Arc::default, |previous| previous.budget.clone()),
            ejecting: AtomicBool::new(false),
        })
    }

    /// Servers drain where somebody has asked for it by name: those of now, and those to come.
    pub fn honour(&self, asked: &Arc<AskedDrains>) {
        self.entries.honour(asked);
    }

    /// Those that a definition after `previous` is built with.
    #[cfg(test)]
    pub(super) fn states_of(previous: Option<&Self>) -> Arc<States> {
        previous.map_or_else(Arc::default, |previous| previous.entries.states().clone())
    }

    /// An entry's name stands for these servers now; they are returned as they stand in the roster.
    pub(super) fn stand(&self, entry: usize, finds: Vec<Find>) -> Vec<Arc<Server>> {
        let servers = self.entries.stand(entry, finds);
        self.renew_roster();
        self.entries.note(entry, Progress::Known);
        servers
    }

    /// An entry's name stands for nothing.
    pub(super) fn clear(&self, entry: usize, why: Nowhere) {
        self.entries.stand(entry, Vec::new());
        self.renew_roster();
        self.entries.note(entry, Progress::Nowhere(why));
    }

    fn renew_roster(&self) {
        let servers = self.entries.servers();
        let (_, before) = self.roster.read();
        let same =
            servers.len() == before.len() && servers.iter().zip(&*before).all(|(one, other)| Arc::ptr_eq(one, other));
        if !same {
            self.roster.replace(servers);
        }
    }

    /// Whether clients whose cookie names the server stay with it. Where it drains they do, being what it has, unless its
    /// tunnels are closed meanwhile: who is sent away must not be sent back.
    pub(super) fn keeps_clients(&self, server: &Server) -> bool {
        !server.drains() || (self.drain_rate.is_none() && !server.state.is_emptied())
    }

    /// What has become of those who waited for a place.
    pub fn queue_counts(&self) -> QueueCounts {
        self.roster.queue().counts()
    }

    pub fn retry_counts(&self) -> RetryCounts {
        self.budget.counts()
    }

    /// The number of one more group.
    pub(super) fn join(&self) -> usize {
        self.groups.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs `eject` unless another worker is at the same: two that count who is out at one moment could both find room
    /// for one more. Whoever comes too late does not wait; the next failure asks again.
    pub(super) fn eject_alone(&self, eject: impl FnOnce()) {
        if !self.ejecting.swap(true, Ordering::Acquire) {
            eject();
            self.ejecting.store(false, Ordering::Release);
        }
    }
}
