//! What the kernel moves from one plain socket to another, through a pipe, so that it is never copied (splice(2)).
//!
//! The payload of a long frame up to the next header, or bytes that nobody looks at. A pipe is taken for one turn and
//! given back, unless the sink is full: then it is what is left over, and holds the source back as any leftover does.
//! Where it cannot be done, nothing is lost: no byte has moved yet, or it is read out of the pipe and written.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::transport::{Pipe, Scratch, Socket, is_no_way};

/// From how many bytes on a pipe is cheaper than a copy: as much as came at once, and as much as is still due. Measured
/// over loopback: equal at 4 KiB, a tenth less at 16 KiB, a third less at 1 MiB, half at 16 MiB.
pub(super) const LARGE: usize = 16 * 1024;

/// Read but not yet taken by the sink.
#[derive(Debug)]
pub(super) enum Leftover {
    Bytes(Bytes),
    Piped(Pipe),
}

/// What became of an attempt to read into a pipe.
pub(super) enum Filled {
    Pipe(Pipe),
    /// The source has nothing now, and will wake.
    Pending,
    /// Read and write instead: it is not worth it, there is no pipe, or the source is at its end, which a read finds.
    Copy,
    /// The source broke, which its socket says only once.
    Broken(io::Error),
}

/// Takes what `source` has of the `due` bytes.
pub(super) fn fill(cx: &mut Context<'_>, source: &Socket, due: u64, scratch: &Scratch) -> Filled {
    let due = usize::try_from(due).unwrap_or(usize::MAX);
    if due < LARGE {
        return Filled::Copy;
    }
    let Some(mut pipe) = scratch.pipes().take() else { return Filled::Copy };
    match pipe.poll_fill(cx, source, due) {
        Poll::Pending => Filled::Pending,
        Poll::Ready(Ok(0)) => Filled::Copy,
        Poll::Ready(Ok(_)) => Filled::Pipe(pipe),
        Poll::Ready(Err(error)) if is_no_way(&error) => {
            scratch.pipes().give_up();
            Filled::Copy
        }
        Poll::Ready(Err(error)) => Filled::Broken(error),
    }
}

/// Writes what is in a pipe, and counts it; returns what the sink does not take now.
///
/// # Errors
/// The sink's.
pub(super) fn drain(
    cx: &mut Context<'_>,
    sink: &Socket,
    mut pipe: Pipe,
    scratch: &Scratch,
    carried: &mut u64,
) -> io::Result<Option<Leftover>> {
    while pipe.held() > 0 {
        match pipe.poll_drain(cx, sink) {
            Poll::Pending => return Ok(Some(Leftover::Piped(pipe))),
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(taken)) => *carried += taken as u64,
            Poll::Ready(Err(error)) if is_no_way(&error) => {
                scratch.pipes().give_up();
                return Ok(Some(Leftover::Bytes(pipe.recover()?.into())));
            }
            Poll::Ready(Err(error)) => return Err(error),
        }
    }
    Ok(None)
}
