//! An upstream as configured, shared by all workers: immutable but for the roster of its servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::balance::Balance;
use super::entries::{Entries, Entry, Find, Progress, Search};
use super::place::Nowhere;
use super::roster::Roster;
use super::server::{Server, ServerId, State};
use super::source::Sources;
use super::sticky::Sticky;
use crate::config::model::{self, HostHeader, Protocols};
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
    /// Plain requests are refused; the servers speak only WebSocket.
    pub websocket_only: bool,
    pub host: HostHeader,
    pub via: bool,
    pub retries: u32,
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
}

impl Definition {
    /// Servers that `previous` has as well keep their state. `None` after an error was reported.
    pub fn build(
        upstream: &model::Upstream,
        roots: &mut SystemRoots,
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
        let known = known_states(previous);
        let sources = Sources::new(upstream.sources.iter().map(|source| source.value).collect());
        let servers = upstream.servers.iter().zip(tls).map(|(server, tls)| {
            let id = ServerId::of(upstream.name.as_str(), server.url.as_str());
            let state = known.get(&id).cloned().unwrap_or_else(|| {
                let state = Arc::new(State::default());
                if previous.is_some() {
                    state.note_arrival();
                }
                state
            });
            let built = Server::build(upstream.name.as_str(), server, tls, state, &sources);
            Entry { server: Arc::new(built), search: Search::of(server) }
        });
        let before = previous.map(|previous| &previous.entries);
        let entries = Entries::new(upstream.name.clone(), sources.clone(), servers.collect(), before);
        Some(Self {
            name: upstream.name.clone(),
            roster: Roster::new(entries.servers()),
            entries,
            sources,
            balance: Balance::new(&upstream.balance),
            sticky,
            slow_start: upstream.slow_start,
            websocket_only: upstream.websocket_only,
            host: upstream.host,
            via: upstream.via,
            retries: upstream.retries,
            connect_timeout: upstream.connect_timeout,
            proxy_protocol: upstream.proxy_protocol,
            protocols: upstream.protocols,
            websocket_over_h2: upstream.websocket_over_h2.value,
            groups: AtomicUsize::new(0),
        })
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

    /// The number of one more group.
    pub(super) fn join(&self) -> usize {
        self.groups.fetch_add(1, Ordering::Relaxed)
    }
}

fn known_states(previous: Option<&Definition>) -> HashMap<ServerId, Arc<State>> {
    let servers = previous.map(|previous| previous.roster.read().1);
    servers.iter().flat_map(|servers| servers.iter()).map(|server| (server.id, server.state.clone())).collect()
}
