//! The real program as its user meets it: what it prints, where, and how it exits.
//!
//! Every run has a folder of its own as the current one, so that messages hold no path of this machine.

#![allow(clippy::disallowed_methods)] // tests may read the clock

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// No run takes longer, except when it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(args).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("no zero");
    let _ = kill_process(pid, signal);
}

/// The end of a run; one that does not end is killed and is a failure.
#[track_caller]
fn finish(child: Child) -> (Option<i32>, String, String) {
    let pid = child.id();
    let (done, end) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = end.recv_timeout(PATIENCE) else {
        kill(pid, Signal::KILL);
        panic!("it does not end");
    };
    let Output { status, stdout, stderr } = output.expect("its output");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[track_caller]
fn run(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    finish(command(folder, args).spawn().expect("the program starts"))
}

/// A gateway that has announced its address and is stopped in the end.
struct Running(Option<Child>);

impl Running {
    #[track_caller]
    fn start(folder: &Path, args: &[&str]) -> (Self, String) {
        Self::of(command(folder, args))
    }

    #[track_caller]
    fn of(mut command: Command) -> (Self, String) {
        let mut child = command.spawn().expect("the program starts");
        let mut out = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let running = Self(Some(child));
        let (said, line) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = out.read_line(&mut line);
            said.send(line)
        });
        let line = line.recv_timeout(PATIENCE).expect("a line on stdout");
        (running, line)
    }

    /// Sends SIGHUP, and waits for a line on stderr that holds `text`; what was said until then. Once in a life.
    #[track_caller]
    fn hang_up_and_hear(&mut self, text: &'static str) -> String {
        let child = self.0.as_mut().expect("not stopped before");
        let errors = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
        kill(child.id(), Signal::HUP);
        let (said, heard) = mpsc::channel();
        std::thread::spawn(move || {
            let mut all = String::new();
            for line in errors.lines().map_while(Result::ok) {
                all += &line;
                all.push('\n');
                if line.contains(text) {
                    let _ = said.send(std::mem::take(&mut all));
                }
            }
        });
        heard.recv_timeout(PATIENCE).expect("a line on stderr")
    }

    #[track_caller]
    fn stop(mut self) -> (Option<i32>, String) {
        let child = self.0.take().expect("not stopped before");
        kill(child.id(), Signal::TERM);
        let (code, _, stderr) = finish(child);
        (code, stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A folder with `portcullis.toml` and certificates for localhost and app.example.com.
fn site(toml: &str) -> TempDir {
    let folder = folder();
    let (code, ..) = run(folder.path(), &["cert", "localhost", "app.example.com"]);
    assert_eq!(code, Some(0));
    fs::write(folder.path().join("portcullis.toml"), toml).expect("a writable folder");
    folder
}

const SITE: &str = r#"[[listener]]
address = "127.0.0.1:8443"
tls = { cert = "certs/localhost.pem", key = "certs/localhost.key" }

[[route]]
path = "/ws"
upstream = "ws://127.0.0.1:9000"
websocket = { origins = ["https://app.example.com", "https://*.example.org"], subprotocols = { allow = ["chat"] } }

[[route]]
path = "/old"
redirect = { to = "/ws", status = 308 }

[[route]]
path = "/private"
client_certificate = false
upstream = "http://127.0.0.1:8080"
"#;

// ── run and check ──

#[test]
fn without_a_file_the_user_is_told_how_to_get_one() {
    let folder = folder();
    let expected = "error[unreadable]: cannot read portcullis.toml: No such file or directory (os error 2)
 |
 = help: name a file with --config, write a first one with `portcullis expose ws://127.0.0.1:9000 --print`, or try `portcullis demo`

1 error in portcullis.toml
";
    for args in [&["run"][..], &["check"], &["explain", "wss://a.test/"]] {
        assert_eq!(run(folder.path(), args), (Some(2), String::new(), expected.to_owned()), "{args:?}");
    }
}

#[test]
fn a_file_may_be_named_with_or_without_the_option_but_not_both() {
    let folder = site(SITE);
    let good = (Some(0), "portcullis.toml is good: 1 listener, 3 routes, 2 upstreams\n".to_owned(), String::new());
    assert_eq!(run(folder.path(), &["check"]), good);
    assert_eq!(run(folder.path(), &["check", "portcullis.toml"]), good);
    assert_eq!(run(folder.path(), &["check", "-c", "portcullis.toml"]), good);
    assert_eq!(run(folder.path(), &["check", "-c", "portcullis.toml", "other.toml"]).0, Some(2));
}

#[test]
fn relative_paths_start_at_the_file_and_not_at_the_current_folder() {
    let folder = site(SITE);
    let elsewhere = self::folder();
    let path = folder.path().join("portcullis.toml");
    let (code, _, stderr) = run(elsewhere.path(), &["check", path.to_str().expect("UTF-8")]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_file_on_stdin_is_read_and_its_relative_paths_start_at_the_current_folder() {
    let folder = site(SITE);
    let file = fs::File::open(folder.path().join("portcullis.toml")).expect("it was written");
    let mut cat = Command::new("cat").stdin(file).stdout(Stdio::piped()).spawn().expect("cat starts");
    let mut command = command(folder.path(), &["check", "/dev/stdin"]);
    command.stdin(cat.stdout.take().expect("a pipe"));
    let (code, stdout, stderr) = finish(command.spawn().expect("the program starts"));
    cat.wait().expect("cat ends");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, "/dev/stdin is good: 1 listener, 3 routes, 2 upstreams\n");
}

#[test]
fn what_is_no_configuration_is_named_and_never_waited_for() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("folder")).expect("writable");
    fs::write(at("binary"), b"[[listener]]\naddress = \"\xff\"\n").expect("writable");
    fs::write(at("huge"), vec![b' '; (16 << 20) + 1]).expect("writable");
    let made = Command::new("mkfifo").arg(at("pipe")).status().expect("mkfifo starts");
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("a socket");
    for (name, why) in [
        ("folder", "it is a directory"),
        ("binary", "line 2 is not UTF-8"),
        ("huge", "it is larger than 16 MiB"),
        ("/dev/zero", "it is no file but a device or a socket"),
        ("/dev/ptmx", "it is no file but a device or a socket"),
        ("socket", "it is no file but a device or a socket"),
        ("pipe", "it is a pipe, and opening it would wait for somebody who writes"),
    ] {
        let expected = format!("error[unreadable]: cannot read {name}: {why}\n\n1 error in {name}\n");
        assert_eq!(run(folder.path(), &["check", name]), (Some(2), String::new(), expected));
    }
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_do_not_matter() {
    let folder = site(&format!("\u{feff}{}", SITE.replace('\n', "\r\n")));
    let (code, _, stderr) = run(folder.path(), &["check"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_misspelt_key_is_shown_in_its_line_without_colours_in_a_pipe() {
    let folder = site(&SITE.replace("origins", "orgins"));
    let (code, stdout, stderr) = run(folder.path(), &["check"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    let at = stderr.contains("--> portcullis.toml:8:15") && stderr.contains("did you mean `origins`?");
    assert!(at && stderr.ends_with("1 error in portcullis.toml\n") && !stderr.contains('\u{1b}'), "{stderr}");
}

#[test]
fn warnings_are_counted_in_the_good_news() {
    let more = "\n[[route]]\nhosts = [\"app.example.com\", \"other.test\"]\nupstream = \"http://127.0.0.1:8080\"\n";
    let folder = site(&format!("{SITE}{more}"));
    let (code, stdout, stderr) = run(folder.path(), &["check"]);
    let good = "portcullis.toml is good, with 2 warnings: 1 listener, 4 routes, 2 upstreams\n";
    assert_eq!((code, stdout.as_str()), (Some(0), good), "{stderr}");
    let expected = r#"warning[overtaken-route]: the prefix `/ws` is not used for `app.example.com`: a route that names the host comes first, and it has no `websocket` table
  --> portcullis.toml:6:8
   |
 6 | path = "/ws"
   |        ^^^^^
   |
  ::: portcullis.toml:19:1
   |
19 | [[route]]
   | --------- this route wins there
   |
   = help: add `hosts = ["app.example.com"]` to this route if it is meant for that host too

warning[host-not-covered]: no certificate of a listener for this route covers other.test
  --> portcullis.toml:20:29
   |
20 | hosts = ["app.example.com", "other.test"]
   |                             ^^^^^^^^^^^^
   |
   = help: add a certificate that names it, or limit the route to other listeners

2 warnings in portcullis.toml
"#;
    assert_eq!(stderr, expected);
}

#[test]
fn a_host_is_not_missed_in_the_certificates_of_listeners_that_never_serve_it_and_told_once_for_two_that_do() {
    let tls = "tls = { cert = \"certs/localhost.pem\", key = \"certs/localhost.key\" }\n";
    let listeners = format!(
        "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:8443\"\n{tls}[[listener]]\nname = \"b\"\naddress = \"[::1]:8443\"\n{tls}\
         [[listener]]\nname = \"clear\"\naddress = \"127.0.0.1:8080\"\n"
    );
    let route = |listeners: &str| {
        format!("[[route]]\nhosts = [\"other.test\"]\n{listeners}upstream = \"http://127.0.0.1:8080\"\n")
    };
    let folder = site(&format!("{listeners}{}", route("listeners = [\"clear\"]\n")));
    assert_eq!(run(folder.path(), &["check"]).2, "");
    fs::write(folder.path().join("portcullis.toml"), format!("{listeners}{}", route(""))).expect("writable");
    let (_, _, stderr) = run(folder.path(), &["check"]);
    assert!(stderr.ends_with("\n1 warning in portcullis.toml\n"), "{stderr}");
}

#[test]
fn a_key_of_another_certificate_is_refused_and_an_expired_certificate_only_warned_about() {
    let folder = site(SITE);
    run(folder.path(), &["cert", "--dir", "other", "localhost"]);
    fs::copy(folder.path().join("other/localhost.key"), folder.path().join("certs/localhost.key")).expect("a key");
    let (code, _, stderr) = run(folder.path(), &["run"]);
    assert_eq!(code, Some(2));
    assert!(
        stderr.starts_with("error[key-mismatch]: this key does not belong to the first certificate in"),
        "{stderr}"
    );

    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let expired = params.self_signed(&key).expect("a certificate");
    fs::write(folder.path().join("certs/localhost.pem"), expired.pem()).expect("writable");
    fs::write(folder.path().join("certs/localhost.key"), key.serialize_pem()).expect("writable");
    let (code, stdout, stderr) = run(folder.path(), &["check"]);
    assert_eq!(code, Some(0));
    assert!(stdout.starts_with("portcullis.toml is good, with 1 warning:"), "{stdout}");
    assert!(stderr.contains("expired"), "{stderr}");
}

#[test]
fn a_port_in_use_is_exit_code_3_and_nothing_is_announced() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let (code, stdout, stderr) = run(folder.path(), &["expose", "ws://127.0.0.1:9000", "--listen", &address]);
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
    let last = stderr.lines().last().unwrap_or_default();
    assert_eq!(last, format!("portcullis: cannot listen on {address}: somebody listens there already"));
}

#[test]
fn the_folder_of_the_access_log_is_missed_before_the_gateway_starts_and_its_file_named_when_it_cannot() {
    let folder = folder();
    let toml = "[log]\naccess = \"logs/access.log\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nrespond = { status = 204 }\n";
    fs::write(folder.path().join("portcullis.toml"), toml).expect("writable");
    let (code, stdout, stderr) = run(folder.path(), &["check"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("is good, with 1 warning"), "{stdout}");
    assert!(stderr.contains("warning[no-log-folder]") && stderr.contains("portcullis.toml:2:1"), "{stderr}");
    let (code, _, stderr) = run(folder.path(), &["run"]);
    assert_eq!(code, Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("portcullis: cannot open the access log: logs/access.log: No such file"), "{stderr}");
    fs::create_dir(folder.path().join("logs")).expect("writable");
    let (_, stdout, stderr) = run(folder.path(), &["check"]);
    assert!(stdout.contains("is good: "), "{stdout}{stderr}");
}

#[test]
fn a_file_that_is_missing_is_told_beside_the_errors_of_the_text() {
    let folder = folder();
    let toml = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = { cert = \"a.pem\", key = \"a.key\" }\nadress = 1\n\
                [[route]]\nrespond = { status = 204 }\n";
    fs::write(folder.path().join("portcullis.toml"), toml).expect("writable");
    fs::write(folder.path().join("a.key"), "no key, which is not looked at yet").expect("writable");
    let (code, _, stderr) = run(folder.path(), &["check"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("error[missing-file]: a.pem does not exist"), "{stderr}");
    assert!(stderr.contains("unknown key `adress`") && stderr.contains("2 errors in "), "{stderr}");
}

#[test]
fn a_gateway_is_announced_serves_and_stops_with_0() {
    let folder = folder();
    let (gateway, line) = Running::start(folder.path(), &["expose", "http://127.0.0.1:9", "--listen", "localhost:0"]);
    let address = line.strip_prefix("listening on http://").and_then(|rest| rest.split(' ').next()).expect("a URL");
    assert!(address.starts_with("127.0.0.1:"), "{line}");
    drop(std::net::TcpStream::connect(address).expect("somebody listens"));
    let (code, stderr) = gateway.stop();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains("WARN"), "nothing was asked for that could be lowered: {stderr}");
}

#[test]
fn connections_that_were_asked_for_and_cannot_be_had_are_a_warning() {
    let toml = "[server]\nmax_connections = 10000000\n[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nrespond = { status = 204 }\n";
    let folder = folder();
    fs::write(folder.path().join("portcullis.toml"), toml).expect("writable");
    let (gateway, _) = Running::start(folder.path(), &["run"]);
    let (_, stderr) = gateway.stop();
    assert!(stderr.contains("\"WARN\"") && stderr.contains("max_connections is lowered"), "{stderr}");
}

#[test]
fn a_configuration_that_came_through_a_pipe_stays_when_it_cannot_be_read_again() {
    let folder = folder();
    let toml = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nrespond = { status = 204 }\n";
    fs::write(folder.path().join("x.toml"), toml).expect("writable");
    let mut cat = Command::new("cat").arg(folder.path().join("x.toml")).stdout(Stdio::piped()).spawn().expect("cat");
    let mut command = command(folder.path(), &["run", "/dev/stdin"]);
    command.stdin(cat.stdout.take().expect("a pipe"));
    let (mut gateway, _) = Running::of(command);
    cat.wait().expect("cat ends");
    let said = gateway.hang_up_and_hear("no reload");
    assert!(said.contains("came through a pipe"), "{said}");
    assert_eq!(gateway.stop().0, Some(0));
}

#[test]
fn expose_reads_its_certificate_again_when_it_is_told_to() {
    let folder = site(SITE);
    let args = [
        "expose",
        "http://127.0.0.1:9",
        "--listen",
        "127.0.0.1:0",
        "--cert",
        "certs/localhost.pem",
        "--key",
        "certs/localhost.key",
    ];
    let (mut gateway, _) = Running::start(folder.path(), &args);
    fs::remove_dir_all(folder.path().join("certs")).expect("removable");
    assert_eq!(run(folder.path(), &["cert", "localhost"]).0, Some(0));
    let said = gateway.hang_up_and_hear("reload");
    assert!(said.contains("\"reloaded\"") && said.contains("renewed 127.0.0.1:0"), "{said}");
    assert_eq!(gateway.stop().0, Some(0));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = site(SITE);
    let mut child = command(folder.path(), &["explain", "https://localhost:8443/ws"]).spawn().expect("it starts");
    drop(child.stdout.take());
    let (code, _, stderr) = finish(child);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

// ── expose ──

#[test]
fn what_cannot_be_said_is_a_failure_and_no_silence() {
    let folder = site("[[route]]\nrespond = { status = 204 }\n[[listener]]\naddress = \"127.0.0.1:0\"\n");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let output = command(folder.path(), &["check"]).stdout(full).output().expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && errors.contains("cannot write to stdout"), "{errors}");
}

#[test]
fn a_reader_that_does_not_read_holds_nothing_up() {
    let folder = folder();
    let listener = |number: usize| {
        format!("[[listener]]\nname = \"a-long-name-of-a-listener-{number}\"\naddress = \"unix:{number}.sock\"\n")
    };
    let listeners = |count: usize| (0..count).map(listener).collect::<String>();
    let write = |listeners: &str| {
        let rest = "[log]\naccess = \"off\"\n[[route]]\nrespond = { status = 204 }\n";
        fs::write(folder.path().join("portcullis.toml"), format!("{rest}{listeners}")).expect("written");
    };
    write(&listeners(150));
    let (unread, stdout) = std::io::pipe().expect("a pipe");
    rustix::pipe::fcntl_setpipe_size(&stdout, 4096).expect("a small one");
    let mut command = command(folder.path(), &["run"]);
    let mut child = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null()).spawn().expect("it starts");
    drop(command);
    let answers = |number: usize| {
        let path = folder.path().join(format!("{number}.sock"));
        let began = std::time::Instant::now();
        while std::os::unix::net::UnixStream::connect(&path).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "nobody listens at {}", path.display());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    answers(149);
    for more in [200, 250] {
        write(&listeners(more));
        kill(child.id(), Signal::HUP);
        answers(more - 1);
    }
    kill(child.id(), Signal::TERM);
    assert_eq!(child.wait().expect("an end").code(), Some(0));
    drop(unread);
}

#[test]
fn expose_prints_the_file_that_it_stands_for_and_check_finds_it_good() {
    let folder = site("");
    let args = ["expose", "ws://127.0.0.1:9000/", "--listen", ":8443", "--cert", "certs/localhost.pem", "--key"];
    let rest = ["certs/localhost.key", "--origin", "https://app.example.com", "--path", "/ws", "--subprotocol", "chat"];
    let (code, stdout, stderr) = run(folder.path(), &[&args[..], &rest, &["--host", "localhost", "--print"]].concat());
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let expected = r#"[[listener]]
address = "0.0.0.0:8443"
tls = { cert = "certs/localhost.pem", key = "certs/localhost.key" }

[[route]]
hosts = ["localhost"]
path = "/ws"
upstream = "ws://127.0.0.1:9000"

[route.websocket]
origins = ["https://app.example.com"]
subprotocols = { allow = ["chat"] }
"#;
    assert_eq!(stdout, expected);
    fs::write(folder.path().join("portcullis.toml"), stdout).expect("writable");
    let (code, stdout, stderr) = run(folder.path(), &["check"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
}

#[test]
fn expose_on_this_machine_answers_to_the_names_of_this_machine() {
    let folder = folder();
    for (listen, hosts) in [
        ("127.0.0.1:8443", "hosts = [\"localhost\", \"127.0.0.1\"]\n"),
        ("[::1]:8443", "hosts = [\"localhost\", \"[::1]\"]\n"),
    ] {
        let (_, stdout, _) = run(folder.path(), &["expose", "ws://127.0.0.1:9000", "--listen", listen, "--print"]);
        assert!(stdout.contains(hosts), "{stdout}");
    }
    let args = ["expose", "ws://127.0.0.1:9000", "--origin", "https://a.test", "--print"];
    assert!(!run(folder.path(), &args).1.contains("hosts"));
}

#[test]
fn a_backend_that_is_no_url_is_answered_with_the_url() {
    let folder = folder();
    for (backend, why) in [
        (
            "9000",
            "`9000` is not a URL; write ws://127.0.0.1:9000 for a server that speaks only WebSocket, http://127.0.0.1:9000 for one that speaks HTTP",
        ),
        (
            ":9000",
            "`:9000` is not a URL; write ws://127.0.0.1:9000 for a server that speaks only WebSocket, http://127.0.0.1:9000 for one that speaks HTTP",
        ),
        (
            "app:9000",
            "`app:9000` is not a URL; write ws://app:9000 for a server that speaks only WebSocket, http://app:9000 for one that speaks HTTP",
        ),
        (
            "/run/a",
            "`/run/a` is not a URL; write ws+unix:/run/a for a socket that speaks only WebSocket, unix:/run/a for one that speaks HTTP",
        ),
        (
            "ws://a:1/chat",
            "the server's URL cannot have a path, since the request's own goes there; write ws://a:1 --path /chat",
        ),
    ] {
        let expected = (Some(2), String::new(), format!("portcullis expose: {why}\n"));
        assert_eq!(run(folder.path(), &["expose", backend]), expected);
    }
}

#[test]
fn a_wrong_value_of_expose_is_shown_with_its_option() {
    let folder = folder();
    for (args, line, help) in [
        (["--listen", "8443"], "address = \"8443\"  # --listen", "\"127.0.0.1:8443\" for this machine only"),
        (["--listen", ":70000"], "address = \"0.0.0.0:70000\"  # --listen", "a port is a number up to 65535"),
        (["--origin", "a.test"], "origins = [\"a.test\"]  # --origin", "write \"https://a.test\""),
        (["--path", "chat"], "path = \"chat\"  # --path", "write \"/ws\""),
    ] {
        let (code, stdout, stderr) = run(folder.path(), &[&["expose", "ws://127.0.0.1:9000"], &args[..]].concat());
        assert_eq!((code, stdout.as_str()), (Some(2), ""));
        assert!(stderr.contains(line) && stderr.contains(help) && stderr.contains("--> (command line):"), "{stderr}");
    }
}

#[test]
fn expose_to_the_network_without_tls_is_warned_about() {
    let folder = folder();
    let listening = |listen: &str| {
        let args = ["expose", "ws://127.0.0.1:9000", "--origin", "https://a.test", "--listen", listen];
        Running::start(folder.path(), &args).0.stop().1.contains("warning[clear-text]")
    };
    assert!(listening(":0"));
    assert!(!listening("127.0.0.1:0"));
}

// ── explain ──

#[track_caller]
fn assert_explains(folder: &TempDir, args: &[&str], expected: &str) {
    let (code, stdout, stderr) = run(folder.path(), &[&["explain"], args].concat());
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, expected);
}

#[test]
fn explain_names_listener_route_rule_upstream_and_answer() {
    let origin = "https://x.example.org";
    assert_explains(
        &site(SITE),
        &["wss://localhost:8443/ws?a=1", "--origin", origin, "--subprotocol", "chat", "--subprotocol", "x"],
        "GET wss://localhost:8443/ws?a=1, Origin https://x.example.org, subprotocols chat, x

listener    https://127.0.0.1:8443 (portcullis.toml:1)
route       /ws (portcullis.toml:5): any host; the prefix `/ws`, 3 literal characters
            2 others do not match
origin      allowed by https://*.example.org (portcullis.toml:8)
subprotocol chat of those offered; allowed: chat
upstream    ws://127.0.0.1:9000, asked for /ws?a=1
answer      101, if the server agrees
",
    );
}

#[test]
fn explain_tells_what_a_tunnel_is_held_to() {
    let bounds = |more: &str| {
        let toml = SITE.replace("subprotocols = { allow = [\"chat\"] }", more);
        assert_ne!(toml, SITE);
        let args = ["explain", "wss://localhost:8443/ws", "--origin", "https://app.example.com"];
        let (code, stdout, stderr) = run(site(&toml).path(), &args);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        let lines = stdout.lines().filter(|line| line.starts_with("tunnels ") || line.starts_with("rates "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        bounds(
            "max_tunnels = 1000, max_tunnels_per_address = 5, messages_per_second = 1, bytes_per_second = \"64KiB\""
        ),
        [
            "tunnels     at most 1000 and 5 of one address, else 429",
            "rates       a client that sends more than 1 message or 64KiB a second is delayed",
        ]
    );
    assert_eq!(
        bounds("max_tunnels_per_address = 5, messages_per_second = 20, on_excess = \"close\""),
        [
            "tunnels     at most 5 of one address, else 429",
            "rates       a client that sends more than 20 messages a second is closed with 1008",
        ]
    );
    assert!(bounds("extensions = \"strip\"").is_empty());
}

#[test]
fn explain_says_which_server_would_get_it_and_why() {
    let asked = |servers: &str, upstream: &str, args: &[&str]| {
        let toml = SITE.replace("\"ws://127.0.0.1:9000\"", "\"three\"")
            + &format!("[upstream.three]\nservers = [{servers}]\n{upstream}\n");
        let origin = ["explain", "wss://localhost:8443/ws", "--origin", "https://app.example.com"];
        let (code, stdout, stderr) = run(site(&toml).path(), &[&origin, args].concat());
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        let lines = stdout.lines().filter(|line| line.starts_with("server ") || line.starts_with("sticky "));
        lines.map(|line| line[12..].to_owned()).collect::<Vec<_>>()
    };
    let two = "{ url = \"ws://10.0.0.1:90\", weight = 2 }, \"ws://10.0.0.2:90\", { url = \"ws://10.0.0.3:90\", backup = true }";
    assert_eq!(asked(two, "", &[]), ["ws://10.0.0.1:90: first in turn with 1 other, 67 % of new work"]);
    assert_eq!(
        asked(two, "balance = \"least-connections\"", &[]),
        ["ws://10.0.0.1:90: or the other, whichever has the fewest requests and tunnels for its weight"]
    );
    let hash = "balance = \"hash\"\nhash = { by = \"header\", name = \"X-User\" }";
    let by_user = |user: &str| asked(two, hash, &["--header", &format!("X-User: {user}")]);
    let servers: std::collections::BTreeSet<_> = (0..20).flat_map(|user| by_user(&user.to_string())).collect();
    let by_hash = "by the hash of header x-user, while it is not too busy";
    assert_eq!(
        servers.iter().collect::<Vec<_>>(),
        [&format!("ws://10.0.0.1:90: {by_hash}"), &format!("ws://10.0.0.2:90: {by_hash}")]
    );
    assert_eq!(by_user("7"), by_user("7"));
    assert_eq!(
        asked(two, hash, &[]),
        ["ws://10.0.0.1:90: first in turn with 1 other, since the request has no header x-user"]
    );
    let by_address = asked(two, "balance = \"hash\"", &["--client", "192.0.2.7"]);
    assert!(by_address[0].ends_with("by the hash of client address, while it is not too busy"), "{by_address:?}");
    let nobody = asked(two, "balance = \"hash\"", &[]);
    assert!(nobody[0].ends_with("since the request has no client address (--client gives one)"), "{nobody:?}");
    let drained = "{ url = \"ws://10.0.0.1:90\", weight = 0 }, { url = \"ws://10.0.0.3:90\", backup = true }";
    assert_eq!(asked(drained, "", &[]), ["ws://10.0.0.3:90: a backup, the only one that may get work"]);
}

#[test]
fn explain_says_which_origins_a_refused_one_was_held_against() {
    assert_explains(
        &site(SITE),
        &["wss://localhost:8443/ws", "--origin", "https://evil.example"],
        "GET wss://localhost:8443/ws, Origin https://evil.example

listener    https://127.0.0.1:8443 (portcullis.toml:1)
route       /ws (portcullis.toml:5): any host; the prefix `/ws`, 3 literal characters
            2 others do not match
origin      not allowed by https://app.example.com, https://*.example.org (portcullis.toml:8)
answer      403 Forbidden, X-Portcullis-Reason: origin-not-allowed
",
    );
}

#[test]
fn explain_tells_same_origin_in_full_and_a_required_subprotocol() {
    let toml = SITE.replace(
        "origins = [\"https://app.example.com\", \"https://*.example.org\"], subprotocols = { allow = [\"chat\"] }",
        "origins = [\"same-origin\"], subprotocols = { allow = [\"chat\"], require = true }",
    );
    let toml = toml.replace("path = \"/ws\"", "path = \"/ws\"\nhosts = [\"localhost\"]");
    assert_explains(
        &site(&toml),
        &["wss://localhost:8443/ws", "--origin", "https://localhost:8443"],
        "GET wss://localhost:8443/ws, Origin https://localhost:8443

listener    https://127.0.0.1:8443 (portcullis.toml:1)
route       localhost/ws (portcullis.toml:5): the host `localhost` by name; the prefix `/ws`, 3 literal characters
            2 others do not match
origin      allowed by same-origin (here https://localhost:8443) (portcullis.toml:9)
subprotocol none is offered, and the route requires one: chat
answer      400 Bad Request, X-Portcullis-Reason: subprotocol-required
",
    );
}

#[test]
fn explain_of_what_no_route_takes_says_why_not() {
    assert_explains(
        &site(SITE),
        &["https://nowhere.test/x"],
        "GET https://nowhere.test/x
no https listener has port 443: the answer if something maps it

listener    https://127.0.0.1:8443 (portcullis.toml:1)
tls         no certificate covers nowhere.test: clients that verify give up before they ask
route       none matches
            /ws (portcullis.toml:5): the prefix `/ws` does not match `/x`
            /old (portcullis.toml:10): the prefix `/old` does not match `/x`
            /private (portcullis.toml:14): the prefix `/private` does not match `/x`
answer      404 Not Found, X-Portcullis-Reason: no-route
because     no route matches host and path
",
    );
}

#[test]
fn explain_names_the_route_that_was_beaten_where_a_websocket_is_refused() {
    let more = "\n[[route]]\nhosts = [\"app.example.com\"]\nupstream = \"http://127.0.0.1:8080\"\n";
    assert_explains(
        &site(&format!("{SITE}{more}")),
        &["wss://app.example.com:8443/ws"],
        "GET wss://app.example.com:8443/ws, no Origin

listener    https://127.0.0.1:8443 (portcullis.toml:1)
route       app.example.com/ (portcullis.toml:19): the host `app.example.com` by name; the prefix `/`, 1 literal character
beats       /ws (portcullis.toml:5): any host; the prefix `/ws`, 3 literal characters
            2 others do not match
answer      403 Forbidden, X-Portcullis-Reason: upgrade-not-allowed
because     the route has no websocket table; the one it beats has, but hosts come before paths: give that one `hosts`
",
    );
}

#[test]
fn explain_has_one_line_for_each_other_outcome() {
    let redirect = "[[listener]]\naddress = \"127.0.0.1:8080\"\nredirect_https = true\n";
    let folder = site(&format!("{redirect}{SITE}").replace("client_certificate = false\n", ""));
    for (args, expected) in [
        (&["https://localhost:8443/ws"][..], "answer      426 Upgrade Required, X-Portcullis-Reason: websocket-only"),
        (&["https://localhost:8443/old"], "answer      308, Location: /ws"),
        (&["https://localhost:8443/private/x"], "upstream    http://127.0.0.1:8080, asked for /private/x"),
        (
            &["wss://localhost:8443/private"],
            "because     the route has no websocket table; a [route.websocket] would allow it",
        ),
        (
            &["wss://localhost:8443/old"],
            "because     the route has no websocket table; it answers by itself and has no server",
        ),
        (&["https://localhost:8443/a/../ws"], "because     the path has a dot segment"),
        (
            &["https://localhost:8443/ws", "--method", "TRACE"],
            "answer      405 Method Not Allowed, X-Portcullis-Reason: method-not-allowed",
        ),
        (&["http://localhost:8080/ws"], "route       none is asked: the listener redirects everything to https"),
        (&["http://localhost:8080/ws"], "answer      308, Location: https://localhost/ws"),
        (
            &["wss://localhost:8443/ws"],
            "origin      none: a program, since browsers always send one; allow_missing_origin lets it pass",
        ),
        (
            &["wss://localhost:8443/ws", "--origin", "https://a.test/x"],
            "origin      not an origin; write scheme, host and perhaps port, without a path",
        ),
    ] {
        let (code, stdout, stderr) = run(folder.path(), &[&["explain"], args].concat());
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(stdout.lines().any(|line| line == expected), "{args:?}:\n{stdout}");
    }
}

#[test]
fn explain_of_a_route_for_client_certificates_asks_with_and_without_one() {
    let toml = SITE
        .replace(
            "key = \"certs/localhost.key\" }",
            "key = \"certs/localhost.key\", client_ca = \"certs/ca.pem\", client_auth = \"required\" }",
        )
        .replace("client_certificate = false", "client_certificate = true");
    let (_, stdout, stderr) = run(site(&toml).path(), &["explain", "https://localhost:8443/private"]);
    assert!(
        stdout
            .contains("tls         a client certificate is required before any request; one is assumed to be shown\n"),
        "{stdout}{stderr}"
    );
    assert!(stdout.contains("answer      the server's own\n"), "{stdout}");
}

#[test]
fn a_scheme_that_nobody_serves_is_answered_with_the_one_that_somebody_does() {
    assert_explains(
        &site(SITE),
        &["ws://localhost/ws"],
        "GET ws://localhost/ws, no Origin
no listener is without TLS, so that nobody would answer; ask for wss://localhost/ws
",
    );
}

#[test]
fn a_question_that_cannot_be_asked_is_usage() {
    let folder = site(SITE);
    for (args, why) in [
        (&["localhost/ws"][..], "`localhost/ws` is not a URL; write wss://localhost/ws or https://localhost/ws"),
        (&["ftp://localhost/ws"], "`ftp` is not a scheme to ask with; use wss, ws, https or http"),
        (
            &["wss://localhost/ws", "--method", "POST"],
            "--method is for http:// and https://; a WebSocket handshake is a GET",
        ),
        (&["wss://localhost/ws", "--origin", "a\nb"], "--origin: `a\\nb` cannot stand in a header"),
    ] {
        let expected = (Some(2), String::new(), format!("portcullis explain: {why}\n"));
        assert_eq!(run(folder.path(), &[&["explain"], args].concat()), expected);
    }
}

// ── the command line ──

#[test]
fn a_misspelt_command_gets_a_suggestion_and_no_command_the_help() {
    let folder = folder();
    let (code, stdout, stderr) = run(folder.path(), &["exspose"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("a similar subcommand exists: 'expose'"), "{stderr}");
    assert_eq!(run(folder.path(), &[]).0, Some(2));
    let (code, stdout, stderr) = run(folder.path(), &["--help"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains("Example:\n  portcullis expose ws://127.0.0.1:9000"), "{stdout}");
}

#[test]
fn stderr_that_is_closed_is_no_failure_either() {
    let folder = folder();
    let mut child = command(folder.path(), &["check"]).spawn().expect("it starts");
    drop(child.stderr.take());
    let mut stdout = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut stdout).expect("UTF-8");
    let (code, ..) = finish(child);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
}

#[test]
fn on_a_stderr_that_is_the_journals_each_line_begins_with_its_priority() {
    use std::os::unix::fs::MetadataExt;
    let folder = folder();
    let config = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nrespond = { status = 204 }\n";
    fs::write(folder.path().join("portcullis.toml"), config).expect("a writable folder");
    for is_journal in [true, false] {
        let errors = fs::File::create(folder.path().join("stderr")).expect("a file");
        let there = errors.metadata().expect("a file");
        let stream = format!("{}:{}", there.dev(), there.ino() + u64::from(!is_journal));
        let mut command = command(folder.path(), &["run"]);
        command.env("JOURNAL_STREAM", stream).stderr(errors);
        let (running, line) = Running::of(command);
        let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
        let mut client = std::net::TcpStream::connect(address).expect("a listener");
        std::io::Write::write_all(&mut client, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .expect("sent");
        client.read_to_end(&mut Vec::new()).expect("an answer");
        assert_eq!(running.stop().0, Some(0));
        let log = fs::read_to_string(folder.path().join("stderr")).expect("a log");
        assert!(log.contains("\"event\":\"request\"") && log.contains("\"message\":\"stopped\""), "{log}");
        let start = if is_journal { "<6>{" } else { "{" };
        assert!(log.lines().all(|line| line.starts_with(start)), "{log}");
    }
}
