//! Drains and lists over workers that are only as many tunnels as they are told.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Closed, Drains, NoDrain, Tunnels, WhyDrains};
use crate::clock::{self, Instant};
use crate::config;
use crate::exchange::Way;
use crate::exchange::live::{CloseOrder, Matches, Page, Progress, TunnelRef, TunnelRow, TunnelState, Which};
use crate::snapshot::Snapshot;
use crate::telemetry::end::EndReason;
use crate::types::{HttpVersion, Peer};
use crate::upstream::{Server, TunnelShare};
use crate::worker::Command;

/// Two workers' tunnels, and when each of them was closed.
#[derive(Clone, Default)]
struct Live {
    tunnels: Rc<RefCell<Vec<(TunnelRow, TunnelShare)>>>,
    closed: Rc<RefCell<Vec<Instant>>>,
}

struct Bench {
    snapshot: Arc<Snapshot>,
    live: Live,
    tunnels: Tunnels,
    drains: Drains,
    _tasks: [JoinHandle<()>; 3],
}

fn snapshot(servers: &str, more: &str, previous: Option<&Snapshot>) -> Arc<Snapshot> {
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:1\"\n[[route]]\nname = \"r\"\nupstream = \"u\"\n\
         websocket = {{ origins = [\"https://a.test\"], close_removed = true }}\n\
         [upstream.u]\nservers = [{servers}]\n{more}\n"
    );
    build(&text, previous)
}

fn build(text: &str, previous: Option<&Snapshot>) -> Arc<Snapshot> {
    let (config, mut report) = config::read_text("test.toml", text, Path::new("."));
    let config = config.unwrap_or_else(|| panic!("{report:?}"));
    Arc::new(Snapshot::build(&config, previous, &mut report).unwrap_or_else(|| panic!("{report:?}")))
}

const A0: &str = "{ url = \"ws://a:1\", weight = 0 }";
const A1: &str = "\"ws://a:1\"";
const B1: &str = "\"ws://b:1\"";

async fn worker(number: u32, mut commands: mpsc::Receiver<Command>, live: Live) {
    while let Some(command) = commands.recv().await {
        let mine = |row: &TunnelRow| row.tunnel.worker == number;
        match command {
            Command::List { from, matches, reply } => {
                let tunnels = live.tunnels.borrow();
                let is_meant = |(row, share): &&(TunnelRow, TunnelShare)| {
                    mine(row) && matches(row, share.state().expect("a server"))
                };
                // Pages of no more than ten.
                let rest: Vec<_> = tunnels.iter().filter(is_meant).skip(from as usize).collect();
                let rows: Vec<_> = rest.iter().take(10).map(|(row, _)| row.clone()).collect();
                let next = (rest.len() > 10).then_some(from + 10);
                let _ = reply.send(Page { rows, next });
            }
            Command::Close { which, reply, .. } => {
                let before = live.tunnels.borrow().len();
                live.tunnels.borrow_mut().retain(|(row, share)| match &which {
                    Which::These(these) => !these.contains(&row.tunnel),
                    Which::All(matches) => !(mine(row) && matches(row, share.state().expect("a server"))),
                });
                let closed = before - live.tunnels.borrow().len();
                live.closed.borrow_mut().extend(std::iter::repeat_n(clock::now(), closed));
                let _ = reply.send(closed);
            }
            Command::Count { reply } => {
                let _ = reply.send(live.tunnels.borrow().iter().filter(|(row, _)| mine(row)).count());
            }
            Command::Refusals { reply, .. } => _ = reply.send(Vec::new()),
        }
    }
}

fn bench(snapshot: Arc<Snapshot>) -> Bench {
    let live = Live::default();
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel(16)).unzip();
    let tunnels = Tunnels::new(senders);
    let drains = Drains::new(&snapshot);
    let mut tasks = receivers
        .into_iter()
        .enumerate()
        .map(|(number, commands)| tokio::task::spawn_local(worker(number as u32, commands, live.clone())));
    let (first, second) = (tasks.next().expect("one"), tasks.next().expect("another"));
    let third = tokio::task::spawn_local(drains.clone().run(tunnels.clone()));
    drop(tasks);
    Bench { snapshot, live, tunnels, drains, _tasks: [first, second, third] }
}

impl Bench {
    fn server(&self, index: usize) -> Arc<Server> {
        self.snapshot.upstreams[0].roster.read().1[index].clone()
    }

    /// Opens tunnels to a server, half of them on each worker.
    fn open(&self, server: &Server, count: usize) {
        let way = Arc::new(Way {
            listener: "l".into(),
            version: HttpVersion::Http1,
            tls: None,
            route: Some("r".into()),
            upstream: Some("u".into()),
            server: Some(server.url.clone()),
            subprotocol: None,
        });
        let progress = Progress {
            state: TunnelState::Open,
            bytes_up: 0,
            bytes_down: 0,
            age: Duration::ZERO,
            idle: Duration::ZERO,
            frames: None,
        };
        for _ in 0..count {
            let share = server.enter_tunnel();
            let mut tunnels = self.live.tunnels.borrow_mut();
            let number = tunnels.last().map_or(1, |(row, _)| row.tunnel.number + 1);
            let tunnel = TunnelRef { number, worker: number as u32 % 2, place: number as u32 };
            let (way, peer, age) = (way.clone(), Peer::Unix, Duration::ZERO);
            tunnels.push((TunnelRow { tunnel, connection: 1, way, peer, client: None, age, progress }, share));
        }
    }

    fn reload(&mut self, snapshot: Arc<Snapshot>) {
        self.drains.follow(&snapshot);
        self.snapshot = snapshot;
    }

    fn closed(&self) -> usize {
        self.live.closed.borrow().len()
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn all() -> Matches {
    Arc::new(|_, _| true)
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_tunnels_of_a_server_without_weight_are_closed_evenly_at_the_rate_and_those_of_others_stay() {
    let bench = bench(snapshot(&format!("{A0}, {B1}"), "drain_rate = 50", None));
    bench.open(&bench.server(0), 400);
    bench.open(&bench.server(1), 30);
    let from = clock::now();
    seconds(4).await;
    assert!((130..=215).contains(&bench.closed()), "{}", bench.closed());
    seconds(8).await;
    assert_eq!((bench.closed(), bench.server(0).state.tunnels(), bench.server(1).state.tunnels()), (400, 0, 30));
    let closed = bench.live.closed.borrow();
    let took = *closed.last().expect("some") - from;
    assert!((7..=10).contains(&took.as_secs()), "{took:?}");
    for window in closed.windows(11) {
        assert!(window[10] - window[0] >= Duration::from_millis(90), "eleven at once");
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn without_a_rate_the_tunnels_of_a_server_that_drains_stay() {
    let mut bench = bench(snapshot(&format!("{A0}, {B1}"), "", None));
    bench.open(&bench.server(0), 10);
    bench.open(&bench.server(1), 10);
    seconds(5).await;
    bench.reload(snapshot(A0, "", Some(&bench.snapshot)));
    seconds(60).await;
    assert_eq!(bench.closed(), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_drain_that_is_begun_again_and_again_is_no_faster_and_ends_with_the_weight() {
    let mut bench = bench(snapshot(&format!("{A0}, {B1}"), "drain_rate = 20", None));
    bench.open(&bench.server(0), 1_000);
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        // A reload that changes nothing, and an operator who asks again.
        bench.reload(snapshot(&format!("{A0}, {B1}"), "drain_rate = 20", Some(&bench.snapshot)));
        bench.drains.drain("u", "ws://a:1", false).expect("it is there");
    }
    assert!((150..=220).contains(&bench.closed()), "{}", bench.closed());
    bench.drains.resume("u", "ws://a:1").expect("it is there");
    seconds(1).await;
    let before = bench.closed();
    seconds(5).await;
    assert!(bench.closed() > before + 50, "it still has no weight");
    bench.reload(snapshot(&format!("{A1}, {B1}"), "drain_rate = 20", Some(&bench.snapshot)));
    seconds(1).await;
    let before = bench.closed();
    seconds(10).await;
    assert_eq!(bench.closed(), before);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn who_drains_by_name_does_so_until_it_is_resumed_whatever_its_weight() {
    let bench = bench(snapshot(&format!("{A1}, {B1}"), "drain_rate = 10", None));
    bench.open(&bench.server(0), 100);
    for (upstream, server) in [("v", "ws://a:1"), ("u", "ws://c:1")] {
        assert_eq!(bench.drains.drain(upstream, server, false), Err(NoDrain::NoSuchServer));
    }
    seconds(2).await;
    assert_eq!((bench.closed(), bench.server(0).drains()), (0, false));
    assert_eq!(bench.drains.drain("u", "ws://a:1", false), Ok(100));
    assert!(bench.server(0).drains() && !bench.server(1).drains());
    seconds(3).await;
    assert!((20..=40).contains(&bench.closed()), "{}", bench.closed());
    bench.drains.resume("u", "ws://a:1").expect("it is there");
    seconds(1).await;
    let before = bench.closed();
    seconds(5).await;
    assert_eq!((bench.closed(), bench.server(0).drains()), (before, false));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_drain_by_name_outlives_the_server_and_its_upstream() {
    let mut bench = bench(snapshot(&format!("{A1}, {B1}"), "drain_rate = 10", None));
    assert_eq!(bench.drains.drain("u", "ws://a:1", false), Ok(0));
    let other = "[[listener]]\naddress = \"127.0.0.1:1\"\n[[route]]\nupstream = \"http://c\"\n";
    for without in [snapshot(B1, "", Some(&bench.snapshot)), build(other, Some(&bench.snapshot))] {
        bench.reload(without);
        seconds(2).await;
        let [drain] = &bench.drains.list()[..] else { panic!("{:?}", bench.drains.list()) };
        assert_eq!((drain.server.as_str(), drain.why, drain.tunnels), ("ws://a:1", WhyDrains::Asked, 0));
        let back = snapshot(&format!("{A1}, {B1}"), "drain_rate = 10", Some(&bench.snapshot));
        // Before anybody can ask it.
        assert!(back.upstreams[0].roster.read().1[0].drains());
        bench.reload(back);
        assert!(bench.server(0).drains() && !bench.server(1).drains());
    }
    bench.open(&bench.server(0), 50);
    seconds(3).await;
    let [drain] = &bench.drains.list()[..] else { panic!("{:?}", bench.drains.list()) };
    assert!(drain.closed > 5 && drain.rate == Some(10) && drain.since.is_some(), "{drain:?}");
    // It can be taken back also while the server is not there.
    bench.reload(build(other, Some(&bench.snapshot)));
    assert_eq!(bench.drains.resume("u", "ws://a:1"), Ok(0));
    assert_eq!(bench.drains.resume("u", "ws://a:1"), Err(NoDrain::NoSuchServer));
    bench.reload(snapshot(&format!("{A1}, {B1}"), "drain_rate = 10", Some(&bench.snapshot)));
    assert!(!bench.server(0).drains());
    seconds(2).await;
    assert!(bench.drains.list().iter().all(|drain| drain.why == WhyDrains::Gone), "{:?}", bench.drains.list());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn servers_and_upstreams_that_are_gone_drain_until_they_come_back() {
    let mut bench = bench(snapshot(&format!("{A1}, {B1}"), "drain_rate = 10", None));
    let (a, b) = (bench.server(0), bench.server(1));
    bench.open(&a, 100);
    bench.open(&b, 100);
    seconds(2).await;
    // One that a name does not stand for any more, without any reload.
    bench.snapshot.upstreams[0].roster.replace(vec![b.clone()]);
    seconds(3).await;
    assert!((1..=99).contains(&a.state.tunnels()) && b.state.tunnels() == 100);
    bench.snapshot.upstreams[0].roster.replace(vec![b.clone(), a.clone()]);
    seconds(2).await;
    let before = bench.closed();
    seconds(5).await;
    assert_eq!(bench.closed(), before);
    // Out with one reload and in with the next: what it has is known all along, and its clients need not go.
    bench.reload(snapshot(B1, "drain_rate = 10", Some(&bench.snapshot)));
    seconds(2).await;
    bench.reload(snapshot(&format!("{A1}, {B1}"), "drain_rate = 10", Some(&bench.snapshot)));
    assert!(Arc::ptr_eq(&bench.server(0).state, &a.state));
    seconds(1).await;
    let before = bench.closed();
    seconds(5).await;
    assert_eq!(bench.closed(), before);
    let other = "[[listener]]\naddress = \"127.0.0.1:1\"\n[[route]]\nupstream = \"http://c\"\n";
    bench.reload(build(other, Some(&bench.snapshot)));
    seconds(30).await;
    assert_eq!((a.state.tunnels(), b.state.tunnels()), (0, 0));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_list_has_the_tunnels_of_all_workers_and_counts_those_who_do_not_answer() {
    let bench = bench(snapshot(A1, "", None));
    bench.open(&bench.server(0), 75);
    let mut listing = bench.tunnels.list(all());
    let mut numbers = Vec::new();
    while let Some(rows) = listing.next().await {
        numbers.extend(rows.into_iter().map(|row| row.tunnel.number));
    }
    numbers.sort_unstable();
    assert_eq!((numbers, listing.silent), ((1..=75).collect(), 0));
    bench._tasks[0].abort();
    let mut listing = bench.tunnels.list(all());
    let mut count = 0;
    while let Some(rows) = listing.next().await {
        count += rows.len();
    }
    assert_eq!((count, listing.silent), (38, 1));
    let order = Arc::new(CloseOrder::new(4000, "", EndReason::ClosedByOperator).expect("good"));
    assert_eq!(bench.tunnels.close(&all(), &order).await, Closed { tunnels: 38, silent: 1 });
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_tunnels_of_a_route_that_is_taken_out_are_closed_where_it_says_so() {
    let bench = bench(snapshot(A1, "", None));
    bench.open(&bench.server(0), 10);
    let route = |name: &str, closes: bool| {
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:1\"\n[[route]]\nname = \"{name}\"\nupstream = \"ws://a:1\"\n\
             websocket = {{ origins = [\"https://a.test\"], close_removed = {closes} }}\n"
        );
        build(&text, None)
    };
    let (stays, is_silent) = (route("r", true), route("r", false));
    assert_eq!(bench.tunnels.close_removed(&bench.snapshot, &stays).await.tunnels, 0);
    assert_eq!(bench.tunnels.close_removed(&is_silent, &route("s", true)).await.tunnels, 0);
    assert_eq!(bench.tunnels.close_removed(&stays, &route("s", true)).await.tunnels, 10);
}
