//! The HTTP/2 connections of one worker to one server: a stream from one that has room, or a further connection.
//!
//! Streams come from the oldest connection with room, so that those which are no longer needed run empty and close.
//! While a connection is being opened, as many wait for it as such a connection has had room for; beyond that, another
//! one is opened beside it rather than having anybody wait for a second round. A connection is opened in a task of its
//! own: whoever asked for it may leave, and the others still get it. How one is opened, and what the server chose to
//! speak on it, is the caller's business.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::channel::{Channel, Slot};
use crate::clock::{self, Instant};
use crate::lifecycle;
use crate::upstream::dial::UpstreamStream;
use crate::upstream::failure::Failure;

/// What a connection is taken to have room for, as long as none has been seen.
const USUAL_ROOM: usize = 100;

/// For so long it is remembered that a server does not speak HTTP/2, or opens no tunnels over it.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The connections of one server.
#[derive(Default)]
pub(in crate::upstream) struct Channels {
    open: RefCell<Vec<Rc<Channel>>>,
    waiting: RefCell<VecDeque<oneshot::Sender<Offer>>>,
    /// Connections that are being opened.
    opening: Cell<usize>,
    /// Streams that the last connection has had room for.
    room: Cell<Option<usize>>,
    no_http2: Cell<Option<Instant>>,
    no_tunnels: Cell<Option<Instant>>,
}

/// A connection as it was opened.
pub(in crate::upstream) enum Opened {
    Http2(Rc<Channel>),
    /// The server has chosen HTTP/1.1.
    Http1(UpstreamStream),
}

/// Opens a connection.
pub(in crate::upstream) type Opening = Pin<Box<dyn Future<Output = Result<Opened, Failure>>>>;

/// What comes of asking for a stream.
pub(in crate::upstream) enum Obtained {
    Stream(Slot),
    /// The server has chosen HTTP/1.1, and this is a fresh connection to it.
    Http1(UpstreamStream),
    /// It did so on a connection that somebody else has got.
    Http1Elsewhere,
}

/// What one who waits is given.
enum Offer {
    Obtained(Obtained),
    Failed(Failure),
    /// There was not room for all; ask again.
    Again,
}

impl Channels {
    /// A stream of a connection that is open and has room.
    pub(in crate::upstream) fn take(&self) -> Option<Slot> {
        let mut open = self.open.borrow_mut();
        open.retain(|channel| channel.is_usable());
        open.iter().find_map(Channel::take)
    }

    /// Connections to where the server is not any more give out no further streams.
    pub(in crate::upstream) fn retire_unless(&self, is_there: impl Fn(Option<SocketAddr>) -> bool) {
        let open = self.open.borrow();
        open.iter().filter(|channel| !is_there(channel.destination)).for_each(|channel| channel.retire());
    }

    /// Whether the server has lately chosen HTTP/1.1.
    pub(in crate::upstream) fn speaks_http1(&self) -> bool {
        is_recent(&self.no_http2)
    }

    /// Whether the server has lately said that it opens no tunnels.
    pub(in crate::upstream) fn refuses_tunnels(&self) -> bool {
        is_recent(&self.no_tunnels)
    }

    /// A stream, once there is one. `open` opens a connection with a deadline of its own.
    ///
    /// # Errors
    /// Why no connection could be opened; `patience` has passed without a stream.
    pub(in crate::upstream) async fn obtain(
        self: &Rc<Self>,
        patience: Duration,
        open: impl Fn() -> Opening,
    ) -> Result<Obtained, Failure> {
        let waiting = async {
            loop {
                if self.waiting.borrow().is_empty()
                    && let Some(slot) = self.take()
                {
                    return Ok(Obtained::Stream(slot));
                }
                let (sender, receiver) = oneshot::channel();
                self.waiting.borrow_mut().push_back(sender);
                if self.is_short() {
                    self.begin(open());
                }
                match receiver.await {
                    Ok(Offer::Obtained(obtained)) => return Ok(obtained),
                    Ok(Offer::Failed(failure)) => return Err(failure),
                    // The task that opened a connection has panicked, and said so.
                    Ok(Offer::Again) | Err(_) => {}
                }
            }
        };
        tokio::time::timeout(patience, waiting)
            .await
            .unwrap_or_else(|_| Err(Failure::ConnectTimeout("no HTTP/2 stream was free".to_owned())))
    }

    /// Takes a connection that was opened elsewhere; what the server speaks is known from then on.
    pub(in crate::upstream) fn adopt(self: &Rc<Self>, channel: Rc<Channel>) {
        channel.belongs_to(Rc::downgrade(self));
        self.no_http2.set(None);
        self.no_tunnels.set((!channel.opens_tunnels()).then(clock::now));
        self.room.set(Some(channel.limit()));
        self.open.borrow_mut().push(channel);
        self.serve();
    }

    /// The server has chosen HTTP/1.1.
    pub(in crate::upstream) fn note_http1(&self) {
        self.no_http2.set(Some(clock::now()));
    }

    /// Whether more wait than the connections that are being opened will have room for.
    fn is_short(&self) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|one| !one.is_closed());
        let room = self.room.get().unwrap_or(USUAL_ROOM).max(1);
        waiting.len() > self.opening.get().saturating_mul(room)
    }

    fn begin(self: &Rc<Self>, opening: Opening) {
        self.opening.set(self.opening.get() + 1);
        let guard = BeingOpened(self.clone());
        lifecycle::spawn_local("upstream h2 opening", async move {
            let opened = opening.await;
            let channels = guard.0.clone();
            drop(guard);
            match opened {
                Ok(Opened::Http2(channel)) if channel.limit() == 0 => {
                    channel.retire();
                    let failure = Failure::Protocol("the server allows no HTTP/2 streams".to_owned());
                    channels.fail(&failure);
                }
                Ok(Opened::Http2(channel)) => {
                    channels.adopt(channel);
                    channels.ask_again();
                }
                Ok(Opened::Http1(stream)) => channels.leave_to_http1(stream),
                Err(failure) => channels.fail(&failure),
            }
        });
    }

    /// Gives out streams that are free, to those who wait, in the order in which they came.
    pub(super) fn serve(&self) {
        loop {
            if self.waiting.borrow().is_empty() {
                return;
            }
            let Some(slot) = self.take() else { return };
            let Some(next) = self.next_in_line() else {
                // Its drop comes back here, and finds nobody waiting.
                return;
            };
            // Who has left gives it back by dropping it; that comes back here as well.
            let _ = next.send(Offer::Obtained(Obtained::Stream(slot)));
        }
    }

    fn next_in_line(&self) -> Option<oneshot::Sender<Offer>> {
        let mut waiting = self.waiting.borrow_mut();
        loop {
            let next = waiting.pop_front()?;
            if !next.is_closed() {
                return Some(next);
            }
        }
    }

    /// Those who still wait although no connection is being opened for them.
    fn ask_again(&self) {
        if self.is_short() {
            for one in self.take_waiting(usize::MAX) {
                let _ = one.send(Offer::Again);
            }
        }
    }

    fn leave_to_http1(&self, stream: UpstreamStream) {
        self.note_http1();
        let mut stream = Some(stream);
        for one in self.take_waiting(usize::MAX) {
            let offer = stream.take().map_or(Obtained::Http1Elsewhere, Obtained::Http1);
            if let Err(Offer::Obtained(Obtained::Http1(back))) = one.send(Offer::Obtained(offer)) {
                stream = Some(back);
            }
        }
    }

    /// As many as the connection would have served.
    fn fail(&self, failure: &Failure) {
        let served = match self.opening.get() {
            0 => usize::MAX,
            _ => self.room.get().unwrap_or(USUAL_ROOM).max(1),
        };
        for one in self.take_waiting(served) {
            let _ = one.send(Offer::Failed(failure.copy()));
        }
    }

    fn take_waiting(&self, count: usize) -> Vec<oneshot::Sender<Offer>> {
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|one| !one.is_closed());
        let count = count.min(waiting.len());
        waiting.drain(..count).collect()
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        for channel in self.open.get_mut() {
            channel.retire();
        }
    }
}

/// Counts a connection that is being opened, whatever becomes of it.
struct BeingOpened(Rc<Channels>);

impl Drop for BeingOpened {
    fn drop(&mut self) {
        self.0.opening.set(self.0.opening.get().saturating_sub(1));
    }
}

fn is_recent(noted: &Cell<Option<Instant>>) -> bool {
    noted.get().is_some_and(|at| at.elapsed() < REMEMBERED)
}
