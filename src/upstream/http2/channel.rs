//! One HTTP/2 connection to a server, as those see it who want a stream of it.
//!
//! A stream is counted from [`Channel::take`] to the drop of its [`Slot`], against what the server allows at the moment
//! and against [`STREAMS`], which the windows are made for. A channel that is retired (GOAWAY, idle for too long, too
//! many broken answers) gives out no more; what is open on it goes on. The connection itself belongs to the task that
//! drives it (`driver`). RFC 9113 5.1.2 (concurrency), 6.8 (GOAWAY), 6.9 (windows).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, SendStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

use super::channels::Channels;
use super::driver::Driver;
use super::inlet::Inlet;
use super::wire::{Pulse, Wire};
use crate::clock::{self, Instant};
use crate::lifecycle;
use crate::upstream::connection::MAX_ANSWER_HEAD;
use crate::upstream::failure::Failure;

/// Streams that one connection has open, whatever the server would allow.
const STREAMS: usize = 100;
/// Bytes that a server may send on one stream before somebody has read them.
pub(super) const STREAM_WINDOW: u32 = 128 * 1024;
/// Large enough that stalled streams, all together, leave nothing to starve for.
const CONNECTION_WINDOW: u32 = STREAMS as u32 * STREAM_WINDOW;
/// Bytes of one stream that wait to be written.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that we have reset are remembered, so many for so long: what the server had sent by then would be taken for
/// a fault of its own, and too many of those end the connection.
const REMEMBERED: usize = 4096;
const REMEMBERED_FOR: Duration = Duration::from_secs(10);
/// So many answers that were no answers, and the connection is left alone.
const MAX_FAULTS: u32 = 100;

/// See the module.
pub(in crate::upstream) struct Channel {
    /// `None`: retired.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    pub(super) pulse: Rc<Pulse>,
    lap: Cell<u64>,
    streams: Cell<usize>,
    /// Of those, the ones that may be silent for a long time.
    tunnels: Cell<usize>,
    /// Streams since the beginning.
    opened: Cell<u64>,
    /// When the last stream ended.
    idle_since: Cell<Instant>,
    faults: Cell<u32>,
    inlets: RefCell<Vec<Weak<Inlet>>>,
    driver: RefCell<Option<Waker>>,
    /// The server has been asked whether it is there, and has not answered yet.
    pub(super) is_suspect: Cell<bool>,
    /// Why we ourselves have given it up.
    pub(super) cause: Cell<Option<&'static str>>,
    owner: RefCell<Weak<Channels>>,
    /// Where the connection leads to; `None`: to a unix socket.
    pub(super) destination: Option<SocketAddr>,
}

/// The right to one stream. Given back on drop.
pub(in crate::upstream) struct Slot {
    channel: Rc<Channel>,
    is_tunnel: Cell<bool>,
    /// Other streams have been opened on the connection before.
    pub(in crate::upstream) reused: bool,
}

impl Channel {
    /// Begins HTTP/2 on a connection whose server speaks it, by prior knowledge or by ALPN. Ready when the server's
    /// settings have come: what it allows is known then, and that it speaks HTTP/2 at all. Has no deadline of its own.
    ///
    /// # Errors
    /// No byte of a request has been sent.
    pub(in crate::upstream) async fn open<S>(stream: S, destination: Option<SocketAddr>) -> Result<Rc<Self>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let wire = Wire::new(stream);
        let pulse = wire.pulse();
        let (sender, mut connection) = builder().handshake(wire).await.map_err(|error| not_begun(&error))?;
        let mut ping = connection.ping_pong().ok_or_else(|| Failure::Protocol("HTTP/2 cannot ping".to_owned()))?;
        // The settings stand before everything else that a server says (RFC 9113 3.4), its answer to this included.
        ping.send_ping(Ping::opaque()).map_err(|error| not_begun(&error))?;
        poll_fn(|cx| {
            pulse.begin_lap();
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                let error = ended.err().unwrap_or_else(|| h2::Reason::NO_ERROR.into());
                return Poll::Ready(Err(not_begun(&error)));
            }
            ping.poll_pong(cx).map(|pong| pong.map(drop).map_err(|error| not_begun(&error)))
        })
        .await?;
        let channel = Rc::new(Self {
            sender: RefCell::new(Some(sender)),
            pulse,
            lap: Cell::new(0),
            streams: Cell::new(0),
            tunnels: Cell::new(0),
            opened: Cell::new(0),
            idle_since: Cell::new(clock::now()),
            faults: Cell::new(0),
            inlets: RefCell::default(),
            driver: RefCell::default(),
            is_suspect: Cell::new(false),
            cause: Cell::new(None),
            owner: RefCell::default(),
            destination,
        });
        lifecycle::spawn_local("upstream h2 connection", Driver::new(connection, ping, channel.clone()));
        Ok(channel)
    }

    /// Whoever wants a stream of this channel asks there.
    pub(super) fn belongs_to(&self, owner: Weak<Channels>) {
        *self.owner.borrow_mut() = owner;
    }

    /// Streams that may be open at once.
    pub(super) fn limit(&self) -> usize {
        self.sender.borrow().as_ref().map_or(0, |sender| sender.current_max_send_streams().min(STREAMS))
    }

    /// Whether the server opens tunnels (RFC 8441 3).
    pub(in crate::upstream) fn opens_tunnels(&self) -> bool {
        self.sender.borrow().as_ref().is_some_and(SendRequest::is_extended_connect_protocol_enabled)
    }

    /// Whether new streams may be had at all, now or later.
    pub(super) fn is_usable(&self) -> bool {
        let mut sender = self.sender.borrow_mut();
        let Some(open) = sender.as_mut() else { return false };
        // Nothing of ours waits there, so nobody is woken; an error says that the server has said GOAWAY, or is gone.
        let is_usable = matches!(open.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())));
        if !is_usable {
            *sender = None;
        }
        is_usable
    }

    /// One more stream, if there is room for it.
    pub(in crate::upstream) fn take(self: &Rc<Self>) -> Option<Slot> {
        if self.is_suspect.get() || !self.is_usable() || self.streams.get() >= self.limit() {
            return None;
        }
        self.streams.set(self.streams.get() + 1);
        Some(Slot { channel: self.clone(), is_tunnel: Cell::new(false), reused: self.opened.get() > 0 })
    }

    /// No more streams; the connection closes when those that are open have ended.
    pub(in crate::upstream) fn retire(&self) {
        let sender = self.sender.borrow_mut().take();
        if sender.is_some() && self.streams.get() == 0 {
            self.idle_since.set(clock::now());
        }
        drop(sender);
        self.wake_driver();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.sender.borrow().is_none()
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.get()
    }

    pub(super) fn tunnels(&self) -> usize {
        self.tunnels.get()
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened.get()
    }

    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    /// A lap is over: what nobody has read during it is taken care of.
    pub(super) fn next_lap(&self) {
        let lap = self.lap.get() + 1;
        self.lap.set(lap);
        self.inlets.borrow_mut().retain(|inlet| {
            let inlet = inlet.upgrade();
            if let Some(inlet) = &inlet {
                inlet.look_after(lap);
            }
            inlet.is_some()
        });
    }

    pub(super) fn driven_by(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|driver| driver.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }

    fn wake_driver(&self) {
        if let Some(driver) = &*self.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    fn note_fault(&self) {
        self.faults.set(self.faults.get() + 1);
        if self.faults.get() >= MAX_FAULTS {
            self.retire();
        }
    }
}

impl Slot {
    /// Opens the stream. What is sent may wait for the server's leave in the rare case that it has just allowed fewer
    /// streams than before.
    pub(super) fn send(
        &self,
        request: Request<()>,
        is_whole: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        // A clone: whether one of them waits is of no interest to the others.
        let Some(mut sender) = self.channel.sender.borrow().clone() else {
            return Err(h2::Reason::REFUSED_STREAM.into());
        };
        self.channel.opened.set(self.channel.opened.get() + 1);
        sender.send_request(request, is_whole)
    }

    /// The receiving half, looked after from now on.
    pub(super) fn inlet(&self, stream: h2::RecvStream) -> Rc<Inlet> {
        let inlet = Rc::new(Inlet::new(stream, self.lap()));
        let mut inlets = self.channel.inlets.borrow_mut();
        if inlets.len() >= 2 * STREAMS {
            inlets.retain(|inlet| inlet.strong_count() > 0);
        }
        inlets.push(Rc::downgrade(&inlet));
        inlet
    }

    /// For [`Inlet`].
    pub(super) fn lap(&self) -> u64 {
        self.channel.lap.get()
    }

    pub(super) fn becomes_tunnel(&self) {
        if !self.is_tunnel.replace(true) {
            self.channel.tunnels.set(self.channel.tunnels.get() + 1);
        }
    }

    /// Whether the server opens tunnels (RFC 8441 3).
    pub(in crate::upstream) fn opens_tunnels(&self) -> bool {
        self.channel.opens_tunnels()
    }

    /// What broke the stream, told with what we know of its connection.
    pub(super) fn judge(&self, error: &h2::Error) -> (Failure, Processed) {
        if error.is_library() {
            self.channel.note_fault();
            return (Failure::Malformed(error.to_string()), Processed::Maybe);
        }
        let reason = error.reason();
        let is_unprocessed =
            error.is_go_away() && error.is_remote() || error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM);
        let text = match self.channel.cause.get() {
            Some(cause) if error.is_io() => cause.to_owned(),
            _ => error.to_string(),
        };
        (Failure::Closed(text), if is_unprocessed { Processed::Not } else { Processed::Maybe })
    }
}

/// Whether a server has done something about a request before its stream broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Processed {
    /// It says that it has not (RFC 9113 8.7).
    Not,
    Maybe,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let channel = &self.channel;
        if self.is_tunnel.get() {
            channel.tunnels.set(channel.tunnels.get().saturating_sub(1));
        }
        channel.streams.set(channel.streams.get().saturating_sub(1));
        if channel.streams.get() == 0 {
            channel.idle_since.set(clock::now());
            channel.wake_driver();
        }
        let owner = channel.owner.borrow().upgrade();
        if let Some(owner) = owner {
            owner.serve();
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_ANSWER_HEAD as u32)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(REMEMBERED)
        .reset_stream_duration(REMEMBERED_FOR)
        .max_local_error_reset_streams(Some(REMEMBERED));
    builder
}

/// Before the settings: a server that is gone, or one that does not speak HTTP/2.
fn not_begun(error: &h2::Error) -> Failure {
    match error.get_io() {
        Some(io) => Failure::Connect(std::io::Error::new(io.kind(), format!("before its HTTP/2 settings: {io}"))),
        None => Failure::Protocol(format!("the server does not speak HTTP/2: {error}")),
    }
}
