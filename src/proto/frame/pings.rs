//! Our pings to one end of a tunnel, kept apart from the pings that the other end sends through it.
//!
//! A peer that has several pings to answer may answer only the latest (RFC 6455 5.5.3). A ping of ours behind an
//! unanswered one of the other end would therefore eat its pong, so none goes out then. The other way round nothing is
//! lost: when the other end's ping passes behind ours, its pong speaks for both. Pongs that answer ours stay here.
//!
//! Whether a ping is due is the tunnel's business; times are any monotonic reading, such as the tunnel's age.

use std::time::Duration;

/// Bytes in a ping of ours: a number that counts on from a random one, so that nobody else's payload equals it, and an
/// answer that comes late is still known for one.
pub const PING_PAYLOAD: usize = 8;

/// The pings that one end has to answer.
#[derive(Clone, Debug, Default)]
pub struct Pings {
    /// The number of our latest.
    ours: u64,
    /// How many of ours there have been.
    count: u64,
    /// When the unanswered one of ours went out.
    sent: Option<Duration>,
    /// The latest unanswered ping of the other end: its payload's fingerprint, and when the first of them passed.
    foreign: Option<(u64, Duration)>,
}

/// What a pong means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pong {
    /// The other end's business: goes on.
    Foreign,
    /// Answers ours: goes no further. The time it took, or `None` if that ping was answered before or is not the latest.
    Ours(Option<Duration>),
}

impl Pings {
    /// Whether a ping of ours may go out: not while one of the other end is unanswered. An older one of ours is no
    /// obstacle. The place between two frames is [`super::Tracker::may_inject`]'s to find.
    pub fn may_send(&self) -> bool {
        self.foreign.is_none()
    }

    /// A ping of ours goes out now; returns its payload. The first one's is `random`.
    pub fn send(&mut self, random: [u8; PING_PAYLOAD], now: Duration) -> [u8; PING_PAYLOAD] {
        self.ours = if self.count == 0 { u64::from_be_bytes(random) } else { self.ours.wrapping_add(1) };
        self.count += 1;
        self.sent = Some(now);
        self.ours.to_be_bytes()
    }

    /// A ping of the other end passed.
    pub fn passed(&mut self, payload: &[u8], now: Duration) {
        let since = self.foreign.map_or(now, |(_, since)| since);
        self.foreign = Some((fingerprint(payload), since));
    }

    /// A pong came.
    pub fn answered(&mut self, payload: &[u8], now: Duration) -> Pong {
        // Before the other question: a repeated answer to ours is still none that the other end asked for.
        if let Ok(number) = payload.try_into().map(u64::from_be_bytes) {
            match self.ours.wrapping_sub(number) {
                0 if self.count > 0 => return Pong::Ours(self.sent.take().map(|sent| now.saturating_sub(sent))),
                // To an older one, of a peer that is slow. The latest may still be answered.
                age if age < self.count => return Pong::Ours(None),
                _ => {}
            }
        }
        if self.foreign.is_some_and(|(latest, _)| latest == fingerprint(payload)) {
            self.foreign = None;
            // What is asked later is answered later: no answer to ours is to come.
            self.sent = None;
        }
        Pong::Foreign
    }

    /// Since when some ping, ours or the other end's, waits for its pong.
    pub fn unanswered_since(&self) -> Option<Duration> {
        match (self.sent, self.foreign) {
            (Some(sent), Some((_, since))) => Some(sent.min(since)),
            (sent, foreign) => sent.or(foreign.map(|(_, since)| since)),
        }
    }
}

/// FNV-1a over length and bytes. A collision that somebody constructs only lets a ping of ours out early.
fn fingerprint(payload: &[u8]) -> u64 {
    let start = 0xCBF2_9CE4_8422_2325 ^ payload.len() as u64;
    payload.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}
