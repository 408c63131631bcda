//! Whoever wants another configuration asks here, and may wait for what comes of it.
//!
//! All who ask while a reload is under way get the next one between them. Who reloads is above this floor.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot, watch};

use crate::config::report::{Problem, Report, Severity};
use crate::config::written::Changes;

/// Who may wait at a time.
const WAITING: usize = 256;

/// Problems that an outcome tells one by one.
pub const MOST: usize = 100;

/// Asks for reloads. Clones ask the same gateway.
#[derive(Clone, Debug, Default)]
pub struct Reloads {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    asked: Notify,
    is_held: watch::Sender<bool>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    list: Vec<oneshot::Sender<Arc<Outcome>>>,
    is_closed: bool,
}

/// What has come of a reload.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The one in use afterwards.
    pub generation: u64,
    /// `None`: nothing has changed, and the problems say why.
    pub changes: Option<Changes>,
    pub problems: Vec<Told>,
    /// Problems beyond those.
    pub unsaid: usize,
    /// All of it as `check` shows it.
    pub report: String,
}

/// A problem in the words of `check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub severity: Severity,
    pub code: &'static str,
    /// File, line and column; `None`: in no file.
    pub place: Option<String>,
    pub message: String,
    pub help: Option<String>,
    /// A second place, with its words.
    pub also: Option<String>,
}

impl Told {
    /// The first ones of a report.
    pub fn of(report: &Report) -> Vec<Self> {
        let told = report.problems.iter().take(MOST).map(|problem| {
            let Problem { severity, code, spot, message, help, also } = problem;
            let place = spot.as_ref().and_then(|spot| report.place(spot));
            let also =
                also.as_ref().map(|(spot, words)| format!("{words}: {}", report.place(spot).unwrap_or_default()));
            Self { severity: *severity, code, place, message: message.clone(), help: help.clone(), also }
        });
        told.collect()
    }
}

/// Why nobody can wait for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReload {
    /// The gateway stops.
    Stopping,
    /// So many wait already.
    Busy,
}

impl Reloads {
    /// Has the configuration read again; once that may be, while reloads are held.
    pub fn ask(&self) {
        if *self.shared.is_held.borrow() {
            tracing::warn!("no reload yet: an upgrade is under way, which reads the configuration as well");
        }
        self.shared.asked.notify_one();
    }

    /// There is to be none for now: two processes would serve two configurations. Whoever asks meanwhile waits.
    pub fn hold(&self) {
        self.shared.is_held.send_replace(true);
    }

    /// From now on there may be reloads again.
    pub fn release(&self) {
        self.shared.is_held.send_replace(false);
    }

    /// The same, and waits for what comes of it. Dropped, it goes on all the same.
    ///
    /// # Errors
    /// See [`NoReload`].
    pub async fn ask_and_wait(&self) -> Result<Arc<Outcome>, NoReload> {
        let (told, outcome) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if waiting.is_closed {
                return Err(NoReload::Stopping);
            }
            waiting.list.retain(|other| !other.is_closed());
            if waiting.list.len() >= WAITING {
                return Err(NoReload::Busy);
            }
            waiting.list.push(told);
        }
        self.ask();
        outcome.await.map_err(|_| NoReload::Stopping)
    }

    /// For whoever reloads: waits until somebody asks and nobody holds it. Those who wait for the answer are to be told by
    /// `Asked::tell`.
    pub async fn asked(&self) -> Asked {
        let mut is_held = self.shared.is_held.subscribe();
        loop {
            // The sender is beside it, and does not go.
            let _ = is_held.wait_for(|is_held| !is_held).await;
            self.shared.asked.notified().await;
            if !*is_held.borrow() {
                return Asked(std::mem::take(&mut self.waiting().list));
            }
            // Held since: it stays asked for.
            self.shared.asked.notify_one();
        }
    }

    /// There will be no more reloads.
    pub fn close(&self) {
        let mut waiting = self.waiting();
        waiting.is_closed = true;
        waiting.list.clear();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those who have asked for one reload.
#[derive(Debug)]
pub struct Asked(Vec<oneshot::Sender<Arc<Outcome>>>);

impl Asked {
    pub fn tell(self, outcome: &Arc<Outcome>) {
        for waiting in self.0 {
            // Whoever has gone does not miss it.
            let _ = waiting.send(outcome.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(generation: u64) -> Arc<Outcome> {
        Arc::new(Outcome { generation, changes: None, problems: Vec::new(), unsaid: 0, report: String::new() })
    }

    #[tokio::test(flavor = "local")]
    async fn all_who_ask_while_one_is_under_way_share_the_next() {
        let reloads = Reloads::default();
        let ask = || {
            let reloads = reloads.clone();
            tokio::task::spawn_local(async move { reloads.ask_and_wait().await.map(|outcome| outcome.generation) })
        };
        let first = ask();
        let asked = reloads.asked().await;
        let more = [ask(), ask(), ask()];
        tokio::task::yield_now().await;
        asked.tell(&outcome(2));
        assert_eq!(first.await.expect("no panic"), Ok(2));
        reloads.asked().await.tell(&outcome(3));
        for waiting in more {
            assert_eq!(waiting.await.expect("no panic"), Ok(3));
        }
        let late = ask();
        tokio::task::yield_now().await;
        reloads.close();
        assert_eq!(late.await.expect("no panic"), Err(NoReload::Stopping));
        assert_eq!(reloads.ask_and_wait().await.map(drop), Err(NoReload::Stopping));
    }

    #[tokio::test(flavor = "local")]
    async fn nobody_reloads_while_it_is_held_whoever_asks_and_one_reload_serves_all_of_them_afterwards() {
        let reloads = Reloads::default();
        let ask = || {
            let reloads = reloads.clone();
            tokio::task::spawn_local(async move { reloads.ask_and_wait().await.map(|outcome| outcome.generation) })
        };
        let reloader = reloads.clone();
        let reloader = tokio::task::spawn_local(async move {
            reloader.asked().await.tell(&outcome(2));
            let again = tokio::time::timeout(std::time::Duration::from_millis(10), reloader.asked()).await;
            assert!(again.is_err(), "one reload for all");
        });
        tokio::task::yield_now().await;
        reloads.hold();
        let waiting = [ask(), ask()];
        reloads.ask();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(waiting.iter().all(|task| !task.is_finished()), "an upgrade is under way");
        reloads.release();
        for task in waiting {
            assert_eq!(task.await.expect("no panic"), Ok(2));
        }
        reloader.await.expect("no panic");
    }

    #[tokio::test(flavor = "local")]
    async fn no_more_wait_than_may_and_those_who_have_gone_leave_their_place() {
        let reloads = Reloads::default();
        let waiting: Vec<_> = (0..WAITING)
            .map(|_| {
                let reloads = reloads.clone();
                tokio::task::spawn_local(async move { drop(reloads.ask_and_wait().await) })
            })
            .collect();
        while reloads.waiting().list.len() < WAITING {
            tokio::task::yield_now().await;
        }
        assert_eq!(reloads.ask_and_wait().await.map(drop), Err(NoReload::Busy));
        for task in waiting {
            task.abort();
            let _ = task.await;
        }
        let again = tokio::time::timeout(std::time::Duration::from_millis(10), reloads.ask_and_wait()).await;
        assert!(again.is_err(), "it waits");
    }
}
