//! When servers are asked, and what follows from the answers; the asking itself is scripted, time is paused.

use std::cell::{Cell, RefCell};
use std::path::Path;

use super::ask::{CheckFailure, Checked, Left};
use super::*;
use crate::clock::Instant;
use crate::config;
use crate::tls::SystemRoots;
use crate::upstream::server::{ServerId, Standing, State};

const INTERVAL: Duration = Duration::from_secs(5);

/// An upstream with so many servers.
fn upstream(servers: usize, keys: &str, previous: Option<&Definition>) -> Arc<Definition> {
    let urls: Vec<_> = (0..servers).map(|number| format!("\"http://10.0.0.1:{}\"", 1000 + number)).collect();
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:80\"\n[[route]]\nupstream = \"u\"\n\
         [upstream.u]\nservers = [{}]\n{keys}\n",
        urls.join(", ")
    );
    let (config, mut report) = config::read_text("test.toml", &text, Path::new("/"));
    assert!(!report.has_errors(), "{:?}", report.problems);
    let upstream = &config.expect("a configuration").upstreams[0];
    let definition = Definition::build(
        upstream,
        &mut SystemRoots::default(),
        &Definition::states_of(previous),
        previous,
        &mut report,
    );
    Arc::new(definition.expect("a definition"))
}

const CHECKED: &str = "health = { tcp = true }";

fn server(upstream: &Definition, index: usize) -> Arc<Server> {
    upstream.roster.read().1[index].clone()
}

fn checked(result: Result<(), CheckFailure>, began: Instant) -> Checked {
    let at = clock::now();
    Checked { result, at, took: at - began, left: Left::Nothing }
}

/// Who was asked, and from when to when.
#[derive(Clone, Default)]
struct Script {
    asked: Rc<RefCell<Vec<(ServerId, Instant, Instant)>>>,
    /// How long an answer takes.
    takes: Rc<Cell<Duration>>,
    fails: Rc<Cell<bool>>,
    under_way: Rc<Cell<usize>>,
    most_at_once: Rc<Cell<usize>>,
}

impl Script {
    fn start(&self, upstream: &Arc<Definition>) -> Held {
        let script = self.clone();
        let round = Round {
            upstream: upstream.clone(),
            health: Rc::new(upstream.health.clone().expect("checks")),
            room: Rc::new(room()),
        };
        let asker = move |_: &Definition, server: &Server, _: &Health| {
            let (script, id) = (script.clone(), server.id);
            async move { script.answer(id).await }
        };
        lifecycle::spawn_held("test", follow(round, asker))
    }

    async fn answer(self, id: ServerId) -> Checked {
        let began = clock::now();
        self.under_way.set(self.under_way.get() + 1);
        self.most_at_once.set(self.most_at_once.get().max(self.under_way.get()));
        tokio::time::sleep(self.takes.get()).await;
        self.under_way.set(self.under_way.get() - 1);
        self.asked.borrow_mut().push((id, began, clock::now()));
        checked(if self.fails.get() { Err(CheckFailure::Malformed) } else { Ok(()) }, began)
    }

    fn of(&self, server: &Server) -> Vec<(Instant, Instant)> {
        let asked = self.asked.borrow();
        asked.iter().filter(|(id, ..)| *id == server.id).map(|(_, began, ended)| (*began, *ended)).collect()
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_first_check_is_made_at_once_and_then_one_every_interval_give_or_take_a_tenth() {
    let (upstream, script) = (upstream(1, CHECKED, None), Script::default());
    let start = clock::now();
    let _checks = script.start(&upstream);
    pass(500).await;
    let asked = script.of(&server(&upstream, 0));
    assert_eq!(asked[0].0, start);
    assert!(asked[1].0 - start <= INTERVAL);
    let mut gaps = Vec::new();
    for pair in asked[1..].windows(2) {
        let gap = pair[1].0 - pair[0].0;
        assert!(gap >= INTERVAL.mul_f64(0.89) && gap <= INTERVAL.mul_f64(1.11), "{gap:?}");
        gaps.push(gap);
    }
    gaps.sort_unstable();
    gaps.dedup();
    assert!(gaps.len() > 10, "they keep no step: {gaps:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_server_that_was_out_of_its_upstream_counts_as_up_until_its_first_check_although_it_has_tunnels() {
    let first = upstream(2, CHECKED, None);
    let (held, health) = (server(&first, 1), first.health.clone().expect("checks"));
    let _tunnel = held.enter_tunnel();
    record::enter(&first, &held, &health, &checked(Err(CheckFailure::Malformed), clock::now()));
    assert_eq!(held.state.standing(&first), Standing::Down);
    let same = upstream(2, CHECKED, Some(&first));
    assert_eq!(server(&same, 1).state.standing(&same), Standing::Down, "it was there all along");
    let without = upstream(1, CHECKED, Some(&same));
    let again = upstream(2, CHECKED, Some(&without));
    let state = &server(&again, 1).state;
    assert_eq!((state.standing(&again), state.tunnels()), (Standing::Up, 1));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn many_servers_are_spread_over_the_interval_after_their_first_checks() {
    let (upstream, script) = (upstream(40, CHECKED, None), Script::default());
    let _checks = script.start(&upstream);
    pass(100).await;
    let last = |index| script.of(&server(&upstream, index)).last().expect("checks").0;
    let mut lasts: Vec<_> = (0..40).map(last).collect();
    lasts.sort_unstable();
    assert!(lasts[39] - lasts[0] > INTERVAL / 2);
    assert!(lasts.windows(2).all(|pair| pair[1] - pair[0] < INTERVAL / 2));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn checks_of_one_server_never_overlap_however_long_they_take() {
    let (upstream, script) = (upstream(1, CHECKED, None), Script::default());
    script.takes.set(3 * INTERVAL);
    let _checks = script.start(&upstream);
    pass(200).await;
    assert_eq!(script.most_at_once.get(), 1);
    let asked = script.of(&server(&upstream, 0));
    for pair in asked.windows(2) {
        assert_eq!(pair[1].0 - pair[0].1, BREATH);
    }
    assert!(asked.len() > 10);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn no_more_than_so_many_checks_are_under_way_at_once() {
    let (upstream, script) = (upstream(3 * AT_ONCE, CHECKED, None), Script::default());
    script.takes.set(Duration::from_secs(2));
    let _checks = script.start(&upstream);
    pass(60).await;
    assert_eq!(script.most_at_once.get(), AT_ONCE);
    assert!((0..3 * AT_ONCE).all(|index| script.of(&server(&upstream, index)).len() > 5), "each has its turn");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn checks_follow_the_roster_and_leave_alone_who_stays() {
    let (upstream, script) = (upstream(3, CHECKED, None), Script::default());
    let _checks = script.start(&upstream);
    pass(12).await;
    let [stays, goes, comes] = [0, 1, 2].map(|index| server(&upstream, index));
    upstream.roster.replace(vec![stays.clone(), goes.clone()]);
    pass(60).await;
    let before = [&stays, &goes, &comes].map(|server| script.of(server).len());
    upstream.roster.replace(vec![comes.clone(), stays.clone()]);
    pass(60).await;
    let after = [&stays, &goes, &comes].map(|server| script.of(server).len());
    assert_eq!(after[1], before[1], "nobody asks a server that has gone");
    assert!(after[0] >= before[0] + 10 && after[2] >= before[2] + 10, "{before:?} {after:?}");
    for pair in script.of(&stays)[1..].windows(2) {
        assert!(pair[1].0 - pair[0].0 >= INTERVAL.mul_f64(0.89), "asked out of its turn");
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn dropping_them_ends_the_checks_and_records_nothing_of_those_under_way() {
    let (upstream, script) = (upstream(2, CHECKED, None), Script::default());
    let checks = script.start(&upstream);
    pass(11).await;
    script.takes.set(Duration::from_secs(60));
    script.fails.set(true);
    pass(10).await;
    let before = script.asked.borrow().len();
    drop(checks);
    pass(600).await;
    assert_eq!(script.asked.borrow().len(), before);
    assert!((0..2).all(|index| !server(&upstream, index).state.checks.is_down()));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_new_snapshot_knows_what_was_found_and_does_not_ask_all_at_once() {
    let (old, script) = (upstream(40, CHECKED, None), Script::default());
    script.fails.set(true);
    let checks = script.start(&old);
    pass(1).await;
    drop(checks);
    let new = upstream(41, CHECKED, Some(&old));
    assert_eq!(server(&new, 0).state.standing(&new), Standing::Down);
    assert_eq!(server(&new, 40).state.standing(&new), Standing::Up);
    let start = clock::now();
    let script = Script::default();
    let _checks = script.start(&new);
    pass(11).await;
    let first = |index| script.of(&server(&new, index))[0].0 - start;
    assert_eq!(first(40), Duration::ZERO, "the new one is asked at once");
    assert!((0..40).all(|index| first(index) <= INTERVAL));
    assert!((0..40).filter(|index| first(*index) < INTERVAL / 10).count() < 20);
    pass(11).await;
    assert_eq!(server(&new, 0).state.standing(&new), Standing::Up);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn without_checks_nothing_that_was_found_once_counts() {
    let (old, script) = (upstream(1, CHECKED, None), Script::default());
    script.fails.set(true);
    let checks = script.start(&old);
    pass(1).await;
    drop(checks);
    let without = upstream(1, "", Some(&old));
    let state: &State = &server(&without, 0).state;
    assert_eq!(state.standing(&without), Standing::Up);
    assert!(keep(&without, &Rc::new(room())).is_none());
    assert!(!state.checks.is_known() && state.condition(&without).last_check.is_none());
    let again = upstream(1, CHECKED, Some(&without));
    assert_eq!(state.standing(&again), Standing::Up);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_server_that_comes_back_begins_slowly_and_what_live_traffic_had_against_it_is_forgotten() {
    let (upstream, script) =
        (upstream(1, "slow_start = \"30s\"\nhealth = { tcp = true, rise = 3 }", None), Script::default());
    let state = server(&upstream, 0).state.clone();
    let ramp = upstream.slow_start;
    let _checks = script.start(&upstream);
    pass(1).await;
    assert_eq!((state.standing(&upstream), state.warmth(ramp)), (Standing::Up, 1000));
    assert_eq!(state.condition(&upstream).since, None);
    script.fails.set(true);
    pass(60).await;
    let condition = state.condition(&upstream);
    assert_eq!((condition.standing, condition.checks.falls), (Standing::Down, 1));
    assert!(condition.since.is_some() && condition.checks.failed >= 3 && condition.checks.passed >= 1);
    assert_eq!(condition.last_check.and_then(|last| last.failure), Some("the answer is not HTTP".to_owned()));
    let rules = upstream.ejection.expect("the default");
    state.breaker.change(|circuit| {
        Some(circuit.ejected(
            crate::upstream::circuit::Cause::Failures,
            &rules,
            clock::now() + Duration::from_secs(3600),
        ))
    });
    script.fails.set(false);
    while state.standing(&upstream) == Standing::Down {
        pass(1).await;
    }
    assert_eq!(state.standing(&upstream), Standing::Up);
    assert!(state.warmth(ramp) < 200, "{}", state.warmth(ramp));
    assert_eq!(state.condition(&upstream).last_check.and_then(|last| last.failure), None);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_check_that_passes_disproves_that_a_server_cannot_be_reached_and_nothing_else() {
    use crate::upstream::circuit::Cause;
    for (cause, standing) in [(Cause::Unreachable, Standing::Up), (Cause::Failures, Standing::Ejected)] {
        let (upstream, script) = (upstream(1, CHECKED, None), Script::default());
        let state = server(&upstream, 0).state.clone();
        let rules = upstream.ejection.expect("the default");
        let later = clock::now() + Duration::from_secs(3600);
        state.breaker.change(|circuit| Some(circuit.ejected(cause, &rules, later)));
        assert_eq!(state.standing(&upstream), Standing::Ejected);
        let _checks = script.start(&upstream);
        pass(1).await;
        assert_eq!(state.standing(&upstream), standing, "{cause:?}");
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_this_machine_lacks_is_no_failed_check() {
    let upstream = upstream(1, CHECKED, None);
    let server = server(&upstream, 0);
    let health = upstream.health.clone().expect("checks");
    let no_descriptors = std::io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
    let lacking = CheckFailure::Upstream(crate::upstream::Failure::Connect(no_descriptors));
    record::enter(&upstream, &server, &health, &checked(Err(lacking), clock::now()));
    assert!(!server.state.checks.is_known());
    assert!(!server.state.checks.hinder(), "it has been told, and is told once");
    record::enter(&upstream, &server, &health, &checked(Ok(()), clock::now()));
    assert!(server.state.checks.hinder(), "news again");
}
