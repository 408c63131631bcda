//! Health checks: the control plane asks every server of an upstream with `health`, again and again.
//!
//! One task per upstream follows its roster, one per server asks it: a fresh connection for each check (`ask.rs`), never
//! two at once, each under its deadline, and so many at once over all servers. What they find is in the server's
//! [`Checks`] (`record.rs`), where workers read one flag. A server counts as up until its first check, which is made at
//! once; then `fall` failures in a row take it out, `rise` successes bring it back. Dropping the tasks ends checks that
//! are under way; nothing is recorded of those.

mod ask;
mod record;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::Semaphore;

use super::definition::Definition;
use super::server::Server;
use crate::clock;
use crate::config::model::Health;
use crate::lifecycle::{self, Held};
use ask::Checked;
pub use record::{CheckCounts, Checks, LastCheck};

/// Checks under way at once; further ones wait for their turn.
const AT_ONCE: usize = 64;

/// Between the end of a check and the next of the same server, whatever `interval` says.
const BREATH: Duration = Duration::from_millis(50);

/// Room for the checks of all upstreams.
pub(super) fn room() -> Semaphore {
    Semaphore::new(AT_ONCE)
}

/// Checks the servers of an upstream until the task is dropped; `None` where they are not to be checked, and what was
/// found once is forgotten.
pub(super) fn keep(upstream: &Arc<Definition>, room: &Rc<Semaphore>) -> Option<Held> {
    let Some(health) = &upstream.health else {
        upstream.roster.read().1.iter().for_each(|server| server.state.checks.forget());
        return None;
    };
    let round = Round { upstream: upstream.clone(), health: Rc::new(health.clone()), room: room.clone() };
    Some(lifecycle::spawn_held("health checks of an upstream", follow(round, ask::ask)))
}

/// What the checks of an upstream's servers have in common.
#[derive(Clone)]
struct Round {
    upstream: Arc<Definition>,
    health: Rc<Health>,
    room: Rc<Semaphore>,
}

/// Whoever asks a server.
trait Asker: AsyncFn(&Definition, &Server, &Health) -> Checked + Clone + 'static {}

impl<A: AsyncFn(&Definition, &Server, &Health) -> Checked + Clone + 'static> Asker for A {}

/// One task for each server that is in the roster.
async fn follow(round: Round, asker: impl Asker) {
    let mut tasks: HashMap<*const Server, Held> = HashMap::new();
    loop {
        let (version, servers) = round.upstream.roster.read();
        // A task holds its server, so that no other one can be at its place in memory.
        tasks.retain(|known, _| servers.iter().any(|server| Arc::as_ptr(server) == *known));
        for server in servers.iter() {
            tasks.entry(Arc::as_ptr(server)).or_insert_with(|| {
                lifecycle::spawn_held("health checks of a server", watch(round.clone(), server.clone(), asker.clone()))
            });
        }
        round.upstream.roster.changed(version).await;
    }
}

/// Checks one server, for good.
async fn watch(round: Round, server: Arc<Server>, asker: impl Asker) {
    let Round { upstream, health, room } = round;
    // Known from an earlier snapshot: no hurry, and not all at once.
    if server.state.checks.is_known() {
        tokio::time::sleep(somewhere_within(health.interval)).await;
    }
    loop {
        // The semaphore is never closed.
        let Ok(permit) = room.acquire().await else { return };
        let began = clock::now();
        let first = !server.state.checks.is_known();
        let checked = asker(&upstream, &server, &health).await;
        record::enter(&upstream, &server, &health, &checked);
        checked.left.part(began + health.timeout).await;
        drop(permit);
        // After the first checks, which all servers have at once, each goes its own way.
        let wait = if first { somewhere_within(health.interval) } else { give_or_take_a_tenth(health.interval) };
        tokio::time::sleep_until((began + wait).max(clock::now() + BREATH)).await;
    }
}

fn somewhere_within(interval: Duration) -> Duration {
    interval.mul_f64(chance())
}

/// So that many gateways, or many servers of one machine, do not fall into step.
fn give_or_take_a_tenth(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * chance())
}

/// From 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness checks only keep step.
    let _ = rand::fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
