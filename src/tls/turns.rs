//! Turns for the expensive step of a TLS handshake, on one thread.
//!
//! Signing and key exchange take hundreds of microseconds. A storm of new clients arrives as hundreds of events of one
//! look at the sockets; were all of them served before the next look, every tunnel of the worker would stand still for
//! that long. So the step has a line, first come, first served: behind another one there is a turn of the worker's loop,
//! in which everything else that is ready has its turn too. For a quarter of the time that this took the line may then go
//! on, two milliseconds at most: a worker that is busy with tunnels gives a fifth of its time to those who wait to be let
//! in, rather than one step a turn, which their deadlines might not bear. Who comes alone does not wait.
//! Dropping a waiting future leaves the line.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::clock::{self, Instant};

/// The longest that the line goes on for without a turn of the loop, whatever the last one took.
const MOST: Duration = Duration::from_millis(2);

/// A step that ended longer ago has a turn of the loop behind it; a wrong guess costs one look at the sockets.
const RECENT: Duration = Duration::from_millis(1);

thread_local! {
    static LINE: Rc<Line> = Rc::new(Line {
        head: Semaphore::const_new(1),
        share: Cell::new(Share::NONE),
    });
}

struct Line {
    /// Held by the first in the line while the loop turns.
    head: Semaphore,
    share: Cell<Share>,
}

/// How much of the worker's time the steps have had, and may still have before everything else has its turn.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// When the last step ended.
    last: Option<Instant>,
    /// What is left of a quarter of the time that the last turn of the loop took.
    left: Duration,
}

impl Share {
    const NONE: Self = Self { last: None, left: Duration::ZERO };

    fn since_last(self, now: Instant) -> Option<Duration> {
        self.last.map(|last| now.saturating_duration_since(last))
    }

    /// Everything else has had its turn.
    fn after_turn(self, now: Instant) -> Self {
        Self { left: (self.since_last(now).unwrap_or_default() / 4).min(MOST), ..self }
    }

    fn after_step(self, began: Instant, now: Instant) -> Self {
        Self { last: Some(now), left: self.left.saturating_sub(now.saturating_duration_since(began)) }
    }
}

/// The right to do the step now, without waiting for anything. Dropped at its end.
pub(super) struct Turn {
    line: Rc<Line>,
    began: Instant,
    /// Others stood before it: it may have been a while.
    pub(super) has_stood_in_line: bool,
}

/// Waits for a turn.
pub(super) async fn next() -> Turn {
    let line = LINE.with(Rc::clone);
    let has_stood_in_line = line.head.available_permits() == 0;
    let is_recent = |since: Duration| since < RECENT;
    if has_stood_in_line || line.share.get().since_last(clock::now()).is_some_and(is_recent) {
        // Never closed.
        let head = line.head.acquire().await;
        if line.share.get().left.is_zero() {
            tokio::task::yield_now().await;
            line.share.set(line.share.get().after_turn(clock::now()));
        }
        drop(head);
    }
    Turn { line, began: clock::now(), has_stood_in_line }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.line.share.set(self.line.share.get().after_step(self.began, clock::now()));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn one_step_for_each_turn_of_the_loop_in_the_order_of_arrival() {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let steps: Vec<_> = (0..4)
            .map(|number| {
                let seen = seen.clone();
                tokio::task::spawn_local(async move {
                    let turn = next().await;
                    seen.borrow_mut().push((number, turn.has_stood_in_line));
                })
            })
            .collect();
        for done in 1..=4 {
            tokio::task::yield_now().await;
            assert_eq!(seen.borrow().len(), done);
        }
        assert_eq!(*seen.borrow(), [(0, false), (1, false), (2, true), (3, true)]);
        for step in steps {
            step.await.expect("no panic");
        }
        tokio::time::sleep(RECENT).await;
        assert!(!next().await.has_stood_in_line, "the line has gone");
    }

    #[test]
    fn the_line_goes_on_for_a_quarter_of_the_time_that_everything_else_took() {
        const STEP: Duration = Duration::from_micros(300);
        let start = clock::now();
        let steps_after = |turn: Duration| {
            let mut share = Share::NONE.after_step(start, start).after_turn(start + turn);
            let mut now = start + turn;
            // The first has waited for the turn; it goes whatever is left.
            (1..).find(|_| {
                share = share.after_step(now, now + STEP);
                now += STEP;
                share.left.is_zero()
            })
        };
        assert_eq!(steps_after(Duration::ZERO), Some(1));
        assert_eq!(steps_after(Duration::from_micros(500)), Some(1));
        assert_eq!(steps_after(Duration::from_millis(4)), Some(4));
        assert_eq!(steps_after(Duration::from_secs(1)), Some(7), "2 ms at most");
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn who_gives_up_leaves_the_line() {
        drop(next().await);
        let gone: Vec<_> = (0..3).map(|_| tokio::task::spawn_local(async { drop(next().await) })).collect();
        let waiting = tokio::task::spawn_local(async { assert!(next().await.has_stood_in_line) });
        tokio::task::yield_now().await;
        for task in &gone {
            task.abort();
        }
        waiting.await.expect("its turn comes");
    }
}
