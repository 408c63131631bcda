//! Sweeps over workers that are only as many tunnels as they are told, by a clock that stands still.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::exchange::Way;
use crate::exchange::live::{Page, Progress, State, TunnelRef, TunnelState, Which};
use crate::telemetry::end::EndReason;
use crate::types::{HttpVersion, Peer};
use crate::worker::Command;

/// When a tunnel was closed, by which order, and on which worker.
type Gone = (Instant, Arc<CloseOrder>, u32);

/// All tunnels that are open, and which were closed.
#[derive(Clone, Default)]
struct Live {
    rows: Rc<RefCell<Vec<TunnelRow>>>,
    closed: Rc<RefCell<Vec<Gone>>>,
    /// Orders that are left without an answer.
    deaf: Rc<RefCell<u32>>,
}

struct Bench {
    live: Live,
    listeners: Arc<Shut>,
    routes: Arc<Shut>,
    sweeps: Sweeps,
    _tasks: [JoinHandle<()>; 3],
}

async fn worker(number: u32, mut commands: mpsc::Receiver<Command>, live: Live) {
    let server = State::default();
    while let Some(command) = commands.recv().await {
        match command {
            Command::List { from, matches, reply } => {
                let rows = live.rows.borrow();
                let meant = rows.iter().filter(|row| row.tunnel.worker == number && matches(row, &server));
                let rest: Vec<_> = meant.skip(from as usize).cloned().collect();
                let next = (rest.len() > 10).then_some(from + 10);
                let _ = reply.send(Page { rows: rest.into_iter().take(10).collect(), next });
            }
            Command::Close { which: Which::These(these), order, reply } => {
                if *live.deaf.borrow() > 0 {
                    *live.deaf.borrow_mut() -= 1;
                    continue;
                }
                let before = live.rows.borrow().len();
                live.rows.borrow_mut().retain(|row| !these.contains(&row.tunnel));
                let closed = before - live.rows.borrow().len();
                let one = (clock::now(), order, number);
                live.closed.borrow_mut().extend(std::iter::repeat_n(one, closed));
                let _ = reply.send(closed);
            }
            _ => panic!("nobody asks for that"),
        }
    }
}

fn bench() -> Bench {
    let live = Live::default();
    let (listeners, routes) = (Arc::<Shut>::default(), Arc::<Shut>::default());
    let sweeps = Sweeps::of(listeners.clone(), routes.clone());
    let (first, one) = mpsc::channel(16);
    let (second, other) = mpsc::channel(16);
    let tunnels = Tunnels::new(vec![first, second]);
    let tasks = [
        tokio::task::spawn_local(worker(0, one, live.clone())),
        tokio::task::spawn_local(worker(1, other, live.clone())),
        tokio::task::spawn_local(sweeps.clone().run(tunnels)),
    ];
    Bench { live, listeners, routes, sweeps, _tasks: tasks }
}

impl Bench {
    /// Opens tunnels of a route, half of them on each worker.
    fn open(&self, route: &str, server: &str, count: usize) {
        let way = Arc::new(Way {
            listener: "l".into(),
            version: HttpVersion::Http1,
            tls: None,
            route: Some(route.into()),
            upstream: Some("u".into()),
            server: Some(server.into()),
            subprotocol: None,
        });
        let (state, age) = (TunnelState::Open, Duration::from_secs(3600));
        let progress = Progress { state, bytes_up: 0, bytes_down: 0, age, idle: Duration::ZERO, frames: None };
        let mut rows = self.live.rows.borrow_mut();
        for _ in 0..count {
            let number = rows.iter().map(|row| row.tunnel.number).max().unwrap_or(0) + 1;
            let tunnel = TunnelRef { number, worker: number as u32 % 2, place: number as u32 };
            rows.push(TunnelRow {
                tunnel,
                connection: 1,
                way: way.clone(),
                peer: Peer::Unix,
                client: None,
                age,
                progress,
            });
        }
    }

    fn left(&self, route: &str) -> usize {
        self.live
            .rows
            .borrow()
            .iter()
            .filter(|row| row.way.route.as_ref().is_some_and(|name| name.as_str() == route))
            .count()
    }

    fn closed(&self) -> usize {
        self.live.closed.borrow().len()
    }
}

async fn after(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

fn end_of(order: &CloseOrder) -> CloseOrder {
    order.clone()
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_tunnels_of_a_route_go_evenly_over_the_time_that_was_named_and_those_of_others_stay() {
    let bench = bench();
    bench.open("r", "a", 200);
    bench.open("other", "a", 50);
    let start = clock::now();
    bench.sweeps.drain_route(&"r".into(), Speed::Over(Duration::from_secs(20))).expect("room");
    assert!(bench.routes.has(&"r".into()) && !bench.routes.has(&"other".into()));
    after(10.0).await;
    assert!((80..=120).contains(&bench.closed()), "{}", bench.closed());
    after(13.0).await;
    assert_eq!((bench.left("r"), bench.left("other")), (0, 50));
    let closed = bench.live.closed.borrow();
    let last = closed.last().expect("the last one").0 - start;
    assert!((17.0..22.0).contains(&last.as_secs_f64()), "{last:?}");
    assert!(closed.iter().all(|(_, order, _)| end_of(order) == CloseOrder::route_drained()));
    let gaps: Vec<_> = closed.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(gaps.iter().all(|gap| *gap < Duration::from_millis(400)), "a pause");
    assert!(gaps.iter().collect::<std::collections::HashSet<_>>().len() > 50, "in step");
    let first = closed[..50].iter().filter(|(.., worker)| *worker == 0).count();
    assert!((10..=40).contains(&first), "one worker after the other");
    drop(closed);
    let sweep = bench.sweeps.find(&Subject::Route("r".into())).expect("until it is undone");
    assert_eq!(sweep.progress, SweepProgress { total: 200, closed: 200, left: 0, is_done: true });
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_tunnel_that_opens_late_goes_as_well_until_the_drain_is_undone() {
    let bench = bench();
    let subject = Subject::Route("r".into());
    bench.sweeps.drain_route(&"r".into(), Speed::Rate(100)).expect("room");
    after(1.5).await;
    assert!(bench.sweeps.find(&subject).is_some_and(|sweep| sweep.progress.is_done));
    bench.open("r", "a", 1);
    after(31.0).await;
    assert_eq!((bench.left("r"), bench.closed()), (0, 1));
    bench.open("r", "a", 500);
    after(31.0).await;
    assert_eq!(bench.left("r"), 0);
    bench.open("r", "a", 500);
    after(2.0).await;
    let undone = bench.sweeps.undo(&subject).expect("it was asked for");
    assert!(!bench.routes.has(&"r".into()) && bench.sweeps.undo_by_number(undone.number).is_none());
    let left = bench.left("r");
    after(60.0).await;
    assert!(left > 100 && bench.left("r") == left, "{left}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_tunnels_of_a_listener_go_whatever_their_route() {
    let bench = bench();
    bench.open("r", "a", 20);
    bench.open("other", "a", 20);
    bench.sweeps.drain_listener(&"elsewhere".into(), Speed::Rate(100)).expect("room");
    after(1.5).await;
    assert_eq!(bench.closed(), 0);
    bench.sweeps.drain_listener(&"l".into(), Speed::Rate(100)).expect("room");
    assert!(bench.sweeps.is_shut(&"l".into()) && bench.listeners.has(&"elsewhere".into()));
    after(1.5).await;
    assert_eq!((bench.left("r"), bench.left("other"), bench.closed()), (0, 0, 40));
    let closed = bench.live.closed.borrow();
    assert!(closed.iter().all(|(_, order, _)| end_of(order) == CloseOrder::listener_drained()));
    bench.sweeps.undo(&Subject::Listener("l".into())).expect("it was asked for");
    assert!(!bench.sweeps.is_shut(&"l".into()) && bench.sweeps.is_shut(&"elsewhere".into()));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn those_who_come_late_do_not_wait_for_as_long_as_the_first_one_had() {
    let bench = bench();
    bench.open("r", "a", 1);
    bench.sweeps.drain_route(&"r".into(), Speed::Over(Duration::from_secs(8))).expect("room");
    after(0.5).await;
    bench.open("r", "a", 200);
    after(8.5).await;
    assert_eq!((bench.left("r"), bench.closed()), (0, 201));
    let late = bench.live.closed.borrow()[1..].iter().map(|(at, ..)| *at).collect::<Vec<_>>();
    assert!(late[199] - late[0] > Duration::from_secs(4), "all at once");
    bench.open("r", "a", 200);
    after(8.0).await;
    assert_eq!(bench.left("r"), 0, "after its time as well");
    let late = bench.live.closed.borrow()[201..].iter().map(|(at, ..)| *at).collect::<Vec<_>>();
    assert!(late[199] - late[0] > Duration::from_secs(1), "all at once");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn who_asks_again_and_again_gets_no_more_closed_and_each_is_counted_once() {
    let bench = bench();
    bench.open("r", "a", 100);
    for _ in 0..50 {
        bench.sweeps.drain_route(&"r".into(), Speed::Rate(1)).expect("room");
        after(0.01).await;
    }
    assert!(bench.closed() <= 2, "{}", bench.closed());
    let of = Subject::Route("r".into());
    let progress = bench.sweeps.find(&of).expect("it is there").progress;
    assert_eq!((progress.total, progress.closed + progress.left), (100, 100), "{progress:?}");
    bench.sweeps.drain_route(&"r".into(), Speed::Rate(100)).expect("room");
    after(2.0).await;
    let progress = bench.sweeps.find(&of).expect("it is there").progress;
    assert_eq!((progress.total, progress.closed, bench.left("r")), (100, 100, 0), "{progress:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn many_sweeps_go_on_at_once_each_at_its_own_pace() {
    let bench = bench();
    for (route, server) in [("a", "s"), ("b", "s"), ("c", "t")] {
        bench.open(route, server, 100);
    }
    bench.sweeps.drain_route(&"a".into(), Speed::Rate(10)).expect("room");
    bench.sweeps.drain_route(&"b".into(), Speed::Rate(50)).expect("room");
    bench.sweeps.drain_server(&"u".into(), &"t".into(), Speed::Over(Duration::from_secs(100)));
    after(1.0).await;
    let left = [bench.left("a"), bench.left("b"), bench.left("c")];
    assert!((85..=95).contains(&left[0]) && (40..=60).contains(&left[1]) && (97..=99).contains(&left[2]), "{left:?}");
    // Asked once more it goes on, faster, and has its number and its counts.
    let before = bench.sweeps.find(&Subject::Route("a".into())).expect("it is there");
    bench.sweeps.drain_route(&"a".into(), Speed::Over(Duration::ZERO)).expect("room");
    after(0.1).await;
    let again = bench.sweeps.find(&Subject::Route("a".into())).expect("it is there");
    assert_eq!((again.number, again.progress.closed, bench.left("a")), (before.number, 100, 0));
    let orders: Vec<_> = bench.live.closed.borrow().iter().map(|(_, order, _)| end_of(order)).collect();
    assert!(orders.contains(&CloseOrder::server_drained()));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_process_spreads_its_tunnels_over_no_more_than_the_time_that_it_has() {
    let bench = bench();
    bench.open("r", "a", 100);
    let hard_end = clock::now() + Duration::from_secs(10);
    let sweep = bench.sweeps.drain_process(Speed::Over(Duration::from_secs(3600)), hard_end);
    assert_eq!(sweep.speed, Speed::Over(Duration::from_secs(9)));
    after(9.95).await;
    assert_eq!((bench.left("r"), bench.closed()), (0, 100));
    assert!(bench.live.closed.borrow().iter().all(|(_, order, _)| end_of(order) == CloseOrder::process_drained()));
    assert!(bench.sweeps.undo_by_number(sweep.number).is_none(), "there is no way back");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn who_asks_for_the_drain_of_the_process_is_heard_whenever_that_is() {
    let sweeps = Sweeps::of(Arc::default(), Arc::default());
    sweeps.stop_process(Some(Speed::Rate(7)));
    assert_eq!(sweeps.process_asked().await, Some(Speed::Rate(7)));
    let asking = sweeps.clone();
    tokio::task::spawn_local(async move { asking.stop_process(None) });
    assert_eq!(sweeps.process_asked().await, None);
}

fn by_hand() -> CloseOrder {
    CloseOrder::new(1001, "", EndReason::ClosedByOperator).expect("good")
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_a_filter_means_is_looked_for_once_and_its_outcome_can_be_asked_for_a_while() {
    let bench = bench();
    bench.open("r", "a", 20);
    let all = || -> Matches { Arc::new(|_, _| true) };
    let sweep = bench.sweeps.close("age>1m", all(), by_hand(), Speed::Rate(10)).expect("room");
    after(0.5).await;
    bench.open("r", "a", 5);
    after(10.0).await;
    assert_eq!((bench.left("r"), bench.closed()), (5, 20));
    let list = bench.sweeps.list();
    assert_eq!(list[0].progress, SweepProgress { total: 20, closed: 20, left: 0, is_done: true });
    assert_eq!((list[0].number, &list[0].subject), (sweep.number, &Subject::Tunnels("age>1m".into())));
    after(61.0).await;
    assert!(bench.sweeps.list().is_empty());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn filters_are_bounded_and_each_can_be_taken_back() {
    let bench = bench();
    bench.open("r", "a", 10);
    let slow = |bench: &Bench| {
        bench.sweeps.close("x", Arc::new(|_, _| true), by_hand(), Speed::Over(Duration::from_secs(600)))
    };
    let numbers: Vec<_> = (0..MOST_FILTERS).map(|_| slow(&bench).expect("room").number).collect();
    assert_eq!(slow(&bench).map(|sweep| sweep.number), Err(TooMany));
    for number in numbers {
        assert_eq!(bench.sweeps.undo_by_number(number).map(|sweep| sweep.number), Some(number));
    }
    after(1.0).await;
    assert!(bench.sweeps.list().is_empty() && bench.closed() <= MOST_FILTERS);
    slow(&bench).expect("room again");
    // Of those that are done, some are remembered.
    for _ in 0..3 * MOST_REMEMBERED {
        bench.sweeps.close("none", Arc::new(|_, _| false), by_hand(), Speed::Rate(1)).expect("room");
        after(0.01).await;
    }
    assert!(bench.sweeps.list().len() <= MOST_REMEMBERED + 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_worker_that_does_not_answer_is_asked_again() {
    let bench = bench();
    bench.open("r", "a", 4);
    *bench.live.deaf.borrow_mut() = 1;
    bench.sweeps.close("x", Arc::new(|_, _| true), by_hand(), Speed::Rate(1000)).expect("room");
    after(15.0).await;
    assert_eq!((bench.left("r"), bench.closed()), (0, 4));
}
