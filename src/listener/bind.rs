//! Listening sockets: TCP over v4 and v6, and unix sockets; bound here, or inherited (`inherited`).
//!
//! - A v6 address takes v6 only (`IPV6_V6ONLY`), whatever the system's default: `[::]:443` and `0.0.0.0:443` stand
//!   side by side, and a file means the same on every machine.
//! - A unix socket's file gets its mode (0660, owner and group, unless told otherwise) before anybody can connect. A file
//!   that a dead process left behind is removed; one on which somebody still listens, or which is no socket, is not
//!   touched. The file goes with the listener (`socket_file`), unless another process listens with the socket.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use socket2::{Domain, SockAddr, Socket, Type};

use super::inherited::Inherited;
use super::place::{Access, BoundTo};
use super::socket_file::SocketFile;
use super::sockets::{BACKLOG, Handle, OpenSocket};
use crate::config::model::{ListenAddress, Listener, ListenerKey};
use crate::telemetry::metrics::ListenerBook;
use crate::types::Name;

/// A socket that listens, not yet part of any runtime.
#[derive(Debug)]
pub struct BoundListener {
    pub name: Name,
    pub bound_to: BoundTo,
    /// What is counted of it.
    pub book: Arc<ListenerBook>,
    key: ListenerKey,
    access: Access,
    /// How a service manager calls the socket that it has bound for us.
    given: Option<String>,
    pub(super) socket: Arc<OpenSocket>,
}

impl BoundListener {
    /// The TCP address; `None` for a unix socket.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.bound_to {
            BoundTo::Tcp(address) => Some(*address),
            BoundTo::Unix(_) => None,
        }
    }

    /// `https://127.0.0.1:8443 (public)`
    pub fn announcement(&self, has_tls: bool) -> String {
        match &self.bound_to {
            BoundTo::Tcp(_) if has_tls => format!("https://{self} ({})", self.name),
            BoundTo::Tcp(_) => format!("http://{self} ({})", self.name),
            BoundTo::Unix(_) => format!("{self} ({})", self.name),
        }
    }

    /// A look at its socket for those who do not accept.
    pub fn handle(&self) -> Handle {
        Handle {
            key: self.key.clone(),
            listener: self.name.clone(),
            access: self.access,
            given: self.given.clone(),
            socket: Arc::downgrade(&self.socket),
        }
    }

    /// A second handle on the same socket, for whoever accepts on it in a runtime of his own.
    pub(super) fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// The local address of accepted sockets, where it can be known beforehand.
    pub(super) fn fixed_local(&self) -> Option<SocketAddr> {
        self.tcp_address().filter(|address| !address.ip().is_unspecified())
    }
}

impl fmt::Display for BoundListener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bound_to.fmt(out)
    }
}

impl AsFd for BoundListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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
    /// `fd:NAME`, and this many are called so.
    Inherited(usize),
    /// An inherited socket keeps the address, which is not quite the same.
    InTheWay(BoundTo, io::Error),
    Other(io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cannot listen on {}", self.address)?;
        match &self.reason {
            Reason::Inherited(0) => write!(
                out,
                ": no socket of that name was inherited (the process gets them when it starts: LISTEN_FDNAMES, \
                 `FileDescriptorName=` of a socket unit)"
            ),
            Reason::Inherited(count) => write!(
                out,
                ": {count} inherited sockets have that name; write their addresses instead, or give each a unit of its own"
            ),
            Reason::InTheWay(local, _) => write!(
                out,
                ": an inherited socket listens on {local}; write that address, or have the socket made for this one (in \
                 a socket unit: `BindIPv6Only=ipv6-only`)"
            ),
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
            Reason::InUse(error) | Reason::InTheWay(_, error) | Reason::Other(error) => Some(error),
            Reason::NotASocket | Reason::Inherited(_) => None,
        }
    }
}

/// Binds the listener's address and lets the kernel queue connections, which are then counted in `book`.
///
/// # Errors
/// When the address is taken, forbidden, not of this machine, or not usable as a unix socket's path.
pub fn bind(listener: &Listener, book: &Arc<ListenerBook>) -> Result<BoundListener, BindError> {
    open(listener, book, &mut Inherited::default())
}

/// Like [`bind`], but where one of the inherited sockets is meant, that is taken instead.
///
/// # Errors
/// Those of [`bind`]; and when the listener names a socket that was not inherited.
pub fn open(
    listener: &Listener,
    book: &Arc<ListenerBook>,
    inherited: &mut Inherited,
) -> Result<BoundListener, BindError> {
    open_at(listener.key(), Access::Group, book, inherited)
}

/// The same for one that stands in no `[[listener]]`; its name is its book's.
///
/// # Errors
/// Those of [`open`].
pub fn open_at(
    key: ListenerKey,
    access: Access,
    book: &Arc<ListenerBook>,
    inherited: &mut Inherited,
) -> Result<BoundListener, BindError> {
    let (name, address) = (&book.name, &key.address);
    let bound = match inherited.take(name, access, address) {
        Ok(Some(socket)) => {
            let file = match &socket.local {
                // Another process has it until this one is up.
                BoundTo::Unix(path) if socket.is_own() => SocketFile::of(path, false).ok(),
                _ => None,
            };
            let given = (!socket.is_own()).then_some(socket.given);
            Ok(((socket.socket, socket.local, file), given))
        }
        Ok(None) => match address {
            ListenAddress::Tcp(address) => bind_tcp(*address),
            ListenAddress::Unix(path) => bind_unix(path, access),
            ListenAddress::Inherited(_) => Err(Reason::Inherited(0)),
        }
        .map(|bound| (bound, None)),
        Err(count) => Err(Reason::Inherited(count)),
    };
    match bound {
        Ok(((socket, bound_to, file), given)) => {
            let (name, book, socket) = (name.clone(), book.clone(), OpenSocket::new(socket.into(), file));
            Ok(BoundListener { name, bound_to, book, key, access, given, socket })
        }
        Err(mut reason) => {
            if let Reason::InUse(error) = reason {
                reason = match inherited.in_the_way(address) {
                    Some(local) => Reason::InTheWay(local.clone(), error),
                    None => Reason::InUse(error),
                };
            }
            Err(BindError { listener: name.clone(), address: address.clone(), reason })
        }
    }
}

type Bound = (Socket, BoundTo, Option<SocketFile>);

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
    Ok((socket, BoundTo::Tcp(local), None))
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
    let file = SocketFile::of(path, true)?;
    // Before `listen`: until then every connect is refused, so that nobody slips in under the umask's mode.
    fs::set_permissions(path, fs::Permissions::from_mode(access.mode()))?;
    socket.listen(BACKLOG)?;
    Ok((socket, BoundTo::Unix(path.to_owned()), Some(file)))
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
