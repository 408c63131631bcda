//! What is done beside the workers and with their help: their live tunnels as one list, the draining of servers
//! and of all else, metrics, the watchdog. And where another configuration is asked for.
//!
//! Runs on the control plane's thread and touches no tunnel itself: workers are asked, and answer when they get round to
//! it. Does not decide which configuration is in use, nor which servers an upstream has.

mod asked;
mod drains;
pub mod filter;
mod in_use;
mod metrics;
mod pace;
pub mod ranking;
mod reloads;
pub mod sweeps;
mod tunnels;
mod watch;
mod watchdog;

pub use asked::asked_to_drain;
pub use drains::{Drains, NoDrain, ServerDrain, WhyDrains};
pub use in_use::{InUse, ReloadHistory};
pub use metrics::{Gauged, Metrics, Rendered, Totals};
pub use reloads::{MOST as MOST_PROBLEMS, NoReload, Outcome, Reloads, Told};
pub use sweeps::Sweeps;
pub use tunnels::{Closed, Listing, Tunnels};
pub use watch::Watch;
pub use watchdog::{turn, watchdog};

#[cfg(test)]
mod tests;
