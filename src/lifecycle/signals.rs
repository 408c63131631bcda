//! What the operating system asks of the process.
//!
//! SIGTERM and SIGINT: the first drains, the second ends at once. SIGHUP asks for a reload, SIGUSR1 for reopened log
//! files (after a rotation), SIGUSR2 for another process in this one's place. Who listens decides what to do; here is only
//! the meaning. From [`Signals::new`] on none of the five has its default effect any more.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Finish open work, take no new work.
    Drain,
    /// End now.
    End,
    /// Read the configuration again.
    Reload,
    /// Open log files again.
    Reopen,
    /// Start the program as it is on disk now, and let that one go on.
    Upgrade,
}

/// Receives signals. Must be made within the runtime that waits for them.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    stops: u32,
}

impl Signals {
    /// # Errors
    /// The process may not install signal handlers.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            stops: 0,
        })
    }

    /// The next request. May be dropped and called again.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => self.stop(),
            _ = self.interrupt.recv() => self.stop(),
            _ = self.user1.recv() => Request::Reopen,
            _ = self.hangup.recv() => Request::Reload,
            _ = self.user2.recv() => Request::Upgrade,
        }
    }

    fn stop(&mut self) -> Request {
        self.stops += 1;
        if self.stops == 1 { Request::Drain } else { Request::End }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal as Kind, getpid, kill_process};

    use super::*;

    #[tokio::test(flavor = "local")]
    async fn the_first_stop_drains_the_second_ends_and_the_others_ask_for_files_or_a_successor() {
        let mut signals = Signals::new().expect("handlers");
        for (kind, request) in [
            (Kind::HUP, Request::Reload),
            (Kind::USR1, Request::Reopen),
            (Kind::USR2, Request::Upgrade),
            (Kind::TERM, Request::Drain),
            (Kind::HUP, Request::Reload),
            (Kind::INT, Request::End),
            (Kind::TERM, Request::End),
        ] {
            kill_process(getpid(), kind).expect("own process");
            assert_eq!(signals.next().await, request);
        }
    }
}
