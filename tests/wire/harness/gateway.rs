//! The real binary, started with a configuration in a folder of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Leaf, eventually, patience, pki};

pub struct Gateway {
    child: Child,
    /// Name and URL of each listener, in the order in which they were announced.
    addresses: Arc<Mutex<Vec<(String, String)>>>,
    stderr: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    folder: TempDir,
}

fn folder_with(toml: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    pki().write_into(folder.path());
    std::fs::write(folder.path().join("portcullis.toml"), toml).expect("a writable folder");
    folder
}

fn command(folder: &Path, descriptors: Option<u32>) -> Command {
    let binary = env!("CARGO_BIN_EXE_portcullis");
    let mut command = match descriptors {
        None => Command::new(binary),
        Some(limit) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\""), binary]);
            shell
        }
    };
    command.args(["run", "--config"]).arg(folder.join("portcullis.toml"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `admin listening on http://127.0.0.1:43211`: under this name it stands among the others.
const ADMIN: &str = "[admin]";

/// `listening on https://127.0.0.1:43211 (NAME)` as name and URL.
fn announcement(line: &str) -> Option<(String, String)> {
    let (url, name) = line.strip_prefix("listening on ")?.split_once(" (")?;
    Some((name.strip_suffix(')')?.to_owned(), url.to_owned()))
}

impl Gateway {
    /// Returns when every listener has announced its address.
    pub fn start_with(toml: &str, descriptors: Option<u32>) -> Self {
        Self::start_in(folder_with(toml), toml, descriptors)
    }

    /// The same with further files in its folder.
    pub fn start_prepared(toml: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = folder_with(toml);
        prepare(folder.path());
        Self::start_in(folder, toml, None)
    }

    fn start_in(folder: TempDir, toml: &str, descriptors: Option<u32>) -> Self {
        let mut child = command(folder.path(), descriptors).spawn().expect("the binary");
        let stderr = Arc::new(Mutex::new(String::new()));
        let (announce, announced) = mpsc::channel();
        let addresses = Arc::new(Mutex::new(Vec::new()));
        let known = addresses.clone();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(url) = line.strip_prefix("admin listening on ") {
                    known.lock().expect("a whole list").push((ADMIN.to_owned(), url.to_owned()));
                } else if let Some(found) = announcement(&line) {
                    known.lock().expect("a whole list").push(found);
                    let _ = announce.send(());
                }
            }
        });
        let (errors, sink) = (child.stderr.take().expect("a pipe"), stderr.clone());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
                let mut text = sink.lock().expect("whole text");
                *text += &String::from_utf8_lossy(&line);
                text.push('\n');
            }
        });
        let gateway = Self { child, addresses, stderr, reader: Some(reader), folder };
        let deadline = Instant::now() + patience();
        for _ in 0..toml.matches("[[listener]]").count() {
            match announced.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(()) => {}
                Err(_) => panic!("the gateway does not listen; it said:\n{}\nfor:\n{toml}", gateway.stderr()),
            }
        }
        gateway
    }

    /// Runs a gateway that must refuse to start; the exit code and what it said.
    pub fn refused(toml: &str, prepare: impl FnOnce(&Path)) -> (Option<i32>, String) {
        let folder = folder_with(toml);
        prepare(folder.path());
        let mut child = command(folder.path(), None).spawn().expect("the binary");
        let deadline = Instant::now() + patience();
        while child.try_wait().expect("a child").is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("the gateway started with what it had to refuse:\n{toml}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let Output { status, stderr, .. } = child.wait_with_output().expect("a child");
        (status.code(), String::from_utf8_lossy(&stderr).into_owned())
    }

    /// The address of a listener, by its name.
    pub fn address(&self, name: &str) -> SocketAddr {
        let url = self.url(name);
        url.split_once("://").and_then(|(_, address)| address.parse().ok()).unwrap_or_else(|| panic!("{url}"))
    }

    /// As announced, with its scheme; where several had the name, the last one.
    pub fn url(&self, name: &str) -> String {
        let all = self.addresses.lock().expect("a whole list");
        let found = all.iter().rfind(|(other, _)| other == name);
        found.unwrap_or_else(|| panic!("no listener {name}: {all:?}")).1.clone()
    }

    /// Waits until a listener that a reload adds has announced its address.
    pub async fn announced(&self, name: &str) -> SocketAddr {
        let is_there = || self.addresses.lock().expect("a whole list").iter().any(|(other, _)| other == name);
        eventually(&format!("listening of {name}"), is_there).await;
        self.address(name)
    }

    /// Where its admin listener was announced last.
    pub fn admin(&self) -> String {
        self.url(ADMIN)
    }

    /// How often one was.
    pub fn admins(&self) -> usize {
        self.addresses.lock().expect("a whole list").iter().filter(|(name, _)| name == ADMIN).count()
    }

    /// A command for it, run in its folder to its end: exit code, stdout, stderr.
    pub async fn command(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(args).current_dir(self.folder()).stdin(Stdio::null()).kill_on_drop(true);
        let output = super::within("the end of a command", command.output()).await.expect("the binary");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// The same, with the address of its admin listener.
    pub async fn operate(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let admin = self.admin();
        self.command(&[args, &["--admin", &admin]].concat()).await
    }

    /// Where its configuration and certificates are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a file in place of another in one step, as careful tools do.
    pub fn replace(&self, name: &str, text: &str) {
        let fresh = self.folder().join(format!(".{name}.new").replace('/', "-"));
        std::fs::write(&fresh, text).expect("a writable folder");
        std::fs::rename(fresh, self.folder().join(name)).expect("a writable folder");
    }

    /// Certificate and key.
    pub fn replace_certificate(&self, name: &str, leaf: &Leaf) {
        self.replace(&format!("{name}.key"), &leaf.key_pem);
        self.replace(&format!("{name}.pem"), &leaf.cert_pem);
    }

    /// SIGHUP, and the event that says what has come of it.
    pub async fn reload(&self) -> serde_json::Value {
        let before = self.reloads().len();
        self.hang_up();
        eventually("the end of a reload", || self.reloads().len() > before).await;
        self.reloads().remove(before)
    }

    /// With another file.
    pub async fn reload_with(&self, toml: &str) -> serde_json::Value {
        self.replace("portcullis.toml", toml);
        self.reload().await
    }

    /// Reloads that have ended, one way or the other.
    pub fn reloads(&self) -> Vec<serde_json::Value> {
        let is_end = |event: &serde_json::Value| {
            event["message"].as_str().is_some_and(|text| text == "reloaded" || text.starts_with("no reload"))
        };
        self.events().into_iter().filter(is_end).collect()
    }

    /// The event log.
    pub fn events(&self) -> Vec<serde_json::Value> {
        let text = self.stderr();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|line| line.get("level").is_some()).collect()
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("whole text").clone()
    }

    /// The lines of the access log: those that carry an end reason.
    pub fn access_log(&self) -> Vec<serde_json::Value> {
        let text = self.stderr();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|line| line.get("end").is_some()).collect()
    }

    /// Waits until the access log has this many lines.
    pub async fn logged(&self, count: usize) -> Vec<serde_json::Value> {
        eventually(&format!("{count} lines of access log"), || self.access_log().len() >= count).await;
        self.access_log()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in KiB.
    pub fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a living process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a living process").count()
    }

    /// CPU time so far.
    pub fn cpu(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.pid());
        let mut total = 0;
        for task in std::fs::read_dir(tasks).expect("a living process").flatten() {
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            total += text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
        }
        Duration::from_nanos(total)
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("a living process");
    }

    pub async fn exit(&mut self) -> ExitStatus {
        eventually("the end of the process", || !self.is_alive()).await;
        self.child.wait().expect("a child")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.reader.take().map(JoinHandle::join);
        let text = self.stderr.lock().map(|text| text.clone()).unwrap_or_default();
        if std::thread::panicking() {
            eprintln!("--- what the gateway said ---\n{text}");
        } else {
            assert!(!text.contains("panicked"), "the gateway panicked:\n{text}");
        }
    }
}
