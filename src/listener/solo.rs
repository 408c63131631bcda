//! A listener whose connections stay with whoever accepts them: no workers, no permits, no bursts.
//!
//! For a door that few come through, and that has to open while the others are shut.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::task::{Context, Poll, ready};

use super::bind::BoundListener;
use super::place::BoundTo;
use crate::transport::Socket;
use crate::types::Peer;

/// Accepts for one task. Dropped, it closes the socket, and removes its file where it has one.
#[derive(Debug)]
pub struct SoloListener {
    door: Door,
    bound: BoundListener,
}

#[derive(Debug)]
enum Door {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl SoloListener {
    /// Part of the calling thread's runtime from now on.
    ///
    /// # Errors
    /// When there is no descriptor, or the runtime cannot watch it.
    pub fn new(bound: BoundListener) -> io::Result<Self> {
        let socket: OwnedFd = bound.socket()?;
        let door = match bound.bound_to {
            BoundTo::Tcp(_) => Door::Tcp(tokio::net::TcpListener::from_std(socket.into())?),
            BoundTo::Unix(_) => Door::Unix(tokio::net::UnixListener::from_std(StdUnixListener::from(socket))?),
        };
        Ok(Self { door, bound })
    }

    /// The next connection, or why there is none at the moment.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, Peer)>> {
        Poll::Ready(match &self.door {
            Door::Tcp(door) => {
                ready!(door.poll_accept(cx)).map(|(stream, peer)| (Socket::Tcp(stream), Peer::Tcp(peer)))
            }
            Door::Unix(door) => ready!(door.poll_accept(cx)).map(|(stream, _)| (Socket::Unix(stream), Peer::Unix)),
        })
    }
}

impl fmt::Display for SoloListener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bound.fmt(out)
    }
}
