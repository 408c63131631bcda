//! Silence: a connection between its greeting and its first request, and between one request and the next, without
//! HTTP on it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use crate::clock::{self, Instant, Sleep};
use crate::exchange::{Downstream, LiveListener, Tools};
use crate::telemetry::metrics::Closed;
use crate::tls::ClientStream;

/// A head with what came right behind it, as a rule.
const FIRST_READ: usize = 8 * 1024;

/// Waits for the first bytes of a connection. Where its listener alone is taken away, there is a moment left to ask.
///
/// # Errors
/// What has become of it instead.
pub fn wait_first<'a>(
    stream: &'a mut ClientStream,
    listener: &LiveListener,
    tools: &'a Tools,
    since: Instant,
) -> impl Future<Output = Result<Bytes, Closed>> + use<'a> {
    let mut stop = listener.stop();
    Waiting::new(stream, tools, since + listener.timeouts().keep_alive, move |cx| match stop.poll_stopping(cx) {
        Poll::Pending => Word::Wait,
        Poll::Ready(phase) => match tools.last_call(phase) {
            Some(until) if clock::now() < until => Word::Hurry(until),
            _ => Word::Close,
        },
    })
}

/// Waits for the next request of a connection that rests.
///
/// # Errors
/// What has become of it instead.
pub fn wait_again<'a>(
    stream: &'a mut ClientStream,
    downstream: &'a Downstream,
) -> impl Future<Output = Result<Bytes, Closed>> + use<'a> {
    let mut stop = downstream.listener.stop();
    Waiting::new(stream, &downstream.tools, downstream.keep_alive_deadline(), move |cx| {
        let is_over = stop.poll_stopping(cx).is_ready() || downstream.is_outdated();
        if is_over { Word::Close } else { Word::Wait }
    })
}

/// What a connection that waits is told.
enum Word {
    Wait,
    /// Until then, if that is sooner.
    Hurry(Instant),
    Close,
}

/// Waits for bytes of the client's. An error: it has left, its time is up, or it is told to close. Holds nothing but a
/// deadline and what `ask` needs to be woken; written by hand, since an `async` block would hold all of it twice.
struct Waiting<'a, A> {
    stream: &'a mut ClientStream,
    tools: &'a Tools,
    timer: Sleep,
    ask: A,
}

impl<'a, A: FnMut(&mut Context<'_>) -> Word> Waiting<'a, A> {
    fn new(stream: &'a mut ClientStream, tools: &'a Tools, deadline: Instant, ask: A) -> Self {
        Self { stream, tools, timer: tools.wheel.sleep_until(deadline), ask }
    }
}

impl<A: FnMut(&mut Context<'_>) -> Word + Unpin> Future for Waiting<'_, A> {
    type Output = Result<Bytes, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut lease = this.tools.scratch.borrow();
        let mut buffer = ReadBuf::new(&mut lease[..FIRST_READ]);
        match Pin::new(&mut *this.stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                return Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())));
            }
            Poll::Ready(Ok(())) => return Poll::Ready(Err(Closed::Finished)),
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Closed::Broken)),
            Poll::Pending => {}
        }
        match (this.ask)(cx) {
            Word::Wait => {}
            Word::Hurry(until) if until < this.timer.deadline() => this.timer.reset(until),
            Word::Hurry(_) => {}
            Word::Close => return Poll::Ready(Err(Closed::Drained)),
        }
        Pin::new(&mut this.timer).poll(cx).map(|()| Err(Closed::Idle))
    }
}
