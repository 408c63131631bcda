//! Why a route won: every route judged against one request, in the order of precedence.
//!
//! Independent of the table's arrangement, so that it also serves as the reference that tests hold the table against.

use std::cmp::Reverse;

use super::build::{describe_path, prefix_key};
use super::lead::lead;
use super::{RouteTable, pattern_matches};
use crate::config::model::{Config, HostPattern, PathPattern, Route};
use crate::proto::host::Authority;
use crate::proto::target::normalise;

/// One route's part in the decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Index into `Config::routes`.
    pub route: usize,
    pub outcome: Outcome,
    /// One line for people.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Wins,
    /// It would take the request if nothing more specific did.
    Loses,
    NoMatch,
}

/// Smaller wins: host kind, then longer suffix; longer lead, then path kind, then place in the file.
type Rank = (HostRank, Reverse<usize>, u8, usize);
type HostRank = (u8, Reverse<usize>);

impl RouteTable {
    /// Judges every route: the winner first, then the losers by rank, then what does not match, in the file's order.
    pub fn explain(config: &Config, listener: usize, host: Option<&Authority>, path: &str) -> Vec<Candidate> {
        let mut judged: Vec<(Result<Rank, ()>, Candidate)> = Vec::new();
        for (index, route) in config.routes.iter().enumerate() {
            let (rank, outcome, reason) = match judge(config, listener, route, host, path) {
                Ok((host, lead, kind, reason)) => (Ok((host, Reverse(lead), kind, index)), Outcome::Loses, reason),
                Err(reason) => (Err(()), Outcome::NoMatch, reason),
            };
            judged.push((rank, Candidate { route: index, outcome, reason }));
        }
        // `Ok` sorts before `Err`, and the sort is stable.
        judged.sort_by_key(|(rank, _)| *rank);
        let mut candidates: Vec<_> = judged.into_iter().map(|(_, candidate)| candidate).collect();
        if let Some(first) = candidates.first_mut().filter(|first| first.outcome == Outcome::Loses) {
            first.outcome = Outcome::Wins;
        }
        candidates
    }
}

fn judge(
    config: &Config,
    listener: usize,
    route: &Route,
    host: Option<&Authority>,
    path: &str,
) -> Result<(HostRank, usize, u8, String), String> {
    let Some(here) = config.listeners.get(listener) else { return Err("there is no such listener".into()) };
    if here.redirect_https {
        return Err(format!("the listener `{}` redirects everything to https", here.name));
    }
    if !route.listeners.is_empty() && !route.listeners.iter().any(|name| name.value == here.name) {
        return Err(format!("not on the listener `{}`", here.name));
    }
    let (host_rank, host_reason) = judge_host(route, host)?;
    let (lead, kind) =
        judge_path(route, path).ok_or_else(|| format!("{} does not match `{path}`", describe_path(route)))?;
    let letters = if lead == 1 { "character" } else { "characters" };
    Ok((host_rank, lead, kind, format!("{host_reason}; {}, {lead} literal {letters}", describe_path(route))))
}

fn judge_host(route: &Route, host: Option<&Authority>) -> Result<(HostRank, String), String> {
    if route.hosts.is_empty() {
        return Ok(((2, Reverse(0)), "any host".into()));
    }
    let Some(host) = host else { return Err("it names hosts, and the request names none".into()) };
    let matching = route.hosts.iter().filter(|pattern| pattern_matches(pattern, &host.host));
    let ranked = matching.map(|pattern| match &pattern.value {
        HostPattern::Exact(name) => ((0, Reverse(name.len())), format!("the host `{name}` by name")),
        HostPattern::Wildcard(suffix) => ((1, Reverse(suffix.len())), format!("the host by `*.{suffix}`")),
    });
    ranked.min_by_key(|(rank, _)| *rank).ok_or_else(|| format!("not for the host `{}`", host.host))
}

/// Length of the literal beginning, and the kind by which ties are broken.
fn judge_path(route: &Route, path: &str) -> Option<(usize, u8)> {
    match &route.path.value {
        PathPattern::Exact(exact) => (normalise(exact) == path).then_some((path.len(), 0)),
        PathPattern::Regex(regex) => regex.is_match(path).then(|| (lead(regex.as_str()).0.len().max(1), 1)),
        PathPattern::Prefix(prefix) => {
            let prefix = prefix_key(prefix);
            let rest = path.strip_prefix(prefix.as_str())?;
            (prefix == "/" || rest.is_empty() || rest.starts_with('/')).then_some((prefix.len(), 2))
        }
    }
}
