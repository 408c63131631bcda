//! What a service manager is told of the process: systemd's `sd_notify` protocol, over the socket that `NOTIFY_SOCKET`
//! names.
//!
//! Without such a socket every call does nothing. A message that the manager does not take within a second is lost, since
//! it must not hold up the control plane; what it costs is said in the log. Whether it is true what is told is for the
//! caller to know.

use std::cell::Cell;
use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::rc::Rc;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::clock;

/// How long the manager may take to make room for a message.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells the service manager. Clones tell the same one.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    manager: Option<Rc<Manager>>,
}

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    keeps_sockets: bool,
    /// How often it wants to hear that we live.
    watchdog: Option<Duration>,
    /// Another process speaks for the service.
    is_silent: Cell<bool>,
}

impl Notifier {
    /// The manager that the environment names, if any.
    ///
    /// # Errors
    /// It names one that cannot be reached.
    pub fn from_environment() -> io::Result<Self> {
        let Some(path) = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Ok(Self::default());
        };
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| is_for_us && *micros > 0).map(Duration::from_micros);
        // Said by systemd from version 254 on; before that one cannot know.
        let keeps_sockets = number("FDSTORE").is_some_and(|most| most > 0);
        Self::new(&path, keeps_sockets, watchdog)
    }

    fn new(path: &OsStr, keeps_sockets: bool, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(path)?,
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "NOTIFY_SOCKET is no unix socket's address")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let manager = Manager { socket, keeps_sockets, watchdog, is_silent: Cell::new(false) };
        Ok(Self { manager: Some(Rc::new(manager)) })
    }

    /// Every address listens; or a reload has come to its end.
    pub fn ready(&self, status: &str) {
        self.tell(format!("READY=1\nSTATUS={}", one_line(status)), &[]);
    }

    pub fn status(&self, status: &str) {
        self.tell(format!("STATUS={}", one_line(status)), &[]);
    }

    /// A reload begins; [`Notifier::ready`] ends it, whatever comes of it.
    pub fn reloading(&self) {
        self.tell(format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading", clock::monotonic_micros()), &[]);
    }

    pub fn stopping(&self, status: &str) {
        self.tell(format!("STOPPING=1\nSTATUS={}", one_line(status)), &[]);
    }

    /// For this long, from now on, nobody may lose patience.
    pub fn extend(&self, more: Duration) {
        self.tell(format!("EXTEND_TIMEOUT_USEC={}", more.as_micros()), &[]);
    }

    /// Which process is the service.
    pub fn main_process(&self, pid: u32) {
        self.tell(format!("MAINPID={pid}"), &[]);
    }

    /// How often [`Notifier::alive`] is waited for, where it is.
    pub fn watchdog(&self) -> Option<Duration> {
        self.manager.as_ref().and_then(|manager| manager.watchdog)
    }

    pub fn alive(&self) {
        self.tell("WATCHDOG=1".to_owned(), &[]);
    }

    /// Whether sockets may be left with the manager for the next process.
    pub fn keeps_sockets(&self) -> bool {
        self.manager.as_ref().is_some_and(|manager| manager.keeps_sockets)
    }

    /// Leaves a socket with the manager; `name` must be one that it takes.
    pub fn keep_socket(&self, name: &str, socket: BorrowedFd<'_>) {
        if self.keeps_sockets() {
            // Without polling: a listener never hangs up, and being polled by another process costs wake-ups.
            self.tell(format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), &[socket]);
        }
    }

    pub fn forget_socket(&self, name: &str) {
        if self.keeps_sockets() {
            self.tell(format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
        }
    }

    /// Says nothing from now on: another process speaks for the service.
    pub fn fall_silent(&self) {
        self.manager.iter().for_each(|manager| manager.is_silent.set(true));
    }

    fn tell(&self, message: String, sockets: &[BorrowedFd<'_>]) {
        let Some(manager) = self.manager.as_ref().filter(|manager| !manager.is_silent.get()) else { return };
        if let Err(error) = send(&manager.socket, message.as_bytes(), sockets) {
            tracing::warn!(%error, message, "the service manager does not listen");
        }
    }
}

fn send(socket: &UnixDatagram, message: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(sockets));
    }
    rustix::net::sendmsg(socket.as_fd(), &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A line end would begin another assignment.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        // A String takes whatever is written to it.
        let _ = if letter.is_control() { write!(line, "{}", letter.escape_default()) } else { line.write_char(letter) };
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager() -> (tempfile::TempDir, UnixDatagram, Notifier) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let notifier = Notifier::new(path.as_os_str(), true, None).expect("it is there");
        (folder, socket, notifier)
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let count = socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    #[test]
    fn a_status_stays_on_its_line() {
        let (_folder, socket, notifier) = manager();
        notifier.ready("serving\nMAINPID=1");
        assert_eq!(heard(&socket), "READY=1\nSTATUS=serving\\nMAINPID=1");
    }

    #[test]
    fn who_has_handed_over_says_nothing_more() {
        let (_folder, socket, notifier) = manager();
        notifier.clone().fall_silent();
        notifier.stopping("draining");
        socket.set_nonblocking(true).expect("settable");
        let nothing = socket.recv(&mut [0; 16]).expect_err("silence");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_manager_that_reads_nothing_holds_nobody_up_for_long() {
        let (_folder, _socket, notifier) = manager();
        let manager = notifier.manager.as_ref().expect("there is one");
        manager.socket.set_write_timeout(Some(Duration::from_millis(10))).expect("settable");
        // The queue of a datagram socket is a few hundred messages at most.
        for _ in 0..2_000 {
            if send(&manager.socket, b"WATCHDOG=1", &[]).is_err() {
                return;
            }
        }
        panic!("a queue without an end");
    }

    #[test]
    fn what_is_no_address_is_an_error() {
        for path in ["notify", "vsock:2:1234"] {
            let error = Notifier::new(OsStr::new(path), false, None).expect_err(path);
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        }
    }
}
