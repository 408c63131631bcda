//! A worker from outside: how much it has to do, and how late it is. Looking costs the worker nothing.

use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::RuntimeMetrics;
use tokio::sync::mpsc;

use super::command::Command;
use crate::clock;
use crate::listener::WorkerLoad;
use crate::telemetry::metrics::{Ledger, Own, WorkerCells};

/// How often a worker is asked how late it is. A timer of its runtime, which is a few microseconds a second.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A worker as others see it. Clones are of the same worker.
#[derive(Clone)]
pub struct WorkerView {
    load: Arc<WorkerLoad>,
    commands: mpsc::Sender<Command>,
    told: Arc<Told>,
}

/// What the worker tells of itself.
#[derive(Default)]
pub(super) struct Told {
    cells: Ledger<WorkerCells>,
    runtime: OnceLock<RuntimeMetrics>,
}

impl Told {
    /// For the worker, on its thread.
    pub(super) fn begin(&self) -> Rc<Own<WorkerCells>> {
        // A worker begins once.
        let _ = self.runtime.set(tokio::runtime::Handle::current().metrics());
        Rc::new(self.cells.join())
    }
}

impl WorkerView {
    pub(super) fn new(load: Arc<WorkerLoad>, commands: mpsc::Sender<Command>, told: Arc<Told>) -> Self {
        Self { load, commands, told }
    }

    /// Connections that live on it.
    pub fn connections(&self) -> usize {
        self.load.connections()
    }

    /// Connections that wait in its inbox, and commands.
    pub fn waiting(&self) -> (u64, usize) {
        let taken = self.cells().taken.get();
        let commands = self.commands.max_capacity() - self.commands.capacity();
        (self.load.given().saturating_sub(taken), commands)
    }

    /// How long it has been at work since its start; what it is at right now is not always in it.
    pub fn busy(&self) -> Duration {
        self.told.runtime.get().map_or(Duration::ZERO, |runtime| runtime.worker_total_busy_duration(0))
    }

    /// What it has counted.
    pub fn cells(&self) -> WorkerCells {
        self.told.cells.sum()
    }
}

/// Notes how much later than it was due each of its turns comes.
pub(super) async fn watch_lag(cells: Rc<Own<WorkerCells>>) {
    let mut due = clock::now() + ASK_EVERY;
    loop {
        tokio::time::sleep_until(due).await;
        let now = clock::now();
        cells.note_lag(now.saturating_duration_since(due));
        due = now + ASK_EVERY;
    }
}
