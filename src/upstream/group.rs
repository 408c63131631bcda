//! A group of servers at work on one worker: which is asked next, and this worker's connections to each.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use http::header::HOST;
use smallvec::SmallVec;

use super::balance::{self, Ask, Lack};
use super::capacity::Place;
use super::connection::Idle;
use super::counts::ServerCells;
use super::definition::Definition;
use super::dial::{self, UpstreamStream};
use super::failure::Failure;
use super::http2::Channels;
use super::server::{Server, ServerId, Standing};
use super::share::Share;
use crate::clock;
use crate::config::model::{Ejection, HostHeader};
use crate::proto::proxy_protocol::{Addresses, Sender};
use crate::telemetry::metrics::Own;
use crate::tls::Offer;

/// So many times in a row another worker may be faster; then the server is asked without being tried.
const TRIALS_LOST: usize = 4;

/// A group at work on one worker.
pub struct Group {
    pub definition: Arc<Definition>,
    members: RefCell<Members>,
    random: Cell<u64>,
    pub(super) sweeping: Cell<bool>,
}

/// The roster as this worker read it last.
struct Members {
    version: u64,
    list: Rc<[Rc<Member>]>,
}

/// One server, and what this worker has of it.
pub struct Member {
    pub server: Arc<Server>,
    pub(super) idle: RefCell<Vec<Idle>>,
    /// Where HTTP/2 is spoken.
    pub(super) channels: Rc<Channels>,
    /// Where it stands in the round.
    turn: Cell<i64>,
    /// What this worker counts of it.
    pub(super) cells: Own<ServerCells>,
}

/// Who sends a request.
#[derive(Clone, Copy)]
pub struct Asker {
    /// `None` behind a unix socket.
    pub client: Option<IpAddr>,
    /// Came over TLS, to us or to a proxy that is trusted.
    pub is_secure: bool,
    /// Of the connection that the request came on, for PROXY headers: not what fields of the request say. `None`: it came
    /// over a unix socket.
    pub addresses: Option<Addresses>,
}

/// A server that a request goes to, with the request's place in its count.
pub(super) struct Picked {
    pub(super) member: Rc<Member>,
    pub(super) share: Share,
}

/// Servers that a request has been to.
pub(super) type Tried = SmallVec<[Rc<Member>; 4]>;

impl Member {
    fn new(server: Arc<Server>) -> Rc<Self> {
        let cells = server.state.join_counts();
        Rc::new(Self { server, idle: RefCell::default(), channels: Rc::default(), turn: Cell::new(0), cells })
    }
}

impl Group {
    pub fn new(definition: Arc<Definition>) -> Rc<Self> {
        let (version, servers) = definition.roster.read();
        let list: Rc<[_]> = servers.iter().cloned().map(Member::new).collect();
        let number = definition.join();
        let members = RefCell::new(Members { version, list });
        let group = Self { definition, members, random: Cell::new(seed()), sweeping: Cell::new(false) };
        // Workers begin their rounds at different servers.
        for _ in 0..number % servers.len().max(1) {
            let _ = group.choose(None, &[]);
        }
        Rc::new(group)
    }

    /// The servers at this moment.
    pub(super) fn members(&self) -> Rc<[Rc<Member>]> {
        let mut members = self.members.borrow_mut();
        if members.version != self.definition.roster.version() {
            let (version, servers) = self.definition.roster.read();
            let known = |server: &Arc<Server>| members.list.iter().find(|member| Arc::ptr_eq(&member.server, server));
            let list =
                servers.iter().map(|server| known(server).cloned().unwrap_or_else(|| Member::new(server.clone())));
            *members = Members { version, list: list.collect() };
        }
        members.list.clone()
    }

    /// Among the servers that were not `tried` yet the one that the client is with, else the one that `balance`
    /// chooses, with a place there.
    ///
    /// # Errors
    /// There is none, or none has room.
    pub(super) fn pick(self: &Rc<Self>, ask: &Ask<'_>, tried: &[Rc<Member>]) -> Result<Picked, Lack> {
        if let Some(member) = ask.home.and_then(|home| self.find(home, tried))
            && let Some(place) = member.server.try_enter()
            && let Some(share) = Share::take(self, &member, place, false)
        {
            return Ok(Picked { member, share });
        }
        let key = self.definition.balance.key(ask);
        let mut trials_lost = 0;
        loop {
            let member = self.choose(key, tried)?;
            // Where another worker took the last place since then, the choice is another.
            let Some(place) = member.server.try_enter() else { continue };
            // Where another worker begins the trial of the same server at this very moment, it is as well.
            if let Some(share) = Share::take(self, &member, place, trials_lost >= TRIALS_LOST) {
                return Ok(Picked { member, share });
            }
            trials_lost += 1;
        }
    }

    /// The server that a place is at; `None` where it has left the list.
    pub(super) fn pick_with(self: &Rc<Self>, place: Place) -> Option<Picked> {
        let members = self.members();
        let member = members.iter().find(|member| place.is_at(&member.server))?.clone();
        let share = Share::take(self, &member, place, true)?;
        Some(Picked { member, share })
    }

    /// Where there is no server because names have not been resolved yet, waits for that as long as for a connection.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn wait_for_names(&self) -> Result<(), Failure> {
        let entries = &self.definition.entries;
        entries.doubt();
        match tokio::time::timeout(self.definition.connect_timeout, entries.first_answer()).await {
            Ok(None) => Ok(()),
            Ok(Some(nowhere)) => Err(Failure::nowhere(nowhere)),
            Err(_) => Err(Failure::unresolved()),
        }
    }

    /// The server of that id, if it may get work of a client that is with it.
    fn find(&self, id: ServerId, tried: &[Rc<Member>]) -> Option<Rc<Member>> {
        let members = self.members();
        let member = members.iter().find(|member| member.server.id == id)?;
        let server = &*member.server;
        let is_asked = matches!(server.state.standing(&self.definition), Standing::Up | Standing::Trial);
        let is_fit =
            self.definition.keeps_clients(server) && is_asked && !tried.iter().any(|tried| Rc::ptr_eq(tried, member));
        is_fit.then(|| member.clone())
    }

    /// The server that the client is with. Its cookies go no further. Of several servers it is the first that may get its
    /// work.
    pub(super) fn home(&self, headers: &mut HeaderMap) -> Option<ServerId> {
        let sticky = self.definition.sticky.as_ref()?;
        let homes: SmallVec<[_; 1]> = sticky.find(headers).collect();
        sticky.remove(headers);
        homes.iter().find(|home| self.find(**home, &[]).is_some()).or(homes.first()).copied()
    }

    /// Tells the client where it is from now on, where that matters.
    pub(super) fn tell(&self, answer: &mut HeaderMap, server: &Server, home: Option<ServerId>, asker: Asker) {
        // A server that drains keeps its clients for as long as their cookies last, and no longer.
        let is_leaving = home == Some(server.id) && server.drains();
        if let Some(sticky) = self.definition.sticky.as_ref().filter(|_| !is_leaving) {
            sticky.tell(answer, server.id, home, asker.is_secure);
        }
    }

    fn choose(&self, key: Option<u64>, tried: &[Rc<Member>]) -> Result<Rc<Member>, Lack> {
        let members = self.members();
        let untried = members.iter().filter(|member| !tried.iter().any(|tried| Rc::ptr_eq(tried, member)));
        let (asked, candidates): (SmallVec<[_; 16]>, SmallVec<[_; 16]>) =
            untried.map(|member| (member, member.server.candidate(&self.definition, &member.turn))).unzip();
        let Definition { balance, panic, .. } = &*self.definition;
        let (index, _) = balance::choose(balance, &candidates, key, *panic, || self.random())?;
        Ok(Rc::clone(asked[index]))
    }

    /// Whether one more server may be taken out for its failures: of those that have a weight no more than
    /// `max_ejected_percent` would then be out, for whatever reason.
    pub(super) fn has_room_for_an_ejection(&self, rules: &Ejection, server: &Arc<Server>) -> bool {
        let members = self.members();
        let working = || members.iter().map(|member| &member.server).filter(|server| server.weight > 0);
        let is_out = |other: &&Arc<Server>| {
            !Arc::ptr_eq(other, server)
                && matches!(
                    other.state.standing(&self.definition),
                    Standing::OnTrial | Standing::Ejected | Standing::Down
                )
        };
        let out = working().filter(is_out).count() + 1;
        out * 100 <= working().count() * rules.max_ejected_percent as usize
    }

    /// Connects to one server for a client.
    pub(super) async fn dial(&self, server: &Server, asker: Asker, offer: Offer) -> Result<UpstreamStream, Failure> {
        let deadline = clock::now() + self.definition.connect_timeout;
        dial::dial(&self.definition, server, Sender::Client(asker.addresses), offer, deadline).await
    }

    /// What of a request's head depends on the server that it goes to.
    pub(super) fn address(&self, headers: &mut HeaderMap, server: &Server) {
        if self.definition.host == HostHeader::Upstream {
            headers.insert(HOST, server.host.clone());
        }
    }

    /// Numbers that need not be secret (SplitMix64; Steele, Lea and Flood 2014).
    fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        balance::mix(state)
    }
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness the choices of several gateways are only more alike.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}
