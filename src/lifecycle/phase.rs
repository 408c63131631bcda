//! Running, draining, ended: the phase of the process, and the guards of those who must be waited for.
//!
//! [`Lifecycle`] is the one cross-thread switch; phases only go forward. A worker follows it with one task
//! ([`Lifecycle::follow`]) and passes changes on to its own connections and tunnels through [`WorkerPhase`], so that a
//! thousand of them cost no lock: a look at the phase is a `Cell`, and waiting is one slot in a slab. A part of a worker
//! (one listener's connections, say) may be drained before the rest: [`WorkerPhase::part`].
//!
//! Whoever must be waited for at the end holds a [`Guard`]; [`Lifecycle::wait_empty`] waits for the last one.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use slab::Slab;
use tokio::sync::{Notify, watch};

use crate::clock::{self, Instant};

/// Where the process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Phase {
    #[default]
    Running,
    /// No new work; open work may go on until `deadline`, and who came before it and has never asked for anything may do
    /// that until `ask_until`.
    Draining { deadline: Instant, ask_until: Instant },
    /// What is still open is cut.
    Ended,
}

impl Phase {
    /// Draining or ended.
    pub fn is_stopping(self) -> bool {
        self != Self::Running
    }

    fn rank(self) -> u8 {
        match self {
            Self::Running => 0,
            Self::Draining { .. } => 1,
            Self::Ended => 2,
        }
    }
}

/// The switch itself. Clones are the same switch.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    phase: watch::Sender<Phase>,
    guards: AtomicUsize,
    empty: Notify,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    pub fn new() -> Self {
        let shared =
            Shared { phase: watch::Sender::new(Phase::Running), guards: AtomicUsize::new(0), empty: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    pub fn phase(&self) -> Phase {
        *self.shared.phase.borrow()
    }

    /// No new work; open work may go on until `deadline`. Without effect if a drain has begun.
    pub fn drain(&self, deadline: Instant) {
        self.advance(Phase::Draining { deadline, ask_until: clock::now() });
    }

    /// Like [`Lifecycle::drain`], where nobody may notice: who has connected already is served once more.
    pub fn hand_over(&self, deadline: Instant, ask_until: Instant) {
        self.advance(Phase::Draining { deadline, ask_until });
    }

    /// Cuts what is open.
    pub fn end(&self) {
        self.advance(Phase::Ended);
    }

    fn advance(&self, to: Phase) {
        self.shared.phase.send_if_modified(|phase| {
            let forward = to.rank() > phase.rank();
            if forward {
                *phase = to;
            }
            forward
        });
    }

    /// Waits until the drain has begun. For the control plane; workers use [`Lifecycle::follow`].
    pub async fn stopping(&self) -> Phase {
        let mut phases = self.shared.phase.subscribe();
        // The sender lives in `self`, so the channel cannot be closed.
        phases.wait_for(|phase| phase.is_stopping()).await.map_or(Phase::Ended, |phase| *phase)
    }

    /// Counts its holder among those who must be waited for.
    pub fn guard(&self) -> Guard {
        self.shared.guards.fetch_add(1, Ordering::AcqRel);
        Guard { shared: self.shared.clone() }
    }

    /// Guards that are held now.
    pub fn open(&self) -> usize {
        self.shared.guards.load(Ordering::Acquire)
    }

    /// Waits until no guard is held or until `deadline`, whatever the phase: for the last words of those who are cut.
    pub async fn wait_gone(&self, deadline: Instant) {
        tokio::select! {
            biased;
            () = self.gone() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }

    async fn gone(&self) {
        loop {
            let notified = self.shared.empty.notified();
            if self.open() == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Waits until no guard is held, until `deadline` or until [`Phase::Ended`], and says how many are left.
    pub async fn wait_empty(&self, deadline: Instant) -> usize {
        let mut phases = self.shared.phase.subscribe();
        tokio::select! {
            biased;
            () = self.gone() => {}
            _ = phases.wait_for(|phase| *phase == Phase::Ended) => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
        self.open()
    }

    /// The phase for one worker, and the future that keeps it current, which the worker spawns once.
    pub fn follow(&self) -> (Rc<WorkerPhase>, Follower) {
        let receiver = self.shared.phase.subscribe();
        let phase = WorkerPhase::new(self.phase());
        (phase.clone(), Follower { future: Box::pin(follow(receiver, phase)) })
    }
}

/// Held by whoever must be waited for. Sent between threads freely.
#[derive(Debug)]
pub struct Guard {
    shared: Arc<Shared>,
}

impl Clone for Guard {
    fn clone(&self) -> Self {
        Lifecycle { shared: self.shared.clone() }.guard()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.shared.guards.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.empty.notify_waiters();
        }
    }
}

/// The phase as one worker, or a part of it, sees it.
#[derive(Debug)]
pub struct WorkerPhase {
    phase: Cell<Phase>,
    waiting: RefCell<Slab<Waker>>,
    /// Those that go at least as far as this one.
    parts: RefCell<Vec<Weak<WorkerPhase>>>,
}

impl WorkerPhase {
    fn new(phase: Phase) -> Rc<Self> {
        Rc::new(Self { phase: Cell::new(phase), waiting: RefCell::new(Slab::new()), parts: RefCell::default() })
    }

    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// A phase that follows this one, and that can be drained by itself.
    pub fn part(&self) -> Rc<Self> {
        let part = Self::new(self.phase());
        let mut parts = self.parts.borrow_mut();
        parts.retain(|part| part.strong_count() > 0);
        parts.push(Rc::downgrade(&part));
        part
    }

    /// Drains this part alone; who has never asked for anything may still do so until `ask_until`. Without effect if it
    /// drains already.
    pub fn drain(&self, ask_until: Instant) {
        self.advance(Phase::Draining { deadline: ask_until, ask_until });
    }

    /// Wakes everyone who waits here, although the phase is the same: something else that they look at has changed.
    pub fn nudge(&self) {
        let waiting: Vec<Waker> = self.waiting.borrow().iter().map(|(_, waker)| waker.clone()).collect();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// A way to be told when the phase changes.
    pub fn stop(self: &Rc<Self>) -> Stop {
        Stop { worker: self.clone(), key: None }
    }

    /// The places of up to `most` of those who wait, in order, from the place `from` on; and the place to go on from,
    /// where that may not have been all.
    pub fn places(&self, from: u32, most: usize) -> (Vec<u32>, Option<u32>) {
        let waiting = self.waiting.borrow();
        // Vacant places count for nothing, and a look at one costs nothing.
        let end = u32::try_from(waiting.capacity()).unwrap_or(u32::MAX);
        let mut places = (from..end).filter(|place| waiting.contains(*place as usize));
        let found: Vec<_> = places.by_ref().take(most).collect();
        (found, places.next())
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Whether somebody waits at this place.
    pub fn is_taken(&self, place: u32) -> bool {
        self.waiting.borrow().contains(place as usize)
    }

    /// Wakes the one who waits there.
    pub fn wake(&self, place: u32) {
        let waker = self.waiting.borrow().get(place as usize).cloned();
        waker.into_iter().for_each(Waker::wake);
    }

    fn advance(&self, phase: Phase) {
        if phase.rank() > self.phase().rank() {
            self.phase.set(phase);
            self.nudge();
        }
        let parts: Vec<_> = self.parts.borrow().iter().filter_map(Weak::upgrade).collect();
        parts.iter().for_each(|part| part.advance(phase));
    }
}

/// Tells one connection or tunnel of the phase. Belongs to one task at a time.
#[derive(Debug)]
pub struct Stop {
    worker: Rc<WorkerPhase>,
    /// The slot of its waker, once it has waited.
    key: Option<u32>,
}

impl Stop {
    pub fn phase(&self) -> Phase {
        self.worker.phase()
    }

    /// Takes a place among those who wait before anybody polls, so that nobody overlooks who is about to begin.
    pub fn enter(&mut self) {
        if self.key.is_none() {
            self.key = Some(self.worker.waiting.borrow_mut().insert(Waker::noop().clone()) as u32);
        }
    }

    /// Where it waits; nobody else has this place until it is dropped.
    pub fn place(&self) -> Option<u32> {
        self.key
    }

    /// Ready once the process drains or has ended.
    pub fn poll_stopping(&mut self, cx: &mut Context<'_>) -> Poll<Phase> {
        self.poll_rank(cx, 1)
    }

    /// Ready once what is open has to be cut.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_rank(cx, 2).map(|_| ())
    }

    /// Waits for the drain.
    pub async fn stopping(&mut self) -> Phase {
        poll_fn(|cx| self.poll_stopping(cx)).await
    }

    /// Waits for the end.
    pub async fn ended(&mut self) {
        poll_fn(|cx| self.poll_ended(cx)).await;
    }

    fn poll_rank(&mut self, cx: &mut Context<'_>, rank: u8) -> Poll<Phase> {
        let phase = self.worker.phase();
        if phase.rank() >= rank {
            return Poll::Ready(phase);
        }
        let mut waiting = self.worker.waiting.borrow_mut();
        match self.key {
            // `clone_from` of a waker is free when both wake the same task.
            Some(key) => waiting[key as usize].clone_from(cx.waker()),
            None => self.key = Some(waiting.insert(cx.waker().clone()) as u32),
        }
        Poll::Pending
    }
}

impl Clone for Stop {
    fn clone(&self) -> Self {
        self.worker.stop()
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let mut waiting = self.worker.waiting.borrow_mut();
            let waker = waiting.remove(key as usize);
            if waiting.is_empty() && waiting.capacity() > 1024 {
                // A burst that has gone leaves nothing behind.
                *waiting = Slab::new();
            }
            drop(waiting);
            drop(waker);
        }
    }
}

/// Keeps a [`WorkerPhase`] current; completes when the process has ended.
#[must_use = "a worker's phase without its follower never changes"]
pub struct Follower {
    future: Pin<Box<dyn Future<Output = ()>>>,
}

impl Future for Follower {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.future.as_mut().poll(cx)
    }
}

async fn follow(mut receiver: watch::Receiver<Phase>, worker: Rc<WorkerPhase>) {
    while worker.phase() != Phase::Ended {
        // A switch that is gone with its process is an end.
        let phase = receiver.changed().await.map_or(Phase::Ended, |()| *receiver.borrow_and_update());
        worker.advance(phase);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn phases_only_go_forward_and_the_first_deadline_stands() {
        let lifecycle = Lifecycle::new();
        let first = clock::now() + Duration::from_secs(1);
        lifecycle.drain(first);
        lifecycle.drain(first + Duration::from_secs(9));
        assert!(matches!(lifecycle.stopping().await, Phase::Draining { deadline, .. } if deadline == first));
        lifecycle.end();
        lifecycle.drain(first);
        assert_eq!(lifecycle.phase(), Phase::Ended);
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn waiting_for_guards_ends_with_the_last_one_or_at_the_deadline() {
        let lifecycle = Lifecycle::new();
        assert_eq!(lifecycle.wait_empty(clock::now() + Duration::from_secs(5)).await, 0);
        let guard = lifecycle.guard();
        let second = guard.clone();
        let from = clock::now();
        assert_eq!(lifecycle.wait_empty(from + Duration::from_secs(5)).await, 2);
        assert_eq!(clock::now() - from, Duration::from_secs(5));
        drop(second);
        tokio::task::spawn_local(async move { drop(guard) });
        assert_eq!(lifecycle.wait_empty(clock::now() + Duration::from_secs(3600)).await, 0);
    }

    #[tokio::test(flavor = "local")]
    async fn a_guard_that_another_thread_drops_is_noticed() {
        let lifecycle = Lifecycle::new();
        let guards: Vec<_> = (0..100).map(|_| lifecycle.guard()).collect();
        let thread = std::thread::spawn(move || drop(guards));
        assert_eq!(lifecycle.wait_empty(clock::now() + Duration::from_secs(3600)).await, 0);
        thread.join().expect("no panic");
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn an_end_asked_for_cuts_the_waiting_short() {
        let lifecycle = Lifecycle::new();
        let _guard = lifecycle.guard();
        let switch = lifecycle.clone();
        tokio::task::spawn_local(async move { switch.end() });
        let from = clock::now();
        assert_eq!(lifecycle.wait_empty(from + Duration::from_secs(3600)).await, 1);
        assert!(clock::now() - from < Duration::from_secs(1));
    }

    #[tokio::test(flavor = "local")]
    async fn a_worker_tells_everyone_who_waits_and_forgets_who_has_gone() {
        let lifecycle = Lifecycle::new();
        let (worker, follower) = lifecycle.follow();
        let follower = tokio::task::spawn_local(follower);
        let stopping: Vec<_> = (0..100)
            .map(|_| {
                let mut stop = worker.stop();
                tokio::task::spawn_local(async move {
                    let phase = stop.stopping().await;
                    stop.ended().await;
                    phase
                })
            })
            .collect();
        while worker.waiting.borrow().len() < 100 {
            tokio::task::yield_now().await;
        }
        let deadline = clock::now();
        let switch = lifecycle.clone();
        std::thread::spawn(move || switch.drain(deadline)).join().expect("no panic");
        let mut seen = worker.stop();
        assert!(matches!(seen.stopping().await, Phase::Draining { deadline: told, .. } if told == deadline));
        lifecycle.end();
        for task in stopping {
            assert!(task.await.expect("no panic").is_stopping());
        }
        follower.await.expect("the follower ends with the process");
        drop(seen);
        assert!(worker.waiting.borrow().is_empty());
        assert!(size_of::<Stop>() <= 16);
    }

    #[tokio::test(flavor = "local")]
    async fn those_who_wait_are_found_at_their_places_page_by_page_and_can_be_woken_one_by_one() {
        let (worker, _follower) = Lifecycle::new().follow();
        let mut stops: Vec<_> = (0..5).map(|_| worker.stop()).collect();
        assert_eq!(worker.places(0, 9), (vec![], None));
        stops.iter_mut().for_each(Stop::enter);
        drop(stops.remove(1));
        assert_eq!(worker.places(0, 2), (vec![0, 2], Some(3)));
        assert_eq!(worker.places(3, 2), (vec![3, 4], None));
        assert!(!worker.is_taken(1) && worker.is_taken(4));
        let mut last = stops.pop().expect("one of four");
        let place = last.place().expect("entered");
        let polls = Rc::new(Cell::new(0));
        let counted = polls.clone();
        let task = tokio::task::spawn_local(poll_fn(move |cx| {
            counted.set(counted.get() + 1);
            last.poll_stopping(cx)
        }));
        for polled in 1..4 {
            tokio::task::yield_now().await;
            assert_eq!(polls.get(), polled);
            worker.wake(place);
        }
        worker.wake(1);
        task.abort();
    }

    #[tokio::test(flavor = "local")]
    async fn a_part_is_drained_alone_and_never_stays_behind_the_whole() {
        let lifecycle = Lifecycle::new();
        let (worker, follower) = lifecycle.follow();
        tokio::task::spawn_local(follower);
        let (first, second) = (worker.part(), worker.part());
        let (mut told, mut quiet) = (first.stop(), second.stop());
        let deadline = clock::now();
        first.drain(deadline);
        assert_eq!(told.stopping().await, Phase::Draining { deadline, ask_until: deadline });
        assert_eq!((worker.phase(), second.phase()), (Phase::Running, Phase::Running));
        lifecycle.end();
        told.ended().await;
        quiet.ended().await;
        assert_eq!(worker.part().phase(), Phase::Ended, "also one that is made late");
        drop((first, second, told, quiet));
        let _part = worker.part();
        assert_eq!(worker.parts.borrow().len(), 1, "those that are gone are forgotten");
    }
}
