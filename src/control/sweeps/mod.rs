//! Sweeps: the tunnels of something that drains, closed one after the other. Of the process, a listener, a route, a server by
//! name with a pace of its own; or those that a filter means.
//!
//! Who begins one says at which pace; there may be many at a time, each with its own. Whether anything new comes is decided
//! elsewhere (`limits/shut.rs`, `upstream/asked.rs`, the lifecycle), except that a listener or a route that is asked to drain is shut here.
//! A sweep stays until it is undone, since a tunnel may still open that was asked for before; what a filter means is
//! looked for once. `work.rs` does the closing, on the control plane.
//!
//! Bounded: one sweep for each listener, route and server that is named, 16 of filters, and 16 bytes for each tunnel
//! that one of them means.

mod work;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::tunnels::Tunnels;
use crate::clock::{self, Instant};
use crate::exchange::live::{CloseOrder, Matches, TunnelRow};
use crate::limits::Shut;
use crate::snapshot::Snapshot;
use crate::types::Name;

/// Sweeps by a filter that are under way at once.
const MOST_FILTERS: usize = 16;

/// How long the outcome of one by a filter can still be asked for, and of how many.
const REMEMBERED: Duration = Duration::from_secs(60);
const MOST_REMEMBERED: usize = 64;

/// The pace where nobody says another.
pub const DEFAULT: Speed = Speed::Over(Duration::from_secs(30));

/// The part of the time that a process has to drain which its tunnels are spread over at most: who is late is not cut.
const MOST_OF: (u32, u32) = (9, 10);

/// The sweeps. Clones are the same.
#[derive(Clone)]
pub struct Sweeps {
    shared: Arc<Shared>,
}

struct Shared {
    all: Mutex<All>,
    listeners: Arc<Shut>,
    routes: Arc<Shut>,
    changed: Notify,
    /// Somebody has asked for the drain of the process.
    stop: Notify,
}

#[derive(Default)]
struct All {
    entries: Vec<Entry>,
    next: u64,
    /// What was asked for, until whoever drains the process takes it.
    stop: Option<Option<Speed>>,
}

/// What is swept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Process,
    Listener(Name),
    Route(Name),
    Server {
        upstream: Name,
        server: Name,
    },
    /// The tunnels that a filter means, as it was written.
    Tunnels(Name),
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    /// So many in a second.
    Rate(u32),
    /// All that there are at the beginning within this time.
    Over(Duration),
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepProgress {
    /// Tunnels that were found.
    pub total: usize,
    /// Those that have been told to close.
    pub closed: usize,
    /// Those that have not, and were still there when last looked for.
    pub left: usize,
    /// Nothing is left to do, as far as is known.
    pub is_done: bool,
}

/// A sweep.
#[derive(Clone, Debug)]
pub struct Sweep {
    pub number: u64,
    pub subject: Subject,
    pub speed: Speed,
    pub since: Instant,
    pub progress: SweepProgress,
}

struct Entry {
    sweep: Sweep,
    plan: Plan,
    done: Option<Instant>,
}

/// What is to be done.
#[derive(Clone)]
struct Plan {
    matches: Matches,
    order: Arc<CloseOrder>,
    speed: Speed,
    /// Counts how often it was asked for.
    edition: u64,
    /// Tunnels that come later are not meant.
    is_once: bool,
}

/// Nothing more is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl Sweeps {
    pub fn new(snapshot: &Snapshot) -> Self {
        Self::of(snapshot.shut_listeners.clone(), snapshot.shut_routes.clone())
    }

    fn of(listeners: Arc<Shut>, routes: Arc<Shut>) -> Self {
        let shared = Shared { all: Mutex::default(), listeners, routes, changed: Notify::new(), stop: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Asks for the drain of the process; or, where it drains, for another pace.
    pub fn stop_process(&self, speed: Option<Speed>) {
        self.all().stop = Some(speed);
        self.shared.stop.notify_one();
    }

    /// Waits until somebody asks for that; the pace, where one was named.
    pub async fn process_asked(&self) -> Option<Speed> {
        loop {
            let asked = self.all().stop.take();
            match asked {
                Some(speed) => return speed,
                None => self.shared.stop.notified().await,
            }
        }
    }

    /// The process drains: all of its tunnels are closed at this pace, before it is over with what is left.
    pub fn drain_process(&self, speed: Speed, hard_end: Instant) -> Sweep {
        let left = hard_end.saturating_duration_since(clock::now());
        let speed = match speed {
            Speed::Over(time) => Speed::Over(time.min(left * MOST_OF.0 / MOST_OF.1)),
            rate => rate,
        };
        let order = CloseOrder::process_drained();
        self.begin(self.all(), Subject::Process, speed, Arc::new(|_, _| true), order)
    }

    /// The listener takes no new connections, those that it has finish, and their tunnels are closed.
    ///
    /// # Errors
    /// So many drain that one more is not remembered.
    pub fn drain_listener(&self, listener: &Name, speed: Speed) -> Result<Sweep, TooMany> {
        let name = listener.clone();
        let matches = Arc::new(move |row: &TunnelRow, _: &_| row.way.listener == name);
        let order = CloseOrder::listener_drained();
        self.shut_and_sweep(
            (&self.shared.listeners, listener),
            Subject::Listener(listener.clone()),
            speed,
            matches,
            order,
        )
    }

    /// Whether that was asked for and not undone.
    pub fn is_shut(&self, listener: &Name) -> bool {
        self.shared.listeners.has(listener)
    }

    /// Another process has had the listeners for a while, and may have opened what is shut.
    pub fn shut_again(&self) {
        self.shared.listeners.nudge();
    }

    /// The route takes no new tunnels, and those that it has are closed.
    ///
    /// # Errors
    /// So many drain that one more is not remembered.
    pub fn drain_route(&self, route: &Name, speed: Speed) -> Result<Sweep, TooMany> {
        let name = route.clone();
        let matches = Arc::new(move |row: &TunnelRow, _: &_| row.way.route.as_ref() == Some(&name));
        let order = CloseOrder::route_drained();
        self.shut_and_sweep((&self.shared.routes, route), Subject::Route(route.clone()), speed, matches, order)
    }

    fn shut_and_sweep(
        &self,
        (shut, name): (&Shut, &Name),
        subject: Subject,
        speed: Speed,
        matches: Matches,
        order: CloseOrder,
    ) -> Result<Sweep, TooMany> {
        // Under the lock until it is known, so that of two who say something different the last one counts.
        let all = self.all();
        if !shut.shut(name) {
            return Err(TooMany);
        }
        Ok(self.begin(all, subject, speed, matches, order))
    }

    /// Closes the tunnels of a server that drains already.
    pub fn drain_server(&self, upstream: &Name, server: &Name, speed: Speed) -> Sweep {
        let (of, at) = (upstream.clone(), server.clone());
        let matches = Arc::new(move |row: &TunnelRow, _: &_| {
            row.way.upstream.as_ref() == Some(&of) && row.way.server.as_ref() == Some(&at)
        });
        let subject = Subject::Server { upstream: upstream.clone(), server: server.clone() };
        self.begin(self.all(), subject, speed, matches, CloseOrder::server_drained())
    }

    /// Closes the tunnels that a filter means now.
    ///
    /// # Errors
    /// So many are at it that another one has to wait.
    pub fn close(&self, filter: &str, matches: Matches, order: CloseOrder, speed: Speed) -> Result<Sweep, TooMany> {
        let all = self.all();
        let is_at_work = |entry: &&Entry| entry.plan.is_once && entry.done.is_none();
        if all.entries.iter().filter(is_at_work).count() >= MOST_FILTERS {
            return Err(TooMany);
        }
        let since = clock::now();
        // Where it has to be looked for them once more, those that have come since are not among them.
        let matches: Matches = Arc::new(move |row, server| row.age >= since.elapsed() && matches(row, server));
        Ok(self.begin(all, Subject::Tunnels(filter.into()), speed, matches, order))
    }

    fn begin(
        &self,
        mut all: MutexGuard<'_, All>,
        subject: Subject,
        speed: Speed,
        matches: Matches,
        order: CloseOrder,
    ) -> Sweep {
        let is_once = matches!(subject, Subject::Tunnels(_));
        all.next += 1;
        let (edition, order) = (all.next, Arc::new(order));
        let plan = Plan { matches, order, speed, edition, is_once };
        let known = all.entries.iter_mut().find(|entry| !is_once && entry.sweep.subject == subject);
        let sweep = match known {
            // Since the first time, at another pace.
            Some(entry) => {
                entry.sweep.speed = speed;
                entry.sweep.progress.is_done = false;
                (entry.plan, entry.done) = (plan, None);
                entry.sweep.clone()
            }
            None => {
                let (since, progress) = (clock::now(), SweepProgress::default());
                let sweep = Sweep { number: edition, subject, speed, since, progress };
                all.entries.push(Entry { sweep: sweep.clone(), plan, done: None });
                sweep
            }
        };
        drop(all);
        self.shared.changed.notify_one();
        sweep
    }

    /// Closes nothing more for it, and lets its listener take connections again, its route tunnels. The process goes on draining.
    pub fn undo(&self, subject: &Subject) -> Option<Sweep> {
        let mut all = self.all();
        let at = all.entries.iter().position(|entry| entry.sweep.subject == *subject)?;
        let sweep = all.entries.remove(at).sweep;
        match &sweep.subject {
            Subject::Listener(listener) => self.shared.listeners.open(listener),
            Subject::Route(route) => self.shared.routes.open(route),
            Subject::Process | Subject::Server { .. } | Subject::Tunnels(_) => {}
        }
        drop(all);
        self.shared.changed.notify_one();
        Some(sweep)
    }

    /// The same, by its number.
    pub fn undo_by_number(&self, number: u64) -> Option<Sweep> {
        let of = self.list().into_iter().find(|sweep| sweep.number == number && sweep.subject != Subject::Process)?;
        match of.subject {
            // There may be two of one filter.
            Subject::Tunnels(_) => {
                let mut all = self.all();
                let at = all.entries.iter().position(|entry| entry.sweep.number == number)?;
                let sweep = all.entries.remove(at).sweep;
                drop(all);
                self.shared.changed.notify_one();
                Some(sweep)
            }
            subject => self.undo(&subject),
        }
    }

    /// All there are, the oldest first.
    pub fn list(&self) -> Vec<Sweep> {
        let mut all = self.all();
        all.forget();
        all.entries.iter().map(|entry| entry.sweep.clone()).collect()
    }

    /// The one of this subject.
    pub fn find(&self, subject: &Subject) -> Option<Sweep> {
        self.all().entries.iter().find(|entry| entry.sweep.subject == *subject).map(|entry| entry.sweep.clone())
    }

    /// Does what is asked for; never completes. Dropping it stops all of them.
    pub async fn run(self, tunnels: Tunnels) {
        work::run(&self, &tunnels).await;
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.shared.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    /// Those by a filter that have been done for a while, or of which there are too many.
    fn forget(&mut self) {
        let now = clock::now();
        let is_old = |entry: &Entry| entry.plan.is_once && entry.done.is_some_and(|done| now >= done + REMEMBERED);
        self.entries.retain(|entry| !is_old(entry));
        let done = |entry: &Entry| entry.plan.is_once && entry.done.is_some();
        let mut surplus = self.entries.iter().filter(|entry| done(entry)).count().saturating_sub(MOST_REMEMBERED);
        self.entries.retain(|entry| {
            let goes = surplus > 0 && done(entry);
            surplus -= usize::from(goes);
            !goes
        });
    }
}

impl Subject {
    /// In one word.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Listener(_) => "listener",
            Self::Route(_) => "route",
            Self::Server { .. } => "server",
            Self::Tunnels(_) => "tunnels",
        }
    }

    /// Which one of its kind, for the log.
    pub fn name(&self) -> &str {
        match self {
            Self::Process => "",
            Self::Listener(name) | Self::Route(name) | Self::Tunnels(name) | Self::Server { server: name, .. } => {
                name.as_str()
            }
        }
    }
}
