//! When each unit of an open loop is to begin, whatever became of the ones before it.
//!
//! A timer descriptor, because the runtime's own timers are a millisecond coarse. Units that fall between two ticks
//! begin together at the second one, which is their intended time.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;

use crate::args::Problem;

/// Ticks are no closer than this.
const FINEST: Duration = Duration::from_micros(500);

pub struct Pacer {
    timer: AsyncFd<OwnedFd>,
    period: Duration,
    per_second: f64,
    elapsed: Duration,
    given: u64,
}

impl Pacer {
    pub fn new(per_second: f64) -> Result<Self, Problem> {
        let timer =
            rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let period = FINEST.max(Duration::from_secs_f64(1.0 / per_second));
        let spec = Timespec { tv_sec: period.as_secs() as i64, tv_nsec: i64::from(period.subsec_nanos()) };
        let both = Itimerspec { it_interval: spec, it_value: spec };
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &both)?;
        // Its successor is unsafe to call. An owned descriptor keeps what that demands: it stays the same until dropped.
        #[allow(deprecated, reason = "the safe constructor, sound for OwnedFd")]
        let timer = AsyncFd::new(timer)?;
        Ok(Self { timer, period, per_second, elapsed: Duration::ZERO, given: 0 })
    }

    /// Waits for the next tick: how many units begin, and how late the tick is noticed at most.
    pub async fn tick(&mut self) -> Result<u64, Problem> {
        let ticks = loop {
            let mut ready = self.timer.readable().await?;
            let mut count = [0u8; 8];
            match ready.try_io(|timer| Ok(rustix::io::read(timer, &mut count[..])?)) {
                Ok(read) => {
                    read?;
                    break u64::from_ne_bytes(count);
                }
                Err(_would_block) => {}
            }
        };
        self.elapsed += self.period * ticks as u32;
        let due = (self.elapsed.as_secs_f64() * self.per_second) as u64 - self.given;
        self.given += due;
        Ok(due)
    }

    /// The intended time of what the last tick gave, counted from the pacer's start.
    pub fn intended(&self) -> Duration {
        self.elapsed
    }
}
