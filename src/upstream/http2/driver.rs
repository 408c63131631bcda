//! The task that drives one HTTP/2 connection, and the look at whether its server is still there.
//!
//! A PING is sent
//! - with the first stream after [`SUSPICIOUS`] of silence: nobody waits for it, but nobody else is sent into a dead
//!   connection for as long as the route's `response`;
//! - to a server that has been silent for [`ASK_TUNNELS`] while tunnels are open, which may be silent for hours;
//! - after [`ASK_REQUESTS`] while nothing but requests are open: servers of gRPC take more of them for an attack.
//!
//! Not a byte within [`PATIENCE`], and the connection gets no new streams; not a byte within [`GIVE_UP`], which is long
//! enough for servers that do one thing at a time, and it is given up: its streams end as those of a connection that was
//! lost. One without streams is closed after the pool's `MAX_IDLE`. Dropping the task closes the connection.
//! RFC 9113 6.7 (PING), 5.4.1 (the end of a connection).

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::Connection;
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite};

use super::channel::Channel;
use super::wire::Wire;
use crate::clock::{self, Instant};
use crate::upstream::pool::MAX_IDLE;

const SUSPICIOUS: Duration = Duration::from_secs(5);
const ASK_TUNNELS: Duration = Duration::from_secs(20);
const ASK_REQUESTS: Duration = Duration::from_secs(330);
const PATIENCE: Duration = Duration::from_secs(5);
const GIVE_UP: Duration = Duration::from_secs(20);
/// From the last stream of a retired connection to its end: GOAWAY has to be written, and the server may not read.
const LINGER: Duration = Duration::from_secs(5);

/// See the module. Ready when the connection has ended.
pub(super) struct Driver<S: AsyncRead + AsyncWrite + Unpin> {
    connection: Connection<Wire<S>, Bytes>,
    ping: PingPong,
    /// Since when something has to be heard of the server, and what it had sent by then.
    asked: Option<(Instant, u64)>,
    channel: Rc<Channel>,
    /// Streams that had been opened when it last looked.
    opened: u64,
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(connection: Connection<Wire<S>, Bytes>, ping: PingPong, channel: Rc<Channel>) -> Self {
        let timer = Box::pin(tokio::time::sleep(MAX_IDLE));
        Self { connection, ping, asked: None, channel, opened: 0, timer }
    }

    fn ask(&mut self) {
        // An earlier one may still be unanswered; then its answer will do, or anything else.
        let _ = self.ping.send_ping(Ping::opaque());
        self.asked = Some((clock::now(), self.channel.pulse.read()));
    }

    /// When to look again; `None`: the connection is given up.
    fn next_look(&mut self) -> Option<Instant> {
        let now = clock::now();
        if let Some((asked, read)) = self.asked {
            let steps = [asked + PATIENCE, asked + GIVE_UP];
            let is_silent = self.channel.pulse.read() == read;
            self.channel.is_suspect.set(is_silent && now >= steps[0]);
            if !is_silent {
                self.asked = None;
            } else if now >= steps[1] {
                self.channel.cause.set(Some("the server did not answer a PING"));
                return None;
            } else {
                return steps.into_iter().find(|step| now < *step);
            }
        }
        if self.channel.streams() == 0 {
            let is_retired = self.channel.is_retired();
            let until = self.channel.idle_since() + if is_retired { LINGER } else { MAX_IDLE };
            if now < until {
                return Some(until);
            }
            if is_retired {
                return None;
            }
            self.channel.retire();
            return Some(now + LINGER);
        }
        let due = self.channel.pulse.heard() + if self.channel.tunnels() > 0 { ASK_TUNNELS } else { ASK_REQUESTS };
        if now < due {
            return Some(due);
        }
        self.ask();
        Some(now + PATIENCE)
    }

    /// Ready when the connection is given up.
    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.channel.opened() != self.opened {
            self.opened = self.channel.opened();
            if self.asked.is_none() && self.channel.pulse.heard().elapsed() >= SUSPICIOUS {
                self.ask();
            }
        }
        // The answer is heard as any other bytes; this makes room for the next question.
        let _ = self.ping.poll_pong(cx);
        loop {
            let Some(next) = self.next_look() else { return Poll::Ready(()) };
            if next < self.timer.deadline() {
                self.timer.as_mut().reset(next);
            }
            ready!(self.timer.as_mut().poll(cx));
            self.timer.as_mut().reset(next);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.channel.driven_by(cx.waker());
        if this.channel.pulse.begin_lap() {
            this.channel.next_lap();
        }
        if Pin::new(&mut this.connection).poll(cx).is_ready() || this.poll_look(cx).is_ready() {
            this.channel.retire();
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
