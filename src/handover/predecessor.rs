//! The process whose place this one takes, as seen from here. Blocks: nothing else goes on before it is done.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::VERSION;
use super::channel::{self, Arrived, garbage};

/// How long it may take to say what comes next, which it does at once.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Predecessor {
    channel: UnixStream,
    arrived: Arrived,
}

impl Predecessor {
    /// Takes its sockets over, each with its name. Standard input is empty from then on.
    pub fn meet(version: &str) -> io::Result<(Self, Vec<(String, OwnedFd)>)> {
        let channel = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
        // Fails where it is no socket.
        rustix::net::sockopt::socket_type(&channel)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        let channel = UnixStream::from(channel);
        channel.set_nonblocking(false)?;
        channel.set_read_timeout(Some(PATIENCE))?;
        channel.set_write_timeout(Some(PATIENCE))?;
        let mut predecessor = Self { channel, arrived: Arrived::default() };
        match predecessor.sockets(version) {
            Ok(sockets) => Ok((predecessor, sockets)),
            Err(error) => {
                predecessor.refuse(&error.to_string());
                Err(error)
            }
        }
    }

    fn sockets(&mut self, version: &str) -> io::Result<Vec<(String, OwnedFd)>> {
        if version != VERSION {
            return Err(garbage("the other process hands over in another way; restart instead"));
        }
        let first = self.line()?.ok_or_else(gone)?;
        let count = match first.split(' ').collect::<Vec<_>>().as_slice() {
            ["portcullis", VERSION, count] => count.parse().ok().filter(|count| *count <= channel::MOST),
            _ => None,
        };
        let count = count.ok_or_else(|| garbage("it does not begin like one"))?;
        let mut names = Vec::with_capacity(count);
        while names.len() < count {
            names.push(self.line()?.ok_or_else(gone)?);
        }
        let descriptors = self.arrived.take_descriptors();
        if descriptors.len() != count {
            return Err(garbage("there are not as many sockets as names"));
        }
        Ok(names.into_iter().zip(descriptors).collect())
    }

    /// Says what has no use here and that all else is ready, and waits for the word.
    pub fn wait_for_go(&mut self, unused: &[String]) -> io::Result<()> {
        let mut text: String = unused.iter().map(|name| format!("unused {name}\n")).collect();
        text += &format!("ready {}\n", std::process::id());
        // Whether it is still there is seen below.
        let _ = self.say(&text);
        match self.line()?.as_deref() {
            Some("go") => Ok(()),
            Some("stop") => Err(io::Error::new(io::ErrorKind::Interrupted, "the other process goes on itself")),
            Some(_) => Err(garbage("the other process says something else than `go`")),
            None => {
                tracing::warn!("the process that was to hand over is gone: going on without it");
                Ok(())
            }
        }
    }

    pub fn serving(self) {
        // One that is gone needs no telling.
        let _ = self.say("serving\n");
    }

    pub fn refuse(self, why: &str) {
        let why: String = why.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(1000).collect();
        // One that is gone needs no telling.
        let _ = self.say(&format!("failed {why}\n"));
    }

    fn say(&self, text: &str) -> io::Result<()> {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let sent = channel::send(&self.channel, rest, &[])?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    /// `None`: it has gone.
    fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(line) = self.arrived.line()? {
                return Ok(Some(line));
            }
            if self.arrived.is_over() {
                return Ok(None);
            }
            match self.arrived.receive(&self.channel) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Killed, with something of ours unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the other process says nothing"));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the other process has gone")
}
