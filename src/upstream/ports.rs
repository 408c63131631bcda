//! How many local ports connections to servers take.
//!
//! A TCP connection is told from others by its four numbers, so that one source address has as many connections to one
//! destination as there are ephemeral ports, about 28,000 by default; long-lived tunnels come to that. Live connections
//! are therefore counted for each pair of source and destination, over the whole process and all configurations, since
//! ports belong to the machine. The kernel's own choice of a source counts as one. Who holds a connection holds its
//! [`LinkGuard`]. Ports that only wait to be free again (TIME_WAIT) are the kernel's to know.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::weak_map::WeakMap;

/// Where the kernel says which ports it gives to outgoing connections, of both families.
const RANGE_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// What it gives unless told otherwise.
const USUAL_PORTS: u32 = 60_999 - 32_768 + 1;

/// From this share of all ports on, in percent, the operator is warned.
const WARN_AT: u32 = 80;

/// One warning for each pair in this time.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Every pair that is in use or could be, by what tells it from others. Locked when a server's addresses become known
/// and when somebody asks for a list, never for a connection.
static PAIRS: LazyLock<WeakMap<Pair, PortUse>> = LazyLock::new(WeakMap::default);

/// How many ports there are for each pair.
static PORTS: LazyLock<u32> =
    LazyLock::new(|| std::fs::read_to_string(RANGE_FILE).ok().as_deref().and_then(ports_in).unwrap_or(USUAL_PORTS));

static STARTED: LazyLock<Instant> = LazyLock::new(clock::now);

/// A local address and where it connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// `None`: whatever the kernel takes.
    pub source: Option<IpAddr>,
    pub destination: SocketAddr,
}

impl fmt::Display for Pair {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Some(source) => write!(out, "{source} to {}", self.destination),
            None => write!(out, "{}", self.destination),
        }
    }
}

/// How much of one pair is in use.
#[derive(Debug)]
pub struct PortUse {
    pub pair: Pair,
    live: AtomicU32,
    /// Seconds since [`STARTED`], from 1; 0: never.
    warned_at: AtomicU32,
}

impl PortUse {
    /// The one count of this pair.
    pub fn of(pair: Pair) -> Arc<Self> {
        PAIRS.find(&pair, || Self { pair, live: AtomicU32::new(0), warned_at: AtomicU32::new(0) })
    }

    /// Connections that are open or being opened.
    pub fn live(&self) -> u32 {
        self.live.load(Ordering::Relaxed)
    }

    fn enter(&self) {
        let live = self.live.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if is_short(live, *PORTS) && self.may_warn(clock::now().saturating_duration_since(*STARTED)) {
            tracing::warn!(
                pair = %self.pair,
                live,
                ports = *PORTS,
                "local ports are running out: name further addresses in `source`, or more servers"
            );
        }
    }

    fn may_warn(&self, uptime: Duration) -> bool {
        let now = u32::try_from(uptime.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        let last = self.warned_at.load(Ordering::Relaxed);
        let due = last == 0 || u64::from(now.saturating_sub(last)) >= WARN_EVERY.as_secs();
        due && self.warned_at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// A way to one server, with what is counted of it. Shared by all connections that go it, so that each of them holds one
/// reference.
#[derive(Debug)]
pub struct Link {
    /// `None`: to a unix socket.
    port: Option<Arc<PortUse>>,
    /// The server's connections.
    open: Arc<AtomicU32>,
}

impl Link {
    /// `open` counts the server's connections.
    pub fn over(pair: Pair, open: &Arc<AtomicU32>) -> Arc<Self> {
        Arc::new(Self { port: Some(PortUse::of(pair)), open: open.clone() })
    }

    /// The same to a unix socket.
    pub fn local(open: &Arc<AtomicU32>) -> Arc<Self> {
        Arc::new(Self { port: None, open: open.clone() })
    }

    /// The local address that connections come from; `None`: whatever the kernel takes.
    pub fn source(&self) -> Option<IpAddr> {
        self.port.as_ref().and_then(|port| port.pair.source)
    }

    /// Counts one more connection until the guard is dropped.
    pub fn take(self: &Arc<Self>) -> LinkGuard {
        self.port.iter().for_each(|port| port.enter());
        self.open.fetch_add(1, Ordering::Relaxed);
        LinkGuard(self.clone())
    }
}

/// A connection that is open or being opened.
#[derive(Debug)]
pub struct LinkGuard(Arc<Link>);

impl LinkGuard {
    /// `None`: a unix socket.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.0.port.as_ref().map(|port| port.pair.destination)
    }
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        self.0.port.iter().for_each(|port| _ = port.live.fetch_sub(1, Ordering::Relaxed));
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many ports each pair has, and the live connections of every pair that has been connected to.
pub fn in_use() -> (u32, Vec<(Pair, u32)>) {
    let mut all: Vec<_> = PAIRS.held().iter().map(|known| (known.pair, known.live())).collect();
    all.sort();
    (*PORTS, all)
}

fn is_short(live: u32, ports: u32) -> bool {
    u64::from(live) * 100 > u64::from(ports) * u64::from(WARN_AT)
}

/// The first port and the last, with a tab between them.
fn ports_in(text: &str) -> Option<u32> {
    let mut ends = text.split_whitespace().map(str::parse::<u16>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    (first <= last).then(|| u32::from(last - first) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(last: u8) -> Pair {
        Pair { source: Some([10, 7, 7, 7].into()), destination: ([10, 7, 7, last], 80).into() }
    }

    #[test]
    fn connections_of_one_pair_are_counted_wherever_they_come_from() {
        let (one, other) = (PortUse::of(pair(1)), PortUse::of(pair(1)));
        assert!(Arc::ptr_eq(&one, &other));
        // Two servers at one address.
        let servers = [Arc::default(), Arc::default()];
        let links = servers.each_ref().map(|open| Link::over(pair(1), open));
        let guards = [links[0].take(), links[1].take(), links[1].take()];
        assert_eq!((one.live(), PortUse::of(pair(2)).live()), (3, 0));
        assert_eq!(servers.each_ref().map(|open| open.load(Ordering::Relaxed)), [1, 2]);
        assert!(in_use().1.contains(&(pair(1), 3)));
        drop(guards);
        assert_eq!(servers.each_ref().map(|open| open.load(Ordering::Relaxed)), [0, 0]);
        assert_eq!(one.live(), 0);
        drop((one, other, links));
        assert!(!in_use().1.iter().any(|(known, _)| *known == pair(1)), "what nobody connects to is forgotten");
    }

    #[test]
    fn the_range_is_read_as_the_kernel_writes_it() {
        assert_eq!(ports_in("32768\t60999\n"), Some(28_232));
        assert_eq!(ports_in("1024 65535"), Some(64_512));
        assert_eq!(ports_in("7 7"), Some(1));
        for text in ["", "32768", "60999 32768", "a b", "1 99999"] {
            assert_eq!(ports_in(text), None, "{text}");
        }
    }

    #[test]
    fn a_warning_comes_above_four_fifths_and_once_a_minute() {
        assert!(!is_short(80, 100) && is_short(81, 100) && is_short(1, 1));
        let counted = PortUse::of(pair(3));
        let at = |seconds| counted.may_warn(Duration::from_secs(seconds));
        assert_eq!([0, 1, 59, 60, 61, 119, 120].map(at), [true, false, false, true, false, false, true]);
    }
}
