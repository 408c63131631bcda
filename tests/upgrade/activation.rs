//! Sockets that a service manager has bound: a shell puts them where `LISTEN_FDS` says, as systemd would.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::a_moment;
use crate::clients::{Asking, Connection, ask, ask_unix};
use crate::scene::{Scene, eventually};

/// A launcher that moves its standard input to descriptor 3, and a second socket, where there is one, from standard output
/// to 4: so that no code of the test has to run between `fork` and `exec`.
fn launcher(program: &Path, names: &str, sockets: Vec<OwnedFd>) -> Command {
    let mut command = Command::new("sh");
    let count = sockets.len();
    let moves = if count == 2 { "exec 3<&0 4>&1 0</dev/null 1>announced" } else { "exec 3<&0 0</dev/null" };
    let script = format!("{moves}; LISTEN_PID=$$ LISTEN_FDS={count} exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(program);
    if !names.is_empty() {
        command.env("LISTEN_FDNAMES", names);
    }
    let mut sockets = sockets.into_iter();
    command.stdin(sockets.next().map_or_else(Stdio::null, Stdio::from));
    if let Some(second) = sockets.next() {
        command.stdout(second).env("NO_STDOUT", "1");
    }
    command
}

async fn start(toml: String, names: &str, sockets: Vec<OwnedFd>) -> Scene {
    let folder = tempfile::tempdir().expect("a folder");
    let command = launcher(&folder.path().join("portcullis"), names, sockets);
    Scene::launch(folder, toml, command).await
}

fn listener(address: &str) -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind(address).expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener.into(), address)
}

fn config(address: &str) -> String {
    Scene::config("one", "", "").replace("127.0.0.1:0", address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_takes_the_socket_at_its_address_with_all_who_wait_there() {
    let addresses: &[&str] =
        if TcpListener::bind("[::1]:0").is_ok() { &["127.0.0.1:0", "[::1]:0"] } else { &["127.0.0.1:0"] };
    for address in addresses {
        let (socket, address) = listener(address);
        let mut early = Connection::open(address).await.expect("the queue is open before anybody serves");
        let scene = start(config(&address.to_string()), "", vec![socket]).await;
        assert_eq!(scene.address(), address);
        assert_eq!(early.ask().await.expect("an answer"), "one");
        assert_eq!(ask(address).await.expect("an answer"), "one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_taken_by_its_name_and_handed_on_with_it() {
    let (socket, address) = listener("127.0.0.1:0");
    let mut scene = start(config("fd:web"), "web", vec![socket]).await;
    assert_eq!(scene.address(), address);
    let asking = Asking::start(address, 3);
    scene.replace_program_by_itself();
    for _ in 0..2 {
        scene.upgrade().await;
        asking.some_more(20).await;
    }
    assert_eq!(asking.stop().await.failed, Vec::<String>::new());
    // The launcher's environment is not the new process's.
    let environment = std::fs::read(format!("/proc/{}/environ", scene.serving())).expect("alive");
    let environment = String::from_utf8_lossy(&environment);
    assert!(!environment.contains("LISTEN_"), "{environment}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_of_the_managers_is_taken_and_its_file_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.sock");
    let (socket, address) = listener("127.0.0.1:0");
    let unix = UnixListener::bind(&path).expect("a socket");
    let toml = format!("{}[[listener]]\naddress = \"unix:{}\"\n", config(&address.to_string()), path.display());
    let mut scene = start(toml, "tcp:unix", vec![socket, unix.into()]).await;
    assert_eq!(ask_unix(&path).await.expect("an answer"), "one");
    assert_eq!(ask(address).await.expect("an answer"), "one");
    let pid = scene.pid();
    scene.signal(pid, Signal::TERM);
    eventually("its end", || !scene.is_alive(pid)).await;
    assert!(path.exists(), "the manager has made it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_nothing_uses_is_closed_with_a_warning() {
    let (socket, address) = listener("127.0.0.1:0");
    let scene = start(config("127.0.0.1:0"), "other", vec![socket]).await;
    let words = "an inherited socket is closed: no listener of this configuration has its address";
    eventually("a warning", || scene.said(words).len() == 1).await;
    let said = scene.said(words);
    assert_eq!((&said[0]["name"], &said[0]["address"]), (&"other".into(), &address.to_string().into()));
    assert_eq!(said[0]["level"], "WARN");
    assert!(ask(address).await.is_err());
}

async fn refused(toml: String, names: &str, sockets: Vec<OwnedFd>) -> (Option<i32>, String) {
    let mut scene = start(toml, names, sockets).await;
    let code = scene.exit_code();
    a_moment().await;
    (code, scene.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_listened_with_is_an_error_that_names_it() {
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let (listening, address) = listener("127.0.0.1:0");
    let connected = std::net::TcpStream::connect(address).expect("it listens");
    let file = std::fs::File::open("/dev/null").expect("it is there");
    for (socket, words) in [
        (OwnedFd::from(datagrams), "is no stream socket"),
        (OwnedFd::from(connected), "does not listen"),
        (OwnedFd::from(file), "descriptor 3 is no socket but /dev/null"),
    ] {
        let (code, log) = refused(config("127.0.0.1:0"), "web", vec![socket]).await;
        assert!(code == Some(3) && log.contains(words), "{words}: {code:?} {log}");
    }
    let (code, log) = refused(config("fd:web"), "another", vec![listening]).await;
    assert!(code == Some(3) && log.contains("cannot listen on fd:web: no socket of that name"), "{code:?} {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_for_both_families_in_the_way_of_one_is_explained() {
    let Ok(both) = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None) else { return };
    both.set_only_v6(false).expect("settable");
    both.bind(&"[::]:0".parse::<SocketAddr>().expect("an address").into()).expect("a port");
    both.listen(16).expect("bound");
    let port = both.local_addr().expect("an address").as_socket().expect("TCP").port();
    let second = both.try_clone().expect("a descriptor");
    let (code, log) = refused(config(&format!("0.0.0.0:{port}")), "web", vec![both.into()]).await;
    let words = format!("an inherited socket listens on [::]:{port}; write that address");
    assert!(code == Some(3) && log.contains(&words), "{code:?} {log}");
    let _scene = start(config(&format!("[::]:{port}")), "web", vec![second.into()]).await;
    let v4 = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(ask(v4).await.expect("a v4 client is let in by the socket"), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_that_are_meant_for_another_process_are_none() {
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(folder.path().join("portcullis"));
    command.stdin(Stdio::null()).env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    let scene = Scene::launch(folder, config("127.0.0.1:0"), command).await;
    assert_eq!(ask(scene.address()).await.expect("an answer"), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_that_make_no_sense_are_an_error() {
    for (count, words) in
        [("1", "descriptor 3, which is not open"), ("many", "is `many` and no number"), ("99999", "is the most")]
    {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        let script = format!("LISTEN_PID=$$ LISTEN_FDS={count} exec \"$0\" \"$@\"");
        command.args(["-c", &script]).arg(folder.path().join("portcullis")).stdin(Stdio::null());
        let mut scene = Scene::launch(folder, config("127.0.0.1:0"), command).await;
        assert_eq!(scene.exit_code(), Some(3), "{count}");
        eventually(words, || scene.log().contains(words)).await;
    }
}
