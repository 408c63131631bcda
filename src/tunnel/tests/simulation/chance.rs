//! Chance with a seed: everything that a run decides comes from here, the core's own random bytes included.

use std::cell::Cell;
use std::sync::OnceLock;

/// SplitMix64: a few instructions, any seed is good, and neighbours have nothing in common.
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another source that shares nothing with this one.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// At least 0, less than `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    pub fn one_in(&mut self, times: u64) -> bool {
        self.next().is_multiple_of(times)
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Mostly few, sometimes many: each size class up to `most` is as likely as the next.
    pub fn skewed(&mut self, most: usize) -> usize {
        let bits = self.below(usize::BITS as usize - most.leading_zeros() as usize + 1);
        self.below(1 << bits).min(most)
    }

    /// Bytes that repeat nowhere nearby, so that none can take another's place unseen.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        static POOL: OnceLock<Vec<u8>> = OnceLock::new();
        let pool = POOL.get_or_init(|| {
            let mut chance = Self(1);
            (0..64 * 1024).flat_map(|_| chance.next().to_ne_bytes()).collect()
        });
        let start = self.below(pool.len() - length + 1);
        pool[start..start + length].to_vec()
    }
}

thread_local! {
    static FORESEEN: Cell<Option<u64>> = const { Cell::new(None) };
}

/// What the core takes for random on this thread follows from this seed; `None`: is random again.
pub(super) fn foresee(seed: Option<u64>) {
    FORESEEN.set(seed);
}

/// Fills in what the core is to take for random, if this thread simulates.
pub(in crate::tunnel) fn foreseen(bytes: &mut [u8]) -> bool {
    let Some(seed) = FORESEEN.get() else { return false };
    let mut chance = Chance(seed);
    for byte in bytes {
        *byte = chance.next() as u8;
    }
    FORESEEN.set(Some(chance.0));
    true
}
