//! Where a server is at this moment, for those who connect: fixed, or a name that the control plane keeps resolved.
//!
//! The keepers of names write ([`Whereabouts::publish`]), workers read; a worker waits only while nobody has answered
//! yet, and its caller has the deadline. Nobody but the keepers asks a name server.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::ports::Link;
use super::source::Addresses;

/// How one server is reached.
#[derive(Debug)]
pub enum Location {
    Fixed(Addresses),
    Unix(PathBuf, Arc<Link>),
    /// Its whereabouts are in the server's shared state.
    Named,
}

/// What is known of a name.
#[derive(Clone, Debug)]
pub enum Resolved {
    /// Nobody has answered yet.
    Asking,
    At(Arc<Addresses>),
    /// There is nothing to connect to, and why.
    Nowhere(Nowhere),
}

/// Why a name stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nowhere(pub Arc<str>);

impl fmt::Display for Nowhere {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Nowhere {}

/// What is known of the name of one server.
#[derive(Debug)]
pub struct Whereabouts(watch::Sender<Resolved>);

impl Default for Whereabouts {
    fn default() -> Self {
        Self(watch::Sender::new(Resolved::Asking))
    }
}

impl Whereabouts {
    pub fn publish(&self, place: Resolved) {
        self.0.send_replace(place);
    }

    /// What is known now.
    pub fn now(&self) -> Resolved {
        self.0.borrow().clone()
    }

    /// Whether the name stands for this address, among others.
    pub(super) fn is_at(&self, address: SocketAddr) -> bool {
        match &*self.0.borrow() {
            Resolved::Asking => true,
            Resolved::At(addresses) => addresses.list().contains(&address),
            Resolved::Nowhere(_) => false,
        }
    }

    /// What is known, once anything is.
    pub(super) async fn known(&self) -> Result<Arc<Addresses>, Nowhere> {
        let mut place = self.now();
        if matches!(place, Resolved::Asking) {
            let mut changes = self.0.subscribe();
            // The sender is `self`: it does not go away.
            if let Ok(known) = changes.wait_for(|place| !matches!(place, Resolved::Asking)).await {
                place = known.clone();
            }
        }
        match place {
            Resolved::At(addresses) => Ok(addresses),
            Resolved::Nowhere(why) => Err(why),
            Resolved::Asking => Err(Nowhere("nobody looks for it any more".into())),
        }
    }
}
