//! Turns for the expensive step of a TLS handshake, on one thread.
//!
//! Signing and key exchange take hundreds of microseconds. A storm of new clients arrives as hundreds of events of one
//! look at the sockets; were all of them served before the next look, every tunnel of the worker would stand still for
//! that long. So the step has a line, first come, first served: behind another one there is a turn of the worker's loop,
//! in which everything else that is ready has its turn too. Who comes alone does not wait.
//! Dropping a waiting future leaves the line.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::clock::{self, Instant};

/// A step that ended longer ago has a turn of the loop behind it; a wrong guess costs one look at the sockets.
const RECENT: Duration = Duration::from_millis(1);

thread_local! {
    static LINE: Rc<Line> = Rc::new(Line { head: Semaphore::const_new(1), last: Cell::new(None) });
}

struct Line {
    /// Held by the first in the line while the loop turns.
    head: Semaphore,
    /// When the last step ended.
    last: Cell<Option<Instant>>,
}

/// The right to do the step now, without waiting for anything. Dropped at its end.
pub(super) struct Turn {
    line: Rc<Line>,
    /// Others stood before it: it may have been a while.
    pub(super) has_stood_in_line: bool,
}

/// Waits for a turn.
pub(super) async fn next() -> Turn {
    let line = LINE.with(Rc::clone);
    let is_recent = |last: Instant| clock::now().saturating_duration_since(last) < RECENT;
    let has_stood_in_line = line.head.available_permits() == 0;
    if has_stood_in_line || line.last.get().is_some_and(is_recent) {
        // Never closed.
        let head = line.head.acquire().await;
        tokio::task::yield_now().await;
        drop(head);
    }
    Turn { line, has_stood_in_line }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.line.last.set(Some(clock::now()));
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
