//! New processes that do everything wrong. The old one serves on each time, says why, and can be asked again.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::clients::{self, Asking, Echo, answers, ask};
use crate::scene::{Scene, eventually};

/// Reads what is offered, to the last name.
const LISTEN: &str =
    "read -r first; count=${first##* }; while [ \"$count\" -gt 0 ]; do read -r name; count=$((count - 1)); done\n";

/// What is said to whoever wants a reload meanwhile.
const NO_RELOAD: &str = "no reload yet: an upgrade is under way, which reads the configuration as well";

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_new_process_does_wrong_the_old_one_serves_on_and_can_be_asked_again() {
    let mut scene = Scene::start(&Scene::config("one", "upgrade_timeout = \"2s\"", "")).await;
    let pid = scene.pid();
    let asking = Asking::start(scene.address(), 3);
    let cases: [(&str, String, &str); 12] = [
        ("it ends at once", "exit 7".into(), "exit status: 7"),
        ("it is killed at once", "kill -9 $$".into(), "signal: 9"),
        ("it hangs", "exec sleep 60".into(), "not ready within 2s"),
        ("it closes the channel", "exec 0<&-; exec sleep 60".into(), "closed the channel"),
        ("it says garbage", "echo garbage >&0; exec sleep 60".into(), "something else than `ready`"),
        ("it says garbage without an end", "head -c 20000 /dev/zero >&0; exec sleep 60".into(), "does not speak"),
        ("it is killed after it has got the sockets", format!("{LISTEN}kill -9 $$"), "signal: 9"),
        ("it fails after it has got the sockets", format!("{LISTEN}echo 'failed no luck' >&0; exit 1"), "no luck"),
        ("it has no number", format!("{LISTEN}echo ready >&0; exec sleep 60"), "something else than `ready`"),
        ("it is killed when it was ready", format!("{LISTEN}echo ready $$ >&0; read -r go; kill -9 $$"), "signal: 9"),
        (
            "it has changed its mind",
            format!("{LISTEN}echo ready $$ >&0; read -r go; echo 'failed too bad' >&0"),
            "too bad",
        ),
        ("it leaves its child alone", "sleep 60 <&0 & exit 3".into(), "exit status: 3"),
    ];
    for (case, script, reason) in &cases {
        scene.replace_program(script);
        let why = scene.fail_to_upgrade().await;
        assert!(why.contains(reason), "{case}: {why}");
        assert!(scene.is_alive(pid), "{case}");
        asking.some_more(10).await;
    }
    std::fs::write(scene.path("portcullis.new"), "no program").expect("written");
    std::fs::rename(scene.path("portcullis.new"), scene.path("portcullis")).expect("renamed");
    let why = scene.fail_to_upgrade().await;
    assert!(why.contains("Permission denied"), "{why}");
    std::fs::remove_file(scene.path("portcullis")).expect("it is there");
    let why = scene.fail_to_upgrade().await;
    assert!(why.contains("No such file"), "{why}");
    scene.replace_program_by_itself();
    scene.write_config(&scene.toml.replace("[log]", "[log]\nlevle = \"info\""));
    let why = scene.fail_to_upgrade().await;
    assert!(why.contains("levle") && why.contains("portcullis.toml:"), "{why}");
    scene.write_config(&scene.toml.replace("\"one\"", "\"two\""));
    scene.upgrade().await;
    answers(scene.address(), "two").await;
    asking.some_more(10).await;
    assert_eq!(asking.stop().await.failed, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_somebody_else_has_refuses_the_upgrade() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let mut scene = Scene::start(&Scene::config("one", "", "")).await;
    scene.write_config(&Scene::config("two", "", &format!("[[listener]]\naddress = \"{address}\"\n")));
    let why = scene.fail_to_upgrade().await;
    assert!(why.contains("somebody listens there already"), "{why}");
    assert_eq!(ask(scene.address()).await.expect("an answer"), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_says_that_one_is_under_way_and_a_reload_waits_for_it() {
    let scene = Scene::start(&Scene::config("one", "", "")).await;
    let pid = scene.pid();
    scene.replace_program("exec sleep 60");
    scene.signal(pid, Signal::USR2);
    eventually("the beginning", || scene.comm(pid) == "portcullis-upgr").await;
    scene.signal(pid, Signal::USR2);
    eventually("a refusal", || scene.said("no further upgrade: one is under way already").len() == 1).await;
    scene.write_config(&scene.toml.replace("\"one\"", "\"two\""));
    scene.signal(pid, Signal::HUP);
    eventually("a word about it", || scene.said(NO_RELOAD).len() == 1).await;
    assert_eq!(ask(scene.address()).await.expect("an answer"), "one");
    let sleeper = scene.processes().into_iter().find(|process| *process != pid).expect("the new process");
    scene.signal(sleeper, Signal::KILL);
    eventually("the reload", || scene.said("reloaded").len() == 1).await;
    assert_eq!(scene.comm(pid), "portcullis");
    answers(scene.address(), "two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_watches_the_files_waits_for_an_upgrade_as_a_signal_does() {
    let scene = Scene::start(&Scene::config("one", "watch = true", "")).await;
    let pid = scene.pid();
    scene.replace_program("exec sleep 60");
    scene.signal(pid, Signal::USR2);
    eventually("the beginning", || scene.comm(pid) == "portcullis-upgr").await;
    scene.write_config(&scene.toml.replace("\"one\"", "\"two\""));
    eventually("a word about it", || !scene.said(NO_RELOAD).is_empty()).await;
    assert!(scene.said("reloaded").is_empty());
    assert_eq!(ask(scene.address()).await.expect("an answer"), "one");
    let sleeper = scene.processes().into_iter().find(|process| *process != pid).expect("the new process");
    scene.signal(sleeper, Signal::KILL);
    eventually("the reload", || !scene.said("reloaded").is_empty()).await;
    answers(scene.address(), "two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_drains_stays_shut_when_an_upgrade_fails_and_is_open_after_one_that_does_not() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let more =
        format!("[[listener]]\nname = \"fixed\"\naddress = \"{port}\"\n[admin]\naddress = \"unix:admin.sock\"\n");
    let mut scene = Scene::start(&Scene::config("one", "", &more)).await;
    let addresses = [("main", scene.address()), ("fixed", port)];
    for (name, address) in addresses {
        let (code, out) = scene.command(&["drain", "listener", name]).await;
        assert!(code == Some(0) && out.contains("takes no new connections"), "{out}");
        eventually("refused", || std::net::TcpStream::connect(address).is_err()).await;
    }
    // It has the sockets, says that it is ready, is told to go, and does not.
    scene.replace_program(&format!("{LISTEN}echo ready $$ >&0; read -r go; kill -9 $$"));
    assert!(scene.fail_to_upgrade().await.contains("signal: 9"));
    for (_, address) in addresses {
        assert!(std::net::TcpStream::connect(address).is_err());
    }
    scene.replace_program_by_itself();
    scene.write_config(&scene.toml.replace("\"one\"", "\"two\""));
    scene.upgrade().await;
    for (_, address) in addresses {
        assert_eq!(ask(address).await.expect("it listens again"), "two");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_called_like_the_admin_listener_is_not_taken_for_it() {
    let unix = "[[listener]]\nname = \"admin\"\naddress = \"unix:l.sock\"\n";
    let admin = "[admin]\naddress = \"127.0.0.1:0\"\n";
    let mut scene = Scene::start(&Scene::config("one", "", &format!("{unix}{admin}"))).await;
    scene.write_config(&Scene::config("two", "", unix));
    scene.upgrade().await;
    assert_eq!(clients::ask_unix(&scene.path("l.sock")).await.expect("it listens"), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_an_upgrade_stops_both() {
    let mut scene = Scene::start(&Scene::config("one", "", "")).await;
    let pid = scene.pid();
    scene.replace_program("exec sleep 60");
    scene.signal(pid, Signal::USR2);
    eventually("the beginning", || scene.processes().len() == 2).await;
    scene.signal(pid, Signal::TERM);
    eventually("the end of both", || !scene.is_alive(pid) && scene.processes().is_empty()).await;
    assert_eq!(scene.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_process_that_is_killed_in_the_middle_leaves_the_ready_one_to_serve() {
    let mut scene = Scene::start(&Scene::config("one", "", "")).await;
    let (pid, address) = (scene.pid(), scene.address());
    // Killed when the new one has been given everything, which begins only then.
    let fifo = scene.path("begin");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).expect("a pipe");
    scene.replace_program(&format!("read -r begin <begin; exec {} \"$@\"", crate::scene::BINARY));
    scene.signal(pid, Signal::USR2);
    // It has been round twice since it began, and so has said all that it has to say.
    for times in 1..=2 {
        eventually("the beginning", || scene.comm(pid) == "portcullis-upgr").await;
        scene.signal(pid, Signal::USR2);
        eventually("a refusal", || scene.said("no further upgrade: one is under way already").len() == times).await;
    }
    scene.signal(pid, Signal::KILL);
    eventually("its end", || !scene.is_alive(pid)).await;
    tokio::fs::write(&fifo, "now\n").await.expect("somebody reads");
    let gone = "the process that was to hand over is gone: going on without it";
    eventually("going on alone", || scene.said(gone).len() == 1).await;
    eventually("its pid file", || scene.pid_file().is_some_and(|next| next != pid)).await;
    assert_eq!(ask(address).await.expect("an answer"), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_process_is_asked_in_vain_and_its_tunnels_stay() {
    let echo = Echo::start().await;
    let mut scene = Scene::start(&Scene::config("one", "", &echo.route())).await;
    let pid = scene.pid();
    let tunnel = clients::Talking::start(scene.address(), 1).await;
    let next = scene.upgrade().await;
    for (signal, words) in
        [(Signal::USR2, "no upgrade: the gateway stops"), (Signal::HUP, "no reload: the gateway stops")]
    {
        scene.signal(pid, signal);
        eventually(words, || scene.said(words).len() == 1).await;
    }
    let (code, words) = scene.command(&["upgrade", "--pid", &pid.to_string()]).await;
    assert!(code == Some(1) && words.contains("has been replaced already"), "{words}");
    tunnel.some_more(3).await;
    // The new one may be replaced in its turn, while the first still drains.
    let last = scene.upgrade().await;
    eventually("the end of the one without tunnels", || !scene.is_alive(next)).await;
    assert!(scene.is_alive(pid) && scene.is_alive(last));
    tunnel.some_more(3).await;
    tunnel.stop().await;
    eventually("the end of the first", || !scene.is_alive(pid)).await;
}

#[test]
fn a_process_that_is_told_of_a_hand_over_that_there_is_not_says_so() {
    for (version, words) in [("1", "no hand-over"), ("2", "no hand-over")] {
        let start = Instant::now();
        let mut command = std::process::Command::new(crate::scene::BINARY);
        command.args(["demo", "--listen", "127.0.0.1:0"]).env("PORTCULLIS_HANDOVER", version);
        let folder = tempfile::tempdir().expect("a folder");
        let output = command.current_dir(folder.path()).stdin(std::process::Stdio::null()).output().expect("a program");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(3) && said.contains(words), "{said}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
