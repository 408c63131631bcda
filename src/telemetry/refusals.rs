//! How many refusals a second get a line in the access log: a stranger can have as many as he likes, and must not fill a
//! disk with them. Those beyond the measure are counted, and the event log says how many there were.
//!
//! One count for all workers and across reloads: refusals are cheap enough for an atomic of their own, and the measure is
//! the process's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{self, Instant};

/// How often it is said that there are some.
const TELL_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Refusals {
    start: Instant,
    /// The second since the start in the upper half, refusals that were logged in it in the lower one.
    now: AtomicU64,
    unsaid: AtomicU64,
    has_unsaid: Notify,
}

impl Refusals {
    pub fn new() -> Self {
        let (now, unsaid) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { start: clock::now(), now, unsaid, has_unsaid: Notify::new() }
    }

    /// Whether one more is logged, where so many are in a second.
    pub fn admit(&self, most: u32) -> bool {
        let is_said = self.admit_at(clock::now().saturating_duration_since(self.start).as_secs(), most);
        if !is_said {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            self.has_unsaid.notify_one();
        }
        is_said
    }

    fn admit_at(&self, second: u64, most: u32) -> bool {
        let second = second & u64::from(u32::MAX);
        let next = |now: u64| {
            let said = if now >> 32 == second { now & u64::from(u32::MAX) } else { 0 };
            (said < u64::from(most)).then_some(second << 32 | (said + 1))
        };
        self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Those without a line, since the start.
    pub fn unsaid(&self) -> u64 {
        self.unsaid.load(Ordering::Relaxed)
    }

    /// Says in the event log how many there were, whenever there were any. Never completes.
    pub async fn tell(&self) {
        let mut told = 0;
        loop {
            self.has_unsaid.notified().await;
            tokio::time::sleep(TELL_EVERY).await;
            let all = self.unsaid();
            if all > told {
                let lines = all - told;
                tracing::warn!(lines, "the access log left out refusals beyond `log.refusals_per_second`");
                told = all;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_second_so_many_are_logged_and_the_others_are_counted() {
        let refusals = Refusals::new();
        for second in [0, 1, 7, u64::from(u32::MAX) + 3] {
            let said = (0..100).filter(|_| refusals.admit_at(second, 30)).count();
            assert_eq!(said, 30, "{second}");
        }
        let said = (0..5_000).filter(|_| refusals.admit(10)).count() as u64;
        assert!(refusals.unsaid() + said == 5_000 && said >= 10);
    }
}
