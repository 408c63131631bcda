//! Addresses of this process that no upstream may lead to, whatever they are called: those of its admin listener.
//!
//! A configuration that names one is refused; a name that turns out to stand for one is found out here, when it is dialled.
//! Looked at once for each connection to a server.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use tokio::net::TcpStream;

static DOORS: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());

/// No connection is made to this address for as long as it lives.
#[derive(Debug)]
pub struct OwnDoor(SocketAddr);

impl OwnDoor {
    pub fn new(address: SocketAddr) -> Self {
        change(|doors| doors.push(address));
        Self(address)
    }
}

impl Drop for OwnDoor {
    fn drop(&mut self) {
        change(|doors| {
            if let Some(at) = doors.iter().position(|door| *door == self.0) {
                doors.swap_remove(at);
            }
        });
    }
}

/// Whether a connection that we have made ends at one of them.
pub(super) fn leads_in(stream: &TcpStream) -> bool {
    let is_ours = |doors: &mut Vec<SocketAddr>| {
        let (Ok(from), Ok(to)) = (stream.local_addr(), stream.peer_addr()) else { return false };
        doors.iter().any(|door| is_at(*door, from, to))
    };
    change(|doors| !doors.is_empty() && is_ours(doors))
}

/// Where a door is open at all addresses, those of this machine are meant: who asks one of them does so from it.
fn is_at(door: SocketAddr, from: SocketAddr, to: SocketAddr) -> bool {
    let (at, from, ip) = (door.ip().to_canonical(), from.ip().to_canonical(), to.ip().to_canonical());
    door.port() == to.port() && (at == ip || at.is_unspecified() && (from == ip || ip.is_loopback()))
}

fn change<T>(change: impl FnOnce(&mut Vec<SocketAddr>) -> T) -> T {
    change(&mut DOORS.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_is_known_by_whatever_address_leads_to_it() {
        let at = |door: &str, from: &str, to: &str| {
            let address = |text: &str| text.parse().expect("an address");
            is_at(address(door), address(from), address(to))
        };
        assert!(at("127.0.0.1:9900", "127.0.0.1:4", "127.0.0.1:9900"));
        assert!(at("127.0.0.1:9900", "127.0.0.1:4", "[::ffff:127.0.0.1]:9900"));
        assert!(at("0.0.0.0:9900", "10.0.0.5:4", "10.0.0.5:9900") && at("[::]:9900", "[::1]:4", "[::1]:9900"));
        assert!(at("0.0.0.0:9900", "127.0.0.1:4", "127.1.2.3:9900"));
        assert!(!at("0.0.0.0:9900", "10.0.0.5:4", "10.0.0.6:9900"));
        assert!(!at("127.0.0.1:9900", "127.0.0.1:4", "127.0.0.1:9901"));
        assert!(!at("127.0.0.1:9900", "127.0.0.2:4", "127.0.0.2:9900"));
    }
}
