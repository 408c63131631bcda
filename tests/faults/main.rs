//! Upstreams that fail, as real processes: killed, stopped, refusing, silent, slow, lying.
//!
//! Three servers behind one upstream, traffic through it all the while: requests of every kind and tunnels. One server
//! is then hurt and mended again. What has to come out: no idempotent request goes unanswered where RFC 9110 9.2.2 lets
//! it be repeated, nothing that may not be repeated is executed twice, tunnels of the other servers notice nothing. Each
//! test prints its figures: `cargo test --test faults -- --nocapture`.

// The house rules about clocks, threads and tasks are for the gateway; this is the world outside it.
#![allow(clippy::disallowed_methods)]

#[path = "../wire/harness/dns.rs"]
#[expect(dead_code, reason = "shared with a suite that asks more of it")]
mod dns;
mod gateway;
mod server;
mod traffic;
mod tunnels;

use std::time::Duration;

use dns::{NameServer, Says};
use gateway::Gateway;
use server::{Double, Server};
use traffic::{Figures, Traffic};
use tunnels::Tunnels;

/// Long enough for every client to have asked many times.
const WHILE: Duration = Duration::from_millis(700);

const CHECKED: &str =
    "health = { http = \"/health\", interval = \"100ms\", timeout = \"200ms\", rise = 1, fall = 2 }\n";

/// Where the process that a test starts from its own binary becomes a server; in a plain run there is nothing to do.
#[test]
fn server_process() {
    server::serve_if_asked();
}

struct Scene {
    gateway: Gateway,
    servers: [Server; 3],
    traffic: Traffic,
    tunnels: Tunnels,
}

impl Scene {
    /// Traffic runs, and every server has some of it.
    async fn start(upstream: &str) -> Self {
        let servers = [Server::start("a"), Server::start("b"), Server::start("c")];
        let urls = servers.each_ref().map(|server| format!("\"{}\"", server.url())).join(", ");
        let gateway = Gateway::start(&urls, upstream);
        let traffic = Traffic::start(gateway.address, 8);
        let tunnels = Tunnels::open(gateway.address, 30).await;
        let scene = Self { gateway, servers, traffic, tunnels };
        scene.go_on().await;
        assert!(scene.servers.iter().all(|server| server.executed() > 0), "every server takes part");
        scene
    }

    async fn go_on(&self) {
        tokio::time::sleep(WHILE).await;
    }

    /// Ends the traffic; the figures, printed.
    async fn end(self, what: &str) -> (Figures, [Server; 3]) {
        let figures = self.traffic.stop().await;
        let tunnels = self.tunnels.close().await;
        println!("{what}: {figures}; {} retried; {tunnels}", self.gateway.retried());
        let twice = Server::executed_twice(&self.servers);
        assert!(twice.is_empty(), "{what}: executed twice: {twice:?}");
        assert_eq!(tunnels.damaged, 0, "{what}: {tunnels}");
        drop(self.gateway);
        (figures, self.servers)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_costs_no_idempotent_request() {
    let mut scene = Scene::start("retries = 2\n").await;
    let hurt = scene.tunnels.on("c");
    scene.servers[2].kill();
    scene.go_on().await;
    let before = scene.servers[2].executed();
    scene.servers[2].restart();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(scene.servers[2].executed() > before, "it takes part again");
    assert!(hurt > 0 && scene.tunnels.moved() >= hurt, "its clients have moved");
    let (figures, _) = scene.end("kill -9").await;
    assert_eq!(figures.idempotent_failed, 0, "{figures}");
    // A POST that was on its way may have been executed; nobody can know.
    assert!(figures.others_failed <= 8, "{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_is_left_alone_until_it_goes_on() {
    let scene = Scene::start(&format!("{CHECKED}retries = 2\n")).await;
    scene.servers[2].stop();
    // Until two checks have failed it is still asked, and who was asked then fails half a second later.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let settled = scene.traffic.figures();
    scene.go_on().await;
    let figures = scene.traffic.figures();
    assert_eq!(figures.failed(), settled.failed(), "nobody asks it any more: {settled}, then {figures}");
    assert!(figures.answered > settled.answered);
    let before = scene.servers[2].executed();
    scene.servers[2].go_on();
    scene.go_on().await;
    assert!(scene.servers[2].executed() > before + 8, "it takes part again");
    let (figures, _) = scene.end("SIGSTOP").await;
    // What waited for it when it was stopped, and what was sent before the checks had noticed.
    assert!(figures.failed() <= 16, "{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_come_and_go_with_the_answers_of_a_name_server_cost_nobody_anything() {
    let names = NameServer::start().await;
    let a = Server::start("a");
    let at = |last: u8| std::net::SocketAddr::from(([127, 0, 0, last], a.port()));
    let (b, c) = (Server::start_at("b", at(2)), Server::start_at("c", at(3)));
    names.say("servers.test", Says::addresses(1, &["127.0.0.1", "127.0.0.2"]));
    let each = format!("{{ url = \"http://servers.test:{}\", resolve = \"each\" }}", a.port());
    let gateway = Gateway::start_with(&names.toml(), &each, "");
    let traffic = Traffic::start(gateway.address, 8);
    let tunnels = Tunnels::open(gateway.address, 30).await;
    tokio::time::sleep(WHILE).await;
    assert!(a.executed() > 0 && b.executed() > 0 && c.executed() == 0);
    let on_a = tunnels.on("a");
    names.say("servers.test", Says::addresses(1, &["127.0.0.2", "127.0.0.3"]));
    within("the server that has come", || c.executed() > 0).await;
    tokio::time::sleep(WHILE).await;
    let before = a.executed();
    for trouble in [Says::Silence, Says::Failure, Says::Denied] {
        names.say("servers.test", trouble);
        tokio::time::sleep(3 * WHILE).await;
    }
    assert_eq!(a.executed(), before, "the server that has gone is asked for nothing more");
    names.say("servers.test", Says::addresses(1, &["127.0.0.1", "127.0.0.2", "127.0.0.3"]));
    within("the server that has come back", || a.executed() > before).await;
    assert!(on_a > 0 && tunnels.on("a") == on_a, "tunnels to the server that has gone live on");
    let servers = [a, b, c];
    let figures = traffic.stop().await;
    let kept = tunnels.close().await;
    println!("names that change: {figures}; {} retried; {kept}", gateway.retried());
    assert_eq!((figures.failed(), kept.moved, kept.damaged), (0, 0, 0), "{figures}; {kept}");
    assert!(Server::executed_twice(&servers).is_empty());
}

async fn within(what: &str, is_so: impl Fn() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(std::time::Instant::now() < end, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server beside two good ones that fails from the start.
async fn with_bad_server(what: &str, bad: Double, upstream: &str) -> Figures {
    let servers = [Server::start("a"), Server::start("b")];
    let urls = servers.each_ref().map(|server| format!("\"{}\"", server.url())).join(", ");
    let gateway = Gateway::start(&format!("\"http://{}\", {urls}", bad.address), upstream);
    let traffic = Traffic::start(gateway.address, 8);
    let tunnels = Tunnels::open(gateway.address, 10).await;
    tokio::time::sleep(2 * WHILE).await;
    let figures = traffic.stop().await;
    let kept = tunnels.close().await;
    let retried = gateway.retried();
    println!("{what}: {figures}; {retried} retried; {kept}; the bad server was asked {} times", bad.asked());
    let twice = Server::executed_twice(&servers);
    assert!(twice.is_empty(), "{what}: executed twice: {twice:?}");
    assert_eq!((kept.damaged, kept.open), (0, 10), "{what}: {kept}");
    assert!(figures.answered > 100, "{what}: {figures}");
    figures
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_costs_nobody_anything() {
    let figures = with_bad_server("refused", Double::refusing(), "").await;
    assert_eq!(figures.failed(), 0, "{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_packets_vanish_to_costs_nobody_anything() {
    let figures = with_bad_server(
        "blackholed",
        Double::blackhole(),
        "connect_timeout = \"200ms\"\nretry_budget = { min_per_second = 100 }\n",
    )
    .await;
    assert_eq!(figures.failed(), 0, "{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_slows_only_its_own_requests() {
    let figures =
        with_bad_server("slow", Double::slow(Duration::from_millis(300)), "balance = \"least-connections\"\n").await;
    assert_eq!(figures.failed(), 0, "{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_talks_garbage_is_asked_a_few_times_and_then_left_alone() {
    let bad = Double::saying(b"\x00\x01\x02 this is no HTTP\r\n\r\n");
    let figures = with_bad_server("garbage", bad, "").await;
    assert!((1..=40).contains(&figures.failed()), "{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_answers_are_never_taken_for_whole_ones() {
    let bad = Double::saying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    let figures = with_bad_server("half answers", bad, "").await;
    assert!((1..=40).contains(&figures.failed()), "{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_reset_in_their_middle_are_never_taken_for_whole_ones() {
    let bad = Double::resetting(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    let figures = with_bad_server("reset in the middle", bad, "").await;
    assert!((1..=40).contains(&figures.failed()), "{figures}");
}
