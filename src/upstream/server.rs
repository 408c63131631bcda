//! One server as everybody knows it: what it is, and what all workers count and have learnt about it.
//!
//! [`Server`] is immutable and belongs to one snapshot; its [`State`] is shared by all workers and outlives snapshots,
//! so that a reload neither forgets a live tunnel nor that a server is down. Plain counters, no locks.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::digest;
use http::HeaderValue;
use tokio::sync::Notify;

use super::place::{Location, Place, Whereabouts};
use super::source::{Addresses, Sources};
use crate::clock::{self, AtomicInstant};
use crate::config::model::{self, Resolve, ServerAddress};
use crate::proto::host::{Authority, parse_authority};
use crate::tls::ClientTls;
use crate::types::Name;

/// How long a server that could not be reached is passed over while others can be asked.
const SKIP_UNREACHABLE: Duration = Duration::from_secs(2);

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
                ServerAddress::Ip(address) => Location::Fixed(Addresses::new([*address], sources)),
                ServerAddress::Unix(path) => Location::Unix(path.clone()),
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
            state,
            doubt: Arc::default(),
        }
    }

    /// Notes whether it could be reached; if not, its name may stand for something else by now.
    pub(super) fn note_dial(&self, reached: bool) {
        self.state.note_dial(reached);
        if !reached {
            self.doubt.notify_waiters();
        }
    }

    /// Whether a connection to that address is still one to the server, whatever has become of its name.
    pub(super) fn is_at(&self, destination: Option<SocketAddr>) -> bool {
        match (&self.location, destination) {
            (Location::Named, Some(destination)) => self.state.whereabouts().is_at(destination),
            _ => true,
        }
    }

    /// One of the servers that this one's name stands for: like it but for what `found` says.
    pub(super) fn found(&self, upstream: &str, found: Found, state: Arc<State>) -> Self {
        let Found { url, location, weight, backup } = found;
        Self {
            id: ServerId::of(upstream, url.as_str()),
            location,
            tls: self.tls.clone(),
            url,
            host: self.host.clone(),
            authority: self.authority.clone(),
            weight,
            backup,
            state,
            doubt: self.doubt.clone(),
        }
    }
}

/// A server that stands behind a name.
pub(super) struct Found {
    pub(super) url: Name,
    pub(super) location: Location,
    pub(super) weight: u32,
    pub(super) backup: bool,
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Server").field("url", &self.url).field("state", &self.state).finish_non_exhaustive()
    }
}

/// What all workers count and have learnt of one server.
#[derive(Debug, Default)]
pub struct State {
    /// Requests and handshakes under way, from their pick to the end of their answer.
    requests: AtomicU32,
    tunnels: AtomicU32,
    /// Could not be reached; passed over until then.
    unreachable_until: AtomicInstant,
    /// Taking part since then; `None`: since the start.
    up_since: AtomicInstant,
    /// Of a server whose location is [`Location::Named`].
    whereabouts: OnceLock<Box<Whereabouts>>,
    /// Its name stands for nothing.
    is_nowhere: AtomicBool,
}

impl State {
    /// Requests, handshakes and tunnels that the server has now.
    pub fn live(&self) -> u32 {
        self.requests.load(Ordering::Relaxed).saturating_add(self.tunnels.load(Ordering::Relaxed))
    }

    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn tunnels(&self) -> u32 {
        self.tunnels.load(Ordering::Relaxed)
    }

    /// Counts one more request, until the share is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> Share {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Share { state: Arc::clone(self) }
    }

    pub(super) fn note_dial(&self, reached: bool) {
        if reached {
            self.unreachable_until.set(None);
        } else {
            self.unreachable_until.set(Some(clock::now() + SKIP_UNREACHABLE));
        }
    }

    /// Whether it is passed over while others can be asked.
    pub fn is_out(&self) -> bool {
        self.is_nowhere.load(Ordering::Relaxed) || self.unreachable_until.is_ahead()
    }

    /// What is known of its name.
    pub(super) fn whereabouts(&self) -> &Whereabouts {
        self.whereabouts.get_or_init(Box::default)
    }

    pub(super) fn place_at(&self, place: Place) {
        self.is_nowhere.store(matches!(place, Place::Nowhere(_)), Ordering::Relaxed);
        self.whereabouts().publish(place);
    }

    /// Came new, or back, while others were at work: from now on `slow_start` counts.
    pub(super) fn note_arrival(&self) {
        self.up_since.set(Some(clock::now()));
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

/// One request's place in the count of its server.
#[derive(Debug)]
pub struct Share {
    state: Arc<State>,
}

impl Share {
    /// The request has become a tunnel.
    pub fn into_tunnel(self) -> TunnelShare {
        self.state.tunnels.fetch_add(1, Ordering::Relaxed);
        TunnelShare { state: Arc::clone(&self.state) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.state.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One tunnel's place in the count of its server.
#[derive(Debug)]
pub struct TunnelShare {
    state: Arc<State>,
}

impl Drop for TunnelShare {
    fn drop(&mut self) {
        self.state.tunnels.fetch_sub(1, Ordering::Relaxed);
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
        let request = state.enter();
        let other = state.enter();
        assert_eq!((state.requests(), state.tunnels(), state.live()), (2, 0, 2));
        let tunnel = request.into_tunnel();
        assert_eq!((state.requests(), state.tunnels(), state.live()), (1, 1, 2));
        drop(other);
        drop(tunnel);
        assert_eq!((state.requests(), state.tunnels(), state.live()), (0, 0, 0));
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
