//! A service manager that listens, as systemd does: what it is told, and the sockets that it keeps for the next process.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::clients::{self, Connection, Echo, ask, ask_unix};
use crate::scene::{Scene, eventually};

type Heard = Arc<Mutex<Vec<(String, Vec<OwnedFd>)>>>;

/// Everything that a service says.
struct Manager {
    heard: Heard,
    folder: TempDir,
}

impl Manager {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        let heard = Heard::default();
        let list = heard.clone();
        std::thread::spawn(move || {
            loop {
                let mut buffer = [0; 4096];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut slices = [IoSliceMut::new(&mut buffer)];
                let Ok(message) = rustix::net::recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)
                else {
                    return;
                };
                let descriptors = control.drain().flat_map(|part| match part {
                    RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
                    _ => Vec::new(),
                });
                let descriptors = descriptors.collect();
                let text = String::from_utf8_lossy(&buffer[..message.bytes]).into_owned();
                list.lock().expect("a whole list").push((text, descriptors));
            }
        });
        Self { heard, folder }
    }

    fn command(&self, folder: &TempDir, environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(folder.path().join("portcullis"));
        command.stdin(Stdio::null()).env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        command.envs(environment.iter().copied());
        command
    }

    async fn launch(&self, toml: &str, environment: &[(&str, &str)]) -> Scene {
        let folder = tempfile::tempdir().expect("a folder");
        let command = self.command(&folder, environment);
        Scene::launch(folder, toml.to_owned(), command).await
    }

    fn all(&self) -> Vec<String> {
        self.heard.lock().expect("a whole list").iter().map(|(text, _)| text.clone()).collect()
    }

    /// How many messages have this line.
    fn count(&self, line: &str) -> usize {
        self.all().iter().filter(|text| text.lines().any(|other| other == line)).count()
    }

    async fn hears(&self, line: &str, times: usize) {
        eventually(line, || self.count(line) >= times).await;
    }

    /// The only socket that came with a message, and the name that it came with.
    fn kept(&self, name: &str) -> Option<OwnedFd> {
        let mut heard = self.heard.lock().expect("a whole list");
        let wanted = format!("FDNAME={name}");
        let found = heard.iter_mut().find(|(text, descriptors)| {
            !descriptors.is_empty() && text.contains("FDSTORE=1") && text.lines().any(|line| line == wanted)
        });
        found.and_then(|(_, descriptors)| descriptors.pop())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_hears_of_the_start_of_reloads_and_of_the_stop() {
    let manager = Manager::start();
    let mut scene = manager.launch(&Scene::config("one", "drain_timeout = \"5s\"", ""), &[]).await;
    manager.hears("READY=1", 1).await;
    let pid = scene.pid();
    for (number, toml) in [scene.toml.replace("\"one\"", "\"two\""), "nonsense".to_owned()].iter().enumerate() {
        scene.write_config(toml);
        scene.signal(pid, Signal::HUP);
        manager.hears("READY=1", 2 + number).await;
        assert_eq!(manager.count("RELOADING=1"), 1 + number);
    }
    let all = manager.all();
    let reloading = all.iter().find(|text| text.starts_with("RELOADING=1\n")).expect("said");
    let micros = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("its time");
    assert!(micros.parse::<u64>().expect("a number") > 0);
    let refused = all.last().expect("something");
    assert!(refused.contains("STATUS=serving; the last reload was refused"), "{refused}");
    let mut open = Connection::open(scene.address()).await.expect("it listens");
    assert_eq!(open.ask().await.expect("an answer"), "two");
    scene.signal(pid, Signal::TERM);
    manager.hears("STOPPING=1", 1).await;
    eventually("its end", || !scene.is_alive(pid)).await;
    assert_eq!(manager.count("STOPPING=1"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_is_asked_for_patience_while_a_drain_goes_on() {
    let echo = Echo::start().await;
    let manager = Manager::start();
    let scene = manager.launch(&Scene::config("one", "drain_timeout = \"1h\"", &echo.route()), &[]).await;
    let tunnel = clients::connect(scene.address()).await;
    scene.signal(scene.pid(), Signal::TERM);
    manager.hears("EXTEND_TIMEOUT_USEC=30000000", 1).await;
    manager.hears("STATUS=draining: 1 open", 1).await;
    drop(tunnel);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_fed_twice_as_often_as_it_asks() {
    let manager = Manager::start();
    let _scene = manager.launch(&Scene::config("one", "workers = 3", ""), &[("WATCHDOG_USEC", "200000")]).await;
    let start = std::time::Instant::now();
    manager.hears("WATCHDOG=1", 10).await;
    assert!(start.elapsed() >= Duration::from_millis(700), "every tenth of a second, and not more often");
    // Somebody else's.
    let quiet = Manager::start();
    let _other =
        quiet.launch(&Scene::config("one", "", ""), &[("WATCHDOG_USEC", "20000"), ("WATCHDOG_PID", "1")]).await;
    quiet.hears("READY=1", 1).await;
    crate::a_moment().await;
    assert_eq!(quiet.count("WATCHDOG=1"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_learns_which_process_is_the_service_before_that_one_speaks() {
    let manager = Manager::start();
    let environment = [("WATCHDOG_USEC", "100000"), ("FDSTORE", "10")];
    let mut scene = manager.launch(&Scene::config("one", "", ""), &environment).await;
    manager.hears("READY=1", 1).await;
    let before = manager.all().len();
    let first = scene.pid();
    let next = scene.upgrade().await;
    manager.hears("READY=1", 2).await;
    eventually("the end of the old one", || !scene.is_alive(first)).await;
    let after = manager.all().split_off(before);
    let at = |wanted: &str| after.iter().position(|text| text.lines().any(|line| line == wanted));
    let main = at(&format!("MAINPID={next}")).expect("said");
    assert!(main < at("READY=1").expect("said"), "{after:?}");
    assert_eq!(manager.count("STOPPING=1"), 0, "the service goes on");
    // The watchdog is the new one's now, although its number is another.
    let fed = manager.count("WATCHDOG=1");
    manager.hears("WATCHDOG=1", fed + 3).await;
    scene.replace_program("exit 1");
    scene.fail_to_upgrade().await;
    manager.hears("STATUS=serving; the last upgrade has failed", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_refuses_nobody_where_the_manager_keeps_the_sockets() {
    let manager = Manager::start();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.sock");
    let unix = format!("[[listener]]\nname = \"unix\"\naddress = \"unix:{}\"\n", path.display());
    let toml = Scene::config("one", "", &unix);
    let command = manager.command(&folder, &[("FDSTORE", "10")]);
    let mut scene = Scene::launch(folder, toml, command).await;
    manager.hears("FDNAME=listener=unix", 1).await;
    let address = scene.address();
    let (tcp, socket) = (manager.kept("listener=main").expect("kept"), manager.kept("listener=unix").expect("kept"));
    let pid = scene.pid();
    scene.signal(pid, Signal::TERM);
    eventually("its end", || !scene.is_alive(pid)).await;
    // Nobody serves, and nobody is refused.
    let mut early = Connection::open(address).await.expect("the queue is still open");
    assert!(path.exists());
    let second = std::os::unix::net::UnixStream::connect(&path).expect("the queue is still open");
    let script = "exec 3<&0 4>&1 0</dev/null 1>announced; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\"";
    let mut next = Command::new("sh");
    next.args(["-c", script, crate::scene::BINARY, "run", "--config", "portcullis.toml"]).current_dir(scene.folder());
    next.env("LISTEN_FDNAMES", "listener=main:listener=unix").env("FDSTORE", "10");
    next.env("NOTIFY_SOCKET", manager.folder.path().join("notify")).stdin(tcp).stdout(socket);
    let mut next = next.spawn().expect("a shell");
    assert_eq!(early.ask().await.expect("an answer"), "one");
    assert_eq!(ask(address).await.expect("an answer"), "one", "a port that the system chose stays the same");
    assert_eq!(ask_unix(&path).await.expect("an answer"), "one");
    drop(second);
    next.kill().expect("a child");
    next.wait().expect("a child");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_goes_is_not_kept_any_more() {
    let manager = Manager::start();
    let second = "[[listener]]\nname = \"a:b\"\naddress = \"127.0.0.1:0\"\n";
    let scene = manager.launch(&Scene::config("one", "", second), &[("FDSTORE", "10")]).await;
    manager.hears("FDNAME=listener=a%3Ab", 1).await;
    scene.write_config(&Scene::config("one", "", ""));
    scene.signal(scene.pid(), Signal::HUP);
    manager.hears("FDSTOREREMOVE=1", 1).await;
    let removed = manager.all().into_iter().find(|text| text.starts_with("FDSTOREREMOVE=1")).expect("said");
    assert_eq!(removed, "FDSTOREREMOVE=1\nFDNAME=listener=a%3Ab");
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_that_change_names_are_all_kept() {
    let manager = Manager::start();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let addresses = [free(), free(), free()];
    let named = |names: [&str; 3]| {
        let listeners = names.iter().zip(&addresses);
        let more =
            listeners.map(|(name, address)| format!("[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\n"));
        Scene::config("one", "", &more.collect::<String>())
    };
    let scene = manager.launch(&named(["a", "b", "c"]), &[("FDSTORE", "10")]).await;
    scene.write_config(&named(["b", "a", "d"]));
    scene.signal(scene.pid(), Signal::HUP);
    manager.hears("FDNAME=listener=d", 1).await;
    let said = manager.all();
    let last_removed = said.iter().rposition(|text| text.starts_with("FDSTOREREMOVE=1")).expect("some");
    for name in ["a", "b", "d"] {
        let kept = |text: &String| text.contains("FDSTORE=1") && text.ends_with(&format!("FDNAME=listener={name}"));
        assert!(said.iter().rposition(kept).is_some_and(|at| at > last_removed), "{name}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_is_not_there_keeps_nobody_from_serving() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(folder.path().join("portcullis"));
    command.stdin(Stdio::null()).env("NOTIFY_SOCKET", folder.path().join("nobody"));
    let scene = Scene::launch(folder, Scene::config("one", "", ""), command).await;
    assert_eq!(ask(scene.address()).await.expect("an answer"), "one");
    eventually("a warning", || scene.said("the service manager cannot be reached").len() == 1).await;
}
