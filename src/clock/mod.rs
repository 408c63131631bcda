//! Time: the only place that reads a clock, and the coarse timer wheel of a worker.
//!
//! [`now`] is tokio's monotonic clock, so that tests may pause it; [`wall`] is for what people read. A [`Wheel`] carries
//! the deadlines that are long and mostly never reached (an idle tunnel, a silent connection) in steps of [`TICK`]:
//! 32 bytes each, O(1) to add and to remove, and no timer of the runtime. It never fires early and at most one tick
//! plus the worker's own delay late. Its [`Ticker`] sleeps until the next tick at which something may be due, and without
//! a timer while the wheel is empty, so that a worker with nothing but far deadlines is hardly ever woken.
//!
//! Deadlines are re-armed lazily: who is active only notes when, and when the entry fires it re-registers for what is
//! left. Dropping an [`Entry`] removes it; dropping the [`Ticker`] stops the wheel for good.

mod alarm;
mod atomic;
mod idle;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use slab::Slab;

use alarm::Alarm;
pub use atomic::{AtomicInstant, seconds, stamp};
pub use idle::IdleTimer;

/// A point on the monotonic clock.
pub type Instant = tokio::time::Instant;

/// The grain of a wheel, and so how late a deadline may be noticed.
pub const TICK: Duration = Duration::from_millis(250);

/// Slots of a wheel: 256 s a turn. Longer deadlines stay in their slot for several turns and cost one look each.
const SLOTS: u64 = 1024;

/// The end of a list of entries.
const NONE: u32 = u32::MAX;

/// A tick that does not come.
const NEVER: u64 = u64::MAX;

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// The monotonic clock as other processes of this machine read it (`CLOCK_MONOTONIC`), in microseconds.
pub fn monotonic_micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec) * 1_000_000 + part(now.tv_nsec) / 1_000
}

/// The wall clock. For log lines and certificates' dates, never for deadlines.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// The deadlines of one worker.
#[derive(Debug)]
pub struct Wheel {
    inner: RefCell<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Tick zero.
    origin: Instant,
    /// Invariant: no linked node is due at or before this tick.
    current: u64,
    slots: Box<[Slot]>,
    nodes: Slab<Node>,
    /// Linked nodes; fired ones stay in `nodes` until their entry goes.
    linked: usize,
    /// The tick for which the ticker sleeps; [`NEVER`]: without a timer.
    wakes_at: u64,
    ticker: Option<Waker>,
}

/// The entries whose ticks are the same modulo [`SLOTS`].
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Of a doubly linked list through `nodes`.
    head: u32,
    /// None of them is due before this tick.
    earliest: u64,
}

#[derive(Debug)]
struct Node {
    due: u64,
    previous: u32,
    next: u32,
    /// `None` once fired.
    waker: Option<Waker>,
}

impl Wheel {
    /// A wheel and the future that turns it, which the worker spawns once.
    pub fn new() -> (Rc<Self>, Ticker) {
        let wheel = Rc::new(Self {
            inner: RefCell::new(Inner {
                origin: now(),
                current: 0,
                slots: vec![Slot { head: NONE, earliest: NEVER }; SLOTS as usize].into_boxed_slice(),
                nodes: Slab::new(),
                linked: 0,
                wakes_at: NEVER,
                ticker: None,
            }),
        });
        (wheel.clone(), Ticker { wheel, alarm: Alarm::Runtime(None) })
    }

    /// Wakes `waker` once `deadline` has passed.
    pub fn register(self: &Rc<Self>, deadline: Instant, waker: &Waker) -> Entry {
        let mut inner = self.inner.borrow_mut();
        let due = inner.tick_of(deadline);
        let node = Node { due, previous: NONE, next: NONE, waker: Some(waker.clone()) };
        // Four billion deadlines do not fit into memory.
        let key = inner.nodes.insert(node) as u32;
        let ticker = inner.link(key);
        drop(inner);
        if let Some(ticker) = ticker {
            ticker.wake();
        }
        Entry { wheel: self.clone(), key }
    }

    /// Waits until `deadline`, coarsely. Costs nothing of the runtime's timers.
    pub fn sleep_until(self: &Rc<Self>, deadline: Instant) -> Sleep {
        Sleep { wheel: self.clone(), deadline, entry: None }
    }

    /// Entries that have not fired.
    pub fn len(&self) -> usize {
        self.inner.borrow().linked
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fires what is due at `instant`. The ticker's business, or that of whoever moves time by hand.
    pub(crate) fn advance(&self, instant: Instant) {
        let mut due = Vec::new();
        self.inner.borrow_mut().collect(instant, &mut due);
        // Outside the borrow: a waker may run anything.
        due.into_iter().for_each(Waker::wake);
    }
}

impl Inner {
    /// The first tick at or after `deadline`, but never one that has been.
    fn tick_of(&mut self, deadline: Instant) -> u64 {
        if self.linked == 0 {
            // The wheel stood still; nothing is linked, so nothing is skipped.
            self.current = self.current.max(ticks(now().saturating_duration_since(self.origin)));
        }
        let since = deadline.saturating_duration_since(self.origin);
        let whole = ticks(since);
        let rounded_up = if since > TICK * u32::try_from(whole).unwrap_or(u32::MAX) { whole + 1 } else { whole };
        rounded_up.max(self.current + 1)
    }

    /// Returns the ticker's waker if it would sleep for too long.
    fn link(&mut self, key: u32) -> Option<Waker> {
        let index = self.slot_of(key);
        let node = &mut self.nodes[key as usize];
        let due = node.due;
        let slot = &mut self.slots[index];
        let head = std::mem::replace(&mut slot.head, key);
        slot.earliest = slot.earliest.min(due);
        node.previous = NONE;
        node.next = head;
        if head != NONE {
            self.nodes[head as usize].previous = key;
        }
        self.linked += 1;
        if due < self.wakes_at { self.ticker.take() } else { None }
    }

    fn unlink(&mut self, key: u32) {
        let slot = self.slot_of(key);
        let Node { previous, next, .. } = self.nodes[key as usize];
        match previous {
            NONE => self.slots[slot].head = next,
            _ => self.nodes[previous as usize].next = next,
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        if self.slots[slot].head == NONE {
            self.slots[slot].earliest = NEVER;
        }
        self.linked -= 1;
    }

    fn slot_of(&self, key: u32) -> usize {
        (self.nodes[key as usize].due % SLOTS) as usize
    }

    fn collect(&mut self, instant: Instant, fired: &mut Vec<Waker>) {
        let reached = ticks(instant.saturating_duration_since(self.origin));
        // After a long stall one turn over all slots sees everything.
        let first = (self.current + 1).max(reached.saturating_sub(SLOTS - 1));
        for tick in first..=reached {
            let slot = &mut self.slots[(tick % SLOTS) as usize];
            if slot.earliest > reached {
                continue;
            }
            let (mut key, mut earliest) = (slot.head, NEVER);
            while key != NONE {
                let Node { due, next, .. } = self.nodes[key as usize];
                if due <= reached {
                    self.unlink(key);
                    fired.extend(self.nodes[key as usize].waker.take());
                } else {
                    earliest = earliest.min(due);
                }
                key = next;
            }
            self.slots[(tick % SLOTS) as usize].earliest = earliest;
        }
        self.current = self.current.max(reached);
    }

    /// The tick at which something may be due.
    fn next_due(&self) -> u64 {
        self.slots.iter().map(|slot| slot.earliest).min().unwrap_or(NEVER)
    }
}

fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX)
}

/// A registered deadline; dropping it removes it.
#[derive(Debug)]
pub struct Entry {
    wheel: Rc<Wheel>,
    key: u32,
}

impl Entry {
    /// Whether the deadline has passed. Until then `cx`'s task is the one that will be woken.
    pub fn poll_fired(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.wheel.inner.borrow_mut().nodes[self.key as usize].waker {
            None => true,
            Some(waker) => {
                waker.clone_from(cx.waker());
                false
            }
        }
    }

    /// Moves the deadline, whether it has fired or not.
    pub fn rearm(&mut self, deadline: Instant, waker: &Waker) {
        let mut inner = self.wheel.inner.borrow_mut();
        if inner.nodes[self.key as usize].waker.is_some() {
            inner.unlink(self.key);
        }
        let due = inner.tick_of(deadline);
        let node = &mut inner.nodes[self.key as usize];
        node.due = due;
        node.waker = Some(waker.clone());
        let ticker = inner.link(self.key);
        drop(inner);
        if let Some(ticker) = ticker {
            ticker.wake();
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut inner = self.wheel.inner.borrow_mut();
        if inner.nodes[self.key as usize].waker.is_some() {
            inner.unlink(self.key);
        }
        let node = inner.nodes.remove(self.key as usize);
        if inner.nodes.is_empty() && inner.nodes.capacity() > 1024 {
            // A burst that has gone leaves nothing behind.
            inner.nodes = Slab::new();
        }
        drop(inner);
        drop(node);
    }
}

/// See [`Wheel::sleep_until`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    wheel: Rc<Wheel>,
    deadline: Instant,
    entry: Option<Entry>,
}

impl Sleep {
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Moves the deadline. One that is only pushed back is moved lazily: nothing is touched until the old one fires.
    pub fn reset(&mut self, deadline: Instant) {
        if deadline < self.deadline {
            self.entry = None;
        }
        self.deadline = deadline;
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        match &mut this.entry {
            None => {
                if now() >= this.deadline {
                    return Poll::Ready(());
                }
                this.entry = Some(this.wheel.register(this.deadline, cx.waker()));
            }
            Some(entry) => {
                if entry.poll_fired(cx) {
                    if now() >= this.deadline {
                        return Poll::Ready(());
                    }
                    entry.rearm(this.deadline, cx.waker());
                }
            }
        }
        Poll::Pending
    }
}

/// Turns a wheel. Never completes.
#[derive(Debug)]
#[must_use = "a wheel without its ticker never fires"]
pub struct Ticker {
    wheel: Rc<Wheel>,
    /// Set to `wakes_at` while the wheel has entries.
    alarm: Alarm,
}

impl Ticker {
    /// Takes no timer of the runtime's, if the system has a descriptor to give: see the module `alarm`. For a worker;
    /// does not follow a paused clock.
    ///
    /// # Panics
    /// Outside of the worker's runtime.
    pub fn on_descriptor(self) -> Self {
        Self { alarm: Alarm::on_descriptor().unwrap_or(self.alarm), ..self }
    }
}

impl Future for Ticker {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            let deadline = {
                let inner = &mut *this.wheel.inner.borrow_mut();
                inner.ticker = Some(cx.waker().clone());
                if inner.linked == 0 {
                    inner.wakes_at = NEVER;
                    this.alarm.rest();
                    return Poll::Pending;
                }
                inner.wakes_at = inner.next_due();
                inner.instant_of(inner.wakes_at)
            };
            if this.alarm.poll(cx, deadline).is_pending() {
                return Poll::Pending;
            }
            this.wheel.advance(now());
        }
    }
}

impl Inner {
    fn instant_of(&self, tick: u64) -> Instant {
        let whole = TICK.saturating_mul(u32::try_from(tick).unwrap_or(u32::MAX));
        // Whoever waits for longer than the clock goes is woken in a day, and waits on.
        self.origin.checked_add(whole).unwrap_or_else(|| now() + Duration::from_secs(86_400))
    }
}

#[cfg(test)]
mod tests;
