//! From one process to the next without a refused connection: what a process is started with, and how another takes its
//! place.
//!
//! Listening sockets come from a service manager (`activation`) or from the process that this one follows
//! (`predecessor`). To be followed, a process starts its own program as it is on disk now (`program`) and talks with it
//! (`successor`) over one unix socket, which is the new process's standard input (`channel`):
//!
//! | | old | new |
//! |---|---|---|
//! | 1 | sends its listening sockets with their names | reads its configuration, takes sockets, binds what is new |
//! | 2 | waits, for `server.upgrade_timeout` at most | starts its workers, says `ready` and what it has no use for |
//! | 3 | says `go` | accepts, says `serving` |
//! | 4 | accepts no more, drains | |
//!
//! At each moment at least one of the two accepts from queues that both have. Until `serving` the old one can take
//! everything back: it says `stop` and kills. A new one whose predecessor dies without a word once it was ready goes on
//! alone.
//!
//! Sockets travel as messages rather than as descriptors left open across `exec`: those would need numbers that both agree
//! upon and that no wrapper script closes, and they could not be taken back or answered. Here they carry their names, are
//! closed on the next `exec` from their first moment on, and the end of either process is seen at once.

mod activation;
mod channel;
mod pid_file;
mod predecessor;
mod program;
mod successor;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

pub use pid_file::PidFile;
use predecessor::Predecessor;
pub use program::Program;
pub use successor::{Successor, UpgradeError, Upgrades};

/// Tells a process that its standard input is a channel to its predecessor, which speaks this version.
const VARIABLE: &str = "PORTCULLIS_HANDOVER";
const VERSION: &str = "1";

/// A process that begins: what it was given, and whose place it takes.
#[derive(Debug)]
pub struct Entrance {
    given: Vec<(String, OwnedFd)>,
    predecessor: Option<Predecessor>,
    program: Program,
}

impl Entrance {
    /// To be called once, before anything else of the process opens a descriptor.
    ///
    /// # Errors
    /// What stands in the environment is not true, or the predecessor has gone.
    pub fn open() -> Result<Self, EntranceError> {
        let program = Program::of_this_process();
        match std::env::var(VARIABLE) {
            Ok(version) => {
                let (predecessor, given) = Predecessor::meet(&version).map_err(EntranceError::Predecessor)?;
                Ok(Self { given, predecessor: Some(predecessor), program })
            }
            Err(_) => {
                let given = activation::sockets().map_err(EntranceError::Activation)?;
                Ok(Self { given, predecessor: None, program })
            }
        }
    }

    /// The sockets, each with its name. Nothing the second time.
    pub fn take_given(&mut self) -> Vec<(String, OwnedFd)> {
        std::mem::take(&mut self.given)
    }

    /// How this process was started.
    pub fn program(&self) -> Program {
        self.program.clone()
    }

    /// Everything that can fail has not. Returns when this process is to begin: at once where it follows nobody.
    ///
    /// # Errors
    /// The predecessor has changed its mind, or does not answer.
    pub fn wait_for_go(&mut self, unused: &[String]) -> io::Result<()> {
        self.predecessor.as_mut().map_or(Ok(()), |predecessor| predecessor.wait_for_go(unused))
    }

    /// Connections are accepted.
    pub fn serving(&mut self) {
        self.predecessor.take().into_iter().for_each(Predecessor::serving);
    }

    /// Nothing comes of it, and the predecessor should know why.
    pub fn refuse(&mut self, why: &str) {
        self.predecessor.take().into_iter().for_each(|predecessor| predecessor.refuse(why));
    }
}

/// Why a process cannot begin.
#[derive(Debug)]
pub enum EntranceError {
    /// `LISTEN_FDS` and the others.
    Activation(io::Error),
    Predecessor(io::Error),
}

impl fmt::Display for EntranceError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Activation(error) => write!(out, "the inherited sockets cannot be used: {error}"),
            Self::Predecessor(error) => {
                write!(out, "{VARIABLE} is set, but standard input is no hand-over: {error}")
            }
        }
    }
}

impl std::error::Error for EntranceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Activation(error) | Self::Predecessor(error) => Some(error),
        }
    }
}
