//! What the requests of one worker share: the generation in use and its listeners, the timer wheel, the scratch buffers,
//! the logs. A reload changes the first two, in one step.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::clock::{Instant, Wheel};
use crate::fault::Rule;
use crate::lifecycle::{Lifecycle, Phase, WorkerPhase};
use crate::proto::request_id::RequestIds;
use crate::snapshot::{ListenerPlan, Snapshot};
use crate::telemetry::access::{AccessLog, AccessRecord};
use crate::telemetry::end::EndReason;
use crate::transport::Scratch;
use crate::types::Peer;
use crate::upstream::{Definition, Group};

use super::counts::RouteCounts;
use super::live::LiveTunnels;
use super::live_listener::LiveListener;
use super::record::{Place, Places, Way};
use super::refusals::Refusals;
use super::rule;

/// What the requests of one worker share.
pub struct Tools {
    current: RefCell<Current>,
    pub lifecycle: Lifecycle,
    pub phase: Rc<WorkerPhase>,
    pub access: Rc<AccessLog>,
    pub wheel: Rc<Wheel>,
    pub scratch: Rc<Scratch>,
    pub request_ids: RequestIds,
    /// The live tunnels.
    pub live: Rc<LiveTunnels>,
    pub refusals: Rc<Refusals>,
    places: Places,
    pub(super) numbers: Numbers,
}

/// The configuration in use.
struct Current {
    generation: Rc<Generation>,
    /// In its order.
    listeners: Vec<Rc<LiveListener>>,
}

/// Numbers connections, or tunnels, so that no two workers use the same: each counts in strides of the number of workers.
#[derive(Clone)]
pub struct Numbers {
    next: Cell<u64>,
    stride: u64,
}

impl Numbers {
    /// For one of `workers` workers, counted from 0.
    pub fn new(worker: usize, workers: usize) -> Self {
        Self { next: Cell::new(worker as u64 + 1), stride: workers as u64 }
    }

    pub(super) fn take(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number + self.stride);
        number
    }
}

/// A snapshot with this worker's groups for its upstreams, and what it counts. Requests keep the one they began with.
pub struct Generation {
    pub snapshot: Arc<Snapshot>,
    groups: Vec<Rc<Group>>,
    /// Of its routes, in its order.
    counts: Vec<OnceCell<Rc<RouteCounts>>>,
    /// Of requests that no route takes.
    pub unrouted: Rc<RouteCounts>,
}

impl Generation {
    /// Upstreams that are the same as in `before` keep their group, and with it their connections.
    fn new(snapshot: Arc<Snapshot>, before: Option<&Self>) -> Rc<Self> {
        let groups = before.map_or(&[][..], |before| &before.groups);
        let kept: HashMap<_, _> = groups.iter().map(|group| (Arc::as_ptr(&group.definition), group)).collect();
        let group = |upstream: &Arc<Definition>| match kept.get(&Arc::as_ptr(upstream)) {
            Some(group) => Rc::clone(group),
            None => Group::new(upstream.clone()),
        };
        let groups = snapshot.upstreams.iter().map(group).collect();
        let (counts, unrouted) = (Self::counts(&snapshot, before), before.map(|before| before.unrouted.clone()));
        let unrouted = unrouted.unwrap_or_else(|| RouteCounts::new(&snapshot.unrouted));
        Rc::new(Self { snapshot, groups, counts, unrouted })
    }

    /// Routes that were in `before` go on counting where they did.
    fn counts(snapshot: &Snapshot, before: Option<&Self>) -> Vec<OnceCell<Rc<RouteCounts>>> {
        let before = before.iter().flat_map(|before| before.snapshot.route_books.iter().zip(&before.counts));
        let known: HashMap<_, _> =
            before.filter_map(|(book, counts)| Some((Arc::as_ptr(book), counts.get()?))).collect();
        let of = |book| known.get(&Arc::as_ptr(book)).map_or_else(OnceCell::new, |known| Rc::clone(known).into());
        snapshot.route_books.iter().map(of).collect()
    }

    /// What is counted of a route.
    pub(super) fn counts_of(&self, route: usize) -> &Rc<RouteCounts> {
        self.counts[route].get_or_init(|| RouteCounts::new(&self.snapshot.route_books[route]))
    }

    /// The group of an upstream that a route's target names.
    pub fn group(&self, upstream: usize) -> &Rc<Group> {
        &self.groups[upstream]
    }
}

impl Tools {
    /// `phase`, `access`, `wheel` and `live` are the worker's own.
    pub fn new(
        snapshot: Arc<Snapshot>,
        lifecycle: Lifecycle,
        phase: Rc<WorkerPhase>,
        live: Rc<LiveTunnels>,
        access: Rc<AccessLog>,
        wheel: Rc<Wheel>,
        numbers: Numbers,
    ) -> Self {
        let generation = Generation::new(snapshot, None);
        let places = 0..generation.snapshot.listeners.len();
        let listeners = places.map(|index| LiveListener::new(&generation, index, &phase)).collect();
        Self {
            current: RefCell::new(Current { generation, listeners }),
            lifecycle,
            phase,
            access,
            wheel,
            scratch: Rc::new(Scratch::new()),
            request_ids: RequestIds::new(random()),
            live,
            refusals: Rc::default(),
            places: Places::default(),
            numbers,
        }
    }

    /// What all tunnels that go one way have in common.
    pub(super) fn place(&self, way: Way, counts: &Rc<RouteCounts>) -> Rc<Place> {
        self.places.find(way, |way| {
            let tunnels = counts.tunnels(&self.scratch, &self.wheel).clone();
            Place::new(way, &self.access, &self.live, counts.clone(), tunnels)
        })
    }

    /// The one line of a connection that did not get as far as HTTP.
    pub fn note_turned_away(&self, listener: &ListenerPlan, peer: &Peer, end: EndReason, rule: Rule, detail: &str) {
        // The connection was greeted by this plan: where it is gone, nobody knows its place any more.
        let snapshot = &self.generation().snapshot;
        let current = snapshot.listener(&listener.key).filter(|current| current.name == listener.name);
        let rule = current.and_then(|current| rule::name(rule, snapshot, current.index, None));
        self.note_refused(&AccessRecord {
            connection: self.numbers.take(),
            listener: listener.name.as_str(),
            client: peer.ip(),
            peer: Some(peer),
            end: Some(end),
            rule: rule.as_deref(),
            detail: Some(detail),
            ..AccessRecord::default()
        });
    }

    /// The one line of what was refused.
    pub(super) fn note_refused(&self, record: &AccessRecord<'_>) {
        self.refusals.note(record);
        self.access.record(record);
    }

    /// Another configuration takes the place of the one in use: for every request whose head is whole from now on.
    /// Listeners that are in both go on; those that are only in the old one drain.
    pub fn change(&self, snapshot: Arc<Snapshot>) {
        let current = &mut *self.current.borrow_mut();
        let generation = Generation::new(snapshot, Some(&current.generation));
        let before = current.generation.snapshot.listeners.iter().map(|plan| plan.key.clone());
        let mut before: HashMap<_, _> = before.zip(current.listeners.drain(..)).collect();
        for (index, plan) in generation.snapshot.listeners.iter().enumerate() {
            current.listeners.push(match before.remove(&plan.key) {
                Some(listener) => {
                    listener.move_to(&generation, index);
                    listener
                }
                None => LiveListener::new(&generation, index, &self.phase),
            });
        }
        before.into_values().for_each(LiveListener::retire);
        current.generation = generation;
    }

    /// A listener takes nobody from now on: what has come in by it finishes. What comes later, should it be opened again, has
    /// nothing to do with that.
    pub fn part_with(&self, index: usize) {
        let current = &mut *self.current.borrow_mut();
        if let Some(listener) = current.listeners.get_mut(index) {
            let next = LiveListener::new(&current.generation, index, &self.phase);
            std::mem::replace(listener, next).retire();
        }
    }

    /// Until when a connection that has never asked for anything may do so once, where no new ones are taken any more:
    /// in the phase of its listener, or that of the process, which goes before.
    pub fn last_call(&self, listener: Phase) -> Option<Instant> {
        let process = self.phase.phase();
        match if process.is_stopping() { process } else { listener } {
            Phase::Draining { ask_until, .. } => Some(ask_until),
            Phase::Running | Phase::Ended => None,
        }
    }

    /// The generation in use now.
    pub fn generation(&self) -> Rc<Generation> {
        self.current.borrow().generation.clone()
    }

    /// A listener of it, by its place.
    pub fn listener(&self, index: usize) -> Option<Rc<LiveListener>> {
        self.current.borrow().listeners.get(index).cloned()
    }
}

fn random() -> u64 {
    // Ids only have to differ; without randomness they still count up.
    u64::from_ne_bytes(random_bytes())
}

/// Zeros where there is no randomness to be had.
pub(super) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}
