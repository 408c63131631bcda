//! How much per second, in integers: a bucket that fills at a rate and is emptied by what is spent.
//!
//! It is given the time and reads no clock. Nothing is rounded away, so that over a long time exactly the rate is
//! allowed, however late or often it is asked. It holds what one second brings (two units at least, so that at one a
//! second being late by less than a second loses nothing), and that is the largest burst. What is spent in advance is a
//! debt, which is waited off.

use std::time::Duration;

use crate::clock::Instant;

/// A unit's worth, in units times nanoseconds.
const UNIT: i128 = 1_000_000_000;

/// Longer silences count as this one; keeps the arithmetic far from its limits.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// An allowance of so many units per second.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Units per second, and so unit-nanoseconds per nanosecond.
    rate: u64,
    /// In unit-nanoseconds; below zero is debt.
    level: i128,
    /// When that was.
    at: Instant,
}

impl Bucket {
    /// A full one. A rate of zero counts as one.
    pub fn new(rate: u64, now: Instant) -> Self {
        let mut bucket = Self { rate: rate.max(1), level: 0, at: now };
        bucket.level = bucket.most();
        bucket
    }

    /// What fits in.
    fn most(&self) -> i128 {
        i128::from(self.rate.max(2)) * UNIT
    }

    /// Whole units that may be spent now.
    pub fn available(&mut self, now: Instant) -> u64 {
        // A clock that stands still or goes back brings nothing.
        let elapsed = now.saturating_duration_since(self.at).min(LONGEST);
        let filled = self.level + i128::try_from(elapsed.as_nanos()).unwrap_or(0) * i128::from(self.rate);
        self.level = filled.min(self.most());
        self.at = self.at.max(now);
        u64::try_from(self.level.max(0) / UNIT).unwrap_or(u64::MAX)
    }

    /// Takes units out, even those that are not there.
    pub fn spend(&mut self, units: u64) {
        self.level = self.level.saturating_sub(i128::from(units) * UNIT);
    }

    /// When so many units, or as many as fit in, will be there if nothing is spent.
    pub fn ready_at(&self, units: u64) -> Instant {
        let wanted = (i128::from(units) * UNIT).min(self.most());
        let missing = wanted.saturating_sub(self.level).max(0);
        let nanos = (missing + i128::from(self.rate) - 1) / i128::from(self.rate);
        self.at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(LONGEST)
    }

    /// What a fraction of a second brings, but one unit at least: less is not worth a turn.
    pub fn helping(&self) -> u64 {
        (self.rate / 8).max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_full_bucket_is_one_second_and_fills_at_its_rate() {
        let start = clock::now();
        let mut bucket = Bucket::new(100, start);
        assert_eq!(bucket.available(start), 100);
        bucket.spend(100);
        assert_eq!(bucket.available(start), 0);
        assert_eq!(bucket.ready_at(1), start + millis(10));
        assert_eq!(bucket.available(start + millis(9)), 0);
        assert_eq!(bucket.available(start + millis(10)), 1);
        assert_eq!(bucket.available(start + millis(505)), 50);
        assert_eq!(bucket.available(start + millis(505)), 50, "asking takes nothing");
        assert_eq!(bucket.available(start + millis(100)), 50, "a clock that goes back takes nothing and gives nothing");
        assert_eq!(bucket.available(start + Duration::from_secs(60)), 100);
    }

    #[test]
    fn one_a_second_is_one_a_second_however_late_it_is_asked_for() {
        let start = clock::now();
        let mut bucket = Bucket::new(1, start);
        let (mut now, mut passed) = (start, 0);
        for turn in 0..1_000_u64 {
            let available = bucket.available(now);
            bucket.spend(available);
            passed += available;
            now = bucket.ready_at(1) + millis(turn % 8 * 110);
        }
        let seconds = bucket.at.duration_since(start).as_secs();
        assert!(passed >= seconds && passed <= seconds + 2, "{passed} in {seconds} s");
    }

    #[test]
    fn debt_is_waited_off() {
        let start = clock::now();
        let mut bucket = Bucket::new(10, start);
        bucket.spend(30);
        assert_eq!(bucket.ready_at(1), start + millis(2_100));
        assert_eq!(bucket.available(start + millis(2_099)), 0);
        assert_eq!(bucket.available(start + millis(2_100)), 1);
    }

    #[test]
    fn the_greatest_rates_and_debts_do_not_overflow() {
        let start = clock::now();
        let mut bucket = Bucket::new(u64::MAX, start);
        assert_eq!(bucket.available(start), u64::MAX);
        for _ in 0..4 {
            bucket.spend(u64::MAX);
        }
        assert!(bucket.ready_at(u64::MAX) <= start + LONGEST);
        assert_eq!(bucket.available(start + Duration::from_secs(1_000_000_000)), u64::MAX);
        let mut slow = Bucket::new(1, start);
        slow.spend(u64::MAX);
        assert_eq!(slow.ready_at(u64::MAX), start + LONGEST);
        assert_eq!(slow.available(start + LONGEST), 0);
    }

    proptest! {
        /// Whoever spends what is available gets, over any time that it is watched, the rate: no more than a burst
        /// above it, and when it comes in time no less.
        #[test]
        fn what_is_allowed_is_the_rate_and_a_burst(
            rate in prop_oneof![1_u64..10, 10_u64..5_000, 1_u64 << 20..1 << 40],
            steps in prop::collection::vec((0_u64..2_000_000_000, any::<bool>()), 1..80),
        ) {
            let start = clock::now();
            let mut bucket = Bucket::new(rate, start);
            let mut now = start;
            let burst = u128::from(rate.max(2));
            bucket.spend(rate.max(2));
            let mut spent = burst;
            let mut never_full = true;
            for (wait, greedy) in steps {
                now = now.max(if greedy { bucket.ready_at(1) } else { now }) + Duration::from_nanos(wait % 200_000_000);
                let available = bucket.available(now);
                never_full &= available < rate.max(2);
                let share = if greedy { available } else { available / 3 };
                bucket.spend(share);
                spent += u128::from(share);
                let elapsed = now.duration_since(start).as_nanos();
                let allowed = burst * 1_000_000_000 + elapsed * u128::from(rate);
                prop_assert!(spent * 1_000_000_000 <= allowed);
                if never_full {
                    // Exact: what was not spent is still there.
                    let left = allowed - spent * 1_000_000_000;
                    prop_assert_eq!(u128::from(bucket.available(now)), left / 1_000_000_000);
                }
                prop_assert!(bucket.ready_at(1) >= now || bucket.available(now) > 0);
            }
        }
    }
}
