//! A deadline that moves whenever something happens.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Instant, now};

/// Costs nothing while things happen quickly: [`IdleTimer::touch`] only notes the time; a runtime timer exists from
/// the first poll that had to wait, and is moved lazily when it fires too early.
#[derive(Debug)]
pub struct IdleTimer {
    timeout: Duration,
    last: Instant,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl IdleTimer {
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, last: now(), sleep: None }
    }

    /// Something happened: the deadline is one whole timeout away again.
    pub fn touch(&mut self) {
        self.last = now();
    }

    /// Something happened elsewhere, at `at`.
    pub fn touch_at(&mut self, at: Instant) {
        self.last = self.last.max(at);
    }

    /// Ready once nothing has happened for the whole timeout.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let deadline = self.last + self.timeout;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            match sleep.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if now() >= deadline => return Poll::Ready(()),
                Poll::Ready(()) => sleep.as_mut().reset(deadline),
            }
        }
    }
}
