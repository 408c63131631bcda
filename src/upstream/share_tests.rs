//! What requests say of their servers, over two workers that share what they count. No IO; time is paused.

use std::io;
use std::path::Path;
use std::time::Duration;

use http::HeaderMap;

use super::*;
use crate::config;
use crate::tls::SystemRoots;
use crate::upstream::balance::Ask;
use crate::upstream::definition::Definition;
use crate::upstream::group::Picked;
use crate::upstream::server::Standing;

/// Two workers' groups of one upstream.
fn workers(servers: usize, keys: &str) -> [Rc<Group>; 2] {
    let urls: Vec<_> = (0..servers).map(|number| format!("\"http://10.0.0.1:{}\"", 1000 + number)).collect();
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:80\"\n[[route]]\nupstream = \"u\"\n\
         [upstream.u]\nservers = [{}]\n{keys}\n",
        urls.join(", ")
    );
    let (config, mut report) = config::read_text("test.toml", &text, Path::new("/"));
    let upstream = &config.unwrap_or_else(|| panic!("{:?}", report.problems)).upstreams[0];
    let definition = Definition::build(upstream, &mut SystemRoots::default(), &Arc::default(), None, &mut report)
        .expect("a definition");
    let definition = Arc::new(definition);
    [Group::new(definition.clone()), Group::new(definition)]
}

fn pick(group: &Rc<Group>) -> Option<Picked> {
    group.pick(&Ask { client: None, headers: &HeaderMap::new(), path: "/", home: None }, &[]).ok()
}

/// A request to the server with this number.
fn to(group: &Rc<Group>, number: usize) -> Share {
    let member = group.members()[number].clone();
    let place = member.server.try_enter().expect("room");
    Share::take(group, &member, place, true).expect("taken")
}

fn number(group: &Group, picked: &Picked) -> usize {
    group.members().iter().position(|member| Rc::ptr_eq(member, &picked.member)).expect("a member")
}

fn standing(group: &Group, number: usize) -> Standing {
    group.members()[number].server.state.standing(&group.definition)
}

fn fail(group: &Rc<Group>, number: usize, times: usize) {
    for _ in 0..times {
        to(group, number).failed(&"a test");
    }
}

fn refused() -> Failure {
    Failure::Connect(io::Error::from(io::ErrorKind::ConnectionRefused))
}

#[tokio::test(start_paused = true)]
async fn failures_are_counted_over_all_workers_and_an_ejected_server_gets_nothing_while_others_are_up() {
    let [one, other] = workers(2, "");
    fail(&one, 0, 3);
    fail(&other, 0, 1);
    assert_eq!(standing(&one, 0), Standing::Up);
    fail(&other, 0, 1);
    assert_eq!(standing(&one, 0), Standing::Ejected);
    for group in [&one, &other] {
        for _ in 0..20 {
            assert_eq!(number(group, &pick(group).expect("one")), 1);
        }
    }
    assert_eq!(one.members()[0].server.state.condition(&one.definition).ejections, 1);
}

#[tokio::test(start_paused = true)]
async fn a_good_answer_from_any_worker_starts_the_count_anew_once_it_is_whole() {
    let [one, other] = workers(2, "");
    fail(&one, 0, 4);
    let mut good = to(&other, 0);
    good.answered(StatusCode::OK);
    fail(&one, 1, 1);
    good.completed();
    drop(good);
    fail(&one, 0, 4);
    assert_eq!(standing(&one, 0), Standing::Up);
    // An answer whose body breaks off has been none.
    let mut broken = to(&other, 0);
    broken.answered(StatusCode::OK);
    broken.failed(&"broke off");
    broken.completed();
    assert_eq!(standing(&one, 0), Standing::Ejected);
}

#[tokio::test(start_paused = true)]
async fn statuses_that_blame_the_server_count_and_others_do_not() {
    for (status, counts) in
        [(500, true), (502, true), (503, true), (504, true), (501, false), (404, false), (429, false)]
    {
        let [one, _] = workers(2, "");
        for _ in 0..5 {
            let mut share = to(&one, 0);
            share.answered(StatusCode::from_u16(status).expect("a status"));
            share.completed();
        }
        assert_eq!(standing(&one, 0) == Standing::Ejected, counts, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_handshake_that_lets_it_down_says_nothing_and_a_tunnel_says_well() {
    let [one, _] = workers(2, "");
    fail(&one, 0, 4);
    for status in [200, 401, 403, 426, 501] {
        let mut share = to(&one, 0);
        share.let_down(StatusCode::from_u16(status).expect("a status"));
        share.completed();
    }
    let tunnel = to(&one, 1).into_tunnel();
    fail(&one, 0, 1);
    assert_eq!(standing(&one, 0), Standing::Ejected, "none of them was a success");
    fail(&one, 1, 4);
    drop(to(&one, 1).into_tunnel());
    fail(&one, 1, 4);
    assert_eq!(standing(&one, 1), Standing::Up);
    drop(tunnel);
    let [one, _] = workers(2, "");
    for _ in 0..5 {
        to(&one, 0).let_down(StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(standing(&one, 0), Standing::Ejected);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_one_failure_however_much_goes_wrong() {
    let [one, _] = workers(2, "");
    for _ in 0..4 {
        let mut share = to(&one, 0);
        share.answered(StatusCode::BAD_GATEWAY);
        share.failed(&"broke off as well");
        share.completed();
    }
    assert_eq!(standing(&one, 0), Standing::Up);
}

#[tokio::test(start_paused = true)]
async fn no_more_servers_are_out_for_failures_than_the_floor_allows() {
    for (servers, percent, out) in [(1, 50, 0), (2, 50, 1), (3, 50, 1), (4, 50, 2), (3, 100, 3), (4, 0, 0), (10, 25, 2)]
    {
        let [one, other] = workers(servers, &format!("ejection = {{ max_ejected_percent = {percent} }}"));
        for number in 0..servers {
            fail(&one, number, 3);
            fail(&other, number, 30);
        }
        let ejected = (0..servers).filter(|number| standing(&one, *number) == Standing::Ejected).count();
        assert_eq!(ejected, out, "{servers} servers, {percent} percent");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_found_no_room_is_ejected_by_its_next_failure_once_there_is_some() {
    let [one, _] = workers(2, "");
    fail(&one, 0, 5);
    fail(&one, 1, 7);
    assert_eq!(standing(&one, 1), Standing::Up);
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(standing(&one, 0), Standing::Trial);
    fail(&one, 1, 1);
    assert_eq!(standing(&one, 1), Standing::Ejected);
}

#[tokio::test(start_paused = true)]
async fn servers_that_cannot_be_reached_are_out_at_once_and_beyond_the_floor_and_leave_no_room_for_others() {
    let [one, other] = workers(3, "");
    to(&one, 0).unreachable(&refused());
    to(&other, 1).unreachable(&Failure::ConnectTimeout(String::new()));
    assert_eq!([0, 1].map(|number| standing(&one, number)), [Standing::Ejected; 2]);
    fail(&one, 2, 10);
    assert_eq!(standing(&one, 2), Standing::Up, "two of three are out");
    to(&one, 2).unreachable(&Failure::Tls("expired".to_owned()));
    assert_eq!(standing(&one, 2), Standing::Ejected);
    assert!(pick(&one).is_some() && pick(&other).is_some(), "the last resort is to try");
    let lacking = Failure::Connect(io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error()));
    let [one, _] = workers(3, "");
    to(&one, 0).unreachable(&lacking);
    assert_eq!(standing(&one, 0), Standing::Up, "what this machine lacks says nothing of the server");
}

#[tokio::test(start_paused = true)]
async fn after_an_ejection_one_request_of_all_workers_tries_the_server_and_the_others_go_elsewhere() {
    let [one, other] = workers(2, "");
    fail(&one, 0, 5);
    tokio::time::advance(Duration::from_secs(3)).await;
    let mut picked: Vec<_> = (0..20).map(|round| pick([&one, &other][round % 2]).expect("one")).collect();
    let trials: Vec<_> = (0..20).filter(|round| number([&one, &other][round % 2], &picked[*round]) == 0).collect();
    assert_eq!(trials.len(), 1);
    assert_eq!(standing(&one, 0), Standing::OnTrial);
    // It ends without a verdict: another one tries.
    drop(picked.remove(trials[0]));
    assert_eq!(standing(&one, 0), Standing::Trial);
    drop(picked);
    let trial = loop {
        let picked = pick(&other).expect("one");
        if number(&other, &picked) == 0 {
            break picked;
        }
    };
    drop(trial.share.into_tunnel());
    assert_eq!(standing(&one, 0), Standing::Up);
    let picked: Vec<_> = (0..10).map(|_| pick(&one).expect("one")).collect();
    assert_eq!(picked.iter().filter(|picked| number(&one, picked) == 0).count(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_fails_ejects_for_twice_as_long() {
    let [one, other] = workers(2, "");
    fail(&one, 0, 5);
    tokio::time::advance(Duration::from_secs(3)).await;
    fail(&other, 0, 1);
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(standing(&one, 0), Standing::Ejected);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(standing(&one, 0), Standing::Trial);
}

#[tokio::test(start_paused = true)]
async fn a_connection_brings_back_a_server_that_could_not_be_reached() {
    let [one, other] = workers(2, "slow_start = \"10s\"");
    to(&one, 0).unreachable(&refused());
    tokio::time::advance(Duration::from_secs(3)).await;
    let trial = to(&other, 0);
    assert_eq!(standing(&one, 0), Standing::OnTrial);
    trial.reached();
    assert_eq!(standing(&one, 0), Standing::Up);
    let state = &one.members()[0].server.state;
    assert_eq!(state.warmth(one.definition.slow_start), 100, "it begins slowly");
}

#[tokio::test(start_paused = true)]
async fn where_all_are_out_and_the_upstream_would_rather_refuse_nobody_is_asked_until_a_trial_is_due() {
    let [one, other] = workers(2, "panic = \"refuse\"");
    to(&one, 0).unreachable(&refused());
    to(&one, 1).unreachable(&refused());
    assert!(pick(&one).is_none() && pick(&other).is_none());
    tokio::time::advance(Duration::from_secs(3)).await;
    let trials: Vec<_> = (0..2).map(|_| pick(&other).expect("a trial")).collect();
    assert_ne!(number(&other, &trials[0]), number(&other, &trials[1]), "one each");
    assert!(pick(&one).is_some(), "nobody else can be asked than those on trial");
}

#[tokio::test(start_paused = true)]
async fn without_ejection_no_request_takes_a_server_out() {
    let [one, _] = workers(2, "ejection = false");
    fail(&one, 0, 50);
    to(&one, 0).unreachable(&refused());
    assert_eq!(standing(&one, 0), Standing::Up);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_becomes_a_tunnel_is_counted_once_until_its_end() {
    let [one, _] = workers(1, "");
    let state = one.members()[0].server.state.clone();
    let (request, other) = (to(&one, 0), to(&one, 0));
    assert_eq!((state.requests(), state.tunnels(), state.live()), (2, 0, 2));
    let tunnel = request.into_tunnel();
    assert_eq!((state.requests(), state.tunnels(), state.live()), (1, 1, 2));
    drop(other);
    drop(tunnel);
    assert_eq!((state.requests(), state.tunnels(), state.live()), (0, 0, 0));
}
