//! What wakes the wheel: a timer of the runtime, or a descriptor of the kernel's.
//!
//! As long as the runtime has any timer it waits for input with a timeout, and the kernel then sets up a timer of its
//! own for each wait and takes it down again: 1 to 2 µs for each message through a tunnel. A timerfd is set once.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;

use super::{Instant, now};

#[derive(Debug)]
pub(super) enum Alarm {
    /// Follows a paused clock. Present while it is needed.
    Runtime(Option<Pin<Box<tokio::time::Sleep>>>),
    /// With what it is set to.
    Descriptor(AsyncFd<OwnedFd>, Option<Instant>),
}

impl Alarm {
    /// # Errors
    /// No descriptor is to be had.
    ///
    /// # Panics
    /// Outside of a worker's runtime.
    #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd keeps what that one asks to be promised")]
    pub fn on_descriptor() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let descriptor = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self::Descriptor(AsyncFd::new(descriptor)?, None))
    }

    /// Ready once `until` has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        match self {
            Self::Runtime(sleep) => {
                let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
                if sleep.deadline() != until {
                    sleep.as_mut().reset(until);
                }
                sleep.as_mut().poll(cx)
            }
            Self::Descriptor(descriptor, set) => loop {
                let left = until.saturating_duration_since(now());
                if left.is_zero() {
                    return Poll::Ready(());
                }
                if *set != Some(until) {
                    *set = Some(until);
                    // Only a mistake of ours could make it fail.
                    let _ = rustix::time::timerfd_settime(&*descriptor, TimerfdTimerFlags::empty(), &once(left));
                }
                let Ok(mut ready) = ready!(descriptor.poll_read_ready(cx)) else { return Poll::Ready(()) };
                // Either it rang, or it had rung for an earlier setting: the clock above tells.
                if ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0_u8; 8])?)).is_ok() {
                    *set = None;
                }
            },
        }
    }

    /// Nothing is waited for.
    pub fn rest(&mut self) {
        match self {
            Self::Runtime(sleep) => *sleep = None,
            // It may ring once for nothing, which costs less than to set it.
            Self::Descriptor(..) => {}
        }
    }
}

fn once(left: Duration) -> Itimerspec {
    let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    Itimerspec { it_interval: zero, it_value: Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() } }
}
