//! A gateway whose program can be exchanged, in a folder of its own; and all processes that have come of it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn eventually(what: &str, mut probe: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !probe() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub struct Scene {
    child: Child,
    folder: TempDir,
    log: Arc<Mutex<String>>,
    pub toml: String,
}

impl Scene {
    /// Every request is answered with `body`.
    pub fn config(body: &str, server: &str, more: &str) -> String {
        let workers = if server.contains("workers") { "" } else { "workers = 1\n" };
        format!(
            "[server]\n{workers}{server}\n[log]\naccess = \"off\"\nformat = \"json\"\n\
             [[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n\
             [[route]]\nrespond = {{ status = 200, body = \"{body}\" }}\n{more}"
        )
    }

    pub async fn start(toml: &str) -> Self {
        Self::start_with(|_| toml.to_owned()).await
    }

    pub async fn start_with(toml: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let toml = toml(folder.path());
        let mut command = Command::new(folder.path().join("portcullis"));
        command.stdin(Stdio::null());
        Self::launch(folder, toml, command).await
    }

    /// With what the service manager has prepared; `{program}` in its arguments stands for the gateway's.
    pub async fn launch(folder: TempDir, toml: String, mut command: Command) -> Self {
        let log = Arc::new(Mutex::new(String::new()));
        std::fs::hard_link(BINARY, folder.path().join("portcullis"))
            .or_else(|_| std::fs::copy(BINARY, folder.path().join("portcullis")).map(drop))
            .expect("a program");
        std::fs::write(folder.path().join("portcullis.toml"), &toml).expect("written");
        command.args(["run", "--config", "portcullis.toml", "--pid-file", "pid"]).current_dir(folder.path());
        command.stderr(Stdio::piped());
        let has_stdout = command.get_envs().all(|(name, _)| name != "NO_STDOUT");
        if has_stdout {
            command.stdout(Stdio::piped());
        }
        let mut child = command.spawn().expect("the program");
        let outputs: [Option<Box<dyn std::io::Read + Send>>; 2] =
            [child.stdout.take().map(|out| Box::new(out) as _), child.stderr.take().map(|out| Box::new(out) as _)];
        for output in outputs.into_iter().flatten() {
            let log = log.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let mut log = log.lock().expect("whole text");
                    *log += &line;
                    log.push('\n');
                }
            });
        }
        let mut scene = Self { child, folder, log, toml };
        if has_stdout {
            let wanted = scene.toml.matches("[[listener]]").count();
            let deadline = Instant::now() + PATIENCE;
            while scene.announced().len() < wanted && scene.child.try_wait().expect("a child").is_none() {
                assert!(Instant::now() < deadline, "it does not listen; it said:\n{}", scene.log());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        scene
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("whole text").clone()
    }

    fn announced(&self) -> Vec<(String, String)> {
        let announcement = |line: &str| {
            let (url, name) = line.strip_prefix("listening on ")?.split_once(" (")?;
            Some((name.strip_suffix(')')?.to_owned(), url.to_owned()))
        };
        self.log().lines().filter_map(announcement).collect()
    }

    pub fn has_announced(&self, name: &str) -> bool {
        self.announced().iter().any(|(other, _)| other == name)
    }

    pub fn address(&self) -> SocketAddr {
        self.address_of("main")
    }

    pub fn address_of(&self, name: &str) -> SocketAddr {
        let all = self.announced();
        let found = all.iter().rfind(|(other, _)| other == name).unwrap_or_else(|| panic!("{name}: {}", self.log()));
        found.1.split_once("://").and_then(|(_, address)| address.parse().ok()).expect("an address")
    }

    pub fn events(&self) -> Vec<serde_json::Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Those with this message.
    pub fn said(&self, message: &str) -> Vec<serde_json::Value> {
        self.events().into_iter().filter(|event| event["message"] == message).collect()
    }

    /// The process that was started first.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The one that serves now.
    pub fn serving(&self) -> u32 {
        let replaced = self.said("another process serves now");
        replaced.last().and_then(|event| event["pid"].as_u64()).map_or(self.pid(), |pid| pid as u32)
    }

    pub fn signal(&self, pid: u32, signal: Signal) {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("a living process");
    }

    /// SIGUSR2 to the one that serves, and the number of the next.
    pub async fn upgrade(&mut self) -> u32 {
        let before = self.said("another process serves now").len();
        self.signal(self.serving(), Signal::USR2);
        self.upgraded(before).await
    }

    /// The number of the process that has followed the one that was number `before`.
    pub async fn upgraded(&mut self, before: usize) -> u32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.said("another process serves now").get(before) {
                let pid = event["pid"].as_u64().expect("a number") as u32;
                // Its first line: what it says after that it says itself.
                eventually("its pid file", || self.pid_file() == Some(pid)).await;
                return pid;
            }
            assert!(Instant::now() < deadline, "no upgrade; it said:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGUSR2, and why nothing came of it.
    pub async fn fail_to_upgrade(&mut self) -> String {
        let said = "no upgrade: this process serves on";
        let before = self.said(said).len();
        self.signal(self.serving(), Signal::USR2);
        eventually("the end of the upgrade", || self.said(said).len() > before).await;
        self.said(said)[before]["error"].as_str().unwrap_or_default().to_owned()
    }

    pub fn write_config(&self, toml: &str) {
        self.put("portcullis.toml", |path| std::fs::write(path, toml).expect("written"));
    }

    /// A script in the program's place.
    pub fn replace_program(&self, script: &str) {
        self.put("portcullis", |path| {
            std::fs::write(path, format!("#!/bin/sh\n{script}\n")).expect("written");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("ours");
        });
    }

    /// A new file with the same in it, as an installation does it.
    pub fn replace_program_by_itself(&self) {
        self.put("portcullis", |path| _ = std::fs::copy(BINARY, path).expect("copied"));
    }

    fn put(&self, name: &str, write: impl FnOnce(&Path)) {
        let fresh = self.folder().join(format!(".{name}.new"));
        write(&fresh);
        std::fs::rename(fresh, self.folder().join(name)).expect("a writable folder");
    }

    pub fn pid_file(&self) -> Option<u32> {
        std::fs::read_to_string(self.folder().join("pid")).ok()?.trim().parse().ok()
    }

    pub fn comm(&self, pid: u32) -> String {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
    }

    pub fn is_alive(&mut self, pid: u32) -> bool {
        if pid == self.child.id() {
            return self.child.try_wait().expect("a child").is_none();
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        status.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    }

    /// Those of all that have ever served.
    pub fn living(&mut self) -> Vec<u32> {
        let mut all = vec![self.pid()];
        all.extend(
            self.said("another process serves now")
                .iter()
                .filter_map(|event| event["pid"].as_u64())
                .map(|pid| pid as u32),
        );
        all.retain(|pid| self.is_alive(*pid));
        all
    }

    /// Every process that runs out of this scene's folder.
    pub fn processes(&self) -> Vec<u32> {
        let here = |pid: &u32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == self.folder());
        let numbers = std::fs::read_dir("/proc").expect("Linux").flatten();
        numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(here).collect()
    }

    /// The program called for something else than to serve; its exit code, and what it said.
    pub async fn command(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = tokio::process::Command::new(BINARY);
        let output = command.args(arguments).current_dir(self.folder()).stdin(Stdio::null()).output().await;
        let output = output.expect("the program");
        let words = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&words).into_owned())
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().expect("a child").code()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for pid in self.processes() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- what the processes said ---\n{}", self.log());
        } else {
            assert!(!self.log().contains("panicked"), "{}", self.log());
        }
    }
}
