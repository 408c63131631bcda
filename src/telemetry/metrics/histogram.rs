//! How often something was how large: cells with bounds that are known beforehand.
//!
//! Durations are kept in microseconds and sizes in bytes, so that a sum is a whole number.

use std::fmt;
use std::time::Duration;

use super::cells::{Cells, Counter};

/// The bounds of a histogram.
pub trait Bounds: Send + Sync + 'static {
    /// What is kept, for each bound from the smallest on; a value on a bound belongs to it.
    const BOUNDS: &'static [u64];
    /// What is kept, for each unit that is shown.
    const PER_UNIT: f64;

    /// Which of them a value belongs to; their number: to none.
    fn place(value: u64) -> usize {
        Self::BOUNDS.iter().position(|bound| value <= *bound).unwrap_or(Self::BOUNDS.len())
    }
}

/// One more than the bounds of the largest.
const MOST: usize = 18;

/// A histogram with one writer.
pub struct Histogram<B> {
    places: [Counter; MOST],
    sum: Counter,
    bounds: std::marker::PhantomData<fn() -> B>,
}

impl<B: Bounds> Histogram<B> {
    const FITS: () = assert!(B::BOUNDS.len() < MOST);

    pub fn note(&self, value: u64) {
        let () = Self::FITS;
        // The compiler cannot know that a place is never beyond the bounds.
        if let Some(place) = self.places.get(B::place(value)) {
            place.add(1);
            self.sum.add(value);
        }
    }

    pub fn note_duration(&self, duration: Duration) {
        self.note(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.places.iter().map(Counter::get).sum()
    }

    /// Their sum, in units that are shown.
    pub fn sum(&self) -> f64 {
        self.sum.get() as f64 / B::PER_UNIT
    }

    /// Each bound, the last one infinite, with how many values belong to it and to none before it.
    pub fn places(&self) -> Vec<(f64, u64)> {
        let bounds = B::BOUNDS.iter().map(|bound| *bound as f64 / B::PER_UNIT).chain([f64::INFINITY]);
        bounds.zip(self.places.iter().map(Counter::get)).collect()
    }
}

impl<B: Bounds> Cells for Histogram<B> {
    fn zero() -> Self {
        Self { places: Cells::zero(), sum: Counter::zero(), bounds: std::marker::PhantomData }
    }

    fn add_to(&self, sum: &Self) {
        self.places.add_to(&sum.places);
        self.sum.add_to(&sum.sum);
    }
}

impl<B: Bounds> fmt::Debug for Histogram<B> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.places()).finish()
    }
}

const MICROSECONDS: f64 = 1_000_000.0;
const MILLISECOND: u64 = 1_000;
const SECOND: u64 = 1_000 * MILLISECOND;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// How long requests, TLS handshakes and round trips take: from half a millisecond to half a minute.
#[derive(Debug)]
pub struct Short;

impl Bounds for Short {
    const PER_UNIT: f64 = MICROSECONDS;
    const BOUNDS: &'static [u64] = &[
        500,
        MILLISECOND,
        2_500,
        5 * MILLISECOND,
        10 * MILLISECOND,
        25 * MILLISECOND,
        50 * MILLISECOND,
        100 * MILLISECOND,
        250 * MILLISECOND,
        500 * MILLISECOND,
        SECOND,
        2_500 * MILLISECOND,
        5 * SECOND,
        10 * SECOND,
        30 * SECOND,
    ];
}

/// How long tunnels live: from a second to a week.
#[derive(Debug)]
pub struct Long;

impl Bounds for Long {
    const PER_UNIT: f64 = MICROSECONDS;
    const BOUNDS: &'static [u64] = &[
        SECOND,
        5 * SECOND,
        15 * SECOND,
        MINUTE,
        5 * MINUTE,
        15 * MINUTE,
        HOUR,
        4 * HOUR,
        12 * HOUR,
        24 * HOUR,
        7 * 24 * HOUR,
    ];
}

/// Sizes of messages: powers of four from 16 bytes to 16 MiB.
#[derive(Debug)]
pub struct Sizes;

impl Bounds for Sizes {
    const PER_UNIT: f64 = 1.0;
    const BOUNDS: &'static [u64] =
        &[1 << 4, 1 << 6, 1 << 8, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24];

    fn place(value: u64) -> usize {
        // Half the bits, rounded up, of what is left of the value behind a power of four.
        let bits = u64::BITS - value.saturating_sub(1).leading_zeros();
        (bits.div_ceil(2).saturating_sub(2) as usize).min(Self::BOUNDS.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_belongs_to_the_first_bound_that_is_not_below_it() {
        fn check<B: Bounds>() {
            assert!(B::BOUNDS.is_sorted());
            for (index, bound) in B::BOUNDS.iter().enumerate() {
                assert_eq!((B::place(*bound), B::place(bound + 1)), (index, index + 1), "{bound}");
            }
            assert_eq!((B::place(0), B::place(u64::MAX)), (0, B::BOUNDS.len()));
        }
        check::<Short>();
        check::<Long>();
        check::<Sizes>();
    }

    #[test]
    fn count_sum_and_places_agree() {
        let histogram = Histogram::<Short>::zero();
        [400, 500, 501, 90_000_000]
            .into_iter()
            .map(Duration::from_micros)
            .for_each(|took| histogram.note_duration(took));
        assert_eq!(histogram.count(), 4);
        assert!((histogram.sum() - 90.001_401).abs() < 1e-9);
        let places = histogram.places();
        assert_eq!((places[0], places[1]), ((0.0005, 2), (0.001, 1)));
        assert_eq!(places.last(), Some(&(f64::INFINITY, 1)));
        assert_eq!(places.len(), Short::BOUNDS.len() + 1);
    }
}
