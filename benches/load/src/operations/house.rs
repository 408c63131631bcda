//! The gateway, its server and its files; and what an operator does to it. The processes end with the value.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::args::Problem;
use crate::cert;
use crate::program::{Program, announced, serve};

/// For one command of the operator's.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub struct House {
    program: PathBuf,
    gateway: Program,
    _server: Program,
    settings: Settings,
    folder: PathBuf,
    /// Configurations that were written.
    written: u32,
    /// The process that took over.
    next: Option<u32>,
}

/// What the configuration says.
#[derive(Clone, Copy)]
struct Settings {
    server: SocketAddr,
    clear: SocketAddr,
    secure: SocketAddr,
    workers: usize,
    drain_rate: u32,
}

impl House {
    pub fn start(program: &str, workers: usize, drain_rate: u32) -> Result<Self, Problem> {
        let folder = std::env::temp_dir().join(format!("portcullis-operations-{}", std::process::id()));
        for name in ["first", "second"] {
            cert::make(&folder.join(name))?;
        }
        for file in ["leaf.pem", "leaf.key"] {
            fs::copy(folder.join("first").join(file), folder.join(file))?;
        }
        // The program is replaced before the upgrade, as a package would.
        let place = folder.join("portcullis");
        fs::copy(program, &place)?;
        let [server, clear, secure] = free_ports()?;
        let served = serve(server)?;
        let config = folder.join("portcullis.toml");
        let settings = Settings { server, clear, secure, workers, drain_rate };
        fs::write(&config, settings.configuration(0))?;
        let mut command = Command::new(&place);
        command.arg("run").arg("--config").arg(&config);
        let (gateway, _) = announced(command, "listening on https://")?;
        Ok(Self { program: place, gateway, _server: served, settings, folder, written: 0, next: None })
    }

    /// The listener in the clear, and the one with TLS.
    pub fn addresses(&self) -> [SocketAddr; 2] {
        [self.settings.clear, self.settings.secure]
    }

    /// Of the process that was started first.
    pub fn pid(&self) -> u32 {
        self.gateway.id()
    }

    /// Those of both certificates.
    pub fn authorities(&self) -> [String; 2] {
        ["first", "second"].map(|which| self.folder.join(which).join("ca.pem").display().to_string())
    }

    /// The certificate that is to be shown.
    pub fn certificate(&self) -> Result<Vec<u8>, Problem> {
        Ok(CertificateDer::from_pem_file(self.folder.join("leaf.pem"))?.to_vec())
    }

    /// Another route comes or goes, and the gateway is told.
    pub async fn reload(&mut self) -> Result<(), Problem> {
        self.written += 1;
        let text = self.settings.configuration(self.written);
        let (next, file) = (self.folder.join("next.toml"), self.folder.join("portcullis.toml"));
        fs::write(&next, text)?;
        fs::rename(&next, &file)?;
        self.command(&["reload"]).await
    }

    /// The other certificate, by renaming, and the gateway is told.
    pub async fn renew(&mut self) -> Result<(), Problem> {
        for file in ["leaf.pem", "leaf.key"] {
            fs::rename(self.folder.join("second").join(file), self.folder.join(file))?;
        }
        self.reload().await
    }

    /// Another program in the place of the first, and the gateway is told; the new process.
    pub async fn upgrade(&mut self) -> Result<u32, Problem> {
        let next = self.folder.join("portcullis.next");
        fs::copy(&self.program, &next)?;
        fs::rename(&next, &self.program)?;
        let pid = self.pid().to_string();
        self.run(&["upgrade", "--pid", &pid]).await?;
        let began = Instant::now();
        loop {
            if let Some(child) = children(self.pid()).first() {
                self.next = Some(*child);
                return Ok(*child);
            }
            if began.elapsed() > PATIENCE {
                return Err("there is no new process after an upgrade".into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// All tunnels of the route, spread over this time; whoever has heard the Close may come back at once.
    pub async fn drain(&self, over: Duration) -> Result<(), Problem> {
        self.command(&["drain", "tunnels", "route=echo", "--over", &format!("{}s", over.as_secs())]).await
    }

    /// Whether the first process has ended, and how.
    pub fn first_ended(&mut self) -> Option<Option<i32>> {
        self.gateway.ended()
    }

    async fn command(&self, words: &[&str]) -> Result<(), Problem> {
        let admin = format!("unix:{}", self.folder.join("admin.sock").display());
        self.run(&[words, &["--admin", &admin]].concat()).await
    }

    async fn run(&self, words: &[&str]) -> Result<(), Problem> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(words).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await??;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("portcullis {}: {} {said}", words.join(" "), output.status).into())
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // The process that took over is no child of ours.
        for pid in children(self.pid()).into_iter().chain(self.next) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // Gone already is as good.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        // Left behind it does no harm.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Settings {
    fn configuration(self, number: u32) -> String {
        let Self { server, clear, secure, workers, drain_rate } = self;
        let further: String = (0..number % 5)
            .map(|at| format!("[[route]]\npath = \"/further-{number}-{at}\"\nrespond = {{ status = 204 }}\n"))
            .collect();
        format!(
            "[server]\nworkers = {workers}\ndrain_timeout = \"60s\"\ndrain_rate = {drain_rate}\n\
             [log]\nlevel = \"warn\"\naccess = \"off\"\n\
             [admin]\naddress = \"unix:admin.sock\"\n\
             [[listener]]\naddress = \"{clear}\"\n\
             [[listener]]\naddress = \"{secure}\"\ntls = {{ cert = \"leaf.pem\", key = \"leaf.key\" }}\n\
             [[route]]\nname = \"echo\"\npath = \"/echo\"\nupstream = \"ws://{server}\"\n\
             websocket = {{ origins = [\"https://app.example\"] }}\n{further}"
        )
    }
}

fn free_ports<const COUNT: usize>() -> Result<[SocketAddr; COUNT], Problem> {
    let probes = (0..COUNT).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let addresses = probes.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    addresses.try_into().map_err(|_| "no ports".into())
}

/// Processes that this one has started.
fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<_>>()).collect()
}
