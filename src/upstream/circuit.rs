//! The circuit breaker of one server: live traffic counts failures, ejects the server, and tries it again.
//!
//! Closed, the server is asked. So many failures in a row open it, and so does a single connection that cannot be made.
//! Open, the server is out: for `duration` at first, twice as long with each ejection in a row, `max_duration` at most.
//! Then it is half-open: one request goes ahead as a trial, whose success closes the breaker and whose failure opens it
//! again. After that the server has to serve for as long as it was out before its next ejection gets shorter.
//!
//! What a request says counts only if it began after the last ejection: older ones know nothing of the server since.
//! Everything is pure but for [`Breaker`], the one word that all workers share. How many servers may be out at once is
//! not decided here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::config::model::Ejection;

/// Why a server is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It answered badly or not at all.
    Failures,
    /// No connection could be made; one that is made proves the opposite.
    Unreachable,
}

/// What a request remembers of the breaker that it went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    epoch: u8,
    /// It is the one request that tries the server.
    trial: bool,
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Circuit {
    open: Option<Cause>,
    /// Open: half-open from then on. Closed: a success makes the next ejection shorter from then on. In milliseconds, see
    /// [`clock::stamp`].
    until: u64,
    /// Half-open, and a trial is under way.
    trial: bool,
    /// Ejections in a row.
    streak: u8,
    /// Failures in a row.
    failures: u16,
    /// Changes with each ejection.
    epoch: u8,
}

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Closed,
    /// Half-open, and nobody tries it yet.
    Trial,
    /// Half-open, and somebody does.
    OnTrial,
    Open,
}

/// Of the fields in a word, from the lowest bit.
const UNTIL_BITS: u32 = 40;
const FAILURES_BITS: u32 = 10;
const EPOCH_BITS: u32 = 7;
const STREAK_BITS: u32 = 4;
const MAX_UNTIL: u64 = (1 << UNTIL_BITS) - 1;
const MAX_FAILURES: u16 = (1 << FAILURES_BITS) - 1;
const MAX_STREAK: u8 = (1 << STREAK_BITS) - 1;

impl Ticket {
    pub(super) fn is_trial(self) -> bool {
        self.trial
    }
}

impl Circuit {
    /// `now` is asked for only where it matters.
    pub(super) fn gate(self, now: impl FnOnce() -> Instant) -> Gate {
        match self {
            Self { open: None, .. } => Gate::Closed,
            Self { trial: true, .. } => Gate::OnTrial,
            Self { until, .. } if clock::stamp(now()) >= until => Gate::Trial,
            _ => Gate::Open,
        }
    }

    /// For a request that is no trial.
    pub(super) fn ticket(self) -> Ticket {
        Ticket { epoch: self.epoch, trial: false }
    }

    /// For the request that tries the server.
    pub(super) fn trial_ticket(self) -> Ticket {
        Ticket { epoch: self.epoch, trial: true }
    }

    /// Lets one request try the server; `None` where that is not its turn.
    pub(super) fn begin_trial(self, now: Instant) -> Option<Self> {
        (self.gate(|| now) == Gate::Trial).then_some(Self { trial: true, ..self })
    }

    /// The trial's request has gone, whatever came of it.
    pub(super) fn end_trial(self, ticket: Ticket) -> Option<Self> {
        (ticket.trial && self.trial && self.is_of(ticket)).then_some(Self { trial: false, ..self })
    }

    /// A connection was made.
    pub(super) fn reached(self, rules: &Ejection, now: Instant, ticket: Ticket) -> Option<Self> {
        if self.is_of(ticket) { self.proved_reachable(rules, now) } else { None }
    }

    /// The same, from somebody who has just asked.
    pub(super) fn proved_reachable(self, rules: &Ejection, now: Instant) -> Option<Self> {
        (self.open == Some(Cause::Unreachable)).then(|| self.closed(rules, now))
    }

    /// The head of a good answer has come.
    pub(super) fn answered(self, rules: &Ejection, now: Instant, ticket: Ticket) -> Option<Self> {
        (self.open.is_some() && self.is_of(ticket)).then(|| self.closed(rules, now))
    }

    /// A good answer has come whole.
    pub(super) fn succeeded(self, rules: &Ejection, now: impl FnOnce() -> Instant, ticket: Ticket) -> Option<Self> {
        if !self.is_of(ticket) || self.is_calm() {
            return None;
        }
        let now = now();
        if self.open.is_some() {
            return Some(self.closed(rules, now));
        }
        let mut next = Self { failures: 0, ..self };
        if self.streak > 0 && clock::stamp(now) >= self.until {
            next.streak -= 1;
            next.until = next.served_until(rules, now);
        }
        (next != self).then_some(next)
    }

    /// The server has failed a request. Ask [`Self::is_due`] whether that was one too many.
    pub(super) fn failed(self, rules: &Ejection, ticket: Ticket) -> Option<Self> {
        let counts = self.open.is_none() && self.is_of(ticket);
        let failures = self.failures.saturating_add(1).min(limit(rules));
        (counts && failures != self.failures).then_some(Self { failures, ..self })
    }

    /// Whether a failure that has been counted is a reason to eject.
    pub(super) fn is_due(self, rules: &Ejection, now: Instant, ticket: Ticket) -> bool {
        let counted = self.open.is_none() && self.failures >= limit(rules);
        self.is_of(ticket) && (counted || self.has_failed_trial(now, ticket))
    }

    /// Whether a connection that could not be made is.
    pub(super) fn is_due_unreachable(self, now: Instant, ticket: Ticket) -> bool {
        self.is_of(ticket) && (self.open.is_none() || self.has_failed_trial(now, ticket))
    }

    /// Opens it, for how long [`Self::left`] says.
    pub(super) fn ejected(self, cause: Cause, rules: &Ejection, now: Instant) -> Self {
        Self {
            open: Some(cause),
            until: later(now, backoff(rules, self.streak)),
            trial: false,
            streak: self.streak.saturating_add(1).min(MAX_STREAK),
            failures: 0,
            epoch: self.epoch.wrapping_add(1) & ((1 << EPOCH_BITS) - 1),
        }
    }

    /// Closes it, whatever the reason.
    pub(super) fn closed(self, rules: &Ejection, now: Instant) -> Self {
        let closed = Self { open: None, trial: false, failures: 0, ..self };
        Self { until: closed.served_until(rules, now), ..closed }
    }

    /// What is left of an ejection.
    pub(super) fn left(self, now: Instant) -> Duration {
        Duration::from_millis(self.until.saturating_sub(clock::stamp(now)))
    }

    pub(super) fn failures(self) -> u16 {
        self.failures
    }

    fn is_of(self, ticket: Ticket) -> bool {
        self.epoch == ticket.epoch
    }

    fn has_failed_trial(self, now: Instant, ticket: Ticket) -> bool {
        ticket.trial && self.open.is_some() && clock::stamp(now) >= self.until
    }

    /// From when on a success makes the next ejection shorter: when it has served for as long as it was out.
    fn served_until(self, rules: &Ejection, now: Instant) -> u64 {
        self.streak.checked_sub(1).map_or(0, |last| later(now, backoff(rules, last)))
    }

    /// Whether there is nothing to remember.
    fn is_calm(self) -> bool {
        self == Self { epoch: self.epoch, ..Self::default() }
    }

    fn word(self) -> u64 {
        let open = match self.open {
            None => 0,
            Some(Cause::Failures) => 1,
            Some(Cause::Unreachable) => 2,
        };
        let fields = [
            (self.until, UNTIL_BITS),
            (u64::from(self.failures), FAILURES_BITS),
            (u64::from(self.epoch), EPOCH_BITS),
            (u64::from(self.streak), STREAK_BITS),
            (u64::from(self.trial), 1),
            (open, 2),
        ];
        fields.into_iter().rev().fold(0, |word, (value, bits)| word << bits | value)
    }

    fn from_word(mut word: u64) -> Self {
        let mut take = |bits: u32| {
            let value = word & ((1 << bits) - 1);
            word >>= bits;
            value
        };
        Self {
            until: take(UNTIL_BITS),
            failures: take(FAILURES_BITS) as u16,
            epoch: take(EPOCH_BITS) as u8,
            streak: take(STREAK_BITS) as u8,
            trial: take(1) == 1,
            open: match take(2) {
                1 => Some(Cause::Failures),
                2 => Some(Cause::Unreachable),
                _ => None,
            },
        }
    }
}

fn limit(rules: &Ejection) -> u16 {
    u16::try_from(rules.failures).unwrap_or(MAX_FAILURES).clamp(1, MAX_FAILURES)
}

/// How long the ejection after so many in a row lasts.
fn backoff(rules: &Ejection, streak: u8) -> Duration {
    rules.duration.saturating_mul(1 << u32::from(streak.min(MAX_STREAK))).min(rules.max_duration)
}

fn later(now: Instant, by: Duration) -> u64 {
    clock::stamp(now).saturating_add(u64::try_from(by.as_millis()).unwrap_or(MAX_UNTIL)).min(MAX_UNTIL)
}

/// A change that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) before: Circuit,
    pub(super) after: Circuit,
}

impl Change {
    /// Whether it was this change that closed the breaker.
    pub(super) fn closed(self) -> bool {
        self.before.open.is_some() && self.after.open.is_none()
    }
}

/// A breaker that all workers share: one word, no lock.
#[derive(Debug, Default)]
pub(super) struct Breaker(AtomicU64);

impl Breaker {
    pub(super) fn get(&self) -> Circuit {
        Circuit::from_word(self.0.load(Ordering::Relaxed))
    }

    /// Makes a change, if `change` still wants it at the moment when it is made.
    pub(super) fn change(&self, change: impl Fn(Circuit) -> Option<Circuit>) -> Option<Change> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let before = Circuit::from_word(word);
            let after = change(before)?;
            match self.0.compare_exchange_weak(word, after.word(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(Change { before, after }),
                Err(other) => word = other,
            }
        }
    }
}

#[cfg(test)]
#[path = "circuit_tests.rs"]
mod tests;
