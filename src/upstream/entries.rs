//! The servers of an upstream as they are configured, and those that their names stand for at this moment.
//!
//! An entry is one server, or, with `resolve = "each"` or `"srv"`, a name behind which servers come and go: its keeper
//! (`names/`) says which. Servers that stay the same stay the very same object, so that workers keep their connections
//! to them; what is known of one that comes back holds ([`States`]). Tunnels to servers that have gone are nobody's
//! business here.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;

use super::asked::{AskedDrains, Wish};
use super::server::{Server, ServerId, State};
use super::source::{Addresses, Sources};
use super::states::States;
use super::whereabouts::{Location, Nowhere};
use crate::config::model::{self, Resolve, ServerAddress};
use crate::types::Name;

/// What has to be found out about an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Search {
    /// Nothing: it says where it is.
    Nothing,
    /// The addresses of one server.
    Addresses(Arc<str>, u16),
    /// Addresses, each of which is a server.
    Each(Arc<str>, u16),
    /// Servers with ports and weights of their own (RFC 2782).
    Services(Arc<str>),
}

impl Search {
    pub fn of(server: &model::UpstreamServer) -> Self {
        match (&server.address, server.resolve) {
            (ServerAddress::Ip(_) | ServerAddress::Unix(_), _) => Self::Nothing,
            (ServerAddress::Name(name, port), Resolve::One) => Self::Addresses(name.clone(), *port),
            (ServerAddress::Name(name, port), Resolve::Each) => Self::Each(name.clone(), *port),
            (ServerAddress::Name(name, _), Resolve::Service) => Self::Services(name.clone()),
        }
    }

    /// Whether the entry itself is a server.
    fn is_server(&self) -> bool {
        matches!(self, Self::Nothing | Self::Addresses(..))
    }
}

/// One server that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Find {
    Address(SocketAddr),
    Target { host: String, port: u16, weight: u32, backup: bool },
}

/// One entry of `servers`.
pub struct Entry {
    /// The server itself, or what all those have in common that its name stands for.
    pub server: Arc<Server>,
    pub search: Search,
}

/// All entries of an upstream.
pub struct Entries {
    upstream: Name,
    sources: Arc<Sources>,
    states: Arc<States>,
    list: Vec<Entry>,
    /// Of each entry. Written by keepers, all on one thread.
    standing: Mutex<Vec<Standing>>,
    progress: watch::Sender<Vec<Progress>>,
    /// Who drains by name, whenever it comes.
    asked: OnceLock<Arc<AskedDrains>>,
}

/// What stands behind one entry now.
#[derive(Default)]
struct Standing {
    finds: Vec<Find>,
    servers: Vec<Arc<Server>>,
}

/// How far an entry is known.
#[derive(Clone, Debug)]
pub enum Progress {
    Asking,
    Known,
    Nowhere(Nowhere),
}

impl Entries {
    /// What stood behind an entry of `previous` stands behind the same one here until its name is asked for anew.
    pub fn new(
        upstream: Name,
        sources: Arc<Sources>,
        states: Arc<States>,
        list: Vec<Entry>,
        previous: Option<&Self>,
    ) -> Self {
        let asking = |entry: &Entry| if entry.search.is_server() { Progress::Known } else { Progress::Asking };
        let progress = watch::Sender::new(list.iter().map(asking).collect());
        let standing = list.iter().map(|entry| Standing {
            servers: if entry.search.is_server() { vec![entry.server.clone()] } else { Vec::new() },
            ..Standing::default()
        });
        let entries = Self {
            upstream,
            sources,
            states,
            standing: Mutex::new(standing.collect()),
            list,
            progress,
            asked: OnceLock::new(),
        };
        if let Some(previous) = previous {
            entries.inherit(previous);
        }
        entries
    }

    fn inherit(&self, previous: &Self) {
        for (index, entry) in self.list.iter().enumerate().filter(|(_, entry)| !entry.search.is_server()) {
            let same = |other: &Entry| other.server.id == entry.server.id && other.search == entry.search;
            let Some(before) = previous.list.iter().position(same) else { continue };
            let (finds, _) = previous.standing(before);
            if !finds.is_empty() {
                self.stand(index, finds);
                self.note(index, Progress::Known);
            }
        }
    }

    /// Servers that are here, and those that will come, drain where somebody has asked for it.
    pub fn honour(&self, asked: &Arc<AskedDrains>) {
        let _ = self.asked.set(asked.clone());
        asked.apply(&self.servers());
    }

    #[cfg(test)]
    pub fn states(&self) -> &Arc<States> {
        &self.states
    }

    pub fn list(&self) -> &[Entry] {
        &self.list
    }

    /// All servers at this moment, in the order of the entries; one that stands behind two of them counts once.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = HashSet::new();
        standing.iter().flat_map(|entry| &entry.servers).filter(|server| seen.insert(server.id)).cloned().collect()
    }

    /// What stands behind an entry, with the servers that it stands for.
    pub fn standing(&self, index: usize) -> (Vec<Find>, Vec<Arc<Server>>) {
        let standing = &self.standing.lock().unwrap_or_else(PoisonError::into_inner)[index];
        (standing.finds.clone(), standing.servers.clone())
    }

    /// Puts servers behind an entry; those of it that stand there now.
    pub fn stand(&self, index: usize, finds: Vec<Find>) -> Vec<Arc<Server>> {
        let is_first = matches!(self.progress.borrow()[index], Progress::Asking);
        let template = &self.list[index].server;
        let mut all = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = &mut all[index];
        let servers: Vec<_> = finds
            .iter()
            .map(|find| {
                let found = Found::of(template, find);
                let id = ServerId::of(self.upstream.as_str(), found.url.as_str());
                let same = |server: &&Arc<Server>| {
                    server.id == id && server.weight == found.weight && server.backup == found.backup
                };
                if let Some(same) = standing.servers.iter().find(same) {
                    return same.clone();
                }
                let state = self.states.of(id);
                if !is_first && standing.servers.iter().all(|server| server.id != id) {
                    state.enter_upstream();
                }
                state.set_wish(self.asked.get().map_or(Wish::Work, |asked| asked.wish(id)));
                let location = match found.address {
                    Some(address) => Location::Fixed(Addresses::new([address], &self.sources, &state.open)),
                    None => Location::Named,
                };
                Arc::new(template.found(self.upstream.as_str(), found, location, state))
            })
            .collect();
        standing.finds = finds;
        standing.servers.clone_from(&servers);
        servers
    }

    /// Says to those who wait how far an entry is known; after the roster has what follows from it.
    pub fn note(&self, index: usize, progress: Progress) {
        self.progress.send_modify(|all| all[index] = progress);
    }

    /// Asks for every name anew.
    pub fn doubt(&self) {
        for entry in &self.list {
            entry.server.doubt.notify_waiters();
        }
    }

    /// Waits until there is something to choose from or nothing more to wait for; in that case, why.
    pub async fn first_answer(&self) -> Option<Nowhere> {
        let mut changes = self.progress.subscribe();
        let settled = |all: &Vec<Progress>| {
            all.iter().any(|entry| matches!(entry, Progress::Known))
                || !all.iter().any(|entry| matches!(entry, Progress::Asking))
        };
        // The sender is `self`: it does not go away.
        let known = changes.wait_for(settled).await.ok()?;
        if known.iter().any(|entry| matches!(entry, Progress::Known)) {
            return None;
        }
        known.iter().find_map(|entry| match entry {
            Progress::Nowhere(why) => Some(why.clone()),
            Progress::Asking | Progress::Known => None,
        })
    }
}

/// A server that stands behind a name.
struct Found {
    url: Name,
    /// `None`: it has a name of its own.
    address: Option<SocketAddr>,
    weight: u32,
    backup: bool,
}

impl Found {
    fn of(template: &Server, find: &Find) -> Self {
        let scheme = template.url.as_str().split_once("://").map_or("", |(scheme, _)| scheme);
        match find {
            Find::Address(address) => Self {
                url: Name::new(format!("{scheme}://{address}")),
                address: Some(*address),
                weight: template.weight,
                backup: template.backup,
            },
            Find::Target { host, port, weight, backup } => Self {
                url: Name::new(format!("{scheme}://{host}:{port}")),
                address: None,
                // A service that drains drains as a whole.
                weight: if template.weight == 0 { 0 } else { *weight },
                backup: *backup || template.backup,
            },
        }
    }
}

impl Server {
    /// One of the servers that this one's name stands for: like it but for what `found` says.
    fn found(&self, upstream: &str, found: Found, location: Location, state: Arc<State>) -> Self {
        let Found { url, weight, backup, .. } = found;
        Self {
            id: ServerId::of(upstream, url.as_str()),
            location,
            tls: self.tls.clone(),
            url,
            host: self.host.clone(),
            authority: self.authority.clone(),
            weight,
            backup,
            max_connections: self.max_connections,
            state,
            doubt: self.doubt.clone(),
        }
    }
}
