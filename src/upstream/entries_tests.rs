//! What stands behind the entries of an upstream, while names change their meaning and when a configuration follows
//! another.

use std::sync::Arc;
use std::time::Duration;

use super::definition::Definition;
use super::entries::Find;
use super::server::Server;
use super::source::Addresses;
use super::whereabouts::{Location, Nowhere, Resolved};
use crate::config::report::Report;
use crate::tls::SystemRoots;

const BOTH: &str =
    "servers = [\"ws://10.0.0.1:9000\", { url = \"ws://chat.test:9000\", resolve = \"each\", weight = 3 }]";

fn build(toml: &str, previous: Option<&Definition>) -> Definition {
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:1\"\n[[route]]\nupstream = \"chat\"\nwebsocket = {{}}\n[upstream.chat]\n{toml}\n"
    );
    let (config, report) = crate::config::read_text("test.toml", &text, std::path::Path::new("/"));
    let config = config.unwrap_or_else(|| panic!("{report:?}"));
    let mut report = Report::default();
    Definition::build(
        &config.upstreams[0],
        &mut SystemRoots::default(),
        &Definition::states_of(previous),
        previous,
        &mut report,
    )
    .expect("good")
}

fn at(lasts: &[u8]) -> Vec<Find> {
    lasts.iter().map(|last| Find::Address(([10, 0, 0, *last], 9000).into())).collect()
}

fn target(host: &str, weight: u32) -> Find {
    Find::Target { host: host.to_owned(), port: 9001, weight, backup: false }
}

fn servers(definition: &Definition) -> Vec<Arc<Server>> {
    definition.roster.read().1.to_vec()
}

fn urls(definition: &Definition) -> Vec<String> {
    servers(definition).iter().map(|server| server.url.to_string()).collect()
}

#[test]
fn servers_come_and_go_and_those_that_stay_are_the_same() {
    let definition = build(BOTH, None);
    assert_eq!(urls(&definition), ["ws://10.0.0.1:9000"]);
    definition.stand(1, at(&[2, 3]));
    assert_eq!(urls(&definition), ["ws://10.0.0.1:9000", "ws://10.0.0.2:9000", "ws://10.0.0.3:9000"]);
    let before = servers(&definition);
    assert_eq!((before[1].weight, before[1].host.as_bytes()), (3, &b"chat.test:9000"[..]));
    definition.stand(1, at(&[3, 4]));
    let after = servers(&definition);
    assert!(Arc::ptr_eq(&before[0], &after[0]) && Arc::ptr_eq(&before[2], &after[1]));
    // The same again is no change, for workers to look at.
    let version = definition.roster.version();
    definition.stand(1, at(&[3, 4]));
    assert_eq!(definition.roster.version(), version);
    definition.clear(1, Nowhere("gone".into()));
    assert_eq!(urls(&definition), ["ws://10.0.0.1:9000"]);
}

#[test]
fn a_server_that_stands_behind_two_entries_counts_once() {
    let definition = build(BOTH, None);
    definition.stand(1, at(&[1, 2]));
    assert_eq!(urls(&definition), ["ws://10.0.0.1:9000", "ws://10.0.0.2:9000"]);
}

#[test]
fn a_server_that_comes_back_has_its_old_state_while_anything_of_it_lives() {
    let definition = build(BOTH, None);
    definition.stand(1, at(&[2]));
    let tunnel = servers(&definition)[1].try_enter().expect("no limit").become_tunnel();
    definition.stand(1, at(&[3]));
    definition.stand(1, at(&[2]));
    assert_eq!(servers(&definition)[1].state.tunnels(), 1);
    drop(tunnel);
    assert_eq!(servers(&definition)[1].state.tunnels(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_found_later_warms_up_and_one_of_the_first_answer_does_not() {
    let definition = build(BOTH, None);
    definition.stand(1, at(&[2]));
    definition.stand(1, at(&[2, 3]));
    let warmth = |index: usize| servers(&definition)[index].state.warmth(Some(Duration::from_secs(10)));
    assert_eq!([warmth(1), warmth(2)], [1000, 100]);
}

#[test]
fn a_service_gives_weights_unless_it_drains_as_a_whole() {
    let toml = |more: &str| format!("servers = [{{ url = \"ws://_ws._tcp.chat.test\", resolve = \"srv\"{more} }}]");
    let definition = build(&toml(""), None);
    let stood = definition.stand(0, vec![target("a.chat.test", 7)]);
    assert_eq!(
        (stood[0].url.as_str(), stood[0].weight, stood[0].host.as_bytes()),
        ("ws://a.chat.test:9001", 7, &b"chat.test"[..])
    );
    assert!(matches!(stood[0].location, Location::Named));
    // Another weight is another server with the same state.
    let heavier = definition.stand(0, vec![target("a.chat.test", 8)]);
    assert!(!Arc::ptr_eq(&stood[0], &heavier[0]) && Arc::ptr_eq(&stood[0].state, &heavier[0].state));
    let draining = build(&toml(", weight = 0"), None);
    assert_eq!(draining.stand(0, vec![target("a.chat.test", 7)])[0].weight, 0);
}

#[tokio::test]
async fn a_new_configuration_keeps_what_names_stood_for_until_they_are_asked_for_anew() {
    let toml = "servers = [\"ws://one.test\", { url = \"ws://chat.test:9000\", resolve = \"each\" }]";
    let old = build(toml, None);
    let known = Addresses::new([([10, 0, 0, 9], 80).into()], &old.sources, &Arc::default());
    servers(&old)[0].state.locate(Resolved::At(Arc::new(known)));
    old.stand(1, at(&[2]));
    let tunnel = servers(&old)[1].try_enter().expect("no limit").become_tunnel();

    let new = build(&format!("{toml}\nsource = [\"127.0.0.1\"]"), Some(&old));
    assert_eq!(urls(&new), ["ws://one.test", "ws://10.0.0.2:9000"]);
    assert_eq!(servers(&new)[1].state.tunnels(), 1);
    assert!(matches!(servers(&new)[0].state.whereabouts().now(), Resolved::At(_)));
    assert!(new.entries.first_answer().await.is_none());
    drop(tunnel);

    // The same name, but with another meaning.
    let other = build(&toml.replace("each", "one"), Some(&old));
    assert_eq!(urls(&other), ["ws://one.test", "ws://chat.test:9000"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_first_answer_waits_for_the_first_good_one_or_for_all_bad_ones() {
    let toml =
        "servers = [{ url = \"ws://a.test\", resolve = \"each\" }, { url = \"ws://b.test\", resolve = \"each\" }]";
    let definition = Arc::new(build(toml, None));
    let wait = || tokio::time::timeout(Duration::from_secs(1), definition.entries.first_answer());
    wait().await.expect_err("nobody has answered");
    definition.clear(0, Nowhere("a is denied".into()));
    wait().await.expect_err("the other may still be found");
    definition.clear(1, Nowhere("b is denied".into()));
    assert_eq!(wait().await.expect("all are known"), Some(Nowhere("a is denied".into())));
    definition.stand(1, at(&[2]));
    assert_eq!(wait().await.expect("one is found"), None);
}
