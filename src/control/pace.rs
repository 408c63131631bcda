//! When the next of many is due, of which there are so many in some time: evenly, but never in step.
//!
//! Pure: it is told what time it is. Who was kept up catches up on little of what was missed, so that nothing comes in
//! bursts; who rests owes nothing afterwards.

use std::time::Duration;

use crate::clock::Instant;

/// What is caught up on at most.
const LATE: Duration = Duration::from_millis(50);

/// What is closer together than this is at once.
const LEAST: Duration = Duration::from_micros(1);

/// The mean time between two of which there are so many in a second.
pub(super) fn per_second(rate: u32) -> Duration {
    Duration::from_secs(1) / rate.max(1)
}

/// One pace, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Pace {
    next: Option<Instant>,
    random: Random,
}

/// Numbers that need not be secret (SplitMix64; Steele, Lea and Flood 2014).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub fn new() -> Self {
        let mut bytes = [0; 8];
        // Without randomness they can be foreseen, which hurts nobody.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        Self(u64::from_ne_bytes(bytes))
    }

    /// Less than `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

impl Pace {
    pub fn new() -> Self {
        Self { next: None, random: Random::new() }
    }

    /// How many are due, with this time between two in the mean. Until it is asked again they count as done.
    pub fn due(&mut self, mean: Duration, now: Instant) -> usize {
        let floor = now.checked_sub(LATE).unwrap_or(now);
        let mut next = self.next.map_or(now, |next| next.max(floor));
        let mut due = 0;
        while next <= now {
            due += 1;
            next += self.gap(mean);
        }
        self.next = Some(next);
        due
    }

    /// There was nothing to do until now.
    pub fn rest(&mut self, now: Instant) {
        self.next = self.next.map(|next| next.max(now));
    }

    /// From now on at another pace: the next one is no further away than that says.
    pub fn change(&mut self, mean: Duration, now: Instant) {
        let gap = self.gap(mean);
        self.next = self.next.map(|next| next.min(now + gap));
    }

    /// When something is due again; `None`: at once.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// From half of the mean to one and a half of it, at random.
    fn gap(&mut self, mean: Duration) -> Duration {
        let mean = u64::try_from(mean.max(LEAST).as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(mean / 2 + self.random.below(mean))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn foreseen(seed: u64) -> Pace {
        Pace { next: None, random: Random(seed) }
    }

    #[test]
    fn a_second_has_as_many_as_the_rate_says_and_no_two_gaps_are_alike() {
        let start = clock::now();
        for rate in [1, 7, 100, 5_000] {
            let mut pace = foreseen(u64::from(rate));
            let (mut now, mut done, mut gaps) = (start, 0, Vec::new());
            let end = start + Duration::from_secs(60);
            while now < end {
                done += pace.due(per_second(rate), now);
                let next = pace.next().expect("a next one");
                gaps.push((next - now).as_nanos() as u64);
                now = next;
            }
            let due = 60 * rate as usize;
            assert!(done.abs_diff(due) <= 5 + due / 50, "{done} instead of {due}");
            let mean = 1_000_000_000 / u64::from(rate);
            assert!(gaps.iter().all(|gap| (mean / 2..=mean * 3 / 2).contains(gap)));
            gaps.dedup();
            assert!(gaps.len() * 10 > done * 9);
        }
    }

    #[test]
    fn who_was_kept_up_or_has_rested_does_not_come_in_a_burst() {
        let mut now = clock::now();
        let mut pace = foreseen(1);
        assert_eq!(pace.due(per_second(100), now), 1);
        assert_eq!(pace.due(per_second(100), now), 0);
        now += Duration::from_secs(10);
        assert!(pace.due(per_second(100), now) <= 11);
        now += Duration::from_secs(10);
        pace.rest(now);
        assert_eq!(pace.due(per_second(100), now), 1);
        // To begin again at once gives no more than to go on.
        pace.rest(now);
        assert_eq!(pace.due(per_second(100), now), 0);
    }
}
