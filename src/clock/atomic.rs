//! A point in time that threads share without a lock, to the millisecond.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Instant, now};

/// What stamps are counted from. Early enough that a deadline before it does not occur: by the real clock, since one that
/// a test has paused and moved on may be far ahead of that of the next test.
#[expect(clippy::disallowed_methods, reason = "part of the clock")]
static BASE: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::from_std(std::time::Instant::now());
    now.checked_sub(Duration::from_secs(3600)).unwrap_or(now)
});

/// Whole seconds of the monotonic clock, counted from some moment at the start of the process.
pub fn seconds() -> u64 {
    now().saturating_duration_since(*BASE).as_secs()
}

/// Milliseconds from the process's own beginning, rounded down: an instant that fits beside other things into a word.
pub fn stamp(instant: Instant) -> u64 {
    u64::try_from(instant.saturating_duration_since(*BASE).as_millis()).unwrap_or(u64::MAX)
}

/// An instant or none; starts as none.
#[derive(Debug, Default)]
pub struct AtomicInstant(AtomicU64);

impl AtomicInstant {
    /// `None` where nothing is set.
    pub fn get(&self) -> Option<Instant> {
        let stamp = self.0.load(Ordering::Relaxed).checked_sub(1)?;
        Some(*BASE + Duration::from_millis(stamp))
    }

    /// Rounded down to a millisecond.
    pub fn set(&self, instant: Option<Instant>) {
        let stamp = instant.map_or(0, |instant| stamp(instant).min(u64::from(u32::MAX) * 1000) + 1);
        self.0.store(stamp, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_read_to_the_millisecond_and_the_far_future_stays_far() {
        let shared = AtomicInstant::default();
        assert_eq!(shared.get(), None);
        let soon = now() + Duration::from_secs(5);
        shared.set(Some(soon));
        let read = shared.get().expect("set");
        assert!(soon.saturating_duration_since(read) <= Duration::from_millis(1));
        let far = now() + Duration::from_secs(100 * 365 * 24 * 3600);
        shared.set(Some(far));
        assert!(shared.get().is_some_and(|read| read > now() + Duration::from_secs(99 * 365 * 24 * 3600)));
        assert!(stamp(far) > stamp(soon) && stamp(soon) > stamp(now()));
        shared.set(None);
        assert_eq!(shared.get(), None);
    }
}
