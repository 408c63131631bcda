//! The sockets that listen, as the control plane knows them: to be handed on, or kept by the service manager.
//!
//! They belong to the accept loop, which closes them; here they are only looked at, so that one that the loop has closed
//! is closed.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use rustix::io::Errno;
use rustix::net::{Shutdown, sockopt};

use super::inherited;
use super::place::Access;
use super::socket_file::SocketFile;
use crate::config::model::{Listener, ListenerKey};
use crate::lifecycle::notify::Notifier;
use crate::types::Name;

/// Connections that the kernel may complete before they are accepted; the system caps it (net.core.somaxconn).
pub(super) const BACKLOG: i32 = 4096;

/// A socket that listens, with what belongs to it. Closed when the last one lets go of it; a unix socket's file is then
/// removed, unless the socket lives on elsewhere.
#[derive(Debug)]
pub struct OpenSocket {
    descriptor: OwnedFd,
    /// Dropped after the socket.
    file: Option<SocketFile>,
    handed_on: AtomicBool,
}

impl OpenSocket {
    pub(super) fn new(descriptor: OwnedFd, file: Option<SocketFile>) -> Arc<Self> {
        Arc::new(Self { descriptor, file, handed_on: AtomicBool::new(false) })
    }

    /// Another process listens with it from now on, and looks after its file.
    pub fn hand_on(&self) {
        self.handed_on.store(true, Ordering::Release);
        self.leave_file();
    }

    /// Whether its queue is another process's now.
    pub(super) fn is_handed_on(&self) -> bool {
        self.handed_on.load(Ordering::Acquire)
    }

    /// Whether the kernel takes connections for it; another process may have changed that.
    pub(super) fn is_open(&self) -> io::Result<bool> {
        Ok(sockopt::socket_acceptconn(&self.descriptor)?)
    }

    /// Has the kernel refuse connections from now on, and reset those that are queued. Of a TCP socket, which stays bound
    /// (`tcp_disconnect` of Linux: what `shutdown` does to one that listens).
    pub(super) fn refuse(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&self.descriptor, Shutdown::Read)?)
    }

    /// Has the kernel take connections again, at the address where it did.
    ///
    /// # Errors
    /// Somebody else listens there meanwhile.
    pub(super) fn listen_again(&self, address: SocketAddr) -> io::Result<()> {
        // A port that the kernel has chosen was given back; it is free as a rule. Any other one is bound still: EINVAL.
        match rustix::net::bind(&self.descriptor, &address) {
            Ok(()) | Err(Errno::INVAL) => Ok(rustix::net::listen(&self.descriptor, BACKLOG)?),
            Err(error) => Err(error.into()),
        }
    }

    fn leave_file(&self) {
        self.file.iter().for_each(|file| file.set_ours(false));
    }
}

impl AsFd for OpenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl AsRawFd for OpenSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

/// A socket that the accept loop has.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) key: ListenerKey,
    pub(super) listener: Name,
    pub(super) access: Access,
    /// The name that it came with from a service manager, which holds it as well.
    pub(super) given: Option<String>,
    pub(super) socket: Weak<OpenSocket>,
}

impl Handle {
    fn name(&self) -> String {
        self.given.clone().unwrap_or_else(|| inherited::own_name(&self.listener, self.access))
    }
}

/// All of them.
#[derive(Debug)]
pub struct Sockets {
    /// Of `[[listener]]`s.
    handles: Vec<Handle>,
    /// Of `[admin]`.
    admin: Option<Handle>,
    notifier: Notifier,
}

impl Sockets {
    pub fn new(handles: Vec<Handle>, admin: Option<Handle>, notifier: Notifier) -> Self {
        let sockets = Self { handles, admin, notifier };
        sockets.each().for_each(|handle| sockets.keep(handle));
        sockets
    }

    fn each(&self) -> impl Iterator<Item = &Handle> {
        self.handles.iter().chain(&self.admin)
    }

    /// The process has come up: what it has been handed is its own.
    pub fn claim(&self) {
        for socket in self.each().filter_map(|handle| handle.socket.upgrade()) {
            socket.file.iter().for_each(|file| file.set_ours(true));
        }
    }

    /// After a reload, for which `added` were bound.
    pub fn follow(&mut self, listeners: &[Listener], added: Vec<Handle>) {
        let names: HashMap<_, _> = listeners.iter().map(|listener| (listener.key(), listener.name.clone())).collect();
        let (stay, go): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.handles).into_iter().partition(|handle| names.contains_key(&handle.key));
        go.iter().for_each(|handle| self.forget(handle));
        let (mut renamed, same): (Vec<_>, Vec<_>) =
            stay.into_iter().partition(|handle| names.get(&handle.key).is_some_and(|name| *name != handle.listener));
        // First away with all of them: systemd keeps each socket once, whatever it is called, and names may change places.
        renamed.iter().for_each(|handle| self.forget(handle));
        for handle in &mut renamed {
            handle.listener.clone_from(&names[&handle.key]);
        }
        renamed.iter().chain(&added).for_each(|handle| self.keep(handle));
        self.handles = same.into_iter().chain(renamed).chain(added).collect();
    }

    /// The admin listener has another address from now on, or is no more.
    pub fn follow_admin(&mut self, admin: Option<Handle>) {
        self.admin.take().iter().for_each(|handle| self.forget(handle));
        admin.iter().for_each(|handle| self.keep(handle));
        self.admin = admin;
    }

    /// Each with the name under which it is handed on.
    pub fn all(&self) -> Vec<(String, Arc<OpenSocket>)> {
        let open = |handle: &Handle| Some((handle.name(), handle.socket.upgrade()?));
        self.each().filter_map(open).collect()
    }

    /// The process ends. What the service manager keeps for the next one is left where it is found.
    pub fn leave(&self) {
        if self.notifier.keeps_sockets() {
            self.each().filter_map(|handle| handle.socket.upgrade()).for_each(|socket| socket.leave_file());
        }
    }

    fn keep(&self, handle: &Handle) {
        if let (None, Some(socket)) = (&handle.given, handle.socket.upgrade()) {
            self.notifier.keep_socket(&handle.name(), socket.as_fd());
        }
    }

    fn forget(&self, handle: &Handle) {
        if handle.given.is_none() {
            self.notifier.forget_socket(&handle.name());
        }
    }
}
