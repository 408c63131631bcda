//! One server as everybody knows it: what it is, and what all workers count and have learnt about it.
//!
//! [`Server`] is immutable and belongs to one snapshot; its [`State`] is shared by all workers and outlives snapshots,
//! so that a reload neither forgets a live tunnel nor that a server is down. Plain counters, no locks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use http::HeaderValue;

use super::circuit::{Breaker, Gate};
use super::definition::Definition;
use super::health::{CheckCounts, Checks, LastCheck};
use crate::clock::{self, AtomicInstant, Instant};
use crate::config::model::{self, ServerAddress};
use crate::proto::host::{Authority, parse_authority};
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
    pub address: ServerAddress,
    /// TLS, and with which name; or none.
    pub(super) tls: Option<(Arc<str>, ClientTls)>,
    /// As written, for logs.
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
}

impl Server {
    pub(super) fn build(
        upstream: &str,
        server: &model::UpstreamServer,
        tls: Option<ClientTls>,
        state: Arc<State>,
    ) -> Self {
        let default_port = if server.tls_name.is_some() { 443 } else { 80 };
        let host = match &server.address {
            ServerAddress::Ip(address) if address.port() == default_port => match address.ip() {
                std::net::IpAddr::V4(ip) => ip.to_string(),
                std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            },
            ServerAddress::Ip(address) => address.to_string(),
            ServerAddress::Name(name, port) if *port == default_port => name.to_string(),
            ServerAddress::Name(name, port) => format!("{name}:{port}"),
            ServerAddress::Unix(_) => "localhost".to_owned(),
        };
        Self {
            id: ServerId::of(upstream, server.url.as_str()),
            address: server.address.clone(),
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
        }
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
    /// It fails its checks.
    Down,
}

/// What all workers count and have learnt of one server.
#[derive(Debug, Default)]
pub struct State {
    /// Requests and handshakes under way, from their pick to the end of their answer.
    requests: AtomicU32,
    tunnels: AtomicU32,
    /// Taking part since then; `None`: since the start.
    up_since: AtomicInstant,
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
        self.requests.load(Ordering::Relaxed).saturating_add(self.tunnels.load(Ordering::Relaxed))
    }

    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn tunnels(&self) -> u32 {
        self.tunnels.load(Ordering::Relaxed)
    }

    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn forget_request(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn count_tunnel(&self) {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn forget_tunnel(&self) {
        self.tunnels.fetch_sub(1, Ordering::Relaxed);
    }

    /// How it stands towards work of an upstream; what that upstream does not ask about does not count.
    pub(super) fn standing(&self, upstream: &Definition) -> Standing {
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

    /// Came new, or back, while others were at work: from now on `slow_start` counts.
    pub(super) fn note_arrival(&self) {
        let now = Some(clock::now());
        self.up_since.set(now);
        self.changed.set(now);
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
