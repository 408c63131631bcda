//! What takes no new work because somebody has asked for it, by name: a list for whoever has to ask again.

use super::sweeps::Subject;
use super::{Drains, Sweeps, WhyDrains};

/// Listeners, routes and servers that stand so until it is undone, in words. Not those that the configuration lets drain.
pub fn asked_to_drain(drains: &Drains, sweeps: &Sweeps) -> Vec<String> {
    let sweeps = sweeps.list().into_iter().filter_map(|sweep| match sweep.subject {
        Subject::Listener(name) => Some(format!("listener {name}")),
        Subject::Route(name) => Some(format!("route {name}")),
        // With or without a pace it is among the drains below. The others shut nothing.
        Subject::Server { .. } | Subject::Process | Subject::Tunnels(_) => None,
    });
    let drains = drains.list().into_iter().filter(|drain| drain.why == WhyDrains::Asked);
    sweeps.chain(drains.map(|drain| format!("server {} of {}", drain.server, drain.upstream))).collect()
}
