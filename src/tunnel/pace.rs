//! How fast a tunnel's client may send, and what its source may be read of now.
//!
//! Only the client's direction counts: the server is the operator's own. Bytes count as they are read from the wire,
//! headers and control frames too. One message is a message, a Ping or Pong, or a fragment that is not the last and
//! carries less than [`SMALL_FRAGMENT`](crate::proto::frame::SMALL_FRAGMENT) bytes (see `proto::frame`); a Close counts
//! nothing, nor does the answer to a ping of ours.
//!
//! Delay, the default since it takes nothing from a client that means no harm, is backpressure: the source is not read,
//! so that its transport stops the sender, and nothing is held here. Since a frame of the client's has six bytes at
//! least, reading no more than so many bytes brings no more than so many frames. The wheel that ends the wait is coarse;
//! the [`Bucket`] makes good what that loses.

use bytes::Bytes;
use tokio::io::ReadBuf;

use super::bucket::Bucket;
use crate::clock::Instant;
use crate::config::model::{OnExcess, Rates};
use crate::proto::frame::MIN_CLIENT_FRAME;

/// The client's budgets, and whether it waits for them.
#[derive(Debug)]
pub(super) struct Pace {
    bytes: Option<Bucket>,
    messages: Option<Bucket>,
    on_excess: OnExcess,
    /// The source is not read before.
    delayed_until: Option<Instant>,
    /// What was allowed last, if it was the bytes that bounded it.
    granted: u64,
    /// Bytes that came with the handshake and have not been read yet.
    early: Bytes,
    /// More bytes came than may, with [`OnExcess::Close`].
    pub is_exceeded: bool,
}

/// What the next frames need, as their tracker sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ahead {
    /// Payload of data that is due before the next frame begins.
    pub payload: u64,
    /// Bytes behind it without which no frame can count; `None`: frames are not followed.
    pub first: Option<usize>,
}

/// What may be done with the source now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowance {
    /// Read at most so many bytes, one at least.
    Read(usize),
    /// Not before its time has come.
    Wait,
}

impl Pace {
    pub fn new(rates: Rates, early: Bytes, now: Instant) -> Self {
        Self {
            bytes: rates.bytes_per_second.map(|rate| Bucket::new(rate, now)),
            messages: rates.messages_per_second.map(|rate| Bucket::new(u64::from(rate), now)),
            on_excess: rates.on_excess,
            delayed_until: None,
            granted: u64::MAX,
            early,
            is_exceeded: false,
        }
    }

    /// Fills the buffer from what came early; whether there was any.
    pub fn take_early(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let count = self.early.len().min(buffer.remaining());
        buffer.put_slice(&self.early.split_to(count));
        count > 0
    }

    /// Until when the source is not read.
    pub fn delayed_until(&self) -> Option<Instant> {
        self.delayed_until
    }

    /// What comes from now on is thrown away, and so may come as fast as it likes.
    pub fn lift(&mut self) {
        self.delayed_until = None;
    }

    /// How much may be read now.
    pub fn allowance(&mut self, now: Instant, ahead: Ahead) -> Allowance {
        if self.on_excess == OnExcess::Close && !self.is_exceeded {
            return Allowance::Read(usize::MAX);
        }
        if self.delayed_until.is_some_and(|until| now < until) {
            return Allowance::Wait;
        }
        self.delayed_until = None;
        let bytes = self.bytes.as_mut().map_or(u64::MAX, |bucket| bucket.available(now));
        let frames = match (&mut self.messages, ahead.first) {
            (Some(bucket), Some(first)) => match bucket.available(now) {
                0 => 0,
                count => (first as u64).saturating_add((count - 1).saturating_mul(MIN_CLIENT_FRAME as u64)),
            },
            _ => u64::MAX,
        };
        let allowed = bytes.min(frames.saturating_add(ahead.payload));
        self.granted = if bytes == allowed { bytes } else { u64::MAX };
        if allowed > 0 {
            return Allowance::Read(usize::try_from(allowed).unwrap_or(usize::MAX));
        }
        let empty = if bytes == 0 { &self.bytes } else { &self.messages };
        self.delayed_until = empty.as_ref().map(|bucket| bucket.ready_at(bucket.helping()));
        Allowance::Wait
    }

    /// Frames that may still count before one is too many; all of them, where the source is delayed instead.
    pub fn messages_left(&mut self, now: Instant) -> u64 {
        match &mut self.messages {
            Some(bucket) if self.on_excess == OnExcess::Close => bucket.available(now),
            _ => u64::MAX,
        }
    }

    /// Bytes have been read.
    pub fn spend_bytes(&mut self, now: Instant, count: usize) {
        let Some(bucket) = &mut self.bytes else { return };
        let available = bucket.available(now);
        bucket.spend(count as u64);
        if count as u64 >= self.granted {
            // What trickles into the bucket between two reads is not worth a turn.
            self.delayed_until = Some(bucket.ready_at(bucket.helping()));
        }
        self.is_exceeded |= self.on_excess == OnExcess::Close && count as u64 > available;
    }

    /// Frames that count have been read.
    pub fn spend_messages(&mut self, count: u64) {
        if let Some(bucket) = &mut self.messages {
            bucket.spend(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    #[test]
    fn who_has_used_all_that_was_allowed_waits_for_what_is_worth_a_turn() {
        const RATE: usize = 2 << 20;
        let start = clock::now();
        for on_excess in [OnExcess::Delay, OnExcess::Close] {
            let rates = Rates { bytes_per_second: Some(RATE as u64), messages_per_second: None, on_excess };
            let mut pace = Pace::new(rates, Bytes::new(), start);
            pace.is_exceeded = on_excess == OnExcess::Close;
            assert_eq!(pace.allowance(start, Ahead::default()), Allowance::Read(RATE));
            pace.spend_bytes(start, RATE - 1_000);
            assert_eq!(pace.allowance(start, Ahead::default()), Allowance::Read(1_000), "there is something left");
            pace.spend_bytes(start, 1_000);
            // A hundred bytes have trickled in.
            let soon = start + Duration::from_micros(50);
            assert_eq!(pace.allowance(soon, Ahead::default()), Allowance::Wait);
            assert_eq!(pace.delayed_until(), Some(start + Duration::from_millis(125)));
            let then = start + Duration::from_millis(125);
            assert_eq!(pace.allowance(then, Ahead::default()), Allowance::Read(RATE / 8));
        }
    }
}
