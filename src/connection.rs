//! The life of a connection: socket → TLS handshake → HTTP → closed, or handed over to a tunnel.
//!
//! Owns every deadline up to a complete request head, and the keep-alive and stall deadlines between and during
//! requests; what happens within a request is `exchange`'s. Deadlines that run out here close without an answer
//! (RFC 9112 9.5). What hyper refuses by itself (a head that is not HTTP) gets its one line in the access log here.
//! Dropping the future closes the socket.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clock::{self, Instant};
use crate::config::model::{ListenerTimeouts, Protocols};
use crate::exchange::{self, Downstream, Tools};
use crate::http::{Activity, Expiry, ServerConnection, Watched, serve_http1, serve_http2};
use crate::listener::Arrival;
use crate::snapshot::ListenerPlan;
use crate::telemetry::end::EndReason;
use crate::tls;
use crate::transport::{Rewound, Socket, Transport};
use crate::types::HttpVersion;

/// Until a route says otherwise, a client may stop reading for this long.
const CLIENT_STALL: Duration = Duration::from_secs(30);
/// After our last byte: how long, and for how many bytes, what the client still sends is read and thrown away, so
/// that a reset cannot overtake the answer (RFC 9112 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;
/// How long an h2 connection may take to end after GOAWAY when it was idle.
const GOAWAY_PATIENCE: Duration = Duration::from_secs(5);

/// Serves one connection to its end.
pub async fn run(arrival: Arrival, tools: Rc<Tools>) {
    let open = tools.lifecycle.guard();
    let generation = tools.generation();
    let listener = generation.snapshot.listeners[arrival.listener].clone();
    drop(generation);
    let Arrival { socket, peer, local, permit, mut load, .. } = arrival;
    let Ok(socket) = socket.into_socket() else { return };

    let mut stop = tools.phase.stop();
    let greeted = {
        let mut greeting = pin!(greet(socket, &listener));
        poll_fn(|cx| match greeting.as_mut().poll(cx) {
            Poll::Ready(greeted) => Poll::Ready(greeted),
            Poll::Pending => stop.poll_ended(cx).map(|()| None),
        })
        .await
    };
    load.handshake_done();
    let Some(Greeted { stream, version, tls }) = greeted else { return };

    let activity = Rc::new(Activity::new(version, CLIENT_STALL));
    let downstream = Rc::new(Downstream::new(
        tools,
        listener.clone(),
        (peer, local.map(|at| at.port())),
        tls,
        version,
        activity.clone(),
    ));
    let stream = Watched::new(stream, activity);
    let serve = {
        let downstream = downstream.clone();
        move |inbound| exchange::handle(downstream.clone(), inbound)
    };
    let leftover = match version {
        HttpVersion::Http1 => drive(serve_http1(stream, &listener.limits, serve), &downstream).await,
        HttpVersion::Http2 => {
            drive(serve_http2(stream, &listener.limits, listener.websocket_over_h2, serve), &downstream).await
        }
    };
    let Some((stream, early)) = leftover else {
        // A tunnel that was agreed on and will not be: it holds this connection, which holds it.
        drop(downstream.take_handover());
        return;
    };
    match downstream.take_handover() {
        Some(handover) => handover(stream, early, Box::new((permit, load, open))),
        None => close(stream, &downstream).await,
    }
}

/// A connection that is ready for HTTP.
struct Greeted {
    stream: Box<dyn Transport>,
    version: HttpVersion,
    tls: Option<tls::TlsInfo>,
}

async fn greet(socket: Socket, listener: &ListenerPlan) -> Option<Greeted> {
    let Some(policies) = &listener.tls else {
        let (stream, version) = choose_clear(socket, listener.protocols, listener.timeouts.keep_alive).await?;
        return Some(Greeted { stream, version, tls: None });
    };
    let deadline = clock::now() + listener.timeouts.tls_handshake;
    match tls::accept(policies, socket, deadline).await {
        Ok(accepted) => {
            let version = accepted.info.alpn;
            Some(Greeted { stream: Box::new(accepted.stream), version, tls: Some(accepted.info) })
        }
        Err(error) => {
            tracing::debug!(listener = listener.name.as_str(), %error, "TLS handshake failed");
            None
        }
    }
}

/// On a clear listener: HTTP/1.1, or HTTP/2 with prior knowledge (RFC 9113 3.3) where it is asked for.
async fn choose_clear(
    mut socket: Socket,
    protocols: Protocols,
    patience: Duration,
) -> Option<(Box<dyn Transport>, HttpVersion)> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    if !protocols.http2 {
        return Some((Box::new(socket), HttpVersion::Http1));
    }
    let mut read = Vec::with_capacity(PREFACE.len());
    let looking = async {
        while read.len() < PREFACE.len() && PREFACE.starts_with(&read) {
            let mut rest = [0_u8; PREFACE.len()];
            let wanted = PREFACE.len() - read.len();
            match socket.read(&mut rest[..wanted]).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => read.extend_from_slice(&rest[..count]),
            }
        }
        Some(())
    };
    tokio::time::timeout(patience, looking).await.ok()??;
    let version = if read == PREFACE { HttpVersion::Http2 } else { HttpVersion::Http1 };
    if version == HttpVersion::Http1 && !protocols.http1 {
        return None;
    }
    Some((Box::new(Rewound::new(Bytes::from(read), socket)), version))
}

/// Runs HTTP on a connection until no further request will come, or a deadline or the end of the process cuts it.
/// What it returns is still open.
async fn drive<C: ServerConnection>(mut connection: C, downstream: &Downstream) -> Option<(Box<dyn Transport>, Bytes)> {
    let mut clockwork = Deadlines::new(downstream);
    let mut stop = downstream.tools.phase.stop();
    let mut finishing = false;
    let end = poll_fn(|cx| {
        loop {
            if let Poll::Ready(served) = connection.poll_served(cx) {
                return Poll::Ready(End::Served(served));
            }
            // Not while a handshake waits for its 101: hyper would add `close` to it.
            if !finishing && !downstream.is_opening() && stop.poll_stopping(cx).is_ready() {
                finishing = true;
                connection.finish();
                continue;
            }
            // Tunnels end by themselves, within the time that the worker still has.
            let is_ended = (finishing || downstream.is_opening()) && stop.poll_ended(cx).is_ready();
            if is_ended && !downstream.has_tunnels() {
                return Poll::Ready(End::Cut(EndReason::Drained));
            }
            downstream.stalls.poll(cx);
            return match clockwork.poll_expired(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Expiry::Stall) => Poll::Ready(End::Cut(EndReason::ClientStalled)),
                Poll::Ready(Expiry::Head) => Poll::Ready(End::Cut(EndReason::ClientTimeout)),
                Poll::Ready(Expiry::KeepAlive) if clockwork.goaway_until.is_some() => Poll::Ready(End::Idle),
                Poll::Ready(Expiry::KeepAlive) => {
                    // h2 says GOAWAY and gets a moment to send it; idle h1 ends with this.
                    clockwork.goaway_until = Some(clock::now() + GOAWAY_PATIENCE);
                    connection.finish();
                    continue;
                }
            };
        }
    })
    .await;
    match end {
        End::Served(Ok(())) | End::Idle => connection.into_stream(),
        End::Served(Err(error)) => {
            downstream.note_refused(&error);
            let (mut stream, early) = connection.into_stream()?;
            if downstream.ends_by_close() && !error.is_parse() {
                stream.abort();
                return None;
            }
            Some((stream, early))
        }
        End::Cut(reason) => {
            downstream.cut(reason);
            if reason == EndReason::ClientStalled || downstream.ends_by_close() {
                // RST: what is unsent is of no use to anyone, and a FIN would look like an answer's end.
                if let Some((mut stream, _)) = connection.into_stream() {
                    stream.abort();
                }
            }
            None
        }
    }
}

enum End {
    Served(Result<(), hyper::Error>),
    /// Idle for too long.
    Idle,
    Cut(EndReason),
}

/// The deadlines of a connection on one runtime timer, which is moved only when it must ring earlier.
struct Deadlines<'a> {
    activity: &'a Activity,
    timeouts: &'a ListenerTimeouts,
    goaway_until: Option<Instant>,
    timer: std::pin::Pin<Box<tokio::time::Sleep>>,
}

impl<'a> Deadlines<'a> {
    fn new(downstream: &'a Downstream) -> Self {
        let timeouts = &downstream.listener.timeouts;
        Self {
            activity: &downstream.activity,
            timeouts,
            goaway_until: None,
            timer: Box::pin(tokio::time::sleep(timeouts.keep_alive)),
        }
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Expiry> {
        loop {
            let (mut deadline, expiry) =
                match self.activity.deadline(self.timeouts.request_head, self.timeouts.keep_alive) {
                    Some(next) => next,
                    None => {
                        self.goaway_until = None;
                        return Poll::Pending;
                    }
                };
            if let Some(until) = self.goaway_until {
                deadline = until;
            }
            if deadline < self.timer.deadline() {
                self.timer.as_mut().reset(deadline);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if clock::now() >= deadline {
                return Poll::Ready(expiry);
            }
            self.timer.as_mut().reset(deadline);
        }
    }
}

/// close_notify and FIN, then what the client still sends is read and thrown away for a while.
async fn close(mut stream: Box<dyn Transport>, downstream: &Downstream) {
    let mut stop = downstream.tools.phase.stop();
    let mut lingering = pin!(tokio::time::timeout(LINGER, async move {
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut left = LINGER_BYTES;
        let mut sink = [0_u8; 2048];
        while let Ok(count) = stream.read(&mut sink).await {
            match left.checked_sub(count) {
                Some(rest) if count > 0 => left = rest,
                _ => return,
            }
        }
    }));
    poll_fn(|cx| match lingering.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => stop.poll_ended(cx),
    })
    .await;
}
