//! Listening sockets that this process was started with, by whoever holds them for it: a service manager, or the process
//! whose place it takes.
//!
//! A listener takes the one that listens at its address, or the one that it calls by name (`fd:NAME`); nobody is refused
//! meanwhile, since the queue belongs to the socket and not to a process. How the sockets got here is not known here.

use std::ffi::OsStr;
use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use socket2::{Domain, Socket, Type};

use super::place::{Access, BoundTo};
use crate::config::model::ListenAddress;
use crate::types::Name;

/// How the sockets are called that this program has bound, as against those that a manager has.
const OWN: &str = "listener=";

/// That of `[admin]`, which is none of them.
const ADMIN: &str = "admin=";

/// The longest name that systemd takes, in bytes.
const LONGEST: usize = 255;

/// A socket that listens, with the name under which it was handed over.
#[derive(Debug)]
pub struct InheritedSocket {
    pub(super) socket: Socket,
    pub(super) given: String,
    pub(super) local: BoundTo,
}

impl InheritedSocket {
    /// Whether this program has bound it, and so has to look after a unix socket's file.
    pub(super) fn is_own(&self) -> bool {
        self.given.starts_with(OWN) || self.given == ADMIN
    }
}

/// Those that no listener has taken yet.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<InheritedSocket>,
}

/// A descriptor that cannot be listened with.
#[derive(Debug)]
pub struct NotListening {
    name: String,
    reason: Unfit,
}

#[derive(Debug)]
enum Unfit {
    /// Datagrams, or something else that is no stream.
    Kind,
    Family,
    /// Connected, or not even bound.
    Silent,
    Other(io::Error),
}

impl fmt::Display for NotListening {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the inherited socket `{}` cannot be used: ", self.name.escape_debug())?;
        match &self.reason {
            Unfit::Kind => out.write_str("it is no stream socket (in a socket unit: `ListenStream=`)"),
            Unfit::Family => out.write_str("it is neither a TCP nor a unix socket"),
            Unfit::Silent => out.write_str("it does not listen (in a socket unit: `Accept=no`)"),
            Unfit::Other(error) => write!(out, "{error}"),
        }
    }
}

impl std::error::Error for NotListening {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.reason {
            Unfit::Other(error) => Some(error),
            Unfit::Kind | Unfit::Family | Unfit::Silent => None,
        }
    }
}

impl Inherited {
    /// # Errors
    /// One of them is no socket that listens for a stream of bytes. None is left open then.
    pub fn new(given: Vec<(String, OwnedFd)>) -> Result<Self, NotListening> {
        let sockets = given.into_iter().map(|(name, descriptor)| inspect(name, descriptor));
        Ok(Self { sockets: sockets.collect::<Result<_, _>>()? })
    }

    /// The one for the listener of this name and address. `Err`: it asks for one that there is not, or for several.
    pub(super) fn take(
        &mut self,
        listener: &Name,
        access: Access,
        address: &ListenAddress,
    ) -> Result<Option<InheritedSocket>, usize> {
        let position = match address {
            ListenAddress::Inherited(name) => {
                let named: Vec<_> = self.positions(|socket| socket.given == name.as_str()).collect();
                let [position] = named.as_slice() else { return Err(named.len()) };
                Some(*position)
            }
            ListenAddress::Tcp(address) if address.port() == 0 => {
                let own = own_name(listener, access);
                let is_same = |socket: &InheritedSocket| {
                    socket.given == own && matches!(socket.local, BoundTo::Tcp(local) if local.ip() == address.ip())
                };
                self.positions(is_same).next()
            }
            ListenAddress::Tcp(address) => self.positions(|socket| socket.local == BoundTo::Tcp(*address)).next(),
            ListenAddress::Unix(path) => {
                self.positions(|socket| matches!(&socket.local, BoundTo::Unix(local) if leads_to(path, local))).next()
            }
        };
        Ok(position.map(|position| self.sockets.remove(position)))
    }

    /// One that keeps this address from being bound although it is not the same.
    pub(super) fn in_the_way(&self, address: &ListenAddress) -> Option<&BoundTo> {
        let ListenAddress::Tcp(address) = address else { return None };
        let overlaps = |local: SocketAddr| {
            local.port() == address.port() && (local.ip().is_unspecified() || address.ip().is_unspecified())
        };
        let mut locals = self.sockets.iter().map(|socket| &socket.local);
        locals.find(|local| matches!(local, BoundTo::Tcp(local) if overlaps(*local)))
    }

    /// Closes those that are left; the name and the address of each.
    pub fn close(self) -> Vec<(String, String)> {
        self.sockets.into_iter().map(|socket| (socket.given, socket.local.to_string())).collect()
    }

    fn positions(&self, is_meant: impl Fn(&InheritedSocket) -> bool) -> impl Iterator<Item = usize> {
        self.sockets.iter().enumerate().filter(move |(_, socket)| is_meant(socket)).map(|(position, _)| position)
    }
}

fn inspect(name: String, descriptor: OwnedFd) -> Result<InheritedSocket, NotListening> {
    let socket = Socket::from(descriptor);
    match look_at(&socket) {
        Ok(local) => Ok(InheritedSocket { socket, given: name, local }),
        Err(reason) => Err(NotListening { name, reason }),
    }
}

fn look_at(socket: &Socket) -> Result<BoundTo, Unfit> {
    let other = Unfit::Other;
    let domain = socket.domain().map_err(other)?;
    if socket.r#type().map_err(other)? != Type::STREAM {
        return Err(Unfit::Kind);
    }
    if domain != Domain::IPV4 && domain != Domain::IPV6 && domain != Domain::UNIX {
        return Err(Unfit::Family);
    }
    socket.set_nonblocking(true).map_err(other)?;
    socket.set_cloexec(true).map_err(other)?;
    let address = socket.local_addr().map_err(other)?;
    // One that drained in another process is silent and still bound: the accept loop has it listen again.
    let is_bound = address.as_socket().is_some_and(|address| address.port() != 0) && socket.peer_addr().is_err();
    if !is_bound && !socket.is_listener().map_err(other)? {
        return Err(Unfit::Silent);
    }
    if let Some(address) = address.as_socket() {
        // As on those that are bound here: accepted sockets get a copy.
        socket.set_tcp_nodelay(true).map_err(other)?;
        return Ok(BoundTo::Tcp(address));
    }
    Ok(BoundTo::Unix(match (address.as_pathname(), address.as_abstract_namespace()) {
        (Some(path), _) => path.to_owned(),
        (None, Some(name)) => PathBuf::from(OsStr::from_bytes(&[b"@", name].concat())),
        (None, None) => PathBuf::new(),
    }))
}

/// Whether who connects to `path` reaches the socket that was bound to `local`, as far as names can tell. A socket whose
/// file is gone is reached by nobody.
fn leads_to(path: &Path, local: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let same =
        || fs::canonicalize(path).ok().zip(fs::canonicalize(local).ok()).is_some_and(|(one, other)| one == other);
    is_socket && (path == local || same())
}

/// Under which name a socket is handed on that this program has bound for a listener: printable ASCII without a colon,
/// as systemd asks for.
pub(super) fn own_name(listener: &Name, access: Access) -> String {
    if access == Access::Owner {
        return ADMIN.to_owned();
    }
    let mut name = OWN.to_owned();
    for byte in listener.as_str().bytes() {
        if byte.is_ascii_graphic() && byte != b':' && byte != b'%' {
            name.push(char::from(byte));
        } else {
            // A String takes whatever is written to it.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    if name.len() > LONGEST {
        // Two that begin alike must not be the same.
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, listener.as_str().as_bytes());
        let tail: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        name.truncate(LONGEST - tail.len());
        name.push_str(&tail);
    }
    name
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn given(name: &str, descriptor: impl Into<OwnedFd>) -> Vec<(String, OwnedFd)> {
        vec![(name.to_owned(), descriptor.into())]
    }

    #[test]
    fn what_cannot_be_listened_with_is_refused_by_name() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let connected = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
        let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let file = fs::File::open("/dev/null").expect("it is there");
        for (socket, words) in [
            (OwnedFd::from(datagrams), "no stream socket"),
            (OwnedFd::from(connected), "does not listen"),
            (OwnedFd::from(file), "Socket operation on non-socket"),
        ] {
            let error = Inherited::new(given("web", socket)).expect_err(words).to_string();
            assert!(error.contains("`web`") && error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_unix_socket_whose_file_is_gone_is_nobodys() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).expect("a link");
        let _listener = UnixListener::bind(&path).expect("a socket");
        assert!(leads_to(&path, &path) && leads_to(&link.join("a.sock"), &path));
        assert!(!leads_to(&folder.path().join("b.sock"), &path));
        fs::remove_file(&path).expect("it is there");
        assert!(!leads_to(&path, &path));
    }

    #[test]
    fn a_name_that_is_handed_on_is_one_that_systemd_takes() {
        let own_name = |listener: &Name| super::own_name(listener, Access::Group);
        assert_eq!(own_name(&"public".into()), "listener=public");
        assert_eq!(own_name(&"[::]:443".into()), "listener=[%3A%3A]%3A443");
        assert_eq!(own_name(&"50 %".into()), "listener=50%20%25");
        assert_ne!(own_name(&"admin".into()), super::own_name(&"admin".into(), Access::Owner));
        let long = own_name(&Name::new("ü".repeat(300)));
        assert!(long.len() == LONGEST && long.is_ascii(), "{long}");
        assert_ne!(long, own_name(&Name::new("ü".repeat(301))));
    }
}
