//! The listeners of the accept loop: who is next, how a reload changes them, and which are shut.
//!
//! One that an operator lets drain is shut for as long as it stands in [`Shut`]: its socket stays bound and stops to listen,
//! so that clients are refused by the kernel, as by a port where nobody is; a balancer in front notices that at once. A
//! unix socket cannot be made to listen again, so there clients are closed as they come. Whether a socket listens is asked
//! of the kernel each time, since another process may have it as well.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::oneshot;

use super::bind::BoundListener;
use super::sockets::OpenSocket;
use crate::limits::Shut;
use crate::telemetry::metrics::ListenerBook;

/// When it is tried again to listen at an address that somebody else has taken meanwhile.
const AGAIN: Duration = Duration::from_secs(1);

/// What the accept loop is told.
pub enum Order {
    Change(Change),
    /// Answered in its turn, which shows that turns come round.
    Pulse(oneshot::Sender<()>),
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

/// Those that are open, and those that are shut.
pub(super) struct Doors {
    all: Vec<Watched>,
    shut: Arc<Shut>,
    /// One of them does not listen although it should.
    is_owed: bool,
}

/// A listener, and whether its queue is watched.
struct Watched {
    listener: BoundListener,
    /// `None`: nobody gets as far as the queue.
    watch: Option<Watch>,
    is_shut: bool,
}

type Watch = AsyncFd<Arc<OpenSocket>>;

/// One of them as whoever takes connections sees it.
#[derive(Clone, Copy)]
pub(super) struct Entrance<'a> {
    /// As arrivals name it.
    pub index: usize,
    pub listener: &'a BoundListener,
    /// Whoever comes is sent away.
    pub is_shut: bool,
}

impl Doors {
    /// # Errors
    /// One of them cannot be made part of the calling thread's runtime.
    pub(super) fn new(listeners: Vec<BoundListener>, shut: Arc<Shut>) -> io::Result<Self> {
        let all = listeners.into_iter().map(Watched::new).collect::<io::Result<_>>()?;
        Ok(Self { all, shut, is_owed: false })
    }

    /// Those that have a queue.
    pub(super) fn entrances(&self) -> impl Iterator<Item = Entrance<'_>> {
        self.all.iter().enumerate().filter(|(_, door)| door.watch.is_some()).map(|(index, door)| door.entrance(index))
    }

    /// The first one that has something to accept, where the search begins at `turn`.
    pub(super) async fn next_ready(&self, turn: usize) -> (Entrance<'_>, AsyncFdReadyGuard<'_, Arc<OpenSocket>>) {
        poll_fn(|cx| {
            let count = self.all.len();
            for step in 0..count {
                let index = (turn + step) % count;
                let door = &self.all[index];
                let Some(watch) = &door.watch else { continue };
                // An error here means that the runtime is shutting down.
                if let Poll::Ready(Ok(ready)) = watch.poll_read_ready(cx) {
                    return Poll::Ready((door.entrance(index), ready));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Waits until there is something for [`Doors::settle`] to do.
    pub(super) async fn unsettled(&self) {
        let again = async {
            match self.is_owed {
                true => tokio::time::sleep(AGAIN).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shut.changed() => {}
            () = again => {}
        }
    }

    /// Shuts and opens them as is asked for. `last_call` is given each that is about to be shut, to take what is queued.
    ///
    /// # Errors
    /// The last one of those that could not; it is tried again.
    pub(super) fn settle(
        &mut self,
        mut last_call: impl FnMut(Entrance<'_>),
    ) -> Result<(), (&BoundListener, io::Error)> {
        let mut failed = None;
        for (index, door) in self.all.iter_mut().enumerate() {
            let is_shut = self.shut.has(&door.listener.name);
            if is_shut && !door.is_shut {
                last_call(door.entrance(index));
            }
            door.is_shut = is_shut;
            if let Err(error) = door.settle() {
                failed = Some((index, error));
            }
        }
        self.is_owed = failed.is_some();
        match failed {
            Some((index, error)) => Err((&self.all[index].listener, error)),
            None => Ok(()),
        }
    }

    /// The set after a change; as it was where one of the new ones cannot be watched. `last_call` is given each that goes.
    pub(super) fn change(&mut self, change: Change, last_call: impl FnMut(Entrance<'_>)) {
        let Change { doors: wanted, between, done } = change;
        let mut new = Vec::with_capacity(wanted.len());
        for door in wanted {
            new.push(match door {
                Door::New(listener) => match Watched::new(listener) {
                    Ok(door) => Place::New(door),
                    // Whoever asked may have gone; nothing has changed for anybody.
                    Err(error) => {
                        let _ = done.send(Err(error));
                        return;
                    }
                },
                Door::Kept { position, book } => Place::Old(position, book),
            });
        }
        let is_kept =
            |index: usize| new.iter().any(|place| matches!(place, Place::Old(position, _) if *position == index));
        self.entrances().filter(|entrance| !is_kept(entrance.index)).for_each(last_call);
        between();
        let mut old: Vec<_> = std::mem::take(&mut self.all).into_iter().map(Some).collect();
        let placed = new.into_iter().filter_map(|place| match place {
            Place::New(door) => Some(door),
            Place::Old(position, book) => {
                let mut door = old.get_mut(position)?.take()?;
                door.listener.name = book.name.clone();
                door.listener.book = book;
                Some(door)
            }
        });
        self.all = placed.collect();
        let _ = done.send(Ok(()));
    }
}

/// Where a door of the new set comes from.
enum Place {
    New(Watched),
    Old(usize, Arc<ListenerBook>),
}

impl Watched {
    fn new(listener: BoundListener) -> io::Result<Self> {
        let watch = Some(watch_readable(&listener.socket)?);
        Ok(Self { listener, watch, is_shut: false })
    }

    fn entrance(&self, index: usize) -> Entrance<'_> {
        Entrance { index, listener: &self.listener, is_shut: self.is_shut }
    }

    /// Has the kernel refuse clients, or take them again.
    fn settle(&mut self) -> io::Result<()> {
        let Some(address) = self.listener.tcp_address() else { return Ok(()) };
        let socket = &self.listener.socket;
        let is_open = socket.is_open()?;
        if self.is_shut {
            // What the runtime knows of a socket that listened once would stand in the way of what it hears later.
            self.watch = None;
            return if is_open { socket.refuse() } else { Ok(()) };
        }
        if !is_open {
            socket.listen_again(address)?;
        }
        if self.watch.is_none() {
            self.watch = Some(watch_readable(socket)?);
        }
        Ok(())
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of types whose descriptor may change; an open socket owns its own"
)]
fn watch_readable(socket: &Arc<OpenSocket>) -> io::Result<Watch> {
    AsyncFd::with_interest(socket.clone(), Interest::READABLE)
}
