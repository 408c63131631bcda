//! The accept loop: one for all listeners, on a thread of its own or beside the connections of the only worker.
//!
//! It never dies and never waits on a client: a socket that fails is dropped, and when the process has run out of
//! descriptors a reserve one is given up for as long as it takes to accept and close, so that the queue empties
//! instead of spinning. Each connection goes to the worker with the least load and stays there. Listeners take turns
//! in small bursts, so that a flood on one does not starve the others.
//! A reload changes the set of listeners in one step ([`Order::Change`]); those that stay keep their socket and its queue.
//! Dropping the future closes the listeners; what the kernel had queued is then reset, unless another process listens
//! with the same socket.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags};
use tokio::sync::{mpsc, watch};

use super::bind::BoundListener;
use super::doors::{Doors, Entrance, Order};
use super::load::{LoadGuard, WorkerLoad};
use super::place::BoundTo;
use crate::limits::{ConnectionPermit, Connections, Shut};
use crate::telemetry::Throttle;
use crate::telemetry::metrics::Refused;
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
    /// Position of its listener in what [`accept_loop`] was given, or in the last [`Order::Change`].
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

/// A listener that takes nobody from now on: what has come in by it stands in the inbox before this, and is to finish. By its
/// position, as in [`Arrival`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutting(pub usize);

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

/// Accepts on all listeners until `stop` turns true (or its sender is gone), then takes what was already queued and
/// closes them; the queue of one that has been handed on is left to whoever has it. Without a sender of `orders` the set
/// of listeners stays as it is. Those that stand in `shut` take nobody, for as long as they do.
///
/// # Errors
/// When a listener cannot be made part of the calling thread's runtime; nothing has been accepted then.
pub async fn accept_loop<M: From<Arrival> + From<Shutting>>(
    listeners: Vec<BoundListener>,
    shut: Arc<Shut>,
    workers: Vec<WorkerPort<M>>,
    limits: Connections,
    mut stop: watch::Receiver<bool>,
    mut orders: mpsc::Receiver<Order>,
) -> io::Result<()> {
    let mut doors = Doors::new(listeners, shut)?;
    let mut hall = Hall::new(workers, limits);
    let mut turn = 0;
    // One that was inherited may be silent, and one that was added may have drained under the same name before.
    hall.settle(&mut doors);
    loop {
        let after = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Some(order) = orders.recv() => {
                let change = match order {
                    Order::Change(change) => change,
                    // Whoever asked may have gone.
                    Order::Pulse(answer) => {
                        let _ = answer.send(());
                        continue;
                    }
                };
                doors.change(change, |entrance| _ = hall.take_burst(entrance, LAST_CALL));
                hall.settle(&mut doors);
                continue;
            }
            () = doors.unsettled() => {
                hall.settle(&mut doors);
                continue;
            }
            (entrance, mut ready) = doors.next_ready(turn) => {
                turn = entrance.index + 1;
                let after = hall.take_burst(entrance, BURST);
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
    for entrance in doors.entrances().filter(|entrance| !entrance.listener.socket.is_handed_on()) {
        hall.take_burst(entrance, LAST_CALL);
    }
    Ok(())
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

impl<M: From<Arrival> + From<Shutting>> Hall<M> {
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

    /// Has the doors shut, and opened, that are to be.
    fn settle(&mut self, doors: &mut Doors) {
        if let Err((listener, error)) = doors.settle(|entrance| self.part_with(entrance))
            && let Some(unsaid) = self.failed.say()
        {
            let (listener, address) = (&listener.name, listener);
            tracing::error!(%listener, %address, %error, unsaid, "does not listen as it should; it is tried again");
        }
    }

    /// Takes what is queued at a listener that is shut, and has workers finish with whatever came in by it.
    fn part_with(&mut self, entrance: Entrance<'_>) {
        self.take_burst(entrance, LAST_CALL);
        for worker in &self.workers {
            // One that has just ended has nothing left to finish.
            let _ = worker.inbox.send(Shutting(entrance.index).into());
        }
    }

    fn take_burst(&mut self, entrance: Entrance<'_>, burst: usize) -> After {
        let listener = entrance.listener;
        for _ in 0..burst {
            match rustix::net::acceptfrom_with(listener.as_fd(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(_) if entrance.is_shut => listener.book.connections.note_refused(Refused::Drained),
                Ok((socket, peer)) => self.place(entrance.index, listener, socket, peer),
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
