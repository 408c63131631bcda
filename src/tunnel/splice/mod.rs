//! The future that polls both directions, watches the clock and decides when a tunnel is over.

mod outside;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::closing::{Act, Closing, STEP, View};
use super::direction::{Direction, Flow, SERVER_GONE, SinkLoss, Source, SourceEnd};
use super::frames::{Closer, Frames};
use super::pace::Pace;
use super::probes::{Due, Probes};
use super::random::random;
use super::{Early, Shared, TunnelEnd, TunnelOptions, TunnelTools, Way};
use crate::clock::{self, Entry, Instant};
use crate::lifecycle::Stop;
use crate::proto::frame::{MAX_CONTROL_FRAME, Violation};
use crate::telemetry::end::EndReason;
use crate::telemetry::metrics::TunnelCells;
use crate::transport::Transport;

/// Close has gone both ways, and nobody hangs up.
const CLOSED_TIMEOUT: Duration = Duration::from_secs(5);

/// The Close of a tunnel that ends for no fault of either side (RFC 6455 7.4.1).
const GOING_AWAY: u16 = 1001;

/// Joins two transports until both directions have ended, one side breaks, a deadline passes or the drain ends.
///
/// Must be spawned as a task of its own: see the module.
pub fn splice<D: Transport, U: Transport>(
    downstream: D,
    upstream: U,
    mut early: Early,
    options: TunnelOptions,
    tools: &TunnelTools,
    stop: Stop,
) -> Splice<D, U> {
    let opened = clock::now();
    // What came early is no way around a rate: it is read like everything else.
    let pace = options.rates.map(|rates| Box::new(Pace::new(rates, std::mem::take(&mut early.downstream), opened)));
    let mut frames = options.frames.map(Frames::new);
    if let (Some(frames), Some(interval)) = (&mut frames, options.ping_interval) {
        frames.probes = Some(Box::new(Probes::new(interval, options.ping_upstream, opened)));
    }
    let up = direction(&early.downstream, Way::Up, frames.as_deref_mut(), tools.cells());
    let down = direction(&early.upstream, Way::Down, frames.as_deref_mut(), tools.cells());
    Splice {
        downstream,
        upstream,
        up,
        down,
        frames,
        pace,
        idle: milliseconds(options.idle_timeout),
        lifetime: options.max_lifetime.map_or(u32::MAX, jittered),
        half_closed: milliseconds(options.half_close_timeout.min(options.idle_timeout)),
        tools: tools.clone(),
        stop,
        opened,
        last_activity: opened,
        deadline: None,
        cause: None,
        condemned: None,
    }
}

/// A direction that begins with bytes that came early, judged like all others.
fn direction(early: &Bytes, way: Way, frames: Option<&mut Frames>, cells: &TunnelCells) -> Direction {
    match frames {
        Some(frames) if !early.is_empty() => {
            let mut buffer = [&early[..], &[0; MAX_CONTROL_FRAME]].concat();
            let forward = frames.lane(way, true, cells).pass(&mut buffer, early.len());
            Direction::new(&buffer[..forward])
        }
        _ => Direction::new(early),
    }
}

/// See [`splice`].
#[must_use = "futures do nothing unless polled"]
pub struct Splice<D = Box<dyn Transport>, U = Box<dyn Transport>> {
    downstream: D,
    upstream: U,
    /// Client to server.
    up: Direction,
    /// Server to client.
    down: Direction,
    /// `None`: bytes pass unread.
    frames: Option<Box<Frames>>,
    /// How fast the client may send. `None`: as fast as it can.
    pace: Option<Box<Pace>>,
    /// Milliseconds of silence while both directions are open; small, since there is one per tunnel.
    idle: u32,
    /// Milliseconds of silence once one direction has ended.
    half_closed: u32,
    /// Milliseconds of age; the greatest value is none.
    lifetime: u32,
    tools: TunnelTools,
    stop: Stop,
    opened: Instant,
    /// When a byte last went on, or a direction last changed its state.
    last_activity: Instant,
    /// On the wheel, at or before `last_activity` plus the limit that rules.
    deadline: Option<Entry>,
    /// What began the end.
    cause: Option<EndReason>,
    /// To be cut in the next turn, for this reason.
    condemned: Option<EndReason>,
}

impl<D, U> fmt::Debug for Splice<D, U> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Splice").field("up", &self.up).field("down", &self.down).finish_non_exhaustive()
    }
}

impl<D: Transport, U: Transport> Future for Splice<D, U> {
    type Output = TunnelEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TunnelEnd> {
        let this = &mut *self;
        if this.stop.poll_ended(cx).is_ready() && !this.part(EndReason::Drained) {
            return Poll::Ready(this.cut(cx, EndReason::Drained));
        }
        if let Some(reason) = this.condemned {
            return Poll::Ready(this.cut(cx, reason));
        }
        let before = (this.up.flow, this.down.flow, this.limit());
        let resume = this.resume();
        let mut unfinished = this.turn(Way::Up, cx);
        unfinished |= this.turn(Way::Down, cx);
        if this.frames.is_none() && this.pace.as_ref().is_some_and(|pace| pace.is_exceeded) {
            return Poll::Ready(this.cut(cx, EndReason::RateExceeded));
        }
        let is_moved = this.resume() != resume;
        if this.up.flow == Flow::Over && this.down.flow == Flow::Over {
            return Poll::Ready(this.record(this.cause.unwrap_or(EndReason::Internal)));
        }
        if before != (this.up.flow, this.down.flow, this.limit()) {
            this.last_activity = clock::now();
            // The limit may have become shorter.
            this.deadline = None;
            // What one direction has found may let the other one go on.
            unfinished = true;
        }
        match this.close() {
            Act::Cut => return Poll::Ready(this.cut(cx, this.cause.unwrap_or(EndReason::Internal))),
            Act::Say { .. } | Act::Leave => unfinished = true,
            Act::Nothing => {}
        }
        if let Some(reason) = this.poll_deadline(cx, is_moved) {
            if !this.part(reason) {
                return Poll::Ready(this.cut(cx, reason));
            }
            unfinished = true;
        }
        if unfinished {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<D: Transport, U: Transport> Splice<D, U> {
    /// One turn of one direction, and what it means for the other. Says whether there is more to do at once.
    fn turn(&mut self, way: Way, cx: &mut Context<'_>) -> bool {
        let (downstream, upstream): (&mut dyn Transport, &mut dyn Transport) =
            (&mut self.downstream, &mut self.upstream);
        let (this, other, source, sink) = match way {
            Way::Up => (&mut self.up, &mut self.down, downstream, upstream),
            Way::Down => (&mut self.down, &mut self.up, upstream, downstream),
        };
        let lingering = this.flow == Flow::Discarding && other.flow == Flow::Over;
        let Shared { scratch, cells, .. } = &*self.tools.0;
        let lane = self.frames.as_deref_mut().map(|frames| frames.lane(way, other.flow == Flow::Open, cells));
        let carried = this.carried;
        let pace = self.pace.as_deref_mut().filter(|_| way == Way::Up);
        let turn = this.poll(cx, Source { stream: source, pace }, sink, scratch, lane);
        if this.carried != carried {
            cells.note_bytes(way.counted(), this.carried - carried);
        }
        // Before what came behind the violation is taken for the cause.
        if let Some((violation, offender)) = self.frames.as_deref_mut().and_then(Frames::refuse) {
            self.cause = Some(violated_by(offender, violation));
            self.deadline = None;
        }
        if let Some((_, Closer::Peer(first))) = self.frames.as_ref().and_then(|frames| frames.first_close()) {
            self.cause.get_or_insert(closed_by(first));
        }
        // Once the gateway ends the tunnel, or both sides have said Close, how they leave is no cause.
        let is_said = self.frames.as_ref().is_some_and(|frames| {
            frames.closing != Closing::Open || frames.close_passed(Way::Up) && frames.close_passed(Way::Down)
        });
        if turn.moved {
            self.last_activity = clock::now();
        }
        match turn.source_end {
            Some(SourceEnd::Well) => {
                self.cause.get_or_insert(closed_by(way));
            }
            Some(SourceEnd::Broken) => {
                // Nothing can be delivered to a side that is gone.
                match turn.told {
                    true => other.discard(),
                    false => other.give_up(),
                }
                // A half-close before it was no cause; a reset after everything had been said is none either.
                if !lingering && !is_said {
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

    /// When the client is read again that has been too fast.
    fn resume(&self) -> Option<Instant> {
        self.pace.as_ref().filter(|_| self.up.flow == Flow::Open).and_then(|pace| pace.delayed_until())
    }

    /// What rules the silence now.
    fn limit(&self) -> Duration {
        let both_open = self.up.flow == Flow::Open && self.down.flow == Flow::Open;
        let limit = match self.closes_passed() {
            (false, false) if both_open => self.idle,
            (true, true) => return CLOSED_TIMEOUT.min(Duration::from_millis(u64::from(self.half_closed))),
            _ => self.half_closed,
        };
        Duration::from_millis(u64::from(limit))
    }

    /// Whether a Close has gone up, and down.
    fn closes_passed(&self) -> (bool, bool) {
        let passed = |way| self.frames.as_ref().is_some_and(|frames| frames.close_passed(way));
        (passed(Way::Up), passed(Way::Down))
    }

    /// The gateway ends the tunnel for this reason: Close to both sides, where somebody can still hear it. False where
    /// there is nothing but to cut.
    fn part(&mut self, reason: EndReason) -> bool {
        self.part_with(reason, if reason == EndReason::DeadPeerUpstream { SERVER_GONE } else { GOING_AWAY }, STEP)
    }

    /// The same with another code for the client, and time for frames that are under way.
    fn part_with(&mut self, reason: EndReason, code: u16, patience: Duration) -> bool {
        let Some(frames) = &mut self.frames else { return false };
        if frames.closing != Closing::Open {
            frames.closing.hurry(clock::now(), patience);
            self.deadline = None;
            return true;
        }
        if self.up.flow != Flow::Open || self.down.flow != Flow::Open {
            return false;
        }
        if frames.close_passed(Way::Up) && frames.close_passed(Way::Down) {
            return false;
        }
        frames.want_close(Way::Up, GOING_AWAY);
        frames.want_close(Way::Down, code);
        frames.closing = Closing::part(clock::now(), patience);
        self.cause = Some(reason);
        self.deadline = None;
        true
    }

    /// Takes an end that has begun one step further.
    fn close(&mut self) -> Act {
        let Some(frames) = &mut self.frames else { return Act::Nothing };
        if frames.closing == Closing::Open {
            return Act::Nothing;
        }
        let said = |frames: &Frames, way, direction: &Direction| {
            direction.flow != Flow::Open || !frames.wants_close(way) && direction.is_delivered()
        };
        let view = View {
            now: clock::now(),
            moved: self.last_activity,
            up_answered: frames.close_came(Way::Up) || self.up.flow != Flow::Open,
            down_answered: frames.close_came(Way::Down) || self.down.flow != Flow::Open,
            all_said: said(frames, Way::Up, &self.up) && said(frames, Way::Down, &self.down),
        };
        let deadline = frames.closing.deadline(self.last_activity);
        let act = frames.closing.advance(view);
        if frames.closing.deadline(self.last_activity) != deadline {
            self.deadline = None;
        }
        match act {
            Act::Say { way, code } => frames.want_close(way, code),
            Act::Leave => {
                self.up.leave();
                self.down.leave();
            }
            Act::Nothing | Act::Cut => {}
        }
        act
    }

    /// Those who are asked whether they are still there: while nobody is about to leave.
    fn probes(&mut self) -> Option<&mut Probes> {
        let is_open = self.up.flow == Flow::Open && self.down.flow == Flow::Open;
        let is_open = is_open && self.closes_passed() == (false, false);
        self.frames.as_mut().filter(|_| is_open).and_then(|frames| frames.probes.as_deref_mut())
    }

    /// Asks who is silent; the reason where one side is dead.
    fn probe(&mut self, now: Instant) -> Option<EndReason> {
        match self.probes()?.due(now) {
            Due::Nothing => None,
            Due::Ask(way) => {
                if let Some(frames) = &mut self.frames {
                    frames.want_ping(way);
                }
                None
            }
            Due::Dead(Way::Down) => Some(EndReason::DeadPeerDownstream),
            Due::Dead(Way::Up) => Some(EndReason::DeadPeerUpstream),
        }
    }

    /// `is_moved`: it may have to ring earlier, for a client that is delayed.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, is_moved: bool) -> Option<EndReason> {
        let closing = self.frames.as_ref().and_then(|frames| frames.closing.deadline(self.last_activity));
        let old = self.opened + Duration::from_millis(u64::from(self.lifetime));
        let probe = self.probes().map(|probes| probes.next());
        // Nobody is silent whom we do not listen to.
        let resume = self.resume();
        let since = resume.map_or(self.last_activity, |resume| resume.max(self.last_activity));
        let quiet = old.min(since + self.limit());
        let due = closing.unwrap_or_else(|| probe.map_or(quiet, |probe| probe.min(quiet)));
        let next = resume.map_or(due, |resume| resume.min(due));
        match &mut self.deadline {
            None => self.deadline = Some(self.tools.0.wheel.register(next, cx.waker())),
            Some(entry) => {
                if entry.poll_fired(cx) {
                    let now = clock::now();
                    if closing.is_none() && now < quiet && now >= due {
                        self.deadline = None;
                        cx.waker().wake_by_ref();
                        return self.probe(now);
                    }
                    if now >= due {
                        let is_old = self.lifetime < u32::MAX && now >= old;
                        return Some(if is_old { EndReason::MaxLifetime } else { self.silence() });
                    }
                    entry.rearm(next, cx.waker());
                } else if is_moved {
                    entry.rearm(next, cx.waker());
                }
            }
        }
        None
    }

    /// The reason when a deadline has passed.
    fn silence(&self) -> EndReason {
        match (self.up.flow, self.down.flow) {
            // Everything has been said; only that somebody did not hang up was cut short.
            _ if self.closes_passed() == (true, true) => self.cause.unwrap_or(EndReason::HalfCloseTimeout),
            (Flow::Open, Flow::Open) if self.closes_passed() == (false, false) => EndReason::IdleTimeout,
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
        let whole = |way| self.frames.as_ref().is_none_or(|frames| frames.is_whole(way));
        let (up, down) = (whole(Way::Up), whole(Way::Down));
        self.up.cut(cx, &mut self.upstream, up);
        self.down.cut(cx, &mut self.downstream, down);
        self.record(reason)
    }

    fn record(&self, reason: EndReason) -> TunnelEnd {
        TunnelEnd {
            reason,
            bytes_up: self.up.carried,
            bytes_down: self.down.carried,
            duration: clock::now().saturating_duration_since(self.opened),
            frames: self.frames.as_deref().map(Frames::record),
        }
    }
}

/// A tenth more or less, in steps of a thousandth.
fn jittered(lifetime: Duration) -> u32 {
    let share = u32::from(u16::from_ne_bytes(random())) % 201;
    milliseconds((lifetime / 1_000).saturating_mul(900 + share))
}

/// 49 days at most.
fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
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

fn violated_by(source_of: Way, violation: Violation) -> EndReason {
    match (source_of, violation.is_size()) {
        _ if violation.is_rate() => EndReason::RateExceeded,
        (Way::Up, false) => EndReason::FrameViolationDownstream,
        (Way::Down, false) => EndReason::FrameViolationUpstream,
        (Way::Up, true) => EndReason::MessageTooBigDownstream,
        (Way::Down, true) => EndReason::MessageTooBigUpstream,
    }
}
