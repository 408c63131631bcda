//! Listening sockets: TCP over v4 and v6, and unix sockets.
//!
//! - A v6 address takes v6 only (`IPV6_V6ONLY`), whatever the system's default: `[::]:443` and `0.0.0.0:443` stand
//!   side by side, and a file means the same on every machine.
//! - A unix socket's file gets its mode (0660, owner and group, unless told otherwise) before anybody can connect. A file that a dead process
//!   left behind is removed; one on which somebody still listens, or which is no socket, is not touched. The file is
//!   removed when the listener is dropped, unless another one has taken its place meanwhile.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::model::{ListenAddress, Listener};
use crate::telemetry::metrics::ListenerBook;
use crate::types::Name;

/// Connections that the kernel may complete before they are accepted; the system caps it (net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// Who may connect to a unix socket, by the mode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Owner and group.
    Group,
    /// The owner alone.
    Owner,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Group => 0o660,
            Self::Owner => 0o600,
        }
    }
}

/// A socket that listens, not yet part of any runtime.
#[derive(Debug)]
pub struct BoundListener {
    pub name: Name,
    /// The address as it really is: port 0 has become a number.
    pub address: ListenAddress,
    /// What is counted of it.
    pub book: Arc<ListenerBook>,
    socket: OwnedFd,
    /// Dropped after the socket.
    _file: Option<SocketFile>,
}

impl BoundListener {
    /// The TCP address; `None` for a unix socket.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.address {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        }
    }

    /// `https://127.0.0.1:8443 (public)`
    pub fn announcement(&self, has_tls: bool) -> String {
        match &self.address {
            ListenAddress::Tcp(_) if has_tls => format!("https://{self} ({})", self.name),
            ListenAddress::Tcp(_) => format!("http://{self} ({})", self.name),
            ListenAddress::Unix(_) => format!("{self} ({})", self.name),
        }
    }

    /// A second handle on the same socket, for whoever accepts on it in a runtime of his own.
    pub(super) fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// The local address of accepted sockets, where it can be known beforehand.
    pub(super) fn fixed_local(&self) -> Option<SocketAddr> {
        self.tcp_address().filter(|address| !address.ip().is_unspecified())
    }
}

impl fmt::Display for BoundListener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_address(&self.address, out)
    }
}

impl AsFd for BoundListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::os::fd::AsRawFd for BoundListener {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    pub listener: Name,
    pub address: ListenAddress,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    /// Another process (or another listener of ours) has it.
    InUse(io::Error),
    /// A unix socket's path is taken by something that is no socket.
    NotASocket,
    Other(io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cannot listen on ")?;
        write_address(&self.address, out)?;
        match &self.reason {
            Reason::InUse(_) => write!(out, ": somebody listens there already"),
            Reason::NotASocket => write!(out, ": the path is taken by a file that is no socket"),
            Reason::Other(error) => {
                write!(out, ": {error}")?;
                match (&self.address, error.kind()) {
                    (ListenAddress::Tcp(address), io::ErrorKind::PermissionDenied) if address.port() < 1024 => {
                        write!(out, " (ports below 1024 need root or CAP_NET_BIND_SERVICE)")
                    }
                    (ListenAddress::Tcp(_), io::ErrorKind::AddrNotAvailable) => {
                        write!(out, " (no interface of this machine has it)")
                    }
                    (ListenAddress::Unix(_), io::ErrorKind::NotFound) => write!(out, " (its folder must exist)"),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.reason {
            Reason::InUse(error) | Reason::Other(error) => Some(error),
            Reason::NotASocket => None,
        }
    }
}

/// Binds the listener's address and lets the kernel queue connections, which are then counted in `book`.
///
/// # Errors
/// When the address is taken, forbidden, not of this machine, or not usable as a unix socket's path.
pub fn bind(listener: &Listener, book: &Arc<ListenerBook>) -> Result<BoundListener, BindError> {
    bind_at(&listener.address.value, Access::Group, book)
}

/// The same for a listener that stands in no `[[listener]]`; its name is its book's.
///
/// # Errors
/// Those of [`bind`].
pub fn bind_at(address: &ListenAddress, access: Access, book: &Arc<ListenerBook>) -> Result<BoundListener, BindError> {
    let name = &book.name;
    let bound = match address {
        ListenAddress::Tcp(address) => bind_tcp(*address),
        ListenAddress::Unix(path) => bind_unix(path, access),
    };
    match bound {
        Ok((socket, address, file)) => {
            Ok(BoundListener { name: name.clone(), address, book: book.clone(), socket: socket.into(), _file: file })
        }
        Err(reason) => Err(BindError { listener: name.clone(), address: address.clone(), reason }),
    }
}

type Bound = (Socket, ListenAddress, Option<SocketFile>);

fn bind_tcp(address: SocketAddr) -> Result<Bound, Reason> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier process in TIME-WAIT must not keep us from starting.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // Linux gives accepted sockets a copy of it, which saves a call for each.
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)?;
    let local = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, ListenAddress::Tcp(local), None))
}

fn bind_unix(path: &Path, access: Access) -> Result<Bound, Reason> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path, error)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    let file = SocketFile::of(path)?;
    // Before `listen`: until then every connect is refused, so that nobody slips in under the umask's mode.
    fs::set_permissions(path, fs::Permissions::from_mode(access.mode()))?;
    socket.listen(BACKLOG)?;
    Ok((socket, ListenAddress::Unix(path.to_owned()), Some(file)))
}

/// Removes a socket file on which nobody listens; otherwise says why the path is taken.
fn remove_stale(path: &Path, in_use: io::Error) -> Result<(), Reason> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(Reason::NotASocket);
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
        // Connected, or a queue so full (EAGAIN) that somebody must own it, or not ours to judge.
        _ => Err(Reason::InUse(in_use)),
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::InUse(error),
            _ => Self::Other(error),
        }
    }
}

/// A unix socket's file, removed on drop if it still is the one that was made here.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // Nothing can be done about a folder that became read-only; the next start removes the file as stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device and inode.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn write_address(address: &ListenAddress, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    match address {
        ListenAddress::Tcp(address) => write!(out, "{address}"),
        ListenAddress::Unix(path) => write!(out, "unix:{}", path.display()),
    }
}
