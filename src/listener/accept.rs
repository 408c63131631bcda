//! The accept loop: one for all listeners, on a thread of its own or beside the connections of the only worker.
//!
//! It never dies and never waits on a client: a socket that fails is dropped, and when the process has run out of
//! descriptors a reserve one is given up for as long as it takes to accept and close, so that the queue empties
//! instead of spinning. Each connection goes to the worker with the least load and stays there. Listeners take turns
//! in small bursts, so that a flood on one does not starve the others.
//! A reload changes the set of listeners in one step ([`Change`]); those that stay keep their socket and its queue.
//! Dropping the future closes the listeners; what the kernel had queued is then reset, unless another process listens
//! with the same socket.

use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::{mpsc, oneshot, watch};

use super::bind::{BoundListener, BoundTo};
use super::load::{LoadGuard, WorkerLoad};
use crate::limits::{ConnectionPermit, Connections};
use crate::telemetry::Throttle;
use crate::telemetry::metrics::{ListenerBook, Refused};
use crate::transport::Socket;
use crate::types::Peer;

/// Connections taken from one listener before the next has its turn.
const BURST: usize = 16;

/// Pause after an error that would only repeat itself.
const PAUSE: Duration = Duration::from_millis(50);

/// Connections still taken from each listener's queue after a stop was asked for.
const LAST_CALL: usize = 4096;

/// A connection on its way to a worker.
#[derive(Debug)]
pub struct Arrival {
    /// Position of its listener in what [`accept_loop`] was given, or in the last [`Change`].
    pub listener: usize,
    pub socket: ArrivedSocket,
    pub peer: Peer,
    /// The address at which the client reached us; `None` on a unix socket.
    pub local: Option<SocketAddr>,
    /// To be held until the connection is closed.
    pub permit: ConnectionPermit,
    /// To be held until the connection is closed.
    pub load: LoadGuard,
}

/// A connected socket that belongs to no runtime yet; non-blocking, TCP_NODELAY set (by its listener).
#[derive(Debug)]
pub enum ArrivedSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ArrivedSocket {
    /// Makes it part of the runtime of the calling thread.
    ///
    /// # Errors
    /// When the runtime cannot watch the descriptor (out of kernel memory or watches).
    pub fn into_socket(self) -> io::Result<Socket> {
        match self {
            Self::Tcp(stream) => tokio::net::TcpStream::from_std(stream).map(Socket::Tcp),
            Self::Unix(stream) => tokio::net::UnixStream::from_std(stream).map(Socket::Unix),
        }
    }
}

/// Where the accept loop hands connections to a worker, as one kind of the messages that it gets. Arrivals in the inbox are
/// bounded by the permits.
#[derive(Debug)]
pub struct WorkerPort<M> {
    pub load: Arc<WorkerLoad>,
    pub inbox: mpsc::UnboundedSender<M>,
}

impl<M> Clone for WorkerPort<M> {
    fn clone(&self) -> Self {
        Self { load: self.load.clone(), inbox: self.inbox.clone() }
    }
}

/// A set of listeners that takes the place of the one that accepts.
pub struct Change {
    /// In the order in which arrivals name them from then on. Those that are left out take what is queued, and close.
    pub doors: Vec<Door>,
    /// Called when the old set accepts nothing more and the new one nothing yet: what it puts into the inboxes stands
    /// between the arrivals of the two.
    pub between: Box<dyn FnOnce() + Send>,
    /// Told when the new set accepts, or that it cannot: then everything is as it was. Dropped where the loop has ended.
    pub done: oneshot::Sender<io::Result<()>>,
}

/// A listener of a [`Change`].
#[derive(Debug)]
pub enum Door {
    /// One that accepts already: where it stood so far, and what it is called and counted as now.
    Kept {
        position: usize,
        book: Arc<ListenerBook>,
    },
    New(BoundListener),
}

/// Accepts on all listeners until `stop` turns true (or its sender is gone), then takes what was already queued and
/// closes them; the queue of one that has been handed on is left to whoever has it. Without a sender of `changes` the set of listeners stays as it is.
///
/// # Errors
/// When a listener cannot be made part of the calling thread's runtime; nothing has been accepted then.
pub async fn accept_loop<M: From<Arrival>>(
    listeners: Vec<BoundListener>,
    workers: Vec<WorkerPort<M>>,
    limits: Connections,
    mut stop: watch::Receiver<bool>,
    mut changes: mpsc::Receiver<Change>,
) -> io::Result<()> {
    let mut doors = listeners.into_iter().map(watch_readable).collect::<io::Result<Vec<_>>>()?;
    let mut hall = Hall::new(workers, limits);
    let mut turn = 0;
    loop {
        let after = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Some(change) = changes.recv() => {
                doors = change_doors(doors, change, &mut hall);
                continue;
            }
            (index, mut ready) = next_ready(&doors, turn) => {
                turn = index + 1;
                let after = hall.take_burst(index, doors[index].get_ref(), BURST);
                if after == After::Empty {
                    // Forgets only the event that was seen above, not one that has come since.
                    ready.clear_ready();
                }
                after
            }
        };
        if after == After::More {
            // Whoever shares the thread has a turn between two bursts.
            tokio::task::yield_now().await;
        }
        if after == After::Trouble {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
    let doors = doors.iter().map(AsyncFd::get_ref).enumerate();
    for (index, door) in doors.filter(|(_, door)| !door.socket.is_handed_on()) {
        hall.take_burst(index, door, LAST_CALL);
    }
    Ok(())
}

/// The listeners after a change; those before it where one of the new ones cannot be watched.
fn change_doors<M: From<Arrival>>(
    doors: Vec<AsyncFd<BoundListener>>,
    change: Change,
    hall: &mut Hall<M>,
) -> Vec<AsyncFd<BoundListener>> {
    let Change { doors: wanted, between, done } = change;
    let mut old: Vec<_> = doors.into_iter().map(Some).collect();
    let mut new = Vec::with_capacity(wanted.len());
    for door in wanted {
        new.push(match door {
            Door::New(listener) => match watch_readable(listener) {
                Ok(door) => Place::New(door),
                Err(error) => {
                    // Whoever asked may have gone; nothing has changed for anybody.
                    let _ = done.send(Err(error));
                    return old.into_iter().flatten().collect();
                }
            },
            Door::Kept { position, book } => Place::Old(position, book),
        });
    }
    let is_kept = |index: usize| new.iter().any(|place| matches!(place, Place::Old(position, _) if *position == index));
    for (index, door) in old.iter().enumerate().filter(|(index, _)| !is_kept(*index)) {
        door.iter().for_each(|door| _ = hall.take_burst(index, door.get_ref(), LAST_CALL));
    }
    between();
    let placed = new.into_iter().filter_map(|place| match place {
        Place::New(door) => Some(door),
        Place::Old(position, book) => {
            let mut door = old.get_mut(position)?.take()?;
            let listener = door.get_mut();
            listener.name = book.name.clone();
            listener.book = book;
            Some(door)
        }
    });
    let placed = placed.collect();
    let _ = done.send(Ok(()));
    placed
}

/// Where a door of the new set comes from.
enum Place {
    New(AsyncFd<BoundListener>),
    Old(usize, Arc<ListenerBook>),
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of types whose descriptor may change; a bound listener owns its own"
)]
fn watch_readable(listener: BoundListener) -> io::Result<AsyncFd<BoundListener>> {
    AsyncFd::with_interest(listener, Interest::READABLE)
}

/// The first listener that has something to accept, beginning the search at `turn`.
async fn next_ready(doors: &[AsyncFd<BoundListener>], turn: usize) -> (usize, AsyncFdReadyGuard<'_, BoundListener>) {
    poll_fn(|cx| {
        for step in 0..doors.len() {
            let index = (turn + step) % doors.len();
            // An error here means that the runtime is shutting down.
            if let Poll::Ready(Ok(ready)) = doors[index].poll_read_ready(cx) {
                return Poll::Ready((index, ready));
            }
        }
        Poll::Pending
    })
    .await
}

/// How a burst ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The burst is used up; there may be more.
    More,
    /// The queue is empty.
    Empty,
    /// An error that would repeat itself at once.
    Trouble,
}

/// Everything the loop needs to place one connection.
struct Hall<M> {
    workers: Vec<WorkerPort<M>>,
    limits: Connections,
    /// Given up for a moment when there are no descriptors left.
    reserve: Option<File>,
    /// Where the search for the least load begins, so that equals take turns.
    turn: usize,
    starved: Throttle,
    full: Throttle,
    failed: Throttle,
}

impl<M: From<Arrival>> Hall<M> {
    fn new(workers: Vec<WorkerPort<M>>, limits: Connections) -> Self {
        Self {
            workers,
            limits,
            reserve: reserve_descriptor(),
            turn: 0,
            starved: Throttle::default(),
            full: Throttle::default(),
            failed: Throttle::default(),
        }
    }

    fn take_burst(&mut self, index: usize, listener: &BoundListener, burst: usize) -> After {
        for _ in 0..burst {
            match rustix::net::acceptfrom_with(listener.as_fd(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, peer)) => self.place(index, listener, socket, peer),
                Err(Errno::AGAIN) => return After::Empty,
                // The client has gone before its turn, or the network had something to say about it alone.
                Err(
                    Errno::CONNABORTED
                    | Errno::INTR
                    | Errno::PROTO
                    | Errno::PERM
                    | Errno::NETDOWN
                    | Errno::NETUNREACH
                    | Errno::HOSTDOWN
                    | Errno::HOSTUNREACH
                    | Errno::NONET
                    | Errno::NOPROTOOPT
                    | Errno::OPNOTSUPP
                    | Errno::TIMEDOUT
                    | Errno::CONNRESET,
                ) => {}
                Err(error @ (Errno::MFILE | Errno::NFILE)) => {
                    if let Some(end) = self.shed(listener, error) {
                        return end;
                    }
                }
                Err(error) => {
                    if let Some(unsaid) = self.failed.say() {
                        tracing::warn!(listener = %listener.name, %error, unsaid, "cannot accept connections");
                    }
                    return After::Trouble;
                }
            }
        }
        After::More
    }

    /// Gives a connection to the worker with the least load, or closes it where there is no room.
    fn place(&mut self, index: usize, listener: &BoundListener, socket: OwnedFd, peer: Option<SocketAddrAny>) {
        let Some(permit) = self.limits.try_acquire() else {
            listener.book.connections.note_refused(Refused::MaxConnections);
            if let Some(unsaid) = self.full.say() {
                let max_connections = self.limits.max();
                tracing::warn!(listener = %listener.name, max_connections, unsaid, "too many connections: closing new ones");
            }
            return;
        };
        let (socket, peer, local) = match &listener.bound_to {
            BoundTo::Tcp(_) => {
                let stream = TcpStream::from(socket);
                // Absent only if the client is gone already.
                let Some(peer) = peer.and_then(|peer| SocketAddr::try_from(peer).ok()) else { return };
                let local = listener.fixed_local().or_else(|| stream.local_addr().ok());
                (ArrivedSocket::Tcp(stream), Peer::Tcp(peer), local)
            }
            BoundTo::Unix(_) => (ArrivedSocket::Unix(UnixStream::from(socket)), Peer::Unix, None),
        };
        let Some(worker) = self.least_loaded() else { return };
        let load = LoadGuard::new(&worker.load, &listener.book);
        // A worker that has just ended drops the connection with its inbox.
        let _ = worker.inbox.send(Arrival { listener: index, socket, peer, local, permit, load }.into());
    }

    fn least_loaded(&mut self) -> Option<&WorkerPort<M>> {
        let count = self.workers.len();
        let best = (0..count)
            .map(|step| (self.turn + step) % count)
            .filter(|&index| !self.workers[index].inbox.is_closed())
            .min_by_key(|&index| self.workers[index].load.weight())?;
        self.turn = (best + 1) % count;
        Some(&self.workers[best])
    }

    /// Accepts one connection with the reserve descriptor and closes it at once. `Some`: the burst ends here.
    fn shed(&mut self, listener: &BoundListener, error: Errno) -> Option<After> {
        let had_reserve = self.reserve.take().is_some();
        // With the slot free again the accept succeeds, unless another thread was quicker.
        let shed = rustix::net::accept_with(listener.as_fd(), SocketFlags::CLOEXEC).map(drop);
        self.reserve = reserve_descriptor();
        // Linux looks for a free descriptor before it looks into the queue: there may have been nobody waiting.
        if had_reserve && shed == Err(Errno::AGAIN) {
            return Some(After::Empty);
        }
        if shed.is_ok() {
            listener.book.connections.note_refused(Refused::Descriptors);
        }
        if let Some(unsaid) = self.starved.say() {
            tracing::warn!(listener = %listener.name, %error, unsaid, "out of descriptors: closing new connections");
        }
        shed.is_err().then_some(After::Trouble)
    }
}

fn reserve_descriptor() -> Option<File> {
    File::open("/dev/null").ok()
}
