//! Keepers: one task for each name, which asks, tells the workers, and asks again. It begins with what is known of the
//! name from another configuration.
//!
//! Besides its own time a keeper asks when a server could not be reached, since what moved did so before its TTL was
//! over; never more often than once a second. Dropping [`Keepers`] ends them; what they have found out stays.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::Notify;

use super::follow::Follow;
use super::resolver::{Answer, Family, Resolver, Service};
use super::system::Files;
use super::{book::Known, services};
use crate::lifecycle::{self, Held};
use crate::types::Name;
use crate::upstream::definition::Definition;
use crate::upstream::entries::{Find, Search};
use crate::upstream::server::{Server, ServerId, State};
use crate::upstream::source::{Addresses, Sources};
use crate::upstream::whereabouts::{Nowhere, Resolved};

/// The keepers of an upstream's names.
#[derive(Debug)]
#[must_use = "dropping them ends them"]
pub struct Keepers {
    #[expect(dead_code, reason = "held until the end")]
    all: Vec<Held>,
}

/// Whom keepers ask.
#[derive(Default)]
pub struct Oracle {
    /// Instead of the system's, if there are any.
    name_servers: Option<Vec<SocketAddr>>,
    /// Made for the first who asks.
    resolver: Option<Resolver>,
}

impl Oracle {
    pub fn new(name_servers: Option<&[SocketAddr]>) -> Self {
        Self { name_servers: name_servers.map(<[_]>::to_vec), resolver: None }
    }

    /// The same, if those are still the ones to ask.
    pub fn renewed(self, name_servers: Option<&[SocketAddr]>) -> Self {
        if self.name_servers.as_deref() == name_servers { self } else { Self::new(name_servers) }
    }

    fn resolver(&mut self) -> &Resolver {
        let name_servers = &self.name_servers;
        self.resolver.get_or_insert_with(|| Resolver::new(Files::default(), name_servers.clone()))
    }
}

/// Keeps every name of an upstream resolved.
///
/// # Panics
/// Outside of a local runtime, which is a mistake in the program.
pub fn keep(upstream: &Arc<Definition>, oracle: &mut Oracle) -> Keepers {
    let entries = upstream.entries.list().iter().enumerate();
    let names = entries.filter(|(_, entry)| entry.search != Search::Nothing);
    Keepers { all: names.map(|(index, _)| start(upstream, index, oracle.resolver())).collect() }
}

fn start(definition: &Arc<Definition>, index: usize, resolver: &Resolver) -> Held {
    let (definition, resolver) = (definition.clone(), resolver.clone());
    lifecycle::spawn_held("name keeper", async move {
        let entry = &definition.entries.list()[index];
        match &entry.search {
            Search::Nothing => {}
            Search::Addresses(host, port) => {
                let server = One { host: host.to_string(), port: *port, state: entry.server.state.clone() };
                let follow = Follow::new(&definition.name, host, &entry.server.doubt);
                server.keep(&follow, &definition.sources, &resolver).await;
            }
            Search::Each(host, port) => keep_each(&definition, index, host, *port, &resolver).await,
            Search::Services(service) => keep_services(&definition, index, service, &resolver).await,
        }
    })
}

/// One server with a name.
struct One {
    host: String,
    port: u16,
    state: Arc<State>,
}

impl One {
    async fn keep(&self, follow: &Follow<'_>, sources: &Arc<Sources>, resolver: &Resolver) {
        let ask = async |known: &Known<IpAddr>| complete(resolver.addresses(&self.host).await?, known);
        let tell = |known: &Known<IpAddr>| {
            let place = match known {
                Known::Asking => return,
                Known::Nothing(why) => Resolved::Nowhere(Nowhere(why.to_string().into())),
                Known::Good(addresses) => {
                    let list = addresses.iter().map(|address| SocketAddr::new(*address, self.port));
                    let addresses = Addresses::new(list, sources, &self.state.open);
                    if let Resolved::At(before) = self.state.whereabouts().now() {
                        addresses.remember_of(&before);
                    }
                    Resolved::At(Arc::new(addresses))
                }
            };
            self.state.locate(place);
        };
        let known = match self.state.whereabouts().now() {
            Resolved::At(addresses) => Known::Good(addresses.list().iter().map(SocketAddr::ip).collect()),
            Resolved::Asking | Resolved::Nowhere(_) => Known::Asking,
        };
        follow.run(known, ask, tell).await;
    }
}

async fn keep_each(definition: &Definition, index: usize, host: &str, port: u16, resolver: &Resolver) {
    let follow = Follow::new(&definition.name, host, &definition.entries.list()[index].server.doubt);
    let ask = async |known: &Known<IpAddr>| complete(resolver.addresses(host).await?, known);
    let tell = |known: &Known<IpAddr>| match known {
        Known::Asking => {}
        Known::Nothing(why) => definition.clear(index, Nowhere(why.to_string().into())),
        Known::Good(addresses) => {
            let mut addresses = addresses.clone();
            // Which of them the name server names first says nothing here.
            addresses.sort();
            let finds = addresses.into_iter().map(|address| Find::Address(SocketAddr::new(address, port)));
            definition.stand(index, finds.collect());
        }
    };
    let (finds, _) = definition.entries.standing(index);
    let addresses = finds.iter().filter_map(|find| match find {
        Find::Address(address) => Some(address.ip()),
        Find::Target { .. } => None,
    });
    let known = if finds.is_empty() { Known::Asking } else { Known::Good(addresses.collect()) };
    follow.run(known, ask, tell).await;
}

async fn keep_services(definition: &Definition, index: usize, service: &str, resolver: &Resolver) {
    let doubt = &definition.entries.list()[index].server.doubt;
    let follow = Follow::new(&definition.name, service, doubt);
    // Each target has a keeper of its own.
    let targets = RefCell::new(HashMap::<ServerId, Held>::new());
    let aim = |servers: &[Arc<Server>], finds: Vec<Find>| {
        let mut targets = targets.borrow_mut();
        targets.retain(|id, _| servers.iter().any(|server| server.id == *id));
        for (server, find) in servers.iter().zip(finds) {
            let Find::Target { host, port, .. } = find else { continue };
            let target = Target { host, port, state: server.state.clone(), doubt: doubt.clone() };
            targets.entry(server.id).or_insert_with(|| target.start(definition, resolver));
        }
    };
    let (finds, servers) = definition.entries.standing(index);
    let known = if finds.is_empty() { Known::Asking } else { Known::Good(Vec::new()) };
    aim(&servers, finds);
    let ask = async |_: &Known<Service>| resolver.services(service).await;
    let tell = |known: &Known<Service>| match known {
        Known::Asking => {}
        Known::Nothing(why) => {
            definition.clear(index, Nowhere(why.to_string().into()));
            targets.borrow_mut().clear();
        }
        Known::Good(services) => {
            let finds = services::finds(services);
            aim(&definition.stand(index, finds.clone()), finds);
        }
    };
    follow.run(known, ask, tell).await;
}

/// A server that a service names.
struct Target {
    host: String,
    port: u16,
    state: Arc<State>,
    doubt: Arc<Notify>,
}

impl Target {
    fn start(self, definition: &Definition, resolver: &Resolver) -> Held {
        let Self { host, port, state, doubt } = self;
        let (upstream, sources, resolver): (Name, _, _) =
            (definition.name.clone(), definition.sources.clone(), resolver.clone());
        lifecycle::spawn_held("name keeper", async move {
            // Whole as it is: it is not searched for.
            let server = One { host: format!("{host}."), port, state };
            server.keep(&Follow::new(&upstream, &host, &doubt), &sources, &resolver).await;
        })
    }
}

/// Where only one family could be asked, what was known of the other still holds.
fn complete(mut answer: Answer<IpAddr>, known: &Known<IpAddr>) -> Result<Answer<IpAddr>, super::resolver::Unresolved> {
    if let (Some(missing), Known::Good(before)) = (answer.partial, known) {
        answer.records.extend(before.iter().filter(|address| Family::of(address) == missing));
    }
    Ok(answer)
}
