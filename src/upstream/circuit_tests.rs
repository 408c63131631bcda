//! The circuit breaker, event by event, and what holds whatever happens.

use proptest::prelude::*;

use super::*;

fn rules() -> Ejection {
    Ejection {
        failures: 3,
        duration: Duration::from_secs(2),
        max_duration: Duration::from_secs(60),
        max_ejected_percent: 50,
    }
}

/// A breaker with a clock of its own.
struct Bench {
    breaker: Breaker,
    now: Instant,
    rules: Ejection,
}

impl Bench {
    fn new() -> Self {
        Self { breaker: Breaker::default(), now: clock::now(), rules: rules() }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn gate(&self) -> Gate {
        self.breaker.get().gate(|| self.now)
    }

    fn ticket(&self) -> Ticket {
        self.breaker.get().ticket()
    }

    fn trial(&self) -> Ticket {
        self.breaker.change(|circuit| circuit.begin_trial(self.now)).expect("its turn").after.trial_ticket()
    }

    /// Counts a failure, and ejects where that is due; whether it did.
    fn fail(&self, ticket: Ticket) -> bool {
        self.breaker.change(|circuit| circuit.failed(&self.rules, ticket));
        self.eject(Cause::Failures, |circuit| circuit.is_due(&self.rules, self.now, ticket))
    }

    fn unreachable(&self, ticket: Ticket) -> bool {
        self.eject(Cause::Unreachable, |circuit| circuit.is_due_unreachable(self.now, ticket))
    }

    fn eject(&self, cause: Cause, due: impl Fn(Circuit) -> bool) -> bool {
        let ejected =
            self.breaker.change(|circuit| due(circuit).then(|| circuit.ejected(cause, &self.rules, self.now)));
        ejected.is_some()
    }

    fn succeed(&self, ticket: Ticket) {
        self.breaker.change(|circuit| circuit.succeeded(&self.rules, || self.now, ticket));
    }

    fn left(&self) -> u64 {
        // Stamps are rounded down to a millisecond.
        self.breaker.get().left(self.now).as_millis().div_ceil(1000) as u64
    }

    fn eject_now(&self) {
        let ticket = self.ticket();
        assert!((0..3).any(|_| self.fail(ticket)), "three failures in a row");
    }
}

#[test]
fn so_many_failures_in_a_row_eject_and_a_success_between_them_starts_the_count_anew() {
    let bench = Bench::new();
    let ticket = bench.ticket();
    assert!(!bench.fail(ticket) && !bench.fail(ticket));
    bench.succeed(ticket);
    assert!(!bench.fail(ticket) && !bench.fail(ticket) && bench.fail(ticket));
    assert_eq!((bench.gate(), bench.left()), (Gate::Open, 2));
}

#[test]
fn after_an_ejection_one_trial_goes_first_and_its_success_closes_the_breaker() {
    let mut bench = Bench::new();
    bench.eject_now();
    assert_eq!(bench.breaker.change(|circuit| circuit.begin_trial(bench.now)), None, "still out");
    bench.wait(3);
    assert_eq!(bench.gate(), Gate::Trial);
    let trial = bench.trial();
    assert_eq!(bench.gate(), Gate::OnTrial);
    assert_eq!(bench.breaker.change(|circuit| circuit.begin_trial(bench.now)), None, "one at a time");
    bench.succeed(trial);
    assert_eq!(bench.gate(), Gate::Closed);
}

#[test]
fn a_trial_that_ends_without_a_verdict_lets_the_next_one_try() {
    let mut bench = Bench::new();
    bench.eject_now();
    bench.wait(3);
    let trial = bench.trial();
    bench.breaker.change(|circuit| circuit.end_trial(trial));
    assert_eq!(bench.gate(), Gate::Trial);
    let second = bench.trial();
    // That one has failed; what is left of the first says nothing any more.
    assert!(bench.fail(second));
    assert_eq!(bench.breaker.change(|circuit| circuit.end_trial(trial)), None);
    assert_eq!(bench.gate(), Gate::Open);
}

#[test]
fn each_ejection_in_a_row_lasts_twice_as_long_and_serving_as_long_makes_the_next_one_shorter() {
    let mut bench = Bench::new();
    bench.eject_now();
    for lasts in [2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(bench.left(), lasts);
        bench.wait(lasts + 1);
        let trial = bench.trial();
        assert!(bench.fail(trial));
    }
    bench.wait(61);
    let trial = bench.trial();
    bench.succeed(trial);
    // Not yet for as long as it was out.
    bench.wait(50);
    bench.succeed(bench.ticket());
    bench.eject_now();
    assert_eq!(bench.left(), 60);
    bench.wait(61);
    bench.succeed(bench.trial());
    for lasted in [60, 60, 60, 60, 32, 16, 8, 4, 2] {
        bench.wait(lasted + 1);
        bench.succeed(bench.ticket());
    }
    bench.eject_now();
    assert_eq!(bench.left(), 2, "all is forgotten");
}

#[test]
fn what_began_before_an_ejection_neither_ends_nor_prolongs_it() {
    let mut bench = Bench::new();
    let before = bench.ticket();
    bench.eject_now();
    bench.succeed(before);
    assert!(!bench.fail(before) && !bench.unreachable(before));
    assert_eq!((bench.gate(), bench.left()), (Gate::Open, 2));
    bench.wait(3);
    bench.succeed(bench.trial());
    for _ in 0..10 {
        assert!(!bench.fail(before));
    }
    assert_eq!(bench.gate(), Gate::Closed);
}

#[test]
fn an_answer_as_the_last_resort_brings_back_at_once_and_a_failure_there_prolongs_nothing() {
    let bench = Bench::new();
    bench.eject_now();
    let asked = bench.ticket();
    assert!(!bench.fail(asked) && !bench.unreachable(asked));
    assert_eq!(bench.left(), 2);
    bench.succeed(asked);
    assert_eq!(bench.gate(), Gate::Closed);
}

#[test]
fn one_connection_that_cannot_be_made_ejects_and_one_that_is_made_brings_back_where_that_was_the_cause() {
    let mut bench = Bench::new();
    assert!(bench.unreachable(bench.ticket()));
    assert_eq!((bench.gate(), bench.left()), (Gate::Open, 2));
    bench.wait(3);
    let trial = bench.trial();
    bench.breaker.change(|circuit| circuit.reached(&bench.rules, bench.now, trial));
    assert_eq!(bench.gate(), Gate::Closed);
    bench.eject_now();
    let asked = bench.ticket();
    assert_eq!(bench.breaker.change(|circuit| circuit.reached(&bench.rules, bench.now, asked)), None);
}

#[test]
fn the_head_of_a_good_answer_ends_a_trial_and_does_not_yet_wipe_out_failures() {
    let mut bench = Bench::new();
    let ticket = bench.ticket();
    bench.fail(ticket);
    assert_eq!(bench.breaker.change(|circuit| circuit.answered(&bench.rules, bench.now, ticket)), None);
    bench.eject_now();
    bench.wait(3);
    let trial = bench.trial();
    bench.breaker.change(|circuit| circuit.answered(&bench.rules, bench.now, trial));
    assert_eq!(bench.gate(), Gate::Closed);
}

#[test]
fn a_limit_that_does_not_fit_is_the_largest_that_does() {
    let mut bench = Bench::new();
    bench.rules.failures = u32::MAX;
    let ticket = bench.ticket();
    assert_eq!((0..5000).position(|_| bench.fail(ticket)), Some(usize::from(MAX_FAILURES) - 1));
}

#[derive(Clone, Debug)]
enum Event {
    Wait(u64),
    Begin,
    Fail(usize),
    Unreachable(usize),
    Reach(usize),
    Answer(usize),
    Succeed(usize),
    Leave(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let who = 0..6_usize;
    prop_oneof![
        (0..40_000_u64).prop_map(Event::Wait),
        Just(Event::Begin),
        who.clone().prop_map(Event::Fail),
        who.clone().prop_map(Event::Unreachable),
        who.clone().prop_map(Event::Reach),
        who.clone().prop_map(Event::Answer),
        who.clone().prop_map(Event::Succeed),
        who.prop_map(Event::Leave),
    ]
}

proptest! {
    #[test]
    fn a_word_says_all_of_a_circuit(
        (until, failures, epoch, streak) in (0..=MAX_UNTIL, 0..=MAX_FAILURES, 0..128_u8, 0..=MAX_STREAK),
        trial in any::<bool>(),
        open in prop::sample::select(vec![None, Some(Cause::Failures), Some(Cause::Unreachable)]),
    ) {
        let circuit = Circuit { open, until, trial, streak, failures, epoch };
        prop_assert_eq!(Circuit::from_word(circuit.word()), circuit);
        prop_assert_eq!(Circuit::from_word(0), Circuit::default());
    }

    #[test]
    fn there_is_never_more_than_one_trial_and_never_an_ejection_that_lasts_too_long(
        events in prop::collection::vec(event(), 0..200),
    ) {
        let mut bench = Bench::new();
        let mut live: Vec<Ticket> = Vec::new();
        for event in events {
            let before = bench.breaker.get();
            let index = match event {
                Event::Wait(millis) => {
                    bench.now += Duration::from_millis(millis);
                    continue;
                }
                Event::Begin => {
                    // As a worker does it: a trial where that is due, an ordinary request otherwise.
                    let begun = bench.breaker.change(|circuit| circuit.begin_trial(bench.now));
                    live.push(Ticket { trial: begun.is_some(), ..bench.ticket() });
                    continue;
                }
                Event::Fail(index) | Event::Unreachable(index) | Event::Reach(index) | Event::Answer(index)
                | Event::Succeed(index) | Event::Leave(index) => index,
            };
            let Some(ticket) = live.get(index).copied() else { continue };
            match event {
                Event::Fail(_) => _ = bench.fail(ticket),
                Event::Unreachable(_) => _ = bench.unreachable(ticket),
                Event::Reach(_) => _ = bench.breaker.change(|circuit| circuit.reached(&bench.rules, bench.now, ticket)),
                Event::Answer(_) => _ = bench.breaker.change(|circuit| circuit.answered(&bench.rules, bench.now, ticket)),
                Event::Succeed(_) => bench.succeed(ticket),
                _ => {}
            }
            // Whatever came of it, the request is over.
            live.remove(index);
            bench.breaker.change(|circuit| circuit.end_trial(ticket));

            let after = bench.breaker.get();
            let on_trial = |circuit: Circuit| {
                live.iter().filter(|live| live.trial && circuit.open.is_some() && circuit.is_of(**live)).count()
            };
            prop_assert!(on_trial(after) <= 1);
            prop_assert_eq!(after.trial, on_trial(after) == 1, "{:?}", after);
            prop_assert!(after.left(bench.now) <= bench.rules.max_duration);
            if !before.is_of(ticket) {
                prop_assert_eq!(after, before, "an older request changes nothing");
            }
            if before.open.is_some() && after.open.is_some() && before.epoch != after.epoch {
                prop_assert!(ticket.trial, "only a trial prolongs an ejection");
            }
        }
    }

    #[test]
    fn workers_that_fail_at_once_eject_once(workers in 2..8_usize, failures in 3..40_usize) {
        let bench = Bench::new();
        let ticket = bench.ticket();
        let ejections: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers)
                .map(|_| scope.spawn(|| (0..failures).filter(|_| bench.fail(ticket)).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        prop_assert_eq!(ejections, 1);
        prop_assert_eq!(bench.breaker.get().streak, 1);
    }
}
