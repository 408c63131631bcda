//! The cells of each route and of each listener, found again by name after a reload, so that counts never go back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cells::Ledger;
use super::kinds::{Closed, Refused};
use super::listener::ListenerCells;
use super::route::{RouteCells, TunnelCells};
use crate::types::Name;
use crate::weak_map::WeakMap;

/// What is counted of one route.
#[derive(Debug)]
pub struct RouteBook {
    /// Empty: requests that no route takes.
    pub name: Name,
    pub requests: Ledger<RouteCells>,
    pub tunnels: Ledger<TunnelCells>,
}

/// What is counted of one listener.
#[derive(Debug)]
pub struct ListenerBook {
    pub name: Name,
    /// By its workers.
    pub cells: Ledger<ListenerCells>,
    pub connections: ConnectionCounts,
}

/// Connections of one listener. They are counted where they are handed from one thread to another, as seldom as
/// connections come and go, and so by whoever it is: these are no cells.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    accepted: AtomicU64,
    refused: [AtomicU64; Refused::COUNT],
    closed: [AtomicU64; Closed::COUNT],
}

impl ConnectionCounts {
    pub fn note_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub fn note_refused(&self, why: Refused) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn note_closed(&self, how: Closed) {
        self.closed[how as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub fn refused(&self, why: Refused) -> u64 {
        self.refused[why as usize].load(Ordering::Relaxed)
    }

    pub fn closed(&self, how: Closed) -> u64 {
        self.closed[how as usize].load(Ordering::Relaxed)
    }

    pub fn open(&self) -> u64 {
        // Those that have ended first: none of them is then missing among those that have begun.
        let closed: u64 = Closed::ALL.iter().map(|how| self.closed(*how)).sum();
        self.accepted().saturating_sub(closed)
    }
}

impl From<Name> for RouteBook {
    fn from(name: Name) -> Self {
        Self { name, requests: Ledger::default(), tunnels: Ledger::default() }
    }
}

impl From<Name> for ListenerBook {
    fn from(name: Name) -> Self {
        Self { name, cells: Ledger::default(), connections: ConnectionCounts::default() }
    }
}

/// The books that a process has: of its routes and of its listeners, each for as long as anybody has to do with it.
#[derive(Debug, Default)]
pub struct Books {
    routes: WeakMap<Name, RouteBook>,
    listeners: WeakMap<Name, ListenerBook>,
}

impl Books {
    /// The one book of this route.
    pub fn route(&self, name: &Name) -> Arc<RouteBook> {
        self.routes.find(name, || RouteBook::from(name.clone()))
    }

    /// The one book of this listener.
    pub fn listener(&self, name: &Name) -> Arc<ListenerBook> {
        self.listeners.find(name, || ListenerBook::from(name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Own;

    #[test]
    fn a_name_leads_to_the_same_book_for_as_long_as_somebody_holds_it() {
        let books = Books::default();
        let book = books.route(&"chat".into());
        book.tunnels.join().opened.add(7);
        assert_eq!(books.route(&"chat".into()).tunnels.sum().opened.get(), 7);
        assert_eq!(books.route(&"other".into()).tunnels.sum().opened.get(), 0);
        drop(book);
        assert_eq!(books.route(&"chat".into()).tunnels.sum().opened.get(), 0);
        let _never_counted = Own::<RouteCells>::unread();
    }

    #[test]
    fn open_connections_are_those_that_came_and_have_not_gone() {
        let counts = ConnectionCounts::default();
        (0..5).for_each(|_| counts.note_accepted());
        counts.note_closed(Closed::Tunnel);
        counts.note_closed(Closed::Idle);
        counts.note_refused(Refused::Descriptors);
        assert_eq!((counts.open(), counts.closed(Closed::Tunnel), counts.refused(Refused::Descriptors)), (3, 1, 1));
    }
}
