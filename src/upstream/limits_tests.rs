//! Limits of servers, and the queue for their places: over many threads, and with time by hand.

use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::HeaderMap;

use super::attempts::Attempts;
use super::balance::Ask;
use super::capacity::Place;
use super::definition::Definition;
use super::failure::Failure;
use super::group::{Group, Picked};
use super::queue::Wants;
use super::send::Failed;
use super::server::Server;
use super::share::Share;
use super::trail::Trail;
use crate::clock;
use crate::config;
use crate::tls::SystemRoots;

/// An upstream with these lines.
fn definition(toml: &str) -> Arc<Definition> {
    build(toml, None)
}

fn build(toml: &str, previous: Option<&Definition>) -> Arc<Definition> {
    let text = format!("[[listener]]\naddress = \"127.0.0.1:80\"\n[[route]]\nupstream = \"u\"\n[upstream.u]\n{toml}\n");
    let (config, mut report) = config::read_text("test.toml", &text, Path::new("."));
    let upstream = config.expect("a good file").upstreams.remove(0);
    let built = Definition::build(
        &upstream,
        &mut SystemRoots::default(),
        &Definition::states_of(previous),
        previous,
        &mut report,
    );
    Arc::new(built.expect("a good upstream"))
}

fn servers(definition: &Definition) -> Arc<[Arc<Server>]> {
    definition.roster.read().1
}

fn counts(definition: &Definition) -> (usize, u64, u64) {
    let counts = definition.queue_counts();
    (counts.length, counts.refused, counts.timed_out)
}

/// One request, as far as its place.
struct Request {
    group: Rc<Group>,
    trail: Trail,
}

impl Request {
    fn to(group: &Rc<Group>) -> Self {
        Self { group: group.clone(), trail: Trail::default() }
    }

    async fn place(&self) -> Result<Picked, Failed> {
        let headers = HeaderMap::new();
        Attempts::new(&self.group, &self.trail)
            .next(&Ask { client: None, headers: &headers, path: "/", home: None })
            .await
    }
}

/// A request in a task of its own; the name of the server that it gets a place at goes into the channel, and the place
/// with it.
type Places = tokio::sync::mpsc::UnboundedReceiver<(usize, Result<Picked, Failed>)>;

async fn queued(group: &Rc<Group>, count: usize) -> (Places, Vec<tokio::task::JoinHandle<()>>) {
    let (sender, places) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for number in 0..count {
        let (request, sender) = (Request::to(group), sender.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let place = request.place().await;
            let _ = sender.send((number, place));
        }));
        tokio::task::yield_now().await;
    }
    (places, tasks)
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("runs");
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[track_caller]
fn assert_failed(place: &Result<Picked, Failed>, wanted: fn(&Failure) -> bool) {
    let why = place.as_ref().map(|_| "a place");
    assert!(why.is_err_and(|failed| wanted(&failed.failure)), "{why:?}");
}

#[test]
fn places_go_to_those_who_wait_in_their_order_and_nobody_gets_in_between() {
    local(async {
        let definition = definition("servers = [\"http://10.0.0.1\"]\nmax_connections = 2");
        let group = Group::new(definition.clone());
        let first = Request::to(&group).place().await.expect("room");
        let second = Request::to(&group).place().await.expect("room");
        let (mut places, _tasks) = queued(&group, 5).await;
        assert_eq!(counts(&definition).0, 5);
        drop(first);
        // Handed over, though nobody has taken it yet: there is no room for who comes now.
        assert!(servers(&definition)[0].try_enter().is_none());
        assert_eq!(counts(&definition).0, 4);
        let mut held = second.share.into_tunnel();
        for wanted in 0..5 {
            let (number, place) = places.recv().await.expect("a task");
            assert_eq!(number, wanted);
            assert_eq!(servers(&definition)[0].state.live(), 2);
            let place = place.expect("a place").share;
            held = std::mem::replace(&mut held, place.into_tunnel());
        }
        drop(held);
        assert_eq!((servers(&definition)[0].state.live(), counts(&definition)), (0, (0, 0, 0)));
    });
}

#[test]
fn who_waits_too_long_or_finds_the_queue_full_is_told_so() {
    local(async {
        let definition =
            definition("servers = [\"http://10.0.0.1\"]\nmax_connections = 1\nqueue = { size = 2, timeout = \"3s\" }");
        let group = Group::new(definition.clone());
        let held = Request::to(&group).place().await.expect("room");
        let start = clock::now();
        let (mut places, _tasks) = queued(&group, 3).await;
        let (number, place) = places.recv().await.expect("a task");
        assert_eq!(number, 2);
        assert_failed(&place, |failure| matches!(failure, Failure::Overloaded));
        assert!(start.elapsed() < Duration::from_millis(10));
        for wanted in 0..2 {
            let (number, place) = places.recv().await.expect("a task");
            assert_eq!(number, wanted);
            assert_failed(&place, |failure| matches!(failure, Failure::QueueTimeout));
        }
        assert!((3000..3100).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
        assert_eq!(counts(&definition), (0, 1, 2));
        assert!(definition.queue_counts().waited >= Duration::from_secs(6));
        drop(held);
        assert_eq!(servers(&definition)[0].state.live(), 0);
    });
}

#[test]
fn who_leaves_hands_on_what_he_was_handed() {
    local(async {
        let definition = definition("servers = [\"http://10.0.0.1\"]\nmax_connections = 1");
        let group = Group::new(definition.clone());
        let held = Request::to(&group).place().await.expect("room");
        let (mut places, tasks) = queued(&group, 4).await;
        tasks[1].abort();
        // To the first one, who leaves before he has looked; the second has left; so to the third.
        drop(held);
        tasks[0].abort();
        let (number, place) = places.recv().await.expect("a task");
        assert_eq!(number, 2);
        drop(place);
        assert_eq!(places.recv().await.expect("a task").0, 3);
        assert_eq!((servers(&definition)[0].state.live(), counts(&definition).0), (0, 0));
    });
}

#[test]
fn time_in_the_queue_is_told_even_of_those_who_left_it() {
    local(async {
        let definition = definition("servers = [\"http://10.0.0.1\"]\nmax_connections = 1");
        let group = Group::new(definition.clone());
        let _held = Request::to(&group).place().await.expect("room");
        let request = Request::to(&group);
        assert!(!request.trail.is_waiting());
        {
            let mut place = pin!(request.place());
            let polled = poll_fn(|cx| Poll::Ready(place.as_mut().poll(cx).is_ready())).await;
            assert_eq!((polled, request.trail.is_waiting()), (false, true));
            tokio::time::advance(Duration::from_millis(1500)).await;
        }
        assert!(!request.trail.is_waiting());
        assert_eq!((request.trail.queued(), request.trail.retries()), (Duration::from_millis(1500), 0));
        assert_eq!(counts(&definition).0, 0);
    });
}

#[test]
fn a_server_with_room_ends_the_wait_however_it_came_about() {
    let two = "servers = [{ url = \"http://10.0.0.1\", max_connections = 1 }, \"http://10.0.0.2\"]";
    local(async {
        // A new list.
        let one = definition("servers = [\"http://10.0.0.1\"]\nmax_connections = 1");
        let group = Group::new(one.clone());
        let held = Request::to(&group).place().await.expect("room");
        let (mut places, _tasks) = queued(&group, 2).await;
        let start = clock::now();
        let more = build(two, Some(&*one));
        assert_eq!(servers(&more)[0].state.live(), 1);
        one.roster.replace(servers(&more).to_vec());
        for _ in 0..2 {
            let picked = places.recv().await.expect("a task").1.expect("a place");
            assert_eq!(picked.member.server.url.as_str(), "http://10.0.0.2");
        }
        assert_eq!(clock::now(), start);
        drop(held);

        // A server that is asked again: after a while, or since it was reached.
        for is_reached in [false, true] {
            let definition = definition(two);
            let group = Group::new(definition.clone());
            let [_, other] = &*servers(&definition) else { panic!("two servers") };
            connected(&group, other, false);
            let _held = Request::to(&group).place().await.expect("room");
            let (mut places, _tasks) = queued(&group, 1).await;
            let start = clock::now();
            if is_reached {
                connected(&group, other, true);
            }
            let picked = places.recv().await.expect("a task").1.expect("a place");
            assert!(Arc::ptr_eq(&picked.member.server, other));
            let waited = start.elapsed();
            assert!(if is_reached { waited.is_zero() } else { waited >= Duration::from_secs(2) }, "{waited:?}");
            assert!(waited < Duration::from_secs(3));
        }
    });
}

/// Somebody has connected to the server, or tried to.
fn connected(group: &Rc<Group>, server: &Arc<Server>, is_reached: bool) {
    let members = group.members();
    let member = members.iter().find(|member| Arc::ptr_eq(&member.server, server)).expect("of the group");
    let mut share = Share::take(group, member, server.try_enter().expect("room"), true).expect("forced");
    if is_reached {
        share.reached();
    } else {
        share.unreachable(&Failure::ConnectTimeout(String::new()));
    }
}

#[test]
fn a_place_at_a_server_that_is_out_is_handed_to_nobody_while_another_is_worth_waiting_for() {
    local(async {
        let definition = definition("servers = [\"http://10.0.0.1\", \"http://10.0.0.2\"]\nmax_connections = 1");
        let group = Group::new(definition.clone());
        let mut one = Request::to(&group).place().await.expect("room");
        let other = Request::to(&group).place().await.expect("room");
        let (mut places, _tasks) = queued(&group, 2).await;
        one.share.unreachable(&Failure::ConnectTimeout(String::new()));
        let dead = one.member.server.clone();
        drop(one);
        tokio::task::yield_now().await;
        assert!(places.try_recv().is_err());
        assert_eq!((dead.state.live(), counts(&definition).0), (0, 2));
        drop(other);
        let (number, place) = places.recv().await.expect("a task");
        let mut place = place.expect("a place");
        assert_eq!((number, place.member.server.id), (0, servers(&definition)[1].id));
        // With all of them out, trying beats refusing.
        place.share.unreachable(&Failure::ConnectTimeout(String::new()));
        let picked = places.recv().await.expect("a task").1.expect("a place");
        assert!(Arc::ptr_eq(&picked.member.server, &dead));
    });
}

#[test]
fn a_wait_ends_when_no_server_may_be_asked_any_more() {
    local(async {
        let definition = definition("servers = [\"http://10.0.0.1\"]\nmax_connections = 1");
        let group = Group::new(definition.clone());
        let held = Request::to(&group).place().await.expect("room");
        let (mut places, _tasks) = queued(&group, 1).await;
        definition.roster.replace(Vec::new());
        let place = places.recv().await.expect("a task").1;
        assert_failed(&place, |failure| matches!(failure, Failure::NoServer));
        drop(held);
        assert_eq!(counts(&definition).0, 0);
    });
}

#[test]
fn a_new_configuration_has_the_same_queue_and_its_own_limits() {
    local(async {
        let old = definition("servers = [\"http://10.0.0.1\"]\nmax_connections = 2");
        let group = Group::new(old.clone());
        let first = Request::to(&group).place().await.expect("room");
        let second = Request::to(&group).place().await.expect("room");
        let new = build("servers = [\"http://10.0.0.1\"]\nmax_connections = 1", Some(&*old));
        let (mut places, _tasks) = queued(&Group::new(new.clone()), 1).await;
        // One less is not yet one less than there may be.
        drop(first);
        tokio::task::yield_now().await;
        assert!(places.try_recv().is_err());
        assert_eq!((servers(&new)[0].state.live(), counts(&old).0), (1, 1));
        drop(second);
        assert!(places.recv().await.expect("a task").1.is_ok());
    });
}

#[test]
fn a_retry_waits_for_servers_that_it_has_not_been_to_and_needs_the_budget() {
    local(async {
        let toml = "servers = [\"http://10.0.0.1\", \"http://10.0.0.2\"]\nmax_connections = 1\n\
                    queue = { timeout = \"4s\" }\nretry_budget = { percent = 0, min_per_second = 1 }";
        let definition = definition(toml);
        let group = Group::new(definition.clone());
        let headers = HeaderMap::new();
        let ask = Ask { client: None, headers: &headers, path: "/", home: None };
        let held = Request::to(&group).place().await.expect("room");
        let trail = Trail::default();
        let mut attempts = Attempts::new(&group, &trail);
        let picked = attempts.next(&ask).await.expect("room");
        attempts.failed(&picked.member, Failure::ConnectTimeout(String::new())).expect("one more");
        drop(picked);
        // The one that it was at has room, the other has none.
        let start = clock::now();
        let failed = attempts.next(&ask).await;
        assert_failed(&failed, |failure| matches!(failure, Failure::QueueTimeout));
        assert!(failed.is_err_and(|failed| failed.server.is_some()), "the one that was asked");
        assert_eq!((start.elapsed(), trail.queued()), (Duration::from_secs(4), Duration::from_secs(4)));
        assert_eq!(trail.retries(), 0, "it never got there");
        drop(held);
        let mut outcomes = Vec::new();
        for _ in 0..3 {
            let trail = Trail::default();
            let mut attempts = Attempts::new(&group, &trail);
            let picked = attempts.next(&ask).await.expect("room");
            attempts.failed(&picked.member, Failure::ConnectTimeout(String::new())).expect("one more");
            outcomes.push((attempts.next(&ask).await.map(|_| ()).map_err(|failed| failed.failure), trail.retries()));
        }
        let refused = outcomes.iter().filter(|outcome| matches!(outcome, (Err(Failure::ConnectTimeout(_)), 0))).count();
        let retried = outcomes.iter().filter(|outcome| matches!(outcome, (Ok(()), 1))).count();
        assert_eq!((retried, refused), (1, 2), "{outcomes:?}");
        assert_eq!(definition.retry_counts().refused, 2);
    });
}

#[test]
fn a_client_whose_server_is_full_goes_to_another_and_waits_for_any() {
    local(async {
        let definition = definition("servers = [\"http://10.0.0.1\", \"http://10.0.0.2\"]\nmax_connections = 1");
        let group = Group::new(definition.clone());
        let headers = HeaderMap::new();
        let [home, other] = &*servers(&definition) else { panic!("two servers") };
        let ask = Ask { client: None, headers: &headers, path: "/", home: Some(home.id) };
        let trails: [Trail; 3] = Default::default();
        let mut requests = trails.iter().map(|trail| Attempts::new(&group, trail));
        let mut next = || requests.next().expect("one");
        let first = next().next(&ask).await.expect("room");
        let second = next().next(&ask).await.expect("room");
        assert_eq!([first.member.server.id, second.member.server.id], [home.id, other.id]);
        let mut third = next();
        let mut waiting = pin!(third.next(&ask));
        assert!(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await);
        drop(second);
        assert_eq!(waiting.await.expect("a place").member.server.id, other.id);
    });
}

#[test]
fn a_request_that_was_interrupted_goes_back_to_its_server_where_nobody_else_has_room() {
    local(async {
        let definition = definition("servers = [\"http://10.0.0.1\", \"http://10.0.0.2\"]\nmax_connections = 1");
        let group = Group::new(definition.clone());
        let headers = HeaderMap::new();
        let ask = Ask { client: None, headers: &headers, path: "/", home: None };
        let _held = Request::to(&group).place().await.expect("room");
        let trail = Trail::default();
        let mut attempts = Attempts::new(&group, &trail);
        let first = attempts.next(&ask).await.expect("room");
        let home = first.member.clone();
        attempts.interrupted(&home, Failure::Timeout).expect("one more");
        drop(first);
        let again = attempts.next(&ask).await.expect("room");
        assert!(Rc::ptr_eq(&again.member, &home));
        assert_eq!((trail.retries(), trail.queued()), (1, Duration::ZERO));
        assert!(attempts.failed(&home, Failure::Timeout).is_err(), "`retries` is spent");
    });
}

/// A place at any server, as threads with nothing but the queue get one: no clock wakes anybody.
async fn place(definition: &Arc<Definition>) -> Option<Place> {
    let look = || servers(definition).iter().find_map(|server| server.try_enter());
    if let Some(share) = look() {
        return Some(share);
    }
    let wants = Wants { definition: definition.clone(), tried: Default::default() };
    let mut ticket = definition.roster.queue().join(1000, wants)?;
    loop {
        if let Some(share) = look() {
            return Some(share);
        }
        if let Some(share) = poll_fn(|cx| ticket.poll_called(cx)).await {
            return Some(share);
        }
    }
}

#[test]
fn over_many_threads_no_limit_is_exceeded_and_no_place_is_lost() {
    const ROUNDS: u32 = 3000;
    let definition = definition(
        "servers = [{ url = \"http://10.0.0.1\", max_connections = 1 }, { url = \"http://10.0.0.2\", max_connections = 2 }]",
    );
    let inside = [AtomicU32::new(0), AtomicU32::new(0)];
    let (served, left) = (AtomicU32::new(0), AtomicU32::new(0));
    let worker = |number: u32| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runs");
        let tasks = (0..4_u32).map(|task| {
            let (definition, inside, served, left) = (&definition, &inside, &served, &left);
            async move {
                for round in 0..ROUNDS {
                    let mut patience = (round * 7 + task * 3 + number) % 11;
                    let mut place = pin!(place(definition));
                    // Some leave after a few turns, whatever they may have been handed by then.
                    let share = poll_fn(|cx| match place.as_mut().poll(cx) {
                        Poll::Ready(share) => Poll::Ready(share),
                        Poll::Pending if patience == 1 => Poll::Ready(None),
                        Poll::Pending => {
                            if patience > 1 {
                                patience -= 1;
                                cx.waker().wake_by_ref();
                            }
                            Poll::Pending
                        }
                    })
                    .await;
                    let Some(mut share) = share else {
                        left.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    let at = servers(definition).iter().position(|server| share.is_at(server)).expect("one of them");
                    let now = inside[at].fetch_add(1, Ordering::SeqCst) + 1;
                    assert!(now <= at as u32 + 1, "{now} at server {at}");
                    served.fetch_add(1, Ordering::Relaxed);
                    let share = if round % 3 == 0 { Ok(share.become_tunnel()) } else { Err(share) };
                    tokio::task::yield_now().await;
                    inside[at].fetch_sub(1, Ordering::SeqCst);
                    drop(share);
                }
            }
        });
        let all = futures_util::future::join_all(tasks);
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), all).await.expect("no place is lost") });
    };
    std::thread::scope(|scope| (0..4).for_each(|number| _ = scope.spawn(move || worker(number))));
    let live: u32 = servers(&definition).iter().map(|server| server.state.live()).sum();
    assert_eq!((live, definition.queue_counts().length), (0, 0));
    let (served, left) = (served.into_inner(), left.into_inner());
    assert_eq!(served + left, 4 * 4 * ROUNDS);
    assert!(served > ROUNDS && left > 0 && definition.queue_counts().joined > 1000, "{served}, {left} left");
}

#[test]
fn who_comes_to_wait_in_the_moment_in_which_the_last_one_leaves_is_not_forgotten() {
    const ROUNDS: usize = 10_000;
    const OVER: usize = usize::MAX;
    // Two who take turns and have nobody else to wake them; and others like them, so that threads stop at any point.
    let pair = || {
        let definition = definition("servers = [\"http://10.0.0.1\"]\nmax_connections = 1");
        let turn = AtomicUsize::new(0);
        let until = |wanted: usize| loop {
            match turn.load(Ordering::SeqCst) {
                OVER => return false,
                now if now == wanted => return true,
                _ => std::thread::yield_now(),
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    let share = servers(&definition)[0].try_enter().expect("the other has left");
                    turn.store(2 * round + 1, Ordering::SeqCst);
                    (0..round % 64).for_each(|_| std::hint::spin_loop());
                    drop(share);
                    if !until(2 * round + 2) {
                        return;
                    }
                }
            });
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runs");
            for round in 0..ROUNDS {
                until(2 * round + 1);
                let waiting = async { tokio::time::timeout(Duration::from_secs(20), place(&definition)).await };
                let is_served = runtime.block_on(waiting).is_ok_and(|share| share.is_some());
                turn.store(if is_served { 2 * round + 2 } else { OVER }, Ordering::SeqCst);
                assert!(is_served, "nobody woke who waited in round {round}");
            }
        });
    };
    std::thread::scope(|scope| (0..3).for_each(|_| _ = scope.spawn(pair)));
}
