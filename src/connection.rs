//! The life of a connection: socket → PROXY header → TLS handshake → HTTP → closed, or handed over to a tunnel.
//!
//! Owns every deadline up to a complete request head (those before HTTP in `greeting`), and the keep-alive and stall
//! deadlines between and during requests; what happens within a request is `exchange`'s. Deadlines that run out here close without an answer
//! (RFC 9112 9.5). What never became a request (a head that is not HTTP, or came too late) gets its one line in the access
//! log here.
//! Dropping the future closes the socket.

mod greeting;
mod waiting;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{self, Instant};
use crate::config::model::ListenerTimeouts;
use crate::exchange::{self, Downstream, LiveListener, Promise, Tools};
use crate::http::{Activity, Expiry, ServerConnection, Watched, serve_http1, serve_http2};
use crate::lifecycle::{Guard, Stop};
use crate::limits::ConnectionPermit;
use crate::listener::{Arrival, LoadGuard};
use crate::telemetry::end::EndReason;
use crate::telemetry::metrics::Closed;
use crate::tls::ClientStream;
use crate::transport::{self, Transport};
use crate::types::{Ends, HttpVersion, Local};
use greeting::{Greeted, greet};
use waiting::{wait_again, wait_first};

/// Until a route says otherwise, a client may stop reading for this long.
const CLIENT_STALL: Duration = Duration::from_secs(30);
/// After our last byte: how long, and for how many bytes, what the client still sends is read and thrown away, so
/// that a reset cannot overtake the answer (RFC 9112 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;
/// How long HTTP stays on an idle h1 connection: long enough that a busy one never loses it.
const REST: Duration = Duration::from_secs(1);
/// How long an h2 connection may take to end after GOAWAY when it was idle.
const GOAWAY_PATIENCE: Duration = Duration::from_secs(5);

/// Serves one connection to its end. The future is small while it waits: what a phase needs it has in a box.
pub fn run(arrival: Arrival, tools: Rc<Tools>) -> impl Future<Output = ()> {
    let Arrival { listener, socket, peer, local, permit, mut load, .. } = arrival;
    let ends = Ends { peer, local: local.map(Local::from) };
    let open = tools.lifecycle.guard();
    // At once: a reload may come before the first turn of the future, and this was accepted before that. Made here, too,
    // since what the block below took along, it would have room for until its end.
    let greeting = tools.listener(listener).and_then(|listener| {
        let plan = listener.serving()?.listener().clone();
        let promise = Promise::of(&listener, &plan, ends.peer.ip());
        let greeting = until_ended(greet(socket, ends, plan, listener.clone(), tools.clone()), tools.clone());
        Some(Box::pin(async move {
            let greeted = greeting.await.unwrap_or(Err(Closed::Drained))?;
            Ok(Box::new(Guest { greeted, listener, promise }))
        }))
    });
    async move {
        let Some(greeting) = greeting else { return };
        let mut guest = match greeting.await {
            Ok(guest) => guest,
            Err(closed) => return load.ends_as(closed),
        };
        load.handshake_done();
        // Nothing of HTTP is set up before there is something to read.
        let since = clock::now();
        if guest.greeted.read.is_empty() {
            match wait_first(&mut guest.greeted.stream, &guest.listener, &tools, since).await {
                Ok(read) => guest.greeted.read = read,
                Err(closed) => {
                    load.ends_as(closed);
                    return Box::pin(close(guest.greeted.stream, tools)).await;
                }
            }
        }
        converse(guest, since, tools, (permit, load, open)).await;
    }
}

/// A connection before its first request.
struct Guest {
    greeted: Greeted,
    listener: Rc<LiveListener>,
    promise: Promise,
}

/// What is held until a connection, or the tunnel that it becomes, has ended.
type Held = (ConnectionPermit, LoadGuard, Guard);

/// HTTP from the first byte on, in a box.
#[expect(clippy::boxed_local, reason = "taken apart here, so that the guest's box is gone while HTTP goes on")]
fn converse(guest: Box<Guest>, since: Instant, tools: Rc<Tools>, mut held: Held) -> Pin<Box<impl Future<Output = ()>>> {
    let Guest { greeted, listener, promise } = *guest;
    let Greeted { mut stream, version, tls, mut read, ends } = greeted;
    let activity = Rc::new(Activity::new(version, since, CLIENT_STALL));
    let tls = tls.map(|tls| *tls);
    let downstream = Rc::new(Downstream::new(tools, (listener, promise), ends, tls, version, activity));
    Box::pin(async move {
        loop {
            match Box::pin(serve(stream, read, downstream.clone())).await {
                Served::Over(closed) => return held.1.ends_as(closed),
                Served::Open(open, early, closed) => {
                    if let Some(tunnel) = downstream.take_tunnel() {
                        held.1.ends_as(Closed::Tunnel);
                        return tunnel.open(open, early, held);
                    }
                    held.1.ends_as(closed);
                    return Box::pin(close(open, downstream.tools.clone())).await;
                }
                Served::Resting(resting, early) => (stream, read) = (resting, early),
            }
            if read.is_empty() {
                match wait_again(&mut stream, &downstream).await {
                    Ok(input) => read = input,
                    Err(closed) => {
                        held.1.ends_as(closed);
                        return Box::pin(close(stream, downstream.tools.clone())).await;
                    }
                }
            }
        }
    })
}

/// `None`: the process has ended meanwhile.
async fn until_ended<F: Future>(future: F, tools: Rc<Tools>) -> Option<F::Output> {
    let mut stop = tools.phase.stop();
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => stop.poll_ended(cx).map(|()| None),
    })
    .await
}

/// What has become of a connection with HTTP on it.
enum Served {
    /// Closed, or to be closed by the drop.
    Over(Closed),
    /// No further request will come on it; with bytes behind the last one.
    Open(ClientStream, Bytes, Closed),
    /// Nothing to do for a while: HTTP is taken off it, since its buffers are many times what the rest needs.
    Resting(ClientStream, Bytes),
}

async fn serve(stream: ClientStream, read: Bytes, downstream: Rc<Downstream>) -> Served {
    // Its listener is gone, and nobody knows any more how it was served.
    let Some(serving) = downstream.listener.serving() else {
        return Served::Open(stream, read, Closed::Drained);
    };
    let plan = serving.listener().clone();
    drop(serving);
    downstream.renew_promise(&plan);
    let stream = Watched::new(stream, read, downstream.activity.clone());
    let serve = {
        let downstream = downstream.clone();
        move |inbound| exchange::handle(downstream.clone(), inbound)
    };
    match downstream.version {
        HttpVersion::Http1 => {
            let connection = serve_http1(stream, &plan.limits, serve);
            // A long conversation must not keep what a reload has replaced.
            drop(plan);
            drive(connection, &downstream).await
        }
        HttpVersion::Http2 => {
            let connection = serve_http2(stream, &plan.limits, plan.websocket_over_h2, serve);
            drop(plan);
            drive(connection, &downstream).await
        }
    }
}

/// Runs HTTP on a connection until no further request will come, it rests, or a deadline or the end of the process
/// cuts it.
async fn drive<C: ServerConnection<Stream = ClientStream>>(mut connection: C, downstream: &Downstream) -> Served {
    let mut clockwork = Deadlines::new(downstream);
    let mut stop = downstream.listener.stop();
    let mut finishing = false;
    let end = poll_fn(|cx| {
        loop {
            if let Poll::Ready(served) = connection.poll_served(cx) {
                let rests = clockwork.rest == Rest::Asked && !finishing && served.is_ok();
                return Poll::Ready(if rests { End::Resting } else { End::Served(served) });
            }
            // hyper was not as idle as it looked: it goes on to the end of what it does, and closes then.
            if clockwork.rest == Rest::Asked {
                clockwork.rest = Rest::Refused;
            }
            // Not while a handshake waits for its 101: hyper would add `close` to it.
            if !finishing && !downstream.is_opening() && is_over(downstream, &mut stop, cx) {
                finishing = true;
                connection.finish();
                continue;
            }
            // Tunnels end by themselves, within the time that the worker still has.
            let is_ended = (finishing || downstream.is_opening()) && stop.poll_ended(cx).is_ready();
            if is_ended && !downstream.has_tunnels() {
                return Poll::Ready(End::Cut(EndReason::Drained));
            }
            if downstream.version == HttpVersion::Http2 {
                downstream.stalls().poll(cx);
            }
            return match clockwork.poll_expired(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Due::Rest) => {
                    // An idle h1 connection of hyper's ends with this, and gives the stream back.
                    clockwork.rest = Rest::Asked;
                    connection.finish();
                    continue;
                }
                Poll::Ready(Due::Expired(Expiry::Stall)) => Poll::Ready(End::Cut(EndReason::ClientStalled)),
                Poll::Ready(Due::Expired(Expiry::Head)) => {
                    downstream.note_late_head();
                    Poll::Ready(End::Cut(EndReason::ClientTimeout))
                }
                Poll::Ready(Due::Expired(Expiry::KeepAlive)) if clockwork.goaway_until.is_some() => {
                    Poll::Ready(End::Idle)
                }
                Poll::Ready(Due::Expired(Expiry::KeepAlive)) => {
                    // h2 says GOAWAY and gets a moment to send it; idle h1 ends with this.
                    clockwork.goaway_until = Some(clock::now() + GOAWAY_PATIENCE);
                    connection.finish();
                    continue;
                }
            };
        }
    })
    .await;
    let finished = match clockwork.goaway_until {
        Some(_) => Closed::Idle,
        None if finishing => Closed::Drained,
        None => Closed::Finished,
    };
    match end {
        End::Resting => match connection.into_stream() {
            // A copy, since an empty slice would keep hyper's buffer alive.
            Some((stream, early)) => Served::Resting(stream, Bytes::copy_from_slice(&early)),
            None => Served::Over(finished),
        },
        End::Served(Ok(())) | End::Idle => match connection.into_stream() {
            Some((stream, early)) => Served::Open(stream, early, finished),
            None => Served::Over(finished),
        },
        End::Served(Err(error)) => {
            downstream.note_refused(&error);
            let closed =
                if error.is_parse() || error.is_parse_too_large() { Closed::Malformed } else { Closed::Broken };
            let Some((mut stream, early)) = connection.into_stream() else { return Served::Over(closed) };
            if downstream.ends_by_close() && !error.is_parse() {
                stream.abort();
                return Served::Over(closed);
            }
            Served::Open(stream, early, closed)
        }
        End::Cut(reason) => {
            downstream.cut(reason);
            if reason == EndReason::ClientStalled || downstream.ends_by_close() {
                // RST: what is unsent is of no use to anyone, and a FIN would look like an answer's end.
                if let Some((mut stream, _)) = connection.into_stream() {
                    stream.abort();
                }
            }
            Served::Over(match reason {
                EndReason::ClientStalled => Closed::Stalled,
                EndReason::ClientTimeout => Closed::LateHead,
                _ => Closed::Drained,
            })
        }
    }
}

/// Whether a connection takes no further requests.
fn is_over(downstream: &Downstream, stop: &mut Stop, cx: &mut Context<'_>) -> bool {
    match stop.poll_stopping(cx) {
        Poll::Pending => downstream.is_outdated(),
        // Where its listener is taken away, or another process has it, a connection that was accepted before that may still
        // ask once.
        Poll::Ready(phase) => match downstream.tools.last_call(phase) {
            Some(until) => downstream.has_asked() || clock::now() >= until,
            None => true,
        },
    }
}

enum End {
    Served(Result<(), hyper::Error>),
    Resting,
    /// Idle for too long.
    Idle,
    Cut(EndReason),
}

/// Whether HTTP may be taken off an idle connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Possible,
    /// hyper has been told to finish, and says now whether it was idle.
    Asked,
    Refused,
}

/// What is due.
enum Due {
    /// Idle for long enough to rest.
    Rest,
    Expired(Expiry),
}

/// The deadlines of a connection on one runtime timer, which is moved only when it must ring earlier.
struct Deadlines<'a> {
    downstream: &'a Downstream,
    goaway_until: Option<Instant>,
    rest: Rest,
    timer: std::pin::Pin<Box<tokio::time::Sleep>>,
}

impl<'a> Deadlines<'a> {
    fn new(downstream: &'a Downstream) -> Self {
        let rest = if downstream.version == HttpVersion::Http1 { Rest::Possible } else { Rest::Refused };
        Self {
            downstream,
            goaway_until: None,
            rest,
            timer: Box::pin(tokio::time::sleep(downstream.timeouts().keep_alive)),
        }
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        let activity = &self.downstream.activity;
        let ListenerTimeouts { request_head, keep_alive, .. } = self.downstream.timeouts();
        loop {
            let (mut deadline, expiry) = match activity.deadline(request_head, keep_alive) {
                Some(next) => next,
                None => {
                    self.goaway_until = None;
                    return Poll::Pending;
                }
            };
            if let Some(until) = self.goaway_until {
                deadline = until;
            }
            let rests = self.rest == Rest::Possible && expiry == Expiry::KeepAlive && self.goaway_until.is_none();
            if rests {
                deadline = deadline.min(activity.idle_since() + REST);
            }
            if deadline < self.timer.deadline() {
                self.timer.as_mut().reset(deadline);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if clock::now() >= deadline {
                return Poll::Ready(if rests { Due::Rest } else { Due::Expired(expiry) });
            }
            self.timer.as_mut().reset(deadline);
        }
    }
}

/// close_notify and FIN, then what the client still sends is read and thrown away for a while.
async fn close(mut stream: ClientStream, tools: Rc<Tools>) {
    let lingering = tokio::time::timeout(LINGER, transport::linger(&mut stream, LINGER_BYTES));
    until_ended(lingering, tools).await;
}
