//! Starts real programs and the real gateway, watches what they print, and ends them by their own process group.
//!
//! What `tests/run` installs lies under `target/interop`; a program that is missing fails the test with its name.
//! A [`Tap`] stands between the gateway and each backend, hands every byte on and keeps the head of each connection:
//! what it has not seen, the backend has not seen.

#![allow(dead_code, reason = "the browser suite uses the same file and needs less of it")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that is expected to happen. One number, for slow machines.
pub const PATIENCE: Duration = Duration::from_secs(20);

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
        let deadline = Instant::now() + PATIENCE;
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
    pub fn terminate(mut self) -> Option<i32> {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            // Gone already is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
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

fn succeed_within(patience: Duration, command: Command) -> String {
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

/// The certificates of a test run: one CA, one leaf for the names of these suites, made once and kept in files.
pub struct Certificates {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca_der: Vec<u8>,
}

pub fn certificates() -> &'static Certificates {
    static MADE: OnceLock<Certificates> = OnceLock::new();
    MADE.get_or_init(|| make_certificates().expect("test certificates can be made"))
}

fn make_certificates() -> Result<Certificates, Box<dyn std::error::Error>> {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    use rcgen::{KeyUsagePurpose, date_time_ymd};

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("certificates-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "Portcullis interop CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    let names = [NAME, "pages.test", "other.test", "localhost", "127.0.0.1"].map(str::to_owned);
    let mut params = CertificateParams::new(names)?;
    // Browsers refuse leaves that live longer than about a year.
    let today = time_of_today();
    params.not_before = date_time_ymd(today.0, today.1, 1) - Duration::from_secs(86_400);
    params.not_after = params.not_before + Duration::from_secs(200 * 86_400);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, &ca)?;

    let made = Certificates {
        ca: folder.join("ca.pem"),
        cert: folder.join("leaf.pem"),
        key: folder.join("leaf.key"),
        ca_der: ca.der().to_vec(),
    };
    std::fs::write(&made.ca, ca.pem())?;
    std::fs::write(&made.cert, leaf.pem())?;
    std::fs::write(&made.key, key.serialize_pem())?;
    Ok(made)
}

/// Year and month of now.
fn time_of_today() -> (i32, u8) {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    (i32::from(now.year()), now.month().cast_unsigned())
}

/// The gateway's own binary, serving one configuration with TLS on a port of its choice.
pub struct Gateway {
    pub process: Process,
    /// The first listener's port.
    pub port: u16,
    _folder: tempfile::TempDir,
}

/// The binary under test; `PORTCULLIS_BIN` names another one, such as a release build.
pub fn gateway_binary() -> PathBuf {
    std::env::var_os("PORTCULLIS_BIN").map_or_else(|| env!("CARGO_BIN_EXE_portcullis").into(), PathBuf::from)
}

impl Gateway {
    /// `routes` is the part of the file after the listener.
    pub fn start(routes: &str) -> Self {
        Self::with_listener("", routes)
    }

    /// The same with more keys for the listener's table.
    pub fn with_listener(keys: &str, routes: &str) -> Self {
        let Certificates { cert, key, .. } = certificates();
        let text = format!(
            "[server]\nworkers = 2\ndrain_timeout = \"1s\"\n\n[log]\naccess = \"stderr\"\nformat = \"json\"\n\n\
             [[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\ntls = {{ cert = {cert:?}, key = {key:?} }}\n{keys}\n\n{routes}\n"
        );
        let folder = folder();
        let file = folder.path().join("portcullis.toml");
        std::fs::write(&file, &text).expect("the configuration can be written");
        let mut command = Command::new(gateway_binary());
        command.arg("run").arg("--config").arg(&file);
        let process = Process::start("the gateway", command);
        process.lines.push(format!("(configuration)\n{text}"));
        let port = process.lines.wait("the gateway's `listening on https://…` line", announced_port);
        Self { process, port, _folder: folder }
    }

    /// A curl that trusts the test CA and finds the gateway under [`NAME`]; the path is appended.
    pub fn curl(&self, path: &str) -> Command {
        let mut command = Command::new(program("curl"));
        command.args(["--silent", "--show-error", "--max-time", "15", "--path-as-is", "--cacert"]);
        command.arg(&certificates().ca);
        command.arg("--resolve").arg(format!("{NAME}:{}:127.0.0.1", self.port));
        command.arg(self.url(path));
        command
    }

    /// `https://gate.test:PORT` and the path.
    pub fn url(&self, path: &str) -> String {
        format!("https://{NAME}:{}{path}", self.port)
    }
}

/// `listening on https://127.0.0.1:8443 (public)` → 8443
pub fn announced_port(line: &str) -> Option<u16> {
    let rest = line.split_once("listening on https://")?.1;
    let address = rest.split([' ', '/']).next()?;
    address.rsplit_once(':')?.1.parse().ok()
}

/// A forwarder in front of a backend that keeps what the gateway opens each connection with.
pub struct Tap {
    pub port: u16,
    heads: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A head is kept up to here.
const HEAD: usize = 32 * 1024;

impl Tap {
    pub fn before(backend: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("the address of a bound socket").port();
        let heads: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let kept = heads.clone();
        // Ends with the test's process; every stream in it ends when either side hangs up.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, backend))) else { continue };
                let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
                let index = {
                    let mut heads = kept.lock().expect("no forwarder panics");
                    heads.push(Vec::new());
                    heads.len() - 1
                };
                let (up, down) = ((client.try_clone(), server.try_clone()), (server, client));
                let kept = kept.clone();
                if let (Ok(from), Ok(to)) = up {
                    thread::spawn(move || forward(from, to, |bytes| keep(&kept, index, bytes)));
                }
                thread::spawn(move || forward(down.0, down.1, |_| ()));
            }
        });
        Self { port, heads }
    }

    /// Every request head that the backend was sent, as text.
    pub fn heads(&self) -> Vec<String> {
        let heads = self.heads.lock().expect("no forwarder panics");
        heads.iter().map(|head| String::from_utf8_lossy(head).into_owned()).collect()
    }

    /// The head of the request whose target holds `marker`, waited for; its first line is the request line.
    pub fn head(&self, marker: &str) -> String {
        eventually(&format!("a request with `{marker}` at the backend"), || {
            self.heads().iter().flat_map(|kept| kept.split("\r\n\r\n")).find_map(|head| {
                // A body of the request before may stand in front of it.
                let line = head.lines().find(|line| line.ends_with(" HTTP/1.1") && line.contains(marker))?;
                head.find(line).map(|start| head[start..].to_owned())
            })
        })
    }

    /// Fails if any byte of a request with `marker` has reached the backend.
    pub fn never_saw(&self, marker: &str) {
        let seen: Vec<_> = self.heads().into_iter().filter(|head| head.contains(marker)).collect();
        assert!(seen.is_empty(), "the backend was sent a request that the gateway had to refuse:\n{}", seen.join("\n"));
    }
}

fn keep(heads: &Mutex<Vec<Vec<u8>>>, index: usize, bytes: &[u8]) {
    let head = &mut heads.lock().expect("no forwarder panics")[index];
    let room = HEAD.saturating_sub(head.len());
    head.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

fn forward(mut from: TcpStream, mut to: TcpStream, mut seen: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                seen(&buffer[..read]);
                if to.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    // The other direction goes on: a half-close stays one.
    let _ = to.shutdown(Shutdown::Write);
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

/// Joins arguments as a JSON object for the suite's own client scripts.
pub fn argument(value: &serde_json::Value) -> impl AsRef<OsStr> + use<> {
    value.to_string()
}

/// Reads one line of the gateway's access log that `wanted` accepts.
pub fn access_line(gateway: &Gateway, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    gateway.process.lines.wait(what, |line| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        wanted(&value).then_some(value)
    })
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
