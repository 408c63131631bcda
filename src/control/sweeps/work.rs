//! The closing itself: who is meant is looked for, shuffled over all workers, and told one after the other.
//!
//! When all have been told it is looked again, ever more seldom: a handshake may have been under way, a worker may not have
//! answered. What is asked of a worker has a deadline there, so that one that is stuck delays the others and no more.

use std::sync::Arc;
use std::time::Duration;

use super::{Plan, Speed, Subject, SweepProgress, Sweeps};
use crate::clock::{self, Instant};
use crate::config;
use crate::control::pace::{Pace, Random, per_second};
use crate::control::tunnels::Tunnels;
use crate::exchange::live::{Matches, TunnelRef, TunnelState};

/// Finer than this nobody sleeps: what is due meanwhile is closed together.
const GRAIN: Duration = Duration::from_millis(2);

/// When it is looked again after the last one was told, doubled each time that there was nobody.
const LOOK: Duration = Duration::from_secs(1);
const LONGEST_LOOK: Duration = Duration::from_secs(30);

/// How often it is looked again for what a filter means, where workers have not answered.
const TRIES: u32 = 3;

/// How often a sweep says how far it is.
const TOLD: Duration = Duration::from_secs(10);

/// So far away that somebody has asked for something before.
const LATER: Duration = Duration::from_secs(3600);

pub(super) async fn run(sweeps: &Sweeps, tunnels: &Tunnels) {
    let mut works = Vec::<Work>::new();
    loop {
        take_up(sweeps, &mut works);
        let mut next = clock::now() + LATER;
        for work in &mut works {
            if let Some(then) = work.step(tunnels).await {
                next = next.min(then);
            }
            note(sweeps, work);
        }
        works.retain(|work| !work.is_over());
        tokio::select! {
            () = sweeps.shared.changed.notified() => {}
            () = tokio::time::sleep_until(next.max(clock::now() + GRAIN)) => {}
        }
    }
}

/// Begins what was asked for, and lets go of what is not any more.
fn take_up(sweeps: &Sweeps, works: &mut Vec<Work>) {
    let mut all = sweeps.all();
    all.forget();
    works.retain(|work| all.entries.iter().any(|entry| entry.sweep.number == work.number));
    for entry in all.entries.iter().filter(|entry| entry.done.is_none() || !entry.plan.is_once) {
        match works.iter_mut().find(|work| work.number == entry.sweep.number) {
            Some(work) if work.plan.edition == entry.plan.edition => {}
            Some(work) => work.begin_anew(entry),
            None => works.push(Work::new(entry.sweep.number, entry)),
        }
    }
}

/// Lets others see how far it is.
fn note(sweeps: &Sweeps, work: &Work) {
    let mut all = sweeps.all();
    let of = all.entries.iter_mut().find(|entry| entry.sweep.number == work.number);
    // Asked for once more meanwhile: what is known is of the time before.
    if let Some(entry) = of.filter(|entry| entry.plan.edition == work.plan.edition) {
        entry.sweep.progress = work.progress;
        entry.done = work.progress.is_done.then(|| entry.done.unwrap_or_else(clock::now));
    }
}

/// One sweep at work.
struct Work {
    number: u64,
    subject: Subject,
    plan: Plan,
    since: Instant,
    pace: Pace,
    /// The time between two, in the mean: of those that were found last.
    mean: Duration,
    /// Those that are to be closed, in no order.
    queue: Vec<TunnelRef>,
    progress: SweepProgress,
    /// When it is looked for them again; `None`: at once.
    look: Option<Instant>,
    wait: Duration,
    /// Some worker has not answered since it was last looked.
    is_owed: bool,
    tries: u32,
    told: Instant,
    has_begun: bool,
}

impl Work {
    fn new(number: u64, entry: &super::Entry) -> Self {
        Self {
            number,
            subject: entry.sweep.subject.clone(),
            plan: entry.plan.clone(),
            since: clock::now(),
            pace: Pace::new(),
            mean: Duration::ZERO,
            queue: Vec::new(),
            progress: SweepProgress::default(),
            look: None,
            wait: LOOK,
            is_owed: false,
            tries: TRIES,
            told: clock::now(),
            has_begun: false,
        }
    }

    /// It was asked for once more: at another pace, and those that are left are looked for again.
    fn begin_anew(&mut self, entry: &super::Entry) {
        let SweepProgress { total, closed, left, .. } = self.progress;
        let progress = SweepProgress { total: total - left, closed, left: 0, is_done: false };
        let pace = std::mem::replace(&mut self.pace, Pace::new());
        *self = Self { progress, pace, ..Self::new(self.number, entry) };
    }

    /// Nothing will ever be to do again.
    fn is_over(&self) -> bool {
        self.plan.is_once && self.progress.is_done
    }

    /// Closes what is due; when something is again.
    async fn step(&mut self, tunnels: &Tunnels) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        if self.queue.is_empty() {
            if let Some(look) = self.look.filter(|look| clock::now() < *look) {
                return Some(look);
            }
            self.find(tunnels).await;
            if self.queue.is_empty() {
                return self.settle();
            }
        }
        let due = self.pace.due(self.mean, clock::now()).min(self.queue.len());
        let these = self.queue.split_off(self.queue.len() - due);
        if !these.is_empty() {
            let closed = tunnels.close_these(these, &self.plan.order).await;
            self.progress.closed += closed.tunnels;
            self.progress.left = self.queue.len();
            self.is_owed |= closed.silent > 0;
        }
        self.tell();
        if !self.queue.is_empty() {
            return self.pace.next();
        }
        self.queue = Vec::new();
        if self.plan.is_once { self.settle() } else { self.look_in(LOOK) }
    }

    /// Looks for those that are meant.
    async fn find(&mut self, tunnels: &Tunnels) {
        let (meant, subject) = (self.plan.matches.clone(), &self.subject);
        let is_open: Matches =
            Arc::new(move |row, server| row.progress.state != TunnelState::Closing && meant(row, server));
        let mut listing = tunnels.list(is_open);
        let mut queue = Vec::new();
        while let Some(rows) = listing.next().await {
            queue.extend(rows.into_iter().map(|row| row.tunnel));
        }
        Random::new().shuffle(&mut queue);
        let now = clock::now();
        self.pace.rest(now);
        if !queue.is_empty() {
            self.wait = LOOK;
            self.progress.total += queue.len();
            self.progress.left = queue.len();
            self.progress.is_done = false;
            let mean = self.plan.speed.mean(queue.len(), now - self.since);
            self.mean = mean;
            self.pace.change(mean, now);
            if !std::mem::replace(&mut self.has_begun, true) {
                self.told = now;
                let (what, name, tunnels) = (subject.what(), subject.name(), queue.len());
                let speed = self.plan.speed;
                tracing::info!(what, name, tunnels, %speed, "tunnels are closed one after the other");
            }
        }
        self.queue = queue;
        self.is_owed |= listing.silent > 0;
    }

    /// Nobody is left, as far as is known; when to look again.
    fn settle(&mut self) -> Option<Instant> {
        self.progress.left = 0;
        let is_owed = std::mem::take(&mut self.is_owed);
        if self.plan.is_once && is_owed && self.tries > 0 {
            self.tries -= 1;
            return self.look_in(LOOK);
        }
        self.end();
        if self.plan.is_once {
            return None;
        }
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST_LOOK);
        self.look_in(wait)
    }

    fn look_in(&mut self, wait: Duration) -> Option<Instant> {
        self.look = Some(clock::now() + wait);
        self.look
    }

    fn tell(&mut self) {
        let now = clock::now();
        if now >= self.told + TOLD {
            self.told = now;
            let SweepProgress { total, closed, left, .. } = self.progress;
            let (what, name) = (self.subject.what(), self.subject.name());
            tracing::info!(what, name, total, closed, left, "tunnels are still being closed");
        }
    }

    /// Nothing is left, as far as is known.
    fn end(&mut self) {
        self.progress.is_done = true;
        if std::mem::take(&mut self.has_begun) || self.plan.is_once {
            let SweepProgress { total, closed, .. } = self.progress;
            let (what, name) = (self.subject.what(), self.subject.name());
            let took = config::show_duration(clock::now() - self.since);
            tracing::info!(what, name, total, closed, took, "tunnels have been closed");
        }
    }
}

impl Speed {
    /// The time between two of so many, in the mean. Who is found when it has been going on for this long has what is left
    /// of the time, and a quarter of all at least: they, too, must not come back as one.
    fn mean(self, tunnels: usize, since: Duration) -> Duration {
        match self {
            Self::Rate(rate) => per_second(rate),
            Self::Over(time) => {
                let left = time.saturating_sub(since).max(time / 4);
                left / u32::try_from(tunnels.max(1)).unwrap_or(u32::MAX)
            }
        }
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rate(rate) => write!(out, "{rate} in a second"),
            Self::Over(time) => write!(out, "over {}", config::show_duration(*time)),
        }
    }
}
