//! What is said between two processes: lines of text, some of which come with descriptors.
//!
//! The first line is `portcullis VERSION COUNT`; then the name of each socket, in a line of its own, together with the
//! descriptor. Later lines are words (`ready PID`, `go`, `serving`, `stop`, `failed WHY`, `unused NAME`). Both sides bound
//! what they read, since either may be a program that speaks something else.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// The longest line, in bytes.
const LINE: usize = 4096;
/// Descriptors in one message; the kernel takes 253.
pub(super) const BATCH: usize = 64;
const SPACE: usize = rustix::cmsg_space!(ScmRights(BATCH));
/// Descriptors that are taken over.
pub(super) const MOST: usize = 4096;

/// Sends the beginning of `bytes`, and all of `descriptors` with it; how many bytes went.
pub(super) fn send(channel: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors in one message"));
    }
    Ok(rustix::net::sendmsg(channel, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// What has arrived and has not been read yet.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    is_over: bool,
}

impl Arrived {
    /// Takes one message in.
    ///
    /// # Errors
    /// Those of the socket, and more descriptors than anybody has.
    pub fn receive(&mut self, channel: impl AsFd) -> io::Result<()> {
        let mut buffer = [0; LINE];
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let message = rustix::net::recvmsg(channel, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags)?;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                self.descriptors.extend(descriptors);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) || self.descriptors.len() > MOST {
            return Err(garbage("descriptors were lost on the way"));
        }
        self.bytes.extend_from_slice(&buffer[..message.bytes]);
        self.is_over |= message.bytes == 0;
        Ok(())
    }

    /// The next whole line.
    ///
    /// # Errors
    /// There is none that could be one.
    pub fn line(&mut self) -> io::Result<Option<String>> {
        let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') else {
            return if self.bytes.len() > LINE { Err(garbage("no line has an end")) } else { Ok(None) };
        };
        let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
        line.pop();
        String::from_utf8(line).map(Some).map_err(|_| garbage("a line is no text"))
    }

    /// Nothing will follow.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }
}

pub(super) fn garbage(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn lines_and_descriptors_arrive_in_their_order_whatever_the_pieces() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let files: Vec<_> = (0..BATCH).map(|_| File::open("/dev/null").expect("it is there")).collect();
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        assert_eq!(send(&one, b"a\nb", &borrowed).expect("room"), 3);
        assert_eq!(send(&one, b"c\n\n", &borrowed[..1]).expect("room"), 3);
        drop(one);
        let mut arrived = Arrived::default();
        while !arrived.is_over() {
            arrived.receive(&other).expect("a message");
        }
        let lines: Vec<_> = std::iter::from_fn(|| arrived.line().expect("text")).collect();
        assert_eq!(lines, ["a", "bc", ""]);
        let descriptors = arrived.take_descriptors();
        assert_eq!(descriptors.len(), BATCH + 1);
        for descriptor in descriptors {
            assert!(rustix::io::fcntl_getfd(descriptor).expect("open").contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn what_is_no_line_is_an_error_and_not_a_growing_buffer() {
        for bytes in [vec![b'x'; 3 * LINE], b"\xff\xfe\n".to_vec()] {
            let (mut one, other) = UnixStream::pair().expect("a pair");
            one.write_all(&bytes).expect("room");
            drop(one);
            let mut arrived = Arrived::default();
            let error = loop {
                arrived.receive(&other).expect("a message");
                match arrived.line() {
                    Ok(line) => assert!(line.is_none() && !arrived.is_over(), "{line:?}"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
