//! Names of servers: what they stand for, kept up to date while the gateway runs.
//!
//! Runs on the control plane alone. Each name has a keeper, which asks as often as the answer's TTL says and tells the
//! workers of what changes ([`super::whereabouts`] for one server's addresses, the upstream's roster where every address or
//! service is a server); a worker never asks a name server. That a name does not resolve is no reason not to start, and
//! an answer holds for as long as nobody gives a better one.

mod book;
mod follow;
mod keeper;
mod resolver;
mod services;
mod system;

pub use keeper::{Keepers, Oracle, keep};

#[cfg(test)]
mod tests;
