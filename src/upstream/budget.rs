//! How many retries an upstream may cost, over all workers: a part of its requests in the last seconds, so that servers
//! that are dying are not buried under what is sent to them once more.
//!
//! A sliding window of counters by the second, without locks. A retry counts itself first and takes that back where it is
//! one too many, so that workers that retry at the same moment never exceed the budget.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock;
use crate::config::model;

/// Seconds that requests and retries are compared over, the present one included.
const WINDOW: u64 = 10;

/// Seconds between two lines in the log about one upstream.
const TELL_EVERY: u64 = 10;

/// The retries of one upstream. Outlives snapshots.
#[derive(Debug, Default)]
pub struct Retries {
    requests: Window,
    retries: Window,
    taken: AtomicU64,
    refused: AtomicU64,
    /// One more than the second of the last line in the log.
    told: AtomicU64,
}

/// What has become of an upstream's retries since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryCounts {
    pub taken: u64,
    /// Failures that were passed on because the budget was spent.
    pub refused: u64,
}

impl Retries {
    pub fn counts(&self) -> RetryCounts {
        RetryCounts { taken: self.taken.load(Ordering::Relaxed), refused: self.refused.load(Ordering::Relaxed) }
    }

    /// One more request, which the budget is a part of.
    pub(super) fn note_request(&self) {
        self.requests.add(clock::seconds());
    }

    /// Whether one more retry fits into the budget, which then counts it.
    pub(super) fn try_take(&self, upstream: &str, budget: model::RetryBudget) -> bool {
        let now = clock::seconds();
        if self.try_take_at(now, budget) {
            return true;
        }
        let told = self.told.load(Ordering::Relaxed);
        let is_due = told == 0 || now >= told - 1 + TELL_EVERY;
        if is_due && self.told.compare_exchange(told, now + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let refused = self.refused.load(Ordering::Relaxed);
            tracing::warn!(
                upstream,
                refused,
                "retry_budget is spent: failures are passed on that would have been retried"
            );
        }
        false
    }

    fn try_take_at(&self, now: u64, budget: model::RetryBudget) -> bool {
        let in_this_second = self.retries.add(now);
        let part = u64::from(budget.percent) * self.requests.sum(now) / 100;
        let fits = in_this_second <= u64::from(budget.min_per_second) || self.retries.sum(now) <= part;
        if fits {
            self.taken.fetch_add(1, Ordering::Relaxed);
        } else {
            self.retries.take_back(now);
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }
}

/// Counts of the last seconds, each with the second that it is of.
#[derive(Debug, Default)]
struct Window([AtomicU64; WINDOW as usize]);

/// A second in the upper half, its count in the lower one.
fn split(slot: u64) -> (u64, u64) {
    (slot >> 32, slot & u64::from(u32::MAX))
}

impl Window {
    fn slot(&self, second: u64) -> &AtomicU64 {
        &self.0[(second % WINDOW) as usize]
    }

    /// How many this second has now.
    fn add(&self, second: u64) -> u64 {
        let slot = self.slot(second);
        let found = slot.load(Ordering::Relaxed);
        // Mostly the present second has begun. To find it gone a moment later, the thread would have to have slept for
        // the whole window, and then one count is in a later second, which is the right one by now.
        if split(found).0 >= second {
            return split(slot.fetch_add(1, Ordering::Relaxed)).1 + 1;
        }
        let begin = |slot| match split(slot) {
            (of, count) if of >= second => of << 32 | (count + 1),
            _ => second << 32 | 1,
        };
        split(begin(slot.update(Ordering::Relaxed, Ordering::Relaxed, begin))).1
    }

    fn take_back(&self, second: u64) {
        let less = |slot| match split(slot) {
            (of, count) if of >= second && count > 0 => Some(slot - 1),
            _ => None,
        };
        // Fails only where the second is over, and its count forgotten.
        let _ = self.slot(second).try_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn sum(&self, now: u64) -> u64 {
        let counts = self.0.iter().map(|slot| split(slot.load(Ordering::Relaxed)));
        counts
            .filter(|(second, _)| now.saturating_sub(*second) < WINDOW && *second <= now)
            .map(|(_, count)| count)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(percent: u32, min_per_second: u32) -> model::RetryBudget {
        model::RetryBudget { percent, min_per_second }
    }

    fn requests(retries: &Retries, second: u64, count: usize) {
        (0..count).for_each(|_| _ = retries.requests.add(second));
    }

    fn take(retries: &Retries, second: u64, tries: usize, budget: model::RetryBudget) -> usize {
        (0..tries).filter(|_| retries.try_take_at(second, budget)).count()
    }

    #[test]
    fn retries_are_the_part_of_the_requests_in_the_last_ten_seconds() {
        let retries = Retries::default();
        requests(&retries, 100, 500);
        requests(&retries, 104, 500);
        assert_eq!(take(&retries, 105, 1000, budget(20, 0)), 200);
        assert_eq!(take(&retries, 109, 1000, budget(20, 0)), 0);
        // The first half of the requests is forgotten, the retries are not.
        assert_eq!(take(&retries, 110, 1000, budget(20, 0)), 0);
        requests(&retries, 110, 1000);
        assert_eq!(take(&retries, 110, 1000, budget(20, 0)), 100);
        // Of 1000 requests 200, less the 100 that are still remembered.
        assert_eq!(take(&retries, 115, 1000, budget(20, 0)), 100);
        assert_eq!(take(&retries, 500, 1000, budget(100, 0)), 0);
        assert_eq!(retries.counts(), RetryCounts { taken: 400, refused: 5600 });
    }

    #[test]
    fn some_retries_a_second_are_allowed_in_any_case() {
        let retries = Retries::default();
        for second in [0, 1, 2, 30] {
            assert_eq!(take(&retries, second, 100, budget(20, 10)), 10, "{second}");
        }
        requests(&retries, 30, 1000);
        assert_eq!(take(&retries, 30, 1000, budget(20, 10)), 190);
        assert_eq!(take(&retries, 31, 1000, budget(20, 10)), 10);
        assert_eq!(take(&retries, 31, 1000, budget(0, 0)), 0);
    }

    #[test]
    fn retries_of_many_threads_at_a_time_never_exceed_the_budget() {
        let retries = Retries::default();
        requests(&retries, 7, 10_000);
        let threads = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| take(&retries, 8, 5000, budget(20, 10)))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>()
        });
        assert!(threads <= 2000, "{threads}");
        // A refusal that two gave each other takes nothing away.
        assert_eq!(threads + take(&retries, 8, 5000, budget(20, 10)), 2000);
    }

    #[test]
    fn requests_of_many_threads_are_all_counted() {
        let (retries, together) = (Retries::default(), std::sync::Barrier::new(4));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    (0..20).for_each(|second| {
                        together.wait();
                        requests(&retries, second, 1000);
                    });
                });
            }
        });
        assert_eq!(retries.requests.sum(19), 40_000);
        assert_eq!(retries.requests.sum(24), 20_000);
    }
}
