//! Lines as messages to a syslog server: one datagram for each.
//!
//! To a server that is named a message goes as RFC 5424 says (RFC 5426 over UDP); to the machine's own, at `/dev/log`, in
//! the form that the C library's `syslog(3)` sends and every such server and journald understand, without a time stamp,
//! which they set by themselves (RFC 3164 4.3.3). A socket that is gone is opened again, at most once a second; what
//! cannot be sent within a moment is lost, and counted by the caller.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use super::text::Stamp;
use crate::clock::{self, Instant};
use crate::config::model::SyslogTarget;

/// The C library's socket.
const LOCAL: &str = "/dev/log";

/// Facility `daemon` (3), severity `informational` (6).
const PRIORITY: &str = "<30>";

/// How long a full socket is waited for.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long a socket that could not be opened is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// A syslog server.
#[derive(Debug)]
pub(super) struct Syslog {
    target: SyslogTarget,
    host: String,
    line: Line,
    message: Vec<u8>,
    stamp: Stamp,
}

impl Syslog {
    /// Its socket is opened with the first line.
    pub fn new(target: SyslogTarget) -> Self {
        let (line, message, stamp) = (Line::default(), Vec::new(), Stamp::default());
        Self { target, host: host_name(), line, message, stamp }
    }

    pub fn send(&mut self, line: &[u8]) -> io::Result<()> {
        let Self { target, host, message, stamp, .. } = self;
        message.clear();
        message.extend_from_slice(PRIORITY.as_bytes());
        let process = std::process::id();
        match target {
            SyslogTarget::Local => message.extend_from_slice(format!("portcullis[{process}]: ").as_bytes()),
            SyslogTarget::Unix(_) | SyslogTarget::Udp { .. } => {
                message.extend_from_slice(b"1 ");
                stamp.append(message, clock::wall());
                message.extend_from_slice(format!(" {host} portcullis {process} access - ").as_bytes());
            }
        }
        message.extend_from_slice(line);
        self.line.send(message, || match &*target {
            SyslogTarget::Local => Socket::unix(Path::new(LOCAL)),
            SyslogTarget::Unix(path) => Socket::unix(path),
            SyslogTarget::Udp { host, port } => Socket::udp(host, *port),
        })
    }

    pub fn close(&mut self) {
        self.line = Line::default();
    }
}

/// What a host may be called in a message (RFC 5424 6.2.4); `-` where it has no such name.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let is_fit = (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if is_fit { name.to_owned() } else { "-".to_owned() }
}

/// A socket that is opened when it is needed, and again when the other side is gone.
#[derive(Debug, Default)]
pub(super) struct Line {
    socket: Option<Socket>,
    failed: Option<Instant>,
}

impl Line {
    /// Sends a datagram, or says why not, within a moment.
    pub fn send(&mut self, message: &[u8], open: impl Fn() -> io::Result<Socket>) -> io::Result<()> {
        let was_open = self.socket.is_some();
        let sent = self.socket(&open)?.send(message);
        match sent {
            Err(error) if is_gone(&error) => {
                self.socket = None;
                if !was_open {
                    return Err(error);
                }
                // Its server may have come back, with another socket.
                self.socket(&open)?.send(message)
            }
            sent => sent,
        }
    }

    fn socket(&mut self, open: impl Fn() -> io::Result<Socket>) -> io::Result<&Socket> {
        if self.socket.is_none() {
            if self.failed.is_some_and(|failed| clock::now() < failed + PAUSE) {
                return Err(ErrorKind::NotConnected.into());
            }
            match open() {
                Ok(socket) => (self.socket, self.failed) = (Some(socket), None),
                Err(error) => {
                    self.failed = Some(clock::now());
                    return Err(error);
                }
            }
        }
        self.socket.as_ref().ok_or_else(|| ErrorKind::NotConnected.into())
    }
}

/// Whether the socket is of no use any more. A full one is, later; a message that is too long is the message's fault.
fn is_gone(error: &io::Error) -> bool {
    let too_long = error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error());
    !too_long && !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Connected.
#[derive(Debug)]
pub(super) enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

impl Socket {
    pub fn unix(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(path)?;
        Ok(Self::Unix(socket))
    }

    fn udp(host: &str, port: u16) -> io::Result<Self> {
        let server = (host, port).to_socket_addrs()?.next().ok_or(ErrorKind::AddrNotAvailable)?;
        let own: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(own)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(server)?;
        Ok(Self::Udp(socket))
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.send(message),
            Self::Udp(socket) => socket.send(message),
        }
        .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    fn receive(socket: &UnixDatagram) -> String {
        let mut message = [0; 4096];
        let length = socket.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).expect("UTF-8")
    }

    #[test]
    fn a_message_is_as_rfc_5424_says() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("log");
        let server = UnixDatagram::bind(&path).expect("a socket");
        server.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let mut syslog = Syslog::new(SyslogTarget::Unix(path));
        syslog.send(b"{\"a\":1}").expect("sent");
        let message = receive(&server);
        let words: Vec<_> = message.splitn(8, ' ').collect();
        assert_eq!(
            (words[0], words[3], words[5], words[6], words[7]),
            ("<30>1", "portcullis", "access", "-", "{\"a\":1}")
        );
        assert_eq!(words[1].len(), 24);
        assert_eq!(words[4], std::process::id().to_string());
    }

    #[test]
    fn udp_reaches_a_server_by_address_and_by_name() {
        for host in ["127.0.0.1", "localhost"] {
            let server = UdpSocket::bind((host, 0)).expect("a socket");
            server.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
            let port = server.local_addr().expect("an address").port();
            let mut syslog = Syslog::new(SyslogTarget::Udp { host: host.to_owned(), port });
            syslog.send(b"line").expect("sent");
            let mut message = [0; 256];
            let length = server.recv(&mut message).expect("a message");
            assert!(message[..length].ends_with(b" access - line"));
        }
    }

    #[test]
    fn a_server_that_comes_back_is_found_again_and_one_that_does_not_read_costs_a_moment() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("log");
        let mut syslog = Syslog::new(SyslogTarget::Unix(path.clone()));
        syslog.send(b"nobody").expect_err("no socket");
        syslog.send(b"nobody").expect_err("and it is left alone for a second");
        syslog.close();
        let first = UnixDatagram::bind(&path).expect("a socket");
        syslog.send(b"first").expect("sent");
        drop(first);
        std::fs::remove_file(&path).expect("a socket's file");
        let second = UnixDatagram::bind(&path).expect("a socket");
        second.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        syslog.send(b"second").expect("sent to the new one");
        assert!(receive(&second).ends_with(" second"));
        let error = (0..10_000).find_map(|_| syslog.send(b"unread").err()).expect("a queue that is full");
        assert!(!is_gone(&error), "{error}");
        while second.set_nonblocking(true).is_ok() && second.recv(&mut [0; 64]).is_ok() {}
        syslog.send(b"again").expect("on the same socket");
    }
}
