//! The rules of balancing, with properties.

use std::cell::Cell;

use proptest::prelude::*;

use super::Standing::{Down, Ejected, OnTrial, Trial, Up};
use super::*;

/// A server of weight, live work, backup, standing.
type Given = (u32, u32, bool, Standing);

const STANDINGS: [Standing; 5] = [Up, Trial, OnTrial, Ejected, Down];

struct Servers {
    given: Vec<Given>,
    turns: Vec<Cell<i64>>,
}

impl Servers {
    fn new(given: &[Given]) -> Self {
        Self { given: given.to_vec(), turns: given.iter().map(|_| Cell::new(0)).collect() }
    }

    fn of_weights(weights: &[u32]) -> Self {
        Self::new(&weights.iter().map(|&weight| (weight, 0, false, Up)).collect::<Vec<_>>())
    }

    fn candidates(&self) -> Vec<Candidate<'_>> {
        let servers = self.given.iter().zip(&self.turns).enumerate();
        servers
            .map(|(index, (&(weight, live, backup, standing), turn))| Candidate {
                id: ServerId::of("test", &format!("http://10.0.0.{index}:80")),
                weight: u64::from(weight) * 1000,
                live,
                backup,
                standing,
                is_full: false,
                turn,
            })
            .collect()
    }

    fn choose(&self, balance: &Balance, key: Option<u64>, random: &mut u64) -> Option<usize> {
        choose(balance, &self.candidates(), key, Panic::All, || next(random)).ok().map(|(index, _)| index)
    }

    /// How often each of them is chosen in so many rounds while everything that is chosen stays live.
    fn fill(&mut self, balance: &Balance, rounds: usize, key: impl Fn(u64) -> Option<u64>) -> Vec<u32> {
        let mut random = 7;
        for round in 0..rounds {
            let chosen = self.choose(balance, key(round as u64), &mut random).expect("one");
            self.given[chosen].1 += 1;
        }
        self.given.iter().map(|given| given.1).collect()
    }
}

fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *random >> 16
}

fn hash() -> Balance {
    Balance::Hash { by: model::HashBy::Path, load: 125 }
}

fn spread_key(round: u64) -> Option<u64> {
    Some(round.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[test]
fn round_robin_gives_each_its_weight_and_spreads_the_heavy_one_out() {
    let servers = Servers::of_weights(&[1, 1, 2]);
    let mut random = 0;
    let order: Vec<_> = (0..8).map(|_| servers.choose(&Balance::RoundRobin, None, &mut random).expect("one")).collect();
    assert_eq!(order, [2, 0, 1, 2, 2, 0, 1, 2]);
}

#[test]
fn least_connections_fills_what_is_behind_and_then_keeps_the_weights() {
    let mut servers = Servers::new(&[(1, 300, false, Up), (1, 0, false, Up), (2, 100, false, Up)]);
    assert_eq!(servers.fill(&Balance::LeastConnections, 800, |_| None), [300, 300, 600]);
}

#[test]
fn equal_servers_take_turns_under_least_connections() {
    let servers = Servers::of_weights(&[1, 1, 1]);
    let mut random = 0;
    let order: Vec<_> =
        (0..6).map(|_| servers.choose(&Balance::LeastConnections, None, &mut random).expect("one")).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn two_choices_stay_close_together_and_keep_the_weights() {
    let mut servers = Servers::of_weights(&[1, 1, 2]);
    let counts = servers.fill(&Balance::TwoChoices, 4000, |_| None);
    for (count, share) in counts.iter().zip([1000, 1000, 2000]) {
        assert!(count.abs_diff(share) <= share / 10, "{counts:?}");
    }
}

#[test]
fn a_key_stays_with_its_server_and_moves_only_when_that_one_goes() {
    let servers = Servers::of_weights(&[1, 1, 1, 1]);
    let mut random = 0;
    for round in 0..500 {
        let key = spread_key(round);
        let home = servers.choose(&hash(), key, &mut random).expect("one");
        assert_eq!(servers.choose(&hash(), key, &mut random), Some(home));
        for gone in 0..4 {
            let mut fewer = Servers::of_weights(&[1, 1, 1, 1]);
            fewer.given[gone].3 = if gone % 2 == 0 { Down } else { Ejected };
            let chosen = fewer.choose(&hash(), key, &mut random).expect("one");
            assert!(chosen != gone && (home == gone || chosen == home), "key {round}, without {gone}");
        }
    }
}

#[test]
fn keys_are_spread_by_weight_and_no_server_gets_over_its_bound() {
    let mut servers = Servers::of_weights(&[1, 2, 1]);
    let counts = servers.fill(&hash(), 4000, spread_key);
    for (count, share) in counts.iter().zip([1000_u32, 2000, 1000]) {
        assert!(count.abs_diff(share) <= share / 8, "{counts:?}");
    }
    // One key alone spills over to the others instead of drowning its server.
    let mut servers = Servers::of_weights(&[1, 1, 1, 1]);
    let counts = servers.fill(&hash(), 400, |_| Some(1));
    assert_eq!(counts.iter().max(), Some(&125), "{counts:?}");
}

/// Who is chosen of these, and why.
fn tier(given: &[Given], panic: Panic) -> Option<(usize, Tier)> {
    choose(&Balance::RoundRobin, &Servers::new(given).candidates(), None, panic, || 0).ok()
}

#[test]
fn backups_work_only_when_nobody_else_can_and_the_last_resort_is_to_try() {
    let tier = |given: &[Given]| tier(given, Panic::All);
    assert_eq!(tier(&[(1, 0, true, Up), (1, 0, false, Up)]), Some((1, Tier::Primary)));
    assert_eq!(tier(&[(1, 0, true, Up), (1, 0, false, Down)]), Some((0, Tier::Backup)));
    assert_eq!(tier(&[(1, 0, true, Up), (1, 0, false, Ejected)]), Some((0, Tier::Backup)));
    assert_eq!(tier(&[(1, 0, true, Ejected), (1, 0, false, Down)]), Some((1, Tier::LastResort)));
    assert_eq!(tier(&[(1, 0, true, Down), (0, 0, false, Up)]), Some((0, Tier::LastResort)));
    assert_eq!(tier(&[(0, 0, true, Up), (0, 0, false, Up)]), None);
    assert_eq!(tier(&[]), None);
}

#[test]
fn a_full_server_is_passed_over_and_to_wait_for_one_beats_trying_one_that_is_out() {
    let choice = |given: &[Given], full: &[usize], panic: Panic| {
        let servers = Servers::new(given);
        let mut candidates = servers.candidates();
        full.iter().for_each(|&index| candidates[index].is_full = true);
        let chosen = choose(&Balance::LeastConnections, &candidates, None, panic, || 0);
        assert_eq!(chosen.is_ok(), has_room(&candidates, panic));
        chosen
    };
    for panic in [Panic::All, Panic::Refuse] {
        let choice = |given: &[Given], full: &[usize]| choice(given, full, panic);
        assert_eq!(choice(&[(1, 0, false, Up), (1, 9, false, Up)], &[0]), Ok((1, Tier::Primary)));
        assert_eq!(choice(&[(1, 0, false, Up), (1, 9, true, Up)], &[0]), Ok((1, Tier::Backup)));
        assert_eq!(choice(&[(1, 0, false, Up), (1, 0, true, Up)], &[0, 1]), Err(Lack::Room));
        assert_eq!(choice(&[(1, 0, false, Up), (1, 0, false, Down)], &[0]), Err(Lack::Room));
        assert_eq!(choice(&[(1, 0, false, Up), (1, 0, true, Ejected)], &[0]), Err(Lack::Room));
        assert_eq!(choice(&[(1, 0, false, Up), (1, 0, false, OnTrial)], &[0]), Err(Lack::Room));
        assert_eq!(choice(&[(1, 0, false, OnTrial), (1, 0, false, Down)], &[0]), Err(Lack::Room));
        assert_eq!(choice(&[(0, 0, false, Up), (1, 0, false, Up)], &[1]), Err(Lack::Room));
        assert_eq!(choice(&[(0, 0, false, Up), (0, 0, false, Down)], &[0]), Err(Lack::Server));
    }
    assert_eq!(choice(&[(1, 0, false, Down), (1, 0, false, Down)], &[0], Panic::All), Ok((1, Tier::LastResort)));
    assert_eq!(choice(&[(1, 0, false, Down), (1, 0, false, Down)], &[0, 1], Panic::All), Err(Lack::Room));
    assert_eq!(choice(&[(1, 0, false, Down), (1, 0, false, Down)], &[0, 1], Panic::Refuse), Err(Lack::Server));
    assert_eq!(choice(&[(0, 0, false, Up), (1, 0, false, Down)], &[0], Panic::All), Ok((1, Tier::LastResort)));
}

#[test]
fn whoever_is_due_for_a_trial_gets_it_in_turn_and_while_it_is_tried_others_go_first() {
    assert_eq!(tier(&[(1, 0, false, Trial), (1, 0, false, Down)], Panic::All), Some((0, Tier::Primary)));
    assert_eq!(tier(&[(1, 0, false, OnTrial), (1, 0, false, Up)], Panic::All), Some((1, Tier::Primary)));
    assert_eq!(tier(&[(1, 0, false, OnTrial), (1, 0, true, Up)], Panic::All), Some((1, Tier::Backup)));
    for panic in [Panic::All, Panic::Refuse] {
        assert_eq!(tier(&[(1, 0, false, Ejected), (1, 0, false, OnTrial)], panic), Some((1, Tier::OnTrial)));
        assert_eq!(tier(&[(1, 0, true, OnTrial), (1, 0, false, Down)], panic), Some((0, Tier::OnTrial)));
    }
}

#[test]
fn an_upstream_that_would_rather_refuse_has_no_last_resort() {
    assert_eq!(tier(&[(1, 0, false, Ejected), (1, 0, false, Down), (1, 0, true, Down)], Panic::Refuse), None);
    assert_eq!(tier(&[(1, 0, false, Down), (1, 0, true, Up)], Panic::Refuse), Some((1, Tier::Backup)));
}

proptest! {
    #[test]
    fn whatever_is_chosen_may_get_work_and_is_of_the_best_tier(
        given in prop::collection::vec((0..4_u32, 0..50_u32, any::<bool>(), prop::sample::select(&STANDINGS)), 0..12),
        key in any::<Option<u64>>(),
        refuse in any::<bool>(),
        mut random in any::<u64>(),
    ) {
        let servers = Servers::new(&given);
        let panic = if refuse { Panic::Refuse } else { Panic::All };
        for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::TwoChoices, hash()] {
            let chosen = choose(&balance, &servers.candidates(), key, panic, || next(&mut random));
            let rank = |&(weight, _, backup, standing): &Given| match (weight, standing, backup) {
                (0, ..) => None,
                (_, Up | Trial, false) => Some(0),
                (_, Up | Trial, true) => Some(1),
                (_, OnTrial, false) => Some(2),
                (_, OnTrial, true) => Some(3),
                (_, Ejected | Down, _) if refuse => None,
                (_, Ejected | Down, false) => Some(4),
                (_, Ejected | Down, true) => Some(5),
            };
            let best = given.iter().filter_map(rank).min();
            prop_assert_eq!(chosen.ok().and_then(|(index, _)| rank(&given[index])), best);
        }
    }

    #[test]
    fn round_robin_is_never_more_than_one_round_from_the_weights(weights in prop::collection::vec(1..20_u32, 1..8)) {
        let servers = Servers::of_weights(&weights);
        let total: u32 = weights.iter().sum();
        let mut counts = vec![0; weights.len()];
        let mut random = 0;
        for _ in 0..3 * total {
            counts[servers.choose(&Balance::RoundRobin, None, &mut random).expect("one")] += 1;
        }
        let expected: Vec<u32> = weights.iter().map(|weight| 3 * weight).collect();
        prop_assert_eq!(counts, expected);
    }

    #[test]
    fn least_connections_ends_even_wherever_it_began(live in prop::collection::vec(0..200_u32, 1..6)) {
        let given: Vec<Given> = live.iter().map(|&live| (1, live, false, Up)).collect();
        let mut servers = Servers::new(&given);
        let counts = servers.fill(&Balance::LeastConnections, 1200, |_| None);
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{:?}", counts);
    }
}
