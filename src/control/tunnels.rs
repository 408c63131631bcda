//! The live tunnels of all workers: listed page by page, and closed. And their last refusals.
//!
//! A worker that does not answer in time is passed over and counted: it cannot hold up what the others say.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::clock::{self, Instant};
use crate::config::model::Route;
use crate::exchange::live::{CloseOrder, Matches, Page, TunnelRef, TunnelRow, Which};
use crate::exchange::refusals::Refused;
use crate::snapshot::Snapshot;
use crate::types::Name;
use crate::worker::Command;

/// How long a worker may take over a page of a list, or until it has begun to close some tunnels.
const ANSWER: Duration = Duration::from_secs(10);

/// The live tunnels. Clones are the same ones.
#[derive(Clone)]
pub struct Tunnels {
    workers: Arc<[mpsc::Sender<Command>]>,
}

/// A list that is being asked for, page by page.
pub struct Listing {
    tunnels: Tunnels,
    matches: Matches,
    worker: usize,
    from: u32,
    /// Workers that have not answered, and whose tunnels are missing therefore.
    pub silent: usize,
}

/// What has come of an order to close.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// Tunnels that were still open and are about to close.
    pub tunnels: usize,
    /// Workers that have not answered. They may do as they were told nonetheless.
    pub silent: usize,
}

impl Tunnels {
    /// In the order of the workers' numbers.
    pub fn new(workers: Vec<mpsc::Sender<Command>>) -> Self {
        Self { workers: workers.into() }
    }

    /// Those that are meant, in no order. Tunnels that begin or end meanwhile may be missing; none is there twice.
    pub fn list(&self, matches: Matches) -> Listing {
        Listing { tunnels: self.clone(), matches, worker: 0, from: 0, silent: 0 }
    }

    /// Closes all that are meant, as fast as that goes.
    pub async fn close(&self, matches: &Matches, order: &Arc<CloseOrder>) -> Closed {
        let all = (0..self.workers.len()).map(|worker| (worker, Which::All(matches.clone())));
        self.order(all.collect(), order).await
    }

    /// Closes these, if they are still there.
    pub async fn close_these(&self, tunnels: impl IntoIterator<Item = TunnelRef>, order: &Arc<CloseOrder>) -> Closed {
        let mut by_worker = HashMap::<usize, Vec<TunnelRef>>::new();
        for tunnel in tunnels {
            by_worker.entry(tunnel.worker()).or_default().push(tunnel);
        }
        let these = by_worker.into_iter().map(|(worker, tunnels)| (worker, Which::These(tunnels)));
        self.order(these.collect(), order).await
    }

    /// Closes the tunnels of routes that `before` has and `now` has not, where they ask for that.
    pub async fn close_removed(&self, before: &Snapshot, now: &Snapshot) -> Closed {
        let removed = removed_routes(before, now);
        if removed.is_empty() {
            return Closed::default();
        }
        let matches: Matches =
            Arc::new(move |row, _| row.way.route.as_ref().is_some_and(|route| removed.contains(route)));
        self.close(&matches, &Arc::new(CloseOrder::route_removed())).await
    }

    /// How many each worker has; `None`: it has not answered.
    pub async fn counts(&self) -> Vec<Option<usize>> {
        let asked: Vec<_> =
            (0..self.workers.len()).map(|worker| self.ask(worker, |reply| Command::Count { reply })).collect();
        let mut counts = Vec::with_capacity(asked.len());
        for answer in asked {
            counts.push(answer.wait().await);
        }
        counts
    }

    /// The last refusals of all workers, the newest first; and how many workers have not answered.
    pub async fn refusals(&self, most: usize) -> (Vec<Refused>, usize) {
        let asked: Vec<_> =
            (0..self.workers.len()).map(|worker| self.ask(worker, |reply| Command::Refusals { most, reply })).collect();
        let (mut all, mut silent) = (Vec::new(), 0);
        for answer in asked {
            match answer.wait().await {
                Some(refusals) => all.extend(refusals),
                None => silent += 1,
            }
        }
        all.sort_by_key(|refused| std::cmp::Reverse(refused.time));
        all.truncate(most);
        (all, silent)
    }

    async fn order(&self, orders: Vec<(usize, Which)>, order: &Arc<CloseOrder>) -> Closed {
        let asked = orders.into_iter().map(|(worker, which)| {
            let order = order.clone();
            self.ask(worker, |reply| Command::Close { which, order, reply })
        });
        let mut closed = Closed::default();
        // All are asked before the first answer is waited for.
        for answer in asked.collect::<Vec<_>>() {
            match answer.wait().await {
                Some(tunnels) => closed.tunnels += tunnels,
                None => closed.silent += 1,
            }
        }
        closed
    }

    fn ask<T>(&self, worker: usize, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Asked<T> {
        let (reply, answer) = oneshot::channel();
        let sent = self.workers.get(worker).is_some_and(|worker| worker.try_send(command(reply)).is_ok());
        Asked { answer: sent.then_some(answer), deadline: clock::now() + ANSWER }
    }
}

/// An answer that is on its way.
struct Asked<T> {
    /// `None`: the worker has gone, or has more to do than it can remember.
    answer: Option<oneshot::Receiver<T>>,
    deadline: Instant,
}

impl<T> Asked<T> {
    async fn wait(self) -> Option<T> {
        tokio::time::timeout_at(self.deadline, self.answer?).await.ok()?.ok()
    }
}

impl Listing {
    /// The next rows; `None` after the last. A page may be empty.
    pub async fn next(&mut self) -> Option<Vec<TunnelRow>> {
        while self.worker < self.tunnels.workers.len() {
            let (from, matches) = (self.from, self.matches.clone());
            let asked = self.tunnels.ask(self.worker, |reply| Command::List { from, matches, reply });
            let page = asked.wait().await;
            let is_silent = page.is_none();
            let Page { rows, next } = page.unwrap_or_default();
            match next {
                Some(next) => self.from = next,
                None => (self.worker, self.from) = (self.worker + 1, 0),
            }
            if !is_silent {
                return Some(rows);
            }
            self.silent += 1;
        }
        None
    }
}

fn removed_routes(before: &Snapshot, now: &Snapshot) -> HashSet<Name> {
    let kept: HashSet<_> = now.routes.iter().map(|route| &route.name).collect();
    let asks = |route: &Route| route.websocket.as_ref().is_some_and(|policy| policy.close_removed);
    let removed = before.routes.iter().filter(|route| asks(route) && !kept.contains(&route.name));
    removed.map(|route| route.name.clone()).collect()
}
