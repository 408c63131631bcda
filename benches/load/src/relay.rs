//! The lower bound: accept, connect, copy both ways, with nothing but epoll. No proxy that looks at what it carries can
//! be cheaper.
//!
//! Level-triggered; one buffer for all connections; a leftover is boxed only when a write was partial, and its source is
//! not read until it has gone.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::args::{Args, Problem};

const SCRATCH: usize = 64 * 1024;
const LISTENER: u64 = u64::MAX;

struct Side {
    socket: TcpStream,
    /// What could not be written to this side yet.
    left: Vec<u8>,
    /// Its own direction has ended: nothing more will be read from it.
    ended: bool,
}

struct Pair {
    sides: [Side; 2],
}

struct Relay {
    epoll: std::os::fd::OwnedFd,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
    to: SocketAddr,
    scratch: Vec<u8>,
}

pub fn run(args: &mut Args) -> Result<(), Problem> {
    let listener = TcpListener::bind(args.required::<SocketAddr>("listen")?)?;
    let to = args.required("to")?;
    args.done()?;
    // The standard library's backlog is short; listening again sets another one.
    rustix::net::listen(&listener, 4096)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    println!("listening {}", listener.local_addr()?);
    let mut relay = Relay { epoll, pairs: Vec::new(), free: Vec::new(), to, scratch: vec![0; SCRATCH] };
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        match epoll::wait(&relay.epoll, spare_capacity(&mut events), None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(problem) => return Err(problem.into()),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => relay.accept(&listener),
                token => relay.ready(token),
            }
        }
    }
}

impl Relay {
    fn accept(&mut self, listener: &TcpListener) {
        while let Ok((client, _)) = listener.accept() {
            let Ok(server) = TcpStream::connect(self.to) else { continue };
            for socket in [&client, &server] {
                // Both can only fail on a descriptor that is no socket.
                let _ = (socket.set_nodelay(true), socket.set_nonblocking(true));
            }
            let at = self.free.pop().unwrap_or_else(|| {
                self.pairs.push(None);
                self.pairs.len() - 1
            });
            let sides = [client, server].map(|socket| Side { socket, left: Vec::new(), ended: false });
            for (side, state) in sides.iter().enumerate() {
                let token = EventData::new_u64((at as u64) << 1 | side as u64);
                let _ = epoll::add(&self.epoll, &state.socket, token, EventFlags::IN);
            }
            self.pairs[at] = Some(Pair { sides });
        }
    }

    fn ready(&mut self, token: u64) {
        let (at, side) = ((token >> 1) as usize, (token & 1) as usize);
        let Some(pair) = self.pairs.get_mut(at).and_then(Option::as_mut) else { return };
        let keep = pair.flush(side).and_then(|()| pair.copy(side, &mut self.scratch));
        let over = pair.sides.iter().all(|side| side.ended && side.left.is_empty());
        if keep.is_err() || over {
            // Closing the sockets takes them out of epoll.
            self.pairs[at] = None;
            self.free.push(at);
            return;
        }
        pair.interests(&self.epoll, at);
    }
}

impl Pair {
    /// Writes what waits for `side`.
    fn flush(&mut self, side: usize) -> io::Result<()> {
        let from_ended = self.sides[1 - side].ended;
        let Side { socket, left, .. } = &mut self.sides[side];
        if left.is_empty() {
            return Ok(());
        }
        let written = write(socket, left)?;
        left.drain(..written);
        if left.is_empty() && from_ended {
            socket.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// Reads once from `side` and writes it to the other.
    fn copy(&mut self, side: usize, scratch: &mut [u8]) -> io::Result<()> {
        if !self.sides[1 - side].left.is_empty() || self.sides[side].ended {
            return Ok(());
        }
        let read = match self.sides[side].socket.read(scratch) {
            Err(problem) if problem.kind() == ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        let other = 1 - side;
        if read == 0 {
            self.sides[side].ended = true;
            return self.sides[other].socket.shutdown(Shutdown::Write);
        }
        let written = write(&mut self.sides[other].socket, &scratch[..read])?;
        self.sides[other].left.extend_from_slice(&scratch[written..read]);
        Ok(())
    }

    /// Tells epoll, where something waits or no longer does; an ordinary echo never gets past the first line.
    fn interests(&self, epoll: &std::os::fd::OwnedFd, at: usize) {
        if self.sides.iter().all(|side| side.left.capacity() == 0 && !side.ended) {
            return;
        }
        for (index, side) in self.sides.iter().enumerate() {
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::IN, !side.ended && self.sides[1 - index].left.is_empty());
            flags.set(EventFlags::OUT, !side.left.is_empty());
            let token = EventData::new_u64((at as u64) << 1 | index as u64);
            let _ = epoll::modify(epoll, &side.socket, token, flags);
        }
    }
}

fn write(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match socket.write(bytes) {
        Err(problem) if problem.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
