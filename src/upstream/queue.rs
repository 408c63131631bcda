//! Who waits for a place at a server of one upstream, over all workers: first in, first out.
//!
//! A place that is given up is handed to the first who may take it while it still counts as taken, so that nobody who
//! comes later can get there first, and nothing has to be asked again. Whoever leaves with a place that he was handed
//! (his client has gone, his time is up) gives it up like any other, to the next. Room that comes about in another way
//! (a server that is back, a new list of servers) is nobody's: then all who wait are called to look for themselves.
//!
//! The lock is taken only where somebody waits. It is never held while a waker runs or a place is dropped.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use smallvec::SmallVec;

use super::balance::{self, Candidate};
use super::capacity::{Live, Place};
use super::definition::Definition;
use super::server::{ServerId, State};
use crate::clock::{self, Instant};

/// The queue of one upstream. Outlives snapshots, like the counts of its servers.
#[derive(Default)]
pub struct Queue {
    /// Those who have not been handed a place. Read without the lock whenever a place is given up.
    length: AtomicUsize,
    line: Mutex<Line>,
    joined: AtomicU64,
    waited_us: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
}

#[derive(Default)]
struct Line {
    next: u64,
    /// By number, which is the order in which they came.
    waiting: BTreeMap<u64, Waiter>,
}

struct Waiter {
    wants: Wants,
    waker: Option<Waker>,
    /// Has to look for himself.
    is_called: bool,
    is_served: bool,
    place: Option<Place>,
}

/// Which servers somebody may go to.
pub(super) struct Wants {
    pub definition: Arc<Definition>,
    /// Those that it has been to.
    pub tried: SmallVec<[ServerId; 4]>,
}

impl Wants {
    /// Whether it could go to that server if there were room, one place there being about to be given up.
    fn takes(&self, state: &Arc<State>) -> bool {
        let Definition { roster, panic, .. } = &*self.definition;
        let (_, servers) = roster.read();
        let turn = Cell::new(0);
        let untried = servers.iter().filter(|server| !self.tried.contains(&server.id));
        let candidates: SmallVec<[Candidate<'_>; 16]> = untried
            .map(|server| {
                let mut candidate = server.candidate(&self.definition, &turn);
                let is_over = server.max_connections.is_some_and(|max| candidate.live > max);
                candidate.is_full = is_over || !Arc::ptr_eq(&server.state, state);
                candidate
            })
            .collect();
        balance::has_room(&candidates, *panic)
    }

    fn is_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.definition, &other.definition) && self.tried == other.tried
    }
}

/// What has become of an upstream's queue since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Waiting now.
    pub length: usize,
    /// Have come to wait.
    pub joined: u64,
    /// How long, all together; whoever still waits is not in it.
    pub waited: Duration,
    /// Found it full.
    pub refused: u64,
    /// Waited in vain.
    pub timed_out: u64,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.length.load(Ordering::SeqCst) == 0
    }

    pub fn counts(&self) -> QueueCounts {
        QueueCounts {
            length: self.length.load(Ordering::Relaxed),
            joined: self.joined.load(Ordering::Relaxed),
            waited: Duration::from_micros(self.waited_us.load(Ordering::Relaxed)),
            refused: self.refused.load(Ordering::Relaxed),
            timed_out: self.timed_out.load(Ordering::Relaxed),
        }
    }

    /// A place in the line, if that is shorter than `size`. Whoever gets one has to look for room once more: it may
    /// have come about before he stood there.
    pub(super) fn join(self: &Arc<Self>, size: usize, wants: Wants) -> Option<Ticket> {
        let mut line = self.line();
        if self.length.load(Ordering::SeqCst) >= size {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let number = line.next;
        line.next += 1;
        let waiter = Waiter { wants, waker: None, is_called: false, is_served: false, place: None };
        line.waiting.insert(number, waiter);
        self.length.fetch_add(1, Ordering::SeqCst);
        drop(line);
        self.joined.fetch_add(1, Ordering::Relaxed);
        Some(Ticket { queue: self.clone(), number, since: clock::now() })
    }

    /// What has ended at a server leaves its place to the first who may take it, or to nobody.
    pub(super) fn pass_on(&self, state: &Arc<State>, what: Live) {
        let mut line = self.line();
        let Some(first) = line.first_for(state) else {
            // Under the lock: whoever joins after this sees the room.
            return state.give_up(what);
        };
        first.place = Some(state.take_over(what));
        first.is_served = true;
        let waker = first.waker.take();
        self.length.fetch_sub(1, Ordering::SeqCst);
        drop(line);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// There may be room now: everybody looks for himself.
    pub(super) fn call_all(&self) {
        let mut line = self.line();
        let wakers: Vec<_> = line
            .waiting
            .values_mut()
            .filter(|waiter| !waiter.is_served)
            .filter_map(|waiter| {
                waiter.is_called = true;
                waiter.waker.take()
            })
            .collect();
        drop(line);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Nothing that is done under the lock leaves halves behind.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the lock nor those who wait: what they want leads back here.
        out.debug_struct("Queue").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Line {
    fn first_for(&mut self, state: &Arc<State>) -> Option<&mut Waiter> {
        let mut refused: Option<&Wants> = None;
        let mut first = None;
        for (number, waiter) in self.waiting.iter().filter(|(_, waiter)| !waiter.is_served) {
            // Nearly all want the same.
            if refused.is_some_and(|refused| refused.is_like(&waiter.wants)) {
                continue;
            }
            if waiter.wants.takes(state) {
                first = Some(*number);
                break;
            }
            refused = Some(&waiter.wants);
        }
        self.waiting.get_mut(&first?)
    }
}

/// A place in the line; dropping it leaves, and gives up what it was handed.
pub(super) struct Ticket {
    queue: Arc<Queue>,
    number: u64,
    since: Instant,
}

impl Ticket {
    /// Ready with a place at a server; with `None` where he who waits has to look for himself.
    pub fn poll_called(&mut self, cx: &mut Context<'_>) -> Poll<Option<Place>> {
        let mut line = self.queue.line();
        let Some(waiter) = line.waiting.get_mut(&self.number) else { return Poll::Ready(None) };
        if waiter.is_served || std::mem::take(&mut waiter.is_called) {
            return Poll::Ready(waiter.place.take());
        }
        match &mut waiter.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => waiter.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// His time is up. There may have been a place at the last moment.
    pub fn give_up(&mut self) -> Option<Place> {
        let place = self.queue.line().waiting.get_mut(&self.number).and_then(|waiter| waiter.place.take());
        if place.is_none() {
            self.queue.timed_out.fetch_add(1, Ordering::Relaxed);
        }
        place
    }

    pub fn waited(&self) -> Duration {
        clock::now().saturating_duration_since(self.since)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut line = self.queue.line();
        let waiter = line.waiting.remove(&self.number);
        if waiter.as_ref().is_some_and(|waiter| !waiter.is_served) {
            self.queue.length.fetch_sub(1, Ordering::SeqCst);
        }
        // A place goes to the next, which needs the lock.
        drop(line);
        drop(waiter);
        let waited = u64::try_from(self.waited().as_micros()).unwrap_or(u64::MAX);
        self.queue.waited_us.fetch_add(waited, Ordering::Relaxed);
    }
}
