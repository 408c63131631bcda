//! How the gateway itself ends a tunnel whose frames it follows: a small state machine without IO or clock.
//!
//! A violation: the innocent side is told at once and relayed until it says Close or a second has gone; then the
//! offender is told. Everything else (idle, drained, too old, too fast): both are told at once, and their answers waited for, a
//! second at most; where there is time (a server that drains), frames that are under way are let through first. When all is said, both write sides are closed and both sources read to their end, a second at most,
//! so that no reset overtakes a Close. Each state has its deadline; who is in the middle of a frame by then gets no
//! Close but an abnormal end. RFC 6455 7.1.1, 7.1.7.

use std::time::Duration;

use super::Way;
use crate::clock::Instant;

/// How long each step may take.
pub(super) const STEP: Duration = Duration::from_secs(1);

/// How long a frame may take that is let through to its end, where there is time for that, and how long nothing of it may
/// move.
pub(super) const FRAME: Duration = Duration::from_secs(30);
const STILL: Duration = Duration::from_secs(3);

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Closing {
    /// Not begun.
    #[default]
    Open,
    /// The innocent side has been told; what it says still goes on.
    Violated { offender: Way, code: u16, until: Instant },
    /// Closes wait for the ends of frames that are under way, as long as those move.
    Placing { until: Instant },
    /// Closes are on their way; `answers`: those of both sides are waited for.
    Parting { answers: bool, until: Instant },
    /// Everything is said.
    Leaving { until: Instant },
}

/// What there is to see.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub now: Instant,
    /// When bytes last moved.
    pub moved: Instant,
    /// That way's sender has said Close, or has ended.
    pub up_answered: bool,
    pub down_answered: bool,
    /// No Close of ours waits, and nothing that is left over.
    pub all_said: bool,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Nothing,
    /// Say Close that way.
    Say {
        way: Way,
        code: u16,
    },
    /// Close both write sides, read both sources to their end.
    Leave,
    /// The deadline has passed.
    Cut,
}

impl Closing {
    /// `moved`: when bytes last did.
    pub fn deadline(self, moved: Instant) -> Option<Instant> {
        match self {
            Self::Open => None,
            Self::Placing { until } => Some(until.min(moved + STILL)),
            Self::Violated { until, .. } | Self::Parting { until, .. } | Self::Leaving { until } => Some(until),
        }
    }

    /// Both sides are to be told within `patience`, and then have a second to answer; frames under way that take longer
    /// are cut.
    pub fn part(now: Instant, patience: Duration) -> Self {
        if patience > STEP {
            return Self::Placing { until: now + patience };
        }
        Self::Parting { answers: true, until: now + STEP }
    }

    /// There is less time for frames that are under way than there was.
    pub fn hurry(&mut self, now: Instant, patience: Duration) {
        if let Self::Placing { until } = self {
            *until = (*until).min(now + patience);
        }
    }

    /// Goes one step on if it can.
    pub fn advance(&mut self, view: View) -> Act {
        let late = self.deadline(view.moved).is_some_and(|until| view.now >= until);
        match *self {
            Self::Open => Act::Nothing,
            Self::Violated { offender, code, .. } => {
                let way = offender.other();
                let answered = if way == Way::Up { view.up_answered } else { view.down_answered };
                if !answered && !late {
                    return Act::Nothing;
                }
                *self = Self::Parting { answers: false, until: view.now + STEP };
                Act::Say { way, code }
            }
            Self::Placing { .. } if view.all_said => {
                *self = Self::Parting { answers: true, until: view.now + STEP };
                self.advance(view)
            }
            Self::Placing { .. } if late => Act::Cut,
            Self::Placing { .. } => Act::Nothing,
            Self::Parting { answers, .. } => {
                if view.all_said && (!answers || view.up_answered && view.down_answered) {
                    *self = Self::Leaving { until: view.now + STEP };
                    return Act::Leave;
                }
                if late { Act::Cut } else { Act::Nothing }
            }
            Self::Leaving { .. } if late => Act::Cut,
            Self::Leaving { .. } => Act::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn view(now: Instant) -> View {
        View { now, moved: now, up_answered: false, down_answered: false, all_said: true }
    }

    #[test]
    fn after_a_violation_the_offender_is_told_when_the_innocent_has_answered_or_a_second_has_gone() {
        let now = clock::now();
        let begun = Closing::Violated { offender: Way::Up, code: 1002, until: now + STEP };
        let mut closing = begun;
        assert_eq!(closing.advance(View { up_answered: true, ..view(now) }), Act::Nothing);
        assert_eq!(closing.advance(View { down_answered: true, ..view(now) }), Act::Say { way: Way::Down, code: 1002 });
        assert_eq!(closing.advance(View { all_said: false, ..view(now) }), Act::Nothing);
        assert_eq!(closing.advance(view(now)), Act::Leave);
        assert_eq!(closing.advance(view(now)), Act::Nothing);
        assert_eq!(closing.advance(view(now + STEP)), Act::Cut);
        let mut closing = begun;
        assert_eq!(closing.advance(view(now + STEP)), Act::Say { way: Way::Down, code: 1002 });
        assert_eq!(closing.advance(View { all_said: false, ..view(now + 2 * STEP) }), Act::Cut);
    }

    #[test]
    fn where_there_is_time_frames_that_are_under_way_are_let_through() {
        let now = clock::now();
        let unsaid = |now| View { all_said: false, ..view(now) };
        let mut closing = Closing::part(now, FRAME);
        assert_eq!((closing.deadline(now), closing.deadline(now + FRAME)), (Some(now + STILL), Some(now + FRAME)));
        assert_eq!(closing.advance(View { moved: now - STILL, ..unsaid(now) }), Act::Cut);
        assert_eq!(closing.advance(unsaid(now + FRAME - STEP)), Act::Nothing);
        assert_eq!(closing.advance(view(now + FRAME - STEP)), Act::Nothing);
        assert_eq!(closing.deadline(now), Some(now + FRAME), "from then on their answers have their second");
        let mut closing = Closing::part(now, FRAME);
        assert_eq!(closing.advance(unsaid(now + FRAME)), Act::Cut);
        let mut closing = Closing::part(now, FRAME);
        assert_eq!(closing.advance(View { up_answered: true, down_answered: true, ..view(now) }), Act::Leave);
        let mut closing = Closing::part(now, FRAME);
        closing.hurry(now + STEP, STEP);
        assert_eq!(closing.deadline(now + FRAME), Some(now + 2 * STEP));
        closing.hurry(now + STEP, FRAME);
        assert_eq!(closing.advance(unsaid(now + 2 * STEP)), Act::Cut);
        assert_eq!(Closing::part(now, STEP), Closing::Parting { answers: true, until: now + STEP });
    }

    #[test]
    fn a_parting_waits_for_both_answers_and_a_second_at_most() {
        let now = clock::now();
        let begun = Closing::Parting { answers: true, until: now + STEP };
        let mut closing = begun;
        assert_eq!(closing.advance(View { up_answered: true, ..view(now) }), Act::Nothing);
        assert_eq!(closing.advance(View { up_answered: true, down_answered: true, ..view(now) }), Act::Leave);
        let mut closing = begun;
        assert_eq!(closing.advance(View { down_answered: true, ..view(now + STEP) }), Act::Cut);
    }
}
