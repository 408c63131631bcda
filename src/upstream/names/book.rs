//! What is known of one name, and when to ask again. Pure: time and answers come from the caller.
//!
//! A good answer holds until a better one: while the name servers cannot be asked it stays, however old (RFC 8767). Only
//! a name server that says that there is no such name takes it away, and only after it has kept saying so for
//! [`DENIED_FOR`], since a zone that is being loaded denies everything for a moment. Whatever changes is news once,
//! not at every attempt.

use std::time::Duration;

use super::resolver::{Answer, Unresolved};
use crate::clock::Instant;

/// However short an answer holds, it is asked no sooner.
pub const SHORTEST: Duration = Duration::from_secs(1);

/// However long an answer holds, it is asked again by then: nobody has to restart the gateway for a TTL of a day.
pub const LONGEST: Duration = Duration::from_secs(300);

/// After a failure; doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// How long a known name has to be denied before that is believed.
pub const DENIED_FOR: Duration = Duration::from_secs(30);

/// The tenth of a wait that chance may add, so that many names, or many gateways, do not ask at once. Nothing is asked
/// early: a cache on the way would answer with the rest of a second.
const SPREAD: u32 = 10;

/// What is known of a name.
pub struct Book<T> {
    known: Known<T>,
    /// In a row.
    failures: u32,
    denied_since: Option<Instant>,
}

/// What others may rely on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known<T> {
    /// Nobody has answered yet.
    Asking,
    Good(Vec<T>),
    /// There is nothing to go to, and why.
    Nothing(Unresolved),
}

/// What follows from an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// What others have to be told, where it differs from what they know.
    pub publish: Option<Known<T>>,
    pub news: Option<News<T>>,
    pub ask_again_in: Duration,
}

/// What is worth a line in the log.
#[derive(Debug, PartialEq, Eq)]
pub enum News<T> {
    Resolved(Vec<T>),
    Changed(Vec<T>),
    /// As before, after failures.
    Recovered,
    /// With nothing known so far.
    Unresolved(Unresolved),
    /// What was known still holds.
    Stale(Unresolved),
    /// What was known holds no more.
    Gone(Unresolved),
}

impl<T: Clone + Ord> Book<T> {
    /// `known`: what others rely on already, from before a reload. [`Known::Good`] of nothing is a good answer of which
    /// nobody has kept what it was.
    pub fn new(known: Known<T>) -> Self {
        Self { known, failures: 0, denied_since: None }
    }

    /// What is known now.
    pub fn known(&self) -> &Known<T> {
        &self.known
    }

    /// Writes down what came of a question. `chance` is anything, to spread the times of asking.
    pub fn enter(&mut self, now: Instant, outcome: Result<Answer<T>, Unresolved>, chance: u32) -> Entry<T> {
        match outcome {
            Ok(answer) => self.enter_answer(answer, chance),
            Err(why) => self.enter_failure(now, why, chance),
        }
    }

    fn enter_answer(&mut self, answer: Answer<T>, chance: u32) -> Entry<T> {
        let recovered = std::mem::take(&mut self.failures) > 0;
        self.denied_since = None;
        let ask_again_in = spread(answer.ttl.clamp(SHORTEST, LONGEST), chance);
        let records = answer.records;
        let news = match &self.known {
            Known::Good(before) if before.is_empty() => Some(News::Resolved(records.clone())),
            Known::Good(before) if same(before, &records) => recovered.then_some(News::Recovered),
            Known::Good(_) => Some(News::Changed(records.clone())),
            Known::Asking | Known::Nothing(_) => Some(News::Resolved(records.clone())),
        };
        // Another order is no news, but it is what the name server wants to be used.
        let known = Known::Good(records);
        let publish = (self.known != known).then(|| known.clone());
        self.known = known;
        Entry { publish, news, ask_again_in }
    }

    fn enter_failure(&mut self, now: Instant, why: Unresolved, chance: u32) -> Entry<T> {
        let first = self.failures == 0;
        self.failures = self.failures.saturating_add(1);
        match &why {
            Unresolved::Denied(_) => _ = self.denied_since.get_or_insert(now),
            Unresolved::Failed(_) => self.denied_since = None,
        }
        let ask_again_in = spread(backoff(self.failures), chance);
        let believed = self.denied_since.is_some_and(|since| now.saturating_duration_since(since) >= DENIED_FOR);
        let news = match &self.known {
            Known::Good(_) if believed => News::Gone(why.clone()),
            Known::Good(_) => {
                let news = first.then_some(News::Stale(why));
                return Entry { publish: None, news, ask_again_in };
            }
            Known::Asking => News::Unresolved(why.clone()),
            // Another cause of the same is no news; the latest one is what requests are told.
            Known::Nothing(before) => {
                let publish = (*before != why).then(|| Known::Nothing(why.clone()));
                self.known = Known::Nothing(why);
                return Entry { publish, news: None, ask_again_in };
            }
        };
        self.known = Known::Nothing(why);
        Entry { publish: Some(self.known.clone()), news: Some(news), ask_again_in }
    }
}

fn same<T: Clone + Ord>(one: &[T], other: &[T]) -> bool {
    let sorted = |list: &[T]| {
        let mut list = list.to_vec();
        list.sort();
        list
    };
    sorted(one) == sorted(other)
}

fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(10);
    FIRST_RETRY.saturating_mul(1 << doublings).min(LAST_RETRY)
}

fn spread(wait: Duration, chance: u32) -> Duration {
    wait + (wait / SPREAD).mul_f64(f64::from(chance) / f64::from(u32::MAX))
}
