//! What a server has of what it may have, as places in its count: one for each request and tunnel, one for each connection
//! that waits in a pool. Dropped, each is given up, to whoever waits for it (`queue.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::server::{Server, State};

/// What one thing counts in [`State::live`].
#[derive(Clone, Copy)]
pub(super) struct Live(pub(super) u64);

pub(super) const REQUEST: Live = Live(1);
pub(super) const TUNNEL: Live = Live(1 << 32);

pub(super) fn requests(live: u64) -> u32 {
    live as u32
}

pub(super) fn tunnels(live: u64) -> u32 {
    (live >> 32) as u32
}

pub(super) fn total(live: u64) -> u32 {
    requests(live).saturating_add(tunnels(live))
}

/// One request's place in the count of its server.
#[derive(Debug)]
pub(super) struct Place {
    /// `None` once the place has become a tunnel's.
    pub(super) state: Option<Arc<State>>,
}

impl Place {
    /// The request has become a tunnel.
    pub fn become_tunnel(&mut self) -> TunnelShare {
        let state = self.state.take();
        if let Some(state) = &state {
            state.live.fetch_add(TUNNEL.0 - REQUEST.0, Ordering::SeqCst);
        }
        TunnelShare { state }
    }

    /// Whether it is a place at that server.
    pub(super) fn is_at(&self, server: &Server) -> bool {
        self.state.as_ref().is_some_and(|state| Arc::ptr_eq(state, &server.state))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            state.leave(REQUEST);
        }
    }
}

/// One tunnel's place in the count of its server.
#[derive(Debug)]
pub struct TunnelShare {
    /// Never `None`; of the size of a reference, as an idle tunnel wants it.
    pub(super) state: Option<Arc<State>>,
}

impl TunnelShare {
    /// The server's.
    pub fn state(&self) -> Option<&State> {
        self.state.as_deref()
    }
}

impl Drop for TunnelShare {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            state.leave(TUNNEL);
        }
    }
}

/// A connection's place in the count of those that are not in use.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) state: Arc<State>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.state.idle.fetch_sub(1, Ordering::Relaxed);
    }
}
