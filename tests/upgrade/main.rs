//! One process after the other at the same addresses: upgrades, socket activation, what the service manager hears.
//!
//! Real processes: the binary is linked into a folder, where another program can take its place. Clients connect all the
//! while. What has to come out: nobody is refused, no tunnel loses a byte, and whatever a new process does wrong, the old
//! one serves on.

// The house rules about clocks, threads and tasks are for the gateway; this is the world outside it.
#![allow(clippy::disallowed_methods)]

mod activation;
mod clients;
mod failures;
mod manager;
mod scene;

use std::time::Duration;

use clients::{Asking, Echo, answers, ask, ask_unix};
use scene::{Scene, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_while_one_process_follows_the_other() {
    let mut scene = Scene::start(&Scene::config("one", "workers = 2", "")).await;
    let asking = Asking::start(scene.address(), 6);
    let mut pid = scene.pid();
    for body in ["two", "three", "four"] {
        asking.some_more(60).await;
        scene.write_config(&scene.toml.replace("\"one\"", &format!("\"{body}\"")));
        scene.replace_program_by_itself();
        let next = scene.upgrade().await;
        assert_ne!(next, pid);
        answers(scene.address(), body).await;
        pid = next;
    }
    asking.some_more(60).await;
    let figures = asking.stop().await;
    assert_eq!(figures.failed, Vec::<String>::new(), "{} answered", figures.answered);
    // Without a tunnel the old ones end as soon as they have answered.
    eventually("the end of the old ones", || scene.living().len() == 1).await;
    scene.signal(pid, rustix::process::Signal::TERM);
    eventually("the end of the last", || scene.living().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_live_on_in_the_old_process_and_lose_no_byte() {
    let echo = Echo::start().await;
    let more = echo.route();
    let mut scene = Scene::start(&Scene::config("one", "workers = 2", &more)).await;
    let first = scene.pid();
    let mut tunnels = Vec::new();
    for number in 0..20 {
        tunnels.push(clients::Talking::start(scene.address(), number).await);
    }
    for tunnel in &tunnels {
        tunnel.some_more(5).await;
    }
    let second = scene.upgrade().await;
    for tunnel in &tunnels {
        tunnel.some_more(20).await;
    }
    assert!(scene.is_alive(first), "it has tunnels");
    // Those that come now are the new one's.
    let late = clients::Talking::start(scene.address(), 99).await;
    late.some_more(5).await;
    assert_eq!(scene.comm(first), "portcullis-old");
    for tunnel in tunnels {
        assert!(tunnel.stop().await >= 25);
    }
    eventually("the end of the old one", || !scene.is_alive(first)).await;
    assert!(scene.is_alive(second));
    late.some_more(5).await;
    late.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_process_lets_tunnels_go_at_the_end_of_its_drain() {
    let echo = Echo::start().await;
    let more = echo.route();
    let mut scene = Scene::start(&Scene::config("one", "upgrade_drain_timeout = \"1s\"", &more)).await;
    let first = scene.pid();
    let mut tunnel = clients::connect(scene.address()).await;
    scene.upgrade().await;
    assert_eq!(clients::close_code(&mut tunnel).await, Some(1001));
    eventually("the end of the old one", || !scene.is_alive(first)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_the_old_process_ends_its_drain_sooner() {
    let echo = Echo::start().await;
    let more = echo.route();
    let mut scene = Scene::start(&Scene::config("one", "drain_timeout = \"500ms\"", &more)).await;
    let first = scene.pid();
    let mut tunnel = clients::connect(scene.address()).await;
    let second = scene.upgrade().await;
    scene.signal(first, rustix::process::Signal::TERM);
    clients::close_code(&mut tunnel).await;
    eventually("the end of the old one", || !scene.is_alive(first)).await;
    assert!(scene.is_alive(second));
    assert_eq!(ask(scene.address()).await.expect("an answer"), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_process_says_which_drains_end_with_it() {
    const SAID: &str = "drains end with this process: the new one begins without them";
    let echo = Echo::start().await;
    let more = format!("{}[admin]\naddress = \"unix:admin.sock\"\n", echo.route());
    let mut scene = Scene::start(&Scene::config("one", "", &more)).await;
    let tunnel = clients::connect(scene.address()).await;
    let server = echo.url();
    for drain in [["route", "/ws", "--rate=1"], ["listener", "main", "--over=1h"], ["server", &server, "--upstream"]] {
        let mut arguments = [&["drain"], &drain[..]].concat();
        if drain[2] == "--upstream" {
            arguments.push(&server);
        }
        let (code, out) = scene.command(&arguments).await;
        assert_eq!(code, Some(0), "{out}");
    }
    scene.upgrade().await;
    eventually("a word about them", || !scene.said(SAID).is_empty()).await;
    let said = scene.said(SAID);
    assert_eq!((&said[0]["level"], &said[0]["count"]), (&"WARN".into(), &3.into()), "{said:?}");
    let drains = said[0]["drains"].as_str().expect("words");
    assert_eq!(drains, format!("route /ws, listener main, server {server} of {server}"));
    let replaced = scene.said("draining: replaced");
    assert_eq!(replaced[0]["timeout"], "24h", "{replaced:?}");
    drop(tunnel);
    // Nothing is asked of the second one.
    scene.upgrade().await;
    eventually("the end of it", || scene.said("draining: replaced").len() == 2).await;
    eventually("the end of the old ones", || scene.living().len() == 1).await;
    assert_eq!(scene.said(SAID).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_process_opens_its_log_again_when_it_is_told_and_not_before() {
    let echo = Echo::start().await;
    let toml = Scene::config("one", "", &echo.route()).replace("access = \"off\"", "access = \"./access.log\"");
    let mut scene = Scene::start(&toml).await;
    let first = scene.pid();
    let tunnels = [clients::connect(scene.address()).await, clients::connect(scene.address()).await];
    let second = scene.upgrade().await;
    std::fs::rename(scene.path("access.log"), scene.path("access.log.1")).expect("a log");
    let closed = |name: &str| {
        std::fs::read_to_string(scene.path(name)).unwrap_or_default().matches("\"event\":\"tunnel-close\"").count()
    };
    // Only the new one is told.
    scene.signal(second, rustix::process::Signal::USR1);
    eventually("a new log", || scene.path("access.log").exists()).await;
    let [one, another] = tunnels;
    drop(one);
    eventually("the end of a tunnel", || closed("access.log.1") == 1).await;
    scene.signal(first, rustix::process::Signal::USR1);
    // It closes the old file once it has opened the new one.
    let holds = |name: &str| {
        let files = std::fs::read_dir(format!("/proc/{first}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|path| path.ends_with(name))
    };
    eventually("the new log in its hands", || holds("access.log")).await;
    drop(another);
    eventually("the end of the other", || closed("access.log") == 1).await;
    assert_eq!(closed("access.log.1"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_goes_on_and_its_file_is_removed_by_the_last_process_alone() {
    let mut scene = Scene::start_with(|folder| {
        let unix = format!("[[listener]]\nname = \"unix\"\naddress = \"unix:{}\"\n", folder.join("a.sock").display());
        Scene::config("one", "", &unix)
    })
    .await;
    let path = scene.folder().join("a.sock");
    let first = scene.pid();
    for _ in 0..2 {
        scene.upgrade().await;
        assert_eq!(ask_unix(&path).await.expect("an answer"), "one");
    }
    eventually("the end of the old ones", || scene.living().len() == 1).await;
    assert!(!scene.is_alive(first));
    assert_eq!(ask_unix(&path).await.expect("the file is still there"), "one");
    let last = scene.living()[0];
    scene.signal(last, rustix::process::Signal::TERM);
    eventually("the end of the last", || scene.living().is_empty()).await;
    assert!(!path.exists(), "it was the last one's to remove");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_at_an_address_that_is_no_more_is_served_by_the_old_process() {
    let second = "[[listener]]\nname = \"gone\"\naddress = \"127.0.0.1:0\"\n";
    let mut scene = Scene::start(&Scene::config("one", "", second)).await;
    let gone = scene.address_of("gone");
    // Connected, and nothing asked yet.
    let mut early = clients::Connection::open(gone).await.expect("it listens");
    scene.write_config(&Scene::config("two", "", ""));
    scene.upgrade().await;
    assert_eq!(early.ask().await.expect("an answer"), "one");
    let refused = || std::net::TcpStream::connect(gone).is_err();
    eventually("nobody listens there", refused).await;
    answers(scene.address(), "two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_new_is_bound_before_the_old_process_lets_go() {
    let mut scene = Scene::start(&Scene::config("one", "", "")).await;
    let added = "[[listener]]\nname = \"added\"\naddress = \"127.0.0.1:0\"\n";
    scene.write_config(&Scene::config("two", "", added));
    scene.upgrade().await;
    eventually("its announcement", || scene.has_announced("added")).await;
    let address = scene.address_of("added");
    assert_eq!(ask(address).await.expect("an answer"), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_waits_for_the_outcome_and_the_pid_file_follows_it() {
    let mut scene = Scene::start(&Scene::config("one", "upgrade_timeout = \"2s\"", "")).await;
    let first = scene.pid();
    assert_eq!(scene.pid_file(), Some(first));
    let (code, words) = scene.command(&["upgrade", "--pid-file", "pid"]).await;
    assert_eq!(code, Some(0), "{words}");
    let second = scene.upgraded(0).await;
    assert_eq!(scene.pid_file(), Some(second));
    eventually("the end of the old one", || !scene.is_alive(first)).await;
    assert_eq!(scene.pid_file(), Some(second), "the old one has left it alone");
    scene.replace_program("exit 1");
    let (code, words) = scene.command(&["upgrade", "--pid", &second.to_string()]).await;
    assert!(code == Some(1) && words.contains("its log says why"), "{code:?}: {words}");
    scene.replace_program_by_itself();
    let (code, words) = scene.command(&["upgrade", "--pid", &second.to_string()]).await;
    assert_eq!(code, Some(0), "{words}");
    let third = scene.upgraded(1).await;
    scene.signal(third, rustix::process::Signal::TERM);
    eventually("the end of the last", || scene.living().is_empty()).await;
    assert_eq!(scene.pid_file(), None);
    let (code, words) = scene.command(&["upgrade", "--pid-file", "pid"]).await;
    assert!(code == Some(1) && words.contains("pid"), "{code:?}: {words}");
    assert_eq!(scene.command(&["upgrade"]).await.0, Some(2));
}

/// Long enough for what must not happen to happen.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}
