//! One connection that sends a fixed request whenever it is told to, and counts what comes back.
//!
//! Writing and reading go on side by side, so that a message larger than all socket buffers cannot lock both ends.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::dial::Stream;
use crate::measure::Stats;
use crate::ws::{CONTROL, Frames, Seen};

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

/// What comes back.
pub enum Answers {
    Messages(Frames),
    Http(Http),
}

impl Answers {
    /// How many answers end in these bytes.
    fn feed(&mut self, bytes: &mut [u8]) -> io::Result<u64> {
        match self {
            Self::Messages(frames) => {
                let mut ended = 0;
                frames.feed(bytes, |seen| {
                    if let Seen::End(opcode) = seen {
                        ended += u64::from(opcode < CONTROL);
                    }
                });
                Ok(ended)
            }
            Self::Http(http) => http.feed(bytes),
        }
    }
}

/// Counts HTTP/1.1 answers that say their length.
#[derive(Default)]
pub struct Http {
    head: Vec<u8>,
    body: usize,
}

impl Http {
    fn feed(&mut self, mut bytes: &[u8]) -> io::Result<u64> {
        let mut ended = 0;
        while !bytes.is_empty() {
            if self.body == 0 {
                let seen = self.head.len();
                self.head.extend_from_slice(bytes);
                let from = seen.saturating_sub(3);
                let Some(at) = self.head[from..].windows(4).position(|four| four == b"\r\n\r\n") else { break };
                let end = from + at + 4;
                self.body = length(&self.head[..end])?;
                bytes = &bytes[end - seen..];
                self.head.clear();
            } else {
                let take = self.body.min(bytes.len());
                self.body -= take;
                bytes = &bytes[take..];
                ended += u64::from(self.body == 0);
            }
        }
        Ok(ended)
    }
}

fn length(head: &[u8]) -> io::Result<usize> {
    let text = String::from_utf8_lossy(head);
    if !text.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(text.lines().next().unwrap_or_default().to_owned()));
    }
    text.lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        })
        .ok_or_else(|| io::Error::other("an answer without a length"))
}

/// The handle by which a pacer starts units on a connection.
#[derive(Default)]
pub struct Lane {
    due: RefCell<VecDeque<Duration>>,
    waker: RefCell<Option<Waker>>,
    pub dead: Cell<bool>,
}

impl Lane {
    pub fn begin(&self, intended: Duration) {
        self.due.borrow_mut().push_back(intended);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

pub struct Runner {
    pub stream: Stream,
    pub lane: Rc<Lane>,
    pub stats: Rc<Stats>,
    pub request: Rc<[u8]>,
    pub answers: Answers,
    /// Whether an answer starts the next unit.
    pub closed_loop: bool,
}

impl Runner {
    /// Goes on until the connection ends, which is a failure.
    pub async fn run(mut self) {
        let mut state = State::default();
        let problem = std::future::poll_fn(|cx| self.poll(cx, &mut state)).await;
        self.lane.dead.set(true);
        self.stats.failed(format!("a connection ended: {problem}"));
    }

    fn poll(&mut self, cx: &mut Context<'_>, state: &mut State) -> Poll<io::Error> {
        match self.advance(cx, state) {
            Ok(()) => {
                *self.lane.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
            Err(problem) => Poll::Ready(problem),
        }
    }

    fn advance(&mut self, cx: &mut Context<'_>, state: &mut State) -> io::Result<()> {
        loop {
            self.write(cx, state)?;
            let Poll::Ready(ended) = self.read(cx)? else { return Ok(()) };
            for _ in 0..ended {
                let intended = state.waiting.pop_front().ok_or_else(|| io::Error::other("an answer to nothing"))?;
                self.stats.finished(intended);
                if self.closed_loop {
                    self.lane.due.borrow_mut().push_back(self.stats.now());
                }
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, state: &mut State) -> io::Result<()> {
        let one_at_a_time = matches!(self.answers, Answers::Http(_));
        loop {
            if state.written == self.request.len() {
                if one_at_a_time && !state.waiting.is_empty() {
                    break;
                }
                let Some(intended) = self.lane.due.borrow_mut().pop_front() else { break };
                state.waiting.push_back(intended);
                state.written = 0;
            }
            if !state.begun {
                // The very first unit.
                state.begun = true;
                state.written = self.request.len();
                continue;
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.request[state.written..])? {
                Poll::Ready(written) => state.written += written,
                Poll::Pending => break,
            }
        }
        // What TLS still holds goes out here; Pending registers for it.
        let _pending = Pin::new(&mut self.stream).poll_flush(cx)?;
        Ok(())
    }

    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<u64>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer)? {
                Poll::Pending => Ok(Poll::Pending),
                Poll::Ready(()) if buffer.filled().is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(()) => self.answers.feed(buffer.filled_mut()).map(Poll::Ready),
            }
        })
    }
}

#[derive(Default)]
struct State {
    begun: bool,
    written: usize,
    /// Intended times of the units that have been sent and not answered.
    waiting: VecDeque<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_however_they_were_cut() {
        let one = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nserver: x\r\n\r\nhello";
        let wire: Vec<u8> = one.iter().copied().cycle().take(one.len() * 10).collect();
        for cut in [1, 2, 3, 7, one.len(), wire.len()] {
            let mut http = Http::default();
            let ended: u64 = wire.chunks(cut).map(|piece| http.feed(piece).expect("it is a 200")).sum();
            assert_eq!(ended, 10, "in pieces of {cut}");
        }
    }

    #[test]
    fn another_status_is_a_failure() {
        assert!(Http::default().feed(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").is_err());
    }
}
