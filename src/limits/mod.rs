//! Permits: how many connections and tunnels may be open at once, and what the process may open at all.
//!
//! Owns the counters behind `server.max_connections` and a route's `max_tunnels` ([`Tunnels`]), and the descriptor limit
//! of the process. A permit is taken before a connection is handed to a worker, or a handshake to an upstream, and given
//! back when it is dropped, wherever that happens. What is done where there is no permit is the accept loop's business,
//! and `exchange`'s.

mod shut;
mod tunnels;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use shut::Shut;
pub use tunnels::{Ledger, NoTunnel, TunnelPermit, Tunnels};

/// Connections at once where the configuration does not say.
const CONNECTIONS: usize = 100_000;

/// Descriptors that a proxied connection may need: the client's socket and the upstream's.
const DESCRIPTORS_PER_CONNECTION: u64 = 2;

/// Descriptors kept back for everything else: listeners, epoll instances and wakers of each worker, logs, files that
/// a reload reads. Where the limit is tiny, half of it.
const DESCRIPTORS_KEPT_BACK: u64 = 128;

/// The connections that are open at once, over all listeners. Clones share one count.
#[derive(Clone, Debug)]
pub struct Connections {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    max: AtomicUsize,
    open: AtomicUsize,
}

impl Connections {
    /// `max` 0 lets nobody in.
    pub fn new(max: usize) -> Self {
        Self { shared: Arc::new(Shared { max: AtomicUsize::new(max), open: AtomicUsize::new(0) }) }
    }

    /// Room for one more connection, or `None` when `max` are open.
    pub fn try_acquire(&self) -> Option<ConnectionPermit> {
        let max = self.max();
        // The count guards no other memory, so that relaxed ordering is enough.
        self.shared
            .open
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < max).then_some(open + 1))
            .ok()?;
        Some(ConnectionPermit { shared: Arc::clone(&self.shared) })
    }

    /// Permits that are out at this moment.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    pub fn max(&self) -> usize {
        self.shared.max.load(Ordering::Relaxed)
    }

    /// For connections to come; those that are open stay, also where they are more.
    pub fn set_max(&self, max: usize) {
        self.shared.max.store(max, Ordering::Relaxed);
    }
}

/// The right to hold one connection open; given back on drop.
#[derive(Debug)]
pub struct ConnectionPermit {
    shared: Arc<Shared>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Raises the soft limit on descriptors to the hard one, as far as the system lets us; returns (soft, hard) as they
/// are afterwards. No limit is `u64::MAX`.
pub fn raise_descriptor_limit() -> (u64, u64) {
    let before = getrlimit(Resource::Nofile);
    if before.current != before.maximum {
        // Refused on systems whose hard limit is "none" while the kernel has one: the soft limit then stays.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    }
    let after = getrlimit(Resource::Nofile);
    (after.current.unwrap_or(u64::MAX), after.maximum.unwrap_or(u64::MAX))
}

/// How many connections a limit of `descriptors` can carry; at least one.
pub fn affordable_connections(descriptors: u64) -> usize {
    let kept_back = DESCRIPTORS_KEPT_BACK.min(descriptors / 2);
    let connections = (descriptors - kept_back) / DESCRIPTORS_PER_CONNECTION;
    usize::try_from(connections).unwrap_or(usize::MAX).max(1)
}

/// `wanted`, or what the descriptor limit allows where that is less; then with a warning in the log. Where nobody has
/// said what is wanted, as many as the default says, and less is only worth a note.
///
/// A matter of the running process, not of the file: `check` may run under another limit than the service.
pub fn fit_connections(wanted: Option<usize>, descriptors: u64) -> usize {
    let affordable = affordable_connections(descriptors);
    let Some(wanted) = wanted else {
        if CONNECTIONS > affordable {
            tracing::info!(descriptors, max_connections = affordable, "the descriptor limit decides max_connections");
        }
        return CONNECTIONS.min(affordable);
    };
    if wanted > affordable {
        tracing::warn!(
            max_connections = wanted,
            descriptors,
            lowered_to = affordable,
            "max_connections is lowered to what the descriptor limit allows; raise it (ulimit -n, LimitNOFILE)"
        );
    }
    wanted.min(affordable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_run_out_at_the_limit_and_come_back_on_drop() {
        let connections = Connections::new(2);
        let first = connections.try_acquire().expect("room for the first");
        let _second = connections.try_acquire().expect("room for the second");
        assert!(connections.try_acquire().is_none());
        assert_eq!(connections.open(), 2);
        drop(first);
        assert!(connections.clone().try_acquire().is_some());
        assert_eq!(connections.open(), 1);
    }

    #[test]
    fn a_changed_limit_counts_what_is_open() {
        let connections = Connections::new(2);
        let held = [connections.try_acquire(), connections.try_acquire()];
        connections.set_max(1);
        assert!(connections.try_acquire().is_none());
        assert_eq!((connections.open(), connections.max()), (2, 1));
        connections.set_max(3);
        assert!(connections.try_acquire().is_some());
        drop(held);
    }

    #[test]
    fn permits_taken_from_many_threads_never_exceed_the_limit() {
        let connections = Connections::new(5);
        let held: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..100).filter_map(|_| connections.try_acquire()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(held.len(), 5);
        drop(held);
        assert_eq!(connections.open(), 0);
    }

    #[test]
    fn raising_makes_the_soft_limit_the_hard_one() {
        let (soft, hard) = raise_descriptor_limit();
        assert_eq!(soft, hard);
    }

    #[test]
    fn each_connection_is_worth_two_descriptors_and_some_are_kept_back() {
        for (descriptors, connections) in
            [(0, 1), (1, 1), (64, 16), (256, 64), (1024, 448), (200_128, 100_000), (u64::MAX, (u64::MAX - 128) / 2)]
        {
            assert_eq!(affordable_connections(descriptors) as u64, connections, "{descriptors}");
        }
        assert_eq!(fit_connections(Some(100_000), 1024), 448);
        assert_eq!(fit_connections(Some(100), 1024), 100);
        assert_eq!(fit_connections(None, 1024), 448);
        assert_eq!(fit_connections(None, u64::MAX), CONNECTIONS);
    }
}
