//! A listener from one configuration to the next, as the connections of one worker see it.
//!
//! Connections hold this for as long as they live, and nothing of a configuration: a request meets the one that is in use
//! when its head is whole. Where a reload changes what a connection has been promised or has had to prove, those that
//! wait are woken to look ([`LiveListener::revision`]).
//! A listener that a reload takes away, or an operator, drains: its idle connections close and the others finish. What it had accepted
//! until then still gets the answer that it came for, from the configuration that the listener had last; after [`PARTING`]
//! that is let go of, whatever some connection may still be waiting for.

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::tools::Generation;
use crate::clock;
use crate::config::model::ListenerTimeouts;
use crate::lifecycle::{self, Stop, WorkerPhase};
use crate::snapshot::{ListenerPlan, Snapshot};
use crate::telemetry::metrics::{ListenerBook, ListenerCells, Own};
use crate::types::Name;

/// How long a connection that has never asked for anything may take to do so once its listener is gone.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How long the last configuration of a listener that is gone is kept for what it had accepted.
const PARTING: Duration = Duration::from_secs(30);

/// See the module.
pub struct LiveListener {
    name: RefCell<Name>,
    /// `None`: the listener is gone, and its last configuration as well.
    serving: RefCell<Option<Serving>>,
    /// Follows the worker's, unless the listener drains alone.
    phase: Rc<WorkerPhase>,
    revision: Cell<u32>,
    /// What this worker counts of it, and in which book.
    counts: RefCell<(Rc<Own<ListenerCells>>, Arc<ListenerBook>)>,
}

/// What a request is served by: a configuration, and the listener within it.
#[derive(Clone)]
pub struct Serving {
    pub generation: Rc<Generation>,
    index: usize,
}

impl Serving {
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.generation.snapshot
    }

    pub fn listener(&self) -> &Arc<ListenerPlan> {
        &self.generation.snapshot.listeners[self.index]
    }
}

impl LiveListener {
    /// The listener at this place of a generation. `worker` is the phase that it follows.
    pub(super) fn new(generation: &Rc<Generation>, index: usize, worker: &WorkerPhase) -> Rc<Self> {
        let serving = Serving { generation: generation.clone(), index };
        Rc::new(Self {
            name: RefCell::new(serving.listener().name.clone()),
            phase: worker.part(),
            revision: Cell::new(0),
            counts: RefCell::new(counts(&serving.listener().book)),
            serving: RefCell::new(Some(serving)),
        })
    }

    /// From now on it is the one at this place of another generation.
    pub(super) fn move_to(&self, generation: &Rc<Generation>, index: usize) {
        let next = Serving { generation: generation.clone(), index };
        let plan = next.listener().clone();
        *self.name.borrow_mut() = plan.name.clone();
        if !Arc::ptr_eq(&self.counts.borrow().1, &plan.book) {
            self.counts.replace(counts(&plan.book));
        }
        let before = self.serving.replace(Some(next));
        if before.is_none_or(|before| !before.listener().offers_the_same(&plan)) {
            self.revision.set(self.revision.get().wrapping_add(1));
            self.phase.nudge();
        }
    }

    /// It is in no configuration any more, or takes nobody: nothing that comes in later belongs to it.
    pub(super) fn retire(self: Rc<Self>) {
        self.phase.drain(clock::now() + FIRST_REQUEST);
        let last = Rc::downgrade(&self);
        drop(self);
        // Without connections it is gone by now.
        if last.strong_count() > 0 {
            lifecycle::spawn_local("listener parting", async move {
                tokio::time::sleep(PARTING).await;
                if let Some(listener) = last.upgrade() {
                    listener.serving.take();
                }
            });
        }
    }

    /// What this worker counts of it.
    pub fn counts(&self) -> Rc<Own<ListenerCells>> {
        self.counts.borrow().0.clone()
    }

    pub fn name(&self) -> Ref<'_, Name> {
        self.name.borrow()
    }

    /// What serves a request that comes now.
    pub fn serving(&self) -> Option<Serving> {
        self.serving.borrow().clone()
    }

    /// Those of now. Where the listener is gone nobody waits.
    pub fn timeouts(&self) -> ListenerTimeouts {
        let gone = ListenerTimeouts {
            tls_handshake: Duration::ZERO,
            request_head: Duration::ZERO,
            keep_alive: Duration::ZERO,
        };
        self.serving.borrow().as_ref().map_or(gone, |serving| serving.listener().timeouts.clone())
    }

    /// Another number means that a connection may have become outdated.
    pub fn revision(&self) -> u32 {
        self.revision.get()
    }

    /// Tells a connection when it has to finish: with the process, or with this listener alone.
    pub fn stop(&self) -> Stop {
        self.phase.stop()
    }
}

fn counts(book: &Arc<ListenerBook>) -> (Rc<Own<ListenerCells>>, Arc<ListenerBook>) {
    (Rc::new(book.cells.join()), book.clone())
}
