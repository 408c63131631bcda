use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    fn woken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn counter() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count::default());
    (count.clone(), count.into())
}

fn started() -> Rc<Wheel> {
    let (wheel, ticker) = Wheel::new();
    tokio::task::spawn_local(ticker);
    wheel
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_deadline_is_never_early_and_at_most_one_tick_late() {
    let wheel = started();
    for milliseconds in [0, 1, 249, 250, 251, 1_000, 30_000, 256_000, 256_001, 600_000, 86_400_000] {
        let from = now();
        let length = Duration::from_millis(milliseconds);
        wheel.sleep_until(from + length).await;
        let took = now() - from;
        assert!(took >= length && took <= length + TICK + Duration::from_millis(2), "{length:?} took {took:?}");
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_removed_entry_does_not_fire_and_an_empty_wheel_sleeps() {
    let (wheel, ticker) = Wheel::new();
    let mut ticker = Box::pin(ticker);
    let (wakes, waker) = counter();
    let mut cx = Context::from_waker(&waker);
    assert!(ticker.as_mut().poll(&mut cx).is_pending());
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(wakes.woken(), 0, "an empty wheel has no timer");

    let (fires, entry_waker) = counter();
    let entry = wheel.register(now() + Duration::from_secs(5), &entry_waker);
    assert_eq!(wakes.woken(), 1, "the first entry starts the ticker");
    assert!(ticker.as_mut().poll(&mut cx).is_pending());
    drop(entry);
    assert!(wheel.is_empty());
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(ticker.as_mut().poll(&mut cx).is_pending());
    let settled = wakes.woken();
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!((fires.woken(), wakes.woken()), (0, settled));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_wheel_with_far_deadlines_is_left_alone_until_the_first_is_due() {
    let (wheel, ticker) = Wheel::new();
    let mut ticker = Box::pin(ticker);
    let (wakes, waker) = counter();
    let mut cx = Context::from_waker(&waker);
    let (fires, entry_waker) = counter();
    let start = now();
    let _far = wheel.register(start + Duration::from_secs(600), &entry_waker);
    let _farther = wheel.register(start + Duration::from_secs(900), &entry_waker);
    let gone = wheel.register(start + Duration::from_secs(601), &entry_waker);
    assert!(ticker.as_mut().poll(&mut cx).is_pending());
    tokio::time::advance(Duration::from_secs(599)).await;
    assert_eq!(wakes.woken(), 0);
    let near = wheel.register(now() + TICK, &entry_waker);
    assert_eq!(wakes.woken(), 1, "a nearer deadline wakes the ticker");
    assert!(ticker.as_mut().poll(&mut cx).is_pending());
    drop((gone, near));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(ticker.as_mut().poll(&mut cx).is_pending());
    assert_eq!(fires.woken(), 1);
    let settled = wakes.woken();
    tokio::time::advance(Duration::from_secs(298)).await;
    assert_eq!(wakes.woken(), settled);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_stalled_worker_fires_everything_that_fell_due_at_once_and_nothing_else() {
    let (wheel, _ticker) = Wheel::new();
    let start = now();
    let (fires, waker) = counter();
    let entries: Vec<_> =
        (1..=2_000).map(|seconds| wheel.register(start + Duration::from_secs(seconds), &waker)).collect();
    tokio::time::advance(Duration::from_secs(1_500)).await;
    wheel.advance(now());
    assert_eq!((fires.woken(), wheel.len()), (1_500, 500));
    drop(entries);
    assert!(wheel.is_empty());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn nine_thousand_idle_entries_cost_a_few_looks_a_tick() {
    let (wheel, _ticker) = Wheel::new();
    let (fires, waker) = counter();
    // Tunnels opened over four minutes, ten minutes of idle time each.
    let entries: Vec<_> = (0..9_000_u64)
        .map(|index| wheel.register(now() + Duration::from_secs(600) + Duration::from_millis(index * 27), &waker))
        .collect();
    let inner = wheel.inner.borrow();
    let length = |slot: &Slot| {
        let mut key = slot.head;
        std::iter::from_fn(|| {
            let node = (key != NONE).then(|| &inner.nodes[key as usize])?;
            key = node.next;
            Some(())
        })
        .count()
    };
    let fullest = inner.slots.iter().map(length).max();
    assert!(fullest <= Some(12), "{fullest:?}");
    drop(inner);
    assert_eq!((fires.woken(), entries.len()), (0, 9_000));
    assert!(size_of::<Node>() <= 32 && size_of::<Entry>() <= 16);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn pushing_a_sleep_back_is_lazy_and_pulling_it_in_is_not() {
    let wheel = started();
    let start = now();
    let mut sleep = wheel.sleep_until(start + Duration::from_secs(10));
    let polled = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut sleep).poll(cx).is_pending())).await;
    assert!(polled);
    sleep.reset(start + Duration::from_secs(20));
    (&mut sleep).await;
    assert!(now() - start >= Duration::from_secs(20));
    let mut sleep = wheel.sleep_until(now() + Duration::from_secs(100));
    let polled = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut sleep).poll(cx).is_pending())).await;
    assert!(polled);
    let from = now();
    sleep.reset(from + Duration::from_secs(1));
    sleep.await;
    assert!(now() - from <= Duration::from_secs(2));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_waker_may_register_again_while_the_wheel_fires() {
    let wheel = started();
    let rounds = Rc::new(Cell::new(0));
    let (inner_wheel, inner_rounds) = (wheel.clone(), rounds.clone());
    tokio::task::spawn_local(async move {
        for _ in 0..10 {
            inner_wheel.sleep_until(now() + TICK).await;
            inner_rounds.set(inner_rounds.get() + 1);
        }
    })
    .await
    .expect("no panic");
    assert_eq!(rounds.get(), 10);
    assert!(wheel.is_empty());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_ticker_sleeps_until_something_falls_due_and_is_woken_for_what_falls_due_before() {
    let (wheel, ticker) = Wheel::new();
    let mut ticker = Box::pin(ticker);
    let (wakes, waker) = counter();
    let mut cx = Context::from_waker(&waker);
    let (fires, entry_waker) = counter();
    let later = wheel.register(now() + Duration::from_secs(600), &entry_waker);
    let mut turns = 0;
    while fires.woken() == 0 {
        assert!(ticker.as_mut().poll(&mut cx).is_pending());
        turns += 1;
        let seen = wakes.woken();
        while wakes.woken() == seen && fires.woken() == 0 {
            tokio::time::advance(TICK).await;
        }
        assert!(ticker.as_mut().poll(&mut cx).is_pending());
    }
    assert!(turns <= 4, "{turns} looks in ten minutes");
    drop(later);
    let _later = wheel.register(now() + Duration::from_secs(100), &entry_waker);
    assert!(ticker.as_mut().poll(&mut cx).is_pending());
    let seen = wakes.woken();
    let _still_later = wheel.register(now() + Duration::from_secs(200), &entry_waker);
    assert_eq!(wakes.woken(), seen, "it comes by anyway");
    let _sooner = wheel.register(now() + Duration::from_secs(50), &entry_waker);
    assert_eq!(wakes.woken(), seen + 1);
}

#[tokio::test(flavor = "local")]
async fn on_a_descriptor_deadlines_are_kept_as_well() {
    let (wheel, ticker) = Wheel::new();
    let ticker = ticker.on_descriptor();
    assert!(matches!(ticker.alarm, Alarm::Descriptor(..)));
    tokio::task::spawn_local(ticker);
    let start = now();
    let far = wheel.sleep_until(start + Duration::from_secs(3600));
    tokio::task::spawn_local(far);
    // The second is nearer than what the descriptor is set to, the third is set after it has rung.
    for milliseconds in [600, 300, 600] {
        let from = now();
        let length = Duration::from_millis(milliseconds);
        wheel.sleep_until(from + length).await;
        assert!(from.elapsed() >= length);
    }
    let many = (0..3).map(|index| wheel.sleep_until(now() + Duration::from_millis(300 * index)));
    for sleep in many {
        sleep.await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_mix_of_registering_moving_and_removing_fires_exactly_what_is_due(
        steps in prop::collection::vec((0_u8..4, 0_u64..700_000, any::<prop::sample::Index>()), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let (wheel, _ticker) = Wheel::new();
            let mut entries: Vec<(Entry, Instant, Arc<Count>)> = Vec::new();
            for (step, milliseconds, index) in steps {
                let deadline = now() + Duration::from_millis(milliseconds);
                match step {
                    0 => {
                        let (count, waker) = counter();
                        entries.push((wheel.register(deadline, &waker), deadline, count));
                    }
                    1 if !entries.is_empty() => {
                        let slot = index.index(entries.len());
                        let (count, waker) = counter();
                        entries[slot].0.rearm(deadline, &waker);
                        entries[slot].1 = deadline;
                        entries[slot].2 = count;
                    }
                    2 if !entries.is_empty() => {
                        let slot = index.index(entries.len());
                        entries.swap_remove(slot);
                    }
                    _ => tokio::time::advance(Duration::from_millis(milliseconds / 4)).await,
                }
                wheel.advance(now());
                for (_, deadline, count) in &entries {
                    let due = now() >= *deadline + TICK;
                    let early = now() < *deadline;
                    assert!(count.woken() <= 1);
                    assert!(!(due && count.woken() == 0), "late");
                    assert!(!(early && count.woken() == 1), "early");
                }
            }
            let linked = entries.iter().filter(|(_, _, count)| count.woken() == 0).count();
            assert_eq!(wheel.len(), linked);
        });
    }
}
