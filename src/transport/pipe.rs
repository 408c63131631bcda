//! The pipes of one worker, through which bytes go from one socket to another without being copied (splice(2)).
//!
//! A pipe is borrowed for one turn and given back empty, like a buffer; only bytes that a sink would not take stay in
//! it, and it with them. Their number is bounded: whoever gets none copies. Where the system will not have it (no
//! descriptors left, its limits for pipes, a filter on system calls) [`Pipes::give_up`] ends it for this worker.
//! Dropping a pipe that still holds bytes closes it, so that nobody else ever sees them.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::pipe::{PipeFlags, SpliceFlags};

use super::Socket;

/// Bytes that are asked for: what a larger one would hold no socket delivers at once.
const SIZE: usize = 256 * 1024;

/// With less than that, copying is cheaper. The system gives less to users who have many pipes (pipe-user-pages-soft).
const LEAST: usize = 64 * 1024;

/// Empty ones that are kept for the next borrower.
const KEPT: usize = 4;

/// Pipes of a worker at any time. Only tunnels whose sink is full keep one.
const MOST: usize = 16;

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// The pool.
#[derive(Debug, Default)]
pub struct Pipes {
    free: RefCell<Vec<Ends>>,
    /// All that are open.
    open: Cell<usize>,
    given_up: Cell<bool>,
}

#[derive(Debug)]
struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipes {
    /// An empty pipe, if there is one to be had.
    pub fn take(self: &Rc<Self>) -> Option<Pipe> {
        if self.given_up.get() {
            return None;
        }
        let ends = match self.free.borrow_mut().pop() {
            Some(ends) => ends,
            None if self.open.get() >= MOST => return None,
            None => {
                let Ok(ends) = Ends::open() else {
                    self.give_up();
                    return None;
                };
                self.open.set(self.open.get() + 1);
                ends
            }
        };
        Some(Pipe { ends: Some(ends), held: 0, pipes: self.clone() })
    }

    /// It does not work here: everybody copies from now on.
    pub fn give_up(&self) {
        self.given_up.set(true);
        let idle = self.free.take();
        self.open.set(self.open.get() - idle.len());
    }

    /// Pipes that are open, lent or not.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Pipes that lie ready.
    pub fn idle(&self) -> usize {
        self.free.borrow().len()
    }
}

impl Ends {
    fn open() -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // Refused to users who are over their limit; what the pipe has then may still do.
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, SIZE);
        if rustix::pipe::fcntl_getpipe_size(&writer)? < LEAST {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Self { reader, writer })
    }
}

/// A borrowed pipe, and how many bytes are in it.
#[derive(Debug)]
pub struct Pipe {
    /// Present until the drop.
    ends: Option<Ends>,
    held: usize,
    pipes: Rc<Pipes>,
}

impl Pipe {
    /// Bytes that wait in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes at most `most` bytes from `source`; 0 is its end. The pipe must be empty, since a full one could not be
    /// told from a source that has nothing now.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, source: &Socket, most: usize) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.held, 0, "filled only when it is empty");
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        let answer = source.poll_reading(cx, |socket| {
            Ok(rustix::pipe::splice(socket, None, &ends.writer, None, most.min(SIZE), FLAGS)?)
        });
        if let Poll::Ready(Ok(count)) = answer {
            self.held = count;
        }
        answer
    }

    /// Gives `sink` what it takes of the bytes held.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, sink: &Socket) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        let answer = sink
            .poll_writing(cx, |socket| Ok(rustix::pipe::splice(&ends.reader, None, socket, None, self.held, FLAGS)?));
        if let Poll::Ready(Ok(count)) = answer {
            self.held -= count.min(self.held);
        }
        answer
    }

    /// The bytes held, read out by copying.
    pub fn recover(mut self) -> io::Result<Vec<u8>> {
        let Some(ends) = &self.ends else { return Ok(Vec::new()) };
        let mut bytes = vec![0; self.held];
        let mut read = 0;
        while read < bytes.len() {
            match rustix::io::read(&ends.reader, &mut bytes[read..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => read += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.held = 0;
        Ok(bytes)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut free = self.pipes.free.borrow_mut();
        if self.held == 0 && free.len() < KEPT && !self.pipes.given_up.get() {
            free.extend(self.ends.take());
        } else {
            self.pipes.open.set(self.pipes.open.get() - 1);
        }
    }
}

/// Whether an error says that this cannot be done here at all, as against something about a socket. No byte has moved.
pub fn is_no_way(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let no_way = [Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::OPNOTSUPP, Errno::NOMEM, Errno::BADF];
    Errno::from_io_error(error).is_some_and(|errno| no_way.contains(&errno))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    fn pair() -> (Socket, UnixStream) {
        let (near, far) = UnixStream::pair().expect("a pair");
        (Socket::Unix(near), far)
    }

    #[tokio::test]
    async fn a_pipe_carries_what_came_and_comes_back_only_when_it_is_empty() {
        let pipes = Rc::new(Pipes::default());
        let ((source, mut from), (sink, mut to)) = (pair(), pair());
        from.write_all(b"some bytes").await.expect("taken");
        let mut pipe = pipes.take().expect("a pipe");
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &source, 4)).await.expect("there"), 4);
        assert_eq!(poll_fn(|cx| pipe.poll_drain(cx, &sink)).await.expect("room"), 4);
        let mut got = [0; 4];
        to.read_exact(&mut got).await.expect("they come");
        assert_eq!((&got, pipe.held()), (b"some", 0));
        drop(pipe);
        assert_eq!((pipes.open(), pipes.idle()), (1, 1));
        let mut pipe = pipes.take().expect("the same one");
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &source, 100)).await.expect("there"), 6);
        drop(pipe);
        assert_eq!((pipes.open(), pipes.idle()), (0, 0), "bytes of one tunnel never get into another");
    }

    #[tokio::test]
    async fn what_cannot_be_spliced_on_is_read_out() {
        let pipes = Rc::new(Pipes::default());
        let (source, mut from) = pair();
        from.write_all(b"some bytes").await.expect("taken");
        let mut pipe = pipes.take().expect("a pipe");
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &source, 100)).await.expect("there"), 10);
        assert_eq!(pipe.recover().expect("readable"), b"some bytes");
        assert_eq!((pipes.open(), pipes.idle()), (1, 1));
    }

    #[tokio::test]
    async fn the_number_of_pipes_is_bounded_and_after_giving_up_there_are_none() {
        let pipes = Rc::new(Pipes::default());
        let held: Vec<Pipe> = std::iter::from_fn(|| pipes.take()).collect();
        assert_eq!((held.len(), pipes.open()), (MOST, MOST));
        drop(held);
        assert_eq!((pipes.open(), pipes.idle()), (KEPT, KEPT));
        let lent = pipes.take();
        pipes.give_up();
        assert!(pipes.take().is_none());
        drop(lent);
        assert_eq!((pipes.open(), pipes.idle()), (0, 0));
    }

    #[test]
    fn what_the_system_will_not_have_is_told_from_what_a_socket_says() {
        use rustix::io::Errno;
        assert!([Errno::INVAL, Errno::NOSYS, Errno::PERM].into_iter().all(|errno| is_no_way(&errno.into())));
        assert!([Errno::PIPE, Errno::CONNRESET, Errno::AGAIN].into_iter().all(|errno| !is_no_way(&errno.into())));
    }
}
