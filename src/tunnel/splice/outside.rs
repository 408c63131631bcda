//! A tunnel as those outside of it see it while it runs: how it stands, and how it is told to close.

use std::sync::Arc;

use super::Splice;
use crate::clock;
use crate::transport::Transport;
use crate::tunnel::closing::Closing;
use crate::tunnel::direction::Flow;
use crate::tunnel::frames::Frames;
use crate::tunnel::{CloseOrder, Progress, TunnelState};

impl<D: Transport, U: Transport> Splice<D, U> {
    /// Begins to close it as ordered, unless its end has begun already; says whether it does. The task has to be woken.
    ///
    /// Both sides hear a Close behind the frame that is under way, if that ends in time. Where nobody can hear one (bytes pass
    /// unread, or one side has ended) it is cut in its next turn.
    pub fn obey(&mut self, order: &Arc<CloseOrder>) -> bool {
        if let Some(frames) = &mut self.frames {
            frames.closing.hurry(clock::now(), order.patience);
            self.deadline = None;
        }
        if self.is_ending() || self.closes_passed() == (true, true) {
            return false;
        }
        if let Some(frames) = &mut self.frames {
            frames.take_words(order);
        }
        if !self.part_with(order.end, order.code, order.patience) {
            self.condemned = Some(order.end);
        }
        true
    }

    /// How it stands.
    pub fn progress(&self) -> Progress {
        let now = clock::now();
        let state = match (self.up.flow, self.down.flow) {
            _ if self.is_ending() || self.closes_passed() != (false, false) => TunnelState::Closing,
            (Flow::Open, Flow::Open) => TunnelState::Open,
            _ => TunnelState::HalfClosed,
        };
        Progress {
            state,
            bytes_up: self.up.carried,
            bytes_down: self.down.carried,
            age: now.saturating_duration_since(self.opened),
            idle: now.saturating_duration_since(self.last_activity),
            frames: self.frames.as_deref().map(Frames::record),
        }
    }

    /// Where it waits to be told of the process' phase.
    pub fn place(&self) -> Option<u32> {
        self.stop.place()
    }

    /// The gateway has begun to end it.
    fn is_ending(&self) -> bool {
        let is_closing = self.frames.as_ref().is_some_and(|frames| frames.closing != Closing::Open);
        is_closing || self.condemned.is_some()
    }
}
