//! What is done beside the workers and with their help: their live tunnels as one list, the draining of servers, and
//! metrics.
//!
//! Runs on the control plane's thread and touches no tunnel itself: workers are asked, and answer when they get round to
//! it. Does not decide which configuration is in use, nor which servers an upstream has.

mod drains;
mod metrics;
mod pace;
mod tunnels;

pub use drains::{Drains, NoSuchServer};
pub use metrics::{Gauged, Metrics, Rendered};
pub use tunnels::{Closed, Listing, Tunnels};

#[cfg(test)]
mod tests;
