//! Connections that have not asked for anything yet, the oldest first. Where all places are taken they give way, so that
//! nobody who only holds connections keeps those out who have something to ask.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::clock::Instant;

/// All of them. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Fresh {
    list: Rc<RefCell<VecDeque<Newcomer>>>,
}

/// Since when it is there, and how it is told to go.
type Newcomer = (Instant, Rc<Notify>);

/// One of them, until it has asked or is dropped.
pub(super) struct Stay {
    of: Fresh,
    leave: Rc<Notify>,
}

impl Fresh {
    pub fn enter(&self, since: Instant) -> Stay {
        let leave = Rc::<Notify>::default();
        self.list.borrow_mut().push_back((since, leave.clone()));
        Stay { of: self.clone(), leave }
    }

    /// Since when the oldest is there.
    pub fn oldest(&self) -> Option<Instant> {
        self.list.borrow().front().map(|(since, _)| *since)
    }

    /// Tells the oldest to go.
    pub fn dismiss_oldest(&self) {
        if let Some((_, leave)) = self.list.borrow_mut().pop_front() {
            leave.notify_one();
        }
    }
}

impl Stay {
    /// It has asked: it will not be told to go any more.
    pub fn has_asked(&self) {
        self.of.list.borrow_mut().retain(|(_, leave)| !Rc::ptr_eq(leave, &self.leave));
    }

    /// Waits until it is told to go.
    pub async fn dismissed(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.has_asked();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use super::*;
    use crate::clock;

    fn is_dismissed(stay: &Stay) -> bool {
        pin!(stay.dismissed()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_oldest_goes_first_and_who_has_asked_stays() {
        let (fresh, now) = (Fresh::default(), clock::now());
        let [first, second, third] = [0, 1, 2].map(|at| fresh.enter(now + Duration::from_secs(at)));
        first.has_asked();
        assert_eq!(fresh.oldest(), Some(now + Duration::from_secs(1)));
        fresh.dismiss_oldest();
        assert!(!is_dismissed(&first) && is_dismissed(&second));
        drop(third);
        assert_eq!(fresh.oldest(), None);
        fresh.dismiss_oldest();
    }
}
