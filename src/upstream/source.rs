//! Where connections to servers come from, and where they go: an upstream's local addresses, and the addresses of one
//! server with every way that leads there.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use smallvec::SmallVec;
use tokio::net::{TcpSocket, TcpStream};

use super::ports::{Link, LinkGuard, Pair};
use super::race::{self, Unreachable};
use crate::clock::Instant;

/// How long an address that was quicker than the one before it is tried first (RFC 8305 9.2 has ten minutes for what
/// is remembered of a network).
const REMEMBERED: Duration = Duration::from_secs(600);

/// Sources that an error names.
const SHOWN: usize = 4;

/// An upstream's local addresses; empty: the kernel's choice.
#[derive(Debug, Default)]
pub struct Sources {
    addresses: Vec<IpAddr>,
    /// Where the next connection begins, of all workers.
    next: AtomicUsize,
}

impl Sources {
    pub fn new(addresses: Vec<IpAddr>) -> Arc<Self> {
        Arc::new(Self { addresses, next: AtomicUsize::new(0) })
    }
}

/// The addresses of one server, never none.
#[derive(Debug)]
pub struct Addresses {
    list: Box<[SocketAddr]>,
    /// Of each address in the list: one way for each source of its family, or the one that the kernel takes.
    ways: Box<[Box<[Arc<Link>]>]>,
    sources: Arc<Sources>,
    /// Which one has been quicker than those before it, and when: see [`Self::remember`].
    quickest: AtomicU64,
    made_at: Instant,
}

impl Addresses {
    /// `open` counts the server's connections.
    pub fn new(list: impl IntoIterator<Item = SocketAddr>, sources: &Arc<Sources>, open: &Arc<AtomicU32>) -> Self {
        let list: Box<[_]> = list.into_iter().collect();
        let ways = list.iter().map(|address| ways_to(*address, sources, open)).collect();
        let made_at = crate::clock::now();
        Self { list, ways, sources: sources.clone(), quickest: AtomicU64::new(0), made_at }
    }

    pub fn list(&self) -> &[SocketAddr] {
        &self.list
    }

    /// A connection to the first that answers before `deadline`.
    pub(super) async fn connect(&self, deadline: Instant) -> Result<(TcpStream, LinkGuard), Unreachable> {
        let first = self.remembered();
        let (connected, index) = race::race(&self.list, first, deadline, |index| self.connect_to(index)).await?;
        if self.list.len() > 1 && first != Some(index) {
            self.remember(index);
        }
        Ok(connected)
    }

    async fn connect_to(&self, index: usize) -> io::Result<(TcpStream, LinkGuard)> {
        let (address, ways) = (self.list[index], &self.ways[index]);
        let start = if ways.len() > 1 { self.sources.next.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let mut failed = SmallVec::<[_; 1]>::new();
        for step in 0..ways.len() {
            let way = &ways[start.wrapping_add(step) % ways.len()];
            let guard = way.take();
            let Some(source) = way.source() else {
                return TcpStream::connect(address).await.map(|stream| (stream, guard));
            };
            // Boxed: rare, and large.
            match Box::pin(connect_from(source, address)).await {
                Ok(stream) => return Ok((stream, guard)),
                // It has no port left, or is not an address of this machine (now): another may do.
                Err(error) if is_out_of_ports(&error) => {
                    failed.push((source, error));
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrNotAvailable, no_source(&failed)))
    }

    /// Takes over which one has been quicker, where both lists have it.
    pub(super) fn remember_of(&self, before: &Self) {
        let quickest = before.remembered().map(|index| before.list[index]);
        if let Some(index) = quickest.and_then(|address| self.list.iter().position(|other| *other == address)) {
            self.remember(index);
        }
    }

    /// The half above is the index plus one, the one below is seconds since `made_at`.
    fn remember(&self, index: usize) {
        let index = u64::try_from(index).unwrap_or_default() + 1;
        self.quickest.store(index << 32 | self.age() & 0xffff_ffff, Ordering::Relaxed);
    }

    fn remembered(&self) -> Option<usize> {
        let packed = self.quickest.load(Ordering::Relaxed);
        let index = usize::try_from(packed >> 32).ok()?.checked_sub(1)?;
        let age = self.age().saturating_sub(packed & 0xffff_ffff);
        (age < REMEMBERED.as_secs()).then_some(index)
    }

    fn age(&self) -> u64 {
        crate::clock::now().saturating_duration_since(self.made_at).as_secs()
    }
}

fn ways_to(destination: SocketAddr, sources: &Sources, open: &Arc<AtomicU32>) -> Box<[Arc<Link>]> {
    if sources.addresses.is_empty() {
        return Box::new([Link::over(Pair { source: None, destination }, open)]);
    }
    let same_family = sources.addresses.iter().filter(|source| source.is_ipv6() == destination.is_ipv6());
    same_family.map(|source| Link::over(Pair { source: Some(*source), destination }, open)).collect()
}

fn no_source(failed: &[(IpAddr, io::Error)]) -> String {
    let named = failed.iter().take(SHOWN).map(|(source, error)| format!("from {source}: {error}"));
    match failed.len() {
        0 => "no `source` is of its family".to_owned(),
        all if all > SHOWN => format!("{}, and from {} more", named.collect::<Vec<_>>().join(", "), all - SHOWN),
        _ => named.collect::<Vec<_>>().join(", "),
    }
}

async fn connect_from(source: IpAddr, destination: SocketAddr) -> io::Result<TcpStream> {
    let socket = if destination.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    // The port is chosen when the destination is known, so that it is taken for this destination only. Without the
    // option (a system before Linux 4.2) it is taken for all, and the connection is none the worse.
    let _ = setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
    socket.bind((source, 0).into())?;
    socket.connect(destination).await
}

fn is_out_of_ports(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::ports::PortUse;
    use super::*;
    use crate::clock;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    }

    fn soon() -> Instant {
        clock::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn each_connection_is_counted_with_its_source_until_its_guard_goes() {
        let (_listener, address) = listener().await;
        let sources = Sources::new(vec![[127, 0, 0, 7].into(), [127, 0, 0, 8].into()]);
        let addresses = Addresses::new([address], &sources, &Arc::default());
        let live = |last: u8| {
            let source = Some(IpAddr::from([127, 0, 0, last]));
            PortUse::of(Pair { source, destination: address }).live()
        };
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(addresses.connect(soon()).await.expect("somebody listens"));
        }
        assert_eq!([live(7), live(8)], [2, 1]);
        assert_eq!(held[0].0.local_addr().expect("an address").ip(), IpAddr::from([127, 0, 0, 7]));
        held.clear();
        assert_eq!([live(7), live(8)], [0, 0]);
    }

    #[tokio::test]
    async fn the_kernels_choice_is_counted_for_the_destination() {
        let (_listener, address) = listener().await;
        let addresses = Addresses::new([address], &Sources::new(vec![]), &Arc::default());
        let counted = PortUse::of(Pair { source: None, destination: address });
        let connection = addresses.connect(soon()).await.expect("somebody listens");
        assert_eq!(counted.live(), 1);
        drop(connection);
        assert_eq!(counted.live(), 0);
        drop(_listener);
        addresses.connect(soon()).await.expect_err("nobody listens");
        assert_eq!(counted.live(), 0, "an attempt that failed takes no port");
    }

    #[tokio::test]
    async fn a_source_that_has_no_port_is_passed_over_and_each_is_asked_once() {
        let (_listener, address) = listener().await;
        // From the block for documentation (RFC 5737): no machine has these.
        let (absent, other) = ([203, 0, 113, 77].into(), [203, 0, 113, 78].into());
        let sources = Sources::new(vec![absent, [127, 0, 0, 8].into(), other]);
        let addresses = Addresses::new([address], &sources, &Arc::default());
        for _ in 0..3 {
            let (stream, _guard) = addresses.connect(soon()).await.expect("one source is good");
            assert_eq!(stream.local_addr().expect("an address").ip(), IpAddr::from([127, 0, 0, 8]));
        }
        let error =
            Addresses::new([address], &Sources::new(vec![absent, other]), &Arc::default()).connect(soon()).await;
        let error = error.expect_err("no source is good").to_string();
        assert!(error.contains("from 203.0.113.77: ") && error.contains("from 203.0.113.78: "), "{error}");
        let error = Addresses::new([address], &Sources::new(vec!["::1".parse().expect("an address")]), &Arc::default())
            .connect(soon())
            .await;
        assert!(error.expect_err("of the other family").to_string().contains("no `source` is of its family"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_quickest_address_is_remembered_for_a_while_and_when_the_list_changes() {
        let list =
            |ports: &[u16]| ports.iter().map(|port| SocketAddr::from(([10, 0, 0, 1], *port))).collect::<Vec<_>>();
        let sources = Sources::new(vec![]);
        let addresses = Addresses::new(list(&[1, 2, 3]), &sources, &Arc::default());
        assert_eq!(addresses.remembered(), None);
        tokio::time::advance(Duration::from_secs(1_000)).await;
        addresses.remember(2);
        assert_eq!(addresses.remembered(), Some(2));
        let turned = Addresses::new(list(&[3, 1, 2]), &sources, &Arc::default());
        turned.remember_of(&addresses);
        assert_eq!(turned.remembered(), Some(0));
        let other = Addresses::new(list(&[1, 2]), &sources, &Arc::default());
        other.remember_of(&addresses);
        assert_eq!(other.remembered(), None);
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(addresses.remembered(), None);
    }
}
