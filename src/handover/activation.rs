//! Socket activation: descriptors from 3 on that a service manager has left open, as `LISTEN_PID`, `LISTEN_FDS` and
//! `LISTEN_FDNAMES` say (sd_listen_fds(3)).
//!
//! The variables stay in the environment of this process, where removing them would race with every thread that reads it;
//! no process that it starts gets them (`program`), and they name this one's number anyway.

use std::env;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::FdFlags;

/// Where they begin.
const FIRST: u32 = 3;
/// More than any configuration may have.
const MOST: u32 = 4096;

/// The sockets with their names, closed on `exec`. None where the variables are meant for another process.
///
/// # Errors
/// The variables make no sense, or a descriptor that they promise is no socket.
pub(super) fn sockets() -> io::Result<Vec<(String, OwnedFd)>> {
    let Some(count) = promised()? else { return Ok(Vec::new()) };
    // Before any of them is taken: one that is not there would be somebody else's a moment later.
    for number in FIRST..FIRST + count {
        let target = fs::read_link(format!("/proc/self/fd/{number}"))
            .map_err(|error| bad(format!("LISTEN_FDS promises descriptor {number}, which is not open: {error}")))?;
        if !target.to_string_lossy().starts_with("socket:") {
            return Err(bad(format!("descriptor {number} is no socket but {}", target.display())));
        }
    }
    let given = sd_listen_fds::get().map_err(|error| bad(error.to_string()))?;
    let mut sockets = Vec::with_capacity(given.len());
    for (name, socket) in given {
        let socket = socket.into_std();
        rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        // What systemd itself says for a socket without a name.
        sockets.push((name.unwrap_or_else(|| "unknown".to_owned()), socket));
    }
    Ok(sockets)
}

/// How many there are for this process.
fn promised() -> io::Result<Option<u32>> {
    let read = |name| match env::var(name) {
        Ok(text) => match text.parse::<u32>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(bad(format!("{name} is `{}` and no number", text.escape_debug()))),
        },
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(bad(format!("{name} is no number"))),
    };
    if read("LISTEN_PID")? != Some(std::process::id()) {
        return Ok(None);
    }
    match read("LISTEN_FDS")? {
        Some(count) if count > MOST => Err(bad(format!("LISTEN_FDS is {count}, and {MOST} is the most"))),
        count => Ok(count),
    }
}

fn bad(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
