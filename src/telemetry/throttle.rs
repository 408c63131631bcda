//! One line that speaks for many, where somebody from outside could have us write as many as they like.

use std::cell::Cell;
use std::time::Duration;

use crate::clock::{self, Instant};

/// At most one line in this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// Of one thing to say: lets a line through each second and counts the others. One per thread that says it.
#[derive(Debug, Default)]
pub struct Throttle {
    next: Cell<Option<Instant>>,
    unsaid: Cell<u64>,
}

impl Throttle {
    /// `Some`: say it, together with how many were not said since the last time.
    pub fn say(&self) -> Option<u64> {
        let now = clock::now();
        if self.next.get().is_some_and(|next| now < next) {
            self.unsaid.set(self.unsaid.get() + 1);
            return None;
        }
        self.next.set(Some(now + INTERVAL));
        Some(self.unsaid.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_second_says_how_many_were_not_said() {
        let throttle = Throttle::default();
        assert_eq!([throttle.say(), throttle.say(), throttle.say()], [Some(0), None, None]);
        tokio::time::advance(INTERVAL).await;
        assert_eq!([throttle.say(), throttle.say()], [Some(2), None]);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(throttle.say(), Some(1));
    }
}
