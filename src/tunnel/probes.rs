//! Whether the ends of a silent tunnel are still there: pings of the gateway's own, and what their silence means.
//!
//! A side is asked once it has said nothing for an interval; any byte of it is an answer. Who says nothing for another
//! interval is dead. While a ping of the other end is unanswered none of ours goes out, but that one's answer is waited
//! for just as well (see `proto::frame::Pings`). Where no ping fits in, the question waits for another interval.
//! RFC 6455 5.5.2, 5.5.3.

use std::time::Duration;

use super::Way;
use super::random::random;
use crate::clock::{self, Instant};
use crate::proto::frame::{PING_PAYLOAD, Pings, Pong};

/// Both sides'.
#[derive(Debug)]
pub(super) struct Probes {
    interval: Duration,
    opened: Instant,
    client: Probe,
    /// Only where the route asks for it.
    server: Option<Probe>,
    /// Of the last ping that was answered.
    pub round_trip: Option<Duration>,
}

#[derive(Debug)]
struct Probe {
    pings: Pings,
    /// When it is asked, or given up.
    next: Instant,
    /// It has been asked, and has said nothing since.
    is_asked: bool,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// Ask the side at the end of this way.
    Ask(Way),
    /// The side at the end of this way is dead.
    Dead(Way),
}

impl Probes {
    pub fn new(interval: Duration, server: bool, now: Instant) -> Self {
        let probe = || Probe { pings: Pings::default(), next: now + interval, is_asked: false };
        Self { interval, opened: now, client: probe(), server: server.then(probe), round_trip: None }
    }

    /// The one that sits at the end of a way.
    fn at_end_of(&mut self, way: Way) -> Option<&mut Probe> {
        match way {
            Way::Down => Some(&mut self.client),
            Way::Up => self.server.as_mut(),
        }
    }

    pub fn next(&self) -> Instant {
        self.server.as_ref().map_or(self.client.next, |server| server.next.min(self.client.next))
    }

    /// The source of this way has said something.
    pub fn heard(&mut self, way: Way) {
        let next = clock::now() + self.interval;
        if let Some(probe) = self.at_end_of(way.other()) {
            probe.next = next;
            probe.is_asked = false;
        }
    }

    pub fn due(&mut self, now: Instant) -> Due {
        let interval = self.interval;
        for way in [Way::Down, Way::Up] {
            let Some(probe) = self.at_end_of(way) else { continue };
            if now < probe.next {
                continue;
            }
            if probe.is_asked {
                return Due::Dead(way);
            }
            probe.next = now + interval;
            if probe.pings.may_send() {
                return Due::Ask(way);
            }
            // The other end's ping asks for us.
            probe.is_asked = true;
        }
        Due::Nothing
    }

    /// A ping goes out that way now; returns its payload.
    pub fn ask(&mut self, way: Way) -> [u8; PING_PAYLOAD] {
        let (first, now) = (random(), clock::now());
        let (age, next) = (now - self.opened, now + self.interval);
        let Some(probe) = self.at_end_of(way) else { return first };
        probe.next = next;
        probe.is_asked = true;
        probe.pings.send(first, age)
    }

    /// A ping of an end's passes that way.
    pub fn passed(&mut self, way: Way, payload: &[u8]) {
        let age = clock::now() - self.opened;
        if let Some(probe) = self.at_end_of(way) {
            probe.pings.passed(payload, age);
        }
    }

    /// A pong comes that way; whether it answers us, and how long that took.
    pub fn answered(&mut self, way: Way, payload: &[u8]) -> Pong {
        let age = clock::now() - self.opened;
        let Some(probe) = self.at_end_of(way.other()) else { return Pong::Foreign };
        let pong = probe.pings.answered(payload, age);
        if let Pong::Ours(took) = pong {
            self.round_trip = took.or(self.round_trip);
        }
        pong
    }
}
