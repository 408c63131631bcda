//! Which server gets the next request: rules without IO over what is known of each server at this moment.
//!
//! Servers are asked in tiers: those that are up; backups that are; those that are being tried after an ejection; and,
//! unless the upstream would rather refuse, whatever is left, as if it were up. A server of weight 0 is in no tier, and
//! neither is one that has as much as it may; but where a server that is up is only full, waiting for it beats trying one
//! that is out. Within a tier the upstream's `balance` decides. Draws are broken by the round, so that no server is
//! favoured for standing first in the file.

mod hash;
#[cfg(test)]
mod tests;

use std::cell::Cell;

use smallvec::SmallVec;

pub use hash::Ask;
pub(super) use hash::mix;
use hash::within_bound;

use super::server::{ServerId, Standing};
use crate::config::model::{self, Panic};

/// How an upstream spreads its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastConnections,
    TwoChoices,
    Hash {
        by: model::HashBy,
        /// A server may have so many percent of what is its share of all live work; beyond that the next one is asked.
        load: u32,
    },
}

impl Balance {
    pub(super) fn new(balance: &model::Balance) -> Self {
        match balance {
            model::Balance::RoundRobin => Self::RoundRobin,
            model::Balance::LeastConnections => Self::LeastConnections,
            model::Balance::TwoChoices => Self::TwoChoices,
            model::Balance::Hash(model::Hash { by, load }) => Self::Hash { by: by.clone(), load: *load },
        }
    }

    /// What the request is hashed by; `None`: it is not, or it lacks what would be.
    pub(super) fn key(&self, ask: &Ask<'_>) -> Option<u64> {
        match self {
            Self::Hash { by, .. } => ask.key(by),
            Self::RoundRobin | Self::LeastConnections | Self::TwoChoices => None,
        }
    }
}

/// What is known of one server at this moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub id: ServerId,
    /// In thousandths of the configured unit, so that a server may warm up.
    pub weight: u64,
    pub live: u32,
    pub backup: bool,
    pub standing: Standing,
    /// Has as much as it may.
    pub is_full: bool,
    /// Where the server stands in its worker's round.
    pub turn: &'a Cell<i64>,
}

/// Why a server was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Primary,
    /// No primary can be asked.
    Backup,
    /// Nobody but those that somebody else is trying already.
    OnTrial,
    /// Every server is out: better to try than to refuse.
    LastResort,
}

/// Why no server was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// None may get work.
    Server,
    /// Those that may have as much as they may have.
    Room,
}

/// An index into `candidates`. `random` is asked by two choices only.
pub(super) fn choose(
    balance: &Balance,
    candidates: &[Candidate<'_>],
    key: Option<u64>,
    panic: Panic,
    random: impl FnMut() -> u64,
) -> Result<(usize, Tier), Lack> {
    let (tier, members) = best_tier(candidates, panic)?;
    let index = match (balance, key) {
        _ if members.len() == 1 => members[0],
        (Balance::RoundRobin, _) | (Balance::Hash { .. }, None) => round_robin(candidates, &members),
        (Balance::LeastConnections, _) => least_loaded(candidates, &members),
        (Balance::TwoChoices, _) => two_choices(candidates, &members, random),
        (Balance::Hash { load, .. }, Some(key)) => within_bound(candidates, &members, key, *load),
    };
    Ok((index, tier))
}

/// Whether [`choose`] would find one.
pub(super) fn has_room(candidates: &[Candidate<'_>], panic: Panic) -> bool {
    best_tier(candidates, panic).is_ok()
}

type Members = SmallVec<[usize; 16]>;

fn best_tier(candidates: &[Candidate<'_>], panic: Panic) -> Result<(Tier, Members), Lack> {
    let may = |server: &Candidate<'_>| server.weight > 0;
    let pick = |keep: &dyn Fn(&Candidate<'_>) -> bool| -> Option<Members> {
        let is_fit = |server: &Candidate<'_>| may(server) && !server.is_full && keep(server);
        let kept: Members = (0..candidates.len()).filter(|&index| is_fit(&candidates[index])).collect();
        (!kept.is_empty()).then_some(kept)
    };
    let is_worth_waiting_for = |keep: &dyn Fn(&Candidate<'_>) -> bool| {
        candidates.iter().any(|server| may(server) && server.is_full && keep(server))
    };
    let is_asked = |server: &Candidate<'_>| matches!(server.standing, Standing::Up | Standing::Trial);
    if let Some(primary) = pick(&|server| !server.backup && is_asked(server)) {
        return Ok((Tier::Primary, primary));
    }
    if let Some(backup) = pick(&|server| server.backup && is_asked(server)) {
        return Ok((Tier::Backup, backup));
    }
    if is_worth_waiting_for(&is_asked) {
        return Err(Lack::Room);
    }
    let tried = |server: &Candidate<'_>| server.standing == Standing::OnTrial;
    if let Some(tried) = pick(&|server| !server.backup && tried(server)).or_else(|| pick(&tried)) {
        return Ok((Tier::OnTrial, tried));
    }
    if is_worth_waiting_for(&tried) {
        return Err(Lack::Room);
    }
    if panic == Panic::Refuse {
        return Err(Lack::Server);
    }
    if let Some(rest) = pick(&|server| !server.backup).or_else(|| pick(&|_| true)) {
        return Ok((Tier::LastResort, rest));
    }
    Err(if candidates.iter().any(may) { Lack::Room } else { Lack::Server })
}

/// Smooth weighted round robin: each server gains its weight in every round, the one that is furthest ahead is asked and
/// pays what all of them gained. Servers of weight 1, 1 and 2 are asked in the order c a b c.
fn round_robin(candidates: &[Candidate<'_>], members: &[usize]) -> usize {
    let mut total = 0_i64;
    let mut best = (members[0], i64::MIN);
    for &index in members {
        let server = &candidates[index];
        let gain = i64::try_from(server.weight).unwrap_or(i64::MAX / 1024);
        total += gain;
        let turn = server.turn.get().saturating_add(gain);
        server.turn.set(turn);
        if turn > best.1 {
            best = (index, turn);
        }
    }
    candidates[best.0].turn.set(best.1 - total);
    best.0
}

/// The least live work for its weight; among equals the one whose turn it is.
fn least_loaded(candidates: &[Candidate<'_>], members: &[usize]) -> usize {
    let mut least: Members = Members::new();
    for &index in members {
        match least.first().map(|&best| compare_load(&candidates[index], &candidates[best])) {
            None | Some(std::cmp::Ordering::Equal) => least.push(index),
            Some(std::cmp::Ordering::Less) => {
                least.clear();
                least.push(index);
            }
            Some(std::cmp::Ordering::Greater) => {}
        }
    }
    if least.len() == 1 { least[0] } else { round_robin(candidates, &least) }
}

/// What a server would have with one more, for its weight.
fn compare_load(one: &Candidate<'_>, other: &Candidate<'_>) -> std::cmp::Ordering {
    let load = |server: &Candidate<'_>| u128::from(server.live) + 1;
    (load(one) * u128::from(other.weight)).cmp(&(load(other) * u128::from(one.weight)))
}

/// Two servers at random, by weight; the one with less live work for its weight. Several gateways that do not know of
/// each other's work do not all run to the same server so.
fn two_choices(candidates: &[Candidate<'_>], members: &[usize], mut random: impl FnMut() -> u64) -> usize {
    let first = by_weight(candidates, members, random());
    let others: Members = members.iter().copied().filter(|&index| index != first).collect();
    let second = by_weight(candidates, &others, random());
    match compare_load(&candidates[second], &candidates[first]) {
        std::cmp::Ordering::Less => second,
        _ => first,
    }
}

fn by_weight(candidates: &[Candidate<'_>], members: &[usize], random: u64) -> usize {
    let total: u64 = members.iter().map(|&index| candidates[index].weight).sum();
    let mut point = random % total.max(1);
    for &index in members {
        match point.checked_sub(candidates[index].weight) {
            Some(rest) => point = rest,
            None => return index,
        }
    }
    members[members.len() - 1]
}
