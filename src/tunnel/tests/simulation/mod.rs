//! A seeded simulation of the whole core: two scripted ends, an executor of its own, and time that stands still.
//!
//! A seed decides everything: what the ends say (`plan`, `traffic`), how their sockets behave (`side`), in which order
//! everything happens and when (`world`), and what the core takes for random (`chance`). What comes out is held against
//! what went in by an `account` of each way that shares no code with the core, while the tunnel runs and, in `verdict`,
//! when it is over. `PORTCULLIS_SEED=N cargo test --lib simulation -- --nocapture` plays one seed and tells every event;
//! `PORTCULLIS_SEEDS=N` runs that many instead of 100,000.

mod account;
mod chance;
mod plan;
mod side;
mod traffic;
mod verdict;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::end::EndReason;

pub(in crate::tunnel) use chance::foreseen;
use plan::Plan;
use side::Log;

const SEEDS: u64 = 100_000;

/// In how many ways a tunnel can end.
const REASONS: usize = 15;

/// So many failures are enough to look at.
const MOST_FAILURES: usize = 10;

fn play(seed: u64, is_told: bool) -> EndReason {
    chance::foresee(Some(seed));
    let mut outcome = world::run(Plan::new(seed), Log::new(is_told));
    verdict::judge(&mut outcome);
    chance::foresee(None);
    outcome.end.reason
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// How often each reason ended a tunnel, and which seeds failed.
#[derive(Debug, Default)]
struct Tally {
    reasons: BTreeMap<&'static str, u64>,
    failed: Vec<u64>,
}

/// Plays the seeds that `next` hands out.
fn play_some(next: &AtomicU64, seeds: u64) -> Tally {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // Never run; it only holds the clock that is moved by hand.
    let runtime = builder.enable_time().start_paused(true).build().expect("runtime");
    let _entered = runtime.enter();
    let mut tally = Tally::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds || tally.failed.len() >= MOST_FAILURES {
            return tally;
        }
        match std::panic::catch_unwind(|| play(seed, false)) {
            Ok(reason) => *tally.reasons.entry(reason.code()).or_default() += 1,
            Err(_) => {
                println!("seed {seed} fails: PORTCULLIS_SEED={seed} cargo test --lib simulation -- --nocapture");
                tally.failed.push(seed);
            }
        }
    }
}

#[test]
fn a_hundred_thousand_seeds_lose_reorder_and_invent_no_byte_and_every_tunnel_ends_as_it_should() {
    if let Some(seed) = number("PORTCULLIS_SEED") {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("runtime");
        let _entered = runtime.enter();
        play(seed, true);
        return;
    }
    let seeds = number("PORTCULLIS_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = Tally::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| play_some(&next, seeds))).collect();
        for thread in threads {
            let some = thread.join().expect("panics are caught");
            some.reasons.into_iter().for_each(|(reason, count)| *all.reasons.entry(reason).or_default() += count);
            all.failed.extend(some.failed);
        }
    });
    println!("{:?}", all.reasons);
    assert!(all.failed.is_empty(), "seeds that fail: {:?}", all.failed);
    // A simulation that never gets somewhere proves nothing about it.
    if seeds >= SEEDS {
        let least = all.reasons.values().min();
        assert!(all.reasons.len() == REASONS && least.is_some_and(|least| *least >= 100), "{:?}", all.reasons);
    }
}
