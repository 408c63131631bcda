//! One server as everybody knows it: what it is, and what all workers count and have learnt about it.
//!
//! [`Server`] is immutable and belongs to one snapshot; its [`State`] is shared by all workers and outlives snapshots,
//! so that a reload neither forgets a live tunnel nor that a server is down. Plain counters, no locks.

use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::digest;
use http::HeaderValue;
use tokio::sync::Notify;

use super::asked::Wish;
use super::balance::Candidate;
use super::capacity::{Kept, Live, Place, REQUEST, requests, total, tunnels};
use super::circuit::{Breaker, Gate};
use super::counts::ServerCells;
use super::definition::Definition;
use super::health::{CheckCounts, Checks, LastCheck};
use super::ports::Link;
use super::queue::Queue;
use super::source::{Addresses, Sources};
use super::whereabouts::{Location, Resolved, Whereabouts};
use crate::clock::{self, AtomicInstant, Instant};
use crate::config::model::{self, Resolve, ServerAddress};
use crate::proto::host::{Authority, parse_authority};
use crate::telemetry::metrics::{Ledger, Own};
use crate::tls::ClientTls;
use crate::types::Name;

/// What a server is called where its address must not be shown: the same for the same upstream and URL, in every
/// process and on every gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u64);

impl ServerId {
    pub fn of(upstream: &str, url: &str) -> Self {
        // Neither may contain a NUL.
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(upstream.as_bytes());
        context.update(&[0]);
        context.update(url.as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *context.finish().as_ref() else { return Self(0) };
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// One server of one snapshot.
pub struct Server {
    pub id: ServerId,
    pub location: Location,
    /// TLS, and with which name; or none.
    pub(super) tls: Option<(Arc<str>, ClientTls)>,
    /// For logs: as written, or with what its name stands for.
    pub url: Name,
    /// What `host = "upstream"` sends.
    pub host: HeaderValue,
    /// The same, parsed, with its port in any case; `None` for a unix socket.
    pub authority: Option<Authority>,
    /// Its share of new work beside the others'; 0: it drains, and gets none.
    pub weight: u32,
    /// Asked only when no other server can be.
    pub backup: bool,
    /// Requests and tunnels that it may have at a time, over all workers. `None`: as many as come.
    pub max_connections: Option<u32>,
    pub state: Arc<State>,
    /// Told when the server could not be reached: what its name stands for may have changed.
    pub(super) doubt: Arc<Notify>,
}

impl Server {
    pub(super) fn build(
        upstream: &str,
        server: &model::UpstreamServer,
        tls: Option<ClientTls>,
        state: Arc<State>,
        sources: &Arc<Sources>,
    ) -> Self {
        let default_port = if server.tls_name.is_some() { 443 } else { 80 };
        let host = match &server.address {
            ServerAddress::Ip(address) if address.port() == default_port => match address.ip() {
                std::net::IpAddr::V4(ip) => ip.to_string(),
                std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            },
            ServerAddress::Ip(address) => address.to_string(),
            ServerAddress::Name(name, port) => match (server.resolve, name.trim_end_matches('.')) {
                (Resolve::Service, name) => name.splitn(3, '.').last().unwrap_or(name).to_owned(),
                (_, name) if *port == default_port => name.to_owned(),
                (_, name) => format!("{name}:{port}"),
            },
            ServerAddress::Unix(_) => "localhost".to_owned(),
        };
        Self {
            id: ServerId::of(upstream, server.url.as_str()),
            location: match &server.address {
                ServerAddress::Ip(address) => Location::Fixed(Addresses::new([*address], sources, &state.open)),
                ServerAddress::Unix(path) => Location::Unix(path.clone(), Link::local(&state.open)),
                ServerAddress::Name(..) => Location::Named,
            },
            tls: server.tls_name.as_ref().map(|name| name.value.clone()).zip(tls),
            url: server.url.clone(),
            authority: match server.address {
                ServerAddress::Unix(_) => None,
                _ => parse_authority(&host).ok().map(|mut authority| {
                    authority.port.get_or_insert(default_port);
                    authority
                }),
            },
            host: HeaderValue::from_str(&host).unwrap_or(HeaderValue::from_static("localhost")),
            weight: server.weight,
            backup: server.backup,
            max_connections: server.max_connections,
            state,
            doubt: Arc::default(),
        }
    }

    /// A place for one more request; `None`: it has as many as it may.
    pub(super) fn try_enter(&self) -> Option<Place> {
        self.state.try_enter(self.max_connections)
    }

    /// A tunnel's place, for tests that have no tunnel.
    #[cfg(test)]
    pub fn enter_tunnel(&self) -> super::capacity::TunnelShare {
        self.try_enter().expect("room").become_tunnel()
    }

    /// Room in the pool for one more connection that is not in use; `None`: close it.
    pub(super) fn try_keep(&self) -> Option<Kept> {
        self.state.try_keep(self.max_connections)
    }

    /// What the rules of balancing need to know of it. `turn`: where it stands in the round of whoever asks.
    pub(super) fn candidate<'a>(&self, upstream: &Definition, turn: &'a Cell<i64>) -> Candidate<'a> {
        let live = self.state.live();
        Candidate {
            id: self.id,
            weight: u64::from(self.share_of_work()) * u64::from(self.state.warmth(upstream.slow_start)),
            live,
            backup: self.backup,
            standing: self.state.standing(upstream),
            is_full: self.max_connections.is_some_and(|max| live >= max),
            turn,
        }
    }

    /// Whether a connection to that address is still one to the server, whatever has become of its name.
    pub(super) fn is_at(&self, destination: Option<SocketAddr>) -> bool {
        match (&self.location, destination) {
            (Location::Named, Some(destination)) => self.state.whereabouts().is_at(destination),
            _ => true,
        }
    }

    /// Its share of new work at this moment; 0: it drains.
    pub fn share_of_work(&self) -> u32 {
        if self.state.drains.load(Ordering::Relaxed) { 0 } else { self.weight }
    }

    /// It finishes what it has, and gets nothing new.
    pub fn drains(&self) -> bool {
        self.share_of_work() == 0
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Server").field("url", &self.url).field("state", &self.state).finish_non_exhaustive()
    }
}

/// How a server stands towards new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is asked.
    Up,
    /// It was ejected, and that is over: whoever is sent there next tries it.
    Trial,
    /// Somebody tries it now: it is asked where nobody else can be.
    OnTrial,
    /// Live traffic has taken it out.
    Ejected,
    /// It fails its checks, or its name stands for nothing.
    Down,
}

/// What all workers count and have learnt of one server.
#[derive(Debug, Default)]
pub struct State {
    /// Requests and handshakes under way, from their pick to the end of their answer, in the lower half; tunnels in the
    /// upper one. One number, so that a limit holds for their sum at every moment.
    pub(super) live: AtomicU64,
    /// Connections that wait in a pool for their next request.
    pub(super) idle: AtomicU32,
    /// Connections that are open or being opened, those of its checks included.
    pub(super) open: Arc<AtomicU32>,
    /// Connections that were ever opened.
    opened: AtomicU64,
    /// What workers count of it.
    ledger: Ledger<ServerCells>,
    /// Who waits for a place at a server of its upstream.
    queue: OnceLock<Arc<Queue>>,
    /// Taking part since then; `None`: since the start.
    up_since: AtomicInstant,
    /// Of a server whose location is [`Location::Named`].
    whereabouts: OnceLock<Box<Whereabouts>>,
    /// Its name stands for nothing.
    is_nowhere: AtomicBool,
    /// An operator has asked it to drain, whatever its weight.
    drains: AtomicBool,
    /// And to lose its tunnels.
    is_emptied: AtomicBool,
    /// When it last went out or came back; `None`: never yet.
    changed: AtomicInstant,
    ejections: AtomicU64,
    /// What live traffic says of it.
    pub(super) breaker: Breaker,
    /// What checks say of it.
    pub(super) checks: Checks,
}

/// What there is to know of one server, for people and metrics.
#[derive(Clone, Debug)]
pub struct Condition {
    pub standing: Standing,
    /// `None`: since the start.
    pub since: Option<Instant>,
    /// How often live traffic has taken it out so far.
    pub ejections: u64,
    pub checks: CheckCounts,
    /// `None`: it is not checked, or not yet.
    pub last_check: Option<LastCheck>,
}

impl State {
    /// Requests, handshakes and tunnels that the server has now.
    pub fn live(&self) -> u32 {
        // Also the look of one who has just begun to wait, which the end of another must not slip past.
        total(self.live.load(Ordering::SeqCst))
    }

    pub fn requests(&self) -> u32 {
        requests(self.live.load(Ordering::Relaxed))
    }

    pub fn tunnels(&self) -> u32 {
        tunnels(self.live.load(Ordering::Relaxed))
    }

    /// Lets it drain, or take work again, whatever its weight; the latter as one that has come back.
    pub fn set_wish(&self, wish: Wish) {
        let drains = wish != Wish::Work;
        self.is_emptied.store(wish == Wish::Empty, Ordering::Relaxed);
        if self.drains.swap(drains, Ordering::Relaxed) && !drains {
            self.note_arrival();
            self.call_waiting();
        }
    }

    /// Whether an operator has asked for its tunnels to be closed.
    pub fn is_emptied(&self) -> bool {
        self.is_emptied.load(Ordering::Relaxed)
    }

    /// Connections that are kept open for the next request.
    pub fn idle(&self) -> u32 {
        self.idle.load(Ordering::Relaxed)
    }

    /// Connections that are open or being opened, those of its checks included.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that were ever opened.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    pub(super) fn note_opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// What all workers have counted of it.
    pub fn counts(&self) -> ServerCells {
        self.ledger.sum()
    }

    /// For one more worker to count.
    pub(super) fn join_counts(&self) -> Own<ServerCells> {
        self.ledger.join()
    }

    /// Where its places go when they are given up.
    pub(super) fn join(&self, queue: &Arc<Queue>) {
        // One upstream has one queue for as long as anything is known of its servers, so that the first one stays right.
        let _ = self.queue.set(queue.clone());
    }

    /// Counts one more request, until the share is dropped; `None` where `max` are live.
    fn try_enter(self: &Arc<Self>, max: Option<u32>) -> Option<Place> {
        match max {
            None => _ = self.live.fetch_add(REQUEST.0, Ordering::SeqCst),
            Some(max) => {
                // Sequentially consistent with the queue's length: either who waits sees that there is room, or who
                // makes room sees that somebody waits.
                let enter = |live| (total(live) < max).then_some(live + REQUEST.0);
                self.live.try_update(Ordering::SeqCst, Ordering::SeqCst, enter).ok()?;
            }
        }
        Some(Place { state: Some(Arc::clone(self)) })
    }

    /// A request or tunnel has ended: its place goes to the first who waits for it, or to nobody.
    pub(super) fn leave(self: &Arc<Self>, what: Live) {
        let queue = self.queue.get();
        if let Some(queue) = queue.filter(|queue| !queue.is_empty()) {
            return queue.pass_on(self, what);
        }
        // Tests let somebody in here.
        #[cfg(test)]
        std::thread::yield_now();
        self.give_up(what);
        // Whoever came to wait in between may have looked before there was room.
        self.call_waiting();
    }

    /// Nobody takes over the place of what has ended.
    pub(super) fn give_up(&self, what: Live) {
        self.live.fetch_sub(what.0, Ordering::SeqCst);
    }

    /// The place of what has ended is the next request's, without having been free in between.
    pub(super) fn take_over(self: &Arc<Self>, what: Live) -> Place {
        // Wraps where a tunnel's half shrinks, and comes out right: what ended was counted.
        self.live.fetch_add(REQUEST.0.wrapping_sub(what.0), Ordering::SeqCst);
        Place { state: Some(Arc::clone(self)) }
    }

    fn try_keep(self: &Arc<Self>, max: Option<u32>) -> Option<Kept> {
        let max = max.unwrap_or(u32::MAX);
        let keep = |idle| (idle < max).then_some(idle + 1);
        self.idle.try_update(Ordering::Relaxed, Ordering::Relaxed, keep).ok()?;
        Some(Kept { state: Arc::clone(self) })
    }

    /// The server may be asked again: whoever waits for a place looks whether it has room.
    pub(super) fn call_waiting(&self) {
        if let Some(queue) = self.queue.get().filter(|queue| !queue.is_empty()) {
            queue.call_all();
        }
    }

    /// What is known of its name.
    pub(super) fn whereabouts(&self) -> &Whereabouts {
        self.whereabouts.get_or_init(Box::default)
    }

    /// Its name has been resolved, or stands for nothing.
    pub(super) fn locate(&self, resolved: Resolved) {
        let is_nowhere = matches!(resolved, Resolved::Nowhere(_));
        self.whereabouts().publish(resolved);
        if self.is_nowhere.swap(is_nowhere, Ordering::Relaxed) && !is_nowhere {
            self.call_waiting();
        }
    }

    /// How it stands towards work of an upstream; what that upstream does not ask about does not count.
    pub(super) fn standing(&self, upstream: &Definition) -> Standing {
        if self.is_nowhere.load(Ordering::Relaxed) {
            return Standing::Down;
        }
        if upstream.health.is_some() && self.checks.is_down() {
            return Standing::Down;
        }
        if upstream.ejection.is_none() {
            return Standing::Up;
        }
        match self.breaker.get().gate(clock::now) {
            Gate::Closed => Standing::Up,
            Gate::Trial => Standing::Trial,
            Gate::OnTrial => Standing::OnTrial,
            Gate::Open => Standing::Ejected,
        }
    }

    /// For the control plane: takes a lock that no worker takes.
    pub fn condition(&self, upstream: &Definition) -> Condition {
        Condition {
            standing: self.standing(upstream),
            since: self.changed.get(),
            ejections: self.ejections.load(Ordering::Relaxed),
            checks: self.checks.counts(),
            last_check: self.checks.last(),
        }
    }

    /// Comes into its upstream, new or again: nobody has checked it meanwhile.
    pub(super) fn enter_upstream(&self) {
        self.checks.forget();
        self.note_arrival();
    }

    /// Came new, or back, while others were at work: from now on `slow_start` counts.
    pub(super) fn note_arrival(&self) {
        let now = Some(clock::now());
        self.up_since.set(now);
        self.changed.set(now);
        self.call_waiting();
    }

    /// Is out from now on.
    pub(super) fn note_departure(&self) {
        self.changed.set(Some(clock::now()));
    }

    pub(super) fn count_ejection(&self) {
        self.ejections.fetch_add(1, Ordering::Relaxed);
    }

    /// How much of its weight the server takes, in thousandths: all of it once `slow_start` is over.
    pub(super) fn warmth(&self, slow_start: Option<Duration>) -> u32 {
        let (Some(ramp), Some(since)) = (slow_start, self.up_since.get()) else { return 1000 };
        let elapsed = clock::now().saturating_duration_since(since).as_millis();
        let warmth = elapsed.saturating_mul(1000) / ramp.as_millis().max(1);
        // A first tenth at once: something has to come for it to warm up.
        u32::try_from(warmth).unwrap_or(1000).clamp(100, 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_same_in_every_process() {
        assert_eq!(ServerId::of("chat", "ws://10.0.0.5:9000"), ServerId(0xb600_9d29_db90_6337));
        assert_ne!(ServerId::of("chat", "ws://10.0.0.5:9000"), ServerId::of("chat2", "ws://10.0.0.5:9000"));
    }

    #[test]
    fn a_request_that_becomes_a_tunnel_is_counted_once_until_its_end() {
        let state = Arc::new(State::default());
        let mut request = state.try_enter(None).expect("no limit");
        let other = state.try_enter(Some(2)).expect("room");
        assert!(state.try_enter(Some(2)).is_none());
        assert_eq!((state.requests(), state.tunnels(), state.live()), (2, 0, 2));
        let tunnel = request.become_tunnel();
        assert_eq!((state.requests(), state.tunnels(), state.live()), (1, 1, 2));
        assert!(state.try_enter(Some(2)).is_none());
        drop(other);
        drop(tunnel);
        assert_eq!((state.requests(), state.tunnels(), state.live()), (0, 0, 0));
    }

    #[test]
    fn of_connections_that_are_not_in_use_no_more_are_kept_than_may_be_in_use() {
        let state = Arc::new(State::default());
        let kept: Vec<_> = (0..5).filter_map(|_| state.try_keep(Some(3))).collect();
        assert_eq!((kept.len(), state.idle()), (3, 3));
        assert!(state.try_keep(None).is_some());
        drop(kept);
        assert_eq!(state.idle(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_came_back_takes_more_with_time_and_all_in_the_end() {
        let state = State::default();
        let ramp = Some(Duration::from_secs(10));
        assert_eq!(state.warmth(ramp), 1000);
        state.note_arrival();
        assert_eq!(state.warmth(None), 1000);
        assert_eq!(state.warmth(ramp), 100);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!((495..=505).contains(&state.warmth(ramp)), "{}", state.warmth(ramp));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(state.warmth(ramp), 1000);
    }
}
