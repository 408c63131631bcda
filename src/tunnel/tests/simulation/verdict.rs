//! What must be true once a tunnel is over: nobody was told that all is well who misses something, nobody was cut off
//! who had everything, and the record says what happened.

use super::account::{Account, Closed};
use super::plan::ORDER_CODE;
use super::side::{Found, Placed, Side, is_mere_end};
use super::traffic::What;
use super::world::{Outcome, World};
use crate::proto::frame::Violation;
use crate::telemetry::end::EndReason;
use crate::tunnel::TunnelEnd;

/// One way.
struct Way<'a> {
    account: &'a mut Account,
    source: &'a Side,
    sink: &'a Side,
    /// The gateway's pings to the source.
    pings: Vec<Vec<u8>>,
}

pub(super) fn judge(outcome: &mut Outcome) {
    let end = outcome.end;
    check_reason(&end, &outcome.world);
    let world = &mut outcome.world;
    let (client, server) = (world.client.borrow(), world.server.borrow());
    assert!(client.is_dropped && server.is_dropped, "both transports are let go");
    assert_eq!(end.bytes_up, server.got.len() as u64, "bytes up");
    assert_eq!(end.bytes_down, client.got.len() as u64, "bytes down");
    let pings = (world.up.pings.clone(), world.down.pings.clone());
    let mut up = Way { account: &mut world.up, source: &client, sink: &server, pings: pings.1 };
    let mut down = Way { account: &mut world.down, source: &server, sink: &client, pings: pings.0 };
    up.check_end();
    down.check_end();
    check_violation(&end, &up, &down);
    check_closes(&end, &up, &down);
    if let Some(record) = end.frames {
        up.check_messages(record.messages_up);
        down.check_messages(record.messages_down);
        let is_closed = up.account.closed.is_some() || down.account.closed.is_some();
        assert!(record.closed_by.is_some() || !is_closed, "somebody has said Close");
    }
    assert_eq!(end.frames.is_some(), world.options.frames.is_some());
}

impl Way<'_> {
    /// The sink has all that was read; of frames, all that may go on.
    fn is_complete(&mut self) -> bool {
        if self.source.tongue.rules.is_none() {
            return self.sink.got.len() == self.source.read;
        }
        let is_part = self.account.is_all_of_a_part(self.source);
        (self.account.is_whole(self.sink) || is_part)
            && self.account.missing(self.source, self.sink, &self.pings).is_none()
    }

    fn check_end(&mut self) {
        let (source, sink, name) = (self.source, self.sink, self.sink.name());
        // Behind a Close, its source's or ours, nothing can be missing.
        let is_told = self.account.closed.is_some();
        let was_shut_before = sink.is_shut && sink.shut_at < source.found_at;
        let is_lost = sink.lost.is_some() || sink.found == Some(Found::Broken);
        let is_broken = is_broken(source);
        if is_broken && !is_lost {
            assert!(sink.is_aborted || is_told || was_shut_before, "{name}: is not told that the other side broke");
        }
        if sink.is_shutting && sink.lost.is_none() && !sink.is_aborted {
            assert!(!is_broken || is_told || was_shut_before, "{name}: a broken end looks like a good one");
            assert_eq!(sink.flushed, sink.got.len(), "{name}: shut before it was flushed");
            if source.tongue.rules.is_none() {
                assert_eq!(sink.got.len(), source.read, "{name}: an end that hides a hole");
            } else {
                let is_part = source.found == Some(Found::Well) && self.account.is_all_of_a_part(source);
                assert!(self.account.is_whole(sink) || is_part, "{name}: an end in the middle of a frame");
            }
            if source.found == Some(Found::Well) && !is_told && !was_shut_before {
                assert!(self.is_complete(), "{name}: an end that came too early");
            }
        }
        let is_stuck = sink.has_refused || sink.is_write_awaited();
        if sink.is_aborted && !is_broken && !source.lost_at_end {
            assert!(!self.is_complete() || !self.account.is_whole(sink) || is_stuck, "{name}: aborted for nothing");
        }
        if !sink.is_shutting && !sink.is_aborted && !is_lost {
            assert!(is_stuck || sink.flushed < sink.got.len(), "{name}: neither shut nor aborted");
        }
    }

    fn check_messages(&self, counted: u64) {
        let seen = self.account.messages;
        let is_all = self.sink.is_shut;
        assert!(counted == seen || counted > seen && !is_all, "{}: {counted} of {seen} messages", self.sink.name());
    }
}

/// Its stream has not come to a good end, and the core knows it.
fn is_broken(source: &Side) -> bool {
    // If it comes to light when all is cut, that was too late for the other side.
    let found_by_writing = source.lost.is_some_and(|kind| !is_mere_end(kind)) && !source.lost_at_end;
    source.found == Some(Found::Broken) || source.found.is_none() && found_by_writing
}

fn is_violation(reason: EndReason) -> Option<bool> {
    match reason {
        EndReason::FrameViolationDownstream | EndReason::MessageTooBigDownstream => Some(true),
        EndReason::FrameViolationUpstream | EndReason::MessageTooBigUpstream => Some(false),
        _ => None,
    }
}

fn close_code(violation: Violation) -> u16 {
    match violation {
        Violation::FrameTooBig | Violation::MessageTooBig => 1009,
        _ => 1002,
    }
}

fn check_violation(end: &TunnelEnd, up: &Way<'_>, down: &Way<'_>) {
    let recorded = end.frames.and_then(|record| record.violation);
    let Some(by_client) = is_violation(end.reason) else { return };
    let (guilty, other) = if by_client { (up, down) } else { (down, up) };
    let said = guilty.source.units.iter().find_map(|unit| match unit.what {
        What::Bad(violation) if unit.start < guilty.source.read => Some(violation),
        _ => None,
    });
    assert_eq!(recorded, said, "the record knows the violation");
    let Some(violation) = said else { panic!("a violation that nobody committed") };
    let is_limit = matches!(end.reason, EndReason::MessageTooBigDownstream | EndReason::MessageTooBigUpstream);
    assert_eq!(close_code(violation) == 1009, is_limit, "{violation:?}");
    let code = Some(Closed::Ours(close_code(violation)));
    let innocent = guilty.sink;
    if innocent.lost.is_none() && !innocent.is_aborted && innocent.found != Some(Found::Broken) && innocent.is_shut {
        assert_eq!(guilty.account.closed, code, "{}: what the innocent hears", innocent.name());
    }
    let offender = guilty.source;
    if offender.lost.is_none() && offender.is_shut && !offender.is_aborted && innocent.found.is_none() {
        assert!(other.account.closed.is_some(), "{}: the offender hears a Close", offender.name());
        let are_both_guilty = innocent.units.iter().any(|unit| matches!(unit.what, What::Bad(_)));
        assert!(
            matches!(other.account.closed, Some(Closed::Theirs)) || other.account.closed == code || are_both_guilty,
            "{}: {:?}",
            offender.name(),
            other.account.closed
        );
    }
}

/// The gateway's Closes have the code of their reason.
fn check_closes(end: &TunnelEnd, up: &Way<'_>, down: &Way<'_>) {
    use EndReason::*;
    for way in [up, down] {
        let Some(Closed::Ours(code)) = way.account.closed else { continue };
        let is_fit = match code {
            1001 => matches!(
                end.reason,
                IdleTimeout
                    | HalfCloseTimeout
                    | MaxLifetime
                    | Drained
                    | DeadPeerDownstream
                    | DeadPeerUpstream
                    | ServerDrained
            ),
            ORDER_CODE => end.reason == ServerDrained,
            // If both sides were at fault, each hears of the other's.
            1002 | 1009 => is_violation(end.reason).is_some(),
            // The server was gone, or was given up; whatever then cut the rest short.
            _ => way.source.found.is_some() || way.source.lost.is_some() || end.reason == DeadPeerUpstream,
        };
        assert!(is_fit, "{}: {code} for {:?}", way.sink.name(), end.reason);
    }
}

fn check_reason(end: &TunnelEnd, world: &World) {
    use EndReason::*;
    let (client, server) = (world.client.borrow(), world.server.borrow());
    let ended = |side: &Side| side.found.is_some() || side.lost.is_some();
    let broken = |side: &Side| side.found == Some(Found::Broken) || side.lost.is_some_and(|kind| !is_mere_end(kind));
    let options = &world.options;
    let duration = end.duration;
    let has_closed = |side: &Side| {
        let is_read = |unit: &Placed| matches!(unit.what, What::Close(_)) && unit.start + unit.length <= side.read;
        ended(side) || side.units.iter().any(is_read)
    };
    let (is_true, least) = match end.reason {
        TunnelClosedDownstream => (has_closed(&client), None),
        TunnelClosedUpstream => (has_closed(&server), None),
        TunnelResetDownstream => (broken(&client), None),
        TunnelResetUpstream => (broken(&server), None),
        IdleTimeout => (true, Some(options.idle_timeout)),
        HalfCloseTimeout => {
            (has_closed(&client) || has_closed(&server), Some(options.half_close_timeout.min(options.idle_timeout)))
        }
        MaxLifetime => (options.max_lifetime.is_some(), options.max_lifetime.map(|age| age * 9 / 10)),
        Drained => (world.drained.is_some(), None),
        ServerDrained => (world.ordered.is_some(), None),
        DeadPeerDownstream => (options.ping_interval.is_some(), options.ping_interval.map(|time| time * 2)),
        DeadPeerUpstream => {
            (options.ping_interval.is_some() && options.ping_upstream, options.ping_interval.map(|time| time * 2))
        }
        reason => (is_violation(reason).is_some(), None),
    };
    let is_obeyed = world.ordered.is_none() || matches!(end.reason, ServerDrained | Drained);
    assert!(is_true && is_obeyed, "{:?} is not what happened", end.reason);
    assert!(least.is_none_or(|least| duration >= least), "{:?} after no more than {duration:?}", end.reason);
}
