//! How the gateway itself ends a tunnel whose frames it follows: a small state machine without IO or clock.
//!
//! A violation: the innocent side is told at once and relayed until it says Close or a second has gone; then the
//! offender is told. Everything else (idle, drained, too old, too fast): both are told at once, and their answers waited for, a
//! second at most. When all is said, both write sides are closed and both sources read to their end, a second at most,
//! so that no reset overtakes a Close. Each state has its deadline; who is in the middle of a frame by then gets no
//! Close but an abnormal end. RFC 6455 7.1.1, 7.1.7.

use std::time::Duration;

use super::Way;
use crate::clock::Instant;

/// How long each step may take.
pub(super) const STEP: Duration = Duration::from_secs(1);

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Closing {
    /// Not begun.
    #[default]
    Open,
    /// The innocent side has been told; what it says still goes on.
    Violated { offender: Way, code: u16, until: Instant },
    /// Closes are on their way; `answers`: those of both sides are waited for.
    Parting { answers: bool, until: Instant },
    /// Everything is said.
    Leaving { until: Instant },
}

/// What there is to see.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub now: Instant,
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
    pub fn deadline(self) -> Option<Instant> {
        match self {
            Self::Open => None,
            Self::Violated { until, .. } | Self::Parting { until, .. } | Self::Leaving { until } => Some(until),
        }
    }

    /// Goes one step on if it can.
    pub fn advance(&mut self, view: View) -> Act {
        let late = self.deadline().is_some_and(|until| view.now >= until);
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
        View { now, up_answered: false, down_answered: false, all_said: true }
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
