//! What is done beside the workers and with their help: their live tunnels as one list, and the draining of servers. And
//! where another configuration is asked for.
//!
//! Runs on the control plane's thread and touches no tunnel itself: workers are asked, and answer when they get round to
//! it. Does not decide which configuration is in use, nor which servers an upstream has.

mod drains;
pub mod filter;
mod in_use;
mod pace;
pub mod ranking;
mod reloads;
mod tunnels;
mod watch;

pub use drains::{Drains, NoDrain, ServerDrain, WhyDrains};
pub use in_use::{InUse, ReloadHistory};
pub use reloads::{MOST as MOST_PROBLEMS, NoReload, Outcome, Reloads, Told};
pub use tunnels::{Closed, Listing, Tunnels};
pub use watch::Watch;

#[cfg(test)]
mod tests;
