//! Silence: a connection between its greeting and its first request, and between one request and the next, without
//! HTTP on it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use crate::clock::Instant;
use crate::exchange::{Downstream, LiveListener, Tools};
use crate::lifecycle::Phase;
use crate::tls::ClientStream;

/// A head with what came right behind it, as a rule.
const FIRST_READ: usize = 8 * 1024;

/// Waits for the first bytes of a connection. Where its listener alone is taken away, there is a moment left to ask.
pub async fn wait_first(
    stream: &mut ClientStream,
    listener: &LiveListener,
    tools: &Rc<Tools>,
    since: Instant,
) -> Option<Bytes> {
    let mut stop = listener.stop();
    wait(stream, tools, since + listener.timeouts().keep_alive, |cx| match stop.poll_stopping(cx) {
        Poll::Pending => Word::Wait,
        Poll::Ready(Phase::Draining { deadline }) if !tools.phase.phase().is_stopping() => Word::Hurry(deadline),
        Poll::Ready(_) => Word::Close,
    })
    .await
}

/// Waits for the next request of a connection that rests.
pub async fn wait_again(stream: &mut ClientStream, downstream: &Downstream) -> Option<Bytes> {
    let mut stop = downstream.listener.stop();
    wait(stream, &downstream.tools, downstream.keep_alive_deadline(), |cx| {
        let is_over = stop.poll_stopping(cx).is_ready() || downstream.is_outdated();
        if is_over { Word::Close } else { Word::Wait }
    })
    .await
}

/// What a connection that waits is told.
enum Word {
    Wait,
    /// Until then, if that is sooner.
    Hurry(Instant),
    Close,
}

/// Waits for bytes of the client's. `None`: it has left, its time is up, or it is told to close. Holds nothing but a
/// deadline and what `ask` needs to be woken.
async fn wait(
    stream: &mut ClientStream,
    tools: &Rc<Tools>,
    mut deadline: Instant,
    mut ask: impl FnMut(&mut Context<'_>) -> Word,
) -> Option<Bytes> {
    let mut timer = tools.wheel.sleep_until(deadline);
    poll_fn(|cx| {
        let mut lease = tools.scratch.borrow();
        let mut buffer = ReadBuf::new(&mut lease[..FIRST_READ]);
        match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                return Poll::Ready(Some(Bytes::copy_from_slice(buffer.filled())));
            }
            Poll::Ready(_) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        match ask(cx) {
            Word::Wait => {}
            Word::Hurry(until) if until < deadline => {
                deadline = until;
                timer = tools.wheel.sleep_until(until);
            }
            Word::Hurry(_) => {}
            Word::Close => return Poll::Ready(None),
        }
        Pin::new(&mut timer).poll(cx).map(|()| None)
    })
    .await
}
