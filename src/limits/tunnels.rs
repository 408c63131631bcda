//! How many tunnels a route has open, over all workers, and how many of them belong to one client address.
//!
//! The total is one counter. Addresses are counted in a table that is cut into shards with a lock each: it is taken for
//! a moment when a handshake has been accepted and when its tunnel has gone, never for a message. An address is in the
//! table for as long as it has a tunnel, so that the table is never larger than the number of tunnels.
//!
//! An IPv6 client counts by its first 64 bits, since whoever has one address of such a network has them all (RFC 7421).
//! Clients without an address, behind a unix socket whose word about them is not trusted, are one.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Locks of the table: handshakes of that many addresses at a time do not meet.
const SHARDS: usize = 16;

/// A shard with more room than this gives it back when little of it is used.
const ROOM: usize = 64;

/// The tunnels of one route. Clones share one count.
#[derive(Clone, Debug)]
pub struct Tunnels {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    max: usize,
    max_per_address: Option<u32>,
    open: AtomicUsize,
    /// Chosen anew for each process, so that nobody can aim at one shard or bucket.
    hasher: RandomState,
    shards: [Mutex<HashMap<Client, u32>>; SHARDS],
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
    /// `None` is no limit. Where neither is set there is nothing to count.
    pub fn new(max: Option<u32>, max_per_address: Option<u32>) -> Option<Self> {
        if max.is_none() && max_per_address.is_none() {
            return None;
        }
        let shared = Shared {
            max: max.map_or(usize::MAX, |max| max as usize),
            max_per_address,
            open: AtomicUsize::new(0),
            hasher: RandomState::new(),
            shards: Default::default(),
        };
        Some(Self { shared: Arc::new(shared) })
    }

    /// Room for one more tunnel of this client; `None`: nobody knows its address.
    ///
    /// # Errors
    /// There is none, and which limit says so.
    pub fn try_acquire(&self, client: Option<IpAddr>) -> Result<TunnelPermit, NoTunnel> {
        let shared = &self.shared;
        // The count guards no other memory, so that relaxed ordering is enough.
        let counted = shared
            .open
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < shared.max).then_some(open + 1));
        counted.map_err(|_| NoTunnel::Route)?;
        // From here on the permit gives back what was taken.
        let mut permit = TunnelPermit { shared: Arc::clone(shared), client: None };
        if let Some(max) = shared.max_per_address {
            let client = Client::of(client);
            if !shared.enter(client, max) {
                return Err(NoTunnel::Address);
            }
            permit.client = Some(client);
        }
        Ok(permit)
    }

    /// Permits that are out at this moment.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Addresses in the table, and the room that it has.
    #[cfg(test)]
    fn table(&self) -> (usize, usize) {
        let shards = self.shared.shards.iter().map(|shard| shard.lock().expect("no panic"));
        shards.fold((0, 0), |(used, room), shard| (used + shard.len(), room + shard.capacity()))
    }
}

impl Shared {
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
    shared: Arc<Shared>,
    /// Counted for it, where addresses are.
    client: Option<Client>,
}

impl Drop for TunnelPermit {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            self.shared.leave(client);
        }
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
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
