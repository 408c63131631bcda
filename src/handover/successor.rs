//! The process that is to take this one's place, as seen from here.
//!
//! Until it serves, everything can be taken back: whoever drops the future tells it to stop, and kills it. What has gone
//! wrong is said in the log, and it may be tried again.

use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::Child;

use super::channel::{self, Arrived, garbage};
use super::{Program, VERSION};
use crate::config;
use crate::lifecycle::notify::Notifier;
use crate::listener::{OpenSocket, Sockets};

/// How long it may take from `go` to `serving`.
const LAST_STEP: Duration = Duration::from_secs(10);
/// How long a process may take to end that has closed the channel.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// What `ps` and `pidof` show of a process while another is to take its place, and once it has.
const UNDER_WAY: &std::ffi::CStr = c"portcullis-upgr";
const REPLACED: &std::ffi::CStr = c"portcullis-old";
const ORDINARY: &std::ffi::CStr = c"portcullis";

/// Why there is no successor.
#[derive(Debug)]
pub enum UpgradeError {
    /// The program could not be started.
    Start(PathBuf, io::Error),
    /// It has said why.
    Refused(String),
    Ended(ExitStatus),
    Late(Duration),
    Channel(io::Error),
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(path, error) => write!(out, "{} cannot be started: {error}", path.display()),
            Self::Refused(why) => write!(out, "the new process says: {why}"),
            Self::Ended(status) => write!(out, "the new process has ended before it served ({status})"),
            Self::Late(timeout) => write!(out, "the new process was not ready within {timeout:?}"),
            Self::Channel(error) => write!(out, "the new process does not speak as it should: {error}"),
        }
    }
}

impl std::error::Error for UpgradeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start(_, error) | Self::Channel(error) => Some(error),
            Self::Refused(_) | Self::Ended(_) | Self::Late(_) => None,
        }
    }
}

/// A process that serves in this one's place.
#[derive(Debug)]
pub struct Successor {
    pub pid: u32,
    child: Child,
}

impl Successor {
    /// Waits for its end, so that it does not stay in the table of processes while this one still drains.
    pub async fn outlived(mut self) {
        if let Ok(status) = self.child.wait().await {
            tracing::warn!(pid = self.pid, %status, "the process that took over has ended");
        }
    }
}

type Attempt = Pin<Box<dyn Future<Output = Result<Successor, UpgradeError>>>>;

/// Looks for a successor whenever it is asked to; for one at a time.
pub struct Upgrades {
    program: Program,
    notifier: Notifier,
    under_way: Option<Attempt>,
}

impl Upgrades {
    pub fn new(program: Program, notifier: Notifier) -> Self {
        Self { program, notifier, under_way: None }
    }

    /// Starts one, which may take `timeout` to be ready.
    pub fn ask(&mut self, sockets: &Sockets, timeout: Duration) {
        if self.under_way.is_some() {
            return tracing::warn!("no further upgrade: one is under way already");
        }
        let limit = config::show_duration(timeout);
        tracing::info!(program = %self.program.path.display(), timeout = limit, "upgrading");
        self.notifier.status("upgrading: another process starts");
        show(UNDER_WAY);
        let attempt = upgrade(self.program.clone(), sockets.all(), self.notifier.clone(), timeout);
        self.under_way = Some(Box::pin(attempt));
    }

    /// What has come of it: a successor, or none. Never ready while nothing is under way.
    pub async fn outcome(&mut self) -> Option<Successor> {
        let Some(attempt) = &mut self.under_way else { return pending().await };
        let outcome = attempt.as_mut().await;
        self.under_way = None;
        match outcome {
            Ok(successor) => {
                show(REPLACED);
                Some(successor)
            }
            Err(error) => {
                show(ORDINARY);
                self.notifier.status("serving; the last upgrade has failed");
                tracing::error!(%error, "no upgrade: this process serves on");
                None
            }
        }
    }

    /// Gives up what is under way.
    pub fn give_up(&mut self) {
        if self.under_way.take().is_some() {
            tracing::warn!("no upgrade: the gateway stops");
        }
    }
}

/// Names this thread, which is the process's first; whoever looks for it finds out less where that fails.
fn show(name: &std::ffi::CStr) {
    let _ = rustix::thread::set_name(name);
}

async fn upgrade(
    program: Program,
    sockets: Vec<(String, Arc<OpenSocket>)>,
    notifier: Notifier,
    timeout: Duration,
) -> Result<Successor, UpgradeError> {
    let mut new = NewProcess::start(&program)?;
    let prepared = async {
        new.offer(&sockets).await?;
        new.until_ready().await
    };
    let Ready { pid, unused } =
        tokio::time::timeout(timeout, prepared).await.unwrap_or(Err(UpgradeError::Late(timeout)))?;
    // Now, so that the manager believes what that process says next.
    notifier.main_process(pid);
    let served = tokio::time::timeout(LAST_STEP, new.go()).await.unwrap_or(Err(UpgradeError::Late(LAST_STEP)));
    let child = match served {
        Ok(()) => new.child.take(),
        Err(_) => None,
    };
    let Some(child) = child else {
        notifier.main_process(std::process::id());
        return Err(served.err().unwrap_or_else(|| UpgradeError::Channel(garbage("it is gone"))));
    };
    notifier.fall_silent();
    for (_, socket) in sockets.iter().filter(|(name, _)| !unused.contains(name)) {
        socket.hand_on();
    }
    tracing::info!(pid, kept = unused.len(), "another process serves now");
    Ok(Successor { pid, child })
}

struct Ready {
    pid: u32,
    /// Sockets that only this process has a use for.
    unused: Vec<String>,
}

/// A process that is not the successor yet. Dropped, it is told to stop, and killed.
struct NewProcess {
    child: Option<Child>,
    channel: UnixStream,
    arrived: Arrived,
}

impl NewProcess {
    fn start(program: &Program) -> Result<Self, UpgradeError> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(UpgradeError::Channel)?;
        ours.set_nonblocking(true).map_err(UpgradeError::Channel)?;
        let channel = UnixStream::from_std(ours).map_err(UpgradeError::Channel)?;
        let child =
            program.start(OwnedFd::from(theirs)).map_err(|error| UpgradeError::Start(program.path.clone(), error))?;
        Ok(Self { child: Some(child), channel, arrived: Arrived::default() })
    }

    async fn offer(&mut self, sockets: &[(String, Arc<OpenSocket>)]) -> Result<(), UpgradeError> {
        let offered = async {
            self.send(format!("portcullis {VERSION} {}\n", sockets.len()).as_bytes(), &[]).await?;
            for batch in sockets.chunks(channel::BATCH) {
                let names: String = batch.iter().map(|(name, _)| format!("{name}\n")).collect();
                let descriptors: Vec<_> = batch.iter().map(|(_, socket)| socket.as_fd()).collect();
                self.send(names.as_bytes(), &descriptors).await?;
            }
            Ok(())
        };
        match offered.await {
            Ok(()) => Ok(()),
            // Its end says more than what it has not listened to.
            Err(error) => Err(self.ended(error).await),
        }
    }

    async fn until_ready(&mut self) -> Result<Ready, UpgradeError> {
        let mut unused = Vec::new();
        loop {
            let line = self.line().await?;
            match line.split_once(' ') {
                Some(("unused", name)) if unused.len() < channel::MOST => unused.push(name.to_owned()),
                Some(("ready", pid)) => {
                    let pid = pid.parse().map_err(|_| UpgradeError::Channel(garbage("it has no number")))?;
                    return Ok(Ready { pid, unused });
                }
                Some(("failed", why)) => return Err(UpgradeError::Refused(why.to_owned())),
                _ => return Err(UpgradeError::Channel(garbage("it says something else than `ready`"))),
            }
        }
    }

    async fn go(&mut self) -> Result<(), UpgradeError> {
        if let Err(error) = self.send(b"go\n", &[]).await {
            return Err(self.ended(error).await);
        }
        let line = self.line().await?;
        match line.split_once(' ') {
            None if line == "serving" => Ok(()),
            Some(("failed", why)) => Err(UpgradeError::Refused(why.to_owned())),
            _ => Err(UpgradeError::Channel(garbage("it says something else than `serving`"))),
        }
    }

    async fn line(&mut self) -> Result<String, UpgradeError> {
        loop {
            match self.arrived.line() {
                Ok(Some(line)) => return Ok(line),
                Ok(None) => {}
                Err(error) => return Err(UpgradeError::Channel(error)),
            }
            if self.arrived.is_over() {
                return Err(self.ended(garbage("it has closed the channel")).await);
            }
            let received = match self.channel.readable().await {
                Ok(()) => self.channel.try_io(Interest::READABLE, || self.arrived.receive(&self.channel)),
                Err(error) => Err(error),
            };
            match received {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(self.ended(error).await),
                _ => {}
            }
        }
    }

    /// How it ended, where it has; otherwise what was wrong with the channel.
    async fn ended(&mut self, error: io::Error) -> UpgradeError {
        // What it said last may explain it.
        while self.arrived.receive(&self.channel).is_ok() && !self.arrived.is_over() {}
        while let Ok(Some(line)) = self.arrived.line() {
            if let Some(("failed", why)) = line.split_once(' ') {
                return UpgradeError::Refused(why.to_owned());
            }
        }
        let Some(child) = &mut self.child else { return UpgradeError::Channel(error) };
        match tokio::time::timeout(LAST_WORDS, child.wait()).await {
            Ok(Ok(status)) => UpgradeError::Ended(status),
            _ if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                UpgradeError::Channel(garbage("it has closed the channel"))
            }
            _ => UpgradeError::Channel(error),
        }
    }

    async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let (mut bytes, mut descriptors) = (bytes, descriptors);
        while !bytes.is_empty() {
            self.channel.writable().await?;
            match self.channel.try_io(Interest::WRITABLE, || channel::send(&self.channel, bytes, descriptors)) {
                Ok(sent) => (bytes, descriptors) = (&bytes[sent..], &[]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for NewProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A script in between may leave its child alone, which then ends by this.
            let _ = channel::send(&self.channel, b"stop\n", &[]);
            // One that has ended already is not to be killed; the runtime collects it either way.
            let _ = child.start_kill();
        }
    }
}
