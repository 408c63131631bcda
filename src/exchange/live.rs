//! The live tunnels of one worker, for those who list them and those who close them.
//!
//! Nothing is written down for them while a tunnel lives: each keeps what is to be known of it where it counts it, in its
//! own task, and its place among those who wait for the end of the process is its place here. Whoever wants something
//! leaves an [`Ask`] at the places and wakes them; each answers in its own turn, between two pieces of what it carries.
//! So a tunnel that nobody asks pays one look at a counter a turn, and no memory. What it costs is a turn of every
//! tunnel that is asked (about a microsecond), which is why all of them are asked in chunks, between which the worker
//! does other things.
//!
//! One command is carried out at a time (see `worker/command.rs`); dropping one leaves asks behind, which are answered
//! to nobody.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::record::{TunnelRecord, Way};
use super::tools::Numbers;
use crate::clock;
use crate::lifecycle::{Phase, Stop, WorkerPhase};
use crate::types::Peer;

pub use crate::tunnel::{BadClose, CloseOrder, Progress, TunnelState};
pub use crate::upstream::State;

/// Tunnels that are asked at once.
const CHUNK: usize = 128;

/// Tunnels that are asked for one page, whether or not they belong on it.
const PAGE: usize = 1024;

/// How long tunnels may take to have their turn; who has had none by then is left out.
const TURN: Duration = Duration::from_secs(2);

/// Which tunnels are meant: those for which this is true. Asked on the tunnel's worker, in the tunnel's own turn.
pub type Matches = Arc<dyn Fn(&TunnelRow, &State) -> bool + Send + Sync>;

/// A tunnel, for as long as it lives, as its worker finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TunnelRef {
    /// Unique in this process, never used again.
    pub number: u64,
    pub(crate) worker: u32,
    pub(crate) place: u32,
}

impl TunnelRef {
    /// The number of its worker.
    pub fn worker(self) -> usize {
        self.worker as usize
    }
}

/// One live tunnel in a list.
#[derive(Clone, Debug)]
pub struct TunnelRow {
    pub tunnel: TunnelRef,
    /// The number of the connection that it came in on, as in the access log.
    pub connection: u64,
    pub way: Arc<Way>,
    pub peer: Peer,
    /// Behind trusted proxies, else the peer's.
    pub client: Option<IpAddr>,
    /// Since its request.
    pub age: Duration,
    pub progress: Progress,
}

/// Some rows, and where to go on.
#[derive(Debug, Default)]
pub struct Page {
    pub rows: Vec<TunnelRow>,
    /// `None`: these were the last.
    pub next: Option<u32>,
}

/// Which tunnels are to be closed.
#[derive(Clone)]
pub enum Which {
    These(Vec<TunnelRef>),
    All(Matches),
}

/// The live tunnels of one worker.
pub struct LiveTunnels {
    worker: u32,
    phase: Rc<WorkerPhase>,
    numbers: Numbers,
    /// What has not been answered yet, by place.
    asks: RefCell<HashMap<u32, Rc<Ask>>>,
    /// How much that is.
    open: Cell<usize>,
}

/// What some tunnels are asked.
pub struct Ask {
    matches: Matches,
    wish: Wish,
    rows: RefCell<Vec<TunnelRow>>,
    closed: Cell<usize>,
}

enum Wish {
    Tell,
    Close(Arc<CloseOrder>),
}

impl Ask {
    fn new(matches: Matches, wish: Wish) -> Rc<Self> {
        Rc::new(Self { matches, wish, rows: RefCell::default(), closed: Cell::new(0) })
    }

    /// A tunnel answers; `close` is how it is closed, and says whether it was still open.
    pub(super) fn answer(&self, row: TunnelRow, server: &State, close: impl FnOnce(&Arc<CloseOrder>) -> bool) {
        if !(self.matches)(&row, server) {
            return;
        }
        match &self.wish {
            Wish::Tell => self.rows.borrow_mut().push(row),
            Wish::Close(order) => self.closed.set(self.closed.get() + usize::from(close(order))),
        }
    }
}

impl LiveTunnels {
    /// `phase` is the worker's, for tunnels alone.
    pub fn new(worker: usize, phase: Rc<WorkerPhase>, numbers: Numbers) -> Self {
        Self { worker: worker as u32, phase, numbers, asks: RefCell::default(), open: Cell::new(0) }
    }

    pub fn phase(&self) -> Phase {
        self.phase.phase()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.phase.waiting()
    }

    pub(super) fn number(&self) -> u64 {
        self.numbers.take()
    }

    /// A tunnel is about to begin: from now on it is asked like all others.
    pub(super) fn enter(&self) -> Stop {
        let mut stop = self.phase.stop();
        stop.enter();
        stop
    }

    /// What the tunnel at this place is asked, if it is.
    pub(super) fn asked(&self, place: u32) -> Option<Rc<Ask>> {
        if self.open.get() == 0 {
            return None;
        }
        let mut asks = self.asks.borrow_mut();
        let ask = asks.remove(&place);
        self.open.set(asks.len());
        ask
    }

    /// Those of the next tunnels, from the place `from` on, that are meant. In no order; tunnels that begin or end
    /// meanwhile may be missing, and none is there twice.
    pub async fn list(&self, from: u32, matches: &Matches) -> Page {
        let ask = Ask::new(matches.clone(), Wish::Tell);
        let next = self.ask_from(from, PAGE, &ask).await;
        Page { rows: ask.rows.take(), next }
    }

    /// Closes them; how many were still open.
    pub async fn close(&self, which: Which, order: Arc<CloseOrder>) -> usize {
        match which {
            Which::All(matches) => {
                let ask = Ask::new(matches, Wish::Close(order));
                let mut from = Some(0);
                while let Some(place) = from {
                    from = self.ask_from(place, PAGE, &ask).await;
                }
                ask.closed.get()
            }
            Which::These(tunnels) => {
                let places: Vec<_> = tunnels.iter().map(|tunnel| tunnel.place).collect();
                let meant: HashSet<_> = tunnels.into_iter().collect();
                // Another one may have the place by now.
                let matches: Matches = Arc::new(move |row, _| meant.contains(&row.tunnel));
                let ask = Ask::new(matches, Wish::Close(order));
                for places in places.chunks(CHUNK) {
                    self.ask(places, &ask).await;
                }
                ask.closed.get()
            }
        }
    }

    /// Asks up to `most` tunnels; where to go on.
    async fn ask_from(&self, from: u32, most: usize, ask: &Rc<Ask>) -> Option<u32> {
        let (mut from, mut left) = (Some(from), most);
        while let Some(place) = from.filter(|_| left > 0) {
            let (places, next) = self.phase.places(place, left.min(CHUNK));
            self.ask(&places, ask).await;
            (from, left) = (next, left - places.len());
        }
        from
    }

    /// Asks the tunnels at these places, and waits until all that are still there have answered.
    async fn ask(&self, places: &[u32], ask: &Rc<Ask>) {
        self.leave(places, ask);
        let deadline = clock::now() + TURN;
        let mut turns = 0_u32;
        loop {
            // Everybody who was woken has a turn.
            tokio::task::yield_now().await;
            turns += 1;
            let is_late = clock::now() >= deadline;
            if turns.is_multiple_of(16) || is_late {
                self.give_up(|place| is_late || !self.phase.is_taken(place));
            }
            if Rc::strong_count(ask) == 1 {
                return;
            }
        }
    }

    fn leave(&self, places: &[u32], ask: &Rc<Ask>) {
        let mut asks = self.asks.borrow_mut();
        asks.extend(places.iter().map(|place| (*place, ask.clone())));
        self.open.set(asks.len());
        drop(asks);
        places.iter().for_each(|place| self.phase.wake(*place));
    }

    /// Takes back what nobody will answer.
    fn give_up(&self, is_lost: impl Fn(u32) -> bool) {
        let mut asks = self.asks.borrow_mut();
        asks.retain(|place, _| !is_lost(*place));
        if asks.is_empty() {
            // Little stays behind of a list of many.
            asks.shrink_to(CHUNK);
        }
        self.open.set(asks.len());
    }
}

impl fmt::Debug for LiveTunnels {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("LiveTunnels").field("open", &self.open).finish_non_exhaustive()
    }
}

/// What a tunnel says of itself; `place` is where it waits.
pub(super) fn row(record: &TunnelRecord, place: u32, progress: Progress) -> TunnelRow {
    TunnelRow {
        tunnel: TunnelRef { number: record.number(), worker: record.live().worker, place },
        connection: record.connection(),
        way: record.way().clone(),
        peer: record.peer(),
        client: record.client(),
        age: record.started().elapsed(),
        progress,
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use tokio::task::JoinHandle;

    use super::*;
    use crate::lifecycle::Lifecycle;
    use crate::telemetry::end::EndReason;
    use crate::types::HttpVersion;

    struct Bench {
        live: Rc<LiveTunnels>,
        /// Turns that all tunnels have had.
        turns: Rc<Cell<usize>>,
        tasks: Vec<JoinHandle<()>>,
    }

    fn bench(tunnels: usize) -> Bench {
        let (phase, _) = Lifecycle::new().follow();
        let live = Rc::new(LiveTunnels::new(3, phase, Numbers::new(0, 1)));
        let mut bench = Bench { live, turns: Rc::default(), tasks: Vec::new() };
        (0..tunnels).for_each(|_| bench.open());
        bench
    }

    fn way() -> Arc<Way> {
        Arc::new(Way {
            listener: "public".into(),
            version: HttpVersion::Http1,
            tls: None,
            route: Some("chat".into()),
            upstream: Some("chat".into()),
            server: Some("ws://a:1".into()),
            subprotocol: None,
        })
    }

    fn row(tunnel: TunnelRef) -> TunnelRow {
        let progress = Progress {
            state: TunnelState::Open,
            bytes_up: 0,
            bytes_down: 0,
            age: Duration::ZERO,
            idle: Duration::ZERO,
            frames: None,
        };
        let (way, peer, age) = (way(), Peer::Unix, Duration::ZERO);
        TunnelRow { tunnel, connection: 2 * tunnel.number, way, peer, client: None, age, progress }
    }

    impl Bench {
        /// A tunnel that ends when it is told to close.
        fn open(&mut self) {
            let (live, turns, server) = (self.live.clone(), self.turns.clone(), State::default());
            let mut stop = live.enter();
            let place = stop.place().expect("entered");
            let tunnel = TunnelRef { number: live.number(), worker: live.worker, place };
            self.tasks.push(tokio::task::spawn_local(poll_fn(move |cx| {
                turns.set(turns.get() + 1);
                let mut is_closed = false;
                if let Some(ask) = live.asked(place) {
                    ask.answer(row(tunnel), &server, |_| !std::mem::replace(&mut is_closed, true));
                }
                if is_closed { Poll::Ready(()) } else { stop.poll_ended(cx) }
            })));
        }

        /// All pages.
        async fn list(&self, matches: &Matches) -> Vec<TunnelRef> {
            let (mut from, mut all) = (Some(0), Vec::new());
            while let Some(place) = from {
                let page = self.live.list(place, matches).await;
                assert!(page.rows.len() <= PAGE);
                all.extend(page.rows.into_iter().map(|row| row.tunnel));
                from = page.next;
            }
            all.sort_by_key(|tunnel| tunnel.number);
            all
        }

        fn open_tunnels(&self) -> usize {
            self.tasks.iter().filter(|task| !task.is_finished()).count()
        }
    }

    fn all() -> Matches {
        Arc::new(|_, _| true)
    }

    fn order() -> Arc<CloseOrder> {
        Arc::new(CloseOrder::new(1000, "", EndReason::ClosedByOperator).expect("good"))
    }

    #[tokio::test(flavor = "local")]
    async fn every_tunnel_is_listed_once_page_by_page_with_one_turn_for_each() {
        let bench = bench(3_000);
        // Those who were never polled are listed as well.
        let listed = bench.list(&all()).await;
        let numbers: Vec<_> = listed.iter().map(|tunnel| tunnel.number).collect();
        assert_eq!(numbers, (1..=3_000).collect::<Vec<_>>());
        assert!(listed.iter().all(|tunnel| tunnel.worker() == 3));
        let before = bench.turns.get();
        let odd: Matches = Arc::new(|row, _| row.tunnel.number % 2 == 1);
        assert_eq!(bench.list(&odd).await.len(), 1_500);
        assert_eq!(bench.turns.get() - before, 3_000);
        assert!(bench.live.asks.borrow().is_empty() && bench.live.open.get() == 0);
    }

    #[tokio::test(flavor = "local")]
    async fn while_many_are_asked_others_have_their_turns() {
        let bench = bench(5_000);
        let turns = Rc::new(Cell::new(0));
        let counted = turns.clone();
        let other = tokio::task::spawn_local(async move {
            loop {
                counted.set(counted.get() + 1);
                tokio::task::yield_now().await;
            }
        });
        bench.list(&all()).await;
        other.abort();
        assert!(turns.get() >= 5_000 / CHUNK, "{}", turns.get());
    }

    #[tokio::test(flavor = "local")]
    async fn those_who_are_meant_are_closed_and_counted_and_nobody_else() {
        let bench = bench(1_000);
        let odd: Matches = Arc::new(|row, _| row.tunnel.number % 2 == 1);
        assert_eq!(bench.live.close(Which::All(odd.clone()), order()).await, 500);
        assert_eq!((bench.open_tunnels(), bench.list(&odd).await), (500, vec![]));
        assert_eq!(bench.live.close(Which::All(odd), order()).await, 0);
        let these = bench.list(&all()).await[..200].to_vec();
        assert_eq!(bench.live.close(Which::These(these.clone()), order()).await, 200);
        assert_eq!(bench.open_tunnels(), 300);
        assert_eq!(bench.live.close(Which::These(these), order()).await, 0);
    }

    #[tokio::test(flavor = "local")]
    async fn whoever_has_the_place_of_one_who_is_gone_is_not_closed_for_it() {
        let mut bench = bench(10);
        let gone = bench.list(&all()).await;
        assert_eq!(bench.live.close(Which::All(all()), order()).await, 10);
        tokio::task::yield_now().await;
        (0..10).for_each(|_| bench.open());
        assert_eq!(bench.live.close(Which::These(gone), order()).await, 0);
        assert_eq!(bench.list(&all()).await.len(), 10);
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn who_has_no_turn_or_is_gone_before_it_holds_nobody_up_for_long() {
        let bench = bench(3);
        let (live, from) = (bench.live.clone(), clock::now());
        // One that will never be polled, and one that is gone while it is asked.
        let stuck = live.enter();
        let gone = live.enter();
        let listing = tokio::task::spawn_local(async move { live.list(0, &all()).await.rows.len() });
        tokio::task::yield_now().await;
        drop(gone);
        tokio::time::advance(TURN).await;
        assert_eq!(listing.await.expect("no panic"), 3);
        assert!(clock::now() - from < 2 * TURN);
        assert_eq!(bench.live.open.get(), 0);
        drop(stuck);
    }
}
