//! How many tunnels a route has open, over all workers, and how many of them belong to one client address.
//!
//! The total is one counter. Addresses are counted in a table that is cut into shards with a lock each: it is taken for
//! a moment when a handshake has been accepted and when its tunnel has gone, never for a message. An address is in the
//! table for as long as it has a tunnel, so that the table is never larger than the number of tunnels.
//!
//! An IPv6 client counts by its first 64 bits, since whoever has one address of such a network has them all (RFC 7421).
//! Clients without an address, behind a unix socket whose word about them is not trusted, are one.
//!
//! Counts outlive a configuration: the [`Ledger`] finds them again by the route's name, and a reload puts new limits on
//! what is counted already. What was opened while there was nothing to count for is not.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::types::Name;
use crate::weak_map::WeakMap;

/// Locks of the table: handshakes of that many addresses at a time do not meet.
const SHARDS: usize = 16;

/// A shard with more room than this gives it back when little of it is used.
const ROOM: usize = 64;

/// The tunnels of one route, with its limits. Clones share one count.
#[derive(Clone, Debug)]
pub struct Tunnels {
    max: usize,
    max_per_address: Option<u32>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    open: AtomicUsize,
    /// Chosen anew for each route, so that nobody can aim at one shard or bucket.
    hasher: RandomState,
    shards: [Mutex<HashMap<Client, u32>>; SHARDS],
}

impl Counts {
    fn new() -> Self {
        Self { open: AtomicUsize::new(0), hasher: RandomState::new(), shards: Default::default() }
    }
}

/// The counts of all routes, for as long as a configuration or a tunnel has to do with them.
#[derive(Debug, Default)]
pub struct Ledger {
    counts: WeakMap<Name, Counts>,
}

impl Ledger {
    /// The tunnels of the route of this name, with the limits that it has now; `None` is no limit. Where neither is set
    /// there is nothing to count.
    pub fn tunnels(&self, route: &Name, max: Option<u32>, max_per_address: Option<u32>) -> Option<Tunnels> {
        if max.is_none() && max_per_address.is_none() {
            return None;
        }
        Some(Tunnels::of(self.counts.find(route, Counts::new), max, max_per_address))
    }
}

/// Who counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Client {
    V4([u8; 4]),
    /// The first half.
    V6([u16; 4]),
    Nameless,
}

impl Client {
    fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V4(address)) => Self::V4(address.octets()),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
            None => Self::Nameless,
        }
    }
}

/// Why there is no room for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoTunnel {
    /// The route has as many as it may.
    Route,
    /// The client's address has.
    Address,
}

impl Tunnels {
    /// On their own, in no ledger. `None` is no limit. Where neither is set there is nothing to count.
    pub fn new(max: Option<u32>, max_per_address: Option<u32>) -> Option<Self> {
        let is_limited = max.is_some() || max_per_address.is_some();
        is_limited.then(|| Self::of(Arc::new(Counts::new()), max, max_per_address))
    }

    fn of(counts: Arc<Counts>, max: Option<u32>, max_per_address: Option<u32>) -> Self {
        Self { max: max.map_or(usize::MAX, |max| max as usize), max_per_address, counts }
    }

    /// Room for one more tunnel of this client; `None`: nobody knows its address.
    ///
    /// # Errors
    /// There is none, and which limit says so.
    pub fn try_acquire(&self, client: Option<IpAddr>) -> Result<TunnelPermit, NoTunnel> {
        // The count guards no other memory, so that relaxed ordering is enough.
        let counted = self
            .counts
            .open
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < self.max).then_some(open + 1));
        counted.map_err(|_| NoTunnel::Route)?;
        // From here on the permit gives back what was taken.
        let mut permit = TunnelPermit { counts: Arc::clone(&self.counts), client: None };
        if let Some(max) = self.max_per_address {
            let client = Client::of(client);
            if !self.counts.enter(client, max) {
                return Err(NoTunnel::Address);
            }
            permit.client = Some(client);
        }
        Ok(permit)
    }

    /// Permits that are out at this moment.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }

    /// Addresses in the table, and the room that it has.
    #[cfg(test)]
    fn table(&self) -> (usize, usize) {
        let shards = self.counts.shards.iter().map(|shard| shard.lock().expect("no panic"));
        shards.fold((0, 0), |(used, room), shard| (used + shard.len(), room + shard.capacity()))
    }
}

impl Counts {
    fn shard(&self, client: Client) -> &Mutex<HashMap<Client, u32>> {
        &self.shards[self.hasher.hash_one(client) as usize % SHARDS]
    }

    /// False where the client has as many as it may.
    fn enter(&self, client: Client, max: u32) -> bool {
        // A panic elsewhere leaves whole numbers behind.
        let mut table = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        match table.entry(client) {
            Entry::Occupied(open) if *open.get() >= max => false,
            Entry::Occupied(mut open) => {
                *open.get_mut() += 1;
                true
            }
            Entry::Vacant(place) => {
                place.insert(1);
                true
            }
        }
    }

    fn leave(&self, client: Client) {
        let mut table = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut open) = table.entry(client) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
        if table.capacity() > ROOM && table.len() < table.capacity() / 8 {
            let room = table.capacity() / 4;
            table.shrink_to(room);
        }
    }
}

/// The right to hold one tunnel open; given back on drop.
#[derive(Debug)]
pub struct TunnelPermit {
    counts: Arc<Counts>,
    /// Counted for it, where addresses are.
    client: Option<Client>,
}

impl Drop for TunnelPermit {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            self.counts.leave(client);
        }
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn v4(last: u32) -> Option<IpAddr> {
        Some(Ipv4Addr::from(0x0A00_0000 | last).into())
    }

    fn tunnels(max: Option<u32>, per_address: Option<u32>) -> Tunnels {
        Tunnels::new(max, per_address).expect("a limit")
    }

    #[test]
    fn without_a_limit_there_is_nothing_to_count() {
        assert!(Tunnels::new(None, None).is_none());
    }

    #[test]
    fn a_ledger_finds_what_is_open_under_a_name_whatever_the_limits_were() {
        let (ledger, chat) = (Ledger::default(), Name::from("chat"));
        let first = ledger.tunnels(&chat, Some(2), None).expect("a limit");
        let held = first.try_acquire(v4(1)).expect("room");
        let lowered = ledger.tunnels(&chat, Some(1), Some(1)).expect("a limit");
        assert_eq!(lowered.try_acquire(v4(2)).map(drop), Err(NoTunnel::Route));
        let also = first.try_acquire(v4(3)).expect("a request of before goes by the limits of before");
        drop(also);
        drop((first, lowered));
        assert!(ledger.tunnels(&chat, None, None).is_none(), "unlimited for a while");
        let again = ledger.tunnels(&chat, Some(1), None).expect("a limit");
        assert_eq!(again.try_acquire(v4(2)).map(drop), Err(NoTunnel::Route), "the tunnel has kept the count");
        drop((held, again));
        for route in 0..1000 {
            let tunnels = ledger.tunnels(&Name::new(route.to_string()), Some(1), None).expect("a limit");
            assert_eq!(tunnels.open(), 0);
        }
        assert!(ledger.counts.room() < 100, "names that nobody uses are forgotten");
    }

    #[test]
    fn permits_run_out_at_either_limit_and_come_back_on_drop() {
        let tunnels = tunnels(Some(3), Some(2));
        let first = tunnels.try_acquire(v4(1)).expect("room");
        let _second = tunnels.try_acquire(v4(1)).expect("room");
        assert_eq!(tunnels.try_acquire(v4(1)).map(drop), Err(NoTunnel::Address));
        assert_eq!(tunnels.open(), 2, "a refusal takes nothing");
        let _third = tunnels.clone().try_acquire(v4(2)).expect("room");
        assert_eq!(tunnels.try_acquire(v4(3)).map(drop), Err(NoTunnel::Route));
        drop(first);
        assert_eq!((tunnels.open(), tunnels.table().0), (2, 2));
        let _again = tunnels.try_acquire(v4(1)).expect("room again");
    }

    #[test]
    fn an_ipv6_client_counts_by_its_network_and_a_mapped_one_as_what_it_is() {
        let tunnels = tunnels(None, Some(1));
        let v6 = |text: &str| Some(text.parse::<Ipv6Addr>().expect("an address").into());
        let _held = tunnels.try_acquire(v6("2001:db8:1:2::1")).expect("room");
        assert_eq!(tunnels.try_acquire(v6("2001:db8:1:2:ffff::9")).map(drop), Err(NoTunnel::Address));
        assert!(tunnels.try_acquire(v6("2001:db8:1:3::1")).is_ok());
        let _mapped = tunnels.try_acquire(v6("::ffff:10.0.0.1")).expect("room");
        assert_eq!(tunnels.try_acquire(v4(1)).map(drop), Err(NoTunnel::Address));
        let _nameless = tunnels.try_acquire(None).expect("room");
        assert_eq!(tunnels.try_acquire(None).map(drop), Err(NoTunnel::Address), "those without an address are one");
    }

    #[test]
    fn the_table_is_empty_and_small_again_when_the_tunnels_have_gone() {
        let tunnels = tunnels(None, Some(5));
        let held: Vec<_> = (0..100_000).map(|client| tunnels.try_acquire(v4(client)).expect("room")).collect();
        assert!(tunnels.table().1 >= 100_000);
        drop(held);
        let (used, room) = tunnels.table();
        assert_eq!((used, tunnels.open()), (0, 0));
        assert!(room <= SHARDS * 2 * ROOM, "{room}");
    }

    #[test]
    fn permits_taken_from_many_threads_never_exceed_a_limit() {
        let tunnels = tunnels(Some(150), Some(10));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000_u32 {
                        let _held: Vec<_> = (0..8).map(|more| tunnels.try_acquire(v4((round + more) % 20))).collect();
                        assert!(tunnels.open() <= 150);
                    }
                });
            }
        });
        assert_eq!((tunnels.open(), tunnels.table().0), (0, 0));
        let held: Vec<_> = (0..400).filter_map(|client| tunnels.try_acquire(v4(client % 20)).ok()).collect();
        assert_eq!(held.len(), 150);
        let per_address = held.iter().filter(|permit| permit.client == Some(Client::of(v4(0)))).count();
        assert!(per_address <= 10);
    }
}
