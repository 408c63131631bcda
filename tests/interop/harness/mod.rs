//! Starts real programs and the real gateway, watches what they print, and ends them by their own process group.
//!
//! What `tests/run` installs lies under `target/interop`; a program that is missing fails the test with its name.
//! `gateway` starts the binary under test, `tap` watches what it sends to a backend.

#![allow(dead_code, reason = "the browser suite uses the same file and needs less of it")]

pub mod gateway;
mod tap;
pub mod three;

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use gateway::{Gateway, certificates};
pub use tap::Tap;

/// How long anything may take that is expected to happen. One number, for slow machines.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// For what consists of many steps, with a browser among them.
pub const LONG_PATIENCE: Duration = Duration::from_secs(300);

/// The name under which clients reach the gateway.
pub const NAME: &str = "gate.test";
/// The Origin that the routes of these suites allow.
pub const ALLOWED: &str = "https://app.test";
/// One that they do not.
pub const FOREIGN: &str = "https://evil.test";

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the interop suite.
pub fn suite(file: &str) -> PathBuf {
    root().join("tests/interop").join(file)
}

/// Where `tests/run` puts what it installs.
pub fn installed() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        // CARGO_TARGET_TMPDIR is `tmp` inside the target directory, wherever that is.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory has a tmp folder");
        target.join("interop")
    })
}

/// A new folder for one test, removed with the value.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder under target/")
}

/// A port that was free a moment ago, for programs that cannot say which one they chose.
pub fn free_port() -> u16 {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    probe.local_addr().expect("the address of a bound socket").port()
}

/// Finds a program or fails by name.
pub fn program(name: &str) -> PathBuf {
    let here = [installed().join("venv/bin").join(name), installed().join("node_modules/.bin").join(name)];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).map(|folder| folder.join(name));
    here.into_iter()
        .chain(system)
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("`{name}` is not installed; `tests/run interop` installs what these tests need"))
}

/// Python with the suite's packages, running a file of the suite.
pub fn python(file: &str) -> Command {
    let mut command = Command::new(installed_file("venv/bin/python3"));
    command.arg("-u").arg(suite(file));
    command
}

/// Node with the suite's packages, running a file of the suite.
pub fn node(file: &str) -> Command {
    let mut command = Command::new(program("node"));
    command.arg(suite(file)).env("NODE_PATH", installed_file("node_modules"));
    command
}

/// Something that `tests/run` has put under `target/interop`, or a failure that names it.
pub fn installed_file(name: &str) -> PathBuf {
    let file = installed().join(name);
    assert!(file.exists(), "{} is missing; `tests/run interop` installs it", file.display());
    file
}

/// What a program has printed so far, and a way to wait for more.
#[derive(Clone, Default)]
pub struct Lines(Arc<(Mutex<Printed>, Condvar)>);

#[derive(Default)]
struct Printed {
    lines: Vec<String>,
    /// Streams that may still bring more.
    open: usize,
}

impl Lines {
    fn follow(&self, from: impl Read + Send + 'static) {
        self.change(|printed| printed.open += 1);
        let lines = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            lines.change(|printed| printed.open -= 1);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Printed> {
        // A failed wait panics with the lock held; what was printed is still worth showing.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Printed)) {
        change(&mut self.lock());
        self.0.1.notify_all();
    }

    pub fn push(&self, line: String) {
        self.change(|printed| printed.lines.push(line));
    }

    pub fn all(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    /// The first line for which `wanted` has a value, waited for until [`PATIENCE`] or the program's output ends.
    pub fn wait<T>(&self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        self.wait_within(PATIENCE, what, wanted)
    }

    /// The same for what takes long.
    pub fn wait_long<T>(&self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        self.wait_within(LONG_PATIENCE, what, wanted)
    }

    fn wait_within<T>(&self, patience: Duration, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + patience;
        let mut printed = self.lock();
        loop {
            if let Some(found) = printed.lines.iter().find_map(|line| wanted(line)) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let over = left.is_zero() || printed.open == 0;
            assert!(!over, "{what} did not come; printed so far:\n{}", printed.lines.join("\n"));
            printed = self.0.1.wait_timeout(printed, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A program that runs until the value is dropped.
pub struct Process {
    child: Child,
    pub name: String,
    pub lines: Lines,
}

impl Process {
    /// Starts it in a process group of its own, so that its end takes its children along; `setpriv` sees to it that
    /// it does not outlive a test run that is killed.
    pub fn start(name: &str, command: Command) -> Self {
        let mut started = Command::new(program("setpriv"));
        started.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => started.env(key, value),
                None => started.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            started.current_dir(folder);
        }
        let mut child = started
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let lines = Lines::default();
        lines.follow(child.stdout.take().expect("stdout is piped"));
        lines.follow(child.stderr.take().expect("stderr is piped"));
        Self { child, name: name.to_owned(), lines }
    }

    /// Starts a backend that prints `listening on PORT`.
    pub fn backend(name: &str, command: Command) -> (Self, u16) {
        let process = Self::start(name, command);
        let port = process.lines.wait(&format!("{name}'s `listening on PORT`"), |line| {
            line.strip_prefix("listening on ").and_then(|port| port.trim().parse().ok())
        });
        (process, port)
    }

    /// Waits until something accepts on `port`, for programs that announce nothing.
    pub fn accepting(&mut self, port: u16) {
        eventually(&format!("{} accepts on port {port}", self.name), || {
            assert!(self.is_running(), "{} has ended:\n{}", self.name, self.lines.all().join("\n"));
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits for its exit code.
    pub fn terminate(self) -> Option<i32> {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            // Gone already is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        self.finish()
    }

    /// Waits for its end; its exit code.
    pub fn finish(mut self) -> Option<i32> {
        eventually(&format!("{} stops", self.name), || self.child.try_wait().ok().flatten()).code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            // The group outlives its leader while a child is left in it; gone already is as good.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- {} printed:\n{}", self.name, self.lines.all().join("\n"));
        }
    }
}

/// Polls for a value; the one place that waits by looking again, for what gives no signal.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a client to its end and gives back what it printed; more than [`PATIENCE`] is a failure.
pub fn run(command: Command) -> Output {
    run_within(PATIENCE, command)
}

fn run_within(patience: Duration, command: Command) -> Output {
    let shown = format!("{:?}", command.get_program());
    // `timeout` ends it by its own pid, with its children.
    let mut limited = Command::new(program("timeout"));
    limited
        .args(["--kill-after=1", &patience.as_secs().to_string()])
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            limited.env(key, value);
        }
    }
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    let output =
        limited.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{shown} does not start: {error}"));
    assert!(
        !matches!(output.status.code(), Some(124 | 137)),
        "{shown} did not end within {patience:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs a client that must succeed; its standard output.
pub fn succeed(command: Command) -> String {
    succeed_within(PATIENCE, command)
}

/// Runs a compiler, which may take minutes on a busy machine.
pub fn compile(command: Command) {
    succeed_within(Duration::from_secs(300), command);
}

/// The same with a time of its own.
pub fn succeed_within(patience: Duration, command: Command) -> String {
    let shown = format!("{command:?}");
    let output = run_within(patience, command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{shown} failed with {}:\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Reads a stream of lines until one holds `text`.
pub fn read_until(stream: &mut impl BufRead, text: &str) -> String {
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        let read = stream.read_line(&mut line).expect("a readable stream");
        assert!(read > 0, "the stream ended before `{text}`: {seen}");
        seen.push_str(&line);
        if line.contains(text) {
            return seen;
        }
    }
}

/// The values of one header field of a head, in order.
pub fn field<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}
