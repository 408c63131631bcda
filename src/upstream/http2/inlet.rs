//! What comes on one stream: read by whoever uses the stream, and looked after while he does not read.
//!
//! The window bounds the bytes of a stream that nobody reads, not what it costs to keep them: the library holds every
//! DATA frame by itself, and with it the buffer that it came in; very many small ones make it give up the whole
//! connection, with all other streams. So whoever drives the connection takes out what is left by a reader who has not
//! come to the end of it for a whole lap ([`Inlet::look_after`]), and keeps bytes instead of frames. Windows open when the reader takes bytes, not
//! before: back-pressure is the same either way.
//! RFC 9113 6.9 (flow control), 8.1 (how an answer ends).

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use http_body::Frame;
use tokio::io::ReadBuf;

/// A DATA frame of that size has others behind it, which are read with it: the reader's sink gets one write for several.
const MANY: usize = 4 * 1024;

/// The receiving half of a stream. Dropped together with the sending half, before both have ended, it resets the stream.
pub(super) struct Inlet {
    state: RefCell<State>,
    /// The lap in which the reader last came to the end of what there was.
    emptied_in: Cell<u64>,
}

struct State {
    stream: RecvStream,
    /// Of a frame that the reader has taken in part.
    rest: Bytes,
    /// Taken out of the library's hands; behind `rest`, before everything that is still in the stream.
    kept: BytesMut,
    /// There is nothing more to look after.
    is_over: bool,
    reader: Option<Waker>,
}

impl Inlet {
    pub(super) fn new(stream: RecvStream, lap: u64) -> Self {
        let state = State { stream, rest: Bytes::new(), kept: BytesMut::new(), is_over: false, reader: None };
        Self { state: RefCell::new(state), emptied_in: Cell::new(lap) }
    }

    /// The answer has no body, or the body has been read.
    pub(super) fn is_end_stream(&self) -> bool {
        let state = self.state.borrow();
        state.rest.is_empty() && state.kept.is_empty() && state.stream.is_end_stream()
    }

    /// The next piece of a body, or its trailers. A stream that was reset, or whose connection was lost, is an error.
    pub(super) fn poll_frame(&self, cx: &mut Context<'_>, lap: u64) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let mut state = self.state.borrow_mut();
        let polled = state.poll_chunk(cx);
        if polled.is_pending() {
            self.emptied_in.set(lap);
        }
        match ready!(polled) {
            Some(chunk) => {
                let mut chunk = chunk?;
                state.release(chunk.len())?;
                // What is small would keep the buffer alive that it came in.
                if chunk.len() < MANY / 4 {
                    chunk = Bytes::copy_from_slice(&chunk);
                }
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            None => {
                let trailers: Option<HeaderMap> = ready!(state.stream.poll_trailers(cx))?;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
        }
    }

    /// Reads as from a socket: what is there, up to the room in `buf`; nothing at the end.
    ///
    /// # Errors
    /// The stream was reset, or its connection was lost.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, lap: u64, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            let polled = state.poll_chunk(cx);
            if polled.is_pending() {
                self.emptied_in.set(lap);
            }
            let mut chunk = match polled {
                Poll::Ready(Some(Ok(chunk))) => chunk,
                // What has been read goes first; an error or an end comes again.
                _ if buf.filled().len() > before => break,
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            };
            let count = chunk.len().min(buf.remaining());
            buf.put_slice(&chunk[..count]);
            chunk.advance(count);
            state.rest = chunk;
            if state.release(count).is_err() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if count < MANY {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes out what has come, if the reader has not come to the end of it in the lap before this one.
    pub(super) fn look_after(&self, lap: u64) {
        if self.emptied_in.get().saturating_add(1) >= lap {
            return;
        }
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let noop = Waker::noop();
        // The reader stays the one who is woken.
        let mut cx = Context::from_waker(state.reader.as_ref().unwrap_or(noop));
        while !state.is_over {
            match state.stream.poll_data(&mut cx) {
                Poll::Ready(Some(Ok(chunk))) => state.kept.extend_from_slice(&chunk),
                Poll::Ready(_) => state.is_over = true,
                Poll::Pending => break,
            }
        }
    }
}

impl State {
    /// The next bytes; whoever takes them has to [`release`](Self::release) what he uses, and put the rest back.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        loop {
            if !self.rest.is_empty() {
                return Poll::Ready(Some(Ok(std::mem::take(&mut self.rest))));
            }
            if !self.kept.is_empty() {
                return Poll::Ready(Some(Ok(std::mem::take(&mut self.kept).freeze())));
            }
            if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
                self.reader = Some(cx.waker().clone());
            }
            match ready!(self.stream.poll_data(cx)) {
                // Frames without data are of no use to anybody.
                Some(Ok(chunk)) if chunk.is_empty() => {}
                chunk => return Poll::Ready(chunk),
            }
        }
    }

    /// Opens the windows again, by what the reader has taken.
    fn release(&mut self, count: usize) -> Result<(), h2::Error> {
        self.stream.flow_control().release_capacity(count)
    }
}
