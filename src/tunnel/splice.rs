//! The future that polls both directions, watches the clock and decides when a tunnel is over.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::direction::{Direction, Flow, SinkLoss, SourceEnd};
use super::{Early, TunnelEnd, TunnelOptions, TunnelTools};
use crate::clock::{self, Entry, Instant};
use crate::lifecycle::Stop;
use crate::telemetry::end::EndReason;
use crate::transport::Transport;

/// Joins two transports until both directions have ended, one side breaks, a deadline passes or the drain ends.
///
/// Must be spawned as a task of its own: see the module.
pub fn splice(
    downstream: Box<dyn Transport>,
    upstream: Box<dyn Transport>,
    early: Early,
    options: TunnelOptions,
    tools: &TunnelTools,
    stop: Stop,
) -> Splice {
    let opened = clock::now();
    Splice {
        downstream,
        upstream,
        up: Direction::new(early.downstream),
        down: Direction::new(early.upstream),
        options,
        tools: tools.clone(),
        stop,
        opened,
        last_activity: opened,
        deadline: None,
        cause: None,
    }
}

/// See [`splice`].
#[must_use = "futures do nothing unless polled"]
pub struct Splice {
    downstream: Box<dyn Transport>,
    upstream: Box<dyn Transport>,
    /// Client to server.
    up: Direction,
    /// Server to client.
    down: Direction,
    options: TunnelOptions,
    tools: TunnelTools,
    stop: Stop,
    opened: Instant,
    /// When a byte last went on, or a direction last changed its state.
    last_activity: Instant,
    /// On the wheel, at or before `last_activity` plus the limit that rules.
    deadline: Option<Entry>,
    /// What began the end.
    cause: Option<EndReason>,
}

impl fmt::Debug for Splice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Splice").field("up", &self.up).field("down", &self.down).finish_non_exhaustive()
    }
}

/// Which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

impl Future for Splice {
    type Output = TunnelEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TunnelEnd> {
        let this = &mut *self;
        if this.stop.poll_ended(cx).is_ready() {
            return Poll::Ready(this.cut(cx, EndReason::Drained));
        }
        let before = (this.up.flow, this.down.flow);
        let mut unfinished = this.turn(Way::Up, cx);
        unfinished |= this.turn(Way::Down, cx);
        if this.up.flow == Flow::Over && this.down.flow == Flow::Over {
            let reason = this.cause.unwrap_or(EndReason::Internal);
            return Poll::Ready(this.record(reason));
        }
        if before != (this.up.flow, this.down.flow) {
            this.last_activity = clock::now();
            // The limit may have become shorter.
            this.deadline = None;
            // What one direction has found may let the other one go on.
            unfinished = true;
        }
        if let Some(reason) = this.poll_deadline(cx) {
            return Poll::Ready(this.cut(cx, reason));
        }
        if unfinished {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Splice {
    /// One turn of one direction, and what it means for the other. Says whether there is more to do at once.
    fn turn(&mut self, way: Way, cx: &mut Context<'_>) -> bool {
        let (downstream, upstream) = (&mut *self.downstream, &mut *self.upstream);
        let (this, other, source, sink) = match way {
            Way::Up => (&mut self.up, &mut self.down, downstream, upstream),
            Way::Down => (&mut self.down, &mut self.up, upstream, downstream),
        };
        let lingering = this.flow == Flow::Discarding && other.flow == Flow::Over;
        let turn = this.poll(cx, source, sink, &self.tools.scratch);
        if turn.moved {
            self.last_activity = clock::now();
        }
        match turn.source_end {
            Some(SourceEnd::Well) => {
                self.cause.get_or_insert(closed_by(way));
            }
            Some(SourceEnd::Broken) => {
                // Nothing can be delivered to a side that is gone.
                other.give_up();
                // A half-close before it was no cause; a reset after everything had been said is none either.
                if !lingering {
                    self.cause = Some(reset_by(way));
                }
            }
            None => {}
        }
        match turn.sink_loss {
            Some(SinkLoss::Broken) => {
                other.expect_break();
                self.cause.get_or_insert(match way {
                    Way::Up => reset_by(Way::Down),
                    Way::Down => reset_by(Way::Up),
                });
            }
            // Its end is still to be read, and names the cause.
            Some(SinkLoss::Ended) | None => {}
        }
        turn.unfinished
    }

    /// What rules the silence now.
    fn limit(&self) -> Duration {
        if self.up.flow == Flow::Open && self.down.flow == Flow::Open {
            self.options.idle_timeout
        } else {
            self.options.half_close_timeout.min(self.options.idle_timeout)
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Option<EndReason> {
        let due = self.last_activity + self.limit();
        match &mut self.deadline {
            None => self.deadline = Some(self.tools.wheel.register(due, cx.waker())),
            Some(entry) => {
                if entry.poll_fired(cx) {
                    if clock::now() >= due {
                        return Some(self.silence());
                    }
                    entry.rearm(due, cx.waker());
                }
            }
        }
        None
    }

    /// The reason when a deadline has passed.
    fn silence(&self) -> EndReason {
        match (self.up.flow, self.down.flow) {
            (Flow::Open, Flow::Open) => EndReason::IdleTimeout,
            // Only the lingering was cut short.
            (Flow::Breaking, _)
            | (_, Flow::Breaking)
            | (Flow::Discarding, Flow::Over)
            | (Flow::Over, Flow::Discarding) => self.cause.unwrap_or(EndReason::HalfCloseTimeout),
            _ => EndReason::HalfCloseTimeout,
        }
    }

    /// Ends both sides without waiting: abnormally where bytes are left that they should have had.
    fn cut(&mut self, cx: &mut Context<'_>, reason: EndReason) -> TunnelEnd {
        self.up.cut(cx, &mut *self.upstream);
        self.down.cut(cx, &mut *self.downstream);
        self.record(reason)
    }

    fn record(&self, reason: EndReason) -> TunnelEnd {
        TunnelEnd {
            reason,
            bytes_up: self.up.carried,
            bytes_down: self.down.carried,
            duration: clock::now().saturating_duration_since(self.opened),
        }
    }
}

fn closed_by(source_of: Way) -> EndReason {
    match source_of {
        Way::Up => EndReason::TunnelClosedDownstream,
        Way::Down => EndReason::TunnelClosedUpstream,
    }
}

fn reset_by(source_of: Way) -> EndReason {
    match source_of {
        Way::Up => EndReason::TunnelResetDownstream,
        Way::Down => EndReason::TunnelResetUpstream,
    }
}
