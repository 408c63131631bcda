//! What is done beside the workers and with their help: their live tunnels as one list, the draining of servers, and the
//! watchdog.
//!
//! Runs on the control plane's thread and touches no tunnel itself: workers are asked, and answer when they get round to
//! it. Does not decide which configuration is in use, nor which servers an upstream has.

mod drains;
mod pace;
mod tunnels;
mod watchdog;

pub use drains::{Drains, NoSuchServer};
pub use tunnels::{Closed, Listing, Tunnels};
pub use watchdog::{turn, watchdog};

#[cfg(test)]
mod tests;
