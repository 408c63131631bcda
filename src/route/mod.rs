//! Which route takes a request: hosts first, then paths.
//!
//! Precedence, the whole of it:
//! 1. Host: the route that names the host exactly, then `*.suffix` (longest suffix first), then routes without `hosts`.
//!    Where the more specific host has no route for the path, the next one is asked.
//! 2. Path: the longest literal beginning wins: all of an exact path, the prefix, or what a regular expression
//!    spells out behind `^` before its first special character (`^/api/v[0-9]+/ws$` counts as `/api/v`). At equal
//!    length exact beats regex beats prefix; regexes then in the order of the file.
//!
//! So a regex beats the catch-all `/` and the prefix it refines, and never takes a path out of a more specific prefix:
//! `~ \.png$` does not reach into `/admin`. Order in the file decides nothing else, and two routes that would tie are
//! an error. Built once per snapshot; what cannot match is found by `build`, and `explain` tells why a route won.

mod build;
mod explain;
mod lead;

use std::collections::HashMap;

use crate::config::model::{HostPattern, Route};
use crate::proto::host::Authority;

pub use explain::{Candidate, Outcome};

/// All routes, arranged by listener, host and path. Routes are named by their index in `Config::routes`.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// By the index of the listener.
    listeners: Vec<HostTable>,
}

/// What a look-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Index into `Config::routes`.
    Found(usize),
    /// No route of this listener is for this host.
    NoHost,
    /// The host has routes here, but none for this path.
    NoPath,
}

impl RouteTable {
    /// Finds the route for a request. `host` is `None` for HTTP/1.0 without Host, which reaches only routes without
    /// `hosts`; `path` has to be [`crate::proto::target::Target::normalised`].
    pub fn lookup(&self, listener: usize, host: Option<&Authority>, path: &str) -> Lookup {
        let Some(table) = self.listeners.get(listener) else { return Lookup::NoHost };
        let mut outcome = Lookup::NoHost;
        for paths in table.paths_for(host.map(|authority| authority.host.as_str())) {
            match paths.find(path) {
                Some(route) => return Lookup::Found(route),
                None => outcome = Lookup::NoPath,
            }
        }
        outcome
    }
}

/// Whether a route names the authority; a route without `hosts` may speak for any.
pub fn names(route: &Route, authority: &Authority) -> bool {
    route.hosts.is_empty() || route.hosts.iter().any(|pattern| pattern_matches(pattern, &authority.host))
}

fn pattern_matches(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(name) => name == host,
        // One or more labels before the suffix, never none.
        HostPattern::Wildcard(suffix) => {
            host.strip_suffix(suffix.as_str()).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
        }
    }
}

/// The routes of one listener.
#[derive(Debug, Default)]
struct HostTable {
    exact: HashMap<String, PathTable>,
    /// By suffix, without `*.`.
    wildcards: HashMap<String, PathTable>,
    any: Option<PathTable>,
}

impl HostTable {
    /// The path tables that may take a host, most specific first.
    fn paths_for(&self, host: Option<&str>) -> impl Iterator<Item = &PathTable> {
        let exact = host.and_then(|host| self.exact.get(host));
        let wildcards = (!self.wildcards.is_empty()).then_some(host).flatten().into_iter().flat_map(|host| {
            host.match_indices('.')
                .filter(|(dot, _)| *dot > 0)
                .filter_map(|(dot, _)| self.wildcards.get(&host[dot + 1..]))
        });
        exact.into_iter().chain(wildcards).chain(self.any.as_ref())
    }
}

/// The routes of one host pattern on one listener.
#[derive(Debug, Default)]
struct PathTable {
    exact: HashMap<String, usize>,
    /// By prefix; `/` for the catch-all, no other one ends with a slash.
    prefixes: HashMap<String, usize>,
    /// Bytes of the longest prefix: longer beginnings of a path need no look-up.
    longest_prefix: usize,
    /// Longest lead first, then in the order of the file.
    regexes: Vec<RegexEntry>,
}

#[derive(Debug)]
struct RegexEntry {
    /// Bytes of literal text that every match begins with, at least 1: every path begins with `/`.
    lead: usize,
    regex: regex::Regex,
    route: usize,
}

impl PathTable {
    fn find(&self, path: &str) -> Option<usize> {
        if let Some(route) = self.exact.get(path) {
            return Some(*route);
        }
        let (length, prefix) = self.longest_prefix_of(path).unzip();
        let length = length.unwrap_or(0);
        let regex =
            self.regexes.iter().take_while(|entry| entry.lead >= length).find(|entry| entry.regex.is_match(path));
        regex.map(|entry| entry.route).or(prefix)
    }

    /// Walks the whole-segment beginnings of a path, longest first.
    fn longest_prefix_of(&self, path: &str) -> Option<(usize, usize)> {
        let mut end = path.len();
        loop {
            // `/ws/` ends with an empty segment, which `/ws` covers.
            let beginning = if end == 0 { "/" } else { &path[..end] };
            if beginning.len() <= self.longest_prefix
                && let Some(route) = self.prefixes.get(beginning)
            {
                return Some((beginning.len(), *route));
            }
            if end == 0 {
                return None;
            }
            end = path[..end].rfind('/')?;
        }
    }
}

#[cfg(test)]
mod tests;
