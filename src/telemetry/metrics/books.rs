//! The cells of each route and of each listener, found again by name after a reload, so that counts never go back.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::cells::Ledger;
use super::kinds::{Closed, Refused};
use super::listener::ListenerCells;
use super::route::{RouteCells, TunnelCells};
use crate::types::Name;

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

/// Books by their names, for as long as anybody has to do with them.
pub struct Shelf<B> {
    books: Mutex<HashMap<Name, Weak<B>>>,
}

impl<B> Default for Shelf<B> {
    fn default() -> Self {
        Self { books: Mutex::default() }
    }
}

impl<B: From<Name>> Shelf<B> {
    /// The one book of this name.
    pub fn find(&self, name: &Name) -> Arc<B> {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = books.get(name).and_then(Weak::upgrade) {
            return known;
        }
        if books.len() == books.capacity() {
            // Those of configurations that are gone.
            books.retain(|_, book| book.strong_count() > 0);
        }
        let made = Arc::new(B::from(name.clone()));
        books.insert(name.clone(), Arc::downgrade(&made));
        made
    }
}

impl<B> fmt::Debug for Shelf<B> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Shelf").finish_non_exhaustive()
    }
}

/// The books that a process has: of its routes and of its listeners.
#[derive(Debug, Default)]
pub struct Books {
    pub routes: Shelf<RouteBook>,
    pub listeners: Shelf<ListenerBook>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Own;

    #[test]
    fn a_name_leads_to_the_same_book_for_as_long_as_somebody_holds_it() {
        let shelf = Shelf::<RouteBook>::default();
        let book = shelf.find(&"chat".into());
        book.tunnels.join().opened.add(7);
        assert_eq!(shelf.find(&"chat".into()).tunnels.sum().opened.get(), 7);
        assert_eq!(shelf.find(&"other".into()).tunnels.sum().opened.get(), 0);
        drop(book);
        assert_eq!(shelf.find(&"chat".into()).tunnels.sum().opened.get(), 0);
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
